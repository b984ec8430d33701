"""Whose analyses: the `rules` analyst or a strategy of one's own, found by the name that a person types.

A strategy comes from a package (entry point group `quantagent.analysts`) or straight from a file. Its full name says
which code it is: `momentum@1` by the version that its author promises, `breakout@3f2a91c07d55` by the file itself. So
opinions of other code are never taken for its own. A package is imported only when its strategy is asked for.
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

# Decimals as Python has them from the start: what others do to the thread's context changes no opinion.
_DECIMALS = Context(prec=28, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, DivisionByZero, Overflow])
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,19}")


class StrategyFailed(QuantagentError):
    """A strategy raised an error, or said what is no opinion, on the window that ends with this bar."""

    def __init__(self, variant: str, bar: Bar, reason: str) -> None:
        super().__init__(
            f"variant {variant} failed on {bar.symbol} at {instant_text(bar.closed_at)}: {reason}. Correct it and run "
            "again: the opinions stored before are kept."
        )
        self.bar = bar


class FormedAnalysis(NamedTuple):
    """An opinion, and the canonical JSON of what lies behind it, as it is stored."""

    decision: Decision
    reports: str


class VariantInfo(Protocol):
    """Whose analyses: the name that they are stored and runs are named by, the version of the code, how many bars are
    seen at the most, and with how few the answer is HOLD for want of them."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def window_bars(self) -> int: ...

    @property
    def warm_up_bars(self) -> int: ...


class Variant(VariantInfo, Protocol):
    """Who computes analyses. An opinion is a function of its window's bars and of nothing else."""

    def analyse(self, bars: Sequence[Bar], ends: Sequence[int]) -> Iterator[FormedAnalysis]:
        """One opinion for each of `ends`, in their order, on the windows that end with those bars (row numbers).

        `bars` are bars of one symbol, oldest first; windows at their beginning are as short as the bars are.
        """
        ...


class Window(NamedTuple):
    """One bar to have an opinion on: its row among the bars, its close, how many bars are seen, their digest."""

    row: int
    at: datetime
    bars: int
    digest: str


class StoredOutcome(NamedTuple):
    """An opinion, or that there is none, and its version in the analysis's stream."""

    event: AnalysisMade | AnalysisFailed
    version: int


class VariantUnavailable(QuantagentError):
    """Whoever would make opinions has failed so often that asking on makes no sense."""


@runtime_checkable
class ModelVariant(VariantInfo, Protocol):
    """Who asks others for opinions, which takes time and money and may fail: language models.

    Makes and stores many analyses at the same time.
    """

    def create_analyses(
        self,
        symbol: Symbol,
        timeframe: Timeframe,
        bars: Sequence[Bar],
        windows: Sequence[Window],
        on_result: Callable[[StoredOutcome], None],
    ) -> None:
        """Makes and stores the opinion on each of the windows of these bars, and tells each as it comes.

        Raises `Unavailable` when it gives up on the rest.
        """
        ...


class VariantChain(NamedTuple):
    """Variants of which each is asked about what those before it failed at. A HOLD is no failure."""

    variants: tuple[Variant | ModelVariant, ...]

    @property
    def name(self) -> str:
        return ",".join(one.name for one in self.variants)


def members(variant: Variant | ModelVariant | VariantChain) -> tuple[Variant | ModelVariant, ...]:
    """The variants to be asked, in order."""
    return variant.variants if isinstance(variant, VariantChain) else (variant,)


class RulesVariant:
    """The `rules` analyst, which computes many windows at once."""

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
    """Bars as the floats that indicators compute with, in the catalogue's columns."""
    import polars as pl

    rows = list(bars)
    prices = {name: [float(getattr(bar, name)) for bar in rows] for name in ("open", "high", "low", "close", "volume")}
    times = {name: [getattr(bar, name) for bar in rows] for name in ("opened_at", "closed_at")}
    return pl.DataFrame({**times, **prices}, schema_overrides=dict.fromkeys(times, pl.Datetime("us", "UTC")))


class StrategyVariant:
    """A strategy as a variant: asked window by window, and only about whole ones."""

    def __init__(self, strategy: Strategy, name: str) -> None:
        self._strategy = strategy
        self.name, self.version = name, strategy.version
        self.window_bars = self.warm_up_bars = strategy.bars

    def analyse(self, bars: Sequence[Bar], ends: Sequence[int]) -> Iterator[FormedAnalysis]:
        for end in ends:
            # A tuple: nobody can change a window.
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
        # Other people's code: it need not have been looked at by a type checker.
        if not isinstance(decision, Decision):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise StrategyFailed(self.name, window[-1], f"it returned {type(decision).__name__}, which is no Decision")
        return decision


# --- Finding one --------------------------------------------------------------------------------------------------


def variant_names() -> list[str]:
    """The names that can be typed without a file. Nothing is imported for it."""
    return sorted({rules.VARIANT, *plugins.entry_point_names(GROUP, BUILT_IN)})


def find_variant(text: str) -> Variant:
    """The variant of a name, with or without its version (`momentum`, `momentum@1`), or of `FILE.py:NAME`.

    Raises `BadInput` when there is none, or when its code cannot be loaded or is no strategy.
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
        raise BadInput(f"{where} calls itself {strategy.variant!r}: give the entry point and the class one name.")
    if version not in ("", strategy.version):
        raise BadInput(f"{where} is installed in version {strategy.version}, not {version}: ask for {name}.")
    return StrategyVariant(strategy, f"{name}@{strategy.version}")


def _from_file(path: Path, name: str) -> Variant:
    if not path.is_file():
        raise BadInput(f"there is no file {path}: give the path of your strategy as FILE.py:CLASS.")
    source = path.read_bytes()
    digest = sha256(b"%s\n%s" % (name.encode(), source)).hexdigest()[:12]
    try:
        loaded = _execute_file(path, source, f"quantagent_variant_{digest}").get(name)
    except Exception as error:
        raise BadInput(
            f"{path} cannot be loaded: {plugins.describe_error(error)}. Correct it and run again."
        ) from error
    if loaded is None:
        raise BadInput(f"{path} has no {name!r}: name the class of your strategy as {path}:CLASS.")
    strategy = _load_strategy(loaded, f"{name} in {path}")
    return StrategyVariant(strategy, f"{strategy.variant}@{digest}")


def _execute_file(path: Path, source: bytes, module_name: str) -> dict[str, object]:
    """The names that a file defines."""
    loader = _Source(path, source)
    spec = spec_from_loader(module_name, loader)
    assert spec is not None, "a spec was made from a loader"
    module = module_from_spec(spec)
    sys.modules[module_name] = module  # Dataclasses look their module up.
    loader.exec_module(module)
    return vars(module)


class _Source(ExecutionLoader):
    """Loads exactly the bytes that were digested: bytecode cached beside a file can be that of an older one."""

    def __init__(self, path: Path, source: bytes) -> None:
        self._path, self._source = path, source

    def get_filename(self, fullname: str) -> str:
        return str(self._path.absolute())

    def get_source(self, fullname: str) -> str:
        return self._source.decode()


def _load_strategy(loaded: object, where: str) -> Strategy:
    """The strategy itself, or one made from its class; checked."""
    try:
        strategy: object = loaded() if isinstance(loaded, type) else loaded
    except Exception as error:
        raise BadInput(
            f"{where} cannot be made without arguments: {plugins.describe_error(error)}. Offer an instance."
        ) from error
    reason = _invalid_reason(strategy)
    if reason:
        raise BadInput(f"{where} is no strategy: {reason}.")
    return strategy  # pyright: ignore[reportReturnType] - has all that the protocol asks for


def _invalid_reason(strategy: object) -> str:
    """Why this is no strategy, as the end of a sentence; empty if it is one."""
    variant, version, bars = (getattr(strategy, name, None) for name in ("variant", "version", "bars"))
    if not isinstance(variant, str) or not _NAME.fullmatch(variant) or variant == rules.VARIANT:
        return f"`variant` must be a name of its own in small letters, digits, _ and -, not {variant!r}"
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        return f"`version` must be text like '1' or '1.2', not {version!r}"
    if not isinstance(bars, int) or isinstance(bars, bool) or not 1 <= bars <= BARS_MAX:
        return f"`bars` must say how many bars it needs, 1 to {BARS_MAX:,}, not {bars!r}"
    if not callable(getattr(strategy, "decide", None)):
        return "it has no method `decide(bars)`"
    return ""
