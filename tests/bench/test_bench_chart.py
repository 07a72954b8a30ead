"""The chart of a year of minutes: how long it takes to build, and how large it is, beside a tenth of that year in the same run."""

import time

import numpy as np
import pytest

import autotrader as at
from autotrader.core.market import Candles
from autotrader.desk.display import BacktestResult

MINUTE, YEAR = 60_000, 525_600
ROUNDS, REACH_S, MOST = 3, 1.0, 12.0


def played(n: int) -> BacktestResult:
    rng = np.random.default_rng(7)
    close = (60_000 * np.exp(np.cumsum(rng.normal(0, 6e-4, n)))).round(1)
    opened = np.r_[60_000.0, close[:-1]]
    high, low = np.maximum(opened, close) + 5, np.minimum(opened, close) - 5
    candles = Candles(
        venue="bybit",
        symbol="BTCUSDT",
        timeframe="1m",
        open_ms=1_741_392_000_000 + MINUTE * np.arange(n),
        open=opened,
        high=high,
        low=low,
        close=close,
        volume=np.full(n, 1e6),
    )
    return at.backtest("ema_trend", candles, costs={"participation_cap": 0.0}, config="nowhere.toml")


def built(result: BacktestResult) -> tuple[float, int]:
    "Seconds at best, and characters."
    took = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        html = result.plot().html
        took.append(time.perf_counter() - begun)
    return min(took), len(html)


def test_bench_the_chart_of_a_year_of_minutes(capsys: pytest.CaptureFixture[str]) -> None:
    short, long = played(YEAR // 10), played(YEAR)
    (short_s, _), (long_s, size) = built(short), built(long)
    with capsys.disabled():
        print(
            f"\nchart of {YEAR:,} bars, {len(long.run.fills):,} fills: {long_s:.2f} s (reach {REACH_S:g} s; a tenth of it {short_s:.2f} s), {size / 1e6:.2f} MB"
        )
        if long_s > REACH_S:
            print("   missed")
    assert size < 3_000_000
    assert long_s < MOST * short_s
