"""After pruning, layer after layer fitted to what the dense network computes there, in closed form, without labels.

The inputs are the pruned network's own, so that each layer also repairs what came before it. Where a layer's output
goes into a sum, it is fitted to the dense sum less what the pruned network adds to it; where a ReLU follows, what is
negative there may be anything negative. Every layer with other inputs than the dense network's is fitted: readers of
cut channels, writers of channels behind them, layers that lost single weights, and the classifier last. What a mask
zeroes stays zero.
"""

from pruning_bootcamp.pruning.channels.refit.engine import Refitted, refit
from pruning_bootcamp.pruning.channels.refit.passes import Images

__all__ = ["Images", "Refitted", "refit"]
