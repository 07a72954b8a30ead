"""Every picture stands alone, reads by day and by night, and shows no less than the data held."""

import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotrader.core.errors import DataError
from autotrader.engine.events import Reason
from autotrader.engine.metrics import TRIP
from autotrader.plots import canvas
from autotrader.plots.distributions import excursions_svg, spread_svg, underwater_svg, windows_svg
from autotrader.plots.model import confusion_svg, contributions_svg, edge_svg, importances_svg, reliability_svg
from autotrader.plots.results import equity_svg
from autotrader.plots.tables import months_svg, surface_svg
from autotrader.plots.trades import Bars, joined, trades_svg

MINUTE, DAY, YEAR = 60_000, 86_400_000, 525_600
SINCE = 1_741_392_000_000  # 2025-03-08
EVIL = '<script>alert("&")</script>'


def stamps(n: int) -> np.ndarray:
    return SINCE + MINUTE * np.arange(n)


def equity(n: int, seed: int = 7) -> np.ndarray:
    return 10_000 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 3e-4, n)))


def bars(n: int, seed: int = 7) -> Bars:
    rng = np.random.default_rng(seed)
    close = 80_000 * np.exp(np.cumsum(rng.normal(0, 8e-4, n)))
    opened = np.r_[80_000.0, close[:-1]]
    high, low = np.maximum(opened, close) * 1.0003, np.minimum(opened, close) * 0.9997
    return Bars(open_ms=stamps(n), open=opened, high=high, low=low, close=close, bar_ms=MINUTE)


def trips(n: int, market: Bars, seed: int = 7) -> np.ndarray:
    rng = np.random.default_rng(seed)
    start = np.sort(rng.integers(0, len(market.open_ms) - 60, n))
    made = np.zeros(n, TRIP)
    made["trip"], made["side"] = np.arange(n), rng.choice([-1, 1], n)
    made["opened_ms"], made["closed_ms"] = market.open_ms[start], market.open_ms[start + 59]
    made["entry"], made["exit"] = market.open[start] * 10, market.close[start + 59] * 10
    made["pnl_e8"] = made["side"] * (made["exit"] - made["entry"]) * 1e7
    return made


def months(n: int) -> tuple[range, np.ndarray]:
    return range(2026 - n, 2026), np.random.default_rng(7).normal(0.01, 0.05, (n, 12))


def sweep(m: int, n: int) -> np.ndarray:
    return np.random.default_rng(7).normal(0.3, 1.0, (m, n))


def of_minutes(n: int) -> dict[str, Callable[..., str]]:
    "Each picture of a series of minutes, by its title."
    market, when, money = bars(n), stamps(n), equity(n)
    done = trips(min(3_000, n // 60), market)
    far = np.abs(np.random.default_rng(7).normal(0, 0.01, (2, len(done))))
    borders = np.linspace(when[0], when[-1], 13).astype(np.int64)
    return {
        "equity": lambda title: equity_svg(when, money, title=title, unit="USDT"),
        "trades": lambda title: trades_svg(market, done, tick=0.1, title=title, unit="USDT"),
        "underwater": lambda title: underwater_svg(when, money, title=title),
        "windows": lambda title: windows_svg(when, money, borders, title=title, unit="USDT"),
        "spread": lambda title: spread_svg(done["pnl_e8"] / 1e8, title=title, unit="USDT", what="round trips"),
        "excursions": lambda title: excursions_svg(*far, done["pnl_e8"], title=title),
    }


def of_a_model() -> dict[str, Callable[..., str]]:
    "Each picture of a model, by its title."
    rng, names, kinds = (
        np.random.default_rng(7),
        [EVIL, "rsi_14", "a name that a phone has no room for"],
        ("down", "range", "up"),
    )
    said, pushes = np.sort(rng.uniform(0, 1, (3, 10)), axis=1), rng.normal(0, 0.1, (200, 3))
    values = np.where(rng.uniform(size=(200, 3)) < 0.1, np.nan, pushes * 3)
    begin, gain = SINCE + 30 * DAY * np.arange(9), rng.uniform(0, 1, 3)
    return {
        "edge": lambda title: edge_svg(
            begin, begin + 30 * DAY, rng.normal(0, 0.01, 9), borders_ms=begin[2:4], title=title
        ),
        "reliability": lambda title: reliability_svg(said, said**1.1, np.full((3, 10), 9), classes=kinds, title=title),
        "confusion": lambda title: confusion_svg(rng.integers(1, 99, (3, 3)), classes=kinds, title=title),
        "importances": lambda title: importances_svg(names, gain, gain - 0.3, title=title),
        "contributions": lambda title: contributions_svg(names, values, pushes, of="up", title=title),
    }


PICTURES: dict[str, Callable[..., str]] = {
    **of_minutes(20_000),
    **of_a_model(),
    "months": lambda title: months_svg(*months(8), title=title),
    "surface": lambda title: surface_svg(range(12), range(9), sweep(12, 9), x="a", y="b", unit="Sharpe", title=title),
    "line": lambda title: surface_svg(range(12), [""], sweep(12, 1), x="a", unit="Sharpe", title=title, chosen=(3, 0)),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_stands_alone(name: str) -> None:
    picture = PICTURES[name]("A title")
    root = ET.fromstring(picture)
    drawn = {"svg", "title", "desc", "style", "g", "line", "text", "tspan", "path", "rect", "circle"}
    assert {element.tag.split("}")[1] for element in root.iter()} <= drawn
    assert re.findall(r"url\(|@import|href|src=|http(?!://www\.w3\.org/2000/svg)", picture) == []
    assert re.findall(r"nan|inf\b", picture.replace("info", "")) == []


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_says_what_it_shows_to_those_who_cannot_see_it(name: str) -> None:
    root = ET.fromstring(PICTURES[name]("A title"))
    svg = "{http://www.w3.org/2000/svg}"
    assert root.get("role") == "img"
    assert root.findtext(f"{svg}title") == "A title"
    assert len(root.findtext(f"{svg}desc") or "") > 20


@pytest.mark.parametrize("name", PICTURES)
def test_a_title_is_only_text(name: str) -> None:
    root = ET.fromstring(PICTURES[name](EVIL))
    assert root.findtext("{http://www.w3.org/2000/svg}title") == EVIL
    assert root.find(".//{http://www.w3.org/2000/svg}script") is None


@pytest.mark.parametrize("name", PICTURES)
def test_a_minus_is_a_minus_sign(name: str) -> None:
    words = [element.text or "" for element in ET.fromstring(PICTURES[name]("")).iter() if element.tag.endswith("text")]
    assert [word for word in words if re.search(r"(?<!\d)-\d", word)] == []


@pytest.fixture(scope="module")
def of_a_year() -> dict[str, Callable[..., str]]:
    return of_minutes(YEAR)


@pytest.mark.parametrize("name", of_minutes(1_000))
def test_a_year_of_minutes_is_a_small_picture(name: str, of_a_year: dict[str, Callable[..., str]]) -> None:
    assert len(of_a_year[name]("A year of minutes")) < 100_000


def seconds(draw: Callable[..., str]) -> float:
    taken = []
    for _ in range(3):
        begun = time.perf_counter()
        draw("")
        taken.append(time.perf_counter() - begun)
    return min(taken)


def test_a_year_of_minutes_costs_no_more_than_its_points(of_a_year: dict[str, Callable[..., str]]) -> None:
    tenth = of_minutes(YEAR // 10)
    for name in ("equity", "trades", "underwater", "windows"):
        assert seconds(of_a_year[name]) < 20 * seconds(tenth[name]) + 0.02, name


@settings(deadline=None)
@given(n=st.integers(1, 4_000), most=st.integers(2, 200), seed=st.integers(0, 999), hole=st.integers(0, 5_000))
def test_joined_candles_are_those_of_their_bars(n: int, most: int, seed: int, hole: int) -> None:
    market = bars(n, seed)
    late = market.open_ms + np.where(np.arange(n) > n // 2, hole * MINUTE, 0)
    market = replace(market, open_ms=late)
    few = joined(market, most)
    assert len(few.open_ms) <= most
    frame = pd.DataFrame({name: getattr(market, name) for name in ("open", "high", "low", "close")})
    by_hand = frame.groupby(market.open_ms // few.bar_ms).agg(
        {"open": "first", "high": "max", "low": "min", "close": "last"}
    )
    for name in by_hand:
        np.testing.assert_array_equal(getattr(few, name), by_hand[name])


@given(n=st.integers(1, 400), seed=st.integers(0, 999))
@settings(deadline=None, max_examples=40)
def test_the_trips_drawn_are_counted_and_hold_the_largest(n: int, seed: int) -> None:
    market = bars(5_000)
    done = trips(n, market, seed)
    picture = trades_svg(market, done, tick=0.1, title="", unit="USDT")
    drawn = len(re.findall(r'overflow="visible"><path class="at-(?:gain|loss)"', picture))
    says = re.search(r">(\d+) (?:of (\d+) )?round trip", picture)
    assert says and (int(says[1]), int(says[2] or says[1])) == (drawn, n)
    best = done[np.argmax(np.abs(done["pnl_e8"]))]
    x = canvas.across(best["opened_ms"], SINCE, SINCE + 5_000 * MINUTE) / canvas.SCALE
    assert f'<svg x="{x:.2%}"' in picture


def test_a_trip_that_the_venue_ended_has_a_cross_and_an_open_one_a_dashed_line() -> None:
    market = bars(5_000)
    done = trips(3, market)
    usual = trades_svg(market, done, tick=0.1, title="", unit="USDT")
    assert "M-4-4l8 8" not in usual and "still open" not in usual
    done["ended"][1] = Reason.LIQUIDATION
    left = done[2:].copy()
    left["ended"] = -1
    picture = trades_svg(market, done[:2], still_open=left, tick=0.1, title="", unit="USDT")
    assert picture.count("M-4-4l8 8") == 1 and 'class="at-start"' in picture
    told = " ".join(re.sub("<[^>]*>", " ", picture).split())
    assert "2 round trips" in told and "× 1 ended by the venue; one still open, dashed to the end" in told
    assert trades_svg(market, done[:0], tick=0.1, title="", unit="USDT").count("0 round trips") >= 1


def luminance(colour: np.ndarray) -> float:
    "WCAG 2.1, relative luminance of sRGB 0–1."
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def rgb(text: str) -> np.ndarray:
    return np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)]) / 255


@pytest.mark.parametrize(("palette", "ground"), [("_LIGHT", "#ffffff"), ("_DARK", "#0d1117"), ("_DARK", "#111111")])
@pytest.mark.parametrize("hue", ["line", "loss"])
def test_numbers_read_on_the_strongest_tint(palette: str, ground: str, hue: str) -> None:
    from autotrader.plots.tables import STRONGEST

    tokens = dict(re.findall(r"--(\w+):(#\w+)", getattr(canvas, palette)))
    tint = STRONGEST * rgb(tokens[hue]) + (1 - STRONGEST) * rgb(ground)
    low, high = sorted((luminance(tint), luminance(rgb(tokens["ink"]))))
    assert (high + 0.05) / (low + 0.05) >= 4.5
    low, high = sorted((luminance(rgb(tokens["dim"])), luminance(rgb(ground))))
    assert (high + 0.05) / (low + 0.05) >= 4.5


def test_every_month_tells_its_sign_in_words_and_the_year_compounds() -> None:
    table = np.array([[0.1, -0.1, 0.0, *[np.nan] * 9]])
    cells = re.findall(r'class="at-(?:ink|bold) at-wide"[^>]*>([^<]+)<', months_svg([2025], table, title=""))
    assert cells == ["+10.0", "−10.0", "0.0", "−1.0"]


@given(mask=st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=6))
def test_the_outline_of_a_plateau_separates_it_from_all_else(mask: list[list[bool]]) -> None:
    from autotrader.plots.tables import _outline

    inside = np.array(mask)
    m, n = inside.shape
    drawn = set(re.findall(r"M[^M]+", _outline(inside, np.arange(m + 1.0), np.arange(n + 1.0))))
    wanted = set()
    for i in range(m):
        for j in range(n + 1):
            if (j > 0 and inside[i, j - 1]) != (j < n and inside[i, j]):
                wanted.add(f"M{i:.1f} {j:.1f}H{i + 1:.1f}")
    for i in range(m + 1):
        for j in range(n):
            if (i > 0 and inside[i - 1, j]) != (i < m and inside[i, j]):
                wanted.add(f"M{i:.1f} {j:.1f}V{j + 1:.1f}")
    assert drawn == wanted


def test_a_sweep_names_the_chosen_point_and_only_dots_the_peak() -> None:
    table, plateau = sweep(6, 5), np.zeros((6, 5), bool)
    table[5, 4], table[2, 2] = 9.0, 1.5
    plateau[1:4, 1:4] = True
    picture = surface_svg(
        [5, 10, 15, 20, 25, 30],
        [1.0, 1.5, 2.0, 2.5, 3.0],
        table,
        x="strategy_params.fast",
        y="strategy_params.gap",
        unit="Sharpe ratio per year",
        title="",
        chosen=(2, 2),
        plateau=plateau,
    )
    assert "plateau of 9 of 30 outlined" in picture
    assert "chosen and boxed: fast 15, gap 2 with 1.50" in picture
    assert "the peak only dotted: fast 30, gap 3 with 9.00" in picture
    assert picture.count("stroke-dasharray:1.5 3") == 1


def test_the_chosen_peak_is_not_dotted() -> None:
    table = sweep(4, 3)
    peak = divmod(int(table.argmax()), 3)
    picture = surface_svg(range(4), range(3), table, x="a", y="b", unit="", title="", chosen=peak)
    assert "the chosen one is the peak too" in picture
    assert "stroke-dasharray:1.5 3" not in picture


@pytest.mark.parametrize("table", [np.full((3, 3), 2.0), np.full((3, 3), -2.0), np.zeros((3, 3)), np.full((1, 1), 5.0)])
def test_the_dullest_sweep_has_a_picture(table: np.ndarray) -> None:
    ET.fromstring(surface_svg(range(len(table)), range(len(table[0])), table, x="a", y="b", unit="", title=""))


def test_the_deepest_falls_are_listed_with_how_long_they_lasted() -> None:
    money = np.array([100, 90, 101, 50, 80, 120, 119.9, 108, 115], float)
    picture = underwater_svg(SINCE + DAY * np.arange(9), money, title="")
    lines = ["".join(text.itertext()) for text in ET.fromstring(picture).iter() if text.tag.endswith("text")][-3:]
    assert lines == [
        "1−50.5 %2025-03-10 – 2025-03-133 dayslowest after 1 day",
        "2−10.0 %2025-03-08 – 2025-03-102 dayslowest after 1 day",
        "3−10.0 %2025-03-13 – not over3 days so farlowest after 2 days",
    ]
    money[7:] = 119.95  # 0.04 %, a ripple
    assert "not over" not in underwater_svg(SINCE + DAY * np.arange(9), money, title="")


@given(
    st.lists(st.floats(-1e6, 1e6).map(lambda value: round(value, 3)), min_size=1, max_size=400), st.sampled_from("ab")
)
@settings(deadline=None)
def test_every_value_is_in_a_bar_or_said_to_be_zero(values: list[float], what: str) -> None:
    from autotrader.plots.distributions import _bins

    each = np.array(values)
    ET.fromstring(spread_svg(each, title="", unit="USDT", what=what))
    moved = each[each != 0] if each.any() else each
    edges, below, above = _bins(moved)
    assert (np.diff(edges) > 0).all()
    assert np.isclose(edges, 0, atol=1e-9).any()
    assert len(edges) <= 50
    slack = 1e-9 * (edges[-1] - edges[0])
    assert below + above == ((moved < edges[0]) | (moved > edges[-1])).sum()
    assert (
        below + above <= 0.012 * len(moved) + 2 or ((moved < edges[0] - slack) | (moved > edges[-1] + slack)).sum() == 0
    )


def test_windows_compound_to_the_whole() -> None:
    when, money = stamps(5_000), equity(5_000)
    borders = np.array([when[0], when[1_200], when[3_000], when[-1]])
    picture = windows_svg(when, money, borders, title="", unit="USDT")
    told = [float(text.replace("−", "-")) for text in re.findall(r'class="at-(?:up|down)[^>]*>([^<]+)<', picture)]
    parts = money[[1_200, 3_000, 4_999]] / money[[0, 1_200, 3_000]] - 1
    np.testing.assert_allclose(told, 100 * parts, atol=0.051)


@pytest.mark.parametrize(("windows", "shown"), [(6, 6), (12, 12), (24, 0), (60, 0)])
def test_the_windows_tell_what_they_earned_all_of_them_or_none(windows: int, shown: int) -> None:
    when, money = stamps(5_000), equity(5_000)
    borders = np.linspace(when[0], when[-1], windows + 1).astype(np.int64)
    picture = windows_svg(when, money, borders, title="", unit="USDT")
    assert len(re.findall(r'<text class="at-(?:up|down)', picture)) == shown


FLAT = np.full(5, 100.0)


@pytest.mark.parametrize(
    ("draw", "line"),
    [
        (lambda: equity_svg(stamps(3), FLAT[:2], title="", unit=""), "one value per stamp, was 3 stamps and 2 values"),
        (lambda: equity_svg(stamps(0), FLAT[:0], title="", unit=""), "one value per stamp, was 0 stamps"),
        (lambda: underwater_svg(stamps(5), FLAT * np.nan, title=""), "finite values in order of time"),
        (lambda: underwater_svg(stamps(5)[::-1], FLAT, title=""), "finite values in order of time"),
        (lambda: windows_svg(stamps(5), FLAT, stamps(2), title="", unit=""), "increasing borders around the curve"),
        (lambda: windows_svg(stamps(5), FLAT, stamps(0), title="", unit=""), "were 0 from nowhere"),
        (lambda: spread_svg(FLAT[:0], title="", unit=""), "at least one value"),
        (lambda: spread_svg(np.array([1, np.inf]), title="", unit=""), "only finite ones, was 1 finite of 2"),
        (lambda: excursions_svg(FLAT, FLAT, FLAT[:2], title=""), "one number of each kind per trip, was 5, 5 and 2"),
        (lambda: excursions_svg(FLAT, FLAT * np.nan, FLAT, title=""), "excursions need finite numbers"),
        (lambda: months_svg([], np.zeros((0, 12)), title=""), "12 values for each of its years, was 0 years"),
        (lambda: months_svg([2025], np.full((1, 12), np.nan), title=""), "at least one finite month"),
        (lambda: surface_svg([], [], np.zeros((0, 0)), x="", unit="", title=""), "a table of that shape"),
        (lambda: surface_svg([1], [1], np.zeros((1, 2)), x="", unit="", title=""), r"was \(1, 2\): transpose it"),
        (lambda: surface_svg([1], [1], FLAT[:1, None] * np.nan, x="", unit="", title=""), "one finite value"),
        (lambda: trades_svg(bars(9), np.zeros(0), tick=0.1, title="", unit=""), "TRIP records"),
        (lambda: joined(replace(bars(9), low=FLAT), 5), "one value per stamp, was 9 stamps and 5 values"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_a_line(draw: Callable[[], str], line: str) -> None:
    with pytest.raises(DataError, match=line) as told:
        draw()
    assert "\n" not in str(told.value)
