"""Which channels of a network live and die together, and cutting them."""

from pruning_bootcamp.pruning.graph.members import Group, Keep, Member, cut_members, dimensions, filters, making
from pruning_bootcamp.pruning.graph.tracing import find_groups
from pruning_bootcamp.pruning.graph.widening import why_not_widened, widen_members

__all__ = [
    "Group",
    "Keep",
    "Member",
    "cut_members",
    "dimensions",
    "filters",
    "find_groups",
    "making",
    "why_not_widened",
    "widen_members",
]
