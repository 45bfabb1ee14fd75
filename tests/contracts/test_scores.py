"""Every registered score: same shape, finite, repeatable under a seed, and computed without touching the weight."""

import pytest
import torch
from torch import nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.stats import STATISTICS, LayerStats, gather
from pruning_bootcamp.pruning.weights.scores import SCORES, importance, layer_seed, needs_labels, needs_of
from pruning_bootcamp.pruning.weights.unstructured import check_unstructured, prune_unstructured

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


def test_snip_and_taylor_differ_where_gradients_cancel_out() -> None:
    weight = torch.tensor([1.0, -2.0])
    stats = LayerStats("layer", 0, {"grad": torch.tensor([0.0, -0.5]), "abs_grad": torch.tensor([3.0, 0.5])})
    assert importance(weight, "snip", stats=stats).values.tolist() == [0.0, 1.0]
    assert importance(weight, "taylor", stats=stats).values.tolist() == [3.0, 1.0]


def test_obd_by_hand() -> None:
    stats = LayerStats("layer", 0, {"fisher": torch.tensor([[2.0, 0.5], [1.0, 0.0]])})
    scores = importance(torch.tensor([[1.0, -4.0], [3.0, 7.0]]), "obd", stats=stats).values
    assert scores.tolist() == [[1.0, 4.0], [4.5, 0.0]]  # h w^2 / 2


def test_obd_says_what_the_loss_loses() -> None:
    """Where the model's own distribution is the truth, its loss is at a minimum and rises by the scores' prediction."""
    layer = nn.Linear(4, 3, bias=False)
    images = torch.randn(20000, 4)
    with torch.no_grad():
        layer.weight.mul_(0.3)  # small weights: a second-order expansion is about small changes
    fisher = gather(layer, {"weight": layer.weight}, ("fisher",), [images])["fisher"]["weight"]
    predicted = importance(layer.weight, "obd", stats=LayerStats("weight", 0, {"fisher": fisher})).values
    truth = layer(images).detach().softmax(1)
    for row in range(3):
        for column in range(4):
            pruned = layer.weight.detach().clone()
            pruned[row, column] = 0
            lost = (truth * (truth.log() - (images @ pruned.T).log_softmax(1))).sum(1).mean()
            assert float(predicted[row, column]) == pytest.approx(float(lost), rel=0.15, abs=1e-5)


def test_wanda_by_hand() -> None:
    # eq. 1's point: by magnitude the first column would go, its inputs make it the one to keep
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0], [-0.5, 3.0]]))
    images = torch.tensor([[30.0, 0.0], [40.0, 1.0]])  # norms 50 and 1
    norm = gather(layer, {"weight": layer.weight}, ("input_norm",), [images])["input_norm"]["weight"]
    scores = importance(layer.weight, "wanda", stats=LayerStats("weight", 0, {"input_norm": norm})).values
    assert scores.tolist() == [[50.0, 2.0], [25.0, 3.0]]
    result = prune_unstructured(layer, sparsity=0.5, score="wanda", stats_batches=[images])
    assert result.masks["weight"].tolist() == [[True, False], [True, False]]


def test_what_needs_data_and_what_needs_labels() -> None:
    without_data = {name for name in SCORES if not needs_of(name)}
    assert {"magnitude", "random", "lamp"} <= without_data
    assert {name for name in SCORES if needs_labels(name)} >= {"taylor", "movement", "snip"}
    assert not needs_labels("wanda")
    assert not needs_labels("obd")
    assert not any(needs_labels(name) for name in without_data)


@pytest.mark.parametrize("name", [name for name in SCORES if needs_of(name)])
def test_missing_data_is_said_before_any_work(name: str) -> None:
    (problem,) = check_unstructured(sparsity=0.5, score=name, has_batches=False)
    assert str(problem).startswith(f"prune.score: '{name}' needs {needs_of(name)[0]}")
    assert ("labelled batches" in str(problem)) == needs_labels(name)
    assert ("labels are not needed" in str(problem)) != needs_labels(name)


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
