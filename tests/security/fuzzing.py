"""Bad inputs by the thousand, for tests/security/test_fuzz.py and benchmarks/fuzz.py: what is drawn, and who is asked.

Every target starts from what is right and makes it wrong in a few places: noise alone gets no further than the first
check. The one exception that may come out is BootcampError.
"""

import contextlib
import io
import json
import os
import pickle
import resource
import struct
import sys
import tempfile
import time
import traceback
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from pruning_bootcamp.checkpoints import Recipe, load_checkpoint, save_checkpoint, save_sparse_checkpoint, sparse
from pruning_bootcamp.checkpoints.files import write_sparse_file
from pruning_bootcamp.checkpoints.sparse import container
from pruning_bootcamp.config import Config, as_dict, load
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.exporters import EXPORTERS
from pruning_bootcamp.models import MODELS, build_model
from pruning_bootcamp.preflight import CHECKS, check
from pruning_bootcamp.pruning.channels.scores import CHANNEL_SCORES
from pruning_bootcamp.pruning.patterns import PATTERNS
from pruning_bootcamp.pruning.solvers import SOLVERS
from pruning_bootcamp.pruning.weights.allocation import ALLOCATIONS
from pruning_bootcamp.pruning.weights.schedules import SCHEDULES
from pruning_bootcamp.pruning.weights.scores import SCORES
from pruning_bootcamp.tools.datasets import AUGMENTATIONS, DATASETS
from pruning_bootcamp.tools.datasets.decoding import Decoder
from pruning_bootcamp.tools.datasets.formats import read_cifar, read_idx
from pruning_bootcamp.training.optim import LR_SCHEDULES, OPTIMIZERS

SLOWEST_SECONDS = 20.0  # one input; on a machine that does other work too
REGISTRIES = (
    *(MODELS, DATASETS, AUGMENTATIONS, SCORES, ALLOCATIONS, PATTERNS, SCHEDULES, SOLVERS, CHANNEL_SCORES),
    *(OPTIMIZERS, LR_SCHEDULES, EXPORTERS),
)


@dataclass
class Outcomes:
    """How often each thing happened, and every stray exception by the place that raised it."""

    counts: Counter[str] = field(default_factory=Counter)
    stray: dict[str, str] = field(default_factory=dict)
    slowest: float = 0.0


@dataclass(frozen=True)
class Target:
    """What is drawn, and the reader that is given it (in a folder of its own)."""

    inputs: st.SearchStrategy[Any]
    read: Callable[[Any, Path], None]


def run(target: Target, examples: int, start: int) -> Outcomes:
    """Give the reader so many inputs, the same ones for the same `start`."""
    outcomes = Outcomes()

    @seed(start)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=False,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs)
    def every(example: Any) -> None:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=_scratch()) as folder:
            try:
                accepted = _accepts(target, example, Path(folder))
                outcomes.counts["accepted" if accepted else "refused"] += 1
            except Exception as error:  # noqa: BLE001  whatever it is, it is what is looked for here
                outcomes.counts["stray"] += 1
                outcomes.stray.setdefault(_place(error), f"{example!r:.2000}\n{traceback.format_exc()}")
        seconds = time.perf_counter() - began
        outcomes.slowest = max(outcomes.slowest, seconds)
        if seconds > SLOWEST_SECONDS:
            outcomes.counts["stray"] += 1
            outcomes.stray.setdefault("too slow", f"{seconds:.1f} s: {example!r:.2000}")

    every()
    return outcomes


def _accepts(target: Target, example: Any, folder: Path) -> bool:
    try:
        target.read(example, folder)
    except BootcampError as error:
        str(error).encode()  # a message that can't be printed is none
        return False
    return True


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "pruning_bootcamp/" in frame.filename]
    at = (own or frames)[-1]
    return f"{type(error).__name__} at {Path(at.filename).name}:{at.lineno}"


def peak_mb() -> float:
    """The most memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _scratch() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


# --- values

NASTY_TEXTS = (
    *("", " ", "2:4", "4:2", "0:0", "4x1", "0x0", "3ep", "-1ep", "500it", "9" * 4000, "9" * 5000, "٣ep", "1e400"),
    *("1e-9", "nan", "inf", "null", "0%", "150%", "5%", "auto", "bf16", "distill", "name", "args", "forward"),
    *("~", "~/x", "~nobody-at-all/x", "/", ".", "..", "../..", "/dev/null", "/dev/zero", "x" * 300, "x/" * 3000),
    *("\0", "a\0b", "\ud800", "\u202e", "\x1b[2J", "🙂", "%s%n", "{}", "{0.__class__}", "__class__", "[", "*"),
    *("${oc.env:HOME}", "${oc.decode:1}", "${train.lr}", "${a}${a}", "${", "${train}", "${.lr}", "!!python/name:os.x"),
    *("cuda:99", "cuda:-1", "meta", "mps:3", "cpu", "timm/x", "torchvision/resnet18", "resnet18", "layer1.*"),
)
texts = st.one_of(st.sampled_from(NASTY_TEXTS), st.text(max_size=12))
numbers = st.one_of(
    st.sampled_from([0, 1, -1, 2, 3, 2**31, 2**63, -(2**63) - 1, 10**30, 0.0, 0.5, -0.5, 1.0, 1e30, 1e308, 5e-324]),
    st.integers(),
    st.floats(),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
names = st.sampled_from(sorted({name for registry in REGISTRIES for name in registry}))
models = st.sampled_from(["cifar_resnet20", "vgg16_bn", "resnet18", "squeezenet1_1", "mobilenet_v2", "os:mkdir", "x"])
setting_names = st.sampled_from(
    sorted({key for registry in REGISTRIES for entry in registry.entries() for key in entry.settings})
)
keys = st.one_of(setting_names, texts)
values = st.recursive(
    st.one_of(scalars, names),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=8,
)


# --- configs


@dataclass(frozen=True)
class ConfigInput:
    text: bytes | None
    overrides: tuple[str, ...]
    command: str


def _flat(table: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Dotted key -> default, tables included."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found[f"{above}{key}"] = value
        if isinstance(value, dict):
            found |= _flat(value, f"{above}{key}.")
    return found


DEFAULTS = _flat(as_dict(Config()))
SETTINGS = sorted(DEFAULTS)
CHOICES = {
    "data": DATASETS,
    "fine_tune.schedule": LR_SCHEDULES,
    "model": MODELS,
    "prune.allocation": ALLOCATIONS,
    "prune.pattern": PATTERNS,
    "prune.schedule": SCHEDULES,
    "prune.score": SCORES,
    "prune.solver": SOLVERS,
    "structured.score": CHANNEL_SCORES,
    "train.optimizer": OPTIMIZERS,
    "train.schedule": LR_SCHEDULES,
}
PATHS_AND_DEVICES = ("checkpoint", "save_dir", "data.root", "device", "prune.rewind")
# What the checks look up on the disk, in torch or in a registry: more can go wrong there than in a number.
LOOKED_UP = (*PATHS_AND_DEVICES, *CHOICES, *(f"{name}.args" for name in CHOICES))
durations = st.builds("{}{}".format, st.integers(-2, 10**9), st.sampled_from(["", "ep", "it", "%", " ep", "x"]))


@st.composite
def choices(draw: st.DrawFn, registry: Any) -> Any:
    """A registered name with settings of its own, of which some have values that they may have."""
    name = draw(st.sampled_from(sorted(registry)))
    own = sorted(registry[name].settings) or ["x"]
    args = draw(st.dictionaries(st.sampled_from(own), st.one_of(values, numbers, st.integers(0, 8)), max_size=3))
    return draw(st.sampled_from([{"name": name, "args": args}, {"name": name, "args": args}, name]))


def _near(setting: str) -> st.SearchStrategy[Any]:
    """Values of the kind that the setting has, most of them in its range."""
    default = DEFAULTS.get(setting)
    own: st.SearchStrategy[Any]
    if setting in PATHS_AND_DEVICES:
        own = st.one_of(texts, st.sampled_from(["images", "own.pth", "own.pth/x", "500it", "cpu"]))
    elif setting in CHOICES:
        own = choices(CHOICES[setting])
    elif setting.endswith(".name") and setting.removesuffix(".name") in CHOICES:
        own = st.sampled_from(sorted(CHOICES[setting.removesuffix(".name")]))
    elif isinstance(default, bool):
        own = st.booleans()
    elif isinstance(default, int):
        own = st.one_of(st.integers(0, 300), st.sampled_from([1, 2**31, 2**62, -1]))
    elif isinstance(default, float):
        own = st.one_of(st.floats(0, 1), st.floats(0, allow_nan=False), st.sampled_from([0.5, 1e-9, 1e308]))
    elif isinstance(default, list):
        own = st.lists(st.one_of(texts, durations, st.integers(-1, 9)), max_size=3)
    elif isinstance(default, dict):
        own = st.dictionaries(keys, values, max_size=3)
    else:
        own = st.one_of(durations, texts, numbers, names, st.sampled_from(["images", "own.pth", "cpu", "auto", "onnx"]))
    return own


def _once_in(draw: st.DrawFn, number: int) -> bool:
    return draw(st.integers(1, number)) == number


@st.composite
def changed_settings(draw: st.DrawFn, most: int) -> dict[str, Any]:
    changes = {}
    for _ in range(draw(st.integers(0, most))):
        known = st.one_of(st.sampled_from(SETTINGS), st.sampled_from(LOOKED_UP))
        setting = draw(texts if _once_in(draw, 30) else known)
        changes[setting] = draw(values if _once_in(draw, 10) else _near(setting))
    return changes


ALIASES = "\n".join(f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]" for n in range(12))
REFERENCES = "".join(f"{chr(97 + n)}: '${{{chr(98 + n)}}}${{{chr(98 + n)}}}'\n" for n in range(20)) + "u: xx\n"
FRAGMENTS = (
    *(f"a: &a [1, 2]\n{ALIASES}\n", "a: &a [*a]\n", "a: &a {b: *a}\n", "<<: *nobody\n", "a: {<<: [1]}\n", REFERENCES),
    *("[" * 2000, "{" * 500, "- " * 3000, "a: " * 50, "seed: 1\nseed: 2\n", "? [a]\n: b\n", "--- a\n--- b\n"),
    *("!!python/object/apply:os.system ['id']\n", "seed: !!int x\n", "a: !!bool x\n", "a: !!timestamp x\n"),
    *("a: !!binary x\n", "a: !!set {b}\n", "a: 2001-99-99\n", "%YAML 9.9\n---\n", "\t", "\ufeff", "x: |\n  y\n"),
    *("seed: 0x_\n", f"seed: 0x{'f' * 9000}\n", f"seed: {'9' * 9000}\n", f"seed: {'1:' * 300}1\n", "'", '"\\x'),
    *(f"train: {{lr: {'1:' * 300}1.5}}\n", "name: ${data.name}\n", "a: ${a}\n", "a: ${b}${b}\nb: ${a}\n"),
    *("model: {args: ${model}}\n", "a: ${oc.env:PATH}\n"),
)


def _table(changes: dict[str, Any]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        inner = table
        for part in path:
            if not isinstance(inner.get(part), dict):
                inner[part] = {}
            inner = inner[part]
        inner[last] = value
    return table


@st.composite
def config_inputs(draw: st.DrawFn) -> ConfigInput:
    changes = draw(changed_settings(4))
    text: bytes | None
    how = draw(st.sampled_from([*["none", "json", "yaml"] * 6, "fragment", "cut", "noise"]))
    if how == "none":
        text = None
    elif how == "noise":
        text = draw(st.binary(max_size=60))
    elif how == "json":  # a subset of YAML, with every character written out
        text = json.dumps(_table(changes)).encode()
    else:
        text = yaml.safe_dump(_table(changes), allow_unicode=draw(st.booleans())).encode("utf-8", "surrogatepass")
        if how == "fragment":
            fragment = draw(st.sampled_from(FRAGMENTS)).encode("utf-8", "surrogatepass")
            text = draw(st.sampled_from([fragment, text + fragment, fragment + text]))
        elif how == "cut":
            text = _damaged(draw, text)
    overrides = [f"{key}={_flow(value)}" for key, value in draw(changed_settings(3)).items()]
    if _once_in(draw, 20):
        overrides.append(draw(st.one_of(texts, st.sampled_from(FRAGMENTS).map(lambda text: f"seed={text}"))))
    return ConfigInput(text, tuple(overrides), draw(st.sampled_from([*CHECKS, *["validate"] * 5])))


def _flow(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@cache
def real_things() -> Path:
    """A folder with class folders of images and a checkpoint, for configs to name."""
    folder = Path(tempfile.mkdtemp())
    for part in ("train", "test"):
        for kind in ("a", "b"):
            (folder / "images" / part / kind).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(folder / "images" / part / kind / "0.png")
    (folder / "own.pth").write_bytes(good_files()["own.pth"])
    return folder


def read_config(given_input: ConfigInput, folder: Path) -> None:
    path = None
    if given_input.text is not None:
        path = folder / "x.yaml"
        path.write_bytes(given_input.text)
    cfg = load(path, given_input.overrides)
    if ":" in cfg.model.name:
        return  # would import what it names, which is what the user asked for
    for name in ("images", "own.pth"):
        (folder / name).symlink_to(real_things() / name)
    with contextlib.chdir(folder):
        check(cfg, given_input.command, "the config")


# --- files


def _damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes flipped, cut out, put in, doubled or cut off; both ends, where the headers are, most often."""
    damaged = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        size = len(damaged)
        at = draw(
            st.one_of(
                st.integers(0, max(0, size - 1)), st.integers(0, min(size, 600)), st.integers(max(0, size - 600), size)
            )
        )
        how = draw(st.sampled_from(["flip", "set", "cut", "put", "double", "end"]))
        if how in ("flip", "set") and at < size:
            damaged[at] = damaged[at] ^ (1 << draw(st.integers(0, 7))) if how == "flip" else draw(st.integers(0, 255))
        elif how == "cut":
            del damaged[at : at + draw(st.integers(1, 64))]
        elif how == "put":
            damaged[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif how == "double":
            damaged[at:at] = damaged[at : at + draw(st.integers(1, 2000))]
        elif how == "end":
            del damaged[at:]
    return bytes(damaged)


RECIPE = Recipe("cifar_resnet20", {}, 3, 1, (1, 8, 8), (0.5,), (0.25,), ("a", "b", "c"))


@cache
def good_files() -> dict[str, bytes]:
    """One of each kind of checkpoint, small."""
    model = build_model(RECIPE.model, classes=RECIPE.classes, in_channels=RECIPE.in_channels).eval()
    keep = torch.rand_like(model.linear.weight) > 0.5  # type: ignore[union-attr,operator,arg-type]
    model.linear.weight.data *= keep  # type: ignore[union-attr,operator,arg-type]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        masks = {"linear.weight": keep}
        about: dict[str, Any] = {"metrics": {"accuracy": 1.5}, "extra": {"n": [1, (2,)]}}
        save_checkpoint(folder / "own.pth", model, RECIPE, masks=masks, **about)
        save_sparse_checkpoint(folder / "sparse.safetensors", model, RECIPE, masks=masks)
        torch.save(model.state_dict(), folder / "plain.pth")
        torch.save({"state_dict": model.state_dict()}, folder / "legacy.th", _use_new_zipfile_serialization=False)
        from safetensors.torch import save_file

        save_file({key: value.clone() for key, value in model.state_dict().items()}, folder / "plain.safetensors")
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), folder / "script.pt")
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@dataclass(frozen=True)
class FileInput:
    name: str
    content: bytes
    how: str

    def __repr__(self) -> str:
        return f"{self.name} {self.how} ({len(self.content):,} bytes): {self.content[:300]!r}"


def _itself() -> list[Any]:
    inner: list[Any] = []
    inner.append(inner)
    return inner


def _laughs(depth: int) -> list[Any]:
    inner: list[Any] = [1]
    for _ in range(depth):
        inner = [inner] * 9
    return inner


def _endless() -> torch.Tensor:
    return torch.zeros(1).expand(10**6, 10**6)


# Small in a pickle, and nowhere else.
MONSTERS: tuple[Callable[[], Any], ...] = (_itself, lambda: _laughs(30), _endless)
ODD_TENSORS: tuple[Callable[[], Any], ...] = (
    lambda: torch.zeros(0),
    lambda: torch.tensor(1.0),
    lambda: torch.full((3,), float("nan")),
    lambda: torch.zeros(3, dtype=torch.complex64),
    lambda: torch.zeros(3, dtype=torch.int32),
    lambda: torch.zeros(3, dtype=torch.bool),
    lambda: torch.zeros(3, dtype=torch.float8_e4m3fn),
    lambda: torch.zeros(3, device="meta"),
    lambda: torch.eye(3).to_sparse(),
    lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    lambda: torch.nn.Parameter(torch.zeros(3)),
    lambda: torch.zeros(2, 3).t(),
    lambda: torch.zeros(64, dtype=torch.uint8),
    lambda: torch.Size([1, 2]),
    lambda: torch.float32,
    lambda: torch.device("cuda:3"),
    lambda: {1, 2},
    lambda: b"bytes",
    lambda: {1: {2: 3}},
    *MONSTERS,
)


def _places(content: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [(*above, key) for key in content] if isinstance(content, dict) else []
    for place in list(found):
        found += _places(content[place[-1]], place)
    return found


ATTRIBUTES = st.sampled_from(
    [
        *("stride", "kernel_size", "groups", "out_channels", "in_channels", "num_features", "padding", "padding_mode"),
        *("eps", "__doc__", "before", "training", "replaced_shortcut", "weight", "forward"),
    ]
)
PATHS = st.sampled_from(["", "conv1", "bn1", "layer2.0.shortcut", "layer1.0.conv1", "linear", "nowhere"])
sizes = st.sampled_from([0, 1, -1, 3, 10, 10**6, 10**9, 10**12, 2**62, 2**63, 10**30, 1.0, True])
blocks = st.lists(st.lists(st.sampled_from([0, 1, 2, 16, 10**7]), min_size=4, max_size=4), max_size=2)
RECIPE_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "model": models,
    "args": st.dictionaries(
        st.sampled_from(
            [
                *("shortcut", "groups", "width_per_group", "norm_layer", "inverted_residual_setting", "width_mult"),
                *("image_size", "dropout", "num_classes", "replace_stride_with_dilation", "zero_init_residual"),
            ]
        ),
        st.one_of(values, sizes, blocks, st.sampled_from(["A", "conv"])),
        max_size=2,
    ),
    "classes": sizes,
    "in_channels": sizes,
    "input_shape": st.lists(sizes, max_size=4),
    "mean": st.lists(st.floats(), max_size=3),
    "class_names": st.lists(texts, max_size=4),
    "changes": st.dictionaries(PATHS, st.dictionaries(ATTRIBUTES, st.one_of(values, sizes), max_size=2), max_size=2),
}


def _edited(draw: st.DrawFn, content: dict[str, Any], odd: list[Callable[[], Any]]) -> dict[str, Any]:
    """The content of a checkpoint with other things at some of its places."""
    places = [place for place in _places(content) if place[0] != "state_dict" or len(place) == 1]
    tensors = [("state_dict", name) for name in content["state_dict"]]
    for _ in range(draw(st.integers(1, 3))):
        how = draw(st.sampled_from(["recipe", "recipe", "value", "odd", "gone", "key"]))
        if how == "recipe" and isinstance(content.get("recipe"), dict):
            name = draw(st.sampled_from(sorted(RECIPE_VALUES)))
            content["recipe"][name] = draw(RECIPE_VALUES[name])
            continue
        place = draw(st.sampled_from(places if draw(st.booleans()) else tensors))
        inner: Any = content
        for key in place[:-1]:
            inner = inner.get(key, {}) if isinstance(inner, dict) else {}
        if not isinstance(inner, dict):
            continue
        if how == "gone":
            inner.pop(place[-1], None)
        elif how == "key":
            inner[draw(st.one_of(scalars.filter(_kept), texts))] = draw(st.one_of(values, st.just(torch.zeros(3))))
        else:
            inner[place[-1]] = draw(st.sampled_from(odd))() if how == "odd" else draw(values)
    return content


def _kept(value: Any) -> bool:
    return value == value


def _rezipped(draw: st.DrawFn, content: bytes) -> bytes:
    """The archive with one entry damaged or replaced, and every checksum right."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(written, "w") as new:
        hit = draw(st.sampled_from(old.namelist()))
        if draw(st.booleans()):
            hit = next(name for name in old.namelist() if name.endswith("data.pkl"))
        how = draw(st.sampled_from(["damage", "damage", "deflate", "gone", "twice", "bomb"]))
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename != hit:
                new.writestr(entry.filename, data)
            elif how == "damage":
                new.writestr(entry.filename, _damaged(draw, data))
            elif how == "bomb":
                new.writestr(entry.filename, bytes(2**22), zipfile.ZIP_DEFLATED)
            elif how == "deflate":
                new.writestr(entry.filename, data, zipfile.ZIP_DEFLATED)
            elif how == "twice":
                new.writestr(entry.filename, data)
                new.writestr(f"x/../../{entry.filename}", data)
    return written.getvalue()


def _safetensors_edited(draw: st.DrawFn, content: bytes) -> bytes:
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    name = draw(st.sampled_from(sorted(header)))
    if isinstance(header[name], dict) and draw(st.booleans()):
        key = draw(st.sampled_from(["dtype", "shape", "data_offsets", *header[name]]))
        types = st.sampled_from(["F8_E4M3", "I64", "BOOL", "F64", "C64", "I8"])
        header[name][key] = draw(st.one_of(types, values, st.lists(st.integers(), max_size=3)))
    elif draw(st.booleans()):
        header[draw(texts)] = draw(values)
    else:
        del header[name]
    new = json.dumps(header).encode()
    length = draw(st.sampled_from([len(new), len(new), len(new), 0, 2**62, 2**40, size]))
    return struct.pack("<Q", length) + new + content[8 + size :]


@st.composite
def checkpoint_inputs(draw: st.DrawFn) -> FileInput:
    how = draw(st.sampled_from(["edited", "edited", "edited", "inside", "damaged", "spliced"]))
    if how == "edited":
        kind = draw(st.sampled_from(["zip", "zip", "legacy", "sparse"]))
        # JSON has no reference to what stands elsewhere, and a sparse file no repeated number: they'd be written out
        odd = [make for make in ODD_TENSORS if kind != "sparse" or make not in MONSTERS]
        edited = _edited(draw, torch.load(io.BytesIO(good_files()["own.pth"]), weights_only=True), odd)
        return _written(edited, kind)
    name = draw(st.sampled_from(sorted(good_files())))
    content = good_files()[name]
    if how == "inside" and name.endswith(".safetensors"):
        return FileInput(name, _safetensors_edited(draw, content), "header")
    if how == "inside" and name != "legacy.th":
        return FileInput(name, _rezipped(draw, content), "inside")
    if how == "spliced":
        other = good_files()[draw(st.sampled_from(sorted(good_files())))]
        at = draw(st.integers(0, len(content)))
        return FileInput(draw(st.sampled_from([name, "x.pth"])), content[:at] + other[at:], how)
    return FileInput(name, _damaged(draw, content), "damaged")


def _written(content: dict[str, Any], kind: str) -> FileInput:
    """The edited content in a file with right checksums; an empty one where it can't be written."""
    name = "own.safetensors" if kind == "sparse" else "own.pth"
    with tempfile.TemporaryDirectory(dir=_scratch()) as folder:
        path = Path(folder) / name
        try:
            if kind == "sparse":
                write_sparse_file(path, content)
            else:
                torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
        except Exception:  # noqa: BLE001  neither can write everything that is drawn
            path.write_bytes(b"")
        return FileInput(name, path.read_bytes(), f"edited {kind}")


def read_checkpoint(example: FileInput, folder: Path) -> None:
    path = folder / example.name
    path.write_bytes(example.content)
    load_checkpoint(path, recipe=None if example.name.startswith("own") else RECIPE)


@cache
def good_sparse() -> bytes:
    torch.manual_seed(0)
    dense = torch.randn(16, 16)
    tensors = {
        "dense": dense,
        "bitmask": dense * (torch.rand(16, 16) > 0.8),
        "nm": dense * torch.tensor([1.0, 0.0]).repeat(16, 8),
        "int8": dense * (torch.rand(16, 16) > 0.5),
        "same": dense.clone(),
        "flags": torch.rand(9) > 0.5,
        "conv": torch.randn(4, 4, 3, 3) * (torch.rand(4, 4, 1, 1) > 0.5),
        "steps": torch.arange(5),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        sparse.write_sparse(path, tensors, int8=["int8"], metadata={"a": "b"})
        return path.read_bytes()


@st.composite
def sparse_inputs(draw: st.DrawFn) -> FileInput:
    """Damaged anywhere, or behind the checksum: the index edited, the data damaged, and both written again."""
    good = good_sparse()
    if _once_in(draw, 5):
        return FileInput("x.safetensors", _damaged(draw, good), "damaged")
    if _once_in(draw, 5):
        return FileInput("x.safetensors", _safetensors_edited(draw, good), "header")
    with tempfile.TemporaryDirectory(dir=_scratch()) as folder:
        path = Path(folder) / "x.safetensors"
        path.write_bytes(good)
        content, data = container.read_container(path)
        how = draw(st.sampled_from(["row", "row", "row", "sizes", "top", "data"]))
        odd = st.one_of(values, st.integers(-2, 300), st.lists(st.integers(-1, 2**40), max_size=4))
        if how == "row":
            row = draw(st.sampled_from(content["rows"]))
            key = draw(st.sampled_from([*row, "shape", "kind", "count", "n", "m", "of", "group", "int8", "dtype"]))
            row[key] = draw(
                st.one_of(odd, st.sampled_from(["dense", "bitmask", "nm", "same", "float64", "bool", "int8"]))
            )
        elif how == "sizes":
            group = draw(st.sampled_from(content["sizes"]))
            group[draw(st.integers(0, len(group) - 1))] = draw(odd)
        elif how == "top":
            content[draw(st.sampled_from(sorted(content)))] = draw(odd)
        else:
            data = _damaged(draw, data)
        stored = zlib.compress(json.dumps(content).encode(), 9, -zlib.MAX_WBITS)
        check_bytes = struct.pack(container._CHECK, len(json.dumps(content).encode()), container._crc(stored, data))
        from safetensors.numpy import save

        parts = {"data": np.frombuffer(data, np.uint8), "index": np.frombuffer(check_bytes + stored, np.uint8)}
        return FileInput(path.name, save(parts, {"format": f"{container.MARK}/{container.VERSION}"}), how)


def read_sparse(example: FileInput, folder: Path) -> None:
    path = folder / example.name
    path.write_bytes(example.content)
    sparse.read_sparse(path)


@cache
def good_data() -> dict[str, bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)
    files = {
        f"batch{protocol}": pickle.dumps({"data": pixels, "labels": [1, 2]}, protocol=protocol) for protocol in (2, 5)
    }
    files["values.idx"] = struct.pack(">HBBIII", 0, 8, 3, 2, 3, 4) + bytes(range(24))
    picture = Image.fromarray(pixels[0].reshape(32, 32, 3))
    for kind in ("png", "jpeg", "bmp", "gif", "tiff", "webp", "ppm"):
        stream = io.BytesIO()
        picture.save(stream, kind)
        files[f"x.{kind}"] = stream.getvalue()
    return files


@st.composite
def data_inputs(draw: st.DrawFn) -> FileInput:
    name = draw(st.sampled_from(sorted(good_data())))
    return FileInput(name, _damaged(draw, good_data()[name]), "damaged")


def read_data(example: FileInput, folder: Path) -> None:
    path = folder / example.name
    path.write_bytes(example.content)
    if example.name.startswith("batch"):
        read_cifar(path, "labels", 10)
    elif example.name.endswith("idx"):
        read_idx(path)
    else:
        Decoder(channels=3, side=16)(str(path))


TARGETS = {
    "config": Target(config_inputs(), read_config),
    "checkpoint": Target(checkpoint_inputs(), read_checkpoint),
    "sparse": Target(sparse_inputs(), read_sparse),
    "data": Target(data_inputs(), read_data),
}
