"""The command line as a person and a script meet it: installed, in a folder of their own."""

import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import forked
import pytest

COMMAND = Path(sys.executable).with_name("autotrader")
Autotrader = Callable[..., subprocess.CompletedProcess[str]]


def run_in(folder: Path, *words: object, **env: str) -> subprocess.CompletedProcess[str]:
    "Run the command in a folder; no variable of the tester's leaks in."
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AUTOTRADER__", "BYBIT_"))}
    return forked.command(*words, cwd=folder, env={**clean, **env})


@pytest.fixture
def autotrader(tmp_path: Path) -> Autotrader:
    "The command, run in an empty folder."
    return functools.partial(run_in, tmp_path)


@pytest.fixture(scope="module")
def made_desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    for words in (["init"], ["db", "upgrade"]):
        done = run_in(folder, *words)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def desk(made_desk: Path, tmp_path: Path) -> Path:
    "The empty folder after `init` and `db upgrade`."
    shutil.copytree(made_desk, tmp_path, dirs_exist_ok=True)
    return tmp_path


def said(done: subprocess.CompletedProcess[str]) -> str:
    "The one line of an error; nothing may stand on standard output."
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("autotrader: ")
    return lines[0]


def edit(desk: Path, old: str, new: str) -> None:
    path = desk / "config.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_help_costs_little_more_than_python_itself() -> None:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def fastest(*command: str) -> float:
        spans = []
        for _ in range(7):
            start = time.perf_counter()
            subprocess.run(command, env=env, check=True, capture_output=True)
            spans.append(time.perf_counter() - start)
        return min(spans)

    assert fastest(str(COMMAND), "--help") < 8 * fastest(sys.executable, "-c", "pass")


def test_help_imports_none_of_the_heavy_rooms() -> None:
    code = "import sys, autotrader.cli.main; print(sorted({'numpy', 'pandas', 'numba', 'pydantic', 'sqlalchemy', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_unknown_command_is_wrong_input(autotrader: Autotrader) -> None:
    done = autotrader("tarde")
    assert (done.returncode, done.stdout) == (2, "")
    assert "tarde" in done.stderr


def test_init_makes_a_desk_and_never_overwrites_one(autotrader: Autotrader, tmp_path: Path) -> None:
    done = autotrader("init", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"written": ["config.toml", ".env"]}
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    before = (tmp_path / "config.toml").read_bytes()
    again = autotrader("init")
    assert again.returncode == 2
    assert "config.toml" in said(again)
    assert (tmp_path / "config.toml").read_bytes() == before


def test_a_folder_without_configuration_says_how_to_get_one(autotrader: Autotrader) -> None:
    done = autotrader("doctor")
    assert done.returncode == 2
    assert "autotrader init" in said(done)


def test_the_doctor_is_content_with_a_new_desk(autotrader: Autotrader, desk: Path) -> None:
    done = autotrader("doctor", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {"config", "database", "disk", "clock", "cache", "keys", "network"} <= {
        f["subject"] for f in report["findings"]
    }
    assert [f for f in report["findings"] if f["state"] == "fail"] == []


def test_a_configuration_can_lie_elsewhere(autotrader: Autotrader, desk: Path, tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    (desk / "config.toml").rename(tmp_path / "away" / "config.toml")
    done = autotrader("doctor", "--config", "away/config.toml", "--json")
    assert done.returncode == 0, done.stderr
    assert "away/data/autotrader.db" in next(
        f["text"] for f in json.loads(done.stdout)["findings"] if f["subject"] == "database"
    )


def test_broken_toml_is_named_by_line(autotrader: Autotrader, desk: Path) -> None:
    edit(desk, "[general]", "[general")
    done = autotrader("doctor")
    assert done.returncode == 2
    assert "line" in said(done) and "config.toml" in said(done)


def test_an_unknown_key_is_named_with_its_place(autotrader: Autotrader, desk: Path) -> None:
    edit(desk, "debug_mode", "debug_mod")
    done = autotrader("doctor")
    assert done.returncode == 2
    assert "general.debug_mod" in said(done) and "debug_mode" in said(done)


@pytest.mark.parametrize("words", [["doctor"], ["doctor", "--json"], ["db", "upgrade"]])
def test_a_database_that_cannot_be_opened_is_critical(autotrader: Autotrader, desk: Path, words: list[str]) -> None:
    (desk / "data" / "autotrader.db").write_bytes(b"this was a shopping list " * 400)
    done = autotrader(*words)
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("autotrader: CRITICAL: ")]
    assert len(done.stderr.splitlines()) == 1


def test_a_password_in_the_address_is_never_shown(autotrader: Autotrader, desk: Path) -> None:
    address = "postgresql://desk:hunter2secret@127.0.0.1:1/desk"
    done = autotrader("doctor", AUTOTRADER_DATABASE_URL=address)
    assert done.returncode == 1
    assert "CRITICAL" in done.stderr
    assert "hunter2secret" not in done.stdout + done.stderr


HOURS = "open_time,open,high,low,close,volume\n" + "".join(
    f"2025-01-{1 + h // 24:02d}T{h % 24:02d}:00:00Z,100,101,99,{100 + h % 2},5\n" for h in range(72)
)


def stored(autotrader: Autotrader) -> list[dict[str, object]]:
    done = autotrader("data", "list", "--json")
    assert done.returncode == 0, done.stderr
    series: list[dict[str, object]] = json.loads(done.stdout)["series"]
    return series


def test_what_is_imported_is_listed_and_checked(autotrader: Autotrader, desk: Path) -> None:
    (desk / "hours.csv").write_text(HOURS)
    done = autotrader(
        "data", "import", "hours.csv", "--venue", "bybit", "--symbol", "BTC/USDT", "--timeframe", "1h", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["imported"][0]["rows"] == 72
    (series,) = stored(autotrader)
    assert (series["symbol"], series["timeframe"], series["bars"], series["missing"]) == ("BTCUSDT", "1h", 72, 0)
    checked = autotrader("data", "check", "--json")
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout)["series"][0]["bars"] == 72


def test_an_import_makes_the_database_on_a_new_desk(autotrader: Autotrader, tmp_path: Path) -> None:
    assert autotrader("init").returncode == 0
    (tmp_path / "hours.csv").write_text(HOURS)
    done = autotrader("data", "import", "hours.csv", "--venue", "bybit", "--symbol", "BTCUSDT", "--timeframe", "1h")
    assert done.returncode == 0, done.stderr
    assert len(stored(autotrader)) == 1


BAD = {
    "missing.parquet": (None, "missing.parquet"),
    "torn.parquet": (b"PAR1 and then nothing of the kind", "torn.parquet"),
    "empty.csv": (b"", "empty.csv"),
    "people.csv": (b"name,age\nAda,36\n", "people.csv"),
    "words.csv": (HOURS.replace(",100,101", ",n/a,101", 1).encode(), "words.csv"),
    "upside_down.csv": (HOURS.replace("101,99", "99,101").encode(), "upside_down.csv"),
    "holes.csv": (
        "".join(line for i, line in enumerate(HOURS.splitlines(True)) if not 20 < i < 40).encode(),
        "--allow-gaps",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_one_line_and_leaves_nothing_behind(
    autotrader: Autotrader, desk: Path, name: str
) -> None:
    content, expected = BAD[name]
    if content is not None:
        (desk / name).write_bytes(content)
    done = autotrader("data", "import", name, "--venue", "bybit", "--symbol", "BTCUSDT", "--timeframe", "1h")
    assert done.returncode == 2, done.stderr
    assert expected in said(done)
    assert stored(autotrader) == []


def test_a_file_that_does_not_say_whose_prices_it_holds_is_refused(autotrader: Autotrader, desk: Path) -> None:
    (desk / "hours.csv").write_text(HOURS)
    done = autotrader("data", "import", "hours.csv", "--symbol", "BTCUSDT")
    assert done.returncode == 2
    assert "--venue" in said(done)


@pytest.mark.realdata
def test_the_dirty_quarter_is_refused_with_what_is_wrong_with_it(
    autotrader: Autotrader, desk: Path, data_dir: Path
) -> None:
    done = autotrader("data", "import", data_dir / "btcusdt_1m_dirty_2018q1.parquet", "--venue", "binance")
    assert done.returncode == 2
    line = said(done)
    assert "--allow-gaps" in line and "--skip-off-grid" in line
    assert stored(autotrader) == []


def test_a_download_while_offline_is_refused_by_name(autotrader: Autotrader, desk: Path) -> None:
    done = autotrader(
        "data", "download", "--symbol", "BTCUSDT", "--from", "2025-01-01", "--to", "2025-01-02", AUTOTRADER_OFFLINE="1"
    )
    assert done.returncode == 2
    assert "AUTOTRADER_OFFLINE" in said(done)


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        ("yesterday", "2025-01-02", "--from"),
        ("2025-01-02", "never", "--to"),
        ("2025-01-02", "2025-01-01", "--from must lie before --to"),
    ],
)
def test_dates_that_make_no_period_are_refused(
    autotrader: Autotrader, desk: Path, since: str, until: str, expected: str
) -> None:
    done = autotrader("data", "download", "--symbol", "BTCUSDT", "--from", since, "--to", until)
    assert done.returncode == 2
    assert expected in said(done)


def test_a_mistake_of_ours_is_one_line_with_the_log_that_holds_the_rest(desk: Path) -> None:
    code = (
        "import autotrader.store.database as d; d.upgrade = lambda *a, **k: {}['hunter2secret'];"
        "from autotrader.cli.main import main; import sys; sys.argv = ['autotrader', 'db', 'upgrade']; main()"
    )
    env = {**os.environ, "GEMINI_API_KEYS": "hunter2secret"}
    done = subprocess.run([sys.executable, "-c", code], cwd=desk, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "KeyError" in done.stderr and "autotrader.log" in done.stderr and "hunter2secret" not in done.stderr
    log = (desk / "logs" / "autotrader.log").read_text()
    assert "Traceback" in log and "hunter2secret" not in log


@pytest.mark.realdata
def test_the_doctor_finds_a_size_the_venue_does_not_take(autotrader: Autotrader, desk: Path, data_dir: Path) -> None:
    assert autotrader("data", "import", data_dir / "bybit_perp_1h.parquet").returncode == 0
    sizes = {}
    for what, env in {
        "shipped": {},
        "tiny": {
            "AUTOTRADER__SUB_BOTS__SUB_BOT_A__SIZING": "lot",
            "AUTOTRADER__SUB_BOTS__SUB_BOT_A__BASE_LOT": "0.0005",
        },
    }.items():
        done = autotrader("doctor", "--json", **env)
        assert done.returncode == 0, done.stderr
        sizes[what] = [f for f in json.loads(done.stdout)["findings"] if f["subject"] == "sizes"]
    assert [f["state"] for f in sizes["shipped"]] == ["ok", "ok", "ok"]
    warned = [f["text"] for f in sizes["tiny"] if f["state"] == "warn"]
    assert len(warned) == 1 and "sub_bot_A" in warned[0] and "raise its size" in warned[0]


def test_a_table_is_the_same_on_a_wide_terminal_in_colour_and_in_a_narrow_pipe(desk: Path) -> None:
    shown = []
    for env in ({"COLUMNS": "30", "NO_COLOR": "1"}, {"COLUMNS": "200", "FORCE_COLOR": "1", "TERM": "xterm-256color"}):
        words = [str(COMMAND), "strategy", "list"]
        done = subprocess.run(words, cwd=desk, env={**os.environ, **env}, capture_output=True, text=True, check=True)
        shown.append(done.stdout)
    assert shown[0] == shown[1] and "\x1b" not in shown[0]
    assert shown[0].splitlines()[0].split() == ["name", "warmup", "about"]
