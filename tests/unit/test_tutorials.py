"""The tutorials run as a newcomer runs them: a fresh kernel, an empty folder, no connection."""

import os
import re
import shutil
import time
from pathlib import Path

import forked
import nbformat
import pytest
from nbclient import NotebookClient

from autotrader.config.settings import load, write_template

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = sorted((ROOT / "nbs" / "tutorials").glob("*.ipynb"))
SECONDS = 120


def shown(notebook: nbformat.NotebookNode) -> str:
    "Everything the cells printed or displayed."
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(output.get("text", "") + "".join(output.get("data", {}).values()) for output in outputs)


def played_in(folder: Path, name: str) -> nbformat.NotebookNode:
    notebook = nbformat.read(ROOT / "nbs" / "tutorials" / name, as_version=4)
    begin = time.monotonic()
    client = NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": folder}})
    client.execute()
    notebook.metadata["seconds"] = time.monotonic() - begin
    assert list(folder.iterdir()) == [], "a tutorial leaves nothing behind"
    return notebook


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    return played_in(tmp_path_factory.mktemp("newcomer"), "10_first_backtest.ipynb")


@pytest.fixture(scope="module")
def own_strategy(tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    return played_in(tmp_path_factory.mktemp("researcher"), "20_your_own_strategy.ipynb")


@pytest.fixture(scope="module")
def portfolio(tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    return played_in(tmp_path_factory.mktemp("trader"), "25_a_portfolio_of_signals.ipynb")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    return played_in(tmp_path_factory.mktemp("learner"), "30_train_a_model.ipynb")


def test_a_model_is_trained_doubted_traded_and_kept(model: nbformat.NotebookNode) -> None:
    text = shown(model)
    assert model.metadata["seconds"] < SECONDS
    assert re.search(r"The model is (no )?better than the prior", text)
    assert "Traded on EURUSD above a threshold that earlier stretches chose" in text
    assert "leaning(lead=0.05): clean" in text and "the same state and intents byte for byte" in text
    assert "live for sample EURUSD" in text and text.count("Error: ") == 4
    cells = [cell for cell in model.cells if cell.cell_type == "code"]
    assert [out.text for cell in cells for out in cell.outputs if out.get("name") == "stderr"] == []


def test_a_rule_on_a_model_takes_twenty_lines_at_most(model: nbformat.NotebookNode) -> None:
    (rule,) = [cell.source for cell in model.cells if "def leaning" in cell.source]
    assert len(rule.splitlines()) <= 20 and "ML_UP_PROB" in rule


def test_a_portfolio_of_signals_says_what_it_holds_and_what_it_refuses(portfolio: nbformat.NotebookNode) -> None:
    text = shown(portfolio)
    assert portfolio.metadata["seconds"] < SECONDS
    assert "momentum on BTCUSDT, ETHUSDT, SOLUSDT with one purse" in text
    assert "No stops, no targets." in text and "momentum(days=10): clean" in text
    assert "the same state and intents byte for byte" in text
    assert text.count("Error: ") == 5 and "did you mean" in text
    cells = [cell for cell in portfolio.cells if cell.cell_type == "code"]
    assert [out.text for cell in cells for out in cell.outputs if out.get("name") == "stderr"] == []


def test_the_first_backtest_runs_in_two_minutes_without_a_connection(played: nbformat.NotebookNode) -> None:
    assert played.metadata["seconds"] < SECONDS


def test_the_first_backtest_shows_verdicts_pictures_and_the_remedy(played: nbformat.NotebookNode) -> None:
    text = shown(played)
    assert len(re.findall(r"<b>\w+ on EURUSD (earned|lost) ", text)) == 4
    assert text.count("One backtest is one draw: nothing here says it is not luck.") == 4
    assert (
        text.count('<svg xmlns="http://www.w3.org/2000/svg" class="at-plot"') == 8 + 2
    )  # and the still ones of the chart
    assert "did you mean" in text


def test_a_tutorial_is_quiet(played: nbformat.NotebookNode, own_strategy: nbformat.NotebookNode) -> None:
    cells = [cell for cell in (*played.cells, *own_strategy.cells) if cell.cell_type == "code"]
    assert [out.text for cell in cells for out in cell.outputs if out.get("name") == "stderr"] == []


def test_an_idea_goes_the_whole_way_in_two_minutes(own_strategy: nbformat.NotebookNode) -> None:
    text = shown(own_strategy)
    assert own_strategy.metadata["seconds"] < SECONDS
    assert "pullback(trend=200, low=35): clean" in text and "hindsight: looks ahead" in text
    assert "Luck explains it" in text and "Nothing of the promised return was kept." in text
    assert not any("nan" in verdict for verdict in re.findall(r"<b>.*?</b>", text))


def test_the_notebook_of_the_tutorial_can_be_handed_to_a_bot(tmp_path: Path) -> None:
    write_template(tmp_path, kind="sample")
    shutil.copy(ROOT / "nbs" / "tutorials" / "20_your_own_strategy.ipynb", tmp_path)
    words = ["strategy", "bot", "20_your_own_strategy.ipynb:mine", "--symbol", "EURUSD", "--venue", "sample"]
    done = forked.command(*words, cwd=tmp_path, env=os.environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert load(tmp_path / "config.toml", environ={}).sub_bots[-1].strategy_params.own == {"trend": 200, "low": 35.0}


def test_the_chart_in_a_notebook_brings_its_script_along(played: nbformat.NotebookNode) -> None:
    text = shown(played)
    assert text.count('<div class="at-chart"') == text.count("<script>") == 1
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=", text)


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.name)
def test_a_tutorial_is_a_lesson_and_not_a_module(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert notebook.cells[0].source.startswith("# ")
    assert not any(re.search(r"^#\s*\|", cell.source, re.M) for cell in code), "nothing is exported"
    assert not any(cell.outputs for cell in code), "outputs are made by whoever runs it"
