"""Bounds of the configuration of a new run.

They are separate from the shapes in `engine.core.config`, because those must also decode stored runs that violate the
bounds, such as a run with a cash of 0.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec

from engine.core.config import Costs, Entry, Exits, Override, RiskLimits, RunConfig, Shorting, Sizing
from engine.core.errors import BadInput
from engine.core.money import ZERO

ConfigPart = Costs | Sizing | Entry | Exits | RiskLimits | Shorting


def check_config(config: RunConfig) -> None:
    """Reject a configuration that could never trade or that disables its protection.

    Raise `BadInput` with field, value and bound.
    """
    check_cash(config.cash)
    check_part("sizing", config.sizing)
    check_part("limits", config.limits)
    check_part("exits", config.exits)
    for override in config.overrides:
        check_override(override)
    allowed = config.limits.symbols
    if allowed is not None and not set(allowed) & set(config.symbols):
        raise BadInput(
            f"limits.symbols allows {', '.join(allowed) or 'no symbol'} and the run trades "
            f"{', '.join(config.symbols)}: name one of them."
        )


def check_cash(cash: Decimal) -> None:
    _check_bounds("cash", cash, ZERO, None)


def check_override(override: Override) -> None:
    """Reject invalid values of one symbol's override. Raise `BadInput`."""
    where = f"overrides.{override.symbol}"
    if override.position_pct is not None:
        _check_bounds(f"{where}.position_pct", override.position_pct, ZERO, None)
    for name in ("costs", "sizing", "entry", "exits"):
        part = getattr(override, name)
        if part is not None:
            check_part(f"{where}.{name}", part)


def check_part(where: str, part: ConfigPart) -> None:
    """Reject invalid values of one part; `where` is its name in a profile. Raise `BadInput`."""
    for name, (above, at_most) in _BOUNDS.get(type(part), {}).items():
        value = getattr(part, name)
        if value is not None:
            _check_bounds(f"{where}.{name}", value, above, at_most)


def _check_bounds(where: str, value: Decimal, above: Decimal, at_most: Decimal | None) -> None:
    if value <= above:
        raise BadInput(f"{where} is {value:f} and must be above {above:f}.")
    if at_most is not None and value > at_most:
        raise BadInput(f"{where} is {value:f} and must be at most {at_most:f}.")


_Bound = tuple[Decimal, Decimal | None]
_POSITIVE: _Bound = (ZERO, None)
_PERCENTAGE: _Bound = (ZERO, Decimal(100))
# The stop of a long position at a distance of 100 % has a price of 0 and cannot be placed.
_STOP_DISTANCE: _Bound = (ZERO, Decimal(99))

_BOUNDS: dict[type[msgspec.Struct], dict[str, _Bound]] = {
    Sizing: {"base_pct": _PERCENTAGE},
    Exits: {"stop_pct": _STOP_DISTANCE, "trail_pct": _STOP_DISTANCE},
    # A limit of 0 would deny every order.
    RiskLimits: {
        "position_pct": _POSITIVE,
        "daily_loss_pct": _PERCENTAGE,
        "drawdown_pct": _PERCENTAGE,
        "gross_exposure_pct": _POSITIVE,
        "net_exposure_pct": _POSITIVE,
        "position_quantity_max": _POSITIVE,
        "order_value_max": _POSITIVE,
        "order_quantity_max": _POSITIVE,
        "collar_pct": _POSITIVE,
    },
}
"""Bounds by field: exclusive minimum and inclusive maximum."""
