"""Deployment files: written beside their place, checked against the network, and only then put there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pruning_bootcamp.backends.base import deployable_copy
from pruning_bootcamp.checkpoints import Recipe, dense_file_bytes
from pruning_bootcamp.errors import BootcampError, GoalNotMet, Problem
from pruning_bootcamp.export_settings import ExportSettings, check_export
from pruning_bootcamp.exporters import (  # noqa: F401  # each registers its format
    int8,
    onnx,
    pt2,
    sparse,
    torchscript,
    torchscript_sparse,
)
from pruning_bootcamp.exporters.base import EXPORTERS, Written, proof_of
from pruning_bootcamp.exporters.verify import Difference, fresh_inputs, real_inputs, verify_here, verify_in_new_process
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.runs import atomic_path
from pruning_bootcamp.schema import named
from pruning_bootcamp.tasks import IMAGE_CLASSIFICATION, Task
from pruning_bootcamp.tasks.base import with_one_output
from pruning_bootcamp.tools.inputs import plain_inputs
from pruning_bootcamp.tools.latency.runner import Runner
from pruning_bootcamp.tools.programs import twice
from pruning_bootcamp.tools.tiny import tiny_text, tiny_weights, zero_tiny

__all__ = ["EXPORTERS", "ExportReport", "Runner", "deployable_copy", "export_model", "proof_of"]


@dataclass(frozen=True)
class ExportReport:
    """One written file. Differences are against the network, None when it was not verified (see verify.Difference).

    `agreement` is the share of `images` real inputs that are decided alike, for a format that is judged by it, and
    `outputs` what the file gives for each of them.
    `dense_mb` is a file of the plain float32 weights, for a format that is there to be smaller. `warning` says when the
    verification passed and proves little. `zeroed`: tensor -> how many of its weights were too small, and are zero in
    the file; `emptied`: layer -> how many of its filters rounding has made all zeros. `notes`: what stands in the file
    otherwise than in the network, in words.
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
    agreement: float | None = None
    images: int | None = None
    dense_mb: float | None = None
    zeroed: Mapping[str, int] = field(default_factory=dict)
    emptied: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    outputs: Tensor | None = field(default=None, repr=False)

    def __str__(self) -> str:
        facts = EXPORTERS[self.format].facts
        title = facts["title"]
        lines = [f"✓ Exported to {title}: {self.path} ({self.size_mb:.3f} MB{self._ratio()})"]
        lines += [f"! {note}" for note in self.notes]
        if self.verified:
            sizes = ", ".join(str(size) for size in self.batch_sizes)
            if self.agreement is not None:
                lines.append(f"Same top-1 class as PyTorch for {self.agreement:.2%} of {self.images} real images")
            lines += [
                f"Max difference between PyTorch and {title}: {self.max_difference:.6f} "
                f"({self.relative_difference:.1e} relative to the largest output; batches of {sizes})",
                f"✓ {title} export verified successfully, here and in a new process"
                + ("" if facts.get("project") else " without pruning_bootcamp"),
            ]
            lines += [f"! {self.warning}"] if self.warning else []
        else:
            lines.append(f"- {title} export not verified (--no-verify)")
        return "\n".join(lines)

    def _ratio(self) -> str:
        if self.dense_mb is None:
            return ""
        return (
            f"; the dense float32 weights take {self.dense_mb:.3f} MB, {self.dense_mb / self.size_mb:.2f} times as much"
        )


def export_model(
    model: nn.Module,
    example: Tensor,
    folder: Path | str,
    settings: ExportSettings | None = None,
    *,
    format: str,  # noqa: A002  # the word users know, from --format
    examples: Tensor | None = None,
    calibration: Tensor | None = None,
    recipe: Recipe | None = None,
    masks: Mapping[str, Tensor] | None = None,
    args: Mapping[str, Plain] = {},
    task: Task = IMAGE_CLASSIFICATION,
    **names: Any,
) -> ExportReport:
    """Write folder/model<suffix> and compare it with the network, on fresh inputs and on `examples` when given.

    What is written is a copy: on the CPU, in eval mode, in float32; the model stays as it is. Of a network that gives
    several outputs (a table, say) the one that its `task` looks at is written. The difference relative to max(1,
    largest |output|) must stay below `tolerance` for every batch size (a float32 sparse file's must be 0), or where
    numbers were rounded to int8 the share `agreement` of `examples`, real inputs, must be decided alike; here, and in a
    new process that has only what the format needs. Else GoalNotMet is raised, and no file of that name is left. A
    network that the format can't hold is a BootcampError. Weights too small to be worth their time (tools/tiny.py),
    which folding batch norm can make, are zero in the file: `zeroed` says how many. How it is compared is said by
    `settings`, or by its fields as keywords (verify, batch_sizes, tolerance, agreement).
    `calibration` (real images) is for int8, `recipe` and `masks` are for sparse.
    """
    settings = settings or named(ExportSettings, **names)
    entry = EXPORTERS.get(format, where="export.format")
    checked, problems = EXPORTERS.check(format, args, "export")
    problems += check_export(settings)
    if settings.pad_to is not None:
        problems.append(
            Problem("export.pad_to", "the network is written as it is given. Widen it first: channels.widening.widen.")
        )
    if problems:
        raise BootcampError(*problems)
    proof = proof_of(format, checked)
    if settings.verify and proof == "agreement" and (examples is None or len(examples) == 0):
        raise BootcampError(f"export: {entry.facts['title']} is verified on real images. Give some as examples=.")
    sample = twice(example)
    shipped = _with_one_output(deployable_copy(model), sample, task, whole="recipe" in entry.facts.get("needs", ()))
    path = Path(folder) / f"model{entry.facts['suffix']}"
    given = {"calibration": calibration, "recipe": recipe, "masks": masks}
    checked |= {name: given[name] for name in entry.facts.get("needs", ())}
    zeroed: Mapping[str, int] = {}
    written = shipped
    if not entry.facts.get("folds"):
        written, zeroed = _without_tiny(model, shipped, sample, task)
    difference: Difference | None = None
    try:
        with atomic_path(path) as temporary:
            runner = entry(written, sample, temporary, **checked)
            if not isinstance(runner, Written):
                runner = Written(getattr(runner, "backend", entry.name), runner)
            if zeroed:
                runner = replace(runner, zeroed=zeroed)
            if settings.verify:
                inputs = _inputs(sample, settings.batch_sizes, examples, proof)
                allowed = 0.0 if proof == "equal" and not runner.zeroed else settings.tolerance
                least = settings.agreement if proof == "agreement" else None
                program, project = entry.facts["program"], bool(entry.facts.get("project"))
                here = verify_here(shipped, runner, inputs, allowed, least, task)
                there = verify_in_new_process(shipped, temporary, program, inputs, allowed, least, project, task)
                difference = Difference.largest([here, there])
    except GoalNotMet as failure:
        path.unlink(missing_ok=True)  # an older file of this name would pass for the one that failed
        advice = entry.facts["advice"](**checked) if "advice" in entry.facts else ""
        raise GoalNotMet(f"export: {entry.facts['title']}: {failure}. {path} was removed.{advice}") from failure
    return ExportReport(
        format=format,
        path=path,
        size_mb=path.stat().st_size / 1e6,
        verified=settings.verify,
        max_difference=difference.absolute if difference else None,
        relative_difference=difference.relative if difference else None,
        batch_sizes=tuple(settings.batch_sizes) if settings.verify else (),
        new_process=settings.verify,
        warning=_proves_little(difference, settings.tolerance) if difference else None,
        agreement=difference.agreement if difference else None,
        images=difference.images if difference else None,
        dense_mb=dense_file_bytes(shipped) / 1e6 if entry.facts.get("compact") else None,
        zeroed=runner.zeroed,
        emptied=runner.emptied,
        notes=_notes(runner),
        outputs=difference.outputs if difference else None,
    )


def _without_tiny(model: nn.Module, shipped: nn.Module, sample: Tensor, task: Task) -> tuple[nn.Module, dict[str, int]]:
    """What ships without weights that are too small, and how many of each were; `shipped` itself where none is."""
    if not tiny_weights(shipped):
        return shipped, {}
    mended = deployable_copy(model)
    zeroed = zero_tiny(mended)
    return with_one_output(mended, sample, task), zeroed


def _notes(file: Written) -> tuple[str, ...]:
    notes = list(file.notes)
    if file.zeroed:
        zeroed = tiny_text(file.zeroed)
        notes.append(f"{zeroed} set to 0 in the file: they do nothing, and slow some processors down many times")
    if file.emptied:
        notes.append(
            f"filters that rounding makes all zeros: {sum(file.emptied.values())} "
            f"({', '.join(f'{name} {count}' for name, count in file.emptied.items())}), their weights being too small "
            "beside their bias"
        )
    return tuple(notes)


def _inputs(sample: Tensor, batch_sizes: Sequence[int], examples: Tensor | None, proof: str) -> dict[str, Tensor]:
    if examples is not None:
        examples = plain_inputs(examples)
        if proof == "agreement":
            return real_inputs(examples, batch_sizes)
    inputs = fresh_inputs(sample, batch_sizes)
    return inputs if examples is None else inputs | {"batch of real images": examples}


def _proves_little(difference: Difference, tolerance: float) -> str | None:
    if difference.classes == 1:
        return "The network chooses the same class for every image, so this check could hardly fail. Is it trained?"
    if difference.largest_output > 1000 * tolerance:
        return None
    return (
        f"The network's largest output is only {difference.largest_output:.1e}, so this check could hardly fail. "
        "Is the network trained?"
    )


def _with_one_output(model: nn.Module, sample: Tensor, task: Task, whole: bool) -> nn.Module:
    """The network, once it has run on the sample, with one tensor as its output; `whole`: none but the network itself
    will do."""
    found = with_one_output(model, sample, task)
    if whole and found is not model:
        raise BootcampError(
            "export: the network gives more than one tensor, and this format, which holds the network itself, "
            "needs one. Use --format onnx."
        )
    return found
