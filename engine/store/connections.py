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

FORM = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with %40 for @, %2F for / and %3A for : inside a part"


class Failure(NamedTuple):
    """Why there is no connection, in words that repeat nothing of the DSN; `passes`: a restart looks like this."""

    reason: str
    passes: bool = False


_KINDS = [
    (re.compile(pattern), failure)
    for pattern, failure in (
        ("starting up|shutting down|in recovery mode|not yet accepting", Failure("it is starting or stopping", True)),
        ("Connection refused", Failure("connection refused: no server listens at that host and port", True)),
        ("No such file or directory\n", Failure("no server listens at that socket", True)),
        ("password authentication failed", Failure("it does not accept that user with that password")),
        ("no password supplied|empty password", Failure("it asks for a password and none is given")),
        ("resolve host|translate host name|Name or service", Failure("the host or the port it names is unknown")),
        ("definition of service|service file", Failure("the service it names is not defined")),
        ("role .* does not exist", Failure("the server has no such user")),
        ("database .* does not exist", Failure("the server has no such database")),
        ("pg_hba.conf|authentication failed|not permitted", Failure("the server does not admit that user from here")),
        ("too many (clients|connections)|connection slots", Failure("the server has no connection left")),
        ("timeout expired|timed out", Failure("no answer in time")),
        ("certificate|SSL|GSS", Failure("no encrypted connection comes about")),
        ("invalid|could not match|bad value", Failure("a setting of it has no valid value")),
        (
            "closed the connection|terminating connection|connection is closed|is lost|reset by peer|Broken pipe|"
            "consuming input failed|sending query|EOF",
            Failure("the connection was lost", True),
        ),
    )
]


def failure_of(error: BaseException) -> Failure:
    """The kind of a failure that has come from the client's library, without a server's own message."""
    if isinstance(error, PoolTimeout):
        return Failure("couldn't get a connection in time")
    text = str(error) + "\n"
    return next((failure for pattern, failure in _KINDS if pattern.search(text)), Failure("it does not answer"))


def reason_of(error: BaseException) -> str:
    """Why a statement or a connection failed, without a full stop: the server's first line, or one of our kinds.

    Only an answer to a statement has an SQL state. Refusals to connect have none, and may name what they refuse.
    """
    if isinstance(error, psycopg.Error) and error.sqlstate is None:
        return failure_of(error).reason
    said = str(error).strip().splitlines() or [type(error).__name__]
    return said[0].rstrip(".")


def check(dsn: str) -> None:
    """Raises `BadInput` for what is no connection string."""
    try:
        conninfo_to_dict(dsn)
    except psycopg.Error:
        raise BadInput(f"QUANTAGENT_DSN is no connection string: write {FORM}.") from None


def connect(dsn: str, **settings: Any) -> psycopg.Connection[Any]:
    """A connection. Raises `BadInput` for what is no connection string, `StoreUnavailable` where none comes about."""
    check(dsn)
    try:
        return psycopg.connect(dsn, **settings)
    except (psycopg.Error, UnicodeError) as error:
        raise _unreachable(failure_of(error)) from None


def wait_for(dsn: str, tell: Callable[[str], None]) -> None:
    """Returns once the server answers; one that restarts is waited for, up to `RECOVERY`, which `tell` hears once.

    Raises as `connect` does, at once where waiting would not help.
    """
    check(dsn)
    until, told = clock.now() + RECOVERY, False
    while True:
        try:
            psycopg.connect(dsn).close()
        except (psycopg.Error, UnicodeError) as error:
            failure = failure_of(error)
            if not failure.passes or clock.now() > until:
                raise _unreachable(failure) from None
            if not told:
                tell(f"The database server does not answer ({failure.reason}); waiting for up to {RECOVERY.seconds} s.")
                told = True
            sleep(RETRY_PAUSE_S)
        else:
            return


def _unreachable(failure: Failure) -> StoreUnavailable:
    return StoreUnavailable(
        f"the database cannot be reached: {failure.reason}. Check QUANTAGENT_DSN ({FORM}) and that the server runs."
    )


class _WithoutLibpqText(logging.Filter):
    """The client and its pool log the errors they meet while they connect; the client only for who debugs it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == "psycopg" and record.levelno <= logging.DEBUG:
            return False
        if isinstance(record.args, tuple):
            record.args = tuple(reason_of(each) if isinstance(each, BaseException) else each for each in record.args)
        record.exc_info = record.exc_text = None
        return True


for _name in ("psycopg", "psycopg.pool"):
    logging.getLogger(_name).addFilter(_WithoutLibpqText())
