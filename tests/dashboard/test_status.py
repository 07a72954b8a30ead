"""What the dashboard asks costs the same however long the history is, and says what the rows say."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from visited import Played, heard, ms

from autotrader.config.settings import Settings, parse, template
from autotrader.core.clock import DAY_MS, SystemClock
from autotrader.status import trades
from autotrader.status.bots import bots_of
from autotrader.status.events import commands_of, events_of
from autotrader.status.performance import daily_equity, performance_of, trips_of
from autotrader.status.portfolio import equity_of, portfolio_of
from autotrader.status.trades import TradeFilter, trades_of
from autotrader.store.database import Store, open_store
from autotrader.store.tables import BotBalance, Order, PortfolioHistory, SystemEvent, Trade

SINCE_MS, DAYS = ms(2024, 1, 1), 300
MIDDLE = f"{(SINCE_MS + DAYS * DAY_MS // 2) * 1000}-7"
SETTINGS = parse(template(), path=Path("config.toml"), env={})
BOTS = [bot.id for bot in SETTINGS.sub_bots]
MONEY = [column.name for column in BotBalance.__table__.columns if column.name not in ("bot", "ts_ms")]
TOTALS = [column.name for column in PortfolioHistory.__table__.columns if column.name not in ("id", "timestamp")]
QUESTIONS: dict[str, Callable[[Store], object]] = {
    "bots": lambda store: bots_of(store, SETTINGS, SINCE_MS),
    "trades": lambda store: trades_of(store, TradeFilter()),
    "a deep page": lambda store: trades_of(store, TradeFilter(), cursor=MIDDLE),
    "trades of a bot": lambda store: trades_of(store, TradeFilter(bot=BOTS[1])),
    "trades of a side and time": lambda store: trades_of(
        store, TradeFilter(bot=BOTS[1], side="SELL", since_ms=SINCE_MS, until_ms=SINCE_MS + DAYS * DAY_MS // 2)
    ),
    "portfolio": lambda store: portfolio_of(store),
    "equity of all": lambda store: equity_of(store, points=300),
    "equity of a week": lambda store: equity_of(store, points=300, days=7),
    "equity of a bot": lambda store: equity_of(store, bot=BOTS[0], points=2000),
    "performance": lambda store: performance_of(store, BOTS[0], trips_of(store, BOTS[0], after=10**9)),
    "round trips that are new": lambda store: trips_of(store, BOTS[0], after=newest_trip(store) - 5),
    "events": lambda store: events_of(store, before_id=500),
    "commands": lambda store: commands_of(store),
}


def newest_trip(store: Store) -> int:
    with store.read() as connection:
        newest = sa.select(Order.trip).where(Order.bot == BOTS[0]).order_by(Order.trip.desc()).limit(1)
        return int(connection.execute(newest).scalar_one())


def stored(folder: Path, *, rows: int) -> Store:
    "The same days with so many rows of everything."
    store = open_store(f"sqlite:///{rows}.db", folder=folder, create=True)
    stamps = [SINCE_MS + i * DAYS * DAY_MS // rows for i in range(rows)]
    times = [datetime.fromtimestamp(stamp / 1000, UTC) for stamp in stamps]
    numbers = dict.fromkeys(("price", "quantity", "fee", "pnl"), Decimal(1))
    trades = [
        {
            "timestamp": time,
            "sub_bot_name": BOTS[i % 3],
            "symbol": "BTCUSDT",
            "order_id": f"o{i}",
            "side": ("BUY", "SELL")[i % 2],
            **numbers,
        }
        for i, time in enumerate(times)
    ]
    orders = [
        {
            "link_id": f"o{i}",
            "bot": BOTS[i % 3],
            "symbol": "BTCUSDT",
            "trip": i // 6,
            "purpose": ("ENTRY", "EXIT")[i // 3 % 2],
            "side": ("BUY", "SELL")[i // 3 % 2],
            "qty": Decimal(1),
            "kind": "MARKET",
            "status": "FILLED",
            "is_reduce_only": False,
            **dict.fromkeys(("key", "seq", "created_ms", "updated_ms"), stamp),
        }
        for i, stamp in enumerate(stamps)
    ]
    events = [{"timestamp": time, "level": "INFO", "event_type": "TEST", "message": "a test"} for time in times]
    with store.begin() as connection:
        connection.execute(sa.insert(Trade), trades)
        connection.execute(sa.insert(Order), orders)
        connection.execute(
            sa.insert(BotBalance),
            [
                {"bot": BOTS[0], "ts_ms": stamp, **dict.fromkeys(MONEY, Decimal(100 + i))}
                for i, stamp in enumerate(stamps)
            ],
        )
        connection.execute(
            sa.insert(PortfolioHistory),
            [{"timestamp": time, **dict.fromkeys(TOTALS, Decimal(100 + i))} for i, time in enumerate(times)],
        )
        connection.execute(sa.insert(SystemEvent), events)
    return store


@pytest.fixture(scope="module")
def short_and_long(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Store]]:
    folder = tmp_path_factory.mktemp("history")
    stores = [stored(folder, rows=rows) for rows in (5_000, 50_000)]
    yield stores
    for store in stores:
        store.close()


@pytest.fixture
def rehearsed(played: Played) -> tuple[Settings, Store]:
    "A desk that no other test changes, and whose runner lives."
    heard(played.settings, played.store)
    return played.settings, played.store


def steps_of(store: Store, question: Callable[[Store], object]) -> int:
    "How many hundreds of instructions SQLite runs for an answer."
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    def watch(driver: Any, *_: Any) -> None:
        driver.set_progress_handler(count, 100)

    sa.event.listen(store.engine.pool, "checkout", watch)
    question(store)
    sa.event.remove(store.engine.pool, "checkout", watch)
    with store.engine.connect() as connection:
        connection.connection.dbapi_connection.set_progress_handler(None, 0)
    return steps


@pytest.mark.parametrize("question", QUESTIONS)
def test_ten_times_the_history_costs_no_more(
    short_and_long: list[Store], question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trades, "COUNTED", 300)
    short, long = (steps_of(store, QUESTIONS[question]) for store in short_and_long)
    assert long <= 1.2 * short + 3, (short, long)
    walk = steps_of(short_and_long[1], lambda store: trips_of(store, BOTS[0]))
    assert walk > 1_000  # the measure sees one that does walk through everything


def test_a_curve_keeps_its_ends_and_has_as_many_points_as_were_asked_for(rehearsed: tuple[Settings, Store]) -> None:
    _, store = rehearsed
    whole = equity_of(store, bot="sub_bot_A", points=5000)
    thin = equity_of(store, bot="sub_bot_A", points=50)
    assert len(thin) <= 50 < len(whole)
    assert thin[-1] == whole[-1] and set(thin) <= set(whole)
    assert [ms for ms, _ in thin] == sorted({ms for ms, _ in thin})
    week = equity_of(store, bot="sub_bot_A", points=5000, days=7)
    assert week == [point for point in whole if point[0] > whole[-1][0] - 7 * DAY_MS]


def test_daily_equity_is_the_last_balance_of_each_day(rehearsed: tuple[Settings, Store]) -> None:
    settings, store = rehearsed
    whole = equity_of(store, bot="sub_bot_C", points=5000)
    ends = {
        (ms - 1) // DAY_MS * DAY_MS: round(value * 1e8) for ms, value in whole
    }  # midnight belongs to the day it ends
    daily = daily_equity(store, "sub_bot_C")
    assert daily is not None and dict(zip(daily.day_ms.tolist(), daily.equity_e8.tolist(), strict=True)) == ends
    assert (daily.since_ms, daily.start_e8) == (whole[0][0], round(settings.sub_bots[2].initial_capital_usdt * 10**8))


def test_a_position_is_told_in_prices_and_coins(rehearsed: tuple[Settings, Store]) -> None:
    settings, store = rehearsed
    rows = [row for row in bots_of(store, settings, SystemClock().now_ms()) if row.holding]
    assert rows
    for row in rows:
        assert row.status == "trading" and row.balance and row.holding and row.last_trade
        open_usdt = row.holding.qty * (row.balance.mark_price - row.holding.entry_price)
        assert abs(open_usdt - (row.balance.equity_usdt - row.balance.wallet_usdt)) < abs(row.holding.qty) / 10**6
        side = 1 if row.holding.qty > 0 else -1
        assert row.holding.stop_price and row.holding.target_price
        assert side * row.holding.stop_price < side * row.balance.mark_price < side * row.holding.target_price
