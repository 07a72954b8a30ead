"""Markets that stand in no table: what they are taken for, and that no evidence is overridden."""

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotrader.config.sections import InstrumentSettings
from autotrader.core.errors import DataError, UnknownRules
from autotrader.core.market import Candles, Instrument
from autotrader.data.instruments import infer, known
from autotrader.data.joined import load_market, rules_of
from autotrader.desk import backtest as desk
from autotrader.search.task import task_of
from autotrader.store import candles as candle_store
from autotrader.store.database import Store, open_store
from autotrader.store.series import forget_declared, save_declared, save_funding, save_instrument
from autotrader.strategy.templates import own

HOUR = 3_600_000
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
    from autotrader.config.settings import write_template

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
    from autotrader.config.settings import write_template

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
