"""Indicators that the Indicator agent may call as tools. A model chooses their periods and nothing else.

The bars come from the agent's state, key `snapshot`, which is no argument: a model can neither request other data nor
supply its own. Values are TA-Lib's over the whole window, as in `analysis.charting.indicators`; a missing value is
null, and an argument out of bounds is answered with a sentence instead of values.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeAlias, cast

import polars as pl
import polars_talib
from langchain.tools import BaseTool, ToolException, ToolRuntime, tool
from pydantic import Field, ValidationError

from analysis.charting.indicators import WINDOW_BARS
from analysis.charting.snapshot import Snapshot
from analysis.reports import significant

LAST_BARS = 28
REFUSALS_MAX = 3

Runtime: TypeAlias = ToolRuntime[Any, Any]
Period: TypeAlias = Annotated[int, Field(ge=2, le=100, description="How many bars it looks back.")]
Smoothing: TypeAlias = Annotated[int, Field(ge=1, le=20, description="How many values are averaged.")]
Width: TypeAlias = Annotated[int, Field(ge=1, le=4, description="Width of the band in standard deviations.")]
Last: TypeAlias = Annotated[
    int, Field(ge=1, le=LAST_BARS, description="Of how many bars values are given, up to the last one.")
]

_HIGH, _LOW, _CLOSE = pl.col("high"), pl.col("low"), pl.col("close")


@tool
def macd(runtime: Runtime, fast: Period = 12, slow: Period = 26, signal: Period = 9, last: Last = LAST_BARS) -> str:
    """MACD, its signal line and its histogram, in units of price. `slow` must be greater than `fast`."""
    if slow <= fast:
        raise ToolException(f"No values: slow is {slow} and must be greater than fast, which is {fast}.")
    lines = _talib("macd", _CLOSE, fastperiod=fast, slowperiod=slow, signalperiod=signal).struct
    named = {"macd": lines.field("macd"), "signal": lines.field("macdsignal"), "histogram": lines.field("macdhist")}
    return _indicator_json("macd", {"fast": fast, "slow": slow, "signal": signal}, runtime, last, named)


@tool
def rsi(runtime: Runtime, period: Period = 14, last: Last = LAST_BARS) -> str:
    """Relative strength index, 0 to 100."""
    still = _CLOSE.rolling_max(period + 1) == _CLOSE.rolling_min(period + 1)
    named = {"rsi": _unless(still, _talib("rsi", _CLOSE, timeperiod=period))}
    return _indicator_json("rsi", {"period": period}, runtime, last, named)


@tool
def roc(runtime: Runtime, period: Period = 10, last: Last = LAST_BARS) -> str:
    """Rate of change of the close over so many bars, in per cent."""
    return _indicator_json("roc", {"period": period}, runtime, last, {"roc": _talib("roc", _CLOSE, timeperiod=period)})


@tool
def stochastic(
    runtime: Runtime, period: Period = 14, smooth_k: Smoothing = 3, smooth_d: Smoothing = 3, last: Last = LAST_BARS
) -> str:
    """Stochastic oscillator, 0 to 100: slow %K (smoothed over `smooth_k` bars) and %D (%K over `smooth_d` bars)."""
    lines = _talib(
        "stoch", _HIGH, _LOW, _CLOSE, fastk_period=period, slowk_period=smooth_k, slowd_period=smooth_d
    ).struct
    still = _stands_still(period).cast(pl.Int8).rolling_max(smooth_k + smooth_d - 1) == 1
    named = {"k": _unless(still, lines.field("slowk")), "d": _unless(still, lines.field("slowd"))}
    parameters = {"period": period, "smooth_k": smooth_k, "smooth_d": smooth_d}
    return _indicator_json("stochastic", parameters, runtime, last, named)


@tool
def williams_r(runtime: Runtime, period: Period = 14, last: Last = LAST_BARS) -> str:
    """Williams' %R, -100 (at the low of the range) to 0 (at its high)."""
    values = _unless(_stands_still(period), _talib("willr", _HIGH, _LOW, _CLOSE, timeperiod=period))
    return _indicator_json("williams_r", {"period": period}, runtime, last, {"williams_r": values})


@tool
def atr(runtime: Runtime, period: Period = 14, last: Last = LAST_BARS) -> str:
    """Average true range, in units of price."""
    values = _talib("atr", _HIGH, _LOW, _CLOSE, timeperiod=period)
    return _indicator_json("atr", {"period": period}, runtime, last, {"atr": values})


@tool
def bollinger(runtime: Runtime, period: Period = 20, width: Width = 2, last: Last = LAST_BARS) -> str:
    """Bollinger bands around the mean close, in units of price."""
    deviations = float(width)
    lines = _talib("bbands", _CLOSE, timeperiod=period, nbdevup=deviations, nbdevdn=deviations).struct
    named = {name: lines.field(f"{name}band") for name in ("upper", "middle", "lower")}
    return _indicator_json("bollinger", {"period": period, "width": width}, runtime, last, named)


def _indicator_json(
    indicator: str, parameters: Mapping[str, int], runtime: Runtime, last: int, expressions: Mapping[str, pl.Expr]
) -> str:
    """JSON: what was computed, and a list per name with the values at the last bars, oldest first."""
    snapshot = cast(Snapshot, runtime.state["snapshot"])
    computed = _frame(snapshot).select(values.alias(name) for name, values in expressions.items()).tail(last)
    document = {
        "indicator": indicator,
        **parameters,
        "first_bar": 1 - computed.height,
        "last_bar": 0,
        "values": {name: _numbers(computed[name]) for name in expressions},
    }
    return json.dumps(document, separators=(",", ":"))


def _frame(snapshot: Snapshot) -> pl.DataFrame:
    # Without `frame_of`: seven tools at once would read the same 500 instants seven times.
    rows = snapshot["rows"][-WINDOW_BARS:]
    columns = {"high": 2, "low": 3, "close": 4}
    return pl.DataFrame({name: [float(row[column]) for row in rows] for name, column in columns.items()})


def _numbers(values: Iterable[float | None]) -> list[str | None]:
    known = (None if value is None else significant(value) for value in values)
    return [None if number is None else f"{number:f}" for number in known]


def _talib(name: str, *inputs: pl.Expr, **parameters: float) -> pl.Expr:
    # polars-talib carries no usable types.
    return cast(Callable[..., pl.Expr], getattr(polars_talib, name))(*inputs, **parameters)


def _stands_still(period: int) -> pl.Expr:
    """Where the last so many bars have no range, so that no place in it can be told; TA-Lib says 0 there."""
    return _HIGH.rolling_max(period) == _LOW.rolling_min(period)


def _unless(undefined: pl.Expr, values: pl.Expr) -> pl.Expr:
    return pl.when(undefined).then(None).otherwise(values)


def _refusal(error: Exception) -> str:
    wrong = error.errors(include_url=False, include_input=False) if isinstance(error, ValidationError) else []
    messages = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in wrong[:REFUSALS_MAX]]
    return f"No values: {'; '.join(messages) or 'the arguments cannot be read'}."


TOOLS: tuple[BaseTool, ...] = (macd, rsi, roc, stochastic, williams_r, atr, bollinger)

for each in TOOLS:
    # A model that errs is told so and may ask again; an exception would end the whole analysis.
    each.handle_validation_error = _refusal
    each.handle_tool_error = True
