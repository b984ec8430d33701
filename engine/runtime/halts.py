"""Halts and resumes that persons, and the reconciliation, tell an account: facts of its control stream.

A run takes them over slot by slot into its book, where they hold. Rules halt in the book itself: see
`engine.trading.circuit_breakers`.
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

# Of two that tell an account something at once, one tells it again after the other.
_TRIES = 10


def control_stream(account: str) -> str:
    return f"control:{account}"


def operator_actor(name: str) -> str:
    """The actor of a person's halts: no rule has a name like it."""
    return f"person:{name}"


# --- Telling ------------------------------------------------------------------------------------------------------


def halt_trading(store: Store, account: str, scope: HaltScope, reason: str, actor: str) -> bool:
    """Halts an account on behalf of an actor; false when it is halted so already. It holds from the next slot.

    Raises `BadInput` for a reason that says nothing, and where the actor's own halt of everything would shrink.
    """
    halted = TradingHalted(clock.now(), scope, validated_reason(reason), actor)

    def build_events(standing: dict[str, TradingHalted]) -> Sequence[Event]:
        current = standing.get(actor)
        if current is not None and (current.scope, current.reason) == (scope, halted.reason):
            return ()
        if current is not None and current.scope == "everything" and scope == "entries":
            raise BadInput(
                f"account {account} is halted as a whole by {actor}, and a halt of entries would let exits go: "
                "`quantagent resume` first."
            )
        return (halted,)

    return _append(store, account, build_events, actor)


def raise_alert(store: Store, account: str, detail: str, cause: Cause) -> bool:
    """Raises an alert and halts everything because two records differ; false when that very alarm is in force."""
    at = clock.now()
    alert = AlertRaised(at, RECONCILIATION, detail)
    halted = TradingHalted(at, "everything", detail, RECONCILIATION)

    def build_events(standing: dict[str, TradingHalted]) -> Sequence[Event]:
        current = standing.get(RECONCILIATION)
        return () if current is not None and current.reason == detail else (alert, halted)

    return _append(store, account, build_events, cause.actor, cause.correlation)


def resume_trading(store: Store, account: str, reason: str, actor: str) -> None:
    """Ends every halt of an account, those of rules in its book too. Raises `BadInput` for an empty reason."""
    resumed = TradingResumed(clock.now(), validated_reason(reason), actor)
    _append(store, account, lambda standing: (resumed,), actor)


def validated_reason(reason: str) -> str:
    """A reason as it is kept. Raises `BadInput` for one that says nothing or is no line of text."""
    text = " ".join(reason.split())
    if not text:
        raise BadInput("the reason is empty: say in --reason why, for whoever reads the log.")
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
    """Appends what `told` makes of the halts in force; false where that is nothing."""
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


# --- Taking over --------------------------------------------------------------------------------------------------


def active_halts(events: Iterable[Event]) -> dict[str, TradingHalted]:
    """The halts that stand after these facts, by who halted."""
    active: dict[str, TradingHalted] = {}
    for event in events:
        if isinstance(event, TradingHalted):
            active[event.actor] = event
        elif isinstance(event, TradingResumed):
            for actor in event.lifted or tuple(active):
                active.pop(actor, None)
    return active


def control_version(store: Store, account: str, after: int = 0) -> int:
    """The control stream's version, which is at least `after`."""
    return after + sum(1 for _ in store.read(control_stream(account), after))


def commands_between(store: Store, account: str, after: int | None, upto: int) -> list[Command]:
    """What an account was told after one version of its control stream and up to another, in order.

    A run that begins (`after` None) takes over the halts that are in force then, and nothing of what is past.
    """
    rows = (row for row in store.read(control_stream(account), after or 0) if row.version <= upto)
    events = [row.event for row in rows if isinstance(row.event, TradingHalted | TradingResumed)]
    return list(active_halts(events).values()) if after is None else events


def commands_from_book(rows: Iterable[LogEntry]) -> list[Command]:
    """What a run took over, read back from its book, in order: `at` is the instant from which it held."""
    events = (row.event for row in rows)
    return [
        event
        for event in events
        if isinstance(event, TradingHalted | TradingResumed) and event.actor not in RULE_ACTORS
    ]


# --- Looking ------------------------------------------------------------------------------------------------------


class Halt(NamedTuple):
    """A halt and where it stands: the account was told, its run's book took it over, or both."""

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
    """The halts of an account, and of the book of the run that trades it, if one does."""
    requested = active_halts(row.event for row in store.read(control_stream(account)))
    applied = {} if run_id is None else active_halts(_halt_events(store, book_stream(run_id)))
    return [Halt(requested.get(actor), applied.get(actor)) for actor in {**requested, **applied}]


def _halt_events(store: Store, stream: str) -> Iterable[Event]:
    return (row.event for row in read_from(store, event_names([TradingHalted, TradingResumed])) if row.stream == stream)
