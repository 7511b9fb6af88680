"""Certificates: smoothing beside the bare forward pass, CROWN's images a second."""

import functools
import time
from collections.abc import Iterator

import certify
import jax
import jax.numpy as jnp
import numpy as np

from on_accelerator import sides
from on_accelerator.carried import TASK, as_float, load_images, load_network
from on_accelerator.rows import Setting, Task, Value
from robust_jax.certify import crown_margins, smallest_margin


def smoothing(setting: Setting, batch_size: int, precision: str) -> dict[str, Value]:
    """Returns images a second of smoothing a ResNet-20, noise and votes included, and without."""
    num_batches, repeats = (2, 1) if setting.toy else (32, 3)
    with jax.default_matmul_precision(sides.PRECISIONS[precision]):
        found = certify.smoothing_speed(
            certify.Arguments(batch_size=batch_size, num_batches=num_batches, repeats=repeats)
        )
    return {
        "bare forward, images/s": found["bare"],
        "smoothing, images/s": found["smoothing"],
        "share (at least .95)": found["smoothing"] / found["bare"],
    }


def crown(setting: Setting, num_images: int, chunk_size: int, precision: str) -> dict[str, Value]:
    """Returns CROWN's images a second on ResNet-2B at eps 1/255."""
    network = load_network(setting.carried, "resnet2b")
    images, labels = load_images(setting.carried, "test")
    images, labels = as_float(images[:num_images]), labels[:num_images].astype(np.int32)
    view = network.config.make(TASK).views["deployed"]
    logits = jax.tree_util.Partial(
        lambda variables, images: view(variables, images, key=None), network.variables
    )

    def run() -> jax.Array:
        intermediate = "interval" if setting.toy else "crown"
        with jax.default_matmul_precision(sides.PRECISIONS[precision]):
            margins = crown_margins(
                logits, images, labels, 1 / 255, intermediate=intermediate, chunk_size=chunk_size
            )
        return jax.block_until_ready(margins)

    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        margins = run()
        seconds.append(time.perf_counter() - start)
    return {
        "images/s": num_images / seconds[1],
        "compile s": seconds[0] - seconds[1],
        "certified": int(jnp.sum(smallest_margin(margins, labels) > 0)),
    }


def tasks(setting: Setting) -> Iterator[Task]:
    """Yields the rows."""
    for precision in ("default", "exact"):
        for batch_size in (8,) if setting.toy else (1024, 8192):
            yield Task(
                "smoothing of a ResNet-20",
                sides.names((f"batch {batch_size}", precision)),
                functools.partial(smoothing, setting, batch_size, precision),
            )
    sizes = ((2, 8),) if setting.toy else ((64, 512), (64, 4096), (256, 4096))
    for num_images, chunk_size in sizes:
        yield Task(
            "CROWN on ResNet-2B, eps 1/255",
            sides.names((f"{num_images} images at once", f"chunks of {chunk_size}", "exact")),
            functools.partial(crown, setting, num_images, chunk_size, "exact"),
        )
