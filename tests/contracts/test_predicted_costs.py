"""What a plan predicts is what the cut network is counted at, by our rule and by torch's own counter."""

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pruning_bootcamp.errors import GoalNotMet
from pruning_bootcamp.models import build_model
from pruning_bootcamp.pruning.channels import widths
from pruning_bootcamp.pruning.channels.structured import cut_channels, plan_structured
from pruning_bootcamp.tools.metrics import compute_flops


def by_torch(model: nn.Module, image: Tensor) -> float:
    """torch's counter, with nothing fused that it can't see."""
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            model.eval().requires_grad_(False)(image)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    return counter.get_total_flops() / 2


def check(model: nn.Module, side: int, monkeypatch: pytest.MonkeyPatch, asked: float = 0.2) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("the count of the cut network was not what its weights foresaw")

    monkeypatch.setattr(widths, "cut_one_by_one", never)
    image = torch.zeros(1, 3, side, side)
    before = compute_flops(model, image).macs
    plan = plan_structured(model, image, score="l1", target_flops_reduction=asked)
    cut = cut_channels(model, image, plan).model
    after = compute_flops(cut, image).macs
    assert (plan.macs_before, plan.macs_after) == (before, after)
    assert after == by_torch(cut, image)
    assert before == by_torch(model, image)
    assert plan.achieved == plan.macs_reduction == 1 - after / before
    assert asked - 1e-9 <= plan.achieved <= asked + 0.01


def small_vit() -> nn.Module:
    """vit_b_16's code, smaller."""
    return torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 96, num_classes=10)


def test_a_vision_transformer(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    check(small_vit(), 32, monkeypatch)


def test_what_attention_keeps_a_transformer_from_saving_is_said() -> None:
    """Asked for half, which its MLPs alone can't give: the most is by hand what is left without nine tenths of them."""
    torch.manual_seed(0)
    tokens, width, mlp, layers = 17, 32, 96, 2
    attention = tokens * 4 * width * width + 2 * tokens * tokens * width
    ends = 16 * 3 * 8 * 8 * width + 10 * width
    left = ends + layers * (attention + 2 * tokens * width * (mlp - int(0.9 * mlp)))
    whole = ends + layers * (attention + 2 * tokens * width * mlp)
    with pytest.raises(GoalNotMet) as caught:
        plan_structured(small_vit(), torch.zeros(1, 3, 32, 32), score="l1", target_flops_reduction=0.5)
    assert f"flops_reduction 0.5 can't be reached: {1 - left / whole:.4f} is the most" in str(caught.value)
    assert caught.value.exit_code == 3


# name -> side of the images
QUICK = {"torchvision/squeezenet1_0": 64, "timm/lcnet_050": 64}
SLOW = {
    "torchvision/resnet18": 64,
    "torchvision/vit_b_32": 224,
    "torchvision/mobilenet_v3_small": 64,
    "torchvision/regnet_y_400mf": 64,
    "torchvision/googlenet": 64,
    "torchvision/efficientnet_b0": 64,
    "torchvision/mnasnet0_5": 64,
    "torchvision/densenet121": 64,
    "torchvision/convnext_tiny": 64,
    "torchvision/alexnet": 64,
    "torchvision/resnext50_32x4d": 64,
    "timm/deit_tiny_patch16_224": 224,
    "timm/cait_xxs24_224": 224,
    "timm/levit_128s": 224,
    "timm/mobilevit_xxs": 64,
    "timm/edgenext_xx_small": 64,
    "timm/convnext_atto": 64,
    "timm/regnetx_002": 64,
    "timm/ghostnet_050": 64,
    "timm/tf_efficientnet_lite0": 64,
    "timm/repvgg_a0": 64,
    "timm/dla34": 64,
    "timm/resnet10t": 64,
}


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_the_networks_of_others(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the registry are in test_models_structured.py."""
    torch.manual_seed(0)
    check(build_model(name, classes=10), (QUICK | SLOW)[name], monkeypatch)
