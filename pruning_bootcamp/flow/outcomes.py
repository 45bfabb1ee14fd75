"""What steps come to: one dataclass a kind of step, written to its result.yaml and read back as it was."""

from dataclasses import dataclass

from pruning_bootcamp.plain import Part
from pruning_bootcamp.results import (
    Answer,
    BatchNorm,
    Comparison,
    DeadChannels,
    Distillation,
    ExportedFile,
    Forecast,
    GrownPenalty,
    Known,
    Latency,
    NetworkMetrics,
    Padding,
    Profile,
    Refit,
    Scan,
    Update,
)
from pruning_bootcamp.training.records import Epoch


@dataclass(frozen=True, kw_only=True)
class Outcome(Part):
    """What every step says."""

    summary: str = ""
    """in a few words, for the status"""
    fall_backs: tuple[str, ...] = ()
    """what was done otherwise than asked"""


@dataclass(frozen=True, kw_only=True)
class DenseNetwork(Outcome):
    """The network that everything is compared with: trained here, or opened."""

    known: Known
    val_accuracy: float | None = None
    epochs: int = 0
    best_epoch: int = 0
    steps: int = 0
    history: tuple[Epoch, ...] = ()
    """of its training"""
    train_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Distribution(Part):
    """Of many numbers."""

    min: float
    max: float
    mean: float
    std: float


@dataclass(frozen=True, kw_only=True)
class Measured(Outcome):
    """Statistics or scores that were kept in a file."""

    scores: dict[str, Distribution] | None = None
    """of each layer or group"""


@dataclass(frozen=True, kw_only=True)
class Recovered(Outcome):
    """A network and how good it is on the validation images; how it was recovered, if it was."""

    val_accuracy: float
    batch_norm_reestimated: bool | None = None
    batch_norm: BatchNorm | None = None
    distillation: Distillation | None = None
    sparsity: float | None = None
    """where zeros were made, or made more"""


@dataclass(frozen=True, kw_only=True)
class Pruned(Recovered):
    """Weights were set to zero."""

    layers: dict[str, float]
    """name -> sparsity"""
    pruning_seconds: float


@dataclass(frozen=True, kw_only=True)
class Cut(Recovered):
    """Channels were cut out."""

    widths: dict[str, tuple[int, int]]
    """group -> channels in the dense network and after the cut"""
    flops_reduction_pct: float | None = None
    """against the dense network"""
    round_to: int | None
    round_to_narrow: dict[str, int] | None = None
    forecasts: tuple[Forecast, ...] | None = None
    """of a budget in time"""
    proof_difference: float | None
    """between the cut network and the dense one with those channels zeroed; None: nothing was cut"""
    dead: DeadChannels | None = None
    """where only these were removed"""


@dataclass(frozen=True, kw_only=True)
class Regularised(Outcome):
    """A network was trained to give up the channels that will be cut."""

    val_accuracy: float
    grown_penalty: GrownPenalty


@dataclass(frozen=True, kw_only=True)
class Refitted(Recovered):
    """The layers of a pruned network were fitted to what the dense network computes."""

    refit: Refit


@dataclass(frozen=True, kw_only=True)
class Trained(Outcome):
    """A network was trained with labels."""

    val_accuracy: float
    best_epoch: int
    fine_tune_seconds: float
    sparsity: float | None = None
    updates: tuple[Update, ...] | None = None
    """of the masks, where the sparsity grew"""


@dataclass(frozen=True, kw_only=True)
class Judged(Outcome):
    """Both networks on the images of one split."""

    accuracy: float
    loss: float
    images: int
    baseline_accuracy: float


@dataclass(frozen=True, kw_only=True)
class ComparedCosts(Outcome):
    """What both networks cost, and their latency where a gate asks for it."""

    baseline: NetworkMetrics
    pruned: NetworkMetrics
    saved: Comparison
    latency_measured: str | None = None
    """how, for the gate's words"""


@dataclass(frozen=True, kw_only=True)
class Timed(Outcome):
    """How long one network takes."""

    network: NetworkMetrics
    """with its latency on the main backend"""
    latencies: dict[str, Latency] | None = None
    """on each backend that was asked for, where they are several"""
    texts: tuple[str, ...]
    """a line a backend"""


@dataclass(frozen=True, kw_only=True)
class Profiled(Outcome):
    """Two networks timed in turn, layer by layer."""

    profile: Profile
    texts: tuple[str, ...]
    """what to say of it beside the comparison"""


@dataclass(frozen=True, kw_only=True)
class Paying(Outcome):
    """What would make a network quicker here, and what would not."""

    answers: tuple[Answer, ...]
    next_command: str | None = None


@dataclass(frozen=True, kw_only=True)
class Padded(Outcome):
    """A network as wide as the files that ship."""

    padding: Padding


@dataclass(frozen=True, kw_only=True)
class Exported(Outcome):
    """Files that ship."""

    files: dict[str, ExportedFile]
    dense_size_mb: float | None = None
    """of the network that they are compared with"""


@dataclass(frozen=True, kw_only=True)
class Scanned(Outcome):
    """A sensitivity scan."""

    table: Scan
