"""Every setting of a run, with its default, its range and a line on what it does."""

from dataclasses import dataclass, field

from pruning_bootcamp.config.fields.pruning import GoalConfig
from pruning_bootcamp.config.fields.searching import SensitivityConfig, SweepConfig
from pruning_bootcamp.config.fields.shipping import CardConfig, GatesConfig, PipelineConfig, ProfileConfig
from pruning_bootcamp.config.fields.training import ModelConfig
from pruning_bootcamp.export_settings import ExportSettings
from pruning_bootcamp.pruning.sections import PruneSettings, StructuredSettings
from pruning_bootcamp.schema import Choice, between, choice
from pruning_bootcamp.tools.data_settings import DataSettings
from pruning_bootcamp.training.settings import FineTuneSettings, QuantizeSettings, RecoverSettings, TrainSettings


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
