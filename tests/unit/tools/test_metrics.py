"""Figures of a network against counts by hand, against thop itself, and against torch's own pruning."""

import sys

import pytest
import thop
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.utils import prune

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.tools.metrics import (
    compare_metrics,
    compute_flops,
    compute_params,
    compute_sparsity,
    effective_macs,
    normalize_metrics,
)


def cifar_resnet18() -> nn.Module:
    model = torchvision.models.resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


class SelfAttention(nn.Module):
    """One head, by torch's fused function."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)[:, None].chunk(3, dim=-1)
        return F.scaled_dot_product_attention(q, k, v)


def test_cifar_resnet18_costs_what_the_papers_print() -> None:
    model = cifar_resnet18()
    flops = compute_flops(model, torch.zeros(1, 3, 32, 32))
    assert round(flops.macs / 1e9, 2) == 0.56
    assert round(compute_params(model) / 1e6, 2) == 11.17
    assert flops.disagreement_pct < 2
    assert flops.disagreeing == []
    assert flops.macs_thop == thop.profile(cifar_resnet18(), (torch.zeros(1, 3, 32, 32),), verbose=False)[0]


@pytest.mark.parametrize(
    ("layer", "shape", "by_hand"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), (3, 10, 10), 8 * 3 * 9 * 100),
        (nn.Conv2d(8, 16, 3, stride=2, groups=4), (8, 9, 9), 16 * 2 * 9 * 16),
        (nn.Conv2d(4, 4, 3, dilation=2, groups=4), (4, 9, 9), 4 * 9 * 25),
        (nn.Conv1d(4, 6, 5), (4, 12), 6 * 4 * 5 * 8),
        (nn.ConvTranspose2d(4, 8, 4, stride=2, padding=1), (4, 5, 5), 25 * 4 * 8 * 16),
        (nn.Linear(7, 5), (7,), 35),
    ],
)
def test_a_layer_counts_what_it_multiplies(layer: nn.Module, shape: tuple[int, ...], by_hand: int) -> None:
    assert compute_flops(layer, torch.zeros(1, *shape)).macs == by_hand
    assert compute_flops(layer, torch.zeros(6, *shape)).macs == by_hand, "FLOPs are of one input"


def test_attention_counts_although_its_kernels_are_fused() -> None:
    by_hand = 5 * 8 * 24 + 2 * 5 * 5 * 8  # projection, then scores and weighted sum
    flops = compute_flops(SelfAttention(), torch.zeros(1, 5, 8))
    assert flops.macs == by_hand
    assert sum(layer.macs for layer in flops.layers) == by_hand
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert compute_flops(encoder, torch.zeros(1, 5, 8)).macs == 5 * 8 * 24 + 2 * 25 * 8 + 5 * 64 + 2 * 5 * 8 * 16
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(
    ("model", "shape", "layer", "why"),
    [
        (nn.Sequential(nn.ConvTranspose2d(3, 4, 2, stride=2)), (3, 4, 4), "0 (ConvTranspose2d)", "transposed"),
        (SelfAttention(), (5, 8), "the model itself (SelfAttention)", "functional"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), (3, 4, 4), "1 (BatchNorm2d)", "elementwise"),
        (nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4)), (2, 4), "1 (LSTM)", "gates and biases"),
    ],
)
def test_counters_that_disagree_name_the_layer_and_why(
    model: nn.Module, shape: tuple[int, ...], layer: str, why: str
) -> None:
    flops = compute_flops(model, torch.zeros(1, *shape))
    assert flops.disagreement_pct > 2
    assert flops.disagreeing[0].startswith(f"{layer}: counted ")
    assert why in flops.disagreeing[0]


class ByElement(nn.Module):
    """A linear layer written as a product of elements and a sum, which no counter sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return (x[..., None, :] * self.weight).sum(-1)


def test_a_layer_that_cannot_be_counted_is_named() -> None:
    skipped = compute_flops(nn.Sequential(nn.Linear(4, 4), ByElement()), torch.zeros(1, 2, 4)).skipped
    assert skipped == ["1 (ByElement): there is no rule for what it computes"]
    assert compute_flops(nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4)), torch.zeros(1, 2, 4)).skipped == []
    assert compute_flops(cifar_resnet18(), torch.zeros(1, 3, 8, 8)).skipped == []


def test_layers_that_differ_alike_are_told_together() -> None:
    blocks = [nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)) for _ in range(5)]
    (line,) = compute_flops(nn.Sequential(*blocks), torch.zeros(1, 2, 10, 10)).disagreeing
    # thop: 2 operations an element, twice over for scale and shift
    assert line.startswith("0.1, 1.1, 2.1 and 2 more (BatchNorm2d): counted 0 M, thop 0.004 M; thop counts")


def test_scales_and_embeddings_are_not_uncounted_layers() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.table, self.layer = nn.Parameter(torch.ones(4, 1)), nn.Embedding(5, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x + self.table(torch.tensor([1]))) * self.scale.T

    assert compute_flops(Scaled(), torch.zeros(1, 4)).skipped == []


def test_a_layer_used_twice_counts_twice() -> None:
    shared = nn.Linear(4, 4)
    flops = compute_flops(nn.Sequential(shared, nn.ReLU(), shared), torch.zeros(1, 4))
    assert flops.macs == 32
    assert [(layer.name, layer.macs) for layer in flops.layers if layer.macs] == [("0", 32)]


def test_counting_leaves_the_model_as_it_was() -> None:
    model = cifar_resnet18()
    model.train()
    model.layer1.eval()
    prune.l1_unstructured(model.conv1, "weight", 0.5)
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    compute_flops(model, torch.randn(2, 3, 16, 16))
    assert [module.training for module in model.modules()] == modes
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("reason", ["missing", "crashing"])
def test_without_thop_the_reason_is_given(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object, **__: object) -> None:
        raise ValueError("no rule fits")

    if reason == "missing":
        monkeypatch.setitem(sys.modules, "thop", None)
    else:
        monkeypatch.setattr(thop, "profile", crash)
    flops = compute_flops(nn.Linear(4, 4), torch.zeros(1, 4))
    assert flops.macs == 16
    assert flops.macs_thop is None
    assert flops.thop_missing
    assert ("imported" if reason == "missing" else "no rule fits") in flops.thop_missing
    assert flops.disagreeing == []


def test_effective_macs_leave_out_each_layers_own_zeros() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        model[0].weight[:3] = 0  # type: ignore[index]
    flops = compute_flops(model, torch.zeros(1, 2, 2, 2))
    assert flops.macs == 32 + 48
    assert effective_macs(flops, compute_sparsity(model)) == 32 / 4 + 48


def test_zero_weights_save_nothing_of_attention_itself() -> None:
    model = SelfAttention()
    with torch.no_grad():
        model.qkv.weight[:12] = 0
    flops = compute_flops(model, torch.zeros(1, 5, 8))
    assert effective_macs(flops, compute_sparsity(model)) == 5 * 8 * 12 + 2 * 5 * 5 * 8


def test_params_count_shared_and_frozen_once_and_pruned_fully() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    first.bias.requires_grad_(False)
    model = nn.Sequential(first, second)
    assert compute_params(model) == 20
    prune.random_unstructured(first, "bias", 0.5)
    assert compute_params(model) == 20


def test_sparsity_is_of_the_weight_in_use() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 4))
    assert compute_sparsity(model).total == 0, "a zero bias or batch-norm shift is not a pruned weight"
    prune.l1_unstructured(model[0], "weight", amount=6)
    found = compute_sparsity(model)
    assert found.layers == {"0.weight": 6 / 8, "3.weight": 0.0}
    assert found.total == 6 / 16
    with torch.no_grad():
        model[0].weight_orig.fill_(1.0)  # type: ignore[operator, union-attr]  # as an optimiser step would
    assert compute_sparsity(model).zeros["0.weight"] == 6
    prune.remove(model[0], "weight")
    assert compute_sparsity(model).zeros["0.weight"] == 6


def test_sparsity_with_masks_counts_zeros_of_both() -> None:
    model = nn.Linear(4, 2, bias=False)
    nn.init.ones_(model.weight)
    with torch.no_grad():
        model.weight[0, 0] = 0
    mask = torch.ones(2, 4, dtype=torch.bool)
    mask[0, :2] = False
    assert compute_sparsity(model, {"weight": mask}).zeros == {"weight": 2}
    assert compute_sparsity(model).zeros == {"weight": 1}, "the mask was not written into the weight"


def test_a_mask_that_fits_nothing_is_an_error() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    with pytest.raises(BootcampError, match=r"'0\.weigth'. Did you mean '0\.weight'"):
        compute_sparsity(model, {"0.weigth": torch.ones(2, 4, dtype=torch.bool)})
    with pytest.raises(BootcampError, match=r"shape \(4, 2\), the weight \(2, 4\)"):
        compute_sparsity(model, {"0.weight": torch.ones(4, 2, dtype=torch.bool)})


def test_a_fixed_shortcut_is_not_sparsity_but_a_frozen_network_has_one() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(2)[:, :, None, None])  # type: ignore[operator]
    model[1].weight.requires_grad_(False)  # type: ignore[operator]
    assert compute_sparsity(model).total == 0
    assert compute_sparsity(model.requires_grad_(False)).layers["1.weight"] == 0.5


BASELINE = {"accuracy": 95.0, "flops_g": 0.56, "params_m": 11.0, "latency_ms": 2.0, "throughput_fps": 500.0}


def test_reductions_are_percent_and_the_drop_is_points() -> None:
    pruned = {"accuracy": 94.2, "flops_g": 0.28, "params_m": 12.1, "latency_ms": 1.6, "goal": "x"}
    assert compare_metrics(BASELINE, pruned) == pytest.approx(
        {
            "flops_reduction_pct": 50.0,
            "params_reduction_pct": -10.0,
            "latency_reduction_pct": 20.0,
            "accuracy_drop": 0.8,
            "speedup": 1.25,
        }
    )
    assert normalize_metrics(pruned, BASELINE) == pytest.approx(
        {"accuracy": 94.2 / 95, "flops_g": 0.5, "params_m": 1.1, "latency_ms": 0.8}
    )


def test_only_what_both_know_is_compared() -> None:
    assert compare_metrics(BASELINE, {"flops_g": 0.28, "latency_ms": None}) == pytest.approx(
        {"flops_reduction_pct": 50.0}
    )
    with pytest.raises(BootcampError, match="no metric in common"):
        compare_metrics(BASELINE, {"perplexity": 20.0})


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), "0.56", True])
def test_a_figure_that_cannot_be_is_an_error(value: object) -> None:
    with pytest.raises(BootcampError, match="flops_g of the baseline"):
        compare_metrics({"flops_g": value}, {"flops_g": 0.2})
