"""The verdict on luck: right as often as it says, for any backtest there can be, in words that say why."""

from dataclasses import replace
from math import inf, isfinite, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from series import length

from autotrader.core.errors import ConfigError
from autotrader.core.market import Floats
from autotrader.results.verdict import AHEAD, LOST, LUCK, MORE, SHORT, in_words
from autotrader.validation.luck import FEWEST_DAYS, Lookahead, Luck, chance_per_day, judge, with_lookahead
from autotrader.validation.overfit import (
    deflated_sharpe,
    expected_max,
    min_backtest_years,
    probabilistic_sharpe,
    track_of,
)

YEAR = 365
FIVE_YEARS = 5 * YEAR
STREAMS = length(120, soak=400)


def returns(rng: np.random.Generator, sharpe: float, days: int = FIVE_YEARS, streams: int = 1) -> Floats:
    "[streams, days] with that true annual Sharpe ratio."
    return 0.01 * (rng.normal(size=(streams, days)) + sharpe / sqrt(YEAR))


def verdict(daily: Floats, **more: object) -> Luck:
    return judge(daily, **{"rng": np.random.default_rng(1), "draws": 100, **more})  # type: ignore[arg-type]


def best_of(streams: Floats) -> Floats:
    return np.asarray(streams[(streams.mean(axis=1) / streams.std(axis=1)).argmax()])


def spread_per_day(streams: Floats) -> float:
    return float((streams.mean(axis=1) / streams.std(axis=1, ddof=1)).std(ddof=1))


# right as often as it says


@pytest.mark.parametrize("trials", [1, 8, 24])
def test_the_best_of_trials_without_skill_seldom_gets_past(trials: int) -> None:
    rng = np.random.default_rng(trials)
    past = [verdict(best_of(returns(rng, 0.0, 1_000, trials)), trials=trials).is_past for _ in range(STREAMS)]
    assert np.mean(past) <= 0.05 + 2 * sqrt(0.05 * 0.95 / STREAMS)


def test_without_the_count_of_trials_luck_gets_past() -> None:
    "What the count is for: the same best of 24, judged as if it were alone."
    rng = np.random.default_rng(24)
    past = [verdict(best_of(returns(rng, 0.0, 1_000, 24))).is_past for _ in range(100)]
    assert np.mean(past) > 0.5


def mixed(rng: np.random.Generator, edge: float) -> Floats:
    "An edge, eleven trials without skill, and twelve that pay fees with nothing to show for them."
    return np.concatenate([returns(rng, edge), returns(rng, 0.0, streams=11), returns(rng, -4.0, streams=12)])


def test_trials_that_fees_push_down_do_not_hide_an_edge() -> None:
    "√V of the trials, which the paper takes, holds their fees for chance and asks for a Sharpe ratio above 5."
    rng = np.random.default_rng(3)
    past, by_their_spread = [], []
    for _ in range(60):
        streams = mixed(rng, edge=2.5)
        best, spread = best_of(streams), spread_per_day(streams)
        past.append(verdict(best, trials=24, sharpe_std_per_day=spread).is_past)
        by_their_spread.append(deflated_sharpe(track_of(best), trials=24, trials_std_per_period=spread) >= 0.95)
    assert np.mean(past) >= 0.9
    assert np.mean(by_their_spread) <= 0.1


def test_nor_do_they_make_luck_look_better() -> None:
    rng = np.random.default_rng(4)
    past = [verdict(best_of(mixed(rng, edge=0.0)), trials=24).is_past for _ in range(STREAMS)]
    assert np.mean(past) <= 0.05


def test_near_copies_of_a_trial_leave_the_hurdle_where_chance_puts_it() -> None:
    daily = returns(np.random.default_rng(5), 1.0)[0]
    narrow, wide = (verdict(daily, trials=50, sharpe_std_per_day=spread) for spread in (1e-6, 0.2))
    assert narrow.luckiest_sharpe_annual == wide.luckiest_sharpe_annual
    assert narrow.luckiest_sharpe_annual is not None
    assert narrow.luckiest_sharpe_annual >= expected_max(50) / sqrt(FIVE_YEARS - 1) * sqrt(YEAR)


def remembering(rng: np.random.Generator, memory: float, days: int, streams: int) -> Floats:
    "[streams, days] without skill, each day with a part of the one before in it."
    out = rng.normal(size=(streams, days + 100))
    for day in range(1, days + 100):
        out[:, day] += memory * out[:, day - 1]
    return 0.01 * out[:, 100:]


@pytest.mark.parametrize(("memory", "worth"), [(0.0, 1_000), (0.5, 500)])
def test_chance_reaches_farther_where_returns_remember(memory: float, worth: int) -> None:
    "Against the spread of Sharpe ratios over many such streams."
    streams = remembering(np.random.default_rng(6), memory, days=1_000, streams=400)
    found = [verdict(each, draws=300) for each in streams[:20]]
    chance = np.median([each.chance_annual for each in found])  # type: ignore[misc]
    assert chance == pytest.approx(spread_per_day(streams) * sqrt(YEAR), rel=0.15)
    assert np.median([each.days_worth for each in found]) <= worth  # type: ignore[misc]


def test_returns_that_remember_do_not_get_past_more_often() -> None:
    "Judged day by day, as the plain probabilistic Sharpe ratio does, one in six would."
    streams = remembering(np.random.default_rng(8), 0.5, days=600, streams=300)
    found = [verdict(each) for each in streams]
    plain = [probabilistic_sharpe(track_of(each)) >= 0.95 for each in streams]
    assert np.mean(plain) > 0.12
    assert np.mean([each.is_past for each in found]) <= 0.1
    assert "Its days remember each other: together they are worth" in " ".join(in_words(found[0]))


def test_the_interval_holds_the_true_sharpe_ratio_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    found = [verdict(returns(rng, 1.0, 500)[0], draws=200).interval for _ in range(200)]
    assert np.mean([each is not None and each.low <= 1.0 <= each.high for each in found]) == pytest.approx(
        0.95, abs=0.05
    )


# numbers are those of the formulas


def test_each_number_is_that_of_its_formula() -> None:
    daily = returns(np.random.default_rng(8), 1.6)[0]
    luck, track = verdict(daily, trials=40, independent=12.5), track_of(daily)
    assert luck.sharpe_annual == pytest.approx(track.sharpe_per_period * sqrt(YEAR))
    assert luck.chance_annual is not None and luck.sharpe_annual is not None
    chance = luck.chance_annual / sqrt(YEAR)
    assert chance == pytest.approx(1 / sqrt(FIVE_YEARS - 1))
    assert luck.psr == probabilistic_sharpe(track)
    assert luck.dsr == pytest.approx(deflated_sharpe(track, trials=12.5, trials_std_per_period=chance))
    assert luck.luckiest_sharpe_annual == pytest.approx(luck.chance_annual * expected_max(12.5))
    years = min_backtest_years(trials=12.5, target_sharpe_annual=luck.sharpe_annual)
    assert luck.min_backtest_years == pytest.approx(years)
    assert (luck.days, luck.years, luck.trials, luck.independent) == (FIVE_YEARS, 5.0, 40, 12.5)
    normal = 1.645**2 * (1 + track.sharpe_per_period**2 / 2) / track.sharpe_per_period**2
    assert luck.min_track_days == pytest.approx(1 + normal, rel=0.1)


@pytest.mark.parametrize(("days", "annual"), [(366, 1.0), (1_461, 0.5)])
def test_chance_is_one_over_the_root_of_the_years(days: int, annual: float) -> None:
    assert chance_per_day(days) * sqrt(YEAR) == pytest.approx(annual, abs=1e-3)


def test_a_market_that_rests_has_fewer_days_in_a_year() -> None:
    daily = returns(np.random.default_rng(9), 1.5)[0]
    always, weekdays = verdict(daily, trials=9), verdict(daily, trials=9, per_year=260)
    assert weekdays.sharpe_annual == pytest.approx((always.sharpe_annual or 0.0) * sqrt(260 / 365))
    assert weekdays.years == pytest.approx(FIVE_YEARS / 260)
    assert weekdays.dsr == pytest.approx(always.dsr)  # probabilities know no calendar


@given(st.integers(1, 5_000), st.floats(1, 5_000), st.floats(-1, 3))
@settings(max_examples=30)
def test_more_trials_never_help(trials: int, independent: float, sharpe: float) -> None:
    daily = returns(np.random.default_rng(10), sharpe, 400)[0]
    one, some = verdict(daily), verdict(daily, trials=trials, independent=independent)
    assert 1.0 <= some.independent <= trials
    assert some.dsr is not None and one.dsr is not None and some.dsr <= one.dsr == one.psr
    assert not (some.is_past and not one.is_past)


def test_no_count_is_one_trial() -> None:
    daily = returns(np.random.default_rng(11), 1.5)[0]
    assert verdict(daily, trials=0).dsr == verdict(daily, trials=1, independent=0.0).dsr == verdict(daily).dsr


def test_the_seed_decides_and_nothing_else() -> None:
    daily = returns(np.random.default_rng(12), 1.5)[0]
    first, again = (verdict(daily, trials=7) for _ in range(2))
    assert replace(first, interval=None) == replace(again, interval=None) or first.dsr == again.dsr
    assert first.interval is not None and again.interval is not None
    assert (first.interval.low, first.interval.high, first.dsr) == (again.interval.low, again.interval.high, again.dsr)


# what takes the verdict away, and what does not


def test_entries_no_better_than_random_ones_are_luck() -> None:
    daily = returns(np.random.default_rng(13), 2.0)[0]
    assert verdict(daily).is_past and verdict(daily, entry_rank=0.95).is_past
    drifting = verdict(daily, entry_rank=0.94)
    assert not drifting.is_past
    assert "entries at random on the same sides, as often and as long, do as well" in in_words(drifting)[0]


def test_a_plateau_of_good_trials_is_not_called_luck() -> None:
    "Their probability of overfitting is about a half: whichever is chosen, the others are as good."
    daily = returns(np.random.default_rng(14), 2.0)[0]
    luck = verdict(daily, trials=9, independent=2.0, pbo=0.6)
    assert luck.is_past
    assert in_words(luck)[-1].endswith("in 40% of cases; chance gives 50%.")


def test_one_lucky_day_tells_nothing() -> None:
    "Its probabilistic Sharpe ratio is 0.977: the formulas take what happened for what can happen."
    daily = np.zeros(FIVE_YEARS)
    daily[700] = 0.5
    luck = verdict(daily)
    assert probabilistic_sharpe(track_of(daily)) > 0.97
    assert not luck.is_past
    assert in_words(luck)[0] == (
        f"{SHORT}: the equity moved on 1 day, fewer than {FEWEST_DAYS}, from which no statistic can tell skill from luck."
    )


def test_a_lost_account_is_lost_whatever_came_before() -> None:
    daily = np.r_[np.full(900, 0.02) + returns(np.random.default_rng(15), 0.0, 900)[0], -1.0, np.full(40, np.nan)]
    luck = verdict(daily)
    assert luck.is_ruined and not luck.is_past
    assert in_words(luck) == [f"{LOST}: the account was lost on the way."]


# look-ahead


def test_foresight_is_past_nothing_and_what_was_not_checked_says_so() -> None:
    daily = returns(np.random.default_rng(13), 2.0)[0]
    luck = verdict(daily)
    assert (luck.is_past, luck.lookahead) == (True, Lookahead.UNCHECKED)
    heads = {each: in_words(with_lookahead(luck, each, "bar 7"))[0].partition(":")[0] for each in Lookahead}
    assert heads == {
        Lookahead.CHECKED: f"{MORE}, and checked for look-ahead on a sample (bar 7)",
        Lookahead.FAILED: f"{AHEAD}, so nothing of this could have been earned (bar 7).",
        Lookahead.UNCHECKED: f"{MORE}, but not checked for look-ahead (bar 7)",
        Lookahead.UNKNOWABLE: f"{MORE}, but it cannot be checked for look-ahead (bar 7)",
    }
    assert not with_lookahead(luck, Lookahead.FAILED).is_past


@given(st.sampled_from(Lookahead), st.integers(0, 50), st.floats(-2, 9))
@settings(max_examples=40)
def test_nothing_is_called_more_than_luck_without_a_word_on_look_ahead(
    state: Lookahead, seed: int, sharpe: float
) -> None:
    luck = with_lookahead(verdict(returns(np.random.default_rng(seed), sharpe, 400)[0]), state)
    said = in_words(luck)[0]
    assert luck.is_past == said.startswith(MORE)
    assert not said.startswith(MORE) or "checked for look-ahead" in said.partition(":")[0]
    assert not (luck.is_past and state is Lookahead.FAILED)


# any backtest there can be


anything = st.lists(
    st.one_of(st.just(0.0), st.floats(-0.3, 0.3), st.sampled_from([np.nan, np.inf, -np.inf, -1.0, 1e-300, 1e6])),
    max_size=90,
)


@given(anything, st.integers(0, 100), st.one_of(st.none(), st.floats(0, 1)), st.one_of(st.none(), st.floats(0, 1)))
def test_every_backtest_has_a_verdict(
    days: list[float], trials: int, pbo: float | None, entry_rank: float | None
) -> None:
    luck = verdict(np.array(days), trials=trials, pbo=pbo, entry_rank=entry_rank, sharpe_std_per_day=0.1)
    said = in_words(luck)
    assert said[0].startswith(MORE) == luck.is_past
    assert said[0].startswith((MORE, LUCK, LOST, SHORT))
    has_lost = luck.is_ruined or (luck.days_moved >= FEWEST_DAYS and (luck.sharpe_annual or 1.0) < 0.0)
    assert said[0].startswith(LOST) or not has_lost
    assert all(sentence.endswith(".") and "nan" not in sentence and "inf" not in sentence for sentence in said)
    assert not luck.is_past or luck.days_moved >= FEWEST_DAYS
    for share in (luck.psr, luck.dsr):
        assert share is None or 0.0 <= share <= 1.0


@pytest.mark.parametrize("days", [0, 1, 2, 29, 400])
def test_a_strategy_that_never_traded_is_told_so(days: int) -> None:
    luck = verdict(np.zeros(days), trials=12)
    assert (luck.sharpe_annual, luck.psr, luck.dsr, luck.interval) == (None, None, None, None)
    assert (luck.min_track_days, luck.min_backtest_years) == (inf, inf)
    assert in_words(luck) == [f"{SHORT}: the equity never moved."]


def test_the_verdict_says_what_it_was_held_against() -> None:
    daily = returns(np.random.default_rng(16), 0.9)[0]
    luck = verdict(daily, trials=37, independent=12.2)
    assert luck.luckiest_sharpe_annual is not None and luck.sharpe_annual is not None
    told = (
        "the best of 37 trials (about 12 independent) without skill would reach a Sharpe ratio of "
        f"{luck.luckiest_sharpe_annual:.2f}; this one has {luck.sharpe_annual:.2f}"
    )
    assert in_words(luck)[0].startswith(f"{LUCK}: {told}")
    better = verdict(daily + 0.001, trials=37, independent=12.2)
    assert in_words(better)[0].startswith(f"{MORE}, but not checked for look-ahead: the best of 37 trials (about 12")


def test_a_loser_needs_no_luck_and_no_length() -> None:
    luck = verdict(returns(np.random.default_rng(17), -1.0)[0], trials=5)
    assert luck.sharpe_annual is not None and luck.luckiest_sharpe_annual is not None
    assert in_words(luck)[0] == (
        f"{LOST}: it lost; its Sharpe ratio is −{-luck.sharpe_annual:.2f}, "
        f"and the best of 5 trials without skill would reach {luck.luckiest_sharpe_annual:.2f}."
    )
    assert not isfinite(luck.min_track_days) and not isfinite(luck.min_backtest_years)
    assert "No length of such a record would show an edge: its Sharpe ratio is not above 0." in in_words(luck)


@pytest.mark.parametrize("sharpe", [-1e-9, 0.0, 1e-9])
def test_what_did_not_gain_on_the_mean_day_lost(sharpe: float) -> None:
    "A mean day of zero, compounded, is a loss."
    daily = returns(np.random.default_rng(18), 0.0)[0]
    daily = daily - daily.mean() + daily.std() * sharpe
    luck = verdict(daily)
    assert luck.sharpe_annual is not None
    assert in_words(luck)[0].startswith(LOST) == (luck.sharpe_annual <= 0.0 or luck.is_loss)
    assert luck.sharpe_annual > 0.0 or np.prod(1.0 + daily) < 1.0


@pytest.mark.parametrize(
    ("sharpe", "pbo", "told"),
    [
        (1.0, 0.0, "99.9% of cases; chance gives 50%."),
        (1.0, 0.4, "60% of cases; chance gives 50%."),
        (1.0, 0.41, "59% of cases; chance gives 50%."),
        (-1.0, 0.32, "68% of cases; chance gives 50%."),
        (-1.0, 0.7, "30% of cases; chance gives 50%."),
    ],
)
def test_ranks_that_last_are_not_called_a_gain(sharpe: float, pbo: float, told: str) -> None:
    said = in_words(verdict(returns(np.random.default_rng(19), sharpe)[0], trials=24, pbo=pbo))
    assert said[-1].endswith(told) and not any(word in " ".join(said) for word in ("helped", "better"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"level": 0.5}, "level must lie between 0.5 and 1, was 0.5"),
        ({"level": 95}, "level must lie between 0.5 and 1, was 95"),
        ({"trials": -1}, "trials must be a whole number, 0 or more, was -1"),
        ({"trials": 2.5}, "trials must be a whole number, 0 or more, was 2.5"),
        ({"trials": float("nan")}, "trials must be a whole number, 0 or more, was nan"),
        ({"independent": float("nan")}, "independent must be a finite number, 0 or more, was nan"),
        ({"pbo": 50}, "pbo must lie between 0 and 1, was 50"),
        ({"entry_rank": -0.1}, "entry_rank must lie between 0 and 1, was -0.1"),
        ({"per_year": 0}, "per_year must be above 0, was 0"),
        ({"rng": 7}, "rng must be a seeded numpy generator, such as np.random.default_rng(7), was 7"),
    ],
)
def test_what_is_asked_wrongly_is_refused_in_one_line(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        verdict(returns(np.random.default_rng(1), 1.0, 100)[0], **change)
    assert str(caught.value) == said


def test_who_ended_with_less_has_lost_whatever_the_sign_of_the_sharpe_ratio() -> None:
    luck = judge(np.tile([0.6, -0.45], 200), rng=np.random.default_rng(2))
    assert luck.sharpe_annual > 0 and luck.is_loss and not luck.is_past
    assert in_words(luck)[0].startswith(f"{LOST}: it lost")
