"""Stages: learned from the rows handed over and nothing else, the same for the same seed, and stopped when somebody says so."""

import time
from dataclasses import fields
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from autotrader.config.sections import Ml
from autotrader.core.errors import DataError
from autotrader.core.market import Floats
from autotrader.ml import stages
from autotrader.ml.stages import Stage, calibrated, fit_calibration, fit_stage, gains, log_softmax, probabilities

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
    assert as_bytes(fitted(x, y, threads=2)) == as_bytes(usual())
    assert fitted(x, y, seed=8).text != usual().text


def scaler_is_of_the_rows_that_grow_trees() -> bool:
    "Whether the newest fifth, or a row within its labels' reach, moves the scaler."
    x, y = planted(900, seed=1)
    before = fitted(x, y)
    x[714:] = 100.0 + 50.0 * x[714:]  # 720 less 6 whose label is not known when the first row set aside opens
    return np.array_equal(fitted(x, y).center, before.center) and np.array_equal(fitted(x, y).scale, before.scale)


def test_scaler_and_columns_are_of_the_rows_that_grow_trees() -> None:
    "Prior art, 2B 4 and 2C 7: filled and scaled with what came later."
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
    rng = np.random.default_rng(5)
    log_proba = log_softmax(rng.normal(size=(800, 3)))
    y = np.array([rng.choice(3, p=np.exp(row)) for row in log_softmax(0.4 * log_proba)], dtype=np.int8)
    weights = np.array([0.8, 1.5, 1.0])
    start = np.column_stack([np.eye(3), -np.log(weights)])
    found = fit_calibration(log_proba, y, weights)
    best = minimize(
        lambda at: stages._loss(log_proba, y, at.reshape(3, 4), start),
        start.ravel(),
        method="BFGS",
        options={"gtol": 1e-7},
    )
    np.testing.assert_allclose(calibrated(log_proba, found), calibrated(log_proba, best.x.reshape(3, 4)), atol=1e-5)
    monkeypatch.setattr(stages, "RIDGE", 1e-7)
    loose = np.exp(calibrated(log_proba, fit_calibration(log_proba, y, weights)))
    theirs = LogisticRegression(C=1e7, tol=1e-10, max_iter=5_000).fit(log_proba, y).predict_proba(log_proba)
    np.testing.assert_allclose(loose, theirs, atol=1e-4)


def test_a_class_nobody_saw_on_the_rows_set_aside_keeps_a_probability() -> None:
    log_proba = log_softmax(np.random.default_rng(6).normal(size=(300, 3)))
    found = np.exp(calibrated(log_proba, fit_calibration(log_proba, np.full(300, 1, np.int8), np.ones(3))))
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
        np.testing.assert_allclose(probabilities(stage, x[800:]).mean(axis=0), came, atol=0.01)


def test_so_many_features_are_chosen_inside_the_fold_and_the_one_that_tells_is_among_them() -> None:
    stage = fitted(*planted(900, seed=1), max_features=2)
    assert len(stage.kept) == 2 and stage.kept[0] == 0
    assert np.flatnonzero(gains(stage, 8)).tolist() == stage.kept.tolist()


def test_noise_stops_early_and_a_given_number_of_rounds_is_kept() -> None:
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
