"""What a run says at its end: on the screen, in report.md, and in the model card that goes with exported files."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pruning_bootcamp.config import Config
from pruning_bootcamp.evaluation import sparsity_text
from pruning_bootcamp.flow.start import task_of
from pruning_bootcamp.flow.status import Progress, Status
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.memorised import caveat
from pruning_bootcamp.reporting import comparison_rows, dead_text, goal_line, markdown_table, penalty_text, refit_text
from pruning_bootcamp.results import ExportedFile, Gate, Metrics, ModelInput
from pruning_bootcamp.runs import CONFIG
from pruning_bootcamp.tasks import Task


def pipeline_report(cfg: Config, metrics: Metrics, gates: Sequence[Gate], progress: Progress) -> str:
    """Metrics, verdict, gates, sizes, the stages with their time and memory; of a stopped pipeline what there is."""
    status, task = progress.status, task_of(cfg)
    title, noun = task.metric.title, task.noun
    parts = [f"# Pipeline {cfg.name}: {cfg.model.name} on {cfg.data.name}"]
    if status.state == "failed":
        parts.append(f"**Stopped: {status.reason}** Nothing was exported.")
    if metrics.goal is not None:
        parts.append(goal_line(metrics.goal, bool(metrics.goal_met)))
    if (v := metrics.validation) is not None:
        parts += [
            f"## On {v.images} validation {noun} (chosen on)",
            f"- {title}: dense {task.metric.text(v.baseline_accuracy)}, compressed {task.metric.text(v.accuracy)}",
            f"- {task.metric.lost_title}: {v.accuracy_drop:.2f} points",
        ]
    if metrics.accuracy is not None and metrics.baseline is not None:
        parts += [
            f"## On {metrics.test_images} test {noun} (read once)",
            markdown_table(["metric", "dense", "compressed"], comparison_rows(metrics.baseline, metrics, task.metric)),
            f"- {task.metric.lost_title}: {metrics.accuracy_drop:.2f} points",
            f"One seed ({cfg.seed}): no spread is claimed.",
        ]
    if gates:
        rows = [[gate.gate, gate.asked, gate.found, gate.where, "met" if gate.met else "**failed**"] for gate in gates]
        parts += ["## Gates", markdown_table(["gate", "asked", "found", "where", ""], rows)]
    if metrics.files:
        parts += ["## Files", size_table(metrics, task), *_file_notes(metrics)]
    if metrics.fall_backs:
        parts += ["## Done otherwise than asked", "\n".join(f"- {text}" for text in metrics.fall_backs)]
    rows = [
        [
            line.stage or "Dense network",
            line.title,
            line.state,
            "" if line.seconds is None else f"{line.seconds:.1f}{line.since}",
            "" if line.peak_memory_mb is None else f"{line.peak_memory_mb:.0f}",
            line.text,
        ]
        for line in status.steps
    ]
    header = ["stage", "step", "", "seconds", "peak memory (MiB)", "what came out"]
    parts += ["## Stages", markdown_table(header, rows)]
    again = f"pruning-bootcamp pipeline run -c {progress.folder / CONFIG} --save-dir {progress.folder}"
    parts += ["## Again", f"```\n{again}\n```"]
    return "\n\n".join(parts) + "\n"


def size_table(metrics: Metrics, task: Task) -> str:
    """Every exported file on disk against the dense network's float32 weights on disk."""
    dense = metrics.dense_size_mb or 0.0
    rows = [["dense weights (float32)", f"{dense:.4f}", "1.00", ""]]
    for name, file in (metrics.files or {}).items():
        rows.append([name, f"{file.size_mb:.4f}", f"{dense / file.size_mb:.2f}", _proof(file, task)])
    return markdown_table(["file", "MB on disk", "times smaller", "proof"], rows)


def _file_notes(metrics: Metrics) -> list[str]:
    """What stands in the files otherwise than in the network: a list, or nothing."""
    notes = []
    if (padding := metrics.padding) is not None and padding.multiple is not None:
        wider = f"{len(padding.widths)} groups of channels are wider, by channels that are zero"
        notes.append(f"- all: widths in multiples of {padding.multiple} ({wider}); the checkpoint is not")
    notes += [f"- {name}: {note}" for name, file in (metrics.files or {}).items() for note in file.notes or ()]
    return ["\n".join(notes)] if notes else []


def _proof(file: ExportedFile, task: Task) -> str:
    if not file.verified:
        return "not verified"
    if file.agreement is not None:
        same = f"decides alike on {100 * file.agreement:.2f}% of {file.agreement_images} validation {task.noun}"
        before, after = task.metric.text(file.dense_accuracy), task.metric.text(file.accuracy)
        return f"{same}, {task.metric.title} {after} (dense: {before})"
    return f"largest difference {file.max_difference:.1e}"


def say_goal(metrics: Metrics, missed: Sequence[str] = ()) -> None:
    """How a command ends; `missed`: each metric that falls short of the goal, and what to do about it."""
    LOGGER.info("\nGoal %s (%s)", "MET" if metrics.goal_met else "NOT met", metrics.goal)
    for line in missed:
        LOGGER.info("  %s", line)


def say_results(metrics: Metrics, folder: Path, lines: Sequence[str], task: Task) -> None:
    """The metrics of a pruning, its verdict with the `lines` that explain it, and where everything is."""
    assert metrics.baseline is not None
    metric, noun = task.metric, task.noun
    doubt = caveat(metrics.validation_was_trained_on)
    judged, count, on = f"test {noun}", metrics.test_images, ""
    before, after, drop = metrics.baseline.accuracy, metrics.accuracy, metrics.accuracy_drop
    if metrics.accuracy is None:
        judged, count = f"validation {noun}; the test {noun} were not read", metrics.val_images
        before, after, drop = metrics.baseline.val_accuracy, metrics.val_accuracy, metrics.val_accuracy_drop
        on = f" (on validation {noun}{doubt})" if doubt else ""
    LOGGER.info("\n=== Final Results (%d %s) ===", count, judged)
    LOGGER.info("Baseline %s: %s", metric.title, metric.text(before))
    LOGGER.info("Pruned %s: %s", metric.title, metric.text(after))
    LOGGER.info("%s: %.2f points%s", _capital(metric.lost_title), drop, on)
    LOGGER.info("Sparsity: %s", sparsity_text(metrics))
    LOGGER.info("FLOPs reduction: %.1f%%", metrics.flops_reduction_pct)
    LOGGER.info("Params reduction: %.1f%%", metrics.params_reduction_pct)
    if metrics.latency_measured is not None:
        took, before_ms = metrics.latency_ms, metrics.baseline.latency_ms
        LOGGER.info("Latency reduction: %.1f%%, %.3f ms of %.3f ms", metrics.latency_reduction_pct, took, before_ms)
        LOGGER.info("  %s", metrics.latency_measured)
    for forecast in metrics.forecasts or ():
        LOGGER.info("  when the widths were chosen: %s", forecast)
    if metrics.grown_penalty is not None:
        LOGGER.info("%s", penalty_text(metrics.grown_penalty))
    if metrics.refit is not None:
        LOGGER.info("%s", refit_text(metrics.refit, noun))
    if metrics.dead_channels is not None:
        LOGGER.info("%s", dead_text(metrics.dead_channels))
    if metrics.goal is not None:
        say_goal(metrics, lines)
    if metrics.dead_channels is None and metrics.flops_reduction_pct == 0 and metrics.sparsity:
        LOGGER.info("Zeros alone save no FLOPs without sparse kernels: prune-structured cuts channels out.")
    LOGGER.info("\nResults saved to %s", folder)


def model_card(cfg: Config, metrics: Metrics, status: Status, files: Mapping[str, Path], classes: Sequence[str]) -> str:
    """What the network is, how it was made, what it does and does not; licences and hashes. With a YAML head."""
    assert metrics.input is not None and metrics.baseline is not None  # noqa: PT018
    judged = "test" if metrics.accuracy is not None else "validation"
    found = metrics.accuracy if metrics.accuracy is not None else metrics.val_accuracy
    count = metrics.test_images if metrics.accuracy is not None else metrics.val_images
    drop = metrics.accuracy_drop if metrics.accuracy is not None else metrics.val_accuracy_drop
    card, task = cfg.card, task_of(cfg)
    metric, noun = task.metric, task.noun
    head = {
        "license": card.license or "unknown",
        "datasets": [cfg.data.name],
        "metrics": [metric.name],
        "tags": ["pruning", task.hub_type, cfg.model.name],
        "model-index": [
            {
                "name": cfg.name,
                "results": [
                    {
                        "task": {"type": task.hub_type},
                        "dataset": {"name": cfg.data.name, "type": cfg.data.name, "split": judged},
                        "metrics": [{"type": metric.name, "value": found}],
                    }
                ],
            }
        ],
    }
    recipe = metrics.input
    steps = [f"{n}. {line.title}. {line.text}".rstrip() for n, line in enumerate(_worked(status), start=1)]
    eight_bits = ", its weights and activations in 8 bits" if "quantize" in cfg.pipeline.steps else ""
    limits = [
        f"It knows {len(classes)} classes and nothing else. Anything else gets one of them too.",
        f"{_capital(metric.title)} was measured on {count} {judged} {noun} of {cfg.data.name}, once, with "
        f"one seed; other {noun}, devices or groups of people were not measured.",
        "What pruning and quantisation take away is not spread evenly: rare classes can lose more than the average.",
        *card.limits,
    ]
    hashes = [[path.name, f"{path.stat().st_size:,}", sha256(path)] for path in files.values()]
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---",
        f"# {cfg.name}",
        f"{cfg.model.name}, compressed by pruning_bootcamp; it takes {recipe.shape} {noun} of {cfg.data.name}, "
        f"which has {len(classes)} classes.",
        "## Use",
        card.intended_use or "The makers have not said what it is for.",
        f"Input: {_input_text(recipe)}. Output: {task.describe(classes)}.",
        "## How it was made",
        "\n".join(steps),
        "## What it does",
        markdown_table(["metric", "dense", "compressed"], comparison_rows(metrics.baseline, metrics, metric)),
        f"{judged.capitalize()} {noun}: {count}, read once, after every choice was made on validation {noun}. "
        f"{_capital(metric.lost_title)}: {drop:.2f} points. That is the network in "
        f"PyTorch{eight_bits}; files that round numbers were counted on validation {noun}:",
        size_table(metrics, task),
        *_file_notes(metrics),
        "## Limits",
        "\n".join(f"- {text}" for text in limits),
        "## Licences",
        f"- weights: {card.license or 'not stated'}\n- training data ({cfg.data.name}): "
        f"{card.data_license or 'not stated'}\n- authors: {', '.join(card.authors) or 'not stated'}",
        "## Files",
        markdown_table(["file", "bytes", "SHA-256"], hashes),
    ]
    return "\n\n".join(parts) + "\n"


def _input_text(given: ModelInput) -> str:
    shape = ", ".join(given.shape.split("x"))
    if given.below is not None:
        return f"int64 [batch, {shape}], whole numbers from 0 up and below {given.below}"
    if not given.mean:
        return f"float32 [batch, {shape}]"
    return f"float32 [batch, {shape}], values in [0, 1] minus mean {list(given.mean)} over std {list(given.std)}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _worked(status: Status) -> list[Any]:
    return [line for line in status.steps if line.state in ("done", "reused") and line.stage != "Exporting"]


def sha256(path: Path) -> str:
    """The file's hash, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
