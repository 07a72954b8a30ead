"""Markets without any edge, and as many with one: how often a result is said to be more than luck. Two hundred of each in `make soak`."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import sqrt
from time import perf_counter

import numba
import numpy as np
import pytest
from series import length

from autotrader.core.market import Candles, Floats
from autotrader.desk.backtest import backtest
from autotrader.engine.metrics import daily_returns
from autotrader.results.result import Result
from autotrader.results.verdict import in_words
from autotrader.strategy.templates import make
from autotrader.validation.entries import random_entries
from autotrader.validation.luck import Luck, judge
from autotrader.validation.overfit import overfitting
from autotrader.validation.trials import independent_streams

SERIES = length(40, soak=200)
HOURS = 5 * 8_760
HOUR_MS = 3_600_000
VOLATILITY = 0.006  # of an hour; 0.56 of a year
EDGE = 0.0273  # mean of an hour over its deviation, with the trend; leaves the right configuration a Sharpe ratio of 2 after costs
RIGHT = (24, 96)  # averages whose order is the trend
GRID = [(fast, slow) for fast in (12, 24) for slow in (48, 72, 96, 144)]
BOT = {"equity_frac": 1.0, "strategy_params": {"sl_ratio": 100.0, "tp_ratio": 100.0}}  # stops out of reach
TRUE_SHARPE = 2.0
FREE = {"taker_fee_bps": 0.0, "slippage_bps": 0.0, "spread_bps": 0.0}  # the hardest luck: nothing pulls the trials down


@numba.njit  # type: ignore[untyped-decorator]
def walk(shocks: Floats, edge: float, fast: int, slow: int) -> Floats:
    "Logarithms of prices whose drift in an hour has the sign of fast − slow average at the close before it."
    out = np.empty(len(shocks))
    level, quick, lazy = 0.0, 1.0, 1.0
    for i in range(len(shocks)):
        trend = 1.0 if quick > lazy else -1.0
        level += VOLATILITY * (shocks[i] + edge * trend)
        quick += (np.exp(level) - quick) * 2.0 / (fast + 1.0)
        lazy += (np.exp(level) - lazy) * 2.0 / (slow + 1.0)
        out[i] = level
    return out


def market(seed: int, edge: float) -> Candles:
    "Five years of hours; high and low are those a continuous path between open and close would have had."
    rng = np.random.default_rng(seed)
    closes = walk(rng.normal(size=HOURS), edge, *RIGHT)
    opens = np.append(0.0, closes[:-1])
    reach = -2.0 * VOLATILITY**2 * np.log(rng.random((2, HOURS)))
    apart = (opens - closes) ** 2
    return Candles(
        venue="bybit",
        symbol="BTCUSDT",
        timeframe="1h",
        open_ms=np.arange(HOURS) * HOUR_MS,
        open=30_000.0 * np.exp(opens),
        high=30_000.0 * np.exp((opens + closes + np.sqrt(apart + reach[0])) / 2.0),
        low=30_000.0 * np.exp((opens + closes - np.sqrt(apart + reach[1])) / 2.0),
        close=30_000.0 * np.exp(closes),
        volume=np.full(HOURS, 1e5),
    )


@dataclass(frozen=True)
class Outcome:
    "The best of the grid on one market, judged."

    luck: Luck
    right: float  # annual Sharpe ratio of the configuration that knows the trend, whether it was chosen or not


def outcome(seed: int, edge: float, costs: dict[str, float]) -> Outcome:
    candles = market(seed, edge)
    strategies = [make("ema_trend", {"fast": fast, "slow": slow, "gap_atr": 0.0}) for fast, slow in GRID]
    tried = [backtest(each, candles, bot=BOT, costs=costs) for each in strategies]
    daily = np.stack([daily_returns(each.run, each.part.wallet_e8) for each in tried])
    sharpes = daily.mean(axis=1) / daily.std(axis=1, ddof=1)
    best = int(sharpes.argmax())
    luck = judged(tried[best], daily, best, seed)
    return Outcome(luck, float(sharpes[GRID.index(RIGHT)] * sqrt(365)))


def judged(best: Result, daily: Floats, number: int, seed: int) -> Luck:
    "As a desk does it: trials counted by their returns; random entries where the verdict still hangs on them."

    def verdict(entry_rank: float | None) -> Luck:
        return judge(
            daily[number],
            trials=len(GRID),
            independent=independent_streams(daily, best.run.day_ms),
            pbo=overfitting(daily.T, blocks=8).pbo,
            entry_rank=entry_rank,
            rng=np.random.default_rng(seed),
            draws=100,
        )

    if not (alone := verdict(None)).is_past:
        return alone
    part = best.part
    entries = random_entries(
        part.tape,
        best.run,
        part.atr,
        params=part.params,
        costs=part.costs,
        wallet_e8=part.wallet_e8,
        eras=part.eras,
        rng=np.random.default_rng(seed),
        runs=19,
        threads=1,
    )
    assert entries is not None
    return verdict(entries.rank)


def outcomes(first_seed: int, *, edge: float = 0.0, costs: dict[str, float] | None = None) -> list[Outcome]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda seed: outcome(seed, edge, costs or {}), range(first_seed, first_seed + SERIES)))


def told(name: str, found: list[Outcome], seconds: float) -> str:
    past = sum(each.luck.is_past for each in found)
    deflated = sum((each.luck.dsr or 0.0) >= 0.95 for each in found)
    naive = sum((each.luck.psr or 0.0) >= 0.95 for each in found)
    worth = np.mean([each.luck.independent for each in found])
    best = np.mean([each.luck.sharpe_annual for each in found])
    right = np.mean([each.right for each in found])
    return (
        f"\n{name}: {past} of {len(found)} get past luck ({past / len(found):.1%}); "
        f"DSR alone {deflated}, without counting trials {naive}; {len(GRID)} configurations worth {worth:.1f}, "
        f"mean Sharpe ratio of the best {best:.2f}, of the right one {right:.2f}; {seconds:.0f} s"
    )


@pytest.mark.parametrize(("costs", "name"), [({}, "with costs"), (FREE, "without costs")])
def test_at_most_one_random_walk_in_twenty_gets_past_luck(
    costs: dict[str, float], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = perf_counter()
    found = outcomes(first_seed=0, costs=costs)
    with capsys.disabled():
        print(told(f"{SERIES} random walks {name}", found, perf_counter() - begin))
    assert np.mean([each.luck.is_past for each in found]) <= 0.05
    verdicts = [in_words(each.luck)[0] for each in found if not each.luck.is_past]
    assert all(said.startswith(("Luck explains it", "There is nothing to explain: it lost")) for said in verdicts)


def test_four_in_five_planted_edges_get_past_luck(capsys: pytest.CaptureFixture[str]) -> None:
    begin = perf_counter()
    found = outcomes(first_seed=1_000, edge=EDGE)
    with capsys.disabled():
        print(told(f"{SERIES} series with a planted edge", found, perf_counter() - begin))
    right = np.array([each.right for each in found])  # of five years: known to about 0.45 each
    assert abs(right.mean() - TRUE_SHARPE) < 3 * sqrt(1 / 5 / SERIES)
    assert np.mean([each.luck.is_past for each in found]) >= 0.8
    assert all(in_words(each.luck)[0].startswith("More than luck") for each in found if each.luck.is_past)
