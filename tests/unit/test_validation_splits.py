"""Splits against two outside libraries, the book's counts, and the one promise: nothing fitted on has met what judges it."""

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotrader.core.errors import ConfigError, DataError
from autotrader.validation.splits import (
    Ints,
    LabelSpans,
    TrainTestSplit,
    along_paths,
    bar_spans,
    combinatorial_plan,
    purged_folds,
    purged_rows,
    walk_forward_splits,
)


@st.composite
def spans(draw: st.DrawFn, rows: int = 40) -> LabelSpans:
    "Rows at uneven times, several at one time, with labels of any length that overlap and overtake each other."
    n = draw(st.integers(12, rows))
    steps = draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))
    lengths = draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))
    t0 = np.cumsum(steps, dtype=np.int64)
    return LabelSpans(t0=t0, t1=t0 + np.array(lengths, dtype=np.int64))


def is_clean(of: LabelSpans, train: Ints, test: Ints, embargo: int) -> bool:
    "Ask every pair of rows, the slow and plain way."
    for i in train:
        for j in test:
            meets = of.t0[i] <= of.t1[j] and of.t1[i] >= of.t0[j]
            is_embargoed = of.t1[j] <= of.t0[i] <= of.t1[j] + embargo
            if meets or is_embargoed:
                return False
    return True


def plain_train(of: LabelSpans, tested: set[int], embargo: int) -> list[int]:
    "Rows that meet no tested row and begin in no embargo, the slow and plain way."
    rows = [i for i in range(len(of)) if i not in tested]
    return [i for i in rows if is_clean(of, np.array([i]), np.array(sorted(tested)), embargo)]


@given(spans(), st.integers(2, 5), st.integers(0, 8))
def test_no_fitted_row_meets_a_tested_span_or_its_embargo(of: LabelSpans, folds: int, embargo: int) -> None:
    try:
        splits = purged_folds(of, folds=folds, embargo=embargo)
    except DataError as error:
        assert "leaves no row to fit on" in str(error)
        return
    for split in splits:
        assert is_clean(of, split.train, split.test, embargo)
    np.testing.assert_array_equal(np.concatenate([split.test for split in splits]), np.arange(len(of)))


@given(spans(), st.integers(0, 8), st.data())
def test_no_more_rows_are_purged_than_meet_the_test(of: LabelSpans, embargo: int, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(of)), min_size=4, max_size=4, unique=True)))
    blocks = [(cuts[0], cuts[1]), (cuts[2], cuts[3])]
    tested = {row for first, last in blocks for row in range(first, last)}
    assert purged_rows(of, blocks, embargo=embargo).tolist() == plain_train(of, tested, embargo)


@given(st.integers(2, 7), st.data(), st.integers(0, 3), st.integers(0, 3))
def test_each_path_tests_every_row_once_and_their_number_is_known(
    folds: int, data: st.DataObject, horizon: int, embargo: int
) -> None:
    tested = data.draw(st.integers(1, folds - 1))
    rows = data.draw(st.integers(14 * folds, 15 * folds))
    of = bar_spans(rows, horizon=horizon)
    plan = combinatorial_plan(of, folds=folds, tested_folds=tested, embargo=embargo)
    assert len(plan) == comb(folds, tested)
    assert plan.paths.shape == (comb(folds, tested) * tested // folds, folds)
    assert sorted(plan.paths.ravel().tolist()) == sorted(n for n in range(len(plan)) for _ in range(tested))
    splits = list(plan)
    judged_by = along_paths(plan, [np.full(len(split.test), float(n)) for n, split in enumerate(splits)])
    assert all(row in splits[int(number)].test for path in judged_by for row, number in enumerate(path))
    rows_seen = along_paths(plan, [split.test.astype(float) for split in splits])
    np.testing.assert_array_equal(rows_seen, np.tile(np.arange(float(rows)), (len(plan.paths), 1)))


@given(spans(rows=24), st.data(), st.integers(0, 8))
def test_a_combination_of_folds_is_as_clean_as_one(of: LabelSpans, data: st.DataObject, embargo: int) -> None:
    folds = data.draw(st.integers(3, 5))
    plan = combinatorial_plan(of, folds=folds, tested_folds=data.draw(st.integers(1, 2)), embargo=embargo)
    for number in range(len(plan)):
        try:
            split = plan[number]
        except DataError as error:
            assert f"split {number + 1} of {len(plan)} leaves no row to fit on" in str(error)
            continue
        assert split.train.tolist() == plain_train(of, set(split.test.tolist()), embargo)


@pytest.mark.parametrize(("folds", "tested", "splits", "paths"), [(6, 2, 15, 5), (10, 2, 45, 9), (10, 8, 45, 36)])
def test_the_counts_are_those_of_the_book(folds: int, tested: int, splits: int, paths: int) -> None:
    plan = combinatorial_plan(bar_spans(200, horizon=1), folds=folds, tested_folds=tested)
    assert (len(plan), len(plan.paths)) == (splits, paths)


def test_path_p_takes_the_p_th_split_that_tests_each_fold() -> None:
    plan = combinatorial_plan(bar_spans(60, horizon=0), folds=6, tested_folds=2)
    assert (plan.paths[0] + 1).tolist() == [1, 1, 2, 3, 4, 5]
    assert (plan.paths[1] + 1).tolist() == [2, 6, 6, 7, 8, 9]


@given(spans(), st.integers(1, 11), st.integers(1, 9), st.booleans())
def test_a_walk_forward_fit_knows_only_what_was_answered_before(
    of: LabelSpans, train_rows: int, test_rows: int, is_anchored: bool
) -> None:
    try:
        splits = walk_forward_splits(of, train_rows=train_rows, test_rows=test_rows, is_anchored=is_anchored)
    except DataError as error:
        assert "must be longer than the labels" in str(error)
        return
    tested = np.concatenate([split.test for split in splits])
    np.testing.assert_array_equal(tested, np.arange(train_rows, len(of)))
    for split in splits:
        first = int(split.test[0])
        window = range(0 if is_anchored else first - train_rows, first)
        assert split.train.tolist() == [i for i in window if of.t1[i] < of.t0[first]]
        assert len(split.test) <= test_rows


@pytest.mark.parametrize("call", [purged_folds, combinatorial_plan])
def test_what_cannot_be_cut_is_refused_in_one_line(call: object) -> None:
    more = {"tested_folds": 1} if call is combinatorial_plan else {}
    for folds in (0, 1, 11, True, 2.5, "3", None):
        with pytest.raises(ConfigError, match=r"^folds must be a whole number from 2 to 10, was [^\n]*$"):
            call(bar_spans(10, horizon=0), folds=folds, **more)  # type: ignore[operator]
    for embargo in (-1, 0.01, True, float("nan"), 2**63):
        with pytest.raises(ConfigError, match=r"^embargo must be a whole number from 0 up, was [^\n]*$"):
            call(bar_spans(10, horizon=0), folds=3, embargo=embargo, **more)  # type: ignore[operator]


def test_a_fit_without_rows_is_refused_in_one_line() -> None:
    of = bar_spans(30, horizon=12)
    with pytest.raises(
        DataError, match=r"^fold 2 of 3 leaves no row to fit on: [^\n]* all 30 rows; use shorter [^\n]*$"
    ):
        purged_folds(of, folds=3)
    with pytest.raises(DataError, match=r"^split 2 of 3 leaves no row to fit on: "):
        combinatorial_plan(of, folds=3, tested_folds=1)[1]
    with pytest.raises(DataError, match=r"^no label of the 9 rows before row 9 is known there; [^\n]* was 9$"):
        walk_forward_splits(of, train_rows=9, test_rows=5)


def test_windows_and_tested_folds_have_bounds() -> None:
    of = bar_spans(10, horizon=0)
    for bad in (0, 3, 4):
        with pytest.raises(ConfigError, match="tested_folds must be a whole number from 1 to 2"):
            combinatorial_plan(of, folds=3, tested_folds=bad)
    for bad in (0, 10):
        with pytest.raises(ConfigError, match="train_rows must be a whole number from 1 to 9"):
            walk_forward_splits(of, train_rows=bad, test_rows=1)
    with pytest.raises(ConfigError, match="test_rows must be a whole number from 1 to 10"):
        walk_forward_splits(of, train_rows=5, test_rows=0)


def test_spans_that_are_not_spans_are_refused() -> None:
    whole = np.arange(3, dtype=np.int64)
    for t0, t1, said in [
        (whole, whole[:2], "one entry per row, had 3 and 2"),
        (whole[:0], whole[:0], "one entry per row, had 0 and 0"),
        (whole[::-1], whole + 9, "t0 falls after row 0"),
        (whole, whole - 1, "label of row 0 ends before it begins: -1 < 0"),
        (whole.astype(float), whole, "t0 must be .* was 1-d float64"),
        (whole, whole.astype("datetime64[ms]"), "t1 must be .* was 1-d datetime64"),
        (whole.astype(np.uint64), whole, "t0 must be .* was 1-d uint64"),
        (whole[None], whole, "t0 must be .* was 2-d int64"),
        ([0, 1, 2], whole, "t0 must be .* was list"),
    ]:
        with pytest.raises(DataError, match=said):
            LabelSpans(t0=t0, t1=t1)  # type: ignore[arg-type]


# what follows asks two outside libraries; both come with the dev extra


def outside(train: Ints, test: Ints) -> tuple[list[int], list[int]]:
    return np.asarray(train).tolist(), np.asarray(test).tolist()


def ours(split: TrainTestSplit) -> tuple[list[int], list[int]]:
    return split.train.tolist(), split.test.tolist()


@pytest.mark.parametrize(("rows", "horizon", "embargo", "folds"), [(60, 0, 0, 6), (97, 5, 4, 5), (120, 24, 1, 3)])
def test_purged_folds_are_those_of_purgedcv(rows: int, horizon: int, embargo: int, folds: int) -> None:
    "Its spans are open at the end, ours closed: a tick more makes them the same."
    library = pytest.importorskip("purgedcv")
    pandas = pytest.importorskip("pandas")
    asked = pandas.Series(pandas.Timestamp("2024-01-01") + pandas.to_timedelta(np.arange(rows), unit="h"))
    answered = asked + pandas.Timedelta(hours=horizon)
    splitter = library.PurgedKFold(
        folds,
        prediction_times=asked,
        evaluation_times=answered + pandas.Timedelta(seconds=1),
        embargo=pandas.Timedelta(hours=embargo),
    )
    theirs = [outside(*split) for split in splitter.split(np.zeros((rows, 1)))]
    assert [
        ours(split) for split in purged_folds(bar_spans(rows, horizon=horizon), folds=folds, embargo=embargo)
    ] == theirs


@pytest.mark.parametrize(("folds", "tested", "horizon", "embargo"), [(6, 2, 0, 0), (6, 2, 3, 2), (8, 4, 2, 0)])
def test_combinatorial_splits_and_paths_are_those_of_skfolio(
    folds: int, tested: int, horizon: int, embargo: int
) -> None:
    library = pytest.importorskip("skfolio.model_selection")
    rows = 20 * folds
    splitter = library.CombinatorialPurgedCV(folds, tested, purged_size=horizon, embargo_size=embargo)
    theirs = [outside(train, np.concatenate(tests)) for train, tests in splitter.split(np.zeros((rows, 1)))]
    plan = combinatorial_plan(bar_spans(rows, horizon=horizon), folds=folds, tested_folds=tested, embargo=embargo)
    assert [ours(split) for split in plan] == theirs
    np.testing.assert_array_equal(plan.paths.T, splitter.recombined_paths)


@pytest.mark.parametrize("is_anchored", [False, True])
@pytest.mark.parametrize(("train_rows", "test_rows"), [(30, 10), (25, 7)])
def test_walk_forward_splits_are_those_of_skfolio(train_rows: int, test_rows: int, is_anchored: bool) -> None:
    library = pytest.importorskip("skfolio.model_selection")
    splitter = library.WalkForward(
        train_size=train_rows, test_size=test_rows, expand_train=is_anchored, reduce_test=True
    )
    theirs = [outside(*split) for split in splitter.split(np.zeros((100, 1)))]
    found = walk_forward_splits(
        bar_spans(100, horizon=0), train_rows=train_rows, test_rows=test_rows, is_anchored=is_anchored
    )
    assert [ours(split) for split in found] == theirs
