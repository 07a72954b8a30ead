"""Finds a value that depends on a bar it must not know: one after its own, or one before the history anchor."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from autotrader.core.clock import parse_time, timeframe_ms
from autotrader.core.market import COLUMNS, Candles
from autotrader.engine.signals import Signals

Columns = Sequence[np.ndarray]
Answer = Callable[[Candles], Columns]  # candles → columns with one value per bar


def columns_of(signals: Signals) -> Columns:
    return signals.direction, signals.exits, signals.confidence


def walk(n: int, *, seed: int, timeframe: str = "1h", since: str = "2025-03-08") -> Candles:
    "Seeded candles with trends, reversals and a quiet stretch, so that every rule has something to say."
    rng = np.random.default_rng(seed)
    drift = 0.002 * np.sin(np.arange(n) / 23.0)
    noise = rng.normal(scale=0.006, size=n)
    noise[n // 3 : n // 3 + 20] = 0.0
    close = 100.0 * np.exp(np.cumsum(drift + noise))
    open_ = np.concatenate([[100.0], close[:-1]])
    reach = np.abs(rng.normal(scale=0.003, size=(2, n))) * close
    return Candles(
        venue="test",
        symbol="WALK",
        timeframe=timeframe,
        open_ms=parse_time(since) + timeframe_ms(timeframe) * np.arange(n),
        open=open_,
        high=np.maximum(open_, close) + reach[0],
        low=np.minimum(open_, close) - reach[1],
        close=close,
        volume=rng.uniform(1.0, 100.0, size=n),
        extras={"funding_rate": rng.normal(scale=1e-4, size=n)},
    )


def _overwritten(candles: Candles, part: slice, values: Callable[[np.ndarray], np.ndarray]) -> Candles:
    "The same candles with every price, volume and extra of `part` replaced; stamps stay."

    def changed(column: np.ndarray) -> np.ndarray:
        out = column.copy()
        out[part] = values(out[part])
        return out

    return replace(
        candles,
        **{name: changed(getattr(candles, name)) for name in COLUMNS},
        extras={name: changed(column) for name, column in candles.extras.items()},
    )


def _nan(column: np.ndarray) -> np.ndarray:
    return np.full_like(column, np.nan)


def _garbage(column: np.ndarray) -> np.ndarray:
    "A thousand times the price on one bar, a thousandth on the next."
    return column * np.where(np.arange(len(column)) % 2, 1e3, 1e-3) + 1.0


def _same(ours: Columns, truth: Columns, bars: slice, truth_bars: slice) -> bool:
    "Bit for bit, with NaN equal to NaN."
    return all(
        np.array_equal(a[bars], b[truth_bars], equal_nan=a.dtype.kind == "f") for a, b in zip(ours, truth, strict=True)
    )


def future_leak(answer: Answer, candles: Candles) -> tuple[int, str] | None:
    "First bar whose answers change when the bars after it are cut off, become NaN or become garbage; None for a clean one."
    truth = answer(candles)
    for at in range(len(candles)):
        known, after = slice(0, at + 1), slice(at + 1, None)
        futures = {"cut off": candles[known]}
        if at + 1 < len(candles):
            futures["NaN"] = _overwritten(candles, after, _nan)
            futures["garbage"] = _overwritten(candles, after, _garbage)
        for name, changed in futures.items():
            if not _same(answer(changed), truth, known, known):
                return at, name
    return None


def past_leak(answer: Answer, candles: Candles, *, anchor: int) -> tuple[int, str] | None:
    "First number of bars before bar `anchor` whose loss, or whose being garbage, changes an answer from there on; None for a clean one."
    truth = answer(candles)
    for lost in range(1, anchor + 1):
        if not _same(answer(candles[lost:]), truth, slice(anchor - lost, None), slice(anchor, None)):
            return lost, "cut off"
        changed = _overwritten(candles, slice(0, lost), _garbage)
        if not _same(answer(changed), truth, slice(anchor, None), slice(anchor, None)):
            return lost, "garbage"
    return None
