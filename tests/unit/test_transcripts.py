"""Outputs shown in pages: what is compared, what is not, and how they are rewritten."""

from __future__ import annotations

import pytest

from tests.support.documents import blocks, with_blocks
from tests.support.transcripts import (
    MOST_LINES,
    CommandOutput,
    difference,
    entries,
    normalised,
    run_block,
    updated_output,
)

BOOK = "37d72c43185be6c555097a6e6ade90aafc6e986029b2d58ce5a0faae1fcc8945"
KEY = "46629e4541c8d1a2f6101b4742eebfda3505b12518bc6d53d175e2a180b0e1d8"
RUN = "5543618c-e50c-5cf2-9d97-412e20968e8c"
LOG = "c576c967-a733-4ad0-9408-45a4835ce9d5"
OTHER_LOG = "8a256c1e-7e7f-4be7-9051-091768718b5b"
PAGE = f"""# A page

```console
$ engine backtest \\
    --symbols BTC-USD
run          {RUN}
events       1,712
book digest  {BOOK}
at           2017-10-02 07:30
$ engine trades
$ engine log
```
"""
PRINTED = f"run          {RUN}\nevents       1,712\nbook digest  {BOOK}\nat           2017-10-02 07:30\n"


def changed(shown: str, printed: str, stderr: str = "") -> str:
    lines = shown.splitlines()
    return difference(lines, updated_output(lines, CommandOutput(printed, stderr)))


def test_lines_above_the_first_command_are_refused() -> None:
    (block,) = blocks("```console\noutput\n$ one\n```\n")
    with pytest.raises(AssertionError, match="line 2"):
        list(entries(block))


def test_the_lines_under_a_command_are_its_output() -> None:
    (block,) = blocks(PAGE)
    backtest, trades, log = entries(block)
    assert backtest.command.split() == ["engine", "backtest", "--symbols", "BTC-USD"]
    assert (backtest.line, trades.line, log.line) == (4, 10, 11)
    assert backtest.shown == PRINTED.splitlines()
    assert trades.shown == log.shown == []
    assert "".join(each.written + "".join(f"{line}\n" for line in each.shown) for each in (backtest, trades, log)) == (
        block.text
    )


def test_a_page_whose_outputs_hold_has_no_difference_and_stays() -> None:
    (block,) = blocks(PAGE)
    backtest, *others = run_block(
        block, "page.md", lambda entry, _: CommandOutput(PRINTED if "backtest" in entry.command else "x")
    )
    assert [each.difference for each in (backtest, *others)] == ["", "", ""]
    assert "".join(each.rewritten for each in (backtest, *others)) == block.text


def test_a_page_with_another_output_is_named_by_its_line_and_rewritten() -> None:
    (block,) = blocks(PAGE)
    now = PRINTED.replace("1,712", "1,713")
    backtest, *others = run_block(block, "page.md", lambda _, __: CommandOutput(now))
    place, *lines = backtest.difference.splitlines()
    assert place.startswith("page.md:4: $ engine backtest")
    assert {"-events  1,712", "+events  1,713"} <= set(lines)
    assert "".join(each.rewritten for each in (backtest, *others)) == block.text.replace("1,712", "1,713")


def test_an_output_of_a_command_that_is_not_run_is_refused() -> None:
    (block,) = blocks(PAGE)
    with pytest.raises(AssertionError, match=r"page\.md:4: an output is shown, but"):
        list(run_block(block, "page.md", lambda _, __: None))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1,712", "1,713"),
        (BOOK, BOOK.replace("37d7", "37d8")),
        (RUN, RUN.replace("5543", "5544")),
        ("2017-10-02 07:30", "2017-10-02 07:31"),
    ],
    ids=["count", "digest", "run id", "market time"],
)
def test_another_count_digest_run_or_market_time_is_found(old: str, new: str) -> None:
    (line,) = (line for line in PRINTED.splitlines() if old in line)
    found = changed(PRINTED, PRINTED.replace(old, new)).splitlines()
    assert f"-{normalised(line)}" in found
    assert f"+{normalised(line.replace(old, new))}" in found


@pytest.mark.parametrize("cut", ["", "...\n"])
def test_a_line_that_is_missing_on_either_side_is_found(cut: str) -> None:
    assert "-three" in changed(f"one\n{cut}two\nthree", "one\ntwo\n")
    assert "+two" in changed(f"{cut}one\nthree", "one\ntwo\nthree\n")


def test_an_output_is_not_equal_to_one_in_another_order() -> None:
    assert changed("one\ntwo", "two\none\n")
    assert changed("...\none\n...\ntwo\n...", "two\none\n")


@pytest.mark.parametrize("between", ["", "two\n", "two\nthree\n\nfour\n"])
def test_a_cut_stands_for_any_number_of_lines(between: str) -> None:
    assert changed("one\n...\nlast", f"one\n{between}last\n") == ""
    assert changed("...\nlast", f"one\n{between}last\n") == ""
    assert changed("one\n...", f"one\n{between}last\n") == ""
    assert changed("...\none\n...\nlast\n...", f"one\n{between}last\n") == ""


def test_an_ellipsis_within_a_line_is_no_cut() -> None:
    assert changed("one ... three", "one two three\n")


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        (f"log  {LOG}", f"log  {OTHER_LOG}"),
        ("at  2026-11-30 22:37", "at  2027-01-01 00:00"),
        ("at  2026-11-30T22:37:16.682897+00:00  anna", "at  2026-11-30T22:37:17+00:00         anna"),
        ("anchored at  20261130T223718Z", "anchored at  20270101T000000Z"),
        (f"public key       {KEY}", f"public key       {KEY[::-1]}"),
        (f"origin: vouched for by {KEY} at", f"origin: vouched for by {KEY[::-1]} at"),
        (f"head  {BOOK}", f"head  {BOOK[::-1]}"),
        ("clock  yes  0.000 s from the database's", "clock  yes  0.012 s from the database's"),
        ("disk  yes  73.9 GiB free", "disk  yes  1,204.0 GiB free"),
        ("python           3.11.7", "python           3.13.0"),
        ("database  yes  PostgreSQL 18, fsync off", "database  yes  PostgreSQL 15.4, fsync off"),
    ],
)
def test_what_is_volatile_is_not_compared(shown: str, printed: str) -> None:
    assert changed(shown, printed) == ""


@pytest.mark.parametrize(
    "line",
    [
        PRINTED.splitlines()[0],
        f"book digest     capsule {BOOK}",
        f"dataset digest   {BOOK}",
        "engine version  0.2.1 recorded, 0.2.1 now",
        "placed  2017-12-29 19:00  MARKET BUY 2710 EUR-USD  0  2,710  -",
        "stale_price  yes  3:00:00  0:00:00",
        "checks.11.limit  below 15000, or 24 bars after the last",
    ],
)
def test_what_is_the_same_in_each_run_is_compared_whole(line: str) -> None:
    assert " ".join(normalised(line).split()) == " ".join(line.split())


def test_stderr_is_compared_where_it_is_shown_and_progress_bars_never() -> None:
    stderr = "bars ━━━━━━━━━ 48/48 0:00:01\nDecided by profile careful.\n"
    assert changed("result", "result\n", stderr) == ""
    assert changed("result\nDecided by profile careful.", "result\n", stderr) == ""
    assert changed("Decided by profile careful.", "", stderr) == ""
    assert "+Decided by profile careful." in changed("...\nDecided by profile cautious.", "result\n", stderr)


def test_rewriting_keeps_the_cuts_and_what_holds() -> None:
    printed = "title\na  1\nb  2\nc  3\nd  4\nend\n"
    assert updated_output([], CommandOutput(printed)) == []
    assert updated_output(["title", "..."], CommandOutput(printed)) == ["title", "..."]
    assert updated_output(["title", "a  0", "..."], CommandOutput(printed)) == ["title", "a  1", "..."]
    assert updated_output(["title", "...", "c  0", "...", "end"], CommandOutput(printed)) == [
        "title",
        "...",
        "c  3",
        "...",
        "end",
    ]
    assert updated_output(["title", "...", "d  0", "end"], CommandOutput(printed)) == ["title", "...", "d  4", "end"]
    assert updated_output(["?"], CommandOutput(printed)) == printed.splitlines()
    assert updated_output(["?"], CommandOutput("", printed)) == printed.splitlines()
    assert updated_output(["?"], CommandOutput("")) == []
    long = [f"line {number}" for number in range(MOST_LINES + 1)]
    assert updated_output(["?"], CommandOutput("\n".join(long)))[-2:] == [long[11], "..."]


def test_an_output_that_holds_is_rewritten_to_itself_with_its_own_instants() -> None:
    shown = ["at  2026-11-30 22:37"]
    assert updated_output(shown, CommandOutput("at  2027-01-01 00:00\n")) == shown


def test_blocks_are_replaced_where_they_are() -> None:
    page = "```console\n$ one\n```\ntext\n```console\n$ one\n```\n"
    first, second = blocks(page)
    assert with_blocks(page, {second: "$ one\n1\n2\n"}) == page[:26] + page[26:].replace("$ one\n", "$ one\n1\n2\n")
    assert with_blocks(page, {first: "$ one\n1\n", second: "$ one\n2\n"}).count("$ one\n") == 2
    assert with_blocks(page, {}) == page
