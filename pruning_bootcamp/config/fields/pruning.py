"""Settings of pruning, of what follows it, and of what it is judged by."""

from dataclasses import dataclass, field
from typing import Any, Literal

from pruning_bootcamp.config.fields.basics import Choice, between, choice


@dataclass
class PruneConfig:
    """Unstructured and semi-structured pruning: score x allocation x pattern, in one shot or in cycles."""

    sparsity: float | None = between(None, 0, 1, "[)")
    """share of the prunable weights that are zero afterwards, in total; left out: what the pattern says, else 0.5"""
    score: Choice = choice("magnitude", p=1)
    """what a weight is worth; short forms: l1, l2, global (= l1)"""
    allocation: Choice = choice("uniform")
    """how the sparsity is spread over the layers; short form: layerwise (= uniform)"""
    pattern: Choice = choice("unstructured")
    """which weights may go together; short form "2:4" (in quotes: 2 kept of 4)"""
    solver: Choice = choice("none")
    """what happens to the weights that stay: none, sparsegpt, reconstruct"""
    iterations: int = between(1, 1)
    """cycles of prune and fine-tune; 1 = one shot"""
    schedule: Choice = choice("cubic")
    """how the sparsity grows over the cycles, or during fine-tuning"""
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


@dataclass
class StructuredConfig:
    """Structured pruning: whole channels, cut out of the network."""

    score: Choice = choice("bn_scale")
    """what a channel is worth"""
    allocation: Literal["local", "global"] = "global"
    """local: the same share of every group; global: the least channels of the whole network"""
    sparsity: float | None = between(None, 0, 1, "[)")
    """share of the channels to cut (give this or one target)"""
    target_flops_reduction: float | None = between(None, 0, 1, "[)")
    """share of the multiply-accumulates to save"""
    target_params_reduction: float | None = between(None, 0, 1, "[)")
    """share of the parameters to save"""
    round_to: int | Literal["auto", "none"] | None = between("auto", 1)
    """widths in multiples of this; auto: 8 on a CUDA device (less where that is too coarse), none elsewhere"""
    max_sparsity: float = between(0.9, 0, 1, "()")
    """no group loses a larger share of its channels than this"""
    exclude: list[str] = field(default_factory=list)
    """leave out groups with a layer that matches one of these"""

    def budget(self) -> dict[str, Any]:
        """The budgets given, by the engine's names; half the FLOPs when the config names none."""
        given = {
            "sparsity": self.sparsity,
            "flops_reduction": self.target_flops_reduction,
            "params_reduction": self.target_params_reduction,
        }
        return {name: value for name, value in given.items() if value is not None} or {"flops_reduction": 0.5}


@dataclass
class RecoverConfig:
    """Recovery without labels, right after pruning; fine-tuning, if enabled, comes after it."""

    method: Literal["none", "bn", "distill"] = "bn"
    """bn: batch-norm statistics anew, where that helps; distill: that, then training to the dense network's outputs"""
    bn_images: int = between(2048, 0)
    """augmented training images to re-estimate batch-norm statistics on (others judge them); 0 = keep the old ones"""
    images: int = between(4096, 2)
    """training images, without their labels, to distil on"""
    steps: int = between(1000, 1)
    """optimiser steps of the distillation, at most"""
    minutes: float | None = between(None, 0, None, "(]")
    """time for the distillation: only as many steps as fit in"""
    batch_size: int = between(128, 2)
    """images per optimiser step"""
    lr: float = between(0.02, 0, None, "(]")
    """peak learning rate (SGD with Nesterov momentum, cosine)"""
    temperature: float = between(4.0, 0, None, "(]")
    """softmax temperature of the distillation"""
    features: float = between(5.0, 0)
    """weight of the distance between the outputs of the blocks; 0 = final outputs only"""
    grow: float = between(0.0, 0, 1, "[)")
    """share of the pruning (of the logarithm of what stays) left to the first half of the distillation, by magnitude"""
    amp: Literal["auto", "bf16", "fp16"] | None = None
    """mixed precision; auto: bfloat16 where a short trial finds it quicker"""


@dataclass
class QuantizeConfig:
    """Quantisation-aware training: 8-bit weights and activations in every step, so that an int8 file loses little."""

    epochs: int | str = "3ep"
    """how long"""
    lr: float | None = between(None, 0, None, "(]")
    """peak learning rate; left out: a hundredth of train.lr"""
    distill: float = between(0.0, 0, 1)
    """weight of the dense network's outputs in the loss; 0 = labels only"""
    exclude: list[str] = field(default_factory=list)
    """layers that stay in floating point"""


@dataclass
class GoalConfig:
    """What the pruned network must reach to be called a success (`goal_met`)."""

    flops_reduction_pct: float = between(40.0, 0, 100)
    """at least so many percent fewer multiply-accumulates"""
    accuracy_drop: float = 1.5
    """at most so many points of accuracy lost, on the test split"""
    evaluate_test: bool = True
    """false: training and pruning leave the test split unread, give validation figures (val_...) and judge no goal"""
