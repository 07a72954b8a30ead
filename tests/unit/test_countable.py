"""Numbers that cannot be held: money beyond 64 bits is an error that says so, never another number."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from series import length

import autotrader as at
from autotrader.core.errors import AutotraderError, DataError
from autotrader.core.market import MOST_E8, Candles
from autotrader.data.instruments import known
from autotrader.engine.events import OUTSIDE, Sizing
from autotrader.engine.metrics import measure
from autotrader.engine.simulate import Run
from autotrader.strategy.setup import simulate

HOUR_MS = 3_600_000


class Buy:
    "Long from the hundredth bar on."

    name, warmup = "buy", 0

    def signals(self, candles: Candles) -> at.Signals:
        direction = np.zeros(len(candles), np.int8)
        direction[100:101] = 1
        return at.Signals(direction, np.zeros(len(candles), np.int8), np.ones(len(candles)))


def market(growth: float, bars: int = 160) -> Candles:
    "Prices that stand still for a hundred bars, then grow by so much from bar to bar."
    close = 30_000.0 * growth ** np.maximum(np.arange(bars) - 100, 0)
    opened = np.r_[close[0], close[:-1]]
    high, low = np.maximum(opened, close) * 1.001, np.minimum(opened, close) * 0.999
    columns = {"open": opened, "high": high, "low": low, "close": close}
    return Candles(
        venue="bybit",
        symbol="BTCUSDT",
        timeframe="1h",
        open_ms=1_704_067_200_000 + np.arange(bars, dtype=np.int64) * HOUR_MS,
        volume=np.full(bars, 1e12),
        **{name: np.round(column, 1) for name, column in columns.items()},
    )


BTC = known("bybit", "BTCUSDT")
DEEP = replace(BTC, rules=replace(BTC.rules, max_qty=Decimal(10**9), max_market_qty=Decimal(10**9)))


def whole(capital: float, leverage: float) -> dict[str, Any]:
    sizes = {"sizing": "equity_frac", "equity_frac": leverage, "max_leverage": leverage}
    return {"initial_capital_usdt": capital, "strategy_params": {"sl_ratio": 500.0, "tp_ratio": 400.0}, **sizes}


def exact_gain(found: Run, unit_e8: int) -> int:
    "What the wallet must have gained, in whole numbers of any size."
    rows = [{name: int(row[name]) for name in ("side", "cost", "fee_e8", "purpose")} for row in found.fills]
    paid = sum(row["side"] * row["cost"] for row in rows) - int(found.state["cost"][0])
    fees, funding = sum(row["fee_e8"] for row in rows), sum(map(int, found.payments["amount_e8"]))
    return -paid * unit_e8 - fees + funding


@settings(max_examples=length(40, soak=400), deadline=None)
@given(
    capital=st.floats(1e3, 3e10),
    leverage=st.sampled_from([0.5, 1.0, 3.0, 10.0]),
    growth=st.sampled_from([0.9, 0.999, 1.0, 1.001, 1.01, 1.1, 1.5]),
)
def test_a_result_is_exact_or_there_is_none(capital: float, leverage: float, growth: float) -> None:
    costs = {"leverage": 10.0, "participation_cap": 0.0}
    try:
        result = at.backtest(
            Buy(), market(growth), bot=whole(capital, leverage), costs=costs, instrument=DEEP, config="nowhere.toml"
        )
    except AutotraderError as error:
        assert "initial_capital_usdt" in str(error) and "\n" not in str(error)
        assert capital * leverage * max(1.0, growth**60) > 1e9
        return
    part, found = result.part, result.run
    unit_e8 = part.instrument.rules.unit_e8
    rounded = int((found.fills["purpose"] >= OUTSIDE).sum()) * (unit_e8 - 1)  # in the price of a liquidation
    assert abs(int(found.state["wallet_e8"][0]) - part.wallet_e8 - exact_gain(found, unit_e8)) <= rounded
    worth = int(found.state["qty"][0]) * int(part.tape.close[-1]) - int(found.state["cost"][0])
    assert int(found.equity_e8[-1]) == int(found.state["wallet_e8"][0]) + worth * unit_e8
    assert len(found.fills) or capital < 1e4
    assert (np.abs(found.equity_e8) <= MOST_E8).all() and found.equity_e8.min() >= 0
    stats = measure(found, wallet_e8=part.wallet_e8, bars=160)
    assert stats.return_frac >= -1.0 and 0.0 <= stats.max_drawdown <= 2.0


def test_an_account_that_grows_out_of_what_can_be_counted_is_told_when() -> None:
    "A billion in a market that doubles every four hours, from the hundredth hour on: 23 billion are passed within the next day."
    held = {"bot": whole(1e9, 1.0), "costs": {"participation_cap": 0.0}, "instrument": DEEP}
    grown = market(2**0.25)
    assert at.backtest(Buy(), grown[:114], **held, config="nowhere.toml").stats.pnl > 5e9
    with pytest.raises(
        DataError, match=r"from 2024-01-05T.* on, a wallet with its position of 2\d,\d{3},\d{3},\d{3} quote coin"
    ):
        at.backtest(Buy(), grown, **held, config="nowhere.toml")
    with pytest.raises(DataError, match="cannot be counted in units of 1e-8"):
        at.rehearse(Buy(), grown, **held, risk=dict.fromkeys(CAPS, 1e10))


CAPS = ("max_order_notional_usdt", "max_bot_notional_usdt", "max_total_notional_usdt")


def test_a_size_beyond_all_numbers_is_cut_like_any_other() -> None:
    "A lot that no 64 bits can hold, where leverage allows a hundred thousand: cut, and nothing wraps."
    part = at.backtest(Buy(), market(1.0001), bot=whole(1e5, 1.0), instrument=DEEP, config="nowhere.toml").part
    params = part.params.copy()
    params["sizing"], params["size"] = Sizing.LOT, 1e300
    found = simulate(replace(part, params=params))
    assert found.notes["SIZE_CAPPED"] == 1
    assert found.fills["cost"][0] * part.instrument.rules.unit_e8 / 1e8 == pytest.approx(1e5, rel=1e-3)


def test_a_price_of_more_ticks_than_a_float_tells_apart_is_refused() -> None:
    dear = market(1.0)
    dear = Candles(**{name: getattr(dear, name) for name in ("venue", "symbol", "timeframe", "open_ms", "volume")},
                   **{name: getattr(dear, name) * 1e12 for name in ("open", "high", "low", "close")})  # fmt: skip
    with pytest.raises(DataError, match="coarser tick_size"):
        at.backtest(Buy(), dear, bot=whole(1e5, 1.0), config="nowhere.toml")
