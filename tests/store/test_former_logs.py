"""A log and an export that version 0.2.0 wrote, whose seals have neither time nor login, hold in this version."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import UUID
from zipfile import ZipFile

import msgspec
import psycopg
import pytest

from engine.audit import chain
from engine.audit.anchors import read_anchors
from engine.audit.export import EventLine, SealLine, export_log
from engine.audit.signing import sign_head
from engine.audit.verify import verify_log
from engine.core.errors import BadInput
from engine.core.events import RunFailed
from engine.store import Batch, Cause
from engine.store.migrations import migrate
from engine.store.postgres import PostgresStore
from tests.support.anchoring import AT
from tests.support.databases import database
from tests.support.exports import bare, decoded
from tests.support.paths import TESTS
from tests.support.tampering import forge

EXPORT = TESTS / "golden_exports/0.2.0.zip"
KEY = "70d01e7dbe5606a06a32645ef263d3da95940d55ee835a522078c29f0f81fa96"


@pytest.fixture
def former(tmp_path: Path) -> Path:
    """The export of 0.2.0, unpacked."""
    with ZipFile(EXPORT) as zipped:
        zipped.extractall(tmp_path / "former")
    return tmp_path / "former"


def restored(dsn: str, former: Path) -> None:
    """The database as 0.2.0 left it: its migrations, its rows, its seals."""
    manifest = json.loads((former / "manifest.json").read_text())
    with psycopg.connect(dsn) as conn:
        conn.execute("CREATE SCHEMA quantagent")
        conn.execute(
            "CREATE TABLE quantagent.migrations (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        for name in sorted(entry.name for entry in files("engine.store.migrations").iterdir()):
            if name.endswith(".sql") and name < "0010":
                conn.execute(files("engine.store.migrations").joinpath(name).read_bytes())
                conn.execute("INSERT INTO quantagent.migrations (name) VALUES (%s)", (name,))
        conn.execute("SET session_replication_role = replica")
        conn.execute("UPDATE quantagent.log_identity SET log_id = %s", (UUID(manifest["log"]),))
        for event in decoded(former / "events.jsonl", EventLine):
            row = (event.stream_id, event.version, event.name, event.state.encode())
            conn.execute(
                "INSERT INTO quantagent.events (originator_id, originator_version, topic, state) "
                "VALUES (%s, %s, %s, %s)",
                row,
            )
        for seal in decoded(former / "seals.jsonl", SealLine):
            numbers = (seal.seal, seal.first_position, seal.last_position, seal.events)
            texts = map(bytes.fromhex, (seal.previous, seal.hash, seal.checks))
            conn.execute("INSERT INTO quantagent.seals VALUES (%s, %s, %s, %s, %s, %s, %s)", (*numbers, *texts))


def test_a_former_export_holds_by_todays_verifier(former: Path, tmp_path: Path) -> None:
    todays = tmp_path / "verify.py"
    todays.write_bytes(files("engine.audit").joinpath("standalone.py").read_bytes())
    done = bare(todays, former, "--public-key", KEY)
    assert (done.returncode, "Everything holds." in done.stdout) == (0, True), done.stdout
    lines = (former / "events.jsonl").read_bytes().replace(b"before a holiday", b"before a holidax")
    (former / "events.jsonl").write_bytes(lines)
    assert bare(todays, former).returncode == 3


def test_a_former_log_holds_goes_on_and_is_anchored(former: Path, server: str, tmp_path: Path) -> None:
    with database(server, "template0") as made:
        restored(made, former)
        assert migrate(made) != []
        kept = read_anchors(former / "anchors.jsonl")
        with PostgresStore(made) as store, psycopg.connect(made, autocommit=True) as conn:
            verdict = verify_log(conn, kept, KEY)
            assert (verdict.finding, verdict.events, verdict.anchored_to) == (None, 2, 2)
            for n in range(3):
                store.append([Batch("run:x", n, [RunFailed("x", str(n))])], Cause("test"))
            assert sign_head(conn, tmp_path / "home", AT) is not None
            verdict = verify_log(conn, kept, KEY)
            assert (verdict.finding, verdict.events, verdict.notices) == (None, 5, ())
            timed = [seal.sealed_at != "" for seal in chain.seals_after(conn, 0)]
            assert timed == [False, False, True, True, True]
            with conn.transaction():
                export_log(conn, tmp_path / "log", kept)
            assert bare(tmp_path / "log" / "verify.py", "--public-key", KEY).returncode == 0


def test_a_seal_of_the_first_format_after_one_of_the_second_is_found(former: Path, server: str, tmp_path: Path) -> None:
    """A forger who cannot know the server's times leaves them out."""
    with database(server, "template0") as made:
        restored(made, former)
        migrate(made)
        with PostgresStore(made) as store, psycopg.connect(made, autocommit=True) as conn:
            for n in range(3):
                store.append([Batch("run:x", n, [RunFailed("x", str(n))])], Cause("test"))
            conn.execute("SET session_replication_role = replica")
            conn.execute("UPDATE quantagent.seals SET sealed_at = NULL, sealed_by = NULL WHERE seal = 5")
            forge(conn)
            finding = verify_log(conn).finding
            assert finding is not None
            assert "seal 5 has no time, though seal 4 has one" in finding.what
            with pytest.raises(BadInput, match="seal 5 has no time"):
                sign_head(conn, tmp_path / "home", AT)
            with conn.transaction():
                export_log(conn, tmp_path / "log", [])
            done = bare(tmp_path / "log" / "verify.py")
            assert (done.returncode, "has no time" in done.stdout) == (3, True)


def test_lines_of_former_seals_and_anchors_keep_their_bytes(former: Path) -> None:
    for name, read in (("seals.jsonl", decoded(former / "seals.jsonl", SealLine)), ("anchors.jsonl", anchors(former))):
        assert b"".join(msgspec.json.encode(each) + b"\n" for each in read) == (former / name).read_bytes()


def anchors(former: Path) -> list[Any]:
    return list(read_anchors(former / "anchors.jsonl"))
