"""The engine against a slow reference written from its prose, over everything it can do."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from cases import Case, random_case, random_costs, random_params
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import Generator
from reference import Bot, Cancel, Desk, Happening, Place, Protect, Remark, Wish, simulate

from autotrader.engine.events import (
    EVENT,
    INTENT,
    MAX_INTENTS,
    SLOTS,
    Ack,
    Cause,
    Command,
    Done,
    EventKind,
    IntentKind,
    Mode,
    Money,
    Note,
    OrderKind,
    Pause,
    Purpose,
    Refusal,
    Sizing,
    Split,
    Status,
    new_event,
    new_state,
)
from autotrader.engine.fills import BAR, MAX_EVENTS, accept, fund, match, new_venue, open_bar
from autotrader.engine.policy import is_idle, is_moot, step
from autotrader.engine.simulate import Run, run

seeds = st.integers(0, 2**63 - 1)
cases = st.builds(random_case, seeds, st.integers(40, 150))

# reading records -------------------------------------------------------------------------------------------------------------

ORDER_FIELDS = ("status", "purpose", "side", "price", "qty", "cum_qty", "cum_cost", "cum_fee_e8", "since_ms")
GUARD_FIELDS = ("purpose", "side", "cum_qty", "cum_cost", "cum_fee_e8")
MARKET_FIELDS = ("seq", "last_ms", "close", "mark", "atr")


def state_of(record: np.ndarray) -> dict[str, Any]:
    "A STATE record as the reference says it."
    state = record[0]
    out = {name: state[name].item() for name in record.dtype.names if name not in ("schema", "orders")}
    rows = state["orders"]
    own = rows[:SLOTS][rows["status"][:SLOTS] != Status.FREE]
    out["orders"] = {int(o["key"]): tuple(o[name].item() for name in ORDER_FIELDS) for o in own}
    guards = rows[SLOTS:][rows["key"][SLOTS:] != 0]
    out["guards"] = {int(o["key"]): tuple(o[name].item() for name in GUARD_FIELDS) for o in guards}
    return comparable(out)


def comparable(state: dict[str, Any]) -> dict[str, Any]:
    "Not-a-number equals itself."
    return {name: "unknown" if value != value else value for name, value in state.items()}


def wishes_of(intents: np.ndarray) -> list[Wish]:
    return [_wish(row) for row in intents]


def _wish(row: np.void) -> Wish:
    if row["kind"] == IntentKind.PLACE:
        names = ("key", "code", "order", "side", "price", "qty", "reduce", "stop", "target", "expires_ms", "trip")
        return Place(*(row[name].item() for name in names))
    if row["kind"] == IntentKind.CANCEL:
        return Cancel(int(row["key"]))
    if row["kind"] == IntentKind.PROTECT:
        return Protect(int(row["stop"]), int(row["target"]), int(row["trip"]))
    return Remark(Note(int(row["code"])), float(row["a"]), float(row["b"]))


def in_order(wishes: list[Wish]) -> list[Wish]:
    "Cancellations that follow each other have no order of their own."
    out: list[Wish] = []
    for wish in wishes:
        at = len(out)
        while isinstance(wish, Cancel) and at > 0 and isinstance(out[at - 1], Cancel) and out[at - 1].key > wish.key:
            at -= 1
        out.insert(at, wish)
    return out


def event_of(happening: Happening) -> np.ndarray:
    names = [name for name in EVENT.names if name not in ("seq", "kind", "ts_ms")]
    return new_event(happening.kind, happening.ts_ms, **{name: getattr(happening, name) for name in names})


def simulated(case: Case, **options: bool) -> Run:
    return run(
        case.tape,
        case.signals,
        case.atr,
        params=case.params,
        costs=case.costs,
        wallet_e8=case.wallet_e8,
        **options,
    )


def by_reference(case: Case) -> Desk:
    return simulate(case.tape, case.signals, case.atr, case.params, case.costs, case.wallet_e8)


# whole runs ------------------------------------------------------------------------------------------------------------------

COUNTED = (
    "ambiguous",
    "expired_inside",
    "capped",
    "liquidations",
    "slippage_e8",
    "realised_e8",
    "fees_e8",
    "funding_e8",
)
UNREACHABLE = {
    Note.UNKNOWN_OUTSTANDING,
    Note.UNPROTECTED,
    Note.NO_SLOT,
}  # in a simulation: see the tests of single events


def assert_same_run(case: Case, found: Run, desk: Desk) -> None:
    assert [tuple(fill) for fill in found.fills.tolist()] == [tuple(map(int, fill)) for fill in desk.fills]
    assert found.equity_e8.tolist() == desk.equity_e8
    assert found.notes == dict(desk.notes)
    assert found.tiers == dict(desk.tiers)
    assert state_of(found.state) == comparable(desk.bot.as_state())
    venue, there = desk.venue, found.venue[0]
    assert [there[name] for name in ("wallet_e8", "qty", "stop", "target", "trip", "last", "live")] == [
        *(venue.wallet_e8, venue.held, venue.stop, venue.target, venue.trip, venue.last, len(venue.orders))
    ]
    assert there["cost"] == venue.side * venue.basis
    assert {name: int(there[name]) for name in COUNTED} == {name: int(venue.counts[name]) for name in COUNTED}


def features(case: Case, desk: Desk) -> set[str]:
    "What happened in a run, for the list of what must happen in some."
    p, fills, counts, tape = case.params[0], desk.fills, desk.venue.counts, case.tape
    out = set(desk.notes) | {name for name in ("ambiguous", "expired_inside", "capped", "liquidations") if counts[name]}
    exits = {(f.ts_ms, -f.side) for f in fills if f.purpose == Purpose.EXIT}
    entries = {(f.ts_ms, f.side) for f in fills if f.purpose == Purpose.ENTRY}
    out |= {f"{Purpose(f.purpose).name} {'long' if f.side > 0 else 'short'}" for f in fills}
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
    if fills and p["sl_ratio"] > 0 and p["tp_ratio"] == 0:
        out.add("no target")
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


def _jumps(case: Case, desk: Desk) -> set[str]:
    "Stops and targets that filled at the open because it was beyond them."
    opens = dict(zip((case.tape.open_ms + case.tape.bar_ms - 1).tolist(), case.tape.open.tolist(), strict=True))
    out = set()
    for fill in desk.fills:
        if (
            fill.purpose in (Purpose.STOP, Purpose.TARGET)
            and case.costs["slippage"][0] == case.costs["min_slip"][0] == 0
        ):
            if fill.cost == opens[fill.ts_ms] * fill.qty:
                out.add(f"jumped over {Purpose(fill.purpose).name}")
    return out


MUST_HAPPEN = {
    *(note.name for note in Note if note not in UNREACHABLE),
    *(f"{p.name} {side}" for p in Purpose for side in ("long", "short")),
    *("ambiguous", "expired_inside", "capped", "liquidations", "maker", "taker", "rebate"),
    *(sizing.name for sizing in Sizing),
    *(f"split {split.name}" for split in Split),
    *("multiplier 0", "multiplier 1", "multiplier 2"),
    *("flip", "opposite ignored", "no stop", "no target", "funding", "funding across a hole"),
    *("liquidation on mark", "fine bars", "waits for a person", "resumed smaller", "pause doubled"),
    *("jumped over STOP", "jumped over TARGET"),
}


def test_every_run_equals_the_reference_to_the_last_integer() -> None:
    seen: Counter = Counter()

    @settings(max_examples=700, deadline=None)
    @given(cases)
    def check(case: Case) -> None:
        desk = by_reference(case)
        assert_same_run(case, simulated(case, shortcuts=False), desk)
        seen.update(features(case, desk))

    check()
    assert not MUST_HAPPEN - set(seen), "the cases are too tame: these never happened"


def without(record: np.ndarray, *names: str) -> dict[str, Any]:
    return {name: value for name, value in state_of(record).items() if name not in names}


@settings(max_examples=300, deadline=None)
@given(st.builds(random_case, seeds, st.integers(40, 600)))
def test_the_short_cuts_of_the_loop_change_nothing(case: Case) -> None:
    short, full = simulated(case), simulated(case, shortcuts=False)
    assert short.fills.tobytes() == full.fills.tobytes()
    assert short.equity_e8.tolist() == full.equity_e8.tolist()
    assert (short.day_ms.tolist(), short.day_equity_e8.tolist()) == (full.day_ms.tolist(), full.day_equity_e8.tolist())
    assert (short.notes, short.tiers, short.held) == (full.notes, full.tiers, full.held)
    assert short.max_drawdown == full.max_drawdown
    assert without(short.state, *MARKET_FIELDS) == without(full.state, *MARKET_FIELDS)
    for name in ("wallet_e8", "qty", "cost", "stop", "target", "trip", "last", "live", *COUNTED):
        assert short.venue[name] == full.venue[name], name


# books -----------------------------------------------------------------------------------------------------------------------


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
        if fields["code"] or fields["exits"]:
            self.tell([new_event(EventKind.SIGNAL, end_ms, known_ms=end_ms, ref=b, **fields)[0]], end_ms)

    def fund(self, after_ms: int, until_ms: int, mark: int) -> None:
        tape = self.case.tape
        for k in np.flatnonzero((tape.funding_ms > after_ms) & (tape.funding_ms <= until_ms)):
            stamp = int(tape.funding_ms[k])
            n = fund(self.venue[0], self.case.costs[0], mark, float(tape.funding_rate[k]), stamp, self.reply)
            self.tell([*self.reply[:n].copy()], stamp)


@settings(max_examples=120, deadline=None)
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


# single events ---------------------------------------------------------------------------------------------------------------


class World:
    "Events that a venue, a person and a bad network could send to a bot: doubled, late, out of order, or nobody's."

    def __init__(self, rng: Generator, bot: Bot) -> None:
        self.rng, self.bot = rng, bot
        self.ts_ms, self.price = 1_700_000_000_000, 1_000
        self.known: dict[int, list[int]] = {}  # cumulative truth by key: qty, cost, fee
        self.past: list[Happening] = []
        self.weights = rng.dirichlet(np.full(len(self.kinds), 1.5)) + np.array(list(self.kinds.values())) / 60
        self.weights /= self.weights.sum()

    def pick(self, *choices: Any) -> Any:
        return choices[self.rng.integers(len(choices))]

    def next(self) -> Happening:
        self.ts_ms += self.pick(
            0, 0, 1, 700, 5_000, 40_000, 60_000, 3_600_000, *([86_400_000] if self.pick(*range(9)) == 0 else [])
        )
        self.price = max(50, self.price + int(self.rng.normal(0, self.pick(3, 3, 25))))
        kind = list(self.kinds)[self.rng.choice(len(self.kinds), p=self.weights)]
        happening = getattr(self, kind)()
        if happening.kind in (EventKind.FILL, EventKind.DONE):
            self.past.append(happening)
        return happening

    # by name: how often, of about sixty
    kinds = {
        "clock": 12,
        "bar": 5,
        "signal": 9,
        "ack": 4,
        "fill": 10,
        "done": 8,
        "again": 3,
        "protected": 4,
        "protect_failed": 1,
        "external": 1,
        "money": 2,
        "command": 2,
        "foreign": 1,
    }

    def clock(self) -> Happening:
        return Happening(EventKind.CLOCK, self.ts_ms, price=self.price)

    def bar(self) -> Happening:
        atr = self.pick(0.4, 1.3, 2.2, 6.0, 6.0, 0.0, float("nan"))
        return Happening(EventKind.BAR, self.ts_ms, price=self.price, atr=atr)

    def signal(self) -> Happening:
        return Happening(
            EventKind.SIGNAL,
            self.ts_ms,
            code=self.pick(-1, 0, 1, 1, -1),
            exits=self.pick(0, 0, 0, 1, 2, 3),
            value=self.pick(0.3, 0.6, 1.0, 1.0),
            known_ms=self.ts_ms - self.pick(0, 0, 0, 90_000, 10**8),
            ref=int(self.rng.integers(1000)),
        )

    def _key(self) -> int:
        own, guards = [*self.bot.orders], [*self.bot.guards]
        if guards and self.bot.held and self.pick(*range(6)) == 0:
            return self.pick(*guards)
        return self.pick(*own) if own else self.pick(*guards, -99)

    def ack(self) -> Happening:
        return Happening(EventKind.ACK, self.ts_ms, code=self.pick(Ack.LIVE, Ack.LIVE, Ack.UNKNOWN), key=self._key())

    def _cumulative(self, key: int, more: int) -> dict[str, int]:
        qty, cost, fee_e8 = self.known.get(key, [0, 0, 0])
        price = max(1, self.price + self.pick(-2, 0, 0, 5))
        now = [qty + more, cost + more * price, fee_e8 + more * self.pick(0, 40, 55, -3)]
        self.known[key] = now
        return dict(zip(("qty", "cost", "fee_e8"), now, strict=True))

    def _left(self, key: int) -> int:
        if key in self.bot.orders:
            return max(0, self.bot.orders[key].wanted - self.known.get(key, [0])[0])
        return abs(self.bot.held)

    def fill(self) -> Happening:
        key = self._key()
        left = self._left(key)
        more = left if self.pick(0, 1) else int(self.rng.integers(0, left + 1))
        return Happening(EventKind.FILL, self.ts_ms, key=key, code=self.pick(0, 1), **self._cumulative(key, more))

    def done(self) -> Happening:
        key = self._key()
        left = self._left(key)
        code = self.pick(*Done, Done.FILLED, Done.FILLED)
        more = left if code == Done.FILLED else self.pick(0, 0, int(self.rng.integers(0, left + 1)))
        return Happening(EventKind.DONE, self.ts_ms, key=key, code=code, **self._cumulative(key, more))

    def again(self) -> Happening:
        "An old report, as it was then."
        if not self.past:
            return self.clock()
        old = self.past[-1 - int(self.rng.integers(min(6, len(self.past))))]
        return Happening(**{**vars(old), "ts_ms": self.ts_ms})

    def protected(self) -> Happening:
        stop, target = self.pick(self.bot.asked, self.bot.asked, self.bot.asked, (0, 0), (self.price - 9, 0))
        return Happening(EventKind.PROTECTED, self.ts_ms, stop=max(0, stop), target=max(0, target))

    def protect_failed(self) -> Happening:
        stop, target = self.bot.asked
        code = self.pick(Refusal.PASSED, Refusal.OTHER, Refusal.OTHER)
        return Happening(EventKind.PROTECT_FAILED, self.ts_ms, code=code, stop=stop, target=target)

    def external(self) -> Happening:
        qty = self.pick(0, 0, -self.bot.held, self.bot.held // 2, int(self.rng.integers(-50, 50)))
        amount = int(self.rng.integers(-(10**9), 10**9))
        code = self.pick(*Cause)
        return Happening(EventKind.EXTERNAL, self.ts_ms, code=code, qty=qty, cost=qty * self.price, amount_e8=amount)

    def money(self) -> Happening:
        code = self.pick(*Money)
        amount = int(self.rng.integers(-(10**10), 10**10)) + (self.bot.wallet_e8 if code == Money.SYNC else 0)
        return Happening(EventKind.MONEY, self.ts_ms, code=code, amount_e8=amount)

    def command(self) -> Happening:
        code = self.pick(*Command, Command.RESUME)
        until_ms = self.pick(0, self.ts_ms + 90_000, self.ts_ms + 7_200_000)
        return Happening(EventKind.COMMAND, self.ts_ms, code=code, value=self.pick(0.5, 1.0), known_ms=until_ms, ref=8)

    def foreign(self) -> Happening:
        kind = self.pick(EventKind.FILL, EventKind.DONE, EventKind.ACK)
        return Happening(kind, self.ts_ms, key=self.pick(0, 0, 10**6, -(10**6)), qty=5, cost=5 * self.price, fee_e8=3)


class Pair:
    "The compiled policy and the reference, hearing the same."

    def __init__(self, params: np.ndarray, wallet_e8: int) -> None:
        self.params, self.bot = params, Bot(params, wallet_e8)
        self.state = new_state(wallet_e8=wallet_e8, params_id=int(params["id"][0]))
        self.out = np.zeros(MAX_INTENTS, INTENT)
        self.seq = 0
        self.seen: Counter = Counter()

    def raw(self, state: np.ndarray, happening: Happening, seq: int) -> list[Wish]:
        event = event_of(happening)
        event["seq"] = seq
        return in_order(wishes_of(self.out[: step(state[0], event[0], self.params[0], self.out)]))

    def hear(self, happening: Happening) -> list[Wish]:
        "Both step; they must want the same and remember the same."
        self.seq += 1
        self._before(happening)
        wanted = self.raw(self.state, happening, self.seq)
        expected = in_order(self.bot.hear(self.seq, happening))
        assert _floats_aside(wanted) == _floats_aside(expected)
        assert state_of(self.state) == comparable(self.bot.as_state())
        self._after(happening)
        self._count(happening, wanted)
        return wanted

    def _before(self, happening: Happening) -> None:
        "`is_idle` and `is_moot` are believed by the loop: they must not lie."
        state, params = self.state[0], self.params[0]
        if happening.kind == EventKind.CLOCK and is_idle(state, params, happening.ts_ms, happening.price):
            assert not self.bot.clock_matters(happening.ts_ms, happening.price)
            other = self.bot.after_a_clock_anyway(happening)
            assert not other.wishes
            assert _no_mark(other) == _no_mark(self.bot)
            self.seen["idle"] += 1
        if happening.kind == EventKind.SIGNAL:
            nobody = Happening(EventKind.ACK, happening.ts_ms, key=-1_000_000)
            settled = self.state.copy()
            self.raw(settled, nobody, self.seq)  # what the time alone brings about
            if is_moot(settled[0], happening.code, happening.exits):
                after = settled.copy()
                assert not self.raw(after, happening, self.seq)
                assert after.tobytes() == settled.tobytes()
                self.seen["moot"] += 1

    def _after(self, happening: Happening) -> None:
        "A report heard twice is heard once; only that a stop has gone unfilled may be true twice in one trip."
        if happening.kind == EventKind.FILL or (
            happening.kind == EventKind.DONE and (happening.key > 0 or happening.qty)
        ):
            again = self.state.copy()
            self.raw(again, happening, self.seq)
            assert again.tobytes() == self.state.tobytes()

    def _count(self, happening: Happening, wanted: list[Wish]) -> None:
        self.seen.update(wish.code.name if isinstance(wish, Remark) else type(wish).__name__ for wish in wanted)
        self.seen[happening.kind.name, int(happening.code)] += 1
        self.seen["mode", int(self.bot.mode)] += 1
        self.seen["pause", int(self.bot.pause)] += 1
        self.seen.update(("status", int(order.status)) for order in self.bot.orders.values())


def _floats_aside(wishes: list[Wish]) -> list[Any]:
    "Notes of the unknown are equal: not-a-number equals itself."
    return [tuple("unknown" if value != value else value for value in (type(wish), *wish)) for wish in wishes]


def _no_mark(bot: Bot) -> dict[str, Any]:
    return {name: value for name, value in comparable(bot.as_state()).items() if name != "mark"}


EVERY_CODE = {
    *((EventKind.SIGNAL.name, code) for code in (-1, 0, 1)),
    *((kind.name, int(code)) for kind, codes in
      {EventKind.ACK: Ack, EventKind.DONE: Done, EventKind.PROTECT_FAILED: Refusal, EventKind.EXTERNAL: Cause,
       EventKind.MONEY: Money, EventKind.COMMAND: Command}.items() for code in codes),
    *(("mode", int(mode)) for mode in Mode),
    *(("pause", int(pause)) for pause in Pause),
    *(("status", int(status)) for status in Status if status != Status.FREE),
    *("idle", "moot", "Place", "Cancel", "Protect"),
}  # fmt: skip


def test_every_event_whenever_it_comes_leaves_the_state_and_the_wishes_of_the_reference() -> None:
    seen: Counter = Counter()

    @settings(max_examples=400, deadline=None)
    @given(seeds, st.integers(20, 160))
    def check(seed: int, n: int) -> None:
        rng = np.random.default_rng(seed)
        pair = Pair(random_params(rng, 60_000), int(rng.choice([1_000, 20_000])) * 10**8)
        world = World(rng, pair.bot)
        pair.hear(Happening(EventKind.BAR, world.ts_ms, price=world.price, atr=1.0))
        for _ in range(n):
            pair.hear(world.next())
        seen.update(pair.seen)

    check()
    missing = {note.name for note in Note if note != Note.NO_SLOT} | EVERY_CODE
    assert not missing - set(seen), "the events are too tame: these never happened"
