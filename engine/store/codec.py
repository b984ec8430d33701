"""Encoding of events as bytes, under names that are independent of module paths.

The stored state is a JSON pair: the canonical payload of the event, and its metadata. Names are looked up in the table
of known events; no name leads to an import. Older versions of an event are upcast on reading; the log entry keeps the
stored name and payload.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from uuid import UUID, uuid5

import msgspec

from engine.core.errors import BadInput, DamagedEvent, UnknownEvent
from engine.core.events import Event
from engine.core.upcasters import NAMES, TYPES, UPCASTERS, upcast
from engine.store import LogEntry, Meta

STREAMS = UUID("6f0a2f6e-3d0c-5c7e-9d56-6b1f4d2f8a10")

_encode = msgspec.json.Encoder().encode
_split_any = msgspec.json.Decoder(tuple[msgspec.Raw, msgspec.Raw]).decode
_SEPARATOR = b',{"stream":'

# All events of one append have the same metadata.
_decode_meta = lru_cache(maxsize=64)(msgspec.json.Decoder(Meta).decode)


def stream_id(stream: str) -> UUID:
    """Return the identifier under which a stream is stored."""
    return uuid5(STREAMS, stream)


def encode_payload(event: Event) -> bytes:
    """Return the canonical bytes of an event, the input of digests and comparisons."""
    return _encode(event)


def encode_state(payload: bytes, meta: Meta) -> bytes:
    return b"".join((b"[", payload, b",", _encode(meta), b"]"))


def stored_name(event: Event) -> str:
    """Return the name under which an event is appended. Older versions have none: they are only read."""
    return NAMES[type(event)]


def _reader(shape: type[Event]) -> Callable[[bytes], Event]:
    decode = msgspec.json.Decoder(shape).decode
    return (lambda payload: upcast(decode(payload))) if shape in UPCASTERS else decode


_READERS = {name: _reader(shape) for name, shape in TYPES.items()}


def decode_event(name: str, payload: bytes) -> Event:
    """Return the event of a stored name and payload, in its current version.

    Raise `ValueError` for an unknown name.
    """
    read = _READERS.get(name)
    if read is None:
        raise ValueError(f"event {name!r} is unknown")
    return read(payload)


def decode_entry(position: int, version: int, name: str, state: bytes) -> LogEntry:
    """Return the log entry of a stored row: the event in its current version, the name and payload as stored.

    Raise `UnknownEvent` for an unknown name or version, `DamagedEvent` for bytes that cannot be decoded.
    """
    read = _READERS.get(name)
    if read is None:
        raise UnknownEvent(name, position)
    try:
        payload, meta_bytes = _split(state)
        meta = _decode_meta(meta_bytes)
        return LogEntry(position, meta.stream, version, name, read(payload), meta, payload)
    except (msgspec.DecodeError, UnicodeDecodeError, BadInput) as error:
        # Values raise `BadInput` when they are checked: a value stored under older rules may fail the present ones.
        raise DamagedEvent(name, position, str(error)) from None


def _split(state: bytes) -> tuple[bytes, bytes]:
    """Return payload and metadata of a stored state.

    Splitting at the separator is faster than parsing and as strict: quotes inside texts are escaped, so the separator
    cannot occur in one, and both parts are parsed afterwards.
    """
    cut = state.rfind(_SEPARATOR)
    if cut > 0 and state[0] == _OPEN and state[-1] == _CLOSE:
        return state[1:cut], state[cut + 1 : -1]
    payload, meta = _split_any(state)
    return bytes(payload), bytes(meta)


_OPEN, _CLOSE = b"[]"
