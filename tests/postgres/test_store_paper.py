"""What a paper venue keeps comes back exactly, and a fence lets nobody write who was overtaken: on both databases."""

import threading
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from autotrader.bots.replay import Change
from autotrader.bots.writer import JournalWriter
from autotrader.core.clock import SimulatedClock
from autotrader.core.errors import AutotraderError, StoreError
from autotrader.core.ports import Bar, OrderRequest, OrderType, Side
from autotrader.data.instruments import KNOWN
from autotrader.engine.events import EVENT, INTENT, EventKind, new_event, new_state
from autotrader.engine.fills import VENUE, new_costs
from autotrader.exchange.account import Account
from autotrader.exchange.paper import PaperExchange
from autotrader.store import control, journal
from autotrader.store.control import Lease, LeaseLost, fence
from autotrader.store.database import Store, open_store
from autotrader.store.tables import PaperBook, SystemEvent

BTC = KNOWN[("bybit", "BTCUSDT")]


def _paper() -> PaperExchange:
    account = Account(wallet=Decimal("10000.00000001"))
    account.list_symbol(BTC, new_costs(BTC))
    return PaperExchange(account, clock=SimulatedClock(0))


def _busy() -> PaperExchange:
    "In the middle of a bar, with orders that rest and ended and reports that nobody settled."
    exchange = _paper()
    order = OrderRequest(link_id="a-1", symbol="BTCUSDT", side=Side.BUY, type=OrderType.MARKET, qty=Decimal("0.1"))
    exchange.submit(order)
    limit = {"type": OrderType.LIMIT, "price": Decimal(50_000), "qty": Decimal("0.2"), "stop": Decimal("40000.1")}
    exchange.submit(OrderRequest(link_id="a-2", symbol="BTCUSDT", side=Side.BUY, **limit))  # type: ignore[arg-type]
    prices = {"open": 600_000, "high": 610_000, "low": 590_000, "close": 600_500, "mark_high": 0, "mark_low": 0}
    exchange.open_bar("BTCUSDT", Bar(open_ms=60_000, close_ms=120_000, volume=10**9, **prices))
    exchange.play("BTCUSDT")
    exchange.updates()
    return exchange


def _tick(writer: JournalWriter, seq: int) -> None:
    state = new_state(wallet_e8=1)
    state["seq"] = seq
    event = new_event(EventKind.CLOCK, seq, seq=seq)
    writer.record("bot", Change(event=event, before=state, after=state, intents=np.zeros(0, INTENT)), [])


def _keep(writer: JournalWriter, exchange: PaperExchange, cursor: dict[str, Any]) -> None:
    moment = {"cursor": cursor, "updated_ms": 1_700_000_000_000}
    writer.attend(
        lambda: [(PaperBook, "bot", {"bot": "bot", "symbol": "BTCUSDT", **exchange.save("BTCUSDT"), **moment})]
    )


def _stored(store: Store) -> dict[str, Any]:
    with store.read() as connection:
        return dict(connection.execute(sa.select(*PaperBook.__table__.columns)).one()._mapping)


def test_a_book_comes_back_to_the_last_byte(store: Store) -> None:
    exchange, writer = _busy(), JournalWriter(store)
    _keep(writer, exchange, {"at": 7, "mark": 600_500, "name": "é 名"})
    writer.commit(force=True)
    row = _stored(store)
    assert isinstance(row["record"], bytes) and len(row["record"]) == VENUE.itemsize
    assert {name: row[name] for name in ("number", "record", "details")} == exchange.save("BTCUSDT")
    assert row["cursor"] == {"at": 7, "mark": 600_500, "name": "é 名"}
    again = _paper()
    again.restore("BTCUSDT", row)
    assert again.save("BTCUSDT") == exchange.save("BTCUSDT")
    while exchange.play("BTCUSDT"):
        pass
    while again.play("BTCUSDT"):
        pass
    assert again.snapshot("BTCUSDT") == exchange.snapshot("BTCUSDT")


def test_there_is_one_row_per_bot_and_it_is_the_newest(store: Store) -> None:
    exchange, writer = _busy(), JournalWriter(store)
    _keep(writer, exchange, {})
    numbers = []
    for _ in range(3):
        exchange.protect("BTCUSDT", stop=Decimal(50_000), target=None)
        writer.commit(force=True)
        numbers.append(_stored(store)["number"])
    assert numbers == sorted(set(numbers)) and len(numbers) == 3


def test_a_venue_that_cannot_be_written_leaves_no_journal_either(store: Store) -> None:
    writer = JournalWriter(store)
    writer.attend(lambda: [(PaperBook, "bot", {"bot": "bot", "symbol": None, "number": 1})])
    _tick(writer, 1)
    with pytest.raises(StoreError):
        writer.commit()
    assert len(journal.read(store, "bot", EVENT)) == 0


def _lease(store: Store, holder: str, now_ms: int, ttl_ms: int = 10_000) -> Lease:
    lease = control.take_lease(store, "runner", holder=holder, clock=SimulatedClock(now_ms), ttl_ms=ttl_ms)
    assert lease is not None
    return lease


def _passes(store: Store, lease: Lease) -> None:
    with store.begin() as connection:
        fence(connection, lease)


def test_the_fence_lets_the_holder_through_also_when_late_and_nobody_else(store: Store) -> None:
    first = _lease(store, "a", 0)
    _passes(store, first)
    renewed = control.renew(store, first, clock=SimulatedClock(50_000))
    assert renewed is not None
    for lease in (first, renewed):
        _passes(store, lease)
    second = _lease(store, "b", 90_000)
    _passes(store, second)
    for lease in (first, renewed):
        with pytest.raises(LeaseLost, match="another runner holds the lease: b, epoch 2") as lost:
            _passes(store, lease)
    assert lost.value.exit_code == 1 and isinstance(lost.value, AutotraderError) and "\n" not in str(lost.value)


def test_a_restarted_process_is_another_holder(store: Store) -> None:
    first, again = _lease(store, "a", 0), _lease(store, "a", 20_000)
    _passes(store, again)
    with pytest.raises(LeaseLost, match="epoch 2"):
        _passes(store, first)


def test_a_lease_that_was_given_back_or_never_was_opens_no_fence(store: Store) -> None:
    lease = _lease(store, "a", 0)
    control.release(store, lease)
    with pytest.raises(LeaseLost, match="given back"):
        _passes(store, lease)
    with store.begin() as connection:
        connection.exec_driver_sql("DELETE FROM leases")
    with pytest.raises(LeaseLost, match="its row is gone"):
        _passes(store, lease)


def _taker(store: Store, taken: list[tuple[Lease | None, int]]) -> threading.Thread:
    "Somebody who wants the lease, late enough to get it; says what it got and how many rows it saw then."

    def take() -> None:
        lease = control.take_lease(store, "runner", holder="b", clock=SimulatedClock(90_000), ttl_ms=10_000)
        with store.read() as connection:
            seen = connection.execute(sa.select(sa.func.count()).select_from(SystemEvent)).scalar_one()
        taken.append((lease, seen))

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    return thread


def _write(connection: sa.Connection) -> None:
    row = {"timestamp": datetime(2025, 3, 8, tzinfo=UTC), "level": "INFO", "event_type": "T", "message": ""}
    connection.execute(sa.insert(SystemEvent).values(row))


def test_a_lease_cannot_change_hands_between_the_fence_and_the_commit(store: Store) -> None:
    first = _lease(store, "a", 0)
    taken: list[tuple[Lease | None, int]] = []
    with store.begin() as connection:
        fence(connection, first)
        thread = _taker(store, taken)
        time.sleep(0.3)
        assert taken == [], "the taker waits for the transaction"
        _write(connection)
    thread.join(timeout=30)
    [(second, seen)] = taken
    assert second is not None and second.epoch == 2
    assert seen == 1, "what the first wrote is there before the second begins"


def test_an_overtaken_runner_writes_neither_journal_nor_venue(store: Store) -> None:
    first = _lease(store, "a", 0)
    exchange, writer = _busy(), JournalWriter(store, fence=lambda connection: fence(connection, first))
    _keep(writer, exchange, {})
    _tick(writer, 1)
    writer.commit()
    before = _stored(store)
    _lease(store, "b", 90_000)
    exchange.protect("BTCUSDT", stop=Decimal(50_000), target=None)
    _tick(writer, 2)
    for _ in range(2):
        with pytest.raises(LeaseLost):
            writer.commit()
    assert journal.read(store, "bot", EVENT)["seq"].tolist() == [1]
    assert _stored(store) == before


def test_a_runner_that_freezes_in_a_transaction_does_not_keep_the_lease_for_ever(postgres_url: str) -> None:
    with open_store(postgres_url, create=True) as store:
        first = _lease(store, "a", 0, ttl_ms=300)
        taken: list[tuple[Lease | None, int]] = []
        with pytest.raises(StoreError, match="idle-in-transaction"), store.begin() as connection:
            fence(connection, first)
            _write(connection)
            thread = _taker(store, taken)
            thread.join(timeout=30)
            [(second, seen)] = taken
            assert second is not None and (second.epoch, seen) == (2, 0)
            _write(connection)  # it wakes up
        with store.read() as connection:
            assert connection.execute(sa.select(SystemEvent.id)).all() == []
        with pytest.raises(LeaseLost):
            _passes(store, first)
