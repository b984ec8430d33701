"""A sealed and anchored log, and the finding of a verify after a change."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import psycopg
import pytest

from engine.audit import anchors, signing, verify
from engine.audit.anchors import Anchor
from engine.audit.chain import AuditFinding, read_log_id
from engine.core.errors import VersionConflict
from engine.core.events import ProfileSaved, RunFailed, TradingHalted
from engine.store import Batch, Cause
from engine.store.postgres import PostgresStore
from tests.support.tampering import Editor, flip_seal, forge

AT = datetime(2024, 1, 1, tzinfo=UTC)


EVENT_COLUMNS = ("originator_id", "originator_version", "topic", "state", "notification_id")


SEAL_COLUMNS = (
    "seal",
    "first_position",
    "last_position",
    "events",
    "previous",
    "hash",
    "checks",
    "sealed_at",
    "sealed_by",
)


class Evidence(NamedTuple):
    """A log in a database, the anchors made of it, and the last position they vouch for."""

    conn: psycopg.Connection[Any]
    anchors: list[Anchor]
    anchored_to: int
    home: Path

    def finding(self, with_anchors: bool = True) -> AuditFinding | None:
        return verify.verify_log(self.conn, self.anchors if with_anchors else ()).finding


def append_at_random(store: PostgresStore, random: Random, versions: dict[str, int]) -> None:
    """One append of 1 to 9 events to 1 to 3 streams; now and then one that is refused and leaves a gap."""
    if versions and random.random() < 0.2:
        stream = random.choice(sorted(versions))
        with pytest.raises(VersionConflict):
            store.append([Batch(stream, versions[stream] - 1, [RunFailed("other", "facts")])], Cause("test"))
    batches: list[Batch] = []
    for stream in random.sample([f"book:{n}" for n in range(5)], random.randint(1, 3)):
        events = [
            random.choice(
                [
                    TradingHalted(AT, "entries", "x" * random.randrange(40), "rule"),
                    RunFailed(str(random.random()), "é" * random.randrange(9)),
                    ProfileSaved("p", "{}", str(random.getrandbits(64))),
                ]
            )
            for _ in range(random.randint(1, 3))
        ]
        batches.append(Batch(stream, versions.get(stream, 0), events))
        versions[stream] = versions.get(stream, 0) + len(events)
    store.append(batches, Cause("test"))


@pytest.fixture
def evidence(dsn: str, tmp_path: Path) -> Iterator[Evidence]:
    random, versions = Random(7), dict[str, int]()
    with PostgresStore(dsn) as store, psycopg.connect(dsn, autocommit=True) as conn:
        for n in range(40):
            append_at_random(store, random, versions)
            if n in (12, 30):
                signing.sign_head(conn, tmp_path, AT)
        kept = anchors.read_anchors(anchors.anchors_file(tmp_path, read_log_id(conn)))
        yield Evidence(conn, kept, kept[-1].position, tmp_path)


@contextmanager
def tampering(conn: psycopg.Connection[Any]) -> Generator[None]:
    """With a superuser's rights and past the triggers; undone at the end."""
    with conn.transaction(force_rollback=True):
        conn.execute("SET LOCAL session_replication_role = replica")
        yield


def tamper(evidence: Evidence, seed: int, forged: bool) -> tuple[str, int]:
    """One seeded change up to the last anchor; its kind, and where it lies."""
    random = Random(seed)
    editor = Editor(evidence.conn, random, evidence.anchored_to)
    kinds = ["flip", "flip", "delete", "insert", "swap", "copy", "cut"] + ([] if forged else ["seal"])
    kind = kinds[seed % len(kinds)]
    if kind == "flip":
        row, column = editor.any_row(), EVENT_COLUMNS[seed % 5]
        editor.flip(row, column)
        place, kind = row[4], f"flip {column}"
    elif kind == "seal":
        column = SEAL_COLUMNS[seed % 9]
        place, kind = flip_seal(evidence.conn, random, column, evidence.anchored_to), f"flip seals.{column}"
    else:
        place = int(getattr(editor, kind)())
    if forged:
        forge(evidence.conn)
    return kind, place
