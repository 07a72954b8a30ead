"""Training, models and `[ml]` over HTTP: started, watched, stopped, and never told more than is used."""

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from visited import BASIC, PASSWORD

from autotrader.config.sections import Ml
from autotrader.config.settings import load, write_template
from autotrader.core.clock import SystemClock
from autotrader.dashboard.api import add_api
from autotrader.dashboard.api_ml import add_ml
from autotrader.dashboard.auth import AccessGuard, make_login
from autotrader.dashboard.view import DeskView
from autotrader.report.folder import read_manifest
from autotrader.status.performance import Tally
from autotrader.store.database import open_store

CLOCK = SystemClock()
QUICK = {
    "threshold_up": 0.004,
    "threshold_down": -0.004,
    "folds": 2,
    "n_estimators": 15,
    "num_leaves": 7,
    "min_child_samples": 20,
}
SAMPLE = {"venue": "sample", "symbol": ["EURUSD"], "since": "2017-08-01"}


class Desk:
    "A desk on the embedded sample, and somebody who asks."

    def __init__(self, folder: Path) -> None:
        write_template(folder, kind="sample")
        self.folder = folder
        self.settings = load(folder / "config.toml", environ={})
        self.store = open_store(self.settings.database_url, folder=folder, create=True)
        app = FastAPI()
        add_api(app, DeskView(self.settings, self.store, CLOCK, Tally(self.store)))
        add_ml(app)
        guard = AccessGuard(app, login=make_login("admin", PASSWORD), allowed_ips=["127.0.0.1"], clock=CLOCK)
        here: dict[str, Any] = {"base_url": "http://127.0.0.1", "client": ("127.0.0.1", 1)}
        self.client = TestClient(guard, **here, headers={"authorization": BASIC}, raise_server_exceptions=False)

    def ask(self, method: str, path: str, body: Any = None, *, status: int = 200, **query: Any) -> Any:
        answered = self.client.request(method, f"/api/ml/{path}", json=body, params=query or None)
        assert answered.status_code == status, answered.text
        return answered.json()

    def refused(self, method: str, path: str, body: Any = None, *, status: int = 422, **query: Any) -> str:
        "The one line of a refusal."
        said = self.ask(method, path, body, status=status, **query)
        assert list(said) == ["detail"] and "\n" not in said["detail"]
        return str(said["detail"])

    def until(self, number: int, holds: Callable[[dict[str, Any]], bool], *, seconds: float = 240) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while not holds(found := self.ask("GET", f"status/{number}")):
            assert time.monotonic() < end, found
            time.sleep(0.1)
        return dict(found)

    @property
    def left(self) -> tuple[Any, ...]:
        "All that a refused request must leave as it was."
        files = sorted(path.name for path in (self.folder / "models").glob("*.joblib"))
        return (
            (self.folder / "config.toml").read_text(),
            self.ask("GET", "models"),
            files,
            self.client.get("/api/jobs").json(),
        )


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    made = Desk(tmp_path_factory.mktemp("desk"))
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def done(desk: Desk) -> dict[str, Any]:
    "A training that ended, with everything it told on the way."
    begun = desk.ask("POST", "train", {**SAMPLE, "ml": QUICK, "activate": True, "reason": "the first"}, status=202)
    seen: set[float] = set()

    def is_over(found: dict[str, Any]) -> bool:
        seen.add(found["job"]["progress"])
        return found["job"]["state"] not in ("queued", "running")

    ended = desk.until(begun["id"], is_over)
    assert ended["job"]["state"] == "done", ended
    return ended | {"seen": seen}


def test_a_training_tells_how_far_it_is_and_leaves_a_model_that_speaks(desk: Desk, done: dict[str, Any]) -> None:
    assert len(done["seen"]) > 3 and max(done["seen"]) == 1.0
    (model,) = desk.ask("GET", "models")
    assert (model["markets"], model["live_for"], model["state"]) == (["sample EURUSD"], ["sample EURUSD"], "kept")
    assert done["results"]["model"] == model["version"] and done["results"]["sha256"] == model["sha256"]
    file = desk.folder / "models" / model["file"]
    assert hashlib.sha256(file.read_bytes()).hexdigest() == model["sha256"]
    assert desk.ask("GET", "models/newest") == desk.ask("GET", f"models/{model['version']}") == model
    assert model["scores"]["model"]["log_loss"] > 0 < model["scores"]["prior"]["log_loss"]


def test_every_parameter_that_was_accepted_is_in_the_manifest_and_was_used(desk: Desk, done: dict[str, Any]) -> None:
    manifest = read_manifest(desk.folder / done["job"]["folder"])
    told = dict(manifest.parameters)
    assert {name: told[name] for name in QUICK} == {name: str(value) for name, value in QUICK.items()}
    assert (told["venue"], told["symbol"], told["since"], told["activate"], told["reason"]) == (
        "sample",
        ["EURUSD"],
        "2017-08-01",
        True,
        "the first",
    )
    used = (manifest.results or {})["ml"]
    assert {name: used[name] for name in QUICK} == QUICK and set(used) == set(Ml.model_fields)
    (model,) = desk.ask("GET", "models")
    assert {name: model["parameters"][name] for name in QUICK} == QUICK
    assert manifest.seeds == {"ml": used["seed"]} and manifest.data


def test_features_come_by_importance(desk: Desk, done: dict[str, Any]) -> None:
    told = desk.ask("GET", "feature-importance", limit=5)
    assert told["version"] == done["results"]["model"] and len(told["features"]) == 5
    costs = [each["shuffled"] for each in told["features"]]
    assert costs == sorted(costs, reverse=True) and all(0 <= each["gain"] <= 1 for each in told["features"])


def test_a_training_stops_within_five_seconds_and_leaves_no_model(desk: Desk) -> None:
    before = desk.ask("GET", "models")
    endless = {**QUICK, "n_estimators": 100_000, "learning_rate": 1e-6, "early_stopping_rounds": 100_000}
    begun = desk.ask("POST", "train", {**SAMPLE, "ml": endless}, status=202)
    desk.until(begun["id"], lambda found: found["job"]["progress"] > 0.05)  # it boosts
    begin = time.monotonic()
    desk.ask("POST", f"stop/{begun['id']}", status=202)
    ended = desk.until(begun["id"], lambda found: found["job"]["state"] not in ("queued", "running"), seconds=30)
    assert time.monotonic() - begin < 5.0
    assert ended["job"]["state"] == "stopped" and desk.ask("GET", "models") == before
    assert "has ended already" in desk.refused("POST", f"stop/{begun['id']}", status=409)


@pytest.mark.parametrize(
    "method, path, body, says",
    [
        ("POST", "train", {}, "symbol: "),
        ("POST", "train", {"symbol": "EURUSD"}, "symbol: "),
        ("POST", "train", {"symbol": ["??"]}, "is not a market's name"),
        ("POST", "train", {**SAMPLE, "horizon": 24}, "horizon: "),
        ("POST", "train", {**SAMPLE, "ml": {"fold": 3}}, "did you mean 'folds'"),
        ("POST", "train", {**SAMPLE, "ml": {"folds": "3"}}, "folds"),
        ("POST", "train", {**SAMPLE, "ml": {"prediction_horizon": 0}}, "prediction_horizon = 0"),
        ("POST", "train", {**SAMPLE, "ml": {"threshold_up": -0.01}}, "threshold_up = -0.01"),
        ("POST", "train", {**SAMPLE, "activate": "yes"}, "activate: "),
        ("POST", "train", {**SAMPLE, "activate": True}, "wants a reason"),
        ("POST", "train", {**SAMPLE, "venue": "a b"}, "venue 'a b'"),
        ("POST", "train", {**SAMPLE, "timeframe": "7x"}, "timeframe '7x'"),
        ("POST", "train", {**SAMPLE, "until": "2017-01-01"}, "must lie before until"),
        ("POST", "train", {**SAMPLE, "symbol": ["EURUSD", "eur/usd"]}, "EURUSD is there twice"),
        ("POST", "train", {"symbol": ["XRPUSDT"]}, "nothing is stored of bybit XRPUSDT"),
        ("PUT", "config", {"ml": {"fold": 3}}, "did you mean 'folds'"),
        ("PUT", "config", {"ml": {"folds": 1}}, "folds = 1"),
        ("PUT", "config", {"ml": {}}, "ml: "),
        ("PUT", "config", {"folds": 3}, "ml: "),
        ("POST", "models/newest/activate", {}, "reason: "),
        ("POST", "models/newest/activate", {"reason": "x", "who": "me"}, "who: "),
        ("DELETE", "models/newest", None, "is live for sample EURUSD"),
        ("GET", "models?limit=3", None, "there is no parameter 'limit'"),
    ],
)
def test_what_is_wrong_is_one_line_and_changes_nothing(
    desk: Desk, done: dict[str, Any], method: str, path: str, body: Any, says: str
) -> None:
    before = desk.left
    assert says in desk.refused(method, path, body)
    assert desk.left == before


def test_what_there_is_not_is_404(desk: Desk, done: dict[str, Any]) -> None:
    for method, path, body in (
        ("GET", "models/999", None),
        ("DELETE", "models/999", None),
        ("POST", "models/999/activate", {"reason": "x"}),
    ):
        assert "there is no model '999'" in desk.refused(method, path, body, status=404)
    assert "there is no model '999'" in desk.refused("GET", "feature-importance", status=404, model="999")
    assert desk.refused("GET", "status/999", status=404) == "job 999 does not exist"
    assert desk.refused("POST", "stop/999", status=404) == "job 999 does not exist"


def test_a_job_of_another_kind_is_no_training(desk: Desk) -> None:
    other = desk.client.post("/api/jobs", json={"name": "backtest"}).json()
    assert "is no training but backtest" in desk.refused("GET", f"status/{other['id']}", status=404)
    assert "is no training but backtest" in desk.refused("POST", f"stop/{other['id']}", status=404)
    desk.client.post(f"/api/jobs/{other['id']}/stop")


def test_a_change_of_the_configuration_keeps_every_comment_and_is_what_comes_next(
    desk: Desk, done: dict[str, Any]
) -> None:
    path = desk.folder / "config.toml"
    before, was = path.read_text(), desk.ask("GET", "config")["ml"]
    told = desk.ask("PUT", "config", {"ml": {"folds": was["folds"] + 1, "learning_rate": 0.125}})
    after = path.read_text()
    changed = [(a, b) for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert [new.split("#")[0].split() for _, new in changed] == [
        ["folds", "=", str(was["folds"] + 1)],
        ["learning_rate", "=", "0.125"],
    ]
    assert all(old.partition("#")[2] == new.partition("#")[2] for old, new in changed)
    assert told["ml"] == desk.ask("GET", "config")["ml"] == was | {"folds": was["folds"] + 1, "learning_rate": 0.125}
    assert load(path, environ={}).ml.folds == was["folds"] + 1 and "+folds" in told["changed"]
    path.write_text(before)


def test_another_model_takes_over_and_the_first_may_go(desk: Desk, done: dict[str, Any]) -> None:
    begun = desk.ask("POST", "train", {**SAMPLE, "ml": QUICK | {"seed": 8}}, status=202)
    ended = desk.until(begun["id"], lambda found: found["job"]["state"] not in ("queued", "running"))
    first, second = done["results"], ended["results"]
    assert second["sha256"] != first["sha256"] and not desk.ask("GET", f"models/{second['model']}")["live_for"]
    assert desk.ask("POST", f"models/{second['model']}/activate", {"reason": "it is newer"})["live_for"] == [
        "sample EURUSD"
    ]
    gone = desk.ask("DELETE", f"models/{first['model']}")
    assert gone["state"] == "deleted" and not (desk.folder / "models" / gone["file"]).exists()
    assert [each["version"] for each in desk.ask("GET", "models")] == [second["model"]]
    assert len(desk.ask("GET", "models", deleted=True)) == 2
