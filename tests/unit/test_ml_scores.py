"""Scores: scikit-learn's to the last digit, baselines that know only the training rows, and skill that chance cannot have."""

import json
from typing import Any

import numpy as np
import pytest
import series
from hypothesis import given, settings
from hypothesis import strategies as st

from autotrader.core.errors import DataError
from autotrader.core.market import Floats
from autotrader.ml.importance import EXPLAINED_ROWS, direction, evenly
from autotrader.ml.scores import (
    Scores,
    as_json,
    compared,
    direction_scores,
    judge,
    reliability,
    row_losses,
    scores_of,
    skill_interval,
)
from autotrader.ml.stages import class_shares
from autotrader.validation.bootstrap import bootstrap_interval

HOUR_MS = 3_600_000


def drawn(rows: int, *, seed: int, sharp: float = 1.0) -> tuple[Any, Floats]:
    "Labels, and probabilities that they are drawn from."
    rng = np.random.default_rng(seed)
    proba = rng.dirichlet([2.0 * sharp, 5.0 * sharp, 2.0 * sharp], size=rows)
    return np.array([rng.choice(3, p=row) for row in proba], dtype=np.int8), proba


@settings(max_examples=series.length(30, soak=500))
@given(st.integers(1, 60), st.integers(0, 10_000))
def test_every_figure_is_scikit_learns(rows: int, seed: int) -> None:
    from sklearn import metrics

    y, proba = drawn(rows, seed=seed, sharp=0.3)
    found, said, every = scores_of(y, proba), proba.argmax(axis=1), [0, 1, 2]
    assert found.log_loss == metrics.log_loss(y, proba, labels=every)
    assert found.brier == metrics.brier_score_loss(y, proba, labels=every)
    assert found.accuracy == pytest.approx(metrics.accuracy_score(y, said), abs=1e-15)
    came = np.unique(y)
    kept = np.where(np.isin(said, came), said, -1)  # which scikit-learn warns about and leaves out
    recall = metrics.recall_score(y, kept, labels=came, average=None, zero_division=0.0)
    assert found.balanced_accuracy == pytest.approx(recall.mean(), abs=1e-15)
    np.testing.assert_array_equal(
        found.precision, metrics.precision_score(y, said, labels=every, average=None, zero_division=np.nan)
    )
    np.testing.assert_array_equal(
        found.recall, metrics.recall_score(y, said, labels=every, average=None, zero_division=np.nan)
    )
    np.testing.assert_array_equal(found.confusion, metrics.confusion_matrix(y, said, labels=every))
    assert found.log_loss == pytest.approx(row_losses(y, proba).mean(), rel=1e-12)


@pytest.mark.parametrize("of", [0, 1, 2])
def test_the_reliability_curve_is_scikit_learns(of: int) -> None:
    from sklearn.calibration import calibration_curve

    y, proba = drawn(500, seed=1)
    observed, predicted = calibration_curve(y == of, proba[:, of], n_bins=10, strategy="quantile")
    found = reliability(y, proba)
    np.testing.assert_allclose(found.observed[of], observed, atol=1e-15)
    np.testing.assert_allclose(found.predicted[of], predicted, atol=1e-15)
    assert found.counts[of].tolist() == [50] * 10


def test_a_model_that_says_one_thing_has_a_reliability_of_one_point() -> None:
    found = reliability(drawn(90, seed=1)[0], np.tile([0.2, 0.5, 0.3], (90, 1)))
    assert (found.counts.max(axis=1) == 90).all() and np.isnan(found.predicted[found.counts == 0]).all()


def test_baselines_are_the_dummies_of_scikit_learn_fitted_on_the_training_rows() -> None:
    from sklearn.dummy import DummyClassifier

    y, proba = drawn(400, seed=2)
    prior = np.tile(class_shares(y[:250]), (150, 1))
    found = compared(y[250:], proba[250:], prior, HOUR_MS * np.arange(150), bar_ms=HOUR_MS)
    for strategy, scores in (("prior", found.prior), ("most_frequent", found.majority)):
        dummy = DummyClassifier(strategy=strategy).fit(np.zeros((250, 1)), y[:250])
        same(scores, scores_of(y[250:], dummy.predict_proba(np.zeros((150, 1)))))
    assert found.edge == found.prior.log_loss - found.model.log_loss
    assert (found.since_ms, found.until_ms) == (0, 150 * HOUR_MS)


def same(one: Scores, other: Scores) -> None:
    assert (one.log_loss, one.brier, one.accuracy) == pytest.approx((other.log_loss, other.brier, other.accuracy))
    np.testing.assert_array_equal(one.confusion, other.confusion)


def history(seed: int, *, rows: int = 1_200, window: int = 24) -> tuple[Any, Floats]:
    "Labels that last for a window, and what was said about them, which lasts as long."
    y, said = drawn(rows // window, seed=seed)
    return np.repeat(y, window), np.repeat(said, window, axis=0)


def test_an_interval_is_as_wide_as_histories_differ_and_of_single_rows_too_narrow() -> None:
    "Labels overlap: rows drawn one by one would make a model look more than twice as sure as it may be."
    hours, flat = HOUR_MS * np.arange(1_200), np.tile([2 / 9, 5 / 9, 2 / 9], (1_200, 1))
    skills = [1 - row_losses(y, said).sum() / row_losses(y, flat).sum() for y, said in map(history, range(150))]
    true_width = float(np.quantile(skills, 0.975) - np.quantile(skills, 0.025))

    def width(window: int) -> float:
        found = [skill_interval(*history(seed), flat, hours, window_ms=window * HOUR_MS, seed=7) for seed in range(5)]
        return float(np.mean([each.high - each.low for each in found]))

    assert 0.7 < width(24) / true_width < 1.4
    y, said = history(1)
    losses = np.column_stack([row_losses(y, said), row_losses(y, flat)])
    rng = np.random.default_rng(7)
    thin = bootstrap_interval(losses, lambda of: 1 - of[:, 0].sum() / of[:, 1].sum(), mean_block=1.0, rng=rng)
    assert thin.high - thin.low < true_width / 2


def test_skill_is_one_less_the_ratio_of_the_log_losses() -> None:
    y, proba = drawn(600, seed=3)
    flat = np.tile(class_shares(y), (600, 1))
    found = skill_interval(y, proba, flat, HOUR_MS * np.arange(600), window_ms=10 * HOUR_MS, seed=1)
    assert found.estimate == pytest.approx(1 - row_losses(y, proba).mean() / row_losses(y, flat).mean())
    again = skill_interval(y, proba, flat, HOUR_MS * np.arange(600), window_ms=10 * HOUR_MS, seed=1)
    assert (again.low, again.high) == (found.low, found.high)
    assert found.low < found.estimate < found.high


def test_rows_of_one_moment_stay_together_however_many_markets_there_are() -> None:
    y, proba = drawn(300, seed=4)
    flat, hours = np.tile(class_shares(y), (300, 1)), HOUR_MS * np.arange(300)
    one = skill_interval(y, proba, flat, hours, window_ms=5 * HOUR_MS, seed=1)
    thrice = [np.repeat(each, 3, axis=0) for each in (y, proba, flat, hours)]
    many = skill_interval(*thrice, window_ms=5 * HOUR_MS, seed=1)
    assert (many.low, many.high) == pytest.approx((one.low, one.high))


def test_who_knows_only_that_calm_follows_calm_does_not_know_direction() -> None:
    y, truth = drawn(3_000, seed=6, sharp=0.5)
    flat, hours = np.tile(class_shares(y), (3_000, 1)), HOUR_MS * np.arange(3_000)
    calm = truth.copy()
    calm[:, [0, 2]] = calm[:, [0, 2]].mean(axis=1, keepdims=True)
    window: dict[str, Any] = {"window_ms": 10 * HOUR_MS, "seed": 7}
    assert skill_interval(y, calm, flat, hours, **window).low > 0.0
    assert not direction_scores(y, calm, flat, hours, **window).is_known
    assert direction_scores(y, truth, flat, hours, **window).is_known
    mirrored = direction_scores(2 - y, truth[:, ::-1], flat[:, ::-1], hours, **window)
    assert mirrored.model == pytest.approx(direction_scores(y, truth, flat, hours, **window).model)


@settings(max_examples=series.length(20, soak=300))
@given(st.integers(20, 300), st.integers(0, 10_000))
def test_the_log_loss_is_that_of_moving_and_of_which_way(rows: int, seed: int) -> None:
    y, proba = drawn(rows, seed=seed)
    found = direction_scores(y, proba, proba, HOUR_MS * np.arange(rows), window_ms=HOUR_MS, seed=1)
    still = np.where(y == 1, proba[:, 1], 1.0 - proba[:, 1])
    whole = -np.log(still).sum() + (found.rows * found.model if found.rows else 0.0)
    assert whole == pytest.approx(row_losses(y, proba).sum())
    assert found.rows == (y != 1).sum() and not found.is_known


def test_of_too_few_moves_or_of_none_direction_is_not_told() -> None:
    y, hours = np.ones(500, np.int8), HOUR_MS * np.arange(500)
    proba = np.tile([0.0, 1.0, 0.0], (500, 1))
    none = direction_scores(y, proba, proba, hours, window_ms=HOUR_MS, seed=1)
    assert (none.rows, none.skill, none.is_known, np.isnan(none.model)) == (0, None, False, True)
    y[:15] = 2
    few = direction_scores(y, proba, proba, hours, window_ms=HOUR_MS, seed=1)
    assert (few.rows, few.skill) == (15, None) and few.model == pytest.approx(np.log(2.0))


def test_everything_said_about_a_model_adds_up_and_is_json() -> None:
    y, proba = drawn(2_000, seed=5)
    fold = np.repeat([-1, 0, 1, 2], 500)
    proba[:500] = np.nan
    priors = np.stack([class_shares(y[: 500 * n]) for n in (1, 2, 3)])
    hours = HOUR_MS * np.arange(2_000)
    found = judge(y, proba, fold, priors, hours, bar_ms=HOUR_MS, horizon=24, seed=7)
    total = found.total.model
    for parts in (found.folds, found.months):
        assert sum(each.model.rows for each in parts) == total.rows == 1_500
        assert sum(each.model.rows * each.edge for each in parts) / 1_500 == pytest.approx(found.total.edge)
        np.testing.assert_array_equal(sum(each.model.confusion for each in parts), total.confusion)
        assert [each.since_ms for each in parts] == sorted(each.since_ms for each in parts)
    assert found.skill.estimate == pytest.approx(1 - total.log_loss / found.total.prior.log_loss)
    plain = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert plain["is_better"] is found.is_better and plain["majority"]["precision"][0] is None
    assert [fold["model"]["rows"] for fold in plain["folds"]] == [500, 500, 500]


def test_what_cannot_be_scored_is_refused_in_one_line() -> None:
    y, proba = drawn(10, seed=1)
    proba[3] = np.nan
    with pytest.raises(DataError, match=r"^scores need a probability of each class for every row[^\n]*$"):
        scores_of(y, proba)


def test_rows_that_stand_for_all_are_spread_evenly() -> None:
    rows = np.arange(5, 1_005)
    chosen = evenly(rows, EXPLAINED_ROWS)
    assert (len(chosen), chosen[0], chosen[-1]) == (EXPLAINED_ROWS, 5, 1_004)
    assert set(np.diff(chosen)) <= {5, 6} and len(np.unique(chosen)) == EXPLAINED_ROWS
    assert evenly(rows[:7], EXPLAINED_ROWS).tolist() == rows[:7].tolist()


def test_a_value_that_is_missing_has_no_direction() -> None:
    values = np.array([1.0, np.nan, 2.0, np.nan, 3.0])
    assert direction(values, np.array([1.0, 50.0, 2.0, -70.0, 3.0])) == pytest.approx(1.0)
    assert direction(np.full(5, np.nan), np.arange(5.0)) == 0.0
