"""Markets that stand in no table: what they are taken for, and that no evidence is overridden."""

import itertools
import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import forked
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import autotrader as at
from autotrader.config.sections import InstrumentSettings
from autotrader.config.settings import load as load_settings
from autotrader.config.settings import template, write_template
from autotrader.core.clock import SimulatedClock
from autotrader.core.errors import DataError, UnknownRules
from autotrader.core.market import Candles, Instrument
from autotrader.data.importers import import_file
from autotrader.data.instruments import infer, known
from autotrader.data.joined import load_market, resample, rules_of
from autotrader.desk import backtest as desk
from autotrader.desk.rules import rules_known
from autotrader.runner import app
from autotrader.search.task import as_bot, as_costs, task_for, task_of
from autotrader.store import candles as candle_store
from autotrader.store.database import Store, open_store
from autotrader.store.series import declared_of, forget_declared, save_declared, save_funding, save_instrument
from autotrader.strategy.templates import own

HOUR = 3_600_000
PRICES = ("open", "high", "low", "close")
BEGIN = 1_704_067_200_000  # 2024-01-01


def bars(venue: str, symbol: str, *, price: float = 5.0, hours: int = 300, places: int = 3) -> Candles:
    close = np.round(price * (1 + 0.01 * np.sin(np.arange(hours) / 9)), places)
    opened = np.r_[close[0], close[:-1]]
    return Candles(
        venue=venue,
        symbol=symbol,
        timeframe="1h",
        open_ms=BEGIN + HOUR * np.arange(hours),
        open=opened,
        high=np.maximum(opened, close),
        low=np.minimum(opened, close),
        close=close,
        volume=np.full(hours, 1000.5),
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store("sqlite:///rules.db", folder=tmp_path, create=True) as opened:
        yield opened


def stamps(hours: int, every: int) -> np.ndarray:
    return BEGIN + HOUR * np.arange(0, hours, every)


def loaded(store: Store, venue: str, symbol: str) -> Instrument:
    return load_market(store, venue, symbol, "1h", BEGIN, BEGIN + 300 * HOUR).instrument


@pytest.mark.parametrize("venue", ["bybit", "binance", "okx", "bitget", "hyperliquid"])
@pytest.mark.parametrize("every", [1, 2, 4, 8])
def test_where_funding_is_stored_it_is_charged_at_every_stamp(store: Store, venue: str, every: int) -> None:
    candle_store.save(store, bars(venue, "DOTUSDT"))
    due = stamps(300, every)
    save_funding(store, venue, "DOTUSDT", due, np.full(len(due), 0.0003))
    market = load_market(store, venue, "DOTUSDT", "1h", BEGIN, BEGIN + 300 * HOUR)
    assert (market.instrument.kind, market.instrument.rules.funding_interval_ms) == ("perpetual", every * HOUR)
    assert market.funding.ts_ms.tolist() == due.tolist() and not len(market.funding.missing_ms)


def test_a_table_that_says_spot_does_not_drop_stored_funding(store: Store) -> None:
    candle_store.save(store, bars("binance", "BTCUSDT", price=40_000.0, places=2))
    assert loaded(store, "binance", "BTCUSDT") == known("binance", "BTCUSDT")
    save_funding(store, "binance", "BTCUSDT", stamps(300, 8), np.full(38, 0.0001))
    assert loaded(store, "binance", "BTCUSDT").kind == "perpetual"


def test_what_bybit_quotes_in_usdt_is_a_perpetual_and_its_missing_funding_is_told(store: Store) -> None:
    candle_store.save(store, bars("bybit", "DOTUSDT"))
    market = load_market(store, "bybit", "DOTUSDT", "1h", BEGIN, BEGIN + 300 * HOUR)
    rules = market.instrument.rules
    assert market.instrument.kind == "perpetual"
    assert (rules.taker_fee, rules.maker_fee) == (Decimal("0.00055"), Decimal("0.0002"))
    assert rules.maintenance_margin > 0 and rules.max_leverage > 1
    told = " ".join(market.notes)
    assert "no rules of bybit DOTUSDT are stored" in told and "the result lacks that cost" in told


def test_stored_rules_come_before_any_table_or_guess(store: Store) -> None:
    candle_store.save(store, bars("bybit", "DOTUSDT"))
    guessed = infer(bars("bybit", "DOTUSDT")).instrument
    told = replace(
        guessed, kind="spot", rules=replace(guessed.rules, taker_fee=Decimal("0.002"), funding_interval_ms=0)
    )
    save_instrument(store, told)
    save_funding(store, "bybit", "DOTUSDT", stamps(300, 8), np.full(38, 0.0001))
    assert loaded(store, "bybit", "DOTUSDT") == told


def test_rules_stored_for_a_later_time_stand_in_and_it_is_said(store: Store) -> None:
    candle_store.save(store, bars("bybit", "BTCUSDT", price=40_000.0, places=1))
    tabled = known("bybit", "BTCUSDT")
    assert tabled is not None
    later = replace(tabled, rules=replace(tabled.rules, taker_fee=Decimal("0.0009"), since_ms=BEGIN + 10_000 * HOUR))
    save_instrument(store, later)
    found, notes = rules_of(store, "bybit", "BTCUSDT", BEGIN)
    assert found is not None and found.instrument == later and "stand in" in notes[0]


def test_the_tick_is_read_off_all_that_is_stored_not_off_the_period(store: Store) -> None:
    whole = bars("bybit", "DOTUSDT")
    flat = np.where(np.arange(300) < 100, 5.0, whole.close)
    whole = replace(whole, open=flat, high=flat, low=flat, close=flat)
    candle_store.save(store, whole)
    market = load_market(store, "bybit", "DOTUSDT", "1h", BEGIN, BEGIN + 50 * HOUR)
    assert market.instrument.rules.tick_size == Decimal("0.001")


def test_loaded_candles_bring_the_rules_they_were_stored_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_template(tmp_path, kind="config")
    with open_store("sqlite:///data/autotrader.db", folder=tmp_path, create=True) as store:
        candle_store.save(store, bars("okx", "DOTUSDT"))
        save_funding(store, "okx", "DOTUSDT", stamps(300, 4), np.full(75, 0.0003))
    candles = desk.load("DOTUSDT", venue="okx")
    always = own(lambda candles: np.ones(len(candles)), warmup=0)
    market = task_of(always, candles).market
    assert market.instrument == candles.instrument and market.instrument.rules.funding_interval_ms == 4 * HOUR
    assert len(market.funding.ts_ms) == 75
    assert candles[:10].instrument == candles.instrument
    with pytest.raises(DataError, match="carry the rules of okx DOTUSDT"):
        task_of(always, replace(candles, symbol="XYZUSDT"))
    assert task_of(always, replace(candles, symbol="XYZUSDT", instrument=None)).market.instrument.symbol == "XYZUSDT"


@given(places=st.integers(0, 12), lead=st.integers(1, 99_999), data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_price_a_venue_could_quote_has_its_tick(places: int, lead: int, data: st.DataObject) -> None:
    units = np.array([10 * lead + 1, *data.draw(st.lists(st.integers(1, 10 * lead), min_size=5, max_size=20))])
    price = units / 10.0**places
    n = len(price)
    candles = replace(bars("okx", "ANYUSDT", hours=n), open=price, high=price, low=price, close=price)
    instrument = infer(candles).instrument
    assert instrument.rules.tick_size == Decimal(1).scaleb(-places)
    assert instrument.to_ticks(price).tolist() == units.tolist()
    assert instrument.rules.unit_e8 >= 1
    top = int(instrument.rules.max_qty / instrument.rules.qty_step) * int(units.max()) * instrument.rules.unit_e8
    assert top < 2**62, "the largest order is money that can be held"


def with_funding(store: Store, venue: str, symbol: str, *, every: int = 8) -> Store:
    candle_store.save(store, bars(venue, symbol))
    due = stamps(300, every)
    save_funding(store, venue, symbol, due, np.full(len(due), 0.0003))
    return store


def told(venue: str = "kraken", symbol: str = "DOTUSDT", **keys: object) -> InstrumentSettings:
    return InstrumentSettings.model_validate({"venue": venue, "symbol": symbol, **keys})


def test_where_nobody_knows_fee_and_leverage_there_is_no_result_and_one_line_says_what_to_do(store: Store) -> None:
    with_funding(store, "kraken", "DOTUSDT")
    with pytest.raises(UnknownRules) as refused:
        loaded(store, "kraken", "DOTUSDT")
    (line,) = str(refused.value).splitlines()
    assert "taker fee and maximum leverage" in line and "its funding is stored" in line
    for remedy in ("autotrader data rules --venue kraken --symbol DOTUSDT", "[[instruments]]", "at.instrument("):
        assert remedy in line
    save_declared(store, told(taker_fee_bps=4), now_ms=0)
    with pytest.raises(UnknownRules, match="whose maximum leverage nobody told"):
        loaded(store, "kraken", "DOTUSDT")
    save_declared(store, told(taker_fee_bps=4, max_leverage=20), now_ms=0)
    rules = loaded(store, "kraken", "DOTUSDT").rules
    assert (rules.taker_fee, rules.maker_fee) == (Decimal("0.0004"), Decimal("0.0004"))
    assert (rules.max_leverage, rules.maintenance_margin) == (20, Decimal("0.025"))
    assert rules.funding_interval_ms == 8 * HOUR


def test_a_spot_market_of_a_venue_without_a_list_wants_its_fee_and_nothing_else(store: Store) -> None:
    candle_store.save(store, bars("gate", "DOTUSDT"))
    with pytest.raises(UnknownRules, match=r"is spot .* whose taker fee nobody told"):
        loaded(store, "gate", "DOTUSDT")
    save_declared(store, told("gate", taker_fee_bps=20), now_ms=0)
    rules = loaded(store, "gate", "DOTUSDT").rules
    assert (rules.taker_fee, rules.maker_fee, rules.max_leverage) == (Decimal("0.002"), Decimal("0.002"), 1)
    candle_store.save(store, bars("hyperliquid", "DOT"))
    listed = loaded(store, "hyperliquid", "DOT")
    assert (listed.kind, listed.rules.taker_fee) == ("spot", Decimal("0.0007"))


@pytest.mark.parametrize("evidence", ["stored", "tabled", "listed"])
def test_what_people_tell_comes_before_all_other_evidence(store: Store, evidence: str) -> None:
    symbol = {"stored": "DOTUSDT", "tabled": "BTCUSDT", "listed": "DOTUSDT"}[evidence]
    with_funding(store, "bybit", symbol)
    if evidence == "stored":
        save_instrument(store, infer(bars("bybit", symbol)).instrument)
    before = loaded(store, "bybit", symbol).rules
    keys = {"taker_fee_bps": "3.5", "funding_interval_hours": 4, "maintenance_margin": "0.003"}
    save_declared(store, told("bybit", symbol, **keys), now_ms=0)
    after = load_market(store, "bybit", symbol, "1h", BEGIN, BEGIN + 300 * HOUR)
    wanted = {"taker_fee": Decimal("0.00035"), "funding_interval_ms": 4 * HOUR, "maintenance_margin": Decimal("0.003")}
    if evidence == "listed":
        wanted["maker_fee"] = Decimal("0.00035")  # of a fee that is told the dearer side follows
    assert after.instrument.rules == replace(before, **wanted)
    assert any("data rules" in note for note in after.notes)
    config = replace(store, declared=(told("bybit", symbol, taker_fee_bps=1),))
    assert loaded(config, "bybit", symbol).rules.taker_fee == Decimal("0.0001"), "the configuration comes first"
    assert forget_declared(store, "bybit", symbol) and loaded(store, "bybit", symbol).rules == before


def test_a_market_told_to_be_spot_pays_no_funding_and_one_told_to_be_a_perpetual_does(store: Store) -> None:
    with_funding(store, "bybit", "DOTUSDT")
    save_declared(store, told("bybit", kind="spot"), now_ms=0)
    market = load_market(store, "bybit", "DOTUSDT", "1h", BEGIN, BEGIN + 300 * HOUR)
    assert (market.instrument.kind, len(market.funding.ts_ms)) == ("spot", 0)
    candle_store.save(store, bars("binance", "BTCUSDT", price=40_000.0, places=2))
    save_declared(store, told("binance", "BTCUSDT", kind="perpetual"), now_ms=0)
    found = loaded(store, "binance", "BTCUSDT")
    assert found.kind == "perpetual" and found.rules.taker_fee == Decimal("0.0005"), "spot rules do not fit it"


def test_what_is_told_holds_under_every_later_rule(store: Store) -> None:
    with_funding(store, "bybit", "DOTUSDT")
    first = infer(bars("bybit", "DOTUSDT")).instrument
    later = replace(first.rules, taker_fee=Decimal("0.001"), min_notional=Decimal(50), since_ms=BEGIN + 100 * HOUR)
    save_instrument(store, first)
    save_instrument(store, replace(first, rules=later))
    save_declared(store, told("bybit", taker_fee_bps=2), now_ms=0)
    market = load_market(store, "bybit", "DOTUSDT", "1h", BEGIN, BEGIN + 300 * HOUR)
    assert [(rules.taker_fee, rules.min_notional) for rules in market.changes] == [(Decimal("0.0002"), 50)]


def test_bars_may_be_looked_at_before_their_rules_are_known_and_lose_no_funding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_template(tmp_path, kind="config")
    with open_store("sqlite:///data/autotrader.db", folder=tmp_path, create=True) as store:
        with_funding(store, "kraken", "DOTUSDT", every=4)
    candles = desk.load("DOTUSDT", venue="kraken")
    assert candles.instrument is None and any("nobody told" in note for note in candles.notes)
    always = own(lambda candles: np.ones(len(candles)), warmup=0)
    with pytest.raises(UnknownRules, match="data rules --venue kraken"):
        task_of(always, candles)
    with open_store("sqlite:///data/autotrader.db", folder=tmp_path) as store:
        save_declared(store, told(taker_fee_bps=4, max_leverage=20), now_ms=0)
        stored = load_market(store, "kraken", "DOTUSDT", "1h", BEGIN, BEGIN + 300 * HOUR)
    market = task_of(always, candles, instrument=stored.instrument).market
    assert market.funding.ts_ms.tolist() == stored.funding.ts_ms.tolist() and len(market.funding.ts_ms) == 75


def run_in(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AUTOTRADER__")}
    return forked.command(*words, cwd=folder, env=clean)


@pytest.fixture
def gate_desk(tmp_path: Path) -> Path:
    "A desk with a perpetual of a venue that no list knows."
    write_template(tmp_path, kind="config")
    with open_store("sqlite:///data/autotrader.db", folder=tmp_path, create=True) as store:
        with_funding(store, "gate", "DOTUSDT", every=4)
    return tmp_path


def test_the_line_that_refuses_names_a_command_that_helps(gate_desk: Path) -> None:
    backtest = ("backtest", "--strategy", "ema_trend", "--venue", "gate", "--symbol", "DOTUSDT", "--json")
    refused = run_in(gate_desk, *backtest)
    assert (refused.returncode, refused.stdout, len(refused.stderr.splitlines())) == (2, "", 1)
    command = re.findall(r"`autotrader (.*?)`", refused.stderr)[0].replace("taker_fee_bps=…", "taker_fee_bps=5")
    told = run_in(gate_desk, *command.replace("max_leverage=…", "max_leverage=20").split())
    assert told.returncode == 0, told.stderr
    done = run_in(gate_desk, *backtest)
    assert done.returncode == 0, done.stderr
    (note,) = [n for n in json.loads(done.stdout)["bots"][0]["notes"] if "taken for a perpetual" in n]
    assert "taker fee 0.05 % (data rules)" in note and "funding every 4 h (read off its funding)" in note
    shown = json.loads(run_in(gate_desk, "data", "rules", "--venue", "gate", "--symbol", "DOTUSDT", "--json").stdout)
    assert shown["rules"]["taker_fee_bps"] == {"value": "5", "by": "data rules"}
    assert shown["rules"]["maintenance_margin"] == {"value": "0.025", "by": "follows"}
    every = json.loads(run_in(gate_desk, "data", "rules", "--json").stdout)["markets"]
    assert [market["rules"] for market in every] == [shown["rules"]]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--set", "taker_fee_bps=cheap"], "taker_fee_bps = 'cheap' must be a number"),
        (["--set", "taker_fee=5"], "did you mean 'taker_fee_bps'"),
        (["--set", "tick_size=0"], "tick_size = '0' must be greater than 0"),
        (["--set", "tick_size=1e-10", "--set", "qty_step=1"], "finer than 1e-8"),
        (["--set", "max_leverage=20", "--set", "maintenance_margin=0.2"], "maintenance_margin 0.2 leaves nothing"),
        (["--set", "kind=future"], "kind = 'future' must be one of"),
        (["--set", "max_leverage=nan"], "must be a finite number"),
        (["--forget"], "nothing is kept of gate DOTUSDT"),
    ],
)
def test_what_cannot_be_told_is_refused_in_one_line_and_nothing_is_kept(
    gate_desk: Path, words: list[str], line: str
) -> None:
    fee = ["--set", "taker_fee_bps=5"] if "taker" not in words[-1] and words != ["--forget"] else []
    done = run_in(gate_desk, "data", "rules", "--venue", "gate", "--symbol", "DOTUSDT", *fee, *words)
    assert done.returncode == 2 and line in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    with open_store("sqlite:///data/autotrader.db", folder=gate_desk) as store:
        assert declared_of(store, "gate", "DOTUSDT") is None


def test_a_table_of_the_configuration_is_checked_like_any_other(gate_desk: Path) -> None:
    for keys, line in {
        "taker_fee = 5": "instruments.[1].taker_fee: unknown key; did you mean 'taker_fee_bps'?",
        "taker_fee_bps = true": "instruments.[1].taker_fee_bps",
        'symbol = "DOT/USDT"\nmax_leverage = 0.5': "must be 1 or more",
    }.items():
        text = template("config") + f'\n[[instruments]]\nvenue = "gate"\n{keys}\n'
        (gate_desk / "config.toml").write_text(text)
        done = run_in(gate_desk, "data", "list")
        assert done.returncode == 2 and line in done.stderr, done.stderr
    twice = '\n[[instruments]]\nsymbol = "DOT/USDT"\nmax_leverage = 5\n' * 2
    (gate_desk / "config.toml").write_text(template("config") + twice)
    assert "bybit DOTUSDT stands there twice" in run_in(gate_desk, "data", "list").stderr


def long_always(candles: Candles) -> at.Signals:
    never = candles.close < 0
    return at.from_rules(long=~never, short=never, exit_long=never, exit_short=never)


def test_in_a_notebook_an_instrument_is_told_over_what_candles_and_desk_know(gate_desk: Path) -> None:
    config, always = gate_desk / "config.toml", own(long_always, warmup=0)
    candles = desk.load("DOTUSDT", venue="gate", config=config)
    with pytest.raises(UnknownRules, match="nobody told"):
        at.backtest(always, candles)
    told_here = at.instrument(candles, taker_fee_bps=5, max_leverage=20)
    by_desk = at.instrument("DOT/USDT", venue="gate", taker_fee_bps=5, max_leverage=20, config=config)
    assert told_here.rules == by_desk.rules and told_here.rules.funding_interval_ms == 4 * HOUR
    result = at.backtest(always, candles, instrument=told_here)
    assert result.stats.funding < 0 < result.stats.fees
    dear = at.instrument(replace(candles, instrument=told_here), taker_fee_bps=50)
    assert at.backtest(always, candles, instrument=dear).stats.fees > 5 * result.stats.fees
    spot = at.instrument(candles, kind="spot", taker_fee_bps=5)
    assert at.backtest(always, candles, instrument=spot).stats.funding == 0


def test_rules_that_change_within_the_period_reach_a_notebook_as_they_reach_the_command_line(gate_desk: Path) -> None:
    first = at.instrument("DOTUSDT", venue="gate", taker_fee_bps=5, max_leverage=20, config=gate_desk / "config.toml")
    with open_store("sqlite:///data/autotrader.db", folder=gate_desk) as store:
        save_instrument(store, first)
        changes = {"taker_fee": Decimal("0.004"), "funding_interval_ms": 8 * HOUR, "since_ms": BEGIN + 150 * HOUR}
        save_instrument(store, replace(first, rules=replace(first.rules, **changes)))
        stored = load_market(store, "gate", "DOTUSDT", "1h", BEGIN, BEGIN + 300 * HOUR)
        bot = as_bot(stored.candles, {"id": "a", "sizing": "lot", "base_lot": 10.0})
        from_store = desk.backtest_bot(bot, store, as_costs(None), since_ms=BEGIN, until_ms=BEGIN + 300 * HOUR)
    candles = desk.load("DOTUSDT", venue="gate", config=gate_desk / "config.toml")
    assert [rules.taker_fee for rules in stored.changes] == [Decimal("0.004")] and candles.changes == stored.changes
    in_hand = task_of("ema_trend", candles, bot={"id": "a", "sizing": "lot", "base_lot": 10.0})
    found = at.backtest("ema_trend", candles, bot={"id": "a", "sizing": "lot", "base_lot": 10.0})
    assert in_hand.market.changes == stored.changes
    assert in_hand.market.funding.ts_ms.tolist() == stored.funding.ts_ms.tolist()
    assert found.run.equity_e8.tobytes() == from_store.run.equity_e8.tobytes()
    rate = found.run.fills["fee_e8"] / (found.run.fills["cost"] * found.part.instrument.rules.unit_e8)
    assert rate.min() < 0.0006 and rate.max() > 0.0039, "both fees were paid"
    late = candles.between(BEGIN + 200 * HOUR, BEGIN + 300 * HOUR)
    market = task_of("ema_trend", late).market
    assert (market.instrument.rules.taker_fee, market.changes) == (Decimal("0.004"), ())


@given(
    part=st.tuples(st.integers(0, 250), st.integers(2, 300)),
    every=st.sampled_from([1, 2, 4, 8]),
    late=st.integers(0, 20),
)
@settings(max_examples=40, deadline=None)
def test_a_part_of_the_candles_pays_what_the_whole_paid_in_it(part: tuple[int, int], every: int, late: int) -> None:
    whole = bars("okx", "DOTUSDT")
    paid = stamps(300, every) + late
    whole = replace(
        whole, funding=(paid, np.full(len(paid), 0.0001)), instrument=infer(whole, funding_ms=paid).instrument
    )
    first, last = BEGIN + HOUR * part[0], BEGIN + HOUR * min(300, sum(part))
    found = task_of("ema_trend", whole.between(first, last)).market.funding.ts_ms
    assert found.tolist() == [int(t) for t in paid if first <= t < last]


def test_margin_tiers_are_told_by_command_configuration_and_notebook_alike(gate_desk: Path) -> None:
    market = ("--venue", "gate", "--symbol", "DOTUSDT")
    told_here = ("--set", "margin_tiers=[[20000, 0.01, 50], [5000, '0.005', 100]]", "--set", "taker_fee_bps=5")
    shown = json.loads(run_in(gate_desk, "data", "rules", *market, *told_here, "--json").stdout)["rules"]
    assert shown["margin_tiers"] == {"value": "[5000, 0.005, 100] [20000, 0.01, 50]", "by": "data rules"}
    assert (shown["max_leverage"]["value"], shown["maintenance_margin"]["value"]) == ("100", "0.005")
    config = gate_desk / "config.toml"
    by_command = at.instrument("DOTUSDT", venue="gate", config=config).rules
    run_in(gate_desk, "data", "rules", *market, "--forget")
    tiers = [[20_000, "0.01", 50], [5_000, 0.005, 100]]
    assert (
        at.instrument("DOTUSDT", venue="gate", taker_fee_bps=5, margin_tiers=tiers, config=config).rules == by_command
    )
    table = '[[instruments]]\nvenue = "gate"\nsymbol = "DOT/USDT"\ntaker_fee_bps = 5\n'
    config.write_text(template("config") + table + "margin_tiers = [[20000, 0.01, 50], [5000, 0.005, 100]]\n")
    assert at.instrument("DOTUSDT", venue="gate", config=config).rules == by_command
    assert [tier.limit for tier in by_command.margin_tiers] == [5_000, 20_000]
    wrong = run_in(gate_desk, "data", "rules", *market, "--set", "margin_tiers=[[20000, 0.05, 50]]")
    assert wrong.returncode == 2 and "margin_tiers [20000, 0.05, 50]" in wrong.stderr


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Path, Iterator[int]]]:
    folder = tmp_path_factory.mktemp("priced")
    with open_store("sqlite:///priced.db", folder=folder, create=True) as store:
        yield store, folder / "bars.csv", itertools.count()


@given(places=st.integers(-3, 12), lead=st.integers(20_000, 99_999), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_any_price_a_venue_could_quote_survives_from_file_to_backtest(
    priced: tuple[Store, Path, Iterator[int]], places: int, lead: int, seed: int
) -> None:
    "Ticks from 1e-12 to 1000: what was written is what fills, to the last digit."
    store, file, number = priced
    rng, symbol = np.random.default_rng(seed), f"ANY{next(number)}USDT"
    texts = [str(Decimal(int(unit)).scaleb(-places)) for unit in lead + np.cumsum(rng.integers(-20, 21, 300))]
    step = Decimal(1).scaleb((Decimal(5_000) / Decimal(texts[0])).adjusted() - 3)  # a thousandth of what the bot wants
    volume = 1_000_003 * step
    rows = [f"{BEGIN + HOUR * i},{text},{text},{text},{text},{volume}" for i, text in enumerate(texts)]
    file.write_text("\n".join(["timestamp,open,high,low,close,volume", *rows]) + "\n")
    clock = SimulatedClock(BEGIN + 300 * HOUR)
    import_file(store, file, venue="okx", symbol=symbol, timeframe="1h", clock=clock)
    save_funding(store, "okx", symbol, stamps(300, 8), np.full(38, 0.0001))
    market = load_market(store, "okx", symbol, "1h", BEGIN, BEGIN + 300 * HOUR)
    bot = as_bot(market.candles, {"strategy_params": {"sl_ratio": 90.0, "sl_unit": "percent", "tp_ratio": 99.0}})
    played = {"since_ms": BEGIN, "until_ms": BEGIN + 300 * HOUR, "strategy": own(long_always, warmup=0)}
    free = {"slippage_bps": 0.0, "spread_bps": 0.0, "participation_cap": 0.0}
    found = desk.backtest_bot(bot, store, as_costs(free), **played)
    rules = market.instrument.rules
    assert [market.instrument.price(int(ticks)) for ticks in market.instrument.to_ticks(market.candles.close)] == list(
        map(Decimal, texts)
    )
    assert len(found.run.fills) == 1 and found.run.venue["funding_e8"][0] < 0
    entry, worth = found.run.fills[0], market.instrument
    price = worth.value(int(entry["cost"])) / worth.qty(int(entry["qty"]))
    assert f"{price.normalize():f}" in {f"{Decimal(text).normalize():f}" for text in texts}
    earned = worth.qty(int(entry["qty"])) * (Decimal(texts[-1]) - price)
    money = sum(map(int, (found.run.venue["funding_e8"][0], -entry["fee_e8"], 10_000 * 10**8)))
    assert int(found.run.equity_e8[-1]) == int(earned * 10**8) + money
    assert rules.unit_e8 >= 1


def test_every_door_takes_the_same_rules(tmp_path: Path) -> None:
    "Stored by the venue, changed within the period, and partly told by the configuration: research, notebook, replay and runner agree."
    table = '\n[[instruments]]\nsymbol = "DOT/USDT"\ntaker_fee_bps = 3.5\n'
    write_template(tmp_path, kind="config")
    (tmp_path / "config.toml").write_text(template("config") + table)
    configured = load_settings(tmp_path / "config.toml")
    with open_store(configured.database_url, folder=tmp_path, create=True, declared=configured.instruments) as store:
        with_funding(store, "bybit", "DOTUSDT")
        first = infer(bars("bybit", "DOTUSDT")).instrument
        later = replace(first.rules, min_notional=Decimal(50), maker_fee=Decimal("0.0004"), since_ms=BEGIN + 100 * HOUR)
        save_instrument(store, first)
        save_instrument(store, replace(first, rules=later))
        bot = as_bot(bars("bybit", "DOTUSDT"), None)
        market = task_for(bot, store, as_costs(None), since_ms=BEGIN, until_ms=BEGIN + 300 * HOUR).market
        live = app._instrument(store, bot, bot.venue, bot.symbol, BEGIN + 300 * HOUR)
        shown = rules_known(store, "bybit", "DOTUSDT").ruled
    candles = desk.load("DOTUSDT", config=tmp_path / "config.toml")
    in_hand = task_of("ema_trend", candles).market
    wanted = [replace(rules, taker_fee=Decimal("0.00035")) for rules in (first.rules, later)]
    assert [market.instrument.rules, *market.changes] == wanted
    assert [in_hand.instrument.rules, *in_hand.changes] == wanted
    assert shown is not None and live.rules == shown.instrument.rules == wanted[-1]
    assert at.instrument("DOTUSDT", config=tmp_path / "config.toml").rules == wanted[-1]


@pytest.mark.parametrize(
    ("known_to", "words"), [(300, "all costs in;"), (100, "all costs in but funding that is not known;")]
)
def test_no_result_claims_costs_that_nobody_knows(gate_desk: Path, known_to: int, words: str) -> None:
    with open_store("sqlite:///data/autotrader.db", folder=gate_desk) as store:
        candle_store.save(store, bars("bybit", "DOTUSDT"))
        save_funding(store, "bybit", "DOTUSDT", stamps(known_to, 8), np.full(len(stamps(known_to, 8)), 0.0003))
    market = ("--venue", "bybit", "--symbol", "DOTUSDT", "--from", "2024-01-01", "--to", "2024-01-13")
    done = run_in(gate_desk, "backtest", "--strategy", "ema_trend", *market)
    assert words in " ".join(done.stdout.split()), done.stdout + done.stderr
    found = at.backtest("ema_trend", desk.load("DOTUSDT", config=gate_desk / "config.toml", until="2024-01-13"))
    assert ("the funding that is known" in found.verdict[0]) == (known_to < 300)


def test_the_tick_is_read_off_bars_of_every_length(store: Store) -> None:
    hours = bars("bybit", "DOTUSDT", places=3)
    candle_store.save(store, hours)
    days = replace(
        resample(hours, "1d"), **{name: np.round(getattr(resample(hours, "1d"), name), 1) for name in PRICES}
    )
    candle_store.save(store, days)
    market = load_market(store, "bybit", "DOTUSDT", "1h", BEGIN, BEGIN + 300 * HOUR)
    assert market.instrument.rules.tick_size == Decimal("0.001")
