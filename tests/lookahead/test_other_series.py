"""A strategy that reads other symbols and other timeframes knows no bar of them before its close, and the check finds the one that does."""

import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from harness import future_leak, past_leak, walk
from numpy.typing import NDArray

import autotrader as at
from autotrader.core.errors import ConfigError, DataError
from autotrader.core.market import COLUMNS, Candles
from autotrader.data.joined import aligned, resample
from autotrader.engine.signals import Signals, from_rules
from autotrader.features.columns import cached, columns, compute
from autotrader.strategy.check import Verdict, asked, check
from autotrader.strategy.templates import decide, own

HOUR, BARS = 3_600_000, 480
Rule = Callable[[Candles], Signals]


def named(symbol: str, candles: Candles) -> Candles:
    return replace(candles, symbol=symbol)


def without(candles: Candles, *bars: int) -> Candles:
    "Candles with holes."
    kept = np.delete(np.arange(len(candles)), bars)
    fields = {name: getattr(candles, name)[kept] for name in ("open_ms", *COLUMNS)}
    return replace(candles, **fields, extras={name: column[kept] for name, column in candles.extras.items()})


def market(*, holes: bool = True) -> Candles:
    "A market with another one, holes in it, and a third in bars of four hours beside it."
    other, third = named("OTHER", walk(BARS + 40, seed=22)), named("THIRD", walk(BARS, seed=23))
    other = without(other, 0, 1, 90, 91, 92, 200, 333) if holes else other
    return walk(BARS, seed=21).beside(other, resample(third, "4h"))


def rules(long: NDArray[np.bool_], short: NDArray[np.bool_] | None = None) -> Signals:
    short = ~long if short is None else short
    return from_rules(long=long, short=short, exit_long=short, exit_short=long)


def pair(bars: Candles) -> Signals:
    other = bars.other("OTHER")
    spread = np.log(bars.close / other.close)
    mean = compute("sma", replace(bars, close=spread), period=10)
    return rules(spread < mean - 0.002, spread > mean + 0.002)


def filtered(bars: Candles) -> Signals:
    slow = resample(bars, "4h")
    is_up = aligned(slow.close > compute("sma", slow, period=5), slow, bars)
    return rules(is_up & (bars.close > bars.open))


def third(bars: Candles) -> Signals:
    slow = bars.other("THIRD", "4h")
    return rules(aligned(slow.close, slow, bars) > aligned(compute("sma", slow, period=4), slow, bars))


HONEST: dict[Rule, int] = {pair: 9, filtered: 28, third: 24}


def others_future(bars: Candles) -> Signals:
    other = bars.other("OTHER").close
    return rules(np.append(other[1:], other[-1]) > other)


def raw_future(bars: Candles) -> Signals:
    "Past the door: what stands beside the candles, by row."
    raw = bars.others[1].close
    quarter = np.minimum(np.arange(len(bars)) // 4, len(raw) - 1)
    return rules(raw[quarter] > bars.close if len(raw) else bars.close > 0)


def unfinished(bars: Candles) -> Signals:
    "The close of the four hours that a bar lies in."
    frame = bars.open_ms // (4 * HOUR)
    last = np.searchsorted(frame, frame, side="right") - 1
    return rules(bars.close[last] > bars.open)


def unfinished_of_the_other(bars: Candles) -> Signals:
    other = bars.other("OTHER")
    frame = bars.open_ms // (4 * HOUR)
    last = np.searchsorted(frame, frame, side="right") - 1
    return rules(other.close[last] > other.open)


def shifted(bars: Candles) -> Signals:
    slow = resample(bars, "4h")
    known = aligned(slow.close, slow, bars)
    return rules(np.append(known[1:], known[-1:]) > bars.close)


def one_bar_early(bars: Candles) -> Signals:
    "Four hours, read off as they open."
    slow = resample(bars, "4h")
    row = np.searchsorted(slow.open_ms, bars.open_ms, side="right") - 1
    return rules(slow.close[row] > bars.close if len(slow) else bars.close > 0)


CHEATS: tuple[Rule, ...] = (others_future, raw_future, unfinished, unfinished_of_the_other, shifted, one_bar_early)


@pytest.mark.parametrize("rule", HONEST)
def test_an_honest_rule_knows_no_future_of_any_series_and_no_past_before_its_history(rule: Rule) -> None:
    candles, strategy = market(), own(rule, warmup=HONEST[rule])
    said = asked(strategy)(candles)
    assert {-1, 1} <= set(said["direction"].tolist())
    assert future_leak(asked(strategy), candles) is None
    since = int(candles.open_ms[150])
    assert past_leak(asked(strategy, history_start_ms=since), candles, anchor=150) is None


@pytest.mark.parametrize("rule", HONEST)
def test_an_honest_rule_is_clean(rule: Rule) -> None:
    assert check(own(rule, warmup=HONEST[rule]), market()).verdict is Verdict.CLEAN


@pytest.mark.parametrize("rule", CHEATS)
def test_a_rule_that_peeks_into_another_series_is_caught(rule: Rule) -> None:
    report = check(own(rule, warmup=4), market())
    assert report.verdict is Verdict.LOOKS_AHEAD
    found = {test.name for test in report.tests if test.offence is not None}
    assert "growing history" in found


@pytest.mark.parametrize("rule", CHEATS)
def test_an_absurd_future_alone_catches_it_too(rule: Rule) -> None:
    report = check(own(rule, warmup=4), market())
    assert "absurd future" in {test.name for test in report.tests if test.offence is not None}


@pytest.mark.parametrize("rule", HONEST)
def test_every_bar_is_what_is_decided_when_it_is_the_newest(rule: Rule) -> None:
    candles, strategy = market(), own(rule, warmup=HONEST[rule])
    batch = decide(strategy, candles)
    for newest in range(40, len(candles), 7):
        assert decide(strategy, candles[: newest + 1]).direction[-1] == batch.direction[newest], f"bar {newest}"


def test_a_rule_that_writes_into_another_series_is_told() -> None:
    def spoils(bars: Candles) -> Signals:
        bars.other("THIRD", "4h").close[:] = 1.0
        return rules(bars.close > bars.open)

    with pytest.raises(ConfigError, match="spoils writes into THIRD's close"):
        check(own(spoils, warmup=0), market())


def test_a_missing_bar_carries_the_last_close_and_the_time_before_the_first_bar_is_not_known() -> None:
    candles, whole = market(), walk(BARS + 40, seed=22)
    other = candles.other("OTHER")
    assert np.isnan(np.stack([getattr(other, name)[:2] for name in COLUMNS])).all()
    for name in COLUMNS[:4]:
        assert getattr(other, name)[90:93].tolist() == [whole.close[89]] * 3
    assert not other.volume[90:93].any()
    assert np.isnan(other.extras["open_interest"][90:93]).all()
    there = np.setdiff1d(np.arange(2, BARS), [90, 91, 92, 200, 333])
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(other, name)[there], getattr(whole, name)[there])


def test_indicators_begin_where_the_other_series_begins() -> None:
    late = walk(BARS, seed=22)
    candles = walk(BARS, seed=21).beside(named("OTHER", late[60:]))
    for name in ("ema", "sma", "rsi", "atr", "donchian_upper"):
        params = {"period": 10}
        ours, its = compute(name, candles.other("OTHER"), **params), compute(name, late[60:], **params)
        settled = 60 + columns()[name].warmup(**params)
        np.testing.assert_allclose(ours[settled:], its[settled - 60 :], err_msg=name)


def test_slices_pickles_and_caches_keep_what_stands_beside_them() -> None:
    candles = market()
    for part in (slice(None, 300), slice(100, None), slice(85, 95), slice(0, 0)):
        cut = candles[part]
        for kept in (pickle.loads(pickle.dumps(cut)), cached(candles)[part], cut.between(0, 2**62)):
            assert [len(each) for each in kept.others] == [len(each) for each in cut.others]
            for name in ("open_ms", *COLUMNS):
                np.testing.assert_array_equal(getattr(kept.other("OTHER"), name), getattr(cut.other("OTHER"), name))
    assert all(len(each) == 0 for each in candles[:0].others)


def test_a_sweep_computes_a_column_of_another_series_once() -> None:
    candles = cached(market())
    for read in (
        lambda: candles[50:].other("OTHER"),
        lambda: resample(candles[48:], "4h"),
        lambda: candles.other("THIRD"),
    ):
        assert compute("ema", read(), period=20) is compute("ema", read(), period=20)
        assert compute("atr", read(), period=20) is compute("atr", read(), period=20)


def test_candles_without_others_cost_nothing_more() -> None:
    candles = walk(50, seed=1)
    assert candles[:10].others == () == pickle.loads(pickle.dumps(candles)).others
    assert "beside" not in repr(candles)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (walk(9, seed=1), "test WALK 1h is there already"),
        (named("OTHER", walk(9, seed=1)), "test OTHER 1h is there already"),
        (
            named("LATE", walk(9, seed=1, since="2035-01-01")),
            "test LATE 1h .* has no bar within test WALK 1h .* one period",
        ),
        ("ETHUSDT", r"only candles can stand beside candles, was str: at.load"),
    ],
)
def test_what_cannot_stand_beside_is_told(other: Candles, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        market().beside(other)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked_for", "message"),
    [
        (("OTHR",), "did you mean 'OTHER'.* there is test OTHER 1h, test THIRD 4h; candles.beside.*`also`"),
        (("OTHER", "4h"), "OTHER 4h is not beside test WALK 1h: there is test OTHER 1h"),
        (("OTHER", None, "binance"), "binance OTHER is not beside"),
    ],
)
def test_what_is_not_beside_is_told(asked_for: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        market().other(*asked_for)
    assert "\n" not in str(caught.value)


def test_several_that_may_be_meant_are_told() -> None:
    candles = walk(BARS, seed=21)
    slow = [resample(named("OTHER", walk(BARS, seed=22)), frame) for frame in ("4h", "1d")]
    with pytest.raises(DataError, match="OTHER may be several of test OTHER 4h, test OTHER 1d: say which"):
        candles.beside(*slow).other("OTHER")


def test_the_names_are_at_the_top() -> None:
    candles = market()
    slow = at.resample(candles, "4h")
    assert slow.others == ()
    assert len(at.aligned(slow.close, slow, candles)) == len(candles)
