"""P1: a year of minutes through the engine, beside vectorbt and backtesting.py on the same bars and signals in the same run."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pandas as pd
import pytest
import talib

from autotrader.core.clock import parse_time
from autotrader.core.market import COLUMNS, Candles, Instrument, VenueRules
from autotrader.engine.events import PARAMS, Sizing, Split, StopKind, Threshold
from autotrader.engine.fills import new_costs
from autotrader.engine.metrics import Stats, measure
from autotrader.engine.signals import Signals
from autotrader.engine.simulate import Run, run
from autotrader.engine.tape import Tape, make_tape

YEAR = 525_600
MINUTE = 60_000
REACH = {"backtesting": 500, "vectorbt": 15}
WALLET_E8 = 100_000 * 10**8
BTC = Instrument(
    venue="binance",
    symbol="BTCUSDT",
    rules=VenueRules(
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
    ),
)


def recorded_year(folder: Path) -> Candles:
    frame = pd.read_parquet(folder / "btcusdt_1m.parquet")
    stamps = pd.DatetimeIndex(frame["open_time"]).as_unit("ms").asi8
    columns = {name: frame[name].to_numpy(np.float64).copy() for name in COLUMNS}
    series = Candles(venue="binance", symbol="BTCUSDT", timeframe="1m", open_ms=stamps, **columns)
    since = parse_time("2024-07-01")
    return series.between(since, since + YEAR * MINUTE)


def invented_year() -> Candles:
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


@dataclass
class Work:
    "What one backtest is given, and what it is measured by."

    candles: Candles
    tape: Tape
    signals: Signals
    atr: np.ndarray
    params: np.ndarray
    costs: np.ndarray

    def simulate(self, **options: Any) -> Run:
        return run(
            self.tape, self.signals, self.atr, params=self.params, costs=self.costs, wallet_e8=WALLET_E8, **options
        )

    def changed(self, **fields: float) -> "Work":
        "The same with other parameters."
        params = self.params.copy()
        for name, value in fields.items():
            params[name] = value
        return replace(self, params=params)

    def whole(self) -> Stats:
        return measure(self.simulate(curve=False), wallet_e8=WALLET_E8, bars=YEAR)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    named = os.environ.get("AUTOTRADER_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "data"
    candles = recorded_year(folder) if (folder / "btcusdt_1m.parquet").exists() else invented_year()
    assert len(candles) == YEAR
    due = np.arange(1, YEAR // 480, dtype=np.int64) * 480 * MINUTE + candles.open_ms[0]
    tape = make_tape(candles, BTC, funding_ms=due, funding_rate=np.full(len(due), 1e-4))
    params = np.zeros(1, PARAMS)
    for name, value in {
        "tick": 0.01,
        "step": 0.00001,
        "unit_e8": BTC.rules.unit_e8,
        "min_qty": 1,
        "max_qty": 10**9,
        "min_notional_e8": 5 * 10**8,
        "sizing": Sizing.EQUITY_FRAC,
        "size": 0.5,
        "max_leverage": 3.0,
        "tiers": 1,
        "tier_unit": Threshold.PERCENT,
        "tier_low": 0.03,
        "tier_medium": 0.06,
        "mult_low": 1.0,
        "mult_medium": 0.75,
        "mult_high": 0.5,
        "split": Split.TIME,
        "split_count": 3,
        "split_interval_ms": MINUTE,
        "split_expiry_ms": 5 * MINUTE,
        "sl_ratio": 7.0,
        "tp_ratio": 2.0,
        "allow_long": 1,
        "allow_short": 1,
        "exit_on_opposite": 1,
        "flip": 1,
        "max_signal_age_ms": 5 * MINUTE,
        "max_drawdown": 0.99,
        "daily_loss": 0.9,
        "max_losses": 1_000,
        "cooldown_ms": 60 * MINUTE,
        "resume_size": 0.5,
    }.items():
        params[name] = value
    trend = talib.EMA(candles.close, 200) - talib.EMA(candles.close, 1500)
    signals = Signals(np.nan_to_num(np.sign(trend)), np.zeros(YEAR), np.ones(YEAR))
    costs = new_costs(BTC, slippage_bps=1, spread_bps=0.2, typical_price=60_000, participation=0.1, leverage=10)
    return Work(candles, tape, signals, talib.ATR(candles.high, candles.low, candles.close, 14), params, costs)


def median_s(task: Callable[[], Any], rounds: int) -> float:
    "Processor time of the middle repetition."
    task()
    times = []
    for _ in range(rounds):
        start = time.thread_time()
        task()
        times.append(time.thread_time() - start)
    return statistics.median(times)


@numba.njit
def _touch(high: np.ndarray, low: np.ndarray, close: np.ndarray) -> int:
    "The least that any backtest does: look at each bar once."
    seen = 0
    for i in range(len(close)):
        if high[i] < low[i] or close[i] < 0:
            return -1
        seen += high[i] - low[i]
    return seen


def peers(work: Work, folder: Path) -> dict[str, dict[str, Any]]:
    "The others' answers: backtesting.py always, vectorbt where `make bench` made it an environment."
    path = folder / "year.npz"
    stop = float(7 * np.nanmedian(work.atr / work.candles.close))
    columns = {name: getattr(work.candles, name) for name in ("open_ms", *COLUMNS)}
    given = {"fee": 0.00055, "slippage": 0.0001, "stop": stop, "target": 2 * stop}
    np.savez(path, direction=work.signals.direction, **columns, **given)
    tool = Path(__file__).resolve().parents[2] / "tools" / "peers.py"
    theirs = os.environ.get("AUTOTRADER_PEERS")
    calls = [(sys.executable, "backtesting")] + ([(theirs, "vectorbt")] if theirs else [])
    found: dict[str, dict[str, Any]] = {}
    for python, name in calls:
        done = subprocess.run([python, tool, path, name], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found |= json.loads(done.stdout)
    return found


def test_bench_a_year_of_minutes_is_simulated_far_faster_than_by_others(
    work: Work, tmp_path: Path, benchmark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    stats = benchmark.pedantic(work.whole, rounds=20, warmup_rounds=2)
    plain = work.changed(split=Split.NONE)  # what the others can do: one order in, one out
    assert stats.trades > 1_000 and plain.whole().trades > 1_000
    ours_s, plain_s = median_s(work.whole, 30), median_s(plain.whole, 30)
    alone_s = median_s(lambda: work.simulate(curve=False), 30)
    touch_s = median_s(lambda: _touch(work.tape.high, work.tape.low, work.tape.close), 30)
    tape_s = median_s(lambda: make_tape(work.candles, BTC), 5)
    others = peers(work, tmp_path)
    with capsys.disabled():
        print(
            f"\nP1 {YEAR:,} minutes, {stats.trades:,} round trips, all features, entries in three parts, with statistics: "
            f"{ours_s * 1e3:.1f} ms (reach 6 ms), of it simulation {alone_s * 1e3:.1f} ms; "
            f"{ours_s / touch_s:.0f}× a loop that only looks at each bar; the tape, once per market, {tape_s * 1e3:.0f} ms\n"
            f"   entries in one part, as the others trade: {plain_s * 1e3:.1f} ms"
        )
        for name, answer in others.items():
            theirs_s = statistics.median(answer["seconds"])
            print(
                f"   {name}: {theirs_s * 1e3:,.0f} ms, {answer['trades']:,.0f} round trips: {theirs_s / ours_s:,.0f}× ours, "
                f"{theirs_s / plain_s:,.0f}× ours in one part (reach {REACH[name]}×)"
            )
        if "vectorbt" not in others:
            print("   vectorbt: not here; `make bench` gives it an environment")
    for name, answer in others.items():
        assert statistics.median(answer["seconds"]) / plain_s >= REACH[name]


def test_bench_passing_over_quiet_bars_pays(work: Work) -> None:
    quick = median_s(lambda: work.simulate(curve=False), 5)
    full = median_s(lambda: work.simulate(curve=False, shortcuts=False), 2)
    assert full / quick >= 4


MOVING = {
    "trailing, in steps of a tenth": {"sl_kind": StopKind.TRAILING, "trail_step": 0.1},
    "trailing, in steps of a half": {"sl_kind": StopKind.TRAILING, "trail_step": 0.5},
    "break even": {"sl_kind": StopKind.BREAK_EVEN, "break_even_at": 1.0, "round_trip_cost": 0.0011},
}


def test_bench_a_stop_that_moves_costs_what_its_moves_and_trips_cost(
    work: Work, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, fixed_s = [], median_s(work.whole, 15)
    for name, stop in MOVING.items():
        moving = work.changed(**stop)
        moves, trips, took_s = moving.simulate().notes["STOP_MOVED"], moving.whole().trades, median_s(moving.whole, 15)
        lines.append(f"{name}: {took_s * 1e3:.1f} ms, {trips:,} round trips, {moves:,} moves")
        assert took_s / fixed_s < 4
    with capsys.disabled():
        print(f"\nP1 with stops that move (fixed: {fixed_s * 1e3:.1f} ms): {'; '.join(lines)}")
