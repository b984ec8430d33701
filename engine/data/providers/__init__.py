"""Where bars come from: the protocol of a provider, and how one is found by the name that a person types.

A provider comes with the project or from a package (entry point group `quantagent.providers`), and is imported only
when it is asked for. It tells rows and judges none: what enters the catalogue is decided elsewhere.
docs/providers.md shows how to write one; `conformance.check` tries whether it keeps its word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from engine import plugins
from engine.core.errors import BadInput, QuantagentError
from engine.core.market import Instrument, Symbol, Timeframe
from engine.data.calendars import Span
from engine.data.providers import symbols

if TYPE_CHECKING:
    import polars as pl

GROUP = "quantagent.providers"
FOLDER = "folder:"
BUILT_IN = (
    EntryPoint("sample", "engine.data.providers.sample:Sample", GROUP),
    EntryPoint("synthetic", "engine.data.providers.synthetic:Synthetic", GROUP),
    EntryPoint("yahoo", "engine.data.providers.yahoo:Yahoo", GROUP),
)


class Reach(NamedTuple):
    """How far back from now a provider has bars, and how long a span one call may cover; None: without a limit."""

    back: timedelta | None = None
    call: timedelta | None = None


class Provider(Protocol):
    """Whoever tells bars.

    name: as found and as stored with the bars; synthetic: whether they are made up; remembers: whether what it had not
    is worth remembering: true for those far away, false where asking again costs nothing.
    """

    @property
    def name(self) -> str: ...

    @property
    def synthetic(self) -> bool: ...

    @property
    def remembers(self) -> bool: ...

    def reach(self, instrument: Instrument, timeframe: Timeframe) -> Reach | None:
        """How far its bars reach; None when it does not offer them."""
        ...

    def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span, now: datetime) -> pl.DataFrame:
        """The rows of the bars that open in the span and had closed at `now`, as they were told.

        Columns: opened_at (Datetime us UTC), open, high, low, close, volume (Float64 or String). Prices and volumes
        may be wrong in any way. No rows means that there are none. Raises `NotFound` for a symbol that the provider
        does not know, `ProviderUnavailable` when it cannot answer, and `BadInput` for a span that is no question.
        """
        ...


def provider_names() -> list[str]:
    """The names that can be typed, `folder:PATH` aside. Nothing is imported for it."""
    return sorted(plugins.entry_point_names(GROUP, BUILT_IN))


def load_provider(text: str, own_symbols: Path | None = None) -> Provider:
    """The provider of a name, or of `folder:PATH`, made anew.

    own_symbols: the user's table of symbols (see `symbols`), if there is one. Raises `BadInput` when there is no such
    provider, when its code cannot be loaded or is none, or when the table is wrong.
    """
    if text.startswith(FOLDER):
        from engine.data.providers.folder import Folder

        return Folder(Path(text.removeprefix(FOLDER)))
    provider = _load_installed(text)
    own = symbols.user_names(text, own_symbols) if own_symbols is not None else {}
    return _with_own_symbols(provider, own, own_symbols) if own else provider


def _with_own_symbols(provider: Provider, own: Mapping[Symbol, str], table: Path | None) -> Provider:
    renamed = cast("Callable[[Mapping[Symbol, str]], Provider] | None", getattr(provider, "renamed", None))
    if renamed is None:
        raise BadInput(f"{table} names symbols for {provider.name}, which uses ours: take [{provider.name}] out of it.")
    return renamed(own)


def _load_installed(name: str) -> Provider:
    loaded, where = plugins.load_entry_point(
        "provider", name, GROUP, BUILT_IN, f"{FOLDER}PATH, {', '.join(provider_names())}"
    )
    try:
        provider: object = loaded() if isinstance(loaded, type) else loaded
    except QuantagentError:
        raise
    except Exception as error:
        raise plugins.load_error(where, error) from error
    reason = _invalid_reason(provider, name)
    if reason:
        raise BadInput(f"{where} is no provider: {reason}.")
    return cast("Provider", provider)


def _invalid_reason(provider: object, name: str) -> str:
    """Why this is no provider, as the end of a sentence; empty if it is one."""
    if getattr(provider, "name", None) != name:
        return f"it calls itself {getattr(provider, 'name', None)!r}; give the entry point and the class one name"
    if not isinstance(getattr(provider, "synthetic", None), bool):
        return "`synthetic` must say True or False: whether its bars are made up"
    if not isinstance(getattr(provider, "remembers", None), bool):
        return "`remembers` must say True or False: whether what it had not is worth remembering"
    for method in ("reach", "fetch"):
        if not callable(getattr(provider, method, None)):
            return f"it has no method `{method}`"
    return ""
