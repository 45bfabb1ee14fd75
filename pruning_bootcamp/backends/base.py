"""What runs a network, by name: the registry, what each needs, and the one way to prepare a runner."""

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.masks import detached_copy
from pruning_bootcamp.registry import Entry, Registry
from pruning_bootcamp.runtime import using_threads
from pruning_bootcamp.tools.latency.graphs import relative_difference
from pruning_bootcamp.tools.latency.runner import Runner
from pruning_bootcamp.tools.modes import device_of_model


@dataclass(frozen=True)
class Needs:
    """What must be there: a Python module, which an `extra` of this project brings, or a type of device."""

    module: str | None = None
    extra: str | None = None
    device: str | None = None


def _not_a_runner(runner: Any, *_: Any) -> str | None:
    if isinstance(runner, Runner):
        return None
    return f"{type(runner).__name__}, and a backend gives a Runner of pruning_bootcamp.backends"


BACKENDS: Registry = Registry(
    "backend",
    plural="backends",
    takes=("model", "example", "threads"),
    tell=("tolerance",),
    contract=_not_a_runner,
)
"""f(model, example, threads) -> Runner for batches like the example, which lies on the model's device.

The model is a deployable_copy, to keep or to change. Facts: `tolerance`, how far the outputs may be from torch's,
relative to max(1, the largest). Where it applies
    title      as tables name it; else its name
    advice     what to say where its outputs are further off than the tolerance
    minutes    True: it takes a minute or more to prepare, so it is timed only where it is asked for
    needs      what must be there (Needs)
    profiled   f(type of device) -> the batch sizes at which `profile` times it beside the backend that was asked for
    pointless  f(example) -> why `profile` need not time it on such inputs, or None
    wants      f(model) -> whether it is there for such networks; `profile` passes over it in silence for others
    eager      True: torch starts kernel after kernel, so on a GPU its time may be that of starting them
    by_layer   True: its time is that of the layers, which torch can be asked for one by one
    one_shape  True: what it prepares runs batches of the example's size only, or was chosen for them
"""


def title_of(name: str) -> str:
    """As tables name a backend."""
    return str(BACKENDS[name].facts.get("title", name))


def version_of(name: str) -> str:
    """Of the library that runs the network; torch's where the backend needs no other."""
    needs = BACKENDS.get(name).facts.get("needs")
    module = needs.module if isinstance(needs, Needs) and needs.module is not None else "torch"
    return f"{module} {importlib.metadata.version(module)}"


def lacking(entry: Entry[Any], device: torch.device | None = None) -> list[str]:
    """What the backend needs and this machine (or the device, where one is given) has not, and what to do."""
    needs = entry.facts.get("needs")
    if not isinstance(needs, Needs):
        return []
    found = []
    if needs.module is not None and importlib.util.find_spec(needs.module) is None:
        package = f"'pruning-bootcamp[{needs.extra}]'" if needs.extra else needs.module
        found.append(f"needs {needs.module}, which is not installed: pip install {package}")
    if needs.device is not None and device is not None and device.type != needs.device:
        found.append(f"runs on {needs.device} only, and the device is {device}: choose --device {needs.device}")
    return found


def prepare(name: str, model: nn.Module, example: Tensor, threads: int | None = None) -> Runner:
    """What runs the network on batches like `example` by the backend of that name, on `threads` or as many as torch.

    It runs a copy, where the model lies or where the backend runs. BootcampError where something that it needs is
    missing, where it can't take the network, and where its outputs are further from torch's than its tolerance.
    """
    entry, device = BACKENDS.get(name), device_of_model(model, example.device)
    example = example.detach()
    if missing := lacking(entry, device):
        raise BootcampError(f"backend {name}: {'; '.join(missing)}. Or take another: {', '.join(BACKENDS)}.")
    shipped, count = deployable_copy(model).to(device), threads or torch.get_num_threads()
    with using_threads(count):
        runner: Runner = entry(shipped, example.to(device), count)
    # compared where the runner runs: a GPU may round more than the CPU, and that would be nobody's fault
    reference = deployable_copy(model).to(runner.device)
    _compare(entry, reference, runner, example.to(runner.device))
    return runner


def _compare(entry: Entry[Runner], model: nn.Module, runner: Runner, example: Tensor) -> None:
    """A timing of another network than the one that was asked for would be worth nothing."""
    tolerance = float(entry.facts["tolerance"])
    with torch.inference_mode():
        wanted = [leaf.cpu() for leaf in tree_leaves(model(example)) if isinstance(leaf, Tensor)]
        found = [leaf.cpu() for leaf in tree_leaves(runner(example)) if isinstance(leaf, Tensor)]
    difference = relative_difference(wanted, found)
    if not difference <= tolerance and all(bool(tensor.isfinite().all()) for tensor in wanted):  # NaN is a failure
        raise BootcampError(
            f"backend {entry.name}: its outputs differ from torch's by {difference:.1e} of the largest "
            f"(allowed {tolerance:g}). {entry.facts.get('advice', 'Take another backend.')}"
        )


def deployable_copy(model: nn.Module) -> nn.Module:
    """An independent copy as it is shipped: on the CPU, eval mode, float32, plain weights, contiguous in memory."""
    original = getattr(model, "_orig_mod", model)  # torch.compile wraps it
    assert isinstance(original, nn.Module)
    copied = detached_copy(original).to(device="cpu", dtype=torch.float32).to(memory_format=torch.contiguous_format)
    return copied.eval().requires_grad_(False)
