"""Stopping cleanly: SIGTERM and Ctrl-C ask the training loop to save and end."""

import signal
from types import FrameType

import jax
import numpy as np
from jax.experimental import multihost_utils


class Watch:
    """While entered, SIGTERM and SIGINT set a flag; a second SIGINT stops at once."""

    def __init__(self, *, agree_every: int = 50) -> None:
        self._asked = False
        self._agree_every = agree_every
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Watch":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True

    def requested(self, step: int) -> bool:
        """Returns whether to stop after this step; every process answers the same.

        Several processes compare notes every `agree_every` steps, for which each waits until its
        devices have done all of them: where the metrics are read anyway.
        """
        if jax.process_count() == 1:
            return self._asked
        if step % self._agree_every:
            return False
        return bool(multihost_utils.process_allgather(np.asarray(self._asked)).any())
