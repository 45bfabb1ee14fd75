"""Sparsity by training step, with the figures of the case study."""

import pytest

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.weights.schedules import Cubic, Exponential, Gradual, OneShot
from pruning_bootcamp.pruning.weights.settings import PruningConfig


def test_one_shot_is_nothing_then_everything() -> None:
    assert [OneShot(1000).sparsity_at_step(step) for step in (0, 999, 1000, 5000)] == [0, 0, 1, 1]
    assert OneShot(10, final_sparsity=0.6).sparsity_at_step(10) == 0.6


def test_gradual_moves_every_frequency_steps() -> None:
    schedule = Gradual(start_step=1000, end_step=5000, initial_sparsity=0.0, final_sparsity=0.5, frequency=500)
    by_step = {0: 0, 999: 0, 1000: 0, 1499: 0, 1500: 0.0625, 2000: 0.125, 3000: 0.25, 4000: 0.375, 4999: 0.4375}
    assert {step: schedule.sparsity_at_step(step) for step in by_step} == pytest.approx(by_step)
    assert schedule.sparsity_at_step(5000) == schedule.sparsity_at_step(9999) == 0.5
    # the end is reached at its step, whatever the frequency
    assert Gradual(0, 10, 0.1, 0.5, frequency=7).sparsity_at_step(10) == pytest.approx(0.5)


def test_cubic_follows_the_formula() -> None:
    schedule = Cubic(start_step=0, end_step=10000, final_sparsity=0.7)
    for step, percent in ((0, 0), (2500, 40.46875), (5000, 61.25), (7500, 68.90625), (10000, 70), (20000, 70)):
        assert 100 * schedule.sparsity_at_step(step) == pytest.approx(percent)


def test_exponential_grows_by_equal_factors() -> None:
    schedule = Exponential(10, 14, initial_sparsity=0.2, final_sparsity=0.8)
    assert schedule.sparsity_at_step(9) == 0
    values = [schedule.sparsity_at_step(step) for step in range(10, 16)]
    assert values == pytest.approx([0.2, 0.2 * 2**0.5, 0.4, 0.4 * 2**0.5, 0.8, 0.8])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cubic(10, 10, 0.5), "before end_step"),
        (lambda: Cubic(0, 10, 1.5), "1.5 is not in"),
        (lambda: Gradual(0, 10, 0.6, 0.5), "above the final one"),
        (lambda: Gradual(0, 10, frequency=0), "frequency 0"),
        (lambda: Exponential(0, 10, 0.0, 0.5), "Start above 0"),
        (lambda: OneShot(0, final_sparsity=-0.1), "-0.1 is not in"),
    ],
)
def test_impossible_schedules_are_refused(make: object, message: str) -> None:
    with pytest.raises(BootcampError, match=message):
        make()  # type: ignore[operator]


def test_a_config_says_whether_it_is_valid_and_needs_data() -> None:
    gradual = Gradual(1000, 5000, 0.0, 0.5, 500)
    magnitude = PruningConfig(method="magnitude", target_sparsity=0.5, pattern="unstructured", schedule=gradual)
    magnitude.validate()
    assert not magnitude.requires_calibration
    taylor = PruningConfig(method="taylor", target_sparsity=0.5, pattern="2:4", schedule=OneShot(step=0))
    taylor.validate()
    assert taylor.requires_calibration
    PruningConfig().validate()


def test_a_wrong_config_lists_all_its_problems() -> None:
    with pytest.raises(BootcampError) as caught:
        PruningConfig(method="magntude", target_sparsity=1.4, pattern="4:2", schedule=Cubic(0, 10, 0.7)).validate()
    assert len(caught.value.problems) == 4
    text = str(caught.value)
    for part in ("Did you mean 'magnitude'", "1.4 is not in [0, 1)", "N must not be above M", "Cubic ends at 0.7"):
        assert part in text
