"""P11: ten markets, a year of minutes, target weights and one purse, beside vectorbt with the same orders in the same run."""

import json
import os
import statistics
import subprocess
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotrader.core.clock import parse_time
from autotrader.core.market import Candles, Instrument, VenueRules
from autotrader.engine.events import PARAMS
from autotrader.engine.fills import new_costs
from autotrader.engine.metrics import equity_returns, sharpe_ratio
from autotrader.engine.portfolio import Leg, PortfolioRun, make_stack, run_portfolio
from autotrader.engine.signals import from_targets
from autotrader.engine.tape import Stack, make_tape

MARKETS, YEAR, MINUTE = 10, 525_600, 60_000
CASH_E8 = 1_000_000 * 10**8
REACH = {"a day": 10, "an hour": 4}  # an order costs us its events, and vectorbt hardly more than a bar without one
EVERY = {"a day": 1_440, "an hour": 60}  # bars between two weights
RULES = VenueRules(
    tick_size=Decimal("0.01"),
    qty_step=Decimal("0.000001"),
    min_qty=Decimal("0.000001"),
    max_qty=Decimal(10**7),
    max_market_qty=Decimal(10**7),
    min_notional=Decimal(0),
    maker_fee=Decimal("0.00002"),
    taker_fee=Decimal("0.00005"),
    max_leverage=Decimal(100),
    maintenance_margin=Decimal("0.005"),
)


def market(j: int) -> Candles:
    random = np.random.default_rng(j)
    close = np.round(1_000 * np.exp(np.cumsum(random.normal(0, 0.0005, YEAR))), 2)
    opens = np.round(np.r_[1_000.0, close[:-1]] * np.exp(random.normal(0, 0.0001, YEAR)), 2)
    return Candles(
        venue="bench",
        symbol=f"M{j}USDT",
        timeframe="1m",
        open_ms=parse_time("2024-07-01") + np.arange(YEAR, dtype=np.int64) * MINUTE,
        open=opens,
        high=np.maximum(opens, close),
        low=np.minimum(opens, close),
        close=close,
        volume=np.full(YEAR, 1e6),
    )


def weights(j: int, every: int) -> np.ndarray:
    "Up to ±9 % of the equity, said once in so many bars."
    said = np.random.default_rng(100 + j).uniform(-0.09, 0.09, -(-YEAR // every))
    column = np.full(YEAR, np.nan)
    column[::every] = said
    return column


@pytest.fixture(scope="module")
def tapes() -> list[Any]:
    made = [market(j) for j in range(MARKETS)]
    return [(c, make_tape(c, Instrument(venue="bench", symbol=c.symbol, rules=RULES))) for c in made]


def legs(tapes: list[Any], every: int) -> list[Leg]:
    params, found = np.zeros(1, PARAMS), []
    for name, value in {
        **{
            "tick": 0.01,
            "step": 0.000001,
            "unit_e8": RULES.unit_e8,
            "min_qty": 1,
            "max_qty": 10**13,
            "max_leverage": 3.0,
        },
        **{"allow_long": 1, "allow_short": 1, "max_signal_age_ms": MINUTE, "resume_size": 1.0},
    }.items():
        params[name] = value
    for j, (candles, tape) in enumerate(tapes):
        column = weights(j, every)
        signals = from_targets(np.nan_to_num(column))  # checked, then silent between two words
        object.__setattr__(signals, "weight", column)
        costs = new_costs(Instrument(venue="bench", symbol=candles.symbol, rules=RULES))
        found.append(
            Leg(tape=tape, signals=signals, atr=np.ones(YEAR), params=params, costs=costs, wallet_e8=CASH_E8 // MARKETS)
        )
    return found


def whole(given: list[Leg], stack: Stack) -> tuple[PortfolioRun, float | None]:
    run = run_portfolio(given, stack=stack, curve=False)
    return run, sharpe_ratio(equity_returns(np.r_[CASH_E8, run.day_equity_e8]))


def by_vectorbt(tapes: list[Any], every: int, folder: Path) -> dict[str, Any] | None:
    python = os.environ.get("AUTOTRADER_PEERS")
    if not python:
        return None
    columns = {name: np.column_stack([getattr(c, name) for c, _ in tapes]) for name in ("open", "close")}
    wanted = np.column_stack([weights(j, every) for j in range(MARKETS)])
    path, tool = folder / "markets.npz", Path(__file__).resolve().parents[2] / "tools" / "peers.py"
    np.savez(
        path, opens=columns["open"], closes=columns["close"], weights=wanted, fee=0.00005, cash=CASH_E8 / 1e8, open_ms=tapes[0][0].open_ms
    )  # fmt: skip
    done = subprocess.run([python, tool, path, "targets"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["targets"]
    return found


@pytest.mark.parametrize("often", EVERY)
def test_bench_a_portfolio_of_ten_years_of_minutes(
    often: str, tapes: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, stack = legs(tapes, EVERY[often]), make_stack([tape for _, tape in tapes])
    run, _ = whole(given, stack)
    times = []
    for _ in range(7):
        start = time.thread_time()
        whole(given, stack)
        times.append(time.thread_time() - start)
    ours_s, fills = statistics.median(times), sum(len(each.fills) for each in run.runs)
    theirs = by_vectorbt(tapes, EVERY[often], tmp_path)
    lines = [f"P11 {MARKETS} × {YEAR:,} minutes, a weight {often}, {fills:,} fills, one purse: {ours_s * 1e3:.0f} ms"]
    if theirs is not None:
        theirs_s = statistics.median(theirs["seconds"])
        end = run.day_equity_e8[-1] / 1e8
        lines.append(
            f"vectorbt: {theirs_s * 1e3:,.0f} ms, {theirs['orders']:,} orders: {theirs_s / ours_s:.1f}× ours (reach {REACH[often]}×); "
            f"equity at the end {theirs['end']:,.2f}, ours {end:,.2f}"
        )
        assert theirs["end"] == pytest.approx(end, rel=1e-5)
        assert theirs["fees"] == pytest.approx(
            sum(float(each.fills["fee_e8"].sum()) for each in run.runs) / 1e8, rel=1e-4
        )
        assert theirs["max_drawdown"] == pytest.approx(-run.max_drawdown, rel=1e-3)
    with capsys.disabled():
        print("\n" + "\n   ".join(lines))
    if theirs is not None:
        assert theirs_s / ours_s >= REACH[often]
