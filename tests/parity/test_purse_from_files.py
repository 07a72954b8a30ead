"""Bots with one purse, from files on: backtest, rehearsal and replay by the command line end with the same trades and the same money."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from purse import BOTS, desk_of, run

from autotrader.bots.subbot import recover
from autotrader.runner.parity import decision_parity
from autotrader.store.database import Store, open_store
from autotrader.store.tables import BotBalance, PortfolioHistory, Trade

PERIOD = ("--from", "2025-01-01", "--to", "2025-01-20")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "All three ways have been gone on it."
    folder = desk_of(tmp_path_factory.mktemp("purse"))
    for name in ("backtest", "rehearse"):
        words = (name, *PERIOD, "--trades", f"{name}.csv", "--json")
        (folder / f"{name}.json").write_text(run(folder, *words, *(["--report"] if name == "backtest" else [])))
    run(folder, "run", "--replay", *PERIOD, "--speed", "0")
    return folder


def told(desk: Path, name: str) -> dict[str, Any]:
    return json.loads((desk / f"{name}.json").read_text())


def rows(store: Store, query: Any) -> list[Any]:
    with store.read() as connection:
        return list(connection.execute(query).all())


def test_a_rehearsal_by_the_command_line_is_the_backtest(desk: Path) -> None:
    one, two = told(desk, "backtest"), told(desk, "rehearse")
    assert all(row["trades"] > 5 and row["funding"] for row in one["bots"])
    assert one["portfolio"] == two["portfolio"]
    assert (desk / "backtest.csv").read_text() == (desk / "rehearse.csv").read_text()
    for bot in BOTS:
        assert two["parity"][bot]["decision"]["exact"] and two["parity"][bot]["model"]["equal"]


def test_the_whole_is_the_sum_of_the_bots(desk: Path) -> None:
    found = told(desk, "backtest")
    whole, bots = found["portfolio"], found["bots"]
    assert whole["capital"] == sum(row["capital"] for row in bots) == 15_000
    for name in ("pnl", "fees", "funding", "trades"):
        assert whole[name] == pytest.approx(sum(row[name] for row in bots), abs=1e-6)
    assert whole["return"] == pytest.approx(whole["pnl"] / 15_000)
    [page] = (desk / "reports").rglob("*.html")
    assert "one purse" in page.read_text() or "one account" in page.read_text()


def test_a_replay_trades_as_the_backtest_did_to_the_last_cent(desk: Path) -> None:
    with (desk / "backtest.csv").open() as file:
        tried = [row for row in csv.DictReader(file) if row["quantity"] and row["reason"] != "funding"]
    with open_store(f"sqlite:///{desk / 'data' / 'replay.db'}") as store:
        for bot in BOTS:
            assert decision_parity(store, bot).is_exact
            folded = recover(store, bot)
            assert folded is not None
            mine = [row for row in tried if row["bot"] == bot]
            assert len(mine) == len(folded.fills) > 10
            for row, fill in zip(mine, folded.fills, strict=True):
                assert float(row["fee"]) * 1e8 == pytest.approx(int(fill["fee_e8"]), abs=0.5)
                assert float(row["pnl"]) * 1e8 == pytest.approx(int(fill["pnl_e8"]), abs=0.5)
                assert (row["side"] == "BUY") == (fill["side"] > 0)
        newest = {
            row.bot: row.equity_usdt for row in rows(store, sa.select(BotBalance.__table__).order_by(BotBalance.ts_ms))
        }
        last = rows(store, sa.select(PortfolioHistory.__table__).order_by(PortfolioHistory.timestamp))[-1]
        assert rows(store, sa.select(sa.func.count()).select_from(Trade))[0][0] > 30
    found = told(desk, "backtest")
    for row in found["bots"]:
        assert float(newest[row["id"]]) == pytest.approx(row["capital"] + row["pnl"], abs=1e-6)
    assert float(last.total_balance_usdt) == pytest.approx(15_000 + found["portfolio"]["pnl"], abs=1e-6)


def test_status_and_doctor_tell_of_the_account(desk: Path) -> None:
    done = json.loads(run(desk, "status", "--replay", "--json", code=1))
    assert done["accounts"]["all"] == done["sums"]
    assert done["sums"]["equity"] == pytest.approx(15_000 + told(desk, "backtest")["portfolio"]["pnl"], abs=1e-6)
    assert all(abs(row["today"]) < 1000 for row in done["bots"])
    assert "all: sub_bot_A, sub_bot_B, sub_bot_C share 15,000 USDT" in " ".join(run(desk, "doctor", code=None).split())
