"""Packing of a finished run into a capsule. The same run of the same log gives the same bytes."""

from __future__ import annotations

import os
import platform
import tempfile
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import msgspec
import psycopg

from engine.audit.anchors import Anchor
from engine.audit.capsule import (
    DAMAGE_ERRORS,
    MANIFEST,
    Capsule,
    CapsuleMember,
    RunLifecycle,
    build_manifest,
    open_capsule,
    open_checked,
    read_lifecycle,
)
from engine.audit.chain import read_log_id
from engine.audit.export import EventLine, SealLine, event_lines, seal_lines, sync_to_disk
from engine.core.errors import BadInput
from engine.core.events import RunRequested
from engine.core.ids import analysis_stream
from engine.core.market import Bar
from engine.data.bar_rules import bar_line
from engine.data.signals import SignalFile
from engine.runtime.replay import AnalysisVersion, consulted_analyses
from engine.runtime.runs import book_stream, result_of, run_stream
from engine.store import Store
from engine.store.codec import stream_id

CountCallback = Callable[[int, int], None]


def pack_run(
    store: Store,
    conn: psycopg.Connection[Any],
    run: RunRequested,
    bars_by_symbol: Sequence[Sequence[Bar]],
    signals: SignalFile | None,
    file: Path,
    *,
    anchors: Sequence[Anchor] = (),
    lock_lines: Sequence[str] = (),
    progress: CountCallback = lambda done, total: None,
) -> Capsule:
    """Pack a finished run and return the opened capsule; the file appears complete or not at all.

    conn: in a transaction that sees one state of the log and began after the anchors were read. lock_lines: the
    packages installed here, packed only if the run was made with them. Raise `BadInput` for a run that has not ended,
    for a file that exists, and for a log or bars that were changed since the run.
    """
    if file.exists():
        raise BadInput(f"{file} exists: use a new name.")
    if result_of(store, run.run_id) is None:
        raise BadInput(f"run {run.run_id[:8]} has not ended, and only a finished run can be bundled.", "RUN_NOT_ENDED")
    lifecycle = read_lifecycle(store.read(run_stream(run.run_id)))
    contents = _contents(store, conn, lifecycle, bars_by_symbol, signals, anchors, lock_lines)
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
    os.close(handle)
    staging = Path(name)
    try:
        _pack(staging, contents, lifecycle, read_log_id(conn), progress)
        _check_packed(staging, run)
        staging.chmod(0o644)
        sync_to_disk(staging)
        staging.replace(file)
    except BaseException:
        staging.unlink()
        raise
    sync_to_disk(file.parent)
    return open_capsule(file)


def _check_packed(staging: Path, run: RunRequested) -> None:
    try:
        open_checked(staging)
    except DAMAGE_ERRORS as error:
        raise BadInput(
            f"run {run.run_id[:8]} cannot be bundled because {str(error).rstrip('.')}.", "RUN_CHANGED"
        ) from None


def _contents(
    store: Store,
    conn: psycopg.Connection[Any],
    lifecycle: RunLifecycle,
    bars_by_symbol: Sequence[Sequence[Bar]],
    signals: SignalFile | None,
    anchors: Sequence[Anchor],
    lock_lines: Sequence[str],
) -> Iterator[tuple[str, Iterable[bytes]]]:
    """Yield every member except the manifest, in order: its name and its content in pieces."""
    run_id, timeframe = lifecycle.requested.run_id, lifecycle.requested.config.timeframe
    run, book = (stream_id(stream(run_id)) for stream in (run_stream, book_stream))
    yield "run.jsonl", _encoded(_rows_of(conn, [run]))
    yield "book.jsonl", _encoded(_rows_of(conn, [book]))
    if signals is None:
        yield "analyses.jsonl", _encoded(_analyses(conn, consulted_analyses(store, run_id)))
    else:
        yield "signals.jsonl", _encoded(signals.rows)
    yield "bars.csv", (bar_line(bar, timeframe).encode() for bars in bars_by_symbol for bar in bars)
    yield "seals.jsonl", _encoded(_seals_covering(conn, [line.position for line in _rows_of(conn, [run, book])]))
    yield "anchors.jsonl", _encoded(anchors)
    lock = "".join(f"{line}\n" for line in lock_lines).encode()
    if sha256(lock).hexdigest() == lifecycle.started.lock_digest:
        yield "lock.txt", [lock]


def _analyses(conn: psycopg.Connection[Any], consulted_ids: Iterable[AnalysisVersion]) -> Iterator[EventLine]:
    """Yield the events of the analyses up to the versions that the run read; later ones are not part of the run."""
    latest: dict[UUID, int] = {}
    for analysis_id, version in consulted_ids:
        stream = stream_id(analysis_stream(analysis_id))
        latest[stream] = max(version, latest.get(stream, 0))
    return (line for line in _rows_of(conn, list(latest)) if line.version <= latest[line.stream_id])


def _rows_of(conn: psycopg.Connection[Any], streams: list[UUID]) -> Iterator[EventLine]:
    return event_lines(conn, "WHERE originator_id = ANY(%s) ORDER BY 1", [streams])


def _seals_covering(conn: psycopg.Connection[Any], positions: Sequence[int]) -> Iterator[SealLine]:
    """Yield the seals of the appends that contain any of these positions, given in order."""
    within = "WHERE last_position >= %s AND first_position <= %s ORDER BY 1"
    for seal in seal_lines(conn, within, [positions[0], positions[-1]]):
        if bisect_left(positions, seal.first_position) < bisect_right(positions, seal.last_position):
            yield seal


def _encoded(lines: Iterable[object]) -> Iterator[bytes]:
    encode = msgspec.json.Encoder().encode
    return (encode(line) + b"\n" for line in lines)


def _pack(
    path: Path,
    contents: Iterable[tuple[str, Iterable[bytes]]],
    lifecycle: RunLifecycle,
    log: UUID,
    progress: CountCallback,
) -> None:
    total, done = 2 * lifecycle.ended.bars + lifecycle.ended.book_events, 0

    def with_progress(pieces: Iterable[bytes]) -> Iterator[bytes]:
        nonlocal done
        for piece in pieces:
            yield piece
            done += 1
            if done % 1_000 == 0:
                progress(done, max(done, total))

    with ZipFile(path, "w") as zipped:
        members = {name: _add(zipped, name, with_progress(pieces)) for name, pieces in contents}
        manifest = build_manifest(lifecycle, log, platform.python_version(), members)
        _add(zipped, MANIFEST, [msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"])
    progress(done, done)


def _add(zipped: ZipFile, name: str, pieces: Iterable[bytes]) -> CapsuleMember:
    info = ZipInfo(name)  # at the beginning of 1980, the same whenever it is packed
    info.compress_type, info.create_system, info.external_attr = ZIP_DEFLATED, 3, 0o644 << 16
    sha, size = sha256(), 0
    with zipped.open(info, "w", force_zip64=True) as member:
        for piece in pieces:
            member.write(piece)
            sha.update(piece)
            size += len(piece)
    return CapsuleMember(size, sha.hexdigest())
