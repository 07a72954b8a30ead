"""What a strategy gives the engine is checked before anything acts on it."""

import numpy as np
import pytest

from autotrader.core.errors import ConfigError
from autotrader.engine.events import Exit
from autotrader.engine.signals import Signals, from_rules


def rule(*values: int) -> np.ndarray:
    return np.array(values, dtype=bool)


def test_exits_are_the_bits_the_policy_reads() -> None:
    signals = from_rules(
        long=rule(0, 0, 0, 0), short=rule(0, 0, 0, 0), exit_long=rule(0, 1, 0, 1), exit_short=rule(0, 0, 1, 1)
    )
    assert signals.exits.tolist() == [Exit.NONE, Exit.LONG, Exit.SHORT, Exit.BOTH]


def test_both_entries_on_one_bar_are_neither() -> None:
    none = rule(0, 0, 0)
    signals = from_rules(long=rule(1, 1, 0), short=rule(0, 1, 1), exit_long=none, exit_short=none)
    assert signals.direction.tolist() == [1, 0, -1]


def test_an_entry_is_dropped_where_its_own_exit_is_true() -> None:
    signals = from_rules(
        long=rule(1, 1, 0, 0), short=rule(0, 0, 1, 1), exit_long=rule(1, 0, 1, 0), exit_short=rule(0, 1, 0, 1)
    )
    assert signals.direction.tolist() == [0, 1, -1, 0]
    assert signals.exits.tolist() == [1, 2, 1, 2]


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32, np.float64])
def test_any_kind_of_number_is_narrowed_to_the_engine_s_types(dtype: type) -> None:
    signals = Signals(np.array([0, 1], dtype), np.array([1, 0], dtype), np.array([1, 1], dtype))
    assert (signals.direction.dtype, signals.exits.dtype, signals.confidence.dtype) == (np.int8, np.int8, np.float64)
    assert signals.direction.tolist() == [0, 1] and signals.exits.tolist() == [1, 0]


def test_signals_do_not_change_with_the_arrays_they_came_from() -> None:
    direction, exits, confidence = np.zeros(3, np.int8), np.zeros(3, np.int8), np.ones(3)
    signals = Signals(direction, exits, confidence)
    direction[:], exits[:], confidence[:] = 1, 3, 0.0
    assert signals.direction.tolist() == signals.exits.tolist() == [0, 0, 0]
    assert signals.confidence.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("direction", "exits", "confidence", "message"),
    [
        ([0, 2], [0, 0], [1, 1], "direction at bar 1 must be one of -1, 0, 1, was 2"),
        ([0, 0.5], [0, 0], [1, 1], "direction at bar 1 must be one of -1, 0, 1, was 0.5"),
        ([0, np.nan], [0, 0], [1, 1], "was nan"),
        ([0, 257], [0, 0], [1, 1], "was 257"),
        ([0, 0], [0, 4], [1, 1], "exits at bar 1 must be one of 0, 1, 2, 3, was 4"),
        ([0, 0], [-1, 0], [1, 1], "exits at bar 0"),
        ([0, 0], [0], [1, 1], "exits holds 1 values, direction 2"),
        ([0, 0], [0, 0], [1], "confidence must hold 2 values"),
        ([0, 0], [0, 0], [1, 1.1], "confidence at bar 1 must lie between 0 and 1, was 1.1"),
        ([0, 0], [0, 0], [np.nan, 1], "confidence at bar 0"),
        ([[0, 0]], [0, 0], [1, 1], "direction must be one column of numbers"),
        (["a", "b"], [0, 0], [1, 1], "direction must be one column of numbers"),
    ],
)
def test_what_cannot_be_a_signal_is_refused_in_one_line(
    direction: list, exits: list, confidence: list, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Signals(direction, exits, confidence)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [np.array([1.0, 0.0]), rule(1), np.array([1, 0])])
def test_a_rule_that_is_not_yes_or_no_per_bar_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="rule short must be 2 booleans"):
        from_rules(long=rule(0, 0), short=wrong, exit_long=rule(0, 0), exit_short=rule(0, 0))


def test_no_bars_are_no_signals() -> None:
    assert len(from_rules(long=rule(), short=rule(), exit_long=rule(), exit_short=rule())) == 0
