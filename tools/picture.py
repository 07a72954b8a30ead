"""Draw the README's picture again: the tutorial's first backtest, on the embedded sample."""

import contextlib
import tempfile
from pathlib import Path

import autotrader as at

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "pictures" / "first_backtest.svg"
COSTS = {"slippage_bps": 0.2, "spread_bps": 0.5, "participation_cap": 0.0}


def drawn() -> str:
    candles = at.load("EURUSD", "1h", venue="sample")
    return at.backtest("ema_trend", candles, costs=COSTS).svg() + "\n"


if __name__ == "__main__":
    with (
        tempfile.TemporaryDirectory() as nowhere,
        contextlib.chdir(nowhere),
    ):  # no desk, so that it is not counted as a trial
        picture = drawn()
    PICTURE.write_text(picture, encoding="utf-8")
