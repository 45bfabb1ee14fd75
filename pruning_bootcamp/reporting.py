"""Figures -> tables and report.md: what was measured, how, and how to do it again."""

from collections.abc import Mapping, Sequence
from typing import Any

from pruning_bootcamp.pruning.structured import StructuredPlan

_ROWS = (
    ("accuracy", "Accuracy (%)", "{:.2f}"),
    ("flops_g", "FLOPs (G multiply-accumulates)", "{:.4g}"),
    ("params_m", "Params (M)", "{:.4g}"),
    ("sparsity", "Sparsity (share of zero weights)", "{:.4f}"),
    ("latency_ms", "Latency (ms)", "{:.3f}"),
    ("throughput_fps", "Throughput (images/s)", "{:.1f}"),
)
_CHANGES = (
    ("accuracy_drop", "accuracy drop (points)", "{:.2f}"),
    ("flops_reduction_pct", "fewer FLOPs (%)", "{:.1f}"),
    ("params_reduction_pct", "fewer params (%)", "{:.1f}"),
    ("latency_reduction_pct", "less latency (%)", "{:.1f}"),
)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, its columns padded so that it also reads as plain text."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def comparison_rows(baseline: Mapping[str, Any], pruned: Mapping[str, Any]) -> list[list[str]]:
    """[figure, dense, pruned] for every figure that both know."""
    return [
        [label, form.format(baseline[key]), form.format(pruned[key])]
        for key, label, form in _ROWS
        if baseline.get(key) is not None and pruned.get(key) is not None
    ]


def run_report(title: str, metrics: Mapping[str, Any], history: Sequence[Mapping[str, Any]] = ()) -> str:
    """report.md of one run: figures, goal, what was cut, the training, the machine."""
    parts = [f"# {title}"]
    if "baseline" in metrics:
        parts += [
            "## Result",
            markdown_table(["figure", "dense", "pruned"], comparison_rows(metrics["baseline"], metrics)),
            "\n".join(f"- {label}: {form.format(metrics[key])}" for key, label, form in _CHANGES if key in metrics),
        ]
    else:
        rows = [[label, form.format(metrics[key])] for key, label, form in _ROWS if metrics.get(key) is not None]
        parts += ["## Result", markdown_table(["figure", "measured"], rows)]
    if "goal_met" in metrics:
        parts.append(f"**Goal {'MET' if metrics['goal_met'] else 'NOT met'}** ({metrics['goal']}).")
    parts.append(
        f"Accuracy is over all {metrics['test_images']} test images, read once, after every choice was made on the "
        f"validation split. One seed ({metrics['seed']}): no spread is claimed."
    )
    if "widths" in metrics:
        rows = [[name, before, after] for name, (before, after) in metrics["widths"].items()]
        parts += ["## Channels", markdown_table(["group", "before", "after"], rows)]
        difference = metrics["slice_proof"]["max_difference"]
        parts.append(
            f"Slice proof: the cut network and the dense one with those channels zeroed differ by at most "
            f"{difference:.1e}."
        )
    if "cycles" in metrics:
        rows = [
            [cycle["cycle"], f"{100 * cycle['sparsity']:.2f}", cycle["val_accuracy_pruned"], cycle["val_accuracy"]]
            for cycle in metrics["cycles"]
        ]
        header = ["cycle", "sparsity (%)", "validation after pruning (%)", "validation after fine-tuning (%)"]
        parts += ["## Cycles", markdown_table(header, rows)]
    if history:
        parts += ["## Training", _history_table(history)]
    environment = metrics["environment"]
    parts += ["## Machine", "\n".join(f"- {key}: {value}" for key, value in environment.items())]
    return "\n\n".join(parts) + "\n"


def _history_table(history: Sequence[Mapping[str, Any]], most: int = 12) -> str:
    """At most `most` epochs, evenly spread, the last one always among them."""
    stride = -(-len(history) // most)
    shown = [entry for number, entry in enumerate(history, start=1) if number % stride == 0 or number == len(history)]
    columns = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr")
    rows = [[f"{entry[column]:.4g}" for column in columns] for entry in shown]
    return markdown_table([column.replace("_", " ") for column in columns], rows)


def structured_table(plan: StructuredPlan) -> str:
    """What a structured plan would cut, group by group, what it can't and why, and the predicted cost."""
    rows = [
        [
            group.name,
            group.width,
            len(group.keep),
            f"{100 * (1 - len(group.keep) / group.width):.0f}%",
            len(group.layers),
        ]
        for group in plan.groups
    ]
    lines = [markdown_table(["group", "width", "kept", "cut", "layers"], rows)]
    lines += [f"not cut: {name}: {reason}" for name, reason in plan.uncuttable.items()]
    lines.append(
        f"Predicted: {plan.macs_after / 1e9:.4g} G of {plan.macs_before / 1e9:.4g} G multiply-accumulates "
        f"({100 * plan.macs_reduction:.1f}% fewer), {plan.params_after / 1e6:.4g} M of "
        f"{plan.params_before / 1e6:.4g} M parameters ({100 * plan.params_reduction:.1f}% fewer)"
    )
    return "\n".join(lines)
