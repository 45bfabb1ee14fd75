"""Channel scores: one value a unit of a group, higher = keep."""

import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.pruning.graph import Group, Member, dimensions
from pruning_bootcamp.pruning.weights.scores import not_finite
from pruning_bootcamp.registry import Registry


def _not_a_score(values: Any, group: Group) -> str | None:
    return not_finite(values, (group.width,), f"a channel score of {group.name}")


# Facts: needs=("batch_norm",) - a group without a batch norm can't be scored, and is reported, never scored otherwise;
# needs=("seed",) - the function is given `seed`; needs=("removal_error",) - it is given `removal_error`, measured on
# images: what is lost where the channels are read once the unit, and all that are worth less, are gone.
CHANNEL_SCORES: Registry[Callable[..., Tensor]] = Registry(
    "channel score", given=("seed", "removal_error"), plural="channel_scores", takes=("group",), contract=_not_a_score
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


def why_not_scored(name: str, group: Group) -> str | None:
    """Why this score says nothing about the group, or None."""
    needs = CHANNEL_SCORES.get(name).facts.get("needs", ())
    if "removal_error" in needs and not group.of_kind("input"):
        return f"the score {name} needs a layer that reads its channels; l1 or l2 can score it"
    if "batch_norm" not in needs:
        return None
    reached = {unit for member in _scales(group) for unit in member.unit.tolist()}
    if len(reached) == group.width:
        return None
    return f"the score {name} needs a batch norm with a scale, and not all its channels pass one; l1 or l2 can score it"


def measured_on_images(name: str) -> bool:
    """Whether the score is given removal errors."""
    return "removal_error" in CHANNEL_SCORES.get(name).facts.get("needs", ())


def score_groups(
    groups: Iterable[Group],
    name: str,
    args: Mapping[str, Plain],
    seed: int,
    removal_errors: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Group name -> scores, float64 [width] on the CPU. Raises BootcampError that names the layers with NaN or Inf.

    `removal_errors` of each group, where the score needs them.
    """
    entry = CHANNEL_SCORES.get(name)
    needs = entry.facts.get("needs", ())
    scores, problems = {}, []
    for group in groups:
        given: dict[str, Any] = {"seed": seed} if "seed" in needs else {}
        if "removal_error" in needs:
            assert removal_errors is not None, "measured before"
            given["removal_error"] = removal_errors[group.name]
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
    total = torch.zeros(group.width, dtype=torch.double)
    for member in group.members:
        if member.writes:
            weight = member.module.get_parameter("weight").detach().double()
            across = dict(dimensions(member))["weight"]
            filters = of(weight).transpose(0, across).flatten(1).sum(1).cpu()
            total.index_add_(0, member.unit, filters[member.index])
    return total


def _scales(group: Group) -> list[Member]:
    return [member for member in group.of_kind("batch_norm") if member.module.affine]


def _not_finite(module: nn.Module) -> bool:
    return any(not torch.isfinite(parameter).all() for parameter in module.parameters(recurse=False))
