"""Every registered thing that is handed tensors of two devices lets them meet where the weight lies.

Without a GPU: FakeTensorMode runs what only computes, tests/pretended_cuda.py also what reads values and backward. The
registries are gone through, so a newcomer is tested the day it is registered.
"""

import copy
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pruning_bootcamp.pruning.channels.refit import refit
from pruning_bootcamp.pruning.channels.scores import CHANNEL_SCORES, measured_on_images
from pruning_bootcamp.pruning.channels.scores import needs_labels as channels_need_labels
from pruning_bootcamp.pruning.channels.structured import cut_channels, plan_structured
from pruning_bootcamp.pruning.masks import SparsityMask, apply_masks, detached_copy
from pruning_bootcamp.pruning.patterns import PATTERNS
from pruning_bootcamp.pruning.sections import PruneSettings
from pruning_bootcamp.pruning.solvers import SOLVERS, LayerwiseProblem
from pruning_bootcamp.pruning.stats import STATISTICS, LayerStats, gather
from pruning_bootcamp.pruning.weights.allocation import ALLOCATIONS
from pruning_bootcamp.pruning.weights.choices import resolve
from pruning_bootcamp.pruning.weights.decision import decide_masks
from pruning_bootcamp.pruning.weights.scores import SCORES, importance, needs_labels, needs_of
from pruning_bootcamp.pruning.weights.unstructured import UnstructuredPruning, prune_unstructured
from pruning_bootcamp.runs import write_yaml
from pruning_bootcamp.schema import Choice

BOTH_WAYS = [("cpu", "cuda"), ("cuda", "cpu")]
PATTERN_ARGS: dict[str, dict[str, int]] = {"nm": {"n": 2, "m": 4}, "block": {"rows": 2, "columns": 2}}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, groups=2),
        nn.Flatten(),
        nn.Linear(72, 8),
    )


def batches(labelled: bool) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(12, 4, 8, 8, generator=generator)
    labels = torch.arange(12) % 8
    return list(zip(images.split(6), labels.split(6), strict=True)) if labelled else list(images.split(6))


def devices_of(tensors: dict[str, Tensor]) -> set[str]:
    return {tensor.device.type for tensor in tensors.values()}


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("where", BOTH_WAYS)
@pytest.mark.parametrize("shape", [(6, 4), (4, 3, 3, 3)])
def test_a_score_meets_its_statistics_on_the_weights_device(
    name: str, where: tuple[str, str], shape: tuple[int, ...]
) -> None:
    with FakeTensorMode():
        weight = torch.randn(shape, device=where[0])
        stats = LayerStats("layer", 0, {need: torch.rand(shape, device=where[1]) for need in needs_of(name)})
        found = SCORES[name](weight, stats)
    assert found.device.type == where[0]
    assert found.shape == weight.shape


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("where", BOTH_WAYS)
def test_importance_is_the_same_wherever_the_two_lie(name: str, where: tuple[str, str], cuda: torch.device) -> None:
    weight, stats = torch.randn(6, 4), {need: torch.rand(6, 4) for need in needs_of(name)}
    here = importance(weight, name, stats=LayerStats("layer", 0, stats)).values
    elsewhere = {need: value.to(where[1]) for need, value in stats.items()}
    found = importance(weight.to(where[0]), name, stats=LayerStats("layer", 0, elsewhere)).values
    assert found.device.type == where[0]
    assert torch.equal(found.cpu(), here)


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("where", BOTH_WAYS)
def test_a_statistic_lies_with_the_weights_whatever_the_batches(
    name: str, where: tuple[str, str], cuda: torch.device
) -> None:
    model, given = network(), batches(STATISTICS[name].facts["labels"])
    weights = {n: p for n, p in model.named_parameters() if p.ndim > 1}
    here = gather(model, weights, (name,), given)[name]
    model.to(where[0])
    moved = [[part.to(where[1]) for part in b] if isinstance(b, tuple) else b.to(where[1]) for b in given]
    found = gather(model, weights, (name,), moved)[name]
    assert devices_of(found) == {where[0]}
    assert all(torch.allclose(found[n].cpu(), here[n], rtol=1e-4, atol=1e-6) for n in here)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("where", BOTH_WAYS)
def test_the_engine_goes_on_from_statistics_scores_and_masks_of_a_file(
    name: str, where: tuple[str, str], cuda: torch.device
) -> None:
    """As the pipeline's steps do: what one keeps lies on the CPU, and the next has its network on the GPU."""

    def engine(model: nn.Module, **more: Any) -> UnstructuredPruning:
        given = batches(needs_labels(name)) if needs_of(name) else None
        return UnstructuredPruning(model, score=name, allocation="global", stats_batches=given, **more)

    def elsewhere(tensors: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        return {kind: {n: value.to(where[1]) for n, value in of.items()} for kind, of in tensors.items()}

    first = engine(network(), sparsity=0.3)
    statistics = first.calibrate()
    scored = first.score(statistics)
    whole = network()
    expected = engine(whole, sparsity=0.3).prune(scored).masks
    model = network().to(where[0])
    again = engine(model, sparsity=0.3)
    found = again.prune(elsewhere(again.score(elsewhere(statistics)))).masks
    assert devices_of(found) == {where[0]}
    assert all(torch.equal(found[n].cpu(), keep) for n, keep in expected.items())
    more = engine(model, sparsity=0.6, previous={n: keep.to(where[1]) for n, keep in found.items()})
    later = more.prune(elsewhere(scored)).masks
    assert devices_of(later) == {where[0]}
    assert not any(bool((later[n] & ~found[n]).any()) for n in later), "what was pruned stays pruned"


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("where", BOTH_WAYS)
def test_a_solver_meets_masks_images_and_reference_on_the_weights_device(
    name: str, where: tuple[str, str], cuda: torch.device
) -> None:
    def solved(here: str, there: str) -> tuple[nn.Module, dict[str, Tensor]]:
        model = network().to(here)
        masks = prune_unstructured(detached_copy(model), sparsity=0.5).masks
        earlier = prune_unstructured(detached_copy(model), sparsity=0.2).masks
        layerwise = LayerwiseProblem(
            model=model,
            masks={n: keep.to(there) for n, keep in masks.items()},
            images=[images.to(there) for images in batches(False)],
            reference=network().to(there),
            earlier={n: keep.to(there) for n, keep in earlier.items()},
        )
        found = SOLVERS[name](layerwise)
        apply_masks(model, found)
        return model, found

    (model, found), (expected, same) = solved(*where), solved("cpu", "cpu")
    assert {parameter.device.type for parameter in model.parameters()} == {where[0]}
    for n, keep in same.items():
        assert torch.equal(found[n].cpu(), keep)
        assert torch.allclose(model.get_parameter(n).cpu(), expected.get_parameter(n), rtol=1e-4, atol=1e-5)


def scan(path: Path) -> dict[str, str]:
    rows = [
        {"name": n, "weights": [n], "size": 64, "points": [{"sparsity": 0.9, "accuracy": 80.0, "loss": loss}]}
        for n, loss in (("a", 0.4), ("b", 0.2))
    ]
    write_yaml(path, {"dense": {"accuracy": 90.0, "loss": 0.1}, "rows": rows})
    return {"file": str(path)}


@pytest.mark.parametrize("name", ALLOCATIONS)
def test_an_allocation_counts_over_scores_of_two_devices(name: str, tmp_path: Path, cuda: torch.device) -> None:
    args = {"per_layer": {"layers": {"a": 0.25}}, "sensitivity": scan(tmp_path / "sensitivity.yaml")}.get(name, {})
    scores = {"a": torch.randn(8, 8), "b": torch.randn(8, 8)}
    expected = ALLOCATIONS[name](scores, 0.5, **args)
    assert ALLOCATIONS[name]({"a": scores["a"], "b": scores["b"].to(cuda)}, 0.5, **args) == expected
    assert ALLOCATIONS[name]({"a": scores["a"].to(cuda), "b": scores["b"]}, 0.5, **args) == expected


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("where", BOTH_WAYS)
def test_a_pattern_keeps_earlier_zeros_of_another_device(name: str, where: tuple[str, str], cuda: torch.device) -> None:
    args, fixed = PATTERN_ARGS.get(name, {}), "fixed_count" in PATTERNS[name].facts
    choices, problems = resolve(
        PruneSettings(None if fixed else 0.5, pattern=Choice(name, args)), has_batches=False, where="prune"
    )
    assert choices is not None, problems
    score = torch.rand(8, 8)
    kept = torch.ones(8, 8, dtype=torch.bool)
    kept[:2, :2] = False
    sparsity = None if fixed else 0.5
    expected = decide_masks({"a": score}, sparsity, choices, {"a": kept})[0]["a"]
    found = decide_masks({"a": score.to(where[0])}, sparsity, choices, {"a": kept.to(where[1])})[0]["a"]
    assert found.device.type == where[0]
    assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("where", BOTH_WAYS)
def test_masks_are_applied_where_the_weight_is(where: tuple[str, str]) -> None:
    with FakeTensorMode():
        layer = nn.Linear(4, 3, device=where[0])
        keep = torch.ones(3, 4, dtype=torch.bool, device=where[1])
        apply_masks(layer, {"weight": keep})
        assert SparsityMask(keep).apply(layer.weight).device.type == where[0]


@pytest.mark.parametrize("name", CHANNEL_SCORES)
def test_channels_are_scored_planned_and_cut_on_the_gpu(name: str, cuda: torch.device) -> None:
    example = torch.zeros(2, 4, 8, 8)  # on the CPU, as common.example_input gives it
    choices: dict[str, Any] = {"score": name, "allocation": "local", "sparsity": 0.5}
    if measured_on_images(name):
        choices["images"] = lambda: batches(channels_need_labels(name))
    model = network()
    nn.init.normal_(model[1].weight)
    here = plan_structured(model, example, **choices)
    model.to(cuda)
    plan = plan_structured(model, example, **choices)
    assert [group.keep.tolist() for group in plan.groups] == [group.keep.tolist() for group in here.groups]
    cut = cut_channels(model, example, plan).model
    assert {tensor.device.type for tensor in (*cut.parameters(), *cut.buffers())} == {"cuda"}
    assert cut(example.to(cuda)).shape == (2, 8)


def test_a_cut_network_is_fitted_on_the_gpu_to_what_it_is_fitted_to_here(cuda: torch.device) -> None:
    example = torch.zeros(2, 4, 8, 8)
    images = lambda: [torch.randn(16, 4, 8, 8, generator=torch.Generator().manual_seed(n)) for n in range(4)]  # noqa: E731
    model = network()
    nn.init.normal_(model[1].weight)
    cut = cut_channels(model, example, plan_structured(model, example, score="l1", allocation="local", sparsity=0.5))
    here, there = cut.model, copy.deepcopy(cut.model).to(cuda)
    # no pairs: forward-mode differentiation makes tensors of its own, which the pretended device takes for the CPU's
    expected = refit(model, here, cut.kept, images, rounds=0)
    found = refit(model.to(cuda), there, cut.kept, images, rounds=0)
    assert found.layers.keys() == expected.layers.keys() != set()
    assert found.left == expected.left == {}
    assert {tensor.device.type for tensor in (*there.parameters(), *there.buffers())} == {"cuda"}
    for name, value in there.state_dict().items():
        torch.testing.assert_close(value.cpu(), here.state_dict()[name], msg=name)


# What the pretended device says, against torch's own FakeTensorMode: the same operations, of the same devices.
OPERATIONS = {
    "add": lambda a, b: a + b,
    "scalar of b": lambda a, b: a * b.sum(),
    "matmul": lambda a, b: a @ b,
    "where": lambda a, b: torch.where(a > 0, a, b),
    "cat": lambda a, b: torch.cat([a, b]),
    "copy": lambda a, b: a.copy_(b),
    "masked_fill": lambda a, b: a.masked_fill(b > 0, 0),
    "linear": lambda a, b: nn.functional.linear(a, b),
    "batch norm": lambda a, b: nn.functional.batch_norm(a, b[0], b[1].abs()),
    "in place": lambda a, b: a.add_(b),
    "view of a": lambda a, b: a.t().reshape(-1)[:4],
    "like": lambda a, b: torch.zeros_like(a) + a.new_ones(4),
    "both moved": lambda a, b: a.to(b.device) + b,
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("where", [*BOTH_WAYS, ("cuda", "cuda"), ("cpu", "cpu")])
def test_the_pretended_device_mixes_what_torch_mixes(name: str, where: tuple[str, str], pretending: ModuleType) -> None:
    def outcome() -> str:
        try:
            found = OPERATIONS[name](torch.ones(4, 4, device=where[0]), torch.ones(4, 4, device=where[1]))
        except (RuntimeError, TypeError) as error:
            return "refused" if "device" in str(error) else repr(error)
        return str(found.device.type)

    with FakeTensorMode():
        expected = outcome()
    with pretending.pretended_cuda():
        assert outcome() == expected


def test_indices_of_the_cpu_find_their_place_in_the_gpu_and_not_the_other_way_round(cuda: torch.device) -> None:
    """As torch's indexing says: "indices should be either on cpu or on the same device as the indexed tensor"."""
    places = torch.tensor([0, 2])
    assert torch.ones(4, device=cuda)[places].device.type == "cuda"
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(4)[places.to(cuda)]
    with pytest.raises(TypeError, match="numpy"):
        places.to(cuda).numpy()


def test_backward_and_optimisers_stay_on_the_device(cuda: torch.device) -> None:
    model = network().to(cuda)
    for make in (torch.optim.SGD, torch.optim.AdamW):
        optimizer = make(model.parameters(), lr=0.1)
        nn.functional.cross_entropy(model(torch.randn(3, 4, 8, 8).to(cuda)), torch.zeros(3).long().to(cuda)).backward()
        assert {p.grad.device.type for p in model.parameters() if p.grad is not None} == {"cuda"}
        optimizer.step()
    with pytest.raises(RuntimeError, match="same device"):
        model(torch.randn(3, 4, 8, 8))
