"""Walk-forward: chosen on the past alone, played with real costs, counted, and the same wherever it runs."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer import Typer
from typer.testing import CliRunner

from autotrader.cli.walkforward import walkforward as command
from autotrader.config import logs
from autotrader.config.settings import load, write_template
from autotrader.core.clock import DAY_MS, SimulatedClock, parse_time
from autotrader.core.errors import ConfigError, DataError
from autotrader.core.executor import Serial, open_executor
from autotrader.core.market import Candles
from autotrader.data.sample import eurusd
from autotrader.desk.backtest import backtest
from autotrader.desk.display import as_kind
from autotrader.desk.sweep import sweep
from autotrader.desk.walkforward import WalkForward, walkforward
from autotrader.engine.signals import Signals, from_rules
from autotrader.plots.distributions import walk_svg
from autotrader.report.folder import read_manifest
from autotrader.report.walkforward import display
from autotrader.results.verdict import MORE
from autotrader.results.walkforward import notes_of, verdict
from autotrader.search.book import TrialLedger
from autotrader.search.evaluate import STATS
from autotrader.search.grid import GridResult
from autotrader.search.task import Task, task_of
from autotrader.search.walkforward import chosen_of, walk
from autotrader.store.database import open_store
from autotrader.strategy.templates import Own, own
from autotrader.validation.luck import judge
from autotrader.validation.overfit import overfitting
from autotrader.validation.trials import studies
from autotrader.validation.walkforward import efficiency, restlessness, stitched, walk_forward, walk_windows

ROOT = Path(__file__).resolve().parents[2]
HOUR_MS = 3_600_000
START = parse_time("2021-01-01")
RANGES = {"fast": [6, 12, 24], "slow": [36, 72], "gap_atr": [0.2, 0.6]}


def hours(days: int, seed: int = 3, drift: np.ndarray | float = 0.0) -> Candles:
    "A random walk by the hour."
    rng, n = np.random.default_rng(seed), days * 24
    close = 20_000 * np.exp(np.cumsum(rng.normal(0, 0.006, n) + drift))
    opened = np.r_[20_000, close[:-1]]
    wick = 1 + np.abs(rng.normal(0, 0.002, (2, n)))
    return Candles(
        venue="binance",
        symbol="BTCUSDT",
        timeframe="1h",
        open_ms=START + HOUR_MS * np.arange(n, dtype=np.int64),
        open=opened,
        high=np.maximum(opened, close) * wick[0],
        low=np.minimum(opened, close) / wick[1],
        close=close,
        volume=rng.uniform(500, 2_000, n),
    )


def poisoned(candles: Candles, from_ms: int) -> Candles:
    "Garbage from there on, but such that it can be traded on."
    late = candles.open_ms >= from_ms
    wild = np.random.default_rng(9).uniform(0.2, 5.0, len(candles))
    prices = {name: np.where(late, getattr(candles, name) * wild, getattr(candles, name)) for name in ("open", "close")}
    high = np.where(late, np.maximum(prices["open"], prices["close"]) * 3, candles.high)
    low = np.where(late, np.minimum(prices["open"], prices["close"]) / 3, candles.low)
    return replace(candles, **prices, high=high, low=low, volume=np.where(late, 7.0, candles.volume))


def places(found: WalkForward) -> list[int | None]:
    return [step.choice.place for step in found.steps]


@pytest.fixture(scope="module")
def candles() -> Candles:
    return hours(400)


@pytest.fixture(scope="module")
def found(candles: Candles) -> WalkForward:
    return as_kind(WalkForward, walk(task_of("ema_trend", candles), RANGES, train_days=120, test_days=40))


# windows


@given(
    days=st.integers(3, 400),
    train=st.integers(1, 200),
    test=st.integers(1, 100),
    purge=st.integers(0, 10),
    is_anchored=st.booleans(),
)
def test_windows_are_those_of_skfolio(days: int, train: int, test: int, purge: int, is_anchored: bool) -> None:
    from skfolio.model_selection import WalkForward as Oracle

    if train <= purge or days <= train:
        return
    ours = walk_windows(
        START,
        START + days * DAY_MS,
        train_days=train,
        test_days=test,
        is_anchored=is_anchored,
        embargo_ms=purge * DAY_MS,
    )
    # skfolio counts the purged days on top of the fit, we take them off its end
    theirs = Oracle(
        test_size=test,
        train_size=train - purge,
        expand_train=is_anchored,
        reduce_test=True,
        purged_size=purge,
    ).split(np.zeros((days, 1)))
    told = [
        tuple((ms - START) // DAY_MS for ms in (w.train_from_ms, w.train_until_ms, w.test_from_ms, w.test_until_ms))
        for w in ours
    ]
    assert told == [(fit[0], fit[-1] + 1, play[0], play[-1] + 1) for fit, play in theirs]


def test_windows_begin_at_midnight_and_end_with_the_data() -> None:
    found = walk_windows(START + 5 * HOUR_MS, START + 100 * DAY_MS + 7 * HOUR_MS, train_days=30, test_days=40)
    assert found[0].train_from_ms == START + DAY_MS
    assert found[-1].test_until_ms == START + 100 * DAY_MS + 7 * HOUR_MS
    assert all(w.train_from_ms % DAY_MS == w.test_from_ms % DAY_MS == 0 for w in found)


def test_a_label_that_looks_ahead_keeps_the_days_it_needs_out_of_the_fit() -> None:
    window, *_ = walk_windows(START, START + 90 * DAY_MS, train_days=30, test_days=30, horizon_ms=24 * HOUR_MS)
    assert window.test_from_ms - window.train_until_ms == DAY_MS


# nothing reaches back


@pytest.mark.parametrize("number", [0, 2, 4])
def test_garbage_in_a_tested_stretch_and_after_changes_no_choice_before_it(
    candles: Candles, found: WalkForward, number: int
) -> None:
    border = found.steps[number].window.test_from_ms
    other = walk(task_of("ema_trend", poisoned(candles, border)), RANGES, train_days=120, test_days=40)
    assert places(other)[: number + 1] == places(found)[: number + 1]
    for step, same in zip(found.steps[:number], other.steps[:number], strict=True):
        assert same.outcome.chosen.daily.tobytes() == step.outcome.chosen.daily.tobytes()
        assert same.choice.stats.tobytes() == step.choice.stats.tobytes()
    assert other.steps[number].outcome.chosen.daily.tobytes() != found.steps[number].outcome.chosen.daily.tobytes()


def test_the_poison_would_be_seen_where_it_is_allowed_to(candles: Candles, found: WalkForward) -> None:
    border = found.steps[2].window.train_until_ms - 60 * DAY_MS
    other = walk(task_of("ema_trend", poisoned(candles, border)), RANGES, train_days=120, test_days=40)
    assert other.steps[2].choice.stats.tobytes() != found.steps[2].choice.stats.tobytes()


def test_a_recording_that_ends_earlier_gives_the_same_windows_before(candles: Candles, found: WalkForward) -> None:
    end = found.steps[3].window.test_until_ms
    short = walk(task_of("ema_trend", candles.between(0, end)), RANGES, train_days=120, test_days=40)
    assert len(short.steps) == 4 and places(short) == places(found)[:4]
    for a, b in zip(short.steps, found.steps, strict=False):
        assert a.outcome.chosen.daily.tobytes() == b.outcome.chosen.daily.tobytes()


def test_a_rolling_fit_forgets_what_an_anchored_one_remembers(candles: Candles, found: WalkForward) -> None:
    grown = walk(task_of("ema_trend", candles), RANGES, train_days=120, test_days=40, is_anchored=True)
    assert {step.window.train_from_ms for step in grown.steps} == {START}
    assert [s.window.test_from_ms for s in grown.steps] == [s.window.test_from_ms for s in found.steps]
    assert grown.steps[0].choice.stats.tobytes() == found.steps[0].choice.stats.tobytes()
    assert len(grown.steps[-1].choice.day_ms) > len(found.steps[-1].choice.day_ms) == 120


# what is chosen is what fits


def _wish(candles: Candles, *, side: int = 0) -> Signals:
    "In all the time: up, down, or neither."
    n, all_day = len(candles), np.arange(len(candles)) % 24 == 0
    none = np.zeros(n, bool)
    wants = {1: (all_day, none), -1: (none, all_day), 0: (none, none)}[side]
    return from_rules(long=wants[0], short=wants[1], exit_long=np.roll(all_day, -1), exit_short=np.roll(all_day, -1))


def sided(side: int) -> Own:
    return own(partial(_wish, side=side), warmup=0)


def test_a_market_that_turns_changes_the_choice_at_the_border_after_it() -> None:
    turn = np.where(np.arange(400 * 24) < 200 * 24, 0.002, -0.002)
    found = walk(task_of(sided, hours(400, drift=turn)), {"side": [-1, 0, 1]}, train_days=60, test_days=20)
    chosen = {step.window.test_from_ms: chosen_of(found, step)["strategy_params.side"] for step in found.steps}
    day = {at: (at - START) // DAY_MS for at in chosen}
    assert {chosen[at] for at in chosen if day[at] <= 200} == {1}
    assert {chosen[at] for at in chosen if day[at] >= 260} == {-1}, "its fit lies wholly after the turn"
    gains = found.table["out_return"]
    assert (gains[[d <= 180 for d in day.values()]] > 0).all() and (gains[[d >= 260 for d in day.values()]] > 0).all()
    assert (gains[[200 <= d < 220 for d in day.values()]] < 0).all(), "the border before the turn cannot know of it"


def test_a_combination_that_hardly_traded_is_not_chosen(candles: Candles) -> None:
    found = walk(task_of("ema_trend", candles), {"gap_atr": [0.2, 4.9]}, train_days=120, test_days=40)
    assert {chosen["strategy_params.gap_atr"] for s in found.steps if (chosen := chosen_of(found, s))} == {0.2}


def test_where_nothing_trades_the_bot_stays_out(candles: Candles) -> None:
    found = walk(task_of("ema_trend", candles), {"gap_atr": [4.8, 4.9, 5.0]}, train_days=120, test_days=40)
    assert set(places(found)) == {None}
    assert not found.daily.any() and found.summary["trades"] == 0
    assert any("the bot stayed out" in sentence for sentence in verdict(found))
    assert "Too little to tell" in " ".join(verdict(found))
    assert "–" in display(found)


# what is played is what a bot would have done


def always(candles: Candles) -> Signals:
    yes, no = np.ones(len(candles), bool), np.zeros(len(candles), bool)
    return from_rules(long=yes, short=no, exit_long=no, exit_short=no)


def always_of(patience: int) -> Own:
    return own(always, warmup=0)


CALM = {
    "sizing": "equity_frac",
    "equity_frac": 0.5,
    "strategy_params": {"sl_ratio": 60.0, "tp_ratio": 50.0},
    "risk": {"max_drawdown": 0.9, "daily_loss": 0.9, "max_losses": 0},
}


def test_a_position_is_closed_at_the_end_of_its_window_and_pays_for_it(candles: Candles) -> None:
    task = task_of(always_of, candles, bot={**CALM, "strategy_params": {"sl_ratio": 60.0, "tp_ratio": 50.0}})
    found = walk(task, {"patience": [1, 2]}, train_days=60, test_days=40)
    assert places(found) == [None] * len(found.steps), "one round trip in a fit is too few to choose by"
    played = walk(task_of(own(always, warmup=0), candles, bot=CALM), {"sl_ratio": [60.0]}, train_days=60, test_days=40)
    for step in played.steps:
        done = step.outcome.untouched
        assert done is not None and not done.is_open
        assert done.stats["trades"] == 1 and done.stats["fees"] > 0 and done.stats["slippage"] > 0


def test_a_stretch_is_played_as_a_backtest_that_waits_for_it_plays_it(candles: Candles) -> None:
    "The backtest sees all bars from the start and keeps still until the stretch begins."
    costs = {"spread_bps": 0.0}  # its floor in ticks hangs on the typical price of what is played
    found = walk(task_of(sided, candles, bot=CALM, costs=costs), {"side": [1, -1]}, train_days=60, test_days=40)
    checked = 0
    for step in found.steps:
        chosen, window = chosen_of(found, step), step.window
        if not chosen:
            continue

        def waiting(bars: Candles, side: int = int(chosen["strategy_params.side"]), at: int = window.test_from_ms) -> Signals:  # type: ignore[assignment]
            said, late = _wish(bars, side=side), bars.open_ms >= at
            return Signals(np.where(late, said.direction, 0).astype(np.int8), said.exits, said.confidence)

        bars = candles.between(START, window.test_until_ms)
        whole = backtest(own(waiting, warmup=0), bars, bot=CALM, costs=costs)
        equity = np.r_[whole.part.wallet_e8, whole.run.day_equity_e8]
        daily = (np.diff(equity) / equity[:-1])[whole.run.day_ms >= window.test_from_ms]
        assert not (np.diff(equity) / equity[:-1])[whole.run.day_ms < window.test_from_ms].any()
        np.testing.assert_array_equal(daily[:-1], step.outcome.chosen.daily[:-1])
        checked += 1
    assert checked >= 5


def test_indicators_are_warm_when_a_window_begins(candles: Candles) -> None:
    found = walk(task_of("donchian_breakout", candles), {"channel": [400, 500]}, train_days=120, test_days=15)
    traded = sum(step.outcome.chosen.stats["trades"] for step in found.steps)
    assert 15 * 24 < 400 and traded > 0, "a channel of 400 bars does not fit into a stretch of 360"


def test_the_record_is_the_stretches_end_to_end(found: WalkForward) -> None:
    assert (np.diff(found.day_ms) == DAY_MS).all()
    assert len(found.daily) == 400 - 120
    growth = np.prod([np.prod(1 + step.outcome.chosen.daily) for step in found.steps])
    assert found.summary["return"] == pytest.approx(growth - 1)
    assert found.equity.iloc[-1] == pytest.approx(found.task.bot.initial_capital_usdt * growth)
    np.testing.assert_allclose(
        found.table["out_return"], [np.prod(1 + s.outcome.chosen.daily) - 1 for s in found.steps], atol=1e-9
    )


def test_the_row_of_a_window_is_the_sweep_of_its_fit(candles: Candles, found: WalkForward) -> None:
    step = found.steps[0]
    alone = sweep("ema_trend", candles.between(START, step.window.train_until_ms), RANGES, threads=1, progress=False)
    assert step.choice.place == alone.plateau.chosen
    row = alone.table.loc[alone.plateau.chosen]
    assert found.table.loc[1, "in_sharpe"] == row["sharpe"] and found.table.loc[1, "in_trades"] == row["trades"]
    assert found.table.loc[1, "strategy_params.fast"] == row["strategy_params.fast"]


# numbers


def test_an_axis_along_which_every_window_is_the_same_is_named() -> None:
    task = task_of("ema_trend", hours(300))
    found = walk(task, {"fast": [6, 12], "tp_ratio": [500, 900]}, train_days=120, test_days=90)
    assert found.summary["idle"] == ["strategy_params.tp_ratio"]
    told = verdict(found)
    assert "tp_ratio made no difference: each of its values gave the same runs." in told
    assert not any(line.startswith("tp_ratio stayed near") for line in told)
    with pytest.raises(ConfigError, match="trail_step is read with"):
        walk(task, {"trail_step": [0.1, 0.2]}, train_days=120, test_days=90)


def test_a_window_is_chosen_for_by_whom_one_names() -> None:
    candles, ranges = hours(400), {"fast": [6, 12, 24], "slow": [36, 72]}
    task = task_of("ema_trend", candles)

    def longest(grid: GridResult) -> int | None:
        return None if grid.task.market.candles.open_ms[0] == candles.open_ms[0] else int(grid.table.index[-1])

    best = walk(task, ranges, train_days=120, test_days=90, selector="best")
    for step in best.steps:
        ratios = step.choice.stats[:, STATS.index("sharpe")]
        assert ratios[step.choice.row] == ratios.max()
    own_way = walk(task, ranges, train_days=120, test_days=90, selector=longest)
    assert [step.choice.place for step in own_way.steps] == [None, *[5] * (len(own_way.steps) - 1)]
    assert "by the single best Sharpe ratio" in notes_of(best)[0] and "by longest, and played" in notes_of(own_way)[0]
    with pytest.raises(ConfigError, match="selector 'bets' is unknown: did you mean 'best'"):
        walk(task, ranges, train_days=120, test_days=90, selector="bets")


def test_pbo_is_that_of_the_whole_grid_over_the_whole_period(candles: Candles, found: WalkForward) -> None:
    whole = sweep("ema_trend", candles, RANGES, threads=1, progress=False)
    daily = whole.book.daily.astype(np.float64).T
    assert found.overfit is not None
    assert found.overfit.pbo == overfitting(daily, blocks=16).pbo == found.summary["pbo"]


def test_the_deflated_sharpe_ratio_is_that_of_the_record_and_all_trials(found: WalkForward) -> None:
    trials = len(found.ranges) * len(found.steps)
    assert found.tried.trials == trials and 1 < found.tried.independent < trials
    judged = judge(
        found.daily,
        trials=trials,
        independent=found.tried.independent,
        rng=np.random.default_rng(1),
        per_year=365,
    )
    assert found.luck.dsr == pytest.approx(judged.dsr, abs=0.02)


def test_efficiency_is_what_was_kept() -> None:
    inside, outside = [np.array([0.01, 0.03]), np.array([0.02])], [np.array([0.01, 0.01]), np.array([0.01])]
    assert efficiency(inside, outside) == pytest.approx(0.5)
    assert efficiency([np.array([-0.01])], outside) is None
    assert efficiency([], []) is None


@given(st.integers(2, 12), st.integers(0, 2**32 - 1), st.booleans())
def test_blind_choice_has_a_restlessness_of_one(size: int, seed: int, is_ordered: bool) -> None:
    drawn = np.random.default_rng(seed).integers(0, size, 20_000)
    assert restlessness(drawn.tolist(), size, is_ordered=is_ordered) == pytest.approx(1.0, abs=0.06)


def test_a_day_is_not_counted_twice() -> None:
    day = np.array([START], np.int64)
    with pytest.raises(DataError, match="2021-01-01 stands in two stretches"):
        stitched([(day, np.zeros(1)), (day, np.zeros(1))])
    with pytest.raises(DataError, match="stretch 1 has 2 returns for 1 days"):
        stitched([(day, np.zeros(2))])


# where it runs


def test_every_window_is_the_same_on_all_cores(candles: Candles, found: WalkForward) -> None:
    with open_executor("loky", workers=2) as executor:
        other = walk(task_of("ema_trend", candles), RANGES, train_days=120, test_days=40, executor=executor)
    assert other.daily.tobytes() == found.daily.tobytes()
    assert other.table.equals(found.table)
    assert other.summary == found.summary
    assert verdict(other) == verdict(found)


def test_a_function_of_a_notebook_walks_in_other_processes(candles: Candles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    with open_executor("loky", workers=1) as executor:
        other = walk(task_of(sided, candles), {"side": [-1, 0, 1]}, train_days=120, test_days=90, executor=executor)
    here = walk(task_of(sided, candles), {"side": [-1, 0, 1]}, train_days=120, test_days=90)
    assert other.daily.tobytes() == here.daily.tobytes()


def broken(side: int) -> Own:
    def signals(candles: Candles) -> Signals:
        if candles.open_ms[-1] > START + 200 * DAY_MS:
            raise ZeroDivisionError("no luck")
        return _wish(candles, side=side)

    return own(signals, warmup=0)


def test_an_error_names_its_window(candles: Candles) -> None:
    with pytest.raises(Exception, match=r"^batch 3 of 7: ZeroDivisionError: no luck"):
        walk(task_of(broken, candles), {"side": [-1, 1]}, train_days=120, test_days=40)


def test_what_is_sent_for_a_window_ends_with_it(candles: Candles) -> None:
    class Seen(Serial):
        def map(self, function: Any, batches: Any) -> Any:
            for batch in batches:
                if hasattr(batch, "window"):
                    task: Task = batch.data.task
                    assert int(task.history.open_ms[-1]) < batch.window.test_until_ms
                    assert int(task.market.candles.open_ms[-1]) < batch.window.test_until_ms
                yield function(batch)

    walk(task_of("ema_trend", candles), {"fast": [6, 12]}, train_days=120, test_days=90, executor=Seen())


class Spy:
    def __init__(self, at: np.ndarray) -> None:
        self.at = at

    def between(self, since_ms: int, until_ms: int) -> "Spy":
        return Spy(self.at[(self.at >= since_ms) & (self.at < until_ms)])


def test_choosing_is_handed_nothing_after_its_fit() -> None:
    windows = walk_windows(START, START + 90 * DAY_MS, train_days=30, test_days=20, embargo_ms=2 * DAY_MS)
    steps = walk_forward(
        windows,
        Spy(START + HOUR_MS * np.arange(90 * 24)),
        fit=lambda past, window: int(past.at[-1]),
        play=lambda choice, data, window: int(data.at[-1]),
        executor=Serial(),
    )
    for step in steps:
        assert step.choice == step.window.train_until_ms - HOUR_MS < step.window.test_from_ms - 2 * DAY_MS
        assert step.outcome == step.window.test_until_ms - HOUR_MS


# counting


def test_each_combination_of_each_window_is_counted_once_however_often_one_walks(
    candles: Candles, tmp_path: Path
) -> None:
    with open_store("sqlite:///t.db", folder=tmp_path, create=True) as store:
        ledger = TrialLedger(store, clock=SimulatedClock(START))
        found = walk(task_of("ema_trend", candles), RANGES, train_days=120, test_days=40, ledger=ledger)
        trials = len(found.ranges) * len(found.steps)
        assert found.tried.trials == found.luck.trials == trials
        assert found.tried.new == trials and f"{trials:,} of them new by this walk" in " ".join(notes_of(found))
        again = walk(task_of("ema_trend", candles), RANGES, train_days=120, test_days=40, ledger=ledger)
        assert again.tried.trials == trials and again.tried.new == 0
        kept = studies(store, venue="binance", symbol="BTCUSDT")
        assert {study.kind for study in kept} == {"walkforward"} and len(kept) == len(found.steps)
        more = walk(task_of("ema_trend", candles), {"fast": [7, 9]}, train_days=120, test_days=40, ledger=ledger)
        assert more.tried.trials == trials + 2 * len(more.steps)
        assert more.luck.luckiest_sharpe_annual > 0 and more.luck.trials == more.tried.trials


def test_the_ledger_and_a_walk_of_its_own_agree_on_the_number_of_trials(
    candles: Candles, found: WalkForward, tmp_path: Path
) -> None:
    with open_store("sqlite:///t.db", folder=tmp_path, create=True) as store:
        ledger = TrialLedger(store, clock=SimulatedClock(START))
        counted = walk(task_of("ema_trend", candles), RANGES, train_days=120, test_days=40, ledger=ledger)
    assert counted.tried.trials == found.tried.trials
    assert counted.tried.independent == pytest.approx(found.tried.independent, rel=0.02)
    assert counted.daily.tobytes() == found.daily.tobytes()


# telling


def test_the_report_holds_every_window_and_asks_nobody_for_anything(found: WalkForward, tmp_path: Path) -> None:
    text = found.report(tmp_path / "walk.html", clock=SimulatedClock(START)).read_text()
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert "<script" not in text
    for step in found.steps:
        assert str(np.datetime64(step.window.test_from_ms, "ms"))[:10] in text
    for word in ("Window by window", "restlessness", "DSR", "PBO", "Efficiency", "2021-01-01"):
        assert word in text
    assert found.svg().startswith("<svg")


def test_the_verdict_says_what_luck_says_and_what_was_kept(found: WalkForward) -> None:
    told = " ".join(found.verdict)
    assert f"re-fitted {len(found.steps)} times" in found.verdict[0]
    assert "With its parameters left as configured" in told
    assert not found.luck.is_past and MORE not in told, "a random walk has no edge"
    assert found._repr_html_().count("<tr") >= len(found.steps)


def test_a_record_that_lost_kept_nothing_of_its_promise() -> None:
    free = {"taker_fee_bps": 0, "slippage_bps": 0, "spread_bps": 0}
    ranges = {"sl_ratio": [1, 2, 3]}
    found = walkforward("ema_trend", eurusd(), ranges, train_days=90, test_days=30, costs=free, progress=False)
    assert found.summary["efficiency"] < 0 and found.summary["return"] < 0
    told = found.verdict
    assert "Nothing of the promised return was kept." in told and not any("%" in t and "promised" in t for t in told)
    shown = found._repr_html_()
    assert "00:00:00" not in shown and "dataframe" not in shown and "Sharpe out" in shown


def test_a_selector_that_chose_none_is_not_told_as_too_few_trips(candles: Candles) -> None:
    task = task_of("ema_trend", candles)
    told = verdict(walk(task, RANGES, train_days=120, test_days=140, selector=lambda grid: None))
    assert any("windows the selector chose none of the combinations: the bot stayed out." in line for line in told)
    assert not any("no combination made" in line for line in told)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "80 % of the promised return was kept (walk-forward efficiency)."),
        ({"chose_losers": 3}, "Their mean return was 5.00 % a year where they were chosen, 4.00 % where they were played."),
        ({"promised": 0.001, "kept": 0.001, "efficiency": 1.0}, "Their mean return was 0.10 % a year where they were chosen, 0.10 % where they were played."),
        ({"promised": -0.05, "efficiency": None}, "Their mean return was −5.00 % a year where they were chosen, 4.00 % where they were played."),
        ({"kept": -0.04, "efficiency": -0.8}, "Nothing of the promised return was kept."),
    ],
)  # fmt: skip
def test_a_share_of_the_promise_is_told_only_where_most_windows_promised_something(
    found: WalkForward, change: dict[str, Any], said: str
) -> None:
    kept = {"windows": 6, "chose_nothing": 1, "chose_losers": 1, "promised": 0.05, "kept": 0.04, "efficiency": 0.8}
    other = replace(found)
    other.__dict__["summary"] = found.summary | kept | change
    told = verdict(other)
    assert said in told and sum("promised return" in line or "mean return was" in line for line in told) == 1
    assert ("<td" in display(other)) and told[0] == verdict(found)[0].replace(
        f"{found.summary['windows']} times", "6 times"
    )


def test_the_returns_of_a_promise_are_those_of_its_efficiency(found: WalkForward) -> None:
    summary = found.summary
    if summary["efficiency"] is not None:
        assert summary["kept"] / summary["promised"] == pytest.approx(summary["efficiency"])
    assert summary["kept"] == pytest.approx(found.daily.mean() * 365, rel=0.01)


def test_names_of_strangers_are_escaped(candles: Candles) -> None:
    def evil(candles: Candles) -> Signals:
        return always(candles)

    evil.__name__ = "<script>x</script>"
    found = walk(task_of(own(evil, warmup=0), candles), {"sl_ratio": [1.0, 2.0]}, train_days=120, test_days=140)
    assert "<script>" not in display(found) + walk_svg(found)


# what cannot be


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"train_days": 500}, "of which choosing takes 500"),
        ({"train_days": 0}, "train_days must be a whole number of days"),
        ({"test_days": -1}, "test_days must be a whole number of days"),
        ({"embargo_days": -1}, "must be 0 or more"),
        ({"metric": "luck"}, "metric"),
        ({"embargo_days": 200}, "must be longer than the labels"),
    ],
)
def test_what_cannot_be_walked_is_said_in_one_line(candles: Candles, changed: dict[str, Any], told: str) -> None:
    words = {"train_days": 120, "test_days": 40} | changed
    with pytest.raises((ConfigError, DataError), match=told) as caught:
        walk(task_of("ema_trend", candles), RANGES, **words)
    assert "\n" not in str(caught.value)


def test_a_hole_in_the_recording_is_walked_around() -> None:
    whole = hours(400)
    hole = (whole.open_ms < START + 150 * DAY_MS) | (whole.open_ms >= START + 215 * DAY_MS)
    cut = {name: getattr(whole, name)[hole] for name in ("open_ms", "open", "high", "low", "close", "volume")}
    found = walk(task_of("ema_trend", replace(whole, **cut)), {"fast": [6, 12]}, train_days=120, test_days=40)
    assert [step.window.number for step in found.steps] == [1, 3, 4, 5, 6, 7]


# the command


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    write_template(tmp_path)
    with open_store(load(tmp_path / "config.toml").database_url, folder=tmp_path, create=True):
        pass
    return tmp_path


def ask(folder: Path, *words: str) -> Any:
    app = Typer()
    app.command()(command)
    try:
        return CliRunner().invoke(app, [*words, "--config", str(folder / "config.toml")])
    finally:
        logs.shutdown()


SAMPLE = ("--strategy", "rsi_reversion", "--venue", "sample", "--symbol", "EURUSD", "--timeframe", "1h")
WALK = (*SAMPLE, "--range", "period=7,14,28", "--train", "120d", "--test", "4w", "--scheduler", "serial")


def test_the_command_answers_with_one_document(desk: Path) -> None:
    done = ask(desk, *WALK, "--json", "--report")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["windows"] == len(told["per_window"]) >= 6
    assert {row["strategy_params.period"] for row in told["per_window"]} <= {7, 14, 28, None}
    assert told["trials"] == 3 * told["windows"] and 0 <= told["pbo"] <= 1 and 0 <= told["dsr"] <= 1
    page = Path(told["report"])
    assert "Window by window" in page.read_text() and str(desk) not in page.read_text()
    assert sorted(file.name for file in page.parent.iterdir()) == ["manifest.json", "report.html"]
    assert read_manifest(page.parent).results["return"] == told["return"]  # type: ignore[index]
    assert (
        json.loads(ask(desk, *WALK, "--json").stdout)["trials"] == told["trials"]
    ), "counted in the desk's ledger, once"


def test_the_command_walks_over_a_sample(desk: Path) -> None:
    words = (*SAMPLE, "--range", "period=5:30", "--range", "oversold=20.0:40.0", "--train", "120d", "--test", "60d")
    done = ask(desk, *words, "--scheduler", "serial", "--samples", "16", "--seed", "3", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["sample"] == {"points": 16, "method": "latin_hypercube", "seed": 3, "of": None}
    assert told["trials"] == 16 * told["windows"] and any(
        "were drawn as a Latin hypercube" in note for note in told["notes"]
    )


def test_the_command_tells_people_the_verdict_and_the_windows(desk: Path) -> None:
    done = ask(desk, *WALK, "--anchored")
    assert done.exit_code == 0, done.output
    assert "Walk-forward of rsi_reversion on sample EURUSD" in done.stdout and "re-fitted" in done.stdout
    assert "everything since the start" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--train", "120"), "--train '120' is no length: write it in days or weeks, like 365d or 52w"),
        (("--train", "9999d"), "of which choosing takes 9,999"),
        (("--range", "nothing=1,2"), "nothing"),
        (("--from", "2030-01-01", "--selector", "bets"), "selector 'bets' is unknown: did you mean 'best'"),
        (("--samples", "3"), "`samples` 3 are too few to know what lies beside a point: take a grid of all"),
        (("--scheduler", "threads"), 'must be "serial", "loky" or the address'),
        (("--scheduler", "tcp://127.0.0.1:1"), "no Dask scheduler answers at tcp://127.0.0.1:1"),
    ],
)
def test_wrong_words_get_one_line(desk: Path, words: tuple[str, ...], told: str) -> None:
    done = ask(desk, *WALK, *words)
    assert done.exit_code != 0 and told in str(done.exception) and "\n" not in str(done.exception)


def test_the_sample_loses_its_promise() -> None:
    found = walkforward(
        "rsi_reversion", eurusd(), {"period": [7, 14, 28]}, train_days=120, test_days=30, progress=False
    )
    assert found.summary["dsr"] < 0.95 and not found.luck.is_past and MORE not in " ".join(found.verdict)
