"""Everything `make check` promises: formatting, lint, types, import contracts, export drift, and words that must not be committed."""

import filecmp
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
FORBIDDEN = {
    "an address of a package registry": r"pypi[.]org|pythonhosted[.]org|index[-]url|find[-]links|[/]simple[/]?$",
    "a path of one machine": r"(?<![\w.])[/](work|root|Users|home[/]\w+)[/]",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "an access key": r"AKIA[0-9A-Z]{16}|gh[pousr]_[0-9A-Za-z]{30}|AIza[0-9A-Za-z_-]{35}|discord(app)?[.]com[/]api[/]webhooks[/]\d{6}",
}
COPIED = (
    "autotrader",
    "nbs",
    "migrations",
    "tests",
    "tools",
    "pyproject.toml",
    "settings.ini",
    ".importlinter",
    "config.toml",
    ".env.example",
)
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", ".pytest_cache", ".hypothesis", "*.egg-info")


def tool(*command: str, cwd: Path = ROOT) -> str:
    "What the tool complains about; empty when it is content."
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]], cwd=cwd, env=environment, capture_output=True, text=True
    )
    return done.stdout + done.stderr if done.returncode else ""


def differences(here: Path, there: Path) -> list[str]:
    "Files under two folders that are not the same, relative to the first."
    files = {path.relative_to(base) for base in (here, there) for path in base.rglob("*") if path.is_file()}
    kept = sorted(path for path in files if not {"__pycache__", ".ipynb_checkpoints"} & set(path.parts))
    return [
        f"{here.name}/{path}"
        for path in kept
        if not (here / path).is_file()
        or not (there / path).is_file()
        or not filecmp.cmp(here / path, there / path, shallow=False)
    ]


def drift() -> str:
    "Export a copy and compare."
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name, ignore=LEFT_OUT)
            elif (ROOT / name).exists():
                shutil.copyfile(ROOT / name, copy / name)
        (copy / "constraints.txt").touch()
        trouble = tool("python", "tools/export.py", "--no-format", cwd=copy)
        found = differences(ROOT / "autotrader", copy / "autotrader") + differences(ROOT / "nbs", copy / "nbs")
        contracts = ROOT / ".importlinter"
        if not contracts.exists() or contracts.read_text() != (copy / ".importlinter").read_text():
            found.append(".importlinter")
    if trouble or found:
        return "\n".join([trouble, "`make export` would change:", *found])
    return ""


def committed() -> list[Path]:
    "Files of the project: what git knows or would take; without git, what a clone holds."
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    return [path for name in (*COPIED, "docs") for path in (ROOT / name).rglob("*") if path.is_file()]


def words() -> str:
    found = []
    for path in committed():
        text = path.read_bytes().decode("utf-8", errors="replace")
        for what, pattern in FORBIDDEN.items():
            found += [
                f"{path.relative_to(ROOT)}:{number}: {what}"
                for number, line in enumerate(text.splitlines(), 1)
                if re.search(pattern, line)
            ]
    return "\n".join(found)


CHECKS: dict[str, Callable[[], str]] = {  # the longest first: they run side by side
    "mypy": lambda: tool("mypy"),
    "black": lambda: tool("black", "--check", "--quiet", "nbs", "tests", "tools", "migrations")
    and tool("black", "--check", "nbs", "tests", "tools", "migrations"),
    "drift": drift,
    "ruff": lambda: tool(
        "ruff", "check", "--output-format", "concise", "autotrader", "nbs", "tests", "tools", "migrations"
    ),
    "imports": lambda: tool("lint-imports"),
    "words": words,
}


def timed(name: str) -> tuple[str, float]:
    "What a check complains about, and seconds it took beside the others."
    start = time.monotonic()
    return CHECKS[name]().strip(), time.monotonic() - start


def main(wanted: list[str]) -> int:
    names, failed = wanted or list(CHECKS), []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # each waits for a process of its own
        for name, (trouble, seconds) in zip(names, pool.map(timed, names), strict=True):
            print(f"{name:8} {'FAILED' if trouble else 'ok':6} {seconds:5.1f} s", flush=True)
            if trouble:
                failed.append(name)
                print(trouble, flush=True)
    if failed:
        print(f"make check: {', '.join(failed)} failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
