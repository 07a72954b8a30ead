"""What the README shows is what happens."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import autotrader as at
from autotrader.cli.quickstart import learned, learned_text
from autotrader.config.settings import load
from autotrader.data.instruments import known
from autotrader.desk.backtest import backtest_bot
from autotrader.desk.choice import period
from autotrader.store.database import open_store

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_python_runs_on_the_sample(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    sample = at.load("EURUSD", "1h", venue="sample")
    rules = known("sample", "EURUSD")
    assert rules is not None
    neighbour = replace(sample, symbol="GBPUSD", instrument=replace(rules, symbol="GBPUSD"))
    monkeypatch.setattr(at, "load", lambda symbol, *_args, **_keys: neighbour if symbol == "ETHUSDT" else sample)
    rehearse = at.rehearse
    monkeypatch.setattr(at, "rehearse", lambda idea, candles: rehearse(idea, candles[:800]))  # it trades at every turn
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["result"].stats.trades > 0
    assert len(names["result"].fills) >= 2 * names["result"].stats.trades
    assert (tmp_path / "mine.html").stat().st_size > 20_000


def test_the_numbers_of_its_run_are_those_of_the_engine(tmp_path: Path) -> None:
    (run,) = re.findall(r"```text\n(.*?)```", README, re.S)
    shutil.copyfile(ROOT / "nbs" / "05_config" / "sample.toml", tmp_path / "config.toml")
    settings = load(tmp_path / "config.toml")
    with open_store(settings.database_url, folder=tmp_path, create=True) as store:
        since_ms, until_ms = period(settings.sub_bots, store)
        for bot in settings.sub_bots:
            stats = backtest_bot(bot, store, settings.backtest, since_ms=since_ms, until_ms=until_ms).stats
            rows = [row.split() for row in re.findall(rf"^{bot.id}  +\d.*$", run, re.M)]
            assert len(rows) == 2
            for row in rows:
                told = str(stats.trades), f"{stats.return_frac:.1%}", f"{stats.sharpe:.2f}", f"{stats.fees:.2f}"
                assert (row[1], row[2], row[4], row[7]) == told


def test_what_it_shows_of_a_model_is_what_quickstart_says(tmp_path: Path) -> None:
    (run,) = re.findall(r"```text\n(.*?)```", README, re.S)
    shutil.copyfile(ROOT / "nbs" / "05_config" / "sample.toml", tmp_path / "config.toml")
    settings = load(tmp_path / "config.toml")
    with open_store(settings.database_url, folder=tmp_path, create=True) as store:
        models = learned(settings.sub_bots, store, settings, period(settings.sub_bots, store))
    shown, told = (" ".join(text.split()) for text in (run.partition("Backtest ")[0], learned_text(models)))
    number = re.compile(r"[−+]?\d+(?:\.\d+)?")
    assert number.sub("#", shown) == number.sub("#", told)
    pairs = zip(number.findall(shown), number.findall(told), strict=True)
    assert all(abs(float(a.replace("−", "-")) - float(b.replace("−", "-"))) <= 0.5 for a, b in pairs), told
