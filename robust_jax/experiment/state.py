"""The state of a run in its work directory: saved, and restored bit for bit."""

import pathlib
from collections.abc import Mapping

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from jaxtyping import PyTree

from robust_jax.data import Data
from robust_jax.experiment import checkpoints, reading
from robust_jax.experiment.config import Config
from robust_jax.experiment.weights import check_arrays
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
    """Writes a checkpoint of the state: what is deployed, and what resuming needs besides.

    Args:
        manager: of the work directory.
        state: of the run.
        config: of the run.
        data: the dataset, for the network's shape, the classes' names and what is trained on.
        metrics: of validation.

    Example:
        >>> import optax
        >>> from robust_jax import experiment, training
        >>> from robust_jax.data import open_data
        >>> from robust_jax.experiment import checkpoints
        >>> from robust_jax.experiment.config import load
        >>> from robust_jax.runtime import sharding
        >>> config, weights = load("quickstart"), {"params": {"kernel": jnp.zeros(3)}}
        >>> data, mesh = open_data(config.data), sharding.make_mesh(1)
        >>> state = training.init_state(weights, optax.sgd(0.1), config.training, mesh)
        >>> with checkpoints.open_manager("runs/mine", best_by="accuracy") as manager:
        ...     experiment.save(manager, state, config=config, data=data, metrics={"accuracy": 0.1})
        >>> checkpoints.kept_metrics("runs/mine")
        {0: {'accuracy': 0.1}}
    """
    checkpoints.save(
        manager,
        int(state.step),
        model=state.deployed,
        optimizer=_resumed(state),
        config=config,
        task=data.task,
        class_names=data.class_names,
        metrics=metrics,
        data=data.fingerprint,
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

    Raises:
        ValueError: there is no such checkpoint, or it is damaged.

    Example:
        >>> import optax
        >>> from robust_jax import experiment, training
        >>> from robust_jax.data import Blobs, DataConfig, open_data
        >>> from robust_jax.experiment import checkpoints
        >>> from robust_jax.experiment.config import Config
        >>> from robust_jax.methods import Standard
        >>> from robust_jax.models import CNNConfig
        >>> from robust_jax.runtime import sharding
        >>> network = CNNConfig(widths=(4,), strides=(2,))
        >>> config = Config("blobs", DataConfig(Blobs(image_size=4)), Standard(network))
        >>> data, mesh = open_data(config.data), sharding.make_mesh(1)
        >>> method, sgd = config.method.make(data.task), optax.sgd(0.1, momentum=0.9)
        >>> shapes = jax.eval_shape(method.init, key=jax.random.key(0))
        >>> weights = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        >>> state = training.init_state(weights, sgd, config.training, mesh)
        >>> with checkpoints.open_manager("blobs", best_by="accuracy") as manager:
        ...     experiment.save(manager, state, config=config, data=data)
        ...     found = experiment.restore(manager, "blobs", 0, state, mesh)
        >>> all(map(np.array_equal, jax.tree.leaves(found), jax.tree.leaves(state)))
        True
    """
    model = checkpoints.load(workdir, mesh, step=step).variables
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
        _resumed(state),
    )
    found = restore_optimizer(manager, step, abstract)
    model = {name: model[name] for name in state.variables}
    return TrainState(
        step=found["step"],
        variables=found.get("variables", model),
        optimizer=found["optimizer"],
        average=model if state.average else {},
        perturbation=found.get("perturbation"),
    )


def restore_optimizer(manager: checkpoints.Manager, step: int, abstract: PyTree) -> PyTree:
    """Returns the `optimizer` item of a checkpoint in the structure and sharding of `abstract`.

    Raises:
        ValueError: it is damaged.
    """
    directory, workdir = manager.directory, str(manager.directory.parent)
    args = ocp.args.Composite(optimizer=ocp.args.StandardRestore(abstract))
    found = reading.readable(lambda: manager.restore(step, args=args)["optimizer"], directory, step)
    kept = reading.read_meta(workdir, step).optimizer
    check_arrays(found, kept, name=f"checkpoint {workdir!r}, step {step}, optimizer,")
    return found
