"""Which channels of a network live and die together, and cutting them."""

from pruning_bootcamp.pruning.groups.graph import find_groups
from pruning_bootcamp.pruning.groups.members import Group, Keep, Member, cut_members, dimensions

__all__ = ["Group", "Keep", "Member", "cut_members", "dimensions", "find_groups"]
