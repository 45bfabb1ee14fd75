"""What the commands measure, as data: each class is a file of results, or a part of one, written down by its names.

`to_plain` and `from_plain` are the way into a file and back. What a file holds that its class does not know (another
version wrote it) is kept in `more` and written again.
"""

import dataclasses
import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.schema import Mismatch, coerce, shown

Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]
"""what a YAML file may hold"""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a file of results. A figure that is None is not known, and is not written.

    But a figure without a default is always written, as null where it is None; and so is one that stands `beside`
    another, where that is known.
    """

    more: dict[str, Plain] = field(default_factory=dict, repr=False)
    """what else stands in the file"""


def beside(name: str) -> Any:
    """A figure that is written, as null if need be, wherever the figure `name` is."""
    return field(default=None, metadata={"beside": name})


# What one network does and costs


@dataclass(frozen=True, kw_only=True)
class LeftOut(Part):
    """Weights that are not pruned, and why."""

    name: str
    params: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Accuracies(Part):
    """How often a network is right (percent), its mean cross-entropy, and over how many images."""

    accuracy: float | None = None
    """on the test images; in what validation judges, on those"""
    val_accuracy: float | None = None
    val_images: int | None = None
    loss: float | None = None
    val_loss: float | None = None
    test_images: int | None = None


@dataclass(frozen=True, kw_only=True)
class Cost(Part):
    """What one pass of a network takes (flops_g, flops_g_thop: multiply-accumulates in 10^9 by two counters), its
    parameters in millions, and how many of its weights are zero."""

    flops_g: float | None = None
    flops_g_thop: float | None = beside("flops_g")
    params_m: float | None = None
    sparsity: float | None = None
    """of the `prunable_params`"""
    sparsity_of_all: float | None = None
    prunable_params: int | None = None
    left_out: tuple[LeftOut, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Network(Cost, Accuracies):
    """One network: what it does, what it costs, and how long it takes."""

    latency_ms: float | None = None
    throughput_fps: float | None = None
    latency_batch_size: int | None = None
    weights: str | None = None
    """a hash of them"""


@dataclass(frozen=True, kw_only=True)
class Comparison(Part):
    """What a pruned network saves (percent of the baseline, negative = grew) and loses (points)."""

    flops_reduction_pct: float | None = None
    params_reduction_pct: float | None = None
    latency_reduction_pct: float | None = None
    latency_reduction_low_pct: float | None = beside("latency_pairs")
    latency_reduction_high_pct: float | None = beside("latency_pairs")
    latency_pairs: int | None = None
    latency_block: int | None = None
    accuracy_drop: float | None = None
    speedup: float | None = None


@dataclass(frozen=True, kw_only=True)
class Environment(Part):
    """What a result depends on and can't be seen from its config."""

    pruning_bootcamp: str | None = None
    python: str | None = None
    torch: str | None = None
    platform: str | None = None
    device: str | None = None
    threads: int | None = None
    commit: str | None = beside("python")
    time: str | None = None
    workers: int | None = None
    """of a sweep"""


# What a run did


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
class Recovery(Part):
    """What brought a pruned network back, before and without any training with labels."""

    batch_norm_reestimated: bool | None = None
    batch_norm: BatchNorm | None = None
    distillation: Distillation | None = None


@dataclass(frozen=True, kw_only=True)
class FineTuning(Part):
    """A training with labels after the pruning: its best validation accuracy, in which epoch, and how long it took."""

    val_accuracy: float
    best_epoch: int | None = None
    fine_tune_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Cycle(Recovery):
    """One pruning and what followed it."""

    cycle: int
    sparsity: float
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


@dataclass(frozen=True, kw_only=True)
class ModelInput(Part):
    """What a network takes: `1x8x8`, and the normalisation of each channel."""

    shape: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Metrics(Known, Recovery, Comparison, Network):
    """metrics.yaml: everything that a run measured; eval_metrics.yaml holds the same names."""

    val_accuracy_drop: float | None = None
    baseline: Network | None = None
    val_accuracy_pruned: float | None = None
    """before any training"""
    cycles: tuple[Cycle, ...] | None = None
    updates: tuple[Update, ...] | None = None
    epochs: int | None = None
    best_epoch: int | None = None
    steps: int | None = None
    train_seconds: float | None = None
    fine_tune_seconds: float | None = None
    slice_proof: SliceProof | None = None
    widths: dict[str, tuple[int, int]] | None = None
    """group of channels -> how many there were, and are"""
    round_to: int | None = beside("widths")
    round_to_narrow: dict[str, int] | None = None
    fall_backs: tuple[str, ...] | None = None
    gates: tuple[Gate, ...] | None = None
    goal: str | None = None
    goal_met: bool | None = None
    validation: Validation | None = None
    stopped: tuple[str, ...] | None = None
    """why there are no test figures"""
    judged_on: str | None = None
    val_split: str | None = None
    test_split: str | None = None
    export: dict[str, ExportedFile] | None = None
    files: dict[str, ExportedFile] | None = None
    dense_size_mb: float | None = None
    input: ModelInput | None = None
    latency_measured: str | None = None
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
    environment: Environment | None = None


# A benchmark: a row a network


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


# profile.yaml


@dataclass(frozen=True, kw_only=True)
class Latency(Part):
    """Milliseconds of one forward pass of `batch_size` images, over `n` timed passes; what ran it, and where."""

    median_ms: float
    mean_ms: float
    std_ms: float
    p5_ms: float
    p95_ms: float
    n: int
    batch_size: int
    device: str
    threads: int
    backend: str


@dataclass(frozen=True, kw_only=True)
class Paired(Comparison):
    """One way to run two networks, pair by pair; `verdict`: faster, slower or may be noise."""

    verdict: str | None = None


@dataclass(frozen=True, kw_only=True)
class LatencyPair(Part):
    """The two networks timed in turn."""

    baseline: Latency | None = None
    pruned: Latency | None = None
    paired: Paired | None = None


@dataclass(frozen=True, kw_only=True)
class Layer(Part):
    """A layer's time and multiply-accumulates; `share` of all layers' time."""

    name: str
    kind: str
    median_ms: float
    share: float
    macs: float
    width: int | None


@dataclass(frozen=True, kw_only=True)
class Cause(Part):
    """Points of the gap between FLOPs and latency, and where they come from."""

    points: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Analysis(Part):
    """Why the latency fell by less (or more) than the FLOPs."""

    discrepancy_points: float | None = None
    certain: bool | None = None
    verdict: str | None = None
    causes: tuple[Cause, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CutWidths(Part):
    """Layers whose width the pruning changed, and how many of those widths are no multiple of 8."""

    cut: int
    uneven: int


@dataclass(frozen=True, kw_only=True)
class Checkpoints(Part):
    """The files of the two networks."""

    baseline: str | None = None
    pruned: str | None = None


@dataclass(frozen=True, kw_only=True)
class Profile(Part):
    """profile.yaml: FLOPs against latency."""

    baseline: Network | None = None
    pruned: Network | None = None
    comparison: Comparison
    environment: Environment | None = None
    checkpoints: Checkpoints
    latency: LatencyPair | None = None
    layers: dict[str, tuple[Layer, ...]] | None = None
    analysis: Analysis | None = None
    alternatives: dict[str, LatencyPair] | None = None
    """other ways to run the pair"""
    not_timed: tuple[str, ...] | None = None
    launch_bound: tuple[str, ...] | None = None
    cut_widths: CutWidths | None = None

    @property
    def pruned_latency(self) -> Latency | None:
        return None if self.latency is None else self.latency.pruned


# sensitivity.yaml


@dataclass(frozen=True, kw_only=True)
class Quality(Part):
    """Percent right, and mean cross-entropy."""

    accuracy: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class ScanPoint(Quality):
    """What a network is worth with one place pruned to a sparsity."""

    sparsity: float


@dataclass(frozen=True, kw_only=True)
class ScanRow(Part):
    """A layer or block pruned alone; its weights and their number."""

    name: str
    weights: tuple[str, ...]
    size: int
    points: tuple[ScanPoint, ...]


@dataclass(frozen=True, kw_only=True)
class Scan(Part):
    """sensitivity.yaml: one place pruned at a time, on so many validation images."""

    by: str
    score: str
    pattern: str
    split: str
    images: int
    dense: Quality
    sparsities: tuple[float, ...]
    rows: tuple[ScanRow, ...]


# sweep.yaml


@dataclass(frozen=True, kw_only=True)
class Trial(Part):
    """A trial of a sweep; `params`: config key -> value; `values`: figure -> value, on validation images."""

    number: int
    state: str
    params: dict[str, Plain]
    values: dict[str, float]
    folder: str
    seconds: float
    host: str | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Ended(Part):
    """trial.yaml: what a trial came to."""

    number: int
    state: str
    """complete, pruned (stopped early), failed, or halted (by the machine, not by its settings: to be tried again)"""
    values: dict[str, float] = field(default_factory=dict)
    curve: dict[int, float] = field(default_factory=dict)
    """epoch -> validation accuracy"""
    weight: float | None = beside("number")
    """what early stopping compares trials by"""
    reason: str = ""
    seconds: float = 0.0
    fingerprint: str | None = None


@dataclass(frozen=True, kw_only=True)
class Objective(Part):
    name: str
    direction: str


@dataclass(frozen=True, kw_only=True)
class Repeat(Part):
    """A suggestion whose settings another trial had."""

    number: int
    of: int


@dataclass(frozen=True, kw_only=True)
class Dense(Known):
    """The dense network of a sweep, by the figures that trials are compared by."""

    accuracy: float
    flops_g: float | None = None
    latency_ms: float | None = None
    size_mb: float | None = None
    params_m: float | None = None
    sparsity: float | None = None

    @property
    def values(self) -> dict[str, float]:
        """Figure -> value, as of a trial."""
        named = ("accuracy", "flops_g", "latency_ms", "size_mb", "params_m", "sparsity")
        return {name: value for name in named if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, kw_only=True)
class Study(Part):
    """sweep.yaml."""

    name: str
    command: str
    sampler: str
    space: dict[str, Plain]
    objectives: tuple[Objective, ...]
    split: str
    max_drop: float
    dense: Dense | None
    seed: int
    trials: tuple[Trial, ...] = ()
    repeats: tuple[Repeat, ...] = ()
    pareto: tuple[int, ...] = ()
    hypervolume: float | None = None
    hypervolume_reference: dict[str, float] | None = None
    chosen: int | None = beside("chosen_because")
    chosen_because: str | None = None
    chosen_keeps_accuracy: bool | None = None
    fingerprint: str | None = None
    status: str | None = None
    environment: Environment | None = None


# Into a file and back

Kind = TypeVar("Kind", bound=Part)


def to_plain(part: Part) -> dict[str, Plain]:
    """The names and values that a file holds, in the order of the fields; `more` comes last."""
    written = {}
    for one in _fields(type(part)):
        value = getattr(part, one.name)
        if value is not None or _is_always_written(one, part):
            written[one.name] = _plain(value)
    return written | part.more


def from_plain(kind: type[Kind], content: object, where: str | None = None) -> Kind:
    """The part that a file's table holds; a BootcampError names every value that is none of its kind, at `where`."""
    problems: list[str] = []
    part = _read_part(kind, content, "", problems)
    if part is None or problems:
        raise BootcampError(*problems, where=where)
    return part


def _fields(kind: type[Part]) -> Iterator[Any]:
    return (one for one in dataclasses.fields(kind) if one.name != "more")


def _is_always_written(one: Any, part: Part) -> bool:
    if "beside" in one.metadata:
        return getattr(part, one.metadata["beside"]) is not None
    return _has_no_default(one)


def _has_no_default(one: Any) -> bool:
    return one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING


def _plain(value: Any) -> Plain:
    if isinstance(value, Part):
        return to_plain(value)
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value  # type: ignore[no-any-return]


def _read_part(kind: type[Kind], content: object, where: str, problems: list[str]) -> Kind | None:
    if not isinstance(content, Mapping):
        problems.append(f"{where or 'the file'}: {shown(content)} is not a table of names and values")
        return None
    before, prefix, hints = len(problems), f"{where}." if where else "", get_type_hints(kind)
    more = {str(key): value for key, value in content.items()}
    known: dict[str, Any] = {}
    for one in _fields(kind):
        name, hint = one.name, hints[one.name]
        if more.get(name) is not None:
            known[name] = _read(more.pop(name), hint, prefix + name, problems)
        elif _has_no_default(one):
            more.pop(name, None)
            known[name] = None
            if type(None) not in get_args(hint):
                problems.append(f"{prefix}{name}: is missing")
        elif content.get(one.metadata.get("beside")) is not None:
            more.pop(name, None)
        # a null that the class itself would not write stays in `more`
    return kind(**known, more=more) if len(problems) == before else None


def _read(value: Any, hint: Any, where: str, problems: list[str]) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if any(get_origin(option) is dict for option in arguments) and type(None) in arguments and len(arguments) > 2:
            return value  # Plain: whatever a file may hold
        options = [option for option in arguments if option is not type(None)]
        if len(options) == 1:
            return _read(value, options[0], where, problems)
    if isinstance(hint, type) and issubclass(hint, Part):
        return _read_part(hint, value, where, problems)
    if origin is tuple and arguments[-1] is Ellipsis and isinstance(value, list | tuple):
        return tuple(_read(inner, arguments[0], f"{where}[{n}]", problems) for n, inner in enumerate(value))
    if origin is dict and isinstance(value, Mapping):
        return {
            _read(key, arguments[0], f"{where}: the name {key}", problems): _read(
                inner, arguments[1], f"{where}.{key}", problems
            )
            for key, inner in value.items()
        }
    try:
        found = coerce(value, hint)
    except Mismatch as mismatch:
        problems.append(f"{where}: {mismatch}")
        return None
    if isinstance(found, float) and not math.isfinite(found):
        problems.append(f"{where}: {found} is not a finite number")
    return found
