"""A run's folder: whole files or none, another run's files kept, a finished run known again."""

import errno
import os
from pathlib import Path

import pytest

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.exporters import EXPORTERS
from pruning_bootcamp.runs import atomic_path, open_run, read_yaml, scratch_folder, write_text, write_yaml


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with pytest.raises(RuntimeError, match="halfway"), atomic_path(target) as temporary:
        temporary.write_text("new, but not who")
        raise RuntimeError("halfway")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EACCES, "no permission"),
        (errno.EROFS, "no permission"),
        (errno.EIO, "could"),
    ],
)
def test_a_failing_disk_is_a_message_and_leaves_nothing(tmp_path: Path, number: int, words: str) -> None:
    with pytest.raises(BootcampError, match=words), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("part")
        raise OSError(number, os.strerror(number))
    assert os.listdir(tmp_path) == []


def test_a_file_where_a_folder_is_needed_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(BootcampError, match="a file stands where a folder is needed"):
        write_text(tmp_path / "a" / "b.txt", "")


def test_yaml_keeps_order_and_comment(tmp_path: Path) -> None:
    write_yaml(tmp_path / "m.yaml", {"b": 1, "a": [1, 2]}, "first\nsecond")
    assert (tmp_path / "m.yaml").read_text().startswith("# first\n# second\nb: 1\na:")
    assert read_yaml(tmp_path / "m.yaml") == {"b": 1, "a": [1, 2]}
    (tmp_path / "m.yaml").write_text("- 1")
    with pytest.raises(BootcampError, match="not a table"):
        read_yaml(tmp_path / "m.yaml")


def test_a_finished_run_is_known_again_and_an_unfinished_one_is_not(tmp_path: Path) -> None:
    run = open_run(tmp_path / "r", "train", {"seed": 0}, "f1")
    assert run.finished() is None
    run.finish({"accuracy": 97.0})
    again = open_run(tmp_path / "r", "train", {"seed": 0}, "f1")
    assert again.finished() == {"accuracy": 97.0, "fingerprint": "f1", "status": "complete"}


def test_another_run_moves_the_old_files_aside_and_touches_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    open_run(folder, "train", {"seed": 0}, "f1").finish({"accuracy": 1.0})
    (folder / "notes.txt").write_text("the user's own")
    run = open_run(folder, "train", {"seed": 1}, "f2")
    assert run.finished() is None
    assert read_yaml(folder / "previous-1" / "metrics.yaml")["accuracy"] == 1.0
    assert (folder / "notes.txt").read_text() == "the user's own"
    assert read_yaml(folder / "config.yaml") == {"seed": 1}
    open_run(folder, "train", {"seed": 1}, "f2", fresh=True)
    assert (folder / "previous-2" / "config.yaml").exists()


@pytest.mark.parametrize(
    "name", ["layer_times.yaml", "search.yaml", *(f"model{EXPORTERS[n].facts['suffix']}" for n in EXPORTERS)]
)
def test_whatever_a_run_writes_goes_aside_with_it(name: str, tmp_path: Path) -> None:
    """A file of the run before would be read as this one's."""
    open_run(tmp_path, "export", {}, "f1")
    (tmp_path / name).write_text("old")
    open_run(tmp_path, "export", {}, "f2")
    assert not (tmp_path / name).exists()
    assert (tmp_path / "previous-1" / name).read_text() == "old"


def test_leftovers_of_dead_processes_go_and_living_ones_stay(tmp_path: Path) -> None:
    import subprocess
    import sys

    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".tmp-{dead.pid}-x.pth").write_text("half")
    (tmp_path / f".tmp-{os.getppid()}-y.pth").write_text("being written")
    open_run(tmp_path, "train", {}, "f1")
    assert not (tmp_path / f".tmp-{dead.pid}-x.pth").exists()
    assert (tmp_path / f".tmp-{os.getppid()}-y.pth").exists()


def test_a_scratch_folder_is_gone_afterwards() -> None:
    with scratch_folder() as folder:
        (folder / "file").write_text("x")
        assert folder.is_dir()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "no space left"), (errno.EROFS, "no permission to write")]
)
@pytest.mark.parametrize("where", ["making", "writing"])
def test_a_disk_without_room_for_scratch_files_is_a_message(
    number: int, words: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: object, *_: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    if where == "making":
        monkeypatch.setattr(os, "mkdir", fails)
    with pytest.raises(BootcampError, match=f"{words}.*TMPDIR=DIR"), scratch_folder() as folder:
        fails(folder / "file")


def test_an_error_about_a_file_elsewhere_is_not_the_scratch_folders() -> None:
    with pytest.raises(FileNotFoundError), scratch_folder():
        Path("/nowhere/file").read_text()
