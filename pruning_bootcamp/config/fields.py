"""Every setting of a run, with its default, its range and a line on what it does: each section stands by its engine."""

from dataclasses import dataclass, field

from pruning_bootcamp.export_settings import ExportSettings
from pruning_bootcamp.flow.sections import (
    CardSettings,
    GatesSettings,
    GoalSettings,
    ModelSettings,
    PipelineSettings,
    ProfileSettings,
)
from pruning_bootcamp.pruning.sections import PruneSettings, SensitivitySettings, StructuredSettings
from pruning_bootcamp.schema import Choice, between, choice
from pruning_bootcamp.sweep.settings import SweepSettings
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
    model: ModelSettings = field(default_factory=ModelSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    prune: PruneSettings = field(default_factory=PruneSettings)
    structured: StructuredSettings = field(default_factory=StructuredSettings)
    recover: RecoverSettings = field(default_factory=RecoverSettings)
    fine_tune: FineTuneSettings = field(default_factory=FineTuneSettings)
    goal: GoalSettings = field(default_factory=GoalSettings)
    quantize: QuantizeSettings = field(default_factory=QuantizeSettings)
    pipeline: PipelineSettings = field(default_factory=PipelineSettings)
    gates: GatesSettings = field(default_factory=GatesSettings)
    card: CardSettings = field(default_factory=CardSettings)
    sensitivity: SensitivitySettings = field(default_factory=SensitivitySettings)
    export: ExportSettings = field(default_factory=ExportSettings)
    profile: ProfileSettings = field(default_factory=ProfileSettings)
    sweep: SweepSettings = field(default_factory=SweepSettings)
