"""The recorded market data: read right, judged right, joined right."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from autotrader.core.clock import SystemClock, iso, parse_time
from autotrader.core.errors import DataError, GapError
from autotrader.core.market import COLUMNS, Candles, check
from autotrader.data import instruments
from autotrader.data.importers import import_file, import_folder, read_file
from autotrader.data.joined import load_market, resample
from autotrader.data.quality import report
from autotrader.features.columns import column
from autotrader.features.feature_set import FEATURES, RUN_IN_BARS, feature_matrix, newest_features
from autotrader.store import candles as candle_store
from autotrader.store.database import Store, open_store

pytestmark = pytest.mark.realdata

BEST = (parse_time("2025-03-08"), parse_time("2026-03-05"))


@pytest.fixture(scope="module")
def perps(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    "What `quickstart --data` imports: Bybit's hours, all funding, all open interest."
    with open_store("sqlite:///t.db", folder=tmp_path_factory.mktemp("db"), create=True) as store:
        import_folder(store, data_dir, venue="bybit", timeframe="1h", clock=SystemClock())
        yield store


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Store]:
    with open_store("sqlite:///t.db", folder=tmp_path, create=True) as store:
        yield store


def hours(data_dir: Path) -> dict[str, Candles]:
    return {s.symbol: s for s in read_file(data_dir / "bybit_perp_1h.parquet") if isinstance(s, Candles)}


def test_the_folder_gives_three_perpetuals_with_funding_and_open_interest(perps: Store, data_dir: Path) -> None:
    stored = [(c.venue, c.symbol, c.timeframe, c.bars, c.missing) for c in candle_store.coverage(perps)]
    assert stored == [("bybit", f"{coin}USDT", "1h", 8736, 0) for coin in ("BTC", "ETH", "SOL")]
    done = import_folder(perps, data_dir, venue="bybit", timeframe="1h", clock=SystemClock())
    kinds = [r.kind for r in done.records]
    assert (kinds.count("candles"), kinds.count("funding_rate"), kinds.count("open_interest")) == (3, 6, 3)
    assert done.refused == ()


def test_a_file_comes_back_from_the_store_bit_for_bit(perps: Store, data_dir: Path) -> None:
    frame = pd.read_parquet(data_dir / "bybit_perp_1h.parquet")
    for symbol, rows in frame.groupby("symbol", observed=True):
        loaded = candle_store.load(perps, "bybit", str(symbol), "1h")
        for name in COLUMNS:
            np.testing.assert_array_equal(getattr(loaded, name), rows[name])
        assert iso(int(loaded.open_ms[0])) == rows["open_time"].iloc[0].strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize("coin", ["BTC", "ETH", "SOL"])
def test_the_best_set_is_whole_for_every_bot(perps: Store, coin: str) -> None:
    market = load_market(perps, "bybit", f"{coin}USDT", "1h", *BEST)
    check(market.candles)
    assert len(market.candles) == (BEST[1] - BEST[0]) // 3_600_000
    assert market.instrument == instruments.known("bybit", f"{coin}USDT")
    assert market.fine is None and "no 1m bars stored" in str(market.notes)
    rates, interest = market.candles.extras["funding_rate"], market.candles.extras["open_interest"]
    assert np.isnan(rates[:16]).all() and np.isfinite(rates[16:]).all()  # the recording begins at 16:00
    assert 0.99 < np.isfinite(interest).mean() < 1
    assert "it is hyperliquid's in USD, not bybit's" in str(market.notes)
    assert "missing 2026-01-1" in str(market.notes) or "2026-01-1" in str(market.notes)
    assert [iso(int(ms)) for ms in market.funding.missing_ms] == ["2025-03-08T00:00:00Z", "2025-03-08T08:00:00Z"]
    assert np.abs(market.funding.rate).max() < 0.01 and len(market.funding.ts_ms) == 362 * 3 - 2


def test_joined_funding_is_what_had_been_paid_by_then(perps: Store, data_dir: Path) -> None:
    market = load_market(perps, "bybit", "BTCUSDT", "1h", *BEST)
    raw = pd.read_parquet(data_dir / "btcusdt_funding.parquet")
    raw = raw[raw["venue"] == "bybit"].assign(
        known=lambda f: (f["funding_time"] + pd.Timedelta(minutes=1)).dt.as_unit("ms")
    )
    closes = pd.to_datetime(market.candles.open_ms + 3_600_000, unit="ms", utc=True).as_unit("ms")
    theirs = pd.merge_asof(
        pd.DataFrame({"close": closes}), raw[["known", "funding_rate"]], left_on="close", right_on="known",
        tolerance=pd.Timedelta(hours=16),
    )["funding_rate"]  # fmt: skip
    np.testing.assert_array_equal(market.candles.extras["funding_rate"], theirs)


def test_the_hole_in_open_interest_is_a_hole(perps: Store) -> None:
    market = load_market(perps, "bybit", "BTCUSDT", "1h", parse_time("2026-01-18"), parse_time("2026-01-20"))
    missing = [iso(int(ms)) for ms in market.candles.open_ms[np.isnan(market.candles.extras["open_interest"])]]
    assert (missing[0], missing[-1], len(missing)) == ("2026-01-19T01:00:00Z", "2026-01-19T17:00:00Z", 17)


def test_five_minutes_make_exactly_the_hours(data_dir: Path) -> None:
    for short in read_file(data_dir / "bybit_perp_5m.parquet"):
        assert isinstance(short, Candles)
        made = resample(short, "1h")
        given = hours(data_dir)[short.symbol].between(int(made.open_ms[0]), int(made.open_ms[-1]) + 1)
        assert len(made) == len(short) // 12 == len(given)
        for name in ("open_ms", "open", "high", "low", "close"):
            np.testing.assert_array_equal(getattr(made, name), getattr(given, name))
        np.testing.assert_allclose(made.volume, given.volume, rtol=1e-12)


def test_a_year_of_minutes_serves_fills_and_longer_bars(data_dir: Path, empty: Store) -> None:
    (record,) = import_file(empty, data_dir / "btcusdt_1m.parquet", venue="binance", clock=SystemClock())
    assert (record.symbol, record.timeframe, record.rows) == ("BTCUSDT", "1m", 1_183_680)
    since, until = parse_time("2024-07-01"), parse_time("2025-07-01")
    market = load_market(empty, "binance", "BTCUSDT", "1h", since, until)
    assert market.fine is not None and (len(market.fine), len(market.candles)) == (525_600, 8_760)
    assert market.instrument.kind == "spot" and not market.funding.ts_ms.size
    (recorded,) = read_file(data_dir / "btcusdt_1h.parquet", venue="binance")
    assert isinstance(recorded, Candles)
    given = recorded.between(since, until)
    for name in ("open_ms", "open", "high", "low", "close"):
        np.testing.assert_array_equal(getattr(market.candles, name), getattr(given, name))
    np.testing.assert_allclose(market.candles.volume, given.volume, rtol=1e-9)


def test_the_dirty_file_is_refused_until_both_faults_are_allowed(data_dir: Path, empty: Store) -> None:
    path = data_dir / "btcusdt_1m_dirty_2018q1.parquet"
    with pytest.raises(DataError) as caught:
        import_file(empty, path, venue="binance", clock=SystemClock())
    line = str(caught.value)
    for words in (
        "btcusdt_1m_dirty_2018q1.parquet",
        "1201 stamps off the 1m grid (first 2018-02-09T09:59:14.789Z)",
        "2184 bars missing in 4 holes (first after 2018-01-04T03:00:00Z, longest 33.5 h)",
        "`skip_off_grid`",
        "`allow_gaps`",
    ):
        assert words in line
    assert "\n" not in line and candle_store.coverage(empty) == []
    with pytest.raises(GapError):
        import_file(empty, path, venue="binance", skip_off_grid=True, clock=SystemClock())
    (record,) = import_file(empty, path, venue="binance", skip_off_grid=True, allow_gaps=True, clock=SystemClock())
    assert (record.rows, record.skipped) == (127_416 - 1_201, 1_201)
    market = load_market(empty, "binance", "BTCUSDT", "1h", parse_time("2018-01-01"), parse_time("2018-04-01"))
    assert "incomplete 1h bars left out" in str(market.notes) and "bars missing in" in str(market.notes)
    assert (np.diff(market.candles.open_ms) % 3_600_000 == 0).all()


def test_exchange_halts_are_counted(data_dir: Path) -> None:
    for name in ("btcusdt_1h", "ethusdt_1h"):
        (read,) = read_file(data_dir / f"{name}.parquet", venue="binance")
        assert isinstance(read, Candles)
        found = report(read)
        gap, partial = found.find("gap"), found.find("partial")
        assert gap is not None and partial is not None
        assert (gap.missing, len(gap.bars), len(partial.bars)) == (127, 28, 56)
        assert found.find("impossible") is None and found.find("off_grid") is None


def test_the_crash_of_october_is_marked_and_kept(data_dir: Path) -> None:
    for series in hours(data_dir).values():
        found = report(series)
        spike = found.find("spike")
        assert spike is not None
        assert "2025-10-10T21:00:00Z" in [iso(int(series.open_ms[i])) for i in spike.bars]
        assert len(spike.bars) <= 3 and not any(f.is_blocking for f in found.findings)


@pytest.mark.parametrize("file", ["bybit_perp_1h", "bybit_perp_5m", "btcusdt_1m", "ethusdt_1m"])
def test_tabled_ticks_and_steps_fit_every_recorded_number(data_dir: Path, file: str) -> None:
    for series in read_file(data_dir / f"{file}.parquet", venue=None if "bybit" in file else "binance"):
        assert isinstance(series, Candles)
        tabled = instruments.known(series.venue, series.symbol)
        assert tabled is not None
        guessed = instruments.infer(series).instrument
        assert guessed.rules.tick_size == tabled.rules.tick_size
        tick = float(tabled.rules.tick_size)
        for name in ("open", "high", "low", "close"):
            prices = getattr(series, name)
            np.testing.assert_allclose(tabled.to_ticks(prices) * tick, prices, rtol=1e-12)
        fits = np.isclose(tabled.to_steps(series.volume) * float(tabled.rules.qty_step), series.volume, rtol=1e-9)
        assert fits.mean() > 0.999


def test_open_interest_of_the_venue_itself_comes_first(perps: Store, data_dir: Path) -> None:
    from autotrader.store.series import save_open_interest

    since, until = parse_time("2025-06-01"), parse_time("2025-06-02")
    stamps = np.arange(since, until, 3_600_000)
    save_open_interest(perps, "bybit", "SOLUSDT", stamps, stamps + 1, np.arange(len(stamps)) + 1.0)
    market = load_market(perps, "bybit", "SOLUSDT", "1h", since, until)
    assert np.nanmax(market.candles.extras["open_interest"]) <= 24
    assert "hyperliquid" not in str(market.notes)
    assert replace(market.candles, notes=()).notes == ()


CROWD = {"funding_rate", "open_interest"}


@pytest.mark.parametrize("venue", ["bybit", "binance"])
def test_a_model_sees_what_the_venue_publishes(perps: Store, data_dir: Path, venue: str) -> None:
    "Bybit's hours with funding and open interest as they were known, Binance's without."
    if venue == "bybit":
        candles = load_market(perps, "bybit", "BTCUSDT", "1h", *BEST).candles
    else:
        (candles,) = read_file(data_dir / "btcusdt_1h.parquet", venue="binance")
        assert isinstance(candles, Candles)
        candles = candles[-10_000:]
    assert set(candles.extras) == (CROWD if venue == "bybit" else set())
    values = feature_matrix(candles)
    known = dict(zip([each.label for each in FEATURES], np.isfinite(values[RUN_IN_BARS:]).mean(axis=0), strict=True))
    crowd = [known.pop(each.label) for each in FEATURES if CROWD & set(column(each.name).inputs)]
    assert {label: share for label, share in known.items() if share < 0.999} == {}
    assert min(crowd) > 0.95 if venue == "bybit" else max(crowd) == 0.0
    for bars in (2, 900, 5_000, len(candles)):
        assert np.array_equal(newest_features(candles[:bars]), values[bars - 1], equal_nan=True)
