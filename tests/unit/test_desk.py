"""A researcher's first lines: what is stored comes out, whole or in part, and says what it lacks."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autotrader as at
from autotrader.config.sections import BotSettings
from autotrader.config.settings import load
from autotrader.core.clock import parse_time
from autotrader.core.errors import ConfigError, DataError
from autotrader.data.sample import eurusd
from autotrader.desk.bots import backtest_bots
from autotrader.store.candles import save
from autotrader.store.database import open_store

ROOT = Path(__file__).resolve().parents[2]
HOUR = 3_600_000


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A desk with three hundred hours of BTCUSDT, without funding."
    file = tmp_path_factory.mktemp("desk") / "config.toml"
    shutil.copyfile(ROOT / "nbs" / "05_config" / "sample.toml", file)
    settings, sample = load(file), at.load("EURUSD", venue="sample")[:300]
    prices = {name: np.round(getattr(sample, name) * 50_000, 1) for name in ("open", "high", "low", "close")}
    open_ms = parse_time("2025-03-08") + HOUR * np.arange(300)
    btc = replace(sample, venue="bybit", symbol="BTCUSDT", open_ms=open_ms, notes=(), **prices)
    with open_store(settings.database_url, folder=settings.folder, create=True) as store:
        save(store, btc)
    return file


def test_open_ends_are_the_ends_of_what_is_stored(config: Path) -> None:
    candles = at.load("BTC/USDT", config=config)
    assert len(candles) == 300
    assert not any("candles cover" in note for note in candles.notes)
    assert len(at.load("BTCUSDT", since="2025-03-10", config=config)) == 300 - 48
    assert len(at.load("BTCUSDT", until="2025-03-10", config=config)) == 48


def test_a_period_that_is_not_all_there_is_said(config: Path) -> None:
    candles = at.load("BTCUSDT", since="2025-03-01", config=config)
    assert any(note.startswith("candles cover 2025-03-08") for note in candles.notes)


def test_missing_funding_is_in_the_verdict_and_the_notes(config: Path) -> None:
    result = at.backtest("ema_trend", at.load("BTCUSDT", config=config))
    assert "funding not counted" in result._repr_html_()
    assert any("funding" in note for note in result.part.notes)


def test_a_note_is_said_once_however_often_the_same_bars_are_played(config: Path) -> None:
    once = at.backtest("ema_trend", at.load("BTCUSDT", config=config)).part
    assert once.history is not None and len(once.notes) == len(set(once.notes)) > 0
    again = at.backtest("rsi_reversion", once.history).part
    assert again.notes == once.notes


def test_a_note_of_many_bots_tells_how_many_and_one_of_all_nobody(config: Path) -> None:
    settings = load(config)
    (config.parent / "desk.db").unlink(missing_ok=True)
    names = [f"B{i}" for i in range(5)]
    split = {"split_entry": {"enabled": True, "method": "time"}}
    bots = [
        BotSettings(
            name=name, id=name, venue="sample", symbol="EURUSD", sizing="equity_frac", **(split if i < 4 else {})
        )
        for i, name in enumerate(names)
    ]
    span = (parse_time("2017-06-01"), parse_time("2017-07-01"))
    with open_store("sqlite:///desk.db", folder=config.parent, create=True) as store:
        found = backtest_bots(bots, store, settings, *span)
        few = backtest_bots(bots[2:], store, settings, *span)
    notes = found.told["notes"]
    assert len(notes) == len(set(notes)) and not any(name in note for note in notes for name in names)
    assert [note.partition(":")[0] for note in notes if "parts of an entry" in note] == ["4 of 5 bots"]
    assert [note.partition(":")[0] for note in few.told["notes"] if "parts of an entry" in note] == ["B2, B3"]


def test_a_market_nobody_stored_is_refused_with_the_remedy(config: Path) -> None:
    with pytest.raises(DataError, match=r"ETHUSDT.*autotrader data"):
        at.load("ETHUSDT", config=config)


def test_an_impossible_cost_or_bot_is_refused_by_name(config: Path) -> None:
    candles = at.load("BTCUSDT", config=config)
    with pytest.raises(ConfigError, match="slippage_bps"):
        at.backtest("ema_trend", candles, costs={"slippage_bps": -1.0})
    with pytest.raises(ConfigError, match="max_leverage"):
        at.backtest("ema_trend", candles, bot={"max_leverage": 0})


@pytest.mark.parametrize("verb", [at.backtest, at.rehearse])
def test_no_strategy_is_not_some_strategy(verb: Any) -> None:
    with pytest.raises(ConfigError, match="there is no strategy, it is None"):
        verb(None, eurusd()[:300])
