"""Every setting of a run, with its default, its range and a line on what it does."""

from dataclasses import dataclass, field
from typing import Any, Literal

from pruning_bootcamp.export_settings import ExportSettings
from pruning_bootcamp.pruning.sections import PruneSettings, StructuredSettings
from pruning_bootcamp.schema import Choice, between, choice
from pruning_bootcamp.tools.data_settings import DataSettings
from pruning_bootcamp.training.settings import FineTuneSettings, QuantizeSettings, RecoverSettings, TrainSettings


@dataclass
class ModelConfig:
    name: str = "cifar_resnet20"
    """a model of `pruning-bootcamp list`, any torchvision or timm name, or module:factory"""
    args: dict[str, Any] = field(default_factory=dict)
    """keyword arguments of the model's builder; classes and channels come from the data"""


@dataclass
class GoalConfig:
    """What the pruned network must reach to be called a success (`goal_met`)."""

    flops_reduction_pct: float = between(40.0, 0, 100)
    """at least so many percent fewer multiply-accumulates"""
    accuracy_drop: float = 1.5
    """at most so many points of accuracy lost, on the test split"""
    evaluate_test: bool = True
    """false: training and pruning leave the test split unread, give validation metrics (val_...) and judge no goal"""


@dataclass
class PipelineConfig:
    """What `pipeline run` does to the network between training and evaluation."""

    steps: list[str] = field(default_factory=lambda: ["prune-unstructured"])
    """in this order: prune-structured, prune-unstructured, fine-tune, distill, quantize"""


@dataclass
class GatesConfig:
    """What a network must reach to be exported; judged on validation images, then once on the test images."""

    min_accuracy: float | None = between(None, 0, 100)
    """percent"""
    max_accuracy_drop: float | None = None
    """points lost against the dense network"""
    min_flops_reduction_pct: float | None = between(None, 0, 100)
    """percent fewer multiply-accumulates"""
    min_latency_reduction_pct: float | None = None
    """percent less time for a batch, measured here (profile.backend, profile.batch_size)"""
    max_size_mb: float | None = between(None, 0, None, "(]")
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
class ProfileConfig:
    measure_latency: bool = True
    """time both networks, in turn; false: FLOPs and parameters only"""
    backend: str = "torch"
    """what runs the network: torch, channels_last, compile, cuda_graph, onnxruntime; or module:function"""
    batch_size: int = between(1, 1)
    """images per forward pass"""
    runs: int = between(50, 3)
    """timed passes of each network, interleaved"""


@dataclass
class SensitivityConfig:
    """Which layers mind: each pruned alone as `prune` says (score, pattern, include, exclude), judged on validation."""

    sparsities: list[float] | None = None
    """in (0, 1); left out: 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, or the one that the pattern fixes"""
    by: Literal["layer", "block"] = "layer"
    """what is pruned alone: a layer, or all layers of a block (a residual block, say)"""
    images: int | None = between(1000, 1)
    """validation images, at most; null: all of them"""
    bn_images: int = between(0, 0)
    """training images to re-estimate batch-norm statistics on at each point; 0 = keep them: the zeros alone count"""


@dataclass
class SweepConfig:
    """A search over settings: what `sweep` tries, how it chooses, and what accuracy is weighed against."""

    command: Literal["prune-structured", "prune-unstructured", "train"] = "prune-structured"
    """what a trial runs, with this config"""
    space: dict[str, Any] = field(default_factory=dict)
    """key of this config -> the values to try: a list, or {low, high, step, log} (step and log may be left out)"""
    sampler: Literal["grid", "random", "tpe", "nsga2"] = "tpe"
    """grid: every combination; random; tpe: Bayesian; nsga2: genetic"""
    trials: int | None = between(None, 1)
    """how many different settings are run; left out: the whole grid, or 20 for the other samplers"""
    objectives: list[str] = field(default_factory=lambda: ["accuracy", "flops_g"])
    """accuracy (on validation images, as high as possible), and flops_g, latency_ms or size_mb (as low as possible)"""
    early_stopping: bool = True
    """end a trial that is less accurate at an epoch than the median of the finished ones that cost no more"""
    startup_trials: int = between(5, 1)
    """so many finished trials that cost no more must be there before one is stopped"""
    warmup_epochs: int = between(1, 0)
    """no trial is stopped before so many epochs"""
    workers: int = between(1, 1)
    """trials at the same time; each process gets its share of the cores"""
    executor: Literal["local", "ray"] = "local"
    """local: processes of this machine; ray: tasks of a Ray cluster, or of a local one"""
    storage: str | None = None
    """the study's database, any optuna URL, for several machines; left out: study.db in the folder"""
    retries: int = between(2, 0)
    """how often a trial whose process was killed is tried again"""


@dataclass
class Config:
    name: str = "digits"
    """names the run"""
    seed: int = between(0, 0)
    """everything random starts from here"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps"""
    threads: int | None = between(None, 1)
    """CPU threads; left out: torch's own choice"""
    save_dir: str | None = None
    """where the results go; left out: the command's own folder under results/"""
    checkpoint: str | None = None
    """the network to start from"""
    task: Choice = choice("image_classification")
    """what is asked of the network: a task of `pruning-bootcamp list`, or FILE.py:task of your own"""
    data: DataSettings = field(default_factory=DataSettings)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainSettings = field(default_factory=TrainSettings)
    prune: PruneSettings = field(default_factory=PruneSettings)
    structured: StructuredSettings = field(default_factory=StructuredSettings)
    recover: RecoverSettings = field(default_factory=RecoverSettings)
    fine_tune: FineTuneSettings = field(default_factory=FineTuneSettings)
    goal: GoalConfig = field(default_factory=GoalConfig)
    quantize: QuantizeSettings = field(default_factory=QuantizeSettings)
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    gates: GatesConfig = field(default_factory=GatesConfig)
    card: CardConfig = field(default_factory=CardConfig)
    sensitivity: SensitivityConfig = field(default_factory=SensitivityConfig)
    export: ExportSettings = field(default_factory=ExportSettings)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
