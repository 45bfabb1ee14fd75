"""profile --what-would-pay, end to end, on a runtime whose time is known."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from clockwork import PACED, clockwork

from pruning_bootcamp.backends import BACKENDS
from pruning_bootcamp.config import load
from pruning_bootcamp.flow.commands import profile
from pruning_bootcamp.flow.steps import pays, ways
from pruning_bootcamp.pruning.channels import race, staircase
from pruning_bootcamp.results import Profile
from pruning_bootcamp.runs import read_results
from pruning_bootcamp.tools.latency import blocks

Command = Callable[..., str]
SMOKE = str(Path(__file__).resolve().parents[2] / "cfgs" / "smoke" / "digits.yaml")
DENSE = "results/baseline/best_model.pth"
ZEROS = """

@facts(tolerance=1e9)
def skipping(model, example, threads):
    "As quick as its weights are few."
    weights = [layer.weight for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    return timed("skipping", model, example, 1e-5 * sum(int(weight.count_nonzero()) for weight in weights))
"""


def steady(candidates: dict[str, Any], **settings: Any) -> Any:
    """The clockwork; what has no time of its own takes five milliseconds."""
    for runner, _ in candidates.values():
        if not hasattr(runner.run, "milliseconds"):
            runner.run.__dict__["milliseconds"] = 5.0
    found = clockwork(candidates, **settings)
    return {
        name: replace(found[name], precision=runner.precision, version=runner.version)
        for name, (runner, _) in candidates.items()
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    folder = tmp_path_factory.mktemp("pays")
    command(folder, "train", "-c", SMOKE)
    (folder / "own.py").write_text(PACED + ZEROS)
    return folder


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pays, ways, blocks, race, staircase):
        monkeypatch.setattr(module, "compare_latencies", steady)
    real = pays.lacking

    def lacking(entry: Any, device: torch.device | None = None) -> list[str]:
        if entry.name.startswith("openvino"):  # whether it is installed here or not
            return ["needs openvino, which is not installed: pip install it"]
        return real(entry, device)

    monkeypatch.setattr(pays, "lacking", lacking)


def answers(folder: Path, place: str = "results/baseline") -> dict[str, Any]:
    found = read_results(Profile, folder / place / "profile.yaml").would_pay
    assert found is not None
    return {answer.question: answer for answer in found}


@pytest.mark.slow
def test_a_dense_network_alone_is_enough_and_the_next_command_runs(trained: Path, command: Command) -> None:
    said = command(
        trained, "profile", "-c", SMOKE, "--what-would-pay", "--baseline", DENSE, "--backend", "own.py:paced"
    )
    found = answers(trained)
    assert list(found) == ["backend", "widths", "int8", "zeros"]
    assert "none is certainly quicker than own.py:paced" in found["backend"].answer
    notes = {one.name: one.note for one in found["backend"].options if one.verdict is None}
    assert "not installed" in notes["openvino"]
    assert "--backend compile" in notes["compile"]
    widths = {one.name: one for one in found["widths"].options}
    assert list(widths) == ["widths as they fall", "multiples of 4", "multiples of 8", "multiples of 16"]
    assert (widths["multiples of 8"].speedup or 0) > (widths["widths as they fall"].speedup or 0)
    assert "certainly" not in found["widths"].answer
    (int8,) = (one for one in found["int8"].options if one.verdict is not None)
    assert (int8.name, int8.against, int8.verdict) == ("onnxruntime_int8", "onnxruntime", "can't tell")
    assert "nothing to use" in found["zeros"].answer
    assert "Baseline vs Pruned" not in said
    profile = yaml.safe_load((trained / "results/baseline/profile.yaml").read_text())
    assert profile["next_command"] == found["widths"].command
    assert said.rstrip().splitlines()[-3].endswith(f"Next, with the same -c and settings: {profile['next_command']}")
    assert f"prune-structured --checkpoint {DENSE} --target-latency-reduction" in profile["next_command"]
    command(trained, "report", "--results", "results")
    summary = (trained / "results" / "summary.md").read_text()
    assert "## What would pay" in summary
    assert "Fewer channels, and in which multiples?" in summary
    words = profile["next_command"].split()[1:]
    command(
        trained,
        *(words[0], "-c", SMOKE, *words[1:], "--no-fine-tune", "structured.score=l1", "structured.allocation=global"),
        *("goal.accuracy_drop=100", "data.limit=96", "--save-dir", "followed"),
    )
    assert yaml.safe_load((trained / "followed" / "metrics.yaml").read_text())["goal_met"]


@pytest.mark.slow
def test_zeros_that_a_backend_skips_are_found_without_a_word_in_the_registry(trained: Path, command: Command) -> None:
    command(
        trained,
        *("prune-unstructured", "-c", SMOKE, "--checkpoint", DENSE, "--sparsity", "0.8", "--no-fine-tune"),
        *("--save-dir", "zeros", "data.limit=96", "recover.method=none", "goal.accuracy_drop=100"),
        expect=None,
    )
    command(
        trained,
        *("profile", "-c", SMOKE, "--what-would-pay", "--baseline", DENSE, "--pruned", "zeros/pruned_model.pth"),
        *("--backend", "own.py:skipping", "--no-measure-latency", "--save-dir", "results/baseline"),
    )
    found = answers(trained)["zeros"]
    verdicts = {one.name: one.verdict for one in found.options}
    assert verdicts["own.py:skipping"] == "quicker"
    assert verdicts["torch"] == "can't tell"
    assert "own.py:skipping uses them" in found.answer


def test_a_network_that_can_not_be_cut_gets_the_other_answers(
    trained: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (trained / "lone.py").write_text(
        "from torch import nn\n\n\n"
        "def lone(*, classes, in_channels=1):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, classes))\n"
    )
    network = ("model.name=lone.py:lone", "model.args={}")
    command(trained, "train", "-c", SMOKE, *network, "--save-dir", "lone")
    said = command(
        trained,
        *("profile", "-c", SMOKE, *network, "--what-would-pay", "--pruned", "lone/best_model.pth"),
        *("--backend", "own.py:even", "--save-dir", "results/baseline"),
    )
    assert "Nothing can be cut of it" in said
    assert set(answers(trained)) == {"backend", "widths", "int8", "zeros"}


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("structured.max_sparsity=0.1", "It can't be cut to half of its multiply-accumulates: "),
        ("structured.exclude=['*']", "Nothing can be cut of it: "),
    ],
)
def test_what_the_config_keeps_from_being_cut_stays(
    trained: Path, command: Command, monkeypatch: pytest.MonkeyPatch, setting: str, said: str
) -> None:
    monkeypatch.setattr(pays, "_prepare_all", lambda subject: only(subject, "own.py:even"))
    command(
        trained,
        *("profile", "-c", SMOKE, "--what-would-pay", "--baseline", DENSE, "--backend", "own.py:even", setting),
        *("--save-dir", "kept"),
    )
    (answer,) = (one for one in answers(trained, "kept").values() if one.question == "widths")
    assert answer.answer.startswith(said)
    assert answer.command is None


def only(subject: Any, name: str) -> None:
    subject.runners[name] = subject.prepared(name, subject.network.model)


def test_an_ordinary_profile_names_it_as_the_next_step_and_loses_nothing_by_it(trained: Path, command: Command) -> None:
    ours = ("--backend", "own.py:paced,own.py:even", "--batch-size", "2", "--threads", "1")
    said = command(trained, "profile", "-c", SMOKE, "--baseline", DENSE, "--pruned", DENSE, *ours, "profile.runs=3")
    (line,) = (line for line in said.splitlines() if line.startswith("What would make it quicker here"))
    why, _, following = line.partition(": pruning-bootcamp ")
    assert why.endswith("with the same -c and settings")
    assert following.split() == ["profile", "--pruned", DENSE, "--what-would-pay", *ours]
    path = trained / "results/baseline/profile.yaml"
    before = yaml.safe_load(path.read_text())
    assert {"baseline", "latency", "backends", "analysis"} <= set(before)
    assert "would_pay" not in before
    command(trained, *following.split(), "-c", SMOKE, "profile.runs=3")
    after = yaml.safe_load(path.read_text())
    assert after.pop("would_pay")
    after.pop("next_command", None)
    assert after == before
    command(trained, "report", "--results", "results")
    assert "FLOPs against latency" in (trained / "results" / "summary.md").read_text()


def test_the_callers_config_stays_as_it_is(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    cfg = load(SMOKE, ["profile.what_would_pay=true", "device=cpu"])
    profile(cfg, baseline=DENSE, dry_run=True)
    assert cfg.checkpoint is None


def test_every_backend_that_takes_minutes_says_so() -> None:
    assert [entry.name for entry in BACKENDS.entries() if entry.facts.get("minutes")] == ["compile"]
