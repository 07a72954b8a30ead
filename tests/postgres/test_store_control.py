"""Real processes fight for a lease, freeze and wake up, take commands at once: on both databases."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
import sqlalchemy as sa

from autotrader.core.clock import SimulatedClock, SystemClock
from autotrader.core.errors import ConfigError, StoreError
from autotrader.store import control
from autotrader.store.database import Store, open_store
from autotrader.store.tables import ControlCommand, HeldLease, SystemEvent

START = """
import json, sys, time
from autotrader.core.clock import SystemClock
from autotrader.core.errors import StoreError
from autotrader.store.control import *
from autotrader.store.database import open_store

def say(**what):
    print(json.dumps(what), flush=True)

store, me, clock = open_store(sys.argv[1]), sys.argv[2], SystemClock()
say(ready=True)
sys.stdin.readline()
"""
FIGHT = START + """
rounds = 0
while rounds < 12:
    lease = take_lease(store, "runner", holder=me, clock=clock, ttl_ms=60)
    if lease is None:
        time.sleep(0.002)
        continue
    rounds += 1
    while lease.is_fresh(now := monotonic_ms()):
        say(epoch=lease.epoch, at=now)
        time.sleep(0.003)
        if rounds % 3 == 0 and lease.since_ms + 20 < now:
            break
        if rounds % 3 == 1:
            lease = renew(store, lease, clock=clock) or lease
            if now % 7 == 0:
                break
    if rounds % 2:
        release(store, lease)
"""
SEND = START + """
lease = take_lease(store, "runner", holder=me, clock=clock, ttl_ms=800)
while lease is not None:
    while lease.is_fresh(checked := monotonic_ms()):
        say(checked=checked, sent=monotonic_ms())
        time.sleep(0.001)
    try:
        lease = renew(store, lease, clock=clock)  # late, as long as nobody has it
    except StoreError:  # it was frozen in the transaction, and the database has ended that
        pass
say(lost=True)
"""
TAKE = START + """
for number in range(1, 41):
    if take(store, number, epoch=1, now_ms=clock.now_ms()):
        say(took=number)
"""


@contextmanager
def processes(code: str, url: str, *names: str) -> Iterator[list[subprocess.Popen[str]]]:
    "Processes that are ready to go."
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen([sys.executable, "-c", code, url, name], stdin=pipe, stdout=pipe, text=True) for name in names
    ]
    try:
        for process in started:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline()) == {"ready": True}
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def said(process: subprocess.Popen[str]) -> list[dict[str, int]]:
    "The rest of what a process says until it ends by itself."
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return [json.loads(line) for line in out.splitlines()]


def test_two_processes_that_fight_for_a_lease_never_hold_it_together(any_store_url: str) -> None:
    open_store(any_store_url, create=True).close()
    with processes(FIGHT, any_store_url, "first", "second") as fighters:
        told = [[(line["epoch"], line["at"]) for line in said(process)] for process in fighters]
    held = [{epoch for epoch, _ in lines} for lines in told]
    assert held[0] and held[1], "both had it at times"
    assert not held[0] & held[1], "no epoch has two holders"
    assert [sorted(lines) for lines in told] == told, "epochs only rise"
    everything = sorted((at, epoch) for lines in told for epoch, at in lines)
    overlaps = [(before, after) for before, after in pairwise(everything) if after[1] < before[1]]
    assert overlaps == [], "who has an earlier epoch is stale before the next one starts"
    with open_store(any_store_url) as store, store.read() as connection:
        assert connection.execute(sa.select(HeldLease.epoch)).scalar_one() >= max(held[0] | held[1])


def test_a_frozen_runner_that_wakes_up_sends_nothing(any_store_url: str) -> None:
    with open_store(any_store_url, create=True) as store, processes(SEND, any_store_url, "frozen") as [frozen]:
        assert frozen.stdout is not None
        assert "sent" in json.loads(frozen.stdout.readline())
        frozen.send_signal(signal.SIGSTOP)
        successor = None
        while successor is None:
            time.sleep(0.01)
            try:
                successor = control.take_lease(store, "runner", holder="other", clock=SystemClock(), ttl_ms=60_000)
            except StoreError:  # it froze while it was writing
                frozen.send_signal(signal.SIGCONT)
                time.sleep(0.01)
                frozen.send_signal(signal.SIGSTOP)
        assert successor.epoch == 2
        frozen.send_signal(signal.SIGCONT)
        *lines, last = said(frozen)
    assert last == {"lost": True}
    assert all(line["checked"] < successor.since_ms for line in lines)
    assert sum(line["sent"] >= successor.since_ms for line in lines) <= 1  # it froze between its look and its order


def test_a_command_is_taken_once_whoever_wants_it(any_store_url: str) -> None:
    with open_store(any_store_url, create=True) as store:
        for _ in range(40):
            control.request(store, "stop", bot=None, who="test", args={}, now_ms=1)
        with processes(TAKE, any_store_url, "first", "second") as takers:
            took = [[line["took"] for line in said(process)] for process in takers]
        assert sorted(took[0] + took[1]) == list(range(1, 41))
        assert control.waiting(store, epoch=1) == []


def test_threads_of_one_process_get_one_lease(store: Store) -> None:
    taken: list[control.Lease | None] = []

    def want(number: int) -> None:
        taken.append(control.take_lease(store, "runner", holder=str(number), clock=SimulatedClock(1), ttl_ms=1_000))

    threads = [threading.Thread(target=want, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 4
    assert [lease.epoch for lease in taken if lease is not None] == [1]


def test_a_lease_ages_from_before_the_question(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"world": 1_000, "own": 100}
    monkeypatch.setattr(control, "monotonic_ms", lambda: times["own"])

    class HeldUp:
        "A process that stands still for half a second when it has read the world's clock, and before."

        def now_ms(self) -> int:
            times["own"] += 500
            now_ms, times["world"] = times["world"] + 500, times["world"] + 1_000
            times["own"] += 500
            return now_ms

    lease = control.take_lease(store, "runner", holder="a", clock=HeldUp(), ttl_ms=1_000)
    assert lease is not None and lease.since_ms == 100
    renewed = control.renew(store, lease, clock=HeldUp())
    assert renewed is not None and renewed.since_ms == 1_100
    assert not renewed.is_fresh(1_100 + 750)
    assert not lease.is_fresh(100 + 750) and renewed.is_fresh(1_100 + 749)


def test_leases_of_other_names_are_other_leases(store: Store) -> None:
    one = control.take_lease(store, "runner", holder="a", clock=SimulatedClock(1), ttl_ms=10)
    two = control.take_lease(store, "backup", holder="b", clock=SimulatedClock(1), ttl_ms=10)
    assert one is not None and two is not None
    assert (one.epoch, two.epoch) == (1, 1)


def test_a_lease_that_was_given_back_cannot_be_renewed(store: Store) -> None:
    lease = control.take_lease(store, "runner", holder="a", clock=SimulatedClock(1), ttl_ms=10)
    assert lease is not None
    control.release(store, lease)
    assert control.renew(store, lease, clock=SimulatedClock(2)) is None
    again = control.take_lease(store, "runner", holder="a", clock=SimulatedClock(3), ttl_ms=10)
    assert again is not None and again.epoch == 2


def test_a_late_runner_whose_lease_nobody_took_keeps_its_epoch(store: Store) -> None:
    lease = control.take_lease(store, "runner", holder="a", clock=SimulatedClock(0), ttl_ms=10)
    assert lease is not None
    assert control.holder_of(store, "runner", now_ms=500) is None
    renewed = control.renew(store, lease, clock=SimulatedClock(500))
    assert renewed is not None and renewed.epoch == lease.epoch
    assert control.holder_of(store, "runner", now_ms=501) == "a"


def test_without_a_database_the_lease_goes_on_ageing(store: Store) -> None:
    lease = control.take_lease(store, "runner", holder="a", clock=SimulatedClock(0), ttl_ms=1_000)
    assert lease is not None
    with store.begin() as connection:
        connection.exec_driver_sql("DROP TABLE leases")
    with pytest.raises(StoreError):
        control.renew(store, lease, clock=SimulatedClock(10))
    assert not lease.is_fresh(lease.since_ms + 1_000)


def test_a_runner_of_the_past_cannot_beat_over_the_one_of_now(store: Store) -> None:
    assert control.beat(store, "runner", now_ms=10, epoch=2, details={"bots": 3})
    assert not control.beat(store, "runner", now_ms=20, epoch=1, details={"bots": 9})
    assert control.beat(store, "runner", now_ms=30, epoch=2, details={"lag_ms": 1.5, "bots": None})
    assert control.beat(store, "runner/a", now_ms=5, epoch=2, details={})
    assert control.pulses(store) == [
        control.Pulse(name="runner", at_ms=30, epoch=2, details={"lag_ms": 1.5, "bots": None}),
        control.Pulse(name="runner/a", at_ms=5, epoch=2, details={}),
    ]


def test_a_command_goes_from_waiting_to_done_and_tells_who_asked(store: Store) -> None:
    number = control.request(store, "flatten", bot="a", who="anna", args={"why": "news"}, now_ms=1_000)
    assert control.status_of(store, number).state == "waiting"
    assert control.take(store, number, epoch=7, now_ms=1_100)
    assert control.answer(store, number, state="done", result={"message": "flat", "orders": 1}, epoch=7, now_ms=1_200)
    assert control.status_of(store, number) == control.Request(
        id=number,
        created_ms=1_000,
        who="anna",
        bot="a",
        command="flatten",
        args={"why": "news"},
        state="done",
        epoch=7,
        taken_ms=1_100,
        answered_ms=1_200,
        result={"message": "flat", "orders": 1},
    )
    columns = (SystemEvent.level, SystemEvent.event_type, SystemEvent.message)
    with store.read() as connection:
        audit = [tuple(row) for row in connection.execute(sa.select(*columns).order_by(SystemEvent.id))]
    assert audit == [
        ("WARNING", "COMMAND", f"anna asks: flatten a (command {number})"),
        ("INFO", "COMMAND_DONE", f"command {number}, flatten a, asked by anna: done, flat"),
    ]


def test_a_command_that_a_dead_runner_took_is_there_for_the_next(store: Store) -> None:
    numbers = [control.request(store, "stop", bot=None, who="t", args={}, now_ms=i) for i in range(3)]
    assert control.take(store, numbers[0], epoch=1, now_ms=5)
    assert control.take(store, numbers[1], epoch=1, now_ms=5)
    assert control.answer(store, numbers[1], state="failed", result={}, epoch=1, now_ms=6)
    assert [one.id for one in control.waiting(store, epoch=1)] == [numbers[2]]
    assert [one.id for one in control.waiting(store, epoch=2)] == [numbers[0], numbers[2]]
    assert control.take(store, numbers[0], epoch=2, now_ms=7)
    assert not control.answer(store, numbers[0], state="done", result={}, epoch=1, now_ms=8)
    assert not control.take(store, numbers[0], epoch=1, now_ms=9)
    assert control.answer(store, numbers[0], state="done", result={}, epoch=2, now_ms=9)
    assert not control.answer(store, numbers[0], state="failed", result={}, epoch=2, now_ms=10)
    assert control.status_of(store, numbers[0]).state == "done"


def test_a_request_that_is_refused_leaves_neither_row_nor_audit(store: Store) -> None:
    with pytest.raises(ConfigError, match="'halt' is not one: use stop, resume, flatten"):
        control.request(store, "halt", bot=None, who="t", args={}, now_ms=1)
    with pytest.raises(ConfigError, match="command 12 does not exist"):
        control.status_of(store, 12)
    with store.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(ControlCommand)).scalar() == 0
        assert connection.execute(sa.select(sa.func.count()).select_from(SystemEvent)).scalar() == 0


def test_an_unknown_state_does_not_get_into_the_table(store: Store) -> None:
    row = {"created_ms": 1, "who": "t", "command": "stop", "args": {}, "state": "lost"}
    with pytest.raises(StoreError, match="ck_commands_state"), store.begin() as connection:
        connection.execute(sa.insert(ControlCommand).values(row))
