"""The Indicator agent's tools tell TA-Lib's values of the snapshot's bars, whatever a model asks."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, cast

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain import agents
from langchain.agents import AgentState
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.graph import StateGraph
from langgraph.prebuilt import ToolNode

from analysis.charting.indicators import Windows, defined_values
from analysis.charting.snapshot import Snapshot
from analysis.charting.snapshot import frame_from_snapshot as frame_of_snapshot
from analysis.charting.tools import LAST_BARS, TOOLS
from analysis.reports import significant
from tests.support.chart_snapshots import snapshot_from
from tests.support.frames import frame_of, scaled, walk_frame

NAMES = [each.name for each in TOOLS]
# What the reports call the values that the tools give at their own defaults.
REPORTED = {
    "macd": {"macd": "macd", "signal": "macd_signal", "histogram": "macd_histogram"},
    "rsi": {"rsi": "rsi"},
    "roc": {"roc": "roc"},
    "stochastic": {"k": "stoch_k", "d": "stoch_d"},
    "williams_r": {"williams_r": "willr"},
    "atr": {"atr": "atr"},
}
STILL = frame_of([100.0] * 5 + [120.0] * 60, above=0, below=0)


class State(AgentState[Any]):
    snapshot: Snapshot


# The library's own types are incomplete.
library = cast(Any, agents)


def node_of_tools() -> Any:
    graph = cast(Any, StateGraph)(State)
    graph.add_node("tools", ToolNode(TOOLS))
    graph.set_entry_point("tools")
    return graph.compile()


NODE = node_of_tools()


def ask(snapshot: Snapshot, *calls: tuple[str, dict[str, Any]]) -> list[ToolMessage]:
    """What the real tool node answers to a model that calls these tools at once."""
    asked: list[Any] = [{"name": name, "args": arguments, "id": str(n)} for n, (name, arguments) in enumerate(calls)]
    made = NODE.invoke({"messages": [AIMessage("", tool_calls=asked)], "snapshot": snapshot})
    return [message for message in made["messages"] if isinstance(message, ToolMessage)]


def no_arguments() -> dict[str, Any]:
    return {}


def told(snapshot: Snapshot, name: str, **arguments: int) -> dict[str, Any]:
    (message,) = ask(snapshot, (name, arguments))
    assert message.status == "success", message.content
    return json.loads(cast(str, message.content))


def spelled(value: float) -> str | None:
    number = significant(value)
    return None if number is None else f"{number:f}"


# --- Values -------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), bars=st.integers(1, 560), factor=st.sampled_from([1e-6, 1.0, 1e4]))
@settings(max_examples=25)
def test_values_at_the_defaults_are_those_of_the_reports(seed: int, bars: int, factor: float) -> None:
    snapshot = snapshot_from(scaled(walk_frame(seed, bars), factor))
    assert_reported(snapshot, bars)


@pytest.mark.parametrize("step", [20.0, -20.0])
def test_in_a_market_that_stands_still_for_a_while_too(step: float) -> None:
    closes = [100.0] * 5 + [100.0 + step] * 22 + [100.0 + n for n in range(12)]
    for bars in range(1, len(closes) + 1):
        assert_reported(snapshot_from(frame_of(closes[:bars], above=0, below=0)), bars)


def test_a_window_begins_where_it_begins_for_the_reports() -> None:
    bars = walk_frame(8, 900)
    for name in NAMES:
        long, whole = (told(snapshot_from(frame), name, period=100) for frame in (bars, bars.tail(500)))
        assert long == whole


def assert_reported(snapshot: Snapshot, bars: int) -> None:
    ends = range(max(0, bars - LAST_BARS), bars)
    # The reports' windows begin anew for each bar; a tool's one window is the last bar's.
    last = defined_values(Windows.of(frame_of_snapshot(snapshot), [bars - 1])).row(0, named=True)
    for message, name in zip(ask(snapshot, *((name, no_arguments()) for name in REPORTED)), REPORTED, strict=True):
        made = json.loads(cast(str, message.content))
        assert (made["first_bar"], made["last_bar"]) == (1 - len(ends), 0)
        for ours, reported in REPORTED[name].items():
            assert len(made["values"][ours]) == len(ends)
            assert made["values"][ours][-1] == spelled(last[reported]), (name, ours)


@given(seed=st.integers(0, 10**6), bars=st.integers(80, 300))
@settings(max_examples=10)
def test_earlier_values_are_what_was_last_when_they_were_new(seed: int, bars: int) -> None:
    frame = walk_frame(seed, bars)
    for name in NAMES:
        now, then = (told(snapshot_from(frame.head(end)), name)["values"] for end in (bars, bars - 9))
        for line in now:
            assert now[line][-10] == then[line][-1]


def test_bollinger_bands_are_the_mean_and_so_many_deviations_around_it() -> None:
    frame = walk_frame(3, 60)
    made = told(snapshot_from(frame), "bollinger", period=12, width=3, last=1)["values"]
    closes = frame["close"].tail(12)
    mean, deviation = cast(float, closes.mean()), cast(float, closes.std(ddof=0))
    expected = {"upper": mean + 3 * deviation, "middle": mean, "lower": mean - 3 * deviation}
    assert {name: float(values[0]) for name, values in made.items()} == pytest.approx(expected, rel=1e-7)


def test_a_range_shorter_or_longer_than_usual_stands_still_by_its_own_length() -> None:
    snapshot = snapshot_from(STILL)  # 60 bars at one price, after a rise.
    assert told(snapshot, "rsi", period=58, last=1)["values"]["rsi"] == [None]
    assert told(snapshot, "rsi", period=60, last=1)["values"]["rsi"] == ["100"]
    assert told(snapshot, "williams_r", period=60, last=1)["values"]["williams_r"] == ["0"]
    assert told(snapshot, "williams_r", period=59, last=2)["values"]["williams_r"] == ["0", None]
    made = told(snapshot, "stochastic", period=54, smooth_k=2, smooth_d=3, last=8)["values"]
    assert made["k"] == made["d"] == ["100"] * 2 + [None] * 6


@pytest.mark.parametrize("name", NAMES)
def test_what_is_still_warming_up_is_null_and_never_zero(name: str) -> None:
    made = told(snapshot_from(walk_frame(2, 2)), name)
    assert list(made["values"].values()) == [[None, None]] * len(made["values"])


# --- Arguments ----------------------------------------------------------------------------------------------------

REFUSED = [
    ("rsi", {"period": 1}, "period: Input should be greater than or equal to 2"),
    ("rsi", {"period": 101}, "period: Input should be less than or equal to 100"),
    ("rsi", {"last": 29}, "last: Input should be less than or equal to 28"),
    ("rsi", {"last": 0}, "last: Input should be greater than or equal to 1"),
    ("atr", {"period": "many"}, "period: Input should be a valid integer"),
    ("roc", {"period": 2.5}, "period: Input should be a valid integer"),
    ("bollinger", {"width": 5}, "width: Input should be less than or equal to 4"),
    ("bollinger", {"width": None}, "width: Input should be a valid integer"),
    ("stochastic", {"smooth_k": 0, "smooth_d": 99}, "smooth_k: Input should be greater than or equal to 1; smooth_d:"),
    ("macd", {"fast": 26}, "slow is 26 and must be greater than fast, which is 26"),
    ("macd", {"fast": 30, "slow": 10}, "slow is 10 and must be greater than fast, which is 30"),
    ("williams_r", {"period": 10**400}, "period: "),
]


@pytest.mark.parametrize(("name", "arguments", "reason"), REFUSED)
def test_arguments_out_of_bounds_are_answered_with_the_reason(
    name: str, arguments: dict[str, Any], reason: str
) -> None:
    (message,) = ask(snapshot_from(walk_frame(1, 60)), (name, arguments))
    assert message.status == "error"
    assert cast(str, message.content).startswith(f"No values: {reason}")
    assert len(message.content) < 300


def test_a_refused_call_does_not_spoil_the_others() -> None:
    snapshot = snapshot_from(walk_frame(1, 60))
    wrong, right = ask(snapshot, ("rsi", {"period": -1}), ("rsi", {}))
    assert (wrong.status, right.status) == ("error", "success")
    assert right.content == ask(snapshot, ("rsi", {}))[0].content


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-200, 200) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ASKED = ["period", "last", "fast", "slow", "signal", "smooth_k", "smooth_d", "width"]
NOT_ASKED = ["prices", "close", "symbol", "snapshot", "state", "runtime", "config", "run_manager", "callbacks", "self"]


@given(name=st.sampled_from(NAMES), arguments=st.dictionaries(st.sampled_from(ASKED + NOT_ASKED), junk, max_size=5))
@settings(max_examples=150)
def test_whatever_is_asked_the_answer_comes_of_the_snapshot_alone(name: str, arguments: dict[str, Any]) -> None:
    (message,) = ask(SNAPSHOT, (name, arguments))
    assert isinstance(message.content, str)
    if message.status == "error":
        assert message.content.startswith("No values: ")
        return
    made = json.loads(message.content)
    own = {key: made[key] for key in made if key not in {"indicator", "first_bar", "last_bar", "values"}}
    assert made == told(SNAPSHOT, name, **own, last=1 - made["first_bar"])
    known = [float(value) for line in made["values"].values() for value in line if value is not None]
    assert all(map(math.isfinite, known))


SNAPSHOT = snapshot_from(walk_frame(9, 130))


def test_a_model_sees_bounded_integers_and_no_way_to_bring_data() -> None:
    for each in TOOLS:
        schema = convert_to_openai_tool(each)["function"]
        assert schema["description"]
        properties = schema["parameters"]["properties"]
        assert "last" in properties
        for name, field in properties.items():
            assert field["type"] == "integer", name
            assert field["minimum"] >= 1
            assert field["maximum"] <= 100
            assert field["minimum"] <= field["default"] <= field["maximum"]
            assert field["description"]
        assert "runtime" not in properties


# --- An agent -----------------------------------------------------------------------------------------------------


class AsksForAll(BaseChatModel):
    """A model that calls every tool once, at once, and then has finished."""

    @property
    def _llm_type(self) -> str:
        return "asks-for-all"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        assert [convert_to_openai_tool(each)["function"]["name"] for each in tools] == NAMES
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        answered = any(isinstance(message, ToolMessage) for message in messages)
        calls: list[Any] = [] if answered else [{"name": name, "args": {}, "id": name} for name in NAMES]
        answer = AIMessage("done" if answered else "", tool_calls=calls)
        return ChatResult(generations=[ChatGeneration(message=answer)])


def test_an_agent_runs_model_tools_model_with_all_seven_at_once() -> None:
    agent = library.create_agent(AsksForAll(), TOOLS, state_schema=State)
    given_state = {"messages": [HumanMessage("What do the indicators say?")], "snapshot": SNAPSHOT}
    made = agent.invoke(given_state)
    assert [message.type for message in made["messages"]] == ["human", "ai", *["tool"] * 7, "ai"]
    answers = [message for message in made["messages"] if isinstance(message, ToolMessage)]
    assert [message.name for message in answers] == NAMES
    for name, message in zip(NAMES, answers, strict=True):
        assert json.loads(cast(str, message.content)) == told(SNAPSHOT, name)
    assert made["snapshot"] == SNAPSHOT


def test_bars_after_the_snapshot_are_not_there_to_be_asked_for() -> None:
    bars = walk_frame(5, 200)
    later = pl.concat([bars.head(120), scaled(bars.tail(80), 3)])
    calls = [(name, no_arguments()) for name in NAMES]
    ours, poisoned = (ask(snapshot_from(frame.head(120)), *calls) for frame in (bars, later))
    assert [each.content for each in ours] == [each.content for each in poisoned]
