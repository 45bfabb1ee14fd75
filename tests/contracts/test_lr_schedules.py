"""Every learning-rate schedule: a pure function of t in [0, 1] that reaches the full rate and never goes beyond."""

import math

import pytest

from pruning_bootcamp.training.optim import LR_SCHEDULES, OPTIMIZERS

POINTS = [step / 1000 for step in range(1001)]


def test_there_are_schedules_and_optimisers_to_check() -> None:
    assert {"constant", "multistep", "cosine", "onecycle"} <= set(LR_SCHEDULES)
    assert {"sgd", "adamw"} <= set(OPTIMIZERS)


@pytest.mark.parametrize("name", list(LR_SCHEDULES))
def test_factors_lie_between_0_and_1_and_reach_1(name: str) -> None:
    factors = [LR_SCHEDULES[name](t) for t in POINTS]
    assert all(math.isfinite(factor) and 0 <= factor <= 1 + 1e-12 for factor in factors)
    assert max(factors) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("name", list(LR_SCHEDULES))
def test_the_same_t_gives_the_same_factor(name: str) -> None:
    forward = [LR_SCHEDULES[name](t) for t in POINTS]
    backward = [LR_SCHEDULES[name](t) for t in reversed(POINTS)]
    assert forward == backward[::-1]


@pytest.mark.parametrize("name", list(LR_SCHEDULES))
def test_the_end_is_never_above_the_beginning_of_the_last_tenth(name: str) -> None:
    assert LR_SCHEDULES[name](1.0) <= LR_SCHEDULES[name](0.9)


@pytest.mark.parametrize("entry", LR_SCHEDULES.entries() + OPTIMIZERS.entries(), ids=lambda entry: entry.name)
def test_all_settings_have_defaults_and_types(entry: object) -> None:
    for setting in entry.settings.values():  # type: ignore[attr-defined]
        assert not setting.required, setting.name
        assert setting.annotation is not None
