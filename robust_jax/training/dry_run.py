"""A phase that cannot be trained is refused before the first, not after hours of it."""

from collections.abc import Callable

import jax
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Key

from robust_jax.data import Data
from robust_jax.methods import Method
from robust_jax.runtime.dry_run import batch_of, dry_run
from robust_jax.training.config import TrainingConfig
from robust_jax.training.plan import Plan
from robust_jax.training.state import TrainState, init_state
from robust_jax.training.step import Metrics
from robust_jax.types import Batch, Variables


def check_phases(
    step_fn: Callable[[TrainState, Batch, Key[Array, ""]], tuple[TrainState, Metrics]],
    plan: Plan,
    method: Method,
    optimizer: optax.GradientTransformation,
    config: TrainingConfig,
    data: Data,
    mesh: Mesh,
) -> None:
    """Traces a step of each phase whose batches are not those of the first, which begins at once.

    Args:
        step_fn: the training step.
        plan: of the run.
        method: what is trained.
        optimizer: of its parameters.
        config: of the training.
        data: the dataset.
        mesh: devices.

    Raises:
        ValueError: a phase has a size that the data has not, or no step can be taken in it.
    """
    begun = [start for start in plan.starts[:-1] if start < plan.num_steps]
    for size in {plan.image_sizes[plan.phase_at(start)] for start in begun}:
        if size is not None:
            data.train.resized(size)  # raises where there is no such size
    phases = {plan.image_shape_at(start, data.task): plan.phase_at(start) for start in begun[::-1]}
    for shape, phase in phases.items():
        if phase == 0:
            continue

        def state_at(variables: Variables, shape: tuple[int, ...] = shape) -> TrainState:
            return init_state(variables, optimizer, config, mesh, shape)

        state = jax.eval_shape(state_at, jax.eval_shape(method.init, key=jax.random.key(0)))
        what = f"training in phase {phase + 1}"
        dry_run(step_fn, state, batch_of(shape), jax.random.key(0), what=what)
