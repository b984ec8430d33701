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
    # --- engine.store ---
    # --- engine.data ---
    # --- engine.audit ---
    # --- analysis ---
    "ANALYSES_FAILED": "`quantagent analyses list --failed` shows why, and `quantagent analyses make --retry` retries",
    "MODEL_UNAVAILABLE": "check that the model can be reached, and run the command again with --retry",
    "RECORDING_MISSING": "make a new analysis with `quantagent analyze`",
    "STRATEGY_CHANGED": "run `quantagent check-lookahead` if it was not changed",
    # --- projections ---
}


def sentence(error: QuantagentError) -> str:
    """The message of an error, followed by its remedy if the table has one for its code."""
    remedy = REMEDIES.get(error.code)
    if remedy is None:
        return str(error)
    return f"{str(error).removesuffix('.')}: {remedy.format(**error.fields)}."
