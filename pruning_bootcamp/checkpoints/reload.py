"""A network that is rebuilt computes what it did before: outputs compared, and what a reload draws anew named."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pruning_bootcamp.checkpoints.attributes import IN_ARGS, differing, differing_from, digests_of
from pruning_bootcamp.checkpoints.files import plain_tensor
from pruning_bootcamp.checkpoints.recipe import Recipe, find_changes, rebuild, tensors_of
from pruning_bootcamp.checkpoints.stored import Stored
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.models import is_factory
from pruning_bootcamp.runtime import seeded_rng
from pruning_bootcamp.tools.modes import detached_clone, evaluation_mode

# Largest difference, relative to the largest output: in one process, where the same arithmetic runs twice, and between
# machines or releases of torch, which round otherwise.
_HERE, _ELSEWHERE = 1e-5, 1e-3
_PASS, _SECOND_PASS, _OTHER_PASS = 11, 12, 13  # seeds of forward passes
_BUILDS, _SECONDS = (21, 22, 23, 24), 2.0  # seeds of builds, as many of them as this time allows
# What a network may raise that was not made for what it is given.
_FAILURES = (RuntimeError, ValueError, TypeError, LookupError, AssertionError, AttributeError, ArithmeticError)
_BATCH, _LARGEST = 2, 2**23  # images of a proof, and the values that they may have
_MOST_VALUES = 2048

Outputs = list[Tensor]


@dataclass(frozen=True)
class Match:
    """Two networks on the same images."""

    difference: float
    """the largest, relative to the largest output; inf where shapes or types differ"""
    random: bool
    """whether one network alone gives other outputs in a second pass"""


def example_input(recipe: Recipe, batch_size: int = 1) -> Tensor:
    """A batch of what the network takes, the same each time: noise about 0 +- 1, as of normalised images, or tokens."""
    return recipe.inputs.example(batch_size, torch.Generator().manual_seed(0))


def match(one: nn.Module, other: nn.Module, recipe: Recipe) -> Match | None:
    """How far the outputs of two networks are apart in eval mode; None where the first can't run (on this image size).

    What a forward pass itself draws is drawn alike in both, unless the passes of one network agree whatever is drawn:
    then it is not, so that a value drawn once, in the first pass, does not hide.
    """
    images = _images(recipe)
    first = None if images is None else _try(one, images, _PASS)
    if images is None or first is None:
        return None
    random = difference(first, _outputs(one, images, _SECOND_PASS)) > _HERE
    try:
        theirs = _outputs(other, images, _PASS if random else _OTHER_PASS)
    except _FAILURES:  # it is put together in another way
        return Match(math.inf, random)
    return Match(difference(first, theirs), random)


def check_same(one: nn.Module, other: nn.Module, recipe: Recipe) -> None:
    """BootcampError when `other`, a rebuilt `one`, computes another function, with what was drawn anew."""
    found = match(one, other, recipe)
    if found is None:
        return
    if found.random:
        say_random(recipe)
    if found.difference > _HERE:
        named = differing(one, other)
        if found.random and not named:
            return  # of a network that draws by a generator of its own no two passes agree
        raise BootcampError(_refusal(recipe, found.difference, named))


def check_builder(model: nn.Module, recipe: Recipe) -> nn.Module:
    """BootcampError when what `model` becomes once it is saved and rebuilt computes something else: before any work.

    Weights that are all alike (a head that begins at zero) would hide what they multiply, so they are moved first, in
    the copy that is compared and given back.
    """
    network = detached_clone(model).cpu()
    _move_constants(network)
    tensors = {name: plain_tensor(tensor) for name, tensor in tensors_of(network).items()}
    begun = time.perf_counter()
    for seed in _BUILDS if is_factory(recipe.model) else _BUILDS[:1]:
        try:
            with seeded_rng(seed):
                changed = replace(recipe, changes=find_changes(network, recipe))
                rebuilt = rebuild(changed, dict(tensors))
        except BootcampError as error:
            raise BootcampError(
                *(f"model.name: {recipe.model}: built again, it is not the same network: {p}" for p in error.problems),
                IN_ARGS,
            ) from error
        check_same(network, rebuilt, recipe)
        if time.perf_counter() - begun > _SECONDS:
            break
    return network


def say_random(recipe: Recipe) -> None:
    """Said once: metrics of such a network vary from one measurement to the next."""
    if recipe.model not in _SAID:
        _SAID.add(recipe.model)
        LOGGER.warning(
            "Model: %s gives other outputs in each pass, in eval mode too (dropout that is always on, a state of its "
            "own?): metrics measured on it vary",
            recipe.model,
        )


_SAID: set[str] = set()


def make_proof(model: nn.Module, recipe: Recipe) -> dict[str, Stored]:
    """What a file keeps so that whoever opens it can tell that its network computes what it did; plain values.

    Empty where the network does not run on images of the recipe's size (or they are too large to try).
    """
    images = _images(recipe)
    outputs = None if images is None else _try(model, images, _PASS)
    if images is None or outputs is None:
        return {}
    again = _outputs(model, images, _SECOND_PASS)
    return {
        "outputs": [{"shape": list(tensor.shape), "values": _sample(tensor).tolist()} for tensor in outputs],
        "random": difference(outputs, again) > _HERE,
        "attributes": digests_of(model),
    }


def check_proof(model: nn.Module, recipe: Recipe, proof: Mapping[str, Stored]) -> None:
    """BootcampError when the network just opened computes something else than the one that was saved."""
    images = _images(recipe)
    if not proof or images is None:
        return
    outputs, attributes = proof.get("outputs"), proof.get("attributes")
    if not isinstance(outputs, list) or not isinstance(attributes, Mapping):
        raise BootcampError("its 'proof' is damaged. Make the file again.")
    try:
        expected = [_kept(entry) for entry in outputs]
    except (TypeError, ValueError, LookupError, RuntimeError, OverflowError) as error:
        raise BootcampError(f"its 'proof' is damaged ({type(error).__name__}). Make the file again.") from error
    try:
        found = _outputs(model, images, _PASS)
    except Exception as error:  # whatever the network raises
        raise BootcampError(
            f"its network, built by {recipe.model}, does not run any more ({type(error).__name__}: {error}). {_CHANGED}"
        ) from error
    shapes = [tuple(tensor.shape) for tensor in found] == [shape for shape, _ in expected]
    gap = difference([_sample(t) for t in found], [values for _, values in expected]) if shapes else math.inf
    allowed = max([_ELSEWHERE, *(4 * torch.finfo(t.dtype).eps for t in found if t.is_floating_point())])
    if gap <= allowed:
        return
    named = differing_from(model, attributes)
    if proof.get("random") and not named:
        say_random(recipe)
        return
    raise BootcampError(f"{_refusal(recipe, gap, named)} {_CHANGED}")


_CHANGED = (
    "Or was the code that builds it changed since the file was saved? Then use that code again, or take the weights "
    "alone: torch.load(FILE, weights_only=True)['state_dict']."
)


def _refusal(recipe: Recipe, gap: float, named: Sequence[str]) -> str:
    much = "they can't be compared" if math.isinf(gap) else f"by up to {100 * gap:.3g}% of the largest"
    reasons = " ".join(named) or (
        "No attribute of its modules differs, so something outside of them is drawn at random (in forward, at import, "
        "in a closure, by the order of a set). Draw it in __init__ and register it: self.register_buffer(NAME, ...)."
    )
    return (
        f"model.name: {recipe.model}: after a reload another function would come out (outputs on the same images "
        f"differ: {much}). {reasons}"
    )


def difference(one: Outputs, other: Outputs) -> float:
    """The largest, relative to the largest finite output; NaN equals NaN, and inf stands for other shapes."""
    if len(one) != len(other) or any(a.shape != b.shape for a, b in zip(one, other, strict=True)):
        return math.inf
    worst = 0.0
    for a, b in zip(one, other, strict=True):
        a, b = a.double(), b.double()
        same = (a == b) | (a.isnan() & b.isnan())
        if bool(same.all()):
            continue
        gaps = (a - b).abs()[~same]
        finite = a[a.isfinite()]
        largest = float(finite.abs().max()) if len(finite) else 0.0
        gap = float(gaps.max()) if bool(gaps.isfinite().all()) else math.inf
        worst = max(worst, gap / max(largest, 1e-12))
    return worst


def _images(recipe: Recipe) -> Tensor | None:
    size = math.prod(recipe.input_shape)
    return None if size > _LARGEST else example_input(recipe, _BATCH)


def _try(model: nn.Module, images: Tensor, seed: int) -> Outputs | None:
    try:
        return _outputs(model, images, seed)
    except _FAILURES as error:  # it is not for images of this size, or not for a CPU
        LOGGER.warning(
            "Not proved: the network does not run on inputs of %s here (%s: %s), so nobody can tell whether it "
            "computes the same after a reload",
            "x".join(str(side) for side in images.shape[1:]),
            type(error).__name__,
            str(error).strip().partition("\n")[0],
        )
        return None


def _outputs(model: nn.Module, images: Tensor, seed: int) -> Outputs:
    """Every tensor that the network gives, in eval mode, on the CPU; the network's mode and random state stay."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), images)
    with seeded_rng(seed), evaluation_mode(model), torch.no_grad():
        given = model(images.to(parameter.device, parameter.dtype if images.is_floating_point() else images.dtype))
    return [leaf.detach().cpu().clone() for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]


def _sample(tensor: Tensor) -> Tensor:
    """The values themselves, or so many of them, evenly spread."""
    flat = tensor.detach().reshape(-1)
    if len(flat) > _MOST_VALUES:
        flat = flat[torch.linspace(0, len(flat) - 1, _MOST_VALUES, dtype=torch.float64).round().long()]
    return flat.double()


def _kept(entry: Stored) -> tuple[tuple[int, ...], Tensor]:
    """Shape and values of an output in a proof."""
    if not isinstance(entry, Mapping) or not isinstance(sides := entry["shape"], list | tuple):
        raise TypeError("no table with a shape")
    shape = tuple(side for side in sides if isinstance(side, int))
    values = torch.tensor(entry["values"], dtype=torch.float64)
    if len(shape) != len(sides):
        raise ValueError("a shape of whole numbers")
    if values.ndim != 1 or len(values) != min(math.prod(shape), _MOST_VALUES):
        raise ValueError("as many values as the shape has")
    return shape, values


def _move_constants(model: nn.Module) -> None:
    """Parameters whose values are all the same get others, the same each time."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            alike = parameter.is_floating_point() and bool((parameter == parameter.flatten()[:1]).all())
            if alike and (parameter.numel() > 1 or bool((parameter == 0).all())):
                fan = parameter[0].numel() if parameter.ndim > 1 else 100
                noise = torch.randn(parameter.shape, generator=generator) / math.sqrt(fan)
                parameter.add_(noise.to(parameter))
