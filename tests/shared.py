"""What the processes that share the tests make once between them."""

import json
import os
import shutil
from collections.abc import Callable
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any

import pytest


def once(
    factory: pytest.TempPathFactory,
    name: str,
    make: Callable[[Path], Any],  # fills an empty folder; what it returns can be said in JSON
) -> tuple[Path, Any]:
    """A folder that the first to ask has filled, and what was said then. It is for looking and for copying: where a command runs in it, another
    process that copies it meets a database's files that come and go."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, said = base / name, base / f"{name}.json"
    with (base / f"{name}.lock").open("w") as lock:
        flock(lock, LOCK_EX)
        if not said.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            told = make(folder)
            said.write_text(json.dumps(told))
    return folder, json.loads(said.read_text())
