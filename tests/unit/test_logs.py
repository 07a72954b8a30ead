"""The log: its format, its daily turn, and no secret in any form."""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
import time_machine
from hypothesis import given
from hypothesis import strategies as st

from autotrader.config.logs import Formatter, setup, shutdown, spellings
from autotrader.config.settings import Settings, load, write_template
from autotrader.core.errors import ConfigError

LINE = re.compile(r"\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\] \[(DEBUG|INFO|WARNING|ERROR|CRITICAL)\] \[[\w.]+\] .*")
ENV = {"NEWS_API_KEY": "canary-news", "AUTOTRADER_DATABASE_URL": "postgresql://me:canary@db:pw@host/x", "DISCORD_WEBHOOK_URL": "https://discord.com/api/webhooks/1/canary-hook"}  # fmt: skip


@pytest.fixture(autouse=True)
def _clean_logging() -> Iterator[None]:
    root, house = logging.getLogger(), logging.getLogger("autotrader")
    before = root.level, house.level
    yield
    shutdown()
    root.setLevel(before[0])
    house.setLevel(before[1])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    write_template(tmp_path)
    return load(tmp_path / "config.toml", environ=ENV)


def emitted(text: str, secrets: list[str]) -> str:
    return Formatter(secrets).format(logging.LogRecord("a", logging.INFO, "", 0, text, None, None))


def test_console_and_file_get_the_same_line_and_stdout_none(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    path = setup(settings)
    logging.getLogger("autotrader.bots.risk").info("position closed")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == path.read_text()
    assert LINE.fullmatch(err.strip())
    assert err.endswith("[INFO] [autotrader.bots.risk] position closed\n")
    assert path == settings.folder / "logs" / "autotrader.log"


def test_debug_mode_opens_our_debug_messages_only(settings: Settings) -> None:
    path = setup(settings, console=False)
    logging.getLogger("autotrader.x").debug("hidden")
    loud = load(settings.path, environ={"AUTOTRADER__GENERAL__DEBUG_MODE": "true"})
    setup(loud, console=False)
    logging.getLogger("autotrader.x").debug("ours")
    logging.getLogger("urllib3").debug("theirs")
    assert [line.split()[-1] for line in path.read_text().splitlines()] == ["ours"]


def test_setting_up_twice_writes_each_line_once(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = logging.NullHandler()
    logging.getLogger().addHandler(foreign)
    for _ in range(3):
        path = setup(settings)
    logging.getLogger("autotrader").warning("once")
    assert path.read_text().count("once") == 1
    assert capsys.readouterr().err.count("once") == 1
    assert foreign in logging.getLogger().handlers
    logging.getLogger().removeHandler(foreign)


def test_the_file_turns_over_at_midnight_utc_and_thirty_days_are_kept(settings: Settings) -> None:
    log = logging.getLogger("autotrader")
    old = settings.folder / "logs" / "autotrader.log"  # a process that starts again goes on with the day's file
    old.parent.mkdir()
    old.write_text("")
    os.utime(old, (1_741_478_000, 1_741_478_000))  # 2025-03-08T23:53:20Z
    with time_machine.travel("2025-03-08T23:59:58+00:00", tick=False) as clock:
        path = setup(settings, console=False)
        for day in range(40):
            log.info("before midnight %d", day)
            clock.shift(4)
            log.info("after midnight %d", day)
            clock.shift(86_396)
        files = sorted(p.name for p in path.parent.iterdir())
        assert len(files) == 31
        assert "autotrader.log.2025-04-16" in files
        assert "autotrader.log.2025-03-09" not in files
        kept = (path.parent / "autotrader.log.2025-04-16").read_text().splitlines()
        assert [line.partition("] [")[0] for line in kept] == ["[2025-04-16T00:00:02.000Z", "[2025-04-16T23:59:58.000Z"]


WRITER = """
import logging, sys, time_machine
from pathlib import Path
from autotrader.config.logs import setup
from autotrader.config.settings import load
with time_machine.travel("2025-03-08T23:59:00+00:00", tick=False) as clock:
    setup(load(Path(sys.argv[1]), environ={}), console=False, name="runner")
    print("ready", flush=True)
    sys.stdin.readline()
    for line in range(200):
        logging.getLogger("autotrader").info("%s wrote %d.", sys.argv[2], line)
        clock.shift(int(sys.argv[3]))
"""


def test_processes_that_share_a_file_lose_no_line_however_their_days_turn(settings: Settings) -> None:
    paces = {
        "quick": 7_200,
        "quicker": 7_300,
        "slow": 1_800,
        "asleep": 0,
    }  # seconds from line to line: 16, 16, 4 and no turns
    (folder := settings.folder / "logs").mkdir()
    (folder / "runner.log").write_text("")
    os.utime(folder / "runner.log", (1_741_478_000, 1_741_478_000))  # 2025-03-08T23:53:20Z
    (folder / "runner.log.2025-03-10").write_text("somebody put this day away\n")
    command = [sys.executable, "-c", WRITER, str(settings.path)]
    writers = [subprocess.Popen([*command, name, str(pace)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for name, pace in paces.items()]  # fmt: skip
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.communicate("\n")
    assert [writer.returncode for writer in writers] == [0] * len(paces)
    lines = [line for file in folder.iterdir() for line in file.read_text().splitlines()]
    assert sorted(line.partition("[autotrader] ")[2] for line in lines if " wrote " in line) == sorted(
        f"{name} wrote {line}." for name in paces for line in range(200)
    )
    assert "somebody put this day away" in lines
    assert len({file.name for file in folder.iterdir()} - {"runner.log.2025-03-10"}) > 10


def test_a_process_of_another_name_has_a_file_of_its_own(settings: Settings) -> None:
    assert setup(settings, console=False, name="dashboard").name == "dashboard.log"


def test_a_secret_is_hidden_in_messages_arguments_and_tracebacks(settings: Settings) -> None:
    path = setup(settings, console=False)
    log = logging.getLogger("autotrader")
    log.info("key canary-news")
    log.info("call %s", {"url": "https://example.org/?key=canary-news"})
    log.info("posting to %s", ENV["DISCORD_WEBHOOK_URL"])
    try:
        raise RuntimeError(f"cannot open {ENV['AUTOTRADER_DATABASE_URL']}")
    except RuntimeError:
        log.exception("failed with canary@db:pw")
    logging.getLogger("urllib3").warning("redirected to postgresql://other:canary-two@host/y")
    text = path.read_text()
    assert "canary" not in text
    assert text.count("***") >= 6
    assert "Traceback" in text


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=4, max_size=30),
    st.text(st.sampled_from("xyz "), max_size=5),
)
def test_any_secret_is_hidden_in_any_spelling(secret: str, around: str) -> None:
    for form in {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]}:
        assert form not in emitted(around + form + around, [secret]).partition("] [a] ")[2] or form in "***"


def test_the_path_of_a_local_database_is_no_secret() -> None:
    assert spellings(["sqlite:////data/x.db"]) == []


def test_a_log_that_cannot_be_written_is_one_line(settings: Settings) -> None:
    (settings.folder / "logs").write_text("a file")
    with pytest.raises(ConfigError, match="the log cannot be written"):
        setup(settings)
