"""PruningConfig and CalibrationConfig: one pruning and its data in Python, checked before anything runs."""

from dataclasses import dataclass, field

from pruning_bootcamp.errors import BootcampError, Problem
from pruning_bootcamp.pruning.sections import PruneSettings
from pruning_bootcamp.pruning.solvers import SOLVERS
from pruning_bootcamp.pruning.weights.schedules import OneShot, Schedule
from pruning_bootcamp.pruning.weights.scores import needs_of
from pruning_bootcamp.pruning.weights.unstructured import check_unstructured
from pruning_bootcamp.schema import Choice


@dataclass(frozen=True)
class PruningConfig:
    """`method` is a score, or a solver that chooses weights itself (sparsegpt, with the counts of magnitude).

    `pattern` is a name or a short form ("2:4"), `schedule` the sparsity by training step.
    """

    method: str = "magnitude"
    target_sparsity: float = 0.5
    pattern: str = "unstructured"
    schedule: Schedule = field(default_factory=lambda: OneShot(step=0))

    @property
    def requires_calibration(self) -> bool:
        """Whether the method needs data (gradients or activations) beside the weights."""
        score, solver = self.choices
        return bool(needs_of(score) or SOLVERS[solver].facts.get("images"))

    @property
    def choices(self) -> tuple[str, str]:
        """Score and solver, by the engine's names."""
        if self.method in SOLVERS and SOLVERS[self.method].facts.get("chooses"):
            return "magnitude", self.method
        return self.method, "none"

    def validate(self) -> None:
        """BootcampError with every problem: names, ranges, N > M, a schedule that ends elsewhere than the target."""
        score, solver = self.choices
        asked = PruneSettings(
            self.target_sparsity, score=Choice(score), solver=Choice(solver), pattern=Choice(self.pattern)
        )
        problems = check_unstructured(asked, where="PruningConfig")
        ends_at = self.schedule.final_sparsity
        whole = isinstance(self.schedule, OneShot) and ends_at == 1  # "the whole of the target"
        if not whole and abs(ends_at - self.target_sparsity) > 1e-9:
            problems.append(
                Problem(
                    "PruningConfig.schedule",
                    f"{type(self.schedule).__name__} ends at {ends_at}, and target_sparsity is "
                    f"{self.target_sparsity}. Give both the same value.",
                )
            )
        if problems:
            raise BootcampError(*problems)


@dataclass(frozen=True)
class CalibrationConfig:
    """The data for methods that need some: how many samples of which dataset, in which batches.

    `sequence_length` counts tokens of a text and says nothing about images.
    """

    num_samples: int = 128
    sequence_length: int = 2048
    batch_size: int = 1
    dataset: str = "c4"

    @property
    def num_batches(self) -> int:
        """How many batches the samples make; the last may be smaller."""
        return -(-self.num_samples // self.batch_size)

    def validate(self) -> None:
        """BootcampError with every problem: numbers that are not whole or below 1, no dataset's name."""
        problems = []
        for name in ("num_samples", "sequence_length", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                problems.append(Problem(f"CalibrationConfig.{name}", f"{value!r} is not a whole number from 1 up."))
        if not problems and self.batch_size > self.num_samples:
            problems.append(
                Problem(
                    "CalibrationConfig.batch_size", f"{self.batch_size} is more than all {self.num_samples} samples."
                )
            )
        if not isinstance(self.dataset, str) or not self.dataset.strip():
            problems.append(Problem("CalibrationConfig.dataset", f"{self.dataset!r} is not a name."))
        if problems:
            raise BootcampError(*problems)
