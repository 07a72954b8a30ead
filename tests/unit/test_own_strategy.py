"""An idea in somebody's notebook, on its way to a bot: the same function decides in the notebook, the backtest and the rehearsal."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import forked
import pytest

from autotrader.config.settings import find_bot, load, write_template
from autotrader.core.market import Candles
from autotrader.data.sample import eurusd
from autotrader.desk.backtest import backtest
from autotrader.engine.signals import Signals, from_rules
from autotrader.strategy.source import strategy_from
from autotrader.strategy.templates import make, own, vary

IDEA = """
import autotrader as at
from momentum_of import move_of

GATE = 0.004

def momentum(bars, *, look=24, gate=GATE):
    move = move_of(bars.close, look)
    return at.from_rules(long=move > gate, short=move < -gate, exit_long=move < 0, exit_short=move > 0)

mine = at.own(momentum, warmup=lambda look, gate: look)
"""
HELPER = """
import numpy as np

def move_of(close, look):
    move = np.zeros(len(close))
    move[look:] = close[look:] / close[:-look] - 1
    return move
"""


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    "A folder with a configuration for the embedded sample, and a notebook in another one."
    write_template(tmp_path, kind="sample")
    told(tmp_path, "db", "upgrade")
    (tmp_path / "ideas").mkdir()
    (tmp_path / "ideas" / "momentum_of.py").write_text(HELPER)
    cells = [{"cell_type": "code", "source": text} for text in (IDEA, "raise RuntimeError('an experiment')")]
    (tmp_path / "ideas" / "idea.ipynb").write_text(json.dumps({"cells": cells, "nbformat": 4, "nbformat_minor": 5}))
    return tmp_path


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("AUTOTRADER__", "BYBIT_"))}
    env["AUTOTRADER_OFFLINE"] = "1"
    return forked.command(*words, cwd=folder, env=env)


def told(folder: Path, *words: str) -> Any:
    done = run(folder, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_idea_in_a_notebook_becomes_a_bot_that_does_the_same(desk: Path) -> None:
    before = (desk / "config.toml").read_text()
    told(desk, "strategy", "bot", "ideas/idea.ipynb:mine", "--symbol", "EURUSD", "--venue", "sample")
    bot = find_bot(load(desk / "config.toml", environ={}), "momentum")
    assert bot.strategy_params.own == {"look": 24, "gate": 0.004}
    assert set(before.splitlines()) < set((desk / "config.toml").read_text().splitlines()), "comments and bots stay"

    played = told(desk, "backtest", "--bot", "momentum")["bots"][0]
    lived = told(desk, "rehearse", "--bot", "momentum")
    here = backtest(
        strategy_from(f"{desk}/ideas/idea.ipynb:mine"),
        eurusd(),
        bot={"name": "momentum", "id": "momentum", "sizing": "equity_frac", "equity_frac": 0.5},
        costs=load(desk / "config.toml", environ={}).backtest.model_dump(),
    )
    assert played["strategy"] == "momentum"
    assert played["trades"] == here.stats.trades > 20
    assert played["pnl"] == pytest.approx(here.stats.pnl, abs=1e-8)
    assert lived["bots"][0]["pnl"] == pytest.approx(played["pnl"], abs=1e-8)
    assert lived["parity"]["momentum"]["decision"]["exact"]


def test_what_the_bot_is_told_to_choose_reaches_the_function(desk: Path) -> None:
    told(desk, "strategy", "bot", "ideas/idea.ipynb:mine", "--symbol", "EURUSD", "--venue", "sample", "--id", "picky")
    as_it_is, choosier = (
        told(desk, "backtest", "--bot", "picky", *words)["bots"][0]["trades"]
        for words in ((), ("--set", "strategy_params.gate=0.02"))
    )
    assert choosier < as_it_is
    wrong = run(desk, "backtest", "--bot", "picky", "--set", "strategy_params.lok=120")
    assert wrong.returncode == 2 and "parameter of momentum 'lok' is unknown: did you mean 'look'" in wrong.stderr


def test_a_file_that_went_missing_is_one_line(desk: Path) -> None:
    told(desk, "strategy", "bot", "ideas/idea.ipynb:mine", "--symbol", "EURUSD", "--venue", "sample")
    (desk / "ideas" / "idea.ipynb").unlink()
    gone = run(desk, "backtest", "--bot", "momentum")
    assert gone.returncode == 2 and "idea.ipynb: there is no such file" in gone.stderr
    assert "Traceback" not in gone.stderr


def test_a_second_bot_of_the_same_name_is_refused_and_the_file_stays(desk: Path) -> None:
    before = (desk / "config.toml").read_bytes()
    taken = ("strategy", "bot", "ideas/idea.ipynb:mine", "--symbol", "EURUSD", "--venue", "sample", "--id", "sub_bot_A")
    assert run(desk, *taken).returncode == 2
    assert (desk / "config.toml").read_bytes() == before


def rule(candles: Candles, *, above: float = 1.0, name: str = "not a number", flag: bool = True) -> Signals:
    up = candles.close > above
    return from_rules(long=up, short=~up, exit_long=~up, exit_short=up)


def test_only_numbers_of_a_function_are_parameters() -> None:
    assert own(rule, warmup=0).params == {"above": 1.0}


def test_varying_one_parameter_keeps_the_others() -> None:
    assert vary(make("ema_trend", {"slow": 50}), {"fast": 20}) == make("ema_trend", {"fast": 20, "slow": 50})


READER = """
import autotrader as at

def follows_days(bars):
    days = bars.other("EURUSD", "1d")
    rise = at.aligned(days.close > days.open, days, bars)
    return at.from_rules(long=rise, short=~rise, exit_long=~rise, exit_short=rise)

mine = at.own(follows_days, warmup=96)
"""


def test_an_idea_that_reads_another_series_becomes_a_bot_that_reads_it(desk: Path) -> None:
    (desk / "ideas" / "reader.py").write_text(READER)
    market, days = ("--symbol", "EURUSD", "--venue", "sample"), ("--also", "EURUSD 1d")
    assert told(desk, "strategy", "check", "ideas/reader.py:mine", *market, *days)["verdict"] == "clean"
    told(desk, "strategy", "bot", "ideas/reader.py:mine", *market, *days)
    assert 'also = ["EURUSD 1d"]' in (desk / "config.toml").read_text()
    bot = find_bot(load(desk / "config.toml", environ={}), "follows_days")
    assert bot.also_series == (("sample", "EURUSD", "1d"),)
    played = told(desk, "backtest", "--bot", "follows_days")["bots"][0]
    assert played["trades"] > 20
    assert [each["series"] for each in played["beside"]] == ["sample EURUSD 1d"]
    months = ("--from", "2017-06-01", "--to", "2017-09-01")
    lived = told(desk, "rehearse", "--bot", "follows_days", *months)
    assert lived["bots"][0]["trades"] > 5 and lived["parity"]["follows_days"]["model"]["equal"]
    assert told(desk, "strategy", "check", "ideas/reader.py:mine", "--bot", "follows_days")["verdict"] == "clean"

    without = run(desk, "strategy", "check", "ideas/reader.py:mine", *market)
    assert (without.returncode, len(without.stderr.strip().splitlines())) == (2, 1)
    assert "EURUSD 1d is not beside sample EURUSD 1h: there is nothing" in without.stderr
    twice = run(desk, "strategy", "check", "ideas/reader.py:mine", "--bot", "follows_days", *days)
    assert twice.returncode == 2
    assert "has series of its own: leave --also out" in twice.stderr
