"""The paper broker's own record, durable: what it was told and did, in tables and transactions of its own.

It is no part of the log, and its sums are made by the database from its own rows. So book and record are two accounts
of the same trading that can be held against each other (`engine.broker.reconciliation`). A row is written once and
never changed.
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
    """What an account is said to hold: cash, signed quantities, and what is left of each working order.

    cash is None where nobody ever wrote down with how much it began: missing is not zero.
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
    """A row to write: its table, its key beside the run's id, when it happened, and what it says."""

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

# Of two orders that are a pair, each takes from the other what it fills. A pair may bear the id of its entry.
# Added up in one pass and without a join: that is as quick with tables whose size the planner does not know yet.
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
    """The record of one run's paper broker. Close it when done.

    settled_until: up to this instant the log holds the run's book, so the broker has done and recorded all that came
    before; it is not told again. Whether the record still says so is for reconciliation to find, not to mend.
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
        """Writes down with what the account begins."""

        def write(conn: psycopg.Connection[Any]) -> None:
            known = "SELECT cash, currency FROM quantagent.paper_accounts WHERE run_id = %s"
            insert = "INSERT INTO quantagent.paper_accounts (run_id, cash, currency) VALUES (%s, %s, %s)"
            conn.execute(f"{insert} ON CONFLICT DO NOTHING", (self._run_id, cash, currency))
            if conn.execute(known, (self._run_id,)).fetchone() != (cash, currency):
                raise RecordDiffers(self._run_id, "opening balance")

        self._with_retry(lambda conn: _in_transaction(conn, write))

    def record(self, events: Sequence[OrderPlaced | OrderReplaced | BrokerReport]) -> None:
        """Writes what happened, all of it or nothing; what is written already is compared.

        Raises `RecordDiffers` where something else is written under the same id.
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

    # --- What a broker can be asked ---

    def get_balance(self) -> Decimal:
        """Cash, in the account's currency. Raises `NotFound` for an account that was never opened."""
        cash = self.account_state().cash
        if cash is None:
            raise NotFound(f"the paper broker has no account of run {self._run_id[:8]}: begin the run first.")
        return cash

    def get_positions(self) -> dict[Symbol, Decimal]:
        """Signed quantities of what is held."""
        return self.account_state().positions

    def working_orders(self) -> dict[str, Decimal]:
        """What is left of each working order."""
        return self.account_state().working

    def executions(self) -> list[Execution]:
        """Every fill so far, in the order of market time."""
        rows = self._with_retry(lambda conn: self._select(conn, _EXECUTIONS, None))
        return [
            Execution(order_id, n, at, symbol, Side(side), *map(exact, numbers))
            for order_id, n, at, symbol, side, *numbers in rows
        ]

    def account_state(self, until: datetime | None = None) -> AccountState:
        """What the account holds by this record alone: all of it, or what had happened `until` then."""

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

    # --- What its slots were told ---

    def slot_version(self, due_at: datetime) -> int | None:
        """Up to which version of the control stream a slot was told; None for one that has not begun."""
        query = "SELECT control_version FROM quantagent.paper_slots WHERE run_id = %s AND due_at = %s"
        row = self._with_retry(lambda conn: conn.execute(query, (self._run_id, due_at)).fetchone())
        return None if row is None else row[0]

    def record_slot_version(self, due_at: datetime, version: int) -> int:
        """Settles what a slot is told before it begins. Where that is settled already, what was settled is returned."""
        insert = "INSERT INTO quantagent.paper_slots VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
        self._with_retry(lambda conn: conn.execute(insert, (self._run_id, due_at, version)))
        recorded = self.slot_version(due_at)
        assert recorded is not None
        return recorded

    # --- The connection ---

    def _with_retry(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        """Makes a lost connection anew and does the work again, for as long as a server may take to restart.

        That is safe whether or not the lost reply said that it was done.
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
    """Does all of it in one transaction, or nothing."""
    with conn.transaction():
        return work(conn)


_STATUS = {
    OrderCanceled: "canceled",
    OrderExpired: "expired",
    OrderRejected: "rejected",
    OrderReplaced: "replaced",
}
