"""What every test stands on: no outside connection, seeded properties, recorded data only where there is any."""

import gc
import os
import re
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import chdir
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import settings

from autotrader.core.offline import install

os.environ["AUTOTRADER_OFFLINE"] = "1"
install()  # this process; the ones it starts inherit the variable

settings.register_profile("desk", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # what stands there is for the tests of every folder
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]  # else jsonschema compiles a grammar of web addresses, for seconds
NAMED = os.environ.get("AUTOTRADER_DATA")
DATA = Path(NAMED).absolute() if NAMED else ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    "Work in an empty folder: the repository's top level is a desk, which no test may find or fill."
    with chdir(tmp_path_factory.mktemp("elsewhere")):
        yield


def hurry(connection: Any, _record: Any, _proxy: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF")


@pytest.fixture(scope="session", autouse=True)
def hurried() -> Iterator[None]:
    "Let no commit of this process wait for the disk: nobody pulls the plug of a test. What other processes commit is on the disk."
    sa.event.listen(sa.pool.Pool, "checkout", hurry)
    yield
    sa.event.remove(sa.pool.Pool, "checkout", hurry)


@pytest.fixture
def unhurried(hurried: None) -> Iterator[None]:
    "As the product does it."
    sa.event.remove(sa.pool.Pool, "checkout", hurry)
    yield
    sa.event.listen(sa.pool.Pool, "checkout", hurry)


def pytest_configure(config: pytest.Config) -> None:
    "Compile the kernels once, before the processes that share the tests would do it all at the same time."
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        from autotrader.engine import excursions, metrics, portfolio, simulate  # noqa: F401


def pytest_collection() -> None:
    "What is loaded now stays: nobody need look for garbage in it, now or later."
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


FIXTURE = re.compile(r"^@pytest\.fixture(.*)\n(?:@.*\n)*def (\w+)", re.M)


@cache
def together(file: Path) -> str:
    "Where the tests of a file find what is made once for several: in their folder, in the file, or nowhere (empty)."
    text, beside = file.read_text(), file.with_name("conftest.py")
    in_folder = {name for _, name in FIXTURE.findall(beside.read_text())} if beside.exists() else set()
    if in_folder & set(re.findall(r"\w+", text)):
        return str(file.parent)
    return str(file) if any('"module"' in how for how, _ in FIXTURE.findall(text)) else ""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    "Tests that share what is made once run in one process, longest rows first; all others run where there is room."
    if config.getvalue("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return together(ROOT / nodeid.partition("::")[0]) or nodeid

    return Together(config, log)


def recorded_data() -> Path | None:
    "Folder with the recorded market data, which is not part of this repository."
    return DATA if DATA.is_dir() else None


@pytest.fixture(scope="session")
def data_dir() -> Path:
    "Recorded market data; the test is skipped without it, on the build server it fails."
    folder = recorded_data()
    if folder is None:
        message = "no recorded market data: set AUTOTRADER_DATA to its folder"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    "The repository."
    return ROOT


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    "Chromium, one for all tests of a process; without one they are skipped, on the build server they fail."
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        message = "no chromium on the path: install it to test the pages"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        chromium = playwright.chromium.launch(executable_path=found, args=flags)
        yield chromium
        chromium.close()
