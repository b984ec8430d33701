"""Whether a variant and the whole session behind it know the future: the same bars, made wild after an instant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import zip_longest
from typing import NamedTuple

from analysis import conformance, variants
from analysis.analyst import opinions
from analysis.conformance import CHECKS, FAILS, Finding, wild
from analysis.variants import Variant
from engine.audit.narration import says
from engine.core.config import RunConfig
from engine.core.events import BookEvent, Environment
from engine.core.market import Bar
from engine.data.memory import MemoryCatalogue
from engine.runtime import runs
from engine.store.codec import payload_of
from engine.store.memory import MemoryStore
from ui.app import App, Question, Tell, set_up, silent

SESSION_BARS = 400
INSTANTS = 4

BOOK = "book, future poisoned"


class Checked(NamedTuple):
    """What was tried, and what a variant did not pass. `tried` of the `bars` of all symbols were asked about."""

    variant: str
    checks: tuple[str, ...]
    bars: int
    tried: int
    findings: tuple[Finding, ...]


def check_variant(app: App, question: Question, tell: Tell = silent) -> Checked:
    """Every check of `analysis.conformance` on every symbol of a question, and whole sessions. Stores nothing.

    Raises `BadInput` when there is no such variant, or no bar with a whole window.
    """
    name = question.variant or variants.RULES.name
    variant = variants.find(name)
    ready = set_up(app, question)
    catalogue = app.catalogue.as_known_at(ready.known_at)
    known = [catalogue.bars(bars[0].symbol, ready.config.timeframe, None, bars[-1].closed_at) for bars in ready.bars]
    traded = [bars for bars in known if bars[0].symbol in ready.config.symbols]
    tried = sum(len(conformance.sampled(variant, bars, ready.start)) for bars in traded)
    findings: list[Finding] = []
    for n, bars in enumerate(traded):
        done_before = n * len(CHECKS)
        findings += conformance.check(
            name,
            bars,
            ready.start,
            progress=lambda done, before=done_before: tell("checks", before + done, len(traded) * len(CHECKS)),
        )
    if all(finding.check != FAILS for finding in findings):
        findings += first_moved(ready.config, variant, known, ready.start, tell)
    total = sum(len(bars) for bars in ready.bars if bars[0].symbol in ready.config.symbols)
    return Checked(variant.name, (FAILS, *CHECKS, BOOK), total, tried, tuple(findings))


def first_moved(
    config: RunConfig, variant: Variant, known: Sequence[Sequence[Bar]], start: datetime, tell: Tell = silent
) -> list[Finding]:
    """The first event of a book up to an instant that is another one when the bars after that instant are wild.

    `known` are the bars of each symbol with their history; sessions are driven over the last 400 of all from `start`.
    """
    closes = sorted({bar.closed_at for bars in known for bar in bars if bar.opened_at >= start})[-SESSION_BARS:]
    instants = [closes[(n + 1) * len(closes) // (INSTANTS + 1)] for n in range(INSTANTS)]
    first = max(start, closes[0] - config.timeframe.duration)
    usual = _book(config, variant, known, first)
    for done, now in enumerate(sorted(set(instants)), 1):
        moved = _book(config, variant, [poisoned(bars, now) for bars in known], first)
        for ours, theirs in zip_longest(_until(usual, now), _until(moved, now)):
            if ours != theirs:
                return [_finding(ours, theirs, now)]
        tell("sessions", done, len(set(instants)))
    return []


def poisoned(bars: Sequence[Bar], now: datetime) -> list[Bar]:
    """The same bars, with everything wild that is not known at an instant."""
    return [
        bar if bar.closed_at <= now else wild(bar, n, began=bar.opened_at <= now) for n, bar in enumerate(bars)
    ]  # fmt: skip


def _book(config: RunConfig, variant: Variant, known: Sequence[Sequence[Bar]], first: datetime) -> list[BookEvent]:
    """The events of a session over the bars from an instant on."""
    catalogue, store = MemoryCatalogue(), MemoryStore()
    for bars in known:
        catalogue.add(bars[0].symbol, config.timeframe, bars, source="check", learned_at=bars[-1].closed_at)
    traded = [[bar for bar in bars if bar.opened_at >= first] for bars in known]
    formed = opinions(store, catalogue, config.symbols, config.timeframe, first, None, actor="check", variant=variant)
    asked = runs.request(
        Environment.BACKTEST,
        config,
        profile="check",
        dataset_digest="",
        variant=variant.name,
        start=first,
        end=max(bars[-1].closed_at for bars in known),
    )
    runs.perform(store, asked, [bars for bars in traded if bars], formed, actor="check")
    rows = store.read(runs.book_stream(asked.run_id))
    return [row.event for row in rows if isinstance(row.event, BookEvent)]


def _until(events: Sequence[BookEvent], now: datetime) -> Iterator[BookEvent]:
    return (event for event in events if event.at <= now)


def _finding(usual: BookEvent | None, moved: BookEvent | None, now: datetime) -> Finding:
    event = usual or moved
    assert event is not None, "two that differ are not both nothing"
    before, after = (says(each) if each else "nothing" for each in (usual, moved))
    if before == after:
        before, after = (payload_of(each).decode() if each else "nothing" for each in (usual, moved))
    name = type(event).__name__
    told = (f"{name} {before}", f"{name} {after} (wild after {now:%Y-%m-%d %H:%M}Z)")
    return Finding(BOOK, getattr(event, "symbol", ""), event.at, *told)
