"""The live feed, against a local venue: a websocket server and an HTTP server that speak Bybit v5 over one made-up market."""

import gc
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from socket import SHUT_RDWR, create_server
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import psutil
import pytest
import sqlalchemy as sa
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

from autotrader.core.clock import SimulatedClock, parse_time, timeframe_ms
from autotrader.core.errors import ConfigError
from autotrader.core.market import Instrument
from autotrader.core.offline import OfflineError
from autotrader.core.ports import Bar
from autotrader.data.bybit_history import connect
from autotrader.data.instruments import known
from autotrader.exchange import backfill, streams
from autotrader.exchange import news as pieces
from autotrader.exchange.news import Closed, FeedStatus, Funding, News, Slice
from autotrader.exchange.streams import Patience, PublicFeed, Subscription
from autotrader.store import candles as candle_store
from autotrader.store.database import Store, open_store
from autotrader.store.series import load_funding

MINUTE, HOUR = 60_000, 3_600_000
EIGHT = 8 * HOUR
START = parse_time("2026-03-05 07:40")  # twenty minutes before a funding stamp
CODES = {pieces.interval(timeframe): timeframe for timeframe in pieces.TIMEFRAMES}
QUICK = Patience(silence_s=15, connect_s=5, late_ms=3_000, first_wait_s=0.1, longest_wait_s=0.8, healthy_s=60)
_known = known("bybit", "BTCUSDT")
assert _known is not None
BTC = _known
ETH = Instrument(venue="bybit", symbol="ETHUSDT", rules=BTC.rules)
Trade = tuple[int, int, int]  # when, ticks, steps


@cache
def trades(symbol: str, open_ms: int) -> tuple[Trade, ...]:
    "What was traded in a minute; the first trade is at the price of the last minute's end, as Bybit's klines are continuous."
    rng = np.random.default_rng([open_ms // MINUTE, len(symbol), ord(symbol[0])])
    when = np.arange(40) * 1500 + rng.integers(0, 1500, 40)
    prices = 900_000 + np.cumsum(rng.integers(-9, 10, 40))
    prices[-1] = 900_000
    first = (open_ms, 900_000, 0)
    return (
        first,
        *((open_ms + int(t), int(p), int(q)) for t, p, q in zip(when, prices, rng.integers(1, 99, 40), strict=True)),
    )


def bar(symbol: str, open_ms: int, step_ms: int, until_ms: int) -> tuple[int, int, int, int, int]:
    "Open, high, low, close, volume of a bar as far as it has come, in ticks and steps."
    done = [
        trade
        for minute in range(open_ms, min(open_ms + step_ms, until_ms + 1), MINUTE)
        for trade in trades(symbol, minute)
        if trade[0] <= until_ms
    ]
    prices = [price for _, price, _ in done]
    return prices[0], max(prices), min(prices), prices[-1], sum(qty for *_, qty in done)


def texts(symbol: str, open_ms: int, step_ms: int, until_ms: int) -> list[str]:
    *prices, volume = bar(symbol, open_ms, step_ms, until_ms)
    return [*(str(BTC.price(ticks)) for ticks in prices), str(BTC.qty(volume))]


def rate(stamp: int, now_ms: int = 0) -> float:
    "What is paid at a funding stamp; at `now_ms` before it, what the ticker shows."
    return (stamp // HOUR % 50 - 25) / 1e5 + ((stamp - now_ms) // 15_000 / 1e6 if now_ms else 0.0)


def kline(symbol: str, code: str, now_ms: int, *, confirm: bool = False) -> dict[str, Any]:
    "The stream's message on the bar that runs at `now_ms`, or on the one that has just closed."
    step = timeframe_ms(CODES[code])
    start = (now_ms - 1) // step * step if confirm else now_ms // step * step
    names = ("open", "high", "low", "close", "volume")
    columns = dict(zip(names, texts(symbol, start, step, min(now_ms, start + step - 1)), strict=True))
    data = {"start": start, "end": start + step - 1, "interval": code, "confirm": confirm, "timestamp": now_ms}
    return {
        "topic": f"kline.{code}.{symbol}",
        "type": "snapshot",
        "ts": now_ms,
        "data": [data | columns | {"turnover": "1"}],
    }


def ticker(symbol: str, now_ms: int, *, kind: str = "delta") -> dict[str, Any]:
    data = {"symbol": symbol, "markPrice": texts(symbol, now_ms // MINUTE * MINUTE, MINUTE, now_ms)[3]}
    following = now_ms // EIGHT * EIGHT + EIGHT
    data |= {"fundingRate": str(rate(following, now_ms))}
    if kind == "snapshot" or now_ms % HOUR < 10_000:
        data |= {"nextFundingTime": str(following), "fundingIntervalHour": "8"}
    return {"topic": f"tickers.{symbol}", "type": kind, "ts": now_ms, "cs": 1, "data": data}


class Rest(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, venue: "Venue") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.venue = venue


class Handler(BaseHTTPRequestHandler):
    server: Rest

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        venue = self.server.venue
        venue.asked.append((parts.path.removeprefix("/v5/market/"), query))
        venue.hang.wait(20)
        status, body = (
            (502, b"<html>Bad Gateway</html>") if venue.is_rest_down else (200, venue.reply(*venue.asked[-1]))
        )
        with suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Venue:
    "One market, told by REST and by websocket; what is told follows a clock that the test moves."

    def __init__(self, now_ms: int = START) -> None:
        self.now_ms = now_ms
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.is_rest_down = False
        self.is_silent = False
        self.is_rate_late = False
        self.hang = threading.Event()
        self.hang.set()
        self.lines: dict[ServerConnection, set[str]] = {}
        self.opened = 0  # connections, ever
        self.refused: set[str] = set()  # topics
        self.lost: Callable[[dict[str, Any]], bool] = lambda message: False
        self.rest = Rest(self)
        threading.Thread(target=self.rest.serve_forever, args=(0.05,), daemon=True).start()
        self.port = 0
        self.stream: Server | None = None
        self.listen()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.rest.server_address[1]}"

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v5/public/linear"

    def listen(self) -> None:
        self.stream = serve(self.attend, "127.0.0.1", self.port, compression=None)
        self.port = self.stream.socket.getsockname()[1]
        threading.Thread(target=self.stream.serve_forever, daemon=True).start()

    def deafen(self) -> None:
        "Take no more connections."
        assert self.stream is not None
        self.stream.shutdown()
        self.drop()

    def close(self) -> None:
        self.hang.set()
        self.deafen()
        self.rest.shutdown()
        self.rest.server_close()

    def drop(self) -> None:
        "Cut every line, without a word."
        for line in list(self.lines):
            with suppress(OSError):
                line.socket.shutdown(SHUT_RDWR)

    def attend(self, line: ServerConnection) -> None:
        self.opened += 1
        self.lines[line] = set()
        try:
            for text in line:
                asked = json.loads(text)
                if asked["op"] == "ping":
                    line.send(json.dumps({"success": True, "ret_msg": "pong", "op": "ping"}))
                    continue
                bad = self.refused & set(asked["args"])
                answer = {"success": not bad, "ret_msg": f"error:handler not found,topic:{bad}" if bad else ""}
                line.send(json.dumps(answer | {"op": "subscribe", "req_id": asked["req_id"], "conn_id": "1"}))
                self.lines[line] |= set(asked["args"]) - bad
                for topic in asked["args"]:
                    if topic.startswith("tickers.") and not self.is_silent:
                        line.send(json.dumps(ticker(topic.partition(".")[2], self.now_ms, kind="snapshot")))
        except (ConnectionClosed, OSError):
            pass
        finally:
            del self.lines[line]

    def send(self, message: dict[str, Any] | str, topic: str | None = None) -> None:
        text = message if isinstance(message, str) else json.dumps(message)
        about = topic or (message["topic"] if isinstance(message, dict) else None)
        if self.is_silent or (isinstance(message, dict) and self.lost(message)):
            return
        for line, topics in list(self.lines.items()):
            if about is None or about in topics:
                with suppress(ConnectionClosed, OSError):
                    line.send(text)

    def reply(self, path: str, query: dict[str, str]) -> bytes:
        symbol, now = query["symbol"], self.now_ms
        first, last = (int(query.get(name, query.get(f"{name}Time", 0))) for name in ("start", "end"))
        rows: list[Any]
        if path == "kline":
            step = timeframe_ms(CODES[query["interval"]])
            stamps = range(-(-first // step) * step, min(last, now) + 1, step)[-int(query["limit"]) :]
            rows = [[str(t), *texts(symbol, t, step, min(now, t + step - 1)), "1"] for t in stamps][::-1]
        else:
            assert path == "funding/history"
            stamps = range(-(-first // EIGHT) * EIGHT, min(last, now) + 1, EIGHT)
            rows = [
                {"symbol": symbol, "fundingRate": f"{rate(t):.5f}", "fundingRateTimestamp": str(t)}
                for t in stamps
                if not self.is_rate_late
            ][::-1]
        return json.dumps({"retCode": 0, "retMsg": "OK", "result": {"category": "linear", "list": rows}}).encode()


class Listener:
    "A feed with its clock and its consumer."

    def __init__(
        self, venue: Venue, store: Store, *wanted: Subscription, patience: Patience = QUICK, ahead_ms: int = 0
    ) -> None:
        self.venue, self.store, self.wanted, self.ahead_ms = venue, store, wanted, ahead_ms
        self.clock = SimulatedClock(venue.now_ms + ahead_ms)
        self.news: list[News] = []
        self.feed = PublicFeed(
            wanted,
            clock=self.clock,
            store=store,
            rng=np.random.default_rng(7),
            endpoint=venue.endpoint,
            stream=venue.url,
            patience=patience,
        )

    def move(self, now_ms: int) -> None:
        self.venue.now_ms = now_ms
        self.clock.advance_to(now_ms + self.ahead_ms)

    def until(self, happened: Callable[[], bool], what: str, within_s: float = 30.0) -> None:
        deadline_s = time.monotonic() + within_s
        while not happened():
            news = self.feed.get(0.05)
            if news is not None:
                self.news.append(news)
            assert time.monotonic() < deadline_s, f"{what} did not come; the newest news: {self.news[-3:]}"

    def slices(self, symbol: str = "BTCUSDT") -> list[Bar]:
        return [news.bar for news in self.news if isinstance(news, Slice) and news.symbol == symbol]

    def lines(self) -> list[bool]:
        return [news.is_up for news in self.news if isinstance(news, FeedStatus)]

    def until_up(self) -> None:
        "Until the line stands, is subscribed and nothing is missing."
        topics = sum(1 + len({"1m", *want.timeframes}) for want in self.wanted)

        def happened() -> bool:
            subscribed = any(len(have) >= topics for have in list(self.venue.lines.values()))
            return subscribed and bool(self.lines()) and self.lines()[-1]

        self.until(happened, "a line that stands")

    def until_played(self, until_ms: int) -> None:
        for want in self.wanted:
            symbol = want.instrument.symbol
            self.until(
                lambda symbol=symbol: bool(self.slices(symbol)) and self.slices(symbol)[-1].close_ms >= until_ms,  # type: ignore[misc]
                f"{symbol} at {until_ms}",
            )

    def play(self, until_ms: int, *, every_ms: int = 7_000, waits: bool = True) -> None:
        "Let the market go on, and hear each minute to its end."
        while self.venue.now_ms < until_ms:
            end = min(self.venue.now_ms // MINUTE * MINUTE + MINUTE, until_ms)
            for now in [*range(self.venue.now_ms + every_ms, end, every_ms), end]:
                self.step(now)
            if waits and end % MINUTE == 0:
                self.until_played(end)

    def play_slowly(self, until_ms: int) -> None:
        "Let the market go on, and hear each update."
        for now in range(self.venue.now_ms + 7_500, until_ms + 1, 7_500):
            self.step(now)
            self.until_played(now)

    def step(self, now_ms: int) -> None:
        self.move(now_ms)
        for want in self.wanted:
            symbol = want.instrument.symbol
            codes = ["1", *(pieces.interval(timeframe) for timeframe in want.timeframes if timeframe != "1m")]
            for code in codes[::-1]:  # the long ones first: they must wait
                if now_ms % timeframe_ms(CODES[code]) == 0:
                    self.venue.send(kline(symbol, code, now_ms, confirm=True))
            self.venue.send(ticker(symbol, now_ms))
            for code in codes:
                self.venue.send(kline(symbol, code, now_ms))

    def check(self, since_ms: int, until_ms: int, *, bars_since: int | None = None) -> None:
        "Everything came once, in order, and is what the venue has."
        for want in self.wanted:
            symbol = want.instrument.symbol
            self.until(lambda want=want: self.has_all(want, until_ms), f"the last bars of {symbol}")  # type: ignore[misc]
            check_slices(symbol, [part for part in self.slices(symbol) if part.open_ms < until_ms], since_ms, until_ms)
            mine = [news for news in self.news if not isinstance(news, FeedStatus) and news.symbol == symbol]
            check_order(mine)
            for timeframe in want.timeframes:
                check_bars(symbol, timeframe, mine, since_ms if bars_since is None else bars_since, until_ms)
                self.check_stored(symbol, timeframe, mine)
            stamps = range(-(-since_ms // EIGHT) * EIGHT, until_ms + 1, EIGHT)
            paid = [(news.ts_ms, news.rate) for news in mine if isinstance(news, Funding)]
            assert paid == [(stamp, pytest.approx(rate(stamp))) for stamp in stamps]

    def has_all(self, want: Subscription, until_ms: int) -> bool:
        "The newest bar of each timeframe has come, and the newest funding."
        mine = [
            news for news in self.news if not isinstance(news, FeedStatus) and news.symbol == want.instrument.symbol
        ]
        ends = {t: [n.close_ms for n in mine if isinstance(n, Closed) and n.timeframe == t] for t in want.timeframes}
        steps = {timeframe: timeframe_ms(timeframe) for timeframe in want.timeframes}
        stamp = until_ms // EIGHT * EIGHT
        return (stamp < START or any(isinstance(n, Funding) and n.ts_ms == stamp for n in mine)) and all(
            until_ms - steps[t] < START or (ends[t] and ends[t][-1] >= until_ms // steps[t] * steps[t]) for t in ends
        )

    def check_stored(self, symbol: str, timeframe: str, news: Sequence[News]) -> None:
        closed = [item for item in news if isinstance(item, Closed) and item.timeframe == timeframe]
        if closed:
            stored = candle_store.load(self.store, "bybit", symbol, timeframe)
            assert stored.open_ms.tolist() == [int(item.candle.open_ms[0]) for item in closed]
            assert stored.close.tolist() == [float(item.candle.close[0]) for item in closed]


def check_slices(symbol: str, slices: Sequence[Bar], since_ms: int, until_ms: int) -> None:
    "The parts of each minute make up the venue's minute; there is no gap and no overlap."
    by_minute: dict[int, list[Bar]] = {}
    at_ms = since_ms
    for part in slices:
        assert part.open_ms == at_ms and part.open_ms < part.close_ms, (part, at_ms)
        assert (part.close_ms - 1) // MINUTE == part.open_ms // MINUTE, "no part is of two minutes"
        at_ms = part.close_ms
        by_minute.setdefault(part.open_ms // MINUTE * MINUTE, []).append(part)
    assert list(by_minute) == list(range(since_ms, until_ms, MINUTE))
    for minute, parts in by_minute.items():
        whole = bar(symbol, minute, MINUTE, min(parts[-1].close_ms, minute + MINUTE) - 1)
        if parts[-1].close_ms % MINUTE == 0:
            assert joined(parts) == whole, minute
        for before, part in pairwise(parts):
            assert part.open == before.close
        for part in parts:  # it shows no high and no low from before its time
            seen = [
                part.open,
                *(price for when, price, _ in trades(symbol, minute) if part.open_ms < when <= part.close_ms),
            ]
            assert min(seen) <= part.low and part.high <= max(seen)


def joined(parts: Sequence[Bar]) -> tuple[int, int, int, int, int]:
    high, low = max(part.high for part in parts), min(part.low for part in parts)
    return parts[0].open, high, low, parts[-1].close, sum(part.volume for part in parts)


def check_order(news: Sequence[News], *, strictly: bool = False) -> None:
    "Slices, then funding, then bars, by the time at which they were over; later only what was learnt late, nothing earlier."
    keys = [
        (
            (item.bar.close_ms, 0)
            if isinstance(item, Slice)
            else (item.ts_ms, 1) if isinstance(item, Funding) else (item.close_ms, 2)
        )
        for item in news
        if not isinstance(item, FeedStatus)
    ]
    assert not strictly or keys == sorted(keys)
    played_ms = 0
    for ts_ms, rank in keys:
        assert rank == 0 or ts_ms <= played_ms, "what ended was played before"
        played_ms = ts_ms if rank == 0 else played_ms


def check_bars(symbol: str, timeframe: str, news: Sequence[News], since_ms: int, until_ms: int) -> None:
    step = timeframe_ms(timeframe)
    closed = [item.candle for item in news if isinstance(item, Closed) and item.timeframe == timeframe]
    first = since_ms // step * step
    assert [int(candle.open_ms[0]) for candle in closed] == list(range(first, until_ms - step + 1, step))
    for candle in closed:
        assert len(candle) == 1
        mine = [float(getattr(candle, name)[0]) for name in ("open", "high", "low", "close", "volume")]
        stamp = int(candle.open_ms[0])
        assert mine == [float(text) for text in texts(symbol, stamp, step, stamp + step - 1)]


@pytest.fixture
def venue() -> Iterator[Venue]:
    found = Venue()
    yield found
    found.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store("sqlite:///t.db", folder=tmp_path, create=True) as opened:
        yield opened


@pytest.fixture
def hear(venue: Venue, store: Store) -> Iterator[Callable[..., Listener]]:
    made: list[Listener] = []

    def make(*wanted: Subscription, **options: Any) -> Listener:
        made.append(
            Listener(venue, store, *(wanted or (Subscription(instrument=BTC, timeframes=("1m", "5m")),)), **options)
        )
        return made[-1]

    yield make
    for listener in made:
        listener.feed.stop()


def played(venue: Venue, *timeframes: str, since_ms: int | None = None) -> dict[tuple[str, str, str], int]:
    "A start that misses nothing from `since_ms` on."
    at_ms = venue.now_ms if since_ms is None else since_ms
    return {
        ("bybit", symbol, timeframe): at_ms for symbol in ("BTCUSDT", "ETHUSDT") for timeframe in ("1m", *timeframes)
    }


def test_a_market_is_heard_whole_and_in_order(hear: Callable[..., Listener], venue: Venue) -> None:
    ear = hear(
        Subscription(instrument=BTC, timeframes=("1m", "5m")),
        Subscription(instrument=BTC, timeframes=("15m", "5m")),
        Subscription(instrument=ETH, timeframes=("3m",)),
    )
    ear.wanted = (
        Subscription(instrument=BTC, timeframes=("1m", "5m", "15m")),
        Subscription(instrument=ETH, timeframes=("3m",)),
    )
    start = START + 5 * MINUTE
    venue.now_ms = start
    ear.clock.advance_to(start)
    ear.feed.start(played(venue, "5m", "15m", "3m"))
    ear.until_up()
    asked = len(venue.asked)
    ear.play_slowly(start + 21 * MINUTE)
    ear.check(start, start + 21 * MINUTE)
    check_order(
        [news for news in ear.news if not isinstance(news, FeedStatus) and news.symbol == "BTCUSDT"], strictly=True
    )
    assert any(news.ts_ms % EIGHT == 0 for news in ear.news if isinstance(news, Funding)), "a stamp lies in between"
    assert ear.lines() == [True]
    assert len(venue.asked) == asked, "a stream that works needs no questions"
    assert len(ear.slices()) == 8 * 21, "minutes come in parts"
    inside = [
        (a, b) for a, b in pairwise(ear.slices()) if a.open_ms % MINUTE and b.open_ms % MINUTE and b.close_ms % MINUTE
    ]
    assert len(inside) > 100
    for before, part in inside:  # the ticker shows the last price as the mark
        assert (part.mark_high, part.mark_low) == (max(before.close, part.close), min(before.close, part.close))


def test_a_line_cut_inside_a_minute_loses_and_doubles_nothing(hear: Callable[..., Listener], venue: Venue) -> None:
    ear = hear()
    ear.feed.start(played(venue, "5m"))
    ear.until_up()
    ear.play(START + 2 * MINUTE)
    ear.play_slowly(START + 2 * MINUTE + 22_500)
    venue.drop()
    ear.until(lambda: ear.lines()[-1] is False, "the news of the cut")
    ear.move(START + 2 * MINUTE + 40_000)
    ear.until_up()
    ear.play_slowly(START + 3 * MINUTE - 5_000)
    ear.play(START + 6 * MINUTE)
    ear.check(START, START + 6 * MINUTE)
    assert ear.lines() == [True, False, True]
    third = [part for part in ear.slices() if part.open_ms // MINUTE == START // MINUTE + 2]
    assert len(third) > 3, "the cut minute came in parts, before and after"


def test_three_seconds_of_refusal_heal_by_themselves(hear: Callable[..., Listener], venue: Venue) -> None:
    ear = hear()
    ear.feed.start(played(venue, "5m"))
    ear.until_up()
    ear.play(START + MINUTE + 30_000)
    venue.deafen()
    began_s = time.monotonic()
    while time.monotonic() - began_s < 3:
        ear.move(venue.now_ms + 17_000)
        ear.until(lambda: ear.lines()[-1] is False, "the news of the refusal")
        time.sleep(0.2)
    venue.listen()
    ear.until_up()
    end = venue.now_ms // MINUTE * MINUTE + 4 * MINUTE
    ear.play(end)
    ear.check(START, end)
    assert ear.lines() == [True, False, True]
    [down] = [news for news in ear.news if isinstance(news, FeedStatus) and not news.is_up]
    assert venue.url in down.why


def test_silence_is_not_mistaken_for_a_quiet_market(hear: Callable[..., Listener], venue: Venue) -> None:
    ear = hear(patience=Patience(silence_s=1, first_wait_s=0.1, longest_wait_s=0.5))
    ear.feed.start(played(venue, "5m"))
    ear.until_up()
    ear.play(START + MINUTE + 20_000)
    venue.is_silent = True
    ear.until(lambda: ear.lines()[-1] is False, "the news of the silence")
    assert "silent for 1 s" in ear.news[-1].why  # type: ignore[union-attr]
    venue.is_silent = False
    ear.until(lambda: ear.lines()[-1] is True, "the line")
    ear.until_up()
    ear.play(START + 3 * MINUTE)
    ear.check(START, START + 3 * MINUTE)


@pytest.mark.parametrize("late_ms", [3_000, 10**9], ids=["late", "when the next bar begins"])
def test_a_confirmation_that_never_came_is_asked_for(hear: Callable[..., Listener], venue: Venue, late_ms: int) -> None:
    ear = hear(patience=Patience(late_ms=late_ms, first_wait_s=0.1, longest_wait_s=0.5))
    ear.feed.start(played(venue, "5m"))
    ear.until_up()
    gone = {
        START + 2 * MINUTE,
        START + 5 * MINUTE,
        START + 6 * MINUTE,
    }  # of a minute, of both, of a minute after another
    venue.lost = lambda message: (
        message["topic"].startswith("kline") and message["ts"] in gone and message["data"][0]["confirm"]
    )
    ear.play(START + 11 * MINUTE)
    ear.check(START, START + 11 * MINUTE)
    assert len([path for path, _ in venue.asked if path == "kline"]) >= 3


def test_the_scheduler_can_have_a_late_bar_asked_for(hear: Callable[..., Listener], venue: Venue) -> None:
    ear = hear(patience=Patience(late_ms=10**9, first_wait_s=0.1, longest_wait_s=0.5))
    ear.feed.start(played(venue, "5m"))
    ear.until_up()
    ear.play(START + 4 * MINUTE)
    venue.is_silent = True
    ear.move(START + 5 * MINUTE + 4_000)
    ear.until(lambda: isinstance(ear.news[-1], Closed), "the fourth minute")
    assert ear.feed.get(1) is None, "nobody asked"
    ear.feed.ask_now("bybit", "BTCUSDT", "5m")
    ear.until(lambda: any(isinstance(news, Closed) and news.timeframe == "5m" for news in ear.news), "the bar")
    ear.check(START, START + 5 * MINUTE)
    asked = len(venue.asked)
    ear.feed.ask_now("bybit", "BTCUSDT", "5m")
    ear.feed.ask_now("bybit", "BTCUSDT", "7h")
    ear.feed.ask_now("bybit", "DOGEUSDT", "5m")
    assert ear.feed.get(0.5) is None and len(venue.asked) == asked, "there is nothing to ask for"


def test_without_any_line_the_bars_still_come(hear: Callable[..., Listener], venue: Venue) -> None:
    venue.deafen()
    ear = hear()
    ear.feed.start(played(venue, "5m"))
    ear.until(lambda: ear.lines() == [False], "the news")
    for minutes in range(1, 7):
        ear.move(START + minutes * MINUTE + 5_000)
        ear.until_played(START + minutes * MINUTE)
    ear.until(lambda: any(isinstance(news, Closed) and news.timeframe == "5m" for news in ear.news), "a bar")
    ear.check(START, START + 6 * MINUTE)
    assert ear.lines() == [False]


@pytest.mark.parametrize(("cut_s", "back_s"), [(1080, 1350), (1155, 1225)], ids=["minutes", "seconds"])
def test_funding_that_fell_into_an_outage_is_paid_once(
    hear: Callable[..., Listener], venue: Venue, cut_s: int, back_s: int
) -> None:
    ear = hear()
    ear.feed.start(played(venue, "5m"))
    ear.until_up()
    ear.play(START + cut_s * 1000)
    venue.deafen()
    ear.until(lambda: ear.lines()[-1] is False, "the news of the cut")
    ear.move(START + back_s * 1000)
    ear.until(lambda: any(isinstance(news, Funding) for news in ear.news), "the funding, without a line")
    venue.listen()
    ear.until_up()
    ear.play(START + 26 * MINUTE)
    ear.check(START, START + 26 * MINUTE)
    [funding] = [news for news in ear.news if isinstance(news, Funding)]
    assert (funding.ts_ms, funding.rate) == (START + 20 * MINUTE, pytest.approx(rate(funding.ts_ms), rel=1e-9))
    stamps, rates = load_funding(ear.store, "bybit", "BTCUSDT")
    assert (stamps.tolist(), rates.tolist()) == ([funding.ts_ms], [funding.rate])


def test_a_rate_that_the_venue_publishes_late_is_waited_for_with_patience(
    hear: Callable[..., Listener], venue: Venue
) -> None:
    ear = hear()
    ear.feed.start(played(venue, "5m"))
    ear.until_up()
    ear.play(START + 19 * MINUTE)
    venue.deafen()
    ear.until(lambda: ear.lines()[-1] is False, "the news of the cut")
    ear.move(START + 20 * MINUTE + 10_000)
    venue.is_rate_late = True
    venue.listen()
    ear.until_up()
    asked = len(venue.asked)
    began_s = time.monotonic()
    ear.play(START + 22 * MINUTE)
    ear.until(lambda: time.monotonic() - began_s > 2, "the time")
    assert not [news for news in ear.news if isinstance(news, Funding)], "it goes on without"
    assert 1 <= len(venue.asked) - asked < 12
    venue.is_rate_late = False
    ear.check(START, START + 22 * MINUTE)


def test_one_symbols_question_does_not_hold_up_another(hear: Callable[..., Listener], venue: Venue) -> None:
    ear = hear(Subscription(instrument=BTC, timeframes=("1m",)), Subscription(instrument=ETH, timeframes=("1m",)))
    ear.feed.start(played(venue))
    ear.until_up()
    ear.play(START + MINUTE)
    venue.lost = lambda message: message["topic"] == "kline.1.BTCUSDT" and message["ts"] == START + 2 * MINUTE
    venue.hang.clear()
    ear.play(START + 4 * MINUTE, waits=False)
    ear.until(lambda: ear.slices("ETHUSDT")[-1].close_ms >= START + 4 * MINUTE, "the other symbol")
    assert ear.slices()[-1].close_ms < START + 2 * MINUTE
    venue.hang.set()
    ear.until(lambda: ear.slices()[-1].close_ms >= START + 4 * MINUTE, "the answer")
    ear.check(START, START + 4 * MINUTE)


def test_reconnections_leave_nothing_behind(hear: Callable[..., Listener], venue: Venue) -> None:
    ear = hear(patience=Patience(first_wait_s=0.02, longest_wait_s=0.02))
    ear.feed.start(played(venue, "5m"))
    ear.until_up()
    process = psutil.Process()
    counts = []
    for cycle in range(1, 13):
        opened = venue.opened
        if cycle % 2:
            venue.drop()
        else:
            venue.deafen()
            venue.listen()
        ear.until(lambda opened=opened: venue.opened > opened, "the next line")  # type: ignore[misc]
        ear.until_up()
        gc.collect()  # what waits for the collector is not left behind
        counts.append((threading.active_count(), process.num_fds()))
    threads, files = zip(*counts, strict=True)
    assert max(threads[4:]) <= max(threads[:4]) + 1 and max(files[4:]) <= max(files[:4]) + 2


def test_a_start_after_a_long_night_misses_nothing(hear: Callable[..., Listener], venue: Venue) -> None:
    ear = hear(Subscription(instrument=BTC, timeframes=("1m", "1h", "1d")))
    since = START - 40 * HOUR - START % HOUR  # three pages of minutes, five stamps
    ear.feed.start(played(venue, "1h", "1d", since_ms=since))
    ear.until_up()
    ear.play(START + MINUTE)
    ear.until(lambda: ear.has_all(ear.wanted[0], START + MINUTE), "the last bars")
    check_slices("BTCUSDT", [part for part in ear.slices() if part.open_ms < START + MINUTE], since, START + MINUTE)
    check_order([news for news in ear.news if not isinstance(news, FeedStatus)])
    for timeframe in ("1m", "1h", "1d"):
        check_bars("BTCUSDT", timeframe, ear.news, since, START + MINUTE)
    paid = [news.ts_ms for news in ear.news if isinstance(news, Funding)]
    assert paid == list(range(-(-since // EIGHT) * EIGHT, START, EIGHT)) and len(paid) == 5
    questions = [query for path, query in venue.asked if path == "kline" and query["interval"] == "1"]
    assert len(questions) <= 5 and all(int(query["end"]) - int(query["start"]) <= 1000 * MINUTE for query in questions)


def test_what_a_minute_did_before_the_start_is_not_news(hear: Callable[..., Listener], venue: Venue) -> None:
    venue.now_ms = START + 31_000
    ear = hear()
    ear.feed.start({})
    ear.until_up()
    ear.play(START + 3 * MINUTE)
    first, *_ = ear.slices()
    assert first.open_ms > START + 31_000
    now = bar("BTCUSDT", START, MINUTE, first.open_ms)
    assert first.open == now[3]
    rest = [part for part in ear.slices() if part.open_ms < START + MINUTE]
    assert joined(rest)[4] == bar("BTCUSDT", START, MINUTE, START + MINUTE - 1)[4] - now[4]
    check_slices(
        "BTCUSDT", [p for p in ear.slices() if p.open_ms >= START + MINUTE], START + MINUTE, START + 3 * MINUTE
    )
    ear.until(lambda: ear.has_all(ear.wanted[0], START + 3 * MINUTE), "the last bars")
    check_bars("BTCUSDT", "1m", ear.news, START, START + 3 * MINUTE)


def test_nothing_newer_is_handed_out_before_the_gap_is_filled(hear: Callable[..., Listener], venue: Venue) -> None:
    venue.is_rest_down = True
    ear = hear(patience=Patience(first_wait_s=0.1, longest_wait_s=0.5))
    ear.feed.start(played(venue, "5m", since_ms=START - 10 * MINUTE))
    ear.until(lambda: bool(venue.lines), "the stream")
    for now in range(START + 5_000, START + 50_000, 5_000):
        ear.step(now)
    ear.until(lambda: bool(ear.news), "the news that REST is down", within_s=60)
    assert ear.lines() == [False] and "did not answer" in ear.news[0].why  # type: ignore[union-attr]
    assert len(ear.news) == 1
    venue.is_rest_down = False
    ear.until(lambda: ear.lines()[-1] is True, "the line", within_s=60)
    ear.play(START + 2 * MINUTE)
    ear.check(START - 10 * MINUTE, START + 2 * MINUTE)


def test_after_a_reconnection_the_missing_bar_comes_before_anything_newer(
    hear: Callable[..., Listener], venue: Venue
) -> None:
    ear = hear(patience=Patience(late_ms=10**9, first_wait_s=0.1, longest_wait_s=0.5))
    ear.feed.start(played(venue, "5m"))
    ear.until_up()
    venue.lost = lambda message: message["topic"] == "kline.5.BTCUSDT"
    ear.play(START + 5 * MINUTE)
    venue.hang.clear()
    venue.drop()
    ear.until(lambda: len(venue.asked) > 0, "the question")
    for now in range(START + 5 * MINUTE + 5_000, START + 5 * MINUTE + 30_000, 5_000):
        ear.step(now)
    until_s = time.monotonic() + 1
    ear.until(lambda: time.monotonic() > until_s, "the time")
    assert max(part.close_ms for part in ear.slices()) == START + 5 * MINUTE
    venue.hang.set()
    ear.until_up()
    venue.lost = lambda message: False
    ear.play(START + 6 * MINUTE)
    ear.check(START, START + 6 * MINUTE)
    after = next(i for i, n in enumerate(ear.news) if isinstance(n, Slice) and n.bar.open_ms >= START + 5 * MINUTE)
    assert any(isinstance(news, Closed) and news.timeframe == "5m" for news in ear.news[:after])


def test_a_rate_heard_long_before_its_stamp_is_asked_for() -> None:
    dues, stamp = pieces.Dues(paid_ms=EIGHT), 2 * EIGHT
    pieces.hear_ticker(dues, BTC, {"fundingRate": "0.0001", "nextFundingTime": str(stamp)}, stamp - 61_000)
    pieces.pass_stamp(dues, "BTCUSDT", stamp)
    assert (dues.ready, dues.missing_ms) == ([], stamp)
    dues = pieces.Dues(paid_ms=EIGHT)
    pieces.hear_ticker(dues, BTC, {"fundingRate": "0.0001", "nextFundingTime": str(stamp)}, stamp - 59_000)
    pieces.pass_stamp(dues, "BTCUSDT", stamp)
    assert (dues.ready, dues.missing_ms) == ([Funding(venue="bybit", symbol="BTCUSDT", ts_ms=stamp, rate=0.0001)], 0)
    pieces.hear_ticker(dues, BTC, {"fundingRate": "0.5", "nextFundingTime": str(stamp)}, stamp + 10)  # an old word
    pieces.pass_stamp(dues, "BTCUSDT", stamp + EIGHT - 1)
    assert len(dues.ready) == 1 and dues.missing_ms == 0


GARBAGE: list[str] = [
    "{",
    "[]",
    '"topic"',
    '["topic"]',
    "null",
    '{"topic": 7}',
    '{"topic": "kline.1.BTCUSDT"}',
    '{"topic": "kline.1.BTCUSDT", "ts": 1, "data": {}}',
    '{"topic": "kline.1.BTCUSDT", "ts": 1, "data": [{}]}',
    '{"topic": "kline.1.BTCUSDT", "ts": "x", "data": []}',
    '{"topic": "kline.1.BTCUSDT", "ts": 1, "data": [null]}',
    '{"topic": "kline.1.DOGEUSDT", "ts": 1, "data": []}',
    '{"topic": "tickers.BTCUSDT", "ts": 1, "data": null}',
    '{"topic": "tickers.BTCUSDT", "ts": TS, "data": {"markPrice": "abc"}}',
    '{"topic": "tickers.BTCUSDT", "ts": TS, "data": {"fundingRate": "nan"}}',
    '{"topic": "tickers.BTCUSDT", "ts": TS, "data": {"nextFundingTime": "tomorrow"}}',
    '{"success": false, "ret_msg": "error:handler not found", "op": "subscribe", "req_id": "1"}',
    "PRICE 90000.05",  # off the grid
    "PRICE NaN",
    "PRICE -1",
    "PRICE 1e999",
    "PRICE",
]


def test_a_message_that_cannot_be_read_costs_no_more_than_itself(hear: Callable[..., Listener], venue: Venue) -> None:
    ear = hear()
    ear.feed.start(played(venue, "5m"))
    ear.until_up()
    ear.play(START + 30_000)
    for garbage in GARBAGE:
        if garbage.startswith("PRICE"):
            for confirm in (False, True):
                broken = kline("BTCUSDT", "1", START + 30_001, confirm=confirm)
                broken["data"][0] |= {"start": START, "close": garbage.partition(" ")[2]}
                venue.send(broken)
        else:
            venue.send(garbage.replace("TS", str(START + 30_001)))
    ear.play(START + 6 * MINUTE)
    ear.check(START, START + 6 * MINUTE)
    assert ear.lines() == [True] * len(ear.lines()) and len(ear.lines()) >= 3, "complaints, and the line stands"
    assert venue.opened == 1


def test_a_price_off_the_grid_is_told_and_passed_over(hear: Callable[..., Listener], venue: Venue) -> None:
    coarse = Instrument(venue="bybit", symbol="BTCUSDT", rules=BTC.rules)
    ear = hear(Subscription(instrument=coarse, timeframes=("1m",)))
    ear.feed.start(played(venue))
    ear.until_up()
    ear.play(START + MINUTE)
    original = venue.reply

    def finer(path: str, query: dict[str, str]) -> bytes:
        return original(path, query).replace(str(BTC.price(900_000)).encode(), b"90000.05")

    venue.reply = finer  # type: ignore[method-assign]
    venue.lost = lambda message: message["topic"].startswith("kline") and message["ts"] == START + 2 * MINUTE
    ear.play(START + 2 * MINUTE, waits=False)
    ear.move(START + 2 * MINUTE + 4_000)
    ear.until(lambda: any(isinstance(n, FeedStatus) and "not a multiple" in n.why for n in ear.news), "the complaint")
    venue.lost = lambda message: False
    venue.reply = original  # type: ignore[method-assign]
    ear.play(START + 4 * MINUTE)
    assert ear.lines()[-1] is True
    assert not [p for p in ear.slices() if p.close_ms == START + 2 * MINUTE], "its last part could not be told"
    check_slices(
        "BTCUSDT", [p for p in ear.slices() if p.open_ms >= START + 2 * MINUTE], START + 2 * MINUTE, START + 4 * MINUTE
    )
    ear.until(lambda: ear.has_all(ear.wanted[0], START + 4 * MINUTE), "the last bars")
    stamps = [int(news.candle.open_ms[0]) for news in ear.news if isinstance(news, Closed)]
    assert stamps == list(range(START, START + 4 * MINUTE, MINUTE)), "the bars come all the same"


def test_our_clock_may_run_ahead_and_a_running_bar_is_still_not_closed(
    hear: Callable[..., Listener], venue: Venue
) -> None:
    ear = hear(ahead_ms=1_500, patience=Patience(late_ms=0, first_wait_s=0.1, longest_wait_s=0.3))
    ear.feed.start(played(venue, "5m"))
    ear.until_up()
    ear.play(START + 4 * MINUTE)
    ear.move(START + 5 * MINUTE - 700)  # our clock says the bar is over
    ear.feed.ask_now("bybit", "BTCUSDT", "5m")
    asked = len(venue.asked)
    ear.until(lambda: len(venue.asked) > asked + 2, "the questions")
    ear.play(START + 6 * MINUTE)
    ear.check(START, START + 6 * MINUTE)


def test_a_slow_consumer_finds_longer_slices_and_every_bar(hear: Callable[..., Listener], venue: Venue) -> None:
    ear = hear(Subscription(instrument=BTC, timeframes=("5m",)))
    ear.feed.start(played(venue, "5m"))
    ear.until_up()
    ear.play(START + 31 * MINUTE, waits=False, every_ms=2_000)
    ear.until_played(START + 31 * MINUTE)
    ear.check(START, START + 31 * MINUTE)
    assert len(ear.slices()) < 31 * 30 / 2


def test_more_of_the_past_is_asked_for_only_when_there_is_room(venue: Venue) -> None:
    outbox, stopping = streams.Outbox(limit=2), threading.Event()
    inbox: streams.Inbox = SimpleQueue()
    questions: SimpleQueue[backfill.BackfillRequest | None] = SimpleQueue()
    market = backfill.open_market(BTC, ["1m"], {"1m": START - 5 * MINUTE}, START)
    for name in ("up", "down"):
        outbox.put(FeedStatus(is_up=name == "up", why=name))
    questions.put(backfill.missing(market, START, late_ms=0))
    run = (connect(venue.endpoint), questions, inbox, outbox, stopping)
    asker = threading.Thread(target=streams.answer_all, args=run, daemon=True)
    asker.start()
    time.sleep(0.5)
    assert outbox.is_full and venue.asked == []
    assert outbox.get(0) is not None
    kind, answer = inbox.get(timeout=20)
    assert kind == "answer" and len(answer.bars["1"]) == 6, "with the running one"
    questions.put(None)
    asker.join(5)
    assert not asker.is_alive()


def test_a_flood_gives_up_the_line_and_nothing_else(hear: Callable[..., Listener], venue: Venue) -> None:
    ear = hear(patience=Patience(backlog=40, first_wait_s=0.1, longest_wait_s=0.5))
    ear.feed.start(played(venue, "5m"))
    ear.until_up()
    ear.play(START + MINUTE + 5_000)
    message = json.dumps(ticker("BTCUSDT", venue.now_ms))
    with ear.store.begin():  # the desk cannot store a bar, so it falls behind
        ear.play(START + 2 * MINUTE, waits=False)
        for _ in range(200):
            venue.send(message, topic="tickers.BTCUSDT")
        time.sleep(0.5)
    ear.until(lambda: False in ear.lines(), "the news")
    ear.until_up()
    ear.play(START + 4 * MINUTE)
    ear.check(START, START + 4 * MINUTE)
    assert any("more came in" in news.why for news in ear.news if isinstance(news, FeedStatus))


def test_a_database_that_is_away_for_a_while_costs_no_bar(hear: Callable[..., Listener], venue: Venue) -> None:
    ear = hear()
    ear.feed.start(played(venue, "5m"))
    ear.until_up()
    ear.play(START + MINUTE)
    with ear.store.begin() as connection:
        connection.execute(sa.text("ALTER TABLE candles RENAME TO away"))
    ear.play(START + 4 * MINUTE)
    assert any(isinstance(news, FeedStatus) and news.is_up and "wait to be stored" in news.why for news in ear.news)
    with ear.store.begin() as connection:
        connection.execute(sa.text("ALTER TABLE away RENAME TO candles"))
    ear.play(START + 6 * MINUTE)
    ear.check(START, START + 6 * MINUTE)


def test_a_refused_subscription_is_told_and_its_bars_are_asked_for(hear: Callable[..., Listener], venue: Venue) -> None:
    venue.refused = {"kline.5.BTCUSDT"}
    ear = hear()
    ear.feed.start(played(venue, "5m"))
    ear.until(lambda: any(len(topics) == 2 for topics in list(venue.lines.values())), "the line")
    ear.play(START + 5 * MINUTE)
    ear.play(START + 5 * MINUTE + 20_000, waits=False)
    ear.until(lambda: any(isinstance(n, Closed) and n.timeframe == "5m" for n in ear.news), "the bar")
    check_bars("BTCUSDT", "5m", ear.news, START, START + 5 * MINUTE)
    assert any("refused a subscription" in news.why for news in ear.news if isinstance(news, FeedStatus))


def feed_threads() -> list[str]:
    "Those of the feed, of pybit and of the socket below it; not those of the venue."
    ours = ("market feed", "<lambda>", "_send_ping", "Timer")
    names = [f"{type(thread).__name__} {thread.name}" for thread in threading.enumerate()]
    return [name for name in names if any(word in name for word in ours)]


@pytest.mark.parametrize("state", ["up", "refused", "mute", "reconnecting"])
def test_stop_ends_every_thread_promptly(state: str, venue: Venue, store: Store) -> None:
    before = set(threading.enumerate())
    mute = create_server(("127.0.0.1", 0))  # takes connections and says nothing
    url = {"refused": "ws://127.0.0.1:9", "mute": f"ws://127.0.0.1:{mute.getsockname()[1]}"}.get(state, venue.url)
    feed = PublicFeed(
        [Subscription(instrument=BTC, timeframes=("1m",))],
        clock=SimulatedClock(START),
        store=store,
        rng=np.random.default_rng(1),
        endpoint=venue.endpoint,
        stream=url,
        patience=Patience(first_wait_s=20, longest_wait_s=20),
    )
    feed.start(played(venue))
    if state != "mute":
        assert isinstance(feed.get(20), FeedStatus)
    else:
        time.sleep(0.5)
    assert len(feed_threads()) >= {"up": 6, "mute": 4, "refused": 3, "reconnecting": 6}[state], feed_threads()
    if state == "reconnecting":
        venue.drop()
        assert isinstance(feed.get(20), FeedStatus)
    began_s = time.monotonic()
    feed.stop()
    left = feed_threads()
    while left and time.monotonic() - began_s < 2:
        time.sleep(0.01)
        left = feed_threads()
    assert not left and time.monotonic() - began_s < 2
    assert feed.get(5) is None and time.monotonic() - began_s < 4, "nobody waits for a feed that ended"
    mute.close()
    venue.drop()
    deadline_s = time.monotonic() + 10
    while set(threading.enumerate()) - before and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert {t.name for t in set(threading.enumerate()) - before} == set()


def test_stop_does_not_wait_for_a_question_and_takes_no_answer(venue: Venue, store: Store) -> None:
    venue.hang.clear()
    feed = PublicFeed(
        [Subscription(instrument=BTC, timeframes=("1m",))],
        clock=SimulatedClock(START),
        store=store,
        rng=np.random.default_rng(1),
        endpoint=venue.endpoint,
        stream=venue.url,
    )
    feed.start(played(venue, since_ms=START - 5 * MINUTE))
    deadline_s = time.monotonic() + 10
    while not venue.asked and time.monotonic() < deadline_s:
        time.sleep(0.02)
    began_s = time.monotonic()
    feed.stop()
    assert time.monotonic() - began_s < 2
    venue.hang.set()
    time.sleep(0.5)
    assert feed.get(0) is None and candle_store.coverage(store) == []


def test_after_stop_nothing_is_asked_again(venue: Venue, store: Store) -> None:
    venue.is_rest_down = True
    feed = PublicFeed(
        [Subscription(instrument=BTC, timeframes=("1m",))],
        clock=SimulatedClock(START),
        store=store,
        rng=np.random.default_rng(1),
        endpoint=venue.endpoint,
        stream=venue.url,
    )
    feed.start(played(venue, since_ms=START - 5 * MINUTE))
    deadline_s = time.monotonic() + 10
    while len(venue.asked) < 2 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    feed.stop()
    asked = len(venue.asked)
    time.sleep(2)
    assert len(venue.asked) == asked


def test_a_server_that_takes_the_call_and_says_nothing_is_left(venue: Venue, store: Store) -> None:
    mute = create_server(("127.0.0.1", 0))
    feed = PublicFeed(
        [Subscription(instrument=BTC, timeframes=("1m",))],
        clock=SimulatedClock(START),
        store=store,
        rng=np.random.default_rng(1),
        endpoint=venue.endpoint,
        stream=f"ws://127.0.0.1:{mute.getsockname()[1]}",
        patience=Patience(connect_s=0.3),
    )
    feed.start()
    line = feed.get(20)
    feed.stop()
    mute.close()
    assert isinstance(line, FeedStatus) and not line.is_up and "no answer in time" in line.why


def test_a_flapping_line_stays_far_below_the_venues_limit(store: Store, venue: Venue) -> None:
    rng, spent_s, connections = np.random.default_rng(3), 0.0, 0
    while spent_s < 300:  # each refused at once
        connections += 1
        spent_s += streams.PATIENCE.wait_s(connections, rng)
    assert connections < 40
    venue.deafen()
    hung_up = create_server(("127.0.0.1", venue.port))
    taken: list[int] = []

    def hang_up() -> None:
        with suppress(OSError):
            while True:
                line, _ = hung_up.accept()
                taken.append(1)
                line.close()

    threading.Thread(target=hang_up, daemon=True).start()
    feed = PublicFeed(
        [Subscription(instrument=BTC, timeframes=("1m",))],
        clock=SimulatedClock(START),
        store=store,
        rng=np.random.default_rng(1),
        endpoint=venue.endpoint,
        stream=venue.url,
    )
    feed.start()
    time.sleep(3)
    feed.stop()
    hung_up.shutdown(SHUT_RDWR)
    hung_up.close()
    venue.listen()
    assert 2 <= len(taken) <= 4  # at 0, about 0.4, 1.1, 2.6 seconds


def test_offline_both_addresses_are_refused_before_a_thread_starts(venue: Venue, store: Store) -> None:
    threads = threading.active_count()
    common: dict[str, Any] = {"clock": SimulatedClock(START), "store": store, "rng": np.random.default_rng(1)}
    wanted = [Subscription(instrument=BTC, timeframes=("1m",))]
    with pytest.raises(OfflineError, match=r"stream\.bybit\.com"):
        PublicFeed(wanted, endpoint=venue.endpoint, **common)
    with pytest.raises(OfflineError, match=r"api\.bybit\.com"):
        PublicFeed(wanted, stream=venue.url, **common)
    with pytest.raises(OfflineError, match=r"stream-testnet\.bybit\.com"):
        PublicFeed(wanted, endpoint=venue.endpoint, stream="wss://stream-testnet.bybit.com/v5/public/linear", **common)
    assert threading.active_count() == threads and venue.asked == []


def test_what_cannot_be_had_is_refused_in_one_line(venue: Venue, store: Store) -> None:
    binance = known("binance", "BTCUSDT")
    assert binance is not None
    with pytest.raises(ConfigError, match="perpetuals of bybit only"):
        Subscription(instrument=binance, timeframes=("1h",))
    with pytest.raises(ConfigError, match="no '8h' bars"):
        Subscription(instrument=BTC, timeframes=("8h",))
    other = Instrument(venue="bybit", symbol="BTCUSDT", rules=ETH.rules, kind="perpetual")
    assert other == BTC
    common: dict[str, Any] = {"clock": SimulatedClock(START), "store": store, "rng": np.random.default_rng(1)}
    with pytest.raises(ConfigError, match="no symbol"):
        PublicFeed([], endpoint=venue.endpoint, stream=venue.url, **common)
    feed = PublicFeed(
        [Subscription(instrument=BTC, timeframes=("1h",))], endpoint=venue.endpoint, stream=venue.url, **common
    )
    feed.start()
    with pytest.raises(ConfigError, match="starts once"):
        feed.start()
    feed.stop()


# Any order of messages, any loss, any delay of the answers: what is handed out is the same market.

LENGTH = 8  # minutes


def conversation() -> list[dict[str, Any]]:
    "All a stream says in eight minutes around a funding stamp."
    start, said = START + 16 * MINUTE, [ticker("BTCUSDT", START + 16 * MINUTE, kind="snapshot")]
    for now in range(start + 10_000, start + LENGTH * MINUTE + 1, 10_000):
        for code in ("5", "1"):
            if now % timeframe_ms(CODES[code]) == 0:
                said.append(kline("BTCUSDT", code, now, confirm=True))
        said += [ticker("BTCUSDT", now), kline("BTCUSDT", "1", now), kline("BTCUSDT", "5", now)]
    return said


CONVERSATION = conversation()


@st.composite
def hearings(draw: st.DrawFn) -> list[int]:
    "Indices of messages as they arrive: some twice, some late, some never."
    arrived = {float(i): i for i in range(len(CONVERSATION))}
    mishaps = st.tuples(
        st.integers(1, len(CONVERSATION) - 1),
        st.sampled_from(["twice", "late", "never"]),
        st.sampled_from([0.1, 1.3, 2.5, 5.7, 30.5, 60.9]),
    )
    for i, what, late in draw(st.lists(mishaps, max_size=25)):
        if what != "twice":
            arrived.pop(float(i), None)
        if what != "never":
            arrived[i + late] = i
    return [i for _, i in sorted(arrived.items())]


@example(order=list(range(len(CONVERSATION))), lag=0, cuts=[(0, 1), (75, 80)])
@given(
    order=hearings(),
    lag=st.integers(0, 12),
    cuts=st.lists(st.tuples(st.integers(0, 190), st.integers(1, 80)), max_size=2),
)
def test_however_messages_arrive_the_market_handed_out_is_the_venues(
    order: list[int], lag: int, cuts: list[tuple[int, int]]
) -> None:
    start, end = START + 16 * MINUTE, START + (16 + LENGTH) * MINUTE
    market = backfill.open_market(BTC, ["1m", "5m"], {"1m": start, "5m": start - start % (5 * MINUTE)}, start)
    silent = {i for first, length in cuts for i in range(first, first + length)}
    news: list[News] = []
    waiting: list[tuple[int, backfill.BackfillRequest]] = []
    now_ms = start
    for at, i in enumerate([*order, *[-1] * 40]):
        now_ms = max(now_ms, CONVERSATION[i]["ts"]) if i >= 0 else now_ms + 1_000
        while waiting and waiting[0][0] <= at:
            news += answered(market, waiting.pop(0)[1])
        if i >= 0 and i not in silent:
            news += backfill.hear(market, CONVERSATION[i]["topic"].partition(".")[0], CONVERSATION[i])
        elif i in silent and i + 1 not in silent:  # the line is back
            backfill.forget_ticker(market)
            market.is_whole = False
            news += backfill.hear(market, "tickers", ticker("BTCUSDT", now_ms, kind="snapshot"))  # as the venue does
        if not waiting:
            pieces.pass_stamp(market.dues, "BTCUSDT", now_ms - 3_000)
            question = backfill.missing(market, now_ms, late_ms=3_000 if market.is_whole else 0)
            if question is None:
                market.is_whole = True
            else:
                waiting.append((at + lag, question))
    check_slices("BTCUSDT", [item.bar for item in news if isinstance(item, Slice)], start, end)
    check_order(news)
    check_bars("BTCUSDT", "1m", news, start, end)
    check_bars("BTCUSDT", "5m", news, start, end)
    assert [(item.ts_ms, item.rate) for item in news if isinstance(item, Funding)] == [
        (START + 20 * MINUTE, pytest.approx(rate(START + 20 * MINUTE), abs=5e-6))  # a minute's worth of change
    ]


def answered(market: backfill.SymbolState, question: backfill.BackfillRequest) -> list[News]:
    "The venue's word as of the moment of the question."
    bars = {}
    for code, first in question.first_ms.items():
        step = timeframe_ms(CODES[code])
        stamps = range(first, question.until_ms + 1, step)
        bars[code] = [[t, *texts("BTCUSDT", t, step, min(question.now_ms, t + step - 1))] for t in stamps]
    stamps = (
        range(-(-question.funding_ms // EIGHT) * EIGHT, question.until_ms + 1, EIGHT) if question.funding_ms else ()
    )
    answer = backfill.BackfillAnswer(question=question, bars=bars, funding=[(t, rate(t)) for t in stamps])
    news, faults = backfill.take_answer(market, answer)
    assert faults == []
    return news


def test_an_update_that_knows_less_is_old_whatever_its_stamp() -> None:
    cutter = pieces.Cutter(next_ms=START, is_joining=False)
    earlier, later = (
        pieces.to_minute(BTC, [START, *texts("BTCUSDT", START, MINUTE, START + at)]) for at in (20_000, 30_000)
    )
    first = pieces.cut(cutter, later, ts_ms=START + 30_000, is_closed=False)
    assert first is not None and first.volume == later.volume
    assert pieces.cut(cutter, earlier, ts_ms=START + 30_000, is_closed=False) is None
    assert pieces.cut(cutter, later, ts_ms=START + 31_000, is_closed=False) is None, "nothing happened"
    last = pieces.cut(cutter, earlier, ts_ms=START + MINUTE, is_closed=True)  # even a venue that takes trades back
    assert last is not None and last.volume == 0 and last.close == earlier.close


@given(
    minutes=st.integers(0, 400),
    fives=st.integers(0, 100),
    hours=st.integers(0, 9),
    now=st.integers(0, 2 * MINUTE),
    page=st.sampled_from([7, 60, 300]),
)
def test_whatever_was_missed_comes_page_by_page_in_order(
    minutes: int, fives: int, hours: int, now: int, page: int
) -> None:
    end = START + 2 * MINUTE
    since = {
        "1m": START - minutes * MINUTE,
        "5m": START - START % (5 * MINUTE) - fives * 5 * MINUTE,
        "1h": START - START % HOUR - hours * HOUR,
    }
    market = backfill.open_market(BTC, ["5m", "1h"], since, START + now)
    news: list[News] = []
    questions = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backfill, "PAGE", page)
        while (question := backfill.missing(market, end + 30_000, late_ms=0)) is not None:
            assert all((question.until_ms - first) / MINUTE <= page * 60 + 1 for first in question.first_ms.values())
            news += answered(market, question)
            questions += 1
            assert questions < 500, "no progress"
    check_slices("BTCUSDT", [item.bar for item in news if isinstance(item, Slice)], since["1m"], end)
    for timeframe in ("5m", "1h"):
        check_bars("BTCUSDT", timeframe, news, since[timeframe], end)
    stamps = range(-(-since["1m"] // EIGHT) * EIGHT, end + 1, EIGHT)
    assert [item.ts_ms for item in news if isinstance(item, Funding)] == list(stamps)
    bars = [item for item in news if isinstance(item, Closed)]
    played = [item.bar.close_ms if isinstance(item, Slice) else 0 for item in news]
    for i, item in enumerate(news):
        if isinstance(item, Closed) and item.close_ms > since["1m"]:
            assert max(played[:i]) == item.close_ms, "a bar comes right after its last minute"
    assert [item.close_ms for item in bars] == sorted(item.close_ms for item in bars)


@given(cuts=st.sets(st.integers(1, MINUTE - 1), max_size=12), joins=st.integers(0, MINUTE))
def test_the_parts_of_a_minute_are_the_minute(cuts: set[int], joins: int) -> None:
    cutter = pieces.Cutter(next_ms=START, is_joining=False)
    parts = []
    for at in sorted(cuts):
        minute = pieces.to_minute(BTC, [START, *texts("BTCUSDT", START, MINUTE, START + at)])
        part = pieces.cut(cutter, minute, ts_ms=START + at, is_closed=False)
        parts += [] if part is None else [part]
    last = pieces.cut(
        cutter,
        pieces.to_minute(BTC, [START, *texts("BTCUSDT", START, MINUTE, START + MINUTE)]),
        ts_ms=0,
        is_closed=True,
    )
    assert last is not None and last.close_ms == START + MINUTE
    check_slices("BTCUSDT", [*parts, last], START, START + MINUTE)
    outbox, shown = streams.Outbox(), []
    for part in [*parts, last]:
        outbox.put(Slice(venue="bybit", symbol="BTCUSDT", bar=part))
        if part.close_ms - START > joins and (found := outbox.get(0)):
            assert isinstance(found, Slice)
            shown.append(found.bar)
    while found := outbox.get(0):
        assert isinstance(found, Slice)
        shown.append(found.bar)
    check_slices("BTCUSDT", shown, START, START + MINUTE)


def test_importing_the_feed_does_not_import_pybit() -> None:
    import subprocess
    import sys

    code = "import sys, autotrader.exchange.streams; print([m for m in ('pybit', 'websocket', 'requests') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
