"""Nothing is reachable without the password, from a foreign page, or from an address that is not allowed."""

import base64
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import Any

from starlette.routing import Mount
from starlette.testclient import TestClient
from visited import BASIC, CANARIES, PASSWORD, Desk
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from autotrader.core.clock import SimulatedClock
from autotrader.dashboard.auth import Guard, make_login
from autotrader.dashboard.reads import commands_of

WRONG = "Basic " + base64.b64encode(b"admin:not the password").decode()


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()


def ask(
    desk: Desk, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, Any, bytes]:
    "Status, headers and body of an answer, over a real connection."
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(desk.url + path, method=method, data=body, headers=named)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def every_path(desk: Desk) -> list[tuple[str, str]]:
    "Method and path of every route there is, and one file of every mounted folder."
    found = [
        ("GET", "/docs"),
        ("GET", "/redoc"),
        ("GET", "/no/such/page"),
        ("OPTIONS", "/"),
        ("HEAD", "/"),
        ("TRACE", "/api/health"),
    ]
    for route in walk(desk.guard.app.routes):
        if isinstance(route, Mount):
            folder = Path(route.app.directory)
            file = next(path for path in sorted(folder.rglob("*")) if path.is_file())
            found.append(("GET", f"{route.path}/{file.relative_to(folder)}"))
        elif methods := getattr(route, "methods", None):
            path = re.sub(r"{command}", "stop", route.path)
            found += [(method, re.sub(r"{[^}]*}", "1", path)) for method in methods]
    return found


def walk(routes: Any) -> Any:
    "Routes, also those inside included routers."
    for route in routes:
        inner = getattr(getattr(route, "original_router", None), "routes", None)
        yield from walk(inner) if inner else [route]


def test_every_page_answer_and_file_wants_the_password(desk: Desk) -> None:
    paths = every_path(desk)
    assert {"/", "/api/trades", "/api/control/stop", "/openapi.json", "/favicon.ico"} <= {path for _, path in paths}
    assert sum(path.startswith("/static") for _, path in paths) >= 2 and len(paths) > 20
    for method, path in paths:
        for headers in (
            {},
            {"authorization": WRONG},
            {"authorization": "Bearer x"},
            {"cookie": "autotrader_page=9999999999999.00"},
        ):
            status, answered, _ = ask(desk, path, method=method, **headers)
            assert status == 401, (method, path, headers)
            assert answered["www-authenticate"].startswith("Basic")


def test_with_the_password_pages_files_and_answers_come(desk: Desk) -> None:
    for method, path in every_path(desk):
        if method == "GET" and "control" not in path and "components" not in path:
            assert ask(desk, path, authorization=BASIC)[0] in (200, 404, 422), path
    for path in ("/", "/favicon.ico", "/openapi.json", "/api/health", "/static/js/bokeh.min.js"):
        assert ask(desk, path, authorization=BASIC)[0] == 200


def socket_status(desk: Desk, token: str, headers: dict[str, str]) -> int:
    "What a websocket handshake is answered with."
    address, spoken = desk.url.replace("http", "ws") + "/ws", [Subprotocol("bokeh"), Subprotocol(token)]
    try:
        with connect(address, additional_headers=headers, subprotocols=spoken, open_timeout=10):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def test_a_websocket_wants_the_password_and_our_own_page(desk: Desk) -> None:
    own = {"Origin": desk.url}
    page = ask(desk, "/", authorization=BASIC)[1]["set-cookie"]
    assert "HttpOnly" in page and "SameSite=Strict" in page
    cookie = page.partition(";")[0]
    token = re.search(r'"token":"([^"]+)"', ask(desk, "/", authorization=BASIC)[2].decode())
    assert token
    for refused in (
        own,
        {**own, "Authorization": WRONG},
        {**own, "Cookie": "autotrader_page=9999999999999.00"},
        {**own, "Cookie": cookie[:-1]},
        {"Origin": "http://evil.example", "Authorization": BASIC},
        {"Origin": "null", "Authorization": BASIC},
        {"Origin": "http://evil.example", "Cookie": cookie},
        {"Origin": desk.url + ".evil.example", "Authorization": BASIC},
    ):
        assert socket_status(desk, token[1], refused) == 403, refused
    assert socket_status(desk, token[1], {**own, "Authorization": BASIC}) == 101
    assert socket_status(desk, token[1], {**own, "Cookie": cookie}) == 101


def test_a_command_from_a_foreign_page_is_refused_and_not_queued(desk: Desk) -> None:
    desk.beat()
    before = len(commands_of(desk.store))
    for headers in ({"origin": "http://evil.example"}, {"origin": "null"}, {"sec_fetch_site": "cross-site"}):
        status, _, _ = ask(desk, "/api/control/flatten", method="POST", body=b"", authorization=BASIC, **headers)
        assert status == 403
    assert len(commands_of(desk.store)) == before
    status, _, body = ask(desk, "/api/control/flatten", method="POST", body=b"", authorization=BASIC, origin=desk.url)
    assert status == 202 and json.loads(body)["state"] == "waiting"
    assert commands_of(desk.store)[0].who == "admin (API)"


def test_a_silent_runner_gets_no_commands(desk: Desk) -> None:
    desk.fall_silent()
    before = len(commands_of(desk.store))
    status, _, body = ask(desk, "/api/control/resume", method="POST", body=b"", authorization=BASIC)
    assert status == 503 and b"silent for 6" in body and len(commands_of(desk.store)) == before
    assert json.loads(ask(desk, "/api/health", authorization=BASIC)[2])["status"] == "runner silent"


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def test_an_address_that_is_not_allowed_is_refused_even_with_the_password() -> None:
    guard = Guard(
        hello, login=make_login("admin", PASSWORD), allowed_ips=["10.1.0.0/16", "::1"], clock=SimulatedClock()
    )
    for address, status in {
        "10.1.2.3": 200,
        "::1": 200,
        "::ffff:10.1.2.3": 200,
        "10.2.0.1": 403,
        "127.0.0.1": 403,
        "unix": 403,
    }.items():
        answer = TestClient(guard, client=(address, 1)).get("/", headers={"authorization": BASIC})
        assert answer.status_code == status, address


def test_a_proxy_may_not_lend_an_outsider_an_allowed_address(desk: Desk) -> None:
    assert ask(desk, "/api/health", authorization=BASIC, x_forwarded_for="203.0.113.9")[0] == 403


def test_guessing_ends_after_ten_tries_and_begins_again_after_a_while() -> None:
    clock = SimulatedClock()
    guard = Guard(hello, login=make_login("admin", PASSWORD), allowed_ips=["127.0.0.1", "10.0.0.1"], clock=clock)
    attacker, owner = (TestClient(guard, client=(address, 1)) for address in ("10.0.0.1", "127.0.0.1"))
    for _ in range(30):  # a browser that keeps sending the same mistake
        assert "retry-after" not in owner.get("/", headers={"authorization": WRONG}).headers
    for i in range(10):
        assert attacker.get("/", headers={"authorization": basic(f"guess {i}")}).status_code == 401
    late = attacker.get("/", headers={"authorization": basic(PASSWORD)})
    assert (late.status_code, late.headers["retry-after"]) == (401, "600")
    assert owner.get("/", headers={"authorization": basic(PASSWORD)}).status_code == 200
    clock.advance_to(600_000)
    assert attacker.get("/", headers={"authorization": basic("guess 11")}).status_code == 401
    assert "retry-after" not in attacker.get("/", headers={"authorization": basic("guess 12")}).headers


def unpacked(token: str) -> str:
    "What a session's token says, in clear."
    session = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))
    packed = session.get("__bk__zlib_")
    extra = zlib.decompress(base64.urlsafe_b64decode(packed + "==")).decode() if packed else ""
    return json.dumps(session) + extra


def test_no_secret_is_in_a_page_an_answer_or_a_session(desk: Desk) -> None:
    (desk.settings.folder / "data" / "dashboard.password").write_text("scrypt 00 00")
    page = ask(desk, "/", authorization=BASIC, cookie="theme=canary-cookie")[2].decode()
    token = re.search(r'"token":"([^"]+)"', page)
    assert token
    texts = [page, unpacked(token[1])]
    texts += [
        ask(desk, path, authorization=BASIC)[2].decode()
        for path in ("/api/health", "/api/bots", "/api/logs", "/openapi.json")
    ]
    hidden = [*CANARIES.values(), PASSWORD, BASIC.split()[1], "canary-cookie", desk.guard.login.digest.hex()]
    assert not [(secret, text[:80]) for secret in hidden for text in texts if secret in text]
    assert desk.settings.secrets.values()  # there was something to hide
    for path in (
        "/api/logs/..%2Fconfig",
        "/static/..%2f..%2fconfig.toml",
        "/static/%2e%2e/%2e%2e/data/dashboard.password",
    ):
        assert ask(desk, path, authorization=BASIC)[0] in (404, 422)


def test_the_command_shows_the_first_password_once_and_keeps_only_its_digest(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(desk.settings.path.read_text())
    environment = {name: value for name, value in os.environ.items() if name != "AUTOTRADER_DASHBOARD_PASSWORD"}
    environment["AUTOTRADER__DASHBOARD__PORT"] = desk.url.rpartition(":")[2]  # taken, so that the command ends
    command = [str(Path(sys.executable).with_name("autotrader")), "dashboard"]
    first, second = (
        subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        for _ in range(2)
    )
    shown = re.search(r"password of admin: (\S{12,})", first.stdout)
    assert shown and first.returncode == second.returncode == 2
    assert "cannot be used (Address already in use)" in first.stderr and len(first.stderr.splitlines()) == 1
    assert "password" not in second.stdout
    kept = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(shown[1].encode() in content for content in kept)
    assert (tmp_path / "data" / "dashboard.password").stat().st_mode & 0o777 == 0o600
