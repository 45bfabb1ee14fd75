"""Checkpoints: the same network comes back, in a new process too; whatever is wrong with a file is said, never run."""

import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from pruning_bootcamp import load_model
from pruning_bootcamp.checkpoints import (
    Checkpoint,
    NeedsRecipeError,
    Recipe,
    load_checkpoint,
    masks,
    save_checkpoint,
    weights_hash,
)
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.models import build_model, make_prunable


def recipe_of(model: str, classes: int = 10, shape: tuple[int, int, int] = (3, 32, 32), **args: Any) -> Recipe:
    mean, std = (0.5,) * shape[0], (0.25,) * shape[0]
    return Recipe(model, args, classes, shape[0], shape, mean, std, tuple(f"class {n}" for n in range(classes)))


def built(recipe: Recipe) -> nn.Module:
    """A freshly built network whose batch norms have seen something, so that every tensor counts."""
    model = build_model(recipe.model, classes=recipe.classes, in_channels=recipe.in_channels, args=recipe.args)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.eval()


@pytest.fixture
def small() -> tuple[nn.Module, Recipe]:
    recipe = recipe_of("cifar_resnet20", 5, (1, 8, 8))
    return built(recipe), recipe


def failing(action: Callable[[], object]) -> str:
    with pytest.raises(BootcampError) as caught:
        action()
    assert caught.value.exit_code == 2
    return str(caught.value)


# --- what was saved comes back


def test_everything_that_was_saved_comes_back(small: tuple[nn.Module, Recipe], tmp_path: Path) -> None:
    model, recipe = small
    keep = torch.rand_like(model.layer1[0].conv1.weight) > 0.3
    model.layer1[0].conv1.weight.data *= keep
    metrics = {"accuracy": np.float64(91.5), "list": [1, (2, None)], "deep": {"a": True}}
    extra = {"scores": torch.arange(6).reshape(2, 3).t(), "n": np.int64(3)}
    path = tmp_path / "new" / "folder" / "model.pth"
    save_checkpoint(path, model, recipe, masks={"layer1.0.conv1.weight": keep}, metrics=metrics, extra=extra)
    checkpoint = load_checkpoint(path)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(checkpoint.model(x), model(x))
    assert not checkpoint.model.training
    assert checkpoint.recipe == recipe
    assert torch.equal(checkpoint.masks["layer1.0.conv1.weight"], keep)
    assert checkpoint.metrics == {"accuracy": 91.5, "list": [1, (2, None)], "deep": {"a": True}}
    assert type(checkpoint.metrics["accuracy"]) is float
    assert torch.equal(checkpoint.extra["scores"], extra["scores"])
    assert checkpoint.extra["n"] == 3
    assert [entry.name for entry in path.parent.iterdir()] == ["model.pth"]


def test_the_file_opens_anywhere_without_unpickling(small: tuple[nn.Module, Recipe], tmp_path: Path) -> None:
    model, recipe = small
    save_checkpoint(tmp_path / "m.pth", model, recipe, metrics={"a": 1})
    content = torch.load(tmp_path / "m.pth", weights_only=True)
    other = build_model("cifar_resnet20", classes=5, in_channels=1)
    other.load_state_dict(content["state_dict"])  # strict: nothing but the network's own names
    assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in content["state_dict"].values())


def test_saving_leaves_the_network_and_the_random_state_alone(small: tuple[nn.Module, Recipe], tmp_path: Path) -> None:
    model, recipe = small
    model.train()
    recipe.args["shortcut"] = "A"
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    save_checkpoint(tmp_path / "m.pth", model, recipe)
    load_checkpoint(tmp_path / "m.pth")
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert recipe.changes == {}


def test_layout_type_and_frozen_parameters(tmp_path: Path) -> None:
    recipe = recipe_of("cifar_resnet20", shortcut="conv")
    model = built(recipe).to(torch.bfloat16, memory_format=torch.channels_last)
    save_checkpoint(tmp_path / "m.pth", model, recipe)
    loaded = load_model(tmp_path / "m.pth")
    assert {tensor.dtype for tensor in loaded.parameters()} == {torch.bfloat16}
    frozen = [name for name, parameter in loaded.named_parameters() if not parameter.requires_grad]
    assert frozen == ["layer2.0.shortcut.weight", "layer3.0.shortcut.weight"]
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())


def test_a_slice_of_a_large_tensor_is_written_alone(small: tuple[nn.Module, Recipe], tmp_path: Path) -> None:
    model, recipe = small
    model.linear.weight.data = torch.randn(100_000, 64)[:5]
    save_checkpoint(tmp_path / "m.pth", model, recipe)
    assert (tmp_path / "m.pth").stat().st_size < 2_000_000  # 25.6 MB with the rows that are not the network's


NETS = """
import torch
from torch import nn

class Tied(nn.Module):
    def __init__(self, classes, width=6):
        super().__init__()
        self.encode, self.decode = nn.Linear(width, width), nn.Linear(width, width)
        self.decode.weight = self.encode.weight
        self.alias = [self.encode.bias]
        self.head = nn.Linear(width, classes)
        self.scale = 1.0
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
        self.register_buffer("table", torch.arange(3.0), persistent=False)

    def forward(self, x):
        return self.head(self.decode(self.encode(x)) * self.scale + self.alias[0]) + self.table.sum()

class Holder(nn.Module):
    def __init__(self, classes):
        super().__init__()
        from pruning_bootcamp.models import build_model
        self.net = build_model("cifar_resnet20", classes=classes)

    def forward(self, x):
        return self.net(x * 2)
"""


@pytest.fixture
def nets(tmp_path: Path) -> str:
    (tmp_path / "nets.py").write_text(NETS)
    return f"{tmp_path / 'nets.py'}"


def test_tied_weights_stay_tied_and_buffers_outside_the_state_dict_are_kept(nets: str, tmp_path: Path) -> None:
    recipe = recipe_of(f"{nets}:Tied", 3, (1, 1, 6))
    model = built(recipe)
    model.scale = 2.5
    model.table = torch.tensor([5.0, 6.0])
    save_checkpoint(tmp_path / "m.pth", model, recipe)
    loaded = load_checkpoint(tmp_path / "m.pth", trust_code=True)
    x = torch.randn(2, 6)
    assert torch.equal(loaded.model(x), model(x))
    assert loaded.model.decode.weight is loaded.model.encode.weight
    assert loaded.model.alias[0] is loaded.model.encode.bias
    assert loaded.recipe.changes == {"": {"scale": 2.5}}


def test_untied_weights_can_not_pass_for_tied_ones(nets: str, tmp_path: Path) -> None:
    recipe = recipe_of(f"{nets}:Tied", 3, (1, 1, 6))
    model = built(recipe)
    model.decode.weight = nn.Parameter(torch.randn(6, 6))
    assert "encode.weight comes back with other values" in failing(
        lambda: save_checkpoint(tmp_path / "m.pth", model, recipe)
    )
    assert not (tmp_path / "m.pth").exists()


def test_shortcuts_made_prunable_inside_somebody_elses_network(nets: str, tmp_path: Path) -> None:
    recipe = recipe_of(f"{nets}:Holder", 4)
    model, recipe.args = make_prunable(built(recipe), recipe.args)
    save_checkpoint(tmp_path / "m.pth", model, recipe)
    loaded = load_model(tmp_path / "m.pth", trust_code=True)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(x), model(x))
    assert type(loaded.net.layer2[0].shortcut) is nn.Conv2d


# --- pruned networks

CUT = {
    "cifar_resnet20": recipe_of("cifar_resnet20", shortcut="conv"),
    "cifar_resnet18": recipe_of("cifar_resnet18"),
    "vgg16_bn": recipe_of("vgg16_bn"),
    "mobilenet_v2": recipe_of("torchvision/mobilenet_v2", 7, (3, 64, 64)),
    "densenet121": recipe_of("densenet121", 7, (1, 32, 32)),
    "regnet_x_400mf": recipe_of("regnet_x_400mf", 3, (3, 32, 32)),  # grouped convolutions
}


def cut(recipe: Recipe) -> nn.Module:
    """The network with about 40% of its channels taken away, by torch-pruning itself."""
    import torch_pruning

    model = built(recipe)
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    pruner = torch_pruning.pruner.BasePruner(
        model,
        torch.zeros(1, *recipe.input_shape),
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=0.4,
        pruning_ratio_dict={},
        ignored_layers=[head],
    )
    pruner.step()
    return model.eval()


@pytest.mark.parametrize("names", [["cifar_resnet20"], pytest.param(sorted(CUT), marks=pytest.mark.slow, id="all")])
def test_networks_cut_by_torch_pruning_come_back_in_a_new_process(names: list[str], tmp_path: Path) -> None:
    for name in names:
        recipe = CUT[name]
        model = cut(recipe)
        dense = build_model(recipe.model, classes=recipe.classes, in_channels=recipe.in_channels, args=recipe.args)
        widths = [sum(p.numel() for p in network.parameters()) for network in (model, dense)]
        assert widths[0] < 0.7 * widths[1]
        x = torch.randn(2, *recipe.input_shape)
        save_checkpoint(tmp_path / f"{name}.pth", model, recipe)
        torch.save({"x": x, "y": model(x).detach()}, tmp_path / f"{name}.expected")
    script = f"""
        import sys, torch
        from pathlib import Path
        from pruning_bootcamp import load_model
        torch.set_num_threads({torch.get_num_threads()})
        for path in sorted(Path(sys.argv[1]).glob("*.pth")):
            expected = torch.load(path.with_suffix(".expected"), weights_only=True)
            model = load_model(path)
            print(path.stem, torch.equal(model(expected["x"]), expected["y"]), model.training)
        assert "torch_pruning" not in sys.modules
    """
    output = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert output.stderr == ""
    assert output.stdout.splitlines() == [f"{name} True False" for name in names]


def test_a_pruned_network_saved_again_stays_the_same(tmp_path: Path) -> None:
    recipe = CUT["cifar_resnet20"]
    model = cut(recipe)
    save_checkpoint(tmp_path / "1.pth", model, recipe)
    once = load_checkpoint(tmp_path / "1.pth")
    save_checkpoint(tmp_path / "2.pth", once.model, once.recipe, metrics=once.metrics)
    twice = load_checkpoint(tmp_path / "2.pth")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(twice.model(x), model(x))
    assert twice.recipe == once.recipe
    assert once.recipe.changes["conv1"] == {"out_channels": model.conv1.out_channels}
    # it can be trained on: every parameter learns but the fixed shortcuts, which are still 0 and 1
    learning = {name for name, parameter in twice.model.named_parameters() if parameter.requires_grad}
    assert set(dict(twice.model.named_parameters())) - learning == {
        "layer2.0.shortcut.weight",
        "layer3.0.shortcut.weight",
    }


def test_a_transformer_with_fewer_heads_comes_back(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    recipe = recipe_of("timm/vit_tiny_patch16_224", 4, (3, 32, 32), img_size=32, depth=2, num_heads=4, embed_dim=32)
    model = built(recipe)
    for block in model.blocks:  # the last of four heads goes, by hand
        attention, kept = block.attn, torch.arange(24)
        rows = torch.cat([kept, kept + 32, kept + 64])
        attention.qkv.weight.data, attention.qkv.bias.data = attention.qkv.weight[rows], attention.qkv.bias[rows]
        attention.proj.weight.data = attention.proj.weight[:, :24]
        attention.qkv.out_features, attention.proj.in_features, attention.num_heads = 72, 24, 3
        attention.attn_dim = 24
    x = torch.randn(2, 3, 32, 32)
    expected = model(x)
    save_checkpoint(tmp_path / "m.pth", model, recipe)
    loaded = load_model(tmp_path / "m.pth")
    assert torch.equal(loaded(x), expected)
    assert loaded.blocks[0].attn.num_heads == 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda model: model.layer1.append(nn.Identity()), "it has 1 others (layer1.3)"),
        (lambda model: model.__delattr__("linear"), "it lacks 1 modules (linear)"),
        (lambda model: model.set_submodule("bn1", nn.GroupNorm(4, 16)), "bn1 is GroupNorm, not BatchNorm2d"),
        (lambda model: model.conv1.register_parameter("bias", nn.Parameter(torch.ones(16))), "1 tensors belong to no"),
    ],
)
def test_what_can_not_be_rebuilt_is_refused_when_saved(
    small: tuple[nn.Module, Recipe], tmp_path: Path, change: Callable[[Any], object], says: str
) -> None:
    model, recipe = small
    save_checkpoint(tmp_path / "m.pth", model, recipe)
    before = (tmp_path / "m.pth").read_bytes()
    change(model)
    message = failing(lambda: save_checkpoint(tmp_path / "m.pth", model, recipe))
    assert says in message
    assert message.startswith(str(tmp_path / "m.pth"))
    assert (tmp_path / "m.pth").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.pth"]


# --- masks

shapes = st.lists(st.integers(0, 7), min_size=0, max_size=4)


@given(shape=shapes, seed=st.integers(0, 2**31), density=st.floats(0, 1))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_masks_come_back_bit_for_bit(shape: list[int], seed: int, density: float) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density
    packed = masks.pack({"a": mask, "b": ~mask})
    assert packed["a"]["bits"].numel() == (mask.numel() + 7) // 8
    back = masks.unpack(packed)
    assert back["a"].dtype == torch.bool
    assert torch.equal(back["a"], mask)
    assert torch.equal(back["b"], ~mask)


@pytest.mark.parametrize(
    ("name", "mask", "says"),
    [
        ("linear.wight", torch.ones(5, 64, dtype=torch.bool), "Did you mean 'linear.weight'?"),
        ("linear.weight", torch.ones(5, 63, dtype=torch.bool), "has shape (5, 63), not (5, 64)"),
        ("linear.weight", torch.ones(5, 64), "is torch.float32, not torch.bool"),
        ("linear.weight", torch.arange(320).reshape(5, 64) > 3, "4 weights that it prunes are not zero"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(
    small: tuple[nn.Module, Recipe], tmp_path: Path, name: str, mask: torch.Tensor, says: str
) -> None:
    assert says in failing(lambda: save_checkpoint(tmp_path / "m.pth", *small, masks={name: mask}))
    assert list(tmp_path.iterdir()) == []


# --- files of other programs


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "best_prec1": 1.0, "epoch": 3},
        lambda state: {"epoch": 1, "model": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {"net": {f"_orig_mod.module.{key}": value.double() for key, value in state.items()}},
        lambda state: {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")},
    ],
    ids=["plain", "wrapped", "data parallel", "compiled, double", "old torch"],
)
def test_a_foreign_state_dict_opens_with_a_recipe(
    small: tuple[nn.Module, Recipe], tmp_path: Path, wrap: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    model, recipe = small
    torch.save(wrap(dict(model.state_dict())), tmp_path / "other.pt")
    checkpoint = load_checkpoint(tmp_path / "other.pt", recipe=recipe)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(checkpoint.model(x), model(x))
    assert checkpoint.masks == {}
    with pytest.raises(NeedsRecipeError, match="not how their network is built"):
        load_checkpoint(tmp_path / "other.pt")


def test_safetensors_open_with_a_recipe(small: tuple[nn.Module, Recipe], tmp_path: Path) -> None:
    import safetensors.torch

    model, recipe = small
    safetensors.torch.save_file(model.state_dict(), tmp_path / "m.safetensors")
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(load_checkpoint(tmp_path / "m.safetensors", recipe=recipe).model(x), model(x))
    (tmp_path / "bad.safetensors").write_bytes(b"abc" * 20)
    assert "is damaged" in failing(lambda: load_checkpoint(tmp_path / "bad.safetensors", recipe=recipe))


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (recipe_of("cifar_resnet20", 7, (1, 8, 8)), ["it has 5 classes, and the data has 7"]),
        (recipe_of("cifar_resnet20", 5, (3, 8, 8)), ["it takes 1 input channels, and the data has 3"]),
        (recipe_of("cifar_resnet20", 7, (3, 8, 8)), ["5 classes", "1 input channels"]),
        (recipe_of("cifar_resnet32", 5, (1, 8, 8)), ["not the weights of cifar_resnet32", "layer1.3.bn1.bias"]),
        (recipe_of("cifar_resnet18", 5, (1, 8, 8)), ["not the weights of cifar_resnet18", "belong to no part of it"]),
    ],
)
@pytest.mark.parametrize("own", [True, False])
def test_a_checkpoint_of_another_model_or_other_data(
    small: tuple[nn.Module, Recipe], tmp_path: Path, other: Recipe, says: list[str], own: bool
) -> None:
    model, recipe = small
    path = tmp_path / "m.pth"
    if own:
        save_checkpoint(path, model, recipe)
        if other.model != recipe.model:
            says = [f"it is a cifar_resnet20, and a {other.model} is expected. Set model.name=cifar_resnet20"]
    else:
        torch.save(model.state_dict(), path)
    message = failing(lambda: load_checkpoint(path, recipe=other))
    assert message.startswith(str(path))
    for part in says:
        assert part in message


def test_same_names_with_other_shapes(small: tuple[nn.Module, Recipe], tmp_path: Path) -> None:
    model, recipe = small
    state = model.state_dict()
    state["layer1.0.conv1.weight"] = torch.zeros(8, 16, 3, 3)
    torch.save(state, tmp_path / "m.pth")
    message = failing(lambda: load_checkpoint(tmp_path / "m.pth", recipe=recipe))
    assert "1 tensors differ in shape, first layer1.0.conv1.weight (8, 16, 3, 3), not (16, 16, 3, 3)" in message


# --- files that must not open


class Hostile:
    """Unpickled, it makes the file named here."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle", "own format"])
def test_a_hostile_pickle_is_refused_and_nothing_of_it_runs(
    small: tuple[nn.Module, Recipe], tmp_path: Path, how: str
) -> None:
    model, recipe = small
    path, target = tmp_path / "hostile.pth", tmp_path / "made_by_the_pickle"
    content: dict[str, Any] = {"state_dict": dict(model.state_dict()), "x": Hostile(target)}
    if how == "own format":
        save_checkpoint(path, model, recipe)
        content = torch.load(path, weights_only=True) | {"extra": Hostile(target)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content["x"]))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how != "legacy")
    message = failing(lambda: load_checkpoint(path, recipe=recipe))
    assert "refused" in message
    assert how == "pickle" or "mkdir" in message
    assert not target.exists()
    torch.load(path, weights_only=False) if how != "pickle" else pickle.loads(path.read_bytes())
    assert target.exists()  # the file was hostile indeed


def test_a_file_may_not_name_code_to_run(nets: str, tmp_path: Path) -> None:
    recipe = recipe_of(f"{nets}:Tied", 3, (1, 1, 6))
    save_checkpoint(tmp_path / "m.pth", built(recipe), recipe)
    content = torch.load(tmp_path / "m.pth", weights_only=True)
    target = tmp_path / "made_by_the_recipe"
    content["recipe"] |= {"model": "os:mkdir", "args": {"path": str(target)}}
    torch.save(content, tmp_path / "hostile.pth")
    for action in (
        lambda: load_model(tmp_path / "hostile.pth"),
        lambda: load_checkpoint(tmp_path / "hostile.pth", recipe=recipe),
    ):
        with pytest.raises(NeedsRecipeError, match="os:mkdir"):
            action()
    assert not target.exists()
    with pytest.raises(NeedsRecipeError, match="trust_code=True"):
        load_model(tmp_path / "m.pth")
    assert isinstance(load_checkpoint(tmp_path / "m.pth", recipe=recipe), Checkpoint)


def test_published_weights_are_not_fetched_to_open_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.hub.urlopen", lambda *args, **kwargs: pytest.fail("asked the network"))
    recipe = recipe_of("squeezenet1_1", 3, (3, 64, 64))
    model = built(recipe)
    recipe.args["weights"] = "DEFAULT"
    save_checkpoint(tmp_path / "m.pth", model, recipe)
    assert load_checkpoint(tmp_path / "m.pth").recipe.args == {"weights": "DEFAULT"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"conv1": {"forward": 3}}, "conv1.forward, which is no plain attribute"),
        ({"conv1": {"weight": None}}, "conv1.weight, which is no plain attribute"),
        ({"conv1": {"_forward_hooks": {}}}, "conv1._forward_hooks, which is no plain attribute"),
        ({"conv9": {"stride": 3}}, "changes conv9, which cifar_resnet20 does not have"),
        ({"conv1": {"replaced_shortcut": True}}, "replaces the shortcuts conv1"),
    ],
)
def test_a_recipe_can_set_plain_attributes_only(
    small: tuple[nn.Module, Recipe], tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    save_checkpoint(tmp_path / "m.pth", *small)
    content = torch.load(tmp_path / "m.pth", weights_only=True)
    content["recipe"]["changes"] = changes
    torch.save(content, tmp_path / "m.pth")
    assert says in failing(lambda: load_model(tmp_path / "m.pth"))


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda content: content.pop("recipe"), "'recipe' is missing or damaged"),
        (lambda content: content["recipe"].pop("classes"), "lacks 'classes'"),
        (lambda content: content["recipe"].update(input_shape="x"), "'input_shape': 'x' is not a list"),
        (lambda content: content.update(version=2), "format version 2; this release reads 1"),
        (lambda content: content["state_dict"].pop("linear.bias"), "1 of 116 tensors are missing: linear.bias"),
        (lambda content: content["state_dict"].update({"linear.bias": 3}), "linear.bias is int, not a tensor"),
        (
            lambda content: content["masks"].update({"linear.bias": {"shape": [5]}}),
            "mask linear.bias is damaged (KeyError",
        ),
        (
            lambda content: content["masks"].update({"linear.bias": {"shape": [9], "bits": torch.zeros(1).byte()}}),
            "1 bytes are not 9 bits",
        ),
        (lambda content: content["recipe"].update(model="cifar_resnt20"), "Did you mean 'cifar_resnet20'?"),
    ],
)
def test_a_file_of_ours_that_was_edited(
    small: tuple[nn.Module, Recipe], tmp_path: Path, edit: Callable[[dict[str, Any]], object], says: str
) -> None:
    save_checkpoint(tmp_path / "m.pth", *small)
    content = torch.load(tmp_path / "m.pth", weights_only=True)
    edit(content)
    torch.save(content, tmp_path / "m.pth")
    assert says in failing(lambda: load_model(tmp_path / "m.pth"))


def test_missing_damaged_and_mistaken_files(small: tuple[nn.Module, Recipe], tmp_path: Path) -> None:
    model, recipe = small
    save_checkpoint(tmp_path / "best_model.pth", model, recipe)
    whole = (tmp_path / "best_model.pth").read_bytes()
    assert f"Did you mean '{tmp_path / 'best_model.pth'}'?" in failing(lambda: load_model(tmp_path / "best_modl.pth"))
    assert "is a folder, not a checkpoint. Give a file in it: best_model.pth" in failing(lambda: load_model(tmp_path))
    (tmp_path / "empty").mkdir()
    assert "It holds no .pth" in failing(lambda: load_model(tmp_path / "empty"))
    assert "There is no folder" in failing(lambda: load_model(tmp_path / "no" / "m.pth"))
    damaged = {"cut": whole[: len(whole) // 2], "none": b"", "text": b"hello world", "noise": os.urandom(1000)}
    middle = whole.index(b"conv1.weight")
    damaged["flipped"] = whole[:middle] + b"\xff\xff\xff" + whole[middle + 3 :]
    for name, content in damaged.items():
        (tmp_path / f"{name}.pth").write_bytes(content)
        message = failing(lambda name=name: load_checkpoint(tmp_path / f"{name}.pth", recipe=recipe))
        assert f"{name}.pth: is damaged" in message or "refused" in message
    torch.save(torch.ones(3), tmp_path / "tensor.pth")
    assert "holds Tensor, not a checkpoint" in failing(lambda: load_model(tmp_path / "tensor.pth"))
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "no_weights.pth")
    message = failing(lambda: load_checkpoint(tmp_path / "no_weights.pth", recipe=recipe))
    assert "holds no weights" in message
    assert "epoch, lr" in message
    torch.save(model, tmp_path / "whole_model.pth")
    assert "refused" in failing(lambda: load_checkpoint(tmp_path / "whole_model.pth", recipe=recipe))
    torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(tmp_path / "script.pt")
    assert "TorchScript" in failing(lambda: load_model(tmp_path / "script.pt"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(small: tuple[nn.Module, Recipe], tmp_path: Path, value: float) -> None:
    model, recipe = small
    model.layer2[1].bn1.running_var[3] = value
    model.linear.weight.data[0, :2] = value
    message = failing(lambda: save_checkpoint(tmp_path / "m.pth", model, recipe))
    assert "linear.weight holds 2 values of 320 that are not finite" in message
    assert "layer2.1.bn1.running_var holds 1 values of 32" in message
    assert list(tmp_path.iterdir()) == []
    torch.save(model.state_dict(), tmp_path / "other.pth")
    message = failing(lambda: load_checkpoint(tmp_path / "other.pth", recipe=recipe))
    assert "linear.weight holds 2 values of 320 that are not finite" in message


# --- disks that fail


def test_a_full_disk_leaves_the_old_file_and_nothing_else(small: tuple[nn.Module, Recipe], tmp_path: Path) -> None:
    model, recipe = small
    save_checkpoint(tmp_path / "m.pth", model, recipe)
    before = (tmp_path / "m.pth").read_bytes()
    script = """
        import resource, sys
        from pruning_bootcamp.checkpoints import load_checkpoint, save_checkpoint
        from pruning_bootcamp.errors import BootcampError
        checkpoint = load_checkpoint(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            save_checkpoint(sys.argv[1], checkpoint.model, checkpoint.recipe)
        except BootcampError as error:
            print(error)
    """
    output = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "m.pth")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert output.stdout.startswith(f"{tmp_path / 'm.pth'}: could not be written (File too large)")
    assert (tmp_path / "m.pth").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.pth"]


def test_places_that_can_not_be_written(small: tuple[nn.Module, Recipe], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    message = failing(lambda: save_checkpoint(tmp_path / "file" / "m.pth", *small))
    assert "a file stands where a folder is needed" in message
    assert "is a folder. Give a file name" in failing(lambda: save_checkpoint(tmp_path / "folder", *small))


def test_what_is_no_plain_value_is_refused(small: tuple[nn.Module, Recipe], tmp_path: Path) -> None:
    message = failing(lambda: save_checkpoint(tmp_path / "m.pth", *small, metrics={"a": [1, {"b": object()}]}))
    assert "metrics.a.1.b: object can't be kept in a checkpoint" in message
    assert list(tmp_path.iterdir()) == []


def test_the_hash_of_weights_is_the_networks_wherever_it_lies(small: tuple[nn.Module, Recipe], tmp_path: Path) -> None:
    model, recipe = small
    first = weights_hash(model)
    save_checkpoint(tmp_path / "net.pth", model, recipe)
    assert weights_hash(load_checkpoint(tmp_path / "net.pth").model) == first
    assert weights_hash(model.to(memory_format=torch.channels_last)) == first
    assert weights_hash(model.bfloat16()) != first
    weight = next(model.float().parameters())
    before = weights_hash(model)
    with torch.no_grad():
        weight.view(-1)[0] += 2**-20
    assert weights_hash(model) != before
