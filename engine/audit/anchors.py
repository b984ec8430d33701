"""Anchors: signed heads of the log, in a file outside the database.

An anchor states the hash that a seal of the chain had at a time. It is a line of JSON, signed with Ed25519 by a key
whose file only its owner can read (`engine.audit.signing` creates both). When a key replaces another, both sign the
anchor that records it. Keep copies of the file and of the public key out of reach of the database's administrators;
docs/audit.md lists what anchors do not protect.
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
    """A signed head of the log.

    hash: hash of the seal; position: the last event it covers; key, signature: Ed25519; all in hexadecimal. successor:
    the key that signs from here on; countersignature: its signature. Both are empty except where a key is replaced.
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
    """Return the default path of the anchors of a log."""
    return home / "anchors" / f"{log_id}.jsonl"


def read_anchors(path: Path) -> list[Anchor]:
    """Return the anchors of a file, in order. Raise `BadInput` for a damaged file, with the line."""
    try:
        # A last line without an end is an anchor whose writing was interrupted.
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise BadInput(f"the anchors in {path} cannot be read: {error.strerror}.", "ANCHORS_UNREADABLE") from None
    found: list[Anchor] = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(msgspec.json.decode(line, type=Anchor))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadInput(f"line {number} of {path} is not an anchor: {error}.", "ANCHORS_DAMAGED") from None
    return found


def read_public_key(given: Path | str) -> str:
    """Return a public key in hexadecimal, given as such or as the path of a file that holds it."""
    try:
        text = str(given) if _IS_KEY(str(given)) else Path(given).read_text().strip()
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
    except (OSError, ValueError) as error:
        raise BadInput(f"{given} is not a public key: {error}. Name the file anchor.pub that you received.") from None
    return text


def is_signed(anchor: Anchor) -> bool:
    """Return True if an anchor is signed by the key it names, and by the successor it names, if any."""
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
    """Return anchors in log order; anchors of one seal keep the order of their file."""
    return sorted(anchors, key=lambda found: found.seal)


class SigningKeys(NamedTuple):
    """The keys of some anchors: the one in force, its predecessors, and the first defect of their succession."""

    in_force: str
    retired: tuple[str, ...]
    finding: AuditFinding | None


def resolve_keys(anchors: Sequence[Anchor]) -> SigningKeys:
    """Follow the keys from one anchor to the next; at least one anchor is required.

    A key signs up to the anchor in which it names its successor, which the successor signs as well.
    """
    in_order = sort_by_seal(anchors)
    in_force, until = in_order[0].key, dict[str, int]()
    for found in in_order:
        if found.key != in_force and found.seal > until.get(found.key, -1):
            what = f"the anchor of {found.at} is signed with another key: {found.key} instead of {in_force}"
            return SigningKeys(in_force, tuple(until), AuditFinding(found.position, what))
        if found.successor and found.key == in_force:
            until[found.key], in_force = found.seal, found.successor
        elif found.successor and found.successor not in (in_force, *until):
            what = f"the anchor of {found.at} names a second successor of the key {found.key}"
            return SigningKeys(in_force, tuple(until), AuditFinding(found.position, what))
    return SigningKeys(in_force, tuple(until), None)


# --- Checks of anchors without the log ------------------------------------------------------------------------------


def signature_findings(anchor: Anchor, lineage: Sequence[LogIdentity]) -> Iterator[AuditFinding]:
    """Yield a finding for an anchor of another log, or with a missing or invalid signature."""
    if not belongs_to(anchor, lineage):
        log = lineage[-1].log
        yield AuditFinding(0, f"the anchor of {anchor.at} is of another log, {anchor.log}; this one is {log}")
    elif not is_signed(anchor):
        yield AuditFinding(anchor.position, f"the anchor of {anchor.at} is not signed by the key it names")


def belongs_to(anchor: Anchor, lineage: Sequence[LogIdentity]) -> bool:
    """Return True if an anchor is of a log, or of a parent of that log up to the seal where the copy began."""
    ends = {child.parent: child.after_seal for child in lineage}
    return any(anchor.log == each.log and anchor.seal <= ends.get(each.log, anchor.seal) for each in lineage)


def key_findings(anchors: Sequence[Anchor], trusted_key: str | None) -> Iterator[AuditFinding]:
    """Yield a finding for a key outside the succession, and for a succession that does not include the trusted key."""
    if not anchors:
        return
    keys = resolve_keys(anchors)
    if keys.finding is not None:
        yield keys.finding
    elif trusted_key is not None and trusted_key not in (keys.in_force, *keys.retired):
        yield AuditFinding(0, f"the anchors are signed with another key than the trusted one: {keys.in_force}")
