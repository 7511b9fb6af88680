"""What devices exchange in a training step, counted in the compiled program, and what that costs.

    python benchmarks/scaling.py [--results benchmarks/results/accelerator-h100.json]
    python benchmarks/scaling.py --step-seconds .0068 --local-batch 512

Compiles the step of `--network` for simulated CPU devices (8 of one process; with `--processes 2`
4 of each of two, which is compared), adds up what its collectives carry, and works out weak scaling
from a step measured on one device: no measurement of many devices. docs/scaling.md has the table.
"""

import dataclasses
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Literal

if __name__ == "__main__":  # before JAX is imported
    per_process = 8 // int(os.environ.get("SCALING_PROCESSES", "1"))
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={per_process}"
    os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import Mesh

from robust_jax import training
from robust_jax.data import Augmentation
from robust_jax.evaluation import harness, records
from robust_jax.evaluation.judging import Decisions, Judgement
from robust_jax.methods import Standard
from robust_jax.models import NetworkConfig, ResNetConfig
from robust_jax.runtime import sharding
from robust_jax.training import TrainingConfig
from robust_jax.training.optimizers import OptimizerConfig
from robust_jax.types import Batch, Task

TASK = Task((32, 32, 3), 10, 50_000)
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"f64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "u8": 1, "s8": 1, "pred": 1}


@dataclasses.dataclass(frozen=True)
class Links:
    """How devices are connected.

    Attributes:
        name: in words.
        num_devices: how many.
        bandwidth: bytes a second between neighbours of the ring at its slowest place, all adapters
            that work there side by side together.
        latency: seconds of one all-reduce of a few bytes.
    """

    name: str
    num_devices: int
    bandwidth: float
    latency: float


# Bandwidths are the makers' (each direction), latencies round assumptions to be replaced by yours.
LINKS = (
    Links("8 H100, one node, NVLink", 8, 450e9, 20e-6),
    Links("256 H100, 32 nodes, eight adapters of 400 Gb/s a node", 256, 400e9, 60e-6),
    Links("8 H100, two nodes, one adapter of 100 Gb/s a node", 8, 12.5e9, 60e-6),
)


@dataclasses.dataclass(frozen=True)
class Exchanged:
    """What the collectives of a compiled program carry.

    Attributes:
        num_bytes: by kind of collective, of the arrays as each device holds them.
        num_calls: by kind; XLA puts arrays that are ready together into one.
        params: bytes of the parameters.
        statistics: bytes of BatchNorm's running statistics.
    """

    num_bytes: dict[str, int]
    num_calls: dict[str, int]
    params: int
    statistics: int


def collectives(program: str) -> tuple[dict[str, int], dict[str, int]]:
    """Returns bytes and number of a program's collectives, by kind.

    Args:
        program: optimised HLO. A collective in the body of a loop counts once.
    """
    num_bytes, num_calls = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
    for line in program.splitlines():
        found = re.search(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\(", line)
        if found is None:
            continue
        shapes, kind = found.groups()
        num_calls[kind] += 1
        for dtype, sizes in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
            size = 1
            for length in filter(None, sizes.split(",")):
                size *= int(length)
            num_bytes[kind] += size * _BYTES[dtype]
    return num_bytes, num_calls


def exchanged(network: NetworkConfig, mesh: Mesh, *, local_batch: int = 8) -> Exchanged:
    """Returns what a training step of a network exchanges on a mesh; compiles, runs nothing."""
    method = Standard(network=network).make(TASK)
    optimizer = OptimizerConfig().make(round, 1.0)
    config = TrainingConfig()
    step = training.make_train_step(method, optimizer, config, Augmentation(), mesh)
    variables = jax.eval_shape(lambda key: method.init(key=key), jax.random.key(0))
    state = jax.eval_shape(
        lambda variables: training.TrainState(
            jnp.zeros((), jnp.int32), variables, optimizer.init(variables["params"]), {}, {}
        ),
        variables,
    )
    size = local_batch * mesh.size
    shape = jax.ShapeDtypeStruct
    batch = Batch(
        image=shape((size, *TASK.input_shape), jnp.float32),
        label=shape((size,), jnp.int32),
        mask=shape((size,), jnp.bool_),
        index=shape((size,), jnp.int32),
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    found = collectives(step.lower(state, batch, key).compile().as_text())
    params, statistics = (
        sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(variables.get(name, {})))
        for name in ("params", "batch_stats")
    )
    return Exchanged(*found, params=params, statistics=statistics)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Weak scaling by arithmetic: seconds of a step, and shares of the ideal rate.

    Attributes:
        ring: seconds that a ring all-reduce of all bytes takes.
        waits: seconds of latency of those that must follow one another.
        exposed: share of the ideal rate where nothing is hidden behind the computation.
        hidden: share where the ring is, but for the waits.
    """

    ring: float
    waits: float
    exposed: float
    hidden: float


def estimate(step_seconds: float, num_bytes: float, num_waits: int, links: Links) -> Estimate:
    """Returns weak scaling of a step, the batch of each device being that of the measurement.

    A ring all-reduce of B bytes over n devices sends 2 (n - 1) / n B through every link.
    BatchNorm's sums are waited for one after the other, the gradients are not.
    """
    n = links.num_devices
    ring = 2 * (n - 1) / n * num_bytes / links.bandwidth
    waits = num_waits * links.latency
    return Estimate(
        ring=ring,
        waits=waits,
        exposed=step_seconds / (step_seconds + ring + waits),
        hidden=step_seconds / (max(step_seconds, ring) + waits),
    )


def measured(results: pathlib.Path) -> list[tuple[str, float, int]]:
    """Returns (name, seconds of a step, batch size) of the epochs that accelerator.py timed."""
    rows = []
    for line in json.loads(results.read_text()):
        batch = re.search(r"batch (\d+)", line["name"])
        if line["section"] == "training" and "ours s" in line["values"] and batch:
            size = int(batch.group(1))
            seconds = line["values"]["ours s"] / (TASK.num_train // size)
            rows.append((line["name"], seconds, size))
    return rows


def attacks(results: pathlib.Path) -> list[tuple[str, float]]:
    """Returns (name, seconds an image) of the attacks that accelerator.py timed."""
    return [
        (f"{line['table'].split(' beside')[0]}, {line['name']}", 1 / line["values"][rate])
        for line in json.loads(results.read_text())
        if (rate := "ours, images/s") in line["values"]
    ]


def seconds_a_record(num_records: int = 5_000) -> float:
    """Returns what the first host takes for an image: its record made and written."""
    mask = np.ones(num_records, bool)
    index = np.arange(num_records)
    batch = Batch(image=index, label=index % 10, mask=mask, index=index)
    norms = np.full(num_records, 0.03)
    top5 = np.tile(np.arange(5), (num_records, 1))
    decisions = {"accuracy": Decisions(index % 10, top5, norms, norms)}
    judgement = Judgement(decisions, norms, norms, norms, norms, mask, np.zeros((8, 32, 32, 3)))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        lines = [record.to_json() for record in harness.records_of(batch, judgement, "pgd")]
        records.append_lines(pathlib.Path(folder, "pgd.jsonl"), lines)
        return (time.perf_counter() - start) / num_records


def evaluation_table(
    rows: Sequence[tuple[str, float]], record: float, batch_size: int = 256
) -> list[str]:
    """Returns the lines of evaluations' weak scaling, as Markdown.

    Each device attacks `batch_size` images at a time; the first host then writes the records of
    all of them while the devices wait. A share is of what as many devices alone would come to.
    """
    lines = ["| attack, one device | images/s | of 8 devices | share | of 256 | share |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for name, attack in rows:
        cells = [f"{1 / (attack + record):,.0f}"]
        for n in (8, 256):
            rate = n * batch_size / (batch_size * attack + n * batch_size * record)
            cells += [f"{rate:,.0f}", f"{rate * (attack + record) / n:.0%}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def table(found: Exchanged, rows: Sequence[tuple[str, float, int]]) -> list[str]:
    """Returns the lines of the estimates, as Markdown."""
    total = sum(found.num_bytes.values())
    # All but the last, which carries gradients: BatchNorm's, each before the next layer can go on.
    waits = sum(found.num_calls.values()) - 1
    lines = ["| one device | devices | ring ms | waits ms | images/s, ideal | exposed | hidden |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, seconds, size in rows:
        for links in LINKS:
            one = estimate(seconds, total, waits, links)
            ideal = links.num_devices * size / seconds
            lines.append(
                f"| {name}, {1e3 * seconds:.2f} ms | {links.name} | {1e3 * one.ring:.2f} | "
                f"{1e3 * one.waits:.2f} | {ideal:,.0f} | {one.exposed:.0%} | {one.hidden:.0%} |"
            )
    return lines


def _two_processes(arguments: Sequence[str]) -> dict[str, int]:
    """Returns the bytes that two processes of four devices each find in the same step."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "SCALING_PROCESSES": "2", "SCALING_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, *arguments],
            env={**environment, "SCALING_PROCESS": str(number)},
            stdout=subprocess.PIPE, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    printed = [process.communicate()[0] for process in processes]
    found = [json.loads(text.splitlines()[-1]) for text in printed]
    if found[0] != found[1]:
        raise ValueError(f"Expected both processes' programs {found} to carry the same.")
    return found[0]


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of the script.

    Attributes:
        depth: of the ResNet.
        width_multiplier: of the ResNet.
        processes: 2 compiles the step in two processes as well, and compares.
        step_seconds: a step measured on one device.
        local_batch: its batch size.
        results: JSON of benchmarks/accelerator.py, whose training steps are taken.
    """

    depth: int = 18
    width_multiplier: float = 1.0
    processes: Literal[1, 2] = 1
    step_seconds: float | None = None
    local_batch: int = 512
    results: pathlib.Path | None = None


def main(given: Arguments) -> None:
    """Counts, estimates, prints."""
    network = ResNetConfig(given.depth, width_multiplier=given.width_multiplier)
    number = os.environ.get("SCALING_PROCESS")
    if number is not None:
        jax.distributed.initialize(f"127.0.0.1:{os.environ['SCALING_PORT']}", 2, int(number))
        print(json.dumps(exchanged(network, sharding.make_mesh()).num_bytes))
        return
    mesh = sharding.make_mesh()
    found = exchanged(network, mesh)
    print(f"ResNet-{given.depth}, {mesh.size} devices, jax {jax.__version__}: {found}")
    if given.processes == 2:
        shape = ["--depth", str(given.depth), "--width-multiplier", str(given.width_multiplier)]
        print(f"Two processes of four devices: {_two_processes(shape)}")
    rows = measured(given.results) if given.results else []
    if given.step_seconds:
        rows.append((f"batch {given.local_batch}", given.step_seconds, given.local_batch))
    print("\n".join(table(found, rows)))
    if given.results:
        record = seconds_a_record()
        print(f"A record takes {1e6 * record:.0f} us on this machine")
        print("\n".join(evaluation_table(attacks(given.results), record)))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
