"""Remedies for errors on the command line: the command or flag that helps, by the code of the error.

Errors below `ui` state facts only, because a Python or HTTP user has no flags. A remedy may name fields of its error in
braces.
"""

from __future__ import annotations

from engine.core.errors import QuantagentError

REMEDIES: dict[str, str] = {
    # --- engine.core ---
    "ANALYSIS_MISSING": "run `quantagent backtest` over that range first",
    "BROKER_RECORD_DIFFERS": "see `quantagent paper reconcile`, and restore the database from a copy if it was changed",
    "EVENT_DAMAGED": "run `quantagent audit verify` to see whether it was changed",
    "EVENT_MISSING": "run `quantagent audit verify`, and restore the database from a copy",
    "ROWS_DROPPED": "run `quantagent doctor`, which names the trigger or rule",
    "SYMBOLS_MISSING": "name them with --symbols A,B",
    # --- engine.runtime, engine.broker ---
    "ACCOUNT_IN_USE": "`quantagent paper status` shows it, and `quantagent paper stop` ends it",
    "HALT_NARROWED": "run `quantagent resume` first",
    "REASON_EMPTY": "give one with --reason for readers of the log",
    # --- engine.store ---
    "DATABASE_BUSY": "read {log}, or end it with `quantagent db stop --force`",
    "DATABASE_MISPLACED": "move it to {target} and run `quantagent db upgrade`",
    "DATABASE_OLDER": "run `quantagent db upgrade`",
    "GUARDS_NOT_RESTORED": (
        "have the owner of the database or a superuser run `quantagent db upgrade`, or remove the objects that were "
        "added by hand"
    ),
    "OLD_PROGRAMS_MISSING": (
        "install PostgreSQL {major}, set QUANTAGENT_PG_OLD_BINDIR to its bin folder, and run `quantagent db upgrade` "
        "again"
    ),
    "SCHEMA_REFUSED": (
        "grant the user CREATE on the database, or run `quantagent db upgrade` once as the owner of the database"
    ),
    # --- engine.data ---
    "BARS_BEFORE_REACH": "import them from a file with `quantagent data import`",
    "BARS_MISSING": (
        "fetch some with `quantagent data fetch {symbol} --timeframe {timeframe}`, import some with `quantagent data "
        "import FILE --symbol {symbol} --timeframe {timeframe}`, or load the bundled sample with `quantagent data "
        "sample`"
    ),
    "BARS_TABLE_MISSING": "run `quantagent db upgrade` to create it",
    "BAR_CONFLICT": (
        "leave that bar out, keep it as a revision with --correct, or import the other source under a symbol of its own"
    ),
    "CALENDAR_ZONE_DIFFERS": "choose its calendar with --calendar {calendars} of `quantagent data fetch {symbol}`",
    "FILE_ROW_UNUSABLE": "correct it, or import the file with `quantagent data import`",
    "PROVIDER_LACKS_SYMBOL": "choose another provider with --provider",
    "PROVIDER_LACKS_TIMEFRAME": "choose one of these, or another provider with --provider",
    "RANGE_MISSING": (
        "choose a range inside it, or add bars with `quantagent data fetch {symbol} --timeframe {timeframe}` or "
        "`quantagent data import`"
    ),
    "ROWS_UNUSABLE": "correct the file, or import the usable rows with --accept-valid",
    "SIGNALS_MISSING": "run `quantagent backtest --signals FILE.csv` with them first",
    "SIGNALS_OTHER_SYMBOLS": "name the symbols of the file with --symbols",
    # --- engine.audit ---
    "ANCHORING_COPY": "`quantagent db adopt --reason TEXT` makes the copy a log of its own",
    "ANCHORING_FILE": (
        "restore the file from a copy, or begin a new one with `quantagent audit anchor --begin-anew --reason TEXT`, "
        "which records the restart"
    ),
    "ANCHORING_INTACT": "sign the head with `quantagent audit anchor`, without `--begin-anew`",
    "ANCHORING_KEY": (
        "restore the key from its copy, or begin a new file of anchors with `quantagent audit anchor --begin-anew "
        "--reason TEXT`, which records the restart; to replace a key, use `quantagent audit rotate-key`"
    ),
    "ANCHORING_LOG": (
        "run `quantagent audit verify` and compare the database with a backup, or begin a new file of anchors with "
        "`quantagent audit anchor --begin-anew --reason TEXT`, which records the restart"
    ),
    "ANCHORS_DAMAGED": "restore the file from a copy",
    "ANCHORS_UNREADABLE": "name the file that holds the anchors with --anchor",
    "CAPSULE_UNREADABLE": "name a file written by `quantagent audit bundle`",
    "LOG_BROKEN": "run `quantagent audit verify` for details",
    "ORDERS_MISSING": "`quantagent orders list --run {run}` lists all orders of the run",
    "ORDER_UNKNOWN": "`quantagent orders list --run {run}` lists its {count} orders",
    "RUN_CHANGED": "`quantagent audit verify` and `quantagent audit regenerate` show what was changed",
    "RUN_NOT_ENDED": "repeat the command that began the run, then `quantagent audit bundle` it",
    # --- analysis ---
    "ANALYSES_FAILED": "`quantagent analyses list --failed` shows why, and `quantagent analyses make --retry` retries",
    "MODEL_UNAVAILABLE": "check that the model can be reached, and run the command again with --retry",
    "RECORDING_MISSING": "make a new analysis with `quantagent analyze`",
    "STRATEGY_CHANGED": "run `quantagent check-lookahead` if it was not changed",
    # --- projections ---
    "METRICS_MISSING": "`quantagent projections status` shows what the read models lack",
    "RUNS_MISSING": "`quantagent backtest` creates one",
    "RUN_UNKNOWN": "`quantagent runs list` names the {count} that exist",
    # --- ui.services ---
    "ANALYSES_FILE_INVALID": "`quantagent analyses export FILE` writes one",
    "ANALYSES_NOT_STORED": "`quantagent analyses list` names the variants, `quantagent analyses make` makes analyses",
    "ANALYSIS_UNKNOWN": "`quantagent analyses list` shows the ids",
    "ANALYSIS_WITHOUT_MODEL": "`quantagent check-lookahead` tries such variants",
    "SERIES_MISSING": "add some with `quantagent data fetch` or `quantagent data import`",
    "CATALOGUE_EMPTY": "run `quantagent data sample`, or import a file with "
    "`quantagent data import FILE --symbol S --timeframe {timeframe}`",
    "MODEL_CHANGED": "make new ones with --variant {model}",
    "MODEL_NOT_ACTIVE": "name one, or make one the default with `quantagent model activate NAME`",
    "MODEL_NOT_SAVED": "run `quantagent model save NAME --file {file}`, then activate NAME",
    "MODEL_UNKNOWN": "save one with `quantagent model save {name} --set model=MODEL`",
    "NO_COMMON_SYMBOL": "`quantagent analyses make` makes analyses",
    "NO_RUN_ENDED": "`quantagent backtest` makes one",
    "PORTFOLIO_HALF_MISSING": "give it with --risk-profile",
    "PROFILE_HALF_MISSING": "give a combined profile, or --profile and --risk-profile",
    "PROFILE_INVALID": "`quantagent profile show realistic` prints a complete one",
    "PROFILE_NOT_SAVED": "run `quantagent profile save NAME --file {file}`, then activate NAME",
    "PROVIDER_MISSING": "--provider NAME sets it too",
    "RISK_HALF_MISSING": "give it with --profile",
    "VARIANT_UNKNOWN": "`quantagent model list` names the saved models",
}


def sentence(error: QuantagentError) -> str:
    """The message of an error, followed by its remedy if the table has one for its code."""
    remedy = REMEDIES.get(error.code)
    if remedy is None:
        return str(error)
    return f"{str(error).removesuffix('.')}: {remedy.format(**error.fields)}."
