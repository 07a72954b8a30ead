"""A second opinion on the engine: what its pages say, in plain Python.

Slow on purpose. Whole numbers of any size, dictionaries of orders, a generator for the bar; no records, no compiler,
nothing taken from `policy`, `fills` or `simulate`. Where it disagrees with them, one of the two is wrong.
"""

import copy
import math
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from autotrader.engine.events import (
    Ack,
    Cause,
    Command,
    Done,
    EventKind,
    Exit,
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
    StopKind,
    StopUnit,
    Threshold,
)

DAY_MS = 86_400_000
NEVER_MS = 2**62
OWN_ORDERS = 8  # that a bot may have out at once
VENUE_ORDERS = 16  # that an account may have out at once
PATIENCE_MS = 30_000
PROTECT_TRIES = 3


def plain(record: np.ndarray) -> SimpleNamespace:
    "The fields of a one-record array as Python numbers."
    return SimpleNamespace(**{name: record[name][0].item() for name in record.dtype.names})


def sign(x: int) -> int:
    return (x > 0) - (x < 0)


def nearest(x: float) -> int:
    "Nearest whole number, halves up."
    return math.floor(x + 0.5)


def backoff_ms(tries: int) -> int:
    "1, 2, 4 … seconds, a minute at most."
    return min(1_000 * 2 ** max(tries - 1, 0), 60_000)


# what travels between the two ---


@dataclass(frozen=True)
class Happening:
    "An event."

    kind: EventKind
    ts_ms: int
    code: int = 0
    key: int = 0
    qty: int = 0
    cost: int = 0
    fee_e8: int = 0
    price: int = 0
    stop: int = 0
    target: int = 0
    exits: int = 0
    amount_e8: int = 0
    known_ms: int = 0
    ref: int = 0
    stop_gap: int = 0
    target_gap: int = 0
    atr: float = 0.0
    value: float = 0.0


class Place(NamedTuple):
    key: int
    purpose: Purpose
    order: OrderKind
    side: int
    price: int
    qty: int
    reduce: bool
    stop: int
    target: int
    expires_ms: int
    trip: int


class Cancel(NamedTuple):
    key: int


class Protect(NamedTuple):
    stop: int
    target: int
    trip: int


class Remark(NamedTuple):
    code: Note
    a: float
    b: float


Wish = Place | Cancel | Protect | Remark


class Given(NamedTuple):
    "What a signal brings of its own: prices, or distances from the average price; 0 where it brings none."

    stop: int = 0
    target: int = 0
    stop_gap: int = 0
    target_gap: int = 0


@dataclass
class Booked:
    "What is known of an order's fills."

    side: int
    purpose: Purpose
    qty: int = 0
    cost: int = 0
    fee_e8: int = 0


@dataclass
class Own(Booked):
    "An order of the bot's own that is not done."

    wanted: int = 0
    price: int = 0
    status: Status = Status.INTENT
    since_ms: int = 0

    @property
    def is_entry(self) -> bool:
        return self.purpose in (Purpose.ENTRY, Purpose.ADD)


# the policy ---


class Bot:
    "What a bot remembers and how it answers."

    def __init__(self, params: np.ndarray, wallet_e8: int) -> None:
        self.p = plain(params)
        self.params_id = self.p.id
        self.seq = self.last_ms = 0
        self.next_key, self.trip = 1, 0
        self.close = self.mark = 0
        self.atr = self.atr0 = 0.0
        self.decision = 0
        self.held, self.basis = 0, 0  # signed steps; what they cost, never negative
        self.opened_ms = self.trip_e8 = 0
        self.side = self.total = self.parts = self.part = self.part_qty = self.next_ms = self.deadline_ms = 0
        self.exiting = False
        self.then_side = self.then_ms = 0
        self.weight, self.resizing, self.spent = 0.0, False, 0
        self.given = Given()  # by the signal of the trip
        self.exit_try = self.exit_after_ms = 0
        self.want, self.asked, self.have = (0, 0), (0, 0), (0, 0)
        self.protect_try = self.protect_after_ms = self.best = 0
        self.wallet_e8 = self.peak_e8 = self.day_e8 = wallet_e8
        self.others_e8 = 0
        self.day_ms = -DAY_MS
        self.losses = self.realised_e8 = self.fees_e8 = self.funding_e8 = 0
        self.mode, self.pause, self.until_ms, self.trips_paused = Mode.RUN, Pause.NONE, 0, 0
        self.size_factor = 1.0
        self.orders: dict[int, Own] = {}
        self.guards: dict[int, Booked] = {}  # the trip's stop and target, by key
        self.wishes: list[Wish] = []

    # one event

    def hear(self, seq: int, event: Happening) -> list[Wish]:
        "Apply one event; what the bot wants now."
        self.wishes = []
        if event.kind == EventKind.CLOCK and not self.clock_matters(event.ts_ms, event.price):
            return []
        self.seq, self.last_ms = seq, event.ts_ms
        self._apply(event)
        return self.wishes

    def _apply(self, event: Happening) -> None:
        getattr(self, "_on_" + EventKind(event.kind).name.lower())(event)
        self._follow_up(event)

    def after_a_clock_anyway(self, event: Happening) -> "Bot":
        "A copy that takes the clock event seriously whether it matters or not."
        other = copy.deepcopy(self)
        other.wishes = []
        other._apply(event)
        return other

    def clock_matters(self, ts_ms: int, mark: int) -> bool:
        "A new day, a pause that ends, an exit or a plan or a protection to push on, a stop to move, a new peak, a limit broken."
        if ts_ms // DAY_MS * DAY_MS != self.day_ms or (self.mode != Mode.RUN and ts_ms >= self.until_ms):
            return True
        if self.side:
            part_due = self.part < self.parts and self.next_ms <= ts_ms
            time_up = self.parts > 0 and 0 < self.deadline_ms <= ts_ms
            unconfirmed = not self.want == self.have == self.asked and ts_ms >= self.protect_after_ms
            if self.exiting or part_due or time_up or unconfirmed:
                return True
        equity = self.equity_e8(mark)
        if equity > self.peak_e8 or self._is_to_move(mark):
            return True
        return self.mode in (Mode.RUN, Mode.NO_ENTRY) and self._broken_limit(equity) != Pause.NONE

    def equity_e8(self, mark: int) -> int:
        return self.money_e8 + (self.held * mark - sign(self.held) * self.basis) * self.p.unit_e8

    @property
    def money_e8(self) -> int:
        "Of the account, whoever else trades on it."
        return self.wallet_e8 + self.others_e8

    def _note(self, code: Note, a: float = 0.0, b: float = 0.0) -> None:
        self.wishes.append(Remark(code, float(a), float(b)))

    # books

    def _book(self, order: Booked, event: Happening) -> bool:
        "Book what a cumulative report has that is new."
        if event.qty <= order.qty:
            return False
        qty, cost, fee_e8 = event.qty - order.qty, event.cost - order.cost, event.fee_e8 - order.fee_e8
        order.qty, order.cost, order.fee_e8 = event.qty, event.cost, event.fee_e8
        self.mark = cost // qty
        closing = min(qty, abs(self.held)) if self.held * order.side < 0 else 0
        gain = 0
        if closing:
            proceeds = cost * closing // qty
            given = self.basis * closing // abs(self.held)
            gain = (given - proceeds if order.side > 0 else proceeds - given) * self.p.unit_e8
            self.held += order.side * closing
            self.basis -= given
            cost -= proceeds
        opening = qty - closing
        if opening:
            if self.held == 0:
                self.opened_ms = event.ts_ms
            self.held += order.side * opening
            self.basis += cost
        self.wallet_e8 += gain - fee_e8
        self.trip_e8 += gain - fee_e8
        self.realised_e8 += gain
        self.fees_e8 += fee_e8
        return True

    def _average(self) -> int:
        return math.floor(Fraction(self.basis, abs(self.held)) + Fraction(1, 2))

    # what happens

    def _on_bar(self, event: Happening) -> None:
        self.close = self.mark = event.price
        self.atr = event.atr

    def _on_clock(self, event: Happening) -> None:
        ts_ms, self.mark = event.ts_ms, event.price
        equity = self.equity_e8(event.price)
        if ts_ms // DAY_MS * DAY_MS != self.day_ms:
            self.day_ms, self.day_e8 = ts_ms // DAY_MS * DAY_MS, equity
        self.peak_e8 = max(self.peak_e8, equity)
        if self.mode in (Mode.PAUSED, Mode.NO_ENTRY) and ts_ms >= self.until_ms:
            if self.pause == Pause.DRAWDOWN:
                self.peak_e8 = equity
            if self.pause == Pause.LOSS_STREAK:
                self.losses = 0
            self.mode, self.pause, self.until_ms = Mode.RUN, Pause.NONE, 0
            self._note(Note.RESUMED, self._reduction())
        if self.mode in (Mode.PAUSED, Mode.FLATTENING):
            return
        broken = self._broken_limit(equity)
        if broken == Pause.NONE:
            return
        base_e8 = self.peak_e8 if broken == Pause.DRAWDOWN else self.day_e8
        self._note(Note.DRAWDOWN if broken == Pause.DRAWDOWN else Note.DAILY_LOSS, equity / 1e8, base_e8 / 1e8)
        self._risk_pause(broken, ts_ms)
        if self.side:
            self.exiting = True

    def _broken_limit(self, equity: int) -> Pause:
        for pause, base, allowed in (
            (Pause.DRAWDOWN, self.peak_e8, self.p.max_drawdown),
            (Pause.DAILY_LOSS, self.day_e8, self.p.daily_loss),
        ):
            if allowed > 0 and equity < base * (1.0 - allowed):
                return pause
        return Pause.NONE

    def _reduction(self) -> float:
        return self.size_factor * (self.p.resume_size if self.trips_paused else 1.0)

    def _risk_pause(self, pause: Pause, ts_ms: int) -> None:
        "Each without a winning trip in between lasts twice as long; none ends sooner than what stood before it."
        length = self.p.cooldown_ms * 2 ** min(self.trips_paused, 4)
        until = ts_ms + length
        if pause == Pause.DAILY_LOSS:
            until = max(until, self.day_ms + DAY_MS)
        self.mode, self.pause = Mode.PAUSED, pause
        self.until_ms = max(self.until_ms, NEVER_MS if self.p.manual_resume else until)
        self.trips_paused += 1
        self.then_side = 0

    def _on_signal(self, event: Happening) -> None:
        direction, in_trip = event.code, self.side != 0 and not self.exiting
        if in_trip and direction == self.side:
            direction = 0
        if direction and event.value < self.p.min_confidence:
            self._note(Note.LOW_CONFIDENCE, event.value, self.p.min_confidence)
            direction = 0
        may_open = direction != 0
        if in_trip:
            opposite = direction == -self.side and bool(self.p.exit_on_opposite)
            asked_to_leave = bool(event.exits & (Exit.LONG if self.side > 0 else Exit.SHORT))
            self.exiting = opposite or asked_to_leave
            may_open = may_open and opposite and bool(self.p.flip)
        if not may_open:
            return
        if not (self.p.allow_long if direction > 0 else self.p.allow_short):
            self._note(Note.SIDE_NOT_ALLOWED, direction)
        elif any(order.status == Status.UNKNOWN for order in self.orders.values()):
            self._note(Note.UNKNOWN_OUTSTANDING)
        else:
            self.then_side, self.then_ms, self.decision = direction, event.known_ms, event.ref
            self.weight, self.given = 0.0, Given(event.stop, event.target, event.stop_gap, event.target_gap)

    # weights

    def weight_matters(self, weight: float, close: int) -> bool:
        "Something is under way; another side, or none, is wanted; or the size is not near enough."
        side = (weight > 0) - (weight < 0)
        if self.exiting or self.orders or not self._may(side):
            return True
        if self.side == 0:
            is_little = self.spent == 0 and abs(weight) < self.p.band
            return bool(self.then_side) or not (side == self.spent or is_little)
        if side != self.side:
            return True
        total = min(math.floor(self._weighed(weight, close) + 1e-9), self._most(self._worth(close), close))
        return total < self.p.min_qty or not self._is_near(total, close)

    def _may(self, side: int) -> bool:
        return bool({1: self.p.allow_long, -1: self.p.allow_short, 0: True}[side])

    def _worth(self, close: int) -> int:
        return self.equity_e8(close)

    def _weighed(self, weight: float, close: int) -> float:
        return abs(weight) * self._reduction() * max(self._worth(close), 0) / (close * self.p.unit_e8)

    def _is_near(self, total: int, close: int) -> bool:
        "Whether the difference is less than the venue takes, or than the band."
        change = abs(total - abs(self.held))
        value = change * close * self.p.unit_e8
        return change < self.p.min_qty or value < self.p.min_notional_e8 or value < self.p.band * self._worth(close)

    def _on_weight(self, event: Happening) -> None:
        if not self.weight_matters(event.value, self.close):
            return
        side = (event.value > 0) - (event.value < 0)
        if side != self.spent:
            self.spent = 0
        if not self._may(side):
            self._note(Note.SIDE_NOT_ALLOWED, side)
            side = 0
        stays = self.side != 0 and side == self.side and not self.exiting
        self.exiting = self.exiting or (self.side != 0 and not stays)
        self.then_side = 0
        if side in (0, self.spent):
            return
        if stays:
            self.resizing = True
        elif any(order.status == Status.UNKNOWN for order in self.orders.values()):
            self._note(Note.UNKNOWN_OUTSTANDING)
            return
        else:
            self.then_side, self.given = side, Given()
        self.weight, self.then_ms, self.decision = event.value, event.known_ms, event.ref

    def _resize(self, ts_ms: int) -> None:
        "Call back what rests; once nothing does, order the difference."
        if self.orders:
            self.part = self.parts
            self._cancel_entries()
            return
        self.resizing = False
        total = self._held_by_weight()
        held = abs(self.held)
        if not total:
            self.exiting = True
        elif self._is_near(total, self.close):
            pass
        elif total < held:
            self._note(Note.RESIZED, held, total)
            self.total = total
            self._send(Purpose.REDUCE, OrderKind.MARKET, -self.side, 0, held - total)
        elif self.mode != Mode.RUN:
            self._note(Note.PAUSED, self.pause)
        elif ts_ms - self.then_ms > self.p.max_signal_age_ms:
            self._note(Note.STALE_SIGNAL, ts_ms - self.then_ms, self.p.max_signal_age_ms)
        else:
            self._note(Note.RESIZED, held, total)
            self.total, self.parts, self.part, self.part_qty, self.deadline_ms = total, 1, 1, total - held, 0
            self._order_entry(Purpose.ADD, total - held, ts_ms)

    def _held_by_weight(self) -> int:
        wanted = self._weighed(self.weight, self.close)
        return self._capped(wanted, math.floor(wanted + 1e-9), self._most(self._worth(self.close), self.close))

    def _spend(self) -> None:
        if self.weight and self.side:
            self.spent = self.side

    def _on_ack(self, event: Happening) -> None:
        order = self.orders.get(event.key)
        if order is None:
            return
        if event.code == Ack.UNKNOWN:
            order.status = Status.UNKNOWN
            if order.purpose == Purpose.EXIT:
                self.exit_after_ms = event.ts_ms + PATIENCE_MS
        elif order.status != Status.CANCELLING:
            order.status = Status.LIVE

    def _on_fill(self, event: Happening) -> None:
        order = self.orders.get(event.key) or self.guards.get(event.key)
        if order is None or not self._book(order, event):
            return
        if order.purpose in (Purpose.STOP, Purpose.TARGET):
            self._spend()
        if self.held == 0 or order.purpose in (Purpose.STOP, Purpose.TARGET):
            self.exiting = True
        elif order.purpose != Purpose.EXIT and not self.exiting:
            self._want_protection(self._average())

    def _on_done(self, event: Happening) -> None:
        self._on_fill(event)
        if event.key in self.guards:
            self._guard_gone(self.guards[event.key])
            return
        order = self.orders.get(event.key)
        if order is None:
            return
        if order.is_entry:
            if order.qty < order.wanted and order.status != Status.CANCELLING:
                self._note(Note.ENTRY_SHORT, order.wanted, order.qty)
            first_or_last = order.purpose == Purpose.ENTRY or len(self.orders) == 1
            if self.held == 0 and self.side and first_or_last:
                if self.resizing and not self.exiting:
                    self.then_side = self.side  # it was called back to come again in another size
                self.exiting = True  # nothing came of the trip
        elif self.held and order.purpose == Purpose.EXIT:
            self.exit_try += 1
            self.exit_after_ms = event.ts_ms + backoff_ms(self.exit_try)
            self._note(Note.EXIT_RETRY, self.exit_try)
        del self.orders[event.key]

    def _guard_gone(self, guard: Booked) -> None:
        if guard.qty:
            self.exiting = self.exiting or self.held != 0
        elif guard.purpose == Purpose.STOP:
            self.have, self.asked = (0, self.have[1]), (0, self.asked[1])
        else:
            self.have, self.asked = (self.have[0], 0), (self.asked[0], 0)

    def _on_protected(self, event: Happening) -> None:
        self.have, self.protect_try = (event.stop, event.target), 0

    def _on_protect_failed(self, event: Happening) -> None:
        if self.held == 0:
            return
        if event.code == Refusal.PASSED:
            self.exiting = True
            self._note(Note.STOP_PASSED, event.stop, self.mark)
            return
        self.protect_try += 1
        self.protect_after_ms = event.ts_ms + backoff_ms(self.protect_try)
        self.asked = (-1, -1)
        self._give_up_unprotected()

    def _give_up_unprotected(self) -> bool:
        if self.protect_try < PROTECT_TRIES:
            return False
        self.exiting = True
        self._note(Note.UNPROTECTED, self.protect_try)
        return True

    def _on_external(self, event: Happening) -> None:
        self._note(Note.ADOPTED, self.held, event.qty)
        side = sign(event.qty)
        if side and side != self.side:
            self._cancel_entries()
            self.weight, self.given = 0.0, Given()
            self._begin_trip(side)
            self.total, self.opened_ms = abs(event.qty), event.ts_ms
            self.parts = self.part = self.deadline_ms = self.next_ms = 0
        self.held, self.basis = event.qty, side * event.cost if side else event.cost
        for name in ("wallet_e8", "trip_e8", "realised_e8"):
            setattr(self, name, getattr(self, name) + event.amount_e8)
        if not side:
            self._spend()
            self.exiting = self.side != 0
        elif not self.exiting:
            self._want_protection(self._average())

    def _on_money(self, event: Happening) -> None:
        if event.code == Money.SYNC:
            self.wallet_e8 = event.amount_e8
            return
        if event.code == Money.OTHERS:
            self.others_e8 = event.amount_e8
            return
        grows = {Money.FUNDING: ("funding_e8", "trip_e8"), Money.TRANSFER: ("peak_e8", "day_e8")}[Money(event.code)]
        for name in ("wallet_e8", *grows):
            setattr(self, name, getattr(self, name) + event.amount_e8)

    def _on_command(self, event: Happening) -> None:
        if event.code == Command.PARAMS:
            self.params_id = event.ref
        elif event.code == Command.REDUCE:
            self.size_factor = event.value
        elif event.code == Command.RESUME:
            self.mode, self.pause, self.until_ms, self.size_factor, self.losses = Mode.RUN, Pause.NONE, 0, 1.0, 0
            if self.held == 0:
                self.peak_e8 = self.money_e8
        else:
            self._restrain(event)

    def _restrain(self, event: Happening) -> None:
        until_ms = event.known_ms if event.known_ms > 0 else NEVER_MS
        if self.mode == Mode.PAUSED and self.pause in (Pause.DRAWDOWN, Pause.DAILY_LOSS, Pause.LOSS_STREAK):
            self.until_ms = max(self.until_ms, until_ms)  # latched: a command makes it longer, not weaker
        else:
            self.mode = Mode.NO_ENTRY if event.code == Command.NO_ENTRY else Mode.PAUSED
            self.pause, self.until_ms = Pause.COMMAND, until_ms
        self.then_side = 0
        if self.parts:
            self.part = self.parts
            self._cancel_entries()
        if event.code == Command.FLATTEN and self.side:
            self.mode, self.exiting = Mode.FLATTENING, True

    # what follows

    def _follow_up(self, event: Happening) -> None:
        ts_ms = event.ts_ms
        if self.exiting:
            self._leave(ts_ms)
        if not self.exiting and self.side == 0 and self.then_side and not self.orders:
            self._maybe_enter(ts_ms)
        if not self.exiting and self.resizing:
            self._resize(ts_ms)
            if self.exiting:
                self._leave(ts_ms)
        if not self.exiting and self.parts:
            self._go_on(ts_ms, is_clock=event.kind == EventKind.CLOCK)
        if not self.exiting and self.held:
            if event.kind == EventKind.CLOCK:
                self._follow()
            self._protect(ts_ms)
            if self.exiting:
                self._leave(ts_ms)

    def _send(self, purpose: Purpose, kind: OrderKind, side: int, price: int, qty: int, **rest: int) -> None:
        if len(self.orders) == OWN_ORDERS:
            self._note(Note.NO_SLOT, OWN_ORDERS)
            return
        key, self.next_key = self.next_key, self.next_key + 1
        self.orders[key] = Own(side, purpose, wanted=qty, price=price, since_ms=self.last_ms)
        extra = {"stop": 0, "target": 0, "expires_ms": 0, **rest}
        self.wishes.append(
            Place(
                key, purpose, kind, side, price, qty, purpose in (Purpose.EXIT, Purpose.REDUCE), trip=self.trip, **extra
            )
        )

    def _cancel_entries(self) -> None:
        for key, order in self.orders.items():
            if order.is_entry and order.status != Status.CANCELLING:
                order.status = Status.CANCELLING
                self.wishes.append(Cancel(key))

    def _leave(self, ts_ms: int) -> None:
        self._cancel_entries()
        if self.held == 0:
            if not self.orders:
                self._end_trip(ts_ms)
            return
        out = [order for order in self.orders.values() if order.purpose == Purpose.EXIT]
        if ts_ms < self.exit_after_ms or any(order.status != Status.UNKNOWN for order in out):
            return
        self._send(Purpose.EXIT, OrderKind.MARKET, -sign(self.held), 0, abs(self.held))

    def _end_trip(self, ts_ms: int) -> None:
        if self.trip_e8 < 0:
            self.losses += 1
        if self.trip_e8 > 0:
            self.losses = self.trips_paused = 0
        self.side = self.total = self.parts = self.part = self.part_qty = self.next_ms = self.deadline_ms = 0
        self.exiting = self.resizing = False
        self.opened_ms = self.trip_e8 = self.best = 0
        self.want = self.asked = self.have = (0, 0)
        if self.mode == Mode.FLATTENING:
            self.mode = Mode.PAUSED
        if 0 < self.p.max_losses <= self.losses and self.mode != Mode.PAUSED:
            self._note(Note.LOSS_STREAK, self.losses)
            self._risk_pause(Pause.LOSS_STREAK, ts_ms)

    def _begin_trip(self, side: int) -> None:
        self.trip, self.side, self.trip_e8, self.atr0 = self.trip + 1, side, 0, self._counted()
        self.best = 0
        self.protect_try = self.protect_after_ms = self.exit_try = self.exit_after_ms = 0
        self.guards = {
            -2 * self.trip: Booked(-side, Purpose.STOP),
            -2 * self.trip - 1: Booked(-side, Purpose.TARGET),
        }

    def _maybe_enter(self, ts_ms: int) -> None:
        side, self.then_side = self.then_side, 0
        age = ts_ms - self.then_ms
        if self.mode != Mode.RUN:
            self._note(Note.PAUSED, self.pause)
        elif age > self.p.max_signal_age_ms:
            self._note(Note.STALE_SIGNAL, age, self.p.max_signal_age_ms)
        elif self._needs_atr() and not self.atr > 0:  # how wild the market is, is not known
            self._note(Note.NO_ATR)
        elif passed := self._passed(side):
            self._note(Note.LEVEL_PASSED, passed[0], self.close)
        else:
            self._enter(side, ts_ms)

    def _passed(self, side: int) -> list[int]:
        "Levels of the signal that the price is beyond already."
        stop = [self.given.stop] if self.given.stop and (self.close - self.given.stop) * side <= 0 else []
        return stop + (
            [self.given.target] if self.given.target and (self.given.target - self.close) * side <= 0 else []
        )

    def _limit_price(self, side: int) -> int:
        return max(1, self.close - side * nearest(self.close * self.p.entry_gap))

    def _order_entry(self, purpose: Purpose, qty: int, ts_ms: int, **levels: int) -> None:
        "To the market, or as a limit order that waits for a while."
        if self.p.entry == OrderKind.MARKET:
            self._send(purpose, OrderKind.MARKET, self.side, 0, qty, **levels)
            return
        until_ms = ts_ms + self.p.entry_expiry_ms
        self.deadline_ms = max(self.deadline_ms, until_ms)
        price = self._limit_price(self.side)
        self._send(purpose, OrderKind.LIMIT, self.side, price, qty, expires_ms=until_ms, **levels)

    def _enter(self, side: int, ts_ms: int) -> None:
        total = self._size(side)
        if not total:
            return
        parts = self._count_parts(total)
        each = total // parts
        self._begin_trip(side)
        self.total, self.parts, self.part, self.part_qty = total, parts, 1, each
        self.next_ms = ts_ms + self.p.split_interval_ms
        self.deadline_ms = ts_ms + self.p.split_expiry_ms if parts > 1 else 0
        self._want_protection(self.close if self.p.entry == OrderKind.MARKET else self._limit_price(side))
        self.asked, self.protect_after_ms = self.want, ts_ms + PATIENCE_MS
        first = total - each * (parts - 1)
        stop, target = self.want
        self._order_entry(Purpose.ENTRY, first, ts_ms, stop=stop, target=target)
        if self.p.split == Split.PRICE:
            for k in range(1, parts):
                price = self.close - side * nearest(self.close * self.p.split_gap * k)
                self._send(Purpose.ADD, OrderKind.LIMIT, side, price, each, expires_ms=self.deadline_ms)
            self.part = parts

    def _multiplier(self) -> float:
        if not self.p.tiers:
            return 1.0
        measure = self.atr
        if self.p.tier_unit == Threshold.PERCENT:
            measure = self.atr / (self.close * self.p.tick) * 100.0
        tiers = ((self.p.tier_low, self.p.mult_low), (self.p.tier_medium, self.p.mult_medium))
        multiplier = next((mult for limit, mult in tiers if measure < limit), self.p.mult_high)
        self._note(Note.SIZE_TIER, multiplier, measure)
        return multiplier

    def _size(self, side: int) -> int:
        step_e8 = self.close * self.p.unit_e8
        if self.weight:
            return 0 if abs(self.weight) < self.p.band else self._held_by_weight()
        distance = self._first_distance(side, self.close, self._counted())
        if self.p.sizing == Sizing.RISK_FRAC and distance == 0:
            self._note(Note.NO_STOP)
            return 0
        multiplier = self._multiplier()
        if self.p.sizing == Sizing.LOT:
            wanted = self.p.size / self.p.step
        elif self.p.sizing == Sizing.EQUITY_FRAC:
            wanted = self.p.size * self.money_e8 / step_e8
        else:
            wanted = self.p.size * self.money_e8 / (distance * self.p.unit_e8)
        wanted = wanted * multiplier * self._reduction()
        return self._capped(wanted, self._to_steps(wanted), self._most(self.money_e8, self.close))

    def _most(self, equity_e8: int, close: int) -> int:
        return min(int(self.p.max_leverage * equity_e8 / (close * self.p.unit_e8)), self.p.max_qty)

    def _to_steps(self, wanted: float) -> int:
        total = nearest(wanted)
        if total < self.p.min_qty:
            total = self.p.min_qty if 2 * wanted >= self.p.min_qty else 0
        return total

    def _capped(self, wanted: float, total: int, cap: int) -> int:
        "Whole steps, no more than may be held; 0, and a note, for less than the venue takes."
        step_e8 = self.close * self.p.unit_e8
        if total > cap:
            self._note(Note.SIZE_CAPPED, total, cap)
            total = cap
        if total < self.p.min_qty:
            self._note(Note.SIZED_TO_ZERO, wanted, self.p.min_qty)
            return 0
        if total * step_e8 < self.p.min_notional_e8:
            self._note(Note.MIN_NOTIONAL, total * step_e8 / 1e8, self.p.min_notional_e8 / 1e8)
            return 0
        return total

    def _count_parts(self, total: int) -> int:
        if self.p.split == Split.NONE:
            return 1
        wanted, price = self.p.split_count, self.close
        if self.p.split == Split.PRICE:
            price = max(1, self.close - nearest(self.close * self.p.split_gap * (wanted - 1)))
        limits = [wanted, total // max(1, self.p.min_qty), OWN_ORDERS - 1]
        if self.p.min_notional_e8:
            limits.append(total * price * self.p.unit_e8 // self.p.min_notional_e8)
        parts = max(1, min(limits))
        if parts < wanted:
            self._note(Note.PARTS_REDUCED, wanted, parts)
        return parts

    def _go_on(self, ts_ms: int, *, is_clock: bool) -> None:
        "Time-split parts go out on the clock; what is late is cancelled; a complete entry is said to be one."
        if self.p.split == Split.TIME and is_clock and self.held:
            self._send_due(ts_ms)
        late = 0 < self.deadline_ms <= ts_ms
        if late:
            self._cancel_entries()
        resting = any(order.is_entry for order in self.orders.values())
        if resting or not self.held or (self.part < self.parts and not late):
            return
        if abs(self.held) < self.total:
            self._note(Note.PARTS_EXPIRED, self.total, abs(self.held))
        self._note(Note.ENTRY_DONE, self._average(), abs(self.held))
        self.parts = self.part = self.next_ms = self.deadline_ms = 0

    def _send_due(self, ts_ms: int) -> None:
        due = 0
        while self.part < self.parts and self.next_ms <= ts_ms and self.next_ms <= self.deadline_ms:
            due, self.part, self.next_ms = due + 1, self.part + 1, self.next_ms + self.p.split_interval_ms
        if due == 0:
            return
        if due > 1:
            self._note(Note.PARTS_MERGED, due)
        self.deadline_ms = max(self.deadline_ms, ts_ms + self.p.split_interval_ms)
        qty = due * self.part_qty
        self._send(Purpose.ADD, OrderKind.LIMIT, self.side, self.mark, qty, expires_ms=self.deadline_ms)

    def _needs_atr(self) -> bool:
        brings = self.given.stop or self.given.stop_gap
        counts = self._has_ratio() and self.p.sl_unit == StopUnit.ATR and not brings
        return bool(counts or (self.p.tiers and not self.weight))

    def _counted(self) -> float:
        return self.atr if self.p.sl_unit == StopUnit.ATR else self.close * self.p.tick / 100.0

    def _stop_distance(self, counted: float) -> int:
        ticks = self.p.sl_ratio * counted / self.p.tick
        return 1 if math.isnan(ticks) else max(1, nearest(ticks))

    def _first_distance(self, side: int, average: int, counted: float) -> int:
        "From the average price to the stop as the trip begins; 0: it has none."
        if self.given.stop:
            return max(1, (average - self.given.stop) * side)
        if self.given.stop_gap:
            return self.given.stop_gap
        return self._stop_distance(counted) if self._has_ratio() else 0

    def _has_ratio(self) -> bool:
        return self.p.sl_ratio > 0 and not (self.p.bare_weights and self.weight)

    def _want_protection(self, average: int) -> None:
        distance = self._first_distance(self.side, average, self.atr0)
        stop = max(1, self._stop(average, distance)) if distance else 0
        reach = self.given.target_gap
        if not reach and distance and self.p.tp_ratio > 0:
            reach = max(1, nearest(self.p.tp_ratio * distance))
        target = self.given.target or (max(1, average + self.side * reach) if reach else 0)
        self.want = (stop, target)

    def _stop(self, average: int, distance: int) -> int:
        "Where a stop of its kind stands, whether the market has moved it before or not."
        if self.p.sl_kind == StopKind.BREAK_EVEN and self.best:
            return average + self.side * self._cost(average)
        is_moved = self.p.sl_kind == StopKind.TRAILING and self.best
        if self.given.stop and not is_moved:
            return self.given.stop
        start = self._farther(average) if self.p.sl_kind == StopKind.TRAILING else average
        return start - self.side * distance

    def _cost(self, average: int) -> int:
        return nearest(self.p.round_trip_cost * average)

    def _farther(self, average: int) -> int:
        "The better of the average and the price the stop has followed."
        if not self.best:
            return average
        return max(average, self.best) if self.side > 0 else min(average, self.best)

    def _is_to_move(self, mark: int) -> bool:
        "Whether a clock that shows this price moves the stop."
        if self.p.sl_kind == StopKind.FIXED or self.exiting:
            return False
        if self.held == 0 or sign(self.held) != self.side:
            return False
        average = self._average()
        distance = self._first_distance(self.side, average, self.atr0)
        if distance == 0:
            return False
        if self.p.sl_kind == StopKind.TRAILING:
            start, least = self._farther(average), max(1, nearest(self.p.trail_step * distance))
        elif self.best:
            return False
        else:
            start, least = average, max(nearest(self.p.break_even_at * distance), self._cost(average) + 1)
        price = start + self.side * least
        return price > 0 and (mark >= price if self.side > 0 else mark <= price)

    def _follow(self) -> None:
        if not self._is_to_move(self.mark):
            return
        before, self.best = self.want[0], self.mark
        self._want_protection(self._average())
        if self.want[0] != before:
            self._note(Note.STOP_MOVED, before, self.want[0])

    def _protect(self, ts_ms: int) -> None:
        is_new = self.want != self.asked
        is_lost = not is_new and self.want != self.have and ts_ms >= self.protect_after_ms
        if not (is_new or is_lost) or (self.protect_try and ts_ms < self.protect_after_ms):
            return
        self.protect_try += is_lost
        if self._give_up_unprotected():
            return
        self.asked, self.protect_after_ms = self.want, ts_ms + PATIENCE_MS
        self.wishes.append(Protect(*self.want, self.trip))

    # for comparing

    def as_state(self) -> dict[str, Any]:
        "The names and values of `events.STATE`."
        same = (
            "params_id seq last_ms next_key trip close mark atr decision opened_ms trip_e8 side total parts part "
            "part_qty next_ms deadline_ms atr0 best then_side then_ms exit_try exit_after_ms protect_try protect_after_ms "
            "wallet_e8 peak_e8 day_ms day_e8 losses realised_e8 fees_e8 funding_e8 mode pause until_ms trips_paused "
            "size_factor weight spent others_e8"
        )
        out: dict[str, Any] = {name: getattr(self, name) for name in same.split()}
        out |= {"qty": self.held, "cost": sign(self.held) * self.basis, "exiting": int(self.exiting)}
        out |= {"resizing": int(self.resizing), "stop_at": self.given.stop, "target_at": self.given.target}
        out |= {"stop_gap": self.given.stop_gap, "target_gap": self.given.target_gap}
        for name in ("want", "asked", "have"):
            out[f"{name}_stop"], out[f"{name}_target"] = getattr(self, name)
        out["orders"] = {
            key: (o.status, o.purpose, o.side, o.price, o.wanted, o.qty, o.cost, o.fee_e8, o.since_ms)
            for key, o in self.orders.items()
        }
        out["guards"] = {key: (g.purpose, g.side, g.qty, g.cost, g.fee_e8) for key, g in self.guards.items()}
        return out


# the venue ---


class Bar(NamedTuple):
    open_ms: int
    close_ms: int
    open: int
    high: int
    low: int
    close: int
    volume: int
    mark_high: int  # 0: no mark prices
    mark_low: int


@dataclass
class Resting(Booked):
    key: int = 0
    kind: OrderKind = OrderKind.MARKET
    price: int = 0
    wanted: int = 0
    reduce: bool = False
    attached: tuple[int, int] = (0, 0)
    expires_ms: int = 0
    trip: int = 0

    @property
    def left(self) -> int:
        return self.wanted - self.qty


@dataclass
class Venue:
    "One account on one instrument."

    costs: SimpleNamespace
    wallet_e8: int
    held: int = 0
    basis: int = 0  # never negative
    stop: int = 0
    target: int = 0
    trip: int = 0
    last: int = 0
    orders: dict[int, Resting] = field(default_factory=dict)
    counts: Counter = field(default_factory=Counter)
    bar: Bar = field(default_factory=lambda: Bar(0, 0, 0, 0, 0, 0, 0, 0, 0))
    room: float = math.inf
    is_open: bool = True  # the open is being played
    open_counts: bool = True  # what stands has stood since the open, so a jump at the open counts

    @property
    def side(self) -> int:
        return sign(self.held)

    # wishes

    def accept(self, wish: Wish, ts_ms: int) -> list[Happening]:
        if isinstance(wish, Place):
            return [self._rest(wish, ts_ms)]
        if isinstance(wish, Cancel):
            order = self.orders.pop(wish.key, None)
            return [] if order is None else [self._done(order, Done.CANCELLED, ts_ms)]
        if isinstance(wish, Protect):
            return [self._set_protection(wish, ts_ms)]
        return []

    def _rest(self, wish: Place, ts_ms: int) -> Happening:
        if len(self.orders) == VENUE_ORDERS:
            return Happening(EventKind.DONE, ts_ms, code=Done.REJECTED, key=wish.key)
        self.orders[wish.key] = Resting(
            wish.side,
            wish.purpose,
            key=wish.key,
            kind=wish.order,
            price=wish.price,
            wanted=wish.qty,
            reduce=wish.reduce,
            attached=(wish.stop, wish.target),
            expires_ms=wish.expires_ms,
            trip=wish.trip,
        )
        return Happening(EventKind.ACK, ts_ms, code=Ack.LIVE, key=wish.key)

    def _set_protection(self, wish: Protect, ts_ms: int) -> Happening:
        levels = {"stop": wish.stop, "target": wish.target}
        if self.held == 0:
            return Happening(EventKind.PROTECT_FAILED, ts_ms, code=Refusal.OTHER, **levels)
        above = [wish.stop if self.held < 0 else wish.target]
        below = [wish.target if self.held < 0 else wish.stop]
        if any(0 < level <= self.last for level in above) or any(level >= self.last for level in below if level):
            return Happening(EventKind.PROTECT_FAILED, ts_ms, code=Refusal.PASSED, **levels)
        self.stop, self.target, self.trip = wish.stop, wish.target, wish.trip
        if not self.is_open:
            self.open_counts = False
        return self._protected(ts_ms)

    def _protected(self, ts_ms: int) -> Happening:
        return Happening(EventKind.PROTECTED, ts_ms, stop=self.stop, target=self.target)

    def _report(self, kind: EventKind, order: Resting, code: int, ts_ms: int) -> Happening:
        return Happening(kind, ts_ms, code=code, key=order.key, qty=order.qty, cost=order.cost, fee_e8=order.fee_e8)

    def _done(self, order: Resting, code: Done, ts_ms: int) -> Happening:
        return self._report(EventKind.DONE, order, code, ts_ms)

    # trades

    def _fee_e8(self, cost: int, rate: float) -> int:
        return nearest(float(cost * self.costs.unit_e8) * rate)

    def slipped(self, price: int, side: int) -> int:
        return max(1, price + side * max(nearest(price * self.costs.slippage), self.costs.min_slip))

    def _grant(self, wanted: int) -> int:
        "What the bar's volume still has room for."
        granted = min(wanted, self.room)
        self.room -= granted
        self.counts["capped"] += granted < wanted
        return granted

    def _settle(self, side: int, qty: int, price: int, fee_e8: int) -> None:
        gain = 0
        if self.held * side < 0:
            given = self.basis * qty // abs(self.held)
            gain = (qty * price - given) * -side * self.costs.unit_e8
            self.basis -= given
        else:
            self.basis += qty * price
        self.held += side * qty
        self.wallet_e8 += gain - fee_e8
        self.counts["realised_e8"] += gain
        self.counts["fees_e8"] += fee_e8
        if self.held == 0:
            self.stop = self.target = 0

    def _trade(self, order: Resting, qty: int, price: int, is_maker: bool, ts_ms: int) -> list[Happening]:
        "Trade part of a resting order: its own stop and target first become the position's."
        events = []
        if not order.reduce:
            self.trip = order.trip
            if order.attached != (0, 0):
                self.stop, self.target = order.attached
                order.attached = (0, 0)
                events.append(self._protected(ts_ms))
        fee_e8 = self._fee_e8(qty * price, self.costs.maker_fee if is_maker else self.costs.taker_fee)
        self._settle(order.side, qty, price, fee_e8)
        order.qty += qty
        order.cost += qty * price
        order.fee_e8 += fee_e8
        self.last = price
        events.append(self._report(EventKind.FILL, order, int(is_maker), ts_ms))
        return events

    # a bar

    def play(self, bar: Bar) -> Iterator[list[Happening]]:
        "The bar's instants, one by one; the bot may answer between two."
        self.bar, self.last, self.is_open, self.open_counts = bar, bar.open, True, True
        self.room = math.floor(self.costs.participation * bar.volume) if self.costs.participation > 0 else math.inf
        turns: set[int] = set()  # orders that had theirs in this bar
        for instant in (self._already_gone, self._at_open, self._on_the_way, self._good_end):
            yield from instant(turns)
        self.last = bar.close

    def _waiting(self, turns: set[int]) -> list[Resting]:
        "Orders that may still trade in this bar, oldest first."
        limits = [
            o for o in self.orders.values() if o.kind == OrderKind.MARKET or not 0 < o.expires_ms <= self.bar.open_ms
        ]
        return sorted((o for o in limits if o.key not in turns), key=lambda order: order.key)

    def _at_open(self, turns: set[int]) -> Iterator[list[Happening]]:
        opening = self.bar.open
        while True:
            ready = [o for o in self._waiting(turns) if o.kind == OrderKind.MARKET or o.side * (o.price - opening) >= 0]
            if not ready:
                break
            turns.add(ready[0].key)
            events = self._fill_at_open(ready[0])
            if events:
                yield events
        self.is_open = False

    def _fill_at_open(self, order: Resting) -> list[Happening]:
        ts_ms, opening = self.bar.open_ms, self.bar.open
        is_market = order.kind == OrderKind.MARKET
        wanted, events = order.left, []
        price = self.slipped(opening, order.side)
        if not is_market:
            price = min(price, order.price) if order.side > 0 else max(price, order.price)
        if order.reduce:
            wanted = min(wanted, abs(self.held)) if self.held * order.side < 0 else 0
            if wanted and self._is_liquidated(price):  # too late to leave
                events, wanted = [self._liquidate(ts_ms)], 0
        qty = self._grant(wanted)
        if qty:
            events = self._trade(order, qty, price, False, ts_ms)
            self.counts["slippage_e8"] += abs(price - opening) * qty * self.costs.unit_e8
        if not order.left or is_market:
            del self.orders[order.key]
            events.append(self._done(order, Done.CANCELLED if order.left else Done.FILLED, ts_ms))
        return events

    def _through(self, turns: set[int]) -> Resting | None:
        "Of the limit orders the bar trades through the nearest; the oldest of two."
        bar = self.bar
        through = [
            o
            for o in self._waiting(turns)
            if o.kind == OrderKind.LIMIT and (bar.low < o.price if o.side > 0 else bar.high > o.price)
        ]
        return min(through, key=lambda o: abs(o.price - bar.open)) if through else None

    def _fill_inside(self, order: Resting) -> list[Happening]:
        qty = self._grant(order.left)
        if not qty:
            return []
        bar = self.bar
        self.counts["expired_inside"] += 0 < order.expires_ms < bar.close_ms
        self.open_counts = False
        events = self._trade(order, qty, order.price, True, bar.close_ms - 1)
        if not order.left:
            del self.orders[order.key]
            events.append(self._done(order, Done.FILLED, bar.close_ms - 1))
        return events

    def _margin(self) -> float:
        "What the position can lose, ticks × steps."
        return min(self.basis / self.costs.leverage, self.wallet_e8 / self.costs.unit_e8)

    def _is_liquidated(self, mark: int) -> bool:
        if self.held == 0 or self.costs.leverage <= 0:
            return False
        lost = (self.basis - abs(self.held) * mark) * self.side
        return lost >= self._margin() - self.costs.maintenance * self.basis

    def _worst(self) -> tuple[int, int]:
        "Of the bar's prices and of its marks."
        bar = self.bar
        marked = bar.mark_low != 0
        if self.side > 0:
            return bar.low, bar.mark_low if marked else bar.low
        return bar.high, bar.mark_high if marked else bar.high

    def _already_gone(self, _turns: set[int]) -> Iterator[list[Happening]]:
        "Nobody can trade at an open that lies beyond the end of the position."
        opening = self.bar.open
        if self.held and self._is_liquidated(opening) and self._is_liquidated(self._worst()[1]):
            yield [self._liquidate(self.bar.open_ms)]
        elif self.held and self.stop and self.stop * self.side >= opening * self.side:
            yield self._trigger(opening, opening, Purpose.STOP, self.bar.open_ms)

    def _ends(self) -> list[tuple[float, bool]]:
        "Where the bar's way against the position ends it, and whether by liquidation; the nearest first."
        if self.held == 0:
            return []
        worst, mark = self._worst()
        ends: list[tuple[float, bool]] = []
        if self.stop and self.stop * self.side >= worst * self.side:
            ends.append((float(self.stop), False))
        if self._is_liquidated(mark):
            allowed = self._margin() - self.costs.maintenance * self.basis
            ends.append(((self.side * self.basis - allowed) / self.held, True))
        return sorted(ends, key=lambda end: (-end[0] * self.side, end[1]))

    def _on_the_way(self, turns: set[int]) -> Iterator[list[Happening]]:
        while True:
            order, ends = self._through(turns), self._ends()
            if ends and not (order and order.side == self.side and order.price * self.side > ends[0][0] * self.side):
                self.counts["ambiguous"] += order is not None or self._target_is_reached()
                yield self._end(*ends[0])
            elif order:
                turns.add(order.key)
                events = self._fill_inside(order)
                if events:
                    yield events
            else:
                break

    def _end(self, level: float, by_liquidation: bool) -> list[Happening]:
        ts_ms = self.bar.close_ms - 1
        jumped = self.open_counts and (self.bar.open - self.stop) * self.side < 0
        if by_liquidation:
            events = [self._liquidate(ts_ms)]
        elif jumped:
            events = self._trigger(self.bar.open, self.bar.open, Purpose.STOP, ts_ms)
        else:
            share = min(1.0, 1.095 * math.sqrt(self.costs.stop_delay_ms / (self.bar.close_ms - self.bar.open_ms)))
            farther = nearest(share * abs(self.stop - self._worst()[0]))
            events = self._trigger(self.stop, self.stop - self.side * farther, Purpose.STOP, ts_ms)
        self.open_counts = False
        return events

    def _target_is_reached(self) -> bool:
        best = self.bar.high if self.side > 0 else self.bar.low
        return self.target > 0 and (best - self.target) * self.side >= 0

    def _good_end(self, _turns: set[int]) -> Iterator[list[Happening]]:
        if self.side == 0 or not self._target_is_reached():
            return
        if not self.open_counts:
            self.counts["ambiguous"] += 1
            return
        jumped = (self.bar.open - self.target) * self.side > 0
        found = self.bar.open if jumped else self.target
        yield self._trigger(found, found, Purpose.TARGET, self.bar.close_ms - 1)

    def _liquidate(self, ts_ms: int) -> Happening:
        owed_e8 = nearest(self.basis / self.costs.leverage) * self.costs.unit_e8
        amount_e8 = -min(owed_e8, self.wallet_e8)
        self.wallet_e8 += amount_e8
        self.counts["realised_e8"] += amount_e8
        self.counts["liquidations"] += 1
        self.held = self.basis = self.stop = self.target = 0
        return Happening(EventKind.EXTERNAL, ts_ms, code=Cause.LIQUIDATION, amount_e8=amount_e8)

    def _trigger(self, meant: int, found: int, purpose: Purpose, ts_ms: int) -> list[Happening]:
        side, wanted = -self.side, abs(self.held)
        price = self.slipped(found, side)
        if self._is_liquidated(price):
            return [self._liquidate(ts_ms)]
        qty = self._grant(wanted)
        fee_e8 = self._fee_e8(qty * price, self.costs.taker_fee)
        key = -2 * self.trip - (purpose == Purpose.TARGET)
        report = {"ts_ms": ts_ms, "key": key, "qty": qty, "cost": qty * price, "fee_e8": fee_e8}
        if qty:
            self._settle(side, qty, price, fee_e8)
            self.counts["slippage_e8"] += abs(price - meant) * qty * self.costs.unit_e8
        self.stop = self.target = 0
        self.last = price
        fill = [Happening(EventKind.FILL, **report)] if qty else []
        return [*fill, Happening(EventKind.DONE, code=Done.CANCELLED if qty < wanted else Done.FILLED, **report)]

    def fund(self, mark: int, rate: float, ts_ms: int) -> list[Happening]:
        if self.held == 0:
            return []
        if self.bar.mark_low and self.bar.open_ms < ts_ms <= self.bar.close_ms:
            mark = sorted((self.bar.mark_low, mark, self.bar.mark_high))[1]
        amount_e8 = -nearest(float(self.held * mark * self.costs.unit_e8) * rate)
        if self.costs.leverage > 0:
            worth = self.wallet_e8 + self.side * (abs(self.held) * mark - self.basis) * self.costs.unit_e8
            amount_e8 = max(amount_e8, -max(0, worth))
        self.wallet_e8 += amount_e8
        self.counts["funding_e8"] += amount_e8
        return [Happening(EventKind.MONEY, ts_ms, code=Money.FUNDING, amount_e8=amount_e8)]


# the loop ---


class Fill(NamedTuple):
    ts_ms: int
    key: int
    trip: int
    purpose: int
    side: int
    qty: int
    cost: int
    fee_e8: int
    pnl_e8: int
    maker: int


class Desk:
    "A bot and its venue, bar after bar."

    def __init__(self, params: np.ndarray, costs: np.ndarray, wallet_e8: int) -> None:
        self.bot = Bot(params, wallet_e8)
        self.venue = Venue(plain(costs), wallet_e8)
        self.fills: list[Fill] = []
        self.payments: list[tuple[int, int, int, int]] = []  # stamp, trip, steps held, amount
        self.equity_e8: list[int] = []
        self.notes: Counter = Counter()
        self.tiers: Counter = Counter()
        self.seq = 0

    def tell(self, events: list[Happening], ts_ms: int) -> None:
        "Let the bot hear events and the venue its wishes, until both are silent."
        waiting = deque(events)
        while waiting:
            event = waiting.popleft()
            self.seq += 1
            for wish in self._hear(event):
                if isinstance(wish, Remark):
                    self.notes[wish.code.name] += 1
                    if wish.code == Note.SIZE_TIER:
                        self.tiers[wish.a] += 1
                else:
                    waiting.extend(self.venue.accept(wish, ts_ms))

    def _hear(self, event: Happening) -> list[Wish]:
        if event.kind == EventKind.EXTERNAL:
            self._take(event)
        if event.kind == EventKind.MONEY and event.code == Money.FUNDING:
            self.payments.append((event.ts_ms, self.bot.trip, self.bot.held, event.amount_e8))
        if event.kind != EventKind.FILL:
            return self.bot.hear(self.seq, event)
        order = self.bot.orders.get(event.key) or self.bot.guards[event.key]
        known, gained = (order.qty, order.cost, order.fee_e8), self.bot.realised_e8
        fresh = [now - then for now, then in zip((event.qty, event.cost, event.fee_e8), known, strict=True)]
        trip = self.bot.trip
        wishes = self.bot.hear(self.seq, event)
        pnl_e8 = self.bot.realised_e8 - gained
        self.fills.append(
            Fill(event.ts_ms, event.key, trip, order.purpose, order.side, *fresh, pnl_e8=pnl_e8, maker=event.code)
        )
        return wishes

    def _take(self, event: Happening) -> None:
        "A position taken away whole: what was paid for it, less what is lost, came back for it."
        bot = self.bot
        assert event.qty == 0 and bot.held != 0
        worth = abs(sign(bot.held) * bot.basis + math.floor(Fraction(event.amount_e8, bot.p.unit_e8)))
        row = {
            "side": -sign(bot.held),
            "qty": abs(bot.held),
            "cost": worth,
            "fee_e8": 0,
            "pnl_e8": event.amount_e8,
        }
        self.fills.append(Fill(event.ts_ms, 0, bot.trip, 10 + event.code, **row, maker=0))


def levels_at(signals: Any, b: int, tick: float) -> dict[str, int]:
    "What the signal of a bar brings, in ticks."
    names = {"stop": "stop", "target": "target", "stop_distance": "stop_gap", "target_distance": "target_gap"}
    found = {}
    for name, field_name in names.items():
        column = getattr(signals, name)
        if column is not None and not math.isnan(column[b]):
            found[field_name] = max(1, nearest(float(column[b]) / tick))
    return found


class Market:
    "One market's recording, bar after bar, and what a bot on it is told."

    def __init__(self, tape: Any, signals: Any, atr: Any, desk: Desk) -> None:
        self.tape, self.signals, self.atr, self.desk = tape, signals, atr, desk
        self.stamps = deque(zip(tape.funding_ms.tolist(), tape.funding_rate.tolist(), strict=True))
        n = len(tape.open_ms)
        columns = [getattr(tape, name).tolist() for name in ("open_ms", "open", "high", "low", "close", "volume")]
        marks = [column.tolist() if len(column) else [0] * n for column in (tape.mark_high, tape.mark_low)]
        ends = tape.bot_bar.tolist() if len(tape.bot_bar) else list(range(n))
        self.bars = {row[0]: row for row in zip(*columns, *marks, ends, strict=True)}
        self.close = 0

    def _pay(self, until_ms: int) -> None:
        while self.stamps and self.stamps[0][0] <= until_ms:
            ts_ms, rate = self.stamps.popleft()
            self.desk.tell(self.desk.venue.fund(self.close, rate, ts_ms), ts_ms)

    def play(self, open_ms: int) -> None:
        "What the market does in a bar."
        _, *prices, mark_high, mark_low, _ = self.bars[open_ms]
        end_ms = open_ms + self.tape.bar_ms
        self._pay(open_ms)  # between two bars: who holds is who held
        for events in self.desk.venue.play(Bar(open_ms, end_ms, *prices, mark_high, mark_low)):
            self.desk.tell(events, events[0].ts_ms)
        self.close = prices[3]
        self._pay(end_ms)

    def tick(self, open_ms: int) -> None:
        "What the bot hears at the bar's close."
        end_ms, b = open_ms + self.tape.bar_ms, self.bars[open_ms][-1]
        self.desk.tell([Happening(EventKind.CLOCK, end_ms, price=self.close)], end_ms)
        if b >= 0:
            close, atr = int(self.tape.bot_close[b]), float(self.atr[b])
            self.desk.tell([Happening(EventKind.BAR, end_ms, price=close, atr=atr, ref=b)], end_ms)
            for word in self.said(b, end_ms):
                self.desk.tell([word], end_ms)
        self.desk.equity_e8.append(self.desk.bot.equity_e8(self.close) - self.desk.bot.others_e8)

    def said(self, b: int, end_ms: int) -> list[Happening]:
        signals, stamps = self.signals, {"known_ms": end_ms, "ref": b}
        if signals.weight is not None and not math.isnan(signals.weight[b]):
            return [Happening(EventKind.WEIGHT, end_ms, value=float(signals.weight[b]), **stamps)]
        if not signals.direction[b] and not signals.exits[b]:
            return []
        fields = {
            "code": int(signals.direction[b]),
            "exits": int(signals.exits[b]),
            "value": float(signals.confidence[b]),
        }
        return [Happening(EventKind.SIGNAL, end_ms, **fields, **stamps, **levels_at(signals, b, self.desk.bot.p.tick))]


def simulate(tape: Any, signals: Any, atr: Any, params: np.ndarray, costs: np.ndarray, wallet_e8: int) -> Desk:
    "What `engine.simulate.run` should find."
    market = Market(tape, signals, atr, Desk(params, costs, wallet_e8))
    for open_ms in tape.open_ms.tolist():
        market.play(open_ms)
        market.tick(open_ms)
    return market.desk


def simulate_together(markets: list[Market]) -> list[int]:
    "What `engine.portfolio.run_portfolio` should find: bots with one purse; what the whole is worth at each close."
    purse, worth = sum(market.desk.venue.wallet_e8 for market in markets), []
    for open_ms in sorted({ms for market in markets for ms in market.bars}):
        trading = [market for market in markets if open_ms in market.bars]
        for market in trading:
            market.desk.venue.wallet_e8 = purse
            market.play(open_ms)
            purse = market.desk.venue.wallet_e8
        own = {id(m): m.desk.bot.equity_e8(m.close) - m.desk.bot.others_e8 for m in markets}
        whole = sum(own.values())
        for market in trading:
            bot, end_ms = market.desk.bot, open_ms + market.tape.bar_ms
            others = whole - own[id(market)]
            if others != bot.others_e8:
                event = Happening(EventKind.MONEY, end_ms, code=Money.OTHERS, amount_e8=others)
                market.desk.tell([event], end_ms)
            market.tick(open_ms)
        worth.append(whole)
    return worth
