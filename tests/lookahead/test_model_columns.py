"""What a model says of a bar depends on the bars up to it and on nothing else: not on later bars, nor on what was asked before."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from harness import walk
from taught import SHOWN, taught

from autotrader.core.errors import DataError
from autotrader.core.market import Candles, Floats
from autotrader.features.columns import Scale, cached, column, columns, compute, register
from autotrader.features.feature_set import RUN_IN_BARS, Feature
from autotrader.ml import inference
from autotrader.ml.artefact import Model, under
from autotrader.ml.inference import ages_days, drifts, novelties, on_trial, predicted, predictor
from autotrader.strategy.check import check
from autotrader.strategy.lookahead import absurd, spliced
from autotrader.strategy.templates import decide, explain, make

MODELS = [name for name, spec in columns().items() if spec.needs_model]
Said = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def candles() -> Candles:
    return walk(RUN_IN_BARS + 1_300, seed=21)


@pytest.fixture(scope="module")
def model(candles: Candles) -> Model:
    "Speaks from the 600th bar after the run-in on, in three stages, and is too old 100 bars before the end."
    cuts = [RUN_IN_BARS + each for each in (600, 800, 1_000)]
    return taught(candles[: cuts[2]], cuts=cuts, good_days=200 / 24)


def forgetful(model: Model) -> Callable[[Candles], Said]:
    "Everything that is said of candles, by somebody who has never seen any."

    def answer(bars: Candles) -> Said:
        new = predictor(model)
        proba = predicted(new, bars)
        told = {f"proba_{of}": proba[:, of] for of in range(3)}
        told |= {"novelty": novelties(new, bars), "age": ages_days(new, bars)}
        return told | {
            "drift": drifts(new, bars, feature=0, window=100),
            "first": drifts(new, bars, feature=1, window=100),
        }

    return answer


@pytest.fixture(scope="module")
def batch(candles: Candles, model: Model) -> Said:
    return forgetful(model)(candles)


def test_there_is_a_number_where_a_stage_speaks_and_nowhere_else(batch: Said, candles: Candles) -> None:
    first, last = RUN_IN_BARS + 600, RUN_IN_BARS + 1_200
    for name, values in batch.items():
        assert np.isfinite(values[first:last]).all(), name
        assert np.isnan(values[:first]).all() and np.isnan(values[last:]).all(), name
    proba = np.stack([batch[f"proba_{of}"] for of in range(3)], axis=1)[first:last]
    np.testing.assert_allclose(proba.sum(axis=1), 1.0, atol=1e-12)
    assert len(np.unique(proba[:, 2])) > 100


def test_every_bar_alone_says_what_all_together_say(batch: Said, candles: Candles, model: Model) -> None:
    "Nobody remembers anything, and somebody remembers all: both are the batch to the last bit, at every bar."
    answer, grown = forgetful(model), predictor(model)
    for at in range(RUN_IN_BARS + 560, len(candles)):
        bars = candles[: at + 1]
        growing = {"proba_2": predicted(grown, bars)[:, 2], "drift": drifts(grown, bars, feature=0, window=100)}
        alone = answer(bars) if at % 7 == 0 or at % 200 < 3 else {}
        for name, values in (*growing.items(), *alone.items()):
            np.testing.assert_array_equal(values, batch[name][: at + 1], err_msg=f"{name} at bar {at}")


def test_no_bar_knows_a_later_one(batch: Said, candles: Candles, model: Model) -> None:
    "Every later bar is absurd: what is said up to each bar stays, by one who forgets and by one who remembers."
    answer, poison, grown = forgetful(model), absurd(candles), predictor(model)
    for last in range(RUN_IN_BARS + 590, len(candles) - 1):
        bars = spliced(candles, poison, last + 1)
        remembered = {"proba_2": predicted(grown, bars)[:, 2]}
        alone = answer(bars) if last % 11 == 0 or last % 200 < 2 else {}
        for name, values in (*remembered.items(), *alone.items()):
            np.testing.assert_array_equal(values[: last + 1], batch[name][: last + 1], err_msg=f"{name} at {last}")
    assert not np.array_equal(answer(spliced(candles, poison, 1_900))["proba_2"], batch["proba_2"], equal_nan=True)


def test_what_was_asked_before_changes_no_answer(batch: Said, candles: Candles, model: Model) -> None:
    one, rng = predictor(model), np.random.default_rng(4)
    other = replace(candles, close=candles.close * 1.01, high=candles.high * 1.02)
    for _ in range(60):
        begin, end = int(rng.integers(0, 3)), int(rng.integers(RUN_IN_BARS + 500, len(candles)))
        bars = (candles if rng.random() < 0.7 else other)[begin:end]
        fresh = predictor(model)
        np.testing.assert_array_equal(predicted(one, bars), predicted(fresh, bars))
        np.testing.assert_array_equal(
            drifts(one, bars, feature=0, window=100), drifts(fresh, bars, feature=0, window=100)
        )


def test_numbers_written_into_the_candles_are_noticed(candles: Candles, model: Model) -> None:
    one, mine = predictor(model), replace(candles, close=candles.close.copy())
    before = predicted(one, mine)
    mine.close[1_850:] *= 0.97
    after = predicted(one, mine)
    np.testing.assert_array_equal(after, predicted(predictor(model), mine))
    np.testing.assert_array_equal(after[:1_850], before[:1_850])
    assert not np.array_equal(after, before, equal_nan=True)


def test_funding_that_falls_silent_is_missing_and_no_error(batch: Said, candles: Candles, model: Model) -> None:
    silent = replace(candles, extras={})
    found = forgetful(model)(silent)
    assert np.isfinite(found["proba_2"]).sum() == np.isfinite(batch["proba_2"]).sum()


def test_all_columns_of_a_model_are_found_by_name_and_say_who_is_missing(candles: Candles, model: Model) -> None:
    assert MODELS == ["ML_AGE_DAYS", "ML_DOWN_PROB", "ML_DRIFT", "ML_NOVELTY", "ML_RANGE_PROB", "ML_UP_PROB"]
    mine = under(candles, model)
    for name in MODELS:
        assert np.isfinite(compute(name, mine)).sum() == 600, name
        assert np.isnan(compute(name, mine)[: column(name).warmup()]).all()
        with pytest.raises(DataError, match="no model speaks for test WALK 1h: `autotrader job run train` trains one"):
            compute(name, candles)
    with pytest.raises(DataError, match="the model knows test WALK 1h, these bars are test OTHER 1h"):
        compute("ML_UP_PROB", replace(mine, symbol="OTHER"))


def test_a_cache_of_candles_tells_models_apart(candles: Candles, model: Model) -> None:
    cuts = [RUN_IN_BARS + each for each in (600, 800)]
    shared = cached(under(candles, model))
    younger = replace(shared, model=under(candles, taught(candles[: cuts[1]], cuts=cuts)).model)
    first, second = compute("ML_UP_PROB", shared), compute("ML_UP_PROB", younger)
    assert compute("ML_UP_PROB", shared) is first and compute("ML_UP_PROB", younger) is second
    assert not np.array_equal(first, second, equal_nan=True)


def test_what_stands_beside_or_is_longer_has_no_model(candles: Candles, model: Model) -> None:
    from autotrader.data.joined import resample

    mine = under(candles, model)
    other = replace(under(candles, model), symbol="WALL")
    assert resample(mine, "4h").model is None
    beside = mine.beside(other)
    assert (beside.model, beside.other("WALL").model, beside[5:].model) == (mine.model, None, mine.model)
    assert cached(mine).model == cached(mine)[5:].model == mine.model


def test_the_rule_on_a_model_decides_at_every_bar_what_it_decides_in_batch(candles: Candles, model: Model) -> None:
    mine, rule = under(candles, model), make("ml_probability", {"threshold": 0.4, "exit": 0.3})
    said = decide(rule, mine)
    spoken = slice(RUN_IN_BARS + 600, RUN_IN_BARS + 1_200)
    assert {-1, 1} <= set(said.direction[spoken].tolist())
    assert not said.direction[: spoken.start + 1].any() and not said.direction[spoken.stop :].any()
    for at in range(RUN_IN_BARS + 590, len(candles), 3):
        live = decide(rule, mine[: at + 1])
        assert (live.direction[-1], live.exits[-1]) == (said.direction[at], said.exits[at]), f"bar {at}"


def test_a_decision_tells_the_five_features_that_moved_it_most(candles: Candles, model: Model) -> None:
    mine, rule = under(candles, model), make("ml_probability", {"threshold": 0.4, "exit": 0.3})
    at = int(np.flatnonzero(decide(rule, mine).direction)[5])
    told = explain(rule, mine, at)
    assert told == explain(rule, mine[: at + 1], at)
    assert told["ML_UP_PROB"] == compute("ML_UP_PROB", mine)[at] and told["ML_MODEL"] == 0
    for name in ("ML_UP_PROB", "ML_DOWN_PROB"):
        why = {label: value for label, value in told.items() if label.startswith(f"{name}: ")}
        sizes = [abs(value) for value in why.values()]
        assert len(why) == 5 and sizes == sorted(sizes, reverse=True) and sizes[-1] > 0
        assert {label.removeprefix(f"{name}: ") for label in why} <= set(model.features)


def test_nothing_heavy_is_loaded_before_a_value_is_wanted(root: object) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from autotrader.features.columns import columns; from autotrader.strategy.templates import make;"
        "make('ml_probability'); assert columns()['ML_UP_PROB'].needs_model;"
        "print([m for m in ('lightgbm', 'sklearn', 'joblib', 'autotrader.ml.inference') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_model_that_was_opened_stays_open_up_to_a_number(candles: Candles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "MODELS", 2)
    monkeypatch.setattr(inference, "_OPEN", type(inference._OPEN)())
    cuts = [RUN_IN_BARS + 500]
    many = [under(candles[: cuts[0] + more], taught(candles[: cuts[0] + more], cuts=cuts)) for more in (0, 1, 2)]
    speakers = [inference.speaker(each) for each in many]
    assert inference.speaker(many[2]) is speakers[2] and inference.speaker(many[0]) is not speakers[0]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    "Rows of features that are worked out from here on, call by call."
    calls, real = list[int](), inference.feature_matrix

    def spied(candles: Candles, features: Sequence[Feature], *, first: int = 0) -> np.ndarray:
        calls.append(len(candles) - first)
        return real(candles, features, first=first)

    monkeypatch.setattr(inference, "feature_matrix", spied)
    return calls


def test_a_check_works_out_few_rows_for_thousands_of_cuts(
    candles: Candles, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, rule = counted(monkeypatch), make("ml_probability", {"threshold": 0.4, "exit": 0.3})
    report = check(rule, under(candles, model), bars=600)
    assert report.offence is None and report.entries > 0
    assert sum(test.runs for test in report.tests[:2]) > 1_200
    assert {test.name: test.runs for test in report.tests}["model"] >= 100
    assert len(calls) < 700


def test_a_check_finds_a_feature_that_knows_the_next_bar(candles: Candles, more_columns: None) -> None:
    @register(name="next_step_of_test", inputs=("close",), scale=Scale.RATIO)
    def peek(close: Floats) -> Floats:
        "what comes next"
        return np.append(close[1:] / close[:-1] - 1.0, 0.0)

    cheat = taught(
        candles,
        cuts=[RUN_IN_BARS + 600],
        features=(*SHOWN[:3], Feature(name="next_step_of_test")),
        horizon=1,
        move=0.004,
    )
    report = check(make("ml_probability", {"threshold": 0.4, "exit": 0.3}), under(candles, cheat), bars=60)
    found = {test.name: test.offence for test in report.tests}["model"]
    assert found is not None and report.verdict == "looks ahead"
    assert found.column.startswith("ML_") and found.then != found.now


def test_bars_on_trial_are_those_that_were_given_and_no_others(candles: Candles, model: Model, batch: Said) -> None:
    one, poison = predictor(model), absurd(candles)
    truth, spoilt = batch["proba_2"], predicted(predictor(model), poison)[:, 2]
    changed = replace(candles, close=np.where(np.arange(len(candles)) == 1_900, 1.0, candles.close))
    with on_trial(one, candles, poison):
        for cut in (1, RUN_IN_BARS + 700, len(candles) - 1):
            said = predicted(one, spliced(candles, poison, cut))[:, 2]
            np.testing.assert_array_equal(said, np.concatenate([truth[:cut], spoilt[cut:]]))
            np.testing.assert_array_equal(predicted(one, candles[:cut])[:, 2], truth[:cut])
        assert not one.memories
        np.testing.assert_array_equal(predicted(one, changed), predicted(predictor(model), changed))
        np.testing.assert_array_equal(predicted(one, candles[3:]), predicted(predictor(model), candles[3:]))
    assert one.trial is None
    np.testing.assert_array_equal(predicted(one, spliced(candles, poison, 1_900))[:1_900, 2], truth[:1_900])


def test_a_new_bar_of_many_markets_costs_a_row_each(
    candles: Candles, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"W{number}" for number in range(9)]
    many = [replace(candles, symbol=name) for name in names]
    one = predictor(replace(model, markets=tuple((candles.venue, name) for name in names)))
    for each in many:
        predicted(one, each[:-700])
    calls = counted(monkeypatch)
    for each in many:
        predicted(one, each[:-699])
    assert calls == [1] * len(many)
    monkeypatch.setattr(inference, "MEMORY_BYTES", 3 * next(iter(one.memories.values())).size)
    predicted(one, many[0])
    assert 1 <= len(one.memories) <= 3


def test_a_stage_says_nothing_of_bars_it_learned_what_came_after(candles: Candles, model: Model, batch: Said) -> None:
    first, last = RUN_IN_BARS + 600, RUN_IN_BARS + 800
    later = int(candles.open_ms[first + 50]) + candles.bar_ms
    knows = replace(model, stages=(replace(model.stages[0], learned_until_ms=later), *model.stages[1:]))
    said = forgetful(knows)(candles)
    for name in ("proba_2", "novelty", "drift", "age"):
        assert np.isnan(said[name][first : first + 50]).all() and np.isfinite(said[name][first + 50 : last]).all(), name
    np.testing.assert_array_equal(said["proba_2"][first + 50 :], batch["proba_2"][first + 50 :])
