"""Rules of the engine that random cases meet too rarely to prove, one short story each."""

import numpy as np
from cases import STEP, TICK, UNIT_E8, record
from pair import Pair
from reference import Cancel, Happening, Place, Protect, Remark, Wish

from autotrader.engine.events import (
    EVENT,
    INTENT,
    NEVER_MS,
    PARAMS,
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
    Split,
)
from autotrader.engine.fills import BAR, COSTS, MAX_EVENTS, accept, match, new_venue, open_bar
from autotrader.engine.signals import Signals
from autotrader.engine.simulate import run
from autotrader.engine.tape import Tape

T0 = 1_700_000_000_000 // 86_400_000 * 86_400_000
MINUTE = 60_000
WALLET_E8 = 10_000 * 10**8

PLAIN = {
    "tick": TICK,
    "step": STEP,
    "unit_e8": UNIT_E8,
    "min_qty": 1,
    "max_qty": 10**9,
    "size": 1.0,  # 100 steps
    "max_leverage": 10.0,
    "split_count": 4,
    "split_interval_ms": MINUTE,
    "split_expiry_ms": 10 * MINUTE,
    "split_gap": 0.01,
    "sl_ratio": 2.0,
    "allow_long": 1,
    "allow_short": 1,
    "exit_on_opposite": 1,
    "max_signal_age_ms": MINUTE,
    "cooldown_ms": 10 * MINUTE,
    "resume_size": 1.0,
}


class Story:
    "A bot with the price at 1,000 ticks and an ATR of 10; its reference hears and checks everything."

    def __init__(self, **params: float) -> None:
        self.pair = Pair(record(PARAMS, {**PLAIN, **params}), WALLET_E8)
        self.bot = self.pair.bot
        self.tell(EventKind.BAR, 0, price=1_000, atr=1.0)

    def tell(self, kind: EventKind, after_ms: int, **fields: float) -> list[Wish]:
        return self.pair.hear(Happening(kind, T0 + after_ms, **fields))

    def signal(self, direction: int, after_ms: int = 0) -> list[Place]:
        "Orders that a sure and fresh signal leads to."
        wishes = self.tell(EventKind.SIGNAL, after_ms, code=direction, value=1.0, known_ms=T0 + after_ms)
        return [wish for wish in wishes if isinstance(wish, Place)]

    def fill(self, order: Place, after_ms: int, price: int = 1_000) -> list[Wish]:
        "The order fills and is done."
        report = {"key": order.key, "qty": order.qty, "cost": order.qty * price}
        wishes = self.tell(EventKind.FILL, after_ms, **report)
        return wishes + self.tell(EventKind.DONE, after_ms, **report)

    def lose(self, after_ms: int) -> None:
        "A long that is closed ten ticks lower."
        (entry,) = self.signal(1, after_ms)
        self.fill(entry, after_ms)
        away, *_ = self.signal(-1, after_ms)
        self.fill(away, after_ms, 990)
        assert self.bot.held == 0


def notes(wishes: list[Wish]) -> list[Note]:
    return [wish.code for wish in wishes if isinstance(wish, Remark)]


def test_parts_go_out_on_the_clock_at_the_price_of_the_clock() -> None:
    story = Story(split=Split.TIME, sl_ratio=0.0)
    (first,) = story.signal(1)
    story.fill(first, 1)
    due_ms = MINUTE + 10
    assert story.tell(EventKind.MONEY, due_ms, code=Money.FUNDING, amount_e8=5) == []
    (part,) = story.tell(EventKind.CLOCK, due_ms + 1, price=1_017)
    assert (part.qty, part.price) == (25, 1_017)


def test_a_report_without_a_key_is_nobodys() -> None:
    story = Story()
    (entry,) = story.signal(1)
    story.fill(entry, 1)
    before = story.pair.state.copy()
    for kind in (EventKind.FILL, EventKind.DONE, EventKind.ACK):
        story.tell(kind, 1, key=0, qty=1_000, cost=1_000_000)
    before["seq"] = story.pair.state["seq"]
    assert story.pair.state.tobytes() == before.tobytes()


def test_a_timed_command_does_not_lift_a_breaker() -> None:
    story = Story(max_losses=1, manual_resume=1)
    story.lose(MINUTE)
    assert (story.bot.mode, story.bot.pause) == (Mode.PAUSED, Pause.LOSS_STREAK)
    story.tell(EventKind.COMMAND, 2 * MINUTE, code=Command.NO_ENTRY, known_ms=T0 + 3 * MINUTE)
    story.tell(EventKind.CLOCK, 4 * MINUTE, price=1_000)
    assert (story.bot.mode, story.bot.pause) == (Mode.PAUSED, Pause.LOSS_STREAK)
    story.tell(EventKind.COMMAND, 5 * MINUTE, code=Command.RESUME)
    assert story.bot.mode == Mode.RUN


def test_a_breaker_does_not_lift_what_a_person_forbade() -> None:
    story = Story(max_losses=1)
    (entry,) = story.signal(1)
    story.fill(entry, 1)
    story.tell(EventKind.COMMAND, 2, code=Command.NO_ENTRY)
    (away,) = story.signal(-1, 3)
    assert Note.LOSS_STREAK in notes(story.fill(away, 4, 990))
    story.tell(EventKind.CLOCK, 10 * MINUTE + 10, price=1_000)
    assert story.bot.until_ms == NEVER_MS
    assert story.signal(1, 11 * MINUTE) == []


def test_an_exit_that_finds_no_slot_says_so_and_goes_out_when_there_is_one() -> None:
    story = Story(split=Split.PRICE, split_count=9, sl_ratio=0.0)
    first, *adds = story.signal(1)
    assert len(adds) == 6  # one slot stays free for the exit
    story.fill(first, 1)
    (away,) = story.signal(-1, 2)
    for lost, at_ms in ((away, 3), (None, 40_000), (None, 80_000)):
        if lost is None:
            sent = story.tell(EventKind.CLOCK, at_ms, price=1_000)
            if at_ms == 80_000:
                assert notes(sent) == [Note.NO_SLOT]
                break
            (lost,) = sent
        story.tell(EventKind.ACK, at_ms, key=lost.key, code=Ack.UNKNOWN)
    again = story.tell(EventKind.DONE, 81_000, key=adds[0].key, code=Done.CANCELLED)
    assert [(wish.side, wish.qty) for wish in again] == [(-1, first.qty)]


def test_what_was_refused_is_asked_again_after_a_while_on_the_clock() -> None:
    story = Story()
    (entry,) = story.signal(1)
    story.tell(EventKind.PROTECTED, 1, stop=entry.stop)
    story.fill(entry, 1)
    story.tell(EventKind.PROTECT_FAILED, 2, code=1, stop=entry.stop)
    assert story.tell(EventKind.CLOCK, 500, price=1_000) == []
    assert story.tell(EventKind.CLOCK, 1_500, price=1_000) == [Protect(entry.stop, 0, 1)]


def test_a_position_from_elsewhere_gets_a_stop_and_a_liquidated_one_ends_its_trip() -> None:
    story = Story()
    wishes = story.tell(EventKind.EXTERNAL, 1, code=Cause.MANUAL, qty=-40, cost=-40_000)
    assert wishes == [Remark(Note.ADOPTED, 0.0, -40.0), Protect(1_020, 0, 1)]
    story.tell(EventKind.EXTERNAL, 2, code=Cause.LIQUIDATION, amount_e8=-(10**9))
    assert (story.bot.side, story.bot.losses) == (0, 1)


def test_flattening_leaves_nothing_open_and_stays_paused() -> None:
    story = Story(split=Split.PRICE)
    first, *adds = story.signal(1)
    story.fill(first, 1)
    wishes = story.tell(EventKind.COMMAND, 2, code=Command.FLATTEN)
    assert {wish.key for wish in wishes if isinstance(wish, Cancel)} == {add.key for add in adds}
    (away,) = [wish for wish in wishes if isinstance(wish, Place)]
    for add in adds:
        story.tell(EventKind.DONE, 3, key=add.key, code=Done.CANCELLED)
    story.fill(away, 4)
    assert (story.bot.mode, story.bot.side) == (Mode.PAUSED, 0)
    assert story.signal(1, 5) == []


def test_of_two_orders_at_one_price_the_older_one_fills() -> None:
    venue, events = new_venue(wallet_e8=WALLET_E8), np.zeros(MAX_EVENTS, EVENT)
    costs = record(COSTS, {"unit_e8": UNIT_E8, "participation": 1.0})
    limit = {"kind": IntentKind.PLACE, "order": OrderKind.LIMIT, "side": 1, "price": 990, "qty": 10}
    for key in (1, 2):
        accept(venue[0], record(INTENT, {**limit, "key": key})[0], T0, events)
    accept(venue[0], record(INTENT, {"kind": IntentKind.CANCEL, "key": 1})[0], T0, events)
    accept(venue[0], record(INTENT, {**limit, "key": 3})[0], T0, events)  # in the slot of the first
    bar = {"open_ms": T0, "close_ms": T0 + MINUTE, "open": 1_000, "high": 1_000, "low": 980, "close": 985, "volume": 10}
    open_bar(venue[0], record(BAR, bar)[0], costs[0])
    assert match(venue[0], costs[0], events) == 2
    assert events["key"][:2].tolist() == [2, 2]


def test_funding_that_falls_due_where_bars_are_missing_is_paid_by_who_held() -> None:
    hours = np.array([0, 1, 5, 6], np.int64)  # the position is closed at the open of hour 5
    flat, none = np.full(4, 1_000, np.int64), np.zeros(0, np.int64)
    stamp, rate = np.array([T0 + 3 * 60 * MINUTE]), np.array([0.001])
    prices, volume = [flat] * 4, np.full(4, 10**6, np.int64)
    tape = Tape(60 * MINUTE, T0 + hours * 60 * MINUTE, *prices, volume, none, none, none, flat, stamp, rate)
    signals = Signals([1, 0, 0, 0], [0, 1, 0, 0], np.ones(4))
    params, costs = record(PARAMS, {**PLAIN, "sl_ratio": 0.0}), record(COSTS, {"unit_e8": UNIT_E8})
    found = run(tape, signals, np.ones(4), params=params, costs=costs, wallet_e8=WALLET_E8)
    assert found.fills["ts_ms"].tolist() == (T0 + np.array([1, 5]) * 60 * MINUTE).tolist()
    assert int(found.state["funding_e8"][0]) == -100 * 1_000 * UNIT_E8 // 1_000
