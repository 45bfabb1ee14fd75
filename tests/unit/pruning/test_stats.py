"""Statistics measured on batches: right by another way of computing them, and nothing of the model disturbed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.stats import STATISTICS, gather, wants_labels
from pruning_bootcamp.pruning.targets import find_targets


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(12, 4)
    )


def batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(size, 1, 4, 4), torch.randint(0, 4, (size,))) for size in sizes]


# --- every statistic


@pytest.mark.parametrize("need", STATISTICS)
def test_a_statistic_is_finite_has_the_weights_shape_and_is_the_same_twice(need: str) -> None:
    net, data = network(), batches(5, 3)
    targets = find_targets(net)
    found = gather(net, targets, (need,), data, seed=3)[need]
    again = gather(net, targets, (need,), data, seed=3)[need]
    assert list(found) == list(targets)
    for name, weight in targets.items():
        assert found[name].shape == weight.shape
        assert torch.isfinite(found[name]).all()
        assert found[name].abs().sum() > 0
        assert torch.equal(found[name], again[name])


@pytest.mark.parametrize("need", STATISTICS)
def test_labels_are_needed_exactly_where_it_is_said(need: str) -> None:
    net, data = network(), batches(5, 3)
    targets = find_targets(net)
    images_alone = [images for images, _ in data]
    if STATISTICS[need].facts["labels"]:
        with pytest.raises(BootcampError, match=r"batches must be \(images, labels\)"):
            gather(net, targets, (need,), images_alone)
    else:
        with_labels, without = (gather(net, targets, (need,), given)[need] for given in (data, images_alone))
        assert all(torch.equal(with_labels[name], without[name]) for name in targets)


def test_a_union_of_needs_reads_a_generator_once_and_measures_each_need_once() -> None:
    net, data = network(), batches(4, 2)
    targets, needs = find_targets(net), list(STATISTICS)
    found = gather(net, targets, [*needs, *needs], iter(data))
    assert list(found) == needs
    for need in needs:
        alone = gather(net, targets, (need,), iter(data))[need]
        assert all(torch.equal(found[need][name], alone[name]) for name in targets)
    assert wants_labels(needs)
    assert not wants_labels(("input_norm", "fisher"))
    assert not wants_labels(())


@pytest.mark.parametrize("need", STATISTICS)
def test_the_model_is_left_as_found(need: str) -> None:
    net, data = network().train(), batches(3)
    net[1].eval()  # a frozen batch norm inside a training network
    net[0].weight.requires_grad_(False)
    net[5].weight.grad = torch.ones_like(net[5].weight)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random_state = torch.get_rng_state()
    with torch.no_grad():
        gather(net, find_targets(net, include=["0", "5"]), (need,), data)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in (net, net[0], net[1], net[3])] == [True, True, False, True]
    assert not any(module._forward_hooks for module in net.modules())
    assert not net[0].weight.requires_grad
    assert net[0].weight.grad is None
    assert torch.equal(net[5].weight.grad, torch.ones_like(net[5].weight))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("need", STATISTICS)
def test_data_that_tells_nothing_is_refused(need: str) -> None:
    net = network()
    kind = r"labelled batches \(images, labels\)" if STATISTICS[need].facts["labels"] else "batches of images"
    with pytest.raises(BootcampError, match=f"{need} can't be measured without {kind}"):
        gather(net, find_targets(net), (need,), None)
    with pytest.raises(BootcampError, match="holds no batch"):
        gather(net, find_targets(net), (need,), [])


@pytest.mark.parametrize("need", STATISTICS)
def test_nan_is_traced_to_the_layer_that_makes_it(need: str) -> None:
    net = network()
    net[1].running_var[1] = float("nan")  # the weights themselves are fine
    with pytest.raises(BootcampError, match=r"^1: its output holds NaN or Inf on the calibration images"):
        gather(net, find_targets(net), (need,), batches(3))
    net, infinite = network(), torch.full((2, 1, 4, 4), torch.inf)
    with pytest.raises(BootcampError, match="images themselves hold NaN or Inf"):
        gather(net, find_targets(net), (need,), [(infinite, torch.zeros(2).long())])


class HidesInfinity(nn.Module):
    """Its output is finite and its gradient is not: the square root at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 3, bias=False), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last((self.first(x) * 0).abs().sqrt())


@pytest.mark.parametrize("need", ["grad", "abs_grad", "fisher"])
def test_a_gradient_that_is_not_finite_names_the_weights_that_it_reached(need: str) -> None:
    net = HidesInfinity()
    with pytest.raises(BootcampError) as caught:
        gather(net, find_targets(net), (need,), [(torch.randn(2, 3), torch.tensor([0, 1]))])
    assert len(caught.value.problems) == 1
    assert str(caught.value.problems[0]).startswith("first.weight: ")


@pytest.mark.parametrize("need", ["grad", "abs_grad", "fisher"])
def test_outputs_that_are_no_class_scores_are_refused(need: str) -> None:
    net = nn.Conv2d(1, 2, 3)
    with pytest.raises(BootcampError, match=r"gives shape .*, not one row of class scores for each image"):
        gather(net, find_targets(net), (need,), batches(3))


# --- gradients


def test_the_mean_gradient_is_that_of_one_big_batch() -> None:
    net, data = network(), batches(5, 3)
    targets = find_targets(net)
    found = gather(net, targets, ("grad",), data)["grad"]
    net.eval()
    images, labels = torch.cat([data[0][0], data[1][0]]), torch.cat([data[0][1], data[1][1]])
    expected = torch.autograd.grad(F.cross_entropy(net(images), labels), list(targets.values()))
    assert list(found) == ["0.weight", "5.weight"]
    for grad, other in zip(found.values(), expected, strict=True):
        assert torch.allclose(grad, other, atol=1e-6)


def test_absolute_gradients_are_taken_batch_by_batch() -> None:
    net, data = network(), batches(4, 2)
    targets = find_targets(net)
    found = gather(net, targets, ("grad", "abs_grad"), data)
    singles = [gather(net, targets, ("grad",), [batch])["grad"] for batch in data]
    for name in targets:
        expected = (4 * singles[0][name].abs() + 2 * singles[1][name].abs()) / 6
        assert torch.allclose(found["abs_grad"][name], expected, atol=1e-6)
        assert (found["abs_grad"][name] >= found["grad"][name].abs() - 1e-6).all()


def test_labels_outside_the_classes_are_refused() -> None:
    net = network()
    with pytest.raises(BootcampError, match="labels 0 to 9 don't fit outputs"):
        gather(net, find_targets(net), ("grad",), [(torch.randn(2, 1, 4, 4), torch.tensor([0, 9]))])


# --- Fisher information


def looped_fisher(net: nn.Module, targets: dict[str, nn.Parameter], images: Tensor, labels: Tensor) -> list[Tensor]:
    """By the definition: one image, one backward pass."""
    sums = [torch.zeros_like(weight) for weight in targets.values()]
    for image, label in zip(images, labels, strict=True):
        grads = torch.autograd.grad(F.cross_entropy(net(image[None]), label[None]), list(targets.values()))
        for total, grad in zip(sums, grads, strict=True):
            total += grad**2
    return [total / len(images) for total in sums]


class Sure(nn.Module):
    """Says class 1, 2 or 3 by the mean of the image, with almost no doubt, so that the drawn label is known."""

    def __init__(self, branch: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 4)
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(self.relu(self.conv(x)).mean((2, 3))).double()
        if self.branch and float(x.mean()) > 1e9:  # what vmap can't take apart
            y = -y
        index = x.mean((1, 2, 3)).round().long().clamp(0, 3)
        return y + 15.0 * F.one_hot(index, 4)


@pytest.mark.parametrize("branch", [False, True], ids=["together", "one by one"])
def test_fisher_is_the_mean_over_all_images_of_squared_gradients(branch: bool) -> None:
    net = Sure(branch).eval()
    targets = find_targets(net)
    means = torch.arange(40) % 4
    images = torch.randn(40, 1, 6, 6) * 0.1 + means.reshape(-1, 1, 1, 1)
    expected = looped_fisher(net, targets, images, means)
    found = gather(net, targets, ("fisher",), [images[:35], images[35:]])["fisher"]
    for fisher, other in zip(found.values(), expected, strict=True):
        assert torch.allclose(fisher, other, rtol=1e-3, atol=0)


def test_labels_are_drawn_from_the_models_own_prediction() -> None:
    # one weight each for two classes: p = (0.9, 0.1), so the expected Fisher information is p (1 - p) x^2 of both
    net = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[9.0], [1.0]]).log())
    images = torch.ones(2048, 1)
    found = gather(net, find_targets(net), ("fisher",), [images])["fisher"]["weight"]
    assert found.flatten().tolist() == pytest.approx([0.09, 0.09], rel=0.2)  # 0.0053 is one standard deviation
    other = gather(net, find_targets(net), ("fisher",), [images], seed=1)["fisher"]["weight"]
    assert not torch.equal(found, other)
    # another cut into batches draws the same labels
    cut = gather(net, find_targets(net), ("fisher",), images.split(999))["fisher"]["weight"]
    assert torch.allclose(cut, found)


def test_fisher_goes_through_attention_and_shared_weights() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.fc = nn.Linear(4, 4)
            self.same = self.fc

        def forward(self, x: Tensor) -> Tensor:
            x = self.attention(x, x, x, need_weights=False)[0].mean(1)
            return self.same(self.fc(x).relu()) + torch.tensor([0.0, 0.0, 30.0, 0.0])  # class 2, for certain

    net = Attends().eval()
    targets, images = find_targets(net), torch.randn(7, 5, 4)
    expected = looped_fisher(net, targets, images, torch.full((7,), 2))
    found = gather(net, targets, ("fisher",), [images])["fisher"]
    assert list(found) == ["attention.in_proj_weight", "attention.out_proj.weight", "fc.weight"]
    for fisher, other in zip(found.values(), expected, strict=True):
        assert torch.allclose(fisher, other, rtol=1e-3, atol=0)


# --- input norms

CONVOLUTIONS: list[tuple[type[nn.Module], dict[str, Any], tuple[int, ...]]] = [
    (nn.Conv2d, {"kernel_size": 3}, (7, 6)),
    (nn.Conv2d, {"kernel_size": (3, 2), "stride": (2, 3), "padding": (1, 2)}, (8, 9)),
    (nn.Conv2d, {"kernel_size": 3, "dilation": 2, "padding": "same"}, (7, 7)),
    (nn.Conv2d, {"kernel_size": (4, 2), "padding": "same"}, (7, 7)),
    (nn.Conv2d, {"kernel_size": 3, "padding": 2, "padding_mode": "circular"}, (6, 5)),
    (nn.Conv2d, {"kernel_size": 3, "padding": 1, "padding_mode": "reflect", "stride": 2}, (6, 5)),
    (nn.Conv2d, {"kernel_size": 3, "padding": 1, "groups": 2}, (5, 5)),
    (nn.Conv2d, {"kernel_size": 3, "padding": 1, "groups": 4}, (5, 5)),  # depthwise, two outputs a channel
    (nn.Conv1d, {"kernel_size": 5, "stride": 2, "padding": 3, "dilation": 2}, (16,)),
    (nn.Conv3d, {"kernel_size": 2, "stride": (1, 2, 1), "padding": 1}, (4, 5, 3)),
    (nn.ConvTranspose2d, {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}, (4, 5)),
    (nn.ConvTranspose2d, {"kernel_size": 3, "stride": 2, "padding": 2, "dilation": 2, "groups": 2}, (4, 5)),
    (nn.ConvTranspose1d, {"kernel_size": 4, "padding": 3}, (6,)),
]


@pytest.mark.parametrize(("kind", "args", "size"), CONVOLUTIONS)
def test_a_convolutions_input_norms_say_what_each_weight_multiplies(
    kind: Callable[..., nn.Module], args: dict[str, Any], size: tuple[int, ...]
) -> None:
    """The derivative of the summed output to a weight is the sum of the inputs it multiplies: here, of squares."""
    layer = kind(4, 8, **args)
    images = torch.randn(5, 4, *size)
    found = gather(layer, find_targets(layer), ("input_norm",), [images[:3], images[3:]])["input_norm"]["weight"]
    squared = layer(images.square()).sum()
    expected = torch.autograd.grad(squared, layer.weight)[0].sqrt()
    assert torch.allclose(found, expected, rtol=1e-4)


def test_input_norms_of_a_convolution_equal_an_explicit_unfold() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(3, 5, 2))
    images = torch.randn(6, 2, 9, 7)
    found = gather(net, find_targets(net), ("input_norm",), images.split(4))["input_norm"]
    unfolded = F.unfold(images, 3, padding=1, stride=2)  # [image, in * kernel, position]
    expected = unfolded.transpose(0, 1).reshape(18, -1).norm(dim=1).reshape(1, 2, 3, 3).expand(3, 2, 3, 3)
    assert torch.allclose(found["0.weight"], expected, rtol=1e-5)
    unfolded = F.unfold(net[1](net[0](images)), 2)
    expected = unfolded.transpose(0, 1).reshape(12, -1).norm(dim=1).reshape(1, 3, 2, 2).expand(5, 3, 2, 2)
    assert torch.allclose(found["2.weight"], expected, rtol=1e-5)


def test_input_norms_of_a_linear_layer_by_hand() -> None:
    layer = nn.Linear(2, 2)
    found = gather(
        layer, find_targets(layer), ("input_norm",), [torch.tensor([[3.0, 0.0]]), torch.tensor([[4.0, 2.0]])]
    )
    assert found["input_norm"]["weight"].tolist() == [[5.0, 2.0], [5.0, 2.0]]


def test_a_layer_that_runs_twice_counts_both_runs() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
            self.other.weight = self.one.weight  # shared: listed under its first name

        def forward(self, x: Tensor) -> Tensor:
            return self.other(self.one(x))

    net = Twice()
    with torch.no_grad():
        net.one.weight.copy_(2 * torch.eye(2))
    found = gather(net, find_targets(net), ("input_norm",), [torch.tensor([[1.0, 2.0]])])["input_norm"]["one.weight"]
    assert torch.allclose(found, torch.tensor([[5.0, 20.0]]).sqrt().expand(2, 2))  # 1 + 4 and 4 + 16


@pytest.mark.parametrize("args", [{}, {"batch_first": True}, {"kdim": 3, "vdim": 5}, {"bias": False}])
def test_input_norms_of_attention(args: dict[str, Any]) -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, **args)
            self.kdim, self.vdim = args.get("kdim", 4), args.get("vdim", 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x[..., : self.kdim] * 2, value=x.repeat(1, 1, 2)[..., : self.vdim] * 3)[0]

    net = Attends()
    x = torch.randn(6, 5, 4)
    found = gather(net, find_targets(net), ("input_norm",), [x])["input_norm"]
    inputs = (x, x[..., : net.kdim] * 2, x.repeat(1, 1, 2)[..., : net.vdim] * 3)
    norms = [given.flatten(0, 1).norm(dim=0).expand(4, -1) for given in inputs]
    if "kdim" in args:
        for name, norm in zip(("q_proj_weight", "k_proj_weight", "v_proj_weight"), norms, strict=True):
            assert torch.allclose(found[f"attention.{name}"], norm, rtol=1e-5)
    else:
        assert torch.allclose(found["attention.in_proj_weight"], torch.cat(norms), rtol=1e-5)
    # what the output projection sees, by undoing it
    bias = 0 if net.attention.out_proj.bias is None else net.attention.out_proj.bias
    seen = (net(x) - bias) @ torch.linalg.inv(net.attention.out_proj.weight).T
    assert torch.allclose(found["attention.out_proj.weight"], seen.flatten(0, 1).norm(dim=0).expand(4, -1), rtol=1e-3)


def test_a_transformer_layer_runs_its_parts_and_not_the_fast_path() -> None:
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).requires_grad_(False)
    found = gather(net, find_targets(net), ("input_norm",), [torch.randn(3, 5, 8)])["input_norm"]
    assert len(found) == 8
    assert torch.backends.mha.get_fastpath_enabled()


def test_layers_that_never_run_are_all_named() -> None:
    net = network()
    net.unused = nn.Linear(2, 2)
    net.forward = lambda x: net[:6](x)
    net.also = nn.Conv2d(1, 1, 1)
    with pytest.raises(BootcampError) as caught:
        gather(net, find_targets(net), ("input_norm",), batches(2))
    assert [str(problem).partition(":")[0] for problem in caught.value.problems] == ["unused.weight", "also.weight"]
    assert (
        len(gather(net, find_targets(net, exclude=["unused", "also"]), ("input_norm",), batches(2))["input_norm"]) == 2
    )


def test_a_convolution_that_pads_by_itself_is_refused_by_name() -> None:
    class Same(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(F.pad(x, [1, 1, 1, 1]))

    net = nn.Sequential(Same(1, 2, 3))
    with pytest.raises(BootcampError, match=r"^0: its output has \(4, 4\) positions"):
        gather(net, find_targets(net), ("input_norm",), batches(2))
