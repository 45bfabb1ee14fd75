"""Functions of a user's own, from a file or an installed package, wherever a name can stand."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pruning_bootcamp.config import load
from pruning_bootcamp.listing import KINDS

Command = Callable[..., str]
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "plugins.md"
SMOKE = str(Path(__file__).resolve().parents[2] / "cfgs" / "smoke" / "digits.yaml")
ANY = ("goal.accuracy_drop=100", "goal.flops_reduction_pct=0")
ZEROS = ("prune-unstructured", "-c", SMOKE, *ANY, "fine_tune.enabled=false")

MINE = '''
from dataclasses import replace
from pathlib import Path

import torch

from pruning_bootcamp.plugins import facts
from pruning_bootcamp.tools.datasets import load_dataset


def tenth(weight, stats, *, power: float = 1.0):
    """|w|^power."""
    return weight.abs() ** power


@facts(needs=("grad",))
def slope(weight, stats):
    return stats["grad"].abs()


def wide(weight, stats):
    return torch.zeros(3)


def infinite(weight, stats):
    return weight / 0


def broken(weight, stats):
    return weight.no_such_thing


def alone(weight):
    return weight


NUMBER = 3


def first(group):
    """The channels that come first stay."""
    return -torch.arange(group.width, dtype=torch.double)


@facts(needs=("moments",))
def shown(group, *, moments):
    """How much their readers are shown of the channels, of one reader."""
    return moments[0].gram.diagonal()[moments[0].columns].sum(1)


def half(scores, sparsity):
    """Each layer its share, by another hand."""
    return {name: round(sparsity * score.numel()) for name, score in scores.items()}


def too_many(scores, sparsity):
    return {name: score.numel() + 1 for name, score in scores.items()}


def flat(score, count):
    """The lowest go, in one line."""
    keep = torch.ones(score.numel(), dtype=torch.bool, device=score.device)
    keep[score.flatten().argsort(stable=True)[:count]] = False
    return keep.reshape(score.shape)


def everything(score, count):
    return torch.ones_like(score, dtype=torch.bool)


def as_they_are(layerwise):
    """Nothing is moved."""
    return dict(layerwise.masks)


def straight(t):
    """t."""
    return t


def falling(t):
    return 1 - t if t < 1 else 1


def few_digits(*, root: Path, val_fraction: float, limit: int | None, count: int = 200):
    """The first digits."""
    splits = load_dataset("digits", val_fraction=val_fraction, limit=limit)
    return replace(splits, name="few", train=splits.train.subset(torch.arange(count)))


def no_splits(*, root, val_fraction, limit):
    return []


PROGRAM = """
import torch
network = torch.jit.load(path)
def run(images):
    with torch.inference_mode():
        return network(torch.from_numpy(images)).numpy()
"""


@facts(suffix=".traced", title="a traced module", program=PROGRAM)
def traced(model, example, path):
    """torch.jit.trace."""
    torch.jit.trace(model, example).save(str(path))
    return torch.jit.load(str(path))


def untold(model, example, path):
    pass
'''


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "mine.py").write_text(MINE)
    command(folder, "train", "-c", SMOKE)
    return folder


def metrics_in(folder: Path) -> dict:
    return yaml.safe_load((folder / "metrics.yaml").read_text())


@pytest.mark.parametrize(
    "settings",
    [
        ("--method", "mine.py:tenth", "prune.score.args.power=2"),
        ("--method", "mine.py:slope", "prune.calibration_images=64"),
        ("--mode", "mine.py:half"),
        ("--pattern", "mine.py:flat"),
        ("--solver", "mine.py:as_they_are"),
        ("--schedule", "mine.py:straight", "--iterative", "--num-iterations", "2"),
    ],
)
def test_each_choice_of_a_pruning(trained: Path, command: Command, settings: tuple[str, ...]) -> None:
    text = command(trained, *ZEROS, *settings, "--sparsity", "0.5", "--save-dir", f"results/{settings[1][8:]}")
    assert metrics_in(trained / "results" / settings[1][8:])["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert "running your own code, mine.py:" in text or settings[1] in text


def test_a_score_of_ones_own_is_what_its_formula_says(trained: Path, command: Command) -> None:
    command(trained, *ZEROS, "--method", "mine.py:tenth", "--save-dir", "results/by_mine")
    command(trained, *ZEROS, "--method", "l1", "--save-dir", "results/by_l1")
    same = ("sparsity", "accuracy", "loss")
    mine, l1 = (metrics_in(trained / "results" / name) for name in ("by_mine", "by_l1"))
    assert [mine[name] for name in same] == [l1[name] for name in same]


def test_the_default_folder_is_named_by_the_function_alone(trained: Path, command: Command) -> None:
    command(trained, *ZEROS, "--method", "mine.py:tenth", "--sparsity", "0.3")
    assert (trained / "results" / "unstructured" / "tenth_layerwise_sp0.3" / "metrics.yaml").exists()


def test_a_channel_score(trained: Path, command: Command) -> None:
    arguments = ("--method", "mine.py:first", "--sparsity", "0.5", "structured.allocation=local")
    command(trained, "prune-structured", "-c", SMOKE, *ANY, *arguments, "fine_tune.enabled=false")
    metrics = metrics_in(trained / "results" / "structured" / "first_sp0.5")
    assert metrics["slice_proof"]["passed"]


def test_a_channel_score_of_what_readers_are_shown(trained: Path, command: Command) -> None:
    arguments = ("--method", "mine.py:shown", "--sparsity", "0.5", "fine_tune.enabled=false")
    text = command(trained, "prune-structured", "-c", SMOKE, *ANY, *arguments)
    assert "Measuring 1 of 12 groups of channels" in text
    assert metrics_in(trained / "results" / "structured" / "shown_sp0.5")["slice_proof"]["passed"]


def test_a_dataset(trained: Path, command: Command) -> None:
    text = command(
        trained, "train", "-c", SMOKE, "data.name=mine.py:few_digits", "data.args.count=64", "--save-dir", "d"
    )
    assert "64 train" in text


def test_an_exporter(trained: Path, command: Command) -> None:
    text = command(trained, "export", "-c", SMOKE, "--format", "mine.py:traced")
    assert "a traced module export verified successfully" in text
    assert (trained / "results" / "baseline" / "model.traced").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--method", "mine.py:tent"), "prune.score.name: mine.py: unknown function 'tent'. Did you mean 'tenth'?"),
        (("--method", "mini.py:tenth"), "prune.score.name: mini.py:tenth: there is no file mini.py."),
        (("--method", "mini:tenth"), "prune.score.name: mini:tenth: there is no module 'mini'"),
        (("--method", "mine.py:NUMBER"), "prune.score.name: mine.py:NUMBER: is int, not a function."),
        (("--method", "mine.py:alone"), "mine.py:alone: takes (weight), and a score is a function of (weight, "),
        (("--method", "mine.py:tenth", "prune.score.args.powr=2"), "prune.score.args.powr: unknown setting 'powr'."),
        (("--method", "mine.py:tenth", "prune.score.args.power=x"), "prune.score.args.power: 'x' is not a number"),
        (("--method", "mine.py:wide"), "score mine.py:wide: gave a tensor of shape (3,), and a score of "),
        (("--method", "mine.py:infinite"), "score mine.py:infinite: gave "),
        (("--method", "mine.py:broken"), "score mine.py:broken: failed with AttributeError"),
        (("--mode", "mine.py:too_many"), "allocation mine.py:too_many: gave "),
        (("--pattern", "mine.py:everything"), "pattern mine.py:everything: gave 0 zeros, and a pattern gives"),
        (("prune.schedule=mine.py:falling", "prune.iterations=2"), "prune.schedule: mine.py:falling falls from 1 at 0"),
        (("data.name=mine.py:no_splits",), "dataset mine.py:no_splits: gave list, and a dataset is Splits"),
        (("data.name=mine.py:half",), "data.name: mine.py:half: takes (scores, sparsity), and a dataset is"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_it_is_said(trained: Path, command: Command, arguments: tuple[str, ...], says: str) -> None:
    assert says in command(trained, *ZEROS, *arguments, "--save-dir", "results/wrong", expect=2)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("half", "takes (scores, sparsity), and a format is a function of (model, example, path, *, settings)."),
        ("untold", "a format says suffix, title, program by @facts(...) of pruning_bootcamp.plugins."),
    ],
)
def test_an_exporter_that_can_not_be_used(trained: Path, command: Command, name: str, says: str) -> None:
    text = command(trained, "export", "-c", SMOKE, "--format", f"mine.py:{name}", expect=2)
    assert f"export.format: mine.py:{name}: {says}" in text


def test_a_file_beside_the_config_is_found_from_elsewhere(trained: Path, command: Command, tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "score.py").write_text(MINE)
    config = tmp_path / "configs" / "mine.yaml"
    config.write_text(Path(SMOKE).read_text() + "prune:\n  score: score.py:tenth\n  solver: score:as_they_are\n")
    cfg = load(config)
    assert cfg.prune.score.name == f"{tmp_path}/configs/score.py:tenth"
    assert cfg.prune.solver.name == f"{tmp_path}/configs/score.py:as_they_are"
    assert "valid" in command(trained, "validate", str(config), f"checkpoint={trained}/results/baseline/best_model.pth")


def test_what_is_in_the_file_is_part_of_the_run(trained: Path, command: Command) -> None:
    file, save = trained / "changing.py", ("--save-dir", "results/changing")
    file.write_text(MINE)
    command(trained, *ZEROS, "--method", "changing.py:tenth", *save)
    assert "already finished" in command(trained, *ZEROS, "--method", "changing.py:tenth", *save)
    file.write_text(MINE + "\n# another idea\n")
    assert "already finished" not in command(trained, *ZEROS, "--method", "changing.py:tenth", *save)


def test_a_whole_pipeline(trained: Path, command: Command) -> None:
    config = str(Path(SMOKE).parent / "pipeline.yaml")
    checkpoint = ("--checkpoint", "results/baseline/best_model.pth", "--save-dir", "results/pipeline")
    choices = ("prune.score=mine.py:tenth", "prune.solver=mine.py:as_they_are", "export.format=mine.py:traced")
    command(trained, "pipeline", "run", "-c", config, *ANY, *checkpoint, *choices)
    assert list((trained / "results" / "pipeline").rglob("model.traced"))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed distribution that brings a score and a channel score by entry points."""
    (tmp_path / "prune_extras.py").write_text(MINE)
    about = tmp_path / "prune_extras-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: prune-extras\nVersion: 1.0\n")
    points = {"scores": "tenth", "channel_scores": "first"}
    lines = [f"[pruning_bootcamp.{group}]\nfrom_extras = prune_extras:{name}\n" for group, name in points.items()]
    (about / "entry_points.txt").write_text(
        "\n".join([*lines, "[pruning_bootcamp.solvers]\ngone = prune_gone:solve\n"])
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_an_entry_point_is_a_name_like_ours(trained: Path, command: Command, package: Path) -> None:
    command(trained, *ZEROS, "--method", "from_extras", "prune.score.args.power=2", "--save-dir", "results/extras")
    assert metrics_in(trained / "results" / "extras")["sparsity"] == pytest.approx(0.5, abs=1e-3)
    text = command(trained, *ZEROS, "--method", "from_extra", expect=2)
    assert "unknown score 'from_extra'. Did you mean 'from_extras'?" in text
    text = command(trained, *ZEROS, "--solver", "gone", expect=2)
    assert "gone of prune-extras (prune_gone:solve): the import failed with ModuleNotFoundError" in text


def test_list_shows_what_is_installed_and_what_a_config_names(trained: Path, command: Command, package: Path) -> None:
    assert "from_extras" in command(trained, "list", "scores")
    (trained / "named.yaml").write_text("prune: {score: mine.py:slope}\n")
    text = command(trained, "list", "scores", "-c", "named.yaml")
    assert "mine.py:slope" in text
    assert "mine.py:slope" not in command(trained, "list", "scores")


def test_the_documents_example_runs_as_written(trained: Path, command: Command) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (lines,) = re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (trained / "my_scores.py").write_text(source)
    assert len(lines.splitlines()) == 3
    for line in lines.splitlines():
        words = [SMOKE if word == "cfgs/smoke/digits.yaml" else word for word in shlex.split(line)]
        command(trained, *words[1:], "goal.accuracy_drop=100", "goal.flops_reduction_pct=0")
    assert (trained / "results" / "unstructured" / "size_of_row_layerwise_sp0.5" / "metrics.yaml").exists()


def test_the_document_names_every_group() -> None:
    groups = set(re.findall(r"`(\w+)`", DOCUMENT.read_text().partition("as `list` writes it")[2].partition(")")[0]))
    assert groups == {name for name, (registry, _) in KINDS.items() if registry.plural is not None}
    assert all(registry.plural in (name, None) for name, (registry, _) in KINDS.items())
