"""Every registered allocation: counts within each layer; exact in total where it promises that."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.weights.allocation import ALLOCATIONS
from pruning_bootcamp.runs import write_yaml

ARGS: dict[str, dict] = {"per_layer": {"layers": {"b": 0.25}}}


@pytest.fixture(autouse=True, scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sensitivity scan of layers a, b and c, made up: c minds least."""
    path = tmp_path_factory.mktemp("scan") / "sensitivity.yaml"
    rows = [
        {
            "name": name,
            "weights": [name],
            "size": size,
            "points": [
                {"sparsity": s, "accuracy": 90 - slope * s, "loss": 0.1 + slope * s**2} for s in (0.5, 0.9, 0.999)
            ],
        }
        for name, size, slope in (("a", 35, 3.0), ("b", 54, 2.0), ("c", 440, 1.0))
    ]
    write_yaml(path, {"dense": {"accuracy": 90.0, "loss": 0.1}, "rows": rows})
    ARGS["sensitivity"] = {"file": str(path)}
    return path


sparsities = st.floats(0, 1, exclude_max=True)
shapes = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5)


def scores_of(sizes: list[tuple[int, int]], seed: int = 0, ties: bool = False) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    make = torch.randint if ties else None
    return {
        f"layer{i}": make(0, 3, size, generator=generator).float() if make else torch.rand(size, generator=generator)
        for i, size in enumerate(sizes)
    }


@pytest.mark.parametrize("name", ALLOCATIONS)
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.83, 0.999])
def test_every_count_fits_its_layer(name: str, sparsity: float) -> None:
    scores = {"a": torch.rand(5, 7), "b": torch.rand(3, 2, 3, 3), "c": torch.rand(11, 40)}
    args = ARGS.get(name, {})
    try:
        counts = ALLOCATIONS[name](scores, sparsity, **args)
    except BootcampError:
        assert name == "per_layer"  # a fixed layer can make a total impossible, and that is said
        assert sparsity in (0.0, 0.999)
        return
    assert list(counts) == list(scores)
    if name == "sensitivity":
        assert sum(counts.values()) == round(sparsity * 529)
    assert all(isinstance(count, int) and 0 <= count <= scores[layer].numel() for layer, count in counts.items())


@pytest.mark.parametrize("name", ["global", "erk"])
@given(shapes, sparsities, st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_total_is_exact(name: str, sizes: list[tuple[int, int]], sparsity: float, ties: bool) -> None:
    scores = scores_of(sizes, ties=ties)
    total = sum(score.numel() for score in scores.values())
    assert sum(ALLOCATIONS[name](scores, sparsity).values()) == round(sparsity * total)


@given(shapes, sparsities)
@settings(max_examples=60, deadline=None)
def test_uniform_rounds_each_layer_as_torch_does(sizes: list[tuple[int, int]], sparsity: float) -> None:
    scores = scores_of(sizes)
    counts = ALLOCATIONS["uniform"](scores, sparsity)
    assert counts == {name: round(sparsity * score.numel()) for name, score in scores.items()}


@given(shapes, sparsities, st.booleans())
@settings(max_examples=60, deadline=None)
def test_global_counts_are_those_of_one_stable_sort(sizes: list[tuple[int, int]], sparsity: float, ties: bool) -> None:
    scores = scores_of(sizes, ties=ties)
    owner = torch.cat([torch.full((score.numel(),), i) for i, score in enumerate(scores.values())])
    order = torch.cat([score.reshape(-1) for score in scores.values()]).argsort(stable=True)
    going = owner[order[: round(sparsity * len(owner))]]
    expected = {name: int((going == i).sum()) for i, name in enumerate(scores)}
    assert ALLOCATIONS["global"](scores, sparsity) == expected


def test_erk_by_hand() -> None:
    # 10x10 keeps in proportion to 20, 20x40 to 60: of 900 weights 90 stay, so 22.5 and 67.5; the tie goes to the first
    counts = ALLOCATIONS["erk"]({"a": torch.rand(10, 10), "b": torch.rand(20, 40)}, 0.9)
    assert counts == {"a": 100 - 23, "b": 800 - 67}
    # at 10% the small layer would keep more than it has: it stays dense and the other gives everything
    assert ALLOCATIONS["erk"]({"a": torch.rand(10, 10), "b": torch.rand(20, 40)}, 0.1) == {"a": 0, "b": 90}


def test_per_layer_gives_what_is_named_and_the_rest_fills_the_total() -> None:
    scores = {"conv.weight": torch.rand(10, 10), "fc1.weight": torch.rand(10, 10), "fc2.weight": torch.rand(10, 20)}
    per_layer = ALLOCATIONS["per_layer"]
    assert per_layer(scores, None, layers={"conv": 0.37}) == {"conv.weight": 37, "fc1.weight": 0, "fc2.weight": 0}
    assert per_layer(scores, 0.5, layers={"conv": 0.2}) == {"conv.weight": 20, "fc1.weight": 60, "fc2.weight": 120}
    # the first pattern that matches counts
    assert per_layer(scores, None, layers={"fc1": 0.1, "fc*": 0.5}) == {
        "conv.weight": 0,
        "fc1.weight": 10,
        "fc2.weight": 100,
    }


@pytest.mark.parametrize(
    ("sparsity", "layers", "message"),
    [
        (0.9, {"conv": 0.1}, "can't be reached"),
        (0.1, {"conv": 0.9}, "can't be reached"),
        (None, {"cnv": 0.5}, "'cnv' matches none"),
        (None, {"conv": 1.2}, r"1.2 is not in \[0, 1\]"),
    ],
)
def test_per_layer_says_what_is_impossible(sparsity: float | None, layers: dict[str, float], message: str) -> None:
    scores = {"conv.weight": torch.rand(10, 10), "fc.weight": torch.rand(5, 10)}
    with pytest.raises(BootcampError, match=message):
        ALLOCATIONS["per_layer"](scores, sparsity, layers=layers)
