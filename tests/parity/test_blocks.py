"""Passing over blocks of quiet bars changes nothing, on long tapes where little happens; and a tape without blocks gets its own."""

import numpy as np
import pytest
from cases import Case, stopped_case
from hypothesis import given, settings
from hypothesis import strategies as st
from pair import COUNTED, simulated
from test_money import LONG, SHORT, flat, market, played, tape_of

from autotrader.engine.events import Purpose, StopKind
from autotrader.engine.signals import Signals
from autotrader.engine.simulate import Run
from autotrader.engine.tape import BLOCK, in_blocks

MINUTE = 60_000


def calm_case(seed: int, n: int, share: float) -> Case:
    "A case in which few bars say anything and stops lie far away, where only a spike gets."
    case = stopped_case(seed, n)
    while case.tape.bar_ms != MINUTE:  # longer bars: no block fits between two midnights
        seed += 1
        case = stopped_case(seed, n)
    rng = np.random.default_rng(seed + 1)
    speaks = rng.random(len(case.signals)) < share
    signals = Signals(case.signals.direction * speaks, case.signals.exits * speaks, np.ones(len(case.signals)))
    tape, n = case.tape, len(case.tape.open_ms)
    spikes = rng.integers(100, 900, n) * (rng.random(n) < 0.02)  # prices shoot away and come back before the close
    up = rng.random(n) < 0.5
    tape = tape._replace(high=tape.high + spikes * up, low=np.maximum(10, tape.low - spikes * ~up))
    far = float(rng.choice([0.0, 30.0, 100.0])) / (1 + 3 * case.params["sl_unit"][0])
    soon = {"trail_step": rng.choice([0.0, 0.05]), "break_even_at": rng.choice([0.01, 0.1])}
    changed = case.changed(sl_ratio=far, min_confidence=0.0, max_losses=0, **soon)
    return changed._replace(tape=tape, signals=signals)


def assert_equal(one: Run, other: Run) -> None:
    assert one.fills.tobytes() == other.fills.tobytes()
    assert one.stops.tobytes() == other.stops.tobytes()
    assert one.equity_e8.tobytes() == other.equity_e8.tobytes()
    assert (one.day_ms.tolist(), one.day_equity_e8.tolist()) == (other.day_ms.tolist(), other.day_equity_e8.tolist())
    assert (one.held, one.max_drawdown, one.notes) == (other.held, other.max_drawdown, other.notes)
    assert [one.venue[name][0] for name in COUNTED] == [other.venue[name][0] for name in COUNTED]


def played_both_ways(case: Case) -> Run:
    quick = simulated(case)
    assert_equal(quick, simulated(case, shortcuts=False))
    return quick


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**40), st.integers(BLOCK, 40 * BLOCK + 7), st.sampled_from([0.0, 0.002, 0.01, 0.05]))
def test_a_run_that_skips_blocks_is_the_run_that_plays_every_bar(seed: int, n: int, share: float) -> None:
    played_both_ways(calm_case(seed, n, share))


def test_stops_of_every_kind_that_moves_move_in_such_runs() -> None:
    moved = dict.fromkeys(StopKind, 0)
    for seed in range(300):
        case = calm_case(1000 * seed, 30 * BLOCK, 0.05)
        moved[StopKind(case.params["sl_kind"][0])] += played_both_ways(case).notes.get("STOP_MOVED", 0)
    assert moved.pop(StopKind.FIXED) == 0 and min(moved.values()) > 10, moved


def test_blocks_hold_the_extremes_of_their_bars() -> None:
    case = calm_case(5, 10 * BLOCK + 3, 0.01)
    tape = in_blocks(case.tape)
    n = len(tape.open_ms)
    assert len(tape.blocks) == -(-n // BLOCK)
    for k, (low, high, lowest_close, highest_close, bot) in enumerate(tape.blocks.tolist()):
        part = slice(k * BLOCK, (k + 1) * BLOCK)
        lows, highs = [tape.low[part]], [tape.high[part]]
        if len(tape.mark_low):
            lows, highs = [*lows, tape.mark_low[part]], [*highs, tape.mark_high[part]]
        assert (low, high) == (np.concatenate(lows).min(), np.concatenate(highs).max())
        assert (lowest_close, highest_close) == (tape.close[part].min(), tape.close[part].max())
        ending = tape.bot_bar[part][tape.bot_bar[part] >= 0] if len(tape.bot_bar) else np.arange(n)[part]
        assert not len(ending) or bot == ending[0]


@pytest.mark.parametrize("side", [LONG, SHORT])
@pytest.mark.parametrize("away", [-1, 1], ids=["stop", "target"])
@pytest.mark.parametrize("bar", [66, 80, 95])
def test_a_spike_within_a_block_of_level_closes_is_seen(side: int, away: int, bar: int) -> None:
    "The equity has been lower before, so that nothing but the spike itself speaks against passing over the block."
    price, low = 20_000, 20_000 - side * 1_500
    bars = [*flat(price, 2), *flat(low, 2), *flat(price, 4 * BLOCK)]
    spike = price + side * away * 5_000
    bars[bar] = (price, max(price, spike), min(price, spike), price)
    found = played(
        market("0.1", "0.001"), tape_of(bars, bar_ms=MINUTE), side=side, size=1.0, atr=200.0, sl_ratio=1.0, tp_ratio=1.5
    )
    assert found.fills["purpose"].tolist() == [Purpose.ENTRY, Purpose.STOP if away < 0 else Purpose.TARGET]
    assert found.fills["ts_ms"][1] == (bar + 1) * MINUTE - 1
