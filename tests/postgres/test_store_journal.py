"""The journal gives back what it was given, in order, or says what is wrong with it."""

import threading

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from autotrader.core.errors import StoreError
from autotrader.engine.events import EVENT, INTENT, PARAMS, SCHEMA, STATE, new_state, readable_state
from autotrader.store import journal
from autotrader.store.database import Store, open_store
from autotrader.store.layouts import layouts, plainest
from autotrader.store.tables import Base, JournalEvent, JournalIntent, PolicyParams, PolicyState

BOT = "sub_bot_A"


def some_events(first: int, n: int, seed: int = 0) -> np.ndarray:
    "Events with every bit of their numbers in use, numbered from `first`."
    raw = np.random.default_rng(seed).bytes(n * EVENT.itemsize)
    events = np.frombuffer(bytearray(raw), EVENT)
    events["seq"] = np.arange(first, first + n)
    events["kind"] = 1 + np.arange(n) % 11
    events["value"][::2] = np.nan
    return events


def emptied(store: Store) -> Store:
    with store.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(sa.delete(table))
    return store


@settings(max_examples=25)
@given(st.lists(st.integers(0, 40), max_size=6), st.integers(0, 2**32 - 1), st.integers(0, 120))
def test_events_come_back_byte_for_byte(shared_store: Store, batches: list[int], seed: int, after: int) -> None:
    store, events = emptied(shared_store), some_events(1, sum(batches), seed)
    for batch in np.split(events, np.cumsum(batches))[: len(batches)]:
        with store.begin() as transaction:
            journal.append(transaction, BOT, batch)
    after = min(after, len(events))
    assert journal.read(store, BOT, EVENT, after_seq=after).tobytes() == events[after:].tobytes()
    with store.read() as connection:
        assert journal.last_seq(connection, BOT) == len(events)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 2**32 - 1))
def test_intents_come_back_byte_for_byte_with_their_events(shared_store: Store, counts: list[int], seed: int) -> None:
    store, events = emptied(shared_store), some_events(1, len(counts), seed)
    intents = np.frombuffer(bytearray(np.random.default_rng(seed).bytes(sum(counts) * INTENT.itemsize)), INTENT)
    intents["kind"] = 1
    seqs = np.repeat(events["seq"], counts)
    with store.begin() as transaction:
        journal.append(transaction, BOT, events)
        journal.append_intents(transaction, BOT, seqs, intents)
    found, again = journal.read_intents(store, BOT, INTENT)
    assert found.tolist() == seqs.tolist() and again.tobytes() == intents.tobytes()


def test_what_was_read_can_be_folded_in_place(store: Store) -> None:
    with store.begin() as transaction:
        journal.append(transaction, BOT, some_events(1, 3))
    assert journal.read(store, BOT, EVENT).flags.writeable
    assert journal.read(store, "nobody", EVENT).shape == (0,)


def test_bots_of_one_cycle_share_a_commit_and_an_order(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.begin() as transaction:
        for bot in ("A", "B", "C"):
            journal.append(transaction, bot, some_events(1, 2))
        raise ZeroDivisionError
    assert [len(journal.read(store, bot, EVENT)) for bot in "ABC"] == [0, 0, 0]
    with store.begin() as transaction:
        for bot in ("A", "B", "A"):
            with_seq = 2 if (bot, journal.last_seq(transaction, bot)) == ("A", 1) else 1
            journal.append(transaction, bot, some_events(with_seq, 1))
    with store.read() as connection:
        order = connection.execute(sa.select(JournalEvent.bot).order_by(JournalEvent.id)).scalars().all()
    assert order == ["A", "B", "A"]


@pytest.mark.parametrize("seqs", [[3], [5], [4, 6], [5, 4], [4, 4]])
def test_an_event_out_of_order_is_refused_and_nothing_is_written(store: Store, seqs: list[int]) -> None:
    with store.begin() as transaction:
        journal.append(transaction, BOT, some_events(1, 3))
    wrong = some_events(1, len(seqs))
    wrong["seq"] = seqs
    with (
        pytest.raises(StoreError, match=f"journal of {BOT}: events .* do not follow event 3"),
        store.begin() as transaction,
    ):
        journal.append(transaction, BOT, wrong)
    assert len(journal.read(store, BOT, EVENT)) == 3


def test_two_runners_cannot_both_write_the_next_event(any_store_url: str) -> None:
    outcomes: list[str] = []
    ready = threading.Barrier(2)

    def runner() -> None:
        with open_store(any_store_url) as store:
            ready.wait()
            try:
                for seq in range(1, 30):
                    with store.begin() as transaction:
                        journal.append(transaction, BOT, some_events(seq, 1))
                outcomes.append("all")
            except StoreError:
                outcomes.append("refused")

    open_store(any_store_url, create=True).close()
    threads = [threading.Thread(target=runner) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "refused" in outcomes
    with open_store(any_store_url) as store:
        events = journal.read(store, BOT, EVENT)  # raises if one were missing
        assert len(np.unique(events["seq"])) == len(events) > 0


def test_a_missing_event_is_named(store: Store) -> None:
    with store.begin() as transaction:
        journal.append(transaction, BOT, some_events(1, 9))
        transaction.execute(sa.delete(JournalEvent).where(JournalEvent.seq == 4))
    with pytest.raises(StoreError, match=f"journal of {BOT}: event 4 is missing"):
        journal.read(store, BOT, EVENT)
    assert len(journal.read(store, BOT, EVENT, after_seq=4)) == 5


def test_a_record_of_another_version_is_not_misread(store: Store) -> None:
    with store.begin() as transaction:
        journal.append(transaction, BOT, some_events(1, 1))
    with pytest.raises(StoreError, match=f"a record has {EVENT.itemsize} bytes, this version reads {INTENT.itemsize}"):
        journal.read(store, BOT, INTENT)


def test_the_intents_of_an_event_are_written_once(store: Store) -> None:
    intents = np.zeros(2, INTENT)
    with store.begin() as transaction:
        journal.append_intents(transaction, BOT, np.array([1, 1]), intents)
    with pytest.raises(StoreError, match=r"(?i)unique"), store.begin() as transaction:
        journal.append_intents(transaction, BOT, np.array([1]), intents[:1])
    with store.read() as connection:
        assert connection.execute(sa.select(JournalIntent.number)).scalars().all() == [0, 1]


def test_the_first_state_stays_and_the_newest_replaces_the_one_before(store: Store) -> None:
    for seq in (0, 5, 9):
        state = new_state(wallet_e8=1_000 + seq)
        state["seq"] = seq
        with store.begin() as transaction:
            journal.save_state(transaction, BOT, state, readable=readable_state(state[0]))
    newest = journal.load_state(store, BOT, STATE, schema=SCHEMA)
    first = journal.load_state(store, BOT, STATE, schema=SCHEMA, first=True)
    assert newest is not None and first is not None
    assert newest.tobytes() == state.tobytes()
    assert (int(first["wallet_e8"][0]), int(newest["wallet_e8"][0])) == (1_000, 1_009)
    with pytest.raises(StoreError, match=f"its schema is {SCHEMA}, this version reads up to {SCHEMA - 1}"):
        journal.load_state(store, BOT, STATE, schema=SCHEMA - 1)
    assert journal.load_state(store, "nobody", STATE, schema=SCHEMA) is None


def test_states_and_parameters_of_the_first_layout_are_read_in_todays(store: Store) -> None:
    "As rows that its version wrote: the same bytes, in both databases."
    state, params = np.zeros(1, layouts(STATE)[1]), np.zeros(1, layouts(PARAMS)[1])
    for name, value in {"schema": 1, "seq": 4, "wallet_e8": 99, "trips_paused": 2}.items():
        state[name] = value
    state["orders"]["key"][0, 3] = 17
    for name, value in {"id": 3, "size": 0.25, "manual_resume": 1}.items():
        params[name] = value
    with store.begin() as transaction:
        row = {"bot": BOT, "seq": 4, "schema": 1, "record": state.tobytes(), "readable": {}}
        transaction.execute(sa.insert(PolicyState), [row])
        transaction.execute(
            sa.insert(PolicyParams), [{"bot": BOT, "id": 3, "record": params.tobytes(), "readable": {}}]
        )
    now, rules = journal.load_state(store, BOT, STATE, schema=SCHEMA), journal.load_params(store, BOT, PARAMS)[3]
    assert now is not None
    assert [now[name][0] for name in ("schema", "seq", "wallet_e8", "trips_paused", "best")] == [SCHEMA, 4, 99, 2, 0]
    assert now["orders"]["key"][0].tolist() == [0, 0, 0, 17, *[0] * 6]
    assert [rules[name][0] for name in ("id", "size", "manual_resume", "sl_kind")] == [3, 0.25, 1, 0]
    assert plainest(rules) == params.tobytes()
    with store.begin() as transaction:
        journal.save_params(transaction, BOT, rules, readable={})  # what it goes on with is what it had


def test_parameters_keep_their_meaning(store: Store) -> None:
    params = np.zeros(1, PARAMS)
    params["id"], params["size"] = 3, 0.25
    with store.begin() as transaction:
        for _ in range(2):  # a restart saves them again
            journal.save_params(transaction, BOT, params, readable={"size": 0.25})
    assert journal.load_params(store, BOT, PARAMS)[3].tobytes() == params.tobytes()
    params["size"] = 0.5
    with (
        pytest.raises(StoreError, match="parameters 3 of sub_bot_A are stored with other values"),
        store.begin() as transaction,
    ):
        journal.save_params(transaction, BOT, params, readable={"size": 0.5})
