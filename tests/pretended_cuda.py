"""A CUDA device that isn't there: tensors compute on the CPU and say that they lie on `cuda:0`, and mixing raises.

Where a tensor lies is kept by its storage, so views, `.data` and parameters follow. Every operation that torch runs,
backward passes too, is looked at: tensors of both devices in one of them raise what a GPU raises. Allowed is what CUDA
allows: copies, CPU numbers without dimensions, CPU indices into a tensor of the GPU. What FakeTensorMode can't run
(values that the program reads, `module.to`, backward) runs here. Not seen: kernels that hold on one device only.
"""

import contextlib
import time
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
_ATEN = torch.ops.aten
_COPIES = (_ATEN.copy_, _ATEN._copy_from, _ATEN._foreach_copy_)
_INDEXED = (_ATEN.index, _ATEN.index_put, _ATEN.index_put_, _ATEN._index_put_impl_, _ATEN._unsafe_index)


class Places:
    """Storage -> device, for those that are not on the CPU."""

    def __init__(self) -> None:
        self._refs: dict[int, StorageWeakRef] = {}  # a weak reference keeps the number from being used again

    def of(self, tensor: Tensor) -> torch.device:
        storage = _storage(tensor)
        return CUDA if storage is not None and storage._cdata in self._refs else CPU

    def put(self, tensor: Tensor, device: torch.device) -> None:
        storage = _storage(tensor)
        if storage is None:
            return
        if device.type == "cuda":
            if storage._cdata not in self._refs:
                self._refs[storage._cdata] = StorageWeakRef(storage)
        else:
            self._refs.pop(storage._cdata, None)
        if len(self._refs) > 5000:
            self._refs = {key: ref for key, ref in self._refs.items() if not ref.expired()}


def _storage(tensor: Tensor) -> Any:
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):  # sparse, or another mode's own tensors
        return None


def _is_real(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, torch.nn.Parameter)


class Operations(TorchDispatchMode):
    """Every operation: no two devices in one, and the result lies where its inputs lie."""

    def __init__(self, places: Places) -> None:
        super().__init__()
        self.places = places

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and _is_real(leaf)]
        device = self._meet(func, given, args)
        drawn = kwargs.get("generator") or next((a for a in args if isinstance(a, torch.Generator)), None)
        if drawn is not None and device.type == "cuda":
            raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({func})")
        known = {storage._cdata for tensor in given if (storage := _storage(tensor)) is not None}
        found = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor) and _is_real(leaf)]
        for leaf in made if device == CUDA else ():  # a view stays where it is
            if (storage := _storage(leaf)) is not None and storage._cdata not in known:
                self.places.put(leaf, device)
        return found

    def _meet(self, func: Any, given: list[Tensor], args: Any) -> torch.device:
        """The one device of the operation's tensors."""
        packet = func.overloadpacket
        if packet in _COPIES or not given:
            return self.places.of(given[0]) if given else CPU
        looked_at = given
        if packet in _INDEXED and self.places.of(args[0]) == CUDA:  # and not the other way round
            indices = {id(leaf) for leaf in tree_leaves(args[1])}
            looked_at = [tensor for tensor in given if id(tensor) not in indices]
        places = {self.places.of(tensor) for tensor in looked_at}
        if len(places) > 1:
            places = {self.places.of(t) for t in looked_at if t.dim() > 0 or self.places.of(t) == CUDA}
        if len(places) > 1:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two, cuda:0 and cpu! ({func})"
            )
        return places.pop() if places else CPU


class Functions(TorchFunctionMode):
    """What Python asks of a tensor's device, and every `to`, `cpu`, `cuda` and `device=`."""

    def __init__(self, places: Places) -> None:
        super().__init__()
        self.places = places

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch._C._nn._parse_to:  # module.to: which device is meant, and nothing moves yet
            return func(*args, **kwargs)
        if args and isinstance(args[0], Tensor) and _is_real(args[0]):
            tensor = args[0]
            if func == Tensor.device.__get__:  # a new object each time: equal, not the same
                return self.places.of(tensor) if tensor.device.type == "cpu" else tensor.device
            if func == Tensor.is_cuda.__get__:
                return self.places.of(tensor) == CUDA
            if func == Tensor.is_cpu.__get__:
                return tensor.device.type == "cpu" and self.places.of(tensor) == CPU
            if func in (Tensor.numpy, Tensor.__array__) and self.places.of(tensor) == CUDA:
                raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
            if func is Tensor.__deepcopy__:
                return self._like(func(*args, **kwargs), self.places.of(tensor))
            if func is Tensor.cpu:
                return self._moved(tensor, CPU, tensor)
            if func is Tensor.cuda:
                return self._moved(tensor, CUDA, tensor)
            if func is Tensor.to:
                return self._to(tensor, args[1:], kwargs)
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda":
            kwargs["device"] = CPU
            return self._like(func(*args, **kwargs), CUDA)
        found = func(*args, **kwargs)
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cpu":
            return self._like(found, CPU)
        return found

    def _like(self, found: Any, device: torch.device) -> Any:
        if isinstance(found, Tensor):
            self.places.put(found, device)
        return found

    def _to(self, tensor: Tensor, rest: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        like = (
            kwargs.pop("other", None) if "other" in kwargs else next((r for r in rest if isinstance(r, Tensor)), None)
        )
        if like is not None:
            return self._moved(tensor, self.places.of(like), tensor.to(like.dtype, **kwargs))
        copied = bool(kwargs.pop("copy", False))
        device, dtype, _, layout = torch._C._nn._parse_to(*rest, **kwargs)
        if device is not None and device.type not in ("cpu", "cuda"):
            return tensor.to(*rest, **kwargs)
        changed = tensor.to(dtype or tensor.dtype, copy=copied, memory_format=layout or torch.preserve_format)
        return changed if device is None else self._moved(tensor, device, changed)

    def _moved(self, tensor: Tensor, device: torch.device, changed: Tensor) -> Tensor:
        if self.places.of(tensor).type == device.type:
            return changed
        if changed is tensor or _storage(changed)._cdata == _storage(tensor)._cdata:
            changed = changed.clone()
        return self._like(changed, device)


class _Event:
    def __init__(self, **_: Any) -> None:
        self.at = 0.0

    def record(self, *_: Any) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None: ...

    def elapsed_time(self, end: "_Event") -> float:
        return 1e3 * (end.at - self.at)


class _Current(contextlib.nullcontext):
    """Of `with torch.cuda.device(device)`: there is one only."""


@contextlib.contextmanager
def pretended_cuda() -> Iterator[torch.device]:
    """Inside, torch believes in one CUDA device; `--device cuda` and `auto` take it."""
    places, drawn = Places(), torch.Generator()
    patched = pytest.MonkeyPatch()
    facade = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "set_device": lambda *_: None,
        "get_device_name": lambda *_: "pretended",
        "get_device_capability": lambda *_: (9, 0),
        "synchronize": lambda *_: None,
        "current_stream": lambda *_: None,
        "is_current_stream_capturing": lambda: False,
        "max_memory_allocated": lambda *_: 2**20,
        "reset_peak_memory_stats": lambda *_: None,
        "manual_seed_all": lambda seed: drawn.manual_seed(seed),
        "get_rng_state": lambda *_: drawn.get_state(),
        "set_rng_state": lambda state, *_: drawn.set_state(state),
        "default_generators": (drawn,),
        "device": _Current,
        "Event": _Event,
    }
    for name, value in facade.items():
        patched.setattr(torch.cuda, name, value)
    idle = types.SimpleNamespace(is_capturing=lambda: False)  # optimisers ask whether a graph is being recorded
    patched.setattr(torch.accelerator, "current_stream", lambda *_: idle)
    try:
        with Functions(places), Operations(places):
            yield CUDA
    finally:
        patched.undo()
