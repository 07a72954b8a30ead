"""A job may fail in every way it likes: the bots beside it go on, in step with their clock."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from autotrader.config.settings import Settings, load, write_template
from autotrader.core.clock import SystemClock
from autotrader.jobs.launch import find_job, launch
from autotrader.runner.app import replay_url
from autotrader.store.control import Pulse, pulses
from autotrader.store.database import Store, open_store

SPEED = 3600.0  # an hourly bar each second
RUNNER = """
import sys, threading, signal
from pathlib import Path
from autotrader.config.settings import load
from autotrader.core.clock import SystemClock
from autotrader.runner.app import run
from autotrader.runner.replay import ReplayPlan
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
plan = ReplayPlan(since_ms=1_492_588_800_000, until_ms=1_510_000_000_000)
sys.exit(run(load(Path(sys.argv[1])), clock=SystemClock(), replay=plan, speed=float(sys.argv[2]), stop=stop, on_news=print))
"""
FAILING = {
    "killed": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "over_time": "while True:\n    pass",
    "over_memory": "hoard = [bytes(50_000_000) for _ in range(60)]\nwhile True:\n    pass",
}


def template(folder: Path, name: str, cell: str) -> None:
    parameters = new_code_cell("count: int = 1  # 1-10", metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[parameters, new_code_cell(cell)]), folder / "templates" / f"{name}.ipynb")


def beats(floor: Store) -> Pulse | None:
    return next((pulse for pulse in pulses(floor) if pulse.name == "runner"), None)


@pytest.fixture(scope="module")
def trading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Store, subprocess.Popen[bytes]]]:
    "A desk with three bots trading a replay in a process of their own."
    folder = tmp_path_factory.mktemp("desk")
    write_template(folder, kind="sample")
    (folder / "templates").mkdir()
    settings = load(folder / "config.toml", environ={})
    open_store(settings.database_url, folder=folder, create=True).close()
    floor = open_store(replay_url(settings), create=True)
    command = [sys.executable, "-c", RUNNER, str(settings.path), str(SPEED)]
    runner = subprocess.Popen(command, env={**os.environ, "AUTOTRADER_OFFLINE": "1"})
    deadline = time.monotonic() + 60
    while (pulse := beats(floor)) is None or pulse.details["state"] != "trading":
        assert runner.poll() is None and time.monotonic() < deadline, "the bots do not trade"
        time.sleep(0.1)
    yield settings, floor, runner
    runner.send_signal(signal.SIGTERM)
    assert runner.wait(timeout=30) == 0
    floor.close()


@pytest.mark.parametrize("name", FAILING)
def test_bots_keep_their_pace_while_a_job_fails_beside_them(
    trading: tuple[Settings, Store, subprocess.Popen[bytes]], name: str
) -> None:
    settings, floor, runner = trading
    template(settings.folder, name, FAILING[name])
    before, started, silent_ms = beats(floor), time.monotonic(), 0
    assert before is not None
    with open_store(settings.database_url, folder=settings.folder) as desk:
        clock, limits = SystemClock(), {"timeout_s": 8.0, "memory_mb": 1024}
        job = launch(name, {}, settings=settings, store=desk, clock=clock, detach=True, **limits)
        while (job := find_job(desk, job.id, settings=settings, clock=clock)).is_active:
            assert time.monotonic() - started < 90, "the job did not end within its bounds"
            pulse = beats(floor)
            assert pulse is not None and runner.poll() is None
            silent_ms = max(silent_ms, SystemClock().now_ms() - pulse.at_ms)
            time.sleep(0.1)
    assert job.state == "failed" and job.error
    time.sleep(2.5)  # one more sign of life
    after = beats(floor)
    assert after is not None and runner.poll() is None
    assert silent_ms < 10_000, "the runner fell silent"
    played_s = (after.details["time_ms"] - before.details["time_ms"]) / 1000 / SPEED
    passed_s = (after.at_ms - before.at_ms) / 1000
    assert played_s > 0.8 * passed_s - 2, f"{played_s:.1f} s of replay in {passed_s:.1f} s"
