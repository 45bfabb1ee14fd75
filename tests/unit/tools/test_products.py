"""Multiply-accumulates of every kind of layer, against formulas written down by hand."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from pruning_bootcamp.tools.metrics import count_macs, count_products

Call = Callable[[nn.Module, Tensor], object]


class Calls(nn.Module):
    """A network that does with its layer what `how` says."""

    def __init__(self, layer: nn.Module, how: Call) -> None:
        super().__init__()
        self.layer, self.how = layer, how

    def forward(self, x: Tensor) -> object:
        return self.how(self.layer, x)


def alone(layer: nn.Module, x: Tensor) -> object:
    return layer(x)


def thrice(layer: nn.Module, x: Tensor) -> object:
    return layer(x, x, x)


def over(memory: Tensor) -> Call:
    return lambda layer, x: layer(x, memory, memory)


L, D = 5, 8  # tokens, their width
ENCODER = 4 * L * D * D + 2 * L * L * D + 2 * L * D * 16
MEMORY = torch.zeros(1, 7, 6)  # 7 tokens of another width


@pytest.mark.parametrize(
    ("layer", "shape", "how", "by_hand"),
    [
        (nn.ConvTranspose2d(4, 8, 3, stride=2), (4, 5, 5), alone, 25 * 4 * 8 * 9),
        (nn.ConvTranspose2d(4, 8, 3, stride=2, groups=2), (4, 5, 5), alone, 25 * 4 * 4 * 9),
        (nn.ConvTranspose1d(6, 6, 4, groups=6), (6, 9), alone, 9 * 6 * 4),
        (nn.Conv3d(2, 4, 3), (2, 5, 5, 5), alone, 27 * 2 * 4 * 27),
        (nn.Linear(8, 3), (2, 5, 8), alone, 10 * 8 * 3),
        (nn.Bilinear(3, 4, 6), (7, 3), lambda m, x: m(x, torch.zeros(1, 7, 4)), 7 * 3 * 4 * 6),
        (nn.MultiheadAttention(D, 2, batch_first=True), (L, D), thrice, 4 * L * D * D + 2 * L * L * D),
        (
            nn.MultiheadAttention(D, 2, kdim=6, vdim=6, batch_first=True),
            (L, D),
            over(MEMORY),
            2 * L * D * D + 2 * 7 * 6 * D + 2 * L * 7 * D,
        ),
        (nn.TransformerEncoderLayer(D, 2, 16, batch_first=True), (L, D), alone, ENCODER),
        (
            nn.TransformerEncoder(nn.TransformerEncoderLayer(D, 2, 16, batch_first=True), 3),
            (L, D),
            alone,
            3 * ENCODER,
        ),
        (
            nn.TransformerDecoderLayer(D, 2, 16, batch_first=True),
            (L, D),
            lambda m, x: m(x, torch.zeros(1, 7, D)),
            ENCODER + 2 * L * D * D + 2 * 7 * D * D + 2 * L * 7 * D,
        ),
        (nn.RNN(D, 6, batch_first=True), (L, D), alone, L * 6 * (D + 6)),
        (nn.LSTM(D, 6, batch_first=True), (L, D), alone, L * 4 * 6 * (D + 6)),
        (nn.GRU(D, 6, batch_first=True), (L, D), alone, L * 3 * 6 * (D + 6)),
        (
            nn.LSTM(D, 6, 2, bidirectional=True, batch_first=True),
            (L, D),
            alone,
            2 * L * 4 * 6 * ((D + 6) + (2 * 6 + 6)),
        ),
        (
            nn.GRU(D, 6, 2, bidirectional=True, batch_first=True),
            (L, D),
            alone,
            2 * L * 3 * 6 * ((D + 6) + (2 * 6 + 6)),
        ),
        (nn.LSTM(D, 6, proj_size=3, batch_first=True), (L, D), alone, L * (4 * 6 * (D + 3) + 6 * 3)),
        (nn.LSTMCell(D, 6), (D,), alone, 4 * 6 * (D + 6)),
        (nn.GRUCell(D, 6), (D,), alone, 3 * 6 * (D + 6)),
        (nn.RNNCell(D, 6), (D,), alone, 6 * (D + 6)),
        (nn.Embedding(50, D), (L,), lambda m, x: m(x.long()), 0),
    ],
)
def test_a_layer_multiplies_what_its_formula_says(
    layer: nn.Module, shape: tuple[int, ...], how: Call, by_hand: int
) -> None:
    assert count_macs(Calls(layer, how), torch.zeros(1, *shape)) == by_hand
    assert count_macs(Calls(layer, how), torch.zeros(1, *shape)) == by_hand, "a second count is like the first"
    assert torch.backends.mha.get_fastpath_enabled()


def heads(kv: int) -> Call:
    """Two heads of width 4 for the queries, `kv` for keys and values of width 3."""
    return lambda _, x: F.scaled_dot_product_attention(
        torch.zeros(1, 2, L, 4), torch.zeros(1, kv, 9, 4), torch.zeros(1, kv, 9, 3), enable_gqa=kv != 2
    )


@pytest.mark.parametrize(
    ("how", "by_hand"),
    [
        (heads(2), 2 * L * 9 * (4 + 3)),
        (heads(1), 2 * L * 9 * (4 + 3)),  # shared keys save projections, not scores
        (
            lambda _, x: F.scaled_dot_product_attention(*3 * [torch.zeros(1, 2, L, 4)], is_causal=True),
            2 * L * L * (4 + 4),
        ),
        (lambda _, x: x @ x.mT, L * L * D),
        (lambda _, x: torch.einsum("bid,bjd->bij", x, x), L * L * D),
        (lambda _, x: torch.bmm(x, x.mT), L * L * D),
        (lambda _, x: torch.baddbmm(torch.zeros(1, L, L), x, x.mT), L * L * D),
        (lambda _, x: x[0] @ x[0, 0], L * D),
        (lambda _, x: torch.addmv(torch.zeros(L), x[0], x[0, 0]), L * D),
        (lambda _, x: x[0, 0].dot(x[0, 1]), D),
        (lambda _, x: torch.tensordot(x[0], x[0].mT, 1), L * L * D),
        (lambda _, x: x * x + x.softmax(-1), 0),
    ],
)
def test_products_without_a_layer_count(how: Call, by_hand: int) -> None:
    assert count_macs(Calls(nn.Identity(), how), torch.zeros(1, L, D)) == by_hand


@torch.inference_mode()
def inference(layer: nn.Module, x: Tensor) -> object:
    return layer(x)


@pytest.mark.parametrize("layer", [nn.Linear(D, 3), nn.LSTM(D, 6, batch_first=True), nn.Conv1d(L, 2, 1)])
def test_a_network_that_sets_inference_mode_itself_counts_alike(layer: nn.Module) -> None:
    x = torch.zeros(1, L, D)
    assert count_macs(Calls(layer, inference), x) == count_macs(Calls(layer, alone), x) > 0


class Expanded(nn.Module):
    """A class token that is expanded and handed to a layer, on which torch's counter stumbles (timm's cait)."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.layer = nn.Parameter(torch.zeros(1, 1, D)), nn.Linear(D, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.token.expand(len(x), -1, -1))


def test_an_expanded_parameter_enters_a_layer() -> None:
    model = Expanded()
    assert count_macs(model, torch.zeros(4, L, D)) == D * 3
    assert all(parameter.requires_grad for parameter in model.parameters())


def weights_of(model: nn.Module, x: Tensor) -> dict[str | None, float]:
    found: dict[str | None, float] = {}
    for product in count_products(model, x)[0]:
        found[product.weight] = found.get(product.weight, 0.0) + product.macs
    return found


def test_every_product_knows_its_weight() -> None:
    layer = nn.TransformerEncoderLayer(D, 2, 16, batch_first=True)
    assert weights_of(layer, torch.zeros(1, L, D)) == {
        "self_attn.in_proj_weight": L * D * 3 * D,
        None: 2 * L * L * D,
        "self_attn.out_proj.weight": L * D * D,  # read without the layer being called
        "linear1.weight": L * D * 16,
        "linear2.weight": L * D * 16,
    }


def test_computed_weights_belong_to_their_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 3))
    prune.l1_unstructured(model[0], "weight", 0.5)
    parametrizations.weight_norm(model[2])
    assert weights_of(model, torch.zeros(1, 3, 2, 2)) == {"0.weight": 48, "2.weight": 48}
