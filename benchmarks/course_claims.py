"""How often each claim of the course holds: its days over seeds x threads x processors, one table at the end.

    .venv/bin/python benchmarks/course_claims.py --seeds 3 --threads 1,2 --isa native,sse41      12 courses, hours
    .venv/bin/python benchmarks/course_claims.py --days 1,16 --seeds 2 --threads 1               minutes
    .venv/bin/python benchmarks/course_claims.py --table                                         what there is so far

Each combination has a folder of its own under OUT, in which the days' commands are run as the scripts run them, with
`seed=N`. A day that is done is not run again: killed, the same command goes on. --isa names the instructions that torch
and oneDNN may use (ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA): sums are then formed in another order, as on another
processor. OUT/report.md has the table. What a day builds on is run with it. After a change of the code take
another OUT: what is there is taken as it is.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pruning_bootcamp.course.claims import Claim, judge
from pruning_bootcamp.course.day import Day
from pruning_bootcamp.course.reading import days
from pruning_bootcamp.logs import LOGGER, start_screen
from pruning_bootcamp.reporting import markdown_table
from pruning_bootcamp.runs import write_text

REPOSITORY = Path(__file__).resolve().parents[1]
INSTRUCTIONS: dict[str, dict[str, str]] = {
    "native": {},
    "sse41": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
}


@dataclass(frozen=True)
class Setting:
    """One way to run the course."""

    seed: int
    threads: int
    isa: str

    @property
    def name(self) -> str:
        return f"seed{self.seed}_threads{self.threads}_{self.isa}"

    @property
    def environment(self) -> dict[str, str]:
        threads = {"OMP_NUM_THREADS": str(self.threads)}
        return {**os.environ, "PYTHONPATH": str(REPOSITORY), **threads, **INSTRUCTIONS[self.isa]}


def words_of(command: str, seed: int) -> list[str]:
    """What to run for a day's command from another folder, with this seed in place of the config's."""
    program, *words = command.split()
    if program == "python":
        start, words = [sys.executable, str(REPOSITORY / words[0])], words[1:]
    else:
        start = [sys.executable, "-m", "pruning_bootcamp"]
    if "--seed" in words:  # day 1's other network: another one than any seed's own
        place = words.index("--seed") + 1
        words[place] = str(1000 + seed + int(words[place]))
    elif "-c" in words:
        words.insert(words.index("-c") + 2, f"seed={seed}")
    return start + [str(REPOSITORY / word) if word.startswith("cfgs/") else word for word in words]


def run_day(day: Day, setting: Setting, folder: Path) -> None:
    """Every command of the day in `folder`; a goal that is missed (exit 3) is a result like any other."""
    finished = folder / "days" / f"{day.number:02}"
    commands = "\n".join(step.command for step in day.steps)
    if finished.exists() and finished.read_text() == commands:
        return
    LOGGER.info("%s, day %d: %s", setting.name, day.number, day.title)
    folder.mkdir(parents=True, exist_ok=True)
    for step in day.steps:
        words = words_of(step.command, setting.seed)
        done = subprocess.run(words, cwd=folder, env=setting.environment, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 3):
            raise SystemExit(f"{setting.name}: {step.command}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    write_text(finished, commands)


def with_needed(numbers: set[int]) -> list[Day]:
    """The days of these numbers, and those that make what they read."""
    todo = set(numbers)
    while more := {needed for number in todo for needed in days()[number - 1].needs.values()} - todo:
        todo |= more
    return [day for day in days() if day.number in todo]


def tally(claim: Claim, folders: list[Path]) -> list[str]:
    """[name, what it says, held of judged, least to most (of an order: by how much), each that did not hold]."""
    verdicts = {folder.name: judge(claim, folder / "results") for folder in folders}
    judged = {name: verdict for name, verdict in verdicts.items() if verdict.holds is not None}
    failed = [f"{name}: {verdict.measured}" for name, verdict in judged.items() if not verdict.holds]
    values = [verdict.value for verdict in judged.values()]
    spread = f"{min(values):.5g} to {max(values):.5g}" if values else ""
    return [claim.name, str(claim.test), f"{len(judged) - len(failed)} of {len(judged)}", spread, "; ".join(failed)]


def table(folders: list[Path]) -> str:
    rows = [[str(day.number), *tally(claim, folders)] for day in days() for claim in day.claims]
    header = ["day", "claim", "says", "held", "least to most", "where not"]
    return markdown_table(header, [row for row in rows if not row[3].endswith("of 0")])


def settings_of(given: argparse.Namespace) -> Iterator[Setting]:
    """Seeds last to change least: after a few hours every thread count and processor has its first seed."""
    for seed in range(given.seeds):
        for isa in given.isa.split(","):
            for threads in given.threads.split(","):
                yield Setting(seed, int(threads), isa)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", help="numbers, like 1,7,16; all without it")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--isa", default="native,sse41", help=", ".join(INSTRUCTIONS))
    parser.add_argument("--out", type=Path, default=Path("results/course_claims"))
    parser.add_argument("--table", action="store_true", help="run nothing")
    given = parser.parse_args()
    unknown = set(given.isa.split(",")) - set(INSTRUCTIONS)
    if unknown:
        parser.error(f"--isa: {', '.join(unknown)} is not known. Available: {', '.join(INSTRUCTIONS)}")
    start_screen()
    out = given.out.resolve()
    numbers = {int(part) for part in given.days.split(",")} if given.days else {day.number for day in days()}
    for setting in () if given.table else settings_of(given):
        for day in with_needed(numbers):
            run_day(day, setting, out / setting.name)
    folders = sorted(path for path in out.glob("seed*") if path.is_dir())
    text = f"# The course's claims, {len(folders)} ways to run it\n\n{table(folders)}\n"
    write_text(out / "report.md", text)
    LOGGER.info("\n%s\n\nWritten to %s", text, out / "report.md")


if __name__ == "__main__":
    main()
