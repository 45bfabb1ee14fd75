"""Deployment files: written beside their place, checked against the network, and only then put there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError, GoalNotMet
from pruning_bootcamp.exporters import onnx, pt2, torchscript  # noqa: F401  # each registers its format
from pruning_bootcamp.exporters.base import EXPORTERS, Runner, deployable_copy
from pruning_bootcamp.exporters.verify import Difference, fresh_inputs, verify_here, verify_in_new_process
from pruning_bootcamp.runs import atomic_path

__all__ = ["EXPORTERS", "ExportReport", "Runner", "deployable_copy", "export_model"]


@dataclass(frozen=True)
class ExportReport:
    """One written file. Differences are against the network, None when it was not verified (see verify.Difference).

    `warning` says when the verification passed and proves little.
    """

    format: str
    path: Path
    size_mb: float
    verified: bool
    max_difference: float | None
    relative_difference: float | None
    batch_sizes: tuple[int, ...]
    new_process: bool
    warning: str | None = None

    def __str__(self) -> str:
        title = EXPORTERS[self.format].facts["title"]
        lines = [f"✓ Exported to {title}: {self.path} ({self.size_mb:.3f} MB)"]
        if self.verified:
            sizes = ", ".join(str(size) for size in self.batch_sizes)
            lines += [
                f"Max difference between PyTorch and {title}: {self.max_difference:.6f} "
                f"({self.relative_difference:.1e} relative to the largest output; batches of {sizes})",
                f"✓ {title} export verified successfully, here and in a new process without pruning_bootcamp",
            ]
            lines += [f"! {self.warning}"] if self.warning else []
        else:
            lines.append(f"- {title} export not verified (--no-verify)")
        return "\n".join(lines)


def export_model(
    model: nn.Module,
    example: Tensor,
    folder: Path | str,
    *,
    format: str,  # noqa: A002  # the word users know, from --format
    verify: bool = True,
    batch_sizes: Sequence[int] = (1, 2, 7),
    tolerance: float = 1e-5,
    examples: Tensor | None = None,
    args: Mapping[str, Any] = {},
) -> ExportReport:
    """Write folder/model<suffix> and compare it with the network, on fresh inputs and on `examples` when given.

    What is written is a copy: on the CPU, in eval mode, in float32; the model stays as it is. The difference relative
    to max(1, largest |output|) must stay below `tolerance` for every batch size, here and in a new process without
    the project; else GoalNotMet is raised, and no file of that name is left. A network that the format can't hold, or
    whose output is not one tensor, is a BootcampError.
    """
    entry = EXPORTERS.get(format, where="export.format")
    checked, problems = EXPORTERS.check(format, args, "export")
    if min(batch_sizes, default=0) < 1:
        problems.append(f"export.batch_sizes: {list(batch_sizes)} must be one or more whole numbers from 1 up.")
    if problems:
        raise BootcampError(*problems)
    shipped = deployable_copy(model)
    sample = _sample(shipped, example)
    path = Path(folder) / f"model{entry.facts['suffix']}"
    difference: Difference | None = None
    try:
        with atomic_path(path) as temporary:
            runner = entry(shipped, sample, temporary, **checked)
            if verify:
                inputs = fresh_inputs(sample, batch_sizes)
                if examples is not None:
                    inputs["batch of real images"] = examples.detach().to("cpu", torch.float32)
                here = verify_here(shipped, runner, inputs, tolerance)
                there = verify_in_new_process(shipped, temporary, entry.facts["program"], inputs, tolerance)
                difference = Difference.largest([here, there])
    except GoalNotMet as failure:
        path.unlink(missing_ok=True)  # an older file of this name would pass for the one that failed
        raise GoalNotMet(f"export: {entry.facts['title']}: {failure}. {path} was removed.") from failure
    return ExportReport(
        format=format,
        path=path,
        size_mb=path.stat().st_size / 1e6,
        verified=verify,
        max_difference=difference.absolute if difference else None,
        relative_difference=difference.relative if difference else None,
        batch_sizes=tuple(batch_sizes) if verify else (),
        new_process=verify,
        warning=_proves_little(difference, tolerance) if difference else None,
    )


def _proves_little(difference: Difference, tolerance: float) -> str | None:
    if difference.largest_output > 1000 * tolerance:
        return None
    return (
        f"The network's largest output is only {difference.largest_output:.1e}, so this check could hardly fail. "
        "Is the network trained?"
    )


def _sample(model: nn.Module, example: Tensor) -> Tensor:
    """Two images to trace with (torch.export takes a batch of one as a constant), once the network has run on them."""
    first = example[:1].detach().to("cpu", torch.float32)
    sample = torch.cat([first, first])
    with torch.inference_mode():
        output = model(sample)
    if not isinstance(output, Tensor):
        raise BootcampError(f"export: the network gives {type(output).__name__}, and one tensor is needed.")
    return sample
