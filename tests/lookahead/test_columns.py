"""No column knows a bar after its own, or one before the history anchor: all that are registered, whoever wrote them."""

import numpy as np
import pytest
from harness import future_leak, past_leak, walk

from autotrader.core.clock import DAY_MS, parse_time
from autotrader.core.market import Candles
from autotrader.features import history
from autotrader.features.columns import ColumnSpec, cached, columns, compute
from autotrader.features.history import anchored, over_history, segments
from autotrader.strategy.lookahead import RELATIVE

ALL = columns()


def quick(spec: ColumnSpec) -> dict[str, float]:
    "Parameters near the lower end, so that a short series shows much."
    return {each.name: min(max(each.low, 3), each.high) for each in spec.parameters}


def usual(spec: ColumnSpec) -> dict[str, float]:
    return {each.name: each.default for each in spec.parameters}


CHOICES = [
    pytest.param(spec.name, params, id=spec.label(**params))
    for spec in ALL.values()
    for params in (quick(spec), *([usual(spec)] if spec.parameters else []))
]


@pytest.mark.parametrize(("name", "params"), CHOICES)
def test_no_bar_of_a_column_knows_the_future(name: str, params: dict[str, float]) -> None:
    candles = walk(max(300, 2 * ALL[name].warmup(**params)), seed=1)
    assert np.isfinite(compute(name, candles, **params)).mean() > 0.3
    assert future_leak(lambda bars: {name: compute(name, bars, **params)}, candles) is None


@pytest.mark.parametrize(("name", "params"), CHOICES)
def test_a_column_holds_back_its_warm_up_and_no_more(name: str, params: dict[str, float]) -> None:
    bars = ALL[name].warmup(**params)
    column = compute(name, walk(bars + 200, seed=6), **params)
    assert np.isnan(column[:bars]).all() and np.isfinite(column[bars : bars + 20]).any()
    assert np.isnan(compute(name, walk(bars + 1, seed=6)[:bars], **params)).all()


@pytest.mark.parametrize("name", ALL)
def test_bars_before_the_anchor_change_no_value(name: str) -> None:
    candles, params = walk(300, seed=2), quick(ALL[name])
    since = int(candles.open_ms[120])

    def answer(bars: Candles) -> dict[str, np.ndarray]:
        return {name: over_history(lambda part: compute(name, part, **params), bars, history_start_ms=since)}

    assert np.isfinite(answer(candles)[name][120:]).sum() > 100
    assert past_leak(answer, candles, anchor=120) is None


@pytest.mark.parametrize("name", ["ema", "sma", "rsi", "atr", "adx"])
def test_a_column_without_the_anchor_is_caught(name: str) -> None:
    candles = walk(300, seed=2)
    assert past_leak(lambda bars: {name: compute(name, bars, period=5)}, candles, anchor=120) is not None


@pytest.fixture
def minutes(monkeypatch: pytest.MonkeyPatch) -> Candles:
    "Minutes around two turns of a quarter, with a run-in short enough to go through every bar."
    monkeypatch.setattr(history, "RUN_IN_MS", 120 * 60_000)
    before, after = walk(400, seed=3, timeframe="1m", since="2025-03-31T20:00"), walk(300, seed=4, timeframe="1m")
    stamps = np.concatenate([before.open_ms, parse_time("2025-06-30T22:30") + 60_000 * np.arange(300)])
    columns = {
        name: np.concatenate([getattr(before, name), getattr(after, name)])
        for name in ("open", "high", "low", "close", "volume")
    }
    extras = {name: np.concatenate([before.extras[name], after.extras[name]]) for name in before.extras}
    return Candles(venue="test", symbol="WALK", timeframe="1m", open_ms=stamps, **columns, extras=extras)


@pytest.mark.parametrize("name", ALL)
def test_each_minute_is_what_a_live_bot_sees(name: str, minutes: Candles) -> None:
    since, params = int(minutes.open_ms[30]), quick(ALL[name])
    batch = over_history(lambda part: compute(name, part, **params), minutes, history_start_ms=since)
    assert np.isnan(batch[:30]).all()
    assert np.isfinite(batch).sum() > 600
    for at in range(30, len(minutes)):
        live = compute(name, anchored(minutes[: at + 1], history_start_ms=since), **params)
        assert np.array_equal(live[-1], batch[at], equal_nan=True), f"bar {at}"


@pytest.mark.parametrize("name", ALL)
def test_a_cache_changes_no_value(name: str, minutes: Candles) -> None:
    params, kept = quick(ALL[name]), cached(minutes)
    for part in (slice(0, None), slice(100, 500), slice(0, 400)):
        plain = compute(name, minutes[part], **params)
        for _ in range(2):
            assert np.array_equal(compute(name, kept[part], **params), plain, equal_nan=True)


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
    assert history.RUN_IN_MS == 7 * DAY_MS
    for spec in ALL.values():
        longest = {parameter.name: parameter.high for parameter in spec.parameters}
        assert spec.warmup(**longest) * 60_000 < history.RUN_IN_MS


def test_a_seam_between_quarters_does_not_show() -> None:
    minutes = walk(9 * 1440, seed=5, timeframe="1m", since="2025-03-24")
    whole = slice(8 * 1440, None)
    for spec in ALL.values():
        params = usual(spec)
        batch = over_history(lambda part, spec=spec, params=params: compute(spec.name, part, **params), minutes)
        one = compute(spec.name, minutes, **params)
        np.testing.assert_allclose(batch[whole], one[whole], rtol=RELATIVE, err_msg=spec.name)
