"""What is asked of a network: the loss, the metric and its direction, an example input and the teacher's signal."""

from pruning_bootcamp.tasks.base import Metric, Task, main_tensor
from pruning_bootcamp.tasks.classification import Classification
from pruning_bootcamp.tasks.image_classification import ImageClassification
from pruning_bootcamp.tasks.measuring import Measurement, Totals, evaluate, total
from pruning_bootcamp.tasks.registry import TASKS, check_task, open_task

__all__ = [
    "IMAGE_CLASSIFICATION",
    "TASKS",
    "Classification",
    "ImageClassification",
    "Measurement",
    "Metric",
    "Task",
    "Totals",
    "check_task",
    "evaluate",
    "main_tensor",
    "open_task",
    "total",
]

IMAGE_CLASSIFICATION: Task = ImageClassification()
"""what is asked of a network where nobody says otherwise"""
