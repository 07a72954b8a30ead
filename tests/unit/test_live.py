"""The runner on a live market: `run` against a local venue over HTTP and websocket, on a price path that the test knows."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

import test_streams as local

from autotrader.bots.replay import Folded
from autotrader.bots.subbot import recover
from autotrader.bots.writer import JournalWriter
from autotrader.config.sections import SplitEntry, StrategyParams
from autotrader.config.settings import Settings, load, write_template
from autotrader.core.clock import SimulatedClock, parse_time
from autotrader.core.market import Candles, from_e8
from autotrader.core.ports import Bar
from autotrader.engine.events import EVENT, INTENT, EventKind, IntentKind, Money, Note
from autotrader.engine.fills import VENUE
from autotrader.exchange.news import Closed, FeedStatus, Slice
from autotrader.exchange.venues import open_paper
from autotrader.runner import app
from autotrader.runner.lease import Tenure, try_take
from autotrader.runner.live import Live, LiveBot, hear_piece
from autotrader.runner.supervisor import Supervisor
from autotrader.store import journal
from autotrader.store.candles import save
from autotrader.store.database import Store, open_store
from autotrader.store.tables import Fill, Order, PaperBook, SystemEvent

MINUTE, HOUR = 60_000, 3_600_000
BTC = local.BTC
BOT = "sub_bot_A"
SEVEN = parse_time("2026-03-05 07:00")  # the bar that closes then breaks out upwards
EIGHT = SEVEN + HOUR  # a funding stamp
PATH = (  # when the price is where, dollars: flat, up, flat, down, and further down
    (SEVEN - 400 * HOUR, 90_000),
    (SEVEN - HOUR, 90_000),
    (SEVEN, 91_000),
    (EIGHT, 91_100),
    (EIGHT + HOUR, 89_000),
    (EIGHT + 2 * HOUR, 88_000),
    (EIGHT + 100 * HOUR, 88_000),
)


def level(ms: int) -> int:
    "The price at a moment, ticks."
    dollars = np.interp(ms, [at for at, _ in PATH], [price for _, price in PATH])
    return round(dollars * 10)


@cache
def trades(symbol: str, open_ms: int) -> tuple[local.Trade, ...]:
    "What was traded in a minute."
    rest = [(open_ms + at, level(open_ms + at), 5_000) for at in range(7_000, MINUTE, 7_000)]
    return ((open_ms, level(open_ms), 0), *rest, (open_ms + MINUTE - 1, level(open_ms + MINUTE), 5_000))


def history(until_ms: int, hours: int = 300) -> Candles:
    "Hours before the test begins, each with some room around the price."
    opens = until_ms - HOUR * np.arange(hours, 0, -1)
    ends = np.array([[level(int(at)), level(int(at) + HOUR)] for at in opens]) / 10
    return Candles(
        venue="bybit",
        symbol="BTCUSDT",
        timeframe="1h",
        open_ms=opens,
        open=ends[:, 0],
        high=ends.max(axis=1) + 100,
        low=ends.min(axis=1) - 100,
        close=ends[:, 1],
        volume=np.full(hours, 100.0),
    )


def desk(folder: Path, *, parts: int = 1) -> Settings:
    "One bot that follows breakouts, with a stop far away."
    write_template(folder)
    settings = load(folder / "config.toml")
    first = settings.sub_bots[0]
    bot = first.model_copy(
        update={
            "decision": first.decision.model_copy(update={"strategy": "donchian_breakout"}),
            "strategy_params": StrategyParams(tp_ratio=50.0, sl_ratio=20.0, channel=20, exit_channel=10),
            "split_entry": SplitEntry(enabled=parts > 1, count=parts, method="time", interval_seconds=60),
        }
    )
    return settings.model_copy(update={"sub_bots": (bot,)})


class Trading:
    "A runner in a thread, the market it hears, and what it has written."

    def __init__(self, settings: Settings, venue: local.Venue, store: Store) -> None:
        self.settings, self.venue, self.store = settings, venue, store
        self.clock = SimulatedClock(venue.now_ms)
        self.live: Live | None = None
        self.told: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="runner under test")

    def _run(self) -> None:
        def kept(*args: Any) -> Live:
            self.live = Live(*args)
            return self.live

        market = app.Addresses(endpoint=self.venue.endpoint, stream=self.venue.url)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(app, "Live", kept)
            app.run(
                self.settings,
                clock=self.clock,
                replay=None,
                stop=self._stop,
                on_news=self.told.append,
                market=market,
            )

    def begin(self) -> None:
        self._thread.start()
        self.until_heard()

    def end(self) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def is_subscribed(self) -> bool:
        return any(len(topics) >= 3 for topics in list(self.venue.lines.values()))

    def until(self, happened: Callable[[], object], what: str, within_s: float = 30.0) -> None:
        deadline_s = time.monotonic() + within_s
        while not happened():
            assert self._thread.is_alive(), f"the runner ended before {what} came; it said {self.told}"
            assert time.monotonic() < deadline_s, f"{what} did not come in {within_s:g} s"
            time.sleep(0.005)

    @property
    def player(self) -> LiveBot:
        assert self.live is not None
        return self.live.market.bots[0]

    def cut(self, *, whole: bool = False) -> None:
        "Lose the line; `whole`: and have no other way to the venue, until it is mended."
        if whole:
            self.venue.is_rest_down = True
            self.venue.deafen()
        else:
            self.venue.drop()
        self.until(lambda: str(self.live and self.live.feed).startswith("down"), "the news of the cut")

    def mend(self) -> None:
        self.venue.is_rest_down = False
        self.venue.listen()

    def until_heard(self) -> None:
        self.until(lambda: self.live is not None and self.live.feed == "ok" and self.is_subscribed(), "the market")

    def step(self, now_ms: int) -> None:
        "Let it be then, and the venue say so."
        self.venue.now_ms = now_ms
        self.clock.advance_to(now_ms)
        tell(self.venue)

    def play(self, until_ms: int, *, every_ms: int = 20_000) -> None:
        "Let the market go on, and the runner live through each minute."
        while self.venue.now_ms < until_ms:
            end = min(self.venue.now_ms // MINUTE * MINUTE + MINUTE, until_ms)
            for now in [*range(self.venue.now_ms + every_ms, end, every_ms), end]:
                self.step(now)
            if end % MINUTE == 0:
                self.until(lambda: self.player.session.played_ms >= end, "the end of a minute")  # noqa: B023


def tell(venue: local.Venue) -> None:
    "All that the stream says at this moment: bars that have closed, the ticker, bars that run."
    for code, step in (("60", HOUR), ("1", MINUTE)):
        if venue.now_ms % step == 0:
            venue.send(local.kline("BTCUSDT", code, venue.now_ms, confirm=True))
    venue.send(local.ticker("BTCUSDT", venue.now_ms))
    for code in ("1", "60"):
        venue.send(local.kline("BTCUSDT", code, venue.now_ms))


def rows(store: Store, table: type) -> list[Any]:
    with store.read() as connection:
        return list(connection.execute(sa.select(table.__table__)).all())  # type: ignore[attr-defined]


def orders(store: Store, *purposes: str) -> list[Any]:
    found = sorted(rows(store, Order), key=lambda order: order.seq)
    return [order for order in found if not purposes or order.purpose in purposes]


def folded(store: Store) -> Folded:
    "The bot as its journal has it."
    found = recover(store, BOT)
    assert found is not None
    return found


def fundings(store: Store) -> np.ndarray:
    events = journal.read(store, BOT, EVENT)
    return events[(events["kind"] == EventKind.MONEY) & (events["code"] == Money.FUNDING)]


def notes(store: Store) -> list[Note]:
    _, intents = journal.read_intents(store, BOT, INTENT)
    return [Note(int(code)) for code in intents["code"][intents["kind"] == IntentKind.NOTE]]


@pytest.fixture
def venue(monkeypatch: pytest.MonkeyPatch) -> Iterator[local.Venue]:
    "The venue at three minutes to seven."
    monkeypatch.setattr(local, "trades", trades)
    found = local.Venue(SEVEN - 3 * MINUTE)
    yield found
    found.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return desk(tmp_path)


@pytest.fixture
def in_parts(settings: Settings, tmp_path: Path) -> Settings:
    "The same desk, entering in three parts."
    return settings.model_copy(update={"sub_bots": desk(tmp_path / "parts", parts=3).sub_bots})


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    with open_store(settings.database_url, folder=settings.folder, create=True) as opened:
        save(opened, history(SEVEN - HOUR))
        yield opened


@contextmanager
def trading(settings: Settings, venue: local.Venue, store: Store) -> Iterator[Trading]:
    at = Trading(settings, venue, store)
    try:
        at.begin()
        yield at
    finally:
        at.end()


def test_a_closed_hour_is_an_order_at_once_and_the_next_trades_fill_it(
    settings: Settings, venue: local.Venue, store: Store
) -> None:
    with trading(settings, venue, store) as at:
        at.play(SEVEN - 10_000)
        assert orders(store) == []
        begun_s = time.monotonic()
        at.step(SEVEN)
        at.until(lambda: orders(store), "the order", within_s=10)
        took_s = time.monotonic() - begun_s
        [order] = orders(store)
        assert (order.purpose, order.side, order.kind, order.created_ms) == ("ENTRY", "BUY", "MARKET", SEVEN)
        assert rows(store, Fill) == [], "the hour is over, its prices are gone"
        at.play(SEVEN + MINUTE)
        at.until(lambda: rows(store, Fill), "the fill", within_s=10)
        [fill] = rows(store, Fill)
        assert fill.qty == order.qty and SEVEN < fill.ts_ms <= SEVEN + MINUTE
        assert abs(fill.price - BTC.price(level(SEVEN))) < 50
        state = at.player.session.bot.state
        assert state["qty"][0] == BTC.steps(order.qty) and state["have_stop"][0] > 0
    assert took_s < 8, "a second or so, on a machine with nothing else to do"
    assert folded(store).state["qty"][0] == state["qty"][0]


@pytest.mark.parametrize("cut_ms", [-10_000, 30_000], ids=["cut_before_the_stamp", "cut_after_it"])
def test_funding_is_paid_once_whatever_the_line_does(
    cut_ms: int, settings: Settings, venue: local.Venue, store: Store
) -> None:
    with trading(settings, venue, store) as at:
        at.play(SEVEN + 5 * MINUTE)
        at.play(EIGHT - MINUTE, every_ms=MINUTE)
        at.play(EIGHT + cut_ms, every_ms=10_000)  # a ticker just before the stamp: its rate is what is paid
        at.cut()
        at.step(EIGHT + 50_000)
        at.until_heard()
        at.until(lambda: len(fundings(store)), "the funding")
        at.play(EIGHT + 2 * MINUTE)
        at.cut()
        at.until_heard()
        at.play(EIGHT + 3 * MINUTE)
    with trading(settings, venue, store) as again:
        again.play(EIGHT + 5 * MINUTE)
    [paid] = fundings(store)
    if cut_ms < 0:
        assert any(path == "funding/history" for path, _ in venue.asked), "what was not heard was asked for"
    qty = int(folded(store).state["qty"][0])
    assert qty > 0 and local.rate(EIGHT) != 0
    owed = -float(BTC.value(qty * level(EIGHT))) * local.rate(EIGHT)
    assert float(from_e8(paid["amount_e8"])) == pytest.approx(owed, rel=1e-3)


def test_nothing_is_opened_while_nothing_is_heard_and_then_it_goes_on(
    settings: Settings, venue: local.Venue, store: Store
) -> None:
    with trading(settings, venue, store) as at:
        at.play(SEVEN - 30_000)
        at.cut(whole=True)
        at.step(SEVEN + 10 * MINUTE)
        time.sleep(1.0)
        assert orders(store) == [] and at.player.session.bar_ms < SEVEN - HOUR, "no prices, no decision"
        at.mend()
        at.until_heard()
        at.until(lambda: at.player.session.bar_ms == SEVEN - HOUR, "the bar that was missed")
        at.play(SEVEN + 12 * MINUTE)
        assert orders(store) == [] and notes(store) == [Note.STALE_SIGNAL]
        assert at.player.session.played_ms == SEVEN + 12 * MINUTE
    events = [row.event_type for row in rows(store, SystemEvent)]
    assert (events.count("FEED_DOWN"), events.count("FEED_UP")) == (1, 2)


def test_parts_that_fell_due_in_an_outage_are_not_bought_at_prices_that_are_gone(
    in_parts: Settings, venue: local.Venue, store: Store
) -> None:
    with trading(in_parts, venue, store) as at:
        at.play(SEVEN + 30_000)
        at.until(lambda: rows(store, Fill), "the first part")
        at.cut(whole=True)
        at.step(SEVEN + 20 * MINUTE)
        at.mend()
        at.until_heard()
        at.until(lambda: at.player.session.played_ms >= SEVEN + 20 * MINUTE, "what was missed")
        caught_up_ms = at.player.session.played_ms
        at.play(SEVEN + 25 * MINUTE)
        snapshot = at.player.session.venue.snapshot("BTCUSDT")
        assert BTC.steps(snapshot.qty) == at.player.session.bot.state["qty"][0] > 0
        assert snapshot.stop is not None, "what was bought is protected"
    late = [fill.ts_ms for fill in rows(store, Fill)[1:]]
    assert all(ts_ms > caught_up_ms for ts_ms in late), "nobody can trade at the prices of an hour that is over"


def test_reconciliation_follows_every_return_of_the_line(settings: Settings, venue: local.Venue, store: Store) -> None:
    with trading(settings, venue, store) as at:
        at.play(SEVEN + 2 * MINUTE)
        paper = at.player.session.venue
        held = paper.snapshot("BTCUSDT").stop
        assert held is not None
        at.cut()
        paper.protect("BTCUSDT", stop=None, target=None)  # somebody at the venue's own screen
        at.player.session.venue.updates()  # and the report of it is lost with the line
        at.until_heard()
        at.until(lambda: paper.snapshot("BTCUSDT").stop == held, "the stop")
    assert "RECONCILED" in [row.event_type for row in rows(store, SystemEvent)]


def test_a_bar_heard_late_closes_and_does_not_open(settings: Settings, venue: local.Venue, store: Store) -> None:
    with trading(settings, venue, store) as at:
        at.play(SEVEN + 3 * MINUTE)
        assert at.player.session.bot.state["qty"][0] > 0
    venue.now_ms = EIGHT + HOUR + 30 * MINUTE  # the hour that broke out downwards is long over
    with trading(settings, venue, store) as at:
        at.until(lambda: at.player.session.bar_ms == EIGHT, "the bars that were missed")
        at.until(lambda: orders(store, "EXIT"), "the exit")
        at.play(EIGHT + HOUR + 33 * MINUTE)
        at.until(lambda: at.player.session.bot.state["qty"][0] == 0, "the end of the position")
        at.play(EIGHT + HOUR + 40 * MINUTE)
    assert Note.STALE_SIGNAL in notes(store)
    assert [order.purpose for order in orders(store)] == ["ENTRY", "EXIT"], "no short"
    assert len(fundings(store)) == 1, "the stamp of the time it slept through"
    left = rows(store, Fill)[-1]
    assert left.ts_ms >= EIGHT + HOUR + 30 * MINUTE
    assert abs(left.price - BTC.price(level(left.ts_ms))) < 50, "at the price of now, not of then"


def test_an_entry_that_was_slept_through_stays_undone(settings: Settings, venue: local.Venue, store: Store) -> None:
    with trading(settings, venue, store) as at:
        at.play(SEVEN - MINUTE)
    venue.now_ms = SEVEN + 20 * MINUTE
    with trading(settings, venue, store) as at:
        at.until(lambda: at.player.session.bar_ms == SEVEN - HOUR, "the bar that was missed")
        at.play(SEVEN + 22 * MINUTE)
    assert orders(store) == [] and notes(store) == [Note.STALE_SIGNAL]


class Told:
    "A clock that another process moves."

    def __init__(self, file: Path) -> None:
        self._now = np.memmap(file, np.int64, "r+", shape=(1,))

    def now_ms(self) -> int:
        return int(self._now[0])


def child(folder: str, clock: str, endpoint: str, stream: str) -> None:
    "The runner in a process of its own."
    app.run(
        desk_again(Path(folder)),
        clock=Told(Path(clock)),
        replay=None,
        stop=threading.Event(),
        on_news=lambda line: print(line, flush=True),
        market=app.Addresses(endpoint=endpoint, stream=stream),
    )


def desk_again(folder: Path) -> Settings:
    "The desk of a folder that has one."
    settings = load(folder / "config.toml")
    return settings.model_copy(update={"sub_bots": desk(folder / f"like {os.getpid()}", parts=3).sub_bots})


class Process:
    "A runner that can be killed."

    def __init__(self, settings: Settings, venue: local.Venue, store: Store) -> None:
        self.venue, self.store, self.settings = venue, store, settings
        self.file = settings.folder / "clock"
        np.array([venue.now_ms]).tofile(self.file)
        self.clock = np.memmap(self.file, np.int64, "r+", shape=(1,))
        self.child: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_live; test_live.child(*sys.argv[1:])"
        words = [str(self.settings.folder), str(self.file), self.venue.endpoint, self.venue.url]
        opened, begun_s = self.venue.opened, time.monotonic()
        self.child = subprocess.Popen(
            [sys.executable, "-c", code, *words],
            env={**os.environ, "AUTOTRADER_OFFLINE": "1"},
            stdout=subprocess.DEVNULL,
        )
        self.until(lambda: self.venue.opened > opened and self.is_subscribed(), "the line", within_s=120)
        self.pause_s = 0.1 * max(1.0, (time.monotonic() - begun_s) / 4)  # on a slow machine the market is slower, too

    def is_subscribed(self) -> bool:
        return any(len(topics) >= 3 for topics in list(self.venue.lines.values()))

    def until(self, happened: Callable[[], object], what: str, within_s: float = 60.0) -> None:
        deadline_s = time.monotonic() + within_s
        while not happened():
            assert self.child is not None and self.child.poll() is None, f"the runner ended before {what} came"
            assert time.monotonic() < deadline_s, f"{what} did not come in {within_s:g} s"
            time.sleep(0.02)

    def step(self, now_ms: int) -> None:
        self.venue.now_ms = now_ms
        self.clock[0] = now_ms
        tell(self.venue)

    def play(self, happened: Callable[[], object]) -> None:
        "Let the market go on until something is written."
        until_ms = self.venue.now_ms + HOUR
        while not happened():
            assert self.child is not None and self.child.poll() is None and self.venue.now_ms < until_ms
            self.step(self.venue.now_ms + 10_000)
            time.sleep(self.pause_s)  # one process does not see how far the other is

    def kill(self) -> None:
        if self.child is None:
            return
        self.child.send_signal(signal.SIGKILL)
        self.child.wait()
        self.venue.drop()


@pytest.mark.timeout(300)
def test_a_killed_runner_goes_on_with_the_same_position(settings: Settings, venue: local.Venue, store: Store) -> None:
    at = Process(settings, venue, store)
    try:
        at.begin()
        at.play(lambda: [order.status for order in orders(store)] == ["FILLED", "LIVE"])
        at.kill()
        held, [filled, resting] = folded(store), orders(store)
        at.begin()
        at.play(lambda: [order.status for order in orders(store)] == ["FILLED"] * 3)
        at.play(lambda: at.venue.now_ms > SEVEN + 10 * MINUTE)
    finally:
        at.kill()
    after, fills, names = folded(store), rows(store, Fill), [order.link_id for order in orders(store)]
    assert held.state["qty"][0] == BTC.steps(filled.qty) > 0, "it was killed with a position and an order that rests"
    assert names[:2] == [filled.link_id, resting.link_id] and len(set(names)) == 3, "three parts, each once"
    assert after.state["trip"][0] == held.state["trip"][0] == 1
    assert BTC.qty(int(after.state["qty"][0])) == sum(fill.qty for fill in fills) and len(fills) == 3
    [book] = rows(store, PaperBook)
    assert held_in(book) == int(after.state["qty"][0]), "the venue has the same"


def held_in(book: Any) -> int:
    "Position in a saved paper book, steps."
    return int(np.frombuffer(book.record, VENUE)["qty"][0])


# --- slices -----------------------------------------------------------------------------------------------------------


class Mute:
    "A feed that says nothing."

    def start(self, since_ms: object) -> None: ...

    def get(self, timeout_s: float) -> None: ...

    def ask_now(self, venue: str, symbol: str, timeframe: str) -> None: ...

    def stop(self) -> None: ...


def flat(open_ms: int, ticks: int, *, lasts_ms: int = MINUTE) -> Bar:
    prices = {"open": ticks, "high": ticks, "low": ticks, "close": ticks}
    return Bar(open_ms=open_ms, close_ms=open_ms + lasts_ms, volume=10**7, mark_high=0, mark_low=0, **prices)


@pytest.fixture(scope="module")
def holding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveBot]:
    "A bot with a position, its stop and its target, at one minute past seven."
    settings = desk(tmp_path_factory.mktemp("holding"))
    with open_store(settings.database_url, folder=settings.folder, create=True) as store:
        save(store, history(SEVEN - HOUR))
        clock = SimulatedClock(SEVEN)
        tenure = try_take(store, clock=clock)
        assert isinstance(tenure, Tenure)
        live = Live(
            Supervisor(store, risk=settings.risk, clock=clock, tenure=tenure, open_venue=open_paper),
            settings,
            {("bybit", "BTCUSDT"): BTC},
            Mute(),
        )
        hear, [player] = live.market.hear, live.market.bots
        player.session.played_ms = SEVEN - MINUTE
        hear(FeedStatus(is_up=True, why="connected"))
        hear(Slice(venue="bybit", symbol="BTCUSDT", bar=flat(SEVEN - MINUTE, level(SEVEN))))
        hear(Closed(venue="bybit", symbol="BTCUSDT", timeframe="1h", candle=history(SEVEN, 1)))
        clock.advance_to(SEVEN + MINUTE)
        hear(Slice(venue="bybit", symbol="BTCUSDT", bar=flat(SEVEN, level(SEVEN))))
        assert player.session.bot.state["qty"][0] > 0 and player.session.bot.state["have_stop"][0] > 0
        yield player
        tenure.end()


@st.composite
def minutes(draw: st.DrawFn) -> tuple[Bar, list[Bar]]:
    "A minute and the pieces in which it came, each opening where the one before closed."
    cuts = sorted(draw(st.sets(st.integers(1, MINUTE - 1), max_size=6)))
    begin, price = SEVEN + MINUTE, level(SEVEN)
    move, volume = st.integers(-3_000, 3_000), st.integers(0, 10**6)
    pieces = []
    for since, until in zip([0, *cuts], [*cuts, MINUTE], strict=True):
        close, up, down = price + draw(move), draw(st.integers(0, 500)), draw(st.integers(0, 500))
        bar = flat(begin + since, price, lasts_ms=until - since)
        high, low = max(price, close) + up, min(price, close) - down
        pieces.append(replace(bar, close=close, high=high, low=low, volume=draw(volume)))
        price = close
    whole = replace(
        pieces[0],
        close_ms=begin + MINUTE,
        high=max(piece.high for piece in pieces),
        low=min(piece.low for piece in pieces),
        close=price,
        volume=sum(piece.volume for piece in pieces),
    )
    return whole, pieces


MONEY = ("qty", "cost", "wallet_e8", "realised_e8", "fees_e8", "funding_e8", "have_stop", "have_target", "trip")


def standing(player: LiveBot) -> dict[str, Any]:
    "What a bot and its venue hold."
    state, snapshot = player.session.bot.state[0], player.session.venue.snapshot("BTCUSDT")
    mine = {name: int(state[name]) for name in MONEY}
    there = replace(snapshot, ts_ms=0)
    return {**mine, "venue": there, "mark": player.session.mark, "played_ms": player.session.played_ms}


def put_back(player: LiveBot, state: np.ndarray, book: dict[str, Any], played_ms: int) -> None:
    player.session.bot.state[:] = state
    player.session.bot.venue.inner.restore("BTCUSDT", book)  # type: ignore[attr-defined]
    player.session.played_ms = played_ms
    player.session.bot.writer = JournalWriter(player.session.bot.writer.store)  # what was noted since is not kept


@given(minutes())
def test_the_pieces_of_a_minute_do_to_a_position_what_the_minute_does(
    holding: LiveBot, minute: tuple[Bar, list[Bar]]
) -> None:
    whole, pieces = minute
    bot = holding.session.bot
    before = bot.state.copy(), holding.session.venue.save("BTCUSDT"), holding.session.played_ms
    stop, target = int(bot.state["have_stop"][0]), int(bot.state["have_target"][0])
    try:
        assert stop < whole.low and whole.high < target, "no order acts inside"
        for piece in pieces:
            hear_piece(holding, piece, is_late=False)
        after = standing(holding)
        put_back(holding, *before)
        hear_piece(holding, whole, is_late=False)
        assert standing(holding) == after
        assert after["mark"] == whole.close and after["played_ms"] == whole.close_ms
    finally:
        put_back(holding, *before)
