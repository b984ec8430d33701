"""Entry point of `quantagent`. Imports little, because an interruption during imports cannot be reported."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

INTERRUPTED = "stopped. What was stored stays; the same command continues from there."
INTERRUPTED_CODE = 130


def main() -> None:
    """Run the console script. SIGTERM ends it like an error: appended events are anchored."""
    try:
        signal.signal(signal.SIGTERM, end)
        from ui.cli.commands import app

        app()
    except KeyboardInterrupt:
        sys.stderr.write(f"{INTERRUPTED}\n")
        raise SystemExit(INTERRUPTED_CODE) from None
    finally:
        # Nothing is left to interrupt.
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
    """Discard further output: the reader of the pipe, like `head`, has closed it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
