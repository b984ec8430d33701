"""Hostile capsules beyond those of test_capsule: names, links, sizes, numbers, depth, duplicates, forged prices."""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import pytest

from engine.audit.capsule import open_capsule
from engine.core.errors import BadInput
from tests.support.capsules import Origin, edited, member, origin, repack

pytestmark = pytest.mark.slow

__all__ = ["origin"]

HOSTILE_NAMES = [
    "/etc/passwd",
    "..\\..\\evil",
    "C:\\evil",
    "book.jsonl/",
    "book.jsonl ",
    "BOOK.JSONL",
    "a\nb",
    "\x1b[2J",
    "",
    "ü" * 300,
]
HUGE = b"1" * 5_000


def refused(file: Path) -> str:
    """One sentence, and nothing written beside the file."""
    before = sorted(file.parent.iterdir())
    with pytest.raises(BadInput) as error:
        open_capsule(file)
    assert sorted(file.parent.iterdir()) == before
    assert str(error.value).isprintable()
    return str(error.value)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
@pytest.mark.parametrize("sign", [True, False])
def test_a_member_with_a_hostile_name_is_refused(origin: Origin, tmp_path: Path, name: str, sign: bool) -> None:
    file = repack(origin.capsules["backtest"], tmp_path / "run.zip", {name: b"x"}, sign=sign)
    assert "is not a usable capsule" in refused(file)


def test_a_member_that_is_a_link_is_read_as_the_bytes_it_holds(origin: Origin, tmp_path: Path) -> None:
    def links(zipped: ZipFile, info: ZipInfo, content: bytes) -> None:
        if info.filename == "book.jsonl":
            info.external_attr, content = 0o120777 << 16, b"/etc/passwd"
        zipped.writestr(info, content)

    assert "book.jsonl has 11 bytes" in refused(rewritten(origin, tmp_path, links))


def test_a_member_that_stands_twice_is_refused(origin: Origin, tmp_path: Path) -> None:
    def twice(zipped: ZipFile, info: ZipInfo, content: bytes) -> None:
        zipped.writestr(info, content)
        if info.filename == "bars.csv":
            zipped.writestr(ZipInfo("bars.csv"), content)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        file = rewritten(origin, tmp_path, twice)
    assert "not what its manifest names" in refused(file)


def rewritten(origin: Origin, folder: Path, write: Callable[[ZipFile, ZipInfo, bytes], None]) -> Path:
    with ZipFile(origin.capsules["backtest"]) as source, ZipFile(folder / "run.zip", "w", ZIP_DEFLATED) as target:
        for info in source.infolist():
            write(target, ZipInfo(info.filename), source.read(info))
    return folder / "run.zip"


@pytest.mark.parametrize("claimed", [1, 2**31 - 1, 2**32 - 2])
def test_a_header_that_lies_about_a_size_is_refused(origin: Origin, tmp_path: Path, claimed: int) -> None:
    """In the central directory, where a reader looks."""
    content = bytearray(origin.capsules["backtest"].read_bytes())
    place = content.rindex(b"book.jsonl") - 46
    assert content[place : place + 4] == b"PK\x01\x02"
    content[place + 24 : place + 28] = struct.pack("<I", claimed)
    (tmp_path / "run.zip").write_bytes(content)
    assert "book.jsonl has" in refused(tmp_path / "run.zip")


def test_a_bomb_of_a_gibibyte_is_refused_by_its_size_alone(origin: Origin, tmp_path: Path) -> None:
    manifest = json.loads(member(origin.capsules["backtest"], "manifest.json"))
    manifest["members"]["book.jsonl"]["bytes"] = 1 << 40
    facts = {"members": manifest["members"]}
    file = repack(origin.capsules["backtest"], tmp_path / "run.zip", {}, sign=False, **facts)
    assert "would unpack to more than" in refused(file)


@pytest.mark.parametrize("name", ["run.jsonl", "book.jsonl", "seals.jsonl", "anchors.jsonl", "analyses.jsonl"])
@pytest.mark.parametrize(
    "line", [b"[" * 100_000, b'{"position":' * 50_000, b'{"position":' + HUGE + b"}", b"\0", b'{"a":1,"a":2}']
)
def test_deep_huge_and_broken_lines_are_refused(origin: Origin, tmp_path: Path, name: str, line: bytes) -> None:
    content = line + b"\n" + member(origin.capsules["backtest"], name)
    assert "is not a usable capsule" in refused(
        repack(origin.capsules["backtest"], tmp_path / "run.zip", {name: content})
    )


@pytest.mark.parametrize("field", ["position", "first_position", "seal", "events"])
def test_huge_numbers_in_seals_are_refused(origin: Origin, tmp_path: Path, field: str) -> None:
    name = "anchors.jsonl" if field == "position" else "seals.jsonl"
    source = origin.capsules["backtest"]
    change = edited(name, f'"{field}":'.encode(), f'"{field}":'.encode() + HUGE)
    assert "is not a usable capsule" in refused(repack(source, tmp_path / "run.zip", change(source)))


@pytest.mark.parametrize("manifest", [b"[" * 100_000, b"{}", b"null", b"\xff", b'{"format":' * 10_000, b""])
def test_a_manifest_that_is_none_is_refused(origin: Origin, tmp_path: Path, manifest: bytes) -> None:
    def write(zipped: ZipFile, info: ZipInfo, content: bytes) -> None:
        zipped.writestr(info, manifest if info.filename == "manifest.json" else content)

    assert "is not a usable capsule" in refused(rewritten(origin, tmp_path, write))


def test_a_forged_price_is_refused_though_manifest_digest_and_end_of_the_run_agree(
    origin: Origin, tmp_path: Path
) -> None:
    source = origin.capsules["backtest"]
    change = edited("book.jsonl", b'\\"price\\":\\"', b'\\"price\\":\\"1')
    assert "the book that the run ended with" in refused(repack(source, tmp_path / "run.zip", change(source)))


def test_an_edited_engine_is_refused_in_manifest_and_run(origin: Origin, tmp_path: Path) -> None:
    source = origin.capsules["backtest"]
    change = edited("run.jsonl", b'\\"engine_version\\":\\"', b'\\"engine_version\\":\\"9')
    file = repack(source, tmp_path / "run.zip", change(source))
    assert "does not match its run.jsonl" in refused(file)
    engine = json.loads(member(source, "manifest.json"))["engine"]
    file = repack(source, tmp_path / "two.zip", change(source), engine=f"9{engine}")
    assert "do not match seal" in refused(file)


def test_every_byte_counts(origin: Origin, tmp_path: Path) -> None:
    """A bit flipped anywhere is refused, or lies where nothing is read: then the capsule says the same."""
    whole = origin.capsules["backtest"].read_bytes()
    said = open_capsule(origin.capsules["backtest"]).manifest
    flipped = 0
    for place in range(0, len(whole), max(1, len(whole) // 120)):
        file = tmp_path / "run.zip"
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            assert open_capsule(file).manifest == said
        except BadInput:
            flipped += 1
    assert flipped > 100
