"""Labels: what a plain loop over the bars says; and nothing but a training can ask for them."""

import ast
import re
import time
from pathlib import Path

import numpy as np
import pytest
import series
from hypothesis import given, settings
from hypothesis import strategies as st

from autotrader.core.errors import ConfigError
from autotrader.core.market import Candles
from autotrader.features.columns import columns
from autotrader.features.labels import (
    CLASSES,
    CUT_OFF,
    fixed_horizon_labels,
    labels_of,
    triple_barrier_labels,
    whole_windows,
)

ROOT = Path(__file__).resolve().parents[2]
HOUR = 3_600_000


def walk(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    "High, low and close of a walk on a grid, so that thresholds are met exactly now and then."
    rng = np.random.default_rng(seed)
    close = 100.0 + np.cumsum(rng.integers(-2, 3, n)) % 40.0
    return close + rng.integers(0, 3, n), close - rng.integers(0, 3, n), close


def plain_fixed(close: np.ndarray, horizon: int, up: float, down: float) -> tuple[list[int], list[int]]:
    value, end = [], []
    for row in range(len(close)):
        if row + horizon >= len(close):
            value.append(-1)
            end.append(-1)
            continue
        grown = close[row + horizon] / close[row]
        value.append(2 if grown > 1 + up else 0 if grown < 1 + down else 1)
        end.append(row + horizon)
    return value, end


def plain_barriers(
    high: np.ndarray, low: np.ndarray, close: np.ndarray, horizon: int, up: float, down: float
) -> tuple[list[int], list[int]]:
    value, end = [], []
    for row in range(len(close)):
        if row + horizon >= len(close):
            value.append(-1)
            end.append(-1)
            continue
        said, at = 1, row + horizon
        for later in range(row + 1, row + horizon + 1):
            if low[later] <= close[row] * (1 + down):
                said, at = 0, later
                break
            if high[later] >= close[row] * (1 + up):
                said, at = 2, later
                break
        value.append(said)
        end.append(at)
    return value, end


cases = given(
    n=st.integers(0, 80),
    seed=st.integers(0, 10_000),
    horizon=st.integers(1, 30),
    up=st.sampled_from([0.005, 0.01, 0.02, 0.05]),
    down=st.sampled_from([-0.005, -0.01, -0.02, -0.05]),
)
many = settings(max_examples=series.length(60, soak=2_000))


@many
@cases
def test_the_return_over_the_horizon_is_what_a_loop_says(
    n: int, seed: int, horizon: int, up: float, down: float
) -> None:
    _, _, close = walk(n, seed)
    found = fixed_horizon_labels(close, horizon=horizon, up=up, down=down)
    assert (found.value.tolist(), found.end.tolist()) == plain_fixed(close, horizon, up, down)


@many
@cases
def test_the_first_barrier_touched_is_what_a_loop_says(n: int, seed: int, horizon: int, up: float, down: float) -> None:
    high, low, close = walk(n, seed)
    found = triple_barrier_labels(high, low, close, horizon=horizon, up=up, down=down)
    assert (found.value.tolist(), found.end.tolist()) == plain_barriers(high, low, close, horizon, up, down)


@many
@given(seed=st.integers(0, 10_000), horizon=st.integers(1, 6))
def test_a_window_is_whole_unless_it_ends_beyond_the_bars_or_spans_a_long_hole(seed: int, horizon: int) -> None:
    rng = np.random.default_rng(seed)
    open_ms = HOUR * np.cumsum(rng.choice([1, 1, 1, 1, 2, horizon + 1, horizon + 2, 50], 60))
    found = whole_windows(open_ms, bar_ms=HOUR, horizon=horizon)
    for row in range(60):
        fits = row + horizon < 60
        steps = np.diff(open_ms[row : row + horizon + 1]) // HOUR if fits else np.array([])
        assert found[row] == (fits and (steps - 1 <= horizon).all())


def test_the_document_s_labels_are_the_defaults() -> None:
    "24 bars, up 2, range 1, down 0 at two percent: of the return over the horizon, not of one bar (prior art §2B 3)."
    assert CLASSES == ("down", "range", "up")
    close = 100.0 * np.exp(np.cumsum(np.random.default_rng(0).normal(scale=0.006, size=3_000)))
    found = fixed_horizon_labels(close)
    grown = close[24:] / close[:-24] - 1.0
    counts = [int((grown < -0.02).sum()), int((np.abs(grown) <= 0.02).sum()), int((grown > 0.02).sum())]
    assert np.bincount(found.value[found.value >= 0]).tolist() == counts and min(counts) > 300
    assert (found.value == -1).sum() == 24 and (found.end[:-24] == np.arange(3_000 - 24) + 24).all()


def test_a_move_of_exactly_the_threshold_is_a_range_and_touches_a_barrier() -> None:
    for start in (100.0, 3.0, 0.7, 64_000.0):
        up, down = np.array([start, start * 1.02]), np.array([start, start * 0.98])
        assert fixed_horizon_labels(up, horizon=1).value[0] == fixed_horizon_labels(down, horizon=1).value[0] == 1
        assert triple_barrier_labels(up, up, up, horizon=1, up=0.02, down=-0.02).value[0] == 2
        assert triple_barrier_labels(down, down, down, horizon=1, up=0.02, down=-0.02).value[0] == 0


def test_the_last_bar_of_the_window_counts() -> None:
    "It did not in the original (prior art §2C 7)."
    close = np.full(4, 100.0)
    high = np.array([100.0, 100.0, 100.0, 103.0])
    found = triple_barrier_labels(high, close, close, horizon=3, up=0.02, down=-0.02)
    assert (found.value[0], found.end[0]) == (2, 3)


def test_of_both_barriers_in_one_bar_the_lower_counts() -> None:
    flat = np.full(2, 100.0)
    found = triple_barrier_labels(np.array([100.0, 110]), np.array([100.0, 90]), flat, horizon=1, up=0.02, down=-0.02)
    assert found.value[0] == 0


def candles_of(close: np.ndarray, open_ms: np.ndarray) -> Candles:
    prices = dict.fromkeys(("open", "high", "low", "close"), close)
    return Candles(venue="test", symbol="WALK", timeframe="1h", open_ms=open_ms, **prices, volume=np.ones(len(close)))


def test_labels_of_candles_leave_out_a_lost_week_and_keep_a_lost_hour() -> None:
    close = 100.0 * 1.001 ** np.arange(300)
    stamps = HOUR * np.arange(300)
    stamps[100:] += HOUR
    stamps[200:] += 168 * HOUR
    for label in ("fixed_horizon", "triple_barrier"):
        found = labels_of(candles_of(close, stamps), label=label)
        assert np.flatnonzero(found.value == -1).tolist() == [*range(176, 200), *range(276, 300)]
        assert set(found.value[found.value >= 0]) == {2}
        assert "300 bars: 0 down, 0 range, 252 up, 48 cut off" in repr(found)


@pytest.mark.parametrize("n", [0, 1, 24])
def test_too_few_bars_have_no_label(n: int) -> None:
    found = labels_of(candles_of(np.full(n, 5.0), HOUR * np.arange(n)))
    assert len(found) == n and (found.value == -1).all() and (found.end == -1).all()


@pytest.mark.parametrize(
    "given, said",
    [
        ({"horizon": 0}, "ml.prediction_horizon must be a whole number of bars from 1 on, was 0"),
        ({"horizon": 1.5}, "prediction_horizon must be a whole number"),
        ({"horizon": True}, "prediction_horizon must be a whole number"),
        ({"up": 0.0}, "threshold_down must lie between -1 and 0 and threshold_up above 0, were -0.02 and 0.0"),
        ({"up": -0.03}, "threshold_up above 0, were -0.02 and -0.03"),
        ({"down": -1.0}, "were -1.0 and 0.02"),
        ({"down": float("nan")}, "were nan and 0.02"),
        ({"up": float("inf")}, "were -0.02 and inf"),
        ({"label": "barriers"}, "ml.label 'barriers' is unknown"),
    ],
)
def test_what_gives_no_label_is_refused_in_one_line(given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        labels_of(candles_of(np.full(50, 5.0), HOUR * np.arange(50)), **given)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def imported(module: Path) -> set[str]:
    "Last names of the modules that one imports."
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom):
            found |= {(node.module or "").rpartition(".")[2], *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name.rpartition(".")[2] for alias in node.names}
    return found


def test_labels_are_no_columns_and_no_feature_or_strategy_reads_them() -> None:
    assert [spec.name for spec in columns().values() if Path(spec.origin).stem == "labels"] == []
    assert "register" not in (ROOT / "autotrader/features/labels.py").read_text()
    package = ROOT / "autotrader"
    named = [path for path in package.rglob("*.py") if "labels" in path.read_text()]
    readers = {str(path.relative_to(package)) for path in named if "labels" in imported(path)}
    below = re.compile(r"core|config|store|data|features|engine|validation|strategy|search|bots|runner")
    assert {name for name in readers if below.match(name)} == set()


@pytest.mark.parametrize("horizon", [200, 50_000_000])
def test_a_horizon_beyond_the_bars_labels_none_and_takes_no_time(horizon: int) -> None:
    close, begin_s = np.linspace(100.0, 110.0, 200), time.process_time()
    for found in (
        fixed_horizon_labels(close, horizon=horizon),
        triple_barrier_labels(close, close, close, horizon=horizon, up=0.02, down=-0.02),
    ):
        assert (found.value == CUT_OFF).all() and (found.end == -1).all()
    assert time.process_time() - begin_s < 1.0
