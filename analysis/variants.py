"""Variants: the authors of analyses, and their lookup by name (`rules`, an installed strategy, a strategy in a file).

A strategy comes from a package (entry point group `quantagent.analysts`) or from a file. Its full name identifies its
code: `momentum@1` by the version its author declares, `breakout@3f2a91c07d55` by the digest of the file. Analyses of
different code are therefore never mixed. A package is imported only when its strategy is used.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Context, DivisionByZero, InvalidOperation, Overflow, localcontext
from hashlib import sha256
from importlib.abc import ExecutionLoader
from importlib.metadata import EntryPoint
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import msgspec

from analysis import rules
from analysis.charting.indicators import WINDOW_BARS
from analysis.strategy import Decision, Strategy
from engine import plugins
from engine.core.errors import BadInput, QuantagentError
from engine.core.events import AnalysisFailed, AnalysisMade
from engine.core.market import Bar, Symbol, Timeframe, instant_text

if TYPE_CHECKING:
    import polars as pl

GROUP = "quantagent.analysts"
BUILT_IN = (
    EntryPoint("always_long", "analysis.baselines:AlwaysLong", GROUP),
    EntryPoint("crossover", "analysis.baselines:Crossover", GROUP),
    EntryPoint("momentum", "analysis.baselines:Momentum", GROUP),
)
BARS_MAX = 5_000

# Python's default decimal context: changes to the thread's context must not change an analysis.
_DECIMALS = Context(prec=28, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, DivisionByZero, Overflow])
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,19}")


class StrategyFailed(QuantagentError):
    """A strategy raised an error or returned no `Decision` for the window that ends with `bar`."""

    default_code = "STRATEGY_FAILED"

    def __init__(self, variant: str, bar: Bar, reason: str) -> None:
        super().__init__(
            f"variant {variant} failed on {bar.symbol} at {instant_text(bar.closed_at)}: {reason}. Correct it and "
            "retry; the analyses stored so far are kept."
        )
        self.bar = bar


class FormedAnalysis(NamedTuple):
    """A decision and the canonical JSON of the reports behind it, as stored."""

    decision: Decision
    reports: str


class VariantInfo(Protocol):
    """Description of a variant.

    name: identifies its analyses and runs in the store; version: of the code; window_bars: maximum length of a window;
    warm_up_bars: minimum length of a window for a decision other than HOLD.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def window_bars(self) -> int: ...

    @property
    def warm_up_bars(self) -> int: ...


class Variant(VariantInfo, Protocol):
    """A variant that computes analyses as a pure function of the window's bars."""

    def analyse(self, bars: Sequence[Bar], ends: Sequence[int]) -> Iterator[FormedAnalysis]:
        """Yield one analysis for each of `ends`, in order: of the window that ends with that row of `bars`.

        `bars` are bars of one symbol, oldest first; the first windows are shorter than `window_bars`.
        """
        ...


class Window(NamedTuple):
    """A window to analyze: row and close of its last bar, number of its bars, and their digest."""

    row: int
    at: datetime
    bars: int
    digest: str


class StoredOutcome(NamedTuple):
    """A stored analysis or failure, and its version in the stream of the analysis."""

    event: AnalysisMade | AnalysisFailed
    version: int


class VariantUnavailable(QuantagentError):
    """A variant that cannot create analyses at present: repeated failures, or no budget left."""


@runtime_checkable
class ModelVariant(VariantInfo, Protocol):
    """A variant that calls language models, which takes time and money and may fail. Runs many calls concurrently."""

    def create_analyses(
        self,
        symbol: Symbol,
        timeframe: Timeframe,
        bars: Sequence[Bar],
        windows: Sequence[Window],
        on_result: Callable[[StoredOutcome], None],
    ) -> None:
        """Create and store the analysis of each window; call `on_result` with each outcome as it is stored.

        Raise `VariantUnavailable` if the remaining windows cannot be analyzed.
        """
        ...


class VariantChain(NamedTuple):
    """Variants in order of preference; each analyzes windows at which its predecessors failed. HOLD is no failure."""

    variants: tuple[Variant | ModelVariant, ...]

    @property
    def name(self) -> str:
        return ",".join(one.name for one in self.variants)


def members(variant: Variant | ModelVariant | VariantChain) -> tuple[Variant | ModelVariant, ...]:
    """Return the variants of a chain in order, or the variant itself."""
    return variant.variants if isinstance(variant, VariantChain) else (variant,)


class RulesVariant:
    """The `rules` analyst; computes many windows at once."""

    name = rules.VARIANT
    version = rules.AGENT_VERSION
    window_bars = WINDOW_BARS
    warm_up_bars = rules.WARM_UP_BARS

    def analyse(self, bars: Sequence[Bar], ends: Sequence[int]) -> Iterator[FormedAnalysis]:
        if not ends:
            return
        first = max(0, min(ends) + 1 - WINDOW_BARS)
        frame = frame_from_bars(bars[first : max(ends) + 1])
        for analysis in rules.analyse_many(frame, [end - first for end in ends]):
            trade_decision = analysis.decision
            decision = Decision(
                trade_decision.decision,
                trade_decision.confidence,
                horizon_bars=trade_decision.horizon_bars,
                risk_reward=trade_decision.risk_reward,
            )
            yield FormedAnalysis(decision, analysis.model_dump_json())


RULES = RulesVariant()


def frame_from_bars(bars: Iterable[Bar]) -> pl.DataFrame:
    """Return bars as a frame of floats for indicators, with the columns of the catalogue."""
    import polars as pl

    rows = list(bars)
    prices = {name: [float(getattr(bar, name)) for bar in rows] for name in ("open", "high", "low", "close", "volume")}
    times = {name: [getattr(bar, name) for bar in rows] for name in ("opened_at", "closed_at")}
    return pl.DataFrame({**times, **prices}, schema_overrides=dict.fromkeys(times, pl.Datetime("us", "UTC")))


class StrategyVariant:
    """A strategy as a variant: called once for each window, and only for complete windows."""

    def __init__(self, strategy: Strategy, name: str) -> None:
        self._strategy = strategy
        self.name, self.version = name, strategy.version
        self.window_bars = self.warm_up_bars = strategy.bars

    def analyse(self, bars: Sequence[Bar], ends: Sequence[int]) -> Iterator[FormedAnalysis]:
        for end in ends:
            # A tuple, so that the strategy cannot change the window.
            decision = self._decide(tuple(bars[max(0, end + 1 - self.window_bars) : end + 1]))
            reasons = [decision.reason] if decision.reason else []
            yield FormedAnalysis(decision, msgspec.json.encode({"decision": {"reasons": reasons}}).decode())

    def _decide(self, window: tuple[Bar, ...]) -> Decision:
        if len(window) < self.warm_up_bars:
            return Decision("HOLD", reason=f"warm-up: {len(window)} of {self.warm_up_bars} bars")
        try:
            with localcontext(_DECIMALS):
                decision = self._strategy.decide(window)
        except Exception as error:
            raise StrategyFailed(self.name, window[-1], plugins.describe_error(error)) from error
        # User code may not be type-checked.
        if not isinstance(decision, Decision):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise StrategyFailed(self.name, window[-1], f"it returned {type(decision).__name__}, not a Decision")
        return decision


# --- Lookup -------------------------------------------------------------------------------------------------------


def variant_names() -> list[str]:
    """Return the names of all variants that need no file. Imports no strategy."""
    return sorted({rules.VARIANT, *plugins.entry_point_names(GROUP, BUILT_IN)})


def find_variant(text: str) -> Variant:
    """Return the variant of a name, with or without its version (`momentum`, `momentum@1`), or of `FILE.py:NAME`.

    Raise `BadInput` if it does not exist, its code cannot be loaded, or it is no strategy.
    """
    if text == rules.VARIANT:
        return RULES
    path, _, name = text.rpartition(":")
    if path.endswith(".py"):
        return _from_file(Path(path), name)
    if text.endswith(".py"):
        raise BadInput(f"{text} may hold several strategies: name one as {text}:CLASS.")
    return _installed(text)


def _installed(text: str) -> Variant:
    name, _, version = text.partition("@")
    otherwise = f"{', '.join(variant_names())}; a strategy in a file is named FILE.py:CLASS"
    loaded, where = plugins.load_entry_point("variant", name, GROUP, BUILT_IN, otherwise)
    strategy = _load_strategy(loaded, where)
    if strategy.variant != name:
        raise BadInput(f"{where} is named {strategy.variant!r}: entry point and class need the same name.")
    if version not in ("", strategy.version):
        raise BadInput(f"{where} is installed in version {strategy.version}, not {version}: use {name}.")
    return StrategyVariant(strategy, f"{name}@{strategy.version}")


def _from_file(path: Path, name: str) -> Variant:
    if not path.is_file():
        raise BadInput(f"file {path} does not exist: name a strategy as FILE.py:CLASS.")
    source = path.read_bytes()
    digest = sha256(b"%s\n%s" % (name.encode(), source)).hexdigest()[:12]
    try:
        loaded = _execute_file(path, source, f"quantagent_variant_{digest}").get(name)
    except Exception as error:
        raise BadInput(f"{path} cannot be loaded: {plugins.describe_error(error)}. Correct it and retry.") from error
    if loaded is None:
        raise BadInput(f"{path} has no {name!r}: name a class in it as {path}:CLASS.")
    strategy = _load_strategy(loaded, f"{name} in {path}")
    return StrategyVariant(strategy, f"{strategy.variant}@{digest}")


def _execute_file(path: Path, source: bytes, module_name: str) -> dict[str, object]:
    """Execute a file as a module and return its names."""
    loader = _Source(path, source)
    spec = spec_from_loader(module_name, loader)
    assert spec is not None, "a loader always has a spec"
    module = module_from_spec(spec)
    sys.modules[module_name] = module  # Dataclasses look up their module.
    loader.exec_module(module)
    return vars(module)


class _Source(ExecutionLoader):
    """Loader of the digested bytes: cached bytecode could belong to an older version of the file."""

    def __init__(self, path: Path, source: bytes) -> None:
        self._path, self._source = path, source

    def get_filename(self, fullname: str) -> str:
        return str(self._path.absolute())

    def get_source(self, fullname: str) -> str:
        return self._source.decode()


def _load_strategy(loaded: object, where: str) -> Strategy:
    """Return a checked strategy from an instance or a class. Raise `BadInput` if it is no strategy."""
    try:
        strategy: object = loaded() if isinstance(loaded, type) else loaded
    except Exception as error:
        raise BadInput(
            f"{where} cannot be created without arguments: {plugins.describe_error(error)}. Provide an instance."
        ) from error
    reason = _invalid_reason(strategy)
    if reason:
        raise BadInput(f"{where} is no strategy: {reason}.")
    return strategy  # pyright: ignore[reportReturnType] - has all attributes of the protocol


def _invalid_reason(strategy: object) -> str:
    """Return the reason why an object is no strategy, as the end of a sentence; empty if it is one."""
    variant, version, bars = (getattr(strategy, name, None) for name in ("variant", "version", "bars"))
    if not isinstance(variant, str) or not _NAME.fullmatch(variant) or variant == rules.VARIANT:
        return f"`variant` must be a unique name of lowercase letters, digits, _ and -, not {variant!r}"
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        return f"`version` must be text like '1' or '1.2', not {version!r}"
    if not isinstance(bars, int) or isinstance(bars, bool) or not 1 <= bars <= BARS_MAX:
        return f"`bars` must be the number of bars it needs, 1 to {BARS_MAX:,}, not {bars!r}"
    if not callable(getattr(strategy, "decide", None)):
        return "it has no method `decide(bars)`"
    return ""
