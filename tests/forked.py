"""Commands and notebooks in a process of their own each, forked from one that has done the imports: a real exit code without seconds of start."""

import atexit
import gc
import hashlib
import importlib
import json
import os
import pkgutil
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from subprocess import PIPE, CompletedProcess, Popen
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {folder.name[3:]: folder.name for folder in sorted((ROOT / "nbs").glob("[0-9][0-9]_*/"))}


def command(*words: object, cwd: Path, env: Mapping[str, str]) -> CompletedProcess[str]:
    "`autotrader` with these words, as if started in this folder with this environment."
    return _ask({"words": [str(word) for word in words], "cwd": str(cwd), "env": dict(env)})


def notebook(path: Path) -> CompletedProcess[str]:
    "The lessons of a notebook; exit code 1 where one does not hold."
    return _ask({"notebook": str(path)})


def _ask(work: dict[str, Any]) -> CompletedProcess[str]:
    parent = _parent()
    assert parent.stdin and parent.stdout
    print(json.dumps(work), file=parent.stdin, flush=True)
    return CompletedProcess(**json.loads(parent.stdout.readline()))


@cache
def _parent() -> "Popen[str]":
    "One for the tests of a process; it ends when its standard input does."
    environment = {**os.environ, "AUTOTRADER_OFFLINE": "1"}
    return Popen([sys.executable, __file__], cwd=ROOT, env=environment, text=True, stdin=PIPE, stdout=PIPE)


# the other side


def load(floor: str) -> None:
    "Import the modules of a floor: packages are found and kernels read once."
    package = importlib.import_module(f"autotrader.{floor}")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)


def keep_kernels_apart(path: Path) -> None:
    "Have numba keep what this page compiles for this page as it stands: by itself it looks at a kernel's own lines, and not at what it calls."
    import IPython.paths

    from autotrader.engine import cache_home, source_hash

    digest = hashlib.sha256(source_hash().encode() + path.read_bytes()).hexdigest()[:16]
    IPython.paths.get_ipython_cache_dir = lambda: str(cache_home() / "pages" / digest)  # type: ignore[assignment]


def play(path: Path) -> int:
    "A notebook as `nbdev_test` plays it."
    from nbdev.config import get_config
    from nbdev.test import test_nb

    keep_kernels_apart(path)
    holds, _ = test_nb(path, skip_flags=get_config(path=ROOT).tst_flags.split(), basepath=ROOT)
    return 0 if holds else 1


def run(words: list[str], cwd: str, env: dict[str, str]) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["autotrader", *words]
    importlib.import_module("autotrader.cli.main").main()


def prepared(work: dict[str, Any]) -> Callable[[], int | None]:
    "What the child is to do, its imports done."
    if "notebook" not in work:
        for floor in FLOORS:
            if floor != "dashboard":  # pages are another command's
                load(floor)
        return lambda: run(**work)
    import nbdev.test  # noqa: F401  and all that lessons stand on

    path = Path(work["notebook"])
    for floor, folder in FLOORS.items():
        if folder <= path.parent.name:
            load(floor)
    return lambda: play(path)


def end(do: Callable[[], int | None]) -> NoReturn:
    "Do it and end as Python does, but leave the taking down of a thousand modules to the kernel."
    try:
        sys.exit(do())
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
        if isinstance(exit.code, str):
            print(exit.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def done(do: Callable[[], int | None]) -> dict[str, Any]:
    "Fork, wait, and tell how it ended."
    gc.freeze()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        if (child := os.fork()) == 0:
            for number, file in enumerate((os.open(os.devnull, os.O_RDONLY), out.fileno(), err.fileno())):
                os.dup2(file, number)
            end(do)
        _, status = os.waitpid(child, 0)
        out.seek(0)
        err.seek(0)
        told = {"stdout": out.read().decode(errors="replace"), "stderr": err.read().decode(errors="replace")}
        return {"args": [], "returncode": os.waitstatus_to_exitcode(status), **told}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(done(prepared(json.loads(line)))), flush=True)
