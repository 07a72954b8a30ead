"""A test of many rows can fail: it names each row that does not hold, and looks at all of them."""

from pathlib import Path

import pytest
from every import SHOWN, every


def test_each_row_that_does_not_hold_is_named_and_all_are_looked_at() -> None:
    seen: list[int] = []

    @every("number", range(20), ids="row {}".format)
    def is_small(number: int) -> None:
        seen.append(number)
        assert number not in (3, 7)

    with pytest.raises(ExceptionGroup, match=r"^2 of 20 do not hold: row 3, row 7") as found:
        is_small()
    assert seen == list(range(20))
    assert [error.__notes__ for error in found.value.exceptions] == [["of number row 3"], ["of number row 7"]]


def test_an_error_and_an_exception_that_does_not_come_are_rows_that_do_not_hold() -> None:
    @every("word, times", [("a", 1), ("b", 0), ("", 1)], ids=lambda row: repr(row[0]))
    def fails_as_it_should(word: str, times: int) -> None:
        with pytest.raises(ZeroDivisionError):
            1 / (times * len(word))

    with pytest.raises(ExceptionGroup, match="1 of 3 do not hold: 'a'"):
        fails_as_it_should()

    @every("word", ["1", "x"])
    def is_number(word: str) -> None:
        int(word)

    with pytest.raises(ExceptionGroup, match="1 of 2 do not hold: x"):
        is_number()


def test_where_all_break_the_first_are_told_and_the_rest_named() -> None:
    @every("number", range(100))
    def never(number: int) -> None:
        raise AssertionError(number)

    with pytest.raises(ExceptionGroup, match=r"100 of 100 .*, 98, 99") as found:
        never()
    assert [error.args for error in found.value.exceptions] == [(number,) for number in range(SHOWN)]


@every("number", (1, 2))
@pytest.mark.parametrize("factor", [3, 4])
def test_other_arguments_are_fixtures_and_parameters(number: int, factor: int, tmp_path: Path) -> None:
    assert tmp_path.is_dir() and number * factor in (3, 4, 6, 8)


def test_a_promise_about_nothing_is_none() -> None:
    with pytest.raises(AssertionError, match="nothing"):
        every("number", [])
