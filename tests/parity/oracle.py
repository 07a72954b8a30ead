"""backtesting.py as a judge from outside: the same trades where both can do the same.

Market orders at the next open, a stop and a target from the entry bar on with the stop first, jumps filled at the open,
opposite signals that close and turn at one open, a commission on both sides. The oracle reads the next open to put its
stop where ours is computed from the fill. A stop that moves is set anew at a bar's close, as a strategy of theirs does it.
"""

import warnings
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from backtesting import Backtest, Strategy
from cases import STEP, TICK, UNIT_E8, record

from autotrader.engine.events import PARAMS, Purpose, StopKind, StopUnit
from autotrader.engine.fills import COSTS
from autotrader.engine.signals import Signals
from autotrader.engine.simulate import Run, run
from autotrader.engine.tape import Tape

CASH = 1_000_000
BAR_MS = 3_600_000
T0 = 1_700_000_000_000 // BAR_MS * BAR_MS


class Market(NamedTuple):
    prices: np.ndarray  # (n, 4) ticks: open, high, low, close
    direction: np.ndarray  # (n,)
    exits: np.ndarray  # (n,)
    atr: np.ndarray  # (n,) price units
    steps: int  # size of each trade
    sl_ratio: float
    tp_ratio: float
    flip: bool
    on_opposite: bool
    fee: float
    sl_kind: StopKind
    sl_unit: StopUnit
    trail_step: float
    break_even_at: float
    round_trip_cost: float

    def distance(self, i: int) -> int:
        "Ticks to the stop of a trade that was decided at bar i."
        counted = self.atr[i] if self.sl_unit == StopUnit.ATR else self.prices[i, 3] * TICK / 100
        return max(1, int(np.floor(self.sl_ratio * counted / TICK + 0.5)))


def random_market(seed: int, n: int) -> Market:
    rng = np.random.default_rng(seed)
    sigma = rng.choice([0.003, 0.01, 0.02])
    closes = 2_000 * np.exp(np.cumsum(rng.normal(0, sigma, n)))
    jumps = np.where(rng.random(n) < 0.3, np.exp(rng.normal(0, 1.5 * sigma, n)), 1.0)
    opens = np.r_[2_000, closes[:-1]] * jumps
    reach = np.exp(np.abs(rng.normal(0, sigma / 2, (2, n))))
    prices = np.rint([opens, np.maximum(opens, closes) * reach[0], np.minimum(opens, closes) / reach[1], closes])
    direction = np.where(rng.random(n) < rng.choice([0.1, 0.5]), rng.choice([-1, 1], n), 0)
    exits = np.where(rng.random(n) < rng.choice([0.0, 0.15]), rng.integers(0, 4, n), 0)
    direction[0] = exits[0] = 0  # the oracle's strategy is asked from the second bar on
    return Market(
        prices.T.astype(np.int64),
        direction,
        exits,
        np.abs(200 * sigma * np.exp(rng.normal(0, 0.3, n))),
        steps=int(rng.integers(1, 200)),
        sl_ratio=float(rng.choice([0.0, 0.7, 2.0])),
        tp_ratio=float(rng.choice([0.0, 0.8, 2.0])),
        flip=bool(rng.random() < 0.7),
        on_opposite=bool(rng.random() < 0.8),
        fee=float(rng.choice([0.0, 0.00055, 0.001])),
        sl_kind=rng.choice([StopKind.FIXED, StopKind.TRAILING, StopKind.BREAK_EVEN]),
        sl_unit=rng.choice(list(StopUnit)),
        trail_step=float(rng.choice([0.0, 0.2, 0.6])),
        break_even_at=float(rng.choice([0.3, 1.0])),
        round_trip_cost=float(rng.choice([0.0, 0.0011])),
    )


# ours ---


def ours(market: Market) -> Run:
    n = len(market.prices)
    none = np.zeros(0, np.int64)
    columns = [np.ascontiguousarray(column) for column in market.prices.T]
    stamps = T0 + np.arange(n, dtype=np.int64) * BAR_MS
    tape = Tape(BAR_MS, stamps, *columns, np.full(n, 10**9), none, none, none, columns[3], none, np.zeros(0))
    params = record(
        PARAMS,
        {
            **{"tick": TICK, "step": STEP, "unit_e8": UNIT_E8, "min_qty": 1, "max_qty": 10**9},
            **{"size": market.steps * STEP, "max_leverage": 100.0, "allow_long": 1, "allow_short": 1},
            **{"sl_ratio": market.sl_ratio, "tp_ratio": market.tp_ratio, "flip": market.flip},
            **{"sl_kind": market.sl_kind, "sl_unit": market.sl_unit, "trail_step": market.trail_step},
            **{"break_even_at": market.break_even_at, "round_trip_cost": market.round_trip_cost},
            **{"exit_on_opposite": market.on_opposite, "max_signal_age_ms": BAR_MS, "resume_size": 1.0},
        },
    )
    costs = record(COSTS, {"unit_e8": UNIT_E8, "taker_fee": market.fee})
    signals = Signals(market.direction, market.exits, np.ones(n))
    return run(tape, signals, market.atr, params=params, costs=costs, wallet_e8=CASH * 10**8)


def our_trades(market: Market, found: Run) -> list[dict[str, Any]]:
    "Finished round trips: each is one entry and one exit here."
    trades = []
    fills = found.fills
    for entry, away in zip(fills[0::2], fills[1::2], strict=False):
        assert entry["purpose"] == Purpose.ENTRY and entry["trip"] == away["trip"]
        bars = [int(fill["ts_ms"] - T0) // BAR_MS for fill in (entry, away)]
        pnl_e8 = int(away["pnl_e8"]) - int(entry["fee_e8"]) - int(away["fee_e8"])
        trades.append(
            {
                "Size": int(entry["side"] * entry["qty"]),
                "EntryBar": bars[0],
                "ExitBar": bars[1],
                "EntryPrice": int(entry["cost"]) // int(entry["qty"]) * TICK,
                "ExitPrice": int(away["cost"]) // int(away["qty"]) * TICK,
                "PnL": pnl_e8 / 1e8,
            }
        )
    return trades


# theirs ---


class Oracle(Strategy):
    market: Market = None  # given by `run`

    def init(self) -> None:
        self.followed: dict[int, int] = {}  # entry bar → price that the stop has followed, ticks

    def follow(self, i: int) -> None:
        "Set the stop of the open trade by this close."
        m, close = self.market, int(self.market.prices[i, 3])
        for trade in self.trades if m.sl_ratio > 0 and m.sl_kind != StopKind.FIXED else ():
            side, start = int(np.sign(trade.size)), trade.entry_bar
            entry, distance = int(m.prices[start, 0]), m.distance(start - 1)
            if m.sl_kind == StopKind.TRAILING:
                best = self.followed.get(start, entry)
                if (close - best) * side >= max(1, int(np.floor(m.trail_step * distance + 0.5))):
                    self.followed[start] = close
                    trade.sl = (close - side * distance) * TICK
                continue
            cost = int(np.floor(m.round_trip_cost * entry + 0.5))
            gain = max(int(np.floor(m.break_even_at * distance + 0.5)), cost + 1)
            if start not in self.followed and (close - entry) * side >= gain:
                self.followed[start] = close
                trade.sl = (entry + side * cost) * TICK

    def next(self) -> None:
        m, i = self.market, len(self.data) - 1
        self.follow(i)
        side = np.sign(self.position.size)
        direction = m.direction[i] if m.direction[i] != side else 0
        if side:
            opposite = direction != 0 and m.on_opposite
            if not (opposite or m.exits[i] & (1 if side > 0 else 2)):
                return
            if not (opposite and m.flip):
                self.position.close()
                return
        if direction and i + 1 < len(m.prices):
            self.enter(int(direction), i)

    def enter(self, side: int, i: int) -> None:
        "A market order whose stop and target hang on the open at which it will fill."
        m = self.market
        order = (self.buy if side > 0 else self.sell)(size=m.steps)
        if m.sl_ratio > 0:
            opening, distance = int(m.prices[i + 1, 0]), m.distance(i)
            levels = {"sl_price": (opening - side * distance) * TICK}
            if m.tp_ratio > 0:
                reach = max(1, int(np.floor(m.tp_ratio * distance + 0.5)))
                levels["tp_price"] = (opening + side * reach) * TICK
            order._replace(**levels)  # `buy` would hold them against the close, which the open may have jumped over


def theirs(market: Market) -> pd.Series:
    "Its unit is one step: cash and prices are scaled, so that a size is a whole number."
    index = pd.to_datetime(T0 + np.arange(len(market.prices)) * BAR_MS, unit="ms")
    prices = pd.DataFrame(market.prices * TICK, columns=["Open", "High", "Low", "Close"], index=index)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        test = Backtest(prices, Oracle, cash=CASH / STEP, commission=market.fee, exclusive_orders=True)
        return test.run(market=market)


# agreed? ---


def assert_same_trades(market: Market, found: Run) -> list[dict[str, Any]]:
    stats = theirs(market)
    expected = stats["_trades"].sort_values("EntryBar", kind="stable").to_dict("records")
    trades = our_trades(market, found)
    assert len(trades) == len(expected)
    for own, their in zip(trades, expected, strict=True):
        assert [own[name] for name in ("Size", "EntryBar", "ExitBar")] == [
            their[name] for name in ("Size", "EntryBar", "ExitBar")
        ]
        np.testing.assert_allclose(
            [own["EntryPrice"], own["ExitPrice"], own["PnL"]],
            [their["EntryPrice"], their["ExitPrice"], their["PnL"] * STEP],
            rtol=1e-12,
            atol=2e-8,  # ours rounds each fee to 1e-8
        )
    equity = stats["_equity_curve"]["Equity"].to_numpy() * STEP
    np.testing.assert_allclose(found.equity_e8 / 1e8, equity, rtol=0, atol=1e-6)
    return trades
