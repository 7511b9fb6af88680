"""What certificates cost, both sides in one run: python benchmarks/certify.py [--out DIR].

* CROWN on four images of three averaged ResNet-18 of base width 4: seconds, and the process's peak
  (at most 8 GiB), beside intervals, and with a row for every value that these leave open;
* randomized smoothing of a ResNet-20, noise and votes included, against the bare jitted forward
  pass on batches of the same size (at least 95 % of its images a second).
"""

import dataclasses
import pathlib
import resource
import time
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import timing

from robust_jax.certify import (
    Smoothing,
    crown_margins,
    interval_bounds,
    smallest_margin,
    zonotope,
)
from robust_jax.models import (
    Classifier,
    EnsembleConfig,
    NetworkConfig,
    ResNetConfig,
    default_layers,
)
from robust_jax.runtime.compilation import jitted

SHAPE = (32, 32, 3)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of the benchmark.

    Attributes:
        batch_size: noisy copies in a forward pass.
        num_batches: passes of either side.
        repeats: times that the two sides take turns.
        eps: radius of CROWN's ball.
        num_images: images that CROWN bounds.
        chunk_size: CROWN's backward passes at once.
        out: folder for the tables.
    """

    batch_size: int = 256
    num_batches: int = 4
    repeats: int = 7
    eps: float = 0.0005
    num_images: int = 4
    chunk_size: int = 128
    out: pathlib.Path | None = None


def make_network(network: NetworkConfig) -> Any:
    """Returns the logits function of random weights with batch statistics of random images."""
    classifier = Classifier(network.make(10, default_layers()))

    @jax.jit
    def init(key):
        keys = jax.random.split(key, 3)
        contrast = jax.random.uniform(keys[0], (32, 1, 1, 3))
        images = contrast * jax.random.uniform(keys[1], (32, *SHAPE))
        start = classifier.init(keys[2], images, train=False, deterministic=True)
        mode = {"train": True, "deterministic": True, "mutable": ["batch_stats"]}
        moved = classifier.apply(start, images, **mode)[1]["batch_stats"]
        # The running averages moved by a tenth of the way to the batch's.
        statistics = jax.tree.map(lambda a, b: 10 * b - 9 * a, start["batch_stats"], moved)
        return {**start, "batch_stats": statistics}

    def logits(variables, images, *, key=None):
        del key
        return classifier.apply(variables, images, train=False, deterministic=True).logits

    return jax.tree_util.Partial(logits, init(jax.random.key(0)))


def bound_rows(arguments: Arguments) -> list[list[str]]:
    """Returns the cost and tightness of each kind of bounds."""
    function = make_network(EnsembleConfig(ResNetConfig(depth=18, width_multiplier=1 / 16), 3))
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(0.1, 0.9, (arguments.num_images, *SHAPE)), jnp.float32)
    logits = jax.jit(function)(images)
    labels, eps = jnp.argmax(logits, axis=1), jnp.float32(arguments.eps)
    clean = jnp.take_along_axis(logits, labels[:, None], axis=1) - logits

    def intervals():
        lower, upper = interval_bounds(function, images - eps, images + eps)
        return jnp.take_along_axis(lower, labels[:, None], axis=1) - upper

    def crown(intermediate, patience=zonotope.PATIENCE):
        def side():
            with mock.patch.object(zonotope, "PATIENCE", patience):
                return crown_margins(
                    function, images, labels, eps, intermediate=intermediate,
                    chunk_size=arguments.chunk_size,
                )  # fmt: skip

        return side

    rows = []
    sides = {
        "intervals": intervals,
        "CROWN, intervals inside": crown("interval"),
        "CROWN without zonotopes": crown("crown", np.inf),
        "CROWN": crown("crown"),
    }
    for name, side in sides.items():
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            margins = jax.block_until_ready(side())
            seconds.append(time.perf_counter() - start)
        rows.append(
            [
                name,
                f"{seconds[0] - seconds[1]:.1f}",
                f"{seconds[1] / arguments.num_images:.2f}",
                f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} (8192)",
                f"{jnp.mean(smallest_margin(clean, labels)):.4g}",
                f"{jnp.mean(smallest_margin(margins, labels)):.4g}",
            ]
        )
    return rows


def smoothing_speed(arguments: Arguments) -> dict[str, float]:
    """Returns the images a second of smoothing ("smoothing") and of the bare forward pass."""
    predict = make_network(ResNetConfig(depth=20))
    batch_size, num_batches = arguments.batch_size, arguments.num_batches
    smoothing = Smoothing(
        0.25,
        num_selection=batch_size,
        num_samples=(num_batches - 1) * batch_size,
        batch_size=batch_size,
    )
    image = jnp.full((1, *SHAPE), 0.5)
    batch = jnp.asarray(np.random.default_rng(0).random((batch_size, *SHAPE)), jnp.float32)
    forward = jitted(lambda predict, images: predict(images))

    def bare():
        for _ in range(num_batches):
            scores = jax.block_until_ready(forward(predict, batch))
        return scores

    seconds = timing.interleaved(
        {
            "bare": bare,
            "smoothing": lambda: smoothing(predict, image, key=jax.random.key(1)).radius,
        },
        repeats=arguments.repeats,
    )
    return {name: num_batches * batch_size / value for name, value in seconds.items()}


def smoothing_row(arguments: Arguments) -> list[str]:
    """Returns the row of both, and their ratio."""
    speed = smoothing_speed(arguments)
    share = speed["smoothing"] / speed["bare"]
    return [
        str(arguments.batch_size),
        f"{speed['bare']:.0f}",
        f"{speed['smoothing']:.0f}",
        f"{share:.3f} (at least 0.95)",
    ]


def main(arguments: Arguments) -> None:
    """Measures, prints and writes the tables."""
    for name, title, headings, rows in (
        (
            "crown",
            f"Three averaged ResNet-18 of base width 4, eps {arguments.eps:g}, "
            f"{arguments.num_images} images",
            [
                "bounds",
                "compile s",
                "s an image",
                "process MiB",
                "clean margin",
                "bound",
            ],
            bound_rows(arguments),
        ),
        (
            "smoothing",
            "Randomized smoothing of ResNet-20, images a second",
            ["batch", "bare forward pass", "smoothing", "share"],
            [smoothing_row(arguments)],
        ),
    ):
        file = arguments.out / f"{name}.txt" if arguments.out else None
        timing.report(title, headings, rows, file)


if __name__ == "__main__":
    import tyro  # only the command line needs it

    main(tyro.cli(Arguments, description=__doc__))
