"""The commands around the runner: how the floor stands, how a person intervenes, and two processes in one terminal."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from shared import Ended, run

from autotrader.cli import options
from autotrader.config.settings import Settings, load, write_template
from autotrader.core.clock import SystemClock
from autotrader.status.liveness import holder_name
from autotrader.store.control import answer, beat, release, take, take_lease, waiting
from autotrader.store.database import Store, open_store
from autotrader.store.tables import SystemEvent

COMMAND = Path(sys.executable).with_name("autotrader")
BOTS = ["sub_bot_A", "sub_bot_B", "sub_bot_C"]
CLOCK = SystemClock()


def said(ended: Ended) -> str:
    "The one line of an error."
    assert ended.out == ""
    assert ended.err.count("\n") == 1 and ended.err.startswith("autotrader: "), ended.err
    return ended.err


def wait_until(is_so: Callable[[], object], what: str, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, f"waited {seconds:g} s for: {what}"
        time.sleep(0.05)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    "A desk of the embedded sample, its dashboard on a port that is free."
    write_template(tmp_path, kind="sample")
    path = tmp_path / "config.toml"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    path.write_text(re.sub(r"(?m)^port = \d+", f"port = {port}", path.read_text()))
    found = load(path)
    assert found.dashboard.port == port
    return found


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    with open_store(settings.database_url, folder=settings.folder, create=True) as store:
        yield store


def pulse(store: Store, *, age_s: float = 0, **details: Any) -> None:
    "A sign of life of the runner and of its bots, under a lease that it holds."
    take_lease(store, "runner", holder=holder_name(), clock=CLOCK, ttl_ms=3_600_000)
    now_ms = CLOCK.now_ms() - round(age_s * 1000)
    told = {"mode": "live", "state": "trading", "memory_mb": 212, "feed": "ok", "time_ms": now_ms, **details}
    beat(store, "runner", now_ms=now_ms, epoch=1, details=told)
    for bot in BOTS:
        state = {"state": "trading", "why": "", "bar_ms": None, "time_ms": now_ms}
        beat(store, f"runner/{bot}", now_ms=now_ms, epoch=1, details=state)


@contextmanager
def obeying(store: Store, *, state: str = "done", message: str = "nothing new is opened") -> Iterator[list[Any]]:
    "A runner in miniature: it lives, takes commands and answers."
    over, seen = threading.Event(), list[Any]()

    def work() -> None:
        pulse(store)
        while not over.wait(0.02):
            for asked in waiting(store, epoch=1):
                take(store, asked.id, epoch=1, now_ms=CLOCK.now_ms())
                seen.append(asked)
                meant = BOTS if asked.bot is None else [asked.bot]
                bots = {bot: {"state": "paused", "why": "by command", "position": "0.25"} for bot in meant}
                result = {"message": message, "bots": bots}
                answer(store, asked.id, state=state, result=result, epoch=1, now_ms=CLOCK.now_ms())  # type: ignore[arg-type]

    pulse(store)
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


# --- status


def test_the_replays_address_is_the_runners(settings: Settings) -> None:
    from autotrader.runner.app import replay_url

    assert options.database_of(settings, replay=True) == replay_url(settings)


def test_status_imports_neither_engine_nor_dashboard() -> None:
    heavy = "{'numba', 'pandas', 'panel', 'bokeh', 'fastapi', 'uvicorn', 'pybit', 'apscheduler'}"
    code = f"import sys, autotrader.cli.main, autotrader.cli.status; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_runner_that_never_ran_is_said_first(tmp_path: Path, store: Store) -> None:
    ended = run(tmp_path, "status")
    assert ended.code == 1
    assert ended.out.startswith("The runner never ran on this database: `autotrader run` starts it.\n")


def test_a_silent_runner_is_said_first_and_since_when(tmp_path: Path, store: Store) -> None:
    pulse(store, age_s=300)
    ended = run(tmp_path, "status")
    assert ended.code == 1
    first = " ".join(ended.out.split("\n\n")[0].split())
    assert re.match(
        r"THE RUNNER IS SILENT since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC \(5 min ago\): nobody trades", first
    )
    told = json.loads(run(tmp_path, "status", "--json").out)
    assert not told["runner"]["is_alive"] and 299 <= told["runner"]["silent_s"] <= 400


def test_a_runner_that_was_stopped_or_killed_is_known_to_be_gone_at_once(tmp_path: Path, store: Store) -> None:
    now_ms = CLOCK.now_ms()
    for holder, state in (
        (holder_name(), "stopping"),
        (holder_name().replace(f"/{os.getpid()}/", "/999999999/"), "trading"),
    ):
        lease = take_lease(store, "runner", holder=holder, clock=CLOCK, ttl_ms=3_600_000)
        assert lease is not None
        if state == "stopping":
            release(store, lease)
        beat(store, "runner", now_ms=now_ms, epoch=9, details={"mode": "replay", "state": state})
        told = run(tmp_path, "status")
        assert told.code == 1
        said_first = "The runner was stopped on" if state == "stopping" else "THE RUNNER IS SILENT since"
        assert told.out.startswith(said_first) and "`autotrader run --replay` starts it again" in " ".join(
            told.out.split()
        )
        assert run(tmp_path, "stop").code == 1
    assert waiting(store, epoch=10) == []


def test_a_living_runner_is_told_in_lines_that_fit(tmp_path: Path, store: Store) -> None:
    pulse(store)
    ended = run(tmp_path, "status")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("The runner lives: trading; live prices; 212 MB; last sign ")
    assert max(map(len, ended.out.splitlines())) <= 100
    told = json.loads(run(tmp_path, "status", "--json").out)
    assert told["runner"]["is_alive"] and told["runner"]["mode"] == "live"
    assert [(bot["id"], bot["state"]) for bot in told["bots"]] == [(bot, "trading") for bot in BOTS]


def test_a_bot_that_stopped_beating_is_not_called_trading(tmp_path: Path, store: Store) -> None:
    pulse(store)
    details = {"state": "trading", "why": ""}
    beat(store, "runner/sub_bot_B", now_ms=CLOCK.now_ms() - 60_000, epoch=1, details=details)
    told = json.loads(run(tmp_path, "status", "--json").out)
    assert [bot["state"] == "trading" for bot in told["bots"]] == [True, False, True]


def test_why_a_bot_is_paused_stands_below_the_table(tmp_path: Path, store: Store) -> None:
    pulse(store)
    details = {"state": "paused", "why": "daily loss limit"}
    beat(store, "runner/sub_bot_B", now_ms=CLOCK.now_ms(), epoch=1, details=details)
    assert run(tmp_path, "status").out.rstrip().endswith("sub_bot_B paused: daily loss limit")


def test_a_replay_is_found_by_those_who_look_for_it_in_the_real_database(
    tmp_path: Path, settings: Settings, store: Store
) -> None:
    with options.open_database(settings, create=True, replay=True) as replay:
        pulse(replay, mode="replay", speed=3600.0, since_ms=0, time_ms=86_400_000, until_ms=2 * 86_400_000)
        ended = run(tmp_path, "status")
        assert (ended.code, ended.err) == (1, "A replay runs on this desk: add --replay.\n")
        shown = run(tmp_path, "status", "--replay")
    assert shown.code == 0
    assert "replay at 1970-01-02 00:00 UTC, 3,600 times as fast as it was" in " ".join(shown.out.split())


# --- stop, resume, flatten


@pytest.mark.parametrize("command", ["stop", "resume", "flatten"])
def test_a_command_is_taken_and_its_answer_told_for_each_bot(tmp_path: Path, store: Store, command: str) -> None:
    with obeying(store) as seen:
        ended = run(tmp_path, command)
    assert (ended.code, ended.err) == (0, "")
    assert [(asked.command, asked.bot) for asked in seen] == [(command, None)]
    assert re.fullmatch(r"\S+@\S+", seen[0].who)
    assert ended.out.startswith("nothing new is opened\n")
    assert [line.split()[0] for line in ended.out.splitlines()[3:]] == BOTS


def test_one_bot_is_meant_by_id_or_by_name(tmp_path: Path, store: Store) -> None:
    with obeying(store) as seen:
        told = json.loads(run(tmp_path, "stop", "--bot", "SubBot-B", "--json").out)
    assert [asked.bot for asked in seen] == ["sub_bot_B"]
    assert (told["state"], list(told["result"]["bots"])) == ("done", ["sub_bot_B"])


def test_what_the_runner_could_not_do_is_a_failure(tmp_path: Path, store: Store) -> None:
    with obeying(store, state="failed", message="no bot sub_bot_B trades here"):
        ended = run(tmp_path, "stop", "--bot", "sub_bot_B")
    assert ended.code == 1
    assert "failed: no bot sub_bot_B trades here" in said(ended)


def test_a_command_to_a_silent_runner_is_not_left_waiting(tmp_path: Path, store: Store) -> None:
    pulse(store, age_s=60)
    for command in ("stop", "resume", "flatten"):
        ended = run(tmp_path, command)
        assert ended.code == 1
        assert f"`autotrader {command} --direct`" in said(ended)
    assert waiting(store, epoch=2) == []
    with store.read() as connection:
        assert connection.execute(SystemEvent.__table__.select()).all() == []


def test_an_answer_that_does_not_come_is_not_waited_for(tmp_path: Path, store: Store) -> None:
    pulse(store)
    ended = run(tmp_path, "stop", "--wait", "0.3")
    assert ended.code == 1
    assert "has not taken it after 0.3 s" in said(ended)


def test_flatten_asks_back_on_a_terminal_and_takes_no_for_an_answer(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    with obeying(store) as seen:
        monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
        refused = run(tmp_path, "flatten")
        assert (refused.code, seen) == (1, [])
        assert refused.err.endswith("nothing was done\n")
        for words, typed in ((["flatten"], "y\n"), (["flatten", "--yes"], ""), (["flatten", "--bot", "sub_bot_A"], "")):
            monkeypatch.setattr(sys, "stdin", Terminal(typed))
            assert run(tmp_path, *words).code == 0
    assert [asked.bot for asked in seen] == [None, None, "sub_bot_A"]


# --- wrong input


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["stop", "--bot", "sub_bot_D"], "the bots are sub_bot_A, sub_bot_B, sub_bot_C"),
        (["flatten", "--bot", "sub_bot_D", "--direct"], "the bots are sub_bot_A, sub_bot_B, sub_bot_C"),
        (["stop", "--wait", "-1"], "--wait -1 must be"),
        (["stop", "--wait", "nan"], "--wait nan must be"),
        (["status", "--replay"], "`autotrader run --replay` begins one"),
        (["stop", "--replay"], "`autotrader run --replay` begins one"),
        (["flatten", "--direct", "--replay"], "`autotrader run --replay` begins one"),
        (["explain", "sub_bot_A-1-1-0", "--replay"], "`autotrader run --replay` begins one"),
        *(
            ([command, *words], expected)
            for command in ("run", "up")
            for words, expected in (
                (["--speed", "10"], "--speed belongs to a replay: add --replay"),
                (["--fresh"], "--fresh belongs to a replay: add --replay"),
                (["--from", "2017-06-01"], "--from belongs to a replay: add --replay"),
                (["--replay", "--speed", "-1"], "--speed -1 must be 0"),
                (["--replay", "--speed", "inf"], "--speed inf must be 0"),
                (["--replay", "--from", "yesterday"], "--from 'yesterday' is not a date"),
                (["--replay", "--from", "2017-06-02", "--to", "2017-06-01"], "--from must be before --to"),
            )
        ),
        (["run", "--replay", "--from", "2030-01-01", "--to", "2031-01-01"], "no bars in this period"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_one_clear_line(tmp_path: Path, store: Store, words: list[str], expected: str) -> None:
    ended = run(tmp_path, *words)
    assert ended.code == 2, ended.err
    assert expected in said(ended)
    assert waiting(store, epoch=1) == []
    assert not (tmp_path / "data" / "replay.db").exists()


def test_a_taken_port_is_found_before_anything_starts(tmp_path: Path, settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", settings.dashboard.port)):
        for words in (["up"], ["quickstart"]):
            ended = run(tmp_path, *words)
            assert ended.code == 2
            assert f"port {settings.dashboard.port} cannot be used" in said(ended)
    assert not (tmp_path / "data").exists()


# --- two processes in one terminal

STAGE = """
import sys
from autotrader.cli.up import Child, Pair, supervise, tether

def child(name, text):
    return Child(name, [sys.executable, "-P", "-c", "from autotrader.cli.up import tether; tether(); " + text], print_)

def print_(line):
    print(line, flush=True)

pair = Pair(runner=child("runner", sys.argv[1]), dashboard=child("dashboard", sys.argv[2]), say=print_,
            is_up=lambda: True, welcome=lambda: print_("WELCOME"))
sys.exit(supervise(pair))
"""
STAYS = "import os, time; print('pid', os.getpid(), flush=True); time.sleep(600)"
STUBBORN = "import signal; [signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT, signal.SIGTERM)]; " + STAYS


class Staged:
    "Two small processes under the real supervisor, in a process of its own."

    def __init__(self, runner: str = STAYS, dashboard: str = STAYS) -> None:
        words = [sys.executable, "-c", STAGE, runner, dashboard]
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines += (line.rstrip() for line in self.process.stdout)

    def pids(self, name: str) -> list[int]:
        return [int(line.split()[-1]) for line in list(self.lines) if line.startswith(f"{name:9} | pid ")]

    def wait_for(self, *names: str) -> None:
        for name in names:
            wait_until(lambda name=name: self.pids(name), f"{name} to start")  # type: ignore[misc]

    def end(self) -> int:
        code = self.process.wait(timeout=60)
        self._reader.join(timeout=10)
        return code


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def stage() -> Iterator[Callable[..., Staged]]:
    begun: list[Staged] = []

    def begin(**children: str) -> Staged:
        begun.append(Staged(**children))
        return begun[-1]

    yield begin
    for staged in begun:
        for pid in [*staged.pids("runner"), *staged.pids("dashboard")]:
            if not is_gone(pid):
                os.kill(pid, signal.SIGKILL)
        staged.process.kill()
        staged.process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_ends_both_and_leaves_nobody(stage: Callable[..., Staged], number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # whoever runs the tests may ignore it
    try:
        staged = stage()
    finally:
        signal.signal(number, before)
    staged.wait_for("runner", "dashboard")
    os.killpg(staged.process.pid, number)  # as a terminal does it
    assert staged.end() == 0
    assert "Traceback" not in "\n".join(staged.lines)  # the children heard of it from their parent alone
    assert all(map(is_gone, [*staged.pids("runner"), *staged.pids("dashboard")]))


def test_after_nohup_the_terminals_end_is_nothing(stage: Callable[..., Staged]) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # inherited, as from nohup
    try:
        staged = stage()
    finally:
        signal.signal(signal.SIGHUP, before)
    staged.wait_for("runner", "dashboard")
    staged.process.send_signal(signal.SIGHUP)
    time.sleep(1)
    assert staged.process.poll() is None
    staged.process.terminate()
    assert staged.end() == 0


def test_killing_up_itself_leaves_no_orphan(stage: Callable[..., Staged]) -> None:
    staged = stage()
    staged.wait_for("runner", "dashboard")
    staged.process.kill()
    pids = [*staged.pids("runner"), *staged.pids("dashboard")]
    wait_until(lambda: all(map(is_gone, pids)), "the children to notice")


def test_a_child_that_does_not_listen_is_gone_too_when_up_is_killed(stage: Callable[..., Staged]) -> None:
    staged = stage(runner=STUBBORN)
    staged.wait_for("runner", "dashboard")
    staged.process.kill()
    pids = [*staged.pids("runner"), *staged.pids("dashboard")]
    wait_until(lambda: all(map(is_gone, pids)), "the children to notice")


def test_ctrl_c_twice_ends_at_once_what_does_not_listen(stage: Callable[..., Staged]) -> None:
    staged = stage(runner=STUBBORN)
    staged.wait_for("runner", "dashboard")
    staged.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert staged.process.poll() is None  # the runner has its time to end
    start = time.monotonic()
    staged.process.send_signal(signal.SIGINT)
    staged.end()
    assert time.monotonic() - start < 8  # without the second one: ten seconds
    assert all(map(is_gone, [*staged.pids("runner"), *staged.pids("dashboard")]))
    assert "runner does not end by itself and is killed" in "\n".join(staged.lines)


def test_a_dead_dashboard_is_started_again_while_the_runner_goes_on(stage: Callable[..., Staged]) -> None:
    staged = stage()
    staged.wait_for("runner", "dashboard")
    os.kill(staged.pids("dashboard")[0], signal.SIGKILL)
    wait_until(lambda: len(staged.pids("dashboard")) == 2, "a new dashboard")
    assert not is_gone(staged.pids("runner")[0])
    assert [line for line in staged.lines if "has ended (killed by SIGKILL)" in line and "trading goes on" in line]
    wait_until(lambda: "WELCOME" in staged.lines, "the welcome")
    staged.process.terminate()
    assert staged.end() == 0
    assert staged.lines.count("WELCOME") == 1


def test_a_dead_runner_ends_up_with_one_clear_line(stage: Callable[..., Staged]) -> None:
    staged = stage()
    staged.wait_for("runner", "dashboard")
    os.kill(staged.pids("runner")[0], signal.SIGKILL)
    assert staged.end() == 1
    assert is_gone(staged.pids("dashboard")[0])
    assert [line for line in staged.lines if "the runner has ended (killed by SIGKILL)" in line] == staged.lines[-1:]


def test_a_runner_that_refuses_its_words_speaks_for_itself(stage: Callable[..., Staged]) -> None:
    staged = stage(runner="import sys; print('autotrader: no'); sys.exit(2)")
    assert staged.end() == 2
    assert [line for line in staged.lines if line.startswith("runner")] == ["runner    | autotrader: no"]
    assert not [line for line in staged.lines if "has ended" in line]


# --- the real ones

WEEK = ("--replay", "--from", "2017-06-01", "--to", "2017-06-08")
MONTHS = ("--replay", "--from", "2017-06-01", "--to", "2017-12-01")


class Started:
    "The command in a process of its own, in a folder."

    def __init__(self, folder: Path, *words: object) -> None:
        self.folder = folder
        self.log = folder / f"{words[0]}_{time.monotonic_ns()}.txt"
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                [str(COMMAND), *map(str, words)],
                cwd=folder,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self.log.read_text()

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.text or self.process.poll() is not None, f"{text!r} in {self.text!r}", 120)
        assert text in self.text, self.text

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=60)

    def family(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]


@pytest.fixture
def start(tmp_path: Path, settings: Settings) -> Iterator[Callable[..., Started]]:
    begun: list[Started] = []

    def begin(*words: object) -> Started:
        begun.append(Started(tmp_path, *words))
        return begun[-1]

    yield begin
    for started in begun:  # a tether ends the children
        started.process.kill()
        started.process.wait()


def test_a_replay_runs_to_its_end_and_is_told_in_a_few_lines(
    tmp_path: Path, settings: Settings, start: Callable[..., Started]
) -> None:
    played = start("run", *WEEK, "--speed", "0")
    assert played.process.wait(timeout=120) == 0, played.text
    first, *others = played.text.splitlines()
    assert first == "the runner starts: a replay of 2017-06-01 – 2017-06-08, as fast as it goes"
    assert 1 <= len(others) <= 4 and "the replay is over" in others[-1]
    assert (tmp_path / "logs" / "runner.log").stat().st_size > 0
    told = run(tmp_path, "status", "--replay")
    assert told.code == 1 and told.out.startswith("The runner was stopped on")
    bots = json.loads(run(tmp_path, "status", "--replay", "--json").out)["bots"]
    assert sum(bot["equity"] != 10_000 for bot in bots) >= 1
    assert not [line for line in told.out.splitlines() if len(line) > 100]


def test_one_ctrl_c_ends_a_run_in_order(tmp_path: Path, start: Callable[..., Started]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        trading = start("run", *MONTHS)
        trading.wait_for("trading on a replay")
        assert trading.end(number) == 0
        assert trading.text.splitlines()[-1] == "stopped"
        assert "Traceback" not in trading.text
    assert run(tmp_path, "status", "--replay").out.startswith("The runner was stopped on")


def test_a_person_intervenes_with_a_runner_and_without(tmp_path: Path, start: Callable[..., Started]) -> None:
    trading = start("run", *MONTHS, "--speed", "36000")
    trading.wait_for("trading on a replay")
    paused = json.loads(run(tmp_path, "stop", "--replay", "--bot", "sub_bot_A", "--wait", "60", "--json").out)
    assert paused["result"]["bots"]["sub_bot_A"]["state"] == "paused"
    wait_until(lambda: "sub_bot_A paused: " in run(tmp_path, "status", "--replay").out, "the next sign of life", 20)
    assert "leave out --direct" in said(run(tmp_path, "flatten", "--replay", "--direct"))
    trading.end(signal.SIGKILL)

    assert "--replay --direct" in said(run(tmp_path, "flatten", "--replay"))
    flat = json.loads(run(tmp_path, "flatten", "--replay", "--direct", "--json").out)
    rows = flat["result"]["bots"].values()
    assert (flat["state"], [(row["state"], float(row["position"])) for row in rows]) == ("done", [("paused", 0)] * 3)
    assert [bot["qty"] for bot in json.loads(run(tmp_path, "status", "--replay", "--json").out)["bots"]] == [0] * 3
    resumed = json.loads(run(tmp_path, "resume", "--replay", "--direct", "--json").out)
    assert [row["state"] for row in resumed["result"]["bots"].values()] == ["trading"] * 3


def password_in(text: str) -> str | None:
    found = re.findall(r"Password   (\S+)   \(shown this once\)", text)
    return found[0] if found else None


def test_up_shows_the_way_in_and_ends_with_nobody_left(settings: Settings, start: Callable[..., Started]) -> None:
    both = start("up", *MONTHS)
    both.wait_for("Ctrl-C ends it.")
    address, password = f"http://127.0.0.1:{settings.dashboard.port}/", password_in(both.text)
    assert f"Dashboard  {address}\n" in both.text and password is not None
    assert "runner    | trading on a replay: sub_bot_A, sub_bot_B, sub_bot_C" in both.text
    asked = {None: 401, ("admin", "wrong"): 401, ("admin", password): 200}
    assert {login: requests.get(f"{address}api/health", auth=login).status_code for login in asked} == asked
    children = both.family()
    assert len(children) == 2
    assert both.end() == 0
    assert all(map(is_gone, children))
    assert "Traceback" not in both.text

    again = start("up", *MONTHS)
    again.wait_for("trading on a replay")
    wait_until(lambda: len(again.family()) == 2, "the dashboard to start")
    children = again.family()
    again.end(signal.SIGKILL)
    wait_until(lambda: all(map(is_gone, children)), "the children to notice")
    assert password not in again.text


def test_quickstart_ends_in_bots_that_trade(
    settings: Settings, start: Callable[..., Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTRADER__SUB_BOTS__SUB_BOT_B__ENABLED", "false")  # one lives through months as three do
    monkeypatch.setenv("AUTOTRADER__SUB_BOTS__SUB_BOT_A__ENABLED", "false")
    serving = start("quickstart", "--json")
    serving.wait_for("Ctrl-C ends it.")
    before, _, after = serving.text.partition("Now the bots trade a replay of this period")
    assert list(json.loads(before)) == ["data", "training", "backtest", "rehearsal"]
    assert password_in(after) is not None
    assert "runner    |" not in after  # after the document it serves quietly
    children = serving.family()
    told = run(serving.folder, "status", "--replay")
    assert (told.code, told.out.count("trading")) == (0, 2)  # the runner and its bot
    assert serving.end() == 0
    assert all(map(is_gone, children))
