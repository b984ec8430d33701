"""Pages read from one moment of the tables, whatever is appended and projected meanwhile."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from projections import queries as module
from projections.queries import Queries
from projections.schemas import CURRENT_SCHEMA
from tests.support.seeded import END, START
from ui.app import open_app
from ui.dashboard.views import as_of_text
from ui.services.backtest import BacktestRequest, run_backtest
from ui.services.replay import run_replay
from ui.settings import Settings


def test_a_snapshot_does_not_move_while_a_run_is_made_and_projected(sample_dsn: str) -> None:
    with open_app(Settings(None, sample_dsn, "tester")) as app:
        run_backtest(app, BacktestRequest(symbols=("BTC-USD",), start=START, end=END, variant="rules"))
        with Queries(sample_dsn) as queries:
            with queries.snapshot() as at:
                before = queries.runs()
                run_replay(app, before[0]["run_id"], "classic")
                assert queries.runs() == before
                with queries.snapshot() as inside:
                    assert inside == at
            assert at.position == at.figures
            assert len(queries.runs()) == 2
            with queries.snapshot() as later:
                assert later.position == app.store.last_position() > at.position


def test_where_a_projection_has_stopped_both_positions_are_told(
    sample_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SNAPSHOT_PAUSES_S", ())
    with open_app(Settings(None, sample_dsn, "tester")) as app:
        app.runner().catch_up()
    with psycopg.connect(sample_dsn) as conn:
        query = SQL("UPDATE {} SET position = 7 WHERE projection = 'books'").format(
            Identifier(CURRENT_SCHEMA, "progress")
        )
        conn.execute(query)
    with Queries(sample_dsn) as queries, queries.snapshot() as at:
        assert (at.position, at.figures) == (7, 0)
    assert "event 7; figures and curve as of event 0" in as_of_text(at)
