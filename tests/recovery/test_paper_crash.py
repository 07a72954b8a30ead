"""A process with bots and their paper venue is killed again and again; each next one goes on where journal and venue stand together."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from autotrader.bots.subbot import recover
from autotrader.core.market import to_e8
from autotrader.data.instruments import known
from autotrader.engine.events import EVENT, INTENT, EventKind, IntentKind, Status
from autotrader.engine.fills import VENUE
from autotrader.runner.parity import decision_parity
from autotrader.store import journal
from autotrader.store.database import Store, open_store
from autotrader.store.tables import Fill, HeldLease, Order, PaperBook, Trade

BARS, KILLS = 200, 10
BOTS = ("sub_bot_A", "sub_bot_B", "sub_bot_C")
FUNDING_MS = 8 * 3_600_000
MORTAL = Path(__file__).with_name("mortal.py")
NEVER_BACK = """
CREATE TRIGGER never_back BEFORE UPDATE ON paper_books
WHEN NEW.number < OLD.number OR NEW.bot IS NOT OLD.bot
BEGIN SELECT RAISE(ABORT, 'a paper book went back'); END
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survivor:
    store: Store
    kills: int  # from outside
    died: list[str]  # by themselves, of what
    begun: list[int]  # bars that were in play when a process began


def _hunt(url: str) -> tuple[int, list[str], list[int]]:
    "Let processes trade; kill every second one after some bars, in the middle of whatever it does then."
    rng, kills, left = random.Random(17), 0, -1
    died: list[str] = []
    begun: list[int] = []
    family = subprocess.Popen(
        [sys.executable, str(MORTAL), url, str(BARS)],
        env={**os.environ, "AUTOTRADER_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert family.stdout is not None
    try:
        for line in family.stdout:
            word, _, told = line.strip().partition(" ")
            if word == "process":
                child, left = int(told), rng.randint(1, 25) if len(begun) % 2 == 0 and kills < KILLS else -1
            elif word == "begun":
                begun.append(int(told))
            elif word == "died":
                died.append(told)
            elif word == "bar":
                left -= 1
                if left == 0:
                    time.sleep(rng.random() * 0.01)
                    with suppress(ProcessLookupError):  # it came to the end of the tape just now
                        os.kill(child, signal.SIGKILL)
                        kills += 1
        assert family.wait(timeout=60) == 0
    finally:
        if family.poll() is None:
            os.killpg(family.pid, signal.SIGKILL)
            family.wait()
    return kills, died, begun


@pytest.fixture(scope="module")
def survivor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Survivor]:
    url = f"sqlite:///{tmp_path_factory.mktemp('mortal') / 'supervisor.db'}"
    with open_store(url, create=True) as store:
        with store.begin() as connection:
            connection.exec_driver_sql(NEVER_BACK)
        kills, died, begun = _hunt(url)
        yield Survivor(store=store, kills=kills, died=died, begun=begun)


def test_it_was_killed_often_and_at_every_kind_of_moment(survivor: Survivor) -> None:
    assert survivor.kills == KILLS
    assert set(survivor.died) == {"wished", "asked", "instant", "funded"}
    assert sum(survivor.begun) > 0, "some began in the middle of a bar"
    with survivor.store.read() as connection:
        epochs = connection.execute(sa.select(HeldLease.epoch)).scalar_one()
    assert epochs == len(survivor.begun) == KILLS + len(survivor.died) + 1


@pytest.mark.parametrize("bot", BOTS)
def test_the_journal_folds_to_what_is_stored(survivor: Survivor, bot: str) -> None:
    parity = decision_parity(survivor.store, bot)
    assert parity.is_exact, parity.fault
    assert parity.events > 60


@pytest.mark.parametrize("bot", BOTS)
def test_bot_and_venue_hold_the_same_to_the_last_unit(survivor: Survivor, bot: str) -> None:
    folded = recover(survivor.store, bot)
    assert folded is not None
    with survivor.store.read() as connection:
        book = connection.execute(sa.select(*PaperBook.__table__.columns).where(PaperBook.bot == bot)).one()
    venue, state = np.frombuffer(book.record, VENUE)[0], folded.state[0]
    for name in ("qty", "cost", "wallet_e8", "realised_e8", "fees_e8", "funding_e8"):
        assert state[name] == venue[name], name
    if not state["exiting"]:
        assert state["have_stop"] == venue["stop"] and state["have_target"] == venue["target"]
    assert book.details["updates"] == [], "everything was heard and written down"
    resting = {int(order["key"]) for order in venue["resting"] if order["key"]}
    assert len(resting) == sum(slot["status"] == Status.LIVE for slot in state["orders"][:8])


@pytest.mark.parametrize("bot", BOTS)
def test_no_order_and_no_execution_is_there_twice_or_missing(survivor: Survivor, bot: str) -> None:
    store = survivor.store
    _, intents = journal.read_intents(store, bot, INTENT)
    placed = intents[intents["kind"] == IntentKind.PLACE]
    with store.read() as connection:
        orders = connection.execute(sa.select(Order.link_id, Order.key, Order.status).where(Order.bot == bot)).all()
        fills = connection.execute(
            sa.select(Fill.exec_id, Fill.link_id, Fill.qty, Fill.fee).join(Order).where(Order.bot == bot)
        ).all()
        trades = connection.execute(sa.select(*Trade.__table__.columns).where(Trade.sub_bot_name == bot)).all()
        book = connection.execute(sa.select(*PaperBook.__table__.columns).where(PaperBook.bot == bot)).one()
    ours = [row for row in orders if row.key > 0]
    assert len({row.link_id for row in orders}) == len(orders) and len({row.key for row in ours}) == len(ours)
    assert sorted(row.key for row in ours) == sorted(placed["key"].tolist())
    assert {row.status for row in orders} <= {"FILLED", "CANCELLED", "UNKNOWN_RESOLVED", "REJECTED", "VETOED", "LIVE"}
    assert len({row.exec_id for row in fills}) == len(fills) > 15
    for trade in trades:
        assert trade.quantity == sum(row.qty for row in fills if row.link_id == trade.order_id)
    ended = [line.split(" ") for line in book.details["ended"].splitlines()]
    filled = {words[0]: words[6] for words in ended if float(words[6])}
    bought = {row.order_id: str(row.quantity) for row in trades}
    assert all(float(bought[name]) == float(qty) for name, qty in filled.items()), "what the venue filled is a trade"
    venue = np.frombuffer(book.record, VENUE)[0]
    assert to_e8(sum(row.fee for row in fills)) == venue["fees_e8"]


@pytest.mark.parametrize("bot", BOTS)
def test_the_trades_explain_the_position(survivor: Survivor, bot: str) -> None:
    instrument = known("sample", "EURUSD")
    assert instrument is not None
    with survivor.store.read() as connection:
        trades = connection.execute(sa.select(Trade.side, Trade.quantity).where(Trade.sub_bot_name == bot)).all()
        book = connection.execute(sa.select(PaperBook.record).where(PaperBook.bot == bot)).scalar_one()
    held = sum(row.quantity if row.side == "BUY" else -row.quantity for row in trades)
    assert held == instrument.qty(int(np.frombuffer(book, VENUE)[0]["qty"]))


@pytest.mark.parametrize("bot", BOTS)
def test_what_came_twice_was_written_down_and_changed_nothing(survivor: Survivor, bot: str) -> None:
    "Stamps and numbers of the journal only go forward, whatever was heard again."
    events = journal.read(survivor.store, bot, EVENT)
    assert (np.diff(events["seq"]) == 1).all() and (np.diff(events["ts_ms"]) >= 0).all()


@pytest.mark.parametrize("bot", BOTS)
def test_funding_was_paid_once_at_each_stamp(survivor: Survivor, bot: str) -> None:
    events = journal.read(survivor.store, bot, EVENT)
    periods = (events["ts_ms"][events["kind"] == EventKind.MONEY] // FUNDING_MS).tolist()
    assert len(periods) == len(set(periods)) > 1
