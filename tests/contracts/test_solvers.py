"""Every registered solver: as many zeros as decided, nothing comes back, and nothing else is left behind."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.solvers import SOLVERS
from pruning_bootcamp.pruning.weights.unstructured import check_unstructured, prune_unstructured

NEEDS_IMAGES = [name for name in SOLVERS if SOLVERS[name].facts.get("images")]
PATTERNS: list[dict[str, Any]] = [
    {"sparsity": 0.6},
    {"sparsity": 0.6, "allocation": "global"},
    {"sparsity": None, "pattern": "2:4"},
    {"sparsity": 0.5, "pattern": "2x2"},
]


def network() -> nn.Sequential:
    """Grouped and depthwise convolutions, with and without a bias and a batch norm behind."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 8, 3, stride=2, groups=2, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(8),
        nn.Flatten(),
        nn.Linear(72, 8, bias=False),
        nn.Dropout(),
        nn.Linear(8, 4),
    )


def images() -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    smooth = nn.functional.avg_pool2d(torch.randn(24, 4, 8, 8, generator=g), 3, 1, 1) * 3  # neighbours are alike
    return list(smooth.split(10))


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def zeros(masks: dict[str, Tensor]) -> dict[str, int]:
    return {name: int((~keep).sum()) for name, keep in masks.items()}


def fits_pattern(keep: Tensor, pattern: str) -> bool:
    if pattern == "2:4":
        return bool((keep.movedim(1, -1).reshape(-1, 4).sum(1) == 2).all())
    tiles = keep.reshape(keep.shape[0] // 2, 2, keep.shape[1] // 2, 2, -1).float().mean((1, 3))
    return bool(((tiles == 0) | (tiles == 1)).all())


@pytest.mark.parametrize("choices", PATTERNS, ids=str)
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_counts_of_each_layer_are_those_without_a_solver_and_in_the_pattern(
    solver: str, choices: dict[str, Any]
) -> None:
    net, plain = network(), network()
    expected = prune_unstructured(plain, **choices)
    result = prune_unstructured(net, solver=solver, stats_batches=images(), **choices)
    assert zeros(result.masks) == zeros(expected.masks)
    assert result.skipped == expected.skipped
    for name, keep in result.masks.items():
        assert torch.equal(net.get_parameter(name) == 0, ~keep)
        assert "pattern" not in choices or fits_pattern(keep, choices["pattern"])
        if not SOLVERS[solver].facts.get("chooses"):
            assert torch.equal(keep, expected.masks[name])


@pytest.mark.parametrize("solver", SOLVERS)
def test_it_is_deterministic_and_leaves_mode_hooks_gradients_and_random_state(solver: str) -> None:
    found = []
    for seed in (1, 2):
        net = network()
        net[1].eval()
        modes = [module.training for module in net.modules()]
        torch.manual_seed(seed)
        state_before = torch.get_rng_state()
        prune_unstructured(net, sparsity=0.5, solver=solver, stats_batches=images())
        assert torch.equal(torch.get_rng_state(), state_before)
        assert [module.training for module in net.modules()] == modes
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
        assert all(value.grad is None and value.requires_grad for value in net.parameters())
        found.append(state(net))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("before", [{"sparsity": 0.6}, {"sparsity": 0.6, "allocation": "global"}], ids=str)
@pytest.mark.parametrize(
    "further", [{"sparsity": 0.8}, {"sparsity": 0.8, "pattern": "2x2"}, {"pattern": "1:4"}], ids=str
)
@pytest.mark.parametrize("solver", SOLVERS)
def test_earlier_zeros_stay_whatever_pattern_they_came_from(
    solver: str, before: dict[str, Any], further: dict[str, Any]
) -> None:
    net = network()
    first = prune_unstructured(net, **before)
    with torch.no_grad():  # what training does: the order of the weights that stayed is another
        for name, keep in first.masks.items():
            net.get_parameter(name).add_(0.1 * torch.randn(keep.shape) * keep)
    again = prune_unstructured(
        net, previous=first.masks, solver=solver, stats_batches=images(), **{"sparsity": None, **further}
    )
    for name, keep in again.masks.items():
        assert not (keep & ~first.masks[name]).any()
        assert torch.equal(net.get_parameter(name) == 0, ~keep)
    if "pattern" not in further:
        counts, sizes = zeros(again.masks), {name: keep.numel() for name, keep in again.masks.items()}
        allowed = {name: max(round(0.8 * size), zeros(first.masks)[name]) for name, size in sizes.items()}
        assert counts == allowed


@pytest.mark.parametrize("solver", SOLVERS)
def test_batches_may_be_a_generator_with_or_without_labels(solver: str) -> None:
    def given(kind: str) -> Iterator[Any]:
        for batch in images():
            yield batch if kind == "images" else (batch, torch.zeros(len(batch), dtype=torch.long))

    found = []
    for kind in ("images", "pairs"):
        for batches in (given(kind), list(given(kind))):
            net = network()
            prune_unstructured(net, sparsity=0.5, score="obs", solver=solver, stats_batches=batches)
            found.append(state(net))
    assert all(torch.equal(found[0][name], other[name]) for other in found[1:] for name in other)


@pytest.mark.parametrize("solver", NEEDS_IMAGES)
def test_a_shuffling_loader_gives_the_same_twice_and_leaves_the_random_state(solver: str) -> None:
    loader = DataLoader(TensorDataset(torch.cat(images()), torch.zeros(24)), batch_size=8, shuffle=True)
    found = []
    for seed in (1, 2):
        net = network()
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        prune_unstructured(net, sparsity=0.5, solver=solver, stats_batches=loader)
        assert torch.equal(torch.get_rng_state(), before)
        found.append(state(net))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("solver", NEEDS_IMAGES)
def test_without_images_it_is_refused_with_a_reason(solver: str) -> None:
    (problem,) = check_unstructured(sparsity=0.5, solver=solver, has_batches=False)
    assert str(problem).startswith(f"prune.solver: '{solver}' needs calibration images (labels are not needed)")
    with pytest.raises(BootcampError, match="needs calibration images"):
        prune_unstructured(network(), sparsity=0.5, solver=solver)
    with pytest.raises(BootcampError, match="holds no batch"):
        prune_unstructured(network(), sparsity=0.5, solver=solver, stats_batches=[])


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_threshold_is_refused_where_the_solver_itself_decides(solver: str) -> None:
    problems = check_unstructured(sparsity=None, pattern="threshold", solver=solver)
    if SOLVERS[solver].facts.get("chooses"):
        (problem,) = problems
        assert str(problem).startswith(
            f"prune.solver: '{solver}' decides itself which weights go, and pattern 'threshold'"
        )
    else:
        assert problems == []


class Breaks(nn.Module):
    """Passes its input on some times, then fails."""

    def __init__(self, error: BaseException, after: int) -> None:
        super().__init__()
        self.error, self.left = error, after

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return x


@pytest.mark.parametrize("error", [ZeroDivisionError(), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("after", [0, 1, 2, 4])
@pytest.mark.parametrize("solver", NEEDS_IMAGES)
def test_whatever_is_raised_leaves_every_weight_and_buffer_as_it_was(
    solver: str, after: int, error: BaseException
) -> None:
    net = network()
    net[9] = Breaks(error, after)
    before = state(net)
    with pytest.raises(type(error)):
        prune_unstructured(net, sparsity=0.5, solver=solver, stats_batches=images())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert net.training


@pytest.mark.parametrize("solver", NEEDS_IMAGES)
def test_a_layer_it_does_not_know_is_skipped_and_one_that_never_runs_named(solver: str) -> None:
    net = nn.Sequential(nn.ConvTranspose2d(4, 4, 1), network())
    before = net[0].weight.detach().clone()
    result = prune_unstructured(net, sparsity=0.5, solver=solver, stats_batches=images())
    assert list(result.skipped) == ["0.weight"]
    assert "knows linear layers and convolutions, not the weight of ConvTranspose2d" in result.skipped["0.weight"]
    assert torch.equal(net[0].weight, before)
    zeros = sum(layer.zeros for layer in result.layers)
    assert result.sparsity == zeros / sum(layer.size for layer in result.layers) < 0.5, "skipped weights count"
    idle = network()
    idle[1].never = nn.Linear(3, 3)
    before = state(idle)
    with pytest.raises(BootcampError, match=r"^1\.never\.weight: the layer never ran on the calibration images"):
        prune_unstructured(idle, sparsity=0.5, solver=solver, stats_batches=images())
    assert all(torch.equal(value, before[name]) for name, value in idle.state_dict().items())
    prune_unstructured(idle, sparsity=0.5, solver=solver, stats_batches=images(), exclude=["never"])


@pytest.mark.parametrize("solver", NEEDS_IMAGES)
def test_images_that_are_not_numbers_are_an_error_and_nothing_changes(solver: str) -> None:
    net = network()
    before = state(net)
    with pytest.raises(BootcampError, match="NaN or Inf"):
        prune_unstructured(
            net, sparsity=0.5, solver=solver, stats_batches=[images()[0], torch.full((2, 4, 8, 8), torch.nan)]
        )
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("solver", NEEDS_IMAGES)
@pytest.mark.parametrize("args", [{"damping": -0.1}, {"damping": float("inf")}])
def test_settings_that_make_no_sense_are_refused_before_anything_runs(solver: str, args: dict[str, Any]) -> None:
    (problem,) = check_unstructured(sparsity=0.5, solver=solver, solver_args=args)
    assert str(problem).startswith("prune.solver: a damping of")


@pytest.mark.parametrize("sparsity", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("solver", NEEDS_IMAGES)
def test_the_networks_outputs_are_nearer_to_the_dense_ones_than_without(solver: str, sparsity: float) -> None:
    together = torch.cat(images())
    dense = network().eval()(together).detach()

    def error(name: str) -> float:
        net = network()
        prune_unstructured(net, sparsity=sparsity, solver=name, stats_batches=images())
        return float((net.eval()(together).detach() - dense).square().mean())

    assert error(solver) < error("none")


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_compiled_network_is_pruned_as_the_one_inside_it(solver: str) -> None:
    net, plain = network(), network()
    compiled = torch.compile(net, backend="eager")
    prune_unstructured(plain, sparsity=0.5, solver=solver, stats_batches=images())
    prune_unstructured(compiled, sparsity=0.5, solver=solver, stats_batches=images())
    assert all(torch.allclose(value, plain.state_dict()[name], atol=1e-5) for name, value in net.state_dict().items())
