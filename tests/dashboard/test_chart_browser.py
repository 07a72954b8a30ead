"""The chart in a browser: finer the closer one looks, nothing lost, nothing asked; and a still picture where no script runs."""

from html import escape
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from visited import THEMES

import autotrader as at
from autotrader.core.market import Candles
from autotrader.desk.display import BacktestResult
from autotrader.plots.chart import Chart, chart_of

MINUTE, N = 60_000, 12_000
SINCE = 1_741_392_000_000  # 2025-03-08


def market() -> Candles:
    rng = np.random.default_rng(7)
    close = (80_000 * np.exp(np.cumsum(rng.normal(0, 8e-4, N)) + np.linspace(0, 1.6, N))).round(1)
    opened = np.r_[80_000.0, close[:-1]]
    high, low = np.maximum(opened, close) + 20, np.minimum(opened, close) - 20
    stamps = SINCE + MINUTE * np.arange(N)
    return Candles(
        venue="bybit",
        symbol="BTCUSDT",
        timeframe="1m",
        open_ms=stamps,
        open=opened,
        high=high,
        low=low,
        close=close,
        volume=np.full(N, 1e6),
    )


@pytest.fixture(scope="module")
def result() -> BacktestResult:
    bot = {"sizing": "equity_frac", "equity_frac": 0.5, "strategy_params": {"sl_kind": "trailing", "trail_step": 0.2}}
    return at.backtest("ema_trend", market(), bot=bot, costs={"participation_cap": 0.0}, config="nowhere.toml")


@pytest.fixture(scope="module")
def chart(result: BacktestResult) -> Chart:
    return result.plot()


CHART = "document.querySelector('.at-chart').chart"
LOOK = f"""([since, until]) => {{ const c = {CHART}; c.look(since, until)
  return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => {{ const s = c.shown, v = c.view
    done({{...s, lowest: Array.from(s.lowest), highest: Array.from(s.highest), since: v.since, until: v.until}}) }}))) }}"""


class Shown:
    "A page with a chart on it, and what it asked for or complained of."

    def __init__(self, browser: Any, html: str, **context: Any) -> None:
        width = context.pop("width", 1000)
        self.page = browser.new_page(viewport={"width": width, "height": 900}, **context)
        self.told: list[str] = []
        self.page.on("request", lambda request: self.told.append(request.url))
        self.page.on("console", lambda message: self.told.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.told.append(str(error)))
        self.page.set_content(
            f"<!doctype html><meta name=color-scheme content='light dark'><body style='margin:8px'>{html}</body>"
        )
        if context.get("java_script_enabled", True):
            self.page.wait_for_function(f"() => {CHART}")

    def look(self, first: int, last: int) -> dict[str, Any]:
        "What is drawn between two bars."
        found: dict[str, Any] = self.page.evaluate(LOOK, [SINCE + MINUTE * first, SINCE + MINUTE * last])
        return found

    def done(self) -> None:
        self.page.close()
        assert self.told == []


@pytest.mark.parametrize("finest", [20_000, 2_000])
def test_zooming_in_brings_more_of_the_same_stretch_without_a_server(
    finest: int, browser: Any, result: BacktestResult
) -> None:
    seen = Shown(browser, chart_of(result, finest=finest).html)
    steps = [seen.look(6_000 - reach, 6_000 + reach) for reach in (6_000, 1_500, 300, 60)]
    per_minute = [step["groups"] / (step["until"] - step["since"]) for step in steps]
    assert all(far < near for far, near in pairwise(per_minute[:3]))
    assert not steps[0]["isCandles"] and steps[-1]["isCandles"]
    assert per_minute[-1] * MINUTE == pytest.approx(1.0 if finest > N else 0.1, rel=0.2)
    assert seen.look(0, N)["groups"] == steps[0]["groups"]
    seen.done()


def test_every_level_reaches_as_far_as_all_its_bars(browser: Any, result: BacktestResult, chart: Chart) -> None:
    seen, tape = Shown(browser, chart.html), result.part.tape
    for first, last in ((0, N), (3_000, 9_000), (4_000, 4_700), (4_100, 4_160)):
        shown = seen.look(first, last)
        begin, end = (int(np.searchsorted(tape.open_ms, shown[name])) for name in ("since", "until"))
        wide = slice(max(begin - 2, 0), end + 2)
        assert tape.low[wide].min() * 0.1 - 1e-6 <= min(shown["lowest"]) <= tape.low[begin:end].min() * 0.1 + 1e-6
        assert tape.high[begin:end].max() * 0.1 - 1e-6 <= max(shown["highest"]) <= tape.high[wide].max() * 0.1 + 1e-6
    seen.done()


def test_every_fill_of_a_close_look_is_marked_and_a_far_one_says_how_many_are_not(
    browser: Any, result: BacktestResult, chart: Chart
) -> None:
    seen, fills = Shown(browser, chart.html), result.fills
    assert len(fills) > 300
    when = fills.time.astype("datetime64[ms, UTC]").astype(np.int64).to_numpy()
    near = seen.look(4_000, 5_000)
    inside = np.flatnonzero((when >= near["since"]) & (when < near["until"]))
    assert (
        [place for _, _, place in near["marked"]] == inside.tolist()
        and len(inside) > 4
        and near["steps"] == ["stop", "target"]
    )
    x = np.array([mark[0] for mark in near["marked"]])
    np.testing.assert_allclose(
        np.diff(x) / np.diff(x).sum(), np.diff(when[inside]) / np.diff(when[inside]).sum(), atol=1e-6
    )
    y, price = np.array([mark[1] for mark in near["marked"]]), fills.price.to_numpy()[inside]
    assert np.corrcoef(y, price)[0, 1] == pytest.approx(-1.0, abs=1e-6)
    far = seen.look(0, N)
    assert 0 < len(far["marked"]) < far["fills"] == len(fills)
    assert f"of {len(fills):,} fills marked: zoom in for all" in seen.page.inner_text(".at-seen")
    seen.done()


def test_the_axis_is_logarithmic_where_values_differ_by_factors(browser: Any, chart: Chart) -> None:
    seen = Shown(browser, chart.html)
    assert seen.look(0, N)["scales"]["price"] and not seen.look(0, 2_000)["scales"]["price"]
    assert not seen.look(0, N)["scales"]["fall"]
    seen.done()


def test_pointing_at_a_fill_tells_of_it(browser: Any, result: BacktestResult, chart: Chart) -> None:
    seen = Shown(browser, chart.html)
    x, y, place = seen.look(4_000, 4_300)["marked"][1]
    box = seen.page.locator("canvas").bounding_box()
    seen.page.mouse.move(box["x"] + x, box["y"] + y)
    seen.page.wait_for_selector(".at-tip:not([hidden])")
    told, fill = seen.page.inner_text(".at-tip"), result.fills.iloc[place]
    for word in (f"{fill.reason} of trip {fill.trip}", f"{fill.price:,.1f}", str(fill.time)[:16], f"{fill.quantity:g}"):
        assert word in told
    assert f"{abs(fill.pnl - fill.fee):,.2f}" in told and f"{abs(result.trades.pnl[fill.trip]):,.2f}" in told
    seen.page.mouse.move(box["x"] + x + 60, box["y"] + 2)
    seen.page.wait_for_function("() => document.querySelector('.at-tip').innerText.includes('buy and hold')")
    seen.done()


def test_it_moves_by_hand_by_key_and_by_wheel_and_lets_a_page_scroll(browser: Any, chart: Chart) -> None:
    seen = Shown(browser, chart.html + "<div style='height:3000px'></div>")
    span = f"() => {{ const v = {CHART}.view; return [v.since, v.until - v.since] }}"
    begin, whole = seen.page.evaluate(span)
    box = seen.page.locator("canvas").bounding_box()
    seen.page.mouse.move(box["x"] + 500, box["y"] + 100)
    seen.page.mouse.wheel(0, 150)
    seen.page.wait_for_function("() => scrollY > 0")
    assert seen.page.evaluate(span) == [begin, whole], "a wheel alone scrolls the page"
    seen.page.evaluate("() => scrollTo(0, 0)")
    seen.page.keyboard.down("Control")
    seen.page.mouse.wheel(0, -200)
    seen.page.keyboard.up("Control")
    seen.page.wait_for_function(f"whole => {CHART}.view.until - {CHART}.view.since < 0.8 * whole", arg=whole)
    since, width = seen.page.evaluate(span)
    seen.page.mouse.down()
    seen.page.mouse.move(box["x"] + 400, box["y"] + 100, steps=4)
    seen.page.mouse.up()
    moved, same = seen.page.evaluate(span)
    assert moved > since and same == pytest.approx(width)
    seen.page.locator("canvas").focus()
    seen.page.keyboard.press("Home")
    assert seen.page.evaluate(span) == [begin, whole]
    seen.page.click("button[value=in]")
    assert seen.page.evaluate(span)[1] == pytest.approx(whole / 2)
    seen.done()


INK = "() => getComputedStyle(document.querySelector('.at-name')).color"


@pytest.mark.parametrize(("scheme", "wrap", "ink"), THEMES)
def test_it_follows_the_theme_of_where_it_stands(scheme: str, wrap: str, ink: str, browser: Any, chart: Chart) -> None:
    seen = Shown(browser, wrap.format(chart.html), color_scheme=scheme)
    assert seen.page.evaluate(INK) == ink
    seen.done()


@pytest.mark.parametrize("width", [1000, 390])
def test_it_is_as_wide_as_there_is_room(width: int, browser: Any, chart: Chart) -> None:
    seen = Shown(browser, chart.html, width=width)
    assert seen.page.evaluate("() => document.documentElement.scrollWidth") == width
    assert seen.page.locator("canvas").bounding_box()["width"] == width - 16
    assert all(button.bounding_box()["height"] >= 28 for button in seen.page.locator("button").all())
    seen.done()


def test_without_a_script_and_on_paper_it_stands_still(browser: Any, chart: Chart) -> None:
    still = Shown(browser, chart.html, java_script_enabled=False)
    assert [picture.is_visible() for picture in still.page.locator("svg.at-plot").all()] == [True, True]
    assert not still.page.locator("canvas").is_visible()
    still.done()
    seen = Shown(browser, chart.html)
    assert seen.page.locator("canvas").is_visible() and not seen.page.locator("svg.at-plot").first.is_visible()
    seen.page.emulate_media(media="print")
    assert seen.page.locator("svg.at-plot").first.is_visible() and not seen.page.locator("canvas").is_visible()
    seen.done()


def test_a_page_that_runs_no_scripts_of_others_shows_it_in_a_frame(browser: Any, chart: Chart) -> None:
    page = browser.new_page(color_scheme="dark")
    page.set_content(f'<iframe style="width:900px;height:700px" srcdoc="{escape(chart.page())}"></iframe>')
    page.frames[1].wait_for_function(f"() => {CHART}")
    assert page.frames[1].evaluate(f"() => {CHART}.shown.groups") > 500
    page.close()
