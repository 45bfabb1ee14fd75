"""What the check of an exported file catches, and what it leaves behind."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pruning_bootcamp.exporters as exporters
from pruning_bootcamp.errors import BootcampError, GoalNotMet
from pruning_bootcamp.exporters import EXPORTERS, export_model
from pruning_bootcamp.exporters.verify import fresh_inputs, verify_here, verify_in_new_process
from pruning_bootcamp.tools.latency import Runner

DOUBLE = nn.Linear(3, 3, bias=False)
with torch.no_grad():
    DOUBLE.weight.copy_(2 * torch.eye(3))
DOUBLE_IN_NUMPY = "def run(images):\n    return images * numpy.float32(2)\n"


def inputs(*sizes: int) -> dict[str, Tensor]:
    return fresh_inputs(torch.zeros(1, 3), sizes)


def test_fresh_inputs_have_the_shape_and_leave_torchs_generator_alone() -> None:
    state = torch.get_rng_state()
    found = fresh_inputs(torch.zeros(4, 3, 8, 8), (1, 7))
    assert [tuple(images.shape) for images in found.values()] == [(1, 3, 8, 8), (7, 3, 8, 8)]
    assert not torch.equal(found["batch of 7"][:1], found["batch of 1"])
    assert torch.equal(torch.get_rng_state(), state)


def test_both_differences_are_reported_and_the_relative_one_decides() -> None:
    big = {"batch of 1": torch.full((1, 3), 50.0)}
    found = verify_here(DOUBLE, Runner("t", lambda x: 2 * x + 1e-4), big, tolerance=1e-5)
    assert found.absolute == pytest.approx(1e-4, rel=0.1)
    assert found.relative == pytest.approx(1e-6, rel=0.1)
    small = {"batch of 1": torch.full((1, 3), 0.001)}
    with pytest.raises(GoalNotMet, match=r"differ by 1\.0e-04 .*1\.0e-04 relative.*less than 1\.0e-05"):
        verify_here(DOUBLE, Runner("t", lambda x: 2 * x + 1e-4), small, tolerance=1e-5)


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (lambda x: 2 * x if len(x) < 7 else 2 * x + 1, "for a batch of 7"),
        (lambda x: 2 * x * float("nan"), "differ by nan"),
        (lambda x: 2 * x[:1], r"gives shape \(1, 3\) for a batch of 2, the network \(2, 3\)"),
        (lambda x: x @ torch.ones(2, 2), "fails on a batch of 1: .*shapes cannot be multiplied"),
    ],
)
def test_a_wrong_file_is_caught(run: Callable[[Tensor], Tensor], says: str) -> None:
    with pytest.raises(GoalNotMet, match=says):
        verify_here(DOUBLE, Runner("t", run), inputs(1, 2, 7), tolerance=1e-5)


def test_the_new_process_runs_the_program_on_the_same_inputs(tmp_path: Path) -> None:
    found = verify_in_new_process(DOUBLE, tmp_path / "none", DOUBLE_IN_NUMPY, inputs(1, 5), tolerance=1e-5)
    assert found.absolute < 1e-6


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (DOUBLE_IN_NUMPY.replace("(2)", "(3)"), "differ by .* in a new process"),
        (DOUBLE_IN_NUMPY + "open(path)\n", "fails in a new process without the project: FileNotFoundError"),
        (
            DOUBLE_IN_NUMPY + "sys.modules['pruning_bootcamp'] = sys\n",
            "project: AssertionError: the project was imported",
        ),
    ],
)
def test_the_new_process_catches_what_this_one_cannot(program: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(GoalNotMet, match=says):
        verify_in_new_process(DOUBLE, tmp_path / "none", program, inputs(1), tolerance=1e-5)


def test_a_failure_in_the_new_process_removes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise GoalNotMet("the file fails in a new process without the project: gone")

    monkeypatch.setattr(exporters, "verify_in_new_process", fail)
    with pytest.raises(GoalNotMet, match=r"gone.*model\.pt was removed"):
        export_model(DOUBLE, torch.zeros(1, 3), tmp_path, format="torchscript")
    assert list(tmp_path.iterdir()) == []


def test_a_traced_batch_size_is_caught(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.ones(int(x.shape[0]), 1)  # int(): tracing writes the number down

    with pytest.raises(GoalNotMet, match="TorchScript"):
        export_model(Fixed(), torch.zeros(1, 3), tmp_path, format="torchscript")
    assert list(tmp_path.iterdir()) == []


def test_agreement_on_hardly_any_output_is_not_passed_off_as_proof(tmp_path: Path) -> None:
    model = nn.Linear(3, 3, bias=False)
    nn.init.zeros_(model.weight)
    report = export_model(model, torch.zeros(1, 3), tmp_path, format="onnx")
    assert report.verified
    assert "could hardly fail" in str(report)


def test_without_verification_the_report_says_so(tmp_path: Path) -> None:
    report = export_model(DOUBLE, torch.zeros(1, 3), tmp_path, format="torchscript", verify=False)
    assert (report.verified, report.new_process, report.max_difference, report.batch_sizes) == (False, False, None, ())
    assert "not verified" in str(report)
    assert report.path.exists()


def test_what_cannot_be_exported_is_said_before_any_work(tmp_path: Path) -> None:
    example = torch.zeros(1, 3)
    with pytest.raises(BootcampError, match=r"unknown format 'onxx'\. Did you mean 'onnx'"):
        export_model(DOUBLE, example, tmp_path, format="onxx")
    with pytest.raises(BootcampError, match="batch_sizes"):
        export_model(DOUBLE, example, tmp_path, format="onnx", batch_sizes=(0, 2))

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(BootcampError, match="gives tuple, not one row of class scores"):
        export_model(Pair(), example, tmp_path, format="onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_a_clear_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(BootcampError, match="a file stands where a folder is needed"):
        export_model(DOUBLE, torch.zeros(1, 3), tmp_path / "file", format="torchscript", verify=False)


def test_a_half_precision_network_is_shipped_in_float32(tmp_path: Path) -> None:
    model = nn.Linear(3, 3).to(torch.bfloat16)
    export_model(model, torch.zeros(1, 3), tmp_path, format="torchscript", verify=False)
    assert next(torch.jit.load(tmp_path / "model.pt").parameters()).dtype is torch.float32
    assert model.weight.dtype is torch.bfloat16


def test_every_format_has_the_facts_that_others_read() -> None:
    suffixes = [entry.facts["suffix"] for entry in EXPORTERS.entries()]
    assert len(set(suffixes)) == len(suffixes) >= 3
    assert all("run(" in entry.facts["program"] and entry.facts["title"] for entry in EXPORTERS.entries())
