"""One promise about many rows is one test, which names every row that does not keep it: as a test each, rows cost more than what is tested."""

import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import pytest

SHOWN = 5  # of the rows that do not hold, with all that pytest tells of a failure


def every(
    names: str,  # of the arguments a row brings, "name" or "name, kind"
    rows: Iterable[Any],  # as for `pytest.mark.parametrize`
    *,
    ids: Callable[[Any], str] = str,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    "Instead of `pytest.mark.parametrize`, where there are many rows; other arguments are fixtures, the same for all rows."
    words, told = [word.strip() for word in names.split(",")], [(ids(row), row) for row in rows]
    assert told, "a promise about nothing is kept by anything"

    def of(test: Callable[..., None]) -> Callable[..., None]:
        @wraps(test)
        def holds(**fixtures: Any) -> None:
            broken: dict[str, Exception] = {}
            for name, row in told:
                given = dict(zip(words, row if len(words) > 1 else (row,), strict=True))
                try:
                    test(**given, **fixtures)
                except (Exception, pytest.fail.Exception) as error:
                    broken[name] = error if isinstance(error, Exception) else AssertionError(str(error))
                    broken[name].add_note(f"of {names} {name}")
            if broken:
                first = list(broken.values())[:SHOWN]
                raise ExceptionGroup(f"{len(broken)} of {len(told)} do not hold: {', '.join(broken)}", first)

        signature = inspect.signature(test)
        kept = [each for each in signature.parameters.values() if each.name not in words]
        holds.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]  # what pytest reads
        del holds.__wrapped__  # type: ignore[attr-defined]
        return holds

    return of
