"""Channels added that are zero: the function stays, and taking them out again gives the very network."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pruning_bootcamp.errors import GoalNotMet
from pruning_bootcamp.pruning.channels import widening
from pruning_bootcamp.pruning.channels.widening import widen
from pruning_bootcamp.pruning.graph import cut_members, find_groups, why_not_widened, widen_members
from pruning_bootcamp.pruning.masks import detached_copy

EXAMPLE = torch.zeros(1, 3, 8, 8)


class Block(nn.Module):
    """What pruning meets: a residual sum, a depthwise convolution, a gate that is not zero at zero, a flatten."""

    def __init__(self, outer: int, inner: int, squeezed: int, last: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, outer, 3, padding=1, bias=False), nn.BatchNorm2d(outer), nn.ReLU())
        self.expand = nn.Sequential(nn.Conv2d(outer, inner, 1), nn.BatchNorm2d(inner), nn.Softplus())
        self.depthwise = nn.Sequential(nn.Conv2d(inner, inner, 3, padding=1, groups=inner), nn.PReLU(inner))
        self.squeeze, self.excite = nn.Linear(inner, squeezed), nn.Linear(squeezed, inner)
        self.project = nn.Conv2d(inner, outer, 1)
        self.scale = nn.Parameter(torch.ones(inner, 1, 1))
        self.last = nn.Conv2d(outer, last, 3, padding=1)
        self.head = nn.Linear(last * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        first = self.stem(x)
        inner = self.depthwise(self.expand(first))
        gate = nn.functional.hardsigmoid(self.excite(torch.relu(self.squeeze(inner.mean((2, 3))))))
        whole = first + self.project(self.scale * inner * gate[:, :, None, None])
        return self.head(nn.functional.max_pool2d(torch.sigmoid(self.last(whole)), 2).flatten(1))


class Joined(nn.Module):
    """A concatenation, as in a dense block."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.side = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 5, 1), nn.Conv2d(3, 6, 3, padding=1)
        self.norm, self.join, self.head = nn.BatchNorm2d(11), nn.Conv2d(11, 4, 1), nn.Linear(4 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        first = self.one(x)
        whole = torch.cat([first + self.two(first), self.side(x)], 1)
        return self.head(self.join(self.norm(whole)).flatten(1))


def settled(model: nn.Module) -> nn.Module:
    """With statistics and shifts unlike fresh ones, so that whatever is misplaced shows."""
    model.train()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 2)
                module.bias.normal_()
        model(2 * torch.randn(16, 3, 8, 8) + 1)
    return model.eval()


@settings(max_examples=8, deadline=None)
@given(
    widths=st.tuples(*(st.integers(2, 19) for _ in range(4))),
    multiple=st.sampled_from((4, 8, 16)),
    seed=st.integers(0, 9),
)
def test_a_wider_network_is_the_same_function_in_multiples(
    widths: tuple[int, int, int, int], multiple: int, seed: int
) -> None:
    torch.manual_seed(seed)
    model = settled(Block(*widths))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = widen(model, EXAMPLE, multiple)

    odd = [width for width in widths if width % multiple]
    assert len(found.widths) == len(odd)
    assert sorted(now for _, now in found.widths.values()) == sorted(-(-width // multiple) * multiple for width in odd)
    assert not found.left
    outer, inner, squeezed, last = (-(-width // multiple) * multiple for width in widths)
    assert (found.model.last.in_channels, found.model.head.in_features) == (outer, last * 16)
    assert found.model.depthwise[0].groups == inner  # type: ignore[index, union-attr]
    assert found.model.stem[1].num_features == outer  # type: ignore[index, union-attr]
    assert found.model.squeeze.out_features == squeezed
    inputs = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        wanted, given = detached_copy(model).double()(inputs), detached_copy(found.model).double()(inputs)
    torch.testing.assert_close(given, wanted, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()), "it stays as it is"


def test_what_is_added_is_zero_and_cutting_it_gives_the_network_back() -> None:
    model = settled(Joined())
    wide = detached_copy(model)
    groups = [group for group in find_groups(wide, EXAMPLE) if why_not_widened(group) is None]
    wider = widen_members(wide, groups, {group.name: 2 for group in groups})
    assert wide.norm.running_var[[5, 6, 13, 14]].tolist() == [1] * 4  # type: ignore[index]
    # of the concatenation 5 channels and 2 new ones, then 6 and 2 new ones
    unread = wide.join.weight.abs().sum((0, 2, 3)) == 0  # type: ignore[operator]
    assert unread.nonzero().flatten().tolist() == [5, 6, 13, 14]
    # each channel has 64 positions in the flatten
    assert wide.head.weight.shape == (5, (4 + 2) * 64)
    assert not wide.head.weight[:, 256:].any()  # type: ignore[index]

    keep = {group.name: torch.arange(group.width) < group.width - 2 for group in wider}
    cut_members(wide, wider, keep)
    again = wide.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())
    assert (wide.join.in_channels, wide.head.in_features) == (11, 4 * 64)


@pytest.mark.parametrize("groups", [2, 3])
def test_the_blocks_of_a_grouped_convolution_stay_equal(groups: int) -> None:
    torch.manual_seed(groups)
    width = 3 * groups
    model = settled(
        nn.Sequential(
            nn.Conv2d(3, width, 1), nn.Conv2d(width, width, 3, groups=groups), nn.Flatten(), nn.Linear(width * 36, 5)
        )
    )
    found = widen(model, EXAMPLE, 4)
    assert [before for before, _ in found.widths.values()] == [width, width]
    assert all(now % groups == 0 and now % 4 == 0 for _, now in found.widths.values())
    inputs = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(found.model(inputs), model(inputs))


def test_a_norm_over_the_channels_is_left_alone_with_the_reason() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.GroupNorm(2, 6),
        nn.ReLU(),
        nn.Conv2d(6, 7, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(112, 5),
    ).eval()
    found = widen(model, EXAMPLE, 8)
    assert found.widths == {"3": (7, 8)}
    assert found.left == {"0": "1 normalises over the channels, and zeros would change its statistics"}


def test_code_that_counts_the_channels_is_found_by_the_proof_and_named() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 6, 3), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.one(x))
            x = self.two(x * torch.sigmoid(x.mean(1, keepdim=True)))
            return self.head(x.mean((2, 3)))

    found = widen(Mean().eval(), EXAMPLE, 8)
    assert found.widths == {"two": (6, 8)}
    assert list(found.left) == ["one"]
    assert "counts these channels" in found.left["one"]


def test_a_wrong_widening_is_never_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    right = widening.widen_members

    def wrong(model: nn.Module, *rest: object) -> object:
        groups = right(model, *rest)  # type: ignore[arg-type]
        with torch.no_grad():
            model.get_parameter("0.weight")[0, 0] += 1
        return groups

    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(5 * 36, 5)).eval()
    monkeypatch.setattr(widening, "widen_members", wrong)
    with pytest.raises(GoalNotMet, match=r"0\.weight is not what it was"):
        widening._proved(model, EXAMPLE, ["0"], 8, {})
    assert widen(model, EXAMPLE, 8).widths == {}


def test_nothing_to_widen_is_a_copy() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
    found = widen(model, EXAMPLE, 8)
    assert (found.widths, found.left, found.proof) == ({}, {}, None)
