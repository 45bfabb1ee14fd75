"""IterativePruningTrainer: prune a little, retrain, and again, on plain DataLoaders of (inputs, targets)."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_bootcamp.checkpoints import weights_hash
from pruning_bootcamp.checkpoints.attributes import check_unsaved, unsaved
from pruning_bootcamp.checkpoints.files import plain, read_file, write_file
from pruning_bootcamp.checkpoints.stored import Stored, table, tensors_in
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.pruning.weights.magnitude_pruner import IterativeMagnitudePruner, PruningRound
from pruning_bootcamp.runs import atomic_path
from pruning_bootcamp.runtime import choose_device, preserved_rng
from pruning_bootcamp.tasks import IMAGE_CLASSIFICATION
from pruning_bootcamp.tools.modes import evaluation_mode
from pruning_bootcamp.training.hooks import Hook

Loader = Iterable[tuple[Tensor, Tensor]]


class IterativeResults(TypedDict):
    """What all rounds of an IterativePruningTrainer came to."""

    achieved_sparsity: float
    """of the target layers, as `compression_ratio`"""
    compression_ratio: float
    perplexity_degradation: float
    """relative to the dense model: 0.1 is 10% more"""
    dense_perplexity: float
    final_perplexity: float
    history: list[PruningRound]


@dataclass(frozen=True)
class _Saved:
    """What a finished round left in its file."""

    state_dict: dict[str, Tensor]
    masks: dict[str, Tensor]
    history: list[PruningRound]
    dense_perplexity: float
    extra: Mapping[str, Stored]


class IterativePruningTrainer:
    """Magnitude pruning in rounds, s_0 * (s_f / s_0)^(t / T), with retraining after each (Han et al., 2015).

    The model, trained in place, is a classifier or a language model: its output (or its `.logits`, or the first of a
    tuple) is [..., classes], and the targets are [...]; a target of -100 does not count. `target_layers` are parts of
    names, all layers that multiply by weights when None.
    """

    def __init__(
        self,
        model: nn.Module,
        initial_sparsity: float = 0.2,
        final_sparsity: float = 0.8,
        num_iterations: int = 5,
        target_layers: Sequence[str] | None = None,
        device: str = "auto",
        seed: int = 0,
    ) -> None:
        self.device, _ = choose_device(device)
        self.model = model.to(self.device)
        self.seed = seed
        self._unsaved = unsaved(model)
        self.pruner = IterativeMagnitudePruner(initial_sparsity, final_sparsity, num_iterations, target_layers)
        self._choices: dict[str, Plain] = {
            "initial_sparsity": initial_sparsity,
            "final_sparsity": final_sparsity,
            "num_iterations": num_iterations,
            "target_layers": list(target_layers) if target_layers is not None else None,
            "seed": seed,
        }

    def run_iterative_pruning(
        self,
        train_loader: Loader,
        val_loader: Loader,
        retrain_epochs: int = 3,
        learning_rate: float = 1e-4,
        save_dir: Path | str | None = None,
    ) -> IterativeResults:
        """All rounds; what was reached at which price, and every round's metrics in `history`.

        With a `save_dir` each round ends in iteration_N.pth there, and the same call again (a fresh trainer, the dense
        model) goes on after the last finished round.
        """
        if retrain_epochs < 0 or not learning_rate > 0:
            raise BootcampError(
                f"run_iterative_pruning: retrain_epochs {retrain_epochs} must be 0 or more, and learning_rate "
                f"{learning_rate} above 0."
            )
        if self.pruner.history:
            raise BootcampError("run_iterative_pruning: this trainer has run. Make a new one with the dense model.")
        folder = Path(save_dir) if save_dir is not None else None
        about: dict[str, Plain] = {
            **self._choices,
            "retrain_epochs": retrain_epochs,
            "learning_rate": learning_rate,
            "dense model": weights_hash(self.model),
        }
        saved = _last_round(folder, about, self.model, self.pruner.num_iterations)
        if saved is not None:
            self.model.load_state_dict(saved.state_dict)
            masks = {name: keep.to(self.device) for name, keep in saved.masks.items()}
            self.pruner.go_on(self.model, saved.history, masks)
            self._take_extra_state(saved.extra)
            dense = saved.dense_perplexity
            LOGGER.info("Iteration %d: already finished, read from %s", len(self.pruner.history), folder)
        else:
            dense = self.perplexity(val_loader)
        while len(self.pruner.history) < self.pruner.num_iterations:
            self._round(train_loader, val_loader, retrain_epochs, learning_rate)
            if folder is not None:
                self._save(folder, about, dense)
        last = self.pruner.history[-1]
        return {
            "achieved_sparsity": last["sparsity"],
            "compression_ratio": last["compression_ratio"],
            "perplexity_degradation": last["perplexity"] / dense - 1,
            "dense_perplexity": dense,
            "final_perplexity": last["perplexity"],
            "history": self.pruner.history,
        }

    def perplexity(self, loader: Loader) -> float:
        """exp of the mean cross-entropy over every target of the loader."""
        total, count = 0.0, 0
        with preserved_rng(), evaluation_mode(self.model), torch.inference_mode():
            for inputs, targets in loader:
                loss, number = self._loss(inputs, targets)
                total, count = total + float(loss), count + number
        if count == 0:
            raise BootcampError("the loader gives no target: there is no perplexity to measure.")
        if total / count > 700:  # math.exp would overflow
            return math.inf
        return math.exp(total / count)

    def _round(self, train_loader: Loader, val_loader: Loader, epochs: int, learning_rate: float) -> None:
        """Prune, retrain with the zeros held, and measure before and after; one entry of the pruner's history."""
        number = len(self.pruner.history) + 1
        metrics = self.pruner.prune_step(self.model)
        metrics["perplexity_pruned"] = self.perplexity(val_loader)
        with preserved_rng():
            torch.manual_seed(self.seed + number)  # a round draws the same whatever ran before it
            metrics["train_loss"] = self._retrain(train_loader, epochs, learning_rate)
        metrics["perplexity"] = self.perplexity(val_loader)
        LOGGER.info(
            "Iteration %d/%d: %.2f%% pruned, perplexity %.4g, retrained %.4g",
            number,
            self.pruner.num_iterations,
            100 * metrics["sparsity"],
            metrics["perplexity_pruned"],
            metrics["perplexity"],
        )

    def _retrain(self, loader: Loader, epochs: int, learning_rate: float) -> list[float]:
        """The mean training loss of each epoch."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=learning_rate)
        losses = []
        with evaluation_mode(self.model):  # for the modes that it gives back
            self.model.train()
            for epoch in range(1, epochs + 1):
                losses.append(self._epoch(loader, optimizer))
                if not math.isfinite(losses[-1]):
                    raise BootcampError(f"retraining, epoch {epoch}: the loss is {losses[-1]}. Lower learning_rate.")
        optimizer.zero_grad(set_to_none=True)
        return losses

    def _epoch(self, loader: Loader, optimizer: torch.optim.Optimizer) -> float:
        total, count = 0.0, 0
        for inputs, targets in loader:
            optimizer.zero_grad(set_to_none=True)
            loss, number = self._loss(inputs, targets)
            (loss / max(number, 1)).backward()
            optimizer.step()
            self.pruner.train_step_with_mask(self.model)
            total, count = total + float(loss.detach()), count + number
        if count == 0:
            raise BootcampError("the training loader gives no target: there is nothing to learn from.")
        return total / count

    def _loss(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        """Cross-entropy summed over the targets, and how many there are."""
        output = self.model(inputs.to(self.device))
        logits = _logits(output)
        targets = targets.to(self.device)
        if logits.shape[:-1] != targets.shape:
            raise BootcampError(
                f"the model gives {tuple(logits.shape)} for targets of shape {tuple(targets.shape)}: it must be "
                "[..., classes] for targets [...]."
            )
        flat = targets.reshape(-1)
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), flat, reduction="sum")
        return loss, int((flat != -100).sum())

    def _extra_state(self) -> dict[str, Stored]:
        """What a subclass keeps beside the weights from round to round."""
        return {}

    def _take_extra_state(self, saved: Mapping[str, Stored]) -> None:
        """What `_extra_state` gave, of an earlier process."""

    def _save(self, folder: Path, about: Mapping[str, Plain], dense: float) -> None:
        content = {
            "about": dict(about),
            "dense_perplexity": dense,
            "state_dict": self.model.state_dict(),
            "masks": self.pruner.masks(self.model),
            "unsaved": self._unsaved,
            "history": self.pruner.history,
            "extra": self._extra_state(),
        }
        with atomic_path(_round_file(folder, len(self.pruner.history))) as temporary:
            write_file(temporary, plain(content, "iterative pruning"))


class DistillationTrainer(IterativePruningTrainer):
    """The same loops, with accuracy beside perplexity, and a teacher where there is one (Hinton et al., 2015)."""

    teacher: nn.Module | None = None
    hook: Hook | None = None
    """what watches the layers, and has to stand where it stood when a round is taken up (8-bit ranges)"""
    distill_weight = 0.5
    temperature = 4.0
    _right, _targets = 0, 0

    def judge(self, loader: Loader) -> dict[str, float]:
        """{accuracy, in percent; perplexity} of the model, over the targets of `loader` that are not -100."""
        self._right, self._targets = 0, 0
        perplexity = self.perplexity(loader)
        return {"accuracy": 100 * self._right / self._targets, "perplexity": perplexity}

    def learn(self, loader: Loader, epochs: int, learning_rate: float) -> list[float]:
        """The mean training loss of each epoch; pruned weights stay zero."""
        with preserved_rng():
            torch.manual_seed(self.seed)
            return self._retrain(loader, epochs, learning_rate)

    def _extra_state(self) -> dict[str, Stored]:
        return self.hook.state_dict() if self.hook is not None else {}

    def _take_extra_state(self, saved: Mapping[str, Stored]) -> None:
        if self.hook is not None:
            self.hook.load_state_dict(saved)

    def _loss(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        seen: list[Tensor] = []
        handle = self.model.register_forward_hook(lambda module, given, output: seen.append(_logits(output)))
        try:
            loss, count = super()._loss(inputs, targets)
        finally:
            handle.remove()
        targets = targets.to(self.device)
        logits = seen[0][targets != -100]
        self._right += int((logits.detach().argmax(-1) == targets[targets != -100]).sum())
        self._targets += count
        if self.teacher is not None and self.model.training:
            with torch.no_grad():
                teacher_outputs = _logits(self.teacher(inputs.to(self.device)))[targets != -100]
            distilled = IMAGE_CLASSIFICATION.distance(logits, teacher_outputs, self.temperature)
            loss = (1 - self.distill_weight) * loss + self.distill_weight * distilled
        return loss, count


def create_iterative_pruning_trainer(
    model: nn.Module,
    initial_sparsity: float = 0.2,
    final_sparsity: float = 0.8,
    num_iterations: int = 5,
    target_layers: Sequence[str] | None = None,
    device: str = "auto",
    seed: int = 0,
) -> IterativePruningTrainer:
    """An IterativePruningTrainer for the model, which is moved to the device."""
    return IterativePruningTrainer(
        model, initial_sparsity, final_sparsity, num_iterations, target_layers, device=device, seed=seed
    )


def _round_file(folder: Path, number: int) -> Path:
    return folder / f"iteration_{number}.pth"


def _last_round(folder: Path | None, about: Mapping[str, Plain], model: nn.Module, rounds: int) -> _Saved | None:
    """What the last finished round saved; BootcampError when it belongs to another pruning."""
    found = [] if folder is None else [_round_file(folder, number) for number in range(rounds, 0, -1)]
    path = next((file for file in found if file.exists()), None)
    if path is None:
        return None
    saved = read_file(path)
    theirs = table(saved.get("about", {}), f"{path}: 'about'")
    differences = [
        f"{key} was {theirs.get(key, 'not there')} and is now {value}."
        for key, value in about.items()
        if theirs.get(key, "not there") != value
    ]
    if differences:
        raise BootcampError(f"{path} is a round of another pruning. Choose another save_dir.", *differences)
    check_unsaved(model, table(saved.get("unsaved", {}), f"{path}: 'unsaved'"), str(path))
    history, dense = saved.get("history"), saved.get("dense_perplexity")
    if not isinstance(history, list) or not all(map(_is_round, history)) or not isinstance(dense, float):
        raise BootcampError(f"{path}: its 'history' or 'dense_perplexity' is damaged. Delete it, and begin anew.")
    return _Saved(
        state_dict=tensors_in(table(saved.get("state_dict"), f"{path}: 'state_dict'")),
        masks=tensors_in(table(saved.get("masks"), f"{path}: 'masks'")),
        history=cast("list[PruningRound]", history),
        dense_perplexity=dense,
        extra=table(saved.get("extra", {}), f"{path}: 'extra'"),
    )


def _is_round(entry: Stored) -> bool:
    return isinstance(entry, Mapping) and PruningRound.__required_keys__ <= entry.keys()


def _logits(output: Any) -> Tensor:
    logits: Tensor = output[0] if isinstance(output, tuple) else getattr(output, "logits", output)
    return logits
