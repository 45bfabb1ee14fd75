"""Linear layers whose weights are mostly zeros as CSR products, those alone that are quicker so, by measurement."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruning_bootcamp.backends.zeros import WORTH_TRYING, raced
from pruning_bootcamp.tools.latency import PairedRatio
from pruning_bootcamp.tools.quiet import quiet

Product = Callable[[Tensor, Tensor], Tensor]
_SHOWN = 6


def csr_product(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight.T of a CSR weight, contiguous as a dense layer's output is. TorchScript can take it as it stands.

    F.linear with such a weight is several times slower, and raises in inference mode (torch 2.15).
    """
    rows = x.reshape(-1, x.shape[-1])
    if rows.shape[0] == 1:
        found = torch.mv(weight, rows[0])  # a matrix of one column would take twice as long
    else:
        found = torch.mm(weight, rows.t().contiguous()).t().contiguous()
    return found.reshape(list(x.shape[:-1]) + [weight.shape[0]])  # noqa: RUF005  # TorchScript knows no star in a list


class CsrLinear(nn.Module):
    """A linear layer that skips its zeros."""

    __jit_unused_properties__ = ("weight",)

    def __init__(self, layer: nn.Linear, product: Product = csr_product) -> None:
        super().__init__()
        with quiet("torch"):  # that CSR is in beta
            found = layer.weight.detach().to_sparse_csr()
            # of 32 bits, which MKL takes: it is handed a copy of 64-bit indices in every product
            indices = (found.crow_indices().int(), found.col_indices().int())
            self.register_buffer("csr", torch.sparse_csr_tensor(*indices, found.values(), found.shape))
        self.bias = layer.bias
        self.product = product

    @property
    def weight(self) -> Tensor:
        """Dense, for code that reads it."""
        return self.get_buffer("csr").to_dense()

    def forward(self, x: Tensor) -> Tensor:
        """What the dense layer gives, to float32's rounding."""
        found = self.product(x, self.get_buffer("csr"))
        return found if self.bias is None else found + self.bias


@dataclass(frozen=True)
class Tried:
    """A linear layer of a network: its share of zeros, and its time as CSR over dense's by batch size.

    Without times it was not worth trying.
    """

    path: str
    zeros: float
    ratios: Mapping[int, PairedRatio]

    @property
    def pays(self) -> bool:
        """Whether it is quicker as CSR, for certain, at every batch size."""
        return bool(self.ratios) and all(ratio.verdict == "faster" for ratio in self.ratios.values())

    def __str__(self) -> str:
        return f"{self.path or 'the only one'} ({self.zeros:.1%} zeros) {_speedups(self.ratios)}"


def skipping_zeros(
    model: nn.Module, examples: Sequence[Tensor], product: Product = csr_product
) -> tuple[nn.Module, str]:
    """The network with its layers as CSR that are quicker so for each of the batches, and in words which and why.

    It shares the model's tensors. Never slower than dense: raced whole, and where that is not quicker for certain it is
    the model itself. Layers that no module call reaches (inside attention) stay dense.
    """
    calls = [_calls(model, example) for example in examples]
    layers = {path: layer for path, layer in model.named_modules() if path in calls[0]}
    assert all(isinstance(layer, nn.Linear) for layer in layers.values())
    zeros = {path: 1 - int(layer.weight.count_nonzero()) / layer.weight.numel() for path, layer in layers.items()}
    if not zeros:
        return model, "dense: no linear layer that runs by itself"
    if max(zeros.values()) < WORTH_TRYING:
        most = max(zeros, key=zeros.__getitem__)
        of = most or "the only one"
        return model, f"dense: no linear layer with half of its weights zero (the most: {zeros[most]:.1%} in {of})"
    tried = [
        Tried(path, zeros[path], _timed(layers[path], [call[path] for call in calls], examples, product))
        for path in layers
    ]
    quicker, slower = [one for one in tried if one.pays], [one for one in tried if one.ratios and not one.pays]
    if not quicker:
        return model, f"dense: no linear layer is quicker as CSR: {_some(slower)}"
    found = with_csr(model, [one.path for one in quicker], product)
    whole = {len(example): raced(model, found, example) for example in examples}
    if any(ratio.verdict != "faster" for ratio in whole.values()):
        return model, f"dense: as CSR {_some(quicker)}, but the whole network {_speedups(whole)}"
    others = f"; dense: {_some(slower)}" if slower else ""
    said = f"{len(quicker)} of {len(tried)} linear layers as CSR: {_some(quicker)}{others}"
    return found, f"{said}; the whole network {_speedups(whole)}"


def with_csr(model: nn.Module, paths: Iterable[str], product: Product = csr_product) -> nn.Module:
    """A network of the model's own tensors in which the layers of these paths are CSR products."""
    shared: dict[int, object] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    found = copy.deepcopy(model, shared)
    chosen = {id(found.get_submodule(path)) for path in paths}
    made: dict[int, CsrLinear] = {}
    for path, module in list(found.named_modules(remove_duplicate=False)):
        if id(module) not in chosen:
            continue
        assert isinstance(module, nn.Linear)
        made.setdefault(id(module), CsrLinear(module, product).eval())
        if not path:
            return made[id(module)]
        parent, _, name = path.rpartition(".")
        setattr(found.get_submodule(parent), name, made[id(module)])
    return found


def _calls(model: nn.Module, example: Tensor) -> dict[str, list[tuple[int, ...]]]:
    """Linear layer -> the shapes of what it is given, call by call.

    Of nn.Linear itself: a class made from it may compute something else.
    """
    shapes: dict[str, list[tuple[int, ...]]] = {}
    handles = []
    for path, layer in model.named_modules():
        if type(layer) is nn.Linear:

            def note(layer: nn.Module, _: object, output: Tensor, path: str = path) -> None:
                shapes.setdefault(path, []).append((*output.shape[:-1], int(layer.in_features)))  # type: ignore[arg-type]

            handles.append(layer.register_forward_hook(note))
    try:
        with torch.inference_mode():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def _timed(
    layer: nn.Module, calls: Sequence[Sequence[tuple[int, ...]]], examples: Sequence[Tensor], product: Product
) -> dict[int, PairedRatio]:
    """Batch size -> the layer's time as CSR over dense's for all its calls in a pass; empty where it has few zeros."""
    assert isinstance(layer, nn.Linear)
    if int(layer.weight.count_nonzero()) > (1 - WORTH_TRYING) * layer.weight.numel():
        return {}
    sparse, found = CsrLinear(layer, product), {}
    for shapes, example in zip(calls, examples, strict=True):
        generator = torch.Generator().manual_seed(0)
        inputs = [torch.randn(shape, generator=generator) for shape in shapes]

        def run(layer: nn.Module, inputs: list[Tensor] = inputs) -> Callable[[Tensor], list[Tensor]]:
            return lambda _: [layer(x) for x in inputs]

        found[len(example)] = raced(run(layer), run(sparse), example, min_seconds=0.1)
    return found


def _speedups(ratios: Mapping[int, PairedRatio]) -> str:
    if len(ratios) == 1:
        return next(iter(ratios.values())).speedup
    return " and ".join(f"{ratio.speedup} at batch {size}" for size, ratio in ratios.items())


def _some(layers: Sequence[Tried]) -> str:
    more = f", {len(layers) - _SHOWN} more" if len(layers) > _SHOWN else ""
    return ", ".join(str(layer) for layer in layers[:_SHOWN]) + more
