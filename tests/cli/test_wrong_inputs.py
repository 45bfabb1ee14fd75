"""Wrong inputs: each gets a message that names the place and what to do, exit code 2, no traceback, nothing written.

`python tests/cli/test_wrong_inputs.py` prints the table.
"""

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

Run = Callable[[tuple[str, ...]], tuple[int, str]]
SMOKE = str(Path(__file__).resolve().parents[2] / "cfgs" / "smoke" / "digits.yaml")


@dataclass(frozen=True)
class Case:
    name: str
    arguments: tuple[str, ...]
    expected: tuple[str, ...]
    prepare: Callable[[Path], None] = lambda folder: None


class _Hostile:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.mkdir, ("owned",)


def _write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: _text(folder / name, text)


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _hostile(folder: Path) -> None:
    (folder / "evil.pth").write_bytes(pickle.dumps({"model": _Hostile()}))


def _weights(name: str, **changes: object) -> Callable[[Path], None]:
    """A plain state dict of a digits ResNet-20, with the classes, channels or values changed."""

    def prepare(folder: Path) -> None:
        from pruning_bootcamp.models import build_model

        model = build_model(
            str(changes.get("model", "cifar_resnet20")),
            classes=int(str(changes.get("classes", 10))),
            in_channels=int(str(changes.get("in_channels", 1))),
        )
        state = model.state_dict()
        if "nan" in changes:
            state["linear.weight"][0, 0] = float("nan")
        torch.save(state, folder / name)

    return prepare


def _images(folder: Path, *, broken: bool = False, classes: int = 2) -> None:
    from PIL import Image

    for part in ("train", "test"):
        for number in range(classes):
            place = folder / "images" / part / f"class{number}"
            place.mkdir(parents=True)
            for index in range(12):
                Image.new("RGB", (8, 8), (20 * index, 0, 0)).save(place / f"{index}.png")
    if broken:
        (folder / "images" / "train" / "class0" / "3.png").write_bytes(b"not an image")


PRUNE = ("prune-unstructured", "-c", SMOKE, "--checkpoint")
CASES = (
    Case("wrong key", ("train", "-c", SMOKE, "trian.epochs=1"), ("unknown key 'trian'", "Did you mean 'train'")),
    Case("wrong type", ("train", "-c", SMOKE, "train.lr=fast"), ("train.lr: 'fast' is not a number",)),
    Case("not key=value", ("train", "-c", SMOKE, "epochs"), ("'epochs': is not key=value",)),
    Case("missing config", ("train", "-c", "digist.yaml"), ("there is no such config", "Did you mean"), _write("digits.yaml", "")),
    Case("broken YAML", ("train", "-c", "x.yaml"), ("x.yaml: is not a valid config",), _write("x.yaml", "a: [1")),
    Case("unknown score", (*PRUNE, "w.pth", "--method", "magntude"), ("unknown score 'magntude'", "Did you mean 'magnitude'"), _weights("w.pth")),
    Case("unknown model", ("train", "-c", SMOKE, "model.name=cifar_resnet19"), ("unknown model 'cifar_resnet19'", "Did you mean")),
    Case("unknown dataset", ("train", "-c", SMOKE, "data.name=digit"), ("unknown dataset 'digit'", "Did you mean 'digits'")),
    Case("sparsity out of range", (*PRUNE, "w.pth", "--sparsity", "1.4"), ("prune.sparsity: 1.4 is not in [0, 1)",), _weights("w.pth")),
    Case("sparsity in percent", (*PRUNE, "w.pth", "--sparsity", "90"), ("Write 0.9 for 90%.",), _weights("w.pth")),
    Case("a setting as an option", ("train", "-c", SMOKE, "--epochs", "3"), ("No such option: --epochs", "train.epochs=VALUE")),
    Case("N above M", (*PRUNE, "w.pth", "--pattern", "4:2"), ("4:2",), _weights("w.pth")),
    Case("2:4 without quotes in YAML", ("train", "-c", "x.yaml"), ('Write "2:4" in quotes',), _write("x.yaml", "prune: {pattern: 2:4}\n")),
    Case("round_to is neither", ("prune-structured", "-c", SMOKE, "--checkpoint", "w.pth", "--round-to", "autp"), ("structured.round_to", "whole number", "'auto'"), _weights("w.pth")),
    Case("two budgets", ("prune-structured", "-c", SMOKE, "--checkpoint", "w.pth", "--sparsity", "0.5", "--target-flops-reduction", "0.5"), ("structured",), _weights("w.pth")),
    Case("missing checkpoint", ("eval", "-c", SMOKE, "--checkpoint", "best.pth"), ("there is no file best.pth",)),
    Case("corrupt checkpoint", ("eval", "-c", SMOKE, "--checkpoint", "w.pth"), ("w.pth",), _write("w.pth", "not a checkpoint")),
    Case("hostile pickle", ("eval", "-c", SMOKE, "--checkpoint", "evil.pth"), ("evil.pth", "of it was run"), _hostile),
    Case("checkpoint of another model", ("eval", "-c", SMOKE, "--checkpoint", "w.pth"), ("w.pth",), _weights("w.pth", model="vgg16_bn")),
    Case("wrong number of classes", ("eval", "-c", SMOKE, "--checkpoint", "w.pth"), ("class",), _weights("w.pth", classes=7)),
    Case("wrong channels", ("eval", "-c", SMOKE, "--checkpoint", "w.pth"), ("channel",), _weights("w.pth", in_channels=3)),
    Case("non-finite weights", ("eval", "-c", SMOKE, "--checkpoint", "w.pth"), ("linear.weight",), _weights("w.pth", nan=True)),
    Case("dataset folder missing", ("train", "data.name=imagefolder", "data.root=nowhere"), ("nowhere",)),
    Case("dataset folder empty", ("train", "data.name=imagefolder", "data.root=images"), ("images",), lambda folder: (folder / "images" / "train").mkdir(parents=True)),
    Case("a corrupt image", ("train", "data.name=imagefolder", "data.root=images"), ("3.png",), lambda folder: _images(folder, broken=True)),
    Case("one class only", ("train", "data.name=imagefolder", "data.root=images"), ("class",), lambda folder: _images(folder, classes=1)),
    Case("no such device", ("train", "-c", SMOKE, "--device", "cuda:9"), ("cuda:9",)),
    Case("save-dir is a file", ("train", "-c", SMOKE, "--save-dir", "taken"), ("taken",), _write("taken", "")),
    Case("unknown format", ("export", "-c", SMOKE, "--checkpoint", "w.pth", "--format", "onx"), ("unknown format 'onx'", "Did you mean 'onnx'"), _weights("w.pth")),
    Case("nothing to resume", ("train", "-c", SMOKE, "--resume"), ("no unfinished run",)),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_wrong_input_gets_a_message(case: Case, tmp_path: Path, run: Run) -> None:
    case.prepare(tmp_path)
    with contextlib.chdir(tmp_path):
        code, text = run(case.arguments)
    assert code == 2, text
    assert "Traceback" not in text
    for words in case.expected:
        assert words in text
    assert not (tmp_path / "owned").exists(), "the pickle was executed"
    assert not list(tmp_path.rglob("*.pth.tmp")) + list(tmp_path.rglob(".tmp-*"))
    assert not list(tmp_path.rglob("metrics.yaml"))


def print_table() -> None:
    """Each case in a process of its own, as a user would see it."""
    import tempfile

    print("| wrong input | exit | message |\n|---|---|---|")
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            case.prepare(Path(folder))
            program = [sys.executable, "-m", "pruning_bootcamp", *case.arguments]
            done = subprocess.run(program, cwd=folder, capture_output=True, text=True)
            message = done.stderr.strip().replace("\n", "<br>").replace("|", "\\|")
            print(f"| {case.name} | {done.returncode} | {message} |")


if __name__ == "__main__":
    print_table()
