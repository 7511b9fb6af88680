"""Bounds of every value in a network over a box of images, from those of its operands alone."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from robust_jax.certify.heads import interval_behind
from robust_jax.certify.network import (
    Affine,
    Bent,
    Elementwise,
    Input,
    Rectifier,
    forward,
    prepare,
)
from robust_jax.runtime.live import as_pytree, compiled


class Bounds(NamedTuple):
    """Elementwise bounds of an array.

    Attributes:
        lower: smallest values.
        upper: largest values.
    """

    lower: Float[Array, "..."]
    upper: Float[Array, "..."]


def interval_bounds(
    function: Callable[[Array], Array], lower: ArrayLike, upper: ArrayLike
) -> Bounds:
    """Returns bounds of a function's value for all images between two.

    Args:
        function: from images to an array, made of linear operations, rectifiers, absolute
            values, clips (relu6), maxima and minima, sigmoid, tanh, softplus, elu, silu and gelu
            (exact and by tanh), and last of all softmax or its logarithm over the last axis,
            recognised by what they compute. It is bounded as it is at the call; a
            `jax.tree_util.Partial` that holds its arrays pays no tracing.
        lower: smallest images [b ...], float32.
        upper: largest images [b ...].

    Guarantees:
        They hold up to the rounding of float32, in which products are computed on every device.
        They are exact for one linear operation, and loosen with every one after it. Where no
        number comes out (infinite weights, NaN) they are -inf and inf.

    Raises:
        ValueError: shapes or dtypes do not fit, an operation on the images is none that
            bounds are known of, or casts them from float32.

    References:
        Gowal et al., "On the effectiveness of interval bound propagation for training verifiably
        robust models", 2018, section 3.
    """
    lower, upper = jnp.asarray(lower), jnp.asarray(upper)
    for name, array in (("lower", lower), ("upper", upper)):
        if array.dtype != jnp.float32 or array.shape != lower.shape:
            raise ValueError(
                f"Expected {name} of shape {array.shape} and dtype {array.dtype} to be "
                f"{lower.shape} and float32."
            )
    if not isinstance(lower, Tracer) and not isinstance(upper, Tracer):
        # NaN is larger than nothing: bounds of it are -inf and inf.
        crossed = np.flatnonzero(np.asarray(lower) > np.asarray(upper))
        if len(crossed):
            raise ValueError(f"Expected lower <= upper, found more at {len(crossed)} places.")
    return _interval_bounds(as_pytree(function), lower, upper)


@compiled
def _interval_bounds(function: Callable[[Array], Array], lower: Array, upper: Array) -> Bounds:
    network = prepare(function, lower.shape)
    known = {0: sure(Bounds(lower, upper))}
    for number, node in network.nodes.items():
        if not isinstance(node, Input):
            known[number] = propagate(node, [known[p] for p in network.parents[number]])
    found = known[network.last]
    return found if network.head is None else sure(Bounds(*interval_behind(network.head, *found)))


def propagate(node: Affine | Bent, parents: Sequence[Bounds]) -> Bounds:
    """Returns bounds of a node's value from bounds of its parents' values."""
    if isinstance(node, Affine) and node.spread is not None:
        centre = forward(node, [(x.lower + x.upper) / 2 for x in parents])
        (radius,) = node.spread(*((x.upper - x.lower) / 2 for x in parents))
        return sure(Bounds(centre - radius, centre + radius))
    if isinstance(node, Elementwise):
        return sure(Bounds(*node.kind.interval(*parents[0])))
    first, last = (forward(node, [x[side] for x in parents]) for side in (0, 1))
    if isinstance(node, Rectifier) and node.negative_slope < 0:
        (x,) = parents
        crosses = (x.lower < 0) & (x.upper > 0)
        smaller = jnp.minimum(first, last)
        return sure(Bounds(jnp.where(crosses, 0, smaller), jnp.maximum(first, last)))
    # Nothing falls where an operand rises.
    return sure(Bounds(first, last))


def sure(bounds: Bounds) -> Bounds:
    """Returns the bounds; -inf and inf where either is NaN, which says nothing of the value."""
    lower, upper = bounds
    unknown = jnp.isnan(lower) | jnp.isnan(upper)
    return Bounds(jnp.where(unknown, -jnp.inf, lower), jnp.where(unknown, jnp.inf, upper))


def intersection(first: Bounds, second: Bounds) -> Bounds:
    """Returns bounds that hold where both do."""
    return Bounds(jnp.maximum(first.lower, second.lower), jnp.minimum(first.upper, second.upper))
