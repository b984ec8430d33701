"""When a head is signed, when it is not, and what makes it possible again: lost files, copies, keys that change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any, NamedTuple

import msgspec
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Identifier

from engine.audit import identity, signing
from engine.audit.anchors import Anchor, anchors_file, is_signed, read_anchors, resolve_keys
from engine.audit.chain import read_lineage, read_log_id
from engine.audit.export import export_log
from engine.audit.signing import (
    AnchoringDefect,
    anchoring_state,
    key_file,
    last_anchor_file,
    public_key_file,
    rotate_signing_key,
    sign_head,
)
from engine.audit.verify import verify_log
from engine.core.errors import BadInput
from engine.core.events import AnchoringRestarted, LogAdopted, RunFailed
from engine.store import Batch, Cause
from engine.store.postgres import PostgresStore
from tests.support.anchoring import AT
from tests.support.databases import database
from tests.support.exports import bare
from tests.support.tampering import Connection, forge

ME = Cause("ann")


class Log(NamedTuple):
    """A log with three anchors at home."""

    dsn: str
    conn: Connection
    home: Path

    @property
    def file(self) -> Path:
        return anchors_file(self.home, read_log_id(self.conn))

    def append(self, name: str = "later") -> None:
        with PostgresStore(self.dsn) as store:
            store.append([Batch(f"run:{name}", 0, [RunFailed(name, "reason")])], ME)

    def forge(self) -> None:
        """A forger with every right changes the first event and makes all seals anew."""
        with self.conn.transaction():
            self.conn.execute("SET LOCAL session_replication_role = replica")
            self.conn.execute("UPDATE quantagent.events SET topic = 'RunFailed.v9' WHERE notification_id = 1")
            forge(self.conn)
        assert verify_log(self.conn).finding is None

    def begin_anew(self, reason: str = "the disk failed") -> Anchor:
        with PostgresStore(self.dsn) as store:
            return identity.restart_anchoring(store, self.conn, self.home, AT, ME, reason)

    def adopt(self, home: Path | None = None) -> tuple[LogAdopted, Anchor]:
        with PostgresStore(self.dsn) as store:
            return identity.adopt_copy(store, self.conn, home or self.home, AT, ME, "a drill")

    def events(self) -> list[Any]:
        with PostgresStore(self.dsn) as store:
            return [row.event for row in store.read_all()]


@pytest.fixture
def log(dsn: str, tmp_path: Path) -> Iterator[Log]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        made = Log(dsn, conn, tmp_path / "home")
        for name in "abc":
            made.append(name)
            sign_head(conn, made.home, AT)
        yield made


@pytest.fixture
def copy(log: Log, server: str) -> Iterator[Log]:
    """The same database under another name, as a backup is restored, with a home in common."""
    name = str(conninfo_to_dict(log.dsn)["dbname"])
    log.conn.close()
    with database(server, name) as made, psycopg.connect(made, autocommit=True) as conn:
        yield Log(made, conn, log.home)


def refusal(log: Log) -> str:
    """Why the head is not signed; the file of anchors stays as it is."""
    file = anchoring_state(log.conn, log.home).file
    before = file.read_bytes() if file.exists() else None
    with pytest.raises(BadInput) as refused:
        sign_head(log.conn, log.home, AT)
    assert (file.read_bytes() if file.exists() else None) == before
    return str(refused.value)


# --- A file of anchors that is gone or shorter ----------------------------------------------------------------------


def remove(file: Path) -> None:
    file.unlink()


def remove_the_folder(file: Path) -> None:
    for each in file.parent.iterdir():
        each.unlink()
    file.parent.rmdir()


def empty(file: Path) -> None:
    file.write_bytes(b"")


def cut_the_last_line(file: Path) -> None:
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))


def cut_the_first_line(file: Path) -> None:
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[1:]))


LOSSES = [remove, remove_the_folder, empty, cut_the_last_line, cut_the_first_line]


@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
def test_a_forged_log_without_its_anchors_is_not_signed(log: Log, lose: Any) -> None:
    log.forge()
    lose(log.file)
    assert "does not match the last anchor in" in refusal(log)
    assert anchoring_state(log.conn, log.home).defect is AnchoringDefect.LOG


@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
def test_an_honest_log_without_its_anchors_is_not_signed_until_it_is_begun_anew(log: Log, lose: Any) -> None:
    left = log.file.read_bytes()
    lose(log.file)
    assert "of the 3 anchors of this log" in refusal(log)
    assert anchoring_state(log.conn, log.home).defect is AnchoringDefect.FILE
    made = log.begin_anew()
    assert read_anchors(log.file) == [made]
    event = log.events()[-1]
    assert isinstance(event, AnchoringRestarted)
    assert (event.seal, event.position, event.reason) == (3, 3, "the disk failed")
    assert event.hash.encode() in left
    log.append()
    assert sign_head(log.conn, log.home, AT) is not None
    verdict = verify_log(log.conn, read_anchors(log.file))
    assert verdict.finding is None
    assert verdict.notices == ("anchoring was restarted at position 4, after an anchor of position 3: the disk failed",)


def test_an_anchor_that_was_edited_is_found_wherever_it_is(log: Log) -> None:
    lines = log.file.read_bytes().splitlines(keepends=True)
    log.file.write_bytes(b"".join([lines[0].replace(b"20240101", b"20240102"), *lines[1:]]))
    log.append()
    assert "an anchor of this log in" in refusal(log)
    log.file.write_bytes(b"".join([*lines, lines[0]]))
    assert sign_head(log.conn, log.home, AT) is not None


def test_a_file_that_comes_back_from_a_copy_is_signed_on(log: Log) -> None:
    kept = log.file.read_bytes()
    log.append()
    log.file.unlink()
    refusal(log)
    log.file.write_bytes(kept)
    made = sign_head(log.conn, log.home, AT)
    assert made is not None
    assert len(read_anchors(log.file)) == 4


def test_what_is_whole_is_not_begun_anew(log: Log) -> None:
    with pytest.raises(BadInput, match=r"are complete \(3 in "):
        log.begin_anew()
    assert not any(isinstance(event, AnchoringRestarted) for event in log.events())


def test_what_was_set_aside_is_kept(log: Log) -> None:
    cut_the_last_line(log.file)
    left = log.file.read_bytes()
    log.begin_anew()
    assert [path.read_bytes() for path in log.file.parent.glob("*.20240101T000000Z.jsonl")] == [left]


def test_an_emptied_log_is_not_signed(log: Log) -> None:
    with log.conn.transaction():
        log.conn.execute("SET LOCAL session_replication_role = replica")
        log.conn.execute("TRUNCATE quantagent.events, quantagent.seals")
    assert "does not match" in refusal(log)


def test_a_home_of_the_version_before_is_remembered_from_then_on(log: Log) -> None:
    for path in last_anchor_file(log.home, read_log_id(log.conn)).parent.iterdir():
        path.unlink()
    assert sign_head(log.conn, log.home, AT) == read_anchors(log.file)[-1]
    log.file.unlink()
    refusal(log)


@pytest.mark.parametrize("content", [b"{", b"", b"\xff", b"[]"])
def test_a_damaged_file_is_named_and_can_be_begun_anew(log: Log, content: bytes) -> None:
    path = last_anchor_file(log.home, read_log_id(log.conn))
    path.write_bytes(content)
    assert f"{path} is damaged" in refusal(log)
    log.begin_anew()
    log.file.write_bytes(content + b"\n")
    assert f"line 1 of {log.file} is not an anchor" in refusal(log)
    log.begin_anew()
    assert anchoring_state(log.conn, log.home).defect is None


# --- The links since the last anchor --------------------------------------------------------------------------------


def test_links_are_walked_before_the_head_is_signed(log: Log) -> None:
    for name in "def":
        log.append(name)
    with log.conn.transaction():
        log.conn.execute("SET LOCAL session_replication_role = replica")
        log.conn.execute("UPDATE quantagent.seals SET hash = sha256('other') WHERE seal = 5")
    assert "seal 6 does not continue seal 5" in refusal(log)


def test_an_event_without_a_seal_is_not_signed_over(log: Log) -> None:
    with log.conn.transaction():
        log.conn.execute("SET LOCAL session_replication_role = replica")
        log.conn.execute(
            "INSERT INTO quantagent.events SELECT gen_random_uuid(), 1, topic, state, 9223372036854775807 "
            "FROM quantagent.events LIMIT 1"
        )
    log.append()
    assert "9,223,372,036,854,775,807 (the event has no seal" in refusal(log)


def nothing(*_: object) -> None:
    return None


# --- Copies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("same_home", [True, False])
def test_a_copy_is_not_signed_and_leaves_the_original_alone(
    copy: Log, log: Log, tmp_path: Path, same_home: bool
) -> None:
    there = copy if same_home else copy._replace(home=tmp_path / "elsewhere")
    before = {path: path.read_bytes() for path in log.home.rglob("*") if path.is_file()}
    there.append()
    assert "this database is a copy of log" in refusal(there)
    assert anchoring_state(there.conn, there.home).defect is AnchoringDefect.COPY
    assert {path: path.read_bytes() for path in log.home.rglob("*") if path.is_file()} == before


def test_a_copy_without_a_record_of_its_database_is_known_by_what_the_home_remembers(copy: Log) -> None:
    with copy.conn.transaction():
        copy.conn.execute("SET LOCAL session_replication_role = replica")
        copy.conn.execute("DELETE FROM quantagent.log_databases")
    assert "this database is a copy of log" in refusal(copy)


def test_a_copy_that_is_adopted_is_a_log_of_its_own(copy: Log, log: Log, server: str, tmp_path: Path) -> None:
    parent = read_log_id(copy.conn)
    kept = copy.file.read_bytes()
    copy.append("fork")
    with pytest.raises(BadInput, match="is a copy of log"):
        copy.begin_anew()
    adopted, made = copy.adopt()
    child = read_log_id(copy.conn)
    assert (adopted.parent, adopted.log_id) == (str(parent), str(child))
    assert [(each.log, each.parent, each.after_seal) for each in read_lineage(copy.conn)] == [
        (parent, None, 0),
        (child, parent, 4),
    ]
    assert read_anchors(anchors_file(copy.home, child)) == [made]
    assert anchors_file(copy.home, parent).read_bytes() == kept
    copy.append("child")
    sign_head(copy.conn, copy.home, AT)
    own = read_anchors(anchors_file(copy.home, child))
    parents = read_anchors(anchors_file(copy.home, parent))
    assert verify_log(copy.conn, [*parents, *own]).finding is None
    # The original goes on as if nothing had been.
    with psycopg.connect(log.dsn, autocommit=True) as conn:
        original = log._replace(conn=conn)
        for name in "def":
            original.append(name)
            sign_head(conn, log.home, AT)
        assert verify_log(conn, read_anchors(original.file)).finding is None
        # What it anchored after the copy was made vouches for nothing in the copy.
        late = read_anchors(original.file)
    finding = verify_log(copy.conn, [*late, *own]).finding
    assert finding is not None
    assert "of another log" in finding.what
    # An export says the same, and its verifier reads it.
    with copy.conn.transaction():
        export_log(copy.conn, tmp_path / "log", own)
    done = bare(tmp_path / "log" / "verify.py", "--public-key", resolve_keys(own).in_force, "--anchor", "ANCHORS")
    assert done.returncode == 2
    (tmp_path / "kept.jsonl").write_bytes(kept)
    done = bare(tmp_path / "log" / "verify.py", "--anchor", tmp_path / "kept.jsonl")
    assert (done.returncode, "Everything holds." in done.stdout) == (0, True), done.stdout
    (tmp_path / "late.jsonl").write_bytes(anchors_file(copy.home, parent).read_bytes())
    done = bare(tmp_path / "log" / "verify.py", "--anchor", tmp_path / "late.jsonl")
    assert (done.returncode, "of another log" in done.stdout) == (3, True), done.stdout


def test_a_changed_copy_is_not_adopted(copy: Log) -> None:
    copy.forge()
    with pytest.raises(BadInput, match=r"the copy was changed at position 1 .* and is not adopted"):
        copy.adopt()
    assert copy.conn.execute("SELECT FROM quantagent.events WHERE topic LIKE 'LogAdopted%'").fetchone() is None


def test_an_adoption_that_was_cut_off_is_completed(copy: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(identity, "sign_head", None)
        patch.setattr(identity, "_find_adoption", nothing)
        with pytest.raises(AssertionError):
            copy.adopt()
    assert len(read_lineage(copy.conn)) == 1
    finding = verify_log(copy.conn).finding
    assert finding is not None
    assert "the log was renamed" in finding.what
    copy.adopt()
    assert verify_log(copy.conn, read_anchors(copy.file)).finding is None
    assert sum(isinstance(event, LogAdopted) for event in copy.events()) == 1


def test_a_name_that_no_event_gave_is_found(log: Log) -> None:
    with log.conn.transaction(force_rollback=True):
        log.conn.execute("SET LOCAL session_replication_role = replica")
        log.conn.execute(
            "INSERT INTO quantagent.log_identity (parent, after_seal) SELECT log_id, 1 FROM quantagent.log_identity"
        )
        finding = verify_log(log.conn).finding
        assert finding is not None
        assert "was renamed" in finding.what


def test_the_original_is_not_adopted(log: Log) -> None:
    with pytest.raises(BadInput, match="there is nothing to adopt"):
        log.adopt()


def test_a_copy_of_an_adopted_copy_is_a_copy_again(copy: Log, server: str) -> None:
    copy.adopt()
    name = str(conninfo_to_dict(copy.dsn)["dbname"])
    copy.conn.close()
    with database(server, name) as made, psycopg.connect(made, autocommit=True) as conn:
        again = Log(made, conn, copy.home)
        assert "is a copy of log" in refusal(again)
        again.adopt()
        assert len(read_lineage(conn)) == 3
        assert verify_log(conn, read_anchors(again.file)).finding is None


def test_a_renamed_database_is_the_same_log(log: Log, server: str) -> None:
    name = str(conninfo_to_dict(log.dsn)["dbname"])
    log.conn.close()
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(SQL("ALTER DATABASE {} RENAME TO {}").format(Identifier(name), Identifier(f"{name}_b")))
    try:
        with psycopg.connect(log.dsn.replace(name, f"{name}_b"), autocommit=True) as conn:
            assert anchoring_state(conn, log.home).defect is None
    finally:
        with psycopg.connect(server, autocommit=True) as conn:
            conn.execute(SQL("ALTER DATABASE {} RENAME TO {}").format(Identifier(f"{name}_b"), Identifier(name)))


# --- Keys -----------------------------------------------------------------------------------------------------------


def other_key(log: Log, tmp_path: Path) -> Path:
    """The keys of another home."""
    elsewhere = tmp_path / "other"
    sign_head(log.conn, elsewhere, AT)
    return elsewhere / "keys"


def test_another_key_does_not_sign_on(log: Log, tmp_path: Path) -> None:
    foreign = other_key(log, tmp_path)
    for name in ("anchor.pem", "anchor.pub"):
        (log.home / "keys" / name).write_bytes((foreign / name).read_bytes())
    log.append()
    assert "and this log's anchors are signed with" in refusal(log)
    assert anchoring_state(log.conn, log.home).defect is AnchoringDefect.KEY


def test_without_the_key_the_standing_says_so_at_once(log: Log) -> None:
    key_file(log.home).unlink()
    found = anchoring_state(log.conn, log.home)
    assert (found.defect, "is missing" in found.refusal) == (AnchoringDefect.KEY, True)


@pytest.mark.parametrize("field", ["hash", "signature", "position"])
def test_a_last_anchor_that_was_edited_is_found_without_a_verification(log: Log, field: str) -> None:
    *before, last = read_anchors(log.file)
    value = 2 if field == "position" else "00" * (64 if field == "signature" else 32)
    edited = msgspec.structs.replace(last, **{field: value})
    log.file.write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in (*before, edited)))
    assert anchoring_state(log.conn, log.home).defect in (AnchoringDefect.LOG, AnchoringDefect.FILE)
    log.append()
    refusal(log)


def test_a_rotated_key_is_vouched_for_by_the_one_before_it(log: Log, tmp_path: Path) -> None:
    first = public_key_file(log.home).read_text().strip()
    rotated = rotate_signing_key(log.conn, log.home, AT)
    second = public_key_file(log.home).read_text().strip()
    assert (rotated.key, rotated.successor) == (first, second)
    assert first != second
    assert is_signed(rotated)
    log.append()
    assert getattr(sign_head(log.conn, log.home, AT), "key", "") == second
    third = rotate_signing_key(log.conn, log.home, AT).successor
    log.append("last")
    sign_head(log.conn, log.home, AT)
    kept = read_anchors(log.file)
    assert [len(kept), resolve_keys(kept).in_force, resolve_keys(kept).retired] == [7, third, (first, second)]
    for trusted in (first, second, third, None):
        assert verify_log(log.conn, kept, trusted).finding is None
    # An old anchor again at the end is harmless, as before.
    assert verify_log(log.conn, [*kept, kept[0]], third).finding is None
    with log.conn.transaction():
        export_log(log.conn, tmp_path / "log", kept)
    for trusted in (first, second, third):
        done = bare(tmp_path / "log" / "verify.py", "--public-key", trusted)
        assert done.returncode == 0, done.stdout
    assert bare(tmp_path / "log" / "verify.py", "--public-key", "ab" * 32).returncode == 3
    assert [path.name for path in sorted((log.home / "keys").iterdir()) if path.is_file()] == [
        "anchor.pem",
        "anchor.pub",
    ]


def test_a_retired_key_signs_no_more(log: Log) -> None:
    old = key_file(log.home).read_bytes()
    rotate_signing_key(log.conn, log.home, AT)
    key_file(log.home).write_bytes(old)
    log.append()
    assert "and this log's anchors are signed with" in refusal(log)


@pytest.mark.parametrize("by", ["successor", "key"])
def test_a_succession_that_one_key_did_not_sign_is_refused(log: Log, by: str) -> None:
    rotated = rotate_signing_key(log.conn, log.home, AT)
    other = "signature" if by == "key" else "countersignature"
    forged = msgspec.structs.replace(rotated, **{other: "00" * 64})
    kept = [*read_anchors(log.file)[:-1], forged]
    finding = verify_log(log.conn, kept).finding
    assert finding is not None
    assert "not signed" in finding.what


def test_a_key_that_nobody_named_is_refused(log: Log, tmp_path: Path) -> None:
    log.append()
    elsewhere = tmp_path / "other"
    foreign = sign_head(log.conn, elsewhere, AT)
    assert foreign is not None
    finding = verify_log(log.conn, [*read_anchors(log.file), foreign]).finding
    assert finding is not None
    assert "signed with another key" in finding.what


@pytest.mark.parametrize("cut", ["_append", "_write_last_anchor", "_promote_next_key"])
def test_a_rotation_that_was_cut_off_does_no_harm(log: Log, cut: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sign_head(log.conn, log.home, AT)
    with monkeypatch.context() as patch:
        patch.setattr(signing, cut, None)
        with pytest.raises(TypeError):
            rotate_signing_key(log.conn, log.home, AT)
    assert anchoring_state(log.conn, log.home).defect is None
    log.append()
    assert sign_head(log.conn, log.home, AT) is not None
    kept = read_anchors(log.file)
    assert verify_log(log.conn, kept, public_key_file(log.home).read_text().strip()).finding is None
    rotate_signing_key(log.conn, log.home, AT)


def test_an_empty_log_has_no_key_to_rotate(dsn: str, tmp_path: Path) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn, pytest.raises(BadInput, match="nothing to rotate"):
        rotate_signing_key(conn, tmp_path, AT)


def test_a_home_in_two_places_shares_what_was_anchored(log: Log, tmp_path: Path) -> None:
    copytree(log.home, tmp_path / "second")
    assert anchoring_state(log.conn, tmp_path / "second").defect is None
