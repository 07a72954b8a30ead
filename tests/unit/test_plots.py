"""A picture loses nothing that matters, fetches nothing, and stays small."""

import importlib.util
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import autotrader as at
from autotrader.core.errors import DataError
from autotrader.desk.display import BacktestResult
from autotrader.plots.results import date_ticks, drawdowns, equity_svg, kept, money_ticks

ROOT = Path(__file__).resolve().parents[2]
MINUTE, DAY = 60_000, 86_400_000
SINCE = 1_741_392_000_000  # 2025-03-08


def walk(n: int, *, seed: int = 7) -> np.ndarray:
    return 10_000 + np.cumsum(np.random.default_rng(seed).normal(size=n))


@given(
    values=st.lists(st.integers(-5, 5), min_size=1, max_size=300),
    holes=st.lists(st.integers(0, 50), min_size=300, max_size=300),
    columns=st.integers(1, 40),
)
def test_a_column_of_the_picture_reaches_as_far_as_all_its_points(
    values: list[int], holes: list[int], columns: int
) -> None:
    y, x = np.array(values, float), np.cumsum(holes[: len(values)])
    places = kept(x, y, columns)
    assert len(places) <= 4 * columns
    assert (np.diff(places) > 0).all()
    column = (x - x[0]) * columns // (max(x[-1] - x[0], 1) + 1)
    for each in np.unique(column):
        everything, drawn = y[column == each], y[places[column[places] == each]]
        assert (everything[0], everything[-1]) == (drawn[0], drawn[-1])
        assert (everything.min(), everything.max()) == (drawn.min(), drawn.max())


def test_one_bad_minute_of_a_year_is_in_the_picture() -> None:
    equity = walk(525_600)
    equity[300_000] = 5_000.0
    picture = equity_svg(SINCE + MINUTE * np.arange(525_600), equity, title="a year", unit="USDT")
    assert f"−{-drawdowns(equity).min() * 100:.1f} %" in picture


def test_a_picture_does_not_grow_with_its_points() -> None:
    small, large = (
        len(equity_svg(SINCE + MINUTE * np.arange(n), walk(n), title="", unit="")) for n in (20_000, 500_000)
    )
    assert large < 1.3 * small


def test_a_picture_stands_alone_and_its_title_is_only_text() -> None:
    picture = equity_svg(SINCE + DAY * np.arange(9), walk(9), title='<script>alert("&")</script>', unit="<b>")
    root = ET.fromstring(picture)
    assert {element.tag.split("}")[1] for element in root.iter()} <= {
        "svg",
        "title",
        "desc",
        "style",
        "g",
        "line",
        "text",
        "path",
    }
    assert re.findall(r"url\(|@import|href|src=", picture) == []
    assert "prefers-color-scheme:dark" in picture


@pytest.mark.parametrize("equity", [[10_000.0], [10_000.0] * 3, [1e-8, 1e12], [5.0, -5.0]], ids=str)
def test_the_dullest_and_the_wildest_run_have_a_picture(equity: list[float]) -> None:
    picture = equity_svg(SINCE + np.arange(len(equity)), np.array(equity), title="", unit="")
    assert "nan" not in picture
    assert "inf" not in picture


def test_a_curve_that_starts_without_money_is_refused() -> None:
    with pytest.raises(DataError, match="must start above zero, was 0"):
        equity_svg(SINCE + np.arange(2), np.zeros(2), title="", unit="")


@pytest.mark.parametrize("span_ms", [int(5 * MINUTE * 1.7**i) for i in range(28)])
def test_dates_on_the_axis_are_round_inside_and_have_room(span_ms: int) -> None:
    stamps, labels = date_ticks(SINCE + 12_345, SINCE + 12_345 + span_ms)
    assert len(set(labels)) == len(labels) >= 4
    assert ((stamps > SINCE + 12_345) & (stamps <= SINCE + 12_345 + span_ms) & (stamps % MINUTE == 0)).all()
    assert sum(len(label) * 7 + 6 for label in labels) < 684


@given(low=st.floats(-1e6, 1e9), width=st.floats(1e-3, 1e9))
def test_money_on_the_axis_is_round_and_inside(low: float, width: float) -> None:
    ticks, places = money_ticks(low, low + width)
    assert 2 <= len(ticks) <= 7
    assert (ticks >= low - 1e-6 * width).all()
    assert (ticks <= low + 1.000001 * width).all()
    assert len({f"{tick:.{places}f}" for tick in ticks}) == len(ticks)


@pytest.fixture(scope="module")
def result() -> BacktestResult:
    return at.backtest("ema_trend", at.load("EURUSD", venue="sample"))


def test_the_drawn_drawdown_is_the_counted_one(result: BacktestResult) -> None:
    equity = np.r_[result.part.wallet_e8 / 1e8, result.equity.to_numpy()]
    assert -drawdowns(equity).min() == pytest.approx(result.stats.max_drawdown)


def test_fills_and_round_trips_tell_the_same_money(result: BacktestResult) -> None:
    earned = result.fills.pnl.sum() - result.fills.fee.sum()
    assert result.trades.pnl.sum() == pytest.approx(earned)
    assert result.trades.pnl.sum() == pytest.approx(result.stats.pnl)


def test_a_result_warns_of_few_trips_and_always_of_luck(result: BacktestResult) -> None:
    few = at.backtest("ema_trend", at.load("EURUSD", venue="sample", until="2017-05-20"))
    assert 0 < few.stats.trades < 30
    assert f"{few.stats.trades} round trips: too few to mean anything" in few._repr_html_()
    assert "too few" not in result._repr_html_()
    assert all("nothing here says it is not luck" in each._repr_html_() for each in (few, result))


def test_the_picture_of_the_readme_is_what_the_code_draws() -> None:
    spec = importlib.util.spec_from_file_location("picture", ROOT / "tools" / "picture.py")
    assert spec and spec.loader
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.PICTURE.read_text(encoding="utf-8") == tool.drawn(), "run tools/picture.py"
