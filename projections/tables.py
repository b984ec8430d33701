"""Tables of the read models: columns with type, unit and source, and the projection that writes them.

Every row of a run carries its run and environment, so that a backtest is never shown as paper trading. See
`projections.schemas` for the schemas that hold the tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

# Raise it with any change in what a projection writes; the tables are then projected again in a new schema.
VERSION = 5


class Column(NamedTuple):
    """A column. kind: SQL type; unit, source: unit and origin of the values, for documentation."""

    name: str
    kind: str
    unit: str
    source: str


Changes = Literal["never", "by key", "by run"]


class Table(NamedTuple):
    """A table. changes: rows are never changed, replaced one by one, or replaced together for a run."""

    name: str
    projection: str
    changes: Changes
    about: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def replaced_by(self) -> tuple[str, ...]:
        """The columns that a new row shares with the rows it replaces; none if rows never change."""
        return {"never": (), "by key": self.key, "by run": ("run_id",)}[self.changes]


Row = Mapping[str, object]

_RUN = (
    Column("environment", "text", "backtest, paper or replay", "RunRequested.environment"),
    Column("run_id", "text", "uuid", "RunRequested.run_id"),
)


def _table(
    name: str, projection: str, changes: Changes, about: str, key: str, *columns: tuple[str, str, str, str]
) -> Table:
    """Return a table of runs; `key` distinguishes the rows of one run."""
    in_full = (*_RUN, *(Column(*column) for column in columns))
    return Table(name, projection, changes, about, ("run_id", *key.split()), in_full)


RUNS = _table(
    "runs",
    "runs",
    "by key",
    "One row per run: its request, status and digests.",
    "",
    ("profile", "text", "name", "RunRequested.profile"),
    ("variant", "text", "name", "RunRequested.variant"),
    ("symbols", "text", "comma separated", "RunRequested.config"),
    ("timeframe", "text", "bar length", "RunRequested.config"),
    ("start_at", "timestamptz", "UTC", "RunRequested.start"),
    ("end_at", "timestamptz", "UTC", "RunRequested.end"),
    ("label", "text", "", "RunRequested.label"),
    ("of_run", "text", "uuid of the run it replays", "RunRequested.of_run"),
    ("currency", "text", "ISO 4217", "RunRequested.config"),
    ("starting_cash", "numeric", "account currency", "RunRequested.config"),
    ("status", "text", "requested, running, ended, failed or unreadable", "RunStarted, RunEnded, RunFailed"),
    ("reason", "text", "why it failed, or ended before its bars did", "RunFailed.reason, RunEnded.reason"),
    ("bars", "bigint", "count", "RunEnded.bars"),
    ("signals", "bigint", "count", "RunEnded.signals"),
    ("orders", "bigint", "count", "RunEnded.orders"),
    ("fills", "bigint", "count", "RunEnded.fills"),
    ("book_events", "bigint", "count", "RunEnded.book_events"),
    ("book_digest", "text", "SHA-256", "RunEnded.book_digest"),
    ("analyses_digest", "text", "SHA-256", "RunEnded.analyses_digest"),
    ("config_digest", "text", "SHA-256", "RunRequested.config_digest"),
    ("dataset_digest", "text", "SHA-256", "RunRequested.dataset_digest"),
    ("engine_version", "text", "version", "RunStarted.engine_version"),
    ("requested_at", "timestamptz", "UTC, wall clock", "metadata of RunRequested"),
)

SIGNALS = _table(
    "signals",
    "books",
    "by key",
    "One row per signal, with or without an order.",
    "signal_id",
    ("signal_id", "text", "id", "SignalRaised.signal_id"),
    ("order_id", "text", "id, null when no order followed", "OrderPlaced.order_id"),
    ("symbol", "text", "", "SignalRaised.symbol"),
    ("at", "timestamptz", "UTC, close of the bar", "SignalRaised.at"),
    ("direction", "text", "LONG, SHORT or FLAT", "SignalRaised.direction"),
    ("confidence", "numeric", "0 to 1", "SignalRaised.confidence"),
    ("reference_price", "numeric", "quote currency", "SignalRaised.reference_price"),
    ("source", "text", "analysis, a rule of the book, or `person`", "SignalRaised.source"),
    ("analysis_id", "text", "id", "SignalRaised.analysis_id"),
    ("horizon_bars", "integer", "bars", "SignalRaised.horizon_bars"),
    ("stop", "numeric", "quote currency", "SignalRaised.stop"),
    ("target", "numeric", "quote currency", "SignalRaised.target"),
    ("position", "bigint", "place in the log", "position of SignalRaised"),
)

RISK_DECISIONS = _table(
    "risk_decisions",
    "books",
    "never",
    "One row per risk decision, with all its checks.",
    "signal_id",
    ("signal_id", "text", "id", "RiskDecided.signal_id"),
    ("symbol", "text", "", "RiskDecided.symbol"),
    ("at", "timestamptz", "UTC", "RiskDecided.at"),
    ("verdict", "text", "APPROVED, REDUCED or DENIED", "RiskDecided.verdict"),
    ("side", "text", "BUY or SELL", "RiskDecided.side"),
    ("requested", "numeric", "units", "RiskDecided.requested"),
    ("quantity", "numeric", "units allowed", "RiskDecided.quantity"),
    ("reason", "text", "", "RiskDecided.reason"),
    ("checks", "text", "JSON list of rule, passed, limit, observed", "RiskDecided.checks"),
    ("position", "bigint", "place in the log", "position of RiskDecided"),
)

ORDERS = _table(
    "orders",
    "books",
    "by key",
    "One row per order with its latest state.",
    "order_id",
    ("order_id", "text", "id", "OrderPlaced.order_id"),
    ("trigger_signal_id", "text", "id", "OrderPlaced.signal_id"),
    ("analysis_id", "text", "id", "OrderPlaced.analysis_id"),
    ("symbol", "text", "", "OrderPlaced.symbol"),
    ("placed_at", "timestamptz", "UTC", "OrderPlaced.at"),
    ("side", "text", "BUY or SELL", "OrderPlaced.side"),
    ("role", "text", "entry, exit, stop, target or trailing_stop", "OrderPlaced.role"),
    ("order_type", "text", "MARKET, LIMIT, STOP, STOP_LIMIT or TRAILING_STOP", "OrderPlaced.terms"),
    ("limit_price", "numeric", "quote currency", "OrderPlaced.terms"),
    ("stop_price", "numeric", "quote currency, of a trailing stop its first", "OrderPlaced.terms"),
    ("trail", "numeric", "quote currency, distance", "OrderPlaced.terms"),
    ("time_in_force", "text", "DAY, GTC or GTD", "OrderPlaced.terms"),
    ("expires_at", "timestamptz", "UTC", "OrderPlaced.terms"),
    ("pair", "text", "shared by orders of which one cancels the others", "OrderPlaced.pair"),
    ("replaces", "text", "id of the order it amends", "OrderPlaced.replaces"),
    ("quantity", "numeric", "units", "OrderPlaced.quantity"),
    ("reference_price", "numeric", "quote currency", "OrderPlaced.reference_price"),
    (
        "status",
        "text",
        "working, filled, partly filled, rejected, canceled, expired or replaced",
        "OrderFilled, OrderRejected, OrderCanceled, OrderExpired, OrderReplaced",
    ),
    ("filled_quantity", "numeric", "units", "OrderFilled.quantity"),
    ("filled_at", "timestamptz", "UTC", "OrderFilled.at"),
    ("reason", "text", "why it ended unfilled", "OrderRejected.reason, OrderCanceled.reason"),
    ("position", "bigint", "place in the log", "position of OrderPlaced"),
)

FILLS = _table(
    "fills",
    "books",
    "never",
    "One row per fill.",
    "position",
    ("order_id", "text", "id", "OrderFilled.order_id"),
    ("symbol", "text", "", "OrderFilled.symbol"),
    ("decided_at", "timestamptz", "UTC, close of the bar decided on", "OrderFilled.decided_at"),
    ("at", "timestamptz", "UTC, open of the bar filled at, or close of the bar filled inside", "OrderFilled.at"),
    ("bar_opened_at", "timestamptz", "UTC, open of the bar filled in", "OrderFilled.bar_opened_at"),
    ("side", "text", "BUY or SELL", "OrderFilled.side"),
    ("quantity", "numeric", "units", "OrderFilled.quantity"),
    ("price", "numeric", "quote currency", "OrderFilled.price"),
    ("reference_price", "numeric", "quote currency, before slippage", "OrderFilled.reference_price"),
    ("notional", "numeric", "account currency", "OrderFilled.notional"),
    ("slippage", "numeric", "account currency", "OrderFilled.slippage"),
    ("commission", "numeric", "account currency", "OrderFilled.commission"),
    ("rate", "numeric", "account currency per unit of the quote's", "OrderFilled.rate"),
    ("cash_after", "numeric", "account currency", "folded from the book"),
    ("position", "bigint", "place in the log", "position of OrderFilled"),
)

TRADES = _table(
    "trades",
    "books",
    "by key",
    "One row per round trip, from flat to flat or to the other side. Net P&L is after the commissions of both sides "
    "and the cost of borrowing.",
    "trade_id",
    ("trade_id", "text", "id, from its entry order", "OrderFilled"),
    ("symbol", "text", "", "OrderFilled.symbol"),
    ("direction", "text", "LONG or SHORT", "OrderFilled.side"),
    ("status", "text", "open or closed", "OrderFilled"),
    ("entry_at", "timestamptz", "UTC", "OrderFilled.at"),
    ("exit_at", "timestamptz", "UTC, null while open", "OrderFilled.at"),
    ("quantity", "numeric", "units, the most held", "OrderFilled.quantity"),
    ("entry_price", "numeric", "quote currency, average", "OrderFilled.price"),
    ("exit_price", "numeric", "quote currency, average, null while open", "OrderFilled.price"),
    ("gross_pnl", "numeric", "account currency, realized", "OrderFilled.notional"),
    ("fees", "numeric", "account currency, commissions", "OrderFilled.commission"),
    ("borrow_cost", "numeric", "account currency, for short positions", "CashAdjusted.amount"),
    ("net_pnl", "numeric", "account currency", "gross_pnl - fees - borrow_cost"),
    ("entry_order_id", "text", "id", "OrderFilled.order_id"),
    ("exit_order_id", "text", "id", "OrderFilled.order_id"),
    (
        "exit_reason",
        "text",
        "analysis, a rule of the book, `person`, stop, target or trailing_stop",
        "SignalRaised.source, OrderPlaced.role",
    ),
)

POSITIONS = _table(
    "positions",
    "books",
    "by key",
    "The latest position of each symbol that a run has traded; quantity 0 when flat.",
    "symbol",
    ("symbol", "text", "", "OrderFilled.symbol"),
    ("quantity", "numeric", "units, negative when short", "folded from the book"),
    ("cost", "numeric", "account currency, signed", "folded from the book"),
    ("average_price", "numeric", "average cost of a unit, null when flat", "folded from the book"),
    ("opened_at", "timestamptz", "UTC, null when flat", "folded from the book"),
    ("updated_at", "timestamptz", "UTC", "OrderFilled.at"),
    ("realised_pnl", "numeric", "account currency, before fees", "folded from the book"),
)

PORTFOLIO = _table(
    "portfolio",
    "books",
    "by key",
    "One row per run: the account after its latest event.",
    "",
    ("cash", "numeric", "account currency", "folded from the book"),
    ("free_cash", "numeric", "account currency", "folded from the book"),
    ("equity", "numeric", "account currency, at the latest mark or fill", "PositionsMarked, OrderFilled"),
    ("realised_pnl", "numeric", "account currency, before fees", "folded from the book"),
    ("unrealised_pnl", "numeric", "account currency, at the latest mark or fill", "PositionsMarked, OrderFilled"),
    ("fees", "numeric", "account currency", "folded from the book"),
    ("financing", "numeric", "account currency, borrow cost so far, 0 or negative", "CashAdjusted.amount"),
    ("day_equity", "numeric", "account currency, at the session roll", "PositionsMarked"),
    (
        "daily_pnl",
        "numeric",
        "account currency, since the session roll, at the latest mark or fill",
        "PositionsMarked, OrderFilled",
    ),
    ("halted", "text", "scope and reason, null while trading", "TradingHalted, TradingResumed"),
    ("marked_at", "timestamptz", "UTC", "PositionsMarked.at, OrderFilled.at"),
)

DAYS = _table(
    "days",
    "books",
    "never",
    "One row per session: the account at its end.",
    "at occasion",
    ("at", "timestamptz", "UTC, the session roll or the run's end", "PositionsMarked.at"),
    ("occasion", "text", "roll or end", "PositionsMarked.occasion"),
    ("equity", "numeric", "account currency", "PositionsMarked.equity"),
    ("cash", "numeric", "account currency", "PositionsMarked.cash"),
    ("pnl", "numeric", "account currency, since the previous session", "PositionsMarked.equity"),
    ("realised_pnl", "numeric", "account currency, before fees, of the run so far", "folded from the book"),
    ("unrealised_pnl", "numeric", "account currency", "PositionsMarked.marks"),
    ("fees", "numeric", "account currency, of the run so far", "folded from the book"),
    ("financing", "numeric", "account currency, of the run so far", "CashAdjusted.amount"),
)

WORK = (
    ("model_provider", "text", "name", "GraphWork.model_provider"),
    ("model_name", "text", "name", "GraphWork.model_name"),
    ("temperature", "numeric", "", "GraphWork.temperature"),
    ("seed", "bigint", "", "GraphWork.seed"),
    ("preset", "text", "name", "GraphWork.preset"),
    ("preset_digest", "text", "SHA-256 of the preset's document", "GraphWork.preset_digest"),
    ("sighted", "boolean", "true if it was shown charts", "GraphWork.sighted"),
    ("knowledge_cutoff", "text", "date, empty when unknown", "GraphWork.knowledge_cutoff"),
    ("input_tokens", "bigint", "count", "GraphWork.input_tokens"),
    ("output_tokens", "bigint", "count", "GraphWork.output_tokens"),
    ("cost", "numeric", "US dollars", "GraphWork.cost"),
    ("latency_ms", "bigint", "milliseconds", "GraphWork.latency_ms"),
    ("artefacts", "text", "JSON list of agent and SHA-256 of its chart", "GraphWork.artefacts"),
    ("graph_version", "text", "version", "GraphWork.graph_version"),
    ("thread_id", "text", "id", "GraphWork.thread_id"),
    ("checkpoint_id", "text", "id", "GraphWork.checkpoint_id"),
    ("state_snapshot", "text", "JSON", "GraphWork.state_snapshot"),
)
"""Columns of an analysis on the graph of agents behind it; empty or null for an analysis without one."""

ANALYSES = Table(
    "analyses",
    "analyses",
    "by key",
    "One row per stored analysis, shared by all runs that consult it. The row of a failed analysis is replaced when a "
    "later attempt succeeds.",
    ("analysis_id",),
    tuple(
        Column(*column)
        for column in (
            ("analysis_id", "text", "id", "AnalysisMade.analysis_id"),
            ("symbol", "text", "", "AnalysisMade.symbol"),
            ("timeframe", "text", "bar length", "AnalysisMade.timeframe"),
            ("at", "timestamptz", "UTC, close of the bar", "AnalysisMade.as_of"),
            ("variant", "text", "name", "AnalysisMade.variant"),
            ("status", "text", "made or failed", "AnalysisMade, AnalysisFailed"),
            ("reason", "text", "why it failed, null when made", "AnalysisFailed.reason"),
            ("version", "bigint", "of the event in the analysis's stream", "AnalysisMade, AnalysisFailed"),
            ("decision", "text", "LONG, SHORT, FLAT or HOLD, null when failed", "AnalysisMade.decision"),
            ("confidence", "numeric", "0 to 1, null when failed", "AnalysisMade.confidence"),
            ("horizon_bars", "integer", "bars", "AnalysisMade.horizon_bars"),
            ("risk_reward", "numeric", "ratio", "AnalysisMade.risk_reward"),
            ("agent_version", "text", "version, empty when failed", "AnalysisMade.agent_version"),
            ("window_digest", "text", "SHA-256", "AnalysisMade.window_digest"),
            *WORK,
            ("position", "bigint", "place in the log", "position of AnalysisMade or AnalysisFailed"),
        )
    ),
)

MODEL_CALLS = Table(
    "model_calls",
    "analyses",
    "never",
    "One row per model call, of successful and failed analyses.",
    ("analysis_id", "version", "n"),
    tuple(
        Column(*column)
        for column in (
            ("analysis_id", "text", "id", "AnalysisMade.analysis_id"),
            ("version", "bigint", "of the event in the analysis's stream", "AnalysisMade, AnalysisFailed"),
            ("n", "bigint", "place in the event, from 1", "GraphWork.calls"),
            ("variant", "text", "name", "AnalysisMade.variant"),
            ("preset", "text", "name", "GraphWork.preset"),
            ("node", "text", "agent", "ModelCall.node"),
            ("seq", "integer", "request of the agent, from 1", "ModelCall.seq"),
            ("attempt", "integer", "attempt of the request, from 1", "ModelCall.attempt"),
            ("model", "text", "name requested", "ModelCall.model"),
            ("answered_by", "text", "name that answered", "ModelCall.answered_by"),
            ("system_fingerprint", "text", "", "ModelCall.system_fingerprint"),
            ("outcome", "text", "answered, or the kind of failure", "ModelCall.outcome"),
            ("request", "text", "SHA-256", "ModelCall.request"),
            ("response", "text", "SHA-256, empty without a response", "ModelCall.response"),
            ("input_tokens", "bigint", "count", "ModelCall.input_tokens"),
            ("output_tokens", "bigint", "count", "ModelCall.output_tokens"),
            ("cost", "numeric", "US dollars", "ModelCall.cost"),
            ("latency_ms", "bigint", "milliseconds", "ModelCall.latency_ms"),
            ("day", "date", "UTC, on which the analysis was recorded", "metadata of AnalysisMade or AnalysisFailed"),
            ("position", "bigint", "place in the log", "position of AnalysisMade or AnalysisFailed"),
        )
    ),
)

DECISIONS = _table(
    "decisions",
    "performance",
    "by run",
    "One row per analysis that a run consulted, with the price four hours later.",
    "symbol at",
    ("symbol", "text", "", "AnalysisMade.symbol"),
    ("at", "timestamptz", "UTC, close of the bar", "AnalysisMade.as_of"),
    ("analysis_id", "text", "id", "AnalysesConsulted.analyses"),
    ("analysis_version", "bigint", "of the event in the analysis's stream", "AnalysesConsulted.analyses"),
    ("decision", "text", "LONG, SHORT, FLAT or HOLD", "AnalysisMade.decision"),
    ("confidence", "numeric", "0 to 1", "AnalysisMade.confidence"),
    ("close", "numeric", "quote currency", "bars"),
    ("close_4h", "numeric", "quote currency, null without a bar closing then", "bars"),
    ("price_return", "double precision", "fraction, close_4h / close - 1", "bars"),
    ("was_right", "boolean", "null for HOLD, FLAT and unknown", "decision and price_return"),
)

EQUITY = _table(
    "equity",
    "performance",
    "by run",
    "One row per instant at which a bar of the run closed.",
    "at",
    ("at", "timestamptz", "UTC", "bars"),
    ("equity", "numeric", "account currency", "fills and bars"),
    ("cash", "numeric", "account currency", "fills"),
    ("drawdown", "double precision", "fraction of the highest equity so far, 0 or negative", "equity"),
)

METRICS = _table(
    "metrics",
    "performance",
    "by run",
    "One row per run. `projections/metrics.py` states the conventions; undefined metrics are null.",
    "",
    *(
        (name, kind, unit, "equity and trades")
        for name, kind, unit in (
            ("total_trades", "bigint", "count of closed trades"),
            ("open_trades", "bigint", "count"),
            ("win_rate", "double precision", "fraction of closed trades"),
            ("profit_factor", "double precision", "gross profit / gross loss"),
            ("expectancy", "double precision", "account currency per closed trade"),
            ("gross_profit", "double precision", "account currency"),
            ("gross_loss", "double precision", "account currency"),
            ("total_pnl", "numeric", "account currency, final equity - start"),
            ("total_return", "double precision", "fraction"),
            ("sharpe_ratio", "double precision", "annualized, returns per session"),
            ("sortino_ratio", "double precision", "annualized, returns per session"),
            ("volatility", "double precision", "annualized fraction"),
            ("max_drawdown", "double precision", "fraction, per bar"),
            ("cagr", "double precision", "fraction per year"),
            ("calmar_ratio", "double precision", "cagr / |max_drawdown|"),
            ("days", "bigint", "count of returns, one per session"),
            ("annualisation", "bigint", "returns per year"),
            ("final_equity", "numeric", "account currency"),
            ("fees", "numeric", "account currency"),
        )
    ),
)

PROFILE_VERSIONS = Table(
    "profile_versions",
    "profiles",
    "never",
    "One row per saved version of a profile. Profiles belong to no run.",
    ("position",),
    tuple(
        Column(*column)
        for column in (
            ("name", "text", "name", "ProfileSaved.name"),
            ("version", "bigint", "counted from 1", "the profile's stream"),
            ("kind", "text", "combined, portfolio or risk", "ProfileSaved.kind"),
            ("digest", "text", "SHA-256 of the document", "ProfileSaved.digest"),
            ("actor", "text", "who saved it", "metadata of ProfileSaved"),
            ("saved_at", "timestamptz", "UTC, wall clock", "metadata of ProfileSaved"),
            ("document", "text", "JSON", "ProfileSaved.document"),
            ("position", "bigint", "place in the log", "position of ProfileSaved"),
        )
    ),
)

PROFILE_ACTIVATIONS = Table(
    "profile_activations",
    "profiles",
    "never",
    "One row for each time a profile became a default or ceased to be one. The latest of a scope and half applies.",
    ("position",),
    tuple(
        Column(*column)
        for column in (
            ("scope", "text", "global, backtest or paper", "ProfileActivated.scope"),
            ("kind", "text", "combined (both halves), portfolio or risk", "ProfileActivated.kind"),
            ("name", "text", "name", "ProfileActivated.name, the stream's name where a default ends"),
            ("digest", "text", "SHA-256 of the version, null where a default ends", "ProfileActivated.digest"),
            ("at", "timestamptz", "UTC, wall clock", "metadata of ProfileActivated"),
            ("actor", "text", "who changed it", "metadata of ProfileActivated"),
            ("position", "bigint", "place in the log", "position of ProfileActivated"),
        )
    ),
)

MODEL_VERSIONS = Table(
    "model_versions",
    "models",
    "never",
    "One row per saved version of a model preset. Presets belong to no run.",
    ("position",),
    tuple(
        Column(*column)
        for column in (
            ("name", "text", "name", "ModelSaved.name"),
            ("version", "bigint", "counted from 1", "the preset's stream"),
            ("digest", "text", "SHA-256 of the document", "ModelSaved.digest"),
            ("actor", "text", "who saved it", "metadata of ModelSaved"),
            ("saved_at", "timestamptz", "UTC, wall clock", "metadata of ModelSaved"),
            ("document", "text", "JSON", "ModelSaved.document"),
            ("position", "bigint", "place in the log", "position of ModelSaved"),
        )
    ),
)

MODEL_ACTIVATIONS = Table(
    "model_activations",
    "models",
    "never",
    "One row for each time a model preset became a default or ceased to be one. The latest of a scope applies.",
    ("position",),
    tuple(
        Column(*column)
        for column in (
            ("scope", "text", "global, backtest or paper", "ModelActivated.scope"),
            ("name", "text", "name", "ModelActivated.name, the stream's name where a default ends"),
            ("digest", "text", "SHA-256 of the version, null where a default ends", "ModelActivated.digest"),
            ("at", "timestamptz", "UTC, wall clock", "metadata of ModelActivated"),
            ("actor", "text", "who changed it", "metadata of ModelActivated"),
            ("position", "bigint", "place in the log", "position of ModelActivated"),
        )
    ),
)

TABLES: tuple[Table, ...] = (
    RUNS,
    PORTFOLIO,
    POSITIONS,
    DAYS,
    SIGNALS,
    RISK_DECISIONS,
    ORDERS,
    FILLS,
    TRADES,
    ANALYSES,
    MODEL_CALLS,
    DECISIONS,
    EQUITY,
    METRICS,
    PROFILE_VERSIONS,
    PROFILE_ACTIVATIONS,
    MODEL_VERSIONS,
    MODEL_ACTIVATIONS,
)


def read_models_page() -> str:
    """Return the text of `docs/read-models.md`."""
    lines = [
        "# Read models",
        "",
        f"Readers query the views in schema `read_models`, one for each table below (version {VERSION}). The tables "
        "are projected from the log and the bars and never written by hand. Each version has its own schema, here "
        f"`read_models_v{VERSION}`: a newer program fills the tables of its version while these are in use, and "
        "switches the views when it has caught up. All times are UTC. This page is generated from "
        "`projections/tables.py` by `make docs`.",
        "",
        "Three commands of the group `projections` maintain the tables. `verify` projects them again in a separate "
        "schema, compares them row by row with the views, lists the differences and keeps both sides. `rebuild` "
        "compares as well and then puts the new tables in place. `status` shows the position of each projection and "
        "the result of the latest comparison.",
        "",
        "Six projections write the tables, each with its own position. A run that a projection cannot process is set "
        "aside: it has no rows in the tables of that projection, `set_aside` has the reason, and all other runs "
        "continue. It is retried when the program, the bars or the event at which it failed have changed, and by every "
        "rebuild. An event of no run that cannot be projected stops the projection that needs it: the status shows it, "
        "every later call retries, and the other projections continue.",
        "",
        "`event_log` is a view of every event of the log with its payload and metadata as JSON, its run and its "
        "environment. `set_aside` has a row for each run that a projection has set aside: projection, run_id, position "
        "(of the event at which it failed) and reason.",
        "",
    ]
    for table in TABLES:
        lines += [f"## {table.name}", "", f"{table.about} Key: {', '.join(table.key)}.", ""]
        lines += [f"Written by `{table.projection}`. {_CHANGES[table.changes]}", ""]
        lines += ["| column | type | unit | source |", "| --- | --- | --- | --- |"]
        lines += [f"| {c.name} | {c.kind} | {c.unit} | {c.source} |" for c in table.columns]
        lines.append("")
    return "\n".join(lines)


_CHANGES: dict[Changes, str] = {
    "never": "A row never changes.",
    "by key": "A row changes with later events.",
    "by run": "The rows of a run are written when it ends; those of a paper run also while it is running.",
}
