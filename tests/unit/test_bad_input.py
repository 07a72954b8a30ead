"""Bad input to a backtest: one clear line, exit code 2, nothing half-written; legal but empty input: a sane result that says what it is."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from shared import Ended, run

import autotrader as at
from autotrader.config.settings import load
from autotrader.core.errors import ConfigError, DataError
from autotrader.core.market import Candles
from autotrader.store import candles as candle_store
from autotrader.store.database import open_store

ROOT = Path(__file__).resolve().parents[2]
PRICES = ("open", "high", "low", "close")
Change = Callable[[pd.DataFrame], pd.DataFrame]


def hours(bars: int = 400) -> pd.DataFrame:
    "An invented market, as a file would hold it."
    rng = np.random.default_rng(7)
    close = 50_000 + np.cumsum(rng.normal(0, 100, bars))
    opened = np.r_[50_000, close[:-1]]
    frame = pd.DataFrame({"open_time": pd.date_range("2025-03-08", periods=bars, freq="1h", tz="UTC")})
    return frame.assign(
        open=opened.round(1),
        high=(np.maximum(opened, close) + 40).round(1),
        low=(np.minimum(opened, close) - 40).round(1),
        close=close.round(1),
        volume=100.0,
    )


def candles(frame: pd.DataFrame) -> Candles:
    stamps = pd.DatetimeIndex(frame["open_time"]).as_unit("ms").asi8
    columns = {name: frame[name].to_numpy(np.float64) for name in (*PRICES, "volume")}
    return Candles(venue="bybit", symbol="BTCUSDT", timeframe="1h", open_ms=stamps, **columns)


def put(column: str, value: float) -> Change:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[7, column] = value
        return frame

    return change


def still(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(**dict.fromkeys(PRICES, 50_000.0))


BROKEN = {
    "NaN": (put("close", np.nan), "price is missing or not positive", "missing or negative"),
    "infinite": (put("high", np.inf), "price is missing or not positive", "missing or negative"),
    "negative price": (put("low", -5.0), "price is missing or not positive", "missing or negative"),
    "price of zero": (put("low", 0.0), "price is missing or not positive", "missing or negative"),
    "negative volume": (put("volume", -1.0), "volume is missing or negative", "missing or negative"),
    "NaN volume": (put("volume", np.nan), "volume is missing or negative", "missing or negative"),
    "high below close": (put("high", 100.0), "does not contain open and close", "do not hold open and close"),
    "stamp twice": (lambda f: pd.concat([f[:8], f[7:]]), "sort, drop duplicates", "sort the file and drop duplicates"),
    "no rows": (lambda f: f[:0], "no bars", "no rows"),
}


@pytest.mark.parametrize("change", [case[0] for case in BROKEN.values()], ids=list(BROKEN))
def test_candles_that_cannot_be_traded_on_are_refused_by_the_bar(
    change: Change, request: pytest.FixtureRequest
) -> None:
    said = BROKEN[request.node.callspec.id][1]
    with pytest.raises(DataError, match=said) as refused:
        at.backtest("ema_trend", candles(change(hours())), config="nowhere.toml")
    message = str(refused.value)
    assert "\n" not in message and "bybit BTCUSDT 1h" in message
    if "no bars" not in said:
        assert "bar 8 " in message or "bar 7 " in message


def test_bars_in_disorder_are_refused() -> None:
    with pytest.raises(DataError, match="stamp is not after the one before"):
        at.backtest("ema_trend", candles(hours()[::-1]), config="nowhere.toml")


EMPTY = {
    "one bar": (lambda f: f[:1], "one bar only"),
    "all prices flat": (still, "price never moves"),
    "no volume at all": (lambda f: f.assign(volume=0.0), "all bars have no volume"),
}


@pytest.mark.parametrize("case", EMPTY)
def test_bars_that_say_nothing_give_a_result_that_says_so(case: str) -> None:
    change, said = EMPTY[case]
    result = at.backtest("ema_trend", candles(change(hours())), config="nowhere.toml")
    stats = result.stats
    assert (stats.trades, stats.pnl, stats.max_drawdown) == (0, 0.0, 0.0)
    assert stats.sharpe is None and stats.win_rate is None
    assert any(said in sentence.lower() for sentence in result.verdict)
    assert said in result._repr_html_()


def test_volume_that_is_not_known_is_no_obstacle_without_a_cap() -> None:
    unknown = candles(hours().assign(volume=0.0))
    free = at.backtest("ema_trend", unknown, costs={"participation_cap": 0.0}, config="nowhere.toml")
    assert free.stats.trades > 0
    assert not any("volume" in sentence for sentence in free.verdict)


def test_a_single_bar_without_volume_is_counted_and_told() -> None:
    result = at.backtest("ema_trend", candles(put("volume", 0.0)(hours())), config="nowhere.toml")
    assert result.stats.trades > 0
    assert "1 of 400 bars have no volume" in result._repr_html_()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"bot": {"strategy_params": {"sl_ratio": -1.0}}}, "sl_ratio"),
        ({"bot": {"equity_frac": 9.0, "max_leverage": 2.0}}, "equity_frac"),
        ({"costs": {"slippage_bps": float("nan")}}, "slippage_bps"),
        ({"costs": {"stress": -1.0}}, "stress"),
    ],
    ids=["stop", "size", "slippage", "stress"],
)
def test_a_parameter_outside_its_range_is_named(words: dict[str, dict[str, float]], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        at.backtest("ema_trend", candles(hours()), config="nowhere.toml", **words)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    shutil.copyfile(ROOT / "config.toml", folder / "config.toml")
    assert run(folder, "db", "upgrade")[0] == 0
    return folder


@pytest.fixture
def desk(empty: Path, tmp_path: Path) -> Path:
    shutil.copytree(empty, tmp_path, dirs_exist_ok=True)
    return tmp_path


MARKET = ("--venue", "bybit", "--symbol", "BTCUSDT", "--timeframe", "1h")
PLAY = ("backtest", "--bot", "sub_bot_A")


def imported(desk: Path, frame: pd.DataFrame) -> Ended:
    frame.to_csv(desk / "bars.csv", index=False)
    return run(desk, "data", "import", "bars.csv", *MARKET)


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_cannot_be_traded_on_is_not_taken_in(desk: Path, case: str) -> None:
    code, out, err = imported(desk, BROKEN[case][0](hours()))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert BROKEN[case][2] in err and "bars.csv" in err
    code, out, err = run(desk, *PLAY, "--report")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "stored is nothing" in err
    assert not list((desk / "reports").rglob("report.html"))


def test_a_file_in_disorder_is_put_in_order(desk: Path) -> None:
    assert imported(desk, hours().sample(frac=1, random_state=7))[0] == 0
    assert run(desk, *PLAY, "--json")[0] == 0
    expected = at.load("BTCUSDT", config=desk / "config.toml")
    np.testing.assert_array_equal(expected.close, hours()["close"])


@pytest.mark.parametrize("case", EMPTY)
def test_stored_bars_that_say_nothing_are_said_to_on_the_command_line(desk: Path, case: str) -> None:
    change, said = EMPTY[case]
    if case == "no volume at all":  # prices that nobody traded at are not imported, but may be stored
        code, _, err = imported(desk, change(hours()))
        assert (code, err.count("\n")) == (2, 1) and "has no volume in any bar" in err
        with open_store(load(desk / "config.toml").database_url, folder=desk) as store:
            candle_store.save(store, candles(change(hours())))
    else:
        assert imported(desk, change(hours()))[0] == 0
    code, out, err = run(desk, *PLAY, "--report")
    assert (code, err) == (0, "")
    assert said in " ".join(out.split()) and "did not trade" in out
    (page,) = (desk / "reports").rglob("report.html")
    assert said in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("strategy_params.fast=1", "ema_trend.fast must lie between 2 and 200, was 1"),
        ("strategy_params.fast=90", "ema_trend.fast must be less than ema_trend.slow"),
        ("strategy_params.sl_ratio=-1", "strategy_params.sl_ratio"),
        ("strategy_params.fast=nan", "strategy_params.fast"),
        ("initial_capital_usdt=0", "initial_capital_usdt"),
    ],
)
def test_a_parameter_outside_its_range_stops_the_command_at_once(desk: Path, change: str, said: str) -> None:
    assert imported(desk, hours())[0] == 0
    code, out, err = run(desk, *PLAY, "--set", change, "--report")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert not list((desk / "reports").rglob("*.html"))


def test_a_copy_of_the_candles_is_what_is_played() -> None:
    "A backtest leaves its caller's arrays as they were."
    mine = candles(hours())
    before = replace(mine, close=mine.close.copy(), volume=mine.volume.copy())
    at.backtest("ema_trend", mine, config="nowhere.toml")
    np.testing.assert_array_equal(mine.close, before.close)
    np.testing.assert_array_equal(mine.volume, before.volume)
