"A small model, made in a fraction of a second: stages on the rows before each cut, as training makes them."

from collections.abc import Sequence

import numpy as np

from autotrader.config.sections import Ml
from autotrader.core.clock import DAY_MS
from autotrader.core.market import Candles
from autotrader.features.feature_set import FEATURES, RUN_IN_BARS, Feature, feature_matrix
from autotrader.features.labels import fixed_horizon_labels
from autotrader.ml.artefact import Model
from autotrader.ml.drift import reference_of
from autotrader.ml.stages import fit_stage

SHOWN = tuple(each for family in ("momentum", "funding", "volatility") for each in FEATURES if each.family == family)[
    :9
]
QUICK = Ml(min_child_samples=20, num_leaves=7, learning_rate=0.15, class_weight="balanced")


def taught(
    candles: Candles,
    *,
    cuts: Sequence[int] = (),  # bars at which a stage begins to speak; three, evenly spaced, where none is named
    features: Sequence[Feature] = SHOWN,
    settings: Ml = QUICK,
    horizon: int = 12,
    move: float = 0.01,
    rounds: int = 12,
    good_days: float = 30,
) -> Model:
    "A model of these candles; its last stage speaks on after their end."
    n, bar_ms, end_ms = len(candles), candles.bar_ms, int(candles.open_ms[-1]) + candles.bar_ms
    begins = list(cuts) or np.linspace(RUN_IN_BARS + 400, n, 3).astype(int).tolist()
    x, labels = feature_matrix(candles, features), fixed_horizon_labels(
        candles.close, horizon=horizon, up=move, down=-move
    )
    until_ms = end_ms + int(good_days * DAY_MS)
    stamps = [*(int(candles.open_ms[each]) if each < n else end_ms for each in begins), until_ms]
    stages, references = [], []
    for number, begin in enumerate(begins):
        rows = np.arange(RUN_IN_BARS, begin - horizon)
        known_ms = candles.open_ms[labels.end[rows]] + bar_ms
        span = {"from_ms": stamps[number], "until_ms": stamps[number + 1]}
        told = labels.value[rows], candles.open_ms[rows], known_ms
        stages.append(fit_stage(x[rows], *told, settings, **span, rounds=rounds, calibration=np.eye(3, 4)))
        references.append(reference_of(x[rows]))
    return Model(
        features=tuple(each.label for each in features),
        markets=((candles.venue, candles.symbol),),
        timeframe=candles.timeframe,
        stages=tuple(stages),
        references=tuple(references),
        parameters=settings.model_dump(mode="json"),
        fingerprints=("test",),
        rows=n - RUN_IN_BARS - horizon,
        learned_until_ms=end_ms,
        good_until_ms=until_ms,
        revision=None,
        scores={},
    )
