"""The moving parts of one training: the step, the end of an epoch, and the state that a resume needs."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.tasks import Measurement, Totals, total
from pruning_bootcamp.tools.datasets import Splits, TrainBatches, eval_batches
from pruning_bootcamp.training.distributed import World, seed_step
from pruning_bootcamp.training.ema import MovingAverage
from pruning_bootcamp.training.hooks import Hook, MaskHook, ScaleSparsity, StepState, apply_masks_exactly, same_masks
from pruning_bootcamp.training.losses import TrainingLoss
from pruning_bootcamp.training.optim import FACTOR, OPTIMIZERS, learning_rate, split_by_factor
from pruning_bootcamp.training.records import Best, Epoch, StepReport, Sums
from pruning_bootcamp.training.settings import TrainSettings
from pruning_bootcamp.training.state import TrainingState

_AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# How many steps an accelerator may run ahead before their losses are read: reading makes the CPU wait for it.
_STEPS_UNREAD = 50


class Training:
    """Everything that changes while a network trains. What a step draws (order, augmentation, mixup, dropout) is a
    function of (seed, step, process), so no generator's state has to be kept."""

    def __init__(
        self,
        model: nn.Module,
        splits: Splits,
        settings: TrainSettings,
        *,
        keep_best: bool,
        world: World,
        seed: int,
        masks: Mapping[str, Tensor] | None,
        hooks: Sequence[Hook],
        training_loss: TrainingLoss,
    ) -> None:
        self.settings, self.world, self.seed, self.training_loss = settings, world, seed, training_loss
        self.task = training_loss.task
        self.keep_best = keep_best
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.model = model.to(device=world.device, memory_format=layout)  # type: ignore[call-overload]
        if training_loss.teacher is not None:
            training_loss.teacher.to(world.device).eval()
        options: dict[str, Any] = {"mean": splits.mean, "std": splits.std, "device": world.device}
        self._data = TrainBatches(
            splits.train,
            batch_size=settings.batch_size,
            seed=seed,
            augment=splits.augment if settings.augment is None else settings.augment,
            rank=world.rank,
            world=world.size,
            **options,
        )
        self._val = splits.val.subset(torch.arange(world.rank, len(splits.val), world.size)).to(world.device)
        self._reading = options

        self.optimizer = OPTIMIZERS[settings.optimizer.name](
            model, lr=settings.lr, weight_decay=settings.weight_decay, **settings.optimizer.args
        )
        split_by_factor(self.optimizer, model, settings.lr_factors)
        self._scaler = torch.amp.GradScaler(world.device.type, enabled=settings.amp == "fp16")
        self._mask_hook = MaskHook(model, masks or {}, gradients_too=settings.clip_grad_norm is not None)
        # after the masks are applied: the average starts from zeros where the network does
        self._average = MovingAverage(model, settings.ema) if settings.ema is not None else None
        self._own_hooks: list[Hook] = [self._mask_hook]
        if settings.bn_l1 > 0:
            self._own_hooks.append(ScaleSparsity(model, settings.bn_l1))
        self.hooks = [*self._own_hooks, *hooks]
        self._user_hooks = hooks

        per_epoch = self._data.steps_per_epoch
        total = settings.length.steps(per_epoch)
        self.epochs = math.ceil(total / per_epoch)
        self._warmup = settings.warmup_length.steps(per_epoch)
        self.at = StepState(model, self.optimizer, total, per_epoch, self._replace_masks)
        self.at.masks = self._mask_hook.masks
        self.history: list[Epoch] = []
        self.best = Best()
        self.sums = Sums()
        self.interrupted = False
        self._forward = self._compiled = model
        self._full_batch = len(range(world.rank, settings.batch_size, world.size))
        self._images, self._seconds = 0, 0.0  # of this process, for the speed

    @property
    def finished(self) -> bool:
        """All steps are done, or `early_stopping` epochs were no better than the best."""
        patience = self.settings.early_stopping
        tired = patience is not None and self.at.epoch - self.best.epoch >= patience
        return self.at.step >= self.at.total_steps or tired

    @property
    def epoch_is_complete(self) -> bool:
        """All steps of the running epoch are done; the last epoch may be shorter."""
        return self.at.step >= min((self.at.epoch + 1) * self.at.steps_per_epoch, self.at.total_steps)

    @property
    def images_per_second(self) -> float:
        """Of this process, over its training steps; 0 before the first."""
        return self._images / self._seconds if self._seconds else 0.0

    def start(self) -> None:
        """Before the first step of this process: wrap and compile, tell the hooks."""
        forward: nn.Module = self.model
        if self.world.size > 1:
            devices = [self.world.device] if self.world.device.type == "cuda" else None
            forward = DistributedDataParallel(forward, device_ids=devices)
        self._forward = self._compiled = forward
        if self.settings.compile:
            self._compiled = torch.compile(forward)  # type: ignore[assignment]
        for hook in self.hooks:
            hook.on_start(self.at)

    def steps_of_epoch(self, asked_to_stop: Callable[[], bool]) -> Iterator[StepReport]:
        """The rest of the running epoch; a report after each step, on an accelerator after every 50.

        `interrupted` is set as soon as any process is asked to stop: they all leave after the same step.
        """
        self.model.train()
        done = self.at.step - self.at.epoch * self.at.steps_per_epoch
        every = 1 if self.world.device.type == "cpu" else _STEPS_UNREAD
        losses: list[Tensor] = []
        measured: list[Tensor] = []
        sizes: list[int] = []
        rates: list[float] = []
        since = time.perf_counter()
        for batch in self._data.epoch(self.at.epoch, start_step=done):
            rates.append(self._set_learning_rate())
            loss, some = self._step(batch.images, batch.labels, batch.global_size)
            losses.append(loss)
            measured.append(some)
            sizes.append(batch.global_size)
            if len(losses) < every and not self.epoch_is_complete:
                continue
            rows = torch.stack(measured)
            values = [*torch.stack(losses).tolist(), *rows.flatten().tolist(), float(asked_to_stop())]
            values = self.world.sums(values)
            self.interrupted = values.pop() > 0
            totals = values[: len(sizes)]
            self.sums.loss += math.fsum(totals)
            of_step, before = rows.shape[1], self.sums.measured or [0.0] * rows.shape[1]
            columns = [values[len(sizes) + number :: of_step] for number in range(of_step)]
            self.sums.measured = [have + math.fsum(some) for have, some in zip(before, columns, strict=True)]
            self.sums.images += sum(sizes)
            now = time.perf_counter()
            self._count(sum(sizes), now - since)
            yield StepReport([total / size for total, size in zip(totals, sizes, strict=True)], rates)
            losses, measured, sizes, rates = [], [], [], []
            since = time.perf_counter()
            if self.epoch_is_complete or self.interrupted:
                return

    def _step(self, inputs: Tensor, targets: Tensor, global_size: int) -> tuple[Tensor, Tensor]:
        """One optimiser step; the loss summed over this process's samples, and what the task measures of them."""
        device = self.world.device
        seed_step(self.seed, self.at.step, self.world)
        amp = self.settings.amp
        with torch.autocast(device.type, dtype=_AMP_TYPES.get(amp or ""), enabled=amp is not None):
            # the last, smaller batch of an epoch is not worth a second compilation
            forward = self._compiled if len(inputs) == self._full_batch else self._forward
            loss, measured = self.training_loss(forward, inputs, targets, self.at.step)
        # DDP averages over processes, whose shares of a batch may differ by one image: make it the global mean
        self._scaler.scale(loss * (self.world.size / global_size)).backward()
        self._scaler.unscale_(self.optimizer)
        for hook in reversed(self.hooks):
            hook.on_gradients(self.at)
        if self.settings.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_grad_norm)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad()
        self.at.step += 1
        for hook in self._own_hooks:
            hook.on_step_end(self.at)
        if self._average is not None:
            self._average.update(self.at.step)
        for hook in self._user_hooks:
            hook.on_step_end(self.at)
        return loss.detach(), measured

    def _set_learning_rate(self) -> float:
        rate = self._rate(self.at.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get(FACTOR, 1.0)
        return rate

    def _rate(self, step: int) -> float:
        s = self.settings
        return learning_rate(
            step,
            self.at.total_steps,
            lr=s.lr,
            schedule=s.schedule.name,
            schedule_args=s.schedule.args,
            warmup_steps=self._warmup,
        )

    def _count(self, images: int, seconds: float) -> None:
        self._images += images
        self._seconds += seconds
        self.sums.seconds += seconds

    def end_epoch(self) -> Epoch:
        """Evaluate, remember the best weights, tell the hooks; the entry that the history gained."""
        begun = time.perf_counter()
        self.at.epoch += 1
        val = self._judge()
        entry = Epoch(
            epoch=self.at.epoch,
            steps=self.at.step,
            train_loss=self.sums.mean_loss,
            train_accuracy=self.sums.score(self.task),
            val_loss=val.loss,
            val_accuracy=val.score,
            lr=self._rate(self.at.step - 1),
            seconds=self.sums.seconds + time.perf_counter() - begun,
        )
        self.history.append(entry)
        self.at.metrics = entry
        self.sums = Sums()
        for hook in self.hooks:
            hook.on_epoch_end(self.at)
        return entry

    def _judge(self) -> Measurement:
        """Loss and score on the validation split; the weights are kept when they are the best so far."""
        network = self._average.model if self._average is not None else self.model
        val = self._evaluate(network)
        if not self.best.weights or not self.keep_best or self._order(val) > self._order(self.best):
            weights = {name: value.detach().clone() for name, value in network.state_dict().items()}
            self.best = Best(self.at.epoch, val.score, val.loss, weights)
        return val

    def _order(self, found: Measurement | Best) -> tuple[float, float]:
        """Higher = better."""
        return self.task.metric.goodness(found.score), -found.loss

    def _evaluate(self, network: nn.Module) -> Measurement:
        """Loss and score over the whole validation split, each process its share of the samples."""
        self.world.share_buffers(network)
        # no gradients are kept, so twice the batch fits
        size = 2 * math.ceil(self.settings.batch_size / self.world.size)
        batches = eval_batches(self._val, batch_size=size, **self._reading) if len(self._val) else iter(())
        found = total(network, batches, self.task, amp=self.settings.amp)
        if self.world.size > 1:
            width = int(self.world.leaders([len(found.sums)])[0])  # a process may have no sample at all
            loss, count, *sums = self.world.sums([found.loss, found.n, *(found.sums or [0.0] * width)])
            found = Totals(loss, tuple(sums), int(count))
        return found.measured(self.task)

    def _replace_masks(self, masks: Mapping[str, Tensor]) -> None:
        if same_masks(masks, self.at.masks):
            return
        self._mask_hook.replace(masks)
        self.at.masks = self._mask_hook.masks
        if self._average is not None:
            apply_masks_exactly(self._average.model, self.at.masks)
        self.best = Best(epoch=self.at.epoch)

    def state(self) -> TrainingState:
        """Where the training stands, with all that an exact resume needs."""
        return TrainingState(
            step=self.at.step,
            epoch=self.at.epoch,
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scaler=self._scaler.state_dict(),
            average=self._average.model.state_dict() if self._average is not None else {},
            hooks=[hook.state_dict() for hook in self.hooks],
            history=self.history,
            best=self.best,
            sums=self.sums,
        )

    def go_on_from(self, saved: TrainingState) -> None:
        """Go on exactly where `state` was taken; hooks are matched by their order.

        Raises BootcampError where the state has another number of hooks.
        """
        self.at.step, self.at.epoch = saved.step, saved.epoch
        self.model.load_state_dict(saved.model)
        self.optimizer.load_state_dict(saved.optimizer)
        self._scaler.load_state_dict(saved.scaler)
        if self._average is not None:
            self._average.model.load_state_dict(saved.average)
        if len(saved.hooks) != len(self.hooks):
            raise BootcampError(
                "the resume point was written by another command (a trial of a sweep, perhaps). Go on with that one, "
                "or begin anew with --no-resume."
            )
        for hook, state in zip(self.hooks, saved.hooks, strict=True):
            hook.load_state_dict(state)
        self.at.masks = self._mask_hook.masks
        self.history, self.best, self.sums = saved.history, saved.best, saved.sums
        self.at.metrics = self.history[-1] if self.history else None

    def finish(self) -> None:
        """The model gets the best weights, in the plain memory format and without gradients."""
        if not self.best.weights:  # a hook changed the masks after the last evaluation
            self._judge()
        self.model.load_state_dict(self.best.weights)
        self.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.model.zero_grad(set_to_none=True)
        apply_masks_exactly(self.model, self.at.masks)
