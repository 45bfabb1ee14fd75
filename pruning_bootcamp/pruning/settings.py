"""PruningConfig: method, target, pattern and schedule of one pruning in Python, checked before anything runs."""

from dataclasses import dataclass, field

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.schedules import OneShot, Schedule
from pruning_bootcamp.pruning.scores import needs_of
from pruning_bootcamp.pruning.unstructured import check_unstructured


@dataclass(frozen=True)
class PruningConfig:
    """`method` is a score, `pattern` a name or a short form ("2:4"), `schedule` the sparsity by training step."""

    method: str = "magnitude"
    target_sparsity: float = 0.5
    pattern: str = "unstructured"
    schedule: Schedule = field(default_factory=lambda: OneShot(step=0))

    @property
    def requires_calibration(self) -> bool:
        """Whether the method needs data (gradients or activations) beside the weights."""
        return bool(needs_of(self.method))

    def validate(self) -> None:
        """BootcampError with every problem: names, ranges, N > M, a schedule that ends elsewhere than the target."""
        problems = check_unstructured(
            sparsity=self.target_sparsity, score=self.method, pattern=self.pattern, where="PruningConfig"
        )
        ends_at = self.schedule.final_sparsity
        whole = isinstance(self.schedule, OneShot) and ends_at == 1  # "the whole of the target"
        if not whole and abs(ends_at - self.target_sparsity) > 1e-9:
            problems.append(
                f"PruningConfig.schedule: {type(self.schedule).__name__} ends at {ends_at}, and target_sparsity is "
                f"{self.target_sparsity}. Give both the same value."
            )
        if problems:
            raise BootcampError(*problems)
