"""Detection of calls to the clock, random numbers, files and network in code that should only compute.

It covers the interpreter's calls of built-in functions, not calls inside the compiled code of a library.
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
    """Call a function and return descriptions of its impure calls, in order; empty if it only computes."""
    calls: list[str] = []

    def watch(frame: FrameType, event: str, called: object) -> None:
        del frame
        if event == "c_call" and (source := _impure_source(called)):
            calls.append(f"{source} ({getattr(called, '__qualname__', called)})")

    before, collecting = sys.getprofile(), gc.isenabled()
    # A garbage collection would run finalizers of unrelated objects, which may be impure.
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
    # The generator shared by the functions of `random`; a seeded generator of its own is deterministic.
    if name == "urandom" or (owner is not None and owner is getattr(sys.modules.get("random"), "_inst", None)):
        return "chance"
    if module in ("_socket", "_sqlite3") or isinstance(owner, socket):
        return "the network or a database"
    if module in ("io", "_io", "posix", "nt") and name in _READS_FILES:
        return "a file"
    return "a file" if isinstance(owner, IOBase) and str(name).startswith("read") else ""
