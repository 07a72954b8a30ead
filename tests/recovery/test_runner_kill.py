"""A runner that is killed at any moment goes on by itself: nothing is lost, nothing is done twice."""

import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import runner_child as child
from runner_child import BOTS, Desk, Nursery, Runner, await_value
from series import IS_SOAK, length

from autotrader.bots.subbot import recover
from autotrader.engine.events import EVENT, INTENT, SCHEMA, STATE, EventKind, IntentKind
from autotrader.engine.fills import VENUE
from autotrader.store import journal
from autotrader.strategy.setup import Part

SINCE, UNTIL = "2017-12-01", "2018-01-01" if IS_SOAK else "2017-12-18"
KILLS = length(14, soak=60)  # at random moments
NEVER_MS, NEVER_S = 2**62, 1e9
SHARES = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2)  # of these, as many around a start: within so much of the time it takes
EARLY = len(SHARES)
DOOMS = [  # deaths at a place of the program, between one thing and the next
    ("submit", "before", 3),
    ("submit", "after", 4),
    ("protect", "before", 2),
    ("protect", "after", 3),
    ("cancel", "before", 1),
    ("cancel", "after", 1),
    ("write", "after", 9),
    ("commit", "after", 12),
    ("moment", "before", 5),
]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@dataclass(frozen=True, slots=True)
class Whole:
    "The replay without a kill."

    desk: Desk
    starting_s: float  # until it traded


@pytest.fixture(scope="module")
def whole(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    desk = child.new_desk(tmp_path_factory.mktemp("whole"), SINCE, UNTIL)
    desk.parts()  # makes the main database
    began = time.monotonic()
    runner = nursery.start(desk, *desk.words, "--speed", "0")
    await_value(lambda: child.is_trading(desk, runner), 60, lambda: runner.said)
    starting_s = time.monotonic() - began
    assert runner.wait(240) == 0, runner.said
    child.check_books(desk)
    return Whole(desk, starting_s)


@dataclass(slots=True)
class Killed:
    desk: Desk
    parts: list[Part]
    rows: dict[str, set[tuple[Any, ...]]]  # when it was looked at last
    kills: list[str] = field(default_factory=list)  # how
    midway: int = 0  # of these, with a commit in the middle of a bar as the newest
    early: int = 0  # of these, before the runner traded
    starts: int = 0  # that came so far as to trade

    def look(self, how: str) -> None:
        "Look at what a kill has left, and at what the next start would make of it."
        self.kills.append(how)
        if not self.desk.ask("SELECT 1 FROM policy_state"):
            return
        rows = child.rows_of(self.desk)
        child.check_grown(self.rows, rows)
        self.rows = rows
        self.midway += child.check_books(self.desk)
        _check_recovery(self.desk, self.parts, self.desk.settings.folder / f"copy_{len(self.kills)}.db")


def _check_recovery(desk: Desk, parts: list[Part], file: Path) -> None:
    "The next start finds each position as the dead one left it, bot and venue of one mind."
    before = {bot: np.frombuffer(record, VENUE)[0] for bot, record in desk.ask("SELECT bot, record FROM paper_books")}
    with child.brought_back(desk, parts, file) as (_, sessions):
        for bot, session in sessions.items():
            venue = session.market.audit(session.symbol)[0]
            child.check_agreement(session.bot.state, venue)
            child.check_agreement(session.bot.state, before.get(bot, venue))
            assert not session.trouble
    file.unlink()


def _kill(desk: Desk, runner: Runner, *, events: int, within_s: float, then_s: float) -> None:
    "Kill a runner a moment after it has written so many events, or when the time is up."
    until = time.monotonic() + within_s

    def is_time() -> bool:
        assert runner.poll() is None, f"the replay ended before the kill: {runner.said}"
        return desk.events() >= events or time.monotonic() > until

    await_value(is_time, 120, lambda: f"no {events} events in two minutes: {runner.said}", every_s=0.004)
    time.sleep(then_s)
    runner.kill()


@pytest.fixture(scope="module")
def killed(nursery: Nursery, whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    "The same replay, killed again and again and looked at each time; at last it is let go to its end."
    rng = np.random.default_rng(20)
    desk = child.new_desk(tmp_path_factory.mktemp("killed"), SINCE, UNTIL)
    told = Killed(desk, desk.parts(), child.rows_of(desk))
    moments = np.sort(rng.choice(np.arange(5, int(whole.desk.events() * 0.95)), KILLS, replace=False)).tolist()
    early = [0, 1, *rng.choice(np.arange(2, KILLS // 2), EARLY - 2, replace=False).tolist()]
    within_s = {i: float(rng.uniform(0, most)) * whole.starting_s for i, most in zip(early, SHARES, strict=True)}
    doomed = dict(zip(rng.choice(np.arange(1, KILLS - 2), len(DOOMS), replace=False).tolist(), DOOMS, strict=True))
    for i, events in enumerate(moments):
        events = max(events, desk.events() + int(rng.integers(1, 40)))
        runner = nursery.start(desk, *desk.words, "--speed", "0")
        _kill(desk, runner, events=events, within_s=within_s.get(i, NEVER_S), then_s=float(rng.uniform(0, 0.03)))
        told.early += not child.news_of(desk, "STARTUP")[told.starts :]
        told.starts = len(child.news_of(desk, "STARTUP"))
        told.look(f"at {events} events")
        if i in doomed:
            runner = nursery.start(desk, *desk.words, "--speed", "0", doom=doomed[i])
            assert runner.wait(120) == -signal.SIGKILL, f"{doomed[i]} did not come to pass: {runner.said}"
            told.starts = len(child.news_of(desk, "STARTUP"))
            told.look(" ".join(map(str, doomed[i])))
    runner = nursery.start(desk, *desk.words, "--speed", "0")
    assert runner.wait(240) == 0, runner.said
    child.check_grown(told.rows, child.rows_of(desk))
    child.check_books(desk)
    return told


def test_a_runner_killed_again_and_again_goes_on_by_itself_to_the_end(killed: Killed, whole: Whole) -> None:
    assert len(killed.kills) == KILLS + len(DOOMS)
    assert killed.early > 0 and killed.midway > 0, "the kills did not meet what they were to meet"
    assert killed.starts >= KILLS + len(DOOMS) - EARLY
    assert killed.desk.pulse()["state"] == "over"
    assert not list(killed.desk.file.parent.glob("replay_*.db"))
    cursors = "SELECT bot, cursor FROM paper_books ORDER BY bot"
    assert killed.desk.ask(cursors) == whole.desk.ask(cursors)


def test_the_journal_of_a_killed_runner_folds_to_the_newest_state(killed: Killed) -> None:
    with killed.desk.open() as store:
        for bot in BOTS:
            stored, folded = journal.load_state(store, bot, STATE, schema=SCHEMA), recover(store, bot)
            assert stored is not None and folded is not None
            account = child.venue_of(store, bot)
            assert account is not None and not account[1]["updates"]
            child.check_agreement(folded.state, account[0])
            assert folded.state.tobytes() == stored.tobytes()


def test_no_bar_is_lost_and_none_is_played_twice(killed: Killed, whole: Whole) -> None:
    for query in (
        "SELECT bot, bar_ms, known_ms, direction, exits, confidence FROM decisions ORDER BY bot, bar_ms",
        "SELECT bot, ts_ms, mark_price FROM bot_balances ORDER BY bot, ts_ms",
        "SELECT timestamp FROM portfolio_history ORDER BY timestamp",
        f"SELECT bot, ts_ms, count(*) FROM events WHERE kind = {int(EventKind.BAR)} GROUP BY bot, ts_ms ORDER BY 1, 2",
        f"SELECT bot, ts_ms, count(*) FROM events WHERE kind = {int(EventKind.SIGNAL)} GROUP BY bot, ts_ms ORDER BY 1, 2",
    ):
        assert killed.desk.ask(query) == whole.desk.ask(query)


def test_a_kill_changes_no_position_and_no_money(killed: Killed) -> None:
    mended = child.news_of(killed.desk, "RECONCILED")
    assert not [line for line in mended if "position" in line or "wallet" in line]
    assert not killed.desk.ask("SELECT * FROM events WHERE kind = ?", int(EventKind.EXTERNAL))
    assert not child.news_of(killed.desk, "BOT_FAILED", "NOT_RECONCILED", "ADOPTED")


FILLS = (
    "SELECT o.purpose, o.side, f.ts_ms, f.price, f.qty FROM fills f JOIN orders o ON o.link_id = f.link_id "
    "WHERE o.bot = ? AND f.ts_ms < ? ORDER BY f.ts_ms, f.exec_id"
)
LOST = "SELECT min(created_ms), count(*) FROM orders WHERE bot = ? AND status = 'UNKNOWN_RESOLVED'"
TRIPS = "SELECT count(DISTINCT trip) FROM orders WHERE bot = ?"


def test_a_journal_is_that_of_a_runner_that_lived_up_to_a_request_that_a_kill_swallowed(
    killed: Killed, whole: Whole
) -> None:
    with killed.desk.open() as store, whole.desk.open() as lived:
        for bot in BOTS:
            events, expected = (journal.read(each, bot, EVENT) for each in (store, lived))
            pairs = zip(events, expected, strict=False)
            differ = [i for i, (one, other) in enumerate(pairs) if one.tobytes() != other.tobytes()]
            if not differ:
                assert len(events) == len(expected)
                continue
            seqs, intents = journal.read_intents(store, bot, INTENT)
            last = int(events["seq"][differ[0] - 1])
            assert (intents[seqs == last]["kind"] != IntentKind.NOTE).any(), f"{bot} went astray after event {last}"


def test_until_an_order_is_lost_on_its_way_the_trades_are_those_of_a_runner_that_lived(
    killed: Killed, whole: Whole
) -> None:
    assert not whole.desk.ask("SELECT * FROM orders WHERE status = 'UNKNOWN_RESOLVED'")
    for bot in BOTS:
        lost_ms, lost = killed.desk.ask(LOST, bot)[0]
        until_ms = NEVER_MS if lost_ms is None else lost_ms
        assert killed.desk.ask(FILLS, bot, until_ms) == whole.desk.ask(FILLS, bot, until_ms), bot
        trips, expected = (desk.ask(TRIPS, bot)[0][0] for desk in (killed.desk, whole.desk))
        assert abs(trips - expected) <= max(3, 2 * lost)  # a missed entry moves those after it


def test_a_kill_while_its_databases_are_made_leaves_what_the_next_start_can_use(
    nursery: Nursery, whole: Whole, tmp_path: Path
) -> None:
    desk, rng = child.new_desk(tmp_path, SINCE, "2017-12-03"), np.random.default_rng(6)
    for _ in range(6):
        runner = nursery.start(desk, *desk.words, "--speed", "0")
        time.sleep(float(rng.uniform(0.01, 0.4 * whole.starting_s)))
        runner.send(signal.SIGKILL)
        runner.wait(10)
    runner = nursery.start(desk, *desk.words, "--speed", "0")
    assert runner.wait(60) == 0, runner.said
    child.check_books(desk)
    assert desk.pulse()["state"] == "over"
