"""Any search stands on the same three rooms: a task, the evaluator, the book. Here a random one, in a dozen lines."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from autotrader.core.executor import Executor, Serial, open_executor
from autotrader.data.sample import eurusd
from autotrader.desk.backtest import backtest
from autotrader.search.book import TrialLedger, count
from autotrader.search.evaluate import STATS, Evaluation, evaluate
from autotrader.search.task import task_of
from autotrader.search.variant import Variant, variants
from autotrader.store.database import Store, open_store

PRICES = eurusd()[:1_500]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store("sqlite:///desk.db", folder=tmp_path, create=True) as opened:
        yield opened


def random_search(
    rng: np.random.Generator, tries: int, ledger: TrialLedger, executor: Executor | None
) -> tuple[list[Variant], list[Evaluation]]:
    "The whole of a search that draws its parameters."
    task = task_of("ema_trend", PRICES)
    drawn = [
        {
            "strategy_params.fast": int(rng.integers(3, 30)),
            "strategy_params.slow": int(rng.integers(20, 80)),
            "strategy_params.sl_ratio": float(rng.choice([1.0, 2.0, 3.0])),
        }
        for _ in range(tries)
    ]
    found, _ = variants(task, drawn)  # a slow average that is faster than the fast one is left out
    done: list[Evaluation] = []
    evaluate(task, found, keep=done.extend, executor=executor)
    count(ledger, task, found, done, kind="random")
    return found, sorted(done, key=lambda each: each.place)


def numbers(done: list[Evaluation]) -> list[tuple[int, bytes, bytes, bytes]]:
    return [(each.place, each.stats.tobytes(), each.daily.tobytes(), each.day_ms.tobytes()) for each in done]


def test_a_random_search_is_a_dozen_lines_and_its_numbers_are_those_of_single_backtests(store: Store) -> None:
    ledger = TrialLedger(store)
    found, done = random_search(np.random.default_rng(7), 150, ledger, None)
    assert 100 < len(done) == len(found) < 150
    different = len({tuple(each.changes.items()) for each in found})
    assert ledger.counted(venue="sample", symbol="EURUSD").trials == different
    best = int(np.nanargmax([each["sharpe"] for each in done]))
    changes = {key.partition(".")[2]: value for key, value in found[best].changes.items()}
    alone = backtest("ema_trend", PRICES, bot={"strategy_params": changes}).stats.as_dict()
    assert [None if value != value else value for value in done[best].stats] == [alone[name] for name in STATS]


def test_it_finds_the_same_on_threads_serial_and_all_cores(store: Store) -> None:
    ledger = TrialLedger(store)
    here = numbers(random_search(np.random.default_rng(7), 150, ledger, None)[1])
    trials = ledger.counted(venue="sample", symbol="EURUSD").trials
    assert numbers(random_search(np.random.default_rng(7), 150, ledger, Serial())[1]) == here
    with open_executor("loky", workers=2) as executor:
        assert numbers(random_search(np.random.default_rng(7), 150, ledger, executor)[1]) == here
    assert ledger.counted(venue="sample", symbol="EURUSD").trials == trials  # each counts once, wherever it ran


def test_it_finds_the_same_on_a_dask_cluster(store: Store, dask: str) -> None:
    ledger = TrialLedger(store)
    here = numbers(random_search(np.random.default_rng(7), 150, ledger, None)[1])
    with open_executor(dask) as executor:
        assert numbers(random_search(np.random.default_rng(7), 150, ledger, executor)[1]) == here
