"""What a parameter is: a weight that products are made of, a table or a bare parameter, or a bias, scale or vector."""

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import ParametrizationList

_ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
_RECURRENT_WEIGHTS = ("weight_ih", "weight_hh", "weight_hr")
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

TABLE = "a lookup table, whose rows are read and not multiplied"
BARE = "a bare parameter, and no layer says whether it is multiplied or added"
FROZEN = "frozen (requires_grad is False) while others train"


def product_weights(module: nn.Module) -> tuple[str, ...]:
    """Attributes of a layer whose entries are each multiplied by an input: what pruning takes away.

    Convolutions, linear and bilinear layers, attention projections, recurrent layers and cells. (The attention's output
    projection is a linear layer of its own.)
    """
    if isinstance(module, _ConvNd | nn.Linear | nn.Bilinear):
        return ("weight",)
    if isinstance(module, nn.MultiheadAttention):
        return _ATTENTION_WEIGHTS
    if isinstance(module, nn.RNNBase):
        return tuple(name for name in module._flat_weights_names if name.startswith(_RECURRENT_WEIGHTS))
    return ("weight_ih", "weight_hh") if isinstance(module, nn.RNNCellBase) else ()


def other_weights(module: nn.Module) -> Iterator[tuple[str, str]]:
    """(attribute, why it is not pruned unless it is asked for): lookup tables, and tensors that belong to no layer.

    Biases, the scales of norms, and what has but one side longer than 1 are none of them.
    """
    if isinstance(module, (ParametrizationList, *_NORMS)):
        return
    products = product_weights(module)
    for registered, parameter in module._parameters.items():
        masked = registered.endswith("_orig") and f"{registered[:-5]}_mask" in module._buffers  # torch.nn.utils.prune
        attribute = registered[:-5] if masked else registered
        if parameter is None or attribute in products or attribute.startswith("bias") or _is_vector(parameter):
            continue
        yield attribute, TABLE if isinstance(module, nn.Embedding | nn.EmbeddingBag) else BARE


def _is_vector(parameter: Tensor) -> bool:
    try:
        return sum(side > 1 for side in parameter.shape) < 2
    except RuntimeError:  # of a lazy layer, which has no shape yet
        return True
