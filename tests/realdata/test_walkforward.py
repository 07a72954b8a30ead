"""Eight years of Bitcoin by the hour, re-fitted at every border: here, and on a cluster of two processes, with the same result."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from autotrader.config.sections import BotSettings
from autotrader.config.settings import Settings, load, write_template
from autotrader.core.clock import DAY_MS, SystemClock, iso, parse_time
from autotrader.data.importers import import_file
from autotrader.desk.walkforward import WalkForward, walkforward_bot
from autotrader.store.database import Store, open_store
from autotrader.validation.overfit import deflated_sharpe, track_of
from autotrader.validation.trials import counted

pytestmark = [pytest.mark.realdata, pytest.mark.timeout(300)]

PERIOD = parse_time("2017-08-17"), parse_time("2025-07-01")
RANGES = ["fast=8,24,48", "slow=60,120,240", "gap_atr=0.5,1"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("desk")
    write_template(folder)
    return load(folder / "config.toml")


@pytest.fixture(scope="module")
def store(settings: Settings, data_dir: Path) -> Iterator[Store]:
    with open_store(settings.database_url, folder=settings.folder, create=True) as opened:
        series = {"venue": "binance", "symbol": "BTCUSDT", "timeframe": "1h"}
        import_file(opened, data_dir / "btcusdt_1h.parquet", **series, allow_gaps=True, clock=SystemClock())
        yield opened


def walked(settings: Settings, store: Store, scheduler: str, *, is_anchored: bool = False) -> WalkForward:
    bot = BotSettings(
        name="walker", id="walker", venue="binance", symbol="BTCUSDT", timeframe="1h", sizing="equity_frac"
    )
    return walkforward_bot(
        bot,
        store,
        settings,
        ranges=RANGES,
        since_ms=PERIOD[0],
        until_ms=PERIOD[1],
        train_days=730,
        test_days=90,
        is_anchored=is_anchored,
        scheduler=scheduler,
    )


@pytest.fixture(scope="module")
def here(settings: Settings, store: Store) -> WalkForward:
    return walked(settings, store, "serial")


def test_eight_years_are_walked_window_by_window(here: WalkForward) -> None:
    assert len(here.steps) == 24 and here.summary["days"] == 2143 + 1
    assert iso(int(here.day_ms[0]))[:10] == "2019-08-18" and iso(int(here.day_ms[-1]))[:10] == "2025-06-30"
    keys = ["strategy_params.fast", "strategy_params.slow", "strategy_params.gap_atr"]
    assert here.table[keys].notna().all(axis=None) and len(here.table[keys].drop_duplicates()) > 1, "truly re-fitted"
    assert (here.table["train_until"] == here.table["test_from"]).all()
    assert here.summary["trades"] > 200 and not here.table["is_open"].any()


def test_dsr_and_pbo_come_from_everything_that_was_tried(here: WalkForward, store: Store) -> None:
    ledger = counted(store, venue="binance", symbol="BTCUSDT")
    assert ledger.trials == 24 * 18 == here.luck.trials
    assert here.overfit is not None and len(here.overfit.logits) == 12_870
    assert 0 <= here.overfit.pbo <= 1 and here.luck.pbo == here.overfit.pbo
    chance = here.luck.chance_annual
    assert chance is not None and here.luck.dsr is not None
    expected = deflated_sharpe(
        track_of(here.daily), trials=ledger.independent, trials_std_per_period=chance / np.sqrt(365)
    )
    assert here.luck.dsr == pytest.approx(expected, abs=1e-6)


def test_a_dask_cluster_of_two_processes_gives_the_same_bit_for_bit(
    here: WalkForward, settings: Settings, store: Store, tmp_path: Path
) -> None:
    from distributed import LocalCluster

    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
        local_directory=str(tmp_path),
    ) as cluster:
        pids = {worker.pid for worker in cluster.workers.values()}
        there = walked(settings, store, cluster.scheduler_address)
    assert len(pids) == 2 and os.getpid() not in pids
    assert there.daily.tobytes() == here.daily.tobytes()
    assert there.table.equals(here.table)
    assert there.overfit is not None and here.overfit is not None
    assert there.overfit.logits.tobytes() == here.overfit.logits.tobytes()
    assert there.tried.trials == here.tried.trials and there.luck.dsr == here.luck.dsr
    assert there.tried.new == 0, "the same trials, counted once"


def test_the_report_has_the_parameters_of_each_window(here: WalkForward, tmp_path: Path) -> None:
    text = here.report(tmp_path / "report.html").read_text()
    for window in (step.window for step in here.steps):
        dates = (iso(ms)[:10] for ms in (window.train_from_ms, window.test_from_ms, window.test_until_ms))
        assert "".join(f'<td class="text">{date}</td>' for date in dates) in text
    for word in ("DSR", "PBO", "Window by window", "re-fitted 24 times", "Efficiency"):
        assert word in text
    assert here.steps[-1].window.test_until_ms - here.steps[0].window.test_from_ms > 2_100 * DAY_MS
