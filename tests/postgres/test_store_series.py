"""Funding, open interest and rules: as published, as known then."""

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest

from autotrader.config.sections import InstrumentSettings
from autotrader.core.errors import DataError
from autotrader.core.market import Instrument, MarginTier, VenueRules
from autotrader.store.database import Store
from autotrader.store.series import (
    declared_of,
    forget_declared,
    load_funding,
    load_instrument,
    load_open_interest,
    save_declared,
    save_funding,
    save_instrument,
    save_open_interest,
    told_of,
)

STEP_MS = 8 * 3_600_000
RULES = VenueRules(
    tick_size=Decimal("0.10"),
    qty_step=Decimal("0.001"),
    min_qty=Decimal("0.001"),
    max_qty=Decimal("1190.000"),
    max_market_qty=Decimal("119.000"),
    min_notional=Decimal("5"),
    maker_fee=Decimal("0.0002"),
    taker_fee=Decimal("0.00055"),
    max_leverage=Decimal("100.00"),
    maintenance_margin=Decimal("0.005"),
    funding_interval_ms=STEP_MS,
    since_ms=1_000_000,
)


def test_funding_comes_back_bit_for_bit_and_newer_values_win(store: Store) -> None:
    stamps, rates = np.arange(50) * STEP_MS, np.random.default_rng(0).normal(0, 1e-4, 50)
    assert save_funding(store, "bybit", "BTCUSDT", stamps[::-1], rates[::-1]) == 50
    save_funding(store, "bybit", "BTCUSDT", stamps[:1], [0.5])
    save_funding(store, "bybit", "ETHUSDT", stamps, rates)
    found, values = load_funding(store, "bybit", "BTCUSDT")
    assert found.tolist() == stamps.tolist() and values.tolist() == [0.5, *rates[1:].tolist()]
    found, values = load_funding(store, "bybit", "BTCUSDT", since_ms=STEP_MS, until_ms=3 * STEP_MS)
    assert found.tolist() == [STEP_MS, 2 * STEP_MS] and (found.dtype, values.dtype) == (np.int64, np.float64)


def test_nothing_stored_is_empty_and_not_zero(store: Store) -> None:
    assert [len(column) for column in load_funding(store, "bybit", "BTCUSDT")] == [0, 0]
    assert [column.dtype for column in load_open_interest(store, "bybit", "BTCUSDT")] == [
        np.int64,
        np.int64,
        np.float64,
    ]


def test_open_interest_keeps_when_it_was_known(store: Store) -> None:
    save_open_interest(store, "bybit", "BTCUSDT", [0, 10], [5, 12], [1.5, 2.5])
    assert [column.tolist() for column in load_open_interest(store, "bybit", "BTCUSDT")] == [
        [0, 10],
        [5, 12],
        [1.5, 2.5],
    ]


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        (([0, 1], [0, 1], [1.0]), "different lengths"),
        (([0, 1], [0, 1], [1.0, np.inf]), "value inf at 1970-01-01T00:00:00.001Z is not a number"),
        (([0, 1], [0, 0], [1.0, 2.0]), "the value of 1970-01-01T00:00:00.001Z is known before its moment"),
    ],
)
def test_open_interest_that_cannot_be_true_leaves_nothing(
    store: Store, columns: tuple[list[float], ...], complaint: str
) -> None:
    with pytest.raises(DataError, match=complaint):
        save_open_interest(store, "bybit", "BTCUSDT", *columns)
    assert len(load_open_interest(store, "bybit", "BTCUSDT")[0]) == 0


def test_rules_are_those_of_the_day_and_exact(store: Store) -> None:
    later = replace(RULES, tick_size=Decimal("0.5"), taker_fee=Decimal("0.0006"), since_ms=2_000_000)
    for rules in (later, RULES):
        save_instrument(store, Instrument(venue="bybit", symbol="BTCUSDT", rules=rules))
    for at_ms, rules in ((1_000_000, RULES), (1_999_999, RULES), (2_000_000, later), (9_000_000, later)):
        instrument = load_instrument(store, "bybit", "BTCUSDT", at_ms)
        assert instrument == Instrument(venue="bybit", symbol="BTCUSDT", rules=rules)
        assert str(instrument.rules.max_qty) == "1190.000"


def test_rules_saved_again_replace_those_of_the_same_day(store: Store) -> None:
    for fee in ("0.0006", "0.0004"):
        save_instrument(
            store, Instrument(venue="x", symbol="SPOT", kind="spot", rules=replace(RULES, taker_fee=Decimal(fee)))
        )
    instrument = load_instrument(store, "x", "SPOT", 1_000_000)
    assert (instrument.kind, instrument.rules.taker_fee) == ("spot", Decimal("0.0004"))


def test_rules_are_never_guessed(store: Store) -> None:
    save_instrument(store, Instrument(venue="bybit", symbol="BTCUSDT", rules=RULES))
    with pytest.raises(DataError, match=r"its rules are known from 1970-01-01T00:16:40Z on"):
        load_instrument(store, "bybit", "BTCUSDT", 999_999)
    with pytest.raises(DataError, match="the instrument is unknown"):
        load_instrument(store, "bybit", "ETHUSDT", 999_999)


def test_what_is_told_and_what_larger_positions_keep_come_back_exactly(store: Store) -> None:
    tiers = tuple(
        MarginTier(limit=Decimal(limit), maintenance_margin=Decimal(margin), max_leverage=Decimal(most))
        for limit, margin, most in (("20000.50", "0.0056", "90.00"), ("100000", "0.1", "5"))
    )
    for rules in (RULES, replace(RULES, margin_tiers=tiers, since_ms=2_000_000)):
        save_instrument(store, Instrument(venue="bybit", symbol="DOGEUSDT", rules=rules))
    assert load_instrument(store, "bybit", "DOGEUSDT", 2_000_000).rules.margin_tiers == tiers
    assert load_instrument(store, "bybit", "DOGEUSDT", 1_500_000).rules.margin_tiers == ()
    told = InstrumentSettings(
        venue="gate",
        symbol="DOGEUSDT",
        tick_size="0.0000000001",
        taker_fee_bps=4.5,
        margin_tiers=((20_000, "0.01", 50),),
    )
    save_declared(store, told, now_ms=1)
    assert declared_of(store, "gate", "DOGEUSDT") == told
    assert told_of(store, "gate", "DOGEUSDT")["tick_size"] == (Decimal("1e-10"), "data rules")
    assert forget_declared(store, "gate", "DOGEUSDT") and told_of(store, "gate", "DOGEUSDT") == {}
