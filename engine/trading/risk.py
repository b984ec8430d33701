"""Risk check: a table of rules that every order must pass.

Each rule returns its limit and the observed value. A rule passes only what is provably within its limit, so unknown
values fail. The rules apply to entries; an order that only reduces a position is denied only by a halt of everything or
by another pending exit. An entry that is only too large is reduced to fit. If the opening part of a reversal is denied,
the closing part remains.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import NamedTuple

from engine.core.config import RunConfig
from engine.core.events import Check, OrderPlaced, TradingHalted, Verdict
from engine.core.market import OrderType, Symbol
from engine.core.money import ZERO, add, floor_to_step, magnitude, mul, percent_of, steps_in, sub, total
from engine.trading.book import Book
from engine.trading.proposal import NOT_COMPUTABLE, Proposal, entry_cash


class RiskRuling(NamedTuple):
    verdict: Verdict
    quantity: Decimal
    reason: str
    checks: tuple[Check, ...]


def check(proposal: Proposal) -> RiskRuling:
    """Check an order: approve it, reduce it to the allowed quantity or to its closing part, or deny it."""
    if proposal.reduces_only and not proposal.invalid_reason:
        return _check_exit(proposal)
    checks = tuple(Check(rule, *_evaluate(check, proposal)) for rule, check in RULES.items())
    failed = [check for check in checks if check.passed is not True]
    if not failed:
        return RiskRuling(Verdict.APPROVED, proposal.quantity, "all checks passed", checks)
    reason = _describe_failures(failed)
    failing = {check.rule for check in failed}
    allowed = ZERO
    if failing <= _SIZE_RULES.keys() and proposal.config.limits.reduce:
        allowed = _largest_allowed(proposal)
    elif not failing & _NOT_REDUCIBLE and not _halted(proposal, exits=True):
        allowed = proposal.closing
    if allowed > 0:
        return RiskRuling(Verdict.REDUCED, allowed, reason, checks)
    return RiskRuling(Verdict.DENIED, ZERO, reason, checks)


def _check_exit(proposal: Proposal) -> RiskRuling:
    """Approve an exit unless everything is halted or another exit is pending."""
    pending = _other_pending_exit(proposal)
    results: dict[str, RuleResult] = {
        "halt": (not _halted(proposal, exits=True), "no halt of everything", _describe_halts(proposal.book)),
        "incompatible_position": (pending is None, "one way out at a time", _describe_pending_exit(pending)),
    }
    exempt: RuleResult = (True, "exits are exempt", "")
    checks = tuple(Check(rule, *results.get(rule, exempt)) for rule in RULES)
    failed = [check for check in checks if not check.passed]
    if failed:
        return RiskRuling(Verdict.DENIED, ZERO, _describe_failures(failed), checks)
    return RiskRuling(Verdict.APPROVED, proposal.quantity, "reduces the position", checks)


def _describe_failures(failed: list[Check]) -> str:
    return "; ".join(f"{check.rule}: {check.observed} against {check.limit}" for check in failed)


def _largest_allowed(proposal: Proposal) -> Decimal:
    """Return the largest quantity that all size rules allow, at least the closing part.

    Bisection over whole lots evaluates the rules themselves, so that the result is exactly what they allow.
    """
    lot, least = proposal.book.instruments[proposal.symbol].quantity_step, proposal.closing
    # The requested quantity has already failed.
    too_many = steps_in(sub(proposal.quantity, least), lot)
    fits = 0
    while too_many - fits > 1:
        candidate = (fits + too_many) // 2
        reduced = proposal.with_quantity(add(least, mul(lot, Decimal(candidate))))
        if all(_evaluate(check, reduced)[0] is True for check in _SIZE_RULES.values()):
            fits = candidate
        else:
            too_many = candidate
    return add(least, mul(lot, Decimal(fits)))


# --- Rules --------------------------------------------------------------------------------------------------------

RuleResult = tuple[bool, str, str]
"""Result of a rule: passed, limit, observed value."""

NO_LIMIT: RuleResult = (True, "none", "")
UNKNOWN = "unknown"


def _evaluate(rule: Callable[[Proposal], RuleResult], proposal: Proposal) -> RuleResult:
    """Evaluate a rule; it fails if a value cannot be computed."""
    try:
        return rule(proposal)
    except NOT_COMPUTABLE:
        return False, UNKNOWN, UNKNOWN


def _at_most(observed: Decimal | None, limit: Decimal | None) -> RuleResult:
    """Pass a known value up to the limit, or any value without a limit."""
    if limit is None:
        return NO_LIMIT
    if observed is None:
        return False, str(limit), UNKNOWN
    return observed <= limit, str(limit), str(observed)


def _intent(proposal: Proposal) -> RuleResult:
    return not proposal.invalid_reason, "prices and numbers that can be meant", proposal.invalid_reason or "so they are"


def _quantity(proposal: Proposal) -> RuleResult:
    quantity, lot = proposal.quantity, proposal.book.instruments[proposal.symbol].quantity_step
    opening = sub(quantity, proposal.closing)
    return quantity > 0 and floor_to_step(opening, lot) == opening, f"above 0, in lots of {lot:f}", str(quantity)


def _price(proposal: Proposal) -> RuleResult:
    known = proposal.cost is not None and proposal.cost.price > 0
    return known, "a price above 0", UNKNOWN if proposal.cost is None else str(proposal.cost.price)


def _cash(proposal: Proposal) -> RuleResult:
    free = proposal.book.free_cash
    if proposal.replaces is not None:
        free = add(free, proposal.replaces.reserved)
    needed = None if proposal.cost is None else entry_cash(proposal)
    return _at_most(needed, free)


def _order_value(proposal: Proposal) -> RuleResult:
    value = None if proposal.cost is None else proposal.cost.notional
    return _at_most(value, proposal.config.limits.order_value_max)


def _order_quantity(proposal: Proposal) -> RuleResult:
    return _at_most(proposal.quantity, proposal.config.limits.order_quantity_max)


def _position_cap(proposal: Proposal) -> RuleResult:
    worth = None
    if proposal.cost is not None and proposal.rate is not None:
        multiplier = proposal.book.instruments[proposal.symbol].multiplier
        worth = mul(mul(mul(proposal.expected_price, magnitude(proposal.resulting)), multiplier), proposal.rate)
    return _within_equity_pct(worth, proposal, proposal.config.position_pct_of(proposal.symbol))


def _position_quantity(proposal: Proposal) -> RuleResult:
    return _at_most(magnitude(proposal.resulting), proposal.config.limits.position_quantity_max)


def _gross_exposure(proposal: Proposal) -> RuleResult:
    pct = proposal.config.limits.gross_exposure_pct
    exposures = [] if pct is None else proposal.exposures
    gross = None if exposures is None else total(max(magnitude(most), magnitude(least)) for most, least in exposures)
    return _within_equity_pct(gross, proposal, pct)


def _net_exposure(proposal: Proposal) -> RuleResult:
    pct = proposal.config.limits.net_exposure_pct
    exposures = [] if pct is None else proposal.exposures
    net = None
    if exposures is not None:
        net = max(magnitude(total(most for most, _ in exposures)), magnitude(total(least for _, least in exposures)))
    return _within_equity_pct(net, proposal, pct)


def _within_equity_pct(observed: Decimal | None, proposal: Proposal, pct: Decimal | None) -> RuleResult:
    """Pass a value up to a percentage of equity; fail if equity is unknown, and allow 0 at most if it is negative."""
    if pct is None:
        return NO_LIMIT
    if proposal.equity is None:
        return False, UNKNOWN, UNKNOWN if observed is None else str(observed)
    return _at_most(observed, percent_of(max(ZERO, proposal.equity), pct))


def _daily_loss(proposal: Proposal) -> RuleResult:
    limit = daily_loss_limit(proposal.book, proposal.config)
    if limit is None:
        return NO_LIMIT
    if proposal.equity is None:
        return False, f"below {limit}", UNKNOWN
    loss = sub(proposal.book.day_equity, proposal.equity)
    return loss < limit, f"below {limit}", str(loss)


def _drawdown(proposal: Proposal) -> RuleResult:
    pct, peak, equity = proposal.config.limits.drawdown_pct, proposal.book.peak, proposal.equity
    if pct is None:
        return NO_LIMIT
    if equity is None:
        return False, UNKNOWN, UNKNOWN
    limit, lost = percent_of(max(peak, equity), pct), sub(max(peak, equity), equity)
    return lost < limit, f"below {limit}", str(lost)


def _cool_down(proposal: Proposal) -> RuleResult:
    limits, book = proposal.config.limits, proposal.book
    if limits.losses_max is None:
        return NO_LIMIT
    rested = book.lost_at is not None and (
        proposal.view.at >= book.lost_at + limits.cool_down_bars * proposal.config.timeframe.duration
    )
    since = f"{limits.losses_max} losses in a row, or {limits.cool_down_bars} bars after the last"
    return book.losses < limits.losses_max or rested, f"below {since}", f"{book.losses} in a row"


def _orders_per_step(proposal: Proposal) -> RuleResult:
    most = proposal.config.limits.orders_per_step
    placed = sum(1 for at in proposal.book.placed if at == proposal.view.at)
    return NO_LIMIT if most is None else (placed < most, f"below {most}", str(placed))


def _orders_per_hour(proposal: Proposal) -> RuleResult:
    most = proposal.config.limits.orders_per_hour
    placed = sum(1 for at in proposal.book.placed if at > proposal.view.at - _HOUR)
    return NO_LIMIT if most is None else (placed < most, f"below {most}", str(placed))


_HOUR = timedelta(hours=1)


def _price_collar(proposal: Proposal) -> RuleResult:
    pct = proposal.config.limits.collar_pct
    if pct is None:
        return NO_LIMIT
    if proposal.cost is None or proposal.last is None:
        return False, str(pct), UNKNOWN
    prices = (proposal.cost.price, proposal.terms.limit_price, proposal.terms.stop_price)
    furthest = max(magnitude(sub(price, proposal.last)) for price in prices if price is not None)
    return _at_most(furthest, percent_of(proposal.last, pct))


def _duplicate(proposal: Proposal) -> RuleResult:
    same = next(
        (
            order.order_id
            for order in proposal.entries
            if (order.symbol, order.side) == (proposal.symbol, proposal.side)
            and (order.at == proposal.view.at or order.terms == proposal.terms)
        ),
        None,
    )
    return same is None, "one of its kind at a time", "none" if same is None else same


def _stale_price(proposal: Proposal) -> RuleResult:
    most = proposal.config.limits.stale_bars
    if most is None:
        return NO_LIMIT
    oldest = most * proposal.config.timeframe.duration
    latest = proposal.view.latest.get(proposal.symbol)
    if latest is None:
        return False, f"{oldest}", UNKNOWN
    age = proposal.view.at - latest.closed_at
    return age <= oldest, f"{oldest}", f"{age}"


def _allowed_symbols(proposal: Proposal) -> RuleResult:
    allowed = proposal.config.limits.symbols
    return NO_LIMIT if allowed is None else (proposal.symbol in allowed, ",".join(allowed), proposal.symbol)


def _shorts(proposal: Proposal) -> RuleResult:
    allowed = proposal.config.limits.shorts
    return allowed or proposal.resulting >= 0, "allowed" if allowed else "none", f"would hold {proposal.resulting}"


def _incompatible_position(proposal: Proposal) -> RuleResult:
    allowed = proposal.config.limits.reversal
    limit = "reversal allowed" if allowed else "no reversal"
    pending = _other_pending_exit(proposal)
    if pending is not None:
        return False, limit, _describe_pending_exit(pending)
    return proposal.closing == 0 or allowed, limit, f"holds {proposal.held}"


def pending_exit(book: Book, symbol: Symbol) -> OrderPlaced | None:
    """Return the working market order that closes the symbol's position, if any. Stops and targets do not count."""
    orders = book.orders_of(symbol)
    return next((o for o in orders if o.role == "exit" and o.terms.order_type is OrderType.MARKET), None)


def _other_pending_exit(proposal: Proposal) -> OrderPlaced | None:
    """Return the pending exit of the symbol, unless the proposal amends it."""
    pending = pending_exit(proposal.book, proposal.symbol)
    return None if pending is proposal.replaces else pending


def _describe_pending_exit(order: OrderPlaced | None) -> str:
    return "is not being left" if order is None else f"is left by {order.order_id}"


def _trading_hours(proposal: Proposal) -> RuleResult:
    begin, end = proposal.config.limits.trading_from, proposal.config.limits.trading_to
    if _session_is_ending(proposal):
        return False, "time to leave before the session ends", "its last bars"
    if begin is None or end is None:
        return NO_LIMIT
    now = proposal.view.at.hour * 60 + proposal.view.at.minute
    inside = begin <= now < end if begin < end else now >= begin or now < end
    return inside, f"from {_clock(begin)} before {_clock(end)}", _clock(now)


def _session_is_ending(proposal: Proposal) -> bool:
    """Return true if the session ends too soon to open a position that must be closed before its end."""
    config, symbol = proposal.config, proposal.symbol
    bar, bars_ahead = config.timeframe.duration, 1 + config.costs_of(symbol).latency_bars
    calendar = proposal.book.instruments[symbol].calendar
    within = proposal.view.schedule.ends_within
    return config.exits_of(symbol).session_end and within(calendar, proposal.view.at, bar * bars_ahead)


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def _halt(proposal: Proposal) -> RuleResult:
    return not _halted(proposal, exits=False), "no halt", _describe_halts(proposal.book)


def _halted(proposal: Proposal, exits: bool) -> bool:
    """Return true if a halt or the end of trading stops entries, or, with `exits`, exits as well."""
    return proposal.book.ended != "" or any(
        not exits or halt.scope == "everything" for halt in proposal.book.halts.values()
    )


def _describe_halts(book: Book) -> str:
    halts: list[TradingHalted] = list(book.halts.values())
    if book.ended:
        return f"trading has ended: {book.ended}"
    return "; ".join(f"{halt.scope} halted by {halt.actor}: {halt.reason}" for halt in halts) or "no halt"


_SIZE_RULES: dict[str, Callable[[Proposal], RuleResult]] = {
    "cash": _cash,
    "order_value": _order_value,
    "order_quantity": _order_quantity,
    "position_cap": _position_cap,
    "position_quantity": _position_quantity,
    "gross_exposure": _gross_exposure,
    "net_exposure": _net_exposure,
}

RULES: dict[str, Callable[[Proposal], RuleResult]] = {
    "wish": _intent,
    "quantity": _quantity,
    "price": _price,
    **_SIZE_RULES,
    "daily_loss": _daily_loss,
    "drawdown": _drawdown,
    "cool_down": _cool_down,
    "orders_per_step": _orders_per_step,
    "orders_per_hour": _orders_per_hour,
    "price_collar": _price_collar,
    "duplicate": _duplicate,
    "stale_price": _stale_price,
    "allowed_symbols": _allowed_symbols,
    "shorts": _shorts,
    "incompatible_position": _incompatible_position,
    "trading_hours": _trading_hours,
    "halt": _halt,
}

# These rules deny an order completely, including its closing part.
_NOT_REDUCIBLE = frozenset({"wish", "quantity", "price", "incompatible_position"})


def daily_loss_limit(book: Book, config: RunConfig) -> Decimal | None:
    """Return the loss limit since the session roll, in account currency; None without a limit."""
    pct = config.limits.daily_loss_pct
    return None if pct is None else percent_of(book.day_equity, pct)
