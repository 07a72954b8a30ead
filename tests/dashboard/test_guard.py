"""Nothing is reachable without the password, from a foreign page, under a foreign name, or from an address that is not allowed."""

import asyncio
import base64
import http.client
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Mount, WebSocketRoute
from starlette.testclient import TestClient
from visited import BASIC, CANARIES, PASSWORD, Desk
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from autotrader.core.clock import SimulatedClock
from autotrader.dashboard.auth import AccessGuard, make_login
from autotrader.status.events import commands_of

COMMAND = Path(sys.executable).with_name("autotrader")
LOGIN = make_login("admin", PASSWORD)


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()


WRONG = basic("not the password")


def ask(
    desk: Desk | str, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, Any, bytes]:
    "Status, headers and body of an answer, over a real connection."
    url = desk if isinstance(desk, str) else desk.url
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url + path, method=method, data=body, headers=named)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def walk(routes: Any) -> Any:
    "Routes, also those inside included routers."
    for route in routes:
        inner = getattr(getattr(route, "original_router", None), "routes", None)
        yield from walk(inner) if inner else [route]


def every_path(desk: Desk) -> list[tuple[str, str]]:
    "Method and path of every route there is, and one file of every mounted folder."
    strange = ("/docs", "/redoc", "/no/such/page", "//", "/api/../", "/%2e%2e/config.toml", "/STATIC/js/bokeh.min.js")
    found = [("GET", path) for path in strange]
    found += [("OPTIONS", "/"), ("HEAD", "/"), ("TRACE", "/api/health"), ("PROPFIND", "/"), ("DELETE", "/api/trades")]
    for route in walk(desk.guard.app.routes):
        if isinstance(route, Mount):
            folder = Path(route.app.directory)
            file = next(path for path in sorted(folder.rglob("*")) if path.is_file())
            found.append(("GET", f"{route.path}/{file.relative_to(folder)}"))
        elif methods := getattr(route, "methods", None):
            path = re.sub(r"{command}", "stop", route.path)
            found += [(method, re.sub(r"{[^}]*}", "1", path)) for method in methods]
    return found


def forged(desk: Desk) -> str:
    return f"autotrader_{desk.url.rpartition(':')[2]}=9999999999999.{'00' * 32}"


def test_every_page_answer_and_file_wants_the_password(desk: Desk) -> None:
    paths = every_path(desk)
    expected = {"/", "/api/trades", "/api/control/stop", "/api/jobs", "/openapi.json", "/favicon.ico"}
    assert expected <= {path for _, path in paths}
    assert sum(path.startswith("/static") for _, path in paths) >= 2 and len(paths) > 30
    for method, path in paths:
        for headers in ({}, {"authorization": WRONG}, {"authorization": "Bearer x"}, {"cookie": forged(desk)}):
            status, answered, body = ask(desk, path, method=method, **headers)
            assert status == 401, (method, path, headers)
            assert answered["www-authenticate"].startswith("Basic") and len(body) < 100


def test_with_the_password_pages_files_and_answers_come(desk: Desk) -> None:
    for method, path in every_path(desk):
        if method == "GET":
            assert ask(desk, path, authorization=BASIC)[0] in (200, 404, 405, 422), path
    for path in ("/", "/favicon.ico", "/openapi.json", "/api/health", "/static/js/bokeh.min.js"):
        assert ask(desk, path, authorization=BASIC)[0] == 200


def token_of(page: bytes) -> str:
    "What a page carries to open its websocket."
    found = re.search(r'"token":"([^"]+)"', page.decode())
    assert found
    return found[1]


def dial(url: str, token: str | None, headers: dict[str, str], path: str = "/ws") -> ClientConnection:
    spoken = [Subprotocol("bokeh"), Subprotocol(token)] if token else None
    return connect(url.replace("http", "ws") + path, additional_headers=headers, subprotocols=spoken, open_timeout=20)


def socket_status(url: str, token: str | None, headers: dict[str, str], path: str = "/ws") -> int:
    "What a websocket handshake is answered with."
    try:
        with dial(url, token, headers, path):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def test_a_websocket_wants_the_password_and_our_own_page(desk: Desk) -> None:
    own = {"Origin": desk.url}
    _, answered, page = ask(desk, "/", authorization=BASIC)
    assert "HttpOnly" in answered["set-cookie"] and "SameSite=Strict" in answered["set-cookie"]
    cookie, token = answered["set-cookie"].partition(";")[0], token_of(page)
    for refused in (
        own,
        {**own, "Authorization": WRONG},
        {**own, "Cookie": forged(desk)},
        {**own, "Cookie": cookie[:-1]},
        {"Origin": "http://evil.example", "Authorization": BASIC},
        {"Origin": "null", "Authorization": BASIC},
        {"Origin": "http://evil.example", "Cookie": cookie},
        {"Origin": desk.url + ".evil.example", "Authorization": BASIC},
        {"Origin": desk.url, "Authorization": BASIC, "Sec-Fetch-Site": "cross-site"},
    ):
        for path in ("/ws", "/api/health", "/no/such/page"):
            assert socket_status(desk.url, token, refused, path) == 403, (path, refused)
    assert socket_status(desk.url, token, {**own, "Authorization": BASIC}) == 101
    assert socket_status(desk.url, token, {**own, "Cookie": cookie}) == 101


def test_every_websocket_wants_the_password(desk: Desk) -> None:
    doors = [route.path for route in walk(desk.guard.app.routes) if isinstance(route, WebSocketRoute)]
    assert doors == ["/ws"]
    for path in doors:
        assert socket_status(desk.url, None, {"Origin": desk.url}, path) == 403


def test_a_session_that_another_process_signed_is_refused_without_a_traceback(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    token = token_of(ask(desk, "/", authorization=BASIC)[2])
    payload, _, signature = token.partition(".")
    strange = payload + "." + ("A" if signature[0] != "A" else "B") + signature[1:]
    friend = {"Origin": desk.url, "Authorization": BASIC}
    with caplog.at_level(logging.WARNING):
        assert [socket_status(desk.url, each, friend) for each in (strange, "x", None)] == [403] * 3
    assert [record for record in caplog.records if record.exc_info or record.name.startswith("uvicorn")] == []
    assert socket_status(desk.url, token, friend) == 101


def test_the_pass_of_a_page_opens_websockets_only(desk: Desk) -> None:
    cookie = ask(desk, "/", authorization=BASIC)[1]["set-cookie"].partition(";")[0]
    for path in ("/", "/api/trades", "/static/js/bokeh.min.js"):
        assert ask(desk, path, cookie=cookie)[0] == 401
    assert ask(desk, "/api/control/stop", method="POST", body=b"", cookie=cookie, origin=desk.url)[0] == 401


def test_a_command_from_a_foreign_page_is_refused_and_not_queued(desk: Desk) -> None:
    desk.beat()
    before = len(commands_of(desk.store))
    for headers in (
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": desk.url.replace("127.0.0.1", "localhost")},  # ours, but not the one that is asked
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ):
        status, _, _ = ask(desk, "/api/control/flatten", method="POST", body=b"", authorization=BASIC, **headers)
        assert status == 403, headers
    assert len(commands_of(desk.store)) == before
    status, _, body = ask(desk, "/api/control/flatten", method="POST", body=b"", authorization=BASIC, origin=desk.url)
    assert status == 202 and json.loads(body)["state"] == "waiting"
    assert commands_of(desk.store)[0].who == "admin@127.0.0.1"


def test_a_foreign_name_that_leads_here_is_refused(desk: Desk) -> None:
    port = desk.url.rpartition(":")[2]
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost@evil.example", ""):
        status, answered, _ = ask(desk, "/api/health", authorization=BASIC, host=host)
        assert status in (400, 403), host
        assert "set-cookie" not in answered
        assert socket_status(desk.url, None, {"Authorization": BASIC, "Host": host}) in (400, 403)
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", socket.gethostname()):
        assert ask(desk, "/api/health", authorization=BASIC, host=host)[0] == 200, host


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def guarded(*allowed_ips: str) -> tuple[AccessGuard, SimulatedClock]:
    clock = SimulatedClock()
    return AccessGuard(hello, login=LOGIN, allowed_ips=allowed_ips, clock=clock), clock


def caller(guard: AccessGuard, address: str) -> TestClient:
    return TestClient(guard, base_url="http://127.0.0.1:8000", client=(address, 1))


def test_an_address_that_is_not_allowed_is_refused_even_with_the_password() -> None:
    guard, _ = guarded("10.1.0.0/16", "::1")
    reached = {"10.1.2.3": 200, "::1": 200, "::ffff:10.1.2.3": 200}
    for address, status in (reached | {"10.2.0.1": 403, "127.0.0.1": 403, "::2": 403, "unix": 403, "": 403}).items():
        assert caller(guard, address).get("/", headers={"authorization": BASIC}).status_code == status, address


def test_a_proxy_may_not_lend_an_outsider_an_allowed_address(desk: Desk) -> None:
    assert ask(desk, "/api/health", authorization=BASIC, x_forwarded_for="203.0.113.9")[0] == 403


def test_after_ten_mistakes_an_address_waits_a_minute_for_each_further_one() -> None:
    guard, clock = guarded("127.0.0.1", "10.0.0.1")
    attacker, owner = caller(guard, "10.0.0.1"), caller(guard, "127.0.0.1")
    for _ in range(30):  # a browser that keeps sending the same mistake
        assert "retry-after" not in owner.get("/", headers={"authorization": WRONG}).headers
    for i in range(10):
        assert attacker.get("/", headers={"authorization": basic(f"guess {i}")}).status_code == 401
    late = attacker.get("/", headers={"authorization": BASIC})
    assert (late.status_code, late.headers["retry-after"]) == (401, "60")
    assert owner.get("/", headers={"authorization": BASIC}).status_code == 200
    assert attacker.get("/", headers={"authorization": BASIC}).status_code == 401  # that it is known now helps nobody
    clock.advance_to(60_000)
    assert "retry-after" not in attacker.get("/", headers={"authorization": basic("guess 11")}).headers
    assert attacker.get("/", headers={"authorization": BASIC}).headers["retry-after"] == "60"
    clock.advance_to(120_000)
    assert attacker.get("/", headers={"authorization": BASIC}).status_code == 200


@pytest.mark.parametrize("is_known", [False, True], ids=["before the owner came", "after the owner came"])
def test_guesses_that_come_all_at_once_count_one_by_one(is_known: bool) -> None:
    guard, _ = guarded("127.0.0.1", "10.0.0.1")
    if is_known:
        assert caller(guard, "127.0.0.1").get("/", headers={"authorization": BASIC}).status_code == 200

    async def guess(password: str) -> int:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        pairs = [(b"host", b"127.0.0.1"), (b"authorization", basic(password).encode())]
        scope = {"type": "http", "method": "GET", "path": "/", "client": ("10.0.0.1", 1), "headers": pairs}
        await guard(scope, guess, send)  # type: ignore[arg-type]
        return int(sent[0]["status"])

    async def storm() -> list[int]:
        return await asyncio.gather(*(guess(f"guess {i}") for i in range(50)), guess(PASSWORD))

    with ThreadPoolExecutor(1) as apart:  # a browser's loop may run in this thread
        assert set(apart.submit(asyncio.run, storm()).result()) == {401}
    assert sum(len(made.guesses) for made in guard.door.mistakes.values()) == 10


def test_a_browser_that_was_in_is_not_shut_out_by_a_guesser_behind_its_address() -> None:
    guard, clock = guarded("10.0.0.1")
    browser = caller(guard, "10.0.0.1")
    assert browser.get("/", headers={"authorization": BASIC}).status_code == 200  # and keeps the cookie
    for i in range(20):
        caller(guard, "10.0.0.1").get("/", headers={"authorization": basic(f"guess {i}")})
    assert caller(guard, "10.0.0.1").get("/", headers={"authorization": BASIC}).status_code == 401
    assert browser.get("/", headers={"authorization": BASIC}).status_code == 200
    clock.advance_to(13 * 3_600_000)  # nothing is left to wait for, and the pass has run out
    for i in range(10):
        caller(guard, "10.0.0.1").get("/", headers={"authorization": basic(f"later guess {i}")})
    assert browser.get("/", headers={"authorization": BASIC}).status_code == 401


def test_a_wrong_name_costs_as_much_as_a_wrong_password(monkeypatch: pytest.MonkeyPatch) -> None:
    digested: list[bytes] = []
    monkeypatch.setattr("autotrader.dashboard.auth._digest", lambda password, _: digested.append(password) or b"")
    guard, _ = guarded("10.0.0.1")
    for name in ("admin", "nobody", "äöü"):
        pair = base64.b64encode(f"{name}:guess of {name}".encode()).decode()
        assert caller(guard, "10.0.0.1").get("/", headers={"authorization": f"Basic {pair}"}).status_code == 401
    assert len(digested) == 3


def test_every_answer_tells_the_browser_to_trust_nobody_else(desk: Desk) -> None:
    for path, who in (("/", BASIC), ("/", ""), ("/api/trades", BASIC), ("/static/js/bokeh.min.js", BASIC)):
        _, answered, _ = ask(desk, path, authorization=who)
        policy = dict(part.strip().split(" ", 1) for part in answered["content-security-policy"].split(";"))
        assert policy["default-src"] == "'self'" and policy["frame-ancestors"] == "'none'"
        assert not [source for source in policy.values() if "*" in source or "http" in source]
        assert answered["x-content-type-options"] == "nosniff" and answered["referrer-policy"] == "no-referrer"
        assert (answered["cache-control"] == "no-store") == (not path.startswith("/static"))


def unpacked(token: str) -> str:
    "What a session's token says, in clear."
    session = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))
    packed = session.get("__bk__zlib_")
    extra = zlib.decompress(base64.urlsafe_b64decode(packed + "==")).decode() if packed else ""
    return json.dumps(session) + extra


def test_no_secret_is_in_a_page_an_answer_a_session_or_a_log(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    (desk.settings.folder / "data" / "dashboard.password").write_text("scrypt 00 00")
    caplog.set_level(logging.DEBUG)
    page = ask(desk, "/", authorization=BASIC, cookie="theme=canary-cookie")[2]
    texts = [page.decode(), unpacked(token_of(page))]
    ask(desk, "/", authorization=basic("canary-guess"))
    paths = ("/api/health", "/api/bots", "/api/logs", "/api/jobs", "/openapi.json", "/api/trades?bot=canary-cookies")
    texts += [ask(desk, path, authorization=BASIC)[2].decode() for path in paths]
    texts.append(caplog.text)
    digest = desk.guard.door.login.digest.hex()
    hidden = [*CANARIES.values(), PASSWORD, BASIC.split()[1], '"canary-cookie"', "theme=", "canary-guess", digest]
    assert not [(secret, text[:80]) for secret in hidden for text in texts if secret in text]
    assert "wrong user name or password from 127.0.0.1" in caplog.text
    assert desk.settings.secrets.values()  # there was something to hide
    for path in (
        "/api/logs/..%2Fconfig",
        "/static/..%2f..%2fconfig.toml",
        "/static/%2e%2e/%2e%2e/data/dashboard.password",
        "/components/..%2f..%2f..%2fconfig.toml",
        "/components/antigravity/x/_css/y",
    ):
        assert ask(desk, path, authorization=BASIC)[0] in (404, 422), path
    assert "antigravity" not in sys.modules  # nothing is imported because an address names it


def test_what_is_no_proper_request_opens_nothing(desk: Desk) -> None:
    host, port = desk.url.removeprefix("http://").split(":")
    for lines in (
        [b"GET /api/health HTTP/1.0"],  # no Host
        [b"GET /api/health HTTP/1.1", b"Host: 127.0.0.1", b"Authorization: Basic \xff\xfe"],
        [b"GET http://evil.example/api/health HTTP/1.1", b"Host: 127.0.0.1", b"Authorization: " + WRONG.encode()],
        [b"GET /api/health HTTP/1.1", b"Host: 127.0.0.1", b"Authorization: basic " + b"A" * 3000],
    ):
        with socket.create_connection((host, int(port)), timeout=20) as line:
            line.sendall(b"\r\n".join([*lines, b"Connection: close", b"", b""]))
            answer = http.client.HTTPResponse(line)
            answer.begin()
            assert answer.status in (400, 401, 403), lines


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(port: int) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "AUTOTRADER_DASHBOARD_PASSWORD"}
    return kept | {"AUTOTRADER__DASHBOARD__PORT": str(port)}


def test_the_command_shows_the_first_password_once_and_keeps_only_its_digest(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(desk.settings.path.read_text())
    taken = environment(int(desk.url.rpartition(":")[2]))  # so that the command ends
    first, second = (
        subprocess.run([COMMAND, "dashboard"], cwd=tmp_path, env=taken, capture_output=True, text=True, timeout=60)
        for _ in range(2)
    )
    shown = re.search(r"password of admin: (\S{12,})", first.stdout)
    assert shown and first.returncode == second.returncode == 2
    assert "cannot be used (Address already in use)" in first.stderr and len(first.stderr.splitlines()) == 1
    assert "as shown at the first start" in second.stdout
    kept = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(shown[1].encode() in content for content in kept)
    assert (tmp_path / "data" / "dashboard.password").stat().st_mode & 0o777 == 0o600


@contextmanager
def running(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    "`autotrader dashboard` and its address."
    process = subprocess.Popen(
        [COMMAND, "dashboard", *words],
        cwd=folder,
        env=environment(free_port()) | {"AUTOTRADER_DASHBOARD_PASSWORD": PASSWORD},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        lines = iter(process.stdout.readline, "")
        yield process, next(found[1] for line in lines if (found := re.search(r"dashboard at (\S+)/,", line)))
    finally:
        process.kill()
        process.wait()


def ended(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str, float]:
    "Exit code, what it complained of, and seconds from the signal to the end."
    began = time.monotonic()
    process.send_signal(number)
    _, complaints = process.communicate(timeout=30)
    return process.returncode, complaints, time.monotonic() - began


def test_a_signal_ends_the_command_at_once_with_a_websocket_open(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(desk.settings.path.read_text())
    with running(tmp_path) as (process, url):
        token = token_of(ask(url, "/", authorization=BASIC)[2])
        with dial(url, token, {"Origin": url, "Authorization": BASIC}) as line:
            assert json.loads(line.recv(timeout=20))["msgtype"] == "ACK"
            code, complaints, seconds = ended(process, signal.SIGTERM)
    assert (code, complaints) == (0, "")
    assert seconds < 5  # 2 on a machine with nothing else to do


def test_ctrl_c_ends_the_command_at_once_with_a_page_open(desk: Desk, browser: Any, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(desk.settings.path.read_text())
    with running(tmp_path) as (process, url):
        context = browser.new_context(http_credentials={"username": "admin", "password": PASSWORD})
        page = context.new_page()
        page.goto(url)
        page.get_by_text("no runner yet").first.wait_for(timeout=30_000)
        code, complaints, seconds = ended(process, signal.SIGINT)
        context.close()
    assert (code, complaints) == (0, "")
    assert seconds < 5


def test_a_replay_has_its_own_rows_and_the_desk_its_jobs(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(desk.settings.path.read_text())
    with running(tmp_path, "--replay") as (process, url):
        health = json.loads(ask(url, "/api/health", authorization=BASIC)[2])
        assert health["database"].endswith("/data/replay.db") and health["status"] == "runner silent"
        assert ask(url, "/api/jobs", authorization=BASIC)[0] == 200
        assert {file.name for file in (tmp_path / "data").glob("*.db")} == {"replay.db", "sample.db"}
        assert ended(process, signal.SIGTERM)[0] == 0


def test_the_command_line_does_not_load_the_pages() -> None:
    heavy = {"fastapi", "uvicorn", "panel", "bokeh", "starlette"}
    code = f"import sys, autotrader.cli.main; print(sorted({heavy!r} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.strip() == "[]"
