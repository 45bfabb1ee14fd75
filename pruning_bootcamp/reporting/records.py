"""A run's files -> one record with the figures in their places: what was done, at which budget, and what came out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruning_bootcamp.reporting.collect import Found
from pruning_bootcamp.reporting.values import number, rows, table, text

# What changes neither the network nor its figures, and the sections that a command does not read.
_NEVER = ("name", "seed", "device", "threads", "save_dir", "checkpoint", "export", "profile", "card", "goal", "gates")
_QUIET = ("data.root", "data.batch_size", "train.checkpoint_seconds")
_AFTER = ("recover", "fine_tune")
_UNREAD = {
    "train": ("prune", "structured", *_AFTER, "pipeline", "quantize"),
    "prune-unstructured": ("structured", "pipeline", "quantize"),
    "prune-structured": ("prune", "pipeline", "quantize"),
}
_DENSE = ("accuracy", "val_accuracy", "flops_g", "params_m")
PRUNING = ("prune-unstructured", "prune-structured", "pipeline run", "benchmark")


@dataclass(frozen=True)
class Record:
    """One network: how it was made, and its figures. None = not recorded."""

    name: str
    folder: Path
    command: str
    dataset: str
    model: str
    seed: int | None
    method: str
    """without the amount: `magnitude, global`"""
    amount: str
    """the budget asked for: `95% zeros`, `50% fewer FLOPs`"""
    random: bool
    accuracy: float | None
    """percent, on the test split; None where it was not read (goal.evaluate_test=false, as in a sweep's trials)"""
    test_images: int | None
    val_accuracy: float | None
    val_pruned: float | None
    """validation accuracy right after pruning, before any training"""
    drop: float | None
    flops_g: float | None
    params_m: float | None
    sparsity: float | None
    flops_reduction_pct: float | None
    dense: Mapping[str, float | None]
    """figures of the dense network that it was made from: accuracy (test), val_accuracy, flops_g, params_m"""
    dense_weights: str | None
    """the hash of that network's weights, or of its own where it is the dense network"""
    goal: str | None
    goal_met: bool | None
    environment: Mapping[str, Any]
    beside: Path | None = None
    """where a run that differs a little goes, a suffix added; None: beside its own folder"""
    setting: Mapping[str, str] = field(default_factory=dict)
    """every config key that shapes the network, but the seed"""
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kept_params_m(self) -> float | None:
        """Parameters that are not zero, in millions (of runs that say only a share of the prunable weights, about)."""
        of_all = number(self.metrics.get("sparsity_of_all"))
        zeros = self.sparsity if of_all is None else of_all
        return None if self.params_m is None or zeros is None else self.params_m * (1 - zeros)


def records(runs: list[Found]) -> list[Record]:
    return [record for run in runs for record in ([_one(run)] if not rows(run.content.get("rows")) else _many(run))]


def _one(run: Found) -> Record:
    m, config = run.content, run.config
    command = run.command or ("pipeline run" if "gates" in m and "files" in m else "unknown")
    dense = table(m.get("baseline"))
    cycles = rows(m.get("cycles"))
    last = cycles[-1] if cycles else {}
    method, amount = describe(command, config, m)
    seed = m.get("seed", config.get("seed"))
    return Record(
        name=run.name,
        folder=run.folder,
        command=command,
        dataset=text(table(config.get("data")).get("name")) or f"unknown (no config.yaml in {run.name})",
        model=_named(config.get("model")) or "unknown",
        seed=seed if isinstance(seed, int) and not isinstance(seed, bool) else None,
        method=method,
        amount=amount,
        random=command in PRUNING and method.split(",")[0] == "random",
        accuracy=number(m.get("accuracy")),
        test_images=_count(m.get("test_images")),
        val_accuracy=number(m.get("val_accuracy", last.get("val_accuracy"))),
        val_pruned=number(m.get("val_accuracy_pruned", last.get("val_accuracy_pruned"))),
        drop=number(m.get("accuracy_drop")),
        flops_g=number(m.get("flops_g")),
        params_m=number(m.get("params_m")),
        sparsity=number(m.get("sparsity")),
        flops_reduction_pct=number(m.get("flops_reduction_pct")),
        dense={key: number(dense.get(key)) for key in _DENSE} if dense else {},
        dense_weights=text(dense.get("weights") if command != "train" else m.get("weights")),
        goal=text(m.get("goal")),
        goal_met=m["goal_met"] if isinstance(m.get("goal_met"), bool) else None,
        environment=table(m.get("environment")),
        # not among the trials, which are the sweep's
        beside=None if run.sweep is None else run.sweep.with_name(f"{run.sweep.name}_{run.folder.name}"),
        setting=_setting(command, config) if config else {"run": run.name},
        config=config,
        metrics=m,
    )


def _many(run: Found) -> list[Record]:
    """A benchmark's metrics.yaml: the dense accuracy, and a row a network."""
    found = []
    dense = number(run.content.get("dense"))
    for row in rows(run.content.get("rows")):
        accuracy, method = number(row.get("accuracy")), text(row.get("method"))
        if accuracy is None or method is None:
            continue
        at, seed = str(row.get("at", "")), row.get("seed")
        found.append(
            Record(
                name=f"{run.name}: {method}, {at}, seed {seed}",
                folder=run.folder,
                command="benchmark",
                dataset=f"of the benchmark {run.name}",
                model="as its report.md says",
                seed=seed if isinstance(seed, int) else None,
                method=method,
                amount=f"{100 * float(at):g}% zeros" if at.replace(".", "", 1).isdigit() else at,
                random=method == "random",
                accuracy=accuracy,
                test_images=None,
                val_accuracy=None,
                val_pruned=None,
                drop=None if dense is None else dense - accuracy,
                flops_g=None,
                params_m=None,
                sparsity=number(row.get("sparsity")),
                flops_reduction_pct=None,
                dense={"accuracy": dense},
                dense_weights=None,
                goal=None,
                goal_met=None,
                environment=table(run.content.get("environment")),
                setting={"method": method, "at": at},
            )
        )
    return found


def describe(command: str, config: Mapping[str, Any], metrics: Mapping[str, Any]) -> tuple[str, str]:
    """(method, amount) in words: ("magnitude, global", "95% zeros")."""
    if command == "train":
        return "dense", ""
    sparsity = number(metrics.get("sparsity")) or 0.0
    fewer = number(metrics.get("flops_reduction_pct")) or 0.0
    measured = f"{fewer:.0f}% fewer FLOPs" if fewer >= 0.5 else f"{100 * sparsity:.4g}% zeros"
    if command == "prune-structured" and config:
        s = table(config.get("structured"))
        words = [_named(s.get("score")) or "?", str(s.get("allocation", ""))]
        multiple = metrics.get("round_to", s.get("round_to"))  # what auto came to; older runs have the config's only
        words += [f"widths in {multiple}s"] if isinstance(multiple, int) and multiple > 1 else []
        kinds = {
            "target_flops_reduction": "fewer FLOPs",
            "target_params_reduction": "fewer params",
            "sparsity": "of the channels",
        }
        asked = [f"{100 * share:g}% {what}" for key, what in kinds.items() if (share := number(s.get(key))) is not None]
        return ", ".join([*words, *_after(config)]), ", ".join(asked) or "50% fewer FLOPs"
    if command == "prune-unstructured" and config:
        p = table(config.get("prune"))
        if sparsity == 0 and number(p.get("sparsity")) == 0:
            return ", ".join(["dense, trained on", *_after(config)]), "nothing pruned"
        allocation, pattern = _named(p.get("allocation")) or "?", _named(p.get("pattern")) or "?"
        words = [_named(p.get("score")) or "?", "layerwise" if allocation == "uniform" else allocation]
        words += [pattern] if pattern != "unstructured" else []
        words += [solver] if (solver := _named(p.get("solver"))) not in (None, "none") else []
        words += ["gradual"] if p.get("gradual") is True else []
        words += [f"{p['iterations']} cycles"] if (number(p.get("iterations")) or 1) > 1 else []
        words += ["rewound"] if p.get("rewind") else []
        asked_sparsity = number(p.get("sparsity"))
        amount = f"{100 * asked_sparsity:g}% zeros" if asked_sparsity is not None else measured
        return ", ".join([*words, *_after(config)]), amount
    if command == "pipeline run":
        steps = table(config.get("pipeline")).get("steps")
        steps = [str(step) for step in steps] if isinstance(steps, list) else []
        return "pipeline" + (f" ({', '.join(steps)})" if steps else ""), measured
    return command, measured


def _after(config: Mapping[str, Any]) -> list[str]:
    recover, tune = table(config.get("recover")), table(config.get("fine_tune"))
    words = ["distilled"] if recover.get("method") == "distill" else []
    return words + (["no fine-tuning"] if tune.get("enabled") is False else [])


def trains_after(record: Record) -> bool:
    """Whether the network was trained after pruning, with labels or on the dense network's outputs."""
    return table(record.config.get("fine_tune")).get("enabled") is True or (
        table(record.config.get("recover")).get("method") == "distill"
    )


def _named(value: Any) -> str | None:
    """`magnitude (p=2)` of {name: magnitude, args: {p: 2}}; l1's p=1 goes without saying."""
    if isinstance(value, str):
        return value
    name, args = table(value).get("name"), table(table(value).get("args"))
    if not isinstance(name, str):
        return None
    said = {key: inner for key, inner in args.items() if (name, key, inner) != ("magnitude", "p", 1)}
    if name == "nm":
        return f"{args.get('n')}:{args.get('m')}"
    return name + (f" ({', '.join(f'{key}={inner}' for key, inner in sorted(said.items()))})" if said else "")


def _setting(command: str, config: Mapping[str, Any]) -> dict[str, str]:
    flat = flatten({key: value for key, value in config.items() if key not in (*_NEVER, *_UNREAD.get(command, ()))})
    return {"command": command} | {key: value for key, value in flat.items() if key not in _QUIET}


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted key -> value as text; a choice with its settings is one value: another choice is one difference."""
    flat: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and set(value) == {"name", "args"}:
            flat[f"{prefix}{key}"] = _named(value) or str(value)
        elif isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.") or {f"{prefix}{key}": "{}"}
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
