"""The entry script of the dashboard; `quantagent dashboard` serves it. Reads only: no click here appends anything."""

from __future__ import annotations

from collections.abc import Mapping

import psycopg
import streamlit as st

from engine.errors import QuantagentError
from engine.events import Environment
from ui import views
from ui.pages import reading, run
from ui.views import Row, plain

WITHOUT_TABLES = "The read models are not there yet: run `quantagent projections status`, which makes them, and reload."


def choose() -> tuple[str, Row | None]:
    """The sidebar's choices, kept in the page's address: the environment, and one of its runs if it has any."""
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
        if runs:
            chosen = runs[_select(runs)]
        else:
            chosen = None
            st.query_params.pop("run", None)
        st.caption("All times are UTC. No real money: every fill is simulated.")
    return environment, chosen


def _select(runs: Mapping[str, Row]) -> str:
    """The chosen run's id, always in the address, so that a shared link means the same run when newer ones exist.

    Not by a bound widget: it would write the option's label into the address, and leave the default out of it.
    """
    key = "run-selected"
    asked = st.query_params.get("run", "")
    if st.session_state.get(key) not in runs:
        st.session_state[key] = asked if asked in runs else next(iter(runs))
    chosen = st.selectbox("Run", list(runs), format_func=lambda run_id: views.run_name(runs[run_id]), key=key)
    st.query_params["run"] = chosen
    return chosen


def show_run(environment: str, chosen: Row | None) -> None:
    if chosen is None:
        st.info(views.NO_RUN[environment])
    else:
        run.show(chosen)


def main() -> None:
    """Every page under the same sidebar, or one sentence on what keeps them from showing."""
    st.set_page_config("quantagent", layout="wide")
    # Declared before anything can fail: Streamlit drops what is written under another page than the one it knows.
    page = st.navigation([st.Page(lambda: show_run(*choice), title="Run", default=True)])
    try:
        choice = choose()
        page.run()
    except QuantagentError as error:
        st.error(plain(str(error)))
    except psycopg.errors.UndefinedTable:
        st.info(WITHOUT_TABLES)
    except psycopg.OperationalError as error:
        first = (str(error).strip().splitlines() or ["no answer"])[0]
        st.error(f"The database does not answer ({plain(first)}). Check `quantagent db status` and reload.")


main()
