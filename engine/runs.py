"""A run from question to answer: request, drive the session over its bars, end. And replaying one.

A run is named by its question: the same question is the same run. Driving it again appends nothing and returns the
same digest; after a crash it continues where the log ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID, uuid5

import msgspec

from engine.breakers import Command
from engine.config import RunConfig, digest_of
from engine.errors import BookMoved, NotFound
from engine.events import Environment, Fact, RunEnded, RunRequested, RunStarted
from engine.feed.recorded import moments
from engine.market import Bar
from engine.session import Analyst, Journal, Session
from engine.store import ENGINE_VERSION, Batch, Cause, Store, read_from
from engine.versions import names

RUNS = UUID("0d7f5a0e-8f1b-5d53-b3c5-0b6a8f6e1c27")


class Result(NamedTuple):
    """What a finished run says of itself."""

    request: RunRequested
    ended: RunEnded


def run_id_of(
    environment: Environment, config_digest: str, dataset_digest: str, variant: str, label: str, of_run: str = ""
) -> str:
    """The name of a question. A paper run gives its account and first bar in place of the dataset digest."""
    parts = (environment, config_digest, dataset_digest, variant, ENGINE_VERSION, label, of_run)
    return str(uuid5(RUNS, "\n".join(parts)))


def request(
    environment: Environment,
    config: RunConfig,
    *,
    profile: str,
    dataset_digest: str,
    variant: str,
    start: datetime,
    end: datetime,
    label: str = "",
    of_run: str = "",
) -> RunRequested:
    """The first fact of a run, with its id."""
    config_digest = digest_of(config)
    run_id = run_id_of(environment, config_digest, dataset_digest, variant, label, of_run)
    return RunRequested(
        run_id, environment, profile, config, config_digest, dataset_digest, variant, start, end, label, of_run
    )


def run_stream(run_id: str) -> str:
    return f"run:{run_id}"


def book_stream(run_id: str) -> str:
    return f"book:{run_id}"


def begin(store: Store, requested: RunRequested, first: datetime, actor: str, lock_digest: str = "") -> RunRequested:
    """Records the question and the start, or finds them recorded.

    What is recorded wins where it may differ: the request its profile's name, the start what was installed then.
    Raises `BookMoved` when the run began with another bar.
    """
    stream = run_stream(requested.run_id)
    known = [row.event for row in store.read(stream)]
    if known and isinstance(known[0], RunRequested):
        requested = known[0]
    started = RunStarted(
        requested.run_id, requested.environment, book_stream(requested.run_id), ENGINE_VERSION, first, lock_digest
    )
    if len(known) > 1 and isinstance(known[1], RunStarted):
        if msgspec.structs.replace(known[1], lock_digest=lock_digest) != started:
            raise BookMoved(stream, 1, len(known))
        return requested
    store.append([Batch(stream, 0, [requested, started])], Cause(actor, requested.run_id))
    return requested


def conclude(
    store: Store, requested: RunRequested, session: Session, journal: Journal, at: datetime, actor: str
) -> RunEnded:
    """Ends the session and records its counts and digests as the run's last fact."""
    session.end()
    ended = RunEnded(
        run_id=requested.run_id,
        bars=session.bars,
        signals=session.signals,
        orders=session.orders,
        fills=session.fills,
        book_events=journal.version,
        book_digest=journal.digest,
        analyses_digest=session.analyses_digest,
        ended_at=at,
    )
    store.append([Batch(run_stream(requested.run_id), 2, [ended])], Cause(actor, requested.run_id))
    return ended


def perform(
    store: Store,
    requested: RunRequested,
    bars_by_symbol: Sequence[Sequence[Bar]],
    analyst: Analyst,
    *,
    actor: str,
    lock_digest: str = "",
    progress: Callable[[int], None] = lambda bars: None,
    commands: Iterable[Command] = (),
) -> Result:
    """Drives a run over its bars to its end. `progress` hears how many bars have been taken so far.

    `lock_digest` names what is installed; see `RunStarted`. `commands` are what another run of these bars was told by
    persons, each at the instant from which it held.
    """
    first = min(bars[0].opened_at for bars in bars_by_symbol)
    last = max(bars[-1].closed_at for bars in bars_by_symbol)
    requested = begin(store, requested, first, actor, lock_digest)
    journal = Journal(store, book_stream(requested.run_id), Cause(actor, requested.run_id))
    session = Session(requested.config, requested.config_digest, analyst, journal)
    told = by_instant(commands)
    for moment in moments(bars_by_symbol):
        session.advance(moment, told.get(moment.at, ()))
        progress(session.bars)
    return Result(requested, conclude(store, requested, session, journal, last, actor))


def by_instant(commands: Iterable[Command]) -> Mapping[datetime, Sequence[Command]]:
    """Commands by the instant from which they hold; of one instant, in their order."""
    told: dict[datetime, list[Command]] = {}
    for command in commands:
        told.setdefault(command.at, []).append(command)
    return told


# --- Finding runs -------------------------------------------------------------------------------------------------


def find(store: Store, prefix: str) -> RunRequested:
    """The run whose id begins with `prefix`. Raises `NotFound` in words when there is none or more than one."""
    known = [row.event for row in read_from(store, names([RunRequested])) if isinstance(row.event, RunRequested)]
    matching = [event for event in known if event.run_id.startswith(prefix)] if prefix else []
    if len(matching) == 1:
        return matching[0]
    if matching:
        ids = ", ".join(event.run_id for event in matching[:5])
        raise NotFound(f"run {prefix!r} fits {len(matching)} runs ({ids}): give more of its id.")
    raise NotFound(f"there is no run {prefix!r}: `quantagent runs list` names the {len(known)} that exist.")


def latest(store: Store) -> RunRequested:
    """The run requested last."""
    known = [row.event for row in read_from(store, names([RunRequested])) if isinstance(row.event, RunRequested)]
    if not known:
        raise NotFound("there is no run yet: `quantagent backtest` makes one.")
    return known[-1]


def result_of(store: Store, run_id: str) -> Result | None:
    """Request and end of a run; None while it has not ended."""
    facts: dict[type[Fact], Fact] = {type(row.event): row.event for row in store.read(run_stream(run_id))}
    requested, ended = facts.get(RunRequested), facts.get(RunEnded)
    if isinstance(requested, RunRequested) and isinstance(ended, RunEnded):
        return Result(requested, ended)
    return None
