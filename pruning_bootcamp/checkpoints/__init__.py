"""Checkpoints without pickle: tensors, masks and the recipe that builds the (pruned) network around them."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pruning_bootcamp.checkpoints import masks as packing
from pruning_bootcamp.checkpoints.files import (
    dense_file_bytes,
    plain,
    plain_tensor,
    read_file,
    weights_hash,
    write_file,
    write_sparse_file,
)
from pruning_bootcamp.checkpoints.foreign import fit_state_dict
from pruning_bootcamp.checkpoints.recipe import Recipe, find_changes, rebuild, recipe_from, tensors_of
from pruning_bootcamp.checkpoints.reload import check_proof, check_same, example_input, make_proof
from pruning_bootcamp.checkpoints.sparse import rounded
from pruning_bootcamp.checkpoints.stored import Stored, tensors_in
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.models import is_factory, same_model
from pruning_bootcamp.runs import atomic_path
from pruning_bootcamp.runtime import seeded_rng
from pruning_bootcamp.schema import shown
from pruning_bootcamp.tools.modes import detached_clone

__all__ = [
    "Checkpoint",
    "NeedsRecipeError",
    "Recipe",
    "dense_file_bytes",
    "example_input",
    "load_checkpoint",
    "load_model",
    "save_checkpoint",
    "save_sparse_checkpoint",
    "weights_hash",
]

FORMAT, VERSION = "pruning_bootcamp", 1
_OTHER_SEED = 41
_PARTS = ("recipe", "state_dict", "other_buffers", "masks", "metrics", "extra")


class NeedsRecipeError(BootcampError):
    """The file alone does not say (or may not say) how its network is built: `recipe` must."""


@dataclass
class Checkpoint:
    """A network as it was saved, in eval mode, with what was kept beside it."""

    model: nn.Module
    recipe: Recipe
    masks: dict[str, Tensor]
    """parameter name -> keep mask, True where a weight stays"""
    metrics: dict[str, Stored]
    extra: dict[str, Stored]
    proved: bool = False
    """whether it computes what another process said of it; False of a `module:factory` whose file says nothing"""


def save_checkpoint(
    path: Path | str,
    model: nn.Module,
    recipe: Recipe,
    *,
    masks: Mapping[str, Tensor] | None = None,
    metrics: Mapping[str, Stored] | None = None,
    extra: Mapping[str, Stored] | None = None,
) -> None:
    """Write what `load_model` needs to give `model` back, pruned or not; the model is left as it is.

    The file appears under its name only once it was read again, under another seed, and gave the same network: every
    tensor bit for bit, and the same outputs. BootcampError when the network can't be rebuilt from the recipe, holds
    non-finite weights or weights that a mask prunes, or the disk fails.
    """
    content = _compose_for(Path(path), model, recipe, masks or {}, metrics or {}, extra or {})

    def write(temporary: Path, proof: Mapping[str, Stored]) -> None:
        parts: dict[str, Stored] = {"state_dict": content.state_dict, "other_buffers": content.other_buffers}
        parts |= {"masks": packing.pack(content.masks), "metrics": content.metrics, "extra": content.extra}
        write_file(temporary, {**content.head, **parts, "proof": proof})

    _put(Path(path), content, write, content.tensors, model)


def save_sparse_checkpoint(
    path: Path | str,
    model: nn.Module,
    recipe: Recipe,
    *,
    masks: Mapping[str, Tensor] | None = None,
    int8: Collection[str] = (),
) -> None:
    """As save_checkpoint, in a sparse .safetensors file; the float32 weights named in `int8` are rounded (`rounded`).

    A mask comes back as the places where its weight is not zero: of a kept weight that is zero, nothing is known.
    """
    content = _compose_for(Path(path), model, recipe, masks or {}, {}, {})

    def write(temporary: Path, proof: Mapping[str, Stored]) -> None:
        about: dict[str, Stored] = {"metrics": content.metrics, "extra": content.extra, "proof": proof}
        about |= {"other_buffers": [*content.other_buffers], "masks": [*content.masks]}
        write_sparse_file(temporary, {**content.head, **about}, content.tensors, int8)

    expected = {name: rounded(tensor) if name in int8 else tensor for name, tensor in content.tensors.items()}
    _put(Path(path), content, write, expected, model)


def load_checkpoint(
    path: Path | str,
    *,
    recipe: Recipe | None = None,
    device: torch.device | str = "cpu",
    trust_code: bool = False,
) -> Checkpoint:
    """The checkpoint in a file, read with `weights_only=True`.

    A file of `save_checkpoint` rebuilds itself; `recipe`, when given, says which model, classes and channels are
    expected. A state dict of another program (.pth, .pt, .th, .safetensors) needs `recipe`: NeedsRecipeError without.
    A file whose network comes from `module:factory` names code to run on this machine: it opens when `recipe` names the
    same factory, or with `trust_code`.
    """
    path = Path(path)
    content = read_file(path)
    with _naming(path):
        if content.get("format") == FORMAT:
            checkpoint = _open_own(content, recipe, trust_code)
        elif recipe is None:
            raise NeedsRecipeError(
                "holds weights, but not how their network is built. Name it: model.name=NAME, or recipe=Recipe(...)."
            )
        else:
            checkpoint = _open_foreign(content, replace(recipe, changes={}))
    checkpoint.model.to(device).eval()
    checkpoint.masks = {name: mask.to(device) for name, mask in checkpoint.masks.items()}
    return checkpoint


def load_model(path: Path | str, device: torch.device | str = "cpu", *, trust_code: bool = False) -> nn.Module:
    """The (pruned) network in a checkpoint of `save_checkpoint`, in eval mode; what pruned it is not needed.

    `trust_code` lets the file name a `module:factory` of yours to build it.
    """
    return load_checkpoint(path, device=device, trust_code=trust_code).model


@dataclass(frozen=True)
class _Content:
    """What is to be written of a network."""

    recipe: Stored
    state_dict: dict[str, Tensor]
    other_buffers: dict[str, Tensor]
    masks: Mapping[str, Tensor]
    metrics: Stored
    extra: Stored

    @property
    def head(self) -> dict[str, Stored]:
        """What a file of ours begins with."""
        return {"format": FORMAT, "version": VERSION, "recipe": self.recipe}

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {**self.state_dict, **self.other_buffers}


def _compose_for(
    path: Path,
    model: nn.Module,
    recipe: Recipe,
    masks: Mapping[str, Tensor],
    metrics: Mapping[str, Stored],
    extra: Mapping[str, Stored],
) -> _Content:
    with _naming(path):
        if path.is_dir():
            raise BootcampError("is a folder. Give a file name, such as best_model.pth.")
        packing.check(masks, model)
        originals = tensors_of(model)
        copies = {id(tensor): plain_tensor(tensor) for tensor in originals.values()}  # tied weights are written once
        tensors = {name: copies[id(tensor)] for name, tensor in originals.items()}
        saved = set(model.state_dict())
        if beyond := saved - set(tensors):
            raise BootcampError(f"{sorted(beyond)[0]} is neither a parameter nor a buffer, and can't be kept.")
        made = replace(recipe, changes=find_changes(model, recipe))
        return _Content(
            plain(made.as_dict(), "recipe"),
            {name: tensor for name, tensor in tensors.items() if name in saved},
            {name: tensor for name, tensor in tensors.items() if name not in saved},
            masks,
            plain(metrics, "metrics"),
            plain(extra, "extra"),
        )


def _put(
    path: Path,
    content: _Content,
    write: Callable[[Path, Mapping[str, Stored]], None],
    expected: Mapping[str, Tensor],
    model: nn.Module,
) -> None:
    """The file under its name, once it was read again: its network holds the expected tensors, and computes with them
    what `model` does. `write` puts the content and a proof of it into a file."""
    with _naming(path), atomic_path(path) as temporary:
        reference = detached_clone(model).cpu()
        own = tensors_of(reference)
        for name, tensor in expected.items():
            own[name].data = tensor
        write(temporary, make_proof(reference, recipe_from(content.recipe)))
        _prove(temporary, expected, reference)


def _prove(path: Path, written: Mapping[str, Tensor], reference: nn.Module) -> None:
    """Under another seed the file gives the network back that was put in: every tensor bit for bit, and its outputs."""
    with seeded_rng(_OTHER_SEED):
        opened = _opened(read_file(path), None, trust_code=True)
    found = tensors_of(opened.model)
    for name, tensor in written.items():
        if not _same_bits(found[name], tensor):
            raise BootcampError(f"{name} comes back with other values: is it tied to another in a fresh build only?")
    check_same(reference, opened.model, opened.recipe)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    bits = [tensor.detach().reshape(-1).contiguous().view(torch.uint8) for tensor in (one, other)]
    return torch.equal(*bits)


def _open_own(content: Mapping[str, Stored], expected: Recipe | None, trust_code: bool) -> Checkpoint:
    """The network of a file of ours, proved: it computes what the file says that it did, and under another seed too."""
    checkpoint = _opened(content, expected, trust_code)
    proof = content.get("proof")
    own = is_factory(checkpoint.recipe.model)
    model = detached_clone(checkpoint.model) if own else checkpoint.model  # one's own may keep something in a pass
    if proof:
        if not isinstance(proof, Mapping):
            raise BootcampError("its 'proof' is damaged. Make the file again.")
        check_proof(model, checkpoint.recipe, proof)
    if own or not proof:
        with seeded_rng(_OTHER_SEED):
            again = _opened(content, expected, trust_code)
        check_same(model, again.model, checkpoint.recipe)
    checkpoint.proved = bool(proof) or not own
    return checkpoint


def _open_foreign(content: Mapping[str, Stored], recipe: Recipe) -> Checkpoint:
    """The recipe's network with the weights of another program; it must not depend on what its builder draws."""

    def build() -> nn.Module:
        return rebuild(recipe, fit_state_dict(content, recipe))

    model = build()
    with seeded_rng(_OTHER_SEED):
        again = build()
    own = is_factory(recipe.model)
    check_same(detached_clone(model) if own else model, again, recipe)
    return Checkpoint(model, recipe, {}, {}, {}, proved=not own)


def _opened(content: Mapping[str, Stored], expected: Recipe | None, trust_code: bool) -> Checkpoint:
    version = content.get("version")
    if type(version) is not int or version != VERSION:
        raise BootcampError(f"has format version {shown(version)}; this release reads {VERSION}. Update it.")
    parts: dict[str, Mapping[str, Stored]] = {}
    for key in _PARTS:
        part = content.get(key)
        if not isinstance(part, Mapping) or not all(isinstance(name, str) for name in part):
            raise BootcampError(f"its '{key}' is missing or damaged. Make the file again.")
        parts[key] = part
    recipe = recipe_from(parts["recipe"])
    if is_factory(recipe.model) and not trust_code and (expected is None or expected.model != recipe.model):
        raise NeedsRecipeError(
            f"its network is built by running code of this machine that the file names: {recipe.model}. If that is "
            f"yours, say so: model.name={recipe.model} (or -c with its run's config.yaml); in Python trust_code=True."
        )
    if expected is not None:
        _check_expected(recipe, expected)
    model = rebuild(recipe, tensors_in({**parts["state_dict"], **parts["other_buffers"]}))
    masks = packing.unpack(parts["masks"])
    packing.check(masks, model)
    return Checkpoint(model, recipe, masks, dict(parts["metrics"]), dict(parts["extra"]))


def _check_expected(recipe: Recipe, expected: Recipe) -> None:
    problems = []
    if not same_model(recipe.model, expected.model):
        problems.append(f"it is a {recipe.model}, and a {expected.model} is expected. Set model.name={recipe.model}.")
    if recipe.classes != expected.classes:
        problems.append(f"it has {recipe.classes} classes, and the data has {expected.classes}.")
    if recipe.in_channels != expected.in_channels:
        problems.append(f"it takes {recipe.in_channels} input channels, and the data has {expected.in_channels}.")
    if problems:
        raise BootcampError(*problems)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Problems found inside get the file in front, unless they name it already."""
    try:
        yield
    except BootcampError as error:
        if any(str(path) in str(problem) for problem in error.problems):
            raise
        raise type(error)(*error.problems, where=str(path)) from error
