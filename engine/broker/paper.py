"""The broker, as its clients see it, and the paper broker: resting orders against the bars of a recorded market.

The paper broker keeps an account of its own, folded from what it was told and what it did. It knows no risk rule: that
gate stands before it. Everything it does is told as the facts of the book, in order; a blotter may keep them durably.
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
from engine.core.money import ZERO, add, div, mul, neg, percent_of, size, sub
from engine.trading.book import Book, closing_units, evolve, worst_marks
from engine.trading.exits import liquidation, protectors
from engine.trading.fills import (
    Market,
    Paid,
    distance,
    fill,
    is_beyond,
    price_at_open,
    price_inside,
    stop_after_entry,
    tradable,
    trailed,
    triggered_by,
    worst,
)

Report = OrderPlaced | OrderFilled | OrderRejected | OrderCanceled | OrderExpired | CashAdjusted
"""What a broker tells: the protective orders it placed with a fill, fills, and orders that ended."""

Marks = Mapping[Symbol, Decimal]


class Broker(Protocol):
    """What an account needs of a broker."""

    def place_order(self, order: OrderPlaced) -> OrderPlaced:
        """Takes an order. One with the same id is the same order: the one taken first is returned."""
        ...

    def cancel_order(self, order_id: str, at: datetime) -> bool:
        """Ends a working order; false when it does not work (any more)."""
        ...

    def get_balance(self) -> Decimal:
        """Cash, in the account's currency."""
        ...

    def get_positions(self) -> dict[Symbol, Decimal]:
        """Signed quantities of what is held."""
        ...

    def executions(self) -> Sequence[OrderFilled]:
        """Every fill so far, in order."""
        ...


class Blotter(Protocol):
    """Keeps what a paper broker was told and did, in a transaction of its own.

    Saying the same again is success; something else under the same id is refused.
    """

    def record(self, events: Sequence[OrderPlaced | OrderReplaced | Report]) -> None: ...


def hand_over(broker: Broker, events: Iterable[BookEvent]) -> None:
    """Gives the broker what was decided. The only place from which an order is placed."""
    for event in events:
        if isinstance(event, OrderPlaced):
            broker.place_order(event)
        elif isinstance(event, OrderCanceled | OrderReplaced):
            broker.cancel_order(event.order_id, event.at)


class _Resting:
    """What the broker remembers of a working order beside its quantity.

    waits: bars still to pass before it works; works: since the open of the bar under way; entered: the price at which
    its position was opened inside that bar, if it was.
    """

    __slots__ = ("entered", "order_id", "paid", "side", "terms", "triggered", "waits", "works")

    def __init__(self, order: OrderPlaced, waits: int, works: bool, entered: Decimal | None) -> None:
        self.order_id, self.side, self.terms = order.order_id, order.side, order.terms
        self.waits, self.works, self.entered = waits, works, entered
        self.triggered, self.paid = False, Paid()


class PaperBroker:
    """Paper broker: fills at opens and inside closed bars; `engine.trading.fills` computes the prices."""

    def __init__(self, config: RunConfig, opened: BookOpened, blotter: Blotter | None = None) -> None:
        self.account = evolve(Book(), opened)
        self._config, self._blotter = config, blotter
        self._known: dict[str, OrderPlaced] = {}
        self._resting: dict[Symbol, list[_Resting]] = {}
        self._taken: dict[Symbol, Decimal] = {}
        self._executions: list[OrderFilled] = []
        self._reports: list[Report] = []
        self._financed_at: datetime | None = None

    # --- What clients ask ---

    def place_order(self, order: OrderPlaced) -> OrderPlaced:
        known = self._known.get(order.order_id)
        if known is not None:
            return known
        self._rest(order, _Resting(order, self._config.costs_of(order.symbol).latency_bars, False, None))
        if self._blotter is not None:
            self._blotter.record([order])
        return order

    def cancel_order(self, order_id: str, at: datetime) -> bool:
        order = self.account.working.get(order_id)
        if order is None:
            return False
        self._end(OrderCanceled(order_id, order.symbol, at, "canceled on request"))
        self._told()
        return True

    def get_balance(self) -> Decimal:
        return self.account.cash

    def get_positions(self) -> dict[Symbol, Decimal]:
        return {symbol: position.quantity for symbol, position in self.account.positions.items()}

    def executions(self) -> Sequence[OrderFilled]:
        return self._executions

    # --- What the market does ---

    def open(self, symbol: Symbol, price: Decimal, at: datetime, marks: Marks, volume: Decimal) -> list[Report]:
        """Fill what the open of a bar reaches; the bar before had `volume`, its own is not known yet.

        Market orders come first: what they close is not there to be stopped out. Of the others the one nearest to the
        price before the open comes first.
        """
        if not self._resting.get(symbol):
            return []
        before = marks.get(symbol, price)
        self._taken[symbol] = ZERO
        queue: deque[_Resting] = deque()
        for resting in sorted(self._resting[symbol], key=lambda each: self._turn_at_open(each, before)):
            if resting.waits:
                resting.waits -= 1
            else:
                resting.works = True
                queue.append(resting)
        while queue:
            resting = queue.popleft()
            if not self._works_until(resting, at + timedelta.resolution):
                continue
            reference = price_at_open(resting.side, resting.terms, resting.triggered, price)
            self._trigger(resting, price, at)
            if reference is not None:
                queue.extend(self._execute(resting, reference, at, at, volume, marks))
        return self._told()

    def close(self, bar: Bar, marks: Marks) -> list[Report]:
        """Fill what a bar that has closed reached inside: stops first, then entries, then targets.

        Of several the one nearest to the open comes first: the price passes it on its way to the others.
        """
        symbol = bar.symbol
        if not self._resting.get(symbol):
            return []
        working = (each for each in self._resting[symbol] if each.works)
        queue = deque(sorted(working, key=lambda each: (self._turn(each), distance(each.terms, bar.open))))
        while queue:
            resting = queue.popleft()
            if not self._works_until(resting, bar.closed_at):
                continue
            if resting.entered is None:
                reference = price_inside(resting.side, resting.terms, resting.triggered, bar)
            else:
                reference = stop_after_entry(resting.side, resting.terms, resting.entered, bar)
            self._trigger(resting, worst(resting.side, bar), bar.closed_at)
            if reference is not None:
                placed = self._execute(resting, reference, bar.closed_at, bar.opened_at, bar.volume, marks)
                for protector in placed:
                    protector.entered = reference
                placed.sort(key=lambda each, entry=reference: (self._turn(each), distance(each.terms, entry)))
                queue.extendleft(reversed(placed))
        for resting in self._resting[symbol]:
            if resting.works and resting.entered is None and not resting.triggered:
                resting.terms = trailed(resting.side, resting.terms, bar)
            resting.entered = None
        return self._told()

    def expire(self, at: datetime) -> list[Report]:
        """Ends the orders whose time has come."""
        for order in [o for o in self.account.working.values() if o.terms.expires_at is not None]:
            if order.terms.expires_at is not None and order.terms.expires_at <= at:
                self._end(OrderExpired(order.order_id, order.symbol, at))
        return self._told()

    def liquidate(self, closed: Sequence[Bar], marks: Marks, at: datetime) -> list[Report]:
        """End all orders and close all positions inside the bars that close `at`, each at its bar's worst price.

        A position whose symbol has no bar there is closed at its last mark.
        """
        for order in list(self.account.working.values()):
            self._end(OrderCanceled(order.order_id, order.symbol, at, LIQUIDATED))
        bars, prices = {bar.symbol: bar for bar in closed}, worst_marks(self.account, closed, marks)
        for symbol, position in list(self.account.positions.items()):
            order, bar = liquidation(position, prices[symbol], at), bars.get(symbol)
            resting = self._protect(order)
            market = Market(
                self.account.instruments[symbol],
                ZERO if bar is None else bar.volume,
                self.account.rate(symbol, marks),
            )
            costs, opened_at = self._config.costs_of(symbol), at if bar is None else bar.opened_at
            made = fill(order, order.quantity, prices[symbol], at, opened_at, costs, market)
            self._fill(resting, made, evolve(self.account, made))
        return self._told()

    def roll(self, at: datetime, marks: Marks) -> list[Report]:
        """End a session: shorts pay for what they borrowed, for each day since the roll before or since they were
        opened, and for one at least."""
        pct = self._config.shorting.borrow_pct
        for symbol, position in self.account.positions.items() if pct else ():
            if position.quantity < 0:
                since = max(position.opened_at, self._financed_at or position.opened_at)
                days = max(1, (at.date() - since.date()).days)
                a_year = percent_of(size(self.account.value(symbol, marks)), pct)
                cost = div(mul(a_year, Decimal(days)), Decimal(_YEAR_DAYS))
                if cost > 0:
                    self._tell(CashAdjusted(at, neg(cost), "borrow_cost", symbol))
        self._financed_at = at
        return self._told()

    # --- Inside ---

    def _turn(self, resting: _Resting) -> int:
        """Among the orders of one bar: stops of a position, then entries, then its targets."""
        if not self.account.working[resting.order_id].is_exit:
            return 1
        return 0 if resting.terms.stop_price is not None else 2

    def _turn_at_open(self, resting: _Resting, before: Decimal) -> tuple[int, int, Decimal]:
        is_market = resting.terms.order_type is OrderType.MARKET or resting.triggered
        return (0, 0, ZERO) if is_market else (1, self._turn(resting), distance(resting.terms, before))

    def _works_until(self, resting: _Resting, instant: datetime) -> bool:
        """Whether an order still works, and does so up to an instant: it is not filled in a bar it does not outlast."""
        if resting.order_id not in self.account.working:
            return False
        expires_at = resting.terms.expires_at
        return expires_at is None or expires_at >= instant

    def _execute(
        self,
        resting: _Resting,
        reference: Decimal,
        at: datetime,
        bar_opened_at: datetime,
        volume: Decimal,
        marks: Marks,
    ) -> list[_Resting]:
        """Fills an order as far as there is volume, cash, and something left of what it was to close.

        Returns the protective orders placed with the fill.
        """
        order = self.account.working[resting.order_id]
        symbol, held = order.symbol, self.account.held(order.symbol)
        closable = min(order.closing, closing_units(held, order.side, order.quantity))
        wanted = add(sub(order.quantity, order.closing), closable)
        if wanted == 0:
            self._end(OrderCanceled(order.order_id, symbol, at, NOTHING_LEFT))
            return []
        costs, instrument = self._config.costs_of(symbol), self.account.instruments[symbol]
        quantity = tradable(wanted, volume, self._taken.get(symbol, ZERO), costs, instrument)
        if quantity == 0:
            return []
        market = Market(instrument, volume, self.account.rate(symbol, marks))
        made = fill(order, quantity, reference, at, bar_opened_at, costs, market, resting.paid)
        after, closing = evolve(self.account, made), closing_units(held, order.side, quantity)
        beyond = closing < quantity and is_beyond(order, made.price)
        missing = ZERO if closing == quantity else _overdraft(after, made.order_id)
        if beyond or missing > 0:
            # What closes goes through all the same: an exit is filled at any price.
            if closing > 0:
                part = fill(order, closing, reference, at, bar_opened_at, costs, market, resting.paid)
                self._fill(resting, part, evolve(self.account, part))
            if beyond:
                reason = f"{BEYOND_COLLAR}: {made.price} against {order.worst_price}"
                self._end(OrderCanceled(order.order_id, symbol, at, reason))
            else:
                free = add(self.account.free_cash, self._reserved(order.order_id))
                self._end(OrderRejected(order.order_id, symbol, at, SHORT_OF_CASH, add(free, missing), free))
            self._end_exits_without_position(symbol, at)
            return []
        self._fill(resting, made, after)
        if quantity == wanted and order.order_id in self.account.working:
            self._end(OrderCanceled(order.order_id, symbol, at, NOTHING_LEFT))
        self._end_pair(order, at)
        self._end_entry_of(order, at)
        self._end_exits_without_position(symbol, at)
        return [self._protect(each) for each in protectors(order, made, sub(quantity, closing), instrument)]

    def _fill(self, resting: _Resting, made: OrderFilled, after: Book) -> None:
        paid = resting.paid
        resting.paid = Paid(
            add(paid.units, made.quantity),
            add(paid.notional, made.notional),
            add(paid.commission, made.commission),
            paid.fills + 1,
        )
        self._taken[made.symbol] = add(self._taken.get(made.symbol, ZERO), made.quantity)
        self._executions.append(made)
        self._reports.append(made)
        self.account = after
        if made.order_id not in self.account.working:
            self._forget(made.order_id, made.symbol)

    def _protect(self, order: OrderPlaced) -> _Resting:
        """Places an exit beside the position that was just opened: it works at once."""
        resting = _Resting(order, 0, True, None)
        self._rest(order, resting)
        self._reports.append(order)
        return resting

    def _end_pair(self, order: OrderPlaced, at: datetime) -> None:
        if order.pair:
            for other in self.account.orders_of(order.symbol):
                if other.pair == order.pair and other.quantity == 0:
                    self._end(OrderCanceled(other.order_id, other.symbol, at, PAIR_FILLED))

    def _end_entry_of(self, order: OrderPlaced, at: datetime) -> None:
        """What is left of an entry ends when its position is being given up: it would only open it again."""
        for other in self.account.orders_of(order.symbol) if order.pair else ():
            if not other.is_exit and f"{order.pair}.".startswith(f"{other.order_id}."):
                self._end(OrderCanceled(other.order_id, other.symbol, at, GIVEN_UP))

    def _trigger(self, resting: _Resting, price: Decimal, at: datetime) -> None:
        """Sets a stop off that a price has reached. It is a market order from now on: its target may not win."""
        if resting.triggered or not triggered_by(resting.side, resting.terms, price):
            return
        resting.triggered = True
        order = self.account.working.get(resting.order_id)
        if order is None or not order.pair or resting.terms.limit_price is not None:
            return
        for other in self.account.orders_of(order.symbol):
            if other.pair == order.pair and other is not order:
                self._end(OrderCanceled(other.order_id, other.symbol, at, PAIR_FILLED))

    def _end_exits_without_position(self, symbol: Symbol, at: datetime) -> None:
        held = self.account.held(symbol)
        for order in self.account.orders_of(symbol):
            if order.is_exit and closing_units(held, order.side, order.quantity) == 0:
                self._end(OrderCanceled(order.order_id, symbol, at, NOTHING_LEFT))

    def _reserved(self, order_id: str) -> Decimal:
        order = self.account.working.get(order_id)
        return ZERO if order is None else order.reserved

    def _rest(self, order: OrderPlaced, resting: _Resting) -> None:
        self._known[order.order_id] = order
        self.account = evolve(self.account, order)
        self._resting.setdefault(order.symbol, []).append(resting)

    def _end(self, report: OrderRejected | OrderCanceled | OrderExpired) -> None:
        self._tell(report)
        self._forget(report.order_id, report.symbol)

    def _forget(self, order_id: str, symbol: Symbol) -> None:
        self._resting[symbol] = [each for each in self._resting[symbol] if each.order_id != order_id]

    def _tell(self, report: Report) -> None:
        self.account = evolve(self.account, report)
        self._reports.append(report)

    def _told(self) -> list[Report]:
        """What has happened since it was asked last, once it is on the blotter."""
        told, self._reports = self._reports, []
        if told and self._blotter is not None:
            self._blotter.record(told)
        return told


def _overdraft(after: Book, order_id: str) -> Decimal:
    """By how much a fill has overdrawn free cash. What the rest of its order has set aside is there for the order."""
    rest = after.working.get(order_id)
    return max(ZERO, neg(after.free_cash if rest is None else add(after.free_cash, rest.reserved)))


BEYOND_COLLAR = "the fill price is beyond the worst price the order accepts"
LIQUIDATED = "the account is liquidated"
NOTHING_LEFT = "nothing is left to close"
PAIR_FILLED = "the other order of its pair was filled"
GIVEN_UP = "its position is given up"
SHORT_OF_CASH = "not enough free cash at the fill price"
_YEAR_DAYS = 365
