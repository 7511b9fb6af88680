"""What a training loop goes through: batches, and the metrics of its steps."""

import itertools
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from robust_jax.data import Data, train_batches
from robust_jax.methods.base import Metrics
from robust_jax.runtime.sharding import batched
from robust_jax.training.plan import Plan
from robust_jax.types import Batch


def batches(data: Data, plan: Plan, mesh: Mesh, *, seed: int, start: int) -> Iterator[Batch]:
    """Yields the batches of the steps from `start` to the end of the plan."""
    for phase in range(plan.phase_at(start), len(plan.batch_sizes)):
        end = min(plan.starts[phase + 1], plan.num_steps)
        first = max(start, plan.starts[phase])
        batch, replay = divmod(first - plan.starts[phase], plan.num_replays)
        stream = train_batches(
            data,
            plan.batch_sizes[phase],
            plan.image_sizes[phase],
            batch,
            batched(mesh),
            seed=seed,
            first_epoch=int(plan.epochs[phase]),
        )
        replayed = (each for batch in stream for each in itertools.repeat(batch, plan.num_replays))
        yield from itertools.islice(replayed, replay, max(replay, replay + end - first))


def fetch(pending: list[tuple[int, Metrics]], last_good: int | None) -> dict[str, float]:
    """Returns the mean metrics of some steps, read from the device.

    Args:
        pending: (step, metrics) of each; at least one.
        last_good: step of the last checkpoint; None where there is none.

    Raises:
        FloatingPointError: a loss is not finite; names the step and the last good checkpoint.
    """
    values = jax.device_get([metrics for _, metrics in pending])
    for (step, _), value in zip(pending, values, strict=True):
        if not np.isfinite(value["loss"]):
            kept = "none yet" if last_good is None else f"that of step {last_good}"
            raise FloatingPointError(
                f"Expected loss={value['loss']} at step {step} to be finite; the last good "
                f"checkpoint is {kept}."
            )
    return {name: float(np.mean([value[name] for value in values])) for name in values[0]}
