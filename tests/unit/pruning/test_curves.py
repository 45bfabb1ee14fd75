"""A sensitivity scan becomes counts: by hand on four weights, optimal on convex curves, exact, refused with reason."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.weights.allocation import ALLOCATIONS
from pruning_bootcamp.pruning.weights.apportionment import apportion, apportion_evenly
from pruning_bootcamp.pruning.weights.curves import Knots, counts_from_scan, lower_hull, walk
from pruning_bootcamp.runs import write_yaml


def scan(path: Path, rows: dict[str, list[tuple[float, float]]], size: int = 4, weights: int = 1) -> str:
    """A sensitivity.yaml with these (sparsity, loss added) for each row of `weights` weights, each of `size`."""
    content = [
        {
            "name": name,
            "weights": [f"{name}.{i}" if weights > 1 else name for i in range(weights)],
            "size": size * weights,
            "points": [{"sparsity": s, "accuracy": 90 - 10 * loss, "loss": 0.5 + loss} for s, loss in points],
        }
        for name, points in rows.items()
    ]
    write_yaml(path, {"dense": {"accuracy": 90.0, "loss": 0.5}, "rows": content})
    return str(path)


def counts(file: str, total: int, sizes: dict[str, int], gone: dict[str, int] | None = None) -> dict[str, int]:
    return counts_from_scan(sizes, gone or dict.fromkeys(sizes, 0), total, file, "loss")


@pytest.mark.parametrize(
    ("total", "expected"),
    [(0, (0, 0)), (1, (1, 0)), (2, (2, 0)), (3, (2, 1)), (5, (2, 3)), (6, (3, 3))],
)
def test_four_weights_a_layer_by_hand(total: int, expected: tuple[int, int], tmp_path: Path) -> None:
    # a: the first costs nothing, the second 0.1, the third 2.9. b: 1.0 at once, then nearly nothing, so 0.4 each
    rows = {"a": [(0.25, 0.0), (0.5, 0.1), (0.75, 3.0)], "b": [(0.25, 1.0), (0.5, 1.1), (0.75, 1.2)]}
    file = scan(tmp_path / "s.yaml", rows)
    assert tuple(counts(file, total, {"a": 4, "b": 4}).values()) == expected


def test_what_falls_is_noise_and_counts_as_flat(tmp_path: Path) -> None:
    file = scan(tmp_path / "s.yaml", {"a": [(0.25, 0.3), (0.5, 0.1)], "b": [(0.25, 0.2), (0.5, 0.4)]})
    # a: 0.3 for two, so 0.15 each; without the rule a second weight of a would seem to earn 0.2
    assert counts(file, 2, {"a": 4, "b": 4}) == {"a": 2, "b": 0}


def test_several_that_cost_the_same_share_it(tmp_path: Path) -> None:
    file = scan(tmp_path / "s.yaml", {"a": [(0.75, 0.0)], "b": [(0.75, 0.0)]})
    assert counts(file, 4, {"a": 4, "b": 4}) == {"a": 2, "b": 2}


def test_the_layers_of_a_block_lose_the_same_share_but_none_less_than_before(tmp_path: Path) -> None:
    file = scan(tmp_path / "s.yaml", {"block": [(0.5, 0.1), (0.75, 0.5)]}, size=8, weights=2)
    sizes = {"block.0": 8, "block.1": 8}
    assert counts(file, 8, sizes) == {"block.0": 4, "block.1": 4}
    assert counts(file, 8, sizes, {"block.0": 6, "block.1": 0}) == {"block.0": 6, "block.1": 2}


def test_the_engine_takes_the_zeros_there_were_first(tmp_path: Path) -> None:
    file = scan(tmp_path / "s.yaml", {"a": [(0.75, 0.1)], "b": [(0.75, 9.0)]})
    b = torch.tensor([-torch.inf, -torch.inf, 1.0, 1.0])
    found = ALLOCATIONS["sensitivity"]({"a": torch.rand(4), "b": b}, 0.5, file=file)
    assert found == {"a": 2, "b": 2}  # b alone would keep all


def test_accuracy_and_loss_can_disagree(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    point = {"sparsity": 0.5}
    rows = [
        {"name": "a", "weights": ["a"], "size": 4, "points": [{**point, "accuracy": 90.0, "loss": 2.0}]},
        {"name": "b", "weights": ["b"], "size": 4, "points": [{**point, "accuracy": 80.0, "loss": 1.0}]},
    ]
    write_yaml(path, {"dense": {"accuracy": 90.0, "loss": 0.5}, "rows": rows})
    scores = {"a": torch.rand(4), "b": torch.rand(4)}
    assert ALLOCATIONS["sensitivity"](scores, 0.25, file=str(path), by="accuracy") == {"a": 2, "b": 0}
    assert ALLOCATIONS["sensitivity"](scores, 0.25, file=str(path), by="loss") == {"a": 0, "b": 2}


increments = st.lists(st.tuples(st.integers(1, 4), st.floats(0, 10)), min_size=1, max_size=4)


@st.composite
def curves(draw: st.DrawFn) -> dict[str, Knots]:
    """Rising curves, convex or not."""
    found = {}
    for number, steps in enumerate(draw(st.lists(increments, min_size=1, max_size=3))):
        sums = itertools.accumulate(steps, lambda a, b: (a[0] + b[0], a[1] + b[1]))
        found[f"layer{number}"] = [(0, 0.0), *sums]
    return found


def cost(curve: Knots, count: int) -> float:
    """On the lower hull, between knots in a straight line."""
    for (x0, y0), (x1, y1) in itertools.pairwise(lower_hull(curve)):
        if x0 <= count <= x1:
            return y0 + (y1 - y0) * (count - x0) / (x1 - x0)
    assert count == 0
    return 0.0


@given(curves(), st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_the_total_is_exact_and_no_other_choice_costs_less(found: dict[str, Knots], share: float) -> None:
    sizes = {name: curve[-1][0] for name, curve in found.items()}
    total = round(share * sum(sizes.values()))
    chosen = walk(found, total, dict.fromkeys(found, 0))
    assert sum(chosen.values()) == total
    assert all(0 <= chosen[name] <= sizes[name] for name in sizes)
    reached = sum(cost(found[name], chosen[name]) for name in found)
    uniform = apportion({name: float(size) for name, size in sizes.items()}, sizes, total)
    assert reached <= sum(cost(found[name], uniform[name]) for name in found) + 1e-9
    others = itertools.product(*(range(size + 1) for size in sizes.values()))
    least = min(
        sum(cost(found[name], count) for name, count in zip(found, other, strict=True))
        for other in others
        if sum(other) == total
    )
    assert reached <= least + 1e-9


@given(curves(), st.data())
@settings(max_examples=80, deadline=None)
def test_what_went_before_stays_gone_and_counts(found: dict[str, Knots], data: st.DataObject) -> None:
    least = {name: data.draw(st.integers(0, curve[-1][0])) for name, curve in found.items()}
    total = data.draw(st.integers(sum(least.values()), sum(curve[-1][0] for curve in found.values())))
    chosen = walk(found, total, least)
    assert sum(chosen.values()) == total
    assert all(chosen[name] >= least[name] for name in found)


@given(st.lists(st.tuples(st.integers(1, 20), st.floats(0, 1)), min_size=1, max_size=5), st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_level_gives_the_same_share_above_what_there_was(given_: list[tuple[int, float]], share: float) -> None:
    sizes = {str(i): size for i, (size, _) in enumerate(given_)}
    least = {str(i): round(part * size) for i, (size, part) in enumerate(given_)}
    total = sum(least.values()) + round(share * (sum(sizes.values()) - sum(least.values())))
    found = apportion_evenly(sizes, least, total)
    assert sum(found.values()) == total
    assert all(least[name] <= found[name] <= sizes[name] for name in sizes)
    raised = [name for name in sizes if found[name] > least[name]]
    shares = [found[name] / sizes[name] for name in raised]
    roundings = [1 / sizes[name] for name in raised]
    assert not shares or max(shares) - min(shares) <= 2 * max(roundings) + 1e-9


def test_the_hull_lies_below_and_is_convex() -> None:
    curve: Knots = [(0, 0.0), (1, 2.0), (2, 2.5), (4, 2.5), (5, 9.0)]
    hull = lower_hull(curve)
    assert hull == [(0, 0.0), (4, 2.5), (5, 9.0)]


def test_beyond_the_scan_is_an_error_that_says_how_far_it_reaches(tmp_path: Path) -> None:
    file = scan(tmp_path / "s.yaml", {"a": [(0.5, 0.1)], "b": [(0.75, 0.1)]})
    with pytest.raises(BootcampError, match=r"sparsity 0.75 lies beyond the scan.*at most 0.625.*--sparsities"):
        counts(file, 6, {"a": 4, "b": 4})


def test_layers_that_are_not_the_networks(tmp_path: Path) -> None:
    file = scan(tmp_path / "s.yaml", {"layer1.conv1": [(0.5, 0.1)], "layer1.conv2": [(0.5, 0.1)]})
    with pytest.raises(BootcampError, match=r"layer1.conv3: .*nearest there is 'layer1.conv[12]'"):
        counts(file, 2, {"layer1.conv1": 4, "layer1.conv3": 4})
    with pytest.raises(BootcampError, match=r"layer1.conv2: has 6 weights, and 4 in the scan"):
        counts(file, 2, {"layer1.conv1": 4, "layer1.conv2": 6})
    block = scan(tmp_path / "b.yaml", {"block": [(0.5, 0.1)]}, weights=2)
    with pytest.raises(BootcampError, match=r"block: was scanned together with block.1, not pruned now"):
        counts(block, 1, {"block.0": 4})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rows: [", "not valid YAML"),
        ("[1]", "holds list"),
        ("accuracy: 3", "there is no 'dense'"),
        ("dense: {loss: 1, accuracy: 2}\nrows: []", "no row"),
        ("dense: {loss: 1, accuracy: 2}\nrows: 7", "no sensitivity scan"),
        ("dense: {loss: .nan, accuracy: 2}\nrows: []", "nan is not a number"),
        (
            "dense: {loss: 1, accuracy: 2}\n"
            "rows: [{name: a, weights: [a], size: 4, points: [{sparsity: 1.5, loss: 1, accuracy: 1}]}]",
            "sparsities [1.5]",
        ),
        (
            "dense: {loss: 1, accuracy: 2}\n"
            "rows: [&a {name: a, weights: [a], size: 4, points: [{sparsity: 0.5, loss: 1, accuracy: 1}]}, *a]",
            "a name twice",
        ),
    ],
)
def test_a_file_that_is_no_scan_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(BootcampError) as caught:
        ALLOCATIONS["sensitivity"]({"a": torch.rand(4)}, 0.5, file=str(path))
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_scan_made_anew_under_the_same_name_is_read_anew(tmp_path: Path) -> None:
    rows = {"a": [(0.5, 0.1)], "b": [(0.5, 3.0)]}
    file = scan(tmp_path / "s.yaml", rows)
    assert counts(file, 2, {"a": 4, "b": 4}) == {"a": 2, "b": 0}
    scan(tmp_path / "s.yaml", {"a": [(0.5, 3.0)], "b": [(0.5, 0.1)]})
    assert counts(file, 2, {"a": 4, "b": 4}) == {"a": 0, "b": 2}
