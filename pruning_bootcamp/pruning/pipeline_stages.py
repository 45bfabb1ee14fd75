"""PruningStage: where a pruning pipeline stands, from Idle to Complete or Failed."""

from enum import Enum


class PruningStage(Enum):
    """The stages in their order; FAILED, which can follow any of them, comes last."""

    IDLE = "Idle"
    CALIBRATING = "Calibrating"
    COMPUTING_IMPORTANCE = "Computing Importance"
    PRUNING = "Pruning"
    FINE_TUNING = "Fine-tuning"
    EVALUATING = "Evaluating"
    EXPORTING = "Exporting"
    COMPLETE = "Complete"
    FAILED = "Failed"

    @property
    def display_name(self) -> str:
        """The name that a user reads."""
        return self.value

    @property
    def is_terminal(self) -> bool:
        """Nothing follows by itself: complete or failed."""
        return self in (PruningStage.COMPLETE, PruningStage.FAILED)

    @property
    def is_active(self) -> bool:
        """Work is going on: neither waiting to begin nor at an end."""
        return self is not PruningStage.IDLE and not self.is_terminal
