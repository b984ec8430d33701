"""Export of the log: every event, seal and anchor in open formats, with a verifier that needs only Python.

The folder appears complete or not at all. `standalone` is copied into it as `verify.py`; it shares no code with the
store. Rows are streamed, because a log may have millions of events.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import file_digest
from itertools import pairwise
from pathlib import Path
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

import msgspec
import psycopg
from psycopg.rows import tuple_row

from engine import clock
from engine.audit import standalone
from engine.audit.anchors import Anchor, resolve_keys
from engine.audit.chain import genesis_seal, read_lineage
from engine.core.errors import BadInput
from engine.core.market import instant_text
from engine.store import ENGINE_VERSION
from engine.store.hash_chain import SELECT_SEALS, Seal

FORMAT = standalone.FORMAT
PAGE = 5_000

EVENTS: LiteralString = (
    "SELECT notification_id, originator_id, originator_version, topic, state FROM quantagent.events "
)

README = """\
This folder holds a quantagent log, whole.

events.jsonl     every event: position, stream id, version, name, and `state`, the stored text, byte for byte
events.parquet   the same for data tools, with stream, run, actor, recording time and payload as columns of their own
seals.jsonl      the chain of hashes over the events, one seal per append
anchors.jsonl    heads of the chain, signed outside the database
verify.py        checks it: python3 verify.py --public-key KEY (the key you were given, not the one in the manifest)
manifest.json    the log's name, counts, and the SHA-256 of every other file
"""


class EventLine(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """A stored row; `state` is the JSON pair of payload and metadata as it was written.

    A state that was changed into bytes that are not UTF-8 is given in `state_hex` instead.
    """

    position: int
    stream_id: UUID
    version: int
    name: str
    state: str
    state_hex: str = ""


class SealLine(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A seal (`engine.store.hash_chain.Seal`) with bytes in hexadecimal; format 1 has no time and no login."""

    seal: int
    first_position: int
    last_position: int
    events: int
    previous: str
    hash: str
    checks: str
    sealed_at: str = ""
    sealed_by: str = ""


class ExportManifest(msgspec.Struct, frozen=True):
    """Contents of the folder.

    head: hash of the last seal; public_key: the key that signed the last anchor; parents: the logs that this one was
    copied from, the oldest first, each with the last seal that both share.
    """

    format: str
    log: UUID
    engine: str
    made_at: str
    events: int
    seals: int
    head: str
    public_key: str
    files: dict[str, str]
    parents: list[tuple[UUID, int]]


class ExportResult(NamedTuple):
    folder: Path
    manifest: ExportManifest
    last_position: int
    anchored_to: int


def export_log(
    conn: psycopg.Connection[Any],
    folder: Path,
    anchors: Sequence[Anchor],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ExportResult:
    """Write the log to a new folder, on a connection whose transaction sees one state of it.

    The anchors must be read before that transaction begins, because an anchor without a seal means that the end of the
    log was cut off. progress: called with the number of events done and in total. Raise `BadInput` for a folder that is
    not empty.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise BadInput(f"{folder} exists and is not an empty folder: use a new name.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        exported = _write(conn, staging, anchors, progress)
        staging.chmod(0o755)
        for path in staging.iterdir():
            sync_to_disk(path)
        sync_to_disk(staging)
        staging.replace(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    sync_to_disk(folder.parent)
    return exported._replace(folder=folder)


def _write(
    conn: psycopg.Connection[Any], folder: Path, anchors: Sequence[Anchor], progress: Callable[[int, int], None]
) -> ExportResult:
    (total,) = conn.execute("SELECT count(*) FROM quantagent.events").fetchone() or (0,)
    events = _write_lines(folder / "events.jsonl", _with_progress(event_lines(conn, "ORDER BY 1"), total, progress))
    seals = _write_lines(folder / "seals.jsonl", seal_lines(conn, "ORDER BY 1"))
    _write_lines(folder / "anchors.jsonl", anchors)
    _write_parquet(folder)
    shutil.copyfile(standalone.__file__, folder / "verify.py")
    (folder / "README.txt").write_text(README)
    last = next(seal_lines(conn, "ORDER BY 1 DESC LIMIT 1"), None)
    lineage = read_lineage(conn)
    manifest = ExportManifest(
        format=FORMAT,
        log=lineage[-1].log,
        engine=ENGINE_VERSION,
        made_at=instant_text(clock.now()),
        events=events,
        seals=seals,
        head=last.hash if last else genesis_seal(lineage).hash.hex(),
        public_key=resolve_keys(anchors).in_force if anchors else "",
        files={path.name: digest_of_file(path) for path in sorted(folder.iterdir())},
        parents=[(parent.log, child.after_seal) for parent, child in pairwise(lineage)],
    )
    (folder / "manifest.json").write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
    anchored_to = max((anchor.position for anchor in anchors), default=0)
    return ExportResult(folder, manifest, last.last_position if last else 0, anchored_to)


def event_lines(
    conn: psycopg.Connection[Any], which: LiteralString, values: Sequence[object] = ()
) -> Iterator[EventLine]:
    """Yield stored rows, read page by page; `which` is the end of the query: conditions and order."""
    for position, stream_id, version, name, state in _rows(conn, EVENTS + which, values):
        try:
            yield EventLine(position, stream_id, version, name, state.decode())
        except UnicodeDecodeError:
            yield EventLine(position, stream_id, version, name, "", state.hex())


def seal_lines(
    conn: psycopg.Connection[Any], which: LiteralString, values: Sequence[object] = ()
) -> Iterator[SealLine]:
    """Yield stored seals, read page by page; `which` is the end of the query: conditions and order."""
    for row in _rows(conn, SELECT_SEALS + which, values):
        seal = Seal(*row)
        texts = (seal.previous.hex(), seal.hash.hex(), seal.checks.hex())
        yield SealLine(*seal[:4], *texts, seal.sealed_at, seal.sealed_by)


def _rows(conn: psycopg.Connection[Any], query: LiteralString, values: Sequence[object]) -> Iterator[tuple[Any, ...]]:
    with conn.cursor(name="rows", binary=True, row_factory=tuple_row) as curs:
        curs.itersize = PAGE
        yield from curs.execute(query, values)


def _with_progress(lines: Iterator[EventLine], total: int, progress: Callable[[int, int], None]) -> Iterator[EventLine]:
    done = 0
    for done, line in enumerate(lines, 1):
        yield line
        if done % PAGE == 0:
            progress(done, total)
    progress(done, total)


def _write_lines(path: Path, lines: Iterable[msgspec.Struct]) -> int:
    """Write one JSON object per line and return the number of lines."""
    encode, count = msgspec.json.Encoder().encode, 0
    with path.open("wb") as file:
        for line in lines:
            file.write(encode(line) + b"\n")
            count += 1
    return count


def _write_parquet(folder: Path) -> None:
    """Write events.jsonl as a table, with the metadata and the unchanged payload in separate columns."""
    import polars as pl

    kinds = {"position": pl.Int64, "stream_id": pl.String, "version": pl.Int64, "name": pl.String, "state": pl.String}
    # Greedy, because the payload may contain text that looks like the beginning of the metadata.
    parts = pl.col("state").str.extract_groups(r'(?s)^\[(?<payload>.*),(?<meta>\{"stream":.*\})\]$')
    meta = parts.struct.field("meta")
    columns = {
        "stream": meta.str.json_path_match("$.stream"),
        "run": meta.str.json_path_match("$.correlation"),
        "actor": meta.str.json_path_match("$.actor"),
        "recorded_at": meta.str.json_path_match("$.recorded_at").str.to_datetime(
            "%+", time_unit="us", time_zone="UTC", strict=False
        ),
        "payload": parts.struct.field("payload"),
    }
    events = pl.scan_ndjson(folder / "events.jsonl", schema={**kinds, "state_hex": pl.String})
    events.with_columns(**columns).drop("state_hex").sink_parquet(folder / "events.parquet")


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def sync_to_disk(path: Path) -> None:
    """Sync a file's bytes, or a folder's names, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
