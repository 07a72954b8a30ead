"""P6: from a bar's close to the orders at the client; P8: the runner's memory over ten thousand cycles."""

import os
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from autotrader.config.sections import BotRisk, StrategyParams
from autotrader.config.settings import Settings, load, write_template
from autotrader.core.clock import SimulatedClock
from autotrader.core.market import Candles, Instrument
from autotrader.core.ports import Bar, OrderRequest
from autotrader.data.instruments import known
from autotrader.exchange.account import REMEMBERED
from autotrader.exchange.news import Closed, FeedStatus, Slice
from autotrader.exchange.venues import open_paper
from autotrader.runner.lease import Tenure, try_take
from autotrader.runner.live import Live
from autotrader.runner.supervisor import Supervisor
from autotrader.store.candles import save
from autotrader.store.database import Store, open_store
from autotrader.store.series import save_funding, save_open_interest
from autotrader.strategy.setup import newest_signal

MINUTE, HOUR = 60_000, 3_600_000
START = 1_700_000_000_000 // HOUR * HOUR
KNOWN, HEARD = 8_760, 400  # hours: stored before the start, and closing under the clock
PRICES = {"BTCUSDT": 100_000.0, "ETHUSDT": 4_000.0, "SOLUSDT": 200.0}
SHORT = (  # periods with which each strategy changes its mind every four hours
    {"fast": 2, "slow": 3, "gap_atr": 0.0},
    {"period": 3, "oversold": 40.0, "overbought": 60.0},
    {"channel": 3, "exit_channel": 2},
)
REACH_MS = 25.0
MOST = 8  # times what its commits and its strategies cost alone


def market_of(symbol: str) -> Instrument:
    found = known("bybit", symbol)
    assert found is not None
    return found


def wave(symbol: str) -> Candles:
    "A price that rises for four hours and falls for four, by half a percent an hour."
    hours = np.arange(KNOWN + HEARD + 1)
    tick = float(market_of(symbol).rules.tick_size)

    def on_grid(prices: Any) -> Any:
        return np.round(np.round(prices / tick) * tick, 6)

    close = on_grid(PRICES[symbol] * (1 + 0.005 * np.abs(hours % 8 - 4)))
    opens, reach = np.r_[close[0], close[:-1]], on_grid(PRICES[symbol] * 0.001)
    return Candles(
        venue="bybit",
        symbol=symbol,
        timeframe="1h",
        open_ms=START + hours * HOUR,
        open=opens,
        high=on_grid(np.maximum(opens, close) + reach),
        low=on_grid(np.minimum(opens, close) - reach),
        close=close,
        volume=np.full(len(hours), 1e6),
    )


def restless(folder: Path, symbols: tuple[str, ...]) -> Settings:
    "The shipped bots, entries in parts and all, with short periods and nothing that pauses them."
    write_template(folder)
    settings = load(folder / "config.toml")
    bots = [
        bot.model_copy(
            update={
                "symbol": symbol,
                "strategy_params": StrategyParams(tp_ratio=50.0, sl_ratio=10.0, **own),
                "risk": BotRisk(max_drawdown=0.0, daily_loss=0.0, max_losses=0),
            }
        )
        for bot, symbol, own in zip(settings.sub_bots, symbols, SHORT, strict=True)
    ]
    risk = settings.risk.model_copy(update={"max_daily_loss": 0.99})
    return settings.model_copy(update={"sub_bots": tuple(bots), "risk": risk})


def remember(store: Store, candles: Candles) -> None:
    "What a desk has of a market when it starts: bars, funding, open interest."
    save(store, candles[:KNOWN])
    stamps = candles.open_ms[:KNOWN]
    paid = stamps[stamps % (8 * HOUR) == 0]
    save_funding(store, "bybit", candles.symbol, paid, np.full(len(paid), 1e-4))
    save_open_interest(store, "bybit", candles.symbol, stamps, stamps + MINUTE, np.full(len(stamps), 1e4))


class Mute:
    "A feed that says nothing: the test speaks to the market itself."

    def start(self, since_ms: Mapping[tuple[str, str, str], int]) -> None: ...

    def get(self, timeout_s: float) -> None: ...

    def ask_now(self, venue: str, symbol: str, timeframe: str) -> None: ...

    def stop(self) -> None: ...


@dataclass
class Watch:
    "What was spent where since the last close, seconds."

    commit_s: float = 0.0  # writing, all of it
    sync_s: float = 0.0  # of it the database's own commit: the disk
    commits: int = 0
    sent: list[tuple[float, float, float, int]] = field(default_factory=list)  # when, and the sums until then

    def start(self) -> None:
        self.commit_s, self.sync_s, self.commits, self.sent = 0.0, 0.0, 0, []

    def commit(self, writer: Any) -> Callable[..., None]:
        inner = writer.commit

        def commit(**options: Any) -> None:
            begun_s, before = time.perf_counter(), writer.commits
            inner(**options)
            self.commit_s += time.perf_counter() - begun_s
            self.commits += writer.commits - before

        return commit

    def sync(self, inner: Callable[[Any], None]) -> Callable[[Any], None]:
        def do_commit(connection: Any) -> None:
            begun_s = time.perf_counter()
            inner(connection)
            self.sync_s += time.perf_counter() - begun_s

        return do_commit

    def submit(self, inner: Callable[[OrderRequest], None]) -> Callable[[OrderRequest], None]:
        def submit(order: OrderRequest) -> None:
            self.sent.append((time.perf_counter(), self.commit_s, self.sync_s, self.commits))
            inner(order)

        return submit


@dataclass
class Stand:
    "A supervisor of three bots whose market the test plays."

    live: Live
    clock: SimulatedClock
    candles: dict[str, Candles]
    watch: Watch

    def play(self, i: int) -> None:
        "An hour in three pieces: its first minute, the rest, its last minute."
        self.live.market.supervisor.tenure.turn()
        begin = START + i * HOUR
        for since, until in ((0, MINUTE), (MINUTE, HOUR - MINUTE), (HOUR - MINUTE, HOUR)):
            self.clock.advance_to(begin + until)
            for symbol, candles in self.candles.items():
                ends = np.array([candles.open[i], candles.close[i]])
                first, last = market_of(symbol).to_ticks(ends).tolist()
                a, b = (round(first + (last - first) * at / HOUR) for at in (since, until))
                self.live.market.hear(
                    Slice(
                        venue="bybit",
                        symbol=symbol,
                        bar=Bar(
                            open_ms=begin + since,
                            close_ms=begin + until,
                            open=a,
                            high=max(a, b),
                            low=min(a, b),
                            close=b,
                            volume=10**9,
                            mark_high=0,
                            mark_low=0,
                        ),
                    )
                )
            self.live.market.rest()

    def close(self, i: int) -> tuple[float, float]:
        "The bar closes; when it was heard, and what the processor worked."
        self.watch.start()
        worked_s, begun_s = time.thread_time(), time.perf_counter()
        for symbol, candles in self.candles.items():
            self.live.market.hear(Closed(venue="bybit", symbol=symbol, timeframe="1h", candle=candles[i : i + 1]))
        self.live.market.rest()
        return begun_s, time.thread_time() - worked_s

    def ask(self) -> None:
        "All three strategies once, on all they know."
        for bot in self.live.market.bots:
            newest_signal(bot.settings, bot.strategy, bot.history.candles)


@contextmanager
def stand(folder: Path, symbols: tuple[str, ...]) -> Iterator[Stand]:
    settings, watch = restless(folder, symbols), Watch()
    candles = {symbol: wave(symbol) for symbol in dict.fromkeys(symbols)}
    clock = SimulatedClock(START + KNOWN * HOUR)
    with open_store(settings.database_url, folder=settings.folder, create=True) as store:
        for each in candles.values():
            remember(store, each)
        tenure = try_take(store, clock=clock)
        assert isinstance(tenure, Tenure)
        supervisor = Supervisor(store, risk=settings.risk, clock=clock, tenure=tenure, open_venue=open_paper)
        live = Live(supervisor, settings, {("bybit", symbol): market_of(symbol) for symbol in candles}, Mute())
        for bot in live.market.bots:
            paper = bot.session.venue.inner  # type: ignore[attr-defined]
            paper.submit = watch.submit(paper.submit)
        supervisor.writer.commit = watch.commit(supervisor.writer)  # type: ignore[method-assign]
        store.engine.dialect.do_commit = watch.sync(store.engine.dialect.do_commit)  # type: ignore[assignment]
        live.market.hear(FeedStatus(is_up=True, why="connected"))
        yield Stand(live, clock, candles, watch)
        tenure.end()


class Alone:
    "A database of the same make that is only written to: what the disk takes."

    def __init__(self, file: Path) -> None:
        self.lite = sqlite3.connect(file, isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            self.lite.execute(f"PRAGMA {pragma}")
        self.lite.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, record BLOB)")

    def commit(self) -> None:
        self.lite.execute("BEGIN IMMEDIATE")
        self.lite.execute("INSERT INTO rows (record) VALUES (?)", (bytes(8_000),))
        self.lite.execute("COMMIT")


def percentiles(times_s: list[float]) -> str:
    p50, p99 = (np.percentile(times_s, share) * 1e3 for share in (50, 99))
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {max(times_s) * 1e3:.1f} ms"


@pytest.mark.parametrize(
    "symbols", [("BTCUSDT",) * 3, tuple(PRICES)], ids=["three_bots_on_one_market", "three_bots_on_three_markets"]
)
def test_bench_a_bar_close_becomes_orders_in_a_few_commits_time(
    symbols: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = Alone(tmp_path / "alone.db")
    took_s, worked_s, commit_s, sync_s, least_s, commits, orders = ([] for _ in range(7))
    with stand(tmp_path / "desk", symbols) as on:
        for i in range(KNOWN, KNOWN + HEARD):
            on.play(i)
            begun_s, worked = on.close(i)
            if not on.watch.sent:
                continue
            last_s, committing_s, syncing_s, written = on.watch.sent[-1]
            took_s.append(last_s - begun_s)
            worked_s.append(worked)
            commit_s.append(committing_s)
            sync_s.append(syncing_s)
            commits.append(written)
            orders.append(len(on.watch.sent))
            begun_s = time.perf_counter()  # in the same breath, so that a busy machine is as busy for both
            on.ask()
            for _ in range(written):
                alone.commit()
            least_s.append(time.perf_counter() - begun_s)
        sessions = on.live.market.supervisor.sessions.values()
        ended = [len(each.venue.inner.account.book(each.symbol).ended) for each in sessions]  # type: ignore[attr-defined]
        assert not any(each.trouble for each in sessions)
    half, whole = len(took_s) // 2, sum(took_s)
    ratio = statistics.median(took_s) / statistics.median(least_s)
    with capsys.disabled():
        print(
            f"\nP6 {len(took_s)} bar closes of three bots on {len(set(symbols))} market(s), {KNOWN:,} bars known, until the last of "
            f"{statistics.mean(orders):.1f} orders: {percentiles(took_s)} (reach p99 {REACH_MS:g} ms)\n"
            f"   {statistics.mean(commits):.1f} commits before it are {sum(commit_s) / whole:.0%} of the time, the disk alone "
            f"{sum(sync_s) / whole:.0%}; deciding and the rest {1 - sum(commit_s) / whole:.0%}\n"
            f"   processor for all of the event: {percentiles(worked_s)}; first half {percentiles(worked_s[:half])}, "
            f"second half {percentiles(worked_s[half:])}, orders remembered {sum(ended)} of {3 * REMEMBERED}\n"
            f"   {ratio:.1f}× as many bare commits and the strategies alone ({percentiles(least_s)})"
        )
    assert len(took_s) >= 200 and statistics.mean(orders) > 2
    assert ratio <= MOST


CHILD = """
import sys, threading
from pathlib import Path
from autotrader.desk.choice import choose, period
from autotrader.config.settings import load
from autotrader.core.clock import SystemClock
from autotrader.runner.app import run
from autotrader.runner.replay import ReplayPlan
from autotrader.store.database import open_store
settings = load(Path(sys.argv[1]))
with open_store(settings.database_url, create=True) as store:
    since_ms, until_ms = period(choose(settings, []), store)
plan = ReplayPlan(since_ms=since_ms, until_ms=until_ms)
sys.exit(run(settings, clock=SystemClock(), replay=plan, stop=threading.Event(), on_news=print))
"""
LIMIT_MB = 500
SLOPE_MB = 10.0  # per 10,000 cycles: three bots on hours then take more than a year and a half for what is left below the limit


def cycles_in(file: Path) -> int:
    "Bars that the bots have lived through, as of the newest commit."
    if not file.exists():
        return 0
    with sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=10) as lite:
        try:
            return int(lite.execute("SELECT sum(json_extract(cursor, '$.at')) FROM paper_books").fetchone()[0] or 0)
        except sqlite3.OperationalError:  # its tables are being made
            return 0


@pytest.mark.timeout(1800)
def test_bench_ten_thousand_cycles_leave_the_memory_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_template(tmp_path, kind="sample")
    file = tmp_path / "data" / "replay.db"
    command = [sys.executable, "-c", CHILD, str(tmp_path / "config.toml")]
    seen: list[tuple[int, float]] = []  # cycles, MB
    begun_s = time.monotonic()
    child = subprocess.Popen(command, env={**os.environ, "AUTOTRADER_OFFLINE": "1"}, stdout=subprocess.DEVNULL)
    try:
        process = psutil.Process(child.pid)
        while child.poll() is None:
            try:
                memory_mb = process.memory_info().rss / 2**20
            except psutil.NoSuchProcess:
                break
            seen.append((cycles_in(file), memory_mb))
            time.sleep(0.5)
    finally:
        child.kill()
        child.wait()
    cycles, memory = np.array([one for one in seen if one[0] and one[1] > 1]).T
    late = cycles >= cycles[-1] / 2
    slope = float(np.polyfit(cycles[late] / 10_000, memory[late], 1)[0])
    with capsys.disabled():
        shown = np.linspace(0, len(cycles) - 1, 9).astype(int)
        print(
            f"\nP8 {cycles_in(file):,} cycles of three bots in {time.monotonic() - begun_s:.0f} s: at most {memory.max():.0f} MB "
            f"(reach {LIMIT_MB} MB), {slope:+.1f} MB per 10,000 cycles in the second half (reach {SLOPE_MB:g})\n   "
            + ", ".join(f"{cycles[i]:,.0f}: {memory[i]:.0f} MB" for i in shown)
        )
    assert child.returncode == 0 and cycles_in(file) >= 10_000
    assert memory.max() <= LIMIT_MB
    assert slope <= SLOPE_MB
