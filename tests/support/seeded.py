"""A database with one small run in it that has trades and signals of every verdict, for what shows runs."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from engine.store.migrations import migrate
from ui.app import open_app
from ui.services.backtest import BacktestRequest, run_backtest
from ui.services.data import import_sample
from ui.settings import Settings

# A cap below what confidence asks for reduces; reversals are denied.
PROFILE = '{"limits": {"position_pct": 3, "reversal": false, "daily_loss_pct": 5}}'
START, END = datetime(2017, 11, 1, tzinfo=UTC), datetime(2017, 11, 16, tzinfo=UTC)


@contextmanager
def new_database(server: str) -> Generator[str]:
    """A migrated database, dropped after."""
    name = f"test_{uuid4().hex}"
    dsn = make_conninfo(server, dbname=name)
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
        try:
            migrate(dsn)
            yield dsn
        finally:
            conn.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


def seed(dsn: str, folder: Path) -> str:
    """Imports the sample, runs a backtest over two weeks of it, and returns the run's id."""
    profile = folder / "strict.json"
    profile.write_text(PROFILE)
    with open_app(Settings(home=None, dsn=dsn, actor="tester")) as app:
        import_sample(app)
        request = BacktestRequest(start=START, end=END, profile=str(profile), label="strict")
        return run_backtest(app, request).result.request.run_id
