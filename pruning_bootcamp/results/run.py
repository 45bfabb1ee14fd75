"""metrics.yaml: everything that a run did and measured."""

from dataclasses import dataclass

from pruning_bootcamp.plain import Part, beside
from pruning_bootcamp.results.layer_times import Forecast
from pruning_bootcamp.results.network import Comparison, Environment, NetworkMetrics
from pruning_bootcamp.results.profile import Latency, Paired


@dataclass(frozen=True, kw_only=True)
class BatchNorm(Part):
    """Batch norm re-estimated: on and by how many images; agreement with the dense network, divergence from it."""

    estimated_on: int
    judged_on: int
    agreement_pct_before: float
    agreement_pct_after: float
    divergence_before: float
    divergence_after: float


@dataclass(frozen=True, kw_only=True)
class Distillation(Part):
    steps: int
    amp: str | None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Refit(Part):
    """Layers fitted to what the dense network computes, in closed form, without labels."""

    layers: int
    images: int
    seconds: float
    left: tuple[str, ...] = ()
    """layers that read cut channels, or lost weights, and were not fitted, with the reason"""


@dataclass(frozen=True, kw_only=True)
class GrownPenalty(Part):
    """Training with labels before the cut, under a penalty on what makes the channels that go."""

    steps: int
    penalty: float
    """at the end"""
    norm_left: float
    """of the penalised weights, as a share of what it was"""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class DeadChannels(Part):
    """Channels that did nothing: removed, and of these a constant other than 0; and why others stay."""

    removed: int
    folded: int
    stays: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Recovery(Part):
    """What brought a pruned network back, before and without any training with labels."""

    batch_norm_reestimated: bool | None = None
    batch_norm: BatchNorm | None = None
    distillation: Distillation | None = None


@dataclass(frozen=True, kw_only=True)
class Cycle(Recovery):
    """One pruning and what followed it."""

    cycle: int
    sparsity: float | None = None
    """where weights were zeroed"""
    flops_reduction_pct: float | None = None
    """where channels were cut"""
    val_accuracy_pruned: float
    fall_backs: tuple[str, ...] = ()
    pruning_seconds: float | None = None
    val_accuracy: float | None = None
    best_epoch: int | None = None
    fine_tune_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Update(Part):
    """The sparsity from a step on, while the training goes on."""

    step: int
    sparsity: float


@dataclass(frozen=True, kw_only=True)
class SliceProof(Part):
    """By how much the cut network and the dense one with those channels zeroed differ at most."""

    max_difference: float
    passed: bool


@dataclass(frozen=True)
class Fit(Part):
    """The dense network on as many validation as training images, none of them augmented; percent."""

    val_accuracy: float
    train_accuracy: float
    images: int


@dataclass(frozen=True, kw_only=True)
class Known(Part):
    """Whether the dense network was trained on its validation images (memorised.py), and what says so."""

    validation_was_trained_on: str | None = None
    held_out: str | None = None
    """a hash of the validation images"""
    dense_fit: Fit | None = None


@dataclass(frozen=True, kw_only=True)
class Validation(Part):
    """What the gates judge on validation images, before the test images are looked at."""

    accuracy: float
    accuracy_drop: float
    images: int
    baseline_accuracy: float | None = None
    latency_reduction_pct: float | None = None


@dataclass(frozen=True, kw_only=True)
class Gate(Part):
    """A gate's verdict: what was asked, what was found, where, and whether it is enough."""

    gate: str
    asked: str
    found: str
    where: str
    met: bool

    def __str__(self) -> str:
        return f"{'✓' if self.met else '✗'} gates.{self.gate}: {self.found} ({self.where}), asked for {self.asked}"


@dataclass(frozen=True, kw_only=True)
class ExportedFile(Part):
    """A file for deployment, and by how much its outputs differ from the network's."""

    file: str
    size_mb: float
    verified: bool
    max_difference: float | None
    relative_difference: float | None
    batch_sizes: tuple[int, ...]
    new_process: bool
    dense_mb: float | None = None
    times_smaller: float | None = None
    agreement: float | None = None
    """share of `agreement_images` with the network's class"""
    agreement_images: int | None = None
    accuracy: float | None = None
    dense_accuracy: float | None = None
    accuracy_drop: float | None = None
    zeroed_weights: dict[str, int] | None = None
    """tensor -> how many of its weights were too small to be worth their time, and are 0 in the file"""
    emptied_filters: dict[str, int] | None = None
    """layer -> how many of its filters were not zero, and are all zeros once rounded"""
    notes: tuple[str, ...] | None = None
    """what stands in the file otherwise than in the network, in words"""


@dataclass(frozen=True, kw_only=True)
class PaddedLatency(Part):
    """A network of some widths, timed in turn with the same in widths as they are: `paired` is against that."""

    latency: Latency
    paired: Paired | None = None


@dataclass(frozen=True, kw_only=True)
class Padding(Part):
    """Widths rounded up with zero channels for the files of an export; the checkpoint stays as it is."""

    asked: str | int
    multiple: int | None
    """None: widths as they are"""
    widths: dict[str, tuple[int, int]]
    """group of channels -> how many there were, and are"""
    left: dict[str, str] | None = None
    """group whose width is no multiple and stays -> why"""
    max_difference: float | None = None
    """between the outputs, in the proof"""
    timed: dict[str, PaddedLatency] | None = None
    """`as they are`, or the multiple -> its time"""


@dataclass(frozen=True, kw_only=True)
class ModelInput(Part):
    """What a network takes: `1x8x8`, and the normalisation of each channel (none: it is given what is stored)."""

    shape: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    below: int | None = None
    """int64 inputs are whole numbers from 0 up and below this; None: fractions"""


@dataclass(frozen=True, kw_only=True)
class Metrics(Known, Recovery, Comparison, NetworkMetrics):
    """metrics.yaml: everything that a run measured; eval_metrics.yaml holds the same names."""

    val_accuracy_drop: float | None = None
    baseline: NetworkMetrics | None = None
    val_accuracy_pruned: float | None = None
    """before any training"""
    cycles: tuple[Cycle, ...] | None = None
    updates: tuple[Update, ...] | None = None
    epochs: int | None = None
    best_epoch: int | None = None
    steps: int | None = None
    train_seconds: float | None = None
    fine_tune_seconds: float | None = None
    grown_penalty: GrownPenalty | None = None
    slice_proof: SliceProof | None = None
    refit: Refit | None = None
    dead_channels: DeadChannels | None = None
    widths: dict[str, tuple[int, int]] | None = None
    """group of channels -> how many there were, and are"""
    round_to: int | None = beside("widths")
    round_to_narrow: dict[str, int] | None = None
    forecasts: tuple[Forecast, ...] | None = None
    """of a budget in time: what the layers' times foresaw when the widths were chosen, a way each"""
    fall_backs: tuple[str, ...] | None = None
    gates: tuple[Gate, ...] | None = None
    goal: str | None = None
    goal_met: bool | None = None
    validation: Validation | None = None
    stopped: tuple[str, ...] | None = None
    """why there are no test metrics"""
    judged_on: str | None = None
    val_split: str | None = None
    test_split: str | None = None
    export: dict[str, ExportedFile] | None = None
    files: dict[str, ExportedFile] | None = None
    padding: Padding | None = None
    """of the files"""
    dense_size_mb: float | None = None
    input: ModelInput | None = None
    latency_measured: str | None = None
    latencies: dict[str, Latency] | None = None
    """of an evaluation on several backends, by their names"""
    points: int | None = None
    """of a sensitivity scan, as the next two"""
    most_sensitive: str | None = None
    least_sensitive: str | None = None
    seconds: float | None = None
    checkpoint: str | None = None
    seed: int | None = None
    environment: Environment | None = None
    fingerprint: str | None = None
    status: str | None = None


@dataclass(frozen=True, kw_only=True)
class Exports(Part):
    """export_metrics.yaml."""

    checkpoint: str
    formats: dict[str, ExportedFile]
    padding: Padding | None = None
    environment: Environment | None = None


@dataclass(frozen=True, kw_only=True)
class BenchmarkRow(Part):
    method: str
    at: str | float
    seed: int
    accuracy: float
    sparsity: float | None = None
    accuracy_as_pruned: float | None = None
    batch_norm_reestimated: bool | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Benchmark(Part):
    """metrics.yaml of a benchmark: the dense network's accuracy, and every other network's."""

    dense: float
    rows: tuple[BenchmarkRow, ...]
    environment: Environment | None = None
