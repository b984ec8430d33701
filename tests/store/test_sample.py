"""The bundled sample: complete, exact, and there after one call."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from engine.core.market import Timeframe
from engine.data import Added, BarCatalogue, StoredSeries
from engine.data.catalogue import PostgresCatalogue
from engine.data.memory import MemoryCatalogue
from engine.data.sample import SAMPLE_FILES, load_sample
from tests.support.paths import ROOT

H1 = Timeframe.H1
DIGEST = "93f004e37ad49ac1b80acfb4e812c375c64ec4411e639c4c0f8f484a8e913bb5"
FIRST, LAST = datetime(2017, 7, 2, 21, tzinfo=UTC), datetime(2017, 12, 29, 22, tzinfo=UTC)


@pytest.fixture(params=["memory", "postgres"])
def catalogue(request: pytest.FixtureRequest) -> BarCatalogue:
    """Each kind of catalogue in turn, empty."""
    return MemoryCatalogue() if request.param == "memory" else PostgresCatalogue(request.getfixturevalue("dsn"))


def test_the_sample_is_there_after_one_call_and_unchanged_after_two(catalogue: BarCatalogue) -> None:
    assert load_sample(catalogue) == {"BTC-USD": Added(4321, 0), "EUR-USD": Added(3105, 0)}
    assert catalogue.list_series() == [
        StoredSeries("BTC-USD", H1, FIRST, LAST, 4321),
        StoredSeries("EUR-USD", H1, FIRST, LAST, 3105),
    ]
    assert load_sample(catalogue) == {"BTC-USD": Added(0, 4321), "EUR-USD": Added(0, 3105)}
    assert [each.source for each in catalogue.imports()] == ["sample BTC-USD_1h.csv", "sample EUR-USD_1h.csv"]


def test_the_sample_is_named_by_its_digest(catalogue: BarCatalogue) -> None:
    load_sample(catalogue)
    assert catalogue.digest(["BTC-USD", "EUR-USD"], H1) == DIGEST


def test_the_documentation_gives_the_digest_of_the_sample() -> None:
    assert DIGEST in (ROOT / "docs" / "data.md").read_text()


def test_every_price_of_the_sample_is_stored_as_its_file_writes_it(catalogue: BarCatalogue) -> None:
    load_sample(catalogue)
    for symbol, path in SAMPLE_FILES.items():
        with path.open(newline="") as file:
            written = [row["close"] for row in csv.DictReader(file)]
        assert [f"{bar.close:f}" for bar in catalogue.bars(symbol, H1)] == written


def test_the_euro_rests_at_the_weekend_and_bitcoin_does_not() -> None:
    catalogue = MemoryCatalogue()
    load_sample(catalogue)
    saturdays = {
        symbol: sum(bar.opened_at.weekday() == 5 for bar in catalogue.bars(symbol, H1)) for symbol in SAMPLE_FILES
    }
    assert saturdays == {"BTC-USD": 25 * 24, "EUR-USD": 0}


def test_loading_the_sample_twice_takes_a_few_statements_and_not_one_for_each_bar(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[object] = []

    def noted(method: Any) -> Any:
        def execute(cursor: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
            statements.append(query)
            return method(cursor, query, *args, **kwargs)

        return execute

    for name in ("execute", "executemany", "copy"):
        monkeypatch.setattr(psycopg.Cursor, name, noted(getattr(psycopg.Cursor, name)))
    catalogue = PostgresCatalogue(dsn)
    load_sample(catalogue)
    load_sample(catalogue)
    assert sum("COPY" in str(query) for query in statements) == 2 * len(SAMPLE_FILES)
    assert len(statements) <= 60
