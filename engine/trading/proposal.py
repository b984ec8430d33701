"""An order before it exists, and what can be reckoned of it: its price, its cost, what would be held with it."""

from __future__ import annotations

from decimal import Decimal
from functools import cached_property

import msgspec

from engine.core.config import RunConfig
from engine.core.events import AT_MARKET, OrderPlaced, OrderTerms, Protection
from engine.core.market import Direction, Side, Symbol
from engine.core.money import ZERO, add, is_exact, magnitude, mul, neg, percent_of, prorate, sub
from engine.core.step import MarketView
from engine.trading.book import Book, closing_units
from engine.trading.fills import Cost, Market, cost_of

NOT_COMPUTABLE = (KeyError, ValueError, ArithmeticError)
"""What amounts raise that are missing, no numbers, or too large."""


class OrderPlan(msgspec.Struct, frozen=True, gc=False):
    """The order that a signal leads to, before any rule has checked it.

    invalid_reason: why it cannot be placed at all, empty for a valid one; replaces: the working order it amends.
    """

    side: Side
    quantity: Decimal
    terms: OrderTerms = AT_MARKET
    protection: Protection | None = None
    holding_bars: int | None = None
    invalid_reason: str = ""
    replaces: OrderPlaced | None = None


def propose(book: Book, config: RunConfig, view: MarketView, symbol: Symbol, plan: OrderPlan) -> Proposal:
    """The proposal of a plan; a quantity that is no amount counts as 0, with the reason."""
    quantity, invalid_reason = plan.quantity, plan.invalid_reason
    if not is_exact(quantity):
        quantity, invalid_reason = ZERO, f"quantity {quantity} is no amount"
    return Proposal(book, config, view, symbol, plan.side, quantity, plan.terms, invalid_reason, plan.replaces)


class Proposal(msgspec.Struct, frozen=True, dict=True):
    """An order as the risk rules see it: a plan beside the book, the configuration and the market of this instant.

    Everything else is computed from these fields, once and on demand.
    """

    book: Book
    config: RunConfig
    view: MarketView
    symbol: Symbol
    side: Side
    quantity: Decimal
    terms: OrderTerms = AT_MARKET
    invalid_reason: str = ""
    replaces: OrderPlaced | None = None

    def with_quantity(self, quantity: Decimal) -> Proposal:
        """The same order over another quantity."""
        return msgspec.structs.replace(self, quantity=quantity)

    @cached_property
    def last(self) -> Decimal | None:
        """The symbol's last close; None for one that is unknown or no price."""
        last = self.view.marks.get(self.symbol)
        return last if last is not None and is_exact(last) and last > 0 else None

    @cached_property
    def reference(self) -> Decimal | None:
        """The price it is expected to meet, before slippage: the last close, or its own limit or stop."""
        return reference_of(self.side, self.terms, self.last)

    @cached_property
    def rate(self) -> Decimal | None:
        """The account's currency per unit of the quote's; None while no bar has told it, or it is no price."""
        try:
            rate = self.book.rate(self.symbol, self.view.marks)
        except KeyError:
            return None
        return rate if is_exact(rate) and rate > 0 else None

    @cached_property
    def equity(self) -> Decimal | None:
        """What the account is worth at the last closes; None while one of them is unknown or no price."""
        try:
            return self.book.equity(self.view.marks)
        except NOT_COMPUTABLE:
            return None

    @cached_property
    def cost(self) -> Cost | None:
        """What it would cost at its reference price; None where that is unknown, or too large an amount."""
        if self.reference is None or self.rate is None:
            return None
        latest = self.view.latest.get(self.symbol)
        market = Market(self.book.instruments[self.symbol], ZERO if latest is None else latest.volume, self.rate)
        costs = self.config.costs_of(self.symbol)
        try:
            return cost_of(self.side, self.quantity, self.reference, self.terms, costs, market)
        except NOT_COMPUTABLE:
            return None

    @property
    def held(self) -> Decimal:
        return self.book.held(self.symbol)

    @cached_property
    def closing(self) -> Decimal:
        """The part of the quantity that reduces what is held."""
        return closing_units(self.held, self.side, self.quantity)

    @property
    def reduces_only(self) -> bool:
        return self.quantity > 0 and self.closing == self.quantity

    @cached_property
    def entries(self) -> list[OrderPlaced]:
        """Working entries of all symbols, but for the one this order would replace."""
        working = self.book.working.values()
        return [order for order in working if not order.is_exit and order is not self.replaces]

    @cached_property
    def resulting(self) -> Decimal:
        """What would be held, signed, once this order and the symbol's working entries of its side are filled."""
        more = self.quantity
        for order in self.entries:
            if order.symbol == self.symbol and order.side is self.side:
                more = add(more, sub(order.quantity, order.closing))
        return add(self.held, more if self.side is Side.BUY else neg(more))

    @cached_property
    def exposures(self) -> list[tuple[Decimal, Decimal]] | None:
        """The value of each symbol's position after this order, signed and in the account's currency, as (most, least):
        with all working entries that buy filled and none that sell, and the other way round.

        What is held counts at its mark, what an entry opens at the price of its fill. None while a price is unknown.
        """
        marks = self.view.marks
        try:
            most = {symbol: self.book.value(symbol, marks) for symbol in self.book.positions}
            most[self.symbol] = add(most.get(self.symbol, ZERO), self._value_change())
            least = dict(most)
            for order in self.entries:
                change = self._from_order(order)._value_change()
                affected = most if order.side is Side.BUY else least
                for values in (most, least):
                    values.setdefault(order.symbol, ZERO)
                affected[order.symbol] = add(affected[order.symbol], change)
        except NOT_COMPUTABLE:
            return None
        return [(most[symbol], least[symbol]) for symbol in most]

    def _from_order(self, order: OrderPlaced) -> Proposal:
        """A working order as it would be proposed now."""
        return Proposal(self.book, self.config, self.view, order.symbol, order.side, order.quantity, order.terms)

    def _value_change(self) -> Decimal:
        """By how much the fill changes the value of the symbol's position: what it closes at the mark, what it opens
        at the price expected to be paid. Raises one of `NOT_COMPUTABLE` while a price is unknown."""
        marks = self.view.marks
        # A price of the order's own does not stand for the market's: nothing is opened while that is unknown.
        closed = mul(self.closing, self.book.unit_value(self.symbol, marks[self.symbol], marks))
        opening = sub(self.quantity, self.closing)
        opened = mul(opening, self.book.unit_value(self.symbol, self.expected_price, marks)) if opening else ZERO
        return _signed(self.side, add(closed, opened))

    @property
    def expected_price(self) -> Decimal:
        """The price of the fill that the gate counts with, in quote currency. Raises `KeyError` while it is unknown.

        A short is worth what buying it back costs, not the less that slippage leaves of its price.
        """
        if self.cost is None:
            raise KeyError(self.symbol)
        return max(self.cost.price, self.reference or ZERO)


def _signed(side: Side, quantity: Decimal) -> Decimal:
    return quantity if side is Side.BUY else neg(quantity)


def reference_of(side: Side, terms: OrderTerms, last: Decimal | None) -> Decimal | None:
    """The price an order is reckoned with: the last close, or the stop or limit it names.

    Where its own price lies beyond the last close, so that the next open fills it at once, it is not the own one that
    counts: a stop to buy below the market pays the market's price, a limit to sell below it is worth the market's.
    """
    own = terms.limit_price if terms.stop_price is None else terms.stop_price
    if own is None:
        return last
    beyond = terms.stop_price is not None if side is Side.BUY else terms.stop_price is None
    return max(own, last) if beyond and last is not None else own


def collar_price(proposal: Proposal) -> Decimal | None:
    """The price beyond which the broker may open nothing: as far from the last close as the price collar allows.

    None without a collar. Never below 0, so that an order of any collar is filled at any falling price that is one.
    """
    pct = proposal.config.limits.collar_pct
    if pct is None or proposal.last is None:
        return None
    away = percent_of(proposal.last, pct)
    return add(proposal.last, away) if proposal.side is Side.BUY else max(ZERO, sub(proposal.last, away))


def entry_cash(proposal: Proposal) -> Decimal:
    """Free cash an order uses up: its notional (of a short, its collateral) and commission, less what closing the
    opposite position sets free. At least 0; see `Book.free_cash`. Raises `AssertionError` while the cost is unknown.
    """
    cost = proposal.cost
    assert cost is not None, proposal.symbol
    closing_notional = ZERO
    released = ZERO
    if proposal.closing > 0:
        closing_notional = prorate(cost.notional, proposal.closing, proposal.quantity)
        released = _released(proposal, closing_notional)
    opening = sub(cost.notional, closing_notional)
    if proposal.side is Side.SELL:
        opening = percent_of(opening, proposal.book.margin_pct)
    return max(ZERO, sub(add(opening, cost.commission), released))


def _released(proposal: Proposal, closing_notional: Decimal) -> Decimal:
    """Free cash that closing sets free: the proceeds of a long, a short's proceeds and collateral less its price."""
    position = proposal.book.positions[proposal.symbol]
    if position.direction is Direction.LONG:
        return closing_notional
    tied_up = magnitude(position.cost)
    return sub(add(tied_up, percent_of(tied_up, proposal.book.margin_pct)), closing_notional)
