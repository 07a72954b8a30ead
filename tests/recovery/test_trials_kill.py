"""Several processes count into one ledger, one of them is killed again and again: whole batches or nothing, and nobody else loses a trial."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from autotrader.store.database import open_store
from autotrader.store.tables import StudyRow, TrialCount, TrialRow

SIZE = 40  # trials in a batch
WRITER = f"""
import sys, numpy as np
from autotrader.core.clock import DAY_MS
from autotrader.store.database import open_store
from autotrader.validation.trials import Study, Trial, record

url, name, batches = sys.argv[1], sys.argv[2], int(sys.argv[3])
rng, days = np.random.default_rng(len(name)), (18_000 + np.arange(60)) * DAY_MS
study = Study(kind="sweep", strategy=name.partition("-")[0], venue="v", symbol="s", timeframe="1h", since_ms=0, until_ms=1, data="d")
with open_store(url) as store:
    for batch in range(batches):
        trials = [
            Trial(params={{"who": name, "n": {SIZE} * batch + n}}, daily=daily, day_ms=days, stats={{"trades": 3}})
            for n, daily in enumerate(rng.normal(size=({SIZE}, 60)))
        ]
        print(batch, record(store, study, trials, now_ms=batch), flush=True)
"""


def writer(url: str, name: str, batches: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WRITER, url, name, str(batches)], stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> list[list[int]]:
    assert process.stdout is not None
    return [[int(word) for word in line.split()] for line in process.stdout.read().splitlines()]


@pytest.fixture
def url(tmp_path: Path) -> str:
    address = f"sqlite:///{tmp_path}/a.db"
    open_store(address, create=True).close()
    return address


def test_a_killed_writer_leaves_whole_batches_and_the_others_lose_nothing(url: str) -> None:
    steady = [writer(url, f"steady-{n}", 40) for n in range(2)]  # one study, two processes
    rng, finished = random.Random(7), []
    for life in range(3):
        mortal = writer(url, f"mortal-{life}", 10_000)
        assert mortal.stdout is not None
        first = mortal.stdout.readline().split()
        time.sleep(rng.uniform(0.0, 0.15))
        mortal.send_signal(signal.SIGKILL)
        told = [first, *(line.split() for line in mortal.stdout.read().splitlines())]
        assert mortal.wait() == -signal.SIGKILL
        finished.append(len([line for line in told if len(line) == 2]))
    for process in steady:
        assert said(process) == [[batch, SIZE] for batch in range(40)]
        assert process.wait() == 0
    with open_store(url) as store, store.read() as connection:
        rows = connection.execute(sa.select(TrialRow.params)).scalars().all()
        by_study = connection.execute(sa.select(StudyRow.strategy, StudyRow.trials)).all()
        total = connection.execute(sa.select(TrialCount.trials)).scalar_one()
    per_writer = {name: sum(row["who"] == name for row in rows) for name in {row["who"] for row in rows}}
    assert {per_writer[f"steady-{n}"] for n in range(2)} == {40 * SIZE}
    for life, batches in enumerate(finished):
        assert per_writer[f"mortal-{life}"] in (batches * SIZE, (batches + 1) * SIZE)
    assert total == len(rows) == sum(count for _, count in by_study)
    assert dict(by_study)["steady"] == 80 * SIZE  # type: ignore[arg-type]


def test_what_was_killed_half_way_is_counted_once_when_it_runs_again(url: str) -> None:
    mortal = writer(url, "again-1", 10_000)
    assert mortal.stdout is not None
    for _ in range(5):
        mortal.stdout.readline()
    mortal.send_signal(signal.SIGKILL)
    mortal.stdout.read()
    mortal.wait()
    second = writer(url, "again-1", 20)
    told = said(second)
    assert second.wait() == 0
    assert [new for _, new in told[:5]] == [0] * 5 and {new for _, new in told} <= {0, SIZE}
    with open_store(url) as store, store.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(TrialRow)).scalar_one() % SIZE == 0
        assert connection.execute(sa.select(TrialCount.trials)).scalar_one() >= 20 * SIZE
