"""Makes `.venv` fit a lock file: `environment.py requirements.lock`. Does nothing when it already does.

Runs under whatever python3 a machine has, so that an old one is told what is missing instead of failing; hence only
the standard library, and no syntax younger than Python 3.7. Of two that run at once the second waits. While `.venv`
is being changed it holds a mark: whoever finds the mark begins anew, because what an interrupted installation has
left behind cannot be told from what it has finished.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
UNFINISHED = VENV / "unfinished"
OLDEST = (3, 11)

# The development lock pins everything that the other one does, and more.
COVERS = {
    "requirements.lock": ["requirements.lock"],
    "requirements-dev.lock": ["requirements.lock", "requirements-dev.lock"],
}


def main(lock):
    if lock not in COVERS:
        stop(f"there is no lock file {lock!r}: give one of {', '.join(COVERS)}.")
    with (ROOT / "pyproject.toml").open("r+b") as turn:
        # The lock is on the open file, and pip inherits that: it is free when both are done, however they end.
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not usable():
            create(turn)
        if not fits(lock):
            install(lock, turn)


def usable():
    """Whether there is a finished `.venv` whose Python runs and is the one asked for."""
    if UNFINISHED.exists() or not PYTHON.exists():
        return False
    asked = os.environ.get("PYTHON")
    version = version_of(str(PYTHON))
    return version >= OLDEST and (not asked or version == sys.version_info[:2])


def version_of(python):
    command = [python, "-c", "import pip, sys; print(*sys.version_info[:2])"]
    answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return tuple(map(int, answer.stdout.split()))


def create(turn):
    check_interpreter()
    say("creating .venv with Python {}.{}.{}".format(*sys.version_info))
    if VENV.is_symlink():
        VENV.unlink()
    elif VENV.exists():
        shutil.rmtree(VENV)
    VENV.mkdir()
    UNFINISHED.touch()
    run([sys.executable, "-m", "venv", str(VENV)], turn)
    UNFINISHED.unlink()


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


def stamp(lock):
    return VENV / f"installed-{lock}"


def digest(lock):
    """What an installation depends on: the pins, the project's own metadata, and where the checkout lies."""
    parts = [(ROOT / lock).read_bytes(), (ROOT / "pyproject.toml").read_bytes(), os.fsencode(str(ROOT))]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def fits(lock):
    return stamp(lock).exists() and stamp(lock).read_text() == digest(lock)


def install(lock, turn):
    say(f"installing {lock} into .venv")
    for known in COVERS:
        if stamp(known).exists():
            stamp(known).unlink()
    UNFINISHED.touch()
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, "--require-hashes", "-r", lock], turn)
    run([*pip, "--no-deps", "--no-build-isolation", "-e", "."], turn)
    for covered in COVERS[lock]:
        stamp(covered).write_text(digest(covered))
    UNFINISHED.unlink()


def run(command, turn):
    code = subprocess.run(command, cwd=str(ROOT), stdin=subprocess.DEVNULL, pass_fds=[turn.fileno()]).returncode
    if code != 0:
        stop("`{}` failed: see the lines above.".format(" ".join(command)))


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
