"""Read access of the pages: the read tables on one connection per visitor, and the log. Nothing can write.

The read models are updated by the writers (commands and daemon), never by a page: open tabs add no work to the log's
readers, and a page needs no right to write.
"""

from __future__ import annotations

import os

import streamlit as st
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from engine.audit.why import ChainLink, causal_chain
from engine.core.errors import NotFound, StoreUnavailable
from engine.core.events import RunRequested
from engine.runtime.runs import run_stream
from engine.store.postgres import PostgresStore
from projections.queries import Queries

READ_ONLY = "-c default_transaction_read_only=on -c statement_timeout=5s"


def dsn() -> str:
    """Return the DSN of the database that the command opened. Raise `StoreUnavailable` without one."""
    given = os.environ.get("QUANTAGENT_DSN")
    if not given:
        raise StoreUnavailable(
            "this page has no database: start it with `quantagent dashboard`, or set QUANTAGENT_DSN."
        )
    return given


def queries() -> Queries:
    """Return this visitor's connection to the read tables."""
    return _queries(dsn())


def find_request(run_id: str) -> RunRequested:
    """Return the request of a run from the log. Raise `NotFound` for an unknown run."""
    for row in _log(dsn()).read(run_stream(run_id)):
        if isinstance(row.event, RunRequested):
            return row.event
    raise NotFound(f"the log holds no run {run_id}: `quantagent projections rebuild` rebuilds the read models.")


def load_chain(request: RunRequested, key: str) -> list[ChainLink]:
    """Return the causal chain of a trade, order or signal."""
    return causal_chain(_log(dsn()), request, key)


def open_log(where: str) -> PostgresStore:
    """Return the log of a database, on connections that the server keeps from writing."""
    options = str(conninfo_to_dict(where).get("options") or "")
    return PostgresStore(make_conninfo(where, options=f"{options} {READ_ONLY}".strip()))


def _alive(opened: Queries) -> bool:
    return opened.alive()


# Of the session: no script thread waits for another visitor's query.
@st.cache_resource(scope="session", show_spinner=False, validate=_alive, on_release=Queries.close)
def _queries(where: str) -> Queries:
    return Queries(where)


# Of the process: the log's own pool serves all visitors, and checks its connections before use.
@st.cache_resource(show_spinner=False, on_release=PostgresStore.close)
def _log(where: str) -> PostgresStore:
    return open_log(where)
