"""A page is one notebook: nothing else is edited, and it stands in the navigation."""

import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import autotrader.dashboard
from autotrader.config.settings import parse, template
from autotrader.core.clock import SystemClock
from autotrader.dashboard import registry
from autotrader.dashboard.view import DeskView
from autotrader.status.performance import Tally
from autotrader.store.database import open_store

PAGE = """#| export
from autotrader.dashboard.registry import register
from autotrader.dashboard.view import DeskView, ask_bots
from autotrader.dashboard.widgets import piece, put


@register(path="names", title="Names", icon="M0 0h24v24H0z", order=15)
class NamesPage:
    "Who is here."

    def __init__(self, view: DeskView) -> None:
        self.view, self.body = view, piece()

    def refresh(self) -> None:
        put(self.body, ", ".join(bot.id for bot in ask_bots(self.view)))
"""


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    "A page that somebody writes: a notebook in a folder that the package looks into."
    from nbdev.export import nb_export

    notebook, package = tmp_path / "60_page_names.ipynb", tmp_path / "dashboard"
    package.mkdir()
    (package / "__init__.py").write_text("")
    title = new_markdown_cell("# Names\n\n> Who is here.")
    nbformat.write(
        new_notebook(cells=[title, new_code_cell("#| default_exp dashboard.page_names"), new_code_cell(PAGE)]), notebook
    )
    nb_export(notebook, lib_path=tmp_path)
    monkeypatch.setattr(autotrader.dashboard, "__path__", [*autotrader.dashboard.__path__, str(package)])
    yield package / "page_names.py"
    registry._ENTRIES.pop("names", None)
    sys.modules.pop("autotrader.dashboard.page_names", None)


def test_a_notebook_that_registers_a_page_is_a_page(added: Path, tmp_path: Path) -> None:
    from autotrader.dashboard.shell import Shell

    before = [entry.path for entry in registry._ENTRIES.values()]
    assert "names" not in before and added.exists()
    settings = parse(template(), path=tmp_path / "config.toml", env={})
    with open_store(settings.database_url, folder=tmp_path, create=True) as store:
        shell = Shell(DeskView(settings, store, SystemClock(), Tally(store)))
        shell.show("names")
        assert shell.pages["names"].body.object == "sub_bot_A, sub_bot_B, sub_bot_C"
        assert [path for path in shell.entries if path in ("overview", "names", "trades")] == [
            "overview",
            "names",
            "trades",
        ]
        assert 'href="#names" aria-current=page' in shell.links.object


def test_every_notebook_of_a_page_is_registered_under_the_name_of_its_file() -> None:
    nbs = Path(__file__).resolve().parents[2] / "nbs" / "95_dashboard"
    assert [entry.path for entry in registry.pages()] == [path.stem[8:] for path in sorted(nbs.glob("*_page_*.ipynb"))]
