"""The tests beside this one can fail: one small number changed on one side only, and they do."""

import pytest
from cases import stopped_case
from oracle import assert_same_trades, ours, random_market
from pair import assert_same_run, by_reference, simulated

from autotrader.engine.events import StopKind

CASES = [stopped_case(seed, 120) for seed in range(90)]
NUDGES = {
    "taker_fee": 0.0001,  # one basis point
    "maker_fee": 0.0001,
    "slippage": 0.0001,
    "min_slip": 1,
    "participation": 0.01,
    "maintenance": 0.01,
    "stop_delay_ms": 5_000,
    "leverage": 0.5,
    "sl_ratio": 0.1,
    "tp_ratio": 0.1,
    "trail_step": 0.1,
    "break_even_at": 0.4,
    "round_trip_cost": 0.001,
    "size": 0.01,
    "split_interval_ms": 60_000,
    "split_gap": 0.001,
    "max_drawdown": 0.01,
    "daily_loss": 0.005,
    "cooldown_ms": 10 * 3_600_000,
    "min_confidence": 0.1,
}


@pytest.fixture(scope="module")
def desks() -> list:
    return [by_reference(case) for case in CASES]


@pytest.mark.parametrize("name", NUDGES)
def test_the_reference_notices(name: str, desks: list) -> None:
    noticed = 0
    for case, desk in zip(CASES, desks, strict=True):
        value = (case.params if name in case.params.dtype.names else case.costs)[name][0]
        if value > 0:
            try:
                assert_same_run(case, simulated(case.changed(**{name: value + NUDGES[name]}), shortcuts=False), desk)
            except AssertionError:
                noticed += 1
    assert noticed


ORACLE_NUDGES = {  # with the kind of stop that it means something to
    "fee": (StopKind.FIXED, 0.0001),
    "sl_ratio": (StopKind.FIXED, 0.1),
    "tp_ratio": (StopKind.FIXED, 0.1),
    "steps": (StopKind.FIXED, 1),
    "trail_step": (StopKind.TRAILING, 0.3),
    "break_even_at": (StopKind.BREAK_EVEN, 0.3),
    "round_trip_cost": (StopKind.BREAK_EVEN, 0.001),
}


@pytest.mark.parametrize("name", ORACLE_NUDGES)
def test_the_oracle_notices(name: str) -> None:
    kind, nudge = ORACLE_NUDGES[name]
    markets = (random_market(seed, 120) for seed in range(999))
    market = next(m for m in markets if m.sl_kind == kind and m.fee * m.sl_ratio * m.tp_ratio > 0)
    assert_same_trades(market, ours(market))
    with pytest.raises(AssertionError):
        assert_same_trades(market, ours(market._replace(**{name: getattr(market, name) + nudge})))


def test_without_a_nudge_there_is_nothing_to_notice(desks: list) -> None:
    for case, desk in zip(CASES, desks, strict=True):
        assert_same_run(case, simulated(case, shortcuts=False), desk)
