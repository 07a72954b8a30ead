"""The dashboard of a rehearsed desk on a port of its own, and a browser to look at it.

`desk` is shared by all tests of this folder and lives as long as they do: a test that changes the runner's heartbeat (`desk.beat`, `desk.fall_silent`)
says so at its beginning. Its address is http://127.0.0.1:PORT: the guard answers under our own names only, never under "testserver".
What a page needs to know of its visitor: `autotrader.dashboard.auth.visitor.get()` is "admin@127.0.0.1" while a session is made (in `visit`, not in a
callback of a later second, which runs on another thread): the audit wants it as `who` of a command.
"""

import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from autotrader.core.clock import SystemClock
from autotrader.dashboard.auth import make_login

sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("visited")

from visited import PASSWORD, Desk, filled, until  # noqa: E402  lies beside this file


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    from autotrader.dashboard.app import create_app  # takes seconds, and the API's tests do without

    settings, store = filled(tmp_path_factory.mktemp("desk"))
    guard = create_app(settings, store, login=make_login("admin", PASSWORD), clock=SystemClock())
    server = uvicorn.Server(
        uvicorn.Config(guard, port=0, log_config=None, log_level="warning", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Desk(settings, store, guard, f"http://127.0.0.1:{port}")
    server.should_exit = True
    thread.join(10)
    store.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    "Chromium; without one these tests are skipped, on the build server they fail."
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        message = "no chromium on the path: install it to test the pages"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        chromium = playwright.chromium.launch(executable_path=found, args=flags)
        yield chromium
        chromium.close()
