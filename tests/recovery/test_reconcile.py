"""Whatever differs between a bot and its venue, the venue is right; nothing is booked twice, and no position stays without a stop."""

import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

sys.path.insert(0, str(Path(__file__).parent))

from lone import BTC, MINUTE, SPLIT, SYMBOL, WALLET, Line, Lone, parameters

from autotrader.bots.execution import MOST_KEPT
from autotrader.bots.reconcile import reconcile
from autotrader.bots.subbot import command, learn, listen, recover, revive, tick
from autotrader.core.errors import ConfigError, OutcomeUnknown, Retryable, StoreError
from autotrader.core.ports import (
    Bar,
    OrderRequest,
    OrderState,
    OrderUpdate,
    Origin,
    ProtectionUpdate,
    Side,
    Snapshot,
    WalletCause,
    WalletUpdate,
)
from autotrader.engine.events import (
    EVENT,
    SCHEMA,
    STATE,
    Cause,
    Command,
    EventKind,
    Exit,
    Money,
    Status,
)
from autotrader.engine.policy import PATIENCE_MS, PROTECT_TRIES
from autotrader.exchange.paper import Roughness
from autotrader.runner.parity import decision_parity
from autotrader.store import journal
from autotrader.store.database import Store, open_store
from autotrader.store.tables import Decision, Order, Trade


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with open_store("sqlite:///r.db", folder=tmp_path_factory.mktemp("reconcile"), create=True) as store:
        yield store


@pytest.fixture
def lone(store: Store) -> Lone:
    return Lone(store)


@pytest.fixture
def long(lone: Lone) -> Lone:
    "A bot that is long with a stop."
    lone.enter()
    assert lone.stop == lone.bot.state["have_stop"][0] != 0
    return lone


def settle(lone: Lone) -> list[str]:
    "Reconcile, and see that once is enough and that the journal tells it all."
    lines = reconcile(lone.bot)
    assert lone.believed == lone.real
    lone.bot.writer.commit()
    seq = int(lone.bot.state["seq"][0])
    assert reconcile(lone.bot) == []
    assert lone.bot.state["seq"][0] == seq
    assert decision_parity(lone.store, lone.name).is_exact
    return lines


def events(lone: Lone) -> np.ndarray:
    lone.bot.writer.commit()
    return journal.read(lone.store, lone.name, EVENT)


def one_kind(lone: Lone, kind: EventKind) -> np.ndarray:
    written = events(lone)
    return written[written["kind"] == kind]


def _play_instants(lone: Lone) -> None:
    "What happens at the price now, while the clock stands still."
    at, prices = lone.clock.now_ms(), dict.fromkeys(("open", "high", "low", "close"), lone.price)
    bar = Bar(open_ms=at, close_ms=at + MINUTE, volume=10**9, mark_high=0, mark_low=0, **prices)
    lone.line.inner.open_bar(SYMBOL, bar)
    while lone.line.inner.play(SYMBOL):
        pass


# What differs


def test_where_nothing_differs_nothing_is_written(long: Lone) -> None:
    before = len(events(long))
    assert reconcile(long.bot) == []
    assert len(events(long)) == before


def test_a_position_opened_by_hand_is_adopted_and_gets_a_stop(lone: Lone) -> None:
    lone.play()
    lone.trade(-40)
    lone.play()
    assert lone.bot.state["qty"][0] == 0
    [line] = settle(lone)
    assert line.startswith("position: -0.040 at the venue, 0.000 here")
    assert lone.bot.state["side"][0] == -1
    assert lone.stop == lone.bot.state["have_stop"][0] > lone.price


def test_a_position_enlarged_by_hand_moves_the_stop_to_the_new_average(long: Lone) -> None:
    long.play(close=long.price + 2_000)
    old, trip = long.stop, int(long.bot.state["trip"][0])
    long.trade(50)
    long.play()
    settle(long)
    assert (long.stop == long.bot.state["have_stop"][0]) and long.stop > old
    assert long.bot.state["trip"][0] == trip


def test_a_position_reduced_by_hand_realises_its_part(long: Lone) -> None:
    held = int(long.bot.state["qty"][0])
    long.play(close=long.price - 2_000)
    long.trade(-30, is_reduce=True)
    long.play()
    settle(long)
    assert long.bot.state["qty"][0] == held - 30
    assert long.bot.state["realised_e8"][0] < 0
    assert long.stop != 0


def test_a_position_closed_by_hand_ends_the_trip_without_an_order(long: Lone) -> None:
    next_key = int(long.bot.state["next_key"][0])
    long.trade(-1_000, is_reduce=True)
    long.play()
    settle(long)
    assert (long.bot.state["qty"][0], long.bot.state["side"][0]) == (0, 0)
    assert long.bot.state["next_key"][0] == next_key


def test_a_position_turned_by_hand_is_protected_on_the_other_side(long: Lone) -> None:
    long.trade(-2 * int(long.bot.state["qty"][0]))
    long.play()
    # the venue books one trade per side of zero
    if long.snapshot.qty == 0:
        long.trade(-20)
        long.play()
    settle(long)
    assert long.bot.state["side"][0] == -1
    assert long.stop == long.bot.state["have_stop"][0] > long.price


def test_an_order_that_the_venue_dropped_is_over(store: Store) -> None:
    lone = Lone(store, params=SPLIT)
    lone.enter()
    assert lone.drop() == 2
    lines = settle(lone)
    assert [line.split(": ")[1] for line in lines] == ["CANCELLED with 0.000 filled at the venue, LIVE here"] * 2
    assert not lone.bot.state["orders"]["status"].any()


def test_a_removed_stop_is_set_again_at_once(long: Lone) -> None:
    stop, asked = long.stop, long.line.protects
    long.guard_by_hand(stop=0, target=0)
    [line] = reconcile(long.bot)
    assert line.startswith("protection: stop none, target none at the venue")
    assert (long.stop, long.line.protects) == (stop, asked + 1)
    assert long.bot.state["have_stop"][0] == stop
    assert settle(long) == []


def test_a_stop_removed_in_the_minute_it_was_set_is_set_again_at_once_too(long: Lone) -> None:
    long.bot.state["protect_after_ms"] = long.clock.now_ms() + PATIENCE_MS
    long.guard_by_hand(stop=0, target=int(long.bot.state["want_target"][0]))
    reconcile(long.bot)
    assert long.stop == long.bot.state["want_stop"][0]


def test_a_moved_stop_is_moved_back(long: Lone) -> None:
    stop = long.stop
    long.guard_by_hand(stop=stop - 5_000, target=0)
    [line] = reconcile(long.bot)
    assert f"stop {BTC.price(stop - 5_000)}, target none at the venue" in line
    long.play()
    assert long.stop == stop
    assert settle(long) == []


def test_a_stop_that_cannot_be_set_any_more_closes_the_position(long: Lone) -> None:
    stop = long.stop
    long.guard_by_hand(stop=0, target=0)
    long.line.is_deaf = True
    long.play(close=stop - 1_000)
    long.line.is_deaf = False
    reconcile(long.bot)
    long.play()
    assert long.believed == long.real and long.bot.state["qty"][0] == 0


def test_money_that_came_or_went_is_seen(long: Lone) -> None:
    long.paper.account.wallet_e8 -= 250 * 10**8
    [line] = settle(long)
    assert line.startswith("wallet: ")
    assert one_kind(long, EventKind.MONEY)[-1]["code"] == Money.SYNC


def test_an_order_that_nobody_here_knows_is_cancelled(long: Lone) -> None:
    long.rest(f"{long.name}-1-77-0")
    long.rest(f"{long.name}-9-1-3")  # a known key, but not that order
    lines = reconcile(long.bot)
    assert len(lines) == 2 and all("is known to nobody here: cancelled" in line for line in lines)
    assert long.snapshot.orders == ()
    assert settle(long) == []


def test_an_order_of_somebody_else_is_told_and_left_alone(long: Lone) -> None:
    long.rest("by-hand")
    long.rest("other_bot-1-1-0")
    for _ in range(2):
        lines = reconcile(long.bot)
        assert [line.split(": ")[0] for line in lines] == ["order by-hand", "order other_bot-1-1-0"]
    assert len(long.snapshot.orders) == 2


def test_a_lost_cancellation_is_sent_again(store: Store) -> None:
    lone = Lone(store, params=SPLIT)
    lone.enter()

    def lost(_symbol: str, link_id: str) -> None:
        raise OutcomeUnknown(f"no answer when asked to cancel {link_id!r}")

    lone.line.cancel = lost  # type: ignore[method-assign]
    command(lone.bot, Command.PAUSE)
    assert len(lone.snapshot.orders) == 2
    lines = reconcile(lone.bot)
    assert len(lines) == 2 and all("could not be cancelled now" in line for line in lines)
    del lone.line.cancel
    assert all("was to be cancelled: cancelled" in line for line in settle(lone))
    assert lone.snapshot.orders == ()


# Reports that come late


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_stop_filled_while_the_bot_was_deaf_is_booked_once(long: Lone, is_restarted: bool) -> None:
    long.line.is_deaf = True
    long.play(low=long.stop - 100, close=long.stop + 3_000)
    assert long.believed != long.real and long.real[0] == 0
    long.line.is_deaf = False
    settle(long)
    believed = long.believed
    if is_restarted:
        long.restart()
    long.play()
    long.say(1)
    long.play()  # the late word now falls into another trip
    opened = long.believed
    assert opened[0] > 0
    long.line.deliver(np.random.default_rng(1))
    listen(long.bot)
    assert long.believed == opened == long.real
    assert believed[0] == 0 and settle(long) == []
    with long.store.read() as connection:
        rows = connection.execute(sa.select(Trade).where(Trade.sub_bot_name == long.name)).all()
    assert [row.side for row in rows] == ["BUY", "SELL", "BUY"]


@pytest.mark.parametrize("is_restarted", [False, True])
def test_an_entry_filled_while_the_bot_was_deaf_is_booked_once(lone: Lone, is_restarted: bool) -> None:
    lone.play()
    lone.line.is_deaf = True
    lone.say(1)
    lone.play(is_watching=False)
    assert lone.bot.state["orders"]["status"][0][0] == Status.INTENT and lone.real[0] > 0
    lone.line.is_deaf = False
    [line] = settle(lone)
    assert line.endswith("filled at the venue, INTENT here")
    assert lone.bot.state["have_stop"][0] == lone.stop != 0
    believed = lone.believed
    if is_restarted:
        lone.restart()
    lone.line.deliver(np.random.default_rng(2))
    listen(lone.bot)
    assert lone.believed == believed == lone.real
    assert settle(lone) == []


def test_an_entry_and_its_stop_filled_while_deaf_end_flat(lone: Lone) -> None:
    lone.play()
    lone.line.is_deaf = True
    lone.say(1)
    lone.play(low=lone.price - 30_000, is_watching=False)
    lone.line.is_deaf = False
    assert lone.real[0] == 0
    settle(lone)
    assert (lone.bot.state["qty"][0], lone.bot.state["side"][0]) == (0, 0)
    lone.line.deliver(np.random.default_rng(3))
    listen(lone.bot)
    assert lone.believed == lone.real


@pytest.mark.parametrize("is_restarted", [False, True])
def test_funding_paid_while_the_bot_was_deaf_is_paid_once(long: Lone, is_restarted: bool) -> None:
    long.line.is_deaf = True
    long.paper.fund(SYMBOL, mark=long.price, rate=0.001, ts_ms=long.clock.now_ms())
    listen(long.bot)
    long.line.is_deaf = False
    settle(long)
    if is_restarted:
        long.restart()
    long.line.deliver(np.random.default_rng(4))
    listen(long.bot)
    assert long.believed == long.real
    long.play()
    long.paper.fund(SYMBOL, mark=long.price, rate=0.001, ts_ms=long.clock.now_ms())
    listen(long.bot)
    assert long.believed == long.real and long.bot.state["funding_e8"][0] != 0


def test_a_stop_that_was_heard_in_part_ends_with_its_trip(long: Lone) -> None:
    long.line.is_deaf = True
    long.play(low=long.stop - 100, close=long.stop + 3_000)
    long.line.is_deaf = False
    fill = next(update for update in long.line.late if isinstance(update, OrderUpdate) and update.is_fill)
    long.line.late = [fill]
    long.line.deliver(np.random.default_rng(5))
    listen(long.bot)
    assert long.believed == long.real
    [line] = settle(long)
    assert "its round trip is over" in line
    with long.store.read() as connection:
        row = connection.execute(sa.select(Order).where(Order.link_id == f"{long.name}-1-stop")).one()
    assert row.status == "FILLED" and not long.bot.orders.by_key


def test_the_last_word_on_a_stop_is_understood_in_the_next_trip_and_after_a_restart(long: Lone) -> None:
    long.line.is_deaf = True
    long.play(low=long.stop - 100, close=long.stop + 3_000)
    long.line.is_deaf = False
    fill, done = (update for update in long.line.late if isinstance(update, OrderUpdate))
    long.line.late = []
    long.line._arrived.append(fill)
    listen(long.bot)
    long.enter()
    long.restart()
    long.line._arrived.append(done)
    listen(long.bot)
    assert long.believed == long.real
    long.bot.writer.commit()
    with long.store.read() as connection:
        row = connection.execute(sa.select(Order).where(Order.link_id == f"{long.name}-1-stop")).one()
    assert row.status == "FILLED"


def _foreign_round_trip(lone: Lone) -> None:
    "Somebody buys, sets a stop, and is stopped out."
    lone.trade(20)
    lone.play(is_watching=False)
    lone.guard_by_hand(stop=lone.price - 500, target=0)
    lone.play(low=lone.price - 600, is_watching=False)
    assert lone.real[0] == 0 != lone.real[2] - WALLET * 10**8


def test_a_stop_of_somebody_else_is_not_the_idle_bot_s(lone: Lone) -> None:
    lone.play()
    _foreign_round_trip(lone)
    assert lone.bot.state["qty"][0] == 0
    [line] = settle(lone)
    assert line.startswith("wallet: ")
    with lone.store.read() as connection:
        assert not connection.execute(sa.select(Order).where(Order.bot == lone.name)).all()


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_wallet_taken_over_contains_stops_that_are_told_later(lone: Lone, is_restarted: bool) -> None:
    lone.play()
    lone.line.is_deaf = True
    _foreign_round_trip(lone)
    lone.line.is_deaf = False
    settle(lone)
    if is_restarted:
        lone.restart()
    lone.enter()
    believed = lone.believed
    lone.line.deliver(np.random.default_rng(6))
    listen(lone.bot)
    assert lone.believed == believed == lone.real


# Orders on their way


def _lost_entry(lone: Lone) -> str:
    "An entry that left and never arrived; returns its name."
    lone.play()

    def submit(order: OrderRequest) -> None:
        raise OutcomeUnknown(f"no answer when asked to place {order.link_id!r}")

    lone.line.submit = submit  # type: ignore[method-assign]
    lone.say(1)
    del lone.line.submit
    return f"{lone.name}-1-1-0"


def test_an_order_that_may_be_on_its_way_is_given_time(lone: Lone) -> None:
    link = _lost_entry(lone)
    assert reconcile(lone.bot) == []
    assert lone.bot.state["orders"]["status"][0][0] == Status.UNKNOWN
    lone.clock.advance_to(lone.clock.now_ms() + PATIENCE_MS)
    [line] = settle(lone)
    assert line.startswith(f"order {link}: unknown to the venue, UNKNOWN here")
    assert lone.bot.state["side"][0] == 0


def test_where_nothing_can_be_on_its_way_it_ends_at_once(lone: Lone) -> None:
    _lost_entry(lone)
    lone.restart()
    assert len(reconcile(lone.bot, patience_ms=0)) == 1
    assert lone.bot.state["side"][0] == 0 and settle(lone) == []


def test_an_intent_whose_sender_died_is_found_at_the_venue(lone: Lone) -> None:
    lone.play()
    lone.line.is_deaf = True
    lone.say(1)
    lone.restart()
    lone.line.is_deaf = False
    assert lone.bot.state["orders"]["status"][0][0] == Status.INTENT
    [line] = settle(lone)
    assert "LIVE with 0.000 filled at the venue, INTENT here" in line
    lone.play()
    assert lone.believed == lone.real and lone.believed[0] > 0


def test_a_position_waits_for_an_order_that_may_have_made_it(lone: Lone) -> None:
    _lost_entry(lone)
    lone.trade(25)
    _play_instants(lone)
    [line] = reconcile(lone.bot)
    assert "may be on its way: left for the next time" in line
    assert lone.bot.state["qty"][0] == 0
    lone.clock.advance_to(lone.clock.now_ms() + PATIENCE_MS)
    settle(lone)
    assert lone.bot.state["qty"][0] == 25 and lone.stop != 0


# A venue that cannot be asked, or does not stand still


class Mute(Line):
    "A line on which one question gets no answer."

    question = "snapshot"
    error: type[Exception] = Retryable

    def find(self, symbol: str, link_id: str) -> OrderUpdate | None:
        if self.question == "find":
            raise self.error("503 from the venue")
        return super().find(symbol, link_id)

    def snapshot(self, symbol: str) -> Snapshot:
        if self.question == "snapshot":
            raise self.error("503 from the venue")
        return super().snapshot(symbol)


@pytest.mark.parametrize("error", [Retryable, OutcomeUnknown])
@pytest.mark.parametrize("question", ["find", "snapshot"])
def test_could_not_ask_changes_nothing(store: Store, question: str, error: type[Exception]) -> None:
    lone = Lone(store, params=SPLIT)
    lone.enter()
    lone.trade(-2_000, is_reduce=True)
    _play_instants(lone)
    assert lone.real[0] == 0
    listen(lone.bot)
    before, seq = lone.bot.state.tobytes(), len(events(lone))
    mute = Mute(lone.paper)
    mute.question, mute.error = question, error
    lone.bot.venue = mute
    with pytest.raises(Retryable, match=f"^{lone.name} could not ask the venue about .*503 from the venue.*again$"):
        reconcile(lone.bot)
    assert lone.bot.state.tobytes() == before and len(events(lone)) == seq
    lone.bot.venue = lone.line
    settle(lone)
    assert lone.bot.state["qty"][0] == 0


def test_a_snapshot_older_than_the_reports_is_no_answer(long: Lone) -> None:
    old = long.snapshot
    long.play(low=long.stop - 100, close=long.stop + 3_000)
    assert long.bot.state["qty"][0] == 0
    long.line.snapshot = lambda symbol: old  # type: ignore[method-assign]
    with pytest.raises(Retryable, match="is older"):
        reconcile(long.bot)
    assert long.bot.state["qty"][0] == 0


def test_a_picture_that_keeps_changing_is_not_adopted(long: Lone) -> None:
    steps = iter(range(1, 100))

    def moving(symbol: str) -> Snapshot:
        long.trade(next(steps))
        _play_instants(long)
        return long.paper.snapshot(symbol)

    long.line.snapshot = moving  # type: ignore[method-assign]
    held = int(long.bot.state["qty"][0])
    with pytest.raises(Retryable, match="the venue was different each time"):
        reconcile(long.bot)
    assert long.bot.state["qty"][0] == held
    del long.line.snapshot
    settle(long)


# Stops


@pytest.mark.parametrize("atr", [0.0, float("nan")])
def test_a_position_found_before_any_atr_is_closed(store: Store, atr: float) -> None:
    lone = Lone(store, atr=atr)
    lone.play()
    lone.trade(30)
    lone.play()
    lines = reconcile(lone.bot)
    assert lines[0].endswith("closed, because no ATR is known to set its stop by")
    lone.play()
    assert lone.believed == lone.real and lone.believed[0] == 0
    assert settle(lone) == []
    with store.read() as connection:
        said = connection.execute(sa.select(Decision).where(Decision.bot == lone.name)).all()
    assert [(row.source, row.exits) for row in said] == [("reconcile", Exit.BOTH)]


class Replacing(Line):
    "A venue that changes a stop by cancelling the old one and setting another."

    def protect(self, symbol: str, *, stop: Decimal | None, target: Decimal | None) -> None:
        super().protect(symbol, stop=stop, target=target)
        book = self.inner.account.books[symbol]  # type: ignore[union-attr]
        book.number += 1
        old = {"order_id": f"old-{book.number}", "link_id": "", "origin": Origin.STOP, "side": Side.SELL}
        zero = dict.fromkeys(("qty", "value", "fee"), Decimal(0))
        gone = OrderUpdate(
            number=book.number, ts_ms=0, symbol=symbol, state=OrderState.CANCELLED, **old, **zero  # type: ignore[arg-type]
        )
        self._arrived.append(gone)


def test_a_venue_that_replaces_stops_is_not_asked_without_end(long: Lone) -> None:
    stop = long.stop
    long.line = Replacing(long.paper)
    long.bot.venue = long.line
    long.guard_by_hand(stop=stop - 1_000, target=0)
    long.clock.advance_to(long.clock.now_ms() + 2 * PATIENCE_MS)
    reconcile(long.bot)
    asked = 0
    for _ in range(5):
        assert long.line.protects - asked <= 2 * PROTECT_TRIES
        asked = long.line.protects
        assert long.stop != 0
        long.clock.advance_to(long.clock.now_ms() + MINUTE)
        tick(long.bot, long.price)
    assert long.stop == stop or long.bot.state["exiting"][0]


# Parameters, revival, memory


def test_new_parameters_are_in_force_from_their_command_on_and_after_a_restart(long: Lone) -> None:
    wider = parameters(id=7, sl_ratio=4.0)
    learn(long.bot, wider)
    command(long.bot, Command.PARAMS, ref=7)
    assert long.bot.rules()["sl_ratio"] == 4.0
    before = long.stop
    long.trade(10)
    long.play()
    settle(long)
    assert long.stop < before
    long.restart()  # a new bot knows parameters 0 only
    assert long.bot.rules()["sl_ratio"] == 4.0 and settle(long) == []


def test_parameters_that_were_not_learnt_never_reach_the_journal(long: Lone) -> None:
    before = events(long).tobytes()
    with pytest.raises(ConfigError, match="has no parameters 7"):
        command(long.bot, Command.PARAMS, ref=7)
    assert events(long).tobytes() == before


def test_a_journal_with_parameters_that_are_gone_is_an_error(long: Lone) -> None:
    learn(long.bot, parameters(id=7))
    command(long.bot, Command.PARAMS, ref=7)
    long.bot.writer.commit()
    with long.store.begin() as connection:
        connection.execute(sa.text("DELETE FROM policy_params WHERE bot = :bot AND id = 7"), {"bot": long.name})
    long.play()
    with pytest.raises(StoreError, match="parameters 7, which are not stored"):
        long.restart()


def test_a_revived_bot_does_not_repeat_what_a_strategy_said_before(long: Lone) -> None:
    long.play()
    long.say(0, Exit.LONG)
    long.bot.writer.commit()
    first = journal.load_state(long.store, long.name, STATE, schema=SCHEMA, first=True)
    assert first is not None and long.bot._said is not None
    long.bot.state[:] = first
    long.bot.orders.by_key.clear()
    revive(long.bot, long.store)
    assert long.bot._said is None


def test_a_long_life_is_revived_like_a_short_one(store: Store) -> None:
    lone = Lone(store, params=SPLIT)
    for n in range(40):
        lone.say((1, -1)[n % 2], Exit.BOTH if n % 3 == 0 else Exit.NONE)
        lone.play(low=lone.price - 900, high=lone.price + 900, close=lone.price + (n % 5 - 2) * 200)
        if n % 4 == 0:
            told = {key: (story.link, story.cum_qty) for key, story in lone.bot.orders.by_key.items()}
            ears = (lone.bot.ears.marks, lone.bot.ears.venue_keys)
            lone.restart()
            assert {key: (s.link, s.cum_qty) for key, s in lone.bot.orders.by_key.items()} == told
            assert (lone.bot.ears.marks.protection, lone.bot.ears.venue_keys) == (ears[0].protection, ears[1])
    assert lone.bot.state["trip"][0] > 6
    lone.bot.writer.commit()
    folded = recover(store, lone.name)
    assert folded is not None and folded.state.tobytes() == lone.bot.state.tobytes()


def test_what_was_heard_does_not_grow_with_the_years(long: Lone) -> None:
    ears = long.bot.ears
    for number in range(100, 100 + 3 * MOST_KEPT):
        assert ears.is_news(number) and not ears.is_news(number)
    assert len(ears.heard) == MOST_KEPT and not ears.is_news(100)
    for number in range(3 * MOST_KEPT):
        ears.venue_key(f"v-{number}", -number)
    assert len(ears.venue_keys) == MOST_KEPT


def test_a_wallet_told_as_a_whole_contains_the_money_before_it(lone: Lone) -> None:
    said = {"ts_ms": 0, "symbol": SYMBOL}
    whole = WalletUpdate(number=10, cause=WalletCause.SYNC, amount=Decimal(9_000), **said)  # type: ignore[arg-type]
    part = WalletUpdate(number=9, cause=WalletCause.FUNDING, amount=Decimal(5), **said)  # type: ignore[arg-type]
    lone.line._arrived += [whole, part, whole]
    listen(lone.bot)
    assert lone.believed[2] == 9_000 * 10**8 and WALLET != 9_000


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_late_protection_does_not_undo_what_the_venue_showed(lone: Lone, is_restarted: bool) -> None:
    lone.play()
    lone.say(1)
    _play_instants(lone)
    listen(lone.bot)
    stop, asked = lone.stop, lone.line.protects
    lone.guard_by_hand(stop=stop - 500, target=0)
    number, level = lone.snapshot.number, BTC.price(stop - 500)
    lone.guard_by_hand(stop=stop - 900, target=0)
    reconcile(lone.bot)
    assert (lone.bot.state["have_stop"][0], lone.line.protects) == (stop - 900, asked)  # it was asked for just now
    if is_restarted:
        lone.restart()
    late = ProtectionUpdate(number=number, ts_ms=0, symbol=SYMBOL, stop=level, target=None)
    lone.line._arrived.append(late)
    listen(lone.bot)
    assert lone.bot.state["have_stop"][0] == stop - 900
    lone.play()
    assert lone.stop == stop == lone.bot.state["have_stop"][0]


def test_the_venue_s_word_is_in_the_journal_with_its_number(long: Lone) -> None:
    long.trade(5)
    long.play()
    number = long.snapshot.number
    reconcile(long.bot)
    [adopted] = one_kind(long, EventKind.EXTERNAL)
    assert (adopted["code"], adopted["ref"]) == (Cause.RECONCILE, number)


def test_on_a_rough_line_a_venue_that_cannot_be_asked_is_asked_again(store: Store) -> None:
    deaf = Roughness(unasked=1.0, late=0, lost=0, refused=0, partial=0, cancelled=0, delayed=0, doubled=0, slip_bps=0)
    lone = Lone(store, rough=np.random.default_rng(1), roughness=deaf, params=SPLIT)
    lone.enter()
    with pytest.raises(Retryable, match="could not ask the venue about order"):
        reconcile(lone.bot)
