"""A perpetual in no table, from its files on: command line, notebook and rehearsal earn the same, and so does a loop in plain Python."""

import csv
import json
import os
import re
from collections.abc import Mapping
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Any, NamedTuple

import forked
import numpy as np
import pytest

import autotrader as at

HOUR = 3_600_000
BEGIN = 1_735_689_600_000  # 2025-01-01
HOURS, TURN = 700, 37
TURNS = f"""
import numpy as np
from autotrader import Signals

def turns(candles):
    n = len(candles.close)
    direction = np.zeros(n, np.int8)
    direction[50::{2 * TURN}], direction[{50 + TURN}::{2 * TURN}] = 1, -1
    return Signals(direction, np.zeros(n, np.int8), np.ones(n))
"""
BOT = {
    "sizing": "lot",
    "strategy_params": {"sl_ratio": 90.0, "sl_unit": "percent", "tp_ratio": 1000.0},
    "risk": {"max_drawdown": 0.0, "daily_loss": 0.0, "max_losses": 0},
}
COSTS = {"slippage_bps": 3.0, "spread_bps": 0.0, "participation_cap": 0.0, "leverage": 5.0}


class Coin(NamedTuple):
    venue: str
    symbol: str
    price: float
    places: int  # of the price
    step: int  # decimals of the volume
    lot: float
    every: int  # hours between payments
    rules: str  # what the desk's config.toml tells
    fee: str  # taker fee that must come of it


HYPE = Coin("bybit", "HYPEUSDT", 25.0, 3, 2, 40.0, 1, "", "0.00055")
DOGE = Coin("bybit", "DOGEUSDT", 0.32, 5, 0, 3000.0, 8, "", "0.00055")
TOLD = """
[[instruments]]
venue = "mexc"
symbol = "DOGE/USDT"
taker_fee_bps = 4.2
max_leverage = 20
"""
ELSEWHERE = Coin("mexc", "DOGEUSDT", 0.32, 5, 0, 3000.0, 8, TOLD, "0.00042")
COINS = {"1 h funding": HYPE, "8 h funding": DOGE, "told by the configuration": ELSEWHERE}


def write_files(folder: Path, coin: Coin) -> None:
    "A seeded random walk in ticks, and funding that is mostly positive; numbers as a venue writes them."
    rng = np.random.default_rng(7)
    ticks = np.rint(coin.price * 10**coin.places * np.exp(np.cumsum(rng.normal(0, 0.004, HOURS)))).astype(int)
    opens = np.r_[ticks[0], ticks[:-1]] + rng.integers(-3, 4, HOURS)
    high = np.maximum(opens, ticks) + rng.integers(1, 40, HOURS)
    low = np.minimum(opens, ticks) - rng.integers(1, 40, HOURS)
    volume = rng.integers(1, 10**7, HOURS)
    rows = zip(BEGIN + HOUR * np.arange(HOURS), opens, high, low, ticks, volume, strict=True)
    with (folder / "bars.csv").open("w") as file:
        file.write("timestamp,open,high,low,close,volume\n")
        for stamp, *prices, traded in rows:
            texts = [str(Decimal(int(p)).scaleb(-coin.places)) for p in prices]
            file.write(",".join([str(stamp), *texts, str(Decimal(int(traded)).scaleb(-coin.step))]) + "\n")
    with (folder / "funding.csv").open("w") as file:
        file.write("funding_time,funding_rate\n")
        for hour in range(0, HOURS, coin.every):
            file.write(f"{BEGIN + HOUR * hour},{rng.normal(2e-4, 4e-4):.6f}\n")


def rounded(value: Decimal, unit: Decimal) -> Decimal:
    "Halves up."
    return (value / unit + Decimal("0.5")).to_integral_value(ROUND_FLOOR) * unit


def in_plain_python(folder: Path, coin: Coin) -> tuple[Decimal, Decimal]:
    "Equity at the end and funding, from the texts of the files."
    bars = list(csv.DictReader((folder / "bars.csv").open()))
    rates = {
        int(r["funding_time"]): Decimal(r["funding_rate"]) for r in csv.DictReader((folder / "funding.csv").open())
    }
    tick, cent = Decimal(1).scaleb(-coin.places), Decimal("1e-8")
    wallet, held, funding, lot = Decimal(10_000), Decimal(0), Decimal(0), Decimal(str(coin.lot))
    wish = 0
    for i, bar in enumerate(bars):
        price = Decimal(bar["open"])
        if wish:
            orders = [-held] * bool(held) + [wish * lot]
            for qty in orders:
                side = 1 if qty > 0 else -1
                paid = price + side * rounded(price * Decimal("0.0003"), tick)
                wallet -= qty * paid + rounded(abs(qty) * paid * Decimal(coin.fee), cent)
                held += qty
            wish = 0
        close, end_ms = Decimal(bar["close"]), int(bar["timestamp"]) + HOUR
        if held and end_ms in rates:
            amount = rounded(-held * close * rates[end_ms], cent)
            wallet, funding = wallet + amount, funding + amount
        if i >= 50 and (i - 50) % TURN == 0:
            wish = -1 if (i - 50) // TURN % 2 else 1
    return wallet + held * Decimal(bars[-1]["close"]), funding


def desk_of(folder: Path, coin: Coin) -> Path:
    "A desk with the files imported, by the command line."
    write_files(folder, coin)
    (folder / "ideas.py").write_text(TURNS)
    run(folder, "init")
    text = (folder / "config.toml").read_text()
    for name, value in COSTS.items():
        text, found = re.subn(rf"(?m)^{name} = \S+", f"{name} = {value}", text, count=1)
        assert found == 1
    (folder / "config.toml").write_text(text + coin.rules)
    for file in ("bars.csv", "funding.csv"):
        run(folder, "data", "import", file, "--venue", coin.venue, "--symbol", coin.symbol)
    return folder


def run(folder: Path, *words: object) -> str:
    done = forked.command(*words, cwd=folder, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return done.stdout


def flat(table: Mapping[str, Any], before: str = "") -> list[str]:
    pairs = ((f"{before}{name}", value) for name, value in table.items())
    return [t for name, v in pairs for t in (flat(v, f"{name}.") if isinstance(v, Mapping) else [f"{name}={v}"])]


@pytest.mark.parametrize("name", COINS)
def test_every_way_from_the_files_ends_with_the_same_money(name: str, tmp_path: Path) -> None:
    coin = COINS[name]
    folder = desk_of(tmp_path, coin)
    bot = BOT | {"base_lot": coin.lot}
    words = [word for change in flat(bot) for word in ("--set", change)]
    market = ("--venue", coin.venue, "--symbol", coin.symbol)
    told = json.loads(run(folder, "backtest", "--strategy", "ideas.py:turns", *market, *words, "--json"))["bots"][0]
    candles = at.load(coin.symbol, venue=coin.venue, config=folder / "config.toml")
    made: dict[str, Any] = {}
    exec(TURNS, made)
    turns = at.own(made["turns"], warmup=0)
    here = at.backtest(turns, candles, bot=bot, costs=COSTS)
    lived = at.rehearse(turns, candles, bot=bot, costs=COSTS)
    equity, funding = in_plain_python(folder, coin)
    assert told["fills"] > 2 * HOURS // TURN - 6 and abs(funding) > 1, "it trades, and funding counts"
    for found in (here, lived):
        assert found.run.equity_e8[-1] == here.run.equity_e8[-1]
        assert found.stats.pnl == told["pnl"] and found.stats.funding == told["funding"]
    assert lived.is_sound
    assert abs(Decimal(int(here.run.equity_e8[-1])).scaleb(-8) - equity) < Decimal("0.000001")
    assert abs(Decimal(str(told["funding"])) - funding) < Decimal("0.000001")
