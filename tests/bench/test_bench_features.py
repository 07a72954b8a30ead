"""P5: a year of minutes through the feature set, and one new bar, beside the same definitions in plain pandas in the same run."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from plain_features import PLAIN, frame_of

from autotrader.core.clock import parse_time
from autotrader.core.market import Candles, Floats
from autotrader.features.feature_set import (
    BLOCK_BARS,
    FEATURES,
    RUN_IN_BARS,
    SHORT_RUN_IN_BARS,
    feature_matrix,
    newest_features,
)

YEAR, TURNS = 525_600, 15
CHOSEN = [each for each in FEATURES if each.label in PLAIN]


def took(work: Callable[[], Any]) -> tuple[float, Any]:
    "CPU seconds and what came of it: the machine may be busy with other things."
    begun = time.process_time()
    found = work()
    return time.process_time() - begun, found


@pytest.fixture(scope="module")
def year() -> Candles:
    rng = np.random.default_rng(0)
    close = 60_000 * np.exp(np.cumsum(rng.normal(0, 0.0007, YEAR)))
    opens = np.r_[60_000.0, close[:-1]]
    reach = np.abs(rng.normal(0, 0.0003, (2, YEAR))) * close
    return Candles(
        venue="test",
        symbol="BTCUSDT",
        timeframe="1m",
        open_ms=parse_time("2024-07-01") + np.arange(YEAR, dtype=np.int64) * 60_000,
        open=opens,
        high=np.maximum(opens, close) + reach[0],
        low=np.minimum(opens, close) - reach[1],
        close=close,
        volume=rng.lognormal(3, 1, YEAR),
        extras={
            "funding_rate": np.repeat(rng.normal(1e-4, 1e-4, YEAR // 8 + 1), 8)[:YEAR],
            "open_interest": 1e5 * np.exp(np.cumsum(rng.normal(0, 0.0005, YEAR))),
        },
    )


def agree(ours: Floats, theirs: Floats, open_ms: np.ndarray) -> bool:
    "Where a block has run long enough that averages have forgotten where they began; running sums of a year drift in pandas."
    late = (open_ms // 60_000) % BLOCK_BARS >= 900
    late[: 2 * RUN_IN_BARS] = False
    size = np.nanstd(theirs[late])
    return bool(np.nanmax(np.abs(ours[late] - theirs[late])) <= 1e-3 * size)


def test_a_year_of_minutes_beside_pandas(year: Candles, capsys: pytest.CaptureFixture[str]) -> None:
    import pandas as pd

    feature_matrix(year[:5_000])  # TA-Lib is loaded
    frame, rows = frame_of(year), []
    whole = min(took(lambda: feature_matrix(year))[0] for _ in range(2))
    ours = min(took(lambda: feature_matrix(year, CHOSEN))[0] for _ in range(2))
    theirs = min(took(lambda: pd.DataFrame({label: form(frame) for label, form in PLAIN.items()}))[0] for _ in range(2))
    for each in CHOSEN:
        alone, matrix = took(lambda each=each: feature_matrix(year, [each]))
        plain, values = took(lambda each=each: PLAIN[each.label](frame).to_numpy())
        rows.append((plain / alone, each.label, alone, plain, agree(matrix[:, 0], values, year.open_ms)))
    with capsys.disabled():
        print(f"\n{len(FEATURES)} features of {YEAR:,} minutes: {whole:.2f} s of CPU (P5: 3 s)")
        print(f"{len(CHOSEN)} of them that pandas has too: {ours:.2f} s, as a DataFrame by pandas {theirs:.2f} s")
        print(f"{'feature':28}{'alone ms':>10}{'pandas ms':>11}{'times':>7}")
        for ratio, label, alone, plain, _ in sorted(rows):
            print(f"{label:28}{1e3 * alone:>10.0f}{1e3 * plain:>11.0f}{ratio:>7.1f}")
    assert [label for _, label, _, _, is_same in rows if not is_same] == []
    assert len(CHOSEN) >= 60 and ours < 1.5 * theirs


def test_a_new_minute_beside_pandas(year: Candles, capsys: pytest.CaptureFixture[str]) -> None:
    start = int(np.flatnonzero(np.diff(year.open_ms // (BLOCK_BARS * 60_000)))[200]) + 1
    newest_features(year[:start])
    seen = {}
    for into in (1, BLOCK_BARS // 2, BLOCK_BARS):  # bars of the block that there are
        bars = year[: start + into]
        times = sorted(took(lambda bars=bars: newest_features(bars))[0] for _ in range(TURNS))
        seen[into] = times[TURNS // 2]
    bars = year[: start + BLOCK_BARS]
    ours = min(took(lambda: newest_features(bars, CHOSEN))[0] for _ in range(TURNS))
    frame = frame_of(bars[-(BLOCK_BARS + SHORT_RUN_IN_BARS) :])
    theirs = min(took(lambda: [form(frame).iloc[-1] for form in PLAIN.values()])[0] for _ in range(3))
    with capsys.disabled():
        told = ", ".join(f"{1e3 * seconds:.2f} ms with {into:,} bars of its block" for into, seconds in seen.items())
        print(f"\none new minute, {len(FEATURES)} features: {told} (P5: 5 ms)")
        print(f"{len(CHOSEN)} of them at most {1e3 * ours:.2f} ms, pandas over as many bars {1e3 * theirs:.2f} ms")
    assert 5 * ours < theirs
