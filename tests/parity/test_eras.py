"""A period in which the venue changed its rules is played under the rules of each day, in the simulation and in a rehearsal alike."""

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import stage

from autotrader.config.sections import Backtest, BotSettings
from autotrader.core.market import Candles, Instrument, VenueRules
from autotrader.data.instruments import known
from autotrader.data.joined import FundingEvents, Market, in_force, load_market
from autotrader.engine.events import EVENT, Command, EventKind
from autotrader.engine.signals import Signals
from autotrader.engine.simulate import run
from autotrader.runner.parity import decision_parity
from autotrader.runner.rehearsal import Rehearsal, rehearse
from autotrader.store import candles as candle_store
from autotrader.store import journal
from autotrader.store.database import Store, open_store
from autotrader.store.series import save_funding, save_instrument
from autotrader.strategy.setup import Part, part_for, simulate

HOUR = 3_600_000
BARS, MIDDLE = 400, 200
FREE = Backtest(slippage_bps=0.0, spread_bps=0.0, participation_cap=0.0)


def wave() -> Candles:
    close = (100_000 + 5_000 * np.sin(np.arange(BARS) / 7)).round(1)
    opens = np.r_[close[0], close[:-1]]
    return Candles(
        venue="bybit",
        symbol="BTCUSDT",
        timeframe="1h",
        open_ms=np.arange(BARS, dtype=np.int64) * HOUR,
        open=opens,
        high=np.maximum(opens, close) + 50,
        low=np.minimum(opens, close) - 50,
        close=close,
        volume=np.full(BARS, 1_000.0),
    )


def bybit(**rules: Decimal | int) -> Instrument:
    btc = known("bybit", "BTCUSDT")
    assert btc is not None
    return replace(btc, rules=replace(btc.rules, **rules))


BOT = BotSettings(
    name="w", id="w", venue="bybit", symbol="BTCUSDT", timeframe="1h", sizing="lot", base_lot=0.01, split_entry={"enabled": False},
    dynamic_sizing={"enabled": False}, initial_capital_usdt=10_000, risk={"max_losses": 0, "daily_loss": 0.0, "max_drawdown": 0.0},
)  # fmt: skip
NO_FUNDING = FundingEvents(ts_ms=np.zeros(0, np.int64), rate=np.zeros(0), missing_ms=np.zeros(0, np.int64))


def part(first: Instrument, *changes: VenueRules) -> Part:
    "The wave under these rules, with a signal that changes sides every ten hours."
    candles = wave()
    instrument, later, _ = in_force(first, changes)
    market = Market(candles=candles, fine=None, instrument=instrument, funding=NO_FUNDING, changes=later)
    direction = np.where(np.arange(BARS) // 10 % 2, 1, -1)
    return replace(part_for(BOT, candles, market, FREE), signals=Signals(direction, np.zeros(BARS), np.ones(BARS)))


def test_each_half_pays_the_fees_of_its_time() -> None:
    changing = part(bybit(), bybit(taker_fee=Decimal("0.001"), since_ms=MIDDLE * HOUR).rules)
    fills = simulate(changing).fills
    unit = changing.instrument.rules.unit_e8
    rate = np.where(fills["ts_ms"] < MIDDLE * HOUR, 0.00055, 0.001)
    assert fills["fee_e8"].tolist() == np.floor(fills["cost"] * unit * rate + 0.5).astype(np.int64).tolist()
    assert min((fills["ts_ms"] < MIDDLE * HOUR).sum(), (fills["ts_ms"] >= MIDDLE * HOUR).sum()) > 15


def test_a_run_over_a_change_is_its_two_halves_put_together() -> None:
    "Up to the change it is the run under the old rules, from there on it sizes and pays like the run under the new ones."
    old, new = bybit(), bybit(taker_fee=Decimal("0.001"), min_qty=Decimal("0.05"), since_ms=MIDDLE * HOUR)
    both, before, after = simulate(part(old, new.rules)), simulate(part(old)), simulate(part(new))
    early, late = both.fills["ts_ms"] < MIDDLE * HOUR, both.fills["ts_ms"] >= (MIDDLE + 10) * HOUR
    assert both.fills[early].tobytes() == before.fills[before.fills["ts_ms"] < MIDDLE * HOUR].tobytes()
    assert both.equity_e8[:MIDDLE].tobytes() == before.equity_e8[:MIDDLE].tobytes()
    assert not late.any()  # 0.01 is below the smallest order now
    assert len(after.fills) == 0
    assert both.notes["SIZED_TO_ZERO"] > 5 and "SIZED_TO_ZERO" not in before.notes


@pytest.mark.parametrize(
    ("rules", "note"),
    [
        ({"min_notional": Decimal(5_000)}, "MIN_NOTIONAL"),
        ({"max_market_qty": Decimal("0.004")}, "SIZE_CAPPED"),
        ({"max_leverage": Decimal("0.05")}, "SIZE_CAPPED"),
    ],
)
def test_minimums_and_maximums_hold_from_their_day_on(rules: dict[str, Decimal], note: str) -> None:
    found = simulate(part(bybit(), bybit(**rules, since_ms=MIDDLE * HOUR).rules))
    assert note in found.notes and note not in simulate(part(bybit())).notes
    entered = found.fills[found.fills["purpose"] == 0]
    assert set(entered["qty"][entered["ts_ms"] < MIDDLE * HOUR]) == {10}
    assert 10 not in set(entered["qty"][entered["ts_ms"] > (MIDDLE + 10) * HOUR])


def test_a_higher_maintenance_margin_liquidates_from_its_day_on() -> None:
    held = Signals(np.r_[1, np.zeros(BARS - 1)], np.zeros(BARS), np.ones(BARS))
    strict = bybit(maintenance_margin=Decimal("0.16"), since_ms=MIDDLE * HOUR).rules
    for changes, liquidations in (((), 0), ((strict,), 1)):
        one = part(bybit(), *changes)
        eras = tuple(replace(era, params=_without_stop(era.params)) for era in one.eras)
        found = simulate(replace(one, signals=held, params=_without_stop(one.params), eras=eras))
        assert found.venue["liquidations"][0] == liquidations
    entry = found.fills["cost"][0] // found.fills["qty"][0]
    fatal = np.flatnonzero(one.tape.low <= entry * (1 - 1 / 5 + 0.16))
    assert fatal[0] < MIDDLE  # where the old rules let it live
    assert found.held + 1 == fatal[fatal >= MIDDLE][0]  # bars 1 to the one before ended with the position


def _without_stop(params: np.ndarray) -> np.ndarray:
    out = params.copy()
    out["sl_ratio"] = 0.0
    return out


def test_shortcuts_stop_at_a_change() -> None:
    changing = part(bybit(), bybit(taker_fee=Decimal("0.002"), since_ms=MIDDLE * HOUR).rules)
    given = {name: getattr(changing, name) for name in ("params", "costs", "wallet_e8", "eras")}
    quick, slow = (
        run(changing.tape, changing.signals, changing.atr, shortcuts=shortcuts, **given) for shortcuts in (True, False)
    )
    assert quick.fills.tobytes() == slow.fills.tobytes()
    assert quick.equity_e8.tobytes() == slow.equity_e8.tobytes()


# the store ---


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store("sqlite:///t.db", folder=tmp_path, create=True) as opened:
        yield opened


def test_stored_rules_become_eras_and_the_notes_tell_what_changed(store: Store) -> None:
    candles = wave()
    candle_store.save(store, candles)
    save_instrument(store, bybit())
    for since, rules in (
        (100, {"tick_size": Decimal("0.5")}),
        (150, {"tick_size": Decimal("0.5")}),
        (MIDDLE, {"taker_fee": Decimal("0.001"), "funding_interval_ms": 4 * HOUR}),
    ):
        save_instrument(store, bybit(**rules, since_ms=since * HOUR))
    stamps = np.r_[np.arange(0, MIDDLE, 8), np.arange(MIDDLE, BARS, 4)] * HOUR
    save_funding(store, "bybit", "BTCUSDT", stamps, np.full(len(stamps), 1e-4))
    market = load_market(store, "bybit", "BTCUSDT", "1h", 0, BARS * HOUR)
    assert [rules.since_ms // HOUR for rules in market.changes] == [100, MIDDLE]
    assert {rules.tick_size for rules in market.changes} == {Decimal("0.1")}
    assert f"funding known at all {len(stamps)} stamps" in market.notes
    (first,) = [note for note in market.notes if "1970-01-05T04:00:00Z" in note]
    (second,) = [note for note in market.notes if "1970-01-09T08:00:00Z" in note]
    assert first.endswith("tick size 0.1 → 0.5")
    assert "taker fee 0.00055 → 0.001" in second and "funding interval ms 28800000 → 14400000" in second
    made = part_for(BOT, candles, market, FREE)
    assert [era.since_ms for era in made.eras] == [100 * HOUR, MIDDLE * HOUR]
    assert set(market.notes) <= set(made.notes)


# the rehearsal ---


def _changed(one: Part) -> Part:
    "The part, had its venue asked more from a third of the period on, and taken less at a time from two thirds on."
    n = len(one.tape.open_ms)
    rules = one.instrument.rules
    dearer = replace(rules, taker_fee=rules.taker_fee * 10, since_ms=int(one.tape.open_ms[n // 3]))
    strict = replace(dearer, max_market_qty=rules.max_market_qty / 5_000, since_ms=int(one.tape.open_ms[2 * n // 3]))
    candles, market = stage.market_of(one)
    return part_for(one.settings, candles, replace(market, changes=(dearer, strict)), one.assumed)


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Rehearsal]]:
    with open_store("sqlite:///rehearsal.db", folder=tmp_path_factory.mktemp("eras"), create=True) as opened:
        yield opened, rehearse([_changed(one) for one in stage.parts(600)], opened)


def test_a_rehearsal_over_changes_is_the_simulation_exactly(rehearsed: tuple[Store, Rehearsal]) -> None:
    for performance, before in zip(rehearsed[1].performances, stage.parts(600), strict=True):
        simulated = simulate(performance.result.part)
        np.testing.assert_array_equal(performance.result.run.fills, simulated.fills)
        np.testing.assert_array_equal(performance.result.run.equity_e8, simulated.equity_e8)
        assert performance.result.run.notes == simulated.notes
        assert performance.has_parity
        unchanged = simulate(before)
        assert unchanged.fills.tobytes() != simulated.fills.tobytes()


def test_new_parameters_stand_in_the_journal_and_it_folds(rehearsed: tuple[Store, Rehearsal]) -> None:
    opened, rehearsal = rehearsed
    for performance in rehearsal.performances:
        bot = performance.result.part.bot
        events = journal.read(opened, bot, EVENT)
        news = events[(events["kind"] == EventKind.COMMAND) & (events["code"] == Command.PARAMS)]
        assert news["ref"].tolist() == [int(era.params["id"][0]) for era in performance.result.part.eras]
        assert decision_parity(opened, bot).is_exact
