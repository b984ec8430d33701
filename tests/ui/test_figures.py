"""The charts: what they draw, on which axes, and that Plotly takes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import plotly.graph_objects as go

from tests.support.workloads import walk
from ui.dashboard import figures
from ui.dashboard.views import GAIN, LOSS

AT = datetime(2024, 1, 5, 18, tzinfo=UTC)
HOUR = timedelta(hours=1)


def bars(count: int = 10, *, weekend_after: int | None = None) -> list[dict[str, Any]]:
    rows = list[dict[str, Any]]()
    for n, bar in enumerate(walk("AAA", 3, count, 100.0, 0.01)):
        shift = timedelta(hours=49) if weekend_after is not None and n >= weekend_after else timedelta(0)
        prices = {name: getattr(bar, name) for name in ("open", "high", "low", "close", "volume")}
        rows.append({"opened_at": AT + n * HOUR + shift, "closed_at": AT + (n + 1) * HOUR + shift, **prices})
    return rows


def trade(direction: str, pnl: int, *, closed: bool = True) -> dict[str, Any]:
    return {
        "direction": direction,
        "entry_at": AT + HOUR,
        "exit_at": AT + 3 * HOUR if closed else None,
        "entry_price": Decimal("100.5"),
        "exit_price": Decimal(101) if closed else None,
        "net_pnl": Decimal(pnl),
    }


def curve() -> list[dict[str, Any]]:
    return [{"at": AT + n * HOUR, "equity": Decimal(100 - n), "drawdown": -n / 100} for n in range(5)]


def accepted(figure: figures.Figure) -> figures.Figure:
    """The figure, after Plotly has checked every name and value in it."""
    go.Figure(figure)
    return figure


def traces(figure: figures.Figure) -> dict[str, Any]:
    return {trace["name"]: trace for trace in figure["data"]}


def test_equity_stands_over_drawdown_70_to_30_on_one_time_axis() -> None:
    figure = accepted(figures.equity_figure(curve(), 100.0, "USD"))
    upper, lower = figure["layout"]["yaxis"]["domain"], figure["layout"]["yaxis2"]["domain"]
    assert upper[0] > lower[1]
    assert 0.68 <= (upper[1] - upper[0]) / (upper[1] - upper[0] + lower[1] - lower[0]) <= 0.72
    assert all("xaxis" not in trace for trace in figure["data"])
    assert figure["layout"]["hovermode"] == "x unified"
    assert traces(figure)["Drawdown"]["y"][-1] == -0.04


def test_times_carry_no_offset_that_a_browser_would_move() -> None:
    assert figures.equity_figure(curve(), 100.0, "USD")["data"][0]["x"][0] == "2024-01-05 18:00"


def test_the_right_margin_holds_the_price_labels() -> None:
    for figure in (figures.equity_figure(curve(), 1.0, "USD"), figures.candle_figure(bars(), [], 2, closes=False)):
        assert figure["layout"]["margin"]["r"] == 64


def test_zooms_survive_a_redraw() -> None:
    first, second = (figures.candle_figure(bars(n), [], 2, closes=False)["layout"]["uirevision"] for n in (5, 9))
    assert first == second


def test_lines_are_coloured_by_what_their_trades_brought() -> None:
    trades = [trade("LONG", 5), trade("SHORT", -5), trade("LONG", 0, closed=False)]
    drawn = traces(accepted(figures.candle_figure(bars(), trades, 2, closes=False)))
    assert drawn["gain"]["line"] == {"color": GAIN, "width": 2, "dash": "dot"}
    assert drawn["loss"]["line"]["color"] == LOSS
    assert drawn["gain"]["x"] == ["2024-01-05 19:00", "2024-01-05 21:00", None]
    assert (drawn["long entry"]["marker"]["symbol"], drawn["short entry"]["marker"]["symbol"]) == (
        "triangle-up",
        "triangle-down",
    )
    assert len(drawn["long entry"]["x"]) == 2
    assert len(drawn["exit"]["x"]) == 2


def test_green_and_red_are_kept_for_results() -> None:
    drawn = figures.candle_figure(bars(), [], 2, closes=False)
    assert GAIN not in str(drawn)
    assert LOSS not in str(drawn)


def test_closed_hours_are_cut_out_where_the_market_has_them() -> None:
    rows = bars(10, weekend_after=4)
    cut = accepted(figures.candle_figure(rows, [], 5, closes=True))["layout"]["xaxis"]["rangebreaks"]
    assert cut == [{"bounds": ["2024-01-05 22:00", "2024-01-07 23:00"]}]
    assert figures.candle_figure(rows, [], 5, closes=False)["layout"]["xaxis"]["rangebreaks"] == []


def test_no_bar_lies_within_a_cut() -> None:
    rows = bars(30, weekend_after=11)
    for cut in figures.closed_hours(rows):
        start, end = cut["bounds"]
        assert not [row for row in rows if start <= row["opened_at"].strftime(figures.TIME) < end]


def test_what_was_chosen_is_marked_by_a_band() -> None:
    shapes = accepted(figures.candle_figure(bars(), [], 2, closes=False, marked=(AT, AT + HOUR)))["layout"]["shapes"]
    assert (shapes[0]["x0"], shapes[0]["x1"]) == ("2024-01-05 18:00", "2024-01-05 19:00")


def test_a_chart_without_bars_or_trades_is_still_a_figure() -> None:
    accepted(figures.candle_figure([], [], 2, closes=True))
    accepted(figures.equity_figure([], 100.0, "USD"))
