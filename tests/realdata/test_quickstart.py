"""The trading commands on the recorded markets: a year of three perpetuals, and a year of minutes."""

import csv
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import forked
import pytest

pytestmark = pytest.mark.realdata
BOTS = ["sub_bot_A", "sub_bot_B", "sub_bot_C"]


def run(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("AUTOTRADER__", "BYBIT_"))}
    return forked.command(*words, cwd=folder, env=env)


def told(folder: Path, *words: object) -> Any:
    done = run(folder, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def year(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    "A folder that was empty before `quickstart --data`, and what that said."
    folder = tmp_path_factory.mktemp("desk")
    return folder, told(folder, "quickstart", "--data", data_dir, "--no-serve")


def test_three_bots_trade_the_recorded_year(year: tuple[Path, Any]) -> None:
    found = year[1]
    assert found["data"]["source"] == "files"
    assert found["data"]["period"]["from"][:10] == "2025-03-08"
    assert found["data"]["period"]["to"][:10] == "2026-03-05"
    for part in ("backtest", "rehearsal"):
        bots = found[part]["bots"]
        assert [bot["id"] for bot in bots] == BOTS
        assert [(bot["venue"], bot["symbol"]) for bot in bots] == [
            ("bybit", "BTCUSDT"),
            ("bybit", "ETHUSDT"),
            ("bybit", "SOLUSDT"),
        ]
        assert all(bot["trades"] >= 50 for bot in bots)


@pytest.mark.parametrize("place", range(3), ids=BOTS)
def test_each_bot_meets_everything_its_settings_name(year: tuple[Path, Any], place: int) -> None:
    bot = year[1]["backtest"]["bots"][place]
    assert bot["split_entries"] > 0 and bot["orders"]["add"] > 0
    assert bot["orders"]["stop"] > 0 and bot["orders"]["target"] > 0
    assert bot["funding"] != 0
    assert set(bot["multipliers"]) == {"0.5", "0.75", "1"} and min(bot["multipliers"].values()) > 0


def test_funding_and_open_interest_are_part_of_the_result(year: tuple[Path, Any]) -> None:
    notes = year[1]["backtest"]["notes"]
    assert any(note.startswith("funding known at all ") for note in notes)
    assert any("open interest" in note for note in notes)


def test_the_rehearsal_decides_alike_and_trades_alike(year: tuple[Path, Any]) -> None:
    found = year[1]
    assert found["rehearsal"]["bots"] == found["backtest"]["bots"]
    for parity in found["rehearsal"]["parity"].values():
        assert parity["decision"]["exact"] and parity["model"]["equal"] and parity["vetoed"] == 0


@pytest.fixture(scope="module")
def fills(year: tuple[Path, Any]) -> list[dict[str, str]]:
    assert run(year[0], "backtest", "--trades", "fills.csv").returncode == 0
    with (year[0] / "fills.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("reason", ["entry", "add", "exit", "stop", "target"])
def test_a_trade_of_the_recorded_year_is_derived_again(
    year: tuple[Path, Any], fills: list[dict[str, str]], reason: str
) -> None:
    names = [fill["order_id"] for fill in fills if fill["reason"] == reason]
    story = told(year[0], "explain", names[len(names) // 2])
    assert story["proof"]["intent_equal"] and story["proof"]["trip_equal"]


def test_a_year_of_minutes_decides_where_an_hourly_bot_fills(data_dir: Path, tmp_path: Path) -> None:
    assert run(tmp_path, "init").returncode == 0
    assert run(tmp_path, "data", "import", data_dir / "btcusdt_1m.parquet", "--venue", "binance").returncode == 0
    words = ("backtest", "--bot", "sub_bot_A", "--venue", "binance", "--from", "2024-07-01", "--to", "2025-07-01")
    hourly = told(tmp_path, *words, "--trades", "hourly.csv")
    assert hourly["period"] == {"from": "2024-07-01T00:00:00Z", "to": "2025-07-01T00:00:00Z"}
    assert hourly["bots"][0]["trades"] >= 50
    with (tmp_path / "hourly.csv").open(newline="") as file:
        minutes = {row["time"][14:16] for row in csv.DictReader(file)}
    assert len(minutes) == 60
    by_minute = told(tmp_path, *words, "--timeframe", "1m")
    assert by_minute["bots"][0]["trades"] > 5 * hourly["bots"][0]["trades"]
