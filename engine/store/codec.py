"""Events as bytes, under names that outlive the code's folders.

The stored state is a JSON pair: the event's canonical payload, and its metadata. A name is looked up in the table of
known events; it never imports anything. A former shape is read as today's: name and payload stay the stored ones.
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
    """The identifier under which a stream is stored."""
    return uuid5(STREAMS, stream)


def encode_payload(event: Event) -> bytes:
    """The canonical bytes of an event: what digests and comparisons see."""
    return _encode(event)


def encode_state(payload: bytes, meta: Meta) -> bytes:
    return b"".join((b"[", payload, b",", _encode(meta), b"]"))


def stored_name(event: Event) -> str:
    """The name to append an event under. A former shape has none: it is read and never written."""
    return NAMES[type(event)]


def _reader(shape: type[Event]) -> Callable[[bytes], Event]:
    decode = msgspec.json.Decoder(shape).decode
    return (lambda payload: upcast(decode(payload))) if shape in UPCASTERS else decode


_READERS = {name: _reader(shape) for name, shape in TYPES.items()}


def decode_event(name: str, payload: bytes) -> Event:
    """The fact of a stored name and payload, in today's shape. Raises `ValueError` where there is no such fact."""
    read = _READERS.get(name)
    if read is None:
        raise ValueError(f"there is no event {name!r}")
    return read(payload)


def decode_entry(position: int, version: int, name: str, state: bytes) -> LogEntry:
    """The fact in a stored row, in today's shape, with the name and the payload that are stored.

    Raises `UnknownEvent` for a name or version nobody declared, `DamagedEvent` for other bytes.
    """
    read = _READERS.get(name)
    if read is None:
        raise UnknownEvent(name, position)
    try:
        payload, meta_bytes = _split(state)
        meta = _decode_meta(meta_bytes)
        return LogEntry(position, meta.stream, version, name, read(payload), meta, payload)
    except (msgspec.DecodeError, UnicodeDecodeError, BadInput) as error:
        # `BadInput` is a value's own check: what was stored under older rules may not pass today's.
        raise DamagedEvent(name, position, str(error)) from None


def _split(state: bytes) -> tuple[bytes, bytes]:
    """Payload and metadata of a stored state.

    Cutting is quicker than parsing, and as strict: quotes inside texts are escaped, so that what stands between the
    two is found, and both parts are parsed whole afterwards.
    """
    cut = state.rfind(_SEPARATOR)
    if cut > 0 and state[0] == _OPEN and state[-1] == _CLOSE:
        return state[1:cut], state[cut + 1 : -1]
    payload, meta = _split_any(state)
    return bytes(payload), bytes(meta)


_OPEN, _CLOSE = b"[]"
