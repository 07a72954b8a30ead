"""Signals without a stop or with their own, entries that wait, positions as weights: what is tried is what trades."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stage
from series import length
from test_decision_parity import HARD
from test_money import WALLET_E8, flat, market, params_of, tape_of

from autotrader.bots.subbot import recover
from autotrader.config.sections import Backtest, BotSettings
from autotrader.core.errors import ConfigError
from autotrader.core.market import Candles
from autotrader.engine.events import EVENT, EventKind, Purpose, StopUnit
from autotrader.engine.fills import new_costs
from autotrader.engine.signals import Signals, from_rules, from_targets
from autotrader.engine.simulate import run
from autotrader.features.columns import compute
from autotrader.runner.parity import decision_parity
from autotrader.runner.rehearsal import rehearse
from autotrader.store import journal
from autotrader.store.database import open_store
from autotrader.strategy.setup import Part, part_for, simulate
from autotrader.strategy.templates import own

HOURS = 450
LONG = length(0, soak=1)


def crossing(candles: Candles, **levels: Any) -> Signals:
    fast, slow = compute("ema", candles, period=8), compute("ema", candles, period=30)
    up = fast > slow
    return from_rules(long=up, short=~up, exit_long=~up, exit_short=up, **levels)


def with_own_stops(candles: Candles) -> Signals:
    "The stop under the lowest low of ten bars, or two ATR away; a target on every third bar."
    fast, slow = compute("ema", candles, period=8), compute("ema", candles, period=30)
    low, high = compute("donchian_lower", candles, period=10), compute("donchian_upper", candles, period=10)
    third = np.arange(len(candles)) % 3
    beyond = np.where(fast > slow, np.minimum(low, candles.close * 0.999), np.maximum(high, candles.close * 1.001))
    return crossing(
        candles,
        stop=np.where(third == 0, beyond, np.nan),
        stop_distance=np.where(third == 1, 2 * compute("atr", candles, period=14), np.nan),
        target_distance=np.where(third == 1, compute("atr", candles, period=14), np.nan),
    )


def momentum(candles: Candles) -> Signals:
    "Long or short by the sign of a hundred bars, sized by how far they went."
    past = np.r_[np.full(100, np.nan), candles.close[100:] / candles.close[:-100] - 1.0]
    return from_targets(np.clip(past * 40.0, -1.0, 1.0))


def part(rule: Callable[[Candles], Signals], *, warmup: int = 150, cap: float = 0.1, **bot: Any) -> Part:
    recorded = stage._market("1h", HOURS)
    settings = BotSettings(
        **{"name": "wish", "venue": "sample", "symbol": "EURUSD", "sizing": "equity_frac", "risk": {"max_losses": 0}}
        | bot
    )
    return part_for(
        settings, recorded.candles, recorded, Backtest(participation_cap=cap), strategy=own(rule, warmup=warmup)
    )


OFF = {"strategy_params": {"sl_ratio": 0.0}}
WAITING = {"entry": {"kind": "limit", "offset_percent": 0.02, "expiry_seconds": 7200}}
CAST: dict[str, tuple[Part, set[Purpose]]] = {
    "no stop": (part(crossing, **OFF), {Purpose.ENTRY, Purpose.EXIT}),
    "own stops": (part(with_own_stops, **OFF), {Purpose.ENTRY, Purpose.EXIT, Purpose.STOP, Purpose.TARGET}),
    "own stops, trailing": (
        part(with_own_stops, strategy_params={"sl_kind": "trailing"}),
        {Purpose.ENTRY, Purpose.EXIT, Purpose.STOP},
    ),
    "limit entries": (part(crossing, **WAITING), {Purpose.ENTRY, Purpose.EXIT, Purpose.STOP, Purpose.TARGET}),
    "weights": (
        part(momentum, rebalance_band=0.05, cap=0.0, **OFF),
        {Purpose.ENTRY, Purpose.ADD, Purpose.REDUCE, Purpose.EXIT},
    ),
    "every change of a weight": (part(momentum, rebalance_band=0.0, **OFF), {Purpose.ADD, Purpose.REDUCE}),
    "weights that wait": (part(momentum, rebalance_band=0.05, **OFF, **WAITING), {Purpose.ADD, Purpose.REDUCE}),
    "weights with a stop": (
        part(momentum, strategy_params={"sl_ratio": 0.2, "sl_unit": "percent", "tp_ratio": 0.0}),
        {Purpose.ENTRY, Purpose.ADD, Purpose.STOP},
    ),
}


@pytest.mark.parametrize("name", CAST)
def test_a_rehearsal_is_the_backtest_and_its_journal_folds_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    played, purposes = CAST[name]
    simulated = simulate(played)
    assert purposes <= {Purpose(int(p)) for p in simulated.fills["purpose"]}
    with open_store("sqlite:///wish.db", folder=tmp_path, create=True) as store:
        (performance,) = rehearse([played], store).performances
        lived = performance.result.run
        np.testing.assert_array_equal(lived.fills, simulated.fills)
        np.testing.assert_array_equal(lived.equity_e8, simulated.equity_e8)
        np.testing.assert_array_equal(lived.stops, simulated.stops)
        report = decision_parity(store, played.bot)
        assert report.is_exact, report.fault
        folded = recover(store, played.bot)
        assert folded is not None and folded.state.tobytes() == lived.state.tobytes()
        kinds = set(journal.read(store, played.bot, EVENT)["kind"].tolist())
        assert (EventKind.WEIGHT in kinds) == (played.signals.weight is not None)


@pytest.mark.parametrize("name", CAST if LONG else ["own stops, trailing", "weights that wait", "weights with a stop"])
def test_on_a_rough_day_the_journal_folds_to_the_same_bytes_and_both_books_agree(name: str, tmp_path: Path) -> None:
    with open_store("sqlite:///rough.db", folder=tmp_path, create=True) as store:
        (performance,) = rehearse([CAST[name][0]], store, rough=1, roughness=HARD).performances
        report = decision_parity(store, performance.result.part.bot)
        assert report.is_exact, report.fault
        state, venue = performance.result.run.state[0], performance.result.run.venue[0]
        assert all(state[field] == venue[field] for field in ("qty", "cost", "wallet_e8"))


def test_a_position_follows_its_weight_within_the_band() -> None:
    played, _ = CAST["weights"]
    found, tick = simulate(played), float(played.params["tick"][0])
    step, close = float(played.params["step"][0]), played.tape.close * tick
    moves = np.where(found.fills["side"] > 0, 1, -1) * found.fills["qty"]
    bars = np.searchsorted(played.tape.open_ms, found.fills["ts_ms"], side="right") - 1
    held = np.bincount(bars, moves, len(close)).cumsum() * step
    share = held * close / (found.equity_e8 / 1e8)
    wanted = played.signals.weight
    # at the close before, decided; at the open after, held: the weight of the bar before, and what the market did since
    off = np.abs(share[151:] - wanted[150:-1])
    assert np.quantile(off, 0.99) < 0.05 + 0.01


def weighed(weights: list[float], bars: list[tuple[int, int, int, int]], **fields: Any) -> list[Purpose]:
    "What these weights did on these bars."
    instrument, n = market("0.1", "0.001"), len(bars)
    signals = Signals(np.zeros(n), np.zeros(n), np.ones(n), weight=np.array(weights))
    params, costs = params_of(instrument, 0.0, **fields), new_costs(instrument)
    found = run(tape_of(bars), signals, np.ones(n), params=params, costs=costs, wallet_e8=WALLET_E8)
    return [Purpose(int(purpose)) for purpose in found.fills["purpose"]]


def test_a_stop_ends_a_weight_until_another_is_wanted() -> None:
    fall = [*flat(10_000, 3), (10_000, 10_000, 9_800, 9_800), *flat(9_800, 6)]
    stop = {"sl_ratio": 1.0, "sl_unit": StopUnit.PERCENT, "band": 0.05}
    held, stopped = [Purpose.ENTRY, Purpose.STOP], [0.5] * 6
    assert weighed([*stopped, 0.5, 0.6, 0.9, 0.5], fall, **stop) == held  # more of the same is no other mind
    assert weighed([*stopped, 0.0, 0.5, 0.5, 0.5], fall, **stop) == [*held, Purpose.ENTRY]
    assert weighed([*stopped, -0.5, -0.5, -0.5, -0.5], fall, **stop) == [*held, Purpose.ENTRY]


def test_a_change_within_the_band_is_not_traded_and_nothing_or_the_other_side_always_is() -> None:
    bars, weights = flat(10_000, 10), [0.5, 0.5, 0.53, 0.56, 0.5, 0.02, 0.0, -0.01, -0.01, -0.01]
    resized = [Purpose.ADD, Purpose.REDUCE, Purpose.REDUCE]
    assert weighed(weights, bars, band=0.05) == [Purpose.ENTRY, *resized, Purpose.EXIT]  # −0.01 is near to nothing
    assert weighed([0.5, 0.5, -0.5, *[-0.5] * 7], bars, band=0.05) == [Purpose.ENTRY, Purpose.EXIT, Purpose.ENTRY]
    assert len(weighed(weights, bars)) > 6


@pytest.mark.parametrize(
    ("rule", "bot", "said"),
    [
        (lambda c: from_targets(np.full(len(c), 2.0), most=5.0), {"max_leverage": 1.5}, "wants 2 of its equity .* above its max_leverage of 1.5"),
        (lambda c: from_targets(np.r_[np.full(200, np.nan), np.ones(len(c) - 200)]), {}, "has no weight at bar 150, after its warm-up of 150"),
        (crossing, {"sizing": "risk_frac", **OFF}, "sizes by the stop, and there is none"),
    ],
)  # fmt: skip
def test_what_cannot_be_held_is_refused_before_it_is_played(rule: Any, bot: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        part(rule, **bot)
