"""The report of a backtest: true to the run, safe to send, readable anywhere."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from shared import run

import autotrader as at
from autotrader.core.clock import SimulatedClock
from autotrader.core.errors import ConfigError
from autotrader.desk.display import BacktestResult
from autotrader.engine.metrics import daily_returns
from autotrader.report.backtest import page
from autotrader.report.folder import read_manifest
from autotrader.results.result import account_of, curve_of, falls_of, months_of, stress_of, together, worth_until

ROOT = Path(__file__).resolve().parents[2]
NEW_YEAR = SimulatedClock(1_767_225_600_000)
MADE = "2026-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def result() -> BacktestResult:
    return at.backtest("donchian_breakout", at.load("EURUSD", venue="sample"), config="nowhere.toml")


@pytest.fixture(scope="module")
def text(result: BacktestResult) -> str:
    return page([result], made=MADE)


class Words(HTMLParser):
    "What a reader sees: rows of tables, and all of the text."

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data

    def row(self, name: str) -> list[str]:
        return next(row for row in self.rows if row and row[0] == name)


def number(text: str) -> float:
    return float(re.sub(r"[^\d.−-]", "", text).replace("−", "-"))


def test_a_report_asks_nothing_of_anybody(text: str) -> None:
    own = re.findall(r"<script>.*?</script>", text, re.S)
    assert len(own) == 1 and not re.search(
        r"\b(fetch|XMLHttpRequest|WebSocket|EventSource|import|eval)\b|https?:", own[0]
    )
    assert not re.search(
        r"<(script|link|img|iframe|object|embed|form|base)\b|@import|url\(|\bon\w+=", text.replace(own[0], "")
    )
    assert set(re.findall(r"https?://[^\"'<\s]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert all(target.startswith("#") for target in re.findall(r'(?:src|href)="([^"]*)"', text))


def test_text_from_outside_is_only_text(result: BacktestResult) -> None:
    evil = '<script>alert("1")</script>'
    part = replace(result.part, strategy=evil, bot=evil, notes=(evil,), params_of={evil: 1.0})
    for pages in (
        [BacktestResult(part=part, run=result.run)],
        [BacktestResult(part=part, run=result.run, uncounted=evil)] * 2,
    ):
        assert "<script>alert" not in page(pages)
    assert "<script" not in BacktestResult(part=part, run=result.run)._repr_html_()


def test_a_report_names_no_folder_and_no_account(result: BacktestResult) -> None:
    bot = result.part.settings.model_copy(
        update={
            "sub_account": "12345678",
            "decision": result.part.settings.decision.model_copy(update={"strategy": "/srv/desk/ideas.py:rule"}),
        }
    )
    why = "there is no config.toml in /srv/desk: `autotrader init` makes one"
    told = page([BacktestResult(part=replace(result.part, settings=bot), run=result.run, uncounted=why)])
    assert "Nobody counted how many were tried." in told
    assert "12345678" not in told and "/srv/desk" not in told
    assert "ideas.py:rule" in told


def test_the_same_backtest_makes_the_same_page(result: BacktestResult, tmp_path: Path) -> None:
    first, second = (result.report(tmp_path / name, clock=NEW_YEAR).read_bytes() for name in ("a.html", "b.html"))
    assert first == second
    assert b"2026-01-01 00:00 UTC" in first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_a_page_that_cannot_be_written_leaves_nothing(result: BacktestResult, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "nowhere" / "a.html"):
        with pytest.raises(ConfigError, match="cannot be written"):
            result.report(path)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


def test_the_page_tells_the_numbers_of_the_run(result: BacktestResult, text: str) -> None:
    words, stats = Words(text), result.stats
    split = {name: number(words.row(name)[1]) for name in ("what prices gave", "fees", "funding", "what was left")}
    slippage = number(words.row("slippage, within the prices")[1])
    assert split["what was left"] == pytest.approx(stats.pnl, abs=0.005)
    assert sum(split.values()) + slippage == pytest.approx(2 * stats.pnl, abs=0.03)
    assert f"in {stats.trades:,} round trips" in words.text
    assert sum(int(words.row(side)[1].replace(",", "")) for side in ("long", "short")) == stats.trades
    assert result.verdict[0] in words.text.replace("\u00a0", " ")


def test_the_stress_table_is_a_backtest_at_those_costs(result: BacktestResult) -> None:
    candles, rules = at.load("EURUSD", venue="sample"), result.part.instrument.rules
    for times, stats in stress_of(result.part)[1:]:
        fee = float(rules.taker_fee) * 1e4 * times
        costs = {
            "slippage_bps": times * result.part.assumed.slippage_bps,
            "spread_bps": times * result.part.assumed.spread_bps,
            "stop_delay_seconds": times * result.part.assumed.stop_delay_seconds,
            "taker_fee_bps": fee,
            "maker_fee_bps": fee,
        }
        anew = at.backtest("donchian_breakout", candles, costs=costs, config="nowhere.toml").stats
        assert (anew.trades, anew.pnl) == (stats.trades, stats.pnl)


def test_the_end_of_the_profit_lies_between_two_that_were_played(result: BacktestResult) -> None:
    stats = result.stats
    played = [(k, replace(stats, pnl=pnl)) for k, pnl in ((1.0, 50.0), (1.5, 10.0), (2.0, -30.0), (3.0, -100.0))]
    assert worth_until(played) == pytest.approx(1.625)
    assert worth_until(played[2:]) is None and worth_until(played[:2]) is None


def test_months_are_the_days_compounded(result: BacktestResult) -> None:
    days = pd.Series(
        1 + daily_returns(result.run, result.part.wallet_e8),
        index=pd.to_datetime(result.run.day_ms, unit="ms"),
    )
    expected = days.resample("MS").prod() - 1
    told = months_of(result.part, result.run)
    for when, value in expected.items():
        assert told.loc[when.year, when.month] == pytest.approx(value)  # type: ignore[attr-defined]
    assert np.isfinite(told.loc[:, 1:12].to_numpy(float)).sum() == len(expected)


def test_falls_are_those_that_a_patient_reader_finds(result: BacktestResult) -> None:
    stamps, equity = curve_of(result.part, result.run)
    found, peak, since, bottom = [], equity[0], stamps[0], (0.0, stamps[0])
    for when, value in zip(stamps, equity, strict=True):
        if value >= peak:
            if bottom[0] < 0:
                found.append((bottom[0], since, bottom[1], when))
            peak, since, bottom = value, when, (0.0, when)
        elif value / peak - 1 < bottom[0]:
            bottom = (value / peak - 1, when)
    if bottom[0] < 0:
        found.append((bottom[0], since, bottom[1], None))
    for (depth, begin, low, end), (_, row) in zip(
        sorted(found), falls_of(result.part, result.run).iterrows(), strict=False
    ):
        assert row["depth"] == pytest.approx(-depth)
        assert (row["from"].value // 10**6, row["bottom"].value // 10**6) == (begin, low)
        assert pd.isna(row["until"]) if end is None else row["until"].value // 10**6 == end


def test_several_bots_are_one_account_bar_by_bar(result: BacktestResult) -> None:
    candles = at.load("EURUSD", venue="sample")
    other = at.backtest("ema_trend", candles[700:4000], config="nowhere.toml")
    columns = {i: pd.Series(*reversed(curve_of(each.part, each.run))) for i, each in enumerate((result, other))}
    frame = pd.concat(columns, axis=1).sort_index().ffill().fillna(10_000.0)
    stamps, total = account_of([result, other])
    np.testing.assert_array_equal(stamps, frame.index)
    np.testing.assert_allclose(total, frame.sum(axis=1))
    both = together([result, other])
    assert both["pnl"] == pytest.approx(result.stats.pnl + other.stats.pnl)
    words = Words(page([result, other]))
    assert number(words.row("together")[2]) == result.stats.trades + other.stats.trades


def test_short_sales_on_a_spot_market_are_doubted(result: BacktestResult) -> None:
    spot = replace(result.part, instrument=replace(result.part.instrument, kind="spot"))
    assert "sell short on a spot market" in page([BacktestResult(part=spot, run=result.run)])
    assert "sell short on a spot market" not in page([result])


def test_it_fits_a_phone_follows_the_night_and_prints(browser: Any, result: BacktestResult, tmp_path: Path) -> None:
    file, seen = result.report(tmp_path / "report.html", clock=NEW_YEAR), {}
    for scheme in ("light", "dark"):
        context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)
        visited, asked = context.new_page(), list[str]()
        visited.on("request", lambda request, asked=asked: asked.append(request.url))
        visited.goto(file.as_uri())
        assert visited.evaluate("document.documentElement.scrollWidth") <= 390
        assert asked == [file.as_uri()]
        seen[scheme] = visited.evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
        )
        if scheme == "dark":
            assert visited.pdf().startswith(b"%PDF")
        context.close()
    light, dark = (sum(map(int, re.findall(r"\d+", seen[scheme][0])[:3])) for scheme in ("light", "dark"))
    assert light > 700 and dark < 100


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    shutil.copyfile(ROOT / "nbs" / "05_config" / "sample.toml", folder / "config.toml")
    assert run(folder, "db", "upgrade").code == 0
    return folder


@pytest.fixture
def desk(started: Path, tmp_path: Path) -> Path:
    shutil.copytree(started, tmp_path, dirs_exist_ok=True)
    return tmp_path


MONTH = ("--from", "2017-06-01", "--to", "2017-07-01")


def test_the_command_leaves_a_page_and_its_manifest(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KEY", "SECRET"):
        monkeypatch.setenv(f"BYBIT_MAIN_API_{name}", f"not-for-anybody-else-{name}")
    ended = run(desk, "backtest", *MONTH, "--report", "--json")
    assert ended.code == 0, ended.err
    told = json.loads(ended.out)
    file = Path(told["report"])
    assert file.parent.parent == desk / "reports" / "backtest"
    assert re.fullmatch(r"\d{8}T\d{6}Z_[0-9a-f]{8}", file.parent.name)
    assert sorted(path.name for path in file.parent.iterdir()) == ["manifest.json", "report.html"]
    assert [path for path in file.parent.parent.iterdir()] == [file.parent]
    text, manifest = file.read_text(encoding="utf-8"), read_manifest(file.parent)
    assert str(desk) not in text and "not-for-anybody-else" not in text + str(manifest)
    assert all(bot["id"] in text for bot in told["bots"]) and "Together 3 bots" in text
    assert manifest.results is not None and manifest.results["bots"] == told["bots"]
    assert manifest.parameters == {"from": "2017-06-01", "to": "2017-07-01"}
    for_people = run(desk, "backtest", *MONTH, "--report")
    assert for_people.out.splitlines()[-1].startswith("Report: ")
    assert Path(for_people.out.splitlines()[-1].removeprefix("Report: ")).is_file()


def test_without_being_asked_nothing_is_written(desk: Path) -> None:
    ended = run(desk, "backtest", *MONTH, "--json")
    assert ended.code == 0 and "report" not in json.loads(ended.out)
    assert not (desk / "reports").exists()


def test_a_report_without_a_place_is_one_line_before_anything_is_played(desk: Path) -> None:
    (desk / "reports").write_text("a file where a folder belongs")
    ended = run(desk, "backtest", *MONTH, "--report")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert "the report folder" in ended.err and "make room for it" in ended.err


def test_stress_is_that_of_the_configuration(desk: Path) -> None:
    one = json.loads(run(desk, "backtest", "--bot", "sub_bot_A", *MONTH, "--stress", "2", "--json").out)
    config = desk / "config.toml"
    config.write_text(re.sub(r"(?m)^stress = 1\.0", "stress = 2.0", config.read_text()))
    other = json.loads(run(desk, "backtest", "--bot", "sub_bot_A", *MONTH, "--json").out)
    assert one["bots"] == other["bots"]
    refused = run(desk, "backtest", "--stress", "-1")
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "stress" in refused.err and "-1" in refused.err and "http" not in refused.err


def test_every_backtest_of_the_command_is_counted_once(desk: Path) -> None:
    for expected, change in ((1, "3"), (1, "3"), (2, "2")):
        words = ("backtest", "--bot", "sub_bot_A", *MONTH, "--set", f"strategy_params.sl_ratio={change}", "--json")
        told = json.loads(run(desk, *words).out)["luck"]["sub_bot_A"]
        assert told["trials"] == expected
