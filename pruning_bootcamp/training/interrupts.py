"""Ctrl-C and SIGTERM wait for the end of the optimiser step, so that the training state can be written."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any


class Interrupts:
    """Inside `with`, a first SIGINT or SIGTERM is only noted in `received`; `deliver` then acts on it.

    One that comes more than 2 s later is obeyed at once (torchrun sends a second one right behind the first).
    """

    def __init__(self, active: bool = True) -> None:
        self.received: signal.Signals | None = None
        self._since = 0.0
        self._previous: dict[signal.Signals, Any] = {}
        # handlers belong to the main thread; elsewhere somebody else looks after them
        self._active = active and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "Interrupts":
        if self._active:
            for number in (signal.SIGINT, signal.SIGTERM):
                previous = signal.getsignal(number)
                if previous not in (signal.SIG_IGN, None):  # nohup: who ignores it keeps ignoring it
                    self._previous[number] = previous
                    signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._since = signal.Signals(number), now
        elif now - self._since > 2:
            self.__exit__(None, None, None)
            signal.raise_signal(number)

    def deliver(self) -> None:
        """What the signal would have done: KeyboardInterrupt, the end of the process, or the caller's own handler."""
        received = self.received or signal.SIGINT
        self.__exit__(None, None, None)
        signal.raise_signal(received)
        raise KeyboardInterrupt(f"{received.name} during training")
