"""The limits in a rehearsal: what they refuse is told and changes nothing else; what they allow stays under the caps."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
import stage

from autotrader.bots.limits import Guard
from autotrader.config.sections import Risk
from autotrader.runner.rehearsal import Rehearsal, rehearse
from autotrader.store.database import Store, open_store
from autotrader.store.tables import BotBalance, Fill, Order, SystemEvent
from autotrader.strategy.setup import Part

TIGHT = Risk(
    max_order_notional_usdt=3_300.0,
    max_bot_notional_usdt=6_000.0,
    max_total_notional_usdt=9_000.0,
    max_orders_per_minute=4,
)
Played = tuple[Store, Rehearsal]


def deep(parts: list[Part]) -> list[Part]:
    "The same bots in a market that fills every order at once."
    for part in parts:
        part.costs["participation"] = 0.0
    return parts


@pytest.fixture(scope="module", params=[None, 4], ids=["smooth", "rough"])
def tight(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Played]:
    with open_store("sqlite:///tight.db", folder=tmp_path_factory.mktemp("tight"), create=True) as store:
        yield store, rehearse(deep(stage.parts()), store, risk=TIGHT, rough=request.param)


def vetoed(store: Store) -> list[sa.Row[tuple[Order]]]:
    with store.session() as session:
        return list(session.scalars(sa.select(Order).where(Order.status == "VETOED")))  # type: ignore[arg-type]


def test_every_refusal_stands_with_its_order_and_among_the_events(tight: Played) -> None:
    store, _ = tight
    refused = vetoed(store)
    assert len(refused) > 20
    with store.read() as connection:
        rows = connection.execute(sa.select(SystemEvent.message).where(SystemEvent.event_type == "VETOED"))
        told = sorted(rows.scalars())
    assert told == sorted(f"{order.bot} order {order.link_id} stays home: {order.reason}" for order in refused)
    for cap in ("max_order_notional_usdt is 3300", "max_bot_notional_usdt is 6000", "max_total_notional_usdt is 9000"):
        assert any(f"risk.{cap}" in str(order.reason) for order in refused), cap


def test_only_entries_are_refused_and_none_of_them_fills(tight: Played) -> None:
    store, _ = tight
    refused = vetoed(store)
    assert {order.purpose for order in refused} <= {"ENTRY", "ADD"}
    with store.read() as connection:
        filled = set(connection.execute(sa.select(Fill.link_id)).scalars())
        exits = connection.execute(sa.select(sa.func.count()).where(Order.purpose == "EXIT")).scalar_one()
    assert exits
    assert not filled & {order.link_id for order in refused}


def test_a_position_stays_under_its_caps_but_for_the_market_itself(tight: Played) -> None:
    store, _ = tight
    drift = 1.06  # no series of the stage moves farther while a position is held
    with store.read() as connection:
        columns = (BotBalance.ts_ms, BotBalance.position_qty, BotBalance.mark_price)
        rows = connection.execute(sa.select(*columns)).all()
        entries = connection.execute(
            sa.select(Order.qty, Fill.price).join(Fill).where(Order.purpose.in_(("ENTRY", "ADD")))
        ).all()
    together: dict[int, float] = {}
    for row in rows:
        notional = float(abs(row.position_qty) * row.mark_price)
        together[row.ts_ms] = together.get(row.ts_ms, 0.0) + notional
        assert notional <= TIGHT.max_bot_notional_usdt * drift
    assert max(together.values()) <= TIGHT.max_total_notional_usdt * drift
    assert max(together.values()) > TIGHT.max_total_notional_usdt / 2, "the caps were in reach"
    assert max(float(row.qty * row.price) for row in entries) <= TIGHT.max_order_notional_usdt * drift


def test_a_journal_with_refusals_folds_to_the_same_state(tight: Played) -> None:
    assert all(performance.has_parity for performance in tight[1].performances)


@pytest.mark.parametrize("rough", [None, 1, 2])
def test_the_shipped_caps_refuse_nothing_of_the_shipped_bots(tmp_path: Path, rough: int | None) -> None:
    with open_store("sqlite:///shipped.db", folder=tmp_path, create=True) as store:
        rehearse(deep(stage.parts(600)), store, rough=rough)
        assert [order.reason for order in vetoed(store)] == []


def test_with_a_guard_that_fails_nothing_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guard, "_exposure", lambda *_: 1 / 0)
    with open_store("sqlite:///broken.db", folder=tmp_path, create=True) as store:
        rehearsal = rehearse(stage.parts(300), store)
        assert all(len(performance.result.run.fills) == 0 for performance in rehearsal.performances)
        assert vetoed(store)
