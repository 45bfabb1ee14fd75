"""How sparse each layer of a run's network is: from its masks, from its channels' widths, or why it can't be told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pruning_bootcamp.checkpoints.files import read_file
from pruning_bootcamp.checkpoints.masks import unpack
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.reporting.experiments import SettingRuns
from pruning_bootcamp.reporting.records import Record

CHECKPOINT = "pruned_model.pth"


@dataclass(frozen=True)
class LayerSparsities:
    """Of one run of each setting; `kind` says of what: weights (zeros) or channels (cut)."""

    kind: str
    shares: dict[str, dict[str, float]]
    """setting's label -> layer -> share that is gone, in [0, 1]"""
    notes: Sequence[str]


def layer_sparsities(settings: Sequence[SettingRuns]) -> list[LayerSparsities]:
    """One table for zeroed weights and one for cut channels; of each setting its first run."""
    weights: dict[str, dict[str, float]] = {}
    channels: dict[str, dict[str, float]] = {}
    notes = []
    for setting in settings:
        record = setting.first
        if cut := _widths(record):
            channels[setting.label] = cut
        elif record.command in ("prune-unstructured", "pipeline run") and record.metrics.sparsity:
            try:
                weights[setting.label] = _masks(record)
            except BootcampError as error:
                notes.append(f"{setting.label}: {' '.join(str(error).split())}")
    found = [LayerSparsities("weights", weights, notes)] if weights or notes else []
    return found + ([LayerSparsities("channels", channels, ())] if channels else [])


def _masks(record: Record) -> dict[str, float]:
    """From the checkpoint's masks, opened without pickle and without building the network."""
    path = record.folder / CHECKPOINT
    if not path.is_file():
        raise BootcampError(f"{record.name} has no {CHECKPOINT}, whose masks would tell")
    content = read_file(path)
    packed = content.get("masks")
    masks = unpack(packed if isinstance(packed, Mapping) else {})
    if not masks:
        raise BootcampError(f"{record.name}/{CHECKPOINT} holds no masks")
    return {name.removesuffix(".weight"): 1 - mask.float().mean().item() for name, mask in masks.items()}


def _widths(record: Record) -> dict[str, float]:
    return {name: 1 - after / before for name, (before, after) in (record.metrics.widths or {}).items() if before}
