"""What is to be doubted is doubted wherever a result is shown: foresight, unbelievable gains, short sales that nobody could make."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotrader.cli.sweep import document as sweep_document
from autotrader.cli.walkforward import document as walk_document
from autotrader.core.clock import parse_time
from autotrader.core.market import Candles
from autotrader.desk.bots import BotResults
from autotrader.desk.bots import document as bots_document
from autotrader.desk.display import BacktestResult
from autotrader.desk.sweep import Sweep, sweep
from autotrader.desk.walkforward import WalkForward, walkforward
from autotrader.engine.signals import Signals, from_rules
from autotrader.report.backtest import page as backtest_page
from autotrader.report.sweep import page as sweep_page
from autotrader.report.walkforward import page as walk_page
from autotrader.results.summary import MOST_SHARPE, MOST_TIMES, MOST_YEARLY, implausible_said
from autotrader.search.walkforward import chosen_of
from autotrader.strategy.templates import own

HOUR_MS = 3_600_000


def hours(days: int, venue: str = "bybit") -> Candles:
    "A random walk by the hour."
    rng, n = np.random.default_rng(3), days * 24
    close = 20_000 * np.exp(np.cumsum(rng.normal(0, 0.006, n)))
    opened = np.r_[20_000, close[:-1]]
    wick = 1 + np.abs(rng.normal(0, 0.002, (2, n)))
    return Candles(
        venue=venue,
        symbol="BTCUSDT",
        timeframe="1h",
        open_ms=parse_time("2023-01-01") + HOUR_MS * np.arange(n, dtype=np.int64),
        open=opened,
        high=np.maximum(opened, close) * wick[0],
        low=np.minimum(opened, close) / wick[1],
        close=close,
        volume=np.full(n, 1e6),
    )


def foresighted(bars: Candles) -> Signals:
    "Knows the next bar."
    up = np.r_[bars.close[1:] > bars.close[:-1], False]
    return from_rules(long=up, short=~up, exit_long=~up, exit_short=up)


@pytest.fixture(scope="module")
def swept() -> Sweep:
    return sweep(own(foresighted, warmup=1), hours(200, "binance"), {"sl_ratio": [20, 30]}, progress=False)


@pytest.fixture(scope="module")
def walked() -> WalkForward:
    candles = hours(200, "binance")
    return walkforward(
        own(foresighted, warmup=1), candles, {"sl_ratio": [20, 30]}, train_days=60, test_days=40, progress=False
    )


AHEAD = "It looks ahead, so nothing of this could have been earned (bar "
SHORT = "sell short on a spot market: that needs borrowed coins"
DOUBT = "more than trading earns: look for look-ahead"


def displays(swept: Sweep, walked: WalkForward) -> dict[str, str]:
    result = swept.result()
    one = BotResults(kind="backtest", results=(result,), naming=())
    told = bots_document(one)
    return {
        "sweep": " ".join(swept.verdict),
        "sweep in a notebook": swept._repr_html_(),
        "sweep's report": sweep_page(swept),
        "sweep for scripts": " ".join(sweep_document(swept)["verdict"]),
        "backtest": " ".join(result.verdict),
        "backtest in a notebook": result._repr_html_(),
        "backtest's report": backtest_page([result]),
        "backtest for scripts": " ".join([*told["bots"][0]["doubts"], told["luck"]["notebook"]["verdict"]]),
        "walk": " ".join(walked.verdict),
        "walk in a notebook": walked._repr_html_(),
        "walk's report": walk_page(walked),
        "walk for scripts": " ".join(walk_document(walked)["verdict"]),
    }


def test_foresight_short_sales_and_miracles_are_doubted_in_every_display(swept: Sweep, walked: WalkForward) -> None:
    assert swept.task.market.instrument.kind == "spot"
    for name, text in displays(swept, walked).items():
        assert "More than luck" not in text, name
        for doubt in (AHEAD, SHORT, DOUBT):
            assert doubt in text, (name, doubt)
    assert swept.luck.lookahead == walked.luck.lookahead == "failed"
    assert not swept.luck.is_past and not walked.luck.is_past


def test_on_a_perpetual_nobody_borrows() -> None:
    found = sweep(own(foresighted, warmup=1), hours(60), {"sl_ratio": [20, 30]}, progress=False)
    assert found.task.market.instrument.kind == "perpetual"
    assert SHORT not in " ".join(found.verdict)


def test_what_knows_dates_cannot_be_checked_and_says_so() -> None:
    candles = hours(200)
    up = np.r_[candles.close[1:] > candles.close[:-1], False]
    known = dict(zip(candles.open_ms.tolist(), up.tolist(), strict=True))

    def remembers(bars: Candles) -> Signals:
        rises = np.array([known.get(stamp, False) for stamp in bars.open_ms.tolist()], dtype=bool)
        return from_rules(long=rises, short=~rises, exit_long=~rises, exit_short=rises)

    found = sweep(own(remembers, warmup=1), candles, {"sl_ratio": [20, 30]}, progress=False)
    assert found.luck.lookahead == "cannot be checked"
    assert any(line.startswith("More than luck, as far as these numbers can tell, but it cannot be checked for look-ahead (") for line in found.verdict)  # fmt: skip


@given(st.floats(0, 1e6), st.integers(2, 5_000), st.none() | st.floats(-5, 30))
def test_only_what_no_trading_earns_is_doubted(gain: float, days: int, sharpe: float | None) -> None:
    years = max(days / 365, 1.0)
    is_great = 1 + gain > min(MOST_TIMES, MOST_YEARLY**years)
    is_smooth = sharpe is not None and sharpe > MOST_SHARPE + 2 * np.sqrt(365 / days)
    assert bool(implausible_said(gain, days, sharpe)) == (is_great or is_smooth)


def test_no_window_is_said_to_have_had_no_choice_when_it_had_one(walked: WalkForward) -> None:
    "A choice that lost where others gained is not called the best there was."
    lost = [
        replace(step, choice=replace(step.choice, daily=-np.abs(step.choice.daily) - 1e-4)) for step in walked.steps
    ]
    found = replace(walked, steps=tuple(lost))
    assert all(chosen_of(found, step) for step in found.steps)
    assert found.summary["chose_losers"] == len(lost) and found.summary["all_lost"] == 0
    (told,) = [line for line in found.verdict if "had lost where it was chosen" in line]
    assert told == f"In {len(lost)} of {len(lost)} windows the chosen one had lost where it was chosen."


def test_the_same_result_without_a_history_was_not_checked(swept: Sweep) -> None:
    result = swept.result()
    blind = BacktestResult(part=replace(result.part, script=None), run=result.run, counted=result.counted)
    assert blind.luck is not None and blind.luck.lookahead == "not checked"
    assert blind.verdict[-1] != "" and any("but not checked for look-ahead: " in line for line in blind.verdict)
