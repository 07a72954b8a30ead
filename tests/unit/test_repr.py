"""What a notebook prints of a thing is two lines at most, says what it is, and dumps no arrays."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest

import autotrader as at
from autotrader.core.market import Candles
from autotrader.data.sample import eurusd
from autotrader.search.grid import explore
from autotrader.search.ranges import as_ranges
from autotrader.search.task import task_of
from autotrader.search.walkforward import walk

SHORTEST, LONGEST = 10, 420


@pytest.fixture(scope="module")
def things() -> list[tuple[str, Any]]:
    "What people hold in a notebook, with all that hangs on it."
    candles: Candles = eurusd()[:3_000]
    up = candles.close > candles.open
    task = task_of("rsi_reversion", candles)
    result = at.backtest("ema_trend", candles)
    found = explore(task_of("ema_trend", candles), {"fast": range(5, 60), "costs.stress": [1, 2]}, threads=2)
    walked = walk(task_of("rsi_reversion", eurusd()), {"period": range(7, 28)}, train_days=120, test_days=60)
    return [
        ("candles", candles),
        ("signals", at.from_rules(long=up, short=~up, exit_long=~up, exit_short=up)),
        ("result", result),
        ("run", result.run),
        ("part", result.part),
        ("task", task),
        ("market", task.market),
        ("grid", found),
        ("plateau", found.plateau),
        ("book", found.book),
        ("sweep", at.sweep("ema_trend", candles, {"fast": "5:20", "slow": "30:99"}, samples=30, progress=False)),
        ("ranges", as_ranges({"fast": range(5, 300), "slow": range(300, 600, 3)})),
        ("walk", walked),
        ("step", walked.steps[0]),
        (
            "forward",
            at.walkforward("ema_trend", eurusd(), {"fast": [5, 9]}, train_days=150, test_days=60, progress=False),
        ),
        ("column", at.column("rsi")),
    ]


def test_a_thing_is_told_in_two_lines_without_arrays(things: list[tuple[str, Any]]) -> None:
    for name, thing in things:
        told = repr(thing)
        assert told.count("\n") < 2 and "array(" not in told, (name, told[:300])
        assert SHORTEST < len(told) <= LONGEST, (name, len(told), told[:300])


def test_what_it_says_is_of_this_one(things: list[tuple[str, Any]]) -> None:
    of = dict(things)
    assert f"{len(of['signals']):,} bars: {int((of['signals'].direction > 0).sum()):,} long" in repr(of["signals"])
    assert repr(of["grid"]) == "GridResult(ema_trend on EURUSD: 21 of 55 combinations, by sharpe)"
    assert f"{len(of['run'].fills):,} fills" in repr(of["run"])
    assert repr(of["ranges"].axes[0]) == "Axis(fast: 5 … 299, 295 values)"
    assert f"{len(of['walk'].steps)} windows of 21 combinations" in repr(of["walk"])


def arrays_of(thing: Any) -> Iterator[str]:
    for each in fields(thing) if is_dataclass(thing) else ():
        if isinstance(getattr(thing, each.name), np.ndarray):
            yield each.name


def test_a_plain_dataclass_with_arrays_would_be_noticed(things: list[tuple[str, Any]]) -> None:
    held = {name: list(arrays_of(thing)) for name, thing in things}
    assert {"signals", "run", "plateau", "book"} <= {name for name, arrays in held.items() if arrays}
