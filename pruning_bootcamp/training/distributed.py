"""The processes of one training under torchrun: who am I, and sums over all. Alone, all of it is the identity."""

import atexit
import hashlib
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError


@dataclass(frozen=True)
class World:
    """`rank` of `size` processes; rank 0 leads: it alone writes and prints."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def sums(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the processes (in float64, the same bits everywhere)."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def share_buffers(self, model: nn.Module) -> None:
        """Every process gets the leader's batch-norm statistics, so that all evaluate the same network."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def leaders(self, values: Sequence[float]) -> list[float]:
        """The leader's numbers, in every process; the others give as many, which are not looked at."""
        if self.size == 1:
            return list(values)
        box = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.broadcast(box, src=0)
        return box.tolist()

    def check_same_step(self, step: int) -> None:
        """All processes must go on from one step; otherwise they would wait for each other for ever."""
        if self.size > 1:
            steps: list[Tensor] = [torch.zeros(1, device=self.device) for _ in range(self.size)]
            dist.all_gather(steps, torch.tensor([float(step)], device=self.device))
            found = [int(entry.item()) for entry in steps]
            if len(set(found)) > 1:
                raise BootcampError(
                    f"the processes would go on from different steps ({found}): they do not see the same folder. "
                    "Give all of them one --save-dir on a shared disk."
                )


def join_world(device: torch.device) -> World:
    """This process's place among those that torchrun started (RANK, WORLD_SIZE); a world of one without torchrun.

    The first call opens the process group (nccl on CUDA, gloo elsewhere). It stays open for the next training of this
    process and is closed when the process ends.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World(device=device)
    if not dist.is_available():
        raise BootcampError("this torch was built without torch.distributed: run without torchrun.")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(_leave_world)
    return World(dist.get_rank(), dist.get_world_size(), device)


def end_process(code: int) -> NoReturn:
    """Leave one of several processes with `code`, without tearing the interpreter down.

    Gloo's threads now and then abort in that (seen in 1 of 30 runs on a busy machine, after all work was done), and
    torchrun then reports a failure and stops the others.
    """
    _leave_world()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _leave_world() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def seed_step(seed: int, step: int, world: World) -> None:
    """What the step draws (dropout) depends on nothing else. The generators are set one by one: torch.manual_seed would
    queue a call, with its stack, for every kind of device that is not in use yet."""
    drawn = hashlib.blake2b(f"{seed},{step},{world.rank}".encode(), digest_size=7).digest()
    value = int.from_bytes(drawn, "little")
    torch.default_generator.manual_seed(value)
    if world.device.type == "cuda":
        torch.cuda.default_generators[world.device.index or 0].manual_seed(value)
    elif world.device.type == "mps":
        torch.mps.manual_seed(value)
