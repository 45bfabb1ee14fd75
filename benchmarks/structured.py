"""What ways to cut whole channels leave of a trained network, without training: scores, widths, what follows the cut.

    .venv/bin/python benchmarks/structured.py --checkpoint resnet20.th data.root=data/cifar10      hours on one thread
    .venv/bin/python benchmarks/structured.py --checkpoint resnet20.th --methods "obs, *" "random, *" --seeds 3 ...

One network a run (-c; cfgs/channels_one_shot.yaml, model.name=...). Every row is a command of its own in a process of
its own, on the same calibration images of a seed, and reads the test split once; torch-pruning's rows are
benchmarks/structured_torch_pruning.py. Then each cut network is timed in ONNX Runtime, in turn with the dense one. The
table goes to OUT/report.md, every figure to OUT/metrics.yaml. What is done is kept in OUT/runs and OUT/rows.yaml:
killed, the same command goes on.
"""

import argparse
import fnmatch
import os
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pruning_bootcamp.checkpoints import load_checkpoint
from pruning_bootcamp.config import Config, load
from pruning_bootcamp.errors import BootcampError, unknown
from pruning_bootcamp.flow import start
from pruning_bootcamp.flow.steps.ways import time_asked
from pruning_bootcamp.logs import LOGGER, start_screen
from pruning_bootcamp.plain import to_plain
from pruning_bootcamp.preflight import check
from pruning_bootcamp.pruning.channels.scores import CHANNEL_SCORES
from pruning_bootcamp.reporting import markdown_table
from pruning_bootcamp.reporting.values import spread
from pruning_bootcamp.runs import METRICS, read_yaml, write_text, write_yaml
from pruning_bootcamp.runtime import environment

CONFIG = "cfgs/channels_one_shot.yaml"
TORCH_PRUNING = Path(__file__).with_name("structured_torch_pruning.py")
BATCHES, ROUNDS = (1, 16), 100
WIDTHS = {"uniform": "local", "global": "global", "measured": "measured"}
BATCH_NORM = ("structured.refit=batch_norm", "recover.method=bn")
FITTED = ("structured.refit=closed_form", "recover.method=none")
AFTER = {
    "nothing": ("structured.refit=none", "recover.method=none"),
    "batch norm": BATCH_NORM,
    "each layer": (*FITTED, "structured.refit_rounds=0"),
    "pairs": (*FITTED, "structured.refit_rounds=6"),
    "pairs, distilled": ("structured.refit=closed_form", "structured.refit_rounds=6", "recover.method=distill"),
}
OUTSIDE = {"L2": "l2", "Taylor": "taylor", "Hessian": "hessian"}


@dataclass(frozen=True)
class Method:
    """What a channel is worth, how many go where, and what follows the cut; of the product or of torch-pruning."""

    score: str
    widths: str
    after: str
    outside: bool = False

    @property
    def title(self) -> str:
        return f"torch-pruning {self.score}" if self.outside else self.score

    @property
    def name(self) -> str:
        return f"{self.title}, {self.widths}, {self.after}"

    @property
    def settings(self) -> tuple[str, ...]:
        if self.outside:
            return BATCH_NORM
        return (f"structured.score={self.score}", f"structured.allocation={WIDTHS[self.widths]}", *AFTER[self.after])


def methods() -> dict[str, Method]:
    """All rows by name: the parts alone and together, the scores with the same refit, as usual, and torch-pruning's."""
    parts = [
        Method(score, widths, after)
        for after, widths, score in product(list(AFTER)[:-1], ("global", "measured"), ("l1", "obs"))
    ]
    fitted = [Method(score, "measured", "pairs") for score in CHANNEL_SCORES]
    outside = [Method(name, "global", "batch norm", outside=True) for name in OUTSIDE]
    usual = [Method(score, widths, "batch norm") for score, widths in product(CHANNEL_SCORES, ("uniform", "global"))]
    distilled = Method("obs", "measured", "pairs, distilled")
    return {method.name: method for method in (*parts, *fitted, *outside, *usual, distilled)}


@dataclass(frozen=True)
class Cut:
    """A row: a method at a cut with a seed."""

    method: Method
    cut: float
    seed: int

    @property
    def key(self) -> str:
        return f"{self.method.name} | {self.cut:g} | {self.seed}"

    @property
    def folder(self) -> str:
        return re.sub(r"[^a-zA-Z0-9.]+", "_", self.key).lower()

    def words(self, config: str, checkpoint: str, settings: Iterable[str]) -> list[str]:
        """Its command, without the program and the folder of its results."""
        asked = ["-c", config, "--checkpoint", checkpoint, "--target-flops-reduction", f"{self.cut:g}"]
        asked += ["--seed", str(self.seed)]
        command = [OUTSIDE[self.method.score]] if self.method.outside else ["prune-structured", "--no-fine-tune"]
        return [*command, *asked, *self.method.settings, *settings]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-c", "--config", default=CONFIG)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--cuts", nargs="+", type=float, default=[0.5169], help="shares of the multiply-accumulates")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--images", type=int, default=1024, help="calibration images, for whatever needs some")
    parser.add_argument("--methods", nargs="+", default=["*"], help="only these rows, by name or pattern, in order")
    parser.add_argument("--no-run", action="store_true", help="write the report of the rows that are there")
    parser.add_argument("--out", type=Path, default=Path("results/published/structured"))
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_intermixed_args()

    start_screen()
    wanted = chosen(options.methods)
    images = ("structured.calibration_images", "recover.bn_images", "recover.images")
    settings = [*(f"{key}={options.images}" for key in images), "threads=1", *options.overrides]
    cfg = load(options.config, settings, {"checkpoint": options.checkpoint})
    cfg.profile.backend, cfg.profile.runs = "onnxruntime", ROUNDS
    check(cfg, "prune-structured", options.config)
    device = start.start(cfg)
    dense = start.open_network(Path(options.checkpoint), cfg, start.open_data(cfg)).model

    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "rows.yaml"
    rows = read_yaml(file) if file.exists() else {}
    asked = [Cut(wanted[name], cut, seed) for seed in range(options.seeds) for cut in options.cuts for name in wanted]
    for row in [] if options.no_run else asked:
        if row.key in rows:
            continue
        LOGGER.info("\n%s", row.key)
        folder = options.out / "runs" / row.folder
        measured = measure(row, row.words(options.config, options.checkpoint, settings), folder)
        model = load_checkpoint(folder / "pruned_model.pth")
        latency = latencies(cfg, dense, model.model, model.recipe, device)
        rows[row.key] = {
            "method": row.method.name,
            "at": f"{100 * row.cut:g}% fewer multiply-accumulates",
            "seed": row.seed,
            **measured,
            "latency": latency,
            "command": shown(row, row.words(options.config, Path(options.checkpoint).name, settings)),
        }
        write_yaml(file, rows)
        LOGGER.info("%.2f%%, %.0f s", measured["accuracy"], measured["seconds"])
    found = list(rows.values())
    if not found:
        raise BootcampError(f"{file}: holds no row yet. Run without --no-run.")
    machine = to_plain(environment(device))
    about = {"config": options.config, "checkpoint": Path(options.checkpoint).name, "images": options.images}
    everything = {"dense": found[0]["dense"], "settings": about, "rows": found, "environment": machine}
    write_yaml(options.out / METRICS, everything)
    write_text(options.out / "report.md", report(cfg, options.images, found, str(machine["device"])))
    LOGGER.info("\n%s\nWritten to %s", (options.out / "report.md").read_text(), options.out)


def chosen(patterns: Sequence[str]) -> dict[str, Method]:
    """The methods that match, in the order of the patterns."""
    known = methods()
    names: list[str] = []
    for pattern in patterns:
        if not (matching := fnmatch.filter(known, pattern)):
            raise BootcampError(unknown("row", pattern, known), where="--methods")
        names += matching
    return {name: known[name] for name in dict.fromkeys(names)}


def shown(row: Cut, words: Sequence[str]) -> str:
    """The command as a reader would type it."""
    program = f"python benchmarks/{TORCH_PRUNING.name}" if row.method.outside else "pruning-bootcamp"
    return f"{program} {shlex.join(words)}"


def measure(row: Cut, words: Sequence[str], folder: Path) -> dict[str, Any]:
    """The row's command, run to its end in a process of its own, and what it wrote."""
    program = [str(TORCH_PRUNING)] if row.method.outside else ["-m", "pruning_bootcamp"]
    process = subprocess.Popen([sys.executable, *program, *words, "--save-dir", str(folder)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = code = os.waitstatus_to_exitcode(status)
    if code not in (0, 3):  # 3: more accuracy lost than the goal allows
        raise BootcampError(f"{row.key}: its command ended with exit code {code}; see above.")
    metrics = read_yaml(folder / METRICS)
    kilobytes = usage.ru_maxrss / 1024 if sys.platform == "darwin" else usage.ru_maxrss
    return {
        "accuracy": metrics["accuracy"],
        "dense": metrics["baseline"]["accuracy"],
        "test_images": metrics["test_images"],
        "flops_reduction_pct": round(metrics["flops_reduction_pct"], 2),
        "seconds": metrics["seconds"] if row.method.outside else seconds_of(read_yaml(folder / "status.yaml")),
        "peak_memory_mib": round(kilobytes / 1024),
        "widths": metrics["widths"],
        "fall_backs": metrics["fall_backs"],
    }


def seconds_of(status: Mapping[str, Any]) -> float:
    """What the steps of the pruning took: all but opening the network, counting and the test split."""
    steps = [step for step in status["steps"] if step["name"].startswith("1-")]
    return round(sum(step["seconds"] or 0.0 for step in steps), 1)


def latencies(
    cfg: Config, dense: nn.Module, cut: nn.Module, recipe: Any, device: torch.device
) -> dict[int, dict[str, float | int | None]]:
    """Time of the cut network over the dense one's by batch size, timed in turn; the interval is of the median."""
    found: dict[int, dict[str, float | int | None]] = {}
    for batch in BATCHES:
        cfg.profile.batch_size = batch
        (stats,) = time_asked(cfg, {"dense": dense, "cut": cut}, recipe, device).values()
        ratio = stats["cut"].ratio_to(stats["dense"])
        assert ratio is not None, "the two were timed in the same rounds"
        found[batch] = {
            "ratio": round(ratio.median, 4),
            "low": round(ratio.low, 4),
            "high": round(ratio.high, 4) if ratio.bounded else None,
            "pairs": ratio.n,
            "dense_ms": round(stats["dense"].median_ms, 4),
            "cut_ms": round(stats["cut"].median_ms, 4),
        }
    return found


def report(cfg: Config, images: int, rows: Sequence[Mapping[str, Any]], machine: str) -> str:
    """The tables in Markdown, a line a method: mean and standard deviation over the seeds."""
    known, lines = methods(), [f"# Channels of {cfg.model.name} cut without training, {cfg.data.name}", ""]
    lines += [
        f"Accuracy (%) on {rows[0]['test_images']} test images, read once a row; dense: {rows[0]['dense']:.2f}. "
        f"{images} training images for all that is measured or fitted, the same for every row of a seed, without "
        "labels but for the scores taylor, fisher and torch-pruning's Taylor and Hessian. Batch norm is re-estimated "
        "on the same, augmented. Mean, and standard deviation over the seeds (n in brackets).",
        "",
        "- widths: uniform, the same share of every group; global, one ranking; measured, by what the output loses",
        "- then: nothing; batch norm re-estimated; each layer fitted in closed form; pairs of layers fitted together",
        "  (six rounds); distilled, after that, from the dense network without labels",
        "- seconds, of choosing, cutting and fitting, and peak memory (resident set of the process, test included): "
        "median; one thread of a machine that other work shared",
        "- latency: time in ONNX Runtime, one thread, over the dense network's, timed in turn; 95% interval of the "
        "median of the first seed's network",
        "- torch-pruning: its importance and its pruner in one shot, on the groups that the product may cut; Hessian "
        "is given squared gradients of all images (its own accumulate_grad keeps the last one's alone)",
    ]
    for at in dict.fromkeys(row["at"] for row in rows):
        here = [row for row in rows if row["at"] == at]
        by_name = {name: own for name in known if (own := [row for row in here if row["method"] == name])}
        header = ["score", "widths", "then", "accuracy", "fewer", "seconds", "MiB"]
        header += [f"latency, batch {batch}" for batch in BATCHES]
        cells = [line(known[name], own) for name, own in by_name.items()]
        lines += ["", f"## {at}", "", markdown_table(header, cells), ""]
        lines += [f"Not run: {not_run(method for name, method in known.items() if name not in by_name)}."]
    lines += ["", "## Commands", "", "The first seed's; the others differ in --seed.", "", "```"]
    lines += [str(row["command"]) for row in rows if row["seed"] == 0]
    return "\n".join([*lines, "```", "", f"Measured on {machine}; every figure is in {METRICS}."]) + "\n"


def not_run(left: Iterable[Method]) -> str:
    """The methods without a row, those with the same widths and the same fit together."""
    scores: dict[str, list[str]] = {}
    for method in left:
        scores.setdefault(f"{method.widths}, {method.after}", []).append(method.title)
    return "; ".join([*(f"{', '.join(names)} ({rest})" for rest, names in scores.items()), "NVIDIA ModelOpt"])


def line(method: Method, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A method's cells at one cut."""
    accuracy = spread([row["accuracy"] for row in rows])
    assert accuracy is not None
    fewer = statistics.mean(row["flops_reduction_pct"] for row in rows)
    seconds, memory = (statistics.median(row[key] for row in rows) for key in ("seconds", "peak_memory_mib"))
    return [
        method.title,
        method.widths,
        method.after,
        f"{accuracy.shown()} ({accuracy.n})",
        f"{fewer:.1f}%",
        f"{seconds:.0f}",
        f"{memory:.0f}",
        *(interval(rows[0]["latency"][batch]) for batch in BATCHES),
    ]


def interval(ratio: Mapping[str, Any]) -> str:
    """`0.71 (0.70 to 0.73)`."""
    high = "unbounded" if ratio["high"] is None else f"{ratio['high']:.2f}"
    return f"{ratio['ratio']:.2f} ({ratio['low']:.2f} to {high})"


if __name__ == "__main__":
    try:
        main()
    except BootcampError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
