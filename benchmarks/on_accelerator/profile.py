"""Where the time goes: the kernels of an attack and of a training step, by the device's trace."""

import collections
import functools
import gzip
import json
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax

from on_accelerator import attacks, sides, training
from on_accelerator.rows import Setting, Task, Value
from robust_jax.methods import KAP, Standard

NUM_KERNELS = 14


def kernels(run: Callable[[], Any]) -> dict[str, float]:
    """Returns milliseconds by kernel of one call, numbers in the kernels' names left out."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, create_perfetto_trace=False):
            jax.block_until_ready(run())
        found: dict[str, float] = collections.defaultdict(float)
        for file in pathlib.Path(folder).rglob("*.trace.json.gz"):
            events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
            devices = {
                event["pid"]
                for event in events
                if event.get("name") == "process_name" and "/device:" in event["args"]["name"]
            }
            lines = {
                (event["pid"], event["tid"])
                for event in events
                if event.get("name") == "thread_name" and "Stream" in event["args"]["name"]
            }
            for event in events:
                on_stream = (event.get("pid"), event.get("tid")) in lines
                if event.get("ph") == "X" and event["pid"] in devices and on_stream:
                    found[re.sub(r"[_.]?\d+(?=$|_)", "", event["name"])] += event["dur"] / 1e3
    return dict(found)


def table(run: Callable[[], Any]) -> dict[str, Value]:
    """Returns the largest shares of a call's time on the device."""
    run()
    found = kernels(run)
    total = sum(found.values())
    order = sorted(found.items(), key=lambda item: -item[1])[:NUM_KERNELS]
    shares = "; ".join(f"{name[:70]} {value / max(total, 1e-9):.1%}" for name, value in order)
    return {"ms on the device": total, "kernels": shares or "none seen"}


def tasks(setting: Setting) -> Iterator[Task]:
    """Yields the rows."""
    found = attacks.cases(setting)
    size = 8 if setting.toy else 256

    def attack(case: attacks.Case, precision: str, dtype: str) -> dict[str, Value]:
        images, labels = attacks.batch_of(setting, case, size)
        fn = case.attack("PGD-20")

        def call(view: Any, images: Any, labels: Any) -> Any:
            return fn(view, images, labels, key=jax.random.key(0))

        return table(sides.compiled(call, precision, case.view(dtype), images, labels).run)

    def step(config: Any) -> dict[str, Value]:
        loop = training.Loop(setting, config, size, "default")
        return table(lambda: loop.run(4))

    network = training.network_of(setting)
    rows: dict[str, Callable[[], dict[str, Value]]] = {
        f"PGD-20, {case.name}, {dtype}": functools.partial(attack, case, "default", dtype)
        for case in found
        for dtype in ("float32", "bfloat16")
    }
    for dtype in ("float32", "bfloat16"):
        plain = Standard(network=network, dtype=dtype)
        noisy = KAP(network=network, dtype=dtype)
        rows |= {
            f"4 steps, plain, {dtype}": functools.partial(step, plain),
            f"4 steps, KAP(.1), {dtype}": functools.partial(step, noisy),
        }
    for name in list(rows)[:1] if setting.toy else rows:
        yield Task(f"kernels by time, batch {size}", name, rows[name])
