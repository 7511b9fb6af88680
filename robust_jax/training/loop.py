"""What a training loop goes through: batches, and the metrics of its steps."""

import itertools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, PyTree

from robust_jax.data import Data, train_batches
from robust_jax.methods.base import Metrics
from robust_jax.runtime.compilation import jitted
from robust_jax.runtime.sharding import batched
from robust_jax.training.plan import Plan
from robust_jax.training.state import TrainState
from robust_jax.types import Batch


def batches(data: Data, plan: Plan, mesh: Mesh, *, seed: int, start: int) -> Iterator[Batch]:
    """Yields the batches of the steps from `start` to the end of the plan.

    Args:
        data: the dataset.
        plan: the steps of the run, from `training.plan.make_plan`.
        mesh: devices that every batch is split over.
        seed: of the order.
        start: step to begin at, when training resumes.

    Example:
        >>> from robust_jax import training
        >>> from robust_jax.data import Blobs, DataConfig, open_data
        >>> from robust_jax.runtime import sharding
        >>> from robust_jax.training import Phase, TrainingConfig
        >>> from robust_jax.training.plan import make_plan
        >>> mesh, data = sharding.make_mesh(1), open_data(DataConfig(Blobs(num_train=8)))
        >>> config = TrainingConfig(phases=(Phase(1.0, batch_size=4), Phase(1.0, batch_size=2)))
        >>> plan = make_plan(config, data.task.num_train, mesh)
        >>> [len(batch.label) for batch in training.batches(data, plan, mesh, seed=0, start=0)]
        [4, 4, 2, 2, 2, 2]
    """
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
            first_epoch=math.ceil(plan.epochs[phase]),  # one that no phase has begun
        )
        replayed = (each for batch in stream for each in itertools.repeat(batch, plan.num_replays))
        yield from itertools.islice(replayed, replay, max(replay, replay + end - first))


def fetch(pending: list[tuple[int, Metrics]], last_good: int | None) -> dict[str, float]:
    """Returns the mean metrics of some steps, read from the device.

    Args:
        pending: (step, metrics) of each; at least one.
        last_good: step of the last checkpoint; None where there is none.

    Raises:
        FloatingPointError: a loss or a gradient is not finite; names the step and the last good
            checkpoint.

    Example:
        >>> from robust_jax.training import fetch
        >>> losses = [(step, {"loss": jnp.asarray(loss)}) for step, loss in enumerate((3.0, 1.0))]
        >>> fetch(losses, last_good=None)
        {'loss': 2.0}
        >>> fetch([(7, {"loss": jnp.asarray(jnp.nan)})], last_good=5)
        Traceback (most recent call last):
            ...
        FloatingPointError: Expected loss=nan at step 7 to be finite; the last good checkpoint ...
    """
    values = jax.device_get([metrics for _, metrics in pending])
    for (step, _), value in zip(pending, values, strict=True):
        for name in ("loss", "gradient_norm"):
            if not np.isfinite(value.get(name, 0.0)):
                raise _not_finite(f"{name}={value[name]} at step {step}", last_good)
    return {name: float(np.mean([value[name] for value in values])) for name in values[0]}


def check_finite(state: TrainState, last_good: int | None) -> None:
    """Checks what a checkpoint of a step would hold: its update is in no metric of its own.

    Args:
        state: of the run.
        last_good: step of the last checkpoint; None where there is none.

    Raises:
        FloatingPointError: the weights hold a number that is not finite, or what the next step goes
            on from does: moments, an average, Free-AT's perturbation.

    Example:
        >>> import optax
        >>> from robust_jax import training
        >>> from robust_jax.runtime import sharding
        >>> weights, config = {"params": {"kernel": jnp.ones(3)}}, training.TrainingConfig()
        >>> state = training.init_state(weights, optax.sgd(0.1), config, sharding.make_mesh(1))
        >>> training.check_finite(state, last_good=None)
        >>> lost = state._replace(variables={"params": {"kernel": jnp.full(3, jnp.inf)}})
        >>> training.check_finite(lost, last_good=5)
        Traceback (most recent call last):
            ...
        FloatingPointError: Expected the state after step 0 to be finite; the last good ...
    """
    if not _all_finite(state):
        raise _not_finite(f"the state after step {state.step}", last_good)


def _not_finite(what: str, last_good: int | None) -> FloatingPointError:
    kept = "none yet" if last_good is None else f"that of step {last_good}"
    return FloatingPointError(f"Expected {what} to be finite; the last good checkpoint is {kept}.")


@jitted
def _all_finite(tree: PyTree) -> Bool[Array, ""]:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.asarray([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
