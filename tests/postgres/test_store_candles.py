"""Candles come back bit for bit; what is stored twice is merged, and what fails leaves nothing."""

import threading
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from autotrader.core.clock import DAY_MS
from autotrader.core.errors import DataError, StoreError
from autotrader.core.market import COLUMNS, Candles
from autotrader.store.candles import Coverage, coverage, load, rows, save
from autotrader.store.database import Store, open_store
from autotrader.store.tables import CandleDay

HOUR_MS = 3_600_000
SERIES = ("bybit", "BTCUSDT", "1h")


def bars(stamps: list[int] | np.ndarray, seed: int = 0, *, timeframe: str = "1h", symbol: str = "BTCUSDT") -> Candles:
    "Bars with awkward numbers at the given open stamps."
    random, n = np.random.default_rng(seed), len(stamps)
    opened, closed = random.lognormal(3, 2, (2, n))
    return Candles(
        venue="bybit",
        symbol=symbol,
        timeframe=timeframe,
        open_ms=np.array(stamps, np.int64),
        open=opened,
        high=np.maximum(opened, closed) * (1 + random.random(n)),
        low=np.minimum(opened, closed) * random.uniform(0.1, 1, n),
        close=closed,
        volume=random.lognormal(1, 5, n) * (random.random(n) > 0.1),
    )


def as_dict(candles: Candles) -> dict[int, tuple[float, ...]]:
    return dict(
        zip(
            candles.open_ms.tolist(),
            zip(*(getattr(candles, name).tolist() for name in COLUMNS), strict=True),
            strict=True,
        )
    )


def emptied(store: Store) -> Store:
    with store.begin() as connection:
        connection.execute(sa.delete(CandleDay))
    return store


# hours around the turn of days, with gaps, before 1970 too, and off the grid
HOURS = st.sets(st.integers(-30, 80), min_size=1, max_size=60).map(
    lambda hours: [hour * HOUR_MS for hour in sorted(hours)]
)
STAMPS = HOURS | st.sets(st.integers(-DAY_MS, 2 * DAY_MS), min_size=1, max_size=20).map(sorted)


@settings(max_examples=50)
@given(st.lists(st.tuples(STAMPS, st.integers(0, 1_000)), min_size=1, max_size=4))
def test_saving_is_writing_into_a_dictionary_of_bars(shared_store: Store, batches: list[tuple[list[int], int]]) -> None:
    store, expected = emptied(shared_store), {}
    for stamps, seed in batches:
        batch = as_dict(bars(stamps, seed))
        assert save(store, bars(stamps, seed)) == len(batch.keys() - expected.keys())
        expected |= batch
    loaded = load(store, *SERIES)
    assert as_dict(loaded) == expected
    assert (np.diff(loaded.open_ms) > 0).all()
    [found] = coverage(store)
    assert (found.bars, found.first_ms, found.last_ms) == (len(expected), min(expected), max(expected))


@settings(max_examples=50)
@given(STAMPS, st.integers(-2 * DAY_MS, 3 * DAY_MS), st.integers(0, 3 * DAY_MS))
def test_a_period_holds_its_start_and_not_its_end(
    shared_store: Store, stamps: list[int], since: int, length: int
) -> None:
    store, stored = emptied(shared_store), bars(stamps)
    save(store, stored)
    wanted = {ms: bar for ms, bar in as_dict(stored).items() if since <= ms < since + length}
    if wanted:
        assert as_dict(load(store, *SERIES, since, since + length)) == wanted
    else:
        with pytest.raises(DataError, match="no candles from"):
            load(store, *SERIES, since, since + length)


def test_loaded_arrays_are_plain_and_may_be_written(store: Store) -> None:
    save(store, bars(np.arange(50) * HOUR_MS))
    loaded = load(store, *SERIES)
    for name in ("open_ms", *COLUMNS):
        column = getattr(loaded, name)
        assert column.dtype == (np.int64 if name == "open_ms" else np.float64) and column.dtype.isnative
        assert column.flags.writeable and column.flags.c_contiguous and column.flags.aligned


def test_days_are_stored_as_little_endian_columns(store: Store) -> None:
    stored = bars(np.delete(np.arange(48), 30) * HOUR_MS)
    save(store, stored)
    with store.read() as connection:
        first, second = connection.execute(sa.select(CandleDay.__table__).order_by(CandleDay.day)).all()
    assert first.close == stored.close[:24].astype("<f8").tobytes() and first.open_ms == b""
    assert second.open_ms == stored.open_ms[24:].astype("<i8").tobytes()
    assert [(row.day, row.bars) for row in (first, second)] == [(0, 24), (1, 23)]


def test_coverage_counts_what_is_missing(store: Store) -> None:
    save(store, bars(np.delete(np.arange(72), [5, 30, 31]) * HOUR_MS))
    save(store, bars(np.arange(10) * 60_000, timeframe="1m"))
    save(store, bars([0], symbol="ETHUSDT"))
    assert coverage(store) == [
        Coverage("bybit", "BTCUSDT", "1m", 0, 9 * 60_000, 10, 0),
        Coverage("bybit", "BTCUSDT", "1h", 0, 71 * HOUR_MS, 69, 3),
        Coverage("bybit", "ETHUSDT", "1h", 0, 0, 1, 0),
    ]


def test_rows_for_people_say_the_same(store: Store) -> None:
    stored = bars(np.arange(30) * HOUR_MS)
    save(store, stored)
    frame = rows(store, *SERIES, since_ms=HOUR_MS)
    assert frame.index[0] == pd.Timestamp("1970-01-01 01:00", tz="UTC") and len(frame) == 29
    assert frame["high"].tolist() == stored.high[1:].tolist()


def test_an_empty_store_says_what_to_do(store: Store) -> None:
    with pytest.raises(
        DataError, match=r"bybit BTCUSDT 1h: no candles stored; there is nothing yet \(`autotrader data list`"
    ):
        load(store, *SERIES)


def test_bars_that_cannot_be_traded_on_leave_nothing(store: Store) -> None:
    good = bars(np.arange(100) * HOUR_MS)
    bad = replace(good, low=np.where(np.arange(100) == 99, np.nan, good.low))
    with pytest.raises(DataError, match="bar 99"):
        save(store, bad)
    assert coverage(store) == []


def test_a_failure_in_the_middle_leaves_what_was_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = bars(np.arange(48) * HOUR_MS, seed=1)
    save(store, before)

    def upsert_then_fail(connection: sa.Connection, model: object, rows: list[dict[str, object]]) -> None:
        connection.execute(sa.update(CandleDay).values(close=b""))
        connection.execute(sa.text("SELECT * FROM missing"))

    monkeypatch.setattr("autotrader.store.candles.upsert", upsert_then_fail)
    with pytest.raises(StoreError, match="missing"):
        save(store, bars(np.arange(24, 72) * HOUR_MS, seed=2))
    assert as_dict(load(store, *SERIES)) == as_dict(before)


def test_two_writers_of_one_day_lose_no_bar(any_store_url: str) -> None:
    open_store(any_store_url, create=True).close()
    ready = threading.Barrier(2)

    def writer(offset: int) -> None:
        with open_store(any_store_url) as store:
            ready.wait()
            for minute in range(offset, 60, 2):
                save(store, bars([minute * 60_000], timeframe="1m"))

    threads = [threading.Thread(target=writer, args=(offset,)) for offset in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with open_store(any_store_url) as store:
        assert load(store, "bybit", "BTCUSDT", "1m").open_ms.tolist() == [minute * 60_000 for minute in range(60)]
