"""Lookahead check of a variant and of whole sessions: the same bars with a poisoned future."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import zip_longest
from typing import NamedTuple

from analysis import conformance, variants
from analysis.analyst import ensure_analyses
from analysis.conformance import CHECKS, RETURNS_DECISION, Finding, poison_bar
from analysis.variants import Variant
from engine.audit.narration import describe_event
from engine.core.config import RunConfig
from engine.core.events import BookEvent, Environment
from engine.core.market import Bar
from engine.data.memory import MemoryCatalogue
from engine.runtime import runs
from engine.store.codec import encode_payload
from engine.store.memory import MemoryStore
from ui.app import App, ProgressCallback, no_progress
from ui.services.backtest import BacktestRequest, resolve

SESSION_BARS = 400
INSTANTS = 4

BOOK = "book, future poisoned"


class LookaheadReport(NamedTuple):
    """Findings of a lookahead check. `tried` of the `bars` of all symbols were checked."""

    variant: str
    checks: tuple[str, ...]
    bars: int
    tried: int
    findings: tuple[Finding, ...]


def check_variant(app: App, request: BacktestRequest, on_progress: ProgressCallback = no_progress) -> LookaheadReport:
    """Run every check of `analysis.conformance` on every symbol of a request, and whole sessions. Store nothing.

    Raise `BadInput` for an unknown variant, or without any bar that has a whole window.
    """
    name = request.variant or variants.RULES.name
    variant = variants.find_variant(name)
    resolved = resolve(app, request)
    catalogue = app.catalogue.as_known_at(resolved.known_at)
    known = [
        catalogue.bars(bars[0].symbol, resolved.config.timeframe, None, bars[-1].closed_at) for bars in resolved.bars
    ]
    traded = [bars for bars in known if bars[0].symbol in resolved.config.symbols]
    tried = sum(len(conformance.sample_rows(variant, bars, resolved.start)) for bars in traded)
    findings: list[Finding] = []
    for n, bars in enumerate(traded):
        done_before = n * len(CHECKS)
        findings += conformance.check_conformance(
            name,
            bars,
            resolved.start,
            progress=lambda done, before=done_before: on_progress("checks", before + done, len(traded) * len(CHECKS)),
        )
    if all(finding.check != RETURNS_DECISION for finding in findings):
        findings += first_divergence(resolved.config, variant, known, resolved.start, on_progress)
    total = sum(len(bars) for bars in resolved.bars if bars[0].symbol in resolved.config.symbols)
    return LookaheadReport(variant.name, (RETURNS_DECISION, *CHECKS, BOOK), total, tried, tuple(findings))


def first_divergence(
    config: RunConfig,
    variant: Variant,
    known: Sequence[Sequence[Bar]],
    start: datetime,
    on_progress: ProgressCallback = no_progress,
) -> list[Finding]:
    """Return the first event of a book up to an instant that changes when later bars are poisoned.

    `known` has the bars of each symbol with their history; sessions run over the last 400 of them from `start`.
    """
    closes = sorted({bar.closed_at for bars in known for bar in bars if bar.opened_at >= start})[-SESSION_BARS:]
    instants = [closes[(n + 1) * len(closes) // (INSTANTS + 1)] for n in range(INSTANTS)]
    first = max(start, closes[0] - config.timeframe.duration)
    baseline = _book_events(config, variant, known, first)
    for done, now in enumerate(sorted(set(instants)), 1):
        shifted = _book_events(config, variant, [poison_future(bars, now) for bars in known], first)
        for ours, theirs in zip_longest(_until(baseline, now), _until(shifted, now)):
            if ours != theirs:
                return [_finding(ours, theirs, now)]
        on_progress("sessions", done, len(set(instants)))
    return []


def poison_future(bars: Sequence[Bar], now: datetime) -> list[Bar]:
    """Return the bars with extreme values for everything not known at an instant."""
    return [
        bar if bar.closed_at <= now else poison_bar(bar, n, began=bar.opened_at <= now) for n, bar in enumerate(bars)
    ]  # fmt: skip


def _book_events(
    config: RunConfig, variant: Variant, known: Sequence[Sequence[Bar]], first: datetime
) -> list[BookEvent]:
    """Return the events of a session over the bars from an instant on."""
    catalogue, store = MemoryCatalogue(), MemoryStore()
    for bars in known:
        catalogue.add(bars[0].symbol, config.timeframe, bars, source="check", learned_at=bars[-1].closed_at)
    traded = [[bar for bar in bars if bar.opened_at >= first] for bars in known]
    analyses = ensure_analyses(
        store, catalogue, config.symbols, config.timeframe, first, None, actor="check", variant=variant
    )
    requested = runs.request(
        Environment.BACKTEST,
        config,
        profile="check",
        dataset_digest="",
        variant=variant.name,
        start=first,
        end=max(bars[-1].closed_at for bars in known),
    )
    runs.execute_run(store, requested, [bars for bars in traded if bars], analyses, actor="check")
    rows = store.read(runs.book_stream(requested.run_id))
    return [row.event for row in rows if isinstance(row.event, BookEvent)]


def _until(events: Sequence[BookEvent], now: datetime) -> Iterator[BookEvent]:
    return (event for event in events if event.at <= now)


def _finding(baseline: BookEvent | None, shifted: BookEvent | None, now: datetime) -> Finding:
    event = baseline or shifted
    assert event is not None, "two different events are not both missing"
    before, after = (describe_event(each) if each else "nothing" for each in (baseline, shifted))
    if before == after:
        before, after = (encode_payload(each).decode() if each else "nothing" for each in (baseline, shifted))
    name = type(event).__name__
    texts = (f"{name} {before}", f"{name} {after} (wild after {now:%Y-%m-%d %H:%M}Z)")
    return Finding(BOOK, getattr(event, "symbol", ""), event.at, *texts)
