"""What people read follows from the journal: every stored row comes out again when the journal is projected anew."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import stage
from projected import assert_rows_follow_from_the_journal

from autotrader.bots.projection import reproject
from autotrader.config.sections import Risk
from autotrader.core.errors import StoreError
from autotrader.runner.rehearsal import rehearse
from autotrader.store.database import open_store
from autotrader.strategy.setup import Part

BARS = 500


def played(folder: Path, parts: list[Part], rough: int | None, risk: Risk) -> Counter:
    counts: Counter = Counter()
    with open_store("sqlite:///rehearsal.db", folder=folder, create=True) as store:
        rehearse(parts, store, rough=rough, risk=risk)
        for part in parts:
            counts.update(assert_rows_follow_from_the_journal(store, part.bot, part.instrument))
    return counts


@pytest.mark.parametrize("rough", [None, 3, 4])
def test_the_rows_of_a_rehearsal_follow_from_its_journals(tmp_path: Path, rough: int | None) -> None:
    counts = played(tmp_path, stage.parts(BARS), rough, Risk())
    assert min(counts[name] for name in ("Decision", "Order", "Fill", "Trade", "balances")) > 50


def test_vetoes_follow_from_a_journal_with_the_words_kept_beside_it(tmp_path: Path) -> None:
    counts = played(tmp_path, stage.parts(BARS), None, Risk(max_order_notional_usdt=2_000.0))
    assert counts["VETOED"] > 5


def test_liquidations_follow_from_a_journal(tmp_path: Path) -> None:
    part = stage.parts(BARS)[0]
    params, costs = part.params.copy(), part.costs.copy()
    params["sl_ratio"] = 0.0
    costs["maintenance"] = 1.0 / costs["leverage"] - 0.002  # a move of that share of the price, and the venue closes it
    counts = played(tmp_path, [replace(part, params=params, costs=costs)], None, Risk())
    assert counts["ADOPTED"] > 0


def test_a_row_that_was_changed_by_hand_is_found(tmp_path: Path) -> None:
    parts = stage.parts(BARS)[:1]
    with open_store("sqlite:///rehearsal.db", folder=tmp_path, create=True) as store:
        rehearse(parts, store)
        with store.begin() as connection:
            connection.exec_driver_sql("UPDATE orders SET status = 'LIVE' WHERE seq = (SELECT min(seq) FROM orders)")
        with pytest.raises(AssertionError, match="Order"):
            assert_rows_follow_from_the_journal(store, parts[0].bot, parts[0].instrument)


def test_without_a_journal_there_is_nothing_to_project(tmp_path: Path) -> None:
    with (
        open_store("sqlite:///rehearsal.db", folder=tmp_path, create=True) as store,
        pytest.raises(StoreError, match="no journal of nobody"),
    ):
        reproject(store, "nobody", instrument=stage.parts(50)[0].instrument)
