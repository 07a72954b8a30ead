"""A strategy is taken in every form wherever one is: a name, a function in a file, an object, a function in hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import autotrader as at
from autotrader.cli.main import app
from autotrader.config import logs
from autotrader.config.settings import load, write_template
from autotrader.core.errors import ConfigError
from autotrader.core.market import Candles
from autotrader.data.sample import eurusd
from autotrader.engine.signals import Signals

PRICES = eurusd()[:900]
IDEA = """
import autotrader as at


def rising(bars, *, look=20):
    "Buys what rose, sells what fell."
    up, down = bars.close > bars.open * (1 + look * 1e-5), bars.close < bars.open * (1 - look * 1e-5)
    return at.from_rules(long=up, short=down, exit_long=down, exit_short=up)


mine = at.own(lambda bars: rising(bars), warmup=20)
"""


def rising(bars: Candles, *, look: int = 20) -> Signals:
    "Buys what rose, sells what fell."
    up, down = bars.close > bars.open * (1 + look * 1e-5), bars.close < bars.open * (1 - look * 1e-5)
    return at.from_rules(long=up, short=down, exit_long=down, exit_short=up)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_template(tmp_path, kind="sample")
    (tmp_path / "idea.py").write_text(IDEA)
    cell = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None, "id": "a", "source": IDEA}
    (tmp_path / "idea.ipynb").write_text(
        json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


FORMS: dict[str, Any] = {
    "function": rising,
    "object": at.own(rising, warmup=20),
    "file": "idea.py:rising",
    "notebook": "idea.ipynb:rising",
}


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_every_form_is_checked_played_rehearsed_varied_and_walked(form: Any, desk: Path) -> None:
    alone = at.backtest(at.own(rising, warmup=0), PRICES)
    assert at.check(form, PRICES[:300]).is_clean
    assert at.backtest(form, PRICES).stats.pnl == alone.stats.pnl
    assert at.rehearse(form, PRICES[:300], progress=False).is_sound
    swept = at.sweep(form, PRICES, {"look": [10, 20]}, progress=False)
    assert swept.table.loc[1, "pnl"] == alone.stats.pnl
    walked = at.walkforward(form, eurusd()[:2_000], {"look": [10, 20]}, train_days=60, test_days=20, progress=False)
    assert len(walked.steps) > 0


@pytest.mark.parametrize("form", ["ema_trend", "idea.py:rising", "idea.ipynb:rising", "idea.py:mine"])
def test_show_check_and_bot_take_the_same_words(form: str, desk: Path) -> None:
    shown = said("show", form, "--json")
    assert shown["warmup"] >= 0 and (form == "idea.py:mine" or shown["parameters"])
    if "rising" in form:
        assert shown["about"] == "Buys what rose, sells what fell"
        assert shown["parameters"] == [{"name": "look", "default": 20}]
    assert said("check", form, "--bars", "60", "--json")["verdict"] == "clean"
    told = said("bot", form, "--venue", "sample", "--symbol", "EURUSD", "--id", "bot_X", "--json")
    assert told["bot"] == "bot_X" and load(desk / "config.toml").sub_bots[-1].decision.strategy.endswith(form)


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ("emma_trend", "strategy 'emma_trend' is unknown: did you mean 'ema_trend'"),
        ("nowhere.py:rule", "nowhere.py: there is no such file"),
        ("idea.py", "idea.py: which function? write idea.py:NAME"),
        ("idea.py:risng", "strategy in idea.py 'risng' is unknown: did you mean 'rising'"),
        ("idea.ipynb:risng", "strategy in idea.ipynb 'risng' is unknown: did you mean 'rising'"),
    ],
)
def test_a_strategy_that_is_none_is_told_alike_everywhere(form: str, told: str, desk: Path) -> None:
    for words in (("show", form), ("check", form), ("bot", form, "--symbol", "EURUSD", "--venue", "sample")):
        ended = ask(*words)
        assert ended.exit_code != 0 and told in str(ended.exception), words
    doors: list[Callable[..., Any]] = [at.check, at.backtest, at.rehearse]
    for door in doors:
        with pytest.raises(ConfigError) as raised:
            door(form, PRICES)
        assert told in str(raised.value)
    for search in (at.sweep, at.walkforward):
        with pytest.raises(ConfigError) as raised:
            search(form, PRICES, {"look": [1, 2]}, progress=False)
        assert told in str(raised.value)


def test_a_function_of_parameters_still_makes_strategies() -> None:
    def maker(look: int) -> Any:
        return at.own(rising, warmup=look, params={"look": look})

    found = at.sweep(maker, PRICES, {"look": [10, 20]}, progress=False)
    alone = at.backtest(maker(20), PRICES)
    assert found.table.loc[1, "pnl"] == alone.stats.pnl
    stops = at.sweep(rising, PRICES, {"sl_ratio": [1, 3]}, progress=False)
    assert len(stops.table) == 2


def ask(*words: str) -> Any:
    try:
        return CliRunner().invoke(app, ["strategy", *words])
    finally:
        logs.shutdown()


def said(*words: str) -> Any:
    ended = ask(*words)
    assert ended.exit_code == 0, ended.output + str(ended.exception)
    return json.loads(ended.stdout)
