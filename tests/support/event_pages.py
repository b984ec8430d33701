"""Writes docs/events.md: every event with its names, fields and an example, and how an event changes its shape.

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
        "One run's life, from the question to the end.",
        (events.RunRequested, events.RunStarted, events.RunEnded, events.RunFailed),
    ),
    Section(
        "analysis:<analysis_id>",
        "Attempts at one opinion on exactly those bars. The first `AnalysisMade` is the opinion; all runs share it. A "
        "run that consulted a failure before that stays with it: it names the version that it read.",
        (events.AnalysisMade, events.AnalysisFailed),
    ),
    Section("signals:<digest>", "Somebody else's signals, imported from a file.", (events.SignalsImported,)),
    Section(
        "book:<run_id>",
        "Everything a run decided, in order. The book (cash, positions, working orders) is the fold of these events, "
        "and the run's digest is theirs.",
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
        "How a paper run that was taken up again went on to see more of its bars.",
        (events.FeedResumed,),
    ),
    Section(
        "control:<account>",
        "What persons and checks tell an account, beside the `TradingHalted` and `TradingResumed` that its books hold "
        "too, each from the instant at which it took effect there.",
        (events.AlertRaised,),
    ),
    Section(
        "profile:<name>",
        "The versions of one profile, and where it is the default.",
        (events.ProfileSaved, events.ProfileActivated),
    ),
    Section(
        "model:<name>",
        "The versions of how one model is reached and asked, and where it is the default.",
        (events.ModelSaved, events.ModelActivated),
    ),
    Section(
        "log:<log_id>",
        "What became of the log itself: of a copy, a log of its own; of a lost file of anchors, a new one.",
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
    """Every event stands in a section, every field has a meaning, and every meaning a field."""
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
    """A field's type as a reader of the JSON sees it."""
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

Every fact the log can hold. This page is generated from `engine/core/events.py` by `make docs`.

An event is one complete fact in the past tense. It is stored for ever and never changed; what the system knows is what
it finds by reading events from the first to the last.

**What is stored.** A row has the stream's id, the event's version in it, its name, a position in the log, and a state:
the JSON pair `[payload, metadata]`. The payload is the fact. The metadata explains it and is no part of it: digests and
comparisons see version, name and payload only, so that the same decisions made on another day have the same digest.
Seals cover the whole row.

**Canonical bytes.** A payload is compact UTF-8 JSON with its fields in the order of the tables below and no field left
out. Amounts are strings that hold an exact decimal of at most 12 places in its one spelling (`"1.5"`, `"1E-8"`; never
`1.50`, `-0`, `NaN` or a float), instants are in UTC and end with `Z`. What is spelled otherwise, lacks a field that has
no default, or has a field more is refused when it is read, with its position.

**Streams.** A stream has a name, like `book:<run_id>`, and is stored under the uuid5 of that name:
`{EXAMPLE_STREAM}` under `{stream_id(EXAMPLE_STREAM)}`. Versions count the events of one stream, 1, 2, 3,
without gaps; two writers that both want to be version 3 find out there. Positions order all events of the log, always
rising, with gaps where a transaction was rolled back.

**Names.** `OrderFilled.v1` is the first shape of `OrderFilled`. A name is looked up in a table and never imports
anything. A name or version that the table lacks stops the reader with its position: an engine that skipped what it
does not know would show a book that never was.

## Metadata

Beside every payload, whatever the event.
"""


def _worked_example() -> str:
    former, newest = both = upcasters.event_names([events.RunStarted])
    return f"""## How an event changes shape: a worked example

`RunStarted` began without `lock_digest`. Then somebody who reproduced a run on another machine wanted to know whether
the same versions were installed there. Logs with `{former}` exist, and stay as they are:

```json
{_golden(former)}
```

Five steps made `{newest}`. Today's shapes are in `engine/core/events.py`, the former ones and the way between them in
`engine/core/upcasters.py`.

1. **Keep the old shape** under a name that ends with its version. Nothing constructs it again.

```python
{_source("RunStartedV1")}
```

2. **Give the event its new shape.** Its class keeps the plain name, so that all code means the newest.

```python
{_source("RunStarted")}
```

3. **Say how the old becomes the new:** a pure function, which knows nothing but the old event. What was not recorded
then is not known now; here an empty digest says so. A third version would be reached from the second, step by step.

```python
{_source("run_started_v2")}
```

4. **Enter both in the tables.** The names follow from them: `{former}` and `{newest}`.

```python
{_source("FORMER_SHAPES")}

{_source("UPCASTERS")}
```

5. **Add a golden file,** `tests/golden_events/{newest}.json`, beside the old one, which is never edited; say what
the new field means in `tests/support/event_meanings.py`; run `make docs`.

From then on:

- Reading `{former}` gives a `RunStarted` with an empty `lock_digest`. The stored name and the stored payload come with
  it unchanged, so that digests, seals and comparisons see what was written.
- Appending writes `{newest}`; a former shape has no name to be written under.
- A reader that filters by name asks for `names([RunStarted])`, which are all of them: {_join_names(both)}.
- An older engine that meets `{newest}` stops with its position, and says that a newer version can read it.

Appending the same fact twice is success only while it has the same name and payload. A run that an older engine began
would therefore clash with what this one writes, so `engine.runtime.runs.begin` reads first and adopts the start it
finds. Whoever changes an event that is written again after a restart must see to the same. The events of a book are
compared and digested by what is stored: a new shape there is another digest for the same decisions, and belongs in a
new version of the engine.

| forgotten | caught by |
| --- | --- |
| the old shape, or a field edited in passing | `tests/store/test_events.py`: the old golden file no longer loads |
| the upcaster, or an entry in a table | `tests/store/test_evolution.py`: every former shape leads to the next |
| the golden file | `tests/store/test_events.py`: every name has a stored example |
| the meaning of a field, or this page | `tests/cli/test_documents.py`: the page is what its generator prints |
| adopting what an older engine began | `tests/store/test_evolution.py`: a run begun by an older engine is completed |
"""


def _join_names(names: Iterable[str]) -> str:
    return " and ".join(f"`{name}`" for name in names)


def _source(name: str) -> str:
    """What the sources say where a class, function or table of that name is made."""
    for module in (events, upcasters):
        text = Path(str(module.__file__)).read_text(encoding="utf-8")
        for node in ast.parse(text).body:
            target = node.target if isinstance(node, ast.AnnAssign) else node
            if name in (getattr(target, "name", None), getattr(target, "id", None)):
                return ast.get_source_segment(text, node) or ""
    raise LookupError(f"no event is called {name}")
