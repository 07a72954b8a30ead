"""A model decides the same in a backtest, a sweep, a rehearsal, a replay and on a live day, and every decision tells which model it was and why."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from shared import run
from taught import taught

import autotrader as at
from autotrader.config.sections import BotSettings
from autotrader.config.settings import Settings, load, write_template
from autotrader.core.clock import SimulatedClock, parse_time
from autotrader.core.executor import open_executor
from autotrader.core.market import Candles
from autotrader.data.instruments import known
from autotrader.desk.bots import backtest_bots
from autotrader.desk.rehearse import rehearse_bots
from autotrader.engine.events import Mode
from autotrader.exchange.news import Closed, FeedStatus, SeriesKey
from autotrader.exchange.venues import open_paper
from autotrader.features.feature_set import RUN_IN_BARS
from autotrader.ml import inference
from autotrader.ml.artefact import Model, save_model, under
from autotrader.runner import app
from autotrader.runner.lease import Tenure, try_take
from autotrader.runner.live import Live
from autotrader.runner.replay import ReplayPlan
from autotrader.runner.supervisor import Supervisor
from autotrader.search.grid import explore
from autotrader.search.task import task_of
from autotrader.store.candles import save
from autotrader.store.database import Store, open_store
from autotrader.store.registry import activate, deactivate, model_named
from autotrader.store.tables import Decision, SystemEvent, TrialRow
from autotrader.strategy.templates import make

HOUR, BARS, STORED = 3_600_000, RUN_IN_BARS + 1_300, RUN_IN_BARS + 1_200
BEGIN = parse_time("2025-01-01")
UNTIL = BEGIN + STORED * HOUR
RULE = """
import autotrader as at


def sure(candles, *, threshold=0.45):
    up, down = at.compute("ML_UP_PROB", candles), at.compute("ML_DOWN_PROB", candles)
    return at.from_rules(long=up > threshold, short=down > threshold, exit_long=up < 0.4, exit_short=down < 0.4)
"""


def walk() -> Candles:
    rng = np.random.default_rng(8)
    drift = 0.002 * np.sin(np.arange(BARS) / 23.0)
    close = np.round(60_000 * np.exp(np.cumsum(drift + rng.normal(scale=0.006, size=BARS))), 1)
    open_ = np.r_[60_000.0, close[:-1]]
    reach = np.round(np.abs(rng.normal(scale=0.002, size=(2, BARS))) * close, 1)
    return Candles(
        venue="bybit",
        symbol="BTCUSDT",
        timeframe="1h",
        open_ms=BEGIN + HOUR * np.arange(BARS),
        open=open_,
        high=np.maximum(open_, close) + reach[0],
        low=np.minimum(open_, close) - reach[1],
        close=close,
        volume=rng.uniform(100.0, 1000.0, size=BARS),
    )


WHOLE = walk()
CUTS = [RUN_IN_BARS + 500, RUN_IN_BARS + 900]


@pytest.fixture(scope="module")
def model() -> Model:
    return taught(WHOLE[: CUTS[1]], cuts=CUTS, good_days=90)


@pytest.fixture(scope="module")
def younger() -> Model:
    return taught(WHOLE[: CUTS[1]], cuts=CUTS[1:], good_days=90)


def settings_of(folder: Path, strategy: str = "ml_probability") -> Settings:
    first = load(folder / "config.toml").sub_bots[0]
    told = {**first.model_dump(exclude_unset=True), "venue": "bybit", "symbol": "BTCUSDT", "timeframe": "1h"}
    told |= {"decision": {"strategy": strategy}, "strategy_params": {"threshold": 0.45}}
    own = {} if strategy != "ml_probability" else {"exit": 0.4}
    bot = BotSettings(**{**told, "strategy_params": {"threshold": 0.45, **own, "sl_ratio": 3.0, "tp_ratio": 6.0}})
    return load(folder / "config.toml").model_copy(update={"sub_bots": (bot,)})


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, model: Model) -> Path:
    "A desk with bars, and a model that speaks."
    folder = tmp_path_factory.mktemp("desk")
    write_template(folder)
    (folder / "rule.py").write_text(RULE)
    settings = load(folder / "config.toml")
    with open_store(settings.database_url, folder=folder, create=True) as store:
        save(store, WHOLE[:STORED])
        saved = save_model(store, model, now_ms=UNTIL)
        activate(store, saved.version, who="test", reason="the first", now_ms=UNTIL)
    return folder


@pytest.fixture
def store(desk: Path) -> Iterator[Store]:
    with open_store(load(desk / "config.toml").database_url, folder=desk) as opened:
        yield opened


@pytest.fixture(scope="module")
def proba(model: Model) -> dict[int, float]:
    "Probability of up by the open of the bar, of the bars alone."
    said = at.compute("ML_UP_PROB", under(WHOLE[:STORED], model))
    return dict(zip(WHOLE.open_ms[:STORED].tolist(), said.tolist(), strict=True))


def decisions(store: Store) -> list[Any]:
    with store.read() as connection:
        return list(connection.execute(sa.select(Decision.__table__).order_by(Decision.bar_ms)).mappings().all())


def assert_told(rows: list[Any], proba: dict[int, float], *, version: int) -> None:
    "Every decision carries the very probability of its bar, the model's version and five reasons per probability."
    told = [row for row in rows if row["indicators"]]  # what led to nothing is not asked for reasons
    assert len(told) >= 20
    for row in told:
        seen = row["indicators"]
        assert seen["ML_UP_PROB"] == proba[row["bar_ms"]] and seen["ML_MODEL"] == version
        for name in ("ML_UP_PROB", "ML_DOWN_PROB"):
            sizes = [abs(value) for label, value in seen.items() if label.startswith(f"{name}: ")]
            assert len(sizes) == 5 and min(sizes) > 0


def test_a_desk_loads_candles_under_the_model_that_speaks(desk: Path, model: Model, proba: dict[int, float]) -> None:
    candles = at.load("BTCUSDT", config=desk / "config.toml")
    assert candles.model is not None and candles.model.version == 1 and ", under model 1)" in repr(candles)
    said = at.compute("ML_UP_PROB", candles)
    assert (
        dict(zip(candles.open_ms.tolist(), said.tolist(), strict=True)).items()
        >= {ms: value for ms, value in proba.items() if value == value}.items()
    )
    assert len(np.unique(said[np.isfinite(said)])) > 500


def test_a_backtest_on_the_desk_is_that_of_the_candles_in_hand(desk: Path, store: Store, model: Model) -> None:
    (stored,) = backtest_bots(settings_of(desk).sub_bots, store, settings_of(desk), BEGIN, UNTIL).results
    assert stored.stats.trades >= 20
    assert any(note.startswith("its strategy reads model 1, SHA-256 ") for note in stored.part.notes)
    rule = make("ml_probability", {"threshold": 0.45, "exit": 0.4})
    again = at.backtest(
        rule, under(WHOLE[:STORED], model), bot=settings_of(desk).sub_bots[0].model_dump(exclude_unset=True)
    )
    assert again.part.signals.direction.tolist() == stored.part.signals.direction.tolist()
    assert any("reads model " in note for note in again.part.notes)


@pytest.mark.parametrize("strategy", ["ml_probability", "rule.py:sure"])
def test_a_rehearsal_is_the_backtest_and_keeps_the_reasons(
    desk: Path, store: Store, proba: dict[int, float], strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    settings = settings_of(desk, strategy)
    found = rehearse_bots(settings.sub_bots, store, settings, BEGIN, UNTIL)
    assert found.is_sound and all(parity["model"]["equal"] for parity in found.parity.values())
    with open_store(
        "sqlite:///rehearsal.db", folder=desk / "data" if (desk / "data" / "rehearsal.db").exists() else desk
    ) as lived:
        assert_told(decisions(lived), proba, version=1)


def test_a_rehearsal_in_a_notebook_needs_no_registry(model: Model, proba: dict[int, float], tmp_path: Path) -> None:
    lived = at.rehearse(
        "ml_probability",
        under(WHOLE[:STORED], model),
        bot={"strategy_params": {"threshold": 0.45, "exit": 0.4}},
        folder=tmp_path,
    )
    assert lived.is_sound and lived.is_equal
    with open_store("sqlite:///rehearsal.db", folder=tmp_path) as kept:
        assert_told(decisions(kept), proba, version=0)


def test_a_replay_decides_the_same_and_an_order_of_it_is_explained(desk: Path, proba: dict[int, float]) -> None:
    plan, told = ReplayPlan(since_ms=BEGIN, until_ms=UNTIL), list[str]()
    code = app.run(
        settings_of(desk), clock=SimulatedClock(UNTIL), replay=plan, stop=threading.Event(), on_news=told.append
    )
    assert code == 0, told
    with open_store(app.replay_url(settings_of(desk))) as played:
        rows = decisions(played)
        assert_told(rows, proba, version=1)
        with played.read() as connection:
            order = connection.execute(
                sa.text("SELECT link_id FROM orders WHERE purpose = 'ENTRY' LIMIT 1")
            ).scalar_one()
    said = run(desk, "explain", order, "--replay")
    assert said.code == 0, said.err
    lines = " ".join(said.out.split())
    assert "it saw ML_UP_PROB 0." in lines and "ML_UP_PROB of model 1 was moved most by " in lines
    document = run(desk, "explain", order, "--replay", "--json").told
    assert document["decision"]["indicators"]["ML_MODEL"] == 1


def test_a_sweep_on_other_processes_reads_a_model_that_is_registered_nowhere(
    model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # where nobody counts
    mine = under(WHOLE[:STORED], model)
    rule, ranges = make("ml_probability", {"exit": 0.3}), {"threshold": [0.4, 0.45, 0.5, 0.55]}
    here = at.sweep(rule, mine, ranges, progress=False)
    with open_executor("loky", workers=2) as executor:
        there = explore(task_of(rule, mine), ranges, executor=executor)
    assert here.table.equals(there.table) and (here.table["trades"] > 0).all()
    walked = at.walkforward(
        rule, mine[RUN_IN_BARS:], {"threshold": [0.4, 0.5]}, train_days=20, test_days=10, progress=False
    )
    assert len(walked.table) >= 2


def test_another_model_is_another_trial_where_a_model_is_read(
    desk: Path, model: Model, younger: Model, tmp_path: Path
) -> None:
    write_template(tmp_path)
    config = tmp_path / "config.toml"
    with open_store(load(config).database_url, folder=tmp_path, create=True) as counted:
        for mine in (under(WHOLE[:STORED], model), under(WHOLE[:STORED], younger), under(WHOLE[:STORED], model)):
            rule = make("ml_probability", {"threshold": 0.45, "exit": 0.4})
            at.backtest(rule, mine, config=config)
            at.backtest("ema_trend", mine, config=config).counted()
        with counted.read() as connection:
            params = list(connection.execute(sa.select(TrialRow.params)).scalars())
    read = [each for each in params if "threshold" in each]
    hashes = {under(WHOLE[:STORED], each).model.sha256 for each in (model, younger)}
    assert {each["model"] for each in read} == hashes and len(read) == 2
    assert len(params) == 3 and all("model" not in each for each in params if "threshold" not in each)
    from autotrader.search.book import study_hash

    tasks = [
        task_of(name, under(WHOLE[:STORED], each))
        for name in (make("ml_probability"), make("ema_trend"))
        for each in (model, younger)
    ]
    one, two, same, again = (study_hash(task, []) for task in tasks)
    assert one != two and same == again


class Mute:
    "A feed that says nothing of itself."

    def start(self, since_ms: dict[SeriesKey, int]) -> None: ...

    def get(self, timeout_s: float) -> None: ...

    def ask_now(self, venue: str, symbol: str, timeframe: str) -> None: ...

    def stop(self) -> None: ...


@pytest.fixture
def floor(tmp_path: Path, model: Model) -> Iterator[tuple[Live, SimulatedClock, Store]]:
    "A live bot under model 1, at the end of what is stored."
    write_template(tmp_path)
    settings = settings_of(tmp_path)
    btc = known("bybit", "BTCUSDT")
    assert btc is not None
    with open_store(settings.database_url, folder=tmp_path, create=True) as store:
        save(store, WHOLE[:STORED])
        activate(store, save_model(store, model, now_ms=UNTIL).version, who="test", reason="the first", now_ms=UNTIL)
        clock = SimulatedClock(UNTIL)
        tenure = try_take(store, clock=clock)
        assert isinstance(tenure, Tenure)
        supervisor = Supervisor(store, risk=settings.risk, clock=clock, tenure=tenure, open_venue=open_paper)
        live = Live(supervisor, settings, {("bybit", "BTCUSDT"): btc}, Mute())
        live.market.hear(FeedStatus(is_up=True, why="connected"))
        yield live, clock, store
        tenure.end()


def hear(live: Live, clock: SimulatedClock, bar: int) -> None:
    clock.advance_to(BEGIN + (bar + 1) * HOUR + 200)
    live.market.hear(Closed(venue="bybit", symbol="BTCUSDT", timeframe="1h", candle=WHOLE[bar : bar + 1]))
    live.market.rest()


def said_of_models(store: Store) -> list[str]:
    table = SystemEvent.__table__
    with store.read() as connection:
        found = connection.execute(
            sa.select(table.c.message).where(table.c.event_type.like("MODEL%")).order_by(table.c.id)
        )
        return [str(row.message) for row in found]


def test_a_live_bot_hears_a_newly_activated_model_at_a_close(
    floor: tuple[Live, SimulatedClock, Store], model: Model, younger: Model
) -> None:
    live, clock, store = floor
    (bot,) = live.market.bots
    batch = {1: at.compute("ML_UP_PROB", under(WHOLE, model)), 2: at.compute("ML_UP_PROB", under(WHOLE, younger))}
    assert said_of_models(store) == ["sub_bot_A: it decides by model 1 from now on"]
    for bar in range(STORED, STORED + 40):
        hear(live, clock, bar)
    second = save_model(store, younger, now_ms=UNTIL + 1)
    activate(store, second.version, who="test", reason="younger", now_ms=UNTIL + 1)
    for bar in range(STORED + 40, STORED + 80):
        hear(live, clock, bar)
        assert bot.history.candles.model == second.ref
        np.testing.assert_array_equal(at.compute("ML_UP_PROB", bot.history.candles)[-1], batch[2][bar])
    rows = [row for row in decisions(store) if row["indicators"]]
    assert {row["indicators"]["ML_MODEL"] for row in rows} == {1, 2}
    for row in rows:
        bar = (row["bar_ms"] - BEGIN) // HOUR
        version = 1 if bar < STORED + 40 else 2
        assert (row["indicators"]["ML_MODEL"], row["indicators"]["ML_UP_PROB"]) == (version, batch[version][bar])
    assert not bot.session.trouble


def test_a_model_that_cannot_be_opened_changes_nothing_and_is_told_once(
    floor: tuple[Live, SimulatedClock, Store], younger: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, clock, store = floor
    (bot,) = live.market.bots
    monkeypatch.setattr(inference, "_OPEN", type(inference._OPEN)())  # no other test has opened it
    second = save_model(store, younger, now_ms=UNTIL + 1)
    activate(store, second.version, who="test", reason="younger", now_ms=UNTIL + 1)
    second.path.write_bytes(second.path.read_bytes()[:-1])
    for bar in range(STORED, STORED + 3):
        hear(live, clock, bar)
    assert bot.history.candles.model == model_named(store, 1).ref and not bot.session.trouble
    assert bot.decided_ms == BEGIN + (STORED + 2) * HOUR
    _, complaint = said_of_models(store)
    assert complaint.startswith("sub_bot_A does not hear model 2: ") and "is not what was registered" in complaint
    save_model(store, younger, now_ms=UNTIL + 2)  # mended
    hear(live, clock, STORED + 3)
    assert bot.history.candles.model == second.ref


def test_without_a_model_a_live_bot_says_so_and_is_paused(floor: tuple[Live, SimulatedClock, Store]) -> None:
    live, clock, store = floor
    (bot,) = live.market.bots
    hear(live, clock, STORED)
    deactivate(store, ("bybit", "BTCUSDT"), "1h", who="test", reason="not trusted", now_ms=UNTIL + 1)
    for bar in range(STORED + 1, STORED + 60):
        hear(live, clock, bar)
    assert said_of_models(store)[-1] == "sub_bot_A: no model speaks: its next decision pauses it"
    assert bot.session.trouble.startswith("DataError: no model speaks for bybit BTCUSDT 1h: ")
    assert Mode(int(bot.session.bot.state["mode"][0])) is not Mode.RUN and not bot.session.is_out
    entries = [row for row in decisions(store) if row["bar_ms"] > BEGIN + STORED * HOUR and row["direction"]]
    assert entries == []


def test_a_backtest_says_of_a_purged_model_that_it_is_silent(model: Model) -> None:
    candles = WHOLE[:STORED]
    after_ms = int(candles.open_ms[-1]) + 2 * candles.bar_ms
    purged = replace(
        model,
        stages=tuple(replace(each, learned_until_ms=after_ms) for each in model.stages),
        parameters={**model.parameters, "split": "purged"},
    )
    assert np.isnan(at.compute("ML_UP_PROB", under(candles, purged))).all()
    rule = make("ml_probability", {"threshold": 0.45, "exit": 0.4})
    found = at.backtest(rule, under(candles, purged))
    assert found.stats.trades == 0 and at.backtest(rule, under(candles, model)).stats.trades > 0
    (note,) = [each for each in found.part.notes if "purged" in each]
    assert f"says nothing of {len(candles):,} of {len(candles):,} bars" in note
