"""How runs have done: judged opinions, equity and metrics, from a run's account and the bars.

Written when a run ends, and after every page for a paper run that goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice

from engine.core.events import AnalysisOutcome, RunRequested
from engine.core.intents import Intent, intent_of
from engine.core.money import total
from engine.core.session_ends import Schedule
from engine.data import Bars
from engine.data.signals import VARIANT_PREFIX, ImportedAnalyst, load_signals
from engine.runtime.replay import AnalysisVersion, intents_at_versions
from engine.runtime.runs import bars_seen, schedule_of
from engine.store import Recorded, Store
from projections import tables
from projections.account import NAMES, Account, history, run_of
from projections.analysis_outcomes import decision_rows
from projections.equity import EquityPoint, equity_curve
from projections.metrics import metrics
from projections.projection import Change
from projections.tables import Row

Opinion = tuple[datetime, Intent]

# Of opinions that pass by: a run usually follows the analyses made for it.
REMEMBERED = 50_000


class Performance:
    """Remembers the accounts of runs that have not ended, and the latest opinions, to spare reading them again."""

    name = "performance"
    consumes = NAMES
    streams = frozenset({"run", "book"})

    def __init__(self, store: Store, catalogue: Bars, dsn: str) -> None:
        self._store, self._catalogue, self._dsn = store, catalogue, dsn
        self._accounts: dict[str, Account] = {}
        self._opinions: dict[str, list[Opinion]] = {}
        self._moved: set[str] = set()
        self._heard: dict[AnalysisVersion, Opinion] = {}

    def apply(self, recorded: Recorded) -> Iterable[Change]:
        if isinstance(recorded.event, AnalysisOutcome):
            self._remember({(recorded.event.analysis_id, recorded.version): _opinion(recorded.event, recorded.version)})
        run_id = run_of(recorded)
        if run_id is None:
            return
        account = self._accounts.get(run_id) or self._begin(run_id, recorded)
        account.apply(recorded)
        if account.ended:
            yield from self._figures(account)
            self._end(run_id)
        elif account.is_live:
            self._moved.add(run_id)

    def settle(self) -> Iterable[Change]:
        for run_id in sorted(self._moved):
            yield from self._figures(self._accounts[run_id])
        self._moved.clear()

    def forget(self) -> None:
        # What was heard stays: a fact never changes.
        self._accounts.clear()
        self._opinions.clear()
        self._moved.clear()

    def _begin(self, run_id: str, recorded: Recorded) -> Account:
        facts = [] if isinstance(recorded.event, RunRequested) else history(self._store, run_id, recorded.position)
        request = (facts[0] if facts else recorded).event
        assert isinstance(request, RunRequested), request
        account = self._accounts[run_id] = Account(request)
        for fact in facts:
            account.apply(fact)
        return account

    def _end(self, run_id: str) -> None:
        del self._accounts[run_id]
        self._opinions.pop(run_id, None)
        self._moved.discard(run_id)

    def _remember(self, opinions: Mapping[AnalysisVersion, Opinion]) -> None:
        self._heard |= opinions
        for oldest in list(islice(self._heard, max(0, len(self._heard) - REMEMBERED))):
            del self._heard[oldest]

    def _figures(self, account: Account) -> Iterator[Change]:
        request, config = account.request, account.request.config
        # A paper run was asked before its end was known, and may have gone on since.
        end = max(request.end, account.latest_at) if account.is_live else request.end
        bars = bars_seen(self._catalogue, self._store, request, config.data_symbols, end)
        if account.is_live or account.book.ended:
            # The account has not seen the later bars of its range: they are still to come, or it ended before them.
            bars = [[bar for bar in series if bar.closed_at <= account.latest_at] for series in bars]
        curve = equity_curve(config, account.moves, bars)
        for point in curve:
            yield tables.EQUITY, {**account.scope, **point._asdict()}
        yield tables.METRICS, {**account.scope, **_metrics_row(account, curve, schedule_of(self._store, request))}
        for row in decision_rows(self._consulted(account), bars):
            yield tables.DECISIONS, {**account.scope, **row}

    def _consulted(self, account: Account) -> list[Opinion]:
        """Every opinion the run has consulted, in order."""
        if account.request.variant.startswith(VARIANT_PREFIX):
            imported = ImportedAnalyst(load_signals(self._store, self._dsn, account.request.variant)).by_id()
            return [imported[analysis_id] for analysis_id, _ in account.consulted]
        known = self._opinions.setdefault(account.request.run_id, [])
        known += self._found(account.consulted[len(known) :])
        return known

    def _found(self, consulted: Sequence[AnalysisVersion]) -> list[Opinion]:
        unheard = [each for each in dict.fromkeys(consulted) if each not in self._heard]
        read = dict(zip(unheard, intents_at_versions(self._store, unheard), strict=True))
        found = [read.get(each) or self._heard[each] for each in consulted]
        # Runs over the same bars consult the same analyses.
        self._remember(read)
        return found


def _opinion(fact: AnalysisOutcome, version: int) -> Opinion:
    return fact.as_of, intent_of(fact, version)


def _metrics_row(account: Account, curve: list[EquityPoint], schedule: Schedule) -> Row:
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
