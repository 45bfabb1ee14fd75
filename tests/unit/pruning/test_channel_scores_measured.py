"""Channel scores to compare with: against values by hand, loops over single images, brute force, and other tools."""

import itertools
from collections.abc import Callable, Iterator

import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
import torch_pruning
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.channels.gradients import filter_gradients, gate_gradients
from pruning_bootcamp.pruning.channels.removal import Reader, removal_costs, removal_errors
from pruning_bootcamp.pruning.channels.scores import fpgm, score_groups
from pruning_bootcamp.pruning.channels.structured import plan_structured, score_channels
from pruning_bootcamp.pruning.graph import Group, find_groups
from pruning_bootcamp.tasks import IMAGE_CLASSIFICATION

Pair = tuple[Tensor, Tensor]


class Residual(nn.Module):
    """Two layers write the stream, three read it: a convolution, a depthwise way and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.inner, self.outer = nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.Conv2d(6, 4, 1)
        self.depthwise, self.point = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 3, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        x = x + self.outer(torch.relu(self.inner(x)))
        return self.head(x.mean((2, 3))) + self.point(self.depthwise(x)).mean((2, 3))


class Tokens(nn.Module):
    """Linear layers over rows of tokens; `folded`: one of them is given all tokens of all samples as one row each."""

    def __init__(self, *, folded: bool) -> None:
        super().__init__()
        self.first, self.mixed, self.head = nn.Linear(2, 4), nn.Linear(4, 8), nn.Linear(8, 3)
        self.folded = folded

    def forward(self, x: Tensor) -> Tensor:
        samples, x = len(x), torch.tanh(self.first(x))
        x = self.mixed(x.flatten(0, 1)).unflatten(0, (samples, -1)) if self.folded else self.mixed(x)
        return self.head(torch.relu(x).mean(1))


@pytest.fixture
def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 4, 3, padding=1), nn.Flatten(), nn.Linear(64, 3)
    ).eval()


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    model = Residual().eval()
    nn.init.uniform_(model.bn.running_mean, -0.3, 0.3)
    nn.init.uniform_(model.bn.weight, 0.5, 1.5)
    return model


@pytest.fixture
def pairs() -> list[Pair]:
    generator = torch.Generator().manual_seed(0)
    sizes = (5, 5, 3)
    return [(torch.randn(n, 2, 4, 4, generator=generator), torch.randint(3, (n,), generator=generator)) for n in sizes]


def groups_of(model: nn.Module, example: Tensor) -> dict[str, Group]:
    return {group.name: group for group in find_groups(model, example) if group.reason is None}


def torch_pruning_group(model: nn.Module, path: str, example: Tensor) -> list[object]:
    graph = torch_pruning.DependencyGraph().build_dependency(model, example)
    layer = model.get_submodule(path)
    return graph.get_pruning_group(layer, torch_pruning.prune_conv_out_channels, list(range(layer.out_channels)))


# fpgm


def test_four_filters_by_hand() -> None:
    """At 0, 3, 4 and 8 on a line; (3, 4) is 5 from the origin: the one in the middle goes first."""
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 1, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([0.0, 3.0, 4.0, 8.0]).reshape(4, 1, 1, 1))
    (group,) = groups_of(model, torch.zeros(1, 1, 2, 2)).values()
    assert fpgm(group).tolist() == [15.0, 9.0, 9.0, 17.0]
    wider = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 1, 1))
    with torch.no_grad():
        wider[0].weight.copy_(torch.tensor([[3.0, 4.0], [0.0, 0.0]]).reshape(2, 2, 1, 1))
    (group,) = groups_of(wider, torch.zeros(1, 2, 2, 2)).values()
    assert fpgm(group).tolist() == [5.0, 5.0]


def test_fpgm_is_torch_prunings_where_weights_are_positive(model: nn.Module) -> None:
    """It takes distances between powers of the sizes of weights: with p=1 and no sign they are the weights."""
    with torch.no_grad():
        model.inner.weight.abs_()
    example = torch.zeros(1, 2, 4, 4)
    importance = torch_pruning.importance.FPGMImportance(p=1, group_reduction="first", normalizer=None)
    expected = importance(torch_pruning_group(model, "inner", example))
    torch.testing.assert_close(fpgm(groups_of(model, example)["inner"]).float(), expected)


def test_all_writers_of_a_channel_count(model: nn.Module) -> None:
    group = groups_of(model, torch.zeros(1, 2, 4, 4))["stem"]
    expected = torch.zeros(4)
    for path in ("stem", "outer", "depthwise"):
        filters = model.get_submodule(path).weight.detach().flatten(1)
        expected += torch.stack([sum((each - other).norm() for other in filters) for each in filters])
    torch.testing.assert_close(fpgm(group).float(), expected)


# taylor, fisher


def loop_over_filters(model: nn.Module, pairs: list[Pair], paths: list[str], units: int) -> Tensor:
    """Batch by batch: gradients of the mean loss, times the weights and biases of each filter."""
    total = torch.zeros(units)
    for images, labels in pairs:
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        moved = torch.zeros(units)
        for path in paths:
            for parameter in model.get_submodule(path).parameters():
                moved += (
                    (parameter * parameter.grad)
                    .detach()
                    .flatten(1 if parameter.ndim > 1 else 0)
                    .reshape(units, -1)
                    .sum(1)
                )
        total += len(images) * moved.square()
    model.zero_grad()
    return total / sum(len(images) for images, _ in pairs)


def test_taylor_is_the_loop_over_batches(model: nn.Module, pairs: list[Pair]) -> None:
    groups = groups_of(model, pairs[0][0])
    found = filter_gradients(model, list(groups.values()), pairs, IMAGE_CLASSIFICATION)
    assert found.keys() == {"stem", "inner"}
    expected = loop_over_filters(model, pairs, ["inner"], 6)
    torch.testing.assert_close(found["inner"].float(), expected, rtol=1e-4, atol=1e-9)
    expected = loop_over_filters(model, pairs, ["stem", "outer", "depthwise"], 4)
    torch.testing.assert_close(found["stem"].float(), expected, rtol=1e-4, atol=1e-9)


def test_taylor_is_torch_prunings_squared_for_one_batch_and_one_layer(model: nn.Module, pairs: list[Pair]) -> None:
    images, labels = pairs[0]
    group = torch_pruning_group(model, "inner", images)
    F.cross_entropy(model(images), labels).backward()
    choices = {"multivariable": True, "group_reduction": "first", "normalizer": None}
    expected = torch_pruning.importance.GroupTaylorImportance(**choices)(group).square()
    model.zero_grad()
    groups = list(groups_of(model, images).values())
    found = filter_gradients(model, groups, pairs[:1], IMAGE_CLASSIFICATION)["inner"]
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-9)


def loop_over_gates(model: nn.Module, pairs: list[Pair], readers: list[str], units: int) -> Tensor:
    """Image by image: the readers' columns of a channel times their gradients, which is what a gate's gradient is."""
    total, count = torch.zeros(units), 0
    for images, labels in pairs:
        for image, label in zip(images, labels, strict=True):
            model.zero_grad()
            F.cross_entropy(model(image[None]), label[None]).backward()
            moved = torch.zeros(units)
            for path in readers:
                weight = model.get_submodule(path).weight
                moved += (weight * weight.grad).detach().transpose(0, 1).flatten(1).sum(1)
            total += moved.square()
            count += 1
    model.zero_grad()
    return total / count


def test_fisher_is_the_loop_over_images(model: nn.Module, pairs: list[Pair]) -> None:
    """The depthwise layer on the way to `point` is no reader: what goes is gone where `point` reads it."""
    groups = groups_of(model, pairs[0][0])
    found = gate_gradients(model, list(groups.values()), pairs, IMAGE_CLASSIFICATION)
    expected = loop_over_gates(model, pairs, ["outer"], 6)
    torch.testing.assert_close(found["inner"].float(), expected, rtol=1e-4, atol=1e-9)
    expected = loop_over_gates(model, pairs, ["inner", "point", "head"], 4)
    torch.testing.assert_close(found["stem"].float(), expected, rtol=1e-4, atol=1e-9)
    choices = {"score": "fisher", "allocation": "global"}
    scores = score_channels(model, pairs[0][0], images=lambda: pairs, **choices).scores
    torch.testing.assert_close(scores["stem"], found["stem"] / 2)


def test_fisher_does_not_depend_on_the_size_of_batches(model: nn.Module, pairs: list[Pair]) -> None:
    groups = list(groups_of(model, pairs[0][0]).values())
    whole = [(torch.cat([images for images, _ in pairs]), torch.cat([labels for _, labels in pairs]))]
    one, other = (gate_gradients(model, groups, batches, IMAGE_CLASSIFICATION) for batches in (pairs, whole))
    for name, values in one.items():
        torch.testing.assert_close(values, other[name], rtol=1e-4, atol=1e-12)


class Twice(nn.Module):
    """One layer that runs two times."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.head = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.head((self.again(x) + self.again(2 * x)).mean((2, 3)))


def test_a_gate_is_one_for_a_layer_that_runs_twice(pairs: list[Pair]) -> None:
    torch.manual_seed(0)
    model = Twice().eval()
    groups = groups_of(model, pairs[0][0])
    found = gate_gradients(model, [groups["first"]], pairs, IMAGE_CLASSIFICATION)["first"]
    torch.testing.assert_close(found.float(), loop_over_gates(model, pairs, ["again"], 4), rtol=1e-4, atol=1e-9)


def test_a_linear_reader_is_gated_over_tokens() -> None:
    torch.manual_seed(0)
    model = Tokens(folded=False).eval()
    pairs = [(torch.randn(4, 6, 2), torch.randint(3, (4,))) for _ in range(2)]
    found = gate_gradients(model, list(groups_of(model, pairs[0][0]).values()), pairs, IMAGE_CLASSIFICATION)
    for name, reader, units in (("first", "mixed", 4), ("mixed", "head", 8)):
        expected = loop_over_gates(model, pairs, [reader], units)
        torch.testing.assert_close(found[name].float(), expected, rtol=1e-4, atol=1e-9)


def test_a_channel_that_a_flatten_spreads_has_one_gate(plain: nn.Module, pairs: list[Pair]) -> None:
    found = gate_gradients(plain, list(groups_of(plain, pairs[0][0]).values()), pairs, IMAGE_CLASSIFICATION)["2"]
    total, count = torch.zeros(4), 0
    for images, labels in pairs:
        for image, label in zip(images, labels, strict=True):
            plain.zero_grad()
            F.cross_entropy(plain(image[None]), label[None]).backward()
            weight = plain[4].weight
            total += (weight * weight.grad).detach().sum(0).reshape(4, 16).sum(1).square()
            count += 1
    torch.testing.assert_close(found.float(), total / count, rtol=1e-4, atol=1e-9)


def test_a_reader_that_is_not_given_one_row_a_sample_is_refused_with_the_reason() -> None:
    model = Tokens(folded=True).eval()
    pairs = [(torch.randn(4, 6, 2), torch.randint(3, (4,)))]
    choices = {"score": "fisher", "allocation": "global", "sparsity": 0.5}
    plan = plan_structured(model, pairs[0][0], images=lambda: pairs, **choices)
    assert [group.name for group in plan.groups] == ["mixed"]
    assert "the score fisher, or what its readers lose, can't be measured" in plan.uncuttable["first"]


@pytest.mark.parametrize("name", ["taylor", "fisher"])
def test_frozen_weights_and_modes_stay(name: str, model: nn.Module, pairs: list[Pair]) -> None:
    model.train()
    model.bn.eval()
    for parameter in model.stem.parameters():
        parameter.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    thawed = score_channels(model, pairs[0][0], score=name, allocation="global", images=lambda: pairs).scores
    assert [module.training for module in model.modules()] == modes
    assert not any(parameter.requires_grad for parameter in model.stem.parameters())
    assert all(bool((score > 0).all()) for score in thawed.values())


@pytest.mark.parametrize("name", ["taylor", "fisher"])
def test_labels_that_do_not_fit_are_said(name: str, model: nn.Module, pairs: list[Pair]) -> None:
    wrong = [(images, 0 * labels + 3) for images, labels in pairs]
    with pytest.raises(BootcampError, match="labels 3 to 3 don't fit outputs"):
        score_channels(model, pairs[0][0], score=name, allocation="global", images=lambda: wrong)


# activation, thinet, lindeps, second_order


def reader(x: Tensor, weight: Tensor) -> Reader:
    """A linear layer [out, units] that reads these inputs [samples, units], and a bias."""
    columns = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    rows = torch.cat([weight.T, torch.full((1, len(weight)), 0.7)]).double()
    return Reader(columns.T @ columns, rows, torch.arange(x.shape[1])[:, None])


def scored(name: str, *readers: Reader) -> Tensor:
    group = Group("layer", len(readers[0].columns), ())
    return score_groups([group], name, {}, 0, {"moments": {"layer": readers}})["layer"]


# four channels, two images, one output 1*a + 2*b - 1*c + 1*d: they give it (2, 4), (2, -2), (-2, -3) and (9, 0)
HAND = reader(torch.tensor([[2.0, 1.0, 2.0, 9.0], [4.0, -1.0, 3.0, 0.0]]), torch.tensor([[1.0, 2.0, -1.0, 1.0]]))


def test_four_channels_by_hand_activation() -> None:
    assert scored("activation", HAND).tolist() == [10.0, 1.0, 6.5, 40.5]
    twice = reader(torch.tensor([[0.0, 1.0, 2.0, 3.0]]), torch.ones(1, 4))
    assert scored("activation", HAND, twice).tolist() == [5.0, 1.0, 5.25, 24.75]


def test_four_channels_by_hand_thinet() -> None:
    """Alone b loses 8, c 13, a 20, d 81. With b gone c makes it (0, -5), 25, and a (4, 2), 20: a goes, then c."""
    power = HAND.power
    found = scored("thinet", HAND) * power
    expected = [20.0, 8.0, 20.0, 122.0]  # of b, a and c together 5 are lost: no less than a cost; of all four (11, -1)
    assert found.tolist() == pytest.approx(expected)
    assert found.argsort().tolist() == [1, 0, 2, 3]
    outputs = torch.tensor([11.0, -1.0]) + 0.7
    assert power == pytest.approx(float((outputs - outputs.mean()).square().sum()))


@pytest.mark.parametrize("seed", range(4))
def test_thinet_adds_what_adds_least_by_brute_force(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(30, 6, generator=generator), torch.randn(3, 6, generator=generator)
    each = torch.einsum("nc,oc->cno", x, weight)  # what each channel gives to the outputs
    gone: list[int] = []
    while len(gone) < 6:
        left = [c for c in range(6) if c not in gone]
        gone.append(min(left, key=lambda c: float(each[[*gone, c]].sum(0).square().sum())))
    assert scored("thinet", reader(x, weight)).argsort().tolist() == gone
    # and the first two are near the best pair of all
    lost = {pair: float(each[list(pair)].sum(0).square().sum()) for pair in itertools.combinations(range(6), 2)}
    assert lost[tuple(sorted(gone[:2]))] <= 3 * min(lost.values())


@pytest.mark.parametrize("seed", range(4))
def test_lindeps_is_scipys_pivoted_qr(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(50, 7, generator=generator) @ torch.randn(7, 7, generator=generator)
    triangle, order = scipy.linalg.qr(x.numpy(), mode="r", pivoting=True)
    found = scored("lindeps", reader(x, torch.ones(1, 7)))
    assert found.argsort(descending=True).tolist() == order.tolist()
    pivots = abs(triangle.diagonal())
    assert found[order.tolist()].tolist() == pytest.approx((pivots / pivots[0]).tolist(), rel=1e-3)


def test_linear_combinations_of_others_go_first() -> None:
    """d = a - 2 b: three directions in four channels; and one that says nothing at all before it."""
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 3.0])
    x = torch.cat([x, x[:, :1] - 2 * x[:, 1:2], torch.zeros(40, 1)], 1)
    found = scored("lindeps", reader(x, torch.ones(1, 5)))
    assert found.argsort().tolist()[0] == 4
    assert found.sort().values[1] < 1e-3
    assert found.sort().values[2] > 0.1


def test_second_order_is_the_first_step_of_obs_for_each() -> None:
    generator = torch.Generator().manual_seed(0)
    readers = [
        reader(torch.randn(60, 5, generator=generator), torch.randn(3, 5, generator=generator)) for _ in range(2)
    ]
    found = scored("second_order", *readers)
    assert torch.equal(found, removal_costs(readers))
    for unit in range(5):
        first = [unit, *(other for other in range(5) if other != unit)]
        assert float(found[unit]) == pytest.approx(float(removal_errors(readers, first)[1][1]), rel=1e-9)
    assert removal_errors(readers)[0][0] == int(found.argmin())


def test_second_order_is_least_squares_without_the_channel() -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(200, 4, generator=generator).double(), torch.randn(2, 4, generator=generator).double()
    one = reader(x, weight)
    found, wanted = scored("second_order", one), x @ weight.T + 0.7
    for unit in range(4):
        rest = torch.cat([x[:, [c for c in range(4) if c != unit]], torch.ones(200, 1)], 1)
        left = (rest @ torch.linalg.lstsq(rest, wanted).solution - wanted).square().sum()
        assert float(found[unit]) == pytest.approx(float(left) / one.power, rel=1e-2)  # damped a little


# through the network: what the readers of a convolution are shown


def windows(model: nn.Module, images: Tensor, path: str) -> Tensor:
    """[samples and positions, channels, places of the kernel] that the layer multiplies."""
    seen: list[Tensor] = []
    layer = model.get_submodule(path)
    handle = layer.register_forward_pre_hook(lambda layer, args: seen.append(args[0].detach()))
    model(images)
    handle.remove()
    if isinstance(layer, nn.Linear):
        return seen[0][:, :, None]
    columns = F.unfold(seen[0], layer.kernel_size, padding=layer.padding)
    return columns.transpose(1, 2).reshape(-1, layer.in_channels, layer.kernel_size[0] ** 2)


def images_of(pairs: list[Pair]) -> Callable[[], Iterator[Tensor]]:
    return lambda: (images[:3] for images, _ in pairs)  # all of one size: others are not looked at


def test_what_a_convolution_is_shown(plain: nn.Module, pairs: list[Pair]) -> None:
    """Two batches are learnt from, the third is for probing."""
    shown = torch.cat([windows(plain, images[:3], "2") for images, _ in pairs[:2]])
    choices = {"allocation": "global", "images": images_of(pairs)}
    names = ("activation", "lindeps", "thinet", "second_order", "obs")
    found = {name: score_channels(plain, pairs[0][0], score=name, **choices).scores["0"] for name in names}
    torch.testing.assert_close(found["activation"].float(), shown.square().mean((0, 2)))
    flat = shown.transpose(1, 2).flatten(0, 1)
    _, order = scipy.linalg.qr(flat.numpy(), mode="r", pivoting=True)
    assert found["lindeps"].argsort(descending=True).tolist() == order.tolist()
    each = torch.einsum("nck,ock->cno", shown, plain[2].weight.detach().flatten(2))
    gone: list[int] = []
    while len(gone) < 5:
        left = [c for c in range(5) if c not in gone]
        gone.append(min(left, key=lambda c: float(each[[*gone, c]].sum(0).square().sum())))
    assert found["thinet"].argsort().tolist() == gone
    assert int(found["second_order"].argmin()) == int(found["obs"].argmin())


@pytest.mark.parametrize("name", ["activation", "lindeps", "second_order", "thinet"])
def test_inputs_that_cant_be_seen_as_columns_are_refused_with_the_reason(name: str, pairs: list[Pair]) -> None:
    model = Twice().eval()
    choices = {"score": name, "allocation": "global", "sparsity": 0.5, "images": images_of(pairs)}
    plan = plan_structured(model, pairs[0][0], **choices)
    assert f"the score {name}, or what its readers lose, can't be measured" in plan.uncuttable["first"]
    assert [group.name for group in plan.groups] == ["again"]


def test_scores_by_moments_are_the_same_whatever_follows(plain: nn.Module, pairs: list[Pair]) -> None:
    for name in ("thinet", "lindeps", "activation", "second_order"):
        choices = {"score": name, "images": images_of(pairs)}
        alone = score_channels(plain, pairs[0][0], allocation="global", **choices)
        widths = score_channels(plain, pairs[0][0], allocation="measured", **choices)
        assert alone.losses is None
        assert widths.losses is not None
        assert all(torch.equal(alone.scores[group], score) for group, score in widths.scores.items())
        for group, losses in widths.losses.items():
            assert losses.shape == (len(widths.scores[group]) + 1,)
            assert bool((losses.diff() >= 0).all())
