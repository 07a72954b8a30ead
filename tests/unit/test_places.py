"""A folder is a folder, whatever stands in its name, and a file's market is the one it names or is given."""

from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from autotrader.cli.main import app
from autotrader.config import logs
from autotrader.config.settings import load, write_template
from autotrader.core.clock import SystemClock
from autotrader.data.importers import import_folder, read_file
from autotrader.store.candles import coverage
from autotrader.store.database import open_store, resolve_url

NAMES = ["p%20x", "q?x", "a#b", "two words", "研究 机", "50%", "x?y=1&z=%2F", "sqlite:"]
BEGIN = 1_704_067_200_000  # 2024-01-01
HEAD = "timestamp,open,high,low,close,volume"


def lines(hours: range, price: float) -> list[str]:
    return [f"{BEGIN + 3_600_000 * i},{price},{price + 1},{price - 1},{price},5" for i in hours]


@pytest.mark.parametrize("name", NAMES)
def test_the_database_of_a_desk_is_in_its_folder(tmp_path: Path, name: str) -> None:
    desk = tmp_path / name
    desk.mkdir()
    write_template(desk, kind="config")
    with chdir(desk):
        try:
            done = CliRunner().invoke(app, ["db", "upgrade"])
        finally:
            logs.shutdown()
    assert done.exit_code == 0, done.output
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.db")) == [
        f"{name}/data/autotrader.db"
    ]
    settings = load(desk / "config.toml")
    assert Path(str(resolve_url(settings.database_url).database)) == desk / "data" / "autotrader.db"
    assert name in done.output.replace("\n", "")


@pytest.mark.parametrize("name", NAMES)
def test_a_replay_has_its_address_in_that_folder_too(tmp_path: Path, name: str) -> None:
    from autotrader.cli.options import database_of
    from autotrader.runner.app import replay_url

    desk = tmp_path / name
    desk.mkdir()
    write_template(desk, kind="config")
    settings = load(desk / "config.toml")
    assert database_of(settings, replay=True) == replay_url(settings)
    assert Path(str(resolve_url(replay_url(settings)).database)) == desk / "data" / "replay.db"


def test_a_folder_of_files_without_a_venue_takes_the_given_one(tmp_path: Path) -> None:
    (tmp_path / "BTCUSDT_1h.csv").write_text("\n".join([HEAD, *lines(range(48), 100.0)]))
    (tmp_path / "okx_ETHUSDT_1h.csv").write_text("\n".join([HEAD, *lines(range(48), 50.0)]))
    with open_store("sqlite:///a.db", folder=tmp_path, create=True) as store:
        import_folder(store, tmp_path, unnamed="Bybit", clock=SystemClock())
        assert {(s.venue, s.symbol) for s in coverage(store)} == {("bybit", "BTCUSDT"), ("okx", "ETHUSDT")}


def test_a_folder_with_a_refused_file_ends_with_1_and_keeps_the_others(tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    (many / "BTCUSDT_1h.csv").write_text("\n".join([HEAD, *lines(range(48), 100.0)]))
    (many / "ETHUSDT_1h.csv").write_text("\n".join([HEAD, *lines(range(48), 50.0)]).replace("49.0", "nine"))
    write_template(tmp_path, kind="config")
    with chdir(tmp_path):
        try:
            done = CliRunner().invoke(app, ["data", "import", "many", "--venue", "bybit"])
        finally:
            logs.shutdown()
    assert done.exit_code == 1
    assert "bybit BTCUSDT 1h, 48 rows" in done.output and "not imported: ETHUSDT_1h.csv" in done.output


@pytest.mark.parametrize("seed", range(5))
def test_two_spellings_of_one_name_are_one_series_and_lose_no_row(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    spelt = {"symbol": ["BTCUSDT", "BTC/USDT", "btcusdt", "BTC-USDT"], "venue": ["binance", "Binance", "BINANCE"]}
    rows = [
        f"{rng.choice(spelt['venue'])},{rng.choice(spelt['symbol'])},{line}" for line in lines(range(60), 100.0)
    ] + [f"{rng.choice(spelt['venue'])},ETHUSDT,{line}" for line in lines(range(60), 50.0)]
    file = tmp_path / "mixed.csv"
    file.write_text("\n".join([f"venue,symbol,{HEAD}", *rows]))
    found = read_file(file)
    assert {(s.venue, s.symbol) for s in found} == {("binance", "BTCUSDT"), ("binance", "ETHUSDT")}
    assert {s.symbol: len(s) for s in found} == {"BTCUSDT": 60, "ETHUSDT": 60}
    assert [s.symbol for s in read_file(file, venue="Binance", symbol="eth/usdt")] == ["ETHUSDT"]


@pytest.mark.parametrize("venue", ["binance", "Binance"])
def test_a_venue_is_named_in_any_capitals(tmp_path: Path, venue: str) -> None:
    file = tmp_path / "binance_BTCUSDT_1h.csv"
    file.write_text("\n".join([HEAD, *lines(range(48), 100.0)]))
    write_template(tmp_path, kind="config")
    with chdir(tmp_path):
        try:
            assert CliRunner().invoke(app, ["data", "import", file.name]).exit_code == 0
            done = CliRunner().invoke(app, ["data", "check", "--venue", venue])
        finally:
            logs.shutdown()
    assert done.exit_code == 0 and "binance BTCUSDT 1h: 48 bars" in done.output
