"""What tests share: what their processes make once between them, and how a command is run."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from fcntl import LOCK_EX, flock
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from autotrader.cli.main import main
from autotrader.config import logs


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


class Ended(NamedTuple):
    "How a command ended."

    code: int
    out: str
    err: str

    @property
    def told(self) -> Any:
        "Its one document."
        assert self.code == 0, self.err
        return json.loads(self.out)


def run(folder: Path, *words: object) -> Ended:
    "The command in a folder, without the two seconds that a new process needs."
    out, err, before = StringIO(), StringIO(), sys.argv
    sys.argv = ["autotrader", *map(str, words)]
    try:
        with chdir(folder), redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
            main()
    finally:
        sys.argv = before
        logs.shutdown()
    return Ended(int(end.value.code or 0), out.getvalue(), err.getvalue())
