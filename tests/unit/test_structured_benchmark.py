"""benchmarks/structured.py: two rows on digits as it runs them, its table from made-up rows, and its rows' names."""

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pruning_bootcamp.config import load
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.flow.commands import train
from pruning_bootcamp.pruning.channels.scores import CHANNEL_SCORES
from pruning_bootcamp.pruning.channels.structured import check_structured

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = str(REPOSITORY / "cfgs" / "digits.yaml")
TOOL = runpy.run_path(str(REPOSITORY / "benchmarks" / "structured.py"), run_name="structured")


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["structured.py", "-c", CONFIG, *words])
    TOOL["main"]()


@pytest.mark.slow
def test_two_rows_are_run_kept_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(TOOL["main"].__globals__, "BATCHES", (1,))  # of two, for time's sake
    small = ["train.epochs=1ep", "data.limit=300", "threads=1"]
    cfg = load(CONFIG, small, {"save_dir": "dense"})
    train(cfg)
    rows = ["l1, global, batch norm", "torch-pruning L2, global, batch norm"]
    words = [
        "--checkpoint",
        "dense/best_model.pth",
        "--cuts",
        "0.4",
        "--images",
        "64",
        "--out",
        "out",
        "data.limit=300",
    ]
    run(monkeypatch, *words, "--methods", *rows)
    content = yaml.safe_load(Path("out/metrics.yaml").read_text())
    assert [row["method"] for row in content["rows"]] == rows
    for row in content["rows"]:
        assert 40 <= row["flops_reduction_pct"] < 45
        assert row["dense"] == content["dense"]
        assert 50 < row["peak_memory_mib"] < 10_000
        assert row["seconds"] > 0
        assert row["widths"].keys() == content["rows"][0]["widths"].keys(), "both cut the same groups"
        assert row["latency"][1]["low"] <= row["latency"][1]["ratio"]
    text = Path("out/report.md").read_text()
    assert "Not run: l1, obs (global, nothing); " in text
    assert "NVIDIA ModelOpt" in text
    command = "pruning-bootcamp prune-structured --no-fine-tune -c"
    assert f"\n{command} {CONFIG} --checkpoint best_model.pth --target-flops-reduction 0.4 --seed 0 " in text

    def nothing_runs(*_: Any) -> None:
        raise AssertionError("a row that is there was run again")

    monkeypatch.setitem(TOOL["main"].__globals__, "measure", nothing_runs)
    run(monkeypatch, *words, "--methods", rows[0])
    assert len(yaml.safe_load(Path("out/metrics.yaml").read_text())["rows"]) == 2, "earlier rows stay in the report"


def test_every_row_is_a_config_that_the_product_accepts_and_every_score_is_there() -> None:
    known = TOOL["methods"]()
    for method in known.values():
        cfg = load(CONFIG, method.settings, {"structured.target_flops_reduction": 0.5})
        assert check_structured(cfg.structured) == []
    fitted = {method.score for method in known.values() if method.after == "pairs" and method.widths == "measured"}
    assert fitted == set(CHANNEL_SCORES)
    folders = [TOOL["Cut"](method, 0.5, 0).folder for method in known.values()]
    assert len(set(folders)) == len(known), "each row has a folder of its own"


def test_rows_are_chosen_by_name_or_pattern_in_the_order_asked() -> None:
    assert list(TOOL["chosen"](["obs, *, pairs", "l1, global, nothing"])) == [
        "obs, global, pairs",
        "obs, measured, pairs",
        "l1, global, nothing",
    ]
    with pytest.raises(BootcampError, match="Did you mean 'l1, global, nothing'"):
        TOOL["chosen"](["l1, global, nothin"])


def made_up(method: str, seed: int, accuracy: float) -> dict[str, Any]:
    ratio = {"ratio": 0.714, "low": 0.7, "high": None}
    return {
        "method": method,
        "at": "50% fewer multiply-accumulates",
        "seed": seed,
        "accuracy": accuracy,
        "dense": 91.73,
        "test_images": 10000,
        "flops_reduction_pct": 50.2,
        "seconds": 12.3,
        "peak_memory_mib": 900 + 2 * seed,
        "latency": {1: ratio, 16: ratio | {"high": 0.73}},
        "command": f"pruning-bootcamp --seed {seed}",
    }


def test_the_table_has_a_line_a_method_with_spread_and_n() -> None:
    cfg = load(CONFIG)
    rows = [made_up("random, global, batch norm", seed, accuracy) for seed, accuracy in enumerate((20.0, 22.0))]
    text = TOOL["report"](cfg, 64, [*rows, made_up("obs, measured, pairs", 0, 88.0)], "cpu")
    random = next(line for line in text.splitlines() if line.startswith("| random"))
    assert [cell.strip() for cell in random.strip("|").split("|")] == [
        "random",
        "global",
        "batch norm",
        "21.00 ± 1.41 (2)",
        "50.2%",
        "12",
        "901",
        "0.71 (0.70 to unbounded)",
        "0.71 (0.70 to 0.73)",
    ]
    assert "88.00 (1)" in text
    assert "pruning-bootcamp --seed 1" not in text
