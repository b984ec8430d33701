"""Install a lock file into `.venv`: `environment.py requirements.lock`. Does nothing when it is installed already.

Runs under any python3, so that an old one is told what is missing instead of failing; hence only the standard library
and no syntax younger than Python 3.7. Of two that run at once the second waits.

The environment has two layers. `requirements.lock` is what the program runs with; `requirements-dev.lock` adds the
tools of development and never changes a package of the first layer. While pip changes files a mark says so: a runtime
layer that was cut off is built from scratch, a development layer that was cut off is written over itself. An
installation that fails before pip changes anything leaves the environment as it was.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
OLDEST = (3, 11)

RUNTIME = "requirements.lock"
DEVELOPMENT = "requirements-dev.lock"
# What builds the project's own package. It is used from a temporary folder and not installed.
BUILD = "requirements-build.lock"
LAYERS = (RUNTIME, DEVELOPMENT)

# Every lock names all packages and versions, so pip has nothing to resolve: older ones refuse a pin without its
# extras ("coverage[toml]") where hashes are required.
PIP = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--no-deps"]

SIZES = {
    RUNTIME: "about 260 MB to download, 1.1 GB on disk (half of it are the table libraries pyarrow, polars and "
    "pandas, which the screens and market data need)",
    DEVELOPMENT: "about 160 MB to download, 600 MB on disk (browser driver, type checker, test tools)",
}


def main(lock):
    if lock not in LAYERS:
        stop("there is no lock file {!r}: give one of {}.".format(lock, ", ".join(LAYERS)))
    with (ROOT / "pyproject.toml").open("r+b") as turn:
        # The lock is on the open file, and pip inherits that: it is free when both are done, however they end.
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not is_usable():
            create(turn)
        for layer in LAYERS[: LAYERS.index(lock) + 1]:
            if not is_installed(layer):
                install(layer, turn)


# --- The folder ---------------------------------------------------------------------------------------------------


def is_usable():
    """Return whether `.venv` has a complete runtime layer or none yet, and the Python that was asked for."""
    if mark(RUNTIME).exists() or not PYTHON.exists():
        return False
    requested = os.environ.get("PYTHON")
    version = version_of(str(PYTHON))
    return version >= OLDEST and (not requested or version == sys.version_info[:2])


def version_of(python):
    command = [python, "-c", "import pip, sys; print(*sys.version_info[:2])"]
    printed = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return tuple(map(int, printed.stdout.split()))


def create(turn):
    check_interpreter()
    say("creating .venv with Python {}.{}.{}".format(*sys.version_info))
    if VENV.is_symlink():
        VENV.unlink()
    elif VENV.exists():
        shutil.rmtree(str(VENV))
    VENV.mkdir()
    mark(RUNTIME).touch()
    command = [sys.executable, "-m", "venv", str(VENV)]
    if subprocess.run(command, stdin=subprocess.DEVNULL, pass_fds=[turn.fileno()]).returncode != 0:
        stop("`{}` failed: see the lines above.".format(" ".join(command)))
    mark(RUNTIME).unlink()


def check_interpreter():
    if sys.version_info[:2] < OLDEST:
        stop(
            "quantagent needs Python 3.11 or newer and {} is {}.{}: install a newer one and name it, for instance "
            "`PYTHON=python3.12 make demo`.".format(sys.executable, *sys.version_info)
        )
    try:
        import ensurepip  # noqa: F401 - Debian's python3 comes without it
        import venv  # noqa: F401
    except ImportError:
        stop("this Python cannot create virtual environments: run `apt install python3-venv` (Debian, Ubuntu) first.")


# --- Layers -------------------------------------------------------------------------------------------------------


def mark(layer):
    """The file that exists while pip changes a layer."""
    return VENV / f"unfinished-{layer}"


def stamp(layer):
    """The file that names what a complete layer was installed from."""
    return VENV / f"installed-{layer}"


def digest(layer):
    """SHA-256 of what a layer depends on: its pins, the project's own metadata, and where the checkout is."""
    parts = [(ROOT / layer).read_bytes(), (ROOT / "pyproject.toml").read_bytes(), os.fsencode(str(ROOT))]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def is_installed(layer):
    return stamp(layer).exists() and stamp(layer).read_text() == digest(layer)


def install(layer, turn):
    pins = own_pins(layer)
    say(f"installing {len(pins)} packages of {layer} into .venv: {SIZES[layer]}")
    again = ["--ignore-installed"] if mark(layer).exists() else []
    if stamp(layer).exists():
        stamp(layer).unlink()
    mark(layer).touch()
    with tempfile.TemporaryDirectory(prefix="quantagent-") as folder:
        requirements = Path(folder, layer)
        requirements.write_text("".join(pins))
        pip([*again, "--require-hashes", "-r", str(requirements)], turn, layer, len(pins))
        if layer == RUNTIME:
            install_project(folder, turn)
    stamp(layer).write_text(digest(layer))
    mark(layer).unlink()


def install_project(folder, turn):
    """Make the checkout itself importable, with its command and its entry points."""
    backend = str(Path(folder, "backend"))
    pip(["--target", backend, "--require-hashes", "-r", BUILD], turn, None, 1)
    pip(["--no-build-isolation", "-e", "."], turn, None, 1, dict(os.environ, PYTHONPATH=backend))


def own_pins(layer):
    """The pins of a lock file without those of the layers below it."""
    below = {pin for lower in LAYERS[: LAYERS.index(layer)] for pin in pins_of(lower)}
    return [pin for pin in pins_of(layer) if pin not in below]


def pins_of(lock):
    """Each pin of a lock file with its hashes, as written."""
    pins = []
    for line in (ROOT / lock).read_text().splitlines(True):
        if line.startswith((" ", "\t")):
            pins[-1] += line
        elif line.strip() and not line.startswith("#"):
            pins.append(line)
    return pins


# --- pip ----------------------------------------------------------------------------------------------------------


def pip(arguments, turn, layer, total, environment=None):
    """Run `pip install`, showing how far it is. When it fails before it changes files, the layer's mark is removed."""
    command = [*PIP, "--progress-bar", "off", *arguments]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "pass_fds": [turn.fileno()], "env": environment}
    with subprocess.Popen(command, cwd=str(ROOT), universal_newlines=True, **pipes) as process:
        progress, changing, output = Progress(total), False, []
        for line in process.stdout:
            output.append(line)
            if line.startswith(("Collecting ", "Requirement already satisfied", "Ignoring ")):
                progress.step(line.split()[1].split("==")[0].rstrip(":"))
            elif line.startswith("Installing collected packages"):
                changing = True
                progress.say("unpacking {} packages".format(line.count(",") + 1))
        progress.end()
    if process.returncode != 0:
        if layer is not None and not changing:
            mark(layer).unlink()
        sys.stderr.write("".join(output[-20:]))
        stop("`{}` failed: see the lines above.".format(" ".join(command)))


class Progress:
    """One line on a terminal that is written over; elsewhere a line every few seconds."""

    EVERY_S = 5

    def __init__(self, total):
        self.total, self.done, self.shown_at = total, 0, time.time()
        self.on_terminal = sys.stderr.isatty()

    def step(self, name):
        self.done += 1
        if self.on_terminal:
            sys.stderr.write(f"\r\033[K  {self.done} of {self.total}  {name}")
            sys.stderr.flush()
        elif time.time() - self.shown_at >= self.EVERY_S:
            self.say(f"{self.done} of {self.total} packages")

    def say(self, text):
        self.end()
        if self.total > 1:
            say("  " + text)
        self.shown_at = time.time()

    def end(self):
        if self.on_terminal:
            sys.stderr.write("\r\033[K")


def say(text):
    print(text, file=sys.stderr, flush=True)


def stop(text):
    say(text)
    sys.exit(2)


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "")
    except KeyboardInterrupt:
        sys.exit(130)
