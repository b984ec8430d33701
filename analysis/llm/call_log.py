"""Log of model calls: caller, outcome, cost, request and response of each call, recorded when it ends.

Bodies are ASCII JSON (`canonical_json`), stored once under the SHA-256 of their bytes and verified when read. Recording
the same call twice is success. Calls for an analysis interrupted by a crash stay in the log, as they cost money, and
appear in no event until the analysis is complete.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from threading import Lock
from typing import Any, NamedTuple, Protocol, TypeVar

import psycopg
from psycopg.sql import SQL, Identifier, Placeholder

from engine.core.errors import NotFound, QuantagentError, StoreUnavailable
from engine.core.events import ModelCall
from engine.core.money import exact, total
from engine.store.connections import failure_reason

T = TypeVar("T")


class RecordedCall(NamedTuple):
    """One call of a model with its analysis, preset, variant, time (UTC) and result.

    version: of the analysis's event in its stream.
    """

    analysis_id: str
    version: int
    preset: str
    variant: str
    asked_at: datetime
    call: ModelCall


class CallLog(Protocol):
    """A log of model calls. Implementations are thread-safe."""

    def record(self, recorded_call: RecordedCall, request: str, response: str) -> None:
        """Store a call with both bodies atomically; `response` is empty if no answer arrived.

        Raise `ValueError` for a body that is not ASCII or does not have the digest in the call.
        """
        ...

    def store_body(self, body: str) -> str:
        """Store a body without a call and return its digest. Raise `ValueError` like `record`."""
        ...

    def calls_for(self, analysis_id: str, version: int) -> list[RecordedCall]:
        """Return the calls of an analysis, in the order of recording."""
        ...

    def body(self, digest: str) -> str:
        """Return a stored body. Raise `NotFound` if it is missing, `BodyAltered` if it does not match its digest."""
        ...

    def spent(self, preset: str, since: datetime, until: datetime) -> Decimal:
        """Return the cost of a preset's calls in US dollars, `since` inclusive to `until` exclusive."""
        ...


class BodyAltered(QuantagentError):
    """A stored request or response that does not match its digest."""

    default_code = "CALL_BODY_ALTERED"

    def __init__(self, digest: str) -> None:
        super().__init__(
            f"the stored text {digest[:16]} of a model call was changed: it does not match its digest. "
            "Restore the database from a copy."
        )
        self.digest = digest


def canonical_json(value: object) -> str:
    """Return a JSON value as canonical text for storage and digests: equal values have equal bytes, all ASCII.

    Lone surrogates and NUL, which the database cannot store, are escaped like all non-ASCII characters. Raise
    `ValueError` for values without JSON form, such as NaN.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def body_digest(body: str) -> str:
    return sha256(body.encode("ascii")).hexdigest()


def _digest_of_ascii(body: str) -> str:
    if not body.isascii() or "\0" in body:
        raise ValueError("the text is not in the form of `canonical_json`")
    return body_digest(body)


def _verified_bodies(call: ModelCall, request: str, response: str) -> dict[str, str]:
    """Return the bodies of a call by digest."""
    bodies: dict[str, str] = {}
    for name, body, digest in (("request", request, call.request), ("response", response, call.response)):
        if not body.isascii() or "\0" in body:
            raise ValueError(f"the {name} is not in the form of `canonical_json`")
        if name == "response" and not body and not digest:
            continue
        if body_digest(body) != digest:
            raise ValueError(f"the {name} does not have the digest in the call")
        bodies[digest] = body
    return bodies


def _intact(digest: str, body: str | None) -> str:
    if body is None:
        raise NotFound(f"no text {digest[:16]!r} of a model call is stored: the call was never recorded here.")
    if not body.isascii() or body_digest(body) != digest:
        raise BodyAltered(digest)
    return body


class MemoryCallLog:
    """Call log in memory."""

    def __init__(self) -> None:
        self._calls: dict[RecordedCall, None] = {}
        self._bodies: dict[str, str] = {}
        self._lock = Lock()

    def record(self, recorded_call: RecordedCall, request: str, response: str) -> None:
        bodies = _verified_bodies(recorded_call.call, request, response)
        with self._lock:
            self._bodies.update(bodies)
            self._calls[recorded_call] = None

    def store_body(self, body: str) -> str:
        digest = _digest_of_ascii(body)
        with self._lock:
            self._bodies[digest] = body
        return digest

    def calls_for(self, analysis_id: str, version: int) -> list[RecordedCall]:
        with self._lock:
            return [each for each in self._calls if (each.analysis_id, each.version) == (analysis_id, version)]

    def body(self, digest: str) -> str:
        return _intact(digest, self._bodies.get(digest))

    def spent(self, preset: str, since: datetime, until: datetime) -> Decimal:
        with self._lock:
            mine = (each for each in self._calls if each.preset == preset and since <= each.asked_at < until)
            return total(each.call.cost for each in mine)


_CALL_FIELDS = RecordedCall._fields[:-1]
_COLUMNS = (*_CALL_FIELDS, *ModelCall.__struct_fields__)
_NAMES = SQL(", ").join(map(Identifier, _COLUMNS))
_VALUES = SQL(", ").join(map(Placeholder, _COLUMNS))

_STORE_BODY = "INSERT INTO quantagent.llm_bodies VALUES (%s, %s) ON CONFLICT DO NOTHING"
# A retry after a lost connection may find the call stored by the first attempt.
_RECORD = SQL(
    "INSERT INTO quantagent.llm_calls ({names}) SELECT {values} WHERE NOT EXISTS (SELECT FROM quantagent.llm_calls "
    "WHERE analysis_id = %(analysis_id)s AND ({names}) = ({values}))"
).format(names=_NAMES, values=_VALUES)
_SELECT_CALLS = SQL(
    "SELECT {} FROM quantagent.llm_calls WHERE analysis_id = %s AND version = %s ORDER BY call_id"
).format(_NAMES)
_BODY = "SELECT body FROM quantagent.llm_bodies WHERE sha256 = %s"
_SPENT = (
    "SELECT coalesce(sum(cost), 0) FROM quantagent.llm_calls WHERE preset = %s AND asked_at >= %s AND asked_at < %s"
)


class PostgresCallLog:
    """Call log on PostgreSQL; all threads share one connection. Close it when done."""

    def __init__(self, dsn: str) -> None:
        self._dsn, self._lock = dsn, Lock()
        self._conn: psycopg.Connection[Any] | None = None

    def close(self) -> None:
        with self._lock:
            self._drop()

    def __enter__(self) -> PostgresCallLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def record(self, recorded_call: RecordedCall, request: str, response: str) -> None:
        bodies = _verified_bodies(recorded_call.call, request, response)
        row = dict(zip(_COLUMNS, (*recorded_call[:-1], *_values_of(recorded_call.call)), strict=True))

        def write(conn: psycopg.Connection[Any]) -> None:
            with conn.transaction():
                for digest in sorted(bodies):
                    conn.execute(_STORE_BODY, (digest, bodies[digest]))
                conn.execute(_RECORD, row)

        self._do(write)

    def store_body(self, body: str) -> str:
        digest = _digest_of_ascii(body)
        self._do(lambda conn: conn.execute(_STORE_BODY, (digest, body)))
        return digest

    def calls_for(self, analysis_id: str, version: int) -> list[RecordedCall]:
        return [
            _call_from_row(row)
            for row in self._do(lambda conn: conn.execute(_SELECT_CALLS, (analysis_id, version)).fetchall())
        ]

    def body(self, digest: str) -> str:
        row = self._do(lambda conn: conn.execute(_BODY, (digest,)).fetchone())
        return _intact(digest, None if row is None else row[0])

    def spent(self, preset: str, since: datetime, until: datetime) -> Decimal:
        row = self._do(lambda conn: conn.execute(_SPENT, (preset, since, until)).fetchone())
        return exact(row[0] if row else 0)

    def _do(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        """Run `work` on the connection; retry once on a new one, as an idle connection may have been lost."""
        with self._lock:
            try:
                try:
                    return work(self._open())
                except psycopg.OperationalError:
                    self._drop()
                    return work(self._open())
            except psycopg.OperationalError as error:
                self._drop()
                raise StoreUnavailable(
                    f"the log of model calls cannot be reached: {failure_reason(error)}. Check that the server runs."
                ) from None

    def _open(self) -> psycopg.Connection[Any]:
        if self._conn is None or self._conn.closed:
            self._conn = psycopg.connect(self._dsn, autocommit=True)
            self._conn.execute("SET TIME ZONE 'UTC'")
        return self._conn

    def _drop(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None


def _values_of(call: ModelCall) -> tuple[object, ...]:
    return tuple(getattr(call, name) for name in ModelCall.__struct_fields__)


def _call_from_row(row: tuple[Any, ...]) -> RecordedCall:
    fields: dict[str, Any] = dict(zip(_COLUMNS, row, strict=True))
    fields["cost"] = exact(fields["cost"])
    call_fields = [fields.pop(name) for name in _CALL_FIELDS]
    return RecordedCall._make((*call_fields, ModelCall(**fields)))
