"""What a network does and costs: its task's metric on a split, FLOPs by two counters, parameters, sparsity."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.results import Cost, LeftOut
from pruning_bootcamp.tasks import IMAGE_CLASSIFICATION, Measurement, Task, evaluate
from pruning_bootcamp.tools.datasets import Split, Splits, eval_batches
from pruning_bootcamp.tools.metrics import Flops, compute_flops, compute_params, compute_sparsity
from pruning_bootcamp.tools.modes import beside, evaluation_mode


def evaluate_on(
    model: nn.Module,
    split: Split,
    splits: Splits,
    *,
    device: torch.device,
    batch_size: int = 256,
    label: str = "Evaluating",
    progress: bool = True,
    task: Task = IMAGE_CLASSIFICATION,
) -> Measurement:
    """Over every sample of the split, once each."""
    batches = eval_batches(split, batch_size=batch_size, mean=splits.mean, std=splits.std, device=device)
    total = -(-len(split) // batch_size)
    shown = tqdm(batches, total=total, desc=label, leave=False, disable=None if progress else True)
    return evaluate(model.to(device), shown, task)


def cost_of(model: nn.Module, example: Tensor, masks: Mapping[str, Tensor] | None = None) -> tuple[Cost, Flops]:
    """What one input takes and the network holds, and the per-layer count behind it."""
    _check_runs(model, example)
    flops = compute_flops(model, example)
    sparsity = compute_sparsity(model, masks)
    cost = Cost(
        flops_g=flops.macs / 1e9,  # not rounded: budgets and goals are judged by it
        flops_g_thop=None if flops.macs_thop is None else flops.macs_thop / 1e9,
        params_m=compute_params(model) / 1e6,
        sparsity=round(sparsity.total, 6),
        sparsity_of_all=round(sparsity.of_all, 6),
        prunable_params=sparsity.prunable,
        left_out=tuple(
            LeftOut(name=name, params=left.size, reason=left.reason) for name, left in sparsity.left_out.items()
        ),
    )
    return cost, flops


def _check_runs(model: nn.Module, example: Tensor) -> None:
    """A network that can't take these inputs is the user's to choose anew, not a traceback."""
    try:
        with evaluation_mode(model), torch.inference_mode():
            model(beside(model, example))
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        shape = "x".join(str(side) for side in example.shape[1:])
        reason = str(error).strip().partition("\n")[0]
        raise BootcampError(
            f"the network does not run on inputs of {shape} ({reason}). Choose another model.name, or other inputs."
        ) from error


def sparsity_text(cost: Cost) -> str:
    """Of what the sparsity is a share: of the prunable weights, and of all."""
    left = [f"{one.name} {one.params:,} ({one.reason})" for one in cost.left_out or ()]
    more = f"; and {len(left) - 3} others" if len(left) > 3 else ""
    out = f"; left out: {'; '.join(left[:3])}{more}" if left else ""
    of_all, params = 100 * (cost.sparsity_of_all or 0.0), round(1e6 * (cost.params_m or 0.0))
    share = f"{100 * (cost.sparsity or 0.0):.2f}% of {cost.prunable_params:,} prunable weights"
    return f"{share} ({of_all:.2f}% of all {params:,} parameters{out})"


def say_disagreement(flops: Flops) -> None:
    """A line, with the layers, when the two FLOPs counters differ by more than 2%, or when one could not count."""
    if flops.macs_thop is None:
        LOGGER.info("FLOPs: one counter only; thop is missing (%s)", flops.thop_missing)
    elif flops.disagreeing:
        LOGGER.info(
            "FLOPs: counted %.4g G, thop says %.4g G (%.1f%% apart); they differ in %s",
            flops.macs / 1e9,
            flops.macs_thop / 1e9,
            flops.disagreement_pct,
            "; ".join(flops.disagreeing[:5]),
        )
    if flops.skipped:
        LOGGER.info("FLOPs: not counted: %s", "; ".join(flops.skipped))
