"""Bots with one purse at work: live, when one of them fails, and what people are told of their money."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "parity"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import test_live as one
from test_portfolio_rehearsed import KINDS, walk

import autotrader as at
from autotrader.bots.session import Session
from autotrader.cli.main import app as program
from autotrader.cli.status import document, page
from autotrader.config.sections import Risk, StrategyParams
from autotrader.config.settings import Settings, load, write_template
from autotrader.core.clock import SimulatedClock, SystemClock
from autotrader.engine.events import EVENT, EventKind, Money
from autotrader.exchange.news import Closed, FeedStatus, Slice
from autotrader.exchange.venues import open_paper
from autotrader.runner import replay as runner_replay
from autotrader.runner.control import obey
from autotrader.runner.lease import Tenure, try_take
from autotrader.runner.live import Live
from autotrader.runner.parity import decision_parity
from autotrader.runner.replay import Replay
from autotrader.runner.supervisor import Supervisor
from autotrader.store import journal
from autotrader.store.candles import save
from autotrader.store.database import Store, open_store
from autotrader.store.tables import SystemEvent
from autotrader.strategy.setup import Part

MINUTE, SEVEN = one.MINUTE, one.SEVEN
ETH = replace(one.BTC, symbol="ETHUSDT")
PAIR = {("bybit", "BTCUSDT"): one.BTC, ("bybit", "ETHUSDT"): ETH}
BARS = 110


def supervisor_on(store: Store, clock: Any) -> Supervisor:
    tenure = try_take(store, clock=clock)
    assert isinstance(tenure, Tenure)
    return Supervisor(store, risk=Risk(), clock=clock, tenure=tenure, open_venue=open_paper)


def check_heard(session: Session) -> None:
    "What a bot knows of the others is what they are worth."
    others = sum(each.own_e8 for each in session.partners if each is not session)
    assert int(session.bot.state["others_e8"][0]) == others


def others_in(store: Store, bot: str) -> np.ndarray:
    events = journal.read(store, bot, EVENT)
    return events[(events["kind"] == EventKind.MONEY) & (events["code"] == Money.OTHERS)]


# --- live -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Settings, Store]]:
    "Two bots of one account that follow breakouts, and their markets until six."
    settings = one.desk(tmp_path)
    [first] = settings.sub_bots
    bots = [
        first.model_copy(update={"id": f"sub_bot_{letter}", "symbol": symbol, "account": "all"})
        for letter, (_, symbol) in zip("AB", PAIR, strict=True)
    ]
    settings = settings.model_copy(update={"sub_bots": tuple(bots)})
    with open_store(settings.database_url, folder=settings.folder, create=True) as store:
        for _, symbol in PAIR:
            save(store, replace(one.history(SEVEN - one.HOUR), symbol=symbol))
        yield settings, store


def minute(live: Live, clock: SimulatedClock, open_ms: int, ticks: dict[str, int]) -> None:
    "A minute that ends now, in each market at its price."
    clock.advance_to(max(clock.now_ms(), open_ms + MINUTE))
    for symbol, price in ticks.items():
        live.market.hear(Slice(venue="bybit", symbol=symbol, bar=one.flat(open_ms, price)))
    live.market.rest()


def begun(settings: Settings, store: Store, clock: SimulatedClock) -> Live:
    live = Live(supervisor_on(store, clock), settings, PAIR, one.Mute())
    live.market.hear(FeedStatus(is_up=True, why="connected"))
    return live


def test_live_bots_of_one_account_hear_of_each_other_before_their_clocks_and_after_a_restart(
    pair: tuple[Settings, Store],
) -> None:
    settings, store = pair
    clock, price = SimulatedClock(SEVEN - MINUTE), one.level(SEVEN)
    live = begun(settings, store, clock)
    minute(live, clock, SEVEN - MINUTE, {"BTCUSDT": price, "ETHUSDT": price})
    for _, symbol in PAIR:
        live.market.hear(
            Closed(venue="bybit", symbol=symbol, timeframe="1h", candle=replace(one.history(SEVEN, 1), symbol=symbol))
        )
    for i, up in enumerate((0, 40, 90)):
        minute(live, clock, SEVEN + i * MINUTE, {"BTCUSDT": price + up, "ETHUSDT": price - up})
    a, b = (bot.session for bot in live.market.bots)
    assert a.own_e8 > b.own_e8 and not a.is_flat and not b.is_flat
    check_heard(b)  # it was told last
    assert int(b.bot.state["wallet_e8"][0]) < 10_000 * 10**8, "its own, not all there is"
    for bot in ("sub_bot_A", "sub_bot_B"):
        told, events = others_in(store, bot), journal.read(store, bot, EVENT)
        assert len(told) >= 3 and decision_parity(store, bot).is_exact
        clocks = events["seq"][(events["kind"] == EventKind.CLOCK) & (events["ts_ms"] == told[0]["ts_ms"])]
        assert told[0]["seq"] < clocks.min(initial=2**62)
    worth, marks = [a.own_e8, b.own_e8], [a.mark, b.mark]
    live.market.supervisor.tenure.end()
    live = begun(settings, store, clock)
    a, b = (bot.session for bot in live.market.bots)
    assert ([a.own_e8, b.own_e8], [a.mark, b.mark]) == (worth, marks), "the marks are those of its last minute"
    minute(live, clock, SEVEN + 3 * MINUTE, {"BTCUSDT": price + 100, "ETHUSDT": price - 100})
    check_heard(b)
    assert [decision_parity(store, bot).is_exact for bot in ("sub_bot_A", "sub_bot_B")] == [True, True]
    live.market.supervisor.tenure.end()


def test_a_bot_that_leaves_its_account_counts_on_its_own_money(pair: tuple[Settings, Store]) -> None:
    settings, store = pair
    clock, price = SimulatedClock(SEVEN - MINUTE), one.level(SEVEN)
    live = begun(settings, store, clock)
    minute(live, clock, SEVEN - MINUTE, {"BTCUSDT": price, "ETHUSDT": price})
    assert live.market.bots[0].session.bot.state["others_e8"][0] == 10_000 * 10**8
    live.market.supervisor.tenure.end()
    alone = settings.model_copy(
        update={"sub_bots": tuple(b.model_copy(update={"account": None}) for b in settings.sub_bots)}
    )
    live = begun(alone, store, clock)
    minute(live, clock, SEVEN, {"BTCUSDT": price, "ETHUSDT": price})
    assert [int(bot.session.bot.state["others_e8"][0]) for bot in live.market.bots] == [0, 0]
    live.market.supervisor.tenure.end()


EAGER = """
import numpy as np
import autotrader as at

eager = at.own(lambda bars: at.from_targets(np.full(len(bars), 2.0), most=3.0), warmup=0)
"""


def test_a_weight_above_the_leverage_is_capped_where_a_bot_trades(pair: tuple[Settings, Store], tmp_path: Path) -> None:
    settings, store = pair
    (tmp_path / "idea.py").write_text(EAGER)
    bots = []
    for bot in settings.sub_bots:
        decision = bot.decision.model_copy(update={"strategy": f"{tmp_path / 'idea.py'}:eager"})
        bots.append(
            bot.model_copy(update={"decision": decision, "max_leverage": 0.5, "strategy_params": StrategyParams()})
        )
    clock, price = SimulatedClock(SEVEN - MINUTE), one.level(SEVEN)
    live = begun(settings.model_copy(update={"sub_bots": tuple(bots)}), store, clock)
    minute(live, clock, SEVEN - MINUTE, {"BTCUSDT": price, "ETHUSDT": price})
    candle = replace(one.history(SEVEN, 1), symbol="BTCUSDT")
    live.market.hear(Closed(venue="bybit", symbol="BTCUSDT", timeframe="1h", candle=candle))
    minute(live, clock, SEVEN, {"BTCUSDT": price, "ETHUSDT": price})
    session = live.market.bots[0].session
    state = session.bot.state[0]
    assert not session.trouble and int(state["mode"]) == 0
    held_e8 = int(state["qty"]) * price * one.BTC.rules.unit_e8
    assert held_e8 == pytest.approx(0.5 * 20_000 * 10**8, rel=0.01), "of all the money of the account"
    live.market.supervisor.tenure.end()


# --- one fails --------------------------------------------------------------------------------------------------------

MARKETS = [walk("BTCUSDT", 1, BARS), walk("ETHUSDT", 2, BARS), walk("SOLUSDT", 3, BARS)]


@pytest.fixture(scope="module")
def parts() -> list[Part]:
    strategy, bot = KINDS["weights"]
    return [each.part for each in at.backtest(strategy, MARKETS, bot=bot).results]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store("sqlite:///replay.db", folder=tmp_path, create=True) as opened:
        yield opened


def played(replay: Replay, until_bar: int = BARS) -> list[Session]:
    while replay.recorded[0].feed.at < until_bar and not replay.is_over:
        now_ms, due = next(runner_replay.in_step(replay._playing()))
        replay._moment(now_ms, due)
    return [recorded.session for recorded in replay.recorded]


def check_purse(store: Store, sessions: list[Session], *, started: int = 10_000 * 10**8) -> None:
    "All journals fold, each knows what the others are worth, and nothing came from nowhere."
    earned = 0
    for session in sessions:
        if not session.is_out:
            check_heard(session)
        assert decision_parity(store, session.bot.bot).is_exact
        now = session.bot.state[0]
        earned += int(now["realised_e8"]) - int(now["fees_e8"]) + int(now["funding_e8"])
    assert sum(int(session.bot.state["wallet_e8"][0]) for session in sessions) == started + earned


def _fail(_: int) -> Any:
    raise RuntimeError("this strategy was made to fail")


def test_where_the_strategy_of_one_fails_the_others_trade_on_with_right_money(parts: list[Part], store: Store) -> None:
    failing = [parts[0], replace(parts[1], explain=_fail), parts[2]]
    sessions = played(Replay(supervisor_on(store, SystemClock()), failing, speed=0))
    assert [bool(session.trouble) for session in sessions] == [False, True, False]
    assert [int(session.bot.state["mode"][0]) != 0 for session in sessions] == [False, True, False]
    check_purse(store, sessions)


def holding(replay: Replay) -> list[Session]:
    "Play until the second and the third bot hold something."
    sessions, at = played(replay, 60), 60
    while sessions[1].is_flat or sessions[2].is_flat:
        assert not replay.is_over
        at += 1
        sessions = played(replay, at)
    return sessions


def test_a_bot_that_is_left_alone_still_counts_for_what_it_was_worth(
    parts: list[Part], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = Replay(supervisor_on(store, SystemClock()), parts, speed=0)
    a, b, c = holding(replay)
    live_through = runner_replay.live_through
    monkeypatch.setattr(
        runner_replay, "live_through", lambda session, bar: _fail(0) if session is b else live_through(session, bar)
    )
    held, worth = int(b.bot.state["qty"][0]), 0
    while not b.is_out:
        worth = b.own_e8
        played(replay, replay.recorded[0].feed.at + 1)
    played(replay)
    assert held and b.is_out and replay.is_over and not a.is_out and not c.is_out
    assert len(others_in(store, a.bot.bot)) > 20
    check_purse(store, [a, b, c])
    assert abs(b.own_e8 - worth) < 0.02 * 10_000 * 10**8


def test_one_bot_is_flattened_or_paused_and_the_others_go_on(parts: list[Part], store: Store) -> None:
    supervisor = supervisor_on(store, SystemClock())
    replay = Replay(supervisor, parts, speed=0)
    a, b, c = holding(replay)
    obey(supervisor, "flatten", [b])
    obey(supervisor, "stop", [c])
    trips = int(a.bot.state["trip"][0])
    played(replay)
    assert b.is_flat and int(a.bot.state["trip"][0]) >= trips and int(a.bot.state["mode"][0]) == 0
    check_purse(store, [a, b, c])


def test_a_drawdown_of_the_whole_pauses_who_holds_something_and_says_whose_it_is(store: Store) -> None:
    strategy, bot = KINDS["weights"]
    tight = bot | {"risk": {"max_drawdown": 0.004, "daily_loss": 0.0, "max_losses": 0}}
    parts = [each.part for each in at.backtest(strategy, MARKETS, bot=tight).results]
    sessions = played(Replay(supervisor_on(store, SystemClock()), parts, speed=0))
    check_purse(store, sessions)
    with store.read() as connection:
        news = [
            row.message for row in connection.execute(SystemEvent.__table__.select()) if row.event_type == "DRAWDOWN"
        ]
    assert news and all("the equity of its account" in line for line in news)


# --- what people see --------------------------------------------------------------------------------------------------


def test_todays_profit_of_a_bot_is_its_own_and_the_lines_sum_to_the_purse(
    parts: list[Part], store: Store, tmp_path: Path
) -> None:
    supervisor = supervisor_on(store, SystemClock())
    sessions = played(Replay(supervisor, parts, speed=0), BARS - 8)
    bots = (
        f'[[sub_bots]]\nname = "{part.bot}"\nsymbol = "{part.instrument.symbol}"\naccount = "portfolio"\nsizing = "equity_frac"\n'
        for part in parts
    )
    (tmp_path / "config.toml").write_text("".join(bots))
    settings = load(tmp_path / "config.toml")
    told = document(store, settings, clock=SystemClock())
    assert told["accounts"]["portfolio"] == told["sums"]
    assert told["sums"]["equity"] == pytest.approx(sum(session.own_e8 for session in sessions) / 1e8, abs=1e-6)
    assert all(abs(row["today"]) < 500 for row in told["bots"]), "of a day, not against the money of all"
    state = sessions[0].bot.state[0]
    whole = int(state["others_e8"]) + sessions[0].own_e8 - int(state["day_e8"])
    assert told["sums"]["today"] == pytest.approx(whole / 1e8, abs=0.02)
    assert "Account portfolio holds" in " ".join(page(told).split())


# --- strategy bot -----------------------------------------------------------------------------------------------------

RULE = """
import numpy as np
import autotrader as at

def rule(bars):
    up = bars.close > bars.open
    return at.from_rules(long=up, short=~up, exit_long=~up, exit_short=up)
"""


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    write_template(tmp_path)
    (tmp_path / "idea.py").write_text(RULE)
    with open_store(load(tmp_path / "config.toml").database_url, folder=tmp_path, create=True) as opened:
        for symbol in ("BTCUSDT", "ETHUSDT"):
            save(opened, replace(walk("BTCUSDT", 1, 200), symbol=symbol, funding=None))
    return tmp_path


def said(desk: Path, *words: str) -> Any:
    return CliRunner().invoke(
        program, ["strategy", "bot", f"{desk / 'idea.py'}:rule", *words, "--config", str(desk / "config.toml")]
    )


def test_one_command_writes_a_bot_for_each_symbol_with_one_account(desk: Path) -> None:
    done = said(desk, "--symbol", "BTCUSDT", "--symbol", "ETH/USDT", "--account", "both")
    assert done.exit_code == 0, done.output
    bots = load(desk / "config.toml").sub_bots[-2:]
    assert [(bot.id, bot.symbol, bot.account) for bot in bots] == [
        ("rule_BTCUSDT", "BTCUSDT", "both"),
        ("rule_ETHUSDT", "ETHUSDT", "both"),
    ]
    assert sum(bot.equity_frac for bot in bots) == 0.5
    assert "backtest --bot rule_BTCUSDT --bot rule_ETHUSDT" in done.output


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--symbol", "BTCUSDT", "--symbol", "btc/usdt"), "BTCUSDT is there twice"),
        (("--symbol", "BTCUSDT", "--symbol", "SOLUSDT"), "SOLUSDT"),
        (("--symbol", "BTCUSDT", "--symbol", "ETHUSDT", "--account", "no name"), "account"),
        (("--symbol", "BTCUSDT", "--id", "sub_bot_A"), "has a bot sub_bot_A already"),
    ],
)
def test_where_one_cannot_be_written_none_is(desk: Path, words: tuple[str, ...], why: str) -> None:
    before = (desk / "config.toml").read_bytes()
    done = said(desk, *words)
    assert done.exit_code != 0
    assert why in f"{done.output} {done.exception}"
    assert (desk / "config.toml").read_bytes() == before
