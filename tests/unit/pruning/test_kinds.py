"""Recurrent, embedding and bare parameters: pruned like others or left out loudly; every parameter is accounted for."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.checkpoints import Recipe, load_checkpoint, save_checkpoint
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.evaluation import cost_of, sparsity_text
from pruning_bootcamp.pruning.masks import Masks
from pruning_bootcamp.pruning.targets import choose_targets
from pruning_bootcamp.pruning.weights.magnitude_pruner import MagnitudePruner
from pruning_bootcamp.pruning.weights.scores import SCORES
from pruning_bootcamp.pruning.weights.unstructured import prune_unstructured
from pruning_bootcamp.tools.metrics import compute_sparsity
from pruning_bootcamp.training.hooks import MaskHook, StepState


class CnnLstm(nn.Module):
    """Conv 1 x 4 x 3 x 3, LSTM 32 -> 16, linear 16 -> 5."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.lstm = nn.LSTM(32, 16, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.relu(self.conv(x)).permute(0, 2, 1, 3).flatten(2)
        return self.head(self.lstm(rows)[0][:, -1])


class GruClassifier(nn.Module):
    """Two layers of GRU in both directions 8 -> 6, linear 12 -> 5; and an LSTM cell 5 -> 3 with its own biases."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(8, 6, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(12, 5)
        self.cell = nn.LSTMCell(5, 3)
        self.pair = nn.Bilinear(5, 3, 5)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.head(self.gru(x[:, 0])[0][:, -1])
        return self.pair(scores, self.cell(scores)[0])


class Encoder(nn.Module):
    """Token table 16 x 8, positions 1 x 8 x 8 and a class token 1 x 1 x 8 as bare parameters, one encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.positions = nn.Parameter(torch.randn(1, 8, 8))
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=12, batch_first=True)
        self.out = nn.Parameter(torch.randn(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        ids = (x[:, 0, 0].abs() * 4).long().clamp(max=15)
        hidden = self.layer(self.embed(ids) + self.positions)
        return (hidden.mean(1) + self.token[:, 0]) @ self.out


# prunable, left out, biases and the like: counted by hand
COUNTED: dict[type[nn.Module], tuple[int, int, int]] = {
    CnnLstm: (4 * 9 + 64 * 32 + 64 * 16 + 16 * 5, 0, 4 + 2 * 64 + 5),
    GruClassifier: (
        2 * (18 * 8 + 18 * 6) + 2 * (18 * 12 + 18 * 6) + 12 * 5 + 12 * 5 + 12 * 3 + 5 * 5 * 3,
        0,
        2 * 2 * 2 * 18 + 5 + 2 * 12 + 5,
    ),
    Encoder: (24 * 8 + 8 * 8 + 2 * 8 * 12, 16 * 8 + 8 * 8 + 8 * 5, 24 + 8 + 12 + 8 + 4 * 8 + 8),
}
IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


@pytest.fixture(params=COUNTED, ids=lambda kind: kind.__name__)
def network(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = request.param()
    return model.eval()


def test_every_parameter_is_prunable_left_out_or_a_bias_as_counted_by_hand(network: nn.Module) -> None:
    prunable, left_out, others = COUNTED[type(network)]
    found = compute_sparsity(network)
    assert found.prunable == prunable
    assert sum(left.size for left in found.left_out.values()) == left_out
    assert found.params == prunable + left_out + others == sum(p.numel() for p in network.parameters())
    targets = choose_targets(network)
    assert list(targets.chosen) == list(found.sizes)
    assert targets.left_out.keys() == found.left_out.keys()
    for name, left in found.left_out.items():
        assert f"{left.size:,} weights" in targets.left_out[name]
        assert "include" in targets.left_out[name]


@pytest.mark.parametrize("sparsity", [0.3, 0.9])
@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_the_zeros_are_there(network: nn.Module, sparsity: float, allocation: str) -> None:
    """Zeros counted in the parameters themselves = sparsity x prunable weights."""
    prunable = COUNTED[type(network)][0]
    result = prune_unstructured(network, sparsity=sparsity, allocation=allocation)
    parameters = dict(network.named_parameters())
    counted = sum(int((parameters[name] == 0).sum()) for name in result.masks)
    cost, _ = cost_of(network, IMAGES[:1], result.masks)
    assert counted == sum(layer.zeros for layer in result.layers)
    assert result.sparsity == pytest.approx(sparsity, abs=5e-3)
    assert cost.sparsity * cost.prunable_params == pytest.approx(counted, abs=0.01)
    assert cost.prunable_params == prunable
    assert cost.sparsity_of_all == round(counted / sum(p.numel() for p in network.parameters()), 6)


def test_the_figure_says_of_what_it_is_a_share() -> None:
    torch.manual_seed(0)
    network = Encoder()
    result = prune_unstructured(network, sparsity=0.5)
    cost, _ = cost_of(network, IMAGES[:1], result.masks)
    assert sparsity_text(cost) == (
        "50.00% of 448 prunable weights (29.02% of all 772 parameters; left out: "
        "positions 64 (a bare parameter, and no layer says whether it is multiplied or added); "
        "out 40 (a bare parameter, and no layer says whether it is multiplied or added); "
        "embed.weight 128 (a lookup table, whose rows are read and not multiplied))"
    )


def test_what_is_left_out_is_pruned_when_it_is_named() -> None:
    network = Encoder()
    result = prune_unstructured(network, sparsity=0.5, include=["out", "embed"])
    assert set(result.masks) == {"out", "embed.weight", "layer.self_attn.out_proj.weight"}
    assert int((network.out == 0).sum()) == 20
    found = compute_sparsity(network, result.masks)
    assert found.zeros["out"] == 20
    assert found.zeros["embed.weight"] == 64
    assert list(found.left_out) == ["positions"]
    fits = prune_unstructured(Encoder(), sparsity=None, pattern="2:4", include=["out", "linear1"])
    assert "which side is its input is not known" in fits.skipped["out"]


@pytest.mark.parametrize("pattern", ["*", "*.weight", "body", "body.*"])
def test_a_pattern_for_a_part_of_the_network_takes_no_table_in_it_along(pattern: str) -> None:
    network = nn.Sequential()
    network.add_module("body", nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 4)))
    assert list(choose_targets(network, include=[pattern]).chosen) == ["body.1.weight"]
    assert list(choose_targets(network, include=["body.0"]).chosen) == ["body.0.weight"]


def test_a_network_of_tables_and_bare_parameters_says_what_it_has() -> None:
    with pytest.raises(BootcampError, match=r"weight has 12 weights \(a lookup table.*include"):
        choose_targets(nn.Embedding(4, 3))


def test_a_table_tied_to_a_linear_layer_is_that_layers_weight() -> None:
    network = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4, bias=False))
    network[1].weight = network[0].weight
    assert list(choose_targets(network).chosen) == ["1.weight"]
    found = compute_sparsity(network)
    assert (found.sizes, found.left_out, found.params) == ({"1.weight": 12}, {}, 12)


@pytest.mark.parametrize("score", SCORES)
def test_each_score_prunes_recurrent_weights_or_says_why_not(score: str) -> None:
    torch.manual_seed(0)
    network = CnnLstm()
    result = prune_unstructured(network, sparsity=0.5, score=score, stats_batches=[(IMAGES, LABELS)])
    recurrent = ["lstm.weight_ih_l0", "lstm.weight_hh_l0"]
    if score in ("wanda", "obs"):
        assert list(result.skipped) == recurrent
        assert all("of LSTM" in reason for reason in result.skipped.values())
        assert result.sparsity < 0.1, "of all that could be pruned"
    else:
        assert result.skipped == {}
        by_name = {layer.name: layer.sparsity for layer in result.layers}
        assert all(by_name[name] == 0.5 for name in recurrent)


def test_gradients_of_recurrent_weights_are_theirs() -> None:
    """|w * g| by hand: autograd over the one batch."""
    torch.manual_seed(0)
    network = CnnLstm().eval()
    loss = nn.functional.cross_entropy(network(IMAGES), LABELS)
    (gradient,) = torch.autograd.grad(loss, [network.lstm.weight_hh_l0])
    worth = (network.lstm.weight_hh_l0 * gradient).abs().detach()
    result = prune_unstructured(network, sparsity=0.5, score="taylor", stats_batches=[(IMAGES, LABELS)])
    kept = result.masks["lstm.weight_hh_l0"]
    assert float(worth[~kept].max()) <= float(worth[kept].min())


def _train(network: nn.Module, masks: Masks) -> None:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    hook = MaskHook(network, masks)
    network.train()
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(IMAGES), LABELS).backward()
        optimizer.step()
        hook.on_step_end(StepState(network, optimizer, 3, 3, hook.replace))
    network.eval()


def test_what_was_pruned_stays_pruned_while_training(network: nn.Module) -> None:
    result = prune_unstructured(network, sparsity=0.6)
    before = copy.deepcopy(network)
    _train(network, result.masks)
    parameters = dict(network.named_parameters())
    for name, keep in result.masks.items():
        assert torch.equal(parameters[name] == 0, ~keep)
    assert not torch.equal(network(IMAGES), before(IMAGES))


def build(classes: int, kind: str) -> nn.Module:
    assert classes == 5
    torch.manual_seed(3)
    built: nn.Module = {cls.__name__: cls for cls in COUNTED}[kind]()
    return built


def test_masks_come_back_from_a_file_and_the_network_computes_the_same(network: nn.Module, tmp_path: Path) -> None:
    recipe = Recipe(f"{__file__}:build", {"kind": type(network).__name__}, 5, 1, (1, 8, 8), (0.0,), (1.0,))
    result = prune_unstructured(network, sparsity=0.6)
    save_checkpoint(tmp_path / "m.pth", network, recipe, masks=result.masks)
    found = load_checkpoint(tmp_path / "m.pth", trust_code=True)
    assert found.masks.keys() == result.masks.keys()
    assert all(torch.equal(found.masks[name], keep) for name, keep in result.masks.items())
    assert torch.equal(found.model(IMAGES), network(IMAGES))


def test_a_pruned_network_exports(network: nn.Module, tmp_path: Path) -> None:
    from pruning_bootcamp.exporters import export_model

    prune_unstructured(network, sparsity=0.6)
    report = export_model(network, IMAGES[:1], tmp_path, format="torchscript", verify=False)
    with torch.inference_mode():
        assert torch.allclose(torch.jit.load(str(report.path))(IMAGES), network(IMAGES), atol=1e-6)


def test_the_pruner_for_ones_own_loop_holds_recurrent_masks() -> None:
    network, pruner = GruClassifier(), MagnitudePruner()
    pruner.prune_model(network, sparsity=0.5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    pruner.apply_masks(network)
    assert pruner.get_model_sparsity(network)["gru.weight_hh_l1_reverse"] == 0.5
