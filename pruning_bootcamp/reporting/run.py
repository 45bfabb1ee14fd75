"""Metrics of one run -> tables and its report.md: what was measured, how, and how to do it again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pruning_bootcamp.memorised import caveat
from pruning_bootcamp.plain import to_plain
from pruning_bootcamp.results import Comparison, Cycle, DeadChannels, GrownPenalty, Metrics, NetworkMetrics, Refit

if TYPE_CHECKING:  # a table of a finished run needs no torch
    from pruning_bootcamp.pruning.channels.dead import DeadPlan
    from pruning_bootcamp.pruning.channels.structured import StructuredPlan
    from pruning_bootcamp.tasks import Metric, Task
    from pruning_bootcamp.training.records import Epoch

_ROWS: tuple[tuple[str, str, Callable[[NetworkMetrics], float | None]], ...] = (
    ("Accuracy (%)", "{:.2f}", lambda network: network.accuracy),
    ("Validation accuracy (%)", "{:.2f}", lambda network: network.val_accuracy),
    ("FLOPs (G multiply-accumulates)", "{:.4g}", lambda network: network.flops_g),
    ("Params (M)", "{:.4g}", lambda network: network.params_m),
    ("Sparsity (zeros, share of the prunable weights)", "{:.4f}", lambda network: network.sparsity),
    ("Sparsity (zeros, share of all parameters)", "{:.4f}", lambda network: network.sparsity_of_all),
    ("Latency (ms)", "{:.3f}", lambda network: network.latency_ms),
    ("Throughput (images/s)", "{:.1f}", lambda network: network.throughput_fps),
)
_CHANGES: tuple[tuple[str, str, Callable[[Metrics], float | None]], ...] = (
    ("accuracy drop (points)", "{:.2f}", lambda metrics: metrics.accuracy_drop),
    ("accuracy drop on validation images (points)", "{:.2f}", lambda metrics: metrics.val_accuracy_drop),
    ("fewer FLOPs (%)", "{:.1f}", lambda metrics: metrics.flops_reduction_pct),
    ("fewer params (%)", "{:.1f}", lambda metrics: metrics.params_reduction_pct),
    ("less latency (%)", "{:.1f}", lambda metrics: metrics.latency_reduction_pct),
)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, its columns padded so that it also reads as plain text."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


_GOAL = "**Goal "


def comparison_rows(baseline: NetworkMetrics, pruned: NetworkMetrics, metric: Metric | None = None) -> list[list[str]]:
    """[metric, dense, pruned] for every metric that both know; `metric` is what `accuracy` stands for."""
    return [
        [_called(label, metric), form.format(before), form.format(after)]
        for label, form, read in _ROWS
        if (before := read(baseline)) is not None and (after := read(pruned)) is not None
    ]


def _called(label: str, metric: Metric | None) -> str:
    """The label with the task's own metric in the place of accuracy."""
    if metric is None or metric.name == "accuracy":
        return label
    unit = f" ({metric.unit})" if metric.unit else ""
    begun = metric.title[:1].upper() + metric.title[1:]
    words = {
        "accuracy drop": metric.lost_title,
        "ccuracy (%)": f"ccuracy{unit}",
        "accuracy": metric.title,
        "Accuracy": begun,
    }
    for ours, theirs in words.items():
        label = label.replace(ours, theirs)
    return label


def run_report(title: str, metrics: Metrics, history: Sequence[Epoch] = (), task: Task | None = None) -> str:
    """report.md of one run: metrics, goal, what was cut, the training, the machine. `task`: left out, of images."""
    metric, noun = (None, "images") if task is None else (task.metric, task.noun)
    parts = [f"# {title}", "## Result"]
    if metrics.baseline is not None:
        changes = [(label, form, value) for label, form, read in _CHANGES if (value := read(metrics)) is not None]
        parts += [
            markdown_table(["metric", "dense", "pruned"], comparison_rows(metrics.baseline, metrics, metric)),
            "\n".join(
                f"- {_called(label, metric)}: {form.format(value)}{_interval(metrics) if 'latency' in label else ''}"
                for label, form, value in changes
            ),
        ]
    else:
        rows = [
            [_called(label, metric), form.format(value)]
            for label, form, read in _ROWS
            if (value := read(metrics)) is not None
        ]
        parts.append(markdown_table(["metric", "measured"], rows))
    if metrics.goal is not None and metrics.goal_met is not None:
        parts.append(goal_line(metrics.goal, metrics.goal_met))
    parts.append(f"{_called(_judged_on(metrics, noun), metric)} One seed ({metrics.seed}): no spread is claimed.")
    if metrics.widths is not None:
        widths = [[name, before, after] for name, (before, after) in metrics.widths.items()]
        parts += ["## Channels", markdown_table(["group", "before", "after"], widths)]
    if metrics.forecasts:
        parts.append("\n".join(f"- When the widths were chosen: {forecast}." for forecast in metrics.forecasts))
    if metrics.dead_channels is not None:
        parts.append(dead_text(metrics.dead_channels))
    if metrics.grown_penalty is not None:
        parts.append(penalty_text(metrics.grown_penalty))
    if metrics.slice_proof is not None:
        in_cycles = any(cycle.flops_reduction_pct is not None for cycle in metrics.cycles or ())
        before = "the one before it" if in_cycles else "the dense one"
        other = f"{before} with those channels zeroed" if metrics.dead_channels is None else "the one before it"
        parts.append(
            f"Slice proof: the cut network and {other} differ by at most {metrics.slice_proof.max_difference:.1e}."
        )
    if metrics.refit is not None:
        parts.append(refit_text(metrics.refit, noun))
    if metrics.cycles is not None:
        parts += ["## Cycles", _cycles_table(metrics.cycles)]
    if history:
        parts += ["## Training", _called(_history_table(history), metric)]
    if metrics.environment is not None:
        facts = to_plain(metrics.environment).items()
        parts += ["## Machine", "\n".join(f"- {key}: {value}" for key, value in facts)]
    return "\n\n".join(parts) + "\n"


def _cycles_table(cycles: Sequence[Cycle]) -> str:
    """What each cycle zeroed, or cut, and what that did before and after its training."""
    amounts: tuple[tuple[str, Callable[[Cycle], float | None]], ...] = (
        ("sparsity (%)", lambda cycle: None if cycle.sparsity is None else 100 * cycle.sparsity),
        ("fewer FLOPs (%)", lambda cycle: cycle.flops_reduction_pct),
    )
    shown = [(title, read) for title, read in amounts if any(read(cycle) is not None for cycle in cycles)]
    rows = [
        [
            cycle.cycle,
            *("" if (found := read(cycle)) is None else f"{found:.2f}" for _, read in shown),
            cycle.val_accuracy_pruned,
            cycle.val_accuracy,
        ]
        for cycle in cycles
    ]
    titles = [title for title, _ in shown]
    header = ["cycle", *titles, "validation after pruning (%)", "validation after fine-tuning (%)"]
    return markdown_table(header, rows)


def penalty_text(found: GrownPenalty) -> str:
    """How the network was brought to give up its channels before they were cut."""
    return (
        f"Before the cut {found.steps} training steps under a penalty that grew to {found.penalty:.3g}: "
        f"{100 * found.norm_left:.2g}% of the norm of the weights that make those channels were left "
        f"({found.seconds:.0f} s)."
    )


def refit_text(refit: Refit, noun: str) -> str:
    """How the layers were fitted after the cut, and which were not."""
    text = (
        f"Refitted {refit.layers} layers in closed form on {refit.images} training {noun}, without their labels "
        f"({refit.seconds:.0f} s)."
    )
    return " ".join([text, *(f"{left}." for left in refit.left)])


def dead_text(found: DeadChannels) -> str:
    """What did nothing and went, and what stays and why."""
    if not found.removed:
        return " ".join(["No channel can go: the network stays as it is.", *(f"{line}." for line in found.stays)])
    held = f", {found.folded} of them constants that those who read them hold now" if found.folded else ""
    removed = "1 dead channel" if found.removed == 1 else f"{found.removed} dead channels"
    return " ".join([f"{removed} removed{held}.", *(f"{line}." for line in found.stays)])


def goal_line(goal: str, met: bool) -> str:
    """The verdict, a line of a run's report."""
    return f"{_GOAL}{'MET' if met else 'NOT met'}** ({goal})."


def with_verdict(report: str, goal: str, met: bool) -> str:
    """A run's report with this verdict in the place of the one that it holds."""
    lines = report.split("\n")
    return "\n".join(goal_line(goal, met) if line.startswith(_GOAL) else line for line in lines)


def _interval(metrics: Comparison) -> str:
    """The interval of the latency that was saved, as ` (95% interval 6.9 to 10.1, n 317 pairs)`; nothing if unknown."""
    low, high = metrics.latency_reduction_low_pct, metrics.latency_reduction_high_pct
    if low is None or high is None:
        return ""
    noise = "; may be noise" if low <= 0 <= high else ""
    return f" (95% interval {low:.1f} to {high:.1f}, n {metrics.latency_pairs} pairs{noise})"


def _judged_on(metrics: Metrics, noun: str) -> str:
    """Which images the accuracy is about."""
    doubt = caveat(metrics.validation_was_trained_on)
    if metrics.test_images is None:
        return f"Accuracy is over {metrics.val_images} validation {noun}{doubt}; the test {noun} were not read."
    return (
        f"Accuracy is over all {metrics.test_images} test {noun}, read once, after every choice was made on the "
        f"validation split{doubt}."
    )


def _history_table(history: Sequence[Epoch], most: int = 12) -> str:
    """At most `most` epochs, evenly spread, the last one always among them."""
    stride = -(-len(history) // most)
    shown = [entry for number, entry in enumerate(history, start=1) if number % stride == 0 or number == len(history)]
    header = ["epoch", "train loss", "train accuracy", "val loss", "val accuracy", "lr"]
    rows = [(e.epoch, e.train_loss, e.train_accuracy, e.val_loss, e.val_accuracy, e.lr) for e in shown]
    return markdown_table(header, [[f"{value:.4g}" for value in row] for row in rows])


def structured_table(plan: StructuredPlan) -> str:
    """What a structured plan would cut, group by group, what it can't and why, and the predicted cost."""
    rows = [
        [
            group.name,
            group.width,
            group.left,
            f"{100 * (1 - group.left / group.width):.0f}%",
            len(group.layers),
        ]
        for group in plan.groups
    ]
    lines = [markdown_table(["group", "width", "kept", "cut", "layers"], rows)]
    lines += [f"not cut: {name}: {reason}" for name, reason in plan.uncuttable.items()]
    lines += [f"limited: {name}: {reason}" for name, reason in plan.limited.items()]
    lines += [f"round_to: {plan.round_to_why}"] if plan.round_to_why else []
    lines.append(
        f"Predicted: {plan.macs_after / 1e9:.4g} G of {plan.baseline_macs / 1e9:.4g} G multiply-accumulates "
        f"({100 * plan.macs_reduction:.1f}% fewer), {plan.params_after / 1e6:.4g} M of "
        f"{plan.baseline_params / 1e6:.4g} M parameters ({100 * plan.params_reduction:.1f}% fewer)"
    )
    lines += [] if plan.timed is None else [f"Timed: {plan.timed}"]
    lines += [f"{forecast}." for forecast in plan.forecasts]
    return "\n".join(lines)


def dead_table(plan: DeadPlan, macs: float, params: int) -> str:
    """What is dead, group by group, what stays and why, and what goes of the network's `macs` and `params`."""
    rows = [
        [group.name, group.width, len(group.keep), group.width - len(group.keep), len(group.layers)]
        for group in plan.groups
        if len(group.keep) < group.width
    ]
    lines = [markdown_table(["group", "width", "kept", "dead", "layers"], rows)] if rows else []
    lines.append(dead_text(DeadChannels(removed=plan.removed, folded=plan.folded)))
    lines += [f"stays: {line}" for line in plan.stays_said]
    lines += [] if plan.output_varies else ["The network gives the same whatever it is given: nothing of it lives."]
    fewer_macs, fewer_params = 1 - plan.macs_after / macs, 1 - plan.params_after / params
    lines.append(
        f"{plan.macs_after / 1e9:.4g} G of {macs / 1e9:.4g} G multiply-accumulates ({100 * fewer_macs:.1f}% fewer), "
        f"{plan.params_after / 1e6:.4g} M of {params / 1e6:.4g} M parameters ({100 * fewer_params:.1f}% fewer)"
    )
    return "\n".join(lines)
