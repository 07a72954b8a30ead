"""P10: how long the command takes to say what it can do, beside a bare Python and the library it stands on."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "typer": [sys.executable, "-c", "import typer"],
    "help": [str(Path(sys.executable).with_name("autotrader")), "--help"],
}
ROUNDS = 15
REACH_S = 0.3
MOST = 2.5  # times the library alone


def once(command: list[str]) -> tuple[float, float]:
    "Seconds on the wall and on the processor."
    before, begun_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"})
    took_s, after = time.perf_counter() - begun_s, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return took_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def slowest_imports(command: list[str]) -> str:
    "The package's own modules by what their import costs, the dearest first."
    done = subprocess.run([sys.executable, "-X", "importtime", *command], capture_output=True, text=True)
    rows = [line.removeprefix("import time:").split("|") for line in done.stderr.splitlines() if line.count("|") == 2]
    costs = sorted(((int(own), name.strip()) for own, _, name in rows if own.strip().isdigit()), reverse=True)
    return ", ".join(f"{name} {own / 1e3:.1f} ms" for own, name in costs[:5])


def test_bench_help_costs_little_more_than_its_library(capsys: pytest.CaptureFixture[str]) -> None:
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):  # in turn, so that a busy machine is as busy for all
        for name, command in COMMANDS.items():
            times[name].append(once(command))
    wall_s, worked_s = ({name: min(t[i] for t in times[name]) for name in COMMANDS} for i in (0, 1))
    with capsys.disabled():
        told = ", ".join(
            f"{name} {wall_s[name] * 1e3:.0f} ms ({worked_s[name] * 1e3:.0f} ms worked)" for name in COMMANDS
        )
        print(
            f"\nP10 best of {ROUNDS}: {told}; help is {worked_s['help'] / worked_s['python']:.1f}× a bare Python, "
            f"{worked_s['help'] / worked_s['typer']:.1f}× its library (reach {REACH_S:g} s)"
        )
        if wall_s["help"] > REACH_S:
            print(f"   missed; the dearest modules: {slowest_imports(COMMANDS['help'])}")
    assert worked_s["help"] / worked_s["typer"] <= MOST
