"""A strategy in backtesting.py's chart is played by that library's rules, and the page asks nobody."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import autotrader as at
from autotrader.core.errors import DataError
from autotrader.core.market import Candles
from autotrader.engine.signals import Signals
from autotrader.strategy.charts import open_chart, replay
from autotrader.strategy.templates import own

HOUR = 3_600_000


def candles(n: int, *, seed: int = 7, price: float = 90_000.0) -> Candles:
    rng = np.random.default_rng(seed)
    close = price * np.exp(np.cumsum(rng.normal(0, 0.004, n)))
    opened = np.r_[price, close[:-1]] * np.exp(rng.normal(0, 0.001, n))
    return Candles(
        venue="bybit",
        symbol="BTCUSDT",
        timeframe="1h",
        open_ms=1_741_392_000_000 + HOUR * np.arange(n),
        open=opened,
        high=np.maximum(opened, close) * 1.001,
        low=np.minimum(opened, close) * 0.999,
        close=close,
        volume=np.full(n, 1_000.0),
    )


def saying(direction: np.ndarray, exits: np.ndarray) -> Any:
    def said(bars: Candles) -> Signals:
        return Signals(direction[: len(bars)], exits[: len(bars)], np.ones(len(bars)))

    return own(said, warmup=1)


def expected(direction: np.ndarray, exits: np.ndarray) -> list[tuple[int, int, int]]:
    "Side, bar of entry and bar of exit, by hand: everything happens at the open after the signal."
    trips, side, since = [], 0, 0
    for bar in range(1, len(direction) - 1):
        way = int(direction[bar])
        after = side
        if side and (exits[bar] & (1 if side > 0 else 2) or way == -side):
            trips.append((side, since, bar + 1))
            after = 0
        if way and way != side:
            after, since = way, bar + 1
        side = after
    return trips


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(20, 120))
def test_the_chart_trades_when_the_signals_say_so(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    direction = np.where(rng.random(n) < 0.3, rng.choice([-1, 1], n), 0)
    exits = np.where(rng.random(n) < 0.15, rng.integers(0, 4, n), 0)
    bars = candles(n, seed=seed % 1000)
    _, found = replay(saying(direction, exits), bars, commission=0.0)
    trades = found["_trades"]
    got = sorted((int(np.sign(t.Size)), t.EntryBar, t.ExitBar) for t in trades.itertuples())
    wanted = sorted(expected(direction, exits))
    assert [trip for trip in got if trip[2] < n - 1] == [trip for trip in wanted if trip[2] < n - 1]
    assert found["_strategy"]._broker.trades == []  # a signal on the last bar has no next open to trade at
    np.testing.assert_allclose(trades.EntryPrice, bars.open[trades.EntryBar], rtol=1e-9)


@pytest.mark.parametrize("template", ["ema_trend", "rsi_reversion"])
def test_without_stops_the_chart_trades_like_the_house(template: str) -> None:
    bars = at.load("EURUSD", venue="sample")
    _, found = replay(template, bars, commission=0.0)
    free = {"slippage_bps": 0.0, "spread_bps": 0.0, "participation_cap": 0.0}
    house = at.backtest(template, bars, bot={"strategy_params": {"sl_ratio": 1000, "tp_ratio": 1000}}, costs=free)
    last = bars.open_ms[-1]
    theirs = [(t.Size > 0, bars.open_ms[t.EntryBar], bars.open_ms[t.ExitBar]) for t in found["_trades"].itertuples()]
    ours = [
        (t.side == "long", t.opened.value // 10**6, t.closed.value // 10**6)
        for t in house.trades.assign(
            opened=house.trades.opened.dt.as_unit("ns"), closed=house.trades.closed.dt.as_unit("ns")
        ).itertuples()
    ]
    assert [trip for trip in sorted(theirs) if trip[2] < last] == [trip for trip in sorted(ours) if trip[2] < last]
    assert len(ours) > 20


def test_the_page_holds_all_it_needs_and_asks_nobody(tmp_path: Path) -> None:
    import panel  # noqa: F401  once imported it adds to every page of Bokeh

    page = open_chart("ema_trend", candles(1_500), path=tmp_path / "chart.html")
    text = page.read_text(encoding="utf-8")
    assert page == tmp_path / "chart.html"
    assert re.findall(r"<(?:script|link)[^>]+(?:src|href)=", text) == []
    assert "plx.gif" not in text
    assert "slow: ema(26)" in text and "atr: atr(14)" in text
    assert "no stops, no funding, no sizing" in text


def test_prices_of_indicators_stand_on_the_candles(tmp_path: Path) -> None:
    _, found = replay("ema_trend", candles(500))
    overlaid = {each.name: each for each in found["_strategy"]._indicators if each._opts["overlay"]}
    assert set(overlaid) == {"fast: ema(12)", "slow: ema(26)"}
    assert np.nanmedian(overlaid["slow: ema(26)"]) == pytest.approx(90_000, rel=0.2)


def test_more_bars_than_a_chart_shows_are_joined_and_said(tmp_path: Path) -> None:
    text = open_chart("rsi_reversion", candles(12_000), path=tmp_path / "c.html").read_text(encoding="utf-8")
    assert "12,000 bars are drawn joined to longer ones" in text


def test_a_kernel_of_jupyter_keeps_its_way_of_showing_figures(tmp_path: Path) -> None:
    code = (
        "import autotrader as at; from autotrader.strategy.charts import open_chart\n"
        "from bokeh.io.state import curstate\n"
        "bars = at.load('EURUSD', venue='sample')[:400]\n"
        f"open_chart('ema_trend', bars, path={str(tmp_path / 'c.html')!r})\n"
        "import os; print(curstate().notebook, curstate().file, os.environ['JPY_PARENT_PID'])"
    )
    env = {**os.environ, "JPY_PARENT_PID": "1", "AUTOTRADER_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("False None 1\n", "")


def test_without_a_path_the_page_is_named_after_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_chart("ema_trend", candles(200)).name == "ema_trend_BTCUSDT_1h.html"


def test_what_cannot_be_charted_is_refused_in_a_line() -> None:
    with pytest.raises(DataError, match=r"replays 2 to 200,000 bars one by one, was 1: cut them"):
        replay("ema_trend", candles(1))
    with pytest.raises(DataError, match="buys next to nothing of BTCUSDT"):
        replay("ema_trend", candles(100), cash=0.1)
    broken = candles(100)
    broken.close[50] = np.nan
    with pytest.raises(DataError, match="bar 50"):
        replay("ema_trend", broken)
