"""P2: ten thousand combinations on a year of minutes with two threads, in a process of its own so that its memory can be told."""

import json
import os
import resource
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotrader.config.sections import Backtest, BotSettings
from autotrader.core.clock import parse_time
from autotrader.core.market import Candles, Instrument, VenueRules
from autotrader.data.joined import FundingEvents, Market
from autotrader.engine.metrics import measure
from autotrader.search.evaluate import Evaluation, evaluate
from autotrader.search.grid import explore
from autotrader.search.ranges import as_ranges, combinations, keyed
from autotrader.search.task import Task
from autotrader.search.variant import Variant, variants
from autotrader.strategy.setup import Part, part_for, simulate

YEAR, MINUTE = 525_600, 60_000
THREADS = 2
REACH_S, REACH_MB = 45.0, 1_000
WHOLE_S = 60.0  # the whole grid is played where it is expected to stay below
GRID = {  # 10 × 10 signals, each with 10 × 10 stops and targets
    "fast": "20:200:20",
    "slow": "250:475:25",
    "sl_ratio": "1:10:1",
    "tp_ratio": "0.5:5:0.5",
}
MOST = 2.0  # times the processor time of a backtest alone with its statistics, signals given


def year() -> Candles:
    random = np.random.default_rng(0)
    close = np.round(60_000 * np.exp(np.cumsum(random.normal(0, 0.0007, YEAR))), 2)
    opens = np.r_[60_000.0, close[:-1]]
    reach = np.round(np.abs(random.normal(0, 20, (2, YEAR))), 2)
    return Candles(
        venue="binance",
        symbol="BTCUSDT",
        timeframe="1m",
        open_ms=parse_time("2024-07-01") + np.arange(YEAR, dtype=np.int64) * MINUTE,
        open=opens,
        high=np.maximum(opens, close) + reach[0],
        low=np.minimum(opens, close) - reach[1],
        close=close,
        volume=random.lognormal(3, 1, YEAR),
    )


def task() -> Task:
    "All features on, as in P1: three parts in time, sizes by ATR, stop and target, funding, liquidation, pauses."
    candles = year()
    rules = VenueRules(
        tick_size=Decimal("0.01"),
        qty_step=Decimal("0.00001"),
        min_qty=Decimal("0.00001"),
        max_qty=Decimal(9000),
        max_market_qty=Decimal(100),
        min_notional=Decimal(5),
        maker_fee=Decimal("0.0002"),
        taker_fee=Decimal("0.00055"),
        max_leverage=Decimal(100),
        maintenance_margin=Decimal("0.005"),
    )
    instrument = Instrument(venue="binance", symbol="BTCUSDT", rules=rules)
    due = np.arange(1, YEAR // 480, dtype=np.int64) * 480 * MINUTE + candles.open_ms[0]
    funding = FundingEvents(ts_ms=due, rate=np.full(len(due), 1e-4), missing_ms=np.zeros(0, np.int64))
    bot: dict[str, Any] = {
        "name": "bench",
        "id": "bench",
        "venue": "binance",
        "symbol": "BTCUSDT",
        "timeframe": "1m",
        "sizing": "equity_frac",
        "initial_capital_usdt": 100_000.0,
        "dynamic_sizing": {
            "enabled": True,
            "threshold_unit": "percent",
            "volatility_thresholds": {"low": 0.03, "medium": 0.06},
        },
        "split_entry": {"enabled": True, "count": 3, "interval_seconds": 60, "expiry_seconds": 300},
        "risk": {"max_drawdown": 0.99, "daily_loss": 0.9, "max_losses": 1_000, "cooldown_minutes": 60},
    }
    market = Market(candles=candles, fine=None, instrument=instrument, funding=funding)
    return Task(bot=BotSettings(**bot), costs=Backtest(), history=candles, market=market)


def alone_s(part: Part) -> float:
    "Processor time of one backtest with its statistics, signals and tape given."
    times, bars = [], len(part.tape.open_ms)
    for _ in range(5):
        start = time.thread_time()
        measure(simulate(part, curve=False), wallet_e8=part.wallet_e8, bars=bars)
        times.append(time.thread_time() - start)
    return sorted(times)[2]


def sampled(work: Task, found: list[Variant]) -> dict[str, Any]:
    "A tenth of the grid: ten of its hundred signals, each with all stops and targets."
    sample = [each for each in found if each.place // 100 % 11 == 0]
    singles = [part_for(e.bot, work.history, work.market, work.costs, strategy=e.strategy) for e in sample[50::300]]
    single_s = float(np.mean([alone_s(part) for part in singles]))
    del singles
    seen: list[Evaluation] = []
    wall, cpu = time.perf_counter(), time.process_time()
    evaluate(work, sample, threads=THREADS, keep=seen.extend)
    return {
        "combinations": len(seen),
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "single_s": single_s,
        "trips": float(np.mean([each["trades"] for each in seen])),
    }


def main() -> None:
    "Play a sample, then the whole grid where it is expected to be done in time; prints JSON."
    work = task()
    explore(work, {"fast": [100], "slow": [300]}, threads=1)  # kernels are warm
    found, _ = variants(work, list(combinations(keyed(as_ranges(GRID)))))
    told: dict[str, Any] = {"grid": len(found), "sample": sampled(work, found)}
    if told["sample"]["wall_s"] * len(found) / told["sample"]["combinations"] < WHOLE_S:
        start, cpu = time.perf_counter(), time.process_time()
        done = explore(work, GRID, threads=THREADS)
        told["whole"] = {"wall_s": time.perf_counter() - start, "cpu_s": time.process_time() - cpu}
        assert len(done.table) == len(found)
    told["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(told))


def test_bench_ten_thousand_combinations_share_tape_and_signals(capsys: pytest.CaptureFixture[str]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, Path(__file__)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    sample, whole, grid = told["sample"], told.get("whole"), told["grid"]
    each_s = sample["cpu_s"] / sample["combinations"]
    expected_s = sample["wall_s"] * grid / sample["combinations"]
    with capsys.disabled():
        took = (
            f"{whole['wall_s']:.1f} s ({whole['cpu_s'] / whole['wall_s']:.1f} cores at work)"
            if whole
            else f"{expected_s:.0f} s expected from {sample['combinations']:,} of them ({sample['cpu_s'] / sample['wall_s']:.1f} cores were free; {each_s * grid / THREADS:.0f} s with {THREADS})"
        )
        print(
            f"\nP2 {grid:,} combinations of {YEAR:,} minutes, all features, {THREADS} threads: {took}, reach {REACH_S:g} s; "
            f"{told['peak_mb']:.0f} MB at most, reach {REACH_MB:,} MB\n"
            f"   {each_s * 1e3:.1f} ms of processor time each, signals and statistics included; "
            f"a backtest alone, signals given, {sample['single_s'] * 1e3:.1f} ms; {sample['trips']:,.0f} round trips on average"
        )
    assert each_s <= MOST * sample["single_s"]
    assert told["peak_mb"] <= REACH_MB


if __name__ == "__main__":
    main()
