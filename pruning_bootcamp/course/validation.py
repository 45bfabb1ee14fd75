"""What a week of the course must have produced: each check with ✓ or ✗, and for each ✗ the command that mends it."""

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from pruning_bootcamp.course.view import COLUMNS, COMPARISON
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.runs import METRICS, read_yaml

# The course's own limits.
LEAST_BASELINE_ACCURACY = 90.0
MOST_DROP_UNSTRUCTURED = 2.0
LEAST_FLOPS_REDUCTION = 40.0
MOST_DROP_STRUCTURED = 1.5
# Labels alone bring half the network back to within the goal or just outside, by the number of threads.
DISTILLED = "fine_tune.epochs={epochs}ep fine_tune.lr=0.02 fine_tune.distill=0.9"
UNSTRUCTURED_METHODS = ("l1", "global", "taylor", "movement")

Metrics = dict[str, Any]


@dataclass(frozen=True)
class CourseCheck:
    """One thing that must be there or hold, what was found, and what to type when it does not."""

    what: str
    ok: bool
    found: str
    mend: str


def validate_course(stage: str, results: Path) -> bool:
    """Show every check of week1, week2, week3 or final over `results`; whether all hold."""
    console = Console(soft_wrap=True)
    everything = list(STAGES[stage](CourseResults(results)))
    for check in everything:
        mark = "[green]✓[/green]" if check.ok else "[red]✗[/red]"
        console.print(mark, end=" ")
        console.print(f"{check.what}: {check.found}", markup=False, highlight=False)
        if not check.ok:
            console.print(f"    mend it: {check.mend}", markup=False, highlight=False)
    missing = [check for check in everything if not check.ok]
    said = f"{len(missing)} of {len(everything)} checks fail" if missing else f"all {len(everything)} checks hold"
    console.print(f"\n{stage}: {said} ({results})", highlight=False)
    return not missing


def check_results_folder(stage: str, results: Path | None, overrides: list[str] | None) -> None:
    """A week takes a folder of results, and no settings."""
    problems = []
    if overrides:
        problems.append(f"validate {stage}: takes no {overrides[0]}; key=value goes with a config.")
    if results is not None and not results.is_dir():
        problems.append(f"--results: there is no folder {results}. Leave it out for results/, or run a day first.")
    if problems:
        raise BootcampError(*problems)


class CourseResults:
    """The results of a course, and how its commands are typed for them: the config, and folders when not results/."""

    def __init__(self, results: Path) -> None:
        self.results = results
        config = results / "baseline" / "config.yaml"
        data = read_yaml(config).get("data", {}) if config.exists() else {}
        name = data.get("name", "digits") if isinstance(data, dict) else "digits"
        if name == "cifar10":
            self.config, self.override = "-c cfgs/cifar10_resnet18.yaml", f" data.root={data.get('root', 'data')}"
        elif name == "digits":
            self.config, self.override = "-c cfgs/digits.yaml", ""
        else:
            self.config, self.override = f"-c {config}", ""  # other images: as the baseline was trained

    @property
    def baseline(self) -> Path:
        """The dense network's checkpoint, there or not."""
        return self.results / "baseline" / "best_model.pth"

    def type(self, command: str, save: str | None = None, checkpoint: bool = False) -> str:
        """The command line, with the config, and with the folders that the defaults would not find."""
        name, _, options = command.partition(" ")
        words = [f"pruning-bootcamp {name} {self.config}", options]
        if self.results != Path("results"):
            words += [f"--checkpoint {self.baseline}"] * checkpoint
            words += [f"--save-dir {self.results / save}"] if save is not None else []
        return " ".join(word for word in words if word) + self.override

    def retrain(self) -> str:
        """The command that trains the dense network."""
        return self.type("train", save="baseline")

    def prune(self, method: str, more: str = "") -> str:
        """The command that zeroes half of the weights by `method`; `more` is typed behind it."""
        mode = "global" if method == "global" else "layerwise"
        folder = f"unstructured/{method}_{mode}_sp0.5"
        command = f"prune-unstructured --method {method} --mode {mode} --sparsity 0.5{more}"
        return self.type(command, save=folder, checkpoint=True)

    def cut(self, epochs: int = 30) -> str:
        """The command that halves the FLOPs by bn_scale and distils for so many epochs."""
        command = f"prune-structured --method bn_scale --target-flops-reduction 0.5 {DISTILLED.format(epochs=epochs)}"
        return self.type(command, save="structured/bn_scale_flops0.5", checkpoint=True)

    def finished(self, kind: str) -> dict[Path, Metrics]:
        """Folder -> metrics of the finished runs of `kind` (unstructured, structured)."""
        found = {}
        for path in sorted((self.results / kind).glob(f"*/{METRICS}")):
            metrics = read_yaml(path)
            if metrics.get("status") == "complete" and (path.parent / "pruned_model.pth").exists():
                found[path.parent] = metrics
        return found


def week1(course: CourseResults) -> Iterator[CourseCheck]:
    """A dense network that is good enough, and weights zeroed at little cost."""
    yield _file("baseline checkpoint", course.baseline, course.retrain())
    metrics = course.results / "baseline" / METRICS
    yield _file("baseline metrics", metrics, course.retrain())
    accuracy = _number(read_yaml(metrics) if metrics.exists() else {}, "accuracy")
    yield CourseCheck(
        f"baseline accuracy of at least {LEAST_BASELINE_ACCURACY:g}%",
        accuracy is not None and accuracy >= LEAST_BASELINE_ACCURACY,
        "not known" if accuracy is None else f"{accuracy:.2f}%",
        course.retrain() + ("" if accuracy is None else " --no-resume train.epochs=60ep"),
    )
    pruned = course.finished("unstructured")
    yield CourseCheck("an unstructured pruning", bool(pruned), f"{len(pruned)} finished", course.prune("global"))
    drops = {folder.name: _number(metrics, "accuracy_drop") for folder, metrics in pruned.items()}
    known = {name: drop for name, drop in drops.items() if drop is not None and pruned_half(pruned, name)}
    best = min(known, key=lambda name: known[name], default=None)
    yield CourseCheck(
        f"half of the weights or more zero at a drop of at most {MOST_DROP_UNSTRUCTURED:g} points",
        best is not None and known[best] <= MOST_DROP_UNSTRUCTURED,
        "none" if best is None else f"{best} lost {known[best]:.2f}",
        course.prune("global", "" if best is None else " fine_tune.epochs=30ep"),
    )


def pruned_half(runs: Mapping[Path, Metrics], name: str) -> bool:
    """Whether the run of that folder name zeroed half of the weights, within the rounding of layers."""
    return any(folder.name == name and (_number(run, "sparsity") or 0) >= 0.495 for folder, run in runs.items())


def week2(course: CourseResults) -> Iterator[CourseCheck]:
    """Channels cut to the course's goal; the network that met it exported, and timed."""
    cut = course.finished("structured")
    yield CourseCheck("a structured pruning", bool(cut), f"{len(cut)} finished", course.cut())
    preferred = course.results / "structured" / "bn_scale_flops0.5"
    met = [folder for folder, metrics in cut.items() if _meets_goal(metrics)]
    again = course.cut(60 if preferred in cut else 30)
    limits = f"at least {LEAST_FLOPS_REDUCTION:g}% fewer FLOPs at a drop of at most {MOST_DROP_STRUCTURED:g} points"
    yield CourseCheck(
        f"the goal, {limits}",
        bool(met),
        ", ".join(map(_cut_text, met, (cut[folder] for folder in met)))
        or ", ".join(map(_cut_text, cut, cut.values()))
        or "none",
        again,
    )
    chosen = preferred if preferred in met or not met else met[0]
    onnx = [folder for folder in met if (folder / "model.onnx").exists()]
    export = (
        f"pruning-bootcamp export {course.config} --checkpoint {chosen / 'pruned_model.pth'} --format both --verify"
    )
    yield CourseCheck(
        "a network that meets it as ONNX",
        bool(onnx),
        str(onnx[0] / "model.onnx") if onnx else "none",
        # what missed the goal is not to be shipped: first one that meets it
        export + course.override if met or not cut else again,
    )
    profiles = [course.results / "week2_validation.yaml", *(folder / "profile.yaml" for folder in met)]
    analysed = {path: gap for path in profiles if (gap := _discrepancy(path)) is not None}
    yield CourseCheck(
        "FLOPs against measured latency",
        bool(analysed),
        ", ".join(f"{path}: {gap:.1f} points apart" for path, gap in analysed.items()) or "none",
        f"pruning-bootcamp profile {course.config} --baseline {course.baseline} "
        f"--pruned {chosen / 'pruned_model.pth'} --measure-latency "
        f"--save-results {course.results / 'week2_validation.yaml'}" + course.override,
    )


def week3(course: CourseResults) -> Iterator[CourseCheck]:
    """Methods compared, a search over the settings, and the report."""
    names = [folder.name for folder in course.finished("unstructured")]
    for method in UNSTRUCTURED_METHODS:
        mine = [name for name in names if name.startswith(f"{method}_")]
        yield CourseCheck(f"pruned by {method}", bool(mine), ", ".join(mine) or "none", course.prune(method))
    sweeps = {path.parent.name: _sweep(path) for path in sorted((course.results / "sweep").glob("*/sweep.yaml"))}
    good = {name: (trials, front) for name, (trials, front) in sweeps.items() if trials > 1 and front}
    other = " data.name=cifar10 model.name=cifar_resnet18" if "cifar10" in course.config else ""
    save = "" if course.results == Path("results") else f" --save-dir {course.results / 'sweep' / 'digits'}"
    yield CourseCheck(
        "a sweep with its Pareto front",
        bool(good),
        ", ".join(f"{name}: {trials} trials, {front} on the front" for name, (trials, front) in good.items()) or "none",
        "pruning-bootcamp sweep -c cfgs/sweep/digits.yaml --sampler grid --trials 24 --workers 2"
        f"{save}{other}{course.override}",
    )
    yield _comparison(course)
    reports = [course.results / "summary.md", course.results / "summary.html"]
    there = [path for path in reports if path.exists() and path.stat().st_size > 0]
    yield CourseCheck(
        "the written report",
        bool(there),
        ", ".join(map(str, there)) or "none",
        f"pruning-bootcamp report --results {course.results} --format md",
    )


def final(course: CourseResults) -> Iterator[CourseCheck]:
    """All three weeks, and two methods or more compared."""
    yield from week1(course)
    yield from week2(course)
    yield from week3(course)


STAGES: dict[str, Callable[[CourseResults], Iterator[CourseCheck]]] = {
    "week1": week1,
    "week2": week2,
    "week3": week3,
    "final": final,
}


def _file(what: str, path: Path, mend: str) -> CourseCheck:
    return CourseCheck(what, path.exists(), str(path) if path.exists() else f"there is no {path}", mend)


def _number(metrics: Mapping[str, Plain], key: str) -> float | None:
    value = metrics.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _meets_goal(metrics: Metrics) -> bool:
    """By the course's own limits, and by the goal that the run itself was judged by."""
    flops, drop = _number(metrics, "flops_reduction_pct"), _number(metrics, "accuracy_drop")
    if flops is None or drop is None or metrics.get("goal_met") is not True:
        return False
    return flops >= LEAST_FLOPS_REDUCTION and drop <= MOST_DROP_STRUCTURED


def _cut_text(folder: Path, metrics: Metrics) -> str:
    flops, drop = _number(metrics, "flops_reduction_pct"), _number(metrics, "accuracy_drop")
    if flops is None or drop is None:
        return f"{folder.name} has no metrics"
    return f"{folder.name} saved {flops:.1f}% for {drop:.2f} points"


def _discrepancy(path: Path) -> float | None:
    """FLOPs reduction minus latency reduction, in points, as a profile measured it."""
    analysis = read_yaml(path).get("analysis") if path.exists() else None
    return _number(analysis, "discrepancy_points") if isinstance(analysis, dict) else None


def _sweep(path: Path) -> tuple[int, int]:
    """(complete trials, trials on the Pareto front)."""
    content = read_yaml(path)
    trials, front = content.get("trials"), content.get("pareto")
    complete = [t for t in trials if isinstance(t, dict) and t.get("state") == "complete"] if trials else []
    return len(complete), len(front) if isinstance(front, list) else 0


def _comparison(course: CourseResults) -> CourseCheck:
    """The table of methods, with its columns and two methods or more."""
    path = course.results / COMPARISON
    mend = f"pruning-bootcamp curriculum compare --results {course.results}"
    if not path.exists():
        return CourseCheck("the table of methods", False, f"there is no {path}", mend)
    with open(path, encoding="utf-8", newline="") as stream:
        header, *rows = list(csv.reader(stream)) or [[]]
    if tuple(header) != COLUMNS:
        return CourseCheck("the table of methods", False, f"{path} has the columns {','.join(header)}", mend)
    return CourseCheck("the table of methods", len(rows) >= 2, f"{path}, {len(rows)} runs", mend)
