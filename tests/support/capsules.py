"""A run packed into a capsule, and changes to the packed file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import pytest

from engine.core.market import Timeframe
from tests.support.commands import answer
from tests.support.databases import database
from tests.support.workloads import write_signals
from ui.app import open_app
from ui.daemon.paper import PaperDaemon, PaperPlan
from ui.services.backtest import BacktestRequest, run_backtest
from ui.services.data import import_sample
from ui.services.replay import run_replay
from ui.settings import Settings

# A weekend: one of the two symbols has a gap.
START, END = datetime(2017, 8, 15, tzinfo=UTC), datetime(2017, 8, 21, tzinfo=UTC)


class Origin(NamedTuple):
    """The machine where the runs were made: its environment, the ids of its runs, and their capsules."""

    env: dict[str, str]
    dsn: str
    runs: dict[str, str]
    capsules: dict[str, Path]


@pytest.fixture(scope="session")
def origin(server: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    base = tmp_path_factory.mktemp("origin")
    with database(server, template) as dsn:
        with open_app(Settings(base, dsn, "tester")) as app:
            import_sample(app)
            made = run_backtest(app, BacktestRequest(start=START, end=END)).result.request.run_id
        # The log was anchored behind the first run.
        with open_app(Settings(base, dsn, "tester")) as app:
            bars = [app.catalogue.bars("BTC-USD", Timeframe.H1, START, END)]
            signals = write_signals(base / "crossing.csv", bars)
            imported = run_backtest(app, BacktestRequest(["BTC-USD"], start=START, end=END, signals=signals))
            daemon = PaperDaemon(app, PaperPlan(symbols=["BTC-USD"], start=START, end=END))
            assert daemon.run() is not None
            ids = {
                "backtest": made,
                "replay": run_replay(app, made, "classic").result.request.run_id,
                "imported": imported.result.request.run_id,
                "paper": daemon.run_id,
            }
        env = {**os.environ, "QUANTAGENT_DSN": dsn, "QUANTAGENT_HOME": str(base), "QUANTAGENT_ACTOR": "tester"}
        for kind, run_id in ids.items():
            answer(env, "audit", "bundle", run_id, base / f"{kind}.zip")
        yield Origin(env, dsn, ids, {kind: base / f"{kind}.zip" for kind in ids})


def repack(source: Path, target: Path, changes: Mapping[str, bytes | None], sign: bool = True, **facts: Any) -> Path:
    """A capsule with other members; signed off, its manifest names them as if they had always been so."""
    with ZipFile(source) as zipped:
        members = {info.filename: zipped.read(info) for info in zipped.infolist()}
    manifest = json.loads(members.pop("manifest.json"))
    members = {name: content for name, content in {**members, **changes}.items() if content is not None}
    if sign:
        manifest["members"] = {
            name: {"bytes": len(content), "sha256": sha256(content).hexdigest()} for name, content in members.items()
        }
    if sign and "bars.csv" in members:
        manifest["dataset_digest"] = sha256(members["bars.csv"]).hexdigest()
    with ZipFile(target, "w", ZIP_DEFLATED) as zipped:
        for name, content in {**members, "manifest.json": json.dumps({**manifest, **facts}).encode()}.items():
            zipped.writestr(ZipInfo(name), content, ZIP_DEFLATED)
    return target


def member(source: Path, name: str) -> bytes:
    with ZipFile(source) as zipped:
        return zipped.read(name)


def edited(name: str, old: bytes, new: bytes) -> Callable[[Path], dict[str, bytes | None]]:
    """A change to the first place in a member."""

    def change(source: Path) -> dict[str, bytes | None]:
        content = member(source, name)
        assert old in content
        return {name: content.replace(old, new, 1)}

    return change
