"""A bot that reads another series decides live on what it would have known in a backtest: bars that come later, never, twice, or after an outage."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from autotrader.config.sections import BotSettings
from autotrader.config.settings import load, write_template
from autotrader.core.clock import SimulatedClock, parse_time
from autotrader.core.errors import ConfigError, DataError
from autotrader.core.market import COLUMNS, Candles
from autotrader.data.instruments import known
from autotrader.data.joined import aligned, load_other, resample
from autotrader.engine.signals import Signals, from_rules
from autotrader.exchange.news import Closed, FeedStatus, SeriesKey
from autotrader.exchange.venues import open_paper
from autotrader.runner import app
from autotrader.runner.lease import Tenure, try_take
from autotrader.runner.live import PATIENCE_MS, Live, LiveBot, others_of
from autotrader.runner.supervisor import Supervisor
from autotrader.store.candles import save
from autotrader.store.database import Store, open_store
from autotrader.store.tables import SystemEvent
from autotrader.strategy.templates import decide, own

HOUR, BARS, STORED = 3_600_000, 64, 40
BEGIN = parse_time("2026-03-01")


def walk(symbol: str, seed: int, price: float) -> Candles:
    rng = np.random.default_rng(seed)
    close = np.round(price * np.exp(np.cumsum(rng.normal(scale=0.004, size=BARS))), 1)
    open_ = np.r_[price, close[:-1]]
    return Candles(
        venue="bybit",
        symbol=symbol,
        timeframe="1h",
        open_ms=BEGIN + HOUR * np.arange(BARS),
        open=open_,
        high=np.maximum(open_, close) + 1.0,
        low=np.minimum(open_, close) - 1.0,
        close=close,
        volume=rng.uniform(10.0, 100.0, size=BARS),
    )


OWN, ETH = walk("BTCUSDT", 1, 60_000.0), walk("ETHUSDT", 2, 3_000.0)
SLOW = resample(ETH, "4h")
WHOLE = OWN.beside(ETH, SLOW)


def pair(candles: Candles) -> Signals:
    other, slow = candles.other("ETHUSDT"), candles.other("ETHUSDT", "4h")
    gap = candles.close / other.close
    long = np.r_[False, np.diff(gap) > 0] & aligned(slow.close > slow.open, slow, candles)
    return from_rules(long=long, short=~long, exit_long=~long, exit_short=long)


class Mute:
    "A feed that says nothing of itself; what it was asked for is kept."

    def start(self, since_ms: dict[SeriesKey, int]) -> None:
        self.since_ms = dict(since_ms)

    def get(self, timeout_s: float) -> None: ...

    def ask_now(self, venue: str, symbol: str, timeframe: str) -> None: ...

    def stop(self) -> None: ...


@dataclass
class Floor:
    "A live bot, the clock, and what its strategy was shown at each decision."

    live: Live
    feed: Mute
    clock: SimulatedClock
    store: Store
    shown: list[Candles] = field(default_factory=list)

    @property
    def player(self) -> LiveBot:
        return self.live.market.bots[0]

    @property
    def decided(self) -> int:
        "Number of the newest bar that was decided on."
        return (self.player.decided_ms - BEGIN) // HOUR

    def at_close(self, bar: int, *, late_ms: int = 200) -> None:
        self.clock.advance_to(max(self.clock.now_ms(), BEGIN + (bar + 1) * HOUR + late_ms))

    def hear(self, series: Candles, bar: int) -> None:
        candle = series[bar : bar + 1]
        self.live.market.hear(
            Closed(venue=series.venue, symbol=series.symbol, timeframe=series.timeframe, candle=candle)
        )

    def wait(self, ms: int) -> None:
        self.clock.advance_to(self.clock.now_ms() + ms)
        self.live.advance(0.0)

    def complaints(self) -> list[str]:
        table = SystemEvent.__table__
        with self.store.read() as connection:
            found = connection.execute(sa.select(table.c.message).where(table.c.event_type == "OTHERS_LATE"))
            return [str(row.message) for row in found]


def settings_of(folder: Path, also: list[str]) -> tuple[BotSettings, Path]:
    write_template(folder)
    first = load(folder / "config.toml").sub_bots[0]
    return BotSettings(**{**first.model_dump(), "symbol": "BTCUSDT", "timeframe": "1h", "also": tuple(also)}), folder


@pytest.fixture
def floor(tmp_path: Path) -> Iterator[Floor]:
    bot, folder = settings_of(tmp_path, ["ETHUSDT", "ETHUSDT 4h"])
    settings = load(folder / "config.toml").model_copy(update={"sub_bots": (bot,)})
    btc = known("bybit", "BTCUSDT")
    assert btc is not None
    with open_store(settings.database_url, folder=folder, create=True) as store:
        for series in (OWN[:STORED], ETH[:STORED]):
            save(store, series)
        clock, feed = SimulatedClock(BEGIN + STORED * HOUR), Mute()
        tenure = try_take(store, clock=clock)
        assert isinstance(tenure, Tenure)
        supervisor = Supervisor(store, risk=settings.risk, clock=clock, tenure=tenure, open_venue=open_paper)
        found = Floor(Live(supervisor, settings, {("bybit", "BTCUSDT"): btc}, feed), feed, clock, store)

        def watched(candles: Candles) -> Signals:
            found.shown.append(candles)
            return pair(candles)

        found.player.strategy = own(watched, warmup=0)
        found.live.market.hear(FeedStatus(is_up=True, why="connected"))
        yield found
        tenure.end()


def assert_as_in_a_backtest(shown: Candles, bar: int) -> None:
    "What was read at a bar, and so what was said, is what the whole series tell of it."
    whole = WHOLE[: bar + 1]
    assert int(shown.open_ms[-1]) == BEGIN + bar * HOUR
    for frame in ("1h", "4h"):
        ours, theirs = (each.other("ETHUSDT", frame) for each in (shown, whole))
        for name in ("open_ms", *COLUMNS):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=f"{name} at bar {bar}")
    assert decide(own(pair, warmup=0), shown).direction[-1] == decide(own(pair, warmup=0), WHOLE).direction[bar]


def test_the_feed_is_asked_for_all_series(floor: Floor) -> None:
    begin = BEGIN + STORED * HOUR
    asked = {key: since for key, since in floor.feed.since_ms.items() if key[2] != "1m"}
    assert asked == {
        ("bybit", "BTCUSDT", "1h"): begin,
        ("bybit", "ETHUSDT", "1h"): begin,
        ("bybit", "ETHUSDT", "4h"): begin,
    }
    assert ("bybit", "ETHUSDT", "1m") not in floor.feed.since_ms
    assert {task.name for task in floor.live.tasks()} >= {"close bybit ETHUSDT 1h", "close bybit ETHUSDT 4h"}


def test_a_bot_waits_for_the_other_bar_of_its_close(floor: Floor) -> None:
    floor.at_close(40)
    floor.hear(OWN, 40)
    floor.wait(PATIENCE_MS - 1_000)
    assert (floor.decided, floor.shown) == (39, [])
    floor.hear(ETH, 40)
    assert floor.decided == 40
    assert_as_in_a_backtest(floor.shown[-1], 40)
    floor.wait(2 * PATIENCE_MS)
    assert (len(floor.shown), floor.complaints()) == (1, [])


def test_an_other_bar_that_comes_first_is_used_and_one_of_later_is_not(floor: Floor) -> None:
    floor.at_close(40)
    floor.hear(ETH, 40)
    assert floor.shown == []
    floor.at_close(41)
    floor.hear(ETH, 41)  # the own bars are behind
    floor.hear(OWN, 40)
    floor.hear(OWN, 41)
    assert floor.decided == 41
    assert_as_in_a_backtest(floor.shown[-2], 40)
    assert_as_in_a_backtest(floor.shown[-1], 41)


def test_a_bar_of_four_hours_is_waited_for_when_it_closes(floor: Floor) -> None:
    for bar in range(40, 44):
        floor.at_close(bar)
        floor.hear(OWN, bar)
        floor.hear(ETH, bar)
        if bar < 43:
            assert floor.decided == bar
    assert floor.decided == 42
    floor.hear(SLOW, 10)
    assert floor.decided == 43
    assert_as_in_a_backtest(floor.shown[-1], 43)


def test_a_bar_heard_twice_changes_nothing(floor: Floor) -> None:
    floor.at_close(40)
    for series in (ETH, ETH, OWN, OWN, ETH):
        floor.hear(series, 40)
    assert (len(floor.shown), floor.decided) == (1, 40)
    assert_as_in_a_backtest(floor.shown[-1], 40)
    floor.hear(replace(ETH, close=ETH.close + 9, high=ETH.high + 9), 40)  # a second answer for a bar that was used
    floor.at_close(41)
    floor.hear(ETH, 41)
    floor.hear(OWN, 41)
    assert_as_in_a_backtest(floor.shown[-1], 41)


def test_patience_ends_and_the_decision_is_on_what_is_known_and_noted(floor: Floor) -> None:
    floor.at_close(40)
    floor.hear(OWN, 40)
    floor.wait(PATIENCE_MS)
    assert floor.decided == 40
    other = floor.shown[-1].other("ETHUSDT")
    assert (other.close[-1], other.volume[-1]) == (ETH.close[39], 0.0)
    (text,) = floor.complaints()
    assert "decides on the bar of 2026-03-02T16:00:00Z without the newest of bybit ETHUSDT 1h" in text
    floor.hear(ETH, 40)  # it comes after all: the next decision knows it
    floor.at_close(41)
    floor.hear(OWN, 41)
    floor.hear(ETH, 41)
    assert_as_in_a_backtest(floor.shown[-1], 41)
    assert len(floor.complaints()) == 1


@pytest.mark.parametrize("own_first", [True, False])
def test_after_an_outage_every_missed_bar_is_decided_as_it_was_known_then(floor: Floor, own_first: bool) -> None:
    floor.at_close(46)
    news = [(OWN, bar) for bar in range(40, 46)], [(ETH, bar) for bar in range(40, 47)] + [(SLOW, 10)]
    for series, bar in (*news[0], *news[1]) if own_first else (*news[1], *news[0]):
        floor.hear(series, bar)
    floor.hear(OWN, 46)  # the present is reached
    assert floor.decided == 46
    assert len(floor.shown) == 7
    for bar, shown in zip(range(40, 47), floor.shown, strict=True):
        assert_as_in_a_backtest(shown, bar)
    assert floor.complaints() == []


def test_after_an_outage_the_others_are_waited_for_once(floor: Floor) -> None:
    floor.at_close(46)
    for bar in range(40, 47):
        floor.hear(OWN, bar)
    assert floor.decided == 39
    for bar in range(40, 44):
        floor.hear(ETH, bar)
    floor.hear(SLOW, 10)
    floor.wait(1_000)
    assert floor.decided == 43
    floor.wait(PATIENCE_MS)
    assert floor.decided == 46  # and the rest on what is known, without waiting for each
    for bar, shown in zip(range(40, 44), floor.shown, strict=False):
        assert_as_in_a_backtest(shown, bar)
    assert len(floor.complaints()) == 3


def test_a_series_that_is_not_stored_is_named(floor: Floor) -> None:
    with pytest.raises(DataError, match=r"bybit DOGEUSDT 1h, wanted beside here: .*stored is nothing"):
        load_other(floor.store, ("bybit", "DOGEUSDT", "1h"), BEGIN, BEGIN + HOUR, beside="here")
    bot = floor.player.settings.model_copy(update={"also": ("DOGEUSDT",)})
    with pytest.raises(DataError, match=f"wanted beside the bars of {bot.id}"):
        others_of(floor.store, bot, floor.player.history, floor.clock.now_ms())


def test_a_series_without_a_live_feed_is_refused_before_anything_trades(floor: Floor, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    bot, folder = settings_of(there, ["binance:SOLUSDT"])
    settings = load(folder / "config.toml").model_copy(update={"sub_bots": (bot,)})
    with pytest.raises(ConfigError, match=f"{bot.id} reads binance SOLUSDT, which has no live feed"):
        app._live(settings, floor.store, floor.clock, app.BYBIT)
