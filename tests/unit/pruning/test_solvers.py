"""Reconstruction by hand, SparseGPT layer after layer, and what takes up a shift, in networks of every make."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning import solvers
from pruning_bootcamp.pruning.layers.bias_correction import find_bias_corrections
from pruning_bootcamp.pruning.solvers import LayerwiseProblem, reconstruct
from pruning_bootcamp.pruning.weights.unstructured import check_unstructured, prune_unstructured
from pruning_bootcamp.tools.modes import detached_clone

EXACT = {"damping": 1e-8}


def smooth(count: int = 40, channels: int = 3, size: int = 8, seed: int = 0) -> Tensor:
    """Images whose neighbouring pixels are alike."""
    g = torch.Generator().manual_seed(seed)
    return F.avg_pool2d(torch.randn(count, channels, size, size, generator=g), 3, 1, 1) * 3


def awake(norm: nn.Module) -> nn.Module:
    """A batch norm with statistics that say something."""
    g = torch.Generator().manual_seed(1)
    for name, low in (("running_mean", -0.5), ("running_var", 0.5), ("weight", 0.5), ("bias", -0.5)):
        getattr(norm, name).data.copy_(torch.rand(norm.num_features, generator=g) + low)
    return norm


def toy() -> nn.Sequential:
    torch.manual_seed(0)
    first = [nn.Conv2d(3, 6, 3, bias=False), awake(nn.BatchNorm2d(6)), nn.ReLU(inplace=True)]
    return nn.Sequential(*first, nn.Conv2d(6, 4, 3, stride=2, padding=1))


def unfolded(layer: nn.Module, x: Tensor) -> Tensor:
    """[samples, in * kernel] by torch's own unfold."""
    assert isinstance(layer, nn.Conv2d)
    columns = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return columns.transpose(1, 2).reshape(-1, columns.shape[1]).double()


def rows_of(y: Tensor) -> Tensor:
    return y.flatten(2).transpose(1, 2).reshape(-1, y.shape[1]).double()


def by_lstsq(x: Tensor, y: Tensor, keep: Tensor, intercept: bool = True) -> tuple[Tensor, Tensor]:
    """Each row's weights on its mask, and its constant."""
    rows, constants = torch.zeros(y.shape[1], x.shape[1]).double(), torch.zeros(y.shape[1]).double()
    for at, kept in enumerate(keep.flatten(1)):
        inputs = torch.cat([x[:, kept], torch.ones(len(x), int(intercept)).double()], 1)
        solution = torch.linalg.lstsq(inputs, y[:, at, None]).solution[:, 0]
        rows[at, kept], constants[at] = solution[: int(kept.sum())], solution[-1] if intercept else 0.0
    return rows, constants


def test_reconstruct_is_least_squares_by_hand_with_the_constant_in_the_norm_and_in_the_bias() -> None:
    net, x = toy(), smooth()
    dense = detached_clone(net).eval()
    result = prune_unstructured(net, sparsity=0.5, solver="reconstruct", solver_args=EXACT, stats_batches=x.split(15))
    plain = toy()
    masks = prune_unstructured(plain, sparsity=0.5).masks
    assert all(torch.equal(result.masks[name], keep) for name, keep in masks.items())
    net.eval()
    with torch.no_grad():
        rows, constants = by_lstsq(unfolded(net[0], x), rows_of(dense[0](x)), masks["0.weight"])
        assert torch.allclose(net[0].weight.flatten(1).double(), rows, atol=1e-4)
        assert torch.allclose(net[1].running_mean.double(), dense[1].running_mean.double() - constants, atol=1e-4)
        assert constants.abs().max() > 1e-3
        rows, constants = by_lstsq(unfolded(net[3], net[:3](x)), rows_of(dense(x)), masks["3.weight"])
        assert torch.allclose(net[3].weight.flatten(1).double(), rows, atol=1e-3)
        assert torch.allclose(net[3].bias.double(), constants, atol=1e-3)
    same = ("1.weight", "1.bias", "1.running_var", "1.num_batches_tracked")
    assert all(torch.equal(net.state_dict()[name], dense.state_dict()[name]) for name in same)


def test_without_bias_and_norm_there_is_no_constant() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False))
    dense, x = detached_clone(net), torch.randn(50, 8) @ torch.randn(8, 8) + 1
    result = prune_unstructured(net, sparsity=0.5, solver="reconstruct", solver_args=EXACT, stats_batches=[x])
    with torch.no_grad():
        rows, _ = by_lstsq(x.double(), dense[0](x).double(), result.masks["0.weight"], intercept=False)
        assert torch.allclose(net[0].weight.double(), rows, atol=1e-3)
        x = net[:2](x)
        wanted = dense(torch.zeros(0, 8))  # shapes only
        assert wanted.shape == (0, 3)


@pytest.mark.parametrize("sparsity", [0.3, 0.6, 0.9])
@pytest.mark.parametrize(
    "first",
    [
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3, bias=False), awake(nn.BatchNorm2d(8))),
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=2)),
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=4, bias=False)),
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3, bias=False), nn.ReLU(inplace=True), awake(nn.BatchNorm2d(8))),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(256, 8, bias=False), awake(nn.BatchNorm1d(8))),
    ],
)
def test_a_first_layer_is_never_further_from_the_dense_one_than_without(first: Any, sparsity: float) -> None:
    x = smooth(channels=4)
    errors = {}
    for solver in ("none", "reconstruct"):
        torch.manual_seed(0)
        net = first()
        at = next(i for i, layer in enumerate(net) if hasattr(layer, "in_features") or hasattr(layer, "kernel_size"))
        dense = detached_clone(net).eval()
        prune_unstructured(net, sparsity=sparsity, solver=solver, stats_batches=[x])
        net.eval()
        with torch.no_grad():
            now, then = net[: at + 1](x), dense[: at + 1](x)
            behind = net[at + 1] if at + 1 < len(net) else None
            if isinstance(behind, nn.BatchNorm1d | nn.BatchNorm2d):  # what it takes up belongs to the layer
                shift = dense[at + 1].running_mean - behind.running_mean
                now = now + shift.reshape(-1, *[1] * (now.ndim - 2))
            errors[solver] = float((now - then).square().mean())
    assert errors["reconstruct"] < errors["none"]


def correcting(net: nn.Module, x: Tensor) -> dict[str, nn.Module]:
    layers = {name: m for name, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    found = find_bias_corrections(net, layers, x)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    return {name: correction.module for name, correction in found.items()}


class Wired(nn.Module):
    """A convolution and a norm behind it, wired as asked."""

    def __init__(self, wiring: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.other = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.Conv2d(3, 3, 1, bias=False)
        self.norm, self.wiring = awake(nn.BatchNorm2d(3)), wiring

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.wiring == "direct":
            return self.other(self.norm(y).relu())
        if self.wiring == "keyword":
            return self.other(self.norm(input=y).relu())
        if self.wiring == "dropout":
            return self.other(F.dropout(self.norm(y)))  # draws in eval mode too
        if self.wiring == "relu":
            return self.other(self.norm(F.relu(y, inplace=True)))
        if self.wiring == "scaled":
            return self.other(self.norm(y.mul_(2)))
        if self.wiring == "skip":  # as behind the stem of a pre-activation ResNet
            return self.other(self.norm(y).relu()) + y
        if self.wiring == "shared":
            return self.norm(self.other(self.norm(y)))
        return self.norm(self.conv(self.norm(y)))


@pytest.mark.parametrize(
    ("wiring", "takes"),
    [("direct", True), ("keyword", True), ("dropout", True)]
    + [(wiring, False) for wiring in ("relu", "scaled", "skip", "shared", "twice")],
)
def test_a_norm_takes_up_a_shift_only_where_it_alone_gets_just_what_the_layer_gives(wiring: str, takes: bool) -> None:
    net = Wired(wiring)
    assert correcting(net, smooth(2)) == ({"conv": net.norm} if takes else {})


def test_a_bias_comes_before_a_norm_and_a_norm_over_another_dimension_is_none() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(5, 4, bias=False), awake(nn.BatchNorm1d(4)), nn.Linear(4, 3), awake(nn.BatchNorm1d(3))
    )
    assert correcting(net, torch.randn(2, 5)) == {"0": net[1], "2": net[2]}
    tokens = nn.Sequential(nn.Linear(5, 4, bias=False), awake(nn.BatchNorm1d(4)), nn.Flatten())
    assert correcting(tokens, torch.randn(2, 4, 5)) == {}  # as many tokens as outputs
    assert correcting(nn.Sequential(nn.Linear(5, 4, bias=False), nn.BatchNorm1d(6)), torch.randn(2, 6, 5)) == {}
    still = nn.Sequential(nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4, track_running_stats=False))
    assert correcting(still, torch.randn(3, 5)) == {}


def test_one_norm_that_is_none_does_not_cost_the_others_theirs() -> None:
    net = nn.Sequential(Wired("direct"), Wired("skip"), Wired("keyword"))
    assert correcting(net, smooth(2)) == {"0.conv": net[0].norm, "2.conv": net[2].norm}


def test_a_shift_is_seen_by_the_network_behind_as_if_the_layer_had_made_it() -> None:
    net, x, shift = Wired("direct"), smooth(4), torch.tensor([1.0, -2.0, 0.5])
    (correction,) = find_bias_corrections(net, {"conv": net.conv}, x[:2]).values()
    net.eval()
    shifted = net.other(net.norm(net.conv(x) + shift[:, None, None]).relu())
    correction.set(shift)
    assert torch.allclose(net(x), shifted, atol=1e-5)
    correction.set(torch.zeros(3))
    assert torch.equal(net.norm.running_mean, correction.start)


class Guarded(nn.Module):
    """Layers in contexts, one of them used twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6, bias=False), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.a(x).relu()
        with torch.enable_grad():
            x = self.b(x).relu() + self.b(input=x)
        with torch.autocast("cpu", torch.bfloat16):
            return self.c(x)


@pytest.mark.parametrize("solver", ["reconstruct", "sparsegpt"])
def test_contexts_and_a_layer_used_twice(solver: str) -> None:
    net, x = Guarded(), torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    dense = net(x).detach()
    plain = Guarded()
    prune_unstructured(plain, sparsity=0.4)
    prune_unstructured(net, sparsity=0.4, solver=solver, stats_batches=x.split(20))
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    assert all(value.requires_grad and value.is_leaf for value in net.parameters())
    assert float((net(x) - dense).detach().square().mean()) < float((plain(x) - dense).detach().square().mean())


def test_an_error_between_two_layers_puts_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = toy(), smooth()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    seen = []
    fit = solvers._Walk.fit

    def failing(walk: Any, name: str, *rest: Any, **more: Any) -> None:
        fit(walk, name, *rest, **more)
        seen.append(not torch.equal(net.state_dict()["1.running_mean"], before["1.running_mean"]))
        if name == "3.weight":
            raise ZeroDivisionError

    monkeypatch.setattr(solvers._Walk, "fit", failing)
    for args in ({"solver": "reconstruct"}, {"solver": "sparsegpt", "solver_args": {"refit": True}}):
        seen.clear()
        with pytest.raises(ZeroDivisionError):
            prune_unstructured(net, sparsity=0.5, stats_batches=[x], **args)
        assert seen == [True, True]
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_weights_that_overflow_are_an_error_and_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    net = toy()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    monkeypatch.setattr(solvers, "fit_rows", lambda gram, products, *rest: (products * torch.inf, 0.0))
    with pytest.raises(BootcampError, match="NaN or Inf"):
        prune_unstructured(net, sparsity=0.5, solver="reconstruct", stats_batches=[smooth()])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("solver", ["reconstruct", "sparsegpt"])
def test_inputs_that_depend_on_each_other_or_are_all_zero_are_told(solver: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[2].weight.zero_().sub_(1)
        net[2].bias.fill_(-1.0)  # nothing gets past the second ReLU
    last = net[4].weight.detach().clone()
    x = torch.randn(30, 2).repeat(1, 2)  # each input twice
    result = prune_unstructured(
        net, sparsity=0.25, solver=solver, solver_args={"damping": 0.0}, stats_batches=[x], exclude=["2"]
    )
    assert any(note.startswith("0.weight: damping raised from 0 to ") for note in result.notes)
    assert "4.weight: its inputs are all zero on the calibration images" in result.notes
    assert torch.allclose(net[4].weight, last * result.masks["4.weight"])  # nothing to fit it to


def test_reconstruct_alone_zeroes_what_the_masks_say_before_it_fits() -> None:
    net, x = toy(), smooth()
    masks = {"0.weight": torch.rand(6, 3, 3, 3) < 0.5}
    found = reconstruct(LayerwiseProblem(model=net, masks=masks, images=[x], reference=detached_clone(net)))
    assert torch.equal(found["0.weight"], masks["0.weight"])
    assert (net[0].weight[~masks["0.weight"]] == 0).all()


def test_sparsegpt_gives_later_layers_what_pruned_ones_make() -> None:
    """Layer by layer by hand: the sweep over the columns that the layers before it, pruned, give."""
    net, x = toy(), smooth()
    prune_unstructured(net, sparsity=0.5, solver="sparsegpt", stats_batches=[x])
    alone = toy()
    alone.load_state_dict({**alone.state_dict(), "0.weight": net[0].weight.detach()})
    expected = prune_unstructured(alone, sparsity=0.5, solver="sparsegpt", stats_batches=[x], include=["3"])
    assert torch.equal(net[3].weight, alone[3].weight)
    assert expected.masks.keys() == {"3.weight"}
    dense = toy()
    prune_unstructured(dense, sparsity=0.5, solver="sparsegpt", stats_batches=[x], include=["3"])
    assert not torch.equal(net[3].weight, dense[3].weight)


def test_refit_comes_nearer_still() -> None:
    x, errors = smooth(), []
    wanted = toy().eval()(x).detach()
    for refit in (False, True):
        net = toy()
        prune_unstructured(net, sparsity=0.7, solver="sparsegpt", solver_args={"refit": refit}, stats_batches=[x])
        errors.append(float((net.eval()(x).detach() - wanted).square().mean()))
    assert errors[1] < errors[0]


@pytest.mark.parametrize("block", [1, 2, 4, 7, 128])
@pytest.mark.parametrize(
    "choices", [{"sparsity": 0.6}, {"sparsity": None, "pattern": "2:4"}, {"sparsity": 0.5, "pattern": "2x2"}], ids=str
)
def test_blocks_of_any_size_give_the_counts_and_the_pattern(block: int, choices: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.Flatten(), nn.Linear(128, 6))
    x = smooth(12, channels=8)
    expected = prune_unstructured(detached_clone(net), **choices).masks
    result = prune_unstructured(net, solver="sparsegpt", solver_args={"block": block}, stats_batches=[x], **choices)
    assert {n: int(k.sum()) for n, k in result.masks.items()} == {n: int(k.sum()) for n, k in expected.items()}
    for keep in result.masks.values():
        if choices.get("pattern") == "2:4":
            assert (keep.movedim(1, -1).reshape(-1, 4).sum(1) == 2).all()
        elif choices.get("pattern") == "2x2":
            tiles = keep.reshape(keep.shape[0] // 2, 2, keep.shape[1] // 2, 2, -1).float().mean((1, 3))
            assert ((tiles == 0) | (tiles == 1)).all()


def test_a_pattern_that_fits_no_single_group_keeps_the_scored_mask_and_says_so() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(144, 4))
    choices: dict[str, Any] = {"sparsity": 0.5, "pattern": "4x2"}
    expected = prune_unstructured(detached_clone(net), **choices)
    result = prune_unstructured(net, solver="sparsegpt", stats_batches=[smooth(12, channels=4)], **choices)
    assert torch.equal(result.masks["0.weight"], expected.masks["0.weight"])
    assert any(note.startswith("0.weight: the pattern does not fit one group") for note in result.notes)


def test_a_block_without_columns_is_refused() -> None:
    (problem,) = check_unstructured(sparsity=0.5, solver="sparsegpt", solver_args={"block": 0})
    assert str(problem) == "prune.solver: a block of 0 columns has no weights in it."
    assert check_unstructured(sparsity=0.5, solver="sparsegpt", solver_args={"damping": 0}) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("solver", ["reconstruct", "sparsegpt"])
def test_other_number_formats_keep_theirs(solver: str, dtype: torch.dtype) -> None:
    net, plain, x = toy().to(dtype), toy().to(dtype), smooth().to(dtype)
    wanted = toy().to(dtype).eval()(x).detach()
    prune_unstructured(plain, sparsity=0.5)
    prune_unstructured(net, sparsity=0.5, solver=solver, stats_batches=[x])
    assert all(value.dtype == dtype for value in net.parameters())
    near, far = (float((some.eval()(x).detach() - wanted).float().square().mean()) for some in (net, plain))
    assert near < far
