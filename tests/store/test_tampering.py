"""A change to the log shows, whoever makes it, up to the last anchor; and what is whole is never blamed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from random import Random
from uuid import UUID

import msgspec
import psycopg
import pytest

from engine.audit import anchors, signing, verify
from engine.audit.anchors import Anchor
from engine.audit.chain import AuditFinding, read_log_id
from engine.core.errors import BadInput, EventMissing
from engine.core.events import RunFailed
from engine.store import Batch, Cause
from engine.store.postgres import PostgresStore
from tests.support.tampered_logs import AT, EVENT_COLUMNS, Evidence, append_at_random, evidence, tamper, tampering
from tests.support.tampering import Editor, forge
from tests.support.waiting import WAIT_TIMEOUT_S

__all__ = ["evidence"]


def detect(evidence: Evidence, seeds: Sequence[int]) -> None:
    assert evidence.finding() is None
    exact = {f"flip {column}" for column in EVENT_COLUMNS[:4]} | {"copy"}
    kinds: set[str] = set()
    for seed in seeds:
        forged = seed % 2 == 1
        with tampering(evidence.conn):
            kind, place = tamper(evidence, seed // 2, forged)
            found = evidence.finding()
            assert found is not None, f"seed {seed}: {kind} at {place} was not seen"
            if not forged and kind in exact:
                assert found.position == place, f"seed {seed}: {kind} at {place}, but {found}"
            kinds.add(f"{kind} {forged}")
    assert len(kinds) == 2 * 10 + 9, kinds
    assert evidence.finding() is None


def test_two_hundred_tamperings_are_found_and_named(evidence: Evidence) -> None:
    detect(evidence, range(200))


@pytest.mark.long
def test_a_thousand_tamperings_are_found_and_named(evidence: Evidence) -> None:
    detect(evidence, range(1_000, 2_000))


# --- No false alarms ----------------------------------------------------------------------------------------------


def clean_verifies(dsn: str, home: Path, count: int) -> None:
    """One verify after every append, with anchors on the way and gaps in the positions."""
    random, versions = Random(count), dict[str, int]()
    kept: list[Anchor] = []
    with PostgresStore(dsn) as store, psycopg.connect(dsn, autocommit=True) as conn:
        for n in range(1, count + 1):
            append_at_random(store, random, versions)
            if n % 17 == 5 and (made := signing.sign_head(conn, home, AT)):
                kept.append(made)
            verdict = verify.verify_log(conn, kept)
            assert verdict.finding is None
            assert (verdict.seals, verdict.events) == (n, sum(versions.values()))
            assert verdict.anchored_to == (kept[-1].position if kept else 0)


def test_two_hundred_clean_verifies_raise_no_alarm(dsn: str, tmp_path: Path) -> None:
    clean_verifies(dsn, tmp_path, 200)


@pytest.mark.long
def test_a_thousand_clean_verifies_raise_no_alarm(dsn: str, tmp_path: Path) -> None:
    clean_verifies(dsn, tmp_path, 1_000)


# --- Every check of the verifier is needed: with it taken out, something passes unnoticed --------------------------


def replace_one_seal(evidence: Evidence) -> None:
    """A row in the middle is changed, and its own seal made anew; the seals after it stay."""
    conn = evidence.conn
    editor = Editor(conn, Random(3), evidence.anchored_to // 3)
    editor.flip(editor.any_row(), "state")
    before = conn.execute("SELECT * FROM quantagent.seals ORDER BY seal").fetchall()
    forge(conn)
    changed = [seal for seal, old in zip(conn.execute(ALL_SEALS).fetchall(), before, strict=True) if seal != old]
    for old in before:
        if old[0] > changed[0][0]:
            conn.execute(
                "UPDATE quantagent.seals SET previous = %s, hash = %s WHERE seal = %s", (old[4], old[5], old[0])
            )


ALL_SEALS = "SELECT * FROM quantagent.seals ORDER BY seal"


def change_a_row(evidence: Evidence) -> None:
    editor = Editor(evidence.conn, Random(4), evidence.anchored_to)
    editor.flip(editor.any_row(), "state")


def add_a_row_at_the_end(evidence: Evidence) -> None:
    evidence.conn.execute(
        "INSERT INTO quantagent.events "
        "SELECT gen_random_uuid(), 1, topic, state, 1000000 FROM quantagent.events LIMIT 1"
    )


def make_the_chain_anew(evidence: Evidence) -> None:
    change_a_row(evidence)
    forge(evidence.conn)


def cut_the_tail(evidence: Evidence) -> None:
    Editor(evidence.conn, Random(5), evidence.anchored_to).cut()


def make_the_anchors_anew(evidence: Evidence) -> None:
    """The forger has the file of anchors too, but not the key."""
    make_the_chain_anew(evidence)
    seals = {row[0]: row for row in evidence.conn.execute(ALL_SEALS)}
    evidence.anchors[:] = [
        msgspec.structs.replace(a, hash=seals[a.seal][5].hex(), position=seals[a.seal][2]) for a in evidence.anchors
    ]


def nothing(*_: object) -> tuple[AuditFinding, ...]:
    return ()


@pytest.mark.parametrize(
    ("check", "change"),
    [
        ("link_findings", replace_one_seal),
        ("row_findings", change_a_row),
        ("unsealed_findings", add_a_row_at_the_end),
        ("anchor_findings", make_the_chain_anew),
        ("tail_findings", cut_the_tail),
        ("signature_findings", make_the_anchors_anew),
    ],
)
def test_a_verifier_without_one_of_its_checks_misses_what_that_check_finds(
    evidence: Evidence, check: str, change: Callable[[Evidence], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with tampering(evidence.conn):
        change(evidence)
        assert evidence.finding() is not None
        monkeypatch.setattr(verify, check, nothing)
        assert evidence.finding() is None


# --- What is not protected, and who signs --------------------------------------------------------------------------


def test_after_the_last_anchor_a_chain_made_anew_is_not_seen(evidence: Evidence) -> None:
    # The docs say so in plain words; here it is shown to be true.
    with tampering(evidence.conn):
        evidence.conn.execute(
            "UPDATE quantagent.events SET topic = 'RunFailed.v9' WHERE notification_id > %s", (evidence.anchored_to,)
        )
        assert evidence.finding() is not None
        forge(evidence.conn)
        assert evidence.finding() is None


def test_an_anchor_signed_by_somebody_else_is_refused(evidence: Evidence) -> None:
    trusted = anchors.read_public_key(signing.public_key_file(evidence.home))
    assert verify.verify_log(evidence.conn, evidence.anchors, trusted).finding is None
    found = verify.verify_log(evidence.conn, evidence.anchors, "00" * 32).finding
    assert found is not None
    assert "another key" in found.what


def test_an_anchor_of_another_log_is_refused(evidence: Evidence) -> None:
    foreign = msgspec.structs.replace(evidence.anchors[0], log=UUID(int=1))
    found = verify.verify_log(evidence.conn, [foreign]).finding
    assert found is not None
    assert "of another log" in found.what


def test_the_same_head_is_anchored_once_and_the_key_is_for_its_owner_only(evidence: Evidence) -> None:
    first = signing.sign_head(evidence.conn, evidence.home, AT)
    again = signing.sign_head(evidence.conn, evidence.home, AT)
    assert first == again
    assert first is not None
    assert anchors.is_signed(first)
    key = signing.key_file(evidence.home)
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.parent.stat().st_mode & 0o777 == 0o700
    key.unlink()
    with PostgresStore(evidence.conn.info.dsn) as store:
        store.append([Batch("run:x", 0, [RunFailed("x", "y")])], Cause("test"))
    with pytest.raises(BadInput, match="signed this log's anchors is missing"):
        signing.sign_head(evidence.conn, evidence.home, AT)


def test_a_log_that_contradicts_its_last_anchor_is_not_signed_over(evidence: Evidence) -> None:
    with tampering(evidence.conn):
        make_the_chain_anew(evidence)
        with pytest.raises(BadInput, match="does not match the last anchor"):
            signing.sign_head(evidence.conn, evidence.home, AT)
    with tampering(evidence.conn):
        cut_the_tail(evidence)
        with pytest.raises(BadInput, match="does not match the last anchor"):
            signing.sign_head(evidence.conn, evidence.home, AT)


def test_a_damaged_file_of_anchors_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "anchors.jsonl"
    file.write_text('{"log":\n')
    with pytest.raises(BadInput, match=r"line 1 of .*anchors\.jsonl is not an anchor"):
        anchors.read_anchors(file)
    with pytest.raises(BadInput, match="cannot be read"):
        anchors.read_anchors(tmp_path / "absent")


def test_a_log_under_another_name_is_held_against_its_old_anchors(evidence: Evidence) -> None:
    conn, home = evidence.conn, evidence.home
    first = read_log_id(conn)
    with tampering(conn):
        conn.execute("UPDATE quantagent.log_identity SET log_id = gen_random_uuid()")
        forge(conn)
        assert read_log_id(conn) != first
        found = signing.anchoring_state(conn, home)
        assert (found.defect, found.file) == (signing.AnchoringDefect.LOG, anchors.anchors_file(home, first))
        assert f"was anchored as {first}" in found.refusal
        with pytest.raises(BadInput, match="the log in this database was replaced"):
            signing.sign_head(conn, home, AT)
        finding = verify.verify_log(conn, found.anchors).finding
        assert finding is not None
        assert "of another log" in finding.what


def test_a_log_without_a_name_is_refused_in_words(evidence: Evidence) -> None:
    with tampering(evidence.conn):
        evidence.conn.execute("DELETE FROM quantagent.log_identity")
        with pytest.raises(BadInput, match="has 0 rows and 0 of them name a log"):
            evidence.finding()


def test_half_an_anchor_stands_in_nobodys_way(evidence: Evidence) -> None:
    """What a full disk or a power cut leaves of a line is passed over, and replaced by the next anchor."""
    file = anchors.anchors_file(evidence.home, read_log_id(evidence.conn))
    whole = file.read_bytes()
    file.write_bytes(whole + whole.splitlines()[-1][:40])
    assert anchors.read_anchors(file) == evidence.anchors
    with PostgresStore(evidence.conn.info.dsn) as store:
        store.append([Batch("run:x", 0, [RunFailed("x", "y")])], Cause("test"))
    made = signing.sign_head(evidence.conn, evidence.home, AT)
    assert anchors.read_anchors(file) == [*evidence.anchors, made]


def make_an_anchor(dsn: str, home: Path) -> None:
    with psycopg.connect(dsn) as conn:
        signing.sign_head(conn, home, AT)


@pytest.mark.slow(8)
def test_processes_that_anchor_first_at_once_share_one_key(evidence: Evidence, tmp_path: Path) -> None:
    for n in range(5):
        home = tmp_path / str(n)
        both = [get_context("spawn").Process(target=make_an_anchor, args=(evidence.conn.info.dsn, home)) for _ in "ab"]
        for process in both:
            process.start()
        for process in both:
            process.join(WAIT_TIMEOUT_S)
            assert process.exitcode == 0
        (found,) = anchors.read_anchors(anchors.anchors_file(home, read_log_id(evidence.conn)))
        assert found.key == anchors.read_public_key(signing.public_key_file(home))


def test_a_stream_that_lacks_a_version_is_not_read_as_if_it_were_whole(evidence: Evidence) -> None:
    conn = evidence.conn
    with conn.transaction():
        conn.execute("SET LOCAL session_replication_role = replica")
        conn.execute("DELETE FROM quantagent.events WHERE originator_version = 2")
    with PostgresStore(conn.info.dsn) as store:
        for stream in (row.stream for row in store.read_all() if row.version == 3):
            with pytest.raises(EventMissing, match=f"{stream} has no version 2"):
                list(store.read(stream))
