"""Channels that do nothing, found and removed without changing what the network computes."""

from pruning_bootcamp.pruning.channels.dead.plan import DeadPlan, plan_dead
from pruning_bootcamp.pruning.channels.dead.removal import remove_dead

__all__ = ["DeadPlan", "plan_dead", "remove_dead"]
