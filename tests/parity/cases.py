"""Random markets, settings and signals for the engine, wild enough that everything happens."""

from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from autotrader.engine.events import PARAMS, OrderKind, Sizing, Split, StopKind, StopUnit, Threshold
from autotrader.engine.fills import COSTS
from autotrader.engine.signals import Signals
from autotrader.engine.tape import Tape

HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS
TICK, STEP, UNIT_E8 = 0.1, 0.01, 100_000


class Case(NamedTuple):
    "One bot on one market."

    tape: Tape
    signals: Signals
    atr: NDArray[np.float64]
    params: np.ndarray
    costs: np.ndarray
    wallet_e8: int

    def changed(self, **fields: Any) -> "Case":
        "The same case with other parameters or costs."
        params, costs = self.params.copy(), self.costs.copy()
        for name, value in fields.items():
            (costs if name in COSTS.names else params)[name] = value
        return self._replace(params=params, costs=costs)


def record(dtype: np.dtype, fields: dict[str, Any]) -> np.ndarray:
    "One record of those fields."
    out = np.zeros(1, dtype)
    for name, value in fields.items():
        out[name] = value
    return out


def random_params(rng: Generator, bar_ms: int) -> np.ndarray:
    "A bot's settings: each feature on in a good part of all draws."

    def pick(*choices: Any) -> Any:
        return choices[rng.integers(len(choices))]

    sizing = pick(Sizing.LOT, Sizing.EQUITY_FRAC, Sizing.RISK_FRAC)
    size = {
        Sizing.LOT: pick(0.004, 0.03, 0.2, 1.0, 1.0, 5.0),
        Sizing.EQUITY_FRAC: pick(0.0005, 0.1, 0.5, 0.5, 1.5, 4.0),
        Sizing.RISK_FRAC: pick(0.002, 0.01, 0.05),
    }[sizing]
    interval_ms = int(bar_ms * pick(0.4, 1.0, 2.5))
    by_percent = pick(True, False)
    low, medium = (0.8, 2.0) if by_percent else (0.8, 2.5)
    return record(
        PARAMS,
        {
            "id": 7,
            "tick": TICK,
            "step": STEP,
            "unit_e8": UNIT_E8,
            "min_qty": pick(1, 1, 3, 10),
            "max_qty": pick(10**9, 10**9, 40),
            "min_notional_e8": pick(0, 0, 0, 5 * 10**8, 60 * 10**8),
            "sizing": sizing,
            "size": size,
            "max_leverage": pick(1.0, 3.0, 10.0),
            "tiers": pick(0, 1),
            "tier_unit": Threshold.PERCENT if by_percent else Threshold.PRICE,
            "tier_low": low,
            "tier_medium": medium,
            "mult_low": pick(1.0, 1.5),
            "mult_medium": 0.75,
            "mult_high": pick(0.5, 0.1),
            "split": pick(Split.NONE, Split.TIME, Split.TIME, Split.PRICE),
            "split_count": pick(2, 3, 5, 9),
            "split_interval_ms": interval_ms,
            "split_gap": pick(0.001, 0.004, 0.02),
            "split_expiry_ms": int(interval_ms * pick(0.5, 2.0, 6.0)),
            "sl_ratio": pick(0.0, 0.7, 1.5, 3.0),
            "tp_ratio": pick(0.0, 0.5, 1.0, 2.0),
            "allow_long": pick(1, 1, 1, 1, 0),
            "allow_short": pick(1, 1, 1, 1, 0),
            "exit_on_opposite": pick(1, 1, 0),
            "flip": pick(1, 1, 0),
            "min_confidence": pick(0.0, 0.0, 0.0, 0.6),
            "max_signal_age_ms": pick(0, bar_ms, 10 * bar_ms),
            "max_drawdown": pick(0.0, 0.03, 0.15),
            "daily_loss": pick(0.0, 0.01, 0.05),
            "max_losses": pick(0, 1, 3),
            "cooldown_ms": bar_ms * pick(1, 4, 12),
            "resume_size": pick(1.0, 0.5),
            "manual_resume": pick(0, 0, 0, 0, 1),
        },
    )


def random_stop(rng: Generator) -> dict[str, Any]:
    "How the stop is measured and whether it moves: the fields of PARAMS that say so."

    def pick(*choices: Any) -> Any:
        return choices[rng.integers(len(choices))]

    unit = pick(StopUnit.ATR, StopUnit.PERCENT)
    return {
        "sl_unit": unit,
        "sl_kind": pick(StopKind.FIXED, StopKind.TRAILING, StopKind.TRAILING, StopKind.BREAK_EVEN),
        "sl_ratio": pick(0.0, 0.3, 1.0, 2.5) if unit == StopUnit.PERCENT else pick(0.0, 0.7, 1.5, 3.0),
        "trail_step": pick(0.0, 0.1, 0.5),
        "break_even_at": pick(0.0, 0.5, 1.0),
        "round_trip_cost": pick(0.0, 0.0011, 0.004),
    }


def random_costs(rng: Generator) -> np.ndarray:
    def pick(*choices: Any) -> Any:
        return choices[rng.integers(len(choices))]

    leverage = pick(0.0, 3.0, 10.0, 40.0)
    return record(
        COSTS,
        {
            "unit_e8": UNIT_E8,
            "taker_fee": pick(0.0, 0.00055, 0.002),
            "maker_fee": pick(0.0, 0.0002, -0.0001),
            "slippage": pick(0.0, 0.0002, 0.005),
            "min_slip": pick(0, 0, 1, 4),
            "participation": pick(0.0, 0.0, 0.0, 0.05, 0.3),
            "leverage": leverage,
            "stop_delay_ms": pick(0.0, 1_000.0, 20_000.0),
            "maintenance": 0.005,
        },
    )


def _walk(rng: Generator, n: int) -> NDArray[np.int64]:
    "Open, high, low and close in ticks, (4, n): jumps between bars, now and then a wild one."
    sigma = rng.choice([0.002, 0.008, 0.025])
    jumps = np.where(rng.random(n) < 0.15, rng.normal(0, 3 * sigma, n), 0.0)
    moves = rng.normal(0, sigma, n) * np.where(rng.random(n) < 0.05, 5.0, 1.0)
    closes = 1_000.0 * np.exp(np.cumsum(jumps + moves))
    opens = closes * np.exp(-moves)
    reach = np.abs(rng.normal(0, sigma / 2, (2, n)))
    highs, lows = np.maximum(opens, closes) * np.exp(reach[0]), np.minimum(opens, closes) * np.exp(-reach[1])
    return np.maximum(20, np.rint([opens, highs, lows, closes])).astype(np.int64)


def random_tape(rng: Generator, n: int) -> Tape:
    "n fine bars, some of them missing; the bot's own bars are as fine or up to six times as long."
    bar_ms = int(rng.choice([60_000, HOUR_MS, 4 * HOUR_MS]))
    missing = rng.choice([0.0, 0.0, 0.06])
    grid = np.flatnonzero(rng.random(n) >= missing)
    grid = grid if len(grid) else np.arange(n)
    first = START_MS // bar_ms * bar_ms
    open_ms = first + grid.astype(np.int64) * bar_ms
    opens, highs, lows, closes = _walk(rng, len(grid))
    times = int(rng.choice([1, 1, 1, 3, 6]))
    bot_bar, bot_close = np.zeros(0, np.int64), closes
    if times > 1:
        bot_index = grid // times
        names, last = np.unique(bot_index[::-1], return_index=True)
        last = len(grid) - 1 - last  # newest fine bar of each bot bar
        bot_close = closes[last]
        bot_bar = np.where(grid % times == times - 1, np.searchsorted(names, bot_index), -1).astype(np.int64)
    marks = [np.zeros(0, np.int64)] * 2
    if rng.random() < 0.4:
        wiggle = np.rint(highs * rng.uniform(-0.01, 0.01, (2, len(highs)))).astype(np.int64)
        marks = [np.maximum(highs + wiggle[0], lows + wiggle[1]), np.maximum(10, np.minimum(highs, lows + wiggle[1]))]
        marks[0] = np.maximum(marks[0], marks[1])
    stamps = np.zeros(0, np.int64)
    if rng.random() < 0.6:
        every = int(rng.choice([2 * bar_ms, 5 * bar_ms, bar_ms * 3 // 2]))
        stamps = np.arange(first - 2 * every, first + n * bar_ms, every, dtype=np.int64)
    rates = rng.normal(0, 0.002, len(stamps))
    volume = rng.integers(0, int(rng.choice([50, 3_000])), len(grid))
    arrays = (open_ms, opens, highs, lows, closes, volume, *marks, bot_bar, bot_close, stamps, rates)
    return Tape(bar_ms, *(np.require(array, requirements="CW") for array in arrays))


def random_case(seed: int, n: int) -> Case:
    "One bot on n bars."
    rng = np.random.default_rng(seed)
    tape = random_tape(rng, n)
    m = len(tape.bot_close)
    busy = rng.choice([0.15, 0.4, 0.9])
    signals = Signals(
        np.where(rng.random(m) < busy, rng.choice([-1, 1], m), 0),
        np.where(rng.random(m) < rng.choice([0.0, 0.1, 0.3]), rng.integers(0, 4, m), 0),
        rng.choice([0.3, 0.6, 1.0], m),
    )
    spread = rng.choice([3.0, 8.0, 25.0])
    atr = np.abs(spread * TICK * np.exp(rng.normal(0, 0.4, m)))
    atr[: rng.integers(0, 4)] = np.nan
    wallet_e8 = int(rng.choice([50, 1_000, 20_000])) * 10**8
    params = random_params(rng, tape.bar_ms)
    return Case(tape, signals, atr, params, random_costs(rng), wallet_e8)


def random_entry(rng: Generator, bar_ms: int) -> dict[str, Any]:
    "How entries are ordered, and which weights are near enough: the fields of PARAMS that say so."

    def pick(*choices: Any) -> Any:
        return choices[rng.integers(len(choices))]

    limit = {
        "entry": OrderKind.LIMIT,
        "entry_gap": pick(0.0, 0.002, 0.01),
        "entry_expiry_ms": int(bar_ms * pick(0.5, 1.0, 4.0)),
        "split": Split.NONE,
    }
    return {"band": pick(0.0, 0.01, 0.1), "bare_weights": pick(0, 0, 1), **(limit if rng.random() < 0.3 else {})}


def with_levels(rng: Generator, signals: Signals, close: NDArray[np.float64]) -> Signals:
    "The same signals; some of their entries bring a stop or a target, as prices or distances, now and then a passed one."
    m, said = len(signals), signals.columns()
    side = np.where(signals.direction != 0, signals.direction, 1)
    for level, sign in (("stop", -1), ("target", 1)):
        how, gap = rng.integers(0, 3, m), np.abs(rng.normal(0, 0.02, m)) + 0.0005
        wrong = np.where(rng.random(m) < 0.03, -1, 1)
        price = np.maximum(close * (1 + wrong * sign * side * gap), TICK)
        said[level] = np.where(how == 1, price, np.nan)
        said[f"{level}_distance"] = np.where(how == 2, close * gap, np.nan)
    return Signals(**said)


def random_weights(rng: Generator, m: int) -> Signals:
    "Weights that stay for a while, change a little, vanish, turn over; on some bars nothing is said."
    change, names = rng.random(m) < rng.choice([0.05, 0.3, 0.8]), rng.choice([0.0, 0.3, -0.4, 1.0, -1.0, 0.02, 1.4], m)
    last = np.maximum.accumulate(np.where(change, np.arange(m), 0))
    weight = names[last] * np.exp(rng.normal(0, rng.choice([0.0, 0.05]), m))
    weight[rng.random(m) < rng.choice([0.0, 0.3])] = np.nan
    return Signals(np.zeros(m), np.zeros(m), np.ones(m), weight=weight)


def stopped_case(seed: int, n: int) -> Case:
    "The same with a stop of any kind, entries of any kind, and now and then with levels of their own or with weights."
    case = random_case(seed, n).changed(**random_stop(np.random.default_rng([seed, 1])))
    rng = np.random.default_rng([seed, 2])
    case = case.changed(**random_entry(rng, case.tape.bar_ms))
    kind = rng.integers(4)
    if kind == 0:
        return case._replace(signals=with_levels(rng, case.signals, case.tape.bot_close * TICK))
    if kind == 1:
        return case._replace(signals=random_weights(rng, len(case.signals)))
    return case
