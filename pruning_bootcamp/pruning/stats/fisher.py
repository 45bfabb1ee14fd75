"""The Fisher information of each weight: what stands for the diagonal of the Hessian, without labels."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from pruning_bootcamp.pruning.stats.base import (
    STATISTICS,
    Batches,
    check_totals,
    device_of,
    images_in,
)
from pruning_bootcamp.tasks import IMAGE_CLASSIFICATION, Task

# Gradients of this many weights are held at a time. On 2 cores 128 images of ResNet-20 (0.27 M weights) took 0.22 s in
# chunks of 32 and 0.53 s one by one; with the 11 M weights of ResNet-18 one by one was as quick as any chunk.
_WEIGHTS_AT_ONCE = 8_600_000

Weights = dict[str, Tensor]


@STATISTICS.register("fisher", labels=False, task=True)
def fisher(
    model: nn.Module, targets: Mapping[str, nn.Parameter], batches: Batches, task: Task = IMAGE_CLASSIFICATION
) -> dict[str, Tensor]:
    """Mean over the images of the squared gradient of -log p(y|x), y drawn from the model's own p(y|x).

    Of a sample with many places (pixels, tokens) the mean over them, a y drawn for each.

    With labels so drawn it is the Gauss-Newton part of the Hessian; the data set's own labels would give something else
    (Kunstner et al., 2019). The squares are of single images: a batch's gradient squared is not their sum.
    """
    weights: Weights = {name: weight.detach() for name, weight in targets.items()}
    sums = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()}
    squares, chunk = _squares(model, task), max(1, min(32, _WEIGHTS_AT_ONCE // sum(map(torch.numel, weights.values()))))
    images_seen = 0
    # `grad` records what it needs by itself; fused attention can't be taken apart into images, the plain one can
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        for images in images_in(batches, device_of(targets)):
            places = task.class_scores(task.outputs(model(images[:1]))).shape[1]
            drawn = torch.rand(len(images), places).to(images.device)
            for some in zip(images.split(chunk), drawn.split(chunk), strict=True):
                for name, square in squares(weights, *some).items():
                    sums[name] += square
            check_totals(model, images, sums, "squared gradients")
            images_seen += len(images)
    return {name: total / images_seen for name, total in sums.items()}


def _squares(model: nn.Module, task: Task) -> Callable[[Weights, Tensor, Tensor], Weights]:
    """(weights, images, numbers in [0, 1) a place) -> the squared gradients of all these images, summed."""

    def surprise(weights: Weights, image: Tensor, numbers: Tensor) -> Tensor:
        """-log p(y|x) of one image, y being the class in which the number falls when p(y|x) are laid end to end."""
        scores = task.class_scores(task.outputs(functional_call(model, weights, (image[None],))))[0]
        ends = scores.detach().float().softmax(1).cumsum(1)
        label = (ends <= numbers[:, None]).sum(1).clamp(max=scores.shape[1] - 1)
        return F.cross_entropy(scores, label)

    gradient = grad(surprise)
    together = vmap(gradient, in_dims=(None, 0, 0))
    one_by_one = any(isinstance(module, nn.RNNBase) for module in model.modules())  # vmap would do that itself, slower

    def squares(weights: Weights, images: Tensor, numbers: Tensor) -> Weights:
        nonlocal one_by_one
        if len(images) > 1 and not one_by_one:
            try:
                return {name: g.float().square().sum(0) for name, g in together(weights, images, numbers).items()}
            except RuntimeError:  # an operation that vmap can't take apart: the same one image at a time
                one_by_one = True
        sums: Weights = {}
        for image, number in zip(images, numbers, strict=True):
            for name, g in gradient(weights, image, number).items():
                square = g.float().square()
                sums[name] = sums[name].add_(square) if name in sums else square
        return sums

    return squares
