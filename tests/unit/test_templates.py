"""The hand-written strategies do what their text says, and anything that keeps the contract is a strategy."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotrader.core.clock import parse_time
from autotrader.core.errors import ConfigError, DataError
from autotrader.core.market import Candles
from autotrader.data.sample import eurusd
from autotrader.engine.signals import Signals, from_rules
from autotrader.features.columns import column, compute
from autotrader.strategy.templates import (
    TEMPLATES,
    DonchianBreakout,
    EmaTrend,
    RsiReversion,
    Strategy,
    decide,
    explain,
    make,
    name_of,
    names,
    own,
    parameters,
)

HOUR = 3_600_000

BARE = [name for name in names() if name != "ml_probability"]  # which has nothing to say without a model


def candles_of(close: np.ndarray, reach: float = 0.0) -> Candles:
    close = np.asarray(close, dtype=np.float64)
    return Candles(
        venue="test",
        symbol="MADE",
        timeframe="1h",
        open_ms=parse_time("2025-03-08") + HOUR * np.arange(len(close)),
        open=close,
        high=close + reach,
        low=close - reach,
        close=close,
        volume=np.ones(len(close)),
    )


def walk(n: int, seed: int) -> Candles:
    rng = np.random.default_rng(seed)
    return candles_of(100.0 + np.cumsum(rng.normal(scale=0.5, size=n) + 0.1 * np.sin(np.arange(n) / 30.0)), reach=0.3)


def bars_where(column: np.ndarray, value: int) -> list[int]:
    return np.flatnonzero(column == value).tolist()


def test_a_trend_is_entered_once_and_left_when_the_averages_cross_back() -> None:
    flat, up, down = np.full(150, 100.0), np.linspace(100.0, 150.0, 100), np.linspace(150.0, 100.0, 100)
    signals = EmaTrend().signals(candles_of(np.concatenate([flat, up, down]), reach=0.5))
    entries, falls = bars_where(signals.direction, 1), bars_where(signals.direction, -1)
    assert len(entries) == 1 and 150 < entries[0] < 160
    assert len(falls) == 1 and 250 < falls[0] < 290
    out = bars_where(signals.exits, 1)
    assert out and 250 < out[0] <= falls[0]  # crossed back before it counts as a trend the other way


def test_a_wider_gap_enters_later_and_less_often() -> None:
    candles = walk(1500, seed=1)
    first, count = [], []
    for gap in (0.0, 0.5, 1.5):
        entries = np.flatnonzero(EmaTrend(gap_atr=gap).signals(candles).direction)
        first.append(entries[0])
        count.append(len(entries))
    assert count[0] > count[1] > count[2] > 0 and first[0] < first[2]


def test_reversion_waits_until_the_rsi_leaves_its_extreme() -> None:
    candles = walk(2000, seed=2)
    rsi, signals = compute("rsi", candles, period=14), RsiReversion().signals(candles)
    longs, shorts = bars_where(signals.direction, 1), bars_where(signals.direction, -1)
    assert longs and shorts
    assert all(rsi[i - 1] <= 30.0 < rsi[i] for i in longs) and all(rsi[i - 1] >= 70.0 > rsi[i] for i in shorts)
    assert bars_where(signals.exits & 1, 1) == np.flatnonzero(rsi >= 50.0).tolist()
    assert bars_where(signals.exits & 2, 2) == np.flatnonzero(rsi <= 50.0).tolist()


def test_a_breakout_is_a_close_beyond_the_bars_before() -> None:
    close = np.full(60, 100.0)
    close[30:33] = 102.0, 103.0, 104.0  # breaks out, and goes on: one signal
    close[33:] = 90.0
    signals = DonchianBreakout(channel=20, exit_channel=5).signals(candles_of(close, reach=1.0))
    assert bars_where(signals.direction, 1) == [30]
    assert bars_where(signals.exits & 1, 1) == [33]
    assert bars_where(signals.direction, -1) == [33]


def test_touching_the_channel_is_not_breaking_it() -> None:
    close = np.full(60, 100.0)
    close[30] = 101.0  # the high of the bars before
    assert not DonchianBreakout().signals(candles_of(close, reach=1.0)).direction.any()


@pytest.mark.parametrize("name", BARE)
def test_a_market_that_stands_still_is_left_alone(name: str) -> None:
    signals = decide(make(name), candles_of(np.full(400, 7.0)))
    assert not signals.direction.any()


@pytest.mark.parametrize("name", BARE)
def test_a_condition_that_already_holds_at_the_start_is_no_signal(name: str) -> None:
    strategy = make(name)
    rising = candles_of(np.linspace(100.0, 400.0, 500), reach=0.01)
    assert not strategy.signals(rising).direction.any()


@pytest.mark.parametrize("name", BARE)
def test_warm_up_is_short_by_not_one_bar(name: str) -> None:
    "Over many histories some decision falls on the first bar after the warm-up, and none before."
    strategy = make(name, {"gap_atr": 0.0} if name == "ema_trend" else {})
    firsts = [np.flatnonzero(strategy.signals(walk(strategy.warmup + 40, seed)).direction) for seed in range(400)]
    assert min(int(found[0]) for found in firsts if len(found)) == strategy.warmup


@pytest.mark.parametrize("name", BARE)
def test_what_explains_a_decision_is_enough_to_take_it_again(name: str) -> None:
    candles = walk(900, seed=3)
    strategy = make(name)
    signals = decide(strategy, candles)
    decisions = np.flatnonzero(signals.direction)
    quiet = np.flatnonzero(signals.direction == 0)[strategy.warmup :: 50]
    assert len(decisions) > 5
    for i in [*decisions.tolist(), *quiet.tolist()]:
        told = explain(strategy, candles, i)
        labels = {role: column(of).label(**params) for role, (of, params) in strategy.reads().items()}
        seen = {
            role: np.array([told[f"{label}_before"], told[label]])
            for role, label in (labels | {"close": "close"}).items()
        }
        again = strategy.rules(seen)
        assert (again.direction[-1], again.exits[-1]) == (signals.direction[i], signals.exits[i])


def test_an_explanation_comes_from_the_anchored_history() -> None:
    candles = walk(600, seed=4)
    since = int(candles.open_ms[300])
    told = explain(make("ema_trend"), candles, 420, history_start_ms=since)
    assert told == explain(make("ema_trend"), candles[300:421], 120)
    assert told["close"] == candles.close[420] and told["close_before"] == candles.close[419]
    assert told["ema_26"] != explain(make("ema_trend"), candles, 420)["ema_26"]


@pytest.mark.parametrize("i", [-1, 50])
def test_a_bar_that_does_not_exist_is_not_explained(i: int) -> None:
    candles = walk(50, seed=5)
    for told in (lambda: explain(make("ema_trend"), candles, i), lambda: make("ema_trend").explain(candles, i)):
        with pytest.raises(DataError, match=f"ema_trend cannot explain bar {i}: the candles hold bars 0 to 49"):
            told()


@pytest.mark.parametrize("name", names())
def test_a_strategy_made_by_name_is_the_one_of_that_name(name: str) -> None:
    strategy = make(name)
    assert strategy.name == name and isinstance(strategy, TEMPLATES[name])
    assert strategy.params == {each.name: each.default for each in parameters(name)}
    assert make(name, strategy.params) == strategy
    assert make(name, {key: float(value) for key, value in strategy.params.items()}).params == strategy.params


@pytest.mark.parametrize("name", names())
@given(data=st.data())
def test_every_allowed_combination_makes_a_strategy_or_says_why_not(name: str, data: st.DataObject) -> None:
    values = {
        each.name: data.draw((st.integers if each.is_whole else st.floats)(each.low, each.high))
        for each in parameters(name)
    }
    try:
        strategy = make(name, values)
    except ConfigError as why:
        assert "must be less than" in str(why)
    else:
        assert strategy.warmup > 0 and len(strategy.signals(walk(30, seed=6))) == 30


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        (
            "donchian",
            {},
            "strategy 'donchian' is unknown: did you mean 'donchian_breakout'? there is ema_trend, rsi_rev",
        ),
        ("macd", {}, "strategy 'macd' is unknown: "),
        ("ema_trend", {"slwo": 30}, "parameter of ema_trend 'slwo' is unknown: did you mean 'slow'?"),
        ("ema_trend", {"tp_ratio": 2}, "parameter of ema_trend 'tp_ratio' is unknown"),
        ("ema_trend", {"fast": 1}, "ema_trend.fast must lie between 2 and 200, was 1"),
        ("ema_trend", {"fast": 12.5}, "ema_trend.fast must be a whole number, was 12.5"),
        ("ema_trend", {"fast": 26}, "ema_trend.fast must be less than ema_trend.slow (26), was 26"),
        ("ema_trend", {"gap_atr": -1}, "ema_trend.gap_atr must lie between 0 and 5, was -1"),
        ("rsi_reversion", {"oversold": 50}, "rsi_reversion.oversold must lie between 1 and 49, was 50"),
        ("rsi_reversion", {"overbought": "70"}, "rsi_reversion.overbought must be a number, was '70'"),
        ("donchian_breakout", {"exit_channel": 20}, "exit_channel must be less than"),
    ],
)
def test_a_wrong_strategy_is_one_clear_line(name: str, params: Mapping[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(name, params)
    assert message in str(caught.value) and "\n" not in str(caught.value)


class Notebook:
    "What a person types into a cell: no base class, no name, no parameters."

    warmup = 10

    def signals(self, candles: Candles) -> Signals:
        always = np.ones(len(candles), dtype=bool)
        return from_rules(long=always, short=~always, exit_long=~always, exit_short=always)


def test_a_class_from_a_notebook_is_a_strategy() -> None:
    strategy: Strategy = Notebook()
    signals = decide(strategy, walk(30, seed=7))
    assert bars_where(signals.direction, 1) == list(range(10, 30))
    assert bars_where(signals.exits, 2) == list(range(10, 30))
    assert name_of(strategy) == "Notebook" and explain(strategy, walk(30, seed=7), 3) == {}


def test_a_plain_function_is_a_strategy_once_it_says_its_warm_up() -> None:
    def mine(candles: Candles) -> Signals:
        return Notebook().signals(candles)

    strategy = own(mine, warmup=4)
    assert name_of(strategy) == "mine"
    assert bars_where(decide(strategy, walk(20, seed=8)).direction, 1) == list(range(4, 20))
    with pytest.raises(ConfigError, match=r"mine is not a strategy: .* wrap a function with own\(mine, warmup="):
        decide(mine, walk(20, seed=8))


@pytest.mark.parametrize("warmup", [-1, 1.5, True, None])
def test_a_warm_up_is_a_count_of_bars(warmup: object) -> None:
    with pytest.raises(ConfigError, match="warmup must be a whole number of bars"):
        own(Notebook().signals, warmup=warmup)


def test_what_a_strategy_returns_is_checked() -> None:
    short = own(lambda bars: Notebook().signals(bars[1:]), warmup=0)
    with pytest.raises(ConfigError, match=r"must return one value per bar \(20\), was 19"):
        decide(short, walk(20, seed=9))
    nothing = replace(short, function=lambda bars: bars.close > 1, name="nothing")
    with pytest.raises(ConfigError, match=r"nothing\.signals must return Signals, was ndarray"):
        decide(nothing, walk(20, seed=9))


def test_nothing_is_decided_before_the_history_starts_or_while_it_warms_up() -> None:
    candles = walk(60, seed=10)
    signals = decide(Notebook(), candles, history_start_ms=int(candles.open_ms[25]))
    assert bars_where(signals.direction, 1) == list(range(35, 60))
    assert not signals.exits[:35].any() and not signals.confidence[:35].any()
    assert not decide(Notebook(), candles[:8]).direction.any()


def round_trips(candles: Candles, signals: Signals, *, sl_ratio: float, tp_ratio: float) -> int:
    "Completed trades with a stop and a target around the next open: a rough count, no fees, no sizes."
    atr, side, trips, stop, target = compute("atr", candles), 0, 0, 0.0, 0.0
    for i in range(1, len(candles)):
        wish, leave = signals.direction[i - 1], signals.exits[i - 1]
        if side and (wish == -side or leave & (1 if side > 0 else 2)):
            side, trips = 0, trips + 1
        if not side and wish and np.isfinite(atr[i - 1]):
            side, away = int(wish), sl_ratio * atr[i - 1]
            stop, target = candles.open[i] - side * away, candles.open[i] + side * away * tp_ratio
        worst, best = (candles.low[i], candles.high[i]) if side > 0 else (candles.high[i], candles.low[i])
        if side and (side * worst <= side * stop or side * best >= side * target):
            side, trips = 0, trips + 1
    return trips


@pytest.mark.parametrize("ratios", [(1.5, 1.5), (2.0, 2.0)])
@pytest.mark.parametrize("name", BARE)
def test_the_embedded_sample_trades(name: str, ratios: tuple[float, float]) -> None:
    candles = eurusd()
    trips = round_trips(candles, decide(make(name), candles), sl_ratio=ratios[0], tp_ratio=ratios[1])
    print(f"{name} EURUSD {ratios}: {trips} round trips")
    assert trips >= 50


@pytest.mark.realdata
@pytest.mark.parametrize("ratios", [(1.5, 1.5), (2.0, 2.0)])
@pytest.mark.parametrize(
    ("name", "symbol"), [("ema_trend", "BTCUSDT"), ("rsi_reversion", "ETHUSDT"), ("donchian_breakout", "SOLUSDT")]
)
def test_a_year_of_perpetuals_trades(data_dir: Path, name: str, symbol: str, ratios: tuple[float, float]) -> None:
    frame = pd.read_parquet(data_dir / "bybit_perp_1h.parquet").query("symbol == @symbol").sort_values("open_time")
    columns = {
        column: frame[column].to_numpy(np.float64, copy=True) for column in ("open", "high", "low", "close", "volume")
    }
    stamps = frame["open_time"].dt.as_unit("ms").astype(np.int64).to_numpy(copy=True)
    whole = Candles(venue="bybit", symbol=symbol, timeframe="1h", open_ms=stamps, **columns)
    candles = whole.between(parse_time("2025-03-08"), parse_time("2026-03-05"))
    trips = round_trips(candles, decide(make(name), candles), sl_ratio=ratios[0], tp_ratio=ratios[1])
    print(f"{name} {symbol} {ratios}: {trips} round trips")
    assert trips >= 100
