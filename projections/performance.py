"""Performance of runs: outcomes of analyses, equity and metrics, from a run's account and the bars.

Written when a run ends, and after every page for a running paper run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice

from engine.core.events import AnalysisOutcome, RunRequested
from engine.core.intents import Intent, intent_of
from engine.core.money import total
from engine.core.session_ends import Schedule
from engine.data import BarCatalogue
from engine.data.signals import VARIANT_PREFIX, ImportedAnalyst, load_signals
from engine.runtime.replay import AnalysisVersion, intents_at_versions
from engine.runtime.runs import bars_seen, schedule_of
from engine.store import LogEntry, Store
from projections import tables
from projections.account import CONSUMED_EVENTS, RunAccount, load_run_events, stream_run_id
from projections.analysis_outcomes import decision_rows
from projections.equity import EquityPoint, equity_curve
from projections.metrics import metrics
from projections.projection import RowChange
from projections.tables import Row

TimedIntent = tuple[datetime, Intent]

# Number of intents kept while projecting: a run usually follows the analyses made for it.
INTENT_CACHE_SIZE = 50_000


class Performance:
    """Projection of performance. Caches the accounts of unfinished runs and the latest intents."""

    name = "performance"
    consumes = CONSUMED_EVENTS
    streams = frozenset({"run", "book"})

    def __init__(self, store: Store, catalogue: BarCatalogue, dsn: str) -> None:
        self._store, self._catalogue, self._dsn = store, catalogue, dsn
        self._accounts: dict[str, RunAccount] = {}
        self._run_intents: dict[str, list[TimedIntent]] = {}
        self._changed: set[str] = set()
        self._intent_cache: dict[AnalysisVersion, TimedIntent] = {}

    def apply(self, recorded: LogEntry) -> Iterable[RowChange]:
        if isinstance(recorded.event, AnalysisOutcome):
            self._cache(
                {(recorded.event.analysis_id, recorded.version): _timed_intent(recorded.event, recorded.version)}
            )
        run_id = stream_run_id(recorded)
        if run_id is None:
            return
        account = self._accounts.get(run_id) or self._begin(run_id, recorded)
        account.apply(recorded)
        if account.ended:
            yield from self._result_rows(account)
            self._end(run_id)
        elif account.is_live:
            self._changed.add(run_id)

    def flush(self) -> Iterable[RowChange]:
        for run_id in sorted(self._changed):
            yield from self._result_rows(self._accounts[run_id])
        self._changed.clear()

    def reset(self) -> None:
        # The cache of intents stays valid: events never change.
        self._accounts.clear()
        self._run_intents.clear()
        self._changed.clear()

    def _begin(self, run_id: str, recorded: LogEntry) -> RunAccount:
        entries = (
            [] if isinstance(recorded.event, RunRequested) else load_run_events(self._store, run_id, recorded.position)
        )
        request = (entries[0] if entries else recorded).event
        assert isinstance(request, RunRequested), request
        account = self._accounts[run_id] = RunAccount(request)
        for entry in entries:
            account.apply(entry)
        return account

    def _end(self, run_id: str) -> None:
        del self._accounts[run_id]
        self._run_intents.pop(run_id, None)
        self._changed.discard(run_id)

    def _cache(self, intents: Mapping[AnalysisVersion, TimedIntent]) -> None:
        self._intent_cache |= intents
        for oldest in list(islice(self._intent_cache, max(0, len(self._intent_cache) - INTENT_CACHE_SIZE))):
            del self._intent_cache[oldest]

    def _result_rows(self, account: RunAccount) -> Iterator[RowChange]:
        request, config = account.request, account.request.config
        # The end of a paper run is not known when it is requested, and the run may have continued since.
        end = max(request.end, account.latest_at) if account.is_live else request.end
        bars = bars_seen(self._catalogue, self._store, request, config.data_symbols, end)
        if account.is_live or account.book.ended:
            # Leave out bars that the account has not processed: a paper run may reach them later, an ended one never.
            bars = [[bar for bar in series if bar.closed_at <= account.latest_at] for series in bars]
        curve = equity_curve(config, account.movements, bars)
        for point in curve:
            yield tables.EQUITY, {**account.scope, **point._asdict()}
        yield tables.METRICS, {**account.scope, **_metrics_row(account, curve, schedule_of(self._store, request))}
        for row in decision_rows(self._consulted_intents(account), bars):
            yield tables.DECISIONS, {**account.scope, **row}

    def _consulted_intents(self, account: RunAccount) -> list[TimedIntent]:
        """Return the intent of every analysis the run has consulted, in order."""
        if account.request.variant.startswith(VARIANT_PREFIX):
            imported = ImportedAnalyst(load_signals(self._store, self._dsn, account.request.variant)).by_id()
            return [imported[analysis_id] for analysis_id, _ in account.consulted]
        known = self._run_intents.setdefault(account.request.run_id, [])
        known += self._load_intents(account.consulted[len(known) :])
        return known

    def _load_intents(self, consulted: Sequence[AnalysisVersion]) -> list[TimedIntent]:
        missing = [each for each in dict.fromkeys(consulted) if each not in self._intent_cache]
        read = dict(zip(missing, intents_at_versions(self._store, missing), strict=True))
        found = [read.get(each) or self._intent_cache[each] for each in consulted]
        # Runs over the same bars consult the same analyses.
        self._cache(read)
        return found


def _timed_intent(outcome: AnalysisOutcome, version: int) -> TimedIntent:
    return outcome.as_of, intent_of(outcome, version)


def _metrics_row(account: RunAccount, curve: list[EquityPoint], schedule: Schedule) -> Row:
    config = account.request.config
    closed, still_open = account.trades.closed, account.trades.open
    found = metrics(
        config.cash,
        [(point.at, point.equity) for point in curve],
        [trade.net_pnl for trade in closed],
        len(still_open),
        config.periods_per_year,
        config.timeframe.duration,
        schedule.roll_after,
    )
    figures = {name: getattr(found, name) for name in tables.METRICS.names if hasattr(found, name)}
    for name in ("expectancy", "gross_profit", "gross_loss"):
        figures[name] = None if figures[name] is None else float(figures[name])
    fees = total(trade.fees for trade in [*closed, *still_open])
    return {**figures, "final_equity": curve[-1].equity if curve else config.cash, "fees": fees}
