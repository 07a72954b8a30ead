"""Every coin is accounted for: at each bar, in each table, and summed over the bots."""

from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise

import pytest
import sqlalchemy as sa
import stage

from autotrader.runner.rehearsal import Rehearsal, rehearse
from autotrader.store.database import Store, open_store
from autotrader.store.tables import BotBalance, Fill, Order, PortfolioHistory, Trade

Played = tuple[Store, Rehearsal]


@pytest.fixture(scope="module", params=[None, 4], ids=["smooth", "rough"])
def played(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Played]:
    with open_store("sqlite:///rehearsal.db", folder=tmp_path_factory.mktemp("desk"), create=True) as store:
        yield store, rehearse(stage.parts(), store, rough=request.param)


def _rows(store: Store, query: sa.Select) -> list[sa.Row]:
    with store.read() as connection:
        return list(connection.execute(query).all())


def test_the_wallet_moves_by_cash_flow_plus_funding_less_fees_at_every_bar(played: Played) -> None:
    store, rehearsal = played
    for performance in rehearsal.performances:
        part = performance.result.part
        ordered = sa.select(BotBalance).where(BotBalance.bot == part.bot).order_by(BotBalance.ts_ms)
        rows = _rows(store, ordered)
        assert len(rows) > 200
        for before, after in pairwise(rows):
            cash_flow = after.realised_usdt - before.realised_usdt
            fees = after.fees_usdt - before.fees_usdt
            funding = after.funding_usdt - before.funding_usdt
            assert after.wallet_usdt - before.wallet_usdt == cash_flow + funding - fees


def test_the_fills_account_for_every_movement_of_the_wallet(played: Played) -> None:
    for performance in played[1].performances:
        part, run = performance.result.part, performance.result.run
        unit = part.instrument.rules.unit_e8
        fills = run.fills
        paid = int((fills["side"] * fills["cost"]).sum()) - int(run.state["cost"][0])
        moved = int(run.state["wallet_e8"][0]) - part.wallet_e8
        assert int(run.payments["amount_e8"].sum()) == int(run.state["funding_e8"][0])
        assert moved == -paid * unit + int(run.state["funding_e8"][0]) - int(fills["fee_e8"].sum())


def test_bot_and_venue_keep_the_same_books(played: Played) -> None:
    for performance in played[1].performances:
        state, venue = performance.result.run.state[0], performance.result.run.venue[0]
        for name in ("wallet_e8", "qty", "cost", "realised_e8", "fees_e8", "funding_e8"):
            assert state[name] == venue[name], name


def test_the_sum_of_the_bots_is_the_portfolio_row(played: Played) -> None:
    store, _ = played
    sums: dict[int, Decimal] = {}
    for row in _rows(store, sa.select(BotBalance.ts_ms, BotBalance.equity_usdt)):
        sums[row.ts_ms] = sums.get(row.ts_ms, Decimal(0)) + row.equity_usdt
    portfolio = _rows(store, sa.select(PortfolioHistory))
    assert len(portfolio) == len(sums) > 900
    for row in portfolio:
        assert row.total_balance_usdt == sums[int(row.timestamp.timestamp() * 1000)]
        parts = (row.sub_bot_A_balance, row.sub_bot_B_balance, row.sub_bot_C_balance)
        assert row.total_balance_usdt == sum(parts) + row.profit_saved_balance


def test_trades_hold_one_row_per_executed_order_and_sum_to_the_fills(played: Played) -> None:
    store, rehearsal = played
    for performance in rehearsal.performances:
        part, run = performance.result.part, performance.result.run
        trades = _rows(store, sa.select(Trade).where(Trade.sub_bot_name == part.bot))
        assert len({trade.order_id for trade in trades}) == len(trades)
        assert sum(trade.pnl for trade in trades) * 10**8 == int(run.fills["pnl_e8"].sum())
        assert sum(trade.fee for trade in trades) * 10**8 == int(run.fills["fee_e8"].sum())
        bought = sum(trade.quantity * (1 if trade.side == "BUY" else -1) for trade in trades)
        assert bought == part.instrument.qty(int(run.state["qty"][0]))
        assert all(trade.entry_reason for trade in trades)


def test_the_fills_table_holds_every_fill_once(played: Played) -> None:
    store, rehearsal = played
    for performance in rehearsal.performances:
        part, run = performance.result.part, performance.result.run
        mine = sa.select(Fill).join(Order, Fill.link_id == Order.link_id).where(Order.bot == part.bot)
        rows = _rows(store, mine)
        assert len(rows) == len(run.fills)
        assert sum(row.fee for row in rows) * 10**8 == int(run.fills["fee_e8"].sum())


def test_every_order_has_a_name_the_result_can_print(played: Played) -> None:
    for performance in played[1].performances:
        for fill in performance.result.run.fills:
            link = performance.links[int(fill["trip"]), int(fill["key"])]
            assert 0 < len(link) <= 36


def test_no_order_is_left_open_in_the_books(played: Played) -> None:
    store, _ = played
    open_ones = _rows(store, sa.select(Order).where(Order.status.in_(("INTENT", "UNKNOWN", "CANCELLING"))))
    assert open_ones == []
