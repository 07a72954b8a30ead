"""No indicator knows a bar after its own, or one before the history anchor."""

import numpy as np
import pytest
from harness import future_leak, past_leak, walk

from autotrader.core.clock import DAY_MS, parse_time
from autotrader.core.market import Candles
from autotrader.features import indicators
from autotrader.features.indicators import INDICATORS, anchored, compute, over_history, segments

CHOICES = [(name, period) for name in INDICATORS for period in (3, 14)]


@pytest.mark.parametrize(("name", "period"), CHOICES)
def test_no_bar_of_an_indicator_knows_the_future(name: str, period: int) -> None:
    candles = walk(300, seed=1)
    assert np.isfinite(compute(name, candles, period=period)).sum() > 150
    assert future_leak(lambda bars: {name: compute(name, bars, period=period)}, candles) is None


@pytest.mark.parametrize("name", INDICATORS)
def test_bars_before_the_anchor_change_no_value(name: str) -> None:
    candles = walk(300, seed=2)
    since = int(candles.open_ms[120])

    def answer(bars: Candles) -> dict[str, np.ndarray]:
        return {name: over_history(lambda part: compute(name, part, period=5), bars, history_start_ms=since)}

    assert np.isfinite(answer(candles)[name][120:]).sum() > 100
    assert past_leak(answer, candles, anchor=120) is None


@pytest.mark.parametrize("name", ["ema", "sma", "rsi", "atr", "adx"])
def test_a_column_without_the_anchor_is_caught(name: str) -> None:
    candles = walk(300, seed=2)
    assert past_leak(lambda bars: {name: compute(name, bars, period=5)}, candles, anchor=120) is not None


@pytest.fixture
def minutes(monkeypatch: pytest.MonkeyPatch) -> Candles:
    "Minutes around two turns of a quarter, with a run-in short enough to go through every bar."
    monkeypatch.setattr(indicators, "RUN_IN_MS", 120 * 60_000)
    before, after = walk(400, seed=3, timeframe="1m", since="2025-03-31T20:00"), walk(300, seed=4, timeframe="1m")
    stamps = np.concatenate([before.open_ms, parse_time("2025-06-30T22:30") + 60_000 * np.arange(300)])
    columns = {
        name: np.concatenate([getattr(before, name), getattr(after, name)])
        for name in ("open", "high", "low", "close", "volume")
    }
    return Candles(venue="test", symbol="WALK", timeframe="1m", open_ms=stamps, **columns)


@pytest.mark.parametrize("name", INDICATORS)
def test_each_minute_is_what_a_live_bot_sees(name: str, minutes: Candles) -> None:
    since = int(minutes.open_ms[30])
    batch = over_history(lambda part: compute(name, part, period=5), minutes, history_start_ms=since)
    assert np.isnan(batch[:30]).all()
    assert np.isfinite(batch).sum() > 600
    for at in range(30, len(minutes)):
        live = compute(name, anchored(minutes[: at + 1], history_start_ms=since), period=5)
        assert np.array_equal(live[-1], batch[at], equal_nan=True), f"bar {at}"


def test_minutes_compute_by_quarter_with_a_run_in(minutes: Candles) -> None:
    parts = [(part.anchor, part.first, part.last) for part in segments(minutes)]
    assert parts == [(0, 0, 240), (120, 240, 490), (400, 490, 700)]


def test_minutes_in_one_pass_are_caught(minutes: Candles) -> None:
    since = int(minutes.open_ms[0])
    batch = compute("sma", minutes, period=5)
    differs = [
        batch[at] != compute("sma", anchored(minutes[: at + 1], history_start_ms=since), period=5)[-1]
        for at in range(400, len(minutes))
    ]
    assert any(differs)


def test_the_shipped_run_in_outlasts_every_warm_up() -> None:
    assert indicators.RUN_IN_MS == 7 * DAY_MS
    for entry in INDICATORS.values():
        longest = {parameter.name: parameter.high for parameter in entry.parameters}
        assert entry.warmup(**longest) * 60_000 < indicators.RUN_IN_MS


def test_a_seam_between_quarters_does_not_show() -> None:
    minutes = walk(9 * 1440, seed=5, timeframe="1m", since="2025-03-24")
    whole = slice(8 * 1440, None)
    for name in INDICATORS:
        batch = over_history(lambda part, name=name: compute(name, part, period=50), minutes)
        np.testing.assert_allclose(batch[whole], compute(name, minutes, period=50)[whole], rtol=1e-9)
