"""The stationary bootstrap against the moments its paper proves, and its intervals against a truth that is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotrader.core.errors import ConfigError, DataError
from autotrader.core.market import Floats
from autotrader.validation.bootstrap import Interval, block_length, bootstrap_interval, stationary_rows


def remembering(rng: np.random.Generator, size: int, memory: float = 0.6) -> Floats:
    "An AR(1) stream around 0, from its stationary state."
    out = np.empty(size)
    last = rng.normal() / np.sqrt(1 - memory**2)
    for row in range(size):
        last = out[row] = memory * last + rng.normal()
    return out


def mean_of(history: Floats) -> float:
    return float(history.mean())


@given(st.integers(1, 200), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_a_history_is_made_of_rows_that_exist_and_as_many(rows: int, share: float, seed: int) -> None:
    found = stationary_rows(rows, mean_block=1 + share * (rows - 1), rng=np.random.default_rng(seed))
    assert found.shape == (rows,) and found.dtype == np.int64
    assert found.min() >= 0 and found.max() < rows


@pytest.mark.parametrize("mean_block", [1.0, 2.5, 8.0, 40.0])
def test_blocks_have_the_geometric_lengths_of_the_paper(mean_block: float) -> None:
    "A step goes on with probability 1 - 1/b, and by chance lands on the next row once in n jumps."
    rng, rows = np.random.default_rng(3), 1_000
    goes_on = np.concatenate(
        [np.diff(stationary_rows(rows, mean_block=mean_block, rng=rng)) % rows == 1 for _ in range(200)]
    )
    stays = 1 - 1 / mean_block
    assert goes_on.mean() == pytest.approx(stays + (1 - stays) / rows, abs=0.005)
    twice = (goes_on[:-1] & goes_on[1:]).mean()  # without memory: two steps in a row are two coins
    assert twice == pytest.approx(goes_on.mean() ** 2, abs=0.005)


def test_every_row_is_drawn_equally_often_at_every_place() -> None:
    rng = np.random.default_rng(4)
    drawn = np.array([stationary_rows(10, mean_block=4, rng=rng) for _ in range(20_000)])
    for place in (0, 1, 5, 9):
        shares = np.bincount(drawn[:, place], minlength=10) / len(drawn)
        np.testing.assert_allclose(shares, 0.1, atol=0.01)


@pytest.mark.parametrize("mean_block", [1.0, 4.0, 15.0])
def test_the_mean_is_kept_and_its_variance_is_the_one_politis_and_romano_prove(mean_block: float) -> None:
    """Given the data, √n times the drawn mean has variance C(0) + 2 Σ (1 - k/n)(1 - p)^k C(k), with circular autocovariances C.

    Source: Politis & Romano 1994, lemma 1.
    """
    returns = remembering(np.random.default_rng(5), 60) + 3.0
    n, p, apart = len(returns), 1 / mean_block, returns - returns.mean()
    circular = [float(np.mean(apart * np.roll(apart, -k))) for k in range(n)]
    proved = circular[0] + 2 * sum((1 - k / n) * (1 - p) ** k * circular[k] for k in range(1, n))
    found = bootstrap_interval(returns, mean_of, mean_block=mean_block, rng=np.random.default_rng(6), draws=20_000)
    assert n * found.drawn.var() == pytest.approx(proved, rel=0.05)
    assert found.drawn.mean() == pytest.approx(returns.mean(), abs=4 * np.sqrt(proved / n / 20_000))
    assert found.estimate == returns.mean()


def coverage(mean_block: float) -> float:
    "Share of intervals at 90 % that hold the true mean, which is 0."
    held = []
    for seed in range(150):
        returns = remembering(np.random.default_rng(seed), 300)
        found = bootstrap_interval(
            returns, mean_of, mean_block=mean_block, rng=np.random.default_rng(seed), draws=300, level=0.9
        )
        held.append(found.low <= 0.0 <= found.high)
    return float(np.mean(held))


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    assert coverage(mean_block=25) == pytest.approx(0.9, abs=0.08)
    assert coverage(mean_block=1) < 0.75  # what remembers must not be torn apart


def test_the_seed_decides_and_nothing_else() -> None:
    returns = remembering(np.random.default_rng(1), 200)

    def drawn(seed: int) -> Interval:
        return bootstrap_interval(returns, mean_of, mean_block=8, rng=np.random.default_rng(seed), draws=200)

    first, again, other = drawn(1), drawn(1), drawn(2)
    np.testing.assert_array_equal(first.drawn, again.drawn)
    assert (first.low, first.high) == (again.low, again.high)
    assert not np.array_equal(first.drawn, other.drawn)


def test_the_interval_is_the_middle_of_what_was_drawn() -> None:
    returns = remembering(np.random.default_rng(1), 100)
    found = bootstrap_interval(returns, mean_of, mean_block=5, rng=np.random.default_rng(1), draws=1_000, level=0.8)
    inside = (found.low <= found.drawn) & (found.drawn <= found.high)
    assert inside.mean() == pytest.approx(0.8, abs=0.002)
    assert (found.drawn < found.low).mean() == pytest.approx(0.1, abs=0.002)
    assert found.level == 0.8 and len(found.drawn) == 1_000


def test_streams_are_drawn_together_and_the_data_stay_as_they_were() -> None:
    pair = np.column_stack([np.arange(50.0), np.arange(50.0) * 2])
    before = pair.copy()
    seen: list[bool] = []

    def watch(history: Floats) -> float:
        seen.append(bool((history[:, 1] == 2 * history[:, 0]).all()))
        history[:] = -1.0  # a careless statistic spoils its own copy only
        return 0.0

    bootstrap_interval(pair, watch, mean_block=5, rng=np.random.default_rng(1), draws=100)
    assert len(seen) == 101 and all(seen)
    np.testing.assert_array_equal(pair, before)


def test_what_cannot_be_drawn_is_refused_in_one_line() -> None:
    returns, rng = np.linspace(-1, 1, 50), np.random.default_rng(1)
    settings: list[tuple[dict[str, object], str]] = [
        ({"mean_block": 0.5}, "mean_block must lie between 1 and the 50 rows, was 0.5"),
        ({"mean_block": 51}, "mean_block must lie between 1 and the 50 rows, was 51"),
        ({"mean_block": float("nan")}, "mean_block must lie between 1 and the 50 rows, was nan"),
        ({"draws": 99}, "draws must be a whole number, 100 or more, was 99"),
        ({"draws": 1e3}, "draws must be a whole number, 100 or more, was 1000.0"),
        ({"level": 1.0}, "level must lie between 0 and 1, was 1.0"),
        ({"level": float("nan")}, "level must lie between 0 and 1, was nan"),
        ({"rng": 7}, "rng must be a seeded numpy generator, such as np.random.default_rng(7), was 7"),
    ]
    for change, said in settings:
        with pytest.raises(ConfigError) as caught:
            bootstrap_interval(returns, mean_of, **{"mean_block": 5, "rng": rng, **change})  # type: ignore[arg-type]
        assert str(caught.value) == said
    for rows in (0, -1, 2.5, True):
        with pytest.raises(ConfigError, match="rows must be a whole number, 1 or more"):
            stationary_rows(rows, mean_block=1, rng=rng)  # type: ignore[arg-type]


def test_data_without_a_number_are_refused_in_one_line() -> None:
    rng = np.random.default_rng(1)
    for values, said in [
        (np.array([]), "not empty, had shape"),
        (np.zeros((2, 2, 2)), "had shape"),
        (np.array(1.0), "had shape"),
        (np.array([0.0, np.inf]), "row 1 of 2 is not finite: fill or drop gaps first"),
        (np.array([[0.0, 1.0], [0.0, np.nan]]), "row 1 of 2 is not finite"),
    ]:
        with pytest.raises(DataError, match=said):
            bootstrap_interval(values, mean_of, mean_block=1, rng=rng)
    with pytest.raises(DataError, match="the statistic is no finite number on 1 of 101 histories"):
        first = np.arange(30.0)
        bootstrap_interval(
            first,
            lambda history: float("nan") if np.array_equal(history, first) else 0.0,
            mean_block=2,
            rng=rng,
            draws=100,
        )


# what follows asks an outside library; it comes with the dev extra


@pytest.mark.parametrize("rows", [30, 61, 250, 1_826])
@pytest.mark.parametrize("memory", [-0.5, 0.0, 0.3, 0.9, 0.99])
def test_the_length_of_a_block_is_that_of_arch(rows: int, memory: float) -> None:
    library = pytest.importorskip("arch.bootstrap")
    for seed in range(4):
        returns = remembering(np.random.default_rng(seed), rows, memory)
        theirs = float(library.optimal_block_length(returns)["stationary"].iloc[0])
        assert block_length(returns) == pytest.approx(max(1.0, theirs), rel=1e-9)


def test_the_interval_is_that_of_arch() -> None:
    library = pytest.importorskip("arch.bootstrap")
    returns = remembering(np.random.default_rng(2), 400) + 0.1
    ours = bootstrap_interval(returns, mean_of, mean_block=12, rng=np.random.default_rng(3), draws=8_000, level=0.9)
    theirs = library.StationaryBootstrap(12, returns, seed=np.random.default_rng(4))
    low, high = theirs.conf_int(lambda drawn: drawn.mean(), reps=8_000, method="percentile", size=0.9)[:, 0]
    spread = float(ours.drawn.std())
    assert ours.low == pytest.approx(low, abs=0.08 * spread)
    assert ours.high == pytest.approx(high, abs=0.08 * spread)


def test_a_block_lengthens_with_the_memory_and_stays_inside_the_history() -> None:
    rng = np.random.default_rng(1)
    found = [block_length(remembering(rng, 1_000, memory)) for memory in (0.0, 0.5, 0.9)]
    assert found == sorted(found) and found[0] < 8 < found[2]
    for rows in (0, 1, 2, 19, 20, 25):
        assert 1.0 <= block_length(rng.normal(size=rows)) <= max(rows, 1)
    assert block_length(np.zeros(500)) == block_length(np.full(500, 0.1)) == 1.0


def test_without_a_length_the_history_s_own_is_used() -> None:
    returns = remembering(np.random.default_rng(9), 300)
    pair = np.column_stack([np.random.default_rng(1).normal(size=300), returns])
    for values, length in ((returns, block_length(returns)), (pair, block_length(returns))):
        own = bootstrap_interval(values, mean_of, rng=np.random.default_rng(1), draws=100)
        told = bootstrap_interval(values, mean_of, mean_block=length, rng=np.random.default_rng(1), draws=100)
        np.testing.assert_array_equal(own.drawn, told.drawn)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=120))
def test_any_history_has_a_block_it_can_be_drawn_in(values: list[float]) -> None:
    found = bootstrap_interval(np.array(values), mean_of, rng=np.random.default_rng(1), draws=100)
    assert found.low <= found.high
