"""What pictures of a model count and say."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotrader.core.errors import DataError
from autotrader.plots.model import confusion_svg, contributions_svg, edge_svg, importances_svg, reliability_svg

CLASSES = ("down", "range", "up")
DAY = 86_400_000


def pictures(features: int = 5, months: int = 6, bins: int = 10, seed: int = 7) -> list[str]:
    rng = np.random.default_rng(seed)
    begin = 1_741_392_000_000 + 30 * DAY * np.arange(months)
    names = [f"feature_{i}" for i in range(features)]
    said = np.sort(rng.uniform(0, 1, (3, bins)), axis=1)
    values = rng.normal(size=(200, features))
    values[:20, 0] = np.nan
    return [
        edge_svg(begin, begin + 30 * DAY, rng.normal(0, 0.01, months), borders_ms=begin[1:2], title="x"),
        reliability_svg(said, said**1.1, np.full((3, bins), 9), classes=CLASSES, title="x"),
        confusion_svg(rng.integers(0, 99, (3, 3)) + 1, classes=CLASSES, title="x"),
        importances_svg(names, rng.uniform(0, 1, features), rng.normal(0, 0.01, features), title="x"),
        contributions_svg(names, values, rng.normal(0, 0.1, values.shape), of="up", title="x"),
    ]


@settings(max_examples=25)
@given(features=st.integers(1, 30), months=st.integers(1, 40), bins=st.integers(1, 12), seed=st.integers(0, 2**20))
def test_whatever_the_sizes_each_is_drawn(features: int, months: int, bins: int, seed: int) -> None:
    for picture in pictures(features, months, bins, seed):
        assert "nan" not in picture and ET.fromstring(picture) is not None


def test_the_edge_counts_stretches_above_zero_and_says_the_mean() -> None:
    begin = DAY * np.arange(4)
    told = edge_svg(begin, begin + DAY, np.array([0.1, -0.2, 0.3, 0.0]), title="x")
    assert "better in 2 of 4 stretches" in told and "by +0.0500 in the mean" in told
    assert told.count('class="at-gain"') == told.count('class="at-loss"') == 1


def test_a_confusion_matrix_adds_up_by_rows() -> None:
    told = confusion_svg(np.array([[1, 3, 0], [0, 4, 0], [0, 0, 0]]), classes=CLASSES, title="x")
    assert [told.count(f">{part}<") for part in ("25 %", "75 %", "100 %", "0 %")] == [1, 1, 1, 6]


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(DataError, match="importances needs finite numbers"):
        importances_svg(["a"], np.array([np.nan]), np.array([0.0]), title="x")
    with pytest.raises(DataError, match="contributions needs finite numbers"):
        contributions_svg(["a"], np.array([[1.0]]), np.array([[np.inf]]), of="up", title="x")
    with pytest.raises(DataError, match="one number per stretch"):
        edge_svg(np.array([0, 0]), np.array([1, 1]), np.array([0.1, 0.2]), title="x")
