"""A run travels in one file and comes out the same on another machine; a file that was changed is refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from datetime import timedelta
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import msgspec
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from engine.audit.bundle import pack_run
from engine.audit.capsule import Capsule, open_capsule
from engine.audit.regenerate import run_bars
from engine.core.errors import BadInput
from engine.core.events import AnalysisMade, OrderFilled
from engine.core.market import Timeframe, instrument_for
from engine.core.money import exact
from engine.data.catalogue import PostgresCatalogue
from engine.runtime import runs
from engine.store import ENGINE_VERSION, Batch, Cause
from engine.store.postgres import PostgresStore
from tests.support.capsules import START, Origin, edited, member, origin, repack
from tests.support.commands import answer, refusal, rows_in, run
from tests.support.embedded_home import environment, new_home
from tests.support.tampered_logs import tampering
from ui.app import open_app
from ui.cli.commands import app as commands
from ui.settings import Settings

__all__ = ["origin"]

pytestmark = pytest.mark.slow

KINDS = ("backtest", "replay", "imported", "paper")


@pytest.fixture
def elsewhere(dsn: str, tmp_path: Path) -> dict[str, str]:
    """Another machine, with an empty database."""
    return {**os.environ, "QUANTAGENT_DSN": dsn, "QUANTAGENT_HOME": str(tmp_path), "QUANTAGENT_ACTOR": "auditor"}


# --- The same again -----------------------------------------------------------------------------------------------


@pytest.mark.slow(11)
def test_a_run_of_one_fresh_home_is_reproduced_on_another(tmp_path: Path) -> None:
    file, period = tmp_path / "run.zip", ("--start", "2017-08-15", "--end", "2017-08-19")
    with new_home() as here, new_home() as there:
        ours, theirs = (environment(QUANTAGENT_HOME=str(home), QUANTAGENT_PG_LINGER_S="3") for home in (here, there))
        run(ours, "data", "sample")
        made = answer(ours, "backtest", *period)
        packed = answer(ours, "audit", "bundle", "latest", file)
        assert (packed["book_digest"], packed["bars"]) == (made["book_digest"], made["bars"])
        assert packed["anchored_at"] is not None
        shown = run(theirs, "audit", "reproduce", file).stdout
        assert shown.startswith("engine version")
        assert shown.count(made["book_digest"]) == 2
        assert "\norigin: vouched for by " in shown
        assert shown.endswith("0 analyses made\nequal\n")
        trades = answer(ours, "trades", "list", "--run", made["run_id"])["trades"]
        assert trades
        assert answer(theirs, "trades", "list", "--run", made["run_id"])["trades"] == trades
        chain = answer(theirs, "why", trades[0]["trade_id"], "--run", made["run_id"])["chain"]
        assert [link["kind"] for link in chain][:5] == ["analysis", "signal", "risk decision", "order", "fill"]


@pytest.mark.slow(13)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_comes_out_the_same_and_again(origin: Origin, elsewhere: dict[str, str], kind: str) -> None:
    said = answer(elsewhere, "audit", "reproduce", origin.capsules[kind])
    assert said["equal"] is True
    assert (said["run_id"], said["analyses_made"], said["difference"]) == (origin.runs[kind], 0, None)
    assert said["environment"] == ("backtest" if kind == "imported" else kind)
    assert said["book_digest"]["capsule"] == said["book_digest"]["here"]
    assert said["counts"]["fills"]["here"] > 0
    events = rows_in(elsewhere["QUANTAGENT_DSN"], "quantagent.events")
    assert answer(elsewhere, "audit", "reproduce", origin.capsules[kind])["equal"] is True
    assert rows_in(elsewhere["QUANTAGENT_DSN"], "quantagent.events") == events
    (listed,) = answer(elsewhere, "runs", "list")["runs"]
    assert (listed["run_id"], listed["status"]) == (origin.runs[kind], "ended")
    shown = answer(elsewhere, "audit", "regenerate", "latest")
    assert (shown["equal"], shown["book_digest"]["regenerated"]) == (True, said["book_digest"]["capsule"])


def anchor_key(origin: Origin) -> Path:
    return Path(origin.env["QUANTAGENT_HOME"]) / "keys" / "anchor.pub"


def test_the_key_that_was_handed_out_vouches_for_a_run(origin: Origin, elsewhere: dict[str, str]) -> None:
    file, key = origin.capsules["backtest"], anchor_key(origin)
    for given in (key, key.read_text().strip()):
        shown = run(elsewhere, "audit", "reproduce", file, "--public-key", given).stdout
        (line,) = (line for line in shown.splitlines() if line.startswith("origin: "))
        assert line.startswith(f"origin: vouched for by {key.read_text().strip()} at 20")
        assert "compare it" not in line
    said = answer(elsewhere, "audit", "reproduce", file)["origin"]
    assert (said["public_key"], said["checked"]) == (key.read_text().strip(), False)
    without = run(elsewhere, "audit", "reproduce", file).stdout
    assert "a key from the capsule itself: compare it with --public-key" in without


def test_a_run_that_another_key_signed_is_refused_before_anything_is_imported(
    origin: Origin, elsewhere: dict[str, str], tmp_path: Path
) -> None:
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    (tmp_path / "other.pub").write_text(other)
    given = ("--public-key", tmp_path / "other.pub")
    done = run(elsewhere, "audit", "reproduce", origin.capsules["backtest"], *given, code=3)
    assert f"No anchor signed with {other} vouches for run" in done.stderr
    assert done.stdout == ""
    assert answer(elsewhere, "runs", "list")["runs"] == []
    refused = refusal(elsewhere, "audit", "reproduce", origin.capsules["backtest"], "--public-key", "none.pub")
    assert "is not a public key" in refused


def test_a_run_without_an_anchor_has_no_key_that_vouches_for_it(
    origin: Origin, elsewhere: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "bare.zip"
    with PostgresStore(origin.dsn) as store, psycopg.connect(origin.dsn) as conn:
        found = runs.find_run_by_prefix(store, origin.runs["backtest"])
        pack_run(store, conn, found, run_bars(PostgresCatalogue(origin.dsn), store, found), None, file)
    assert "origin: not vouched for by any key" in run(elsewhere, "audit", "reproduce", file).stdout
    refused = run(elsewhere, "audit", "reproduce", file, "--public-key", anchor_key(origin), code=3)
    assert "No anchor signed with" in refused.stderr


def test_a_run_is_reproduced_where_it_was_made(origin: Origin) -> None:
    events = rows_in(origin.dsn, "quantagent.events")
    assert answer(origin.env, "audit", "reproduce", origin.capsules["backtest"])["equal"] is True
    assert rows_in(origin.dsn, "quantagent.events") == events


def test_the_same_run_gives_the_same_bytes(origin: Origin, tmp_path: Path) -> None:
    # Another anchor of the log would be in it too: both are made of the log as it is now.
    for name in ("one.zip", "other.zip"):
        run(origin.env, "audit", "bundle", origin.runs["replay"], tmp_path / name)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "other.zip").read_bytes()


def test_a_capsule_is_its_dataset_its_book_and_its_seals(origin: Origin) -> None:
    capsule = open_capsule(origin.capsules["backtest"])
    with PostgresStore(origin.dsn) as store:
        assert list(capsule.book()) == list(store.read(runs.book_stream(capsule.manifest.run_id)))
        bars = run_bars(PostgresCatalogue(origin.dsn), store, capsule.requested)
    assert capsule.bars() == bars
    with ZipFile(capsule.path) as zipped:
        assert sha256(zipped.read("bars.csv")).hexdigest() == capsule.requested.dataset_digest
        assert sha256(zipped.read("lock.txt")).hexdigest() == capsule.manifest.lock_digest
    assert len(list(capsule.analyses())) == capsule.manifest.bars
    imported = open_capsule(origin.capsules["imported"])
    assert list(imported.analyses()) == []
    assert imported.signals() is not None


def test_an_anchor_vouches_for_a_run_whose_appends_it_closes(origin: Origin) -> None:
    capsule = open_capsule(origin.capsules["backtest"])
    anchor = capsule.vouching_anchor()
    assert anchor is not None
    with PostgresStore(origin.dsn) as store:
        *_, ended = store.read(runs.run_stream(capsule.manifest.run_id))
    assert anchor.position == ended.position
    # Other facts came between this run's and the next anchor.
    assert open_capsule(origin.capsules["imported"]).vouching_anchor() is None


def test_another_engine_and_other_packages_are_named_before_anything_else(
    origin: Origin, elsewhere: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in elsewhere.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("engine.store.ENGINE_VERSION", "0.3.0")
    lines = [*open_capsule(origin.capsules["backtest"]).lock_lines(), "added==1.0"]
    monkeypatch.setattr("ui.environment_lock.lock_lines", lambda: lines)
    monkeypatch.setattr("ui.environment_lock.lock_digest", lambda: "another")
    done = CliRunner().invoke(commands, ["audit", "reproduce", str(origin.capsules["backtest"])])
    assert done.exit_code == 0
    assert done.stdout.startswith(
        f"engine version  {ENGINE_VERSION} in the capsule, 0.3.0 here\nThe engine versions differ"
    )
    assert "warning: the installed versions differ from those of the run: added==1.0." in done.stderr


# --- What cannot be bundled ---------------------------------------------------------------------------------------


def test_a_run_that_has_not_ended_and_a_file_that_exists_are_refused(origin: Origin, tmp_path: Path) -> None:
    with open_app(Settings(tmp_path, origin.dsn, "tester")) as app:
        asked = runs.find_run_by_prefix(app.store, origin.runs["backtest"])
        begun = msgspec.structs.replace(asked, run_id="00000000-begun")
        runs.start_run(app.store, begun, START, "tester")
    assert "has not ended" in refusal(origin.env, "audit", "bundle", "00000000-begun", tmp_path / "x.zip")
    assert "exists: use a new name" in refusal(origin.env, "audit", "bundle", "latest", origin.capsules["replay"])
    assert "there is no run" in refusal(origin.env, "audit", "bundle", "abcdef", tmp_path / "x.zip")
    assert not list(tmp_path.glob("*.zip"))


def test_a_run_that_was_changed_in_the_log_is_not_bundled(origin: Origin, tmp_path: Path) -> None:
    with PostgresStore(origin.dsn) as store, psycopg.connect(origin.dsn) as conn:
        found = runs.find_run_by_prefix(store, origin.runs["backtest"])
        bars = run_bars(PostgresCatalogue(origin.dsn), store, found)
        fill = next(
            row.position for row in store.read(runs.book_stream(found.run_id)) if isinstance(row.event, OrderFilled)
        )
        changed = "UPDATE quantagent.events SET state = %s::bytea || substr(state, 2) WHERE notification_id = %s"
        with tampering(conn):
            conn.execute(changed, (b"[ ", fill))
            with pytest.raises(BadInput, match="cannot be bundled because "):
                pack_run(store, conn, found, bars, None, tmp_path / "run.zip")
        with pytest.raises(BadInput, match=r"bars\.csv"):
            pack_run(store, conn, found, [bars[0][1:], bars[1]], None, tmp_path / "run.zip")
    assert list(tmp_path.iterdir()) == []


# --- Damaged and foreign files ------------------------------------------------------------------------------------


def lines_of(source: Path, name: str) -> list[bytes]:
    return member(source, name).splitlines(keepends=True)


def fixed(changes: Mapping[str, bytes | None]) -> Callable[[Path], Mapping[str, bytes | None]]:
    return lambda source: changes


def other_bar(source: Path) -> dict[str, bytes | None]:
    first, *rest = lines_of(source, "bars.csv")
    *cells, _ = first.split(b",")
    return {"bars.csv": b"".join([b",".join([*cells, b"7\n"]), *rest])}


def foreign_analysis(source: Path) -> dict[str, bytes | None]:
    return {"analyses.jsonl": b"".join([*lines_of(source, "analyses.jsonl"), lines_of(source, "run.jsonl")[0]])}


def other_stream(source: Path) -> dict[str, bytes | None]:
    first, *rest = lines_of(source, "book.jsonl")
    place = first.index(b'"stream_id":"') + len('"stream_id":"')
    digit = b"1" if first[place : place + 1] != b"1" else b"2"
    return {"book.jsonl": b"".join([first[:place] + digit + first[place + 1 :], *rest])}


FORGERIES: list[tuple[Callable[[Path], Mapping[str, bytes | None]], str]] = [
    (other_bar, "bars.csv does not hold the bars that the run was made from"),
    (lambda f: {"bars.csv": b"".join(lines_of(f, "bars.csv")[1:])}, "bars.csv does not hold"),
    (edited("book.jsonl", b'\\"quantity\\":\\"', b'\\"quantity\\":\\"1'), "the book that the run ended with"),
    (edited("book.jsonl", b'\\"quantity\\":', b'\\"quality\\":'), "cannot be read"),
    (lambda f: {"book.jsonl": b"".join(lines_of(f, "book.jsonl")[:-1])}, "the book that the run ended with"),
    (edited("book.jsonl", b'"name":"OrderPlaced.v3"', b'"name":"os.system.v1"'), "unknown to this engine version"),
    (edited("book.jsonl", b'"stream_id":"', b'"stream":"'), "unknown field"),
    (other_stream, "belongs to another stream"),
    (lambda f: {"analyses.jsonl": b"".join(lines_of(f, "analyses.jsonl")[1:])}, "which the run consulted, is missing"),
    (foreign_analysis, "which the run did not consult"),
    (edited("run.jsonl", b'\\"cash\\":\\"100000\\"', b'\\"cash\\":\\"900000\\"'), "does not match its digest"),
    (edited("run.jsonl", b'"position":', b'"position":1'), "do not match seal"),
    (lambda f: {"run.jsonl": b"".join(lines_of(f, "run.jsonl")[:2])}, "lacks the request, the start or the end"),
    (lambda f: {"run.jsonl": b"".join(lines_of(f, "run.jsonl")) + b"{}\n"}, "missing required field"),
    (lambda f: {"seals.jsonl": b"".join(lines_of(f, "seals.jsonl")[:-1])}, "has no seal"),
    (edited("seals.jsonl", b'"hash":"', b'"hash":"00'), "do not match seal"),
    (edited("seals.jsonl", b'"previous":"', b'"previous":"zz'), "hexadecimal"),
    (edited("anchors.jsonl", b'"position":', b'"position":1'), "is not signed by its key"),
    (fixed({"lock.txt": b"numpy==1\n"}), "lock.txt does not match the digest"),
    (fixed({"lock.txt": b"numpy==1"}), "lock.txt does not match the digest"),
    (fixed({"anchors.jsonl": b"{}"}), "has no end"),
    (fixed({"analyses.jsonl": None}), "its manifest names"),
    (fixed({"signals.jsonl": b""}), "its manifest names"),
    (fixed({"../evil": b"x"}), "its manifest names"),
]


@pytest.mark.parametrize(("change", "says"), FORGERIES)
def test_what_does_not_fit_together_is_refused_though_the_manifest_agrees(
    origin: Origin, tmp_path: Path, change: Callable[[Path], Mapping[str, bytes | None]], says: str
) -> None:
    source = origin.capsules["backtest"]
    file = repack(source, tmp_path / "run.zip", change(source))
    with pytest.raises(BadInput) as refused:
        open_capsule(file)
    assert says in str(refused.value)
    assert str(refused.value).startswith(f"{file} is not a usable capsule: ")


# A paper run has no digest of its bars, which were to come.
PAPER_FORGERIES: list[tuple[Callable[[Path], Mapping[str, bytes | None]], str]] = [
    (edited("bars.csv", b"Z,", b"+00:00,"), "is not a bar in canonical form"),
    (edited("bars.csv", b"BTC-USD", b"BTC-EUR"), "which is not a symbol of the run"),
    (fixed({"bars.csv": b"BTC-USD\n"}), "not enough values"),
    (fixed({"bars.csv": b"\xff\n"}), "codec"),
    (fixed({"bars.csv": b""}), "no bars of one"),
    (lambda f: {"bars.csv": b"".join(lines_of(f, "bars.csv")[1:])}, "bars.csv does not hold the 144 bars of the run"),
]


@pytest.mark.parametrize(("change", "says"), PAPER_FORGERIES)
def test_bars_that_are_none_are_refused_by_themselves(
    origin: Origin, tmp_path: Path, change: Callable[[Path], Mapping[str, bytes | None]], says: str
) -> None:
    file = repack(origin.capsules["paper"], tmp_path / "run.zip", change(origin.capsules["paper"]))
    with pytest.raises(BadInput) as refused:
        open_capsule(file)
    assert says in str(refused.value)


CHANGED: list[tuple[dict[str, bytes | None], dict[str, Any], str]] = [
    ({"bars.csv": b"nothing\n"}, {}, "bars.csv has 8 bytes, and its manifest names"),
    ({"book.jsonl": None}, {}, "not what its manifest names"),
    ({"../../evil": b"x"}, {}, "not what its manifest names"),
    ({}, {"format": "quantagent capsule 2"}, "'quantagent capsule 2', and this engine reads a 'quantagent capsule 1'"),
    ({}, {"format": None}, "got `null`"),
    ({}, {"engine": "0.0.9"}, "does not match its run.jsonl"),
    ({}, {"bars": 1}, "does not match its run.jsonl"),
    ({}, {"members": {}}, "its manifest names"),
    ({}, {"fills": "many"}, "Expected `int`"),
    ({}, {"more": 1}, "unknown field"),
]


@pytest.mark.parametrize(("changes", "facts", "says"), CHANGED)
def test_a_file_that_is_not_the_manifests_is_refused(
    origin: Origin, tmp_path: Path, changes: dict[str, bytes | None], facts: dict[str, Any], says: str
) -> None:
    file = repack(origin.capsules["backtest"], tmp_path / "run.zip", changes, sign=False, **facts)
    with pytest.raises(BadInput) as refused:
        open_capsule(file)
    assert says in str(refused.value)


def test_a_member_that_was_changed_in_place_is_refused(origin: Origin, tmp_path: Path) -> None:
    source = origin.capsules["backtest"]
    change = edited("anchors.jsonl", b'"seal":', b'"sear":')
    with pytest.raises(BadInput, match=r"anchors\.jsonl was changed"):
        open_capsule(repack(source, tmp_path / "run.zip", change(source), sign=False))


def test_a_run_under_another_name_is_refused(origin: Origin, tmp_path: Path) -> None:
    source, ours, other = origin.capsules["backtest"], origin.runs["backtest"], origin.runs["replay"]
    first, *rest = lines_of(source, "run.jsonl")
    renamed = first.replace(f'\\"run_id\\":\\"{ours}'.encode(), f'\\"run_id\\":\\"{other}'.encode())
    assert renamed != first
    file = repack(source, tmp_path / "run.zip", {"run.jsonl": b"".join([renamed, *rest])}, run_id=other)
    with pytest.raises(BadInput, match=r"run\.jsonl holds events of another run"):
        open_capsule(file)


def test_an_anchor_of_somebody_else_does_not_vouch_for_other_seals(origin: Origin, tmp_path: Path) -> None:
    source, mine = origin.capsules["backtest"], Ed25519PrivateKey.generate()
    last = open_capsule(source).vouching_anchor()
    assert last is not None
    unsigned = msgspec.structs.replace(last, hash="00" * 32, key=mine.public_key().public_bytes_raw().hex())
    forged = msgspec.structs.replace(unsigned, signature=mine.sign(unsigned.signed_text).hex())
    file = repack(source, tmp_path / "run.zip", {"anchors.jsonl": msgspec.json.encode(forged) + b"\n"})
    with pytest.raises(BadInput, match="is not the one anchored at"):
        open_capsule(file)


def test_a_zip_that_would_unpack_to_too_much_is_not_unpacked(origin: Origin, tmp_path: Path) -> None:
    bomb = repack(origin.capsules["backtest"], tmp_path / "run.zip", {"anchors.jsonl": bytes(50_000_000)}, sign=False)
    with pytest.raises(BadInput, match=r"anchors\.jsonl has 50000000 bytes"):
        open_capsule(bomb)
    signed = repack(origin.capsules["backtest"], tmp_path / "two.zip", {"anchors.jsonl": bytes(70_000_000)})
    with pytest.raises(BadInput, match="has no end"):
        open_capsule(signed)
    large = repack(origin.capsules["backtest"], tmp_path / "three.zip", {}, more="x" * 2_000_000)
    with pytest.raises(BadInput, match=r"manifest\.json is too large"):
        open_capsule(large)


def test_a_foreign_or_broken_file_is_refused_in_one_sentence_and_nothing_is_imported(
    origin: Origin, elsewhere: dict[str, str], tmp_path: Path
) -> None:
    whole = origin.capsules["backtest"].read_bytes()
    with ZipFile(tmp_path / "other.zip", "w") as zipped:
        zipped.writestr("letter.txt", "hello")
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.zip").touch()
    (tmp_path / "text.zip").write_text("no zip at all")
    (tmp_path / "flipped.zip").write_bytes(whole[:5_000] + bytes([whole[5_000] ^ 64]) + whole[5_001:])
    for name in ("other", "half", "empty", "text", "flipped"):
        with pytest.raises(BadInput, match=f"{name}.zip is not a usable capsule"):
            open_capsule(tmp_path / f"{name}.zip")
    assert "half.zip is not a usable capsule" in refusal(elsewhere, "audit", "reproduce", tmp_path / "half.zip")
    assert "cannot be read" in refusal(elsewhere, "audit", "reproduce", tmp_path / "absent.zip")
    assert rows_in(elsewhere["QUANTAGENT_DSN"], "quantagent.events") == 0
    assert rows_in(elsewhere["QUANTAGENT_DSN"], "quantagent.bars") == 0


# --- What is elsewhere already ------------------------------------------------------------------------------------


def test_an_opinion_that_was_changed_shows_in_the_book(
    origin: Origin, elsewhere: dict[str, str], tmp_path: Path
) -> None:
    source = origin.capsules["backtest"]
    change = edited("analyses.jsonl", b'\\"decision\\":\\"LONG\\"', b'\\"decision\\":\\"SHORT\\"')
    file = repack(source, tmp_path / "run.zip", change(source))
    done = run(elsewhere, "audit", "reproduce", file, code=3)
    assert "first difference at version" in done.stdout
    assert done.stdout.endswith("0 analyses made\nDIFFERENT\n")
    # The honest capsule is not mixed with what is here now.
    assert "differs here from" in refused_here(elsewhere, source)


def refused_here(env: dict[str, str], file: Path) -> str:
    """What a reproduction that must not happen here says after its engine's name."""
    done = run(env, "audit", "reproduce", file, code=2)
    (said,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "QUANTAGENT_HOME" in said or "never overwritten" in said
    return said


def test_a_bar_with_other_values_that_is_here_already_stops_it(
    origin: Origin, elsewhere: dict[str, str], dsn: str
) -> None:
    file = origin.capsules["backtest"]
    capsule = open_capsule(file)
    catalogue, first = PostgresCatalogue(dsn), capsule.bars()[0][0]
    later = first.closed_at + timedelta(days=999)
    dearer = msgspec.structs.replace(first, high=exact(first.high + 1))
    catalogue.add(first.symbol, Timeframe.H1, [dearer], source="test", learned_at=later)
    assert "Stored bars are never overwritten" in refused_here(elsewhere, file)
    assert rows_in(dsn, "quantagent.events") == 0


def test_another_instrument_that_is_here_already_stops_it(origin: Origin, elsewhere: dict[str, str], dsn: str) -> None:
    catalogue, capsule = PostgresCatalogue(dsn), open_capsule(origin.capsules["backtest"])
    first = capsule.bars()[0][0]
    catalogue.save_instrument(msgspec.structs.replace(instrument_for(first.symbol), price_decimals=7))
    catalogue.add(first.symbol, Timeframe.H1, [first], source="test", learned_at=first.closed_at)
    assert "the instrument BTC-USD stored here differs" in refused_here(elsewhere, capsule.path)


def test_more_bars_in_its_range_stop_it(origin: Origin, elsewhere: dict[str, str], dsn: str) -> None:
    capsule = open_capsule(origin.capsules["backtest"])
    before = next(bar for bar, after in pairwise(capsule.bars()[1]) if after.opened_at > bar.closed_at)
    more = msgspec.structs.replace(before, opened_at=before.closed_at, closed_at=before.closed_at + timedelta(hours=1))
    PostgresCatalogue(dsn).add("EUR-USD", Timeframe.H1, [more], source="test", learned_at=more.closed_at)
    assert "has bars in the run's range" in refused_here(elsewhere, capsule.path)


def test_another_opinion_that_is_here_already_stops_it(origin: Origin, elsewhere: dict[str, str], dsn: str) -> None:
    capsule = open_capsule(origin.capsules["backtest"])
    row = next(capsule.analyses())
    assert isinstance(row.event, AnalysisMade)
    with PostgresStore(dsn) as store:
        other = msgspec.structs.replace(row.event, confidence=exact("0.123"))
        store.append([Batch(row.stream, 0, [other])], Cause("test"))
    assert f"{row.stream} differs here from" in refused_here(elsewhere, capsule.path)


def test_a_capsule_that_was_renamed_is_the_same(origin: Origin, tmp_path: Path) -> None:
    copy = Path(shutil.copy(origin.capsules["paper"], tmp_path / "renamed"))
    assert isinstance(open_capsule(copy), Capsule)
