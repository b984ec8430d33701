"""Notices when code that should only compute asks for the time, for chance, for a file or for the network.

Seen are Python's own built-in functions, as the interpreter calls them; what a library does inside its compiled code
is not seen.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from datetime import date
from io import IOBase
from socket import socket
from types import FrameType

_READS_CLOCK = frozenset(
    ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "localtime", "gmtime")
)
_READS_FILES = frozenset(("open", "open_code", "read", "listdir", "scandir", "stat"))


def impure_calls(function: Callable[[], object]) -> list[str]:
    """What an act asks for beyond its arguments, in words, in order; empty when it only computes."""
    calls: list[str] = []

    def watch(frame: FrameType, event: str, called: object) -> None:
        del frame
        if event == "c_call" and (source := _impure_source(called)):
            calls.append(f"{source} ({getattr(called, '__qualname__', called)})")

    before, collecting = sys.getprofile(), gc.isenabled()
    # A collection in between would call other people's finalisers, and they may ask for what they like.
    gc.disable()
    sys.setprofile(watch)
    try:
        function()
    finally:
        sys.setprofile(before)
        if collecting:
            gc.enable()
    return calls


def _impure_source(called: object) -> str:
    owner, module, name = (getattr(called, each, None) for each in ("__self__", "__module__", "__name__"))
    if module == "time" and name in _READS_CLOCK:
        return "the time"
    if name in ("now", "today", "utcnow") and isinstance(owner, type) and issubclass(owner, date):
        return "the time"
    # The generator that `random.random()` and its like share; one with a seed of its own is no chance.
    if name == "urandom" or (owner is not None and owner is getattr(sys.modules.get("random"), "_inst", None)):
        return "chance"
    if module in ("_socket", "_sqlite3") or isinstance(owner, socket):
        return "the network or a database"
    if module in ("io", "_io", "posix", "nt") and name in _READS_FILES:
        return "a file"
    return "a file" if isinstance(owner, IOBase) and str(name).startswith("read") else ""
