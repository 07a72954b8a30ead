"""A desk with real rows from a rehearsal of the embedded sample, and its dashboard."""

import base64
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from autotrader.config.settings import Settings, parse, template
from autotrader.core.clock import SystemClock
from autotrader.dashboard.auth import AccessGuard
from autotrader.dashboard.view import DeskView
from autotrader.data.sample import eurusd
from autotrader.engine.metrics import Stats
from autotrader.runner.rehearsal import Rehearsal, rehearse
from autotrader.search.task import prepare
from autotrader.status.liveness import RUNNER, holder_name
from autotrader.status.performance import Performance, Tally, performance_of
from autotrader.store import candles, control
from autotrader.store.control import beat, take_lease
from autotrader.store.database import Store, open_store
from autotrader.store.tables import BotBalance, Heartbeat, PortfolioHistory, SystemEvent, Trade

PASSWORD = "a long enough password"
BASIC = "Basic " + base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
CANARIES = {
    "BYBIT_MAIN_API_KEY": "canary-key-1f9d2c",
    "BYBIT_MAIN_API_SECRET": "canary-secret-77ab01",
    "GEMINI_API_KEYS": "canary-gemini-52e8f0",
    "DISCORD_WEBHOOK_URL": "https://discord.example/canary-hook-90c3",
}
EPOCH = 1  # of the runner that the tests play
DARK, LIGHT = "rgb(240, 246, 252)", "rgb(31, 35, 40)"  # ink of a dark and of a light page
THEMES = (  # what the browser says, what a picture stands in, its ink
    ("light", "{}", LIGHT),
    ("dark", "{}", DARK),
    ("light", "<div data-jp-theme-light='false'>{}</div>", DARK),
    ("dark", "<div data-jp-theme-light='true'>{}</div>", LIGHT),
)


def ms(*when: int) -> int:
    return round(datetime(*when, tzinfo=UTC).timestamp() * 1000)


REPLAY = {  # what a runner says of itself that plays the sample again
    "mode": "replay",
    "state": "trading",
    "time_ms": ms(2017, 5, 2, 14),
    "since_ms": ms(2017, 5, 1),
    "until_ms": ms(2017, 5, 6),
    "speed": 14_400.0,
    "feed": None,
}


def heard(settings: Settings, store: Store, **details: Any) -> None:
    "A sign of life of a runner, which holds the lease, and of its bots."
    now_ms = SystemClock().now_ms()
    take_lease(store, RUNNER, holder=holder_name(), clock=SystemClock(), ttl_ms=3_600_000)
    beat(store, RUNNER, now_ms=now_ms, epoch=EPOCH, details=details)
    for bot in settings.sub_bots:
        beat(store, f"{RUNNER}/{bot.id}", now_ms=now_ms, epoch=EPOCH, details={"state": "trading", "why": ""})


@dataclass(frozen=True)
class Desk:
    settings: Settings
    store: Store
    guard: AccessGuard
    url: str

    def beat(self, **details: Any) -> None:
        "A sign of life of the runner and of its bots."
        heard(self.settings, self.store, **details)

    def fall_silent(self, seconds: int = 60) -> None:
        with self.store.begin() as connection:
            connection.execute(sa.delete(Heartbeat))
        beat(self.store, RUNNER, now_ms=SystemClock().now_ms() - 1000 * seconds, epoch=EPOCH, details={})

    @contextmanager
    def runner(self, **details: Any) -> Iterator[None]:
        "A runner that beats, takes every command and answers it."
        is_over = threading.Event()

        def live() -> None:
            while not is_over.is_set():
                self.beat(**details)
                for asked in control.waiting(self.store, epoch=EPOCH):
                    self.answer(asked)
                is_over.wait(0.3)

        thread = threading.Thread(target=live, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join(10)

    def answer(self, asked: control.Request) -> None:
        now = SystemClock().now_ms
        if control.take(self.store, asked.id, epoch=EPOCH, now_ms=now()):
            result = {"message": f"heard {asked.command}"}
            control.answer(self.store, asked.id, state="done", result=result, epoch=EPOCH, now_ms=now())

    def trade(self, order_id: str, *, reason: str = "a test") -> None:
        "A trade that happens now."
        row = {
            "sub_bot_name": "sub_bot_A",
            "symbol": "EURUSD",
            "order_id": order_id,
            "side": "BUY",
            "entry_reason": reason,
        }
        numbers = {"price": Decimal("1.2345"), "quantity": Decimal(77), "fee": Decimal("0.1"), "pnl": Decimal("12.34")}
        with self.store.begin() as connection:
            connection.execute(sa.insert(Trade).values(timestamp=datetime.now(UTC), **row, **numbers))

    def event(self, message: str, level: str = "WARNING") -> None:
        row = {"timestamp": datetime.now(UTC), "level": level, "event_type": "TEST", "message": message}
        with self.store.begin() as connection:
            connection.execute(sa.insert(SystemEvent).values(details=None, **row))

    def snapshot(self, gained_usdt: int) -> Decimal:  # the new total
        "A balance an hour after the newest, so much higher."
        newest = sa.select(PortfolioHistory.__table__).order_by(PortfolioHistory.timestamp.desc()).limit(1)
        of_a = sa.select(BotBalance.__table__).where(BotBalance.bot == "sub_bot_A").order_by(BotBalance.ts_ms.desc())
        with self.store.begin() as connection:
            row = dict(connection.execute(newest).one()._mapping)
            money = dict(connection.execute(of_a.limit(1)).one()._mapping)
            stamp = round(row["timestamp"].timestamp() * 1000) + 3_600_000
            row |= {"timestamp": datetime.fromtimestamp(stamp / 1000, UTC)}
            row["total_balance_usdt"] += gained_usdt
            money |= {"ts_ms": stamp, "equity_usdt": money["equity_usdt"] + gained_usdt}
            del row["id"]
            connection.execute(sa.insert(PortfolioHistory).values(row))
            connection.execute(sa.insert(BotBalance).values(money))
        return Decimal(row["total_balance_usdt"])


@dataclass(frozen=True)
class Played:
    "Three bots that lived through the sample, and what the house says of them."

    settings: Settings
    store: Store
    rehearsal: Rehearsal

    @property
    def view(self) -> DeskView:
        return DeskView(self.settings, self.store, SystemClock(), Tally(self.store))

    def pairs(self) -> list[tuple[Any, Stats, Performance]]:
        "Of each bot its run, the report's statistics, and the status."
        tally, found = Tally(self.store), []
        for bot, played in zip(self.settings.sub_bots, self.rehearsal.performances, strict=True):
            status = performance_of(self.store, bot.id, tally.trips(bot.id, SystemClock().now_ms()))
            assert status is not None
            found.append((played.result, played.result.stats, status))
        return found


def filled(folder: Path, *, bars: int = 1500) -> tuple[Settings, Store, Rehearsal]:
    "A folder with a configuration, and a database with what three bots did in some hundred hours of the sample."
    (folder / "config.toml").write_text(template("sample"))
    settings = parse(template("sample"), path=folder / "config.toml", env=CANARIES)
    store = open_store(settings.database_url, folder=folder, create=True)
    sample = eurusd()
    candles.save(store, sample)
    span = {"since_ms": int(sample.open_ms[0]), "until_ms": int(sample.open_ms[bars])}
    rehearsal = rehearse([prepare(bot, store, settings.backtest, **span) for bot in settings.sub_bots], store)
    (folder / "logs").mkdir()
    (folder / "logs" / "runner.log").write_text("[2026-01-01T00:00:00.000Z] [INFO] [autotrader.runner] began\n")
    return settings, store, rehearsal


def copied(played: Played, folder: Path) -> tuple[Settings, Store]:
    "The same desk in another folder, for tests that change it."
    shutil.copytree(played.settings.folder, folder, dirs_exist_ok=True)
    settings = parse(template("sample"), path=folder / "config.toml", env=CANARIES)
    return settings, open_store(settings.database_url, folder=folder)


def until(holds: Callable[[], object], *, seconds: float = 30) -> None:
    "Wait for something to become true."
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"still not after {seconds} s"
        time.sleep(0.1)
