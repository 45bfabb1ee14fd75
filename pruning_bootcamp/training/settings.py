"""What a training can be told, and what follows a pruning: the sections `train`, `fine_tune`, `recover`, `quantize`."""

from dataclasses import dataclass, field, replace
from typing import Literal

from pruning_bootcamp.duration import Duration, parse_duration
from pruning_bootcamp.schema import Choice, between, choice

# Where nothing normalises by the batch, gradients can be some twenty times that, and a training diverges.
FROZEN_CLIP = 5.0


@dataclass
class TrainSettings:
    epochs: int | str = "30ep"
    """how long: 30 or "30ep" epochs, "500it" optimiser steps"""
    batch_size: int = between(64, 1)
    """images per optimiser step, over all processes"""
    lr: float = between(0.1, 0, None, "(]")
    """peak learning rate"""
    lr_factors: dict[str, float] = between({}, 0)
    """learning rate of layers as a factor of `lr`, {layer1: 0.1, fc: 10}; names and patterns as in prune.include, the
    first that fits counts"""
    weight_decay: float = between(5e-4, 0)
    """L2 penalty given to the optimiser"""
    optimizer: Choice = choice("sgd")
    """an optimiser of `pruning-bootcamp list`"""
    schedule: Choice = choice("onecycle")
    """a learning-rate schedule of `pruning-bootcamp list`"""
    warmup: int | str = "0ep"
    """linear warm-up before the schedule, part of `epochs`"""
    augment: list[str] | None = None
    """augmentations by name; leave out for the dataset's own"""
    label_smoothing: float = between(0.0, 0, 1, "[)")
    """share of the target spread over all classes"""
    mixup: float = between(0.0, 0)
    """alpha of the Beta distribution that mixes image pairs; 0 = off"""
    cutmix: float = between(0.0, 0)
    """the same for pairs of which one is pasted into the other (CutMix); with mixup, each step takes either"""
    ema: float | None = between(None, 0, 1, "()")
    """decay of the moving average of the weights that is evaluated and kept"""
    bn_l1: float = between(0.0, 0)
    """L1 penalty on batch-norm scales (Network Slimming); 0 = off"""
    amp: Literal["bf16", "fp16"] | None = None
    """mixed precision"""
    channels_last: bool = False
    """NHWC memory format"""
    compile: bool = False
    """torch.compile the training step"""
    clip_grad_norm: float | None = between(None, 0, None, "(]")
    """largest gradient norm"""
    early_stopping: int | None = between(None, 1)
    """stop after so many epochs without a better validation accuracy"""
    checkpoint_seconds: float = between(30.0, 0)
    """how often the training state is written, so that a killed run goes on from there"""
    save_steps: list[str] = field(default_factory=list)
    """write the network at these times as step_500it.pth etc., for prune.rewind: [0it, 500it, 1ep]"""

    @property
    def length(self) -> Duration:
        """`epochs` as a duration; raises BootcampError where it is none."""
        return parse_duration(self.epochs, "train.epochs")

    @property
    def warmup_length(self) -> Duration:
        """`warmup` as a duration; raises BootcampError where it is none."""
        return parse_duration(self.warmup, "train.warmup")


@dataclass
class FineTuneSettings:
    """Training after pruning. What is left out (null) is as in `train`; mixing, bn_l1 and early stopping are off."""

    enabled: bool = True
    """train after the pruning; false: prune and measure only"""
    epochs: int | str = "15ep"
    """how long, in each cycle"""
    lr: float | None = between(None, 0, None, "(]")
    """peak learning rate; left out: a tenth of train.lr"""
    lr_factors: dict[str, float] | None = between(None, 0)
    """learning rate of layers as a factor of `lr`"""
    batch_size: int | None = between(None, 1)
    """images per optimiser step"""
    weight_decay: float | None = between(None, 0)
    """L2 penalty"""
    schedule: Choice | None = None
    """a learning-rate schedule"""
    warmup: int | str = "0ep"
    """linear warm-up"""
    augment: list[str] | None = None
    """augmentations by name"""
    distill: float = between(0.0, 0, 1)
    """weight of the dense network's outputs in the loss (Hinton et al., 2015); 0 = labels only"""
    temperature: float = between(4.0, 0, None, "(]")
    """softmax temperature of the distillation"""
    features: float = between(0.0, 0)
    """weight of the distance from the outputs of the dense network's blocks (Romero et al., 2015); needs `distill`"""
    clip_grad_norm: float | None = between(None, 0, None, "(]")
    """largest gradient norm; left out: as in `train`, and 5 with freeze_batch_norm where none stands there"""
    freeze_batch_norm: bool = False
    """batch norms keep their statistics, and normalise by them: what a refit has made stays"""

    def after(self, train: TrainSettings) -> TrainSettings:
        """The whole training: what is left out here is as in `train`, and the learning rate a tenth of that.

        Mixup, CutMix, the penalty on batch-norm scales and early stopping belong to the first training and are off.
        """
        limit = FROZEN_CLIP if self.freeze_batch_norm else None
        return replace(
            train,
            epochs=self.epochs,
            lr=self.lr if self.lr is not None else train.lr / 10,
            lr_factors=train.lr_factors if self.lr_factors is None else self.lr_factors,
            batch_size=self.batch_size or train.batch_size,
            weight_decay=train.weight_decay if self.weight_decay is None else self.weight_decay,
            schedule=self.schedule or train.schedule,
            warmup=self.warmup,
            augment=train.augment if self.augment is None else self.augment,
            clip_grad_norm=self.clip_grad_norm or train.clip_grad_norm or limit,
            bn_l1=0.0,
            mixup=0.0,
            cutmix=0.0,
            early_stopping=None,
            save_steps=[],
        )


@dataclass
class RecoverSettings:
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
    lr_factors: dict[str, float] = between({}, 0)
    """learning rate of layers as a factor of `lr`"""
    clip_grad_norm: float | None = between(None, 0, None, "(]")
    """gradients of the distillation are scaled down to this norm; left out: 5 with freeze_batch_norm, else not"""
    temperature: float = between(4.0, 0, None, "(]")
    """softmax temperature of the distillation"""
    features: float = between(5.0, 0)
    """weight of the distance between the outputs of the blocks; 0 = final outputs only"""
    mixup: float = between(0.0, 0)
    """the dense network is followed on mixed image pairs too: alpha of the Beta distribution; 0 = off"""
    cutmix: float = between(0.0, 0)
    """the same for pairs of which one is pasted into the other (CutMix); with mixup, each step takes either"""
    grow: float = between(0.0, 0, 1, "[)")
    """share of the pruning (of the logarithm of what stays) left to the first half of the distillation, by magnitude"""
    freeze_batch_norm: bool = False
    """the distillation leaves batch-norm statistics as they are, and normalises by them: what a refit has made stays"""
    never_worse: bool | None = None
    """undo a distillation after which fewer held-out images are decided as the dense network decides them; left out:
    only where it follows a refit in closed form"""
    amp: Literal["auto", "bf16", "fp16"] | None = None
    """mixed precision; auto: bfloat16 where a short trial finds it quicker"""


@dataclass
class QuantizeSettings:
    """Quantisation-aware training: 8-bit weights and activations in every step, so that an int8 file loses little."""

    epochs: int | str = "3ep"
    """how long"""
    lr: float | None = between(None, 0, None, "(]")
    """peak learning rate; left out: a hundredth of train.lr"""
    distill: float = between(0.0, 0, 1)
    """weight of the dense network's outputs in the loss; 0 = labels only"""
    exclude: list[str] = field(default_factory=list)
    """layers that stay in floating point"""
