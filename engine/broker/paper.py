"""Broker protocol and paper broker: resting orders against the bars of a recorded market.

The paper broker keeps its own account, folded from its orders and reports. It applies no risk rules; the risk check
precedes it. It reports everything as events of the book, in order, and a blotter may store them durably.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Protocol

from engine.core.config import RunConfig
from engine.core.events import (
    BookEvent,
    BookOpened,
    CashAdjusted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderPlaced,
    OrderRejected,
    OrderReplaced,
)
from engine.core.market import Bar, OrderType, Symbol
from engine.core.money import ZERO, add, div, magnitude, mul, neg, percent_of, sub
from engine.trading.book import Book, closing_units, evolve, worst_marks
from engine.trading.exits import liquidation_order, protective_orders
from engine.trading.fills import (
    FilledSoFar,
    Market,
    distance,
    exceeds_worst_price,
    fill,
    fillable_quantity,
    price_at_open,
    price_in_bar,
    stop_after_entry,
    trail_stop,
    triggers_stop,
    worst_price,
)

BrokerReport = OrderPlaced | OrderFilled | OrderRejected | OrderCanceled | OrderExpired | CashAdjusted
"""Report of a broker: a protective order placed with a fill, a fill, the end of an order, or a cash adjustment."""

Marks = Mapping[Symbol, Decimal]


class Broker(Protocol):
    """Protocol of a broker."""

    def place_order(self, order: OrderPlaced) -> OrderPlaced:
        """Place an order. For an id that was placed before, return the first order."""
        ...

    def cancel_order(self, order_id: str, at: datetime) -> bool:
        """Cancel a working order; return false if it is not working."""
        ...

    def get_balance(self) -> Decimal:
        """Return the cash in the account's currency."""
        ...

    def get_positions(self) -> dict[Symbol, Decimal]:
        """Return the signed quantity of each position."""
        ...

    def executions(self) -> Sequence[OrderFilled]:
        """Return all fills so far, in order."""
        ...


class Blotter(Protocol):
    """Durable record of a paper broker, in its own transactions.

    Recording the same event again succeeds; a different event under the same id is an error.
    """

    def record(self, events: Sequence[OrderPlaced | OrderReplaced | BrokerReport]) -> None: ...


def route_orders(broker: Broker, events: Iterable[BookEvent]) -> None:
    """Send decided orders and cancellations to the broker. The only caller of `place_order`."""
    for event in events:
        if isinstance(event, OrderPlaced):
            broker.place_order(event)
        elif isinstance(event, OrderCanceled | OrderReplaced):
            broker.cancel_order(event.order_id, event.at)


class _RestingOrder:
    """Broker state of a working order, in addition to its quantity.

    bars_to_wait: bars before it becomes active; is_active: active since the open of the current bar; entry_price: the
    price at which its position was opened inside that bar, if it was; filled: its earlier fills.
    """

    __slots__ = ("bars_to_wait", "entry_price", "filled", "is_active", "order_id", "side", "terms", "triggered")

    def __init__(self, order: OrderPlaced, bars_to_wait: int, is_active: bool, entry_price: Decimal | None) -> None:
        self.order_id, self.side, self.terms = order.order_id, order.side, order.terms
        self.bars_to_wait, self.is_active, self.entry_price = bars_to_wait, is_active, entry_price
        self.triggered, self.filled = False, FilledSoFar()


class PaperBroker:
    """Paper broker: fills at opens and inside closed bars; `engine.trading.fills` computes the prices."""

    def __init__(self, config: RunConfig, opened: BookOpened, blotter: Blotter | None = None) -> None:
        self.account = evolve(Book(), opened)
        self._config, self._blotter = config, blotter
        self._orders: dict[str, OrderPlaced] = {}
        self._resting: dict[Symbol, list[_RestingOrder]] = {}
        self._volume_taken: dict[Symbol, Decimal] = {}
        self._executions: list[OrderFilled] = []
        self._reports: list[BrokerReport] = []
        self._financed_at: datetime | None = None

    # --- Client interface ---

    def place_order(self, order: OrderPlaced) -> OrderPlaced:
        known = self._orders.get(order.order_id)
        if known is not None:
            return known
        self._add_resting(order, _RestingOrder(order, self._config.costs_of(order.symbol).latency_bars, False, None))
        if self._blotter is not None:
            self._blotter.record([order])
        return order

    def cancel_order(self, order_id: str, at: datetime) -> bool:
        order = self.account.working.get(order_id)
        if order is None:
            return False
        self._end_order(OrderCanceled(order_id, order.symbol, at, "canceled on request"))
        self._take_reports()
        return True

    def get_balance(self) -> Decimal:
        return self.account.cash

    def get_positions(self) -> dict[Symbol, Decimal]:
        return {symbol: position.quantity for symbol, position in self.account.positions.items()}

    def executions(self) -> Sequence[OrderFilled]:
        return self._executions

    # --- Market events ---

    def open(self, symbol: Symbol, price: Decimal, at: datetime, marks: Marks, volume: Decimal) -> list[BrokerReport]:
        """Fill the orders that the open of a bar reaches. `volume` is that of the previous bar.

        Market orders come first, because a position that they close can no longer be stopped out. The others follow by
        distance from the price before the open.
        """
        if not self._resting.get(symbol):
            return []
        before = marks.get(symbol, price)
        self._volume_taken[symbol] = ZERO
        queue: deque[_RestingOrder] = deque()
        for resting in sorted(self._resting[symbol], key=lambda each: self._priority_at_open(each, before)):
            if resting.bars_to_wait:
                resting.bars_to_wait -= 1
            else:
                resting.is_active = True
                queue.append(resting)
        while queue:
            resting = queue.popleft()
            if not self._is_active_until(resting, at + timedelta.resolution):
                continue
            reference = price_at_open(resting.side, resting.terms, resting.triggered, price)
            self._trigger(resting, price, at)
            if reference is not None:
                queue.extend(self._execute(resting, reference, at, at, volume, marks))
        return self._take_reports()

    def close(self, bar: Bar, marks: Marks) -> list[BrokerReport]:
        """Fill the orders reached inside a closed bar: stops first, then entries, then targets.

        Within each group the order nearest to the open comes first, because the price reaches it first.
        """
        symbol = bar.symbol
        if not self._resting.get(symbol):
            return []
        working = (each for each in self._resting[symbol] if each.is_active)
        queue = deque(sorted(working, key=lambda each: (self._priority(each), distance(each.terms, bar.open))))
        while queue:
            resting = queue.popleft()
            if not self._is_active_until(resting, bar.closed_at):
                continue
            if resting.entry_price is None:
                reference = price_in_bar(resting.side, resting.terms, resting.triggered, bar)
            else:
                reference = stop_after_entry(resting.side, resting.terms, resting.entry_price, bar)
            self._trigger(resting, worst_price(resting.side, bar), bar.closed_at)
            if reference is not None:
                placed = self._execute(resting, reference, bar.closed_at, bar.opened_at, bar.volume, marks)
                for protective in placed:
                    protective.entry_price = reference
                placed.sort(key=lambda each, entry=reference: (self._priority(each), distance(each.terms, entry)))
                queue.extendleft(reversed(placed))
        for resting in self._resting[symbol]:
            if resting.is_active and resting.entry_price is None and not resting.triggered:
                resting.terms = trail_stop(resting.side, resting.terms, bar)
            resting.entry_price = None
        return self._take_reports()

    def expire(self, at: datetime) -> list[BrokerReport]:
        """End the orders that have expired."""
        for order in [o for o in self.account.working.values() if o.terms.expires_at is not None]:
            if order.terms.expires_at is not None and order.terms.expires_at <= at:
                self._end_order(OrderExpired(order.order_id, order.symbol, at))
        return self._take_reports()

    def liquidate(self, closed: Sequence[Bar], marks: Marks, at: datetime) -> list[BrokerReport]:
        """Cancel all orders and close all positions inside the bars that close `at`, each at its bar's worst price.

        A position without such a bar is closed at its last mark.
        """
        for order in list(self.account.working.values()):
            self._end_order(OrderCanceled(order.order_id, order.symbol, at, LIQUIDATED))
        bars, prices = {bar.symbol: bar for bar in closed}, worst_marks(self.account, closed, marks)
        for symbol, position in list(self.account.positions.items()):
            order, bar = liquidation_order(position, prices[symbol], at), bars.get(symbol)
            resting = self._protect(order)
            market = Market(
                self.account.instruments[symbol],
                ZERO if bar is None else bar.volume,
                self.account.rate(symbol, marks),
            )
            costs, opened_at = self._config.costs_of(symbol), at if bar is None else bar.opened_at
            execution = fill(order, order.quantity, prices[symbol], at, opened_at, costs, market)
            self._fill(resting, execution, evolve(self.account, execution))
        return self._take_reports()

    def roll(self, at: datetime, marks: Marks) -> list[BrokerReport]:
        """End a session: charge shorts their borrowing cost for each day since the previous roll or their open, and
        for at least one day."""
        pct = self._config.shorting.borrow_pct
        for symbol, position in self.account.positions.items() if pct else ():
            if position.quantity < 0:
                since = max(position.opened_at, self._financed_at or position.opened_at)
                days = max(1, (at.date() - since.date()).days)
                annual_cost = percent_of(magnitude(self.account.value(symbol, marks)), pct)
                cost = div(mul(annual_cost, Decimal(days)), Decimal(_YEAR_DAYS))
                if cost > 0:
                    self._report(CashAdjusted(at, neg(cost), "borrow_cost", symbol))
        self._financed_at = at
        return self._take_reports()

    # --- Internals ---

    def _priority(self, resting: _RestingOrder) -> int:
        """Return the rank among the orders of one bar: 0 for stops of a position, 1 for entries, 2 for targets."""
        if not self.account.working[resting.order_id].is_exit:
            return 1
        return 0 if resting.terms.stop_price is not None else 2

    def _priority_at_open(self, resting: _RestingOrder, before: Decimal) -> tuple[int, int, Decimal]:
        is_market = resting.terms.order_type is OrderType.MARKET or resting.triggered
        return (0, 0, ZERO) if is_market else (1, self._priority(resting), distance(resting.terms, before))

    def _is_active_until(self, resting: _RestingOrder, instant: datetime) -> bool:
        """Return true if an order is working and does not expire before an instant."""
        if resting.order_id not in self.account.working:
            return False
        expires_at = resting.terms.expires_at
        return expires_at is None or expires_at >= instant

    def _execute(
        self,
        resting: _RestingOrder,
        reference: Decimal,
        at: datetime,
        bar_opened_at: datetime,
        volume: Decimal,
        marks: Marks,
    ) -> list[_RestingOrder]:
        """Fill an order as far as volume, cash and the position to close allow.

        Return the protective orders placed with the fill.
        """
        order = self.account.working[resting.order_id]
        symbol, held = order.symbol, self.account.held(order.symbol)
        closable = min(order.closing, closing_units(held, order.side, order.quantity))
        wanted = add(sub(order.quantity, order.closing), closable)
        if wanted == 0:
            self._end_order(OrderCanceled(order.order_id, symbol, at, NOTHING_LEFT))
            return []
        costs, instrument = self._config.costs_of(symbol), self.account.instruments[symbol]
        quantity = fillable_quantity(wanted, volume, self._volume_taken.get(symbol, ZERO), costs, instrument)
        if quantity == 0:
            return []
        market = Market(instrument, volume, self.account.rate(symbol, marks))
        execution = fill(order, quantity, reference, at, bar_opened_at, costs, market, resting.filled)
        after, closing = evolve(self.account, execution), closing_units(held, order.side, quantity)
        beyond = closing < quantity and exceeds_worst_price(order, execution.price)
        missing = ZERO if closing == quantity else _overdraft(after, execution.order_id)
        if beyond or missing > 0:
            # The closing part is executed anyway: an exit is filled at any price.
            if closing > 0:
                part = fill(order, closing, reference, at, bar_opened_at, costs, market, resting.filled)
                self._fill(resting, part, evolve(self.account, part))
            if beyond:
                reason = f"{BEYOND_COLLAR}: {execution.price} against {order.worst_price}"
                self._end_order(OrderCanceled(order.order_id, symbol, at, reason))
            else:
                free = add(self.account.free_cash, self._reserved(order.order_id))
                self._end_order(OrderRejected(order.order_id, symbol, at, INSUFFICIENT_CASH, add(free, missing), free))
            self._cancel_exits_without_position(symbol, at)
            return []
        self._fill(resting, execution, after)
        if quantity == wanted and order.order_id in self.account.working:
            self._end_order(OrderCanceled(order.order_id, symbol, at, NOTHING_LEFT))
        self._end_pair(order, at)
        self._cancel_entry_remainder(order, at)
        self._cancel_exits_without_position(symbol, at)
        return [self._protect(each) for each in protective_orders(order, execution, sub(quantity, closing), instrument)]

    def _fill(self, resting: _RestingOrder, execution: OrderFilled, after: Book) -> None:
        before = resting.filled
        resting.filled = FilledSoFar(
            add(before.units, execution.quantity),
            add(before.notional, execution.notional),
            add(before.commission, execution.commission),
            before.fills + 1,
        )
        self._volume_taken[execution.symbol] = add(self._volume_taken.get(execution.symbol, ZERO), execution.quantity)
        self._executions.append(execution)
        self._reports.append(execution)
        self.account = after
        if execution.order_id not in self.account.working:
            self._remove(execution.order_id, execution.symbol)

    def _protect(self, order: OrderPlaced) -> _RestingOrder:
        """Place an exit for a position that was just opened; it is active at once."""
        resting = _RestingOrder(order, 0, True, None)
        self._add_resting(order, resting)
        self._reports.append(order)
        return resting

    def _end_pair(self, order: OrderPlaced, at: datetime) -> None:
        if order.pair:
            for other in self.account.orders_of(order.symbol):
                if other.pair == order.pair and other.quantity == 0:
                    self._end_order(OrderCanceled(other.order_id, other.symbol, at, PAIR_FILLED))

    def _cancel_entry_remainder(self, order: OrderPlaced, at: datetime) -> None:
        """Cancel the rest of an entry whose position is being closed, because it would open the position again."""
        for other in self.account.orders_of(order.symbol) if order.pair else ():
            if not other.is_exit and f"{order.pair}.".startswith(f"{other.order_id}."):
                self._end_order(OrderCanceled(other.order_id, other.symbol, at, POSITION_CLOSING))

    def _trigger(self, resting: _RestingOrder, price: Decimal, at: datetime) -> None:
        """Trigger a stop that a price has reached. It is a market order from now on, so its pair is canceled."""
        if resting.triggered or not triggers_stop(resting.side, resting.terms, price):
            return
        resting.triggered = True
        order = self.account.working.get(resting.order_id)
        if order is None or not order.pair or resting.terms.limit_price is not None:
            return
        for other in self.account.orders_of(order.symbol):
            if other.pair == order.pair and other is not order:
                self._end_order(OrderCanceled(other.order_id, other.symbol, at, PAIR_FILLED))

    def _cancel_exits_without_position(self, symbol: Symbol, at: datetime) -> None:
        held = self.account.held(symbol)
        for order in self.account.orders_of(symbol):
            if order.is_exit and closing_units(held, order.side, order.quantity) == 0:
                self._end_order(OrderCanceled(order.order_id, symbol, at, NOTHING_LEFT))

    def _reserved(self, order_id: str) -> Decimal:
        order = self.account.working.get(order_id)
        return ZERO if order is None else order.reserved

    def _add_resting(self, order: OrderPlaced, resting: _RestingOrder) -> None:
        self._orders[order.order_id] = order
        self.account = evolve(self.account, order)
        self._resting.setdefault(order.symbol, []).append(resting)

    def _end_order(self, report: OrderRejected | OrderCanceled | OrderExpired) -> None:
        self._report(report)
        self._remove(report.order_id, report.symbol)

    def _remove(self, order_id: str, symbol: Symbol) -> None:
        self._resting[symbol] = [each for each in self._resting[symbol] if each.order_id != order_id]

    def _report(self, report: BrokerReport) -> None:
        self.account = evolve(self.account, report)
        self._reports.append(report)

    def _take_reports(self) -> list[BrokerReport]:
        """Return the reports since the last call, after recording them on the blotter."""
        reports, self._reports = self._reports, []
        if reports and self._blotter is not None:
            self._blotter.record(reports)
        return reports


def _overdraft(after: Book, order_id: str) -> Decimal:
    """Return the amount by which a fill has overdrawn free cash. The order may use its own remaining reservation."""
    rest = after.working.get(order_id)
    return max(ZERO, neg(after.free_cash if rest is None else add(after.free_cash, rest.reserved)))


BEYOND_COLLAR = "the fill price is beyond the worst price the order accepts"
LIQUIDATED = "the account is liquidated"
NOTHING_LEFT = "nothing is left to close"
PAIR_FILLED = "the other order of its pair was filled"
POSITION_CLOSING = "its position is given up"
INSUFFICIENT_CASH = "not enough free cash at the fill price"
_YEAR_DAYS = 365
