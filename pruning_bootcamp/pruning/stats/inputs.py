"""How large the inputs are that each weight multiplies: exact for every kind of layer, one batch in memory."""

import contextlib
import copy
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.stats.base import STATISTICS, Batches, check_totals, device_of, images_in

Keywords = dict[str, Tensor | bool | None]
"""what a layer of these kinds is called with by name: attention takes masks and flags so"""


def _unknown(layer: nn.Module, attribute: str) -> str | None:
    if isinstance(layer, _KINDS):
        return None
    return f"it knows linear layers, convolutions and attention, not the {attribute} of {type(layer).__name__}"


_KINDS = (nn.Linear, _ConvNd, nn.MultiheadAttention)


@STATISTICS.register("input_norm", labels=False, unknown=_unknown)
def input_norm(model: nn.Module, targets: Mapping[str, nn.Parameter], batches: Batches) -> dict[str, Tensor]:
    """||x||_2 of the input elements that each weight multiplies, over all images and positions (Sun et al., 2024).

    A layer that runs several times counts all of them. One that never runs as a layer is an error.
    """
    sums: dict[str, Tensor] = {}
    with torch.no_grad(), _summing_squares(model, targets, sums):
        for images in images_in(batches, device_of(targets)):
            model(images)
            check_totals(model, images, dict(sums), "input norms")
    if missing := [name for name in targets if name not in sums]:
        raise BootcampError(
            *(
                f"{name}: the layer never ran on the calibration images, so it has no input norm. Exclude it."
                for name in missing
            )
        )
    return {
        name: sums[name].sqrt().to(weight.device, torch.float32).expand(weight.shape)
        for name, weight in targets.items()
    }


@contextlib.contextmanager
def _summing_squares(model: nn.Module, targets: Mapping[str, nn.Parameter], sums: dict[str, Tensor]) -> Iterator[None]:
    """Inside, each forward pass adds the sums of its squared inputs, in a shape that spreads to the weight's."""
    names = {id(weight): name for name, weight in targets.items()}

    def hook(path: str, module: nn.Module, args: tuple[Any, ...], kwargs: Keywords, output: Any) -> None:
        for weight, squares in _squares(path, module, args, kwargs, output):
            if name := names.get(id(weight)):
                sums[name] = sums[name] + squares if name in sums else squares

    handles = [
        module.register_forward_hook(functools.partial(hook, path), with_kwargs=True)
        for path, module in model.named_modules()
        if isinstance(module, _KINDS) and any(id(weight) in names for weight in module.parameters())
    ]
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it runs a whole encoder layer without running its parts
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)
        for handle in handles:
            handle.remove()


def _squares(
    path: str, module: nn.Module, args: tuple[Any, ...], kwargs: Keywords, output: Any
) -> Iterator[tuple[Tensor | None, Tensor]]:
    """Each weight of a layer that has just run, with the sums of its squared inputs."""
    if isinstance(module, nn.MultiheadAttention):
        yield from _attention(module, args, kwargs)
        return
    x = args[0] if args else kwargs["input"]
    assert isinstance(x, Tensor)
    if isinstance(module, nn.Linear):
        yield module.weight, _columns(x)
    elif isinstance(module, _ConvTransposeNd):
        yield module.weight, _transposed(module, x, output)
    elif isinstance(module, _ConvNd):
        yield module.weight, _convolution(path, module, x, output)


def _columns(x: Tensor) -> Tensor:
    """[1, in]: the squares of each input of a linear layer."""
    return x.detach().reshape(-1, x.shape[-1]).float().square().sum(0, keepdim=True).cpu().double()


def _over_images(layer: _ConvNd, x: Tensor) -> Tensor:
    """[in, *space]: squares summed over the images, which is all that tells one image from another here."""
    images = x.detach() if x.ndim == len(layer.kernel_size) + 2 else x.detach()[None]
    return images.float().square().sum(0).cpu().double()


def _convolution(path: str, layer: _ConvNd, x: Tensor, output: Tensor) -> Tensor:
    """[out or 1, in / groups, *kernel]: an unfolded input's squares, one dimension after the other."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    sums = F.pad(_over_images(layer, x)[None], layer._reversed_padding_repeated_twice, mode=mode)[0]
    positions = output.shape[-len(layer.kernel_size) :]
    for kernel, stride, dilation, length in zip(
        layer.kernel_size, layer.stride, layer.dilation, positions, strict=True
    ):
        windows = sums.unfold(1, (kernel - 1) * dilation + 1, stride)[..., ::dilation]  # a view: nothing is copied
        if windows.shape[1] != length:
            raise BootcampError(
                f"{path}: its output has {tuple(positions)} positions, unlike its padding and stride (does this "
                f"{type(layer).__name__} pad by itself?): no input norms. Exclude it, or choose another score."
            )
        sums = windows.sum(1)  # [in, the dimensions still to come, the kernel's so far]
    if layer.groups == 1:
        return sums[None]
    blocks = sums.reshape(layer.groups, -1, *sums.shape[1:])
    return blocks.repeat_interleave(layer.out_channels // layer.groups, dim=0)


def _transposed(layer: _ConvTransposeNd, x: Tensor, output: Tensor) -> Tensor:
    """[in, 1, *kernel]: at each kernel position those inputs whose product lands inside the output."""
    sums = _over_images(layer, x)
    for dim, kernel in enumerate(layer.kernel_size):
        starts = torch.arange(sums.shape[1]) * layer.stride[dim] - int(layer.padding[dim])
        lands = torch.arange(kernel)[:, None] * layer.dilation[dim] + starts
        inside = (lands >= 0) & (lands < output.shape[dim - len(layer.kernel_size)])
        sums = torch.tensordot(sums, inside.to(sums.dtype), dims=([1], [1]))
    return sums[:, None]


def _attention(
    module: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: Keywords
) -> Iterator[tuple[Tensor | None, Tensor]]:
    """Projections of query, key and value, and the output's, whose input only the attention itself ever sees."""
    given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
    inputs = [_columns(given[name]) for name in ("query", "key", "value")]
    if module.in_proj_weight is not None:
        yield module.in_proj_weight, torch.cat(inputs).repeat_interleave(module.embed_dim, dim=0)
    else:
        yield from zip((module.q_proj_weight, module.k_proj_weight, module.v_proj_weight), inputs, strict=True)
    probe = copy.copy(module)  # the same parameters; with an output projection that changes nothing, it shows its input
    unchanged = copy.copy(module.out_proj)
    unchanged._parameters = {
        "weight": nn.Parameter(torch.eye(module.embed_dim).to(module.out_proj.weight)),
        "bias": None,
    }
    probe._modules = {**module._modules, "out_proj": unchanged}
    yield module.out_proj.weight, _columns(probe.forward(*args, **kwargs)[0])  # type: ignore[arg-type]
