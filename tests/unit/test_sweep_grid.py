"""Ranges as they are written, combinations in one order, and plateaus that no lone peak beats."""

from decimal import Decimal
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from hypothesis.extra import numpy as arrays

from autotrader.core.errors import ConfigError, DataError
from autotrader.search.plateau import plateau
from autotrader.search.ranges import Axis, Ranges, as_ranges, combinations, parse_ranges


@given(
    start=some.decimals(-1000, 1000, places=3),
    step=some.decimals("0.001", 100, places=3),
    count=some.integers(1, 60),
)
def test_a_range_counts_in_exact_decimals_and_holds_its_end_when_it_is_hit(
    start: Decimal, step: Decimal, count: int
) -> None:
    end = start + (count - 1) * step
    (axis,) = parse_ranges([f"fast={start}:{end}:{step}"]).axes
    wanted = [start + i * step for i in range(count)]
    assert list(axis.values) == [float(value) for value in wanted]
    is_whole = all(value == int(value) for value in wanted)
    assert all(isinstance(value, int) is is_whole for value in axis.values)
    (beyond,) = parse_ranges([f"fast={start}:{end + step * Decimal('0.999')}:{step}"]).axes
    assert beyond.values == axis.values


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fast", "range 'fast' is not KEY=START:END:STEP: write it like"),
        ("=1:2:1", "is not KEY=START:END:STEP"),
        ("fast=", "range fast: '' is neither"),
        ("fast=1:2", "'1:2' has 2 parts: write it like 5:50:5"),
        ("fast=1:2:1:1", "has 4 parts"),
        ("fast=a:2:1", "range fast: 'a' is not a number"),
        ("fast=1:2:nan", "'nan' is not a number"),
        ("fast=1:inf:1", "'inf' is not a number"),
        ("fast=1:1e99:1", "'1e99' is not a number"),
        ("fast=1:5:0", "the step must be above 0, was 0"),
        ("fast=1:5:-1", "the step must be above 0, was -1"),
        ("fast=5:1:1", "the end 1 lies below the start 5: swap them"),
        ("fast=0:1:0.000001", "1,000,001 values are above 100,000: widen the step"),
        ("fast=1,1.0", "1 stands there twice: name it once"),
        ("fast=1,two", "'1' is neither a number among numbers nor a word among words"),
        ("a b=1:2:1", "is not KEY=START:END:STEP"),
    ],
)
def test_a_range_that_is_none_gets_one_line_with_option_value_and_remedy(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_ranges([text])
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def test_too_many_combinations_are_refused_before_they_are_made() -> None:
    with pytest.raises(ConfigError, match=r"400 × 400 are 160,000 combinations, above 100,000"):
        parse_ranges(["fast=1:400:1", "slow=1:400:1"])


def test_combinations_come_in_the_order_of_the_written_ranges() -> None:
    ranges = parse_ranges(["b=1:2:1", "a=x,y", "c=3,1,2"])
    found = [tuple(each.values()) for each in combinations(ranges)]
    assert found == list(product((1, 2), ("x", "y"), (1, 2, 3)))
    assert list(next(iter(combinations(ranges)))) == ["b", "a", "c"]


def test_a_notebook_may_say_the_same_in_its_own_way() -> None:
    said = parse_ranges(["fast=5:15:5", "sl_ratio=0.1:0.3:0.1", "flip=true,false"])
    assert as_ranges({"fast": np.arange(5, 20, 5), "sl_ratio": "0.1:0.3:0.1", "flip": [True, False]}) == said
    assert (
        as_ranges({"fast": [15, 5, 10], "sl_ratio": np.array([0.1, 0.1 + 0.1, 0.1 * 3]), "flip": "true,false"}) == said
    )
    with pytest.raises(ConfigError, match=r"range fast: None is neither a number nor a word"):
        as_ranges({"fast": [None]})


def test_words_and_truths_have_no_neighbours() -> None:
    assert not Axis("split_entry.method", ("time", "price")).is_ordered
    assert not Axis("decision.flip", (True, False)).is_ordered
    assert Ranges((Axis("a", (1, 2)),)).axes[0].is_ordered


def test_a_plateau_beats_a_lone_peak_a_lone_stripe_and_a_peak_in_the_corner() -> None:
    surface = np.zeros((9, 12))
    surface[3:7, 5:10] = 1.5
    for row, column in ((0, 0), (8, 11), (1, 1), (0, 6)):
        with_peak = surface.copy()
        with_peak[row, column] = 50
        found = plateau(with_peak.ravel(), with_peak.shape)
        assert found.peak == row * 12 + column
        assert np.array_equal(found.mask, surface > 0)
        assert divmod(found.chosen, 12) in {(4, 7), (5, 7)}
    stripe = surface.copy()
    stripe[:, 1] = 50  # one parameter does not matter, the other only at one value
    assert np.array_equal(plateau(stripe.ravel(), stripe.shape).mask, surface > 0)


def test_a_lone_peak_at_the_end_of_a_single_range_does_not_win() -> None:
    values = np.array([9.0, 0, 0, 1, 1, 1, 0, 0, 0])
    found = plateau(values, (9,))
    assert (found.chosen, found.peak) == (4, 0)
    assert np.flatnonzero(found.mask).tolist() == [3, 4, 5]


def test_what_was_not_played_is_neither_chosen_nor_counted_as_bad() -> None:
    surface = np.full((7, 7), 1.0)
    surface[:3] = 0.0
    surface[5, 5] = np.nan
    found = plateau(surface.ravel(), surface.shape)
    assert not found.mask[5, 5]
    assert surface.ravel()[found.chosen] == 1.0
    assert np.isnan(found.level[5, 5])
    assert found.level[5, 3] == 1.0


@pytest.mark.parametrize("shape", [(10, 10), (20,), (5, 5, 5)])
def test_an_edge_wins_on_noise_no_more_often_than_its_share(shape: tuple[int, ...]) -> None:
    random, edges, draws = np.random.default_rng(3), 0, 600
    for _ in range(draws):
        at = np.unravel_index(plateau(random.normal(size=shape).ravel(), shape).chosen, shape)
        edges += any(i in (0, size - 1) for i, size in zip(at, shape, strict=True))
    share = 1 - np.prod([(size - 2) / size for size in shape])
    assert edges / draws < share + 4 * np.sqrt(share * (1 - share) / draws)


def test_a_broad_hill_is_found_in_noise_wherever_it_stands() -> None:
    random = np.random.default_rng(5)
    x, y = np.meshgrid(np.arange(12), np.arange(12), indexing="ij")
    for top in ((4, 7), (0, 6), (11, 11)):
        hill = np.exp(-((x - top[0]) ** 2 + (y - top[1]) ** 2) / 8)
        for _ in range(30):
            noisy = hill + random.normal(0, 0.25, hill.shape)
            noisy[(top[0] + 6) % 12, (top[1] + 5) % 12] = 4.0
            at = np.unravel_index(plateau(noisy.ravel(), noisy.shape).chosen, noisy.shape)
            assert max(abs(int(a) - b) for a, b in zip(at, top, strict=True)) <= 2


@given(arrays.arrays(np.float64, (4, 5, 2), elements=some.floats(-5, 5)))
def test_a_plateau_holds_its_middle_and_hangs_together(values: np.ndarray) -> None:
    found = plateau(values.ravel(), values.shape, ordered=(True, True, False))
    again = plateau(values.copy().ravel(), values.shape, ordered=(True, True, False))
    assert (found.chosen, found.mask.tobytes()) == (again.chosen, again.mask.tobytes())
    assert found.mask.ravel()[found.chosen]
    good = values >= np.median(values)
    assert found.level.ravel()[found.chosen] >= np.max(found.level[good & (values > values.min())], initial=-9) - 1e-6
    assert len({int(k) for *_, k in np.argwhere(found.mask)}) == 1  # the last axis has no neighbours
    assert (found.level <= values).all()


SURFACES = arrays.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4).flatmap(
    lambda shape: some.tuples(
        arrays.arrays(np.float64, shape, elements=some.one_of(some.integers(-2, 2).map(float), some.floats(-5, 5), some.just(np.nan))),
        some.lists(some.booleans(), min_size=len(shape), max_size=len(shape)),
    )
)  # fmt: skip


@given(SURFACES)
def test_what_is_proposed_is_never_the_worst_and_never_below_the_middle_of_what_is_supported(
    drawn: tuple[np.ndarray, list[bool]],
) -> None:
    values, ordered = drawn
    known = values[~np.isnan(values)]
    if not len(known):
        return
    found, supported = plateau(values.ravel(), values.shape, ordered=ordered), neighbours_known(values, ordered) >= 0.5
    value = values.ravel()[found.chosen]
    assert value > known.min() or known.min() == known.max()
    among = values[supported & ~np.isnan(values)]
    if len(among) and among.max() > known.min():  # else what is supported is the worst there is
        assert supported.ravel()[found.chosen] and value >= np.median(among)


def test_a_single_supported_combination_is_proposed() -> None:
    nan = float("nan")
    assert plateau([0.0, nan, -1.0, nan], (4,)).chosen == 0


def neighbours_known(values: np.ndarray, ordered: list[bool]) -> np.ndarray:
    "Share of each combination's neighbourhood that has a value, counted one by one."
    share = np.zeros(values.shape)
    for place in np.ndindex(*values.shape):
        near = [
            other
            for other in np.ndindex(*values.shape)
            if all(abs(a - b) <= is_ordered for a, b, is_ordered in zip(place, other, ordered, strict=True))
        ]
        share[place] = np.mean([not np.isnan(values[other]) for other in near])
    return share


@pytest.mark.parametrize("shape", [(2, 2), (3, 3), (2, 3, 2), (3,), (2, 2, 2, 2)])
def test_on_short_axes_of_noise_the_proposal_is_better_than_a_blind_one(shape: tuple[int, ...]) -> None:
    random, ranks = np.random.default_rng(9), []
    for _ in range(200):
        values = random.normal(size=shape)
        ranks.append((values < values.ravel()[plateau(values.ravel(), shape).chosen]).mean())
    blind = (1 - 1 / np.prod(shape)) / 2
    assert min(ranks) > 0.0 and np.mean(ranks) > blind + 0.1


def test_nothing_to_compare_is_said() -> None:
    with pytest.raises(DataError, match="none of the 4 combinations has a value to compare: choose another metric"):
        plateau([np.nan] * 4, (2, 2))
