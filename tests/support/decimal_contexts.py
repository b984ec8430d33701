"""Decimal contexts that differ from the engine's own."""

from __future__ import annotations

from decimal import ROUND_UP, Context, Inexact, InvalidOperation, Rounded

# Five digits, always upwards, and every rounding is an error.
HOSTILE = Context(prec=5, rounding=ROUND_UP, Emin=-9, Emax=9, traps=[Inexact, Rounded, InvalidOperation])
