"""Causal chains for display: from the analysis to the fill, step by step, with the steps that were not reached.

Pure: formats the links that `engine.audit.why` found in the log. Numbers are rounded; the raw events have the exact
ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple, cast

import msgspec

from engine.audit.narration import describe_failed_call, describe_source
from engine.audit.why import ChainLink, analyst_reasons, evaluated_checks
from engine.core.events import (
    AnalysisFailed,
    AnalysisMade,
    GraphWork,
    OrderCanceled,
    OrderFilled,
    OrderPlaced,
    OrderRejected,
    RiskDecided,
    SignalRaised,
)
from engine.store import LogEntry
from ui.formats import format_number, format_time, tidy

DECISION_KINDS = ("analysis", "imported signal")
INTENT_STEPS = ("Analysis", "Imported signal", "Signal")
ENDS = ("fill", "rejection", "cancellation")


class ChainCheck(NamedTuple):
    """One risk check as text."""

    rule: str
    passed: bool
    limit: str
    observed: str


class ReportFindings(NamedTuple):
    """Findings of one analyst, as names and values."""

    name: str
    findings: list[tuple[str, str]]


class ChainStep(NamedTuple):
    """One event of a chain. Without a position it was not reached, or is an imported decision, which is no event."""

    name: str
    text: str
    at: datetime | None = None
    position: int | None = None
    facts: tuple[tuple[str, str], ...] = ()
    reasons: tuple[str, ...] = ()
    checks: tuple[ChainCheck, ...] = ()
    reports: tuple[ReportFindings, ...] = ()
    occurred: bool = True


def build_chains(links: Sequence[ChainLink]) -> list[list[ChainStep]]:
    """Return the steps of each signal: the chain of a trade's entry, then those of the orders after it."""
    return [[*map(_step, part), *_missing_steps(part)] for part in _by_signal(links)]


def named_columns(chains: Sequence[list[ChainStep]]) -> list[tuple[str, list[ChainStep]]]:
    """Return titled columns: one for each of several chains; a single chain is split into intent and outcome."""
    if len(chains) > 1:
        names = ["Entry", *(f"Change {n}" for n in range(1, len(chains) - 1)), "Exit"]
        return list(zip(names, chains, strict=True))
    steps = [step for chain in chains for step in chain]
    split = 1 + max((n for n, step in enumerate(steps) if step.name in INTENT_STEPS), default=-1)
    return [("Intent", steps[:split]), ("Outcome", steps[split:])]


def _by_signal(links: Sequence[ChainLink]) -> Iterator[list[ChainLink]]:
    part: list[ChainLink] = []
    for link in links:
        begins = link.kind in DECISION_KINDS or (
            link.kind == "signal" and not (part and part[-1].kind in DECISION_KINDS)
        )
        if begins and part:
            yield part
            part = []
        part.append(link)
    if part:
        yield part


def _missing_steps(part: Sequence[ChainLink]) -> Iterator[ChainStep]:
    kinds = {link.kind for link in part}
    if "nothing" in kinds:
        return
    if "order" not in kinds:
        yield ChainStep("Order", "not reached: denied by the risk check", occurred=False)
    if not kinds.intersection(ENDS):
        waiting = "not yet: the order waits for the symbol's next bar" if "order" in kinds else "not reached"
        yield ChainStep("Fill", waiting, occurred=False)


def _step(link: ChainLink) -> ChainStep:
    event = link.event.event if link.event is not None else None
    text, facts = link.says, list[tuple[str, str]]()
    match event:
        case AnalysisMade():
            text, facts = event.decision.value, _facts_of_analysis(event)
        case AnalysisFailed():
            text, facts = f"no analysis: {event.reason}", _facts_of_failure(event)
        case SignalRaised():
            text = event.direction.value
            facts = [
                ("confidence", format_number(event.confidence)),
                ("close", format_number(event.reference_price)),
                ("from", describe_source(event).replace("_", " ")),
            ]
        case RiskDecided():
            text = event.verdict.value
            facts = [
                ("side", event.side.value),
                ("requested", format_number(event.requested)),
                ("allowed", format_number(event.quantity)),
            ]
        case OrderPlaced():
            text = f"{event.terms.order_type} {event.side} {format_number(event.quantity)}"
            facts = _facts_of_order(event)
        case OrderFilled():
            text = f"{event.side} {format_number(event.quantity)} at {format_number(event.price)}"
            facts = [
                ("open" if event.at == event.bar_opened_at else "inside the bar", format_number(event.reference_price)),
                ("notional", format_number(event.notional, 2)),
                ("slippage", format_number(event.slippage, 2)),
                ("commission", format_number(event.commission, 2)),
            ]
        case OrderRejected():
            text = event.reason
            facts = [("needed", format_number(event.required, 2)), ("free", format_number(event.available, 2))]
        case OrderCanceled():
            text = event.reason
        case _:
            pass
    return ChainStep(
        link.kind.capitalize(),
        text,
        link.at,
        link.position or None,
        tuple(facts),
        tuple(analyst_reasons(link)),
        tuple(
            ChainCheck(rule.replace("_", " "), ok, tidy(limit), tidy(saw))
            for rule, ok, limit, saw in evaluated_checks([link])
        ),
        _reports(event) if isinstance(event, AnalysisMade) else (),
    )


def _facts_of_order(order: OrderPlaced) -> list[tuple[str, str]]:
    terms = order.terms
    facts = [("for", order.role.replace("_", " ")), ("reference price", format_number(order.reference_price))]
    for name, price in (("stop", terms.stop_price), ("limit", terms.limit_price), ("trail", terms.trail)):
        if price is not None:
            facts.append((name, format_number(price)))
    if order.reserved:
        facts.append(("cash reserved", format_number(order.reserved, 2)))
    if terms.expires_at is not None:
        facts.append(("until", f"{terms.expires_at:%Y-%m-%d %H:%M}"))
    return facts


def _facts_of_analysis(made: AnalysisMade) -> list[tuple[str, str]]:
    facts = [("confidence", format_number(made.confidence)), ("by", _by(made.variant, made.work))]
    if made.horizon_bars is not None:
        facts.append(("horizon", f"{made.horizon_bars} bars"))
    if made.risk_reward is not None:
        facts.append(("risk-reward", format_number(made.risk_reward)))
    return [*facts, ("window", f"{made.window_bars} bars, {made.window_digest[:12]}")]


def _facts_of_failure(failed: AnalysisFailed) -> list[tuple[str, str]]:
    calls = [("asked", describe_failed_call(failed.work))] if failed.work is not None and failed.work.calls else []
    return [("by", _by(failed.variant, failed.work)), *calls]


def _by(variant: str, work: GraphWork | None) -> str:
    model = "" if work is None else f"{work.model_provider} {work.model_name}".strip()
    return f"{variant}, {model}" if model else variant


def _reports(made: AnalysisMade) -> tuple[ReportFindings, ...]:
    """Return the analysts' reports without the decision, which the step itself shows."""
    reports: dict[str, dict[str, Any]] = msgspec.json.decode(made.reports)
    return tuple(
        ReportFindings(name, [(finding.replace("_", " "), _finding(value)) for finding, value in findings.items()])
        for name, findings in reports.items()
        if name != "decision"
    )


def _finding(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(item).replace("_", " ") for item in cast("list[object]", value)) or "none"
    return "-" if value is None else tidy(str(value).replace("_", " "))


class RawEvent(NamedTuple):
    """A stored event: title, stream, version, time and actor, and its payload as indented JSON."""

    title: str
    stream: str
    recorded: str
    payload: str


def raw_events(links: Sequence[ChainLink]) -> list[RawEvent]:
    """Return every event of a chain once, in order of position."""
    events = {link.event.position: link.event for link in links if link.event is not None}
    return [_raw(events[position]) for position in sorted(events)]


def _raw(row: LogEntry) -> RawEvent:
    meta = row.meta
    origin = "".join(
        f", {name} {value}" for name, value in (("run", meta.correlation), ("after", meta.causation)) if value
    )
    return RawEvent(
        f"#{row.position} {row.name}",
        row.stream,
        f"version {row.version}, recorded {format_time(meta.recorded_at)} UTC by {meta.actor}{origin}",
        msgspec.json.format(row.payload, indent=2).decode(),
    )
