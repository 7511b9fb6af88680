"""The state of a run in its work directory: fresh, saved, and restored bit for bit."""

import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from robust_jax import rng
from robust_jax.data import Data
from robust_jax.experiment import checkpoints
from robust_jax.experiment.config import Config
from robust_jax.experiment.weights import check_architecture, check_function
from robust_jax.methods import Method
from robust_jax.models import Normalization
from robust_jax.runtime import logging
from robust_jax.runtime.compilation import jitted
from robust_jax.runtime.sharding import replicated
from robust_jax.training import TrainState
from robust_jax.types import Variables


def init_variables(config: Config, data: Data, method: Method, mesh: Mesh) -> Variables:
    """Returns the variables that training starts from, replicated over the mesh.

    Fresh ones from the seed, with the training images' statistics where the network normalises by
    them; or those of `init_from`, of which a `fitted` collection is left behind. Where they make
    another network under this method (kernel pooling over a plain network's arrays) a line says so.

    Raises:
        ValueError: `init_from` holds no checkpoint, or one of another architecture; or one that
            makes another network, and no step trains it.
    """

    def fresh(key: Key[Array, ""]) -> Variables:
        return method.init(key=key)

    init = jitted(fresh, out_shardings=replicated(mesh))
    source = config.training.init_from
    if source is not None:
        found = checkpoints.load(source, mesh)
        expected = jax.eval_shape(fresh, jax.random.key(0))
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


def _resumed(state: TrainState) -> dict[str, PyTree]:
    """Returns what resuming needs besides what is deployed."""
    others = {
        "variables": dict(state.variables) if state.average else {},
        "perturbation": state.perturbation,
    }
    others = {name: value for name, value in others.items() if jax.tree.leaves(value)}
    return {"step": state.step, "optimizer": state.optimizer, **others}


def save(
    manager: checkpoints.Manager,
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
    manager: checkpoints.Manager,
    workdir: str | pathlib.Path,
    step: int,
    state: TrainState,
    mesh: Mesh,
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
        perturbation=found.get("perturbation"),
    )
