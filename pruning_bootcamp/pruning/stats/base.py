"""What every statistic is made of: the registry, a layer's own statistics, batches with and without labels."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.registry import Registry

Batches = Iterable[tuple[Tensor, Tensor] | Tensor]  # (images, labels); images alone where no label is needed

# f(model, targets, batches) -> {weight name: finite Tensor of the weight's shape}, of the model in eval mode and with a
# seeded random state. A score asks for it by name: needs=("grad",).
# Facts:
#   labels                            whether `batches` must be (images, labels)
#   task=True                         it is given the `task` too, as a keyword
#   unknown(layer, attribute) -> str  why it can't be measured of that weight; None where it can
STATISTICS: Registry = Registry("statistic")


@dataclass(frozen=True)
class LayerStats:
    """What is known about one layer's weight: its name, a seed of its own, and the statistics that were asked for."""

    name: str
    seed: int = 0
    values: Mapping[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, statistic: str) -> Tensor:
        return self.values[statistic]

    def on(self, device: torch.device) -> "LayerStats":
        """The same with its tensors on the device: statistics that were kept in a file lie on the CPU."""
        return replace(self, values={name: value.to(device) for name, value in self.values.items()})


def device_of(targets: Mapping[str, nn.Parameter]) -> torch.device:
    """The device of the first target: statistics are gathered there."""
    return next(iter(targets.values())).device


def images_in(batches: Batches, device: torch.device) -> Iterator[Tensor]:
    """The images of each batch, whether or not labels come with them; an error when there is none."""
    empty = True
    for batch in batches:
        images = batch if isinstance(batch, Tensor) else batch[0]
        if len(images):
            empty = False
            yield images.to(device)
    if empty:
        raise BootcampError("the calibration data holds no batch: at least one image is needed.")


def pairs_in(batches: Batches, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels of each batch; an error when there is none, or when labels are missing."""
    empty = True
    for batch in batches:
        if isinstance(batch, Tensor) or len(batch) != 2:
            raise BootcampError("gradients of the loss need labels: the calibration batches must be (images, labels).")
        images, labels = batch
        if len(images):
            empty = False
            yield images.to(device), labels.to(device)
    if empty:
        raise BootcampError("the calibration data holds no batch: at least one labelled image is needed.")


def unmeasured(model: nn.Module, names: Iterable[str], needs: Iterable[str]) -> dict[str, str]:
    """Weight name -> why one of these statistics can't be had of it."""
    found = {}
    for need in needs:
        reason_of = STATISTICS[need].facts.get("unknown", lambda layer, attribute: None)
        for name in names:
            path, _, attribute = name.rpartition(".")
            if reason := reason_of(model.get_submodule(path), attribute):
                found[name] = f"{need}: {reason}"
    return found


def check_totals(model: nn.Module, images: Tensor, totals: Mapping[str, Tensor], what: str) -> None:
    """BootcampError that names the layer where NaN or Inf came from; without one, the weights that they reached."""
    bad = [name for name, total in totals.items() if not bool(torch.isfinite(total).all())]
    if not bad:
        return
    if not bool(torch.isfinite(images).all()):
        raise BootcampError("the calibration images themselves hold NaN or Inf.")
    if source := _first_non_finite(model, images):
        raise BootcampError(f"{source}: its output holds NaN or Inf on the calibration images, so {what} can't be had.")
    raise BootcampError(*(f"{name}: {what} of this weight are NaN or Inf." for name in bad))


def _first_non_finite(model: nn.Module, images: Tensor) -> str | None:
    """The first layer, in the order they run, whose output is not finite."""
    found: list[str] = []

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
                found.append(name)

        return module.register_forward_hook(hook)

    leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    handles = [watch(name or type(module).__name__, module) for name, module in leaves]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None
