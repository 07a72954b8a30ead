"""The trial ledger on both databases: the same counts, and writers in several processes that neither lose anything nor wait in a circle."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from autotrader.core.clock import DAY_MS
from autotrader.store.database import Store, open_store
from autotrader.store.tables import TrialCount, TrialRow
from autotrader.validation.trials import Study, Trial, counted, digest, done, record, studies

STUDY = Study(
    kind="sweep",
    strategy="ema_trend",
    venue="bybit",
    symbol="BTCUSDT",
    timeframe="1h",
    since_ms=0,
    until_ms=1_700_000_000_000,
    data="d",
)
DAYS = (18_000 + np.arange(90, dtype=np.int64)) * DAY_MS
WRITER = """
import sys, numpy as np
from dataclasses import replace
from autotrader.store.database import open_store
from autotrader.validation.trials import record

sys.path.insert(0, sys.argv[2])
from test_trials import STUDY, grid

seed = int(sys.argv[3])
rng = np.random.default_rng(seed)
with open_store(sys.argv[1]) as store:
    for turn in range(12):
        first, symbol = 25 * int(rng.integers(8)), ("BTCUSDT", "ETHUSDT")[int(rng.integers(2))]
        record(store, replace(STUDY, symbol=symbol, data=f"d{turn % 3}"), grid(200)[first : first + 50], now_ms=turn)
        print(turn, flush=True)
    for data in range(3):
        for symbol in ("BTCUSDT", "ETHUSDT"):
            record(store, replace(STUDY, symbol=symbol, data=f"d{data}"), grid(200), now_ms=99)
"""


def grid(count: int) -> list[Trial]:
    daily = np.random.default_rng(5).normal(size=(count, 90))
    stats = {"return": 0.5, "max_drawdown": 0.25, "trades": np.int64(7)}
    return [
        Trial(params={"fast": n, "é": [1.5, None]}, daily=row, day_ms=DAYS, stats=stats) for n, row in enumerate(daily)
    ]


def test_counting_reading_and_listing_agree(store: Store) -> None:
    assert record(store, STUDY, grid(700), now_ms=5) == 700
    assert record(store, replace(STUDY, kind="backtest"), grid(705), now_ms=6) == 5
    found = counted(store, venue="bybit", symbol="BTCUSDT")
    daily = np.stack([trial.daily for trial in grid(705)])
    assert found.trials == 705 and found.strategies == ("ema_trend",)
    assert found.sharpe_std_per_day == pytest.approx((daily.mean(axis=1) / daily.std(axis=1, ddof=1)).std(ddof=1))
    there = done(store, STUDY)[digest({"fast": 704.0, "é": [1.5, None]})]
    assert (there["return"], there["max_drawdown"], there["trades"], there["days"]) == (0.5, 0.25, 7, 90)
    (line,) = studies(store, venue="bybit")
    assert (line.kind, line.trials, line.created_ms, line.updated_ms) == ("sweep, backtest", 705, 5, 6)


def test_processes_that_overlap_lose_nothing_and_never_wait_in_a_circle(any_store_url: str) -> None:
    open_store(any_store_url, create=True).close()
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", WRITER, any_store_url, here]
    writers = [
        subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) for seed in range(2)
    ]
    doomed = subprocess.Popen([*command, "9"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert doomed.stdout is not None and doomed.stdout.readline()
    doomed.send_signal(signal.SIGKILL)
    doomed.communicate()
    for process in writers:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
    with open_store(any_store_url) as store:
        for symbol in ("BTCUSDT", "ETHUSDT"):
            assert counted(store, venue="bybit", symbol=symbol).trials == 600
        with store.read() as connection:
            assert connection.execute(sa.select(sa.func.count()).select_from(TrialRow)).scalar_one() == 1_200
            squares = connection.execute(sa.select(TrialCount.sharpe_squares)).scalars().all()
    daily = np.stack([trial.daily for trial in grid(200)])
    once = float(((daily.mean(axis=1) / daily.std(axis=1, ddof=1)) ** 2).sum())
    assert squares == pytest.approx([3 * once] * 2)
