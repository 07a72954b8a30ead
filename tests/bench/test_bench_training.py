"""Training at full size, beside scikit-learn's own pipeline on the same rows: what scaling, folds and boosting cost, and what honesty costs besides."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROWS, COLUMNS, FOLDS, ROUNDS, THREADS = 70_000, 70, 5, 60, 2
HOUR_MS, HORIZON = 3_600_000, 24
GROWTH: dict[str, Any] = {"num_leaves": 31, "learning_rate": 0.05}
MOST = 4.0  # times scikit-learn's pipeline, with a final stage, early stopping, calibration, baselines and importances


def planted() -> tuple[np.ndarray, np.ndarray]:
    "A weak signal in three of the columns, so that boosting has something to do."
    rng = np.random.default_rng(7)
    x = rng.normal(size=(ROWS, COLUMNS))
    x[rng.random(x.shape) < 0.02] = np.nan
    tells = np.nan_to_num(x[:, 0] + 0.5 * x[:, 1] * x[:, 2])
    return x, np.digitize(tells + rng.normal(scale=2.0, size=ROWS), [-1.5, 1.5]).astype(np.int8)


def ours(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    from autotrader.config.sections import Ml
    from autotrader.features.feature_set import Feature
    from autotrader.ml.dataset import Dataset
    from autotrader.ml.training import train_on

    open_ms = HOUR_MS * np.arange(ROWS)
    shown = tuple(Feature(name="rocp", params=(("period", float(2 + n)),)) for n in range(COLUMNS))
    data = Dataset(
        features=shown, markets=(("bench", "BENCH"),), timeframe="1h", bar_ms=HOUR_MS, x=x, y=y, open_ms=open_ms,
        known_ms=open_ms + (HORIZON + 1) * HOUR_MS, market=np.zeros(ROWS, np.int64),
        end_ms=int(open_ms[-1]) + (HORIZON + 1) * HOUR_MS, fingerprints=("f",),
    )  # fmt: skip
    at, cpu, told = time.perf_counter(), time.process_time(), []
    keys = Ml(folds=FOLDS, n_estimators=ROUNDS, threads=THREADS, class_weight="none", min_child_samples=50, **GROWTH)
    found = train_on(data, keys, on_progress=lambda each: told.append((each.what, time.perf_counter())))
    ends = {what: when for what, when in told}
    total = found.judged.total
    return {
        "s": time.perf_counter() - at,
        "cpu_s": time.process_time() - cpu,
        "folds_s": ends["stage"] - at,
        "skill": found.judged.skill.estimate,
        "log_loss": total.model.log_loss,
        "rounds": [stage.rounds for stage in found.model.stages],
    }


def scikit(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    from lightgbm import LGBMClassifier
    from sklearn.metrics import log_loss
    from sklearn.model_selection import TimeSeriesSplit
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    at, cpu, losses = time.perf_counter(), time.process_time(), []
    for train, test in TimeSeriesSplit(n_splits=FOLDS, gap=HORIZON).split(x):
        trees = LGBMClassifier(
            n_estimators=ROUNDS, **GROWTH, min_child_samples=50, colsample_bytree=0.8, subsample=0.8,
            subsample_freq=1, random_state=7, n_jobs=THREADS, verbosity=-1,
        )  # fmt: skip
        fitted = make_pipeline(StandardScaler(), trees).fit(x[train], y[train])
        losses.append(log_loss(y[test], fitted.predict_proba(x[test])))
    return {
        "s": time.perf_counter() - at,
        "cpu_s": time.process_time() - cpu,
        "log_loss": float(np.mean(losses)),
    }


def test_bench_training_beside_scikit_learns_pipeline(capsys: pytest.CaptureFixture[str]) -> None:
    passive = {**os.environ, "OMP_WAIT_POLICY": "passive"}  # threads that wait leave the core to who works
    done = subprocess.run([sys.executable, Path(__file__)], env=passive, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    house, theirs = found["ours"], found["scikit"]
    with capsys.disabled():
        print(
            f"\ntraining, {ROWS:,} rows × {COLUMNS} columns × {FOLDS} folds, {THREADS} threads, at most {ROUNDS} rounds: {house['s']:.1f} s ({house['cpu_s']:.1f} s CPU), "
            f"the folds alone {house['folds_s']:.1f} s, rounds {house['rounds']}, log-loss {house['log_loss']:.4f}, skill {house['skill']:+.4f}; "
            f"scikit-learn's StandardScaler + LGBMClassifier over TimeSeriesSplit {theirs['s']:.1f} s ({theirs['cpu_s']:.1f} s CPU), log-loss {theirs['log_loss']:.4f}"
        )
    assert house["cpu_s"] < MOST * theirs["cpu_s"]
    assert house["log_loss"] < 1.01 * theirs["log_loss"]


if __name__ == "__main__":
    rows = planted()
    print(json.dumps({"scikit": scikit(*rows), "ours": ours(*rows)}))
