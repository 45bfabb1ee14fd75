"""What is wrong with a training's settings, as far as that can be seen before any work."""

from pruning_bootcamp.errors import BootcampError, Problem
from pruning_bootcamp.schema import check_ranges
from pruning_bootcamp.training.optim import LR_SCHEDULES, OPTIMIZERS, learning_rate
from pruning_bootcamp.training.settings import TrainSettings


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
