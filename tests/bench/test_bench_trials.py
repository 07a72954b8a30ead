"""The trial ledger at a hundred thousand trials: what counting costs, and that reading costs nothing more."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotrader.core.clock import DAY_MS
from autotrader.store.database import Store, open_store
from autotrader.validation.trials import BATCH, Study, Trial, counted, done, record

COUNT, LENGTH = 100_000, 120
STUDY = Study(
    kind="sweep",
    strategy="ema_trend",
    venue="bybit",
    symbol="BTCUSDT",
    timeframe="1h",
    since_ms=0,
    until_ms=1,
    data="d",
)
DAYS = (18_000 + np.arange(LENGTH, dtype=np.int64)) * DAY_MS


def batch(first: int) -> list[Trial]:
    daily = np.random.default_rng(first).normal(size=(BATCH, LENGTH))
    return [
        Trial(
            params={"fast": first + n, "slow": 99, "sl_ratio": 1.5},
            daily=row,
            day_ms=DAYS,
            stats={"return": 0.123456789, "max_drawdown": 0.123456789, "trades": 123},
        )
        for n, row in enumerate(daily)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def store(folder: Path) -> Iterator[Store]:
    with open_store("sqlite:///a.db", folder=folder, create=True) as opened:
        yield opened


def shortest(store: Store) -> float:
    times = []
    for _ in range(20):
        start = time.perf_counter()
        counted(store, venue="bybit", symbol="BTCUSDT")
        times.append(time.perf_counter() - start)
    return min(times)


def test_bench_a_hundred_thousand_trials_are_counted_as_fast_as_a_thousand(
    store: Store, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates, few_s = [], 0.0
    for first in range(0, COUNT, BATCH):
        trials = batch(first)
        start = time.perf_counter()
        assert record(store, STUDY, trials, now_ms=first) == BATCH
        rates.append(BATCH / (time.perf_counter() - start))
        few_s = few_s or shortest(store)
    early, late, many_s = float(np.median(rates[:20])), float(np.median(rates[-20:])), shortest(store)
    start = time.perf_counter()
    assert record(store, replace(STUDY, kind="backtest"), batch(0), now_ms=1) == 0
    again = BATCH / (time.perf_counter() - start)
    start = time.perf_counter()
    assert len(done(store, STUDY)) == COUNT
    resumed_s = time.perf_counter() - start
    single = batch(COUNT)[:50]
    start = time.perf_counter()
    for trial in single:
        record(store, STUDY, [trial], now_ms=2)
    alone_s = (time.perf_counter() - start) / len(single)
    tried = counted(store, venue="bybit", symbol="BTCUSDT")
    size = sum(file.stat().st_size for file in folder.glob("a.db*")) / COUNT
    with capsys.disabled():
        print(
            f"\ntrial ledger, {COUNT:,} trials of {LENGTH} days: {early:,.0f}/s at first, {late:,.0f}/s at last, known ones {again:,.0f}/s, "
            f"one by one {alone_s * 1e3:.1f} ms each; {size:.0f} bytes a trial with the log; "
            f"counted() {many_s * 1e3:.2f} ms, after the first thousand {few_s * 1e3:.2f} ms; "
            f"all that is done {resumed_s * 1e3:.0f} ms; worth {tried.independent:,.0f} independent trials"
        )
    assert tried.trials == COUNT + len(single)
    assert many_s < 5 * few_s
    assert late > early / 4
    assert tried.independent > COUNT / 2
