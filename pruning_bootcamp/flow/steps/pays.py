"""profile --what-would-pay: what would make a network quicker on this machine, each option timed in turn."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.backends import BACKENDS, Runner, deployable_copy, lacking, prepare
from pruning_bootcamp.checkpoints import example_input
from pruning_bootcamp.config import Config
from pruning_bootcamp.errors import BootcampError, GoalNotMet
from pruning_bootcamp.flow.outcomes import Paying
from pruning_bootcamp.flow.step import Network, StepContext
from pruning_bootcamp.flow.steps.answers import (
    Asked,
    Cuts,
    Timings,
    about_backends,
    about_int8,
    about_widths,
    about_zeros,
    best_of,
    next_command,
)
from pruning_bootcamp.flow.steps.cut import ready_to_cut
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.pruning.channels.structured import cut_channels, plan_structured
from pruning_bootcamp.pruning.channels.time_budget import MULTIPLES
from pruning_bootcamp.pruning.masks import detached_copy
from pruning_bootcamp.results import Answer
from pruning_bootcamp.tasks import Task
from pruning_bootcamp.tasks.base import with_one_output
from pruning_bootcamp.tools.latency import LatencyStats, compare_in_blocks, compare_latencies
from pruning_bootcamp.tools.metrics import compute_sparsity

_HALF = 0.5
_MOST_SECONDS = 20.0  # of one race
_FEW_ZEROS = 0.01


@dataclass
class _Subject:
    """The network, and how versions of it are run here."""

    cfg: Config
    task: Task
    device: torch.device
    network: Network
    images: Tensor
    runners: dict[str, Runner] = field(default_factory=dict)
    """backend -> of the network as it is"""
    notes: dict[str, str] = field(default_factory=dict)
    """backend -> why it was not timed"""

    def prepared(self, backend: str, model: nn.Module) -> Runner:
        """What runs this version of the network; BootcampError where the backend can't."""
        whole = with_one_output(deployable_copy(model).to(self.device), self.images, self.task)
        return prepare(backend, whole, self.images)

    def raced(self, runners: Mapping[str, Runner]) -> dict[str, LatencyStats]:
        """Their timings by one runtime, pass by pass in turn."""
        return compare_latencies(
            {name: (runner, self.images) for name, runner in runners.items()},
            runs=self.cfg.profile.runs,
            max_seconds=_MOST_SECONDS,
        )


def what_would_pay(context: StepContext, file: str) -> Paying:
    """Backends, widths, int8 and zeros, for the network in `file`; nothing is written, and nothing trained."""
    cfg, device = context.cfg, context.device
    network = context.network()
    images = example_input(network.recipe, cfg.profile.batch_size).to(device)
    subject = _Subject(cfg, context.task, device, network, images)
    asked = Asked(file, cfg.profile.backends, cfg.profile.batch_size, cfg.threads)
    _prepare_all(subject)
    LOGGER.info("Timing %s in turn", ", ".join(subject.runners))
    stats = compare_in_blocks({name: (runner, images) for name, runner in subject.runners.items()})
    answers = [about_backends(stats, asked, subject.notes)]
    quicker = best_of(answers[0].options)
    backends = dict.fromkeys([*asked.backends, *([] if quicker is None else [quicker.name])])
    answers += _widths(subject, asked, stats, backends)
    answers.append(about_int8(stats, asked, subject.notes))
    answers.append(_zeros(subject, asked, stats))
    command = next_command(answers)
    return Paying(answers=tuple(answers), next_command=command, summary=command or "nothing certain")


def _prepare_all(subject: _Subject) -> None:
    """The network on every backend that is installed for its device; those that were asked for must take it."""
    asked, images = subject.cfg.profile.backends, subject.images
    for name in asked:
        subject.runners[name] = subject.prepared(name, subject.network.model)
    for entry in BACKENDS.entries():
        if entry.name in asked:
            continue
        if missing := lacking(entry):
            subject.notes[entry.name] = "; ".join(missing)
        elif lacking(entry, subject.device) or not entry.facts.get("wants", lambda _: True)(subject.network.model):
            continue
        elif entry.facts.get("minutes"):
            subject.notes[entry.name] = f"takes a minute or more to prepare: ask for it with --backend {entry.name}"
        elif why := entry.facts.get("pointless", lambda _: None)(images):
            subject.notes[entry.name] = str(why)
        else:
            try:
                subject.runners[entry.name] = subject.prepared(entry.name, subject.network.model)
            except BootcampError as error:
                subject.notes[entry.name] = str(error)


def _widths(subject: _Subject, asked: Asked, stats: Timings, backends: Iterable[str]) -> list[Answer]:
    """Cut to half of its multiply-accumulates in several multiples, channels drawn at random: each timed whole."""
    LOGGER.info("Cutting to half of the multiply-accumulates, widths in several multiples")
    try:
        cuts = _cuts(subject)
    except GoalNotMet as failure:
        return [Answer(question="widths", answer=f"It can't be cut to half of its multiply-accumulates: {failure}")]
    except BootcampError as error:
        return [Answer(question="widths", answer=f"Nothing can be cut of it: {error}")]
    found = []
    for backend in backends:
        LOGGER.info("Timing what was cut: %s", backend)
        runners, notes = {"uncut": subject.runners[backend]}, dict(cuts.notes)
        for name, cut in cuts.models.items():
            try:
                runners[name] = subject.prepared(backend, cut)
            except BootcampError as error:
                notes[name] = str(error)
        found.append(about_widths(subject.raced(runners), replace(cuts, notes=notes), backend, stats, asked))
    return found


def _cuts(subject: _Subject) -> Cuts:
    """Cut networks by how their widths were rounded, of what `structured` lets go.

    BootcampError where nothing can be cut, GoalNotMet where that is too little.
    """
    s = subject.cfg.structured
    ready, recipe = ready_to_cut(subject.network.model, subject.network.recipe)
    example, found = example_input(recipe), Cuts()
    for multiple in MULTIPLES:
        name = "widths as they fall" if multiple is None else f"multiples of {multiple}"
        look: dict[str, Any] = {"score": "random", "allocation": "global", "round_to": multiple or "none"}
        look |= {"exclude": s.exclude, "max_sparsity": s.max_sparsity}
        try:
            plan = plan_structured(ready, example, target_flops_reduction=_HALF, seed=subject.cfg.seed, **look)
        except BootcampError as error:
            if multiple is None:
                raise
            found.notes[name] = str(error)
            continue
        found.models[name] = cut_channels(ready, example, plan).model
        found.saved[name] = plan.macs_reduction
    return found


def _zeros(subject: _Subject, asked: Asked, stats: Timings) -> Answer:
    """On every backend in turn with a copy that has other numbers in the zeros' places."""
    model = subject.network.model
    share = compute_sparsity(model, subject.network.masks).total
    if share < _FEW_ZEROS:
        return about_zeros(share, {}, stats, asked, {})
    LOGGER.info("Timing its zeros: in turn with a copy that has none")
    filled, found, notes = filled_copy(model), dict[str, dict[str, LatencyStats]](), dict[str, str]()
    for backend, runner in subject.runners.items():
        try:
            found[backend] = subject.raced({"filled": subject.prepared(backend, filled), "zeros": runner})
        except BootcampError as error:
            notes[backend] = str(error)
    return about_zeros(share, found, stats, asked, notes)


def filled_copy(model: nn.Module) -> nn.Module:
    """The network with weights drawn from its others in the places of those that are zero."""
    copied = detached_copy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in compute_sparsity(copied).zeros:
            weight = copied.get_parameter(name)
            empty = weight == 0
            others = weight[~empty]
            if empty.any():
                drawn = torch.randint(max(1, len(others)), (int(empty.sum()),), generator=generator)
                weight[empty] = others[drawn.to(others.device)] if len(others) else weight.new_full((1,), 1e-3)
    return copied
