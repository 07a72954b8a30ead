"""A model of recorded Bybit hours, funding and open interest: trained out of fold, registered, and traded alike in a backtest, a rehearsal and a replaying runner."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import sqlalchemy as sa
from shared import run

import autotrader as at
from autotrader.config.sections import BotSettings, Ml
from autotrader.config.settings import Settings, load, write_template
from autotrader.core.clock import SimulatedClock, SystemClock
from autotrader.core.market import Candles
from autotrader.data.importers import import_folder
from autotrader.desk.bots import backtest_bots
from autotrader.desk.rehearse import rehearse_bots
from autotrader.features.feature_set import FEATURES
from autotrader.ml.artefact import save_model
from autotrader.ml.training import Trained, train
from autotrader.runner import app
from autotrader.runner.replay import ReplayPlan
from autotrader.store.database import Store, open_store
from autotrader.store.registry import activate
from autotrader.store.tables import Decision

pytestmark = pytest.mark.realdata

SMALL = Ml(n_estimators=60, folds=2, learning_rate=0.01, min_child_samples=20, num_leaves=63, class_weight="balanced")


class Desk(NamedTuple):
    "A desk that trades by the probability of a model."

    folder: Path
    settings: Settings
    candles: Candles  # that it trades
    trained: Trained
    span: tuple[int, int]  # of the recorded year, UTC milliseconds


@pytest.fixture(scope="module")
def desk(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    write_template(folder)
    settings = load(folder / "config.toml")
    with open_store(settings.database_url, folder=folder, create=True) as store:
        import_folder(store, data_dir, venue="bybit", timeframe="1h", clock=SystemClock())
        markets = [at.load(symbol, config=folder / "config.toml") for symbol in ("BTCUSDT", "ETHUSDT", "SOLUSDT")]
        trained = train(markets, SMALL, features=FEATURES[::3])
        saved = save_model(store, trained.model, now_ms=trained.model.learned_until_ms)
        activate(store, saved.version, who="test", reason="the first", now_ms=trained.model.learned_until_ms)
    fields = {"threshold": 0.3, "exit": 0.25, "sl_ratio": 3.0, "tp_ratio": 6.0}
    told = {
        **settings.sub_bots[0].model_dump(exclude_unset=True),
        "venue": "bybit",
        "symbol": "BTCUSDT",
        "timeframe": "1h",
    }
    bot = BotSettings(**{**told, "decision": {"strategy": "ml_probability"}, "strategy_params": fields})
    candles = at.load("BTCUSDT", config=folder / "config.toml")
    span = int(candles.open_ms[0]), int(candles.open_ms[-1]) + candles.bar_ms
    yield Desk(folder, settings.model_copy(update={"sub_bots": (bot,)}), candles, trained, span)


@pytest.fixture
def store(desk: Desk) -> Iterator[Store]:
    with open_store(desk.settings.database_url, folder=desk.folder) as opened:
        yield opened


def probabilities(candles: Candles) -> np.ndarray:
    return np.stack([at.compute(f"ML_{name}_PROB", candles) for name in ("DOWN", "RANGE", "UP")], axis=1)


def decided(store: Store) -> dict[int, dict[str, Any]]:
    "What was seen at the bars on which something was done, by their opens."
    with store.read() as connection:
        rows = connection.execute(sa.select(Decision.bar_ms, Decision.indicators)).all()
    return {row.bar_ms: row.indicators for row in rows if row.indicators}


def assert_same_probabilities(seen: dict[int, dict[str, Any]], candles: Candles) -> None:
    place = np.searchsorted(candles.open_ms, list(seen))
    batch = probabilities(candles)[place]
    assert [each["ML_UP_PROB"] for each in seen.values()] == batch[:, 2].tolist()
    assert [each["ML_DOWN_PROB"] for each in seen.values()] == batch[:, 0].tolist()
    for each in seen.values():
        assert each["ML_MODEL"] == 1
        assert sum(label.startswith("ML_UP_PROB: ") for label in each) == 5


def test_the_column_is_what_training_said_out_of_fold(desk: Desk) -> None:
    "To the last bit, on every row that a stage spoke about without having learned from it."
    data, market = desk.trained.data, ("bybit", "BTCUSDT")
    rows = np.flatnonzero((data.market == data.markets.index(market)) & (desk.trained.fold >= 0))
    assert len(rows) > 5_000
    place = np.searchsorted(desk.candles.open_ms, data.open_ms[rows])
    np.testing.assert_array_equal(probabilities(desk.candles)[place], desk.trained.proba[rows])


def test_a_strategy_on_a_probability_trades(desk: Desk, store: Store) -> None:
    (result,) = backtest_bots(desk.settings.sub_bots, store, desk.settings, *desk.span).results
    said = probabilities(desk.candles)
    spoken = said[np.isfinite(said).all(axis=1)]
    assert len(np.unique(spoken[:, 2])) > 0.9 * len(spoken) and len(spoken) > 5_000
    assert result.stats.trades >= 20
    np.testing.assert_allclose(spoken.sum(axis=1), 1.0, atol=1e-12)


def test_it_is_rehearsed_with_the_same_probabilities(desk: Desk, store: Store) -> None:
    found = rehearse_bots(desk.settings.sub_bots, store, desk.settings, *desk.span)
    assert found.is_sound and all(parity["model"]["equal"] for parity in found.parity.values())
    (file,) = desk.folder.rglob("rehearsal.db")
    with open_store(f"sqlite:///{file.name}", folder=file.parent) as lived:
        seen = decided(lived)
    assert len(seen) >= 40
    assert_same_probabilities(seen, desk.candles)


def test_it_is_replayed_with_the_same_probabilities_and_explains_an_order(desk: Desk) -> None:
    since_ms = desk.span[1] - 150 * 24 * 3_600_000  # five months of it
    plan, told = ReplayPlan(since_ms=since_ms, until_ms=desk.span[1]), list[str]()
    clock, stop = SimulatedClock(desk.span[1]), threading.Event()
    assert app.run(desk.settings, clock=clock, replay=plan, stop=stop, on_news=told.append) == 0, told
    with open_store(app.replay_url(desk.settings)) as played:
        seen = decided(played)
        with played.read() as connection:
            found = sa.text("SELECT link_id FROM orders WHERE purpose = 'ENTRY' ORDER BY created_ms DESC LIMIT 1")
            order = connection.execute(found).scalar_one()
    assert len(seen) >= 20
    assert_same_probabilities(seen, desk.candles)
    said = run(desk.folder, "explain", order, "--replay")
    assert said.code == 0 and "ML_UP_PROB of model 1 was moved most by " in " ".join(said.out.split())
    print(said.out)
