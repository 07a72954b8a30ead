"""Every backtest of a desk is counted, once, without waiting; and where nobody counts, the result says why."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest

import autotrader as at
from autotrader.config.settings import Settings, load, write_template
from autotrader.core.errors import StoreError
from autotrader.core.market import Candles
from autotrader.desk.backtest import backtest_bot
from autotrader.search.book import TrialLedger, close, ledger_of
from autotrader.search.identity import code_of, configuration, fingerprint
from autotrader.store.database import Store, open_store, upgrade
from autotrader.strategy.templates import EmaTrend, make, own
from autotrader.validation.trials import Counted, Study, Trial, counted, studies

IDEA = """
import numpy as np
from autotrader import from_rules, own

LEVELS = {"deep": [1.0, 2.0], "kinds": {"a", "b", "c"}}

def moved(close):
    return np.r_[0.0, np.diff(close)]  # a helper

def idea(bars, *, level=0.5):
    drift = moved(bars.close) * 1e4
    name = "a" if level in {0.5, 1.5, 2.5} else "b"
    up = drift > level * LEVELS["deep"][0] + (name == "b")
    return from_rules(long=up, short=drift < -level, exit_long=drift < 0, exit_short=drift > 0)

class Judge:
    warmup = 3
    def __init__(self, weight): self.weight = weight
    def signals(self, bars): return idea(bars, level=self.weight)

strategy, judge = own(idea, warmup=3), Judge(2.0)
"""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    "A folder with a configuration and a database, and we in it."
    write_template(tmp_path, kind="sample")
    upgrade(settings_of(tmp_path).database_url, folder=tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    close(ledger_of())


def settings_of(folder: Path) -> Settings:
    return load(folder / "config.toml")


def opened(folder: Path) -> Store:
    return open_store(settings_of(folder).database_url, folder=folder)


def sample(bars: int = 1_500) -> Candles:
    whole: Candles = at.load("EURUSD", venue="sample")
    return whole[:bars]


def tried(folder: Path) -> Counted:
    with opened(folder) as store:
        return counted(store, venue="sample", symbol="EURUSD")


def test_a_loop_of_backtests_is_counted_once_each(desk: Path) -> None:
    candles = sample()
    for fast in (5, 6, 7, 5, 6):
        result = at.backtest(EmaTrend(fast=fast, slow=30), candles)
    assert result.counted is not None and result.uncounted == ""
    assert result.counted().trials == 3  # the newest included, without anybody flushing
    assert at.backtest("ema_trend", candles, bot={"strategy_params": {"sl_ratio": 2.0}}).counted().trials == 4  # type: ignore[misc]
    assert at.backtest("ema_trend", candles, costs={"slippage_bps": 9.0}).counted().trials == 5  # type: ignore[misc]
    assert at.backtest("ema_trend", candles[:-1]).counted().trials == 6  # type: ignore[misc]
    assert at.backtest("ema_trend", candles, bot={"name": "another name"}).counted().trials == 7  # type: ignore[misc]
    assert at.backtest("ema_trend", candles).counted().trials == 7  # type: ignore[misc]  # a name changes nothing
    with opened(desk) as store:
        assert {(each.kind, each.strategy) for each in studies(store)} == {("backtest", "ema_trend")}


def test_the_command_line_and_the_notebook_count_the_same_thing_once(desk: Path) -> None:
    candles, settings = sample(), settings_of(desk)
    bot = settings.sub_bots[0].model_copy(update={"dynamic_sizing": settings.sub_bots[0].dynamic_sizing})
    until_ms = int(candles.open_ms[-1]) + candles.bar_ms
    keys = bot.model_dump(exclude_unset=True)
    with opened(desk) as store:
        shown = backtest_bot(bot, store, settings.backtest, since_ms=int(candles.open_ms[0]), until_ms=until_ms)
        assert shown.counted is not None and shown.counted().trials == 1
        costs = settings.backtest.model_dump()
        here = at.backtest(make(bot.decision.strategy, bot.strategy_params.own), candles, bot=keys, costs=costs)
        assert here.counted is not None and here.counted().trials == 1
        (study,) = studies(store)
    assert (study.trials, study.venue, study.symbol) == (1, "sample", "EURUSD")


def test_without_a_desk_the_result_says_that_nobody_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = at.backtest("ema_trend", sample())
    assert result.counted is None
    assert result.uncounted == f"there is no config.toml in {tmp_path}: `autotrader init` makes a desk that counts"
    write_template(tmp_path, kind="sample")
    assert "autotrader db upgrade" in at.backtest("ema_trend", sample()).uncounted
    assert list(tmp_path.glob("*.db")) == []


def test_a_desk_elsewhere_can_be_named(desk: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    write_template(other, kind="sample")
    upgrade(settings_of(other).database_url, folder=other)
    result = at.backtest("ema_trend", sample(), config=other / "config.toml")
    assert result.counted is not None and result.counted().trials == 1
    assert tried(desk).trials == 0
    close(ledger_of(other / "config.toml"))


def test_luck_weighs_more_the_more_was_tried(desk: Path) -> None:
    from autotrader.engine.metrics import daily_returns
    from autotrader.validation.overfit import deflated_sharpe, track_of

    candles = at.load("EURUSD", venue="sample")
    first = at.backtest(EmaTrend(fast=5, slow=40), candles)
    assert first.counted is not None
    track = track_of(daily_returns(first.run, first.part.wallet_e8))

    def believed() -> float:
        seen = first.counted()  # type: ignore[misc]
        return deflated_sharpe(track, trials=seen.independent, trials_std_per_period=seen.std_per_day(track.periods))

    alone = believed()
    for slow in range(41, 81):
        at.backtest(EmaTrend(fast=slow // 4, slow=slow), candles)
    assert believed() < alone
    assert first.counted().trials == 41 and 2 < first.counted().independent < 41


# --- what makes an own idea the same


def from_source(source: str) -> list[str]:
    "Codes of the strategies in a source, from a process of its own."
    code = f"{source}\nfrom autotrader.search.book import code_of\nprint(code_of(strategy), code_of(judge))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_an_idea_is_the_same_in_every_process_and_whatever_its_comments() -> None:
    known = from_source(IDEA)
    assert len(set(known)) == 2
    assert from_source(IDEA.replace("  # a helper", "\n\n    # no helper")) == known


def test_whatever_changes_an_idea_makes_another_one() -> None:
    space: dict[str, dict[str, object]] = {}
    changes = {
        "itself": ("", ""),
        "a constant": ("* 1e4", "* 1e3"),
        "a helper": ("np.diff(close)", "-np.diff(close)"),
        "a global": ("[1.0, 2.0]", "[1.5, 2.0]"),
        "a set": ("2.5}", "3.5}"),
        "an operator": ("drift > level", "drift >= level"),
        "a default": ("level=0.5", "level=0.6"),
    }
    for name, (old, new) in changes.items():
        space[name] = {"__name__": "__main__"}
        exec(IDEA.replace(old, new), space[name])
    codes = {name: code_of(found["strategy"]) for name, found in space.items()}  # type: ignore[arg-type]
    assert len(set(codes.values())) == len(changes)
    judge = space["itself"]["Judge"]
    judges = [code_of(judge(weight)) for weight in (2.0, 2.0, 3.0)]  # type: ignore[operator]
    assert judges[0] == judges[1] != judges[2]


def test_what_a_closure_holds_is_part_of_the_idea() -> None:
    def idea(held: object) -> str:
        return code_of(own(lambda bars: held, warmup=0))  # type: ignore[arg-type,return-value]

    array = np.arange(5.0)
    assert idea(array) == idea(array.copy()) != idea(array + 1)
    assert idea(np.sin) == idea(np.sin) != idea(np.cos)
    assert idea({"a": 1, "b": 2}) == idea({"b": 2, "a": 1}) != idea({"a": 1, "b": 3})
    endless: list[object] = [1]
    endless.append(endless)
    assert idea(endless) != idea([1])


def test_a_template_is_its_parameters_and_nothing_else() -> None:
    candles = sample()
    result = at.backtest(EmaTrend(fast=5), candles)
    told = configuration(result.part.settings, EmaTrend(fast=5), result.part.assumed)
    assert told == {"sizing": "equity_frac", **EmaTrend(fast=5).params}


def test_writing_into_candles_makes_other_data() -> None:
    from autotrader.search.task import as_market

    candles = at.load("EURUSD", venue="sample")[:500]
    own_close = Candles(
        **{**{n: getattr(candles, n) for n in candles.__dataclass_fields__}, "close": candles.close.copy()}
    )
    market = as_market(own_close, None, None)
    before = fingerprint(market)
    own_close.close[[7, 8]] = own_close.close[[8, 7]]
    assert fingerprint(market) != before
    own_close.close[[7, 8]] = own_close.close[[8, 7]]
    assert fingerprint(market) == before


# --- processes end


ENDING = """
import json, os, sys, time
import autotrader as at
from autotrader.strategy.templates import EmaTrend

candles = at.load("EURUSD", venue="sample")[:1500]
begun = {}
for how in ("return", "raise", "wait"):  # a process each, forked from one that has counted nothing
    begun[how] = os.fork()
    if not begun[how]:
        break
else:
    print(json.dumps(begun), flush=True)
    codes = {how: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for how, pid in begun.items()}
    print(json.dumps(codes), flush=True)
    sys.exit()
os.chdir(how)
for fast in range(3, 33):
    at.backtest(EmaTrend(fast=fast, slow=60), candles)
open("done", "w").close()
if how == "wait":
    time.sleep(30)
if how == "raise":
    raise SystemError("the notebook's kernel has a bad day")
"""


def test_a_process_that_ends_writes_what_it_counted_and_one_that_is_killed_loses_its_last_moment_only(
    desk: Path,
) -> None:
    for how in ("return", "raise", "wait"):
        (desk / how).mkdir()
        for file in (desk / "config.toml", desk / "data"):
            (shutil.copytree if file.is_dir() else shutil.copy)(file, desk / how / file.name)
    with subprocess.Popen([sys.executable, "-c", ENDING], cwd=desk, stdout=PIPE, stderr=PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        begun = json.loads(process.stdout.readline())
        until = time.monotonic() + 120
        while not (desk / "wait" / "done").exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(3.0)
        os.kill(begun["wait"], signal.SIGKILL)
        assert json.loads(process.stdout.readline()) == {"return": 0, "raise": 1, "wait": -signal.SIGKILL}
        assert "SystemError: the notebook's kernel has a bad day" in process.stderr.read()
    assert {how: tried(desk / how).trials for how in begun} == {"return": 30, "raise": 30, "wait": 30}


WORKERS = """
import multiprocessing
import autotrader as at
from autotrader.strategy.templates import EmaTrend

def work(first):
    candles = at.load("EURUSD", venue="sample")[:1500]
    for fast in range(first, first + 5):
        at.backtest(EmaTrend(fast=fast, slow=60), candles)

if __name__ == "__main__":
    work(3)
    for method, firsts in (("fork", (3, 8)), ("spawn", (13,))):
        workers = [multiprocessing.get_context(method).Process(target=work, args=(first,)) for first in firsts]
        [worker.start() for worker in workers]
        [worker.join() for worker in workers]
"""


def test_worker_processes_write_what_they_counted_forked_and_spawned(desk: Path) -> None:
    script = desk / "workers.py"
    script.write_text(WORKERS)
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert tried(desk).trials == 15


def test_a_database_that_is_away_stops_nobody_and_loses_nothing(desk: Path) -> None:
    with opened(desk) as store:
        # the only one: with another open, SQLite leaves the newest rows in a file beside this one, which stays behind
        file = Path(str(store.url.database))
        ledger = TrialLedger(store)
        study_and_trial = counted_parts()
        ledger.count(*study_and_trial[0])
        assert ledger.counted(venue="sample", symbol="EURUSD").trials == 1
        store.close()
        shutil.move(file, file.with_suffix(".away"))
        for each in study_and_trial[1:]:
            ledger.count(*each)
        with pytest.raises(StoreError):
            ledger.counted(venue="sample", symbol="EURUSD")
        store.close()
        file.unlink(missing_ok=True)
        shutil.move(file.with_suffix(".away"), file)
        assert ledger.counted(venue="sample", symbol="EURUSD").trials == 3


def counted_parts() -> list[tuple[Study, Trial]]:
    from autotrader.search.identity import study_of, trial_of
    from autotrader.search.task import as_market

    candles = sample()
    study = study_of("ema_trend", as_market(candles, None, None), kind="backtest")
    parts = []
    for fast in (4, 5, 6):
        strategy = EmaTrend(fast=fast)
        result = at.backtest(strategy, candles, config="nowhere.toml")
        parts.append((study, trial_of(result.part, result.run, strategy)))
    return parts
