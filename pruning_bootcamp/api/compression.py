"""CompressionPipeline: quantise, prune and distil on your own DataLoaders, until the file is as small as asked."""

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor, nn

from pruning_bootcamp.api.iterative import DistillationTrainer, Loader
from pruning_bootcamp.checkpoints import dense_file_bytes, weights_hash
from pruning_bootcamp.checkpoints.attributes import check_unsaved, unsaved
from pruning_bootcamp.checkpoints.files import plain, read_file, write_file
from pruning_bootcamp.checkpoints.sparse import read_sparse, write_sparse
from pruning_bootcamp.checkpoints.stored import table, tensors_in
from pruning_bootcamp.errors import BootcampError, Problem, unknown
from pruning_bootcamp.flow.machine import Machine
from pruning_bootcamp.flow.outcomes import Outcome
from pruning_bootcamp.flow.step import Step
from pruning_bootcamp.locks import locked
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.pruning.targets import find_targets
from pruning_bootcamp.pruning.weights.magnitude_pruner import MagnitudePruner, PruningRound
from pruning_bootcamp.runs import atomic_path, scratch_folder
from pruning_bootcamp.runtime import choose_device, seeded_rng
from pruning_bootcamp.schema import coerce
from pruning_bootcamp.tools.modes import detached_clone
from pruning_bootcamp.training.quantize import QuantizationAware, quantization_aware, round_weights

STAGES = ("quantize", "prune", "distill")
_REST, _STATE = "prune the rest", "state.pth"
_CHOICES = (
    *("target_compression", "stages", "max_sparsity", "target_layers"),
    *("exclude", "distill_weight", "temperature", "seed"),
)
_RANGES, _UNSAVED = "activation_ranges", "unsaved"
# Training after the pruning changes how well the file deflates: this much room is left for it.
_MARGIN = 0.03
_PRECISION = 0.001  # of the sparsity that is searched for


@dataclass(frozen=True, kw_only=True)
class _Stage(Outcome):
    """What a stage came to; None: there was nothing to do."""

    stage: str | None
    metrics: dict[str, Plain] = field(default_factory=dict)


class CompressionResults(TypedDict):
    """What a CompressionPipeline came to. Accuracies are in percent of the targets."""

    target_compression: float
    compression_ratio: float
    """the dense float32 safetensors file over the file of `save`, both measured on disk"""
    target_reached: bool
    limit: str | None
    """where the target is not reached: why"""
    dense_bytes: int
    compressed_bytes: int
    achieved_sparsity: float
    """of the target layers"""
    dense_accuracy: float
    final_accuracy: float
    dense_perplexity: float
    final_perplexity: float
    perplexity_degradation: float
    """relative to the dense network: 0.1 is 10% more"""
    not_quantized: dict[str, str]
    """weight -> why it stays in floating point"""
    stages: list[dict[str, Plain]]
    """each stage's name and metrics"""


class _Learnt(TypedDict):
    """What training has to say beside what every stage is measured by."""

    train_loss: NotRequired[list[float]]
    """the mean of each epoch"""
    history: NotRequired[list[PruningRound]]


@dataclass(frozen=True)
class _StageFolder:
    """Where a stage keeps what it makes."""

    folder: Path


class CompressionPipeline:
    """Makes a network's file `target_compression` times smaller than its dense float32 file, or says what stops it.

    Stages, in any order that makes sense: `quantize` trains with 8-bit weights and inputs (and every stage after it
    does), `prune` prunes and retrains in rounds to the sparsity that the target needs, at most `max_sparsity`, and
    `distill` trains after the network as it was given, by `distill_weight` of the loss (Hinton et al., 2015). The
    model is trained in place; it and the data are as in `IterativePruningTrainer`. `target_layers` are the layers to
    prune, `exclude` those that stay in float32, both as in `find_targets`. Weights that are zero stay zero.
    """

    def __init__(
        self,
        model: nn.Module,
        target_compression: float = 10.0,
        *,
        stages: Sequence[str] = STAGES,
        max_sparsity: float = 0.95,
        target_layers: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        distill_weight: float = 0.5,
        temperature: float = 4.0,
        device: str = "auto",
        seed: int = 0,
    ) -> None:
        problems = check_stages(stages)
        if not target_compression >= 1:
            problems.append(Problem("target_compression", f"{target_compression} is not 1 or more."))
        if not 0 < max_sparsity < 1:
            problems.append(Problem("max_sparsity", f"{max_sparsity} is not between 0 and 1."))
        if not 0 < distill_weight <= 1 or not temperature > 0:
            problems.append(
                Problem(
                    "distill_weight", f"{distill_weight} must be in (0, 1], and temperature: {temperature} above 0."
                )
            )
        if problems:
            raise BootcampError(*problems, where="CompressionPipeline")
        self.device, _ = choose_device(device)
        self.model = model.to(self.device)
        self.target_compression, self.max_sparsity = target_compression, max_sparsity
        self.stages, self.target_layers, self.exclude = tuple(stages), target_layers, tuple(exclude)
        self.distill_weight, self.temperature = distill_weight, temperature
        self.seed = seed
        self._unsaved = unsaved(model)
        self.masks = _zeros_that_are_there(model, target_layers)
        """name -> True where a weight stays"""
        self.ranges: dict[str, Tensor] = {}
        """of the layers' inputs, for `quantized_evaluation`, when the network is quantised"""
        self._int8 = "quantize" in stages
        self._quantized: QuantizationAware | None = None
        self._begun = self._finished = False

    def run_pipeline(
        self,
        train_loader: Loader,
        val_loader: Loader,
        qat_epochs: int = 3,
        pruning_epochs: int = 3,
        distillation_epochs: int = 5,
        learning_rate: float = 1e-4,
        save_dir: Path | str | None = None,
    ) -> CompressionResults:
        """All stages; what was reached at which price, and each stage's metrics in `stages`.

        With a `save_dir` each finished stage and round is kept there, and the same call after a kill (a fresh pipeline,
        the dense model, the same data) goes on after the last one and ends with the same bits.

        `pruning_epochs` is the number of rounds, each with one epoch of retraining. Afterwards the model holds the
        weights of the file; evaluate it in `quantized_evaluation(model, pipeline.ranges)`.
        """
        epochs = {"quantize": qat_epochs, "prune": pruning_epochs, "distill": distillation_epochs}
        if min(epochs.values()) < 0 or not learning_rate > 0:
            raise BootcampError("run_pipeline: the epochs must be 0 or more, and learning_rate above 0.")
        if self._begun:
            raise BootcampError("run_pipeline: this pipeline has run. Make a new one with the dense model.")
        dense_bytes = dense_file_bytes(self.model)
        allowed = dense_bytes / self.target_compression
        first = self._bytes(detached_clone(self.model))  # what can't be rounded or kept is an error before any training
        LOGGER.info("Dense file: %s bytes; as it is, compressed: %s; wanted: %s", dense_bytes, first, int(allowed))
        teacher = detached_clone(self.model).eval().requires_grad_(False) if "distill" in self.stages else None
        dense = self._trainer().judge(val_loader)
        self._begun = True
        named = (
            "target_compression",
            "stages",
            "max_sparsity",
            "target_layers",
            "exclude",
            "distill_weight",
            "temperature",
        )
        about: dict[str, Any] = {name: getattr(self, name) for name in (*named, "seed")}
        about |= {**epochs, "learning_rate": learning_rate, "dense model": weights_hash(self.model)}

        def work(stage: str, number: int) -> Callable[[_StageFolder], _Stage]:
            def in_folder(stage_folder: _StageFolder) -> _Stage:
                metrics: _Learnt = {}
                if stage == "quantize" and epochs[stage] == 0:
                    assert self._quantized is not None
                    self._quantized.calibrate(train_loader)
                if stage == "prune":
                    loaders = (train_loader, val_loader)
                    metrics = self._prune(*loaders, epochs[stage], learning_rate, allowed, number, stage_folder.folder)
                elif stage != _REST:
                    trainer = self._trainer(seed=number, teacher=teacher if stage == "distill" else None)
                    metrics["train_loss"] = trainer.learn(train_loader, epochs[stage], learning_rate)
                elif not self._prune_the_rest(allowed):
                    return _Stage(stage=None)
                return self._noted(stage, metrics, val_loader, dense_bytes, stage_folder.folder)

            return in_folder

        with contextlib.ExitStack() as inside:
            root = Path(save_dir) if save_dir is not None else inside.enter_context(scratch_folder())
            inside.enter_context(seeded_rng(self.seed))
            if save_dir is not None:
                inside.enter_context(locked(root, "CompressionPipeline"))
            machine = Machine(root, self.seed, None, lambda step, folder, key, inputs: _StageFolder(folder))
            entries: list[dict[str, Plain]] = []
            before: dict[str, str] = {}
            for number, stage in enumerate((*self.stages, _REST)):
                if stage == "quantize":
                    self._quantized = inside.enter_context(quantization_aware(self.model, exclude=self.exclude))
                name = f"{number + 1}-{stage.replace(' ', '-')}"
                settings = {} if before else about
                done = machine.run(Step(name, stage, work(stage, number), _Stage, None, settings, before))
                assert done is not None, name
                before = {"before": name}
                if done.outcome.stage is not None:
                    self._take_up(done.folder)
                    entries.append({"stage": stage, **done.outcome.metrics})
            if self._int8:
                round_weights(self.model, self.masks, self.exclude)
            final = self._trainer().judge(val_loader)
        self.ranges = self._quantized.ranges if self._quantized is not None else {}
        self._finished = True
        size = self._bytes(detached_clone(self.model))
        return {
            "target_compression": self.target_compression,
            "compression_ratio": dense_bytes / size,
            "target_reached": size <= allowed,
            "limit": None if size <= allowed else self._limit(dense_bytes),
            "dense_bytes": dense_bytes,
            "compressed_bytes": size,
            "achieved_sparsity": self.sparsity,
            "dense_accuracy": dense["accuracy"],
            "final_accuracy": final["accuracy"],
            "dense_perplexity": dense["perplexity"],
            "final_perplexity": final["perplexity"],
            "perplexity_degradation": final["perplexity"] / dense["perplexity"] - 1,
            "not_quantized": dict(self._quantized.left_out) if self._quantized is not None else {},
            "stages": entries,
        }

    @property
    def sparsity(self) -> float:
        """The share of the target layers' weights that is pruned."""
        return sum(int((~keep).sum()) for keep in self.masks.values()) / sum(map(Tensor.numel, self.masks.values()))

    def save(self, path: Path | str) -> None:
        """Write the compressed file, all or nothing; `load_compressed` puts it into a network."""
        if not self._finished:
            raise BootcampError("save: there is nothing yet. Call run_pipeline first.")
        with atomic_path(path) as temporary:
            self._write(detached_clone(self.model), temporary)

    def _noted(self, stage: str, learnt: _Learnt, val_loader: Loader, dense_bytes: int, folder: Path) -> "_Stage":
        """The stage's metrics; the network as it is now is kept in the folder."""
        size = self._bytes(detached_clone(self.model))
        about = {"sparsity": self.sparsity, "compressed_bytes": size, "compression_ratio": dense_bytes / size}
        found: dict[str, Any] = {**self._trainer().judge(val_loader), **about, **learnt}
        LOGGER.info(
            "%s: accuracy %.2f%%, %.2f%% pruned, %.2fx smaller",
            *(stage, found["accuracy"], 100 * self.sparsity, dense_bytes / size),
        )
        content = {
            "state_dict": self.model.state_dict(),
            "masks": self.masks,
            "quantized": self._quantized.state_dict() if self._quantized is not None else {},
        }
        with atomic_path(folder / _STATE) as temporary:
            write_file(temporary, plain(content, "compression"))
        return _Stage(stage=stage, metrics=found)

    def _take_up(self, folder: Path) -> None:
        """Stand where the stage that was kept in the folder ended."""
        path = folder / _STATE
        saved = {part: table(found, f"{path}: '{part}'") for part, found in read_file(path).items()}
        self.model.load_state_dict(tensors_in(saved["state_dict"]))
        self.masks = {name: keep.to(self.device) for name, keep in tensors_in(saved["masks"]).items()}
        if self._quantized is not None:
            self._quantized.load_state_dict(saved["quantized"])

    def _trainer(self, *, seed: int = 0, teacher: nn.Module | None = None, **rounds: Any) -> DistillationTrainer:
        same: dict[str, Any] = {"target_layers": self.target_layers, "device": str(self.device)}
        trainer = DistillationTrainer(self.model, **rounds, **same, seed=self.seed + 1000 * seed)
        trainer.pruner.go_on(self.model, [], self.masks)
        trainer.hook = self._quantized
        trainer.teacher, trainer.distill_weight, trainer.temperature = teacher, self.distill_weight, self.temperature
        return trainer

    def _prune(
        self,
        train_loader: Loader,
        val_loader: Loader,
        epochs: int,
        learning_rate: float,
        allowed: float,
        seed: int,
        folder: Path,
    ) -> _Learnt:
        """Rounds of pruning and retraining to the sparsity that the target needs now, or as far as it may go."""
        needed = needed_sparsity(self._bytes_at, (1 - _MARGIN) * allowed, self.sparsity, self.max_sparsity)
        final = needed if needed is not None else max(self.max_sparsity, self.sparsity)
        if final == self.sparsity:
            LOGGER.info(
                "prune: %s", "the file is small enough" if needed is not None else "max_sparsity is there already"
            )
            return {"train_loss": self._trainer(seed=seed).learn(train_loader, epochs, learning_rate), "history": []}
        trainer = self._trainer(
            seed=seed,
            initial_sparsity=max(final / 2, self.sparsity),
            final_sparsity=final,
            num_iterations=max(epochs, 1),
        )
        results = trainer.run_iterative_pruning(train_loader, val_loader, min(epochs, 1), learning_rate, folder)
        self.masks = trainer.pruner.masks(self.model)
        for path in folder.glob("iteration_*.pth"):
            path.unlink()  # the stage as a whole is kept next
        return {"history": results["history"]}

    def _prune_the_rest(self, allowed: float) -> bool:
        """The few weights more that the training since the search has made necessary; whether there were any."""
        size = self._bytes(detached_clone(self.model))
        if size <= allowed or self.sparsity >= self.max_sparsity or "prune" not in self.stages:
            return False
        needed = needed_sparsity(self._bytes_at, allowed, self.sparsity, self.max_sparsity)
        self.masks = self._pruned(self.model, needed if needed is not None else self.max_sparsity)
        return True

    def _pruned(self, network: nn.Module, sparsity: float) -> dict[str, Tensor]:
        pruner = MagnitudePruner()
        pruner.set_masks(network, self.masks)
        pruner.prune_model(network, self.target_layers, sparsity)
        return pruner.masks(network)

    def _bytes_at(self, sparsity: float) -> int:
        """Size of the file if the network as it is now were pruned so far."""
        network = detached_clone(self.model)
        self._pruned(network, sparsity)
        return self._bytes(network)

    def _bytes(self, network: nn.Module) -> int:
        """Size of the network's compressed file on disk. The network is a copy."""
        with scratch_folder() as folder:
            path = folder / "compressed"
            self._write(network, path)
            return path.stat().st_size

    def _write(self, network: nn.Module, path: Path) -> None:
        """The network, a copy, is rounded for it."""
        rounded = round_weights(network, exclude=self.exclude) if self._int8 else {}
        state = network.state_dict()
        places = {state[name].data_ptr() for name in rounded}  # a weight that layers share has several names
        int8 = [name for name, value in state.items() if value.numel() and value.data_ptr() in places]
        ranges = self._quantized.ranges if self._quantized is not None else {}
        about = json.dumps({name: values.tolist() for name, values in ranges.items()})
        kept = {_UNSAVED: json.dumps(self._unsaved)} if self._unsaved else {}
        write_sparse(path, state, int8=int8, metadata={_RANGES: about, **kept} if ranges else kept)

    def _limit(self, dense_bytes: int) -> str:
        """Why the file is not smaller, in words."""
        if "prune" not in self.stages:
            return "stages has no 'prune': nothing but rounding and deflating makes the file smaller."
        network = detached_clone(self.model)
        with torch.no_grad():
            for weight in find_targets(network, include=self.target_layers or ()).values():
                weight.zero_()
        rest = self._bytes(network)
        text = (
            f"{self.sparsity:.1%} of the target layers' weights are pruned, and max_sparsity is "
            f"{self.max_sparsity:.1%}. Without any of these weights the file would still have {rest:,} bytes (biases, "
            f"batch norm, other layers, names), {dense_bytes / rest:.1f}x smaller than the dense one"
        )
        if dense_bytes / rest < self.target_compression:
            return f"{text}: {self.target_compression:g}x is out of reach for pruning."
        return f"{text}. Raise max_sparsity, or ask for less."


def check_stages(stages: Sequence[str]) -> list[Problem]:
    """Every reason why these stages, in this order, make no sense."""
    problems = [Problem("stages", unknown("stage", stage, STAGES)) for stage in stages if stage not in STAGES]
    counts = {stage: stages.count(stage) for stage in STAGES}
    problems += [
        Problem("stages", f"'{stage}' is there {count} times.") for stage, count in counts.items() if count > 1
    ]
    if not stages:
        problems.append(Problem("stages", f"there is none. Name some of {', '.join(STAGES)}."))
    elif stages[0] == "distill":
        problems.append(
            Problem(
                "stages",
                "'distill' is first, but it brings a changed network back to the dense one, and nothing has "
                "changed yet. Put 'quantize' or 'prune' before it.",
            )
        )
    return problems


def needed_sparsity(bytes_at: Callable[[float], int], allowed: float, low: float, high: float) -> float | None:
    """The sparsity from `low` to `high`, to 0.1 points, at which the file is just small enough; None: not even `high`.

    Interpolated between measured sizes: writing a file takes its time, and sizes are almost straight lines.
    """
    above, below = bytes_at(low), bytes_at(max(low, high))
    if above <= allowed:
        return low
    if below > allowed:
        return None
    while high - low > _PRECISION and below < 0.99 * allowed:
        share = (above - allowed) / (above - below)
        middle = low + (high - low) * min(max(share, 0.05), 0.95)
        found = bytes_at(middle)
        if found <= allowed:
            high, below = middle, found
        else:
            low, above = middle, found
    return high


def load_compressed(model: nn.Module, path: Path | str) -> dict[str, Tensor]:
    """Put a file of `CompressionPipeline.save` into the model; the ranges, for `quantized_evaluation`."""
    file = read_sparse(Path(path))
    try:
        ranges = coerce(json.loads(file.metadata.get(_RANGES, "{}")), dict[str, list[float]])
        kept = coerce(json.loads(file.metadata.get(_UNSAVED, "{}")), dict[str, str])
    except (ValueError, RecursionError) as error:
        raise BootcampError(
            f"{path}: the ranges in it are damaged ({type(error).__name__}). Fetch or make it again."
        ) from None
    check_unsaved(model, kept, str(path))
    try:
        model.load_state_dict(file.tensors)
    except RuntimeError as error:
        raise BootcampError(f"{path}: is another network's file ({' '.join(str(error).split())}).") from None
    return {name: torch.tensor(values) for name, values in ranges.items()}


def _zeros_that_are_there(model: nn.Module, target_layers: Sequence[str] | None) -> dict[str, Tensor]:
    """Masks of the zeros in the target layers; a layer of nothing but zeros has not begun to learn, and is free."""
    weights = find_targets(model, include=target_layers or ())
    return {name: weight.detach().bool() | ~weight.detach().any() for name, weight in weights.items()}
