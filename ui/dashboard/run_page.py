"""Page of one run: figures, equity curve, prices and trades, and the explanation of each trade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import streamlit as st

from engine.core.events import Environment, RunRequested
from engine.core.ids import trade_id
from projections.queries import PAGE, Queries, ReadAt
from ui.dashboard import figures, read_access, views
from ui.dashboard.explanation import show_chain
from ui.dashboard.views import ReadRow, plain
from ui.formats import DASH, format_count, format_time
from ui.services.open_positions import marked_positions
from ui.services.outcomes import run_outcome

REFRESH_S = 5
AROUND_BARS = 60
AROUND = "Around the row"
# Most bars that each choice draws; a browser is slow above 5,000.
RANGES = {AROUND: 2_000, "Latest 500": 500, "2,000": 2_000, "5,000": 5_000}
# Signatures of charts and tables name packages that are not installed: the type checker cannot resolve them.
drawing: Any = st
CHART = {"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"]}


class SelectedRow(NamedTuple):
    """The row selected in a table: the id to explain, and its symbol and interval.

    The interval of an open trade has no end.
    """

    key: str
    symbol: str
    start: datetime
    end: datetime | None


def show_run_page(run: ReadRow) -> None:
    """Draw the page of a run. While it runs, all blocks are redrawn together, to show the same moment."""
    request = read_access.find_request(run["run_id"])
    live = views.is_running(run)
    st.fragment(_blocks, run_every=REFRESH_S if live else None)(run["run_id"], request, live)


def _blocks(run_id: str, request: RunRequested, live: bool) -> None:
    queries = read_access.queries()
    with queries.snapshot() as at:
        run = queries.run(run_id)
        _head(run, request, at)
        equity = views.thin_curve(queries.equity(run_id))
        _figures(queries, run, request, equity)
        with st.container(border=True):
            st.markdown("**Equity and drawdown**")
            if equity:
                figure = figures.equity_figure(equity, float(run["starting_cash"]), run["currency"])
                drawing.plotly_chart(figure, key="equity", config=CHART)
            else:
                st.caption("No bar of this run has closed yet.")
        # In an ended run a click on a row redraws only the blocks that depend on it.
        (_activity if live else st.fragment(_activity))(run, request)


def _head(run: ReadRow, request: RunRequested, at: ReadAt) -> None:
    period = f"{format_time(run['start_at'])} to {format_time(run['end_at'])} UTC"
    st.markdown(f"#### {plain(run['profile'])} · {plain(run['symbols'].replace(',', ', '))}")
    badges = f":primary-badge[{run['environment'].upper()}] :gray-badge[UTC] :gray-badge[{run['status']}]"
    st.markdown(f"{badges} :gray[{run['timeframe']} bars, {plain(period)}, variant {plain(run['variant'])}]")
    st.caption(plain(f"{views.as_of_text(at)}; {views.loss_limit(request.config.limits)}"))
    if run["reason"]:
        st.warning(plain(run["reason"]))


def _figures(queries: Queries, run: ReadRow, request: RunRequested, equity: Sequence[ReadRow]) -> None:
    portfolio = queries.portfolio(run["run_id"])
    grid = st.grid(6, min_column_width=150, gap="small")
    for card in views.cards(run, queries.metrics(run["run_id"]), request.config.limits, equity):
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


def _activity(run: ReadRow, request: RunRequested) -> None:
    """Show prices, trades, signals and the chain of the selected row."""
    queries = read_access.queries()
    prices, lists, explained = st.container(border=True), st.container(), st.container()
    with queries.snapshot() as at:
        with lists:
            trades_tab, orders_tab, signals_tab = st.tabs(
                ["Trades", "Orders", "Signals"], key="list", on_change="rerun"
            )
            with trades_tab:
                selected = _trades(queries, run, request) if trades_tab.open else None
            with orders_tab:
                selected = _orders(queries, run, request) if orders_tab.open else selected
            with signals_tab:
                selected = _signals(queries, run, request) if signals_tab.open else selected
        with prices:
            _prices(queries, run, request, selected)
        if selected is not None:
            with explained:
                links = read_access.load_chain(request, selected.key)
                show_chain(selected.key, run["run_id"], [link for link in links if link.position <= at.position])


def _trades(queries: Queries, run: ReadRow, request: RunRequested) -> SelectedRow | None:
    total, run_id = queries.count("trades", run["run_id"]), run["run_id"]
    if not total:
        st.info(plain(run_outcome(queries, run_id).no_trades))
        return None
    rows = queries.latest_trades(run_id, PAGE, _page("trade", total, run_id))
    unrealised = {row["symbol"]: row["unrealised_pnl"] for row in marked_positions(queries, request)}
    rows = [row | {"unrealised_pnl": unrealised.get(row["symbol"]) if row["exit_at"] is None else None} for row in rows]
    style = views.trades_table(rows, _decimals(request), run["currency"], run["variant"])
    row = _selected_row(style, rows, f"trades-{run_id}", "trade_id")
    return SelectedRow(trade_id(row["entry_order_id"]), row["symbol"], row["entry_at"], row["exit_at"])


def _orders(queries: Queries, run: ReadRow, request: RunRequested) -> SelectedRow | None:
    total = queries.count("orders", run["run_id"])
    if not total:
        st.info("This run has placed no order; the Signals tab shows what was denied, and by which rule.")
        return None
    rows = queries.latest_orders(run["run_id"], PAGE, _page("order", total, run["run_id"]))
    row = _selected_row(views.orders_table(rows, _decimals(request)), rows, f"orders-{run['run_id']}", "order_id")
    return SelectedRow(row["order_id"], row["symbol"], row["placed_at"], row["filled_at"])


def _signals(queries: Queries, run: ReadRow, request: RunRequested) -> SelectedRow | None:
    counts = queries.verdict_counts(run["run_id"])
    if not counts:
        st.info("No analysis of this run led to a change of position.")
        return None
    if denials := queries.denials(run["run_id"]):
        st.caption("Denied signals by rule, with the most frequent numbers")
        drawing.dataframe(views.denials_table(denials), hide_index=True, key=f"denials-{run['run_id']}")
    verdict = st.segmented_control(
        "Verdict",
        ["DENIED", "REDUCED", "APPROVED"],
        format_func=lambda name: f"{name} {counts.get(name, 0):,}",
        key="verdict",
        label_visibility="collapsed",
    )
    total = sum(counts.values()) if verdict is None else counts.get(verdict, 0)
    if not total:
        st.info(f"No signal of this run was {str(verdict).lower()}.")
        return None
    key = f"signals-{run['run_id']}-{verdict}"
    rows = queries.latest_signals(run["run_id"], verdict, PAGE, _page("signal", total, key))
    row = _selected_row(views.signals_table(rows, _decimals(request), run["variant"]), rows, key, "signal_id")
    return SelectedRow(row["signal_id"], row["symbol"], row["at"], row["at"])


def _page(what: str, total: int, key: str) -> int:
    """Show the number of rows with buttons for their pages; return the number of rows before the chosen page."""
    pages = -(-total // PAGE)
    page = st.pagination(pages, key=f"page-{what}-{key}") if pages > 1 else 1
    first = (page - 1) * PAGE
    part = f", {first + 1:,} to {min(first + PAGE, total):,} of them here, newest first" if pages > 1 else ""
    st.caption(f"{format_count(total, what)}{part}. Click a row to see why.")
    return first


def _selected_row(style: Any, rows: Sequence[ReadRow], key: str, name: str) -> ReadRow:
    """Show a table and return its selected row; the first one until another is clicked.

    The selection is stored by the id of its row, because newer rows are inserted before it while the run continues.
    """
    ids = [row[name] for row in rows]
    remembered = f"{key}-chosen"
    place = ids.index(st.session_state[remembered]) if st.session_state.get(remembered) in ids else 0
    # A table with other rows is a new widget, which starts with the stored selection.
    table = f"{key}-{ids[0]}-{ids[-1]}"

    def remember() -> None:
        selected: Sequence[int] = st.session_state[table]["selection"]["rows"]
        if selected and selected[0] < len(ids):
            st.session_state[remembered] = ids[selected[0]]

    drawing.dataframe(
        style,
        key=table,
        hide_index=True,
        placeholder=DASH,
        height=38 + 35 * min(len(rows), 8),
        on_select=remember,
        selection_mode="single-row-required",
        selection_default={"selection": {"rows": [place]}},
        column_config={"#": st.column_config.NumberColumn(pinned=True, width="small")},
    )
    return rows[place]


def _decimals(request: RunRequested) -> Mapping[str, int]:
    return {instrument.symbol: instrument.price_decimals for instrument in request.config.instruments}


def _prices(queries: Queries, run: ReadRow, request: RunRequested, selected: SelectedRow | None) -> None:
    head, symbol_place, range_place = st.columns([2, 3, 3], vertical_alignment="center")
    head.markdown("**Price and executions**")
    symbols = list(request.config.symbols)
    # The key contains the row's symbol: a click on another symbol's row changes the chart, and the choice stays free.
    symbol = symbol_place.segmented_control(
        "Symbol",
        symbols,
        default=selected.symbol if selected else symbols[0],
        required=True,
        key=f"symbol-{run['run_id']}-{selected.key if selected else ''}",
        label_visibility="collapsed",
    )
    shown = range_place.segmented_control(
        "Range", list(RANGES), default=AROUND, required=True, key="range", label_visibility="collapsed", wrap=True
    )
    symbol, shown = symbol or symbols[0], shown or AROUND
    lived = queries.last_bar_closed_at(run["run_id"]) or run["start_at"]
    start, end = _bar_range(run["start_at"], lived, request, selected if shown == AROUND else None)
    # A paper run sees more bars than were known at its start.
    known_at = None if request.environment is Environment.PAPER else request.known_at
    bars = queries.bars(symbol, run["timeframe"], start, end, RANGES[shown] if selected else 500, known_at)
    if not bars:
        st.caption(f"There are no bars of {symbol} in this range.")
        return
    trades = queries.trades_between(run["run_id"], symbol, bars[0]["opened_at"], bars[-1]["closed_at"])
    instrument = request.config.instrument(symbol)
    figure = figures.candle_figure(
        bars,
        trades,
        instrument.price_decimals,
        closes=instrument.calendar != "24/7",
        marked=(selected.start, selected.end or lived) if selected and selected.symbol == symbol else None,
    )
    drawing.plotly_chart(figure, key=f"prices-{symbol}-{shown}", config=CHART)


def _bar_range(
    start: datetime, lived: datetime, request: RunRequested, around: SelectedRow | None
) -> tuple[datetime, datetime]:
    """Return the range of bars to draw: around the selected row, else the whole time of the account.

    Never beyond that time, because the catalogue already holds later bars of a recorded feed.
    """
    if around is None:
        return start, lived
    margin: timedelta = request.config.timeframe.duration * AROUND_BARS
    return around.start - margin, min((around.end or lived) + margin, lived)
