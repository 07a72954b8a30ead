"""A model's file: the same model is the same bytes anywhere, and bytes that nobody vouches for are never opened."""

import hashlib
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import joblib
import numpy as np
import pytest
from taught import taught

from autotrader.core.errors import AutotraderError, DataError, ModelError
from autotrader.core.market import Candles, ModelRef
from autotrader.features.columns import compute
from autotrader.features.feature_set import RUN_IN_BARS
from autotrader.ml import inference
from autotrader.ml.artefact import Model, from_bytes, load_model, save_model, to_bytes, under
from autotrader.store.database import Store, open_store

N = RUN_IN_BARS + 700


def walk(symbol: str = "BTCUSDT") -> Candles:
    close = 100.0 * np.exp(np.cumsum(np.random.default_rng(3).normal(scale=0.007, size=N)))
    prices = {"open": close, "high": 1.002 * close, "low": 0.998 * close, "close": close}
    return Candles(
        venue="bybit", symbol=symbol, timeframe="1h", open_ms=3_600_000 * np.arange(N), **prices, volume=close
    )


@pytest.fixture(scope="module")
def model() -> Model:
    return taught(walk(), cuts=[N - 200, N - 100])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store("sqlite:///a.db", folder=tmp_path, create=True)


@pytest.fixture(autouse=True)
def nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "_OPEN", type(inference._OPEN)())


def test_a_model_comes_back_as_it_was(model: Model) -> None:
    content = to_bytes(model)
    again = from_bytes(content, sha256=hashlib.sha256(content).hexdigest())
    assert to_bytes(again) == content
    assert (again.features, again.markets, again.parameters) == (model.features, model.markets, model.parameters)
    np.testing.assert_array_equal(
        compute("ML_UP_PROB", under(walk(), again)), compute("ML_UP_PROB", under(walk(), model))
    )


def test_the_same_model_has_the_same_bytes_in_another_process(model: Model, root: Path) -> None:
    code = (
        "import sys; sys.path[:0] = [sys.argv[1] + '/tests', sys.argv[1] + '/tests/unit'];"
        "import hashlib; from test_ml_artefact import N, taught, to_bytes, walk;"
        "print(hashlib.sha256(to_bytes(taught(walk(), cuts=[N - 200, N - 100]))).hexdigest())"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code, str(root)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("2",)
    }
    assert told == {hashlib.sha256(to_bytes(model)).hexdigest()}


def test_a_byte_that_fell_over_anywhere_is_noticed(model: Model, store: Store) -> None:
    saved = save_model(store, model, now_ms=0)
    content, mine = saved.path.read_bytes(), replace(walk(), model=saved.ref)
    for at in (
        0,
        1,
        len(content) // 2,
        len(content) - 1,
        *np.random.default_rng(1).integers(0, len(content), 20).tolist(),
    ):
        saved.path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        with pytest.raises(ModelError, match=r"is not what was registered .* and is not opened") as told:
            compute("ML_UP_PROB", mine)
        assert "\n" not in str(told.value)
    saved.path.write_bytes(content)
    assert np.isfinite(compute("ML_UP_PROB", mine)).sum() == 200


class Trap:
    "Opening its pickle writes a file."

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return self.sprung.write_text, ("gotcha",)


@pytest.mark.parametrize(
    "dump", [lambda trap: pickle.dumps(trap), lambda trap: _joblib(trap)], ids=["pickle", "joblib"]
)
def test_a_foreign_pickle_is_refused_unopened(model: Model, store: Store, tmp_path: Path, dump: object) -> None:
    saved, sprung = save_model(store, model, now_ms=0), tmp_path / "sprung"
    hostile = dump(Trap(sprung))  # type: ignore[operator]
    saved.path.write_bytes(hostile)
    for attempt in (
        lambda: compute("ML_UP_PROB", replace(walk(), model=saved.ref)),
        lambda: load_model(saved.ref),
        lambda: load_model(ModelRef(sha256=saved.sha256, artefact=hostile)),
    ):
        with pytest.raises(ModelError, match="is not opened"):
            attempt()
    assert not sprung.exists()
    joblib.load(BytesIO(hostile)) if dump is not pickle.dumps else pickle.loads(hostile)
    assert sprung.exists(), "the trap would have worked"


def _joblib(what: object) -> bytes:
    buffer = BytesIO()
    joblib.dump(what, buffer)
    return buffer.getvalue()


def test_a_file_of_a_later_version_is_refused_in_a_line() -> None:
    content = _joblib({"format": 2, "about": "{}", "arrays": []})
    with pytest.raises(ModelError, match="has format 2, this version reads 1: update autotrader"):
        from_bytes(content, sha256=hashlib.sha256(content).hexdigest())


def test_a_file_that_is_gone_is_named(model: Model, store: Store) -> None:
    saved = save_model(store, model, now_ms=0)
    saved.path.unlink()
    with pytest.raises(ModelError, match=f"model 1 cannot be read from .*{saved.path.name}: No such file") as told:
        compute("ML_UP_PROB", replace(walk(), model=saved.ref))
    assert "\n" not in str(told.value)


def test_a_model_of_another_market_or_timeframe_is_refused_in_a_line(model: Model) -> None:
    mine = under(walk(), model)
    for other in (replace(mine, symbol="ETHUSDT"), replace(mine, venue="binance"), replace(mine, timeframe="4h")):
        for name in ("ML_UP_PROB", "ML_AGE_DAYS", "ML_DRIFT", "ML_NOVELTY"):
            with pytest.raises(DataError, match="the model knows bybit BTCUSDT 1h, these bars are") as told:
                compute(name, other)
            assert "\n" not in str(told.value) and isinstance(told.value, AutotraderError) and told.value.exit_code == 2
