"""Stages and models: learned from what was known and nothing else, the same for the same seed, stopped when somebody says so, and honest about luck."""

import time
from dataclasses import fields, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import series
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from autotrader.config.sections import Ml
from autotrader.core.errors import DataError, ModelError
from autotrader.core.market import Floats
from autotrader.features.feature_set import FEATURES
from autotrader.ml import stages, training
from autotrader.ml.artefact import to_bytes
from autotrader.ml.dataset import Dataset
from autotrader.ml.stages import Stage, calibrated, fit_calibration, fit_stage, gains, log_softmax, probabilities
from autotrader.ml.training import Trained, TrainingProgress, audited, time_splits, train_on
from autotrader.validation.splits import (
    Ints,
    LabelSpans,
    TrainTestSplit,
    bar_spans,
    purged_folds,
    walk_forward_splits,
)

HOUR_MS = 3_600_000
SMALL: dict[str, Any] = {
    "n_estimators": 30,
    "num_leaves": 7,
    "min_child_samples": 20,
    "learning_rate": 0.2,
    "early_stopping_rounds": 5,
}


def planted(rows: int, *, seed: int) -> tuple[Floats, NDArray[np.int8]]:
    "Eight columns; the first tells the class, the fifth is missing now and then, the last is always the same."
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 8))
    x[::5, 4], x[:, 7] = np.nan, 3.0
    return x, np.digitize(x[:, 0] + rng.normal(scale=0.6, size=rows), [-0.7, 0.7]).astype(np.int8)


def fitted(x: Floats, y: NDArray[np.int8], *, horizon: int = 6, **keys: Any) -> Stage:
    open_ms = HOUR_MS * np.arange(len(y))
    given = {name: keys.pop(name) for name in ("heard", "rounds", "calibration") if name in keys}
    settings = Ml(**SMALL | keys)
    return fit_stage(
        x, y, open_ms, open_ms + horizon * HOUR_MS, settings, from_ms=HOUR_MS * len(y), until_ms=2**60, **given
    )


@cache
def usual() -> Stage:
    return fitted(*planted(900, seed=1))


def as_bytes(stage: Stage) -> list[object]:
    values = [getattr(stage, each.name) for each in fields(stage)]
    return [value.tobytes() if isinstance(value, np.ndarray) else value for value in values]


def test_the_same_seed_gives_the_same_bytes_on_any_number_of_threads() -> None:
    x, y = planted(900, seed=1)
    assert as_bytes(fitted(x, y)) == as_bytes(usual())
    few = as_bytes(fitted(x, y, n_estimators=3))
    assert as_bytes(fitted(x, y, n_estimators=3, threads=2)) == few
    assert fitted(x, y, seed=8).text != usual().text


def scaler_is_of_the_rows_that_grow_trees() -> bool:
    "Whether the newest fifth, or a row within its labels' reach, moves the scaler."
    x, y = planted(900, seed=1)
    before = fitted(x, y)
    x[714:] = 100.0 + 50.0 * x[714:]  # 720 less 6 whose label is not known when the first row set aside opens
    return np.array_equal(fitted(x, y).center, before.center) and np.array_equal(fitted(x, y).scale, before.scale)


def test_scaler_and_columns_are_of_the_rows_that_grow_trees() -> None:
    "Prior art, 2B 4 and 2C 7: filled and scaled with what came later."
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(planted(900, seed=1)[0][:714, :7])
    np.testing.assert_array_equal(usual().center, scaler.mean_)
    np.testing.assert_array_equal(usual().scale, scaler.scale_)
    assert usual().kept.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert scaler_is_of_the_rows_that_grow_trees()


def test_a_scaler_fitted_on_everything_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def on_everything(rows: stages._Rows, kept: Any, settings: Ml, most: int, heard: Any) -> Any:
        monkeypatch.setattr(stages, "_scaler", lambda _: right(rows.x[:, kept]))
        return fit(rows, kept, settings, most, heard)

    right, fit = stages._scaler, stages._Rows.fitted
    monkeypatch.setattr(stages._Rows, "fitted", on_everything)
    assert not scaler_is_of_the_rows_that_grow_trees()


def test_what_is_missing_is_missing_and_not_filled() -> None:
    "Prior art, 2B 4: the median of the whole sample stood for what was not known."
    x, y = planted(900, seed=1)
    x[:, 4] = np.where(y == 2, np.nan, x[:, 4])  # that it is missing tells the class
    stage = fitted(x, y)
    gone = np.zeros((1, 8))
    gone[0, 4] = np.nan
    assert probabilities(stage, gone)[0, 2] > 2 * probabilities(stage, np.zeros((1, 8)))[0, 2]


def test_a_row_alone_is_the_row_among_others_to_the_last_bit() -> None:
    "Prior art, 2B 2: only the newest row was predicted, and spread over history."
    x, _ = planted(300, seed=2)
    together = probabilities(usual(), x)
    np.testing.assert_array_equal(np.vstack([probabilities(usual(), x[n : n + 1]) for n in range(300)]), together)
    np.testing.assert_array_equal(probabilities(usual(), x[100:133], threads=2), together[100:133])
    np.testing.assert_allclose(together.sum(axis=1), 1.0, rtol=0, atol=1e-12)
    assert len(np.unique(together[:, 2])) > 100
    assert probabilities(usual(), x[:0]).shape == (0, 3)


def test_calibration_is_the_minimum_that_scipy_finds_and_without_a_ridge_sklearns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from scipy.optimize import minimize
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(5)
    log_proba = log_softmax(rng.normal(size=(800, 3)))
    y = np.array([rng.choice(3, p=np.exp(row)) for row in log_softmax(0.4 * log_proba)], dtype=np.int8)
    prior, center = np.array([0.2, 0.5, 0.3]), log_proba.mean(axis=0)
    start = np.column_stack([np.zeros((3, 3)), np.log(prior)])
    found = fit_calibration(log_proba, y, prior, evidence=0.5)
    best = minimize(
        lambda at: stages._loss(log_proba - center, y, at.reshape(3, 4), start, 0.5),
        start.ravel(),
        method="BFGS",
        options={"gtol": 1e-7},
    )
    np.testing.assert_allclose(
        calibrated(log_proba, found), calibrated(log_proba - center, best.x.reshape(3, 4)), atol=1e-5
    )
    nothing = np.exp(calibrated(log_proba, fit_calibration(log_proba, y, prior, evidence=1e-9)))
    np.testing.assert_allclose(nothing, np.tile(prior, (800, 1)), atol=1e-6)
    monkeypatch.setattr(stages, "RIDGE", 1e-7)
    loose = np.exp(calibrated(log_proba, fit_calibration(log_proba, y, prior)))
    theirs = LogisticRegression(C=1e7, tol=1e-10, max_iter=5_000).fit(log_proba, y).predict_proba(log_proba)
    np.testing.assert_allclose(loose, theirs, atol=1e-4)


def test_a_class_nobody_saw_on_the_rows_set_aside_keeps_a_probability() -> None:
    log_proba = log_softmax(np.random.default_rng(6).normal(size=(300, 3)))
    found = np.exp(calibrated(log_proba, fit_calibration(log_proba, np.full(300, 1, np.int8), np.ones(3) / 3)))
    assert np.isfinite(found).all() and (found > 0).all() and found[:, 1].mean() > 0.9


def test_balanced_weights_do_not_move_what_the_probabilities_mean() -> None:
    x, _ = planted(1_000, seed=3)
    noise = np.random.default_rng(3).normal(scale=0.6, size=1_000)
    y = np.digitize(x[:, 0] + noise, [-1.9, 1.6]).astype(np.int8)
    came = np.bincount(y[800:]) / 200
    for weight, off in (("balanced", 0.05), ("none", 0.0)):
        stage = fitted(x, y, class_weight=weight)
        as_grown = np.exp(log_softmax(stages.margins(stage, x[800:]))).mean(axis=0)
        assert np.abs(as_grown - came).max() > off
        np.testing.assert_allclose(probabilities(stage, x[800:]).mean(axis=0), came, atol=0.02)


def test_so_many_features_are_chosen_inside_the_fold_and_the_one_that_tells_is_among_them() -> None:
    stage = fitted(*planted(900, seed=1), max_features=2)
    assert len(stage.kept) == 2 and stage.kept[0] == 0
    assert np.flatnonzero(gains(stage, 8)).tolist() == stage.kept.tolist()


def test_noise_stops_early_and_a_given_number_of_rounds_is_kept() -> None:
    from sklearn.preprocessing import StandardScaler

    x, y = planted(900, seed=1)
    noise = fitted(x, np.random.default_rng(0).permutation(y))
    assert noise.rounds < usual().rounds
    given = fitted(x, y, rounds=9, calibration=usual().calibration)
    assert (given.rounds, given.text.count("Tree=")) == (9, 27)
    assert given.center[0] == StandardScaler().fit(x[:, :7]).mean_[0]


class Stopped(BaseException):
    pass


def test_what_a_listener_raises_ends_the_fit_within_a_second() -> None:
    begun = []

    def heard(done: int, most: int) -> None:
        assert most == 50_000
        if done == 20:
            begun.append(time.perf_counter())
            raise Stopped

    x, y = planted(3_000, seed=1)
    with pytest.raises(Stopped):
        fitted(x, y, heard=heard, n_estimators=50_000, early_stopping_rounds=50_000)
    assert time.perf_counter() - begun[0] < 1.0


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_two_classes_are_refused_in_one_line(missing: int) -> None:
    "Prior art, 2B 3: two classes crashed LightGBM, and the API said completed with accuracy 0."
    x, y = planted(900, seed=1)
    y = np.where(y == missing, (missing + 1) % 3, y).astype(np.int8)
    name = ("down", "range", "up")[missing]
    with pytest.raises(
        DataError, match=rf"^the stage: no row is labelled {name} \([^\n]*\): set ml.threshold_up[^\n]*$"
    ):
        fitted(x, y)


HORIZON = 6
WHOLE: dict[str, Any] = SMALL | {"folds": 4, "prediction_horizon": HORIZON, "embargo_bars": 3}


def rows(x: Floats, y: NDArray[np.int8], *, markets: int = 1) -> Dataset:
    "Rows of hourly bars; several markets take turns at each hour."
    open_ms = HOUR_MS * (np.arange(len(y)) // markets)
    return Dataset(
        features=FEATURES[:8],
        markets=tuple(("test", f"M{n}") for n in range(markets)),
        timeframe="1h",
        bar_ms=HOUR_MS,
        x=x,
        y=y,
        open_ms=open_ms,
        known_ms=open_ms + (HORIZON + 1) * HOUR_MS,
        market=np.arange(len(y)) % markets,
        end_ms=int(open_ms[-1]) + (HORIZON + 1) * HOUR_MS,
        fingerprints=("f",) * markets,
    )


def trained(x: Floats, y: NDArray[np.int8], *, markets: int = 1, **keys: Any) -> Trained:
    return train_on(rows(x, y, markets=markets), Ml(**WHOLE | keys))


@cache
def model() -> Trained:
    return trained(*planted(1_500, seed=1))


def test_a_planted_signal_is_found_and_named() -> None:
    found = model()
    assert found.judged.is_better and found.judged.skill.estimate > 0.2
    leans = found.importances
    assert leans.order()[0] == leans.gain[-1].argmax() == leans.contribution[:, 2].argmax() == 0
    assert leans.direction[0, 2] > 0.8 and leans.direction[0, 0] < -0.8
    assert all(fold.edge > 0 for fold in found.judged.folds)
    assert found.judged.total.model.log_loss < found.judged.total.prior.log_loss < found.judged.total.majority.log_loss
    assert "Trained(better than the prior: skill +0." in repr(found)


@pytest.mark.parametrize("seed", range(series.length(3, soak=40)))
def test_shuffled_labels_score_at_chance(seed: int) -> None:
    "Prior art, 2B 4: a shuffled split of overlapping labels made noise look like a model."
    x, y = planted(1_500, seed=1)
    found = trained(x, np.random.default_rng(seed).permutation(y)).judged
    assert not found.is_better
    assert found.skill.low <= 0.0 and abs(found.skill.estimate) < 0.03


def test_noise_that_lasts_as_long_as_a_label_is_no_skill_either() -> None:
    "Overlapping labels of a random walk, features that drift as slowly: what a leak lives on."
    rng = np.random.default_rng(2)
    close = np.cumsum(rng.normal(size=1_500 + HORIZON))
    y = np.digitize(close[HORIZON:] - close[:-HORIZON], [-1.5, 1.5]).astype(np.int8)
    x = np.cumsum(rng.normal(size=(1_500, 8)), axis=0)
    assert not trained(x, y).judged.is_better


def test_the_same_seed_gives_the_same_file() -> None:
    again = trained(*planted(1_500, seed=1))
    assert to_bytes(again.model) == to_bytes(model().model)
    np.testing.assert_array_equal(again.proba, model().proba)
    np.testing.assert_array_equal(again.importances.permutation, model().importances.permutation)


CHANGED: dict[str, Any] = {
    "split": "purged",
    "folds": 3,
    "embargo_bars": 40,
    "class_weight": "balanced",
    "max_features": 2,
    "num_leaves": 3,
    "learning_rate": 0.1,
    "n_estimators": 4,
    "min_child_samples": 60,
    "feature_fraction": 0.3,
    "bagging_fraction": 0.4,
    "early_stopping_rounds": 1,
    "seed": 8,
}


@cache
def grown(**keys: Any) -> list[list[object]]:
    "Bytes of the stages of a model of two folds."
    return [as_bytes(stage) for stage in trained(*planted(900, seed=1), **{"folds": 2} | keys).model.stages]


@pytest.mark.parametrize("key", CHANGED)
def test_every_key_that_shapes_a_model_shapes_it(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    "Prior art, 2B 6: the training API dropped the learning rate, the folds, early stopping and more."
    monkeypatch.setattr(training, "importances", lambda *_, **__: None)  # they cost as much again
    monkeypatch.setattr(training, "ranked", lambda *_: None)
    assert grown(**{key: CHANGED[key]}) != grown()


def test_what_it_was_made_with_stands_in_the_model() -> None:
    assert model().model.parameters == Ml(**WHOLE).model_dump()


def test_the_age_after_which_it_is_silent_counts_from_the_end_of_its_data() -> None:
    last = model().model.stages[-1]
    assert (last.from_ms, last.until_ms) == (model().data.end_ms, model().data.end_ms + 45 * 24 * HOUR_MS)
    assert model().model.good_until_ms == last.until_ms and last.learned_until_ms <= last.from_ms


def test_every_probability_is_of_a_stage_that_knew_only_what_came_before() -> None:
    found = model()
    for number, stage in enumerate(found.model.stages[:-1]):
        own = found.fold == number
        assert stage.learned_until_ms + 3 * HOUR_MS < stage.from_ms <= found.data.open_ms[own].min()
        assert found.data.open_ms[own].max() < stage.until_ms == found.model.stages[number + 1].from_ms
        np.testing.assert_array_equal(found.proba[own], probabilities(stage, found.data.x[own]))
    assert (
        (found.fold == -1).sum() == 300 and np.isnan(found.proba[:300]).all() and np.isfinite(found.proba[300:]).all()
    )
    np.testing.assert_allclose(found.priors[0], np.bincount(found.data.y[: 300 - 10]) / 290)


def test_a_fault_in_a_stage_is_named_with_its_fold() -> None:
    x, y = planted(1_500, seed=1)
    y[:300] = np.minimum(y[:300], 1)
    with pytest.raises(DataError, match=r"^stage 1 of 4: no row is labelled up \([^\n]*\): set ml.threshold_up[^\n]*$"):
        trained(x, y)
    with pytest.raises(DataError, match=r"^stage 1 of 4: [0-9]+ of 30 rows are left to grow trees on[^\n]*$"):
        trained(x[:200], y[:200])
    with pytest.raises(DataError, match=r"^40 bars with a label are too few for 4 folds[^\n]*$"):
        trained(x[:40], y[:40])


def test_columns_that_cannot_be_learned_from_are_dropped_by_name() -> None:
    "Prior art, 2C 7: a column of nothing was filled with zeros and served."
    x, y = planted(1_500, seed=1)
    x[:, 2], x[:400, 3] = np.nan, np.nan
    found = trained(x, y)
    labels = found.model.features
    assert found.dropped() == {labels[2]: (1, 2, 3, 4, 5), labels[3]: (1,), labels[7]: (1, 2, 3, 4, 5)}
    assert 3 in found.model.stages[1].kept and 3 not in found.model.stages[0].kept


def test_what_a_listener_raises_ends_the_training_and_it_hears_every_stage() -> None:
    heard: list[TrainingProgress] = []
    train_on(rows(*planted(1_500, seed=1)), Ml(**WHOLE), on_progress=heard.append)
    stages_heard = [each.stage for each in heard if each.what in ("stage", "final stage") and not each.rounds]
    assert stages_heard == [1, 2, 3, 4, 5] and all(each.stages == 5 for each in heard)
    assert [each.frac for each in heard] == sorted(each.frac for each in heard) and heard[-1].frac == 1.0
    assert any(each.rounds == 10 for each in heard)

    def enough(progress: TrainingProgress) -> None:
        if progress.stage == 3 and progress.rounds:
            raise Stopped

    with pytest.raises(Stopped):
        train_on(rows(*planted(1_500, seed=1)), Ml(**WHOLE), on_progress=enough)


# Each fault that lets the future in, and who notices


def test_a_split_without_a_purge_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    "Prior art, 2C 7: no purge between train and test."

    def unpurged(spans: LabelSpans, **keys: Any) -> list[TrainTestSplit]:
        return walk_forward_splits(LabelSpans(t0=spans.t0, t1=spans.t0), **keys)

    monkeypatch.setattr(training, "walk_forward_splits", unpurged)
    with pytest.raises(
        ModelError, match=r"^stage 1 of 4 would learn from row 290 [^\n]* which meets the rows that judge it"
    ):
        trained(*planted(1_500, seed=1))
    folds = training.purged_folds
    monkeypatch.setattr(
        training, "purged_folds", lambda spans, **keys: folds(LabelSpans(t0=spans.t0, t1=spans.t0), folds=keys["folds"])
    )
    with pytest.raises(ModelError, match="which meets the rows that judge it"):
        trained(*planted(1_500, seed=1), split="purged")


def test_a_shuffled_split_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    "Prior art, 2B 4: shuffled stratified split of an overlapping time series."

    def shuffled(open_ms: Ints, *_: Any, **__: Any) -> list[TrainTestSplit]:
        order = np.random.default_rng(0).permutation(len(open_ms))
        return [TrainTestSplit(train=np.sort(order[300:]), test=np.sort(order[:300]))]

    monkeypatch.setattr(training, "time_splits", shuffled)
    for split in ("walk_forward", "purged"):
        with pytest.raises(ModelError, match=r"^stage 1 of 1 would learn from row [0-9] "):
            trained(*planted(1_500, seed=1), split=split)


def test_labels_that_are_known_too_early_are_refused() -> None:
    "Prior art, 2B 3: the horizon was ignored, the label one bar long."
    of = rows(*planted(1_500, seed=1))
    with pytest.raises(
        ModelError, match=r"^row 0 \(1970-01-01[^\n]*\) has a label that is known before its window is over"
    ):
        train_on(replace(of, known_ms=of.open_ms + HOUR_MS), Ml(**WHOLE))


def test_blocks_that_overlap_are_refused() -> None:
    of = rows(*planted(1_500, seed=1))
    splits = time_splits(of.open_ms, of.known_ms, Ml(**WHOLE), bar_ms=HOUR_MS)
    with pytest.raises(ModelError, match="overlap or are out of order"):
        audited([splits[0], splits[0]], of.open_ms, of.known_ms, Ml(**WHOLE), bar_ms=HOUR_MS)


def test_one_market_is_cut_like_the_splits_that_two_libraries_agree_with() -> None:
    "`test_validation_splits.py` holds them against skfolio and purgedcv."
    bars = bar_spans(103, horizon=4)
    walking = Ml(folds=4, embargo_bars=2, prediction_horizon=3)
    wide = LabelSpans(t0=bars.t0, t1=bars.t1 + 2)
    expected = walk_forward_splits(wide, train_rows=23, test_rows=20, is_anchored=True)
    purging = walking.model_copy(update={"split": "purged"})
    for chosen, wanted in ((walking, expected), (purging, purged_folds(bars, folds=4, embargo=2))):
        found = time_splits(bars.t0, bars.t1, chosen, bar_ms=1)
        assert [split.train.tolist() for split in found] == [split.train.tolist() for split in wanted]
        assert [split.test.tolist() for split in found] == [split.test.tolist() for split in wanted]


@st.composite
def markets(draw: st.DrawFn) -> tuple[Ints, Ints]:
    "Rows of up to three markets that begin at different times, with labels of their own lengths."
    open_ms, known_ms = [], []
    for _ in range(draw(st.integers(1, 3))):
        first, length = draw(st.integers(0, 20)), draw(st.integers(40, 60))
        bars = np.arange(first, first + length)
        open_ms.append(bars)
        known_ms.append(bars + 2 + np.array(draw(st.lists(st.integers(0, 4), min_size=length, max_size=length))))
    order = np.argsort(np.concatenate(open_ms), kind="stable")
    return np.concatenate(open_ms)[order], np.concatenate(known_ms)[order]


@settings(max_examples=series.length(25, soak=500))
@given(markets(), st.integers(2, 4), st.integers(0, 5), st.sampled_from(["walk_forward", "purged"]))
def test_no_market_sees_the_future_of_another(of: tuple[Ints, Ints], folds: int, embargo: int, split: str) -> None:
    open_ms, known_ms = of
    keys = Ml(folds=folds, embargo_bars=embargo, prediction_horizon=1, split=split)
    try:
        splits = time_splits(open_ms, known_ms, keys, bar_ms=1)
    except DataError as error:
        assert "too few" in str(error)
        return
    audited(splits, open_ms, known_ms, keys, bar_ms=1)
    for each in splits:
        begin, end = open_ms[each.test].min(), known_ms[each.test].max()
        is_before = known_ms[each.train] + embargo < begin if split == "walk_forward" else known_ms[each.train] < begin
        assert (is_before | ((open_ms[each.train] > end + embargo) & (split == "purged"))).all()
        assert set(open_ms[each.train]).isdisjoint(open_ms[each.test])
    tested = np.concatenate([each.test for each in splits])
    assert len(np.unique(tested)) == len(tested)


def test_two_markets_make_one_model() -> None:
    x, y = planted(1_600, seed=1)
    found = trained(x, y, markets=2)
    assert found.judged.is_better and len(found.model.markets) == 2
    for number in range(4):
        own = found.data.open_ms[found.fold == number]
        assert np.bincount(found.data.market[found.fold == number]).tolist() == [len(own) // 2] * 2
