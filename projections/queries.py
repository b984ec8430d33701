"""Queries of the read tables, for commands and pages. Rows are dictionaries in a stable order."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, LiteralString, NamedTuple

import psycopg
from psycopg.rows import dict_row
from psycopg.sql import SQL, Composed, Identifier

from engine.core.errors import NotFound, QuantagentError
from engine.core.market import Symbol
from projections.schemas import VIEWS_SCHEMA

Rows = list[dict[str, Any]]
STATEMENT_TIMEOUT = "5s"
PAGE = 500
# Time for two projections to commit the same event; a page must not wait longer for one that has stopped.
SNAPSHOT_PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.4)

CostGrouping = Literal["analysis", "run", "day", "variant"]

_GROUPS: dict[CostGrouping, LiteralString] = {
    "analysis": "c.analysis_id, c.variant",
    "run": "d.environment, d.run_id",
    "day": "c.day",
    "variant": "c.variant, c.preset",
}


class MetricsMissing(QuantagentError):
    """Finished runs without metrics; missing: the reason by run id, None if no projection has recorded one."""

    default_code = "METRICS_MISSING"

    def __init__(self, missing: Mapping[str, str | None]) -> None:
        reasons = ((run_id[:8], reason or "the read models are behind") for run_id, reason in missing.items())
        described = "; ".join(f"{run_id} ({reason})" for run_id, reason in reasons)
        super().__init__(f"the metrics of run {described} are missing; its events are stored.")
        self.missing = dict(missing)


class ReadAt(NamedTuple):
    """State of the read tables: positions of the books and of the figures, usually equal, and time of the last update
    (UTC, wall clock)."""

    position: int
    figures: int
    updated_at: datetime


class Queries:
    """A read-only view of the read tables through one connection. Close it when done."""

    def __init__(self, dsn: str) -> None:
        self._conn = psycopg.Connection[dict[str, Any]].connect(dsn, autocommit=True, row_factory=dict_row)
        self._conn.execute("SET default_transaction_read_only = on")
        self._conn.execute(SQL("SET statement_timeout = {}").format(STATEMENT_TIMEOUT))
        self._conn.execute("SET TIME ZONE 'UTC'")
        self._at: ReadAt | None = None

    def close(self) -> None:
        self._conn.close()

    def alive(self) -> bool:
        """Return True if the connection works; a page that keeps one open checks before each use."""
        try:
            self._conn.execute("SELECT 1")
        except psycopg.Error:
            return False
        return True

    @contextmanager
    def snapshot(self) -> Generator[ReadAt]:
        """Open a transaction in which all queries see one state of the tables; return that state. May be nested.

        Waits briefly for books and figures to reach the same event; if one has stopped, their positions differ.
        """
        if self._at is not None:
            yield self._at
            return
        for pause_s in (*SNAPSHOT_PAUSES_S, None):
            with self._conn.transaction():
                self._conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                at = self._read_at()
                if at.position == at.figures or pause_s is None:
                    self._at = at
                    try:
                        yield at
                    finally:
                        self._at = None
                    return
            time.sleep(pause_s)

    def _read_at(self) -> ReadAt:
        version = self._rows(SQL("SELECT version FROM {}").format(_table("published")))[0]["version"]
        query = SQL("SELECT projection, position, updated_at FROM {} WHERE projection IN ('books', 'performance')")
        rows = self._rows(query.format(Identifier(f"{VIEWS_SCHEMA}_v{version}", "progress")))
        found = {row["projection"]: row for row in rows}
        latest = max(row["updated_at"] for row in rows)
        return ReadAt(found["books"]["position"], found["performance"]["position"], latest)

    def __enter__(self) -> Queries:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def runs(
        self,
        environment: str | None = None,
        label: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> Rows:
        """Return runs with their main figures, newest first; since, until: time of the request, the end excluded."""
        query = self._runs_query() + SQL(
            "WHERE (%s::text IS NULL OR r.environment = %s) AND (%s::text IS NULL OR r.label = %s) "
            "AND (%s::timestamptz IS NULL OR r.requested_at >= %s) "
            "AND (%s::timestamptz IS NULL OR r.requested_at < %s) "
            "ORDER BY r.requested_at DESC NULLS LAST, r.run_id LIMIT %s"
        )
        chosen = (each for each in (environment, label, since, until) for _ in range(2))
        return self._rows(query, *chosen, limit)

    def run(self, prefix: str) -> dict[str, Any]:
        """Return the run whose id begins with `prefix`, in any environment.

        `latest` is the newest run that is not a replay of the demo, if there is one. Raise `NotFound` if no run or
        several match.
        """
        if prefix == "latest":
            known = self.runs()
            wanted = [row for row in known if (row["environment"], row["label"]) != ("replay", "demo")]
            if not known:
                raise NotFound("there is no run yet.", "RUNS_MISSING")
            return (wanted or known)[0]
        found = (
            self._rows(self._runs_query() + SQL("WHERE left(r.run_id, %s) = %s LIMIT 2"), len(prefix), prefix)
            if prefix
            else []
        )
        if len(found) == 1:
            return found[0]
        if found:
            raise NotFound(f"run {prefix!r} matches several runs: use a longer id.")
        count = self._rows(SQL("SELECT count(*) AS n FROM {}").format(_table("runs")))[0]["n"]
        raise NotFound(f"run {prefix!r} does not exist.", "RUN_UNKNOWN", count=count)

    def _runs_query(self) -> Composed:
        """Return the query of runs with their main figures; `set_aside`: why rows of a run are missing, or null."""
        return SQL(
            "SELECT r.*, {}, m.total_trades, m.win_rate, m.profit_factor, m.sharpe_ratio, m.max_drawdown, m.total_pnl, "
            "m.total_return, m.final_equity, m.fees FROM {} r LEFT JOIN {} m USING (environment, run_id) "
        ).format(self._set_aside(), _table("runs"), _table("metrics"))

    def _set_aside(self) -> SQL | Composed:
        """Return the expression for why a run was set aside; null with the views of a version without that table."""
        if self._conn.execute("SELECT to_regclass(%s)", (f"{VIEWS_SCHEMA}.set_aside",)).fetchone() == {
            "to_regclass": None
        }:
            return SQL("NULL::text AS set_aside")
        return SQL(
            "(SELECT string_agg(a.projection || ': ' || a.reason, '; ' ORDER BY a.projection) FROM {} a "
            "WHERE a.run_id = r.run_id) AS set_aside"
        ).format(_table("set_aside"))

    def orders(self, run_id: str, symbol: Symbol | None = None, on: date | None = None) -> Rows:
        """Return orders in order of placement, each with its `number` in the run, counted from 1."""
        return self._run_rows("orders", "placed_at", run_id, symbol, on, "position")

    def trades(self, run_id: str, symbol: Symbol | None = None, on: date | None = None) -> Rows:
        """Return trades in order of entry, each with its `number` in the run, counted from 1."""
        return self._run_rows("trades", "entry_at", run_id, symbol, on, "entry_at, trade_id")

    def fills(self, run_id: str, symbol: Symbol | None = None, on: date | None = None) -> Rows:
        return self._run_rows("fills", "at", run_id, symbol, on)

    def positions(self, run_id: str, symbol: Symbol | None = None, on: date | None = None) -> Rows:
        """Return open positions only."""
        rows = self._run_rows("positions", "updated_at", run_id, symbol, on)
        return [row for row in rows if row["quantity"] != 0]

    def days(self, run_id: str, symbol: Symbol | None = None, on: date | None = None) -> Rows:
        """Return the account at the end of each session; a session has no symbol."""
        del symbol
        return self._run_rows("days", "at", run_id, None, on)

    def signals(self, run_id: str, symbol: Symbol | None = None, on: date | None = None) -> Rows:
        """Return signals in order, each with its `number` in the run, counted from 1."""
        return self._run_rows("signals", "at", run_id, symbol, on, "position")

    def risk_decisions(self, run_id: str, symbol: Symbol | None = None, on: date | None = None) -> Rows:
        return self._run_rows("risk_decisions", "at", run_id, symbol, on)

    def decisions(self, run_id: str, symbol: Symbol | None = None, on: date | None = None) -> Rows:
        return self._run_rows("decisions", "at", run_id, symbol, on)

    def count(self, table: Literal["trades", "orders", "risk_decisions"], run_id: str) -> int:
        """Count the rows of a run in a table."""
        return self._rows(SQL("SELECT count(*) AS n FROM {} WHERE run_id = %s").format(_table(table)), run_id)[0]["n"]

    def latest_trades(self, run_id: str, limit: int = PAGE, offset: int = 0) -> Rows:
        """Return trades, newest first, each with its `number` in the run, counted from 1 in order of entry."""
        query = SQL(
            "SELECT row_number() OVER (ORDER BY entry_at, trade_id) AS number, t.* FROM {} t WHERE run_id = %s "
            "ORDER BY number DESC LIMIT %s OFFSET %s"
        )
        return self._rows(query.format(_table("trades")), run_id, limit, offset)

    def latest_orders(self, run_id: str, limit: int = PAGE, offset: int = 0) -> Rows:
        """Return orders, working ones first, then newest first, each with its `number` in the run from 1."""
        query = SQL(
            "SELECT row_number() OVER (ORDER BY position) AS number, o.* FROM {} o WHERE run_id = %s "
            "ORDER BY status = 'working' DESC, number DESC LIMIT %s OFFSET %s"
        )
        return self._rows(query.format(_table("orders")), run_id, limit, offset)

    def trades_between(self, run_id: str, symbol: Symbol, start: datetime, end: datetime) -> Rows:
        """Return the trades of a symbol that were open at some time of a range, in order of entry."""
        query = SQL(
            "SELECT * FROM {} WHERE run_id = %s AND symbol = %s AND entry_at <= %s AND coalesce(exit_at, %s) >= %s "
            "ORDER BY entry_at, trade_id"
        )
        return self._rows(query.format(_table("trades")), run_id, symbol, end, end, start)

    def latest_signals(self, run_id: str, verdict: str | None = None, limit: int = PAGE, offset: int = 0) -> Rows:
        """Return signals, newest first, each with its risk verdict and its `number` in the run, counted from 1."""
        query = SQL(
            "SELECT * FROM (SELECT row_number() OVER (ORDER BY s.position) AS number, s.*, r.verdict, r.side, "
            "r.requested, r.quantity, r.reason FROM {} s JOIN {} r USING (run_id, signal_id) WHERE run_id = %s) n "
            "WHERE %s::text IS NULL OR verdict = %s ORDER BY number DESC LIMIT %s OFFSET %s"
        ).format(_table("signals"), _table("risk_decisions"))
        return self._rows(query, run_id, verdict, verdict, limit, offset)

    def verdict_counts(self, run_id: str) -> dict[str, int]:
        """Count the signals of a run by verdict."""
        query = SQL("SELECT verdict, count(*) AS n FROM {} WHERE run_id = %s GROUP BY verdict ORDER BY verdict")
        return {row["verdict"]: row["n"] for row in self._rows(query.format(_table("risk_decisions")), run_id)}

    def denials(self, run_id: str) -> Rows:
        """Return the rules that denied signals of a run, most frequent first: rule, signals, symbols, limit, observed.

        A signal that fails several rules counts for each. limit and observed, as text, are the most frequent pair of
        the rule; of equally frequent ones the latest.
        """
        query = SQL(
            "WITH failed AS (SELECT c.value ->> 'rule' AS rule, r.symbol, c.value ->> 'limit' AS \"limit\", "
            "c.value ->> 'observed' AS observed, r.position FROM {} r, jsonb_array_elements(r.checks::jsonb) AS c "
            "WHERE r.run_id = %s AND r.verdict = 'DENIED' AND NOT (c.value ->> 'passed')::boolean), "
            'pairs AS (SELECT rule, "limit", observed, count(*) AS n, max(position) AS latest FROM failed '
            'GROUP BY rule, "limit", observed), '
            "commonest AS (SELECT DISTINCT ON (rule) * FROM pairs ORDER BY rule, n DESC, latest DESC) "
            "SELECT f.rule, count(*) AS signals, string_agg(DISTINCT f.symbol, ',' ORDER BY f.symbol) AS symbols, "
            'p."limit", p.observed FROM failed f JOIN commonest p ON p.rule = f.rule '
            'GROUP BY f.rule, p."limit", p.observed ORDER BY signals DESC, f.rule'
        )
        return self._rows(query.format(_table("risk_decisions")), run_id)

    def order_status_counts(self, run_id: str) -> Rows:
        """Count the orders of a run by status and reason (may be null): status, reason, orders; most frequent first."""
        query = SQL(
            "SELECT status, reason, count(*) AS orders FROM {} WHERE run_id = %s GROUP BY status, reason "
            "ORDER BY orders DESC, status, reason"
        )
        return self._rows(query.format(_table("orders")), run_id)

    def decision_counts(self, run_id: str) -> dict[str, int]:
        """Count the analyses that a run consulted by decision (LONG, SHORT, FLAT or HOLD)."""
        query = SQL("SELECT decision, count(*) AS n FROM {} WHERE run_id = %s GROUP BY decision ORDER BY decision")
        return {row["decision"]: row["n"] for row in self._rows(query.format(_table("decisions")), run_id)}

    def trading_costs(self, run_id: str) -> Decimal:
        """Return the slippage and commission of all fills of a run, in account currency."""
        query = SQL("SELECT coalesce(sum(slippage + commission), 0) AS costs FROM {} WHERE run_id = %s")
        return self._rows(query.format(_table("fills")), run_id)[0]["costs"]

    def equity(self, run_id: str) -> Rows:
        return self._run_rows("equity", "at", run_id, None, None)

    def last_bar_closed_at(self, run_id: str) -> datetime | None:
        """Return the close of the latest bar that a run has processed; None before the first."""
        query = SQL("SELECT max(at) AS at FROM {} WHERE run_id = %s").format(_table("equity"))
        return self._rows(query, run_id)[0]["at"]

    def portfolio(self, run_id: str) -> dict[str, Any] | None:
        return next(iter(self._run_rows("portfolio", "run_id", run_id, None, None)), None)

    def metrics(self, run_id: str) -> dict[str, Any] | None:
        """Return the metrics of a run; None while it has no equity curve."""
        return next(iter(self._run_rows("metrics", "run_id", run_id, None, None)), None)

    def missing_metrics(self, run_ids: Sequence[str]) -> dict[str, str | None]:
        """Return the runs without metrics, with the reason if they were set aside, else None."""
        query = SQL(
            "SELECT r.run_id, {} FROM unnest(%s::text[]) WITH ORDINALITY AS r (run_id, n) "
            "WHERE NOT EXISTS (SELECT FROM {} m WHERE m.run_id = r.run_id) ORDER BY n"
        ).format(self._set_aside(), _table("metrics"))
        return {row["run_id"]: row["set_aside"] for row in self._rows(query, list(run_ids))}

    def bars(
        self,
        symbol: Symbol,
        timeframe: str,
        start: datetime,
        end: datetime,
        limit: int = 5_000,
        known_at: datetime | None = None,
    ) -> Rows:
        """Return the latest bars of a range for a chart, at most `limit`, in order, as known at `known_at`."""
        rows = self._rows(
            SQL(
                "SELECT opened_at, closed_at, open, high, low, close, volume FROM ("
                "SELECT DISTINCT ON (opened_at) * FROM quantagent.bars "
                "WHERE symbol = %s AND timeframe = %s AND opened_at >= %s AND opened_at < %s AND learned_at <= %s "
                "ORDER BY opened_at DESC, revision DESC) AS known "
                "WHERE closed_at <= %s ORDER BY opened_at DESC LIMIT %s"
            ),
            symbol,
            timeframe,
            start,
            end,
            known_at or "infinity",
            end,
            limit,
        )
        return rows[::-1]

    def profile_versions(self, name: str) -> Rows:
        """Return the saved versions of a profile, oldest first."""
        query = SQL("SELECT * FROM {} WHERE name = %s ORDER BY version, position").format(_table("profile_versions"))
        return self._rows(query, name)

    def profile_activations(self, name: str) -> Rows:
        """Return the activations of a profile as a default, and their ends (`active` is false), oldest first."""
        query = SQL("SELECT *, digest IS NOT NULL AS active FROM {} WHERE name = %s ORDER BY position")
        return self._rows(query.format(_table("profile_activations")), name)

    def model_versions(self, name: str) -> Rows:
        """Return the saved versions of a model preset, oldest first."""
        query = SQL("SELECT * FROM {} WHERE name = %s ORDER BY version, position").format(_table("model_versions"))
        return self._rows(query, name)

    def model_activations(self, name: str) -> Rows:
        """Return the activations of a model preset as a default, and their ends (`active` is false), oldest first."""
        query = SQL("SELECT *, digest IS NOT NULL AS active FROM {} WHERE name = %s ORDER BY position")
        return self._rows(query.format(_table("model_activations")), name)

    def analyses(
        self, symbol: Symbol | None = None, variant: str | None = None, limit: int = PAGE, *, failed: bool = False
    ) -> Rows:
        """Return stored analyses, those of the newest bars first; failed: only those that failed.

        variant: with its digest or version, or without for all variants of that name.
        """
        query = SQL(
            "SELECT * FROM {} WHERE (%s::text IS NULL OR symbol = %s) "
            "AND (%s::text IS NULL OR variant = %s OR split_part(variant, '@', 1) = %s) "
            "AND (NOT %s OR status = 'failed') ORDER BY at DESC, analysis_id LIMIT %s"
        )
        wanted = (symbol, symbol, variant, variant, variant, failed, limit)
        return self._rows(query.format(_table("analyses")), *wanted)

    def model_calls(self, analysis_id: str) -> Rows:
        """Return the model calls of an analysis in order, those of failed attempts first."""
        query = SQL("SELECT * FROM {} WHERE analysis_id = %s ORDER BY version, n").format(_table("model_calls"))
        return self._rows(query, analysis_id)

    def costs(self, by: CostGrouping, run_id: str | None = None) -> Rows:
        """Return totals of model calls by analysis, run, UTC day or variant, of one run or of all; latest first.

        Columns: calls, failures (without a usable answer), analyses, input_tokens, output_tokens, cost (US dollars).
        The calls of a run are those of the analyses it consulted, without later attempts. Runs share analyses, so the
        costs of all runs may exceed the amount spent.
        """
        joined = SQL("FROM {} c").format(_table("model_calls"))
        if by == "run" or run_id is not None:
            joined += SQL(
                " JOIN {} d ON d.analysis_id = c.analysis_id AND c.version <= d.analysis_version "
                "AND (%s::text IS NULL OR d.run_id = %s)"
            ).format(_table("decisions"))
        query = SQL(
            "SELECT {group}, count(*) AS calls, count(*) FILTER (WHERE c.outcome <> 'answered') AS failures, "
            "count(DISTINCT c.analysis_id) AS analyses, sum(c.input_tokens)::bigint AS input_tokens, "
            "sum(c.output_tokens)::bigint AS output_tokens, sum(c.cost) AS cost "
            "{joined} GROUP BY {group} ORDER BY max(c.position) DESC, {group}"
        ).format(group=SQL(_GROUPS[by]), joined=joined)
        return self._rows(query, *([run_id, run_id] if b" JOIN " in joined.as_bytes() else []))

    def cost_without_analysis(self) -> Decimal:
        """Return the cost in US dollars of calls without a stored analysis: running, interrupted or abandoned."""
        query = SQL(
            "SELECT coalesce(sum(cost), 0) AS cost FROM quantagent.llm_calls q WHERE NOT EXISTS "
            "(SELECT FROM {} c WHERE c.analysis_id = q.analysis_id AND c.version = q.version)"
        )
        return self._rows(query.format(_table("model_calls")))[0]["cost"]

    def _run_rows(
        self,
        table: LiteralString,
        time: LiteralString,
        run_id: str,
        symbol: Symbol | None,
        on: date | None,
        numbered_by: LiteralString = "",
    ) -> Rows:
        numbers = SQL(f", row_number() OVER (ORDER BY {numbered_by}) AS number") if numbered_by else SQL("")
        conditions: list[SQL | Composed] = [SQL("run_id = %s")]
        values: list[object] = [run_id, run_id]
        if symbol is not None:
            conditions.append(SQL("symbol = %s"))
            values.append(symbol)
        if on is not None:
            conditions.append(SQL("{0} >= %s AND {0} < %s").format(Identifier(time)))
            values += [on, on + timedelta(days=1)]
        query = SQL("SELECT * FROM (SELECT t.*{} FROM {} t WHERE run_id = %s) n WHERE {} ORDER BY {}, 1, 2, 3").format(
            numbers, _table(table), SQL(" AND ").join(conditions), Identifier(time)
        )
        return self._rows(query, *values)

    def _rows(self, query: SQL | Composed, *values: object) -> Rows:
        return self._conn.execute(query, values).fetchall()


def _table(name: str) -> Identifier:
    return Identifier(VIEWS_SCHEMA, name)
