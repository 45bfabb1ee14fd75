"""Bad inputs by the hundred (by the ten thousand: benchmarks/fuzz.py), and each one that once got a traceback.

The only exception that comes out of a reader is BootcampError, soon, and in little memory.
"""

import contextlib
import logging
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

from pruning_bootcamp.checkpoints import Recipe, load_checkpoint, load_model, save_checkpoint
from pruning_bootcamp.config import load
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.models import build_model
from pruning_bootcamp.preflight import check
from pruning_bootcamp.schema import coerce

EXAMPLES = 150
RECIPE = Recipe("cifar_resnet20", {}, 3, 1, (1, 8, 8), (0.5,), (0.25,))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["config", "checkpoint", "sparse", "data"])
def test_only_bootcamp_errors_come_out(name: str, fuzzing: ModuleType) -> None:
    before = fuzzing.peak_mb()
    logging.disable(logging.CRITICAL)
    try:
        outcomes = fuzzing.run(fuzzing.TARGETS[name], EXAMPLES, 1)
    finally:
        logging.disable(logging.NOTSET)
    assert outcomes.stray == {}
    assert outcomes.counts.total() >= 0.9 * EXAMPLES
    assert outcomes.counts["refused"] > 20, "what is drawn is not bad"
    assert outcomes.counts["accepted"] > 0, "what is drawn is nowhere near a good input"
    assert fuzzing.peak_mb() - before < 1500


def test_the_fuzzer_finds_what_is_wrong(fuzzing: ModuleType) -> None:
    def read(number: int, folder: Path) -> None:
        if number > 1000:
            raise BootcampError("too large.")
        if number < -1000:
            raise ValueError(str(number))

    outcomes = fuzzing.run(fuzzing.Target(st.integers(-(2**20), 2**20), read), 100, 0)
    assert min(outcomes.counts["stray"], outcomes.counts["refused"], outcomes.counts["accepted"]) > 0
    assert len(outcomes.stray) == 1
    again = fuzzing.run(fuzzing.Target(st.integers(-(2**20), 2**20), read), 100, 0)
    assert again.counts == outcomes.counts  # the same seed, the same inputs


# --- configs that once got another exception, or all the time and memory there is

LAUGHS = "a: &a [1, 2]\n" + "\n".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]" for n in range(12)
)
CHAIN = "".join(f"{chr(97 + n)}: '${{{chr(98 + n)}}}${{{chr(98 + n)}}}'\n" for n in range(20)) + "u: xxxxxxxxx\n"

FOUND_IN_FILES = {
    "billion laughs": (LAUGHS, "stands for more than"),
    "billion laughs by references": (CHAIN, "once"),
    "an alias inside itself": ("a: &a [*a]\n", "inside itself"),
    "a reference to itself": ("name: ${name}\n", "back to itself"),
    "a chain of references in a circle": ("name: ${save_dir}\nsave_dir: x${name}\n", "back to itself"),
    "a reference to nothing": ("name: ${nmae}\n", "there is no 'nmae' in this file"),
    "deep": ("a: " + "[" * 5000, "nests deeper"),
    "a date that is none": ("seed: 2001-99-99\n", "is not a whole number"),
    "a number of many digits": (f"seed: {'9' * 5000}\n", "not valid YAML"),
    "a long hexadecimal number": (f"seed: 0x{'f' * 5000}\n", "more than 64 bits"),
    "a number of more than 64 bits": ("seed: 99999999999999999999\n", "more than 64 bits"),
    "a fraction of more than 64 bits": ("seed: 1.0e+300\n", "more than 64 bits"),
    "hexadecimal without a digit": ("seed: 0x_\n", "not valid YAML"),
    "base 60 beyond a float": (f"train: {{lr: {'1:' * 300}1.5}}\n", "not valid YAML"),
    "a NUL in a path": ('checkpoint: "a\\0b"\n', "no file name"),
    "half a surrogate pair": ('name: "\\ud800"\n', "no file name"),
    "a duration of many digits": (f'train: {{epochs: "{"9" * 5000}"}}\n', "4,096 are the most"),
    "too long": ("name: " + "x" * 300_000, "longer than 256 KiB"),
    "a tag for a number": ("seed: !!int x\n", "the tag"),
    "a tag for a truth value": ("seed: !!bool x\n", "the tag"),
    "a key twice": ("seed: 1\nseed: 2\n", "there twice"),
    "a list as a key": ("? [a]\n: b\n", "not valid YAML"),
    "two documents": ("seed: 1\n---\nseed: 2\n", "not valid YAML"),
}


@pytest.mark.parametrize("found", FOUND_IN_FILES)
def test_a_config_file_that_was_not_refused_well(found: str, tmp_path: Path) -> None:
    text, words = FOUND_IN_FILES[found]
    (tmp_path / "x.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    began = time.perf_counter()
    with pytest.raises(BootcampError) as caught:
        load(tmp_path / "x.yaml")
    assert words in str(caught.value)
    assert len(str(caught.value)) < 2000
    assert time.perf_counter() - began < 10


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (f"seed={LAUGHS}", "stands for more than"),
        ("seed=" + "[" * 5000, "nests deeper"),
        ("seed=!!python/object/apply:os.getcwd []", "the tag"),
        ("seed=!!int x", "the tag"),
        ("seed=0x_", "not valid YAML"),
        (".".join("a" * 100) + "=1", "nests deeper"),
        ("model.args." + ".".join("a" * 100) + "=1", "nests deeper"),
        (".".join("a" * 5000) + "=1", "4,096 are the most"),
        (f"seed={10**30}", "more than 64 bits"),
        ("\udc80=1", "no file name"),
        ("x" * 10_000, "is not key=value"),
    ],
)
def test_an_override_that_was_not_refused_well(override: str, words: str) -> None:
    with pytest.raises(BootcampError) as caught:
        load(None, [override])
    assert words in str(caught.value)
    assert len(str(caught.value)) < 2000
    str(caught.value).encode()


def test_files_that_are_no_text_files(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"seed: 1\nname: \xff\xfe\n")
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "x.yaml", Path("/dev/zero"), tmp_path / "file" / "x.yaml", Path("x" * 5000)):
        with pytest.raises(BootcampError):
            load(path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"checkpoint": "x" * 300}, "can't be looked up"),
        ({"checkpoint": "file/x.pth"}, "There is no folder file"),
        ({"save_dir": "x" * 300}, "can't be looked up"),
        ({"data.name": "imagefolder", "data.root": "x" * 300}, "can't be read"),
        ({"data.name": "imagefolder", "data.root": "~nobody-at-all/x"}, "Write the whole path"),
        ({"prune.rewind": "x" * 300}, "can't be looked up"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_paths_that_no_file_can_have(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cfg = load(None, options=settings)
    if "prune.rewind" in settings:
        save_checkpoint(tmp_path / "m.pth", build_model("cifar_resnet20", classes=3, in_channels=1), RECIPE)
        cfg.checkpoint = "m.pth"
    with contextlib.chdir(tmp_path), pytest.raises(BootcampError) as caught:
        check(cfg, "validate", "the config")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [(10**614, float), (1e300, int), (10**30, int), (torch.zeros(3), float), ([1] * 10**5, str)],
    ids=lambda value: str(value)[:20],
)
def test_a_value_that_fits_nowhere(value: Any, annotation: Any) -> None:
    from pruning_bootcamp.schema import Mismatch

    with pytest.raises(Mismatch) as caught:
        coerce(value, annotation)
    assert len(str(caught.value)) < 300


def test_one_is_not_true_and_not_one_point_nought_among_choices() -> None:
    from typing import Literal

    from pruning_bootcamp.schema import Mismatch

    assert coerce(1, Literal[1, 3]) == 1
    for other in (True, 1.0, "1", torch.ones(1), torch.ones(2)):
        with pytest.raises(Mismatch):
            coerce(other, Literal[1, 3])


# --- checkpoints whose content once got another exception


def _changes(**attributes: Any) -> dict[str, Any]:
    return {"conv1": attributes}


EDITS: dict[str, tuple[tuple[str, ...], Any]] = {
    "a version that is a tensor": (("version",), torch.zeros(2)),
    "a version that is true": (("version",), True),
    "keys that are numbers": (("state_dict", 3), torch.zeros(1)),
    "a mask that is a tensor": (("masks", "linear.weight"), torch.zeros(3)),
    "a mask of negative sides": (
        ("masks", "linear.weight"),
        {"shape": [-1, -8], "bits": torch.zeros(1, dtype=torch.uint8)},
    ),
    "a mask of an impossible side": (
        ("masks", "linear.weight"),
        {"shape": [0, 10**30], "bits": torch.zeros(0).byte()},
    ),
    "a mask of infinite sides": (("masks", "linear.weight"), {"shape": [float("inf")], "bits": torch.zeros(1).byte()}),
    "no groups": (("recipe", "changes"), _changes(groups=0)),
    "a kernel that is a number": (("recipe", "changes"), _changes(kernel_size=3)),
    "channels that are text": (("recipe", "changes"), _changes(in_channels="a")),
    "a property": (("recipe", "changes"), {"layer2.0.shortcut": {"before": 3}}),
    "whole numbers for weights": (("state_dict", "linear.weight"), torch.zeros(3, 64, dtype=torch.int64)),
    "complex weights": (("state_dict", "linear.weight"), torch.zeros(3, 64, dtype=torch.complex64)),
    "8-bit weights": (("state_dict", "linear.weight"), torch.zeros(3, 64).to(torch.float8_e4m3fn)),
    "fractions for counters": (("state_dict", "bn1.num_batches_tracked"), torch.tensor(0.5)),
    "a builder that divides by nothing": (("recipe", "args"), {"groups": 0}),
    "a choice that is a tensor": (("recipe", "args"), {"shortcut": torch.zeros(3)}),
    "a mean that is a tensor": (("recipe", "mean"), torch.zeros(1)),
    "a format that is a tensor": (("format",), torch.zeros(2)),
}


@pytest.mark.parametrize("found", EDITS)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_that_was_not_refused_well(found: str, zipped: bool, tmp_path: Path) -> None:
    path, (place, value) = tmp_path / "m.pth", EDITS[found]
    save_checkpoint(path, build_model("cifar_resnet20", classes=3, in_channels=1), RECIPE)
    content = torch.load(path, weights_only=True)
    if found == "a builder that divides by nothing":
        content["recipe"]["model"] = "resnet18"
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(BootcampError, match=r"m\.pth"):
        load_model(path)


@pytest.mark.parametrize(
    "content",
    [
        {1: torch.zeros(3)},
        {"state_dict": {1: torch.zeros(3)}},
        {"model": {"state_dict": {"net": {}}}},
        {"module.": torch.zeros(3), "module.module.": torch.zeros(3)},
        {"": torch.zeros(3)},
        {},
    ],
    ids=str,
)
def test_a_state_dict_of_nobodys(content: dict[Any, Any], tmp_path: Path) -> None:
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(BootcampError, match=r"m\.pth"):
        load_checkpoint(tmp_path / "m.pth", recipe=RECIPE)


def test_a_wrapper_around_itself_ends(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["state_dict"] = content
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(BootcampError, match="nests deeper"):
        load_checkpoint(tmp_path / "m.pth", recipe=RECIPE)


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / ("x" * 300), tmp_path / "file" / "m.pth", tmp_path / "a\0b"):
        with pytest.raises(BootcampError):
            load_checkpoint(path, recipe=RECIPE)


def test_a_sparse_file_of_a_type_that_numpy_has_not(fuzzing: ModuleType, tmp_path: Path) -> None:
    """Of the same length as U8, so that the header is sound."""
    good = fuzzing.good_files()["sparse.safetensors"]
    bad = good.replace(b'"dtype":"U8"', b'"dtype":"F8_E4M3"', 1)
    size = int.from_bytes(good[:8], "little") + len(bad) - len(good)
    assert bad != good
    (tmp_path / "x.safetensors").write_bytes(size.to_bytes(8, "little") + bad[8:])
    with pytest.raises(BootcampError, match="damaged"):
        load_checkpoint(tmp_path / "x.safetensors")
