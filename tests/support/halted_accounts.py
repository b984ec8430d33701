"""A paper account that is halted and resumed slot by slot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from engine.core.events import BookEvent
from engine.runtime import halts, runs
from tests.support.databases import database
from ui.app import App, open_app
from ui.daemon.paper import DueSlot, PaperDaemon, PaperPlan
from ui.services.backtest import BacktestRequest, run_backtest
from ui.services.data import import_sample
from ui.settings import Settings

ANNA = halts.operator_actor("anna")


# Without a halt: an entry at the 4th close, left at the 7th; one at the 62nd, and its stop is hit in the 64th bar.
SYMBOLS = ("BTC-USD",)


START, END = datetime(2017, 8, 15, tzinfo=UTC), datetime(2017, 8, 18, tzinfo=UTC)


@pytest.fixture(scope="session")
def analysed(server: str, template: str) -> Iterator[str]:
    """The name of a database with bars and with the analyses of the range: others are copied from it."""
    with database(server, template) as dsn:
        with open_app(Settings(None, dsn, "anna")) as opened:
            import_sample(opened)
            run_backtest(opened, BacktestRequest(SYMBOLS, start=START, end=END))
        yield str(conninfo_to_dict(dsn)["dbname"])


@pytest.fixture
def app(server: str, analysed: str, tmp_path: Path) -> Iterator[App]:
    with database(server, analysed) as dsn, open_app(Settings(tmp_path, dsn, "anna")) as opened:
        yield opened


class Killed(BaseException):
    """The process dies here."""


class Driven(PaperDaemon):
    """A daemon during whose run something happens, each at its instant: right before that slot is done."""

    happens: dict[datetime, Callable[[], object]]

    def _do(self, due: DueSlot) -> None:
        self.happens.get(due.slot.due_at, lambda: None)()
        super()._do(due)


def drive(
    app: App, happens: dict[datetime, Callable[[], object]], end: datetime = END, account: str = "paper"
) -> Driven:
    """Runs a daemon until it ends or dies."""
    daemon = Driven(app, PaperPlan(account, SYMBOLS, start=START, end=end))
    daemon.happens = happens
    with suppress(Killed):
        daemon.run()
    return daemon


def book(app: App, run_id: str) -> list[BookEvent]:
    return [row.event for row in app.store.read(runs.book_stream(run_id)) if isinstance(row.event, BookEvent)]


def resume(app: App) -> None:
    halts.resume_trading(app.store, "paper", "go on", ANNA)


def slot(n: int) -> datetime:
    return START + n * timedelta(hours=1)


def drive_with(app: App, profile: str | None, end: datetime) -> str:
    """Runs a daemon under a profile and stops it before the slot at `end`, if that is not the feed's."""
    daemon = Driven(app, PaperPlan(symbols=SYMBOLS, start=START, end=END, profile=profile))

    def stop() -> None:
        daemon.request_stop()

    daemon.happens = {end: stop} if end < END else {}
    daemon.run()
    return daemon.run_id
