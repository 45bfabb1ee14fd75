"""The one rule for multiply-accumulates: which operations of a forward pass count, and by which of their sizes.

Plans, budgets, goals and reports all count by it. Convolutions (transposed ones too), linear and bilinear layers,
matrix products however they are written, both products of attention (scores, and their weighted sum; a causal mask
saves nothing), the matrices of recurrent layers at every time step. Biases, normalisation, activations, gates, pooling
and look-ups in embeddings count nothing.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from pruning_bootcamp.tools.modes import beside, detached_clone, evaluation_mode

aten = torch.ops.aten
Factors = tuple[float, ...]
Rule = Callable[..., list[tuple[Factors, tuple[Tensor, ...]]]]  # arguments, result -> sizes, and the operands


@dataclass(frozen=True)
class Product:
    """One operation that ran: the product of `factors` is its multiply-accumulates.

    `layer` is the path of the innermost module that was running, "" for the model itself. `weight` names the parameter
    that is multiplied by ("conv1.weight"); None where two activations are multiplied, as in attention. Every factor is
    a size of a tensor or a sum of two, so it changes linearly with the number of channels that are cut.
    """

    layer: str
    weight: str | None
    factors: Factors

    @property
    def macs(self) -> float:
        """Multiply-accumulates of the operation, for one input."""
        return math.prod(self.factors)


def _matrix(a: Tensor, b: Tensor) -> list[tuple[Factors, tuple[Tensor, ...]]]:
    """Of [m, k] by [k, n], [m, k] by [k] or [k] by [k]."""
    return [((*a.shape, *b.shape[1:]), (a, b))]


def _convolution(image: Tensor, weight: Tensor, result: Tensor, transposed: bool = False) -> Any:
    """A weight is used once an output position; in a transposed convolution, once an input position."""
    positions = (image if transposed else result).shape[2:]
    return [((image.shape[0], *positions, *weight.shape), (weight,))]


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
    """Every head of the queries has its scores, also where several share the keys of one."""
    sizes = (math.prod(query.shape[:-2]), query.shape[-2], key.shape[-2], query.shape[-1] + value.shape[-1])
    return [(sizes, ())]


def _recurrent(sequence: Tensor, weights: Sequence[Tensor]) -> Any:
    """Each matrix is used once a time step and sequence."""
    steps = sequence.shape[:-1]
    return [((*steps, *weight.shape), (weight,)) for weight in weights if weight.dim() == 2]


RULES: dict[Any, Rule] = {
    aten.mm: lambda a, b, *_, result, **__: _matrix(a, b),
    aten._int_mm: lambda a, b, *_, result, **__: _matrix(a, b),
    aten._scaled_mm: lambda a, b, *_, result, **__: _matrix(a, b),
    aten.mv: lambda a, b, *_, result, **__: _matrix(a, b),
    aten.dot: lambda a, b, *_, result, **__: _matrix(a, b),
    aten.vdot: lambda a, b, *_, result, **__: _matrix(a, b),
    aten.addmm: lambda c, a, b, *_, result, **__: _matrix(a, b),
    aten.addmv: lambda c, a, b, *_, result, **__: _matrix(a, b),
    aten.linear: lambda a, w, *_, result, **__: [((*a.shape[:-1], *w.shape), (a, w))],
    aten.bmm: lambda a, b, *_, result, **__: [((*a.shape, b.shape[2]), (a, b))],
    aten.baddbmm: lambda c, a, b, *_, result, **__: [((*a.shape, b.shape[2]), (a, b))],
    aten.addbmm: lambda c, a, b, *_, result, **__: [((*a.shape, b.shape[2]), (a, b))],
    aten.convolution: lambda x, w, b, s, p, d, transposed, *_, result, **__: _convolution(x, w, result, transposed),
    aten._convolution: lambda x, w, b, s, p, d, transposed, *_, result, **__: _convolution(x, w, result, transposed),
    aten._slow_conv2d_forward: lambda x, w, *_, result, **__: _convolution(x, w, result),
    aten._trilinear: lambda a, w, *_, result, **__: [((a.shape[0], *w.shape), (w,))],
    aten._scaled_dot_product_flash_attention: lambda *a, result, **k: _attention(*a, **k),
    aten._scaled_dot_product_flash_attention_for_cpu: lambda *a, result, **k: _attention(*a, **k),
    aten._scaled_dot_product_efficient_attention: lambda *a, result, **k: _attention(*a, **k),
    aten._scaled_dot_product_cudnn_attention: lambda *a, result, **k: _attention(*a, **k),
    aten._scaled_dot_product_attention_math_for_mps: lambda *a, result, **k: _attention(*a, **k),
    aten.mkldnn_rnn_layer: lambda x, *w, result, **__: _recurrent(x, w[:4]),
    aten._cudnn_rnn: lambda x, w, *_, result, **__: _recurrent(x, w),
    aten.miopen_rnn: lambda x, w, *_, result, **__: _recurrent(x, w),
    aten._lstm_mps: lambda x, h, w, *_, result, **__: _recurrent(x, w),
}


def count_products(model: nn.Module, example: Tensor) -> tuple[list[Product], set[str]]:
    """What one input is multiplied by, in running order, and the paths of all modules that were called.

    Of `example` only the first entry is run, in eval mode on a copy which needs no gradients (torch's counter fails on
    an expanded parameter that does), so the model is left as it is.
    """
    clone = detached_clone(model).requires_grad_(False)
    recorder = _Recorder(clone)
    with evaluation_mode(clone), torch.no_grad(), _layer_by_layer(), recorder.counter:
        clone(beside(clone, example[:1].detach()))
    return recorder.products, recorder.called


def count_macs(model: nn.Module, example: Tensor) -> float:
    """Multiply-accumulates of one forward pass of one input."""
    return sum(product.macs for product in count_products(model, example)[0])


class _Recorder:
    """Notes every product that torch's counter meets, with the layer that runs and the weight that is used."""

    def __init__(self, model: nn.Module) -> None:
        self.products: list[Product] = []
        self.called: set[str] = set()
        self._running = [("", model)]
        self._weights: dict[int, list[tuple[int, int, str]]] = {}
        for path, module in model.named_modules():
            self._watch(path, module)
            for name, tensor in _tensors(module):
                self._note(tensor, f"{path}.{name}".lstrip("."))
        others = {packet: self._unruled(count) for packet, count in flop_registry.items() if packet not in RULES}
        ours = {packet: self._ruled(rule) for packet, rule in RULES.items()}
        self.counter = FlopCounterMode(display=False, custom_mapping=others | ours)

    def _watch(self, path: str, module: nn.Module) -> None:
        def begins(*_: Any) -> None:
            self._running.append((path, module))
            self.called.add(path)

        def ends(*_: Any) -> None:
            self._running.pop()

        module.register_forward_pre_hook(begins)
        module.register_forward_hook(ends)

    def _note(self, tensor: Tensor, name: str) -> None:
        if tensor.numel():
            start = int(tensor.storage_offset())
            places = self._weights.setdefault(tensor.untyped_storage().data_ptr(), [])
            places.append((start, start + tensor.numel(), name))

    def _ruled(self, rule: Rule) -> Callable[..., int]:
        def formula(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
            found = rule(*args, result=out_val, **kwargs)
            self._add(found)
            return int(2 * sum(math.prod(factors) for factors, _ in found))

        formula._get_raw = True  # type: ignore[attr-defined]  # the counter then hands over tensors, not shapes
        return formula

    def _unruled(self, count: Callable[..., int]) -> Callable[..., int]:
        """An operation that only torch's counter knows (flex attention, sequences of several lengths)."""

        def formula(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
            flops = count(*args, out_val=out_val, **kwargs)
            self._add([((flops / 2,), ())])
            return flops

        formula._get_raw = True  # type: ignore[attr-defined]
        return formula

    def _add(self, found: list[tuple[Factors, tuple[Tensor, ...]]]) -> None:
        path, module = self._running[-1]
        for factors, operands in found:
            names = {name for operand in operands if (name := self._name_of(operand, path, module)) is not None}
            self.products.append(Product(path, names.pop() if len(names) == 1 else None, factors))

    def _name_of(self, operand: Tensor, path: str, module: nn.Module) -> str | None:
        """The parameter that an operand is, or is a view or a part of; a weight that the layer has computed, too."""
        storage, start = operand.untyped_storage().data_ptr(), operand.storage_offset()
        for begin, end, name in self._weights.get(storage, ()):
            if begin <= start < end:
                return name
        for name, tensor in _tensors(module):  # torch.nn.utils.prune's, made anew for this call
            if tensor.untyped_storage().data_ptr() == storage:
                return f"{path}.{name}".lstrip(".")
        weight = module.weight if isinstance(module, nn.modules.conv._ConvNd | nn.Linear) else None
        if isinstance(weight, Tensor) and operand.numel() == weight.numel() and operand.dim() == weight.dim():
            return f"{path}.weight".lstrip(".")  # standardised, parametrised or cast
        return None


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False)
    yield from ((name, value) for name, value in vars(module).items() if isinstance(value, Tensor))


@contextlib.contextmanager
def _layer_by_layer() -> Iterator[None]:
    """Attention layers run their parts one by one inside, not torch's fused kernel for the whole layer."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
