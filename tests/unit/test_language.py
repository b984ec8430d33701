"""The language of the project: no private dialect in documents, docstrings, comments, help and messages."""

from __future__ import annotations

import ast

import pytest

from tests.support.language import (
    HASHED,
    STORED,
    clauses,
    commands_below_ui,
    dialect_in_code,
    dialect_in_page,
    pages,
    sources,
)
from tests.support.paths import ROOT

BELOW_UI = ("engine", "analysis", "projections")


def test_no_docstring_comment_or_message_has_a_word_of_the_dialect() -> None:
    assert [str(found) for path in sources() for found in dialect_in_code(path)] == []


def test_no_page_has_a_word_of_the_dialect() -> None:
    assert [str(found) for path in pages() for found in dialect_in_page(path)] == []


def test_a_public_docstring_names_a_thing_or_gives_an_instruction() -> None:
    assert [str(found) for path in sources() for found in clauses(path)] == []


def test_no_message_below_ui_names_a_command_or_a_flag() -> None:
    found = [str(found) for path in sources(BELOW_UI) for found in commands_below_ui(path)]
    assert found == []


def test_texts_that_keep_their_words_are_in_the_code() -> None:
    for name in HASHED:
        assert (ROOT / name).exists()
    for name, texts in STORED.items():
        strings = {
            node.value
            for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert set(texts) <= strings, name


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ('"""Return what was asked for."""', ["asked"]),
        ('x = "nobody said so"', ["nobody", "said"]),
        ("# gives up after a while", ["gives up"]),
        ('x = "`asked` is quoted code"', []),
        ('x = "asked"', []),
        ("asked = 1", []),
    ],
)
def test_the_dialect_is_found_in_prose_only(source: str, words: list[str]) -> None:
    path = ROOT / "engine" / "__init__.py"
    assert [found.words for found in dialect_in_code(path, source)] == words
