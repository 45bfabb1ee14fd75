"""A run's files -> one record with the metrics in their places: what was done, at which budget, and what came out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pruning_bootcamp.plain import Plain
from pruning_bootcamp.reporting.collect import Run
from pruning_bootcamp.reporting.values import number, table, text
from pruning_bootcamp.results import Benchmark, Environment, Metrics, NetworkMetrics

# What changes neither the network nor its metrics, and the sections that a command does not read.
_NEVER = ("name", "seed", "device", "threads", "save_dir", "checkpoint", "export", "profile", "card", "goal", "gates")
_QUIET = ("data.root", "data.batch_size", "train.checkpoint_seconds")
_AFTER = ("recover", "fine_tune")
_UNREAD = {
    "train": ("prune", "structured", *_AFTER, "pipeline", "quantize"),
    "prune-unstructured": ("structured", "pipeline", "quantize"),
    "prune-structured": ("prune", "pipeline", "quantize"),
}
PRUNING = ("prune-unstructured", "prune-structured", "pipeline run", "benchmark")


@dataclass(frozen=True)
class Record:
    """One network: how it was made, and its metrics. None = not recorded."""

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
    metrics: Metrics
    beside: Path | None = None
    """where a run that differs a little goes, a suffix added; None: beside its own folder"""
    setting: Mapping[str, str] = field(default_factory=dict)
    """every config key that shapes the network, but the seed"""
    config: Mapping[str, Plain] = field(default_factory=dict)

    @property
    def accuracy(self) -> float | None:
        """Percent, on the test split; None where it was not read (goal.evaluate_test=false, as in a sweep's trials)."""
        return self.metrics.accuracy

    @property
    def val_accuracy(self) -> float | None:
        """Percent, on validation images; after the last cycle where the run says it only there."""
        m = self.metrics
        return m.cycles[-1].val_accuracy if m.val_accuracy is None and m.cycles else m.val_accuracy

    @property
    def val_pruned(self) -> float | None:
        """Validation accuracy right after pruning, before any training."""
        m = self.metrics
        return m.cycles[-1].val_accuracy_pruned if m.val_accuracy_pruned is None and m.cycles else m.val_accuracy_pruned

    @property
    def kept_params_m(self) -> float | None:
        """Parameters that are not zero, in millions (of runs that say only a share of the prunable weights, about)."""
        m = self.metrics
        zeros = m.sparsity if m.sparsity_of_all is None else m.sparsity_of_all
        return None if m.params_m is None or zeros is None else m.params_m * (1 - zeros)

    @property
    def dense_val_accuracy(self) -> float | None:
        """Of the dense network on validation images, as far as the run says it (it may have looked at fewer)."""
        m = self.metrics
        if self.command == "train":
            return self.val_accuracy
        if m.validation is not None and m.validation.baseline_accuracy is not None:
            return m.validation.baseline_accuracy
        known = self.dense.val_accuracy
        return m.dense_fit.val_accuracy if known is None and m.dense_fit is not None else known

    @property
    def dense(self) -> NetworkMetrics:
        """The dense network that it was made from, or that it is."""
        return self.metrics if self.command == "train" else self.metrics.baseline or NetworkMetrics()


def records(runs: Sequence[Run]) -> list[Record]:
    """A record for every run, and for every row of a benchmark."""
    return [record for run in runs for record in _of(run)]


def _of(run: Run) -> Iterator[Record]:
    if isinstance(run.content, Benchmark):
        yield from _rows(run, run.content)
    else:
        yield _one(run, run.content)


def _one(run: Run, m: Metrics) -> Record:
    config = run.config
    command = run.command or ("pipeline run" if m.gates is not None and m.files is not None else "unknown")
    method, amount = describe(command, config, m)
    seed = config.get("seed") if m.seed is None else m.seed
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
        metrics=m,
        # not among the trials, which are the sweep's
        beside=None if run.sweep is None else run.sweep.with_name(f"{run.sweep.name}_{run.folder.name}"),
        setting=_setting(command, config) if config else {"run": run.name},
        config=config,
    )


def _rows(run: Run, benchmark: Benchmark) -> Iterator[Record]:
    for row in benchmark.rows:
        at = str(row.at)
        yield Record(
            name=f"{run.name}: {row.method}, {at}, seed {row.seed}",
            folder=run.folder,
            command="benchmark",
            dataset=f"of the benchmark {run.name}",
            model="as its report.md says",
            seed=row.seed,
            method=row.method,
            amount=f"{100 * float(at):g}% zeros" if at.replace(".", "", 1).isdigit() else at,
            random=row.method == "random",
            metrics=Metrics(
                accuracy=row.accuracy,
                sparsity=row.sparsity,
                accuracy_drop=benchmark.dense - row.accuracy,
                baseline=NetworkMetrics(accuracy=benchmark.dense),
                environment=benchmark.environment or Environment(),
            ),
            setting={"method": row.method, "at": at},
        )


def describe(command: str, config: Mapping[str, Plain], metrics: Metrics) -> tuple[str, str]:
    """(method, amount) in words: ("magnitude, global", "95% zeros")."""
    if command == "train":
        return "dense", ""
    sparsity, fewer = metrics.sparsity or 0.0, metrics.flops_reduction_pct or 0.0
    measured = f"{fewer:.0f}% fewer FLOPs" if fewer >= 0.5 else f"{100 * sparsity:.4g}% zeros"
    if command == "prune-structured" and metrics.dead_channels is not None:
        return "dead channels", f"{fewer:.0f}% fewer FLOPs"
    if command == "prune-structured" and config:
        s = table(config.get("structured"))
        fitted = s.get("refit") == "closed_form"
        words = [
            _named(s.get("score")) or ("obs" if fitted else "bn_scale"),
            str(s.get("allocation") or ("measured" if fitted else "global")),
            *(["refitted"] if fitted else []),
        ]
        # what auto came to; older runs have the config's only
        multiple = metrics.round_to or s.get("round_to")
        words += [f"widths in {multiple}s"] if isinstance(multiple, int) and multiple > 1 else []
        words += [f"{s['iterations']} cycles"] if (number(s.get("iterations")) or 1) > 1 else []
        words += ["growing penalty"] if s.get("grow_penalty") is not None else []
        kinds = {
            "target_flops_reduction": "fewer FLOPs",
            "target_params_reduction": "fewer params",
            "target_latency_reduction": "less time",
            "sparsity": "of the channels",
        }
        asked = [f"{100 * share:g}% {what}" for key, what in kinds.items() if (share := number(s.get(key))) is not None]
        if (milliseconds := number(s.get("target_latency_ms"))) is not None:
            asked.append(f"{milliseconds:g} ms")
        return ", ".join([*words, *_after(config)]), ", ".join(asked) or "50% fewer FLOPs"
    if command == "prune-unstructured" and config:
        p = table(config.get("prune"))
        if sparsity == 0 and number(p.get("sparsity")) == 0:
            return ", ".join(["dense, trained on", *_after(config)]), "nothing pruned"
        allocation, pattern = _named(p.get("allocation")) or "?", _named(p.get("pattern")) or "?"
        words = [_named(p.get("score")) or "?", "layerwise" if allocation == "uniform" else allocation]
        words += [pattern] if pattern != "unstructured" else []
        words += [solver] if (solver := _named(p.get("solver"))) not in (None, "none") else []
        words += ["refitted"] if p.get("refit") == "closed_form" else []
        words += [f"{p['stages']} stages"] if (number(p.get("stages")) or 1) > 1 else []
        words += ["gradual"] if p.get("gradual") is True else []
        words += [f"{p['iterations']} cycles"] if (number(p.get("iterations")) or 1) > 1 else []
        words += ["rewound"] if p.get("rewind") else []
        asked_sparsity = number(p.get("sparsity"))
        amount = f"{100 * asked_sparsity:g}% zeros" if asked_sparsity is not None else measured
        return ", ".join([*words, *_after(config)]), amount
    if command == "pipeline run":
        named = table(config.get("pipeline")).get("steps")
        steps = [str(step) for step in named] if isinstance(named, list) else []
        return "pipeline" + (f" ({', '.join(steps)})" if steps else ""), measured
    return command, measured


def _after(config: Mapping[str, Plain]) -> list[str]:
    recover, tune = table(config.get("recover")), table(config.get("fine_tune"))
    words = ["distilled"] if recover.get("method") == "distill" else []
    return words + (["no fine-tuning"] if tune.get("enabled") is False else [])


def trains_after(record: Record) -> bool:
    """Whether the network was trained after pruning, with labels or on the dense network's outputs."""
    return table(record.config.get("fine_tune")).get("enabled") is True or (
        table(record.config.get("recover")).get("method") == "distill"
    )


def _named(value: object) -> str | None:
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


def _setting(command: str, config: Mapping[str, Plain]) -> dict[str, str]:
    flat = flatten({key: value for key, value in config.items() if key not in (*_NEVER, *_UNREAD.get(command, ()))})
    return {"command": command} | {key: value for key, value in flat.items() if key not in _QUIET}


def flatten(content: Mapping[str, Plain], prefix: str = "") -> dict[str, str]:
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
