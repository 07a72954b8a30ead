"""What a model is shown: enough of it, in units of no market, missing where it is missing, and what its definition says."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from autotrader.core.clock import timeframe_ms
from autotrader.core.errors import ConfigError, DataError
from autotrader.core.market import Candles
from autotrader.data.sample import eurusd
from autotrader.features import columns as registry
from autotrader.features.columns import Scale, cached, column, register
from autotrader.features.feature_set import (
    BLOCK_BARS,
    FAMILIES,
    FEATURES,
    RUN_IN_BARS,
    Feature,
    check_features,
    feature_matrix,
    feature_named,
    longer_timeframe,
    newest_features,
    warmup_bars,
)

LABELS = [each.label for each in FEATURES]
CROWD = {"funding_rate", "open_interest"}
OF_THE_CROWD = np.array([not CROWD.isdisjoint(column(each.name).inputs) for each in FEATURES])


def walk(n: int, *, seed: int = 0, timeframe: str = "1h", since_ms: int | None = None, holes: float = 0.0) -> Candles:
    "A random market that has funding and open interest, from a block's beginning on, with bars missing at random."
    rng, length_ms = np.random.default_rng(seed), timeframe_ms(timeframe)
    begin = BLOCK_BARS * length_ms * 400 if since_ms is None else since_ms
    close = 100.0 * np.exp(np.cumsum(rng.normal(scale=0.006, size=n)))
    open_ = np.concatenate([[100.0], close[:-1]])
    reach = np.abs(rng.normal(scale=0.003, size=(2, n))) * close
    funding = np.repeat(rng.normal(scale=1e-4, size=n // 8 + 1), 8)[:n]
    whole = Candles(
        venue="test",
        symbol="WALK",
        timeframe=timeframe,
        open_ms=begin + length_ms * np.arange(n),
        open=open_,
        high=np.maximum(open_, close) + reach[0],
        low=np.minimum(open_, close) - reach[1],
        close=close,
        volume=rng.lognormal(size=n),
        extras={"funding_rate": funding, "open_interest": 1e6 * np.exp(np.cumsum(rng.normal(scale=0.01, size=n)))},
    )
    kept = rng.random(n) >= holes
    return whole if not holes else feature_rows(whole, np.flatnonzero(kept))


def feature_rows(candles: Candles, rows: np.ndarray) -> Candles:
    columns = {name: getattr(candles, name)[rows] for name in ("open_ms", "open", "high", "low", "close", "volume")}
    return replace(candles, **columns, extras={name: values[rows] for name, values in candles.extras.items()})


@pytest.fixture(scope="module")
def market() -> Candles:
    return walk(BLOCK_BARS, seed=1)


@pytest.fixture(scope="module")
def matrix(market: Candles) -> np.ndarray:
    return feature_matrix(market)


def test_there_are_enough_of_each_family() -> None:
    counts = Counter(each.family for each in FEATURES)
    assert len(FEATURES) >= 60 and len(set(LABELS)) == len(FEATURES)
    assert set(counts) == set(FAMILIES) - {"own"} and min(counts.values()) >= 5


def test_each_is_a_column_with_its_declaration_and_found_by_its_label() -> None:
    for each in FEATURES:
        spec = column(each.name)
        assert (
            spec.inputs
            and spec.about
            and spec.source
            and [name for name, _ in each.params] == [parameter.name for parameter in spec.parameters]
        )
        assert feature_named(each.label) == each
        assert warmup_bars(each) <= RUN_IN_BARS


def test_no_feature_has_the_unit_of_a_market() -> None:
    levels = {Scale.PRICE, Scale.WIDTH, Scale.DIFFERENCE, Scale.QUANTITY, Scale.FLOW, Scale.MONEY}
    assert [each.label for each in FEATURES if column(each.name).scale in levels] == []
    for name in ("close", "atr", "macd", "volume", "obv", "efi"):
        with pytest.raises(ConfigError, match=f"feature {name}.* is in units of the market"):
            check_features([Feature(name=name)])


def scaled(candles: Candles, price: float, volume: float) -> Candles:
    prices = {name: price * getattr(candles, name) for name in ("open", "high", "low", "close")}
    interest = volume * candles.extras["open_interest"]
    extras = candles.extras | {"open_interest": interest}
    return replace(candles, **prices, volume=volume * candles.volume, extras=extras)


@pytest.mark.parametrize("price, volume", [(7.0, 3.0), (1e-7, 1e9), (3e5, 1e-4)])
def test_no_feature_knows_the_price_or_the_size_of_a_coin(
    market: Candles, matrix: np.ndarray, price: float, volume: float
) -> None:
    found = feature_matrix(scaled(market, price, volume))
    assert np.array_equal(np.isnan(found), np.isnan(matrix))
    for number, label in enumerate(LABELS):
        np.testing.assert_allclose(found[:, number], matrix[:, number], rtol=1e-6, atol=1e-7, err_msg=label)


def test_a_price_in_other_powers_of_two_changes_no_bit(market: Candles, matrix: np.ndarray) -> None:
    assert np.array_equal(feature_matrix(scaled(market, 2.0**-30, 1.0)), matrix, equal_nan=True)


def test_every_feature_says_something_and_is_finite_or_missing(matrix: np.ndarray) -> None:
    for each, values in zip(FEATURES, matrix.T, strict=True):
        bars = warmup_bars(each)
        assert np.isfinite(values[bars:]).all(), each.label
        assert len(np.unique(values[bars:])) > 1, each.label
        first = int(np.argmax(np.isfinite(values)))
        assert (first == bars) if each.every == 1 else (first <= bars), each.label


def test_what_the_definitions_say_in_pandas(market: Candles, matrix: np.ndarray) -> None:
    from plain_features import PLAIN, frame_of

    holed = market.extras["open_interest"].copy()
    holed[700:705] = np.nan
    market = replace(market, extras=market.extras | {"open_interest": holed})
    matrix, frame, settled = feature_matrix(market), frame_of(market), slice(1_000, None)
    assert set(PLAIN) <= set(LABELS) and len(PLAIN) >= 75
    for label, form in PLAIN.items():
        ours, theirs = matrix[:, LABELS.index(label)], form(frame).to_numpy()
        near = 1e-3 if "@" in label else 1e-5  # few long bars have gone by, and averages remember
        np.testing.assert_allclose(ours[settled], theirs[settled], rtol=near, atol=1e-8, err_msg=label)


def test_a_market_without_funding_and_open_interest_has_none_and_the_rest_is_the_same(
    market: Candles, matrix: np.ndarray
) -> None:
    bare = feature_matrix(replace(market, extras={}))
    assert OF_THE_CROWD.sum() == sum(each.family in CROWD | {"funding"} for each in FEATURES) + 4
    assert np.isnan(bare[:, OF_THE_CROWD]).all()
    assert np.array_equal(bare[:, ~OF_THE_CROWD], matrix[:, ~OF_THE_CROWD], equal_nan=True)


def test_a_hole_in_what_is_joined_is_missing_as_long_as_a_window_sees_it_and_never_filled(market: Candles) -> None:
    first, last = 600, 610
    funding = market.extras["funding_rate"].copy()
    funding[first:last] = np.nan
    values = feature_matrix(replace(market, extras=market.extras | {"funding_rate": funding}))
    for label, reach in (("funding_rate", 1), ("funding_mean_24", 24), ("funding_zscore_168", 168)):
        missing = np.isnan(values[480:, LABELS.index(label)])
        assert np.array_equal(np.flatnonzero(missing) + 480, np.arange(first, last + reach - 1)), label


def test_open_interest_of_nothing_is_not_known_and_forgotten_with_its_window(market: Candles) -> None:
    interest = market.extras["open_interest"].copy()
    interest[700] = 0.0
    values = feature_matrix(replace(market, extras=market.extras | {"open_interest": interest}))
    reads = ["open_interest" in column(each.name).inputs for each in FEATURES]
    changed = [label for label in np.array(LABELS)[reads] if not label.startswith("open_interest_change")]
    for label in changed:
        missing = np.flatnonzero(np.isnan(values[480:, LABELS.index(label)])) + 480
        assert 700 in missing and missing.max() <= 700 + 168, label
    assert len(changed) == 5 and np.isfinite(values[900:, reads]).all()


def test_what_would_be_infinite_is_missing(market: Candles) -> None:
    register(name="endless", inputs=("close",), scale=Scale.UNIT, about="test", origin="__main__")(lambda c: c + np.inf)
    try:
        assert np.isnan(feature_matrix(market, [Feature(name="endless")])).all()
    finally:
        registry._REGISTERED.pop("endless")


@pytest.mark.parametrize(
    "timeframe, missing", [("1m", set()), ("15m", set()), ("1h", set()), ("4h", {4, 24}), ("1d", {4, 24})]
)
def test_longer_bars_that_no_calendar_has_are_missing_on_every_bar(timeframe: str, missing: set[int]) -> None:
    values = feature_matrix(walk(BLOCK_BARS - 1, seed=2, timeframe=timeframe))[-1]
    silent = {each.every for each, value in zip(FEATURES, values, strict=True) if np.isnan(value)}
    assert silent == missing


def test_a_day_of_hours_is_a_day_and_a_week_of_days_is_a_week() -> None:
    assert [longer_timeframe("1h", 24), longer_timeframe("1d", 7), longer_timeframe("1d", 3)] == ["1d", "1w", "3d"]
    assert [longer_timeframe("4h", 4), longer_timeframe("1d", 2), longer_timeframe("1w", 2)] == [None, None, None]


def test_weekends_without_trading_leave_no_hole_in_the_features() -> None:
    "Of the shipped sample, whose days lack hours at each weekend: at a block's first bar longer bars have settled too."
    sample = eurusd()
    values = feature_matrix(sample)
    late = values[RUN_IN_BARS + BLOCK_BARS :, ~OF_THE_CROWD]
    missing = {
        label for label, column in zip(np.array(LABELS)[~OF_THE_CROWD], late.T, strict=True) if np.isnan(column).any()
    }
    assert len(late) > 2_000 and missing <= {"upper_shadow", "lower_shadow"}  # of bars that have no range


def test_candles_with_a_cache_and_neighbours_give_the_same(market: Candles, matrix: np.ndarray) -> None:
    kept = cached(market.beside(replace(walk(BLOCK_BARS, seed=3), symbol="OTHER")))
    assert np.array_equal(feature_matrix(kept), matrix, equal_nan=True)
    assert kept.cache.size == 0


def test_a_part_of_the_rows_is_that_part(market: Candles, matrix: np.ndarray) -> None:
    for first in (0, 1, 600, 1_199, 1_200, 5_000):
        assert np.array_equal(feature_matrix(market, first=first), matrix[first:], equal_nan=True)
    assert feature_matrix(market[:0]).shape == (0, len(FEATURES))
    assert feature_matrix(market, []).shape == (BLOCK_BARS, 0)


def test_a_column_of_ones_own_becomes_a_feature(market: Candles) -> None:
    register(name="halved", inputs=("close",), scale=Scale.UNIT, about="test", origin="__main__")(lambda c: c * 0 + 0.5)
    try:
        own = feature_named("halved@4")
        assert (own.family, own.every, own.params) == ("own", 4, ())
        assert np.nanmax(feature_matrix(market, [own])) == 0.5
    finally:
        registry._REGISTERED.pop("halved")


@pytest.mark.parametrize(
    "feature, said",
    [
        (Feature(name="rsi", params=(("period", 300),)), "feature rsi_300 warms up for"),
        (Feature(name="funding_mean", every=4), "reads funding_rate, which longer bars have not"),
        (Feature(name="nonsense"), "column 'nonsense' is unknown"),
        (Feature(name="rsi", params=(("length", 14),)), "parameter of rsi 'length' is unknown"),
        (Feature(name="rsi", params=(("period", 1),)), "rsi.period must lie between"),
    ],
)
def test_what_cannot_be_a_feature_is_refused_in_one_line(market: Candles, feature: Feature, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        feature_matrix(market, [feature])
    assert "\n" not in str(error.value)


def test_what_cannot_be_asked_is_refused_in_one_line(market: Candles) -> None:
    with pytest.raises(ConfigError, match="feature rsi_14 is there twice"):
        feature_matrix(market, [FEATURES[LABELS.index("rsi_14")]] * 2)
    with pytest.raises(ConfigError, match="every must be a whole number of bars from 1 on, was 0"):
        Feature(name="rsi", every=0)
    with pytest.raises(ConfigError, match="family of features 'prices' is unknown: did you mean 'price'"):
        Feature(name="rsi", family="prices")
    with pytest.raises(DataError, match="test WALK 1h: no bars, so no features"):
        newest_features(market[:0])
    for label in ("rsi_14@", "rsi_14@0", "rsi_x", "", "rsi_14_2", "@4"):
        with pytest.raises(ConfigError, match="unknown"):
            feature_named(label)
