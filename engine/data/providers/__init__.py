"""Providers of market data: their protocol, and loading one by name.

A provider is built in or comes from a package (entry point group `quantagent.providers`), and is imported only when it
is used. It returns rows without validating them; `engine.data.validation` does that. docs/providers.md shows how to
write one, and `conformance.check_provider` tests it.
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
    """Limits of a provider: back, the age of its oldest bars; call, the longest span of one call. None: no limit."""

    back: timedelta | None = None
    call: timedelta | None = None


class Provider(Protocol):
    """Source of bars.

    name: name of the entry point, stored with the bars; synthetic: True if the bars are generated; remembers: True if
    requests are stored, so that missing bars are not requested again; False if requests cost nothing.
    """

    @property
    def name(self) -> str: ...

    @property
    def synthetic(self) -> bool: ...

    @property
    def remembers(self) -> bool: ...

    def reach(self, instrument: Instrument, timeframe: Timeframe) -> Reach | None:
        """Return the limits for an instrument and timeframe; None if the provider does not offer them."""
        ...

    def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span, now: datetime) -> pl.DataFrame:
        """Return the rows of the bars that open in the span and had closed at `now`, unvalidated.

        Columns: opened_at (Datetime us UTC), open, high, low, close, volume (Float64 or String). Prices and volumes
        need not be valid. An empty frame means that there are no bars. Raise `NotFound` for an unknown symbol,
        `ProviderUnavailable` if the provider cannot answer, and `BadInput` for an invalid span.
        """
        ...


def provider_names() -> list[str]:
    """Return the names of all providers except `folder:PATH`, without importing them."""
    return sorted(plugins.entry_point_names(GROUP, BUILT_IN))


def load_provider(text: str, own_symbols: Path | None = None) -> Provider:
    """Create the provider with a name, or of `folder:PATH`.

    own_symbols: path of the user's table of symbols (see `symbols`), which need not exist. Raise `BadInput` for an
    unknown name, for code that cannot be loaded or is no provider, and for an invalid table.
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
        raise BadInput(
            f"{table} names symbols for {provider.name}, which supports no other names: remove [{provider.name}] there."
        )
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
    """Return the reason why an object is no provider, as the end of a sentence; empty for a provider."""
    if getattr(provider, "name", None) != name:
        return f"its name is {getattr(provider, 'name', None)!r}; the entry point and the class need the same name"
    if not isinstance(getattr(provider, "synthetic", None), bool):
        return "`synthetic` must be a bool: True if its bars are generated"
    if not isinstance(getattr(provider, "remembers", None), bool):
        return "`remembers` must be a bool: True if missing bars are not to be requested again"
    for method in ("reach", "fetch"):
        if not callable(getattr(provider, method, None)):
            return f"it has no method `{method}`"
    return ""
