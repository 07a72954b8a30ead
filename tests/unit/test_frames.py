"""Bars in a DataFrame become candles and come back; what a person does wrong there is told in one line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import autotrader as at
from autotrader.config.settings import load, write_template
from autotrader.core.errors import AutotraderError, ConfigError, DataError
from autotrader.core.market import COLUMNS
from autotrader.desk.rules import tell
from autotrader.store.database import open_store
from autotrader.store.series import declared_of

HOURS = pd.date_range("2024-01-01", periods=200, freq="h", tz="UTC")
WALK = 100.0 + np.random.default_rng(3).normal(0, 0.5, 200).cumsum()
FRAME = pd.DataFrame(
    {"open": WALK, "high": WALK + 1, "low": WALK - 1, "close": WALK + 0.2, "volume": 1e6}, index=HOURS
).round(2)


@given(
    st.sampled_from(["1min", "5min", "15min", "1h", "4h", "1D"]),
    st.sampled_from(["UTC", "Europe/Berlin", "Asia/Tokyo", "America/New_York"]),
    st.permutations(COLUMNS),
    st.sampled_from([str.upper, str.title, str.lower, lambda name: f" {name} "]),
    st.sampled_from(["ms", "us", "ns"]),
)
def test_there_and_back_is_the_same(
    step: str, zone: str, order: list[str], spell: Callable[[str], str], unit: str
) -> None:
    index = pd.date_range("2024-03-01", periods=len(FRAME), freq=step, tz="UTC").tz_convert(zone).as_unit(unit)
    frame = FRAME.set_index(index)[order].rename(columns=spell)
    candles = at.candles(frame, symbol="HYPE/USDT")
    back = candles.to_frame()
    assert (candles.symbol, candles.bar_ms) == ("HYPEUSDT", int(pd.Timedelta(step).total_seconds() * 1000))
    assert back.index.equals(index.tz_convert("UTC").as_unit("ms")) and list(back.columns) == list(COLUMNS)
    assert (back.to_numpy() == FRAME.to_numpy()).all()


def buy_where(wanted: Callable[[at.Candles], np.ndarray]) -> object:
    "A strategy that goes long there and stays."

    def signals(candles: at.Candles) -> at.Signals:
        never = np.zeros(len(candles), bool)
        return at.from_rules(long=wanted(candles), short=never, exit_long=never, exit_short=never)

    return at.own(signals, warmup=0)


def test_other_columns_are_extras_that_a_strategy_reads() -> None:
    candles = at.candles(FRAME.assign(mood=np.sin(np.arange(200))), symbol="HYPEUSDT")
    found = at.backtest(buy_where(lambda bars: bars.extras["mood"] > 0.9), candles)
    first = found.fills["time"].iloc[0]
    assert candles.to_frame()["mood"].loc[: first - pd.Timedelta("1h")].iloc[-1] > 0.9


def test_funding_beside_a_frame_is_charged_to_the_cent() -> None:
    flat = pd.DataFrame({name: 100.0 for name in COLUMNS}, index=HOURS).assign(high=100.5, low=99.5, volume=1e6)
    rates = pd.Series(0.0001, index=pd.date_range("2024-01-01", periods=25, freq="8h", tz="UTC") + pd.Timedelta("7ms"))
    bot = {
        "sizing": "lot",
        "base_lot": 5.0,
        "dynamic_sizing": {"enabled": False},
        "strategy_params": {"sl_ratio": 20.0},
    }
    candles = at.candles(flat, symbol="HYPEUSDT", funding=rates)
    found = at.backtest(
        buy_where(lambda bars: np.arange(len(bars)) >= 40), candles, bot=bot, costs={"slippage_bps": 0, "spread_bps": 0}
    )
    opened = pd.Timestamp(found.open_position["opened"])
    due = int((rates.index.floor("h") > opened).sum())
    assert due > 10 and len(found.payments) == due
    assert found.payments["amount"].to_numpy() == pytest.approx(-0.05)  # 5 × 100 × 0.0001


def test_daily_returns_compound_to_the_result() -> None:
    found = at.backtest("ema_trend", at.load("EURUSD", venue="sample"))
    assert str(found.returns.index.tz) == "UTC" and found.returns.index.is_unique
    assert (1 + found.returns).prod() - 1 == pytest.approx(found.stats.return_frac, abs=1e-12)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda f: f.tz_localize(None), "has no zone"),
        (lambda f: f.iloc[::-1], "must grow"),
        (lambda f: pd.concat([f, f.iloc[-1:]]), "drop what is there twice"),
        (lambda f: f.drop(columns="close"), "lacks close, it has open, high, low, volume"),
        (lambda f: f.assign(Close=1.0), "close are there twice"),
        (lambda f: f.assign(close=np.nan), "missing or not positive"),
        (lambda f: f.assign(high=1.0), "does not contain open and close"),
        (lambda f: f.assign(volume=-1.0), "volume is missing or negative"),
        (lambda f: f.assign(note="up"), "column 'note' must hold numbers"),
        (lambda f: f.shift(freq="1s"), "off the 1h grid"),
        (lambda f: f.iloc[:0], "no bars|single bar|must"),
        (lambda f: f.iloc[::7], "420 minutes apart"),
        (lambda f: f.to_numpy(), "must be a pandas DataFrame, was ndarray"),
        (lambda f: f.reset_index(), "must be times"),
    ],
)
def test_a_wrong_frame_is_told_in_one_line(wrong: Callable, told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        at.candles(wrong(FRAME), symbol="HYPEUSDT")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 240


def test_what_a_desk_is_told_of_a_market_holds_for_its_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain = at.candles(FRAME, symbol="HYPEUSDT")
    assert plain.instrument is None
    write_template(tmp_path)
    told = '\n[[instruments]]\nvenue = "bybit"\nsymbol = "HYPE/USDT"\ntaker_fee_bps = 10\nmaker_fee_bps = 4\n'
    (tmp_path / "config.toml").write_text((tmp_path / "config.toml").read_text() + told)
    settings = load(tmp_path / "config.toml")
    open_store(settings.database_url, folder=tmp_path, create=True).close()
    candles = at.candles(FRAME, symbol="HYPEUSDT")
    assert candles.instrument is not None and str(candles.instrument.rules.taker_fee) == "0.001"
    assert at.instrument(candles).rules == candles.instrument.rules
    assert at.candles(FRAME, symbol="DOGEUSDT").instrument is None
    dear, cheap = (at.backtest("ema_trend", each).stats for each in (candles, plain))
    assert dear.trades == 0 or dear.fees > cheap.fees


def test_bars_are_not_played_under_another_markets_name() -> None:
    candles = at.candles(FRAME, symbol="HYPEUSDT")
    other = at.instrument(at.candles(FRAME, symbol="DOGEUSDT"))
    with pytest.raises(DataError, match="the candles are bybit HYPEUSDT, `instrument` is bybit DOGEUSDT"):
        at.backtest("ema_trend", candles, instrument=other)


def test_a_tick_that_the_bars_contradict_is_noted() -> None:
    candles = at.candles(FRAME, symbol="HYPEUSDT")
    fine, coarse = (
        at.backtest("ema_trend", candles, instrument=at.instrument(candles, tick_size=t)) for t in ("0.01", "0.03")
    )
    assert not any("multiple of the tick" in note for note in fine.part.notes)
    assert any("closes are no multiple of the tick, 0.03" in note for note in coarse.part.notes)


def test_what_the_configuration_tells_is_not_told_again_in_vain(tmp_path: Path) -> None:
    write_template(tmp_path)
    told = '\n[[instruments]]\nvenue = "bybit"\nsymbol = "HYPE/USDT"\ntaker_fee_bps = 4.5\n'
    (tmp_path / "config.toml").write_text((tmp_path / "config.toml").read_text() + told)
    settings = load(tmp_path / "config.toml")
    with open_store(settings.database_url, folder=tmp_path, create=True, declared=settings.instruments) as store:
        with pytest.raises(
            ConfigError, match=r"config.toml says taker_fee_bps = 4.5 of bybit HYPEUSDT and comes first"
        ):
            tell(store, "bybit", "HYPEUSDT", {"taker_fee_bps": "10"}, now_ms=0)
        tell(store, "bybit", "HYPEUSDT", {"maker_fee_bps": "10"}, now_ms=0)
        assert [str(each.maker_fee_bps) for each in [declared_of(store, "bybit", "HYPEUSDT")] if each] == ["10"]


@pytest.mark.parametrize(
    ("slip", "told"),
    [
        (lambda c: at.backtest("ema_trend", FRAME), "was DataFrame: .*at.candles\\(frame"),
        (lambda c: at.backtest("ema_trend", c, costs=5), "costs must be a dictionary of settings, was 5"),
        (lambda c: at.backtest("ema_trend", c, bot=3), "bot must be a dictionary of settings, was 3"),
        (lambda c: at.backtest("ema_trend", c, instrument=5), "`instrument` must be an Instrument, was 5"),
        (lambda c: at.candles(FRAME, symbol=None), "a market's name must be text"),
        (lambda c: at.candles(FRAME, symbol="AUSDT", timeframe=3), "timeframe 3 is not one"),
        (lambda c: at.load(5), "a market's name must be text"),
        (lambda c: at.backtest("ema_trend", c, instrument=at.instrument(c, tick_size=5)), "the tick, 5, is too coarse"),
        (lambda c: at.instrument(c, min_qty=10, max_market_qty=1), "min_qty .10. must not be above max_market_qty"),
        (lambda c: at.instrument(c, funding_interval_hours=7), "must divide the day"),
        (lambda c: at.instrument(c, margin_tiers=[[100, 0.01, 10], [100, 0.02, 5]]), "have one position value twice"),
    ],
)
def test_a_slip_in_a_notebook_is_told_in_one_line(slip: Callable, told: str) -> None:
    with pytest.raises(AutotraderError, match=told) as caught:
        slip(at.candles(FRAME, symbol="HYPEUSDT"))
    assert "\n" not in str(caught.value)


def test_what_is_no_earlier_result_is_never_written_over(tmp_path: Path) -> None:
    found = at.backtest("ema_trend", at.candles(FRAME, symbol="HYPEUSDT"))
    (tmp_path / "config.toml").write_text("[general]\n")
    with pytest.raises(ConfigError, match="is there and no report: choose another name"):
        found.report(tmp_path / "config.toml")
    assert (tmp_path / "config.toml").read_text() == "[general]\n"
    page = found.report(tmp_path / "mine.html")
    assert found.report(tmp_path / "mine.html") == page
