"""Bots with one purse that die at any moment go on by themselves: the same trades, the same journals, the same money."""

import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import purse
import pytest
import sqlalchemy as sa
from series import IS_SOAK

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "parity"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import runner_child as child
from projected import assert_rows_follow_from_the_journal
from test_portfolio_rehearsed import KINDS, walk

import autotrader as at
from autotrader.bots.session import Session
from autotrader.bots.subbot import recover
from autotrader.bots.writer import JournalWriter
from autotrader.config.sections import Risk
from autotrader.config.settings import load
from autotrader.core.clock import SystemClock
from autotrader.engine.events import EVENT, EventKind, Money
from autotrader.exchange.venues import open_paper
from autotrader.runner import lease
from autotrader.runner import replay as runner_replay
from autotrader.runner import supervisor as runner_supervisor
from autotrader.runner.lease import Tenure, try_take
from autotrader.runner.parity import decision_parity
from autotrader.runner.replay import Replay
from autotrader.runner.supervisor import Supervisor
from autotrader.store import control, journal
from autotrader.store.database import Store, open_store
from autotrader.store.tables import BotBalance, PaperBook, PortfolioHistory, SystemEvent
from autotrader.strategy.setup import Part, simulate_all

BARS = 300 if IS_SOAK else 110
MARKETS = [walk("BTCUSDT", 1, BARS), walk("ETHUSDT", 2, BARS, shift=3), walk("SOLUSDT", 3, BARS - 20)]
SEEDS = range(12) if IS_SOAK else range(1)


class Killed(BaseException):
    "Nothing of the process is left but what it has committed."


@dataclass(slots=True)
class Fate:
    "When to die next: after so many of what is counted."

    rng: np.random.Generator
    least: int
    most: int
    left: int = 0
    deaths: int = 0

    def draw(self) -> None:
        self.left = int(self.rng.integers(self.least, self.most + 1))

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.deaths += 1
            raise Killed


def live(store: Store, parts: list[Part], hurt: Callable[[Supervisor], None] = lambda _: None) -> None:
    "One process, from where the newest commit left the bots to the end, or to its death."
    tenure = try_take(store, clock=SystemClock())
    assert isinstance(tenure, Tenure)
    try:
        supervisor = Supervisor(store, risk=Risk(), clock=SystemClock(), tenure=tenure, open_venue=open_paper)
        hurt(supervisor)
        replay = Replay(supervisor, parts, speed=0)
        while not replay.is_over:
            tenure.turn()
            replay.advance(0)
    finally:
        tenure.end()


def live_on(store: Store, parts: list[Part], fate: Fate, hurt: Callable[[Supervisor], None]) -> None:
    "One process after the other, until one comes to the end."
    while True:
        fate.draw()
        try:
            return live(store, parts, hurt)
        except Killed:
            check_books(store, parts)


def parts_of(kind: str) -> list[Part]:
    strategy, bot = KINDS[kind]
    return [each.part for each in at.backtest(strategy, MARKETS, bot=bot).results]


@dataclass(frozen=True, slots=True)
class Whole:
    parts: list[Part]
    store: Store  # of a replay that nobody killed


@pytest.fixture(scope="module", params=KINDS if IS_SOAK else [*KINDS][:2])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    parts = parts_of(request.param)
    with open_store("sqlite:///whole.db", folder=tmp_path_factory.mktemp("whole"), create=True) as store:
        live(store, parts)
        yield Whole(parts, store)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store("sqlite:///replay.db", folder=tmp_path, create=True) as opened:
        yield opened


def rows(store: Store, table: Any, *order: Any) -> list[Any]:
    columns = [
        column for column in table.__table__.columns if column.name not in ("id", "number", "updated_ms", "details")
    ]
    with store.read() as connection:
        return [tuple(row) for row in connection.execute(sa.select(*columns).order_by(*order))]


def check_books(store: Store, parts: list[Part]) -> None:
    "Whatever a dead process leaves is one whole, and its purse is what was earned."
    with store.read() as connection:
        details = {row.bot: row.details for row in connection.execute(sa.select(PaperBook.bot, PaperBook.details))}
    for part in parts:
        folded = recover(store, part.bot)
        if folded is None or part.bot not in details:
            continue
        assert decision_parity(store, part.bot).is_exact
        if not details[part.bot]["updates"]:
            assert float(details[part.bot]["wallet"]) * 1e8 == pytest.approx(int(folded.state["wallet_e8"][0]), abs=0.5)


def told(store: Store, bot: str) -> np.ndarray:
    "What a bot has heard, without reports on orders: those may be heard again after a start, and change nothing."
    events = journal.read(store, bot, EVENT)
    reports = (EventKind.ACK, EventKind.FILL, EventKind.DONE, EventKind.PROTECTED)
    events = events[~np.isin(events["kind"], reports)].copy()
    events["seq"] = 0
    return events


def test_an_uninterrupted_replay_is_the_backtest(whole: Whole) -> None:
    for part, run in zip(whole.parts, simulate_all(whole.parts), strict=True):
        folded = recover(whole.store, part.bot)
        assert folded is not None
        np.testing.assert_array_equal(folded.fills, run.fills)
        heard = journal.read(whole.store, part.bot, EVENT)
        assert ((heard["kind"] == EventKind.MONEY) & (heard["code"] == Money.OTHERS)).sum() > 5


@pytest.mark.parametrize("seed", SEEDS)
def test_dead_between_any_two_things_that_bots_do_in_a_moment_they_trade_as_if_they_had_lived(
    seed: int, whole: Whole, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    "Between one bot's market and the other's clock, between clock and close, close and signal."
    fate, attempt = Fate(np.random.default_rng(seed), 1, 150), runner_replay.attempt
    phases: set[tuple[int, ...]] = set()

    def attempt_and_die(supervisor: Supervisor, *words: Any, **options: Any) -> bool:
        is_well = attempt(supervisor, *words, **options)
        phases.add(tuple(int(session.phase) for session in supervisor.sessions.values()))
        if fate.left == 1:
            supervisor.writer.commit(force=True)
        fate.step()
        return is_well

    monkeypatch.setattr(runner_replay, "attempt", attempt_and_die)
    live_on(store, whole.parts, fate, lambda _: None)
    assert fate.deaths > 5 and len(phases) > 8
    for part, run in zip(whole.parts, simulate_all(whole.parts), strict=True):
        folded = recover(store, part.bot)
        assert folded is not None
        np.testing.assert_array_equal(folded.fills, run.fills)
        assert told(store, part.bot).tobytes() == told(whole.store, part.bot).tobytes()
        assert_rows_follow_from_the_journal(store, part.bot, part.instrument)
    for table, order in (
        (BotBalance, (BotBalance.ts_ms, BotBalance.bot)),
        (PortfolioHistory, (PortfolioHistory.timestamp,)),
        (PaperBook, (PaperBook.bot,)),
    ):
        found, expected = rows(store, table, *order), rows(whole.store, table, *order)
        assert found == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_dead_after_any_commit_they_lose_an_order_at_most_and_no_money(seed: int, whole: Whole, store: Store) -> None:
    "Also between what is written down and what is sent: that order never arrived."
    fate = Fate(np.random.default_rng(seed), 1, 40)

    def hurt(supervisor: Supervisor) -> None:
        commit = supervisor.writer.commit

        def commit_and_die(**options: Any) -> None:
            commit(**options)
            fate.step()

        supervisor.writer.commit = commit_and_die  # type: ignore[method-assign]

    live_on(store, whole.parts, fate, hurt)
    assert fate.deaths > 3
    check_books(store, whole.parts)
    with store.read() as connection:
        news = connection.execute(sa.select(SystemEvent.event_type, SystemEvent.message)).all()
    mended = [row.message for row in news if row.event_type == "RECONCILED"]
    assert not [line for line in mended if line.startswith(("wallet", "position"))]
    assert not [row for row in news if row.event_type in ("BOT_FAILED", "NOT_RECONCILED", "VETOED")]
    balances = rows(store, BotBalance, BotBalance.ts_ms)
    last = sum(row[3] for row in balances if row[1] == balances[-1][1])
    assert rows(store, PortfolioHistory, PortfolioHistory.timestamp)[-1][1] == last


def test_nobody_acts_before_the_purse_is_bound_and_the_marks_are_known(
    whole: Whole, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fate, told = Fate(np.random.default_rng(5), 700, 700), list[tuple[int, int]]()
    compare = runner_supervisor.compare

    def look(supervisor: Supervisor, session: Session, **options: Any) -> None:
        told.append((len(session.partners), supervisor.guard._stakes[session.bot.bot].mark))
        compare(supervisor, session, **options)

    def attempt_and_die(supervisor: Supervisor, *words: Any, **options: Any) -> bool:
        is_well = attempt(supervisor, *words, **options)
        if fate.left == 1:
            supervisor.writer.commit(force=True)
        fate.step()
        return is_well

    attempt = runner_replay.attempt
    monkeypatch.setattr(runner_supervisor, "compare", look)
    monkeypatch.setattr(runner_replay, "attempt", attempt_and_die)
    live_on(store, whole.parts, fate, lambda _: None)
    assert told[:3] == [(3, 0)] * 3 and len(told) > 3
    assert all(partners == 3 and mark > 0 for partners, mark in told[3:])


def test_on_a_machine_that_leaves_the_thread_of_the_lease_no_time_no_order_is_given_up(
    whole: Whole, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    "Every commit takes a fifth of a second, and the thread never comes to renew."
    now_ms, commit = [0], JournalWriter.commit

    def slow(writer: JournalWriter, **options: Any) -> None:
        now_ms[0] += 200
        commit(writer, **options)

    monkeypatch.setattr(JournalWriter, "commit", slow)
    monkeypatch.setattr(Tenure, "_keep", lambda tenure: tenure._ended.wait())
    monkeypatch.setattr(runner_replay, "_SLICE_S", 0.0)
    for module in (lease, control):
        monkeypatch.setattr(module, "monotonic_ms", lambda: now_ms[0])
    live(store, whole.parts)
    assert now_ms[0] > 2 * lease.TTL_MS
    for part, run in zip(whole.parts, simulate_all(whole.parts), strict=True):
        folded = recover(store, part.bot)
        assert folded is not None
        np.testing.assert_array_equal(folded.fills, run.fills)


# --- signal 9 ---------------------------------------------------------------------------------------------------------

DOOMS = [("moment", "before", 90), ("commit", "after", 40), ("submit", "after", 3)]
DOOMS += [("protect", "before", 2), ("submit", "before", 9), ("write", "after", 60)] if IS_SOAK else []
GROWN = (
    "SELECT bot, bar_ms, known_ms FROM decisions ORDER BY bot, bar_ms",
    "SELECT bot, ts_ms, mark_price FROM bot_balances ORDER BY bot, ts_ms",
    "SELECT timestamp FROM portfolio_history ORDER BY timestamp",
    "SELECT bot, cursor FROM paper_books ORDER BY bot",
)


def test_a_runner_killed_with_signal_9_goes_on_with_the_same_purse(tmp_path: Path) -> None:
    folder, nursery = purse.desk_of(tmp_path, hours=260), child.Nursery()
    words = ("run", "--replay", "--from", "2025-01-01", "--to", "2025-01-11", "--speed", "0")
    desk = child.Desk(load(folder / "config.toml"), "2025-01-01", "2025-01-11")
    try:
        runner = nursery.start(desk, *words)
        assert runner.wait(120) == 0, runner.said
        lived = [desk.ask(query) for query in GROWN]
        for doom in DOOMS:
            again = ["--fresh"] if doom is DOOMS[0] else []
            runner = nursery.start(desk, *words, *again, doom=doom)
            assert runner.wait(120) == -signal.SIGKILL, f"{doom} did not come to pass: {runner.said}"
            child.check_books(desk)
        runner = nursery.start(desk, *words)
        assert runner.wait(120) == 0, runner.said
    finally:
        nursery.close()
    child.check_books(desk)
    assert [desk.ask(query) for query in GROWN[1:]] == lived[1:], "no bar is lost and none is played twice"
    assert not child.news_of(desk, "BOT_FAILED", "NOT_RECONCILED", "ADOPTED", "VETOED")
    with desk.open() as store:
        kept = [recover(store, bot) for bot in purse.BOTS]
    wallets = sum(int(each.state["wallet_e8"][0]) for each in kept if each is not None)
    fills = np.concatenate([each.fills for each in kept if each is not None])
    paid = np.concatenate([each.payments for each in kept if each is not None])
    assert len(fills) > 30 and len(paid) > 30
    assert wallets == 15_000 * 10**8 + int(fills["pnl_e8"].sum() - fills["fee_e8"].sum() + paid["amount_e8"].sum())
