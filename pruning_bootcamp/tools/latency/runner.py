"""What runs a network: a batch in, the output out, and what a reader of its timings must know."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pruning_bootcamp.runtime import using_threads


@dataclass(frozen=True)
class Runner:
    """Runs a network or a file on `device` with `threads` CPU threads; `backend` names what does it.

    A call puts the batch where it belongs. The clock does that once, with `place`, and times `run` alone.
    """

    backend: str
    run: Callable[[Tensor], Any]
    device: torch.device = torch.device("cpu")
    threads: int = field(default_factory=torch.get_num_threads)
    lay: Callable[[Tensor], Tensor] | None = None
    """how a batch on the device must lie in memory, where that matters"""
    version: str | None = None
    """of what runs the network"""
    precision: str | None = None
    """that the products are computed in: float32, int8, ...; None: it does not say"""
    note: str | None = None
    """what a backend that chooses has chosen for this network and batch, and by what figures"""

    def place(self, batch: Tensor) -> Tensor:
        """The batch as `run` takes it; one that lies so already is handed back."""
        placed = batch.detach().to(self.device)
        return placed if self.lay is None else self.lay(placed)

    def __call__(self, batch: Tensor) -> Any:
        with torch.inference_mode(), using_threads(self.threads):
            return self.run(self.place(batch))
