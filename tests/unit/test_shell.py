"""The tools around the package: the environment, the checks, the offline switch of the tests themselves."""

import importlib.util
import os
import re
import socket
import subprocess
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
    done = subprocess.run(["make", "-n", "run"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].split()[1:] == ["quickstart", "--sample-in", "desk"]
