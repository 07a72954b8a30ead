"""Values come back as they went in, on both databases."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from autotrader.store.database import Store, insert_new, upsert
from autotrader.store.tables import BotBalance, Decision, FundingRate, SystemEvent

MONEY = st.decimals(min_value=Decimal("-1e18"), max_value=Decimal("1e18"), places=12) | st.decimals(
    allow_nan=False, allow_infinity=False, min_value=Decimal("-1e30"), max_value=Decimal("1e30")
).filter(lambda value: value.as_tuple().exponent >= -40)


def balance(ts_ms: int, wallet: Decimal) -> dict[str, object]:
    amounts = ("equity_usdt", "position_qty", "mark_price", "realised_usdt", "fees_usdt", "funding_usdt")
    return {"bot": "sub_bot_A", "ts_ms": ts_ms, "wallet_usdt": wallet, **dict.fromkeys(amounts, Decimal(0))}


@settings(max_examples=60)
@given(amounts=st.lists(MONEY, min_size=1, max_size=20))
def test_money_is_exact_to_the_last_digit(shared_store: Store, amounts: list[Decimal]) -> None:
    with shared_store.begin() as connection:
        connection.execute(sa.delete(BotBalance))
        connection.execute(sa.insert(BotBalance), [balance(number, amount) for number, amount in enumerate(amounts)])
    with shared_store.read() as connection:
        stored = connection.execute(sa.select(BotBalance.wallet_usdt).order_by(BotBalance.ts_ms)).scalars().all()
    assert stored == amounts
    assert all(isinstance(amount, Decimal) for amount in stored)


@pytest.mark.parametrize("amount", [0.1, np.float64(0.1), Decimal("NaN"), Decimal("Infinity")])
def test_what_is_not_exact_is_not_money(shared_store: Store, amount: object) -> None:
    with (
        pytest.raises(sa.exc.StatementError, match="money must be a finite Decimal"),
        shared_store.begin() as connection,
    ):
        connection.execute(sa.insert(BotBalance), [balance(-1, amount)])  # type: ignore[arg-type]


@pytest.mark.filterwarnings("error")
def test_money_causes_no_warning(store: Store) -> None:
    with store.begin() as connection:
        connection.execute(sa.insert(BotBalance), [balance(1, Decimal("0.10"))])
    with store.read() as connection:
        assert str(connection.execute(sa.select(BotBalance.wallet_usdt)).scalar_one()) == "0.10"


def system_event(stamp: datetime, details: object = None) -> dict[str, object]:
    return {"timestamp": stamp, "level": "INFO", "event_type": "STARTUP", "message": "", "details": details}


@settings(max_examples=40)
@given(
    st.datetimes(min_value=datetime.fromisoformat("2010-01-01"), max_value=datetime.fromisoformat("2100-01-01")),
    st.integers(-14 * 60, 14 * 60),
)
def test_a_stamp_of_any_zone_comes_back_as_the_same_moment_in_utc(
    shared_store: Store, naive: datetime, minutes: int
) -> None:
    stamp = naive.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    with shared_store.begin() as connection:
        connection.execute(sa.delete(SystemEvent))
        connection.execute(sa.insert(SystemEvent), [system_event(stamp)])
    with shared_store.read() as connection:
        stored = connection.execute(sa.select(SystemEvent.timestamp)).scalar_one()
        found = connection.execute(sa.select(SystemEvent.id).where(SystemEvent.timestamp == stamp)).all()
    assert stored == stamp and stored.tzinfo is UTC and len(found) == 1


def test_a_stamp_without_a_zone_is_refused(store: Store) -> None:
    with pytest.raises(sa.exc.StatementError, match="a stamp needs its zone"), store.begin() as connection:
        connection.execute(sa.insert(SystemEvent), [system_event(datetime(2025, 3, 8))])  # noqa: DTZ001


def test_indicators_that_are_not_known_yet_become_null(store: Store) -> None:
    seen = {
        "rsi": np.nan,
        "atr": np.float64(812.5),
        "n": np.int64(3),
        "up": np.bool_(True),
        "levels": [np.inf, 1],
        "名": "é",
    }
    row = {
        "bot": "sub_bot_A", "bar_ms": 0, "known_ms": 0, "source": "strategy", "strategy": "x", "direction": 0, "exits": 0,
        "confidence": 0.5, "indicators": seen,
    }  # fmt: skip
    with store.begin() as connection:
        connection.execute(sa.insert(Decision), [row])
    with store.read() as connection:
        stored = connection.execute(sa.select(Decision.indicators)).scalar_one()
    assert stored == {"rsi": None, "atr": 812.5, "n": 3, "up": True, "levels": [None, 1], "名": "é"}


def test_a_repeated_row_is_replaced_or_left_alone_as_asked(store: Store) -> None:
    def rows(*rates: float) -> list[dict[str, object]]:
        return [{"venue": "v", "symbol": "s", "ts_ms": ts_ms, "rate": rate} for ts_ms, rate in enumerate(rates)]

    def stored() -> list[float]:
        with store.read() as connection:
            return list(connection.execute(sa.select(FundingRate.rate).order_by(FundingRate.ts_ms)).scalars())

    with store.begin() as connection:
        assert insert_new(connection, FundingRate, rows(1.0)) == 1
        assert insert_new(connection, FundingRate, rows(5.0, 2.0)) == 1
        assert insert_new(connection, FundingRate, []) == 0
    assert stored() == [1.0, 2.0]
    with store.begin() as connection:
        assert upsert(connection, FundingRate, rows(3.0)) == 1
        assert upsert(connection, FundingRate, []) == 0
    assert stored() == [3.0, 2.0]
