"""The trial ledger: nothing counts twice, nothing is lost, and the effective number is the one under which luck comes out right."""

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotrader.core.clock import DAY_MS
from autotrader.core.errors import DataError
from autotrader.core.market import Floats
from autotrader.store.database import Store, open_store
from autotrader.validation.overfit import deflated_sharpe, expected_max, luckiest_per_period, track_of
from autotrader.validation.splits import Ints
from autotrader.validation.trials import (
    BATCH,
    Study,
    Trial,
    _as_many,
    counted,
    digest,
    done,
    factors,
    independent_streams,
    likeness,
    record,
    scores,
    studies,
)

STUDY = Study(
    kind="sweep",
    strategy="ema_trend",
    venue="bybit",
    symbol="BTCUSDT",
    timeframe="1h",
    since_ms=0,
    until_ms=1,
    data="d",
    setting="s",
)
PINNED = [-0.6039192, -1.1105726, -0.5990783, 0.104596]  # of day 20,000
Make = Callable[[np.random.Generator], Floats]


def days(count: int, first: int = 18_000) -> Ints:
    return (first + np.arange(count, dtype=np.int64)) * DAY_MS


def trials(daily: Floats, *, first: int = 0) -> list[Trial]:
    stamps = days(daily.shape[1])
    return [Trial(params={"n": first + n}, daily=row, day_ms=stamps, stats={}) for n, row in enumerate(daily)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store("sqlite:///a.db", folder=tmp_path, create=True) as opened:
        yield opened


def market(store: Store) -> Any:
    return counted(store, venue="bybit", symbol="BTCUSDT")


# --- luck, by simulation: what the best of many trials without an edge really comes to


def best_sharpes(make: Make, rounds: int) -> tuple[float, float, float]:  # mean, its standard error, days
    best = []
    for seed in range(rounds):
        daily = make(np.random.default_rng(seed))
        best.append(float((daily.mean(axis=1) / daily.std(axis=1, ddof=1)).max()))
    return float(np.mean(best)), float(np.std(best) / sqrt(rounds)), float(daily.shape[1])


def near_copies(ideas: int, copies: int, length: int = 500) -> Make:
    return lambda rng: (rng.normal(size=(ideas, 1, length)) + 0.03 * rng.normal(size=(ideas, copies, length))).reshape(
        -1, length
    )


def alike(correlation: float, count: int, length: int) -> Make:
    return lambda rng: sqrt(correlation) * rng.normal(size=(1, length)) + sqrt(1 - correlation) * rng.normal(
        size=(count, length)
    )


def hours(rng: np.random.Generator, length_days: int = 250) -> Floats:
    "Daily returns of a grid of crossing averages on hours of a random walk: neighbours are much alike."
    moves = rng.normal(0, 0.01, 24 * length_days + 200)
    price = 100 * np.exp(np.cumsum(moves))
    averages = {}
    for span in (3, 5, 8, 13, 21, 34, 55, 89, 144):
        decay = 1.0 - 2.0 / (span + 1.0)
        weights = (1.0 - decay) * decay ** np.arange(200)
        averages[span] = np.convolve(price, weights)[199 : len(price)]
    pairs = [(f, s) for f in averages for s in averages if f < s]
    sides = np.stack([np.where(averages[fast] > averages[slow], 1.0, -1.0)[:-1] for fast, slow in pairs])
    hourly = sides * moves[200:]
    return np.asarray(hourly[:, : 24 * (length_days - 1)].reshape(len(pairs), -1, 24).sum(axis=2))


CASES: dict[str, tuple[Make, int]] = {
    "five ideas": (near_copies(5, 60), 300),
    "twenty ideas": (near_copies(20, 20), 200),
    "a thousand strangers": (lambda rng: rng.normal(size=(1_000, 100)), 60),
    "alike by a tenth": (alike(0.1, 500, 200), 100),
    "alike by half": (alike(0.5, 500, 200), 400),
    "alike by nine tenths": (alike(0.9, 500, 200), 600),
    "a calm and a wild year": (lambda rng: rng.normal(size=(500, 250)) * np.exp(rng.normal(size=250)), 100),
    "fat tails": (lambda rng: rng.standard_t(3, size=(500, 250)), 100),
    "crossing averages": (hours, 100),
}


@pytest.mark.parametrize("case", CASES)
def test_the_effective_number_gives_the_luck_of_the_luckiest(case: str) -> None:
    make, rounds = CASES[case]
    truth, error, length = best_sharpes(make, rounds)
    found = [make(np.random.default_rng(1_000 + seed)) for seed in range(4)]
    effective = [independent_streams(daily, days(daily.shape[1], 15_000 + 999 * i)) for i, daily in enumerate(found)]
    told = np.mean([luckiest_per_period(trials=n, trials_std_per_period=1 / sqrt(length)) for n in effective])
    assert told >= 0.95 * truth - 2 * error, "flatters"
    assert told <= 1.12 * truth + 2 * error, "condemns"


def test_copies_are_one_trial_and_strangers_are_many_however_short_the_history() -> None:
    rng = np.random.default_rng(3)
    assert independent_streams(np.tile(rng.normal(size=300), (50, 1)), days(300)) == 1.0
    assert independent_streams(rng.normal(size=(1, 300)), days(300)) == 1.0
    for ideas in (3, 10, 40):
        daily = near_copies(ideas, 20)(rng)
        assert 0.9 * ideas <= independent_streams(daily, days(500)) <= 1.5 * ideas
    for length in (30, 100):  # far fewer days than trials, and than random worlds
        assert independent_streams(rng.normal(size=(3_000, length)), days(length)) >= 2_400


def test_an_idea_and_its_opposite_are_two_trials() -> None:
    daily = np.random.default_rng(4).normal(size=300)
    assert independent_streams(np.stack([daily, -daily]), days(300)) == 2.0


def test_size_and_drift_play_no_part_in_what_is_alike() -> None:
    daily = np.random.default_rng(5).normal(size=300)
    assert independent_streams(np.stack([daily, 0.01 * daily, 7 * daily + 0.3]), days(300)) == 1.0


def test_other_days_are_other_luck() -> None:
    daily = np.random.default_rng(6).normal(size=(1, 300))
    here, there = (scores(daily, days(300, first)) for first in (15_000, 16_000))
    assert abs(np.corrcoef(here[0][0], there[0][0])[0, 1]) < 0.25
    assert likeness(here[1][0].tobytes(), here[1][0].tobytes()) == pytest.approx(1.0)


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(2, 40), st.integers(3, 60))
def test_the_effective_number_lies_between_one_and_the_count_and_grows(seed: int, count: int, length: int) -> None:
    daily = np.random.default_rng(seed).normal(size=(count, length))
    some, more = independent_streams(daily[: count // 2 + 1], days(length)), independent_streams(daily, days(length))
    assert 1.0 <= some <= count // 2 + 1 and some - 1e-6 <= more <= count


def test_the_worlds_are_the_same_in_every_process() -> None:
    code = (
        "import numpy as np; from autotrader.validation.trials import factors\n"
        "print(factors(np.array([18_300, 15_001]) * 86_400_000).tobytes().hex())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert bytes.fromhex(told) == factors(days(400))[300:301].tobytes() + factors(days(2, 15_000))[1:].tobytes()


def test_the_worlds_never_change_or_old_ledgers_would_compare_with_nothing() -> None:
    assert factors(days(1, 20_000))[0, :4] == pytest.approx(PINNED, abs=1e-6)


def test_a_fingerprint_tells_who_is_alike() -> None:
    rng = np.random.default_rng(8)
    off = []
    for correlation in (0.0, 0.5, 0.9, 0.99):
        for _ in range(25):
            one, other = rng.normal(size=(2, 400))
            pair = np.stack([one, correlation * one + sqrt(1 - correlation**2) * other])
            marks = [row.tobytes() for row in scores(pair, days(400))[1]]
            assert len(marks[0]) == 64
            off.append((likeness(*marks) - np.corrcoef(pair)[0, 1]) / max(1 - correlation**2, 0.1))
    assert sqrt(np.mean(np.square(off))) < 0.16 and abs(np.mean(off)) < 0.04  # an eighth: the root of 64 worlds


# --- what counts


def test_the_same_configuration_counts_once_whoever_asks(store: Store) -> None:
    daily = np.random.default_rng(1).normal(size=(10, 200))
    assert record(store, STUDY, trials(daily), now_ms=1) == 10
    assert record(store, STUDY, trials(daily), now_ms=2) == 0
    assert record(store, replace(STUDY, kind="backtest"), trials(daily[:3]) * 2, now_ms=3) == 0
    assert record(store, STUDY, [*trials(daily), *trials(daily[:1], first=10)], now_ms=4) == 1
    assert market(store).trials == 11
    assert [(each.kind, each.trials) for each in studies(store)] == [("sweep, backtest", 11)]


@pytest.mark.parametrize(
    "change",
    [
        {"since_ms": 5},
        {"until_ms": 5},
        {"data": "other"},
        {"setting": "dearer"},
        {"timeframe": "4h"},
        {"strategy": "rsi"},
    ],
)
def test_another_period_other_data_other_costs_are_new_trials(store: Store, change: dict[str, Any]) -> None:
    daily = np.random.default_rng(1).normal(size=(2, 200))
    record(store, STUDY, trials(daily), now_ms=1)
    assert record(store, replace(STUDY, **change), trials(daily), now_ms=2) == 2
    assert market(store).trials == 4
    assert market(store).independent < 3  # but no other bets


def test_markets_are_counted_apart(store: Store) -> None:
    daily = np.random.default_rng(1).normal(size=(2, 200))
    record(store, STUDY, trials(daily), now_ms=1)
    record(store, replace(STUDY, symbol="ETHUSDT"), trials(daily), now_ms=1)
    assert market(store).trials == 2
    assert counted(store, venue="binance", symbol="BTCUSDT").trials == 0
    assert len(studies(store, symbol="ETHUSDT")) == 1 and len(studies(store)) == 2


def test_the_sums_are_those_of_all_trials_at_once(store: Store) -> None:
    rng = np.random.default_rng(2)
    daily = rng.normal(0.02, 1, size=(300, 150))
    for first in range(0, 300, 37):
        record(store, STUDY, trials(daily[first : first + 37], first=first), now_ms=first)
    sharpe = daily.mean(axis=1) / daily.std(axis=1, ddof=1)
    found = market(store)
    assert found.trials == 300
    assert found.sharpe_std_per_day == pytest.approx(sharpe.std(ddof=1))
    assert found.independent == pytest.approx(independent_streams(daily, days(150)))
    assert studies(store)[0].best_sharpe == pytest.approx(sharpe.max())


def test_one_call_may_be_longer_than_a_batch(store: Store) -> None:
    daily = np.random.default_rng(1).normal(size=(BATCH + 7, 20))
    assert record(store, STUDY, iter(trials(daily)), now_ms=1) == BATCH + 7
    assert len(done(store, STUDY)) == BATCH + 7


def test_what_is_done_is_known_by_its_parameters(store: Store) -> None:
    daily = np.random.default_rng(1).normal(0, 0.01, size=(2, 100))
    stats = {"return": 0.25, "max_drawdown": np.float64(0.125), "trades": np.int64(9), "sqn": 1.0}
    named = [replace(each, stats=stats) for each in trials(daily)]
    assert done(store, STUDY) == {}
    record(store, STUDY, named, now_ms=1)
    found = done(store, replace(STUDY, kind="backtest"))[digest({"n": 1})]
    sharpe = daily[1].mean() / daily[1].std(ddof=1)
    kept = {"return": 0.25, "max_drawdown": 0.125, "trades": 9, "days": 100}
    assert found == kept | {"sharpe_per_day": pytest.approx(sharpe)}


def test_the_same_numbers_in_other_clothes_are_the_same() -> None:
    assert (
        digest({"a": 1, "b": 2.5}) == digest({"b": np.float64(2.5), "a": np.int32(1)}) == digest({"a": 1.0, "b": 2.5})
    )
    assert len({digest({"a": value}) for value in (1, 2, 1.5, "1", None, True)}) == 6


def test_a_trial_that_never_traded_is_counted_and_moves_nothing(store: Store) -> None:
    daily = np.random.default_rng(1).normal(size=(5, 100))
    record(store, STUDY, trials(daily), now_ms=1)
    before = market(store)
    assert record(store, STUDY, trials(np.zeros((3, 100)), first=5), now_ms=2) == 3
    after = market(store)
    assert after.trials == 8
    assert (after.independent, after.sharpe_std_per_day) == (before.independent, before.sharpe_std_per_day)
    assert done(store, STUDY)[digest({"n": 6})]["sharpe_per_day"] is None


def test_a_gap_in_the_returns_counts_nothing_of_its_batch(store: Store) -> None:
    daily = np.random.default_rng(1).normal(size=(5, 100))
    daily[3, 50] = np.nan
    with pytest.raises(DataError, match=r"'n': 3.*return 50 is nan"):
        record(store, STUDY, trials(daily), now_ms=1)
    assert market(store).trials == 0 and studies(store) == []


# --- how far Sharpe ratios scatter


def test_short_windows_do_not_make_long_tracks_look_lucky(store: Store) -> None:
    rng = np.random.default_rng(9)
    record(store, STUDY, trials(rng.normal(size=(200, 2_000))), now_ms=1)
    record(store, replace(STUDY, data="window"), trials(rng.normal(size=(200, 30))), now_ms=2)
    found = market(store)
    assert found.sharpe_std_per_day > 4 / sqrt(2_000)
    assert 1 / sqrt(2_000) <= found.std_per_day(2_000) < 1.3 / sqrt(2_000)


def test_true_differences_are_seen_beside_the_noise(store: Store) -> None:
    rng = np.random.default_rng(10)
    skill = rng.normal(0, 0.1, size=(400, 1))
    record(store, STUDY, trials(skill + rng.normal(size=(400, 500))), now_ms=1)
    assert market(store).skill_std_per_day == pytest.approx(0.1, rel=0.15)
    assert market(store).std_per_day(500) == pytest.approx(market(store).sharpe_std_per_day, rel=0.1)


def test_copies_do_not_take_the_noise_away(store: Store) -> None:
    record(store, STUDY, trials(near_copies(1, 300)(np.random.default_rng(11))), now_ms=1)
    assert market(store).sharpe_std_per_day < 0.1 / sqrt(500)
    assert market(store).std_per_day(500) == pytest.approx(1 / sqrt(500))


def test_ten_thousand_tries_make_the_same_backtest_less_convincing(store: Store) -> None:
    rng = np.random.default_rng(12)
    mine = rng.normal(0.06, 1, size=1_000)
    mine += 0.075 - mine.mean() / mine.std()  # about 1.4 a year
    record(store, STUDY, trials(mine[None]), now_ms=1)
    alone = market(store)
    for first in range(1, 10_000, 1_111):
        record(store, STUDY, trials(rng.normal(size=(1_111, 1_000)), first=first), now_ms=2)
    crowd = market(store)
    probability = {
        each.trials: deflated_sharpe(
            track_of(mine), trials=each.independent, trials_std_per_period=each.std_per_day(len(mine))
        )
        for each in (alone, crowd)
    }
    assert set(probability) == {1, 10_000} and crowd.independent > 8_000
    assert probability[1] > 0.95 and probability[10_000] < 0.1


# --- writers


def test_threads_that_tell_the_same_and_different_things_lose_nothing(store: Store) -> None:
    daily = np.random.default_rng(13).normal(size=(120, 60))
    new: list[int] = []

    def tell(first: int) -> None:
        for at in range(first, first + 60, 10):
            new.append(record(store, STUDY, trials(daily[at : at + 10], first=at), now_ms=at))

    writers = [threading.Thread(target=tell, args=(first,)) for first in (0, 0, 60, 30, 60)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sum(new) == 120 and market(store).trials == 120 and len(done(store, STUDY)) == 120
    assert market(store).independent == pytest.approx(independent_streams(daily, days(60)))


def test_a_trial_is_small(store: Store, tmp_path: Path) -> None:
    daily = np.random.default_rng(14).normal(size=(4_000, 30))
    rows = [
        replace(each, params={"fast": n, "slow": 2 * n, "sl_ratio": 1.5}, stats={"trades": 120, "max_drawdown": 0.123})
        for n, each in enumerate(trials(daily))
    ]
    record(store, STUDY, rows, now_ms=1)
    store.close()
    with sqlite3.connect(tmp_path / "a.db") as plain:
        plain.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        plain.execute("VACUUM")
    assert (tmp_path / "a.db").stat().st_size / len(rows) <= 320


def test_the_count_is_read_without_the_trials(store: Store) -> None:
    record(store, STUDY, trials(np.random.default_rng(15).normal(size=(50, 60))), now_ms=1)
    seen = market(store)
    with store.begin() as connection:
        connection.exec_driver_sql("DELETE FROM trials")
    assert market(store) == seen


def test_the_expected_maximum_is_turned_around_exactly() -> None:
    for trials_ in (2.0, 7.0, 100.0, 12_345.0, 1e6):
        assert _as_many(expected_max(trials_), 1e7) == pytest.approx(trials_, rel=1e-6)
    assert _as_many(9.0, 50.0) == 50.0 and _as_many(0.0, 50.0) == 1.0
