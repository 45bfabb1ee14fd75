"""Channel scores: one value a unit of a group, higher = keep."""

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.pruning.channels.gradients import GRADIENTS
from pruning_bootcamp.pruning.channels.removal import Reader, removal_costs
from pruning_bootcamp.pruning.channels.selection import errors_unfitted, mean_squares, pivots
from pruning_bootcamp.pruning.graph import Group, Member, filters
from pruning_bootcamp.pruning.graph.members import TRANSPOSED
from pruning_bootcamp.pruning.weights.scores import not_finite
from pruning_bootcamp.registry import Registry

# Distances of so many pairs of filters are held at a time.
_NUMBERS_AT_ONCE = 2**24


def _not_a_score(values: Any, group: Group) -> str | None:
    return not_finite(values, (group.width,), f"a channel score of {group.name}")


# Facts: needs=("batch_norm",) - a group without a batch norm can't be scored, and is reported, never scored otherwise;
# needs=("seed",) - the function is given `seed`. Given by name as well, measured on images (calibration.py,
# gradients.py), where a group of which they can't be had is not scored either:
#   "moments"           the readers of the group's channels, with the second moments of their inputs
#   "removal_error"     [width]: what they lose once the unit and all worth less are gone, and they are refitted
#   "filter_gradient"   [width]: how the loss moves with the weights that make a unit; labels are needed
#   "gate_gradient"     [width]: how it moves with a gate on the unit wherever it is read; labels are needed
MEASURED = ("moments", "removal_error", *GRADIENTS)
CHANNEL_SCORES: Registry[Callable[..., Tensor]] = Registry(
    "channel score", given=("seed", *MEASURED), plural="channel_scores", takes=("group",), contract=_not_a_score
)


@CHANNEL_SCORES.register("l1")
def l1(group: Group) -> Tensor:
    """Sum of |w| over the filters that write a channel (Li et al., 2017, section 3.1).

    Where several layers write it (a residual sum), all of them count: they are cut together.
    """
    return _sum_over_filters(group, Tensor.abs)


@CHANNEL_SCORES.register("l2")
def l2(group: Group) -> Tensor:
    """Root of the sum of w^2 over the filters that write a channel (as l1, with the Euclidean norm)."""
    return _sum_over_filters(group, Tensor.square).sqrt()


@CHANNEL_SCORES.register("bn_scale", needs=("batch_norm",))
def bn_scale(group: Group) -> Tensor:
    """Mean |gamma| of the batch norms that the channel passes (Network Slimming, Liu et al., 2017, section 3)."""
    total, count = torch.zeros(group.width, dtype=torch.double), torch.zeros(group.width, dtype=torch.double)
    for member in _scales(group):
        scale = member.module.get_parameter("weight").detach().double().cpu().abs()
        total.index_add_(0, member.unit, scale[member.index])
        count.index_add_(0, member.unit, torch.ones(len(member.unit), dtype=torch.double))
    return total / count


@CHANNEL_SCORES.register("random", needs=("seed",))
def random(group: Group, *, seed: int) -> Tensor:
    """Drawn at random: the floor that every other score must beat, and often does not."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {group.name}".encode()))
    return torch.rand(group.width, generator=generator, dtype=torch.double)


@CHANNEL_SCORES.register("obs", needs=("removal_error",))
def obs(group: Group, *, removal_error: Tensor) -> Tensor:
    """What its readers lose once the channel is gone and they are refitted: optimal brain surgeon, whole channels.

    Channels go one by one, each time the one that costs least (Hassibi & Stork, 1993, eq. 5, a channel's columns
    together); the score is the error that has added up by then.
    """
    return removal_error


@CHANNEL_SCORES.register("second_order", needs=("moments",))
def second_order(group: Group, *, moments: Sequence[Reader]) -> Tensor:
    """What its readers lose once the channel alone is gone and they are refitted: the first step of obs, in one shot.

    w' ([H^-1]_c)^-1 w (Hassibi & Stork, 1993, eq. 5, a channel's columns together), over the readers' output power and
    summed over them.
    """
    return removal_costs(moments)


@CHANNEL_SCORES.register("thinet", needs=("moments",))
def thinet(group: Group, *, moments: Sequence[Reader]) -> Tensor:
    """What its readers lose once the channel is gone and nothing is refitted (ThiNet, Luo et al., 2017, eq. 6).

    Channels go one by one, each time the one that adds least to the squared error of what the readers put out, at all
    outputs and positions (the paper draws some); the score is the error by then, over their output power.
    """
    return errors_unfitted(moments)


@CHANNEL_SCORES.register("lindeps", needs=("moments",))
def lindeps(group: Group, *, moments: Sequence[Reader]) -> Tensor:
    """How much of its activations the channels before it can't say: pivots of a QR decomposition with column pivoting.

    Linear combinations of others go first (Chee et al., 2022; LinDeps, Henry et al., 2025). A channel's column is what
    its readers are shown of it; the score is the pivot as a share of the first.
    """
    return pivots(moments)


@CHANNEL_SCORES.register("activation", needs=("moments",))
def activation(group: Group, *, moments: Sequence[Reader]) -> Tensor:
    """Mean square of the channel's activations as its readers see them (padding's zeros count), mean over the readers.

    The size of activations instead of weights (Molchanov et al., 2017, section 2.2, take their mean).
    """
    return mean_squares(moments)


@CHANNEL_SCORES.register("fpgm")
def fpgm(group: Group) -> Tensor:
    """Distances of its filter to all others of the layer, summed: what is near the geometric median goes first.

    (FPGM, He et al., 2019.) Where several layers write the channel all of them count, as for l1.
    """
    return _over_writers(group, _distances)


@CHANNEL_SCORES.register("taylor", needs=("filter_gradient",))
def taylor(group: Group, *, filter_gradient: Tensor) -> Tensor:
    """(Sum of w * d loss / d w)^2 over the weights and biases that make a channel, mean over the batches.

    First order, the weights as one contribution (Molchanov et al., 2019, section 3.1), on labelled images through the
    task's loss. Where several layers write the channel their weights are one set. Gradients are those of a batch's mean
    loss, as in the paper: another size of batches gives another score.
    """
    return filter_gradient


@CHANNEL_SCORES.register("fisher", needs=("gate_gradient",))
def fisher(group: Group, *, gate_gradient: Tensor) -> Tensor:
    """Half the mean over the images of (d loss / d gate)^2, a gate on the channel wherever it is read (Group Fisher).

    (Liu et al., 2021, on labelled images through the task's loss.) The gate is one for all layers that read the
    channel: their shares are added before they are squared. Not divided by the memory saved, as the paper does at the
    end: what a channel costs is for the allocation to say. Depthwise layers on the way do not count again.
    """
    return gate_gradient / 2


def why_not_scored(name: str, group: Group) -> str | None:
    """Why this score says nothing about the group, as far as that is known before anything is measured, or None."""
    needs = needs_of(name)
    readers = group.of_kind("input")
    if not readers and not {"moments", "removal_error", "gate_gradient"}.isdisjoint(needs):
        return f"the score {name} needs a layer that reads its channels; l1 or l2 can score it"
    turned = next((member.path for member in readers if isinstance(member.module, TRANSPOSED)), None)
    if "moments" in needs and turned is not None:
        return f"the score {name} knows no transposed convolutions, and {turned} reads its channels; l1 can score it"
    if "batch_norm" not in needs:
        return None
    reached = {unit for member in _scales(group) for unit in member.unit.tolist()}
    if len(reached) == group.width:
        return None
    return f"the score {name} needs a batch norm with a scale, and not all its channels pass one; l1 or l2 can score it"


def needs_of(name: str) -> tuple[str, ...]:
    """What the score must be given, or find in the group."""
    return tuple(CHANNEL_SCORES.get(name).facts.get("needs", ()))


def measured_on_images(name: str) -> bool:
    """Whether the score is given anything that is measured on images."""
    return not set(MEASURED).isdisjoint(needs_of(name))


def needs_labels(name: str) -> bool:
    """Whether the images must come with their labels."""
    return not GRADIENTS.keys().isdisjoint(needs_of(name))


def score_groups(
    groups: Iterable[Group],
    name: str,
    args: Mapping[str, Plain],
    seed: int,
    measured: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Tensor]:
    """Group name -> scores, float64 [width] on the CPU. Raises BootcampError that names the layers with NaN or Inf.

    `measured`: what the score needs of images -> group name -> what was found.
    """
    entry, needs, measured = CHANNEL_SCORES.get(name), needs_of(name), measured or {}
    scores, problems = {}, []
    for group in groups:
        given: dict[str, Any] = {"seed": seed} if "seed" in needs else {}
        given |= {need: measured[need][group.name] for need in needs if need in MEASURED}
        score = entry(group, **args, **given).detach().double().cpu()
        if tuple(score.shape) != (group.width,):
            raise ValueError(f"channel score '{name}' gave {tuple(score.shape)}, not ({group.width},)")
        if not torch.isfinite(score).all():
            bad = int((~torch.isfinite(score)).sum())
            layers = [member.label for member in group.members if _not_finite(member.module)] or group.layers
            problems.append(
                f"{', '.join(dict.fromkeys(layers))}: the score {name} is NaN or Inf for {bad} of {group.width} "
                "channels. The weights are not finite; train again from an earlier checkpoint."
            )
        scores[group.name] = score
    if problems:
        raise BootcampError(*problems)
    return scores


def _sum_over_filters(group: Group, of: Callable[[Tensor], Tensor]) -> Tensor:
    return _over_writers(group, lambda each: of(each).sum(1))


def _over_writers(group: Group, of: Callable[[Tensor], Tensor]) -> Tensor:
    """[units]: `of` gives a value for each filter [channels, n]; summed over the layers that write a unit."""
    total = torch.zeros(group.width, dtype=torch.double)
    for member in group.members:
        if member.writes:
            each = of(filters(member, member.module.get_parameter("weight").detach().double())).cpu()
            total.index_add_(0, member.unit, each[member.index])
    return total


def _distances(each: Tensor) -> Tensor:
    """[channels]: how far each filter is from all others, summed."""
    some = max(1, _NUMBERS_AT_ONCE // len(each))
    return torch.cat([torch.cdist(part, each).sum(1) for part in each.split(some)])


def _scales(group: Group) -> list[Member]:
    return [member for member in group.of_kind("batch_norm") if member.module.affine]


def _not_finite(module: nn.Module) -> bool:
    return any(not torch.isfinite(parameter).all() for parameter in module.parameters(recurse=False))
