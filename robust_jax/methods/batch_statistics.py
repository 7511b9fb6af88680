"""BatchNorm statistics gathered anew after training: plain means over batches."""

import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, PyTree

from robust_jax.models import Layers
from robust_jax.types import Batch, Variables

Gather = Callable[[Variables, Float[Array, "b h w k"], Key[Array, ""]], Variables]
"""(variables, images, key) -> {"batch_stats": the statistics after a pass in training mode}."""

COUNT = "count"


def cumulative(layers: Layers) -> Layers:
    """Returns the layers with running statistics that are means over all batches since a count.

    They are those of PyTorch's `momentum=None`; each BatchNorm has a `count` beside mean and var.
    """
    return layers._replace(norm=functools.partial(layers.norm, cumulative=True))


def check_statistics(shapes: Variables, option: str) -> None:
    """Checks that a network has statistics to gather.

    Args:
        shapes: of its variables.
        option: what asks for them, for the message.

    Raises:
        ValueError: it has no BatchNorm.
    """
    if not shapes.get("batch_stats"):
        raise ValueError(f"Expected {option}='reestimated' of a network with BatchNorm.")


def reestimate(
    gather: Gather,
    variables: Variables,
    batches: Iterable[Batch],
    *,
    key: Key[Array, ""],
    used: Bool[Array, "..."] | bool = True,
) -> Variables:
    """Returns the variables with the collection "fitted": statistics of which nothing old is left.

    Means and variances are means over batches (and over the passes that `gather` makes of each),
    every batch with the same weight; batches with padding rows are left out.

    Args:
        gather: a pass of a network that has `cumulative` layers.
        variables: of the trained network.
        batches: training images.
        key: of the passes.
        used: which of the stacked layers (last axes of the counts) must have been seen; what is
            not used keeps its statistics.

    Raises:
        ValueError: no batch is full, or a layer in use was in no pass.
    """
    fixed = {name: value for name, value in variables.items() if name != "fitted"}
    statistics = _with_counts(fixed["batch_stats"])

    @jax.jit
    def step(fixed: Variables, statistics: Variables, images: Array, key: Array) -> Variables:
        return gather({**fixed, "batch_stats": statistics}, images, key)["batch_stats"]

    num_passes = 0
    for number, batch in enumerate(batches):
        if bool(jnp.all(batch.mask)):  # padding rows would enter the statistics
            batch_key = jax.random.fold_in(key, number)
            statistics = step(fixed, statistics, batch.image, batch_key)
            num_passes += 1
    if num_passes == 0:
        raise ValueError("Expected batches without padding to gather BatchNorm statistics from.")
    for path, leaf in jax.tree_util.tree_leaves_with_path(statistics):
        if path[-1].key == COUNT and bool(jnp.any((leaf == 0) & used)):
            name = ".".join(entry.key for entry in path[:-1])
            raise ValueError(
                f"Expected more than {num_passes} batches: a layer of {name!r} was never drawn."
            )
    return {**variables, "fitted": {"batch_stats": _without_counts(statistics)}}


def fitted(variables: Variables, batch: Batch) -> Variables:
    """Returns variables of the shapes that `reestimate` gives: `Method.fitted`."""
    del batch
    statistics = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
    return {**variables, "fitted": {"batch_stats": statistics}}


def _with_counts(tree: PyTree) -> PyTree:
    """Returns statistics with a count of 0 beside each mean; members and choices lead its axes."""
    if not isinstance(tree, dict):
        return tree
    found = {name: _with_counts(value) for name, value in tree.items()}
    if "mean" in tree and not isinstance(tree["mean"], dict):
        found[COUNT] = jnp.zeros(tree["mean"].shape[:-1], jnp.float32)
    return found


def _without_counts(tree: PyTree) -> PyTree:
    if not isinstance(tree, dict):
        return tree
    return {name: _without_counts(value) for name, value in tree.items() if name != COUNT}
