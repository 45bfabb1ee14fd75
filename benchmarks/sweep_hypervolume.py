"""How many trials a sampler needs for the Pareto front of the whole grid.

    python benchmarks/sweep_hypervolume.py -c cfgs/sweep/digits.yaml --save-dir results/sweep/hypervolume

Runs the grid of the config once (or reads it, when it was run before; about 90 s on one core for digits). Then every
sampler searches the same space, five seeds each, and each trial's figures are looked up: no trial runs twice. Printed:
how many different settings were tried until 95, 99 and 100% of the grid's hypervolume were reached, and what was
reached with half of them. Two reference points: (0% accuracy, the dense network's cost), as `sweep` prints it, where
almost any front does well; and (the worst accuracy of the grid's front less one point, its dearest cost), where only
the front itself counts. The grid runs without early stopping.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pruning_bootcamp.config import load
from pruning_bootcamp.logs import LOGGER, start_screen
from pruning_bootcamp.preflight import check
from pruning_bootcamp.reporting import markdown_table
from pruning_bootcamp.reporting.pareto import Point, hypervolume
from pruning_bootcamp.results.search import Trial
from pruning_bootcamp.sweep.commands import run
from pruning_bootcamp.sweep.known import folder_of
from pruning_bootcamp.sweep.outputs import cost_of_sweep
from pruning_bootcamp.sweep.space import Dimension, grid_size, parse_space, text_of
from pruning_bootcamp.sweep.study import OptunaStudy, distribution, make_sampler

SAMPLERS = ("tpe", "nsga2", "random")
SHARES = (0.95, 0.99, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", type=Path, default=Path("cfgs/sweep/digits.yaml"))
    parser.add_argument("--save-dir", default="results/sweep/hypervolume")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    start_screen()
    options = {"save_dir": given.save_dir, "sweep.sampler": "grid", "sweep.workers": given.workers}
    cfg = load(given.config, (), options | {"sweep.early_stopping": False, "sweep.trials": None})
    check(cfg, "sweep", str(given.config))
    content = run(cfg)
    dimensions, _ = parse_space(cfg.sweep.space)
    cost = cost_of_sweep(content)
    figures = {key_of(trial.params): _point(trial, cost) for trial in content.trials if trial.state == "complete"}
    size = grid_size(dimensions)
    assert size is not None
    assert len(figures) == size, "the grid has trials that failed"
    front = [_point(trial, cost) for trial in content.trials if trial.number in content.pareto]
    assert content.hypervolume_reference is not None
    references = {
        "dense": (0.0, content.hypervolume_reference[cost]),
        "strict": (min(accuracy for accuracy, _ in front) - 1, max(dear for _, dear in front) * 1.001),
    }
    rows = []
    for name, reference in references.items():
        best = hypervolume(list(figures.values()), reference)
        for sampler in SAMPLERS:
            curves = [
                search(sampler, dimensions, seed, figures.__getitem__, size, cost, reference)
                for seed in range(given.seeds)
            ]
            needed = {share: [first_at(curve, share * best) for curve in curves] for share in SHARES}
            at_half = [curve[size // 2 - 1] / best for curve in curves]
            rows.append(
                [
                    f"{name} {reference[0]:.2f}%, {reference[1]:.4g}",
                    sampler,
                    *(f"{statistics.median(counts):g} {sorted(counts)}" for counts in needed.values()),
                    f"{100 * statistics.mean(at_half):.1f} ({100 * min(at_half):.1f} to {100 * max(at_half):.1f})",
                ]
            )
    head = ["reference", "sampler", *(f"trials to {100 * share:g}%" for share in SHARES)]
    head.append(f"% with {size // 2} of {size}, mean (range)")
    LOGGER.info("\n%d seeds; different settings tried, median and all, repeats not counted", given.seeds)
    LOGGER.info("%s", markdown_table(head, rows))
    LOGGER.info("The grid: %s", folder_of(cfg))


def _point(trial: Trial, cost: str) -> Point:
    return trial.values["accuracy"], trial.values[cost]


def key_of(settings: dict[str, Any]) -> str:
    return text_of(dict(sorted(settings.items())))


def search(
    sampler: str,
    dimensions: list[Dimension],
    seed: int,
    look_up: Callable[[str], Point],
    size: int,
    cost: str,
    reference: Point,
) -> list[float]:
    """The hypervolume after 1, 2, ... different settings; a sampler that only repeats itself stays where it is."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage, chosen = optuna.storages.InMemoryStorage(), make_sampler(sampler, dimensions, seed)
    study = optuna.create_study(storage=storage, directions=["maximize", "minimize"], sampler=chosen)
    trials = OptunaStudy(study, storage, dimensions, "", cost, True, {d.key: distribution(d) for d in dimensions})
    seen: dict[str, Point] = {}
    curve: list[float] = []
    for _ in range(20 * size):
        number, settings = trials.ask()
        key = key_of(settings)
        point = look_up(key)
        study.tell(number, list(point))
        if key not in seen:
            seen[key] = point
            curve.append(hypervolume(list(seen.values()), reference))
        if len(seen) == size:
            break
    return curve + [curve[-1]] * (size - len(curve))


def first_at(curve: list[float], value: float) -> int:
    """How many trials it took; one more than there are, when it was never reached."""
    return next((count for count, reached in enumerate(curve, start=1) if reached >= value - 1e-12), len(curve) + 1)


if __name__ == "__main__":
    main()
