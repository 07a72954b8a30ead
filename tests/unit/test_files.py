"""Files as venues, collectors and people keep them: packed, with a preamble, in local time, by the week, of several coins."""

import gzip
import io
import json
import sys
import zipfile
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import autotrader as at
from autotrader.cli.main import main
from autotrader.config import logs
from autotrader.config.settings import write_template
from autotrader.core.clock import SystemClock, timeframe_ms
from autotrader.core.errors import AutotraderError, ConfigError, DataError
from autotrader.core.market import COLUMNS, Candles
from autotrader.data.formats import stamps, zone_of
from autotrader.data.importers import Published, import_file, import_folder, read_file
from autotrader.store import candles as candle_store
from autotrader.store.database import Store, open_store
from autotrader.store.series import load_funding, load_open_interest

HOUR, DAY = 3_600_000, 86_400_000
BEGIN = 1_704_067_200_000  # 2024-01-01, a Monday


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store("sqlite:///a.db", folder=tmp_path / "db", create=True) as opened:
        yield opened


def bars(n: int = 48, *, step: int = HOUR, begin: int = BEGIN, seed: int = 2) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    close = np.round(100 * np.exp(np.cumsum(rng.normal(scale=0.02, size=n))), 2)
    opened = np.r_[100.0, close[:-1]]
    return pd.DataFrame(
        {
            "timestamp": begin + step * np.arange(n),
            "open": opened,
            "high": np.maximum(opened, close) + 0.5,
            "low": np.minimum(opened, close) - 0.5,
            "close": close,
            "volume": np.round(rng.uniform(1, 9, n), 3),
        }
    )


def same(read: object, frame: pd.DataFrame) -> bool:
    assert isinstance(read, Candles)
    np.testing.assert_array_equal(read.open_ms, frame["timestamp"])
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(read, name), frame[name])
    return True


def run(folder: Path, *words: object) -> tuple[int, str, str]:
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["autotrader", *map(str, words)]
    try:
        with chdir(folder), redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
            main()
    finally:
        sys.argv = before
        logs.shutdown()
    return int(end.value.code or 0), out.getvalue(), err.getvalue()


# ---------------------------------------------------------------- packed


@pytest.mark.parametrize("inside", ["csv", "parquet", "feather"])
@pytest.mark.parametrize("packed", ["gz", "zip"])
def test_a_packed_file_is_its_content(tmp_path: Path, inside: str, packed: str) -> None:
    frame, content = bars(), io.BytesIO()
    if inside == "csv":
        content.write(frame.to_csv(index=False).encode())
    else:
        getattr(frame, f"to_{inside}")(content)
    name = f"BTCUSDT-1h-2024-01.{inside}"
    if packed == "gz":
        path = tmp_path / f"{name}.gz"
        path.write_bytes(gzip.compress(content.getvalue()))
    else:
        path = tmp_path / "whatever.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"um/monthly/{name}", content.getvalue())
            archive.writestr(f"um/monthly/{name}.CHECKSUM", "0")
    (read,) = read_file(path, venue="binance")
    assert same(read, frame) and (read.symbol, read.timeframe) == ("BTCUSDT", "1h")


def test_an_archive_of_several_files_is_taken_whole_or_not_at_all(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "months.zip"
    for broken in (False, True):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("BTCUSDT-1h-2024-01.csv", bars().to_csv(index=False))
            second = bars(begin=BEGIN + 48 * HOUR).assign(low=-1.0 if broken else 1.0)
            archive.writestr("BTCUSDT-1h-2024-02.csv", second.to_csv(index=False))
        if broken:
            with pytest.raises(DataError, match="48 impossible bars"):
                import_file(store, path, venue="okx", clock=SystemClock())
        else:
            import_file(store, path, venue="binance", clock=SystemClock())
    (stored,) = candle_store.coverage(store)
    assert (stored.venue, stored.bars, stored.missing) == ("binance", 96, 0)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [  # without the time of their making, which each process of the tests would see another of
        ("cut.csv.gz", gzip.compress(b"a,b\n" * 1000, mtime=0)[:-20], "cut.csv.gz cannot be read"),
        ("cut.zip", b"PK\x03\x04" + bytes(60), "cut.zip cannot be read"),
        ("text.csv.gz", b"not packed", "text.csv.gz is not Parquet, Feather or CSV inside"),
        ("empty.csv.gz", gzip.compress(b"", mtime=0), "empty.csv cannot be read|empty.csv.gz cannot be read"),
    ],
)
def test_a_broken_archive_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words) as refused:
        read_file(tmp_path / name, venue="bybit", symbol="BTCUSDT")
    assert "\n" not in str(refused.value)


def test_the_folders_in_an_archive_tell_the_kind(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("um/markPriceKlines/BTCUSDT/1h/BTCUSDT-1h-2024-01.csv", bars().to_csv(index=False))
    with pytest.raises(DataError, match=r"BTCUSDT-1h-2024-01\.csv holds mark prices"):
        read_file(tmp_path / "all.zip", venue="binance")


def test_an_archive_without_market_data_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "notes.zip", "w") as archive:
        archive.writestr("README.md", "nothing")
    with pytest.raises(DataError, match=r"notes\.zip holds no Parquet, Feather or CSV file"):
        read_file(tmp_path / "notes.zip", venue="bybit")


def test_a_folder_takes_packed_files_too(tmp_path: Path, store: Store) -> None:
    (tmp_path / "BTCUSDT_1h.csv.gz").write_bytes(gzip.compress(bars().to_csv(index=False).encode()))
    with zipfile.ZipFile(tmp_path / "ETHUSDT-1h-2024-01.zip", "w") as archive:
        archive.writestr("ETHUSDT-1h-2024-01.csv", bars().to_csv(index=False))
    done = import_folder(store, tmp_path, unnamed="bybit", clock=SystemClock())
    assert {(r.symbol, r.rows) for r in done.records} == {("BTCUSDT", 48), ("ETHUSDT", 48)} and not done.refused


# ---------------------------------------------------------------- layouts


def test_binances_funding_files_are_funding(tmp_path: Path, store: Store) -> None:
    text = "calc_time,funding_interval_hours,last_funding_rate\n"
    text += "".join(f"{BEGIN + 8 * HOUR * i + i},8,{(i - 1) / 10_000:.8f}\n" for i in range(4))
    with zipfile.ZipFile(tmp_path / "BTCUSDT-fundingRate-2024-01.zip", "w") as archive:
        archive.writestr("BTCUSDT-fundingRate-2024-01.csv", text)
    import_file(store, tmp_path / "BTCUSDT-fundingRate-2024-01.zip", venue="binance", clock=SystemClock())
    found, rates = load_funding(store, "binance", "BTCUSDT")
    assert found.tolist() == [BEGIN + 8 * HOUR * i for i in range(4)]  # stamped i ms late
    np.testing.assert_allclose(rates, [-1e-4, 0, 1e-4, 2e-4])


def test_binances_metrics_give_open_interest_in_coins(tmp_path: Path, store: Store) -> None:
    text = "create_time,symbol,sum_open_interest,sum_open_interest_value,count_toptrader_long_short_ratio\n"
    text += (
        "2024-01-01 00:05:00,BTCUSDT,81000.5,3400000000.0,1.2\n2024-01-01 00:10:00,BTCUSDT,81001.5,3400000001.0,1.2\n"
    )
    (tmp_path / "BTCUSDT-metrics-2024-01-01.csv").write_text(text)
    import_file(store, tmp_path / "BTCUSDT-metrics-2024-01-01.csv", venue="binance", clock=SystemClock())
    assert load_open_interest(store, "binance", "BTCUSDT")[2].tolist() == [81000.5, 81001.5]


@pytest.mark.parametrize("unit", ["unix", "Unix Timestamp", "half days"])
def test_cryptodatadownloads_files_are_read(tmp_path: Path, unit: str) -> None:
    frame = bars()[::-1]
    hours = pd.to_datetime(frame["timestamp"], unit="ms")
    lines = ["https://www.CryptoDataDownload.com", f"{unit},Date,Symbol,Open,High,Low,Close,Volume BTC,Volume USDT"]
    if unit == "half days":
        lines[1] = lines[1].removeprefix("half days,")
    for stamp, hour, row in zip(frame["timestamp"], hours, frame.itertuples(index=False), strict=True):
        when = f"{hour:%Y-%m-%d %I-%p}" if unit == "half days" else f"{stamp // 1000},{hour:%Y-%m-%d %H:%M:%S}"
        lines.append(f"{when},BTC/USDT,{row.open},{row.high},{row.low},{row.close},{row.volume},{row.volume * 100}")
    (tmp_path / "Binance_BTCUSDT_1h.csv").write_text("\n".join(lines))
    (read,) = read_file(tmp_path / "Binance_BTCUSDT_1h.csv")
    assert same(read, frame[::-1]) and (read.venue, read.symbol) == ("binance", "BTCUSDT")


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_any_usual_separator_is_found(tmp_path: Path, mark: str) -> None:
    bars().to_csv(tmp_path / "bybit_btcusdt_1h.csv", index=False, sep=mark)
    assert same(read_file(tmp_path / "bybit_btcusdt_1h.csv")[0], bars())


@pytest.mark.parametrize("column", ["symbol", "pair", "coin", "instId"])
def test_funding_of_several_coins_in_one_file_is_taken_apart(tmp_path: Path, store: Store, column: str) -> None:
    names = ["BTCUSDT", "ETH/USDT", "DOGE-USDT", "币安人生USDT"]
    rows = [(BEGIN + 8 * HOUR * i, name, i / 1e4 + j / 1e6) for i in range(5) for j, name in enumerate(names)]
    pd.DataFrame(rows, columns=["fundingTime", column, "fundingRate"]).to_csv(tmp_path / "funding.csv", index=False)
    records = import_file(store, tmp_path / "funding.csv", venue="bybit", clock=SystemClock())
    assert [record.rows for record in records] == [5] * 4
    for j, name in enumerate(["BTCUSDT", "ETHUSDT", "DOGEUSDT", "币安人生USDT"]):
        np.testing.assert_allclose(load_funding(store, "bybit", name)[1], np.arange(5) / 1e4 + j / 1e6)


# ---------------------------------------------------------------- weeks


@pytest.mark.parametrize(("timeframe", "day"), [("3d", 0), ("3d", 1), ("3d", 2), ("1w", 0), ("1w", 3), ("1w", 6)])
def test_bars_of_days_and_weeks_live_from_the_import_to_the_backtest(tmp_path: Path, timeframe: str, day: int) -> None:
    write_template(tmp_path, kind="config")
    frame = bars(120, step=timeframe_ms(timeframe), begin=BEGIN - 900 * DAY + day * DAY)
    frame.to_csv(tmp_path / "bybit_btcusdt.csv", index=False)
    code, out, err = run(tmp_path, "data", "import", "bybit_btcusdt.csv", "--json")
    assert (code, err) == (0, "") and json.loads(out)["imported"][0]["timeframe"] == timeframe
    (row,) = json.loads(run(tmp_path, "data", "list", "--json")[1])["series"]
    assert (row["bars"], row["missing"]) == (120, 0)
    assert run(tmp_path, "data", "check")[0] == 0
    candles = at.load("BTCUSDT", timeframe, config=tmp_path / "config.toml")
    assert same(candles, frame)
    result = at.backtest("ema_trend", candles, bot={"timeframe": timeframe}, config=tmp_path / "config.toml")
    np.testing.assert_array_equal(result.part.tape.open_ms, frame["timestamp"])


def test_a_week_that_is_missing_or_opens_on_another_day_is_refused(tmp_path: Path, store: Store) -> None:
    frame = bars(60, step=7 * DAY, begin=BEGIN - 700 * DAY)
    frame.drop(index=[30]).to_csv(tmp_path / "bybit_btcusdt.csv", index=False)
    with pytest.raises(DataError, match="1 bar missing"):
        import_file(store, tmp_path / "bybit_btcusdt.csv", clock=SystemClock())
    frame.assign(timestamp=frame["timestamp"] + DAY * (frame.index == 30)).to_csv(
        tmp_path / "bybit_btcusdt.csv", index=False
    )
    with pytest.raises(DataError, match="1 stamp off the 1w grid"):
        import_file(store, tmp_path / "bybit_btcusdt.csv", clock=SystemClock())
    frame.to_csv(tmp_path / "bybit_btcusdt.csv", index=False)
    import_file(store, tmp_path / "bybit_btcusdt.csv", clock=SystemClock())
    frame.assign(timestamp=frame["timestamp"] + 3 * DAY).to_csv(tmp_path / "bybit_btcusdt.csv", index=False)
    with pytest.raises(AutotraderError, match="1w bars are stored that open on other days"):
        import_file(store, tmp_path / "bybit_btcusdt.csv", clock=SystemClock())
    with pytest.raises(ConfigError, match="timeframe '2w' is not one"):
        timeframe_ms("2w")


def test_weeks_made_of_days_open_on_monday(tmp_path: Path, store: Store) -> None:
    bars(70, step=DAY, begin=BEGIN - 3 * DAY).to_csv(tmp_path / "bybit_btcusdt.csv", index=False)
    import_file(store, tmp_path / "bybit_btcusdt.csv", clock=SystemClock())
    from autotrader.data.joined import load_market

    weeks = load_market(store, "bybit", "BTCUSDT", "1w", BEGIN - 3 * DAY, BEGIN + 67 * DAY).candles
    assert int(weeks.open_ms[0]) == BEGIN and len(weeks) == 9


# ---------------------------------------------------------------- local time

ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Tokyo", "Asia/Kathmandu", "America/Havana"]


SET_BACK = [365 * year + day for year in range(5) for day in (*range(84, 98, 3), *range(290, 309, 3))]  # somewhere


@given(
    st.sampled_from(ZONES),
    st.integers(0, 365 * 5) | st.sampled_from(SET_BACK),
    st.sampled_from([15, 60, 240, 480, 1440]),
    st.booleans(),
    st.booleans(),
)
def test_local_times_are_the_moments_they_were(
    zone: str, day: int, minutes: int, newest_first: bool, text: bool
) -> None:
    utc = 1_577_836_800_000 + day * DAY + minutes * 60_000 * np.arange(9 * 1440 // minutes)
    local = pd.to_datetime(utc, unit="ms", utc=True).tz_convert(ZoneInfo(zone)).tz_localize(None)
    if newest_first:
        utc, local = utc[::-1], local[::-1]
    column = [f"{each:%Y-%m-%d %H:%M:%S}" for each in local] if text else pa.array(local, pa.timestamp("us"))
    table = pa.table({"date": column})
    assert stamps(table, "date", "x", zone_of(zone)).tolist() == utc.tolist()
    aware = pa.table({"date": pa.array(utc, pa.timestamp("ms", tz="UTC"))})
    assert stamps(aware, "date", "x", zone_of(zone)).tolist() == utc.tolist()  # a zone of its own comes first


@pytest.mark.parametrize("rows", [["02:00"], ["02:00"] * 3, ["01:00", "02:00", "03:00", "04:00"]])
def test_an_hour_that_cannot_be_told_is_refused(rows: list[str]) -> None:
    table = pa.table({"date": [f"2024-10-27 {row}" for row in rows]})
    with pytest.raises(DataError, match=r"showed 2024-10-27T02:00:00 twice, column date holds it [13] time"):
        stamps(table, "date", "x.csv", zone_of("Europe/Berlin"))


def test_a_timezone_is_given_on_the_command_line(tmp_path: Path) -> None:
    write_template(tmp_path, kind="config")
    frame = bars(24 * 7, begin=BEGIN + 297 * DAY)  # over 2024-10-27
    local = pd.to_datetime(frame["timestamp"], unit="ms", utc=True).dt.tz_convert("Europe/Berlin").dt.tz_localize(None)
    frame.assign(timestamp=local).to_csv(tmp_path / "bybit_btcusdt_1h.csv", index=False)
    code, _, err = run(tmp_path, "data", "import", "bybit_btcusdt_1h.csv")
    assert code == 2 and "1 of them twice" in err  # read as UTC it has an hour twice
    code, _, err = run(tmp_path, "data", "import", "bybit_btcusdt_1h.csv", "--timezone", "Berlin")
    assert code == 2 and "no zone of the tz database" in err and err.count("\n") == 1
    assert run(tmp_path, "data", "import", "bybit_btcusdt_1h.csv", "--timezone", "Europe/Berlin")[0] == 0
    candles = at.load("BTCUSDT", config=tmp_path / "config.toml")
    assert same(candles, frame)


# ---------------------------------------------------------------- the list


def test_the_list_shows_funding_and_open_interest(tmp_path: Path) -> None:
    write_template(tmp_path, kind="config")
    (tmp_path / "bybit_funding.csv").write_text(
        f"symbol,fundingTime,fundingRate\nBTCUSDT,{BEGIN},0.0001\nBTCUSDT,{BEGIN + 8 * HOUR},0.0001\n"
    )
    (tmp_path / "oi.csv").write_text(f"venue,symbol,timestamp,oi_usd\nhyperliquid,BTCUSDT,{BEGIN},5\n")
    assert run(tmp_path, "data", "import", "bybit_funding.csv")[0] == 0
    assert run(tmp_path, "data", "import", "oi.csv")[0] == 0
    code, out, _ = run(tmp_path, "data", "list")
    assert code == 0 and "funding rate" in out and "open interest" in out and "no candles stored" in out
    told = json.loads(run(tmp_path, "data", "list", "--json")[1])
    assert told["series"] == [] and [(r["kind"], r["venue"], r["symbol"], r["values"]) for r in told["published"]] == [
        ("funding_rate", "bybit", "BTCUSDT", 2),
        ("open_interest", "hyperliquid", "BTCUSDT", 1),
    ]


def test_forecasts_are_left_out(tmp_path: Path, store: Store) -> None:
    later = SystemClock().now_ms() // (8 * HOUR) * 8 * HOUR + 8 * HOUR
    (tmp_path / "bybit_funding.csv").write_text(
        f"symbol,fundingTime,fundingRate\nBTCUSDT,{later - 8 * HOUR},0.0001\nBTCUSDT,{later},0.0001\n"
    )
    (record,) = import_file(store, tmp_path / "bybit_funding.csv", clock=SystemClock())
    assert (record.rows, record.unclosed) == (1, 1) and "1 left out that had not come yet" in str(record)
    (read,) = read_file(tmp_path / "bybit_funding.csv")
    assert isinstance(read, Published) and len(read) == 2
