"""What a weight is worth: one value per weight, higher = keep."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.pruning.stats import LayerStats, wants_labels
from pruning_bootcamp.registry import Registry


def _where_the_weight_is(weight: Tensor, stats: LayerStats) -> tuple[Tensor, LayerStats]:
    """What every score is handed: the statistics lie on the weight's device, wherever they were measured or kept."""
    return weight, stats.on(weight.device)


def _not_a_score(values: Any, weight: Tensor, stats: LayerStats) -> str | None:
    return not_finite(values, tuple(weight.shape), f"a score of {stats.name}")


# f(weight, stats, *, ...) -> Tensor of the weight's shape, finite, deterministic for stats.seed; higher = keep.
# Facts:
#   needs=("grad",)        statistics of stats.py that the engine gathers first and hands over as stats["grad"]
#   label(**args) -> str   what ImportanceScores.method says, where the name alone would not tell
SCORES: Registry = Registry(
    "score", before=_where_the_weight_is, plural="scores", takes=("weight", "stats"), contract=_not_a_score
)


@SCORES.register("magnitude", label=lambda *, p=1: f"magnitude_l{p}")
def magnitude(weight: Tensor, stats: LayerStats, *, p: Literal[1, 2] = 1) -> Tensor:
    """|w|^p (p: 1 or 2); the order of single weights is the same, sums over blocks differ (Han et al., 2015)."""
    return weight.abs() if p == 1 else weight.float().square()  # float: the square of a small half is 0


@SCORES.register("random")
def random(weight: Tensor, stats: LayerStats) -> Tensor:
    """Drawn at random: the floor that every other score must beat."""
    generator = torch.Generator().manual_seed(stats.seed)
    return torch.rand(weight.shape, generator=generator).to(weight.device)


@SCORES.register("taylor", needs=("abs_grad",))
def taylor(weight: Tensor, stats: LayerStats) -> Tensor:
    """|w * g|, |g| taken batch by batch: how much the loss moves when the weight goes (Molchanov et al., 2019)."""
    return (weight * stats["abs_grad"]).abs()


@SCORES.register("movement", needs=("grad",))
def movement(weight: Tensor, stats: LayerStats) -> Tensor:
    """-w * g: high where training drives the weight away from zero (Sanh et al., 2020; weights held still)."""
    return -weight * stats["grad"]


@SCORES.register("snip", needs=("grad",))
def snip(weight: Tensor, stats: LayerStats) -> Tensor:
    """|w * g| of the mean gradient over all images, signs and all (Lee et al., 2019; there before training)."""
    return (weight * stats["grad"]).abs()


@SCORES.register("obd", needs=("fisher",))
def obd(weight: Tensor, stats: LayerStats) -> Tensor:
    """h * w^2 / 2: the loss that a weight's removal adds, h of the Hessian's diagonal (LeCun et al., 1990)."""
    return stats["fisher"] * weight.float().square() / 2


@SCORES.register("wanda", needs=("input_norm",))
def wanda(weight: Tensor, stats: LayerStats) -> Tensor:
    """|w| * ||x||_2, x being the inputs that the weight multiplies; needs no gradient (Sun et al., 2024, eq. 1)."""
    return weight.abs() * stats["input_norm"]


@SCORES.register("lamp")
def lamp(weight: Tensor, stats: LayerStats) -> Tensor:
    """w^2 over the sum of the layer's squares from it up; meant for `global` allocation (Lee et al., 2021)."""
    ascending, order = weight.reshape(-1).double().square().sort(stable=True)
    still_there = ascending.flip(0).cumsum(0).flip(0)
    scores = torch.zeros_like(ascending)
    scores[order] = torch.where(ascending > 0, ascending / still_there, 0.0)
    return scores.reshape(weight.shape)


@SCORES.register("obs", needs=("removal_cost",))
def obs(weight: Tensor, stats: LayerStats) -> Tensor:
    """Loss added when the weight goes and its row is re-fitted (optimal brain surgeon; Hassibi & Stork, 1993)."""
    return stats["removal_cost"]


@dataclass(frozen=True)
class ScoreStats:
    """A layer's scores in four numbers."""

    min: float
    max: float
    mean: float
    std: float


@dataclass(frozen=True)
class ImportanceScores:
    """Scores of one weight (same shape), the method that made them, and their statistics."""

    values: Tensor
    method: str
    stats: ScoreStats


def importance(
    weight: Tensor, method: str = "magnitude", args: Mapping[str, Plain] | None = None, stats: LayerStats | None = None
) -> ImportanceScores:
    """Scores of one weight by the named method. NaN or Inf, in the weight or the scores, is a BootcampError."""
    stats, score = stats or LayerStats("weight"), SCORES.get(method)
    with torch.no_grad():
        check_finite(weight, f"{stats.name}: weights")
        values = score(weight.detach(), stats, **(args or {}))
    label = score.facts["label"](**(args or {})) if "label" in score.facts else method
    return ImportanceScores(values, label, score_stats(values, stats.name, method))


def score_stats(values: Tensor, name: str, method: str = "the") -> ScoreStats:
    """Min, max, mean and standard deviation of a weight's scores; NaN or Inf among them is a BootcampError."""
    low, high = check_finite(values, f"{name}: {method} scores")
    std, mean = torch.std_mean(values.float(), correction=0)
    return ScoreStats(low, high, float(mean), float(std))


def check_finite(tensor: Tensor, what: str) -> tuple[float, float]:
    """Lowest and highest value, or a BootcampError that says how many are NaN or Inf."""
    low, high = (float(value) for value in torch.aminmax(tensor.detach()))  # one pass, no copy, carries NaN along
    if abs(low) < float("inf") and abs(high) < float("inf"):
        return low, high
    bad = int((~torch.isfinite(tensor)).sum())
    raise BootcampError(f"{what}: {bad} of {tensor.numel()} are NaN or Inf, so there is no order to prune by.")


def not_finite(values: Any, shape: tuple[int, ...], promised: str) -> str | None:
    """What is wrong with what a user's function gave, where finite numbers of this shape are promised."""
    if not isinstance(values, Tensor):
        return f"{type(values).__name__}, and {promised} is a tensor of shape {shape}"
    if tuple(values.shape) != shape:
        return f"a tensor of shape {tuple(values.shape)}, and {promised} has shape {shape}"
    bad = int((~torch.isfinite(values)).sum())
    return f"{bad} values of {values.numel()} that are NaN or Inf, and {promised} is finite" if bad else None


def needs_of(name: str) -> tuple[str, ...]:
    """The statistics that the named score asks for; empty when the weights alone are enough."""
    return tuple(SCORES.get(name).facts.get("needs", ()))


def needs_labels(name: str) -> bool:
    """Whether what the named score asks for is measured against labels; images alone do otherwise."""
    return wants_labels(needs_of(name))


def layer_seed(seed: int, name: str) -> int:
    """A seed for one layer that depends on its name, not on which other layers are pruned."""
    return zlib.crc32(f"{seed}:{name}".encode())
