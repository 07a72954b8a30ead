"""The pages in a real browser: they show the rows, stay true without a reload, ask nobody else, and take no click that nobody hears."""

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from visited import PASSWORD, REPLAY, Desk, until

from autotrader.core.clock import SystemClock
from autotrader.dashboard import view
from autotrader.dashboard.view import DeskView
from autotrader.status.bots import bots_of
from autotrader.status.events import commands_of
from autotrader.status.performance import Tally

WAIT_MS = 30_000
LOOKS = {
    "light": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
}
CUT_OFF = """() => {
  const found = [];
  const look = root => { for (const e of root.children) {
    if (e.matches('.main-content, section, .card, table, pre, nav') && e.scrollWidth > e.clientWidth + 1) found.push(e.outerHTML.slice(0, 200));
    if (e.shadowRoot) look(e.shadowRoot);
    look(e);
  } };
  look(document);
  return found;
}"""


@dataclass
class Visit:
    "A browser window that remembers what went wrong in it."

    desk: Desk
    page: Any
    complaints: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(WAIT_MS)
        self.page.on(
            "console", lambda said: self.complaints.append(said.text) if said.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self._note(request.url))
        self.page.on("websocket", lambda socket: self._note(socket.url))

    def _note(self, url: str) -> None:
        if not url.startswith((self.desk.url, self.desk.url.replace("http", "ws"), "data:", "blob:")):
            self.outside.append(url)

    def go(self, name: str, sign: str = "") -> None:
        "Open a page, and wait for what shows that its data are there."
        self.page.goto(f"{self.desk.url}/#{name}")
        self.sees(sign or SIGNS[name])

    def sees(self, text: str) -> None:
        "Wait until it is written on the page."
        self.page.get_by_text(text).first.wait_for()

    def has(self, text: str) -> bool:
        return bool(self.page.get_by_text(text).count())

    def press(self, name: str, number: int = 0) -> None:
        self.page.get_by_role("button", name=name, exact=True).nth(number).click()


@pytest.fixture(scope="module")
def windows(desk: Desk, browser: Any) -> Iterator[dict[str, Any]]:
    "A browser per look; its pages share what they loaded."
    login = {"username": "admin", "password": PASSWORD}
    opened = {look: browser.new_context(**how, http_credentials=login) for look, how in LOOKS.items()}
    yield opened
    for context in opened.values():
        context.close()


@pytest.fixture
def visit(desk: Desk, windows: dict[str, Any], request: pytest.FixtureRequest) -> Iterator[Visit]:
    visit = Visit(desk, windows[getattr(request, "param", "light")].new_page())
    yield visit
    visit.page.close()
    assert visit.complaints == [] and visit.outside == []


SIGNS = {
    "overview": "Newest trades",
    "trades": "1–50 of",
    "portfolio": "Max. drawdown",
    "logs": "newest line first",
    "control": "Commands",
}
ROWS = {  # what only rows of the database bring
    "overview": ["rsi_reversion", "Open positions", "Last trade"],
    "trades": ["sub_bot_A", "ema_trend long", "1.1"],
    "portfolio": ["sub_bot_C", "33."],
    "logs": ["losing round trips in a row", "[autotrader.runner] began"],
    "control": ["3 with a position", "sub_bot_B"],
}


def is_dark(visit: Visit) -> bool:
    background = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    return int(background.strip("rgb()").split(",")[0]) < 60


@pytest.mark.parametrize("visit", LOOKS, indirect=True)
def test_every_page_shows_its_rows_in_every_look(visit: Visit, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    look = request.node.callspec.params["visit"]
    folder = Path(os.environ.get("AUTOTRADER_SCREENSHOTS", tmp_path))
    with visit.desk.runner(**REPLAY):
        for name in SIGNS:
            visit.go(name)
            for text in ROWS[name]:
                visit.sees(text)
            visit.sees("Replay 2017-05-02 14:00 · 14,400×")
            assert visit.page.evaluate(CUT_OFF) == [], name
            visit.page.screenshot(path=folder / f"{name}_{look}.png")
    until(lambda: is_dark(visit) == (look == "dark"))


def test_what_is_new_appears_without_a_reload(visit: Visit) -> None:
    visit.desk.beat()
    visit.go("overview")
    visit.page.evaluate("window.unchanged = true")
    curve = visit.page.get_by_role("img", name="equity from").first
    before = curve.get_attribute("aria-label")
    total = visit.desk.snapshot(500)
    visit.sees(f"{total:,.2f}")
    until(lambda: curve.get_attribute("aria-label") != before)
    assert f"to {total:,.2f}" in str(curve.get_attribute("aria-label"))  # the curve goes on to it
    visit.press("1D")
    until(lambda: "equity from 30,000.00" not in str(curve.get_attribute("aria-label")))  # another day's beginning
    visit.desk.trade("live-1", reason="<b id=injected>seen live</b>")
    visit.sees("seen live")
    assert visit.page.locator("#injected").count() == 0  # what a database holds is text, not markup
    visit.page.get_by_role("link", name="Trades").click()
    visit.sees("1–50 of")
    visit.desk.trade("live-2", reason="seen next")
    visit.sees("seen next")
    visit.page.get_by_role("link", name="Logs").click()
    visit.sees("newest line first")
    visit.desk.event("something that people should know of")
    visit.sees("something that people should know of")
    with (visit.desk.settings.folder / "logs" / "runner.log").open("a") as log:
        log.write("[2026-01-01T00:00:01.000Z] [WARNING] [autotrader.bots] grown by a line\n")
    visit.sees("grown by a line")
    assert visit.page.evaluate("window.unchanged")


def test_trades_are_paged_and_filtered_by_bot_side_and_day(visit: Visit) -> None:
    visit.go("trades")
    visit.press("Older")
    visit.sees("51–100 of")
    visit.press("Newer")
    visit.sees("1–50 of")
    for box, choice, gone in ((0, "sub_bot_C", "sub_bot_B"), (1, "Sell", "▲")):
        visit.page.get_by_role("combobox").nth(box).click()
        visit.page.get_by_role("menuitem", name=choice).click()
        until(lambda gone=gone: not visit.has(gone))
        assert visit.has("▼") and visit.has("sub_bot_C")
    for label in ("From", "Until"):
        visit.page.get_by_role("group", name=label).get_by_role("spinbutton").first.click()
        visit.page.keyboard.type("20170601", delay=30)
    until(lambda: visit.has("2017-06-01 ") and not visit.has("2017-05-") and not visit.has("2017-07-"))
    visit.page.keyboard.type("1999")  # the year of the day that is being written
    visit.page.get_by_role("group", name="From").get_by_role("spinbutton").first.click()
    visit.page.keyboard.type("20300101", delay=30)
    visit.sees("No trade matches")


def test_addresses_name_the_page_and_a_page_that_is_closed_asks_no_more(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autotrader.dashboard.shell import Shell

    refreshed: set[int] = set()
    refresh = Shell.refresh

    def noted(self: Shell) -> None:
        refreshed.add(id(self))
        refresh(self)

    monkeypatch.setattr(Shell, "refresh", noted)
    visit.go("portfolio")
    visit.page.get_by_role("link", name="Logs").click()
    visit.sees("newest line first")
    assert visit.page.url.endswith("#logs")
    visit.page.go_back()
    visit.sees("Max. drawdown")
    until(lambda: refreshed)
    visit.page.close()

    def is_quiet() -> bool:
        refreshed.clear()
        time.sleep(2.5)
        return not refreshed

    until(is_quiet, seconds=60)


def test_a_silent_runner_is_said_on_every_page_and_control_takes_no_click(visit: Visit) -> None:
    visit.desk.fall_silent(125)
    for name in SIGNS:
        visit.go(name)
        visit.sees("runner silent for 2 min")
        visit.sees("silent for")
    buttons = [visit.page.get_by_role("button", name=name, exact=True) for name in ("Stop", "Resume", "Flatten")]
    visit.sees("has been silent for")
    assert visit.has("silent") and visit.has("0 of 3 trading")  # nobody knows what they do now
    for button in buttons:
        until(lambda button=button: button.count() == 4)
        assert all(button.nth(i).is_disabled() for i in range(4))
    with visit.desk.runner(mode="live", state="trading", feed="down since 12:00"):
        visit.sees("feed down")  # alive, and it says what it lacks
        until(lambda: all(button.first.is_enabled() for button in buttons))
    visit.desk.fall_silent(125)  # while somebody looks
    until(lambda: all(button.nth(i).is_disabled() for button in buttons for i in range(4)))


def test_a_command_asks_back_goes_out_and_shows_its_answer(visit: Visit) -> None:
    before = len(commands_of(visit.desk.store))
    visit.desk.beat()
    visit.go("control")
    stop = visit.page.get_by_role("button", name="Stop", exact=True)
    until(stop.first.is_enabled)
    visit.press("Flatten", 1)
    visit.sees("sub_bot_A: every open position is closed at market")
    visit.press("Cancel")
    visit.page.get_by_text("every open position").first.wait_for(state="hidden")
    visit.desk.beat()
    visit.press("Stop")
    visit.sees("All bots: no new positions from now on")
    assert len(commands_of(visit.desk.store)) == before  # nothing yet
    visit.desk.beat()
    visit.press("Yes, stop")
    visit.sees("sent, waiting for the runner")
    newest = commands_of(visit.desk.store)[0]
    assert (newest.command, newest.bot, newest.state) == ("stop", None, "waiting")
    assert newest.who == "admin@127.0.0.1 (dashboard)"
    with visit.desk.runner():
        visit.sees("heard stop")
        assert visit.has(f"Command {newest.id}, stop all bots: done after")
        until(lambda: not visit.has("waiting for the runner"))


def test_many_visitors_ask_the_database_no_more_than_one(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from autotrader.dashboard.shell import Shell

    here, asked = threading.get_ident(), list[float]()

    def noted(*words: Any) -> Any:
        if threading.get_ident() == here:  # pages of other tests may still be open
            asked.append(time.monotonic())
        return bots_of(*words)

    monkeypatch.setattr(view, "bots_of", noted)
    shared = DeskView(desk.settings, desk.store, SystemClock(), Tally(desk.store))
    shells = [Shell(shared) for _ in range(8)]
    for shell in shells:
        shell.show("overview")
    end = time.monotonic() + 3
    while time.monotonic() < end:
        for shell in shells:
            shell.refresh()
    gaps = [after - before for before, after in pairwise(asked)]
    assert len(asked) > 1 and min(gaps) > 0.8
