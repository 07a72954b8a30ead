"""Compiled kernels: never older than their sources, never in need of a writable installation, one signature each."""

import ctypes
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import autotrader

CAP_DAC_OVERRIDE, PR_CAPBSET_DROP = 1, 24
CACHE = "import numba, autotrader.engine; print(numba.config.CACHE_DIR)"
PROBE = """
import json

import numpy as np

import autotrader
from autotrader.engine import fills, policy, simulate
from autotrader.engine.events import MAX_INTENTS, INTENT, PARAMS, EventKind, new_event, new_state
from autotrader.engine.signals import Signals

params = np.zeros(1, PARAMS)
for name, value in dict(
    tick=1.0, step=0.001, unit_e8=100_000, min_qty=1, max_qty=10**9, size=1.0, max_leverage=10.0, split_count=1,
    sl_ratio=2.0, tp_ratio=2.0, allow_long=1, allow_short=1, exit_on_opposite=1, max_signal_age_ms=60_000, resume_size=1.0,
).items():
    params[name] = value

# the cycle of a live bot: step, called from Python
state, out = new_state(wallet_e8=10**13), np.zeros(MAX_INTENTS, INTENT)
policy.step(state[0], new_event(EventKind.BAR, 60_000, price=20_000, atr=100.0)[0], params[0], out)
n = policy.step(state[0], new_event(EventKind.SIGNAL, 60_000, code=1, value=1.0, known_ms=60_000)[0], params[0], out)

# a backtest: the same step, inside the loop
close = 20_000 + np.cumsum(np.random.default_rng(1).integers(-60, 61, 500))
stamps = np.arange(500, dtype=np.int64) * 60_000
none = np.zeros(0, np.int64)
tape = simulate.Tape(
    60_000, stamps, close, close + 30, close - 30, close, np.full(500, 10**6), none, none, none, close, none, np.zeros(0)
)
signals = Signals(np.ones(500, np.int8), np.zeros(500, np.int8), np.ones(500))
costs = np.zeros(1, fills.COSTS)
costs["unit_e8"] = 100_000
run = simulate.run(tape, signals, np.full(500, 100.0), params=params, costs=costs, wallet_e8=10**13)

kernels = [
    value
    for module in (policy, fills, simulate)
    for value in vars(module).values()
    if getattr(value, "__module__", "") == module.__name__ and getattr(value, "nopython_signatures", None)
    and value.targetoptions.get("cache", value._cache.__class__.__name__ != "NullCache")
]
print(json.dumps({
    "package": autotrader.__file__,
    "stop": int(out[0]["stop"]),
    "trade": [int(x) for x in run.fills["cost"]],
    "signatures": {k.__name__: len(k.nopython_signatures) for k in kernels},
    "compiled": sorted(k.__name__ for k in kernels if k.stats.cache_misses),
}))
"""


@dataclass
class Copy:
    "A copy of the package that nobody may write to, and processes without a home that use it."

    folder: Path

    @property
    def package(self) -> Path:
        return self.folder / "site" / "autotrader"

    def _allow_writing(self, allowed: bool) -> None:
        for path in (self.package, *self.package.rglob("*")):
            mode = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH | (stat.S_IXUSR if path.is_dir() else 0)
            path.chmod(mode | (stat.S_IWUSR if allowed else 0))

    def edit(self, name: str, old: str, new: str) -> None:
        self._allow_writing(True)
        source = (self.package / name).read_text()
        assert source.count(old) == 1
        (self.package / name).write_text(source.replace(old, new))
        self._allow_writing(False)

    def run(self, code: str) -> str:
        "What a new process prints; even a superuser is held to the permissions of files."
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LD_LIBRARY_PATH")}
        environment = {
            **kept,
            "HOME": str(self.package / "home"),  # not there, and cannot be made
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONPATH": str(self.folder / "site"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "AUTOTRADER_OFFLINE": "1",
        }
        libc = ctypes.CDLL(None)
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            preexec_fn=lambda: libc.prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0),
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def probe(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run(PROBE))
        assert found["package"].startswith(str(self.folder)), "the probe used another package"
        return found


EDITED = "params.sl_ratio * counted / params.tick"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    "With stops that are three times as far away."
    folder = tmp_path_factory.mktemp("installed")
    made = Copy(folder)
    shutil.copytree(Path(autotrader.__file__).parent, made.package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tmp").mkdir()
    made.edit("engine/protection.py", EDITED, f"3.0 * {EDITED}")
    yield made
    made._allow_writing(True)


@pytest.fixture(scope="module")
def fresh(copy: Copy) -> dict[str, Any]:
    "The first process on a machine."
    return copy.probe()


def test_a_read_only_install_without_a_home_works(copy: Copy, fresh: dict[str, Any]) -> None:
    assert fresh["compiled"] == sorted(fresh["signatures"]) != []
    assert not list(copy.package.rglob("*.nbi")) and not list(copy.package.rglob("__pycache__"))
    assert list((copy.folder / "tmp").rglob("*.nbi"))


def test_every_kernel_has_one_signature_after_a_full_run(fresh: dict[str, Any]) -> None:
    assert {"step", "is_idle", "accept", "match", "_loop"} <= set(fresh["signatures"])
    assert set(fresh["signatures"].values()) == {1}


def test_a_second_process_compiles_nothing(copy: Copy, fresh: dict[str, Any]) -> None:
    again = copy.probe()
    assert again["compiled"] == []
    assert again["stop"] == fresh["stop"] and again["trade"] == fresh["trade"]


def test_an_edited_policy_changes_backtest_and_cycle_alike(fresh: dict[str, Any]) -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    unedited = json.loads(done.stdout)
    assert (unedited["stop"], fresh["stop"]) == (20_000 - 200, 20_000 - 600)
    assert fresh["trade"] != unedited["trade"]


def test_after_an_edit_no_kernel_of_before_is_looked_at(copy: Copy, fresh: dict[str, Any]) -> None:
    before = Path(copy.run(CACHE).strip())
    assert list(before.rglob("policy.step-*.nbi"))
    copy.edit("engine/protection.py", f"3.0 * {EDITED}", f"2.0 * {EDITED}")
    after = Path(copy.run(CACHE).strip())
    assert after.parent == before.parent and not list(after.rglob("*.nb*"))
