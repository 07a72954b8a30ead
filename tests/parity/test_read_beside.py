"""Strategies that read other markets and other timeframes: the same from a store as in hand, the same lived through as simulated."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autotrader as at
from autotrader.config.sections import Backtest, BotSettings
from autotrader.config.settings import Settings, load, write_template
from autotrader.core.clock import parse_time
from autotrader.core.errors import ConfigError, DataError
from autotrader.core.market import COLUMNS, Candles
from autotrader.data.joined import resample
from autotrader.desk.backtest import backtest_bot
from autotrader.desk.bots import backtest_bots, document
from autotrader.desk.choice import period
from autotrader.desk.rehearse import rehearse_bots
from autotrader.results.result import bars_of
from autotrader.search.task import bars_played, prepare, task_for, task_of
from autotrader.store import candles as candle_store
from autotrader.store.database import Store, open_store

HOUR, BARS = 3_600_000, 700
BEGIN = parse_time("2025-01-01")
RULES = """
import numpy as np
import autotrader as at


def pair(candles, *, look=20):
    other = candles.other("ETHUSDT")
    gap = np.log(candles.close / other.close)
    mean = np.convolve(np.nan_to_num(gap), np.ones(look) / look)[: len(gap)]
    return at.from_rules(long=gap < mean - 0.004, short=gap > mean + 0.004, exit_long=gap > mean, exit_short=gap < mean)


def filtered(candles, *, period=6):
    slow = at.resample(candles, "4h")
    is_up = at.aligned(slow.close > at.compute("sma", slow, period=period), slow, candles)
    rise = candles.close > candles.open
    return at.from_rules(long=rise & is_up, short=~rise & ~is_up, exit_long=~is_up, exit_short=is_up)


def third(candles):
    slow = candles.other("SOLUSDT", "4h", venue="binance")
    rise = at.aligned(slow.close > slow.open, slow, candles)
    return at.from_rules(long=rise, short=~rise, exit_long=~rise, exit_short=rise)
"""
RULED = {"pair": 20, "filtered": 24, "third": 8}


def walk(symbol: str, seed: int, price: float, venue: str = "bybit") -> Candles:
    rng = np.random.default_rng(seed)
    close = np.round(price * np.exp(np.cumsum(rng.normal(scale=0.006, size=BARS))), 1)
    open_ = np.r_[price, close[:-1]]
    reach = np.round(np.abs(rng.normal(scale=0.002, size=(2, BARS))) * close, 1)
    return Candles(
        venue=venue,
        symbol=symbol,
        timeframe="1h",
        open_ms=BEGIN + HOUR * np.arange(BARS),
        open=open_,
        high=np.maximum(open_, close) + reach[0],
        low=np.minimum(open_, close) - reach[1],
        close=close,
        volume=rng.uniform(100.0, 1000.0, size=BARS),
    )


def without(candles: Candles, *bars: int) -> Candles:
    kept = np.delete(np.arange(len(candles)), bars)
    return replace(candles, **{name: getattr(candles, name)[kept] for name in ("open_ms", *COLUMNS)})


OWN, ETH, SOL = walk("BTCUSDT", 1, 60_000.0), walk("ETHUSDT", 2, 3_000.0), walk("SOLUSDT", 3, 300.0, "binance")
HOLED = without(ETH, 300, 301, 450)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    (folder / "rules.py").write_text(RULES)
    write_template(folder)
    return folder


@pytest.fixture(scope="module")
def store(desk: Path) -> Iterator[Store]:
    with open_store("sqlite:///bars.db", folder=desk, create=True) as opened:
        for series in (OWN, HOLED, SOL):
            candle_store.save(opened, series)
        yield opened


def bot(desk: Path, rule: str = "pair", **fields: Any) -> BotSettings:
    also = {"pair": ("ETHUSDT",), "third": ("binance:SOLUSDT 4h",), "filtered": ()}[rule]
    decision = {"strategy": f"{desk / 'rules.py'}:{rule}"}
    kept = {"name": rule, "symbol": "BTCUSDT", "sizing": "equity_frac", "also": also, "decision": decision}
    return BotSettings(**{**kept, **fields})


def in_hand(rule: str) -> Candles:
    return OWN if rule == "filtered" else OWN.beside(HOLED if rule == "pair" else resample(SOL, "4h"))


def strategy(desk: Path, rule: str) -> Any:
    from autotrader.strategy.source import from_file

    return from_file(desk / "rules.py", rule, warmup=RULED[rule])


@pytest.mark.parametrize("rule", RULED)
def test_a_rehearsal_is_the_backtest(desk: Path, rule: str) -> None:
    lived = at.rehearse(strategy(desk, rule), in_hand(rule))
    assert lived.stats.trades > 10
    assert lived.comparison["model"]["equal"], lived.comparison
    assert lived.is_sound


@pytest.mark.parametrize("rule", RULED)
def test_a_bot_from_the_store_does_what_the_same_candles_in_hand_do(desk: Path, store: Store, rule: str) -> None:
    span = {"since_ms": BEGIN, "until_ms": BEGIN + BARS * HOUR}
    stored = prepare(bot(desk, rule), store, Backtest(), **span)
    ours = at.backtest(stored.script, in_hand(rule), config=desk / "config.toml").part
    assert (stored.signals.direction != 0).sum() > 20
    for name in ("direction", "exits", "confidence"):
        np.testing.assert_array_equal(getattr(stored.signals, name), getattr(ours.signals, name))
    later = prepare(bot(desk, rule), store, Backtest(), **{**span, "since_ms": BEGIN + 305 * HOUR})
    np.testing.assert_array_equal(later.signals.direction, stored.signals.direction[305:])


def test_bots_rehearsed_from_the_store_equal_their_backtest(desk: Path, store: Store) -> None:
    settings = load(desk / "config.toml")
    found = rehearse_bots([bot(desk, rule) for rule in RULED], store, settings, BEGIN, BEGIN + BARS * HOUR)
    assert found.is_sound
    assert all(parity["model"]["equal"] for parity in found.parity.values())


def test_results_and_their_documents_say_what_could_be_read(desk: Path, store: Store) -> None:
    settings = load(desk / "config.toml")
    found = backtest_bots([bot(desk)], store, settings, BEGIN, BEGIN + BARS * HOUR)
    told = document(found)
    (row,) = told["bots"]
    (beside,) = row["beside"]
    assert (beside["series"], beside["bars"], beside["first"]) == ("bybit ETHUSDT 1h", BARS - 3, "2025-01-01T00:00:00Z")
    assert any("may read bybit ETHUSDT 1h as known: 697 bars" in note for note in told["notes"])
    assert any("the last close stands in for 3 missing bars" in note for note in told["notes"])
    assert bars_of(found.results[0].part)["beside"] == [beside]
    json.dumps(told, default=str)


def test_the_fingerprints_tell_other_series_apart(desk: Path) -> None:
    rule = strategy(desk, "pair")
    task, other = task_of(rule, OWN.beside(HOLED)), task_of(rule, OWN.beside(ETH))
    assert bars_played(task)["sha256"] == bars_played(other)["sha256"]
    assert bars_played(task)["beside"] != bars_played(other)["beside"]
    assert "beside" not in bars_played(task_of(rule, OWN))
    from autotrader.search.identity import fingerprint

    assert len({fingerprint(each.market) for each in (task, other, task_of(rule, OWN))}) == 3


def test_a_sweep_and_a_walk_forward_keep_what_is_beside(
    desk: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # where nobody counts
    candles, config = OWN.beside(HOLED), desk / "config.toml"
    rule = strategy(desk, "pair")
    swept = at.sweep(rule, candles, {"look": range(10, 31, 10)}, config=config, progress=False)
    alone = at.backtest(at.vary(rule, {"look": 30}), candles, config=config)
    row = swept.table[swept.table["strategy_params.look"] == 30].iloc[0]
    assert (row["trades"], row["return"]) == (alone.stats.trades, pytest.approx(alone.stats.return_frac))
    ranges, lengths = {"look": range(10, 31, 10)}, {"train_days": 10, "test_days": 5, "progress": False}
    walked = at.walkforward(rule, candles, ranges, **lengths)
    elsewhere = at.walkforward(rule, candles, ranges, scheduler="loky", workers=2, **lengths)
    assert elsewhere.table.equals(walked.table)
    assert len(walked.table) >= 2
    assert walked.summary["trades"] > 0
    assert any("may read bybit ETHUSDT" in note for note in walked.task.market.notes)


def test_the_period_of_a_bot_is_that_of_all_its_series(desk: Path, store: Store) -> None:
    assert period([bot(desk)], store) == (BEGIN, BEGIN + BARS * HOUR)
    with pytest.raises(DataError, match="no 1h bars of bybit DOGEUSDT and none to make them from") as caught:
        period([bot(desk, also=("DOGEUSDT",))], store)
    assert "\n" not in str(caught.value)


def test_a_series_that_is_not_stored_is_named(desk: Path, store: Store) -> None:
    with pytest.raises(
        DataError, match=r"bybit DOGEUSDT 4h, wanted beside bybit BTCUSDT 1h: .*stored is nothing"
    ) as caught:
        task_for(bot(desk, also=("DOGEUSDT 4h",)), store, Backtest(), since_ms=BEGIN, until_ms=BEGIN + 9 * HOUR)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="ETHUSDT is not beside") as told:
        backtest_bot(bot(desk, also=()), store, Backtest(), since_ms=BEGIN, until_ms=BEGIN + 99 * HOUR)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("also", "message"),
    [
        (["ETH USDT of Bybit"], "must name a series like ETHUSDT, ETHUSDT 4h or binance:ETHUSDT 4h"),
        (["ETHUSDT 7h"], "must be a bar length"),
        (["BTCUSDT"], "also names bybit BTCUSDT 1h twice, or the bot's own series"),
        (["ETHUSDT", "bybit:ETH/USDT 1h"], "also names bybit ETHUSDT 1h twice"),
    ],
)
def test_what_cannot_be_read_beside_is_told(tmp_path: Path, also: list[str], message: str) -> None:
    write_template(tmp_path)
    settings = tmp_path / "config.toml"
    text = settings.read_text()
    first = text.index('symbol = "', text.index("[[sub_bots]]"))
    settings.write_text(text[:first] + f'also = {json.dumps(also)}\nsymbol = "BTCUSDT"\n#' + text[first:])
    with pytest.raises(ConfigError, match=message):
        load(settings)


def test_the_names_of_series_are_kept_in_one_spelling(desk: Path) -> None:
    found = bot(desk, also=("ETH/USDT", "btcusdt  4h", "binance:SOLUSDT"))
    assert found.also == ("ETHUSDT", "BTCUSDT 4h", "binance:SOLUSDT")
    assert found.also_series == (("bybit", "ETHUSDT", "1h"), ("bybit", "BTCUSDT", "4h"), ("binance", "SOLUSDT", "1h"))


def test_a_desk_loads_what_is_to_stand_beside(desk: Path, tmp_path: Path) -> None:
    write_template(tmp_path)
    settings: Settings = load(tmp_path / "config.toml")
    with open_store(settings.database_url, folder=tmp_path, create=True) as opened:
        for series in (OWN, HOLED, SOL):
            candle_store.save(opened, series)
    found = at.load("BTCUSDT", also=["ETHUSDT", "binance:SOLUSDT 4h"], config=tmp_path / "config.toml")
    assert [len(each) for each in found.others] == [BARS - 3, BARS // 4]
    np.testing.assert_array_equal(found.other("ETHUSDT").close, OWN.beside(HOLED).other("ETHUSDT").close)
