"""A command as a plan of steps: what each of them depends on, in order."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pruning_bootcamp.config import Config, as_dict
from pruning_bootcamp.flow import settings
from pruning_bootcamp.flow.machine import key_of
from pruning_bootcamp.flow.outcomes import (
    ComparedCosts,
    DenseNetwork,
    Exported,
    Judged,
    Outcome,
    Padded,
    Scanned,
)
from pruning_bootcamp.flow.start import task_of
from pruning_bootcamp.flow.step import Step, StepContext
from pruning_bootcamp.flow.steps import dense, evaluate, export, padding, scan
from pruning_bootcamp.flow.verdict import times_networks
from pruning_bootcamp.pruning.pipeline_stages import PruningStage
from pruning_bootcamp.runs import content_hash
from pruning_bootcamp.runtime import choose_device, environment
from pruning_bootcamp.schema import Choice

Work = Callable[[StepContext], Any]

DENSE, COSTS, VALIDATION, TEST, EXPORT, SCAN = "dense", "costs", "validation", "test", "export", "scan"
PADDED = "padded"


@dataclass
class Plan:
    """The steps so far, and whose network comes next."""

    cfg: Config
    checkpoint: Path | None
    """what is compressed, or looked at; None: it is trained first"""
    given: dict[str, Path] = field(default_factory=dict)
    """step -> the file of its network, which stays where it is"""
    steps: list[Step[Any]] = field(default_factory=list)
    last: str = DENSE
    part: str = ""
    """which compression is being added, as 1-prune-structured"""
    compressions: tuple[str, ...] = ()
    """the names of all of them"""

    def add(
        self,
        name: str,
        title: str,
        stage: PruningStage,
        work: Work | None,
        gives: type[Outcome],
        *,
        inputs: Mapping[str, str] | None = None,
        **facts: Any,
    ) -> str:
        """Its full name; it reads the network of the step before it, and the dense one."""
        full = f"{self.part}-{name}" if self.part else name
        roles = {DENSE: DENSE, "before": self.last, **(inputs or {})}
        self.steps.append(Step(full, title, work, gives, stage, inputs=roles, **facts))
        if facts.get("gives_network"):
            self.last = full
        return full

    @property
    def cycles(self) -> int:
        """Of pruning, in the steps so far."""
        return max((step.cycle for step in self.steps), default=0)

    def keys(self) -> dict[str, str]:
        """The key of every step that has something to do, before anything runs."""
        keys: dict[str, str] = {}
        for step in self.steps:
            if step.skipped is None:
                keys[step.name] = key_of(step, {role: keys[name] for role, name in step.inputs.items()})
        return keys


def begin(cfg: Config, checkpoint: Path | None) -> Plan:
    """A plan that begins with the dense network: opened, or trained first."""
    plan = Plan(cfg, checkpoint)
    if checkpoint is not None:
        open_network(plan, DENSE, checkpoint, "Opening the dense network", partial(dense.open_given, path=checkpoint))
    else:
        given = _base(cfg) | section(cfg, "train")
        step = Step(DENSE, "Training the dense network", dense.train, DenseNetwork, settings=given, together=True)
        plan.steps.append(step)
    return plan


def open_network(plan: Plan, name: str, path: Path, title: str, work: Work = dense.open_as_it_is) -> None:
    """The network in a file, for the steps that follow."""
    plan.given[name], plan.last = path, name
    given = _base(plan.cfg) | {"checkpoint": content_hash(path)}
    plan.steps.append(Step(name, title, work, DenseNetwork, settings=given))


def _base(cfg: Config) -> dict[str, Any]:
    """What every network depends on."""
    everything = as_dict(cfg)
    base = {"seed": cfg.seed, "data": everything["data"], "model": everything["model"]}
    base["data"].pop("batch_size")
    if cfg.task != Choice("image_classification"):
        base["task"] = everything["task"]
    return base


def evaluate_both(plan: Plan, on_validation: bool) -> None:
    """Costs; the validation images where choices or gates need them; the test images once, where they may be read."""
    testing = plan.cfg.goal.evaluate_test
    count_costs(plan, timed=times_networks(plan.cfg, cut="prune-structured" in plan.compressions))
    if on_validation or not testing:
        judge_on(plan, VALIDATION)
    if testing:
        judge_on(plan, TEST)


def count_costs(plan: Plan, timed: bool = False) -> None:
    """What the dense network and the last one cost; `timed`: their latency too."""
    latency = {"latency": timed_here(plan.cfg)} if timed else {}
    work = partial(evaluate.costs, timed=timed)
    plan.add(COSTS, "Counting costs", PruningStage.EVALUATING, work, ComparedCosts, settings=latency)


def judge_on(plan: Plan, split: str) -> None:
    """Both networks on the split of this name."""
    title = f"Evaluating on the {split} {task_of(plan.cfg).noun}{', once' if split == TEST else ''}"
    plan.add(split, title, PruningStage.EVALUATING, partial(evaluate.judge_on, split=split), Judged)


def timed_here(cfg: Config) -> dict[str, Any]:
    """What a latency depends on: measured elsewhere, it says nothing about here."""
    here = environment(choose_device(cfg.device)[0])
    threads = here.threads if cfg.threads is None else cfg.threads
    profile = {name: value for name, value in as_dict(cfg)["profile"].items() if name != "what_would_pay"}
    return profile | {"device": here.device, "threads": threads}


def budget_here(cfg: Config) -> dict[str, Any]:
    """What a budget in time is measured by."""
    here = timed_here(cfg)
    return {name: here[name] for name in ("backend", "batch_size", "more_batch_sizes", "device", "threads")}


def ship(plan: Plan) -> None:
    """The files that leave the house, each verified."""
    given, last = section(plan.cfg, "export"), plan.last
    pad_widths(plan)
    title = f"Exporting: {plan.cfg.export.format}"
    plan.add(EXPORT, title, PruningStage.EXPORTING, export.files_that_ship, Exported, settings=given)
    plan.last = last  # the checkpoint of a pipeline is as wide as it was pruned


def pad_widths(plan: Plan) -> None:
    """Where `export.pad_to` asks for it, the network that the files hold, once for all of them."""
    asked = plan.cfg.export.pad_to
    if asked is None:
        return
    given = {"pad_to": asked} | (timed_here(plan.cfg) if asked == "auto" else {})
    title = f"Widening with zero channels: {asked}"
    plan.add(PADDED, title, PruningStage.EXPORTING, padding.pad_widths, Padded, settings=given, gives_network=True)


def scan_layers(plan: Plan) -> None:
    """Each layer or block pruned alone, at each sparsity."""
    cfg, everything = plan.cfg, as_dict(plan.cfg)
    given = {
        "prune": {key: everything["prune"][key] for key in scan.PRUNE},
        "sensitivity": everything["sensitivity"] | {"sparsities": scan.sparsities_of(cfg)},
        "augment": cfg.train.augment,
    }
    title = f"Pruning one {cfg.sensitivity.by} at a time"
    plan.add(SCAN, title, PruningStage.COMPUTING_IMPORTANCE, scan.measure, Scanned, settings=given)


def section(cfg: Config, *names: str) -> dict[str, Any]:
    """These sections of the config, as far as they change what comes out."""
    everything = as_dict(cfg)
    if "structured" in names:
        everything["structured"]["round_to"] = settings.wanted_round_to(cfg)
        for name in ("only_dead", "iterations", "schedule", *settings.GROWING):  # steps of their own
            del everything["structured"][name]
    return {name: {k: v for k, v in everything[name].items() if k != "checkpoint_seconds"} for name in names}
