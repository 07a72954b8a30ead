"""PSR, DSR, MinTRL, MinBTL and PBO against numbers printed in their papers, an outside library and slow plain references."""

from itertools import combinations
from math import inf, isnan, log, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotrader.core.errors import ConfigError, DataError
from autotrader.core.market import Floats
from autotrader.validation import overfit
from autotrader.validation.overfit import (
    Overfit,
    Track,
    deflated_sharpe,
    expected_max,
    luckiest_per_period,
    min_backtest_years,
    min_track_periods,
    overfitting,
    per_period,
    probabilistic_sharpe,
    track_of,
)

ROUNDING = 1e-12


def track(sharpe: float, periods: int, skew: float = 0.0, kurtosis: float = 3.0) -> Track:
    return Track(sharpe_per_period=sharpe, skew=skew, kurtosis=kurtosis, periods=periods)


shapes = st.tuples(st.floats(-3, 3), st.floats(0, 20)).map(lambda pair: (pair[0], 1.05 + pair[0] ** 2 + pair[1]))
sharpes = st.floats(-0.5, 0.5)


# numbers printed in the papers


def test_the_fund_of_the_efficient_frontier_paper() -> None:
    fund = track(per_period(1.585, periods_per_year=12), 24, skew=-2.448, kurtosis=10.164)
    assert probabilistic_sharpe(fund) == pytest.approx(0.913234, abs=1e-6)


@pytest.mark.parametrize(
    ("sharpe", "above", "per_year", "skew", "kurtosis", "years"),
    [
        (2.0, 1.0, 250, 0.0, 3.0, 2.7311878),
        (2.0, 1.0, 52, 0.0, 3.0, 2.8288336),
        (3.0, 2.5, 12, -0.72, 5.78, 27.3529202),
    ],
)
def test_track_record_lengths_of_the_efficient_frontier_paper(
    sharpe: float, above: float, per_year: int, skew: float, kurtosis: float, years: float
) -> None:
    found = min_track_periods(
        track(per_period(sharpe, periods_per_year=per_year), 2, skew, kurtosis),
        benchmark_per_period=per_period(above, periods_per_year=per_year),
    )
    assert found / per_year == pytest.approx(years, abs=1e-6)


def test_the_strategy_of_the_deflated_sharpe_ratio_paper() -> None:
    best = track(per_period(2.5, periods_per_year=250), 1250, skew=-3.0, kurtosis=10.0)
    spread = per_period(sqrt(0.5), periods_per_year=250)
    assert luckiest_per_period(trials=100, trials_std_per_period=spread) == pytest.approx(0.11317, abs=5e-6)
    assert deflated_sharpe(best, trials=100, trials_std_per_period=spread) == pytest.approx(0.900397, abs=1e-6)


@pytest.mark.parametrize(("trials", "highest"), [(100, 2.530603), (1000, 3.255122)])
def test_the_best_of_many_is_the_published_one(trials: int, highest: float) -> None:
    assert expected_max(trials) == pytest.approx(highest, abs=1e-6)


def test_the_backtest_length_of_the_charlatanism_paper() -> None:
    assert min_backtest_years(trials=45, target_sharpe_annual=1.0) == pytest.approx(4.998087, abs=1e-6)


def test_trials_of_one_and_the_same_quality_are_wholly_overfit() -> None:
    "The example of the R package pbo: all columns brought to one mean and deviation; it prints p_bo 1 and p_loss 1."
    noise = np.random.default_rng(765).normal(size=(2_400, 100))
    found = overfitting((noise - noise.mean(axis=0)) / noise.std(axis=0), blocks=8)
    assert (found.pbo, found.oos_loss_prob) == (1.0, 1.0)


# what must hold for any numbers


@given(sharpes, sharpes, shapes, st.integers(2, 5_000), st.integers(1, 5_000))
def test_a_longer_record_moves_the_probability_away_from_one_half(
    sharpe: float, above: float, shape: tuple[float, float], periods: int, more: int
) -> None:
    short = probabilistic_sharpe(track(sharpe, periods, *shape), benchmark_per_period=above)
    long = probabilistic_sharpe(track(sharpe, periods + more, *shape), benchmark_per_period=above)
    assert 0.0 <= short <= 1.0
    if sharpe >= above:
        assert long + ROUNDING >= short >= 0.5
    else:
        assert long - ROUNDING <= short <= 0.5


@given(st.floats(0.01, 0.5), st.floats(0.01, 0.4), shapes, st.floats(0.51, 0.999))
def test_a_record_of_the_minimum_length_just_reaches_its_confidence(
    edge: float, above: float, shape: tuple[float, float], confidence: float
) -> None:
    enough = min_track_periods(track(above + edge, 2, *shape), benchmark_per_period=above, confidence=confidence)
    periods = max(2, int(np.ceil(enough)))
    reached = probabilistic_sharpe(track(above + edge, periods, *shape), benchmark_per_period=above)
    assert reached >= confidence - 1e-9
    if periods > 3:
        before = probabilistic_sharpe(track(above + edge, periods - 1, *shape), benchmark_per_period=above)
        assert before <= confidence + 1e-9


def test_without_an_edge_no_record_is_long_enough() -> None:
    assert min_track_periods(track(0.1, 100), benchmark_per_period=0.1) == inf
    assert min_track_periods(track(-0.1, 100)) == inf


def test_a_left_tail_makes_a_record_less_sure() -> None:
    plain, tailed = track(0.1, 500), track(0.1, 500, skew=-2.0, kurtosis=12.0)
    assert probabilistic_sharpe(tailed) < probabilistic_sharpe(plain)
    assert min_track_periods(tailed) > min_track_periods(plain)


@given(st.floats(1, 1e6), st.floats(1, 100))
def test_more_trials_mean_more_luck(trials: float, factor: float) -> None:
    few, many = expected_max(trials), expected_max(trials * factor)
    assert 0.0 <= few <= many + ROUNDING
    assert few**2 <= 2.0 * log(trials) + ROUNDING  # the bound of the charlatanism paper


@pytest.mark.parametrize(("trials", "apart"), [(2, 0.06), (10, 0.05), (100, 0.03)])
def test_the_best_of_many_is_that_of_drawn_numbers(trials: int, apart: float) -> None:
    drawn = np.random.default_rng(5).normal(size=(20_000, trials)).max(axis=1).mean()
    assert expected_max(trials) == pytest.approx(float(drawn), abs=apart)


@given(sharpes, shapes, st.integers(2, 5_000), st.floats(1, 1e5), st.floats(0, 0.2))
def test_deflating_never_raises_and_one_trial_is_not_deflated(
    sharpe: float, shape: tuple[float, float], periods: int, trials: float, spread: float
) -> None:
    of = track(sharpe, periods, *shape)
    assert deflated_sharpe(of, trials=trials, trials_std_per_period=spread) <= probabilistic_sharpe(of) + ROUNDING
    assert deflated_sharpe(of, trials=1, trials_std_per_period=spread) == probabilistic_sharpe(of)


def test_the_probability_is_right_as_often_as_it_says() -> None:
    "Over many records without skill PSR is spread evenly, so 5 in 100 are above 0.95."
    rng = np.random.default_rng(11)
    found = np.array([probabilistic_sharpe(track_of(rng.normal(size=250))) for _ in range(2_000)])
    for level in (0.05, 0.5, 0.95):
        assert np.mean(found > level) == pytest.approx(1.0 - level, abs=0.03)


def test_the_moments_of_a_stream_are_the_textbook_s() -> None:
    values = np.random.default_rng(2).gamma(2.0, size=400) - 1.5
    mean = sum(values) / 400
    second, third, fourth = (sum((v - mean) ** k for v in values) / 400 for k in (2, 3, 4))
    found = track_of(values)
    assert found.sharpe_per_period == pytest.approx(mean / sqrt(second * 400 / 399))
    assert (found.skew, found.kurtosis) == pytest.approx((third / second**1.5, fourth / second**2))
    assert found.periods == 400


@given(st.integers(2, 30), st.integers(0, 2**32 - 1))
def test_any_stream_that_varies_has_a_track(periods: int, seed: int) -> None:
    values = np.random.default_rng(seed).choice([-1.0, 0.0, 3.0], size=periods)
    if np.ptp(values) > 0:
        assert track_of(values).periods == periods


# PBO


def plain_overfitting(returns: Floats, blocks: int) -> tuple[list[float], list[float], list[float]]:
    "CSCV as the paper tells it: build each half, take every Sharpe ratio from its returns, sort."
    pieces = np.split(returns, blocks)
    logits, inside, outside = [], [], []
    for picked in combinations(range(blocks), blocks // 2):
        here = np.concatenate([pieces[k] for k in picked])
        there = np.concatenate([pieces[k] for k in range(blocks) if k not in picked])
        known, unknown = (half.mean(axis=0) / half.std(axis=0, ddof=1) for half in (here, there))
        best = int(np.argmax(known))
        omega = (1 + sum(other < unknown[best] for other in unknown)) / (returns.shape[1] + 1)
        logits.append(log(omega / (1 - omega)))
        inside.append(float(known[best]))
        outside.append(float(unknown[best]))
    return logits, inside, outside


@pytest.mark.parametrize("batch", [2_000_000, 24])
def test_pbo_is_that_of_the_plain_procedure(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overfit, "BATCH", batch)
    rng = np.random.default_rng(4)
    returns = rng.normal(scale=0.02, size=(96, 12)) + rng.normal(scale=0.004, size=12)
    logits, inside, outside = plain_overfitting(returns, 8)
    found = overfitting(returns, blocks=8)
    np.testing.assert_allclose(found.logits, logits, rtol=1e-12)
    np.testing.assert_allclose(found.chosen_in_sample, inside, rtol=1e-9)
    np.testing.assert_allclose(found.chosen_out_of_sample, outside, rtol=1e-9)
    assert found.pbo == np.mean(np.array(logits) <= 0)
    assert found.oos_loss_prob == np.mean(np.array(outside) < 0)
    assert found.slope == pytest.approx(np.polyfit(inside, outside, 1)[0])


def over_seeds(edge: float) -> list[Overfit]:
    found = []
    for seed in range(40):
        returns = np.random.default_rng(seed).normal(scale=0.01, size=(600, 20))
        returns[:, 3] += edge
        found.append(overfitting(returns, blocks=8))
    return found


def test_choosing_among_noise_is_right_half_of_the_time() -> None:
    found = over_seeds(edge=0.0)
    assert np.mean([each.pbo for each in found]) == pytest.approx(0.5, abs=0.1)
    assert np.mean([each.oos_loss_prob for each in found]) == pytest.approx(0.5, abs=0.1)


def test_a_true_edge_is_found_on_every_half() -> None:
    found = over_seeds(edge=0.004)
    assert np.mean([each.pbo for each in found]) < 0.01
    assert np.mean([each.oos_loss_prob for each in found]) < 0.01


def test_the_oldest_periods_are_left_out_where_blocks_would_be_uneven() -> None:
    returns = np.random.default_rng(1).normal(size=(67, 5))
    np.testing.assert_array_equal(overfitting(returns, blocks=8).logits, overfitting(returns[3:], blocks=8).logits)


@given(st.integers(0, 2**32 - 1), st.floats(0.001, 1_000))
def test_neither_the_order_of_trials_nor_the_size_of_bets_matters(seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    returns = rng.normal(size=(48, 6)) + rng.normal(scale=0.3, size=6)
    here = overfitting(returns, blocks=6)
    there = overfitting(size * returns[:, rng.permutation(6)], blocks=6)
    np.testing.assert_allclose(here.logits, there.logits, rtol=1e-12)


def test_equal_trials_share_the_middle_and_count_as_overfit() -> None:
    one = np.random.default_rng(3).normal(size=(64, 1))
    for sizes in (np.ones(7), np.array([1.0, 3.0, 0.1, 7.0, 0.01, 1 / 3, 11.0])):  # the same bets, and in other sizes
        found = overfitting(one * sizes, blocks=8)
        assert (found.pbo, float(np.abs(found.logits).max())) == (1.0, 0.0)


def test_a_trial_that_never_traded_counts_as_nothing_earned() -> None:
    returns = np.random.default_rng(3).normal(loc=-0.5, size=(64, 4))
    returns[:, 2] = 0.0
    found = overfitting(returns, blocks=8)
    assert (found.pbo, found.oos_loss_prob) == (0.0, 0.0)
    assert not found.chosen_in_sample.any() and not found.chosen_out_of_sample.any()
    assert isnan(found.slope)


def test_returns_that_never_vary_have_no_sharpe_ratio() -> None:
    returns = np.random.default_rng(3).normal(loc=-0.5, size=(64, 4))
    returns[:, 2] = 0.1
    found = overfitting(returns, blocks=8)
    assert not found.chosen_in_sample.any() and not found.chosen_out_of_sample.any()
    assert found.pbo == 0.0  # nothing, and still more than the others' losses


@pytest.mark.parametrize("seed", range(10))
def test_a_trial_that_stood_still_for_a_half_has_no_sharpe_ratio_there(seed: int) -> None:
    rng = np.random.default_rng(seed)
    returns = rng.normal(loc=-2.0, size=(56, 4))
    returns[:, 2] = 0.0
    returns[:7, 2] = rng.uniform(0.7, 0.8, size=7)  # the first block only; sums of 7 are rounded
    found = overfitting(returns, blocks=8)
    is_first_inside = np.array([0 in picked for picked in combinations(range(8), 4)])
    assert (found.chosen_out_of_sample[is_first_inside] == 0.0).all()
    assert (found.chosen_in_sample[~is_first_inside] == 0.0).all()
    assert np.isfinite(found.chosen_in_sample).all()


def test_a_logit_is_read_as_a_rank() -> None:
    returns = np.random.default_rng(8).normal(size=(64, 9))
    ranks = 10 / (1 + np.exp(-overfitting(returns, blocks=8).logits))
    np.testing.assert_allclose(ranks, np.round(ranks), atol=1e-9)
    assert ranks.min() >= 1 and ranks.max() <= 9


# refusals


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"kurtosis": 0.0}, "kurtosis 0 is impossible with skew 0, at least 1: give the raw kurtosis"),
        ({"skew": -3.0, "kurtosis": 7.0}, "kurtosis 7 is impossible with skew -3, at least 10"),
        ({"periods": 1}, "wants 2 periods or more, had 1"),
        ({"sharpe_per_period": float("nan")}, "sharpe_per_period of a track record must be a finite number, was nan"),
        ({"kurtosis": inf}, "kurtosis of a track record must be a finite number, was inf"),
    ],
)
def test_an_impossible_record_is_refused_in_one_line(numbers: dict[str, float], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        Track(**{"sharpe_per_period": 0.1, "skew": 0.0, "kurtosis": 3.0, "periods": 10, **numbers})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_streams_that_cannot_be_judged_are_refused() -> None:
    for stream, said in [
        ([0.1], "returns must be a 1-d array of 2 or more"),
        ([[0.1, 0.2]], "returns must be a 1-d array of 2 or more"),
        ([0.1, float("nan"), 0.2], "return 1 of 3 is nan"),
        ([0.1, 0.2, inf], "return 2 of 3 is inf"),
        ([0.1, 0.1, 0.1], "all 3 returns are 0.1: a Sharpe ratio wants returns that vary"),
    ]:
        with pytest.raises(DataError, match=said):
            track_of(np.array(stream))
    with pytest.raises(DataError, match="leaves no noise"):
        probabilistic_sharpe(track(1.0, 10, skew=2.0, kurtosis=5.0))


def test_numbers_out_of_range_are_refused() -> None:
    for trials in (0, 0.5, -1, inf, float("nan")):
        with pytest.raises(ConfigError, match="trials must be a finite number, 1 or more"):
            expected_max(trials)
    for confidence in (0.5, 1.0, 95, float("nan")):
        with pytest.raises(ConfigError, match=r"confidence must lie between 0\.5 and 1"):
            min_track_periods(track(0.1, 10), confidence=confidence)
    for target in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="target_sharpe_annual must be a finite number above 0"):
            min_backtest_years(trials=10, target_sharpe_annual=target)
    for spread in (-0.1, float("nan")):
        with pytest.raises(ConfigError, match="trials_std_per_period must be a finite number, 0 or more"):
            deflated_sharpe(track(0.1, 10), trials=10, trials_std_per_period=spread)
    with pytest.raises(ConfigError, match="periods_per_year must be above 0"):
        per_period(1.0, periods_per_year=0)


def test_trials_that_cannot_be_compared_are_refused() -> None:
    returns = np.random.default_rng(0).normal(size=(64, 3))
    for blocks in (0, 2, 5, 22, True, 8.0):
        with pytest.raises(ConfigError, match="blocks must be an even number from 4 to 20"):
            overfitting(returns, blocks=blocks)  # type: ignore[arg-type]
    for bad, said in [
        (returns[:, 0], "of 2 trials or more, had shape"),
        (returns[:, :1], "of 2 trials or more, had shape"),
        (returns[:15], "8 blocks want 16 periods or more, had 15"),
        (np.where(np.arange(64)[:, None] == 5, np.nan, returns), "return 5 of trial 0 is nan"),
    ]:
        with pytest.raises(DataError, match=said):
            overfitting(bad, blocks=8)


# what follows asks an outside library; it comes with the dev extra


@pytest.mark.parametrize("seed", range(3))
def test_probabilities_are_those_of_purgedcv(seed: int) -> None:
    library = pytest.importorskip("purgedcv")
    returns = np.random.default_rng(seed).standard_t(5, size=750) * 0.01 + 0.0008
    theirs = library.deflated_sharpe_ratio_full(returns, n_trials=37, var_sharpe=0.02**2)
    same = track(theirs.observed_sr, 750, theirs.skew, theirs.kurt)  # it estimates moments a little differently
    assert deflated_sharpe(same, trials=37, trials_std_per_period=0.02) == pytest.approx(theirs.dsr, abs=1e-12)
    assert luckiest_per_period(trials=37, trials_std_per_period=0.02) == pytest.approx(theirs.sr_star, abs=1e-12)
    plain = library.probabilistic_sharpe_ratio(returns, 0.01)
    assert probabilistic_sharpe(same, benchmark_per_period=0.01) == pytest.approx(plain, abs=1e-12)
    assert probabilistic_sharpe(track_of(returns), benchmark_per_period=0.01) == pytest.approx(plain, abs=2e-3)


@pytest.mark.parametrize("trials", [1, 2, 10, 45, 10_000])
def test_lengths_are_those_of_purgedcv(trials: int) -> None:
    library = pytest.importorskip("purgedcv")
    years = library.minimum_backtest_length(trials, target_sharpe=0.8)
    assert min_backtest_years(trials=trials, target_sharpe_annual=0.8) == pytest.approx(years, rel=1e-9)
    periods = library.min_track_record_length(0.09, 0.02, 0.05, -0.5, 6.0)  # whole periods, where ours are not
    assert np.ceil(min_track_periods(track(0.09, 2, -0.5, 6.0), benchmark_per_period=0.02)) == periods


@pytest.mark.parametrize(("seed", "trials"), [(0, 5), (1, 6), (2, 20)])
def test_overfitting_is_that_of_purgedcv(seed: int, trials: int) -> None:
    "It counts a middle rank as sound, we as overfit; the logits are the same."
    library = pytest.importorskip("purgedcv")
    rng = np.random.default_rng(seed)
    returns = rng.normal(scale=0.01, size=(160, trials)) + rng.normal(scale=0.001, size=trials)
    theirs = library.probability_of_backtest_overfitting(returns.T, 8)
    found = overfitting(returns, blocks=8)
    order = np.argsort(found.logits), np.argsort(theirs.logits)  # it names the halves the other way round
    np.testing.assert_allclose(found.logits[order[0]], theirs.logits[order[1]], atol=1e-12)
    assert float(np.mean(found.logits < 0)) == pytest.approx(theirs.pbo)
    assert found.slope == pytest.approx(theirs.slope, rel=1e-9)
