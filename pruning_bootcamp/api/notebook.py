"""prune() and compress(): a module and batches of your own, on the same machine as the commands; five lines."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from pruning_bootcamp.checkpoints import load_checkpoint, save_checkpoint
from pruning_bootcamp.config import Config, load
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.flow import commands
from pruning_bootcamp.flow.start import recipe_for
from pruning_bootcamp.locks import locked
from pruning_bootcamp.logs import shown
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.plugins import offered
from pruning_bootcamp.preflight import check
from pruning_bootcamp.pruning.masks import detached_copy
from pruning_bootcamp.results import Metrics
from pruning_bootcamp.runs import scratch_folder
from pruning_bootcamp.runtime import choose_device, seeded_rng
from pruning_bootcamp.tasks import open_task
from pruning_bootcamp.tools.datasets import Splits, TensorSplit

Batches = Iterable[Tensor | Sequence[Tensor]]
"""(inputs, targets), each with a row a sample; gone through once, and held in memory

Inputs alone (a tensor, or a DataLoader's list of one): what the network itself decides of them are their targets, and
the metric is then how far the pruned network agrees with it.
"""

Recover = Literal["none", "batch_norm", "distill", "fine_tune"]
_RECOVERY: Mapping[str, Mapping[str, Plain]] = {
    "none": {"recover.method": "none", "fine_tune.enabled": False},
    "batch_norm": {"recover.method": "bn", "fine_tune.enabled": False},
    "distill": {"recover.method": "distill", "fine_tune.enabled": False},
    "fine_tune": {"recover.method": "bn", "fine_tune.enabled": True},
}
_DENSE = "given"


@dataclass(frozen=True)
class Result:
    """What came out of `prune` or `compress`."""

    model: nn.Module
    """a plain module in eval mode, on the device that it was pruned on"""
    metrics: Metrics
    """every metric; judged on validation, so under val_ names, where no `test` was given"""
    text: str
    folder: Path | None
    """where everything was kept, with a `save_dir`"""

    def report(self) -> str:
        """The run's report, Markdown."""
        return self.text


def prune(
    model: nn.Module,
    *,
    train: Batches,
    validation: Batches,
    test: Batches | None = None,
    sparsity: float | None = None,
    flops_reduction: float | None = None,
    params_reduction: float | None = None,
    latency_reduction: float | None = None,
    max_accuracy_drop: float | None = None,
    score: str | None = None,
    pattern: str | None = None,
    backend: str | None = None,
    task: str = "image_classification",
    recover: Recover = "fine_tune",
    settings: Mapping[str, Plain] | None = None,
    save_dir: Path | str | None = None,
    device: str = "auto",
    seed: int = 0,
    verbose: bool = True,
) -> Result:
    """A pruned copy of the model, proved, recovered and measured; the model itself is never changed.

    Exactly one budget: `sparsity` zeroes that share of the weights (with a `pattern` such as "2:4" it may be left out),
    `flops_reduction`, `params_reduction` and `latency_reduction` cut channels out until that share is saved, the time
    as measured here in `backend` (torch, onnxruntime, ...; batches of one, else `settings={"profile.batch_size": 16}`);
    `max_accuracy_drop` cuts as much as loses no more points on `validation`: time where a `backend` is named, else
    multiply-accumulates. `score` is a name of `pruning-bootcamp list`, or `module:function`. `recover`: "fine_tune"
    trains with the labels of `train`, "distill" follows the dense model without them, "batch_norm" and "none" train
    nothing. `settings` are any others of the config: {"fine_tune.epochs": 5}. Choices are made on `validation`; `test`,
    when given, is read once, at the end. With a `save_dir` the run's folder stays, and the same call after a kill goes
    on. `verbose`: all that the commands say, else warnings. Inputs without targets will do (`Batches`). Raises
    BootcampError with every problem, GoalNotMet when the budget can't be met.
    """
    budgets = {
        "sparsity": sparsity,
        "flops_reduction": flops_reduction,
        "params_reduction": params_reduction,
        "latency_reduction": latency_reduction,
        "max_accuracy_drop": max_accuracy_drop,
    }
    given = [name for name, value in budgets.items() if value is not None]
    if len(given) > 1 or (not given and pattern is None):
        told = f"{', '.join(given)} are" if given else "none is"
        raise BootcampError(f"prune: {told} given. Give exactly one of {', '.join(budgets)}.")
    if pattern is not None and given not in ([], ["sparsity"]):
        raise BootcampError(f"prune: pattern says which weights become zero, and {given[0]} cuts channels. Choose one.")
    zeroes = given in ([], ["sparsity"])
    section = "prune" if zeroes else "structured"
    chosen: dict[str, Plain] = {f"{section}.score": score, "prune.pattern": pattern, "prune.sparsity": sparsity}
    if not zeroes:
        prefix = "" if max_accuracy_drop is not None else "target_"
        chosen |= {f"structured.{prefix}{name}": budgets[name] for name in given}
        chosen["profile.backend"] = backend
        if backend is not None and latency_reduction is None:
            chosen["goal.latency_reduction_pct"] = 0.0
    elif backend is not None:
        raise BootcampError("prune: backend is where time is measured, and zeros alone save none. Leave it out.")
    options = _known(chosen) | dict(_RECOVERY[recover]) | dict(settings or {})
    command = "prune-unstructured" if zeroes else "prune-structured"
    structured = commands.prune_structured if max_accuracy_drop is None else commands.prune_within_drop
    run = commands.prune_unstructured if zeroes else structured
    with (
        shown(verbose),
        _opened(model, train, validation, test, task, save_dir, device, seed, options, None, command) as cfg,
    ):
        return _result(cfg, run(cfg), save_dir)


def compress(
    model: nn.Module,
    *,
    train: Batches,
    validation: Batches,
    test: Batches | None = None,
    config: Path | str | Mapping[str, Plain],
    task: str = "image_classification",
    save_dir: Path | str | None = None,
    device: str = "auto",
    seed: int = 0,
    verbose: bool = True,
) -> Result:
    """The whole pipeline on a copy of the model: what `pipeline run` does with this config, its data and model aside.

    `config` is a YAML file, or a table of its keys: {"pipeline.steps": ["prune-structured", "quantize"]}. Files that
    ship are in `save_dir`/export. Else as `prune`.
    """
    file = None if isinstance(config, Mapping) else Path(config)
    options = dict(config) if isinstance(config, Mapping) else {}
    with (
        shown(verbose),
        _opened(model, train, validation, test, task, save_dir, device, seed, options, file, commands.PIPELINE) as cfg,
    ):
        return _result(cfg, commands.pipeline(cfg), save_dir)


@contextlib.contextmanager
def _opened(
    model: nn.Module,
    train: Batches,
    validation: Batches,
    test: Batches | None,
    task: str,
    save_dir: Path | str | None,
    device: str,
    seed: int,
    options: Mapping[str, Plain],
    file: Path | None,
    command: str,
) -> Iterator[Config]:
    """Inside, the config of the command names the model and the data; random state is left as found."""
    with seeded_rng(seed):  # loaders that shuffle draw from it
        splits = _splits(model, train, validation, test, task, device)
    content = "-".join(split.content_hash() for split in (splits.train, splits.val, splits.test))
    builder = detached_copy(model).cpu()

    def build() -> nn.Module:
        return detached_copy(builder)

    def data(*, content: str) -> Splits:
        return splits

    with contextlib.ExitStack() as inside:
        root = Path(save_dir) if save_dir is not None else inside.enter_context(scratch_folder())
        inside.enter_context(seeded_rng(seed))
        inside.enter_context(offered(model=build, data=data))
        found: dict[str, Plain] = {
            **options,
            "model.name": "given:model",
            "data.name": "given:data",
            "data.args": {"content": content},
            "task": task,
            "train.augment": [],
            "goal.evaluate_test": test is not None,
            "save_dir": str(root / "run"),
            "checkpoint": str(root / f"{_DENSE}.pth"),
            "device": device,
            "seed": seed,
        }
        cfg = load(file, (), found)
        with locked(root, command):
            save_checkpoint(root / f"{_DENSE}.pth", builder, recipe_for(cfg, splits))
            check(cfg, command, str(file) if file is not None else command)
            yield cfg


def _splits(
    model: nn.Module, train: Batches, validation: Batches, test: Batches | None, task: str, device: str
) -> Splits:
    judge = open_task(task, {})
    place, _ = choose_device(device)
    network = detached_copy(model).to(place).eval()

    def outputs(inputs: Tensor) -> Tensor:
        with torch.inference_mode():
            return judge.outputs(network(inputs.to(place)))

    def decided(inputs: Tensor) -> Tensor:
        return judge.decisions(outputs(inputs)).cpu().clone()

    learnt, chosen = _gathered(train, "train", decided), _gathered(validation, "validation", decided)
    judged = chosen if test is None else _gathered(test, "test", decided)
    classes = max(int(split.labels.max()) for split in (learnt, chosen, judged)) + 1
    given = outputs(learnt.inputs[:2])
    if given.ndim == 2:
        classes = max(classes, given.shape[1])
    names = tuple(str(number) for number in range(classes))
    return Splits("given", learnt, chosen, judged, names, learnt.shape, val_from="given", test_from="given")


def _gathered(batches: Batches, name: str, decided: Callable[[Tensor], Tensor]) -> TensorSplit:
    """Every sample of the batches, on the CPU; `decided` says the targets of inputs that come alone."""
    inputs, targets = [], []
    for batch in batches:
        parts = [batch] if isinstance(batch, Tensor) else list(batch)
        if len(parts) not in (1, 2) or not all(isinstance(part, Tensor) for part in parts):
            found = ", ".join(type(part).__name__ for part in parts)
            raise BootcampError(
                f"{name}: a batch holds ({found}). It must be (inputs, targets), a tensor each, or inputs alone."
            )
        inputs.append(parts[0].detach().cpu())
        targets.append(parts[1].detach().cpu() if len(parts) == 2 else decided(inputs[-1]))
    if not inputs:
        raise BootcampError(f"{name}: gives no batch of (inputs, targets). Give a DataLoader or a list of batches.")
    return TensorSplit(torch.cat(inputs), torch.cat(targets))


def _known(options: Mapping[str, Plain]) -> dict[str, Plain]:
    return {key: value for key, value in options.items() if value is not None}


def _result(cfg: Config, metrics: Metrics, save_dir: Path | str | None) -> Result:
    """What stays when the names of this call are gone."""
    folder = Path(str(cfg.save_dir))
    checkpoint = load_checkpoint(folder / "pruned_model.pth", trust_code=True)
    model = detached_copy(checkpoint.model).to(choose_device(cfg.device)[0]).eval()
    text = (folder / "report.md").read_text(encoding="utf-8")
    return Result(model, metrics, text, folder if save_dir is not None else None)
