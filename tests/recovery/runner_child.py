"""Trading processes for tests to kill: the real command, forked from a process that has loaded it, and what such a one leaves behind."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import sqlalchemy as sa

import autotrader.cli.run
import autotrader.desk.choice  # noqa: F401  what the command imports late is loaded before the fork
from autotrader.bots import cycle, writer
from autotrader.bots.replay import fold
from autotrader.bots.session import Session
from autotrader.cli.main import main
from autotrader.config.settings import Settings, load, write_template
from autotrader.core.clock import SystemClock, parse_time
from autotrader.core.market import from_e8, to_e8
from autotrader.engine.events import EVENT, INTENT, PARAMS, SCHEMA, STATE, IntentKind
from autotrader.engine.fills import VENUE
from autotrader.exchange.paper import PaperExchange
from autotrader.exchange.venues import open_paper
from autotrader.runner import app, lease
from autotrader.runner.lease import try_take
from autotrader.runner.replay import Replay
from autotrader.runner.supervisor import Fenced, Supervisor
from autotrader.store import journal
from autotrader.store.database import Store, open_store
from autotrader.store.tables import Base, Fill, Order, PaperBook, Trade
from autotrader.strategy.setup import Part

BOTS = ("sub_bot_A", "sub_bot_B", "sub_bot_C")
COLD = [sys.executable, "-c", "from autotrader.cli.main import main; main()"]


# --- the child ------------------------------------------------------------------------------------------------------


def _fail() -> dict[str, float]:
    raise RuntimeError("this strategy was made to fail")


PLACES: dict[str, tuple[Any, str]] = {  # where a process can be made to die, before or after
    "submit": (Fenced, "submit"),
    "cancel": (Fenced, "cancel"),
    "protect": (Fenced, "protect"),
    "commit": (writer.JournalWriter, "commit"),
    "write": (writer, "_write_pages"),  # in the transaction
    "moment": (Replay, "_moment"),
}


def _doom(place: str, when: str, number: int, how: int = signal.SIGKILL) -> None:
    "Have the process die, or freeze, when it comes to a place for the n-th time."
    owner, name = PLACES[place]
    act, left = getattr(owner, name), [number]

    def last_act(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0 and when == "before":
            os.kill(os.getpid(), how)
        try:
            return act(*args, **kwargs)
        finally:
            if left[0] == 0 and when == "after":
                os.kill(os.getpid(), how)

    setattr(owner, name, last_act)


def _have_it_tell() -> None:
    "A line for each request that goes out to the venue."

    def telling(name: str) -> Callable[..., None]:
        act = getattr(PaperExchange, name)

        def tell_and_act(paper: PaperExchange, *args: Any, **kwargs: Any) -> None:
            what = "entry" if name == "submit" and not args[0].reduce_only else name
            print(f"sent: {time.time():.6f} {what}", file=sys.stderr, flush=True)
            act(paper, *args, **kwargs)

        return tell_and_act

    for name in ("submit", "cancel", "protect"):
        setattr(PaperExchange, name, telling(name))


def _freeze_in(name: str, number: int) -> None:
    "Have the process freeze in a transaction of a function, for the n-th time, just before it commits."
    owner = {"beat": app, "renew": lease, "commit": writer.JournalWriter}[name]
    act, begin, left, inside = getattr(owner, name), Store.begin, [number], threading.local()

    @contextmanager
    def freezing(store: Store) -> Iterator[sa.Connection]:
        with begin(store) as connection:
            yield connection
            if getattr(inside, "is_so", False):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGSTOP)

    def act_inside(*args: Any, **kwargs: Any) -> Any:
        inside.is_so = True
        try:
            return act(*args, **kwargs)
        finally:
            inside.is_so = False

    Store.begin = freezing  # type: ignore[method-assign]
    setattr(owner, name, act_inside)


def _spoil(job: dict[str, Any]) -> None:
    "Change the process as a test wants it: a shorter lease, a bot that fails, an early end."
    if "ttl_ms" in job:
        app.run = partial(app.run, ttl_ms=job["ttl_ms"])
    if "tells" in job:
        _have_it_tell()
    if "url" in job:
        app.replay_url = lambda _: job["url"]
    if "freeze" in job:
        _freeze_in(*job["freeze"])
    if "doom" in job:
        _doom(*job["doom"])
    prepare, close_bar = app.prepare, cycle.close_bar

    def prepare_failing(bot: Any, *args: Any, **kwargs: Any) -> Part:
        part = prepare(bot, *args, **kwargs)
        return replace(part, explain=lambda _: _fail()) if bot.id == job["explain_fails"] else part

    def close_failing(bot: Any, *args: Any, **kwargs: Any) -> None:
        if bot.bot == job["bar_fails"] and bot.stamp() >= job.get("from_ms", 0):
            _fail()
        close_bar(bot, *args, **kwargs)

    if "explain_fails" in job:
        app.prepare = prepare_failing
    if "bar_fails" in job:
        cycle.close_bar = close_failing


def _become(job: dict[str, Any]) -> None:
    "Be the command; never returns."
    code = 70
    try:
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
            os.dup2(file, number)
        sys.argv = ["autotrader", *job["words"]]
        _spoil(job)
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stderr.flush()
        os._exit(code)


def _warm_up() -> None:
    "Play an hour of a replay, so that all that is loaded late is there before the first fork."
    with tempfile.TemporaryDirectory() as folder:
        desk, clock = new_desk(Path(folder), "2017-12-01", "2017-12-02"), SystemClock()
        parts = desk.parts()
        with open_store(f"sqlite:///{desk.file}", create=True) as store:
            tenure = try_take(store, clock=clock)
            assert not isinstance(tenure, str)
            supervisor = Supervisor(store, risk=desk.settings.risk, clock=clock, tenure=tenure, open_venue=open_paper)
            Replay(supervisor, parts, speed=0.0).advance(0)
            tenure.end()


def serve() -> None:
    "Fork a command per line of standard input, as long as there is one; never leave one behind."
    children: set[int] = set()
    _warm_up()
    print("ready", flush=True)
    for line in iter(sys.stdin.readline, ""):
        job = json.loads(line)
        if "poll" in job:
            pid, status = os.waitpid(job["poll"], os.WNOHANG)
            children.discard(pid)
            print(os.waitstatus_to_exitcode(status) if pid else "null", flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            _become(job)
        children.add(pid)
        print(pid, flush=True)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


# --- the parent -----------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Runner:
    "A trading process."

    pid: int
    log: Path
    poll: Callable[[], int | None]  # exit code; None while it runs

    @property
    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    @property
    def entries(self) -> list[float]:
        "When it sent orders that open or add to a position, seconds of the epoch."
        lines = (line.split() for line in self.said.splitlines() if line.startswith("sent: "))
        return [float(stamp) for _, stamp, what in lines if what == "entry"]

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        "Signal 9, and wait until nothing is left of it."
        self.send(signal.SIGKILL)
        assert self.wait(10) == -signal.SIGKILL, f"it had ended before: {self.said}"

    def freeze(self, desk: "Desk") -> None:
        "Stop it where it stands, at a moment when it writes nothing."
        for _ in range(400):
            self.send(signal.SIGSTOP)
            time.sleep(0.01)  # the signal arrives
            if not desk.is_locked():
                return
            self.send(signal.SIGCONT)
            time.sleep(0.003)
        raise AssertionError("the runner wrote all the time")

    def freeze_writing(self, desk: "Desk") -> None:
        "Stop it in the middle of a transaction."
        for _ in range(400):
            self.send(signal.SIGSTOP)
            time.sleep(0.01)
            if desk.is_locked():
                return
            self.send(signal.SIGCONT)
            time.sleep(0.003)
        raise AssertionError("the runner never wrote")

    @property
    def is_frozen(self) -> bool:
        return psutil.Process(self.pid).status() == psutil.STATUS_STOPPED

    def thaw(self) -> None:
        self.send(signal.SIGCONT)

    def wait(self, timeout_s: float) -> int:
        return await_value(self.poll, timeout_s, "the runner did not end")


def await_value(
    look: Callable[[], Any], timeout_s: float, else_say: str | Callable[[], str], *, every_s: float = 0.03
) -> Any:
    "Look until there is something; what there is. Whoever looks more often takes the time from the runner that it waits for."
    deadline = time.monotonic() + timeout_s
    while (found := look()) is None or found is False:
        if time.monotonic() > deadline:
            raise AssertionError(else_say if isinstance(else_say, str) else else_say())
        time.sleep(every_s)
    return found


class Nursery:
    "Starts runners fast; ends them all when it is closed."

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        words = [sys.executable, str(Path(__file__).resolve())]
        self._server = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True)
        self._number = 0
        self._runners: list[Runner] = []
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "ready\n", "the process that starts runners did not come up"

    def _ask(self, job: dict[str, Any]) -> Any:
        assert self._server.stdin is not None and self._server.stdout is not None
        print(json.dumps(job), file=self._server.stdin, flush=True)
        return json.loads(self._server.stdout.readline())

    def start(self, desk: "Desk", *words: str, **spoilt: Any) -> Runner:
        self._number += 1
        log = desk.settings.folder / f"runner_{self._number}.txt"
        pid = self._ask({"words": [*words, "--config", str(desk.settings.path)], "log": str(log), **spoilt})
        code: list[int] = []

        def poll() -> int | None:
            if not code and (found := self._ask({"poll": pid})) is not None:
                code.append(found)
            return code[0] if code else None

        self._runners.append(Runner(pid, log, poll))
        return self._runners[-1]

    def end_all(self) -> None:
        "Leave nothing behind that a test has started."
        for runner in self._runners:
            if runner.poll() is None:
                runner.send(signal.SIGKILL)
                runner.wait(10)
        self._runners.clear()

    def close(self) -> None:
        self.end_all()
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(10)


@dataclass(frozen=True, slots=True)
class Desk:
    "A folder with the sample's configuration, and a stretch of its series to replay."

    settings: Settings
    since: str
    until: str

    @property
    def file(self) -> Path:
        return self.settings.folder / "data" / "replay.db"

    @property
    def words(self) -> tuple[str, ...]:
        return ("run", "--replay", "--from", self.since, "--to", self.until)

    def open(self) -> Store:
        return open_store(f"sqlite:///{self.file}")

    def parts(self) -> list[Part]:
        since_ms, until_ms = (parse_time(text, name="period") for text in (self.since, self.until))
        with open_store(self.settings.database_url, folder=self.settings.folder, create=True) as store:
            return [
                app.prepare(bot, store, self.settings.backtest, since_ms=since_ms, until_ms=until_ms)
                for bot in self.settings.sub_bots
            ]

    def ask(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        "Rows of the replay's database; none before it is made."
        if not self.file.exists():
            return []
        with suppress(sqlite3.OperationalError):  # its tables are being made
            connection = sqlite3.connect(self.file, timeout=10)
            try:
                return connection.execute(query, values).fetchall()
            finally:
                connection.close()
        return []

    def is_locked(self) -> bool:
        "Whether somebody is in the middle of writing."
        connection = sqlite3.connect(self.file, timeout=0, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
            return False
        except sqlite3.OperationalError:
            return True
        finally:
            connection.close()

    def events(self) -> int:
        rows = self.ask("SELECT max(id) FROM events")
        return int(rows[0][0] or 0) if rows else 0

    def pulse(self) -> dict[str, Any]:
        rows = self.ask("SELECT details FROM heartbeats WHERE name = 'runner'")
        return json.loads(rows[0][0]) if rows else {}

    def lease(self) -> tuple[str, int, int]:  # holder, epoch, expires_ms
        rows = self.ask("SELECT holder, epoch, expires_ms FROM leases WHERE name = 'runner'")
        return rows[0] if rows else ("", 0, 0)  # type: ignore[return-value]


def new_desk(folder: Path, since: str, until: str) -> Desk:
    write_template(folder, kind="sample")
    return Desk(load(folder / "config.toml"), since, until)


def is_trading(desk: Desk, runner: Runner) -> bool:
    pulse = desk.pulse()
    return pulse.get("pid") == runner.pid and pulse.get("state") == "trading"


# --- what is left behind --------------------------------------------------------------------------------------------


GROWING = {  # tables in which a row that stands stays as it is
    "events": "SELECT id, bot, seq, ts_ms, kind, record FROM events ORDER BY id",
    "intents": "SELECT bot, seq, number, kind, record FROM intents ORDER BY bot, seq, number",
    "fills": "SELECT exec_id, link_id, ts_ms, price, qty, fee, is_maker FROM fills ORDER BY exec_id",
    "decisions": "SELECT bot, bar_ms, known_ms, direction, exits, confidence, reason FROM decisions ORDER BY bot, bar_ms",
    "bot_balances": "SELECT * FROM bot_balances ORDER BY bot, ts_ms",
    "portfolio_history": "SELECT * FROM portfolio_history ORDER BY id",
    "system_events": "SELECT id, level, event_type, message FROM system_events ORDER BY id",
    "policy_params": "SELECT bot, id, record FROM policy_params",
    "first states": "SELECT bot, seq, record FROM policy_state WHERE seq = 0",
    "orders": "SELECT link_id, bot, symbol, key, trip, seq, purpose, kind, side, price, qty, is_reduce_only, created_ms FROM orders",
    "ended orders": "SELECT * FROM orders WHERE status NOT IN ('INTENT', 'LIVE', 'UNKNOWN', 'CANCELLING')",
    "trades of ended orders": "SELECT t.* FROM trades t JOIN orders o ON o.link_id = t.order_id "
    "WHERE o.status NOT IN ('INTENT', 'LIVE', 'UNKNOWN', 'CANCELLING')",
}


def rows_of(desk: Desk) -> dict[str, set[tuple[Any, ...]]]:
    "Every row that may never be lost or change."
    return {name: set(desk.ask(query)) for name, query in GROWING.items()}


def all_rows(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    "The whole database."
    tables = Base.metadata.sorted_tables
    with store.read() as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(sa.select(table).order_by(*table.primary_key))]
            for table in tables
        }


def check_grown(before: dict[str, set[tuple[Any, ...]]], after: dict[str, set[tuple[Any, ...]]]) -> None:
    for name, rows in before.items():
        lost = rows - after[name]
        assert not lost, f"{name}: {len(lost)} rows were there before, as {sorted(lost, key=repr)[0]}"


@dataclass(frozen=True, slots=True)
class Story:
    "What a bot's journal amounts to."

    state: np.ndarray  # (1,) STATE
    placed: list[int]  # keys of the orders it wanted
    fills: np.ndarray


def story_of(store: Store, bot: str) -> Story:
    "The journal has no holes, and folds to the very bytes that are stored beside it."
    events, params = journal.read(store, bot, EVENT), journal.load_params(store, bot, PARAMS)
    first = journal.load_state(store, bot, STATE, schema=SCHEMA, first=True)
    stored = journal.load_state(store, bot, STATE, schema=SCHEMA)
    assert first is not None and stored is not None
    folded = fold(first, events, params)
    assert folded.state.tobytes() == stored.tobytes()
    assert int(stored["seq"][0]) == len(events)
    seqs, intents = journal.read_intents(store, bot, INTENT)
    assert intents.tobytes() == folded.intents.tobytes()
    assert seqs.tolist() == folded.seqs.tolist()
    placed = intents[intents["kind"] == IntentKind.PLACE]["key"].tolist()
    return Story(folded.state, placed, folded.fills)


def _check_orders(store: Store, bot: str, story: Story) -> None:
    "Orders are what was wanted, fills and trades are what the journal says, each once."
    with store.read() as connection:
        orders = {o.link_id: o for o in connection.execute(sa.select(Order).where(Order.bot == bot, Order.key != 0))}
        fills = connection.execute(sa.select(Fill).where(Fill.link_id.in_(orders))).all()
        trades = {t.order_id: t for t in connection.execute(sa.select(Trade).where(Trade.sub_bot_name == bot))}
    assert sorted(story.placed) == sorted(order.key for order in orders.values() if order.key > 0)
    assert len(set(story.placed)) == len(story.placed)
    assert len(fills) == len(story.fills)
    assert sum((fill.fee for fill in fills), Decimal(0)) == from_e8(int(story.fills["fee_e8"].sum()))
    assert sum((t.pnl for t in trades.values()), Decimal(0)) == from_e8(int(story.state["realised_e8"][0]))
    assert {fill.link_id for fill in fills} == set(trades) <= set(orders)
    for link, trade in trades.items():
        own = [fill for fill in fills if fill.link_id == link]
        assert (sum(fill.qty for fill in own), sum(fill.fee for fill in own)) == (trade.quantity, trade.fee)
        assert trade.quantity <= orders[link].qty or orders[link].key < 0
    signed = sum((t.quantity if t.side == "BUY" else -t.quantity for t in trades.values()), Decimal(0))
    assert int(np.sign(story.state["qty"][0])) == int(np.sign(signed))


def venue_of(store: Store, bot: str) -> tuple[np.void, dict[str, Any]] | None:
    "A bot's paper account as stored: the record, with the money that is the bot's own, and what stands beside it."
    with store.read() as connection:
        row = connection.execute(sa.select(PaperBook).where(PaperBook.bot == bot)).one_or_none()
    if row is None:
        return None
    record = np.frombuffer(row.record, VENUE).copy()
    record["wallet_e8"] = to_e8(Decimal(row.details["wallet"]))  # in there stood that of all who share it
    return record[0], row.details


def positions(store: Store) -> dict[str, int]:
    "Positions on the paper accounts, steps."
    stored = {bot: venue_of(store, bot) for bot in BOTS}
    return {bot: 0 if account is None else int(account[0]["qty"]) for bot, account in stored.items()}


def check_books(desk: Desk) -> bool:  # whether the last commit was in the middle of a bar
    "Whatever a killed runner leaves is one whole: journal, intents, orders, fills, trades, paper account."
    is_midway = False
    with desk.open() as store:
        with store.read() as connection:
            faults = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        assert not faults
        for bot in BOTS:
            if journal.load_state(store, bot, STATE, schema=SCHEMA, first=True) is not None:
                is_midway |= check_bot(store, bot)
    return is_midway


def check_bot(store: Store, bot: str) -> bool:  # whether the last commit was in the middle of a bar
    "A bot's journal, orders, fills, trades and paper account belong together."
    story = story_of(store, bot)
    _check_orders(store, bot, story)
    stored = venue_of(store, bot)
    if stored is None:
        assert not len(journal.read(store, bot, EVENT))
        return False
    venue, details = stored
    assert details["placed"] <= len(story.placed)  # nothing is at the venue that was not written down before
    if not details["updates"]:
        check_agreement(story.state, venue)
    return bool(details["updates"])


def check_agreement(state: np.ndarray, venue: np.void) -> None:
    "The bot and its venue say the same of position and money."
    for name in ("qty", "cost", "wallet_e8"):
        assert int(state[name][0]) == int(venue[name]), name


@contextmanager
def brought_back(desk: Desk, parts: list[Part], file: Path) -> Iterator[tuple[Supervisor, dict[str, Session]]]:
    "The supervisor as the next start would find it, on a copy."
    source, copy = sqlite3.connect(desk.file), sqlite3.connect(file)
    source.backup(copy)
    copy.close()
    source.close()
    clock = SystemClock()
    with open_store(f"sqlite:///{file}") as store:
        tenure = try_take(store, clock=clock)
        assert not isinstance(tenure, str), "the lease of a dead process was not taken over at once"
        try:
            supervisor = Supervisor(store, risk=desk.settings.risk, clock=clock, tenure=tenure, open_venue=open_paper)
            Replay(supervisor, parts, speed=0.0)
            yield supervisor, supervisor.sessions
        finally:
            tenure.end()


def news_of(desk: Desk, *kinds: str) -> list[str]:
    marks = ", ".join("?" * len(kinds))
    return [row[0] for row in desk.ask(f"SELECT message FROM system_events WHERE event_type IN ({marks})", *kinds)]


if __name__ == "__main__":
    serve()
