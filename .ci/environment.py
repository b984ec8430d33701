"""Install a lock file into `.venv`: `environment.py requirements.lock`. Do nothing if it is installed already.

Runs on any python3, to report a missing requirement instead of failing; hence only the standard library and syntax of
Python 3.7. Of two runs at once the second waits.

The environment has two layers. `requirements.lock` is the runtime; `requirements-dev.lock` adds development tools and
never changes a package of the first layer. A marker file exists while pip changes files: an interrupted runtime layer
is rebuilt from scratch, an interrupted development layer is installed again. A failure before pip changes anything
leaves the environment unchanged.
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
# Builds the project's own package, in a temporary folder, without being installed.
BUILD = "requirements-build.lock"
LAYERS = (RUNTIME, DEVELOPMENT)

# Every lock names all packages and versions, so that pip has nothing to resolve. Older versions of pip require extras
# in a pin ("coverage[toml]") together with hashes.
PIP = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--no-deps"]

SIZES = {
    RUNTIME: "about 260 MB to download, 1.1 GB on disk (half of it are the table libraries pyarrow, polars and "
    "pandas, which the screens and market data need)",
    DEVELOPMENT: "about 160 MB to download, 600 MB on disk (browser driver, type checker, test tools)",
}


def main(lock):
    if lock not in LAYERS:
        stop("lock file {!r} does not exist: give one of {}.".format(lock, ", ".join(LAYERS)))
    with (ROOT / "pyproject.toml").open("r+b") as turn:
        # pip inherits the lock on the open file: it is released when both have ended.
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not is_usable():
            create(turn)
        for layer in LAYERS[: LAYERS.index(lock) + 1]:
            if not is_installed(layer):
                install(layer, turn)


# --- Folder ---


def is_usable():
    """Return True if `.venv` has the requested Python and a complete runtime layer or none."""
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
        import ensurepip  # noqa: F401 - missing from Debian's python3
        import venv  # noqa: F401
    except ImportError:
        stop("this Python cannot create virtual environments: run `apt install python3-venv` (Debian, Ubuntu) first.")


# --- Layers ---


def mark(layer):
    """Return the file that exists while pip changes a layer."""
    return VENV / f"unfinished-{layer}"


def stamp(layer):
    """Return the file that names the pins of a complete layer."""
    return VENV / f"installed-{layer}"


def digest(layer):
    """Return the SHA-256 of the inputs of a layer: pins, the project's metadata, the path of the checkout."""
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
    """Install the checkout itself, with its command and entry points."""
    backend = str(Path(folder, "backend"))
    pip(["--target", backend, "--require-hashes", "-r", BUILD], turn, None, 1)
    pip(["--no-build-isolation", "-e", "."], turn, None, 1, dict(os.environ, PYTHONPATH=backend))


def own_pins(layer):
    """Return the pins of a lock file without those of the layers below it."""
    below = {pin for lower in LAYERS[: LAYERS.index(layer)] for pin in pins_of(lower)}
    return [pin for pin in pins_of(layer) if pin not in below]


def pins_of(lock):
    """Return each pin of a lock file with its hashes, as written."""
    pins = []
    for line in (ROOT / lock).read_text().splitlines(True):
        if line.startswith((" ", "\t")):
            pins[-1] += line
        elif line.strip() and not line.startswith("#"):
            pins.append(line)
    return pins


# --- pip ---


def pip(arguments, turn, layer, total, environment=None):
    """Run `pip install` and show progress. If it fails before it changes files, remove the layer's mark."""
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
    """Progress as one line on a terminal, overwritten; elsewhere as a line every few seconds."""

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
