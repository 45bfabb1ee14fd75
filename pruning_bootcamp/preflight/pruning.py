"""Settings of pruning, and what they rule out in each other."""

from pathlib import Path

from pruning_bootcamp.config import Config
from pruning_bootcamp.duration import parse_duration
from pruning_bootcamp.errors import BootcampError, Problem
from pruning_bootcamp.flow import settings
from pruning_bootcamp.flow.start import BASELINE_CHECKPOINT
from pruning_bootcamp.preflight.training import duration
from pruning_bootcamp.pruning.channels.checks import check_structured
from pruning_bootcamp.pruning.patterns import PATTERNS
from pruning_bootcamp.pruning.weights.schedules import check_schedule
from pruning_bootcamp.pruning.weights.unstructured import check_unstructured
from pruning_bootcamp.training.gradual import check_gradual
from pruning_bootcamp.training.rewinding import rewind_file, step_file


def zeros(cfg: Config, trains: bool = False) -> list[Problem]:
    """`trains`: the dense network is made by the same command, not taken from a checkpoint."""
    p = cfg.prune
    problems = check_unstructured(settings.weight_choices(cfg), where="prune")
    if p.iterations > 1 and (fixes := _fixes_sparsity(cfg)):
        problems.append(
            Problem(
                "prune.iterations",
                f"{p.iterations} cycles have nothing to grow, since {fixes} fixes the sparsity. Leave --iterative out.",
            )
        )
    problems += check_schedule(p.schedule.name, p.schedule.args, "prune.schedule")
    return problems + (_gradual(cfg) if p.gradual else []) + (_rewind(cfg, trains) if p.rewind is not None else [])


def _fixes_sparsity(cfg: Config) -> str | None:
    """The pattern or allocation that leaves no sparsity to grow."""
    p = cfg.prune
    if p.pattern.name in PATTERNS and "fixed_count" in PATTERNS[p.pattern.name].facts:
        return f"pattern '{p.pattern.name}'"
    if settings.target_sparsity(cfg) is None:
        return f"allocation '{p.allocation.name}'"
    return None


def _gradual(cfg: Config) -> list[Problem]:
    p, f = cfg.prune, cfg.fine_tune
    solver = p.solver.name
    fixes = _fixes_sparsity(cfg)
    reasons = [
        (
            p.iterations > 1,
            f"the sparsity grows within one fine-tuning, and prune.iterations={p.iterations} asks for several. Choose "
            "--gradual or --iterative.",
        ),
        (not f.enabled, "the sparsity grows while fine-tuning, which is off. Set fine_tune.enabled=true."),
        (fixes is not None, f"there is nothing to grow, since {fixes} fixes the sparsity. Leave --gradual out."),
        (
            solver != "none",
            f"prune.solver={solver} would move the weights again at every update, in the middle of the optimiser's "
            "work. Leave the solver out.",
        ),
        (
            p.refit != "none",
            "prune.refit=closed_form would move the weights again at every update, in the middle of the optimiser's "
            "work. Set prune.refit=none.",
        ),
        (p.stages > 1, f"the sparsity grows while training, and prune.stages={p.stages} asks for stages before it."),
        (
            p.rewind is not None,
            "prune.rewind puts weights back once the masks are known, and here they are known only when the training "
            "is nearly over. Choose one.",
        ),
        (
            cfg.recover.method == "distill",
            "recover.method=distill would follow a pruning that comes before the training, and here there is none. "
            "Leave one of them out; fine_tune.distill follows the dense network while the sparsity grows.",
        ),
    ]
    problems = [Problem("prune.gradual", reason) for is_so, reason in reasons if is_so]
    wrong_epochs = duration(f.epochs, "fine_tune.epochs")  # said by the check of fine_tune
    training = None if wrong_epochs else parse_duration(f.epochs)
    return problems + check_gradual(p.begin, p.end, p.frequency, training, "prune")


def _rewind(cfg: Config, trains: bool) -> list[Problem]:
    p = cfg.prune
    assert p.rewind is not None
    problems = []
    solver = p.solver.name
    if solver != "none":
        problems.append(
            Problem("prune.rewind", f"would undo what prune.solver={solver} does to the weights. Choose one.")
        )
    if p.refit != "none":
        problems.append(
            Problem("prune.rewind", f"would undo what prune.refit={p.refit} does to the weights. Choose one.")
        )
    if cfg.recover.method == "distill":
        problems.append(
            Problem("prune.rewind", "would undo what recover.method=distill does to the weights. Choose one.")
        )
    if trains:
        return problems + _saved_step(cfg, p.rewind)
    checkpoint = Path(cfg.checkpoint) if cfg.checkpoint is not None else BASELINE_CHECKPOINT
    if checkpoint.is_file():  # else that is the problem, and said elsewhere
        try:
            rewind_file(p.rewind, checkpoint)
        except BootcampError as error:
            problems += [problem.under("prune.rewind") for problem in error.problems]
    return problems


def _saved_step(cfg: Config, rewind: str) -> list[Problem]:
    """Whether the training writes the step that is gone back to."""
    try:
        wanted = step_file(parse_duration(rewind, "prune.rewind"))
    except BootcampError as error:
        return error.problems
    saved = [step_file(parse_duration(text)) for text in cfg.train.save_steps if not duration(text, "")]
    if wanted in saved:
        return []
    text = f"{rewind} is no step that the training writes. Set train.save_steps=[{rewind}]."
    return [Problem("prune.rewind", text)]


def channels(cfg: Config) -> list[Problem]:
    """Problems with the section `structured`."""
    grow = cfg.structured.grow_penalty
    return check_structured(cfg.structured) + (
        [] if grow is None else duration(grow, "structured.grow_penalty", least=1)
    )
