"""benchmarks/course_claims.py: what it runs, where, and its table from made-up results; nothing is trained."""

import runpy
import sys
from pathlib import Path

import yaml

from pruning_bootcamp.course.reading import days

REPOSITORY = Path(__file__).resolve().parents[2]
TOOL = runpy.run_path(str(REPOSITORY / "benchmarks" / "course_claims.py"), run_name="course_claims")


def test_a_command_is_run_with_another_seed_and_from_another_folder() -> None:
    train, other = days()[0].steps
    config = str(REPOSITORY / "cfgs" / "digits.yaml")
    start = [sys.executable, "-m", "pruning_bootcamp", "train", "-c", config]
    assert TOOL["words_of"](train.command, 3) == [*start, "seed=3"]
    words = TOOL["words_of"](other.command, 3)
    assert words[words.index("--seed") + 1] == "1004", "no seed's own network"
    (impact,) = days()[15].steps
    words = TOOL["words_of"](impact.command, 3)
    assert words[:5] == [
        sys.executable,
        str(REPOSITORY / "benchmarks" / "importance_impact.py"),
        "-c",
        config,
        "seed=3",
    ]
    compare = "pruning-bootcamp curriculum compare"
    assert TOOL["words_of"](compare, 3)[2:] == ["pruning_bootcamp", "curriculum", "compare"]


def test_a_day_brings_those_that_it_builds_on() -> None:
    assert [day.number for day in TOOL["with_needed"]({14})] == [1, 4, 6, 10, 11, 12, 13, 14]
    assert [day.number for day in TOOL["with_needed"]({1})] == [1]


def test_the_table_says_how_often_a_claim_held_and_where_not(tmp_path: Path) -> None:
    for name, accuracy in (("seed0_threads1_native", 99.0), ("seed1_threads2_sse41", 96.0)):
        folder = tmp_path / name / "results" / "baseline"
        folder.mkdir(parents=True)
        (folder / "metrics.yaml").write_text(yaml.safe_dump({"accuracy": accuracy}))
    text = TOOL["table"](sorted(tmp_path.iterdir()))
    row = next(line for line in text.splitlines() if "dense" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:2] == ["1", "dense"]
    assert cells[3:] == ["1 of 2", "96 to 99", "seed1_threads2_sse41: 96"]
    assert "small_rate" not in text, "nothing of day 7 is there"


def test_another_processor_is_other_instructions() -> None:
    setting = TOOL["Setting"](0, 2, "sse41")
    assert setting.name == "seed0_threads2_sse41"
    assert setting.environment["OMP_NUM_THREADS"] == "2"
    assert setting.environment["ONEDNN_MAX_CPU_ISA"] == "SSE41"
    assert setting.environment["ATEN_CPU_CAPABILITY"] == "default"
