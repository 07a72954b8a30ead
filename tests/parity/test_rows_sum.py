"""Rows account for every unit of the wallet: fills, what came from outside, and funding, over random runs of every kind."""

from collections import Counter

import numpy as np
from cases import Case, stopped_case
from hypothesis import given, settings
from hypothesis import strategies as st
from pair import simulated
from series import length

from autotrader.bots.replay import rows_from_outside
from autotrader.engine.events import OUTSIDE, Cause, EventKind, Reason, new_event, new_state
from autotrader.engine.metrics import measure, open_trip, round_trips
from autotrader.engine.simulate import Run

cases = st.builds(stopped_case, st.integers(0, 2**63 - 1), st.integers(40, 200))


def gained(case: Case, found: Run) -> int:
    return int(found.state["wallet_e8"][0]) - case.wallet_e8


def kinds(case: Case, found: Run) -> set[str]:
    "What of the things that used to vanish happened."
    out = {Reason(reason).name for reason in found.fills["purpose"]}
    out |= {"funding"} if len(found.payments) else set()
    out |= {"open at the end"} if found.state["qty"][0] else set()
    out |= {"gaps"} if len(np.unique(np.diff(case.tape.open_ms))) > 1 and len(found.fills) else set()
    return out


def test_rows_sum_to_the_change_of_the_wallet_to_the_last_unit() -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=length(400, soak=5_000), deadline=None)
    @given(cases)
    def check(case: Case) -> None:
        found, unit_e8 = simulated(case), int(case.params["unit_e8"][0])
        fills, paid = found.fills, found.payments
        assert gained(case, found) == fills["pnl_e8"].sum() - fills["fee_e8"].sum() + paid["amount_e8"].sum()
        # and what the rows bought and sold is what is held, at what it cost
        qty, cost = int((fills["side"] * fills["qty"]).sum()), int((fills["side"] * fills["cost"]).sum())
        assert qty == found.state["qty"][0]
        taken = int(
            (fills["purpose"] >= OUTSIDE).sum()
        )  # money that need not be whole ticks × steps: its price is rounded
        assert abs(int(fills["pnl_e8"].sum()) - (int(found.state["cost"][0]) - cost) * unit_e8) <= taken * (unit_e8 - 1)
        assert (found.state["realised_e8"][0], found.state["funding_e8"][0]) == (
            fills["pnl_e8"].sum(),
            paid["amount_e8"].sum(),
        )
        seen.update(kinds(case, found))

    check()
    assert {"LIQUIDATION", "STOP", "EXIT", "funding", "open at the end", "gaps"} <= set(seen)


@settings(max_examples=length(150, soak=2_000), deadline=None)
@given(cases)
def test_trips_and_what_is_open_are_all_there_is(case: Case) -> None:
    found = simulated(case)
    trips, left = round_trips(found), open_trip(found, case.tape)
    stats = measure(found, wallet_e8=case.wallet_e8, bars=len(case.tape.open_ms))
    assert len(left) == stats.open_trips == int(found.state["qty"][0] != 0)
    booked = int(trips["pnl_e8"].sum()) + int(left["pnl_e8"].sum())
    assert booked + int(found.payments["amount_e8"].sum()) == gained(case, found)
    assert int(found.day_equity_e8[-1]) == case.wallet_e8 + gained(case, found) + round(stats.open_pnl * 1e8)


@settings(max_examples=length(150, soak=2_000), deadline=None)
@given(cases)
def test_every_trip_ends_when_and_where_its_last_row_says(case: Case) -> None:
    found = simulated(case)
    ends = {int(fill["trip"]): fill for fill in found.fills}
    for trip in round_trips(found):
        last = ends[int(trip["trip"])]
        assert (trip["closed_ms"], trip["ended"]) == (last["ts_ms"], last["purpose"])
        assert np.isfinite(trip["exit"]) and trip["closed_ms"] > trip["opened_ms"] - 1
    taken = found.fills[found.fills["purpose"] >= OUTSIDE]
    assert len(taken) == found.venue["liquidations"][0]
    margin_e8 = {int(t["trip"]): t["qty"] * t["entry"] for t in round_trips(found)}
    for row in taken:  # the isolated margin of what was held is all that is lost
        share = row["qty"] / sum(f["qty"] for f in found.fills if f["trip"] == row["trip"] and f["side"] != row["side"])
        assert -row["pnl_e8"] <= margin_e8[int(row["trip"])] * share / case.costs["leverage"][0] * 1.2e5


amounts = st.integers(-(10**12), 10**12)
sizes = st.integers(-1_000, 1_000)


@given(was=sizes, held=sizes, prices=st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)), gained=amounts)
def test_whatever_others_do_to_a_position_leaves_rows_for_all_of_it(
    was: int, held: int, prices: tuple[int, int], gained: int
) -> None:
    before = new_state(wallet_e8=10**12)
    before["trip"], before["qty"], before["cost"] = 3, was, was * prices[0]
    after = before.copy()
    after["trip"] += held * was < 0 or (held != 0 and was == 0)
    event = new_event(EventKind.EXTERNAL, 60_000, code=Cause.MANUAL, qty=held, cost=held * prices[1], amount_e8=gained)
    rows = rows_from_outside(event, before, after, 10_000)
    assert (rows["side"] * rows["qty"]).sum() == held - was
    assert (rows["qty"] > 0).all() and (rows["cost"] >= 0).all() and (rows["purpose"] == Reason.MANUAL).all()
    if was or held:
        assert rows["pnl_e8"].sum() == gained
    if was * held < 0:  # turned round: one trip ends, another begins
        assert rows["trip"].tolist() == [3, 4] and rows["qty"].tolist() == [abs(was), abs(held)]
