"""Time other backtesters on the bars and signals of an .npz file; run by an environment that has them (`make bench`).

Usage: peers.py FILE.npz NAME …  with NAME vectorbt, backtesting or targets; prints one JSON document: seconds of each repetition, trades, statistics.
"targets" is vectorbt's portfolio of orders from target weights; its file holds several markets.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

SIZE = 0.1  # base coin per trade
CASH = 1_000_000.0
REPETITIONS = {"vectorbt": 5, "backtesting": 1, "targets": 3}
Answer = dict[str, float]


def vectorbt(bars: pd.DataFrame, direction: np.ndarray, given: dict[str, float]) -> Callable[[], Answer]:
    import vectorbt as vbt

    def work() -> Answer:
        folio = vbt.Portfolio.from_signals(
            bars["Close"],
            entries=direction > 0,
            exits=direction < 0,
            short_entries=direction < 0,
            short_exits=direction > 0,
            open=bars["Open"],
            high=bars["High"],
            low=bars["Low"],
            size=SIZE,
            fees=given["fee"],
            slippage=given["slippage"],
            sl_stop=given["stop"],
            tp_stop=given["target"],
            init_cash=CASH,
            freq="1min",
        )
        value = folio.value()
        daily = value.resample("1D").last().pct_change().dropna()
        trades = folio.trades
        return {
            "trades": float(trades.count()),
            "return": float(folio.total_return()),
            "max_drawdown": float(folio.max_drawdown()),
            "sharpe": float(daily.mean() / daily.std() * np.sqrt(365)),
            "sortino": float(daily.mean() / np.sqrt(np.mean(np.minimum(daily, 0.0) ** 2)) * np.sqrt(365)),
            "var_95": float(-daily.quantile(0.05)),
            "win_rate": float(trades.win_rate()),
            "profit_factor": float(trades.profit_factor()),
            "expectancy": float(trades.expectancy()),
            "exposure": float(folio.position_mask().mean()),
            "fees": float(folio.orders.fees.sum()),
        }

    return work


def backtesting(bars: pd.DataFrame, direction: np.ndarray, given: dict[str, float]) -> Callable[[], Answer]:
    import backtesting as bt

    bt.backtesting._tqdm = lambda rows, **_: rows  # no progress bar

    class Follow(bt.Strategy):
        def init(self) -> None:
            self.side = self.I(lambda: direction, name="side")

        def next(self) -> None:
            side, price = self.side[-1], self.data.Close[-1]
            if side > 0 and not self.position.is_long:
                self.position.close()
                self.buy(size=1, sl=price * (1 - given["stop"]), tp=price * (1 + given["target"]))
            elif side < 0 and not self.position.is_short:
                self.position.close()
                self.sell(size=1, sl=price * (1 + given["stop"]), tp=price * (1 - given["target"]))

    def work() -> Answer:
        test = bt.Backtest(bars, Follow, cash=CASH, commission=given["fee"], spread=given["slippage"])
        found = test.run()
        return {"trades": float(found["# Trades"]), "max_drawdown": -float(found["Max. Drawdown [%]"]) / 100}

    return work


def targets(path: str) -> dict[str, Any]:
    "Orders from weights of the equity at each close, at the next open, with one purse; the same valuation as ours."
    import vectorbt as vbt

    with np.load(path) as file:
        opens, closes, weights, fee, cash = (file[name] for name in ("opens", "closes", "weights", "fee", "cash"))
        index = pd.DatetimeIndex(file["open_ms"].astype("datetime64[ms]"))
    before = np.vstack([closes[:1], closes[:-1]])
    size = np.vstack([np.full((1, weights.shape[1]), np.nan), weights[:-1]])

    def work(n: int) -> dict[str, Any]:
        folio = vbt.Portfolio.from_orders(
            pd.DataFrame(closes[:n], index=index[:n]),
            size=size[:n],
            size_type="targetpercent",
            price=opens[:n],
            val_price=before[:n],
            fees=float(fee),
            init_cash=float(cash),
            group_by=True,
            cash_sharing=True,
            freq="1min",
        )
        value = folio.value()
        daily = value.resample("1D").last().pct_change().dropna()
        orders = folio.orders
        return {
            "orders": int(orders.count()),
            "fees": float(orders.fees.sum()),
            "end": float(value.iloc[-1]),
            "sharpe": float(daily.mean() / daily.std() * np.sqrt(365)),
            "max_drawdown": float(folio.max_drawdown()),
        }

    work(5_000)
    seconds = []
    for _ in range(REPETITIONS["targets"]):
        start = time.process_time()
        found = work(len(closes))
        seconds.append(time.process_time() - start)
    return {"targets": {"seconds": seconds, **found}}


def main(path: str, names: list[str]) -> None:
    warnings.simplefilter("ignore")
    if names == ["targets"]:
        print(json.dumps(targets(path)))
        return
    with np.load(path) as file:
        columns = {name.title(): file[name] for name in ("open", "high", "low", "close", "volume")}
        index = pd.DatetimeIndex(file["open_ms"].astype("datetime64[ms]"))
        direction = file["direction"]
        given = {name: float(file[name]) for name in ("fee", "slippage", "stop", "target")}
    bars = pd.DataFrame(columns, index=index)
    makers: dict[str, Callable[..., Callable[[], Answer]]] = {"vectorbt": vectorbt, "backtesting": backtesting}
    answer: dict[str, Any] = {}
    for name in names:
        makers[name](bars.iloc[:5_000], direction[:5_000], given)()  # compiles and imports
        work, seconds = makers[name](bars, direction, given), []
        for _ in range(REPETITIONS[name]):
            start = time.process_time()
            found = work()
            seconds.append(time.process_time() - start)
        answer[name] = {"seconds": seconds, **found}
    print(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
