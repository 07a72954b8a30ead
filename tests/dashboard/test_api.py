"""Every answer of the API: what it says, what it refuses, and that it never invents or loses a row."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import nbformat
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook
from starlette.testclient import TestClient
from visited import BASIC, PASSWORD

from autotrader.config.settings import Settings, load, write_template
from autotrader.core.clock import SystemClock
from autotrader.dashboard.api import add_api
from autotrader.dashboard.auth import AccessGuard, make_login
from autotrader.dashboard.view import DeskView
from autotrader.status.liveness import RUNNER, holder_name
from autotrader.status.performance import Tally
from autotrader.store.control import answer, beat, take, take_lease
from autotrader.store.database import Store, open_store
from autotrader.store.tables import BotBalance, Heartbeat, PortfolioHistory, SystemEvent, Trade

START = datetime(2026, 3, 1, tzinfo=UTC)
CLOCK = SystemClock()


@dataclass(frozen=True)
class Room:
    "A desk with a few rows of everything, and somebody who asks."

    settings: Settings
    store: Store
    app: FastAPI
    client: TestClient

    def get(self, path: str, **query: Any) -> Any:
        "A good answer."
        answered = self.client.get(f"/api/{path}", params=query)
        assert answered.status_code == 200, answered.text
        return answered.json()

    def refused(self, status: int, path: str, *, body: Any = None, method: str = "GET", **query: Any) -> str:
        "The one line of a refusal."
        answered = self.client.request(method, f"/api/{path}", params=query or None, json=body)
        assert answered.status_code == status, answered.text
        said = answered.json()
        assert list(said) == ["detail"] and isinstance(said["detail"], str) and "\n" not in said["detail"]
        return str(said["detail"])

    def post(self, path: str, body: Any = None) -> tuple[int, Any]:
        answered = self.client.post(f"/api/{path}", json=body)
        return answered.status_code, answered.json()


def trade(number: int, *, at: datetime, bot: str = "sub_bot_A", side: str = "BUY", **changed: Any) -> dict[str, Any]:
    row = {"timestamp": at, "sub_bot_name": bot, "symbol": "BTCUSDT", "order_id": f"order-{number}", "side": side}
    money = {name: Decimal("1.5") for name in ("price", "quantity", "fee", "pnl")}
    return {**row, **money, "entry_reason": f"reason {number}", **changed}


def save(store: Store, model: Any, rows: list[dict[str, Any]]) -> None:
    with store.begin() as connection:
        connection.execute(sa.insert(model), rows)


def balance(bot: str, hour: int) -> dict[str, Any]:
    names = ("wallet_usdt", "equity_usdt", "position_qty", "mark_price", "realised_usdt", "fees_usdt", "funding_usdt")
    at = START + timedelta(hours=hour)
    return {"bot": bot, "ts_ms": round(at.timestamp() * 1000), **{name: Decimal(1000 + hour) for name in names}}


def snapshot(hour: int) -> dict[str, Any]:
    columns = PortfolioHistory.__table__.columns
    money = {column.name: Decimal(3000 + hour) for column in columns if column.name not in ("id", "timestamp")}
    return {"timestamp": START + timedelta(hours=hour), **money}


def event(number: int) -> dict[str, Any]:
    level = ("INFO", "WARNING", "ERROR", "CRITICAL")[number % 4]
    at = START + timedelta(minutes=number)
    return {"timestamp": at, "level": level, "event_type": "TEST", "message": f"event {number}", "details": {}}


SIDES, BOTS = ("BUY", "SELL"), ("sub_bot_A", "sub_bot_B", "sub_bot_gone")
TRADES = [
    trade(i, at=START + timedelta(minutes=i // 3), bot=BOTS[i % 3], side=SIDES[i % 2], pnl=Decimal(i - 50))
    for i in range(100)
]
EXACT = trade(
    100, at=START - timedelta(days=1), price=Decimal("0.000000012345678901"), quantity=Decimal("123456789012.00100")
)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    folder = tmp_path_factory.mktemp("room")
    write_template(folder)
    config = load(folder / "config.toml", environ={})
    store = open_store(config.database_url, folder=folder, create=True)
    save(store, Trade, [EXACT, *TRADES])
    save(store, BotBalance, [balance(bot, hour) for bot in BOTS[:2] for hour in range(72)])
    save(store, PortfolioHistory, [snapshot(hour) for hour in range(72)])
    save(store, SystemEvent, [event(number) for number in range(120)])
    (folder / "logs").mkdir()
    (folder / "logs" / "runner.log").write_text("".join(f"line {i}\n" for i in range(50)))
    app = FastAPI()
    add_api(app, DeskView(config, store, CLOCK, Tally(store)))
    guard = AccessGuard(app, login=make_login("admin", PASSWORD), allowed_ips=["127.0.0.1"], clock=CLOCK)
    here: dict[str, Any] = {"base_url": "http://127.0.0.1", "client": ("127.0.0.1", 1)}
    client = TestClient(guard, **here, headers={"authorization": BASIC}, raise_server_exceptions=False)
    yield Room(config, store, app, client)
    store.close()


@pytest.fixture
def runner(room: Room) -> Iterator[Callable[[int], None]]:
    "Lets the runner be heard of so many seconds ago; afterwards it was never heard of."

    def heard(seconds: int = 0) -> None:
        take_lease(room.store, RUNNER, holder=holder_name(), clock=CLOCK, ttl_ms=600_000)
        with room.store.begin() as connection:
            connection.execute(sa.delete(Heartbeat))
        now_ms = CLOCK.now_ms() - 1000 * seconds
        details = {"mode": "replay", "state": "trading", "time_ms": now_ms, "speed": 60.0, "feed": None, "pid": 1}
        beat(room.store, "runner", now_ms=now_ms, epoch=3, details=details)
        bot = {"state": "paused", "why": "by request", "bar_ms": None, "time_ms": now_ms}
        beat(room.store, "runner/sub_bot_A", now_ms=now_ms, epoch=3, details=bot)

    yield heard
    with room.store.begin() as connection:
        connection.execute(sa.delete(Heartbeat))


def answers(room: Room, path: str, answered: Any) -> None:
    "Check an answer against what the OpenAPI document promises for it."
    document = room.client.get("/openapi.json").json()
    operation = document["paths"][path][answered.request.method.lower()]
    assert str(answered.status_code) in operation["responses"], (path, answered.status_code)
    promised = operation["responses"][str(answered.status_code)]["content"]["application/json"]["schema"]
    jsonschema.validate(answered.json(), {**promised, "components": document["components"]})


def readable(room: Room) -> dict[str, list[dict[str, Any]]]:
    "Every path that can be read, with its parameters."
    paths = room.client.get("/openapi.json").json()["paths"]
    return {path: ways["get"].get("parameters", []) for path, ways in paths.items() if "get" in ways}


def test_every_question_of_the_design_is_answered_as_the_document_says(room: Room) -> None:
    asked = {
        f"/api/{name}" for name in ("bots", "trades", "portfolio", "performance", "events", "logs", "health", "jobs")
    }
    paths = readable(room)
    assert asked <= set(paths)
    for path in paths:
        answered = room.client.get(path.replace("{name}", "runner").replace("{number}", "1"))
        assert answered.status_code == 200 or "{number}" in path, answered.text
        answers(room, path, answered)


def test_the_document_names_every_way_to_act(room: Room) -> None:
    paths = room.client.get("/openapi.json").json()["paths"]
    posts = {path for path, ways in paths.items() if "post" in ways}
    assert posts == {"/api/control/{command}", "/api/jobs", "/api/jobs/{number}/stop"}
    assert all({"401", "422", "503"} <= set(way["responses"]) for ways in paths.values() for way in ways.values())


VALUES = st.one_of(
    st.integers(-(2**70), 2**70),
    st.text(max_size=120),
    st.sampled_from(
        ["", "0", "-1", "1e9", "NaN", "null", "true", "sub_bot_A", "BUY", "1970-01-01", "9999-12-31T23:59:59.999999"]
    ),
    st.sampled_from(
        ["0001-01-01T00:00+14:00", "9999-12-31T23:59-14:00", "1-1", "-1-1", "9" * 18 + "-1", "1--1", "٣-٣"]
    ),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_asked_is_answered_or_refused_in_one_line(room: Room, data: st.DataObject) -> None:
    paths = readable(room)
    path = data.draw(st.sampled_from(sorted(paths)))
    inner = [p["name"] for p in paths[path] if p["in"] == "path"]
    query = {p["name"]: data.draw(VALUES) for p in paths[path] if p["in"] == "query" and data.draw(st.booleans())}
    filled = path
    for name in inner:
        word = str(
            data.draw(st.one_of(st.integers(-(2**70), 2**70), st.sampled_from(["..", "%00", "x" * 200, "runner"])))
        )
        filled = filled.replace(f"{{{name}}}", word)
    answered = room.client.get(filled, params=query)
    assert answered.status_code in (200, 404, 422), (filled, query, answered.text)
    if answered.status_code == 200:
        answers(room, path, answered)
    else:
        assert "\n" not in answered.json()["detail"]


def pages(room: Room, limits: Callable[[], int], between: Callable[[], None], **query: Any) -> list[dict[str, Any]]:
    "Every page, one behind the other."
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = room.get("trades", limit=limits(), **query, **({"cursor": cursor} if cursor else {}))
        found += page["trades"]
        cursor = page["next"]
        if cursor is None:
            return found
        between()


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_pages_together_are_all_trades_exactly_once_while_new_ones_arrive(room: Room, data: st.DataObject) -> None:
    with room.store.read() as connection:
        before = list(connection.execute(sa.select(Trade.order_id)).scalars())
    now = START + timedelta(days=len(before))

    def arrive() -> None:
        fresh = [trade(0, at=now, order_id=f"{len(before)}-{time.monotonic_ns()}-{i}") for i in range(2)]
        if data.draw(st.booleans()):
            save(room.store, Trade, fresh)

    try:
        found = pages(room, lambda: data.draw(st.integers(5, 60)), arrive)
        ids = [row["order_id"] for row in found]
        assert len(ids) == len(set(ids)) and set(before) <= set(ids)
        places = [(row["timestamp"], row["id"]) for row in found]
        assert places == sorted(places, reverse=True)
    finally:
        with room.store.begin() as connection:
            connection.execute(sa.delete(Trade).where(Trade.order_id.not_in(before)))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bot=st.sampled_from([None, "sub_bot_A", "SubBot-B", "sub_bot_C"]),
    side=st.sampled_from([None, "BUY", "SELL"]),
    ends=st.tuples(*[st.none() | st.integers(-3, 40)] * 2),
)
def test_filters_leave_exactly_what_fits(room: Room, bot: str | None, side: str | None, ends: Any) -> None:
    since, until = (None if end is None else START + timedelta(minutes=end) for end in ends)
    given = {"bot": bot, "side": side, "since": since and since.isoformat(), "until": until and until.isoformat()}
    found = pages(room, lambda: 40, lambda: None, **{name: value for name, value in given.items() if value})
    wanted = {"SubBot-B": "sub_bot_B"}.get(bot or "", bot)
    fits = {
        row["order_id"]
        for row in [EXACT, *TRADES]
        if wanted in (None, row["sub_bot_name"]) and side in (None, row["side"])
        if (since is None or row["timestamp"] >= since) and (until is None or row["timestamp"] < until)
    }
    assert {row["order_id"] for row in found} == fits and len(found) == len(fits)


def test_money_is_text_and_exact(room: Room) -> None:
    row = room.get("trades", until=START.isoformat())["trades"][0]
    assert (row["price"], row["quantity"]) == ("0.000000012345678901", "123456789012.00100")
    assert row["timestamp"] == "2026-02-28T00:00:00Z"
    assert room.get("portfolio")["portfolio"]["total_usdt"] == "3071"
    assert room.get("bots")[0]["balance"]["equity_usdt"] == "1071"


def test_events_come_by_weight_and_page_by_page(room: Room) -> None:
    found: list[dict[str, Any]] = []
    while page := room.get("events", level="ERROR", limit=7, **({"before": found[-1]["id"]} if found else {})):
        found += page
    assert [row["message"] for row in found] == [f"event {i}" for i in reversed(range(120)) if i % 4 >= 2]


def test_a_log_grows_from_where_it_was_read_to(room: Room) -> None:
    first = room.get("logs/runner", limit=5)
    assert first["lines"] == [f"line {i}" for i in range(45, 50)]
    with (room.settings.folder / "logs" / "runner.log").open("a") as log:
        log.write("one more\n")
    assert room.get("logs/runner", after=first["end"])["lines"] == ["one more"]
    assert "there are: runner" in room.refused(404, "logs/nothing")
    assert room.client.get("/api/logs/..%2Fconfig").status_code == 404


def test_a_slip_is_named_and_not_ignored(room: Room) -> None:
    assert room.refused(422, "trades", bto="sub_bot_A") == "there is no parameter 'bto'; did you mean 'bot'?"
    assert room.refused(422, "bots", limit=5) == "there is no parameter 'limit'; there are none"
    assert "there is no bot 'sub_bot_X'; the bots are sub_bot_A" in room.refused(422, "trades", bot="sub_bot_X")
    assert "is not a date: write it like" in room.refused(422, "trades", since="monday")
    assert "take it from `next`" in room.refused(422, "trades", cursor="last")
    assert room.refused(422, "trades", limit=0).startswith("limit: ")
    assert room.refused(422, "trades", side="buy").startswith("side: ")
    assert room.client.get("/api/nothing").status_code == 404
    assert room.client.delete("/api/trades").status_code == 405


def test_health_tells_of_the_runner_and_its_bots(room: Room, runner: Callable[..., None]) -> None:
    silent = room.get("health")
    assert (silent["status"], silent["runner"]["silent_s"], silent["bots"]) == ("runner silent", None, {})
    runner(2)
    alive = room.get("health")
    assert (alive["status"], alive["runner"]["epoch"]) == ("ok", 3) and not alive["runner"]["is_silent"]
    assert alive["bots"]["sub_bot_A"]["why"] == "by request"
    assert alive["database"].endswith("autotrader.db") and alive["version"]
    runner(16)
    assert room.get("health")["status"] == "runner silent"


def test_a_command_is_written_with_who_asked_and_tells_what_came_of_it(room: Room, runner: Callable[..., None]) -> None:
    runner()
    status, told = room.post("control/flatten", {"bot": "SubBot-A"})
    assert status == 202 and (told["command"], told["bot"], told["state"]) == ("flatten", "sub_bot_A", "waiting")
    assert told["who"] == "admin@127.0.0.1"
    assert room.get(f"control/commands/{told['id']}") == told
    take(room.store, told["id"], epoch=3, now_ms=CLOCK.now_ms())
    assert room.get(f"control/commands/{told['id']}")["state"] == "taken"
    answer(room.store, told["id"], state="done", result={"message": "flat"}, epoch=3, now_ms=CLOCK.now_ms())
    done = room.get("control/commands", limit=1)[0]
    assert (done["state"], done["message"]) == ("done", "flat")
    for word in ("stop", "resume"):
        assert room.post(f"control/{word}")[0] == room.post(f"control/{word}", {"bot": None})[0] == 202
    audit = room.get("events", level="WARNING", limit=1)[0]
    assert "admin@127.0.0.1 asks: resume all bots" in audit["message"]


def test_a_silent_runner_gets_no_commands(room: Room, runner: Callable[..., None]) -> None:
    before = room.get("control/commands")
    never = room.refused(409, "control/stop", method="POST")
    assert "never been heard of" in never and "--direct" in never
    runner(60)
    assert "has been silent for 6" in room.refused(409, "control/flatten", method="POST", body={"bot": "sub_bot_A"})
    assert room.get("control/commands") == before


@pytest.mark.parametrize(
    "path, body, says",
    [
        ("control/explode", None, "command: "),
        ("control/stop", {"bot": "sub_bot_X"}, "there is no bot 'sub_bot_X'"),
        ("control/stop", {"bots": "sub_bot_A"}, "bots: "),
        ("control/stop", {"bot": 1}, "bot: "),
        ("control/stop", ["sub_bot_A"], "body: "),
        ("control/stop?bot=sub_bot_A", None, "there is no parameter 'bot'"),
        ("jobs", {}, "name: "),
        ("jobs", {"name": "backtset"}, "did you mean 'backtest'?"),
        ("jobs", {"name": "../config"}, "there is no job"),
        ("jobs", {"name": "backtest", "parameters": {"bto": "A"}}, "there is no parameter 'bto'"),
        ("jobs", {"name": "backtest", "timeout_s": 0}, "timeout_s: "),
        ("jobs", {"name": "backtest", "timeout_s": "60"}, "timeout_s: "),
        ("jobs", {"name": "backtest", "memory_mb": 1.5}, "memory_mb: "),
    ],
)
def test_a_wrong_order_is_refused_and_nothing_is_written(
    room: Room, runner: Callable[..., None], path: str, body: Any, says: str
) -> None:
    runner()
    before = room.get("control/commands"), room.get("jobs")
    assert says in room.refused(422, path, body=body, method="POST")
    assert (room.get("control/commands"), room.get("jobs")) == before


def test_what_is_no_json_is_refused(room: Room, runner: Callable[..., None]) -> None:
    runner()
    for text in (b"{", b"\xff", b"NaN", b'{"bot": "sub_bot_A"} x'):
        named = {"content-type": "application/json"}
        assert room.client.post("/api/control/stop", content=text, headers=named).status_code in (400, 422), text


def test_what_there_is_not_is_404(room: Room) -> None:
    for path in ("control/commands/987654321", "jobs/987654321"):
        assert "987654321 does not exist" in room.refused(404, path)
    assert "job 987654321 does not exist" in room.refused(404, "jobs/987654321/stop", method="POST")


def until(holds: Callable[[], Any], *, seconds: float = 90) -> Any:
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, f"still not after {seconds} s"
        time.sleep(0.2)
    return found


def template(room: Room, name: str, source: str) -> None:
    folder: Path = room.settings.folder / "templates"
    folder.mkdir(exist_ok=True)
    cells = [new_code_cell("seconds: float = 1.0  # s", metadata={"tags": ["parameters"]}), new_code_cell(source)]
    nbformat.write(new_notebook(cells=cells), folder / f"{name}.ipynb")


def test_a_job_is_started_once_watched_and_stopped(room: Room) -> None:
    template(room, "sleepy", "import time\ntime.sleep(seconds)")
    listed = {row["name"]: row for row in room.get("jobs/notebooks")}
    assert listed["sleepy"]["parameters"][0]["name"] == "seconds" and "backtest" in listed
    order = {"name": "sleepy", "parameters": {"seconds": 600}}
    status, begun = room.post("jobs", order)
    assert status == 202 and begun["state"] in ("queued", "running") and begun["parameters"] == {"seconds": 600.0}
    number = begun["id"]
    assert f"is job {number}" in room.refused(409, "jobs", method="POST", body=order)
    assert room.get("jobs", limit=1)[0]["id"] == number
    until(lambda: room.get(f"jobs/{number}")["job"]["state"] == "running")
    status, asked = room.post(f"jobs/{number}/stop")
    assert status == 202 and asked["id"] == number
    ended = until(lambda: (row := room.get(f"jobs/{number}"))["job"]["state"] == "stopped" and row)
    assert ended["job"]["ended"] and (room.settings.folder / ended["job"]["folder"] / "notebook.ipynb").exists()
    assert "has ended already" in room.refused(409, f"jobs/{number}/stop", method="POST")


def test_a_finished_job_shows_its_results(room: Room) -> None:
    template(room, "quick", "from autotrader.jobs.record import record\nrecord({'answer': 42})")
    _, begun = room.post("jobs", {"name": "quick"})
    row = until(lambda: (row := room.get(f"jobs/{begun['id']}"))["job"]["state"] not in ("queued", "running") and row)
    assert row["job"]["state"] == "done", row
    assert row["results"] == {"answer": 42} and "report.html" in row["files"]


def test_an_unexpected_failure_is_one_line_without_its_inside(room: Room) -> None:
    @room.app.get("/api/boom")
    def boom() -> None:
        raise KeyError("canary inside")

    assert room.refused(500, "boom") == "unexpected KeyError; the dashboard's log tells where"


def test_without_its_database_the_api_says_so(room: Room, tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'gone.db'}", create=True)
    app = FastAPI()
    add_api(app, DeskView(room.settings, store, CLOCK, Tally(store)))
    store.close()
    (tmp_path / "gone.db").unlink()
    (tmp_path / "gone.db").mkdir()
    lonely = TestClient(app, raise_server_exceptions=False)
    for path in ("bots", "trades", "events", "control/commands", "jobs"):
        answered = lonely.get(f"/api/{path}")
        assert answered.status_code == 503 and "\n" not in answered.json()["detail"], path
    answered = lonely.get("/api/health")
    assert (answered.status_code, answered.json()["status"]) == (503, "database not reachable")
    assert json.loads(answered.text)["runner"] is None
