"""The slice proof: the cut network computes what the uncut one does with those channels held at zero.

Two rounds: the network as it is, and the same structure with random weights and randomised statistics, so
that a scale of zero or a branch of little weight can't hide a wrong cut.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import GoalNotMet
from pruning_bootcamp.pruning.channels.zeroed import KeptNorm, zeroed
from pruning_bootcamp.pruning.graph import Group, Keep, cut_members
from pruning_bootcamp.pruning.masks import detached_copy
from pruning_bootcamp.tools.inputs import inputs_like

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}
BATCHES, BATCH_SIZE = 2, 4
_BATCH_NORM = nn.modules.batchnorm._BatchNorm
_INSTANCE_NORM = nn.modules.instancenorm._InstanceNorm


@dataclass(frozen=True)
class SliceProof:
    """A proof that held: the largest difference between outputs, absolute and relative to the largest output."""

    max_difference: float
    relative: float
    tolerance: float
    batches: int
    batch_size: int
    dtype: str

    def __str__(self) -> str:
        return (
            f"cut and zeroed network agree within {self.relative:.1e} of the output's scale "
            f"(allowed {self.tolerance:.0e}; {self.batches} random batches of {self.batch_size}, {self.dtype})"
        )


def prove_slice(
    model: nn.Module, sliced: nn.Module, groups: Sequence[Group], keep: Keep, example: Tensor
) -> SliceProof:
    """The proof that `sliced` is `model` without the dropped units, or GoalNotMet that names the first wrong layer.

    In float64 on the CPU, where the network runs in it; else in float32. Eval mode. Both models are left as they are,
    and so are the random generators.
    """
    generator = torch.Generator().manual_seed(0)
    dtype = _widest(model, example)
    inputs = [inputs_like(example, BATCH_SIZE, generator, dtype) for _ in range(BATCHES)]
    dense = _plain(model, dtype)
    first = _agree(zeroed(dense, groups, keep), _plain(sliced, dtype), inputs, groups, keep, TOLERANCES[dtype])
    randomised = _randomised(dense, groups, inputs, generator)
    cut = detached_copy(randomised)
    cut_members(cut, groups, keep)
    second = _agree(zeroed(randomised, groups, keep), cut, inputs, groups, keep, TOLERANCES[dtype])
    difference, relative = max(first[0], second[0]), max(first[1], second[1])
    name = str(dtype).removeprefix("torch.")
    return SliceProof(difference, relative, TOLERANCES[dtype], 2 * BATCHES, BATCH_SIZE, name)


def prove_same(model: nn.Module, other: nn.Module, example: Tensor, tolerance: float | None = None) -> SliceProof:
    """The proof that both networks give the same outputs, or GoalNotMet; run as `prove_slice` runs them.

    `tolerance`: a share of the outputs' scale; left out, the slice proof's.
    """
    generator = torch.Generator().manual_seed(1)
    dtype = _widest(model, example)
    allowed = TOLERANCES[dtype] if tolerance is None else max(tolerance, TOLERANCES[dtype])
    inputs = [inputs_like(example, BATCH_SIZE, generator, dtype) for _ in range(BATCHES)]
    difference, relative = _agree(_plain(model, dtype), _plain(other, dtype), inputs, (), {}, allowed)
    return SliceProof(difference, relative, allowed, BATCHES, BATCH_SIZE, str(dtype).removeprefix("torch."))


def in_widest(model: nn.Module, example: Tensor) -> tuple[nn.Module, Tensor]:
    """A copy in eval mode on the CPU, in the type that proofs run in, and the example as it takes it."""
    dtype = _widest(model, example)
    example = example.cpu()
    return _plain(model, dtype), example.to(dtype) if example.is_floating_point() else example


def _plain(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    return detached_copy(model).cpu().to(dtype).eval()


def _widest(model: nn.Module, example: Tensor) -> torch.dtype:
    """float64, unless the network's own code insists on float32."""
    one = example[:1].cpu()
    try:
        with torch.no_grad():
            _plain(model, torch.float64)(one.double() if one.is_floating_point() else one)
    except RuntimeError:
        return torch.float32
    return torch.float64


def _randomised(
    model: nn.Module, groups: Sequence[Group], inputs: Sequence[Tensor], generator: torch.Generator
) -> nn.Module:
    """The same structure with random weights, and statistics near those of its random activations."""
    for _ in range(3):  # a small network may come out dead, and would prove nothing
        copied = detached_copy(model)
        with torch.no_grad():
            _randomise(copied, groups, generator)
            _calibrate(copied, inputs[0], generator)
            answer = torch.cat([output.flatten(1) for output in _tensors(copied(inputs[1])) if output.dim() > 1], 1)
        if float((answer - answer[:1]).abs().max()) > 1e-4 * float(answer.abs().max()):
            return copied
    raise GoalNotMet(
        "slice proof: with random weights the network's output does not depend on its input, so a cut can't be "
        "proven. Check that the network uses its input."
    )


def _randomise(model: nn.Module, groups: Sequence[Group], generator: torch.Generator) -> None:
    for module in model.modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear) and isinstance(weight, Tensor):
            weight.normal_(0, (2 / weight[0].numel()) ** 0.5, generator=generator)  # He et al., 2015, eq. 10
            spread = 0.1
        elif isinstance(module, _BATCH_NORM | _INSTANCE_NORM | nn.LayerNorm | nn.GroupNorm):
            if isinstance(weight, Tensor):
                weight.uniform_(0.5, 1.5, generator=generator)
            spread = 0.3
        else:
            continue
        if isinstance(bias, Tensor):
            bias.normal_(0, spread, generator=generator)
    for group in groups:
        for member in group.of_kind("parameter"):
            model.get_submodule(member.path).get_parameter(member.parameter).uniform_(0.5, 1.5, generator=generator)


def _calibrate(model: nn.Module, batch: Tensor, generator: torch.Generator) -> None:
    """Running statistics from one batch, so that no depth blows the activations up or dies; then randomised."""
    norms = [module for module in model.modules() if isinstance(module, _BATCH_NORM) and module.track_running_stats]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    model(batch)
    for norm in norms:
        norm.eval()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        shift = torch.randn(norm.running_mean.shape, generator=generator, dtype=norm.running_mean.dtype)
        norm.running_mean += 0.2 * shift * norm.running_var.sqrt()
        norm.running_var *= 1 + 0.5 * torch.rand(shift.shape, generator=generator, dtype=shift.dtype)


def _agree(
    masked: nn.Module,
    cut: nn.Module,
    inputs: Sequence[Tensor],
    groups: Sequence[Group],
    keep: Keep,
    tolerance: float,
) -> tuple[float, float]:
    """The largest difference of the outputs, absolute and relative. Raises GoalNotMet when it is too large."""
    difference, relative = 0.0, 0.0
    for batch in inputs:
        with torch.no_grad():
            wanted = _tensors(masked(batch))
            try:
                found = _tensors(cut(batch))
            except (RuntimeError, ValueError, IndexError) as error:
                raise _failure(masked, cut, batch, groups, keep, f"the cut network does not run: {error}") from error
        if [tensor.shape for tensor in wanted] != [tensor.shape for tensor in found]:
            raise _failure(masked, cut, batch, groups, keep, "the cut network's output has another shape")
        for one, other in zip(wanted, found, strict=True):
            off, scale = float((one - other).abs().max()), float(one.abs().max())
            share = off / scale if scale > 0 else off
            if not share <= tolerance:  # NaN is a failure
                text = f"its output is off by {share:.1e} of the output's scale (allowed {tolerance:.0e})"
                raise _failure(masked, cut, batch, groups, keep, text)
            difference, relative = max(difference, off), max(relative, share)
    return difference, relative


def _failure(
    masked: nn.Module, cut: nn.Module, batch: Tensor, groups: Sequence[Group], keep: Keep, what: str
) -> GoalNotMet:
    layer = _first_difference(masked, cut, batch, groups, keep)
    touched = [group.name for group in groups if any(member.path == layer for member in group.members)]
    where = f"The first layer that differs is {layer}" if layer else "No single layer differs"
    cause = f" (in the groups {', '.join(touched)})" if touched else ""
    return GoalNotMet(
        f"slice proof failed: {what}. {where}{cause}: something around it is not followed correctly when channels are "
        f"cut. Nothing was kept. Leave it out, for example by exclude={touched or [layer]}, or prune it unstructured."
    )


def _first_difference(
    masked: nn.Module, cut: nn.Module, batch: Tensor, groups: Sequence[Group], keep: Keep
) -> str | None:
    """The first layer, in the order they run, whose kept channels differ, or which does not run in the cut network."""
    stays = kept_outputs(groups, keep)
    wanted, found = _outputs_by_layer(masked, batch), _outputs_by_layer(cut, batch)
    for path, full in wanted.items():
        if path not in found:
            return path
        if path in stays:
            along, kept = stays[path]
            full = full.index_select(along, kept)
        elif full.shape != found[path].shape:  # between layers: how its channels were cut is not known
            continue
        if full.shape != found[path].shape or not torch.allclose(full, found[path], rtol=1e-4, atol=1e-7):
            return path
    return None


def kept_outputs(groups: Sequence[Group], keep: Keep) -> Mapping[str, tuple[int, Tensor]]:
    """Layer -> the dimension of its output that is cut, and the channels which stay."""
    stays: dict[str, Tensor] = {}
    along: dict[str, int] = {}
    for group in groups:
        for member in group.members:
            if member.kind not in ("input", "parameter"):
                last = isinstance(member.module, nn.Linear) or type(member.module).forward is nn.LayerNorm.forward
                along[member.path] = -1 if last else 1
                entry = stays.setdefault(member.path, torch.ones(member.size, dtype=torch.bool))
                entry[member.index[~keep[group.name][member.unit]]] = False
    return {path: (along[path], entry.nonzero().flatten()) for path, entry in stays.items()}


def _outputs_by_layer(model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    """The first output of every layer without parts, in the order they run, as far as the network gets."""
    outputs: dict[str, Tensor] = {}

    def noting(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and path not in outputs:
                outputs[path] = output.clone()  # an in-place activation may follow

        return hook

    layers = [(p, m) for p, m in model.named_modules() if isinstance(m, KeptNorm) or not any(m.children())]
    handles = [module.register_forward_hook(noting(path)) for path, module in layers if path]
    with torch.no_grad(), contextlib.suppress(RuntimeError, ValueError, IndexError):
        model(batch)
    for handle in handles:
        handle.remove()
    return outputs


def _tensors(output: Any) -> list[Tensor]:
    """Every tensor in an output, whatever it is wrapped in."""
    return list(_walk(output))


def _walk(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for part in output.values():
            yield from _walk(part)
    elif isinstance(output, list | tuple):
        for part in output:
            yield from _walk(part)
