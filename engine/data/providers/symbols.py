"""Names of symbols at providers, from the bundled table and from the user's table, which takes precedence.

Both are TOML files with a table for each provider, `[yahoo]`, and in it a line for each symbol, `SPX = "^GSPC"`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from engine.core.errors import BadInput
from engine.core.market import Symbol, check_symbol

SHIPPED = Path(__file__).parent / "symbols.toml"

_NAME = re.compile(r"[!-~]{1,40}", re.ASCII)


def shipped_names(provider: str) -> dict[Symbol, str]:
    """Return the bundled names of symbols at a provider. A symbol that is missing has the same name there."""
    return parse_symbol_tables(SHIPPED.read_text(encoding="utf-8"), SHIPPED.name).get(provider, {})


def user_names(provider: str, path: Path) -> dict[Symbol, str]:
    """Return the names of symbols at a provider from a user's table; empty if there is no such file.

    Raise `BadInput` for an invalid file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}. Make it a TOML file in UTF-8, or remove it.") from None
    return parse_symbol_tables(text, str(path)).get(provider, {})


def parse_symbol_tables(text: str, where: str) -> dict[str, dict[Symbol, str]]:
    """Parse a table of symbols, by provider. Raise `BadInput` unless it has the format described above."""
    example = 'write [yahoo] and below it lines like SPX = "^GSPC"'
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{where} is not TOML: {error}; {example}.") from None
    for provider, table in tables.items():
        if not isinstance(table, dict):
            raise BadInput(f"{where}: {provider!r} is outside of a table; {example}.")
        for symbol, name in cast("Mapping[str, object]", table).items():
            try:
                check_symbol(symbol)
            except BadInput as error:
                raise BadInput(f"{where}, [{provider}]: {error}") from None
            # A dot splits a key in TOML: BRK.B without quotes is a table BRK.
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise BadInput(
                    f"{where}, [{provider}]: the name of {symbol} is {name!r}, not text of 1 to 40 characters without "
                    f'spaces; {example}, with quotes around symbols that have a dot, "BRK.B" = "BRK-B".'
                )
    return tables
