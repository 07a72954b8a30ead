"""Nobody outside the exchange floor knows what kind of venue trades, and a bar's walk to its order and back is short."""

import ast
import importlib
import inspect
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "parity"))

import stage

from autotrader.core.ports import MarketSide, Venue
from autotrader.exchange import account, paper, venues
from autotrader.runner import rehearsal
from autotrader.store.database import open_store

PACKAGE = Path(account.__file__).resolve().parents[1]
KINDS = {name for room in (account, paper) for name in room.__all__ if inspect.isclass(getattr(room, name))}
SETTINGS = {"Roughness"}  # what a bad day is like says nothing of the venue
ROOTS = {"runner.app", "runner.rehearsal"}  # where things are put together
ROOMS = sorted(p for p in PACKAGE.rglob("*.py") if "exchange" not in p.parts and p.name != "_modidx.py")


def test_the_search_for_names_sees_the_accounts() -> None:
    assert {"PaperExchange", "RoughExchange", "Account", "SymbolAccount"} <= KINDS


def named_in(room: Path) -> tuple[set[str], bool]:
    "All names a module speaks of, and whether it opens accounts."
    tree = ast.parse(room.read_text())
    named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    named |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    named |= {alias.name for node in imports for alias in node.names}
    return named, any(node.module and node.module.endswith("exchange.venues") for node in imports)


def test_no_room_outside_names_the_kind_of_a_venue_and_only_the_roots_open_one() -> None:
    faults, roots = [], set()
    for room in ROOMS:
        named, opens = named_in(room)
        module = ".".join(room.relative_to(PACKAGE).with_suffix("").parts)
        faults += [f"{module} names {name}" for name in sorted(named & (KINDS - SETTINGS))]
        roots |= {module} if opens else set()
    assert faults == []
    assert roots == ROOTS


@pytest.mark.parametrize("kind", [paper.PaperExchange, paper.RoughExchange])
@pytest.mark.parametrize("port", [Venue, MarketSide])
def test_a_paper_account_has_every_call_of_the_port(kind: type, port: type) -> None:
    names = {name for name in vars(port) if not name.startswith("_")}
    assert len(names) > 6
    assert sorted(name for name in names if not hasattr(kind, name)) == []


WALK = (
    "bots",
    "exchange",
    "runner",
    "engine.policy",
    "store.journal",
)  # rooms of the walk; their helpers are not counted


class Walk:
    "Calls from one room into another while bots play, by bar."

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []  # room that is entered, by which door

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        room = frame.f_globals.get("__name__", "")
        if event != "call" or not room.startswith("autotrader.") or frame.f_code.co_name.startswith(("<", "_")):
            return
        back = frame.f_back
        while back is not None and not back.f_globals.get("__name__", "").startswith("autotrader."):
            back = back.f_back
        if back is not None and back.f_globals["__name__"] != room:
            self.calls.append((room.removeprefix("autotrader."), frame.f_code.co_name))


def walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[tuple[str, str]], int]:
    "The calls of the first bar that leads to an order and of the next, which fills it; and how many events they brought."
    bars: list[tuple[list[tuple[str, str]], int]] = []
    play_bar = rehearsal.play_bar

    def watched(bot: rehearsal.RehearsedBot) -> bool:
        walk, seq = Walk(), int(bot.session.bot.state["seq"][0])
        sys.setprofile(walk)
        try:
            return play_bar(bot)
        finally:
            sys.setprofile(None)
            bars.append((walk.calls, int(bot.session.bot.state["seq"][0]) - seq))

    monkeypatch.setattr(rehearsal, "play_bar", watched)
    with open_store("sqlite:///walk.db", folder=tmp_path, create=True) as store:
        rehearsal.rehearse(stage.parts(200)[1:2], store)
    first = next(i for i, (calls, _) in enumerate(bars) if ("exchange.paper", "submit") in calls)
    return bars[first][0] + bars[first + 1][0], bars[first][1] + bars[first + 1][1]


def test_a_change_enters_projection_and_writer_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, events = walked(tmp_path, monkeypatch)
    entered = Counter(room for room, _ in calls)
    assert events > 8
    assert entered["bots.projection"] == events
    assert Counter(calls)["bots.writer", "record"] == events
    assert entered["bots.writer"] - events <= 4, "what is left are commits"


ONCE = {  # what a door is opened for, once each
    "event": [("bots.projection", "project"), ("bots.writer", "record")],
    "order": [("bots.limits", "review"), ("bots.execution", "to_request"), ("exchange.paper", "submit"), ("exchange.account", "place")],
    "stop": [("bots.execution", "to_protection"), ("exchange.paper", "protect"), ("exchange.account", "protect")],
    "instant": [("exchange.paper", "play"), ("exchange.account", "play")],
    "bar": [
        *(("bots.cycle", door) for door in ("live_through", "hear_close", "hear_signal", "turn_over")),
        *(("bots.subbot", door) for door in ("tick", "close_bar", "decide")),
        *(("exchange.paper", door) for door in ("is_playing", "open_bar", "audit", "settled")),
        *(("bots.writer", "commit"), ("bots.limits", "hear"), ("store.journal", "append"), ("store.journal", "save_state")),
    ],
}  # fmt: skip


def test_every_door_of_the_walk_is_opened_once_for_what_it_stands_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, events = walked(tmp_path, monkeypatch)
    opened = Counter(calls)
    instants = 1 + 2  # one, and in each bar another in which nothing is left
    things = {"event": events, "order": 3, "stop": 1, "instant": instants, "bar": 2}
    assert {door: opened[door] for doors in ONCE.values() for door in doors} == {
        door: things[thing] for thing, doors in ONCE.items() for door in doors
    }
    heard = things["instant"] - things["bar"] + things["bar"]  # after every instant, and at a bar's end
    assert opened["bots.subbot", "listen"] == heard
    assert opened["exchange.paper", "updates"] == heard + things["order"] + things["stop"]


def test_each_room_of_the_walk_has_few_doors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, _ = walked(tmp_path, monkeypatch)
    doors: dict[str, set[str]] = {}
    for room, door in calls:
        if room.startswith(WALK):
            doors.setdefault(room, set()).add(door)
    assert {"bots.subbot", "bots.projection", "bots.writer", "bots.limits", "exchange.account"} <= set(doors)
    assert doors["bots.projection"] == {"project"}
    assert doors["bots.writer"] == {"record", "commit"}
    print({room: sorted(names) for room, names in doors.items()})


def test_a_venue_is_opened_by_name_and_not_by_class() -> None:
    signature = inspect.signature(importlib.import_module("autotrader.runner.supervisor").Supervisor)
    assert "open_venue" in signature.parameters
    assert inspect.signature(venues.open_paper).return_annotation in ("Venue", Venue)
