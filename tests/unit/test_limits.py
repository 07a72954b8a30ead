"""No sequence of accepted orders exceeds a cap, and nothing stops an exit."""

from dataclasses import replace
from decimal import Decimal
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from autotrader.bots.limits import (
    CHECKS,
    MARK_PATIENCE_MS,
    Exposure,
    Guard,
    Stake,
    malformed,
    most,
    refusal,
)
from autotrader.config.sections import Risk
from autotrader.core.market import Instrument, VenueRules, to_e8
from autotrader.core.ports import OrderRequest, OrderType, Side
from autotrader.engine.events import Purpose, Status, new_state

D = Decimal
RULES = VenueRules(
    tick_size=D("0.1"),
    qty_step=D("0.001"),
    min_qty=D("0.001"),
    max_qty=D(1_000),
    max_market_qty=D(1_000),
    min_notional=D(5),
    maker_fee=D("0.0002"),
    taker_fee=D("0.00055"),
    max_leverage=D(100),
    maintenance_margin=D("0.005"),
)
BTC = Instrument(venue="bybit", symbol="BTCUSDT", rules=RULES)
RISK = Risk()
CAPS = (
    "max_order_notional_usdt",
    "max_bot_notional_usdt",
    "max_total_notional_usdt",
    "max_leverage",
    "price_collar_percent",
    "max_orders_per_minute",
    "max_daily_loss",
)
CALM = Exposure(
    position=D(0),
    buying=D(0),
    selling=D(0),
    others=D(0),
    mark=D(50_000),
    mark_age_ms=0,
    decided_at=D(50_000),
    equity=D(10_000),
    house_equity=D(30_000),
    house_day=D(30_000),
    recent=0,
)


def market(qty: str | Decimal, side: Side = Side.BUY, **more: Any) -> OrderRequest:
    return OrderRequest(link_id="A-1-1-0", symbol="BTCUSDT", side=side, type=OrderType.MARKET, qty=D(qty), **more)


def limit(qty: str | Decimal, price: str | Decimal | None, side: Side = Side.BUY, **more: Any) -> OrderRequest:
    return replace(market(qty, side, **more), type=OrderType.LIMIT, price=None if price is None else D(price))


@pytest.mark.parametrize(
    ("order", "at", "name"),
    [
        (market("0.401"), CALM, "max_order_notional_usdt"),
        (market("0.1"), replace(CALM, position=D(36_000)), "max_bot_notional_usdt"),
        (market("0.1"), replace(CALM, buying=D(36_000)), "max_bot_notional_usdt"),
        (market("0.1", Side.SELL), replace(CALM, position=D(-30_000), selling=D(6_000)), "max_bot_notional_usdt"),
        (market("0.1"), replace(CALM, others=D(95_001)), "max_total_notional_usdt"),
        (market("0.1"), replace(CALM, equity=D(999)), "max_leverage"),
        (market("0.1"), replace(CALM, decided_at=D(47_499)), "price_collar_percent"),
        (limit("0.1", "52500.1"), CALM, "price_collar_percent"),
        (limit("0.1", "47499.9"), CALM, "price_collar_percent"),
        (market("0.1"), replace(CALM, recent=30), "max_orders_per_minute"),
        (market("0.1"), replace(CALM, house_equity=D("26999.99")), "max_daily_loss"),
    ],
)
def test_each_cap_refuses_what_is_just_above_it_with_its_name_and_both_numbers(
    order: OrderRequest, at: Exposure, name: str
) -> None:
    reason = refusal(order, at, RISK)
    assert reason is not None and f"risk.{name} is {getattr(RISK, name):g}" in reason
    assert "\n" not in reason
    assert sum(check(order, at, RISK) is not None for check in CHECKS) == 1, "one cap at a time is tried here"


@pytest.mark.parametrize(
    ("order", "at"),
    [
        (market("0.4"), CALM),
        (market("0.1"), replace(CALM, position=D(35_000))),
        (market("0.1"), replace(CALM, others=D(95_000))),
        (market("0.1"), replace(CALM, equity=D(1_000))),
        (limit("0.1", "52500"), CALM),
        (limit("0.1", "47500"), CALM),
        (market("0.1"), replace(CALM, recent=29)),
        (market("0.1"), replace(CALM, house_equity=D(27_000))),
        (market("0.1"), replace(CALM, mark_age_ms=MARK_PATIENCE_MS)),
    ],
)
def test_each_cap_allows_what_just_meets_it(order: OrderRequest, at: Exposure) -> None:
    assert refusal(order, at, RISK) is None


@pytest.mark.parametrize(
    "at",
    [
        replace(CALM, mark=D(0)),
        replace(CALM, mark_age_ms=MARK_PATIENCE_MS + 1),
        replace(CALM, equity=D(0)),
        replace(CALM, equity=D(-5)),
        replace(CALM, decided_at=D(0)),
    ],
)
def test_what_is_not_known_or_not_there_opens_nothing(at: Exposure) -> None:
    assert refusal(market("0.001"), at, RISK) is not None


WORST = Exposure(
    position=D(10**9),
    buying=D(10**9),
    selling=D(10**9),
    others=D(10**9),
    mark=D(0),
    mark_age_ms=10**12,
    decided_at=D(0),
    equity=D(-1),
    house_equity=D(0),
    house_day=D(10**6),
    recent=10**6,
)


def test_an_exit_leaves_whatever_the_state_of_the_world() -> None:
    assert all(check(market("0.1"), WORST, RISK) is not None for check in CHECKS if check.__name__ != "_order_cap")
    assert refusal(market(D(10**6), Side.SELL, reduce_only=True), WORST, RISK) is None
    assert refusal(limit("900", "1", reduce_only=True), WORST, RISK) is None


@pytest.mark.parametrize("reduce_only", [False, True])
@pytest.mark.parametrize(
    "order",
    [
        market("0"),
        market("-1"),
        market("NaN"),
        market("Infinity"),
        limit("1", None),
        limit("1", "0"),
        limit("1", "-3"),
        limit("1", "NaN"),
    ],
)
def test_nonsense_does_not_leave_even_as_an_exit(order: OrderRequest, reduce_only: bool) -> None:
    reason = refusal(replace(order, reduce_only=reduce_only), CALM, RISK)
    assert reason is not None and "report it" in reason
    assert malformed(order) == reason


@pytest.mark.parametrize("name", CAPS)
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), None, False])
def test_no_number_switches_a_cap_off(name: str, value: object) -> None:
    kind = type(getattr(RISK, name))
    wrong = kind(value) if isinstance(value, int) and value is not False else value
    with pytest.raises(ValidationError):
        Risk.model_validate({name: wrong})


def test_a_configuration_without_limits_has_them_all() -> None:
    assert all(getattr(Risk(), name) > 0 for name in CAPS)


# --- any sequence of orders -------------------------------------------------------------------------------------------


class House:
    "Bots with states of their own, to which accepted orders, fills and prices happen; money counted anew with integers."

    def __init__(self, bots: int, wallet: int, risk: Risk = RISK) -> None:
        self.risk = risk
        self.guard = Guard(self.risk)
        self.marks = [BTC.ticks(D(50_000))] * bots
        self.states = [new_state(wallet_e8=to_e8(D(wallet))) for _ in range(bots)]
        self.now_ms = 1_000_000
        self.left: list[list[int]] = [[] for _ in range(bots)]
        for bot, state in enumerate(self.states):
            self.guard.seat(str(bot), instrument=BTC, state=state)
            self.price(bot, self.marks[bot])

    def price(self, bot: int, ticks: int) -> None:
        self.marks[bot] = ticks
        self.states[bot]["close"] = ticks
        self.guard.hear(str(bot), ticks, self.now_ms)

    def want(self, bot: int, side: int, steps: int, offset: int | None, reduce: bool) -> bool:
        "Ask for an order as the policy would: into a slot first, then to the guard."
        state = self.states[bot]
        slots = np.flatnonzero(state["orders"][0][:8]["status"] == Status.FREE)
        if not len(slots):
            return False
        key, price = int(state["next_key"][0]), 0 if offset is None else self.marks[bot] + offset
        state["next_key"] += 1
        slot = state["orders"][0][slots[0]]
        for name, value in {
            "key": key,
            "status": Status.INTENT,
            "purpose": Purpose.EXIT if reduce else Purpose.ADD,
            "side": side,
            "price": price,
            "qty": steps,
            "cum_qty": 0,
        }.items():
            slot[name] = value
        order = replace(
            market(BTC.qty(steps), Side.BUY if side > 0 else Side.SELL, reduce_only=reduce),
            type=OrderType.MARKET if offset is None else OrderType.LIMIT,
            price=None if offset is None else BTC.price(price),
        )
        reason = self.guard.review(str(bot), order, key=key, now_ms=self.now_ms)
        if reason is not None:
            assert not reduce, reason
            slot["status"] = Status.FREE
            return False
        self.left[bot].append(self.now_ms)
        if not reduce:
            assert steps * max(self.marks[bot], price) * RULES.unit_e8 <= self.risk.max_order_notional_usdt * 1e8
        return True

    def fill(self, bot: int, pick: int, share: int) -> None:
        "Fill a share (of 4) of what is left of an order at its price or the mark."
        state = self.states[bot]
        active = np.flatnonzero(state["orders"][0][:8]["status"] != Status.FREE)
        if not len(active):
            return
        slot = state["orders"][0][active[pick % len(active)]]
        steps = max(1, int(slot["qty"] - slot["cum_qty"]) * share // 4)
        if slot["purpose"] == Purpose.EXIT:
            steps = min(steps, max(0, -int(slot["side"]) * int(state["qty"][0])))
        state["qty"] += slot["side"] * steps
        state["cost"] += slot["side"] * steps * (int(slot["price"]) or self.marks[bot])
        slot["cum_qty"] += steps
        if slot["cum_qty"] >= slot["qty"] or slot["purpose"] == Purpose.EXIT:
            slot["status"] = Status.FREE

    def lose(self, bot: int, percent: int) -> None:
        "A loss that is realised, as of a stop."
        self.states[bot]["wallet_e8"] -= self.states[bot]["day_e8"] * percent // 100

    def worst_e8(self, bot: int) -> int:
        "The largest notional that any set of open entries leads to, by trying all of them."
        state, mark = self.states[bot][0], self.marks[bot]
        entries = [
            o
            for o in state["orders"][:8]
            if o["status"] != Status.FREE and o["purpose"] in (Purpose.ENTRY, Purpose.ADD)
        ]
        outcomes = (
            abs(
                int(state["qty"])
                + sum(
                    int(o["side"]) * int(o["qty"] - o["cum_qty"])
                    for o, fills in zip(entries, chosen, strict=True)
                    if fills
                )
            )
            for chosen in product((False, True), repeat=len(entries))
        )
        return max(outcomes) * mark * RULES.unit_e8

    def equity_e8(self, bot: int) -> int:
        state = self.states[bot][0]
        return int(state["wallet_e8"]) + (int(state["qty"]) * self.marks[bot] - int(state["cost"])) * RULES.unit_e8

    def check(self, bot: int) -> None:
        "An entry was just accepted for this bot: every cap holds."
        worst = [self.worst_e8(one) for one in range(len(self.states))]
        assert worst[bot] <= self.risk.max_bot_notional_usdt * 1e8
        assert sum(worst) <= self.risk.max_total_notional_usdt * 1e8
        assert worst[bot] <= self.equity_e8(bot) * self.risk.max_leverage
        assert len([ms for ms in self.left[bot] if ms > self.now_ms - 60_000]) <= self.risk.max_orders_per_minute
        equity, day = (
            sum(self.equity_e8(one) for one in range(len(self.states))),
            sum(int(s["day_e8"][0]) for s in self.states),
        )
        assert day - equity <= day * self.risk.max_daily_loss
        state, mark = self.states[bot][0], self.marks[bot]
        newest = max(state["orders"][:8], key=lambda order: int(order["key"]))
        assert abs((int(newest["price"]) or mark) / mark - 1) <= self.risk.price_collar_percent / 100 + 1e-12


TIGHT = Risk(max_bot_notional_usdt=25_000.0, max_total_notional_usdt=45_000.0, max_orders_per_minute=6)
BOT, SIDE = st.integers(0, 2), st.sampled_from((-1, 1))
WANT = st.tuples(
    st.just("want"), BOT, SIDE, st.integers(1, 450), st.none() | st.integers(-30_000, 30_000), st.just(False)
)
SMALL = st.tuples(st.just("want"), BOT, SIDE, st.integers(1, 60), st.none(), st.just(False))
LEAVE = st.tuples(st.just("want"), BOT, SIDE, st.integers(1, 450), st.none(), st.just(True))
FILL = st.tuples(st.just("fill"), BOT, st.integers(0, 7), st.integers(1, 4))
PRICE = st.tuples(st.just("price"), BOT, st.integers(400_000, 600_000))
LOSE = st.tuples(st.just("lose"), BOT, st.integers(0, 12))
WAIT = st.tuples(st.just("wait"), st.integers(0, 20_000))
STEPS = st.lists(st.one_of(WANT, WANT, SMALL, SMALL, LEAVE, FILL, FILL, PRICE, LOSE, WAIT), min_size=25, max_size=60)


@settings(max_examples=100)
@given(steps=STEPS, wallet=st.sampled_from((3_000, 10_000, 100_000)))
def test_no_sequence_of_accepted_orders_exceeds_a_cap(steps: list[tuple[Any, ...]], wallet: int) -> None:
    house = House(3, wallet, TIGHT)
    for what, *args in steps:
        if what == "want" and house.want(*args) and not args[-1]:
            house.check(args[0])
        elif what == "fill":
            house.fill(*args)
        elif what == "price":
            house.price(*args)
        elif what == "lose":
            house.lose(*args)
        elif what == "wait":
            house.now_ms += args[0]


def test_a_pace_cap_counts_a_minute_and_no_more() -> None:
    house = House(1, 100_000)

    def tiny() -> bool:
        accepted = house.want(0, 1, 1, None, False)
        house.states[0]["orders"]["status"] = Status.FREE
        return accepted

    assert [tiny() for _ in range(31)] == [True] * 30 + [False]
    house.now_ms += 59_999
    assert not tiny()
    house.now_ms += 1
    assert tiny()


def test_orders_of_before_a_restart_count() -> None:
    house = House(1, 100_000)
    house.guard.recall("0", [house.now_ms - 60_000, *(house.now_ms - i for i in range(29))])
    assert house.want(0, 1, 1, None, False)
    assert not house.want(0, 1, 1, None, False)


def test_parts_of_one_entry_count_each_other_as_they_leave() -> None:
    house = House(1, 100_000)
    assert [house.want(0, 1, 300, None, False) for _ in range(3)] == [True, True, False]


def test_a_bot_without_a_price_still_counts_with_what_it_paid() -> None:
    state = new_state(wallet_e8=to_e8(D(10_000)))
    state["qty"], state["cost"] = -100, -100 * BTC.ticks(D(40_000))
    assert Stake(instrument=BTC, state=state).position() == -4_000


def test_a_guard_that_fails_holds_entries_and_lets_exits_go(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(1, 10_000)
    monkeypatch.setattr(Stake, "equity", lambda self: 1 / 0)
    reason = house.guard.review("0", market("0.1"), key=9, now_ms=house.now_ms)
    assert reason is not None and "could not be checked (ZeroDivisionError" in reason
    assert house.guard.review("0", market("0.1", reduce_only=True), key=9, now_ms=house.now_ms) is None
    assert house.guard.review("0", market("0", reduce_only=True), key=9, now_ms=house.now_ms) is not None


@given(
    position=st.integers(-100, 100),
    buying=st.integers(0, 100),
    selling=st.integers(0, 100),
    up=st.integers(0, 100),
    down=st.integers(0, 100),
)
def test_most_is_never_less_than_any_outcome(position: int, buying: int, selling: int, up: int, down: int) -> None:
    reached = abs(position + min(up, buying) - min(down, selling))
    assert reached <= most(D(position), D(buying), D(selling))
