"""The venue account: Bybit's own numbers, books that add up from outside, and names that are taken once."""

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotrader.core.errors import ConfigError, Rejected
from autotrader.core.market import Instrument
from autotrader.core.ports import (
    Bar,
    OrderRequest,
    OrderState,
    OrderType,
    OrderUpdate,
    Origin,
    PositionUpdate,
    ProtectionUpdate,
    Side,
    Update,
    WalletUpdate,
)
from autotrader.data.instruments import KNOWN
from autotrader.engine.fills import new_costs
from autotrader.exchange import account as desk
from autotrader.exchange.account import Account

BTC = KNOWN[("bybit", "BTCUSDT")]
ETH = KNOWN[("bybit", "ETHUSDT")]


def _with_rules(instrument: Instrument, symbol: str, **rules: Decimal) -> Instrument:
    return replace(instrument, symbol=symbol, rules=replace(instrument.rules, **rules))  # type: ignore[arg-type]


def _account(*instruments: Instrument, wallet: int = 10_000, **costs: float) -> Account:
    account = Account(wallet=Decimal(wallet))
    for instrument in instruments:
        account.list_symbol(instrument, new_costs(instrument, **costs))  # type: ignore[arg-type]
    return account


def _bar(n: int, prices: tuple[int, int, int, int]) -> Bar:
    open_, high, low, close = prices
    return Bar(
        open_ms=n * 60_000,
        close_ms=(n + 1) * 60_000,
        open=open_,
        high=high,
        low=low,
        close=close,
        volume=10**9,
        mark_high=0,
        mark_low=0,
    )


def _order(link: str, instrument: Instrument, side: Side, qty: str, **more: object) -> OrderRequest:
    return OrderRequest(
        link_id=link, symbol=instrument.symbol, side=side, type=OrderType.MARKET, qty=Decimal(qty), **more  # type: ignore[arg-type]
    )


def _played(account: Account, instrument: Instrument, bar: Bar) -> list[Update]:
    desk.open_bar(account, instrument.symbol, bar)
    updates: list[Update] = []
    while instant := desk.play(account, instrument.symbol):
        updates += instant
    return updates


def _flat(price: Decimal, instrument: Instrument, n: int = 0) -> Bar:
    ticks = instrument.ticks(price)
    return _bar(n, (ticks, ticks, ticks, ticks))


def test_the_fee_is_the_one_of_bybits_sample() -> None:
    "0.1 at 1190.15 and 0.06 % costs 0.071409."
    coin = _with_rules(ETH, "ETHUSDT", tick_size=Decimal("0.01"), taker_fee=Decimal("0.0006"))
    account = _account(coin)
    desk.place(account, _order("a", coin, Side.BUY, "0.1"), ts_ms=0)
    _played(account, coin, _flat(Decimal("1190.15"), coin))
    assert desk.statement(account).fees == Decimal("0.071409")


def test_funding_is_the_one_of_bybits_sample() -> None:
    "A long of 100 at mark 0.3676 and rate 0.0001 pays 0.003676."
    coin = _with_rules(
        BTC,
        "XRPUSDT",
        tick_size=Decimal("0.0001"),
        qty_step=Decimal("0.1"),
        min_qty=Decimal("0.1"),
        taker_fee=Decimal(0),
    )
    account = _account(coin)
    desk.place(account, _order("a", coin, Side.BUY, "100"), ts_ms=0)
    _played(account, coin, _flat(Decimal("0.3676"), coin))
    [paid] = desk.fund(account, "XRPUSDT", mark=3676, rate=0.0001, ts_ms=60_000)
    assert isinstance(paid, WalletUpdate) and paid.amount == Decimal("-0.003676")
    assert desk.statement(account).wallet == Decimal("9999.996324")


def test_liquidation_comes_at_the_price_of_bybits_example() -> None:
    "One coin long at 20 000 with leverage 50 and 0.5 % maintenance margin is liquidated at 19 700; 400 are lost."
    coin = _with_rules(BTC, "BTCUSDT", maintenance_margin=Decimal("0.005"), taker_fee=Decimal(0))
    for low, gone in ((197_001, False), (197_000, True)):
        account = _account(coin, leverage=50.0)
        desk.place(account, _order("a", coin, Side.BUY, "1"), ts_ms=0)
        _played(account, coin, _flat(Decimal(20_000), coin))
        updates = _played(account, coin, _bar(1, (200_000, 200_000, low, 198_000)))
        changes = [update for update in updates if isinstance(update, PositionUpdate)]
        assert bool(changes) is gone
        if gone:
            assert (changes[0].qty, changes[0].gained) == (0, Decimal(-400))
            assert desk.statement(account).wallet == Decimal(9_600)


def test_two_symbols_share_one_wallet() -> None:
    account = _account(BTC, ETH)
    desk.place(account, _order("a", BTC, Side.BUY, "0.1"), ts_ms=0)
    desk.place(account, _order("b", ETH, Side.SELL, "1"), ts_ms=0)
    _played(account, BTC, _flat(Decimal(60_000), BTC))
    _played(account, ETH, _flat(Decimal(3_000), ETH))
    sums = desk.statement(account)
    assert sums.fees == Decimal(9_000) * BTC.rules.taker_fee
    assert sums.wallet == 10_000 - sums.fees
    for symbol in ("BTCUSDT", "ETHUSDT"):
        assert desk.snapshot(account, symbol, ts_ms=0).wallet == sums.wallet


def test_a_resent_order_is_the_same_order() -> None:
    account = _account(BTC)
    order = _order("a", BTC, Side.BUY, "0.1")
    desk.place(account, order, ts_ms=0)
    with pytest.raises(Rejected, match="already there"):
        desk.place(account, order, ts_ms=0)
    _played(account, BTC, _flat(Decimal(60_000), BTC))
    assert desk.snapshot(account, "BTCUSDT", ts_ms=0).qty == Decimal("0.1")


def test_an_order_can_be_asked_about_long_after_it_ended() -> None:
    account = _account(BTC)
    desk.place(account, _order("a", BTC, Side.BUY, "0.1"), ts_ms=0)
    for n in range(5):
        _played(account, BTC, _flat(Decimal(60_000), BTC, n))
    found = desk.find(account, "BTCUSDT", "a")
    assert found is not None and (found.state, found.qty) == (OrderState.FILLED, Decimal("0.1"))
    assert desk.find(account, "BTCUSDT", "b") is None


def test_a_stop_that_is_jumped_over_fills_at_the_open_never_better() -> None:
    account = _account(BTC)
    desk.place(account, _order("a", BTC, Side.BUY, "0.1", stop=Decimal(59_000)), ts_ms=0)
    _played(account, BTC, _flat(Decimal(60_000), BTC))
    updates = _played(account, BTC, _bar(1, (570_000, 580_000, 560_000, 575_000)))
    [stop] = [u for u in updates if isinstance(u, OrderUpdate) and u.is_fill]
    assert (stop.origin, stop.value) == (Origin.STOP, Decimal(5_700))


def test_a_stop_on_the_wrong_side_is_refused_and_says_so() -> None:
    account = _account(BTC)
    desk.place(account, _order("a", BTC, Side.BUY, "0.1"), ts_ms=0)
    _played(account, BTC, _flat(Decimal(60_000), BTC))
    [update] = desk.protect(account, "BTCUSDT", stop=Decimal(60_500), target=None, ts_ms=60_000)
    assert isinstance(update, ProtectionUpdate) and update.refused and update.is_passed
    assert desk.snapshot(account, "BTCUSDT", ts_ms=0).stop is None


def test_a_cancelled_order_reports_what_it_had_filled() -> None:
    account = _account(BTC, participation=0.5)
    resting = replace(_order("a", BTC, Side.BUY, "0.1"), type=OrderType.LIMIT, price=Decimal(60_000))
    desk.place(account, resting, ts_ms=0)
    _played(account, BTC, replace(_bar(0, (610_000, 610_000, 590_000, 600_000)), volume=80))
    [ended] = desk.cancel(account, "BTCUSDT", "a", ts_ms=60_000)
    assert isinstance(ended, OrderUpdate)
    assert (ended.state, ended.qty) == (OrderState.CANCELLED, Decimal("0.040"))
    with pytest.raises(Rejected, match="ended or never arrived"):
        desk.cancel(account, "BTCUSDT", "a", ts_ms=60_000)


def test_looking_ahead_changes_nothing() -> None:
    account = _account(BTC)
    desk.place(account, _order("a", BTC, Side.BUY, "0.1", stop=Decimal(59_000)), ts_ms=0)
    desk.open_bar(account, "BTCUSDT", _bar(0, (600_000, 600_000, 580_000, 585_000)))
    before = account.book("BTCUSDT").venue.tobytes()
    assert desk.next_ms(account, "BTCUSDT") == 0
    assert account.book("BTCUSDT").venue.tobytes() == before
    desk.play(account, "BTCUSDT")
    assert desk.next_ms(account, "BTCUSDT") == 59_999


def test_a_symbol_is_listed_once_and_others_cannot_be_traded() -> None:
    account = _account(BTC)
    with pytest.raises(ConfigError, match="one book per symbol"):
        account.list_symbol(BTC, new_costs(BTC))
    with pytest.raises(Rejected, match="not traded on this account"):
        desk.place(account, _order("a", ETH, Side.BUY, "1"), ts_ms=0)
    with pytest.raises(Rejected, match="or more"):
        desk.place(account, _order("a", BTC, Side.BUY, "0.0"), ts_ms=0)


def _lives(seed: int) -> Iterator[tuple[Account, list[Update]]]:
    "A random life of forty bars; yields the account and all it has reported after each bar."
    rng = np.random.default_rng(seed)
    account, heard = _account(BTC, slippage_bps=2.0, participation=0.5), []
    price = 600_000
    for n in range(40):
        held = desk.snapshot(account, "BTCUSDT", ts_ms=0).qty
        if rng.random() < 0.5:
            side = Side.BUY if rng.random() < 0.5 else Side.SELL
            opens = held == 0 or (held > 0) == (side is Side.BUY)
            near = BTC.price(int(price * (1 + rng.normal(0, 0.002))))
            stop = BTC.price(int(price * (0.99 if side is Side.BUY else 1.01)))
            order = replace(
                _order(f"o{n}", BTC, side, f"0.0{rng.integers(10, 99)}", stop=stop if opens else None),
                reduce_only=not opens,
                type=OrderType.LIMIT if opens and rng.random() < 0.5 else OrderType.MARKET,
            )
            heard += desk.place(
                account, replace(order, price=near) if order.type is OrderType.LIMIT else order, ts_ms=0
            )
        path = np.sort(price * (1 + rng.normal(0, 0.006, 4)))
        low, first, last, high = (int(x) for x in path)
        bar = replace(_bar(n, (first, high, low, last)), volume=int(rng.integers(1, 200)))
        heard += _played(account, BTC, bar)
        heard += desk.fund(account, "BTCUSDT", mark=last, rate=float(rng.normal(0, 1e-3)), ts_ms=bar.close_ms)
        price = last
        yield account, heard


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_the_reports_alone_explain_wallet_and_position_after_every_bar(seed: int) -> None:
    for account, heard in _lives(seed):
        orders = {update.order_id: update for update in heard if isinstance(update, OrderUpdate)}
        signs = {name: 1 if order.side is Side.BUY else -1 for name, order in orders.items()}
        funding = sum(update.amount for update in heard if isinstance(update, WalletUpdate))
        fees = sum(order.fee for order in orders.values())
        paid = sum(signs[name] * order.value for name, order in orders.items())
        now = desk.snapshot(account, "BTCUSDT", ts_ms=0)
        assert now.qty == sum(signs[name] * order.qty for name, order in orders.items())
        assert now.wallet == 10_000 - paid + now.value + funding - fees
        sums = desk.statement(account)
        assert (sums.fees, sums.funding) == (fees, funding)
        assert sums.wallet == 10_000 + sums.cash_flow + sums.funding - sums.fees


def test_numbers_of_updates_grow_by_one() -> None:
    *_, (_, heard) = _lives(5)
    assert [update.number for update in heard] == list(range(1, len(heard) + 1))
