"""Ten thousand bad inputs for everything that reads a file: only BootcampError may come out, soon and in little memory.

    .venv/bin/python benchmarks/fuzz.py                                    10,000 inputs; about 5 minutes on one core
    .venv/bin/python benchmarks/fuzz.py --examples 500 --target config --seed 3

Ends in a table of what was accepted, refused (a message) and stray (any other exception, or too slow); exit code 1 when
there is a stray one, each with its input and traceback. What is drawn: tests/security/fuzzing.py.
"""

import argparse
import contextlib
import logging
import resource
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "security"))

from fuzzing import TARGETS, peak_mb, run

SHARES = {"config": 0.4, "checkpoint": 0.3, "sparse": 0.2, "data": 0.1}
MOST_GROWTH_MB = 2000
ADDRESS_SPACE = 16 * 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--examples", type=int, default=10_000, help="inputs over all targets")
    parser.add_argument("--target", choices=sorted(TARGETS), help="this one only")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    # what asks for more than this is stray, and does not take the machine down
    with contextlib.suppress(ValueError, OSError):  # not every system has this limit
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    targets = {options.target: 1.0} if options.target else SHARES
    print("| target | inputs | accepted | refused | stray | slowest (s) | seconds | memory grew (MB) |")
    print("|---|---|---|---|---|---|---|---|")
    strays: dict[str, str] = {}
    total = 0
    for name, share in targets.items():
        began, before = time.perf_counter(), peak_mb()
        outcomes = run(TARGETS[name], round(options.examples * share), options.seed)
        grew = peak_mb() - before
        counts = outcomes.counts
        total += counts.total()
        if grew > MOST_GROWTH_MB:
            outcomes.stray["memory"] = f"{name} grew by {grew:.0f} MB"
        strays |= {f"{name}: {place}": text for place, text in outcomes.stray.items()}
        figures = (counts.total(), counts["accepted"], counts["refused"], counts["stray"])
        seconds = time.perf_counter() - began
        print(f"| {name} | {' | '.join(map(str, figures))} | {outcomes.slowest:.2f} | {seconds:.0f} | {grew:.0f} |")
        sys.stdout.flush()
    for place, text in strays.items():
        print(f"\n=== {place}\n{text}")
    print(f"\n{total:,} inputs, seed {options.seed}: {len(strays)} kinds of stray exceptions")
    sys.exit(1 if strays else 0)


if __name__ == "__main__":
    main()
