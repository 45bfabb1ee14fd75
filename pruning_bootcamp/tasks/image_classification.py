"""The task that the product began with: which one of several classes an image shows."""

from typing import Any

from torch import Tensor

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.tasks.classification import Classification
from pruning_bootcamp.tasks.registry import TASKS


@TASKS.register("image_classification")
class ImageClassification(Classification):
    """One class an image: cross-entropy, and the percentage that is right."""

    noun = "images"
    hub_type = "image-classification"

    def outputs(self, given: Any) -> Tensor:
        """[images, classes]; of a network with auxiliary heads (GoogLeNet, Inception) the main output."""
        logits = getattr(given, "logits", given)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise BootcampError(f"model: gives {found}, not one row of class scores for each image.")
        return logits
