"""A desk with real rows from a rehearsal of the embedded sample, and its dashboard."""

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import sqlalchemy as sa

from autotrader.config.settings import Settings, parse, template
from autotrader.core.clock import SystemClock
from autotrader.dashboard.auth import Guard
from autotrader.data.sample import eurusd
from autotrader.desk.backtest import prepare
from autotrader.runner.rehearsal import rehearse
from autotrader.store import candles
from autotrader.store.control import beat
from autotrader.store.database import Store, open_store
from autotrader.store.tables import Heartbeat, Trade

PASSWORD = "a long enough password"
BASIC = "Basic " + base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
CANARIES = {
    "BYBIT_MAIN_API_KEY": "canary-key-1f9d2c",
    "BYBIT_MAIN_API_SECRET": "canary-secret-77ab01",
    "GEMINI_API_KEYS": "canary-gemini-52e8f0",
    "DISCORD_WEBHOOK_URL": "https://discord.example/canary-hook-90c3",
}


@dataclass(frozen=True)
class Desk:
    settings: Settings
    store: Store
    guard: Guard
    url: str

    def beat(self) -> None:
        beat(self.store, "runner", now_ms=SystemClock().now_ms(), epoch=1, details={})

    def fall_silent(self, seconds: int = 60) -> None:
        with self.store.begin() as connection:
            connection.execute(sa.delete(Heartbeat))
        beat(self.store, "runner", now_ms=SystemClock().now_ms() - 1000 * seconds, epoch=1, details={})

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


def filled(folder: Path, *, bars: int = 1500) -> tuple[Settings, Store]:
    "A folder with a configuration, and a database with what three bots did in some hundred hours of the sample."
    (folder / "config.toml").write_text(template("sample"))
    settings = parse(template("sample"), path=folder / "config.toml", env=CANARIES)
    store = open_store(settings.database_url, folder=folder, create=True)
    sample = eurusd()
    candles.save(store, sample)
    span = {"since_ms": int(sample.open_ms[0]), "until_ms": int(sample.open_ms[bars])}
    rehearse([prepare(bot, store, settings.backtest, **span) for bot in settings.sub_bots], store)
    (folder / "logs").mkdir()
    (folder / "logs" / "runner.log").write_text("[2026-01-01T00:00:00.000Z] [INFO] [autotrader.runner] began\n")
    return settings, store


def until(holds: Callable[[], object], *, seconds: float = 15) -> None:
    "Wait for something to become true."
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"still not after {seconds} s"
        time.sleep(0.1)
