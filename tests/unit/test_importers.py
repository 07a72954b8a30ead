"""A file is imported whole under the right venue, or refused in one line with nothing written."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from autotrader.core.clock import SystemClock, parse_time
from autotrader.core.errors import AutotraderError, ConfigError, DataError, GapError
from autotrader.core.market import COLUMNS
from autotrader.data.importers import Published, import_file, import_folder, read_file
from autotrader.store import candles as candle_store
from autotrader.store.database import Store, open_store
from autotrader.store.series import load_funding, load_open_interest

HOUR = 3_600_000
START = parse_time("2024-12-31T00:00")
KLINE_HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store("sqlite:///t.db", folder=tmp_path / "db", create=True) as opened:
        yield opened


def frame(n: int = 48, *, start: int = START, step: int = HOUR, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    close = np.round(100 * np.exp(np.cumsum(rng.normal(scale=0.01, size=n))), 2)
    open_ = np.r_[100.0, close[:-1]]
    return pd.DataFrame(
        {
            "open_time": start + step * np.arange(n),
            "open": open_,
            "high": np.maximum(open_, close) + 0.5,
            "low": np.minimum(open_, close) - 0.5,
            "close": close,
            "volume": np.round(rng.uniform(1, 9, n), 3),
        }
    )


def stamped(bars: pd.DataFrame, unit: str = "ms") -> pd.DataFrame:
    return bars.assign(open_time=pd.to_datetime(bars["open_time"], unit="ms", utc=True).dt.as_unit(unit))


def klines(bars: pd.DataFrame, *, header: bool, per_ms: int = 1) -> str:
    lines = io.StringIO()
    rest = pd.DataFrame({f"r{i}": 0 for i in range(6)}, index=bars.index)
    scaled = bars.assign(open_time=bars["open_time"] * per_ms)
    pd.concat([scaled, rest], axis=1).to_csv(lines, index=False, header=False)
    return (KLINE_HEADER + "\n" if header else "") + lines.getvalue()


def write(path: Path, bars: pd.DataFrame, layout: str) -> Path:
    "The same bars in one of the layouts people have."
    if layout.startswith("klines"):
        path.write_text(klines(bars, header="header" in layout, per_ms=1000 if "us" in layout else 1))
    elif layout == "newest first":
        bars[::-1].to_csv(path, index=False)
    elif layout == "pandas csv":
        stamped(bars).set_index("open_time").to_csv(path, index_label="")
    elif layout == "capitals":
        stamped(bars).rename(columns=str.capitalize).rename(columns={"Open_time": "Date"}).to_csv(path, index=False)
    elif layout == "seconds":
        bars.assign(open_time=bars["open_time"] // 1000).to_csv(path, index=False)
    elif layout == "strings":
        bars.astype(str).to_parquet(path)
    elif layout == "ours":
        bars.rename(columns={"open_time": "open_ms"}).assign(
            venue="bybit", symbol="BTCUSDT", timeframe="1h"
        ).to_parquet(path)
    elif layout == "freqtrade":
        stamped(bars).rename(columns={"open_time": "date"}).to_feather(path)
    else:
        stamped(bars, unit=layout.partition(" ")[2]).to_parquet(path)
    return path


LAYOUTS = [
    "klines",
    "klines header",
    "klines us",
    "klines us header",
    "newest first",
    "pandas csv",
    "capitals",
    "seconds",
]
LAYOUTS += ["strings", "ours", "freqtrade", "parquet s", "parquet ms", "parquet us", "parquet ns"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_bars(tmp_path: Path, layout: str) -> None:
    bars = frame()
    ending = (
        ".feather"
        if layout == "freqtrade"
        else ".parquet" if layout in ("strings", "ours") or "parquet" in layout else ".csv"
    )
    (read,) = read_file(write(tmp_path / f"BTC_USDT-1h{ending}", bars, layout), venue="bybit")
    assert (read.venue, read.symbol, read.timeframe) == ("bybit", "BTCUSDT", "1h")
    assert read.open_ms.dtype == np.int64 and read.open_ms.flags.writeable
    np.testing.assert_array_equal(read.open_ms, bars["open_time"])
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(read, name), bars[name])
        assert getattr(read, name).flags.writeable


def test_a_file_that_changes_from_milliseconds_to_microseconds_is_one_series(tmp_path: Path) -> None:
    old, new = klines(frame(24), header=False), klines(frame(24, start=START + 24 * HOUR), header=False, per_ms=1000)
    path = tmp_path / "BTCUSDT.csv"
    path.write_text(old + new)
    (read,) = read_file(path, venue="binance")
    assert set(np.diff(read.open_ms)) == {HOUR}


def test_a_file_of_several_symbols_and_venues_is_taken_apart(tmp_path: Path) -> None:
    parts = [
        stamped(frame(seed=i)).assign(venue=venue, symbol=symbol)
        for i, (venue, symbol) in enumerate([("bybit", "BTCUSDT"), ("bybit", "ETH/USDT"), ("binance", "BTCUSDT")])
    ]
    path = tmp_path / "mixed.parquet"
    pd.concat(parts).astype({"venue": "category", "symbol": "category"}).to_parquet(path)
    keys = [(s.venue, s.symbol) for s in read_file(path)]
    assert keys == [("binance", "BTCUSDT"), ("bybit", "BTCUSDT"), ("bybit", "ETHUSDT")]
    (one,) = read_file(path, venue="bybit", symbol="ETH/USDT")
    np.testing.assert_array_equal(one.close, parts[1]["close"])


def test_two_timeframes_in_one_of_our_files_are_two_series(tmp_path: Path) -> None:
    parts = [
        frame(step=step).assign(venue="bybit", symbol="BTCUSDT", timeframe=tf)
        for tf, step in (("1h", HOUR), ("1m", 60_000))
    ]
    pd.concat(parts).to_parquet(tmp_path / "ours.parquet")
    assert {s.timeframe for s in read_file(tmp_path / "ours.parquet")} == {"1h", "1m"}


def test_funding_and_open_interest_are_known_by_their_columns(tmp_path: Path, store: Store) -> None:
    times = pd.to_datetime(START + 8 * HOUR * np.arange(3), unit="ms", utc=True)
    funding = pd.DataFrame(
        {"venue": ["bybit"] * 3, "symbol": "BTCUSDT", "funding_time": times, "funding_rate": [1e-4, 0.0, -1e-4]}
    )
    funding.to_parquet(tmp_path / "prices_1h.parquet")  # the name says otherwise
    interest = pd.DataFrame(
        {"venue": "hyperliquid", "symbol": "BTCUSDT", "timestamp": times, "oi_usd": [1.0, 2.0, 3.0]}
    )
    interest.to_parquet(tmp_path / "oi.parquet")
    (rates,) = read_file(tmp_path / "prices_1h.parquet")
    assert isinstance(rates, Published) and rates.kind == "funding_rate"
    for path in (tmp_path / "prices_1h.parquet", tmp_path / "oi.parquet"):
        import_file(store, path, clock=SystemClock())
    assert load_funding(store, "bybit", "BTCUSDT")[1].tolist() == [1e-4, 0.0, -1e-4]
    stamps, known, values = load_open_interest(store, "hyperliquid", "BTCUSDT")
    assert values.tolist() == [1.0, 2.0, 3.0] and (known > stamps).all()


def test_open_interest_in_another_unit_than_its_venue_is_kept_in_is_refused(tmp_path: Path) -> None:
    rows = pd.DataFrame({"venue": "bybit", "symbol": "BTCUSDT", "timestamp": [START], "oi_usd": [1.0]})
    rows.to_parquet(tmp_path / "oi.parquet")
    with pytest.raises(DataError, match="kept in coins, column oi_usd is in USD"):
        read_file(tmp_path / "oi.parquet")


def test_an_import_may_be_repeated(tmp_path: Path, store: Store) -> None:
    path = write(tmp_path / "btcusdt_1h.parquet", frame(), "parquet ms")
    for _ in range(2):
        (record,) = import_file(store, path, venue="bybit", clock=SystemClock())
    assert (record.rows, record.kind, record.timeframe) == (48, "candles", "1h")
    assert len(candle_store.load(store, "bybit", "BTCUSDT", "1h")) == 48
    assert "btcusdt_1h.parquet: bybit BTCUSDT 1h, 48 rows, 2024-12-31T00:00:00Z – 2025-01-02T00:00:00Z" in str(record)


# ---------------------------------------------------------------- bad input

BARS = frame()
BAD_FILES: dict[str, tuple[bytes, str]] = {
    "garbage.parquet": (b"PAR1 this was never a table PAR1", "cannot be read"),
    "cut.parquet": (stamped(BARS).to_parquet()[:-200], "cannot be read"),
    "text.parquet": (b"hello", "not Parquet, Feather or CSV"),
    "empty.csv": (b"", "is empty"),
    "header.csv": (b"open_time,open,high,low,close,volume\n", "no rows"),
    "columns.csv": (b"when,price\n1,2\n", "columns when, price fit nothing known"),
    "novolume.csv": (BARS.drop(columns="volume").to_csv(index=False).encode(), "no column volume, so they may be mark or index prices"),
    "ragged.csv": (b"open_time,open,high,low,close,volume\n1,2,3\n", "cannot be read"),
    "short.csv": (b"1735689600000,1,1\n", "no header and 3 columns"),
    "words.csv": (b"open_time,open,high,low,close,volume\n1735689600000,one,1,1,1,1\n", "not a number"),
    "when.csv": (b"open_time,open,high,low,close,volume\nyesterday,1,1,1,1,1\n", "'yesterday', which is not a time"),
    "single.csv": (BARS[:1].to_csv(index=False).encode(), "add `timeframe`"),
    "odd.csv": (frame(step=7 * 60_000).to_csv(index=False).encode(), "7 minutes apart, which is no timeframe"),
    "minus.csv": (BARS.assign(low=-1.0).to_csv(index=False).encode(), "48 impossible bars"),
    "twice.csv": (pd.concat([BARS, BARS[5:8]]).to_csv(index=False).encode(), "3 stamps not after the one before, 3 of them twice"),
    "hole.csv": (BARS.drop(index=range(10, 14)).to_csv(index=False).encode(), "4 bars missing in 1 hole .*`allow_gaps`"),
    "shifted.csv": (BARS.assign(open_time=BARS["open_time"] + 14_789).to_csv(index=False).encode(), "48 stamps off the 1h grid"),
    "nan.csv": (BARS.assign(close=BARS["close"].where(BARS.index != 3)).to_csv(index=False).encode(), "1 impossible bar"),
    "rates.csv": (b"symbol,funding_time,funding_rate\nBTCUSDT,1735689600000,nan\n", "missing or impossible in 1 rows"),
    "rates3.csv": (b"symbol,funding_time,funding_rate\nBTCUSDT,1735689600000,3\n", "missing or impossible in 1 rows"),
    "rates2.csv": (b"symbol,funding_time,funding_rate\nBTCUSDT,1735689600000,0\nBTCUSDT,1735689600000,1\n", "1 stamps twice"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_in_one_line_and_nothing_is_written(tmp_path: Path, store: Store, name: str) -> None:
    content, words = BAD_FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        import_file(store, path, venue="bybit", symbol="BTCUSDT", clock=SystemClock())
    assert "\n" not in str(caught.value) and name in str(caught.value) and caught.value.exit_code == 2
    assert candle_store.coverage(store) == []
    assert load_funding(store, "bybit", "BTCUSDT")[0].size == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "add `venue`"),
        ({"venue": "bybit"}, "add `symbol`"),
        ({"venue": "bybit", "symbol": "BTCUSDT", "timeframe": "1m"}, "60 minutes apart, `timeframe` says 1m"),
        ({"venue": "bybit", "symbol": "BTCUSDT", "timeframe": "7m"}, "timeframe '7m' is not one"),
    ],
)
def test_what_the_file_does_not_say_is_asked_for(tmp_path: Path, options: dict[str, str], words: str) -> None:
    path = write(tmp_path / "prices.parquet", frame(), "parquet ms")
    with pytest.raises((DataError, ConfigError), match=words):
        read_file(path, **options)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.parquet", tmp_path):
        with pytest.raises(DataError, match="is not a file"):
            read_file(path, venue="bybit")


def test_one_bad_symbol_keeps_the_whole_file_out(tmp_path: Path, store: Store) -> None:
    good, bad = frame().assign(symbol="AUSDT"), frame().drop(index=[7]).assign(symbol="BUSDT")
    pd.concat([good, bad]).to_parquet(tmp_path / "bybit_1h.parquet")
    with pytest.raises(GapError, match=r"bybit_1h.parquet: bybit BUSDT 1h: 1 bar missing"):
        import_file(store, tmp_path / "bybit_1h.parquet", clock=SystemClock())
    assert candle_store.coverage(store) == []
    records = import_file(store, tmp_path / "bybit_1h.parquet", allow_gaps=True, clock=SystemClock())
    assert [record.rows for record in records] == [48, 47]


def test_off_grid_bars_are_left_out_only_on_request(tmp_path: Path, store: Store) -> None:
    bars = frame().assign(open_time=lambda f: f["open_time"].where(f.index < 40, f["open_time"] + 14_789))
    bars.to_csv(tmp_path / "btcusdt_1h.csv", index=False)
    for allowed in ({}, {"allow_gaps": True}):
        with pytest.raises(DataError, match=r"8 stamps off the 1h grid .*`skip_off_grid`"):
            import_file(store, tmp_path / "btcusdt_1h.csv", venue="bybit", **allowed, clock=SystemClock())
    (record,) = import_file(store, tmp_path / "btcusdt_1h.csv", venue="bybit", skip_off_grid=True, clock=SystemClock())
    assert (record.rows, record.skipped) == (40, 8)
    assert len(candle_store.load(store, "bybit", "BTCUSDT", "1h")) == 40


def test_a_hole_that_leaving_bars_out_would_open_needs_its_own_permission(tmp_path: Path, store: Store) -> None:
    bars = frame().assign(open_time=lambda f: f["open_time"].where((f.index < 10) | (f.index > 14), f["open_time"] + 1))
    bars.to_csv(tmp_path / "btcusdt_1h.csv", index=False)
    with pytest.raises(GapError, match="5 bars missing"):
        import_file(store, tmp_path / "btcusdt_1h.csv", venue="bybit", skip_off_grid=True, clock=SystemClock())
    assert candle_store.coverage(store) == []
    (record,) = import_file(
        store, tmp_path / "btcusdt_1h.csv", venue="bybit", skip_off_grid=True, allow_gaps=True, clock=SystemClock()
    )
    assert (record.rows, record.skipped) == (43, 5)


def test_a_folder_gives_what_it_has_and_says_what_it_left(tmp_path: Path, store: Store) -> None:
    write(tmp_path / "bybit_btcusdt_1h.parquet", frame(), "parquet ms")
    write(tmp_path / "btcusdt_1h.parquet", frame(), "parquet ms")  # a recorded set: Binance spot
    write(tmp_path / "somebody_ethusdt_1h.parquet", frame(), "parquet ms")
    (tmp_path / "bybit_solusdt_1h.parquet").write_bytes(b"PAR1broken")
    (tmp_path / "README.md").write_text("no data")
    done = import_folder(store, tmp_path, clock=SystemClock())
    assert [(r.venue, r.symbol) for r in done.records] == [("binance", "BTCUSDT"), ("bybit", "BTCUSDT")]
    assert len(done.refused) == 2
    assert any("add `venue`" in line for line in done.refused) and any(
        "cannot be read" in line for line in done.refused
    )
    only = import_folder(store, tmp_path, venue="bybit", timeframe="1h", clock=SystemClock())
    assert [r.venue for r in only.records] == ["bybit"]


def test_a_folder_without_market_data_is_an_error(tmp_path: Path, store: Store) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(AutotraderError, match=r"nothing imported|not a folder"):
            import_folder(store, folder, clock=SystemClock())
