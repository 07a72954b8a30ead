"""The dashboard of a rehearsed desk on a port of its own, for a browser to look at.

`desk` is shared by all tests of this folder and lives as long as they do: a test that changes the runner's heartbeat (`desk.beat`, `desk.fall_silent`)
says so at its beginning. Its address is http://127.0.0.1:PORT: the guard answers under our own names only, never under "testserver".
What a page needs to know of its visitor: `autotrader.dashboard.auth.visitor.get()` is "admin@127.0.0.1" while a session is made (in `visit`, not in a
callback of a later second, which runs on another thread): the audit wants it as `who` of a command.
"""

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

from visited import PASSWORD, Desk, Played, copied, filled, until  # noqa: E402  lies beside this file


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    "Three bots that lived through the sample; only their heartbeats change."
    settings, store, rehearsal = filled(tmp_path_factory.mktemp("played"))
    yield Played(settings, store, rehearsal)
    store.close()


@pytest.fixture(scope="session")
def desk(played: Played, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    from autotrader.dashboard.app import create_app  # takes seconds, and the API's tests do without

    settings, store = copied(played, tmp_path_factory.mktemp("desk"))
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
