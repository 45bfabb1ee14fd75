"""The CIFAR networks: sizes as published, option A and its convolution the same, published files open as they are."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pruning_bootcamp.checkpoints import Recipe, load_checkpoint
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.models import MODELS, build_model, check_model, make_prunable, same_model
from pruning_bootcamp.models.shortcuts import PadShortcut, fixed_convolution, padded_shortcuts


def by_hand(depth: int) -> tuple[int, int]:
    """Parameters and multiply-accumulates of a CIFAR ResNet, from the paper's description alone."""
    blocks = (depth - 2) // 6
    parameters, macs, width = 27 * 16 + 32, 27 * 16 * 32**2, 16
    for channels, side in ((16, 32), (32, 16), (64, 8)):
        for number in range(2 * blocks):
            before = width if number == 0 else channels
            parameters += 9 * before * channels + 2 * channels
            macs += 9 * before * channels * side**2
        width = channels
    return parameters + 64 * 10 + 10, macs + 640


def count(model: nn.Module) -> tuple[int, int]:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, 32, 32))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_cifar_resnets_have_the_papers_size(depth: int) -> None:
    model = build_model(f"cifar_resnet{depth}", classes=10)
    assert count(model) == by_hand(depth)
    summary = MODELS[f"cifar_resnet{depth}"].summary
    parameters, macs = by_hand(depth)
    assert f"{parameters / 1e6:.2f} M parameters, {macs / 1e9:.3f} G" in summary


@pytest.mark.parametrize(
    ("name", "parameters_m", "macs_g"),
    [("cifar_resnet18", 11.17, 0.56), ("vgg16_bn", 14.73, 0.31), ("vgg19_bn", 20.04, 0.40)],
)
def test_larger_networks_have_the_stated_size(name: str, parameters_m: float, macs_g: float) -> None:
    parameters, macs = count(build_model(name, classes=10))
    assert round(parameters / 1e6, 2) == parameters_m
    assert round(macs / 1e9, 2) == macs_g


@pytest.mark.parametrize("side", [5, 8, 32])
@pytest.mark.parametrize(("before", "after", "stride"), [(16, 32, 2), (3, 8, 1), (4, 4, 2)])
def test_the_fixed_convolution_is_option_a_exactly(before: int, after: int, stride: int, side: int) -> None:
    shortcut = PadShortcut(before, after, stride)
    convolution = fixed_convolution(shortcut)
    x = torch.randn(2, before, side, side)
    assert torch.equal(convolution(x), shortcut(x))
    assert not convolution.weight.requires_grad
    assert sorted(set(convolution.weight.flatten().tolist())) == [0.0, 1.0]
    # option A by hand: the input's channels sit in the middle
    front = (after - before) // 2
    assert torch.equal(shortcut(x)[:, front : front + before], x[:, :, ::stride, ::stride])


def test_either_shortcut_gives_the_same_network_under_a_seed() -> None:
    networks = []
    for shortcut in ("A", "conv"):
        torch.manual_seed(5)
        networks.append(build_model("cifar_resnet20", classes=10, args={"shortcut": shortcut}))
    x = torch.randn(4, 3, 32, 32)
    assert torch.equal(networks[0](x), networks[1](x))
    assert "layer2.0.shortcut.weight" in networks[1].state_dict()
    assert "layer2.0.shortcut.weight" not in networks[0].state_dict()


def test_make_prunable_keeps_the_function_and_names_the_arguments() -> None:
    model = build_model("cifar_resnet32", classes=10).eval()
    x = torch.randn(2, 3, 32, 32)
    prunable, args = make_prunable(model, {})
    assert args == {"shortcut": "conv"}
    assert torch.equal(prunable(x), model(x))
    assert not padded_shortcuts(prunable)
    assert len(padded_shortcuts(model)) == 2  # the given network is not touched
    rebuilt = build_model("cifar_resnet32", classes=10, args=args)
    rebuilt.load_state_dict(prunable.state_dict())
    assert torch.equal(rebuilt.eval()(x), model(x))


def test_make_prunable_finds_the_shortcuts_inside_somebody_elses_network() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = build_model("cifar_resnet20", classes=4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(2 * x)

    model = Wrapped().double().eval()
    prunable, args = make_prunable(model, {"depth": 1})
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert args == {"depth": 1}
    assert not padded_shortcuts(prunable)
    assert torch.equal(prunable(x), model(x))


def test_make_prunable_leaves_a_network_without_such_shortcuts_alone() -> None:
    model = build_model("cifar_resnet18", classes=10)
    assert make_prunable(model, {"a": 1}) == (model, {"a": 1})


def test_a_published_checkpoint_opens_as_it_is_with_either_shortcut(published_resnet20: Path) -> None:
    x = torch.randn(2, 3, 32, 32)
    outputs = []
    for args in ({}, {"shortcut": "conv"}):
        recipe = Recipe("cifar_resnet20", args, 10, 3, (3, 32, 32), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        outputs.append(load_checkpoint(published_resnet20, recipe=recipe).model(x))
    assert torch.equal(outputs[0], outputs[1])
    raw = torch.load(published_resnet20, weights_only=True, map_location="cpu")["state_dict"]
    recipe = Recipe("cifar_resnet20", {}, 10, 3, (3, 32, 32), (0.5,) * 3, (0.5,) * 3)
    loaded = load_checkpoint(published_resnet20, recipe=recipe).model.state_dict()
    assert all(torch.equal(loaded[name.removeprefix("module.")], tensor) for name, tensor in raw.items())
    assert len(raw) > 90


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cifar_resnt20", "Did you mean 'cifar_resnet20'?"),
        ("resnt18", "Did you mean 'resnet18'?"),
        ("torchvision/resnet19", "Did you mean 'torchvision/resnet1"),
        ("/resnet18", "unknown model '/resnet18'"),
        ("other/resnet18", "unknown model 'other/resnet18'"),
        ("fasterrcnn_resnet50_fpn", "unknown model"),  # a detector is not a classifier
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, says: str) -> None:
    (problem,) = check_model(name, {})
    assert str(problem).startswith("model.name: unknown model")
    assert says in str(problem)
    assert "cifar_resnet110" in str(problem)
    with pytest.raises(BootcampError, match="unknown model"):
        build_model(name, classes=10)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(BootcampError) as caught:
        build_model("cifar_resnet20", classes=0, in_channels=0, args={"shortcut": "B", "depth": 3})
    text = str(caught.value)
    for part in ("args.shortcut: unknown value 'B'", "args.depth: unknown setting", "0 classes", "0 input channels"):
        assert part in text


def test_a_registered_name_wins_and_the_prefix_says_otherwise() -> None:
    assert type(build_model("vgg16_bn", classes=3)).__name__ == "CifarVgg"
    assert not same_model("vgg16_bn", "torchvision/vgg16_bn")
    assert same_model("resnet50", "torchvision/resnet50")
