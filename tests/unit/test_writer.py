"""What a writer collects is written whole or not at all, together with what others keep, and only by who may."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from autotrader.bots.projection import Row
from autotrader.bots.replay import Change
from autotrader.bots.writer import JournalWriter
from autotrader.core.errors import StoreError
from autotrader.engine.events import EVENT, INTENT, SCHEMA, STATE, EventKind, IntentKind, new_event, new_state
from autotrader.store import journal
from autotrader.store.control import LeaseLost
from autotrader.store.database import Store, open_store
from autotrader.store.tables import Heartbeat, PaperBook, Trade


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store("sqlite:///writer.db", folder=tmp_path, create=True) as opened:
        yield opened


def _note(writer: JournalWriter, bot: str, seq: int, intents: int = 0, rows: Sequence[Row] = ()) -> None:
    "An event, and what it caused; each intent carries the event's number."
    wanted, before = np.zeros(intents, INTENT), new_state(wallet_e8=1)
    wanted["kind"], wanted["key"] = IntentKind.PLACE, seq
    after = before.copy()
    before["seq"], after["seq"] = seq - 1, seq
    event = new_event(EventKind.CLOCK, seq * 1_000, seq=seq)
    writer.record(bot, Change(event=event, before=before, after=after, intents=wanted), rows)


def _trade(link: str, price: int) -> dict[str, Any]:
    return {
        "timestamp": datetime(2025, 3, 8, tzinfo=UTC),
        "sub_bot_name": "a",
        "symbol": "BTCUSDT",
        "order_id": link,
        "side": "BUY",
        "price": price,
        "quantity": 1,
        "fee": 0,
        "pnl": 0,
        "entry_reason": None,
    }


def _book(number: int, **more: Any) -> dict[str, Any]:
    row = {"bot": "a", "symbol": "BTCUSDT", "number": number, "record": b"\0\xff", "details": {}, "cursor": {}}
    return {**row, "updated_ms": 0, **more}


def _numbers(store: Store) -> list[int]:
    with store.read() as connection:
        return list(connection.execute(sa.select(PaperBook.number)).scalars())


def _seqs(store: Store, bot: str) -> list[int]:
    seqs: list[int] = journal.read(store, bot, EVENT)["seq"].tolist()
    return seqs


def test_intents_keep_the_event_that_caused_them_and_the_newest_state_is_kept(store: Store) -> None:
    writer = JournalWriter(store)
    for seq, intents in ((1, 2), (2, 0), (3, 1), (4, 3)):
        _note(writer, "a", seq, intents)
    writer.commit()
    seqs, intents_read = journal.read_intents(store, "a", INTENT)
    assert seqs.tolist() == intents_read["key"].tolist() == [1, 1, 3, 4, 4, 4]
    newest = journal.load_state(store, "a", STATE, schema=SCHEMA)
    assert newest is not None and newest["seq"][0] == 4


def test_keepers_are_asked_when_there_is_something_to_write_or_somebody_insists(store: Store) -> None:
    asked = 0

    def keeper() -> list[Any]:
        nonlocal asked
        asked += 1
        return [(PaperBook, "a", _book(asked))]

    writer = JournalWriter(store)
    writer.attend(keeper)
    writer.commit()
    assert (asked, writer.commits, _numbers(store)) == (0, 0, [])
    writer.commit(force=True)
    assert (asked, _numbers(store)) == (1, [1])
    _note(writer, "a", 1)
    writer.commit()
    assert (asked, writer.commits, _numbers(store)) == (2, 2, [2])


def test_every_bot_may_have_its_keeper(store: Store) -> None:
    writer = JournalWriter(store)
    for bot in ("a", "b", "c"):
        writer.attend(lambda bot=bot: [(PaperBook, bot, _book(ord(bot), bot=bot))])
    writer.commit(force=True)
    assert sorted(_numbers(store)) == [97, 98, 99]


def test_what_keepers_keep_stands_at_the_moment_of_the_journal_or_not_at_all(store: Store) -> None:
    writer, number = JournalWriter(store), 1
    writer.attend(lambda: [(PaperBook, "a", _book(number))])
    _note(writer, "a", 1)
    writer.commit()
    number = 2
    _note(writer, "b", 7)  # does not follow
    with pytest.raises(StoreError, match="do not follow"):
        writer.commit()
    assert (_numbers(store), _seqs(store, "a"), _seqs(store, "b")) == ([1], [1], [])
    number, writer = 3, JournalWriter(store)  # the next start
    writer.attend(lambda: [(PaperBook, "a", _book(number))])
    _note(writer, "a", 2)
    writer.commit()
    assert (_numbers(store), _seqs(store, "a"), _seqs(store, "b")) == ([3], [1, 2], [])


def test_a_row_that_did_not_change_is_written_once_and_one_changed_in_place_is_written_again(store: Store) -> None:
    cursor = {"at": {"bar": 1}}
    writer = JournalWriter(store)
    writer.attend(lambda: [(PaperBook, "a", _book(1, cursor=cursor))])
    writer.commit(force=True)
    with store.begin() as connection:
        connection.execute(sa.update(PaperBook).values(updated_ms=99))  # shows whether somebody writes over it
    writer.commit(force=True)
    cursor["at"]["bar"] = 1
    writer.commit(force=True)
    with store.read() as connection:
        assert connection.execute(sa.select(PaperBook.updated_ms)).scalar() == 99
    cursor["at"]["bar"] = 2
    writer.commit(force=True)
    with store.read() as connection:
        row = connection.execute(sa.select(PaperBook.updated_ms, PaperBook.cursor, PaperBook.record)).one()
    assert tuple(row) == (0, {"at": {"bar": 2}}, b"\0\xff")


def test_a_row_whose_commit_failed_is_written_by_the_next(store: Store) -> None:
    denied = [True]

    def fence(_: sa.Connection) -> None:
        if denied.pop():
            raise LeaseLost("another runner holds the lease")

    writer = JournalWriter(store, fence=fence)
    writer.attend(lambda: [(PaperBook, "a", _book(1))])
    with pytest.raises(LeaseLost):
        writer.commit(force=True)
    assert _numbers(store) == []
    denied.append(False)
    writer.commit(force=True)
    assert _numbers(store) == [1]


def test_behind_a_fence_nothing_is_written_and_nothing_is_lost(store: Store) -> None:
    may = False

    def fence(connection: sa.Connection) -> None:
        assert connection.in_transaction()
        if not may:
            raise LeaseLost("another runner holds the lease")

    writer = JournalWriter(store, fence=fence)
    _note(writer, "a", 1, intents=1, rows=[(Trade, "x", _trade("x", 5))])
    with pytest.raises(LeaseLost):
        writer.commit()
    assert _seqs(store, "a") == [] and writer.commits == 0
    may = True
    writer.commit()
    assert _seqs(store, "a") == [1]
    with store.read() as connection:
        assert connection.execute(sa.select(Trade.price)).scalars().all() == [5]


def test_of_rows_under_one_key_the_newest_is_written_and_each_bot_keeps_its_own_journal(store: Store) -> None:
    writer = JournalWriter(store)
    _note(writer, "a", 1, intents=1, rows=[(Trade, "x", _trade("x", 1))])
    _note(writer, "b", 1, intents=1, rows=[(Trade, "y", _trade("y", 1))])
    _note(writer, "a", 2, intents=2, rows=[(Trade, "x", _trade("x", 2)), (Trade, "z", _trade("z", 2))])
    writer.commit()
    assert (_seqs(store, "a"), _seqs(store, "b")) == ([1, 2], [1])
    assert [journal.read_intents(store, bot, INTENT)[0].tolist() for bot in ("a", "b")] == [[1, 2, 2], [1]]
    newest = journal.load_state(store, "a", STATE, schema=SCHEMA)
    assert newest is not None and newest["seq"][0] == 2
    with store.read() as connection:
        rows = connection.execute(sa.select(Trade.order_id, Trade.price).order_by(Trade.order_id)).all()
    assert [tuple(row) for row in rows] == [("x", 2), ("y", 1), ("z", 2)]


def test_a_table_that_nobody_can_write_is_a_mistake_and_not_silence(store: Store) -> None:
    writer = JournalWriter(store)
    writer.row(Heartbeat, "runner", {})
    with pytest.raises(ValueError, match="no way to write Heartbeat"):
        writer.commit()
