"""The stages: (config) -> metrics, each a story of its own. A finished training or pruning is not done again."""

from pruning_bootcamp.stages.export import export
from pruning_bootcamp.stages.profile import profile
from pruning_bootcamp.stages.sensitivity import sensitivity
from pruning_bootcamp.stages.structured import prune_structured
from pruning_bootcamp.stages.train import evaluate, train
from pruning_bootcamp.stages.unstructured import prune_unstructured

__all__ = ["evaluate", "export", "profile", "prune_structured", "prune_unstructured", "sensitivity", "train"]
