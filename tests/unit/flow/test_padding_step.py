"""Widths of the files of an export: which is chosen, what is said, and whose network they are."""

from pruning_bootcamp.config import load
from pruning_bootcamp.flow.commands import pipeline_plan
from pruning_bootcamp.flow.plan import EXPORT, PADDED
from pruning_bootcamp.flow.steps.padding import padding_text, quickest
from pruning_bootcamp.results import Padding
from pruning_bootcamp.tools.latency import paired_ratio


def test_the_quickest_is_taken_of_those_that_are_quicker_for_certain() -> None:
    base = [1.0] * 20
    certain, quicker = paired_ratio(base, [0.8] * 20), paired_ratio(base, [0.7] * 20)
    slower, noise = paired_ratio(base, [1.2] * 20), paired_ratio(base, [0.1, 2.0] * 10)
    assert quickest({4: certain, 8: quicker, 16: slower}) == 8
    assert quickest({4: certain, 8: noise}) == 4
    assert quickest({4: slower, 8: noise}) is None
    assert quickest({}) is None


def test_what_stays_is_said_with_its_reason() -> None:
    left = dict.fromkeys("abcde", "normalises over the channels")
    text = padding_text(Padding(asked=8, multiple=8, widths={"conv": (5, 8)}, left=left, max_difference=1e-15))
    assert "conv 5 -> 8" in text
    assert "! a stays as wide as it is: normalises over the channels" in text
    assert text.endswith("! 2 more groups stay as wide as they are")


def test_a_pipelines_files_are_wider_and_its_checkpoint_is_not() -> None:
    _, plain = pipeline_plan(load(None, []))
    assert PADDED not in [step.name for step in plain.steps]
    _, plan = pipeline_plan(load(None, ["export.pad_to=8"]))
    steps = {step.name: step for step in plan.steps}
    assert steps[EXPORT].inputs["before"] == PADDED
    assert plan.last == steps[PADDED].inputs["before"] == plain.last
