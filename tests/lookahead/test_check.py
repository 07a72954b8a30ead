"""The look-ahead check: it finds every cheat, leaves honest strategies alone, and says in one line what it cannot judge."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
from harness import walk
from numpy.typing import NDArray

from autotrader.core.errors import ConfigError, DataError
from autotrader.core.market import Candles, Floats
from autotrader.data.joined import Source, join
from autotrader.data.sample import eurusd
from autotrader.engine.signals import Signals, from_rules
from autotrader.features.columns import Scale, compute, register
from autotrader.strategy import check as room
from autotrader.strategy.check import LookaheadReport, Verdict, check, document
from autotrader.strategy.templates import make, own

HOUR, DAY = 3_600_000, 86_400_000
BARS, SEED = 420, 14


def candles_of(seed: int = SEED, bars: int = BARS) -> Candles:
    "Candles with funding every eight hours, as known one bar after its stamp, and open interest with holes."
    candles, rng = walk(bars, seed=seed), np.random.default_rng(seed)
    stamps = np.arange(int(candles.open_ms[0]) - DAY, int(candles.open_ms[-1]) + HOUR, 8 * HOUR)
    rates = rng.normal(scale=1e-4, size=len(stamps))
    funding = Source(
        name="funding_rate", publisher="test", known_ms=stamps + HOUR // 2, values=rates, interval_ms=8 * HOUR
    )
    interest = np.where(rng.random(bars) < 0.3, np.nan, rng.uniform(1.0, 2.0, size=bars))
    joined = join(replace(candles, extras={}), [funding])
    return replace(joined, extras={**joined.extras, "open_interest": interest})


def rules(long: NDArray[np.bool_]) -> Signals:
    never = np.zeros(len(long), dtype=bool)
    return from_rules(long=long, short=never, exit_long=~long, exit_short=never)


def shift_minus_one(bars: Candles) -> Signals:
    return rules(np.append(bars.close[1:], bars.close[-1]) > bars.close)


def global_mean(bars: Candles) -> Signals:
    return rules(bars.close > np.nanmean(bars.close))


def centred_window(bars: Candles) -> Signals:
    middle = pd.Series(bars.close).rolling(5, center=True, min_periods=1).mean()
    return rules(bars.close > middle.to_numpy())


def whole_sample_scaler(bars: Candles) -> Signals:
    return rules((bars.close - bars.close.mean()) / (bars.close.std() + 1e-9) > 1.0)


def unclosed_day(bars: Candles) -> Signals:
    day = bars.open_ms // DAY
    last = np.searchsorted(day, day, side="right") - 1  # the day's close, on every hour of that day
    return rules(bars.close[last] > bars.close)


def across_the_publish_lag(bars: Candles) -> Signals:
    at_its_stamp = np.append(bars.extras["funding_rate"][1:], np.nan)  # the lag of one bar undone
    return rules(pd.Series(at_its_stamp).ffill().to_numpy() > 0.0)


def interpolated(bars: Candles) -> Signals:
    "Subtle: a hole is filled with a line to the next value that is known."
    interest = pd.Series(bars.extras["open_interest"]).interpolate()
    return rules((interest > interest.rolling(10).mean()).to_numpy())


def pivots(bars: Candles) -> Signals:
    "Subtle: a low counts as one on its own bar, while only the two bars after it make it one."
    lows = pd.Series(bars.low)
    return rules((lows == lows.rolling(5, center=True).min()).to_numpy())


def ranked_confidence(bars: Candles) -> Signals:
    "Subtle: the direction is honest, how sure it is comes from a rank over the whole series."
    up = np.diff(bars.close, prepend=bars.close[:1]) > 0
    sure = np.argsort(np.argsort(np.abs(bars.close - bars.open))) / len(bars)
    return replace(rules(up), confidence=sure)


def careful_about_its_length(bars: Candles) -> Signals:
    "Subtle: honest on every cut, and not on the whole."
    return shift_minus_one(bars) if len(bars) >= BARS else rules(bars.close > bars.open)


def honest(bars: Candles) -> Signals:
    return rules(bars.close > pd.Series(bars.close).rolling(10, min_periods=1).mean().to_numpy())


CHEATS: list[tuple[Callable[[Candles], Signals], str]] = [
    (shift_minus_one, "growing history"),
    (global_mean, "growing history"),
    (centred_window, "growing history"),
    (whole_sample_scaler, "growing history"),
    (unclosed_day, "growing history"),
    (across_the_publish_lag, "growing history"),
    (interpolated, "growing history"),
    (pivots, "growing history"),
    (ranked_confidence, "growing history"),
    (careful_about_its_length, "growing history"),
]


@pytest.mark.parametrize(("cheat", "test"), CHEATS)
def test_a_cheat_is_caught(cheat: Callable[[Candles], Signals], test: str) -> None:
    report = check(own(cheat, warmup=2), candles_of())
    assert (report.verdict, report.is_clean) == (Verdict.LOOKS_AHEAD, False)
    offence = report.offence
    assert offence is not None
    assert offence.then != offence.now
    assert test in {each.name for each in report.tests if each.offence}
    assert f"bar {offence.bar} (" in report.text


@pytest.mark.parametrize(("cheat", "test"), CHEATS)
def test_an_absurd_future_alone_catches_it_too(cheat: Callable[[Candles], Signals], test: str) -> None:
    found, refused = room.poisoned(room.asked(own(cheat, warmup=2)), candles_of(), range(BARS - 1))
    assert (found is not None, refused) == (True, 0)


def test_the_first_offending_bar_is_the_first() -> None:
    candles = candles_of()
    offence = room.growing(room.asked(own(shift_minus_one, warmup=2)), candles, range(2, BARS))
    assert offence is not None
    said = candles.close[1:] > candles.close[:-1]  # on the newest bar it says no, because there is no bar after it
    assert offence.bar == next(bar for bar in range(2, BARS) if said[bar])
    assert (offence.column, offence.then, offence.now) == ("direction", 0.0, 1.0)


def test_a_leak_these_bars_do_not_show_is_caught_by_an_absurd_future() -> None:
    def rounds_by_the_highest(bars: Candles) -> Signals:
        unit = 0.5 if bars.high.max() < 1_000.0 else 50.0  # of the whole series, which stays below
        return rules(np.round(bars.close / unit) > np.round(bars.open / unit))

    report = check(own(rounds_by_the_highest, warmup=0), candles_of())
    assert report.verdict == Verdict.LOOKS_AHEAD
    assert [each.name for each in report.tests if each.offence] == ["absurd future"]


@dataclass(frozen=True)
class Talker:
    "An honest rule with numbers behind it that are not."

    warmup: int = 10
    name: str = "talker"
    ahead: int = 1

    def signals(self, candles: Candles) -> Signals:
        return honest(candles)

    def explain(self, candles: Candles, i: int) -> dict[str, float]:
        return {"close": float(candles.close[i]), "next": float(candles.close[min(i + self.ahead, len(candles) - 1)])}


def test_an_indicator_that_knows_the_next_bar_is_caught() -> None:
    report = check(Talker(), candles_of())
    assert report.verdict == Verdict.LOOKS_AHEAD
    assert [(t.name, t.offence.column) for t in report.tests if t.offence] == [("indicators", "next")]
    assert check(Talker(ahead=0), candles_of()).is_clean


def test_answers_looked_up_by_date_are_not_called_clean() -> None:
    archive = candles_of()

    def looks_up(bars: Candles) -> Signals:
        place = np.searchsorted(archive.open_ms, bars.open_ms)
        return rules(archive.close[np.minimum(place + 1, BARS - 1)] > bars.close)

    report = check(own(looks_up, warmup=2), archive)
    assert (report.verdict, report.is_clean) == (Verdict.OUTSIDE, False)
    assert "archive" in report.text


def test_a_column_that_looks_its_answers_up_is_followed_by_name(more_columns: None) -> None:
    archive = candles_of()

    @register(inputs=("open_ms", "close"), scale=Scale.RATE)
    def tomorrows_move(open_ms: NDArray[np.int64], close: Floats) -> Floats:
        "what the next bar of the archive did"
        place = np.searchsorted(archive.open_ms, open_ms)
        return archive.close[np.minimum(place + 1, BARS - 1)] / close - 1.0

    def follows(bars: Candles) -> Signals:
        return rules(compute("tomorrows_move", bars) > 0.0)

    report = check(own(follows, warmup=2), archive)
    assert report.verdict == Verdict.OUTSIDE and "archive" in report.text


QUICK = {
    "ema_trend": {"fast": 3, "slow": 8, "gap_atr": 0.2, "atr_period": 5},
    "rsi_reversion": {"period": 2, "oversold": 49.0, "overbought": 51.0},
    "donchian_breakout": {"channel": 8, "exit_channel": 4},
}


@pytest.mark.parametrize(("name", "params"), [(name, params) for name in QUICK for params in ({}, QUICK[name])])
def test_the_templates_are_clean(name: str, params: dict[str, float]) -> None:
    report = check(make(name, params), eurusd()[:600])
    assert report.is_clean, report.text
    assert report.is_every_bar
    assert {each.name: each.runs > 0 for each in report.tests} == dict.fromkeys(
        ("growing history", "absurd future", "indicators", "lost past"), True
    )
    assert report.notes == ()


def funding_as_known(bars: Candles) -> Signals:
    return rules(np.nan_to_num(bars.extras["funding_rate"]) > 0.0)


def closed_days(bars: Candles) -> Signals:
    "A longer timeframe used rightly: the close of the day before, and only of a day that is over."
    day = bars.open_ms // DAY
    last = np.searchsorted(day, day) - 1
    return rules((last >= 0) & (bars.close > bars.close[np.maximum(last, 0)]))


def coin_by_bar(bars: Candles) -> Signals:
    return rules(np.array([np.random.default_rng(int(ms)).random() < 0.3 for ms in bars.open_ms]))


def mondays(bars: Candles) -> Signals:
    return rules((bars.open_ms // DAY + 3) % 7 == 0)


@pytest.mark.parametrize(
    ("rule", "warmup"), [(honest, 10), (funding_as_known, 0), (closed_days, 24), (coin_by_bar, 0), (mondays, 0)]
)
def test_an_honest_function_is_clean(rule: Callable[[Candles], Signals], warmup: int) -> None:
    report = check(own(rule, warmup=warmup), candles_of(bars=160))
    assert report.is_clean, report.text
    assert any("dates matter" in note for note in report.notes) == (rule is coin_by_bar)


def test_a_warm_up_that_is_too_short_is_measured() -> None:
    def above_its_mean(bars: Candles) -> Signals:
        return rules(bars.close > pd.Series(bars.close).rolling(60).mean().to_numpy())

    short = check(own(above_its_mean, warmup=5), candles_of(bars=900))
    assert (short.verdict, short.is_clean) == (Verdict.SHORT, False)
    assert short.warmup.needed is not None and abs(short.warmup.needed - 59) <= 5
    assert check(own(above_its_mean, warmup=59), candles_of(bars=900)).is_clean


def test_answers_that_count_from_the_first_bar_never_settle() -> None:
    def every_third(bars: Candles) -> Signals:
        return rules(np.arange(len(bars)) % 3 == 0)

    report = check(own(every_third, warmup=0), candles_of())
    assert (report.verdict, report.warmup.needed) == (Verdict.SHORT, None)
    assert "no number is enough" in report.text


def test_a_strategy_that_never_enters_is_not_called_clean() -> None:
    report = check(own(lambda bars: rules(bars.close < 0), warmup=0), candles_of())
    assert (report.verdict, report.is_clean) == (Verdict.SILENT, False)
    assert "it enters nowhere on these bars" in report.text


def one_line(strategy: object, candles: Candles) -> str:
    with pytest.raises((ConfigError, DataError)) as caught:
        check(strategy, candles)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_strategy_that_raises_is_told_with_its_line() -> None:
    def broken(bars: Candles) -> Signals:
        return rules(bars.close > bars.extras["sentiment"])

    where = broken.__code__.co_firstlineno + 1
    line = one_line(own(broken, warmup=3), candles_of())
    assert line == f"broken raised KeyError at test_check.py:{where}, asked about 4 bars: 'sentiment'"


def test_an_answer_of_the_wrong_length_is_told() -> None:
    line = one_line(own(lambda bars: rules(bars.close[1:] > bars.close[:-1]), warmup=0), candles_of())
    assert "must return one value per bar (1), was 0" in line


def test_dice_without_a_seed_are_told() -> None:
    dice = np.random.default_rng(3)
    line = one_line(own(lambda bars: rules(dice.random(len(bars)) < 0.2), warmup=0), candles_of())
    assert line.startswith("equal candles get unequal answers")


def test_a_memory_of_later_bars_is_told() -> None:
    kept: dict[int, Signals] = {}

    def remembers(bars: Candles) -> Signals:
        "The longest answer it ever gave, cut to what is asked: a cache that looks harmless."
        first = int(bars.open_ms[0])
        if first not in kept or len(kept[first]) < len(bars):
            kept[first] = global_mean(bars)
        return kept[first][: len(bars)]

    assert one_line(own(remembers, warmup=0), candles_of()).startswith("equal candles get unequal answers")


def test_a_strategy_that_writes_into_the_candles_is_told() -> None:
    def smooths(bars: Candles) -> Signals:
        bars.close[:] = np.round(bars.close)
        return rules(bars.close > bars.open)

    line = one_line(own(smooths, warmup=0), candles_of())
    assert "smooths writes into candles.close" in line


def test_too_few_bars_are_told() -> None:
    line = one_line(make("donchian_breakout"), candles_of(bars=60))
    assert "needs at least 121 bars to be checked (warm-up 21), there are 60" in line


def test_what_is_no_strategy_is_told() -> None:
    assert "len is not a strategy" in one_line(len, candles_of())


def test_a_rule_that_fails_on_a_young_series_is_clean_with_a_note() -> None:
    def wants_twenty(bars: Candles) -> Signals:
        means = np.lib.stride_tricks.sliding_window_view(bars.close, 20).mean(axis=1)
        return rules(np.concatenate([np.zeros(19, dtype=bool), bars.close[19:] > means]))

    report = check(own(wants_twenty, warmup=19), candles_of())
    assert report.is_clean
    assert any("a bot with a young history would stop" in note for note in report.notes)


def test_a_cheat_that_fails_on_its_first_bars_is_still_caught() -> None:
    def centred(bars: Candles) -> Signals:
        return rules(bars.close > np.convolve(bars.close, np.ones(5) / 5, "same"))  # five values, also for one bar

    report = check(own(centred, warmup=0), candles_of())
    assert (report.verdict, report.first) == (Verdict.LOOKS_AHEAD, 4)
    assert any("a bot with a young history would stop" in note for note in report.notes)


def test_a_rule_that_refuses_absurd_prices_is_not_blamed() -> None:
    def refuses(bars: Candles) -> Signals:
        if bars.close.max() > 1e4:
            raise ValueError("no such price")
        return honest(bars)

    report = check(own(refuses, warmup=10), candles_of())
    assert report.is_clean
    assert "refused the absurd prices" in report.text


def test_a_long_series_is_sampled_the_same_way_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "EVERY", 300)
    monkeypatch.setattr(room, "LEAST", 40)
    candles = candles_of(bars=2_000)

    def told(report: LookaheadReport) -> dict[str, object]:
        return {name: value for name, value in document(report).items() if name != "seconds"}

    report = check(make("donchian_breakout"), candles)
    assert report.is_clean and not report.is_every_bar
    assert 40 <= report.bars_checked < 200
    assert "a seeded sample and where signals change" in report.text
    assert told(check(make("donchian_breakout"), candles)) == told(report)
    for cheat, _ in CHEATS[:6]:
        assert check(own(cheat, warmup=2), candles).verdict == Verdict.LOOKS_AHEAD, cheat


def test_a_history_that_starts_later_is_checked_from_there() -> None:
    candles = candles_of()
    report = check(make("donchian_breakout"), candles, history_start_ms=int(candles.open_ms[200]))
    assert report.is_clean
    assert (report.first, report.bars_checked) == (221, BARS - 221)


def test_the_report_fits_on_a_page_and_into_a_script() -> None:
    report = check(own(coin_by_bar, warmup=0), candles_of(bars=200))
    assert len(report.text.splitlines()) <= 12
    assert document(report)["verdict"] == "clean"
    assert document(check(own(global_mean, warmup=0), candles_of(bars=200)))["offence"]["open"].startswith("2025-")
