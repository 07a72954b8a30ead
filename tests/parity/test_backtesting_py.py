"""backtesting.py as a judge from outside: the same trades where both can do the same."""

import itertools

from cases import TICK
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Market, assert_same_trades, ours, random_market
from series import length

from autotrader.engine.events import Purpose, StopKind, StopUnit


def test_backtesting_py_finds_the_same_trades() -> None:
    seen = {"trades": 0, "long": 0, "short": 0, "flips": 0, "stopped in the entry bar": 0, "at once": 0}
    seen |= {"trailing": 0, "break even": 0, "moved by percent": 0, "stopped with a gain": 0}

    @settings(max_examples=length(220, soak=2_200), deadline=None)
    @given(st.builds(random_market, st.integers(0, 2**63 - 1), st.integers(30, 120)))
    def check(market: Market) -> None:
        found = ours(market)
        trades = assert_same_trades(market, found)
        moved = found.notes.get("STOP_MOVED", 0)
        seen["trailing" if market.sl_kind == StopKind.TRAILING else "break even"] += moved
        seen["moved by percent"] += moved * (market.sl_unit == StopUnit.PERCENT)
        fills = found.fills
        seen["stopped with a gain"] += int(((fills["purpose"] == Purpose.STOP) & (fills["pnl_e8"] > 0)).sum())
        opens = market.prices[:, 0] * TICK
        seen["trades"] += len(trades)
        seen["long"] += sum(trade["Size"] > 0 for trade in trades)
        seen["short"] += sum(trade["Size"] < 0 for trade in trades)
        seen["stopped in the entry bar"] += sum(trade["EntryBar"] == trade["ExitBar"] for trade in trades)
        for one, two in itertools.pairwise(trades):
            at_one_open = one["ExitBar"] == two["EntryBar"] and one["ExitPrice"] == opens[one["ExitBar"]]
            seen["flips"] += at_one_open and one["Size"] * two["Size"] < 0
        seen["at once"] += sum(trade["ExitPrice"] == opens[trade["ExitBar"]] for trade in trades)

    check()
    assert min(seen.values()) > 20 and seen["trades"] > 1_000, seen
