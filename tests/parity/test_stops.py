"""Stops that move: when, how far, and what they may not know."""

from pathlib import Path

import numpy as np
import pytest
import stage
from test_decision_parity import HARD
from test_money import LONG, SHORT, WALLET_E8, market, played, tape_of

from autotrader.bots.replay import Folded
from autotrader.engine.events import EVENT, EventKind, IntentKind, Note, Purpose, Sizing, StopKind, StopUnit
from autotrader.runner.parity import decision_parity
from autotrader.runner.rehearsal import rehearse
from autotrader.store import journal
from autotrader.store.database import open_store
from autotrader.strategy.setup import simulate

PLAIN = market("0.1", "0.001")
PRICE, AWAY = 10_000, 100  # ticks: of the entry, to the stop
Bar = tuple[int, int, int, int]


def bars_of(side: int, *moves: tuple[int, int, int, int]) -> list[Bar]:
    "Bars by how far open, best, worst and close lie from the entry, in the direction of the trade."
    bars = []
    for opening, best, worst, closing in moves:
        prices = [PRICE + side * move for move in (best, worst)]
        bars.append((PRICE + side * opening, max(prices), min(prices), PRICE + side * closing))
    return [(PRICE,) * 4] * 2 + bars


def stopped_at(side: int, *moves: tuple[int, int, int, int], **stop: float) -> tuple[int, int] | None:
    "Where a stop 100 ticks away took the position out, and in which of these bars; None when it did not."
    found = played(PLAIN, tape_of(bars_of(side, *moves)), side=side, size=1.0, atr=AWAY / 10, sl_ratio=1.0, **stop)
    fills = found.fills
    assert fills["purpose"].tolist() in ([Purpose.ENTRY], [Purpose.ENTRY, Purpose.STOP])
    if len(fills) == 1:
        return None
    return side * (int(fills["cost"][1]) // int(fills["qty"][1]) - PRICE), int(fills["ts_ms"][1]) // 3_600_000 - 2


TRAILING = {"sl_kind": StopKind.TRAILING, "trail_step": 0.1}
BREAK_EVEN = {"sl_kind": StopKind.BREAK_EVEN, "break_even_at": 0.5}


@pytest.mark.parametrize("side", [LONG, SHORT])
def test_a_trailing_stop_follows_the_closes_and_never_goes_back(side: int) -> None:
    up, down, out = (0, 60, 0, 50), (50, 50, 20, 20), (20, 20, -80, -80)
    assert stopped_at(side, up, down, out) is None
    assert stopped_at(side, up, down, out, **TRAILING) == (-50, 2)


@pytest.mark.parametrize("side", [LONG, SHORT])
def test_a_stop_does_not_know_the_best_price_of_the_bar_that_hits_it(side: int) -> None:
    "Up by 90 and down by 60 in one bar: a stop that had followed within it would have been hit at −10."
    assert stopped_at(side, (0, 90, -60, 0), **TRAILING) is None
    assert stopped_at(side, (0, 90, -100, 80), **TRAILING) == (-100, 0)  # the worst comes first: the old stop, not −20
    assert stopped_at(side, (0, 90, 0, 80), (80, 80, -20, 0), **TRAILING) == (-20, 1)  # the close was known then


@pytest.mark.parametrize("side", [LONG, SHORT])
def test_a_trailing_stop_moves_by_its_step_or_not_at_all(side: int) -> None:
    small, more, back = (0, 9, 0, 9), (9, 10, 9, 10), (10, 10, -95, -95)
    assert stopped_at(side, small, small, back, **TRAILING) is None
    assert stopped_at(side, small, more, back, **TRAILING) == (-90, 2)
    assert stopped_at(side, small, back, **{**TRAILING, "trail_step": 0.0}) == (-91, 1)


@pytest.mark.parametrize("side", [LONG, SHORT])
def test_a_break_even_stop_goes_once_to_the_entry_and_what_the_trip_costs(side: int) -> None:
    nearly, gained, far, back = (0, 49, 0, 49), (49, 50, 49, 50), (50, 300, 50, 300), (300, 300, -99, -99)
    assert stopped_at(side, nearly, back, **BREAK_EVEN) is None
    assert stopped_at(side, nearly, gained, back, **BREAK_EVEN) == (0, 2)
    assert stopped_at(side, nearly, gained, far, back, round_trip_cost=0.0012, **BREAK_EVEN) == (12, 3)


@pytest.mark.parametrize("side", [LONG, SHORT])
def test_a_break_even_stop_waits_until_it_would_not_be_passed_at_once(side: int) -> None:
    soon = {**BREAK_EVEN, "break_even_at": 0.05, "round_trip_cost": 0.0012}
    assert stopped_at(side, (0, 12, 0, 12), (12, 12, 0, 0), **soon) is None
    assert stopped_at(side, (0, 13, 0, 13), (13, 13, 0, 0), **soon) == (12, 1)


@pytest.mark.parametrize("side", [LONG, SHORT])
def test_a_trip_that_ends_at_break_even_has_cost_nothing(side: int) -> None:
    fee = float(PLAIN.rules.taker_fee)
    tape = tape_of(bars_of(side, (0, 300, 0, 300), (300, 300, -50, 0)))
    stop = {**BREAK_EVEN, "round_trip_cost": 2 * fee}
    found = played(PLAIN, tape, side=side, size=1.0, atr=AWAY / 10, sl_ratio=1.0, **stop)
    won = int(found.state["wallet_e8"][0]) - WALLET_E8
    assert abs(won) <= int(found.fills["qty"][0]) * PLAIN.rules.unit_e8  # a tick, and the exit's fee on the gain


def test_a_percentage_is_of_the_price_at_the_decision_for_stop_and_size_alike() -> None:
    tape = tape_of([*bars_of(LONG, (0, 0, -151, -151))])
    stop = {"sl_ratio": 1.5, "sl_unit": StopUnit.PERCENT, "atr": float("nan")}
    sized = {"sizing": Sizing.RISK_FRAC, "size": 0.01}
    fills = played(PLAIN, tape, **stop, **sized).fills
    assert fills["purpose"].tolist() == [Purpose.ENTRY, Purpose.STOP]
    lost_e8 = -int(fills["pnl_e8"][1])
    assert lost_e8 == pytest.approx(0.01 * WALLET_E8, rel=1e-3)
    assert int(fills["cost"][1]) // int(fills["qty"][1]) == PRICE - 150


# in a rehearsal ---

STOPS = {
    "trailing": {"sl_kind": "trailing", "trail_step": 0.2, "tp_ratio": 4.0},
    "break even": {"sl_kind": "break_even", "break_even_at": 0.5, "tp_ratio": 3.0},
    "percent": {"sl_kind": "trailing", "sl_unit": "percent", "sl_ratio": 0.25, "tp_ratio": 4.0},
}


@pytest.mark.parametrize("name", STOPS)
def test_a_rehearsal_moves_its_stops_as_the_simulation_does(name: str, tmp_path: Path) -> None:
    with open_store("sqlite:///smooth.db", folder=tmp_path, create=True) as store:
        for performance in rehearse(stage.parts(600, **STOPS[name]), store).performances:
            run, part = performance.result.run, performance.result.part
            simulated = simulate(part)
            assert simulated.notes["STOP_MOVED"] > 2
            np.testing.assert_array_equal(run.fills, simulated.fills)
            np.testing.assert_array_equal(run.equity_e8, simulated.equity_e8)
            np.testing.assert_array_equal(run.stops, simulated.stops)
            assert run.notes == simulated.notes
            report = decision_parity(store, part.bot)
            assert report.is_exact, report.fault
            _check_moves(journal.read(store, part.bot, EVENT), performance.folded)


def _check_moves(events: np.ndarray, folded: Folded) -> None:
    "Every move was wanted at a clock event, asked for at once, and confirmed by the venue."
    is_move = (folded.intents["kind"] == IntentKind.NOTE) & (folded.intents["code"] == Note.STOP_MOVED)
    places = np.flatnonzero(is_move)
    assert (events["kind"][folded.seqs[places] - 1] == EventKind.CLOCK).all()
    asked, confirmed = folded.intents[places + 1], events[events["kind"] == EventKind.PROTECTED]
    assert (asked["kind"] == IntentKind.PROTECT).all()
    assert (asked["stop"] == folded.intents["b"][places]).all()
    assert set(asked["stop"].tolist()) <= set(confirmed["stop"].tolist())


@pytest.mark.parametrize("seed", [1, 2])
def test_on_rough_days_moving_stops_fold_to_the_same_bytes_and_venue_and_bot_agree(seed: int, tmp_path: Path) -> None:
    with open_store("sqlite:///rough.db", folder=tmp_path, create=True) as store:
        parts = stage.parts(600, **STOPS["trailing"])
        for performance in rehearse(parts, store, rough=seed, roughness=HARD).performances:
            report = decision_parity(store, performance.result.part.bot)
            assert report.is_exact, report.fault
            assert performance.result.run.notes["STOP_MOVED"] > 2
            state, venue = performance.result.run.state[0], performance.result.run.venue[0]
            assert all(state[field] == venue[field] for field in ("qty", "cost", "wallet_e8"))
