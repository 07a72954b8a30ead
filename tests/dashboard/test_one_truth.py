"""A number is the same in a report, on a page, over HTTP and on the command line: they are asked of one journal."""

import json

from fastapi import FastAPI
from fastapi.testclient import TestClient
from visited import Played, heard

from autotrader.cli.status import document
from autotrader.core.clock import SystemClock
from autotrader.dashboard.api import add_api
from autotrader.dashboard.components import number, percent
from autotrader.engine.metrics import deepest_fall
from autotrader.status.bots import bots_of
from autotrader.status.performance import Tally

CLOCK = SystemClock()


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
    from autotrader.dashboard.page_portfolio import (
        PortfolioPage,
    )  # takes seconds, which whoever collects the tests does without

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
