"""Files that are written: for whom, under which name, and what a link planted there can't do."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from pruning_bootcamp.checkpoints import Recipe, save_checkpoint
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.flow.outcomes import Outcome
from pruning_bootcamp.flow.status import Progress
from pruning_bootcamp.flow.step import Step
from pruning_bootcamp.models import build_model
from pruning_bootcamp.runs import TEMPORARY_PREFIX, atomic_path, open_run, remove_leftovers, write_text, write_yaml
from pruning_bootcamp.tools.datasets.cache import _write
from pruning_bootcamp.training.records import Best, Sums
from pruning_bootcamp.training.state import TrainingState, write_state

RECIPE = Recipe("cifar_resnet20", {}, 2, 1, (1, 8, 8), (0.5,), (0.25,))
_NOTHING_DONE = TrainingState(0, 0, {}, {}, {}, {}, [], [], Best(), Sums())


def _checkpoint(path: Path) -> None:
    save_checkpoint(path, build_model("cifar_resnet20", classes=2, in_channels=1), RECIPE)


def _careless(path: Path) -> None:
    """A library that puts a file of its own in the place of ours, open to everybody."""
    with atomic_path(path) as temporary:
        temporary.unlink()
        temporary.write_text("x")
        temporary.chmod(0o666)


def _status(path: Path) -> None:
    step = Step("a", "A", None, Outcome)
    board = Progress(path.parent, "name", "command", [step])
    board._written = 0.0
    board.tell(step, 1, 2, "half")


WRITERS: dict[str, Callable[[Path], None]] = {
    "text": lambda path: write_text(path, "x"),
    "yaml": lambda path: write_yaml(path, {"a": 1}),
    "checkpoint": _checkpoint,
    "training_state.pth": lambda path: write_state(path.parent, {}, _NOTHING_DONE),
    "cache": lambda path: _write(path, "f", torch.zeros(1, 1, 2, 2, dtype=torch.uint8)),
    "status.yaml": _status,
    "careless": _careless,
}


@pytest.fixture(params=[0o022, 0o077, 0o002, 0o000], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("writer", WRITERS)
def test_the_umask_holds_and_never_may_everybody_write(writer: str, umask: int, tmp_path: Path) -> None:
    path = tmp_path / (writer if "." in writer else "file")
    WRITERS[writer](path)
    mode = stat.S_IMODE(path.lstat().st_mode)
    assert mode == 0o664 & ~umask
    assert mode & 0o002 == 0


@pytest.mark.parametrize("writer", sorted(set(WRITERS) - {"careless"}))
def test_a_link_planted_under_the_temporary_name_is_not_followed(writer: str, tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / (writer if "." in writer else "file")
    victim.write_text("precious")
    planted = tmp_path / f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}"
    planted.symlink_to(victim)
    WRITERS[writer](path)
    assert victim.read_text() == "precious"
    assert path.is_file()
    assert not path.is_symlink()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([path.name, "victim"])


def test_a_link_planted_while_a_pipeline_tells_its_progress_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    step = Step("a", "A", None, Outcome)
    board = Progress(tmp_path, "name", "command", [step])
    (tmp_path / f"{TEMPORARY_PREFIX}{os.getpid()}-status.yaml").symlink_to(tmp_path / "victim")
    board._written = 0.0
    board.tell(step, 1, 2, "half")
    assert (tmp_path / "victim").read_text() == "precious"
    assert "half" in (tmp_path / "status.yaml").read_text()


def test_a_link_put_there_while_writing_is_not_made_the_result(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    with pytest.raises(BootcampError), atomic_path(tmp_path / "file") as temporary:
        temporary.unlink()
        temporary.symlink_to(tmp_path / "victim")
    assert os.listdir(tmp_path) == ["victim"]


def test_a_link_under_the_final_name_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "file").symlink_to(tmp_path / "victim")
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "victim").read_text() == "precious"
    assert (tmp_path / "file").read_text() == "new"
    assert not (tmp_path / "file").is_symlink()


def test_a_leftover_of_the_same_process_number_is_no_obstacle(tmp_path: Path) -> None:
    leftover = tmp_path / f"{TEMPORARY_PREFIX}{os.getpid()}-file"
    leftover.write_text("half of an earlier one, and longer than what comes now")
    leftover.chmod(0o400)
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_in_the_way_is_a_message(tmp_path: Path) -> None:
    (tmp_path / f"{TEMPORARY_PREFIX}{os.getpid()}-file").mkdir()
    with pytest.raises(BootcampError, match="file"):
        write_text(tmp_path / "file", "new")


def test_the_temporary_file_is_there_before_anybody_writes_and_is_ours_alone(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "file") as temporary:
        facts = temporary.lstat()
        assert stat.S_ISREG(facts.st_mode)
        assert (facts.st_size, facts.st_nlink, facts.st_uid) == (0, 1, os.geteuid())


def test_leftovers_with_impossible_numbers_are_left_alone(tmp_path: Path) -> None:
    """Found by trying: the system refuses to be asked for such a process, with an OverflowError."""
    names = [f"{TEMPORARY_PREFIX}{number}-x" for number in ("9" * 30, "4294967296", "٣", "-1", "")]
    for name in names:
        (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path)
    open_run(tmp_path, "train", {}, "f")
    assert set(names) <= set(os.listdir(tmp_path))


def test_a_planted_leftover_link_is_removed_and_its_target_stays(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / f"{TEMPORARY_PREFIX}{os.getpid()}-x").symlink_to(tmp_path / "victim")
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["victim"]
    assert (tmp_path / "victim").read_text() == "precious"
