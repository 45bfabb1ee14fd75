"""A config: short forms, overrides, ranges, and every problem in one go."""

from pathlib import Path

import pytest

from pruning_bootcamp.config import Choice, Config, as_dict, fingerprint, load
from pruning_bootcamp.errors import BootcampError


def write(folder: Path, text: str) -> Path:
    path = folder / "x.yaml"
    path.write_text(text)
    return path


def problems(path: Path | None, *overrides: str) -> list[str]:
    with pytest.raises(BootcampError) as caught:
        load(path, overrides)
    return [str(problem) for problem in caught.value.problems]


def test_no_file_is_the_defaults_and_they_survive_a_round_trip(tmp_path: Path) -> None:
    import yaml

    assert load(None) == Config()
    path = write(tmp_path, yaml.safe_dump(as_dict(Config())))
    assert load(path) == Config()


def test_file_then_options_then_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, "train: {epochs: 3, lr: 0.5}\nseed: 1\n")
    cfg = load(path, ["train.lr=0.25"], {"seed": 7})
    assert (cfg.train.epochs, cfg.train.lr, cfg.seed) == (3, 0.25, 7)


def test_short_forms() -> None:
    assert load(None, ["prune.score=l2"]).prune.score == Choice("magnitude", {"p": 2})
    assert load(None, ["prune.pattern=4:8"]).prune.pattern == Choice("nm", {"n": 4, "m": 8})
    assert load(None, ["prune.allocation=layerwise"]).prune.allocation == Choice("uniform")
    assert load(None, ["prune.score={name: taylor, args: {eps: 1}}"]).prune.score == Choice("taylor", {"eps": 1})


def test_another_name_drops_the_old_settings(tmp_path: Path) -> None:
    path = write(tmp_path, "train: {optimizer: {name: sgd, args: {momentum: 0.5}}}\n")
    assert load(path, ["train.optimizer.name=adamw"]).train.optimizer == Choice("adamw")
    assert load(path, ["train.optimizer.args.momentum=0.8"]).train.optimizer == Choice("sgd", {"momentum": 0.8})


def test_unquoted_two_of_four_is_explained(tmp_path: Path) -> None:
    (only,) = problems(write(tmp_path, "prune: {pattern: 2:4}\n"))
    assert only.startswith("prune.pattern: 124 is not a pattern")
    assert 'Write "2:4" in quotes' in only


def test_all_problems_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "prune: {sparsity: 1.4, scor: l1}\nseed: x\ntrian: {}\ntrain: {amp: off, lr: 0}\n")
    found = problems(path, "foo", "train.optimizer.args=3")
    assert len(found) == 8
    text = "\n".join(found)
    assert "prune.sparsity: 1.4 is not in [0, 1)." in text
    assert "Did you mean 'score'" in text
    assert "Did you mean 'train'" in text
    assert "'foo': is not key=value" in text
    assert "train.lr: 0.0 is not above 0." in text


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [1\n", "a: ${nope}\n", "\x00", "a: b: c\n", "a: 1\na: 2\n"])
def test_a_broken_file_is_a_message(tmp_path: Path, content: str) -> None:
    (only,) = problems(write(tmp_path, content))
    assert "x.yaml" in only
    assert "Traceback" not in only


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, "seed: 1\n")
    (only,) = problems(tmp_path / "y.yaml")
    assert "Did you mean" in only
    assert "x.yaml" in only


def test_the_fingerprint_follows_the_parts() -> None:
    one = fingerprint("train", {"train": {"lr": 0.1}, "seed": 0})
    assert one == fingerprint("train", {"seed": 0, "train": {"lr": 0.1}})
    assert one != fingerprint("train", {"seed": 1, "train": {"lr": 0.1}})
    assert one != fingerprint("eval", {"seed": 0, "train": {"lr": 0.1}})
