"""Recorded Bybit hours through the whole floor, half a year or in `make soak` a year: three bots, everything the configuration ships with."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from series import IS_SOAK

from autotrader.config import settings as configuration
from autotrader.core.clock import SystemClock, parse_time
from autotrader.data.importers import import_folder
from autotrader.engine.events import Purpose
from autotrader.runner.parity import decision_parity, model_parity
from autotrader.runner.rehearsal import Rehearsal, rehearse
from autotrader.search.task import prepare
from autotrader.store.database import Store, open_store
from autotrader.strategy.setup import Part, simulate

pytestmark = pytest.mark.realdata

SINCE, UNTIL = parse_time("2025-03-08"), parse_time("2026-03-05" if IS_SOAK else "2025-09-05")


@pytest.fixture(scope="module")
def parts(data_dir: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Part]]:
    "The shipped bots on the recorded year."
    settings = configuration.load(root / "config.toml")
    with open_store("sqlite:///market.db", folder=tmp_path_factory.mktemp("market"), create=True) as store:
        import_folder(store, data_dir, venue="bybit", timeframe="1h", clock=SystemClock())
        yield [prepare(bot, store, settings.backtest, since_ms=SINCE, until_ms=UNTIL) for bot in settings.sub_bots]


@pytest.fixture(scope="module")
def played(parts: list[Part], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Rehearsal]]:
    with open_store("sqlite:///rehearsal.db", folder=tmp_path_factory.mktemp("desk"), create=True) as store:
        yield store, rehearse(parts, store)


def test_three_bots_equal_the_backtest_to_the_integer(played: tuple[Store, Rehearsal]) -> None:
    store, rehearsal = played
    assert len(rehearsal.performances) == 3
    for performance in rehearsal.performances:
        simulated = simulate(performance.result.part)
        np.testing.assert_array_equal(performance.result.run.fills, simulated.fills)
        np.testing.assert_array_equal(performance.result.run.equity_e8, simulated.equity_e8)
        assert decision_parity(store, performance.result.part.bot).is_exact


def test_the_bots_show_everything_they_can_do(played: tuple[Store, Rehearsal]) -> None:
    for performance in played[1].performances:
        result = performance.result
        purposes = set(result.run.fills["purpose"].tolist())
        assert {Purpose.ENTRY, Purpose.ADD, Purpose.EXIT, Purpose.STOP, Purpose.TARGET} <= purposes
        assert result.stats.trades >= 50
        assert result.stats.funding != 0
        assert set(result.run.tiers) == {0.5, 0.75, 1.0}


def test_a_rough_time_is_explained_to_the_last_unit(parts: list[Part], tmp_path: Path) -> None:
    part = parts[0]
    with open_store("sqlite:///rough.db", folder=tmp_path, create=True) as store:
        [performance] = rehearse([part], store, rough=1).performances
        assert decision_parity(store, part.bot).is_exact
        report = model_parity(store, performance, simulate(part))
    causes = (
        report.price_e8,
        report.timing_e8,
        report.size_e8,
        report.refused_e8,
        report.funding_e8,
        report.outside_e8,
    )
    assert sum(causes) == report.total_e8 != 0
    assert report.pairs > 0.7 * len(np.unique(performance.result.run.fills["trip"]))
