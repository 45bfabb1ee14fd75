"""What a pruning can be told: the sections `prune`, `sensitivity` and `structured`, light enough for `--help`."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from pruning_bootcamp.schema import Choice, between, choice

_MOST_CYCLES = 1000


@dataclass
class PruneSettings:
    """Unstructured and semi-structured pruning: score x allocation x pattern, in one shot or in cycles."""

    sparsity: float | None = between(None, 0, 1, "[)")
    """share of the prunable weights that are zero afterwards, in total; left out: what the pattern says, else 0.5"""
    score: Choice = choice("magnitude", p=1)
    """what a weight is worth: wanda, taylor, obs, ...; short forms: l1, l2, global (= l1)"""
    allocation: Choice = choice("uniform")
    """how the sparsity is spread over the layers: global (one ranking), erk, ...; short form: layerwise (= uniform)"""
    pattern: Choice = choice("unstructured")
    """which weights may go together; short form "2:4" (in quotes: 2 kept of 4)"""
    solver: Choice = choice("none")
    """what happens to the weights that stay: none, sparsegpt, reconstruct"""
    refit: Literal["closed_form", "none"] = "none"
    """what follows the solver. closed_form: layer after layer fitted to what the dense network computes, on the pruned
    network's own inputs, zeros kept, without labels"""
    refit_rounds: int = between(0, 0)
    """rounds in which a layer and the one that alone reads it are fitted together; 0: each layer alone, which is
    little worse where zeros are scattered, and much quicker"""
    stages: int = between(1, 1)
    """steps to the sparsity, each scored, solved and refitted on what the last one left, with no training between; one
    where the pattern says the sparsity"""
    iterations: int = between(1, 1, _MOST_CYCLES)
    """cycles of prune and fine-tune; 1 = one shot"""
    schedule: Choice = choice("cubic")
    """how the sparsity grows over the cycles, or during fine-tuning: cubic, linear, ..."""
    gradual: bool = False
    """grow the sparsity during fine-tuning instead of before it"""
    begin: int | str = "0%"
    """gradual: first update, as 1ep, 500it or a share of the fine-tuning"""
    end: int | str = "75%"
    """gradual: last update, at which the sparsity is reached; what is left of the fine-tuning recovers"""
    frequency: int | str = "5%"
    """gradual: time from one update to the next"""
    rewind: str | None = None
    """after each pruning, put the surviving weights back to a step of the training: 500it (of train.save_steps) or a
    checkpoint; then usually with fine_tune.lr and fine_tune.epochs of the training itself"""
    include: list[str] = field(default_factory=list)
    """prune only layers that match one of these (layer1.*)"""
    exclude: list[str] = field(default_factory=list)
    """leave out layers that match one of these"""
    calibration_images: int = between(1024, 1)
    """training images for scores and solvers that need gradients or activations"""


By = Literal["layer", "block"]


@dataclass
class SensitivitySettings:
    """Which layers mind: each pruned alone as `prune` says (score, pattern, include, exclude), judged on validation."""

    sparsities: list[float] | None = None
    """in (0, 1); left out: 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, or the one that the pattern fixes"""
    by: By = "layer"
    """what is pruned alone: a layer, or all layers of a block (a residual block, say)"""
    images: int | None = between(1000, 1)
    """validation images, at most; null: all of them"""
    bn_images: int = between(0, 0)
    """training images to re-estimate batch-norm statistics on at each point; 0 = keep them: the zeros alone count"""


BUDGETS = {
    "sparsity": "sparsity",
    "flops_reduction": "target_flops_reduction",
    "params_reduction": "target_params_reduction",
    "latency_reduction": "target_latency_reduction",
    "latency_ms": "target_latency_ms",
    "accuracy_drop": "max_accuracy_drop",
}
"""What a structured budget is called in a plan -> the setting that gives it"""
TIMED = ("latency_reduction", "latency_ms")
"""Those that are measured on the machine, as `profile` says"""


@dataclass
class StructuredSettings:
    """Structured pruning: whole channels, cut out of the network."""

    score: Choice | None = None
    """what a channel is worth: obs, second_order, thinet, lindeps, activation, taylor, fisher, l1, l2, fpgm, bn_scale,
    random; left out: obs before a refit in closed form, else bn_scale"""
    allocation: Literal["local", "global", "measured"] | None = None
    """local: the same share of every group; global: the least channels of the whole network; measured: the widths with
    which the network's outputs lose least, measured group by group; left out: measured before a refit in closed form,
    else global"""
    refit: Literal["closed_form", "batch_norm", "none"] = "closed_form"
    """what follows the cut. closed_form: layer after layer fitted to what the dense network computes (or the one before
    the cut, where that was trained since), by least squares on the cut network's own inputs, without labels;
    batch_norm: statistics anew, as recover says; none: nothing"""
    refit_rounds: int = between(6, 0)
    """rounds in which a layer and the one that alone reads it are fitted together; 0: each layer alone, in a third of
    the time"""
    calibration_images: int = between(1024, 1)
    """training images, to measure channels and to refit on; with their labels for the scores taylor and fisher alone"""
    sparsity: float | None = between(None, 0, 1, "[)")
    """share of the channels to cut (give this or one target)"""
    target_flops_reduction: float | None = between(None, 0, 1, "[)")
    """share of the multiply-accumulates to save"""
    target_params_reduction: float | None = between(None, 0, 1, "[)")
    """share of the parameters to save"""
    target_latency_reduction: float | None = between(None, 0, 1, "[)")
    """share of the time of a batch to save, measured here by profile.backend with profile.batch_size"""
    target_latency_ms: float | None = between(None, 0, None, "(]")
    """milliseconds that a batch may take, measured here by profile.backend with profile.batch_size"""
    max_accuracy_drop: float | None = between(None, 0, None, "(]")
    """cut as far as no more points of accuracy are lost on validation samples: by time where a backend is named (a
    goal.latency_reduction_pct set), else by multiply-accumulates"""
    round_to: int | Literal["auto", "none"] | None = between("auto", 1)
    """widths in multiples of this; auto: 8 on a CUDA device (less where that is too coarse), none elsewhere"""
    max_sparsity: float = between(0.9, 0, 1, "()")
    """no group loses a larger share of its channels than this"""
    exclude: list[str] = field(default_factory=list)
    """leave out groups with a layer that matches one of these"""
    iterations: int = between(1, 1, _MOST_CYCLES)
    """cycles of cut and fine-tune; 1 = one shot, which is no worse where nothing is trained between"""
    schedule: Choice = choice("cubic")
    """how what is cut grows over the cycles: cubic, linear, ..."""
    grow_penalty: int | str | None = None
    """before each cut, train so long (3ep, 500it) as fine_tune says, while an L2 penalty grows on the weights that make
    the channels which will go (GReg-1; Wang et al., 2021); null: off"""
    grow_step: float | None = between(None, 0, None, "(]")
    """what the penalty grows by each time (delta lambda, 1e-4 in the paper); left out: so much that the ceiling is
    reached after three quarters of the training"""
    grow_every: int = between(10, 1)
    """optimiser steps from one growth to the next (K_u, 10 in the paper on CIFAR, 5 on ImageNet)"""
    grow_ceiling: float = between(1.0, 0, None, "(]")
    """how far the penalty grows (tau, 1 in the paper)"""
    only_dead: bool = False
    """instead of all that: remove the channels that do nothing (their filters are zero, or nobody reads them), exactly,
    and recover nothing, since nothing is lost"""

    def budget(self) -> dict[str, float]:
        """The budgets given, by what they are a share of; half the FLOPs where none is given."""
        given = {name: getattr(self, key) for name, key in BUDGETS.items()}
        return {name: value for name, value in given.items() if value is not None} or {"flops_reduction": 0.5}

    @property
    def timed(self) -> bool:
        """Whether the budget is in time."""
        return any(name in TIMED for name in self.budget())

    def part(self, share: float) -> Self:
        """The same with this share of the one budget; milliseconds are no share, and stay."""
        ((name, asked),) = self.budget().items()
        share = 1.0 if name == "latency_ms" else share
        given: dict[str, Any] = {BUDGETS[name]: share * asked}
        return replace(self, **given)
