"""What a killed refit left is taken over whole, or not at all."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from pruning_bootcamp.flow.steps.refit import PROGRESS, _go_on

GOOD: dict[str, Any] = {
    "fitted": {"0": torch.tensor(0.25)},
    "weights": {"weight": torch.ones(2, 3), "bias": torch.ones(2)},
}
DAMAGED: dict[str, Any] = {
    "no weights": {"fitted": GOOD["fitted"]},
    "a list": [1, 2],
    "another shape": GOOD | {"weights": {"weight": torch.ones(2, 4), "bias": torch.ones(2)}},
    "a weight less": GOOD | {"weights": {"bias": torch.ones(2)}},
    "texts": GOOD | {"weights": {"weight": "x", "bias": "y"}},
    "many shares": GOOD | {"fitted": {"0": torch.ones(3)}},
}


def test_a_whole_file_is_taken_over(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    torch.save(GOOD, tmp_path / PROGRESS)
    assert _go_on(SimpleNamespace(folder=tmp_path), model) == {"0": 0.25}  # type: ignore[arg-type]
    assert torch.equal(model.weight, torch.ones(2, 3))


@pytest.mark.parametrize("kind", [*DAMAGED, "cut off", "none"])
def test_of_a_damaged_file_nothing_is(kind: str, tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    before = copy.deepcopy(model.state_dict())
    if kind in DAMAGED:
        torch.save(DAMAGED[kind], tmp_path / PROGRESS)
    elif kind == "cut off":
        torch.save(GOOD, tmp_path / PROGRESS)
        (tmp_path / PROGRESS).write_bytes((tmp_path / PROGRESS).read_bytes()[:200])
    assert _go_on(SimpleNamespace(folder=tmp_path), model) == {}  # type: ignore[arg-type]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
