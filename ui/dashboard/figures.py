"""Charts as Plotly figures in plain dictionaries: pure functions of rows, without queries, rounding or sums.

Times are UTC and have no offset, so that no browser shifts them. Numbers become floats only here. Green and red show
results of trades; candles are gray, so that the results are distinct.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from ui.dashboard.views import GAIN, LOSS

ChartRow = Mapping[str, Any]
Figure = dict[str, Any]

ACCENT, GREY, GRID = "#4c8dff", "#8592a3", "rgba(133, 146, 163, 0.18)"
RISING, FALLING = "#a9b4c2", "#5c6878"
TIME = "%Y-%m-%d %H:%M"
# Width of the price labels on the right; without it Plotly cuts them off.
RIGHT_MARGIN = 64


def equity_figure(curve: Sequence[ChartRow], start: float, currency: str) -> Figure:
    """Return equity over drawdown, 70 to 30, on one axis. `curve` has at, equity, drawdown (fraction, 0 or less)."""
    at = [_time(row["at"]) for row in curve]
    layout = _layout(420) | {
        "xaxis": _time_axis() | {"anchor": "y2"},
        "yaxis": _right_axis() | {"domain": [0.33, 1.0], "tickformat": ",.0f"},
        "yaxis2": _right_axis() | {"domain": [0.0, 0.27], "tickformat": ".1%", "rangemode": "tozero", "nticks": 4},
        "hovermode": "x unified",
        "hoversubplots": "axis",
        "shapes": [_level(start)],
    }
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"Equity ({currency})",
            "x": at,
            "y": [float(row["equity"]) for row in curve],
            "line": {"color": ACCENT, "width": 1.6},
            "hovertemplate": "%{y:,.2f}",
        },
        {
            "type": "scatter",
            "mode": "lines",
            "name": "Drawdown",
            "x": at,
            "y": [float(row["drawdown"]) for row in curve],
            "yaxis": "y2",
            "line": {"color": GREY, "width": 1},
            "fill": "tozeroy",
            "fillcolor": "rgba(133, 146, 163, 0.22)",
            "hovertemplate": "%{y:.2%}",
        },
    ]
    return {"data": data, "layout": layout}


def candle_figure(
    bars: Sequence[ChartRow],
    trades: Sequence[ChartRow],
    decimals: int,
    *,
    closes: bool,
    marked: tuple[datetime, datetime] | None = None,
) -> Figure:
    """Return candles over volume, 80 to 20, with entries, exits and the lines between them.

    A bar is drawn at its open, a fill at the open of its bar. closes: the market has closed hours, which are cut out;
    marked: first and last instant of the row selected in the table, drawn as a band.
    """
    opened = [_time(bar["opened_at"]) for bar in bars]
    price = f",.{decimals}f"
    layout = _layout(460) | {
        "xaxis": _time_axis() | {"anchor": "y2", "rangebreaks": closed_hours(bars) if closes else []},
        "yaxis": _right_axis() | {"domain": [0.22, 1.0], "tickformat": price},
        "yaxis2": _right_axis() | {"domain": [0.0, 0.18], "nticks": 3, "rangemode": "tozero"},
        "hovermode": "x",
        "shapes": [_band(*marked)] if marked else [],
    }
    candles = {
        "type": "candlestick",
        "name": "Price",
        "showlegend": False,
        "x": opened,
        **{name: [float(bar[name]) for bar in bars] for name in ("open", "high", "low", "close")},
        "increasing": {"line": {"color": RISING, "width": 1}, "fillcolor": "rgba(0, 0, 0, 0)"},
        "decreasing": {"line": {"color": FALLING, "width": 1}, "fillcolor": FALLING},
    }
    volume = {
        "type": "bar",
        "name": "Volume",
        "showlegend": False,
        "x": opened,
        "y": [float(bar["volume"]) for bar in bars],
        "yaxis": "y2",
        "marker": {"color": GREY, "opacity": 0.4, "line": {"width": 0}},
        "hovertemplate": "%{y:,.4~f}<extra>volume</extra>",
    }
    return {"data": [candles, volume, *_results(trades), *_executions(trades, price)], "layout": layout}


def closed_hours(bars: Sequence[ChartRow]) -> list[dict[str, Any]]:
    """Return the intervals without bars as Plotly's rangebreaks: from a missing bar to the next open."""
    return [
        {"bounds": [_time(before["closed_at"]), _time(after["opened_at"])]}
        for before, after in pairwise(bars)
        if after["opened_at"] - before["closed_at"] >= timedelta(hours=1)
    ]


def _results(trades: Sequence[ChartRow]) -> list[Figure]:
    """Return dotted lines from entry to exit: one trace for profits, one for losses."""
    closed = [trade for trade in trades if trade["exit_at"] is not None]
    kinds = (
        ("gain", GAIN, [trade for trade in closed if trade["net_pnl"] > 0]),
        ("loss", LOSS, [trade for trade in closed if trade["net_pnl"] <= 0]),
    )
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "x": [x for trade in selected for x in (_time(trade["entry_at"]), _time(trade["exit_at"]), None)],
            "y": [y for trade in selected for y in (float(trade["entry_price"]), float(trade["exit_price"]), None)],
            "line": {"color": colour, "width": 2, "dash": "dot"},
            "hoverinfo": "skip",
        }
        for name, colour, selected in kinds
        if selected
    ]


def _executions(trades: Sequence[ChartRow], price: str) -> list[Figure]:
    """Return triangles at entries, up for long and down for short, and crosses at exits."""
    kinds = (
        ("long entry", "triangle-up", "entry", [trade for trade in trades if trade["direction"] == "LONG"]),
        ("short entry", "triangle-down", "entry", [trade for trade in trades if trade["direction"] == "SHORT"]),
        ("exit", "x-thin", "exit", [trade for trade in trades if trade["exit_at"] is not None]),
    )
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": [_time(trade[f"{side}_at"]) for trade in selected],
            "y": [float(trade[f"{side}_price"]) for trade in selected],
            "marker": {"symbol": symbol, "size": 10, "color": ACCENT, "line": {"width": 2, "color": ACCENT}},
            "hovertemplate": f"%{{y:{price}}}<extra>{name}</extra>",
        }
        for name, symbol, side, selected in kinds
        if selected
    ]


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime(TIME)


def _layout(height: int) -> dict[str, Any]:
    return {
        "height": height,
        "margin": {"l": 8, "r": RIGHT_MARGIN, "t": 28, "b": 28},
        "paper_bgcolor": "rgba(0, 0, 0, 0)",
        "plot_bgcolor": "rgba(0, 0, 0, 0)",
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "font": {"size": 12}},
        "dragmode": "pan",
        # Constant, so that the zoom survives a rerun of the script.
        "uirevision": "kept",
    }


def _time_axis() -> dict[str, Any]:
    return {
        "type": "date",
        "hoverformat": f"{TIME} UTC",
        "rangeslider": {"visible": False},
        "gridcolor": GRID,
        "showspikes": True,
        "spikemode": "across",
        # Negative: removes the halo that Plotly draws around it.
        "spikethickness": -1,
        "spikedash": "solid",
        "spikecolor": GREY,
    }


def _right_axis() -> dict[str, Any]:
    return {"side": "right", "gridcolor": GRID, "zeroline": False, "fixedrange": True}


def _level(at: float) -> dict[str, Any]:
    line = {"color": GREY, "width": 1, "dash": "dash"}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": "y", "y0": at, "y1": at, "line": line}


def _band(start: datetime, end: datetime) -> dict[str, Any]:
    return {
        "type": "rect",
        "xref": "x",
        "x0": _time(start),
        "x1": _time(end),
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "fillcolor": "rgba(76, 141, 255, 0.12)",
        "line": {"color": "rgba(76, 141, 255, 0.5)", "width": 1},
        "layer": "below",
    }
