"""The log beside the library's own parts, in one run: append, replay, projection; and how long a verify takes.

The yardsticks are the `eventsourcing` library as its documentation uses it: its recorder, its mapper with its JSON
transcoder, its projection runner. Ours and theirs take turns, so that both meet the same noise.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import msgspec
import psycopg
from eventsourcing.application import Application
from eventsourcing.domain import DomainEvent
from eventsourcing.persistence import (
    DatetimeAsISO,
    DecimalAsStr,
    JSONTranscoder,
    Mapper,
    StoredEvent,
    Tracking,
    UUIDAsHex,
)
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore, PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Identifier

from engine.audit.verify import verify_log
from engine.core.events import BookEvent, Event, OrderFilled, OrderPlaced
from engine.core.upcasters import event_names
from engine.data.memory import MemoryCatalogue
from engine.store import ENGINE_VERSION, Batch, Cause, LogEntry, Meta, read_from
from engine.store.codec import encode_payload, encode_state, stored_name
from engine.store.hash_chain import Seal
from engine.store.postgres import PostgresStore, Recorder, datastore
from engine.trading.book import Book, evolve
from projections import tables
from projections.runner import Runner

CHUNK = 10_000
# With megabytes in one call the library's never returns: its pipeline waits for the server, and the server for it.
STOCK_CALL = 500
FILLED_CALL = 50
REPLAYED = 60_000
PROJECTED = 50_000
PROJECTED_BY_THE_LIBRARY = 1_000
VERIFIED = 1_000_000
ROUNDS = 11
AT = datetime(2024, 1, 1, tzinfo=UTC)


class Figure(NamedTuple):
    """A rate, and how it stands to a yardstick of the same run."""

    what: str
    rate: float
    unit: str
    ratio: str


class Rates(NamedTuple):
    """Units per second of each contender, and how often the first is the second, as the median over the rounds."""

    ours: float
    theirs: float
    ratio: float


Prepared = Callable[[], Callable[[], int]]
"""Makes what a round needs, untimed, and returns the work to be timed, which says how much it did."""


def side_by_side(ours: Prepared, theirs: Prepared, rounds: int = ROUNDS) -> Rates:
    """They take turns, and turns in going first; the first round of each is not counted."""
    pairs = [(rate(ours), rate(theirs)) if n % 2 else (rate(theirs), rate(ours))[::-1] for n in range(rounds + 1)][1:]
    return Rates(
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(a / b for a, b in pairs),
    )


def rate(prepare: Prepared) -> float:
    work = prepare()
    gc.collect()
    began = time.perf_counter()
    done = work()
    return done / (time.perf_counter() - began)


# --- Append ---------------------------------------------------------------------------------------------------------


class Unsealed(Recorder):
    """Our recorder without its chain, for the comparison only: such a log could not be verified.

    The trigger that refuses an append without its seal is dropped from the bench's database.
    """

    def __init__(self, datastore: PostgresDatastore) -> None:
        super().__init__(datastore)
        with self.datastore.get_connection() as conn:
            conn.execute("DROP TRIGGER IF EXISTS check_sealed ON quantagent.append_turn")

    def _seal(self, curs: psycopg.Cursor[Any], seal: Seal) -> None:
        pass


def rows(events: Sequence[Event], count: int) -> list[StoredEvent]:
    """So many rows of a new stream, as they are stored."""
    stream = uuid4()
    meta = Meta("book:bench", AT, "bench", "", "", ENGINE_VERSION)
    stored = [(stored_name(event), encode_state(encode_payload(event), meta)) for event in events]
    return [StoredEvent(stream, n + 1, *stored[n % len(stored)]) for n in range(count)]


def inserting(recorder: PostgresApplicationRecorder, events: Sequence[Event], call: int) -> Prepared:
    def prepare() -> Callable[[], int]:
        new = rows(events, CHUNK)

        def work() -> int:
            for start in range(0, CHUNK, call):
                recorder.insert_events(new[start : start + call])
            return CHUNK

        return work

    return prepare


def appending(store: PostgresStore, events: Sequence[Event]) -> Prepared:
    """From facts to the disk: spelled, sent, sealed, committed."""

    def prepare() -> Callable[[], int]:
        facts = [events[n % len(events)] for n in range(CHUNK)]
        stream = f"bench:{uuid4()}"

        def work() -> int:
            store.append([Batch(stream, 0, facts)], Cause("bench"))
            return CHUNK

        return work

    return prepare


# --- Replay ---------------------------------------------------------------------------------------------------------


def library_event(kind: type[Event]) -> type[DomainEvent]:
    """An event of ours as one declares it with the library: a frozen dataclass with the same fields."""
    fields = {field.name: object for field in msgspec.structs.fields(kind)}
    return type(f"Library{kind.__name__}", (DomainEvent,), {"__annotations__": fields, "__module__": __name__})


LIBRARY_EVENTS = {kind: library_event(kind) for kind in BookEvent.__args__}
# The library finds a class by its module and name.
globals().update({kind.__name__: kind for kind in LIBRARY_EVENTS.values()})


def library_mapper() -> Mapper[UUID]:
    transcoder = JSONTranscoder()
    for transcoding in (UUIDAsHex(), DecimalAsStr(), DatetimeAsISO()):
        transcoder.register(transcoding)
    return Mapper(transcoder)


def as_domain_event(fact: Event, stream: UUID, version: int) -> DomainEvent:
    fields = {name: getattr(fact, name) for name in fact.__struct_fields__}
    values = msgspec.to_builtins(fields, builtin_types=(Decimal, datetime))
    return LIBRARY_EVENTS[type(fact)](stream, version, AT, **values)


def replaying_by_the_library(recorder: PostgresApplicationRecorder) -> Callable[[], int]:
    """Pages and mapper; folds nothing."""
    mapper = library_mapper()

    def work() -> int:
        count = last = 0
        while page := recorder.select_notifications(last, 5_000, inclusive_of_start=False):
            for notification in page:
                mapper.to_domain_event(notification)
            count, last = count + len(page), page[-1].id
        return count

    return work


def replaying(store: PostgresStore) -> Callable[[], int]:
    """Pages, decode, and the book itself."""

    def work() -> int:
        book, count = Book(), 0
        for row in read_from(store):
            if isinstance(row.event, BookEvent):
                book = evolve(book, row.event)
            count += 1
        return count

    return work


# --- Projection by the library --------------------------------------------------------------------------------------


class View(PostgresTrackingRecorder):
    """A table of fills, written as the library's documentation has it: the row and its position in one transaction."""

    def __init__(self, datastore: Any, **kwargs: Any) -> None:
        super().__init__(datastore, **kwargs)
        self.sql_create_statements.append(
            SQL("CREATE TABLE IF NOT EXISTS {}.bench_fills (order_id text, at timestamptz, price numeric)").format(
                Identifier(self.datastore.schema)
            )
        )
        self.insert = SQL("INSERT INTO {}.bench_fills VALUES (%s, %s, %s)").format(Identifier(self.datastore.schema))

    def add(self, event: Any, tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as curs:
            self._insert_tracking(curs, tracking)
            curs.execute(self.insert, (event.order_id, event.at, event.price))


class StockFills(Projection[View]):
    name = "bench_view"
    topics = ()

    def process_event(self, domain_event: Any, tracking: Tracking) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self.view.add(domain_event, tracking)


def projecting_by_the_library(dsn: str, fills: Sequence[OrderFilled]) -> Prepared:
    """The stock ProjectionRunner over so many fills."""
    given = conninfo_to_dict(dsn)

    def prepare() -> Callable[[], int]:
        env = {
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_SCHEMA": f"bench_{uuid4().hex[:8]}",
            **{f"POSTGRES_{name.upper()}": str(given.get(name) or "") for name in ("dbname", "host", "port", "user")},
            "POSTGRES_PASSWORD": str(given.get("password") or ""),
        }
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(SQL("CREATE SCHEMA {}").format(Identifier(env["POSTGRES_SCHEMA"])))
        app = Application[UUID](env)
        stream, last = uuid4(), 0
        for start in range(0, PROJECTED_BY_THE_LIBRARY, STOCK_CALL):
            events = [
                as_domain_event(fills[n % len(fills)], stream, n + 1)
                for n in range(start, min(start + STOCK_CALL, PROJECTED_BY_THE_LIBRARY))
            ]
            last = (app.recorder.insert_events([app.mapper.to_stored_event(event) for event in events]) or [0])[-1]

        def work() -> int:
            with ProjectionRunner(
                application_class=Application[UUID], projection_class=StockFills, view_class=View, env=env
            ) as runner:
                runner.wait(last, timeout=120)
            app.close()
            return PROJECTED_BY_THE_LIBRARY

        return work

    return prepare


# --- Projection by ours ---------------------------------------------------------------------------------------------


class Fills:
    """The same work as `StockFills`, as a projection of ours: id, time and price of every fill, and its key."""

    name = "books"
    consumes = frozenset(event_names([OrderFilled]))
    streams = frozenset[str]()

    empty = dict.fromkeys(tables.FILLS.names)

    def apply(self, recorded: LogEntry) -> Iterator[tuple[tables.Table, tables.Row]]:
        fill = recorded.event
        if isinstance(fill, OrderFilled):
            yield (
                tables.FILLS,
                self.empty
                | {
                    "environment": "backtest",
                    "run_id": recorded.stream,
                    "order_id": fill.order_id,
                    "at": fill.at,
                    "price": fill.price,
                    "position": recorded.position,
                },
            )

    def flush(self) -> tuple[tuple[tables.Table, tables.Row], ...]:
        return ()

    def reset(self) -> None:
        """Remembers nothing."""


def projecting(dsn: str, make: Callable[[], Runner]) -> Prepared:
    """The whole log into new tables; making those is not timed."""

    def prepare() -> Callable[[], int]:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("DROP SCHEMA IF EXISTS bench CASCADE")
        runner = make()
        runner.describe_incomplete()
        return runner.catch_up

    return prepare


# --- The table ------------------------------------------------------------------------------------------------------


def measure(dsn: str, facts: Sequence[Event]) -> Iterator[Figure]:
    """`facts` are a book's events. Leaves the log empty."""
    orders = [fact for fact in facts if isinstance(fact, OrderPlaced | OrderFilled)]
    fills = [fact for fact in orders if isinstance(fact, OrderFilled)]
    stock = PostgresApplicationRecorder(datastore(dsn), events_table_name="stock_events")
    stock.create_table()
    unsealed, sealed = Unsealed(datastore(dsn)), Recorder(datastore(dsn))
    bare = side_by_side(inserting(unsealed, orders, CHUNK), inserting(stock, orders, STOCK_CALL))
    yield Figure("append, rows, chain off", bare.ours, "events/s", f"{bare.ratio:.1f} x the stock recorder")
    _begin_anew(dsn)
    chained = side_by_side(inserting(sealed, orders, CHUNK), inserting(unsealed, orders, CHUNK))
    cost = 100 * (1 / chained.ratio - 1)
    yield Figure("append, rows, chain on", chained.ours, "events/s", f"the chain costs {cost:.0f} %")
    _begin_anew(dsn)
    with PostgresStore(dsn) as store:
        whole = side_by_side(appending(store, orders), inserting(stock, orders, STOCK_CALL))
        yield Figure(
            "append, events to disk", whole.ours, "events/s", f"{whole.ratio:.1f} x the stock recorder without encoding"
        )
        _begin_anew(dsn)
        yield _replay(dsn, store, stock, facts)
        yield _verification(dsn, store, orders)
        yield _projection(dsn, store, fills)
    for recorder in (stock, unsealed, sealed):
        recorder.datastore.close()


def _replay(
    dsn: str,
    store: PostgresStore,
    stock: PostgresApplicationRecorder,
    facts: Sequence[Event],
) -> Figure:
    mapper, stream = library_mapper(), uuid4()
    with psycopg.connect(dsn) as conn:
        conn.execute("TRUNCATE quantagent.stock_events")
    # Not timed, and the verdicts among them are long: see STOCK_CALL.
    for start in range(0, REPLAYED, FILLED_CALL):
        events = [as_domain_event(facts[n % len(facts)], stream, n + 1) for n in range(start, start + FILLED_CALL)]
        stock.insert_events([mapper.to_stored_event(event) for event in events])
    for n in range(REPLAYED // len(facts)):
        store.append([Batch(f"book:bench-{n}", 0, facts)], Cause("bench"))
    found = side_by_side(lambda: replaying(store), lambda: replaying_by_the_library(stock), rounds=3)
    return Figure("replay: read, decode, fold", found.ours, "events/s", f"{found.ratio:.1f} x stock pages and mapper")


def _projection(dsn: str, store: PostgresStore, fills: Sequence[OrderFilled]) -> Figure:
    """One row an event, in both: what pages and COPY make of it."""
    _begin_anew(dsn)
    chunk = [fills[n % len(fills)] for n in range(CHUNK)]
    for n in range(PROJECTED // CHUNK):
        store.append([Batch(f"bench:{n}", 0, chunk)], Cause("bench"))
    ours = projecting(dsn, lambda: Runner(store, MemoryCatalogue(), dsn, "bench", [Fills()]))
    found = side_by_side(ours, projecting_by_the_library(dsn, fills), rounds=3)
    _begin_anew(dsn)
    return Figure(
        "projection, a row an event", found.ours, "events/s", f"{found.ratio:.0f} x the stock ProjectionRunner"
    )


def _verification(dsn: str, store: PostgresStore, orders: Sequence[Event]) -> Figure:
    """A log of a million events, every link of it."""
    _begin_anew(dsn)
    chunk = [orders[n % len(orders)] for n in range(CHUNK)]
    for n in range(VERIFIED // CHUNK):
        store.append([Batch(f"bench:{n}", 0, chunk)], Cause("bench"))
    with psycopg.connect(dsn) as conn:
        began = time.perf_counter()
        verdict = verify_log(conn)
        seconds = time.perf_counter() - began
    assert verdict.finding is None
    assert verdict.events == VERIFIED
    _begin_anew(dsn)
    return Figure("`audit verify`", VERIFIED / seconds, "events/s", f"1,000,000 events in {seconds:.1f} s")


def _begin_anew(dsn: str) -> None:
    """Empties the log, past its triggers, and makes it another one: unsealed rows would stand in the way."""
    with psycopg.connect(dsn) as conn:
        conn.execute("SET session_replication_role = replica")
        conn.execute("TRUNCATE quantagent.events, quantagent.seals")
        conn.execute("UPDATE quantagent.log_identity SET log_id = gen_random_uuid()")
