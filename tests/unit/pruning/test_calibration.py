"""What is measured on images before a cut: orders, errors, and what the network's output loses by width."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.channels.calibration import measure_groups
from pruning_bootcamp.pruning.channels.refit import Images
from pruning_bootcamp.pruning.channels.structured import (
    chosen,
    cut_channels,
    needs_images,
    plan_structured,
    score_channels,
)
from pruning_bootcamp.pruning.graph import Group, find_groups
from pruning_bootcamp.pruning.sections import StructuredSettings
from pruning_bootcamp.schema import Choice


class Two(nn.Module):
    """One group that matters and one that hardly does, a sum, a transposed reader, blocks and a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.loud, self.quiet = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1)
        self.from_loud, self.from_quiet = nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(8, 4, 1, groups=2)
        self.up, self.head = nn.ConvTranspose2d(4, 6, 2, stride=2), nn.Linear(6 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        loud = self.from_loud(torch.relu(self.loud(x)))
        x = torch.relu(loud + 0.01 * self.from_quiet(torch.relu(self.quiet(x))))
        return self.head(torch.relu(self.up(x)).flatten(1))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Two().eval()


@pytest.fixture
def images() -> Images:
    generator = torch.Generator().manual_seed(0)
    found = [torch.randn(16, 3, 4, 4, generator=generator) for _ in range(8)]
    return lambda: iter(found)


def groups_of(model: nn.Module) -> list[Group]:
    return [group for group in find_groups(model, torch.zeros(2, 3, 4, 4)) if group.reason is None]


def test_what_hardly_matters_loses_hardly_anything(model: nn.Module, images: Images) -> None:
    found = measure_groups(model, groups_of(model), images)
    assert found.losses.keys() == found.errors.keys() == found.gone.keys() == {"loud", "quiet", "from_loud", "up"}
    for group in groups_of(model):
        loss = found.losses[group.name]
        assert sorted(found.gone[group.name]) == list(range(group.width))
        assert loss.shape == found.errors[group.name].shape == (group.width + 1,)
        assert float(loss[0]) == 0
        assert bool((loss.diff() >= 0).all())
        assert bool(torch.isfinite(loss).all())
    assert float(found.losses["quiet"][-2]) < 0.01 * float(found.losses["loud"][-2])


def test_a_reader_that_cant_be_refitted_is_deaf_to_what_goes(model: nn.Module, images: Images) -> None:
    """from_loud is read by a transposed convolution alone: the loss is that of its weights at zero."""
    (group,) = [group for group in groups_of(model) if group.name == "from_loud"]
    found = measure_groups(model, [group], images, orders={"from_loud": range(group.width)})
    left = group.width // 2
    deaf = Two()
    deaf.load_state_dict(model.state_dict())
    gone = group.root.index[group.root.unit < group.width - left].tolist()
    with torch.no_grad():
        deaf.up.weight[gone] = 0
        batches = list(images())[-2:]  # the last quarter judges
        off = torch.cat([deaf(batch) - model(batch) for batch in batches])
        whole = torch.cat([model(batch) for batch in batches])
    off, whole = off - off.mean(1, keepdim=True), whole - whole.mean(1, keepdim=True)
    expected = float(off.square().mean() / (whole - whole.mean(0)).square().mean())
    assert float(found.losses["from_loud"][group.width - left]) == pytest.approx(expected, rel=1e-3)


def test_weights_and_random_state_stay(model: nn.Module, images: Images) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    first, again = (measure_groups(model, groups_of(model), images) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(first.losses[name], again.losses[name]) for name in first.losses)


def test_a_plan_that_is_measured_meets_its_budget(model: nn.Module, images: Images) -> None:
    example = torch.zeros(2, 3, 4, 4)
    plan = plan_structured(model, example, target_flops_reduction=0.4, images=images)
    assert abs(plan.achieved - 0.4) <= 0.01
    assert cut_channels(model, example, plan).proof.relative < 1e-5
    scored = score_channels(model, example, images=images)
    again = plan_structured(model, example, target_flops_reduction=0.4, scores=scored.scores, losses=scored.losses)
    assert {group.name: group.keep.tolist() for group in plan.groups} == {
        group.name: group.keep.tolist() for group in again.groups
    }


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"score": "obs", "allocation": "global"}, "score obs"),
        ({"score": "l1", "allocation": "measured"}, "allocation measured"),
        ({"score": "obs", "allocation": "measured"}, "score obs and allocation measured"),
    ],
)
def test_what_is_measured_needs_images(model: nn.Module, choices: dict[str, Any], words: str) -> None:
    with pytest.raises(BootcampError, match=f"{words}: can't be had without images="):
        plan_structured(model, torch.zeros(2, 3, 4, 4), target_flops_reduction=0.3, **choices)


def test_weights_that_are_not_finite_are_named(model: nn.Module, images: Images) -> None:
    with torch.no_grad():
        model.get_submodule("from_loud").get_parameter("weight")[0, 0] = float("nan")
    with pytest.raises(BootcampError, match="from_loud: its output holds NaN or Inf on the calibration images"):
        measure_groups(model, groups_of(model), images)


@pytest.mark.parametrize(
    ("settings", "score", "allocation", "measured"),
    [
        (StructuredSettings(), "obs", "measured", True),
        (StructuredSettings(refit="batch_norm"), "bn_scale", "global", False),
        (StructuredSettings(refit="none"), "bn_scale", "global", False),
        (StructuredSettings(score=Choice("l1"), allocation="local"), "l1", "local", False),
        (StructuredSettings(refit="none", score=Choice("obs")), "obs", "global", True),
    ],
)
def test_what_is_left_out_follows_the_refit(
    settings: StructuredSettings, score: str, allocation: str, measured: bool
) -> None:
    found = chosen(settings, measured=settings.refit == "closed_form")
    assert found.score == Choice(score)
    assert found.allocation == allocation
    assert needs_images(settings) is measured
