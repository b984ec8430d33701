"""Profile documents: cash, costs, sizes, limits and exits, parsed and resolved into a `RunConfig`.

The choice of a run's profile and the versions in the log are in `ui.services.profiles`; the fields are in
`ui.services.profile_fields`.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
from pydantic import ValidationError

from engine.core.config import Costs, Entry, Exits, Override, RiskLimits, RunConfig, Shorting, Sizing
from engine.core.config_checks import check_cash, check_config, check_override, check_part
from engine.core.errors import BadInput
from engine.core.market import Instrument, Symbol, Timeframe
from ui.services import document_files
from ui.services.document_files import first_error, read_values
from ui.services.profile_fields import (
    KINDS,
    CostsPart,
    Document,
    ExitsPart,
    FieldValues,
    LimitsPart,
    Part,
    Portfolio,
    Profile,
    Risk,
    ShortingPart,
    SizingPart,
)

_EXITS = ExitsPart(from_decision=True, stop_ranges=Decimal(2), risk_reward=Decimal("1.5"))
_SHORTING = ShortingPart(borrow_pct=Decimal(1), maintenance_pct=Decimal(30))

BUILT_IN: dict[str, Profile] = {
    "realistic": Profile(
        limits=LimitsPart(collar_pct=Decimal(10), stale_bars=3),
        exits=_EXITS,
        shorting=_SHORTING,
    ),
    "classic": Profile(
        costs=CostsPart(slippage_bps=Decimal(200), commission_bps=Decimal(0)),
        exits=_EXITS,
        shorting=ShortingPart(maintenance_pct=Decimal(30)),
    ),
    "cautious": Profile(
        sizing=SizingPart(base_pct=Decimal(2)),
        limits=LimitsPart(
            position_pct=Decimal(4),
            daily_loss_pct=Decimal(2),
            gross_exposure_pct=Decimal(50),
            drawdown_pct=Decimal(15),
            losses_max=4,
            orders_per_hour=10,
            collar_pct=Decimal(5),
        ),
        exits=_EXITS,
        shorting=_SHORTING,
    ),
}
DEFAULT = "realistic"

# --- From a profile to a run ---

STRUCTS: dict[str, type[Any]] = {
    "costs": Costs,
    "sizing": Sizing,
    "entry": Entry,
    "exits": Exits,
    "limits": RiskLimits,
    "shorting": Shorting,
}
"""The engine's struct for each part of a profile."""


def combine_profiles(portfolio: Portfolio | Profile, risk: Risk | Profile) -> Profile:
    """Combine two halves into one profile."""
    ours = {name: getattr(portfolio, name) for name in Portfolio.model_fields}
    theirs = {name: getattr(risk, name) for name in Risk.model_fields}
    return Profile(**ours, **theirs)


def rates_needed(profile: Profile, instruments: Sequence[Instrument]) -> tuple[Symbol, ...]:
    """Return the profile's rates that convert the quote currencies of these instruments."""
    quotes = {f"{instrument.quote}-{profile.currency}" for instrument in instruments}
    return tuple(rate for rate in profile.rates if rate in quotes)


def resolve_profile(
    profile: Profile, instruments: Sequence[Instrument], timeframe: Timeframe, rates: Sequence[Instrument] = ()
) -> RunConfig:
    """Return the configuration snapshot of a run; overrides of symbols that are not in the run are dropped.

    Raise `BadInput` for a profile that contradicts itself, does not fit the instruments, or could never trade.
    """
    symbols = {instrument.symbol for instrument in instruments}
    try:
        config = RunConfig(
            cash=profile.cash,
            currency=profile.currency,
            timeframe=timeframe,
            instruments=tuple(instruments),
            periods_per_year=profile.periods_per_year,
            session_roll_hour=profile.session_roll_hour,
            pyramid=profile.pyramid,
            rates=tuple(rates),
            overrides=tuple(_override(profile, symbol) for symbol in profile.overrides if symbol in symbols),
            **_parts(profile),
        )
    except ValueError as error:
        raise BadInput(f"the profile cannot be used: {error}.") from None
    check_config(config)
    return config


def check_document(document: Document, where: str) -> None:
    """Raise `BadInput`, naming field, value and bound, for a profile whose values can only be mistakes.

    Profiles saved before a bound existed can still be read; `resolve_profile` refuses a run with one of them.
    """
    try:
        if not isinstance(document, Risk):
            check_cash(document.cash)
            for symbol in document.overrides:
                check_override(_override(document, symbol))
        for name, part in _parts(document).items():
            check_part(name, part)
        if isinstance(document, Profile) and document.universe:
            beyond = [symbol for symbol in document.limits.symbols or () if symbol not in document.universe]
            if beyond:
                raise BadInput(f"limits.symbols: {beyond[0]} is not in the universe {', '.join(document.universe)}.")
    except BadInput as error:
        raise _invalid_profile(where, str(error).rstrip(".")) from None


def _parts(document: Document) -> dict[str, Any]:
    return {name: _struct(name, name, getattr(document, name)) for name in STRUCTS if hasattr(document, name)}


def _override(document: Profile | Portfolio, symbol: Symbol) -> Override:
    """Return the parts of a symbol: the document's, with the overridden fields replaced."""
    override = document.overrides[symbol]
    parts: dict[str, Any] = {}
    for name in ("costs", "sizing", "entry", "exits"):
        own: Part | None = getattr(override, name)
        # A portfolio's costs, entry and exits can be checked only after it is combined with a risk profile.
        if own is not None and hasattr(document, name):
            base: Part = getattr(document, name)
            named = {field: getattr(own, field) for field in own.model_fields_set}
            parts[name] = _struct(name, f"overrides.{symbol}.{name}", base.model_copy(update=named))
    return Override(symbol, position_pct=override.position_pct, **parts)


def _struct(name: str, where: str, part: Part) -> Any:
    try:
        return STRUCTS[name](**dict(part))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


# --- Documents ---


def document_values(document: Document) -> FieldValues:
    """Return the complete document as JSON values, its kind first."""
    return {"kind": document.kind, **document.model_dump(mode="json")}


def document_text(document: Document) -> str:
    """Return the canonical JSON: equal documents have equal text."""
    return msgspec.json.encode(document_values(document)).decode()


def document_digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def read_profile_file(path: Path) -> Document:
    """Return the profile of a JSON or TOML file. Raise `BadInput` naming the file, the field and the fault."""
    document = parse_document(read_values(path, "profile"), str(path))
    check_document(document, str(path))
    return document


def parse_profile_json(text: str, where: str) -> object:
    """Return the values of a profile's JSON text, with exact numbers."""
    return document_files.parse_json(text, f"profile {where}")


def load_combined_profile(given: str) -> Profile:
    """Return a combined profile without a log: a built-in one, or a file."""
    document = BUILT_IN[given] if given in BUILT_IN else read_profile_file(Path(given))
    if not isinstance(document, Profile):
        raise BadInput(f"profile {given} is a {document.kind} profile: give a combined one.")
    return document


def parse_document(values: object, where: str) -> Document:
    """Return the document of parsed values; `where` is its file or name. Raise `BadInput` for the first fault."""
    kind = "combined"
    try:
        if not isinstance(values, dict):
            raise ValueError("it is not a table of fields")
        fields: FieldValues = {**values}
        kind = fields.pop("kind", "combined")
        if kind not in KINDS:
            raise ValueError(f"kind: {kind!r} is not one of {', '.join(KINDS)}")
        document = KINDS[kind].model_validate(fields)
        _parts(document)
        if not isinstance(document, Risk):
            for symbol in document.overrides:
                _override(document, symbol)
    except ValidationError as error:
        raise _invalid_profile(where, _describe_error(error, KINDS[kind])) from None
    except ValueError as error:
        raise _invalid_profile(where, str(error)) from None
    return document


def _invalid_profile(where: str, reason: str) -> BadInput:
    return BadInput(f"profile {where}: {reason}.", "PROFILE_INVALID")


def _describe_error(error: ValidationError, model: type[Document]) -> str:
    unknown = f"no such field in a {error.title.lower()} profile".replace("a profile profile", "a profile")
    return first_error(error, unknown, model)
