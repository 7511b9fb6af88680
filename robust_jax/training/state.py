"""The state of a training run."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from robust_jax.runtime.sharding import batched, replicated
from robust_jax.training.config import FreeAdversarialTraining, TrainingConfig
from robust_jax.types import Variables


class TrainState(NamedTuple):
    """What changes from step to step; random keys and the data's position follow from `step`.

    Attributes:
        step: number of steps taken.
        variables: the network's arrays.
        optimizer: optax's state.
        average: moving average of the variables; empty where none is kept.
        perturbation: of Free-AT, that of the last step's images; None without.

    Example:
        >>> import optax
        >>> from robust_jax.runtime import sharding
        >>> from robust_jax.training import TrainingConfig, init_state
        >>> weights, config = {"params": {"kernel": jnp.ones(3)}}, TrainingConfig(ema_decay=0.999)
        >>> state = init_state(weights, optax.sgd(0.1), config, sharding.make_mesh(1))
        >>> int(state.step), state.deployed is state.average
        (0, True)
    """

    step: Int[Array, ""]
    variables: Variables
    optimizer: PyTree
    average: Variables
    perturbation: Float[Array, "b h w k"] | None

    @property
    def deployed(self) -> Variables:
        """Returns the variables that are validated and deployed."""
        return self.average or self.variables


def state_sharding(mesh: Mesh) -> PyTree:
    """Returns how a state lies on the mesh: all of it everywhere, but perturbations of images."""
    everywhere: PyTree = replicated(mesh)
    images: PyTree = batched(mesh)
    return TrainState(everywhere, everywhere, everywhere, everywhere, images)


def init_state(
    variables: Variables,
    optimizer: optax.GradientTransformation,
    config: TrainingConfig,
    mesh: Mesh,
    image_shape: tuple[int, ...] = (),
) -> TrainState:
    """Returns the state before the first step.

    Args:
        variables: what training starts from.
        optimizer: from `OptimizerConfig.make`.
        config: whether there is an average, and a perturbation.
        mesh: where the state lies.
        image_shape: of a batch of images, for the perturbation of Free-AT.

    Raises:
        ValueError: Free-AT without an image shape.

    Example:
        >>> import optax
        >>> from robust_jax.runtime import sharding
        >>> from robust_jax.training import TrainingConfig, init_state
        >>> weights = {"params": {"kernel": jnp.ones(3)}}
        >>> state = init_state(weights, optax.sgd(0.1), TrainingConfig(), sharding.make_mesh(1))
        >>> int(state.step), state.perturbation is None
        (0, True)
    """
    free = isinstance(config.adversarial, FreeAdversarialTraining)
    if free and len(image_shape) != 4:
        raise ValueError(f"Expected image_shape={image_shape} to be [b h w k] for Free-AT.")

    def build(variables: Variables) -> TrainState:
        # Copies, so that no two donated arrays are the same buffer.
        copy = jax.tree.map(jnp.copy, variables)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            variables=variables,
            optimizer=optimizer.init(variables["params"]),
            average=copy if config.ema_decay is not None else {},
            perturbation=jnp.zeros(image_shape) if free else None,
        )

    return jax.jit(build, out_shardings=state_sharding(mesh))(variables)
