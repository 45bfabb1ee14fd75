"""Batch-norm statistics anew after pruning, kept only where the network then decides more as the dense one does."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from pruning_bootcamp.tasks import IMAGE_CLASSIFICATION, Task
from pruning_bootcamp.tools.modes import evaluation_mode

Images = Callable[[], Iterable[Tensor]]
"""the batches, each time anew: large images are not held in memory between two looks"""

# The standard error of a difference of 5 points is then below 1 point.
JUDGING_IMAGES = 1024


def has_batch_norm(model: nn.Module) -> bool:
    """True when there are statistics that can be re-estimated."""
    return any(isinstance(module, _BatchNorm) and module.track_running_stats for module in model.modules())


@contextlib.contextmanager
def frozen_batch_norm(model: nn.Module, frozen: bool = True) -> Iterator[None]:
    """Inside, batch norms normalise by the statistics they have, and keep them, in training too; where `frozen`."""

    def rest(norm: nn.Module, args: object) -> None:
        norm.training = False

    def go_on(norm: nn.Module, args: object, output: object) -> None:
        norm.training = True  # whoever asks is told that the network trains

    norms = [m for m in model.modules() if frozen and isinstance(m, _BatchNorm) and m.track_running_stats]
    with contextlib.ExitStack() as hooks:
        for norm in norms:
            hooks.callback(norm.register_forward_pre_hook(rest).remove)
            hooks.callback(norm.register_forward_hook(go_on).remove)
        yield


def reestimate_batch_norm(model: nn.Module, batches: Iterable[Tensor]) -> bool:
    """Running means and variances as a plain average over `batches`; weights are not touched.

    True when the model has batch norms that keep statistics. The training/evaluation mode is left as found.
    A cumulative average, so that every image counts the same (an exponential one forgets the first batches).
    """
    if not has_batch_norm(model):
        return False
    modes = {module: module.training for module in model.modules()}
    with torch.no_grad():
        update_bn(batches, model)
    for module, mode in modes.items():
        module.training = mode
    return True


def apart(order: Tensor, count: int, judging: int = JUDGING_IMAGES) -> tuple[Tensor, Tensor]:
    """Images to estimate statistics on, and images to judge them by: none is in both.

    The first `count` of the order, and the last `judging`: scores and solvers calibrate on first ones too, and a layer
    fitted to an image says little about the others. Of few images a fifth judges, and fewer than `count` estimate.
    """
    judging = min(judging, max(len(order) - count, len(order) // 5))
    return order[: min(count, len(order) - judging)], order[len(order) - judging :]


@dataclass(frozen=True)
class Nearness:
    """How near a network comes to the dense one on the judging images."""

    agreement_pct: float
    """percent of the samples that both decide alike"""
    divergence: float
    """from the dense network's outputs, mean over the samples"""

    def better_than(self, other: "Nearness") -> bool:
        """More images in the dense network's class; as many, and a smaller divergence.

        Not the divergence alone: it is ruled by how sure a network is of its errors. One that gives every image the
        same flat answer diverges less than one that is often right and sometimes surely wrong.
        """
        return (self.agreement_pct, -self.divergence) > (other.agreement_pct, -other.divergence)


class DenseJudge:
    """Says how near a network comes to the dense one, on images that are kept for that; no label is looked at."""

    def __init__(self, dense: nn.Module, images: Images, task: Task = IMAGE_CLASSIFICATION) -> None:
        self._images, self._task = images, task
        self._wanted = self._outputs(dense)
        self.images = sum(map(len, self._wanted))

    def __call__(self, model: nn.Module) -> Nearness:
        agreeing, divergence = 0.0, 0.0
        for ours, theirs in zip(self._outputs(model), self._wanted, strict=True):
            alike, apart = self._task.agreement(ours, theirs)
            agreeing, divergence = agreeing + alike, divergence + apart
        return Nearness(100 * agreeing / self.images, divergence / self.images)

    @torch.no_grad()
    def _outputs(self, model: nn.Module) -> list[Tensor]:
        with evaluation_mode(model):
            return [self._task.outputs(model(batch)) for batch in self._images()]


@dataclass(frozen=True)
class Reestimated:
    """The network before and after its statistics were re-estimated; whether the new ones stay."""

    before: Nearness
    after: Nearness

    @property
    def kept(self) -> bool:
        """Whether the new statistics come nearer to the dense network; the old ones are put back otherwise."""
        return self.after.better_than(self.before)


def improve_batch_norm(model: nn.Module, judge: DenseJudge, batches: Iterable[Tensor]) -> Reestimated | None:
    """Re-estimate batch norm on `batches` where the judge finds the network better for it; else undo it, to the bit.

    A layer-wise fit leaves statistics that suit it, and a lightly pruned network those of its long training: replacing
    them by estimates from few images can cost accuracy. None when there is no batch norm to re-estimate.
    """
    if not has_batch_norm(model):
        return None
    old = {name: value.clone() for name, value in model.named_buffers()}
    before = judge(model)
    reestimate_batch_norm(model, batches)
    result = Reestimated(before, judge(model))
    if not result.kept:
        with torch.no_grad():
            for name, value in model.named_buffers():
                value.copy_(old[name])
    return result
