"""No column knows a bar after its own, or one before the history anchor: all that are registered, whoever wrote them."""

from pathlib import Path

import numpy as np
import pytest
from harness import future_leak, past_leak, walk

from autotrader.core.clock import DAY_MS, parse_time
from autotrader.core.market import Candles
from autotrader.features import history
from autotrader.features.columns import ColumnSpec, cached, columns, compute
from autotrader.features.history import anchored, over_history, segments
from autotrader.strategy.lookahead import RELATIVE

ALL = {name: spec for name, spec in columns().items() if not spec.needs_model}  # those have tests of their own


def quick(spec: ColumnSpec) -> dict[str, float]:
    "Parameters near the lower end, so that a short series shows much."
    return {each.name: min(max(each.low, 3), each.high) for each in spec.parameters}


def usual(spec: ColumnSpec) -> dict[str, float]:
    return {each.name: each.default for each in spec.parameters}


PAGES = sorted({Path(spec.origin).stem for spec in ALL.values()})
KINDS = {"quick": quick, "usual": usual}
by_page = pytest.mark.parametrize("page", PAGES)
by_kind = pytest.mark.parametrize("kind", KINDS)


def of(page: str, kind: str = "quick") -> list[ColumnSpec]:
    "Columns that one file registers, looked at together; those without parameters are of the first kind only."
    return [spec for spec in ALL.values() if Path(spec.origin).stem == page and (spec.parameters or kind == "quick")]


def values(page: str, candles: Candles, kind: str) -> dict[str, np.ndarray]:
    params = {spec.name: KINDS[kind](spec) for spec in of(page, kind)}
    return {ALL[name].label(**given): compute(name, candles, **given) for name, given in params.items()}


@by_kind
@by_page
def test_no_bar_of_a_column_knows_the_future(page: str, kind: str) -> None:
    longest = max((spec.warmup(**KINDS[kind](spec)) for spec in of(page, kind)), default=0)
    candles = walk(max(300, 3 * longest // 2), seed=1)
    for label, column in values(page, candles, kind).items():
        assert np.isfinite(column).mean() > 0.3, label
    assert future_leak(lambda bars: values(page, bars, kind), candles) is None


@by_kind
@by_page
def test_a_column_holds_back_its_warm_up_and_no_more(page: str, kind: str) -> None:
    for spec in of(page, kind):
        params = KINDS[kind](spec)
        bars = spec.warmup(**params)
        column = compute(spec.name, walk(bars + 200, seed=6), **params)
        assert np.isnan(column[:bars]).all() and np.isfinite(column[bars : bars + 20]).any(), spec.label(**params)
        assert np.isnan(compute(spec.name, walk(bars + 1, seed=6)[:bars], **params)).all(), spec.label(**params)


@by_page
def test_bars_before_the_anchor_change_no_value(page: str) -> None:
    candles = walk(500, seed=2)
    since = int(candles.open_ms[120])

    def answer(bars: Candles) -> dict[str, np.ndarray]:
        return {
            spec.name: over_history(
                lambda part, spec=spec: compute(spec.name, part, **quick(spec)), bars, history_start_ms=since
            )
            for spec in of(page)
        }

    assert all(np.isfinite(column[120:]).sum() > 100 for column in answer(candles).values())
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


@by_page
def test_each_minute_is_what_a_live_bot_sees(page: str, minutes: Candles) -> None:
    since = int(minutes.open_ms[30])
    batch = {
        spec.name: over_history(
            lambda part, spec=spec: compute(spec.name, part, **quick(spec)), minutes, history_start_ms=since
        )
        for spec in of(page)
    }
    for name, column in batch.items():
        assert np.isnan(column[:30]).all() and np.isfinite(column).any(), name
    for at in range(30, len(minutes)):
        live = anchored(minutes[: at + 1], history_start_ms=since)
        for spec in of(page):
            now = compute(spec.name, live, **quick(spec))[-1]
            assert np.array_equal(now, batch[spec.name][at], equal_nan=True), f"{spec.name} at bar {at}"


@by_page
def test_a_cache_changes_no_value(page: str, minutes: Candles) -> None:
    kept = cached(minutes)
    for spec in of(page):
        for part in (slice(0, None), slice(100, 500), slice(0, 400)):
            plain = compute(spec.name, minutes[part], **quick(spec))
            for _ in range(2):
                assert np.array_equal(compute(spec.name, kept[part], **quick(spec)), plain, equal_nan=True), spec.name


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
        size = RELATIVE * np.nanmax(np.abs(one))  # of a column around zero
        np.testing.assert_allclose(batch[whole], one[whole], rtol=RELATIVE, atol=size, err_msg=spec.name)
