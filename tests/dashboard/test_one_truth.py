"""A number is the same in a report, on a page, over HTTP and on the command line: they are asked of one journal."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from visited import filled, heard

from autotrader.cli.status import document
from autotrader.config.settings import Settings
from autotrader.core.clock import SystemClock
from autotrader.dashboard.api import add_api
from autotrader.dashboard.components import number, percent
from autotrader.dashboard.page_portfolio import PortfolioPage
from autotrader.dashboard.view import DeskView
from autotrader.engine.metrics import Stats, deepest_fall
from autotrader.runner.rehearsal import Rehearsal
from autotrader.status.bots import bots_of
from autotrader.status.performance import Performance, Tally, performance_of
from autotrader.store.database import Store

CLOCK = SystemClock()


@dataclass(frozen=True)
class Played:
    "Three bots that lived through the sample, and what the house says of them."

    settings: Settings
    store: Store
    rehearsal: Rehearsal

    @property
    def view(self) -> DeskView:
        return DeskView(self.settings, self.store, CLOCK, Tally(self.store))

    def pairs(self) -> list[tuple[Any, Stats, Performance]]:
        "Of each bot its run, the report's statistics, and the status."
        tally, found = Tally(self.store), []
        for bot, played in zip(self.settings.sub_bots, self.rehearsal.performances, strict=True):
            status = performance_of(self.store, bot.id, tally.trips(bot.id, CLOCK.now_ms()))
            assert status is not None
            found.append((played.result, played.result.stats, status))
        return found


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    settings, store, rehearsal = filled(tmp_path_factory.mktemp("played"))
    yield Played(settings, store, rehearsal)
    store.close()


def test_the_status_has_the_statistics_of_the_report_to_the_digit(played: Played) -> None:
    for result, report, status in played.pairs():
        assert report.trades > 20 and report.sharpe is not None  # there is something to compare
        assert status.sharpe == report.sharpe
        assert (status.trades, status.win_rate_frac) == (report.trades, report.win_rate)
        assert status.profit_factor == report.profit_factor
        assert status.return_frac == report.return_frac
        assert (status.fees_usdt, status.funding_usdt) == (report.fees, report.funding)
        assert status.days == len(result.run.day_equity_e8)
        assert status.max_drawdown_frac == deepest_fall(result.part.wallet_e8, result.run.day_equity_e8)
        assert status.won + status.lost <= status.trades


def test_a_tally_that_counts_on_says_what_one_says_that_counts_anew(played: Played) -> None:
    tally, now_ms = Tally(played.store), CLOCK.now_ms()
    for bot in played.settings.sub_bots:
        before = tally.trips(bot.id, now_ms)
        tally._newest = ["an older trade"]
        tally.refresh(now_ms)
        assert (tally.trips(bot.id, now_ms) == before).all() and len(before)


def test_page_api_and_command_line_say_the_same(played: Played) -> None:
    heard(played.settings, played.store)
    page, app = PortfolioPage(played.view), FastAPI()
    page.refresh()
    add_api(app, played.view)
    client = TestClient(app)
    told = {row["bot"]: row for row in client.get("/api/performance").json()}
    typed = {
        row["id"]: row for row in json.loads(json.dumps(document(played.store, played.settings, clock=CLOCK)))["bots"]
    }
    rows = {row["id"]: row for row in client.get("/api/bots").json()}
    for bot, (_, report, status) in zip(
        bots_of(played.store, played.settings, CLOCK.now_ms()), played.pairs(), strict=True
    ):
        assert told[bot.id]["sharpe"] == report.sharpe and told[bot.id]["win_rate_frac"] == report.win_rate
        assert number(report.sharpe) in page.performance.object and percent(report.win_rate) in page.performance.object
        assert bot.balance is not None
        assert bot.status == typed[bot.id]["state"] == rows[bot.id]["status"] == "trading"
        assert (
            float(bot.balance.equity_usdt) == typed[bot.id]["equity"] == float(rows[bot.id]["balance"]["equity_usdt"])
        )
        assert float(bot.balance.total_pnl_usdt) == typed[bot.id]["total"]
        assert abs(typed[bot.id]["total"] - status.return_frac * 10_000) < 1e-6
        assert number(bot.balance.equity_usdt) in page.money.object
        stop = bot.holding.stop_price if bot.holding else None
        assert (None if stop is None else float(stop)) == typed[bot.id]["stop"]
