"""Seconds an epoch of training: KAP's table A4 and LPD's section 5.4, both from one command.

    python benchmarks/epochs.py                 # both, full size
    python benchmarks/epochs.py kap --steps 50 --out benchmarks/results/epochs.txt

Every row is a configuration at its own size, batch size and augmentation, on CIFAR-10's shapes
(49,000 training images; random ones, which take as long). An epoch is the median training step
times the steps of an epoch of the run's plan: reading data and validation are left out (the papers
do not say whether theirs are). The papers' numbers, KAP's of one A100, stand beside, each also
divided by its paper's first row: across machines only those ratios compare.

On two CPU cores a step of the largest rows takes minutes: `--width` multiplies every width of
ResNet-18 (the table says so).
"""

import argparse
import dataclasses
import pathlib
import sys
import time
from typing import NamedTuple

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks")]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import timing  # noqa: E402

from robust_jax import training  # noqa: E402
from robust_jax.experiment import config  # noqa: E402
from robust_jax.models import EnsembleConfig, NetworkConfig  # noqa: E402
from robust_jax.runtime import sharding  # noqa: E402
from robust_jax.training.plan import make_plan  # noqa: E402
from robust_jax.types import Batch, Task  # noqa: E402

TASK = Task((32, 32, 3), 10, 49_000)


class Row(NamedTuple):
    """A configuration and the seconds an epoch that its paper prints."""

    name: str
    spec: str
    printed: float


PAPERS = {
    "kap": [
        Row("RN18-NT", "standard_cifar10.py", 12.5),
        Row("RN18-AT", "standard_cifar10.py:at", 100.75),
        Row("RN18-KAP-NT (.1)", "kap_cifar10.py", 14.5),
    ],
    "lpd": [
        Row("baseline, K = 3", "ensemble_cifar10.py", 54.0),
        Row("ADP", "adp_cifar10.py:lpd", 64.0),
        Row("LPD", "lpd_cifar10.py", 80.0),
        Row("DEG", "lpd_cifar10.py:deg", 703.0),
        Row("TRS", "trs_cifar10.py:lpd", 4106.0),
    ],
}


def narrower(network: NetworkConfig, width: float) -> NetworkConfig:
    """Returns a ResNet, or an ensemble of them, with its widths multiplied."""
    if isinstance(network, EnsembleConfig):
        return dataclasses.replace(network, member=narrower(network.member, width))
    return dataclasses.replace(network, width_multiplier=width)


def seconds_per_epoch(spec: str, *, num_steps: int, width: float) -> float:
    """Returns the median step's seconds times the steps of an epoch.

    Args:
        spec: of the configuration, in configs/.
        num_steps: timed steps, after one that compiles.
        width: multiplies the widths.
    """
    found = config.load(str(REPOSITORY / "configs" / spec))
    if width != 1:
        method = dataclasses.replace(found.method, network=narrower(found.method.network, width))
        found = dataclasses.replace(found, method=method)
    mesh = sharding.make_mesh(1)
    plan = make_plan(found.training, TASK.num_train, mesh)
    method = plan.in_run(found.method.make(TASK))
    optimizer = found.optimizer.make(plan.step_at, plan.epochs[-1])
    step = training.make_train_step(
        method, optimizer, found.training, found.data.augmentation, mesh
    )
    variables = jax.jit(lambda key: method.init(key=key))(jax.random.key(0))
    index = jnp.arange(plan.batch_sizes[0])
    images = jax.random.uniform(jax.random.key(1), (len(index), *TASK.input_shape))
    batch = Batch(images, index % TASK.num_classes, jnp.ones(len(index), bool), index)
    state = training.init_state(variables, optimizer, found.training, mesh, images.shape)
    times = []
    for _ in range(num_steps + 1):
        start = time.perf_counter()
        state, metrics = step(state, batch, jax.random.key(2))
        jax.block_until_ready((state, metrics))
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:])) * plan.step_at(1.0)


def table(papers: list[str], *, num_steps: int, width: float) -> list[list[str]]:
    """Returns the lines: row, ours and printed, each in seconds and by its first row."""
    lines = []
    for paper in papers:
        first: tuple[float, float] | None = None
        for row in PAPERS[paper]:
            ours = seconds_per_epoch(row.spec, num_steps=num_steps, width=width)
            first = first or (ours, row.printed)
            numbers = (ours, ours / first[0], row.printed, row.printed / first[1])
            lines.append([paper, row.name, row.spec, *(f"{number:.4g}" for number in numbers)])
    return lines


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("papers", nargs="*", default=[], help=f"of {list(PAPERS)}; none for all")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each row")
    parser.add_argument("--width", type=float, default=1.0, help="multiplies ResNet-18's widths")
    parser.add_argument("--out", type=pathlib.Path, help="also written there")
    arguments = parser.parse_args()
    papers = arguments.papers or list(PAPERS)
    unknown = [paper for paper in papers if paper not in PAPERS]
    if unknown or arguments.steps < 1:
        demanded = f"papers of {list(PAPERS)} and steps >= 1"
        parser.error(f"Expected {demanded}, found {unknown} and {arguments.steps}.")
    timing.report(
        f"Seconds an epoch, CIFAR-10, {arguments.steps} steps, width x {arguments.width:g}",
        ["paper", "row", "configuration", "s/epoch", "ratio", "printed", "ratio"],
        table(papers, num_steps=arguments.steps, width=arguments.width),
        arguments.out,
    )


if __name__ == "__main__":
    main()
