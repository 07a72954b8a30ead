"""A database that an earlier version wrote is taken up as it is: its bots fold to their states and trade on."""

import json
import lzma
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "parity"))

import test_golden as golden

from autotrader.engine.events import EVENT, Command, EventKind
from autotrader.runner.parity import decision_parity
from autotrader.store import journal
from autotrader.store.database import Store, open_store
from autotrader.store.tables import PaperBook

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


def _scripts(store: Store) -> dict[str, str]:
    with store.read() as connection:
        return {row.bot: row.cursor["script"] for row in connection.execute(sa.select(PaperBook.bot, PaperBook.cursor))}


def _retold(store: Store, scripts: dict[str, str]) -> None:
    "Take what was played for the beginning of what would be played today."
    with store.begin() as connection:
        for row in connection.execute(sa.select(PaperBook.bot, PaperBook.cursor)).all():
            told = sa.update(PaperBook).where(PaperBook.bot == row.bot)
            connection.execute(told.values(cursor=row.cursor | {"script": scripts[row.bot]}))


def test_a_replay_under_other_rules_begins_anew_and_the_old_one_can_trade_on(desk: Path) -> None:
    golden.command(desk, "run", "--replay", *golden.PERIOD, "--speed", "0")
    (kept,) = (desk / "data").glob("replay_*.db")
    with _opened(desk) as store:
        expected = json.loads(golden.FILE.read_text())["replayed"]
        assert {bot: golden.of_bot(store, bot) for bot in golden.BOTS} == expected
        scripts = _scripts(store)
    (desk / "data" / "replay.db").unlink()
    kept.rename(desk / "data" / "replay.db")
    with _opened(desk) as store:
        _retold(store, scripts)
        before = {bot: journal.read(store, bot, EVENT) for bot in golden.BOTS}
    golden.command(desk, "run", "--replay", *golden.PERIOD, "--speed", "0")
    assert not list((desk / "data").glob("replay_*.db")), "the replay began anew"
    with _opened(desk) as store:
        for bot in golden.BOTS:
            events = journal.read(store, bot, EVENT)
            assert events[: len(before[bot])].tobytes() == before[bot].tobytes()
            commands = events[events["kind"] == EventKind.COMMAND]
            assert not (commands["code"] == Command.PARAMS).any(), "unchanged parameters were told anew"
            assert decision_parity(store, bot).is_exact
            assert golden.of_bot(store, bot)["trades"] > sum(before[bot]["kind"] == EventKind.FILL)
