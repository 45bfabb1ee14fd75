"""Every registered score: same shape, finite, repeatable under a seed, and computed without touching the weight."""

import pytest
import torch

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.scores import SCORES, importance, layer_seed, needs_of
from pruning_bootcamp.pruning.stats import STATISTICS, LayerStats

SHAPES = [(7, 5), (4, 3, 3, 3), (8, 1, 3, 3), (1, 1)]


def stats_for(name: str, shape: tuple[int, ...], seed: int = 0) -> LayerStats:
    generator = torch.Generator().manual_seed(1)
    return LayerStats("layer", seed, {need: torch.randn(shape, generator=generator) for need in needs_of(name)})


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_scores_have_the_weights_shape_and_are_finite(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    weight = torch.randn(shape).to(dtype)
    before = weight.clone()
    scores = importance(weight, name, stats=stats_for(name, shape)).values
    assert scores.shape == weight.shape
    assert torch.isfinite(scores).all()
    assert torch.equal(weight, before)


@pytest.mark.parametrize("name", SCORES)
def test_a_score_is_the_same_twice_and_leaves_the_random_state(name: str) -> None:
    weight = torch.randn(6, 4)
    state = torch.get_rng_state()
    first = importance(weight, name, stats=stats_for(name, (6, 4), seed=3)).values
    assert torch.equal(first, importance(weight, name, stats=stats_for(name, (6, 4), seed=3)).values)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_weights_are_refused_by_layer_name(name: str, bad: float) -> None:
    weight = torch.ones(3, 3)
    weight[1, 1] = bad
    with pytest.raises(BootcampError, match=r"layer: weights: 1 of 9 are NaN or Inf"):
        importance(weight, name, stats=stats_for(name, (3, 3)))


@pytest.mark.parametrize("name", SCORES)
def test_what_a_score_needs_can_be_gathered(name: str) -> None:
    assert all(need in STATISTICS for need in needs_of(name))


def test_magnitude_by_hand() -> None:
    weight = torch.tensor([[1.0, -2.0], [0.0, 0.5]])
    l1 = importance(weight, "magnitude", {"p": 1})
    assert l1.values.tolist() == [[1.0, 2.0], [0.0, 0.5]]
    assert (l1.method, l1.stats.min, l1.stats.max, l1.stats.mean) == ("magnitude_l1", 0.0, 2.0, 0.875)
    assert l1.stats.std == pytest.approx(torch.tensor([1.0, 2.0, 0.0, 0.5]).std(correction=0).item())
    l2 = importance(weight, "magnitude", {"p": 2})
    assert (l2.values.tolist(), l2.method) == ([[1.0, 4.0], [0.0, 0.25]], "magnitude_l2")


def test_taylor_and_movement_by_hand() -> None:
    weight, gradient = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([0.5, 0.5, -1.0])
    stats = LayerStats("layer", 0, {"grad": gradient, "abs_grad": gradient.abs()})
    assert importance(weight, "taylor", stats=stats).values.tolist() == [0.5, 1.0, 3.0]
    # -w * g: a step against the gradient makes the first weight smaller, the two others larger in size
    assert importance(weight, "movement", stats=stats).values.tolist() == [-0.5, 1.0, 3.0]


def test_lamp_by_hand() -> None:
    # squares 1, 4, 9: 1/14, 4/13, 9/9
    scores = importance(torch.tensor([3.0, -1.0, 2.0]), "lamp").values
    assert torch.allclose(scores, torch.tensor([1.0, 1 / 14, 4 / 13], dtype=torch.float64))
    assert importance(torch.zeros(4), "lamp").values.tolist() == [0.0] * 4


def test_random_depends_on_the_seed_and_the_layer_only() -> None:
    a, b = (importance(torch.randn(50), "random", stats=LayerStats("x", layer_seed(s, "x"))).values for s in (0, 1))
    assert not torch.equal(a, b)
    assert layer_seed(0, "conv1") != layer_seed(0, "conv2")


def test_a_score_that_overflows_names_the_layer_and_the_score() -> None:
    with pytest.raises(BootcampError, match="fc: magnitude scores: 1 of 2"):
        importance(torch.tensor([1e30, 1.0]), "magnitude", {"p": 2}, LayerStats("fc"))
