"""How much sooner a sweep ends with two workers than with one, and how long a finished one takes when typed again.

    python benchmarks/sweep_speed.py -c cfgs/sweep/digits.yaml --trials 24 --rounds 1

Trains the dense network once, then runs the same grid with one worker and with two, in turn, each in a folder of its
own and each worker with one thread, so that the two differ in nothing but the workers. Two cores must be free for the
ratio to mean anything: the load of the machine is printed. Three to five minutes on two cores for digits.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = [sys.executable, "-m", "pruning_bootcamp"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", type=Path, default=Path("cfgs/sweep/digits.yaml"))
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    config = str(given.config.resolve())
    seconds: dict[int, list[float]] = {1: [], 2: []}
    again: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        run(scratch, "train", "-c", config, "--save-dir", "dense", "threads=1", "goal.evaluate_test=false")
        common = (
            "sweep",
            "-c",
            config,
            "--checkpoint",
            "dense/best_model.pth",
            "--trials",
            str(given.trials),
            "threads=1",
        )
        for number in range(given.rounds):
            for workers in (1, 2) if number % 2 == 0 else (2, 1):
                where = ("--workers", str(workers), "--save-dir", f"sweep_{workers}_{number}")
                print(f"round {number + 1}, {workers} workers, load {os.getloadavg()[0]:.1f}", flush=True)
                seconds[workers].append(run(scratch, *common, *where))
                again.append(run(scratch, *common, *where))
                print(f"  {seconds[workers][-1]:.1f} s; typed again {again[-1]:.1f} s", flush=True)
    one, two = (statistics.median(seconds[workers]) for workers in (1, 2))
    print(f"{given.trials} trials: {one:.1f} s with 1 worker, {two:.1f} s with 2: {one / two:.2f} times faster")
    print(f"a finished sweep typed again: {max(again):.1f} s at most, n {len(again)}")


def run(folder: str, *arguments: str) -> float:
    """Seconds that a command took; its output only when it failed."""
    began = time.perf_counter()
    done = subprocess.run([*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
