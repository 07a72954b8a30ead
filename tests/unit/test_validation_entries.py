"""Random entries with the exposure of a strategy: blind strategies rank anywhere, seeing ones high, mere exposure does not."""

from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from autotrader.core.errors import ConfigError
from autotrader.core.market import Candles, Floats, Instrument, VenueRules
from autotrader.engine.events import PARAMS, Sizing, StopKind
from autotrader.engine.fills import new_costs
from autotrader.engine.metrics import daily_returns, sharpe_ratio
from autotrader.engine.signals import Signals
from autotrader.engine.simulate import Era, Run, run
from autotrader.engine.tape import Tape, make_tape
from autotrader.validation import entries
from autotrader.validation.entries import Entries, HeldSpans, held_spans, random_entries, shuffled

HOUR_MS = 3_600_000
WALLET_E8 = 10_000 * 10**8
BARS = 3_000
MOVE = 0.005  # of an hour
RULES = VenueRules(
    tick_size=Decimal("0.1"),
    qty_step=Decimal("0.001"),
    min_qty=Decimal("0.001"),
    max_qty=Decimal(1000),
    max_market_qty=Decimal(1000),
    min_notional=Decimal(5),
    maker_fee=Decimal("0.0002"),
    taker_fee=Decimal("0.00055"),
    max_leverage=Decimal(100),
    maintenance_margin=Decimal("0.005"),
)
BTC = Instrument(venue="bybit", symbol="BTCUSDT", rules=RULES)


def hours(seed: int, *, drift: float = 0.0, bars: int = BARS) -> Candles:
    "A market whose high and low are those of a continuous path, so that a stop or a target is worth nothing on average."
    rng = np.random.default_rng(seed)
    closes = np.cumsum(rng.normal(size=bars) * MOVE + drift - MOVE**2 / 2.0)
    opens = np.append(0.0, closes[:-1])
    reach = -2.0 * MOVE**2 * np.log(rng.random((2, bars)))
    apart = (opens - closes) ** 2
    return Candles(
        venue="bybit",
        symbol="BTCUSDT",
        timeframe="1h",
        open_ms=np.arange(bars) * HOUR_MS,
        open=20_000.0 * np.exp(opens),
        high=20_000.0 * np.exp((opens + closes + np.sqrt(apart + reach[0])) / 2.0),
        low=20_000.0 * np.exp((opens + closes - np.sqrt(apart + reach[1])) / 2.0),
        close=20_000.0 * np.exp(closes),
        volume=np.full(bars, 1e6),
    )


def params(**more: float) -> np.ndarray:
    settled = {
        "tick": 0.1,
        "step": 0.001,
        "unit_e8": RULES.unit_e8,
        "min_qty": 1,
        "max_qty": 10**6,
        "min_notional_e8": 5 * 10**8,
        "max_leverage": 3.0,
        "sizing": Sizing.EQUITY_FRAC,
        "size": 1.0,
        "sl_ratio": 3.0,
        "tp_ratio": 1.5,
        "allow_long": 1,
        "allow_short": 1,
        "max_signal_age_ms": 10**9,
        "id": 1,
    }
    out = np.zeros(1, PARAMS)
    for name, value in (settled | more).items():
        out[name] = value
    return out


@dataclass(frozen=True)
class Played:
    tape: Tape
    atr: Floats
    params: np.ndarray
    costs: np.ndarray
    run: Run

    def rank(self, seed: int, runs: int = 19, threads: int = 1) -> Entries:
        found = random_entries(
            self.tape,
            self.run,
            self.atr,
            params=self.params,
            costs=self.costs,
            wallet_e8=WALLET_E8,
            rng=np.random.default_rng(seed),
            runs=runs,
            threads=threads,
        )
        assert found is not None
        return found


def played(candles: Candles, signals: Signals, *, fine: Candles | None = None, **more: float) -> Played:
    tape, atr = make_tape(candles, BTC, fine=fine), candles.close * 1.6 * MOVE
    settled, costs = params(**more), new_costs(BTC, slippage_bps=1.0)
    return Played(tape, atr, settled, costs, run(tape, signals, atr, params=settled, costs=costs, wallet_e8=WALLET_E8))


def following(candles: Candles, slow: int = 40) -> Signals:
    "In where the price crosses its average, out where it crosses back."
    average = np.convolve(candles.close, np.ones(slow) / slow)[: len(candles)]
    above = candles.close > average
    turned = np.append(False, above[1:] != above[:-1])
    turned[:slow] = False
    direction = np.where(turned, np.where(above, 1, -1), 0)
    return Signals(direction, np.where(above, 2, 1), np.ones(len(candles)))


def buying(candles: Candles, seed: int) -> Signals:
    "Long about half of the time, without looking."
    rng = np.random.default_rng(seed)
    direction, exits = np.zeros(len(candles), np.int8), np.zeros(len(candles), np.int8)
    at = np.cumsum(rng.integers(5, 40, size=len(candles) // 10))
    at = at[at < len(candles)]
    direction[at[::2]], exits[at[1::2]] = 1, 1
    return Signals(direction, exits, np.ones(len(candles)))


def seeing(candles: Candles, seed: int, share: float) -> Signals:
    "Now and then in for ten bars on either side; with some share of them on the right one."
    rng = np.random.default_rng(seed)
    at = np.arange(20, len(candles) - 20, 20)
    ahead = np.sign(candles.close[at + 10] - candles.close[at])
    direction, exits = np.zeros(len(candles), np.int8), np.zeros(len(candles), np.int8)
    direction[at] = np.where(rng.random(len(at)) < share, ahead, -ahead)
    exits[at + 10] = 3
    return Signals(direction, exits, np.ones(len(candles)))


def unevenness(ranks: Floats, runs: int) -> float:
    "Largest distance of the ranks' distribution from an even one (Kolmogorov and Smirnov), ranks taken for steps of 1 / (runs + 1)."
    steps = np.arange(runs + 1) / (runs + 1)
    return float(np.max(np.abs((ranks[:, None] <= steps).mean(axis=0) - steps - 1 / (runs + 1))))


# what a rank means


@pytest.mark.parametrize("stop", [3.0, 100.0])
def test_a_strategy_that_knows_nothing_ranks_anywhere(stop: float) -> None:
    "Trend following on random walks, with costs: with stops that end a trip in three, and without."
    ranks = np.array([played(c := hours(seed), following(c), sl_ratio=stop).rank(seed).rank for seed in range(150)])
    assert unevenness(ranks, 19) < 1.63 / np.sqrt(150)  # 1.63: one in a hundred even samples is as uneven
    assert np.mean(ranks >= 0.95) < 0.11


def test_one_that_sees_ranks_high() -> None:
    ranks = np.array([played(c := hours(seed), seeing(c, seed, 0.65)).rank(seed).rank for seed in range(40)])
    assert np.mean(ranks >= 0.95) > 0.8


def test_being_long_in_a_rising_market_is_no_skill() -> None:
    "It makes money, sure enough; so do the random entries."
    each = [played(c := hours(seed, drift=4e-4), buying(c, seed), sl_ratio=100.0) for seed in range(100)]
    found = [one.rank(seed) for seed, one in enumerate(each)]
    ranks, sharpes = np.array([one.rank for one in found]), np.array([one.sharpe for one in found])
    assert sharpes.mean() > 1.5
    assert np.mean(ranks >= 0.95) < 0.12
    assert unevenness(ranks, 19) < 1.63 / np.sqrt(100)
    assert np.mean([one.random.mean() for one in found]) == pytest.approx(sharpes.mean(), abs=0.5)


def test_the_rank_counts_the_runs_it_beats() -> None:
    one = played(c := hours(1), following(c))
    found = one.rank(seed=1, runs=39)
    daily = daily_returns(one.run, WALLET_E8)
    assert found.sharpe == sharpe_ratio(daily, 365)
    assert found.rank == (found.random < found.sharpe).sum() / 40
    assert len(found.random) == 39 and found.trips == len(held_spans(one.run, one.tape))


def test_always_in_on_one_side_beats_nothing() -> None:
    "There is no other time to be in: every random run is the same buy and hold."
    candles = hours(3)
    direction = np.zeros(BARS, np.int8)
    direction[0] = 1
    held = played(candles, Signals(direction, np.zeros(BARS, np.int8), np.ones(BARS)), sl_ratio=1000.0)
    assert held.rank(seed=1).rank < 0.95


def test_the_seed_decides_whatever_the_threads() -> None:
    one = played(c := hours(2), following(c))
    first, again, other = one.rank(5), one.rank(5, threads=4), one.rank(6)
    np.testing.assert_array_equal(first.random, again.random)
    assert not np.array_equal(first.random, other.random)


# equal exposure


@st.composite
def spans(draw: st.DrawFn) -> tuple[HeldSpans, int]:
    "Trips that fit one after the other, and the number of bars."
    held = np.array(draw(st.lists(st.integers(1, 30), min_size=1, max_size=20)))
    side = np.array(draw(st.lists(st.sampled_from([-1, 1]), min_size=len(held), max_size=len(held))), np.int8)
    gaps = np.array(draw(st.lists(st.integers(0, 9), min_size=len(held), max_size=len(held))))
    entered = np.cumsum(gaps + held) - held
    return HeldSpans(side=side, entered=entered, held=held), int((entered + held)[-1]) + draw(st.integers(1, 50))


@given(spans(), st.integers(0, 2**32 - 1))
@example((HeldSpans(side=np.ones(2, np.int8), entered=np.arange(2), held=np.ones(2, np.int64)), 3), 0)
@example((HeldSpans(side=np.ones(3, np.int8), entered=np.arange(3), held=np.ones(3, np.int64)), 4), 0)
def test_trips_keep_number_sides_and_spans_and_never_overlap(of: tuple[HeldSpans, int], seed: int) -> None:
    trips, bars = of
    signals = shuffled(trips, first=0, bars=bars, rng=np.random.default_rng(seed))
    entered, left = np.flatnonzero(signals.direction), np.flatnonzero(signals.exits)
    assert len(entered) == min(len(trips), (bars + 1) // 2)  # a bar in and a bar out is the least a trip takes
    assert len(entered) < len(trips) or signals.direction.sum() == trips.side.sum()
    left = np.append(left, [bars] * (len(entered) - len(left)))
    assert (left > entered).all() and (entered[1:] > left[:-1]).all()
    has_room = int(trips.held.sum()) + len(trips) <= bars
    if has_room:
        before = sorted(zip(trips.side.tolist(), trips.held.tolist(), strict=True))
        assert sorted(zip(signals.direction[entered].tolist(), (left - entered).tolist(), strict=True)) == before
    else:
        lost = int(trips.held.sum() - (left - entered).sum())
        assert (trips.held.max() == 1) <= (lost == len(trips) - len(entered))
        assert (trips.held.max() > 1) <= (0 < lost <= 2 * len(trips))  # a bar or two for each trip to stay apart


def test_every_time_is_as_likely() -> None:
    trips = HeldSpans(side=np.ones(3, np.int8), entered=np.array([0, 10, 20]), held=np.array([4, 4, 4]))
    rng = np.random.default_rng(1)
    held = np.zeros(100)
    for _ in range(4_000):
        signals = shuffled(trips, first=0, bars=100, rng=rng)
        for at in np.flatnonzero(signals.direction):
            held[at : at + 4] += 1
    middle = held[15:85] / 4_000
    assert middle.min() > 0.08 and middle.max() < 0.16  # 12 bars of 100


@pytest.mark.parametrize(
    "more", [{}, {"sizing": Sizing.RISK_FRAC, "size": 0.01}, {"max_drawdown": 0.05}, {"daily_loss": 0.01}]
)
def test_random_runs_trade_as_often_and_hold_as_long(more: dict[str, float]) -> None:
    one = played(c := hours(7), following(c), fine=None, **more)
    trips = held_spans(one.run, one.tape)
    signals = shuffled(trips, first=0, bars=BARS, rng=np.random.default_rng(1))
    random = run(
        one.tape, signals, one.atr, params=entries._without_brakes(one.params), costs=one.costs, wallet_e8=WALLET_E8
    )
    again = held_spans(random, one.tape)
    assert sorted(zip(again.side, again.held, strict=True)) == sorted(zip(trips.side, trips.held, strict=True))
    assert random.held == pytest.approx(one.run.held, rel=0.1)


@pytest.mark.parametrize("more", [{}, {"sizing": Sizing.RISK_FRAC, "size": 0.01}])
def test_without_brakes_an_entry_is_as_large(more: dict[str, float]) -> None:
    one = played(c := hours(8), following(c), fine=None, **more)
    free = run(
        one.tape,
        following(c),
        one.atr,
        params=entries._without_brakes(one.params),
        costs=one.costs,
        wallet_e8=WALLET_E8,
    )
    first = one.run.fills[0], free.fills[0]
    assert first[0]["ts_ms"] == first[1]["ts_ms"]
    assert first[0]["qty"] == pytest.approx(first[1]["qty"], rel=1e-3)


def test_spans_are_counted_in_the_bot_s_bars_when_fills_are_finer() -> None:
    fine = hours(9)
    four = slice(None, None, 4)
    ends: NDArray[np.int64] = np.arange(3, BARS, 4)
    candles = replace(
        fine,
        timeframe="4h",
        open_ms=fine.open_ms[four],
        open=fine.open[four],
        high=fine.high.reshape(-1, 4).max(axis=1),
        low=fine.low.reshape(-1, 4).min(axis=1),
        close=fine.close[ends],
        volume=fine.volume[four],
    )
    direction, exits = np.zeros(BARS // 4, np.int8), np.zeros(BARS // 4, np.int8)
    direction[[100, 300]], exits[[110, 350]] = (1, -1), 3
    one = played(candles, Signals(direction, exits, np.ones(BARS // 4)), fine=fine, sl_ratio=1000.0)
    found = held_spans(one.run, one.tape)
    assert (found.entered.tolist(), found.held.tolist()) == ([100, 300], [10, 50])


def test_a_position_open_at_the_end_counts_to_the_end() -> None:
    direction = np.zeros(BARS, np.int8)
    direction[BARS - 100] = -1
    one = played(hours(10), Signals(direction, np.zeros(BARS, np.int8), np.ones(BARS)), sl_ratio=1000.0)
    assert held_spans(one.run, one.tape).held.tolist() == [99]


# rules that change


def _later(one: Played, since_ms: int, **more: float) -> Era:
    "Fees ten times as high from then on, under parameters of their own."
    costs = one.costs.copy()
    costs["taker_fee"] *= 10
    return Era(since_ms=since_ms, instrument=BTC, params=params(id=2, **more), costs=costs)


def _ranked(one: Played, *eras: Era) -> Entries:
    found = random_entries(
        one.tape, one.run, one.atr, params=one.params, costs=one.costs, wallet_e8=WALLET_E8, eras=eras,
        rng=np.random.default_rng(3), runs=19, threads=1,
    )  # fmt: skip
    assert found is not None
    return found


def test_random_runs_live_under_the_rules_of_each_day() -> None:
    one = played(c := hours(13), following(c))
    never, always, halfway = (_ranked(one, _later(one, since_ms * HOUR_MS)).random for since_ms in (BARS, 0, BARS // 2))
    dear = _later(one, 0).costs
    np.testing.assert_array_equal(never, one.rank(3).random)
    np.testing.assert_array_equal(always, replace(one, costs=dear).rank(3).random)
    assert (never > halfway).all() and (halfway > always).all()


@pytest.mark.parametrize("brake", [{"max_drawdown": 0.02, "sl_ratio": 0.5}, {"sl_kind": StopKind.TRAILING}])
def test_brakes_are_off_in_later_eras_too(brake: dict[str, float]) -> None:
    one = played(c := hours(14), following(c))
    free, braked = (_ranked(one, _later(one, 0, **more)).random for more in ({}, brake))
    np.testing.assert_array_equal(free, braked)


# what cannot be ranked


def test_what_never_traded_has_no_rank() -> None:
    still = played(hours(11), Signals(np.zeros(BARS, np.int8), np.zeros(BARS, np.int8), np.ones(BARS)))
    assert len(held_spans(still.run, still.tape)) == 0
    settled = {"params": still.params, "costs": still.costs, "wallet_e8": WALLET_E8, "rng": np.random.default_rng(1)}
    assert random_entries(still.tape, still.run, still.atr, **settled) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("runs", [18, 0, True, 50.0])
def test_too_few_runs_are_refused_in_one_line(runs: object) -> None:
    one = played(c := hours(12), following(c))
    with pytest.raises(ConfigError, match=f"^runs must be a whole number, 19 or more, was {runs}$"):
        one.rank(1, runs=runs)  # type: ignore[arg-type]
