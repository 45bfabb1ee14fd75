"""Reading and writing checkpoint files: plain values and tensors only, never a pickle that could run code."""

import hashlib
import json
import pickle
import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.checkpoints import masks as packing
from pruning_bootcamp.checkpoints.limits import check_content, check_header
from pruning_bootcamp.checkpoints.sparse import is_sparse, read_sparse, write_sparse
from pruning_bootcamp.checkpoints.stored import Stored
from pruning_bootcamp.errors import BootcampError, listed
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.runs import scratch_folder, siblings

SUFFIXES = (".pth", ".pt", ".th", ".safetensors")


def write_file(path: Path, content: Stored) -> None:
    """A table, by torch.save. A disk that fails is an OSError."""
    try:
        with open(path, "wb") as stream:
            torch.save(content, stream)
    except RuntimeError as error:
        # torch's writer covers the disk's own complaint by one about its position in the file
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def write_sparse_file(
    path: Path, about: Mapping[str, Stored], tensors: Mapping[str, Tensor], int8: Collection[str] = ()
) -> None:
    """A checkpoint as a sparse file: of the tensors, `about` only names which are `other_buffers`, and which have
    `masks`: the places where a weight is not zero."""
    metadata = {key: json.dumps(_tagged(value)) for key, value in about.items()}
    write_sparse(path, tensors, int8=int8, metadata=metadata)


def dense_file_bytes(model: nn.Module) -> int:
    """Size on disk of the model's state in float32 as a safetensors file, a tensor of several names once.

    What compressed files are compared with. The file is written, measured and removed.
    """
    import safetensors.torch

    tensors: dict[tuple[int, torch.Size], tuple[str, Tensor]] = {}
    for name, value in model.state_dict().items():
        kept = value.detach().cpu()
        kept = kept.float() if kept.is_floating_point() else kept
        key = (value.data_ptr() if value.numel() else len(tensors), value.shape)
        tensors.setdefault(key, (name, kept.contiguous()))
    with scratch_folder() as folder:
        path = folder / "dense.safetensors"
        safetensors.torch.save_file(dict(tensors.values()), path)
        return path.stat().st_size


def read_file(path: Path) -> dict[str, Stored]:
    """The table of names and values in a checkpoint file, tensors on the CPU. BootcampError for anything else."""
    _check_is_file(path)
    check_header(path)
    is_torch = path.suffix != ".safetensors"
    content = _read_torch(path) if is_torch else _read_safetensors(path)
    if not isinstance(content, Mapping):
        raise BootcampError(f"{path}: holds {type(content).__name__}, not a checkpoint. {_HOW_TO_CONVERT}")
    try:
        check_content(content, path.stat().st_size if is_torch else None)
    except BootcampError as error:
        raise BootcampError(*error.problems, where=str(path)) from None
    return dict(content)


def _check_is_file(path: Path) -> None:
    try:
        if path.is_dir():
            found = [entry.name for entry in path.iterdir() if entry.suffix in SUFFIXES]
            holds = f"Give a file in it: {listed(found, 8)}." if found else f"It holds no {', '.join(SUFFIXES)} file."
            raise BootcampError(f"{path}: is a folder, not a checkpoint. {holds}")
        if not path.exists():
            raise BootcampError(f"{path}: there is no such file. {siblings(path)}")
        if not path.is_file():  # a pipe would keep us waiting for ever, a device never end
            raise BootcampError(f"{path}: is a device or a pipe, not a file.")
        open(path, "rb").close()
    except PermissionError:
        raise BootcampError(f"{path}: no permission to read it.") from None
    except OSError as error:
        raise BootcampError(f"{path}: can't be read ({error.strerror}).") from None


def plain(value: Any, where: str) -> Stored:
    """`value` as numbers, texts, lists, tables and detached CPU tensors, so that `weights_only=True` can read it."""
    if isinstance(value, Tensor):
        return plain_tensor(value)
    if isinstance(value, Mapping):
        return {plain(key, where): plain(entry, f"{where}.{key}") for key, entry in value.items()}
    if isinstance(value, tuple | list):
        entries = [plain(entry, f"{where}.{number}") for number, entry in enumerate(value)]
        return tuple(entries) if isinstance(value, tuple) else entries
    for kind in (bool, int, float, str):  # NumPy's float64 is a float too, and would need unpickling
        if isinstance(value, kind):
            return kind(value)
    if value is None:
        return None
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    raise BootcampError(
        f"{where}: {type(value).__name__} can't be kept in a checkpoint. Give numbers, text, lists, tables or tensors."
    )


def plain_tensor(tensor: Tensor) -> Tensor:
    """A copy on the CPU without history, in the usual memory order, that shares memory with nothing."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


_HOW_TO_CONVERT = "Save the weights alone: torch.save(model.state_dict(), 'weights.pth')."


def _read_safetensors(path: Path) -> Mapping[str, Stored]:
    import safetensors.torch

    if is_sparse(path):
        return _read_sparse(path)
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:  # the library's own error class is not public
        raise _corrupt(path, error) from error


def _read_sparse(path: Path) -> Mapping[str, Stored]:
    """The content that `write_sparse_file` was given, or the tensors alone where nothing tells of a network."""
    try:
        file = read_sparse(path)
    except (AttributeError, TypeError) as error:  # NumPy has no such type as the file's header names
        raise _corrupt(path, error) from error
    if "recipe" not in file.metadata:
        return dict(file.tensors)
    try:
        about = {key: json.loads(text, object_hook=_untagged) for key, text in file.metadata.items()}
        others, masked = set(about["other_buffers"]), list(about["masks"])
        masks = packing.pack({name: file.tensors[name] != 0 for name in masked})
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BootcampError(
            f"{path}: what it says of its network is damaged ({type(error).__name__}: {error}). Make the file again."
        ) from error
    own = {name: tensor for name, tensor in file.tensors.items() if name not in others}
    rest = {name: tensor for name, tensor in file.tensors.items() if name in others}
    return {**about, "state_dict": own, "other_buffers": rest, "masks": masks}


def _tagged(value: Any) -> Any:
    """Plain values so that JSON keeps tuples apart from lists."""
    if isinstance(value, tuple):
        return {"()": [_tagged(entry) for entry in value]}
    if isinstance(value, list):
        return [_tagged(entry) for entry in value]
    return {key: _tagged(entry) for key, entry in value.items()} if isinstance(value, dict) else value


def _untagged(table: dict[str, Plain]) -> Stored:
    if table.keys() != {"()"}:
        return table
    entries = table["()"]
    if not isinstance(entries, list):
        raise TypeError("a tuple without entries")
    return tuple(entries)


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols and TorchScript: the errors below say it
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not _is_pickle(path):
            raise _corrupt(path, error) from error
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f" (it asks for {found[1]})" if found else ""
        raise BootcampError(
            f"{path}: refused, because opening it means unpickling objects, which can run any code{what}. "
            f"Nothing of it was run. Where the file is trusted: {_HOW_TO_CONVERT}"
        ) from error
    except Exception as error:  # damaged bytes fail in the reader in any way: KeyError, EOFError, UnicodeDecodeError
        if "TorchScript" in str(error):
            raise BootcampError(f"{path}: is an exported TorchScript file, not a checkpoint.") from error
        raise _corrupt(path, error) from error


def _is_pickle(path: Path) -> bool:
    """A zip archive (torch.save) or the first byte of a binary pickle, after which a protocol number comes."""
    with open(path, "rb") as stream:
        head = stream.read(2)
    return head == b"PK" or (len(head) == 2 and head[0] == 0x80 and head[1] <= pickle.HIGHEST_PROTOCOL)


def _corrupt(path: Path, error: Exception) -> BootcampError:
    size = path.stat().st_size
    reason = (str(error).splitlines() or [""])[0].partition(". ")[0]
    return BootcampError(
        f"{path}: is damaged or no checkpoint at all ({size:,} bytes; {type(error).__name__}: {reason}). "
        "Fetch or make it again."
    )


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over name, type, shape and value of every tensor of the state dict, 16 digits."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, torch.Tensor):
            plain = value.detach().cpu().contiguous()
            digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
