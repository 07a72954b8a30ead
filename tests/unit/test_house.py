"""The rules of the house, read from the notebooks and the package."""

import ast
import configparser
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from every import every

ROOT = Path(__file__).resolve().parents[2]
ROOMS = sorted(
    p for p in (ROOT / "nbs").rglob("*.ipynb") if re.match(r"\d\d_", p.name) and re.match(r"\d\d_|nbs", p.parent.name)
)
MODULES = sorted(
    p for p in (ROOT / "autotrader").rglob("*.py") if p.name != "_modidx.py" and "migrations" not in p.parts
)
BELOW_RUNNER = [p for p in MODULES if not {"runner", "dashboard", "cli"} & set(p.parts)]


@cache
def cells(notebook: Path, kind: str | None = None) -> list[str]:
    found: list[dict[str, Any]] = json.loads(notebook.read_text())["cells"]
    return ["".join(cell["source"]) for cell in found if kind in (None, cell["cell_type"])]


@cache
def tree_of(module: Path) -> ast.Module:
    return ast.parse(module.read_text())


def exported(notebook: Path) -> list[str]:
    return [source for source in cells(notebook, "code") if re.match(r"#\s*\|\s*export", source)]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_of(notebook: Path) -> str:
    "nbs/40_engine/10_policy.ipynb → engine.policy"
    return ".".join(part[3:] for part in notebook.relative_to(ROOT / "nbs").with_suffix("").parts)


@every("notebook", ROOMS, ids=name)
def test_a_notebook_exports_the_module_its_path_names(notebook: Path) -> None:
    named = [
        m[1] for source in cells(notebook, "code") for m in re.finditer(r"^#\s*\|\s*default_exp (\S+)", source, re.M)
    ]
    assert named == [module_of(notebook)]
    module = ROOT / "autotrader" / Path(*module_of(notebook).split(".")).with_suffix(".py")
    assert f"nbs/{notebook.relative_to(ROOT / 'nbs')}" in module.read_text(), "exported from another notebook"


def test_every_module_comes_from_a_notebook() -> None:
    notebooks = {module_of(notebook) for notebook in ROOMS}
    written = [
        ".".join(p.relative_to(ROOT / "autotrader").with_suffix("").parts)
        for p in MODULES
        if p.name != "__init__.py" or p.read_text().strip()
    ]
    assert sorted(set(written) - notebooks) == []


@every("notebook", ROOMS, ids=name)
def test_a_notebook_opens_with_its_title_and_its_purpose(notebook: Path) -> None:
    first = next(iter(cells(notebook, "markdown")))
    assert re.match(r"# \S.*\n\n> \S.*", first), "the first page wants `# Title`, then `> one line`"


@every("notebook", ROOMS, ids=name)
def test_a_notebook_is_short_and_its_cells_are_shorter(notebook: Path) -> None:
    assert len(cells(notebook)) <= 80
    assert [source for source in exported(notebook) if source.count("\n") > 60] == []


@every("notebook", ROOMS, ids=name)
def test_a_page_names_what_it_imports(notebook: Path) -> None:
    stars = [line for source in cells(notebook, "code") for line in re.findall(r"^from \S+ import \*", source, re.M)]
    assert stars == []
    assert [source for source in exported(notebook) if re.search(r"^@patch", source, re.M)] == []


@every("module", MODULES, ids=name)
def test_nothing_is_left_undone(module: Path) -> None:
    assert re.findall(r"NotImplementedError|\bTODO\b|\bFIXME\b|\bXXX\b", module.read_text()) == []


def calls(module: Path) -> set[str]:
    "Dotted names of everything called, such as `time.time` or `np.random.rand`."
    tree = tree_of(module)
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


@every("module", BELOW_RUNNER, ids=name)
def test_time_comes_from_the_clock_and_chance_from_a_seed(module: Path) -> None:
    if name(module) == "autotrader/core/clock.py":
        return
    stray = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.datetime.now", "date.today"}
    unseeded = {"np.random.default_rng", "np.random.seed", "random.random", "random.choice", "random.shuffle"}
    found = calls(module) & (stray | unseeded)
    if "np.random.default_rng" in found and "default_rng()" not in module.read_text():
        found.discard("np.random.default_rng")
    assert found == set()


LIVE = re.compile(r"(^|\s|\()(self\.|settings\.)?(is_)?live($|\s|\))|\.environment\b")


@every("module", [p for p in BELOW_RUNNER if "config" not in p.parts], ids=name)
def test_no_room_asks_whether_it_is_live(module: Path) -> None:
    tests = [ast.unparse(n.test) for n in ast.walk(tree_of(module)) if isinstance(n, ast.If | ast.IfExp)]
    assert [test for test in tests if LIVE.search(test)] == []


def test_asking_whether_it_is_live_would_be_noticed() -> None:
    asked = ["live", "not self.is_live", "settings.general.environment == 'production'", "a and live"]
    assert all(LIVE.search(test) for test in asked)
    assert not any(LIVE.search(test) for test in ("venue.live != 0", "order.status == Status.LIVE", "alive"))


def public_classes(module: Path) -> list[str]:
    found = [node.name for node in tree_of(module).body if isinstance(node, ast.ClassDef)]
    return [name for name in found if not name.startswith("_")]


def test_no_class_name_stands_for_two_things() -> None:
    count = Counter(name for module in MODULES for name in public_classes(module))
    assert [name for name, times in count.items() if times > 1] == []


NOT_SENTENCES = {"canvas.py", "html.py", "components.py", "widgets.py", "shell.py", "page_control.py"}  # style sheets
PAGES_WORDS = {
    "autotrader/report/sweep.py",
    "autotrader/report/folder.py",
}  # what to type, on a page; git's own options
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def options_named(text: str) -> list[str]:
    "Options of the command line in the texts of each statement; whole commands, which a person is to type, aside."
    tree, found = ast.parse(text), []
    for each in ast.walk(tree):
        if isinstance(each, ast.stmt) and not hasattr(each, "body"):
            parts = [n.value for n in ast.walk(each) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            found += OPTION.findall(re.sub(r"autotrader [a-z][^`:;]*", "", "{}".join(parts)))
    return found


@every("module", [p for p in MODULES if "cli" not in p.parts and p.name not in NOT_SENTENCES], ids=name)
def test_below_the_command_line_nothing_speaks_of_its_options(module: Path) -> None:
    assert name(module) in PAGES_WORDS or options_named(module.read_text()) == []


def test_an_option_in_an_error_would_be_noticed() -> None:
    assert options_named('raise ConfigError(f"{a}: --from must be before --to")') == ["--from", "--to"]
    assert options_named('x = {"gap": "--allow-gaps keeps them"}') == ["--allow-gaps"]
    assert options_named('raise DataError(f"`autotrader data download --symbol {s}` brings them")') == []


def test_every_argument_an_error_names_is_an_option_of_the_command_line() -> None:
    from typer.main import get_command

    from autotrader.cli.main import app
    from autotrader.cli.options import ARGUMENTS

    def options(command: Any) -> set[str]:
        own = {word for each in command.params for word in each.opts}
        return own.union(*(options(inner) for inner in getattr(command, "commands", {}).values()))

    assert set(ARGUMENTS.values()) - options(get_command(app)) == set()
    package = "".join(p.read_text() for p in MODULES if "cli" not in p.parts)
    assert [argument for argument in ARGUMENTS if f"`{argument}`" not in package] == []


OBSCURE = {"told", "looks", "stage", "frame", "spread", "floor", "ledger", "page"}


def test_no_module_name_hides_what_it_holds() -> None:
    assert [name(module) for module in MODULES if module.stem in OBSCURE] == []


def test_the_import_contracts_are_those_of_the_folders() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools/contracts.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_contracts_stop_a_climb_and_a_shortcut_to_the_venue() -> None:
    spec = importlib.util.spec_from_file_location("contracts", ROOT / "tools/contracts.py")
    assert spec and spec.loader
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    text = tool.render({"core": ["errors", "clock"], "exchange": ["bybit"], "jobs": ["launch"], "runner": ["app"]})
    read = configparser.ConfigParser()
    read.read_string(text)
    assert read["importlinter:contract:floors"]["layers"].split() == ["runner", "jobs", "exchange", "core"]
    assert read["importlinter:contract:core"]["layers"].split() == ["clock", "errors"]
    venue = read["importlinter:contract:venue"]
    assert venue["forbidden_modules"].split() == ["autotrader.exchange.bybit"]
    assert "autotrader.jobs.launch" in venue["source_modules"].split()
    assert "autotrader.runner.app" not in venue["source_modules"].split()


def test_the_version_is_written_once_and_told_the_same() -> None:
    import autotrader

    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini")
    assert settings["DEFAULT"]["version"] == autotrader.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "autotrader.__version__"}


@every("page", [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))], ids=name)
def test_every_link_inside_the_house_leads_somewhere(page: Path) -> None:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_names_every_floor() -> None:
    floors = {p.parent.name for p in ROOMS if p.parent.name != "nbs"}
    assert floors - set(re.findall(r"\]\(nbs/(\w+)\)", (ROOT / "README.md").read_text())) == set()


def table(page: str, *, under: str) -> list[list[str]]:
    "Rows of the first table under a heading, without its head."
    lines = (ROOT / page).read_text().partition(under)[2].splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("|---"))
    rows = takewhile(lambda line: line.startswith("|"), lines[first + 1 :])
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_glossary_is_in_order_and_every_term_lives_somewhere() -> None:
    rows = table("docs/glossary.md", under="# Glossary")
    terms = [term for term, _, _ in rows]
    assert terms == sorted(terms, key=str.casefold)
    homes = {home.strip("`") for _, _, home in rows}
    assert homes - {module_of(notebook) for notebook in ROOMS} == set()


def test_a_change_has_four_places_at_most_and_all_of_them_exist() -> None:
    rows = table("CONTRIBUTING.md", under="## Where a change goes")
    assert len(rows) == 6
    for change, *cells in rows:
        places, proofs = (re.findall(r"`(\w+/[^`]+)`", cell) for cell in cells)
        assert 1 <= len(places) <= 4 and proofs, change
        assert [path for path in places + proofs if not (ROOT / path).exists()] == [], change


TAG = re.compile(r"</?(div|span|table|t[rhdb]\w*|p|b|h\d|ul|li|a|em|small|figure|html|body|script|style|svg)\b[^<]*>?")
SAYS = {"report", "plots", "desk", "dashboard", "cli"}  # floors that show things to people
TOLD = {"print", "input", "display", "IPython.display.display", "sys.stdout.write"}
ALOUD = {
    "autotrader/jobs/__init__.py",
    "autotrader/jobs/worker.py",
    "autotrader/strategy/charts.py",
}  # a kernel's line, a job's page, a chart's frame


def markup_in(tree: ast.AST) -> list[str]:
    "Literals with HTML tags, but for those of `_repr_html_`: a thing may show itself in a notebook."
    own = {
        id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) and f.name == "_repr_html_" for n in ast.walk(f)
    }
    texts = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in own]
    return [text.value[:60] for text in texts if TAG.search(text.value)]


@every("module", [p for p in MODULES if not SAYS & set(p.parts)], ids=name)
def test_below_the_desk_nobody_prints_and_only_report_and_plots_write_markup(module: Path) -> None:
    if name(module) in ALOUD:
        return
    assert markup_in(tree_of(module)) == []
    assert calls(module) & TOLD == set()
    assert re.findall(r"^\s*(?:import|from) (typer|rich|IPython|panel)\b", module.read_text(), re.M) == []


def sentences_in(tree: ast.AST) -> list[str]:
    "Literals that end like a sentence of some words; documentation, errors and lines of a log are not for the page."

    def is_aside(node: ast.AST) -> bool:
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        return isinstance(node, ast.Raise | ast.Assert) or bool(re.search(r"(Error|log\w*\.\w+)$", called))

    aside = {id(n) for node in ast.walk(tree) if is_aside(node) for n in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            aside.add(id(node.value))
        if isinstance(node, ast.JoinedStr) and id(node) not in aside:
            aside |= {id(n) for n in ast.walk(node)} - {id(node)}
    texts = [n for n in ast.walk(tree) if id(n) not in aside and isinstance(n, ast.JoinedStr | ast.Constant)]
    plain = [
        "".join(
            part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "…"
            for part in getattr(n, "values", [n])
        )
        for n in texts
    ]
    return [text[:60] for text in plain if text.rstrip().endswith(".") and len(re.findall(r"[a-z]{2,}", text)) >= 4]


@every("module", [p for p in MODULES if not (SAYS | {"results"}) & set(p.parts)], ids=name)
def test_below_the_results_nobody_writes_sentences(module: Path) -> None:
    if name(module) not in ALOUD:
        assert sentences_in(tree_of(module)) == []


def test_sentences_below_the_results_would_be_noticed() -> None:
    assert sentences_in(ast.parse("x = f'It lost {y} of all it had.'")) and sentences_in(
        ast.parse("x = 'That is how luck looks.'")
    )
    assert not sentences_in(
        ast.parse("'A page of some few words.'\nraise DataError(f'the {x} is not there. Look elsewhere for it.')")
    )


def test_markup_below_the_desk_would_be_noticed() -> None:
    assert markup_in(ast.parse("x = f'<div>{y}</div>'")) and markup_in(ast.parse("x = '<td style=\"a\">'"))
    assert not markup_in(ast.parse("class A:\n    def _repr_html_(self): return '<b>x</b>'\nx = 'a < b'"))
