"""A database that an earlier version wrote is taken up as it is: its bots fold to their states and trade on as if nothing had changed."""

import json
import lzma
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "parity"))

import test_golden as golden

from autotrader.engine.events import EVENT, Command, EventKind
from autotrader.runner.parity import decision_parity
from autotrader.store import journal
from autotrader.store.database import Store, open_store

PACKED = golden.DESK / "replay.db.xz"


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    "The desk whose replay was stopped in the middle of a month, with positions and resting orders."
    golden.new_desk(tmp_path)
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data" / "replay.db").write_bytes(lzma.decompress(PACKED.read_bytes()))
    return tmp_path


def _opened(desk: Path) -> Store:
    return open_store("sqlite:///data/replay.db", folder=desk, create=True)


def test_its_journals_fold_to_the_stored_states_and_intents(desk: Path) -> None:
    with _opened(desk) as store:
        for bot in golden.BOTS:
            report = decision_parity(store, bot)
            assert report.is_exact, report.fault
            assert report.intents > 20


def test_its_bots_trade_on_and_finish_as_if_nothing_had_changed(desk: Path) -> None:
    expected = json.loads(golden.FILE.read_text())["replayed"]
    golden.command(desk, "run", "--replay", *golden.PERIOD, "--speed", "0")
    assert not list((desk / "data").glob("replay_*.db")), "the replay began anew"
    with _opened(desk) as store:
        assert {bot: golden.of_bot(store, bot) for bot in golden.BOTS} == expected
        for bot in golden.BOTS:
            events = journal.read(store, bot, EVENT)
            commands = events[events["kind"] == EventKind.COMMAND]
            assert not (commands["code"] == Command.PARAMS).any(), "unchanged parameters were told anew"
            assert decision_parity(store, bot).is_exact
