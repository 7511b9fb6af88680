"""Timing for the benchmarks: sides interleaved in one process, medians, one table."""

import pathlib
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import rich.console
import rich.table

from robust_jax.attacks import standing


def interleaved(
    sides: dict[str, Callable[[], Any]],
    *,
    repeats: int,
    reduce: Callable[[list[float]], float] = statistics.median,
) -> dict[str, float]:
    """Returns the median seconds of each side; the sides take turns, so drift hits all alike.

    Args:
        sides: calls that return arrays, which are waited for.
        repeats: timed calls of each side, after one that compiles.
        reduce: of the seconds of a side: the median, or `min` where few repeats are affordable.
    """
    for call in sides.values():
        jax.block_until_ready(call())
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, call in sides.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - start)
    return {name: reduce(values) for name, values in seconds.items()}


def teller(out: pathlib.Path | None) -> Callable[[str], None]:
    """Returns a function that prints a line, and adds it to a file where there is one."""

    def say(line: str) -> None:
        print(line, flush=True)
        if out:
            with out.open("a") as file:
                file.write(line + "\n")

    return say


def peak_bytes(compiled: Any) -> int:
    """Returns XLA's count of a compiled call's bytes: arguments, outputs and temporaries."""
    memory = compiled.memory_analysis()
    return (
        memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    ) - memory.alias_size_in_bytes


def compiled_runs() -> int:
    """Returns how many programs of the runs of attacks this process has compiled."""
    return standing._one_run.of_arrays._cache_size()  # pyright: ignore[reportCallIssue]


def hardware() -> str:
    """Returns a line on the machine and the versions."""
    device = jax.devices()[0]
    kind = device.device_kind if device.platform != "cpu" else platform.processor() or "CPU"
    return (
        f"{jax.device_count()} x {kind} ({platform.machine()}), jax {jax.__version__}, "
        f"Python {platform.python_version()}"
    )


def report(
    title: str, headings: list[str], rows: list[list[str]], file: pathlib.Path | None
) -> None:
    """Prints a table, and writes it where a file is given."""
    table = rich.table.Table(title=f"{title}\n{hardware()}", title_justify="left")
    for heading in headings:
        table.add_column(heading)
    for row in rows:
        table.add_row(*row)
    rich.console.Console().print(table)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w") as stream:
            rich.console.Console(file=stream, width=110).print(table)
