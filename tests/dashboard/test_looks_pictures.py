"""The pictures of `plots` in a browser: readable on a page and on a phone, by day and by night, and nothing is fetched."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from visited import THEMES

from autotrader.core.market import Candles
from autotrader.engine.metrics import TRIP
from autotrader.plots.distributions import excursions_svg, spread_svg, underwater_svg, windows_svg
from autotrader.plots.results import equity_svg
from autotrader.plots.tables import months_svg, surface_svg
from autotrader.plots.trades import trades_svg
from autotrader.strategy.charts import open_chart

MINUTE, N = 60_000, 30_000
TITLE = "ema_trend on bybit BTCUSDT 1m, 2025-03-08 – 2025-03-29"
rng = np.random.default_rng(7)
stamps = 1_741_392_000_000 + MINUTE * np.arange(N)
money = 10_000 * np.exp(np.cumsum(rng.normal(0, 3e-4, N)))
close = 80_000 * np.exp(np.cumsum(rng.normal(0, 8e-4, N)))
opened = np.r_[80_000.0, close[:-1]]
candles = Candles(
    venue="bybit",
    symbol="BTCUSDT",
    timeframe="1m",
    open_ms=stamps,
    open=opened,
    high=np.maximum(opened, close) * 1.0003,
    low=np.minimum(opened, close) * 0.9997,
    close=close,
    volume=np.ones(N),
)
trips = np.zeros(1_200, TRIP)
begun = np.arange(1_200) * 24
trips["opened_ms"], trips["closed_ms"], trips["side"] = stamps[begun], stamps[begun + 20], rng.choice([-1, 1], 1_200)
trips["entry"], trips["exit"] = close[begun] * 10, close[begun + 20] * 10
trips["pnl_e8"] = trips["side"] * (trips["exit"] - trips["entry"]) * 1e7
borders = np.linspace(stamps[0], stamps[-1], 13).astype(np.int64)
mask = np.zeros((12, 9), bool)
mask[3:7, 2:6] = True
PICTURES = {
    "equity": lambda: equity_svg(stamps, money, title=TITLE, unit="USDT"),
    "trades": lambda: trades_svg(candles, trips, tick=0.1, title=TITLE, unit="USDT"),
    "underwater": lambda: underwater_svg(stamps, money, title=TITLE),
    "windows": lambda: windows_svg(stamps, money, borders, title=TITLE, unit="USDT"),
    "spread": lambda: spread_svg(trips["pnl_e8"] / 1e8, title=TITLE, unit="USDT", what="round trips"),
    "excursions": lambda: excursions_svg(*np.abs(rng.normal(0, 0.01, (2, 300))), rng.normal(size=300), title=TITLE),
    "months": lambda: months_svg(range(2018, 2026), rng.normal(0.01, 0.06, (8, 12)), title=TITLE),
    "surface": lambda: surface_svg(
        range(5, 65, 5), range(20, 110, 10), rng.normal(0, 1, (12, 9)), x="fast", y="slow", unit="Sharpe ratio per year", title=TITLE, chosen=(5, 4), plateau=mask
    ),
    "line": lambda: surface_svg(range(12), [""], rng.normal(0, 1, (12, 1)), x="fast", unit="Sharpe ratio per year", title=TITLE, chosen=(5, 0)),
}  # fmt: skip
WORDS = """() => [...document.querySelectorAll('svg.at-plot')].map(picture => {
  const svg = picture.getBoundingClientRect(), seen = []
  for (const text of picture.querySelectorAll('text')) {
    const box = text.getBoundingClientRect()
    if (box.width) seen.push({text: text.textContent, left: box.left - svg.left, right: box.right - svg.left,
      top: box.top - svg.top, bottom: box.bottom - svg.top, size: parseFloat(getComputedStyle(text).fontSize)})
  }
  return {wide: svg.width, high: svg.height, words: seen}
})"""


def page_of(browser: Any, body: str, *, width: int = 800, scheme: str = "light") -> tuple[Any, list[str]]:
    page = browser.new_page(viewport={"width": width, "height": 700}, color_scheme=scheme)
    told: list[str] = []
    page.on("request", lambda request: told.append(request.url))
    page.on("console", lambda message: told.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: told.append(str(error)))
    page.set_content(f"<!doctype html><body style='margin:16px'>{body}</body>")
    return page, told


@pytest.fixture(scope="module", params=[800, 390])
def seen(request: pytest.FixtureRequest, browser: Any) -> dict[str, Any]:
    "Words of each picture where they stand, on a page of that width."
    style = "<style>figure{margin:0}figure svg{display:block;max-width:100%;height:auto}</style>"  # as pages have it for images
    drawn = "".join(f"<figure>{draw()}</figure>" for draw in PICTURES.values())
    page, told = page_of(browser, style + drawn, width=request.param)
    pictures = page.evaluate(WORDS)
    page.close()
    assert told == []
    assert min(picture["high"] for picture in pictures) > 200
    assert [picture["wide"] for picture in pictures] == [min(760, request.param - 32)] * len(PICTURES)
    return dict(zip(PICTURES, pictures, strict=True))


@pytest.mark.parametrize("name", PICTURES)
def test_every_word_is_inside_and_large_enough(name: str, seen: dict[str, Any]) -> None:
    picture = seen[name]
    assert len(picture["words"]) > 5
    for word in picture["words"]:
        assert word["size"] >= 11, word
        assert word["left"] >= -1 and word["right"] <= picture["wide"] + 1, word
        assert word["top"] >= 0 and word["bottom"] <= picture["high"] + 1, word


@pytest.mark.parametrize("name", PICTURES)
def test_no_word_covers_another(name: str, seen: dict[str, Any]) -> None:
    for one, two in itertools.combinations(seen[name]["words"], 2):
        beside = min(one["right"], two["right"]) - max(one["left"], two["left"])
        above = min(one["bottom"], two["bottom"]) - max(one["top"], two["top"])
        assert beside < 1.5 or above < 4, (one, two)


INK = "() => getComputedStyle(document.querySelector('.at-title')).fill"


@pytest.mark.parametrize(("scheme", "wrap", "ink"), THEMES)
def test_a_picture_follows_the_theme_of_where_it_stands(scheme: str, wrap: str, ink: str, browser: Any) -> None:
    page, _ = page_of(browser, wrap.format(PICTURES["equity"]()), scheme=scheme)
    assert page.evaluate(INK) == ink
    page.close()


def test_inside_a_panel_page_it_wears_the_colours_of_that_page(browser: Any) -> None:
    page, _ = page_of(browser, "<div id='pane' style='--panel-on-background-color:rgb(1, 2, 3)'></div>", scheme="dark")
    read = """svg => { const root = document.querySelector('#pane').attachShadow({mode: 'open'}); root.innerHTML = svg
      return getComputedStyle(root.querySelector('.at-title')).fill }"""
    assert page.evaluate(read, PICTURES["months"]()) == "rgb(1, 2, 3)"
    page.close()


def test_the_chart_of_backtesting_py_asks_nobody(browser: Any, tmp_path: Path) -> None:
    path = open_chart("ema_trend", candles[:1_500], path=tmp_path / "chart.html")
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function("() => window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].is_idle")
    page.wait_for_timeout(300)
    page.close()
    assert asked == [path.as_uri()]
