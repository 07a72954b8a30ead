"""Killed at any moment, a rehearsal leaves a journal that is the beginning of the whole one; a bot revived from it goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

PARITY = Path(__file__).resolve().parent.parent / "parity"
sys.path.insert(0, str(PARITY))

import stage  # noqa: E402
from test_decision_parity import HARD  # noqa: E402

from autotrader.bots.subbot import SubBot, recover, revive  # noqa: E402
from autotrader.core.errors import StoreError  # noqa: E402
from autotrader.engine.events import EVENT, INTENT, SCHEMA, STATE, IntentKind, Status  # noqa: E402
from autotrader.runner import rehearsal  # noqa: E402
from autotrader.runner.parity import decision_parity  # noqa: E402
from autotrader.runner.rehearsal import RehearsedBot, rehearse  # noqa: E402
from autotrader.store import journal  # noqa: E402
from autotrader.store.database import Store, open_store  # noqa: E402
from autotrader.store.tables import JournalEvent, Order  # noqa: E402
from autotrader.strategy.setup import simulate  # noqa: E402

BARS = 400
BOTS = ("sub_bot_A", "sub_bot_B", "sub_bot_C")
CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import stage
from autotrader.runner.rehearsal import rehearse
from autotrader.store.database import open_store
with open_store(sys.argv[2]) as store:
    rehearse(stage.parts(int(sys.argv[3])), store, rough=int(sys.argv[4]))
"""


def _events(store: Store) -> int:
    with store.read() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(JournalEvent)).scalar() or 0)


def _killed_after(folder: Path, events: int, *, seed: int) -> Store:
    "A database whose writer was killed with signal 9 once it had written that many events."
    url = f"sqlite:///{folder / 'killed.db'}"
    store = open_store(url, create=True)
    command = [sys.executable, "-c", CHILD, str(PARITY), url, str(BARS), str(seed)]
    child = subprocess.Popen(command, env={**os.environ, "AUTOTRADER_OFFLINE": "1"})
    try:
        deadline = time.monotonic() + 120
        while _events(store) < events:
            assert child.poll() is None, "the rehearsal ended before it could be killed"
            assert time.monotonic() < deadline, "the rehearsal wrote too little in two minutes"
            time.sleep(0.005)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    return store


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = open_store("sqlite:///whole.db", folder=tmp_path_factory.mktemp("whole"), create=True)
    rehearse(stage.parts(BARS), store, rough=3)
    return store


@pytest.mark.parametrize("events", [1, 200, 450, 700])
def test_a_killed_rehearsal_leaves_the_beginning_of_the_whole_journal(
    events: int, tmp_path: Path, whole: Store
) -> None:
    store = _killed_after(tmp_path, events, seed=3)
    for bot in BOTS:
        written, expected = journal.read(store, bot, EVENT), journal.read(whole, bot, EVENT)
        assert written.tobytes() == expected[: len(written)].tobytes()
        if not len(written):
            continue
        _, intents = journal.read_intents(store, bot, INTENT)
        seqs_then, intents_then = journal.read_intents(whole, bot, INTENT)
        assert intents.tobytes() == intents_then[seqs_then <= written["seq"][-1]].tobytes()
        assert decision_parity(store, bot).is_exact
        _check_orders(store, bot, intents)
    store.close()


def _check_orders(store: Store, bot: str, intents: np.ndarray) -> None:
    "Each order that was wanted is in the books, and each open slot of the state is an open order there."
    with store.read() as connection:
        rows = {row.key: row for row in connection.execute(sa.select(Order).where(Order.bot == bot))}
    placed = intents[intents["kind"] == IntentKind.PLACE]
    assert set(placed["key"].tolist()) <= set(rows)
    folded = recover(store, bot)
    assert folded is not None
    for slot in folded.state["orders"][0]:
        if slot["status"] != Status.FREE:
            assert rows[int(slot["key"])].status in ("INTENT", "LIVE", "UNKNOWN", "CANCELLING")


def _reviving(every: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    "Let every bot die and be revived from its journal after so many bars; the venue goes on."
    played, revived = rehearsal.play_bar, []

    def play_bar(actor: RehearsedBot) -> bool:
        if actor.feed.at % every == every - 1:
            old = actor.session.bot
            old.writer.commit()
            first = journal.load_state(old.writer.store, old.bot, STATE, schema=SCHEMA, first=True)
            assert first is not None
            new = SubBot(
                old.bot,
                instrument=old.instrument,
                state=first,
                params=old.params,
                venue=old.venue,
                writer=old.writer,
                clock=old.clock,
                guard=old.guard,
            )
            revive(new, old.writer.store)
            assert new.state.tobytes() == old.state.tobytes()
            assert {key: story.link for key, story in new.orders.by_key.items()} == {
                key: story.link for key, story in old.orders.by_key.items()
            }
            actor.session.bot = new
            revived.append(actor.feed.at)
        return played(actor)

    monkeypatch.setattr(rehearsal, "play_bar", play_bar)
    return revived


def test_bots_that_die_every_few_bars_trade_as_if_they_had_lived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revived = _reviving(23, monkeypatch)
    with open_store("sqlite:///r.db", folder=tmp_path, create=True) as store:
        for performance in rehearse(stage.parts(BARS), store).performances:
            simulated = simulate(performance.result.part)
            np.testing.assert_array_equal(performance.result.run.fills, simulated.fills)
    assert len(revived) > 40


def test_bots_that_die_on_a_rough_line_still_agree_with_the_venue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _reviving(7, monkeypatch)
    with open_store("sqlite:///r.db", folder=tmp_path, create=True) as store:
        for performance in rehearse(stage.parts(BARS), store, rough=9, roughness=HARD).performances:
            assert performance.has_parity
            state, venue = performance.result.run.state[0], performance.result.run.venue[0]
            for name in ("qty", "cost", "wallet_e8"):
                assert state[name] == venue[name]


def test_a_bot_that_never_was_has_nothing_to_recover(tmp_path: Path) -> None:
    with open_store("sqlite:///r.db", folder=tmp_path, create=True) as store:
        assert recover(store, "sub_bot_A") is None
        with pytest.raises(StoreError, match="no journal of sub_bot_A"):
            decision_parity(store, "sub_bot_A")
