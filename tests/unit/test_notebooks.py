"""Every lesson of every notebook runs and holds, floor by floor."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = sorted(
    str(folder.relative_to(ROOT))
    for folder in (ROOT / "nbs").iterdir()
    if folder.is_dir() and any(folder.glob("*.ipynb")) and folder.name != "templates"
)
ALONE = sorted(str(notebook.relative_to(ROOT)) for notebook in (ROOT / "nbs").glob("*.ipynb"))


@pytest.mark.parametrize("path", FOLDERS + ALONE)
def test_the_lessons_hold(path: str) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("nbdev_test")), "--path", path, "--n_workers", "1"],
        cwd=ROOT,
        env={**os.environ, "AUTOTRADER_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
