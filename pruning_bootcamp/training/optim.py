"""Optimisers and learning-rate schedules by name; the learning rate of a step is a pure function."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.optimizer import Optimizer

from pruning_bootcamp.errors import BootcampError, Problem, unknown
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.pruning.targets import matches
from pruning_bootcamp.registry import Registry
from pruning_bootcamp.schema import check_ranges
from pruning_bootcamp.training.settings import TrainSettings


def _not_an_optimizer(optimizer: Any, model: nn.Module) -> str | None:
    right = isinstance(optimizer, torch.optim.Optimizer)
    return None if right else f"{type(optimizer).__name__}, and a torch.optim.Optimizer is needed"


def _not_a_factor(factor: Any, t: float) -> str | None:
    right = isinstance(factor, int | float) and 0 <= factor < float("inf")
    return None if right else f"{factor!r} at {t:g}, and a learning-rate schedule gives a factor of the peak, 0 or more"


# Of a parameter group: what its learning rate is multiplied by.
FACTOR = "lr_factor"
_GIVEN = ("lr", "weight_decay")
OPTIMIZERS: Registry = Registry(
    "optimizer", given=_GIVEN, plural="optimizers", takes=("model",), always=_GIVEN, contract=_not_an_optimizer
)
LR_SCHEDULES: Registry = Registry("learning-rate schedule", plural="lr_schedules", takes=("t",), contract=_not_a_factor)

# Layers whose parameters are scales and shifts: pulling them to zero is not the same as keeping a function smooth.
_NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


@OPTIMIZERS.register("sgd")
def sgd(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    momentum: float = 0.9,
    nesterov: bool = True,
    decay_norm_and_bias: bool = True,
) -> Optimizer:
    """SGD with (Nesterov) momentum; weight decay on everything, as the published CIFAR recipes have it."""
    if not 0 <= momentum < 1:
        raise BootcampError(Problem("optimizer.args.momentum", f"{momentum} is not in [0, 1)."))
    if nesterov and momentum == 0:
        raise BootcampError(
            Problem("optimizer.args.nesterov", "needs a momentum above 0. Set momentum=0.9, or nesterov=false.")
        )
    groups = parameter_groups(model, weight_decay, decay_norm_and_bias)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, **_fused(model))


@OPTIMIZERS.register("adamw")
def adamw(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    decay_norm_and_bias: bool = False,
) -> Optimizer:
    """AdamW (Loshchilov & Hutter, 2019); no weight decay on norms and biases, as transformers are trained."""
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        if not 0 <= beta < 1:
            raise BootcampError(Problem(f"optimizer.args.{name}", f"{beta} is not in [0, 1)."))
    groups = parameter_groups(model, weight_decay, decay_norm_and_bias)
    return torch.optim.AdamW(groups, lr=lr, betas=(beta1, beta2), eps=eps, **_fused(model))


def parameter_groups(model: nn.Module, weight_decay: float, decay_norm_and_bias: bool) -> list[dict[str, Any]]:
    """The trainable parameters, with weight decay and without; each once, even where layers share it."""
    decayed: dict[int, nn.Parameter] = {}
    spared: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in decayed | spared:
                spare = not decay_norm_and_bias and (isinstance(module, _NORMS) or name == "bias")
                (spared if spare else decayed)[id(parameter)] = parameter
    groups = [(list(decayed.values()), weight_decay), (list(spared.values()), 0.0)]
    if not decayed and not spared:
        raise BootcampError("the network has no parameter that can be trained (requires_grad is False everywhere).")
    return [{"params": parameters, "weight_decay": decay} for parameters, decay in groups if parameters]


def split_by_factor(optimizer: Optimizer, model: nn.Module, factors: Mapping[str, float]) -> None:
    """Part the optimiser's groups, before its first step, by the factors that `factors` give their parameters.

    Patterns as in `find_targets`, the first that fits counts; a group's factor, where it is not 1, is in `FACTOR`.
    BootcampError with every pattern that fits no parameter.
    """
    check_factors(model, factors)
    if not factors:
        return
    of = {id(p): _factor(name, factors) for name, p in model.named_parameters()}
    groups = list(optimizer.param_groups)
    optimizer.param_groups.clear()
    for group in groups:
        parted: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            parted.setdefault(of.get(id(parameter), 1.0), []).append(parameter)
        for factor, parameters in parted.items():
            optimizer.add_param_group(group | {"params": parameters, FACTOR: factor})


def check_factors(model: nn.Module, factors: Mapping[str, float]) -> None:
    """Raise one BootcampError with every pattern that fits no parameter of the network."""
    names = [name for name, _ in model.named_parameters()]
    parts = [path for path, part in model.named_modules() if path and next(part.parameters(), None) is not None]
    problems = [
        Problem("lr_factors", unknown("layer", pattern, parts))
        for pattern in factors
        if not any(matches(name, pattern) for name in names)
    ]
    if problems:
        raise BootcampError(*problems)


def _factor(name: str, factors: Mapping[str, float]) -> float:
    return next((factor for pattern, factor in factors.items() if matches(name, pattern)), 1.0)


def _fused(model: nn.Module) -> dict[str, bool]:
    """One kernel for the whole step where torch has it; on CUDA it also keeps the gradient scaler from waiting."""
    devices = {parameter.device.type for parameter in model.parameters()}
    return {"fused": True} if devices <= {"cuda", "cpu"} else {}


@LR_SCHEDULES.register("constant")
def constant(t: float) -> float:
    """The same learning rate throughout."""
    return 1.0


@LR_SCHEDULES.register("multistep")
def multistep(t: float, *, milestones: tuple[float, ...] = (0.5, 0.75), factor: float = 0.1) -> float:
    """Times `factor` at each milestone, given as shares of the run (He et al., 2016: half and three quarters)."""
    outside = [milestone for milestone in milestones if not 0 < milestone < 1]
    if outside:
        raise BootcampError(
            Problem("schedule.args.milestones", f"{outside[0]} is not a share of the run, between 0 and 1.")
        )
    if not 0 < factor <= 1:
        raise BootcampError(Problem("schedule.args.factor", f"{factor} is not in (0, 1]."))
    return factor ** sum(t >= milestone for milestone in milestones)


@LR_SCHEDULES.register("cosine")
def cosine(t: float, *, final: float = 0.0) -> float:
    """Half a cosine from 1 down to `final` (Loshchilov & Hutter, 2017, eq. 5, without restarts)."""
    _check_share("final", final)
    return final + (1 - final) * (1 + math.cos(math.pi * t)) / 2


@LR_SCHEDULES.register("onecycle")
def onecycle(t: float, *, peak: float = 0.3, start: float = 0.04, final: float = 0.0) -> float:
    """Up in a straight line from `start` to 1 at `peak`, then down to `final` (after Smith & Topin, 2018)."""
    for name, share in (("start", start), ("final", final)):
        _check_share(name, share)
    if not 0 < peak < 1:
        raise BootcampError(Problem("schedule.args.peak", f"{peak} is not a share of the run, between 0 and 1."))
    return start + (1 - start) * t / peak if t < peak else final + (1 - final) * (1 - t) / (1 - peak)


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise BootcampError(
            Problem(f"schedule.args.{name}", f"{value} is not in [0, 1] (a share of the peak learning rate).")
        )


def learning_rate(
    step: int, total_steps: int, *, lr: float, schedule: str, schedule_args: Mapping[str, Plain], warmup_steps: int = 0
) -> float:
    """The learning rate of optimiser step `step` (from 0).

    Warm-up (Goyal et al., 2017): in equal parts, the last of its steps at full height. The schedule's t runs from 0 at
    the end of the warm-up to 1 behind the last step, so that no step is spent on a learning rate of 0.
    """
    t = max(0, step - warmup_steps) / max(1, total_steps - warmup_steps)
    ramp = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    return lr * ramp * LR_SCHEDULES[schedule](min(t, 1.0), **schedule_args)


def check_settings(settings: TrainSettings, where: str = "train") -> list[Problem]:
    """Every problem with the settings that can be seen before any work."""
    s = settings
    problems = OPTIMIZERS.check(s.optimizer.name, s.optimizer.args, f"{where}.optimizer")[1]
    problems += LR_SCHEDULES.check(s.schedule.name, s.schedule.args, f"{where}.schedule")[1]
    problems += check_ranges(s, where)
    length, warmup = s.length, s.warmup_length
    if length.value < 1:
        problems.append(Problem(f"{where}.epochs", f"{length.value} is not at least 1."))
    if length.unit == warmup.unit and warmup.value >= length.value > 0:
        problems.append(Problem(f"{where}.warmup", f"{warmup} leaves nothing of {where}.epochs={length}."))
    if not problems:
        try:  # the schedule's own complaints about its arguments
            learning_rate(0, 1, lr=s.lr, schedule=s.schedule.name, schedule_args=s.schedule.args)
        except BootcampError as error:
            problems += [problem.under(where) for problem in error.problems]
    return problems
