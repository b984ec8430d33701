"""Proposed orders and their derived values: price, cost and the resulting position."""

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
"""Errors of computations with amounts that are missing, not numbers, or too large."""


class OrderPlan(msgspec.Struct, frozen=True, gc=False):
    """Order that a signal leads to, before the risk check.

    invalid_reason: why it cannot be placed, empty for a valid order; replaces: the working order that it amends.
    """

    side: Side
    quantity: Decimal
    terms: OrderTerms = AT_MARKET
    protection: Protection | None = None
    holding_bars: int | None = None
    invalid_reason: str = ""
    replaces: OrderPlaced | None = None


def propose(book: Book, config: RunConfig, view: MarketView, symbol: Symbol, plan: OrderPlan) -> Proposal:
    """Return the proposal of a plan. An invalid quantity becomes 0, with the reason."""
    quantity, invalid_reason = plan.quantity, plan.invalid_reason
    if not is_exact(quantity):
        quantity, invalid_reason = ZERO, f"quantity {quantity} is no amount"
    return Proposal(book, config, view, symbol, plan.side, quantity, plan.terms, invalid_reason, plan.replaces)


class Proposal(msgspec.Struct, frozen=True, dict=True):
    """Input of the risk rules: a plan with the book, the configuration and the market view of this instant.

    All other values are computed from these fields, once and on demand.
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
        """Return the same order with another quantity."""
        return msgspec.structs.replace(self, quantity=quantity)

    @cached_property
    def last(self) -> Decimal | None:
        """The symbol's last close; None if it is unknown or not a valid price."""
        last = self.view.marks.get(self.symbol)
        return last if last is not None and is_exact(last) and last > 0 else None

    @cached_property
    def reference(self) -> Decimal | None:
        """The expected market price of the fill, before slippage: the last close, or the order's limit or stop."""
        return reference_of(self.side, self.terms, self.last)

    @cached_property
    def rate(self) -> Decimal | None:
        """Account currency per unit of quote currency; None if it is unknown or not a valid price."""
        try:
            rate = self.book.rate(self.symbol, self.view.marks)
        except KeyError:
            return None
        return rate if is_exact(rate) and rate > 0 else None

    @cached_property
    def equity(self) -> Decimal | None:
        """Equity of the account at the last closes; None if one of them is unknown or not a valid price."""
        try:
            return self.book.equity(self.view.marks)
        except NOT_COMPUTABLE:
            return None

    @cached_property
    def cost(self) -> Cost | None:
        """Cost of the order at its reference price; None if the price is unknown or the amount too large."""
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
        """The part of the quantity that reduces the position."""
        return closing_units(self.held, self.side, self.quantity)

    @property
    def reduces_only(self) -> bool:
        return self.quantity > 0 and self.closing == self.quantity

    @cached_property
    def entries(self) -> list[OrderPlaced]:
        """Working entries of all symbols, except the one that this order would replace."""
        working = self.book.working.values()
        return [order for order in working if not order.is_exit and order is not self.replaces]

    @cached_property
    def resulting(self) -> Decimal:
        """Signed position after this order and the symbol's working entries of the same side are filled."""
        more = self.quantity
        for order in self.entries:
            if order.symbol == self.symbol and order.side is self.side:
                more = add(more, sub(order.quantity, order.closing))
        return add(self.held, more if self.side is Side.BUY else neg(more))

    @cached_property
    def exposures(self) -> list[tuple[Decimal, Decimal]] | None:
        """Signed value of each symbol's position after this order, in account currency, as (most, least).

        most: all working buy entries are filled and no sell entries; least: the reverse. Positions count at their
        marks, entries at the price of their fill. None if a price is unknown.
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
        """Return the proposal of a working order as of now."""
        return Proposal(self.book, self.config, self.view, order.symbol, order.side, order.quantity, order.terms)

    def _value_change(self) -> Decimal:
        """Return the change of the position's value by the fill: the closing part at the mark, the opening part at the
        expected price. Raise one of `NOT_COMPUTABLE` if a price is unknown."""
        marks = self.view.marks
        # The order's own price does not replace an unknown market price.
        closed = mul(self.closing, self.book.unit_value(self.symbol, marks[self.symbol], marks))
        opening = sub(self.quantity, self.closing)
        opened = mul(opening, self.book.unit_value(self.symbol, self.expected_price, marks)) if opening else ZERO
        return _signed(self.side, add(closed, opened))

    @property
    def expected_price(self) -> Decimal:
        """Expected fill price in the risk check, in quote currency. Raises `KeyError` if it is unknown.

        A short is valued at the cost of buying it back, without the slippage that reduces its sale price.
        """
        if self.cost is None:
            raise KeyError(self.symbol)
        return max(self.cost.price, self.reference or ZERO)


def _signed(side: Side, quantity: Decimal) -> Decimal:
    return quantity if side is Side.BUY else neg(quantity)


def reference_of(side: Side, terms: OrderTerms, last: Decimal | None) -> Decimal | None:
    """Return the reference price of an order: its stop or limit, or the last close.

    If its own price is beyond the last close, so that the next open fills it at once, the last close counts: a buy stop
    below the market pays the market price, and a sell limit below the market receives the market price.
    """
    own = terms.limit_price if terms.stop_price is None else terms.stop_price
    if own is None:
        return last
    beyond = terms.stop_price is not None if side is Side.BUY else terms.stop_price is None
    return max(own, last) if beyond and last is not None else own


def collar_price(proposal: Proposal) -> Decimal | None:
    """Return the worst price at which the broker may open a position, according to the price collar.

    None without a collar. At least 0, so that a sale with a wide collar is filled at any valid price.
    """
    pct = proposal.config.limits.collar_pct
    if pct is None or proposal.last is None:
        return None
    away = percent_of(proposal.last, pct)
    return add(proposal.last, away) if proposal.side is Side.BUY else max(ZERO, sub(proposal.last, away))


def entry_cash(proposal: Proposal) -> Decimal:
    """Return the free cash that an order uses, at least 0; see `Book.free_cash`.

    It is the notional (for a short, the collateral) plus commission, less the cash released by closing the opposite
    position. Raise `AssertionError` if the cost is unknown.
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
    """Return the free cash released by closing: a long's proceeds, or a short's margin less the purchase cost."""
    position = proposal.book.positions[proposal.symbol]
    if position.direction is Direction.LONG:
        return closing_notional
    tied_up = magnitude(position.cost)
    return sub(add(tied_up, percent_of(tied_up, proposal.book.margin_pct)), closing_notional)
