"""Connections to the server that a DSN names, waiting for one that restarts, and failures in words of our own.

libpq repeats parts of a connection string in its messages, and in a mistyped one any part may be the password: taken
for a host, a port, a database, an option. So none of its texts is shown, logged or raised: known kinds are named.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from datetime import timedelta
from time import sleep
from typing import Any, NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import PoolTimeout

from engine import clock
from engine.core.errors import BadInput, StoreUnavailable

# A server that restarts is back within this time; what met the gap is repeated until then.
RECOVERY = timedelta(seconds=30)
RETRY_PAUSE_S = 0.2

DSN_FORM = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with %40 for @, %2F for / and %3A for : inside a part"


class ConnectionFailure(NamedTuple):
    """Why there is no connection, in words that repeat nothing of the DSN; `passes`: a restart looks like this."""

    reason: str
    is_transient: bool = False


_KINDS = [
    (re.compile(pattern), failure)
    for pattern, failure in (
        (
            "starting up|shutting down|in recovery mode|not yet accepting",
            ConnectionFailure("it is starting or stopping", True),
        ),
        ("Connection refused", ConnectionFailure("connection refused: no server listens at that host and port", True)),
        ("No such file or directory\n", ConnectionFailure("no server listens at that socket", True)),
        ("password authentication failed", ConnectionFailure("it does not accept that user with that password")),
        ("no password supplied|empty password", ConnectionFailure("it asks for a password and none is given")),
        (
            "resolve host|translate host name|Name or service",
            ConnectionFailure("the host or the port it names is unknown"),
        ),
        ("definition of service|service file", ConnectionFailure("the service it names is not defined")),
        ("role .* does not exist", ConnectionFailure("the server has no such user")),
        ("database .* does not exist", ConnectionFailure("the server has no such database")),
        (
            "pg_hba.conf|authentication failed|not permitted",
            ConnectionFailure("the server does not admit that user from here"),
        ),
        ("too many (clients|connections)|connection slots", ConnectionFailure("the server has no connection left")),
        ("timeout expired|timed out", ConnectionFailure("no answer in time")),
        ("certificate|SSL|GSS", ConnectionFailure("no encrypted connection comes about")),
        ("invalid|could not match|bad value", ConnectionFailure("a setting of it has no valid value")),
        (
            "closed the connection|terminating connection|connection is closed|is lost|reset by peer|Broken pipe|"
            "consuming input failed|sending query|EOF",
            ConnectionFailure("the connection was lost", True),
        ),
    )
]


def classify_failure(error: BaseException) -> ConnectionFailure:
    """The kind of a failure that has come from the client's library, without a server's own message."""
    if isinstance(error, PoolTimeout):
        return ConnectionFailure("couldn't get a connection in time")
    text = str(error) + "\n"
    return next(
        (failure for pattern, failure in _KINDS if pattern.search(text)), ConnectionFailure("it does not answer")
    )


def failure_reason(error: BaseException) -> str:
    """Why a statement or a connection failed, without a full stop: the server's first line, or one of our kinds.

    Only an answer to a statement has an SQL state. Refusals to connect have none, and may name what they refuse.
    """
    if isinstance(error, psycopg.Error) and error.sqlstate is None:
        return classify_failure(error).reason
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


def check_dsn(dsn: str) -> None:
    """Raises `BadInput` for what is no connection string."""
    try:
        conninfo_to_dict(dsn)
    except psycopg.Error:
        raise BadInput(f"QUANTAGENT_DSN is no connection string: write {DSN_FORM}.") from None


def connect(dsn: str, **settings: Any) -> psycopg.Connection[Any]:
    """A connection. Raises `BadInput` for what is no connection string, `StoreUnavailable` where none comes about."""
    check_dsn(dsn)
    try:
        return psycopg.connect(dsn, **settings)
    except (psycopg.Error, UnicodeError) as error:
        raise _unreachable(classify_failure(error)) from None


def wait_for_server(dsn: str, on_progress: Callable[[str], None]) -> None:
    """Returns once the server answers; one that restarts is waited for, up to `RECOVERY`, which `tell` hears once.

    Raises as `connect` does, at once where waiting would not help.
    """
    check_dsn(dsn)
    until, reported = clock.now() + RECOVERY, False
    while True:
        try:
            psycopg.connect(dsn).close()
        except (psycopg.Error, UnicodeError) as error:
            failure = classify_failure(error)
            if not failure.is_transient or clock.now() > until:
                raise _unreachable(failure) from None
            if not reported:
                on_progress(
                    f"The database server does not answer ({failure.reason}); waiting for up to {RECOVERY.seconds} s."
                )
                reported = True
            sleep(RETRY_PAUSE_S)
        else:
            return


def _unreachable(failure: ConnectionFailure) -> StoreUnavailable:
    return StoreUnavailable(
        f"the database cannot be reached: {failure.reason}. Check QUANTAGENT_DSN ({DSN_FORM}) and that the server runs."
    )


class _WithoutLibpqText(logging.Filter):
    """The client and its pool log the errors they meet while they connect; the client only for who debugs it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == "psycopg" and record.levelno <= logging.DEBUG:
            return False
        if isinstance(record.args, tuple):
            record.args = tuple(
                failure_reason(each) if isinstance(each, BaseException) else each for each in record.args
            )
        record.exc_info = record.exc_text = None
        return True


for _name in ("psycopg", "psycopg.pool"):
    logging.getLogger(_name).addFilter(_WithoutLibpqText())
