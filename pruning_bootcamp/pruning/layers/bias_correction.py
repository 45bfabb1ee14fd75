"""What takes up a shift of a layer's outputs: its own bias, or the running mean of the batch norm behind it."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from pruning_bootcamp.runtime import preserved_rng
from pruning_bootcamp.tools.modes import beside, evaluation_mode


@dataclass(frozen=True)
class BiasCorrection:
    """Where a constant of the layer's outputs goes. `start` is the bias or mean that was there when it was found."""

    module: nn.Module
    start: Tensor
    norm: bool

    @torch.no_grad()
    def set(self, constant: Tensor) -> None:
        """From here on the network behind sees W x + constant [out], where it saw W x + what the layer had before."""
        if self.norm:
            assert isinstance(self.module.running_mean, Tensor)
            self.module.running_mean.copy_(self.start - constant.to(self.start))
        else:
            assert isinstance(self.module.bias, Tensor)
            self.module.bias.copy_(constant)


@torch.no_grad()
def find_bias_corrections(
    model: nn.Module, layers: Mapping[str, nn.Module], images: Tensor
) -> dict[str, BiasCorrection]:
    """Layer name -> what takes up a shift; layers without any are left out. The model runs on these images.

    A batch norm counts where it is given what one layer gave out, and where a shift of both changes no output of the
    network: nothing else reads the layer's outputs, and nothing overwrites them before the norm.
    """
    found = {
        name: BiasCorrection(layer, layer.bias.detach().clone(), norm=False)
        for name, layer in layers.items()
        if isinstance(layer.bias, Tensor)
    }
    images = beside(model, images)
    with evaluation_mode(model):
        outputs, norms = _norms_behind(model, {n: layer for n, layer in layers.items() if n not in found}, images)
        if _take_up(model, layers, norms, images, outputs):
            return {**found, **norms}
        return found | {n: norm for n, norm in norms.items() if _take_up(model, layers, {n: norm}, images, outputs)}


def _norms_behind(
    model: nn.Module, layers: Mapping[str, nn.Module], images: Tensor
) -> tuple[list[Tensor], dict[str, BiasCorrection]]:
    """The model's outputs, and for each layer the batch norm that is handed its output, once and no other's."""
    outputs: dict[int, tuple[str, Tensor]] = {}  # the tensors are kept, so that no other gets the same id
    fed: dict[nn.Module, list[str | None]] = {}

    def after(name: str, output: Any) -> None:
        if isinstance(output, Tensor):
            outputs[id(output)] = (name, output)

    def before(norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Tensor]) -> None:
        given = args[0] if args else kwargs["input"]
        fed.setdefault(norm, []).append(outputs.get(id(given), (None, None))[0])

    with contextlib.ExitStack() as hooks:
        for name, layer in layers.items():
            handle = layer.register_forward_hook(lambda layer, args, output, name=name: after(name, output))
            hooks.callback(handle.remove)
        for norm in model.modules():
            if isinstance(norm, _BatchNorm) and norm.running_mean is not None:
                hooks.callback(norm.register_forward_pre_hook(before, with_kwargs=True).remove)
        made = _run(model, images)
    found: dict[str, BiasCorrection] = {}
    for norm, (source, *others) in fed.items():
        if source is not None and not others and len(_mean(norm)) == len(_weight(layers[source])):
            found.setdefault(source, BiasCorrection(norm, _mean(norm).clone(), norm=True))
    return made, found


def _take_up(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    norms: Mapping[str, BiasCorrection],
    images: Tensor,
    outputs: list[Tensor],
) -> bool:
    """Whether the model's outputs stay the same when each layer's outputs and the norm behind shift together."""
    generator = Generator().manual_seed(0)

    @contextlib.contextmanager
    def shifted(layer: nn.Module, correction: BiasCorrection) -> Iterator[None]:
        drawn = torch.randn(len(correction.start), generator=generator).to(correction.start)
        shift = drawn * correction.module.get_buffer("running_var").sqrt()
        shape = (-1,) if isinstance(layer, nn.Linear) else (-1, *[1] * (_weight(layer).ndim - 2))
        handle = layer.register_forward_hook(lambda layer, args, output: output + shift.reshape(shape).to(output))
        correction.set(-shift)
        try:
            yield
        finally:
            handle.remove()
            correction.set(torch.zeros_like(shift))

    with contextlib.ExitStack() as shifts:
        for name, correction in norms.items():
            shifts.enter_context(shifted(layers[name], correction))
        again = _run(model, images)
    return bool(outputs) and all(_same(a, b) for a, b in zip(outputs, again, strict=True))


def _same(a: Tensor, b: Tensor) -> bool:
    """But for rounding: a shift that reaches the outputs changes them by about as much as they are."""
    rounding = 8 * torch.finfo(a.dtype).eps if a.is_floating_point() else 0.0
    difference, size = (a.double() - b.double()).abs().sum(), a.double().abs().sum()
    return bool(difference <= max(1e-3, rounding) * size)


def _run(model: nn.Module, images: Tensor) -> list[Tensor]:
    with preserved_rng():
        torch.manual_seed(0)  # what is drawn in a forward pass is the same each time
        return [leaf.clone() for leaf in tree_leaves(model(images)) if isinstance(leaf, Tensor)]


def _mean(norm: nn.Module) -> Tensor:
    return norm.get_buffer("running_mean")


def _weight(layer: nn.Module) -> Tensor:
    return layer.get_parameter("weight")
