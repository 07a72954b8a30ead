"""Every lesson of every notebook runs and holds. Tutorials and templates of jobs are played elsewhere, as people and jobs play them."""

import json
from pathlib import Path

import forked
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(
    path for path in (ROOT / "nbs").rglob("*.ipynb") if path.parent.name not in ("templates", "tutorials")
)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_lessons_hold(notebook: Path) -> None:
    done = forked.notebook(notebook)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]


def written(file: Path, *sources: str) -> Path:
    cell = {"cell_type": "code", "metadata": {}, "outputs": []}
    cells = [{**cell, "source": source, "id": str(at)} for at, source in enumerate(sources)]
    file.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return file


def test_a_lesson_that_does_not_hold_is_noticed(tmp_path: Path) -> None:
    done = forked.notebook(written(tmp_path / "wrong.ipynb", "assert 1 + 1 == 3"))
    assert done.returncode == 1 and "AssertionError" in done.stdout + done.stderr


def test_a_kernel_of_a_page_is_compiled_again_when_something_it_calls_was_changed(tmp_path: Path) -> None:
    kernel = "@kernel(numba.int64(numba.int64))\ndef made(x):\n    return called(x)"
    for added in (1, 2):
        page = written(
            tmp_path / "page.ipynb",
            "import numba\nfrom autotrader.engine import inner, kernel",
            f"@inner\ndef called(x):\n    return x + {added}",
            kernel,
            f"assert made(10) == {10 + added}",
        )
        done = forked.notebook(page)
        assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
