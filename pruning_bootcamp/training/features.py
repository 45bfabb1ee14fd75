"""What a network computes on the way, compared with its teacher: the outputs of its blocks (Romero et al., 2015)."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def feature_points(model: nn.Module) -> list[str]:
    """Paths of the modules whose outputs are compared: the network's blocks, or where it has none its batch norms."""
    return blocks(model) or [path for path, module in model.named_modules() if isinstance(module, _BatchNorm)]


def blocks(model: nn.Module) -> list[str]:
    """Paths of the network's blocks, in its order; a network without any gives an empty list.

    A block has parts and parameters of its own and lies in no other block; plain containers are looked into.
    """
    return list(_blocks(model, ""))


def _blocks(module: nn.Module, path: str) -> Iterator[str]:
    for name, child in module.named_children():
        inner = f"{path}.{name}".lstrip(".")
        if isinstance(child, _CONTAINERS):
            yield from _blocks(child, inner)
        elif next(child.children(), None) is not None and next(child.parameters(), None) is not None:
            yield inner


class FeatureMatch:
    """Remembers what both networks compute at the feature points in a training step, and how far apart it is."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        self.student, self.teacher = student, teacher
        paths = feature_points(student)
        self.points = [path for path in paths if path in dict(teacher.named_modules())]
        self._seen: dict[tuple[str, bool], Tensor] = {}

    @contextlib.contextmanager
    def watching(self) -> Iterator["FeatureMatch"]:
        """Inside, the points' outputs are remembered: the student's while it trains, the teacher's always."""

        def watch(path: str, network: nn.Module, is_teacher: bool) -> torch.utils.hooks.RemovableHandle:
            def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
                if isinstance(output, Tensor) and (is_teacher or module.training):
                    self._seen[path, is_teacher] = output

            return network.get_submodule(path).register_forward_hook(hook)

        handles = [watch(path, self.student, False) for path in self.points]
        handles += [watch(path, self.teacher, True) for path in self.points]
        try:
            yield self
        finally:
            self._seen.clear()
            for handle in handles:
                handle.remove()

    def distance(self, images: int) -> Tensor | float:
        """Squared distance over the teacher's mean square, mean over the points, times the images of the batch.

        Points whose shapes differ (a network with channels cut out) don't count. What was seen is forgotten.
        """
        distances = []
        for path in self.points:
            ours, theirs = self._seen.pop((path, False), None), self._seen.pop((path, True), None)
            if ours is not None and theirs is not None and ours.shape == theirs.shape:
                theirs = theirs.float()
                scale = theirs.square().mean().clamp_min(torch.finfo(torch.float32).tiny)
                distances.append((ours.float() - theirs).square().mean() / scale)
        return torch.stack(distances).mean() * images if distances else 0.0
