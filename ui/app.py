"""Composition root: the one module that assembles all parts.

Commands, pages, the daemon and the Python interface get what they need from here.
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
"""Callback of progress: label, number done, total."""


# Errors of the database for a login without the right to write.
READ_ONLY = (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction)


def no_progress(what: str, done: int, total: int) -> None:
    del what, done, total


def print_to_stderr(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


class App(NamedTuple):
    """An open system: the log, the bars, and the connections for each kind of work.

    exit_stack: closes what is opened later, when the system is closed. by_role: the connection of every role, also if
    this system uses only one of them.
    """

    settings: Settings
    access: Access
    store: Store
    catalogue: BarCatalogue
    exit_stack: ExitStack | None = None
    by_role: Access | None = None

    @property
    def dsn(self) -> str:
        """Return the DSN of the writer."""
        return self.access.writer

    @property
    def home(self) -> Path:
        """Return the folder of keys and anchors, outside the database."""
        return self.settings.home or default_home()

    def runner(self) -> Runner:
        return Runner(self.store, self.catalogue, self.dsn)

    def queries(self, progress: CountCallback = ignore_progress) -> Queries:
        """Return the read tables, caught up with the log; warn on stderr if they could not be."""
        runner = self.runner()
        try:
            runner.catch_up(progress)
        except READ_ONLY:
            print_to_stderr(f"warning: this login may not write, so that {_describe_lag(runner)}.")
        if incomplete := runner.describe_incomplete():
            print_to_stderr(f"warning: {incomplete.removesuffix('.')}: `quantagent projections status` shows why.")
        return Queries(self.access.reader)

    def anchor(self) -> Anchor | None:
        """Sign the head of the log outside the database and return the anchor; None for an empty log."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            return sign_head(conn, self.home, clock.now())

    def anchor_status(self) -> AnchoringState:
        """Return the log's anchors at home, and the reason that prevents another one."""
        with psycopg.connect(self.access.auditor, autocommit=True) as conn:
            return anchoring_state(conn, self.home)


@contextmanager
def open_app(settings: Settings | None = None, warn: Callable[[str], None] = print_to_stderr) -> Generator[App]:
    """Open the database, set it up if it is new, and close it afterwards; start the embedded one if necessary.

    Appended events are anchored at the end; `warn` is called if that failed.
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
    """Open the system as an auditor: everything can be read and nothing written."""
    settings = settings or from_environment()
    with _access(settings) as access, PostgresStore(access.auditor) as store, ExitStack() as exit_stack:
        yield App(settings, Access(*[access.auditor] * 4), store, PostgresCatalogue(access.auditor), exit_stack, access)


def _anchor_if_possible(app: App, warn: Callable[[str], None]) -> None:
    """Anchor the log. A failure is only a warning, because the work is already stored."""
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
    """Return the lag of the read models as a phrase, for a login that cannot update them."""
    try:
        lag = runner.status().lag
    except READ_ONLY:
        raise StoreUnavailable(
            "there are no read models yet and this login may not create them: run any command once as a login with "
            "the role quantagent_writer."
        ) from None
    return f"the read models are shown as they are, {lag:,} events behind the log"
