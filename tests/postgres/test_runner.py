"""The trading process on PostgreSQL: killed it goes on, and nobody waits for ever for one that is frozen."""

import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "recovery"))

import runner_child as child
from runner_child import BOTS, Desk, Nursery, Runner, await_value

from autotrader.core.errors import StoreError
from autotrader.store import control
from autotrader.store.database import Store, insert_new, open_store
from autotrader.store.tables import HeldLease, JournalEvent, SystemEvent

FAST = ("--speed", "0")
SHORT_MS, LONG_MS = 3_000, 60_000


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def desk(nursery: Nursery, tmp_path: Path) -> Iterator[Desk]:
    "A replay that takes longer than any test here."
    desk = child.new_desk(tmp_path, "2017-05-01", "2018-02-01")
    desk.parts()  # makes the main database
    yield desk
    nursery.end_all()


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    with open_store(postgres_url, create=True) as store:
        yield store


def _pulse(store: Store) -> dict[str, object]:
    return next((pulse.details for pulse in control.pulses(store) if pulse.name == "runner"), {})


def _epoch(store: Store) -> int:
    with store.read() as connection:
        return connection.execute(sa.select(HeldLease.epoch).where(HeldLease.name == "runner")).scalar() or 0


def _events(store: Store) -> int:
    with store.read() as connection:
        return connection.execute(sa.select(sa.func.max(JournalEvent.id))).scalar() or 0


def _trading(store: Store, runner: Runner, within_s: float) -> None:
    def is_trading() -> bool:
        pulse = _pulse(store)
        return (pulse.get("pid"), pulse.get("state")) == (runner.pid, "trading")

    await_value(is_trading, within_s, lambda: f"it does not trade: {runner.said}")


def _goes_on(store: Store, events: int = 20) -> None:
    before = _events(store)
    await_value(lambda: _events(store) > before + events, 60, "nobody trades")


def _waits(runner: Runner, for_whom: Runner) -> bool:
    lines = runner.said.splitlines()
    return (
        bool(lines)
        and lines[-1].startswith(f"process {for_whom.pid} on ")
        and lines[-1].endswith("waiting for its lease")
    )


def _check(store: Store) -> None:
    for bot in BOTS:
        child.check_bot(store, bot)
    with store.read() as connection:
        news = connection.execute(sa.select(SystemEvent.message).where(SystemEvent.event_type == "RECONCILED"))
        assert not [line for line in news.scalars() if "position" in line or "wallet" in line]


def test_a_runner_that_is_killed_on_postgresql_goes_on_by_itself(
    nursery: Nursery, desk: Desk, store: Store, postgres_url: str
) -> None:
    rng = np.random.default_rng(4)
    for _ in range(4):
        runner = nursery.start(desk, *desk.words, *FAST, url=postgres_url)
        _trading(store, runner, 60)
        _goes_on(store, int(rng.integers(1, 120)))
        time.sleep(float(rng.uniform(0, 0.03)))
        runner.kill()
        _check(store)
    doomed = nursery.start(desk, *desk.words, *FAST, url=postgres_url, doom=("submit", "before", 2))
    assert doomed.wait(60) == -signal.SIGKILL
    _check(store)
    last = nursery.start(desk, *desk.words, *FAST, url=postgres_url)
    _trading(store, last, 60)
    _goes_on(store)
    assert _epoch(store) == 6


def test_the_server_ends_an_idle_transaction_also_after_a_batch(store: Store) -> None:
    row = {"timestamp": datetime.now(UTC), "level": "INFO", "event_type": "TEST", "message": "", "details": None}
    for _ in range(3):
        with pytest.raises(StoreError, match="idle-in-transaction timeout"):
            with store.begin() as connection:
                connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = '500ms'")
                insert_new(connection, SystemEvent, [row, row, row])
                time.sleep(3)


@pytest.mark.parametrize("where", ["commit", "beat", "renew"])
def test_a_runner_that_freezes_in_a_transaction_is_taken_over_from_and_then_does_nothing(
    where: str, nursery: Nursery, desk: Desk, store: Store, postgres_url: str
) -> None:
    times = {"commit": 60, "beat": 12, "renew": 4}[where]
    spoilt = {"url": postgres_url, "tells": True}
    first = nursery.start(desk, *desk.words, *FAST, ttl_ms=SHORT_MS, freeze=(where, times), **spoilt)
    _trading(store, first, 60)
    second = nursery.start(desk, *desk.words, *FAST, ttl_ms=LONG_MS, **spoilt)
    await_value(lambda: _waits(second, first), 60, lambda: f"it does not wait: {second.said}")
    await_value(lambda: first.is_frozen, 60, "it did not freeze")
    said = first.said
    _trading(store, second, 45)
    assert _epoch(store) == 2
    _goes_on(store)
    second.send(signal.SIGSTOP)  # from now on whatever is written would be of the first
    time.sleep(0.2)
    before = child.all_rows(store)
    first.thaw()
    await_value(lambda: _waits(first, second), 30, lambda: f"it did not step back: {first.said}")
    time.sleep(1)
    assert child.all_rows(store) == before
    assert "sent:" not in first.said.removeprefix(said)
    second.thaw()
    _goes_on(store)
    second.kill()
    _trading(store, first, 30)
    _goes_on(store)
    first.kill()
    _check(store)
