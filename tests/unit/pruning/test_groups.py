"""Groups: what is coupled is found, what can't be followed is refused with the reason, what is cut fits."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.graph import Group, cut_members, find_groups

Make = Callable[[str], nn.Module]


def by_name(model: nn.Module, example: Tensor) -> dict[str, Group]:
    return {group.name: group for group in find_groups(model, example)}


def layers(group: Group) -> set[tuple[str, str]]:
    return {(member.label, member.kind) for member in group.members}


def test_a_residual_sum_couples_all_that_is_added_to_it(make_network: Make, example: Tensor) -> None:
    groups = by_name(make_network("residual"), example)
    assert list(groups) == ["stem.0", "conv1", "conv2", "head"]
    assert layers(groups["conv2"]) == {
        ("conv2", "output"), ("bn2", "batch_norm"), ("shortcut", "output"), ("conv3", "input"), ("conv3", "output"),
        ("bn3", "batch_norm"), ("head", "input"),
    }  # fmt: skip
    assert layers(groups["stem.0"]) == {
        ("stem.0", "output"), ("stem.1", "batch_norm"), ("conv1", "input"), ("shortcut", "input"),
    }  # fmt: skip
    assert [group.width for group in groups.values()] == [8, 12, 16, 5]
    assert groups["conv2"].root.path == "conv2"


def test_the_classifier_is_not_cut(make_network: Make, example: Tensor) -> None:
    reasons = {name: group.reason for name, group in by_name(make_network("residual"), example).items()}
    assert reasons.pop("head") == "its channels are the network's output"
    assert set(reasons.values()) == {None}


def test_a_flatten_spreads_a_channel_over_its_pixels(make_network: Make, example: Tensor) -> None:
    group = by_name(make_network("plain"), example)["4"]
    reader = next(member for member in group.members if member.kind == "input")
    assert reader.path == "7"
    # 8 channels of 2x2 pixels: channel c is columns 4c .. 4c + 3
    assert [reader.index[reader.unit == c].tolist() for c in (0, 7)] == [[0, 1, 2, 3], [28, 29, 30, 31]]


def test_a_concatenation_shifts_the_numbers(make_network: Make, example: Tensor) -> None:
    groups = by_name(make_network("dense"), example)
    places = {(m.path, m.kind): m.index.tolist() for m in groups["b"].members}
    assert places["b", "output"] == [0, 1, 2, 3]
    assert places["bn_ab", "batch_norm"] == [6, 7, 8, 9]
    assert places["c", "input"] == [6, 7, 8, 9]
    assert places["head", "input"] == [14, 15, 16, 17]  # after 8 of c and 6 of a


def test_blocks_of_a_grouped_convolution_are_cut_alike(make_network: Make, example: Tensor) -> None:
    groups = by_name(make_network("grouped"), example)
    first, second = groups["0"], groups["3"]
    assert (first.width, first.channels) == (3, 12)  # 4 blocks of 3: a unit is one channel of each
    assert first.root.index[first.root.unit == 1].tolist() == [1, 4, 7, 10]
    # out: 4 blocks of 4, and the norm's 2 blocks of 8: places 0 and 4 of a norm block are both place 0 of a block
    assert (second.width, second.channels) == (4, 16)
    assert second.root.index[second.root.unit == 2].tolist() == [2, 6, 10, 14]


def test_a_layer_scale_goes_with_the_residual_stream(make_network: Make, example: Tensor) -> None:
    group = by_name(make_network("next"), example)["stem"]
    assert ("scale", "parameter") in layers(group)
    assert ("norm", "layer_norm") in layers(group)
    assert ("depthwise", "depthwise") in layers(group)


def test_every_channel_is_in_one_group_only(network: nn.Module, example: Tensor) -> None:
    seen: dict[tuple[str, str], set[int]] = {}
    groups = find_groups(network, example)
    assert len(groups) > 1
    for group in groups:
        assert sorted(set(group.root.unit.tolist())) == list(range(group.width))
        for member in group.members:
            places = seen.setdefault((member.label, member.kind), set())
            assert not places & set(member.index.tolist()), member.label
            places |= set(member.index.tolist())


def test_the_model_is_left_as_it_was(make_network: Make, example: Tensor) -> None:
    model = make_network("residual")
    model.bn1.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    rng = torch.get_rng_state()
    find_groups(model, example)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_two_models_do_not_share_anything(make_network: Make, example: Tensor) -> None:
    """torch-pruning's default dictionaries are shared between calls; a second model must not see the first."""
    first = [(g.name, g.width, g.reason) for g in find_groups(make_network("dense"), example)]
    find_groups(make_network("next"), example)
    assert [(g.name, g.width, g.reason) for g in find_groups(make_network("dense"), example)] == first


@pytest.mark.parametrize("trained", [True, False])
def test_frozen_layers_are_seen(make_network: Make, example: Tensor, trained: bool) -> None:
    model = make_network("plain").requires_grad_(trained)
    assert [group.width for group in find_groups(model, example)] == [6, 8, 10, 5]


class Odd(nn.Module):
    """Two convolutions and one odd thing between them."""

    def __init__(self, between: Callable[[Tensor], Tensor], width: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(width, 8, 3, padding=1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self.first(x))).mean((2, 3))


def shuffle(x: Tensor) -> Tensor:
    return x.view(len(x), 2, 4, 8, 8).transpose(1, 2).reshape(len(x), 8, 8, 8)


@pytest.mark.parametrize(
    ("between", "width", "reason"),
    [
        (lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), 8, "split into parts"),
        (lambda x: x[:, 2:], 6, "sliced by channel"),
        (lambda x: nn.functional.pad(x, (0, 0, 0, 0, 2, 2)), 12, "padded with zero channels"),
        (lambda x: torch.cat([torch.ones(len(x), 3, 8, 8), x], 1), 11, "can't see"),
        (lambda x: torch.nn.functional.pixel_shuffle(x, 2), 2, "PixelShuffle"),
        (lambda x: x[:, torch.arange(7, -1, -1)], 8, "Index"),
        (lambda x: x.repeat(1, 2, 1, 1), 16, "Repeat"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused_with_the_reason(
    between: Callable[[Tensor], Tensor], width: int, reason: str, example: Tensor
) -> None:
    group = by_name(Odd(between, width), example)["first"]
    assert group.reason is not None
    assert reason in group.reason


def test_a_channel_shuffle_is_refused(example: Tensor) -> None:
    assert "channel shuffle" in str(by_name(Odd(shuffle), example)["first"].reason)


def test_a_slice_in_space_is_no_obstacle(example: Tensor) -> None:
    assert by_name(Odd(lambda x: x[:, :, ::2, 1:]), example)["first"].reason is None


def test_shared_weights_are_refused_with_the_other_layer(example: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(288, 2))
    model[2].weight = model[1].weight
    reasons = {name: group.reason for name, group in by_name(model, example).items()}
    assert reasons["0"] == "is coupled to 1, whose weights are shared with 2"


def test_attention_is_refused_not_cut(example: Tensor) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 4, stride=4)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).flatten(2).transpose(1, 2)
            return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))

    groups = by_name(Attention(), example)
    assert "attention" in str(groups["stem"].reason)
    assert all(group.reason for group in groups.values())


def test_a_layer_that_the_input_never_reaches_is_reported(make_network: Make, example: Tensor) -> None:
    model = make_network("residual")
    model.auxiliary = nn.Linear(16, 5)
    assert "does not reach" in str(by_name(model, example)["auxiliary"].reason)


def test_a_network_that_does_not_run_on_the_example_is_a_clear_error(make_network: Make) -> None:
    with pytest.raises(BootcampError, match=r"does not run on an input of shape \(2, 4, 8, 8\)"):
        find_groups(make_network("residual"), torch.zeros(2, 4, 8, 8))


def test_an_output_without_a_gradient_is_a_clear_error(example: Tensor) -> None:
    class Label(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).argmax(1)

    with pytest.raises(BootcampError, match="logits"):
        find_groups(Label(), example)


def test_the_cut_fits_and_states_its_sizes(network: nn.Module, example: Tensor) -> None:
    """Every layer's attributes agree with its tensors after each group lost its first unit, and the network runs."""
    network.eval()
    groups = [group for group in find_groups(network, example) if group.reason is None]
    assert groups
    keep = {group.name: torch.arange(group.width) > 0 for group in groups}
    shape = network(example).shape
    cut_members(network, groups, keep)
    assert network(example).shape == shape
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            assert tuple(module.weight.shape[:2]) == (module.out_channels, module.in_channels // module.groups)
        elif isinstance(module, nn.ConvTranspose2d):
            assert tuple(module.weight.shape[:2]) == (module.in_channels, module.out_channels)
        elif isinstance(module, nn.Linear):
            assert tuple(module.weight.shape) == (module.out_features, module.in_features)
        elif isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d):
            sizes = [len(t) for t in (module.weight, module.bias, module.running_mean, module.running_var)]
            assert sizes == [module.num_features] * 4
        elif isinstance(module, nn.LayerNorm):
            assert tuple(module.weight.shape) == module.normalized_shape
        elif isinstance(module, nn.GroupNorm):
            assert len(module.weight) == module.num_channels
        elif isinstance(module, nn.PReLU):
            assert len(module.weight) == module.num_parameters


def test_frozen_stays_frozen_through_a_cut(make_network: Make, example: Tensor) -> None:
    model = make_network("residual")
    groups = [group for group in find_groups(model, example) if group.reason is None]
    cut_members(model, groups, {group.name: torch.arange(group.width) > 1 for group in groups})
    assert not model.shortcut.weight.requires_grad
    assert model.conv1.weight.requires_grad
    # the shortcut's own zeros and ones are cut on both sides: out 2.., in 2.. of the identity
    assert torch.equal(model.shortcut.weight[:, :, 0, 0], torch.eye(16, 8)[2:, 2:])
