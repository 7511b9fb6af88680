"""What a run prints and writes: lines, progress bar, metrics.jsonl, TensorBoard."""

import contextlib
import json
import logging
import pathlib
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

import jax
import rich.console
import rich.progress

from robust_jax import formats

console = rich.console.Console(markup=False, stderr=False)

MINUTE = 60.0
"""Seconds of silence at most, as long as something is done."""


@contextlib.contextmanager
def only_errors() -> Iterator[None]:
    """Keeps remarks of absl's users off the screen (orbax: a save that no metric came with)."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class MetricWriter:
    """Appends metrics to metrics.jsonl and TensorBoard, from process 0 alone.

    Where tensorboardX is not installed, a line says that there will be no TensorBoard files.
    Lines of steps that the run is about to take again (after it was stopped between two
    checkpoints) are dropped, so each step has one line.
    """

    def __init__(self, workdir: pathlib.Path, *, start: int) -> None:
        self._active = jax.process_index() == 0
        if not self._active:
            return
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / "metrics.jsonl"
        if path.is_file():
            lines = [line for line in path.read_bytes().split(b"\n") if _step(line) <= start]
            with formats.replacing(path) as partial:
                partial.write_bytes(b"".join(line + b"\n" for line in lines))
        self._file = path.open("a", buffering=1)
        self._board = _board(workdir / "tensorboard", purge_step=start + 1)

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._active:
            self._file.close()
            if self._board is not None:
                self._board.close()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes one line of metrics."""
        if not self._active:
            return
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(name, value, step)


@runtime_checkable
class _Board(Protocol):
    """TensorBoard's writer, as far as it is used here."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int, /) -> None: ...

    def close(self) -> None: ...


def _board(directory: pathlib.Path, *, purge_step: int) -> _Board | None:
    """Returns TensorBoard's writer; None, and a line says so, where tensorboardX is missing."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        say("tensorboardX is not installed: metrics.jsonl is written, TensorBoard files are not.")
        return None
    return SummaryWriter(str(directory), purge_step=purge_step)


def _step(line: bytes) -> float:
    """Returns the step of a line; a line that a crash left torn counts as one to drop."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class Rate:
    """Images per second between two readings."""

    def __init__(self) -> None:
        self._time, self._images = time.perf_counter(), 0

    def add(self, num_images: int) -> None:
        """Counts images."""
        self._images += num_images

    def read(self) -> float:
        """Returns the rate since the last reading."""
        now = time.perf_counter()
        rate = self._images / max(now - self._time, 1e-9)
        self._time, self._images = now, 0
        return rate


class Progress:
    """How far tasks are: bars where somebody watches, lines where nobody does.

    Without a terminal a line is printed as a task ends, and one a minute until then, also while
    nothing is told (a batch that takes minutes, a program that is compiled).
    """

    def __init__(self, *, enabled: bool) -> None:
        shown = enabled and jax.process_index() == 0
        watched = console.is_terminal or console.is_jupyter
        self._in_lines = shown and not watched
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(bar_width=24),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("{task.fields[status]}"),
            console=console,
            disable=not (shown and watched),
            refresh_per_second=4,
        )
        self._tasks: dict[str, rich.progress.TaskID] = {}
        self._begun: dict[str, float] = {}
        self._last = self._said = time.monotonic()
        self._now = ""
        self._lock, self._over = threading.Lock(), threading.Event()
        self._says = threading.Thread(target=self._keep_saying, daemon=True)

    def __enter__(self) -> "Progress":
        self._bar.__enter__()
        if self._in_lines:
            self._says.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._in_lines:
            self._says.join()
        self._bar.stop()

    def _keep_saying(self) -> None:
        """Says once a minute what is going on, where nobody has told anything for so long."""
        while not self._over.wait(MINUTE / 20):
            with self._lock:
                now = time.monotonic()
                if now - max(self._said, self._last) >= MINUTE and not self._over.is_set():
                    self._said = now
                    say(f"{self._now}at work for {now - self._last:.0f} s")

    @contextlib.contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Says what is going on, and that it is done."""
        self.update(name, 0, 1)
        yield
        self.update(name, 1, 1)

    def update(self, name: str, done: int, total: int, *, status: str = "") -> None:
        """Says that so much of a task is done."""
        if name not in self._tasks:
            self._tasks[name] = self._bar.add_task(name, total=total, status="")
            self._begun[name] = self._last
        self._bar.update(self._tasks[name], completed=done, total=total, status=status)
        with self._lock:
            self._last = now = time.monotonic()
            self._now = f"{name}: {done:,} of {total:,}, "
            if self._in_lines and (done >= total or now - self._said >= MINUTE):
                self._said = now
                took = now - self._begun[name]
                say(f"{name}: {done:,} of {total:,} in {took:.0f} s  {status}".rstrip())


def status(metrics: Mapping[str, float]) -> str:
    """Returns the text beside the bar."""
    return (
        f"loss {metrics['loss']:.3f}  accuracy {metrics['accuracy']:.3f}  "
        f"{metrics['images_per_second']:.0f} images/s"
    )


def say(text: str) -> None:
    """Prints a line, from process 0 alone."""
    if jax.process_index() == 0:
        console.print(text, highlight=False, markup=False, soft_wrap=True)
