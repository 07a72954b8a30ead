"""Three bots for rehearsals: the embedded series with funding, every way to split an entry, two bar lengths."""

from dataclasses import replace
from typing import Any

import numpy as np

from autotrader.config.sections import Backtest, BotSettings
from autotrader.core.market import Candles
from autotrader.data.instruments import known
from autotrader.data.joined import FundingEvents, Market, resample
from autotrader.data.sample import eurusd
from autotrader.strategy.setup import Part, part_for

HOUR = 3_600_000


def _funding(candles: Candles) -> FundingEvents:
    "A rate every eight hours, of both signs."
    first, last = int(candles.open_ms[0]), int(candles.open_ms[-1])
    stamps = np.arange(first // (8 * HOUR) * 8 * HOUR, last, 8 * HOUR)
    rates = np.random.default_rng(3).normal(1e-4, 3e-4, len(stamps))
    return FundingEvents(ts_ms=stamps, rate=rates, missing_ms=np.zeros(0, np.int64))


def _market(timeframe: str, bars: int) -> Market:
    hours = eurusd()[:bars]
    instrument = known("sample", "EURUSD")
    assert instrument is not None
    candles = hours if timeframe == "1h" else resample(hours, timeframe)
    fine = (
        None if timeframe == "1h" else hours.between(int(candles.open_ms[0]), int(candles.open_ms[-1]) + candles.bar_ms)
    )
    return Market(candles=candles, fine=fine, instrument=instrument, funding=_funding(hours))


_TIERS = {
    "enabled": True,
    "threshold_unit": "percent",
    "volatility_thresholds": {"low": 0.1, "medium": 0.15},
    "sizing_multipliers": {"low": 1.0, "medium": 0.75, "high": 0.5},
}
_BOTS = {
    "sub_bot_A": ("1h", "ema_trend", {"method": "time", "interval_seconds": 3600, "expiry_seconds": 14_400}),
    "sub_bot_B": ("1h", "rsi_reversion", {"method": "price", "price_gap_percent": 0.05, "expiry_seconds": 14_400}),
    "sub_bot_C": ("4h", "donchian_breakout", {"method": "time", "interval_seconds": 7200, "expiry_seconds": 28_800}),
}


def parts(bars: int = 1000, **stop: Any) -> list[Part]:  # stop: of [sub_bots.strategy_params]
    "The cast over the first `bars` hours."
    cast = []
    for bot, (timeframe, strategy, split) in _BOTS.items():
        market = _market(timeframe, bars)
        settings = BotSettings(
            name=bot,
            id=bot,
            venue="sample",
            symbol="EURUSD",
            timeframe=timeframe,
            sizing="equity_frac",
            equity_frac=1.0,
            dynamic_sizing=_TIERS,
            split_entry={"enabled": True, "count": 3, **split},
            strategy_params=stop,
            decision={"strategy": strategy},
            risk={"max_losses": 3, "cooldown_minutes": 600},
        )
        cast.append(part_for(settings, market.candles, market, Backtest()))
    return cast


def market_of(part: Part) -> tuple[Candles, Market]:
    "The history and the market a part was made from."
    market = _market(part.settings.timeframe, len(part.tape.open_ms))
    return market.candles, market


def dearer(part: Part) -> Part:
    "The same part with a taker fee that is one basis point higher."
    costs = part.costs.copy()
    costs["taker_fee"] += 1e-4
    return replace(part, costs=costs)
