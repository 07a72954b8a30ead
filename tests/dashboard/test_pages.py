"""The pages in a real browser: they show the rows, stay true without a reload, ask nobody else, and take no click that nobody hears."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from visited import PASSWORD, Desk, until

from autotrader.dashboard.pages import PAGES, Shell
from autotrader.dashboard.reads import commands_of

LOOKS = {
    "light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
}


@dataclass
class Visit:
    "A browser window that remembers what went wrong in it."

    desk: Desk
    page: Any
    complaints: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on(
            "console", lambda said: self.complaints.append(said.text) if said.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self._note(request.url))

    def _note(self, url: str) -> None:
        if not url.startswith((self.desk.url, self.desk.url.replace("http", "ws"), "data:", "blob:")):
            self.outside.append(url)

    def go(self, name: str, sign: str) -> None:
        "Open a page, and wait for what shows that its data are there."
        self.page.goto(f"{self.desk.url}/#{name}")
        self.page.get_by_text(sign).first.wait_for(timeout=30_000)

    def has(self, text: str) -> bool:
        "Whether it is written somewhere on the page."
        return bool(self.page.get_by_text(text).count())


@pytest.fixture
def visit(desk: Desk, browser: Any, request: pytest.FixtureRequest) -> Iterator[Visit]:
    look = LOOKS[getattr(request, "param", "light")]
    context = browser.new_context(**look, http_credentials={"username": "admin", "password": PASSWORD})
    visit = Visit(desk, context.new_page())
    yield visit
    context.close()
    assert visit.complaints == [] and visit.outside == []


SIGNS = {
    "overview": "Newest trades",
    "trades": "1–50 of",
    "portfolio": "Max. drawdown",
    "logs": "newest line first",
    "control": "Commands",
}


@pytest.mark.parametrize("visit", LOOKS, indirect=True)
def test_every_page_shows_its_rows_in_every_look(visit: Visit, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    look = request.node.callspec.params["visit"]
    folder = Path(os.environ.get("AUTOTRADER_SCREENSHOTS", tmp_path))
    visit.desk.beat()
    for name in PAGES:
        visit.go(name, SIGNS[name])
        visit.page.wait_for_timeout(300)  # what came last is drawn
        visit.page.screenshot(path=folder / f"{name}_{look}.png")
        assert visit.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
        assert visit.has("sub_bot_A") or name == "logs"
    background = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    red, *_ = (int(part) for part in background.strip("rgb()").split(",")[:3])
    assert (red < 60) == (look == "dark"), background


def test_a_new_trade_an_event_and_a_log_line_appear_without_a_reload(visit: Visit) -> None:
    visit.desk.beat()
    visit.go("overview", "Newest trades")
    visit.page.evaluate("window.unchanged = true")
    visit.desk.trade("live-1", reason="<b id=injected>seen live</b>")
    visit.page.get_by_text("seen live").first.wait_for(timeout=10_000)
    assert visit.page.locator("#injected").count() == 0  # what a database holds is text, not markup
    visit.page.get_by_role("link", name="Trades").click()
    visit.page.get_by_text("1–50 of").first.wait_for(timeout=10_000)
    visit.desk.trade("live-2", reason="seen next")
    visit.page.get_by_text("seen next").first.wait_for(timeout=10_000)
    visit.page.get_by_role("link", name="Logs").click()
    visit.page.get_by_text("newest line first").wait_for(timeout=10_000)
    with (visit.desk.settings.folder / "logs" / "runner.log").open("a") as log:
        log.write("[2026-01-01T00:00:01.000Z] [WARNING] [autotrader.bots] grown by a line\n")
    visit.page.get_by_text("grown by a line").wait_for(timeout=10_000)
    assert visit.page.evaluate("window.unchanged")


def test_trades_are_paged_filtered_and_ordered(visit: Visit) -> None:
    visit.go("trades", "1–50 of")
    visit.page.get_by_role("button", name="Older").click()
    visit.page.get_by_text("51–100 of").wait_for(timeout=10_000)
    visit.page.get_by_role("button", name="Newer").click()
    visit.page.get_by_text("1–50 of").wait_for(timeout=10_000)
    visit.page.get_by_role("combobox").first.click()
    visit.page.get_by_role("menuitem", name="sub_bot_C").click()
    until(lambda: not visit.has("sub_bot_B"))
    assert visit.has("sub_bot_C")


def test_links_bookmarks_and_the_back_button_name_the_page(visit: Visit) -> None:
    visit.go("portfolio", "Max. drawdown")
    visit.page.get_by_role("link", name="Logs").click()
    visit.page.get_by_text("newest line first").wait_for(timeout=10_000)
    assert visit.page.url.endswith("#logs")
    visit.page.go_back()
    visit.page.get_by_text("Max. drawdown").wait_for(timeout=10_000)


def test_a_silent_runner_is_said_on_every_page_and_control_takes_no_click(visit: Visit) -> None:
    visit.desk.fall_silent(125)
    for name in PAGES:
        visit.go(name, "runner silent for 2 min")
    stop = visit.page.get_by_role("button", name="Stop entries")
    visit.page.get_by_text("has been silent for").wait_for(timeout=10_000)
    assert stop.count() == 4 and all(stop.nth(i).is_disabled() for i in range(4))
    visit.desk.beat()
    visit.page.get_by_text("runner alive").wait_for(timeout=10_000)
    until(stop.first.is_enabled)


def test_stop_goes_out_at_once_and_closing_positions_asks_back(visit: Visit) -> None:
    visit.desk.beat()
    visit.go("control", "Commands")
    before = len(commands_of(visit.desk.store))
    stop = visit.page.get_by_role("button", name="Stop entries").first
    until(stop.is_enabled)
    stop.click()
    until(lambda: len(commands_of(visit.desk.store)) == before + 1)
    assert (commands_of(visit.desk.store)[0].command, commands_of(visit.desk.store)[0].bot) == ("stop", None)
    visit.desk.beat()
    visit.page.get_by_role("button", name="Close positions").nth(1).click()
    visit.page.get_by_text("Every open position of sub_bot_A").wait_for(timeout=10_000)
    assert len(commands_of(visit.desk.store)) == before + 1
    visit.desk.beat()
    visit.page.get_by_role("button", name="Do it").click()
    until(lambda: len(commands_of(visit.desk.store)) == before + 2)
    newest = commands_of(visit.desk.store)[0]
    assert (newest.command, newest.bot, newest.who) == ("flatten", "sub_bot_A", "admin (dashboard)")
    visit.page.get_by_text("waiting").first.wait_for(timeout=10_000)


def test_a_page_that_is_closed_asks_no_more(desk: Desk, browser: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    refreshed: set[int] = set()
    refresh = Shell.refresh

    def noted(self: Shell) -> None:
        refreshed.add(id(self))
        refresh(self)

    monkeypatch.setattr(Shell, "refresh", noted)
    context = browser.new_context(http_credentials={"username": "admin", "password": PASSWORD})
    visit = Visit(desk, context.new_page())
    visit.go("trades", "1–50 of")
    until(lambda: refreshed)
    context.close()

    def is_quiet() -> bool:
        refreshed.clear()
        time.sleep(2.5)
        return not refreshed

    until(is_quiet, seconds=60)
