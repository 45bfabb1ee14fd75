"""What `pipeline.steps` names: each compression adds its steps to a plan."""

from collections.abc import Sequence

from pruning_bootcamp.errors import Problem, listed, unknown
from pruning_bootcamp.flow.compressions import recovering, structured, unstructured  # noqa: F401  # each registers its steps
from pruning_bootcamp.flow.compressions.registry import COMPRESSIONS
from pruning_bootcamp.flow.plan import Plan

__all__ = ["COMPRESSIONS", "check_order", "compress"]


def compress(plan: Plan, names: Sequence[str]) -> None:
    """These compressions, in this order."""
    plan.compressions = tuple(names)
    for number, name in enumerate(names, start=1):
        plan.part = f"{number}-{name}"
        COMPRESSIONS[name](plan)
    plan.part = ""


def check_order(names: Sequence[str], only_dead: bool = False) -> list[Problem]:
    """What is wrong with `pipeline.steps`: unknown names, and orders that make no sense, with the reason.

    `only_dead`: prune-structured removes what does nothing, which zeros before it may have made so.
    """
    found = [unknown("step", name, COMPRESSIONS) for name in names if name not in COMPRESSIONS]
    known = [name for name in names if name in COMPRESSIONS]
    if not names:
        found.append(f"is empty, so there is nothing to do. Name one or more of {listed(COMPRESSIONS)}.")
    for number, name in enumerate(known):
        facts, before = COMPRESSIONS[name].facts, known[:number]
        if facts.get("once") and name in before:
            found.append(f"'{name}' comes twice, and its settings are the same. Leave one out.")
        works = any(COMPRESSIONS[other].facts.keys() & {"removes", "quantizes"} for other in before)
        if not facts.keys() & {"removes", "quantizes"} and not works:
            found.append(f"'{name}' has nothing to recover from yet. Put it after what prunes or quantizes.")
        too_early = ("quantize",) if only_dead else ("prune-unstructured", "quantize")
        if name == "prune-structured" and (late := [b for b in before if b in too_early]):
            advice = f"Put it before '{late[0]}'"
            if late[0] == "prune-unstructured":
                advice += ", or set structured.only_dead=true: that removes what the zeros have left dead, exactly"
            found.append(
                f"'prune-structured' after '{late[0]}' would cut channels by weights that were chosen, and "
                f"ranges that were learnt, for another network. {advice}."
            )
    return [Problem("pipeline.steps", text) for text in found]
