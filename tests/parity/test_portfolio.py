"""Bots that share their money: the compiled loop against the plain one, and against what it is alone."""

from collections import Counter

import numpy as np
import pytest
from cases import HOUR_MS, STEP, TICK, UNIT_E8, Case, stopped_case
from hypothesis import given, settings
from hypothesis import strategies as st
from pair import comparable, simulated, state_of
from reference import Desk, Market, simulate_together
from series import length

from autotrader.core.errors import DataError
from autotrader.engine.events import PARAMS, Exit, Purpose, Reason
from autotrader.engine.fills import COSTS
from autotrader.engine.portfolio import Leg, PortfolioRun, make_stack, run_portfolio
from autotrader.engine.signals import Signals
from autotrader.engine.tape import Tape

seeds = st.integers(0, 2**63 - 1)


def on_hours(case: Case, shift: int, gone: np.ndarray) -> Case:
    "The same case on hourly bars that begin so many hours later, without those that are gone; its own bars are as fine."
    tape, keep = case.tape, ~gone[: len(case.tape.open_ms)]
    start = 1_699_999_200_000 + shift * HOUR_MS
    columns = {
        name: np.ascontiguousarray(getattr(tape, name)[keep]) for name in ("open", "high", "low", "close", "volume")
    }
    marks = {
        name: getattr(tape, name)[keep].copy() if len(tape.mark_high) else tape.mark_high
        for name in ("mark_high", "mark_low")
    }
    open_ms = (start + np.arange(len(keep), dtype=np.int64) * HOUR_MS)[keep]
    stamps = start + np.arange(len(tape.funding_ms), dtype=np.int64) * 5 * HOUR_MS
    made = Tape(
        HOUR_MS, open_ms, *columns.values(), *marks.values(), np.zeros(0, np.int64), columns["close"], stamps, tape.funding_rate
    )  # fmt: skip
    m = len(open_ms)
    spread = {name: np.resize(column, m) for name, column in case.signals.columns().items()}
    return case._replace(tape=made, signals=type(case.signals)(**spread), atr=np.resize(case.atr, m))


def together(seed: int, k: int, n: int) -> list[Case]:
    "Up to four bots on markets of one clock, with holes, that begin and end at other hours; their wallets are of one size."
    rng = np.random.default_rng([seed, 3])
    wallet_e8 = int(rng.choice([1_000, 20_000])) * 10**8
    cases = []
    for j in range(k):
        case = stopped_case(seed + j, n)
        gone = rng.random(n) < rng.choice([0.0, 0.0, 0.1])
        gone[0] = False
        cases.append(on_hours(case, int(rng.integers(0, 6)), gone)._replace(wallet_e8=wallet_e8))
    return cases


def legs_of(cases: list[Case]) -> list[Leg]:
    return [
        Leg(tape=c.tape, signals=c.signals, atr=c.atr, params=c.params, costs=c.costs, wallet_e8=c.wallet_e8)
        for c in cases
    ]


def assert_same(found: PortfolioRun, other: PortfolioRun) -> None:
    assert found.equity_e8.tolist() == other.equity_e8.tolist()
    assert found.day_equity_e8.tolist() == other.day_equity_e8.tolist()
    assert found.max_drawdown == other.max_drawdown
    for one, two in zip(found.runs, other.runs, strict=True):
        assert one.fills.tobytes() == two.fills.tobytes()
        assert one.stops.tobytes() == two.stops.tobytes()
        assert one.payments.tobytes() == two.payments.tobytes()
        assert one.equity_e8.tolist() == two.equity_e8.tolist()
        assert (one.notes, one.tiers, one.held) == (two.notes, two.tiers, two.held)


def test_a_portfolio_equals_the_reference_to_the_last_integer() -> None:
    seen: Counter = Counter()

    @settings(max_examples=length(150, soak=2_000), deadline=None)
    @given(seeds, st.integers(2, 4), st.integers(40, 120))
    def check(seed: int, k: int, n: int) -> None:
        cases = together(seed, k, n)
        markets = [Market(c.tape, c.signals, c.atr, Desk(c.params, c.costs, c.wallet_e8)) for c in cases]
        worth = simulate_together(markets)
        found = run_portfolio(legs_of(cases), shortcuts=False)
        assert found.equity_e8.tolist() == worth
        for run, market in zip(found.runs, markets, strict=True):
            desk = market.desk
            assert [tuple(fill) for fill in run.fills.tolist()] == [tuple(map(int, fill)) for fill in desk.fills]
            assert run.payments.tolist() == desk.payments
            assert run.equity_e8.tolist() == desk.equity_e8
            assert run.notes == dict(desk.notes)
            assert state_of(run.state) == comparable(desk.bot.as_state())
            seen.update(Reason(f.purpose).name for f in desk.fills)
            seen.update(desk.notes)
            seen["holes"] += len(run.equity_e8) < len(found.open_ms)
        peak = np.maximum.accumulate(np.r_[sum(c.wallet_e8 for c in cases), worth])
        assert found.max_drawdown == pytest.approx(float(np.max((peak - np.r_[peak[0], worth]) / peak)), abs=1e-12)

    check()
    assert not {*(p.name for p in Purpose), "LIQUIDATION", "DRAWDOWN", "DAILY_LOSS", "RESIZED", "holes"} - set(seen)


@settings(max_examples=length(100, soak=1_500), deadline=None)
@given(seeds, st.integers(1, 4), st.integers(40, 400))
def test_the_short_cuts_of_a_portfolio_change_nothing(seed: int, k: int, n: int) -> None:
    legs = legs_of(together(seed, k, n))
    assert_same(run_portfolio(legs), run_portfolio(legs, shortcuts=False))


@settings(max_examples=length(60, soak=600), deadline=None)
@given(st.builds(stopped_case, seeds, st.integers(40, 300)))
def test_one_leg_alone_is_the_lone_backtest(case: Case) -> None:
    alone, found = simulated(case), run_portfolio(legs_of([case]))
    (run,) = found.runs
    assert run.fills.tobytes() == alone.fills.tobytes()
    assert run.payments.tobytes() == alone.payments.tobytes()
    assert found.equity_e8.tolist() == run.equity_e8.tolist() == alone.equity_e8.tolist()
    assert (run.notes, run.tiers, run.held) == (alone.notes, alone.tiers, alone.held)
    assert found.max_drawdown == pytest.approx(alone.max_drawdown, abs=1e-15)


def steady(price: int, moves: dict[int, tuple[int, int]]) -> Tape:
    "A hundred minutes at one price but for (lowest, close) of some bars; from a close on it stays there until the next."
    low = close = np.full(100, price, np.int64)
    low, close = low.copy(), close.copy()
    for i, (lowest, last) in moves.items():
        low[i], close[i:], low[i + 1 :] = lowest, last, last
    opens, none = np.r_[price, close[:-1]], np.zeros(0, np.int64)
    stamps = 1_699_999_200_000 + np.arange(100, dtype=np.int64) * 60_000
    highs, volume = np.maximum(opens, close), np.full(100, 10**9)
    return Tape(
        60_000, stamps, opens, highs, np.minimum(low, opens), close, volume, none, none, none, close, none, np.zeros(0)
    )


def levered(tape: Tape, coins: float, exit_at: int) -> Leg:
    "Buys so many coins after the first close, at ten times its margin, and leaves after that of bar `exit_at`."
    params, costs = np.zeros(1, PARAMS), np.zeros(1, COSTS)
    for name, value in {
        "tick": TICK, "step": STEP, "unit_e8": UNIT_E8, "min_qty": 1, "max_qty": 10**9, "size": coins, "max_leverage": 10.0, "split_count": 1,
        "allow_long": 1, "max_signal_age_ms": 60_000, "resume_size": 1.0,
    }.items():  # fmt: skip
        params[name] = value
    costs["unit_e8"], costs["leverage"], costs["maintenance"] = UNIT_E8, 10.0, 0.005
    direction, exits = np.zeros((2, 100), np.int8)
    direction[0], exits[exit_at] = 1, Exit.LONG
    signals = Signals(direction, exits, np.ones(100))
    return Leg(tape=tape, signals=signals, atr=np.ones(100), params=params, costs=costs, wallet_e8=5_000 * 10**8)


@pytest.mark.parametrize("dip_at", [6, 40])  # a bar, and one within a block of bars
def test_what_one_leg_loses_no_longer_stands_behind_the_margin_of_another(dip_at: int) -> None:
    """80,000 held on 8,000 of margin are liquidated at 90.5. The other leg loses 4,000 of the 10,000 in the purse: 6,000 are left behind the
    position, gone at 93, and a dip to 92 takes it."""
    holder = levered(steady(1_000, {dip_at: (920, 1_000)}), 800.0, 99)
    loser = levered(steady(500, {2: (460, 460)}), 1_000.0, 2)
    full = run_portfolio([holder, loser], shortcuts=False)
    assert int(full.runs[1].fills["pnl_e8"].sum()) == -4_000 * 10**8
    assert [Reason(int(purpose)) for purpose in full.runs[0].fills["purpose"]] == [Reason.ENTRY, Reason.LIQUIDATION]
    assert_same(run_portfolio([holder, loser]), full)
    assert_same(
        run_portfolio([holder, loser], curve=False), run_portfolio([holder, loser], curve=False, shortcuts=False)
    )


def test_the_books_of_the_legs_add_up_to_the_purse() -> None:
    for seed in range(40):
        cases = together(seed, 3, 200)
        found = run_portfolio(legs_of(cases))
        wallets = sum(int(run.state["wallet_e8"][0]) for run in found.runs)
        moved = sum(
            int(run.fills["pnl_e8"].sum() - run.fills["fee_e8"].sum() + run.payments["amount_e8"].sum())
            for run in found.runs
        )
        assert wallets - sum(case.wallet_e8 for case in cases) == moved
        assert found.equity_e8.min() >= 0 or not cases[0].costs["leverage"][0]


def test_tapes_that_do_not_belong_together_are_refused() -> None:
    case = stopped_case(1, 60)
    hours = on_hours(case, 0, np.zeros(60, bool)).tape
    with pytest.raises(DataError, match="bars of 60 min, 1 min: bring them to one length"):
        make_stack([hours, hours._replace(bar_ms=60_000)])
    with pytest.raises(
        DataError, match=r"one market begins at .*, another ends at .*: a portfolio wants a common period"
    ):
        make_stack([hours, hours._replace(open_ms=hours.open_ms + 1_000 * HOUR_MS)])
