"""Points drawn from ranges: distinct, within bounds and steps, even along every setting; played, counted and judged like a grid."""

import pickle
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

import autotrader as at
from autotrader.core.errors import ConfigError
from autotrader.core.executor import Serial, open_executor
from autotrader.core.market import Candles
from autotrader.data.sample import eurusd
from autotrader.desk.backtest import backtest
from autotrader.results.grid import verdict
from autotrader.search.book import TrialLedger
from autotrader.search.evaluate import STATS
from autotrader.search.grid import GridResult, explore
from autotrader.search.plateau import nearby, nearest, plateau_of_sample
from autotrader.search.ranges import combinations
from autotrader.search.sampling import Sample, asked, draw
from autotrader.search.task import task_of
from autotrader.search.walkforward import walk
from autotrader.store.database import Store, open_store

PRICES = eurusd()[:1_500]
MIXED = {"fast": "5:25:2", "slow": "30:90", "sl_ratio": "0.5:3.0", "trail_step": "0.001:1.0", "sl_kind": ["fixed", "trailing"]}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store("sqlite:///desk.db", folder=tmp_path, create=True) as opened:
        yield opened


# drawing


@given(
    samples=some.integers(48, 120),
    seed=some.integers(0, 10**6),
    low=some.floats(-50, 50),
    width=some.floats(0.01, 1_000),
    decades=some.integers(2, 6),
)
def test_a_latin_hypercube_has_one_point_in_each_slice_of_every_setting(
    samples: int, seed: int, low: float, width: float, decades: int
) -> None:
    ranges = [f"a={low:.6f}:{low + width:.6f}", f"b=0.01:{10.0 ** (decades - 2):.1f}", "c=1:10:1", "d=x,y"]
    found = draw(ranges, samples, seed=seed)
    values = [[each[key] for each in combinations(found)] for key in "abcd"]
    slack = 1e-3 * samples  # of a slice: values are rounded
    for units, column, axis in zip(found.units[:2], values[:2], found.axes[:2], strict=True):
        at = np.sort([units[axis.values.index(value)] for value in column]) * samples
        assert (at >= np.arange(samples) - slack).all() and (at <= np.arange(samples) + 1 + slack).all()
    for column, kinds in zip(values[2:], (10, 2), strict=True):
        assert {samples // kinds, -(-samples // kinds)} >= set(Counter(column).values())
        assert len(set(column)) == kinds


def test_points_drawn_at_random_leave_slices_empty() -> None:
    "The property above can fail: it does not hold by chance."
    found = draw(["a=0.0:1.0"], 60, method="random", seed=1)
    slices = {int(value * 60) for value in found.axes[0].values}
    assert len(slices) < 50


@given(method=some.sampled_from(["latin", "random"]), samples=some.integers(64, 200), seed=some.integers(0, 99))
def test_points_are_distinct_and_keep_bounds_steps_and_kinds(method: str, samples: int, seed: int) -> None:
    found = draw(MIXED, samples, method=method, seed=seed)
    every = list(combinations(found))
    assert len(every) == len(found) == samples == len({tuple(each.values()) for each in every})
    for each in every:
        assert each["fast"] in range(5, 26, 2) and each["slow"] in range(30, 91)
        assert all(type(each[key]) is int for key in ("fast", "slow"))
        assert 0.5 <= each["sl_ratio"] <= 3.0 and 0.001 <= each["trail_step"] <= 1.0  # type: ignore[operator]
        assert each["sl_kind"] in ("fixed", "trailing")
    again, other = draw(MIXED, samples, method=method, seed=seed), draw(MIXED, samples, method=method, seed=seed + 1)
    assert again == found and pickle.loads(pickle.dumps(found)) == found
    assert list(combinations(other)) != every


def test_what_spans_decades_is_drawn_on_a_log_scale_and_what_was_listed_evenly() -> None:
    found = draw({"a": "0.01:100.0", "b": "1:400", "c": "10:90:1", "d": [1, 10, 100, 1000]}, 400)
    assert found.is_log == (True, True, False, False)
    values = {axis.key: [each[axis.key] for each in combinations(found)] for axis in found.axes}
    assert sum(value < 1 for value in values["a"]) == 200  # type: ignore[operator]
    assert sum(value <= 20 for value in values["b"]) == pytest.approx(200, abs=15)  # type: ignore[operator]
    assert sum(value < 50 for value in values["c"]) == pytest.approx(200, abs=5)  # type: ignore[operator]
    assert Counter(values["d"]) == dict.fromkeys((1, 10, 100, 1000), 100)


def test_a_dense_sample_still_has_no_point_twice() -> None:
    for method in ("latin", "random"):
        found = draw({"a": range(12), "b": range(12)}, 100, method=method, seed=3)
        assert len(set(found.points)) == 100


@pytest.mark.parametrize(
    ("ranges", "samples", "options", "told"),
    [
        ({"a": "1:9:1"}, 0, {}, "`samples` must be a whole number above 0, was 0"),
        ({"a": "1:9:1"}, -3, {}, "`samples` must be a whole number above 0, was -3"),
        ({"a": "1:9:1"}, 2.5, {}, "`samples` must be a whole number above 0, was 2.5"),
        ({"a": "1:9:1"}, True, {}, "`samples` must be a whole number above 0, was True"),
        ({"a": "1:9:1"}, 10, {}, "`samples` 10 are more than the 9 combinations there are: leave it out, a grid plays all"),
        ({"a": "0.0:9.0"}, 10_001, {}, "`samples` 10,001 must be 10,000 or less"),
        ({"a": "0.0:9.0"}, 15, {}, "`samples` 15 are too few to know what lies beside a point: take 16 or more"),
        ({k: "0.0:9.0" for k in "abc"}, 23, {}, "take 24 or more"),
        ({"a": "0.0:9.0", "b": "x,y"}, 31, {}, "take 32 or more"),
        ({"a": "1:9:1"}, 9, {}, "take a grid of all: leave `samples` out"),
        ({"a": "x,y,z"}, 3, {}, "take a grid of all: leave `samples` out"),
        ({"a": "1:"}, 20, {}, "range a: '1:' has no bounds, nothing can be drawn from it: write it like 0.5:3.0"),
        ({"a": ":5"}, 20, {}, "range a: ':5' has no bounds"),
        ({"a": "1:inf"}, 20, {}, "range a: 'inf' is not a number"),
        ({"a": "5:1"}, 20, {}, "range a: the end 1 lies below the start 5: swap them"),
        ({"a": "0.0:9.0"}, 20, {"seed": 0.5}, "`seed` must be a whole number of 0 or more, was 0.5"),
        ({"a": "0.0:9.0"}, 20, {"seed": "7"}, "`seed` must be a whole number of 0 or more, was '7'"),
        ({"a": "0.0:9.0"}, 20, {"seed": -1}, "`seed` must be a whole number of 0 or more, was -1"),
        ({"a": "0.0:9.0"}, 20, {"method": "randon"}, "method 'randon' is unknown: did you mean 'random'"),
        ({"a": "0.0:9.0"}, None, {"seed": 1}, "`seed` belongs to a sample: give `samples` too, or leave it out"),
        ({"a": "0.0:9.0"}, None, {}, "range a: '0.0:9.0' has 2 parts"),
        ({}, 20, {}, "nothing is varied"),
        (["a=0.0:9.0", "a=1,2"], 20, {}, "a is varied twice"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_told_in_one_line(
    ranges: Any, samples: Any, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        asked(ranges, samples, **options)
    assert told in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(ConfigError) as raised:
        at.sweep("ema_trend", PRICES, ranges, samples=samples, progress=False, **options)
    assert told in str(raised.value)


# the plateau of a sample


@given(seed=some.integers(0, 999), settings=some.integers(1, 4), points=some.integers(40, 120))
def test_the_neighbours_of_a_point_are_the_ones_nearest_to_it(seed: int, settings: int, points: int) -> None:
    rng = np.random.default_rng(seed)
    cube, groups = rng.random((points, settings)), rng.integers(0, 2, points)
    near = nearest(cube, groups)
    assert near.shape == (points, 1 + nearby(points // len(set(groups.tolist())), settings))
    for place in range(0, points, 7):
        same = np.flatnonzero(groups == groups[place])
        away = np.linalg.norm(cube[same] - cube[place], axis=1)
        wanted = set(same[np.argsort(away)[: near.shape[1]]].tolist())
        assert set(near[place][near[place] >= 0].tolist()) == wanted and near[place][0] == place


@pytest.mark.parametrize(("points", "settings"), [(60, 1), (100, 2), (150, 4)])
def test_an_edge_of_a_sample_wins_on_noise_no_more_often_than_its_share(points: int, settings: int) -> None:
    rng, edges, shares, draws = np.random.default_rng(3), 0, 0.0, 400
    for _ in range(draws):
        cube = rng.random((points, settings))
        is_edge = ((cube < 0.1) | (cube > 0.9)).any(axis=1)
        found = plateau_of_sample(rng.normal(size=points), cube, np.zeros(points, int))
        edges, shares = edges + int(is_edge[found.chosen]), shares + is_edge.mean() / draws
    assert edges / draws < shares + 4 * np.sqrt(shares * (1 - shares) / draws)


def test_a_broad_hill_is_found_in_noise_and_a_lone_peak_is_not() -> None:
    rng, away = np.random.default_rng(5), []
    for top in ((0.3, 0.6), (0.0, 0.5), (0.9, 0.9)):
        for _ in range(20):
            cube = rng.random((200, 2))
            values = np.exp(-((cube - top) ** 2).sum(axis=1) / 0.06) + rng.normal(0, 0.2, 200)
            lone = int(np.argmax(((cube - top) ** 2).sum(axis=1)))
            values[lone] = 4.0
            found = plateau_of_sample(values, cube, np.zeros(200, int))
            assert found.peak == lone and not found.mask[lone] and found.mask[found.chosen]
            away.append(np.abs(cube[found.chosen] - top).max())
    assert np.mean(away) < 0.12 and max(away) < 0.35


@given(seed=some.integers(0, 9_999))
def test_a_proposal_is_never_the_worst_and_its_plateau_holds_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cube, groups = rng.random((40, 2)), rng.integers(0, 2, 40)
    values = np.where(rng.random(40) < 0.3, np.nan, rng.integers(-2, 3, 40))
    known = values[~np.isnan(values)]
    found = plateau_of_sample(values, cube, groups)
    assert found.mask[found.chosen] and (values[found.chosen] > known.min() or known.min() == known.max())
    assert len(set(groups[found.mask].tolist())) == 1 and not np.isnan(values[found.mask]).any()
    assert (found.level[~np.isnan(values)] <= known).all()


# played like a grid

DRAWN = {"fast": "4:30", "slow": "32:90", "sl_ratio": "0.5:4.0"}


@pytest.fixture(scope="module")
def found() -> GridResult:
    return explore(task_of("ema_trend", PRICES), draw(DRAWN, 60, seed=7), threads=2)


def same(one: GridResult, other: GridResult) -> bool:
    return (
        one.book.stats.tobytes() == other.book.stats.tobytes()
        and one.book.daily.tobytes() == other.book.daily.tobytes()
        and (one.chosen, verdict(one)) == (other.chosen, verdict(other))
    )


def test_every_point_is_a_single_backtest(found: GridResult) -> None:
    for place in found.table.index[::9]:
        params = {key.partition(".")[2]: value for key, value in found.changes[place].items()}
        alone = backtest("ema_trend", PRICES, bot={"strategy_params": params}).stats.as_dict()
        wanted = [np.nan if alone[name] is None else alone[name] for name in STATS]
        assert np.array_equal(found.book.stats[place], wanted, equal_nan=True)


def test_a_sample_finds_the_same_wherever_it_is_played(found: GridResult, dask: str) -> None:
    task, ranges = task_of("ema_trend", PRICES), draw(DRAWN, 60, seed=7)
    assert same(explore(task, ranges, threads=1), found)
    assert same(explore(task, ranges, executor=Serial()), found)
    for where in ("loky", dask):
        with open_executor(where, workers=2) as executor:
            assert same(explore(task, ranges, executor=executor), found)


def test_a_sample_is_counted_once_like_a_grid(store: Store) -> None:
    task, ledger = task_of("ema_trend", PRICES[:400]), TrialLedger(store)
    first = explore(task, draw(DRAWN, 40, seed=1), ledger=ledger)
    again = explore(task, draw(DRAWN, 40, seed=1), ledger=ledger)
    assert first.counted is not None and again.counted is not None
    assert (first.fresh, again.fresh, again.counted.trials) == (40, 0, 40)
    assert explore(task, draw(DRAWN, 40, seed=2), ledger=ledger).fresh == 40


def test_an_interrupted_sample_goes_on_and_another_seed_begins_anew(tmp_path: Path) -> None:
    task, seen = task_of("ema_trend", PRICES[:300]), list[int]()

    def impatient(done: int, total: int) -> None:
        if done >= 520 and not seen:
            seen.append(done)
            raise KeyboardInterrupt

    part = explore(task, draw(DRAWN, 600, seed=1), folder=tmp_path, threads=1, tell=impatient)
    assert not part.is_whole and len(list(tmp_path.iterdir())) == 1
    other, told = explore(task, draw(DRAWN, 600, seed=2), folder=tmp_path), list[int]()
    assert other.is_whole
    whole = explore(task, draw(DRAWN, 600, seed=1), folder=tmp_path, tell=lambda done, _: told.append(done))
    assert min(told) > 500 and same(whole, explore(task, draw(DRAWN, 600, seed=1)))


def test_the_verdict_says_how_it_was_drawn(found: GridResult) -> None:
    said = verdict(found)
    assert "60 combinations were drawn as a Latin hypercube with seed 7." in said
    assert any("60 combinations" in line for line in said[:1])
    whole = explore(task_of("ema_trend", PRICES), draw({"fast": "4:30", "slow": "2:200"}, 40, method="random", seed=3))
    assert "40 of 5,373 combinations were drawn at random with seed 3, slow on a log scale." in verdict(whole)


def test_a_setting_without_effect_is_named_where_two_points_tell() -> None:
    ranges = {"fast": [6, 12, 18], "tp_ratio": [500, 600, 700, 800, 900, 950]}
    found = explore(task_of("ema_trend", PRICES), draw(ranges, 17, method="random"))
    assert found.idle == ("strategy_params.tp_ratio",)


def test_a_walk_forward_takes_a_sample_and_plays_it_the_same_on_all_cores() -> None:
    candles: Candles = eurusd()[:4_000]
    given: dict[str, Any] = {"train_days": 60, "test_days": 30, "samples": 24, "seed": 5, "progress": False}
    here = at.walkforward("ema_trend", candles, {"fast": "4:30", "sl_ratio": "0.5:4.0"}, **given)
    assert isinstance(here.ranges, Sample) and len(here.ranges) == 24 and len(here.steps) > 1
    there = at.walkforward("ema_trend", candles, {"fast": "4:30", "sl_ratio": "0.5:4.0"}, scheduler="loky", workers=2, **given)  # fmt: skip
    assert here.daily.tobytes() == there.daily.tobytes() and here.summary == there.summary
    step = here.steps[0]
    alone = explore(task_of("ema_trend", candles.between(step.window.train_from_ms, step.window.train_until_ms)), here.ranges)  # fmt: skip
    assert step.choice.place == (alone.chosen if alone.is_traded else None)
    drawn = list(combinations(here.ranges))
    for number, row in here.table.iterrows():
        place = here.steps[int(str(number)) - 1].choice.place
        assert place is None or row["strategy_params.fast"] == drawn[place]["strategy_params.fast"]
    assert walk(task_of("ema_trend", candles), here.ranges, train_days=60, test_days=30).daily.tobytes() == here.daily.tobytes()  # fmt: skip
