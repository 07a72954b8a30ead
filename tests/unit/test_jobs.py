"""Jobs with real kernels: what runs, what is refused, what is ended, and what is left behind each time."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forked
import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from autotrader.config.settings import Settings, load, write_template
from autotrader.core.clock import SystemClock
from autotrader.core.errors import ConfigError, JobError
from autotrader.jobs import FOLDER
from autotrader.jobs.launch import Job, find_job, jobs, launch, rerun, stop, tag
from autotrader.report.folder import Manifest, read_manifest
from autotrader.store.database import Store, open_store

CLOCK = SystemClock()
COMMAND = Path(sys.executable).with_name("autotrader")
SECRET = "a-key-that-nobody-may-see"
PASSWORD = "p@ss-word/of-the-page"
PARAMETERS = 'text: str = "nothing"  # any\ncount: int = 3  # 1-10\n'
LONG = "import time\nfor second in range(600):\n    time.sleep(0.1)"


class Desk:
    "A folder with config.toml, a database and templates of its own."

    def __init__(self, folder: Path) -> None:
        write_template(folder, kind="sample")
        (folder / ".env").write_text(
            f"BYBIT_SUB_BOT_A_API_KEY={SECRET}\nBYBIT_SUB_BOT_A_API_SECRET={SECRET}-2\nAUTOTRADER_DASHBOARD_PASSWORD={PASSWORD}\n"
        )
        (folder / ".env").chmod(0o600)
        (folder / "templates").mkdir()
        self.folder = folder
        self.settings: Settings = load(folder / "config.toml", environ={})
        self.store: Store = open_store(self.settings.database_url, folder=folder, create=True)
        self.room: dict[str, Any] = {"settings": self.settings, "store": self.store, "clock": CLOCK}

    def template(self, name: str, *cells: str, parameters: tuple[str, ...] = (PARAMETERS,)) -> str:
        made = [new_markdown_cell(f"# {name}")]
        made += [new_code_cell(source, metadata={"tags": ["parameters"]}) for source in parameters]
        made += [new_code_cell(source) for source in cells]
        nbformat.write(new_notebook(cells=made), self.folder / "templates" / f"{name}.ipynb")
        return name

    def launch(self, name: str, given: dict[str, Any] | None = None, **options: Any) -> Job:
        return launch(name, given or {}, **self.room, **options)

    def look(self, job: Job) -> Job:
        return find_job(self.store, job.id, settings=self.settings, clock=CLOCK)

    def until(self, job: Job, holds: Callable[[Job], bool], within_s: float) -> Job:
        deadline_s = time.monotonic() + within_s
        while not holds(found := self.look(job)):
            assert time.monotonic() < deadline_s, found
            time.sleep(0.05)
        return found

    def in_a_cell(self, job: Job) -> Job:
        return self.until(job, lambda found: (found.doing or "").startswith("cell 4"), 60)

    def processes(self, job: Job) -> list[psutil.Process]:
        "Living ones of the job, whoever started them."
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(FOLDER) == tag(self.settings, job.folder) and process.status() != "zombie":
                    found.append(process)
            except psutil.Error:
                pass
        return found

    def is_empty(self, job: Job, within_s: float = 5) -> bool:
        "No process of the job is left, the worker's own end included."
        deadline_s = time.monotonic() + within_s
        while self.processes(job) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        return self.processes(job) == []

    def kernel(self, job: Job) -> psutil.Process:
        return next(p for p in self.processes(job) if "ipykernel_launcher" in " ".join(p.cmdline()))

    def text_of(self, job: Job, name: str) -> str:
        return (self.folder / job.folder / name).read_text()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    made = Desk(tmp_path_factory.mktemp("desk"))
    yield made
    for job in jobs(made.store, settings=made.settings, clock=CLOCK):
        if job.is_active:
            stop(made.store, job.id, settings=made.settings, clock=CLOCK, grace_s=0)
    made.store.close()


def leaves_its_report(desk: Desk, job: Job, *, state: str) -> Manifest:
    "The four things every run leaves, no process among them."
    assert job.state == state, job
    assert desk.is_empty(job)
    nbformat.validate(nbformat.reads(desk.text_of(job, "notebook.ipynb"), as_version=4))
    assert "</html>" in desk.text_of(job, "report.html")
    left = read_manifest(desk.folder / job.folder)
    assert (left.state, left.error, left.id, left.parameters) == (job.state, job.error, job.id, job.parameters)
    return left


@pytest.fixture(scope="module")
def good(desk: Desk) -> tuple[Job, list[Job]]:
    "A run that says and shows everything it can get hold of."
    desk.template(
        "good",
        "import os\nfrom autotrader.jobs import progress\nfrom autotrader.jobs.record import record\n"
        "progress(0.5, 'half way')",
        "from autotrader.config.settings import load\nsettings = load()\n"
        "print(dict(os.environ), open('.env').read(), settings.secrets.values())",
        f"print({PASSWORD!r})\nfrom IPython.display import HTML\nHTML('<img src=\"https://elsewhere.example/x.png\">')",
        "import time\ntime.sleep(1.5)",
        "record({'said': text * count}, seeds={'folds': 7})",
    )
    told: list[Job] = []
    os.environ["GEMINI_API_KEYS"] = SECRET
    try:
        job = desk.launch("good", {"text": "ab", "count": "2"}, on_progress=told.append)
    finally:
        del os.environ["GEMINI_API_KEYS"]
    return job, told


def test_a_run_leaves_notebook_report_and_manifest(desk: Desk, good: tuple[Job, list[Job]]) -> None:
    job, _ = good
    left = leaves_its_report(desk, job, state="done")
    assert re.fullmatch(rf"reports/good/\d{{8}}T\d{{6}}Z_{job.id}", job.folder)
    assert job.parameters == {"text": "ab", "count": 2}
    assert (left.results, left.seeds) == ({"said": "abab"}, {"folds": 7})
    assert (job.progress, job.error) == (1.0, None)
    assert set(left.files or {}) == {"notebook.ipynb", "report.html"}
    assert {p.name for p in (desk.folder / job.folder).iterdir()} == {
        *(left.files or {}),
        "manifest.json",
        "worker.log",
    }


def test_progress_is_told_while_it_runs(good: tuple[Job, list[Job]]) -> None:
    said = [(job.progress, job.doing) for job in good[1] if job.state == "running"]
    assert any(fraction == 0.5 and doing and doing.endswith("half way") for fraction, doing in said), said


def test_no_secret_reaches_anything_a_run_leaves(desk: Desk, good: tuple[Job, list[Job]]) -> None:
    folder = desk.folder / good[0].folder
    shown = [output for cell in nbformat.read(folder / "notebook.ipynb", 4).cells[4:6] for output in cell.outputs]
    assert "'GEMINI_API_KEYS': ''" in shown[0].text and "BYBIT_SUB_BOT_A_API_KEY=***" in shown[0].text
    assert shown[0].text.rstrip().endswith("()"), "the kernel's settings hold no secret at all"
    assert shown[1].text == "***\n"
    for path in folder.iterdir():
        for secret in (SECRET, PASSWORD, json.dumps(PASSWORD)[1:-1]):
            assert secret not in path.read_text(), path


def test_the_report_asks_nobody_outside(desk: Desk, good: tuple[Job, list[Job]]) -> None:
    html = desk.text_of(good[0], "report.html")
    policy = html.index("Content-Security-Policy")
    assert policy < html.index("<style") and "default-src 'none'; img-src data: blob:" in html
    assert re.findall(r"<script[^>]+src|<link[^>]+href|@import", html) == []


def test_a_failing_cell_is_named_and_its_notebook_kept(desk: Desk) -> None:
    job = desk.launch(desk.template("failing", "before = 1", "1 / 0", "never = 1"))
    left = leaves_its_report(desk, job, state="failed")
    assert left.error == "cell 5 of 6: ZeroDivisionError: division by zero"
    cells = [cell for cell in nbformat.reads(desk.text_of(job, "notebook.ipynb"), 4).cells if cell.cell_type == "code"]
    assert [bool(cell.execution_count) for cell in cells] == [True, True, True, True, False]
    assert "ZeroDivisionError" in desk.text_of(job, "report.html")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"txet": "a"}, "there is no parameter 'txet'; did you mean 'text'"),
        ({"count": "three"}, "count must be a whole number, was 'three'"),
        ({"text": 5}, "text must be text, was 5"),
        ({"text": f"key {SECRET}"}, "parameter text holds a secret"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_starts(desk: Desk, given: dict[str, Any], why: str) -> None:
    desk.template("strict", "pass")
    before = len(jobs(desk.store, settings=desk.settings, clock=CLOCK))
    with pytest.raises(ConfigError, match=re.escape(why)) as caught:
        desk.launch("strict", given)
    assert SECRET not in str(caught.value)
    assert len(jobs(desk.store, settings=desk.settings, clock=CLOCK)) == before
    assert not (desk.folder / "reports" / "strict").exists()


def test_two_parameter_cells_are_refused(desk: Desk) -> None:
    with pytest.raises(ConfigError, match="has 2 code cells tagged `parameters`"):
        desk.launch(desk.template("twofold", parameters=(PARAMETERS, "more: int = 1")))
    with pytest.raises(ConfigError, match=r"'import os' is not `name: type = literal`"):
        desk.launch(desk.template("clever", parameters=("import os",)))


def test_the_command_takes_a_wrong_parameter_as_wrong_input(desk: Desk) -> None:
    desk.template("strict", "pass")
    for words, why in ((["-p", "txet=a"], "did you mean 'text'"), (["-p", "count=x"], "must be a whole number")):
        done = forked.command("job", "run", "strict", *words, cwd=desk.folder, env=os.environ)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert why in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_same_job_runs_once_and_a_stop_really_stops(desk: Desk) -> None:
    desk.template("long", LONG + "\n# never", "never = 1")
    job = desk.launch("long", {"count": 5}, detach=True)
    assert job.is_active
    with pytest.raises(JobError, match=rf"long with these parameters is job {job.id}, .*job stop {job.id}"):
        desk.launch("long", {"count": "5"}, detach=True)
    desk.in_a_cell(job)
    assert len(desk.processes(job)) >= 2
    ended = stop(desk.store, job.id, settings=desk.settings, clock=CLOCK, grace_s=30)
    left = leaves_its_report(desk, ended, state="stopped")
    assert left.error == "stopped by request"
    assert "KeyboardInterrupt" in desk.text_of(ended, "notebook.ipynb"), "it shows where it was"
    with pytest.raises(JobError, match="has ended already"):
        stop(desk.store, job.id, settings=desk.settings, clock=CLOCK)


def test_a_stop_that_comes_after_a_notebook_said_it_was_whole_comes_too_late(desk: Desk) -> None:
    late = (
        "import signal, time\nfrom autotrader.jobs import progress\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "progress(1.0, 'whole')\ntime.sleep(1)"
    )
    job = desk.launch(desk.template("late", late), detach=True)
    told = desk.folder / job.folder / "progress.json"
    for _ in range(1200):
        if told.exists():
            break
        time.sleep(0.05)
    ended = stop(desk.store, job.id, settings=desk.settings, clock=CLOCK, grace_s=30)
    assert leaves_its_report(desk, ended, state="done").error is None


def test_a_cell_that_ignores_the_interrupt_is_killed_over_its_time_limit(desk: Desk) -> None:
    stubborn = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n" + LONG
    job = desk.launch(desk.template("stubborn", stubborn), timeout_s=5)
    assert job.started_ms and job.ended_ms and job.ended_ms - job.started_ms < 30_000
    left = leaves_its_report(desk, job, state="failed")
    assert left.error == "over its time limit of 5 s; raise it or give it less to do"


def test_a_job_over_its_memory_limit_ends_with_what_it_started(desk: Desk) -> None:
    hungry = (
        "import subprocess, sys\n"
        "code = 'import time; hoard = bytearray(700_000_000); time.sleep(60)'\n"
        "subprocess.run([sys.executable, '-c', code], start_new_session=True)"
    )
    job = desk.launch(desk.template("hungry", hungry), memory_mb=600, timeout_s=60)
    left = leaves_its_report(desk, job, state="failed")
    assert "over its memory limit of 600 MB" in str(left.error)
    assert left.peak_mb > 600


def test_a_killed_kernel_is_noticed(desk: Desk) -> None:
    desk.template("orphan", LONG)
    job = desk.launch("orphan", detach=True)
    desk.in_a_cell(job)
    desk.kernel(job).send_signal(signal.SIGKILL)
    ended = desk.until(job, lambda found: not found.is_active, 30)
    left = leaves_its_report(desk, ended, state="failed")
    assert "cell 4 of" in str(left.error) and "the kernel died" in str(left.error)


def test_a_killed_worker_is_noticed_by_who_looks_next_and_makes_room(desk: Desk) -> None:
    desk.template("widow", "if text == 'nothing':\n    " + LONG.replace("\n", "\n    "))
    job = desk.in_a_cell(desk.launch("widow", detach=True))
    assert job.pid is not None
    os.kill(job.pid, signal.SIGKILL)
    ended = desk.until(job, lambda found: not found.is_active, 5)
    assert ended.state == "failed" and "its process ended without a word" in str(ended.error)
    assert desk.is_empty(job), "the kernel goes with it"
    nbformat.validate(nbformat.reads(desk.text_of(job, "notebook.ipynb"), as_version=4))
    again = rerun(desk.store, job.id, settings=desk.settings, clock=CLOCK, detach=True)
    assert again.id > job.id and again.parameters == job.parameters
    assert stop(desk.store, again.id, settings=desk.settings, clock=CLOCK).state == "stopped"
    assert desk.is_empty(again)


def test_the_shipped_backtest_runs_from_the_command_line(desk: Desk) -> None:
    def said(*words: str) -> Any:
        done = subprocess.run(
            [COMMAND, "job", *words, "--json"], cwd=desk.folder, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    ran = said("run", "backtest", "-p", "bot=sub_bot_A", "-p", "since=2017-06-01", "-p", "until=2017-08-01")
    assert (ran["state"], ran["progress"]) == ("done", 1.0)
    left = said("show", str(ran["id"]))["manifest"]
    assert left["results"]["id"] == "sub_bot_A" and left["results"]["trades"] > 0
    assert [(data["series"], data["first"]) for data in left["data"]] == [("sample EURUSD 1h", "2017-06-01T00:00:00Z")]
    html = (desk.folder / ran["folder"] / "report.html").read_text()
    assert "<svg" in html and "sub_bot_A" in html and "find_bot" not in html
    listed = said("list", "--limit", "1")
    assert [job["id"] for job in listed["jobs"]] == [ran["id"]] and "backtest" in listed["notebooks"]
    shown = subprocess.run([COMMAND, "job", "list"], cwd=desk.folder, capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0 and max(map(len, shown.stdout.splitlines())) <= 100, shown.stdout
    assert f"{ran['id']}  backtest" in shown.stdout and "100%" in shown.stdout and "reports/" not in shown.stdout
