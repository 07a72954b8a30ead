"""The same batches here, on all cores and on a Dask cluster: same results, same faults, no way to hang."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from autotrader.core.errors import AutotraderError, ConfigError, DataError, JobError
from autotrader.core.executor import Cluster, Executor, open_executor
from autotrader.core.offline import OfflineError

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).resolve().parents[2]
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}  # where workers find this module


def waited(is_so: Callable[[], bool], seconds: float = 60) -> bool:
    until = time.monotonic() + seconds
    while not is_so() and time.monotonic() < until:
        time.sleep(0.02)
    return is_so()


@contextmanager
def cluster(folder: Path, *, workers: int = 2) -> Iterator[SimpleNamespace]:
    "A Dask scheduler and its workers, each a process of its own as on a real cluster."
    told, dask = folder / "scheduler.json", [sys.executable, "-m"]
    quiet = {"env": ENV, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    started = "--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(told)
    scheduler = subprocess.Popen([*dask, "distributed.cli.dask_scheduler", *started], **quiet)  # type: ignore[call-overload]
    children = [scheduler]
    try:
        assert waited(told.exists)
        address = json.loads(told.read_text())["address"]
        serving = "--nthreads", "1", "--no-dashboard", "--local-directory", str(folder)
        children += [
            subprocess.Popen([*dask, "distributed.cli.dask_worker", address, *serving], **quiet)  # type: ignore[call-overload]
            for _ in range(workers)
        ]
        yield SimpleNamespace(address=address, scheduler=scheduler, workers=children[1:])
    finally:
        families = [p for child in children if psutil.pid_exists(child.pid) for p in family(child.pid)]
        for process in families:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for child in children:
            child.wait()


def family(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [*root.children(recursive=True), root]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    "Let loky's workers find this module, too."
    monkeypatch.syspath_prepend(ROOT)


@pytest.fixture(scope="module")
def loky() -> Iterator[Executor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        with open_executor("loky", workers=2) as opened:
            yield opened


@pytest.fixture(params=["serial", "loky", "dask"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "loky":
        yield request.getfixturevalue("loky")
        return
    with open_executor(request.getfixturevalue("dask") if request.param == "dask" else request.param) as opened:
        yield opened


# what the batches do


def slow_first(batch: int) -> tuple[int, int]:
    time.sleep(0.3 if batch == 0 else 0.0)
    return batch, os.getpid()


def moments(returns: np.ndarray) -> np.ndarray:
    return np.array([returns.mean(), returns.std(), np.cumprod(1 + returns)[-1]])


def fussy(batch: int) -> int:
    if batch == 2:
        raise DataError("bar 7 has no price:\n  download it again")
    if batch == 5:
        raise ValueError("first line\nsecond line")
    return batch


class Stubborn(Exception):
    "Cannot be pickled back, as many exceptions of other libraries."

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


def stubborn(batch: int) -> None:
    raise Stubborn(batch, batch)


def fatal(batch: int) -> int:
    if batch == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return batch


def marked(batch: tuple[str, int]) -> int:
    folder, number = batch
    Path(folder, f"{number}.begun").touch()
    time.sleep(1.0 if number < 2 else 0.2)
    return number


def threads(_batch: int) -> str | None:
    return os.environ.get("OMP_NUM_THREADS")


# results


def test_results_come_in_the_order_of_the_batches(executor: Executor) -> None:
    assert [number for number, _ in executor.map(slow_first, range(8))] == list(range(8))


def test_the_work_is_done_where_it_was_asked_for(executor: Executor) -> None:
    pids = {pid for _, pid in executor.map(slow_first, [0, 1, 0, 1, 0, 1])}
    assert pids == {os.getpid()} if executor.name == "serial" else len(pids) == 2 and os.getpid() not in pids


def test_every_executor_gives_the_same_numbers_bit_for_bit(dask: str) -> None:
    batches = [np.random.default_rng(seed).normal(0, 0.01, 5_000) for seed in range(6)]
    found = []
    for scheduler in ("serial", "loky", dask):
        with open_executor(scheduler, workers=2) as opened:
            found.append(np.array(list(opened.map(moments, batches))))
    assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()


def test_no_batch_gives_no_result(executor: Executor) -> None:
    assert list(executor.map(slow_first, [])) == []


def test_more_batches_than_are_handed_over_at_once_all_come_back(executor: Executor) -> None:
    assert list(executor.map(fussy, [7] * 50)) == [7] * 50


def test_a_function_of_a_notebook_runs_everywhere(executor: Executor) -> None:
    base = 3
    assert list(executor.map(lambda batch: batch + base, [1, 2])) == [4, 5]


def test_a_worker_computes_on_one_thread() -> None:
    with open_executor("loky", workers=1) as opened:
        assert list(opened.map(threads, [0])) == ["1"]


def test_an_executor_can_be_used_again(executor: Executor) -> None:
    assert list(executor.map(fussy, [1, 3])) == list(executor.map(fussy, [1, 3]))


def test_work_waits_until_its_result_is_asked_for(executor: Executor, tmp_path: Path) -> None:
    arriving = executor.map(marked, [(str(tmp_path), 5)])
    assert not list(tmp_path.iterdir())
    assert list(arriving) == [5]
    assert len(list(tmp_path.iterdir())) == 1


# faults


def test_an_error_of_the_house_names_its_batch_and_keeps_its_class(executor: Executor) -> None:
    arriving = executor.map(fussy, [0, 1, 2, 3])
    assert [next(arriving), next(arriving)] == [0, 1]
    with pytest.raises(DataError) as caught:
        next(arriving)
    assert str(caught.value) == "batch 3 of 4: bar 7 has no price: download it again"
    assert "in fussy" in caught.value.__notes__[0]


def test_an_error_of_others_becomes_one_line_that_names_it(executor: Executor) -> None:
    with pytest.raises(JobError) as caught:
        list(executor.map(fussy, [5]))
    assert list(executor.map(fussy, [6])) == [6], "and the executor goes on"
    assert str(caught.value) == "batch 1 of 1: ValueError: first line second line"


def test_an_error_that_cannot_be_sent_is_told_all_the_same(executor: Executor) -> None:
    with pytest.raises(JobError) as caught:
        list(executor.map(stubborn, [4, 5]))
    assert str(caught.value) == "batch 1 of 2: Stubborn: 4 and 4"


def test_of_two_errors_the_first_in_order_is_raised(executor: Executor) -> None:
    with pytest.raises(DataError, match="batch 2 of 3"):
        list(executor.map(fussy, [0, 2, 5]))


def test_a_dead_worker_process_ends_the_work_with_a_reason() -> None:
    with open_executor("loky", workers=2) as opened, pytest.raises(JobError) as caught:
        list(opened.map(fatal, [0, 1, 2]))
    assert "a worker process died (SIGKILL(-9))" in str(caught.value)
    assert "of 3" in str(caught.value) and "memory" in str(caught.value) and "\n" not in str(caught.value)


def test_a_batch_that_kills_every_worker_of_a_cluster_is_named(dask: str) -> None:
    with open_executor(dask) as opened:
        assert list(opened.map(fatal, [0])) == [0]
        with pytest.raises(
            JobError, match=r"died again and again with batch [12] of 3 at hand: it or one beside it needs"
        ):
            list(opened.map(fatal, [0, 1, 2]))
        assert list(opened.map(fatal, [2, 3])) == [2, 3], "the cluster's own watchers bring workers back"


def test_a_worker_killed_from_outside_costs_nothing_but_time(dask: str) -> None:
    with open_executor(dask) as opened:
        arriving = opened.map(slow_first, [0] * 8)
        _, pid = next(arriving)
        os.kill(pid, signal.SIGKILL)
        assert [number for number, _ in arriving] == [0] * 7


def test_a_cluster_that_loses_its_last_worker_is_not_waited_for(tmp_path: Path) -> None:
    with cluster(tmp_path, workers=1) as running, open_executor(running.address) as opened:
        assert list(opened.map(fussy, [1])) == [1]
        for process in family(running.workers[0].pid):
            process.kill()
        assert isinstance(opened, Cluster)
        assert waited(lambda: not opened.client.nthreads())
        with pytest.raises(JobError, match=r"has no workers: start some with `dask worker tcp://127\.0\.0\.1:\d+`$"):
            list(replace(opened, patience_s=1).map(fussy, [1]))
        running.scheduler.kill()
        with pytest.raises(JobError, match=r"the Dask scheduler at \S+ is gone: `dask scheduler` starts one"):
            list(opened.map(fussy, [1]))


def test_a_scheduler_that_is_not_there_is_said_at_once() -> None:
    begun = time.monotonic()
    with pytest.raises(JobError) as caught, open_executor("tcp://127.0.0.1:1"):
        pass
    assert str(caught.value).startswith("no Dask scheduler answers at tcp://127.0.0.1:1 (Connection refused): ")
    assert '`dask scheduler` starts one, or set [compute] scheduler = "loky"' in str(caught.value)
    assert time.monotonic() - begun < 4


def test_something_that_listens_and_says_nothing_is_not_waited_for_for_long() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        begun = time.monotonic()
        with pytest.raises(JobError, match=f"no Dask scheduler answers at {address} within 5 s: "):
            with open_executor(address):
                pass
        assert time.monotonic() - begun < 20


def test_offline_no_outside_scheduler_is_asked() -> None:
    with (
        pytest.raises(OfflineError, match=r"'192\.0\.2\.1' is outside this machine"),
        open_executor("tcp://192.0.2.1:8786"),
    ):
        pass


@pytest.mark.parametrize("name", ["", "dask", "processes", "tcp://nowhere", "http://127.0.0.1:80", "tcp://a b:1"])
def test_a_name_of_no_executor_is_wrong_input(name: str) -> None:
    with pytest.raises(ConfigError, match='must be "serial", "loky" or the address') as caught, open_executor(name):
        pass
    assert repr(name) in str(caught.value)


def test_fewer_than_no_workers_is_wrong_input() -> None:
    with pytest.raises(ConfigError, match="workers must be 0"), open_executor("loky", workers=-1):
        pass


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotrader.core.executor.find_spec", lambda name: None)
    with pytest.raises(AutotraderError, match=r"dask is not installed: pip install 'autotrader\[dask\]'"):
        with open_executor("tcp://127.0.0.1:1"):
            pass


# breaking off

CHILD = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started without it
from autotrader.core.executor import open_executor
from tests.unit.test_executor import marked

with open_executor(sys.argv[1], workers=2) as executor:
    print("open", flush=True)
    list(executor.map(marked, [(sys.argv[2], number) for number in range(40)]))
"""


@pytest.mark.parametrize("where", ["serial", "loky", "dask"])
def test_ctrl_c_cancels_the_rest_and_leaves_no_process(
    where: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    address = request.getfixturevalue("dask") if where == "dask" else where
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, address, str(tmp_path)],
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert waited(lambda: any(tmp_path.iterdir())), child.communicate()[1]
        workers = psutil.Process(child.pid).children(recursive=True)
        os.killpg(child.pid, signal.SIGINT)  # as a terminal does: to every process in the foreground
        _, errors = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode != 0 and "KeyboardInterrupt" in errors  # a worker still starting may say so, too
    assert not psutil.wait_procs(workers, timeout=10)[1]
    begun = len(list(tmp_path.iterdir()))
    time.sleep(1.5)
    assert begun <= 8 and len(list(tmp_path.iterdir())) <= 6, "what had been handed over may finish, no more is sent"


def test_who_stops_asking_cancels_the_rest(executor: Executor, tmp_path: Path) -> None:
    arriving = executor.map(marked, [(str(tmp_path), number) for number in range(2, 40)])
    assert next(arriving) == 2
    arriving.close()  # type: ignore[attr-defined]
    time.sleep(1.0)
    begun = len(list(tmp_path.iterdir()))
    time.sleep(0.5)
    assert len(list(tmp_path.iterdir())) == begun <= 6
