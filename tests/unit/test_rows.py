"""Nothing vanishes: what is open at the end and what the venue took are told wherever a result is."""

import csv
import os
import re
import sqlite3
from decimal import Decimal
from pathlib import Path

import forked
import numpy as np
import pytest
from shared import Ended

import autotrader as at
from autotrader.desk.explain import explain, find_order
from autotrader.engine.excursions import excursions
from autotrader.store.database import open_store

HOURS, ENTERED, FALLEN = 300, 100, 129
START_MS = 1_704_067_200_000  # 2024-01-01
HOUR_MS = 3_600_000
STRATEGY = """
import numpy as np
from autotrader import Signals


def hold(candles, *, side=1):
    direction = np.zeros(len(candles.close), np.int8)
    direction[100] = side
    return Signals(direction, np.zeros(len(direction), np.int8), np.ones(len(direction)))
"""
PERIOD = ("--from", "2024-01-01", "--to", "2024-01-13")
PLAY = ("backtest", "--strategy", "hold.py:hold", "--symbol", "BTCUSDT", "--venue", "bybit", *PERIOD)


def run(folder: Path, *words: object) -> Ended:
    "The command in a folder."
    done = forked.command(*words, cwd=folder, env=dict(os.environ))
    return Ended(done.returncode, done.stdout, done.stderr)


def prices(fall_to: float) -> np.ndarray:
    "Open, high, low, close of a market that stands still, and from one bar on lower."
    close = np.where(np.arange(HOURS) < FALLEN, 30_000.0, fall_to)
    opened = np.r_[close[0], close[:-1]]
    return np.column_stack([opened, np.maximum(opened, close) + 50, np.minimum(opened, close) - 50, close])


def a_desk(folder: Path, fall_to: float) -> Path:
    "A desk with that market and a strategy that buys once and holds."
    assert run(folder, "init").code == 0
    (folder / "hold.py").write_text(STRATEGY)
    with (folder / "BTCUSDT_1h.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["timestamp", "open", "high", "low", "close", "volume"])
        writer.writerows([START_MS + i * HOUR_MS, *row, 1e6] for i, row in enumerate(prices(fall_to).tolist()))
    done = run(folder, "data", "import", "BTCUSDT_1h.csv", "--venue", "bybit")
    assert done.code == 0, done.err
    return folder


def flat(text: str) -> str:
    return " ".join(text.split())


# what is open at the end ---


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_desk(tmp_path_factory.mktemp("held"), 30_000.0)


HELD = (*PLAY, "--set", "strategy_params.sl_ratio=50")


@pytest.mark.parametrize("side", [1, -1])
def test_what_is_still_open_is_told_in_words_and_in_json(held: Path, side: int) -> None:
    words = (*HELD, "--set", f"strategy_params.side={side}")
    told = run(held, *words, "--json").told
    (row,), name = told["bots"], "long" if side > 0 else "short"
    left = row["open_position"]
    assert (row["trades"], row["open_trips"], told["portfolio"]["open_trips"]) == (0, 1, 1)
    assert (left["side"], left["opened"], left["price"]) == (name, "2024-01-05T05:00:00Z", 30_000.0)
    assert left["pnl"] == pytest.approx(side * left["quantity"] * (30_000 - left["entry"])) == row["open_pnl"]
    assert row["pnl"] == pytest.approx(left["booked"] + left["pnl"]) == pytest.approx(left["pnl"] - row["fees"])
    text = flat(run(held, *words).out)
    assert f"A {name} of {left['quantity']:,.8g} is still open, entered at" in text
    assert "trips open return" in text
    page = Path(run(held, *words, "--report", "--json").told["report"]).read_text()
    told = flat(re.sub("<[^>]*>", " ", page))
    assert "won –, one still open" in told and f"A {name} of" in told and "one still open, dashed to the end" in told


def test_a_notebook_tells_it_too() -> None:
    candles = at.load("EURUSD", venue="sample")
    trip = at.backtest("donchian_breakout", candles, config="nowhere.toml").trades.iloc[-1]
    middle = (trip.opened + (trip.closed - trip.opened) / 2).timestamp() * 1000
    result = at.backtest("donchian_breakout", candles.between(0, int(middle)), config="nowhere.toml")
    left = result.open_position
    assert left is not None and left["side"] == trip.side
    assert f"one {trip.side} still open" in repr(result)
    assert any("is still open" in sentence for sentence in result.verdict)
    assert "is still open" in result._repr_html_() and "still open at the end" in result._repr_html_()
    assert result.stats.open_trips == 1
    assert result.stats.pnl == pytest.approx(result.trades.pnl.sum() + left["booked"] + left["pnl"])


def test_nothing_open_says_nothing(held: Path) -> None:
    done = run(held, *HELD, "--set", "strategy_params.side=0", "--json").told["bots"][0]
    assert (done["open_position"], done["open_trips"], done["open_pnl"]) == (None, 0, 0.0)


# what the venue took ---


class Held:
    "The strategy of the desk, in a notebook."

    name, warmup = "held", 0

    def signals(self, candles: at.Candles) -> at.Signals:
        direction = np.zeros(len(candles), np.int8)
        direction[ENTERED:][:1] = 1
        return at.Signals(direction, np.zeros(len(candles), np.int8), np.ones(len(candles)))


@pytest.fixture(scope="module")
def fallen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_desk(tmp_path_factory.mktemp("fallen"), 20_000.0)


FALLEN_ONE = ("--set", 'sizing="lot"', "--set", "base_lot=1", "--set", "initial_capital_usdt=100000")


def test_a_liquidation_is_a_row_wherever_fills_are_told(fallen: Path) -> None:
    words = (*PLAY, *FALLEN_ONE, "--set", "strategy_params.sl_ratio=150", "--trades", "t.csv")
    (row,) = run(fallen, *words, "--json").told["bots"]
    assert (row["trades"], row["liquidations"], row["open_trips"], row["fills"]) == (1, 1, 0, 2)
    with (fallen / "t.csv").open(newline="") as file:
        bought, taken = csv.DictReader(file)
    assert (taken["reason"], taken["side"], taken["quantity"]) == ("liquidation", "SELL", bought["quantity"])
    assert taken["time"].startswith("2024-01-06T09:") and float(taken["pnl"]) == pytest.approx(-6_000, rel=0.01)
    assert float(taken["pnl"]) == pytest.approx(float(taken["price"]) - float(bought["price"]))
    assert float(taken["pnl"]) - float(bought["fee"]) == pytest.approx(row["pnl"])
    assert row["trip_hours"] == pytest.approx(29, abs=0.01)  # held from 05:00 to the fall a day later
    assert "liquidated" in flat(run(fallen, *words).out)
    page = Path(run(fallen, *words, "--report", "--json").told["report"]).read_text()
    told = flat(re.sub("<[^>]*>", " ", page))
    assert "× 1 ended by the venue" in told and "1 position was liquidated" in told


def lived_links(folder: Path) -> list[str]:
    with sqlite3.connect(folder / "rehearsal.db") as database:
        return [link for (link,) in database.execute("SELECT link_id FROM orders ORDER BY seq")]


def test_a_rehearsal_has_the_same_rows_in_its_journal_and_its_database(fallen: Path) -> None:
    candles = at.load(
        "BTCUSDT", "1h", venue="bybit", since="2024-01-01", until="2024-01-13", config=fallen / "config.toml"
    )
    bot = {"sizing": "lot", "base_lot": 1.0, "initial_capital_usdt": 100_000.0}
    bot |= {"strategy_params": {"sl_ratio": 150.0}}
    hold = Held()
    risk = dict.fromkeys(("max_order_notional_usdt", "max_bot_notional_usdt", "max_total_notional_usdt"), 1e6)
    lived = at.rehearse(hold, candles, bot=bot, risk=risk, folder=fallen / "lived")
    played = at.backtest(hold, candles, bot=bot, config="nowhere.toml")
    assert lived.is_sound and lived.fills.equals(played.fills) and lived.trades.equals(played.trades)
    assert played.fills.reason.tolist() == ["entry", "liquidation"]
    assert played.trades.ended.tolist() == ["liquidation"]
    with sqlite3.connect(fallen / "lived" / "rehearsal.db") as database:
        stored = database.execute("SELECT purpose, fills.qty FROM fills JOIN orders USING (link_id) ORDER BY ts_ms")
        assert [purpose for purpose, _ in stored] == ["ENTRY", "LIQUIDATION"]
    with open_store("sqlite:///rehearsal.db", folder=fallen / "lived") as store:
        told = [explain(store, find_order(store, link))["trip"] for link in lived_links(fallen / "lived")]
    assert [trip["ended_by"] for trip in told] == ["liquidation"] * 2
    assert told[0]["pnl"] == pytest.approx(lived.stats.pnl)
    reach = excursions(played.run, played.part.tape)
    assert reach.mae[0] == pytest.approx(6_000 / 30_000, rel=0.01) and 0 <= reach.mfe[0] < 0.01


# what holding cost ---


@pytest.fixture(scope="module")
def funded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = a_desk(tmp_path_factory.mktemp("funded"), 29_000.0)
    with (folder / "BTCUSDT_funding.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["timestamp", "funding_rate"])
        writer.writerows([START_MS + i * 8 * HOUR_MS, 0.0001] for i in range(HOURS // 8))
    done = run(folder, "data", "import", "BTCUSDT_funding.csv", "--venue", "bybit", "--symbol", "BTCUSDT")
    assert done.code == 0, done.err
    return folder


@pytest.mark.parametrize("ratio", [8, 50])  # stopped by the fall, and held to the end
def test_the_rows_of_the_file_sum_to_the_change_of_the_wallet(funded: Path, ratio: int) -> None:
    words = (*PLAY, *FALLEN_ONE, "--set", f"strategy_params.sl_ratio={ratio}", "--trades", "t.csv")
    (row,) = run(funded, *words, "--json").told["bots"]
    with (funded / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    paid = [each for each in rows if each["reason"] == "funding"]
    left = row["open_position"]
    assert (left is not None) == (ratio == 50) and row["trades"] == int(ratio == 8)
    assert len(paid) >= 4 and [each["time"] for each in rows] == sorted(each["time"] for each in rows)
    wallet = sum(Decimal(each["pnl"]) - Decimal(each["fee"]) for each in rows)
    assert wallet == Decimal(str(round(row["pnl"] - row["open_pnl"], 8)))
    assert sum(Decimal(each["pnl"]) for each in paid) == Decimal(str(row["funding"]))
    for each in paid:  # the position times its price times the rate, and it trades nothing
        assert Decimal(each["pnl"]) == -Decimal(each["price"]) * Decimal("0.0001")
        assert (each["quantity"], each["side"]) == ("0", "")
    held = sum(Decimal(each["quantity"]) * (1 if each["side"] == "BUY" else -1) for each in rows)
    assert held == (1 if ratio == 50 else 0)
    assert f"{len(rows) - len(paid)} fills and {len(paid)} payments of funding in" in flat(run(funded, *words).out)


def test_more_money_than_can_be_counted_is_refused_in_one_line(held: Path) -> None:
    done = run(held, *PLAY, "--set", "initial_capital_usdt=90e9")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "initial_capital_usdt" in done.err and "must be 1e+10 or less" in done.err
