"""Entry script of the dashboard, served by `quantagent dashboard`. Reads only; no click appends anything."""

from __future__ import annotations

from collections.abc import Mapping

import psycopg
import streamlit as st

from engine.core.errors import NotFound, QuantagentError
from engine.core.events import Environment
from engine.store.connections import failure_reason
from ui.dashboard import read_access, run_page, views
from ui.dashboard.views import ReadRow, plain

WITHOUT_TABLES = "There are no read models yet: create them with `quantagent projections status`, and reload."
# Kept in the visitor's session: the chosen run (empty before the choice), and the reason why a link opened none.
SELECTED_RUN, NOT_FOUND = "run-selected", "run-not-found"
DEFAULT = "backtest"


def select_run() -> tuple[str, ReadRow | None]:
    """Return the sidebar's choices, kept in the page's address: the environment, and one of its runs if it has any."""
    if SELECTED_RUN not in st.session_state:
        _follow_link(str(st.query_params.get("run", "")), str(st.query_params.get("env", "")))
    with st.sidebar:
        st.markdown("**quantagent**")
        environment = st.segmented_control(
            "Environment",
            list(map(str, Environment)),
            required=True,
            key="env",
            on_change=_leave_run,
        )
        environment = environment or DEFAULT
        # Not a bound widget: the environment in the address would override the run in it.
        if environment == DEFAULT:
            st.query_params.pop("env", None)
        else:
            st.query_params["env"] = environment
        st.markdown(f":primary-badge[{environment.upper()}] :gray-badge[UTC]")
        runs = {row["run_id"]: row for row in read_access.queries().runs(environment)}
        selected = _select(runs) if runs else None
        st.caption("All times are UTC. No real money: every fill is simulated.")
    return environment, selected


def _follow_link(run_id: str, environment: str) -> None:
    """Choose the run that a link names by its id or a prefix of it, in any environment."""
    st.session_state[SELECTED_RUN], st.session_state[NOT_FOUND] = "", ""
    st.session_state["env"] = environment if environment in list(Environment) else DEFAULT
    if not run_id:
        return
    try:
        linked = read_access.queries().run(run_id)
    except NotFound as error:
        st.session_state[NOT_FOUND] = str(error)
    else:
        st.session_state["env"], st.session_state[SELECTED_RUN] = linked["environment"], linked["run_id"]


def _leave_run() -> None:
    st.session_state[SELECTED_RUN] = st.session_state[NOT_FOUND] = ""
    st.query_params.pop("run", None)


def _clear_not_found() -> None:
    st.session_state[NOT_FOUND] = ""


def _select(runs: Mapping[str, ReadRow]) -> ReadRow | None:
    """Return the chosen run, which is always in the address: a shared link means the same run when newer ones exist.

    Not a bound widget: it would write the option's label into the address, and omit the default. None while the address
    names an unknown run, which is neither followed nor rewritten.
    """
    not_found = bool(st.session_state[NOT_FOUND])
    if st.session_state[SELECTED_RUN] not in runs:
        st.session_state[SELECTED_RUN] = None if not_found else next(iter(runs))
    selected = st.selectbox(
        "Run",
        list(runs),
        format_func=lambda run_id: views.run_name(runs[run_id]),
        key=SELECTED_RUN,
        index=None if not_found else 0,
        placeholder="Choose a run",
        on_change=_clear_not_found,
    )
    if selected is None:
        return None
    st.query_params["run"] = selected
    return runs[selected]


def show_run(environment: str, selected: ReadRow | None) -> None:
    if st.session_state[NOT_FOUND]:
        st.error(plain(f"This link opens no run: {st.session_state[NOT_FOUND]} Choose one in the sidebar."))
    elif selected is None:
        st.info(views.NO_RUN[environment])
    else:
        run_page.show_run_page(selected)


def main() -> None:
    """Show every page with the same sidebar, or one sentence about the error that prevents it."""
    st.set_page_config("quantagent", layout="wide")
    # Declared before anything can fail: Streamlit drops output of a page other than the declared one.
    page = st.navigation([st.Page(lambda: show_run(*choice), title="Run", default=True)])
    try:
        with read_access.queries().snapshot():
            choice = select_run()
            page.run()
    except QuantagentError as error:
        st.error(plain(str(error)))
    except psycopg.errors.UndefinedTable:
        st.info(WITHOUT_TABLES)
    except psycopg.OperationalError as error:
        st.error(
            f"The database does not answer ({plain(failure_reason(error))}). Check `quantagent db status` and reload."
        )


main()
