"""Draw the README's picture of the dashboard again: the overview of three bots in a replay of the embedded sample.

Wants Chromium on the path. Nothing but loopback is asked; the picture shows what a rehearsal really did.
"""

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from autotrader.config.settings import Settings, parse, template
from autotrader.core.clock import SystemClock
from autotrader.dashboard.app import create_app
from autotrader.dashboard.auth import make_login
from autotrader.data.sample import eurusd
from autotrader.runner.rehearsal import rehearse
from autotrader.search.task import prepare
from autotrader.status.liveness import RUNNER, holder_name
from autotrader.store import candles
from autotrader.store.control import beat, take_lease
from autotrader.store.database import Store, open_store

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "pictures" / "dashboard.png"
WIDTH, HEIGHT = 1280, 800
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
BARS = 1500  # of the sample that are over
NAME, PASSWORD = "admin", "drawn once and thrown away"


def rehearsed(folder: Path) -> tuple[Settings, Store]:
    "A desk whose bots lived through the beginning of the sample, and whose runner says that it plays on."
    settings = parse(template("sample"), path=folder / "config.toml", env={})
    store, sample = open_store(settings.database_url, folder=folder, create=True), eurusd()
    candles.save(store, sample)
    stamps = [int(sample.open_ms[bar]) for bar in (0, BARS, -1)]
    span = {"since_ms": stamps[0], "until_ms": stamps[1]}
    rehearse([prepare(bot, store, settings.backtest, **span) for bot in settings.sub_bots], store)
    times = dict(zip(("since_ms", "time_ms", "until_ms"), stamps, strict=True))
    details = {"mode": "replay", "state": "trading", "speed": 28_800.0, "feed": None, **times}
    now_ms = SystemClock().now_ms()
    take_lease(store, RUNNER, holder=holder_name(), clock=SystemClock(), ttl_ms=600_000)
    said = {RUNNER: details} | {f"{RUNNER}/{bot.id}": {"state": "trading", "why": ""} for bot in settings.sub_bots}
    for name, told in said.items():
        beat(store, name, now_ms=now_ms + 600_000, epoch=1, details=told)  # for as long as it is drawn
    return settings, store


@contextmanager
def served(settings: Settings, store: Store) -> Iterator[str]:
    "The dashboard on a free port; its address."
    app = create_app(settings, store, login=make_login(NAME, PASSWORD), clock=SystemClock())
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_config=None, log_level="warning", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise SystemExit("the dashboard did not start")
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def photograph(browser: Any, url: str) -> bytes:
    "The overview by day, as PNG."
    look = {"viewport": {"width": WIDTH, "height": HEIGHT}, "color_scheme": "light", "reduced_motion": "reduce"}
    context = browser.new_context(**look, http_credentials={"username": NAME, "password": PASSWORD})
    page = context.new_page()
    page.goto(f"{url}/#overview")
    for sign in ("Replay 2017-", "Newest trades", "donchian_breakout"):
        page.get_by_text(sign).first.wait_for(timeout=60_000)
    page.wait_for_timeout(1_500)  # letters and lines have come
    picture: bytes = page.screenshot()
    context.close()
    return picture


def drawn(browser: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        settings, store = rehearsed(Path(folder))
        with store, served(settings, store) as url:
            return photograph(browser, url)


def main() -> None:
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        raise SystemExit("no chromium on the path: install it to draw the picture")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        PICTURE.write_bytes(drawn(browser))
        browser.close()


if __name__ == "__main__":
    main()
