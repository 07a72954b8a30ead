"""A rehearsal goes through orders, reports, a journal and a database, and still does what the compiled loop does."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import stage
from series import length

from autotrader.engine.events import EVENT, EventKind, Note, Purpose
from autotrader.exchange.paper import Roughness
from autotrader.results.result import Result
from autotrader.runner.parity import decision_parity, model_parity
from autotrader.runner.rehearsal import BotRehearsal, Rehearsal, rehearse
from autotrader.store import journal
from autotrader.store.database import Store, open_store
from autotrader.strategy.setup import simulate

BOTS = ("sub_bot_A", "sub_bot_B", "sub_bot_C")
HARD = Roughness(
    late=0.2,
    lost=0.2,
    refused=0.15,
    unasked=0.2,
    partial=0.3,
    cancelled=0.2,
    delayed=0.5,
    doubled=0.3,
    slip_bps=2.0,
)
Played = tuple[Store, Rehearsal]


def _play(folder: Path, **how: object) -> Iterator[Played]:
    with open_store("sqlite:///rehearsal.db", folder=folder, create=True) as store:
        yield store, rehearse(stage.parts(), store, **how)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def smooth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    yield from _play(tmp_path_factory.mktemp("smooth"))


@pytest.fixture(scope="module", params=range(1, 1 + length(2, soak=20)))
def rough(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Played]:
    yield from _play(tmp_path_factory.mktemp("rough"), rough=request.param, roughness=HARD)


def test_smooth_fills_equal_the_simulation_exactly(smooth: Played) -> None:
    for performance in smooth[1].performances:
        simulated = simulate(performance.result.part)
        assert len(simulated.fills) > 20
        np.testing.assert_array_equal(performance.result.run.fills, simulated.fills)
        np.testing.assert_array_equal(performance.result.run.payments, simulated.payments)
        assert len(simulated.payments) > 0


def test_smooth_equity_statistics_and_notes_equal_the_simulation(smooth: Played) -> None:
    for performance in smooth[1].performances:
        result = performance.result
        simulated = simulate(result.part)
        np.testing.assert_array_equal(result.run.equity_e8, simulated.equity_e8)
        assert result.stats == Result(part=result.part, run=simulated).stats
        assert result.run.notes == simulated.notes
        assert result.run.tiers == simulated.tiers


def test_a_fee_that_is_one_basis_point_higher_does_not_pass_as_equal(smooth: Played) -> None:
    for performance in smooth[1].performances:
        other = simulate(stage.dearer(performance.result.part))
        assert performance.result.run.fills.tobytes() != other.fills.tobytes()


def test_the_stage_shows_split_entries_stops_targets_funding_and_every_multiplier(smooth: Played) -> None:
    runs = [performance.result.run for performance in smooth[1].performances]
    purposes = set(np.concatenate([run.fills["purpose"] for run in runs]).tolist())
    assert {Purpose.ENTRY, Purpose.ADD, Purpose.EXIT, Purpose.STOP, Purpose.TARGET} <= purposes
    assert all(run.state["funding_e8"][0] for run in runs)
    assert {tier for run in runs for tier in run.tiers} == {0.5, 0.75, 1.0}


@pytest.mark.parametrize("bot", BOTS)
def test_a_smooth_journal_folds_to_the_same_bytes(smooth: Played, bot: str) -> None:
    report = decision_parity(smooth[0], bot)
    assert report.is_exact, report.fault
    assert report.intents > 40


@pytest.mark.parametrize("bot", BOTS)
def test_a_rough_journal_folds_to_the_same_bytes(rough: Played, bot: str) -> None:
    report = decision_parity(rough[0], bot)
    assert report.is_exact, report.fault


def test_on_a_rough_line_bot_and_venue_agree_in_the_end(rough: Played) -> None:
    for performance in rough[1].performances:
        assert performance.has_parity
        state, venue = performance.result.run.state[0], performance.result.run.venue[0]
        for name in ("qty", "cost", "wallet_e8"):
            assert state[name] == venue[name], (performance.result.part.bot, name)


def test_every_kind_of_trouble_was_met(rough: Played) -> None:
    met = {what for performance in rough[1].performances for what in performance.incidents}
    assert {"late", "lost", "refused", "partial", "cancelled", "delayed", "doubled"} <= met


def test_the_same_seed_is_the_same_day(tmp_path: Path) -> None:
    days = []
    for name in ("one.db", "two.db"):
        with open_store(f"sqlite:///{name}", folder=tmp_path, create=True) as store:
            [performance] = rehearse(stage.parts(300)[:1], store, rough=5, roughness=HARD).performances
            days.append((performance.folded.state.tobytes(), performance.result.run.fills.tobytes()))
    assert days[0] == days[1]


def test_the_difference_of_a_rough_day_is_explained_to_the_last_unit(rough: Played) -> None:
    store, rehearsal = rough
    for performance in rehearsal.performances:
        part, run = performance.result.part, performance.result.run
        simulated = simulate(part)
        report = model_parity(store, performance, simulated)
        causes = (
            report.price_e8,
            report.timing_e8,
            report.size_e8,
            report.refused_e8,
            report.funding_e8,
            report.outside_e8,
        )
        assert (
            sum(causes)
            == report.total_e8
            == int(run.equity_e8[-1] - simulated.equity_e8[-1]) + _after_the_end(performance)
        )
        assert report.total_e8 != 0 and report.pairs > 0


def _after_the_end(performance: BotRehearsal) -> int:
    "What reports that came after the last bar added to the equity counted at its close."
    result = performance.result
    state, part = result.run.state[0], result.part
    open_steps = int(state["qty"]) * int(part.tape.close[-1]) - int(state["cost"])
    return int(state["wallet_e8"]) + open_steps * part.instrument.rules.unit_e8 - int(result.run.equity_e8[-1])


def test_a_smooth_day_has_nothing_to_explain(smooth: Played) -> None:
    store, rehearsal = smooth
    for performance in rehearsal.performances:
        report = model_parity(store, performance, simulate(performance.result.part))
        assert (report.total_e8, report.only_model, report.only_rehearsal) == (0, 0, 0)
        assert (report.price_e8, report.timing_e8, report.size_e8, report.refused_e8) == (0, 0, 0, 0)


def test_a_clock_event_that_changes_nothing_is_not_journalled(smooth: Played) -> None:
    store, rehearsal = smooth
    for performance in rehearsal.performances:
        events = journal.read(store, performance.result.part.bot, EVENT)
        clocks = int((events["kind"] == EventKind.CLOCK).sum())
        assert 0 < clocks < len(performance.result.part.tape.open_ms) / 2


def test_pauses_are_part_of_the_stage(smooth: Played) -> None:
    notes = {name for performance in smooth[1].performances for name in performance.result.run.notes}
    assert {Note.LOSS_STREAK.name, Note.RESUMED.name} <= notes
