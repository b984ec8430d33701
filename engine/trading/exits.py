"""Exit rules of the book, and protective orders of its positions.

An opposite intent also closes a position: see `engine.trading.targeting`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from engine.core.config import Exits, RunConfig
from engine.core.events import OrderFilled, OrderPlaced, OrderTerms, Protection, Role, Source
from engine.core.ids import order_id
from engine.core.intents import Intent
from engine.core.market import Bar, Direction, Instrument, OrderType, Side, Symbol
from engine.core.money import ZERO, add, div, magnitude, mul, percent_of, sub, total
from engine.core.step import MarketView
from engine.trading.book import Book, Position, worst_marks
from engine.trading.fills import round_to_tick

RANGE_BARS = 14
"""Number of bars of the average true range (Wilder, 1978)."""


# --- Exit rules ---------------------------------------------------------------------------------------------------


def holding_bars(exits: Exits, intent: Intent) -> int | None:
    """Return the number of bars after which a position opened by this intent is closed; None for no limit."""
    if exits.from_decision and intent.horizon_bars is not None:
        return intent.horizon_bars
    return exits.holding_bars


def exit_due(book: Book, symbol: Symbol, view: MarketView, config: RunConfig) -> Source | None:
    """Return the rule that closes the symbol's position at this close; None if none does."""
    position = book.positions.get(symbol)
    if position is None:
        return None
    if position.holding_bars is not None and view.bars_held.get(symbol, 0) >= position.holding_bars:
        return "holding_time"
    if config.exits_of(symbol).session_end and _is_last_of_session(view, symbol, config):
        return "session_end"
    return None


def _is_last_of_session(view: MarketView, symbol: Symbol, config: RunConfig) -> bool:
    """Return true if an order decided now would be filled at the last open of its session, or later."""
    return view.schedule.ends_within(
        config.instrument(symbol).calendar,
        view.at,
        config.timeframe.duration * (1 + config.costs_of(symbol).latency_bars),
    )


def is_margin_called(book: Book, view: MarketView, config: RunConfig) -> bool:
    """Return true if equity is below the maintenance margin of the shorts, a percentage of their value.

    Both are computed at the worst prices of the bars that have just closed, because a broker does not wait for the
    close.
    """
    pct = config.shorting.maintenance_pct
    shorts = [symbol for symbol, position in book.positions.items() if position.direction is Direction.SHORT]
    if pct is None or not shorts:
        return False
    marks = worst_marks(book, view.closed, view.marks)
    worth = total(magnitude(book.value(symbol, marks)) for symbol in shorts)
    return book.equity(marks) < percent_of(worth, pct)


# --- Protective orders --------------------------------------------------------------------------------------------


def protection(intent: Intent, reference: Decimal, ranges: Sequence[Decimal], exits: Exits) -> Protection | None:
    """Return the protection of an entry for this intent. `reference`: the price at which it is decided.

    Without enough bars for an average true range, `stop_ranges` sets no stop.
    """
    distance = None if intent.stop is not None else _stop_distance(reference, ranges, exits)
    ratio = intent.risk_reward if exits.from_decision and intent.risk_reward is not None else exits.risk_reward
    risk_distance = distance if intent.stop is None else magnitude(sub(reference, intent.stop))
    reward = None if intent.target is not None else _reward(risk_distance, ratio)
    trail = None if exits.trail_pct is None else percent_of(reference, exits.trail_pct)
    if (intent.stop, intent.target, distance, reward, trail) == (None,) * 5:
        return None
    return Protection(intent.stop, intent.target, distance, reward, trail)


def invalid_stop_distance(protection: Protection | None, side: Side, reference: Decimal) -> str:
    """Return the reason that the stop of a long entry would be at or below 0; empty if it is valid."""
    if protection is None or side is Side.SELL:
        return ""
    for name, distance in (("stop", protection.stop_distance), ("trailing stop", protection.trail)):
        if distance is not None and distance >= reference:
            return f"{name} {distance} below {reference} would be at or below 0"
    return ""


def _reward(risk_distance: Decimal | None, ratio: Decimal | None) -> Decimal | None:
    """Return the distance of the target; None without a stop or a ratio, and if the product is too large."""
    if risk_distance is None or ratio is None:
        return None
    try:
        return mul(risk_distance, ratio)
    except ValueError:
        return None


def _stop_distance(reference: Decimal, ranges: Sequence[Decimal], exits: Exits) -> Decimal | None:
    if exits.stop_pct is not None:
        return percent_of(reference, exits.stop_pct)
    if exits.stop_ranges is not None and len(ranges) >= RANGE_BARS:
        return mul(div(total(tuple(ranges)[-RANGE_BARS:]), Decimal(RANGE_BARS)), exits.stop_ranges)
    return None


def true_range(bar: Bar, previous: Bar | None) -> Decimal:
    """Return Wilder's true range: the range of the bar's high and low and the previous close."""
    if previous is None:
        return sub(bar.high, bar.low)
    return sub(max(bar.high, previous.close), min(bar.low, previous.close))


def invalid_protection(intent: Intent, reference: Decimal) -> str:
    """Return the reason that an intent's stop or target is invalid; empty if both are valid.

    A price that is not a number is invalid.
    """
    if intent.stop is not None and not _is_worse(intent.direction, intent.stop, reference):
        return f"stop {intent.stop} is not on the losing side of {reference}"
    if intent.target is not None and not _is_worse(intent.direction, reference, intent.target):
        return f"target {intent.target} is not on the winning side of {reference}"
    return ""


def _is_worse(direction: Direction, worse: Decimal, better: Decimal) -> bool:
    """Return true if the first of two prices is the worse one for a position; false if one is not a number."""
    if not worse.is_finite() or not better.is_finite():
        return False
    return worse < better if direction is Direction.LONG else worse > better


def protective_orders(
    order: OrderPlaced, fill: OrderFilled, opened: Decimal, instrument: Instrument
) -> list[OrderPlaced]:
    """Return the protective orders for the `opened` units of an entry's fill. The first to fill cancels the others.

    `order` is the entry with its remaining quantity before this fill, which makes the ids of several fills unique.
    """
    terms = order.protection
    if terms is None or opened == 0:
        return []
    side = Side.SELL if fill.side is Side.BUY else Side.BUY
    stop = terms.stop if terms.stop is not None else _offset_price(fill, terms.stop_distance, wins=False)
    target = terms.target if terms.target is not None else _offset_price(fill, terms.target_distance, wins=True)
    trail = _offset_price(fill, terms.trail, wins=False)
    # Prices are rounded against the position: a more distant stop, a target that is harder to reach.
    planned: list[tuple[Role, OrderTerms]] = []
    if stop is not None and stop > 0:
        planned.append(("stop", OrderTerms(OrderType.STOP, stop_price=round_to_tick(side, stop, instrument))))
    if trail is not None and trail > 0:
        level = round_to_tick(side, trail, instrument)
        planned.append(("trailing_stop", OrderTerms(OrderType.TRAILING_STOP, stop_price=level, trail=terms.trail)))
    if target is not None and target > 0:
        far = round_to_tick(fill.side, target, instrument)
        planned.append(("target", OrderTerms(OrderType.LIMIT, limit_price=far)))
    left = sub(order.quantity, fill.quantity)
    mark = "" if left == 0 else f".{left}"
    return [
        OrderPlaced(
            order_id=f"{order.order_id}.{role}{mark}",
            signal_id=order.signal_id,
            analysis_id=order.analysis_id,
            symbol=order.symbol,
            at=fill.at,
            side=side,
            quantity=opened,
            reference_price=fill.price,
            reserved=ZERO,
            closing=opened,
            role=role,
            terms=exit_terms,
            pair=f"{order.order_id}{mark}",
        )
        for role, exit_terms in planned
    ]


def liquidation_order(position: Position, price: Decimal, at: datetime) -> OrderPlaced:
    """Return the order with which the broker closes a position of a bankrupt account."""
    quantity = magnitude(position.quantity)
    return OrderPlaced(
        order_id=f"{order_id(position.symbol, at, 0)}.liquidation",
        signal_id="",
        analysis_id="",
        symbol=position.symbol,
        at=at,
        side=Side.SELL if position.quantity > 0 else Side.BUY,
        quantity=quantity,
        reference_price=price,
        reserved=ZERO,
        closing=quantity,
        role="liquidation",
    )


def _offset_price(fill: OrderFilled, distance: Decimal | None, wins: bool) -> Decimal | None:
    """Return the price at a distance from the market price of the fill, on the winning or the losing side."""
    if distance is None:
        return None
    upwards = (fill.side is Side.BUY) is wins
    return add(fill.reference_price, distance) if upwards else sub(fill.reference_price, distance)
