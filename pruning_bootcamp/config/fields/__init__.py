"""Every setting of a run, with its default, its range and a line on what it does."""

from dataclasses import dataclass, field

from pruning_bootcamp.config.fields.basics import Choice, between
from pruning_bootcamp.config.fields.pruning import (
    GoalConfig,
    PruneConfig,
    QuantizeConfig,
    RecoverConfig,
    StructuredConfig,
)
from pruning_bootcamp.config.fields.searching import SensitivityConfig, SweepConfig
from pruning_bootcamp.config.fields.shipping import CardConfig, ExportConfig, GatesConfig, PipelineConfig, ProfileConfig
from pruning_bootcamp.config.fields.training import DataConfig, FineTuneConfig, ModelConfig, TrainConfig

__all__ = [
    "CardConfig",
    "Choice",
    "Config",
    "DataConfig",
    "ExportConfig",
    "FineTuneConfig",
    "GatesConfig",
    "GoalConfig",
    "ModelConfig",
    "PipelineConfig",
    "ProfileConfig",
    "PruneConfig",
    "QuantizeConfig",
    "RecoverConfig",
    "SensitivityConfig",
    "StructuredConfig",
    "SweepConfig",
    "TrainConfig",
]


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
    sweep: SweepConfig = field(default_factory=SweepConfig)
