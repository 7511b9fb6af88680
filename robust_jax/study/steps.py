"""How long a row trains beside the reference, the two taking turns.

The rates in the logs of rows are of whatever else their machines did.
"""

import dataclasses
import itertools
import json
import pathlib
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from robust_jax import experiment, formats, training
from robust_jax.data import Data, open_data
from robust_jax.experiment import config
from robust_jax.runtime import logging, sharding
from robust_jax.study.definition import Study
from robust_jax.training.plan import make_plan

FILE = "steps.json"
"""In a study's directory: device and, by row, seconds of an image and their ratio."""

NUM_STEPS, NUM_TURNS = 5, 9


class Time(NamedTuple):
    """Of a row's training.

    Attributes:
        seconds: of an image, the median of the turns; validation is not in it.
        ratio: to the reference's in the same turn, the median.
    """

    seconds: float
    ratio: float


def read(out: pathlib.Path) -> dict[str, Time]:
    """Returns the times by row that were measured; none where none were.

    Raises:
        ValueError: a later version wrote them.
    """
    file = out / FILE
    if not file.is_file():
        return {}
    found = formats.read("steps", file)["rows"]
    assert isinstance(found, dict)
    return {name: Time(**one) for name, one in found.items()}


def measure(
    spec: str,
    study: Study,
    names: Sequence[str],
    *,
    out: pathlib.Path,
    data_dir: str | None = None,
    num_turns: int = NUM_TURNS,
) -> dict[str, Time]:
    """Measures rows, each beside the reference, and returns all times of the study.

    Rows that were measured before are measured again. What else the machine does meanwhile
    disturbs both sides alike, and is better left.

    Args:
        spec: file of the study.
        study: the study.
        names: of rows; those that train nothing are left out.
        out: directory of the study.
        data_dir: where the dataset lies; None for where the file says.
        num_turns: of steps, on each side.

    Raises:
        ValueError: the reference trains nothing.
    """
    mesh, found = sharding.make_mesh(1), read(out)
    if found and formats.read("steps", out / FILE)["device"] != mesh.devices.flat[0].device_kind:
        found = {}  # of another device
    reference = config.load(f"{spec}:{study.reference}")
    if not reference.training.phases:
        raise ValueError(f"Expected reference={study.reference!r} of {spec} to train.")
    place = reference.data
    data = open_data(place if data_dir is None else config.with_data_dir(place, data_dir))
    reference_steps = _steps(reference, data, mesh)
    for name in names:
        wanted = config.load(f"{spec}:{name}")
        if not wanted.training.phases:
            continue
        steps = _steps(wanted, data, mesh)
        turns = [(next(reference_steps), next(steps)) for _ in range(num_turns + 1)][1:]
        found[name] = Time(
            statistics.median(row for _, row in turns),
            statistics.median(row / other for other, row in turns),
        )
        logging.console.print(f"{name}: {found[name].ratio:.2f} x", highlight=False)
        _write(out, mesh, found)
    return found


def _steps(wanted: config.Config, data: Data, mesh: Mesh) -> Iterator[float]:
    """Takes some training steps, of fresh weights, and yields the seconds of an image.

    The first compiles.
    """
    method = wanted.method.make(data.task)
    plan = make_plan(wanted.training, data.task.num_train, mesh)
    optimizer = wanted.optimizer.make(plan.step_at, plan.epochs[-1])
    step_fn = training.make_train_step(
        plan.in_run(method), optimizer, wanted.training, wanted.data.augmentation, mesh
    )
    fresh = dataclasses.replace(wanted.training, init_from=None)
    variables = experiment.init_variables(
        dataclasses.replace(wanted, training=fresh), data, method, mesh
    )
    shape = plan.image_shape_at(0, data.task)
    state = training.init_state(variables, optimizer, wanted.training, mesh, shape)
    batches = itertools.chain.from_iterable(  # a plan may be shorter than what is measured
        training.batches(data, plan, mesh, seed=wanted.seed, start=0) for _ in itertools.count()
    )
    key = jax.random.key(wanted.seed)
    while True:
        started, num_images = time.perf_counter(), 0
        for batch in itertools.islice(batches, NUM_STEPS):
            state, _ = step_fn(state, batch, key)
            num_images += len(batch.label)
        jax.block_until_ready(state)
        yield (time.perf_counter() - started) / num_images


def _write(out: pathlib.Path, mesh: Mesh, found: dict[str, Time]) -> None:
    rows = {name: one._asdict() for name, one in found.items()}
    content = formats.numbered({"device": mesh.devices.flat[0].device_kind, "rows": rows})
    out.mkdir(parents=True, exist_ok=True)
    with formats.replacing(out / FILE) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n")
