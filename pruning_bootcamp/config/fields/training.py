"""Settings of data, model and training."""

from dataclasses import dataclass, field
from typing import Any, Literal

from pruning_bootcamp.config.fields.basics import Choice, between, choice


@dataclass
class DataConfig:
    name: str = "digits"
    """a dataset of `pruning-bootcamp list`"""
    root: str = "data"
    """the folder where the dataset lies or is downloaded to"""
    args: dict[str, Any] = field(default_factory=dict)
    """settings of the dataset itself, e.g. {mean: [...], std: [...]}"""
    val_fraction: float = between(0.1, 0, 1, "()")
    """share of the training images held out for every choice; the test split is read once, at the end"""
    limit: int | None = between(None, 1)
    """use only that many training images (for a quick look)"""
    batch_size: int = between(256, 1)
    """images per batch in evaluation"""


@dataclass
class ModelConfig:
    name: str = "cifar_resnet20"
    """a model of `pruning-bootcamp list`, any torchvision or timm name, or module:factory"""
    args: dict[str, Any] = field(default_factory=dict)
    """keyword arguments of the model's builder; classes and channels come from the data"""


@dataclass
class TrainConfig:
    epochs: int | str = "30ep"
    """how long: 30 or "30ep" epochs, "500it" optimiser steps"""
    batch_size: int = between(64, 1)
    """images per optimiser step, over all processes"""
    lr: float = between(0.1, 0, None, "(]")
    """peak learning rate"""
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


@dataclass
class FineTuneConfig:
    """Training after pruning. What is left out (null) is as in `train`; mixup, bn_l1 and early stopping are off."""

    enabled: bool = True
    """false: prune and measure only"""
    epochs: int | str = "15ep"
    """how long, in each cycle"""
    lr: float | None = between(None, 0, None, "(]")
    """peak learning rate; left out: a tenth of train.lr"""
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
