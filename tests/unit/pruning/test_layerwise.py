"""Two networks side by side: the right inputs at the right time, and nothing left behind, whatever goes wrong."""

import gc
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.layers import layerwise
from pruning_bootcamp.pruning.layers.layerwise import Visit, calibrate_layerwise
from pruning_bootcamp.tools.modes import detached_clone


def images(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2 + n, 4, generator=generator) for n in range(count)]


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 6), nn.Dropout(), nn.Linear(6, 3))


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.fixture(autouse=True)
def _only_what_the_test_makes() -> Iterator[None]:
    """Collecting and listing all objects of a long session takes seconds."""
    gc.freeze()
    yield
    gc.unfreeze()


def live_passes() -> int:
    gc.collect()
    return sum(isinstance(thing, layerwise._Pass) and bool(thing) for thing in gc.get_objects())


@torch.no_grad()
def halve(model: nn.Module, path: str) -> None:
    layer = model.get_submodule(path)
    assert isinstance(layer, nn.Linear)
    layer.weight.mul_(0.5)


def test_every_layer_gets_what_changed_layers_make_and_what_the_reference_makes_there() -> None:
    net = chain()
    reference = detached_clone(net)
    seen: list[str] = []

    def change(path: str, visits: list[Visit]) -> None:
        seen.append(path)
        at = int(path)
        assert len(visits) == 3
        for x, visit in zip(images(), visits, strict=True):
            with torch.no_grad():
                assert torch.equal(visit.inputs, net[:at](x))
                assert torch.equal(visit.wanted, reference[: at + 1](x))  # not what the ReLU made of it
        halve(net, path)

    assert calibrate_layerwise(net, reference, ["0", "4", "2"], images(), change) == []
    assert seen == ["0", "2", "4"]


def test_modes_hooks_random_state_and_gradients_are_left_as_found() -> None:
    net = chain()
    net[3].eval()
    reference = detached_clone(net).eval()
    modes, state = [module.training for module in net.modules()], torch.get_rng_state()
    calibrate_layerwise(net, reference, ["0", "2"], images(), lambda path, visits: halve(net, path))
    assert [module.training for module in net.modules()] == modes
    assert not any(module.training for module in reference.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert hooks(net) == hooks(reference) == live_passes() == 0
    assert torch.is_grad_enabled()
    assert all(weight.requires_grad and weight.grad is None for weight in net.parameters())


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_inside_change_leaves_nothing_behind(error: type[BaseException]) -> None:
    net = chain()
    reference = detached_clone(net)

    def change(path: str, visits: list[Visit]) -> None:
        assert live_passes() > 0
        if path == "2":
            raise error

    with pytest.raises(error):
        calibrate_layerwise(net, reference, ["0", "2", "4"], images(), change)
    assert hooks(net) == hooks(reference) == live_passes() == 0
    assert net.training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("which", ["model", "reference"])
def test_an_error_inside_a_network_comes_out_and_leaves_nothing_behind(which: str) -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ZeroDivisionError

    pair = {"model": chain(), "reference": chain()}
    pair[which][3] = Fails()
    with pytest.raises(ZeroDivisionError):
        calibrate_layerwise(*pair.values(), ["0", "4"], images(), lambda path, visits: None)
    assert sum(map(hooks, pair.values())) == live_passes() == 0


def test_a_layer_that_the_reference_lacks_leaves_no_hook() -> None:
    net, reference = chain(), chain()[:3]
    with pytest.raises(AttributeError):
        calibrate_layerwise(net, reference, ["0", "4"], images(), lambda path, visits: None)
    assert hooks(net) == hooks(reference) == live_passes() == 0


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.never = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.b(self.a(x).relu()).relu())


def test_a_layer_used_twice_is_changed_at_its_first_run_and_one_never_used_is_named() -> None:
    net = Twice()
    reference = detached_clone(net)
    seen: dict[str, list[Visit]] = {}

    def change(path: str, visits: list[Visit]) -> None:
        assert path not in seen
        seen[path] = visits
        halve(net, path)

    assert calibrate_layerwise(net, reference, ["never", "b", "a"], images(), change) == ["never"]
    with torch.no_grad():
        for x, a, b in zip(images(), seen["a"], seen["b"], strict=True):
            assert torch.equal(a.inputs, x)
            assert torch.equal(b.inputs, net.a(x).relu())
            assert torch.equal(b.wanted, reference.b(reference.a(x).relu()))


class Branches(nn.Module):
    """Which of two layers runs first, or at all, depends on the batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        first, second = (self.a, self.b) if len(x) % 2 == 0 else (self.b, self.a)
        x = first(x).relu()
        return self.last(input=x if len(x) == 2 else second(x))


def test_an_order_that_depends_on_the_batch_changes_each_layer_once_with_those_that_wait_there() -> None:
    net = Branches()
    reference = detached_clone(net)
    seen: dict[str, int] = {}

    def change(path: str, visits: list[Visit]) -> None:
        assert path not in seen
        seen[path] = sum(len(visit.inputs) for visit in visits)
        halve(net, path)

    assert calibrate_layerwise(net, reference, ["a", "b", "last"], images(4), change) == []
    assert list(seen) == ["a", "b", "last"]
    assert seen["last"] == 2 + 3 + 4 + 5
    assert live_passes() == 0


def test_a_layer_that_only_the_pruned_network_runs_is_an_error_that_names_it() -> None:
    class Depends(Twice):
        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.b(x) if float(x.detach().sum()) == 0 else x

    net = Depends()
    reference = detached_clone(net)

    @torch.no_grad()
    def change(path: str, visits: list[Visit]) -> None:
        for value in net.get_submodule(path).parameters():
            value.zero_()

    with pytest.raises(BootcampError, match="b: runs in the pruned network and not in the dense one"):
        calibrate_layerwise(net, reference, ["a", "b"], images(), change)
    assert hooks(net) == live_passes() == 0


class Modes(nn.Module):
    """Layers inside contexts that belong to the thread."""

    def __init__(self, context: Callable[[], torch.autocast | torch.no_grad | torch.enable_grad]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.context = context
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        with self.context():
            x = self.b(x)
            x = x @ x.mT @ x
        return self.c(x.float())


@pytest.mark.parametrize(
    "context",
    [torch.no_grad, torch.enable_grad, lambda: torch.autocast("cpu", torch.bfloat16)],
    ids=["no_grad", "enable_grad", "autocast"],
)
def test_contexts_of_a_forward_pass_stay_its_own(context: Callable[[], torch.no_grad]) -> None:
    net = Modes(context)
    reference = detached_clone(net)
    alone = [net.eval()(x).detach() for x in images()]
    net.train()

    def change(path: str, visits: list[Visit]) -> None:
        assert not torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")
        if path == "c":
            got = [net.c(visit.inputs) for visit in visits]
            assert all(torch.equal(a, b) for a, b in zip(got, alone, strict=True))

    calibrate_layerwise(net, reference, ["a", "b", "c"], images(), change)
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    with pytest.raises(IndexError):  # given up in the middle
        calibrate_layerwise(net, reference, ["b"], images(), lambda path, visits: [][0])
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    assert live_passes() == 0
