"""A small run with stored analyses, and a store that fails at a chosen append."""

from __future__ import annotations

import msgspec

from engine.core import ids, intents
from engine.core.events import AnalysisFailed, AnalysisMade
from engine.core.intents import Intent
from engine.core.market import Bar, Direction
from engine.core.money import exact
from engine.store import Batch, Cause, Store
from tests.support.strategies import config_of
from tests.support.workloads import scripted, walk

ME = Cause("test")


BARS = [walk("AAA", 31, 120, 100.0, 0.01), walk("BBB", 5, 120, 50.0, 0.01)]


CONFIG = config_of(("AAA", "BBB"), slippage_bps="5", commission_bps="10", position_pct="10", holding_bars=4)


ANALYSIS = AnalysisMade(
    analysis_id="", symbol="", timeframe="1h", as_of=BARS[0][0].closed_at, variant="rules", decision=Direction.HOLD,
    confidence=exact("0.5"), horizon_bars=None, risk_reward=None, reports="{}", window_digest="", window_bars=1,
    agent_version="1",
)  # fmt: skip


class Stored:
    """An analyst whose opinions are facts in the log: the moving-average state, under the ids of the rules variant."""

    def __init__(self, store: Store) -> None:
        self._wishes: dict[tuple[str, object], Intent] = {}
        script = scripted(BARS)
        for bar in (bar for series in BARS for bar in series):
            opinion = script.intent(bar)
            made = msgspec.structs.replace(
                ANALYSIS,
                analysis_id=f"{bar.symbol}@{bar.closed_at.isoformat()}",
                symbol=bar.symbol,
                as_of=bar.closed_at,
                decision=opinion.direction if opinion else Direction.HOLD,
                confidence=exact(1),
            )
            failed = AnalysisFailed(made.analysis_id, bar.symbol, "1h", bar.closed_at, "rules", "the line was cut")
            # An analysis may have failed before it was made: its version says which of the facts is the opinion.
            store.append([Batch(ids.analysis_stream(made.analysis_id), 0, [failed, made])], ME)
            self._wishes[bar.symbol, bar.closed_at] = intents.intent_of(made, 2)

    def intent(self, bar: Bar) -> Intent:
        return self._wishes[bar.symbol, bar.closed_at]


class PulledPlug(Exception):
    """Somebody pulled it."""
