"""Signals on quarters of an hour or hours, fills on minutes: recorded data, from the store to the result."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from autotrader.config.sections import Backtest, BotSettings
from autotrader.core.clock import parse_time
from autotrader.core.market import COLUMNS, Candles
from autotrader.data.joined import load_market, resample
from autotrader.desk.backtest import backtest, backtest_bot
from autotrader.engine.events import Purpose
from autotrader.engine.tape import make_tape
from autotrader.results.result import Result
from autotrader.store import candles as candle_store
from autotrader.store.database import Store, open_store
from autotrader.strategy.setup import simulate

pytestmark = pytest.mark.realdata

MINUTE = 60_000
SINCE, UNTIL = parse_time("2024-03-01"), parse_time("2024-05-01")
FREE = Backtest(taker_fee_bps=0.0, maker_fee_bps=0.0, slippage_bps=0.0, spread_bps=0.0, participation_cap=0.0)
TIGHT = {"sl_ratio": 1.0, "tp_ratio": 1.0}  # both ends of a coarse bar are often reached


@pytest.fixture(scope="module")
def minutes(data_dir: Path) -> Candles:
    frame = pd.read_parquet(data_dir / "btcusdt_1m.parquet")
    stamps = pd.DatetimeIndex(frame["open_time"]).as_unit("ms").asi8
    columns = {name: frame[name].to_numpy(np.float64).copy() for name in COLUMNS}
    series = Candles(venue="binance", symbol="BTCUSDT", timeframe="1m", open_ms=stamps, **columns)
    return series.between(SINCE - 20 * 86_400_000, UNTIL)


@pytest.fixture(scope="module")
def store(minutes: Candles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with open_store("sqlite:///minutes.db", folder=tmp_path_factory.mktemp("minutes"), create=True) as opened:
        candle_store.save(opened, minutes)
        yield opened


def bot(timeframe: str) -> BotSettings:
    return BotSettings(
        name="t", id="t", venue="binance", symbol="BTCUSDT", timeframe=timeframe, sizing="lot", base_lot=0.01, dynamic_sizing={"enabled": False},
        split_entry={"enabled": False}, strategy_params=TIGHT, risk={"max_losses": 0, "daily_loss": 0.0, "max_drawdown": 0.0},
        initial_capital_usdt=100_000,
    )  # fmt: skip


@dataclass
class Played:
    bar_ms: int
    fine: Result
    coarse: Result
    opens: dict[int, float]  # minute → its open
    minutes: Candles


@pytest.fixture(scope="module", params=["15m", "1h"])
def played(request: pytest.FixtureRequest, store: Store, minutes: Candles) -> Played:
    settings = bot(request.param)
    fine = backtest_bot(settings, store, FREE, since_ms=SINCE, until_ms=UNTIL)
    market = load_market(store, "binance", "BTCUSDT", request.param, SINCE, UNTIL, fine=request.param)
    assert market.fine is None
    part = replace(fine.part, tape=make_tape(market.candles, market.instrument))
    coarse = Result(part=part, run=simulate(part))
    bars = minutes.between(SINCE, UNTIL)
    return Played(market.candles.bar_ms, fine, coarse, dict(zip(bars.open_ms.tolist(), bars.open, strict=True)), bars)


def price(result: Result, fill: np.void) -> float:
    return round(float(fill["cost"] / fill["qty"]) * float(result.part.instrument.rules.tick_size), 2)


def test_the_fine_bars_are_minutes_and_the_signals_stand_on_the_bots_own(played: Played) -> None:
    part = played.fine.part
    assert (part.tape.bar_ms, len(part.tape.open_ms)) == (MINUTE, len(played.minutes))
    assert len(part.signals) == len(part.tape.bot_close) == len(played.minutes) * MINUTE // played.bar_ms
    assert set(np.diff(part.bar_open_ms)) == {played.bar_ms}


def test_entries_fill_at_the_open_of_the_minute_after_the_signals_bar(played: Played) -> None:
    result = played.fine
    entries = result.run.fills[result.run.fills["purpose"] == Purpose.ENTRY]
    assert len(entries) > 20
    said = dict(
        zip((result.part.bar_open_ms + played.bar_ms).tolist(), result.part.signals.direction.tolist(), strict=True)
    )
    for fill in entries:
        closed_ms = int(fill["ts_ms"]) // played.bar_ms * played.bar_ms
        assert fill["ts_ms"] == closed_ms  # no gaps in these months: the very next minute
        assert said[closed_ms] == fill["side"]
        assert price(result, fill) == played.opens[closed_ms]


def test_stops_and_targets_fill_within_their_minute(played: Played) -> None:
    result, bars = played.fine, played.minutes
    guards = result.run.fills[np.isin(result.run.fills["purpose"], (Purpose.STOP, Purpose.TARGET))]
    assert len(guards) > 20
    inside = 0
    for fill in guards:
        i = int(np.searchsorted(bars.open_ms, fill["ts_ms"], side="right")) - 1
        assert fill["ts_ms"] == bars.open_ms[i] + MINUTE - 1
        assert bars.low[i] - 0.005 <= price(result, fill) <= bars.high[i] + 0.005
        inside += (int(fill["ts_ms"]) + 1) % played.bar_ms != 0
    assert inside > len(guards) / 2  # and not at the end of the bot's bar


def test_minutes_settle_what_long_bars_leave_open(played: Played) -> None:
    fine, coarse = played.fine.run, played.coarse.run
    assert played.coarse.part.tape.bar_ms == played.bar_ms
    assert coarse.venue["ambiguous"][0] > 5 * fine.venue["ambiguous"][0]
    assert coarse.venue["ambiguous"][0] > 0
    assert played.coarse.stats.ambiguous == coarse.venue["ambiguous"][0]


def test_an_entry_that_both_take_is_the_same_entry(played: Played) -> None:
    fine, coarse = played.fine, played.coarse
    both = set(fine.run.fills["ts_ms"][fine.run.fills["purpose"] == Purpose.ENTRY]) & set(
        coarse.run.fills["ts_ms"][coarse.run.fills["purpose"] == Purpose.ENTRY]
    )
    assert len(both) > 20
    for ts_ms in both:
        (a,), (b,) = (
            r.run.fills[(r.run.fills["ts_ms"] == ts_ms) & (r.run.fills["purpose"] == Purpose.ENTRY)]
            for r in (fine, coarse)
        )
        assert (a["side"], a["cost"], a["qty"]) == (b["side"], b["cost"], b["qty"])


def test_bars_made_by_hand_and_minutes_beside_them_give_what_the_store_gives(played: Played, minutes: Candles) -> None:
    timeframe = played.fine.part.settings.timeframe
    candles = resample(minutes, timeframe).between(SINCE, UNTIL)
    settings = bot(timeframe).model_dump(exclude={"venue", "symbol", "timeframe", "decision"})
    found = backtest("ema_trend", candles, bot=settings, costs=FREE.model_dump(), fine=minutes.between(SINCE, UNTIL))
    late = SINCE + 10 * 86_400_000  # by then the averages have forgotten where they began
    assert found.part.tape.close.tobytes() == played.fine.part.tape.close.tobytes()
    assert found.part.tape.bot_bar.tobytes() == played.fine.part.tape.bot_bar.tobytes()
    assert (found.run.fills["ts_ms"] > late).sum() > 20
