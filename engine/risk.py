"""The gate: a table of small rules between a wish and an order.

Each rule returns what it allows and what it saw. A rule allows only what it can prove to be inside its limit, so that
nothing unknown passes. Only entries are judged: an order that reduces a position is never held back. When the entry
half of a reversal is refused, the half that closes remains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import NamedTuple

from engine.book import Book
from engine.config import RunConfig
from engine.events import Check, TradingHalted, Verdict
from engine.fills import Cost, cost_of
from engine.market import Instrument, Side, Symbol
from engine.money import ZERO, add, mul, neg, part_of, percent_of, size, sub
from engine.sizing import position_cap


class Proposal(NamedTuple):
    """An order as the gate sees it, before it exists. `cost` is what it would cost at the reference price."""

    book: Book
    config: RunConfig
    symbol: Symbol
    side: Side
    quantity: Decimal
    cost: Cost
    equity: Decimal
    halts: Sequence[TradingHalted]

    @property
    def held(self) -> Decimal:
        return self.book.held(self.symbol)

    @property
    def resulting(self) -> Decimal:
        return add(self.held, self.quantity if self.side is Side.BUY else neg(self.quantity))

    @property
    def closing(self) -> Decimal:
        """The part of the quantity that reduces what is held."""
        opposite = self.held < 0 if self.side is Side.BUY else self.held > 0
        return min(self.quantity, size(self.held)) if opposite else ZERO

    @property
    def reduces_only(self) -> bool:
        """Whether this is an exit. A second one beside a working order is none: it would sell what is sold already."""
        alone = self.book.working_for(self.symbol) is None
        return alone and self.quantity > 0 and self.closing == self.quantity


class Ruling(NamedTuple):
    verdict: Verdict
    quantity: Decimal
    reason: str
    checks: tuple[Check, ...]


def propose(
    book: Book,
    config: RunConfig,
    instrument: Instrument,
    side: Side,
    quantity: Decimal,
    reference: Decimal,
    equity: Decimal,
    halts: Sequence[TradingHalted] = (),
) -> Proposal:
    cost = cost_of(side, quantity, reference, config.costs, instrument)
    return Proposal(book, config, instrument.symbol, side, quantity, cost, equity, halts)


def judge(proposal: Proposal) -> Ruling:
    """Approves, reduces to the closing half, or denies; every rule's check is in the ruling."""
    if proposal.reduces_only:
        exempt = tuple(Check(rule, True, "exits are exempt", "") for rule in RULES)
        return Ruling(Verdict.APPROVED, proposal.quantity, "reduces the position", exempt)
    checks = tuple(Check(rule, *check(proposal)) for rule, check in RULES.items())
    failed = [check for check in checks if not check.passed]
    if not failed:
        return Ruling(Verdict.APPROVED, proposal.quantity, "all checks passed", checks)
    reason = "; ".join(f"{check.rule}: {check.observed} against {check.limit}" for check in failed)
    may_close = proposal.closing > 0 and all(check.rule not in _WHOLE for check in failed)
    if may_close:
        return Ruling(Verdict.REDUCED, proposal.closing, reason, checks)
    return Ruling(Verdict.DENIED, ZERO, reason, checks)


Verdicts = tuple[bool, str, str]


def _quantity(proposal: Proposal) -> Verdicts:
    return proposal.quantity > 0, "above 0", str(proposal.quantity)


def _cash(proposal: Proposal) -> Verdicts:
    free = proposal.book.free_cash
    needed = entry_cash(proposal)
    return needed <= free, str(free), str(needed)


def _position_cap(proposal: Proposal) -> Verdicts:
    cap = position_cap(proposal.equity, proposal.config)
    multiplier = proposal.book.instruments[proposal.symbol].multiplier
    worth = mul(mul(proposal.cost.price, size(proposal.resulting)), multiplier)
    return cap is None or worth <= cap, "none" if cap is None else str(cap), str(worth)


def _daily_loss(proposal: Proposal) -> Verdicts:
    limit = daily_loss_limit(proposal.book, proposal.config)
    loss = sub(proposal.book.day_equity, proposal.equity)
    return limit is None or loss < limit, "none" if limit is None else f"below {limit}", str(loss)


def _breaker(proposal: Proposal) -> Verdicts:
    halts = [*([proposal.book.halt] if proposal.book.halt else []), *proposal.halts]
    return not halts, "no halt", "; ".join(halt.reason for halt in halts) or "no halt"


def _incompatible_position(proposal: Proposal) -> Verdicts:
    reverses = proposal.closing > 0
    allowed = proposal.config.limits.reversal
    return not reverses or allowed, "reversal allowed" if allowed else "no reversal", f"holds {proposal.held}"


def _working_order(proposal: Proposal) -> Verdicts:
    order = proposal.book.working_for(proposal.symbol)
    return order is None, "one working order per symbol", "none" if order is None else order.order_id


RULES: dict[str, Callable[[Proposal], Verdicts]] = {
    "quantity": _quantity,
    "cash": _cash,
    "position_cap": _position_cap,
    "daily_loss": _daily_loss,
    "breaker": _breaker,
    "incompatible_position": _incompatible_position,
    "working_order": _working_order,
}

# These refuse an order whole: there is no half of it that may go ahead.
_WHOLE = frozenset({"quantity", "incompatible_position", "working_order"})


def entry_cash(proposal: Proposal) -> Decimal:
    """Free cash an order uses up: its notional and commission, less what closing the opposite position sets free.

    Long and short entries need the same: see `Book.free_cash`. At least 0.
    """
    if proposal.closing == 0:
        return add(proposal.cost.notional, proposal.cost.commission)
    closing_notional = part_of(proposal.cost.notional, proposal.closing, proposal.quantity)
    opening_notional = sub(proposal.cost.notional, closing_notional)
    position = proposal.book.positions[proposal.symbol]
    if position.quantity > 0:
        released = closing_notional
    else:
        released = sub(mul(size(position.cost), Decimal(2)), closing_notional)
    return max(ZERO, sub(add(opening_notional, proposal.cost.commission), released))


def daily_loss_limit(book: Book, config: RunConfig) -> Decimal | None:
    """How much may be lost since the session roll, in money; None without a limit."""
    pct = config.limits.daily_loss_pct
    return None if pct is None else percent_of(book.day_equity, pct)
