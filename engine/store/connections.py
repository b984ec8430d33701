"""Connections to the database server, retries during a restart, and error messages without secrets.

libpq repeats parts of the connection string in its messages, and in a mistyped string any part may be the password.
So libpq's texts are never shown, logged or raised; known failures are classified instead.
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

# Time allowed for a server restart; interrupted work is retried until then.
RECOVERY = timedelta(seconds=30)
RETRY_PAUSE_S = 0.2

DSN_FORM = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with %40 for @, %2F for / and %3A for : inside a part"


class ConnectionFailure(NamedTuple):
    """Reason of a failed connection, without any part of the DSN; is_transient: a restart causes this failure."""

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
        ("no password supplied|empty password", ConnectionFailure("it requires a password and none is given")),
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
        ("certificate|SSL|GSS", ConnectionFailure("an encrypted connection could not be established")),
        ("invalid|could not match|bad value", ConnectionFailure("a setting in it has an invalid value")),
        (
            "closed the connection|terminating connection|connection is closed|is lost|reset by peer|Broken pipe|"
            "consuming input failed|sending query|EOF",
            ConnectionFailure("the connection was lost", True),
        ),
    )
]


def classify_failure(error: BaseException) -> ConnectionFailure:
    """Classify a failure raised by the client library without an error message of the server."""
    if isinstance(error, PoolTimeout):
        return ConnectionFailure("couldn't get a connection in time")
    text = str(error) + "\n"
    return next(
        (failure for pattern, failure in _KINDS if pattern.search(text)), ConnectionFailure("it does not answer")
    )


def failure_reason(error: BaseException) -> str:
    """Return why a statement or a connection failed, without a full stop.

    This is the first line of the server's message, or a class of `ConnectionFailure`: errors without an SQL state are
    failures to connect, whose messages may contain parts of the DSN.
    """
    if isinstance(error, psycopg.Error) and error.sqlstate is None:
        return classify_failure(error).reason
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


def check_dsn(dsn: str) -> None:
    """Raise `BadInput` for an invalid connection string."""
    try:
        conninfo_to_dict(dsn)
    except psycopg.Error:
        raise BadInput(f"QUANTAGENT_DSN is no connection string: write {DSN_FORM}.") from None


def connect(dsn: str, **settings: Any) -> psycopg.Connection[Any]:
    """Return a connection. Raise `BadInput` for an invalid connection string, `StoreUnavailable` if it fails."""
    check_dsn(dsn)
    try:
        return psycopg.connect(dsn, **settings)
    except (psycopg.Error, UnicodeError) as error:
        raise _unreachable(classify_failure(error)) from None


def wait_for_server(dsn: str, on_progress: Callable[[str], None]) -> None:
    """Return once the server answers; wait up to `RECOVERY` for one that restarts, and report that wait once.

    Raise as `connect` does, immediately for a failure that is not transient.
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
    """Filter that replaces libpq's texts in the log records of psycopg and its pool, and drops debug records."""

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
