"""Causal chains: from any id of a run back to the analysis and forward to the fill, from the log alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from engine.audit.narration import describe_event, market_time
from engine.core.errors import BadInput, NotFound
from engine.core.events import (
    AnalysesConsulted,
    AnalysisFailed,
    AnalysisMade,
    AnalysisOutcome,
    BookEvent,
    Event,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderPlaced,
    OrderRejected,
    OrderReplaced,
    RiskDecided,
    RunRequested,
    SignalRaised,
    TradingEnded,
)
from engine.core.ids import analysis_stream, entry_order_of
from engine.core.market import Direction, Symbol, instant_text, parse_instant
from engine.runtime.runs import book_stream
from engine.store import LogEntry, Store
from engine.trading.book import Book, evolve


class ChainLink(NamedTuple):
    """One event of a chain: its kind, id, market time, position in the log and description (`says`)."""

    kind: str
    key: str
    at: datetime
    position: int
    says: str
    event: LogEntry | None


def causal_chain(store: Store, run: RunRequested, key: str) -> list[ChainLink]:
    """Return the chain of an order, trade, signal, analysis or bar (`SYMBOL@TIME` of its close), in causal order.

    A bar without action has a link that gives the reason. Raise `NotFound` for an id that is not of this run, and
    `BadInput` for a time that cannot be parsed.
    """
    history = _History(store, run)
    if key in history.signals:
        return list(history.of_signal(key))
    if key in history.orders:
        return list(history.of_order(key))
    if key.startswith("trade-") and history.opened_position(entry_order_of(key)):
        return list(history.of_trade(entry_order_of(key)))
    if key in history.consulted:
        return list(history.of_analysis(key))
    symbol, at_sign, time = key.partition("@")
    if at_sign and symbol in run.config.symbols:
        return list(history.of_bar(symbol, _instant(time)))
    raise NotFound(
        f"run {run.run_id[:8]} has no {key!r}: use an id of an order, trade, signal or analysis of this run, or "
        f"SYMBOL@TIME with one of {', '.join(run.config.symbols)} and the close of a bar, like "
        f"{run.config.symbols[0]}@2017-08-01T12:00Z."
    )


def _instant(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"{text!r} is not a time: use the close of a bar in UTC, like 2017-08-01T12:00Z.") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


_ORDER_ENDS: dict[type[Event], str] = {
    OrderFilled: "fill",
    OrderRejected: "rejection",
    OrderCanceled: "cancellation",
    OrderExpired: "expiry",
    OrderReplaced: "replacement",
}


class _History:
    """The book of one run, indexed by the ids in its events."""

    def __init__(self, store: Store, run: RunRequested) -> None:
        self._store, self._run = store, run
        self.rows = list(store.read(book_stream(run.run_id)))
        self.signals: dict[str, LogEntry] = {}
        self.orders: dict[str, LogEntry] = {}
        self.consulted: dict[str, tuple[LogEntry, int]] = {}
        self._verdicts: dict[str, LogEntry] = {}
        self._order_of_signal: dict[str, LogEntry] = {}
        self._ends: dict[str, list[LogEntry]] = {}
        self._end: LogEntry | None = None
        for row in self.rows:
            match row.event:
                case SignalRaised(signal_id=signal_id):
                    self.signals[signal_id] = row
                case RiskDecided(signal_id=signal_id):
                    self._verdicts[signal_id] = row
                case OrderPlaced(order_id=order_id, signal_id=signal_id):
                    self.orders[order_id] = row
                    if not _is_protective(row.event):
                        self._order_of_signal[signal_id] = row
                case OrderFilled() | OrderRejected() | OrderCanceled() | OrderExpired() | OrderReplaced() as end:
                    self._ends.setdefault(end.order_id, []).append(row)
                case TradingEnded():
                    self._end = row
                case AnalysesConsulted(analyses=analyses):
                    self.consulted.update((analysis_id, (row, version)) for analysis_id, version in analyses)
                case _:
                    pass

    def of_signal(self, signal_id: str) -> Iterator[ChainLink]:
        row = self.signals[signal_id]
        signal = row.event
        assert isinstance(signal, SignalRaised)
        if signal.analysis_id:
            yield self._analysis(signal.analysis_id, signal.analysis_version)
        yield _link("signal", signal_id, signal.at, row)
        verdict = self._verdicts[signal_id]
        yield _link("risk decision", signal_id, signal.at, verdict)
        order = self._order_of_signal.get(signal_id)
        if order is not None and isinstance(order.event, OrderPlaced):
            yield from self._order_links(order.event.order_id)

    def of_order(self, order_id: str) -> Iterator[ChainLink]:
        """Yield the chain of the order's signal; for a stop or target that of its entry, then its own events.

        A liquidation has no signal: its cause is the end of trading.
        """
        placed = self.orders[order_id].event
        assert isinstance(placed, OrderPlaced)
        if placed.signal_id:
            yield from self.of_signal(placed.signal_id)
        elif self._end is not None:
            yield _link("end of trading", self._run.run_id, placed.at, self._end)
        if _is_protective(placed):
            yield from self._order_links(order_id)

    def _order_links(self, order_id: str) -> Iterator[ChainLink]:
        placed = self.orders[order_id]
        assert isinstance(placed.event, OrderPlaced)
        yield _link("order", order_id, placed.event.at, placed)
        for end in self._ends.get(order_id, ()):
            yield _link(_ORDER_ENDS[type(end.event)], order_id, market_time(end.event) or placed.event.at, end)

    def of_trade(self, entry_order_id: str) -> Iterator[ChainLink]:
        """Yield the chain of the entry, then of each order that changed the position until it was flat or reversed."""
        yield from self.of_order(entry_order_id)
        symbol, began, shown = "", None, {entry_order_id}
        for fill, _, after in self._fills():
            if fill.order_id == entry_order_id:
                symbol, began = fill.symbol, after
            elif began is not None and fill.symbol == symbol:
                # An entry's own stop or target shares its signal, whose chain is already above.
                placed = self.orders[fill.order_id].event
                assert isinstance(placed, OrderPlaced)
                if fill.order_id not in shown:
                    shown.add(fill.order_id)
                    yield from (
                        self._order_links(fill.order_id) if _is_protective(placed) else self.of_order(fill.order_id)
                    )
                if after is not began:
                    return

    def opened_position(self, order_id: str) -> bool:
        """Return True if an order opened a position, from flat or by a reversal."""
        return any(
            fill.order_id == order_id and after not in (before, Direction.FLAT) for fill, before, after in self._fills()
        )

    def _fills(self) -> Iterator[tuple[OrderFilled, Direction, Direction]]:
        """Yield every fill, with the direction of its symbol's position before and after it."""
        book = Book()
        for row in self.rows:
            if not isinstance(row.event, BookEvent):
                continue
            before, book = book, evolve(book, row.event)
            if isinstance(row.event, OrderFilled):
                symbol = row.event.symbol
                yield row.event, before.direction(symbol), book.direction(symbol)

    def of_analysis(self, analysis_id: str) -> Iterator[ChainLink]:
        raised = [key for key, row in self.signals.items() if _source_analysis(row) == analysis_id]
        if raised:
            for signal_id in raised:
                yield from self.of_signal(signal_id)
            return
        read_by, version = self.consulted[analysis_id]
        analysis = self._analysis(analysis_id, version)
        yield analysis
        yield _no_action_link(analysis, read_by)

    def of_bar(self, symbol: Symbol, at: datetime) -> Iterator[ChainLink]:
        mark = f"{symbol}.{self._run.config.timeframe}@{instant_text(at)}."
        ids = [key for key in self.consulted if key.startswith(mark) or key.endswith(f"#{symbol}@{instant_text(at)}")]
        own = [key for key, row in self.signals.items() if _is_at_bar(row, symbol, at) and not _source_analysis(row)]
        for signal_id in own:
            yield from self.of_signal(signal_id)
        for analysis_id in ids:
            yield from self.of_analysis(analysis_id)
        if not ids and not own:
            raise NotFound(
                f"run {self._run.run_id[:8]} consulted no analysis of {symbol} at {at.isoformat()}: use the close of "
                "one of its bars, in UTC."
            )

    def _analysis(self, analysis_id: str, version: int) -> ChainLink:
        """Return the analysis at the version that the run read; later versions had no influence."""
        for row in self._store.read(analysis_stream(analysis_id)):
            if row.version == version and isinstance(row.event, AnalysisOutcome):
                return _link("analysis", analysis_id, row.event.as_of, row)
        at = parse_instant(analysis_id.rpartition("@")[2])
        return ChainLink("imported signal", analysis_id, at, 0, f"row of {self._run.variant}", None)


def _no_action_link(analysis: ChainLink, read_by: LogEntry) -> ChainLink:
    match analysis.event.event if analysis.event else None:
        case AnalysisFailed():
            reason = "no signal: the analysis failed"
        case AnalysisMade(decision=Direction.HOLD):
            reason = "no signal: the analysis was HOLD"
        case AnalysisMade(decision=decision):
            reason = f"no signal: the book was already {decision}, or an order for it was working"
        case _:
            reason = "no signal: the analysis was HOLD, or agreed with the position held"
    return ChainLink("nothing", analysis.key, analysis.at, read_by.position, reason, None)


def _is_protective(order: OrderPlaced) -> bool:
    return order.role not in ("entry", "exit")


def _source_analysis(row: LogEntry) -> str:
    return row.event.analysis_id if isinstance(row.event, SignalRaised) else ""


def _is_at_bar(row: LogEntry, symbol: Symbol, at: datetime) -> bool:
    return isinstance(row.event, SignalRaised) and (row.event.symbol, row.event.at) == (symbol, at)


def _link(kind: str, key: str, at: datetime, row: LogEntry) -> ChainLink:
    return ChainLink(kind, key, at, row.position, describe_event(row.event), row)


def evaluated_checks(links: Iterable[ChainLink]) -> Iterator[tuple[str, bool, str, str]]:
    """Yield (rule, passed, limit, observed) of every check in a chain that observed a value; exits are not checked."""
    for link in links:
        if link.event is not None and isinstance(link.event.event, RiskDecided):
            for check in link.event.event.checks:
                if check.observed:
                    yield check.rule, check.passed, check.limit, check.observed


def analyst_reasons(link: ChainLink) -> list[str]:
    """Return the reasons in the analyst's report; empty if the link is not an analysis."""
    analysis = link.event.event if link.event is not None else None
    if not isinstance(analysis, AnalysisMade):
        return []
    decision = msgspec.json.decode(analysis.reports, type=_Reports).decision
    return [str(reason) for reason in decision.get("reasons", [])]


class _Reports(msgspec.Struct):
    """The part of the reports that is needed here."""

    decision: dict[str, Any]
