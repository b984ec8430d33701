"""The entry script of the dashboard; `quantagent dashboard` serves it. Reads only: no click here appends anything."""

from __future__ import annotations

import psycopg
import streamlit as st

from engine.errors import QuantagentError
from engine.events import Environment
from ui import views
from ui.pages import reading, run
from ui.views import Row, plain

WITHOUT_TABLES = "The read models are not there yet: run `quantagent projections status`, which makes them, and reload."


def choose_run() -> Row | None:
    """The sidebar's two choices, kept in the address of the page; None, with a word on what to do, when there is no run."""
    with st.sidebar:
        st.markdown("**quantagent**")
        environment = st.segmented_control(
            "Environment",
            list(map(str, Environment)),
            default="backtest",
            required=True,
            key="env",
            bind="query-params",
        )
        environment = environment or "backtest"
        st.markdown(f":primary-badge[{environment.upper()}] :gray-badge[UTC]")
        runs = {row["run_id"]: row for row in reading.queries().runs(environment)}
        if not runs:
            st.info(views.NO_RUN[environment])
            return None
        chosen = st.selectbox(
            "Run",
            list(runs),
            format_func=lambda run_id: views.run_name(runs[run_id]),
            key="run",
            required=True,
            bind="query-params",
        )
        st.caption("All times are UTC. No real money: every fill is simulated.")
    return runs[chosen]


def main() -> None:
    st.set_page_config("quantagent", layout="wide")
    try:
        chosen = choose_run()
        if chosen is None:
            return
        pages = st.navigation([st.Page(lambda: run.show(chosen), title="Run", url_path="run", default=True)])
        pages.run()
    except QuantagentError as error:
        st.error(plain(str(error)))
    except psycopg.errors.UndefinedTable:
        st.info(WITHOUT_TABLES)
    except psycopg.OperationalError as error:
        first = (str(error).strip().splitlines() or ["no answer"])[0]
        st.error(f"The database does not answer ({plain(first)}). Check `quantagent db status` and reload.")


main()
