"""Puts the parts together: the one module that knows them all.

Everything above it (commands, pages, the daemon, the Python door) asks here for what it needs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg

from engine import clock
from engine.audit.anchors import Anchor
from engine.audit.signing import AnchoringState, anchoring_state, sign_head
from engine.core.errors import BadInput, StoreUnavailable
from engine.data import BarCatalogue
from engine.data.catalogue import PostgresCatalogue
from engine.store import Store, roles
from engine.store.connections import failure_reason, wait_for_server
from engine.store.embedded.files import default_home
from engine.store.migrations import migrate
from engine.store.postgres import PostgresStore
from engine.store.roles import Access
from projections.queries import Queries
from projections.runner import CountCallback, Runner, ignore_progress
from ui.settings import Settings, check_home, from_environment

ProgressCallback = Callable[[str, int, int], None]
"""Hears of progress: what is being done, how much is done, of how much."""


# What the database says to a login that may not write.
READ_ONLY = (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction)


def no_progress(what: str, done: int, total: int) -> None:
    del what, done, total


def print_to_stderr(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


class App(NamedTuple):
    """One opened system: the log, the bars, and how to reach the database for each kind of work.

    at_end: closes what is opened later, when the system is closed. by_role: how every role reaches the database, also
    where this system uses one of them only.
    """

    settings: Settings
    access: Access
    store: Store
    catalogue: BarCatalogue
    exit_stack: ExitStack | None = None
    by_role: Access | None = None

    @property
    def dsn(self) -> str:
        """The database, as who writes."""
        return self.access.writer

    @property
    def home(self) -> Path:
        """Where keys and anchors are kept, outside the database."""
        return self.settings.home or default_home()

    def runner(self) -> Runner:
        return Runner(self.store, self.catalogue, self.dsn)

    def queries(self, progress: CountCallback = ignore_progress) -> Queries:
        """The read tables, caught up with the log; says on stderr when they could not be."""
        runner = self.runner()
        try:
            runner.catch_up(progress)
        except READ_ONLY:
            print_to_stderr(f"warning: this login may read and not write, so that {_describe_lag(runner)}.")
        if incomplete := runner.describe_incomplete():
            print_to_stderr(f"warning: {incomplete.removesuffix('.')}: `quantagent projections status` shows why.")
        return Queries(self.access.reader)

    def anchor(self) -> Anchor | None:
        """Signs the head of the log outside the database; None while there is none."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            return sign_head(conn, self.home, clock.now())

    def anchor_status(self) -> AnchoringState:
        """The log's anchors at home, and what stands in the way of another one."""
        with psycopg.connect(self.access.auditor, autocommit=True) as conn:
            return anchoring_state(conn, self.home)


@contextmanager
def open_app(settings: Settings | None = None, warn: Callable[[str], None] = print_to_stderr) -> Generator[App]:
    """Opens the database (the embedded one is started if need be), sets it up if it is new, and closes it after.

    What was appended meanwhile is anchored at the end; `warn` hears when it could not be.
    """
    settings = settings or from_environment()
    with _access(settings) as access, PostgresStore(access.writer) as store, ExitStack() as exit_stack:
        app = App(settings, access, store, PostgresCatalogue(access.writer), exit_stack)
        try:
            yield app
        finally:
            if store.appended:
                _anchor_if_possible(app, warn)


@contextmanager
def open_audit(settings: Settings | None = None) -> Generator[App]:
    """The same system as an auditor has it: everything can be read, and nothing written."""
    settings = settings or from_environment()
    with _access(settings) as access, PostgresStore(access.auditor) as store, ExitStack() as exit_stack:
        yield App(settings, Access(*[access.auditor] * 4), store, PostgresCatalogue(access.auditor), exit_stack, access)


def _anchor_if_possible(app: App, warn: Callable[[str], None]) -> None:
    """The work is done and stored: that it could not be anchored now is told, and changes nothing else."""
    try:
        app.anchor()
    except (OSError, BadInput, psycopg.Error) as error:
        warn(f"warning: the log was not anchored at the end of this command: {failure_reason(error)}.")


@contextmanager
def _access(settings: Settings) -> Generator[Access]:
    check_home(settings.home or default_home(), embedded=settings.dsn is None)
    with _server(settings) as dsn:
        embedded = settings.dsn is None
        migrate(dsn, logins=embedded)
        access = roles.access(dsn, logins=embedded)
        if access.writer != dsn:
            roles.drop_read_models_of_others(dsn)
        yield access


@contextmanager
def _server(settings: Settings) -> Generator[str]:
    if settings.dsn:
        wait_for_server(settings.dsn, print_to_stderr)
        yield settings.dsn
        return
    from engine.store.embedded.postgres import EmbeddedPostgres

    with EmbeddedPostgres(settings.home or default_home()) as dsn:
        yield dsn


def _describe_lag(runner: Runner) -> str:
    """How far behind the log the read models are for a login that cannot bring them up to date."""
    try:
        lag = runner.status().lag
    except READ_ONLY:
        raise StoreUnavailable(
            "there are no read models yet and this login may not make them: give any command once as a login with "
            "the role quantagent_writer."
        ) from None
    return f"the read models are shown as they are, {lag:,} events behind the log"
