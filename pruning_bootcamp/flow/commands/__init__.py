"""The commands: a config in, a plan of steps carried out on the machine, metrics out."""

from pruning_bootcamp.flow.commands.inspecting import evaluate, export, profile
from pruning_bootcamp.flow.commands.pipelining import PIPELINE, pipeline, pipeline_plan, resume_pipeline, show_status
from pruning_bootcamp.flow.commands.pruning import (
    default_folder,
    fingerprint_of,
    prune_structured,
    prune_unstructured,
    pruning_plan,
    train,
    training_plan,
)
from pruning_bootcamp.flow.commands.scanning import sensitivity
from pruning_bootcamp.flow.commands.starting import quickstart
from pruning_bootcamp.flow.commands.tolerating import prune_within_drop

__all__ = [
    "PIPELINE",
    "default_folder",
    "evaluate",
    "export",
    "fingerprint_of",
    "pipeline",
    "pipeline_plan",
    "profile",
    "prune_structured",
    "prune_unstructured",
    "prune_within_drop",
    "pruning_plan",
    "quickstart",
    "resume_pipeline",
    "sensitivity",
    "show_status",
    "train",
    "training_plan",
]
