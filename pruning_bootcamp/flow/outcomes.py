"""What steps come to: one dataclass a kind of step, written to its result.yaml and read back as it was."""

from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from pruning_bootcamp.schema import coerce

Kind = TypeVar("Kind", bound="Outcome")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What every step says."""

    summary: str = ""
    """in a few words, for the status"""
    fall_backs: list[str] = field(default_factory=list)
    """what was done otherwise than asked"""


@dataclass(frozen=True, kw_only=True)
class DenseNetwork(Outcome):
    """The network that everything is compared with: trained here, or opened."""

    known: dict[str, Any]
    """whether it knows the validation images (`memorised`)"""
    val_accuracy: float | None = None
    epochs: int = 0
    best_epoch: int = 0
    steps: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    """of its training, an entry an epoch"""
    train_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Measured(Outcome):
    """Statistics or scores that were kept in a file."""

    of: dict[str, dict[str, float]] = field(default_factory=dict)
    """name -> min, max, mean, std"""


@dataclass(frozen=True, kw_only=True)
class Recovered(Outcome):
    """A network and how good it is on the validation images; how it was recovered, if it was."""

    val_accuracy: float
    batch_norm: dict[str, Any] = field(default_factory=dict)
    """what re-estimating batch norm did; empty where it was not tried"""
    batch_norm_reestimated: bool | None = None
    distillation: dict[str, Any] = field(default_factory=dict)
    sparsity: float | None = None
    """where zeros were made, or made more"""


@dataclass(frozen=True, kw_only=True)
class Pruned(Recovered):
    """Weights were set to zero."""

    layers: dict[str, float] = field(default_factory=dict)
    """name -> sparsity"""
    pruning_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Cut(Recovered):
    """Channels were cut out."""

    widths: dict[str, list[int]] = field(default_factory=dict)
    """group -> channels before and after"""
    round_to: int | None = None
    round_to_narrow: dict[str, Any] = field(default_factory=dict)
    proof_difference: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Trained(Outcome):
    """A network was trained with labels."""

    val_accuracy: float
    best_epoch: int
    seconds: float
    sparsity: float | None = None
    updates: list[dict[str, Any]] = field(default_factory=list)
    """of the masks, where the sparsity grew"""


@dataclass(frozen=True, kw_only=True)
class Judged(Outcome):
    """Both networks on the images of one split."""

    split: str
    accuracy: float
    loss: float
    images: int
    baseline_accuracy: float
    baseline_loss: float


@dataclass(frozen=True, kw_only=True)
class Costs(Outcome):
    """What both networks cost, and their latency where a gate asks for it."""

    baseline: dict[str, Any]
    pruned: dict[str, Any]
    paired: dict[str, Any] = field(default_factory=dict)
    """the latency's paired ratio"""
    disagreement: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Exported(Outcome):
    """Files that ship."""

    files: dict[str, dict[str, Any]]
    dense_size_mb: float


@dataclass(frozen=True, kw_only=True)
class Scanned(Outcome):
    """A sensitivity scan."""

    table: dict[str, Any]


def as_plain(outcome: Outcome) -> dict[str, Any]:
    """As result.yaml keeps it: what is as it is by default is left out."""
    return asdict(outcome)


def from_plain(kind: type[Kind], content: dict[str, Any]) -> Kind:
    """An outcome as it was; a ValueError or TypeError when the content is another's."""
    assert is_dataclass(kind)
    hints, known = get_type_hints(kind), {part.name for part in fields(kind)}
    if beyond := content.keys() - known:
        raise ValueError(f"{sorted(beyond)[0]} is not of {kind.__name__}")
    return kind(**{name: coerce(value, hints[name]) for name, value in content.items()})
