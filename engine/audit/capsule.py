"""Capsules: one run in one zip file, with its inputs, its events and the seals over them.

Events and seals have the same bytes as in an export; `bars.csv` holds exactly the run's bars, in the lines that the
digest of a dataset is computed from. `bundle` packs a capsule; this module opens it and checks every digest before
anything is used; `reproduce` repeats the run in another log.
"""

from __future__ import annotations

import heapq
import struct
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar
from uuid import UUID
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

import msgspec

from engine.audit.anchors import Anchor, is_signed
from engine.audit.compare import BookDigest
from engine.audit.export import EventLine, SealLine
from engine.core.errors import BadInput, UnreadableEvent
from engine.core.events import AnalysesConsulted, AnalysisOutcome, Environment, RunEnded, RunRequested, RunStarted
from engine.core.ids import analysis_stream
from engine.core.market import Bar, Symbol, Timeframe
from engine.core.money import exact
from engine.data.bar_rules import bar_line
from engine.data.signals import VARIANT_PREFIX, ImportedAnalyst, ImportedSignal, SignalFile, digest_of_rows
from engine.runtime.runs import book_stream, run_stream
from engine.store import LogEntry
from engine.store.codec import decode_entry, stream_id
from engine.store.hash_chain import SealBuilder, row_bytes

FORMAT = "quantagent capsule 1"
MANIFEST = "manifest.json"

# Limits on untrusted input: a capsule may come from anywhere.
MANIFEST_BYTES_MAX = 1 << 20
LINE_BYTES_MAX = 64 << 20
BYTES_MAX = 16 << 30

_LINE = TypeVar("_LINE", bound=msgspec.Struct)
CountCallback = Callable[[int, int], None]


class CapsuleMember(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    bytes: int
    sha256: str


class CapsuleManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Manifest of a capsule.

    log: the log it was packed from; engine, lock_digest: engine version and environment recorded by the run; python:
    version on the machine that packed it; dataset_digest: of bars.csv; members: every other file in the zip.
    """

    format: str
    log: UUID
    run_id: str
    environment: Environment
    engine: str
    python: str
    lock_digest: str
    dataset_digest: str
    config_digest: str
    book_digest: str
    analyses_digest: str
    bars: int
    signals: int
    orders: int
    fills: int
    book_events: int
    members: dict[str, CapsuleMember]


class _ManifestFormat(msgspec.Struct, frozen=True):
    """The format field of a manifest of any version."""

    format: str = ""


class RunLifecycle(NamedTuple):
    """The three events of a finished run."""

    requested: RunRequested
    started: RunStarted
    ended: RunEnded


def build_manifest(
    lifecycle: RunLifecycle, log: UUID, python: str, members: dict[str, CapsuleMember]
) -> CapsuleManifest:
    """Return the manifest for the members of a run."""
    requested, started, ended = lifecycle
    return CapsuleManifest(
        format=FORMAT,
        log=log,
        run_id=requested.run_id,
        environment=requested.environment,
        engine=started.engine_version,
        python=python,
        lock_digest=started.lock_digest,
        dataset_digest=members["bars.csv"].sha256,
        config_digest=requested.config_digest,
        book_digest=ended.book_digest,
        analyses_digest=ended.analyses_digest,
        bars=ended.bars,
        signals=ended.signals,
        orders=ended.orders,
        fills=ended.fills,
        book_events=ended.book_events,
        members=members,
    )


class _RequestConfig(msgspec.Struct):
    config: msgspec.Raw


class Capsule:
    """An opened capsule: its manifest and its decoded members, checked by `open_capsule`."""

    def __init__(self, path: Path, manifest: CapsuleManifest) -> None:
        self.path, self.manifest = path, manifest
        self.lifecycle = read_lifecycle(self.events("run.jsonl"))

    @property
    def requested(self) -> RunRequested:
        return self.lifecycle.requested

    def book(self) -> Iterator[LogEntry]:
        """Yield the run's book, as it was stored."""
        return self.events("book.jsonl", book_stream(self.requested.run_id))

    def consulted(self) -> list[tuple[str, int]]:
        """Return the (analysis id, version) pairs that the run read, in order."""
        return [pair for row in self.book() if isinstance(row.event, AnalysesConsulted) for pair in row.event.analyses]

    def analyses(self) -> Iterator[LogEntry]:
        """Yield the events of the analyses that the run consulted, those of each stream in order."""
        return self.events("analyses.jsonl") if self.signals() is None else iter(())

    def signals(self) -> SignalFile | None:
        """Return the imported signals that the run traded; None for a run with an analyst."""
        variant = self.requested.variant
        if not variant.startswith(VARIANT_PREFIX):
            return None
        rows = tuple(msgspec.json.decode(line, type=ImportedSignal) for line in self._lines("signals.jsonl"))
        name, _, _ = variant.removeprefix(VARIANT_PREFIX).rpartition("@")
        file = SignalFile(name, digest_of_rows(rows), rows)
        if not rows or file.variant != variant:
            raise ValueError(f"signals.jsonl does not hold the signals {variant}")
        return file

    def bars(self) -> list[list[Bar]]:
        """Return the run's bars by symbol, in the order of its configuration, currency rates last."""
        config = self.requested.config
        series: dict[Symbol, list[Bar]] = {symbol: [] for symbol in config.data_symbols}
        for line in self._lines("bars.csv"):
            bar = _bar(line, config.timeframe)
            if bar.symbol not in series:
                raise ValueError(f"bars.csv holds a bar of {bar.symbol}, which is not a symbol of the run")
            series[bar.symbol].append(bar)
        if not all(series.values()):
            raise ValueError("bars.csv holds no bars of one of the run's symbols")
        return list(series.values())

    def lock_lines(self) -> list[str]:
        """Return the packages installed when the run was made; empty if the capsule does not hold them."""
        return [line.decode().rstrip("\n") for line in self._lines("lock.txt")] if "lock.txt" in self._members else []

    def vouching_anchor(self, key: str | None = None) -> Anchor | None:
        """Return the anchor that vouches for the whole run, or None.

        It exists if the run's appends follow each other in the log and the last of them was anchored. key: accept only
        an anchor signed with this public key, in hexadecimal.
        """
        seals = list(self.decoded("seals.jsonl", SealLine))
        unbroken = all((a.seal + 1, a.hash) == (b.seal, b.previous) for a, b in pairwise(seals))
        last = (each for each in self.decoded("anchors.jsonl", Anchor) if each.seal == seals[-1].seal)
        anchors = [each for each in last if key in (None, each.key)]
        return anchors[0] if unbroken and anchors else None

    @property
    def _members(self) -> dict[str, CapsuleMember]:
        return self.manifest.members

    def events(self, member: str, stream: str | None = None) -> Iterator[LogEntry]:
        """Yield the events of a member, in order. Raise `ValueError` for an event outside `stream`, if given."""
        for line in self.decoded(member, EventLine):
            row = decode_entry(line.position, line.version, line.name, line.state.encode())
            if stream_id(row.stream) != line.stream_id or stream not in (None, row.stream):
                raise ValueError(f"the event at position {line.position} in {member} belongs to another stream")
            yield row

    def decoded(self, member: str, kind: type[_LINE]) -> Iterator[_LINE]:
        decode = msgspec.json.Decoder(kind).decode
        return (decode(line) for line in self._lines(member))

    def _lines(self, member: str) -> Iterator[bytes]:
        with ZipFile(self.path) as zipped, zipped.open(member) as file:
            while line := file.readline(LINE_BYTES_MAX):
                if not line.endswith(b"\n"):
                    raise ValueError(f"a line of {member} has no end")
                yield line

    def check(self) -> None:
        """Check that the members are consistent. Raise `ValueError` for the first defect."""
        manifest, (requested, _, ended) = self.manifest, self.lifecycle
        if build_manifest(self.lifecycle, manifest.log, manifest.python, manifest.members) != manifest:
            raise ValueError("its manifest does not match its run.jsonl")
        if any(row.stream != run_stream(requested.run_id) for row in self.events("run.jsonl")):
            raise ValueError("run.jsonl holds events of another run")
        if self._config_digest() != requested.config_digest:
            raise ValueError("the configuration of the run does not match its digest")
        if requested.environment is not Environment.PAPER and requested.dataset_digest != manifest.dataset_digest:
            raise ValueError("bars.csv does not hold the bars that the run was made from")
        # A run that ended early did not see the later bars of its dataset.
        traded = [bar for bars in self.bars()[: len(requested.config.symbols)] for bar in bars]
        if sum(bar.closed_at <= ended.ended_at for bar in traded) != ended.bars:
            raise ValueError(f"bars.csv does not hold the {ended.bars} bars of the run")
        book = BookDigest(self.book())
        if (book.hexdigest(), book.events) != (ended.book_digest, ended.book_events):
            raise ValueError("book.jsonl does not hold the book that the run ended with")
        self._check_analyses()
        self._check_seals()
        if "lock.txt" in self._members and self._members["lock.txt"].sha256 != manifest.lock_digest:
            raise ValueError("lock.txt does not match the digest that the run recorded")

    def _config_digest(self) -> str:
        """Return the digest of the configuration as stored; a decoded one may have fields that were added later."""
        rows = (row for row in self.events("run.jsonl") if isinstance(row.event, RunRequested))
        return sha256(msgspec.json.decode(next(rows).payload, type=_RequestConfig).config).hexdigest()

    def _check_analyses(self) -> None:
        pairs = self.consulted()
        if (
            sha256("".join(f"{name} {n}\n" for name, n in pairs).encode()).hexdigest()
            != self.lifecycle.ended.analyses_digest
        ):
            raise ValueError("book.jsonl does not name the analyses that the run consulted")
        file = self.signals()
        if file is not None:
            known = {(name, 1) for name in ImportedAnalyst(file).by_id()}
        else:
            known: set[tuple[str, int]] = set()
            streams = {analysis_stream(name) for name, _ in pairs}
            for row in self.analyses():
                if row.stream not in streams:
                    raise ValueError(f"analyses.jsonl holds {row.stream}, which the run did not consult")
                if isinstance(row.event, AnalysisOutcome) and row.stream == analysis_stream(row.event.analysis_id):
                    known.add((row.event.analysis_id, row.version))
        missing = next((pair for pair in pairs if pair not in known), None)
        if missing is not None:
            raise ValueError(f"the analysis {missing[0]}, which the run consulted, is missing")

    def _check_seals(self) -> None:
        """Check that every event of the run matches the seal of its append, and that every anchor is signed."""
        rows = heapq.merge(
            *(self.decoded(name, EventLine) for name in ("run.jsonl", "book.jsonl")), key=lambda line: line.position
        )
        row, seals = next(rows, None), dict[int, SealLine]()
        for seal in self.decoded("seals.jsonl", SealLine):
            numbers = (seal.seal, seal.first_position, seal.last_position, seal.events)
            sealing = SealBuilder(*numbers, bytes.fromhex(seal.previous), seal.sealed_at, seal.sealed_by)
            while row is not None and row.position <= seal.last_position:
                sealing.add([_row_bytes(row)])
                row = next(rows, None)
            if sealing.build().hash.hex() != seal.hash:
                raise ValueError(f"its events do not match seal {seal.seal}")
            seals[seal.seal] = seal
        if row is not None:
            raise ValueError(f"the event at position {row.position} has no seal")
        for anchor in self.decoded("anchors.jsonl", Anchor):
            sealed = seals.get(anchor.seal)
            if not is_signed(anchor) or anchor.log != self.manifest.log:
                raise ValueError(f"the anchor of {anchor.at} is not signed by its key, or belongs to another log")
            if sealed is not None and (sealed.hash, sealed.last_position) != (anchor.hash, anchor.position):
                raise ValueError(f"seal {sealed.seal} is not the one anchored at {anchor.at}")


def open_capsule(path: Path) -> Capsule:
    """Open a capsule. Raise `BadInput`, with the path, for a file that is damaged or not a capsule."""
    with describe_damage(path):
        return open_checked(path)


DAMAGE_ERRORS = (
    ValueError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    BadZipFile,
    zlib.error,
    msgspec.MsgspecError,
    UnreadableEvent,
    struct.error,
)


@contextmanager
def describe_damage(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.", "CAPSULE_UNREADABLE") from None
    except DAMAGE_ERRORS as error:
        raise BadInput(
            f"{path} is not a usable capsule: {str(error).rstrip('.')}. Nothing was imported; request a new copy."
        ) from None


def open_checked(path: Path) -> Capsule:
    with ZipFile(path) as zipped:
        manifest = _read_manifest(zipped)
        _check_members(zipped, manifest)
    capsule = Capsule(path, manifest)
    capsule.check()
    return capsule


def _read_manifest(zipped: ZipFile) -> CapsuleManifest:
    if MANIFEST not in zipped.namelist():
        raise ValueError(f"it has no {MANIFEST}")
    if zipped.getinfo(MANIFEST).file_size > MANIFEST_BYTES_MAX:
        raise ValueError(f"its {MANIFEST} is too large")
    text = zipped.read(MANIFEST)
    stated = msgspec.json.decode(text, type=_ManifestFormat).format
    if stated != FORMAT:
        raise ValueError(f"it is a {stated[:40]!r}, and this engine reads a {FORMAT!r}")
    return msgspec.json.decode(text, type=CapsuleManifest)


def _check_members(zipped: ZipFile, manifest: CapsuleManifest) -> None:
    """Check that the zip holds exactly the members in its manifest, with their sizes and digests.

    Nothing is unpacked to disk.
    """
    members = manifest.members
    analysis_members = {"analyses.jsonl", "signals.jsonl"} & set(members)
    wanted = {"run.jsonl", "book.jsonl", "bars.csv", "seals.jsonl", "anchors.jsonl"} | analysis_members
    if set(members) - {"lock.txt"} != wanted or len(analysis_members) != 1:
        raise ValueError(f"its manifest names {_names(members)}")
    here = sorted(info.filename for info in zipped.infolist())
    if here != sorted([MANIFEST, *members]):
        raise ValueError(f"it holds {_names(here)}, not what its manifest names")
    if sum(member.bytes for member in members.values()) > BYTES_MAX:
        raise ValueError(f"it would unpack to more than {BYTES_MAX >> 30} GiB")
    for name, member in members.items():
        info = zipped.getinfo(name)
        if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise ValueError(f"its {name} has a compression that this engine does not support")
        if info.file_size != member.bytes:
            raise ValueError(f"its {name} has {info.file_size} bytes, and its manifest names {member.bytes}")
        sha = sha256()
        with zipped.open(info) as file:
            while piece := file.read(1 << 20):
                sha.update(piece)
        if sha.hexdigest() != member.sha256:
            raise ValueError(f"its {name} was changed: its digest is not the one in its manifest")


def _names(members: Iterable[str]) -> str:
    """Return names for a message, escaped because the file may contain control characters in them."""
    return ", ".join(name if name.isprintable() else ascii(name) for name in sorted(members))[:200]


def read_lifecycle(rows: Iterable[LogEntry]) -> RunLifecycle:
    events = {type(row.event): row.event for row in rows}
    requested, started, ended = (events.get(kind) for kind in (RunRequested, RunStarted, RunEnded))
    if isinstance(requested, RunRequested) and isinstance(started, RunStarted) and isinstance(ended, RunEnded):
        return RunLifecycle(requested, started, ended)
    raise ValueError("run.jsonl lacks the request, the start or the end of the run")


def _bar(line: bytes, timeframe: Timeframe) -> Bar:
    symbol, _, at, *rest = line.decode().rstrip("\n").split(",")
    numbers, cut = rest[:5], rest[5:]
    if len(numbers) == 5:
        opened_at = datetime.fromisoformat(at)
        closed_at = datetime.fromisoformat(cut[0]) if cut else opened_at + timeframe.duration
        bar = Bar(symbol, opened_at, closed_at, *map(exact, numbers))
        if bar_line(bar, timeframe).encode() == line:
            return bar
    raise ValueError(f"{line[:80].decode(errors='replace').rstrip()} in bars.csv is not a bar in canonical form")


def _row_bytes(line: EventLine) -> bytes:
    return row_bytes(line.stream_id.bytes, line.version, line.name.encode(), line.state.encode(), line.position)
