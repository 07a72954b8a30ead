"""What was traded is traded: digests of fills, journals and money as they once came out, over every feature there was then.

`python tests/parity/test_golden.py --write` writes them anew; that is a change of trading behaviour and goes into CHANGELOG.md.
Nothing here depends on how records are laid out.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cases
import numpy as np
import pytest
import sqlalchemy as sa
import stage

from autotrader.config.settings import load
from autotrader.engine.events import EVENT, INTENT
from autotrader.engine.simulate import Run, run
from autotrader.runner.rehearsal import rehearse
from autotrader.store import journal
from autotrader.store.database import Store, open_store
from autotrader.store.layouts import layouts
from autotrader.store.tables import Fill, Order, Trade
from autotrader.strategy.setup import simulate

FILE = Path(__file__).resolve().parent / "golden.json"
DESK = Path(__file__).resolve().parent.parent / "recovery" / "desk_before"
SEEDS, BARS, HOURS = 40, 600, 700
BOTS = ("sub_bot_A", "sub_bot_B", "sub_bot_C")
PERIOD = ("--from", "2017-12-01", "--to", "2018-01-01")
COMMAND = [sys.executable, "-c", "from autotrader.cli.main import main; main()"]
FILL_COLUMNS = ("ts_ms", "key", "trip", "purpose", "side", "qty", "cost", "fee_e8", "pnl_e8", "maker")
Digests = dict[str, Any]


def digest(*pieces: bytes) -> str:
    return hashlib.sha256(b"".join(pieces)).hexdigest()[:32]


def of_fills(fills: np.ndarray) -> str:
    return digest(*(np.ascontiguousarray(fills[name]).tobytes() for name in FILL_COLUMNS))


def of_run(found: Run) -> Digests:
    "What a simulation did."
    return {
        "fills": len(found.fills),
        "fills_sha": of_fills(found.fills),
        "equity_sha": digest(found.equity_e8.tobytes()),
        "end_e8": int(found.equity_e8[-1]),
        "held": found.held,
        "notes": dict(sorted(found.notes.items())),
    }


def plainly(events: np.ndarray) -> bytes:
    "Events in the first layout there was, which these say all in."
    first = layouts(EVENT)[1]
    assert not any(events[name].any() for name in set(EVENT.names) - set(first.names))
    return events[list(first.names)].astype(first).tobytes()


def of_bot(store: Store, bot: str) -> Digests:
    "What a bot heard, what it wanted, and the rows that came of it."
    events = journal.read(store, bot, EVENT)
    seqs, intents = journal.read_intents(store, bot, INTENT)
    found = {
        "events": len(events),
        "events_sha": digest(plainly(events)),
        "intents": len(intents),
        "intents_sha": digest(seqs.tobytes(), intents.tobytes()),
    }
    fills = sa.select(Fill.__table__).join(Order, Order.link_id == Fill.link_id).where(Order.bot == bot)
    trades = sa.select(Trade.order_id, Trade.side, Trade.price, Trade.quantity, Trade.fee, Trade.pnl)
    selected = {
        "orders": sa.select(Order.__table__).where(Order.bot == bot).order_by(Order.link_id),
        "fills": fills.order_by(Fill.exec_id),
        "trades": trades.where(Trade.sub_bot_name == bot).order_by(Trade.order_id),
    }
    with store.read() as connection:
        for name, query in selected.items():
            rows = [[str(value) for value in row] for row in connection.execute(query)]
            found |= {name: len(rows), f"{name}_sha": digest(json.dumps(rows).encode())}
    return found


# --- what is played -------------------------------------------------------------------------------------------------


def simulated() -> Digests:
    "Random bots on random markets, and the bots of the stage."
    found = {}
    for seed in range(SEEDS):
        case = cases.random_case(seed, BARS)
        made = run(case.tape, case.signals, case.atr, params=case.params, costs=case.costs, wallet_e8=case.wallet_e8)
        found[f"case {seed}"] = of_run(made)
    return found | {part.bot: of_run(simulate(part)) for part in stage.parts(2 * HOURS)}


def rehearsed(rough: int | None) -> Digests:
    "Entries split by time and by price, funding, every size multiplier; rough: with all that can go wrong."
    with (
        tempfile.TemporaryDirectory() as folder,
        open_store("sqlite:///rehearsal.db", folder=Path(folder), create=True) as store,
    ):
        played = rehearse(stage.parts(HOURS), store, rough=rough)
        return {
            performance.result.part.bot: of_bot(store, performance.result.part.bot)
            | {"run": of_run(performance.result.run)}
            for performance in played.performances
        }


def new_desk(folder: Path) -> None:
    "A desk as it was when the digests were written down."
    (folder / "config.toml").write_text((DESK / "config.toml").read_text())
    settings = load(folder / "config.toml")
    open_store(settings.database_url, folder=folder, create=True).close()


def command(folder: Path, *words: str) -> None:
    "Run the command on a desk to its end."
    environment = {**os.environ, "AUTOTRADER_OFFLINE": "1"}
    done = subprocess.run(
        [*COMMAND, *words, "--config", str(folder / "config.toml")], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


def replayed() -> Digests:
    "The command's own replay of a month."
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        new_desk(folder)
        command(folder, "run", "--replay", *PERIOD, "--speed", "0")
        with open_store("sqlite:///data/replay.db", folder=folder) as store:
            return {bot: of_bot(store, bot) for bot in BOTS}


PLAYED = {
    "simulated": simulated,
    "rehearsed": lambda: rehearsed(None),
    "rehearsed on rough days": lambda: {str(seed): rehearsed(seed) for seed in (1, 2)},
    "replayed": replayed,
}


@pytest.mark.parametrize("what", PLAYED)
def test_what_was_traded_is_traded_byte_for_byte(what: str) -> None:
    expected = json.loads(FILE.read_text())[what]
    found = json.loads(json.dumps(PLAYED[what]()))
    different = [name for name in expected if found.get(name) != expected[name]]
    assert not different, f"{different[0]}: {found.get(different[0])}, was {expected[different[0]]}"
    assert found.keys() == expected.keys()


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/parity/test_golden.py --write")
    FILE.write_text(json.dumps({name: play() for name, play in PLAYED.items()}, indent=1) + "\n")
