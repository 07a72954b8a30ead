"""Nothing vanishes: what is open at the end and what the venue took are told wherever a result is."""

import csv
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import forked
import numpy as np
import pytest

import autotrader as at

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


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def told(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


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
    report = Path(run(held, *words, "--report", "--json").told["report"])
    assert "one still open" in report.read_text() and f"A {name} of" in report.read_text()


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
