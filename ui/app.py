"""Puts the parts together: the one module that knows them all.

Everything above it (commands, pages, the daemon, the Python door) asks here for what it needs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import psycopg

from analysis.analyst import ensure_analyses
from engine import clock
from engine.audit.anchors import Anchor
from engine.audit.regenerate import dataset_digest
from engine.audit.signing import AnchoringState, anchoring_state, sign_head
from engine.core.config import RunConfig
from engine.core.errors import BadInput, NotFound, StoreUnavailable
from engine.core.events import Environment, RunRequested, RunStarted
from engine.core.market import Bar, Instrument, Symbol, Timeframe
from engine.core.money import ZERO
from engine.core.upcasters import event_names
from engine.data import BarCatalogue
from engine.data.catalogue import PostgresCatalogue
from engine.data.signals import ImportedAnalyst, check_signals_fit, load_signals, read_signals, save_signals
from engine.runtime import runs
from engine.runtime.replay import check_replayable, commands_of_run, load_stored_analyses
from engine.runtime.session import Analyst
from engine.store import Store, read_from, roles
from engine.store.connections import failure_reason, wait_for_server
from engine.store.embedded.files import default_home
from engine.store.migrations import migrate
from engine.store.postgres import PostgresStore
from engine.store.roles import Access
from engine.trading.circuit_breakers import Command
from projections.queries import Queries
from projections.runner import CountCallback, Runner, ignore_progress
from ui.environment_lock import lock_digest
from ui.services import profile_files, profiles
from ui.services.analysts import SpendingTracker, find_analyst
from ui.settings import Settings, check_home, from_environment
from ui.suggestions import did_you_mean

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
            print_to_stderr(f"warning: {incomplete}")
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


class BacktestRequest(NamedTuple):
    """What a backtest asks. Without bounds: all bars.

    Without symbols: the profile's universe, or all that the catalogue holds in the timeframe. Without profiles: those
    in force. Without a variant: the model that is active, else the rules. budget: US dollars for what models are asked.
    retry: ask models again where they failed before.
    """

    symbols: Sequence[Symbol] = ()
    timeframe: Timeframe = Timeframe.H1
    start: datetime | None = None
    end: datetime | None = None
    profile: str | None = None
    variant: str = ""
    signals: Path | None = None
    label: str = ""
    risk_profile: str | None = None
    budget: Decimal | None = None
    retry: bool = False


class RunReport(NamedTuple):
    """A finished run, how many analyses were made for it and how many found stored, and where its profile is from.

    analyses_failed: how many of them are no opinion; cost: of those made, in US dollars; notices: what a person should
    know of the analyses, such as bars that were too few for more than a HOLD.
    """

    result: runs.RunResult
    analyses_made: int
    analyses_read: int
    profile_description: str
    notices: tuple[str, ...] = ()
    analyses_failed: int = 0
    cost: Decimal = ZERO


class ResolvedRequest(NamedTuple):
    """A question resolved against the catalogue: the very bars, their digest and range, by when all of it was known,
    and the frozen configuration."""

    selected: profiles.SelectedProfile
    config: RunConfig
    bars: list[list[Bar]]
    dataset_digest: str
    start: datetime
    end: datetime
    known_at: datetime


def run_backtest(app: App, request: BacktestRequest, on_progress: ProgressCallback = no_progress) -> RunReport:
    """Makes the analyses that are missing, runs the session over the bars, and brings the read models up to date."""
    resolved = resolve(app, request)
    if request.signals is not None:
        file = read_signals(request.signals)
        check_signals_fit(file, resolved.bars[: len(resolved.config.symbols)])
        save_signals(app.store, app.dsn, file, app.settings.actor)
        requested = _record_request(app, resolved, file.variant, request.label)
        result = _run_session(app, requested, resolved.bars, ImportedAnalyst(file), on_progress)
        return RunReport(result, 0, 0, resolved.selected.description)
    total, spent = sum(map(len, resolved.bars)), SpendingTracker()
    variant = find_analyst(app, request.variant, Environment.BACKTEST, budget=request.budget, progress=spent.update)
    requested = _record_request(app, resolved, variant.name, request.label)
    analyses = ensure_analyses(
        app.store,
        app.catalogue.as_known_at(requested.known_at),
        resolved.config.symbols,
        resolved.config.timeframe,
        request.start,
        request.end,
        actor=app.settings.actor,
        variant=variant,
        progress=lambda done: on_progress(spent.label, done, total),
        retry=request.retry,
        read_time=_analyses_read_at(app, requested),
    )
    result = _run_session(app, requested, resolved.bars, analyses, on_progress)
    return RunReport(
        result,
        analyses.made,
        analyses.already_stored,
        resolved.selected.description,
        tuple(analyses.notices),
        analyses.failed,
        spent.cost,
    )


def _analyses_read_at(app: App, requested: RunRequested) -> Callable[[datetime], datetime | None]:
    """A backtest has read all its analyses when it starts: asked again, it goes on with those."""
    rows = app.store.read(runs.run_stream(requested.run_id))
    at = next((row.meta.recorded_at for row in rows if isinstance(row.event, RunStarted)), None)
    return lambda close: at


def _record_request(app: App, resolved: ResolvedRequest, variant: str, label: str) -> RunRequested:
    """The run of a question. Where it was asked before, its opinions too are of what was known then: of the bars before
    its first, which are not part of its name, others may have been learned since."""
    requested = runs.request(
        Environment.BACKTEST,
        resolved.config,
        profile=resolved.selected.name,
        dataset_digest=resolved.dataset_digest,
        variant=variant,
        start=resolved.start,
        end=resolved.end,
        label=label,
        known_at=resolved.known_at,
    )
    return runs.stored_request(app.store, requested)


def run_replay(
    app: App,
    run: str,
    profile: str | None = None,
    on_progress: ProgressCallback = no_progress,
    risk_profile: str | None = None,
    label: str = "",
) -> RunReport:
    """Runs the stored analyses of a run again, under its own configuration or another profile. Makes no analysis."""
    source = find_source(app, run)
    config, name, description = source.config, source.profile, f"profile {source.profile} (of the run)"
    if profile is not None or risk_profile is not None:
        selected = profiles.select_profile(app.store, profile, risk_profile)
        config = _resolve_config(app, selected.profile, config.instruments, config.timeframe)
        name, description = selected.name, selected.description
    result = runs.result_of(app.store, source.run_id)
    # A paper run was requested before its end was known, and may have gone on since.
    end = result.ended.ended_at if result and source.environment is Environment.PAPER else source.end
    source_bars = runs.bars_seen(app.catalogue, app.store, source, source.config.data_symbols, end)
    if result and result.ended.reason:
        # Of the bars after its early end it has consulted no analysis.
        end = result.ended.ended_at
    bars = runs.bars_seen(app.catalogue, app.store, source, config.data_symbols, end)
    check_replayable(app.store, source, dataset_digest(source_bars, config.timeframe))
    total = sum(map(len, bars))
    analyst = load_stored_analyses(
        app.store,
        source,
        lambda variant: load_signals(app.store, app.dsn, variant),
        lambda done: on_progress("stored analyses", done, total),
    )
    requested = runs.request(
        Environment.REPLAY,
        config,
        profile=name,
        dataset_digest=dataset_digest(bars, config.timeframe),
        variant=source.variant,
        start=source.start,
        end=end,
        label=label,
        of_run=source.run_id,
        known_at=source.known_at,
        # A run of a version that froze none has the sessions that are known now.
        sessions=runs.hours_of(app.store, source) or None,
    )
    operator_commands = commands_of_run(app.store, source)
    return RunReport(_run_session(app, requested, bars, analyst, on_progress, operator_commands), 0, total, description)


DEMO = "demo"
"""The label of replays that the demo makes: nobody asked for them as a run of their own."""
LATEST = "latest"


def find_run(app: App, prefix: str) -> RunRequested:
    """The run whose id begins with `prefix`; `latest` is the newest that a user requested, no replay of the demo's."""
    if prefix != LATEST:
        return runs.find_run_by_prefix(app.store, prefix)
    wanted = (run for run in _newest_first(app) if (run.environment, run.label) != (Environment.REPLAY, DEMO))
    return next(wanted, None) or runs.latest_run(app.store)


def find_source(app: App, prefix: str) -> RunRequested:
    """The run to replay; `latest` is the newest backtest or paper run that has ended."""
    if prefix != LATEST:
        return runs.find_run_by_prefix(app.store, prefix)
    known = list(_newest_first(app)) or [runs.latest_run(app.store)]
    originals = (run for run in known if run.environment is not Environment.REPLAY)
    ended = next((run for run in originals if runs.result_of(app.store, run.run_id)), None)
    if ended is None:
        raise NotFound("no backtest or paper run has ended yet: `quantagent backtest` makes one.")
    return ended


def _newest_first(app: App) -> Iterator[RunRequested]:
    rows = list(read_from(app.store, event_names([RunRequested])))
    return (row.event for row in reversed(rows) if isinstance(row.event, RunRequested))


def resolve(app: App, request: BacktestRequest, environment: Environment = Environment.BACKTEST) -> ResolvedRequest:
    selected = profiles.select_profile(app.store, request.profile, request.risk_profile, environment)
    symbols = tuple(request.symbols) or selected.profile.universe or all_symbols(app, request.timeframe)
    instruments = [app.catalogue.instrument(symbol) for symbol in symbols]
    config = _resolve_config(app, selected.profile, instruments, request.timeframe)
    fed = config.data_symbols
    _check_bars_exist(app, fed, request.timeframe)
    known_at = app.catalogue.known_at()
    known = app.catalogue.as_known_at(known_at)
    bars = [known.bars(symbol, request.timeframe, request.start, request.end) for symbol in fed]
    return ResolvedRequest(
        selected=selected,
        config=config,
        bars=bars,
        dataset_digest=known.digest(fed, request.timeframe, request.start, request.end),
        start=request.start or min(series[0].opened_at for series in bars),
        end=request.end or max(series[-1].closed_at for series in bars),
        known_at=known_at,
    )


def _check_bars_exist(app: App, symbols: Sequence[Symbol], timeframe: Timeframe) -> None:
    """Raises `NotFound` for the first symbol without bars, with the one that may have been meant."""
    listing = app.catalogue.list_series()
    stored = {each.symbol for each in listing if each.timeframe is timeframe}
    for symbol in symbols:
        if symbol not in stored:
            wanted = f"{timeframe} bars of {symbol}{did_you_mean(symbol, stored)}"
            available = ", ".join(f"{each.symbol} {each.timeframe}" for each in listing) or "no bars yet"
            remedy = "Bring some with `quantagent data fetch` or `import`."
            raise NotFound(f"there are no {wanted}; the catalogue holds {available}. {remedy}")


def _resolve_config(
    app: App, profile: profile_files.Profile, instruments: Sequence[Instrument], timeframe: Timeframe
) -> RunConfig:
    rates = [app.catalogue.instrument(rate) for rate in profile_files.rates_needed(profile, instruments)]
    return profile_files.resolve_profile(profile, instruments, timeframe, rates)


def all_symbols(app: App, timeframe: Timeframe) -> tuple[Symbol, ...]:
    """The symbols that there are bars of. Raises `NotFound` without any."""
    symbols = tuple(series.symbol for series in app.catalogue.list_series() if series.timeframe is timeframe)
    if not symbols:
        raise NotFound(
            f"the catalogue holds no {timeframe} bars: run `quantagent data sample`, or import a file with "
            "`quantagent data import FILE --symbol S --timeframe 1h`."
        )
    return symbols


def _run_session(
    app: App,
    requested: RunRequested,
    bars: Sequence[Sequence[Bar]],
    analyst: Analyst,
    on_progress: ProgressCallback,
    commands: Sequence[Command] = (),
) -> runs.RunResult:
    total = sum(map(len, bars))
    result = runs.execute_run(
        app.store,
        requested,
        bars,
        analyst,
        actor=app.settings.actor,
        lock_digest=lock_digest(),
        on_progress=lambda done: on_progress("bars", done, total),
        commands=commands,
    )
    app.runner().catch_up(lambda done, total: on_progress("read models", done, total))
    return result


def import_sample(app: App) -> int:
    """Imports the bundled sample; returns how many of its bars were new."""
    from engine.data.sample import load_sample as load

    return sum(added.new for added in load(app.catalogue, actor=app.settings.actor).values())
