"""The page of one run: its figures, its curve, its prices and trades, and why each of them happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import streamlit as st

from engine.events import Environment, RunRequested
from engine.orders import trade_id
from projections.queries import PAGE, Queries
from ui import figures, views
from ui.formats import DASH, count, time_text
from ui.pages import reading
from ui.pages.explanation import show_chain
from ui.views import Row, plain

REFRESH_S = 5
AROUND_BARS = 60
AROUND = "Around the row"
# How many bars each choice draws at most; above 5,000 a browser takes long over them.
RANGES = {AROUND: 2_000, "Latest 500": 500, "2,000": 2_000, "5,000": 5_000}
# Signatures of charts and tables name packages that are not installed: the type checker cannot know them.
drawing: Any = st
CHART = {"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"]}


class Chosen(NamedTuple):
    """The row that was clicked: what to explain, and which stretch of which symbol it concerns.

    Without an end while it lasts.
    """

    key: str
    symbol: str
    start: datetime
    end: datetime | None


def show(run: Row) -> None:
    """Draws the page of a run."""
    request = reading.request_of(run["run_id"])
    _head(run)
    live = views.is_running(run)
    st.fragment(_figures_now, run_every=REFRESH_S if live else None)(run["run_id"], request)
    curve = views.thinned(reading.queries().equity(run["run_id"]))
    with st.container(border=True):
        st.markdown("**Equity and drawdown**")
        if curve:
            figure = figures.equity_figure(curve, float(run["starting_cash"]), run["currency"])
            drawing.plotly_chart(figure, key="equity", config=CHART)
        else:
            st.caption("No bar of this run has closed yet.")
    st.fragment(_activity)(run, request)


def _head(run: Row) -> None:
    period = f"{time_text(run['start_at'])} to {time_text(run['end_at'])} UTC"
    st.markdown(f"#### {plain(run['profile'])} · {plain(run['symbols'].replace(',', ', '))}")
    badges = f":primary-badge[{run['environment'].upper()}] :gray-badge[UTC] :gray-badge[{run['status']}]"
    st.markdown(f"{badges} :gray[{run['timeframe']} bars, {plain(period)}, variant {plain(run['variant'])}]")
    if run["reason"]:
        st.warning(plain(run["reason"]))


def _figures_now(run_id: str, request: RunRequested) -> None:
    queries = reading.queries()
    run, portfolio = queries.run(run_id), queries.portfolio(run_id)
    equity = views.thinned(queries.equity(run_id))
    grid = st.grid(6, min_column_width=150, gap="small")
    for card in views.cards(run, queries.metrics(run_id), request.config.limits, equity):
        with grid:
            _show_card(card)
    if portfolio and portfolio["halted"]:
        st.warning(f"Halted: {plain(portfolio['halted'])}")


def _show_card(card: views.Card) -> None:
    colour = {"gain": "green", "loss": "red"}.get(card.tone)
    value = plain(card.value)
    st.metric(
        card.label,
        f":{colour}[{value}]" if colour else value,
        delta_description=plain(card.note),
        delta_color="primary",
        border=True,
        height="stretch",
        chart_data=card.spark or None,
    )


def _activity(run: Row, request: RunRequested) -> None:
    """Prices, trades, signals and the chain of the chosen row: a click on a row redraws only these."""
    queries = reading.queries()
    prices, lists, explained = st.container(border=True), st.container(), st.container()
    with lists:
        trades_tab, orders_tab, signals_tab = st.tabs(["Trades", "Orders", "Signals"], key="list", on_change="rerun")
        with trades_tab:
            chosen = _trades(queries, run, request) if trades_tab.open else None
        with orders_tab:
            chosen = _orders(queries, run, request) if orders_tab.open else chosen
        with signals_tab:
            chosen = _signals(queries, run, request) if signals_tab.open else chosen
    with prices:
        _prices(queries, run, request, chosen)
    if chosen is not None:
        with explained:
            show_chain(chosen.key, run["run_id"], reading.chain(request, chosen.key))


def _trades(queries: Queries, run: Row, request: RunRequested) -> Chosen | None:
    rows = queries.latest_trades(run["run_id"])
    if not rows:
        st.info("This run has not traded yet; the Signals tab shows what was wished and denied.")
        return None
    _count("trade", rows)
    style = views.trades_table(rows, _decimals(request), run["currency"])
    row = _clicked(style, rows, f"trades-{run['run_id']}")
    return Chosen(trade_id(row["entry_order_id"]), row["symbol"], row["entry_at"], row["exit_at"])


def _orders(queries: Queries, run: Row, request: RunRequested) -> Chosen | None:
    rows = queries.latest_orders(run["run_id"])
    if not rows:
        st.info("This run has placed no order yet; the Signals tab shows what was wished and denied.")
        return None
    _count("order", rows)
    row = _clicked(views.orders_table(rows, _decimals(request)), rows, f"orders-{run['run_id']}")
    return Chosen(row["order_id"], row["symbol"], row["placed_at"], row["filled_at"])


def _signals(queries: Queries, run: Row, request: RunRequested) -> Chosen | None:
    counts = queries.verdicts(run["run_id"])
    if not counts:
        st.info("No analysis of this run wished for anything else than what was held.")
        return None
    verdict = st.segmented_control(
        "Verdict",
        ["DENIED", "REDUCED", "APPROVED"],
        format_func=lambda name: f"{name} {counts.get(name, 0):,}",
        key="verdict",
        label_visibility="collapsed",
    )
    rows = queries.latest_signals(run["run_id"], verdict)
    if not rows:
        st.info(f"No signal of this run was {str(verdict).lower()}.")
        return None
    _count("signal", rows)
    row = _clicked(views.signals_table(rows, _decimals(request)), rows, f"signals-{run['run_id']}-{verdict}")
    return Chosen(row["signal_id"], row["symbol"], row["at"], row["at"])


def _count(what: str, rows: Sequence[Row]) -> None:
    newest = f"The newest {PAGE:,}; `quantagent {what}s list --csv` has all. " if len(rows) == PAGE else ""
    st.caption(f"{newest or count(len(rows), what) + '. '}Click a row to see why.")


def _clicked(style: Any, rows: Sequence[Row], key: str) -> Row:
    """Shows a table and returns the row that is selected in it; the first one until another is clicked."""
    state = drawing.dataframe(
        style,
        key=key,
        hide_index=True,
        placeholder=DASH,
        height=38 + 35 * min(len(rows), 8),
        on_select="rerun",
        selection_mode="single-row-required",
        column_config={"#": st.column_config.NumberColumn(pinned=True, width="small")},
    )
    selected: Sequence[int] = state["selection"]["rows"]
    return rows[selected[0]] if selected and selected[0] < len(rows) else rows[0]


def _decimals(request: RunRequested) -> Mapping[str, int]:
    return {instrument.symbol: instrument.price_decimals for instrument in request.config.instruments}


def _prices(queries: Queries, run: Row, request: RunRequested, chosen: Chosen | None) -> None:
    head, symbol_place, range_place = st.columns([2, 3, 3], vertical_alignment="center")
    head.markdown("**Price and executions**")
    symbols = list(request.config.symbols)
    # A key of the row's symbol: a click on another symbol's row brings its chart, and the choice can still be changed.
    symbol = symbol_place.segmented_control(
        "Symbol",
        symbols,
        default=chosen.symbol if chosen else symbols[0],
        required=True,
        key=f"symbol-{run['run_id']}-{chosen.key if chosen else ''}",
        label_visibility="collapsed",
    )
    shown = range_place.segmented_control(
        "Range", list(RANGES), default=AROUND, required=True, key="range", label_visibility="collapsed", wrap=True
    )
    symbol, shown = symbol or symbols[0], shown or AROUND
    lived = queries.lived_until(run["run_id"]) or run["start_at"]
    start, end = _stretch(run["start_at"], lived, request, chosen if shown == AROUND else None)
    # A paper run goes on to see more than was known at its beginning.
    known_at = None if request.environment is Environment.PAPER else request.known_at
    bars = queries.bars(symbol, run["timeframe"], start, end, RANGES[shown] if chosen else 500, known_at)
    if not bars:
        st.caption(f"There are no bars of {symbol} in this stretch.")
        return
    trades = queries.trades_between(run["run_id"], symbol, bars[0]["opened_at"], bars[-1]["closed_at"])
    instrument = request.config.instrument(symbol)
    figure = figures.candle_figure(
        bars,
        trades,
        instrument.price_decimals,
        closes=instrument.calendar != "24/7",
        marked=(chosen.start, chosen.end or lived) if chosen and chosen.symbol == symbol else None,
    )
    drawing.plotly_chart(figure, key=f"prices-{symbol}-{shown}", config=CHART)


def _stretch(
    start: datetime, lived: datetime, request: RunRequested, around: Chosen | None
) -> tuple[datetime, datetime]:
    """The range of bars to draw: about the chosen row, else all the account has lived through.

    Never beyond: a recorded feed's later bars lie in the catalogue already.
    """
    if around is None:
        return start, lived
    margin: timedelta = request.config.timeframe.duration * AROUND_BARS
    return around.start - margin, min((around.end or lived) + margin, lived)
