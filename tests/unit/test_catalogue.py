"""The whole catalogue at once: TA-Lib's own numbers, warm-ups and scales that are true, nothing made up on a market that stands still."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import talib
import talib.abstract
from every import every
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from autotrader.core.clock import parse_time
from autotrader.core.market import COLUMNS, Candles, Floats
from autotrader.features import columns as registry
from autotrader.features.columns import ColumnSpec, Scale, column, columns, compute
from autotrader.features.indicators import LEFT_OUT, SEED_WEIGHT

ALL = {name: spec for name, spec in columns().items() if spec.source == "house" or spec.source.startswith("talib.")}
NO_INDICATORS = ("Math Operators", "Math Transform")
SUMS = {"OBV": "MOM", "AD": "MOM", "PVT": "MOM", "WAD": "MOM", "NVI": "ROCP", "PVI": "ROCP"}  # read by their change
PRICES = ("open", "high", "low", "close")


def walk(n: int, seed: int = 0, *, drift: float = 0.0) -> Candles:
    rng = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(rng.normal(loc=drift, scale=0.006, size=n)))
    open_ = np.concatenate([[100.0], close])[:n]
    reach = np.abs(rng.normal(scale=0.003, size=(2, n))) * close
    high, low = np.maximum(open_, close) + reach[0], np.minimum(open_, close) - reach[1]
    stamps = parse_time("2025-03-08") + 3_600_000 * np.arange(n)
    prices = {"open": open_, "high": high, "low": low, "close": close}
    volume = rng.uniform(1.0, 100.0, size=n)
    return Candles(venue="test", symbol="WALK", timeframe="1h", open_ms=stamps, **prices, volume=volume)


def usual(spec: ColumnSpec) -> dict[str, float]:
    return {each.name: each.default for each in spec.parameters}


def quick(spec: ColumnSpec) -> dict[str, float]:
    "Lengths near their lower end, no two of them equal, the rest as usual."
    return {p.name: p.low + 1 + at if p.is_whole else p.default for at, p in enumerate(spec.parameters)}


def slow(spec: ColumnSpec) -> dict[str, float]:
    return {p.name: 40 + 13 * at if p.is_whole else p.default for at, p in enumerate(spec.parameters)}


KINDS = {"quick": quick, "usual": usual, "slow": slow}


def functions() -> Iterator[str]:
    for group, names in talib.get_function_groups().items():
        if group not in NO_INDICATORS:
            yield from names


def test_every_function_of_talib_is_a_column_or_is_left_out_with_a_reason() -> None:
    behind = {spec.source.removeprefix("talib.") for spec in ALL.values()} - {"house"}
    assert behind | set(LEFT_OUT) == set(functions())
    assert behind & set(LEFT_OUT) == set()


def outputs_of(function: str) -> list[str]:
    "Columns of a function in TA-Lib's order, which is that of their registration."
    return [spec.name for spec in registry._REGISTERED.values() if spec.source == f"talib.{function}"]


def arguments(function: str, params: dict[str, float]) -> dict[str, float]:
    "The same parameters under TA-Lib's names; kinds of averages are its defaults."
    theirs = [name for name in talib.abstract.Function(function).info["parameters"] if "matype" not in name]
    theirs = theirs[:1] if function == "STDDEV" else theirs  # of one deviation
    values = [*params.values(), *([params["deviations"]] if function == "BBANDS" else [])]
    return dict(zip(theirs, values, strict=True))


def talibs_own(function: str, candles: Candles, params: dict[str, float]) -> list[Floats]:
    inputs = {name: getattr(candles, name) for name in COLUMNS}
    entry = talib.abstract.Function(function)
    given = {} if function in SUMS else arguments(function, params)
    found = entry(inputs, **given)
    found = found if isinstance(found, list) else [found]
    if function in SUMS:
        return [getattr(talib, SUMS[function])(found[0], params["period"])]
    return [np.sign(each) for each in found] if entry.info["group"] == "Pattern Recognition" else found


FLAGS = {"fractal_high", "fractal_low"}


@pytest.mark.parametrize("kind", KINDS)
@every("function", sorted(set(functions()) - set(LEFT_OUT)))
def test_a_column_is_what_talib_computes(function: str, kind: str) -> None:
    candles, names = walk(1_500, seed=1), outputs_of(function)
    params = KINDS[kind](column(names[0]))
    theirs = talibs_own(function, candles, params)
    assert len(names) == len(theirs)
    for name, values in zip(names, theirs, strict=True):
        ours, bars = compute(name, candles, **params), column(name).warmup(**params)
        expected = np.sign(values) if name in FLAGS else values
        assert np.isnan(ours[:bars]).all() and np.isfinite(ours[bars:]).all()
        np.testing.assert_allclose(ours[bars:], expected[bars:], rtol=1e-9, atol=1e-9, err_msg=name)


def lookback(function: str, params: dict[str, float]) -> int:
    given = {} if function in SUMS else arguments(function, params)
    return (
        int(talib.abstract.Function(function, **given).lookback)
        if given
        else talib.abstract.Function(function).lookback
    )


FADES = {
    "ADOSC",
    "ADX",
    "ADXR",
    "APO",
    "ATR",
    "CMO",
    "CVI",
    "DEMA",
    "DX",
    "EFI",
    "EMA",
    "ERI",
    "HA",
    "HT_DCPERIOD",
    "HT_DCPHASE",
    "HT_PHASOR",
    "HT_SINE",
    "HT_TRENDLINE",
    "HT_TRENDMODE",
    "KAMA",
    "KC",
    "KDJ",
    "MACD",
    "MAMA",
    "MASSI",
    "MINUS_DI",
    "MINUS_DM",
    "NATR",
    "PLUS_DI",
    "PLUS_DM",
    "PPO",
    "PVO",
    "RMA",
    "RSI",
    "RVI",
    "SAR",
    "SMI",
    "STOCHRSI",
    "SUPERTREND",
    "T3",
    "TEMA",
    "TRIX",
    "TSI",
    "ZLEMA",
}  # whose values depend on the bar they started from
IN_ATRS = {
    "distance_atr",
    "body_atr",
    "range_atr",
    "slope_atr",
    "macd_atr",
    "vwap_distance_atr",
    "volatility_zscore",
    "squeeze",
    "di_balance",
}  # of the house, and made of such


@pytest.mark.parametrize("kind", KINDS)
@every("name", [name for name, spec in ALL.items() if spec.source != "house"])
def test_a_warm_up_is_the_lookback_of_talib_and_the_fading_of_its_seed(name: str, kind: str) -> None:
    spec, function = ALL[name], ALL[name].source.removeprefix("talib.")
    params = KINDS[kind](spec)
    shortest = params["period"] if function in SUMS else lookback(function, params)
    bars = spec.warmup(**params)
    assert bars > shortest if function in FADES else bars == shortest


@pytest.mark.parametrize("kind", KINDS)
@every("name", ALL)
def test_a_history_that_starts_elsewhere_agrees_after_the_warm_up(name: str, kind: str) -> None:
    spec, params = ALL[name], KINDS[kind](ALL[name])
    bars, forgets = spec.warmup(**params), spec.source.removeprefix("talib.") in FADES or name in IN_ATRS
    starts, differ = range(101, 3_500, 17 if forgets else 170), 0
    for seed in (1, 2):
        candles = walk(3_600 + bars, seed=seed)
        whole = compute(name, candles, **params)
        reach = SEED_WEIGHT * (np.nanmax(whole) - np.nanmin(whole)) if forgets else 1e-8 * np.nanmax(np.abs(whole))
        for start in starts:
            cut = compute(name, candles[start : start + bars + 60], **params)
            both = np.isfinite(cut[bars:])  # a day without its first bar has no vwap
            assert both.all() or name == "vwap"
            far = np.abs(cut - whole[start : start + bars + 60])[bars:][both] > reach
            differ += bool(far[:1].any())
    assert differ <= (2 * SEED_WEIGHT * len(starts) if forgets else 0)


@pytest.mark.parametrize("name", ["ema", "rsi", "adx", "macd_signal", "trix", "supertrend", "ht_sine", "kama"])
def test_a_history_that_starts_elsewhere_shows_before_the_warm_up(name: str) -> None:
    spec, function = ALL[name], ALL[name].source.removeprefix("talib.")
    candles, start = walk(2_000, seed=1), 700
    whole, cut = (
        talibs_own(function, bars, usual(spec))[outputs_of(function).index(name)] for bars in (candles, candles[start:])
    )
    early = slice(lookback(function, usual(spec)), spec.warmup() // 2)
    assert (np.abs(cut - whole[start:])[early] > SEED_WEIGHT * 0.1 * np.ptp(whole[np.isfinite(whole)])).any()


UNITS = dict.fromkeys(Scale, (0, 0)) | {  # powers of a price and of a volume
    Scale.PRICE: (1, 0),
    Scale.WIDTH: (1, 0),
    Scale.DIFFERENCE: (1, 0),
    Scale.QUANTITY: (0, 1),
    Scale.FLOW: (0, 1),
    Scale.MONEY: (1, 1),
}


@pytest.mark.parametrize("power", [-33, 20])
@every("name", ALL)
def test_a_column_has_the_unit_of_its_scale(name: str, power: int) -> None:
    candles, factor = walk(500, seed=3), 2.0**power
    price, volume = UNITS[ALL[name].scale]
    dear = replace(candles, **{each: factor * getattr(candles, each) for each in PRICES})
    thick = replace(candles, volume=factor * candles.volume)
    for changed, exponent in ((dear, price), (thick, volume)):
        np.testing.assert_allclose(compute(name, changed), factor**exponent * compute(name, candles), rtol=1e-9)


INSIDE = {
    Scale.WIDTH: (0.0, np.inf),
    Scale.PERCENT: (0.0, 100.0),
    Scale.UNIT: (-1.0, 1.0),
    Scale.FLAG: (-1.0, 1.0),
    Scale.VOLATILITY: (0.0, np.inf),
    Scale.QUANTITY: (0.0, np.inf),
    Scale.BARS: (0.0, np.inf),
    Scale.SWING: (-100.0, 100.0),
}
BEYOND = {"kdj_j", "cci", "channel_position"}  # as they say


def paused(candles: Candles, first: int, last: int) -> Candles:
    "The same with a market that stands still, without a trade, for some bars, after which everything comes down to where it stood."
    price = candles.close[first]
    prices = {name: getattr(candles, name).copy() for name in PRICES}
    for values in prices.values():
        values[last:] *= price / candles.open[last]
        values[first:last] = price
    volume = candles.volume.copy()
    volume[first:last] = 0.0
    return replace(candles, **prices, volume=volume)


@pytest.mark.parametrize("kind", ["quick", "usual"])
@every("name", ALL)
def test_a_value_lies_where_its_scale_says_even_when_the_market_pauses(name: str, kind: str) -> None:
    spec, params = ALL[name], KINDS[kind](ALL[name])
    candles = paused(walk(1_200, seed=4), 500, 800)
    values = compute(name, candles, **params)
    values = values[np.isfinite(values)]
    low, high = INSIDE.get(spec.scale, (-np.inf, np.inf))
    if spec.scale == Scale.PRICE:
        low, high = 0.8 * candles.low.min(), 1.25 * candles.high.max()
    assert len(values) > 300 and not np.isinf(values).any()
    if name not in BEYOND:
        assert values.min() >= low - 1e-9 and values.max() <= high + 1e-9
    if spec.scale == Scale.FLAG:
        assert set(values) <= {-1.0, 0.0, 1.0}


MIDDLE = dict.fromkeys(Scale, (0.0,)) | {
    Scale.PRICE: (100.0,),
    Scale.PERCENT: (50.0,),
    Scale.RATIO: (1.0,),
    Scale.FLAG: (-1.0, 0.0, 1.0),
}
STANDING = {  # by definition
    **dict.fromkeys(("adx", "adxr", "dx", "plus_di", "minus_di"), 0.0),  # no trend, no way gone
    **dict.fromkeys(("aroon_up", "aroon_down"), 100.0),  # the newest bar is an extreme
    "willr": -50.0,
    "massi": 25.0,
}


THE_CLOCK = {"hour_sine", "hour_cosine", "weekday_sine", "weekday_cosine"}  # moves without a market


@every("name", sorted(set(ALL) - THE_CLOCK))
def test_a_market_that_never_moved_has_a_neutral_value_or_none(name: str) -> None:
    flat = np.full(600, 100.0)
    still = replace(walk(600), **dict.fromkeys(PRICES, flat), volume=np.zeros(600))
    values = compute(name, still)
    known = values[np.isfinite(values)]
    expected = (STANDING[name],) if name in STANDING else MIDDLE[ALL[name].scale]
    assert len(known) in (0, 600 - ALL[name].warmup())
    assert np.isin(known.round(9), expected).all(), set(known)


@pytest.mark.parametrize(
    "name", ["stoch_k", "stoch_d", "willr", "mfi", "er", "vhf", "ultosc", "cmf", "vwma", "rvol", "correl"]
)
def test_what_divides_by_nothing_is_not_made_up(name: str) -> None:
    function = ALL[name].source.removeprefix("talib.")
    candles = paused(walk(600, seed=5), 300, 400)
    ours = compute(name, candles)[395]
    theirs = talibs_own(function, candles, usual(ALL[name]))[outputs_of(function).index(name)][395]
    middle = {"stoch_k": 50.0, "stoch_d": 50.0, "willr": -50.0, "mfi": 50.0}.get(name, np.nan)
    assert ours == pytest.approx(middle, abs=1e-9, nan_ok=True) and theirs != pytest.approx(middle, abs=1e-9)


@every("name", ALL)
def test_a_series_too_short_for_a_value_has_none(name: str) -> None:
    bars = ALL[name].warmup()
    for n in {0, 1, 2, bars // 2, bars}:
        values = compute(name, walk(bars + 3)[:n])
        assert len(values) == n and np.isnan(values[: min(n, bars)]).all()


@settings(max_examples=150)
@given(st.data())
def test_any_parameters_within_their_bounds_can_be_computed(data: st.DataObject) -> None:
    spec = ALL[data.draw(st.sampled_from(sorted(ALL)))]
    params = {
        p.name: data.draw(st.integers(int(p.low), int(p.high)) if p.is_whole else st.floats(p.low, p.high))
        for p in spec.parameters
    }
    bars = spec.warmup(**params)
    values = compute(spec.name, walk(bars + 50, seed=6), **params)
    assert np.isnan(values[:bars]).all() and np.isfinite(values[bars:]).all()


def ticking(n: int, seed: int, *, tick: float, gap: float) -> Candles:
    "A walk on a coarse grid of prices, with gaps and with bars that have no shadow: all that patterns are made of."
    candles, rng = walk(n, seed), np.random.default_rng(seed)
    opened = candles.open + gap * rng.normal(size=n)
    high, low = np.maximum(opened, candles.close), np.minimum(opened, candles.close)
    reach = np.abs(rng.normal(scale=0.2, size=(2, n))) * (rng.random((2, n)) < 0.7)
    prices = {"open": opened, "high": high + reach[0], "low": low - reach[1], "close": candles.close}
    return replace(candles, **{name: np.round(values / tick) * tick for name, values in prices.items()})


def test_a_candlestick_announces_the_side_it_says() -> None:
    markets = [ticking(30_000, seed, tick=tick, gap=gap) for seed, (tick, gap) in enumerate([(0.05, 0.1), (0.2, 0.3)])]
    sides = {"1 bullish": {1}, "−1 bearish": {-1}, "1 bullish, −1 bearish": {1, -1}, "1 where there is one": {1}}
    found = {name: {*np.unique(np.concatenate([compute(name, each) for each in markets]))} for name in columns("cdl_")}
    for name, flags in found.items():
        seen = {flag for flag in flags if flag == flag and flag != 0.0}
        assert seen <= sides[column(name).about.partition(": ")[2]], name
    assert sum(1.0 in flags or -1.0 in flags for flags in found.values()) >= 50


def test_either_length_may_come_first() -> None:
    candles = walk(400)
    pairs = [name for name, spec in ALL.items() if {"fast", "slow"} <= {p.name for p in spec.parameters}]
    # of a difference of two averages; the others' lengths do different things
    symmetric = set(pairs) - {"smi", "smi_signal", "tsi", "massi", "coppock", "illiquidity", "volatility_ratio"}
    assert symmetric == {"macd", "macd_signal", "macd_hist", "macd_atr", "apo", "ppo", "pvo", "ao", "ac", "adosc"}
    for name in symmetric:
        one, other = (compute(name, candles, fast=fast, slow=slow) for fast, slow in ((7, 19), (19, 7)))
        assert np.array_equal(one, other, equal_nan=True), name


def plain_vwap(candles: Candles) -> NDArray[np.float64]:
    typical, days = (candles.high + candles.low + candles.close) / 3, candles.open_ms // 86_400_000
    out = np.full(len(candles), np.nan)
    for at in range(len(candles)):
        today = (days == days[at]) & (np.arange(len(candles)) <= at)
        if candles.open_ms[today][0] % 86_400_000 == 0 and candles.volume[today].sum() > 0:
            out[at] = np.average(typical[today], weights=candles.volume[today])
    return out


@pytest.mark.parametrize("first", [0, 5, 30])
def test_a_session_vwap_starts_at_midnight_and_waits_for_a_whole_day(first: int) -> None:
    candles = paused(walk(120, seed=2), 48, 52)[first:]
    np.testing.assert_allclose(compute("vwap", candles), plain_vwap(candles), rtol=1e-12)
    assert np.isnan(compute("vwap", candles)[:5]).all() or first == 0


def test_house_columns_are_their_textbook_definitions() -> None:
    candles = walk(400, seed=7)
    close, at = candles.close, 300
    last = close[at - 19 : at + 1]
    assert compute("zscore", candles)[at] == pytest.approx((last[-1] - last.mean()) / last.std())
    returns = np.diff(np.log(close))[at - 24 : at]
    assert compute("realised_volatility", candles)[at] == pytest.approx(np.sqrt((returns**2).mean() * 365 * 24))
    upper, lower = candles.high[at - 20 : at].max(), candles.low[at - 20 : at].min()
    assert compute("donchian_middle", candles)[at] == (upper + lower) / 2
    assert compute("donchian_width", candles)[at] == upper - lower
    ema, atr = compute("ema", candles)[at], compute("atr", candles)[at]
    assert compute("distance_atr", candles)[at] == pytest.approx((close[at] - ema) / atr)
    typical = (candles.high + candles.low + close) / 3
    part = slice(at - 19, at + 1)
    assert compute("vwap_rolling", candles)[at] == pytest.approx(
        np.average(typical[part], weights=candles.volume[part])
    )


def test_the_list_is_a_table_of_a_hundred_columns_and_a_word_narrows_it_down() -> None:
    text = repr(columns())
    assert max(map(len, text.splitlines())) <= 100
    assert all(f"  {name}(" in text for name in columns()) and all(f"\n{scale}: " in f"\n{text}" for scale in Scale)
    assert set(columns("donchian")) == {"donchian_upper", "donchian_middle", "donchian_lower", "donchian_width"}
    assert "bollinger_upper" in columns("BBANDS") and set(columns("volatility")) > {"realised_volatility"}
    assert columns("no such thing") == {} and repr(columns("no such thing")) == ""
