"""The metric conventions: reference results, small cases worked by hand, and laws for any run."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.session_ends import Schedule
from engine.data.calendars import session_hours
from projections.metrics import Metrics, drawdowns, metrics, returns_per_year, session_equity
from projections.sample_size import MIN_RETURNS, missing_reason

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
Equity = list[tuple[datetime, Decimal]]
UTC_DAYS = Schedule(["24/7"]).roll_after


def days(*values: int | str) -> Equity:
    """One value per daily bar, stamped with its close."""
    return [(MONDAY + DAY * (day + 1), Decimal(value)) for day, value in enumerate(values)]


def of_days(*values: int | str, start: int = 100, pnl: Sequence[Decimal] = ()) -> Metrics:
    return metrics(Decimal(start), days(*values), pnl, 0, 365, DAY)


def after(*returns: float, times: int = 1, start: float = 100.0) -> list[str]:
    """The values of days with these returns, the whole of them so many times over."""
    values: list[str] = []
    for change in returns * times:
        start *= 1 + change
        values.append(f"{start:.12f}")
    return values


def of_trades(*pnl: str) -> Metrics:
    return of_days(100, pnl=[Decimal(each) for each in pnl])


# --- Reference results --------------------------------------------------------------------------------------------


def golden() -> Path:
    folder = os.environ.get("QUANTAGENT_REFERENCE_DATA")
    if not folder or not (Path(folder) / "golden").is_dir():
        pytest.skip("QUANTAGENT_REFERENCE_DATA names no folder with golden results")
    return Path(folder) / "golden"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def golden_run(name: str, **options: Any) -> tuple[Metrics, dict[str, Any]]:
    folder = golden()
    expected = json.loads((folder / f"expected_{name}.json").read_text())
    trades = rows(folder / f"trades_{name}.csv")
    equity = [  # stamped with the bar's open there, with its close here
        (datetime.fromisoformat(row["ts"]).replace(tzinfo=UTC) + HOUR, Decimal(row["equity"]))
        for row in rows(folder / f"equity_{name}.csv")
    ]
    found = metrics(
        Decimal(str(expected["inputs"]["start_equity"])),
        equity,
        [Decimal(trade["net_pnl"]) for trade in trades if trade["status"] == "closed"],
        sum(trade["status"] == "open" for trade in trades),
        int(expected["recommended"]["annualisation"]),
        HOUR,
        UTC_DAYS,
        **options,
    )
    return found, expected


@pytest.mark.parametrize("name", ["eurusd_h", "syn3_h"])
def test_metrics_equal_the_reference_results(name: str) -> None:
    found, expected = golden_run(name)
    ours = {
        "annualisation": found.annualisation,
        "sharpe": found.sharpe_ratio,
        "sortino": found.sortino_ratio,
        "volatility": found.volatility,
        "max_drawdown": found.max_drawdown,
        "cagr": found.cagr,
        "calmar": found.calmar_ratio,
        "profit_factor": found.profit_factor,
        "win_rate": found.win_rate,
        "gross_profit": float(found.gross_profit),
        "gross_loss": float(found.gross_loss),
        "expectancy": float(found.expectancy or 0),
        "total_return": found.total_return,
    }
    assert ours == pytest.approx(expected["recommended"], rel=1e-9, abs=1e-12)
    inputs = expected["inputs"]
    assert found.days == inputs["n_days"]
    assert (found.total_trades, found.open_trades) == (inputs["closed_trades"], inputs["open_trades"])
    assert float(found.total_pnl) == pytest.approx(inputs["final_equity"] - inputs["start_equity"], rel=1e-9)


@pytest.mark.parametrize("name", ["eurusd_h", "syn3_h"])
@pytest.mark.parametrize("bars_per_year", [1638, 6048, 8760])
def test_the_sharpe_ratio_per_bar_equals_the_reference_results(name: str, bars_per_year: int) -> None:
    found, expected = golden_run(name, bars_per_year=bars_per_year)
    assert found.bar_sharpe_ratio == pytest.approx(expected["per_bar"][f"N={bars_per_year}"], rel=1e-9)


@pytest.mark.parametrize("name", ["eurusd_h", "syn3_h"])
def test_equity_by_utc_days_gives_the_reference_returns(name: str) -> None:
    folder = golden()
    equity = [
        (datetime.fromisoformat(row["ts"]).replace(tzinfo=UTC) + HOUR, Decimal(row["equity"]))
        for row in rows(folder / f"equity_{name}.csv")
    ]
    before, expected = equity[0][1], rows(folder / f"daily_returns_{name}.csv")
    found: dict[str, float] = {}
    for end, value in session_equity(equity, UTC_DAYS):
        found[(end - DAY).date().isoformat()] = float(value / before - 1)
        before = value
    assert found == pytest.approx({row[""]: float(row["ret"]) for row in expected}, abs=1e-12)


# --- By hand ------------------------------------------------------------------------------------------------------


def test_ratios_of_three_returns_over_and_over_worked_by_hand() -> None:
    found = of_days(*after(0.1, -0.1, 0.1, times=10))
    mean, deviation = 0.1 / 3, (10 * 0.08 / 3 / 29) ** 0.5
    assert found.days == 30
    assert found.sharpe_ratio == pytest.approx(mean / deviation * 365**0.5)
    assert found.sortino_ratio == pytest.approx(mean / (0.01 / 3) ** 0.5 * 365**0.5)
    assert found.volatility == pytest.approx(deviation * 365**0.5)
    assert found.max_drawdown == pytest.approx(-0.1)
    growth = 1.089**10
    assert float(found.total_pnl) == pytest.approx(100 * (growth - 1))
    assert found.total_return == pytest.approx(growth - 1)
    assert found.cagr == pytest.approx(growth ** (365.25 / 30) - 1)
    assert found.calmar_ratio == pytest.approx((growth ** (365.25 / 30) - 1) / 0.1)


def test_trade_figures_worked_by_hand() -> None:
    found = of_trades("30", "-10", "0", "-10.5")
    assert (found.gross_profit, found.gross_loss) == (Decimal(30), Decimal("20.5"))
    assert found.profit_factor == pytest.approx(30 / 20.5)
    assert found.expectancy == Decimal("2.375")
    assert found.total_trades == 4


def test_a_trade_that_breaks_even_is_no_win() -> None:
    assert of_trades("1", "0").win_rate == 0.5
    assert of_trades("0").win_rate == 0


def test_open_trades_are_counted_apart() -> None:
    found = metrics(Decimal(100), days(100, 101), [Decimal(1)], 2, 365, DAY)
    assert (found.total_trades, found.open_trades, found.win_rate) == (1, 2, 1)


def test_the_risk_free_rate_is_spread_over_the_periods_of_a_year() -> None:
    daily = 1.05 ** (1 / 365) - 1
    values = days(*after(0.1, -0.1, 0.1, times=10))
    found = metrics(Decimal(100), values, [], 0, 365, DAY, risk_free=0.05)
    assert found.sharpe_ratio == pytest.approx((0.1 / 3 - daily) / (10 * 0.08 / 3 / 29) ** 0.5 * 365**0.5)


def test_the_first_day_counts_from_the_start() -> None:
    assert of_days(90, 90).max_drawdown == pytest.approx(-0.1)
    flat = of_days(*[90] * 30)
    mean = -0.1 / 30
    deviation = ((0.1 + mean) ** 2 + 29 * mean**2) / 29
    assert flat.sharpe_ratio == pytest.approx(mean / deviation**0.5 * 365**0.5)


def test_without_trades_the_figures_of_trades_are_undefined() -> None:
    found = of_days(100, 101)
    assert (found.win_rate, found.profit_factor, found.expectancy) == (None, None, None)
    assert (found.gross_profit, found.gross_loss, found.total_trades) == (0, 0, 0)


def test_without_losses_the_profit_factor_is_undefined() -> None:
    assert of_trades("5", "0").profit_factor is None
    assert of_trades("-5").profit_factor == 0


def test_without_bars_everything_about_returns_is_undefined() -> None:
    found = of_days()
    assert (found.sharpe_ratio, found.sortino_ratio, found.volatility) == (None, None, None)
    assert (found.max_drawdown, found.cagr, found.calmar_ratio) == (None, None, None)
    assert (found.total_pnl, found.total_return, found.days) == (0, 0, 0)


@pytest.mark.parametrize("count", [1, 3, 29])
def test_fewer_than_thirty_returns_are_too_few_for_a_ratio(count: int) -> None:
    found = of_days(*after(0.1, -0.05, 0.02, times=10)[:count])
    assert (found.sharpe_ratio, found.sortino_ratio, found.volatility) == (None, None, None)
    assert (found.cagr, found.calmar_ratio) == (None, None)
    assert found.days == count
    assert found.total_return != 0
    assert missing_reason("sharpe_ratio", count) == f"{count} returns, {MIN_RETURNS} needed"
    assert missing_reason("win_rate", count) == ""


def test_three_hours_at_one_per_cent_promise_no_yearly_growth() -> None:
    equity = [(MONDAY + HOUR * (n + 1), Decimal(value)) for n, value in enumerate(after(0.01, times=3))]
    found = metrics(Decimal(100), equity, [], 0, 365, HOUR)
    assert (found.cagr, found.sharpe_ratio) == (None, None)


def test_equal_returns_have_no_sharpe_ratio() -> None:
    found = of_days(*after(0.01, times=40))
    assert found.sharpe_ratio is None
    assert found.volatility == 0


def test_without_a_falling_day_sortino_and_calmar_are_undefined() -> None:
    found = of_days(*after(0.01, 0.02, times=20))
    assert (found.sortino_ratio, found.calmar_ratio, found.max_drawdown) == (None, None, 0)
    assert found.sharpe_ratio is not None


def test_a_lost_account_has_a_drawdown_but_no_ratios() -> None:
    found = of_days(50, *[-10] * 40, -20)
    assert found.max_drawdown == pytest.approx(-1.2)
    assert (found.sharpe_ratio, found.sortino_ratio, found.volatility) == (None, None, None)
    assert (found.cagr, found.calmar_ratio) == (None, None)


def test_a_gain_within_an_hour_has_no_yearly_growth() -> None:
    assert metrics(Decimal(1), [(MONDAY, Decimal(10**6))], [], 0, 365, HOUR).cagr is None


def test_a_start_without_money_is_refused() -> None:
    with pytest.raises(ValueError, match="start_equity must be above 0"):
        of_days(1, start=0)


def test_per_bar_sharpe_is_given_only_with_declared_bars_per_year() -> None:
    values = after(0.1, -0.1, 0.1, times=10)
    assert of_days(*values).bar_sharpe_ratio is None
    found = metrics(Decimal(100), days(*values), [], 0, 252, DAY, bars_per_year=365)
    assert found.bar_sharpe_ratio == pytest.approx(0.1 / 3 / (10 * 0.08 / 3 / 29) ** 0.5 * 365**0.5)
    assert (found.annualisation, found.bars_per_year) == (252, 365)


def test_a_bar_that_closes_at_the_roll_belongs_to_the_session_before() -> None:
    midnight = MONDAY + DAY
    equity = [(midnight - HOUR, Decimal(1)), (midnight, Decimal(2)), (midnight + HOUR, Decimal(3))]
    assert session_equity(equity, UTC_DAYS) == [(midnight, Decimal(2)), (midnight + DAY, Decimal(3))]


def test_the_session_ends_at_the_declared_hour() -> None:
    at_22 = MONDAY + 22 * HOUR
    equity = [(at_22, Decimal(1)), (at_22 + HOUR, Decimal(2)), (at_22 + 24 * HOUR, Decimal(3))]
    ends = Schedule(["24/7"], roll_hour=22).roll_after
    assert session_equity(equity, ends) == [(at_22, Decimal(1)), (at_22 + 24 * HOUR, Decimal(3))]


def test_days_without_bars_are_left_out() -> None:
    friday, monday = MONDAY + 5 * DAY, MONDAY + 8 * DAY
    equity = [(friday, Decimal(1)), (monday, Decimal(2))]
    assert [end for end, _ in session_equity(equity, UTC_DAYS)] == [friday, monday]


def test_a_sunday_evening_of_a_currency_belongs_to_monday() -> None:
    # FX opens on Sunday at 17:00 in New York; a year of its bars has 52 weeks of five sessions.
    start, hours = datetime(2024, 1, 7, 22, tzinfo=UTC), 52 * 7 * 24
    schedule = Schedule(["FX"], session_hours(["FX"], start, start + hours * HOUR))
    opens = [at for n in range(hours) if (at := start + n * HOUR + HOUR).weekday() != 5]
    ends = [end for end, _ in session_equity([(at, Decimal(1)) for at in opens], schedule.roll_after)]
    assert len(ends) in range(259, 263)
    assert {end.weekday() for end in ends} == {0, 1, 2, 3, 4}
    assert returns_per_year(ends) == 252


def test_the_last_bar_of_a_half_day_belongs_to_that_day_and_an_update_changes_no_frozen_session() -> None:
    christmas_eve = datetime(2024, 12, 24, tzinfo=UTC)
    schedule = Schedule(["XNYS"], session_hours(["XNYS"], christmas_eve, christmas_eve + 3 * DAY))
    half_day = christmas_eve + 18 * HOUR
    assert schedule.roll_after(half_day - HOUR) == half_day
    assert schedule.roll_after(half_day + HOUR / 60) == christmas_eve + 2 * DAY + 21 * HOUR


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [(DAY, 365), (DAY * 365.25 / 252, 252), (DAY * 365.25 / 261, 252), (7 * DAY, 52), (DAY * 30.4, 12)],
)
def test_returns_a_year_follow_their_spacing(spacing: timedelta, expected: int) -> None:
    assert returns_per_year([MONDAY + n * spacing for n in range(60)]) == expected


def test_weekly_bars_are_annualised_with_52_weeks() -> None:
    values = after(0.02, -0.01, 0.01, times=20)
    weeks = [(MONDAY + 7 * DAY * (n + 1), Decimal(value)) for n, value in enumerate(values)]
    found = metrics(Decimal(100), weeks, [], 0, None, 7 * DAY, UTC_DAYS)
    assert found.annualisation == 52
    declared = metrics(Decimal(100), weeks, [], 0, 252, 7 * DAY, UTC_DAYS)
    assert found.sharpe_ratio is not None
    assert declared.sharpe_ratio is not None
    assert declared.sharpe_ratio / found.sharpe_ratio == pytest.approx((252 / 52) ** 0.5)


def test_drawdowns_are_measured_from_the_highest_equity_so_far() -> None:
    shares = [share for _, share in drawdowns(days(90, 120, 60, 120), Decimal(100))]
    assert shares == pytest.approx([-0.1, 0, -0.5, 0])
    assert drawdowns([], Decimal(100)) == []


# --- Laws ---------------------------------------------------------------------------------------------------------

amounts = st.decimals("50", "200", places=2)
pnls = st.lists(st.decimals("-1000", "1000", places=2), max_size=20)


@given(st.lists(amounts, min_size=1, max_size=80), pnls)
def test_shares_stay_in_their_bounds(values: list[Decimal], pnl: list[Decimal]) -> None:
    equity = [(MONDAY + HOUR * (bar + 1), value) for bar, value in enumerate(values)]
    found = metrics(Decimal(100), equity, pnl, 0, 365, HOUR, UTC_DAYS)
    assert found.win_rate is None or 0 <= found.win_rate <= 1
    assert found.max_drawdown is not None
    assert -1 < found.max_drawdown <= 0
    assert found.max_drawdown == min(share for _, share in drawdowns(equity, Decimal(100)))
    assert found.volatility is None or found.volatility >= 0
    assert found.total_return >= found.max_drawdown - 1e-12  # they round differently
    assert found.gross_profit - found.gross_loss == sum(pnl)
    assert found.days == len({(at - timedelta(microseconds=1)).date() for at, _ in equity})


@given(st.lists(amounts, min_size=30, max_size=50), st.integers(2, 1000))
def test_returns_do_not_depend_on_the_size_of_the_account(values: list[Decimal], factor: int) -> None:
    once, larger = of_days(*map(str, values)), of_days(*(str(v * factor) for v in values), start=100 * factor)
    for name in ("total_return", "sharpe_ratio", "sortino_ratio", "volatility", "max_drawdown", "cagr", "calmar_ratio"):
        before, after = getattr(once, name), getattr(larger, name)
        assert after is None if before is None else after == pytest.approx(before, rel=1e-6, abs=1e-9), name


@given(st.lists(st.decimals("-1000", "1000", places=2).filter(bool), min_size=1, max_size=20), st.randoms())
def test_trade_figures_do_not_depend_on_order_and_a_break_even_trade_never_raises_the_win_rate(
    pnl: list[Decimal], random: Any
) -> None:
    shuffled = list(pnl)
    random.shuffle(shuffled)
    once, again = of_days(100, pnl=pnl), of_days(100, pnl=shuffled)
    assert once == again
    with_a_draw = of_days(100, pnl=[*pnl, Decimal(0)])
    assert (with_a_draw.win_rate or 0) <= (once.win_rate or 0)
    assert with_a_draw.profit_factor == once.profit_factor


@given(st.lists(amounts, min_size=30, max_size=50), st.integers(1, 400), st.integers(1, 400))
def test_the_sharpe_ratio_grows_with_the_root_of_the_periods(values: list[Decimal], few: int, many: int) -> None:
    equity = days(*map(str, values))
    low, high = (metrics(Decimal(100), equity, [], 0, n, DAY).sharpe_ratio for n in (few, many))
    if low is None or high is None:
        assert low == high
    else:
        assert high == pytest.approx(low * (many / few) ** 0.5)
