"""Bots with one purse through orders, accounts, journals and a database: what is tried is what trades."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from series import length
from test_decision_parity import HARD

import autotrader as at
from autotrader.core.clock import parse_time
from autotrader.core.errors import ConfigError
from autotrader.core.market import Candles
from autotrader.engine.events import EVENT, EventKind, Money, Purpose
from autotrader.runner.parity import decision_parity
from autotrader.runner.rehearsal import rehearse
from autotrader.store import journal
from autotrader.store.database import open_store
from autotrader.strategy.setup import Part, simulate, simulate_all

HOUR = 3_600_000
SINCE = parse_time("2025-03-08")


def walk(symbol: str, seed: int, bars: int = 420, shift: int = 0) -> Candles:
    "An hourly market with funding; it begins so many hours late."
    rng = np.random.default_rng(seed)
    close = np.round(100.0 * np.exp(np.cumsum(rng.normal(0, 0.006, bars))), 2)
    opens = np.r_[100.0, close[:-1]]
    stamps = SINCE + HOUR * (shift + np.arange(bars, dtype=np.int64))
    return Candles(
        venue="bybit",
        symbol=symbol,
        timeframe="1h",
        open_ms=stamps,
        open=opens,
        high=np.round(np.maximum(opens, close) * 1.002, 2),
        low=np.round(np.minimum(opens, close) * 0.998, 2),
        close=close,
        volume=np.full(bars, 1e6),
        funding=(stamps[stamps % (8 * HOUR) == 0], rng.normal(1e-4, 2e-4, int((stamps % (8 * HOUR) == 0).sum()))),
    )


def trend(candles: Candles) -> at.Signals:
    "Long or short by which side of its average the market is on; more the farther it is."
    average = at.compute("sma", candles, period=50)
    return at.from_targets(np.clip(10 * (candles.close / average - 1.0), -0.6, 0.6))


def crossing(candles: Candles) -> at.Signals:
    fast, slow = at.compute("ema", candles, period=5), at.compute("ema", candles, period=20)
    up = fast > slow
    return at.from_rules(long=up, short=~up, exit_long=~up, exit_short=up)


MARKETS = [walk("BTCUSDT", 1), walk("ETHUSDT", 2, shift=3), walk("SOLUSDT", 3, bars=390)]
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "weights": (at.own(trend, warmup=50), {"strategy_params": {"sl_ratio": 0.0}}),
    "signals with stops": (at.own(crossing, warmup=80), {"equity_frac": 0.3, "risk": {"max_losses": 0}}),
    "one rule each": (
        {"BTCUSDT": at.own(trend, warmup=50), "ETHUSDT": at.own(crossing, warmup=80), "SOLUSDT": "ema_trend"},
        {"equity_frac": 0.4, "split_entry": {"enabled": True, "method": "price", "count": 2}},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_rehearsal_of_a_purse_is_its_backtest(kind: str) -> None:
    strategy, bot = KINDS[kind]
    played = at.backtest(strategy, MARKETS, bot=bot)
    lived = at.rehearse(strategy, MARKETS, bot=bot)
    assert lived.is_sound
    for one, two in zip(played.results, lived.results, strict=True):
        assert len(one.run.fills) > 5
        np.testing.assert_array_equal(one.run.fills, two.run.fills)
        np.testing.assert_array_equal(one.run.equity_e8, two.run.equity_e8)
        assert two.comparison["decision"]["exact"] and two.comparison["model"]["equal"]
    assert played.stats == lived.stats


def parts_of(kind: str) -> list[Part]:
    strategy, bot = KINDS[kind]
    return [each.part for each in at.backtest(strategy, MARKETS, bot=bot).results]


@pytest.mark.parametrize("seed", range(1, 1 + length(1, soak=6)))
def test_on_rough_days_journals_fold_to_the_same_bytes_and_the_purse_adds_up(seed: int, tmp_path: Path) -> None:
    parts = parts_of("weights")
    with open_store("sqlite:///rough.db", folder=tmp_path, create=True) as store:
        done = rehearse(parts, store, rough=seed, roughness=HARD).performances
        for each in done:
            report = decision_parity(store, each.result.part.bot)
            assert report.is_exact, report.fault
            events = journal.read(store, each.result.part.bot, EVENT)
            told = events[(events["kind"] == EventKind.MONEY) & (events["code"] == Money.OTHERS)]
            assert len(told) > 100
    wallets = sum(int(each.result.run.state["wallet_e8"][0]) for each in done)
    earned = sum(
        int(r.run.fills["pnl_e8"].sum() - r.run.fills["fee_e8"].sum() + r.run.payments["amount_e8"].sum())
        for r in (each.result for each in done)
    )
    assert wallets - sum(part.wallet_e8 for part in parts) == earned


def test_a_purse_is_more_than_its_parts_alone() -> None:
    "A weight counts on the money of all: alone each bot would trade a third of it."
    parts = parts_of("weights")
    shared, alone = simulate_all(parts), [simulate(part) for part in parts]
    first = [run.fills[run.fills["purpose"] == Purpose.ENTRY][0] for run in (shared[0], alone[0])]
    assert first[0]["ts_ms"] == first[1]["ts_ms"]
    assert first[0]["qty"] == pytest.approx(3 * first[1]["qty"], rel=0.01)


def test_the_drawdown_limit_is_of_the_whole() -> None:
    played = at.backtest(
        at.own(trend, warmup=50),
        MARKETS,
        bot={"strategy_params": {"sl_ratio": 0.0}, "risk": {"max_drawdown": 0.03, "daily_loss": 0.0}},
    )
    pauses = [each.run.notes.get("DRAWDOWN", 0) for each in played.results]
    assert sum(count > 0 for count in pauses) >= 2  # who holds a position at the time leaves it
    equity = played.equity.to_numpy()
    assert (1 - equity / np.maximum.accumulate(equity)).max() > 0.03


def always(candles: Candles) -> at.Signals:
    return at.from_targets(np.ones(len(candles)))


def test_a_purse_is_pledged_once() -> None:
    bare = {"max_leverage": 1.0, "risk": {"max_drawdown": 0.0, "daily_loss": 0.0, "max_losses": 0}}
    for play in (at.backtest, at.rehearse):
        with pytest.raises(
            ConfigError, match=r"may together hold 3 times what they own, at .*, above backtest.leverage \(1\)"
        ):
            play(at.own(always, warmup=0), MARKETS, bot=bare, costs={"leverage": 1.0})
        with pytest.raises(ConfigError, match="may together hold 3 times what they own"):
            sized = {**bare, "equity_frac": 1.0}
            play(at.own(crossing, warmup=80), MARKETS, bot=sized, costs={"leverage": 1.0})
    found = at.backtest(at.own(always, warmup=0), MARKETS, bot=bare, costs={"leverage": 5.0})
    assert found.equity.min() > 0


def test_a_weight_is_held_without_a_stop_unless_one_is_asked_for() -> None:
    bare = at.backtest(at.own(trend, warmup=50), MARKETS[0])
    assert set(bare.fills["reason"]) <= {"entry", "add", "reduce", "exit"} and "No stops, no targets." in bare.verdict
    asked = at.backtest(at.own(trend, warmup=50), MARKETS[0], bot={"strategy_params": {"sl_ratio": 1.0}})
    assert "stop" in set(asked.fills["reason"])


@pytest.mark.parametrize("play", [at.backtest, at.rehearse])
@pytest.mark.parametrize(
    "word", [{"fine": MARKETS[0]}, {"instrument": at.instrument(MARKETS[0])}], ids=["fine", "instrument"]
)
def test_what_is_of_one_market_is_refused_for_several(play: Any, word: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="fine and instrument are of one market: leave them out") as caught:
        play(at.own(trend, warmup=50), MARKETS, **word)
    assert "\n" not in str(caught.value)


def test_after_ruin_nothing_is_earned_and_nothing_is_unknown() -> None:
    def wager(candles: Candles) -> at.Signals:
        return at.from_targets(np.full(len(candles), 5.0 if candles.symbol == "BTCUSDT" else 0.0), most=5.0)

    close = np.r_[np.full(30, 100.0), np.full(90, 40.0)]
    fall = replace(
        walk("BTCUSDT", 1, bars=120),
        open=np.r_[100.0, close[:-1]],
        high=np.r_[100.0, close[:-1]],
        low=close,
        close=close,
    )
    bot = {
        "max_leverage": 5.0,
        "rebalance_band": 0.2,
        "strategy_params": {"sl_ratio": 0.0},
        "risk": {"max_drawdown": 0.0, "daily_loss": 0.0, "max_losses": 0},
    }
    found = at.backtest(at.own(wager, warmup=0), [fall, walk("ETHUSDT", 2, bars=120)], bot=bot, costs={"leverage": 5.0})
    assert found.equity.index[0] == pd.Timestamp(SINCE + HOUR, unit="ms", tz="UTC"), "the first close"
    assert found.equity.iloc[-1] == 0.0 and found.stats["return"] == -1.0
    assert found.returns.tolist() == pytest.approx([found.equity.iloc[23] / 10_000 - 1, -1.0, 0.0, 0.0, 0.0])
    assert np.isfinite(found.stats["sharpe"])
