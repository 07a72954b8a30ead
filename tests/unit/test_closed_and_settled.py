"""A bar that has not closed is not stored as one that has, and funding is paid by whoever holds at the settlement, whatever its stamp."""

import os
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from series import length

import autotrader as at
from autotrader import Signals
from autotrader.config.settings import write_template
from autotrader.core.clock import SimulatedClock, timeframe_ms
from autotrader.core.errors import DataError
from autotrader.core.market import COLUMNS, Candles
from autotrader.data.bybit_history import holes
from autotrader.data.importers import import_file
from autotrader.data.instruments import known
from autotrader.data.joined import load_market
from autotrader.exchange.backfill import BackfillAnswer, BackfillRequest, ask_venue, open_market, take_answer
from autotrader.exchange.news import Funding
from autotrader.store import candles as candle_store
from autotrader.store.database import Store, open_store
from autotrader.store.series import load_funding, save_funding, settled_ms
from autotrader.store.tables import FundingRate
from autotrader.strategy.templates import own

HOUR = 3_600_000
BEGIN = 1_704_067_200_000  # 2024-01-01
LATE = 60_000
WIDE = {"strategy_params": {"sl_ratio": 20, "tp_ratio": 20}}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store("sqlite:///a.db", folder=tmp_path, create=True) as opened:
        yield opened


def bars(n: int, timeframe: str = "1h", *, seed: int = 3) -> Candles:
    rng = np.random.default_rng(seed)
    close = np.round(30_000 * np.exp(np.cumsum(rng.normal(scale=0.002, size=n))), 1)
    open_ = np.r_[30_000.0, close[:-1]]
    columns = {"open": open_, "high": np.maximum(open_, close) + 5, "low": np.minimum(open_, close) - 5, "close": close}
    stamps = BEGIN + timeframe_ms(timeframe) * np.arange(n, dtype=np.int64)
    return Candles(
        venue="bybit", symbol="BTCUSDT", timeframe=timeframe, open_ms=stamps, **columns, volume=np.full(n, 9.0)
    )


def write(path: Path, candles: Candles, written_ms: int | None = None) -> Path:
    frame = pd.DataFrame({"timestamp": candles.open_ms} | {name: getattr(candles, name) for name in COLUMNS})
    frame.to_csv(path, index=False)
    if written_ms is not None:
        os.utime(path, ns=(written_ms * 1_000_000,) * 2)
    return path


# ---------------------------------------------------------------- bars


@pytest.mark.parametrize("timeframe", ["1m", "15m", "1h", "4h", "1d"])
@pytest.mark.parametrize("after_frac", [0.0, 0.001, 0.5, 0.999, 1.0, 3.0])
def test_only_closed_bars_are_stored(tmp_path: Path, store: Store, timeframe: str, after_frac: float) -> None:
    candles = bars(20, timeframe)
    now_ms = int(candles.open_ms[-1] + after_frac * candles.bar_ms)
    (record,) = import_file(store, write(tmp_path / "bybit_btcusdt.csv", candles), clock=SimulatedClock(now_ms))
    stored = candle_store.load(store, "bybit", "BTCUSDT", timeframe)
    assert (stored.open_ms + stored.bar_ms <= now_ms).all()
    assert record.unclosed == 20 - len(stored) == (after_frac < 1)
    assert ("1 left out that had not closed yet" in str(record)) == (after_frac < 1)


def test_a_bar_that_ran_while_the_file_was_written_is_left_out_for_ever(tmp_path: Path, store: Store) -> None:
    candles = bars(20)
    path = write(tmp_path / "bybit_btcusdt_1h.csv", candles, int(candles.open_ms[-1]) + HOUR // 2)
    (record,) = import_file(store, path, clock=SimulatedClock(BEGIN + 1000 * HOUR))
    assert (record.rows, record.unclosed) == (19, 1)


@pytest.mark.parametrize("written_ms", [0, BEGIN - HOUR, BEGIN + 5 * HOUR, BEGIN + 20 * HOUR, BEGIN + 999 * HOUR])
def test_a_file_time_outside_the_last_bar_says_nothing(tmp_path: Path, store: Store, written_ms: int) -> None:
    path = write(tmp_path / "bybit_btcusdt_1h.csv", bars(20), written_ms)
    (record,) = import_file(store, path, clock=SimulatedClock(BEGIN + 1000 * HOUR))
    assert (record.rows, record.unclosed) == (20, 0)


def test_a_file_of_nothing_but_a_running_bar_is_refused(tmp_path: Path, store: Store) -> None:
    path = write(tmp_path / "bybit_btcusdt_1h.csv", bars(1))
    with pytest.raises(DataError, match=r"bybit_btcusdt_1h\.csv: nothing in it has closed by 2024-01-01T00:30:00Z"):
        import_file(store, path, clock=SimulatedClock(BEGIN + HOUR // 2), timeframe="1h")


def test_a_stored_bar_that_ran_on_is_taken_anew_from_a_file_and_another_is_not(tmp_path: Path, store: Store) -> None:
    whole = bars(20)
    half = replace(whole, **{name: getattr(whole, name)[:10].copy() for name in ("open_ms", *COLUMNS)})
    half.high[-1], half.low[-1], half.close[-1], half.volume[-1] = *3 * [half.open[-1]], 1.0
    candle_store.save(store, half)  # as an earlier version did
    clock = SimulatedClock(BEGIN + 1000 * HOUR)
    import_file(store, write(tmp_path / "bybit_btcusdt_1h.csv", whole), clock=clock)
    np.testing.assert_array_equal(candle_store.load(store, "bybit", "BTCUSDT", "1h").close, whole.close)
    other = replace(whole, close=whole.close.copy(), low=whole.low - 100)
    with pytest.raises(DataError, match="20 of 20 values stored"):
        import_file(store, write(tmp_path / "bybit_btcusdt_1h.csv", other), clock=clock)


@given(st.sets(st.integers(0, 60), min_size=1), st.integers(0, 60), st.integers(1, 80))
def test_every_missing_stamp_and_the_one_before_it_is_asked_for(have: set[int], since: int, hours: int) -> None:
    stamps, until = HOUR * np.array(sorted(have), dtype=np.int64), since + hours
    asked = holes(stamps, since * HOUR, until * HOUR, HOUR)
    wanted = {h for a, b in asked for h in range(-(-a // HOUR), b // HOUR + 1)}
    missing = set(range(since, until)) - have
    assert wanted == missing | {h for h in have if since <= h < until and h + 1 in missing}
    assert [a for a, _ in asked] == sorted({a for a, _ in asked}, reverse=True)


# ---------------------------------------------------------------- funding

offsets = st.lists(st.integers(-LATE, LATE), min_size=38, max_size=38)


@given(offsets)
@settings(max_examples=length(15, soak=500))
def test_any_stamp_near_the_settlement_is_the_settlement(
    tmp_path_factory: pytest.TempPathFactory, late: list[int]
) -> None:
    exact, rates = BEGIN + 8 * HOUR * np.arange(38), np.random.default_rng(0).normal(0, 1e-4, 38)
    with open_store("sqlite:///a.db", folder=tmp_path_factory.mktemp("f"), create=True) as store:
        candle_store.save(store, bars(300))
        save_funding(store, "bybit", "BTCUSDT", exact + np.array(late), rates)
        found, values = load_funding(store, "bybit", "BTCUSDT", int(exact[3]), int(exact[30]))
        assert found.tolist() == exact[3:30].tolist() and values.tolist() == rates[3:30].tolist()
        paid = load_market(store, "bybit", "BTCUSDT", "1h", BEGIN, BEGIN + 300 * HOUR).funding
        assert paid.ts_ms.tolist() == exact.tolist() and not len(paid.missing_ms)


@given(st.integers(-(2**40), 2**42), st.integers(-(2**20), 2**20))
def test_a_settlement_is_near_its_stamp_and_settles_once(stamp: int, late: int) -> None:
    (once,) = settled_ms([stamp + late])
    assert abs(int(once) - stamp - late) <= LATE and settled_ms([once]) == [once]


def test_stamps_stored_raw_meet_their_settlement_too_and_the_exact_one_counts(store: Store) -> None:
    with store.begin() as connection:  # as an earlier version did
        rows = [{"ts_ms": BEGIN + 8 * HOUR * i + 7, "rate": i / 1e4} for i in range(4)]
        connection.execute(
            FundingRate.__table__.insert(), [row | {"venue": "bybit", "symbol": "BTCUSDT"} for row in rows]
        )
    save_funding(store, "bybit", "BTCUSDT", [BEGIN + 8 * HOUR], [0.5])
    found, rates = load_funding(store, "bybit", "BTCUSDT", BEGIN, BEGIN + 24 * HOUR)
    assert found.tolist() == [BEGIN, BEGIN + 8 * HOUR, BEGIN + 16 * HOUR] and rates.tolist() == [0.0, 0.5, 2e-4]


@pytest.mark.parametrize(("first", "last"), [(239, 252), (240, 248), (241, 249), (247, 248), (239, 240)])
def test_a_late_stamp_changes_nobodys_payment(tmp_path: Path, first: int, last: int) -> None:
    "A position opened at 08:00:00.000 pays nothing at 08:00, one closed then does; in both recordings."

    def strategy(candles: Candles) -> Signals:
        n = len(candles)
        entry, leave = np.zeros(n, np.int8), np.zeros(n, np.int8)
        entry[first - 1], leave[last - 1] = 1, 1  # filled at the next open
        return Signals(entry, leave, np.ones(n))

    told = []
    for late_ms in (0, 7, 1_500, -3):
        desk = tmp_path / str(late_ms)
        desk.mkdir()
        write_template(desk, kind="config")
        with chdir(desk):
            with open_store("sqlite:///data/autotrader.db", folder=desk, create=True) as store:
                candle_store.save(store, bars(300))
                save_funding(
                    store, "bybit", "BTCUSDT", BEGIN + 8 * HOUR * np.arange(38) + late_ms, 0.001 * np.arange(38)
                )
            result = at.backtest(own(strategy, warmup=0), at.load("BTCUSDT"), bot=WIDE)
            told.append((result.stats.funding, result.stats.pnl, result.stats.trades))
    assert len(set(told)) == 1 and told[0][2] == 1
    stamps = [hour for hour in (240, 248) if first < hour <= last]
    assert (told[0][0] != 0) == bool(stamps)


@pytest.mark.parametrize("late_ms", [0, 7, 900])
def test_the_live_feed_pays_once_at_the_settlement(late_ms: int) -> None:
    instrument = known("bybit", "BTCUSDT")
    assert instrument is not None
    settled = BEGIN + 8 * HOUR

    class Session:
        def get_funding_rate_history(self, **query: object) -> dict[str, object]:
            row = {"fundingRateTimestamp": str(settled + late_ms), "fundingRate": "0.0003"}
            return {"result": {"list": [row]}}

    market = open_market(instrument, ["1h"], {"1m": settled - HOUR}, settled - HOUR)
    question = BackfillRequest(
        symbol="BTCUSDT", now_ms=settled + HOUR, until_ms=settled + HOUR, first_ms={}, funding_ms=settled - HOUR
    )
    for _ in range(2):
        answer: BackfillAnswer = ask_venue(Session(), question, lambda: False)
        take_answer(market, answer)
    assert [(news.ts_ms, news.rate) for news in market.dues.ready if isinstance(news, Funding)] == [(settled, 0.0003)]
    assert dict(market.unsaved_rates) == {settled: 0.0003}
