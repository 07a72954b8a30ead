"""`autotrader sweep` on the embedded sample: what it says, how it ends, and what is left of it after Ctrl-C and kill -9."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import forked
import pytest
from shared import run

from autotrader.config.settings import load, write_template
from autotrader.report.folder import read_manifest
from autotrader.store.database import open_store
from autotrader.validation.trials import counted

SPAN = ("--from", "2017-06-01", "--to", "2017-08-01")
SMALL = (
    "--range",
    "strategy_params.fast=5:20:5",
    "--range",
    "strategy_params.slow=15:55:20",
    "--range",
    "sl_ratio=1,2",
)
LARGE = ("--range", "fast=4:40:4", "--range", "slow=42:96:6", "--range", "sl_ratio=0.5:1.9:0.1")  # 1,500 combinations


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    write_template(tmp_path, kind="sample")
    settings = load(tmp_path / "config.toml")
    open_store(settings.database_url, folder=tmp_path, create=True).close()
    return tmp_path


def trials(desk: Path) -> int:
    settings = load(desk / "config.toml")
    with open_store(settings.database_url, folder=desk) as store:
        return counted(store, venue="sample", symbol="EURUSD").trials


def test_a_sweep_for_scripts_holds_the_backtest_of_what_it_proposes(desk: Path) -> None:
    told = run(desk, "sweep", "--bot", "sub_bot_A", *SPAN, *SMALL, "--json").told
    assert told["combinations"] == {"all": 24, "played": 20, "skipped": 4, "left": 0}
    assert told["best"]["combination"] in told["plateau"]
    assert told["holds"] is False and told["set"] == [], "this market gave it nothing, so nothing is handed on"
    changes = [word for key, value in told["best"]["parameters"].items() for word in ("--set", f"{key}={value:g}")]
    (alone,) = run(desk, "backtest", "--bot", "sub_bot_A", *SPAN, *changes, "--json").told["bots"]
    for name, value in told["best"]["stats"].items():
        assert alone[name] == value, name
    assert trials(desk) == 20  # the backtest was one of them
    assert told["luck"]["trials"] == 20
    assert told["luck"]["lookahead"] in ("checked", "not checked")
    assert told["verdict"][0].startswith("No region of 20 combinations holds: ")


def test_a_sweep_for_people_says_the_verdict_and_the_words_that_set_it(desk: Path) -> None:
    words = ("sweep", "--strategy", "donchian_breakout", "--metric", "return", "--range")
    ended = run(desk, *words, "channel=100:180:20", "--from", "2017-06-01", "--to", "2017-09-01")
    assert ended.code == 0
    assert not ended.err
    lines = ended.out.splitlines()
    assert lines[0] == "Sweep of donchian_breakout on sample EURUSD 1h, 2017-06-01 00:00 – 2017-09-01 00:00 UTC"
    assert lines[2].startswith("Best plateau of 5 combinations: channel = ")
    assert any(line.startswith("To set it: --set strategy_params.channel=") for line in lines)
    assert any("new to the ledger" in line for line in lines)
    assert max(map(len, lines[2:8])) <= 80
    assert any(line.startswith("What is proposed first, then by level") for line in lines)
    ended = run(desk, *words, "channel=20:60:10", *SPAN)
    assert (ended.code, ended.err) == (0, "") and "To set it" not in ended.out and "--set" not in ended.out
    assert ended.out.splitlines()[2].startswith("No region of 5 combinations holds: 60 % of them lose; ")


def test_a_sample_is_drawn_from_the_shell_and_its_report_shows_every_point(desk: Path) -> None:
    words = ("sweep", "--bot", "sub_bot_A", *SPAN, "--range", "fast=4:30", "--range", "slow=32:90", "--samples", "40")
    told = run(desk, *words, "--method", "latin", "--seed", "7", "--report", "--json").told
    assert told["sample"] == {"points": 40, "method": "latin_hypercube", "seed": 7, "of": 27 * 59}
    assert told["combinations"]["all"] == trials(desk) == 40
    assert told["best"]["combination"] in told["plateau"]
    assert any(
        "40 of 1,593 combinations were drawn as a Latin hypercube with seed 7." in line for line in told["verdict"]
    )
    page = Path(told["report"]).read_text()
    assert "the line is the median of each eighth" in page and "fast across, slow up" in page
    assert read_manifest(Path(told["report"]).parent).parameters["samples"] == 40
    ended = run(desk, *words, "--method", "latin", "--seed", "7")
    assert (ended.code, ended.err) == (0, "") and "0 combinations new to the ledger" in " ".join(ended.out.split())
    assert run(desk, *words, "--method", "random", "--json").told["sample"]["method"] == "random"


def test_who_proposes_is_said_on_the_command_line_or_in_the_configuration(desk: Path) -> None:
    told = run(desk, "sweep", "--bot", "sub_bot_A", *SPAN, *SMALL, "--selector", "best", "--json").told
    assert (told["selector"], told["best"]) == ("best", told["peak"])
    assert told["verdict"][0].startswith("Single best of 20 combinations: fast = ")
    (desk / "config.toml").write_text((desk / "config.toml").read_text().replace('selector = "plateau"', 'selector = "best"'))  # fmt: skip
    assert run(desk, "sweep", "--bot", "sub_bot_A", *SPAN, *SMALL, "--json").told["selector"] == "best"
    ended = run(desk, "sweep", "--bot", "sub_bot_A", *SPAN, *SMALL, "--selector", "peak")
    assert (ended.code, ended.out) == (2, "") and "selector 'peak' is unknown: " in ended.err


def test_without_ranges_those_of_the_monthly_tuning_are_looked_through(desk: Path) -> None:
    told = run(desk, "sweep", "--bot", "sub_bot_A", *SPAN, "--json").told
    assert list(told["ranges"]) == ["strategy_params.sl_ratio"]
    assert told["ranges"]["strategy_params.sl_ratio"][:3] == [0.5, 0.6, 0.7]
    ended = run(desk, "sweep", "--bot", "sub_bot_B", *SPAN)
    assert ended.code == 2
    assert "nothing is varied: add --range" in ended.err


def test_a_report_is_one_file_with_the_heat_map_and_the_whole_backtest(desk: Path) -> None:
    told = run(desk, "sweep", "--bot", "sub_bot_A", *SPAN, *SMALL, "--report", "--json").told
    page = Path(told["report"])
    assert page.relative_to(desk).parts[:2] == ("reports", "sweep")
    text = page.read_text()
    assert text.index("<h1>") < text.index("No region of 20 combinations") < text.index("what came nearest: fast = ")
    assert text.count("<svg") > 3
    for outside in ("http://", "https://", "<script src", "@import"):
        assert outside not in text.replace("http://www.w3.org/2000/svg", "")


def test_a_report_says_how_much_is_luck_once_and_names_no_folder(desk: Path) -> None:
    page = Path(run(desk, "sweep", "--bot", "sub_bot_A", *SPAN, *SMALL, "--report", "--json").told["report"])
    text = page.read_text()
    assert text.count('class="luck"') == 1 and "runs with random entries" in text
    assert str(desk) not in text


def test_a_report_lies_in_a_folder_of_its_own_with_its_manifest_or_not_at_all(desk: Path) -> None:
    told = run(desk, "sweep", "--bot", "sub_bot_A", *SPAN, *SMALL, "--report", "--json").told
    page = Path(told["report"])
    assert sorted(file.name for file in page.parent.iterdir()) == ["manifest.json", "report.html"]
    assert list(page.parent.parent.iterdir()) == [page.parent]
    manifest = read_manifest(page.parent)
    assert (manifest.job, manifest.state) == ("sweep", "done")
    assert manifest.files == {"report.html": hashlib.sha256(page.read_bytes()).hexdigest()}
    assert manifest.results is not None and manifest.results["best"] == told["best"]
    assert manifest.parameters["range"] == [*SMALL[1::2]] and manifest.data[0]["bot"] == "sub_bot_A"
    shutil.rmtree(desk / "reports")
    (desk / "reports").write_text("a file where a folder belongs")
    ended = run(desk, "sweep", "--bot", "sub_bot_A", *SPAN, *SMALL, "--report")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1) and "the report folder" in ended.err


NOTEBOOK = """
from autotrader.engine.signals import from_rules
from autotrader.features.columns import compute
from autotrader.strategy.templates import own


def both_ways(candles, *, length=20):
    mean = compute("sma", candles, period=length)
    above = candles.close > mean
    return from_rules(long=above, short=~above, exit_long=~above, exit_short=above)


mine = own(both_ways, warmup=60)
"""


def test_a_strategy_of_a_notebook_is_played_and_varied_from_the_shell(desk: Path) -> None:
    cell = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None, "id": "a", "source": NOTEBOOK}
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (desk / "mine.ipynb").write_text(json.dumps(notebook))

    def shell(*words: str) -> Any:
        done = forked.command(*words, "--strategy", "mine.ipynb:mine", *SPAN, "--json", cwd=desk, env=os.environ)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    (bot,) = shell("backtest", "--set", "strategy_params.length=30")["bots"]
    swept = shell("sweep", "--range", "length=10,30", "--range", "sl_ratio=1,2")
    assert bot["strategy"] == "both_ways" and bot["trades"] > 10
    assert swept["combinations"]["played"] == 4
    like = {each["combination"]: each for each in swept["top"]}
    (same,) = [
        each
        for each in like.values()
        if each["parameters"]["strategy_params.length"] == 30 and each["stats"]["pnl"] == bot["pnl"]
    ]
    assert same["stats"]["trades"] == bot["trades"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--bot", "sub_bot_A", "--range", "fast=1:9:1"), "ema_trend.fast must lie between 2 and 200, was 1"),
        (("--bot", "sub_bot_A", "--range", "fast=9:1:1"), "--range fast: the end 1 lies below the start 9"),
        (("--bot", "sub_bot_A", "--range", "fast"), "--range 'fast' is not KEY=START:END:STEP"),
        (("--bot", "sub_bot_A", "--range", "fast=50,60", "--range", "slow=20,30"), "none of the 4 combinations can be"),
        (("--bot", "sub_bot_A", "--range", "max_leverage=2:9:1"), "must not be above risk.max_leverage (5)"),
        (("--bot", "sub_bot_A", "--range", "symbol=BTCUSDT"), "symbol says what is played, not how"),
        (("--bot", "sub_bot_A", "--range", "fast=5,9", "--metric", "luck"), "metric 'luck' is unknown"),
        (("--bot", "nobody", "--range", "fast=5,9"), "there is no bot 'nobody'"),
        (("--range", "fast=5,9"), "one bot at a time: name it with --bot"),
        (("--bot", "sub_bot_A", "--strategy", "ema_trend", "--range", "fast=5,9"), "exclude each other"),
        (("--bot", "sub_bot_A", "--range", "fast=5,9", "--from", "2030-01-01", "--to", "2030-02-01"), "no bars"),
        (("--bot", "sub_bot_A", "--range", "fast=5,9", "--from", "2030-01-01", "--selector", "bets"), "selector 'bets' is unknown"),
        (("--bot", "sub_bot_A", "--range", "fast=5:60", "--samples", "0"), "--samples must be a whole number above 0, was 0"),
        (("--bot", "sub_bot_A", "--range", "fast=5:60", "--samples", "57"), "--samples 57 are more than the 56 combinations"),
        (("--bot", "sub_bot_A", "--range", "fast=5:", "--samples", "20"), "--range fast: '5:' has no bounds"),
        (("--bot", "sub_bot_A", "--range", "fast=5:60", "--samples", "20", "--method", "grid"), "method 'grid' is unknown"),
        (("--bot", "sub_bot_A", "--range", "fast=5:60", "--samples", "20", "--seed", "-1"), "--seed must be a whole number"),
        (("--bot", "sub_bot_A", "--range", "fast=5:60:5", "--seed", "1"), "--seed belongs to a sample: give --samples too"),
    ],
)  # fmt: skip
def test_wrong_input_ends_with_two_and_one_line(desk: Path, words: tuple[str, ...], told: str) -> None:
    ended = run(desk, "sweep", *words)
    assert ended.code == 2
    assert told in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not ended.out
    assert not (desk / "data" / "sweeps").exists()


class Sweeping:
    "The command in a process of its own."

    def __init__(self, desk: Path) -> None:
        words = [Path(sys.executable).with_name("autotrader"), "sweep", "--bot", "sub_bot_A", *SPAN, *LARGE, "--json"]
        heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background job would not hear it
        self.process = subprocess.Popen(
            words, cwd=desk, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard
        )

    def wait_for_a_page(self, desk: Path) -> None:
        "Until something is kept."
        until = time.monotonic() + 90
        while not list((desk / "data").glob("sweeps/[!.]*.npz")):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < until
            time.sleep(0.02)


def gone_on(desk: Path) -> Any:
    "The same command again, to its end."
    return run(desk, "sweep", "--bot", "sub_bot_A", *SPAN, *LARGE, "--json").told


def test_ctrl_c_and_kill_lose_nothing_that_was_kept(desk: Path) -> None:
    stopped = Sweeping(desk)
    stopped.wait_for_a_page(desk)
    os.kill(stopped.process.pid, signal.SIGINT)
    out, err = stopped.process.communicate(timeout=60)
    assert stopped.process.returncode == 1, err
    first = json.loads(out)["combinations"]
    assert 500 <= first["played"] == 1_500 - first["left"] < 1_500
    assert trials(desk) == first["played"]
    assert any("the same sweep again goes on from here" in line for line in json.loads(out)["verdict"])

    (book,) = (desk / "data" / "sweeps").glob("[!.]*.npz")
    before, killed = book.stat().st_mtime_ns, Sweeping(desk)
    until = time.monotonic() + 90
    while book.stat().st_mtime_ns == before:
        assert killed.process.poll() is None, killed.process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
    killed.process.kill()
    killed.process.communicate()
    assert first["played"] < trials(desk) < 1_500

    told = gone_on(desk)
    assert told["combinations"] == {"all": 1_500, "played": 1_500, "skipped": 0, "left": 0}
    assert trials(desk) == 1_500
    assert not list((desk / "data" / "sweeps").glob("[!.]*.npz"))
    again = gone_on(desk)  # from the beginning, in one go
    del told["verdict"], again["verdict"]  # the ledger's newcomers
    assert told == again
