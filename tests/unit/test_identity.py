"""A market keeps its name from the file to the report, and prices that nobody traded at are never a market's bars."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from series import length
from shared import run

from autotrader.config.sections import BotSettings
from autotrader.config.settings import write_template
from autotrader.core.clock import SystemClock
from autotrader.core.errors import ConfigError, DataError
from autotrader.core.names import symbol_of
from autotrader.data.filenames import from_name
from autotrader.data.importers import import_file, read_file
from autotrader.data.joined import load_market
from autotrader.store import candles as candle_store
from autotrader.store.database import open_store
from autotrader.store.series import load_funding

HOUR = 3_600_000
BEGIN = 1_704_067_200_000  # 2024-01-01
QUOTES = ["USDT", "USDC", "USD", "BTC", "ETH", "EUR"]
SCRIPTS = ("Lu", "Lo", "Nd", "Nl")  # capitals, letters without any, digits: of every script
bases = st.text(st.characters(categories=SCRIPTS), min_size=1, max_size=10).map(
    lambda text: unicodedata.normalize("NFC", text)
)
quotes = st.sampled_from(QUOTES)


def bars(price: float = 100.0, n: int = 48, *, seed: int = 5, volume: float = 7.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    close = np.round(price * np.exp(np.cumsum(rng.normal(scale=0.01, size=n))), 2)
    open_ = np.r_[price, close[:-1]]
    high, low = np.maximum(open_, close) + 0.5, np.minimum(open_, close) - 0.5
    stamps = BEGIN + HOUR * np.arange(n)
    return pd.DataFrame(
        {"timestamp": stamps, "open": open_, "high": high, "low": low, "close": close, "volume": volume}
    )


# ---------------------------------------------------------------- one spelling


@given(bases, quotes)
def test_every_spelling_of_a_pair_is_one_name_and_a_bot_can_have_it(base: str, quote: str) -> None:
    spelt = [f"{base}{quote}", f"{base}/{quote}", f"{base}-{quote}", f"{base}_{quote}", f"{base}/{quote}:{quote}"]
    (kept,) = {symbol_of(text) for text in spelt}
    assert kept == f"{base}{quote}" and symbol_of(kept) == kept
    assert BotSettings(name="A", symbol=spelt[1], sizing="lot", base_lot=0.001).symbol == kept


@given(st.text(max_size=12), st.text(max_size=12))
@settings(max_examples=length(300, soak=20_000))
def test_no_name_is_cleaned_into_another(one: str, other: str) -> None:
    def letters(text: str) -> str:
        capitals = "".join(c.upper() if c.isascii() else c for c in unicodedata.normalize("NFC", text.strip()))
        return capitals.translate({ord(c): None for c in "/-_ :"})

    try:
        kept = symbol_of(one), symbol_of(other)
    except ConfigError:
        return
    assert letters(kept[0]) in (letters(one), letters(one.partition(":")[0]), letters(one.replace(":", "")))
    assert (kept[0] == kept[1]) <= (letters(kept[0]) == letters(kept[1]))


@given(bases, quotes)
def test_names_with_a_last_day_are_markets_of_their_own(base: str, quote: str) -> None:
    names = [f"{base}{quote}", f"{base}{quote}_240329", f"{base}/{quote}:{quote}-240628", f"{base}{quote}-27DEC24"]
    assert len({symbol_of(name) for name in names}) == 4


@pytest.mark.parametrize("text", ["BINANCE:BTCUSDT", "xyz:TSLA", "BTC USDT\n", "a,b", "", "/", "BTC/", "Bitcoin!"])
def test_what_is_no_name_is_refused(text: str) -> None:
    if text == "BTC USDT\n":
        assert symbol_of(text) == "BTCUSDT"  # blanks around and between are only blanks
        return
    with pytest.raises(ConfigError, match="is not a market's name"):
        symbol_of(text)


# ---------------------------------------------------------------- file names


@given(bases, st.sampled_from(["USDT", "USDC", "USD"]), st.sampled_from(["futures", "mark", "funding_rate"]))
def test_freqtrades_names_give_their_pair(base: str, quote: str, kind: str) -> None:
    named = from_name(Path(f"{base}_{quote}_{quote}-1h-{kind}.feather"))
    assert named.symbol == f"{base}{quote}" and named.timeframe == "1h"
    assert named.kind == {"futures": ""}.get(kind, kind)


@given(bases, quotes, st.sampled_from(["{}{}_1h", "{}_{}_1h", "bybit_{}{}", "{}{}-1h-2024-01", "{}-{} hourly"]))
@settings(max_examples=length(300, soak=20_000))
def test_a_name_gives_its_own_market_or_none(base: str, quote: str, layout: str) -> None:
    assert from_name(Path(f"{layout.format(base, quote)}.csv")).symbol in (None, f"{base}{quote}")


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("price_in_usd_BTCUSDT_1h", "BTCUSDT"),
        ("S_USDT_USDT", "SUSDT"),
        ("SUSDT_1h", "SUSDT"),
        ("Binance_BTCUSDT_1h", "BTCUSDT"),
        ("binance_BTC_USDT", "BTCUSDT"),
        ("OPEN_USDT_1h", "OPENUSDT"),
        ("BTC_BUSD_1h", "BTCBUSD"),
        ("BTC_USD_BTC-1h-futures", "BTCUSD"),
        ("BTCUSDT_240329-1h-2024-01", "BTCUSDT-240329"),
        ("BTCUSD_PERP-1h-2024-01-31", "BTCUSDPERP"),
        ("BTCUSDT-27DEC24_1h", "BTCUSDT-27DEC24"),
        ("BTCUSDT_240329_1h", None),
        ("BTCUSDT_ETHUSDT_1h", None),
        ("PRICE_IN_USD_BTCUSDT_1h", None),
        ("close_usd_2024", None),
        ("bybit_perp_1h", None),
    ],
)
def test_one_market_or_none_is_read_off_a_name(name: str, symbol: str | None) -> None:
    assert from_name(Path(f"{name}.csv")).symbol == symbol


def test_a_name_with_two_markets_is_asked_about(tmp_path: Path) -> None:
    bars().to_csv(tmp_path / "BTCUSDT_ETHUSDT_1h.csv", index=False)
    with pytest.raises(DataError, match="may be BTCUSDT or ETHUSDT by its name: add `symbol`"):
        read_file(tmp_path / "BTCUSDT_ETHUSDT_1h.csv", venue="bybit")
    (read,) = read_file(tmp_path / "BTCUSDT_ETHUSDT_1h.csv", venue="bybit", symbol="ETHUSDT")
    assert read.symbol == "ETHUSDT"


def test_a_column_with_a_name_that_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    bars().assign(symbol="BINANCE:BTCUSDT").to_csv(tmp_path / "a_1h.csv", index=False)
    with pytest.raises(DataError, match=r"a_1h\.csv, column symbol: 'BINANCE:BTCUSDT' is not a market's name"):
        read_file(tmp_path / "a_1h.csv", venue="bybit")
    bars().assign(venue="gate.io").to_csv(tmp_path / "btcusdt_1h.csv", index=False)
    with pytest.raises(DataError, match=r"column venue: venue 'gate\.io' cannot be named in a configuration"):
        read_file(tmp_path / "btcusdt_1h.csv")


# ---------------------------------------------------------------- from the file to the report


LISTED = {
    "S/USDT:USDT": "SUSDT",
    "币安人生/USDT": "币安人生USDT",
    "龙虾USDT": "龙虾USDT",
    "1000PEPEUSDT": "1000PEPEUSDT",
    "TRUMP.S/USDT": "TRUMP.SUSDT",
    "BTCUSDT-27DEC24": "BTCUSDT-27DEC24",
    "ПРИВЕТ/USDC": "ПРИВЕТUSDC",
}


def test_any_listed_name_lives_from_the_import_to_the_report(tmp_path: Path) -> None:
    write_template(tmp_path, kind="config")
    for i, name in enumerate(LISTED):
        bars(100.0 + i, 400, seed=i).to_csv(tmp_path / "prices.csv", index=False)
        code, out, err = run(tmp_path, "data", "import", "prices.csv", "--venue", "bybit", "--symbol", name)
        assert (code, err) == (0, ""), err
    told = json.loads(run(tmp_path, "data", "list", "--json")[1])
    assert {row["symbol"] for row in told["series"]} == set(LISTED.values())
    for i, (name, kept) in enumerate(LISTED.items()):
        words = ("backtest", "--bot", "sub_bot_A", "--symbol", name, "--timeframe", "1h")
        code, out, err = run(tmp_path, *words, "--json", *(["--report"] if i < 2 else []))
        assert code == 0, err
        assert json.loads(out)["bots"][0]["symbol"] == kept
    pages = [page.read_text(encoding="utf-8") for page in (tmp_path / "reports").rglob("report.html")]
    assert len(pages) == 2
    for kept in list(LISTED.values())[:2]:
        assert any(kept in page for page in pages)


# ---------------------------------------------------------------- prices that nobody traded at


@pytest.mark.parametrize("first", ["futures", "mark"])
def test_a_mark_file_is_refused_and_overwrites_nothing(tmp_path: Path, first: str) -> None:
    bars(30_000.0).to_csv(tmp_path / "BTC_USDT_USDT-1h-futures.csv", index=False)
    bars(30_300.0, volume=0).to_csv(tmp_path / "BTC_USDT_USDT-1h-mark.csv", index=False)
    kinds = [first, "mark" if first == "futures" else "futures"]
    with open_store("sqlite:///a.db", folder=tmp_path, create=True) as store:
        for kind in kinds:
            path = tmp_path / f"BTC_USDT_USDT-1h-{kind}.csv"
            if kind == "mark":
                with pytest.raises(DataError, match="holds mark prices, at which nobody traded"):
                    import_file(store, path, venue="bybit", clock=SystemClock())
            else:
                import_file(store, path, venue="bybit", clock=SystemClock())
        assert candle_store.load(store, "bybit", "BTCUSDT", "1h").open[0] == 30_000.0


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("btcusdt_mark_1h", {}),
        ("btcusdt_index_price_1h", {}),
        ("premiumIndexKlines/BTCUSDT-1h-2024-01", {}),
        ("markPriceKlines/BTCUSDT/1h/BTCUSDT-1h-2024-01", {}),
        ("btcusdt_1h", {"volume": 0.0}),
        ("btcusdt_1h", {"volume": np.nan}),
        ("btcusdt_1h", {"volume": None}),
        ("btcusdt_1h", {"price_type": "MARK_PRICE"}),
        ("btcusdt_1h", {"type": "index"}),
        ("btcusdt_1h", {"rename": "mark_"}),
        ("btcusdt_1h", {"rename": "index_price_"}),
    ],
)
def test_untraded_prices_are_known_by_name_column_and_content(
    tmp_path: Path, name: str, change: dict[str, object]
) -> None:
    frame = bars()
    if "rename" in change:
        frame = frame.rename(columns={c: f"{change['rename']}{c}" for c in ("open", "high", "low", "close")})
    elif change.get("volume", 0) is None:
        frame = frame.drop(columns="volume")
    else:
        frame = frame.assign(**change)
    path = tmp_path / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False)
    packed = path.with_suffix(".parquet")
    frame.astype({c: "category" for c in ("type", "price_type") if c in frame}).to_parquet(packed)
    for each in (path, packed):
        with pytest.raises(DataError, match=r"at which nobody traded: import the venue's traded candles") as refused:
            read_file(each, venue="bybit")
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "name",
    [
        "MARK_USDT_1h",
        "MARK_USDT_USDT-1h-futures",
        "benchmark_price_BTCUSDT_1h",
        "markets/BTCUSDT_1h",
        "PREMIUM_USDT_1h",
    ],
)
def test_a_coin_or_a_word_that_only_sounds_like_it_is_traded(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    bars().assign(type="market").to_csv(path, index=False)
    (read,) = read_file(path, venue="bybit")
    assert read.symbol in ("MARKUSDT", "BTCUSDT", "PREMIUMUSDT")


def test_a_row_without_a_name_is_not_another_market(tmp_path: Path) -> None:
    bars().assign(symbol=["BTCUSDT"] * 47 + [None]).to_parquet(tmp_path / "bybit_1h.parquet")
    with pytest.raises(DataError, match="column symbol is empty in 1 of 48 rows"):
        read_file(tmp_path / "bybit_1h.parquet")


@given(st.lists(bases, min_size=1, max_size=4, unique=True), quotes)
@settings(max_examples=length(10, soak=300))
def test_every_market_of_a_file_is_stored_under_its_own_name_and_loaded_by_a_bot(
    tmp_path_factory: pytest.TempPathFactory, coins: list[str], quote: str
) -> None:
    folder = tmp_path_factory.mktemp("names")
    parts = [bars(100.0 + i, seed=i).assign(symbol=f"{coin}/{quote}") for i, coin in enumerate(coins)]
    pd.concat(parts).to_parquet(folder / "bybit_1h.parquet")
    with open_store("sqlite:///a.db", folder=folder, create=True) as store:
        import_file(store, folder / "bybit_1h.parquet", clock=SystemClock())
        assert {series.symbol for series in candle_store.coverage(store)} == {f"{coin}{quote}" for coin in coins}
        for coin, part in zip(coins, parts, strict=True):
            bot = BotSettings(name="A", symbol=f"{coin}-{quote}", sizing="lot", base_lot=0.001)
            market = load_market(store, bot.venue, bot.symbol, "1h", BEGIN, BEGIN + 48 * HOUR)
            np.testing.assert_array_equal(market.candles.close, part["close"])


def test_freqtrades_funding_rates_are_funding(tmp_path: Path) -> None:
    frame = pd.DataFrame({"date": BEGIN + 8 * HOUR * np.arange(3), "open": [1e-4, -2e-4, 3e-4]})
    frame = frame.assign(high=0.0, low=0.0, close=0.0, volume=0.0)
    frame.to_csv(tmp_path / "BTC_USDT_USDT-8h-funding_rate.csv", index=False)
    with open_store("sqlite:///a.db", folder=tmp_path, create=True) as store:
        import_file(store, tmp_path / "BTC_USDT_USDT-8h-funding_rate.csv", venue="bybit", clock=SystemClock())
        assert load_funding(store, "bybit", "BTCUSDT")[1].tolist() == [1e-4, -2e-4, 3e-4]


@pytest.mark.parametrize("changed", [1, 48])
def test_other_values_for_stored_stamps_are_refused_unless_they_are_said_to_overwrite(
    tmp_path: Path, changed: int
) -> None:
    first, path = bars(), tmp_path / "btcusdt_1h.csv"
    first.to_csv(path, index=False)
    with open_store("sqlite:///a.db", folder=tmp_path, create=True) as store:
        import_file(store, path, venue="bybit", clock=SystemClock())
        other = first.copy()
        other.loc[: changed - 1, "high"] *= 1.01
        other.to_csv(path, index=False)
        with pytest.raises(DataError, match=f"{changed} of 48 values stored as bybit BTCUSDT 1h are others here"):
            import_file(store, path, venue="bybit", clock=SystemClock())
        np.testing.assert_array_equal(candle_store.load(store, "bybit", "BTCUSDT", "1h").high, first["high"])
        import_file(store, path, venue="bybit", overwrite=True, clock=SystemClock())
        np.testing.assert_array_equal(candle_store.load(store, "bybit", "BTCUSDT", "1h").high, other["high"])


def test_the_same_file_in_single_precision_is_the_same(tmp_path: Path) -> None:
    frame = bars(60_123.4, 400)
    frame.to_parquet(tmp_path / "btcusdt_1h.parquet")
    frame.astype({c: np.float32 for c in ("open", "high", "low", "close", "volume")}).to_parquet(
        tmp_path / "single_btcusdt_1h.parquet"
    )
    with open_store("sqlite:///a.db", folder=tmp_path, create=True) as store:
        for name in ("btcusdt_1h", "single_btcusdt_1h"):
            import_file(store, tmp_path / f"{name}.parquet", venue="bybit", clock=SystemClock())
