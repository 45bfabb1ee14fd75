"""What recovers after a compression, and training that compresses: fine-tune, distill, quantize."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from pruning_bootcamp.flow.compressions.registry import COMPRESSIONS
from pruning_bootcamp.flow.outcomes import Outcome, Recovered, Trained
from pruning_bootcamp.flow.plan import Plan, Work, section
from pruning_bootcamp.flow.steps import training
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.pruning.pipeline_stages import PruningStage


@COMPRESSIONS.register("fine-tune")
def fine_tune(plan: Plan) -> None:
    """Train with the zeros frozen, as `fine_tune` of the config says."""
    _train(plan, "train", "Fine-tuning", training.fine_tune, Trained, "fine_tune", "train")


@COMPRESSIONS.register("distill")
def distill(plan: Plan) -> None:
    """Train to the dense network's outputs without labels, as `recover` of the config says (whatever its method)."""
    title = "Fine-tuning: distillation from the dense network"
    _train(plan, "train", title, training.follow_dense, Recovered, "recover", augment=plan.cfg.train.augment)


@COMPRESSIONS.register("quantize", quantizes=True, once=True)
def quantize(plan: Plan) -> None:
    """Quantisation-aware training, as `quantize` of the config says; later training goes on with 8 bits."""
    title = "Fine-tuning: quantisation-aware, 8 bits"
    _train(plan, "train", title, training.quantize, Trained, "quantize", "train")


def recover(
    plan: Plan,
    cycle: str = "",
    which: str = "",
    sparsity: float | None = None,
    files: Mapping[str, Plain] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """What the config wants after each pruning; one that goes on growing depends on the same `files` as the pruning."""
    cfg, facts = plan.cfg, facts or {}
    if cfg.recover.method == "distill" and not _rewinds(plan):
        more = {"augment": cfg.train.augment, "sparsity": sparsity} | dict(files or {})
        title = f"Fine-tuning{which}: distillation from the dense network"
        following = partial(training.follow_dense, sparsity=sparsity)
        _train(plan, f"{cycle}distill", title, following, Recovered, "recover", "prune", facts=facts, **more)
    if cfg.fine_tune.enabled:
        name, title = f"{cycle}fine-tune", f"Fine-tuning{which}"
        _train(plan, name, title, training.fine_tune, Trained, "fine_tune", "train", facts=facts)


def _train(
    plan: Plan,
    name: str,
    title: str,
    work: Work,
    gives: type[Outcome],
    *sections: str,
    facts: Mapping[str, Any] | None = None,
    **more: Any,
) -> None:
    given = section(plan.cfg, *sections) | more
    same = {"together": True, "gives_network": True} | dict(facts or {})
    plan.add(name, title, PruningStage.FINE_TUNING, work, gives, settings=given, **same)


def _rewinds(plan: Plan) -> bool:
    return plan.part.endswith("prune-unstructured") and plan.cfg.prune.rewind is not None


def cycle_names(number: int, of: int) -> tuple[str, str]:
    """What a cycle's steps are called with, and what their titles say of it; nothing where it is the only one."""
    return ("", "") if of == 1 else (f"{number}.", f" (cycle {number} of {of})")
