"""Remedies on the command line: each belongs to an error that exists, and names fields that the error has."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from string import Formatter

import pytest

from engine.core.errors import BadInput, NotFound
from tests.support.language import sources
from tests.support.paths import ROOT
from ui.cli.remedies import REMEDIES, sentence

TABLE = ROOT / "ui/cli/remedies.py"


def fields_of(remedy: str) -> set[str]:
    """The names in braces of a remedy."""
    return {name for _, name, _, _ in Formatter().parse(remedy) if name is not None}


def raised() -> Iterator[tuple[str, set[str], str]]:
    """(code, names of the fields, place) of each call that is given a code of the table."""
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if path == TABLE or not isinstance(node, ast.Call):
                continue
            for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
                if isinstance(argument, ast.Constant) and argument.value in REMEDIES:
                    names = {keyword.arg for keyword in node.keywords if keyword.arg is not None}
                    yield argument.value, names, f"{path.relative_to(ROOT)}:{node.lineno}"


def test_every_call_with_a_code_gives_the_fields_of_its_remedy() -> None:
    calls = list(raised())
    assert len({code for code, _, _ in calls}) > 20
    assert [f"{place}: {code}" for code, names, place in calls if not fields_of(REMEDIES[code]) <= names] == []


def test_every_remedy_belongs_to_a_code_of_the_program() -> None:
    constants: set[str] = set()
    prefixes: set[str] = set()
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if path != TABLE and isinstance(node, ast.Constant) and isinstance(node.value, str):
                constants.add(node.value)
            if isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
                prefixes.add(str(node.values[0].value))
    built = {prefix for prefix in prefixes if prefix.endswith("_") and prefix.isupper()}
    unused = {code for code in REMEDIES if code not in constants and not code.startswith(tuple(built))}
    assert unused == set()


@pytest.mark.parametrize("code", REMEDIES)
def test_a_remedy_is_the_end_of_one_sentence(code: str) -> None:
    fields = dict.fromkeys(fields_of(REMEDIES[code]), "x")
    text = sentence(BadInput("something does not fit.", code, **fields))
    assert text.startswith("something does not fit: ")
    assert text.endswith(".")
    assert not text.endswith("..")


def test_an_error_without_a_remedy_keeps_its_message() -> None:
    assert sentence(NotFound("there is no run x.")) == "there is no run x."
