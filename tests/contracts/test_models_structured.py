"""Every registered model, and a choice of torchvision's, survives 50% structured pruning with the slice proof."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.models import MODELS, build_model, make_prunable
from pruning_bootcamp.pruning.channels.structured import cut_channels, plan_structured
from pruning_bootcamp.tools.metrics import count_macs

QUICK = ("resnet18", "mobilenet_v2", "mobilenet_v3_small", "squeezenet1_0", "googlenet", "regnet_y_400mf")
LARGER = ("cifar_resnet44", "cifar_resnet56", "cifar_resnet110", "vgg19_bn")  # as others of their kind, and deeper
REGISTERED = [pytest.param(name, marks=[pytest.mark.slow] if name in LARGER else []) for name in MODELS]
SLOW = ("resnet50", "resnext50_32x4d", "efficientnet_b0", "densenet121", "vgg11_bn", "convnext_tiny", "mnasnet0_5")


def macs(model: nn.Module, image: Tensor) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(image)
    return counter.get_total_flops() / 2


def halve(model: nn.Module, image: Tensor) -> nn.Module:
    """Every group loses half, proven; what was foreseen is what is there."""
    plan = plan_structured(model, image, score="l1", allocation="local", sparsity=0.5)
    assert len(plan.groups) > 5
    assert list(plan.uncuttable.values()) == ["its channels are the network's output"]
    result = cut_channels(model, image, plan)
    assert result.proof.relative < result.proof.tolerance
    assert result.proof.dtype == "float64"
    assert macs(result.model, image) == plan.macs_after == count_macs(result.model, image)
    assert macs(model, image) == plan.macs_before
    assert sum(parameter.numel() for parameter in result.model.parameters()) == plan.params_after
    assert plan.macs_reduction > 0.6
    for group in plan.groups:
        assert len(group.keep) <= 0.6 * group.width, group.name
    return result.model


@pytest.mark.parametrize("name", REGISTERED)
def test_registered_models(name: str) -> None:
    model, _ = make_prunable(build_model(name, classes=10), {})
    cut = halve(model, torch.zeros(1, 3, 32, 32))
    cut.train()(torch.randn(2, 3, 32, 32)).sum().backward()
    learning = [parameter for parameter in cut.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in learning)


@pytest.mark.parametrize("name", REGISTERED)
@pytest.mark.parametrize("score", ["bn_scale", "random"])
def test_half_the_flops_of_registered_models(name: str, score: str) -> None:
    """Within a hundredth of what was asked, against the network as it was before it was made prunable."""
    model = build_model(name, classes=10)
    image = torch.zeros(1, 3, 32, 32)
    baseline = macs(model, image)
    ready, _ = make_prunable(model, {})
    plan = plan_structured(
        ready, image, score=score, allocation="global", target_flops_reduction=0.5, baseline_macs=baseline
    )
    assert 0.5 - 1e-9 <= plan.achieved <= 0.51
    assert plan.macs_after <= baseline / 2


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_torchvision_models(name: str) -> None:
    halve(build_model(f"torchvision/{name}", classes=10), torch.zeros(1, 3, 64, 64))


def test_a_channel_shuffle_is_refused_with_the_reason() -> None:
    model = build_model("torchvision/shufflenet_v2_x0_5", classes=10)
    with pytest.raises(BootcampError, match=r"[Cc]hannel shuffle"):
        plan_structured(model, torch.zeros(1, 3, 64, 64), score="l1", allocation="local", sparsity=0.5)


@pytest.mark.slow
def test_attention_keeps_its_width_and_says_why() -> None:
    """A vision transformer loses hidden channels of its MLPs; what attention ties together stays."""
    model, image = build_model("torchvision/vit_b_32", classes=10), torch.zeros(1, 3, 224, 224)
    plan = plan_structured(model, image, score="l1", allocation="local", sparsity=0.5)
    assert [(group.width, len(group.keep)) for group in plan.groups] == [(3072, 1536)] * 12
    assert sum("attention" in reason for reason in plan.uncuttable.values()) > 0
    assert cut_channels(model, image, plan).proof.relative < 1e-9
