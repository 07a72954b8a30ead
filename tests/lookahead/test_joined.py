"""No bar shows funding or open interest that was unknown when it closed, or that lies before what it may use."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from harness import walk

from autotrader.core.market import Candles
from autotrader.data.joined import Source, as_known, join, resample

HOUR = 3_600_000
BARS = 240


LAG_MS = {"funding_rate": 60_000, "open_interest": 300_000}


def sources(candles: Candles, seed: int = 5) -> list[Source]:
    "Eight-hourly rates and hourly open interest with holes, jittered stamps and a lag each."
    rng = np.random.default_rng(seed)
    start, end = int(candles.open_ms[0]) - 24 * HOUR, int(candles.open_ms[-1]) + 3 * HOUR
    made = []
    for name, interval_ms in (("funding_rate", 8 * HOUR), ("open_interest", HOUR)):
        stamps = np.arange(start, end, interval_ms)
        stamps = (stamps + rng.integers(0, 5, len(stamps)))[rng.random(len(stamps)) > 0.2]
        values = rng.normal(size=len(stamps))
        made.append(
            Source(name=name, publisher="x", known_ms=stamps + LAG_MS[name], values=values, interval_ms=interval_ms)
        )
    return made


def part_of(source: Source, keep: np.ndarray) -> Source:
    return replace(source, known_ms=source.known_ms[keep], values=source.values[keep])


def same(a: Candles, b: Candles, rows_a: slice, rows_b: slice) -> bool:
    return all(np.array_equal(a.extras[n][rows_a], b.extras[n][rows_b], equal_nan=True) for n in a.extras)


def leak(joiner: Callable[[Candles, list[Source]], Candles], candles: Candles, given: list[Source]) -> int | None:
    "First bar whose joined values change when everything not yet known at its close is removed or poisoned."
    truth = joiner(candles, given)
    for at in range(len(candles)):
        close_ms = int(candles.open_ms[at]) + candles.bar_ms
        known = [source.known_ms <= close_ms for source in given]
        cut = [part_of(source, keep) for source, keep in zip(given, known, strict=True)]
        poisoned = [replace(s, values=np.where(keep, s.values, 1e9)) for s, keep in zip(given, known, strict=True)]
        now = slice(0, at + 1)
        for changed in (joiner(candles[now], cut), joiner(candles, poisoned), joiner(candles, cut)):
            if not same(changed, truth, now, now):
                return at
    return None


@pytest.fixture(scope="module")
def candles() -> Candles:
    return replace(walk(BARS, seed=3), extras={})


@pytest.mark.parametrize("timeframe", ["15m", "1h", "4h"])
def test_no_bar_shows_a_value_before_it_was_known(timeframe: str) -> None:
    bars = replace(walk(BARS, seed=3, timeframe=timeframe), extras={})
    given = sources(bars)
    joined = join(bars, given)
    assert all(0.3 < np.isfinite(joined.extras[name]).mean() <= 1 for name in ("funding_rate", "open_interest"))
    assert leak(join, bars, given) is None


def test_a_join_without_the_publish_lag_is_caught(candles: Candles) -> None:
    def hasty(bars: Candles, given: list[Source]) -> Candles:
        return join(bars, [replace(source, known_ms=source.known_ms - LAG_MS[source.name]) for source in given])

    on_the_hour = [
        replace(source, known_ms=(source.known_ms - LAG_MS[source.name]) // HOUR * HOUR + LAG_MS[source.name])
        for source in sources(candles)
    ]
    assert leak(join, candles, on_the_hour) is None
    assert leak(hasty, candles, on_the_hour) is not None


def test_a_join_by_nearest_stamp_is_caught(candles: Candles) -> None:
    def nearest(bars: Candles, given: list[Source]) -> Candles:
        closes = bars.open_ms + bars.bar_ms
        extras = {s.name: s.values[np.abs(s.known_ms[None, :] - closes[:, None]).argmin(axis=1)] for s in given}
        return replace(bars, extras=extras)

    assert leak(nearest, candles, sources(candles)) is not None


def test_cutting_the_past_changes_no_later_bar(candles: Candles) -> None:
    given = sources(candles)
    truth = join(candles, given)
    for first in range(len(candles)):
        later = candles[first:]
        close_ms = int(later.open_ms[0]) + later.bar_ms
        cut = [part_of(s, s.known_ms > close_ms - 2 * s.interval_ms) for s in given]
        for changed in (join(later, given), join(later, cut)):
            assert same(changed, truth, slice(None), slice(first, None)), first


def test_the_join_is_merge_asof_backward(candles: Candles) -> None:
    closes = candles.open_ms + candles.bar_ms
    for source in sources(candles):
        theirs = pd.merge_asof(
            pd.DataFrame({"close": closes}),
            pd.DataFrame({"known": source.known_ms, "value": source.values}),
            left_on="close",
            right_on="known",
            tolerance=2 * source.interval_ms - 1,
        )["value"]
        np.testing.assert_array_equal(as_known(closes, source), theirs)


def test_a_longer_bar_is_made_of_its_own_bars_only() -> None:
    minutes = replace(walk(600, seed=9, timeframe="1m"), extras={})
    whole = resample(minutes, "15m")
    for cut in range(15, len(minutes)):
        until_now = resample(minutes[:cut], "15m")
        assert len(until_now) == cut // 15
        for name in ("open_ms", "open", "high", "low", "close", "volume"):
            np.testing.assert_array_equal(getattr(until_now, name), getattr(whole, name)[: len(until_now)])
