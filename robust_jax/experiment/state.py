"""The state of a run in its work directory: saved, and restored bit for bit."""

import pathlib
from collections.abc import Mapping

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from robust_jax.data import Data
from robust_jax.experiment import checkpoints
from robust_jax.experiment.config import Config
from robust_jax.training import TrainState


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
