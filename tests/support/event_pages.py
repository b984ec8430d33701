"""Generator of docs/events.md: every event with its names, fields and an example, and the evolution of event shapes.

Types, defaults, examples and code come from the sources, meanings from `tests.support.event_meanings`. A field without
a meaning, a meaning without a field and an event without a section are errors.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import msgspec

from engine.core import config, events, market, upcasters
from engine.core.events import EVENT_TYPES, Event
from engine.store import Meta
from engine.store.codec import stream_id
from tests.support.event_meanings import MEANINGS
from tests.support.paths import ROOT

EXAMPLE_STREAM = "book:20240131"


class Section(NamedTuple):
    """The events of one kind of stream."""

    stream: str
    about: str
    kinds: tuple[type[Event], ...]


SECTIONS = (
    Section(
        "run:<run_id>",
        "The lifecycle of one run, from the request to the end.",
        (events.RunRequested, events.RunStarted, events.RunEnded, events.RunFailed),
    ),
    Section(
        "analysis:<analysis_id>",
        "Attempts at one analysis of a fixed window of bars. The first `AnalysisMade` is the analysis that all runs "
        "share. A run that consulted an earlier failure records the version that it read, and keeps to it.",
        (events.AnalysisMade, events.AnalysisFailed),
    ),
    Section("signals:<digest>", "External signals, imported from a file.", (events.SignalsImported,)),
    Section(
        "book:<run_id>",
        "All decisions of a run, in order. The book (cash, positions, working orders) is the fold of these events, and "
        "the run's digest covers them.",
        (
            events.BookOpened,
            events.AnalysesConsulted,
            events.SignalRaised,
            events.RiskDecided,
            events.OrderPlaced,
            events.OrderFilled,
            events.OrderRejected,
            events.OrderCanceled,
            events.OrderExpired,
            events.OrderReplaced,
            events.CashAdjusted,
            events.PositionsMarked,
            events.TradingHalted,
            events.TradingResumed,
            events.TradingEnded,
        ),
    ),
    Section(
        "slot:<account>:<timeframe>:<due_at>",
        "One due instant of the paper daemon, claimed and completed once.",
        (events.SlotClaimed, events.SlotCompleted, events.SlotFailed),
    ),
    Section(
        "feed:<run_id>",
        "Continuations of a paper run with further bars.",
        (events.FeedResumed,),
    ),
    Section(
        "control:<account>",
        "Commands of operators and alerts of checks for an account. The stream also holds `TradingHalted` and "
        "`TradingResumed`, which its books repeat with the instant at which they took effect.",
        (events.AlertRaised,),
    ),
    Section(
        "profile:<name>",
        "The versions of one profile, and the environments for which it is the default.",
        (events.ProfileSaved, events.ProfileActivated),
    ),
    Section(
        "model:<name>",
        "The versions of one model preset, and the environments for which it is the default.",
        (events.ModelSaved, events.ModelActivated),
    ),
    Section(
        "log:<log_id>",
        "Events about the log itself: adoption of a copy as an independent log, and a new start of the anchor file.",
        (events.LogAdopted, events.AnchoringRestarted),
    ),
)

VALUES: tuple[type[msgspec.Struct], ...] = (
    events.Check,
    market.Instrument,
    market.SessionHours,
    config.RunConfig,
    config.Costs,
    config.Entry,
    config.Shorting,
    config.Override,
    events.OrderTerms,
    events.Protection,
    events.GraphWork,
    events.ModelCall,
    config.Sizing,
    config.RiskLimits,
    config.Exits,
)


def document() -> str:
    """`docs/events.md`."""
    check_complete()
    lines = [_INTRODUCTION, _table(Meta), ""]
    for section in SECTIONS:
        lines += [f"## `{section.stream}`", "", section.about, ""]
        for kind in section.kinds:
            lines += list(_event(kind))
    lines += ["## Values inside events", ""]
    for kind in VALUES:
        lines += [f"### {kind.__name__}", "", _about(kind), "", _table(kind), ""]
    return "\n".join([*lines, _worked_example()])


def check_complete() -> None:
    """Check that every event has a section, every field a meaning, and every meaning a field."""
    listed = [kind for section in SECTIONS for kind in section.kinds]
    assert sorted(map(_name, listed)) == sorted(map(_name, EVENT_TYPES)), "an event belongs in one section"
    used = {_key(kind, field) for kind in (*listed, *VALUES, Meta) for field in kind.__struct_fields__}
    assert used == set(MEANINGS), f"tests/support/event_meanings.py: {sorted(used ^ set(MEANINGS))}"


# --- One event ----------------------------------------------------------------------------------------------------


def _event(kind: type[Event]) -> Iterator[str]:
    *former, newest = upcasters.event_names([kind])
    stored = f"Stored as `{newest}`" + "".join(f", before as `{name}`" for name in reversed(former)) + "."
    yield from (f"### {kind.__name__}", "", f"{stored} {_about(kind)}".rstrip(), "", _table(kind), "")
    yield from ("```json", _golden(newest), "```", "")


def _table(kind: type[msgspec.Struct]) -> str:
    rows = ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
    for field in msgspec.structs.fields(kind):
        default = "" if field.default is msgspec.NODEFAULT else f"`{msgspec.json.encode(field.default).decode()}`"
        rows.append(f"| {field.name} | {_type_words(field.type)} | {default} | {MEANINGS[_key(kind, field.name)]} |")
    return "\n".join(rows)


def _key(kind: type, field: str) -> str:
    own = f"{kind.__name__}.{field}"
    return own if own in MEANINGS else field


def _type_words(kind: Any) -> str:
    """Return the JSON type of a field, as text."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(_type_words(each) for each in inside)
    if origin is Literal:
        return " or ".join(f"`{each}`" for each in inside)
    if origin is tuple:
        if inside[-1] is Ellipsis:
            return f"list of {_type_words(inside[0])}"
        return f"[{', '.join(_type_words(each) for each in inside)}]"
    if issubclass(kind, Enum):
        return " or ".join(f"`{each.value}`" for each in kind)
    if issubclass(kind, msgspec.Struct):
        return f"[{kind.__name__}](#{kind.__name__.lower()})"
    return _TYPE_WORDS[kind]


_TYPE_WORDS: dict[type, str] = {
    str: "text",
    int: "whole number",
    bool: "true or false",
    Decimal: "decimal string",
    datetime: "UTC instant",
    date: "day",
    NoneType: "null",
}


def _about(kind: type) -> str:
    return " ".join((kind.__doc__ or "").split())


def _name(kind: type) -> str:
    return kind.__name__


def _golden(name: str) -> str:
    return (ROOT / f"tests/golden_events/{name}.json").read_text(encoding="utf-8").strip()


# --- The pages' texts ---------------------------------------------------------------------------------------------

_INTRODUCTION = f"""# Events

All events of the log. This page is generated from `engine/core/events.py` by `make docs`.

An event records one complete fact in the past tense. It is stored permanently and never changed. All state is derived
by reading events from first to last.

**Stored rows.** A row has the stream's id, the event's version in that stream, its name, its position in the log, and
a state: the JSON pair `[payload, metadata]`. The payload is the event itself. Digests and comparisons use version, name
and payload only, so that the same decisions on another day have the same digest. Seals cover the whole row.

**Canonical bytes.** A payload is compact UTF-8 JSON with its fields in the order of the tables below. Amounts are
strings with an exact decimal of at most 12 places in canonical form (`"1.5"`, `"1E-8"`; never `1.50`, `-0`, `NaN` or a
float). Instants are in UTC and end with `Z`. A payload in another form, without a required field, or with an unknown
field is rejected on reading, and the error names its position.

**Streams.** A stream has a name, like `book:<run_id>`, and is stored under the uuid5 of that name:
`{EXAMPLE_STREAM}` under `{stream_id(EXAMPLE_STREAM)}`. Versions number the events of one stream, 1, 2, 3,
without gaps; if two writers append the same version, the second gets a version conflict. Positions order all events of
the log. They always increase, with gaps where a transaction was rolled back.

**Names.** `OrderFilled.v1` is the first shape of `OrderFilled`. Names are looked up in a table; nothing is imported by
name. An unknown name or version stops the reader with an error that names the position, because a book without the
unknown events would be wrong.

## Metadata

Every event has this metadata.
"""


def _worked_example() -> str:
    former, newest = both = upcasters.event_names([events.RunStarted])
    return f"""## Changing the shape of an event: a worked example

`RunStarted` originally had no `lock_digest`. It was added so that a run reproduced on another machine can be checked
for the same installed versions. Logs with `{former}` exist and stay as they are:

```json
{_golden(former)}
```

Five steps created `{newest}`. The current shapes are in `engine/core/events.py`, the former shapes and the upcasters in
`engine/core/upcasters.py`.

1. **Keep the old shape** under a name that ends with its version. New code never constructs it.

```python
{_source("RunStartedV1")}
```

2. **Change the event.** The class keeps the plain name, so that all code uses the latest shape.

```python
{_source("RunStarted")}
```

3. **Write the upcaster:** a pure function of the old event. Values that were not recorded are unknown, shown here by an
empty digest. A third version would be derived from the second, one version at a time.

```python
{_source("run_started_v2")}
```

4. **Register both in the tables.** They determine the names `{former}` and `{newest}`.

```python
{_source("FORMER_SHAPES")}

{_source("UPCASTERS")}
```

5. **Add a golden file,** `tests/golden_events/{newest}.json`; the old one is never edited. Document the new field in
`tests/support/event_meanings.py` and run `make docs`.

Result:

- Reading `{former}` returns a `RunStarted` with an empty `lock_digest`. The stored name and payload are passed along
  unchanged, so that digests, seals and comparisons use the original bytes.
- Appending writes `{newest}`; a former shape cannot be appended.
- A reader that filters by name requests `event_names([RunStarted])`, which returns all of them: {_join_names(both)}.
- An older engine stops at `{newest}` with an error that names the position and recommends a newer version.

Appending the same event twice succeeds only if name and payload are equal. A run that an older engine started would
therefore conflict with the new shape, so `engine.runtime.runs.start_run` reads the stream first and keeps the stored
start. Any event that is written again after a restart needs the same care. Book events are compared and digested as
stored: a new shape changes the digest of the same decisions, and requires a new engine version.

| omission | detected by |
| --- | --- |
| the old shape, or an accidental change of a field | `tests/store/test_events.py`: the old golden file fails to load |
| the upcaster, or an entry in a table | `tests/store/test_evolution.py`: every former shape leads to the next |
| the golden file | `tests/store/test_events.py`: every name has a stored example |
| the meaning of a field, or this page | `tests/cli/test_documents.py`: the page equals the generator's output |
| support for a run of an older engine | `tests/store/test_evolution.py`: a run begun by an older engine is completed |
"""


def _join_names(names: Iterable[str]) -> str:
    return " and ".join(f"`{name}`" for name in names)


def _source(name: str) -> str:
    """Return the source of the class, function or table with that name."""
    for module in (events, upcasters):
        text = Path(str(module.__file__)).read_text(encoding="utf-8")
        for node in ast.parse(text).body:
            target = node.target if isinstance(node, ast.AnnAssign) else node
            if name in (getattr(target, "name", None), getattr(target, "id", None)):
                return ast.get_source_segment(text, node) or ""
    raise LookupError(f"no event is called {name}")
