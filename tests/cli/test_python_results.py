"""A backtest in Python: results once it has run, replays that are results and no backtests, one system for all."""

from __future__ import annotations

import pytest

import quantagent
from engine.core.errors import BadInput
from ui import app as composition


@pytest.fixture
def here(sample_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTAGENT_DSN", sample_dsn)


RESULTS = ("run_id", "digest", "metrics", "trades", "orders", "equity", "denials", "no_trades", "data_notes")


@pytest.mark.parametrize("name", RESULTS)
def test_before_it_has_run_a_backtest_has_no_results(here: None, name: str) -> None:
    test = quantagent.Backtest(["BTC-USD"], "2017-09-01", "2017-09-08")
    with pytest.raises(BadInput, match=r"call run\(\) first"):
        getattr(test, name)
    with pytest.raises(BadInput, match=r"call run\(\) first"):
        test.replay()
    assert test.report is None


def test_one_opened_system_serves_the_run_and_all_reads(here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with quantagent.open_app() as app:

        def refuse(*_: object) -> None:
            raise AssertionError("another system was opened")

        monkeypatch.setattr(composition, "_access", refuse)
        test = quantagent.Backtest(["BTC-USD"], "2017-09-01", "2017-09-08", app=app).run()
        classic = test.replay("classic")
        assert test.metrics["total_trades"] == test.trades.filter(test.trades["status"] == "closed").height
        assert (test.no_trades, classic.digest != test.digest) == ("", True)
        assert not test.equity.is_empty()
        # An analysis may say LONG at the very close at which the position's time is up.
        assert set(test.denials["rule"]) <= {"incompatible_position"}
        assert all(note.symbol == "BTC-USD" for note in test.data_notes)


def test_a_replay_is_no_backtest_that_could_be_run(here: None) -> None:
    again = quantagent.Backtest(["BTC-USD"], "2017-09-01", "2017-09-08").run().replay("classic")
    assert not isinstance(again, quantagent.Backtest)
    assert not hasattr(again, "run")
    assert again.report is not None
    assert again.report.result.request.profile == "classic"


def test_names_of_earlier_versions_work_and_warn() -> None:
    portfolio = quantagent.PortfolioManager(["BTC-USD"])
    test = quantagent.Backtest(["BTC-USD"])
    with pytest.warns(DeprecationWarning, match=r"quantagent\.Opinion is now quantagent\.Decision"):
        assert quantagent.Opinion is quantagent.Decision
    with pytest.warns(DeprecationWarning, match="desk is now account"):
        assert portfolio.desk is portfolio.account
    with pytest.warns(DeprecationWarning, match="question is now request"):
        assert test.question is test.request
    with pytest.warns(DeprecationWarning, match="answer is now report"):
        assert test.answer is test.report
