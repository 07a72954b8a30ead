"""Cron lines of the configuration: on the days that people mean, or refused in one line."""

import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from apscheduler.triggers.cron import CronTrigger

from autotrader.config import cron
from autotrader.config.settings import parse, template
from autotrader.core.errors import ConfigError
from autotrader.runner.schedule import by_cron

TOKYO = ZoneInfo("Asia/Tokyo")
NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)  # a Wednesday
LINE = re.compile(r'^(\w+) = "((?:[^\s"]+ ){4}[^\s"]+)" +# (.*)$', re.MULTILINE)
MEANT = re.compile(r"(?:cron: )?(\w+days|each day|the 1st of each month), (\d\d):(\d\d)")


def dues(trigger: CronTrigger, times: int) -> list[datetime]:
    found: list[datetime] = []
    while len(found) < times:
        last = found[-1] if found else None
        found.append(trigger.get_next_fire_time(last, NOW if last is None else last))
    return found


@pytest.mark.parametrize("kind", ["config", "sample"])
def test_every_line_of_the_templates_fires_when_its_comment_says(kind: str) -> None:
    lines = LINE.findall(template(kind))  # type: ignore[arg-type]
    assert {key for key, _, _ in lines} == {"schedule", "train", "evolve", "parity"} and len(lines) == 5
    for key, line, comment in lines:
        meant = MEANT.match(comment)
        assert meant is not None, f"{key}: the comment {comment!r} names no day and hour"
        day, hour, minute = meant.groups()
        trigger = by_cron(key, line, print, zone=TOKYO, grace_s=60).trigger
        assert isinstance(trigger, CronTrigger)
        fired = dues(trigger, 14)
        assert {(when.hour, when.minute, str(when.tzinfo)) for when in fired} == {
            (int(hour), int(minute), "Asia/Tokyo")
        }
        if day.endswith("days"):
            assert {f"{when:%A}s" for when in fired} == {day}
            assert {later - when for when, later in pairwise(fired)} == {timedelta(days=7)}
        elif day == "each day":
            assert {later - when for when, later in pairwise(fired)} == {timedelta(days=1)}
        else:
            assert {when.day for when in fired} == {1} and len({when.month for when in fired}) == 12


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 2 * * 0", "has the weekday '0'; numbers mean other days in a crontab than here: write sun"),
        ("0 2 * * 7", "write sun"),
        ("0 2 * * 1-5", "write mon,tue,wed,thu,fri"),
        ("0 2 * * 5-7", "write fri,sat,sun"),
        ("0 2 * * 0,6", "write sun,sat"),
        ("0 2 * * mon,3", "write mon,wed"),
        ("0 2 * * */2", "write sun,tue,thu,sat"),
        ("0 2 * * 9", "numbers mean other days"),
        ("0 2 * * sat-mon", "the weekday 'sat-mon', which must lie in mon-sun, in this order"),
        ("0 2 * * monday", "the weekday 'monday', which must lie in mon-sun"),
        ("0 2 13 * fri", "crontab runs on either, here both would have to hold: leave one of them *"),
        ("0 2 31 2 *", "names a day that never comes"),
        ("60 2 * * *", "has the minute '60', which must lie in 0-59"),
        ("0 2 0 * *", "has the day '0', which must lie in 1-31"),
        ("*/0 * * * *", "has the minute '*/0'"),
        ("0 2 ? * *", "has the day '?'"),
        ("@daily", "must have five fields, minute hour day month weekday"),
        ("0 0 2 * * sun", "must have five fields"),
    ],
)
@pytest.mark.parametrize("key", ["optimizer.schedule", "schedule.train", "backup.schedule"])
def test_a_line_copied_from_a_crontab_is_told_what_to_write(key: str, line: str, said: str) -> None:
    table, name = key.split(".")
    text = f'[{table}]\n{name} = "{line}"\n'
    with pytest.raises(ConfigError) as caught:
        parse(text, path=Path("config.toml"), env={})
    message = str(caught.value)
    assert message.startswith(f"config.toml: {key} = {line!r} ") and said in message and "\n" not in message


def edited(key: str, line: str) -> str:
    "The template with another line."
    text, times = re.subn(rf'^{key} = "[^"]*"', f'{key} = "{line}"', template(), flags=re.MULTILINE)
    assert times == 1
    return text


@pytest.mark.parametrize("line", ["0 2 * * SUN", "*/15 9-17 * jan,mar mon-fri/2", "0 0 last * *", "59 23 29 2 *"])
def test_what_both_understand_alike_is_taken(line: str) -> None:
    assert parse(edited("parity", line), path=Path("config.toml"), env={}).schedule.parity == line


def test_an_empty_line_switches_a_job_off_but_not_a_backup() -> None:
    assert parse(edited("train", ""), path=Path("config.toml"), env={}).schedule.train == ""
    backup = template().replace('schedule = "0 4 * * *"', 'schedule = ""')
    with pytest.raises(ConfigError, match=r"backup.schedule = '' must have five fields"):
        parse(backup, path=Path("config.toml"), env={})


def test_a_crontabs_names_are_found_by_counting_its_days() -> None:
    "The remedy in the message means the same days as the line it replaces, by crontab's own count."
    counted = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
    for first in range(8):
        for last in range(first, 8):
            with pytest.raises(ValueError, match="write ") as caught:
                cron.trigger(f"0 2 * * {first}-{last}", zone=UTC)
            remedy = str(caught.value).rpartition("write ")[2]
            fired = {f"{when:%a}".lower() for when in dues(cron.trigger(f"0 2 * * {remedy}", zone=UTC), 14)}
            assert fired == {counted[day % 7] for day in range(first, last + 1)}
