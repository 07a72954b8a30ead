"""A bar does not tell the order of what happened in it: what is assumed is never to the trader's gain."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cases import Case, stopped_case
from hypothesis import given, settings
from hypothesis import strategies as st
from pair import simulated
from series import length
from test_money import LONG, SHORT, market, params_of, played, tape_of

from autotrader.core.errors import ConfigError
from autotrader.core.market import COLUMNS, Candles
from autotrader.data.joined import resample
from autotrader.desk.backtest import backtest
from autotrader.engine.events import Purpose, Split
from autotrader.engine.fills import new_costs, overshoot
from autotrader.engine.signals import Signals
from autotrader.engine.simulate import Run, run

HOUR = 3_600_000
INSTRUMENT = market("0.01", "0.001", taker_fee=0, maker_fee=0)
Prices = tuple[int, int, int, int]


def split_entry(
    bar: Prices, *, side: int = LONG, sl: float = 1.5, tp: float = 1.0, gap: float = 0.01, bars: tuple[Prices, ...] = ()
) -> Run:
    "Two parts, the first at 100.00, the second a limit order `gap` below; then the bar in question."
    before = (10_000,) * 4
    tape = tape_of([before, before, bar, *bars])
    n = len(tape.open_ms)
    params = params_of(
        INSTRUMENT,
        2.0,
        sl_ratio=sl,
        tp_ratio=tp,
        split=Split.PRICE,
        split_count=2,
        split_gap=gap,
        split_expiry_ms=99 * HOUR,
    )
    signals = Signals(side * (np.arange(n) == 0), np.zeros(n), np.ones(n))
    return run(tape, signals, np.ones(n), params=params, costs=new_costs(INSTRUMENT), wallet_e8=10**13)


def purposes(found: Run) -> list[str]:
    return [Purpose(purpose).name for purpose in found.fills["purpose"]]


def mirrored(bar: Prices) -> Prices:
    "The same bar upside down around 100."
    o, h, low, c = (20_000 - price for price in bar)
    return o, low, h, c


@pytest.mark.parametrize("side", [LONG, SHORT])
def test_a_part_bought_inside_a_bar_moves_the_target_but_not_into_that_bars_high(side: int) -> None:
    bar = (
        10_000,
        10_120,
        9_820,
        9_830,
    )  # reaches the add at 99 and, before or after it, 101.0: the target the add made
    found = split_entry(bar if side > 0 else mirrored(bar), side=side)
    assert purposes(found) == ["ENTRY", "ADD"]
    assert found.venue["ambiguous"][0] == 1
    later = (9_830, 10_150, 9_830, 10_150)
    found = split_entry(bar if side > 0 else mirrored(bar), side=side, bars=(later if side > 0 else mirrored(later),))
    assert purposes(found) == ["ENTRY", "ADD", "TARGET"]


@pytest.mark.parametrize("side", [LONG, SHORT])
@pytest.mark.parametrize("low", [9_910, 9_890, 9_700])
def test_a_stop_that_lies_before_an_add_comes_before_it(side: int, low: int) -> None:
    bar = (10_000, 10_010, low, 9_950)  # the stop at 99.20, the add at 99.00
    found = split_entry(bar if side > 0 else mirrored(bar), side=side, sl=0.8)
    assert purposes(found) == ["ENTRY", "STOP"]
    assert found.venue["ambiguous"][0] == (low < 9_900)


@pytest.mark.parametrize("side", [LONG, SHORT])
def test_an_add_that_lies_before_the_stop_moves_it(side: int) -> None:
    for low, expected in (
        (9_840, ["ENTRY", "ADD"]),
        (9_800, ["ENTRY", "ADD", "STOP"]),
    ):  # the stop goes from 98.50 to 98.00
        bar = (10_000, 10_010, low, 9_950)
        assert purposes(split_entry(bar if side > 0 else mirrored(bar), side=side)) == expected


@pytest.mark.parametrize("side", [LONG, SHORT])
def test_who_is_stopped_at_the_open_buys_nothing_more_there(side: int) -> None:
    bar = (9_750, 9_900, 9_700, 9_800)  # opens below the add and the stop
    found = split_entry(bar if side > 0 else mirrored(bar), side=side)
    assert purposes(found) == ["ENTRY", "STOP"]
    assert found.fills["ts_ms"][-1] == 2 * HOUR  # at the open, where it was known


bars = st.tuples(
    st.integers(9_600, 10_400), st.integers(0, 400), st.integers(0, 400), st.floats(0, 1), st.integers(1, 300)
)


@settings(max_examples=length(400, soak=4_000), deadline=None)
@given(
    bars, st.sampled_from([LONG, SHORT]), st.sampled_from([0.4, 0.8, 1.5, 3.0]), st.sampled_from([0.003, 0.01, 0.02])
)
def test_a_worse_extreme_never_pays_more(bar: tuple[Any, ...], side: int, sl: float, gap: float) -> None:
    opening, up, down, where, deeper = bar
    high, low = opening + up, opening - down
    close = low + round(where * (high - low))
    paid = []
    for lowest in (low, low - deeper):
        one = (opening, high, lowest, close)
        found = split_entry(one if side > 0 else mirrored(one), side=side, sl=sl, gap=gap)
        paid.append(int(found.state["realised_e8"][0]))
    assert paid[1] <= paid[0]


@settings(max_examples=length(150, soak=3_000), deadline=None)
@given(st.builds(stopped_case, st.integers(0, 2**63 - 1), st.integers(60, 200)))
def test_nothing_born_inside_a_bar_is_rewarded_in_it(case: Case) -> None:
    fills, born = simulated(case).fills, Counter[int]()
    for fill in fills:
        inside = (int(fill["ts_ms"]) + 1 - int(case.tape.open_ms[0])) % case.tape.bar_ms == 0
        if inside and fill["purpose"] == Purpose.ADD:
            born[int(fill["ts_ms"])] += 1
        assert fill["purpose"] != Purpose.TARGET or not born[int(fill["ts_ms"])]


# money that is not there ---


@settings(max_examples=length(300, soak=5_000), deadline=None)
@given(st.builds(stopped_case, st.integers(0, 2**63 - 1), st.integers(60, 300)))
def test_no_account_falls_below_nothing(case: Case) -> None:
    "With isolated margin that no more than the wallet can back; the marks left out, for equity is counted at traded prices."
    none = np.zeros(0, np.int64)
    case = case._replace(tape=case.tape._replace(mark_high=none, mark_low=none))
    if case.costs["leverage"][0] == 0.0:
        case = case.changed(leverage=3.0)
    found = simulated(case)
    assert found.equity_e8.min() >= 0
    assert found.state["wallet_e8"][0] == found.venue["wallet_e8"][0]


@settings(max_examples=length(150, soak=2_000), deadline=None)
@given(
    st.sampled_from([LONG, SHORT]),
    st.floats(0.5, 4.9),
    st.floats(0.2, 1.8),
    st.floats(-0.2, 0.2),
    st.sampled_from([2.0, 5.0, 20.0]),
)
def test_funding_that_eats_a_gain_leaves_no_less_than_nothing(
    side: int, times: float, away: float, rate: float, leverage: float
) -> None:
    "The wallet pays before the gain is realised, and may stand below zero while the account does not."
    there = max(20, round(10_000 * away))
    bars = [(10_000,) * 4] * 3 + [(10_000, max(10_000, there), min(10_000, there), there)] + [(there,) * 4] * 60
    stamps = {(4 + n) * HOUR: rate for n in range(60)}
    found = played(
        INSTRUMENT, tape_of(bars, funding=stamps), side=side, size=times * 1_000.0, leverage=max(leverage, times)
    )
    assert found.equity_e8.min() >= 0
    assert found.state["wallet_e8"][0] == found.venue["wallet_e8"][0]


def test_a_leverage_whose_margin_is_gone_at_entry_is_refused() -> None:
    assert new_costs(INSTRUMENT, leverage=199.0)["leverage"][0] == 199.0  # maintenance 0.5 %
    with pytest.raises(ConfigError, match="take less than 200"):
        new_costs(INSTRUMENT, leverage=200.0)


# what a stop loses beyond its trigger ---


@pytest.mark.parametrize("bar_s", [60, 600])
def test_the_overshoot_of_a_stop_is_that_of_a_price_seen_once_a_second(bar_s: int) -> None:
    rng, level, seen, said = np.random.default_rng(5), -2.0 * np.sqrt(bar_s), [], []
    for _ in range(12_000):
        path = np.cumsum(rng.normal(size=6 * bar_s)).reshape(6, bar_s)
        first = np.argmax(path.ravel() <= level)
        if path.ravel()[first] <= level:
            seen.append(level - path.ravel()[first])
            said.append(overshoot(1_000.0, 1_000 * bar_s) * (level - path[first // bar_s].min()))
    assert len(seen) > 3_000
    assert np.mean(said) == pytest.approx(np.mean(seen), rel=0.12)


def test_a_stop_costs_more_where_the_market_goes_farther_and_nothing_where_it_only_touches() -> None:
    costs, prices = new_costs(INSTRUMENT, stop_delay_ms=1_000.0), []
    for low in (9_900, 9_800, 9_000):
        tape = tape_of([(10_000,) * 4, (10_000,) * 4, (10_000, 10_000, low, low)], bar_ms=60_000)
        signals = Signals(np.array([1, 0, 0]), np.zeros(3), np.ones(3))
        found = run(
            tape, signals, np.ones(3), params=params_of(INSTRUMENT, 1.0, sl_ratio=1.0), costs=costs, wallet_e8=10**13
        )
        prices.append(int(found.fills["cost"][-1] // found.fills["qty"][-1]))
    assert prices == [9_900, 9_900 - 14, 9_900 - 127]  # 14.1 % of what lies beyond


# hours against minutes ---

QUIET = {"enabled": False}
LIMITLESS = {"max_losses": 0, "daily_loss": 0.0, "max_drawdown": 0.0}
BEGINNING = {"btcusdt": "2024-01-01", "ethusdt": "2024-01-01"}


@pytest.mark.realdata
def test_hours_flatter_nobody_who_splits_an_entry(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    "The same signals, filled on hours and on minutes: what hours hide is not paid out."
    bias: dict[str, list[float]] = {"one part": [], "four parts": []}
    for name, lot in (("btcusdt", 0.01), ("ethusdt", 0.2)):
        frame = pd.read_parquet(data_dir / f"{name}_1m.parquet")
        frame = frame[frame["open_time"] >= pd.Timestamp(BEGINNING[name], tz=frame["open_time"].dt.tz)]
        columns = {column: frame[column].to_numpy(np.float64).copy() for column in COLUMNS}
        stamps = pd.DatetimeIndex(frame["open_time"]).as_unit("ms").asi8
        minutes = Candles(venue="binance", symbol=name.upper(), timeframe="1m", open_ms=stamps, **columns)
        hours = resample(minutes, "1h")
        for strategy in ("ema_trend", "rsi_reversion", "donchian_breakout"):
            for sl, tp in ((2.0, 0.5), (2.0, 1.5), (3.0, 1.0)):
                for gap in (0.0, 0.3, 0.7):
                    parts = {"method": "price", "count": 4, "price_gap_percent": gap, "expiry_seconds": 86_400}
                    bot = {
                        **{"sizing": "lot", "base_lot": lot, "dynamic_sizing": QUIET, "risk": LIMITLESS},
                        **{"strategy_params": {"sl_ratio": sl, "tp_ratio": tp}, "initial_capital_usdt": 100_000},
                        "split_entry": {"enabled": True, **parts} if gap else QUIET,
                    }
                    on_hours, on_minutes = (backtest(strategy, hours, bot=bot, fine=fine) for fine in (None, minutes))
                    difference = on_hours.stats.sharpe - on_minutes.stats.sharpe
                    bias["four parts" if gap else "one part"].append(difference)
    with capsys.disabled():
        for parts_of, found in bias.items():
            print(f"\nSharpe on hours less Sharpe on minutes, {parts_of}: mean {np.mean(found):+.3f}, "
                  f"{min(found):+.3f} to {max(found):+.3f}, {len(found)} runs")  # fmt: skip
    assert all(abs(np.mean(found)) <= 0.1 for found in bias.values()), bias
