"""The registry of columns: one meaning per name, nothing filled in, and a cache that can only save time."""

import os
import pickle
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import forked
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotrader.config.settings import write_template
from autotrader.core.clock import parse_time
from autotrader.core.errors import ConfigError, DataError
from autotrader.core.market import COLUMNS, Candles, Floats
from autotrader.data.sample import eurusd
from autotrader.engine.signals import Signals
from autotrader.features import columns as registry
from autotrader.features.columns import ColumnCache, Scale, cached, columns, compute, register
from autotrader.features.parameters import Parameter
from autotrader.strategy.source import strategy_from
from autotrader.strategy.templates import Strategy, decide, make, names, own

BARS = Parameter(name="bars", low=1, high=400, default=5)
LEVEL = """
import autotrader as at

@at.register(inputs=("close",), scale=at.Scale.PRICE)
def level(close):
    "{about}"
    return {factor} * close

def rule(bars):
    up = at.compute("level", bars) > bars.open
    return at.from_rules(long=up, short=~up, exit_long=~up, exit_short=up)
"""


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    "What a test registers is gone after it."
    columns()
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))


def walk(n: int, seed: int = 0) -> Candles:
    rng = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(rng.normal(scale=0.01, size=n)))
    stamps = parse_time("2025-03-08") + 3_600_000 * np.arange(n)
    extras = {"funding_rate": rng.normal(scale=1e-4, size=n)}
    prices = {"open": close, "high": 1.01 * close, "low": 0.99 * close, "close": close, "volume": np.ones(n)}
    return Candles(venue="test", symbol="WALK", timeframe="1h", open_ms=stamps, **prices, extras=extras)


def test_every_column_says_what_it_is() -> None:
    for name, spec in columns().items():
        assert spec.name == name and spec.label().startswith(name) and spec.source and len(spec.about) > 5
        assert all(each.about and each.low <= each.default <= each.high for each in spec.parameters)
    assert list(columns()) == sorted(columns())
    assert {"close", "ema", "atr", "funding_rate", "open_interest_change"} < set(columns())


def test_a_second_file_cannot_take_a_name_and_the_same_file_can_change_its_own(tmp_path: Path) -> None:
    (mine := tmp_path / "mine.py").write_text(LEVEL.format(about="a level", factor=2))
    (other := tmp_path / "other.py").write_text(LEVEL.format(about="another", factor=3))
    strategy_from(f"{mine}:rule")
    with pytest.raises(ConfigError) as caught:
        strategy_from(f"{other}:rule")
    assert f"column 'level' is there already, from {mine}: choose another name" in str(caught.value)
    assert compute("level", walk(5))[0] == 2 * walk(5).close[0]
    mine.write_text(LEVEL.format(about="a level", factor=4))
    strategy_from(f"{mine}:rule")
    assert compute("level", walk(5))[0] == 4 * walk(5).close[0]


def test_a_column_of_the_house_cannot_be_replaced_by_a_file_however_early_it_comes(tmp_path: Path) -> None:
    (mine := tmp_path / "mine.py").write_text(LEVEL.format(about="mine", factor=2).replace("level", "ema"))
    code = f"from autotrader.strategy.source import strategy_from\nstrategy_from('{mine}:rule')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    taken = r"ConfigError: mine.py, line 4: .*column 'ema' is there already, from .*averages.py: choose another name"
    assert re.search(taken, done.stderr), done.stderr


def test_a_wrong_column_is_one_line_of_the_command(tmp_path: Path) -> None:
    write_template(tmp_path, kind="sample")
    (tmp_path / "mine.py").write_text(LEVEL.format(about="", factor=2))
    words = ("strategy", "check", "mine.py:rule", "--venue", "sample")
    done = forked.command(*words, cwd=tmp_path, env=os.environ | {"AUTOTRADER_OFFLINE": "1"})
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "column 'level' must say what it is: write a line under its def" in done.stderr


@pytest.mark.parametrize("name", ["funding_mean", "open_interest_change"])
def test_a_market_without_what_is_read_is_an_error_that_says_what_helps(name: str) -> None:
    bare = replace(walk(50), extras={})
    with pytest.raises(
        DataError, match=rf"{name} reads .*, of which test WALK 1h has none: `autotrader data download`"
    ):
        compute(name, bare)
    with pytest.raises(DataError, match="has none"):
        compute(name, cached(bare))


@pytest.mark.parametrize("name", ["funding_rate", "open_interest"])
def test_what_was_never_recorded_is_shown_as_nothing(name: str) -> None:
    assert np.isnan(compute(name, replace(walk(50), extras={}))).all()


def test_an_unknown_bar_leaves_no_value_in_any_window_that_holds_it() -> None:
    candles = walk(100)
    candles.extras["funding_rate"][40] = np.nan
    mean = compute("funding_mean", candles, period=10)
    assert np.flatnonzero(np.isnan(mean)).tolist() == [*range(9), *range(40, 50)]
    plain = [np.mean(candles.extras["funding_rate"][i - 9 : i + 1]) for i in range(50, 100)]
    np.testing.assert_allclose(mean[50:], plain, rtol=1e-9, atol=1e-18)


CHOICES = st.sampled_from(
    [("ema", {"period": 9}), ("ema", {"period": 20}), ("atr", {}), ("close", {}), ("funding_mean", {"period": 5})]
)


@settings(max_examples=60)
@given(st.lists(st.tuples(CHOICES, st.integers(0, 80), st.integers(120, 200), st.booleans()), min_size=1, max_size=30))
def test_a_cache_gives_what_would_be_computed_whatever_was_asked_before(asked: list) -> None:
    whole = walk(200)
    kept = cached(whole, room=20_000)
    for (name, params), first, last, is_changed in asked:
        bars, plain = kept[first:last], whole[first:last]
        if is_changed:  # candles made from these, as a test for look-ahead makes them
            changes = {each: getattr(plain, each) * (1.0 + first / 100) for each in COLUMNS}
            bars, plain = replace(bars, **changes), replace(plain, **changes)
        got = compute(name, bars, **params)
        assert np.array_equal(got, compute(name, plain, **params), equal_nan=True)
        assert not got.flags.writeable and kept.cache.size <= 20_000


def test_threads_that_want_a_column_at_the_same_moment_have_it_computed_once() -> None:
    calls, start = [], Barrier(8)

    @register(inputs=("close",), parameters=(BARS,), warmup=lambda bars: bars, scale=Scale.PRICE)
    def slow(close: Floats, bars: int) -> Floats:
        "a mean that takes its time"
        calls.append(bars)
        for _ in range(200):
            close = np.convolve(close, np.ones(bars) / bars)[: len(close)]
        return close

    candles = cached(walk(3_000))

    def ask(thread: int) -> list[int]:
        start.wait()
        return [id(compute("slow", candles[10:], bars=bars)) for bars in (3, 4, 5)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    assert sorted(calls) == [3, 4, 5] and all(answer == answers[0] for answer in answers)


def test_a_failure_is_everybodys_and_is_tried_again() -> None:
    @register(inputs=("close",), scale=Scale.PRICE)
    def moody(close: Floats) -> Floats:
        "fails at first"
        if not tries:
            tries.append(1)
            raise ConfigError("not now")
        return close

    tries: list[int] = []
    candles = cached(walk(20))
    with pytest.raises(ConfigError, match="not now"):
        compute("moody", candles)
    assert np.array_equal(compute("moody", candles), candles.close)


def test_candles_with_a_cache_travel_without_it() -> None:
    candles = cached(walk(300))
    compute("ema", candles)
    assert candles.cache.size > 0
    there = pickle.loads(pickle.dumps(candles))
    assert there.cache.size == 0 and np.array_equal(compute("ema", there)[100:], compute("ema", candles)[100:])


@pytest.fixture(params=[*names()[:3], "own"])
def strategy(request: pytest.FixtureRequest) -> Strategy:
    def crossing(bars: Candles, *, period: int = 30) -> Signals:
        above = bars.close > compute("sma", bars, period=period)
        return Signals(
            np.where(above, 1, -1).astype(np.int8), np.where(above, 2, 1).astype(np.int8), np.ones(len(bars))
        )

    return own(crossing, warmup=29) if request.param == "own" else make(request.param)


def test_a_strategy_that_is_handed_a_cache_decides_the_same_and_computes_once(
    strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[str] = []
    plainly = registry._computed

    def counted(spec: registry.ColumnSpec, *rest: object) -> Floats:
        computed.append(spec.name)
        return plainly(spec, *rest)

    monkeypatch.setattr(registry, "_computed", counted)
    candles, since = eurusd(), int(eurusd().open_ms[700])
    plain = decide(strategy, candles, history_start_ms=since)
    once, kept = len(computed), cached(candles)
    for _ in range(3):
        again = decide(strategy, kept, history_start_ms=since)
        assert again.direction.tobytes() == plain.direction.tobytes() and again.exits.tobytes() == plain.exits.tobytes()
    assert len(computed) == 2 * once and plain.direction.any()


def test_nobody_writes_into_candles_that_others_read() -> None:
    kept = cached(walk(50))
    for values in (
        kept.close,
        kept[5:].volume,
        kept.extras["funding_rate"],
        compute("ema", kept),
        compute("close", kept),
    ):
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 1.0


def test_a_cache_holds_no_more_than_it_has_room_for() -> None:
    cache, made = ColumnCache(room=80_000), iter(range(1000))
    prices = np.arange(1_000.0)[:]
    views = [prices[first:] for first in range(50)]
    for view in views:
        cache.get("same", [view], lambda view=view: view + next(made))
        assert cache.size <= 80_000
    kept = [cache.get("same", [view], lambda: np.zeros(1)).shape for view in reversed(views)]
    assert kept.count((1,)) >= 40 and kept[0] == (951,)


def test_a_column_whose_function_cannot_be_called_as_declared_is_refused() -> None:
    period = Parameter(name="period", low=2, high=20, default=5)
    with pytest.raises(ConfigError, match=r"must take \(close, period\) by position"):

        @register(inputs=("close",), parameters=(period,), scale=Scale.PRICE, name="by_keyword")
        def by_keyword(close: Floats, *, period: int) -> Floats:
            "a mistake"
            return close
