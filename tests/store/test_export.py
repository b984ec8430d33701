"""An exported log proves itself to somebody who has nothing but Python; what was changed in it is refuted."""

from __future__ import annotations

import ast
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import polars as pl
import psycopg
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from engine.audit import export as exporting
from engine.audit import standalone
from engine.audit.anchors import Anchor, anchors_file, read_anchors, read_public_key
from engine.audit.chain import read_log_id
from engine.audit.export import EventLine, SealLine, digest_of_file, export_log
from engine.audit.signing import public_key_file
from engine.audit.standalone import NotAnExport, Refuted
from engine.audit.verify import verify_log
from engine.core.errors import BadInput
from engine.store.codec import decode_entry
from engine.store.hash_chain import SealBuilder, genesis, row_bytes
from tests.support import tampered_logs
from tests.support.commands import answer, run
from tests.support.databases import database
from tests.support.exports import bare, decoded
from tests.support.tampered_logs import Evidence, tamper, tampering
from ui.app import open_app
from ui.services.backtest import BacktestRequest, run_backtest
from ui.services.data import import_sample
from ui.settings import Settings

START, END = datetime(2017, 8, 15, tzinfo=UTC), datetime(2017, 8, 18, tzinfo=UTC)

evidence = tampered_logs.evidence


class Made(NamedTuple):
    """The export of a small run's log, and the key of its anchors as somebody keeps it."""

    folder: Path
    dsn: str
    home: Path
    key: bytes
    manifest: dict[str, Any]


@pytest.fixture(scope="session")
def made(server: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    base = tmp_path_factory.mktemp("exported")
    home, folder = base / "home", base / "log"
    with database(server, template) as dsn:
        with open_app(Settings(home, dsn, "tester")) as app:
            import_sample(app)
            run_backtest(app, BacktestRequest(start=START, end=END))
        with psycopg.connect(dsn) as conn:
            anchors = read_anchors(anchors_file(home, read_log_id(conn)))
            conn.rollback()
            export_log(conn, folder, anchors)
        key = bytes.fromhex(read_public_key(public_key_file(home)))
        yield Made(folder, dsn, home, key, json.loads((folder / "manifest.json").read_text()))


@pytest.fixture
def folder(made: Made, tmp_path: Path) -> Path:
    """A copy to tamper with."""
    return Path(shutil.copytree(made.folder, tmp_path / "log"))


# --- What holds ---------------------------------------------------------------------------------------------------


def test_a_bare_python_without_the_project_verifies_an_export(made: Made) -> None:
    for absent in ("engine", "msgspec", "cryptography"):
        assert "ModuleNotFoundError" in bare("-c", f"import {absent}").stderr
    done = bare(made.folder / "verify.py", "--public-key", made.key.hex())
    assert (done.returncode, done.stderr) == (0, "")
    events, position = made.manifest["events"], made.manifest["events"]
    assert f"{events} events under {made.manifest['seals']} seals: every link holds." in done.stdout
    assert f"signed with the key you passed; they vouch for everything up to position {position}." in done.stdout
    assert done.stdout.endswith("Everything holds.\n")


def test_the_verifier_needs_the_standard_library_and_the_grammar_of_3_8() -> None:
    tree = ast.parse(Path(standalone.__file__).read_text(), feature_version=(3, 8))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or "."]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= sys.stdlib_module_names


@pytest.mark.slow
def test_the_command_exports_and_refuses_a_folder_that_holds_something(made: Made, tmp_path: Path) -> None:
    env = {
        "PATH": "/usr/bin:/bin",
        "QUANTAGENT_DSN": made.dsn,
        "QUANTAGENT_HOME": str(made.home),
        "HOME": str(tmp_path),
    }
    said = answer(env, "audit", "export", tmp_path / "new" / "log")
    assert said["events"] == said["last_position"] == said["anchored_to"] == made.manifest["events"]
    assert said["head"] == made.manifest["head"]
    assert "Everything holds." in bare(tmp_path / "new" / "log" / "verify.py", "--public-key", made.key.hex()).stdout
    shown = run(env, "audit", "export", tmp_path / "log").stdout
    assert f"verify.py --public-key {made.key.hex()}" in shown
    assert "not an empty folder" in run(env, "audit", "export", tmp_path / "log", code=2).stderr
    (tmp_path / "file").touch()
    assert "not an empty folder" in run(env, "audit", "export", tmp_path / "file", code=2).stderr


def test_an_export_that_fails_leaves_nothing_behind(
    evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr(exporting, "_write_parquet", full)
    with evidence.conn.transaction(), pytest.raises(OSError, match="No space"):
        export_log(evidence.conn, tmp_path / "out" / "log", evidence.anchors)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_empty_log_is_exported_too(dsn: str, tmp_path: Path) -> None:
    with psycopg.connect(dsn) as conn:
        export_log(conn, tmp_path / "log", [])
    lines = list(standalone.verify_export(tmp_path / "log"))
    assert lines[1] == "0 events under 0 seals: every link holds."
    assert pl.read_parquet(tmp_path / "log" / "events.parquet").is_empty()


def test_the_table_has_the_rows_of_the_lines(made: Made) -> None:
    lines = decoded(made.folder / "events.jsonl", EventLine)
    table = pl.read_parquet(made.folder / "events.parquet")
    assert table.select("position", "stream_id", "version", "name", "state").rows() == [
        (line.position, str(line.stream_id), line.version, line.name, line.state) for line in lines
    ]
    facts = [decode_entry(line.position, line.version, line.name, line.state.encode()) for line in lines]
    assert table.select("stream", "run", "actor", "recorded_at", "payload").rows() == [
        (f.stream, f.meta.correlation, f.meta.actor, f.meta.recorded_at, f.payload.decode()) for f in facts
    ]


# --- What does not ------------------------------------------------------------------------------------------------


def sign_off(folder: Path, **changes: Any) -> None:
    """The manifest as it would be, had these files always been so."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"] = {name: digest_of_file(folder / name) for name in manifest["files"]}
    path.write_text(json.dumps({**manifest, **changes}))


def edit_lines(folder: Path, name: str, change: Callable[[list[str]], object]) -> None:
    path = folder / name
    lines = path.read_text().splitlines(keepends=True)
    change(lines)
    path.write_text("".join(lines))


def edit_state(lines: list[str]) -> None:
    place = next(n for n, line in enumerate(lines) if '"OrderFilled.v2"' in line)
    lines[place] = lines[place].replace('\\"quantity\\":\\"', '\\"quantity\\":\\"1')


def row_of(event: EventLine) -> bytes:
    return row_bytes(event.stream_id.bytes, event.version, event.name.encode(), event.state.encode(), event.position)


def make_anew(folder: Path) -> None:
    """The chain over the events as they now are, by a forger who knows how it is made."""
    log = json.loads((folder / "manifest.json").read_text())["log"]
    events = decoded(folder / "events.jsonl", EventLine)
    old = decoded(folder / "seals.jsonl", SealLine)
    previous, made, number, count = genesis(UUID(log)), list[SealLine](), 0, len(events)
    while events:
        number += 1
        was = old[min(number, len(old)) - 1]
        size = was.events if number <= len(old) else len(events)
        mine, events = events[:size], events[size:]
        place = (number, mine[0].position, mine[-1].position, len(mine))
        sealing = SealBuilder(*place, previous, was.sealed_at, was.sealed_by)
        sealing.add(
            [row_bytes(e.stream_id.bytes, e.version, e.name.encode(), e.state.encode(), e.position) for e in mine]
        )
        seal = sealing.build()
        texts = (seal.previous.hex(), seal.hash.hex(), seal.checks.hex(), seal.sealed_at, seal.sealed_by)
        made.append(SealLine(*place, *texts))
        previous = seal.hash
    (folder / "seals.jsonl").write_bytes(b"".join(msgspec.json.encode(seal) + b"\n" for seal in made))
    sign_off(folder, head=previous.hex(), seals=len(made), events=count)


def refuted(folder: Path, *arguments: object) -> str:
    done = bare(folder / "verify.py", folder, *arguments)
    assert (done.returncode, done.stderr) == (3, ""), done
    return done.stdout.splitlines()[-1]


def test_a_changed_event_is_named_by_its_position(folder: Path) -> None:
    before = (folder / "events.jsonl").read_text().splitlines()
    edit_lines(folder, "events.jsonl", edit_state)
    assert "events.jsonl is not the file in the manifest" in refuted(folder)
    sign_off(folder)
    place = next(n for n, line in enumerate((folder / "events.jsonl").read_text().splitlines()) if line != before[n])
    assert f"the event at position {json.loads(before[place])['position']} was changed" in refuted(folder)


CHANGES: list[tuple[Callable[[list[str]], object], str]] = [
    (lambda lines: lines.pop(20), "1 missing"),
    (lambda lines: lines.pop(), "1 missing"),
    (lambda lines: lines.insert(3, lines[2]), "does not follow position"),
    (lambda lines: lines.append(lines[-1].replace('"position":', '"position":9')), "has no seal"),
    (lambda lines: lines.insert(0, lines[0].replace('"position":', '"position":-')), "1 too many"),
    (lambda lines: lines.insert(5, lines.pop(9)), "does not follow position"),
]


@pytest.mark.parametrize(("change", "says"), CHANGES)
def test_a_missing_added_or_moved_line_is_refuted(
    folder: Path, change: Callable[[list[str]], object], says: str
) -> None:
    edit_lines(folder, "events.jsonl", change)
    sign_off(folder)
    assert says in refuted(folder)


def test_a_missing_seal_and_a_missing_file_are_refuted(folder: Path) -> None:
    edit_lines(folder, "seals.jsonl", lambda lines: lines.pop(1))
    sign_off(folder)
    assert "seal 2 is missing" in refuted(folder)
    (folder / "seals.jsonl").unlink()
    assert "seals.jsonl, which the manifest lists, is missing" in refuted(folder)


def test_a_manifest_that_counts_otherwise_is_refuted(folder: Path) -> None:
    sign_off(folder, events=1)
    assert "it lists 1 events" in refuted(folder)


def test_a_chain_made_anew_meets_its_anchor(folder: Path) -> None:
    edit_lines(folder, "events.jsonl", edit_state)
    make_anew(folder)
    assert "the chain was rewritten" in refuted(folder)


def test_a_tail_that_was_cut_is_missed_by_its_anchor(folder: Path) -> None:
    *_, before, last = decoded(folder / "seals.jsonl", SealLine)
    edit_lines(folder, "events.jsonl", lambda lines: lines.__delitem__(slice(-last.events, None)))
    edit_lines(folder, "seals.jsonl", lambda lines: lines.pop())
    sign_off(folder, head=before.hash, seals=before.seal, events=before.last_position)
    said = refuted(folder)
    assert f"the log ends at seal {before.seal}, but seal {last.seal} was anchored" in said
    assert "its tail was cut off" in said


def test_anchors_signed_with_another_key_are_refuted_by_who_knows_the_key(made: Made, folder: Path) -> None:
    edit_lines(folder, "events.jsonl", edit_state)
    make_anew(folder)
    seals = {seal.seal: seal for seal in decoded(folder / "seals.jsonl", SealLine)}
    mine = Ed25519PrivateKey.generate()
    public = mine.public_key().public_bytes_raw().hex()
    forged: list[Anchor] = []
    for anchor in read_anchors(folder / "anchors.jsonl"):
        unsigned = msgspec.structs.replace(anchor, hash=seals[anchor.seal].hash, key=public, signature="")
        forged.append(msgspec.structs.replace(unsigned, signature=mine.sign(unsigned.signed_text).hex()))
    original = (folder / "anchors.jsonl").read_bytes()
    (folder / "anchors.jsonl").write_bytes(b"".join(msgspec.json.encode(anchor) + b"\n" for anchor in forged))
    sign_off(folder, public_key=public)
    # By itself the folder is whole: that is why the key must come another way.
    assert "proves less" in "\n".join(standalone.verify_export(folder))
    assert "signed with another key" in refuted(folder, "--public-key", made.key.hex())
    # Without the anchors it is whole as well, but not for who knows a key or kept the anchors.
    (folder / "anchors.jsonl").write_bytes(b"")
    sign_off(folder, public_key="")
    assert "There is no anchor" in "\n".join(standalone.verify_export(folder))
    assert "nothing is signed with the key you passed" in refuted(folder, "--public-key", made.key.hex())
    kept = folder.parent / "kept.jsonl"
    kept.write_bytes(original)
    assert "the chain was rewritten" in refuted(folder, "--public-key", made.key.hex(), "--anchor", kept)


def test_what_vouches_for_no_more_than_a_part_is_told(folder: Path) -> None:
    edit_lines(folder, "anchors.jsonl", lambda lines: lines.clear())
    sign_off(folder)
    assert any(line.startswith("There is no anchor") for line in standalone.verify_export(folder))


def test_any_changed_byte_of_the_chain_is_refused(evidence: Evidence, tmp_path: Path) -> None:
    folder, random = tmp_path / "log", Random(11)
    with evidence.conn.transaction():
        export_log(evidence.conn, folder, evidence.anchors)
    assert list(standalone.verify_export(folder))
    for n in range(90):
        path = folder / standalone.CHAIN[n % 3]
        whole = path.read_bytes()
        place = random.randrange(len(whole))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << random.randrange(8))]) + whole[place + 1 :])
        sign_off(folder)
        with pytest.raises((Refuted, NotAnExport)):
            list(standalone.verify_export(folder))
        path.write_bytes(whole)
    sign_off(folder)
    assert list(standalone.verify_export(folder))


@pytest.mark.parametrize("forged", [False, True])
def test_the_export_of_a_tampered_database_is_refuted_whenever_the_database_is(
    evidence: Evidence, tmp_path: Path, forged: bool
) -> None:
    def agree(n: int) -> bool:
        export_log(evidence.conn, tmp_path / str(n), evidence.anchors)
        theirs = verify_log(evidence.conn, evidence.anchors).finding
        try:
            list(standalone.verify_export(tmp_path / str(n)))
        except Refuted:
            return theirs is not None
        return theirs is None

    with evidence.conn.transaction():
        assert agree(-1)
        assert verify_log(evidence.conn, evidence.anchors).finding is None
    for seed in range(40):
        with tampering(evidence.conn):
            kind, place = tamper(evidence, seed, forged)
            assert agree(seed), f"seed {seed}: {kind} at {place}"


# --- Every check of the verifier is needed: with it taken out, something passes unnoticed --------------------------


def edit_the_readme(folder: Path) -> None:
    (folder / "README.txt").write_text("Nothing to see here.")


def edit_an_event(folder: Path) -> None:
    edit_lines(folder, "events.jsonl", edit_state)
    sign_off(folder)


def replace_one_seal(folder: Path) -> None:
    """An event is changed and its own seal made anew; the seals after it stay."""
    edit_lines(folder, "events.jsonl", edit_state)
    old = decoded(folder / "seals.jsonl", SealLine)
    head = json.loads((folder / "manifest.json").read_text())["head"]
    make_anew(folder)
    new = decoded(folder / "seals.jsonl", SealLine)
    first = next(n for n, seal in enumerate(new) if seal != old[n])
    assert first < len(old) - 1
    mixed = [*old[:first], new[first], *old[first + 1 :]]
    (folder / "seals.jsonl").write_bytes(b"".join(msgspec.json.encode(seal) + b"\n" for seal in mixed))
    sign_off(folder, head=head)


def make_the_chain_anew(folder: Path) -> None:
    edit_lines(folder, "events.jsonl", edit_state)
    make_anew(folder)


def make_the_anchors_anew(folder: Path) -> None:
    """The forger has the anchors too, but not the key."""
    make_the_chain_anew(folder)
    seals = {seal.seal: seal for seal in decoded(folder / "seals.jsonl", SealLine)}
    forged = [
        msgspec.structs.replace(anchor, hash=seals[anchor.seal].hash)
        for anchor in read_anchors(folder / "anchors.jsonl")
    ]
    (folder / "anchors.jsonl").write_bytes(b"".join(msgspec.json.encode(anchor) + b"\n" for anchor in forged))
    sign_off(folder)


@pytest.mark.parametrize(
    ("check", "change"),
    [
        ("check_files", edit_the_readme),
        ("check_content", edit_an_event),
        ("check_place", replace_one_seal),
        ("check_anchored", make_the_chain_anew),
        ("check_signature", make_the_anchors_anew),
    ],
)
def test_a_verifier_without_one_of_its_checks_misses_what_that_check_finds(
    folder: Path, check: str, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    change(folder)
    with pytest.raises(Refuted):
        list(standalone.verify_export(folder))
    monkeypatch.setattr(standalone, check, without_the_check)
    assert list(standalone.verify_export(folder))


def without_the_check(first: Any, second: Any = None, *_: Any) -> None:
    """Goes on in the file of events, as the check of a seal's content does."""
    if isinstance(second, standalone.Events):
        list(second.until(first["last_position"]))


# --- What is no export --------------------------------------------------------------------------------------------


def complaint(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert standalone.main([*map(str, arguments)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


DAMAGES: list[tuple[Callable[[dict[str, Any]], str], str]] = [
    (lambda m: "", "cannot be read"),
    (lambda m: "[" * 100_000, "cannot be read"),
    (lambda m: json.dumps([m]), "not a JSON object"),
    (lambda m: json.dumps({**m, "format": "quantagent export 3"}), "not the manifest of a quantagent export 1"),
    (lambda m: json.dumps({"name": "something else"}), "not the manifest"),
    (lambda m: json.dumps({k: v for k, v in m.items() if k != "head"}), "its fields are"),
    (lambda m: json.dumps({**m, "events": "many"}), "not an integer"),
    (lambda m: json.dumps({**m, "events": True}), "not an integer"),
    (lambda m: json.dumps({**m, "seals": 10**30}), "not an integer"),
    (lambda m: json.dumps({**m, "head": "zz"}), "hexadecimal"),
    (lambda m: json.dumps({**m, "log": "me"}), "badly formed"),
    (lambda m: json.dumps({**m, "engine": "\ud800"}), "surrogates"),
    (lambda m: json.dumps({**m, "files": ["events.jsonl"]}), "not a table"),
    (lambda m: json.dumps({**m, "files": {}}), "events.jsonl is not among its files"),
    (lambda m: json.dumps({**m, "files": {**m["files"], "events.jsonl": 7}}), "hexadecimal"),
    (lambda m: json.dumps(m)[:-1] + ',"events":1}', "a name occurs twice"),
]


@pytest.mark.parametrize(("damage", "says"), DAMAGES)
def test_a_damaged_or_foreign_manifest_is_refused_in_one_sentence(
    folder: Path, damage: Callable[[Any], str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "manifest.json"
    path.write_text(damage(json.loads(path.read_text())))
    said = complaint(capsys, folder)
    assert says in said
    assert "manifest.json" in said


@pytest.mark.parametrize("name", standalone.CHAIN)
@pytest.mark.parametrize("line", ["", "7", "{}", '{"seal":1}', '{"position":{}}', "\ud800", '{"a":1,"a":1}', "[[[["])
def test_a_line_that_is_none_is_named(folder: Path, name: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with (folder / name).open("ab") as file:
        number = (folder / name).read_bytes().count(b"\n") + 1
        file.write(line.encode("utf-8", "surrogatepass") + b"\n")
    sign_off(folder)
    assert f"line {number} of {folder / name} cannot be read" in complaint(capsys, folder)


def test_what_is_no_folder_no_key_and_no_anchor_is_refused_in_one_sentence(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "manifest.json cannot be read" in complaint(capsys, tmp_path / "absent")
    assert "is not a key" in complaint(capsys, made.folder, "--public-key", tmp_path / "absent")
    assert "is not a key" in complaint(capsys, made.folder, "--public-key", "z" * 64)
    (tmp_path / "short").write_text("abcd")
    assert "must have 32" in complaint(capsys, made.folder, "--public-key", tmp_path / "short")
    assert "cannot be read" in complaint(capsys, made.folder, "--anchor", tmp_path / "absent")


def test_a_name_that_leads_out_of_the_folder_is_not_followed(folder: Path) -> None:
    outside = folder.parent / "outside"
    outside.write_text("x")
    files = json.loads((folder / "manifest.json").read_text())["files"]
    sign_off(folder, files={**files, "../outside": digest_of_file(outside)})
    assert "../outside, which the manifest lists, is missing" in refuted(folder)


def test_a_folder_that_is_a_file_is_no_place_for_an_export(evidence: Evidence, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="not an empty folder"):
        export_log(evidence.conn, tmp_path / "file", [])


# --- Ed25519 ------------------------------------------------------------------------------------------------------

# RFC 8032, section 7.1: public key, message, signature.
VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("key", "message", "signature"), VECTORS)
def test_signatures_of_the_rfc_are_valid(key: str, message: str, signature: str) -> None:
    assert standalone.is_signed(bytes.fromhex(key), bytes.fromhex(message), bytes.fromhex(signature))
    assert not standalone.is_signed(bytes.fromhex(key), bytes.fromhex(message) + b"\0", bytes.fromhex(signature))


def test_signatures_are_judged_as_the_library_judges_them() -> None:
    random = Random(8032)
    for _ in range(25):
        private = Ed25519PrivateKey.from_private_bytes(random.randbytes(32))
        key, message = private.public_key().public_bytes_raw(), random.randbytes(random.randrange(100))
        signature = private.sign(message)
        assert standalone.is_signed(key, message, signature)
        place, bit = random.randrange(96), 1 << random.randrange(8)
        both = bytearray(key + signature)
        both[place] ^= bit
        changed, signed = bytes(both[:32]), bytes(both[32:])
        assert standalone.is_signed(changed, message, signed) == by_library(changed, message, signed) == False  # noqa: E712


def by_library(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def test_a_signature_with_another_spelling_of_its_number_is_refused() -> None:
    key, message, signature = (bytes.fromhex(part) for part in VECTORS[0])
    larger = int.from_bytes(signature[32:], "little") + standalone.ORDER
    assert not standalone.is_signed(key, message, signature[:32] + larger.to_bytes(32, "little"))
