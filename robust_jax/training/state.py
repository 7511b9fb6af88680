"""The state of a training run: fresh, saved, and restored bit for bit."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int

from robust_jax import checkpoints, logging, rng
from robust_jax.compilation import jitted
from robust_jax.config import Config, FreeAdversarialTraining, TrainingConfig
from robust_jax.data import Data
from robust_jax.methods import Method
from robust_jax.models import Normalization
from robust_jax.sharding import batched, replicated
from robust_jax.types import Variables
from robust_jax.weights import check_architecture, check_function


class TrainState(NamedTuple):
    """What changes from step to step; random keys and the data's position follow from `step`.

    Attributes:
        step: number of steps taken.
        variables: the network's arrays.
        optimizer: optax's state.
        average: moving average of the variables; empty where none is kept.
        perturbation: of Free-AT, that of the last step's images; empty without.
    """

    step: Int[Array, ""]
    variables: Variables
    optimizer: Any
    average: Variables
    perturbation: Any

    @property
    def deployed(self) -> Variables:
        """Returns the variables that are validated and deployed."""
        return self.average or self.variables


def init_variables(config: Config, data: Data, method: Method, mesh: Mesh) -> Variables:
    """Returns the variables that training starts from, replicated over the mesh.

    Fresh ones from the seed, with the training images' statistics where the network normalises by
    them; or those of `init_from`, of which a `fitted` collection is left behind. Where they make
    another network under this method (kernel pooling over a plain network's arrays) a line says so.

    Raises:
        ValueError: `init_from` holds no checkpoint, or one of another architecture; or one that
            makes another network, and no step trains it.
    """
    init = jitted(lambda key: method.init(key=key), out_shardings=replicated(mesh))
    source = config.training.init_from
    if source is not None:
        found = checkpoints.load(source, mesh)
        expected = init.eval_shape(jax.random.key(0))
        check_architecture(found.variables, expected, name=f"init_from {source!r}")
        try:
            check_function(found.config.method, config.method, found.task, found.variables)
        except ValueError as error:
            if not config.training.phases:
                raise ValueError(f"Expected init_from={source!r} to fit: {error}") from error
            logging.say(f"Warning: init_from {source!r}: {error}")
        return {name: found.variables[name] for name in expected}
    variables = init(rng.stream(jax.random.key(config.seed), "init"))
    return _with_statistics(variables, config.method.normalization, data, mesh)


def _with_statistics(
    variables: Variables, normalization: Normalization, data: Data, mesh: Mesh
) -> Variables:
    if normalization.statistics == "given":
        return variables
    found = data.statistics
    constants = {"mean": found.pixel_mean, "std": jnp.ones_like(found.pixel_mean)}
    if normalization.statistics == "train_channel":
        constants = {"mean": found.channel_mean, "std": found.channel_std}
    return {**variables, "constants": jax.device_put(constants, replicated(mesh))}


def state_sharding(mesh: Mesh) -> Any:
    """Returns how a state lies on the mesh: all of it everywhere, but perturbations of images."""
    everywhere: Any = replicated(mesh)
    return TrainState(everywhere, everywhere, everywhere, everywhere, batched(mesh))


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
    """
    free = isinstance(config.adversarial, FreeAdversarialTraining)
    if free and len(image_shape) != 4:
        raise ValueError(f"Expected image_shape={image_shape} to be [b h w k] for Free-AT.")

    def build(variables):
        # Copies, so that no two donated arrays are the same buffer.
        copy = jax.tree.map(jnp.copy, variables)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            variables=variables,
            optimizer=optimizer.init(variables["params"]),
            average=copy if config.ema_decay is not None else {},
            perturbation=jnp.zeros(image_shape) if free else {},
        )

    return jax.jit(build, out_shardings=state_sharding(mesh))(variables)


def _resumed(state: TrainState) -> dict[str, Any]:
    """Returns what resuming needs besides what is deployed."""
    others = {
        "variables": dict(state.variables) if state.average else {},
        "perturbation": state.perturbation,
    }
    others = {name: value for name, value in others.items() if jax.tree.leaves(value)}
    return {"step": state.step, "optimizer": state.optimizer, **others}


def save(
    manager: Any,
    state: TrainState,
    *,
    config: Config,
    data: Data,
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Writes a checkpoint of the state: what is deployed, and what resuming needs besides."""
    checkpoints.save(
        manager,
        int(state.step),
        model=state.deployed,
        optimizer=_resumed(state),
        config=config,
        task=data.task,
        class_names=data.class_names,
        metrics=metrics,
    )


def restore(
    manager: Any, workdir: str | pathlib.Path, step: int, state: TrainState, mesh: Mesh
) -> TrainState:
    """Returns the state of a checkpoint that `save` wrote, bit for bit, on this mesh.

    Args:
        manager: the work directory's.
        workdir: the work directory.
        step: which checkpoint.
        state: a state of the same shapes, on the mesh.
        mesh: devices to restore to; another number of them than wrote it is fine.
    """
    model = checkpoints.load(workdir, mesh, step=step).variables
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
        _resumed(state),
    )
    found = checkpoints.restore_optimizer(manager, step, abstract)
    model = {name: model[name] for name in state.variables}
    return TrainState(
        step=found["step"],
        variables=found.get("variables", model),
        optimizer=found["optimizer"],
        average=model if state.average else {},
        perturbation=found.get("perturbation", {}),
    )
