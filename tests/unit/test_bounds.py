"""No number that the configuration takes is too large for what is made of it."""

import math
import typing
from collections.abc import Iterator
from decimal import Decimal
from operator import itemgetter
from typing import Any

import pytest
from every import every
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from autotrader.config.sections import MOST, Backtest, BotSettings, ParamRange, StrategyParams
from autotrader.config.settings import Settings
from autotrader.core.errors import ConfigError
from autotrader.data.sample import eurusd
from autotrader.engine.events import Purpose
from autotrader.search.task import part_of, task_of
from autotrader.strategy.setup import simulate

BARS = eurusd()[:600]
CALM = {"strategy_params": {"sl_ratio": 2.0, "tp_ratio": 2.0}}


def kinds(annotation: Any) -> Iterator[Any]:
    "An annotation and all that stands inside it."
    yield annotation
    for inner in typing.get_args(annotation):
        yield from kinds(inner)


def numbers(model: type[BaseModel], place: str = "") -> Iterator[tuple[str, Any]]:
    "Every number of a section and the sections below it."
    for name, field in model.model_fields.items():
        inside = [each for each in kinds(field.annotation) if isinstance(each, type)]
        for each in inside:
            if issubclass(each, BaseModel):
                yield from numbers(each, f"{place}{name}.")
        if any(each in (int, float) for each in inside):
            yield f"{place}{name}", field


@every("place, field", numbers(Settings), ids=itemgetter(0))
def test_every_number_of_the_configuration_has_an_upper_bound(place: str, field: Any) -> None:
    if place.rpartition(".")[0].endswith("param_ranges"):
        return  # values of a setting that has its own
    told = [*field.metadata, *(more for each in kinds(field.annotation) for more in getattr(each, "metadata", []))]
    bounds = [getattr(each, name) for each in told for name in ("le", "lt") if hasattr(each, name)]
    assert bounds and all(bound <= 1e10 for bound in bounds)


def nested(place: str, value: Any) -> dict[str, Any]:
    *tables, key = place.split(".")
    found: dict[str, Any] = {key: value}
    for name in reversed(tables):
        found = {name: found}
    return found


HUGE = st.floats(1e9, 1e308) | st.integers(10**9, 10**40)


@given(st.sampled_from([place for place, _ in numbers(BotSettings)]), HUGE, st.sampled_from(["lot", "equity_frac", "risk_frac"]))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_huge_number_is_refused_in_one_line_or_plays(place: str, value: float, sizing: str) -> None:
    bot = {"base_lot": 1.0, "sizing": sizing, **CALM, **nested(place, value)}
    if place.startswith("strategy_params"):
        bot["strategy_params"] = {**CALM["strategy_params"], **bot["strategy_params"]}
    try:
        part = part_of(task_of("ema_trend", BARS, bot=bot))
    except ConfigError as error:
        assert "\n" not in str(error) and place.rpartition(".")[2] in str(error)
        return
    run = simulate(part)
    assert math.isfinite(float(run.equity_e8[-1])) and (run.equity_e8 > 0).all()


@given(st.sampled_from([place for place, _ in numbers(Backtest)]), HUGE)
@settings(max_examples=20, deadline=None)
def test_so_is_a_huge_cost(place: str, value: float) -> None:
    with pytest.raises(ConfigError, match=place):
        task_of("ema_trend", BARS, bot=CALM, costs={place: value})


@given(st.floats(1e-3, 1e12), st.floats(1e-3, 1e12))
def test_no_stop_and_no_target_lies_where_no_tick_can_tell(stop: float, target: float) -> None:
    if max(stop, target, stop * target) > MOST:
        with pytest.raises(ValueError, match="ratio"):
            StrategyParams(sl_ratio=stop, tp_ratio=target)
        return
    reach = StrategyParams(sl_ratio=stop, tp_ratio=target)
    atr_ticks = Decimal(10) ** 9  # an ATR of 1,000 at a tick of 0.000001
    assert Decimal(reach.sl_ratio) * Decimal(max(reach.tp_ratio, 1.0)) * atr_ticks < 2**63


def test_a_target_out_of_reach_is_never_reached() -> None:
    far = {"strategy_params": {"sl_ratio": 3.0, "tp_ratio": 3e8}}
    fills = simulate(part_of(task_of("ema_trend", eurusd()[:2_000], bot=far))).fills
    assert len(fills) and not (fills["purpose"] == Purpose.TARGET).any()
    with pytest.raises(ConfigError, match=r"tp_ratio .*must be 1e\+09 or less|tp_ratio = 1e\+300 must be"):
        task_of("ema_trend", BARS, bot={"strategy_params": {"sl_ratio": 3.0, "tp_ratio": 1e300}})


@given(st.floats(0, 1e308), st.floats(1e-308, 1e308))
def test_a_range_of_too_many_values_is_refused_before_they_are_made(end: float, step: float) -> None:
    try:
        found = ParamRange(start=0.0, end=end, step=step)
    except ValueError as error:
        assert "step" in str(error) or "start" in str(error)
        return
    assert 2 <= len(found.values) <= 100_001
