"""How long layers take at other widths: where they are looked at, what is said between, and that it is kept."""

import json
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pruning_bootcamp.backends import Way
from pruning_bootcamp.pruning.channels import staircase
from pruning_bootcamp.pruning.channels.costs import Costs
from pruning_bootcamp.pruning.channels.layer_times import LayerTimes, between, coarse_widths, doubted, layer_times
from pruning_bootcamp.pruning.channels.staircase import Staircases, measure_staircases
from pruning_bootcamp.pruning.graph import Group, cut_members, find_groups
from pruning_bootcamp.tools.alone import LayerShape

CPU = torch.device("cpu")
WAY = Way("torch", 2)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.deep = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.second = nn.Conv2d(32, 24, 1)
        self.last = nn.Linear(24, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.deep(self.first(images).relu()).relu()
        return self.last(self.second(hidden).relu().mean((2, 3)))


def steps_of_eight(shape: LayerShape) -> float:
    """A runtime whose layers take a constant, and as much as widths in eights do."""
    if shape.depthwise:
        return 0.1 + 0.01 * -(-shape.outputs // 8)
    return 0.1 + 0.01 * -(-shape.outputs // 8) * shape.inputs


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[LayerShape]:
    """Every layer timed, in order; no time passes."""
    monkeypatch.setenv("PRUNING_BOOTCAMP_CACHE", str(tmp_path / "cache"))
    seen: list[LayerShape] = []

    def time(shape: LayerShape, widths: Sequence[tuple[int, int]], **_: object) -> dict[tuple[int, int], float]:
        shapes = {place: shape.at(*place) for place in widths}
        seen.extend(shapes.values())
        return {place: steps_of_eight(one) for place, one in shapes.items()}

    monkeypatch.setattr(staircase, "_time", time)
    return seen


def measured(model: nn.Module) -> tuple[Staircases, list[Group]]:
    example = torch.randn(1, 3, 6, 6)
    groups = [group for group in find_groups(model, example) if group.reason is None]
    return measure_staircases(model, example, groups, WAY, 1, CPU), groups


def test_every_layer_that_a_group_touches_is_timed_as_it_stands(clock: list[LayerShape]) -> None:
    found, _ = measured(Net())
    assert set(found.layers) == {"first", "deep", "second", "last"}
    assert found.layers["first"].shape == LayerShape(3, 32, (6, 6), (3, 3), (1, 1), (1, 1), (1, 1))
    assert found.layers["second"].shape.size == (6, 6)
    assert found.layers["last"].shape == LayerShape(24, 5, ())
    assert found.measured == len(set(clock))


def test_between_the_measured_widths_it_is_right_where_both_sides_are_steps(clock: list[LayerShape]) -> None:
    times = measured(Net())[0].layers["second"]
    for inputs, outputs in ((32, 24), (16, 24), (32, 8), (16, 16), (8, 8)):
        assert times.at(inputs, outputs) == pytest.approx(steps_of_eight(times.shape.at(inputs, outputs)), rel=0.05)
    assert times.at(0, 8) == times.at(8, 0) == 0


def test_alike_layers_are_timed_once_and_never_again(clock: list[LayerShape]) -> None:
    first, _ = measured(Net())
    count = len(clock)
    again, _ = measured(Net())
    assert len(clock) == count
    assert again.layers == first.layers
    assert (again.measured, again.kept) == (0, first.measured)


def test_a_damaged_file_is_measured_again(clock: list[LayerShape], tmp_path: Path) -> None:
    measured(Net())
    (path,) = (tmp_path / "cache" / "layer_times").iterdir()
    count = len(clock)
    good = json.loads(path.read_text())
    shape = next(iter(good["milliseconds"]))
    others: list[object] = [[], {"format": 0}, good | {"threads": 7}, good | {"milliseconds": [1]}]
    others += [good | {"milliseconds": {shape: times}} for times in (1, {"8by8": 1.0}, {"8x8": "x"}, {"8x8": -1.0})]
    for content in ("{", *map(json.dumps, others)):
        path.write_text(content)
        measured(Net())
        assert len(clock) == 2 * count
        del clock[count:]


def test_time_of_a_network_is_the_sum_of_its_layers(clock: list[LayerShape]) -> None:
    model = Net()
    found, groups = measured(model)
    costs = Costs(model, groups, torch.randn(1, 3, 6, 6), staircases=[found])
    assert costs.amount["time"] == pytest.approx(1)
    named = {group.name: group for group in groups}
    costs.change("first", range(16))
    costs.change("second", range(8))
    keep = {group.name: torch.ones(group.width, dtype=torch.bool) for group in groups}
    keep["first"][:16], keep["second"][:8] = False, False
    cut_members(model, named.values(), keep)
    sides = {name: (layer.in_features, layer.out_features) for name, layer in [("last", model.last)]}
    sides |= {
        name: (getattr(model, name).in_channels, getattr(model, name).out_channels) for name in ("first", "second")
    }
    sides["deep"] = (16, 16)
    wanted = sum(found.layers[name].at(*widths) for name, widths in sides.items())
    assert costs.amount["time"] == pytest.approx(wanted / sum(times.whole for times in found.layers.values()))
    costs.change("first", range(16), back=True)
    costs.change("second", range(8), back=True)
    assert costs.amount["time"] == pytest.approx(1)


def test_where_no_layer_can_stand_alone_nothing_is_foreseen() -> None:
    model, example = nn.Sequential(nn.ConvTranspose2d(3, 8, 3), nn.ConvTranspose2d(8, 4, 3)), torch.randn(1, 3, 6, 6)
    groups = [group for group in find_groups(model, example) if group.reason is None]
    found = measure_staircases(model, example, groups, WAY, 1, CPU)
    assert not found.layers
    costs = Costs(model, groups, example, staircases=[found])
    costs.change(groups[0].name, range(4))
    assert costs.shares_of_time() == (1.0,)


def test_without_staircases_time_is_nothing() -> None:
    model = Net()
    groups = [group for group in find_groups(model, torch.randn(1, 3, 6, 6)) if group.reason is None]
    costs = Costs(model, groups, torch.randn(1, 3, 6, 6))
    costs.change("first", range(16))
    assert costs.amount["time"] == 0


def test_widths_whose_times_are_known(clock: list[LayerShape]) -> None:
    found, groups = measured(Net())
    known = found.widths_of(next(group for group in groups if group.name == "second"))
    assert {4, 8, 12, 16, 20, 24} <= known
    assert max(known) == 24


@given(full=st.integers(1, 4096), multiple=st.sampled_from([1, 2, 3, 4, 8]))
def test_coarse_widths_are_few_and_end_at_the_whole(full: int, multiple: int) -> None:
    full *= multiple
    widths = coarse_widths(full, multiple)
    assert widths == sorted(set(widths))
    assert widths[-1] == full
    assert widths[0] >= 1
    assert all(width % multiple == 0 for width in widths)
    assert len(widths) <= 16 + 4


def test_a_high_step_is_looked_at_in_its_middle() -> None:
    points = [(8, 1.0), (16, 1.05), (24, 2.0), (25, 4.0), (32, 4.0)]
    assert between(points, 4.0) == [20]
    assert between(points, 4.0, multiple=8) == []


def test_what_is_slower_than_a_wider_one_or_makes_less_of_its_time_is_doubted() -> None:
    assert doubted([(8, 1.0), (16, 2.0), (24, 2.6), (32, 3.4)]) == []
    assert doubted([(8, 1.0), (16, 3.0), (24, 2.6), (32, 3.4)]) == [16]
    assert doubted([(8, 1.0), (16, 1.9), (24, 2.6), (32, 9.0)]) == [32]
    assert doubted([]) == []


@pytest.mark.parametrize("seed", range(5))
def test_what_a_busy_machine_slowed_is_timed_again(
    seed: int, clock: list[LayerShape], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn = random.Random(seed)

    def busy(shape: LayerShape, widths: Sequence[tuple[int, int]], **_: object) -> dict[tuple[int, int], float]:
        """One pass in five takes three times as long, as where something else runs."""
        return {place: steps_of_eight(shape.at(*place)) * drawn.choice([1, 1, 1, 1, 3]) for place in widths}

    monkeypatch.setattr(staircase, "_time", busy)
    times = measured(Net())[0].layers["first"]
    wrong = [width for width, time in times.outputs.items() if time > 1.01 * steps_of_eight(times.shape.at(3, width))]
    assert len(wrong) <= 1, "it was slow three times in a row"


def test_a_layer_is_timed_in_the_company_of_all_its_widths(clock: list[LayerShape]) -> None:
    """Alone its weights would be in the cache, and it would be quicker than among others."""
    calls: list[set[tuple[int, int]]] = []

    def watched(shape: LayerShape, widths: Sequence[tuple[int, int]]) -> dict[tuple[int, int], float]:
        calls.append(set(widths))
        return {place: steps_of_eight(shape.at(*place)) for place in widths}

    shape = LayerShape(32, 24, (6, 6), (1, 1), (1, 1), (0, 0), (1, 1))
    known = staircase._Kept(WAY, 1, CPU)
    times = layer_times(shape, {"input", "output"}, known, watched)
    assert all(before <= after for before, after in pairwise(calls))
    assert set(known.of(shape)) == calls[-1]
    assert all(times.outputs[width] == steps_of_eight(shape.at(32, width)) for width in times.outputs)
    assert len(calls) <= 5, "real steps are timed again, and then believed"
    count = len(calls)
    assert layer_times(shape, {"input", "output"}, known, watched) == times
    assert len(calls) == count


def test_what_is_known_is_not_refined_anew_by_other_figures(clock: list[LayerShape]) -> None:
    shape, drawn = LayerShape(64, 64, (6, 6), (1, 1), (1, 1), (0, 0), (1, 1)), random.Random(0)
    calls: list[int] = []

    def wanders(shape: LayerShape, widths: Sequence[tuple[int, int]]) -> dict[tuple[int, int], float]:
        calls.append(len(widths))
        return {place: steps_of_eight(shape.at(*place)) * drawn.uniform(1, 1.5) for place in widths}

    known = staircase._Kept(WAY, 1, CPU)
    first = layer_times(shape, {"input", "output"}, known, wanders)
    count = len(calls)
    assert layer_times(shape, {"input", "output"}, known, wanders) == first
    assert len(calls) == count


def test_only_multiples_are_timed_where_widths_will_be_multiples(clock: list[LayerShape]) -> None:
    model, example = Net(), torch.randn(1, 3, 6, 6)
    groups = [group for group in find_groups(model, example) if group.reason is None]
    found = measure_staircases(model, example, groups, WAY, 1, CPU, multiple=8)
    assert set(found.layers["first"].outputs) == {8, 16, 24, 32}
    assert set(found.layers["second"].inputs) == {8, 16, 24, 32}
    assert set(found.layers["second"].outputs) == {8, 16, 24}


def test_a_staircase_is_flat_up_to_its_step() -> None:
    shape = LayerShape(4, 32, ())
    times = LayerTimes(shape, {4: 3.0}, {8: 1.0, 16: 2.0, 32: 3.0})
    assert [times.at(4, width) for width in (1, 8, 9, 16, 17, 32)] == [1, 1, 2, 2, 3, 3]


def test_a_real_layer_takes_time() -> None:
    found = staircase._time(LayerShape(8, 8, (4, 4), (1, 1), (1, 1), (0, 0), (1, 1)), [(8, 8), (4, 8)], {}, WAY, 1, CPU)
    assert set(found) == {(8, 8), (4, 8)}
    assert all(value > 0 for value in found.values())
