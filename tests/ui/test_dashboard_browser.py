"""The page in a real browser: the command serves it, a click on a trade explains it, and nothing leaves the machine."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright import sync_api

from projections.queries import Queries
from tests.support.databases import log_of_its_own
from tests.support.waiting import WAIT_TIMEOUT_S, wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE_MS = 1_000 * WAIT_TIMEOUT_S
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Rows of a table are painted on a canvas: its header and each row are 35 pixels high.
ROW_HEIGHT = 35

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def seeded(server: str, seeded_template: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """A database, and the id of the run in it."""
    name, run_id = seeded_template
    with log_of_its_own(server, name) as dsn:
        yield dsn, run_id


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def dashboard(dsn: str) -> Generator[str]:
    """The page's address, served by the command itself."""
    port = free_port()
    command = [sys.executable, "-c", "from ui.cli import main; main()", "dashboard", "--port", str(port)]
    # A group of its own: the command's child must not outlive the test, however the command ends.
    process = subprocess.Popen(
        command,
        env=os.environ | {"QUANTAGENT_DSN": dsn},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        wait_until_served(process, f"http://127.0.0.1:{port}/_stcore/health")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=WAIT_TIMEOUT_S)


def wait_until_served(process: subprocess.Popen[bytes], health: str) -> None:
    def is_served() -> bool:
        assert process.poll() is None, f"the command ended: {process.communicate()[0].decode()}"
        try:
            with urllib.request.urlopen(health, timeout=WAIT_TIMEOUT_S) as reply:
                return reply.status == 200
        except OSError:
            return False

    wait_until(is_served, f"nothing answers at {health}")


@contextmanager
def browser_page(width: int, height: int) -> Generator[tuple[sync_api.Page, list[str]]]:
    """A page, and what it did wrong: errors on its console and requests that leave the machine."""
    wrongs: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(PATIENCE_MS)

        def note_message(message: sync_api.ConsoleMessage) -> None:
            if message.type == "error":
                wrongs.append(f"console: {message.text}")

        def note_request(request: sync_api.Request) -> None:
            if urlsplit(request.url).hostname not in (None, "127.0.0.1"):
                wrongs.append(f"request: {request.url}")

        page.on("console", note_message)
        page.on("pageerror", lambda error: wrongs.append(f"exception: {error}"))
        page.on("request", note_request)
        page.on("websocket", lambda opened: wrongs.extend(_foreign(opened.url)))
        yield page, wrongs
        browser.close()


def _foreign(url: str) -> list[str]:
    return [] if urlsplit(url).hostname == "127.0.0.1" else [f"websocket: {url}"]


def wait_until_drawn(page: sync_api.Page) -> None:
    """Until both charts are painted, and the script has come to rest."""
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 2")
    page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for()


def click_row(page: sync_api.Page, row: int) -> None:
    table = page.locator("[data-testid=stDataFrame]").first
    table.scroll_into_view_if_needed()
    table.locator("canvas").first.click(position={"x": 18, "y": ROW_HEIGHT * (row + 1.5)}, force=True)


def screenshot(page: sync_api.Page, name: str) -> None:
    # One folder per person: the first who made a common one would shut the others out.
    folder = Path(tempfile.gettempdir()) / f"quantagent-screenshots-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")
    print(f"screenshot: {folder / name}.png")


@pytest.mark.slow(15)
def test_a_click_on_a_trade_shows_its_whole_chain_and_nothing_leaves_the_machine(seeded: tuple[str, str]) -> None:
    dsn, run_id = seeded
    with Queries(dsn) as queries:
        third = queries.latest_trades(run_id)[2]
    with dashboard(dsn) as address, browser_page(1440, 900) as (page, wrongs):
        page.goto(address)
        page.get_by_text("Why trade-", exact=False).first.wait_for()
        wait_until_drawn(page)
        assert f"run={run_id}" in page.url
        click_row(page, 2)
        page.get_by_text(f"Why {third['trade_id']}", exact=True).wait_for()
        wait_until_drawn(page)
        for step in ("Analysis", "Signal", "Risk decision", "Order", "Fill"):
            page.locator("strong", has_text=step).first.wait_for()
        page.get_by_text("incompatible position", exact=True).first.wait_for()
        page.get_by_text("Raw events").click()
        page.get_by_text(f"quantagent why {third['trade_id']} --run {run_id[:8]}").wait_for()
        page.get_by_text("RiskDecided.v1").first.wait_for()
        screenshot(page, "wide")
        assert not wrongs


@pytest.mark.slow(10)
def test_a_phone_shows_the_page_without_scrolling_sideways(seeded: tuple[str, str]) -> None:
    dsn, _ = seeded
    with dashboard(dsn) as address, browser_page(390, 844) as (page, wrongs):
        page.goto(address)
        wait_until_drawn(page)
        page.get_by_text("Signals", exact=True).click()
        page.get_by_text(re.compile("^DENIED [0-9]")).first.click()
        page.get_by_text("not reached: denied by the risk check").wait_for()
        wait_until_drawn(page)
        main = "document.querySelector('[data-testid=stMain]')"
        assert page.evaluate(f"{main}.scrollWidth <= {main}.clientWidth")
        screenshot(page, "phone")
        assert not wrongs
