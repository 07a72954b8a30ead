"""Models: nothing a stage learned, and nothing it said, changes with what came afterwards; each way to let the future in is noticed."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from autotrader.config.sections import Ml
from autotrader.core.market import COLUMNS, Candles
from autotrader.features.feature_set import Feature
from autotrader.ml import dataset as rows_of
from autotrader.ml import stages, training
from autotrader.ml.dataset import Dataset, dataset
from autotrader.ml.stages import Stage
from autotrader.ml.training import Trained, train
from autotrader.validation.splits import LabelSpans, walk_forward_splits

from .harness import walk

KEYS = Ml(
    prediction_horizon=8,
    threshold_up=0.01,
    threshold_down=-0.01,
    folds=3,
    embargo_bars=2,
    n_estimators=8,
    num_leaves=5,
    min_child_samples=20,
    early_stopping_rounds=3,
)
SHOWN = tuple(
    Feature(name=name, params=params)
    for name, params in (
        ("rocp", (("period", 4.0),)),
        ("rsi", (("period", 14.0),)),
        ("natr", (("period", 14.0),)),
        ("bop", ()),
        ("funding_rate", ()),
    )
)
BARS = 700


def market(symbol: str = "WALK", *, seed: int = 3) -> Candles:
    return replace(walk(BARS, seed=seed), symbol=symbol)


def poisoned(candles: Candles, at_ms: int) -> Candles:
    "Other bars from the first on that had not closed then."
    bar = int(np.searchsorted(candles.open_ms + candles.bar_ms, at_ms, side="right"))
    bad = walk(BARS, seed=99)
    mixed = {name: np.concatenate([getattr(candles, name)[:bar], getattr(bad, name)[bar:]]) for name in COLUMNS}
    extras = {name: np.concatenate([values[:bar], bad.extras[name][bar:]]) for name, values in candles.extras.items()}
    return replace(candles, **mixed, extras=extras)


def trained(*candles: Candles, keys: Ml = KEYS) -> Trained:
    return train(candles, keys, features=SHOWN)


@pytest.fixture(scope="module")
def clean() -> Trained:
    return trained(market())


def as_bytes(stage: Stage) -> list[object]:
    values = [getattr(stage, each.name) for each in fields(stage)]
    return [value.tobytes() if isinstance(value, np.ndarray) else value for value in values]


def same_before(clean: Trained, other: Trained, at_ms: int) -> bool:
    "Stages that had begun to speak, and what had been said: equal to the last bit."
    begun = [n for n, stage in enumerate(clean.model.stages) if stage.from_ms <= at_ms]
    stages_same = all(as_bytes(clean.model.stages[n]) == as_bytes(other.model.stages[n]) for n in begun)
    closed = clean.data.open_ms + clean.data.bar_ms <= at_ms
    proba_same = np.array_equal(clean.proba[closed], other.proba[closed], equal_nan=True)
    return bool(stages_same and proba_same and np.array_equal(clean.fold, other.fold))


def moments(clean: Trained) -> list[int]:
    "Where the second and the third stage begin to speak, and the middle of the third block."
    begins = [stage.from_ms for stage in clean.model.stages]
    return [begins[1], begins[2], (begins[2] + begins[3]) // 2]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_comes_later_changes_no_stage_and_no_probability_before_it(clean: Trained, which: int) -> None:
    at_ms = moments(clean)[which]
    other = trained(poisoned(market(), at_ms))
    assert same_before(clean, other, at_ms)
    assert as_bytes(other.model.stages[-1]) != as_bytes(clean.model.stages[-1]), "the poison did not bite"
    late = clean.data.open_ms > at_ms + clean.data.bar_ms
    assert not np.array_equal(clean.proba[late], other.proba[late])


def test_what_comes_later_in_another_market_changes_nothing_either() -> None:
    pair = market(), market("OTHER", seed=5)
    both = trained(*pair)
    at_ms = moments(both)[1]
    assert same_before(both, trained(pair[0], poisoned(pair[1], at_ms)), at_ms)
    assert same_before(both, trained(*(poisoned(each, at_ms) for each in pair)), at_ms)


def faults() -> dict[str, Callable[[pytest.MonkeyPatch], None]]:
    "Ways to let the future in, each past the audit that would refuse it."

    def no_purge(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(training, "audited", lambda splits, *_, **__: splits)
        patch.setattr(
            training,
            "walk_forward_splits",
            lambda spans, **keys: walk_forward_splits(LabelSpans(t0=spans.t0, t1=spans.t0), **keys),
        )

    def scaler_on_everything(patch: pytest.MonkeyPatch) -> None:
        def scaled(data: Dataset) -> Dataset:
            return replace(data, x=(data.x - np.nanmean(data.x, axis=0)) / np.nanstd(data.x, axis=0))

        patch.setattr(training, "dataset", lambda *given: scaled(dataset(*given)))

    def filled_with_the_median(patch: pytest.MonkeyPatch) -> None:
        def filled(data: Dataset) -> Dataset:
            return replace(data, x=np.where(np.isnan(data.x), np.nanmedian(data.x, axis=0), data.x))

        patch.setattr(training, "dataset", lambda *given: filled(dataset(*given)))

    def stopped_on_what_judges(patch: pytest.MonkeyPatch) -> None:
        def peeking(data: Dataset, splits: Any, *rest: Any) -> Any:
            seen = [replace(each, train=np.concatenate([each.train, each.test])) for each in splits]
            return folds(data, seen, *rest)

        folds = training._folds
        patch.setattr(training, "_folds", peeking)

    def labels_known_early(patch: pytest.MonkeyPatch) -> None:
        def early(data: Dataset) -> Dataset:
            return replace(data, known_ms=data.open_ms + data.bar_ms)

        patch.setattr(training, "audited", lambda splits, *_, **__: splits)
        patch.setattr(training, "dataset", lambda *given: early(dataset(*given)))

    return {
        each.__name__: each
        for each in (no_purge, scaler_on_everything, filled_with_the_median, stopped_on_what_judges, labels_known_early)
    }


@pytest.mark.parametrize("fault", sorted(faults()))
def test_each_way_to_let_the_future_in_is_noticed(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    "Prior art, 2B 4 and 2C 7: no purge, filled and scaled with the whole sample, stopped early on what judges."
    faults()[fault](monkeypatch)
    wrong = trained(market())
    at_ms = moments(wrong)[1]
    assert not same_before(wrong, trained(poisoned(market(), at_ms)), at_ms)


def known_in_time(keys: Ml) -> bool:
    "Whether labels that are said to be known change with bars that close later."
    bars = market()
    whole = dataset([bars], keys, SHOWN)
    for at_ms in whole.open_ms[[100, 250, 400]].tolist():
        other = dataset([poisoned(bars, at_ms)], keys, SHOWN)
        known = whole.known_ms <= at_ms
        if not np.array_equal(whole.y[known], other.y[known]) or (other.known_ms[known] != whole.known_ms[known]).any():
            return False
    return True


@pytest.mark.parametrize("label", ["fixed_horizon", "triple_barrier"])
def test_a_label_is_known_when_it_says_so_and_a_window_cut_short_is_noticed(
    label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    "Prior art, 2B 3: labels of one bar where the document says twenty-four."
    keys = KEYS.model_copy(update={"label": label})
    assert known_in_time(keys)

    def cut_short(candles: Candles, **given: Any) -> Any:
        found = labels(candles, **given)
        return replace(found, end=np.where(found.end < 0, -1, np.minimum(found.end, np.arange(len(candles)) + 1)))

    labels = rows_of.labels_of
    monkeypatch.setattr(rows_of, "labels_of", cut_short)
    assert not known_in_time(keys)


def test_labels_are_absent_from_the_features() -> None:
    "Poison after a bar changes its label and none of its features; and only the dataset asks for labels."
    bars = market()
    whole = dataset([bars], KEYS, SHOWN)
    at_ms = int(whole.open_ms[300]) + whole.bar_ms
    other = dataset([poisoned(bars, at_ms)], KEYS, SHOWN)
    closed = whole.open_ms + whole.bar_ms <= at_ms
    np.testing.assert_array_equal(whole.x[closed], other.x[closed])
    assert not np.array_equal(whole.y[closed], other.y[closed])


def test_stages_speak_of_bars_that_no_stage_has_learned_from(clean: Trained) -> None:
    "The bars whose label is not known yet belong to the last fold's stage: the final stage has labels that saw them."
    *folds, final = clean.model.stages
    assert folds[-1].until_ms == final.from_ms == clean.data.end_ms == int(market().open_ms[-1]) + clean.data.bar_ms
    assert final.learned_until_ms == clean.data.end_ms
    assert all(stage.learned_until_ms < stage.from_ms for stage in folds)
    assert stages.ASIDE_FRAC < 1
