"""Between integers and the venue's words nothing is lost, and nothing is heard twice."""

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotrader.bots.execution import Ears, bot_tag, key_of, link_id, to_event, to_protection, to_request
from autotrader.core.errors import ConfigError, DataError
from autotrader.core.market import from_e8
from autotrader.core.ports import (
    OrderState,
    OrderType,
    OrderUpdate,
    Origin,
    PositionCause,
    PositionUpdate,
    ProtectionUpdate,
    Side,
    WalletCause,
    WalletUpdate,
)
from autotrader.data.instruments import KNOWN
from autotrader.engine.events import (
    INTENT,
    Cause,
    Done,
    EventKind,
    IntentKind,
    OrderKind,
    Refusal,
    stop_key,
    target_key,
)

BTC = KNOWN[("bybit", "BTCUSDT")]
BOT = "sub_bot_A"
whole = st.integers(1, 10**9)


def _update(**changes: object) -> OrderUpdate:
    update = OrderUpdate(
        number=1,
        ts_ms=0,
        symbol="BTCUSDT",
        order_id="v-1",
        link_id=link_id(BOT, trip=1, key=1, attempt=0),
        origin=Origin.ORDER,
        side=Side.BUY,
        state=OrderState.LIVE,
        qty=Decimal(0),
        value=Decimal(0),
        fee=Decimal(0),
    )
    return replace(update, **changes)  # type: ignore[arg-type]


@given(
    bot=st.text(min_size=1, max_size=30),
    trip=st.integers(0, 10**6),
    key=st.integers(1, 10**7),
    attempt=st.integers(0, 99),
)
def test_an_order_name_fits_every_venue_and_leads_back_to_its_key(bot: str, trip: int, key: int, attempt: int) -> None:
    name = link_id(bot, trip=trip, key=key, attempt=attempt)
    assert name == link_id(bot, trip=trip, key=key, attempt=attempt)
    assert 1 <= len(name) <= 36 and set(name) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert key_of(bot, name) == key


def test_two_bots_never_share_an_order_name() -> None:
    bots = ["sub_bot_A", "sub_bot_B", "sub-bot-A", "sub bot A", "ロボット", "a" * 14, "a" * 15, "a" * 16, "A" * 15]
    assert len({bot_tag(bot) for bot in bots}) == len(bots)
    name = link_id("sub_bot_A", trip=1, key=1, attempt=0)
    assert [bot for bot in bots if key_of(bot, name) is not None] == ["sub_bot_A"]


def test_a_name_that_would_be_too_long_is_refused_instead_of_cut() -> None:
    with pytest.raises(ConfigError, match="a venue takes 36"):
        link_id("a" * 14, trip=10**9, key=10**9, attempt=0)


@given(qty=whole, price=whole, stop=whole, target=whole, side=st.sampled_from((-1, 1)), limit=st.booleans())
def test_a_request_says_exactly_what_the_intent_wanted(
    qty: int, price: int, stop: int, target: int, side: int, limit: bool
) -> None:
    wish = np.zeros(1, INTENT)
    fields = {"kind": IntentKind.PLACE, "qty": qty, "price": price, "stop": stop, "target": target, "side": side}
    for name, value in fields.items():
        wish[name] = value
    wish["order"] = OrderKind.LIMIT if limit else OrderKind.MARKET
    order = to_request(wish[0], link="x", instrument=BTC)
    assert BTC.steps(order.qty) == qty
    assert (order.price is None) if not limit else BTC.ticks(order.price) == price  # type: ignore[arg-type]
    assert order.type is (OrderType.LIMIT if limit else OrderType.MARKET)
    assert order.side is (Side.BUY if side > 0 else Side.SELL)
    levels = to_protection(wish[0], instrument=BTC)
    assert [BTC.ticks(level) for level in levels if level is not None] == [stop, target]


@given(qty=whole, cost=whole, fee=whole, state=st.sampled_from(OrderState), is_fill=st.booleans())
def test_a_report_becomes_an_event_without_losing_a_digit(
    qty: int, cost: int, fee: int, state: OrderState, is_fill: bool
) -> None:
    amounts = {"qty": BTC.qty(qty), "value": BTC.value(cost), "fee": from_e8(fee)}
    event = to_event(Ears(BOT, instrument=BTC), _update(state=state, is_fill=is_fill, **amounts), trip=1, ts_ms=5)
    assert event is not None
    expected = EventKind.FILL if is_fill else EventKind.ACK if state is OrderState.LIVE else EventKind.DONE
    assert (event["kind"][0], event["key"][0], event["ts_ms"][0]) == (expected, 1, 5)
    if expected != EventKind.ACK:
        assert (event["qty"][0], event["cost"][0], event["fee_e8"][0]) == (qty, cost, fee)


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (OrderState.FILLED, Done.FILLED),
        (OrderState.CANCELLED, Done.CANCELLED),
        (OrderState.REJECTED, Done.REJECTED),
        (OrderState.EXPIRED, Done.EXPIRED),
    ],
)
def test_every_end_of_an_order_has_its_code(state: OrderState, code: Done) -> None:
    event = to_event(Ears(BOT, instrument=BTC), _update(state=state), trip=1, ts_ms=0)
    assert event is not None and event["code"][0] == code


def test_a_late_word_about_an_old_stop_is_not_taken_for_the_new_one() -> None:
    ears = Ears(BOT, instrument=BTC)
    old = _update(order_id="s-1", link_id="", origin=Origin.STOP, is_fill=True, qty=Decimal(1), value=Decimal(50_000))
    first = to_event(ears, old, trip=3, ts_ms=0)
    again = to_event(ears, old, trip=4, ts_ms=9)
    fresh = to_event(ears, replace(old, order_id="s-2"), trip=4, ts_ms=9)
    target = to_event(ears, replace(old, order_id="t-1", origin=Origin.TARGET), trip=4, ts_ms=9)
    assert [int(e["key"][0]) for e in (first, again, fresh, target) if e is not None] == [
        stop_key(3),
        stop_key(3),
        stop_key(4),
        target_key(4),
    ]


def test_orders_of_others_are_not_ours() -> None:
    ears = Ears(BOT, instrument=BTC)
    for link in ("", "by-hand", "sub_bot_B-1-1-0", "sub_bot_A-1-x-0"):
        assert to_event(ears, _update(link_id=link), trip=1, ts_ms=0) is None


@given(numbers=st.lists(st.integers(1, 20), min_size=1, max_size=40))
def test_money_counts_once_in_whatever_order_and_number_it_is_reported(numbers: list[int]) -> None:
    ears = Ears(BOT, instrument=BTC)
    total = 0
    for number in numbers:
        paid = WalletUpdate(number=number, ts_ms=0, symbol="BTCUSDT", cause=WalletCause.FUNDING, amount=Decimal(number))
        event = to_event(ears, paid, trip=1, ts_ms=0)
        total += 0 if event is None else int(event["amount_e8"][0])
    assert total == sum(set(numbers)) * 10**8


@given(numbers=st.lists(st.integers(1, 20), min_size=1, max_size=40))
def test_an_older_protection_never_replaces_a_newer_one(numbers: list[int]) -> None:
    ears = Ears(BOT, instrument=BTC)
    stop = 0
    for number in numbers:
        update = ProtectionUpdate(number=number, ts_ms=0, symbol="BTCUSDT", stop=BTC.price(number), target=None)
        event = to_event(ears, update, trip=1, ts_ms=0)
        stop = stop if event is None else int(event["stop"][0])
    assert stop == max(numbers)


def test_a_bot_that_starts_again_knows_what_it_has_heard() -> None:
    first = Ears(BOT, instrument=BTC)
    paid = WalletUpdate(number=7, ts_ms=0, symbol="BTCUSDT", cause=WalletCause.FUNDING, amount=Decimal(1))
    guard = ProtectionUpdate(number=8, ts_ms=0, symbol="BTCUSDT", stop=Decimal(50_000), target=None)
    events = [to_event(first, update, trip=1, ts_ms=0) for update in (paid, guard)]
    again = Ears(BOT, instrument=BTC)
    again.recall([event[0] for event in events if event is not None], {"s-1": stop_key(1)})
    assert [to_event(again, update, trip=2, ts_ms=0) for update in (paid, guard)] == [None, None]
    stop = _update(order_id="s-1", link_id="", origin=Origin.STOP, is_fill=True, qty=Decimal(1), value=Decimal(1))
    event = to_event(again, stop, trip=2, ts_ms=0)
    assert event is not None and event["key"][0] == stop_key(1)


def test_a_refused_protection_says_whether_the_price_was_there_already() -> None:
    for number, (is_passed, code) in enumerate(((True, Refusal.PASSED), (False, Refusal.OTHER)), start=1):
        update = ProtectionUpdate(
            number=number, ts_ms=0, symbol="BTCUSDT", stop=Decimal(1), target=None, refused=True, is_passed=is_passed
        )
        event = to_event(Ears(BOT, instrument=BTC), update, trip=1, ts_ms=0)
        assert event is not None and (event["kind"][0], event["code"][0]) == (EventKind.PROTECT_FAILED, code)


def test_a_position_changed_by_others_is_told_with_its_cause_and_what_it_cost() -> None:
    update = PositionUpdate(
        number=3,
        ts_ms=0,
        symbol="BTCUSDT",
        cause=PositionCause.LIQUIDATION,
        qty=Decimal("-0.002"),
        value=Decimal("-120.0002"),
        gained=Decimal("-55.5"),
    )
    event = to_event(Ears(BOT, instrument=BTC), update, trip=1, ts_ms=0)
    assert event is not None
    assert (event["code"][0], event["qty"][0], event["amount_e8"][0]) == (Cause.LIQUIDATION, -2, -5_550_000_000)
    assert BTC.value(int(event["cost"][0])) == Decimal("-120.0002")


def test_a_quantity_between_two_steps_is_an_error_not_a_rounding() -> None:
    with pytest.raises(DataError, match="not a multiple"):
        to_event(Ears(BOT, instrument=BTC), _update(is_fill=True, qty=Decimal("0.0015")), trip=1, ts_ms=0)
