"""With AUTOTRADER_OFFLINE=1 nothing leaves this machine, whichever library tries."""

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
import requests

from autotrader.core import offline
from autotrader.core.errors import ConfigError

ON = {"AUTOTRADER_OFFLINE": "1"}


@pytest.fixture
def closed() -> Iterator[None]:
    was = offline.install({})
    offline.install(ON)
    yield
    if not was:
        offline.uninstall()


@pytest.mark.parametrize(
    "url",
    [
        "https://api.bybit.com",
        "wss://stream.bybit.com/v5",
        "api.bybit.com:443",
        "http://127.0.0.1@example.com/",
        "http://10.1.2.3",
        "http://0.0.0.0:80",
        "http://localhost.example.com",
        "nonsense",
    ],
)
def test_an_outside_address_is_refused_by_name(url: str) -> None:
    with pytest.raises(ConfigError, match="AUTOTRADER_OFFLINE") as caught:
        offline.refuse_outside(url, ON)
    assert "\n" not in str(caught.value)
    offline.refuse_outside(url, {})


@pytest.mark.parametrize("url", ["http://localhost:8000", "http://127.0.0.1:9/x", "http://[::1]:5432", "127.4.5.6:80"])
def test_this_machine_is_never_refused(url: str) -> None:
    offline.refuse_outside(url, ON)


@pytest.mark.usefixtures("closed")
def test_no_library_gets_out_by_name_or_by_address() -> None:
    with pytest.raises(ConfigError, match=r"example\.com"):
        socket.getaddrinfo("example.com", 80)
    with pytest.raises(ConfigError, match=r"192\.0\.2\.7"):
        socket.create_connection(("192.0.2.7", 80), timeout=1)
    with socket.socket() as plain, pytest.raises(ConfigError, match=r"192\.0\.2\.7"):
        plain.connect_ex(("192.0.2.7", 80))
    with pytest.raises(requests.ConnectionError, match=r"api\.bybit\.com.*AUTOTRADER_OFFLINE"):
        requests.Session().get("https://api.bybit.com/v5/market/time", timeout=1, proxies={"https": ""})


@pytest.mark.usefixtures("closed")
def test_a_local_server_and_a_unix_socket_still_answer(tmp_path_factory: pytest.TempPathFactory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("localhost", port), timeout=2):
            pass
    path = str(tmp_path_factory.mktemp("s") / "s")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(path)
        server.listen()
        client.connect(path)


def test_the_switch_holds_for_a_whole_process() -> None:
    code = (
        "import socket; from autotrader.core import offline; print(offline.install())\n"
        "try: socket.create_connection(('example.com', 80))\n"
        "except OSError as why: print(why)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ON, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[0] == "True"
    assert "'example.com' is outside this machine" in done.stdout
