"""The compiled policy and its reference side by side, and a world that sends them events."""

from collections import Counter
from typing import Any, ClassVar

import numpy as np
from cases import Case
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
    Money,
    Note,
    Refusal,
    Status,
    new_event,
    new_state,
)
from autotrader.engine.policy import is_idle, is_moot, is_weight_moot, step
from autotrader.engine.simulate import Run, run

# reading records ---

ORDER_FIELDS = ("status", "purpose", "side", "price", "qty", "cum_qty", "cum_cost", "cum_fee_e8", "since_ms")
GUARD_FIELDS = ("purpose", "side", "cum_qty", "cum_cost", "cum_fee_e8")


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


# whole runs ---


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


def assert_same_run(case: Case, found: Run, desk: Desk) -> None:
    assert [tuple(fill) for fill in found.fills.tolist()] == [tuple(map(int, fill)) for fill in desk.fills]
    assert found.payments.tolist() == desk.payments
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


# single events ---


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
        steps = [0, 0, 1, 700, 5_000, 40_000, 60_000, 150_000, 150_000, 3_600_000]
        self.ts_ms += 86_400_000 if self.rng.random() < 0.01 else self.pick(*steps)
        self.price = max(50, self.price + int(self.rng.normal(0, self.pick(3, 3, 25))))
        kind = list(self.kinds)[self.rng.choice(len(self.kinds), p=self.weights)]
        happening = getattr(self, kind)()
        if happening.kind in (EventKind.FILL, EventKind.DONE):
            self.past.append(happening)
        return happening

    # by name: how often, of about sixty
    kinds: ClassVar = {
        "clock": 12,
        "bar": 5,
        "signal": 7,
        "weight": 4,
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
            **self.levels(),
        )

    def levels(self) -> dict[str, int]:
        "Now and then of its own: prices on either side of the market, or distances."
        found = {}
        for name in ("stop", "target"):
            how = self.pick("", "", "", "at", "gap")
            if how == "at":
                found[name] = max(1, self.price + self.pick(-30, -6, -1, 1, 6, 30))
            elif how == "gap":
                found[f"{name}_gap"] = self.pick(1, 8, 40)
        return found

    def weight(self) -> Happening:
        return Happening(
            EventKind.WEIGHT,
            self.ts_ms,
            value=self.pick(0.0, 0.1, 0.5, 0.52, 1.0, 2.5, -0.3, -1.0),
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
        amount = int(self.rng.integers(-4 * 10**10, 4 * 10**10)) + (self.bot.wallet_e8 if code == Money.SYNC else 0)
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
        if happening.kind == EventKind.WEIGHT:
            self._check_weight(happening)

    def _check_weight(self, happening: Happening) -> None:
        settled = self.state.copy()
        self.raw(settled, Happening(EventKind.ACK, happening.ts_ms, key=-1_000_000), self.seq)
        if is_weight_moot(settled[0], self.params[0], happening.value, int(settled["close"][0])):
            after = settled.copy()
            assert not self.raw(after, happening, self.seq)
            assert after.tobytes() == settled.tobytes()
            self.seen["weight moot"] += 1

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
