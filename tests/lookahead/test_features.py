"""No feature knows a bar after its own, and its value is the same whatever history lies before its run-in: bit for bit, at every bar."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import series
from harness import future_leak, past_leak, walk

from autotrader.core.clock import timeframe_ms
from autotrader.core.market import COLUMNS, Candles, Floats
from autotrader.data.joined import resample
from autotrader.features import feature_set
from autotrader.features.columns import compute
from autotrader.features.feature_set import (
    BLOCK_BARS,
    FEATURES,
    RUN_IN_BARS,
    SHORT_RUN_IN_BARS,
    Feature,
    feature_matrix,
    newest_features,
    warmup_bars,
)
from autotrader.strategy.lookahead import absurd, spliced

SHORT = [each for each in FEATURES if each.every == 1]
LONG = [each for each in FEATURES if each.every > 1]
BLOCK_MS = BLOCK_BARS * timeframe_ms("1h")


def at_a_block(candles: Candles, row: int) -> Candles:
    "The same bars at another time: a calendar block begins with this row."
    shift = (candles.open_ms[row] // BLOCK_MS) * BLOCK_MS - candles.open_ms[row]
    return replace(candles, open_ms=candles.open_ms + shift)


def kept(candles: Candles, rows: np.ndarray) -> Candles:
    columns = {name: getattr(candles, name)[rows] for name in ("open_ms", *COLUMNS)}
    return replace(candles, **columns, extras={name: values[rows] for name, values in candles.extras.items()})


def markets(features: list[Feature]) -> tuple[Candles, int]:
    "A series just longer than the longest warm-up after its holes in funding and open interest, and the bars before all have values."
    longest = 16 + max(warmup_bars(each) for each in features)
    n = longest + series.length(20, soak=1_300)
    return walk(2 * n, seed=1)[n:], longest


@pytest.mark.parametrize("features", [SHORT, LONG], ids=["own bars", "longer bars"])
def test_the_newest_bar_alone_gives_what_the_whole_series_gives_at_every_bar(features: list[Feature]) -> None:
    candles, longest = markets(features)
    values = feature_matrix(candles, features)
    assert np.isfinite(values[longest:]).any(axis=0).all()
    for bars in range(1, len(candles) + 1):
        newest = newest_features(candles[:bars], features)
        assert np.array_equal(newest, values[bars - 1], equal_nan=True), bars


@pytest.mark.parametrize("features", [SHORT, LONG], ids=["own bars", "longer bars"])
def test_an_absurd_future_changes_no_bit_at_any_bar(features: list[Feature]) -> None:
    candles, _ = markets(features)
    values, poison = feature_matrix(candles, features), absurd(candles)
    with np.errstate(all="ignore"):
        for row in range(len(candles) - 1):
            found = feature_matrix(spliced(candles, poison, row + 1), features, first=row)[0]
            assert np.array_equal(found, values[row], equal_nan=True), row


def answer_of(features: list[Feature]) -> Callable[[Candles], dict[str, Floats]]:
    labels = [each.label for each in features]
    return lambda bars: dict(zip(labels, feature_matrix(bars, features).T, strict=True))


def test_the_package_s_own_tests_find_nothing_at_any_bar() -> None:
    some = [each for each in FEATURES if warmup_bars(each) <= 30]
    assert len(some) > 30
    assert future_leak(answer_of(some), walk(150, seed=2)) is None


def test_a_longer_bar_seen_before_its_close_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    features = [Feature(name="log_return", params=(("period", 1),), every=4)]
    candles = walk(60, seed=3)
    assert future_leak(answer_of(features), candles) is None

    def by_its_open(values: Floats, slow: Candles, bars: Candles) -> Floats:
        newest = np.searchsorted(slow.open_ms, bars.open_ms, side="right") - 1
        return np.concatenate([[np.nan], values])[newest + 1]

    monkeypatch.setattr(feature_set, "aligned", by_its_open)
    assert future_leak(answer_of(features), candles) is not None


def random_markets() -> Iterator[Candles]:
    "Walks of several lengths and timeframes with holes of one bar and of many, that begin anywhere."
    for seed in range(series.length(6, soak=60)):
        rng = np.random.default_rng(seed)
        n, timeframe = int(rng.integers(2_500, 6_000)), str(rng.choice(["1m", "15m", "1h", "4h", "1d"]))
        whole = walk(n, seed=seed, timeframe=timeframe)
        shifted = replace(whole, open_ms=whole.open_ms + timeframe_ms(timeframe) * int(rng.integers(0, 3_000)))
        rows = rng.random(n) >= rng.choice([0.0, 0.01, 0.2])
        gap = int(rng.integers(0, n - 900))
        rows[gap : gap + int(rng.choice([0, 30, 800]))] = False
        yield kept(shifted, np.flatnonzero(rows))


@pytest.mark.parametrize("candles", list(random_markets()), ids=repr)
def test_batch_is_one_bar_at_a_time_through_holes_and_from_any_start(candles: Candles) -> None:
    rng, values = np.random.default_rng(len(candles)), feature_matrix(candles)
    starts = np.flatnonzero(np.diff(candles.open_ms // (BLOCK_BARS * candles.bar_ms))) + 1  # first rows of blocks
    turns = np.concatenate([starts - 1, starts, starts + 1])
    rows = np.unique(np.concatenate([turns, rng.integers(0, len(candles), series.length(12, soak=300))]))
    for row in rows[rows < len(candles)]:
        assert np.array_equal(newest_features(candles[: row + 1]), values[row], equal_nan=True), row


def settled(candles: Candles, lost: int, run_in: int) -> int:
    "First row of a block whose run-in lies after the first `lost` rows."
    block = candles.open_ms // (BLOCK_BARS * candles.bar_ms)
    starts = np.flatnonzero(np.diff(block, prepend=block[0] - 1))
    return int(starts[starts - run_in >= lost][0])


@pytest.mark.parametrize("candles", list(random_markets())[: series.length(4, soak=60)], ids=repr)
def test_bars_before_the_run_in_change_no_bit(candles: Candles) -> None:
    values, rng = feature_matrix(candles), np.random.default_rng(7)
    short = [
        number for number, each in enumerate(FEATURES) if each.every == 1 and warmup_bars(each) <= SHORT_RUN_IN_BARS
    ]
    for lost in rng.integers(1, len(candles) - 2 * BLOCK_BARS - 100, 3):
        cut = feature_matrix(candles[lost:])
        for run_in, chosen in ((RUN_IN_BARS, slice(None)), (SHORT_RUN_IN_BARS, short)):
            since = settled(candles, int(lost), run_in)
            assert np.array_equal(cut[since - lost :, chosen], values[since:, chosen], equal_nan=True)


def test_absurd_bars_before_the_run_in_change_no_value() -> None:
    candles = at_a_block(walk(2 * BLOCK_BARS, seed=5), BLOCK_BARS + 30)
    features = [each for each in FEATURES if each.name in ("rsi", "tsi", "funding_mean", "skewness")]
    anchor = BLOCK_BARS + 30

    def answer(bars: Candles) -> dict[str, Floats]:
        return answer_of(features)(bars)

    leak = past_leak(answer, candles, anchor=anchor) if series.IS_SOAK else None
    assert leak is None
    poisoned = spliced(absurd(candles), candles, 30)
    with np.errstate(all="ignore"):
        found, true = answer(poisoned), answer(candles)
    for label in true:
        assert np.array_equal(found[label][anchor:], true[label][anchor:], equal_nan=True), label


def test_features_without_an_anchor_would_be_caught() -> None:
    "What plain columns over all there is do: their last bits, and more, depend on the bar they began at."
    candles = walk(4_000, seed=6)
    whole, cut = (compute("rsi", bars, period=14) for bars in (candles, candles[100:]))
    sums = [compute("skewness", bars, period=168) for bars in (candles, candles[100:])]
    assert not np.array_equal(whole[700:], cut[600:]) or not np.array_equal(sums[0][700:], sums[1][600:])


def test_a_longer_bar_counts_only_once_it_is_whole_and_closed() -> None:
    candles = walk(400, seed=8, since="2025-03-10")
    candles = kept(candles, np.delete(np.arange(400), [10, 200]))
    (feature,) = [Feature(name="log_return", params=(("period", 1),), every=24)]
    values, days = feature_matrix(candles, [feature])[:, 0], resample(candles, "1d")
    expected = np.log(days.close / np.concatenate([[np.nan], days.close])[: len(days)])
    for row, value in enumerate(values):
        done = days.open_ms + days.bar_ms <= candles.open_ms[row] + candles.bar_ms
        assert np.isnan(value) if done.sum() < 2 else np.isclose(value, expected[done][-1], rtol=1e-12)
