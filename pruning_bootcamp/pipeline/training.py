"""A step that trains: watched, in 8 bits once the network was quantised, its weights back on their grid at the end."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from pruning_bootcamp.config import Config
from pruning_bootcamp.config.fields import FineTuneConfig
from pruning_bootcamp.pipeline.step import Desk, Figures, Network
from pruning_bootcamp.training.hooks import Hook
from pruning_bootcamp.training.quantize import quantization_aware, quantized_evaluation, round_weights

Fit = Callable[[Network, list[Hook]], Figures]


def train_network(desk: Desk, network: Network, fit: Fit, hooks: Sequence[Hook] = ()) -> Figures:
    """What `fit(network, hooks)` gives; the network is trained in place, its ranges with it.

    Where the network has ranges (empty ones: from here on), everything inside computes in 8 bits.
    """
    watched = [*hooks, desk.watch]
    if network.ranges is None:
        return fit(network, watched)
    exclude = desk.cfg.quantize.exclude
    with quantization_aware(network.model.to(desk.device), exclude=exclude) as quantized:
        if network.ranges:
            quantized.load_ranges(network.ranges)
        found = fit(network, [*watched, quantized])
        if "best_epoch" in found:
            quantized.use_epoch(found["best_epoch"])
        found["fall_backs"] = [*found.get("fall_backs", []), *quantized.fall_backs]
        network.ranges = {name: range_.cpu() for name, range_ in quantized.ranges.items()}
    round_weights(network.model, network.masks or None, exclude=exclude)
    return found


@contextmanager
def as_shipped(network: Network) -> Iterator[nn.Module]:
    """Inside, the model computes as its int8 file will, where it was trained for one."""
    if not network.ranges:
        yield network.model
        return
    ranges = {name: range_.to(next(network.model.parameters()).device) for name, range_ in network.ranges.items()}
    with quantized_evaluation(network.model, ranges):
        yield network.model


def quantizing(cfg: Config) -> Config:
    """The config whose fine-tuning is what `quantize` says; what that leaves out is as in `train`."""
    cfg = copy.deepcopy(cfg)
    q = cfg.quantize
    lr = q.lr if q.lr is not None else cfg.train.lr / 100
    cfg.fine_tune = FineTuneConfig(epochs=q.epochs, distill=q.distill, lr=lr)  # nothing of `fine_tune` reaches it
    cfg.train.ema = None  # an average of weights is not on the grid that they were trained for
    return cfg
