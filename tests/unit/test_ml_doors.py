"""The doors of machine learning: what comes in wrong goes out as one line, with exit code 2 and nothing half-written."""

import hashlib
import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import forked
import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

import autotrader as at
from autotrader.config.sections import Ml
from autotrader.config.settings import load as load_settings
from autotrader.config.settings import write_template
from autotrader.core.errors import AutotraderError, ConfigError, DataError, ModelError
from autotrader.desk.train import keys_of
from autotrader.jobs.templates import available, read
from autotrader.ml.artefact import let_speak, to_bytes
from autotrader.report.folder import read_manifest
from autotrader.store.database import open_store
from autotrader.store.registry import active_model, forget, register_model

KEYS: dict[str, Any] = {
    "threshold_up": 0.004,
    "threshold_down": -0.004,
    "folds": 2,
    "n_estimators": 15,
    "num_leaves": 7,
    "min_child_samples": 20,
}
END = ["deactivate", "--venue", "sample", "--symbol", "EURUSD", "--timeframe"]
TOLD = [word for name, value in KEYS.items() for word in ("-p", f"{name}={value}")]


@pytest.fixture(scope="module")
def candles() -> at.Candles:
    found: at.Candles = at.load("EURUSD", "1h", venue="sample", since="2017-07-01")
    return found


@pytest.fixture(scope="module")
def trained(candles: at.Candles) -> at.Training:
    found: at.Training = at.train(candles, progress=False, **KEYS)
    return found


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, trained: at.Training) -> Path:
    "A desk with one model that is live, and one that is not."
    folder = tmp_path_factory.mktemp("desk")
    write_template(folder, kind="sample")
    trained.save(config=folder / "config.toml", activate=True, reason="the first")
    other = replace(trained, model=replace(trained.model, parameters={**trained.model.parameters, "seed": 8}))
    other.save(config=folder / "config.toml")
    return folder


def left(folder: Path) -> tuple[Any, ...]:
    "All that a refusal must leave as it was."
    models = at.models(config=folder / "config.toml", venue="sample", deleted=True)
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "models").iterdir()}
    return [(each.version, each.state, each.live_for) for each in models], files, (folder / "config.toml").read_text()


def asked(folder: Path, *words: str) -> CompletedProcess[str]:
    return forked.command(*words, cwd=folder, env=os.environ)


@pytest.mark.parametrize(
    "kind, keys, says",
    [
        (ConfigError, {"prediction_horizon": 0}, "ml: ml.prediction_horizon|prediction_horizon = 0"),
        (ConfigError, {"threshold_up": -0.01}, "threshold_up = -0.01"),
        (ConfigError, {"threshold_down": 0.01}, "threshold_down = 0.01"),
        (ConfigError, {"threshold_up": 0.0}, "threshold_up = 0.0"),
        (ConfigError, {"threshold_down": -1.0}, "threshold_down = -1.0"),
        (ConfigError, {"threshold_down": -5}, "threshold_down = -5"),
        (ConfigError, {"bagging_fraction": 1e-300}, "bagging_fraction = 1e-300"),
        (ConfigError, {"feature_fraction": 0.001}, "feature_fraction = 0.001"),
        (ConfigError, {"prediction_horizon": 100_001}, "prediction_horizon = 100001"),
        (ConfigError, {"max_age_days": 10**9}, "max_age_days = 1000000000"),
        (ConfigError, {"folds": 1}, "folds = 1"),
        (ConfigError, {"fold": 3}, "did you mean 'folds'"),
        (ConfigError, {"split": "shuffled"}, "split = 'shuffled'"),
        (DataError, {"threshold_up": 0.5}, "no row is labelled up"),
        (DataError, {"prediction_horizon": 100_000}, "leave no row to learn from|too few"),
        (DataError, {"folds": 50, "prediction_horizon": 200}, "too few for 50 folds"),
    ],
)
def test_a_key_that_cannot_be_is_one_line(
    candles: at.Candles, kind: type[AutotraderError], keys: dict[str, Any], says: str
) -> None:
    with pytest.raises(kind, match=says) as told:
        at.train(candles, progress=False, **{**KEYS, **keys})
    assert "\n" not in str(told.value) and told.value.exit_code == 2


def test_candles_that_cannot_be_learned_from_are_one_line(candles: at.Candles) -> None:
    four = at.resample(candles, "4h")
    for markets, says in (
        ([], "none were given"),
        ([candles, candles], "is there twice"),
        ([candles, four], "one timeframe"),
        (candles[:200], "leave no row"),
    ):
        with pytest.raises(DataError, match=says) as told:
            at.train(markets, progress=False, **KEYS)
        assert "\n" not in str(told.value)


def test_a_model_of_another_market_or_timeframe_gives_no_number(trained: at.Training, candles: at.Candles) -> None:
    for other in (replace(candles, symbol="GBPUSD", instrument=None), at.resample(candles, "4h")):
        with pytest.raises(DataError, match="the model knows sample EURUSD 1h, these bars are"):
            trained.on(other)


def test_nothing_is_kept_without_a_desk_or_a_reason(
    trained: at.Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"config\.toml"):
        trained.save()
    write_template(tmp_path, kind="sample")
    with pytest.raises(ConfigError, match="wants a reason"):
        trained.save(activate=True)
    assert not (tmp_path / "models").exists() and len(at.models()) == 0


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(trained: at.Training, candles: at.Candles) -> None:
    again = at.train(candles, progress=False, **KEYS)
    assert to_bytes(again.model) == to_bytes(trained.model)
    other = at.train(candles, progress=False, **KEYS, seed=8)
    assert to_bytes(other.model) != to_bytes(trained.model)


def test_several_markets_make_one_model_and_a_line_of_worth_each(candles: at.Candles) -> None:
    rng = np.random.default_rng(3)
    walk = candles.close[0] * np.exp(np.cumsum(rng.normal(0, 0.001, len(candles))))
    moved = {"open": np.r_[walk[0], walk[:-1]], "close": walk}
    low, high = np.minimum(*moved.values()) * 0.9995, np.maximum(*moved.values()) * 1.0005
    other = replace(candles, symbol="GBPUSD", instrument=None, **moved, low=low, high=high)
    both = at.train([candles, other], progress=False, **KEYS)
    assert both.model.markets == (("sample", "EURUSD"), ("sample", "GBPUSD")) and len(both.worth) == 2
    text = " ".join(both.verdict)
    assert "EURUSD" in text and "GBPUSD" in text


def test_texts_of_a_job_become_what_a_key_wants() -> None:
    base = Ml()
    assert keys_of(base, dict.fromkeys(Ml.model_fields, "")) == base
    texts = {name: str(value) for name, value in base.model_dump().items()}
    assert keys_of(Ml(folds=9, label="triple_barrier"), texts) == base
    with pytest.raises(ConfigError, match=r"ml\.folds must be a whole number, was 'three'"):
        keys_of(base, {"folds": "three"})


def test_the_job_takes_every_key_of_the_configuration(desk: Path) -> None:
    template = read(available(desk)["train"])
    names = {each.name for each in template.parameters}
    assert names == {*Ml.model_fields, "venue", "symbol", "timeframe", "since", "until", "activate", "reason", "config"}


SAMPLE = ["-p", "venue=sample", "-p", "symbol=EURUSD"]


@pytest.mark.parametrize(
    "words, says",
    [
        (["-p", "symbol=XRPUSDT"], "nothing is stored of bybit XRPUSDT"),
        (["-p", "symbol=??"], "is not a market's name"),
        (["-p", "symbol="], "names no market"),
        (["-p", "venue=sample", "-p", "symbol=EURUSD,eur/usd"], "EURUSD is there twice"),
        (["-p", "venue=a b", "-p", "symbol=EURUSD"], "venue 'a b'"),
        ([*SAMPLE, "-p", "timeframe=7x"], "timeframe '7x'"),
        ([*SAMPLE, "-p", "since=soon"], "since 'soon' is not a date"),
        ([*SAMPLE, "-p", "since=2018-01-01", "-p", "until=2017-01-01"], "must lie before until"),
        ([*SAMPLE, "-p", "activate=true"], "wants a reason"),
        ([*SAMPLE, "-p", "prediction_horizon=0"], "prediction_horizon = 0"),
        ([*SAMPLE, "-p", "folds=three"], "ml.folds must be a whole number"),
    ],
)
def test_a_job_told_wrong_is_refused_before_there_is_a_row_or_a_folder(desk: Path, words: list[str], says: str) -> None:
    before = left(desk)
    done = asked(desk, "job", "run", "train", *words)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert says in done.stderr and " failed" not in done.stderr
    assert left(desk) == before and not (desk / "reports" / "train").exists()
    assert json.loads(asked(desk, "job", "list", "--json").stdout)["jobs"] == []


def test_a_parameter_there_is_not_starts_nothing(desk: Path) -> None:
    done = asked(desk, "job", "run", "train", "-p", "horizon=24")
    assert (done.returncode, done.stdout) == (2, "") and "there is no parameter 'horizon'" in done.stderr


def test_a_job_trains_the_same_bytes_registers_them_and_tells_what_it_used(desk: Path, trained: at.Training) -> None:
    done = asked(desk, "job", "run", "train", *SAMPLE, "-p", "since=2017-07-01", *TOLD, "--json")
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)
    manifest = read_manifest(desk / job["folder"])
    results = manifest.results or {}
    assert results["sha256"] == hashlib.sha256(to_bytes(trained.model)).hexdigest()
    assert (results["model"], len(at.models(config=desk / "config.toml"))) == (
        1,
        2,
    )  # the same bytes are the same version
    assert {name: manifest.parameters[name] for name in KEYS} == {name: str(value) for name, value in KEYS.items()}
    assert {name: results["ml"][name] for name in KEYS} == KEYS and manifest.seeds == {"ml": results["ml"]["seed"]}
    assert {"report.html", "model.html", "folds.csv", "features.csv"} <= set(manifest.files or {})
    assert manifest.data and results["verdict"][0].startswith("The model is ")
    page = (desk / job["folder"] / "report.html").read_text()
    assert results["verdict"][0] in page and page.count('class="at-plot"') >= 6


def test_the_command_line_shows_and_moves_models(desk: Path) -> None:
    rows = json.loads(asked(desk, "model", "list", "--json").stdout)["models"]
    first = next(row for row in rows if row["live_for"])
    shown = asked(desk, "model", "show", str(first["version"]))
    assert shown.returncode == 0 and shown.stdout.startswith("The model is ") and "the first" in shown.stdout
    assert max(map(len, asked(desk, "model", "list").stdout.splitlines())) <= 120
    told = json.loads(asked(desk, "model", "activate", "2", "--reason", "a try", "--json").stdout)
    assert told["live_for"] == ["sample EURUSD"]
    market = ("--venue", "sample", "--symbol", "EURUSD", "--timeframe", "1h")
    ended = asked(desk, "model", "deactivate", *market, "--reason", "none for now")
    assert (ended.returncode, ended.stdout) == (0, "no model speaks for sample EURUSD 1h any more\n")
    rows = json.loads(asked(desk, "model", "list", "--json").stdout)["models"]
    assert not any(row["live_for"] for row in rows)
    back = asked(desk, "model", "activate", str(first["version"]), "--reason", "back again")
    assert back.returncode == 0 and told["verdict"][0] in back.stdout.splitlines()[1]
    gone = json.loads(asked(desk, "model", "delete", "2", "--json").stdout)
    assert gone["state"] == "deleted" and not Path(gone["file"]).exists()
    assert asked(desk, "model", "clean", "--keep", "50", "--days", "500").stdout == "deleted: none\n"


@pytest.mark.parametrize(
    "words, says",
    [
        (["show", "999"], "there is no model '999'"),
        (["activate", "999", "--reason", "x"], "there is no model '999'"),
        (["activate", "1"], "--reason"),
        (["activate", "1", "--reason", " "], "who wants it and why"),
        (["delete", "1"], "model 1 is live for sample EURUSD"),
        (["delete", "1"], "autotrader model deactivate"),
        (["deactivate", "--venue", "sample", "--symbol", "EURUSD", "--reason", "x"], "--timeframe"),
        ([*END, "4h", "--reason", "x"], "no model speaks for sample EURUSD 4h"),
        ([*END, "1h", "--reason", " "], "who wants it and why"),
        (["clean", "--keep", "0"], "keeps 1 version or more"),
        (["clean", "--days", "inf"], "keeps 1 version or more"),
        (["list", "--symbol", "??"], "is not a market's name"),
        (["list", "--symbol", "a/b/c"], "is not a market's name"),
        (["list", "--timeframe", "7x"], "7x"),
    ],
)
def test_the_command_line_refuses_in_one_line(desk: Path, words: list[str], says: str) -> None:
    before = left(desk)
    done = asked(desk, "model", *words)
    assert done.returncode == 2 and says in done.stderr, done.stderr
    assert done.stdout == "" and left(desk) == before


def test_a_timeframe_that_is_not_stored_and_a_market_without_data_are_one_line(desk: Path) -> None:
    for symbol, timeframe, venue in (("XRPUSDT", "1h", "bybit"), ("EURUSD", "15m", "sample")):
        with pytest.raises(DataError, match=f"{symbol}.*{timeframe}|{timeframe}.*{symbol}") as told:
            at.load(symbol, timeframe, venue=venue, config=desk / "config.toml")
        assert "\n" not in str(told.value)


def test_bytes_that_are_no_model_never_speak(trained: at.Training, tmp_path: Path) -> None:
    write_template(tmp_path, kind="sample")
    config = tmp_path / "config.toml"
    settings = load_settings(config)
    model = trained.model
    told: dict[str, Any] = {
        "markets": model.markets,
        "timeframe": "1h",
        "fingerprint": "f",
        "parameters": {},
        "scores": {},
    }
    times = {"learned_until_ms": model.learned_until_ms, "good_until_ms": model.good_until_ms, "now_ms": 1}
    whole = to_bytes(model)
    with open_store(settings.database_url, folder=tmp_path, declared={}, create=True) as store:
        for content in (b"", b"no model", whole[:-100], whole[:50] + whole[60:]):
            version = register_model(store, content, **told, **times).version
            with pytest.raises(ModelError, match="holds no model that can be read") as said:
                let_speak(store, version, who="me", reason="a try", now_ms=2)
            assert "\n" not in str(said.value) and active_model(store, "sample", "EURUSD", "1h") is None
    done = asked(tmp_path, "model", "activate", "2", "--reason", "a try")
    assert done.returncode == 1 and "holds no model" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"candles": None}, "a model learns from candles"),
        ({"candles": "BTCUSDT"}, "was str"),
        ({"hear": 3}, "hear must be a function"),
        ({"costs": {"nonsense": 1}}, "nonsense"),
    ],
)
def test_an_argument_that_cannot_be_is_refused_before_training(
    candles: at.Candles, wrong: dict[str, Any], says: str
) -> None:
    def never(part: float, what: str) -> None:
        raise AssertionError("it trains")

    with pytest.raises(ConfigError, match=says) as told:
        at.train(**{"candles": candles, "hear": never, "progress": False, **KEYS, **wrong})
    assert "\n" not in str(told.value)


def test_a_frame_is_no_candles(candles: at.Candles) -> None:
    with pytest.raises(ConfigError, match="was DataFrame"):
        at.train(pd.DataFrame({"close": candles.close}))


def test_numbers_of_numpy_are_numbers() -> None:
    told = keys_of(Ml(), {"folds": np.int64(3), "learning_rate": np.float32(0.5), "label": np.str_("triple_barrier")})
    assert (told.folds, told.learning_rate, told.label) == (3, 0.5, "triple_barrier")


def ended(folder: Path, number: int) -> dict[str, Any]:
    for _ in range(600):
        (row,) = (r for r in json.loads(asked(folder, "job", "list", "--json").stdout)["jobs"] if r["id"] == number)
        if row["state"] not in ("queued", "running"):
            return dict(row)
        time.sleep(0.5)
    raise AssertionError("it does not end")


def test_a_training_whose_report_cannot_be_written_leaves_no_model(desk: Path) -> None:
    before = left(desk)
    wanted = [*SAMPLE, "-p", "since=2017-07-01", *TOLD, "-p", "seed=11", "-p", "activate=true", "-p", "reason=new"]
    begun = json.loads(asked(desk, "job", "run", "train", *wanted, "--detach", "--json").stdout)
    (desk / begun["folder"] / "folds.csv").mkdir()
    row = ended(desk, begun["id"])
    assert row["state"] == "failed" and "IsADirectoryError" in row["error"] and left(desk) == before


def test_a_clean_up_that_fails_is_told_and_fails_no_training(desk: Path) -> None:
    settings = load_settings(desk / "config.toml")
    refuse = "CREATE TRIGGER stuck BEFORE UPDATE OF state ON models WHEN NEW.state = 'deleted' BEGIN SELECT RAISE(ABORT, 'stuck'); END"
    with open_store(settings.database_url, folder=desk, declared={}) as store:
        old = register_model(
            store, b"old", markets=[("sample", "EURUSD")], timeframe="1h", learned_until_ms=1, good_until_ms=2,
            fingerprint="f00d", parameters={}, scores={}, now_ms=0,
        )  # fmt: skip
        with store.begin() as connection:
            connection.execute(sa.text(refuse))
    wanted = [*SAMPLE, "-p", "since=2017-07-01", *TOLD, "-p", "seed=12", "-p", "keep_models=1"]
    done = asked(desk, "job", "run", "train", *wanted, "--json")
    with open_store(settings.database_url, folder=desk, declared={}) as store:
        with store.begin() as connection:
            connection.execute(sa.text("DROP TRIGGER stuck"))
        forget(store, old.version)
    assert done.returncode == 0, done.stderr
    folder = desk / json.loads(done.stdout)["folder"]
    assert "Old models were not cleaned away: " in (folder / "report.html").read_text()
    results = read_manifest(folder).results or {}
    (version,) = (each.version for each in at.models(config=desk / "config.toml") if each.sha256 == results["sha256"])
    assert (results["model"], results["activated"]) == (version, False)
    at.models(config=desk / "config.toml").delete(version)


def test_what_lasts_is_the_last_thing_a_training_does(desk: Path) -> None:
    cells = ["".join(each["source"]) for each in json.loads(read(available(desk)["train"]).text)["cells"]]
    acts = [number for number, text in enumerate(cells) if re.search(r"models\.(add|activate|clean)\(", text)]
    assert acts == [len(cells) - 1]
