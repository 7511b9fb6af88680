"""Both sides of a comparison: our compiled calls, PyTorch's calls, and their time and memory."""

import contextlib
import functools
import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import timing

PRECISIONS = {"exact": "highest", "default": None}
"""JAX's names of how products of float32 are made: exactly, or as JAX does unasked (TF32)."""


class Compiled(NamedTuple):
    """A compiled call.

    Attributes:
        run: calls it on the arguments that it was compiled for.
        seconds: of tracing and compiling it, among others.
        num_bytes: XLA's count: arguments, outputs, temporaries.
    """

    run: Callable[[], Any]
    seconds: float
    num_bytes: int


def compiled(
    function: Callable[..., Any],
    precision: str,
    *arguments: Any,
    options: dict[str, Any] | None = None,
) -> Compiled:
    """Returns the function compiled for these arguments, with products at a precision."""
    start = time.perf_counter()
    with jax.default_matmul_precision(PRECISIONS[precision]):
        program = jax.jit(function).lower(*arguments).compile(compiler_options=options)
    seconds = time.perf_counter() - start
    return Compiled(lambda: program(*arguments), seconds, timing.peak_bytes(program))


def installed(*names: str) -> bool:
    """Returns whether all of these packages can be imported."""
    return all(importlib.util.find_spec(name) is not None for name in names)


@functools.cache
def torch_device() -> str:
    """Returns PyTorch's name of the accelerator, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@contextlib.contextmanager
def torch_precision(precision: str) -> Iterator[None]:
    """Makes PyTorch's products exact, or TF32, within the block."""
    import torch

    torch.backends.cudnn.benchmark = True
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = precision != "exact"
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


def torch_call(call: Callable[[], Any], precision: str) -> Callable[[], None]:
    """Returns the call at a precision, ended when the device has finished."""
    import torch

    def run() -> None:
        with torch_precision(precision):
            call()
        if torch_device() == "cuda":
            torch.cuda.synchronize()

    return run


def torch_peak_bytes(run: Callable[[], None]) -> int | None:
    """Returns the most bytes that PyTorch held during a call; None where it does not count."""
    import torch

    if torch_device() != "cuda":
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated()


def in_turn(sides: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Returns each side's fastest seconds of some runs in turn, after one that warms up."""
    return timing.interleaved(sides, repeats=repeats, reduce=min)


def mebibytes(count: int | None) -> int | None:
    """Returns bytes in MiB."""
    return None if count is None else round(count / 2**20)


def names(parts: Sequence[Any]) -> str:
    """Returns parts of a row's name as one text."""
    return ", ".join(str(part) for part in parts)
