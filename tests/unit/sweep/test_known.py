"""What a study depends on is what its trials' steps depend on."""

import pytest

from pruning_bootcamp.config import load
from pruning_bootcamp.flow.compressions import compress
from pruning_bootcamp.flow.plan import begin
from pruning_bootcamp.sweep.known import SECTIONS

CHANGES = {
    "data": "data.val_fraction=0.2",
    "model": "model.name=cifar_resnet32",
    "train": "train.lr=0.3",
    "prune": "prune.sparsity=0.7",
    "structured": "structured.max_sparsity=0.7",
    "recover": "recover.bn_images=77",
    "fine_tune": "fine_tune.lr=0.3",
    "quantize": "quantize.lr=0.3",
    "profile": "profile.runs=7",
    "export": "export.format=onnx",
}


@pytest.mark.parametrize("command", SECTIONS)
@pytest.mark.parametrize("section", CHANGES)
def test_the_sections_are_those_of_the_steps(command: str, section: str) -> None:
    def last_key(*overrides: str) -> str:
        plan = begin(load(None, overrides), None)
        compress(plan, [] if command == "train" else [command])
        return plan.keys()[plan.last]

    assert (last_key() != last_key(CHANGES[section])) == (section in SECTIONS[command])
