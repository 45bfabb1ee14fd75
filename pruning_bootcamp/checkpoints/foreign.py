"""State dicts of other programs: found inside their wrappers, renamed, and fitted to a recipe's network."""

from collections.abc import Mapping
from typing import Any, TypeGuard

from torch import Tensor

from pruning_bootcamp.checkpoints.recipe import Recipe, check_names, fresh_model, tensors_of
from pruning_bootcamp.checkpoints.stored import Stored
from pruning_bootcamp.errors import BootcampError, listed

# Under which name training programs keep the weights, and what wrappers put before each name.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.")


def fit_state_dict(content: Mapping[str, Stored], recipe: Recipe) -> dict[str, Tensor]:
    """The tensors of the recipe's network, taken from a file of somebody else's. Raises BootcampError.

    Not needed in the file: batch-norm's step counters (old files lack them), buffers that state dicts leave out, and
    parameters which the network's builder freezes (constants, such as a fixed shortcut).
    """
    fresh = fresh_model(recipe)
    own = tensors_of(fresh)
    frozen = {name for name, parameter in fresh.named_parameters() if not parameter.requires_grad}
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    optional = frozen | counters | (set(own) - set(fresh.state_dict()))
    state = _without_prefix(_unwrap(content), set(own))
    check_names(set(state) | optional, set(own), recipe)
    _check_shapes(state, own, recipe)
    fitted = {name: tensor.to(own[name].dtype).contiguous() for name, tensor in state.items()}
    return {name: fitted.get(name, tensor.detach()) for name, tensor in own.items()}


def _unwrap(content: Mapping[Any, Stored]) -> dict[str, Tensor]:
    while not _is_state_dict(content):
        inner = [found for key in _WRAPPERS if isinstance(found := content.get(key), Mapping)]
        if not inner:
            raise BootcampError(
                f"holds no weights: neither tensors by name nor one of {listed(_WRAPPERS)}, but "
                f"{listed((str(key) for key in content), 5) or 'nothing'}."
            )
        content = inner[0]
    return dict(content)


def _is_state_dict(content: Mapping[Any, Stored]) -> TypeGuard[Mapping[str, Tensor]]:
    return len(content) > 0 and all(isinstance(key, str) and isinstance(t, Tensor) for key, t in content.items())


def _without_prefix(state: dict[str, Tensor], names: set[str]) -> dict[str, Tensor]:
    """Wrappers' prefixes taken off, as long as no name fits without that."""
    while not names & set(state):
        prefix = next((prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _check_shapes(state: Mapping[str, Tensor], own: Mapping[str, Tensor], recipe: Recipe) -> None:
    wrong = {name: tensor for name, tensor in state.items() if tensor.shape != own[name].shape}
    if not wrong:
        return
    classes = {t.shape[0] for name, t in wrong.items() if _differs_only_at(0, t, own[name], recipe.classes)}
    channels = {t.shape[1] for name, t in wrong.items() if _differs_only_at(1, t, own[name], recipe.in_channels)}
    problems = []
    if len(classes) == 1:
        problems.append(f"it has {classes.pop()} classes, and the data has {recipe.classes}.")
        wrong = {name: t for name, t in wrong.items() if not _differs_only_at(0, t, own[name], recipe.classes)}
    if len(channels) == 1:
        problems.append(f"it takes {channels.pop()} input channels, and the data has {recipe.in_channels}.")
        wrong = {name: t for name, t in wrong.items() if not _differs_only_at(1, t, own[name], recipe.in_channels)}
    if wrong:
        name = min(wrong)
        problems.append(
            f"these are not the weights of {recipe.model}: {len(wrong)} tensors differ in shape, first {name} "
            f"{tuple(wrong[name].shape)}, not {tuple(own[name].shape)}."
        )
    raise BootcampError(*problems)


def _differs_only_at(axis: int, tensor: Tensor, own: Tensor, size: int) -> bool:
    """The shapes are equal but for `axis`, where the network's own has `size`."""
    if tensor.dim() != own.dim() or tensor.dim() <= axis or own.shape[axis] != size:
        return False
    others = [side for side in range(own.dim()) if side != axis]
    return all(tensor.shape[side] == own.shape[side] for side in others) and tensor.shape[axis] != size
