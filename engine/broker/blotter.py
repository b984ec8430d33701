"""Blotter: the paper broker's durable record of orders, fills and cash, in its own tables and transactions.

The blotter is separate from the log, and the database computes its totals from its own rows. Book and blotter are
therefore independent records that can be reconciled (`engine.broker.reconciliation`). A row is written once and never
changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from time import sleep
from typing import Any, LiteralString, NamedTuple, TypeVar

import psycopg
from psycopg.sql import SQL, Identifier, Placeholder

from engine import clock
from engine.broker.paper import BrokerReport
from engine.core.errors import NotFound, RecordDiffers, StoreUnavailable
from engine.core.events import (
    CashAdjusted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderPlaced,
    OrderRejected,
    OrderReplaced,
)
from engine.core.market import Side, Symbol
from engine.core.money import exact
from engine.store.codec import encode_payload
from engine.store.connections import RECOVERY, RETRY_PAUSE_S, failure_reason

T = TypeVar("T")


class AccountState(NamedTuple):
    """State of an account: cash, signed quantities, and the remaining quantity of each working order.

    cash is None if the account was never opened.
    """

    cash: Decimal | None
    positions: dict[Symbol, Decimal]
    working: dict[str, Decimal]


class Execution(NamedTuple):
    """The n-th fill of an order; `notional` and `commission` in the account's currency."""

    order_id: str
    n: int
    at: datetime
    symbol: Symbol
    side: Side
    quantity: Decimal
    price: Decimal
    notional: Decimal
    commission: Decimal


class _Row(NamedTuple):
    """A row to write: its table, its key in addition to the run's id, its market time, and its values."""

    table: str
    key: dict[str, object]
    at: datetime
    values: dict[str, object]


_CASH = """
SELECT cash
    + coalesce((SELECT sum(CASE side WHEN 'BUY' THEN -notional ELSE notional END - commission)
        FROM quantagent.paper_executions WHERE run_id = %(run)s AND at <= %(until)s::timestamptz), 0)
    + coalesce((SELECT sum(amount)
        FROM quantagent.paper_cash WHERE run_id = %(run)s AND at <= %(until)s::timestamptz), 0)
FROM quantagent.paper_accounts WHERE run_id = %(run)s
"""

_POSITIONS = """
SELECT symbol, sum(CASE side WHEN 'BUY' THEN quantity ELSE -quantity END) AS held
FROM quantagent.paper_executions WHERE run_id = %(run)s AND at <= %(until)s::timestamptz
GROUP BY symbol HAVING sum(CASE side WHEN 'BUY' THEN quantity ELSE -quantity END) <> 0 ORDER BY symbol
"""

# A fill of one order of a pair reduces the other as well. A pair may have the id of its entry.
# One pass without a join stays fast on tables whose size the planner does not know yet.
_WORKING = """
SELECT client_order_id, ordered - taken FROM (
    SELECT client_order_id, ordered, ended,
        sum(filled) OVER (PARTITION BY pair, CASE pair WHEN '' THEN client_order_id END) AS taken
    FROM (
        SELECT client_order_id, max(pair) AS pair, sum(ordered) AS ordered, sum(filled) AS filled, max(ended) AS ended
        FROM (
            SELECT client_order_id, at, pair, quantity AS ordered, 0 AS filled, 0 AS ended
            FROM quantagent.paper_orders WHERE run_id = %(run)s
            UNION ALL
            SELECT client_order_id, at, '', 0, quantity, 0 FROM quantagent.paper_executions WHERE run_id = %(run)s
            UNION ALL
            SELECT client_order_id, at, '', 0, 0, 1 FROM quantagent.paper_endings WHERE run_id = %(run)s
        ) facts WHERE at <= %(until)s::timestamptz GROUP BY client_order_id
    ) orders
) standing WHERE ordered > taken AND ended = 0 ORDER BY client_order_id
"""

_EXECUTIONS = """
SELECT client_order_id, n, at, symbol, side, quantity, price, notional, commission
FROM quantagent.paper_executions WHERE run_id = %(run)s AND at <= %(until)s::timestamptz
ORDER BY at, client_order_id, n
"""


class PostgresBlotter:
    """Blotter of one run's paper broker, on PostgreSQL. Close it when done.

    recorded_until: events up to this instant are already recorded and are not written again. Reconciliation detects
    changes of those rows; the blotter does not repair them.
    """

    def __init__(self, dsn: str, run_id: str, recorded_until: datetime | None = None) -> None:
        self._dsn, self._run_id, self._recorded_until = dsn, run_id, recorded_until
        self._fills: dict[str, int] = {}
        self._conn: psycopg.Connection[tuple[Any, ...]] | None = None

    def close(self) -> None:
        if self._conn is not None:
            self._conn.close()

    # --- Writing ---

    def open(self, cash: Decimal, currency: str) -> None:
        """Record the initial cash. Raise `RecordDiffers` if another amount or currency is recorded."""

        def write(conn: psycopg.Connection[Any]) -> None:
            known = "SELECT cash, currency FROM quantagent.paper_accounts WHERE run_id = %s"
            insert = "INSERT INTO quantagent.paper_accounts (run_id, cash, currency) VALUES (%s, %s, %s)"
            conn.execute(f"{insert} ON CONFLICT DO NOTHING", (self._run_id, cash, currency))
            if conn.execute(known, (self._run_id,)).fetchone() != (cash, currency):
                raise RecordDiffers(self._run_id, "opening balance")

        self._with_retry(lambda conn: _in_transaction(conn, write))

    def record(self, events: Sequence[OrderPlaced | OrderReplaced | BrokerReport]) -> None:
        """Write events in one transaction; rows that exist already are compared.

        Raise `RecordDiffers` if a different row exists under the same id.
        """
        new = [row for row in map(self._row, events) if self._recorded_until is None or row.at > self._recorded_until]
        if new:
            self._with_retry(lambda conn: _in_transaction(conn, lambda conn: [self._write(conn, row) for row in new]))

    def _row(self, event: OrderPlaced | OrderReplaced | BrokerReport) -> _Row:
        values: dict[str, object] = {"payload": encode_payload(event).decode()}
        match event:
            case CashAdjusted():
                key: dict[str, object] = {"symbol": event.symbol, "reason": event.reason}
                return _Row("paper_cash", {"at": event.at, **key}, event.at, {"amount": event.amount, **values})
            case OrderPlaced():
                values |= {"symbol": event.symbol, "side": event.side, "quantity": event.quantity, "pair": event.pair}
                return _Row("paper_orders", {"client_order_id": event.order_id}, event.at, values)
            case OrderFilled():
                n = self._fills[event.order_id] = self._fills.get(event.order_id, 0) + 1
                columns = ("symbol", "side", "quantity", "price", "notional", "commission")
                values |= {name: getattr(event, name) for name in columns}
                return _Row("paper_executions", {"client_order_id": event.order_id, "n": n}, event.at, values)
            case _:
                status = _STATUS[type(event)]
                return _Row(
                    "paper_endings", {"client_order_id": event.order_id}, event.at, {"status": status, **values}
                )

    def _write(self, conn: psycopg.Connection[Any], row: _Row) -> None:
        key = {"run_id": self._run_id, **row.key}
        values = {**key, "at": row.at, **row.values}
        table = Identifier("quantagent", row.table)
        insert = SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT DO NOTHING").format(
            table, SQL(", ").join(map(Identifier, values)), SQL(", ").join(map(Placeholder, values))
        )
        if conn.execute(insert, values).rowcount:
            return
        same = SQL(" AND ").join(SQL("{} = {}").format(Identifier(name), Placeholder(name)) for name in key)
        known = conn.execute(SQL("SELECT payload FROM {} WHERE {}").format(table, same), key).fetchone()
        if known != (row.values["payload"],):
            raise RecordDiffers(self._run_id, " ".join([row.table, *map(str, row.key.values())]))

    # --- Queries ---

    def get_balance(self) -> Decimal:
        """Return the cash in the account's currency. Raise `NotFound` for an account that was never opened."""
        cash = self.account_state().cash
        if cash is None:
            raise NotFound(f"the paper broker has no account of run {self._run_id[:8]}: start the run first.")
        return cash

    def get_positions(self) -> dict[Symbol, Decimal]:
        """Return the signed quantity of each position."""
        return self.account_state().positions

    def working_orders(self) -> dict[str, Decimal]:
        """Return the remaining quantity of each working order."""
        return self.account_state().working

    def executions(self) -> list[Execution]:
        """Return all fills so far, in the order of market time."""
        rows = self._with_retry(lambda conn: self._select(conn, _EXECUTIONS, None))
        return [
            Execution(order_id, n, at, symbol, Side(side), *map(exact, numbers))
            for order_id, n, at, symbol, side, *numbers in rows
        ]

    def account_state(self, until: datetime | None = None) -> AccountState:
        """Return the account's state according to the blotter, now or as of the market time `until`."""

        def read(conn: psycopg.Connection[Any]) -> AccountState:
            cash = self._select(conn, _CASH, until)
            return AccountState(
                exact(cash[0][0]) if cash else None,
                {symbol: exact(held) for symbol, held in self._select(conn, _POSITIONS, until)},
                {order_id: exact(left) for order_id, left in self._select(conn, _WORKING, until)},
            )

        return self._with_retry(read)

    def _select(
        self, conn: psycopg.Connection[Any], query: LiteralString, until: datetime | None
    ) -> list[tuple[Any, ...]]:
        return conn.execute(query, {"run": self._run_id, "until": until or "infinity"}).fetchall()

    # --- Commands of slots ---

    def slot_version(self, due_at: datetime) -> int | None:
        """Return the control stream's version that a slot has applied; None for a slot that has not begun."""
        query = "SELECT control_version FROM quantagent.paper_slots WHERE run_id = %s AND due_at = %s"
        row = self._with_retry(lambda conn: conn.execute(query, (self._run_id, due_at)).fetchone())
        return None if row is None else row[0]

    def record_slot_version(self, due_at: datetime, version: int) -> int:
        """Fix the control stream's version of a slot before it begins; return the one already fixed, if any."""
        insert = "INSERT INTO quantagent.paper_slots VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
        self._with_retry(lambda conn: conn.execute(insert, (self._run_id, due_at, version)))
        recorded = self.slot_version(due_at)
        assert recorded is not None
        return recorded

    # --- The connection ---

    def _with_retry(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        """Reconnect and retry after a lost connection, for as long as a server restart may take.

        Retries are safe even if the first attempt was committed.
        """
        until = clock.now() + RECOVERY
        while True:
            try:
                if self._conn is None or self._conn.closed:
                    self._conn = psycopg.connect(self._dsn, autocommit=True)
                return work(self._conn)
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                if self._conn is not None:
                    self._conn.close()
                lost = error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))
                if not lost or clock.now() > until:
                    raise StoreUnavailable(
                        f"the paper broker's record cannot be used: {failure_reason(error)}. Check that the database "
                        "server runs."
                    ) from None
                sleep(RETRY_PAUSE_S)


def _in_transaction(conn: psycopg.Connection[Any], work: Callable[[psycopg.Connection[Any]], T]) -> T:
    """Run the work in one transaction."""
    with conn.transaction():
        return work(conn)


_STATUS = {
    OrderCanceled: "canceled",
    OrderExpired: "expired",
    OrderRejected: "rejected",
    OrderReplaced: "replaced",
}
