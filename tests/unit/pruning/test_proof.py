"""The slice proof: a right cut passes, and each kind of wrong cut is caught and its layer named."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import GoalNotMet
from pruning_bootcamp.pruning.channels.proof import prove_slice
from pruning_bootcamp.pruning.channels.zeroed import zeroed
from pruning_bootcamp.pruning.graph import Group, Keep, Member, cut_members, find_groups
from pruning_bootcamp.pruning.masks import detached_copy

Make = Callable[[str], nn.Module]


def cuttable(model: nn.Module, example: Tensor) -> list[Group]:
    return [group for group in find_groups(model, example) if group.reason is None]


def halves(groups: list[Group], seed: int = 0) -> dict[str, Tensor]:
    """About half of every group, never a run from the start or the end, so that a shift shows."""
    generator = torch.Generator().manual_seed(seed)
    keep = {}
    for group in groups:
        order = torch.randperm(group.width, generator=generator)
        keep[group.name] = torch.zeros(group.width, dtype=torch.bool)
        keep[group.name][order[: (group.width + 1) // 2]] = True
    return keep


def sliced(model: nn.Module, groups: list[Group], keep: Keep) -> nn.Module:
    copied = detached_copy(model)
    cut_members(copied, groups, keep)
    return copied


def changed(group: Group, which: Callable[[Member], bool], index: Callable[[Tensor], Tensor]) -> Group:
    members = tuple(replace(m, index=index(m.index)) if which(m) else m for m in group.members)
    assert any(which(member) for member in group.members)
    return replace(group, members=members)


@pytest.mark.parametrize("seed", range(3))
def test_a_right_cut_passes(network: nn.Module, example: Tensor, seed: int) -> None:
    groups = cuttable(network, example)
    keep = halves(groups, seed)
    proof = prove_slice(network, sliced(network, groups, keep), groups, keep, example)
    assert proof.relative < 1e-12
    assert proof.dtype == "float64"
    assert proof.batches == 4
    assert "agree" in str(proof)


def test_the_zeroed_network_is_the_dense_one_where_nothing_is_dropped(network: nn.Module, example: Tensor) -> None:
    groups = cuttable(network, example)
    everything = {group.name: torch.ones(group.width, dtype=torch.bool) for group in groups}
    batch = torch.randn(example.shape)
    network.eval()
    assert torch.equal(zeroed(network, groups, everything)(batch), network(batch))
    assert not torch.equal(zeroed(network, groups, halves(groups))(batch), network(batch))


CASES = [
    ("plain", "0", lambda m: m.kind == "input"),
    ("plain", "4", lambda m: m.kind == "input"),  # the columns after a flatten
    ("residual", "conv2", lambda m: m.path == "conv3" and m.kind == "output"),
    ("residual", "conv2", lambda m: m.path == "shortcut"),
    ("residual", "conv2", lambda m: m.path == "bn3"),
    ("residual", "stem.0", lambda m: m.path == "shortcut"),
    ("dense", "a", lambda m: m.path == "bn_ab"),
    ("dense", "b", lambda m: m.path == "c"),
    ("mobile", "expand", lambda m: m.path == "depthwise"),
    ("mobile", "expand", lambda m: m.path == "excite"),
    ("mobile", "squeeze", lambda m: m.kind == "input"),
    ("grouped", "0", lambda m: m.kind == "input"),
    ("grouped", "3", lambda m: m.kind == "group_norm"),
    ("next", "stem", lambda m: m.path == "down"),
    ("next", "stem", lambda m: m.kind == "parameter"),
    ("next", "stem", lambda m: m.path == "norm"),
    ("transposed", "0", lambda m: m.kind == "instance_norm"),
    ("transposed", "0", lambda m: m.kind == "prelu"),
    ("transposed", "0", lambda m: m.kind == "input"),
]


@pytest.mark.parametrize(("name", "group_name", "which"), CASES)
@pytest.mark.parametrize("also_believed", [False, True])
def test_one_layer_cut_at_other_channels_is_caught(
    make_network: Make,
    example: Tensor,
    name: str,
    group_name: str,
    which: Callable[[Member], bool],
    also_believed: bool,
) -> None:
    """The channels of one layer are off by one: by mistake of the cut alone, or in the group itself, which the zeroed
    network is made from too."""
    model = make_network(name)
    with torch.no_grad():  # a fresh network's statistics and scales are all alike: its wrong cut would be a right one
        for tensor in (tensor for key, tensor in model.state_dict().items() if tensor.dim() == 1):
            tensor.copy_(torch.rand(tensor.shape) + 0.5)
        if name == "next":
            model.scale.copy_(torch.rand(8, 1, 1) + 0.5)
    groups = cuttable(model, example)
    assert group_name in [group.name for group in groups]
    keep = halves(groups)
    if name == "grouped":  # whole blocks, or the cut itself refuses
        keep = {group.name: torch.arange(group.width) != 1 for group in groups}
    wrong = [
        changed(group, which, lambda index: index.roll(1)) if group.name == group_name else group for group in groups
    ]
    with pytest.raises(GoalNotMet, match="slice proof failed"):
        prove_slice(model, sliced(model, wrong, keep), wrong if also_believed else groups, keep, example)


def test_a_forgotten_layer_is_caught_and_named(make_network: Make, example: Tensor) -> None:
    model = make_network("residual")
    groups = cuttable(model, example)
    keep = halves(groups)
    short = [
        replace(group, members=tuple(m for m in group.members if m.path != "bn1")) if group.name == "conv1" else group
        for group in groups
    ]
    with pytest.raises(GoalNotMet, match="does not run") as caught:
        prove_slice(model, sliced(model, short, keep), short, keep, example)
    assert "bn1" in str(caught.value)


def test_the_first_wrong_layer_is_named_with_its_group(make_network: Make, example: Tensor) -> None:
    model = make_network("residual")
    groups = cuttable(model, example)
    keep = halves(groups)
    wrong = sliced(model, groups, keep)
    with torch.no_grad():
        wrong.conv2.weight[0, 0] += 1
    with pytest.raises(GoalNotMet, match=r"The first layer that differs is conv2 \(in the groups conv1, conv2\)"):
        prove_slice(model, wrong, groups, keep, example)


def test_a_branch_that_hardly_shows_is_proven_too(make_network: Make, example: Tensor) -> None:
    """A scale of zero hides the branch in the network as it is; the randomised round sees it."""
    model = make_network("next")
    with torch.no_grad():
        model.scale.zero_()
    groups = cuttable(model, example)
    keep = halves(groups)
    wrong = [changed(g, lambda m: m.kind == "input", lambda i: i.roll(1)) if g.name == "up" else g for g in groups]
    with pytest.raises(GoalNotMet, match=r"slice proof failed"):
        prove_slice(model, sliced(model, wrong, keep), wrong, keep, example)


def test_batch_norm_statistics_of_zero_and_one_hide_nothing(make_network: Make, example: Tensor) -> None:
    """A fresh network's statistics are all alike, so statistics of the wrong channels would show nothing."""
    model = make_network("residual")
    groups = cuttable(model, example)
    keep = halves(groups)
    right = sliced(model, groups, keep)
    wrong = [changed(g, lambda m: m.path == "bn1", lambda i: i.roll(1)) if g.name == "conv1" else g for g in groups]
    off = sliced(model, wrong, keep)
    assert all(torch.equal(a, b) for a, b in zip(off.state_dict().values(), right.state_dict().values(), strict=True))
    with pytest.raises(GoalNotMet):
        prove_slice(model, off, wrong, keep, example)


def test_an_output_of_another_shape_is_caught(make_network: Make, example: Tensor) -> None:
    model = make_network("plain")
    groups = cuttable(model, example)
    keep = halves(groups)
    cut = sliced(model, groups, keep)
    cut[9] = nn.Linear(5, 4)
    with pytest.raises(GoalNotMet, match="another shape"):
        prove_slice(model, cut, groups, keep, example)


def test_not_a_number_is_a_failure(make_network: Make, example: Tensor) -> None:
    model = make_network("plain")
    groups = cuttable(model, example)
    keep = halves(groups)
    cut = sliced(model, groups, keep)
    with torch.no_grad():
        cut[9].bias[0] = float("nan")
    with pytest.raises(GoalNotMet):
        prove_slice(model, cut, groups, keep, example)


def test_a_network_that_insists_on_float32_is_proven_in_it(example: Tensor) -> None:
    copied = nn.Sequential(nn.Conv2d(3, 8, 3), Half(), nn.Conv2d(8, 4, 3))
    groups = cuttable(copied, example)
    keep = halves(groups)
    proof = prove_slice(copied, sliced(copied, groups, keep), groups, keep, example)
    assert proof.dtype == "float32"
    assert proof.tolerance == 1e-5


class Half(nn.Module):
    """Adds a float32 product, which float64 weights refuse."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, torch.ones(x.shape[1], 1, 1, 1), groups=x.shape[1])


def test_the_proof_changes_nothing(network: nn.Module, example: Tensor) -> None:
    groups = cuttable(network, example)
    keep = halves(groups)
    cut = sliced(network, groups, keep)
    before = [tensor.clone() for model in (network, cut) for tensor in model.state_dict().values()]
    state = torch.get_rng_state()
    prove_slice(network, cut, groups, keep, example)
    after = [tensor for model in (network, cut) for tensor in model.state_dict().values()]
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(before, after, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training
    assert cut.training
