"""Halts and resumes that persons, and the reconciliation, tell an account: facts of its control stream.

A run takes them over slot by slot into its book, where they hold. Rules halt in the book itself: see
`engine.trading.circuit_breakers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from engine import clock
from engine.core.errors import BadInput, BookMoved
from engine.core.events import AlertRaised, Fact, HaltScope, TradingHalted, TradingResumed
from engine.core.upcasters import names
from engine.runtime.runs import book_stream
from engine.store import Batch, Cause, Recorded, Store, read_from
from engine.trading.circuit_breakers import RULES, Command

RECONCILIATION = "reconciliation"
REASON_LENGTH_MAX = 500

# Of two that tell an account something at once, one tells it again after the other.
_TRIES = 10


def control_stream(account: str) -> str:
    return f"control:{account}"


def person(name: str) -> str:
    """The actor of a person's halts: no rule has a name like it."""
    return f"person:{name}"


# --- Telling ------------------------------------------------------------------------------------------------------


def halt(store: Store, account: str, scope: HaltScope, reason: str, actor: str) -> bool:
    """Halts an account on behalf of an actor; false when it is halted so already. It holds from the next slot.

    Raises `BadInput` for a reason that says nothing, and where the actor's own halt of everything would shrink.
    """
    halted = TradingHalted(clock.now(), scope, checked(reason), actor)

    def told(standing: dict[str, TradingHalted]) -> Sequence[Fact]:
        mine = standing.get(actor)
        if mine is not None and (mine.scope, mine.reason) == (scope, halted.reason):
            return ()
        if mine is not None and mine.scope == "everything" and scope == "entries":
            raise BadInput(
                f"account {account} is halted as a whole by {actor}, and a halt of entries would let exits go: "
                "`quantagent resume` first."
            )
        return (halted,)

    return _tell(store, account, told, actor)


def alarm(store: Store, account: str, detail: str, cause: Cause) -> bool:
    """Raises an alert and halts everything because two records differ; false when that very alarm is in force."""
    at = clock.now()
    alert = AlertRaised(at, RECONCILIATION, detail)
    halted = TradingHalted(at, "everything", detail, RECONCILIATION)

    def told(standing: dict[str, TradingHalted]) -> Sequence[Fact]:
        mine = standing.get(RECONCILIATION)
        return () if mine is not None and mine.reason == detail else (alert, halted)

    return _tell(store, account, told, cause.actor, cause.correlation)


def resume(store: Store, account: str, reason: str, actor: str) -> None:
    """Ends every halt of an account, those of rules in its book too. Raises `BadInput` for an empty reason."""
    resumed = TradingResumed(clock.now(), checked(reason), actor)
    _tell(store, account, lambda standing: (resumed,), actor)


def checked(reason: str) -> str:
    """A reason as it is kept. Raises `BadInput` for one that says nothing or is no line of text."""
    words = " ".join(reason.split())
    if not words:
        raise BadInput("the reason is empty: say in --reason why, for whoever reads the log.")
    if len(words) > REASON_LENGTH_MAX or not words.isprintable():
        raise BadInput(f"the reason is not a line of text of up to {REASON_LENGTH_MAX} characters: write it shorter.")
    return words


def _tell(
    store: Store,
    account: str,
    told: Callable[[dict[str, TradingHalted]], Sequence[Fact]],
    actor: str,
    correlation: str = "",
) -> bool:
    """Appends what `told` makes of the halts in force; false where that is nothing."""
    stream = control_stream(account)
    for tries_left in reversed(range(_TRIES)):
        facts = [row.event for row in store.read(stream)]
        new = told(in_force(facts))
        if not new:
            return False
        try:
            store.append([Batch(stream, len(facts), new)], Cause(actor, correlation))
        except BookMoved:
            if not tries_left:
                raise
        else:
            return True
    raise AssertionError


# --- Taking over --------------------------------------------------------------------------------------------------


def in_force(facts: Iterable[Fact]) -> dict[str, TradingHalted]:
    """The halts that stand after these facts, by who halted."""
    standing: dict[str, TradingHalted] = {}
    for fact in facts:
        if isinstance(fact, TradingHalted):
            standing[fact.actor] = fact
        elif isinstance(fact, TradingResumed):
            for actor in fact.lifted or tuple(standing):
                standing.pop(actor, None)
    return standing


def version(store: Store, account: str, after: int = 0) -> int:
    """The control stream's version, which is at least `after`."""
    return after + sum(1 for _ in store.read(control_stream(account), after))


def commands(store: Store, account: str, after: int | None, upto: int) -> list[Command]:
    """What an account was told after one version of its control stream and up to another, in order.

    A run that begins (`after` None) takes over the halts that are in force then, and nothing of what is past.
    """
    rows = (row for row in store.read(control_stream(account), after or 0) if row.version <= upto)
    facts = [row.event for row in rows if isinstance(row.event, TradingHalted | TradingResumed)]
    return list(in_force(facts).values()) if after is None else facts


def commands_in(rows: Iterable[Recorded]) -> list[Command]:
    """What a run took over, read back from its book, in order: `at` is the instant from which it held."""
    facts = (row.event for row in rows)
    return [fact for fact in facts if isinstance(fact, TradingHalted | TradingResumed) and fact.actor not in RULES]


# --- Looking ------------------------------------------------------------------------------------------------------


class Halt(NamedTuple):
    """A halt and where it stands: the account was told, its run's book took it over, or both."""

    told: TradingHalted | None
    held: TradingHalted | None

    @property
    def halted(self) -> TradingHalted:
        halted = self.told or self.held
        assert halted is not None
        return halted

    @property
    def state(self) -> Literal["in force", "from the next slot", "until the next slot"]:
        if self.held is None:
            return "from the next slot"
        waits = self.told is None and self.held.actor not in RULES
        return "until the next slot" if waits else "in force"


def standing(store: Store, account: str, run_id: str | None) -> list[Halt]:
    """The halts of an account, and of the book of the run that trades it, if one does."""
    told = in_force(row.event for row in store.read(control_stream(account)))
    held = {} if run_id is None else in_force(_halts_of(store, book_stream(run_id)))
    return [Halt(told.get(actor), held.get(actor)) for actor in {**told, **held}]


def _halts_of(store: Store, stream: str) -> Iterable[Fact]:
    return (row.event for row in read_from(store, names([TradingHalted, TradingResumed])) if row.stream == stream)
