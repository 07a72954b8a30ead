"""Statistics of a run: what other libraries say of the same days and trips, what must hold for any run, and no warning from the arithmetic."""

import json
import warnings
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autotrader.engine.events import PARAMS, Reason, Split, new_state
from autotrader.engine.excursions import excursions
from autotrader.engine.fills import COSTS, new_venue
from autotrader.engine.metrics import (
    FEWEST_DAYS,
    Stats,
    benchmark_of,
    daily_returns,
    days_per_year,
    deepest_drawdowns,
    in_words,
    measure,
    monthly_returns,
    open_trip,
    round_trips,
)
from autotrader.engine.signals import Signals
from autotrader.engine.simulate import FILL, Run, run
from autotrader.engine.tape import Tape
from autotrader.report.html import statistics

pytestmark = pytest.mark.filterwarnings("error")

HOUR, DAY = 3_600_000, 86_400_000
SINCE = 1_704_067_200_000  # 2024-01-01
WALLET_E8 = 10_000 * 10**8
UNIT_E8 = 10**5
NONE = np.zeros(0, np.int64)
EACH = {"annualization": 365}


# runs ---


def lived(equity_e8: Any, *, day_ms: Any = None, fills: np.ndarray | None = None) -> Run:
    "A run of which only the daily closes and the fills are known."
    path = np.asarray(equity_e8, np.int64)
    stamps = SINCE + DAY * np.arange(len(path)) if day_ms is None else np.asarray(day_ms, np.int64)
    fall = 1 - path / np.maximum.accumulate(np.r_[WALLET_E8, path])[1:]
    state = new_state(wallet_e8=WALLET_E8)
    state["realised_e8"] = 0 if fills is None else fills["pnl_e8"].sum()
    return Run(
        fills=np.zeros(0, FILL) if fills is None else fills,
        equity_e8=path,
        day_ms=stamps,
        day_equity_e8=path,
        max_drawdown=float(np.max(fall, initial=0.0)),
        notes={},
        tiers={},
        state=state,
        venue=new_venue(wallet_e8=WALLET_E8),
        held=0,
    )


def wandering(seed: int, days: int, *, drift: float = 0.001) -> Run:
    daily = np.random.default_rng(seed).normal(drift, 0.02, days)
    return lived(np.rint(WALLET_E8 * np.cumprod(1 + daily)))


def walk(seed: int, bars: int) -> Tape:
    "Hourly bars of a market that never closes; every other one opens with a jump."
    rng = np.random.default_rng(seed)
    close = np.rint(20_000 * np.exp(np.cumsum(rng.normal(0, 0.01, bars)))).astype(np.int64)
    opens = np.r_[20_000, close[:-1]] + rng.integers(-60, 61, bars) * (rng.random(bars) < 0.5)
    reach = np.rint(np.abs(rng.normal(0, 100, (2, bars)))).astype(np.int64)
    high, low = np.maximum(opens, close) + reach[0], np.maximum(np.minimum(opens, close) - reach[1], 1)
    stamps = SINCE + HOUR * np.arange(bars)
    due = SINCE + 8 * HOUR * np.arange(1, bars // 8)
    volume = np.full(bars, 10**9)
    return Tape(HOUR, stamps, opens, high, low, close, volume, NONE, NONE, NONE, close, due, np.full(len(due), 1e-4))


def traded(tape: Tape, seed: int, *, fee: float = 0.0005, slip: float = 0.0002, **params: float) -> Run:
    "A bot that follows drawn signals; flat at the end."
    rng, bars = np.random.default_rng(seed), len(tape.close)
    settings = {
        **{"tick": 0.1, "step": 0.01, "unit_e8": UNIT_E8, "min_qty": 1, "max_qty": 10**9, "size": 0.9},
        **{"max_leverage": 100.0, "allow_long": 1, "allow_short": 1, "exit_on_opposite": 1, "flip": 1},
        **{"max_signal_age_ms": HOUR, "resume_size": 1.0},
    } | params
    record, costs = np.zeros(1, PARAMS), np.zeros(1, COSTS)
    for name, value in settings.items():
        record[name] = value
    for name, value in {"unit_e8": UNIT_E8, "taker_fee": fee, "maker_fee": fee / 2, "slippage": slip}.items():
        costs[name] = value
    direction = np.where(rng.random(bars) < 0.08, rng.choice([-1, 1], bars), 0)
    exits = np.where(rng.random(bars) < 0.05, 3, 0)
    direction[-30:], exits[-30:] = 0, 3
    atr = np.full(bars, 20.0)
    found = run(tape, Signals(direction, exits, np.ones(bars)), atr, params=record, costs=costs, wallet_e8=WALLET_E8)
    assert found.state["qty"][0] == 0 and len(found.fills) > 20
    return found


def stats_of(found: Run, tape: Tape | None = None) -> Stats:
    market = None if tape is None else benchmark_of(tape, unit_e8=UNIT_E8)
    return measure(found, wallet_e8=WALLET_E8, bars=len(found.equity_e8), market=market)


# days ---


@pytest.fixture
def empyrical() -> Any:
    "Loaded when asked for: every process that shares the tests reads all files, and few run these."
    import empyrical

    return empyrical


@pytest.mark.parametrize(("seed", "days"), [(1, 30), (2, 365), (3, 1_000)])
def test_the_numbers_of_days_are_those_of_empyrical(seed: int, days: int, empyrical: Any) -> None:
    found = wandering(seed, days)
    stats, daily = stats_of(found), daily_returns(found, WALLET_E8)
    assert stats.sharpe == pytest.approx(empyrical.sharpe_ratio(daily, **EACH))
    assert stats.sortino == pytest.approx(empyrical.sortino_ratio(daily, **EACH))
    assert stats.volatility == pytest.approx(empyrical.annual_volatility(daily, **EACH))
    assert stats.cagr == pytest.approx(empyrical.cagr(daily, **EACH))
    assert stats.calmar == pytest.approx(empyrical.calmar_ratio(daily, **EACH))  # theirs: the drawdown of days
    assert stats.max_drawdown == pytest.approx(-empyrical.max_drawdown(daily))
    assert stats.return_frac == pytest.approx(empyrical.cum_returns_final(daily))
    assert stats.var_95 == pytest.approx(-empyrical.value_at_risk(daily))
    assert stats.cvar_95 == pytest.approx(-empyrical.conditional_value_at_risk(daily))
    assert (stats.best_day, stats.worst_day) == (daily.max(), daily.min())


@pytest.mark.parametrize("days", [40, 400])  # a twentieth of the days is a whole number: skfolio weighs the last one
def test_the_tail_and_the_ulcer_index_are_those_of_skfolio(days: int) -> None:
    import skfolio.measures as skm

    found = wandering(5, days)
    stats, daily = stats_of(found), daily_returns(found, WALLET_E8)
    falls = skm.get_drawdowns(daily, compounded=True)
    assert stats.ulcer == pytest.approx(skm.ulcer_index(falls))
    assert stats.cvar_95 == pytest.approx(skm.cvar(daily, beta=0.95))
    assert stats.max_drawdown == pytest.approx(skm.max_drawdown(falls))


def test_a_market_that_rests_has_fewer_days_in_its_year(empyrical: Any) -> None:
    workdays = pd.bdate_range("2024-01-01", "2025-12-31").as_unit("ms").asi8
    assert days_per_year(workdays) == pytest.approx(261, abs=0.5)
    found = wandering(4, len(workdays))
    rested = replace(found, day_ms=workdays)
    daily = daily_returns(found, WALLET_E8)
    theirs = empyrical.sharpe_ratio(daily, annualization=days_per_year(workdays))
    assert stats_of(rested).sharpe == pytest.approx(theirs)
    years = 731 / 365  # two calendar years, weekends and all
    assert stats_of(rested).cagr == pytest.approx((daily + 1).prod() ** (1 / years) - 1)


def test_growth_in_a_year_is_not_told_from_a_short_run() -> None:
    assert stats_of(wandering(1, FEWEST_DAYS - 1)).cagr is None
    assert stats_of(wandering(1, FEWEST_DAYS - 1)).calmar is None
    assert stats_of(wandering(1, FEWEST_DAYS)).cagr is not None


@given(arrays(np.int64, st.integers(1, 90), elements=st.integers(90, 110)))
def test_drawdowns_begin_at_a_peak_and_last_as_long_as_a_patient_reader_counts(path: np.ndarray) -> None:
    equity, stamps = np.r_[100, path], np.arange(len(path) + 1) * DAY
    longest, peak, since = 0, equity[0], 0
    for day, value in enumerate(equity):
        if value >= peak:
            if since < day - 1:
                longest = max(longest, day - since)
            peak, since = value, day
    if since < len(equity) - 1:
        longest = max(longest, len(equity) - 1 - since)
    found = lived(path * 10**8, day_ms=stamps[:-1])
    assert measure(found, wallet_e8=100 * 10**8, bars=1).max_drawdown_days == longest
    table = deepest_drawdowns(stamps, equity, count=100)
    falls = 1 - equity / np.maximum.accumulate(equity)
    assert list(table["depth"]) == sorted(table["depth"], reverse=True)
    assert table["depth"].max(initial=0.0) == falls.max()
    for row in table:
        begin, bottom, end = (int(row[name] // DAY) for name in ("begin_ms", "bottom_ms", "end_ms"))
        assert begin < bottom <= end
        assert 1 - equity[bottom] / equity[begin] == row["depth"]
        assert (equity[begin + 1 : end] < equity[begin]).all()
        assert row["is_over"] == (equity[end] >= equity[begin])


@given(seed=st.integers(0, 10**6), days=st.integers(1, 900), closed=st.integers(0, 3))
def test_months_compound_to_the_whole_and_are_those_of_pandas(seed: int, days: int, closed: int) -> None:
    found = wandering(seed, days)
    rng = np.random.default_rng(seed)
    found = replace(found, day_ms=found.day_ms[0] + DAY * np.cumsum(rng.integers(1, 2 + 20 * closed, days)))
    daily = daily_returns(found, WALLET_E8)
    months = monthly_returns(found.day_ms, daily)
    whole = stats_of(found).return_frac
    assert np.nanprod(1 + months.table) - 1 == pytest.approx(whole, abs=1e-9)
    assert np.nanprod(1 + months.totals) - 1 == pytest.approx(whole, abs=1e-9)
    index = pd.DatetimeIndex(found.day_ms.astype("M8[ms]"))
    theirs = (pd.Series(daily, index=index) + 1).groupby([index.year, index.month]).prod() - 1
    assert np.isfinite(months.table).sum() == len(theirs)
    for (year, month), value in theirs.items():
        assert months.table[year - months.years[0], month - 1] == pytest.approx(value)


# trips ---


def their_stats(found: Run, tape: Tape) -> pd.Series:
    "What backtesting.py says of our trips and our curve."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from backtesting._stats import compute_stats
    trips = round_trips(found)
    entry_bar, exit_bar = ((trips[name] - SINCE) // HOUR for name in ("opened_ms", "closed_ms"))
    frame = pd.DataFrame(
        {
            "Size": trips["side"] * trips["qty"],
            "EntryBar": entry_bar,
            # theirs counts the bar in whose first instant a position went; ours counts bars that ended with one
            "ExitBar": exit_bar - 1,
            "PnL": trips["pnl_e8"] / 1e8,
            "ReturnPct": trips["pnl_e8"] / WALLET_E8,
            "Commission": trips["fee_e8"] / 1e8,
            "EntryTime": pd.to_datetime(trips["opened_ms"], unit="ms"),
            "ExitTime": pd.to_datetime(trips["closed_ms"], unit="ms"),
        }
    )
    frame["Duration"] = frame["ExitTime"] - frame["EntryTime"]
    index = pd.DatetimeIndex((tape.open_ms + HOUR).astype("M8[ms]"))
    candles = pd.DataFrame({"Close": tape.close}, index=index)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compute_stats(frame, found.equity_e8 / 1e8, candles, None)


def test_the_numbers_of_trips_are_those_of_backtesting_py() -> None:
    tape = walk(3, 24 * 400)
    found = traded(tape, 3)
    stats, theirs, cash = stats_of(found, tape), their_stats(found, tape), WALLET_E8 / 1e8
    assert stats.trades == theirs["# Trades"] > 300
    assert stats.win_rate == pytest.approx(theirs["Win Rate [%]"] / 100)
    assert stats.sqn == pytest.approx(theirs["SQN"])
    assert stats.profit_factor == pytest.approx(theirs["Profit Factor"])
    # theirs are percent of the value of a trade; here each is told of the same money
    assert stats.expectancy == pytest.approx(theirs["Expectancy [%]"] / 100 * cash)
    assert stats.best_trip == pytest.approx(theirs["Best Trade [%]"] / 100 * cash)
    assert stats.worst_trip == pytest.approx(theirs["Worst Trade [%]"] / 100 * cash)
    kelly = theirs["Kelly Criterion"]  # win rate − loss rate / payoff
    assert stats.payoff == pytest.approx((1 - stats.win_rate) / (stats.win_rate - kelly))
    assert stats.exposure == pytest.approx(theirs["Exposure Time [%]"] / 100)
    assert stats.trip_hours * HOUR == pytest.approx(theirs["Avg. Trade Duration"] / pd.Timedelta(1, "ms"), abs=HOUR)
    assert stats.max_drawdown == pytest.approx(-theirs["Max. Drawdown [%]"] / 100, rel=1e-3)
    # their year has 365.25 days and begins with the first bar's close
    growth = (1 + theirs["CAGR [%]"] / 100) ** ((len(tape.close) - 1) / 24 / 365.25)
    start = found.equity_e8[0] / WALLET_E8
    assert (1 + stats.cagr) ** (len(tape.close) / 24 / 365) == pytest.approx(growth * start)
    held = 1 + theirs["Buy & Hold Return [%]"] / 100
    assert 1 + stats.market_frac == pytest.approx(held * tape.close[0] / tape.open[0])


def test_the_longest_drawdown_is_that_of_backtesting_py() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from backtesting._stats import compute_drawdown_duration_peaks
    for seed in range(20):
        found = wandering(seed, 200, drift=0.0)
        equity = pd.Series(np.r_[WALLET_E8, found.day_equity_e8], pd.date_range("2024-01-01", periods=201))
        theirs, _ = compute_drawdown_duration_peaks(1 - equity / equity.cummax())
        assert stats_of(found).max_drawdown_days == theirs.max().days


def test_round_trips_add_up_as_pandas_groups_them() -> None:
    tape = walk(8, 3_000)
    found = traded(tape, 8, split=Split.TIME, split_count=3, split_interval_ms=HOUR, split_expiry_ms=9 * HOUR)
    fills, trips = pd.DataFrame(found.fills), round_trips(found)
    assert (fills.groupby("trip").size() > 2).any()
    for trip, (number, part) in zip(trips, fills.groupby("trip"), strict=True):
        into, out = part[part.side == part.side.iloc[0]], part[part.side != part.side.iloc[0]]
        assert (trip["trip"], trip["side"], trip["fills"]) == (number, into.side.iloc[0], len(part))
        assert (trip["opened_ms"], trip["closed_ms"]) == (part.ts_ms.iloc[0], part.ts_ms.iloc[-1])
        assert trip["qty"] == into.qty.sum() == out.qty.sum()
        assert trip["entry"] == pytest.approx(into.cost.sum() / into.qty.sum())
        assert trip["exit"] == pytest.approx(out.cost.sum() / out.qty.sum())
        assert (trip["fee_e8"], trip["pnl_e8"]) == (part.fee_e8.sum(), (part.pnl_e8 - part.fee_e8).sum())


def test_an_open_trip_is_left_out_and_a_liquidated_one_ends_where_its_margin_does() -> None:
    fills = np.zeros(4, FILL)
    fills["trip"], fills["side"], fills["qty"] = [1, 1, 2, 2], [1, -1, 1, -1], 2
    fills["cost"], fills["pnl_e8"], fills["fee_e8"] = [200, 130, 200, 220], [0, -70, 0, 20], [1, 0, 1, 1]
    fills["ts_ms"], fills["purpose"] = [0, 50, 60, 90], [0, Reason.LIQUIDATION, 0, Reason.EXIT]
    found = lived([WALLET_E8], fills=fills)
    trips = round_trips(found)
    assert list(trips["pnl_e8"]) == [-1 - 70, 18]
    assert list(trips["exit"]) == [65, 110] and list(trips["closed_ms"]) == [50, 90]
    assert list(trips["ended"]) == [Reason.LIQUIDATION, Reason.EXIT]
    found.state["qty"] = 2
    assert len(round_trips(replace(found, fills=fills[:3]))) == 1
    tape = walk(1, 24)
    (left,) = open_trip(replace(found, fills=fills[:3]), tape)
    assert (left["trip"], left["entry"], left["exit"], left["ended"]) == (2, 100, tape.close[-1], -1)


# money ---


def test_profit_is_what_prices_gave_less_fees_and_slippage_plus_funding() -> None:
    tape = walk(6, 3_000)
    found = traded(tape, 6)
    stats = stats_of(found, tape)
    assert stats.fees > 0 and stats.slippage > 0 and stats.funding != 0
    assert stats.pnl == pytest.approx(stats.gross - stats.fees - stats.slippage + stats.funding)
    assert round_trips(found)["pnl_e8"].sum() / 1e8 + stats.funding == pytest.approx(stats.pnl)
    free = stats_of(traded(tape._replace(funding_ms=NONE, funding_rate=np.zeros(0)), 6, fee=0.0, slip=0.0), tape)
    assert stats.gross == pytest.approx(free.pnl)  # the same lots at the same bars
    assert stats.costs_frac == (None if stats.gross <= 0 else pytest.approx(1 - stats.pnl / stats.gross))


def test_turnover_is_what_was_bought_and_sold_over_the_mean_equity() -> None:
    tape = walk(9, 24 * 73)
    found = traded(tape, 9)
    value = (found.fills["cost"] * 1e-3).sum()  # 0.1 × 0.01 quote coin per tick × step
    stats = stats_of(found, tape)
    assert stats.turnover == pytest.approx(value / (found.day_equity_e8 / 1e8).mean() * 5)
    assert stats.costs_bps == pytest.approx((stats.fees + stats.slippage) / value * 1e4)
    assert 7 - 0.1 < stats.costs_bps < 7 + 0.1  # 5 of fees and 2 of slippage
    alone = stats_of(found)
    assert (alone.turnover, alone.costs_bps, alone.market_frac) == (None, None, None)


@pytest.mark.parametrize("bars", [1, 5, 24, 25, 24 * 200 + 7])
def test_the_market_is_measured_as_pandas_and_empyrical_measure_it(bars: int, empyrical: Any) -> None:
    tape = walk(bars, bars)
    tape = tape._replace(open_ms=tape.open_ms + 5 * HOUR)  # days that begin inside the recording
    market = benchmark_of(tape, unit_e8=UNIT_E8)
    index = pd.DatetimeIndex((tape.open_ms + HOUR - 1).astype("M8[ms]"))
    closes = pd.Series(tape.close, index).resample("D").last()
    daily = np.diff(np.r_[tape.open[0], closes]) / np.r_[tape.open[0], closes[:-1]]
    assert market.return_frac == pytest.approx(empyrical.cum_returns_final(daily))
    assert market.sharpe == (pytest.approx(empyrical.sharpe_ratio(daily, **EACH)) if len(daily) > 1 else None)
    each = np.r_[tape.close[0] / tape.open[0] - 1, np.diff(tape.close) / tape.close[:-1]]
    assert market.max_drawdown == pytest.approx(-empyrical.max_drawdown(each))


MONEY = {"pnl", "expectancy", "best_trip", "worst_trip", "fees", "funding", "slippage", "gross"}


@pytest.mark.parametrize("times", [2, 10])
def test_ten_times_the_money_is_the_same_result_ten_times(times: int) -> None:
    tape = walk(7, 2_000)
    found = traded(tape, 7)
    scaled, bigger = found.fills.copy(), found.state.copy()
    for name in ("qty", "cost", "fee_e8", "pnl_e8"):
        scaled[name] *= times
    venue = found.venue.copy()
    for record in (bigger, venue):
        for name in ("realised_e8", "fees_e8", "funding_e8"):
            record[name] *= times
    venue["slippage_e8"] *= times
    big = replace(found, fills=scaled, state=bigger, venue=venue, day_equity_e8=found.day_equity_e8 * times)
    market = benchmark_of(tape, unit_e8=UNIT_E8)
    one = measure(found, wallet_e8=WALLET_E8, bars=2_000, market=market).as_dict()
    many = measure(big, wallet_e8=WALLET_E8 * times, bars=2_000, market=market).as_dict()
    assert one.keys() == many.keys()
    for name, value in one.items():
        wanted = value * times if name in MONEY else value
        assert many[name] == (None if value is None else pytest.approx(wanted)), name


# excursions ---


def patient(found: Run, tape: Tape) -> list[tuple[float, float]]:
    "Excursions looked up bar by bar: which prices were met while which position was held."
    seen = []
    for number in dict.fromkeys(found.fills["trip"].tolist()):
        fills = [fill for fill in found.fills if fill["trip"] == number]
        entered = sum(int(fill["cost"]) for fill in fills if fill["side"] == fills[0]["side"])
        stands, qty, cost = [0.0], 0, 0
        for fill, after in zip(fills, [*fills[1:], None], strict=True):
            qty += int(fill["side"] * fill["qty"])
            cost += int(fill["side"] * fill["cost"])
            stands.append(qty * fill["cost"] / fill["qty"] - cost)
            since, until = int(fill["ts_ms"]), int(after["ts_ms"]) if after is not None else -1
            for i in range((since - SINCE) // HOUR, (until - SINCE) // HOUR + 1):
                opened, closed = SINCE + i * HOUR, SINCE + (i + 1) * HOUR
                met = [tape.high[i], tape.low[i]] if since <= opened and closed <= until else []
                met += [tape.open[i]] if since <= opened < until else []
                met += [tape.close[i]] if since < closed <= until else []
                stands += [qty * float(price) - cost for price in met]
        seen.append((-min(stands) / entered, max(stands) / entered))
    return seen


SHAPES: list[dict[str, float]] = [
    {},
    {"sl_ratio": 3.0, "tp_ratio": 5.0},
    {"split": Split.TIME, "split_count": 3, "split_interval_ms": 2 * HOUR, "split_expiry_ms": 9 * HOUR},
    {"split": Split.PRICE, "split_count": 3, "split_gap": 0.004, "split_expiry_ms": 9 * HOUR, "sl_ratio": 4.0},
]


@pytest.mark.parametrize("shape", SHAPES, ids=["plain", "stops", "time", "price"])
@pytest.mark.parametrize("seed", range(5))
def test_excursions_are_those_of_a_patient_reader_and_hold_the_result(seed: int, shape: dict[str, float]) -> None:
    tape = walk(seed, 1_500)
    found = traded(tape, seed, **shape)
    mae, mfe = excursions(found, tape)
    trips = round_trips(found)
    assert len(mae) == len(mfe) == len(trips)
    np.testing.assert_allclose(np.stack([mae, mfe], axis=1), patient(found, tape), rtol=1e-9, atol=1e-12)
    result = trips["side"] * (trips["exit"] / trips["entry"] - 1)
    assert (mae >= 0).all() and (mfe >= 0).all()
    assert (result <= mfe + 1e-12).all() and (result >= -mae - 1e-12).all()
    inside = found.fills["ts_ms"] % HOUR != 0
    assert inside.any() == bool(shape)  # fills that split a bar are among them


# any run ---


def test_every_number_is_known_or_none_whatever_a_run_did() -> None:
    tape = walk(1, 24)
    paths = [[], [0], [WALLET_E8], [WALLET_E8] * 400, [5, 0, 0, -7, 3], [-WALLET_E8, WALLET_E8] * 40, range(1, 99)]
    for path in paths:
        for given_market in (None, benchmark_of(tape, unit_e8=UNIT_E8)):
            stats = measure(lived(list(path)), wallet_e8=WALLET_E8, bars=24, market=given_market)
            assert json.loads(json.dumps(stats.as_dict(), allow_nan=False)) == stats.as_dict()
            assert "nan" not in stats._repr_html_().lower()


@given(
    path=arrays(np.int64, st.integers(0, 40), elements=st.integers(-(10**13), 10**15)),
    trips=st.lists(st.tuples(st.integers(1, 10**6), st.integers(-(10**12), 10**12)), max_size=6),
)
def test_no_path_of_money_makes_a_warning_or_a_nan(path: np.ndarray, trips: list[tuple[int, int]]) -> None:
    fills = np.zeros(2 * len(trips), FILL)
    fills["trip"], fills["side"], fills["qty"] = np.arange(len(fills)) // 2, 1 - np.arange(len(fills)) % 2 * 2, 1
    for i, (cost, pnl_e8) in enumerate(trips):
        fills["cost"][2 * i : 2 * i + 2], fills["pnl_e8"][2 * i + 1] = cost, pnl_e8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stats = stats_of(lived(path, fills=fills))
        told = statistics(in_words(stats, "USDT"))
    json.dumps(stats.as_dict(), allow_nan=False)
    assert "nan" not in told.lower() and "inf" not in told.replace("infl", "")
    assert stats.trades == len(trips)
    if stats.max_drawdown_days is not None:
        assert 0 <= stats.max_drawdown_days <= len(path)
    if len(path) > 1:
        assert stats.var_95 <= stats.cvar_95 + 1e-12 <= -stats.worst_day + 2e-12


def test_no_number_is_kept_from_the_reader() -> None:
    tape = walk(2, 2_000)
    stats = stats_of(traded(tape, 2), tape)
    assert {name for name, value in stats.as_dict().items() if value is None} <= {"costs_frac"}
    for field in fields(Stats):
        other = replace(stats, **{field.name: (getattr(stats, field.name) or 0) + 7})
        assert in_words(other) != in_words(stats), field.name


@pytest.mark.parametrize(
    ("costs_frac", "told"),
    [(None, "–"), (0.25, "25.0 %"), (10.0, "1,000.0 %"), (95.667, "–"), (-0.5, "−50.0 %"), (-95.667, "–")],
)
def test_costs_are_no_multiple_of_a_profit_that_is_next_to_nothing(costs_frac: float | None, told: str) -> None:
    tape = walk(2, 2_000)
    words = dict(in_words(replace(stats_of(traded(tape, 2), tape), costs_frac=costs_frac)))
    assert words["costs, of the profit before them"] == told


def test_words_say_their_unit_and_nothing_comes_out_as_markup() -> None:
    tape = walk(2, 2_000)
    rows = in_words(stats_of(traded(tape, 2), tape), "<b>")
    names = [name for name, _ in rows]
    assert len(set(names)) == len(names)
    percent = {name for name, value in rows if value.endswith("%")}
    assert {"return", "return a year, compounded", "largest drawdown", "win rate", "market return"} <= percent
    assert [value for _, value in rows].count("") == statistics(rows).count("<table") == 6
    assert "<b>" not in statistics(rows) and "&lt;b&gt;" in statistics(rows)
