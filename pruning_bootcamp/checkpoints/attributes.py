"""What a network holds beside parameters and buffers: compared between two builds, to name what a reload draws anew."""

import hashlib
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning_bootcamp.checkpoints.stored import Stored
from pruning_bootcamp.errors import BootcampError

# What every nn.Module has: state of torch's own.
_INTERNAL = frozenset(vars(nn.Module()))
_LIBRARIES = ("torch", "torchvision", "timm", "pruning_bootcamp", "builtins")
_VALUES = (Tensor, np.ndarray, np.generic, float, int, complex, list, tuple, dict, set, frozenset)
IN_ARGS = "Draw nothing that decides which layers there are: make it a setting of the factory (model.args)."
_DEEPEST, _MOST_SHOWN = 8, 3


@dataclass(frozen=True)
class Attribute:
    """Something that a module, its class or its source file keeps under a name."""

    label: str
    """as in an error: `Net.mix`, `features.3 (Mixer).mix`, `mynet.MIX`"""
    name: str
    value: Any
    kind: str
    """attribute, buffer (values of registered ones), class, or file (a variable of the module's source file)"""
    library: bool = False
    """whether it belongs to a module of torch, torchvision or timm"""


def attributes_of(model: nn.Module, buffers: bool = False) -> dict[str, Attribute]:
    """By label, in the network's order. With `buffers` those too that are registered, whose values a file may lack."""
    found: dict[str, Attribute] = {}

    def add(label: str, name: str, value: Any, kind: str, library: bool = False) -> None:
        found.setdefault(label, Attribute(label, name, value, kind, library))

    for path, module in model.named_modules():
        own = type(module)
        owner = own.__name__ if not path else f"{path} ({own.__name__})"
        for name, value in vars(module).items():
            if name not in _INTERNAL:
                add(f"{owner}.{name}", name, value, "attribute", _is_library(own))
        for name, value in module._buffers.items() if buffers else ():
            add(f"{owner}.{name}", name, value, "buffer")
    for own in dict.fromkeys(type(module) for module in model.modules()):
        if _is_library(own):
            continue
        for kind, owner, table in (
            ("class", own.__name__, vars(own)),
            ("file", own.__module__, _variables(own.__module__)),
        ):
            for name, value in table.items():
                if isinstance(value, _VALUES) and not isinstance(value, bool) and not name.startswith("__"):
                    add(f"{owner}.{name}", name, value, kind)
    return found


def digests_of(model: nn.Module) -> dict[str, str]:
    """A short hash of each attribute, to be kept beside a network; equal for equal values in another process."""
    return {label: _hash(attribute.value) for label, attribute in attributes_of(model).items()}


def unsaved(model: nn.Module) -> dict[str, str]:
    """As digests_of, of what a state dict lacks and a network may compute with; empty for most networks.

    Those are tensors and arrays, and numbers that a module of the user's own keeps.
    """
    return {
        label: _hash(attribute.value)
        for label, attribute in attributes_of(model).items()
        if attribute.kind != "file"
        and (_holds_tensors(attribute.value, 0) or (not attribute.library and isinstance(attribute.value, _VALUES)))
    }


def check_unsaved(model: nn.Module, digests: Mapping[str, Stored], where: str) -> None:
    """BootcampError when the network is not the one that `unsaved` was said of, though its tensors may be."""
    if named := differing_from(model, digests):
        raise BootcampError(
            f"was made with another network: with these weights it would compute something else. {' '.join(named)}",
            where=where,
        )


def _variables(module: str) -> Mapping[str, Any]:
    """Of a source file; those of a notebook or a running script are its data and plots, and no network's."""
    return vars(sys.modules[module]) if module in sys.modules and module != "__main__" else {}


def _is_library(own: type) -> bool:
    return own.__module__.partition(".")[0] in _LIBRARIES


def _holds_tensors(value: Any, depth: int) -> bool:
    if isinstance(value, list | tuple | dict) and depth < _DEEPEST:
        return any(_holds_tensors(entry, depth + 1) for entry in _entries(value).values())
    return isinstance(value, Tensor | np.ndarray | nn.Module)


def differing(one: nn.Module, other: nn.Module) -> list[str]:
    """Sentences that name each attribute in which two builds differ, and say what to do; the first few."""
    ours, theirs = attributes_of(one, buffers=True), attributes_of(other, buffers=True)
    found = _other_layers(one, other)
    for label, attribute in ours.items():
        if label in theirs and _hash(attribute.value) != _hash(theirs[label].value):
            found += _named(attribute, theirs[label].value)
    return _first(found)


def _other_layers(one: nn.Module, other: nn.Module) -> list[str]:
    built = dict(other.named_modules())
    return [
        f"`{path}` is a {type(module).__name__} in one build and a {type(built[path]).__name__} in the next. {IN_ARGS}"
        for path, module in one.named_modules()
        if path in built and type(built[path]) is not type(module)
    ]


def differing_from(model: nn.Module, digests: Mapping[str, Stored]) -> list[str]:
    """As `differing`, of a network and what `digests_of` said of it when it was saved."""
    found = []
    for label, attribute in attributes_of(model).items():
        if label in digests and digests[label] != _hash(attribute.value):
            found.append(_sentence(attribute, label, attribute.name, attribute.value))
    return _first(found)


def _first(sentences: list[str]) -> list[str]:
    rest = len(sentences) - _MOST_SHOWN
    return sentences[:_MOST_SHOWN] + ([f"So are {rest} others."] if rest > 0 else [])


def _named(attribute: Attribute, other: Any) -> list[str]:
    """The attribute itself, or the entries of a list or table in which the two differ."""
    return [
        _sentence(
            attribute,
            attribute.label + place,
            attribute.name + "".join(c if c.isalnum() else "_" for c in place).rstrip("_"),
            value,
        )
        for place, value in _differing_entries(attribute.value, other, "", 0)
    ]


def _differing_entries(one: Any, other: Any, place: str, depth: int) -> Iterator[tuple[str, Any]]:
    keyed = type(one) is type(other) and isinstance(one, list | tuple | dict) and len(one) == len(other)
    if (
        keyed
        and depth < _DEEPEST
        and any(isinstance(value, Tensor | np.ndarray | nn.Module) for value in _entries(one).values())
    ):
        theirs = _entries(other)
        for key, value in _entries(one).items():
            if key in theirs and _hash(value) != _hash(theirs[key]):
                yield from _differing_entries(value, theirs[key], f"{place}[{key!r}]", depth + 1)
        return
    yield place, one


def _entries(value: Any) -> dict[Any, Any]:
    return dict(value) if isinstance(value, dict) else dict(enumerate(value))


def _sentence(attribute: Attribute, label: str, name: str, value: Any) -> str:
    what, todo = _described(value, name)
    if attribute.kind == "buffer":
        return (
            f"`{label}` (a buffer of shape {_shape(value)} that the file does not hold) is drawn anew each time the "
            f"network is built. Register it without persistent=False: self.register_buffer('{name}', ...)."
        )
    where = {
        "attribute": "kept as plain attribute",
        "class": "of the class",
        "file": "of the source file",
    }[attribute.kind]
    again = (
        "each time the file is imported" if attribute.kind in ("class", "file") else "each time the network is built"
    )
    return f"`{label}` ({what}, {where}) is drawn anew {again}. {todo}"


def _described(value: Any, name: str) -> tuple[str, str]:
    """What it is, and what to do about it."""
    as_tensor = f"Register it as a tensor: self.register_buffer('{name}', torch.tensor(...))."
    if isinstance(value, Tensor):
        sides = ", ".join(str(side) for side in value.shape)
        made = f"torch.randn({sides})" if value.is_floating_point() and value.ndim else "..."
        if (
            value.ndim == 1
            and not value.is_floating_point()
            and torch.equal(value.sort().values, torch.arange(len(value)).to(value))
        ):
            made = f"torch.randperm({sides})"
        return f"a random tensor of shape {_shape(value)}", f"Register it: self.register_buffer('{name}', {made})."
    if isinstance(value, np.ndarray):
        return f"a random NumPy array of shape {'x'.join(map(str, value.shape))}", as_tensor
    if isinstance(value, bool | int | float | complex | np.generic):
        return f"a random number, here {value!r:.20}", as_tensor
    if isinstance(value, nn.Module):
        return (
            f"a {type(value).__name__} in a plain container, whose weights no file holds",
            "Keep layers in nn.ModuleList or nn.ModuleDict, and tensors by self.register_buffer(NAME, ...).",
        )
    if isinstance(value, set | frozenset):
        return (
            f"a set of {len(value)}, whose order is another in each process",
            "Keep a sorted list, or its values by self.register_buffer(NAME, torch.tensor(...)).",
        )
    if isinstance(value, list | tuple | dict):
        kind = {"dict": "table"}.get(type(value).__name__, type(value).__name__)
        return f"a {kind} of {len(value)} values", as_tensor
    return (
        f"a {type(value).__name__}",
        "Make it a setting of the factory (model.args), or keep its values by self.register_buffer(NAME, ...).",
    )


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "()"


def _hash(value: Any) -> str:
    digest = hashlib.sha256()
    _feed(value, digest.update, set(), 0)
    return digest.hexdigest()[:16]


def _feed(value: Any, take: Callable[[bytes], None], seen: set[int], depth: int) -> None:
    """Hand over what a value consists of, byte by byte, the same in each process; an object once, not too deep."""

    def go(inner: Any) -> None:
        _feed(inner, take, seen, depth + 1)

    take(f"<{type(value).__qualname__}".encode())
    if isinstance(value, bool | int | float | complex | str | bytes | None | torch.dtype | torch.device):
        take(repr(value).encode())
    elif isinstance(value, Tensor):
        _feed_tensor(value, take)
    elif isinstance(value, np.ndarray | np.generic) and value.dtype != object:
        take(f"{value.dtype} {value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif id(value) in seen or depth > _DEEPEST:
        pass
    else:
        seen.add(id(value))
        for part in _parts(value):
            go(part)


def _feed_tensor(value: Tensor, take: Callable[[bytes], None]) -> None:
    take(f"{value.dtype} {tuple(value.shape)}".encode())
    if value.layout == torch.strided and value.device.type != "meta" and not value.is_quantized:
        plain = value.detach().cpu().contiguous()
        take(plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")


def _parts(value: Any) -> Iterator[Any]:
    """What an object consists of, as far as that can make it compute something else."""
    if isinstance(value, list | tuple | set | frozenset):
        yield from value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield key
            yield entry
    elif isinstance(value, torch.Generator):
        yield value.get_state()
    elif isinstance(value, np.random.Generator):
        yield value.bit_generator.state
    elif isinstance(value, nn.Module):
        yield from value._parameters.values()
        yield from value._buffers.values()
        yield from value._modules.values()
        yield from (entry for name, entry in vars(value).items() if name not in _INTERNAL)
    elif isinstance(value, types.FunctionType):
        yield value.__qualname__
        yield value.__defaults__
        for cell in value.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # not filled yet
                continue
    elif isinstance(value, partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, types.MethodType):
        yield value.__func__
        yield value.__self__
    elif isinstance(value, type | types.ModuleType | types.BuiltinFunctionType):
        yield getattr(value, "__qualname__", value.__name__)
    elif hasattr(value, "getstate"):  # random.Random
        yield value.getstate()
    elif hasattr(value, "__dict__"):
        yield from vars(value).values()
