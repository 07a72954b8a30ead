"""Indicators against slow plain references, and warm-up against TA-Lib's own account of it."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import talib
import talib.abstract
from hypothesis import given
from hypothesis import strategies as st

from autotrader.core.clock import parse_time
from autotrader.core.errors import ConfigError, DataError
from autotrader.core.market import Candles
from autotrader.features.columns import column, compute
from autotrader.features.history import RUN_IN_MS, anchor_ms, anchored, over_history, segments
from autotrader.features.indicators import SEED_WEIGHT

HOUR = 3_600_000
UNSTABLE = {"ema": "EMA", "rsi": "RSI", "atr": "ATR", "adx": "ADX"}


def walk(n: int, seed: int = 0) -> Candles:
    rng = np.random.default_rng(seed)
    close = 50.0 + np.cumsum(rng.normal(size=n)) * 0.3
    reach = np.abs(rng.normal(size=(2, n)))
    return Candles(
        venue="test",
        symbol="WALK",
        timeframe="1h",
        open_ms=parse_time("2025-03-08") + HOUR * np.arange(n),
        open=close,
        high=close + reach[0],
        low=close - reach[1],
        close=close,
        volume=np.ones(n),
    )


def plain_average(values: list[float], n: int, alpha: float) -> list[float]:
    "Exponential average from its textbook definition, seeded with the mean of the first n values."
    out = [float("nan")] * (n - 1) + [sum(values[:n]) / n]
    for value in values[n:]:
        out.append(out[-1] + alpha * (value - out[-1]))
    return out


def plain_ema(c: Candles, n: int) -> list[float]:
    return plain_average(list(c.close), n, 2.0 / (n + 1))


def plain_sma(c: Candles, n: int) -> list[float]:
    return [sum(c.close[max(0, i - n + 1) : i + 1]) / n for i in range(len(c))]


def plain_rsi(c: Candles, n: int) -> list[float]:
    moves = np.diff(c.close).tolist()
    up = plain_average([max(move, 0.0) for move in moves], n, 1.0 / n)
    down = plain_average([max(-move, 0.0) for move in moves], n, 1.0 / n)
    return [float("nan")] + [100.0 * u / (u + d) for u, d in zip(up, down, strict=True)]


def plain_ranges(c: Candles) -> list[float]:
    return [
        max(c.high[i] - c.low[i], abs(c.high[i] - c.close[i - 1]), abs(c.low[i] - c.close[i - 1]))
        for i in range(1, len(c))
    ]


def plain_atr(c: Candles, n: int) -> list[float]:
    return [float("nan"), *plain_average(plain_ranges(c), n, 1.0 / n)]


def plain_adx(c: Candles, n: int) -> list[float]:
    up = [c.high[i] - c.high[i - 1] for i in range(1, len(c))]
    down = [c.low[i - 1] - c.low[i] for i in range(1, len(c))]
    plus = plain_average([u if u > d and u > 0 else 0.0 for u, d in zip(up, down, strict=True)], n, 1.0 / n)
    minus = plain_average([d if d > u and d > 0 else 0.0 for u, d in zip(up, down, strict=True)], n, 1.0 / n)
    strength = [100.0 * abs(p - m) / (p + m) for p, m in zip(plus, minus, strict=True)][n - 1 :]
    return [float("nan")] * n + plain_average(strength, n, 1.0 / n)


def plain_upper(c: Candles, n: int) -> list[float]:
    return [max(c.high[i - n : i], default=0.0) if i >= n else float("nan") for i in range(len(c))]


def plain_lower(c: Candles, n: int) -> list[float]:
    return [min(c.low[i - n : i], default=0.0) if i >= n else float("nan") for i in range(len(c))]


REFERENCES: dict[str, Callable[[Candles, int], list[float]]] = {
    "ema": plain_ema,
    "sma": plain_sma,
    "rsi": plain_rsi,
    "atr": plain_atr,
    "adx": plain_adx,
    "donchian_upper": plain_upper,
    "donchian_lower": plain_lower,
}
INDICATORS = list(REFERENCES)


@pytest.mark.parametrize("period", [2, 14, 50])
@pytest.mark.parametrize("name", INDICATORS)
def test_an_indicator_is_its_textbook_definition(name: str, period: int) -> None:
    candles = walk(900)
    ours = compute(name, candles, period=period)
    theirs = np.array(REFERENCES[name](candles, period))
    bars = column(name).warmup(period=period)
    assert np.isnan(ours[:bars]).all() and np.isfinite(ours[bars:]).all()
    # the ADX seeds its inner averages otherwise: it agrees as far as its start has faded
    rtol, settled = (1e-9, bars) if name != "adx" else (1e-5, 13 * period + 100)
    np.testing.assert_allclose(ours[settled:], theirs[settled:], rtol=rtol)


@pytest.fixture
def unstable() -> Iterator[Callable[[str, int], None]]:
    "Sets TA-Lib's unstable periods, which are global to the process, and puts them back."
    yield talib.set_unstable_period
    for name in UNSTABLE.values():
        talib.set_unstable_period(name, 0)


@pytest.mark.parametrize("period", [2, 3, 14, 100, 500])
@pytest.mark.parametrize("name", UNSTABLE)
def test_warm_up_is_the_lookback_of_talib_with_its_unstable_period(
    name: str, period: int, unstable: Callable[[str, int], None]
) -> None:
    candles, entry, function = walk(5000), column(name), UNSTABLE[name]
    ours = compute(name, candles, period=period)
    shortest = talib.abstract.Function(function, timeperiod=period).lookback
    unstable(function, entry.warmup(period=period) - shortest)
    assert talib.abstract.Function(function, timeperiod=period).lookback == entry.warmup(period=period)
    given = [getattr(candles, each) for each in entry.inputs]
    assert np.array_equal(getattr(talib, function)(*given, timeperiod=period), ours, equal_nan=True)


@pytest.mark.parametrize("name", ["sma", "donchian_upper", "donchian_lower"])
def test_a_window_warms_up_for_its_own_length(name: str) -> None:
    assert column(name).warmup(period=20) == (19 if name == "sma" else 20)


@pytest.mark.parametrize("period", [2, 14, 200])
def test_the_seed_weighs_less_than_promised_when_values_begin(period: int) -> None:
    bars = column("ema").warmup(period=period)
    seed_only = np.zeros(bars + 1)
    seed_only[:period] = 1.0
    assert 0.3 * SEED_WEIGHT < talib.EMA(seed_only, period)[bars] <= SEED_WEIGHT


@pytest.mark.parametrize("n", [0, 1, 2, 30])
@pytest.mark.parametrize("name", INDICATORS)
def test_a_series_shorter_than_the_warm_up_has_no_values(name: str, n: int) -> None:
    values = compute(name, walk(n), period=40)
    assert values.dtype == np.float64 and len(values) == n and np.isnan(values).all()


def test_a_market_that_never_moved_is_not_oversold() -> None:
    flat = walk(200)
    flat.close[:] = 5.0
    assert set(compute("rsi", flat)[100:]) == {50.0}


def test_prices_of_a_billionth_give_the_same_rsi() -> None:
    coin, tiny = walk(300), walk(300)
    tiny.close[:] *= 1e-9
    np.testing.assert_allclose(compute("rsi", tiny), compute("rsi", coin), rtol=1e-9)


def test_the_breaking_bar_is_not_part_of_its_channel() -> None:
    candles = walk(60)
    candles.high[50] = 1e6
    upper = compute("donchian_upper", candles, period=5)
    assert upper[50] < 1e6 and set(upper[51:56]) == {1e6} and upper[56] < 1e6


def test_candles_are_not_written_to() -> None:
    candles = walk(200)
    before = candles.close.copy()
    for name in INDICATORS:
        assert not compute(name, candles).flags.writeable
    assert np.array_equal(candles.close, before) and candles.close.flags.writeable


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("emma", {}, "column 'emma' is unknown: did you mean 'ema'?"),
        ("zzz", {}, "column 'zzz' is unknown: `at.columns()` lists all"),
        ("ema", {"perod": 3}, "parameter of ema 'perod' is unknown: did you mean 'period'?"),
        ("ema", {"period": 1}, "ema.period must lie between 2 and 500, was 1"),
        ("ema", {"period": 501}, "was 501"),
        ("ema", {"period": float("nan")}, "was nan"),
        ("ema", {"period": True}, "ema.period must be a number, was True"),
        ("ema", {"period": 2.5}, "ema.period must be a whole number, was 2.5"),
    ],
)
def test_a_wrong_name_or_number_is_one_clear_line(name: str, params: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compute(name, walk(10), **params)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_columns_are_named_from_their_parameters() -> None:
    assert column("ema").label(period=12.0) == "ema_12"
    assert column("donchian_upper").label() == "donchian_upper_20"


@given(st.integers(min_value=0, max_value=parse_time("2040-01-01")))
def test_a_minute_bot_starts_a_week_before_its_quarter(at_ms: int) -> None:
    anchor = anchor_ms("1m", -RUN_IN_MS, at_ms)
    quarter = np.datetime64(anchor + RUN_IN_MS, "ms")
    assert quarter <= np.datetime64(at_ms, "ms") < quarter.astype("datetime64[M]") + 3
    assert quarter == quarter.astype("datetime64[M]") and quarter.astype("datetime64[M]").astype(int) % 3 == 0


@pytest.mark.parametrize("timeframe", ["3m", "1h", "1d"])
def test_a_slower_bot_starts_where_its_history_does(timeframe: str) -> None:
    assert anchor_ms(timeframe, 123, parse_time("2025-05-05")) == 123


def test_a_minute_bot_never_starts_before_its_history() -> None:
    since = parse_time("2025-05-01")
    assert anchor_ms("1m", since, parse_time("2025-05-05")) == since


def test_data_that_starts_late_is_said_once() -> None:
    candles = walk(50)
    late = anchored(candles, history_start_ms=int(candles.open_ms[0]) - 2 * HOUR)
    assert len(late.notes) == 1 and "2025-03-07T22:00:00Z" in late.notes[0]
    assert anchored(late, history_start_ms=int(candles.open_ms[0]) - 2 * HOUR).notes == late.notes
    assert anchored(candles, history_start_ms=int(candles.open_ms[0]) - 1).notes == ()


def test_no_bar_since_the_history_start_is_an_error() -> None:
    candles = walk(5)
    with pytest.raises(DataError, match="no bars since history_start 2025-03-08T05:00:00Z"):
        anchored(candles, history_start_ms=int(candles.open_ms[-1]) + HOUR)
    with pytest.raises(DataError, match="no bars since"):
        anchored(candles[:0], history_start_ms=0)


def test_nothing_has_a_value_when_history_starts_after_the_data() -> None:
    candles = walk(5)
    assert list(segments(candles, history_start_ms=int(candles.open_ms[-1]) + 1)) == []
    assert list(segments(candles[:0])) == []
    assert np.isnan(over_history(lambda c: c.close, candles, history_start_ms=int(candles.open_ms[-1]) + 1)).all()
