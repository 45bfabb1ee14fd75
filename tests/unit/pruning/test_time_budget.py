"""Budgets in time: the widths lose least of all that are as quick as asked, and the whole network has the last word."""

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.backends import Way
from pruning_bootcamp.errors import BootcampError, GoalNotMet
from pruning_bootcamp.pruning.channels import staircase
from pruning_bootcamp.pruning.channels.race import Lap, Race, RaceTrack
from pruning_bootcamp.pruning.channels.structured import cut_channels, plan_structured, quickest
from pruning_bootcamp.pruning.channels.time_budget import Timing, within
from pruning_bootcamp.pruning.sections import StructuredSettings
from pruning_bootcamp.tools.alone import LayerShape

WAY = Way("torch", 1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.second = nn.Conv2d(32, 32, 3, padding=1)
        self.last = nn.Linear(32, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.second(self.first(images).relu()).relu().mean((2, 3)))


def layer_ms(inputs: int, outputs: int) -> float:
    """A runtime that works in blocks of eight outputs, and takes three times as long for an odd number of them."""
    blocks = -(-outputs // 8) * 8
    return 0.05 + inputs * blocks / 1024 * (3 if outputs % 2 else 1)


def network_ms(model: nn.Module, neighbours: bool = True) -> float:
    first, second, last = (model.get_submodule(name).weight.shape for name in ("first", "second", "last"))
    total = sum(layer_ms(shape[1], shape[0]) for shape in (first, second, last))
    # what layers alone do not say: a width that is no multiple of four slows the next layer too
    return total * (1.3 if neighbours and any(shape[0] % 4 for shape in (first, second)) else 1.0)


class Clockwork(RaceTrack):
    """Networks as quick as `network_ms` says."""

    def __init__(self, uncut: nn.Module) -> None:
        self.ways, self.threads, self.device = (WAY,), 1, torch.device("cpu")
        self.raced: list[tuple[int, int]] = []
        self._ms = network_ms(uncut)

    def __call__(self, cut: nn.Module) -> Race:
        self.raced.append((len(cut.get_submodule("first").weight), len(cut.get_submodule("second").weight)))
        took = network_ms(cut)
        return Race((Lap(WAY, took / self._ms, self._ms, took),))

    def uncut_ms(self) -> dict[Way, float]:
        return {WAY: self._ms}


@pytest.fixture
def track(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> Clockwork:
    monkeypatch.setenv("PRUNING_BOOTCAMP_CACHE", str(tmp_path))

    def time(shape: LayerShape, widths: Sequence[tuple[int, int]], **_: object) -> dict[tuple[int, int], float]:
        return {place: layer_ms(*place) for place in widths}

    monkeypatch.setattr(staircase, "_time", time)
    return Clockwork(Net())


def scores_and_losses() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Each group loses little at first, and the second group twice as much."""
    curve = torch.arange(33).double().square() / 1024
    return {name: torch.arange(32.0) + 1 for name in ("first", "second")}, {"first": curve, "second": 2 * curve}


def planned(track: Clockwork, model: nn.Module, asked: float, **more: object):
    scores, losses = scores_and_losses()
    look: dict[str, object] = {"score": "l1", "allocation": "measured", "target_latency_reduction": asked}
    look |= {"scores": scores, "losses": losses, "timing": Timing(track)} | more
    return plan_structured(model, torch.randn(1, 3, 6, 6), **look)


@pytest.mark.parametrize("asked", [0.22, 0.325, 0.43, 0.56])
def test_the_least_loss_of_all_widths_that_are_quick_enough(track: Clockwork, asked: float) -> None:
    model = Net()
    plan = planned(track, model, asked)
    widths = tuple(len(group.keep) for group in plan.groups)
    _, losses = scores_and_losses()

    def loss(pair: tuple[int, int]) -> float:
        return float(losses["first"][32 - pair[0]] + losses["second"][32 - pair[1]])

    def share(pair: tuple[int, int]) -> float:
        smaller = Net()
        smaller.first, smaller.second = nn.Conv2d(3, pair[0], 3), nn.Conv2d(pair[0], pair[1], 3)
        smaller.last = nn.Linear(pair[1], 5)
        return network_ms(smaller) / network_ms(model)

    pairs = itertools.product(range(4, 33), repeat=2)
    best = min((pair for pair in pairs if share(pair) <= share(widths) + 1e-9), key=loss)
    assert 1 - plan.achieved == pytest.approx(share(widths))
    assert abs(plan.achieved - asked) <= within(1 - asked)
    assert loss(widths) <= 1.05 * loss(best)
    assert len(track.raced) <= 16


def test_what_is_planned_is_what_is_cut(track: Clockwork) -> None:
    model = Net()
    plan = planned(track, model, 0.5)
    found = cut_channels(model, torch.randn(1, 3, 6, 6), plan)
    assert 1 - plan.achieved == pytest.approx(network_ms(found.model) / network_ms(model))
    assert plan.timed is not None
    assert "torch, batch 1" in plan.timed
    assert plan.macs_after < plan.macs_before


def test_no_odd_width_is_chosen_where_it_is_slower(track: Clockwork) -> None:
    for asked in (0.22, 0.325, 0.43):
        assert all(len(group.keep) % 4 == 0 for group in planned(track, Net(), asked).groups)


def test_a_width_no_quicker_than_a_larger_one_is_given_back(track: Clockwork) -> None:
    for group in planned(track, Net(), 0.325).groups:
        assert len(group.keep) % 8 == 0


def test_scores_alone_do_too(track: Clockwork) -> None:
    plan = planned(track, Net(), 0.43, allocation="global", losses=None)
    assert abs(plan.achieved - 0.43) <= within(0.57)


def test_out_of_reach_says_what_can_be_had(track: Clockwork) -> None:
    with pytest.raises(GoalNotMet, match=r"99.0% less time can't be had: the nearest is \d+.\d% less") as caught:
        planned(track, Net(), 0.99)
    assert "Cut as far as the limits allow it takes" in str(caught.value)


def test_too_coarse_says_what_to_ask_for(track: Clockwork) -> None:
    with pytest.raises(GoalNotMet, match=r"widths change in steps too coarse") as caught:
        planned(track, Net(), 0.05, round_to=16)
    advised = float(str(caught.value).rpartition("Ask for ")[2].rstrip("."))
    plan = planned(track, Net(), advised, round_to=16)
    assert abs(plan.achieved - advised) <= within(1 - advised)


def test_the_quickest_is_known_before_anything_is_measured(track: Clockwork) -> None:
    found = quickest(Net(), torch.randn(1, 3, 6, 6), StructuredSettings(max_sparsity=0.5), Timing(track))
    assert found is not None
    assert track.raced == [(16, 16)]
    assert quickest(Net(), torch.randn(1, 3, 6, 6), StructuredSettings(exclude=["*"]), Timing(track)) is None


def test_what_the_layers_foresaw_stands_beside_what_the_network_takes(track: Clockwork) -> None:
    said: list[str] = []
    plan = planned(track, Net(), 0.43, timing=Timing(track, said.append))
    (forecast,) = plan.forecasts
    first, second = (len(group.keep) for group in plan.groups)
    layers = [(3, first), (first, second), (second, 5)]
    whole = sum(layer_ms(*sides) for sides in [(3, 32), (32, 32), (32, 5)])
    assert forecast.foreseen_pct == pytest.approx(100 * sum(layer_ms(*sides) for sides in layers) / whole, abs=4)
    assert forecast.taken_pct == pytest.approx(100 * (1 - plan.achieved))
    assert forecast.taken_ms == pytest.approx(forecast.taken_pct / 100 * whole)
    assert forecast.error_points == pytest.approx(forecast.taken_pct - forecast.foreseen_pct)
    assert f"{forecast.foreseen_pct:.1f}% of the time" in str(forecast)
    timed = [line for line in said if line.startswith("Widths")]
    assert len(timed) == len(track.raced) - 1  # all but the uncut one
    assert all("; foreseen " in line for line in timed)


def test_how_far_the_timing_of_layers_is_can_be_seen(track: Clockwork, capfd: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[int, int, str]] = []
    planned(track, Net(), 0.43, timing=Timing(track, tell=lambda *all_of_it: told.append(all_of_it)))
    assert [(done, total) for done, total, _ in told] == [(0, 3), (1, 3), (2, 3), (0, 0)]
    assert told[0][2] == "convolution 3x3 3 -> 32 at 6x6"
    assert "layers:" not in capfd.readouterr().err


def test_an_uncut_network_that_is_slower_than_the_dense_one_is_foreseen_so(track: Clockwork) -> None:
    track._ms /= 1.25  # what can be cut takes a quarter longer than the network that it was made of
    (forecast,) = planned(track, Net(), 0.3).forecasts
    assert forecast.foreseen_pct == pytest.approx(forecast.taken_pct, abs=6)


def test_time_needs_something_that_times(track: Clockwork) -> None:
    with pytest.raises(BootcampError, match="timing="):
        planned(track, Net(), 0.5, timing=None)


def test_the_way_that_saves_least_counts() -> None:
    race = Race((Lap(WAY, 0.5, 2.0, 1.0), Lap(Way("onnxruntime", 4), 0.7, 3.0, 2.1)))
    assert race.share == 0.7
    assert str(race).count("ms,") == 2


def test_networks_are_really_timed() -> None:
    torch.manual_seed(0)
    model = Net()
    track = RaceTrack(model, torch.randn(1, 3, 6, 6), [Way("torch", 2)], 1, torch.device("cpu"))
    race = track(Net())
    assert 0.2 < race.share < 5
    assert math.isclose(race.slowest.cut_ms / race.slowest.uncut_ms, race.share, rel_tol=0.5)
    assert set(track.uncut_ms()) == {Way("torch", 2)}
