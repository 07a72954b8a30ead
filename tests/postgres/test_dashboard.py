"""The dashboard's questions on both databases: same answers, whichever keeps the rows."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from fastapi import FastAPI
from starlette.testclient import TestClient

from autotrader.config.settings import parse, template
from autotrader.core.clock import SystemClock
from autotrader.dashboard.api import add_api
from autotrader.dashboard.view import DeskView
from autotrader.status.liveness import RUNNER, holder_name
from autotrader.status.performance import Tally
from autotrader.store.control import beat, take_lease
from autotrader.store.database import Store
from autotrader.store.tables import BotBalance, PortfolioHistory, Trade

START = datetime(2026, 3, 1, tzinfo=UTC)


def fill(store: Store) -> None:
    "Trades that share their stamps, and three days of balances."
    money = {name: Decimal("0.000000012345678901") for name in ("price", "quantity", "fee", "pnl")}
    names = ("wallet_usdt", "equity_usdt", "position_qty", "mark_price", "realised_usdt", "fees_usdt", "funding_usdt")
    totals = [c.name for c in PortfolioHistory.__table__.columns if c.name not in ("id", "timestamp")]
    hours = range(72)
    whose = {"sub_bot_name": "sub_bot_A", "symbol": "BTCUSDT", "entry_reason": "a test", **money}
    rows = [
        {
            **whose,
            "timestamp": START + timedelta(microseconds=i // 4),
            "order_id": f"o{i}",
            "side": ("BUY", "SELL")[i % 2],
        }
        for i in range(57)
    ]
    with store.begin() as connection:
        connection.execute(sa.insert(Trade), rows)
        first_ms = round(START.timestamp() * 1000)
        balances = [
            {"bot": "sub_bot_A", "ts_ms": first_ms + h * 3_600_000, **dict.fromkeys(names, Decimal(1000 + h))}
            for h in hours
        ]
        connection.execute(sa.insert(BotBalance), balances)
        snapshots = [
            {"timestamp": START + timedelta(hours=h), **dict.fromkeys(totals, Decimal(1000 + h))} for h in hours
        ]
        connection.execute(sa.insert(PortfolioHistory), snapshots)


def test_the_api_answers_from_either_database(store: Store, tmp_path: Path) -> None:
    fill(store)
    settings = parse(template(), path=tmp_path / "config.toml", env={})
    app = FastAPI()
    add_api(app, DeskView(settings, store, SystemClock(), Tally(store)))
    client = TestClient(app)

    def get(path: str, **query: Any) -> Any:
        answered = client.get(f"/api/{path}", params=query)
        assert answered.status_code == 200, answered.text
        return answered.json()

    found: list[dict[str, Any]] = []
    cursor: dict[str, Any] = {}
    while True:
        page = get("trades", limit=10, **cursor)
        found += page["trades"]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert sorted(row["order_id"] for row in found) == sorted(f"o{i}" for i in range(57))
    assert {row["price"] for row in found} == {"0.000000012345678901"}
    assert len(get("trades", side="SELL", bot="sub_bot_A", limit=500)["trades"]) == 28
    assert get("portfolio", points=10)["portfolio"]["total_usdt"] == "1071"
    assert get("bots")[0]["balance"]["equity_usdt"] == "1071"
    assert get("performance")[0]["bot"] == "sub_bot_A"
    assert get("events") == [] and get("jobs") == [] and get("health")["status"] == "runner silent"
    take_lease(store, RUNNER, holder=holder_name(), clock=SystemClock(), ttl_ms=60_000)
    beat(store, RUNNER, now_ms=SystemClock().now_ms(), epoch=1, details={"mode": "live", "speed": None})
    assert client.post("/api/control/stop").status_code == 202
    assert get("control/commands")[0]["command"] == "stop" and get("events", level="WARNING")
