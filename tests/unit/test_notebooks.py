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


def test_a_lesson_that_does_not_hold_is_noticed(tmp_path: Path) -> None:
    cell = {"cell_type": "code", "source": "assert 1 + 1 == 3", "metadata": {}, "outputs": [], "id": "0"}
    wrong = tmp_path / "wrong.ipynb"
    wrong.write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    done = forked.notebook(wrong)
    assert done.returncode == 1 and "AssertionError" in done.stdout + done.stderr
