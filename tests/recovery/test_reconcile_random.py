"""Whatever happens to a bot, its venue and the line between them: after reconciling both agree, and late words change nothing."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "parity"))

from lone import BTC, SPLIT, SYMBOL, WALLET, Lone
from projected import assert_rows_follow_from_the_journal
from series import length

from autotrader.bots.reconcile import reconcile
from autotrader.bots.replay import rows_from_outside
from autotrader.bots.subbot import listen, recover
from autotrader.core.errors import Retryable
from autotrader.core.market import to_e8
from autotrader.engine.events import (
    EVENT,
    INTENT,
    MAX_INTENTS,
    SCHEMA,
    STATE,
    EventKind,
    Exit,
    Money,
)
from autotrader.engine.policy import step
from autotrader.exchange.paper import RoughExchange, Roughness
from autotrader.runner.parity import decision_parity
from autotrader.store import journal
from autotrader.store.database import Store, open_store
from autotrader.store.tables import Fill, Order, Trade

HARD = Roughness(
    late=0.2,
    lost=0.2,
    refused=0.1,
    unasked=0.2,
    partial=0.3,
    cancelled=0.2,
    delayed=0.5,
    doubled=0.3,
    slip_bps=2.0,
)
MINE = ("INTENT", "LIVE", "UNKNOWN", "CANCELLING")
Act = Callable[[Lone, int], object]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with open_store("sqlite:///r.db", folder=tmp_path_factory.mktemp("random"), create=True) as store:
        yield store


def _minute(lone: Lone, n: int, *, is_watching: bool = True) -> None:
    "A minute in which the price moves by up to 0.5 %, far enough for stops of 600 ticks."
    close = lone.price + (n % 61 - 30) * 50
    lone.play(low=close - n % 7 * 150, high=close + n % 5 * 150, close=close, is_watching=is_watching)


def _guard(lone: Lone, n: int) -> None:
    if lone.real[0]:
        side = 1 if lone.real[0] > 0 else -1
        lone.guard_by_hand(stop=(lone.price - side * 2_000) if n % 2 else 0, target=0)


def _pay(lone: Lone, n: int) -> None:
    lone.paper.account.wallet_e8 += (n % 100) * 10**8


def _late(lone: Lone, n: int) -> None:
    lone.line.deliver(np.random.default_rng(n))
    if not lone.line.is_deaf:
        listen(lone.bot)


def _fund(lone: Lone, n: int) -> None:
    lone.line.inner.fund(SYMBOL, mark=lone.price, rate=(n % 9 - 4) * 1e-4, ts_ms=lone.clock.now_ms())


def _hear(lone: Lone, n: int) -> None:
    lone.line.is_deaf = bool(n % 2)


def settled(lone: Lone) -> list[str]:
    "Reconcile until the venue could be asked."
    while True:
        try:
            return reconcile(lone.bot)
        except Retryable as error:
            assert "could not ask" in str(error)


ACTS: dict[str, Act] = {
    "minute": _minute,
    "another minute": _minute,
    "a minute unseen": lambda lone, n: _minute(lone, n, is_watching=False),
    "signal": lambda lone, n: lone.say(1 if n % 2 else -1, Exit.BOTH if n % 3 == 0 else Exit.NONE),
    "another signal": lambda lone, n: lone.say(1 if n % 2 else -1),
    "trade": lambda lone, n: lone.trade(n % 80 + 1 if n % 2 else -(n % 80) - 1),
    "close": lambda lone, n: lone.trade(-lone.real[0] or 1, is_reduce=True),
    "guard": _guard,
    "pay": _pay,
    "fund": _fund,
    "drop": lambda lone, n: lone.drop(),
    "leftover": lambda lone, n: lone.leave(price=lone.price - n % 3 * 500),
    "deaf": _hear,
    "late": _late,
    "restart": lambda lone, n: lone.restart(),
    "reconcile": lambda lone, n: None if lone.line.is_deaf else settled(lone),
}
plays = st.lists(st.tuples(st.sampled_from(sorted(ACTS)), st.integers(0, 10**6)), min_size=5, max_size=40)
slow = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}


def bring_together(lone: Lone) -> None:
    "Hear again, then reconcile and live on until nothing differs."
    lone.line.is_deaf = False
    for _ in range(12):
        if not settled(lone):
            break
        lone.play()
    else:
        raise AssertionError("twelve minutes, and something still differs")


def check_agreement(lone: Lone) -> None:
    assert lone.believed == lone.real
    now = lone.bot.state[0]
    if now["qty"] and not now["exiting"]:
        assert lone.stop == now["have_stop"]
    if lone.real[0]:
        assert lone.stop or now["exiting"], "a position without a stop that nobody closes"


def check_journal(lone: Lone) -> np.ndarray:
    lone.bot.writer.commit()
    report = decision_parity(lone.store, lone.name)
    assert report.is_exact, report.fault
    folded = recover(lone.store, lone.name)
    assert folded is not None and folded.state.tobytes() == lone.bot.state.tobytes()
    return journal.read(lone.store, lone.name, EVENT)


def _told_without_a_trade(lone: Lone, events: np.ndarray) -> tuple[int, int]:
    "What changed the wallet and has no row in `trades`: money, and adoptions that leave the position; realised of the latter."
    first = journal.load_state(lone.store, lone.name, STATE, schema=SCHEMA, first=True)
    assert first is not None
    state, out, unit_e8 = first.copy(), np.zeros(MAX_INTENTS, INTENT), BTC.rules.unit_e8
    moved = realised = 0
    for i, event in enumerate(events):
        before = state.copy()
        step(state[0], event, lone.bot.rules(), out)
        rows = rows_from_outside(events[i : i + 1], before, state, unit_e8)
        is_silent = event["kind"] == EventKind.EXTERNAL and not len(rows)
        if event["kind"] == EventKind.MONEY or is_silent:
            moved += int(state["wallet_e8"][0]) - int(before["wallet_e8"][0])
        if is_silent:
            realised += int(state["realised_e8"][0]) - int(before["realised_e8"][0])
    return moved, realised


def check_rows(lone: Lone, events: np.ndarray) -> None:
    "Each order once, each trade as its fills, and the wallet explained to the last unit."
    with lone.store.read() as connection:
        orders = connection.execute(sa.select(Order).where(Order.bot == lone.name)).all()
        trades = connection.execute(sa.select(Trade).where(Trade.sub_bot_name == lone.name)).all()
        fills = connection.execute(sa.select(Fill).join(Order).where(Order.bot == lone.name)).all()
    moved, realised = _told_without_a_trade(lone, events)
    earned = sum(to_e8(row.pnl) - to_e8(row.fee) for row in trades)
    assert WALLET * 10**8 + earned + moved == lone.believed[2]
    assert sum(to_e8(row.pnl) for row in trades) + realised == lone.bot.state["realised_e8"][0]
    assert sum(to_e8(row.fee) for row in trades) == lone.bot.state["fees_e8"][0]
    filled = {row.link_id: sum(fill.qty for fill in fills if fill.link_id == row.link_id) for row in orders}
    assert {row.order_id: row.quantity for row in trades} == {link: qty for link, qty in filled.items() if qty}
    open_links = {story.link for story in lone.bot.orders.by_key.values()}
    assert {row.link_id for row in orders if row.status in MINE} == open_links
    assert not (events["kind"] == EventKind.MONEY)[events["code"] == Money.TRANSFER].any()
    assert_rows_follow_from_the_journal(lone.store, lone.name, BTC)


def play(lone: Lone, acts: list[tuple[str, int]]) -> None:
    lone.play()
    for name, n in acts:
        ACTS[name](lone, n)
    bring_together(lone)
    check_agreement(lone)


def check_late_words(lone: Lone, n: int) -> None:
    "What was reported long ago comes now: nothing is booked twice, not even by a bot that was started anew."
    believed = lone.believed
    for _ in range(2):
        late = list(lone.line.late)
        lone.line.deliver(np.random.default_rng(n))
        listen(lone.bot)
        assert lone.believed == believed == lone.real
        lone.restart()
        lone.line.late = late
    bring_together(lone)
    check_agreement(lone)


@settings(max_examples=length(40, soak=1_000), **slow)
@given(acts=plays, is_split=st.booleans(), n=st.integers(0, 99))
def test_on_a_smooth_line_with_deaf_hours(store: Store, acts: list[tuple[str, int]], is_split: bool, n: int) -> None:
    lone = Lone(store, params=SPLIT if is_split else {})
    play(lone, acts)
    check_rows(lone, check_journal(lone))
    check_late_words(lone, n)
    check_rows(lone, check_journal(lone))


@settings(max_examples=length(40, soak=1_000), **slow)
@given(acts=plays, is_split=st.booleans(), seed=st.integers(0, 10**6))
def test_on_a_rough_line_with_foreign_hands(
    store: Store, acts: list[tuple[str, int]], is_split: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    lone = Lone(store, rough=rng, roughness=HARD, params=SPLIT if is_split else {})
    play(lone, [(name, n) for name, n in acts if name not in ("deaf", "late", "leftover")])
    check_rows(lone, check_journal(lone))
    rough = lone.line.inner
    assert isinstance(rough, RoughExchange)
    while rough.settle():
        listen(lone.bot)
    bring_together(lone)
    check_agreement(lone)
    check_rows(lone, check_journal(lone))
