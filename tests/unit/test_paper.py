"""A bad line loses, delays and repeats, but never invents: what the venue did is what is heard in the end."""

from dataclasses import fields, replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotrader.core.clock import SimulatedClock
from autotrader.core.errors import OutcomeUnknown, Rejected, Retryable
from autotrader.core.ports import Bar, OrderRequest, OrderState, OrderType, OrderUpdate, Side, Update
from autotrader.data.instruments import KNOWN
from autotrader.engine.fills import new_costs
from autotrader.exchange.account import Account
from autotrader.exchange.paper import BAD_DAY, PaperExchange, RoughExchange, Roughness

BTC = KNOWN[("bybit", "BTCUSDT")]
QUIET = Roughness(late=0, lost=0, refused=0, unasked=0, partial=0, cancelled=0, delayed=0, doubled=0, slip_bps=0)


def _paper() -> PaperExchange:
    account = Account(wallet=Decimal(10_000))
    account.list_symbol(BTC, new_costs(BTC, slippage_bps=1.0))
    return PaperExchange(account, clock=SimulatedClock(0))


def _rough(seed: int, **chances: float) -> RoughExchange:
    return RoughExchange(_paper(), rng=np.random.default_rng(seed), roughness=replace(QUIET, **chances))  # type: ignore[arg-type]


def _bar(n: int, low: int = 599_000) -> Bar:
    return Bar(
        open_ms=n * 60_000,
        close_ms=(n + 1) * 60_000,
        open=600_000,
        high=601_000,
        low=low,
        close=600_000,
        volume=10**9,
        mark_high=0,
        mark_low=0,
    )


def _order(link: str, **more: object) -> OrderRequest:
    order = OrderRequest(link_id=link, symbol="BTCUSDT", side=Side.BUY, type=OrderType.MARKET, qty=Decimal("0.1"))
    return replace(order, **more)  # type: ignore[arg-type]


def _limit(link: str) -> OrderRequest:
    return _order(link, type=OrderType.LIMIT, price=Decimal(50_000))


def _live(exchange: PaperExchange | RoughExchange, clock: SimulatedClock, n: int) -> list[Update]:
    "One bar, and what was heard in it."
    exchange.open_bar("BTCUSDT", _bar(n))
    heard: list[Update] = exchange.updates()
    while exchange.play("BTCUSDT"):
        heard += exchange.updates()
    clock.advance_to((n + 1) * 60_000)
    return heard + exchange.updates()


def _settled(exchange: RoughExchange) -> list[Update]:
    heard: list[Update] = []
    while exchange.settle():
        heard += exchange.updates()
    return heard


def test_a_line_without_trouble_is_the_smooth_one() -> None:
    smooth, rough = _paper(), _rough(1)
    heard = []
    for exchange, clock in ((smooth, smooth.clock), (rough, rough.inner.clock)):
        exchange.submit(_order("a", stop=Decimal(59_950)))
        heard.append([update for n in range(3) for update in _live(exchange, clock, n)])
    assert heard[0] == heard[1]
    assert any(isinstance(update, OrderUpdate) and update.is_fill for update in heard[0])


def test_a_refused_order_is_not_there() -> None:
    exchange = _rough(1, refused=1)
    with pytest.raises(Rejected):
        exchange.submit(_order("a"))
    assert exchange.find("BTCUSDT", "a") is None
    assert _live(exchange, exchange.inner.clock, 0) == []


def test_a_lost_request_says_nothing_about_the_order_and_asking_does() -> None:
    arrived = 0
    for seed in range(40):
        exchange = _rough(seed, lost=1)
        with pytest.raises(OutcomeUnknown):
            exchange.submit(_order("a"))
        found = exchange.find("BTCUSDT", "a")
        arrived += found is not None
        _live(exchange, exchange.inner.clock, 0)
        assert exchange.snapshot("BTCUSDT").qty == (Decimal("0.1") if found else 0)
    assert 5 < arrived < 35


def test_a_venue_that_cannot_be_asked_does_not_say_no() -> None:
    exchange = _rough(1, unasked=1)
    exchange.submit(_limit("a"))
    with pytest.raises(Retryable):
        exchange.find("BTCUSDT", "a")


def test_a_late_request_arrives_within_its_bound_and_in_order() -> None:
    for seed in range(20):
        exchange = _rough(seed, late=0.5)
        exchange.submit(_limit("a"))
        exchange.cancel("BTCUSDT", "a")
        heard = _live(exchange, exchange.inner.clock, 0)
        states = [update.state for update in heard if isinstance(update, OrderUpdate)]
        assert states == [OrderState.LIVE, OrderState.CANCELLED], seed
        assert all(update.ts_ms <= 2 * BAD_DAY.longest_ms for update in heard)


def test_a_bar_with_little_room_fills_a_part_and_reports_the_end() -> None:
    filled = set()
    for seed in range(20):
        exchange = _rough(seed, partial=1)
        exchange.submit(_order("a"))
        heard = _live(exchange, exchange.inner.clock, 0)
        assert isinstance(heard[-1], OrderUpdate) and heard[-1].state is OrderState.CANCELLED
        assert heard[-1].qty == exchange.snapshot("BTCUSDT").qty < Decimal("0.1")
        filled.add(heard[-1].qty)
    assert len(filled) > 10


def test_the_venue_may_drop_a_resting_order_and_says_so() -> None:
    exchange = _rough(1, cancelled=1)
    exchange.submit(_limit("a"))
    heard = _live(exchange, exchange.inner.clock, 0)
    assert [update.state for update in heard if isinstance(update, OrderUpdate)] == [
        OrderState.LIVE,
        OrderState.CANCELLED,
    ]


def test_extra_slippage_always_costs_and_differs_from_bar_to_bar() -> None:
    prices = set()
    for seed in range(20):
        exchange = _rough(seed, slip_bps=2)
        exchange.submit(_order("a"))
        _live(exchange, exchange.inner.clock, 0)
        prices.add(exchange.snapshot("BTCUSDT").value / exchange.snapshot("BTCUSDT").qty)
    assert min(prices) >= Decimal("60006") and len(prices) > 10


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_late_and_repeated_reports_say_in_the_end_what_the_venue_did(seed: int) -> None:
    exchange = _rough(seed, delayed=0.7, doubled=0.5)
    for link in ("a", "b", "c"):
        exchange.submit(_order(link))
    heard = [update for n in range(2) for update in _live(exchange, exchange.inner.clock, n)] + _settled(exchange)
    reports = [update for update in heard if isinstance(update, OrderUpdate)]
    assert len({update.number for update in reports}) == 9  # accepted, filled, done; three times
    for link in ("a", "b", "c"):
        assert max(update.qty for update in reports if update.link_id == link) == Decimal("0.1")
    assert exchange.line.due_ms is None


def test_nothing_is_heard_before_it_happened() -> None:
    for seed in range(10):
        exchange = _rough(seed, delayed=0.5, doubled=0.3, late=0.3)
        clock = exchange.inner.clock
        exchange.submit(_order("a"))
        exchange.open_bar("BTCUSDT", _bar(0))
        while exchange.play("BTCUSDT"):
            for update in exchange.updates():
                assert update.ts_ms <= exchange.inner.now_ms()
        clock.advance_to(60_000)


def test_the_same_seed_is_the_same_day_and_another_is_not() -> None:
    def day(seed: int) -> list[Update]:
        exchange = RoughExchange(_paper(), rng=np.random.default_rng(seed), roughness=BAD_DAY)
        heard: list[Update] = []
        for n in range(30):
            try:
                exchange.submit(_order(f"o{n}"))
            except (Rejected, OutcomeUnknown):
                continue
            heard += _live(exchange, exchange.inner.clock, n)
        return heard

    assert day(1) == day(1)
    assert day(1) != day(2)


def test_every_trouble_is_counted_under_its_name() -> None:
    exchange = _rough(1, refused=1)
    for n in range(3):
        with pytest.raises(Rejected):
            exchange.submit(_order(f"o{n}"))
    assert exchange.line.incidents == {"refused": 3}


def test_a_bad_day_has_some_of_everything() -> None:
    assert all(getattr(BAD_DAY, field.name) > 0 for field in fields(Roughness))
