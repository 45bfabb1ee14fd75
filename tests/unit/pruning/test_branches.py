"""Branches that are gone: the network computes what it did with them at zero, and no runtime is asked for them."""

import itertools

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pruning_bootcamp.backends import prepare
from pruning_bootcamp.checkpoints import Recipe
from pruning_bootcamp.checkpoints.recipe import find_changes, rebuild, tensors_of
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.models import build_model, make_prunable
from pruning_bootcamp.models.silent import MuteLayer, mute_layers
from pruning_bootcamp.pruning.channels.branches import can_go, carries_all, left, without
from pruning_bootcamp.pruning.channels.refit import refit
from pruning_bootcamp.pruning.channels.structured import GroupPlan, StructuredPlan, cut_channels
from pruning_bootcamp.pruning.graph import Group, find_groups
from pruning_bootcamp.pruning.masks import detached_copy
from pruning_bootcamp.tools.metrics import count_products
from pruning_bootcamp.tools.programs import onnx_content
from pruning_bootcamp.tools.zero_branches import drop_zero_branches

EXAMPLE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
BLOCKS = [f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in (0, 1, 2)]


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    model, _ = make_prunable(build_model("cifar_resnet20", classes=10, in_channels=3, args={}), {})
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features) / 10
            module.bias = nn.Parameter(torch.randn(module.num_features) / 10)
    return model.eval()


def groups_of(model: nn.Module) -> dict[str, Group]:
    return {group.name: group for group in find_groups(model, EXAMPLE)}


def whole(groups: dict[str, Group], names: list[str]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(range(groups[name].width)) for name in names}


def with_zero_branches(model: nn.Module, names: list[str]) -> nn.Module:
    """The same function by hand: what the blocks add to their shortcuts is zero."""
    copied = detached_copy(model)
    for name in names:
        block = copied.get_submodule(name.removesuffix(".conv1"))
        block.bn2.weight.data.zero_()
        block.bn2.bias.data.zero_()
    return copied


@settings(max_examples=6, deadline=None)
@given(names=st.lists(st.sampled_from(BLOCKS), unique=True))
def test_the_network_computes_what_it_did_with_the_branch_at_zero(resnet: nn.Module, names: list[str]) -> None:
    groups = groups_of(resnet)
    found = without(detached_copy(resnet), EXAMPLE, list(groups.values()), whole(groups, names))
    batch = torch.randn(3, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(found(batch), with_zero_branches(resnet, names)(batch))
    assert len(mute_layers(found)) == 2 * len(names)


def test_nothing_is_multiplied_in_it(resnet: nn.Module) -> None:
    groups = groups_of(resnet)
    found = without(detached_copy(resnet), EXAMPLE, list(groups.values()), whole(groups, ["layer2.1.conv1"]))
    paths = {product.weight for product in count_products(found, EXAMPLE)[0]}
    assert not {"layer2.1.conv1.weight", "layer2.1.conv2.weight"} & paths
    assert "layer2.2.conv1.weight" in paths


@pytest.mark.parametrize(
    "names", [["layer1.0.conv1"], ["layer1.1.conv1", "layer1.2.conv1"], ["layer2.0.conv1"], BLOCKS]
)
def test_the_onnx_file_has_nothing_of_it(resnet: nn.Module, names: list[str]) -> None:
    groups = groups_of(resnet)
    found = without(detached_copy(resnet), EXAMPLE, list(groups.values()), whole(groups, names))
    graph = onnx.load_from_string(onnx_content(found, torch.cat([EXAMPLE, EXAMPLE]))).graph
    kinds = [node.op_type for node in graph.node]
    assert not {"ConstantOfShape", "Expand", "BatchNormalization", "Shape"} & set(kinds)
    assert kinds.count("Add") == 9 - len(names)
    assert all(before != "Relu" or after != "Relu" for before, after in itertools.pairwise(kinds))
    batch = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        assert torch.allclose(prepare("onnxruntime", found, batch, 1)(batch), found(batch), atol=1e-4)


def test_it_is_rebuilt_from_its_recipe(resnet: nn.Module) -> None:
    groups = groups_of(resnet)
    found = without(detached_copy(resnet), EXAMPLE, list(groups.values()), whole(groups, BLOCKS[:4]))
    recipe = Recipe("cifar_resnet20", {"shortcut": "A"}, 10, 3, (3, 16, 16), (0.0,) * 3, (1.0,) * 3)
    recipe.changes = find_changes(found, recipe)
    again = rebuild(recipe, {name: tensor.detach() for name, tensor in tensors_of(found).items()}).eval()
    with torch.inference_mode():
        assert torch.equal(again(EXAMPLE), found(EXAMPLE))
    recipe.changes["layer1.0.bn1"] = {"mute": True}
    with pytest.raises(BootcampError, match=r"mutes layer1\.0\.bn1"):
        rebuild(recipe, {name: tensor.detach() for name, tensor in tensors_of(found).items()})


def test_it_trains_and_its_groups_are_found(resnet: nn.Module) -> None:
    groups = groups_of(resnet)
    found = without(detached_copy(resnet), EXAMPLE, list(groups.values()), whole(groups, ["layer1.1.conv1"])).train()
    found(torch.randn(4, 3, 16, 16)).sum().backward()
    again = groups_of(found.eval())
    assert again["layer1.2.conv1"].reason is None
    assert "layer1.1.conv1" not in again


def test_what_can_go(resnet: nn.Module) -> None:
    groups = groups_of(resnet)
    alone = {name: group for name, group in groups.items() if can_go(group)}
    assert {*BLOCKS, "conv1"} <= set(alone)
    assert [name for name, group in alone.items() if not carries_all(resnet, EXAMPLE, group)] == BLOCKS


class Concatenates(nn.Module):
    """The reader reads another group too, and would be left with half its inputs; a grouped reader; a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.reader = nn.Conv2d(8, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 1, groups=2)
        self.last = nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        both = torch.cat([self.one(images).relu(), self.two(images).relu()], 1)
        return self.last(self.grouped(self.reader(both).relu()).relu().mean((2, 3)))


def test_what_can_not_go() -> None:
    named = {group.name: group for group in find_groups(Concatenates(), EXAMPLE)}
    assert not can_go(named["one"])
    assert not can_go(named["reader"])
    assert not can_go(named["grouped"])


def test_one_unit_stays_where_all_are_gone(resnet: nn.Module) -> None:
    groups = groups_of(resnet)
    keep, silent = left(groups.values(), {"layer1.0.conv1": (5, *range(5), *range(6, 16)), "layer1.1.conv1": (0,)})
    assert silent == ["layer1.0.conv1"]
    assert keep["layer1.0.conv1"].nonzero().flatten().tolist() == [15]
    assert int(keep["layer1.1.conv1"].sum()) == 15


@pytest.mark.slow
def test_the_refit_goes_on_around_it(resnet: nn.Module) -> None:
    groups = groups_of(resnet)
    names = ["layer1.1.conv1", "layer2.1.conv1"]
    parts = [
        GroupPlan(name, groups[name].channels, torch.tensor([0]), groups[name].layers, silent=True) for name in names
    ]
    muted = without(detached_copy(resnet), EXAMPLE, list(groups.values()), whole(groups, names))
    params = sum(parameter.numel() for parameter in muted.parameters())
    plan = StructuredPlan(parts, {}, {}, "latency_reduction", 0.1, 0.1, 2.0, 1.0, params, params, 2.0, params)
    found = cut_channels(resnet, EXAMPLE, plan)
    assert set(found.silent) == {f"layer{stage}.1.conv{number}" for stage in (1, 2) for number in (1, 2)}
    images = torch.randn(64, 3, 16, 16)
    with torch.inference_mode():
        wanted = resnet(images)
        before = float((found.model(images) - wanted).square().mean())
    done = refit(resnet, found.model, found.kept, lambda: images.split(16), silent=found.silent)
    with torch.inference_mode():
        after = float((found.model(images) - wanted).square().mean())
    assert after < 0.7 * before
    assert not done.left
    assert not set(done.layers) & set(found.silent)
    assert not found.model.layer1[1].conv2.weight.any()


@pytest.mark.parametrize(
    ("layer", "given"),
    [
        (nn.Conv2d(3, 5, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (2, 3, 9, 8)),
        (nn.Conv2d(3, 5, 3, padding="same", dilation=2), (2, 3, 9, 8)),
        (nn.Conv2d(3, 5, 3, padding="valid"), (2, 3, 9, 8)),
        (nn.Conv1d(3, 5, 3, stride=2), (2, 3, 9)),
        (nn.Conv3d(3, 5, 2), (2, 3, 4, 5, 6)),
        (nn.Linear(3, 5), (2, 7, 3)),
        (nn.Linear(3, 5), (2, 3)),
    ],
)
def test_zeros_of_the_size_that_the_layer_gave(layer: nn.Module, given: tuple[int, ...]) -> None:
    x = torch.randn(given)
    found = MuteLayer(layer)(x)
    assert found.shape == layer(x).shape
    assert not found.any()


def test_only_layers_that_multiply_are_muted() -> None:
    with pytest.raises(TypeError, match="BatchNorm2d"):
        MuteLayer(nn.BatchNorm2d(3))


class Broadcasts(nn.Module):
    """Zeros of a larger size: to leave the sum out would change what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = MuteLayer(nn.Conv2d(3, 4, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images) + images.mean((2, 3), keepdim=True)[:, :1]


class Shifted(nn.Module):
    """A batch norm that makes something of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = MuteLayer(nn.Conv2d(3, 3, 1)), nn.BatchNorm2d(3)
        nn.init.ones_(self.norm.bias)

    def forward(self, images: Tensor) -> Tensor:
        return (self.norm(self.conv(images)) + images.relu()).relu()


@pytest.mark.parametrize("model", [Broadcasts(), Shifted()])
def test_sums_that_say_something_stay(model: nn.Module) -> None:
    content = onnx_content(model.eval(), torch.cat([EXAMPLE, EXAMPLE]))
    assert drop_zero_branches(onnx.load_from_string(content)) == 0
    with torch.inference_mode():
        assert torch.allclose(prepare("onnxruntime", model, EXAMPLE, 1)(EXAMPLE), model(EXAMPLE), atol=1e-5)
