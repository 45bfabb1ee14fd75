"""Dead channels: what goes, what stays and why, and that the network computes what it did."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from pruning_bootcamp.errors import BootcampError, GoalNotMet
from pruning_bootcamp.pruning.channels.dead import DeadPlan, plan_dead, remove_dead
from pruning_bootcamp.pruning.channels.dead.search import BORDER, HOMELESS, LAST, MIXED, NORMALISED, TIED
from pruning_bootcamp.reporting import dead_table

IMAGE = (1, 3, 8, 8)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def without_dead(model: nn.Module, shape: tuple[int, ...] = IMAGE) -> tuple[nn.Module, DeadPlan]:
    plan = plan_dead(model, torch.zeros(shape))
    return remove_dead(model, torch.zeros(shape), plan).model, plan


def widths(plan: DeadPlan) -> dict[str, int]:
    return {group.name: len(group.keep) for group in plan.groups}


def far_apart(one: nn.Module, other: nn.Module, shape: tuple[int, ...] = IMAGE) -> float:
    """The largest difference of the outputs in float64, as a share of the largest output."""
    batch = torch.randn(3, *shape[1:], dtype=torch.double)
    with torch.no_grad():
        wanted, found = one.double().eval()(batch), other.double().eval()(batch)
    assert wanted.shape == found.shape
    return float((wanted - found).abs().max() / wanted.abs().max().clamp_min(1e-30))


def convolutions(kernel: int, padding: int, bias: bool = True) -> nn.Sequential:
    """One layer of four filters, and one that reads them; all weights one, all biases zero."""
    reader = nn.Conv2d(4, 2, kernel, padding=padding, bias=bias)
    places = (8 + 2 * padding - kernel + 1) ** 2
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), reader, nn.Flatten(), nn.Linear(2 * places, 5))
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight.fill_(1)
            if layer.bias is not None:
                layer.bias.zero_()
    return net


def test_by_hand() -> None:
    """Filter 1 is zero and gives relu(2) = 2; filter 2 gives relu(-3) = 0; nobody reads channel 3."""
    net = convolutions(kernel=1, padding=0)
    with torch.no_grad():
        net[0].weight[1:3] = 0
        net[0].bias.copy_(torch.tensor([0.5, 2.0, -3.0, 7.0]))
        net[2].weight[:, 3] = 0
        net[2].weight[0, 1], net[2].weight[1, 1] = 10, -4
        net[2].bias.copy_(torch.tensor([1.0, 1.0]))
    cut, plan = without_dead(net)
    assert widths(plan) == {"0": 1, "2": 2}
    assert (plan.removed, plan.folded) == (3, 1)
    assert cut[0].bias.tolist() == [0.5]
    assert cut[2].weight.flatten().tolist() == [1, 1]
    assert cut[2].bias.tolist() == [1 + 10 * 2, 1 - 4 * 2]
    assert (plan.macs_before, plan.macs_after) == (64 * (12 + 8) + 640, 64 * (3 + 2) + 640)
    assert far_apart(net, cut) < 1e-12
    assert net[0].out_channels == 4


def test_a_batch_norm_behind_the_reader_takes_the_constant() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2)
    )
    net = nn.Sequential(*net, nn.Flatten(), nn.Linear(128, 5))
    with torch.no_grad():
        net[0].weight[1] = 0
        net[1].bias[1], net[1].running_mean[1], net[1].running_var[1] = 3.0, 4.0, 4.0 - net[1].eps
        net[3].weight[:, 1] = torch.tensor([1.0, -2.0])[:, None, None]
        net[4].running_mean.copy_(torch.tensor([0.25, 0.5]))
    cut, plan = without_dead(net)
    assert widths(plan) == {"0": 1, "3": 2}
    value = 3.0 - 4.0 / 2.0  # of relu(batch norm(0))
    assert torch.allclose(cut[4].running_mean, torch.tensor([0.25 - value, 0.5 + 2 * value]))
    assert far_apart(net, cut) < 1e-6


@pytest.mark.parametrize(
    ("bias", "kernel", "padding", "tap", "goes"),
    [
        (2.0, 3, 1, None, False),  # at the border the padding's zeros are read, and not the 2
        (2.0, 3, 0, None, True),
        (-2.0, 3, 1, None, True),  # relu(-2) = 0 is what it is padded with
        (2.0, 3, 1, (1, 1), True),  # only the tap that never leaves the image is alive
        (2.0, 3, 1, (0, 1), False),
    ],
)
def test_a_constant_before_a_padding(
    bias: float, kernel: int, padding: int, tap: tuple[int, int] | None, goes: bool
) -> None:
    net = convolutions(kernel, padding)
    with torch.no_grad():
        net[0].weight[1], net[0].bias[1] = 0, bias
        if tap is not None:
            net[2].weight[:, 1] = 0
            net[2].weight[:, 1, tap[0], tap[1]] = 1
    cut, plan = without_dead(net)
    assert widths(plan)["0"] == (3 if goes else 4)
    assert plan.stays == ({} if goes else {BORDER: {"0": 1}})
    assert far_apart(net, cut) < 1e-6


def test_a_border_that_this_size_does_not_show_counts_too() -> None:
    """One pixel, where the padded convolution sees a constant as a constant: a larger image would show the border."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 3, padding=1), nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1))
    with torch.no_grad():
        net[0].weight[1] = 0
        net[1].weight[2] = 0
        net[1].weight[2, 1] = 1  # reads nothing but the constant
    cut, plan = without_dead(net, (1, 3, 1, 1))
    assert plan.removed == 0
    assert plan.stays == {BORDER: {"0": 1}}
    assert far_apart(net, cut, (1, 3, 9, 5)) < 1e-12


def test_a_constant_that_nothing_can_hold_stays() -> None:
    net = convolutions(kernel=1, padding=0, bias=False)
    with torch.no_grad():
        net[0].weight[1], net[0].bias[1] = 0, 2.0
        net[0].weight[2], net[0].bias[2] = 0, 0.0
    cut, plan = without_dead(net)
    assert widths(plan)["0"] == 3  # zero needs no place
    assert plan.stays == {HOMELESS: {"0": 1}}
    assert far_apart(net, cut) < 1e-12


def test_what_was_read_by_the_unread_alone_goes_too() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    with torch.no_grad():
        net[4].weight[:, 2] = 0  # nobody reads unit 2 of the second layer
        net[2].weight[[0, 1, 3, 4], 5] = 0  # which alone reads unit 5 of the first
    cut, plan = without_dead(net, (1, 4))
    assert widths(plan) == {"0": 5, "2": 4}
    assert far_apart(net, cut, (1, 4)) < 1e-12


def test_what_only_reads_constants_is_one() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 3))
    with torch.no_grad():
        net[0].weight[:2] = 0
        net[2].weight[1, 2:] = 0
    cut, plan = without_dead(net, (1, 4))
    assert widths(plan) == {"0": 4, "2": 4}
    assert plan.folded == 3
    assert far_apart(net, cut, (1, 4)) < 1e-6


def test_a_network_of_which_everything_is_alive_loses_nothing(network: nn.Module, example: Tensor) -> None:
    for parameter in network.parameters():
        parameter.requires_grad_(True)
        with torch.no_grad():
            parameter.add_(0.01 * (parameter == 0))  # the frozen shortcut has zeros, and fresh biases are
    plan = plan_dead(network, example)
    assert (plan.removed, plan.folded, plan.stays, plan.filters) == (0, 0, {}, {})
    assert (plan.macs_after, plan.params_after) == (plan.macs_before, plan.params_before)
    assert plan.groups
    assert plan.output_varies


@pytest.mark.parametrize("dead", ["filters", "unread"])
def test_of_a_layer_that_is_dead_as_a_whole_one_channel_stays(dead: str) -> None:
    net = convolutions(kernel=1, padding=0)
    with torch.no_grad():
        net[0].bias.fill_(1.5)
        (net[0] if dead == "filters" else net[2]).weight.zero_()
        net[2].bias.copy_(torch.tensor([1.0, 2.0]))
    cut, plan = without_dead(net)
    assert widths(plan) == {"0": 1, "2": 1}  # the second layer's outputs are constants then
    assert plan.stays == {LAST: {"0": 1, "2": 1}}
    assert "a layer can't have none" in plan.stays_said[0]
    assert not plan.output_varies
    assert "whatever it is given" in dead_table(plan, plan.macs_before, plan.params_before)
    assert not cut[2].weight.any()
    assert far_apart(net, cut) < 1e-6


class Stream(nn.Module):
    """An MLP block behind a layer norm, added to what comes in; a norm before the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)
        self.last = nn.LayerNorm(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.down(nn.functional.gelu(self.up(self.norm(x))))
        return self.head(self.last(x).mean(1))


def test_constants_through_a_layer_norm() -> None:
    """A scale of zero makes a feature its shift: what reads such features alone is constant, and goes."""
    net = Stream()
    with torch.no_grad():
        net.norm.weight[:3] = 0
        net.norm.bias[:3] = torch.tensor([1.0, -2.0, 0.5])
        net.up.weight[5, 3:] = 0  # unit 5 reads the three constants alone
        net.up.weight[6] = 0
        net.down.weight[:, 7] = 0
    cut, plan = without_dead(net, (1, 5, 6))
    assert widths(plan) == {"up": 13}
    assert plan.folded == 2
    assert far_apart(net, cut, (1, 5, 6)) < 1e-6


def test_features_that_are_normalised_together_stay() -> None:
    """A feature that is always zero counts in the mean and the deviation of the others."""
    net = Stream()
    with torch.no_grad():
        for writer in (net.embed, net.down):
            writer.weight[2] = 0
            writer.bias[2] = 0
        for reader in (net.up, net.head):
            reader.weight[:, 2] = 0
    cut, plan = without_dead(net, (1, 5, 6))
    assert plan.removed == 0
    assert plan.stays == {NORMALISED: {"embed": 1}}
    assert far_apart(net, cut, (1, 5, 6)) < 1e-12


class Attends(nn.Module):
    """Weights each place by the mean over the channels, as spatial attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 1)
        self.second = nn.Conv2d(6, 4, 1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = self.second(x * x.mean(1, keepdim=True).sigmoid())
        return self.head(x.mean((2, 3)))


def test_what_meets_the_others_on_its_way_stays() -> None:
    net = Attends()
    with torch.no_grad():
        net.second.weight[:, 4] = 0
    cut, plan = without_dead(net)
    assert widths(plan) == {"second": 4}
    assert plan.stays == {MIXED: {"first": 1}}
    assert far_apart(net, cut) < 1e-12


def test_a_filter_of_zeros_whose_sum_lives_is_named(make_network: Callable[[str], nn.Module], example: Tensor) -> None:
    net = make_network("residual")
    with torch.no_grad():
        net.conv3.weight[3] = 0  # type: ignore[union-attr,operator]
    plan = plan_dead(net, example)
    assert plan.filters[TIED] == {"conv3": 1}
    assert any("1 filter of zeros stays (conv3 1)" in line for line in plan.stays_said)


def test_masks_that_are_attached_count(make_network: Callable[[str], nn.Module], example: Tensor) -> None:
    net = make_network("plain")
    keep = torch.ones(6, 3, 3, 3)
    keep[2] = 0
    prune.custom_from_mask(net[0], "weight", keep)  # type: ignore[index]
    plan = plan_dead(net, example)
    assert plan.dead["0"].tolist() == [False, False, True, False, False, False]
    assert hasattr(net[0], "weight_mask")  # type: ignore[index]


def test_excluded_groups_stay_with_the_reason() -> None:
    net = convolutions(kernel=1, padding=0)
    with torch.no_grad():
        net[2].weight[:, 3] = 0
    plan = plan_dead(net, torch.zeros(IMAGE), exclude=["0"])
    assert plan.removed == 0
    assert plan.stays == {"excluded by '0'": {"0": 1}}


def test_another_networks_plan_is_refused() -> None:
    net = convolutions(kernel=1, padding=0)
    with torch.no_grad():
        net[2].weight[:, 3] = 0
    plan = plan_dead(net, torch.zeros(IMAGE))
    with pytest.raises(BootcampError, match="does not have"):
        remove_dead(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(256, 2)), torch.zeros(IMAGE), plan)


def test_a_wrong_constant_fails_the_proof() -> None:
    net = convolutions(kernel=1, padding=0)
    with torch.no_grad():
        net[0].weight[1], net[0].bias[1] = 0, 2.0
    plan = plan_dead(net, torch.zeros(IMAGE))
    wrong = replace(plan, constants={path: values * 1.001 for path, values in plan.constants.items()})
    with pytest.raises(GoalNotMet, match="slice proof failed"):
        remove_dead(net, torch.zeros(IMAGE), wrong)


KINDS = ("plain", "residual", "dense", "mobile", "grouped", "next", "transposed")


def damage(net: nn.Module, seed: int, share: float, whole: float) -> None:
    """Random statistics, zeros among the weights, and whole filters, columns, scales that are zero."""
    generator = torch.Generator().manual_seed(seed)

    def some(shape: tuple[int, ...], part: float) -> Tensor:
        return torch.rand(shape, generator=generator) < part

    with torch.no_grad():
        for module in net.modules():
            weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
            if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
                assert isinstance(weight, Tensor)
                weight[some(tuple(weight.shape), share)] = 0
                weight[some(tuple(weight.shape[:1]), whole)] = 0
                weight[:, some((weight.shape[1],), whole)] = 0
            elif isinstance(weight, Tensor) and not isinstance(module, nn.PReLU):
                weight.uniform_(-1.5, 1.5, generator=generator)
                weight[some(tuple(weight.shape), whole)] = 0
            if isinstance(bias, Tensor):
                bias.normal_(0, 1, generator=generator)
                bias[some(tuple(bias.shape), 0.3)] = 0
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 1, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from((*KINDS, "stream")),
    seed=st.integers(0, 10**6),
    share=st.sampled_from((0.0, 0.5, 0.9)),
    whole=st.sampled_from((0.1, 0.3, 0.6)),
)
def test_whatever_is_zero_the_network_computes_what_it_did(
    make_network: Callable[[str], nn.Module], kind: str, seed: int, share: float, whole: float
) -> None:
    torch.manual_seed(seed)
    net = (Stream() if kind == "stream" else make_network(kind)).double()
    shape = (1, 5, 6) if kind == "stream" else IMAGE
    damage(net, seed, share, whole)
    example = torch.zeros(shape, dtype=torch.double)
    plan = plan_dead(net, example)
    cut = remove_dead(net, example, plan).model
    assert far_apart(net, cut, shape) < 1e-9
    assert sum(parameter.numel() for parameter in cut.parameters()) == plan.params_after
    if kind not in ("plain", "stream"):  # those that take images of any size compute the same on all of them
        assert far_apart(net, cut, (1, 3, 11, 13)) < 1e-9
    again = plan_dead(cut, example)
    assert again.removed == 0
