"""Profiles: what people write about costs, sizes, limits and exits. Resolved here into the engine's `RunConfig`.

Every save is a version in the log (stream `profile:<name>`); a run keeps its resolved snapshot, so that later edits
change no old run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from engine.config import Costs, Exits, RiskLimits, RunConfig, Sizing, digest_of
from engine.errors import BadInput, NotFound
from engine.events import ProfileSaved, names
from engine.market import Instrument, Timeframe, periods_per_year
from engine.money import exact
from engine.store import Batch, Cause, Store, read_from

Amount = Annotated[Decimal, Field(ge=0, le=10**12, allow_inf_nan=False), AfterValidator(exact)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CostsPart(_Part):
    """Basis points per side: slippage of the price, commission of the filled notional."""

    slippage_bps: Amount = Decimal(5)
    commission_bps: Amount = Decimal(10)


class SizingPart(_Part):
    """`confidence`: equity x base_pct % x confidence. `fixed_quantity`: always `quantity` units."""

    mode: Literal["confidence", "fixed_quantity"] = "confidence"
    base_pct: Amount = Decimal(5)
    quantity: Amount | None = None


class LimitsPart(_Part):
    """Per cent of equity; null switches a limit off. `reversal`: may one order turn a long into a short."""

    position_pct: Amount | None = Decimal(10)
    daily_loss_pct: Amount | None = Decimal(5)
    reversal: bool = True


class ExitsPart(_Part):
    """`holding_bars`: give a position up when its n-th bar closes (null: never); `from_decision`: take the
    decision's horizon instead."""

    holding_bars: Annotated[int, Field(ge=1, le=100_000)] | None = 4
    from_decision: bool = False


class Profile(_Part):
    """A profile document. `periods_per_year` null: 365 if any symbol trades around the clock, else 252."""

    cash: Amount = Decimal(100_000)
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3,5}$")] = "USD"
    costs: CostsPart = CostsPart()
    sizing: SizingPart = SizingPart()
    limits: LimitsPart = LimitsPart()
    exits: ExitsPart = ExitsPart()
    pyramid: bool = False
    session_roll_hour: Annotated[int, Field(ge=0, le=23)] = 0
    periods_per_year: Annotated[int, Field(ge=1, le=366)] | None = None


BUILT_IN: dict[str, Profile] = {
    "realistic": Profile(),
    "classic": Profile(costs=CostsPart(slippage_bps=Decimal(200), commission_bps=Decimal(0))),
    "cautious": Profile(
        sizing=SizingPart(base_pct=Decimal(2)), limits=LimitsPart(position_pct=Decimal(4), daily_loss_pct=Decimal(2))
    ),
}
DEFAULT = "realistic"


def resolve(profile: Profile, instruments: Sequence[Instrument], timeframe: Timeframe) -> RunConfig:
    """The snapshot a run is decided by. Raises `BadInput` for a document that contradicts itself."""
    try:
        return RunConfig(
            cash=profile.cash,
            currency=profile.currency,
            timeframe=timeframe,
            instruments=tuple(instruments),
            costs=Costs(profile.costs.slippage_bps, profile.costs.commission_bps),
            sizing=Sizing(profile.sizing.mode, profile.sizing.base_pct, profile.sizing.quantity),
            limits=RiskLimits(profile.limits.position_pct, profile.limits.daily_loss_pct, profile.limits.reversal),
            exits=Exits(profile.exits.holding_bars, profile.exits.from_decision),
            periods_per_year=profile.periods_per_year or periods_per_year(instruments),
            session_roll_hour=profile.session_roll_hour,
            pyramid=profile.pyramid,
        )
    except ValueError as error:
        raise BadInput(f"the profile cannot be used: {error}.") from None


def read_file(path: Path) -> Profile:
    """The profile in a JSON file. Raises `BadInput` naming the file, the field and what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(f"profile {path} cannot be read ({error.strerror}): give the path of a JSON file.") from None
    except UnicodeDecodeError:
        raise BadInput(f"profile {path} is not a text file: a profile is a JSON document.") from None
    return _parse(text, str(path))


def _parse(text: str, where: str) -> Profile:
    try:
        return Profile.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the document"
        raise BadInput(
            f"profile {where}: {field}: {first['msg']}. `quantagent profile show realistic` prints a complete one."
        ) from None


def find(store: Store, name: str) -> Profile:
    """A profile by name (the latest saved version, else a built-in one), or from a file when the name ends in .json."""
    if name.endswith(".json"):
        return read_file(Path(name))
    latest = _saved(store).get(name)
    if latest is not None:
        return _parse(latest.document, name)
    if name in BUILT_IN:
        return BUILT_IN[name]
    known = ", ".join(sorted({*BUILT_IN, *_saved(store)}))
    raise NotFound(f"there is no profile {name!r}: choose one of {known}, or give a file that ends in .json.")


def name_of(given: str) -> str:
    """How a run calls its profile: a saved or built-in one by its name, a file without its folders."""
    return Path(given).name if given.endswith(".json") else given


def listing(store: Store) -> dict[str, Profile]:
    """Every profile under its name."""
    return {**BUILT_IN, **{name: _parse(saved.document, name) for name, saved in _saved(store).items()}}


def save(store: Store, name: str, profile: Profile, actor: str) -> ProfileSaved:
    """Saves a version; a document equal to the latest version adds none."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", name):
        raise BadInput(f"profile name {name!r} is not usable: write small letters, digits, - and _, 40 at most.")
    if name in BUILT_IN:
        raise BadInput(f"profile {name} is built in and stays as it is: save yours under another name.")
    document = profile.model_dump_json()
    fact = ProfileSaved(name, document, digest_of(document))
    stream = f"profile:{name}"
    versions = list(store.read(stream))
    if not versions or versions[-1].event != fact:
        store.append([Batch(stream, len(versions), [fact])], Cause(actor))
    return fact


def _saved(store: Store) -> dict[str, ProfileSaved]:
    facts = (row.event for row in read_from(store, names([ProfileSaved])))
    return {fact.name: fact for fact in facts if isinstance(fact, ProfileSaved)}
