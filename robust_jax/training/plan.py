"""The steps of a run: phases of one batch size and image size each, epochs and steps."""

import bisect
import math
from typing import NamedTuple

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Int

from robust_jax.methods import Epochs, Method
from robust_jax.runtime.sharding import check_batch_size
from robust_jax.training import TrainingConfig
from robust_jax.types import Task


class Plan(NamedTuple):
    """The steps of a run, phase after phase.

    Attributes:
        starts: first step of each phase, and the step after the last.
        epochs: epoch at each of `starts`.
        batch_sizes: global batch size of each phase.
        image_sizes: image size of each phase; None for the dataset's own.
        num_steps: steps to take (`max_steps` may end the run early).
        num_replays: steps in a row with the same batch; phases are multiples of it.
    """

    starts: tuple[int, ...]
    epochs: tuple[float, ...]
    batch_sizes: tuple[int, ...]
    image_sizes: tuple[int | None, ...]
    num_steps: int
    num_replays: int = 1

    def phase_at(self, step: int) -> int:
        """Returns the phase that a step belongs to; 0 where there are none."""
        return max(0, min(bisect.bisect_right(self.starts, step), len(self.batch_sizes)) - 1)

    def image_shape_at(self, step: int, task: Task) -> tuple[int, int, int, int]:
        """Returns the shape of a step's batch of images."""
        height, width, channels = task.input_shape
        if not self.batch_sizes:
            return 0, height, width, channels
        phase = self.phase_at(step)
        size = self.image_sizes[phase]
        return self.batch_sizes[phase], size or height, size or width, channels

    def epoch_at(self, step: int) -> float:
        """Returns the epoch reached before a step."""
        if not self.batch_sizes:
            return 0.0
        phase = self.phase_at(step)
        done = (step - self.starts[phase]) / (self.starts[phase + 1] - self.starts[phase])
        return self.epochs[phase] + done * (self.epochs[phase + 1] - self.epochs[phase])

    def step_at(self, epoch: float) -> int:
        """Returns the first step at or after an epoch."""
        if not self.batch_sizes:
            return 0
        phase = min(bisect.bisect_right(self.epochs, epoch) - 1, len(self.batch_sizes) - 1)
        share = (epoch - self.epochs[phase]) / (self.epochs[phase + 1] - self.epochs[phase])
        return round(self.starts[phase] + share * (self.starts[phase + 1] - self.starts[phase]))

    def in_run(self, method: Method) -> Method:
        """Returns a method whose loss, where it changes with the epoch, knows those of this run."""
        if method.in_run is None:
            return method
        count = self.epochs[-1]
        starts = [self.step_at(float(epoch)) for epoch in range(1, math.ceil(count))]

        def at(step: Int[Array, ""]) -> Int[Array, ""]:
            return jnp.sum(jnp.asarray(step) >= jnp.asarray(starts, jnp.int32), dtype=jnp.int32)

        return method._replace(loss=method.in_run(Epochs(at, count)))

    def validation_steps(self, every: float) -> list[int]:
        """Returns the steps after which to validate: each `every` epochs and at the end."""
        count = int(self.epochs[-1] / every)
        steps = {self.step_at(every * number) for number in range(1, count + 1)}
        return sorted({step for step in steps if 0 < step < self.num_steps} | {self.num_steps})


def make_plan(config: TrainingConfig, num_train: int, mesh: Mesh) -> Plan:
    """Returns the steps of a run.

    Raises:
        ValueError: a batch is larger than the training split or does not split over the mesh.

    Args:
        config: phases, replays and an earlier end.
        num_train: training images, without the validation split.
        mesh: devices that a batch is split over.

    Example:
        >>> from robust_jax.runtime import sharding
        >>> from robust_jax.training import Phase, TrainingConfig
        >>> from robust_jax.training.plan import make_plan
        >>> config = TrainingConfig(phases=(Phase(epochs=200.0, batch_size=128),))
        >>> plan = make_plan(config, num_train=45_000, mesh=sharding.make_mesh(1))
        >>> plan.num_steps, plan.epoch_at(351), plan.step_at(100.0)
        (70200, 1.0, 35100)
    """
    starts, epochs = [0], [0.0]
    for phase in config.phases:
        check_batch_size(phase.batch_size, mesh)
        if phase.batch_size > num_train:
            raise ValueError(
                f"Expected batch_size={phase.batch_size} <= {num_train} training examples."
            )
        num_batches = phase.epochs * (num_train // phase.batch_size) / config.num_replays
        starts.append(starts[-1] + max(1, round(num_batches)) * config.num_replays)
        epochs.append(epochs[-1] + phase.epochs)
    return Plan(
        starts=tuple(starts),
        epochs=tuple(epochs),
        batch_sizes=tuple(phase.batch_size for phase in config.phases),
        image_sizes=tuple(phase.image_size for phase in config.phases),
        num_steps=min(starts[-1], config.max_steps or starts[-1]),
        num_replays=config.num_replays,
    )
