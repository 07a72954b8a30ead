"""Leaves behind what a runner had written when it was stopped in the middle of a replay: `replay.db.xz`, beside this file.

Run once, by the version whose databases later ones are to take up: its git revision stands in `ABOUT.md`.

    python tests/recovery/desk_before/record.py
"""

import lzma
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from autotrader.config.settings import load
from autotrader.store.database import open_store

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent.parent
PERIOD = ("--from", "2017-12-01", "--to", "2018-01-01")
COMMAND = [sys.executable, "-c", "from autotrader.cli.main import main; main()"]
HELD = "SELECT count(*) FROM policy_state WHERE seq > 0 AND json_extract(readable, '$.qty') != 0"
RESTING = "SELECT count(*) FROM orders WHERE status = 'LIVE'"
BARS = "SELECT min(json_extract(cursor, '$.at')) FROM paper_books"


def _number(file: Path, query: str) -> int:
    connection = sqlite3.connect(file, timeout=10)
    try:
        return int(connection.execute(query).fetchone()[0] or 0)
    except sqlite3.OperationalError:  # its tables are being made
        return 0
    finally:
        connection.close()


def _is_time(file: Path) -> bool:
    "All three hold a position, entries rest on the venue, and a good part of the month is over."
    if not file.exists() or _number(file, BARS) < 150:
        return False
    return _number(file, HELD) == 3 and _number(file, RESTING) > 0


def _play(folder: Path) -> Path:
    config, file = folder / "config.toml", folder / "data" / "replay.db"
    config.write_text((HERE / "config.toml").read_text())
    open_store(load(config).database_url, folder=folder, create=True).close()
    words = ["run", "--replay", *PERIOD, "--speed", "40000", "--config", str(config)]
    runner = subprocess.Popen([*COMMAND, *words], env={**os.environ, "AUTOTRADER_OFFLINE": "1"})
    while not _is_time(file):
        assert runner.poll() is None, "the replay ended before it could be stopped"
        time.sleep(0.01)
    runner.terminate()
    assert runner.wait(60) == 0
    print({name: _number(file, query) for name, query in (("held", HELD), ("resting", RESTING), ("bars", BARS))})
    return file


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        file = _play(Path(name))
        connection = sqlite3.connect(file)
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("VACUUM")
        [[schema]] = connection.execute("SELECT version_num FROM alembic_version")
        connection.close()
        packed = lzma.compress(file.read_bytes(), preset=9)
        (HERE / "replay.db.xz").write_bytes(packed)
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    text = f"Written by revision {revision.stdout.strip()}, schema {schema}, {len(packed):,} bytes: see `record.py`.\n"
    (HERE / "ABOUT.md").write_text(text)
    print(text)
