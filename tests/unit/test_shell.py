"""The tools around the package: the environment, the checks, the offline switch of the tests themselves."""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from autotrader.config.settings import load

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check", ROOT / "tools/check.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "parts",
    [
        ("https://py", "pi.org/project"),
        ("--index", "-url https://example.org"),
        ("open('/ro", "ot/desk/a.db')"),
        ("/Us", "ers/ada/desk"),
        ("-----BEGIN RSA PRI", "VATE KEY-----"),
        ("gh", "p_" + "a" * 36),
        ("https://discord.com/api/web", "hooks/1234567890/x"),
    ],
)
def test_words_that_must_not_be_committed_are_found(check: ModuleType, parts: tuple[str, str]) -> None:
    assert any(re.search(pattern, "".join(parts)) for pattern in check.FORBIDDEN.values())


@pytest.mark.parametrize(
    "text", ["../shared/data", "nbs/00_core", "https://semver.org", "sqlite:///data/autotrader.db"]
)
def test_ordinary_words_may_be_committed(check: ModuleType, text: str) -> None:
    assert not any(re.search(pattern, text) for pattern in check.FORBIDDEN.values())


def test_drift_is_a_file_that_differs_or_stands_on_one_side_only(check: ModuleType, tmp_path: Path) -> None:
    for side, text in (("here", "old"), ("there", "new")):
        (tmp_path / side).mkdir()
        (tmp_path / side / "same.py").write_text("same")
        (tmp_path / side / "changed.py").write_text(text)
        (tmp_path / side / f"only_{side}.py").write_text("")
    found = check.differences(tmp_path / "here", tmp_path / "there")
    assert found == ["here/changed.py", "here/only_here.py", "here/only_there.py"]


def test_a_python_that_will_not_do_is_refused_in_one_line(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    env = {**os.environ, "PYTHON": str(old)}
    done = subprocess.run([ROOT / "tools/environment.sh", tmp_path / "venv"], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and str(old) in done.stderr
    assert not (tmp_path / "venv").exists()


def test_the_tests_themselves_cannot_reach_the_outside() -> None:
    with pytest.raises(OSError, match="AUTOTRADER_OFFLINE"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)


# --- the top level is a desk


def test_no_test_works_in_the_repositorys_own_desk() -> None:
    assert (ROOT / "config.toml").is_file() and not Path("config.toml").exists()
    assert ROOT not in (Path.cwd(), *Path.cwd().parents)


def test_git_keeps_the_card_and_ignores_what_work_leaves(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    kept = ["config.toml", ".env.example", "reports/README.md", "models/README.md", "settings.ini"]
    left = [".env", "data/autotrader.db", "logs/runner.log", "backups/a.zip", "desk/config.toml"]
    left += ["reports/backtest/20260101T000000Z_aaaa/report.html", "models/trend/model.txt"]
    done = subprocess.run(["git", "check-ignore", *kept, *left], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == left


def test_the_card_is_there_and_a_clone_can_be_read_as_a_desk() -> None:
    for name in ("reports", "models"):
        assert (ROOT / name / "README.md").read_text().startswith(f"# {name.capitalize()}\n")
    settings = load(ROOT / "config.toml", environ={})
    assert [bot.venue for bot in settings.sub_bots] == ["bybit"] * 3 and settings.folder == ROOT


def test_make_run_trades_the_clones_configuration_or_plays_the_sample_beside_it() -> None:
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }  # of `make test`
    done = subprocess.run(["make", "-n", "run"], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].split()[1:] == ["quickstart", "--sample-in", "desk"]


# what the build server would run

Builder = Callable[..., subprocess.CompletedProcess[str]]
PARTS = "TESTS=tests/dashboard tests/unit tests/parity test"


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    "Plays `.ci/run` in a folder of its own, on a machine with these Pythons, whose `make` only says what it was told, and fails where wanted."
    for name in (".ci/run", "tools/environment.sh"):
        (tmp_path / "house" / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / name, tmp_path / "house" / name)
    path, home = tmp_path / "bin", tmp_path / "home"
    path.mkdir()
    for tool in ("bash", "cat", "dirname", "env", "grep", "head", "ls", "mktemp", "rm", "sh", "tail"):
        (path / tool).symlink_to(str(shutil.which(tool)))

    def program(file: Path, text: str = "") -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)

    def run(*pythons: str, fails: str = "never") -> subprocess.CompletedProcess[str]:
        program(path / "chromium")
        program(path / "make", f'echo "make $*"; case "$*" in *{fails}*) exit 1;; esac')
        for python in pythons:
            program(tmp_path / python)
        env = {"PATH": str(path), "HOME": str(home)}
        return subprocess.run([tmp_path / "house/.ci/run"], env=env, capture_output=True, text=True)

    home.mkdir()
    return run


def test_everything_is_tested_on_the_oldest_python_and_the_parts_that_differ_on_the_newest(
    builder: Builder, tmp_path: Path
) -> None:
    done = builder("bin/python3.11", "home/.pyenv/versions/3.12.1/bin/python", "home/.pyenv/versions/3.13.0/bin/python")
    oldest, newest = tmp_path / "bin/python3.11", tmp_path / "home/.pyenv/versions/3.13.0/bin/python"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"Python 3.11: everything ({oldest})",
        "Python 3.12: found, not run",
        f"Python 3.13: dashboard, unit and parity ({newest})",
        f"make PYTHON={oldest} .venv/.ready",
        f"make PYTHON={newest} VENV=.venv-newest .venv-newest/.ready",
        f"make PYTHON={oldest} check",
        f"make PYTHON={newest} VENV=.venv-newest {PARTS}",
        f"make PYTHON={oldest} test",
    ]


def test_where_only_one_python_exists_it_says_so(builder: Builder, tmp_path: Path) -> None:
    only = tmp_path / "bin/python3.12"
    assert builder("bin/python3.12").stdout.splitlines() == [
        "Python 3.11: not found",
        f"Python 3.12: everything ({only})",
        "Python 3.13: not found",
        f"make PYTHON={only} .venv/.ready",
        f"make PYTHON={only} check",
        f"make PYTHON={only} test",
    ]


@pytest.mark.parametrize("fails", ["check", "newest", "3.11*\\ test", "ready"])
def test_a_part_that_fails_fails_the_whole_and_keeps_none_from_running(builder: Builder, fails: str) -> None:
    done = builder("bin/python3.11", "bin/python3.13", fails=fails)
    assert done.returncode == 1
    assert done.stdout.count("make ") == 5  # two environments, three parts
