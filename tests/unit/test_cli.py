"""The command line as a person and a script meet it: installed, in a folder of their own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("autotrader")
Autotrader = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def autotrader(tmp_path: Path) -> Autotrader:
    "Run the installed command in an empty folder; no variable of the tester's leaks in."

    def run(*words: object, **env: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("AUTOTRADER__", "BYBIT_"))}
        command = [str(COMMAND), *map(str, words)]
        return subprocess.run(command, cwd=tmp_path, env={**clean, **env}, capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture
def desk(autotrader: Autotrader, tmp_path: Path) -> Path:
    "A folder after `init` and `db upgrade`."
    for words in (["init"], ["db", "upgrade"]):
        done = autotrader(*words)
        assert done.returncode == 0, done.stderr
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
