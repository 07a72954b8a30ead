"""No strategy of the house knows a bar after its own, or one before the history anchor."""

import numpy as np
import pytest
from harness import future_leak, past_leak, walk

from autotrader.core.market import Candles
from autotrader.engine.signals import Signals, from_rules
from autotrader.strategy.check import asked
from autotrader.strategy.lookahead import Columns, growing
from autotrader.strategy.templates import decide, make, own

QUICK = {
    "ema_trend": {"fast": 3, "slow": 8, "gap_atr": 0.2, "atr_period": 5},
    "rsi_reversion": {"period": 5},
    "donchian_breakout": {"channel": 8, "exit_channel": 4},
}
CHOICES = [(name, params) for name in QUICK for params in ({}, QUICK[name])]


def columns_of(signals: Signals) -> Columns:
    return {"direction": signals.direction, "exit": signals.exits, "confidence": signals.confidence}


def _has_something_to_lose(columns: Columns, first: int = 0) -> bool:
    return {-1, 1} <= set(columns["direction"][first:].tolist()) and {1, 2} <= set(columns["exit"][first:].tolist())


@pytest.mark.parametrize(("name", "params"), CHOICES)
def test_no_decision_knows_the_future(name: str, params: dict[str, float]) -> None:
    candles, strategy = walk(300, seed=11), make(name, params)
    assert _has_something_to_lose(asked(strategy)(candles))
    assert future_leak(asked(strategy), candles) is None
    assert future_leak(lambda bars: columns_of(strategy.signals(bars)), candles) is None


@pytest.mark.parametrize("name", QUICK)
def test_bars_before_the_anchor_change_no_decision(name: str) -> None:
    candles = walk(400, seed=12)
    answer = asked(make(name, QUICK[name]), history_start_ms=int(candles.open_ms[150]))
    assert _has_something_to_lose(answer(candles), first=150)
    assert past_leak(answer, candles, anchor=150) is None


@pytest.mark.parametrize("name", QUICK)
def test_every_bar_is_what_a_live_bot_decides(name: str) -> None:
    candles = walk(400, seed=13)
    answer = asked(make(name, QUICK[name]), history_start_ms=int(candles.open_ms[50]))
    batch = answer(candles)
    for at in range(50, len(candles)):
        live = answer(candles[50 : at + 1])
        assert [live[column][-1] for column in live] == [batch[column][at] for column in batch], f"bar {at}"


def test_a_cheat_on_a_single_bar_is_caught_there() -> None:
    def one_bar_only(bars: Candles) -> Signals:
        long = bars.close > bars.open
        if len(bars) > 300:
            long[200] = bars.close[201] > bars.close[200]
        never = np.zeros(len(bars), dtype=bool)
        return from_rules(long=long, short=never, exit_long=~long, exit_short=never)

    candles = walk(400, seed=14)
    candles.close[200:202] = 100.0, 200.0  # the look ahead says long, the bar itself says nothing
    candles.open[200] = 101.0
    leak = growing(asked(own(one_bar_only, warmup=0)), candles, range(400))
    assert leak is not None
    assert (leak.bar, leak.then, leak.now) == (200, 0.0, 1.0)
    assert leak.why == "while bar 299 was the newest, then once bar 300 was there"


def test_a_strategy_that_counts_from_the_first_bar_is_caught() -> None:
    def every_third_bar(bars: Candles) -> Signals:
        third, never = np.arange(len(bars)) % 3 == 0, np.zeros(len(bars), dtype=bool)
        return from_rules(long=third, short=never, exit_long=~third, exit_short=never)

    candles, strategy = walk(200, seed=15), own(every_third_bar, warmup=0)
    since = int(candles.open_ms[80])
    assert past_leak(lambda bars: columns_of(strategy.signals(bars)), candles, anchor=80) is not None
    assert (
        past_leak(lambda bars: columns_of(decide(strategy, bars, history_start_ms=since)), candles, anchor=80) is None
    )
