"""Notebooks to package: format, export, clean, and copy what the package carries besides modules."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
# package-dir mapping breaks editable installs, so the package holds copies: (from, patterns, to)
EXTRAS = (
    ("migrations", ("**/*.py", "**/*.mako"), "store/migrations"),
    ("nbs/templates", ("*.ipynb",), "jobs/templates"),
    ("nbs/05_config", ("*.toml",), "config"),
    ("nbs/62_plots", ("*.js", "*.css"), "plots"),
)
CARD = {
    "config.toml": "config/config.toml",
    ".env.example": "config/env.example",
}  # the top level is a desk, and what `init` writes


def run(*command: str) -> None:
    done = subprocess.run([str(BIN / command[0]), *command[1:]], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def copy_extras() -> None:
    for source, copy in CARD.items():
        shutil.copyfile(ROOT / source, ROOT / "autotrader" / copy)
    for source, patterns, target in EXTRAS:
        folder, room = ROOT / source, ROOT / "autotrader" / target
        wanted = {path.relative_to(folder) for pattern in patterns for path in folder.glob(pattern)}
        for path in sorted(wanted):
            (room / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / path, room / path)
        for pattern in patterns if room.is_dir() and target != "config" else ():
            for stale in room.glob(pattern):
                if stale.relative_to(room) not in wanted and stale.name != "__init__.py":
                    stale.unlink()


if __name__ == "__main__":
    if "--no-format" not in sys.argv:
        run("black", "--quiet", "nbs", "tests", "tools", "migrations")
    copy_extras()
    run("nbdev_export")
    run("nbdev_clean")
    run("python", "tools/contracts.py")
