"""Sparse storage of a network: it opens like a checkpoint, is the very network, and is small."""

import gzip
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from pruning_bootcamp import load_model
from pruning_bootcamp.checkpoints import Recipe, load_checkpoint, save_checkpoint, save_sparse_checkpoint
from pruning_bootcamp.checkpoints.sparse import read_sparse, rounded, write_sparse
from pruning_bootcamp.errors import BootcampError, GoalNotMet
from pruning_bootcamp.exporters import EXPORTERS, export_model
from pruning_bootcamp.models import build_model

EXAMPLE = torch.zeros(1, 3, 16, 16)
TIED = """
from torch import nn
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 3 * 16 * 16)
        self.head = nn.Linear(3 * 16 * 16, 5)
        self.head.weight = self.table.weight
    def forward(self, x):
        return self.head(x.flatten(1))
"""


def recipe(model: str = "cifar_resnet20") -> Recipe:
    return Recipe(
        model=model,
        args={},
        classes=10,
        in_channels=3,
        input_shape=(3, 16, 16),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        class_names=tuple("abcdefghij"),
    )


def images(count: int = 100) -> Tensor:
    return torch.randn(count, 3, 16, 16)


def network(sparsity: float = 0.8) -> tuple[nn.Module, dict[str, Tensor]]:
    """A ResNet-20 with masks on its convolutions; its running statistics are not a fresh network's."""
    model = build_model("cifar_resnet20", classes=10, in_channels=3, args={}).train()
    with torch.no_grad():
        model(images())
        masks = {}
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                masks[name] = torch.rand_like(parameter) >= sparsity
                parameter.masked_fill_(~masks[name], 0)
    return model.eval(), masks


def exported(folder: Path, sparsity: float = 0.8, **rest: object) -> tuple[nn.Module, dict[str, Tensor], Path]:
    model, masks = network(sparsity)
    report = export_model(model, EXAMPLE, folder, format="sparse", recipe=recipe(), masks=masks, **rest)  # type: ignore[arg-type]
    return model, masks, report.path


def test_it_opens_like_any_checkpoint_and_every_bit_is_there(tmp_path: Path) -> None:
    model, masks, path = exported(tmp_path)
    assert path == tmp_path / "model_sparse.safetensors"
    found = load_checkpoint(path)
    again = found.model.state_dict()
    assert list(again) == list(model.state_dict())
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())
    assert found.masks.keys() == masks.keys()
    assert all(torch.equal(found.masks[name], masks[name]) for name in masks)
    assert found.recipe == recipe()
    with torch.inference_mode():
        assert torch.equal(load_model(path)(images(3).zero_()), model(images(3).zero_()))


def test_it_is_smaller_than_gzip_makes_the_dense_weights(tmp_path: Path) -> None:
    for sparsity in (0.5, 0.9, 0.99):
        model, _, path = exported(tmp_path, sparsity, verify=False)
        assert path.stat().st_size < len(gzip.compress(save(dict(model.state_dict())), 9))


def test_the_report_says_size_ratio_and_that_nothing_differs(tmp_path: Path) -> None:
    model, masks = network()
    report = export_model(model, EXAMPLE, tmp_path, format="sparse", recipe=recipe(), masks=masks)
    assert (report.max_difference, report.agreement, report.verified) == (0.0, None, True)
    assert report.size_mb == report.path.stat().st_size / 1e6
    assert report.dense_mb is not None
    assert report.dense_mb == pytest.approx(len(save(dict(model.state_dict()))) / 1e6, rel=0.02)
    assert report.dense_mb / report.size_mb > 4
    assert f"({report.size_mb:.3f} MB; the dense float32 weights take {report.dense_mb:.3f} MB" in str(report)
    assert "without pruning_bootcamp" not in str(report)


@pytest.mark.slow
def test_int8_rounds_convolutions_and_linear_layers_only(tmp_path: Path) -> None:
    model, masks = network()
    report = export_model(
        model,
        EXAMPLE,
        tmp_path,
        format="sparse",
        recipe=recipe(),
        masks=masks,
        examples=images(),
        agreement=0.8,
        args={"values": "int8"},
    )
    assert report.agreement is not None
    assert report.images == 100
    found = load_checkpoint(report.path)
    for name, tensor in model.state_dict().items():
        expected = rounded(tensor) if tensor.dim() > 1 else tensor
        assert torch.equal(found.model.state_dict()[name], expected), name
    for name, mask in masks.items():
        assert torch.equal(found.masks[name], mask & (found.model.state_dict()[name] != 0))
    encodings = read_sparse(report.path).encodings
    assert {name for name, one in encodings.items() if one.scales is not None} == set(masks)
    exact = exported(tmp_path / "exact", verify=False)[2]
    assert report.path.stat().st_size < exact.stat().st_size / 2


def test_int8_that_chooses_other_classes_is_removed(tmp_path: Path) -> None:
    model, _ = network(0.0)
    with torch.no_grad():  # the same for every class, and so large that the weights that decide are rounded away
        model.linear.weight[:, 0] = 1e4
    with pytest.raises(GoalNotMet, match=r"decide alike in .* of 100 real inputs; they must"):
        export_model(
            model,
            EXAMPLE,
            tmp_path,
            format="sparse",
            recipe=recipe(),
            examples=images(),
            agreement=1.0,
            args={"values": "int8"},
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_tied_weights_stay_tied_and_are_stored_once(tmp_path: Path) -> None:
    (tmp_path / "tied.py").write_text(TIED)
    made_by = recipe(f"{tmp_path / 'tied.py'}:Tied")
    model = build_model(made_by.model, classes=5, in_channels=3, args={})
    for values in ("float32", "int8"):
        report = export_model(
            model,
            EXAMPLE,
            tmp_path / values,
            format="sparse",
            recipe=made_by,
            examples=images(),
            agreement=0.5,
            args={"values": values},
        )
        found = load_model(report.path, trust_code=True)
        assert found.head.weight is found.table.weight
        assert read_sparse(report.path).encodings["head.weight"].kind == "same"


@pytest.mark.slow
def test_a_network_that_pruning_made_narrow_comes_back_narrow(tmp_path: Path) -> None:
    model = build_model("cifar_resnet20", classes=10, in_channels=3, args={}).eval()
    first = model.get_submodule("layer1.0")
    with torch.no_grad():
        first.conv1.weight.data, first.conv1.out_channels = first.conv1.weight.data[:5], 5
        first.conv2.weight.data, first.conv2.in_channels = first.conv2.weight.data[:, :5], 5
        for part in ("weight", "bias", "running_mean", "running_var"):
            getattr(first.bn1, part).data = getattr(first.bn1, part).data[:5]
        first.bn1.num_features = 5
    report = export_model(model, EXAMPLE, tmp_path, format="sparse", recipe=recipe())
    assert load_model(report.path).get_submodule("layer1.0").conv1.out_channels == 5
    assert load_checkpoint(report.path).recipe.changes["layer1.0.conv1"] == {"out_channels": 5}


def test_without_a_recipe_it_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BootcampError, match="needs the recipe"):
        export_model(network()[0], EXAMPLE, tmp_path, format="sparse")
    assert list(tmp_path.iterdir()) == []
    assert set(EXPORTERS["sparse"].settings) == {"values"}
    with pytest.raises(BootcampError, match=r"export\.args\.values: unknown value 'int4'"):
        export_model(network()[0], EXAMPLE, tmp_path, format="sparse", args={"values": "int4"})


def test_saving_what_was_loaded_gives_the_same_file(tmp_path: Path) -> None:
    _, _, path = exported(tmp_path, verify=False)
    found = load_checkpoint(path)
    save_sparse_checkpoint(tmp_path / "again.safetensors", found.model, found.recipe, masks=found.masks)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    save_checkpoint(tmp_path / "plain.pth", found.model, found.recipe, masks=found.masks)
    assert load_checkpoint(tmp_path / "plain.pth").recipe == found.recipe


def test_tensors_alone_are_opened_with_a_recipe_like_any_foreign_file(tmp_path: Path) -> None:
    model, _ = network()
    path = tmp_path / "weights.safetensors"
    write_sparse(path, model.state_dict())
    with pytest.raises(BootcampError, match="not how their network is built"):
        load_model(path)
    found = load_checkpoint(path, recipe=recipe()).model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": "{"},
        {"recipe": "[" * 100_000},
        {"recipe": "{}"},
        {"recipe": '{"()": 5}'},
        {"masks": '["nothing"]'},
        {"masks": "[[1]]"},
        {"masks": '["bn1.running_mean"]'},
        {"other_buffers": "7"},
        {"version": "2"},
        {"state": "1"},
        {"metrics": "[]"},
        {"format": '"another"'},
    ],
)
def test_what_a_file_says_of_its_network_is_checked(change: dict[str, str], tmp_path: Path) -> None:
    _, _, path = exported(tmp_path, verify=False)
    file = read_sparse(path)
    write_sparse(path, file.tensors, metadata=file.metadata | change)
    if change == {"state": "1"}:  # what is not known is passed over
        load_model(path)
        return
    with pytest.raises(BootcampError) as caught:
        load_model(path)
    assert str(path) in str(caught.value)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    _, _, path = exported(tmp_path, verify=False)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BootcampError, match=r"model_sparse\.safetensors: is a damaged sparse file"):
        load_model(path)
