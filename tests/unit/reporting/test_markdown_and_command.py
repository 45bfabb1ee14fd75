"""The report as it is typed and read: files, Markdown, a CSV; harmless whatever a run is named."""

import csv
from pathlib import Path

import pytest
import torch
from click.testing import Result
from result_folders import write_comparison, write_profile, write_run, write_scan, write_sweep
from typer.testing import CliRunner

from pruning_bootcamp.checkpoints import Recipe, save_checkpoint
from pruning_bootcamp.cli import app
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.models import build_model
from pruning_bootcamp.reporting.command import report
from pruning_bootcamp.reporting.document import plain


@pytest.fixture
def results(tmp_path: Path) -> Path:
    root = tmp_path / "results"
    write_comparison(root)
    write_profile(root / "l1_0")
    write_scan(root)
    write_sweep(root)
    return root


def text_of(root: Path, format: str = "md") -> str:  # noqa: A002
    return report(root, format).read_text()


def squeezed(text: str) -> list[str]:
    """Lines without the padding of tables."""
    return [" ".join(line.split()) for line in text.splitlines()]


def test_the_markdown_holds_every_part_with_its_figures(results: Path) -> None:
    lines = squeezed(text_of(results))
    headings = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    assert headings == [
        "Recommendations",
        "Baselines",
        "All runs",
        "Methods compared",
        "What is given for what",
        "Ablations",
        "Layer by layer",
        "FLOPs against latency",
        "Sensitivity",
        "Sweeps",
        "Failure cases",
        "Fairness card",
        "Machines and versions",
    ]
    for golden in (
        "| cifar_resnet20 on digits | dense | one seed | 93.00 | 92.00 | 449 | 0.04 | 0.27 |",
        "| l1_1 | l1, global | 50% fewer FLOPs | 1 | 92.20 | 91.20 | 0.80 | 50.0 | 0.00 "
        "| 0.27 | ✓ met | prune-structured | digits |",
        "| l1, global: 50% fewer FLOPs | 3 seeds | – | 92.20 ± 0.20 | 91.20 ± 0.20 | 0.80 ± 0.20 | 50.0 ± 0.0 "
        "| 0.00 ± 0.00 | 3 of 3 | ✓ FLOPs |",
        "| l1_0 | 50.0 | 10.0 | 40.0 | 1.000 (0.900 to 1.200, 100) | 0.900 (0.900 to 1.200, 100) | – within the spread "
        "| batch 1, torch on cpu (a CPU), 1 thread |",
        "| conv1 | 85.00 | 40.00 |",
        "| 0 | complete | l1 | 92 | 0.02 | ✓ on the front |",
        "| Random pruning at the same budget, fitted alike | ✗ no | missing at 90% zeros |",
        "*Only structured.score differs between these rows, by their config.yaml*",
    ):
        assert golden in lines, golden


def test_validation_and_test_accuracy_never_share_a_column(results: Path) -> None:
    for line in text_of(results).splitlines():
        if line.startswith("|") and "ccuracy" in line:
            for header in line.split("|"):
                assert not ("alidation" in header and "est acc" in header), header
    assert "| Accuracy" not in text_of(results)


def test_the_csv_has_a_row_a_run(results: Path) -> None:
    report(results)
    rows = list(csv.DictReader((results / "summary.csv").open()))
    assert [row["name"] for row in rows] == ["dense", "l1_0", "l1_1", "l1_2", "random", "zeros"]
    assert (rows[1]["test_accuracy"], rows[1]["val_accuracy"], rows[1]["seed"]) == ("91.0", "92.0", "0")


def test_typed_again_it_is_made_anew_and_a_runs_own_report_stays(results: Path) -> None:
    (results / "l1_0" / "report.md").write_text("its own")
    assert "no sweeps" not in text_of(results)
    write_run(results, "late", "prune-structured", score="late", fewer=50.0)
    assert "late, global" in text_of(results)
    assert (results / "l1_0" / "report.md").read_text() == "its own"
    assert not list(results.rglob(".tmp-*"))


def test_layers_are_told_from_the_masks_of_the_checkpoint(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "zeros", "prune-unstructured", score="magnitude", sparsity=0.5)
    recipe = Recipe(
        model="cifar_resnet20", args={}, classes=10, in_channels=1, input_shape=(1, 8, 8), mean=(0.5,), std=(0.5,)
    )
    model = build_model(recipe.model, classes=10, in_channels=1, args={})
    weight = model.get_parameter("conv1.weight")
    mask = torch.ones_like(weight, dtype=torch.bool)
    mask[:4] = False  # 4 of 16 filters
    with torch.no_grad():
        weight *= mask
    save_checkpoint(folder / "pruned_model.pth", model, recipe, masks={"conv1.weight": mask})
    write_run(tmp_path, "gone", "prune-unstructured", score="random", sparsity=0.5)
    text = text_of(tmp_path)
    assert "| conv1 | 25.0 |" in squeezed(text)
    assert "random, global: 50% zeros: gone has no pruned_model.pth" in text


def test_layers_are_told_from_the_widths_of_a_cut_network(tmp_path: Path) -> None:
    write_run(tmp_path, "cut", "prune-structured", fewer=50.0, metrics={"widths": {"conv1": [16, 12]}})
    assert "| conv1 | 25.0 |" in squeezed(text_of(tmp_path))


def test_published_results_are_reported(tmp_path: Path) -> None:
    published = Path(__file__).resolve().parents[3] / "results" / "published"
    path = report(published, save_dir=tmp_path)
    lines = squeezed(path.read_text())
    row = next(line for line in lines if line.startswith("| magnitude, global: 90% zeros | 2 seeds |"))
    assert "| 50.53 ± 0.18 |" in row, "as results/published/one_shot_resnet20/report.md has it"
    assert any("pipeline_resnet20" in line and "| 96.28 | 90.87 |" in line for line in lines)


def test_wrong_formats_and_missing_plotly_are_said_before_any_work(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BootcampError, match=r"unknown format 'htm'\. Did you mean 'html'"):
        report(results, "htm")
    monkeypatch.setattr("pruning_bootcamp.pages.util.find_spec", lambda name: None)
    with pytest.raises(BootcampError, match=r"plotly, which is not installed.*pruning-bootcamp\[report\]"):
        report(results, "html")
    assert report(results, "md").exists(), "Markdown needs no plotly"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a|b", r"a\|b"),
        ("<script>", "&lt;script>"),
        ("[x](javascript:y)", r"\[x\](javascript:y)"),
        ("two\nlines", "two lines"),
        ("bn_scale", "bn_scale"),
        ("_under_ *star* `code`", r"\_under\_ \*star\* \`code\`"),
        ("&lt;", "&amp;lt;"),
    ],
)
def test_markdown_takes_nothing_from_a_file_for_markup(given: str, shown: str) -> None:
    assert plain(given) == shown


def test_the_command_line(results: Path, tmp_path: Path) -> None:
    def typed(*words: str) -> Result:
        return CliRunner().invoke(app, ["report", *words])

    done = typed("--results", str(results), "--format", "md", "--save-dir", str(tmp_path / "out"))
    assert done.exit_code == 0, done.exception
    assert "6 networks in 6 finished runs" in done.output
    assert (tmp_path / "out" / "summary.md").exists()
    missing = typed("--results", str(results) + "x")
    assert isinstance(missing.exception, BootcampError), "which __main__ prints, with exit code 2"
    assert "Did you mean" in str(missing.exception)
