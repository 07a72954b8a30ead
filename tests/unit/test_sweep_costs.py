"""Costs that are varied are scenarios: played beside what is chosen, never chosen, never counted."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import autotrader as at
from autotrader.core.errors import ConfigError
from autotrader.core.executor import open_executor
from autotrader.core.market import Candles
from autotrader.data.sample import eurusd
from autotrader.desk.backtest import backtest
from autotrader.engine.signals import Signals, from_rules
from autotrader.results.grid import verdict
from autotrader.results.verdict import in_words
from autotrader.search.book import TrialLedger
from autotrader.search.evaluate import STATS
from autotrader.search.grid import GridResult, break_even, explore
from autotrader.search.ranges import as_ranges, keyed
from autotrader.search.sampling import draw
from autotrader.search.task import task_of
from autotrader.store.database import Store, open_store
from autotrader.strategy.templates import own

PRICES = eurusd()[:2_000]
GRID: dict[str, Any] = {"fast": [6, 10, 14], "slow": [40, 60], "sl_ratio": [1, 2]}
COSTS: dict[str, Any] = {"costs.slippage_bps": [0, 2, 8], "costs.stress": [1, 3]}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store("sqlite:///desk.db", folder=tmp_path, create=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def plain() -> GridResult:
    return explore(task_of("ema_trend", PRICES), GRID)


@pytest.fixture(scope="module")
def found() -> GridResult:
    return explore(task_of("ema_trend", PRICES), GRID | COSTS, threads=2)


def test_whatever_costs_are_varied_the_choice_and_its_luck_are_the_same(plain: GridResult, found: GridResult) -> None:
    assert found.book.stats.tobytes() == plain.book.stats.tobytes()
    assert found.chosen == plain.chosen and in_words(found.luck) == in_words(plain.luck)
    assert found.config == plain.config
    for selector in ("best", lambda grid: int(grid.table["return"].idxmax())):
        cheap = explore(task_of("ema_trend", PRICES), GRID | COSTS, selector=selector)
        assert cheap.chosen == explore(task_of("ema_trend", PRICES), GRID, selector=selector).chosen
    assert [key for key in found.table if "backtest" in key] == []


def test_every_scenario_is_a_single_backtest_at_those_costs(found: GridResult) -> None:
    assert len(found.scenarios) == 6 and list(found.scenarios)[:2] == ["backtest.slippage_bps", "backtest.stress"]
    bot = {"strategy_params": {key.partition(".")[2]: value for key, value in found.changes[found.chosen].items()}}
    for scenario, costs in enumerate(found.ranges.scenarios):
        alone = backtest("ema_trend", PRICES, bot=bot, costs={key.partition(".")[2]: v for key, v in costs.items()})
        told = alone.stats.as_dict()
        for name in ("return", "sharpe", "trades", "fees"):
            assert found.scenarios.loc[scenario, name] == told[name]
        place = scenario * len(found.ranges) + found.chosen
        assert found.dearer is not None
        wanted = [np.nan if told[name] is None else told[name] for name in STATS]
        assert np.array_equal(found.dearer.stats[place], wanted, equal_nan=True)
    cheapest = found.dearer.column("return").reshape(6, -1)[0]
    assert found.scenarios.loc[0, "gaining"] == (cheapest > 0).mean()


def test_scenarios_are_no_trials(store: Store) -> None:
    task, ledger = task_of("ema_trend", PRICES[:600]), TrialLedger(store)
    first = explore(task, GRID | COSTS, ledger=ledger)
    assert first.counted is not None and (first.fresh, first.counted.trials) == (12, 12)
    assert explore(task, GRID, ledger=ledger).fresh == 0
    alone = explore(task, COSTS, ledger=ledger)
    assert alone.counted is not None and (alone.fresh, alone.counted.trials) == (1, 13)


def test_signals_are_made_once_whatever_the_number_of_scenarios() -> None:
    asked: list[int] = []

    def rule(candles: Candles, *, lag: int = 24) -> Signals:
        asked.append(lag)
        past = np.r_[np.full(lag, np.nan), candles.close[:-lag]]
        up, down = candles.close > past, candles.close < past
        return from_rules(long=up, short=down, exit_long=down, exit_short=up)

    explore(task_of(own(rule, warmup=60), PRICES), {"lag": [12, 24, 48]})
    without = len(asked)
    asked.clear()
    explore(task_of(own(rule, warmup=60), PRICES), {"lag": [12, 24, 48]} | COSTS, threads=2)
    assert len(asked) == without


def test_scenarios_are_the_same_wherever_they_are_played_and_after_an_interruption(
    found: GridResult, tmp_path: Path
) -> None:
    task, pressed = task_of("ema_trend", PRICES), list[int]()

    def impatient(done: int, total: int) -> None:
        if done >= 20 and not pressed:
            pressed.append(total)
            raise KeyboardInterrupt

    part = explore(task, GRID | COSTS, threads=1, folder=tmp_path, tell=impatient)
    assert pressed == [12 * 7] and len(list(tmp_path.iterdir())) <= 1
    again = explore(task, GRID | COSTS, folder=tmp_path)
    with open_executor("loky", workers=2) as executor:
        there = explore(task, GRID | COSTS, executor=executor)
    for other in (again, there):
        pd.testing.assert_frame_equal(other.scenarios, found.scenarios, check_exact=True)
        assert verdict(other) == verdict(found)
    assert not part.is_whole


def rising(days: int = 90) -> Candles:
    "Hours that rise by a little every day: a rule that buys each morning and sells each evening earns it, less costs."
    bars = eurusd()[: days * 24]
    close = 1.1 * np.exp(np.cumsum(np.where(np.arange(len(bars)) % 24 < 12, 2e-4, -1e-5)))
    opens = np.r_[1.1, close[:-1]]
    return replace(bars, open=opens, close=close, high=np.maximum(opens, close), low=np.minimum(opens, close))


def test_where_it_breaks_even_is_found_and_said() -> None:
    def mornings(candles: Candles) -> Signals:
        hour = np.arange(len(candles)) % 24
        never = np.zeros(len(candles), bool)
        return from_rules(long=hour == 23, short=never, exit_long=hour == 11, exit_short=never)

    task = task_of(own(mornings, warmup=0), rising(), costs={"spread_bps": 0.0}, bot={"strategy_params": {"sl_ratio": 50, "tp_ratio": 50}})  # fmt: skip
    found = explore(task, {"costs.slippage_bps": "0:20:1"})
    returns, even = found.scenarios["return"], break_even(found)
    assert even is not None and returns[int(even)] > 0 >= returns[int(even) + 1]
    closer = explore(task, {"costs.slippage_bps": [even - 0.05, even + 0.05]}).scenarios["return"]
    assert closer[0] > 0 > closer[1]
    assert any(line.startswith(f"It breaks even near slippage_bps = {even:.3g}: at {int(even)} it earns") for line in verdict(found))  # fmt: skip
    assert any(line.startswith("It earns at every slippage_bps from 0 to 2, ") for line in verdict(explore(task, {"costs.slippage_bps": [0, 2]})))  # fmt: skip
    assert "It loses at every slippage_bps from 30 to 40." in verdict(explore(task, {"costs.slippage_bps": [30, 40]}))


def test_a_sample_takes_costs_beside_it_as_they_are_listed() -> None:
    ranges = draw({"fast": "4:30", "slow": "32:90", "costs.slippage_bps": [0, 2, 8]}, 20, seed=3)
    found = explore(task_of("ema_trend", PRICES[:800]), ranges)
    assert (len(found.ranges), len(found.scenarios), found.luck.trials) == (20, 3, 20)
    with pytest.raises(ConfigError, match="'0:8' has 2 parts"):
        draw({"fast": "4:30", "costs.slippage_bps": "0:8"}, 20)


@pytest.mark.parametrize(
    ("ranges", "told"),
    [
        ({"fast": [5, 9], "costs.slipage_bps": [0, 1]}, "slipage_bps"),
        ({"fast": [5, 9], "costs.slippage_bps": [-1, 1]}, "slippage_bps"),
        ({"fast": [5, 9], "costs.stress": [1, 2], "backtest.stress": [3, 4]}, "backtest.stress is varied twice"),
        ({"fast": "1:400:1", "costs.slippage_bps": "0:300:1"}, "400 × 301 are 120,400 combinations, above 100,000"),
        ({"base_lot": [1, 2]}, 'base_lot is read with sizing = "lot" only, which is "equity_frac" here'),
        ({"risk_frac": [0.01, 0.02]}, 'risk_frac is read with sizing = "risk_frac" only'),
    ],
)
def test_costs_and_sizes_that_cannot_be_are_told_in_one_line(ranges: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        at.sweep("ema_trend", PRICES, ranges, progress=False)
    assert told in str(raised.value) and "\n" not in str(raised.value)


def test_sizes_are_chosen_like_any_setting() -> None:
    ranges = {"sizing": ["equity_frac", "risk_frac"], "equity_frac": [0.2, 0.8], "risk_frac": [0.005, 0.02]}
    found = at.sweep("ema_trend", PRICES, ranges, progress=False)
    assert len(found.table) == 8 and found.ranges.costs == ()
    for place, changes in enumerate(found.changes):
        assert found.table.loc[place, "pnl"] == backtest("ema_trend", PRICES, bot=changes).stats.pnl


def test_what_is_shown_holds_the_scenarios(tmp_path: Path) -> None:
    found = at.sweep("ema_trend", PRICES, GRID | {"costs.slippage_bps": [0, 2, 8]}, progress=False)
    page = found.report(tmp_path / "sweep.html").read_text()
    for text in (page, found._repr_html_()):
        assert "return in % over slippage_bps" in text and "at other costs, and the share" in text
    alone = at.sweep("ema_trend", PRICES, COSTS, progress=False)
    assert repr(alone).startswith("Sweep(1 of 1 combinations") and "as configured: Sharpe ratio" in alone.verdict[0]
    assert "The bot at other costs." in alone.report(tmp_path / "alone.html").read_text()
    assert keyed(as_ranges(COSTS)).axes == () and alone.config == ()
    with pytest.raises(ConfigError, match="nobody chooses it: sweep it"):
        at.walkforward("ema_trend", eurusd(), GRID | COSTS, train_days=120, test_days=60, progress=False)
