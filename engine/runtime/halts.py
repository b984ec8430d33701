"""Halts and resumes of an account by operators and by reconciliation, as events of its control stream.

A run applies them to its book slot by slot. Rules halt in the book directly: see `engine.trading.circuit_breakers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from engine import clock
from engine.core.errors import BadInput, VersionConflict
from engine.core.events import AlertRaised, Event, HaltScope, TradingHalted, TradingResumed
from engine.core.upcasters import event_names
from engine.runtime.runs import book_stream
from engine.store import Batch, Cause, LogEntry, Store, read_from
from engine.trading.circuit_breakers import RULE_ACTORS, Command

RECONCILIATION = "reconciliation"
REASON_LENGTH_MAX = 500

# Of two concurrent commands for an account, one gets a version conflict and is retried.
_TRIES = 10


def control_stream(account: str) -> str:
    return f"control:{account}"


def operator_actor(name: str) -> str:
    """Return the actor of an operator's halts; the prefix distinguishes it from rules."""
    return f"person:{name}"


# --- Commands -----------------------------------------------------------------------------------------------------


def halt_trading(store: Store, account: str, scope: HaltScope, reason: str, actor: str) -> bool:
    """Halt an account from the next slot on; return false if the same halt is already in force.

    Raise `BadInput` for an empty reason, and if the halt would narrow the actor's own halt of everything.
    """
    halted = TradingHalted(clock.now(), scope, validated_reason(reason), actor)

    def build_events(standing: dict[str, TradingHalted]) -> Sequence[Event]:
        current = standing.get(actor)
        if current is not None and (current.scope, current.reason) == (scope, halted.reason):
            return ()
        if current is not None and current.scope == "everything" and scope == "entries":
            raise BadInput(
                f"account {account} is already halted completely by {actor}, and a halt of entries would allow exits.",
                "HALT_NARROWED",
            )
        return (halted,)

    return _append(store, account, build_events, actor)


def raise_alert(store: Store, account: str, detail: str, cause: Cause) -> bool:
    """Raise an alert and halt everything because two records differ; return false if the same alert is in force."""
    at = clock.now()
    alert = AlertRaised(at, RECONCILIATION, detail)
    halted = TradingHalted(at, "everything", detail, RECONCILIATION)

    def build_events(standing: dict[str, TradingHalted]) -> Sequence[Event]:
        current = standing.get(RECONCILIATION)
        return () if current is not None and current.reason == detail else (alert, halted)

    return _append(store, account, build_events, cause.actor, cause.correlation)


def resume_trading(store: Store, account: str, reason: str, actor: str) -> None:
    """End every halt of an account, including those of rules in its book. Raise `BadInput` for an empty reason."""
    resumed = TradingResumed(clock.now(), validated_reason(reason), actor)
    _append(store, account, lambda standing: (resumed,), actor)


def validated_reason(reason: str) -> str:
    """Return a reason with normalized whitespace. Raise `BadInput` if it is empty, too long or not printable."""
    text = " ".join(reason.split())
    if not text:
        raise BadInput("the reason is empty.", "REASON_EMPTY")
    if len(text) > REASON_LENGTH_MAX or not text.isprintable():
        raise BadInput(f"the reason is not a line of text of up to {REASON_LENGTH_MAX} characters: write it shorter.")
    return text


def _append(
    store: Store,
    account: str,
    build_events: Callable[[dict[str, TradingHalted]], Sequence[Event]],
    actor: str,
    correlation: str = "",
) -> bool:
    """Append the events that `build_events` derives from the halts in force; return false if there are none."""
    stream = control_stream(account)
    for tries_left in reversed(range(_TRIES)):
        events = [row.event for row in store.read(stream)]
        new = build_events(active_halts(events))
        if not new:
            return False
        try:
            store.append([Batch(stream, len(events), new)], Cause(actor, correlation))
        except VersionConflict:
            if not tries_left:
                raise
        else:
            return True
    raise AssertionError


# --- Applying commands --------------------------------------------------------------------------------------------


def active_halts(events: Iterable[Event]) -> dict[str, TradingHalted]:
    """Return the halts in force after these events, by actor."""
    active: dict[str, TradingHalted] = {}
    for event in events:
        if isinstance(event, TradingHalted):
            active[event.actor] = event
        elif isinstance(event, TradingResumed):
            for actor in event.lifted or tuple(active):
                active.pop(actor, None)
    return active


def control_version(store: Store, account: str, after: int = 0) -> int:
    """Return the version of the control stream, which is at least `after`."""
    return after + sum(1 for _ in store.read(control_stream(account), after))


def commands_between(store: Store, account: str, after: int | None, upto: int) -> list[Command]:
    """Return the commands after one version of an account's control stream and up to another, in order.

    A run that starts (`after` None) gets only the halts that are in force.
    """
    rows = (row for row in store.read(control_stream(account), after or 0) if row.version <= upto)
    events = [row.event for row in rows if isinstance(row.event, TradingHalted | TradingResumed)]
    return list(active_halts(events).values()) if after is None else events


def commands_from_book(rows: Iterable[LogEntry]) -> list[Command]:
    """Return the commands that a run applied, read from its book, in order; `at` is the instant of effect."""
    events = (row.event for row in rows)
    return [
        event
        for event in events
        if isinstance(event, TradingHalted | TradingResumed) and event.actor not in RULE_ACTORS
    ]


# --- Current halts ------------------------------------------------------------------------------------------------


class Halt(NamedTuple):
    """A halt and its state: requested in the control stream, applied to the run's book, or both."""

    requested: TradingHalted | None
    applied: TradingHalted | None

    @property
    def event(self) -> TradingHalted:
        event = self.requested or self.applied
        assert event is not None
        return event

    @property
    def state(self) -> Literal["in force", "from the next slot", "until the next slot"]:
        if self.applied is None:
            return "from the next slot"
        is_pending = self.requested is None and self.applied.actor not in RULE_ACTORS
        return "until the next slot" if is_pending else "in force"


def current_halts(store: Store, account: str, run_id: str | None) -> list[Halt]:
    """Return the halts of an account, and those in the book of the run that trades it, if any."""
    requested = active_halts(row.event for row in store.read(control_stream(account)))
    applied = {} if run_id is None else active_halts(_halt_events(store, book_stream(run_id)))
    return [Halt(requested.get(actor), applied.get(actor)) for actor in {**requested, **applied}]


def _halt_events(store: Store, stream: str) -> Iterable[Event]:
    return (row.event for row in read_from(store, event_names([TradingHalted, TradingResumed])) if row.stream == stream)
