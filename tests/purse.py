"""A desk of three bots with one purse, on perpetuals that come from files."""

import os
from collections.abc import Sequence
from pathlib import Path

import forked
import numpy as np

HOUR = 3_600_000
BEGIN = 1_735_689_600_000  # 2025-01-01
BOTS = ("sub_bot_A", "sub_bot_B", "sub_bot_C")
MARKETS = {"HYPEUSDT": (25.0, 3, 0), "DOGEUSDT": (0.32, 5, 0), "SOLUSDT": (190.0, 2, 7)}  # price, places, hours late
RULES = """
import numpy as np
import autotrader as at

def leaning(candles):
    "Long or short by which side of its average the market is on; more the farther it is."
    average = at.compute("sma", candles, period=50)
    return at.from_targets(np.clip(8 * (candles.close / average - 1.0), -0.5, 0.5))

leaning = at.own(leaning, warmup=50)

def crossing(candles):
    fast, slow = at.compute("ema", candles, period=5), at.compute("ema", candles, period=20)
    up = fast > slow
    return at.from_rules(long=up, short=~up, exit_long=~up, exit_short=up)
"""
BOT = """
[[sub_bots]]
name = "{id}"
enabled = true
symbol = "{symbol}"
account = "all"
initial_capital_usdt = {capital}
sizing = "equity_frac"
equity_frac = 0.3
{more}
"""
MORE = (
    'decision = { strategy = "rules.py:leaning" }\nstrategy_params = { sl_ratio = 0.0 }',
    'decision = { strategy = "rules.py:crossing" }\nstrategy_params = { sl_ratio = 2.0, tp_ratio = 1.5 }',
    'decision = { strategy = "rules.py:crossing" }\nsplit_entry = { enabled = true, count = 2, method = "price" }',
)


def write_market(folder: Path, symbol: str, hours: int, seed: int) -> list[Path]:
    "Bars of a seeded random walk and funding every eight hours, as a venue's files have them."
    price, places, late = MARKETS[symbol]
    rng, unit = np.random.default_rng(seed), 10**places
    close = np.rint(price * unit * np.exp(np.cumsum(rng.normal(0, 0.006, hours)))).astype(int)
    opens = np.r_[close[0], close[:-1]]
    high, low = np.maximum(opens, close) * 1.002, np.minimum(opens, close) * 0.998
    stamps = BEGIN + HOUR * (late + np.arange(hours))
    bars, funding = folder / f"{symbol}.csv", folder / f"{symbol}_funding.csv"
    rows = zip(stamps, opens / unit, np.rint(high) / unit, np.rint(low) / unit, close / unit, strict=True)
    lines = [f"{ms}," + ",".join(f"{p:.{places}f}" for p in prices) + ",5000000" for ms, *prices in rows]
    bars.write_text("\n".join(["timestamp,open,high,low,close,volume", *lines, ""]))
    paid = [f"{ms},{rng.normal(1e-4, 3e-4):.6f}" for ms in stamps[stamps % (8 * HOUR) == 0]]
    funding.write_text("\n".join(["funding_time,funding_rate", *paid, ""]))
    return [bars, funding]


def run(folder: Path, *words: object, code: int | None = 0) -> str:
    "What a command printed; it ended as told, None: somehow."
    done = forked.command(*words, cwd=folder, env=dict(os.environ))
    assert code in (None, done.returncode), done.stdout + done.stderr
    return done.stdout


def desk_of(
    folder: Path,
    *,
    hours: int = 500,
    capitals: Sequence[float] = (9000.0, 3000.0, 3000.0),
) -> Path:
    "The desk with its files imported, by the command line."
    (folder / "rules.py").write_text(RULES)
    each = zip(BOTS, MARKETS, capitals, MORE, strict=True)
    bots = (BOT.format(id=bot, symbol=symbol, capital=capital, more=more) for bot, symbol, capital, more in each)
    (folder / "config.toml").write_text("".join(bots))
    for seed, symbol in enumerate(MARKETS, 1):
        for file in write_market(folder, symbol, hours, seed):
            run(folder, "data", "import", file.name, "--venue", "bybit", "--symbol", symbol)
    return folder
