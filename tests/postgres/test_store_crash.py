"""A process that is killed leaves the database as it was before or after, never between."""

import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from autotrader.engine.events import EVENT, INTENT
from autotrader.store import journal
from autotrader.store.candles import load
from autotrader.store.database import open_store

DAYS = 200
SAVE = f"""
import sys, numpy as np
from autotrader.core.market import Candles
from autotrader.store.candles import save
from autotrader.store.database import open_store

def bars(price):
    n = {DAYS} * 1440
    column = np.full(n, float(price))
    return Candles(venue="v", symbol="s", timeframe="1m", open_ms=np.arange(n, dtype=np.int64) * 60_000,
                   open=column, high=column, low=column, close=column, volume=column)

store = open_store(sys.argv[1], create=True)
for price in range(1, 1_000):
    print(price, flush=True)
    save(store, bars(price))
"""
APPEND = """
import sys, numpy as np
from autotrader.engine.events import EVENT, INTENT
from autotrader.store import journal
from autotrader.store.database import open_store

store = open_store(sys.argv[1], create=True)
for cycle in range(1, 10_000):
    with store.begin() as transaction:
        for bot in ("A", "B", "C"):
            events = np.zeros(2, EVENT)
            events["seq"] = [2 * cycle - 1, 2 * cycle]
            journal.append(transaction, bot, events)
            journal.append_intents(transaction, bot, events["seq"], np.zeros(2, INTENT))
    print(cycle, flush=True)
"""


def run_and_kill(code: str, url: str, after_line: str, delay_s: float) -> int:
    "Start the code, kill it a moment after a line of its output; gives the last number it printed."
    process = subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == after_line:
            break
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    printed = process.stdout.read().split()
    assert process.wait() == -signal.SIGKILL
    return int(printed[-1]) if printed else int(after_line)


@pytest.mark.parametrize("attempt", range(3))
def test_a_killed_save_leaves_the_old_candles_or_the_new_ones(any_store_url: str, attempt: int) -> None:
    started = run_and_kill(SAVE, any_store_url, "2", random.Random(attempt).uniform(0.0, 0.5))
    with open_store(any_store_url) as store:
        close = load(store, "v", "s", "1m").close
    assert len(close) == DAYS * 1440
    assert len(np.unique(close)) == 1  # all of one save
    assert close[0] in (started - 1, started)


def test_a_killed_runner_has_every_cycle_it_finished_and_none_by_half(any_store_url: str) -> None:
    finished = run_and_kill(APPEND, any_store_url, "5", 0.3)
    with open_store(any_store_url) as store:
        lengths = {len(journal.read(store, bot, EVENT)) for bot in ("A", "B", "C")}
        intents = {len(journal.read_intents(store, bot, INTENT)[0]) for bot in ("A", "B", "C")}
    assert lengths == intents and len(lengths) == 1
    assert lengths <= {2 * finished, 2 * (finished + 1)}
