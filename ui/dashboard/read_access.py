"""What pages read from: the read tables through one connection per visitor, and the log. Nothing here can write.

The read models are brought up to date by whoever appends (the commands and the daemon), never by a page: any number
of open tabs adds no work to the log's readers, and a page needs no right to write.
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
    """The database the command opened. Raises `StoreUnavailable` when the page was not started by the command."""
    given = os.environ.get("QUANTAGENT_DSN")
    if not given:
        raise StoreUnavailable(
            "this page does not know its database: start it with `quantagent dashboard`, or set QUANTAGENT_DSN."
        )
    return given


def queries() -> Queries:
    """This visitor's connection to the read tables."""
    return _queries(dsn())


def find_request(run_id: str) -> RunRequested:
    """The question of a run, from the log."""
    for row in _log(dsn()).read(run_stream(run_id)):
        if isinstance(row.event, RunRequested):
            return row.event
    raise NotFound(f"the log holds no run {run_id}: `quantagent projections rebuild` makes the read models anew.")


def load_chain(request: RunRequested, key: str) -> list[ChainLink]:
    """Why a trade, order or signal was made, or not."""
    return causal_chain(_log(dsn()), request, key)


def open_log(where: str) -> PostgresStore:
    """The log of a database, on connections that the server itself keeps from writing."""
    options = str(conninfo_to_dict(where).get("options") or "")
    return PostgresStore(make_conninfo(where, options=f"{options} {READ_ONLY}".strip()))


def _alive(opened: Queries) -> bool:
    return opened.alive()


# Of the session: a script thread waits for no other visitor's query.
@st.cache_resource(scope="session", show_spinner=False, validate=_alive, on_release=Queries.close)
def _queries(where: str) -> Queries:
    return Queries(where)


# Of the process: the log's own pool serves all visitors, and checks its connections before use.
@st.cache_resource(show_spinner=False, on_release=PostgresStore.close)
def _log(where: str) -> PostgresStore:
    return open_log(where)
