"""Facts are stored for ever: every stored shape still loads, to the same bytes, and nothing else does.

A file in `golden_events/` is never edited. A changed shape gets a new version, and a new file beside the old one;
`test_evolution` is about reading the old.
"""

from __future__ import annotations

import sys
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import msgspec
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.errors import DamagedEvent, UnknownEvent
from engine.core.events import EVENT_TYPES, Event, OrderFilled, OrderRejected, RunFailed
from engine.core.upcasters import NAMES, TYPES, event_names
from engine.store import Batch, Cause, Meta, read_from
from engine.store.codec import decode_entry, encode_payload, encode_state, stored_name, stream_id
from engine.store.memory import MemoryStore
from engine.store.postgres import PostgresStore
from tests.support.golden_events import AT, GOLDEN, META, load, payload
from tests.support.strategies import amounts

FILES = sorted(GOLDEN.glob("*.json"))


@pytest.mark.parametrize("name", NAMES.values())
def test_a_stored_fact_still_loads_and_encodes_to_the_same_bytes(name: str) -> None:
    row = load(name, payload(name))
    assert stored_name(row.event) == name
    assert encode_payload(row.event) == payload(name)


@pytest.mark.parametrize("name", [file.stem for file in FILES])
def test_a_stored_fact_keeps_its_name_and_bytes_whatever_it_is_read_as(name: str) -> None:
    row = load(name, payload(name))
    assert (row.name, row.payload, row.stream, row.meta) == (name, payload(name), META.stream, META)


@pytest.mark.parametrize("name", [file.stem for file in FILES])
def test_a_stored_fact_holds_every_field_of_its_shape(name: str) -> None:
    fields = msgspec.json.decode(payload(name), type=dict[str, msgspec.Raw])
    assert tuple(fields) == TYPES[name].__struct_fields__


def test_every_event_has_a_stored_example_and_a_name_of_its_own() -> None:
    assert {file.stem for file in FILES} == set(TYPES)
    assert len(set(NAMES.values())) == len(NAMES) == len(EVENT_TYPES)
    assert set(EVENT_TYPES) <= set(TYPES.values())
    assert len(set(TYPES.values())) == len(TYPES)
    assert event_names([OrderFilled, OrderRejected]) == ("OrderFilled.v1", "OrderFilled.v2", "OrderRejected.v1")


def test_every_fact_that_is_declared_can_be_stored() -> None:
    assert set(Event.__subclasses__()) == set(TYPES.values())


@pytest.mark.parametrize("name", [file.stem for file in FILES])
def test_an_unknown_field_is_refused(name: str) -> None:
    with pytest.raises(DamagedEvent, match="unknown field `surprise`"):
        load(name, payload(name)[:-1] + b',"surprise":1}')


@pytest.mark.parametrize("name", [file.stem for file in FILES])
def test_a_missing_field_is_refused(name: str) -> None:
    fields = msgspec.json.decode(payload(name), type=dict[str, msgspec.Raw])
    first = next(iter(fields))
    without = {key: value for key, value in fields.items() if key != first}
    with pytest.raises(DamagedEvent, match=f"missing required field `{first}`"):
        load(name, msgspec.json.encode(without))


@pytest.mark.parametrize(
    "name",
    ["OrderFilled.v3", "OrderFilled.v0", "OrderFilled", "orderfilled.v1", "", "os:system", "engine.core.events:Fact"],
)
def test_an_unknown_name_is_refused_with_its_position(name: str) -> None:
    with pytest.raises(UnknownEvent, match="at position 77 is unknown") as refused:
        load(name, payload("OrderFilled.v1"), 77)
    assert (refused.value.name, refused.value.position) == (name, 77)


@pytest.mark.parametrize("name", ["poison:Event", "RunStarted.v3"])
def test_a_stored_name_never_imports_a_module_and_an_unknown_one_stops_every_reader(
    name: str, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "poison.py").write_text("raise SystemExit('a stored name ran code')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    state = encode_state(payload("RunFailed.v1"), META)
    with psycopg.connect(dsn) as conn:
        conn.execute("SET session_replication_role = replica")
        row = conn.execute(
            "INSERT INTO quantagent.events (originator_id, originator_version, topic, state) VALUES (%s, 1, %s, %s) "
            "RETURNING notification_id",
            (stream_id("book:r"), name, state),
        ).fetchone()
    assert row is not None
    with PostgresStore(dsn) as store:
        reads = (
            store.read_all,
            lambda: store.read_all(names=[name]),
            lambda: list(store.read("book:r")),
            lambda: store.read_many(["book:r"]),
            lambda: list(read_from(store)),
        )
        for read in reads:
            with pytest.raises(UnknownEvent, match=f"'{name}' at position") as refused:
                read()
            assert refused.value.position == row[0]
    assert "poison" not in sys.modules


# --- The stored pair ----------------------------------------------------------------------------------------------


@given(st.text(), st.text(), st.sampled_from(["", ',{"stream":', '"},{"stream":"x"}]', "\\", "\ud7ff{"]))
def test_any_text_in_fact_and_metadata_comes_back(reason: str, actor: str, odd: str) -> None:
    event = RunFailed("r", reason + odd)
    meta = msgspec.structs.replace(META, actor=odd + actor, stream=odd)
    row = decode_entry(1, 1, "RunFailed.v1", encode_state(encode_payload(event), meta))
    assert (row.event, row.meta, row.stream, row.payload) == (event, meta, odd, encode_payload(event))


@given(st.data())
@settings(max_examples=500)
def test_a_damaged_state_is_refused_unless_it_is_still_a_pair_of_fact_and_metadata(data: st.DataObject) -> None:
    """The stores cut a state in two; here the whole of it is parsed by its type, and the answers are the same."""
    state = bytearray(encode_state(b'{"run_id":"r","reason":"w{}[],"}', META))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(state) - 1))
        state[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from([b"", *map(bytes, zip(b'",:[]{} \\x0\xff'))])
        )
    try:
        expected = msgspec.json.decode(state, type=tuple[RunFailed, Meta])
    except (msgspec.DecodeError, UnicodeDecodeError):
        with pytest.raises(DamagedEvent):
            decode_entry(1, 1, "RunFailed.v1", bytes(state))
    else:
        row = decode_entry(1, 1, "RunFailed.v1", bytes(state))
        assert (row.event, row.meta) == expected


# --- Times and amounts --------------------------------------------------------------------------------------------


def rejected(required: str = '"1"', at: str = '"2024-01-01T00:00:00Z"') -> Event:
    body = f'{{"order_id":"o","symbol":"A","at":{at},"reason":"w","required":{required},"available":"1"}}'
    return load("OrderRejected.v1", body.encode()).event


@pytest.mark.parametrize("at", ["2024-01-01T00:00:00", "2024-01-01T00:00:00+01:00", "2024-01-01T00:00:00-00:30"])
def test_an_instant_that_is_not_in_utc_is_refused(at: str) -> None:
    with pytest.raises(DamagedEvent, match=r"OrderRejected\.at is not in UTC"):
        rejected(at=f'"{at}"')
    with pytest.raises(ValueError, match=r"OrderRejected\.at is not in UTC"):
        OrderRejected("o", "A", datetime.fromisoformat(at), "w", Decimal(1), Decimal(1))


@pytest.mark.parametrize("name", [file.stem for file in FILES])
def test_every_instant_and_amount_of_every_fact_is_checked(name: str) -> None:
    whole = msgspec.json.decode(payload(name), type=dict[str, msgspec.Raw])
    for field in msgspec.structs.fields(TYPES[name]):
        for kind, wrong in ((datetime, b'"2024-01-01T00:00:00+01:00"'), (Decimal, b'"1.10"')):
            if field.type in (kind, kind | None):
                body = msgspec.json.encode({**whole, field.name: msgspec.Raw(wrong)})
                with pytest.raises(DamagedEvent, match=rf"\.{field.name} is not"):
                    load(name, body)


@pytest.mark.parametrize("amount", ["1.10", "-0", "NaN", "Infinity", "1E+2", "0.0000000000001"])
def test_an_amount_that_has_another_spelling_is_refused(amount: str) -> None:
    with pytest.raises(DamagedEvent):
        rejected(f'"{amount}"')
    with pytest.raises(ValueError, match="is not"):
        OrderRejected("o", "A", AT, "w", Decimal(amount), Decimal(1))


@pytest.mark.parametrize("number", ["0.30000000000000004", "1.10", "1e400", "123456789.1234567890123"])
def test_a_json_number_that_is_no_exact_amount_is_refused(number: str) -> None:
    with pytest.raises(DamagedEvent):
        rejected(number)


@pytest.mark.parametrize("number", ["0.1", "1.5", "3", "-7.000000000001"])
def test_a_json_number_is_read_digit_by_digit_and_never_as_a_float(number: str) -> None:
    event = rejected(number)
    assert isinstance(event, OrderRejected)
    assert event.required == Decimal(number)
    assert encode_payload(event) == encode_payload(rejected(f'"{number}"'))


@given(amounts)
def test_an_amount_survives_storage_exactly(amount: Decimal) -> None:
    event = OrderRejected("o", "A", AT, "w", amount, amount)
    again = load("OrderRejected.v1", encode_payload(event)).event
    assert again == event
    assert encode_payload(again) == encode_payload(event)


def test_no_event_has_a_place_for_a_float() -> None:
    """A walk over all types that can be reached from a stored event."""
    seen: list[msgspec.inspect.Type] = []

    def walk(kind: object) -> None:
        if isinstance(kind, msgspec.inspect.Type):
            if any(kind is other for other in seen):
                return
            seen.append(kind)
            for name in kind.__struct_fields__:
                walk(getattr(kind, name))
        elif isinstance(kind, msgspec.inspect.Field):
            walk(kind.type)
        elif isinstance(kind, tuple):
            for each in kind:  # type: ignore[reportUnknownVariableType]
                walk(each)  # type: ignore[reportUnknownArgumentType]

    for kind in msgspec.inspect.multi_type_info(TYPES.values()):
        walk(kind)
    assert any(isinstance(kind, msgspec.inspect.DecimalType) for kind in seen)
    assert not any(isinstance(kind, msgspec.inspect.FloatType | msgspec.inspect.AnyType) for kind in seen)


def test_facts_cannot_be_changed() -> None:
    event = rejected()
    with pytest.raises(AttributeError, match="immutable"):
        event.reason = "another"  # type: ignore[attr-defined]


def test_what_memory_stores_is_what_it_reads() -> None:
    store = MemoryStore()
    facts = [load(file.stem, payload(file.stem)).event for file in FILES]
    store.append([Batch("book:all", 0, facts)], Cause("test"))
    assert [row.event for row in store.read("book:all")] == facts
