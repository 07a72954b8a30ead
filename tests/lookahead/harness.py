"""Candles to test on, and the two tests of the package at every bar there is."""

import numpy as np

from autotrader.core.clock import parse_time, timeframe_ms
from autotrader.core.market import Candles
from autotrader.strategy.lookahead import Answer, Offence, forgotten, growing, poisoned


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
        extras=_joined(n, rng),
    )


def _joined(n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    "Funding that changes every eight bars and open interest, each with bars on which it was not known."
    funding = np.repeat(rng.normal(scale=1e-4, size=n // 8 + 1), 8)[:n]
    interest = 1000.0 * np.exp(np.cumsum(rng.normal(scale=0.01, size=n)))
    funding[n // 2 : n // 2 + 16] = np.nan
    interest[n // 2 + 5 : n // 2 + 9] = np.nan
    return {"funding_rate": funding, "open_interest": interest}


def future_leak(answer: Answer, candles: Candles) -> Offence | None:
    "The first answer that knew a bar after its own; None for a clean one."
    bars = range(len(candles))
    found, refused = poisoned(answer, candles, bars[:-1])
    assert not refused
    return growing(answer, candles, bars) or found


def past_leak(answer: Answer, candles: Candles, *, anchor: int) -> Offence | None:
    "The first answer from bar `anchor` on that changes with the bars before it; None for a clean one."
    return forgotten(answer, candles, anchor=anchor, losses=range(1, anchor + 1))
