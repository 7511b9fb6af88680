"""What a checkpoint is, and what it says of itself: its item `meta`, a JSON object."""

from collections.abc import Sequence
from typing import NamedTuple

import robust_jax
from robust_jax import formats, serialization
from robust_jax.evaluation.model import fingerprint
from robust_jax.experiment.config import Config
from robust_jax.formats import Tree
from robust_jax.types import Task, Variables


class Checkpoint(NamedTuple):
    """A restored checkpoint.

    Attributes:
        config: the experiment that made it.
        task: the dataset's shape, as the network was built for it.
        class_names: names of the classes, in label order.
        step: training step.
        metrics: validation metrics when it was saved; empty where none were measured.
        variables: what is deployed, replicated over the mesh.
    """

    config: Config
    task: Task
    class_names: tuple[str, ...]
    step: int
    metrics: dict[str, float]
    variables: Variables


class Meta(NamedTuple):
    """The item `meta` in today's shape.

    Attributes:
        config: as `serialization.to_json` wrote it.
        task: the task that the method was made for.
        class_names: names of the classes.
        metrics: validation metrics; empty where none were measured.
        weights: fingerprint of the variables; None where none was kept.
        optimizer: that of what a resumed run needs besides; None where none was kept.
        data: that of the training split; None where nothing was trained, or none was kept.
    """

    config: Tree
    task: Task
    class_names: tuple[str, ...]
    metrics: dict[str, float]
    weights: object
    optimizer: object
    data: object

    @property
    def best_value(self) -> float:
        """The metric by which the best checkpoint is chosen; -1 where it was not measured."""
        return self.metrics.get(str(part(self.config, ["training"]).get("best_by")), -1.0)


def to_json(
    checkpoint: Checkpoint, *, optimizer: str | None = None, data: str | None = None
) -> Tree:
    """Returns what is written of a checkpoint.

    Args:
        checkpoint: what is written.
        optimizer: fingerprint of what a resumed run needs besides; None where nothing is.
        data: that of the training split; None where it is not known.
    """
    return formats.numbered(
        {
            "version": robust_jax.__version__,
            "config": serialization.to_json(checkpoint.config),
            "task": checkpoint.task._asdict(),
            "class_names": checkpoint.class_names,
            "metrics": checkpoint.metrics,
            # Files of arrays have no check sums of their own.
            "weights": fingerprint(checkpoint.variables),
            "optimizer": optimizer,
            "data": data,
        }
    )


def from_json(tree: Tree) -> Meta:
    """Returns what a JSON object says.

    Raises:
        KeyError: it lacks a part.
        ValueError: a part is of another kind.
    """
    config, task, metrics, names = (
        tree[key] for key in ("config", "task", "metrics", "class_names")
    )
    if not (isinstance(config, dict) and isinstance(task, dict) and isinstance(metrics, dict)):
        raise ValueError("Expected config, task and metrics to be JSON objects.")
    if not isinstance(names, list):
        raise ValueError(f"Expected class_names={names!r} to be a list.")
    height, width, channels = task["input_shape"]
    made_for = Task((height, width, channels), task["num_classes"], task["num_train"])
    kept = tree["weights"], tree["optimizer"], tree.get("data")
    return Meta(config, made_for, tuple(names), metrics, *kept)


def part(tree: Tree, names: Sequence[str]) -> Tree:
    """Returns the object under these names, one inside the other; an empty one if there is none."""
    for name in names:
        found = tree.get(name)
        tree = found if isinstance(found, dict) else {}
    return tree
