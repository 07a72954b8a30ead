"""No strategy knows a bar after its own, or one before the history anchor; one that does is caught."""

from collections.abc import Callable

import numpy as np
import pytest
from harness import Columns, columns_of, future_leak, past_leak, walk

from autotrader.core.market import Candles
from autotrader.engine.signals import Signals, from_rules
from autotrader.strategy.templates import decide, make, names, own

QUICK = {
    "ema_trend": {"fast": 3, "slow": 8, "gap_atr": 0.2, "atr_period": 5},
    "rsi_reversion": {"period": 5},
    "donchian_breakout": {"channel": 8, "exit_channel": 4},
}
CHOICES = [(name, params) for name in names() for params in ({}, QUICK[name])]


def _decided(name: str, params: dict[str, float], since_ms: int | None = None) -> Callable[[Candles], Columns]:
    return lambda bars: columns_of(decide(make(name, params), bars, history_start_ms=since_ms))


def _raw(name: str, params: dict[str, float]) -> Callable[[Candles], Columns]:
    return lambda bars: columns_of(make(name, params).signals(bars))


def _has_something_to_lose(columns: Columns) -> bool:
    direction, exits, _ = columns
    return {-1, 1} <= set(direction.tolist()) and {1, 2} <= set(exits.tolist())


@pytest.mark.parametrize(("name", "params"), CHOICES)
def test_no_decision_knows_the_future(name: str, params: dict[str, float]) -> None:
    candles = walk(300, seed=11)
    assert _has_something_to_lose(_decided(name, params)(candles))
    assert future_leak(_decided(name, params), candles) is None
    assert future_leak(_raw(name, params), candles) is None


@pytest.mark.parametrize("name", names())
def test_bars_before_the_anchor_change_no_decision(name: str) -> None:
    candles = walk(400, seed=12)
    answer = _decided(name, QUICK[name], int(candles.open_ms[150]))
    assert _has_something_to_lose([column[150:] for column in answer(candles)])
    assert past_leak(answer, candles, anchor=150) is None


@pytest.mark.parametrize("name", names())
def test_every_bar_is_what_a_live_bot_decides(name: str) -> None:
    candles = walk(400, seed=13)
    since = int(candles.open_ms[50])
    answer = _decided(name, QUICK[name], since)
    batch = answer(candles)
    for at in range(50, len(candles)):
        live = answer(candles[50 : at + 1])
        assert [column[-1] for column in live] == [column[at] for column in batch], f"bar {at}"


def _rules(long: np.ndarray) -> Signals:
    never = np.zeros(len(long), dtype=bool)
    return from_rules(long=long, short=never, exit_long=~long, exit_short=never)


def _tomorrow(bars: Candles) -> Signals:
    return _rules(np.append(bars.close[1:], bars.close[-1]) > bars.close)  # shift(−1)


def _global_mean(bars: Candles) -> Signals:
    return _rules(bars.close > bars.close.mean())


def _global_mean_without_nan(bars: Candles) -> Signals:
    return _rules(bars.close > np.nanmean(bars.close))


def _centred(bars: Candles) -> Signals:
    padded = np.pad(bars.close, 2, mode="edge")
    return _rules(bars.close > np.lib.stride_tricks.sliding_window_view(padded, 5).mean(axis=1))


def _scaled_by_the_whole_set(bars: Candles) -> Signals:
    return _rules((bars.close - np.nanmin(bars.close)) / (np.nanstd(bars.close) + 1e-9) > 1.0)


def _unclosed_day(bars: Candles) -> Signals:
    day = bars.open_ms // 86_400_000
    last = np.searchsorted(day, day, side="right") - 1  # the day's close, on every hour of that day
    return _rules(bars.close[last] > bars.close)


def _future_funding(bars: Candles) -> Signals:
    return _rules(np.append(bars.extras["funding_rate"][1:], 0.0) > 0.0)


def _one_bar_only(bars: Candles) -> Signals:
    long = bars.close > bars.open
    if len(bars) > 300:
        long[200] = bars.close[201] > bars.close[200]
    return _rules(long)


CHEATS = [
    _tomorrow,
    _global_mean,
    _global_mean_without_nan,
    _centred,
    _scaled_by_the_whole_set,
    _unclosed_day,
    _future_funding,
    _one_bar_only,
]


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_is_caught(cheat: Callable[[Candles], Signals]) -> None:
    strategy = own(cheat, warmup=2)
    assert future_leak(lambda bars: columns_of(decide(strategy, bars)), walk(320, seed=14)) is not None


def test_a_cheat_on_a_single_bar_is_caught_there() -> None:
    candles = walk(400, seed=14)
    candles.close[200:202] = 100.0, 200.0  # the look ahead says long, the bar itself says nothing
    candles.open[200] = 101.0
    leak = future_leak(lambda bars: columns_of(_one_bar_only(bars)), candles)
    assert leak == (200, "cut off")


def test_an_honest_strategy_passes() -> None:
    def rising(bars: Candles) -> Signals:
        return _rules(np.diff(bars.close, prepend=bars.close[:1]) > 0)

    assert future_leak(lambda bars: columns_of(decide(own(rising, warmup=1), bars)), walk(320, seed=14)) is None


def test_a_strategy_that_counts_from_the_first_bar_is_caught() -> None:
    def every_third_bar(bars: Candles) -> Signals:
        return _rules(np.arange(len(bars)) % 3 == 0)

    candles = walk(200, seed=15)
    since = int(candles.open_ms[80])
    strategy = own(every_third_bar, warmup=0)
    assert past_leak(lambda bars: columns_of(strategy.signals(bars)), candles, anchor=80) is not None
    assert (
        past_leak(lambda bars: columns_of(decide(strategy, bars, history_start_ms=since)), candles, anchor=80) is None
    )
