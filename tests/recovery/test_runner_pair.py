"""Two runners on one database: one trades, the other waits; who was away too long does nothing more."""

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import runner_child as child
from runner_child import Desk, Nursery, Runner, await_value

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


def _trading(desk: Desk, runner: Runner, within_s: float) -> None:
    await_value(lambda: child.is_trading(desk, runner), within_s, lambda: f"it does not trade: {runner.said}")


def _goes_on(desk: Desk) -> None:
    events = desk.events()
    await_value(lambda: desk.events() > events + 20, 30, "nobody trades")


def _pair(nursery: Nursery, desk: Desk, *, first_ms: int = 15_000, second_ms: int = 15_000) -> tuple[Runner, Runner]:
    "Two runners: the first trades, the second has said that it waits."
    first = nursery.start(desk, *desk.words, *FAST, ttl_ms=first_ms, tells=True)
    _trading(desk, first, 60)
    second = nursery.start(desk, *desk.words, *FAST, ttl_ms=second_ms, tells=True)
    await_value(lambda: _waits(second, first), 60, lambda: f"it does not wait: {second.said}")
    return first, second


def _waits(runner: Runner, for_whom: Runner) -> bool:
    lines = runner.said.splitlines()
    return (
        bool(lines)
        and lines[-1].startswith(f"process {for_whom.pid} on ")
        and lines[-1].endswith("waiting for its lease")
    )


def test_the_second_of_two_runners_does_nothing_but_wait(nursery: Nursery, desk: Desk) -> None:
    first, second = _pair(nursery, desk)
    epoch = desk.lease()[1]
    _goes_on(desk)
    time.sleep(1.5)
    assert desk.lease()[:2] == (desk.lease()[0], epoch)
    assert f"/{first.pid}/" in desk.lease()[0]
    assert desk.pulse()["pid"] == first.pid
    assert len(child.news_of(desk, "STARTUP")) == 1
    assert "sent:" not in second.said and second.said.count("waiting for its lease") == 1
    second.send(signal.SIGTERM)  # it can be told to stop while it waits
    assert second.wait(10) == 0
    assert desk.lease()[1] == epoch and first.poll() is None


def test_the_second_takes_over_at_once_when_the_first_is_killed(nursery: Nursery, desk: Desk) -> None:
    first, second = _pair(nursery, desk, first_ms=LONG_MS)
    _goes_on(desk)
    first.send(signal.SIGKILL)  # nobody buries it: it stays a zombie
    _trading(desk, second, LONG_MS / 1000 / 3)  # long before its lease would run out
    assert desk.lease()[1] == 2
    assert first.wait(5) == -signal.SIGKILL
    rows = child.rows_of(desk)
    _goes_on(desk)
    second.kill()
    child.check_books(desk)
    child.check_grown(rows, child.rows_of(desk))
    assert not [line for line in child.news_of(desk, "RECONCILED") if "position" in line or "wallet" in line]


def test_a_runner_that_was_away_too_long_sends_and_writes_nothing(nursery: Nursery, desk: Desk) -> None:
    first, second = _pair(nursery, desk, first_ms=SHORT_MS, second_ms=LONG_MS)
    _goes_on(desk)
    first.freeze(desk)
    said, rows = first.said, child.rows_of(desk)
    _trading(desk, second, 30)
    assert desk.lease()[1] == 2
    _goes_on(desk)
    second.freeze(desk)  # from now on whatever is written would be of the first
    with desk.open() as store:
        before = child.all_rows(store)
        first.thaw()
        await_value(lambda: _waits(first, second), 20, lambda: f"it did not step back: {first.said}")
        time.sleep(1.5)
        assert child.all_rows(store) == before
    news = first.said.removeprefix(said)
    assert "sent:" not in news
    assert "another runner" in news.splitlines()[0]
    second.thaw()
    _goes_on(desk)
    assert child.is_trading(desk, second) and desk.lease()[1] == 2
    second.kill()
    _trading(desk, first, 30)  # it has its turn again
    assert desk.lease()[1] == 3
    _goes_on(desk)
    first.kill()
    child.check_books(desk)
    child.check_grown(rows, child.rows_of(desk))


def test_a_runner_that_freezes_between_writing_and_sending_does_not_send(nursery: Nursery, desk: Desk) -> None:
    halt = ("submit", "before", 5, int(signal.SIGSTOP))
    first = nursery.start(desk, *desk.words, *FAST, ttl_ms=SHORT_MS, tells=True, doom=halt)
    await_value(lambda: first.is_frozen, 90, lambda: f"it did not come so far: {first.said}")
    said = first.said
    second = nursery.start(desk, *desk.words, *FAST, ttl_ms=LONG_MS)
    _trading(desk, second, 60)
    first.thaw()
    await_value(lambda: _waits(first, second), 20, lambda: f"it did not step back: {first.said}")
    assert "sent:" not in first.said.removeprefix(said)
    _goes_on(desk)
    second.kill()
    child.check_books(desk)


def test_a_runner_that_freezes_while_it_writes_is_outwaited(nursery: Nursery, desk: Desk) -> None:
    first, second = _pair(nursery, desk, first_ms=SHORT_MS, second_ms=SHORT_MS)
    first.freeze_writing(desk)  # nobody can write to such a file until it wakes up
    time.sleep(13)  # longer than the database waits for a lock
    assert second.poll() is None, second.said
    rows = child.rows_of(desk)
    first.thaw()
    await_value(lambda: desk.lease()[1] > 1, 30, lambda: f"nobody took the lease: {first.said} {second.said}")
    _goes_on(desk)
    first.kill()
    _trading(desk, second, 30)
    _goes_on(desk)
    second.kill()
    child.check_books(desk)
    child.check_grown(rows, child.rows_of(desk))


def test_a_runner_that_was_away_too_long_and_alone_goes_on(nursery: Nursery, desk: Desk) -> None:
    runner = nursery.start(desk, *desk.words, *FAST, ttl_ms=SHORT_MS)
    _trading(desk, runner, 60)
    _goes_on(desk)
    runner.freeze(desk)
    rows = child.rows_of(desk)
    time.sleep(SHORT_MS / 1000 + 0.5)
    runner.thaw()
    _goes_on(desk)
    runner.kill()
    child.check_books(desk)
    child.check_grown(rows, child.rows_of(desk))


def test_runners_that_start_together_on_an_empty_desk_agree_who_trades(nursery: Nursery, tmp_path: Path) -> None:
    desk = child.new_desk(tmp_path, "2017-05-01", "2018-02-01")
    runners = [nursery.start(desk, *desk.words, *FAST) for _ in range(3)]
    try:
        await_value(lambda: any(child.is_trading(desk, runner) for runner in runners), 60, "nobody trades")
        trading = next(runner for runner in runners if child.is_trading(desk, runner))
        others = [runner for runner in runners if runner is not trading]
        await_value(lambda: all(_waits(other, trading) for other in others), 60, lambda: str([r.said for r in runners]))
        _goes_on(desk)
        assert desk.lease()[1] == 1
        assert [runner.poll() for runner in runners] == [None] * 3
    finally:
        nursery.end_all()
    child.check_books(desk)


@pytest.mark.parametrize("words", [("--from", "2017-06-01"), ("--fresh",)])
def test_another_replay_does_not_pull_the_database_from_under_a_runner(
    words: tuple[str, ...], nursery: Nursery, desk: Desk
) -> None:
    runner = nursery.start(desk, *desk.words, *FAST)
    _trading(desk, runner, 60)
    other = nursery.start(desk, *desk.words, *FAST, *words)
    assert other.wait(60) == 2
    assert f"process {runner.pid} on " in other.said and other.said.count("\n") == 1
    assert not list(desk.file.parent.glob("replay_*.db"))
    _goes_on(desk)
    assert runner.poll() is None and desk.lease()[1] == 1


def test_a_database_that_is_locked_for_long_is_weathered(nursery: Nursery, desk: Desk) -> None:
    runner = nursery.start(desk, *desk.words, *FAST)
    _trading(desk, runner, 60)
    _goes_on(desk)
    with desk.open() as store:
        with store.begin():  # some other program writes
            rows = child.rows_of(desk)
            await_value(lambda: "the database fails" in runner.said or "lease" in runner.said, 60, "it was not told")
    _goes_on(desk)
    assert runner.poll() is None
    runner.kill()
    child.check_books(desk)
    child.check_grown(rows, child.rows_of(desk))


def test_a_journal_with_a_hole_ends_the_runner_with_one_line(nursery: Nursery, desk: Desk) -> None:
    runner = nursery.start(desk, *desk.words, *FAST)
    _trading(desk, runner, 60)
    _goes_on(desk)
    runner.kill()
    with desk.open() as store, store.begin() as connection:
        connection.exec_driver_sql("DELETE FROM events WHERE bot = 'sub_bot_B' AND seq = 3")
    again = nursery.start(desk, *desk.words, *FAST)
    assert again.wait(30) == 1
    assert "journal of sub_bot_B: event 3 is missing: restore the database from a backup" in again.said
    assert desk.lease()[2] == 0
