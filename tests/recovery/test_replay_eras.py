"""A replay over a change of the venue's rules is the rehearsal and the backtest, wherever it is stopped or killed."""

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "parity"))

import stage
from projected import assert_rows_follow_from_the_journal

from autotrader.bots.subbot import recover
from autotrader.config.sections import Risk
from autotrader.core.clock import SystemClock
from autotrader.core.errors import ConfigError
from autotrader.engine.events import EVENT, Command, EventKind
from autotrader.exchange.venues import open_paper
from autotrader.runner.lease import Tenure, try_take
from autotrader.runner.parity import decision_parity
from autotrader.runner.rehearsal import rehearse
from autotrader.runner.replay import Replay, script_of
from autotrader.runner.supervisor import Supervisor
from autotrader.store import journal
from autotrader.store.database import Store, open_store
from autotrader.strategy.setup import Part, part_for, simulate

BARS = 600


def _changed(one: Part) -> Part:
    "Fees are ten times as high from the bar of an entry on, and larger orders are refused after a weekend."
    fills, opens, rules = simulate(one).fills, one.tape.open_ms, one.instrument.rules
    entries = fills[fills["purpose"] == 0]
    entered = int(np.searchsorted(opens, entries["ts_ms"][len(entries) // 4], side="right")) - 1
    rest = np.flatnonzero(np.diff(opens) > one.tape.bar_ms) + 1  # bars after a hole
    after = int(rest[rest > entered + 50][0])
    dearer = replace(rules, taker_fee=rules.taker_fee * 10, since_ms=int(opens[entered]))
    strict = replace(dearer, max_market_qty=rules.max_market_qty / 5_000, since_ms=int(opens[after]) - 1)
    candles, market = stage.market_of(one)
    return part_for(one.settings, candles, replace(market, changes=(dearer, strict)), one.assumed)


def _first_bars(part: Part) -> list[int]:
    "The bar with which each era begins."
    return [int(np.searchsorted(part.tape.open_ms, era.since_ms)) for era in part.eras]


@dataclass(frozen=True, slots=True)
class Whole:
    parts: list[Part]
    store: Store  # of their rehearsal


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    parts = [_changed(one) for one in stage.parts(BARS)]
    with open_store("sqlite:///rehearsal.db", folder=tmp_path_factory.mktemp("eras"), create=True) as store:
        rehearse(parts, store)
        yield Whole(parts, store)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store("sqlite:///replay.db", folder=tmp_path, create=True) as opened:
        yield opened


class Killed(BaseException):
    "Nothing of the process is left but what it has committed."


def _go_on(store: Store, parts: list[Part], is_end: Callable[[Replay], bool], *, kills: bool = False) -> Replay:
    "Start the replay where it was; stop it between two bars, or kill it after a commit."
    tenure = try_take(store, clock=SystemClock())
    assert isinstance(tenure, Tenure)
    try:
        supervisor = Supervisor(store, risk=Risk(), clock=SystemClock(), tenure=tenure, open_venue=open_paper)
        replay, commit = Replay(supervisor, parts, speed=0), supervisor.writer.commit

        def die() -> None:
            commit()
            if is_end(replay):
                raise Killed

        if kills:
            supervisor.writer.commit = die  # type: ignore[method-assign]
        while not replay.is_over and (kills or not is_end(replay)):
            replay._moment(*_due(replay))
        return replay
    finally:
        tenure.end()


def _due(replay: Replay) -> tuple[int, list]:  # type: ignore[type-arg]
    closes = [(actor.feed.next_close_ms, actor) for actor in replay.recorded if actor.feed.next_close_ms is not None]
    now_ms = min(ms for ms, _ in closes)
    return now_ms, [actor for ms, actor in closes if ms == now_ms]


def _told(store: Store, bot: str) -> np.ndarray:
    "What a bot has heard, without what a start asks the venue about a stop that an exit on its way has taken down."
    events = journal.read(store, bot, EVENT)
    events = events[events["kind"] != EventKind.PROTECTED].copy()
    events["seq"] = 0
    return events


def _check_same(store: Store, whole: Whole) -> None:
    for part in whole.parts:
        assert _told(store, part.bot).tobytes() == _told(whole.store, part.bot).tobytes()
        folded = recover(store, part.bot)
        assert folded is not None
        np.testing.assert_array_equal(folded.fills, simulate(part).fills)


def test_a_replay_over_changes_is_the_rehearsal_and_the_backtest(store: Store, whole: Whole) -> None:
    _go_on(store, whole.parts, lambda replay: False)
    _check_same(store, whole)
    for part in whole.parts:
        assert journal.read(store, part.bot, EVENT).tobytes() == journal.read(whole.store, part.bot, EVENT).tobytes()
        assert simulate(part).fills.tobytes() != simulate(replace(part, eras=())).fills.tobytes()


def test_so_it_is_when_it_was_stopped_before_at_and_after_each_change(store: Store, whole: Whole) -> None:
    for i, part in enumerate(whole.parts):
        for at in (first + beside for first in _first_bars(part) for beside in (-1, 0, 1)):

            def is_there(replay: Replay, i: int = i, at: int = at) -> bool:
                return replay.recorded[i].feed.at >= at

            _go_on(store, whole.parts, is_there)
    _go_on(store, whole.parts, lambda replay: False)
    _check_same(store, whole)


def _check_rules(store: Store, part: Part) -> None:
    "Each change is told once, and every fill has paid the fee of its time."
    events, folded = journal.read(store, part.bot, EVENT), recover(store, part.bot)
    news = events[(events["kind"] == EventKind.COMMAND) & (events["code"] == Command.PARAMS)]
    assert news["ref"].tolist() == [int(era.params["id"][0]) for era in part.eras]
    assert folded is not None
    fills, since_ms = folded.fills, [era.since_ms for era in part.eras]
    costs = np.concatenate([part.costs, *(era.costs for era in part.eras)])
    costs = costs[np.searchsorted(since_ms, fills["ts_ms"], side="right")]
    rate = np.where(fills["maker"] == 1, costs["maker_fee"], costs["taker_fee"])
    paid = np.floor(fills["cost"] * part.instrument.rules.unit_e8 * rate + 0.5).astype(np.int64)
    np.testing.assert_array_equal(fills["fee_e8"], paid)
    assert decision_parity(store, part.bot).is_exact
    assert_rows_follow_from_the_journal(store, part.bot, part.instrument)


def test_a_change_is_told_once_when_the_replay_is_killed_at_every_commit_around_it(store: Store, whole: Whole) -> None:
    firsts = [_first_bars(part) for part in whole.parts]
    places: list[tuple[int, ...]] = []

    def is_near(replay: Replay) -> bool:
        at = tuple(actor.feed.at for actor in replay.recorded)
        is_due = any(abs(bar - first) < 2 for bar, near in zip(at, firsts, strict=True) for first in near)
        places.extend([at] * is_due)
        return is_due

    replay = None
    while replay is None:
        with suppress(Killed):
            replay = _go_on(store, whole.parts, is_near, kills=True)
    assert len(places) > 3 * len(set(places)) // 2 > 20, "no kills in the middle of a bar"
    for part, actor in zip(whole.parts, replay.recorded, strict=True):
        _check_rules(store, part)
        book = actor.session.venue.inner.account.book(part.instrument.symbol)  # type: ignore[attr-defined]
        assert book.costs.tobytes() == part.eras[-1].costs.tobytes()
        assert book.instrument == part.eras[-1].instrument


def test_a_replay_goes_on_only_under_the_same_changes(store: Store, whole: Whole) -> None:
    _go_on(store, whole.parts, lambda replay: replay.recorded[0].feed.at >= 10)
    later = replace(whole.parts[0].eras[0], since_ms=whole.parts[0].eras[0].since_ms + 1)
    for eras in ((), whole.parts[0].eras[:1], (later, whole.parts[0].eras[1])):
        other = replace(whole.parts[0], eras=eras)
        assert script_of(other) != script_of(whole.parts[0])
        with pytest.raises(ConfigError, match="sub_bot_A has another replay in this database"):
            _go_on(store, [other, *whole.parts[1:]], lambda replay: False)
