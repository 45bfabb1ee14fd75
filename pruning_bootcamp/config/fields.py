"""Every setting of a run, with its default, its range and a line on what it does."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class Choice:
    """A registered name with its settings. `score: l1` is short for `score: {name: l1, args: {}}`."""

    name: str
    args: dict[str, Any] = field(default_factory=dict)


def _between(default: Any, low: float | None = None, high: float | None = None, bounds: str = "[]") -> Any:
    """A field whose value, unless None, lies between low and high; `bounds` "[)" leaves the upper end out."""
    return field(default=default, metadata={"range": (low, high, bounds)})


def _choice(name: str, **args: Any) -> Any:
    return field(default_factory=lambda: Choice(name, dict(args)))


@dataclass
class DataConfig:
    name: str = "digits"
    """a dataset of `pruning-bootcamp list`"""
    root: str = "data"
    """the folder where the dataset lies or is downloaded to"""
    args: dict[str, Any] = field(default_factory=dict)
    """settings of the dataset itself, e.g. {mean: [...], std: [...]}"""
    val_fraction: float = _between(0.1, 0, 1, "()")
    """share of the training images held out for every choice; the test split is read once, at the end"""
    limit: int | None = _between(None, 1)
    """use only that many training images (for a quick look)"""
    batch_size: int = _between(256, 1)
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
    batch_size: int = _between(64, 1)
    """images per optimiser step, over all processes"""
    lr: float = _between(0.1, 0, None, "(]")
    """peak learning rate"""
    weight_decay: float = _between(5e-4, 0)
    """L2 penalty given to the optimiser"""
    optimizer: Choice = _choice("sgd")
    """an optimiser of `pruning-bootcamp list`"""
    schedule: Choice = _choice("onecycle")
    """a learning-rate schedule of `pruning-bootcamp list`"""
    warmup: int | str = "0ep"
    """linear warm-up before the schedule, part of `epochs`"""
    augment: list[str] | None = None
    """augmentations by name; leave out for the dataset's own"""
    label_smoothing: float = _between(0.0, 0, 1, "[)")
    """share of the target spread over all classes"""
    mixup: float = _between(0.0, 0)
    """alpha of the Beta distribution that mixes image pairs; 0 = off"""
    ema: float | None = _between(None, 0, 1, "()")
    """decay of the moving average of the weights that is evaluated and kept"""
    bn_l1: float = _between(0.0, 0)
    """L1 penalty on batch-norm scales (Network Slimming); 0 = off"""
    amp: Literal["bf16", "fp16"] | None = None
    """mixed precision"""
    channels_last: bool = False
    """NHWC memory format"""
    compile: bool = False
    """torch.compile the training step"""
    clip_grad_norm: float | None = _between(None, 0, None, "(]")
    """largest gradient norm"""
    early_stopping: int | None = _between(None, 1)
    """stop after so many epochs without a better validation accuracy"""
    checkpoint_seconds: float = _between(30.0, 0)
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
    lr: float | None = _between(None, 0, None, "(]")
    """peak learning rate; left out: a tenth of train.lr"""
    batch_size: int | None = _between(None, 1)
    """images per optimiser step"""
    weight_decay: float | None = _between(None, 0)
    """L2 penalty"""
    schedule: Choice | None = None
    """a learning-rate schedule"""
    warmup: int | str = "0ep"
    """linear warm-up"""
    augment: list[str] | None = None
    """augmentations by name"""
    distill: float = _between(0.0, 0, 1)
    """weight of the dense network's outputs in the loss (Hinton et al., 2015); 0 = labels only"""
    temperature: float = _between(4.0, 0, None, "(]")
    """softmax temperature of the distillation"""
    features: float = _between(0.0, 0)
    """weight of the distance from the outputs of the dense network's blocks (Romero et al., 2015); needs `distill`"""


@dataclass
class PruneConfig:
    """Unstructured and semi-structured pruning: score x allocation x pattern, in one shot or in cycles."""

    sparsity: float | None = _between(None, 0, 1, "[)")
    """share of the prunable weights that are zero afterwards, in total; left out: what the pattern says, else 0.5"""
    score: Choice = _choice("magnitude", p=1)
    """what a weight is worth; short forms: l1, l2, global (= l1)"""
    allocation: Choice = _choice("uniform")
    """how the sparsity is spread over the layers; short form: layerwise (= uniform)"""
    pattern: Choice = _choice("unstructured")
    """which weights may go together; short form "2:4" (in quotes: 2 kept of 4)"""
    solver: Choice = _choice("none")
    """what happens to the weights that stay: none, sparsegpt, reconstruct"""
    iterations: int = _between(1, 1)
    """cycles of prune and fine-tune; 1 = one shot"""
    schedule: Choice = _choice("cubic")
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
    calibration_images: int = _between(1024, 1)
    """training images for scores and solvers that need gradients or activations"""


@dataclass
class StructuredConfig:
    """Structured pruning: whole channels, cut out of the network."""

    score: Choice = _choice("bn_scale")
    """what a channel is worth"""
    allocation: Literal["local", "global"] = "global"
    """local: the same share of every group; global: the least channels of the whole network"""
    sparsity: float | None = _between(None, 0, 1, "[)")
    """share of the channels to cut (give this or one target)"""
    target_flops_reduction: float | None = _between(None, 0, 1, "[)")
    """share of the multiply-accumulates to save"""
    target_params_reduction: float | None = _between(None, 0, 1, "[)")
    """share of the parameters to save"""
    round_to: int | None = _between(None, 1)
    """keep widths in multiples of this (8 is quick on most hardware)"""
    max_sparsity: float = _between(0.9, 0, 1, "()")
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
    bn_images: int = _between(2048, 0)
    """augmented training images to re-estimate batch-norm statistics on; 0 = keep the old statistics"""
    images: int = _between(4096, 2)
    """training images, without their labels, to distil on"""
    steps: int = _between(1000, 1)
    """optimiser steps of the distillation, at most"""
    minutes: float | None = _between(None, 0, None, "(]")
    """time for the distillation: only as many steps as fit in"""
    batch_size: int = _between(128, 2)
    """images per optimiser step"""
    lr: float = _between(0.02, 0, None, "(]")
    """peak learning rate (SGD with Nesterov momentum, cosine)"""
    temperature: float = _between(4.0, 0, None, "(]")
    """softmax temperature of the distillation"""
    features: float = _between(5.0, 0)
    """weight of the distance between the outputs of the blocks; 0 = final outputs only"""
    grow: float = _between(0.0, 0, 1, "[)")
    """share of the pruning (of the logarithm of what stays) left to the first half of the distillation, by magnitude"""
    amp: Literal["auto", "bf16", "fp16"] | None = None
    """mixed precision; auto: bfloat16 where a short trial finds it quicker"""


@dataclass
class GoalConfig:
    """What the pruned network must reach to be called a success (`goal_met`)."""

    flops_reduction_pct: float = _between(40.0, 0, 100)
    """at least so many percent fewer multiply-accumulates"""
    accuracy_drop: float = 1.5
    """at most so many points of accuracy lost, on the test split"""


@dataclass
class QuantizeConfig:
    """Quantisation-aware training: 8-bit weights and activations in every step, so that an int8 file loses little."""

    epochs: int | str = "3ep"
    """how long"""
    lr: float | None = _between(None, 0, None, "(]")
    """peak learning rate; left out: a hundredth of train.lr"""
    distill: float = _between(0.0, 0, 1)
    """weight of the dense network's outputs in the loss; 0 = labels only"""
    exclude: list[str] = field(default_factory=list)
    """layers that stay in floating point"""


@dataclass
class PipelineConfig:
    """What `pipeline run` does to the network between training and evaluation."""

    steps: list[str] = field(default_factory=lambda: ["prune-unstructured"])
    """in this order: prune-structured, prune-unstructured, fine-tune, distill, quantize"""


@dataclass
class GatesConfig:
    """What a network must reach to be exported; judged on validation images, then once on the test images."""

    min_accuracy: float | None = _between(None, 0, 100)
    """percent"""
    max_accuracy_drop: float | None = None
    """points lost against the dense network"""
    min_flops_reduction_pct: float | None = _between(None, 0, 100)
    """percent fewer multiply-accumulates"""
    min_latency_reduction_pct: float | None = None
    """percent less time for a batch, measured here (profile.backend, profile.batch_size)"""
    max_size_mb: float | None = _between(None, 0, None, "(]")
    """no exported file is larger (10^6 bytes)"""
    export_verified: bool = True
    """every exported file was run and compared with the network"""
    no_fall_back: bool = False
    """no layer was skipped, damped more than asked, or otherwise treated differently from what was asked"""


@dataclass
class CardConfig:
    """What only you can say about the network, for its model card."""

    license: str | None = None
    """of the weights, as an SPDX identifier: apache-2.0, mit, cc-by-4.0, ..."""
    data_license: str | None = None
    """of the data that it was trained on"""
    authors: list[str] = field(default_factory=list)
    """who answers for it"""
    intended_use: str | None = None
    """what it is for"""
    limits: list[str] = field(default_factory=list)
    """what it is not good at, beside what was measured"""


@dataclass
class SensitivityConfig:
    """Which layers mind: each pruned alone as `prune` says (score, pattern, include, exclude), judged on validation."""

    sparsities: list[float] | None = None
    """in (0, 1); left out: 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, or the one that the pattern fixes"""
    by: Literal["layer", "block"] = "layer"
    """what is pruned alone: a layer, or all layers of a block (a residual block, say)"""
    images: int | None = _between(1000, 1)
    """validation images, at most; null: all of them"""
    bn_images: int = _between(0, 0)
    """training images to re-estimate batch-norm statistics on at each point; 0 = keep them: the zeros alone count"""


@dataclass
class ExportConfig:
    format: str = "both"
    """onnx, torchscript, pt2, int8, sparse, both (onnx and torchscript) or all; several with commas: int8,sparse"""
    verify: bool = True
    """run the file on fresh inputs, here and in a new process, and compare"""
    opset: int | None = _between(None, 7)
    """ONNX operator set; left out: the exporter's default"""
    batch_sizes: list[int] = field(default_factory=lambda: [1, 2, 7])
    """batch sizes to verify with"""
    tolerance: float = _between(1e-5, 0, None, "(]")
    """largest difference allowed, relative to the largest output (at least 1)"""
    calibration_images: int = _between(512, 1)
    """training images, without their labels, on which int8 measures the activations' ranges"""
    agreement: float = _between(0.97, 0, 1, "(]")
    """share of validation images for which a file with int8 numbers must choose the same class as the network"""
    agreement_images: int = _between(1000, 1)
    """validation images for that, at most"""
    sparse_values: Literal["float32", "int8"] = "float32"
    """what sparse stores: the exact weights, or those of convolutions and linear layers in int8"""
    int8_reduce_range: bool = False
    """int8 weights of 7 bits, for x86 processors without VNNI"""


@dataclass
class ProfileConfig:
    measure_latency: bool = True
    """false: FLOPs and parameters only"""
    backend: Literal["torch", "onnxruntime"] = "torch"
    """what runs the network"""
    batch_size: int = _between(1, 1)
    """images per forward pass"""
    runs: int = _between(50, 3)
    """timed passes of each network, interleaved"""


@dataclass
class Config:
    name: str = "digits"
    """names the run"""
    seed: int = _between(0, 0)
    """everything random starts from here"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps"""
    threads: int | None = _between(None, 1)
    """CPU threads; left out: torch's own choice"""
    save_dir: str | None = None
    """where the results go; left out: the command's own folder under results/"""
    checkpoint: str | None = None
    """the network to start from"""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    prune: PruneConfig = field(default_factory=PruneConfig)
    structured: StructuredConfig = field(default_factory=StructuredConfig)
    recover: RecoverConfig = field(default_factory=RecoverConfig)
    fine_tune: FineTuneConfig = field(default_factory=FineTuneConfig)
    goal: GoalConfig = field(default_factory=GoalConfig)
    quantize: QuantizeConfig = field(default_factory=QuantizeConfig)
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    gates: GatesConfig = field(default_factory=GatesConfig)
    card: CardConfig = field(default_factory=CardConfig)
    sensitivity: SensitivityConfig = field(default_factory=SensitivityConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
