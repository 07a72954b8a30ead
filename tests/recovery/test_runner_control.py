"""A hand on the brake: stop, resume, flatten, with and without a runner; a bot that fails is paused alone; a runner ends in good order."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import runner_child as child
from runner_child import BOTS, Desk, Nursery, Runner, await_value

from autotrader.core.clock import SystemClock
from autotrader.core.errors import ConfigError
from autotrader.engine.events import EVENT, Command, EventKind, Mode
from autotrader.runner.app import direct
from autotrader.store import control, journal

PACE = ("--speed", "144000")  # 40 bars a second, where the machine is up to it
BARS = 60  # of these, a quiet time; every fifth brings an entry otherwise
SOON_BARS = 80  # after so many no order leaves any more: two seconds, where the machine is up to it


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def desk(nursery: Nursery, tmp_path: Path) -> Iterator[Desk]:
    desk = child.new_desk(tmp_path, "2017-08-01", "2018-02-01")
    desk.parts()  # makes the main database
    yield desk
    nursery.end_all()


def _start(nursery: Nursery, desk: Desk, *words: str, **spoilt: Any) -> Runner:
    runner = nursery.start(desk, *desk.words, *(words or PACE), tells=True, **spoilt)
    await_value(lambda: child.is_trading(desk, runner), 60, lambda: f"it does not trade: {runner.said}")
    return runner


def _ask(desk: Desk, command: str, bot: str | None = None) -> int:
    with desk.open() as store:
        return control.request(store, command, bot=bot, who="a test", args={}, now_ms=SystemClock().now_ms())


def _answer(desk: Desk, number: int, within_s: float = 30) -> control.Request:
    with desk.open() as store:

        def is_answered() -> bool:
            return control.status_of(store, number).state in ("done", "failed")

        await_value(is_answered, within_s, lambda: f"no answer to {control.status_of(store, number)}")
        return control.status_of(store, number)


def _do(desk: Desk, command: str, bot: str | None = None) -> control.Request:
    return _answer(desk, _ask(desk, command, bot))


def _bars(desk: Desk) -> int:
    return int((desk.ask("SELECT min(json_extract(cursor, '$.at')) FROM paper_books")[0][0]) or 0)


def _market_ms(desk: Desk) -> int:
    "The newest moment of the market that was written down."
    return int(desk.ask("SELECT max(ts_ms) FROM bot_balances")[0][0])


def _bars_until_paused(desk: Desk, since_ms: int) -> int:
    "Bars that were played from a moment of the market on until the last bot was told to open nothing new."
    with desk.open() as store:
        told = np.concatenate([journal.read(store, bot, EVENT) for bot in BOTS])
    paused_ms = told["ts_ms"][(told["kind"] == EventKind.COMMAND) & (told["code"] == Command.PAUSE)]
    assert len(paused_ms) == len(BOTS)
    counted = "SELECT count(DISTINCT ts_ms) FROM bot_balances WHERE ts_ms > ? AND ts_ms <= ?"
    return int(desk.ask(counted, since_ms, int(paused_ms.max()))[0][0])


def _let_bars_pass(desk: Desk, bars: int = BARS) -> None:
    at = _bars(desk)
    await_value(lambda: _bars(desk) >= at + bars, 90, "the replay stands still")


def _entries(desk: Desk, *bots: str) -> int:
    marks = ", ".join("?" * len(bots))
    counted = f"SELECT count(*) FROM orders WHERE purpose IN ('ENTRY', 'ADD') AND bot IN ({marks})"
    return int(desk.ask(counted, *bots)[0][0])


def _resting(desk: Desk) -> list[Any]:
    return desk.ask(
        "SELECT * FROM orders WHERE purpose IN ('ENTRY', 'ADD') AND status IN ('INTENT', 'LIVE', 'UNKNOWN')"
    )


def _held(desk: Desk) -> dict[str, int]:
    "Positions on the paper accounts, steps."
    with desk.open() as store:
        return child.positions(store)


def _await_positions(desk: Desk, *bots: str) -> None:
    await_value(lambda: all(_held(desk)[bot] for bot in bots), 90, lambda: f"no positions: {_held(desk)}")


def _modes(desk: Desk) -> dict[str, Mode]:
    "What the journals of a runner that is gone amount to."
    with desk.open() as store:
        states = {bot: child.story_of(store, bot).state for bot in BOTS}
    return {bot: Mode(int(state["mode"][0])) for bot, state in states.items()}


def _beats(desk: Desk) -> dict[str, dict[str, Any]]:
    with desk.open() as store:
        return {pulse.name.removeprefix("runner/"): pulse.details for pulse in control.pulses(store)}


def test_after_a_stop_no_order_leaves_and_a_resume_lets_them_out_again(nursery: Nursery, desk: Desk) -> None:
    runner = _start(nursery, desk)
    _await_positions(desk, "sub_bot_C")
    number = _ask(desk, "stop")
    asked_ms = _market_ms(desk)  # the market's time, at the earliest
    done = _answer(desk, number)
    assert done.state == "done" and done.result is not None
    assert "nothing new is opened" in done.result["message"]
    assert {row["state"] for row in done.result["bots"].values()} == {"paused"}
    assert done.taken_ms is not None and done.answered_ms is not None
    _let_bars_pass(desk)
    assert runner.entries and not [stamp for stamp in runner.entries if stamp > (done.taken_ms + 1) / 1000]
    assert _bars_until_paused(desk, asked_ms) <= SOON_BARS
    assert not _resting(desk)
    with desk.open() as store:
        venues = [stored[0] for bot in BOTS if (stored := child.venue_of(store, bot))]
    assert all(venue["stop"] for venue in venues if venue["qty"])  # what is held stays protected
    assert all(
        beat["state"] == "paused" and beat["why"] == "by command" for b, beat in _beats(desk).items() if b in BOTS
    )
    before = _entries(desk, *BOTS)
    assert _do(desk, "resume").state == "done"
    await_value(lambda: _entries(desk, *BOTS) > before + 3, 60, "nothing is traded after a resume")
    runner.kill()
    child.check_books(desk)


def test_a_flattened_floor_is_flat_and_stays_so_over_a_restart(nursery: Nursery, desk: Desk) -> None:
    runner = _start(nursery, desk)
    _await_positions(desk, "sub_bot_A", "sub_bot_C")
    done = _do(desk, "flatten")
    assert done.state == "done" and done.result is not None
    assert done.result["message"] == "flat" and done.result["is_flat"]
    assert _held(desk) == dict.fromkeys(BOTS, 0)
    _let_bars_pass(desk)
    assert not [stamp for stamp in runner.entries if done.answered_ms and stamp > done.answered_ms / 1000]
    assert not _resting(desk) and _held(desk) == dict.fromkeys(BOTS, 0)
    runner.kill()
    child.check_books(desk)
    assert set(_modes(desk).values()) == {Mode.PAUSED}
    entries, again = _entries(desk, *BOTS), _start(nursery, desk)
    _let_bars_pass(desk)
    assert not again.entries and _entries(desk, *BOTS) == entries
    assert _do(desk, "resume").state == "done"
    await_value(lambda: again.entries, 60, "nothing is traded after a resume")


def test_a_command_for_one_bot_leaves_the_others_alone(nursery: Nursery, desk: Desk) -> None:
    _start(nursery, desk)
    _await_positions(desk, "sub_bot_C")
    done = _do(desk, "flatten", "sub_bot_C")
    assert done.result is not None and list(done.result["bots"]) == ["sub_bot_C"] and done.result["is_flat"]
    flat, others = _entries(desk, "sub_bot_C"), _entries(desk, "sub_bot_A", "sub_bot_B")
    _let_bars_pass(desk, 2 * BARS)
    assert _entries(desk, "sub_bot_C") == flat and _held(desk)["sub_bot_C"] == 0
    assert _entries(desk, "sub_bot_A", "sub_bot_B") > others
    assert _do(desk, "resume", "sub_bot_C").state == "done"
    await_value(lambda: _entries(desk, "sub_bot_C") > flat, 60, "it does not trade after a resume")


def test_a_command_for_a_bot_that_is_not_there_fails_and_says_who_is(nursery: Nursery, desk: Desk) -> None:
    _start(nursery, desk)
    answer = _do(desk, "stop", "sub_bot_Z")
    assert answer.state == "failed" and answer.result is not None
    assert "sub_bot_Z" in answer.result["message"] and "sub_bot_A, sub_bot_B, sub_bot_C" in answer.result["message"]


def test_a_command_that_a_killed_runner_had_taken_is_done_by_the_next(nursery: Nursery, desk: Desk) -> None:
    runner = _start(nursery, desk)
    _await_positions(desk, "sub_bot_A", "sub_bot_C")
    runner.kill()
    slow = _start(nursery, desk, "--speed", "60")  # an order is filled with the next bar, a minute later
    number = _ask(desk, "flatten")
    with desk.open() as store:
        await_value(lambda: control.status_of(store, number).state == "taken", 30, "the command was not taken")
        slow.kill()
        assert control.status_of(store, number).state == "taken"
    child.check_books(desk)
    _start(nursery, desk)
    done = _answer(desk, number)
    assert done.state == "done" and done.epoch == 3
    assert done.result is not None and done.result["is_flat"]
    assert _held(desk) == dict.fromkeys(BOTS, 0)


def _direct(desk: Desk, command: str, bot: str | None = None) -> dict[str, Any]:
    return direct(desk.settings, command, bot=bot, replay=True, who="a test", clock=SystemClock())


def test_without_a_runner_a_direct_flatten_closes_every_position(nursery: Nursery, desk: Desk) -> None:
    runner = _start(nursery, desk)
    _await_positions(desk, "sub_bot_A", "sub_bot_C")
    runner.kill()
    rows = child.rows_of(desk)
    answer = _direct(desk, "flatten")
    assert answer["state"] == "done" and answer["message"] == "flat" and answer["is_flat"]
    assert _held(desk) == dict.fromkeys(BOTS, 0)
    assert set(_modes(desk).values()) == {Mode.PAUSED}
    assert desk.lease()[2] == 0  # given back
    child.check_books(desk)
    child.check_grown(rows, child.rows_of(desk))
    again = _start(nursery, desk)
    _let_bars_pass(desk)
    assert not again.entries


def test_a_direct_stop_of_one_bot_stops_that_one(nursery: Nursery, desk: Desk) -> None:
    runner = _start(nursery, desk)
    _await_positions(desk, "sub_bot_C")
    runner.kill()
    held = _held(desk)
    answer = _direct(desk, "stop", "sub_bot_A")
    assert answer["state"] == "done" and list(answer["bots"]) == ["sub_bot_A"]
    assert _held(desk) == held
    assert _modes(desk) == {"sub_bot_A": Mode.PAUSED, "sub_bot_B": Mode.RUN, "sub_bot_C": Mode.RUN}
    assert _direct(desk, "resume", "sub_bot_A")["state"] == "done"
    assert set(_modes(desk).values()) == {Mode.RUN}


def test_direct_is_refused_in_one_line_while_a_runner_trades(nursery: Nursery, desk: Desk) -> None:
    runner = _start(nursery, desk)
    with pytest.raises(ConfigError, match=f"process {runner.pid} on .* trades on this database") as refused:
        _direct(desk, "flatten")
    assert "\n" not in str(refused.value)
    assert not desk.ask("SELECT * FROM control_commands")
    words = [*child.COLD, "flatten", "--replay", "--direct", "--yes", "--config", str(desk.settings.path)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, env={**os.environ})
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr == f"autotrader: {refused.value}\n".replace("`direct`", "--direct")
    assert child.is_trading(desk, runner) and desk.lease()[1] == 1


def test_a_direct_command_on_a_replay_that_is_over_leaves_it_where_it_is(nursery: Nursery, tmp_path: Path) -> None:
    desk = child.new_desk(tmp_path, "2017-12-01", "2017-12-08")
    runner = nursery.start(desk, *desk.words, "--speed", "0")
    assert runner.wait(90) == 0, runner.said
    held, rows = _held(desk), child.rows_of(desk)
    assert any(held.values())
    answer = _direct(desk, "stop")
    assert answer["state"] == "done"
    assert _held(desk) == held and answer["bots"]["sub_bot_A"]["position"] != "0"
    assert not list(desk.file.parent.glob("replay_*.db"))
    child.check_grown(rows, child.rows_of(desk))


def test_a_strategy_that_fails_pauses_its_bot_alone(nursery: Nursery, desk: Desk) -> None:
    runner = _start(nursery, desk, explain_fails="sub_bot_A")
    await_value(lambda: child.news_of(desk, "BOT_FAILED"), 60, "it did not fail")
    _let_bars_pass(desk, 2 * BARS)
    assert child.news_of(desk, "BOT_FAILED") == [
        "sub_bot_A is paused (RuntimeError: this strategy was made to fail)",
    ]
    beats = _beats(desk)
    assert (beats["sub_bot_A"]["state"], beats["sub_bot_B"]["state"]) == ("paused", "trading")
    assert beats["sub_bot_A"]["why"] == "RuntimeError: this strategy was made to fail"
    runner.kill()
    child.check_books(desk)
    assert _modes(desk) == {"sub_bot_A": Mode.PAUSED, "sub_bot_B": Mode.RUN, "sub_bot_C": Mode.RUN}
    failed, others = _entries(desk, "sub_bot_A"), _entries(desk, "sub_bot_B", "sub_bot_C")
    _start(nursery, desk)  # it would not fail any more, but nobody has looked at it
    _let_bars_pass(desk)
    assert _entries(desk, "sub_bot_A") == failed and _entries(desk, "sub_bot_B", "sub_bot_C") > others
    assert _do(desk, "resume", "sub_bot_A").state == "done"
    await_value(lambda: _entries(desk, "sub_bot_A") > failed, 60, "it does not trade after a resume")


def test_a_bot_that_fails_at_every_bar_is_left_alone_and_the_others_go_on(nursery: Nursery, desk: Desk) -> None:
    runner = _start(nursery, desk, bar_fails="sub_bot_C", from_ms=child.parse_time("2017-08-04", name="from"))
    await_value(lambda: _beats(desk).get("sub_bot_C", {}).get("state") == "broken", 60, "it is not called broken")
    decided = "SELECT count(*) FROM decisions WHERE bot = ?"
    before = {bot: desk.ask(decided, bot)[0][0] for bot in BOTS}
    others = _entries(desk, "sub_bot_A", "sub_bot_B")
    await_value(lambda: _entries(desk, "sub_bot_A", "sub_bot_B") > others + 5, 60, "the others do not trade")
    after = {bot: desk.ask(decided, bot)[0][0] for bot in BOTS}
    assert after["sub_bot_C"] == before["sub_bot_C"] and after["sub_bot_A"] > before["sub_bot_A"]
    assert [line.split(" (")[0] for line in child.news_of(desk, "BOT_FAILED")] == [
        "sub_bot_C is paused",
        "sub_bot_C is left alone: its stop rests on the venue, look at it now",
    ]
    answer = _do(desk, "resume", "sub_bot_C")
    assert answer.state == "failed" and answer.result is not None and "broken" in answer.result["message"]
    runner.kill()
    child.check_books(desk)
    assert _modes(desk) == {"sub_bot_A": Mode.RUN, "sub_bot_B": Mode.RUN, "sub_bot_C": Mode.PAUSED}
    entries, _ = _entries(desk, "sub_bot_C"), _start(nursery, desk)
    _let_bars_pass(desk)
    assert _entries(desk, "sub_bot_C") == entries and _held(desk)["sub_bot_C"] == 0


def test_a_runner_that_is_told_to_end_ends_in_good_order(tmp_path: Path) -> None:
    desk = child.new_desk(tmp_path, "2017-08-01", "2018-02-01")
    words = [*child.COLD, *desk.words, *PACE, "--config", str(desk.settings.path)]
    log = (tmp_path / "said.txt").open("w")
    runner = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ})
    try:

        def is_at_work() -> bool:
            assert runner.poll() is None, (tmp_path / "said.txt").read_text()
            return desk.events() > 60

        await_value(is_at_work, 90, (tmp_path / "said.txt").read_text)
        runner.send_signal(signal.SIGTERM)
        assert runner.wait(20) == 0
    finally:
        runner.kill()
        runner.wait()
        log.close()
    assert (tmp_path / "said.txt").read_text().endswith("stopped\n")
    assert desk.lease()[2] == 0
    assert desk.pulse()["state"] == "stopping"
    assert child.news_of(desk, "STARTUP", "SHUTDOWN")[-1] == "stopped"
    assert len(child.news_of(desk, "STARTUP")) == 1
    assert not child.check_books(desk)  # the end is no middle of a bar
    log = (tmp_path / "logs" / "runner.log").read_text().splitlines()
    assert len(log) < 40, f"the log of a few seconds has {len(log)} lines, as {log[len(log) // 2]}"


def test_a_runner_whose_replay_is_over_ends_in_good_order(nursery: Nursery, tmp_path: Path) -> None:
    desk = child.new_desk(tmp_path, "2017-12-01", "2017-12-03")
    runner = nursery.start(desk, *desk.words, "--speed", "0")
    assert runner.wait(60) == 0
    assert "the replay is over" in runner.said
    assert desk.lease()[2] == 0 and desk.pulse()["state"] == "over"
    assert child.news_of(desk, "SHUTDOWN") == ["the replay is over"]
    assert not child.check_books(desk)
