"""The report of a training: its first line is the truth, every figure stands beside the prior, nothing in it is markup that came from outside."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import autotrader as at
from autotrader.ml.scores import as_json
from autotrader.ml.stages import LEAST_ROUNDS
from autotrader.report.model import display, drifts, page
from autotrader.results.model import verdict

KEYS: dict[str, Any] = {
    "threshold_up": 0.004,
    "threshold_down": -0.004,
    "folds": 2,
    "n_estimators": 15,
    "num_leaves": 7,
    "min_child_samples": 20,
}


@pytest.fixture(scope="module")
def trained() -> at.Training:
    found: at.Training = at.train(at.load("EURUSD", "1h", venue="sample", since="2017-07-01"), progress=False, **KEYS)
    return found


@pytest.fixture(scope="module")
def text(trained: at.Training) -> str:
    return page(trained, trained.worth, made="2026-03-01T12:00:00Z")


def test_the_first_line_says_whether_the_model_knew_anything(trained: at.Training, text: str) -> None:
    word = "better" if trained.judged.is_better else "no better"
    assert re.search(rf'<p class="lead">The model is {word} than the prior', text)
    assert (
        text.index('class="lead"')
        < text.index('class="tiles"')
        < text.index("What it is worth")
        < text.index("Over time")
    )
    assert re.search(rf"<b>The model is {word} than the prior", display(trained, trained.worth))


def test_a_model_that_is_worse_than_the_prior_cannot_look_better(trained: at.Training) -> None:
    parameters = dict(trained.model.parameters)
    base = as_json(trained.judged)
    for low, edge, says in (
        (-0.1, -0.01, "no better than the prior."),
        (-0.1, 0.01, "no better than the prior, as far as"),
        (0.01, 0.01, "better than the prior."),
    ):
        skill = {"estimate": edge, "low": low, "high": 0.2, "level": 0.95}
        told = verdict({**base, "edge": edge, "skill": skill, "is_better": low > 0}, parameters)
        assert told[0].startswith(f"The model is {says}")


def test_the_second_sentence_says_whether_it_knows_which_way(trained: at.Training, text: str) -> None:
    base, parameters = as_json(trained.judged), dict(trained.model.parameters)
    assert base["direction"]["rows"] == (trained.data.y[trained.fold >= 0] != 1).sum()
    for is_better, is_known, says in (
        (True, True, "It knows direction, up from down."),
        (True, False, "It knows how much the price will move, not which way"),
        (False, True, "Of direction alone, up from down, it knows more than the prior."),
        (False, False, "Nor does it know direction"),
    ):
        way = base["direction"] | {"is_known": is_known}
        told = verdict({**base, "is_better": is_better, "direction": way}, parameters)
        assert told[1].startswith(says) and f"{way['model']:.4f}, the prior's {way['prior']:.4f}" in told[3]
    few = {**base, "direction": base["direction"] | {"skill": None}}
    assert verdict(few, parameters)[1].startswith("Too few bars went up or down")
    old = {name: value for name, value in base.items() if name != "direction"}  # of a model from before
    assert verdict(old, parameters)[1].startswith("Its log-loss is")
    way = trained.judged.direction
    assert re.search(f"up against down, nats.*?{way.model:.4f}.*?{way.prior:.4f}", text, re.DOTALL)


def test_the_notes_tell_of_the_last_stage_and_of_the_least_rounds(trained: at.Training, text: str) -> None:
    *judged, last = trained.model.stages
    assert last.rounds == int(np.median([stage.rounds for stage in judged])) and last.rows == len(trained.data.y)
    assert "the median of the judged stages" in text and "from their out-of-fold answers" in text
    assert f"A stage keeps {LEAST_ROUNDS} rounds of boosting at least" in text


def test_what_the_last_stage_reads_and_no_judged_one_did_is_named(trained: at.Training) -> None:
    *judged, last = trained.model.stages
    place = int(last.kept[0])
    without = [replace(stage, kept=stage.kept[stage.kept != place]) for stage in judged]
    model = replace(trained.model, stages=(*without, last))
    new = f"({trained.model.features[place]}) that no judged stage had"
    assert new in page(replace(trained, model=model))
    half = replace(trained.model, stages=(*without[:1], *judged[1:], last))
    assert new not in page(replace(trained, model=half))


def test_every_figure_stands_beside_the_prior_and_the_majority(trained: at.Training, text: str) -> None:
    total = trained.judged.total
    for name in ("log_loss", "brier"):
        for of in (total.model, total.prior, total.majority):
            assert f"{getattr(of, name):,.4f}" in text
    for heading in (
        "Beside the prior and the majority",
        "Class by class",
        "Over time",
        "How sure it may be",
        "What it looks at",
        "What has changed",
        "What was left out",
        "Its stages",
        "What was asked",
    ):
        assert f"<h3>{heading}</h3>" in text
    assert text.count('class="at-plot"') >= 6
    names = {each for each in trained.model.features if each in text}
    assert len(names) >= 20 and all(f"<span>{key}</span>" in text for key in trained.model.parameters)


def test_it_needs_nothing_from_elsewhere_and_takes_no_text_for_markup(trained: at.Training, text: str) -> None:
    assert re.findall(r"(?:href|src)=\"(?!#)[^\"]*\"|url\(|@import|<script", text) == []
    assert re.findall(r">\s*nan\s*<|\bnan %|>None<", text) == []
    evil = "<script>alert(1)</script>"
    model = replace(
        trained.model,
        features=tuple(f"{evil}{k}" for k in range(len(trained.model.features))),
        revision=evil,
        markets=((evil, "X"),),
    )
    assert "<script>" not in page(replace(trained, model=model), [evil])


def test_a_feature_that_moved_is_named_first(trained: at.Training) -> None:
    last = trained.fold == trained.fold.max()
    x = trained.data.x.copy()
    k = int(np.flatnonzero(~np.isnan(x).any(axis=0))[0])
    x[last, k] = np.nanmax(x[:, k]) + 1.0
    moved = replace(trained, data=replace(trained.data, x=x))
    assert drifts(moved)[0].feature == trained.model.features[k] and drifts(moved)[0].psi > 0.25


def test_a_purged_split_is_told_for_what_it_is(trained: at.Training) -> None:
    told = verdict(trained.model.scores, {**trained.model.parameters, "split": "purged"})
    assert "nobody could have had this record at the time" in " ".join(told)


def test_a_purged_model_is_not_traded_and_says_why(trained: at.Training) -> None:
    model = replace(trained.model, parameters={**trained.model.parameters, "split": "purged"})
    (why,) = replace(trained, model=model).worth
    assert isinstance(why, str) and why.startswith('On EURUSD nothing was traded: the stages of split = "purged" ')
    assert why in verdict(trained.model.scores, model.parameters, [why])
