"""A forward pass recorded as a CUDA graph: all kernels started by one call, so that their launching costs nothing."""

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pruning_bootcamp.tools.modes import beside, evaluation_mode

_WARM_UP = 3
# The recorded kernels may be others than eager's (a library chooses by trying), and on TF32 hardware round more.
TOLERANCE = 2e-3


class CapturedPass:
    """One network on batches of one shape. Images are copied to where the graph reads them, unless they are there."""

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self.images = beside(model, images.detach()).clone()
        device = self.images.device
        now = torch.cuda.current_stream(device)
        # the outer `stream` puts back what a failed recording (of torch before 2.15) leaves as the current one
        with torch.cuda.device(device), torch.cuda.stream(now), torch.no_grad():
            side = torch.cuda.Stream(device)  # what is set up in the first passes must not end in the recording
            side.wait_stream(now)
            with torch.cuda.stream(side):
                for _ in range(_WARM_UP):
                    model(self.images)
            now.wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._output = model(self.images)

    def lay(self, images: Tensor) -> Tensor:
        """The images where the graph reads them."""
        if images.data_ptr() != self.images.data_ptr():
            self.images.copy_(images)
        return self.images

    def __call__(self, images: Tensor) -> object:
        """The output's own memory: the next call overwrites it."""
        self.lay(images)
        self._graph.replay()
        return self._output


def capture(model: nn.Module, images: Tensor) -> CapturedPass | str:
    """The recorded pass, proved on other images than those it was recorded with; or in words why there is none."""
    device = beside(model, images).device
    if device.type != "cuda":
        return f"the network is on {device}, and only CUDA records graphs"
    with evaluation_mode(model):
        try:
            recorded = CapturedPass(model, images)
            others = recorded.images.roll(1, -1)
            others = others.neg() if others.is_floating_point() else others  # a token is no number below 0
            with torch.no_grad():
                wanted = [leaf.clone() for leaf in tree_leaves(model(others)) if isinstance(leaf, Tensor)]
                found = [leaf.clone() for leaf in tree_leaves(recorded(others)) if isinstance(leaf, Tensor)]
        except RuntimeError as error:  # a pass that reads a value, draws, or takes memory in its own way
            return str(error).strip().partition("\n")[0] or type(error).__name__
    difference = relative_difference(wanted, found)
    if not difference <= TOLERANCE:  # NaN is a failure
        return f"its outputs differ from the eager ones by {difference:.1e} of the largest (allowed {TOLERANCE:g})"
    return recorded


def relative_difference(wanted: list[Tensor], found: list[Tensor]) -> float:
    """The largest difference, relative to the largest value wanted (at least 1); infinite for other shapes."""
    if [tensor.shape for tensor in wanted] != [tensor.shape for tensor in found]:
        return float("inf")
    differences = [
        float((a.double() - b.double()).abs().max() / a.double().abs().max().clamp(min=1.0))
        for a, b in zip(wanted, found, strict=True)
        if a.numel()
    ]
    return max(differences, default=0.0) if all(d == d for d in differences) else float("nan")
