#!/usr/bin/env python3
"""Verifier of an exported quantagent log. Needs only this file, the export's folder, and Python 3.8 or newer.

    python3 verify.py [FOLDER] [--public-key KEY] [--anchor FILE]

The program shares no code with the one that wrote the export. It checks that

1. every file is the one in the manifest (SHA-256);
2. every event matches its seal, and every seal continues the previous one (a chain of SHA-256);
3. every anchor is signed (Ed25519, RFC 8032) and matches its seal; a change of keys is signed by both.

Pass --public-key the key that you were given, and --anchor your own copy of the anchors, if you have them: the contents
of the export alone only show that its parts are consistent. Likewise, use a copy of this program that you trust.
The chain is in the .jsonl files; events.parquet is a copy for data tools, of which only the SHA-256 is checked.

Exit code 0: everything holds. 3: a check failed, named on standard output. 2: this is not an export.

A seal's hash is SHA-256 over b"quantagent seal 2\\n", the previous seal's hash, four 8-byte integers (its number, first
position, last position, number of events), `sealed_at` and `sealed_by` (the server's time and login), each after its
4-byte length, and the SHA-256 of every event: of a 2-byte count of fields (5), and each field after its 4-byte length:
stream id (16 bytes), version (8), name, state, position (8). All integers are big-endian. The first seal continues
SHA-256(b"quantagent log <log id>\\n"). `checks` has the first 4 bytes of each event's SHA-256, to find a changed event.
Seals of the first format have no time and login: their hash is SHA-256 over b"quantagent seal 1\\n", the previous hash,
the four integers and the events themselves, and `checks` has a CRC-32 of each. None follows one of the second format.
A state that is not UTF-8, and so cannot have been written by the program, is given in `state_hex`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import struct
import sys
import uuid
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Fields = dict[str, Callable[[Any], Any]]

FORMAT = "quantagent export 2"
FORMATS = ("quantagent export 1", FORMAT)
CHAIN = ("events.jsonl", "seals.jsonl", "anchors.jsonl")


class NotAnExport(Exception):
    """The input cannot be read as an export; the message has the file and the defect."""


class Refuted(Exception):
    """A check failed; the message has the place and the defect."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--public-key", metavar="KEY", help="64 hexadecimal digits, or the file that holds them")
    parser.add_argument("--anchor", metavar="FILE", type=Path, help="anchors of this log that you kept yourself")
    given = parser.parse_args(arguments)
    try:
        for line in verify_export(given.folder, read_key(given.public_key) if given.public_key else None, given.anchor):
            print(line)
    except NotAnExport as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Refuted as error:
        print(f"REFUTED: {error}.")
        return 3
    print("Everything holds.")
    return 0


def read_key(text: str) -> bytes:
    try:
        key = bytes.fromhex(text if len(text) == 64 else Path(text).read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise NotAnExport(f"--public-key {text} is not a key ({error}): use 64 hexadecimal digits or a file.") from None
    if len(key) != 32:
        raise NotAnExport(f"--public-key {text} has {len(key)} bytes and must have 32.")
    return key


def verify_export(folder: Path, trusted_key: bytes | None = None, own_anchors: Path | None = None) -> Iterator[str]:
    """Yield a line for every check that holds. Raise `Refuted` for the first that fails."""
    manifest = read_manifest(folder / "manifest.json")
    log, names = manifest["log"], [*manifest["parents"], (manifest["log"], 2**63)]
    check_files(folder, manifest["files"])
    yield f"{len(manifest['files'])} files are those of the manifest."
    files = [folder / "anchors.jsonl"] + ([own_anchors] if own_anchors else [])
    anchors = [anchor for file in files for anchor in read_lines(file, ANCHOR, ROTATION)]
    anchors.sort(key=lambda anchor: anchor["seal"])
    for anchor in anchors:
        check_signature(anchor, log, names)
    check_keys(anchors, trusted_key or manifest["public_key"])
    last, count, adopted = check_chain(folder, names[0][0], anchors)
    if adopted != [(name.bytes, names[n][0].bytes) for n, (name, _) in enumerate(names[1:])]:
        raise Refuted(f"the log was renamed: its events do not name it {log}")
    if (last.number, count, last.hash) != (manifest["seals"], manifest["events"], manifest["head"]):
        raise Refuted(
            f"the manifest does not match the chain: it lists {manifest['events']} events under "
            f"{manifest['seals']} seals"
        )
    yield f"{count} events under {last.number} seals: every link holds."
    if anchors:
        whose = "the key you passed" if trusted_key else "the export's own key, which proves less"
        position = max(anchor["position"] for anchor in anchors)
        yield f"Anchors: {len(anchors)}, signed with {whose}; they vouch for everything up to position {position}."
        if position < last.last_position:
            yield f"No anchor vouches for the events after it, up to position {last.last_position}."
    elif trusted_key:
        raise Refuted("there is no anchor, so nothing is signed with the key you passed")
    else:
        yield "There is no anchor: an administrator of the database could have rewritten the whole chain."


# --- Files --------------------------------------------------------------------------------------------------------


def number(value: Any) -> int:
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise ValueError(f"{str(value)[:40]!r} is not an integer of 8 bytes")
    return value


def text(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:40]!r} is not a text")
    return value.encode()


def hexadecimal(value: Any) -> bytes:
    if not isinstance(value, str) or bytes.fromhex(value).hex() != value:
        raise ValueError(f"{str(value)[:40]!r} is not hexadecimal")
    return bytes.fromhex(value)


def identifier(value: Any) -> uuid.UUID:
    if not isinstance(value, str) or str(uuid.UUID(value)) != value:
        raise ValueError(f"{str(value)[:40]!r} is not an identifier")
    return uuid.UUID(value)


def digests(value: Any) -> dict[str, bytes]:
    if not isinstance(value, dict):
        raise ValueError("files is not a table of names and digests")
    found = {name: hexadecimal(digest) for name, digest in cast("dict[str, Any]", value).items()}
    missing = [name for name in CHAIN if name not in found]
    if missing:
        raise ValueError(f"{missing[0]} is not among its files")
    return found


def parents(value: Any) -> list[tuple[uuid.UUID, int]]:
    if not isinstance(value, list):
        raise ValueError("parents is not a list")
    try:
        return [(identifier(log), number(seal)) for log, seal in cast("list[list[Any]]", value)]
    except TypeError:
        raise ValueError("a parent is not a pair of a log and a seal") from None


EVENT: Fields = {"position": number, "stream_id": identifier, "version": number, "name": text, "state": text}
DAMAGED_EVENT: Fields = {**EVENT, "state_hex": hexadecimal}
SEAL: Fields = {
    "seal": number,
    "first_position": number,
    "last_position": number,
    "events": number,
    "previous": hexadecimal,
    "hash": hexadecimal,
    "checks": hexadecimal,
}
TIMED_SEAL: Fields = {**SEAL, "sealed_at": text, "sealed_by": text}
ANCHOR: Fields = {
    "log": identifier,
    "seal": number,
    "position": number,
    "hash": hexadecimal,
    "at": text,
    "key": hexadecimal,
    "signature": hexadecimal,
}
ROTATION: Fields = {**ANCHOR, "successor": hexadecimal, "countersignature": hexadecimal}
FIRST_MANIFEST: Fields = {
    "format": text,
    "log": identifier,
    "engine": text,
    "made_at": text,
    "events": number,
    "seals": number,
    "head": hexadecimal,
    "public_key": hexadecimal,
    "files": digests,
}
MANIFEST: Fields = {**FIRST_MANIFEST, "parents": parents}


def read_manifest(path: Path) -> dict[str, Any]:
    try:
        found = json_object(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise NotAnExport(f"{path} cannot be read: {error}. Name the folder of an export.") from None
    if found.get("format") not in FORMATS:
        raise NotAnExport(f"{path} is not the manifest of a {' or '.join(FORMATS)}. Name the folder of an export.")
    try:
        if found["format"] == FORMATS[0]:
            return {**read_fields(found, FIRST_MANIFEST), "parents": []}
        return read_fields(found, MANIFEST)
    except ValueError as error:
        raise NotAnExport(f"{path} is damaged: {error}. Request the export again.") from None


def check_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, digest in sorted(files.items()):
        path = folder / name
        if "/" in name or "\\" in name or not path.is_file():
            raise Refuted(f"{name}, which the manifest lists, is missing")
        found = hashlib.sha256()
        with path.open("rb") as file:
            for piece in iter(lambda: file.read(1 << 20), b""):
                found.update(piece)
        if found.digest() != digest:
            raise Refuted(f"{name} is not the file in the manifest: its SHA-256 is {found.hexdigest()}")


def read_lines(path: Path, fields: Fields, alternative: Fields | None = None) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file, one per line; each has exactly `fields`, or exactly those of `alternative`."""
    line = 0
    try:
        with path.open("rb") as file:
            for line, content in enumerate(file, 1):  # noqa: B007 - the message below says where it stopped
                found = json_object(content)
                yield read_fields(found, alternative if alternative and len(found) == len(alternative) else fields)
    except (ValueError, RecursionError) as error:
        raise NotAnExport(f"line {line} of {path} cannot be read: {error}.") from None
    except OSError as error:
        raise NotAnExport(f"{path} cannot be read: {error.strerror}.") from None


def json_object(content: bytes) -> dict[str, Any]:
    def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name occurs twice in one object")
        return found

    found = json.loads(content.decode("utf-8"), object_pairs_hook=without_repeats)
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    return cast("dict[str, Any]", found)


def read_fields(found: dict[str, Any], fields: Fields) -> dict[str, Any]:
    if set(found) != set(fields):
        raise ValueError(f"its fields are {', '.join(sorted(found))[:200]} and should be {', '.join(sorted(fields))}")
    return {name: read(found[name]) for name, read in fields.items()}


# --- The chain ----------------------------------------------------------------------------------------------------


class Seal(NamedTuple):
    number: int
    last_position: int
    hash: bytes
    sealed_at: bytes = b""


class Events:
    """The events of a file in order of position, with a lookahead of one."""

    def __init__(self, path: Path) -> None:
        self.lines = read_lines(path, EVENT, DAMAGED_EVENT)
        self.ahead = next(self.lines, None)
        self.adopted: list[tuple[bytes, bytes]] = []

    def until(self, position: int) -> Iterator[dict[str, Any]]:
        while self.ahead is not None and self.ahead["position"] <= position:
            event, self.ahead = self.ahead, next(self.lines, None)
            if "state_hex" in event and (event["state"] or is_text(event["state_hex"])):
                raise Refuted(f"the event at position {event['position']} shows another state than the one sealed")
            if self.ahead is not None and self.ahead["position"] <= event["position"]:
                raise Refuted(f"position {self.ahead['position']} does not follow position {event['position']}")
            if event["name"].startswith(b"LogAdopted."):
                self.adopted.append(adoption(event))
            yield event


def adoption(event: dict[str, Any]) -> tuple[bytes, bytes]:
    """Return the log and its parent named by a LogAdopted event."""
    try:
        payload = json.loads(event["state"])[0]
        return uuid.UUID(payload["log_id"]).bytes, uuid.UUID(payload["parent"]).bytes
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise Refuted(f"the event at position {event['position']} does not name a log and its parent") from None


def check_chain(
    folder: Path, log: uuid.UUID, anchors: list[dict[str, Any]]
) -> tuple[Seal, int, list[tuple[bytes, bytes]]]:
    """Check events and seals in parallel.

    Return the last seal, the number of events, and the names that the log was adopted under, each with its parent.
    """
    last, count = Seal(0, 0, genesis(log)), 0
    events, waiting = Events(folder / "events.jsonl"), anchors[::-1]
    for seal in read_lines(folder / "seals.jsonl", SEAL, TIMED_SEAL):
        check_place(seal, last)
        check_content(seal, events)
        while waiting and waiting[-1]["seal"] == seal["seal"]:
            check_anchored(seal, waiting.pop())
        last = Seal(seal["seal"], seal["last_position"], seal["hash"], seal.get("sealed_at", b""))
        count += seal["events"]
    if events.ahead is not None:
        raise Refuted(f"the event at position {events.ahead['position']} has no seal: it was not written by an append")
    if waiting:
        at, cut = waiting[-1]["at"].decode(), waiting[-1]["seal"]
        raise Refuted(f"the log ends at seal {last.number}, but seal {cut} was anchored at {at}: its tail was cut off")
    return last, count, events.adopted


def genesis(log: uuid.UUID) -> bytes:
    return hashlib.sha256(f"quantagent log {log}\n".encode()).digest()


def check_place(seal: dict[str, Any], last: Seal) -> None:
    if seal["seal"] != last.number + 1:
        raise Refuted(f"seal {last.number + 1} is missing, after position {last.last_position}")
    if seal["previous"] != last.hash:
        raise Refuted(f"{describe_seal(seal)} does not continue the previous one: one of them was replaced")
    if not last.last_position < seal["first_position"] <= seal["last_position"]:
        raise Refuted(f"{describe_seal(seal)} does not follow position {last.last_position}")
    if last.sealed_at and "sealed_at" not in seal:
        raise Refuted(f"{describe_seal(seal)} has no time, though the previous one has one: it was replaced")


def check_content(seal: dict[str, Any], events: Events) -> None:
    """Check the hash over all events up to the seal's last position; report the first event that was changed."""
    numbers = (seal["seal"], seal["first_position"], seal["last_position"], seal["events"])
    timed = "sealed_at" in seal
    found = hashlib.sha256(b"quantagent seal 2\n" if timed else b"quantagent seal 1\n")
    found.update(seal["previous"] + struct.pack(">qqqq", *numbers))
    for name in ("sealed_at", "sealed_by") if timed else ():
        found.update(struct.pack(">i", len(seal[name])) + seal[name])
    count, changed = 0, None
    for event in events.until(seal["last_position"]):
        row = row_bytes(event)
        hashed = hashlib.sha256(row).digest() if timed else row
        found.update(hashed)
        check = hashed[:4] if timed else struct.pack(">I", zlib.crc32(row))
        if changed is None and check != seal["checks"][4 * count : 4 * count + 4]:
            changed = event["position"]
        count += 1
    if count != seal["events"]:
        what = f"{seal['events'] - count} missing" if count < seal["events"] else f"{count - seal['events']} too many"
        raise Refuted(
            f"of the events of {describe_seal(seal)}, {what}" + (f", at or before {changed}" if changed else "")
        )
    if changed is not None:
        raise Refuted(f"the event at position {changed} was changed: it does not match {describe_seal(seal)}")
    if found.digest() != seal["hash"] or len(seal["checks"]) != 4 * count:
        raise Refuted(f"the hash of {describe_seal(seal)} does not match its events")


def describe_seal(seal: dict[str, Any]) -> str:
    return f"seal {seal['seal']} of positions {seal['first_position']} to {seal['last_position']}"


def is_text(state: bytes) -> bool:
    try:
        state.decode()
    except UnicodeDecodeError:
        return False
    return True


def row_bytes(event: dict[str, Any]) -> bytes:
    fields = (
        event["stream_id"].bytes,
        struct.pack(">q", event["version"]),
        event["name"],
        event.get("state_hex", event["state"]),
        struct.pack(">q", event["position"]),
    )
    return struct.pack(">h", 5) + b"".join(struct.pack(">i", len(field)) + field for field in fields)


# --- Anchors ------------------------------------------------------------------------------------------------------


def check_signature(anchor: dict[str, Any], log: uuid.UUID, names: list[tuple[uuid.UUID, int]]) -> None:
    """Check that an anchor is of the log, or of a parent up to the copy, and is signed by the keys it names."""
    at, successor = anchor["at"].decode(), anchor.get("successor")
    parts = [anchor["log"], anchor["seal"], anchor["position"], anchor["hash"].hex(), at, anchor["key"].hex()]
    signed = f"quantagent anchor {2 if successor else 1}\n" + "".join(f"{part}\n" for part in parts)
    if not any(anchor["log"] == name and anchor["seal"] <= end for name, end in names):
        raise Refuted(f"the anchor of {at} is of another log, {anchor['log']}; this one is {log}")
    signatures = [(anchor["key"], anchor["signature"])]
    if successor:
        signed += f"{successor.hex()}\n"
        signatures.append((successor, anchor["countersignature"]))
    if not all(is_signed(key, signed.encode(), signature) for key, signature in signatures):
        raise Refuted(f"the anchor of {at} is not signed by its key")


def check_keys(anchors: list[dict[str, Any]], trusted_key: bytes) -> None:
    """Check that each key is named by an anchor of its predecessor, and that one of the keys is the trusted one."""
    if not anchors:
        return
    in_force: bytes = anchors[0]["key"]
    until: dict[bytes, int] = {}
    for anchor in anchors:
        at, key, successor = anchor["at"].decode(), anchor["key"], anchor.get("successor")
        if key != in_force and anchor["seal"] > until.get(key, -1):
            raise Refuted(f"the anchor of {at} is signed with another key: {key.hex()} instead of {in_force.hex()}")
        if successor and key == in_force:
            until[key], in_force = anchor["seal"], successor
        elif successor and successor != in_force and successor not in until:
            raise Refuted(f"the anchor of {at} names a second successor of the key {key.hex()}")
    if trusted_key != in_force and trusted_key not in until:
        raise Refuted(f"the anchors are signed with another key: {in_force.hex()} instead of {trusted_key.hex()}")


def check_anchored(seal: dict[str, Any], anchor: dict[str, Any]) -> None:
    if (anchor["hash"], anchor["position"]) != (seal["hash"], seal["last_position"]):
        raise Refuted(
            f"{describe_seal(seal)} is not the one anchored at {anchor['at'].decode()}: the chain was rewritten"
        )


# Ed25519 after RFC 8032, section 5.1. A point is (x, y) = (X/Z, Y/Z) with T/Z = xy, on -x^2 + y^2 = 1 + D x^2 y^2.
P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT = pow(2, (P - 1) // 4, P)


class Point(NamedTuple):
    x: int
    y: int
    z: int
    t: int


def is_signed(key: bytes, message: bytes, signature: bytes) -> bool:
    if len(key) != 32 or len(signature) != 64:
        return False
    try:
        a, r = decode_point(key), decode_point(signature[:32])
    except ValueError:
        return False
    s = int.from_bytes(signature[32:], "little")
    if s >= ORDER:
        return False
    h = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % ORDER
    return is_same(times(s, BASE), plus(r, times(h, a)))


def decode_point(encoded: bytes) -> Point:
    y = int.from_bytes(encoded, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    if y >= P:
        raise ValueError("not on the curve")
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * ROOT % P
    if (x * x - x2) % P or (x == 0 and sign):
        raise ValueError("not on the curve")
    if x & 1 != sign:
        x = P - x
    return Point(x, y, 1, x * y % P)


def plus(p: Point, q: Point) -> Point:
    a, b = (p.y - p.x) * (q.y - q.x) % P, (p.y + p.x) * (q.y + q.x) % P
    c, d = 2 * p.t * q.t * D % P, 2 * p.z * q.z % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return Point(e * f % P, g * h % P, f * g % P, e * h % P)


def times(n: int, p: Point) -> Point:
    found = Point(0, 1, 1, 0)
    while n:
        if n & 1:
            found = plus(found, p)
        p, n = plus(p, p), n >> 1
    return found


def is_same(p: Point, q: Point) -> bool:
    return (p.x * q.z - q.x * p.z) % P == 0 and (p.y * q.z - q.y * p.z) % P == 0


BASE = decode_point((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
