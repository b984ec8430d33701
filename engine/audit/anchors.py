"""Anchors: the log's head, signed, in a file outside the database, where whoever rewrites the chain cannot reach.

An anchor says: at this time the chain's seal number so-and-so had this hash. It is a line of JSON, signed with Ed25519
by a key whose file only its owner can read (`engine.audit.signing` makes them). Where a key follows another, both sign
the anchor that says so. Keep copies of the file and of the public key where the database's administrators have no
reach: what is not protected is said in docs/audit.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from engine.audit.chain import AuditFinding, LogIdentity
from engine.core.errors import BadInput

_IS_KEY = re.compile("[0-9a-f]{64}").fullmatch


class Anchor(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """`hash` is that of the seal, `position` the last event it covers; `key` and `signature` are Ed25519, all hex.

    `successor` is the key that signs from here on, and `countersignature` its signature; empty in every other anchor.
    """

    log: UUID
    seal: int
    position: int
    hash: str
    at: str
    key: str
    signature: str = ""
    successor: str = ""
    countersignature: str = ""

    @property
    def signed_text(self) -> bytes:
        lines = (self.log, self.seal, self.position, self.hash, self.at, self.key)
        kind, more = ("quantagent anchor 2", (self.successor,)) if self.successor else ("quantagent anchor 1", ())
        return "".join(f"{line}\n" for line in (kind, *lines, *more)).encode()


def anchors_file(home: Path, log_id: UUID) -> Path:
    """Where the anchors of a log are, unless they were put elsewhere."""
    return home / "anchors" / f"{log_id}.jsonl"


def read_anchors(path: Path) -> list[Anchor]:
    """The anchors of a file, in order. Raises `BadInput` for a file that is none, naming the line."""
    try:
        # What has no end is an anchor that was being written when the machine went down.
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise BadInput(
            f"the anchors in {path} cannot be read: {error.strerror}. Give the file that holds them."
        ) from None
    found: list[Anchor] = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(msgspec.json.decode(line, type=Anchor))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadInput(f"line {number} of {path} is no anchor: {error}. Restore the file from a copy.") from None
    return found


def read_public_key(given: Path | str) -> str:
    """A public key in hexadecimal, given as such or as the file that holds it."""
    try:
        text = str(given) if _IS_KEY(str(given)) else Path(given).read_text().strip()
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
    except (OSError, ValueError) as error:
        raise BadInput(f"{given} holds no public key: {error}. Give the file anchor.pub that was handed out.") from None
    return text


def is_signed(anchor: Anchor) -> bool:
    """Whether an anchor is signed by the key it names, and by that key's successor if it names one."""
    signatures = [(anchor.key, anchor.signature)]
    if anchor.successor:
        signatures.append((anchor.successor, anchor.countersignature))
    try:
        for key, signature in signatures:
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(bytes.fromhex(signature), anchor.signed_text)
    except (InvalidSignature, ValueError):
        return False
    return True


def sort_by_seal(anchors: Iterable[Anchor]) -> list[Anchor]:
    """In the order of the log; anchors of one seal stay in the order of their file."""
    return sorted(anchors, key=lambda found: found.seal)


class SigningKeys(NamedTuple):
    """The keys of some anchors: the one in force, those it follows, and what is wrong with their succession."""

    in_force: str
    retired: tuple[str, ...]
    finding: AuditFinding | None


def resolve_keys(anchors: Sequence[Anchor]) -> SigningKeys:
    """Follows the keys from one anchor to the next. There is at least one anchor.

    A key signs up to the anchor in which it names its successor, which that successor has signed too.
    """
    in_order = sort_by_seal(anchors)
    in_force, until = in_order[0].key, dict[str, int]()
    for found in in_order:
        if found.key != in_force and found.seal > until.get(found.key, -1):
            what = f"the anchor of {found.at} is signed with another key, {found.key}, than {in_force}"
            return SigningKeys(in_force, tuple(until), AuditFinding(found.position, what))
        if found.successor and found.key == in_force:
            until[found.key], in_force = found.seal, found.successor
        elif found.successor and found.successor not in (in_force, *until):
            what = f"the anchor of {found.at} names a second successor of the key {found.key}"
            return SigningKeys(in_force, tuple(until), AuditFinding(found.position, what))
    return SigningKeys(in_force, tuple(until), None)


# --- What is checked of anchors alone: each yields what it finds ----------------------------------------------------


def signature_findings(anchor: Anchor, lineage: Sequence[LogIdentity]) -> Iterator[AuditFinding]:
    """An anchor of another log, or without the signatures it should have."""
    if not belongs_to(anchor, lineage):
        log = lineage[-1].log
        yield AuditFinding(0, f"the anchor of {anchor.at} is of another log, {anchor.log}; this one is {log}")
    elif not is_signed(anchor):
        yield AuditFinding(anchor.position, f"the anchor of {anchor.at} is not signed by the key it names")


def belongs_to(anchor: Anchor, lineage: Sequence[LogIdentity]) -> bool:
    """Whether an anchor is of a log, or of one that the log was copied from, up to where the copy began."""
    ends = {child.parent: child.after_seal for child in lineage}
    return any(anchor.log == each.log and anchor.seal <= ends.get(each.log, anchor.seal) for each in lineage)


def key_findings(anchors: Sequence[Anchor], trusted_key: str | None) -> Iterator[AuditFinding]:
    """Anchors signed with keys that no succession leads to, or that do not lead to the key that is trusted."""
    if not anchors:
        return
    keys = resolve_keys(anchors)
    if keys.finding is not None:
        yield keys.finding
    elif trusted_key is not None and trusted_key not in (keys.in_force, *keys.retired):
        yield AuditFinding(0, f"the anchors are signed with another key, {keys.in_force}, than the one that is trusted")
