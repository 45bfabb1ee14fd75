"""Sparse storage: the network in one small safetensors file that opens like any checkpoint of this project."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from pruning_bootcamp.checkpoints import Recipe, load_model, save_sparse_checkpoint
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.exporters.base import EXPORTERS
from pruning_bootcamp.tools.latency.runner import Runner

_PROGRAM = """
import torch
from pruning_bootcamp.checkpoints import load_model
network = load_model(path, trust_code=True)
def run(images):
    with torch.inference_mode():
        return network(torch.from_numpy(images).clone()).numpy()
"""
_ROUNDED_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@EXPORTERS.register(
    "sparse",
    suffix="_sparse.safetensors",
    title="sparse safetensors",
    program=_PROGRAM,
    needs=("recipe", "masks"),
    proof=lambda *, values="float32": "equal" if values == "float32" else "agreement",
    project=True,
    compact=True,
)
def write_sparse_model(
    model: nn.Module,
    example: Tensor,
    path: Path,
    *,
    recipe: Recipe | None = None,
    masks: Mapping[str, Tensor] | None = None,
    values: Literal["float32", "int8"] = "float32",
) -> Runner:
    """Sparse safetensors: bitmask or N:M packed and deflated; the exact network, or convolutions and linear in int8.

    `load_model` of this project opens it. Each tensor is read back and compared before the file is there: float32 is
    the very network, batch norm and all; int8 rounds each weight of a convolution or linear layer to 255 levels of its
    output channel's own, and zeros stay zeros.
    """
    if recipe is None:
        raise BootcampError("export: sparse needs the recipe that builds the network again: give recipe=Recipe(...).")
    int8 = _rounded_weights(model) if values == "int8" else set()
    save_sparse_checkpoint(path, model, recipe, masks=masks, int8=int8)
    network = load_model(path, trust_code=True)  # the code that built `model`
    return Runner("pruning_bootcamp", lambda images: network(images))


def _rounded_weights(model: nn.Module) -> set[str]:
    """Every name of the weights of convolutions and linear layers, those tied to others' included."""
    weights = {id(module.weight) for module in model.modules() if isinstance(module, _ROUNDED_LAYERS)}
    return {name for name, parameter in model.named_parameters(remove_duplicate=False) if id(parameter) in weights}
