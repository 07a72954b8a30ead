"""A paper exchange that was saved and taken up again, by another process and in the middle of anything, is the same exchange."""

import json
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotrader.core.clock import SimulatedClock, SystemClock
from autotrader.core.errors import Rejected, StoreError
from autotrader.core.ports import Bar, OrderRequest, OrderState, OrderType, OrderUpdate, Side, Update
from autotrader.data.instruments import KNOWN
from autotrader.engine.fills import VENUE, new_costs
from autotrader.exchange import account as desk
from autotrader.exchange.account import REMEMBERED, Account
from autotrader.exchange.paper import PaperExchange
from autotrader.store.database import to_json

BTC, ETH = KNOWN[("bybit", "BTCUSDT")], KNOWN[("bybit", "ETHUSDT")]
PRICES = {"BTCUSDT": 600_000, "ETHUSDT": 300_000}  # ticks
INSTRUMENTS = {"BTCUSDT": BTC, "ETHUSDT": ETH}


def _paper(*, now_ms: int = 0) -> PaperExchange:
    account = Account(wallet=Decimal(100_000))
    for instrument in (BTC, ETH):
        account.list_symbol(instrument, new_costs(instrument, slippage_bps=2.0, participation=0.3, leverage=60.0))
    return PaperExchange(account, clock=SimulatedClock(now_ms))


def _through_text(exchange: PaperExchange, symbol: str) -> dict[str, Any]:
    "A saved book as a database gives it back."
    row = exchange.save(symbol)
    assert set(row) == {"number", "record", "details"}
    text = to_json(row["details"])
    assert json.loads(text) == row["details"], "nothing in it is changed by JSON"
    return {"number": int(row["number"]), "record": bytes(row["record"]), "details": json.loads(text)}


def _restored(exchange: PaperExchange) -> PaperExchange:
    again = _paper(now_ms=exchange.clock.now_ms())
    for symbol in PRICES:
        again.restore(symbol, _through_text(exchange, symbol))
    return again


Step = partial[Any]  # of a method's name and its arguments


def _bar(rng: np.random.Generator, symbol: str, n: int) -> Bar:
    path = np.sort(PRICES[symbol] * (1 + rng.normal(0, 0.008, 4))).astype(int).tolist()
    mark = {} if rng.random() < 0.5 else {"mark_high": path[3] + 5, "mark_low": path[0] - 5}
    return Bar(
        open_ms=n * 60_000,
        close_ms=(n + 1) * 60_000,
        open=path[1],
        high=path[3],
        low=path[0],
        close=path[2],
        volume=int(rng.integers(1, 3_000)),
        **{"mark_high": 0, "mark_low": 0, **mark},
    )


def _level(rng: np.random.Generator, symbol: str, scale: float) -> Decimal | None:
    return INSTRUMENTS[symbol].price(int(PRICES[symbol] * (1 + rng.normal(0, scale)))) if rng.random() < 0.7 else None


def _order(rng: np.random.Generator, symbol: str, link: str) -> OrderRequest:
    "Bitcoin is only ever bought to open and ether sold; like the policy's, exits reduce and are market orders."
    opens = rng.random() < 0.7
    kind = OrderType.LIMIT if opens and rng.random() < 0.5 else OrderType.MARKET
    return OrderRequest(
        link_id=link,
        symbol=symbol,
        side=Side.BUY if opens == (symbol == "BTCUSDT") else Side.SELL,
        type=kind,
        qty=INSTRUMENTS[symbol].qty(max(0, int(rng.integers(-30, 900)))),
        price=INSTRUMENTS[symbol].price(int(PRICES[symbol] * (1 + rng.normal(0, 0.005)))) if kind == "LIMIT" else None,
        reduce_only=not opens,
        stop=_level(rng, symbol, 0.01) if opens else None,
        target=_level(rng, symbol, 0.01) if opens else None,
        expires_ms=int(rng.integers(0, 40) * 60_000) if rng.random() < 0.3 else 0,
    )


def _script(seed: int, bars: int) -> list[tuple[Any, ...]]:
    "What may happen to an exchange, one call each, in any order that a runner could bring about."
    rng, steps = np.random.default_rng(seed), []
    for n in range(bars):
        for symbol in PRICES:
            steps += [("open_bar", symbol, _bar(rng, symbol, n))] + [("play", symbol)] * int(rng.integers(0, 7))
        for _ in range(int(rng.integers(0, 6))):
            symbol = str(rng.choice(list(PRICES)))
            levels = {"stop": _level(rng, symbol, 0.01), "target": _level(rng, symbol, 0.01)}
            some: list[tuple[Any, ...]] = [
                ("submit", _order(rng, symbol, f"a-{n}-{rng.integers(4)}-0")),
                ("submit", _order(rng, symbol, f"a-{n}-{rng.integers(4)}-1")),
                ("cancel", symbol, f"a-{max(0, n - int(rng.integers(3)))}-{rng.integers(4)}-0"),
                ("protect", symbol, levels),
                ("fund", symbol, {"mark": PRICES[symbol], "rate": 1e-4, "ts_ms": int(rng.integers(0, n + 2)) * 60_000}),
                ("play", symbol),
                ("updates",),
                ("settled",),
            ]
            steps.append(some[int(rng.choice(len(some), p=[0.22, 0.1, 0.12, 0.14, 0.08, 0.14, 0.12, 0.08]))])
        steps += [("clock", n * 60_000 + int(rng.integers(0, 60_000)))]
    return steps


def _perform(exchange: PaperExchange, step: tuple[Any, ...]) -> Any:
    "One step, and what its caller sees of it."
    name, *arguments = step
    if name == "clock":
        assert isinstance(exchange.clock, SimulatedClock)
        return exchange.clock.advance_to(*arguments)
    more = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
    try:
        return getattr(exchange, name)(*arguments, **more)
    except Rejected as refusal:
        return str(refusal)


def _links(steps: list[tuple[Any, ...]]) -> Iterator[tuple[str, str]]:
    return ((step[1].symbol, step[1].link_id) for step in steps if step[0] == "submit")


@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
@settings(max_examples=120)
def test_a_restored_exchange_does_exactly_what_the_saved_one_does(seed: int, share: float) -> None:
    steps, first = _script(seed, 14), _paper()
    cut = int(share * len(steps))
    for step in steps[:cut]:
        _perform(first, step)
    again = _restored(first)
    for symbol in PRICES:
        assert again.save(symbol) == first.save(symbol)
        assert again.snapshot(symbol) == first.snapshot(symbol)
    assert all(again.find(*link) == first.find(*link) for link in _links(steps))
    first.updates(), again.updates()
    for step in steps[cut:]:
        assert _perform(again, step) == _perform(first, step)
    for symbol in PRICES:
        assert again.save(symbol) == first.save(symbol)
        assert again.snapshot(symbol) == first.snapshot(symbol)
    assert all(again.find(*link) == first.find(*link) for link in _links(steps))
    assert desk.statement(again.account) == desk.statement(first.account)


def test_the_script_of_that_test_has_everything_in_it() -> None:
    seen: set[str] = set()
    for seed in range(25):
        exchange = _paper()
        for step in _script(seed, 14):
            if step[0] == "play" and 0 < exchange.account.book(step[1]).venue[0]["stage"] < 4:
                seen.add("the middle of a bar")
            told = _perform(exchange, step)
            seen.add(told if isinstance(told, str) else step[0])
            for update in exchange.save("BTCUSDT")["details"]["updates"]:
                what = update.get("origin") or update.get("cause") or f"refused {update.get('refused')}"
                seen.add(f"{what} {update.get('state', '')}".strip())
    for told in (
        *("the middle of a bar", "ORDER FILLED", "ORDER CANCELLED", "STOP FILLED", "TARGET FILLED", "FUNDING"),
        *("LIQUIDATION", "refused True", "refused False", "STOP CANCELLED"),
    ):
        assert told in seen, told
    for refusal in ("already there", "or more", "does not rest"):
        assert any(refusal in told for told in seen), refusal


@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
@settings(max_examples=60)
def test_what_was_not_settled_is_handed_out_again_in_order_and_the_rest_is_not(seed: int, share: float) -> None:
    steps, exchange = _script(seed, 10), _paper()
    settled: list[Update] = []
    handed: list[Update] = []
    for step in steps[: int(share * len(steps))]:
        told = _perform(exchange, step)
        if step[0] == "updates":
            handed += told
        elif step[0] == "settled":
            settled, handed = settled + handed, []
    again = _restored(exchange).updates()
    waiting = exchange.updates()
    for symbol in PRICES:
        mine = [update for update in again if update.symbol == symbol]
        assert mine == [update for update in handed + waiting if update.symbol == symbol]
        numbers = [update.number for update in settled + again if update.symbol == symbol]
        assert numbers == list(range(1, len(numbers) + 1)), "nothing is missed and nothing is invented"


def test_an_order_is_found_as_it_was_last_reported_whether_it_rests_or_ended() -> None:
    for seed in range(20):
        steps, exchange = _script(seed, 14), _paper()
        newest: dict[str, OrderUpdate] = {}
        for step in steps:
            _perform(exchange, step)
            mine = [u for u in exchange.updates() if isinstance(u, OrderUpdate) and u.link_id]
            newest |= {update.symbol + update.link_id: update for update in mine}
        assert len(newest) > 4
        for symbol, link in _links(steps):
            assert exchange.find(symbol, link) == newest.get(symbol + link)


@pytest.mark.parametrize("name", ["", "my order", "two\nlines", "ä", "x" * 37])
def test_a_name_that_no_venue_takes_is_refused(name: str) -> None:
    order = OrderRequest(link_id=name, symbol="BTCUSDT", side=Side.BUY, type=OrderType.MARKET, qty=Decimal("0.1"))
    with pytest.raises(Rejected, match="up to 36 of"):
        _paper().submit(order)


def test_a_process_that_dies_again_and_again_misses_nothing() -> None:
    "Each time it hears something, and either settles it or dies over it."
    rng, exchange = np.random.default_rng(3), _paper()
    settled: set[tuple[str, int]] = set()
    deaths = 0
    for step in _script(11, 30):
        if step[0] in ("updates", "settled"):
            continue
        _perform(exchange, step)
        heard = {(update.symbol, update.number) for update in exchange.updates()}
        if rng.random() < 0.5:
            exchange.settled()
            settled |= heard
        else:
            exchange, deaths = _restored(exchange), deaths + 1
    settled |= {(update.symbol, update.number) for update in exchange.updates()}
    newest = {symbol: exchange.snapshot(symbol).number for symbol in PRICES}
    assert deaths > 100 and min(newest.values()) > 20
    assert settled == {(symbol, n) for symbol in PRICES for n in range(1, newest[symbol] + 1)}


def _cycle(exchange: PaperExchange, n: int) -> list[Update]:
    "One market order, filled."
    side = Side.BUY if n % 2 else Side.SELL
    order = OrderRequest(link_id=f"a-{n}", symbol="BTCUSDT", side=side, type=OrderType.MARKET, qty=Decimal("0.1"))
    exchange.submit(order)
    bar = Bar(
        open_ms=n * 60_000,
        close_ms=(n + 1) * 60_000,
        open=600_000,
        high=600_000,
        low=600_000,
        close=600_000,
        volume=10**9,
        mark_high=0,
        mark_low=0,
    )
    exchange.open_bar("BTCUSDT", bar)
    while exchange.play("BTCUSDT"):
        pass
    heard = exchange.updates()
    exchange.settled()
    return heard


def test_a_venue_remembers_what_ended_last_and_does_not_grow() -> None:
    exchange, sizes, names = _paper(), [], set()
    book = exchange.account.book("BTCUSDT")
    for n in range(1, 2 * REMEMBERED + 101):
        names |= {update.order_id for update in _cycle(exchange, n) if isinstance(update, OrderUpdate)}
        if n % REMEMBERED == 0:
            sizes.append(len(to_json(exchange.save("BTCUSDT")["details"])))
        if n == REMEMBERED + 50:
            exchange = _restored(exchange)
            book = exchange.account.book("BTCUSDT")
    assert len(names) == 2 * REMEMBERED + 100, "every order has an id of its own, also after a restart"
    assert (len(book.keys), len(book.orders), len(book.ended)) == (0, 0, REMEMBERED)
    assert sizes[1] < 1.1 * sizes[0]
    newest, oldest, forgotten = 2 * REMEMBERED + 100, REMEMBERED + 101, REMEMBERED + 100
    for n in (newest, oldest):
        found = exchange.find("BTCUSDT", f"a-{n}")
        assert found is not None and (found.state, found.qty) == (OrderState.FILLED, Decimal("0.1"))
        assert found.order_id == f"BTCUSDT-{n}"
        with pytest.raises(Rejected, match="already there"):
            _cycle(exchange, n)
    assert exchange.find("BTCUSDT", f"a-{forgotten}") is None


def test_stops_and_targets_of_the_past_are_not_kept() -> None:
    exchange = _paper()
    for step in _script(5, 60):
        _perform(exchange, step)
    for symbol in PRICES:
        book = exchange.account.book(symbol)
        resting = {int(order["key"]) for order in book.venue[0]["resting"] if order["key"]}
        assert book.triggers > 2
        assert set(book.orders) == set(book.keys.values()) == resting


def test_funding_is_charged_once_at_each_stamp_also_after_a_restart() -> None:
    exchange = _paper()
    _cycle(exchange, 1)
    before = exchange.snapshot("BTCUSDT").wallet
    for _ in range(3):
        exchange.fund("BTCUSDT", mark=600_000, rate=1e-4, ts_ms=120_000)
        exchange = _restored(exchange)
    exchange.fund("BTCUSDT", mark=600_000, rate=1e-4, ts_ms=60_000)
    assert before - exchange.snapshot("BTCUSDT").wallet == Decimal("0.6")  # long: paid, once
    exchange.fund("BTCUSDT", mark=600_000, rate=1e-4, ts_ms=120_001)
    assert before - exchange.snapshot("BTCUSDT").wallet == Decimal("1.2")


def test_a_stamp_at_which_nothing_was_held_is_over_too() -> None:
    exchange = _paper()
    exchange.fund("BTCUSDT", mark=600_000, rate=1e-4, ts_ms=60_000)
    exchange = _restored(exchange)
    _cycle(exchange, 1)
    wallet = exchange.snapshot("BTCUSDT").wallet
    exchange.fund("BTCUSDT", mark=600_000, rate=1e-4, ts_ms=60_000)
    assert exchange.snapshot("BTCUSDT").wallet == wallet


def test_an_order_that_does_not_fit_the_instrument_leaves_its_name_free() -> None:
    exchange = _paper()
    odd = OrderRequest(
        link_id="a", symbol="BTCUSDT", side=Side.BUY, type=OrderType.LIMIT, qty=Decimal("0.1"), price=Decimal("1.23456")
    )
    with pytest.raises(Exception, match="not a multiple"):
        exchange.submit(odd)
    assert exchange.find("BTCUSDT", "a") is None
    assert exchange.save("BTCUSDT") == _paper().save("BTCUSDT")


def test_before_its_first_bar_nothing_trades() -> None:
    exchange = _paper()
    order = OrderRequest(link_id="a", symbol="BTCUSDT", side=Side.BUY, type=OrderType.MARKET, qty=Decimal("0.1"))
    exchange.submit(order)
    assert not _restored(exchange).play("BTCUSDT")
    assert exchange.snapshot("BTCUSDT").qty == 0


def test_the_record_is_the_venues_bytes_and_money_is_text() -> None:
    exchange = _paper()
    _cycle(exchange, 1)
    row = exchange.save("BTCUSDT")
    assert row["record"] == exchange.account.book("BTCUSDT").venue.tobytes() and len(row["record"]) == VENUE.itemsize
    assert Decimal(row["details"]["wallet"]) == exchange.snapshot("BTCUSDT").wallet
    kinds = {type(value) for value in _leaves(row["details"])}
    assert kinds <= {str, int, bool, type(None)}


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    else:
        yield str(value) if isinstance(value, str) else value


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"record": b"short"}, f"its record is 5 bytes, here it is {VENUE.itemsize} bytes"),
        ({"details": {"schema": "0-1234"}}, "its schema is 0-1234, here it is"),
        ({"details": {"market": "BTCUSDT, tick 0.5, step 0.001"}}, "its market is BTCUSDT, tick 0.5"),
        ({"details": {}}, "its schema is None"),
    ],
)
def test_a_book_of_another_version_is_refused_whole_with_a_remedy(change: dict[str, Any], told: str) -> None:
    exchange, other = _paper(), _paper()
    _cycle(exchange, 1)
    row = exchange.save("BTCUSDT")
    details = (
        {**row["details"], **change["details"]} if change.get("details") else change.get("details", row["details"])
    )
    before = other.save("BTCUSDT")
    with pytest.raises(StoreError, match=told) as refusal:
        other.restore("BTCUSDT", {**row, **change, "details": details})
    assert "start it under a new id" in str(refusal.value) and "\n" not in str(refusal.value)
    assert other.save("BTCUSDT") == before
    with pytest.raises(StoreError, match=r"its market is BTCUSDT.*, here it is ETHUSDT"):
        other.restore("ETHUSDT", row)


def test_rules_written_another_way_are_the_same_rules() -> None:
    exchange = _paper()
    row = exchange.save("BTCUSDT")
    assert row["details"]["market"] == "BTCUSDT, tick 0.1, step 0.001"


def test_todays_clock_will_do() -> None:
    account = Account(wallet=Decimal(100_000))
    account.list_symbol(BTC, new_costs(BTC))
    exchange = PaperExchange(account, clock=SystemClock())
    before = SystemClock().now_ms()
    [accepted, *_] = _cycle(exchange, 1)
    assert before <= accepted.ts_ms <= SystemClock().now_ms()
