"""Files that would run code when opened: every way in refuses them, and the folder they would make is not there."""

import contextlib
import os
import pickle
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pruning_bootcamp import load_model, plugins
from pruning_bootcamp.checkpoints import NeedsRecipeError, Recipe, load_checkpoint, save_checkpoint
from pruning_bootcamp.checkpoints.files import read_file
from pruning_bootcamp.checkpoints.sparse import read_sparse
from pruning_bootcamp.config import load
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.models import build_model
from pruning_bootcamp.runs import METRICS, Run, cache_folder, read_yaml
from pruning_bootcamp.tools.datasets import load_dataset
from pruning_bootcamp.tools.datasets.formats import read_batch
from pruning_bootcamp.training.recovery import PLAN, _read_plan
from pruning_bootcamp.training.state import NAME, read_state

SMOKE = str(Path(__file__).resolve().parents[2] / "cfgs" / "smoke" / "digits.yaml")
RECIPE = Recipe("cifar_resnet20", {}, 10, 1, (1, 8, 8), (0.5,), (0.25,))
CommandLine = Callable[[tuple[str, ...]], tuple[int, str]]


def refused(action: Callable[[], object], marker: Path) -> str:
    with pytest.raises(BootcampError) as caught:
        action()
    assert not marker.exists(), "code out of the file was run"
    return str(caught.value)


# --- checkpoints

KINDS = ("zip", "legacy", "pickle", "protocol 5", "whole model", "own format", "state dict", "second pickle", "renamed")


def hostile_checkpoint(folder: Path, kind: str, hostile: Any) -> Path:
    """A file that makes the marker when it is unpickled without care."""
    path = folder / ("evil.safetensors" if kind == "renamed" else "evil.pth")
    model = build_model("cifar_resnet20", classes=10, in_channels=1)
    content: Any = {"state_dict": model.state_dict(), "x": hostile}
    if kind in ("pickle", "renamed"):
        path.write_bytes(pickle.dumps({"model": hostile}, protocol=2))
    elif kind == "protocol 5":
        path.write_bytes(pickle.dumps(hostile, protocol=5))
    elif kind == "second pickle":  # a good legacy file's first pickle is a number; here it is the attack
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)
        path.write_bytes(pickle.dumps(hostile, protocol=2) + path.read_bytes())
    elif kind == "state dict":
        torch.save(model.state_dict() | {"linear.bias": hostile}, path)
    elif kind == "whole model":
        model.hostile = hostile
        torch.save(model, path)
    elif kind == "own format":
        save_checkpoint(path, model, RECIPE)
        torch.save(torch.load(path, weights_only=True) | {"metrics": {"accuracy": hostile}}, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_no_way_of_opening_a_checkpoint_runs_it(kind: str, tmp_path: Path, hostile: Any, marker: Path) -> None:
    path = hostile_checkpoint(tmp_path, kind, hostile)
    ways = (
        lambda: load_checkpoint(path, recipe=RECIPE),
        lambda: load_checkpoint(path, trust_code=True),
        lambda: load_model(path),
        lambda: read_file(path),
        lambda: read_sparse(path),
    )
    for way in ways:
        assert "evil" in refused(way, marker)
    for suffix in (".th", ".pt", ".safetensors", ".bin"):  # the name decides nothing
        renamed = path.rename(path.with_suffix(suffix))
        refused(lambda path=renamed: read_file(path), marker)
        path = renamed
    if kind in ("pickle", "renamed", "protocol 5", "second pickle"):
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert marker.exists()  # the file was dangerous


@pytest.mark.parametrize("kind", ["zip", "pickle", "own format"])
def test_the_command_line_refuses_it(
    kind: str, tmp_path: Path, hostile: Any, marker: Path, run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile_checkpoint(tmp_path, kind, hostile)
    monkeypatch.chdir(tmp_path)
    for arguments in (("eval",), ("prune-unstructured", "--sparsity", "0.5"), ("export",)):
        code, text = run((*arguments, "-c", SMOKE, "--checkpoint", "evil.pth"))
        assert code == 2, text
        assert "evil.pth" in text
        assert "Traceback" not in text
    assert not marker.exists()


def test_torchscript_is_refused_and_none_of_it_is_run(tmp_path: Path, marker: Path) -> None:
    path = tmp_path / "script.pth"
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), path)
    assert "TorchScript" in refused(lambda: load_checkpoint(path, recipe=RECIPE), marker)


def test_names_in_an_archive_lead_nowhere(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "good.pth", build_model("cifar_resnet20", classes=10, in_channels=1), RECIPE)
    inside = tmp_path / "inside"
    inside.mkdir()
    with zipfile.ZipFile(tmp_path / "good.pth") as old, zipfile.ZipFile(inside / "m.pth", "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
        for name in ("../escaped", "/tmp/escaped", "good/../../escaped"):
            new.writestr(name, b"x")
    with contextlib.suppress(BootcampError):
        load_model(inside / "m.pth")  # entry by entry; nothing is unpacked
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["good.pth", "inside", "m.pth"]


def test_a_tar_of_the_oldest_torch_is_refused(tmp_path: Path, marker: Path) -> None:
    with tarfile.open(tmp_path / "old.pth", "w") as tar:
        link = tarfile.TarInfo("storages")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    refused(lambda: load_checkpoint(tmp_path / "old.pth", recipe=RECIPE), marker)


# --- what a run left behind


@pytest.mark.parametrize("zipped", [True, False])
def test_a_resume_point_is_not_unpickled(zipped: bool, tmp_path: Path, hostile: Any, marker: Path) -> None:
    torch.save({"about": {}, "x": hostile}, tmp_path / NAME, _use_new_zipfile_serialization=zipped)
    assert NAME in refused(lambda: read_state(tmp_path, {}), marker)


def _stopped_in_the_second_epoch(hook: object, state: Any) -> None:
    if state.epoch > 1:
        raise BootcampError("stopped here by the test")


def test_the_command_line_refuses_a_resume_point(
    tmp_path: Path, hostile: Any, marker: Path, run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = "train", "-c", SMOKE, "train.epochs=3", "train.checkpoint_seconds=0", "--save-dir", "r"
    with pytest.MonkeyPatch.context() as once:
        once.setattr("pruning_bootcamp.flow.status.WatchTraining.on_epoch_end", _stopped_in_the_second_epoch)
        run(words)
    (state,) = (tmp_path / "r").glob(f"stages/*/{NAME}")
    torch.save({"about": {}, "x": hostile}, state)
    code, text = run(words)
    assert code == 2, text
    assert NAME in text
    assert not marker.exists()


YAML_ATTACKS = (
    "!!python/object/apply:os.mkdir ['MARKER']",
    "!!python/object/new:os.mkdir ['MARKER']",
    "!!python/object/apply:subprocess.Popen [['mkdir', 'MARKER']]",
    "!!python/name:os.mkdir",
    "!!python/module:os",
    "!!python/object/apply:pathlib.Path ['MARKER']",  # OmegaConf's own loader builds this one
    "!!python/tuple [1]",
    "!anything {a: b}",
)


@pytest.mark.parametrize("attack", YAML_ATTACKS)
def test_yaml_tags_build_nothing(attack: str, tmp_path: Path, marker: Path) -> None:
    text = f"seed: {attack.replace('MARKER', str(marker))}\n"
    for name in ("config.yaml", METRICS, PLAN):
        (tmp_path / name).write_text(text)
    assert "tag" in refused(lambda: load(tmp_path / "config.yaml"), marker)
    assert "tag" in refused(lambda: load(None, [text.replace(": ", "=", 1)]), marker)
    for reader in (
        lambda: read_yaml(tmp_path / METRICS),
        lambda: Run(tmp_path, "train", "f").finished(),
        lambda: _read_plan(tmp_path, "f"),
    ):
        refused(reader, marker)


@pytest.mark.parametrize("place", ["-c", "--baseline-metrics", "metrics of a finished run"])
def test_the_command_line_refuses_hostile_yaml(
    place: str, tmp_path: Path, marker: Path, run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.yaml").write_text(f"accuracy: !!python/object/apply:os.mkdir ['{marker}']\n")
    arguments = ["train", "-c", SMOKE, "--save-dir", "r"]
    if place == "-c":
        arguments[2] = "evil.yaml"
    elif place == "--baseline-metrics":
        save_checkpoint(tmp_path / "m.pth", build_model("cifar_resnet20", classes=10, in_channels=1), DIGITS)
        arguments = ["eval", "-c", SMOKE, "--checkpoint", "m.pth", "--baseline-metrics", "evil.yaml"]
    else:
        (tmp_path / "r").mkdir()
        (tmp_path / "evil.yaml").rename(tmp_path / "r" / METRICS)
        (tmp_path / "r" / "best_model.pth").write_bytes(b"x")
    code, text = run(tuple(arguments))
    assert code == 2, text
    assert "Traceback" not in text
    assert not marker.exists()


DIGITS = Recipe(
    "cifar_resnet20", {}, 10, 1, (1, 8, 8), (0.3053,), (0.3759,), tuple(str(number) for number in range(10))
)


@pytest.mark.parametrize(
    "text",
    ["${oc.env:HOME}", "${oc.decode:'1'}", "${oc.create:{}}", "${oc.select:seed}", "x ${oc.env:HOME}", "${${name}}"],
)
def test_a_config_reads_no_environment_and_runs_no_resolver(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"seed: 1\nname: digits\nsave_dir: {text!r}\n")
    with pytest.raises(BootcampError, match="only a reference to a key of this file"):
        load(tmp_path / "x.yaml")


@pytest.mark.filterwarnings("ignore:register_new_resolver")
def test_a_resolver_that_a_library_registered_is_not_run(tmp_path: Path, marker: Path) -> None:
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("run_me", lambda path: os.mkdir(path), replace=True)
    try:
        (tmp_path / "x.yaml").write_text(f"name: ${{run_me:{marker}}}\n")
        refused(lambda: load(tmp_path / "x.yaml"), marker)
    finally:
        OmegaConf.clear_resolver("run_me")


def test_references_to_keys_of_the_file_are_filled_in(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(
        "seed: 3\nname: run-${seed}-${data.name}\ndata: {name: digits}\nthreads: ${seed}\n"
    )
    cfg = load(tmp_path / "x.yaml")
    assert (cfg.name, cfg.threads) == ("run-3-digits", 3)


# --- data sets


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_cifar_batches_are_not_unpickled(
    protocol: int, disk: ModuleType, tmp_path: Path, hostile: Any, marker: Path
) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    disk.write_cifar10(folder)
    (folder / "test_batch").write_bytes(pickle.dumps({"data": hostile, "labels": []}, protocol=protocol))
    assert "it would run" in refused(lambda: load_dataset("cifar10", root=tmp_path, args={"download": False}), marker)


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"\x80\x02" + _global("builtins", "eval") + b"X\x0c\x00\x00\x00os.getcwd() \x85R.",
        b"\x80\x02" + _global("numpy", "load") + b")R.",
        b"\x80\x02" + _global("numpy.core.multiarray", "scalar") + b")R.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",  # STACK_GLOBAL
        b"(X\x02\x00\x00\x00idios\nsystem\n.",  # INST
        b"\x80\x02\x82\x01.",  # an extension code
        b"\x80\x02" + _global("_codecs", "encode") + b"N}X\x0b\x00\x00\x00__globals__}s\x86b.",
        b"\x80\x02" + _global("numpy", "ndarray") + b"}X\x07\x00\x00\x00__new__Nsb.",
        b"\x80\x02Pname\n.",  # a persistent id
    ],
)
def test_no_name_in_a_batch_is_looked_up(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "batch").write_bytes(raw)
    with pytest.raises(BootcampError, match="batch"):
        read_batch(tmp_path / "batch")
    from pruning_bootcamp.tools.datasets import formats

    assert formats._encode("é", "latin1") == b"\xe9"  # the stand-ins are as they were
    assert formats._Array().values.dtype == np.uint8


def test_the_cache_of_decoded_images_is_not_unpickled(
    disk: ModuleType, tmp_path: Path, hostile: Any, marker: Path
) -> None:
    disk.write_tree(tmp_path / "images", {"train": 4, "test": 2})
    settings = {"size": 28, "resize": 32}
    first = load_dataset("imagefolder", root=tmp_path / "images", args=settings)
    files = sorted((cache_folder() / "images").iterdir())
    assert len(files) == 2
    for path in files:
        path.write_bytes(pickle.dumps(hostile))
    again = load_dataset("imagefolder", root=tmp_path / "images", args=settings)
    indices = torch.arange(len(first.test))
    assert torch.equal(again.test.fetch(indices), first.test.fetch(indices))
    assert not marker.exists()


# --- module:factory

MODULE = """
import os
os.mkdir({marker!r})
from torch import nn
def build(classes, in_channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
"""


@pytest.fixture
def named_in_a_file(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint whose recipe names a module in the current folder that shows when it is imported."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil_module.py").write_text(MODULE.format(marker=str(marker)))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    recipe = Recipe(**{**DIGITS.as_dict(), "model": "evil_module.py:build"})
    save_checkpoint("m.pth", model, recipe)
    marker.rmdir()  # saving builds the network once: it is one's own there
    plugins._announce.cache_clear()
    for name in [name for name in sys.modules if name.startswith("evil_module")]:
        del sys.modules[name]
    return tmp_path / "m.pth"


def test_a_file_imports_nothing_unless_it_is_trusted(named_in_a_file: Path, marker: Path) -> None:
    other = Recipe(**{**DIGITS.as_dict(), "model": "other_module:build"})
    for way in (
        lambda: load_model(named_in_a_file),
        lambda: load_checkpoint(named_in_a_file, recipe=DIGITS),
        lambda: load_checkpoint(named_in_a_file, recipe=other),
    ):
        with pytest.raises(NeedsRecipeError, match="that the file names"):
            way()
    assert not marker.exists()
    load_model(named_in_a_file, trust_code=True)
    assert marker.exists()


def test_the_command_line_runs_a_factory_only_from_the_users_config_and_says_so(
    named_in_a_file: Path, marker: Path, run: CommandLine
) -> None:
    code, text = run(("eval", "-c", SMOKE, "--checkpoint", "m.pth"))
    assert code == 2, text
    assert "model.name=evil_module.py:build" in text
    assert not marker.exists()
    code, text = run(("eval", "-c", SMOKE, "--checkpoint", "m.pth", "model.name=evil_module.py:build"))
    assert code == 0, text
    assert "running your own code, evil_module.py:build" in text
    assert marker.exists()


@pytest.mark.parametrize("name", ["os:mkdir", "os.path:join", "builtins:exec", "subprocess:run", "pickle:loads"])
def test_pythons_own_functions_are_no_factories(name: str, marker: Path) -> None:
    build = lambda: build_model(name, classes=2, args={"path": str(marker)})  # noqa: E731
    assert "Python's own" in refused(build, marker)


def test_a_module_that_was_imported_already_is_announced_too(caplog: pytest.LogCaptureFixture) -> None:
    assert "torch.nn.modules.linear" in sys.modules
    build_model("torch.nn.modules.linear:Identity", classes=2)
    assert "running your own code, torch.nn.modules.linear:Identity from" in caplog.text


def test_published_weights_in_the_cache_are_opened_as_tensors_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.hub takes a file that is there already for the published one, and by itself unpickles anything in it."""
    from torchvision.models import ResNet18_Weights

    from pruning_bootcamp.models import build_model

    marker = tmp_path / "marker"
    cached = tmp_path / "hub" / "checkpoints" / Path(ResNet18_Weights.DEFAULT.url).name
    cached.parent.mkdir(parents=True)
    torch.save({"weight": _Touch(marker)}, cached)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    with pytest.raises(BootcampError, match="could not be fetched and opened"):
        build_model("resnet18", classes=1000, in_channels=3, args={"weights": "DEFAULT"})
    assert not marker.exists()
    assert os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD") == before


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return (Path.touch, (self.path,))
