"""A pruned network's layers fitted to the dense one's: exact where that is possible, never worse, for every kind."""

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.pruning.channels.refit import Images, Refitted, engine, refit
from pruning_bootcamp.pruning.channels.refit.folding import folded, instead, spread, unfold
from pruning_bootcamp.pruning.channels.refit.pairs import find_feeders, refine
from pruning_bootcamp.pruning.channels.refit.passes import Passes
from pruning_bootcamp.pruning.channels.refit.program import Program
from pruning_bootcamp.pruning.channels.refit.sites import find_sites
from pruning_bootcamp.pruning.channels.refit.solving import choose_damping, error, solve, without_intercept
from pruning_bootcamp.pruning.channels.structured import CutResult, cut_channels, plan_structured
from pruning_bootcamp.pruning.layers.moments import Moments, gram
from pruning_bootcamp.pruning.masks import Masks, apply_masks


def images_of(*shape: int, batches: int = 4, size: int = 32, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    found = [torch.randn(size, *shape, generator=generator) for _ in range(batches)]
    return lambda: iter(found)


def settled(model: nn.Module, images: Images) -> nn.Module:
    """Batch norms with scales, shifts and statistics of a network that has been trained."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            if module.weight is not None:
                module.weight.data.uniform_(0.5, 1.5, generator=generator)
                module.bias.data.normal_(0, 0.3, generator=generator)
            module.momentum = None
    with torch.no_grad():
        for batch in images():
            model.train()(batch)
    return model.eval()


def cut_half(dense: nn.Module, images: Images, **choices: Any) -> CutResult:
    example = next(iter(images()))[:2]
    asked = {"score": "l1", "allocation": "local", "sparsity": 0.5} | choices
    return cut_channels(dense, example, plan_structured(dense, example, **asked))


@torch.no_grad()
def distance(one: nn.Module, other: nn.Module, images: Images) -> float:
    found = [((one(batch) - other(batch)).square().sum(), other(batch).square().sum()) for batch in images()]
    return float(sum(off for off, _ in found) / sum(size for _, size in found))


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.conv1, self.bn1 = nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.side = nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return self.head(torch.relu(y + self.side(x)).mean((2, 3)))


class Separable(nn.Module):
    """Depthwise, grouped and squeeze-and-excitation, with in-place activations up to 6."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True))
        self.depth = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu6(self.norm(self.depth(self.expand(x))), inplace=True)
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.head(torch.relu(self.grouped(x * gate)).mean((2, 3)))


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 6, 3, padding="same"), nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(10)
        self.reader, self.head = nn.Conv2d(10, 6, 3), nn.Linear(6 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.relu(self.norm(torch.cat([self.one(x), self.other(x)], 1)))
        return self.head(torch.relu(self.reader(joined)).flatten(1))


class Tokens(nn.Module):
    """The blocks of a transformer without its attention: a sum, a layer norm, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(2))
        self.up = nn.ModuleList(nn.Linear(8, 12) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(12, 8) for _ in range(2))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for norm, up, down in zip(self.norms, self.up, self.down, strict=True):
            x = x + down(nn.functional.gelu(up(norm(x))))
        return self.head(x)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "sum": (Sum, (3, 8, 8)),
    "separable": (Separable, (3, 8, 8)),
    "joined": (Joined, (3, 8, 8)),
    "tokens": (Tokens, (5, 6)),
}


@pytest.fixture(params=NETWORKS)
def dense_and_images(request: pytest.FixtureRequest) -> tuple[nn.Module, Images]:
    torch.manual_seed(0)
    build, shape = NETWORKS[request.param]
    images = images_of(*shape)
    return settled(build(), images), images


def test_four_weights_by_hand() -> None:
    """The second channel is twice the first: what read it with 3 reads the first with 6 more."""
    dense = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        dense[0].weight.copy_(torch.tensor([[1.0], [2.0]]))
        dense[1].weight.copy_(torch.tensor([[4.0, 3.0]]))
    cut = copy.deepcopy(dense)
    cut[0] = nn.Linear(1, 1, bias=False)
    cut[1] = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        cut[0].weight.fill_(1.0)
        cut[1].weight.fill_(4.0)
    found = refit(dense, cut, {"0": torch.tensor([0])}, images_of(1))
    assert cut[1].weight.item() == pytest.approx(10.0, abs=1e-3)
    assert cut[0].weight.item() == pytest.approx(1.0, abs=1e-3)
    assert list(found.layers) == ["1"]


def test_channels_that_others_make_up_for_are_made_up_for_exactly() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 3, padding=1), nn.Flatten(), nn.Linear(5 * 36, 4))
    with torch.no_grad():  # four channels are mixtures of the other four
        mixture = torch.randn(4, 4)
        dense[0].weight[4:] = (mixture @ dense[0].weight[:4].flatten(1)).view(4, 3, 1, 1) / 10
        dense[0].bias[4:] = mixture @ dense[0].bias[:4] / 10
    images = images_of(3, 6, 6)
    found = cut_half(dense, images, exclude=["1"])
    assert distance(found.model, dense, images) > 1e-3
    refit(dense, found.model, found.kept, images)
    assert distance(found.model, dense, images) < 1e-6
    assert distance(found.model, dense, images_of(3, 6, 6, seed=9)) < 1e-6  # and on images it was not fitted on


def test_every_kind_of_reader_comes_nearer(dense_and_images: tuple[nn.Module, Images]) -> None:
    dense, images = dense_and_images
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    found = cut_half(dense, images)
    start = distance(found.model, dense, images)
    result = refit(dense, found.model, found.kept, images)
    assert result.left == {}
    assert result.images == 128
    assert distance(found.model, dense, images) < 0.5 * start
    readers = {p for p, m in dense.named_modules() if isinstance(m, nn.Linear | nn.Conv2d) and _smaller(m, found, p)}
    assert readers
    assert readers <= result.layers.keys()
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())
    assert not found.model.training


def _smaller(module: nn.Module, found: CutResult, path: str) -> bool:
    ours = found.model.get_submodule(path)
    names = ("in_features", "in_channels")
    depthwise = getattr(module, "groups", 1) == getattr(module, "in_channels", 0)
    return not depthwise and any(getattr(ours, n, 0) != getattr(module, n, 0) for n in names)


def test_the_same_again_bit_for_bit(dense_and_images: tuple[nn.Module, Images]) -> None:
    dense, images = dense_and_images
    found = cut_half(dense, images)
    state = torch.get_rng_state()
    first, again = (copy.deepcopy(found.model) for _ in range(2))
    refit(dense, first, found.kept, images)
    refit(dense, again, found.kept, images)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_kept_between_two_passes_changes_nothing(dense_and_images: tuple[nn.Module, Images]) -> None:
    dense, images = dense_and_images
    found = cut_half(dense, images)
    roomy, bare = (copy.deepcopy(found.model) for _ in range(2))
    refit(dense, roomy, found.kept, images)
    refit(dense, bare, found.kept, images, kept_bytes=0)
    for one, other in zip(roomy.state_dict().values(), bare.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other)


def stopped_after_two(
    dense: nn.Module, network: nn.Module, kept: dict[str, Tensor], images: Images, **settings: Any
) -> dict[str, float]:
    """What was said of the layers that were fitted until the process was stopped."""
    fitted: dict[str, float] = {}

    class Stop(Exception):
        pass

    def after(path: str, left: float) -> None:
        fitted[path] = left
        if len(fitted) == 2:
            raise Stop

    with pytest.raises(Stop):
        refit(dense, network, kept, images, after=after, **settings)
    return fitted


def test_a_process_that_was_stopped_goes_on_with_the_same_bits(dense_and_images: tuple[nn.Module, Images]) -> None:
    dense, images = dense_and_images
    found = cut_half(dense, images)
    whole, stopped = (copy.deepcopy(found.model) for _ in range(2))
    refit(dense, whole, found.kept, images)
    fitted = stopped_after_two(dense, stopped, found.kept, images)
    said: list[str] = []
    result = refit(dense, stopped, found.kept, images, fitted=fitted, say=lambda number, total, path: said.append(path))
    assert not set(said) & fitted.keys()
    assert list(result.layers) == [*fitted, *said]
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), stopped.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("damping", [1e-6, 1e-3, 1.0, 100.0])
@pytest.mark.parametrize("groups", [1, 3])
def test_least_squares_is_never_raised(damping: float, groups: int) -> None:
    generator = torch.Generator().manual_seed(groups)
    columns = torch.randn(groups, 60, 6, generator=generator).double()
    columns[:, :, -1] = 1
    targets = torch.randn(groups, 60, 4, generator=generator).double()
    moments = Moments(columns.mT @ columns, columns.mT @ targets)
    start = torch.randn(groups, 6, 4, generator=generator).double()
    for used in (moments, without_intercept(moments)):
        before, after = error(used, start), error(used, solve(used, start, damping))
        assert after <= before + 1e-9 * abs(before)
    fitted = solve(moments, start, 1e-12)
    torch.testing.assert_close(fitted, torch.linalg.lstsq(columns, targets).solution, rtol=1e-5, atol=1e-5)


def test_the_damping_is_that_which_suits_samples_held_out() -> None:
    """Many columns and few noisy samples want weights that stay near; many samples want to be followed."""
    generator = torch.Generator().manual_seed(0)

    def parts(samples: int) -> list[Moments]:
        columns = [torch.randn(1, samples, 21, generator=generator).double() for _ in range(2)]
        truth = torch.randn(21, 2, generator=generator).double()
        targets = [c @ truth + 3 * torch.randn(1, samples, 2, generator=generator) for c in columns]
        return [Moments(c.mT @ c, c.mT @ t) for c, t in zip(columns, targets, strict=True)]

    start = torch.zeros(1, 21, 2).double()
    assert choose_damping(parts(12), start) > choose_damping(parts(5000), start)


def test_what_a_relu_hides_need_not_be_fitted() -> None:
    """With the ReLU known, its outputs come nearer in every round of majorising and minimising."""
    torch.manual_seed(0)
    images = images_of(3, 8, 8, batches=8)
    dense = settled(Sum(), images)
    found = cut_half(dense, images, exclude=["conv2"])

    def rectified(model: nn.Module) -> list[Tensor]:
        return [torch.relu(t) for t in _inputs_of_relu(model, images)]

    left = []
    for iterations in range(4):
        model = copy.deepcopy(found.model)
        leave = {"head": "not here", "side.0": "not here"}
        refit(dense, model, found.kept, images, iterations=iterations, rounds=0, leave=leave)
        pairs = zip(rectified(model), rectified(dense), strict=True)
        left.append(sum(float((ours - theirs).square().sum()) for ours, theirs in pairs))
    assert all(after <= before * (1 + 1e-5) for before, after in itertools.pairwise(left))
    assert left[-1] < 0.95 * left[0]


def _inputs_of_relu(model: Any, images: Images) -> list[Tensor]:
    sums: list[Tensor] = []
    with torch.no_grad():
        for batch in images():
            x = model.stem(batch)
            sums.append(model.bn2(model.conv2(torch.relu(model.bn1(model.conv1(x))))) + model.side(x))
    return sums


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_fit_is_put_into_layer_and_batch_norm(affine: bool, bias: bool) -> None:
    torch.manual_seed(0)
    images = images_of(3, 6, 6)
    model = settled(nn.Sequential(nn.Conv2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4, affine=affine)), images)
    site = find_sites(Program(model, next(iter(images()))))[0][0]
    assert site.norm == "1"
    total = Moments(sum(gram(site.product, batch) for batch in images()), torch.zeros(1))  # type: ignore[arg-type]
    rows = folded(model, site)
    batch = next(iter(images()))
    wanted = model(batch)
    torch.testing.assert_close(site.product.apply(batch, *_weights(site, rows, model)), wanted, rtol=1e-4, atol=1e-5)
    again = copy.deepcopy(model)
    unfold(again, site, rows, spread(total))
    torch.testing.assert_close(again(batch), wanted, rtol=1e-4, atol=1e-5)
    other = torch.func.functional_call(model, instead(model, site, rows), (batch,))
    torch.testing.assert_close(other, wanted, rtol=1e-4, atol=1e-5)
    if affine:
        # its weights are as large as they were, and its statistics are what it sees: by batches it does the same
        sizes = [layer.weight.flatten(1).norm(dim=1) for layer in (model[0], again[0])]
        torch.testing.assert_close(*sizes, rtol=1e-4, atol=1e-6)
        everything = torch.cat(list(images()))
        torch.testing.assert_close(again.train()(everything), model.eval()(everything), rtol=1e-2, atol=1e-2)


def _weights(site: Any, rows: Tensor, model: Any) -> tuple[Tensor, Tensor]:
    return site.product.weight(rows[:, :-1], model[0].weight), rows[:, -1].flatten().float()


def test_what_cant_be_fitted_is_said() -> None:
    torch.manual_seed(0)
    images = images_of(3, 6, 6)
    dense = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2), nn.ReLU(), nn.Conv2d(4, 2, 1))
    found = cut_half(dense, images)
    result = refit(dense, found.model, found.kept, images)
    assert result.left == {"2": "a transposed convolution"}
    assert list(result.layers) == ["4"]


def test_layers_to_leave_and_frozen_ones_stay() -> None:
    torch.manual_seed(0)
    images = images_of(3, 8, 8)
    dense = settled(Sum(), images)
    found = cut_half(dense, images)
    found.model.get_submodule("side.0").requires_grad_(False)
    before = {name: value.clone() for name, value in found.model.state_dict().items()}
    result = refit(dense, found.model, found.kept, images, leave={"conv2": "it has zeros"})
    assert result.left == {"conv2": "it has zeros"}
    assert not result.layers.keys() & {"conv2", "side.0"}
    after = found.model.state_dict()
    assert torch.equal(after["conv2.weight"], before["conv2.weight"])
    assert torch.equal(after["side.0.weight"], before["side.0.weight"])
    assert not torch.equal(after["conv1.weight"], before["conv1.weight"])  # the stem's channels are gone


class Turning(nn.Module):
    """Goes another way for other images: no list of operations says what it does."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        return self.other(y.relu() if float(y.sum()) > 1e9 else y)


def test_a_network_that_cant_be_listed_is_said_to_be_left() -> None:
    images = images_of(3)
    dense = Turning()
    found = cut_half(dense, images)
    result: Refitted = refit(dense, found.model, found.kept, images)
    assert list(result.left) == ["other"]
    assert "its operations can't be listed" in result.left["other"]
    assert result.layers == {}


def test_a_smaller_last_batch_is_left_out() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))

    def images() -> Iterator[Tensor]:
        yield from torch.randn(70, 4, generator=torch.Generator().manual_seed(0)).split(32)

    found = cut_half(dense, images)
    assert refit(dense, found.model, found.kept, images).images == 64


def test_a_layer_that_one_other_reads_alone_is_found() -> None:
    found = {name: _feeders(build(), shape) for name, (build, shape) in NETWORKS.items()}
    assert found["sum"] == {"conv2": "conv1"}  # the stem is read by two
    assert found["separable"] == {
        "depth": "expand.0",
        "excite": "squeeze",
        "grouped": "excite",
        "head": "grouped",
    }
    assert found["joined"]["head"] == "reader"
    assert found["tokens"] == {"down.0": "up.0", "down.1": "up.1"}


class Attending(nn.Module):
    """A sum that three layers weigh together, by torch's attention or by two products."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.query, self.key, self.value, self.mix = (nn.Linear(8, 8) for _ in range(4))
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.query(x), self.key(x), self.value(x)
        if self.fused:
            return self.mix(nn.functional.scaled_dot_product_attention(query, key, value))
        return self.mix((query @ key.mT).softmax(-1) @ value)


@pytest.mark.parametrize("fused", [True, False])
def test_what_goes_through_an_attention_is_no_layers_alone(fused: bool) -> None:
    assert _feeders(Attending(fused), (5, 8)) == {}


def _feeders(model: nn.Module, shape: tuple[int, ...]) -> dict[str, str]:
    program = Program(model.eval(), torch.randn(2, *shape))
    return {reader: site.path for reader, site in find_feeders(program, find_sites(program)[0]).items()}


@pytest.mark.parametrize("network", ["sum", "separable", "tokens"])
def test_a_pair_fitted_together_comes_nearer_and_never_further(network: str) -> None:
    torch.manual_seed(0)
    build, shape = NETWORKS[network]
    images = images_of(*shape)
    dense = settled(build(), images)
    found = cut_half(dense, images)
    alone, together = (copy.deepcopy(found.model) for _ in range(2))
    refit(dense, alone, found.kept, images, rounds=0)
    refit(dense, together, found.kept, images, rounds=6)
    assert distance(together, dense, images) < distance(alone, dense, images)

    program, other = Program(dense, next(iter(images()))), Program(alone, next(iter(images())))
    sites = find_sites(other)[0]
    left = []
    for reader, first in find_feeders(other, sites).items():
        (second,) = [site for site in sites if site.path == reader]
        passes = Passes(program, other, images)
        left.append(refine(copy.deepcopy(alone), passes, first, second, found.kept.get(reader), (None, None), 3))
    assert left
    assert all(0 <= share <= 1 for share in left)


class Apart(nn.Module):
    """Between its layers stands an operation that torch can't differentiate forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        return self.second(y * torch.cdist(y, y).mean())


def test_a_pair_that_cant_be_differentiated_is_fitted_alone_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    images = images_of(4)
    dense = Apart()
    cut = nn.Linear(4, 3), nn.Linear(3, 2)
    alone = Apart()
    alone.first, alone.second = cut
    together = copy.deepcopy(alone)
    kept = {"first": torch.tensor([0, 2, 5])}
    refit(dense, alone, kept, images, rounds=0)
    with caplog.at_level("INFO"):
        refit(dense, together, kept, images, rounds=6)
    assert "first and second are fitted alone, not together" in caplog.text
    for ours, theirs in zip(together.parameters(), alone.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_what_is_solved_for_is_never_multiplied_in_tf32() -> None:
    torch.manual_seed(0)
    build, shape = NETWORKS["sum"]
    plain = images_of(*shape)
    dense = settled(build(), plain)
    found = cut_half(dense, plain)
    seen: set[tuple[bool, bool]] = set()

    def images() -> Iterator[Tensor]:
        for batch in plain():
            seen.add((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
            yield batch

    before = torch.backends.cudnn.allow_tf32
    refit(dense, found.model, found.kept, images, rounds=1)
    assert seen == {(False, False)}
    assert before == torch.backends.cudnn.allow_tf32


def half_zeroed(dense: nn.Module, seed: int = 0) -> tuple[nn.Module, Masks]:
    generator = torch.Generator().manual_seed(seed)
    masks = {
        f"{path}.weight": torch.rand(module.weight.shape, generator=generator) < 0.5
        for path, module in dense.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    pruned = copy.deepcopy(dense)
    apply_masks(pruned, masks)
    return pruned, masks


def problem(groups: int, *, columns: int = 7, outputs: int = 4) -> tuple[Tensor, Tensor, Moments, Tensor]:
    """Columns with one of ones, targets, their moments, and a mask of which one output has nothing."""
    generator = torch.Generator().manual_seed(groups)
    x = torch.randn(groups, 60, columns + 1, generator=generator).double()
    x[:, :, -1] = 1
    targets = torch.randn(groups, 60, outputs, generator=generator).double() + 3
    keep = torch.rand(groups, columns, outputs, generator=generator) < 0.5
    keep[0, :, 0] = False
    return x, targets, Moments(x.mT @ x, x.mT @ targets), keep


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("intercept", [True, False])
def test_each_row_is_the_least_squares_solution_on_what_it_keeps(groups: int, intercept: bool) -> None:
    x, targets, moments, keep = problem(groups)
    used = moments if intercept else without_intercept(moments)
    found = solve(used, torch.zeros_like(moments.cross), 1e-12, keep)
    for group in range(groups):
        for output in range(targets.shape[-1]):
            some = torch.cat([keep[group, :, output], torch.tensor([intercept])])
            expected = torch.zeros(len(some)).double()
            if some.any():
                given = torch.linalg.lstsq(x[group][:, some], targets[group][:, output : output + 1])
                expected[some] = given.solution[:, 0]
            torch.testing.assert_close(found[group, :, output], expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(found[:, :-1][~keep], torch.zeros(int((~keep).sum())).double())


@pytest.mark.parametrize("damping", [1e-6, 1e-3, 1.0, 100.0])
def test_least_squares_on_a_mask_is_never_raised(damping: float) -> None:
    _, _, moments, keep = problem(3)
    start = torch.randn(moments.cross.shape, generator=torch.Generator().manual_seed(0)).double()
    start[:, :-1] *= keep
    for used in (moments, without_intercept(moments)):
        before, after = error(used, start), error(used, solve(used, start, damping, keep))
        assert after <= before + 1e-9 * abs(before)
    assert choose_damping([moments, moments], start, keep) == 1e-5  # what is held out is the same


class Stream(nn.Module):
    """Two blocks that add to what they read."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.one(x)
        return x + self.two(x)


@torch.no_grad()
def test_a_block_is_fitted_to_the_dense_sum_less_what_the_pruned_network_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(engine, "choose_damping", lambda *given: 1e-9)  # rows are not held back
    dense, images = Stream(), images_of(6)
    pruned, masks = half_zeroed(dense)
    refit(dense, pruned, {}, images, masks=masks, rounds=0)
    x = torch.cat(list(images()))
    first = x + dense.one(x)
    _check_rows(pruned.one, x, first - x, masks["one.weight"])
    ours = x + pruned.one(x)
    _check_rows(pruned.two, ours, dense(x) - ours, masks["two.weight"])


def _check_rows(layer: Any, inputs: Tensor, wanted: Tensor, keep: Tensor) -> None:
    ones = torch.ones(len(inputs), 1)
    for row, kept in enumerate(keep):
        expected = torch.linalg.lstsq(torch.cat([inputs[:, kept], ones], 1), wanted[:, row : row + 1]).solution[:, 0]
        torch.testing.assert_close(layer.weight[row, kept], expected[:-1], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(layer.bias[row], expected[-1], rtol=1e-4, atol=1e-4)
        assert torch.equal(layer.weight[row, ~kept], torch.zeros(int((~kept).sum())))


@pytest.mark.parametrize("rounds", [0, 3])
def test_what_is_zero_stays_zero_and_the_network_comes_nearer(
    dense_and_images: tuple[nn.Module, Images], rounds: int
) -> None:
    dense, images = dense_and_images
    pruned, masks = half_zeroed(dense)
    start = distance(pruned, dense, images)
    result = refit(dense, pruned, {}, images, masks=masks, rounds=rounds)
    assert {f"{path}.weight" for path in result.layers} == masks.keys()
    assert result.left == {}
    assert distance(pruned, dense, images) < 0.5 * start
    for name, keep in masks.items():
        weight = pruned.get_parameter(name)
        assert int(torch.count_nonzero(weight[~keep])) == 0
        assert int(torch.count_nonzero(weight[keep])) > 0


def test_only_what_the_zeros_reach_is_fitted() -> None:
    torch.manual_seed(0)
    images = images_of(3, 8, 8)
    dense = settled(Sum(), images)
    pruned, masks = half_zeroed(dense)
    for name in masks:
        if name != "conv2.weight":
            masks[name][:] = True
    pruned = copy.deepcopy(dense)
    apply_masks(pruned, masks)
    assert list(refit(dense, pruned, {}, images, masks=masks).layers) == ["conv2", "head"]
    apply_masks(dense, masks)  # zeros that the dense network has too are none that were lost
    assert refit(dense, copy.deepcopy(dense), {}, images, masks=masks).layers == {}


def test_zeros_of_a_network_whose_channels_are_cut_stay() -> None:
    torch.manual_seed(0)
    images = images_of(3, 8, 8)
    dense = settled(Sum(), images)
    _, masks = half_zeroed(dense)
    apply_masks(dense, masks)
    found = cut_half(dense, images)
    ours = {name: found.model.get_parameter(name) != 0 for name in masks}
    start = distance(found.model, dense, images)
    refit(dense, found.model, found.kept, images, masks=ours)
    assert distance(found.model, dense, images) < 0.5 * start
    assert all(not found.model.get_parameter(name)[~keep].any() for name, keep in ours.items())


def test_a_layer_with_zeros_that_cant_be_fitted_is_named() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.ReLU(), nn.Conv2d(4, 2, 1))
    pruned = copy.deepcopy(dense)
    masks = {name: torch.rand(dense.get_parameter(name).shape) < 0.5 for name in ("0.weight", "2.weight")}
    apply_masks(pruned, masks)
    result = refit(dense, pruned, {}, images_of(3, 6, 6), masks=masks)
    assert result.left == {"0": "a transposed convolution"}
    assert list(result.layers) == ["2"]


def test_with_masks_a_process_that_was_stopped_goes_on_with_the_same_bits(
    dense_and_images: tuple[nn.Module, Images],
) -> None:
    dense, images = dense_and_images
    pruned, masks = half_zeroed(dense)
    whole, stopped = (copy.deepcopy(pruned) for _ in range(2))
    refit(dense, whole, {}, images, masks=masks)
    fitted = stopped_after_two(dense, stopped, {}, images, masks=masks)
    refit(dense, stopped, {}, images, masks=masks, fitted=fitted)
    both = zip(whole.state_dict().values(), stopped.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in both)
