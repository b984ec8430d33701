"""Session: the common loop of backtest, paper trading and replay, which differ in feed, analyst and clock only.

A session always starts at its first bar. Events that its book already holds are compared, further events are appended.
A restart therefore repeats the earlier work and verifies it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Protocol

from engine.broker.paper import Blotter, PaperBroker, route_orders
from engine.core.config import RunConfig
from engine.core.errors import ReplayDiverged
from engine.core.events import AnalysesConsulted, BookEvent, OrderFilled, OrderPlaced, SignalRaised
from engine.core.intents import Intent
from engine.core.market import Bar
from engine.core.session_ends import Schedule
from engine.data.timeline import TimeSlice
from engine.runtime.market_state import MarketState
from engine.store import Batch, Cause, Store
from engine.store.codec import encode_payload, stored_name
from engine.trading.book import Book, evolve, with_close
from engine.trading.circuit_breakers import Command, bankruptcy
from engine.trading.decide import apply_halts, close_book, decide_orders, open_book, roll_due, roll_session

# Number of events per append of a backtest; a paper session flushes after every step.
BATCH = 500


class Analyst(Protocol):
    """Source of intents for closed bars."""

    def intent(self, bar: Bar) -> Intent | None:
        """Return the intent for the window that ends with this bar; None if there is none."""
        ...


class Journal:
    """Writer of one book: compares stored events, appends new ones, and computes the book's digest.

    The digest is SHA-256 over every event's name and canonical payload, in order.
    """

    def __init__(self, store: Store, stream: str, cause: Cause) -> None:
        self._store, self._stream, self._cause = store, stream, cause
        self._stored = iter(store.read(stream))
        self._catching_up = True
        self._pending: list[BookEvent] = []
        self._hash = sha256()
        self.version = 0

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def write(self, events: Iterable[BookEvent]) -> None:
        """Write events. Raise `ReplayDiverged` at the first event that differs from the stored one."""
        for event in events:
            name, payload = stored_name(event), encode_payload(event)
            self._hash.update(b"%s\n%s\n" % (name.encode(), payload))
            self.version += 1
            if not self._is_stored(name, payload):
                self._pending.append(event)
        if len(self._pending) >= BATCH:
            self.flush()

    def _is_stored(self, name: str, payload: bytes) -> bool:
        if not self._catching_up:
            return False
        row = next(self._stored, None)
        if row is None:
            self._catching_up = False
            return False
        if (row.name, row.payload) != (name, payload):
            computed = f"{name} {payload.decode()}"
            raise ReplayDiverged(self._stream, self.version, f"{row.name} {row.payload.decode()}", computed)
        return True

    def flush(self) -> None:
        """Append the pending events in one transaction: whole steps only, never part of a decision."""
        if self._pending:
            after = self.version - len(self._pending)
            self._store.append([Batch(self._stream, after, self._pending)], self._cause)
            self._pending = []


class Session:
    """Session of one account over market time.

    blotter: durable record of the paper broker; schedule: trading sessions of the markets, default: their usual hours.
    """

    def __init__(
        self,
        config: RunConfig,
        config_digest: str,
        analyst: Analyst,
        journal: Journal,
        blotter: Blotter | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        self.config, self._config_digest = config, config_digest
        self._analyst, self._journal, self._blotter = analyst, journal, blotter
        self._schedule = schedule or Schedule.from_config(config)
        self.book = Book()
        self.broker: PaperBroker | None = None
        self.signals = self.orders = self.fills = 0
        self.at: datetime | None = None
        self._next_roll: datetime | None = None
        self._market = MarketState(config, self._schedule)
        self._consulted: list[tuple[str, int]] = []
        self._analyses_hash = sha256()

    @property
    def bars(self) -> int:
        """Number of closed bars of traded symbols so far."""
        return self._market.bars

    @property
    def ended(self) -> str:
        """Reason that trading ended before the last bar; empty while it continues."""
        return self.book.ended

    @property
    def analyses_digest(self) -> str:
        """SHA-256 over the (analysis id, version) pairs consulted so far, in order."""
        return self._analyses_hash.hexdigest()

    def advance(self, time_slice: TimeSlice, commands: Sequence[Command] = ()) -> tuple[BookEvent, ...]:
        """Process the next instant of the market; write the resulting events to the journal and return them.

        Returns no events after trading has ended (`ended`).
        """
        if self.ended:
            return ()
        written: list[BookEvent] = []
        broker = self.broker or self._open(time_slice.at, written)
        rolled = self._roll_due(time_slice.at)
        # Bars that close at the roll belong to the session that ends; bars that close later are unknown at the roll.
        if rolled is not None and rolled < time_slice.at:
            self._roll(broker, rolled, written)
            rolled = None
        self._market.observe(time_slice.closed)
        if broker.account.working:
            for bar in time_slice.closed:
                self._write(broker.close(bar, self._market.marks), written)
            self._write(broker.expire(time_slice.at), written)
        ended = bankruptcy(self.book, time_slice.closed, self._market.marks, time_slice.at)
        if ended is not None:
            self._write([ended], written)
            self._write(broker.liquidate(time_slice.closed, self._market.marks, time_slice.at), written)
            # Intents are recorded but not used: a replay under another profile may continue here and needs them.
            self._read_intents(time_slice.closed)
            return self._finish(time_slice, written)
        view = self._market.view(time_slice.at, self.at, time_slice.closed, self.book)
        halt_events = apply_halts(self.book, view, self.config, commands)
        self._write(halt_events, written)
        route_orders(broker, halt_events)
        if rolled is not None:
            self._roll(broker, rolled, written)
        order_events = decide_orders(self.book, view, self._read_intents(time_slice.closed), self.config)
        self._write(order_events, written)
        if self.config.limits.drawdown_pct is not None:
            self.book = with_close(self.book, self._market.marks)
        route_orders(broker, order_events)
        for symbol, price in time_slice.opened if broker.account.working else ():
            volume = self._market.volume(symbol)
            self._write(broker.open(symbol, price, time_slice.at, self._market.marks, volume), written)
        return self._finish(time_slice, written)

    def _finish(self, time_slice: TimeSlice, written: list[BookEvent]) -> tuple[BookEvent, ...]:
        self.at = time_slice.at
        self._journal.write(written)
        return tuple(written)

    def _open(self, at: datetime, written: list[BookEvent]) -> PaperBroker:
        opened = open_book(self.config, self._config_digest, at)
        self._write([opened], written)
        self.broker = PaperBroker(self.config, opened, self._blotter)
        return self.broker

    def _roll_due(self, at: datetime) -> datetime | None:
        """Return the session roll since the previous step, if any. The next roll is cached."""
        if self._next_roll is not None and at < self._next_roll:
            return None
        self._next_roll = self._schedule.roll_after(at + timedelta.resolution)
        return roll_due(at, self.at, self._schedule)

    def _roll(self, broker: PaperBroker, at: datetime, written: list[BookEvent]) -> None:
        self._record_consulted(at, written)
        self._write(broker.roll(at, self._market.marks), written)
        self._write(roll_session(self.book, at, self._market.marks), written)

    def end(self) -> None:
        """Mark the positions and write all pending events."""
        if self.at is not None:
            written: list[BookEvent] = []
            self._record_consulted(self.at, written)
            self._write([close_book(self.book, self.at, self._market.marks)], written)
            self._journal.write(written)
        self._journal.flush()

    def _read_intents(self, closed: Iterable[Bar]) -> list[Intent]:
        intents: list[Intent] = []
        for bar in closed:
            if not self._market.is_traded(bar.symbol):
                continue
            intent = self._analyst.intent(bar)
            if intent is not None:
                self._consulted.append((intent.analysis_id, intent.analysis_version))
                intents.append(intent)
        return intents

    def _record_consulted(self, at: datetime, written: list[BookEvent]) -> None:
        """Record all analyses read since the last roll in one event, HOLD included."""
        if not self._consulted:
            return
        self._write([AnalysesConsulted(at, tuple(self._consulted))], written)
        for analysis_id, version in self._consulted:
            self._analyses_hash.update(f"{analysis_id} {version}\n".encode())
        self._consulted = []

    def _write(self, events: Iterable[BookEvent], written: list[BookEvent]) -> None:
        # Fold each event at once, because a generator of events may read the book between two of them.
        for event in events:
            self.book = evolve(self.book, event)
            written.append(event)
            match event:
                case SignalRaised():
                    self.signals += 1
                case OrderPlaced():
                    self.orders += 1
                case OrderFilled():
                    self.fills += 1
                case _:
                    pass
