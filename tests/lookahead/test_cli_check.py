"""`autotrader strategy` as a person and a script meet it."""

import json
import os
import subprocess
from pathlib import Path

import forked
import pytest

RULES = """
import numpy as np
import autotrader as at

LOOK = 3
print('an idea')

def rules(up):
    return at.from_rules(long=up, short=up & False, exit_long=~up, exit_short=up & False)

def honest(bars):
    return rules(np.diff(bars.close, n=1, prepend=bars.close[:1]) > 0)

def tomorrow(bars):
    print('asked about', len(bars))
    return rules(np.append(bars.close[1:], bars.close[-1]) > bars.close)

def broken(bars):
    return rules(bars.close > bars.sentiment)

known = at.own(honest, warmup=LOOK)
number = 7
"""
CELLS = [
    "%matplotlib inline\nraise RuntimeError('a cell the rule does not need')",
    RULES,
    "result = at.backtest(known, at.load('BTCUSDT'))  # nothing is stored here",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "idea.py").write_text(RULES)
    cells = [{"cell_type": "markdown", "source": ["# An idea"]}]
    cells += [{"cell_type": "code", "source": text.splitlines(keepends=True)} for text in CELLS]
    (tmp_path / "idea.ipynb").write_text(json.dumps({"cells": cells, "nbformat": 4, "nbformat_minor": 5}))
    return tmp_path


def strategy(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AUTOTRADER__", "BYBIT_"))}
    return forked.command("strategy", *words, cwd=folder, env=clean)


def test_a_clean_template_ends_with_0_and_needs_nothing_stored(folder: Path) -> None:
    done = strategy(folder, "check", "donchian_breakout", "--to", "2017-06-01")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("donchian_breakout(channel=20, exit_channel=10): clean")
    assert len(done.stdout.splitlines()) <= 12


@pytest.mark.parametrize("file", ["idea.py", "idea.ipynb"])
def test_a_cheat_of_ones_own_ends_with_1_and_names_the_bar(folder: Path, file: str) -> None:
    done = strategy(folder, "check", f"{file}:tomorrow", "--to", "2017-05-10", "--json")
    assert (done.returncode, done.stderr) == (1, "an idea\n" if file.endswith("py") else "")
    told = json.loads(done.stdout)
    assert (told["strategy"], told["verdict"]) == ("tomorrow", "looks ahead")
    assert told["offence"]["bar"] < 10
    assert told["offence"]["open"].startswith("2017-04-19")


@pytest.mark.parametrize("file", ["idea.py", "idea.ipynb"])
def test_an_honest_function_brings_the_warm_up_its_file_gives_it(folder: Path, file: str) -> None:
    done = strategy(folder, "check", f"{file}:known", "--to", "2017-05-10", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["warmup"]["declared"] == 3


def test_a_bot_brings_its_bars_and_its_parameters(folder: Path, root: Path) -> None:
    (folder / "config.toml").write_text(
        (root / "nbs/05_config/sample.toml").read_text().replace("channel = 20 ", "channel = 30 ")
    )
    done = strategy(folder, "check", "donchian_breakout", "--bot", "sub_bot_C", "--bars", 50)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("donchian_breakout(channel=30, exit_channel=10): clean")


def test_the_list_and_the_parameters_are_shown(folder: Path) -> None:
    done = strategy(folder, "list")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("ema_trend", "rsi_reversion", "donchian_breakout"))
    told = json.loads(strategy(folder, "show", "ema_trend", "--json").stdout)
    assert [each["name"] for each in told["parameters"]] == ["fast", "slow", "gap_atr", "atr_period"]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("check", "ema_trned"), "did you mean 'ema_trend'"),
        (("show", "ema_trned"), "did you mean 'ema_trend'"),
        (("check", "nowhere.py:rule"), "nowhere.py: there is no such file"),
        (("check", "idea.py"), "write idea.py:NAME"),
        (("check", "idea.py:honets"), "did you mean 'honest'"),
        (("check", "idea.ipynb:honets"), "did you mean 'honest'"),
        (("check", "idea.py:number"), "number is a int, not a function"),
        (("check", "idea.py:broken"), "broken raised AttributeError at idea.py:19, asked about 1 bar: "),
        (("check", "idea.ipynb:result"), "idea.ipynb, code cell 3, line 1: "),
        (("check", "ema_trend", "--symbol", "BTCUSDT"), "config.toml"),
        (("check", "ema_trend", "--from", "2018-01-01", "--to", "2017-06-01"), "--from must be before --to"),
        (("check", "ema_trend", "--to", "2017-04-20"), "take a longer period"),
        (("check", "ema_trend", "--warmup", 5), "leave --warmup out"),
    ],
)
def test_wrong_input_gets_one_line(folder: Path, words: tuple[object, ...], what: str) -> None:
    done = strategy(folder, *words)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = [line for line in done.stderr.splitlines() if line != "an idea"]
    assert line.startswith("autotrader: ")
    assert what in line
