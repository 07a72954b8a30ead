"""The chart holds what the run did: every fill, every extreme, every line the strategy looked at; and nothing of anybody else."""

import base64
import html as markup
import json
import re
import zlib
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import autotrader as at
from autotrader.core.errors import ConfigError, DataError
from autotrader.core.market import Candles
from autotrader.desk.display import BacktestResult
from autotrader.engine.metrics import round_trips
from autotrader.features.columns import Scale
from autotrader.plots.canvas import drawdowns
from autotrader.plots.chart import Numbers, chart_of, encoded
from autotrader.strategy.setup import simulate

MINUTE, SINCE = 60_000, 1_741_392_000_000  # 2025-03-08
YEAR = 525_600


def decoded(columns: list[dict[str, Any]], numbers: str) -> dict[str, np.ndarray]:
    "What the script reads, by the same rules."
    data, at_byte = np.frombuffer(zlib.decompress(base64.b64decode(numbers)), np.uint8), 0
    found: dict[str, np.ndarray] = {}
    for told in columns:
        n, width = told["n"], told["width"]
        planes = data[at_byte : at_byte + n * width].reshape(width, n).astype(np.int64)
        whole = sum((planes[k] << (8 * k) for k in range(width)), np.zeros(n, np.int64))
        at_byte += n * width
        near: Any = 0.0
        if "over" in told:
            other = found[told["over"]]
            near = other[np.maximum(np.arange(n) - told["back"], 0)]
        else:
            whole = np.cumsum(np.where(whole % 2, -(whole + 1) // 2, whole // 2))
        found[told["name"]] = np.where(whole == 0, np.nan, told["base"] + (whole - 1) * told["step"] + near)
    assert at_byte == len(data)
    return found


def inside(text: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    spec = json.loads(markup.unescape(re.findall(r'data-spec="([^"]*)"', text)[0]))
    return spec, decoded(spec["columns"], re.findall(r'data-numbers="([^"]*)"', text)[0])


@given(
    values=arrays(np.float64, st.integers(0, 50), elements=st.floats(-1e5, 1e5) | st.just(np.nan)),
    back=st.integers(0, 1),
)
def test_numbers_come_back_to_half_a_step(values: np.ndarray, back: int) -> None:
    near = np.linspace(5.0, -7.0, len(values))
    columns = {"near": Numbers(values=near, step=0.01), "own": Numbers(values=values, step=0.01)}
    columns["over"] = Numbers(values=values, step=0.01, over="near", back=back)
    found = decoded(*encoded(columns))
    np.testing.assert_allclose(found["own"], values, atol=0.0051)
    np.testing.assert_allclose(found["over"], values, atol=0.0151)


def market(n: int, seed: int = 7) -> Candles:
    rng = np.random.default_rng(seed)
    close = (80_000 * np.exp(np.cumsum(rng.normal(0, 8e-4, n)))).round(1)
    opened = np.r_[80_000.0, close[:-1]]
    high, low = (
        np.maximum(opened, close) + rng.integers(0, 300, n) / 10,
        np.minimum(opened, close) - rng.integers(0, 300, n) / 10,
    )
    stamps = SINCE + MINUTE * np.arange(n)
    funding = (stamps[::480], np.full(len(stamps[::480]), 1e-4))
    return Candles(
        venue="bybit", symbol="BTCUSDT", timeframe="1m", open_ms=stamps, open=opened, high=high, low=low, close=close,
        volume=np.full(n, 1e6), funding=funding,
    )  # fmt: skip


BOT = {"sizing": "equity_frac", "equity_frac": 0.5}
COSTS = {"participation_cap": 0.0, "taker_fee_bps": 0.1, "slippage_bps": 0.1}


def played(strategy: Any, candles: Candles, **bot: Any) -> BacktestResult:
    return at.backtest(strategy, candles, bot=BOT | bot, costs=COSTS, config="nowhere.toml")


@pytest.fixture(scope="module")
def result() -> BacktestResult:
    return played("ema_trend", market(12_000), strategy_params={"sl_ratio": 12.0})  # held long enough to be charged


@pytest.fixture(scope="module")
def drawn(result: BacktestResult) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    return inside(result.plot().html)


def test_every_fill_has_its_mark_at_its_time_and_price(result: BacktestResult, drawn: Any) -> None:
    (spec, columns), fills = drawn, result.fills
    assert len(fills) > 100
    np.testing.assert_array_equal(columns["fill_when"], fills.time.astype("datetime64[ms, UTC]").astype(np.int64))
    np.testing.assert_allclose(columns["fill_price"], fills.price, atol=0.0051)
    np.testing.assert_allclose(columns["fill_qty"], fills.quantity, atol=1e-9)
    np.testing.assert_allclose(columns["fill_pnl"], fills.pnl - fills.fee, atol=0.00051)
    assert [spec["reasons"][str(int(code))] for code in columns["fill_reason"]] == list(fills.reason)
    assert list(np.where(columns["fill_side"] > 0, "buy", "sell")) == list(fills.side)
    np.testing.assert_array_equal(columns["trip"][columns["fill_trip"].astype(int)], fills.trip)


def test_trips_funding_and_the_money_are_those_of_the_result(result: BacktestResult, drawn: Any) -> None:
    (spec, columns), trades = drawn, result.trades
    count = len(trades)
    np.testing.assert_array_equal(columns["trip"][:count], trades.index)
    np.testing.assert_allclose(columns["trip_pnl"][:count], trades.pnl, atol=0.00051)
    np.testing.assert_allclose(columns["trip_entry"][:count], trades.entry, atol=0.0051)
    assert len(columns["trip"]) == count + (result.open_position is not None)
    assert len(result.payments) > 0
    np.testing.assert_allclose(columns["paid_amount"], result.payments.amount, atol=0.000051)
    np.testing.assert_allclose(columns["equity"], result.equity, atol=0.006)
    assert (
        spec["hold"] * result.part.tape.open[0] * 0.1 == pytest.approx(spec["capital"]) == result.part.wallet_e8 / 1e8
    )


def test_a_stop_rests_until_it_is_moved_or_its_trip_is_over() -> None:
    result = played("ema_trend", market(6_000), strategy_params={"sl_kind": "trailing", "trail_step": 0.2})
    _, columns = inside(result.plot().html)
    stops, trips = result.run.stops, result.trades
    assert len(stops) > 1.5 * len(trips)
    np.testing.assert_array_equal(columns["stop_when"], stops["ts_ms"])
    np.testing.assert_allclose(columns["stop_price"], stops["stop"] * 0.1, atol=0.051)
    np.testing.assert_allclose(columns["target_price"], stops["target"] * 0.1, atol=0.051)
    hit = {fill.trip: fill.price for fill in result.fills.itertuples() if fill.reason == "target"}
    assert hit and all(
        abs(price / stops["target"][stops["trip"] == trip][-1] / 0.1 - 1) < 0.01 for trip, price in hit.items()
    )
    for trip, trade in trips.iterrows():
        own = np.flatnonzero(stops["trip"] == trip)
        ends = columns["stop_until"][own]
        assert list(ends[:-1]) == list(columns["stop_when"][own[1:]])
        assert ends[-1] == trade.closed.value // 1_000_000


@pytest.mark.parametrize("finest", [20_000, 3_000, 170])
def test_no_extreme_gets_lost_however_few_the_bars(result: BacktestResult, finest: int) -> None:
    spec, columns = inside(chart_of(result, finest=finest).html)
    tape, equity = result.part.tape, result.equity.to_numpy()
    fall = drawdowns(np.r_[result.part.wallet_e8 / 1e8, equity])[1:]
    first = np.searchsorted(tape.open_ms, columns["when"])
    assert len(first) <= finest and spec["is_joined"] == (finest < 12_000)
    for i, (a, b) in enumerate(pairwise([*first, len(tape.open_ms)])):
        assert columns["low"][i] == pytest.approx(tape.low[a:b].min() * 0.1)
        assert columns["high"][i] == pytest.approx(tape.high[a:b].max() * 0.1)
        assert columns["equity_low"][i] == pytest.approx(equity[a:b].min(), abs=0.02)
        assert columns["equity_high"][i] == pytest.approx(equity[a:b].max(), abs=0.02)
        assert columns["fall"][i] == pytest.approx(fall[a:b].min(), abs=1.1e-5)


def test_the_lines_are_what_the_strategy_looked_at(result: BacktestResult, drawn: Any) -> None:
    spec, columns = drawn
    assert [(line["label"], line["panel"]) for line in spec["lines"]] == [
        ("ema_12", "price"),
        ("ema_26", "price"),
        ("atr_14", "width"),
    ]
    for bar in (200, 5_000, 11_999):
        told = result.part.explain(bar)
        for line in spec["lines"]:
            assert columns[line["high"]][bar] == pytest.approx(told[line["label"]], rel=2e-5, abs=0.01)
    average = at.compute("ema", market(12_000), period=26)
    np.testing.assert_allclose(columns["high_1"], average, rtol=2e-5)
    assert np.isnan(average).any() and np.isfinite(average).any()


def test_an_idea_of_ones_own_need_not_say_what_it_looks_at() -> None:
    def mine(candles: Candles) -> Any:
        rsi, average = at.compute("rsi", candles, period=9), at.compute("ema", candles, period=50)
        return at.from_rules(
            long=(rsi < 35) & (candles.close > average), exit_long=rsi > 60, short=rsi < 0, exit_short=rsi < 0
        )

    spec, _ = inside(played(at.own(mine, warmup=60), market(3_000)).plot().html)
    assert [(line["label"], line["panel"]) for line in spec["lines"]] == [("rsi_9", "percent"), ("ema_50", "price")]


@pytest.mark.parametrize("scale", Scale)
def test_a_column_of_any_scale_has_a_place(scale: Scale) -> None:
    known = {"open", "high", "low", "close", "volume", "open_ms"}
    specs = [spec for spec in at.columns().values() if spec.scale == scale and set(spec.inputs) <= known]

    def all_of_it(candles: Candles) -> Any:
        for spec in specs:
            at.compute(spec.name, candles)
        never = candles.close < 0
        return at.from_rules(long=never, short=never, exit_long=never, exit_short=never)

    spec, columns = inside(played(at.own(all_of_it, warmup=0), market(1_500)).plot().html)
    assert {line["panel"] for line in spec["lines"]} <= {scale.value}
    assert len(spec["lines"]) == sum(each.source != "candles" for each in specs)
    for line in spec["lines"]:
        low, high = columns[line["low"]], columns[line["high"]]
        assert (low <= high + 1e-9 * np.abs(high)).all() or np.isnan(low).any()


def test_slower_decisions_on_finer_bars_hold_their_line_until_the_next_close() -> None:
    fine = market(6_000)
    coarse = at.load("EURUSD", venue="sample")[:100]
    when = SINCE + 3_600_000 * np.arange(100)
    of_hour = {
        "open": fine.open[::60],
        "close": fine.close[59::60],
        "high": fine.high.reshape(100, 60).max(1),
        "low": fine.low.reshape(100, 60).min(1),
    }
    hours = replace(coarse, venue="bybit", symbol="BTCUSDT", open_ms=when, volume=np.full(100, 1e6), **of_hour)
    result = at.backtest("ema_trend", hours, bot=BOT, costs=COSTS, fine=fine, config="nowhere.toml")
    _, columns = inside(result.plot().html)
    told = result.part.explain(70)["ema_12"]
    closes = int(np.searchsorted(columns["when"], when[70] + 3_600_000)) - 1
    np.testing.assert_allclose(columns["high_0"][closes : closes + 60], told, rtol=2e-5)
    assert columns["high_0"][closes - 1] == pytest.approx(result.part.explain(69)["ema_12"], rel=2e-5)


def test_a_position_built_in_parts_shows_how_much_of_it_is_held() -> None:
    split = {"enabled": True, "count": 3, "method": "price", "price_gap_percent": 0.05, "expiry_seconds": 7_200}
    spec, columns = inside(played("ema_trend", market(6_000), split_entry=split).plot().html)
    assert spec["is_scaled"] and columns["fill_opens"].sum() > len(columns["trip"])
    held = np.cumsum(columns["fill_side"] * columns["fill_qty"])
    np.testing.assert_allclose(columns["fill_held"], held, atol=1e-9)
    assert not inside(played("ema_trend", market(6_000)).plot().html)[0]["is_scaled"]


def test_a_trade_is_shown_with_what_was_around_it(result: BacktestResult) -> None:
    trade = result.trades.iloc[5]
    spec, columns = inside(result.plot(trade=trade.name).html)
    opened, closed = (when.value // 1_000_000 for when in (trade.opened, trade.closed))
    assert spec["since"] < opened - 59 * MINUTE and closed + 59 * MINUTE < spec["until"]
    assert trade.name in columns["trip"] and len(columns["when"]) < 1_000
    whole, _ = inside(result.plot(since="2025-03-10", until="2025-03-11").html)
    assert (whole["until"] - whole["since"]) == 1_440 * MINUTE


def test_the_file_does_not_grow_with_the_bars() -> None:
    short, long = (played("ema_trend", market(n)).plot().html for n in (YEAR // 5, YEAR))
    assert len(long) < 3_000_000 and len(long) < 2.5 * len(short)
    assert "The finest bars in this file span 5 minutes, joined from 525,600 of 1 minute" in long
    assert "The finest bars" not in short


def test_when_there_are_too_many_fills_the_largest_trips_stay_whole(
    result: BacktestResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotrader.plots.chart._MOST_FILLS", 50)
    html = result.plot().html
    _, columns = inside(html)
    trips = round_trips(result.run)
    left_out = len(trips) + (result.open_position is not None) - len(columns["trip"])
    assert 40 < len(columns["fill_when"]) <= 50
    assert f"{left_out:,} round trips that won or lost least are not marked" in html
    assert np.abs(trips["pnl_e8"]).max() / 1e8 == pytest.approx(np.abs(columns["trip_pnl"]).max(), abs=0.001)


def test_it_asks_nobody_and_words_stay_words(result: BacktestResult) -> None:
    evil = replace(result.part, strategy='"><script>alert(1)</script>')
    text = BacktestResult(part=evil, run=result.run).plot().html
    assert "<script>alert" not in text and text.count("<script>") == 1
    assert set(re.findall(r"https?://[^\"'<\s]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(
        r"<(link|img|iframe|object|embed|form|base)\b|@import|url\(|\b(fetch|XMLHttpRequest|WebSocket)\b", text
    )


def test_a_market_without_a_trade_has_a_chart_too() -> None:
    quiet = at.own(lambda candles: at.from_rules(long=candles.close < 0, short=candles.close < 0, exit_long=candles.close < 0, exit_short=candles.close < 0), warmup=0)  # fmt: skip
    _, columns = inside(played(quiet, market(50)).plot().html)
    assert len(columns["fill_when"]) == 0 and len(columns["when"]) == 50


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"trade": 10**6}, "there is no round trip 1000000, the numbers are 1 to"),
        ({"since": "2031-01-01"}, "no bar between since='2031-01-01' and until=None"),
        ({"since": "2025-03-09", "trade": 3}, "has its own period"),
        ({"since": "yesterday"}, "since"),
    ],
)
def test_a_piece_that_is_not_there_is_one_line(asked: dict[str, Any], line: str, result: BacktestResult) -> None:
    with pytest.raises(ConfigError, match=re.escape(line)) as told:
        result.plot(**asked)
    assert "\n" not in str(told.value)
    with pytest.raises(DataError, match="played without a curve"):
        BacktestResult(part=result.part, run=simulate(result.part, curve=False)).plot()
