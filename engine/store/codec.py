"""Events as bytes, under names that outlive the code's folders.

The stored state is a JSON pair: the event's canonical payload, and its metadata. A name is looked up in the table of
known events; it never imports anything.
"""

from __future__ import annotations

from functools import cache
from typing import Any
from uuid import UUID, uuid5

import msgspec

from engine.errors import DamagedEvent, UnknownEvent
from engine.events import NAMES, TYPES, Fact
from engine.store import Meta, Recorded

STREAMS = UUID("6f0a2f6e-3d0c-5c7e-9d56-6b1f4d2f8a10")

_encode = msgspec.json.Encoder().encode
_split = msgspec.json.Decoder(tuple[msgspec.Raw, msgspec.Raw]).decode
_decode_meta = msgspec.json.Decoder(Meta).decode


def stream_id(stream: str) -> UUID:
    """The identifier under which a stream is stored."""
    return uuid5(STREAMS, stream)


def payload_of(event: Fact) -> bytes:
    """The canonical bytes of an event: what digests and comparisons see."""
    return _encode(event)


def state_of(payload: bytes, meta: Meta) -> bytes:
    return b"".join((b"[", payload, b",", _encode(meta), b"]"))


def name_of(event: Fact) -> str:
    return NAMES[type(event)]


@cache
def _decoder(name: str) -> msgspec.json.Decoder[Any] | None:
    kind = TYPES.get(name)
    return None if kind is None else msgspec.json.Decoder(kind)


def recorded(position: int, version: int, name: str, state: bytes) -> Recorded:
    """The fact in a stored row. Raises `UnknownEvent` for a name nobody declared, `DamagedEvent` for other bytes."""
    decoder = _decoder(name)
    if decoder is None:
        raise UnknownEvent(name, position)
    try:
        payload, meta_bytes = _split(state)
        meta = _decode_meta(meta_bytes)
        return Recorded(position, meta.stream, version, name, decoder.decode(payload), meta, bytes(payload))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamagedEvent(name, position, str(error)) from None
