"""Two networks run side by side, layer by layer, so that each layer can be changed before the next one sees its output.

Every batch is a forward pass of its own that stops at each wanted layer (a greenlet), whatever the network's code looks
like. All stop at a layer, the layer is changed, all go on: each layer's inputs are computed once, by a network whose
earlier layers are changed already. What is alive meanwhile is what one forward pass over all images needs.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.runtime import full_precision
from pruning_bootcamp.tools.modes import beside, evaluation_mode


@dataclass(frozen=True)
class Visit:
    """One batch at one layer: what the changed network gives it, and what the reference makes there."""

    inputs: Tensor
    wanted: Tensor


class _Pass(greenlet):
    """A forward pass of one batch. `stop` is the layer where it waits and the tensor there; None at the end."""

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        super().__init__(model)
        self.images = beside(model, images)
        self.stop: tuple[str, Tensor] | None = None

    def go_on(self) -> None:
        with _own_modes():
            found = self.switch() if self else self.switch(self.images)
        self.stop = None if self.dead else found

    def give_up(self) -> None:
        if self:
            with _own_modes():
                self.throw()


def _wait(name: str, tensor: Tensor) -> None:
    current = getcurrent()
    if isinstance(current, _Pass):
        assert current.parent is not None
        with _own_modes():
            current.parent.switch((name, tensor))


@contextlib.contextmanager
def _own_modes() -> Iterator[None]:
    """Gradient and autocast modes belong to the thread: what another pass has entered meanwhile is not ours."""
    gradients = torch.is_grad_enabled()
    casts = [(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda")]
    try:
        yield
    finally:
        torch.set_grad_enabled(gradients)
        for kind, enabled, dtype in casts:
            torch.set_autocast_enabled(kind, enabled)
            torch.set_autocast_dtype(kind, dtype)


@torch.no_grad()
def calibrate_layerwise(
    model: nn.Module,
    reference: nn.Module,
    layers: Sequence[str],
    batches: Sequence[Tensor],
    change: Callable[[str, list[Visit]], None],
) -> list[str]:
    """Call `change(layer, visits)` for each of the layers (module paths) in the order in which they run.

    `change` alters the layer of `model`; what runs after it sees the altered layer. Both networks are in eval mode. A
    layer that runs several times is changed at its first; where the order depends on the batch, with those that wait
    there. Returns the layers that never ran.
    """
    waiting = set(layers)
    pairs = [(_Pass(model, images), _Pass(reference, images)) for images in batches]

    def before(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Tensor]) -> None:
            if name in waiting:
                _wait(name, args[0] if args else kwargs["input"])

        return hook

    def after(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            _wait(name, output.clone())  # an activation may overwrite it before it is compared with

        return hook

    with contextlib.ExitStack() as ends, full_precision(), evaluation_mode(model), evaluation_mode(reference):
        for one in (one for pair in pairs for one in pair):
            ends.callback(one.give_up)  # after the hooks are gone, so that none stops it on its way out
        for name in layers:
            first = model.get_submodule(name).register_forward_pre_hook(before(name), with_kwargs=True)
            ends.callback(first.remove)
            ends.callback(reference.get_submodule(name).register_forward_hook(after(name)).remove)
        for changed, _ in pairs:
            changed.go_on()
        while stopped := [changed.stop[0] for changed, _ in pairs if changed.stop]:
            name = max(stopped, key=stopped.count)  # others may still come to where few wait
            here = [pair for pair in pairs if pair[0].stop is not None and pair[0].stop[0] == name]
            change(name, list(_visits(name, here)))
            waiting.discard(name)
            for changed, _ in here:
                changed.go_on()
    return [name for name in layers if name in waiting]


def _visits(name: str, pairs: Sequence[tuple[_Pass, _Pass]]) -> Iterator[Visit]:
    for changed, unchanged in pairs:
        unchanged.go_on()
        while unchanged.stop is not None and unchanged.stop[0] != name:
            unchanged.go_on()
        if unchanged.stop is None:
            raise BootcampError(f"{name}: runs in the pruned network and not in the dense one on the same images.")
        assert changed.stop is not None
        inputs = changed.stop[1]
        yield Visit(inputs, unchanged.stop[1].to(inputs.device))  # the reference may have stayed on another device
