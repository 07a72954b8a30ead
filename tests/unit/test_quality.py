"""The report finds what was planted, and nothing where nothing was; it never changes a bar."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotrader.core.errors import DataError, GapError
from autotrader.core.market import COLUMNS, Candles
from autotrader.data.quality import report, require

HOUR = 3_600_000


def series(n: int = 400, *, seed: int = 0, bar_ms: int = HOUR, timeframe: str = "1h") -> Candles:
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(scale=0.003, size=n)))
    open_ = np.r_[100.0, close[:-1]]
    return Candles(
        venue="x",
        symbol="AB",
        timeframe=timeframe,
        open_ms=bar_ms * np.arange(n, dtype=np.int64),
        open=open_,
        high=np.maximum(open_, close) * 1.001,
        low=np.minimum(open_, close) * 0.999,
        close=close,
        volume=rng.uniform(1, 2, n),
    )


def without(candles: Candles, bars: list[int]) -> Candles:
    return replace(candles, **{name: np.delete(getattr(candles, name), bars) for name in ("open_ms", *COLUMNS)})


def planted(candles: Candles, column: str, bars: list[int], value: float) -> Candles:
    changed = getattr(candles, column).copy()
    changed[bars] = value
    return replace(candles, **{column: changed})


@pytest.mark.parametrize("timeframe", ["1m", "1h", "1d"])
def test_a_clean_series_has_no_findings(timeframe: str) -> None:
    bar_ms = {"1m": 60_000, "1h": HOUR, "1d": 24 * HOUR}[timeframe]
    clean = report(series(bar_ms=bar_ms, timeframe=timeframe))
    assert clean.findings == ()
    assert "no gaps" in str(clean)
    require(clean)


@given(st.sets(st.integers(1, 398), min_size=1, max_size=60))
def test_every_missing_bar_is_counted_and_every_hole_is_placed(gone: set[int]) -> None:
    found = report(without(series(), sorted(gone)))
    gap, partial = found.find("gap"), found.find("partial")
    assert gap is not None and partial is not None
    assert gap.missing == len(gone)
    before = [b for b in range(400) if b not in gone and b + 1 in gone]
    kept = [b for b in range(400) if b not in gone]
    assert [kept[i] for i in gap.bars] == before
    after = [b for b in range(400) if b not in gone and b - 1 in gone]
    assert {kept[i] for i in partial.bars} == {*before, *after}
    with pytest.raises(GapError, match=f"{len(gone)} bars? missing in {len(before)} hole"):
        require(found)
    require(found, allow_gaps=True)


def test_stamps_that_slid_off_the_grid_are_not_reported_as_holes() -> None:
    slid = series()
    slid = replace(slid, open_ms=slid.open_ms + np.where(np.arange(400) >= 300, 14_789, 0))
    found = report(slid)
    assert found.find("gap") is None
    off = found.find("off_grid")
    assert off is not None and list(off.bars) == list(range(300, 400))
    with pytest.raises(DataError, match=r"100 stamps off the 1h grid \(first 1970-01-13T12:00:14.789Z\)"):
        require(found, allow_gaps=True)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("close", np.nan),
        ("open", 0.0),
        ("low", -1.0),
        ("high", 1.0),
        ("low", 1e9),
        ("volume", -1.0),
        ("volume", np.nan),
    ],
)
def test_an_impossible_bar_is_named_and_has_no_permission(column: str, value: float) -> None:
    found = report(planted(series(), column, [17, 30], value))
    bad = found.find("impossible")
    assert bad is not None and list(bad.bars) == [17, 30]
    with pytest.raises(DataError, match=r"2 impossible bars.*1970-01-01T17:00:00Z"):
        require(found, allow_gaps=True)


def test_duplicates_and_disorder_are_named() -> None:
    whole = series()
    rows = np.r_[0:10, 9, 10:20, 15, 20:400]
    mixed = replace(whole, **{name: getattr(whole, name)[rows] for name in ("open_ms", *COLUMNS)})
    order = report(mixed).find("order")
    assert order is not None and list(order.bars) == [10, 21] and "2 of them twice" in order.text


@given(st.integers(1, 398), st.sampled_from([0.5, 2.0]))
def test_a_wild_bar_is_marked_and_kept(at: int, factor: float) -> None:
    calm = series()
    column = "high" if factor > 1 else "low"
    wild = planted(calm, column, [at], float(calm.close[at] * factor))
    found = report(wild)
    spike = found.find("spike")
    assert spike is not None and list(spike.bars) == [at]
    assert not spike.is_blocking
    require(found)


def test_bars_without_volume_are_counted_with_their_longest_run() -> None:
    still = report(planted(series(), "volume", [5, 6, 7, 100], 0.0)).find("no_volume")
    assert still is not None and not still.is_blocking
    assert still.text.startswith("4 bars without volume, longest run 3")


def test_a_report_changes_nothing_and_reads_in_a_notebook_too() -> None:
    torn = without(planted(series(), "volume", [5], 0.0), [50])
    before = [getattr(torn, name).tobytes() for name in ("open_ms", *COLUMNS)]
    found = report(torn)
    assert [getattr(torn, name).tobytes() for name in ("open_ms", *COLUMNS)] == before
    assert re.search(r">gap</td><td[^>]*>refused</td>", found._repr_html_())
    assert len(found.lines()) == 4 and all("\n" not in line for line in found.lines())
