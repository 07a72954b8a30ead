"""The engine against a slow reference written from its prose, over everything it can do."""

from collections import Counter
from typing import Any

import numpy as np
from cases import Case, random_entry, random_params, random_stop, stopped_case
from hypothesis import given, settings
from hypothesis import strategies as st
from pair import COUNTED, Pair, World, assert_same_run, by_reference, simulated, state_of
from reference import Desk, Happening, levels_at
from series import length

from autotrader.engine.events import (
    EVENT,
    INTENT,
    MAX_INTENTS,
    Ack,
    Cause,
    Command,
    Done,
    EventKind,
    Mode,
    Money,
    Note,
    OrderKind,
    Pause,
    Purpose,
    Reason,
    Refusal,
    Sizing,
    Split,
    Status,
    StopKind,
    StopUnit,
    new_event,
    new_state,
)
from autotrader.engine.fills import BAR, MAX_EVENTS, accept, fund, match, new_venue, open_bar
from autotrader.engine.policy import step

seeds = st.integers(0, 2**63 - 1)
cases = st.builds(stopped_case, seeds, st.integers(40, 150))

MARKET_FIELDS = ("seq", "last_ms", "close", "mark", "atr")


# in a simulation; `test_every_event` meets them, `test_rules` the last
UNREACHABLE = {Note.UNKNOWN_OUTSTANDING, Note.UNPROTECTED, Note.NO_SLOT}


def features(case: Case, desk: Desk) -> set[str]:
    "What happened in a run, for the list of what must happen in some."
    p, fills, counts, tape = case.params[0], desk.fills, desk.venue.counts, case.tape
    out = set(desk.notes) | {name for name in ("ambiguous", "expired_inside", "capped", "liquidations") if counts[name]}
    exits = {(f.ts_ms, -f.side) for f in fills if f.purpose == Purpose.EXIT}
    entries = {(f.ts_ms, f.side) for f in fills if f.purpose == Purpose.ENTRY}
    out |= {f"{Reason(f.purpose).name} {'long' if f.side > 0 else 'short'}" for f in fills}
    out |= {"maker" for f in fills if f.maker} | {"taker" for f in fills if not f.maker}
    out |= {f"{Sizing(p['sizing']).name}" for _ in fills[:1]} | {f"split {Split(p['split']).name}" for _ in fills[:1]}
    out |= {f"tier unit {p['tier_unit']}, {m}" for m in desk.tiers}
    out |= {f"multiplier {i}" for i, m in enumerate(("mult_low", "mult_medium", "mult_high")) if p[m] in desk.tiers}
    if any((ts_ms, -side) in exits for ts_ms, side in entries):
        out.add("flip")
    if fills and not p["exit_on_opposite"]:
        out.add("opposite ignored")
    if fills and p["sl_ratio"] == 0:
        out.add("no stop")
    out |= _wished(case, desk)
    if fills and p["sl_ratio"] > 0 and p["tp_ratio"] == 0:
        out.add("no target")
    kind, moved = StopKind(p["sl_kind"]).name, desk.notes["STOP_MOVED"] > 0
    out |= {f"{kind} by {StopUnit(p['sl_unit']).name}" for _ in range(moved)}
    out |= {f"{kind} out" for f in fills if moved and f.purpose == Purpose.STOP and f.pnl_e8 >= 0}
    if moved and any(f.purpose == Purpose.ADD for f in fills):
        out.add(f"{kind} split")
    if counts["funding_e8"]:
        out |= {"funding", *(["funding across a hole"] if len(np.unique(np.diff(tape.open_ms))) > 1 else [])}
    if len(tape.mark_high) and counts["liquidations"]:
        out.add("liquidation on mark")
    if len(tape.bot_bar) and fills:
        out.add("fine bars")
    if p["manual_resume"] and desk.bot.mode == Mode.PAUSED:
        out.add("waits for a person")
    if desk.notes["RESUMED"] and p["resume_size"] < 1 and any(desk.bot.trips_paused for _ in fills[:1]):
        out.add("resumed smaller")
    if desk.bot.trips_paused > 1:
        out.add("pause doubled")
    if case.costs["maker_fee"][0] < 0 and "maker" in out:
        out.add("rebate")
    return out | _jumps(case, desk)


def _wished(case: Case, desk: Desk) -> set[str]:
    "What became of entries that wait, of levels that signals bring, and of weights."
    fills, signals, out = desk.fills, case.signals, set()
    if case.params["entry"][0] == OrderKind.LIMIT:
        out |= {"limit entry" for f in fills if f.purpose == Purpose.ENTRY and f.maker}
        out |= {"limit addition" for f in fills if f.purpose == Purpose.ADD and f.maker}
        out |= {"limit missed"} if desk.notes["ENTRY_SHORT"] or desk.notes["PARTS_EXPIRED"] else set()
    if signals.stop is not None:
        out |= {f"given {Purpose(f.purpose).name}" for f in fills if f.purpose in (Purpose.STOP, Purpose.TARGET)}
    if signals.weight is not None:
        out |= {f"weight {Reason(f.purpose).name}" for f in fills}
        out |= {"weight spent"} if desk.bot.spent else set()
    return out


def _jumps(case: Case, desk: Desk) -> set[str]:
    "Stops and targets that filled at the open because it was beyond them."
    opens = dict(zip((case.tape.open_ms + case.tape.bar_ms - 1).tolist(), case.tape.open.tolist(), strict=True))
    out = set()
    for fill in desk.fills:
        if fill.purpose == Purpose.STOP and fill.ts_ms not in opens:
            out.add("jumped over STOP")
        if fill.purpose == Purpose.TARGET:
            if fill.cost == desk.venue.slipped(opens[fill.ts_ms], fill.side) * fill.qty:
                out.add("jumped over TARGET")
    return out


MUST_HAPPEN = {
    *(note.name for note in Note if note not in UNREACHABLE),
    *(f"{p.name} {side}" for p in (*Purpose, Reason.LIQUIDATION) for side in ("long", "short")),
    *("ambiguous", "expired_inside", "capped", "liquidations", "maker", "taker", "rebate"),
    *(sizing.name for sizing in Sizing),
    *(f"split {split.name}" for split in Split),
    *("multiplier 0", "multiplier 1", "multiplier 2"),
    *("flip", "opposite ignored", "no stop", "no target", "funding", "funding across a hole"),
    *("liquidation on mark", "fine bars", "waits for a person", "resumed smaller", "pause doubled"),
    *("jumped over STOP", "jumped over TARGET"),
    *("limit entry", "limit addition", "limit missed", "given STOP", "given TARGET", "weight spent"),
    *(f"weight {purpose.name}" for purpose in Purpose),
    *(f"{kind} {how}" for kind in ("TRAILING", "BREAK_EVEN") for how in ("by ATR", "by PERCENT", "out", "split")),
}


def test_every_run_equals_the_reference_to_the_last_integer() -> None:
    seen: Counter = Counter()

    @settings(max_examples=length(700, soak=7_000), deadline=None)
    @given(cases)
    def check(case: Case) -> None:
        desk = by_reference(case)
        assert_same_run(case, simulated(case, shortcuts=False), desk)
        seen.update(features(case, desk))

    check()
    assert not MUST_HAPPEN - set(seen), "the cases are too tame: these never happened"


def without(record: np.ndarray, *names: str) -> dict[str, Any]:
    return {name: value for name, value in state_of(record).items() if name not in names}


@settings(max_examples=length(300, soak=3_000), deadline=None)
@given(st.builds(stopped_case, seeds, st.integers(40, 600)))
def test_the_short_cuts_of_the_loop_change_nothing(case: Case) -> None:
    short, full = simulated(case), simulated(case, shortcuts=False)
    assert short.fills.tobytes() == full.fills.tobytes()
    assert short.stops.tobytes() == full.stops.tobytes()
    assert short.payments.tobytes() == full.payments.tobytes()
    assert short.equity_e8.tolist() == full.equity_e8.tolist()
    assert (short.day_ms.tolist(), short.day_equity_e8.tolist()) == (full.day_ms.tolist(), full.day_equity_e8.tolist())
    assert (short.notes, short.tiers, short.held) == (full.notes, full.tiers, full.held)
    assert short.max_drawdown == full.max_drawdown
    assert without(short.state, *MARKET_FIELDS) == without(full.state, *MARKET_FIELDS)
    for name in ("wallet_e8", "qty", "cost", "stop", "target", "trip", "last", "live", *COUNTED):
        assert short.venue[name] == full.venue[name], name


# books ---


class Folded:
    "The loop of `simulate` once more, by hand over the compiled kernels, with a look at the books after every bar."

    def __init__(self, case: Case) -> None:
        self.case = case
        self.state = new_state(wallet_e8=case.wallet_e8, params_id=int(case.params["id"][0]))
        self.venue = new_venue(wallet_e8=case.wallet_e8)
        self.reply, self.wants = np.zeros(MAX_EVENTS, EVENT), np.zeros(MAX_INTENTS, INTENT)
        self.seq = 0

    def tell(self, events: list[np.void], ts_ms: int) -> None:
        queue = list(events)
        while queue:
            event = queue.pop(0)
            self.seq += 1
            event["seq"] = self.seq
            before = int(self.state["seq"][0])
            for want in self.wants[: step(self.state[0], event, self.case.params[0], self.wants)].copy():
                n = accept(self.venue[0], want, ts_ms, self.reply)
                queue += [row for row in self.reply[:n].copy()]
            assert self.state["seq"][0] in (before, self.seq), "seq is the newest event applied"

    def bar(self, i: int) -> None:
        tape, costs = self.case.tape, self.case.costs[0]
        end_ms, mark = int(tape.open_ms[i]) + tape.bar_ms, int(tape.close[i])
        has_marks = len(tape.mark_high) > 0
        names = ("open_ms", "open", "high", "low", "close", "volume", *(("mark_high", "mark_low") if has_marks else ()))
        bar = np.zeros(1, BAR)
        for name in names:
            bar[name] = getattr(tape, name)[i]
        bar["close_ms"] = end_ms
        if i > 0:
            self.fund(int(tape.open_ms[i - 1]) + tape.bar_ms, int(tape.open_ms[i]), int(tape.close[i - 1]))
        open_bar(self.venue[0], bar[0], costs)
        while n := match(self.venue[0], costs, self.reply):
            events = self.reply[:n].copy()
            self.tell([*events], int(events["ts_ms"][0]))
        self.fund(int(tape.open_ms[i]), end_ms, mark)
        self.tell([new_event(EventKind.CLOCK, end_ms, price=mark)[0]], end_ms)
        b = int(tape.bot_bar[i]) if len(tape.bot_bar) else i
        if b >= 0:
            close = new_event(EventKind.BAR, end_ms, price=tape.bot_close[b], atr=self.case.atr[b], ref=b)
            self.tell([close[0]], end_ms)
            self.signal(b, end_ms)

    def signal(self, b: int, end_ms: int) -> None:
        signals = self.case.signals
        fields = {"code": signals.direction[b], "exits": signals.exits[b], "value": signals.confidence[b]}
        if signals.weight is not None and not np.isnan(signals.weight[b]):
            word = new_event(EventKind.WEIGHT, end_ms, known_ms=end_ms, ref=b, value=signals.weight[b])
            self.tell([word[0]], end_ms)
        if fields["code"] or fields["exits"]:
            fields |= levels_at(signals, b, float(self.case.params["tick"][0]))
            self.tell([new_event(EventKind.SIGNAL, end_ms, known_ms=end_ms, ref=b, **fields)[0]], end_ms)

    def fund(self, after_ms: int, until_ms: int, mark: int) -> None:
        tape = self.case.tape
        for k in np.flatnonzero((tape.funding_ms > after_ms) & (tape.funding_ms <= until_ms)):
            stamp = int(tape.funding_ms[k])
            n = fund(self.venue[0], self.case.costs[0], mark, float(tape.funding_rate[k]), stamp, self.reply)
            self.tell([*self.reply[:n].copy()], stamp)


@settings(max_examples=length(120, soak=1_200), deadline=None)
@given(cases)
def test_both_books_agree_and_every_change_of_the_wallet_is_explained_at_every_bar(case: Case) -> None:
    desk, equity = Folded(case), []
    for i in range(len(case.tape.open_ms)):
        desk.bar(i)
        state, venue = desk.state[0], desk.venue[0]
        for name in ("qty", "cost", "wallet_e8", "realised_e8", "fees_e8", "funding_e8"):
            assert state[name] == venue[name], f"{name} at bar {i}"
        assert state["wallet_e8"] - case.wallet_e8 == state["realised_e8"] + state["funding_e8"] - state["fees_e8"]
        assert (state["qty"] == 0) == (state["cost"] == 0)
        worth = int(state["qty"]) * int(case.tape.close[i]) - int(state["cost"])
        equity.append(int(state["wallet_e8"]) + worth * int(case.params["unit_e8"][0]))
    found = simulated(case, shortcuts=False)
    assert equity == found.equity_e8.tolist()
    assert state_of(desk.state) == state_of(found.state)


# single events ---

RARE = {Note.NO_SLOT, Note.PARTS_MERGED, Note.MIN_NOTIONAL, Note.SIZED_TO_ZERO}  # elsewhere

EVERY_CODE = {
    *((EventKind.SIGNAL.name, code) for code in (-1, 0, 1)),
    *((kind.name, int(code)) for kind, codes in
      {EventKind.ACK: Ack, EventKind.DONE: Done, EventKind.PROTECT_FAILED: Refusal, EventKind.EXTERNAL: Cause,
       EventKind.MONEY: Money, EventKind.COMMAND: Command}.items() for code in codes),
    *(("mode", int(mode)) for mode in Mode),
    *(("pause", int(pause)) for pause in Pause),
    *(("status", int(status)) for status in Status if status != Status.FREE),
    *("idle", "moot", "weight moot", "Place", "Cancel", "Protect"),
}  # fmt: skip


def test_every_event_whenever_it_comes_leaves_the_state_and_the_wishes_of_the_reference() -> None:
    seen: Counter = Counter()

    @settings(max_examples=length(300, soak=3_000), deadline=None)
    @given(seeds, st.integers(60, 180))
    def check(seed: int, n: int) -> None:
        rng = np.random.default_rng(seed)
        params = random_params(rng, 60_000)
        for name, value in (random_stop(rng) | random_entry(rng, 60_000)).items():
            params[name] = value
        pair = Pair(params, 5_000 * 10**8)
        world = World(rng, pair.bot)
        pair.hear(Happening(EventKind.BAR, world.ts_ms, price=world.price, atr=1.0))
        for _ in range(n):
            pair.hear(world.next())
        seen.update(pair.seen)

    check()
    missing = {note.name for note in Note if note not in RARE} | EVERY_CODE
    assert not missing - set(seen), "the events are too tame: these never happened"
