"""What a weight's removal costs: by hand on a diagonal, by brute force on a row, and in odd networks."""

import copy

import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.stats import LayerStats, gather, removal
from pruning_bootcamp.pruning.targets import find_targets
from pruning_bootcamp.pruning.weights.scores import importance

SIGNS = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])  # columns at right angles
SIZES = torch.tensor([0.5, 1.0, 2.0, 3.0])


def costs(net: nn.Module, images: list[Tensor], seed: int = 0) -> dict[str, Tensor]:
    return gather(net, find_targets(net), ("removal_cost",), images, seed)["removal_cost"]


def drawn_fisher(net: nn.Module, x: Tensor, seed: int = 0) -> Tensor:
    """Mean squared gradient of each class score, labels drawn from the network's own predictions."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        truth = net(x).softmax(1)
        labels = torch.multinomial(truth, 1)[:, 0]
    return (truth - nn.functional.one_hot(labels, truth.shape[1])).square().mean(0)


@pytest.mark.parametrize("bias", [False, True])
def test_with_inputs_at_right_angles_a_weight_costs_half_w2_times_its_inputs_size_times_fisher(bias: bool) -> None:
    torch.manual_seed(0)
    net = nn.Linear(4, 3, bias=bias)
    spread = SIGNS * SIZES  # the first column does not vary: a bias takes its place
    x = spread.repeat(5, 1)
    sizes = x.var(0, correction=0) if bias else x.square().mean(0)
    expected = 0.5 * net.weight.detach().square() * sizes * drawn_fisher(net, x)[:, None]
    found = costs(net, [x])["weight"]
    assert torch.allclose(found, expected, rtol=0.02, atol=2e-3 * float(expected.max()))
    assert torch.equal(
        importance(net.weight, "obs", stats=LayerStats("weight", 0, {"removal_cost": found})).values, found
    )


def test_batches_add_up_and_the_images_alone_count() -> None:
    torch.manual_seed(0)
    net, x = nn.Linear(4, 3), torch.randn(12, 4)
    whole = costs(net, [x], seed=1)["weight"]
    assert torch.equal(costs(net, [(x, torch.zeros(12))], seed=1)["weight"], whole)
    assert torch.equal(whole, costs(net, [x], seed=1)["weight"])
    parts = costs(net, [x[:5], x[5:]], seed=1)["weight"]
    assert torch.allclose(parts, whole, rtol=0.5)  # other draws
    assert not torch.equal(costs(net, [x], seed=2)["weight"], whole)


def by_brute_force(w: Tensor, gram: Tensor) -> list[tuple[int, float]]:
    """Each time the weight whose removal, the others fitted again, adds least: which, and how much."""
    kept, order, before = list(range(len(w))), [], 0.0

    def error(some: list[int]) -> float:
        fitted = torch.linalg.solve(gram[some][:, some], (gram @ w)[some])
        there = torch.zeros_like(w)
        there[some] = fitted
        return float(0.5 * (w - there) @ gram @ (w - there))

    while kept:
        value, gone = min((error([k for k in kept if k != q]), q) for q in kept)
        order.append((gone, value - before))
        before = value
        kept.remove(gone)
    return order


@pytest.mark.parametrize("seed", range(8))
def test_the_order_is_that_of_greedy_elimination(seed: int) -> None:
    """One row of 8 weights: each round takes at most one."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(100, 8, generator=g, dtype=torch.float64) @ torch.randn(8, 8, generator=g, dtype=torch.float64)
    x += 2 * torch.randn(100, 8, generator=g, dtype=torch.float64)
    w, gram = torch.randn(8, generator=g, dtype=torch.float64), x.T @ x / 100
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(removal, "_DAMPING", 1e-9)
        values = removal._eliminate(w[None], gram, torch.tensor([2.0], dtype=torch.float64))[0]
    order = by_brute_force(w, gram)
    assert values.argsort(stable=True).tolist() == [gone for gone, _ in order]
    highest = 0.0
    for gone, cost in order:
        highest = max(highest, 2 * cost)
        assert float(values[gone]) == pytest.approx(highest, rel=1e-4)


def test_long_rows_go_in_blocks_and_inputs_that_are_apart_cost_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(0)
    x = [torch.randn(100, 16, generator=g) @ torch.randn(16, 16, generator=g) for _ in range(2)]
    gram = torch.block_diag(*(part.T @ part / 100 for part in x))
    gram[16:, 16:] *= gram[:16, :16].diagonal().mean() / gram[16:, 16:].diagonal().mean()
    rows, fisher = torch.randn(5, 32, generator=g), torch.rand(5, generator=g)
    whole = removal._eliminate(rows, gram, fisher)
    monkeypatch.setattr(removal, "_WORK", 1.0)
    assert removal._block_size(rows) == 16
    assert torch.allclose(removal._eliminate(rows, gram, fisher), whole, rtol=1e-3)


class Activated(nn.Module):
    def __init__(self, inplace: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.last = nn.Conv2d(2, 4, 3), nn.ReLU(inplace=inplace), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.first(x)).mean((2, 3)))


def test_an_activation_that_overwrites_the_outputs_changes_nothing() -> None:
    images = [torch.randn(6, 2, 5, 5, generator=torch.Generator().manual_seed(0))]
    found, expected = (costs(Activated(inplace), images) for inplace in (True, False))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    # a channel that never gets past the ReLU has no gradient before it, whatever it has behind
    net = Activated(True)
    with torch.no_grad():
        assert net.first.bias is not None
        net.first.bias[1] = -100
    silent = costs(net, images)["first.weight"]
    assert (silent[1] == 0).all()
    assert (silent[0] > 0).all()


def test_each_group_counts_on_its_own_as_if_it_were_a_layer() -> None:
    class Apart(nn.Module):
        def __init__(self, whole: nn.Conv2d, last: nn.Linear) -> None:
            super().__init__()
            self.parts = nn.ModuleList(nn.Conv2d(2, 3, 3) for _ in range(2))
            self.last = last
            with torch.no_grad():
                for at, part in enumerate(self.parts):
                    assert isinstance(part, nn.Conv2d)
                    assert part.bias is not None
                    assert whole.bias is not None
                    part.weight.copy_(whole.weight[3 * at : 3 * at + 3])
                    part.bias.copy_(whole.bias[3 * at : 3 * at + 3])

        def forward(self, x: Tensor) -> Tensor:
            made = [part(x[:, 2 * at : 2 * at + 2]) for at, part in enumerate(self.parts)]
            return self.last(torch.cat(made, 1).relu().flatten(1))

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(54, 3))
    assert isinstance(net[0], nn.Conv2d)
    assert isinstance(net[3], nn.Linear)
    images = [torch.randn(5, 4, 5, 5)]
    found, apart = costs(net, images), costs(Apart(net[0], net[3]), images)
    assert torch.allclose(found["0.weight"], torch.cat([apart["parts.0.weight"], apart["parts.1.weight"]]), rtol=1e-4)
    assert torch.allclose(found["3.weight"], apart["last.weight"], rtol=1e-3)


def test_a_layer_that_runs_twice_counts_both_and_one_without_way_to_the_output_costs_nothing() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.side = (nn.Linear(4, 4, bias=False) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            self.side(x)
            return self.a(x[:, 0]) + self.b(x[:, 1]) if self.b is not self.a else self.a(x[:, 0]) + self.a(x[:, 1])

    torch.manual_seed(0)
    net, x = Net(), torch.randn(9, 2, 4)
    found = costs(net, [x])
    assert (found["side.weight"] == 0).all()
    both = copy.deepcopy(net)
    both.b = both.a
    twice = costs(both, [x])["a.weight"]
    assert torch.isfinite(twice).all()
    assert (twice > 0).all()


def test_frozen_weights_get_costs_and_gradients_are_left_alone() -> None:
    net = Activated(False)
    net.first.weight.requires_grad_(False)
    net.last.weight.grad = torch.full_like(net.last.weight, 7.0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    targets = {name: net.get_parameter(name) for name in ("first.weight", "last.weight")}
    state = torch.get_rng_state()
    found = gather(net, targets, ("removal_cost",), [torch.randn(6, 2, 5, 5, generator=torch.Generator())])
    assert (found["removal_cost"]["first.weight"] > 0).all()
    assert torch.equal(state, torch.get_rng_state())
    assert not net.first.weight.requires_grad
    assert net.first.weight.grad is None
    assert (net.last.weight.grad == 7).all()
    assert net.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_what_cant_be_measured_is_an_error_that_names_the_layer() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.never = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.a(x)
            return self.b(x)

    net = Half()
    with pytest.raises(BootcampError, match=r"^a\.weight: the layer runs without gradients"):
        costs(net, [torch.randn(3, 4)])
    assert not any(module._forward_hooks for module in net.modules())
    rest = {"b.weight": net.b.weight, "never.weight": net.never.weight}
    with pytest.raises(BootcampError, match=r"^never\.weight: the layer never ran"):
        gather(net, rest, ("removal_cost",), [torch.randn(3, 4)])
    with pytest.raises(BootcampError, match="calibration images themselves hold NaN"):
        costs(net.b, [torch.full((2, 4), float("nan"))])
    with pytest.raises(BootcampError, match=r"weight: products of inputs"):
        costs(nn.Linear(4, 3), [torch.tensor([[1e20, -1e20, 0, 0]])])
