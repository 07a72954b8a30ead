"""Money, to the last unit: Bybit's published examples through the whole engine, gaps that never pay, funding, liquidation, dearer costs."""

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotrader.config.sections import Backtest
from autotrader.core.market import Instrument, VenueRules
from autotrader.engine.events import PARAMS, Purpose
from autotrader.engine.fills import new_costs
from autotrader.engine.metrics import round_trips
from autotrader.engine.signals import Signals
from autotrader.engine.simulate import Run, run
from autotrader.engine.tape import Tape
from autotrader.strategy.setup import costs_for

E8 = 10**8
HOUR = 3_600_000
WALLET_E8 = 100_000 * E8
LONG, SHORT = 1, -1


def market(tick: str, step: str, **rules: Decimal) -> Instrument:
    fees = {"maker_fee": Decimal("0.0002"), "taker_fee": Decimal("0.0006"), "maintenance_margin": Decimal("0.005")}
    return Instrument(
        venue="bybit",
        symbol="TEST",
        rules=VenueRules(
            tick_size=Decimal(tick),
            qty_step=Decimal(step),
            min_qty=Decimal(step),
            max_qty=Decimal(10**6),
            max_market_qty=Decimal(10**6),
            min_notional=Decimal(0),
            max_leverage=Decimal(100),
            **{**fees, **rules},
        ),
    )


def params_of(instrument: Instrument, size: float, **fields: float) -> np.ndarray:
    params = np.zeros(1, PARAMS)
    rules = instrument.rules
    usual = {
        **{"tick": float(rules.tick_size), "step": float(rules.qty_step), "unit_e8": rules.unit_e8, "min_qty": 1},
        **{"max_qty": 10**9, "size": size, "max_leverage": 100.0, "split_count": 1, "resume_size": 1.0},
        **{"allow_long": 1, "allow_short": 1, "max_signal_age_ms": HOUR},
    }
    for name, value in {**usual, **fields}.items():
        params[name] = value
    return params


def tape_of(
    bars: list[tuple[int, int, int, int]],  # open, high, low, close in ticks
    marks: list[tuple[int, int]] | None = None,  # high, low
    funding: dict[int, float] | None = None,  # stamp → rate
    bar_ms: int = HOUR,
) -> Tape:
    opens, highs, lows, closes = (np.array(column, np.int64) for column in zip(*bars, strict=True))
    none, stamps = np.zeros(0, np.int64), dict(sorted((funding or {}).items()))
    mark_high, mark_low = np.array(marks, np.int64).T.copy() if marks else (none, none)
    return Tape(
        bar_ms, np.arange(len(bars), dtype=np.int64) * bar_ms, opens, highs, lows, closes, np.full(len(bars), 10**9), mark_high,
        mark_low, none, closes, np.array(list(stamps), np.int64), np.array(list(stamps.values()), float),
    )  # fmt: skip


def played(
    instrument: Instrument,
    tape: Tape,
    *,
    side: int = LONG,
    size: float,
    leave: int | None = None,  # bar after whose close the position goes
    atr: float = 1.0,
    leverage: float = 0.0,
    slippage_bps: float = 0.0,
    **fields: float,
) -> Run:
    "One market entry after the first bar."
    n = len(tape.open_ms)
    exits = np.zeros(n)
    if leave is not None:
        exits[leave] = 3
    signals = Signals(side * (np.arange(n) == 0), exits, np.ones(n))
    costs = new_costs(instrument, leverage=leverage, slippage_bps=slippage_bps)
    params = params_of(instrument, size, **fields)
    return run(tape, signals, np.full(n, atr), params=params, costs=costs, wallet_e8=WALLET_E8)


def flat(price: int, bars: int) -> list[tuple[int, int, int, int]]:
    return [(price,) * 4] * bars


# Bybit's own samples ---


@pytest.mark.parametrize(
    ("tick", "step", "size", "price", "fee"),
    [("0.0001", "0.1", 88.0, "0.3615", "0.0190872"), ("0.01", "0.01", 0.1, "1190.15", "0.071409")],
)
def test_fees_are_bybits_to_the_last_digit(tick: str, step: str, size: float, price: str, fee: str) -> None:
    instrument = market(tick, step)
    found = played(instrument, tape_of(flat(instrument.ticks(Decimal(price)), 3)), size=size)
    assert found.fills["fee_e8"].tolist() == [int(Decimal(fee) * E8)]


def test_a_closed_position_earns_what_bybit_says_with_both_fees() -> None:
    instrument = market("0.0001", "0.01")
    entry, away = (instrument.ticks(Decimal(price)) for price in ("3584.9255", "3541.795"))
    bars = [*flat(entry, 2), *flat(away, 2)]
    found = played(instrument, tape_of(bars), size=1.0, leave=1)
    assert int(found.state["wallet_e8"][0]) - WALLET_E8 == int(Decimal("-47.4065323") * E8)
    assert round_trips(found)["pnl_e8"].tolist() == [int(Decimal("-47.4065323") * E8)]


@pytest.mark.parametrize("side", [LONG, SHORT])
@pytest.mark.parametrize("rate", [1e-4, -1e-4])
def test_funding_is_bybits_and_a_long_pays_a_positive_rate(side: int, rate: float) -> None:
    instrument = market("0.0001", "0.1")
    found = played(instrument, tape_of(flat(3_676, 4), funding={2 * HOUR: rate}), side=side, size=100.0)
    assert int(found.state["funding_e8"][0]) == -side * int(np.sign(rate)) * 367_600  # 0.003676 USDT


def test_change_is_cash_flow_plus_funding_less_fees() -> None:
    instrument = market("0.0001", "0.1")
    bars = [*flat(3_676, 2), *flat(3_700, 3)]
    found = played(instrument, tape_of(bars, funding={2 * HOUR: 1e-4, 3 * HOUR: 2e-4}), size=100.0, leave=3)
    state = found.state[0]
    assert state["funding_e8"] == -(100 * 3_676 + 2 * 100 * 3_700)  # 0.003676 and 0.0074 USDT
    assert state["wallet_e8"] - WALLET_E8 == state["realised_e8"] + state["funding_e8"] - state["fees_e8"]
    assert state["wallet_e8"] == found.venue["wallet_e8"][0]


# funding ---


@pytest.mark.parametrize("hours", [4, 8])
def test_funding_is_charged_at_each_stamp_of_the_symbols_interval_to_who_holds_then(hours: int) -> None:
    instrument = market("0.1", "0.001")
    stamps = {k * hours * HOUR: 1e-4 for k in range(8)}
    bars = flat(200_000, 30)
    found = played(instrument, tape_of(bars, funding=stamps), size=1.0, leave=20)  # held from 1:00 to 21:00
    due = sum(HOUR <= stamp <= 21 * HOUR for stamp in stamps)
    assert due == 20 // hours
    assert int(found.state["funding_e8"][0]) == -due * 2 * E8  # 20,000 × 0.0001 each


def test_a_position_that_opens_or_closes_at_the_stamp_pays_only_if_it_was_open_then() -> None:
    instrument = market("0.1", "0.001")
    bars = flat(200_000, 6)
    assert (
        played(instrument, tape_of(bars, funding={HOUR: 1e-4}), size=1.0).state["funding_e8"][0] == 0
    )  # filled after it
    held = played(instrument, tape_of(bars, funding={3 * HOUR: 1e-4}), size=1.0, leave=2)  # leaves at the open after it
    assert held.state["funding_e8"][0] == -2 * E8


def test_funding_is_valued_at_the_mark_where_there_is_one() -> None:
    instrument = market("0.1", "0.001")
    bars = flat(200_000, 4)
    around = [(200_500, 199_500)] * 4
    above = [(202_000, 201_000)] * 4
    assert played(instrument, tape_of(bars, around, {2 * HOUR: 1e-4}), size=1.0).state["funding_e8"][0] == -2 * E8
    dear = played(instrument, tape_of(bars, above, {2 * HOUR: 1e-4}), size=1.0)
    assert dear.state["funding_e8"][0] == -int(Decimal("2.01") * E8)  # the mark never was below 20,100


# liquidation ---


@pytest.mark.parametrize(("side", "safe", "fatal"), [(LONG, 197_001, 197_000), (SHORT, 202_999, 203_000)])
def test_fifty_times_leverage_is_liquidated_at_19700_and_loses_its_margin(side: int, safe: int, fatal: int) -> None:
    instrument = market("0.1", "0.001", taker_fee=Decimal(0))
    for reached, count in ((safe, 0), (fatal, 1)):
        bars = [*flat(200_000, 2), (200_000, max(200_000, reached), min(200_000, reached), 200_000), *flat(200_000, 1)]
        found = played(instrument, tape_of(bars), side=side, size=1.0, leverage=50.0)
        assert found.venue["liquidations"][0] == count
        assert int(found.state["wallet_e8"][0]) == WALLET_E8 - count * 400 * E8  # all of the initial margin
        assert found.state["wallet_e8"][0] == found.venue["wallet_e8"][0]


def test_the_mark_price_liquidates_and_the_traded_price_does_not() -> None:
    instrument = market("0.1", "0.001")
    dip = [*flat(200_000, 2), (200_000, 200_000, 190_000, 200_000), *flat(200_000, 1)]
    calm = [(200_100, 199_900)] * 4
    assert played(instrument, tape_of(dip, calm), size=1.0, leverage=50.0).venue["liquidations"][0] == 0
    low_mark = [*calm[:2], (200_100, 197_000), calm[3]]
    assert (
        played(instrument, tape_of(flat(200_000, 4), low_mark), size=1.0, leverage=50.0).venue["liquidations"][0] == 1
    )


@given(
    side=st.sampled_from([LONG, SHORT]),
    stop=st.integers(1, 6_000),  # ticks from the entry
    opened=st.integers(-9_000, 3_000),  # where the third bar opens, ticks in our favour
    reach=st.integers(0, 9_000),  # how far it then goes against us
    leverage=st.sampled_from([20.0, 50.0, 100.0]),
)
def test_whichever_comes_first_ends_the_position_and_neither_flatters(
    side: int, stop: int, opened: int, reach: int, leverage: float
) -> None:
    instrument = market("0.1", "0.001", taker_fee=Decimal(0))
    entry = 200_000
    price, worst = entry + side * opened, entry + side * (opened - reach)
    bar = (price, max(price, worst), min(price, worst), worst)
    found = played(
        instrument, tape_of([*flat(entry, 2), bar, *flat(worst, 1)]), side=side, size=1.0, leverage=leverage, atr=0.1, sl_ratio=stop
    )  # fmt: skip
    margin_e8, per_tick_e8 = int(20_000 / leverage * E8), E8 // 10
    to_liquidation = round(entry * (1 / leverage - 0.005))  # ticks
    lost_e8 = WALLET_E8 - int(found.state["wallet_e8"][0])
    deepest = reach - opened
    if found.venue["liquidations"][0]:
        assert deepest >= to_liquidation and (stop > to_liquidation or -opened >= to_liquidation)
        assert lost_e8 == margin_e8  # isolated: all of it, and no more however far the bar jumped
        assert margin_e8 >= to_liquidation * per_tick_e8
    elif len(found.fills) == 2:  # the stop: at its price, or at the open that lies beyond it
        assert found.fills["purpose"][1] == Purpose.STOP
        assert lost_e8 == max(stop, -opened) * per_tick_e8
    else:
        assert deepest < min(stop, to_liquidation)


# gaps ---


@given(
    side=st.sampled_from([LONG, SHORT]),
    opened=st.integers(-400, 400),
    up=st.integers(0, 400),
    down=st.integers(0, 400),
    slippage_bps=st.sampled_from([0.0, 3.0]),
)
def test_stops_and_targets_that_are_jumped_over_fill_at_the_open_or_worse(
    side: int, opened: int, up: int, down: int, slippage_bps: float
) -> None:
    instrument = market("0.1", "0.001")
    entry = 20_000
    bar = (entry + opened, entry + opened + up, entry + opened - down, entry + opened)
    found = played(
        instrument, tape_of([*flat(entry, 2), bar]), side=side, size=1.0, atr=0.1, sl_ratio=100.0, tp_ratio=1.5, slippage_bps=slippage_bps
    )  # fmt: skip
    if len(found.fills) < 2:
        return
    got = side * (found.fills["cost"][1] // found.fills["qty"][1])  # higher is better for us
    state = found.fills["cost"][0] // found.fills["qty"][0]
    level = state + side * (-100 if found.fills["purpose"][1] == Purpose.STOP else 150)
    jumped = side * (bar[0] - level) < 0 if found.fills["purpose"][1] == Purpose.STOP else side * (bar[0] - level) > 0
    assert got <= side * (bar[0] if jumped else level)
    if slippage_bps == 0.0:
        assert got == side * (bar[0] if jumped else level)


@given(
    side=st.sampled_from([LONG, SHORT]), opened=st.integers(-300, 300), up=st.integers(0, 300), down=st.integers(0, 300)
)
def test_limit_parts_fill_at_their_price_or_at_the_open_that_passed_it(
    side: int, opened: int, up: int, down: int
) -> None:
    instrument = market("0.1", "0.001")
    entry = 20_000
    bar = (entry + opened, entry + opened + up, entry + opened - down, entry + opened)
    found = played(
        instrument, tape_of([*flat(entry, 2), bar]), side=side, size=3.0, split=2, split_count=3, split_gap=0.005, split_expiry_ms=9 * HOUR
    )  # fmt: skip
    for fill in found.fills[1:]:
        (level,) = [entry - side * 100 * k for k in (1, 2) if fill["key"] == found.fills["key"][0] + k]
        paid = side * (fill["cost"] // fill["qty"])  # lower is better for us
        assert paid == min(side * bar[0], side * level)
        reached = bar[2] < level if side > 0 else bar[1] > level
        assert reached or side * (bar[0] - level) <= 0


# stress ---


@pytest.mark.parametrize("k", [0.0, 0.5, 1.0, 2.0, 20.0])
def test_stress_multiplies_what_is_paid_exactly_and_a_rebate_never_grows(k: float) -> None:
    instrument = market("0.1", "0.001", taker_fee=Decimal("0.0005"), maker_fee=Decimal("-0.0001"))
    plain, dear = (
        costs_for(Backtest(stress=stress, slippage_bps=2.0, spread_bps=4.0), instrument, typical_price=20_000.0)[0]
        for stress in (1.0, k)
    )
    assert dear["taker_fee"] == k * plain["taker_fee"] and dear["slippage"] == pytest.approx(
        k * plain["slippage"], rel=1e-15
    )
    assert dear["min_slip"] == k * plain["min_slip"]  # 40 ticks of half a spread
    assert dear["maker_fee"] == min(k, 1.0) * -0.0001
    own = Backtest(stress=k, taker_fee_bps=7.0, maker_fee_bps=2.0)
    assert costs_for(own, instrument, typical_price=20_000.0)["taker_fee"][0] == k * 7.0 / 1e4
    assert costs_for(own, instrument, typical_price=20_000.0)["maker_fee"][0] == k * 2.0 / 1e4


def test_fees_paid_in_a_run_double_with_a_stress_of_two() -> None:
    instrument, bars = market("0.1", "0.001"), tape_of(flat(200_000, 6))
    signals, params = Signals([1, 0, 0, 0, 0, 0], [0, 0, 3, 0, 0, 0], np.ones(6)), params_of(instrument, 1.0)
    fees = []
    for k in (1.0, 2.0):
        assumed = Backtest(stress=k, slippage_bps=0.0, spread_bps=0.0)
        costs = costs_for(assumed, instrument, typical_price=20_000.0)
        found = run(bars, signals, np.ones(6), params=params, costs=costs, wallet_e8=WALLET_E8)
        fees.append(int(found.state["fees_e8"][0]))
    assert fees == [24 * E8, 48 * E8]
