"""Stopping cleanly: SIGTERM and Ctrl-C ask the loop to save; user errors are one line."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

import jax
import numpy as np
from jax.experimental import multihost_utils


class Watch:
    """While entered, SIGTERM and SIGINT set a flag; a second SIGINT stops at once."""

    def __init__(self, *, agree_every: int = 10) -> None:
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

        Several processes compare notes every `agree_every` steps.
        """
        if jax.process_count() == 1:
            return self._asked
        if step % self._agree_every:
            return False
        return bool(multihost_utils.process_allgather(np.asarray(self._asked)).any())


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns a user's mistake into one line on stderr and exit status 2.

    JAX_TRACEBACK_FILTERING=off shows the whole traceback, as it does for JAX's own errors.
    """
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("JAX_TRACEBACK_FILTERING") == "off":
            raise
        text = str(error).strip().splitlines() or [type(error).__name__]
        print(f"error: {text[0]}", file=sys.stderr)
        sys.exit(2)
