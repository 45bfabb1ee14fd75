"""What a pruned network is judged by."""

from dataclasses import dataclass

from pruning_bootcamp.schema import between


@dataclass
class GoalConfig:
    """What the pruned network must reach to be called a success (`goal_met`)."""

    flops_reduction_pct: float = between(40.0, 0, 100)
    """at least so many percent fewer multiply-accumulates"""
    accuracy_drop: float = 1.5
    """at most so many points of accuracy lost, on the test split"""
    evaluate_test: bool = True
    """false: training and pruning leave the test split unread, give validation figures (val_...) and judge no goal"""
