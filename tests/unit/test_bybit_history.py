"""The download, against a local server that answers like Bybit v5: newest first, in strings, page by page, and not always."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from autotrader.config.sections import Backtest, BotSettings
from autotrader.config.settings import table_of
from autotrader.core.clock import SimulatedClock, parse_time
from autotrader.core.errors import ConfigError, DataError, Rejected, Retryable
from autotrader.data import bybit_history
from autotrader.data.bybit_history import ask, connect, download
from autotrader.data.joined import load_market
from autotrader.desk import supply
from autotrader.desk.choice import choose, period
from autotrader.desk.rules import rules_known, tell
from autotrader.store import candles as candle_store
from autotrader.store.database import Store, open_store
from autotrader.store.series import load_funding, load_instrument, load_open_interest
from autotrader.strategy.setup import part_for

HOUR = 3_600_000
RULES_PATHS = ("instruments-info", "risk-limit")
SINCE, END = parse_time("2025-01-01"), parse_time("2025-05-01")
NOW = END + 20 * 60_000  # the bar that began at END is running


def price(ts_ms: int) -> float:
    return round(90_000 + 500 * np.sin(ts_ms / 4e8) + (ts_ms // HOUR) % 7, 1)


class Bybit(ThreadingHTTPServer):
    "Five public endpoints of Bybit v5 over made-up history; `faults` says which request goes wrong and how."

    request_queue_size = 50
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.faults: dict[int, str] = {}
        self.victim: int | None = None
        self.tick = "0.10"
        self.symbol = "BTCUSDT"
        self.leverage, self.hours = "100.00", 8
        names = ("riskLimitValue", "maintenanceMargin", "initialMargin", "maxLeverage")
        tiers = (("2000000", "0.005", "0.01", "100.00"), ("2600000", "0.0056", "0.0111111", "90.00"))
        self.limits: list[Any] = [dict(zip(names, tier, strict=True)) for tier in tiers]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def reply(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        self.asked.append((path, query))
        first, last = (int(query.get(n, query.get(f"{n}Time", 0))) for n in ("start", "end"))
        assert query["category"] == "linear"
        if query["symbol"] != self.symbol:
            return {"retCode": 0, "retMsg": "OK", "result": {"category": "linear", "list": []}}
        match path.removeprefix("/v5/market/"):
            case "instruments-info":
                rows: list[Any] = [self.instrument()]
            case "risk-limit":
                rows = self.limits
            case "kline":
                stamps = range(SINCE - 50 * HOUR, NOW, HOUR)  # with the running bar
                rows = [self.kline(t) for t in stamps if first <= t <= last][::-1][: min(1000, int(query["limit"]))]
            case "funding/history":
                if "startTime" in query and "endTime" not in query:
                    return {"retCode": 10001, "retMsg": "params error: endTime required", "result": {}}
                stamps = range(SINCE - 80 * HOUR, NOW, self.hours * HOUR)
                rows = [
                    {
                        "symbol": self.symbol,
                        "fundingRate": f"{(t // HOUR % 50) / 1e5:.5f}",
                        "fundingRateTimestamp": str(t),
                    }
                    for t in stamps
                    if first <= t <= last
                ][::-1][: min(200, int(query["limit"]))]
            case "open-interest":
                rows = [
                    {"openInterest": f"{t // HOUR % 1000 + 50_000}.5", "singleOpenInterest": "1", "timestamp": str(t)}
                    for t in range(SINCE - 50 * HOUR, NOW, HOUR)
                    if first <= t <= last
                ][::-1][: min(200, int(query["limit"]))]
        return {
            "retCode": 0,
            "retMsg": "OK",
            "result": {"category": "linear", "list": rows},
            "retExtInfo": {},
            "time": NOW,
        }

    def kline(self, t: int) -> list[str]:
        o, c = price(t), price(t + HOUR)
        running = 0.5 if t + HOUR > NOW else 1.0
        return [str(t), str(o), str(max(o, c) + 5), str(min(o, c) - 5), str(c), str(100 * running), str(1e6)]

    def instrument(self) -> dict[str, Any]:
        return {
            "symbol": self.symbol,
            "status": "Trading",
            "fundingInterval": self.hours * 60,
            "priceFilter": {"minPrice": "0.10", "maxPrice": "1999999.80", "tickSize": self.tick},
            "leverageFilter": {"minLeverage": "1", "maxLeverage": self.leverage, "leverageStep": "0.01"},
            "lotSizeFilter": {
                "maxOrderQty": "1190.000",
                "minOrderQty": "0.001",
                "qtyStep": "0.001",
                "maxMktOrderQty": "500.000",
                "minNotionalValue": "5",
            },
        }


class Handler(BaseHTTPRequestHandler):
    server: Bybit

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        answer = self.server.reply(parts.path, {name: values[0] for name, values in parse_qs(parts.query).items()})
        match self.server.faults.get(len(self.server.asked)):
            case "kill":
                assert self.server.victim is not None
                os.kill(self.server.victim, signal.SIGKILL)
                return
            case "cut off":
                self.close_connection = True
                return
            case "502":
                self.send(502, b"<html>Bad Gateway</html>")
            case "403":
                self.send(403, b"access too frequent")
            case "garbage":
                self.send(200, b"<html>maintenance</html>")
            case "rate limit":
                self.send(200, json.dumps({"retCode": 10006, "retMsg": "Too many visits!", "result": {}}).encode())
            case None:
                self.send(200, json.dumps(answer).encode())

    def send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Bapi-Limit-Reset-Timestamp", "1000")  # long past: pybit's own retry would raise on it
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def bybit() -> Iterator[Bybit]:
    with Bybit() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store("sqlite:///t.db", folder=tmp_path, create=True) as opened:
        yield opened


def fetch(store: Store, bybit: Bybit, *, since_ms: int = SINCE, until_ms: int = NOW) -> bybit_history.Downloaded:
    return download(
        store, "BTCUSDT", "1h", since_ms, until_ms, clock=SimulatedClock(NOW), endpoint=bybit.url, progress=False
    )


def everything(store: Store) -> tuple[bytes, ...]:
    bars = candle_store.load(store, "bybit", "BTCUSDT", "1h")
    arrays = [bars.open_ms, bars.open, bars.high, bars.low, bars.close, bars.volume]
    arrays += [*load_funding(store, "bybit", "BTCUSDT"), *load_open_interest(store, "bybit", "BTCUSDT")]
    return tuple(array.tobytes() for array in arrays)


def assert_whole(store: Store) -> None:
    bars = candle_store.load(store, "bybit", "BTCUSDT", "1h")
    np.testing.assert_array_equal(bars.open_ms, np.arange(SINCE, END, HOUR))
    np.testing.assert_array_equal(bars.close, [price(int(t) + HOUR) for t in bars.open_ms])
    assert set(bars.volume) == {100.0}  # never the half-filled running bar
    stamps, rates = load_funding(store, "bybit", "BTCUSDT")
    np.testing.assert_array_equal(stamps, np.arange(SINCE, END, 8 * HOUR))
    np.testing.assert_allclose(rates, [(t // HOUR % 50) / 1e5 for t in stamps], atol=1e-12)
    stamps, known, values = load_open_interest(store, "bybit", "BTCUSDT")
    np.testing.assert_array_equal(stamps, np.arange(SINCE, END, HOUR))
    np.testing.assert_array_equal(values, [t // HOUR % 1000 + 50_000.5 for t in stamps])
    assert (known > stamps).all()


def test_all_pages_of_all_lists_arrive_and_the_running_bar_does_not(store: Store, bybit: Bybit) -> None:
    done = fetch(store, bybit)
    assert_whole(store)
    assert (done.bars, done.funding, done.open_interest) == (2880, 360, 2880)
    assert done.until_ms == END
    asked = [path.removeprefix("/v5/market/") for path, _ in bybit.asked]
    assert [asked.count(p) for p in (*RULES_PATHS, "kline", "funding/history", "open-interest")] == [1, 1, 3, 2, 15]
    assert load_instrument(store, "bybit", "BTCUSDT", SINCE) == done.instrument


def test_what_is_stored_is_not_asked_for_again(store: Store, bybit: Bybit) -> None:
    fetch(store, bybit, since_ms=SINCE + 1000 * HOUR, until_ms=END - 999 * HOUR)
    bybit.asked.clear()
    fetch(store, bybit)
    assert_whole(store)
    ranges = [(int(q["start"]), int(q["end"])) for path, q in bybit.asked if path.endswith("kline")]
    assert len(ranges) == 2
    assert all(b < SINCE + 1000 * HOUR or a >= END - 1000 * HOUR for a, b in ranges)
    bybit.asked.clear()
    done = fetch(store, bybit)
    assert (done.bars, done.funding, done.open_interest, len(bybit.asked)) == (0, 0, 0, 3)  # rules, tiers, newest bar


@pytest.mark.parametrize("bars_later", [1, 2, 30])
def test_a_bar_stored_while_it_ran_is_asked_for_again(store: Store, bybit: Bybit, bars_later: int) -> None:
    running = END - bars_later * HOUR
    fetch(store, bybit, until_ms=running)
    half = candle_store.load(store, "bybit", "BTCUSDT", "1h", running - HOUR, running)
    half = replace(half, open_ms=half.open_ms + HOUR, volume=np.array([0.5]))
    candle_store.save(store, half)  # as an earlier version did
    done = fetch(store, bybit)
    assert_whole(store)
    assert done.bars == bars_later - 1


FAULTS = ["rate limit", "502", "garbage", "cut off"]


def test_a_passing_fault_costs_nothing(store: Store, bybit: Bybit) -> None:
    bybit.faults = {1 + 3 * i: fault for i, fault in enumerate(FAULTS)}
    done = fetch(store, bybit)
    assert_whole(store)
    assert (done.bars, done.funding, done.open_interest) == (2880, 360, 2880)


def test_a_server_that_stays_away_ends_the_download_and_keeps_its_pages(
    store: Store, bybit: Bybit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    bybit.faults = dict.fromkeys(range(5, 21), "502")
    with pytest.raises(Retryable, match="what is saved stays, run it again") as caught:
        fetch(store, bybit)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 1
    assert len(candle_store.load(store, "bybit", "BTCUSDT", "1h")) == 2000
    bybit.faults = {}
    fetch(store, bybit)
    assert_whole(store)


@pytest.mark.parametrize("at", [3, 5, 8])
def test_a_download_that_is_killed_goes_on_and_loses_and_doubles_nothing(
    tmp_path: Path, store: Store, bybit: Bybit, at: int
) -> None:
    bybit.faults = {at: "kill"}
    code = f"""
import os, sys
from pathlib import Path
from autotrader.core.clock import SimulatedClock
from autotrader.data.bybit_history import download
from autotrader.store.database import open_store
print(os.getpid(), flush=True)
sys.stdin.readline()
with open_store("sqlite:///t.db", folder=Path({str(tmp_path)!r})) as store:
    download(store, "BTCUSDT", "1h", {SINCE}, {NOW}, clock=SimulatedClock({NOW}), endpoint={bybit.url!r}, progress=False)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    bybit.victim = int(process.stdout.readline())
    process.stdin.write("go\n")
    process.stdin.close()
    assert process.wait(60) == -signal.SIGKILL
    process.stdout.close()
    bybit.faults = {}
    fetch(store, bybit)
    assert_whole(store)
    with open_store("sqlite:///other.db", folder=tmp_path, create=True) as other:
        fetch(other, bybit)
        assert everything(other) == everything(store)


def test_a_refusal_is_not_repeated(bybit: Bybit) -> None:
    session = connect(bybit.url)
    with pytest.raises(Rejected, match=r"endTime required \(code 10001\)"):
        ask(session.get_funding_rate_history, category="linear", symbol="BTCUSDT", startTime=SINCE)
    bybit.faults = {2: "403"}
    with pytest.raises(Rejected, match="wait ten minutes"):
        ask(session.get_kline, category="linear", symbol="BTCUSDT", interval="60", start=SINCE, end=END, limit=2)
    assert len(bybit.asked) == 2


def test_nobody_listening_is_said_in_one_line(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(Retryable, match="bybit did not answer get_instruments_info BTCUSDT") as caught:
        download(
            store, "BTCUSDT", "1h", SINCE, END, clock=SimulatedClock(NOW), endpoint="http://127.0.0.1:9", progress=False
        )
    assert "\n" not in str(caught.value)


def test_changed_rules_hold_from_the_day_they_were_seen(store: Store, bybit: Bybit) -> None:
    fetch(store, bybit, since_ms=END - 10 * HOUR)
    bybit.tick = "0.50"
    fetch(store, bybit, since_ms=END - 10 * HOUR)
    assert str(load_instrument(store, "bybit", "BTCUSDT", NOW - 1).rules.tick_size) == "0.10"
    assert str(load_instrument(store, "bybit", "BTCUSDT", NOW).rules.tick_size) == "0.50"


def test_the_venues_own_rules_are_stored_with_their_margin_tiers_and_a_backtest_goes_by_them(
    store: Store, bybit: Bybit, tmp_path: Path
) -> None:
    bybit.symbol, bybit.leverage, bybit.hours = "DOGEUSDT", "25.00", 4
    tiers = (("5000", "2", "4", "25.00"), ("20000", "5", "10", "10.00"), ("90000", "12.5", "25", "4.00"))  # in percent
    bybit.limits = [dict(zip(bybit.limits[0], tier, strict=True)) for tier in tiers][::-1]
    clock = SimulatedClock(NOW)
    done = download(store, "DOGEUSDT", "1h", END - 90 * HOUR, END, clock=clock, endpoint=bybit.url, progress=False)
    found = rules_known(store, "bybit", "DOGEUSDT")
    assert found.ruled is not None and found.ruled.instrument == done.instrument and found.eras == (done.instrument,)
    assert set(found.ruled.sources.values()) == {"stored"}
    rules = done.instrument.rules
    assert (rules.taker_fee, rules.maker_fee) == (Decimal("0.00055"), Decimal("0.0002")), "fees need a key: by the list"
    assert (rules.max_leverage, rules.maintenance_margin, rules.funding_interval_ms) == (25, Decimal("0.02"), 4 * HOUR)
    assert [(int(t.limit), float(t.maintenance_margin), int(t.max_leverage)) for t in rules.margin_tiers] == [
        (5_000, 0.02, 25), (20_000, 0.05, 10), (90_000, 0.125, 4)
    ]  # fmt: skip
    market = load_market(store, "bybit", "DOGEUSDT", "1h", END - 90 * HOUR, END)
    for capital, leverage, margin in ((5_000, 8, 0.02), (30_000, 8, 0.05), (80_000, 4, 0.125), (10**6, 4, 0.125)):
        keys = {
            "symbol": "DOGEUSDT",
            "sizing": "equity_frac",
            "equity_frac": 0.6,
            "initial_capital_usdt": float(capital),
        }
        bot = table_of(BotSettings, {"name": "a", "id": "a", **keys}, place="bot")
        costs = part_for(bot, market.candles, market, Backtest(leverage=8)).costs[0]
        assert (costs["leverage"], costs["maintenance"]) == (leverage, margin), capital
    told = tell(store, "bybit", "DOGEUSDT", {"max_leverage": 50}, now_ms=NOW)
    assert told.ruled is not None and told.ruled.instrument.rules.margin_tiers == ()


def test_wrong_arguments_are_refused_before_anything_is_asked(store: Store, bybit: Bybit) -> None:
    clock = SimulatedClock(NOW)
    for timeframe, since, until, words in (
        ("7m", SINCE, END, "no '7m' bars"),
        ("1h", END, SINCE, "must lie before"),
        ("1h", NOW + HOUR, NOW + 9 * HOUR, "before now"),
    ):
        with pytest.raises(ConfigError, match=words):
            download(store, "BTCUSDT", timeframe, since, until, clock=clock, endpoint=bybit.url)
    assert bybit.asked == []
    with pytest.raises(DataError, match="no linear perpetual 'NOUSDT'"):
        download(store, "NOUSDT", "1h", SINCE, END, clock=clock, endpoint=bybit.url)
    assert candle_store.coverage(store) == []


def test_offline_the_public_address_is_refused_before_a_packet_leaves(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"api\.bybit\.com.*AUTOTRADER_OFFLINE"):
        download(store, "BTCUSDT", "1h", SINCE, END, clock=SimulatedClock(NOW))


def test_progress_goes_to_stderr(store: Store, bybit: Bybit, capsys: pytest.CaptureFixture[str]) -> None:
    download(store, "BTCUSDT", "1h", END - 50 * HOUR, NOW, clock=SimulatedClock(NOW), endpoint=bybit.url, progress=True)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "BTCUSDT 1h: 100%" in printed.err and "50/50" in printed.err


def test_quickstart_takes_the_last_year_from_bybit_when_it_answers(bybit: Bybit, tmp_path: Path) -> None:
    assert supply.unreachable(bybit.url) is None
    settings, written = supply.configured(tmp_path / "config.toml", None, None)
    [bot] = choose(settings, ["sub_bot_A"])
    assert (bot.venue, bot.symbol) == ("bybit", "BTCUSDT") and len(written) == 2
    clock = SimulatedClock(NOW)
    with open_store(settings.database_url, folder=settings.folder, create=True) as store:
        found = supply.supply(store, [bot], None, None, clock=clock, progress=False, endpoint=bybit.url)
        assert found.source == "bybit"
        assert found.brought == (
            f"bybit BTCUSDT 1h: {len(range(SINCE - 50 * HOUR, END, HOUR)):,} new bars to 2025-05-01T00:00:00Z",
        )
        assert period([bot], store) == (SINCE - 50 * HOUR, END)
        again = supply.supply(store, [bot], None, "it is silent", clock=clock, progress=False, endpoint=bybit.url)
        assert (again.source, again.why) == ("stored", "what is stored already: it is silent")


def test_a_bybit_that_does_not_answer_is_said(bybit: Bybit) -> None:
    bybit.faults = {1: "403", 2: "cut off"}
    assert supply.unreachable(bybit.url) == "Bybit's public API answers HTTP 403"
    assert "cannot be reached (ConnectionError)" in str(supply.unreachable(bybit.url))
    assert supply.unreachable() == "AUTOTRADER_OFFLINE is set"
