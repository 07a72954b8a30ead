"""A column of one's own is one file: dropped into the package it is there for rules, sweeps, charts and every test of this folder."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import autotrader as at
from autotrader import features
from autotrader.core.market import Floats
from autotrader.data.sample import eurusd
from autotrader.engine.signals import Signals, from_rules
from autotrader.features import columns as registry
from autotrader.strategy.charts import open_chart
from autotrader.strategy.check import check
from autotrader.strategy.source import strategy_from
from autotrader.strategy.templates import Reading, Template, decide, explain

HERE = Path(__file__).parent
GAP = '''
"""How far a bar reaches beyond the one before: a file somebody added, and nothing else."""

import numpy as np

from autotrader.core.market import Floats
from autotrader.features.columns import Scale, register
from autotrader.features.parameters import Parameter


@register(
    inputs=("high", "low"),
    parameters=(Parameter(name="period", low=2, high=200, default=10, about="bars"),),
    warmup=lambda period: period,
    scale=Scale.PERCENT,
)
def reach(high: Floats, low: Floats, period: int) -> Floats:
    "share of the last bars that reached above the one before, percent"
    above = np.concatenate([[0.0], high[1:] > high[:-1]])
    total = np.cumsum(above)
    share = np.full(len(high), np.nan)
    share[period:] = 100.0 * (total[period:] - total[:-period]) / period
    return share
'''
PEEK = GAP.replace("reach", "peek").replace(
    "np.cumsum(above)", "np.cumsum(np.roll(above, -1))"
)  # each knows the next bar
RULE = """
import autotrader as at


def climb(bars, *, period=10, level=60.0):
    share = at.compute("reach", bars, period=period)
    return at.from_rules(long=share > level, short=share < 100.0 - level, exit_long=share < 50.0, exit_short=share > 50.0)


mine = at.own(climb, warmup=lambda period, level: at.column("reach").warmup(period=period))
"""


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more_columns: None) -> Iterator[None]:
    "One more file among the modules of `features`, in this process."
    (tmp_path / "reach.py").write_text(GAP)
    monkeypatch.setattr(features, "__path__", [*features.__path__, str(tmp_path)])
    registry._load_house.cache_clear()
    yield
    sys.modules.pop("autotrader.features.reach", None)
    registry._load_house.cache_clear()


def test_a_file_among_the_features_is_a_column_for_everything(added: None, tmp_path: Path) -> None:
    (tmp_path / "climb.py").write_text(RULE)
    climb, candles = strategy_from(f"{tmp_path / 'climb.py'}:mine"), eurusd()[:1500]
    assert (at.column("reach").label(period=5), climb.warmup) == ("reach_5", 10)
    assert np.isnan(at.compute("reach", candles)[:10]).all() and not decide(climb, candles).direction[:10].any()
    assert at.backtest(climb, candles).stats.trades > 20
    swept = at.sweep(climb, candles, {"period": [4, 40], "level": [55.0, 80.0]})
    assert swept.table["trades"].nunique() == 4
    assert check(climb, candles, bars=300).is_clean


class Climb(Template):
    "The same as a template, which a chart can ask what it reads."

    name: ClassVar[str] = "climb"

    def reads(self) -> dict[str, Reading]:
        return {"share": ("reach", {"period": 5})}

    def rules(self, seen: Mapping[str, Floats]) -> Signals:
        up = seen["share"] > 60.0
        return from_rules(long=up, short=~up, exit_long=~up, exit_short=up)


def test_a_template_reads_draws_and_explains_it_by_name(added: None, tmp_path: Path) -> None:
    candles = eurusd()[:300]
    page = open_chart(Climb(), candles, path=tmp_path / "chart.html").read_text(encoding="utf-8")
    assert "share: reach(5)" in page
    assert explain(Climb(), candles, 100)["reach_5"] == at.compute("reach", candles, period=5)[100]


@pytest.fixture
def house(tmp_path: Path) -> Path:
    "A copy of the package and of this folder's tests of all columns."
    package = Path(at.__file__).parent
    shutil.copytree(package, tmp_path / "autotrader", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("conftest.py", "harness.py", "test_columns.py"):
        shutil.copy(HERE / name, tmp_path / name)
    return tmp_path


def test_what_is_dropped_in_is_looked_at_like_the_rest(house: Path) -> None:
    (house / "autotrader" / "features" / "reach.py").write_text(GAP)
    (house / "autotrader" / "features" / "peek.py").write_text(PEEK)
    env = os.environ | {"PYTHONPATH": str(house)}
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_columns.py", "-k", "reach or peek"]
    done = subprocess.run(words, cwd=house, env=env, capture_output=True, text=True, timeout=300, check=False)
    failed = set(re.findall(r"^FAILED test_columns.py::(\S+)", done.stdout, re.M))
    assert {
        f"test_no_bar_of_a_column_knows_the_future[peek-{kind}]" for kind in ("quick", "usual")
    } <= failed, done.stdout
    assert not [test for test in failed if "reach" in test] and " passed" in done.stdout
