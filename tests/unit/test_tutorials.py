"""The tutorials run as a newcomer runs them: a fresh kernel, an empty folder, no connection."""

import re
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = sorted((ROOT / "nbs" / "tutorials").glob("*.ipynb"))
SECONDS = 60


def shown(notebook: nbformat.NotebookNode) -> str:
    "Everything the cells printed or displayed."
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(output.get("text", "") + "".join(output.get("data", {}).values()) for output in outputs)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    notebook = nbformat.read(ROOT / "nbs" / "tutorials" / "10_first_backtest.ipynb", as_version=4)
    folder = tmp_path_factory.mktemp("newcomer")
    begin = time.monotonic()
    client = NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": folder}})
    client.execute()
    notebook.metadata["seconds"] = time.monotonic() - begin
    assert list(folder.iterdir()) == [], "a tutorial leaves nothing behind"
    return notebook


def test_the_first_backtest_runs_in_a_minute_without_a_connection(played: nbformat.NotebookNode) -> None:
    assert played.metadata["seconds"] < SECONDS


def test_the_first_backtest_shows_verdicts_pictures_and_the_remedy(played: nbformat.NotebookNode) -> None:
    text = shown(played)
    assert len(re.findall(r"<b>\w+ on EURUSD (earned|lost) ", text)) == 4
    assert text.count("One backtest is one draw: nothing here says it is not luck.") == 4
    assert text.count('<svg xmlns="http://www.w3.org/2000/svg" class="at-plot"') == 4
    assert "did you mean" in text


def test_the_first_backtest_is_quiet(played: nbformat.NotebookNode) -> None:
    outputs = [output for cell in played.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []


def test_a_figure_in_a_notebook_brings_its_scripts_along(played: nbformat.NotebookNode) -> None:
    frames = re.findall(r"<iframe.*?</iframe>", shown(played), re.S)
    assert len(frames) == 1
    assert len(frames[0]) > 500_000, "the scripts are inside"
    assert not re.search(r"&lt;(script|link|img)[^&]*(src|href)=", frames[0])


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.name)
def test_a_tutorial_is_a_lesson_and_not_a_module(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert notebook.cells[0].source.startswith("# ")
    assert not any(re.search(r"^#\s*\|", cell.source, re.M) for cell in code), "nothing is exported"
    assert not any(cell.outputs for cell in code), "outputs are made by whoever runs it"
