"""`quantagent`: the way in to every command. Light on purpose: what is imported here cannot be interrupted in words."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

INTERRUPTED = "stopped. What was stored stays; the same command continues from there."
INTERRUPTED_CODE = 130


def main() -> None:
    """The console script. Told to end, it ends as after an error: what was appended is anchored."""
    try:
        signal.signal(signal.SIGTERM, end)
        from ui.cli.commands import app

        app()
    except KeyboardInterrupt:
        sys.stderr.write(f"{INTERRUPTED}\n")
        raise SystemExit(INTERRUPTED_CODE) from None
    finally:
        # From here on there is nothing left to stop, and nobody left to say so.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _flush()


def end(number: int, frame: FrameType | None) -> None:
    del frame
    raise SystemExit(128 + number)


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        stop_writing()


def stop_writing() -> None:
    """Sends to nowhere what is still to be written: the reader of our output, like `head`, has read enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
