"""The k-th smallest of very many scores, exactly, and masks that zero exactly so many: counts, never thresholds."""

from collections.abc import Sequence

import torch
from torch import Tensor


def kth_smallest(tensors: Sequence[Tensor], k: int) -> float:
    """The k-th smallest value (k from 1) over all the tensors together.

    By NumPy's introselect, in place on a copy, wherever the tensors lie: many times quicker than `torch.kthvalue` or
    `torch.topk` on a CPU. The float is exact: comparing a tensor with it selects what the order says.
    """
    assert 1 <= k <= sum(tensor.numel() for tensor in tensors)
    first = tensors[0].reshape(-1)
    flat = torch.cat([tensor.detach().reshape(-1).to(first.device) for tensor in tensors]).cpu()
    if flat.dtype in (torch.bfloat16, torch.float16):  # NumPy has no bfloat16, and float32 holds both exactly
        flat = flat.float()
    values = flat.numpy()  # shares the memory of `flat`, which is already our own copy
    values.partition(k - 1)
    return float(values[k - 1])


def count_below(tensor: Tensor, value: float) -> int:
    """How many values are below; nan is not."""
    return int(torch.count_nonzero(tensor < value))


def count_equal(tensor: Tensor, value: float) -> int:
    """How many values are exactly this one: the ties at a threshold."""
    return int(torch.count_nonzero(tensor == value))


def keep_highest(score: Tensor, count: int) -> Tensor:
    """Keep mask of the score's shape with exactly `count` zeros at the lowest scores; ties by lowest index first."""
    assert 0 <= count <= score.numel(), f"{count} of {score.numel()}"
    if count == 0:
        return torch.ones_like(score, dtype=torch.bool)
    value = kth_smallest([score], count)
    keep = score > value
    spared = (score.numel() - count) - int(torch.count_nonzero(keep))
    if spared:  # more weights share the last score than may go: those with the highest index stay
        tied = (score == value).reshape(-1).nonzero().reshape(-1)
        flat = keep.reshape(-1)  # a copy when the score lies in channels_last: the index is the logical one
        flat[tied[tied.numel() - spared :]] = True
        keep = flat.reshape(score.shape)
    return keep
