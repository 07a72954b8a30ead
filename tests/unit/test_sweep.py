"""A sweep is single backtests, only cheaper: the same numbers, whatever the threads, the interruptions and what is shared."""

import pickle
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autotrader as at
from autotrader.cli.sweep import document, text
from autotrader.config.sections import Backtest, BotSettings
from autotrader.core.clock import parse_time
from autotrader.core.errors import ConfigError, DataError
from autotrader.core.market import Candles
from autotrader.data.instruments import known
from autotrader.data.sample import eurusd
from autotrader.desk.backtest import backtest, backtest_bot
from autotrader.desk.display import as_kind
from autotrader.desk.sweep import Sweep, sweep
from autotrader.engine.metrics import daily_returns
from autotrader.engine.signals import Signals, from_rules
from autotrader.engine.simulate import Run
from autotrader.plots.tables import grid_svg
from autotrader.results.grid import left_said, verdict
from autotrader.search.book import DONE, EVERY, LEFT, TrialLedger
from autotrader.search.evaluate import STATS
from autotrader.search.grid import FEWEST_TRIPS, GridResult, explore
from autotrader.search.ranges import as_ranges, combinations, keyed
from autotrader.search.task import Task, task_for, task_of
from autotrader.search.variant import variants
from autotrader.store.candles import save
from autotrader.store.database import Store, open_store
from autotrader.store.series import save_instrument
from autotrader.strategy.templates import DonchianBreakout, EmaTrend, own
from autotrader.validation.trials import counted

MINUTE = 60_000


@pytest.fixture(scope="module")
def prices() -> Candles:
    return eurusd()[:2_500]


@pytest.fixture(scope="module")
def minutes() -> Candles:
    "Three weeks of minutes around a new quarter, where one-minute bots begin their history anew."
    random = np.random.default_rng(11)
    n = 21 * 1440
    close = np.round(60_000 * np.exp(np.cumsum(random.normal(0, 0.0007, n))), 2)
    opens = np.r_[60_000.0, close[:-1]]
    reach = np.round(np.abs(random.normal(0, 20, (2, n))), 2)
    return Candles(
        venue="bybit",
        symbol="BTCUSDT",
        timeframe="1m",
        open_ms=parse_time("2024-12-22") + np.arange(n, dtype=np.int64) * MINUTE,
        open=opens,
        high=np.maximum(opens, close) + reach[0],
        low=np.minimum(opens, close) - reach[1],
        close=close,
        volume=random.lognormal(3, 1, n),
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store("sqlite:///desk.db", folder=tmp_path, create=True) as opened:
        yield opened


def row(stats: Any) -> np.ndarray:
    values = stats.as_dict()
    return np.array([np.nan if values[name] is None else values[name] for name in STATS], float)


def nested(changes: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    "What a single backtest is given for a combination: bot, costs, parameters of the strategy."
    bot: dict[str, Any] = {"split_entry": {"enabled": True}}
    costs, params = {}, {}
    for key, value in changes.items():
        *tables, name = key.split(".")
        if tables == ["backtest"]:
            costs[name] = value
        elif tables == ["strategy_params"] and name not in ("sl_ratio", "tp_ratio"):
            params[name] = value
        else:
            here = bot
            for table in tables:
                here = here.setdefault(table, {})
            here[name] = value
    return bot, costs, params


def same(played: Run, sweep: Sweep, place: int, wallet_e8: int) -> bool:
    daily = daily_returns(played, wallet_e8).astype(np.float32)
    return np.array_equal(sweep.book.daily[place], daily) and np.array_equal(sweep.book.day_ms, played.day_ms)


RANGES = {
    "fast": "5:25:10",
    "slow": "15:55:20",
    "sl_ratio": "1:3:1",
    "dynamic_sizing.atr_period": [10, 14],
    "split_entry.count": [1, 3],
    "split_entry.method": "time,price",
    "decision.flip": [True, False],
    "equity_frac": [0.2, 0.5],
    "initial_capital_usdt": [1_000, 50_000],
}


@pytest.mark.parametrize("series", ["prices", "minutes"])
def test_every_number_is_that_of_a_single_backtest(series: str, request: pytest.FixtureRequest) -> None:
    candles = request.getfixturevalue(series)
    thin = (
        RANGES if series == "prices" else {"fast": "100:200:50", "slow": "150:450:150", **dict([*RANGES.items()][2:5])}
    )
    task = task_of("ema_trend", candles, bot={"split_entry": {"enabled": True}})
    found = explore(task, thin, threads=2)
    picked = np.random.default_rng(1).choice(found.table.index, 25, replace=False)
    for place in picked:
        bot, costs, params = nested(found.changes[place])
        alone = backtest(EmaTrend(**params), candles, bot=bot, costs=costs)
        assert np.array_equal(found.book.stats[place], row(alone.stats), equal_nan=True), found.changes[place]
        assert same(alone.run, found, place, alone.part.wallet_e8)
    assert found.book.stats[picked, STATS.index("trades")].max() > 0
    skipped = [each for i, each in enumerate(found.changes) if i not in found.table.index]
    assert skipped and all(each["strategy_params.fast"] >= each["strategy_params.slow"] for each in skipped)


def test_a_configured_bot_sees_the_history_before_its_period(store: Store) -> None:
    bot = BotSettings(
        name="A", id="A", venue="sample", symbol="EURUSD", timeframe="1h", sizing="equity_frac", decision={"strategy": "donchian_breakout"}
    )  # fmt: skip
    span = {"since_ms": parse_time("2017-06-01"), "until_ms": parse_time("2017-09-01")}
    task = task_for(bot, store, Backtest(), **span)
    assert len(task.history) > len(task.market.candles)
    found = explore(task, ["channel=20:60:20", "exit_channel=10:30:10", "tp_ratio=1,3"], threads=2)
    for place in found.table.index[::4]:
        changed = bot.model_copy(
            update={"strategy_params": type(bot.strategy_params)(**{k.split(".")[1]: v for k, v in found.changes[place].items()})}
        )  # fmt: skip
        alone = backtest_bot(changed, store, Backtest(), **span)
        assert np.array_equal(found.book.stats[place], row(alone.stats), equal_nan=True)


def test_a_change_of_the_venues_rules_reaches_every_combination(store: Store) -> None:
    "Later sizes, leverage and fees are those of the combination, not of the first one."
    btc, n, begin_ms = known("bybit", "BTCUSDT"), 600, parse_time("2024-01-01")
    assert btc is not None
    close = (100_000 + 5_000 * np.sin(np.arange(n) / 7)).round(1)
    opens = np.r_[close[0], close[:-1]]
    bars = Candles(
        venue="bybit", symbol="BTCUSDT", timeframe="1h", open_ms=begin_ms + np.arange(n, dtype=np.int64) * 60 * MINUTE, open=opens,
        high=np.maximum(opens, close) + 50, low=np.minimum(opens, close) - 50, close=close, volume=np.full(n, 1_000.0),
    )  # fmt: skip
    save(store, bars)
    dearer = replace(btc.rules, taker_fee=Decimal("0.002"), since_ms=int(bars.open_ms[n // 2]))
    for rules in (replace(btc.rules, since_ms=begin_ms), dearer):
        save_instrument(store, replace(btc, rules=rules))
    raw = {"name": "w", "id": "w", "venue": "bybit", "symbol": "BTCUSDT", "timeframe": "1h", "sizing": "lot", "base_lot": 0.01, "decision": {"strategy": "ema_trend"}}  # fmt: skip
    ranges = {"fast": [3, 5], "sl_ratio": [1, 3], "base_lot": [0.01, 0.05], "backtest.slippage_bps": [2, 9]}
    span = {"since_ms": begin_ms, "until_ms": begin_ms + n * 60 * MINUTE}
    task = task_for(BotSettings(**raw, strategy_params={"fast": 3, "slow": 12}), store, Backtest(), **span)
    found = explore(task, ranges, threads=2)
    assert len(task.market.changes) == 1 and len(found.table) == 8 and found.table["trades"].min() > 20
    assert found.table["fees"].nunique() == 8 and found.dearer is not None
    for place, changes in enumerate(found.changes):
        params = {"slow": 12} | {k.split(".")[1]: v for k, v in changes.items() if k.startswith("strategy_params.")}
        bot = BotSettings(**raw | {"base_lot": changes["base_lot"], "strategy_params": params})
        alone = backtest_bot(bot, store, Backtest(), **span)
        assert np.array_equal(found.book.stats[place], row(alone.stats), equal_nan=True), changes
        assert same(alone.run, found, place, alone.part.wallet_e8)
        for scenario, slippage_bps in enumerate((2, 9)):
            dear = backtest_bot(bot, store, Backtest(slippage_bps=slippage_bps), **span)
            assert np.array_equal(found.dearer.stats[8 * scenario + place], row(dear.stats), equal_nan=True), changes


def test_any_number_of_threads_gives_the_same_bytes(prices: Candles) -> None:
    task = task_of("ema_trend", prices)
    found = [explore(task, {"fast": "5:50:5", "slow": "40:80:20", "sl_ratio": "1:3:0.5"}, threads=n) for n in (1, 2, 5)]
    assert (
        len({(each.book.stats.tobytes(), each.book.daily.tobytes(), each.book.state.tobytes()) for each in found}) == 1
    )
    assert len({(each.plateau.chosen, grid_svg(each), *verdict(each)) for each in found}) == 1


class Impatience:
    "Somebody who presses Ctrl-C, once."

    def __init__(self, after: int) -> None:
        self.after, self.pressed = after, 0

    def __call__(self, done: int, total: int) -> None:
        if done >= self.after and not self.pressed:
            self.pressed += 1
            raise KeyboardInterrupt


WIDE = {"fast": "5:10:1", "slow": "20:65:5", "sl_ratio": "1:2:0.1"}  # 660 combinations


def played_again(found: GridResult, task: Task, **options: Any) -> tuple[GridResult, int]:
    "The sweep gone on with, and how many backtests that took."
    seen: list[int] = []
    before = int((found.book.state == DONE).sum())
    whole = explore(task, WIDE, tell=lambda done, _: seen.append(done), **options)
    assert not seen or min(seen) > before
    return whole, (max(seen) - before) if seen else 0


def test_an_interrupted_sweep_goes_on_and_ends_like_one_that_was_not(prices: Candles, tmp_path: Path) -> None:
    task = task_of("ema_trend", prices[:400])
    uninterrupted = explore(task, WIDE, threads=2)
    part = explore(task, WIDE, threads=2, folder=tmp_path, tell=Impatience(540))
    done = int((part.book.state == DONE).sum())
    assert 540 <= done < 660
    assert len(part.table) == done
    assert not part.is_whole
    assert any("still to be played: the same sweep again goes on from here" in line for line in verdict(part))
    assert np.isnan(part.book.stats[part.book.state == LEFT]).all()
    assert len(list(tmp_path.iterdir())) == 1
    again, took = played_again(part, task, threads=2, folder=tmp_path)
    assert took == 660 - done
    assert again.book.stats.tobytes() == uninterrupted.book.stats.tobytes()
    assert again.book.daily.tobytes() == uninterrupted.book.daily.tobytes()
    assert verdict(again) == verdict(uninterrupted)
    assert not list(tmp_path.iterdir())


def test_another_question_does_not_go_on_with_the_answers_to_this_one(prices: Candles, tmp_path: Path) -> None:
    task = task_of("ema_trend", prices[:400])
    explore(task, WIDE, folder=tmp_path, tell=Impatience(540))
    (kept,) = tmp_path.iterdir()
    dearer = replace(task, costs=Backtest(slippage_bps=9))
    richer = replace(task, bot=task.bot.model_copy(update={"initial_capital_usdt": 5.0}))
    later = task_of("ema_trend", prices[1:401])
    shorter = replace(task, market=replace(task.market, candles=task.market.candles[100:]))  # same history
    for other in (dearer, richer, later, shorter):
        new = explore(other, WIDE, folder=tmp_path, tell=Impatience(1))
        assert 0 < (new.book.state == DONE).sum() < 540
    assert len({*tmp_path.iterdir(), kept}) == 5
    kept.write_bytes(kept.read_bytes()[:5_000])  # half a file is no file
    assert explore(task, WIDE, folder=tmp_path).is_whole


def rule(bars: int) -> Callable[..., Signals]:
    def momentum(candles: Candles, *, lag: int = 24) -> Signals:
        past = np.r_[np.full(lag + bars, np.nan), candles.close[: -(lag + bars)]]
        up, down = candles.close > past, candles.close < past
        return from_rules(long=up, short=down, exit_long=down, exit_short=up)

    return momentum


def test_a_rewritten_function_is_played_again(prices: Candles, tmp_path: Path) -> None:
    lags = {"lag": "2:31:1", "sl_ratio": "1:3:0.1"}
    old, new = (own(rule(bars), warmup=lambda lag: lag + 5) for bars in (0, 3))
    explore(task_of(old, prices[:500]), lags, folder=tmp_path, tell=Impatience(540))
    fresh = explore(task_of(new, prices[:500]), lags, folder=tmp_path)
    assert fresh.book.stats.tobytes() == explore(task_of(new, prices[:500]), lags).book.stats.tobytes()
    seen: list[int] = []
    explore(task_of(old, prices[:500]), lags, folder=tmp_path, tell=lambda done, _: seen.append(done))
    assert min(seen) > 540


def test_a_strategy_may_be_given_whole_by_name_or_as_a_function_that_makes_it(prices: Candles) -> None:
    ways = (
        "donchian_breakout",
        DonchianBreakout(),
        DonchianBreakout,
        lambda channel: DonchianBreakout(channel=channel),
    )
    found = [sweep(way, prices, {"channel": [15, 30]}, progress=False).book.stats.tobytes() for way in ways]
    assert len(set(found)) == 1
    kept = sweep(DonchianBreakout(exit_channel=5), prices, {"channel": [15, 30]}, progress=False)
    assert kept.book.stats.tobytes() != found[0]
    stuck = own(rule(0), warmup=5)
    with pytest.raises(ConfigError, match=r"parameter of momentum 'fast' is unknown"):
        sweep(stuck, prices, {"fast": [1, 2]}, progress=False)


def test_the_ledger_counts_each_combination_once_whoever_asks(prices: Candles, store: Store) -> None:
    bot = BotSettings(name="A", id="A", venue="sample", symbol="EURUSD", timeframe="1h", sizing="equity_frac")
    span = {"since_ms": parse_time("2017-06-01"), "until_ms": parse_time("2017-08-01")}
    task, ranges = task_for(bot, store, Backtest(), **span), [
        "fast=5:20:5",
        "sl_ratio=1:2:0.5",
        "equity_frac=0.2,0.5",
    ]
    first = explore(task, ranges, ledger=TrialLedger(store))
    assert first.counted is not None
    assert first.counted.trials == 24
    assert 1 <= first.counted.independent < 24
    again = explore(task, ranges, ledger=TrialLedger(store))
    assert (first.fresh, again.fresh) == (24, 0)
    assert list(left_said(again))[-1].startswith("0 combinations new to the ledger")
    found, _ = variants(task, list(combinations(keyed(as_ranges(ranges)))))
    for variant in found[::5]:
        backtest_bot(variant.bot, store, variant.costs, **span)
    assert counted(store, venue="sample", symbol="EURUSD").trials == 24
    explore(task, ["fast=5:25:5", "sl_ratio=1:2:0.5"], ledger=TrialLedger(store))
    assert counted(store, venue="sample", symbol="EURUSD").trials == 24 + 3


def test_what_an_interrupted_sweep_kept_is_in_the_ledger(prices: Candles, store: Store, tmp_path: Path) -> None:
    task = task_of("ema_trend", prices[:400])
    part = explore(task, WIDE, folder=tmp_path / "kept", ledger=TrialLedger(store), tell=Impatience(EVERY + 30))
    assert counted(store, venue="sample", symbol="EURUSD").trials == int((part.book.state == DONE).sum())
    whole = explore(task, WIDE, folder=tmp_path / "kept", ledger=TrialLedger(store))
    assert whole.is_whole
    assert counted(store, venue="sample", symbol="EURUSD").trials == 660


@pytest.mark.parametrize("every", [20, EVERY])  # the file is not written each time something is counted
def test_a_ledger_that_fails_keeps_nothing_it_did_not_count(
    prices: Candles, store: Store, tmp_path: Path, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotrader.search.book.EVERY", every)

    class Full(TrialLedger):
        asked = 0

        @property
        def clock(self) -> Any:
            Full.asked += 1
            if Full.asked == 2:
                raise OSError("no space left")
            return self._clock

        @clock.setter
        def clock(self, value: Any) -> None:
            self._clock = value

    task = task_of("ema_trend", prices[:400])
    with pytest.raises(OSError, match="no space left"):
        explore(task, WIDE, folder=tmp_path / "kept", ledger=Full(store))
    in_ledger = counted(store, venue="sample", symbol="EURUSD").trials
    seen: list[int] = []
    explore(task, WIDE, folder=tmp_path / "kept", ledger=TrialLedger(store), tell=lambda done, _: seen.append(done))
    assert 0 < in_ledger < min(seen) <= in_ledger + 64
    assert counted(store, venue="sample", symbol="EURUSD").trials == 660


def peak_bytes(task: Task, ranges: Any) -> int:
    tracemalloc.start()
    found = explore(task, ranges, threads=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak - found.book.stats.nbytes - found.book.daily.nbytes


def test_memory_does_not_grow_with_the_number_of_signals(minutes: Candles) -> None:
    task = task_of("ema_trend", minutes)
    few, many = (peak_bytes(task, {"gap_atr": f"0:{k / 50}:0.02"}) for k in (10, 130))
    assert many < few + 40 * 10 * len(minutes)  # of 120 more signals with ten bytes a bar


@pytest.mark.parametrize(
    ("ranges", "told"),
    [
        ({"fast": [1, 5]}, "ema_trend.fast must lie between 2 and 200, was 1"),
        ({"fast": [5.5, 6]}, "ema_trend.fast must be a whole number, was 5.5"),
        ({"fats": [5, 6]}, "parameter of ema_trend 'fats' is unknown: did you mean 'fast'"),
        ({"risk.max_drawdown": [0.1, 1.5]}, "risk.max_drawdown = 1.5 must be less than 1"),
        ({"split_entry.counts": [1]}, "unknown key; did you mean 'count'"),
        ({"split_entry.count": [1, 99]}, "split_entry.count = 99 must be 7 or less"),
        ({"split_entry.count.more": [1]}, "split_entry.count must be a whole number"),
        ({"backtest.slippage_bps": [-1, 1]}, "slippage_bps"),
        ({"backtest.slipage": [1, 2]}, "slipage"),
        ({"symbol": ["BTCUSDT"]}, "symbol says what is played, not how"),
        ({"decision.source": ["gemini"]}, "decision.source says what is played, not how"),
        ({}, "nothing is varied"),
    ],
)
def test_a_value_no_combination_can_use_is_refused_in_one_line(prices: Candles, ranges: Any, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        sweep("ema_trend", prices, ranges, progress=False)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def test_bars_that_cannot_be_played_are_refused_as_in_a_backtest(prices: Candles) -> None:
    broken = replace(prices, close=np.where(np.arange(len(prices)) == 7, np.nan, prices.close))
    with pytest.raises(DataError, match="bar 7"):
        sweep("ema_trend", broken, {"fast": [5, 6]}, progress=False)


def test_an_error_of_a_strategy_ends_the_sweep_and_is_told(prices: Candles) -> None:
    def short(candles: Candles, *, lag: int = 3) -> Signals:
        kept = slice(0, len(candles) - (lag > 20))
        up = candles.close[kept] > candles.open[kept]
        return from_rules(long=up, short=~up, exit_long=~up, exit_short=up)

    with pytest.raises(ConfigError, match=r"short.signals must return one value per bar"):
        sweep(own(short, warmup=0), prices, {"lag": range(3, 40)}, threads=2, progress=False)


def test_less_is_better_where_a_metric_says_so(prices: Candles) -> None:
    found = sweep("ema_trend", prices, {"fast": "5:25:5", "sl_ratio": "1:3:1"}, metric="max_drawdown", progress=False)
    traded = found.table[
        found.table["trades"] >= FEWEST_TRIPS
    ]  # who does not trade falls by nothing, and proves nothing
    assert 0 < len(traded) < len(found.table)
    assert found.peak["max_drawdown"] == traded["max_drawdown"].min() > found.table["max_drawdown"].min()
    assert found.best["max_drawdown"] <= traded["max_drawdown"].median()
    assert any(line.endswith("made fewer than 10 round trips, too few to be compared.") for line in found.verdict)
    with pytest.raises(ConfigError, match=r"metric 'drawdown' is unknown: .*max_drawdown"):
        sweep("ema_trend", prices, {"fast": [5, 6]}, metric="drawdown", progress=False)


def test_who_proposes_can_be_told_and_a_function_of_the_grid_may(prices: Candles) -> None:
    ranges = {"fast": "5:25:5", "slow": "30:60:10"}

    def calmest(grid: GridResult) -> int:
        return int(grid.table["max_drawdown"].idxmin())

    plateau, best, own_way = (sweep("ema_trend", prices, ranges, selector=each, progress=False) for each in ("plateau", "best", calmest))  # fmt: skip
    assert plateau.chosen == plateau.plateau.chosen
    assert best.chosen == best.plateau.peak and best.best["sharpe"] == best.table["sharpe"].max()
    assert own_way.best["max_drawdown"] == own_way.table["max_drawdown"].min()
    assert own_way.verdict[0].startswith("Chosen by calmest from 20 combinations: ")
    assert best.result().stats.sharpe == best.best["sharpe"] and best.config[0] == f"strategy_params.fast={best.best.iloc[0]:g}"  # fmt: skip
    assert "A peak is mostly luck: its neighbours were not asked." in best.verdict
    nobody = sweep("ema_trend", prices, ranges, selector=lambda grid: None, progress=False)
    assert nobody.verdict[0] == "<lambda> chose none of 20 combinations." and "<svg" not in nobody._repr_html_()
    for wrong, told in {(lambda grid: 99): "returned 99", (lambda grid: 1 / 0): "raised ZeroDivisionError: division by zero"}.items():  # fmt: skip
        with pytest.raises(ConfigError, match=f"selector <lambda> {told}"):
            sweep("ema_trend", prices, ranges, selector=wrong, progress=False).chosen  # noqa: B018
    with pytest.raises(ConfigError, match="selector 'peak' is unknown: "):
        sweep("ema_trend", prices, ranges, selector="peak", progress=False)


def test_an_axis_that_cannot_matter_is_refused_and_one_that_did_not_is_named(prices: Candles) -> None:
    with pytest.raises(ConfigError, match=r'trail_step is read with strategy_params.sl_kind = "trailing" only, which is "fixed" here'):  # fmt: skip
        sweep("ema_trend", prices, {"trail_step": [0.1, 0.2]}, progress=False)
    read = sweep("ema_trend", prices, {"trail_step": [0.1, 0.9], "sl_kind": ["trailing", "fixed"]}, progress=False)
    assert read.idle == ()
    wide = sweep("ema_trend", prices, {"fast": [6, 12], "tp_ratio": [500, 900]}, progress=False)
    assert wide.idle == ("strategy_params.tp_ratio",)
    assert "tp_ratio made no difference: each of its values gave the same runs." in wide.verdict


def test_a_strategy_that_never_trades_has_no_plateau_and_says_so(prices: Candles) -> None:
    def silent(candles: Candles) -> Signals:
        never = np.zeros(len(candles), bool)
        return from_rules(long=never, short=never, exit_long=never, exit_short=never)

    found = sweep(own(silent, warmup=0), prices, {"sl_ratio": [1, 2]}, progress=False)
    assert found.verdict[0] == "None of 2 combinations has a Sharpe ratio: they did not trade, or on too few days."
    assert "<svg" not in found._repr_html_()
    assert "best" not in repr(found)


def wandering(seed: int, days: int = 90) -> Candles:
    "Hours of a random walk: nothing to be earned, and costs to be paid."
    n = days * 24
    close = 60_000 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.005, n)))
    opens = np.r_[60_000.0, close[:-1]]
    return Candles(
        venue="bybit",
        symbol="BTCUSDT",
        timeframe="1h",
        open_ms=parse_time("2024-01-01") + np.arange(n, dtype=np.int64) * 60 * MINUTE,
        open=opens,
        high=np.maximum(opens, close) * 1.001,
        low=np.minimum(opens, close) * 0.999,
        close=close,
        volume=np.full(n, 1e4),
    )


@pytest.mark.parametrize("selector", ["plateau", "best", lambda grid: int(grid.table["return"].idxmin())])
@pytest.mark.parametrize("metric", ["sharpe", "return", "profit_factor", "max_drawdown"])
@pytest.mark.parametrize("seed", [3, 4, 5])
def test_where_the_best_earns_nothing_nothing_is_proposed(seed: int, metric: str, selector: Any) -> None:
    "Held against what earns nothing: 0, or 1 for a profit factor; a drawdown says nothing of earning."
    task = task_of("ema_trend", wandering(seed))
    found = as_kind(Sweep, explore(task, {"fast": "5:20:5", "slow": "30:60:15"}, metric=metric, selector=selector))
    plain = found.plateau.level.ravel()[found.chosen] if selector == "plateau" else found.best[metric]
    assert found.holds == (metric == "max_drawdown" or plain > (1.0 if metric == "profit_factor" else 0.0))
    told, page, said = document(found), found._repr_html_(), found.verdict
    assert told["holds"] is found.holds and told["set"] == (list(found.config) if found.holds else [])
    assert ("To set it: --set " in text(found)) == found.holds
    assert any(line.startswith("Nothing is proposed; ") for line in said) == (not found.holds)
    assert ("Nothing is proposed; " in page) == (not found.holds) and ("none holds" in repr(found)) == (not found.holds)
    lost = (found.table["return"] < 0).mean()
    assert any("% of them lose" in line or "all of them lose" in line for line in said[:2]) or lost <= 0.5
    if selector == "plateau" and not found.holds:
        assert said[0].startswith("No region of 12 combinations holds: ")


def test_a_grid_that_loses_everywhere_is_found_among_random_walks(tmp_path: Path) -> None:
    "The report of such a one names no setting to copy."
    found = as_kind(Sweep, explore(task_of("ema_trend", wandering(4, 400)), {"fast": "5:15:5", "slow": "40:90:25"}))
    assert not found.holds and found.verdict[0].startswith("No region of 9 combinations holds: ")
    page = found.report(tmp_path / "sweep.html").read_text()
    assert "Nothing is proposed; what came nearest: " in page and "--set" not in page


def test_what_is_said_of_a_plateau_is_a_value_that_a_member_has() -> None:
    found = as_kind(Sweep, explore(task_of("ema_trend", wandering(5)), {"fast": "5:20:5", "slow": "30:60:15"}))
    members = found.table["sharpe"][found.plateau.mask.ravel()[found.table.index]]
    assert found.holds and len(members) > 1
    assert (
        f"{len(members)} combinations hang together there; the worst of them has {members.min():.2f}." in found.verdict
    )
    assert "What is proposed first, then by level" in text(found)


def test_the_result_says_first_what_it_proposes_and_escapes_what_others_wrote(prices: Candles) -> None:
    evil = replace(prices, notes=("<script>alert(1)</script>",))
    found = sweep("ema_trend", evil, {"fast": "5:25:5", "slow": "30:60:10"}, progress=False)
    page = found._repr_html_()
    assert page.index("No region of 20 combinations holds: ") < page.index("<svg") < page.index("<table")
    assert "<script>" not in page
    assert "no ledger counts" in page
    assert found.config == tuple(f"{k}={v}" for k, v in found.changes[found.plateau.chosen].items())
    assert found.result().stats.sharpe == found.best["sharpe"]
    with pytest.raises(ConfigError, match="there is no combination 20: they go from 0 to 19"):
        found.result(20)
    with pytest.raises(ConfigError, match="parameter of the sweep 'volume' is unknown"):
        found.svg("volume")


def test_a_task_and_its_sweep_can_be_sent_to_another_process(prices: Candles) -> None:
    task = pickle.loads(pickle.dumps(task_of("ema_trend", prices)))
    found = pickle.loads(pickle.dumps(explore(task, {"fast": [5, 10]})))
    assert found.table.equals(explore(task, {"fast": [5, 10]}).table)


def test_the_sweep_is_offered_at_the_front_door() -> None:
    assert at.sweep is sweep


def test_the_kinds_of_stops_are_varied_like_any_setting(prices: Candles) -> None:
    kinds = ["sl_kind=fixed,trailing,break_even", "sl_unit=atr,percent", "sl_ratio=0.5,2", "trail_step=0.1,0.5"]
    found = explore(task_of("ema_trend", prices), kinds, threads=2)
    assert len(found.table) == 24
    returns = {}
    for place, changes in enumerate(found.changes):
        stop = {key.removeprefix("strategy_params."): value for key, value in changes.items()}
        alone = backtest("ema_trend", prices, bot={"strategy_params": stop})
        assert np.array_equal(found.book.stats[place], row(alone.stats), equal_nan=True), stop
        assert bool(alone.run.notes.get("STOP_MOVED")) == (stop["sl_kind"] != "fixed"), stop
        returns[tuple(stop.values())] = alone.stats.return_frac
    narrow = {
        kind: [returns[kind, "atr", 0.5, step] for step in (0.1, 0.5)] for kind in ("fixed", "trailing", "break_even")
    }
    assert (
        len({*narrow["fixed"], *narrow["trailing"], *narrow["break_even"]}) == 1 + 2 + 1
    )  # a step is for trailing alone
