"""Bounds of every value in a network over a box of images, from those of its operands alone."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import ArrayLike

from robust_jax.certify.checks import check_classes, shape_of
from robust_jax.certify.heads import behind, interval_behind
from robust_jax.certify.network import (
    Affine,
    Bent,
    Elementwise,
    Input,
    Network,
    Node,
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

    Example:
        >>> from robust_jax.certify import interval_bounds
        >>> found = interval_bounds(lambda images: 2 * images, jnp.zeros((1, 2)), jnp.ones((1, 2)))
        >>> (found.upper - found.lower).tolist()  # how loose they are
        [[2.0, 2.0]]
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

    Example:
        >>> from robust_jax.certify import interval_bounds
        >>> weights = jnp.asarray([[1.0], [-1.0]])
        >>> lower, upper = jnp.asarray([[0.25, 0.25]]), jnp.asarray([[0.75, 0.5]])
        >>> found = interval_bounds(lambda x: jax.nn.relu(x @ weights + 0.5), lower, upper)
        >>> found.lower.tolist(), found.upper.tolist()
        ([[0.25]], [[1.0]])

    References:
        Gowal et al., "On the effectiveness of interval bound propagation for training verifiably
        robust models", 2018, section 3.
    """
    box = _checked(lower, upper)
    return _interval_bounds(as_pytree(function), *box)


def interval_margins(
    function: Callable[[Array], Array], lower: ArrayLike, upper: ArrayLike, labels: ArrayLike
) -> Float[Array, "b *m c"]:
    """Returns lower bounds of logit_label - logit_c for all images between two, for each class c.

    What is linear at the function's end is bounded as the difference that it makes, not logit by
    logit: the bounds are nowhere looser than a difference of `interval_bounds`. They can be
    differentiated, by the weights too, inside a trace.

    Args:
        function: see `interval_bounds`; from images to logits [b c], or to several networks'
            [b m c], a row from its own image alone.
        lower: smallest images [b ...], float32.
        upper: largest images [b ...].
        labels: class of each [b].

    Guarantees:
        Those of `interval_bounds`: where no number comes out they are -inf, and 0 of the label.

    Raises:
        ValueError: as `interval_bounds`, or the value is not one of logits.

    Example:
        >>> from robust_jax.certify import interval_margins
        >>> images, weights = jnp.asarray([[0.75, 0.25]]), jnp.asarray([[3.0, 1.0], [0.0, 2.0]])
        >>> box = images - 0.125, images + 0.125
        >>> interval_margins(lambda x: x @ weights, *box, jnp.asarray([0])).tolist()
        [[0.0, 0.5]]

    References:
        Gowal et al., 2018, section 3 ("elision of the last layer").
    """
    box, labels = _checked(lower, upper), jnp.asarray(labels)
    if labels.shape != box.lower.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"Expected labels of shape {labels.shape} and dtype {labels.dtype} to be integers "
            f"[{len(box.lower)}]."
        )
    function = as_pytree(function)
    shape = jax.eval_shape(lambda x: function(x), box.lower)
    check_classes(labels, shape_of(shape, "[b c] or [b m c]", len(labels))[-1])
    return _interval_margins(function, *box, labels)


def _checked(lower: ArrayLike, upper: ArrayLike) -> Bounds:
    """Returns the images as arrays; raises ValueError where they are not the ends of a box."""
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
    return Bounds(lower, upper)


@compiled
def _interval_bounds(function: Callable[[Array], Array], lower: Array, upper: Array) -> Bounds:
    network = prepare(function, lower.shape)
    found = _through(network, Bounds(lower, upper))[network.last]
    return found if network.head is None else sure(Bounds(*interval_behind(network.head, *found)))


@compiled
def _interval_margins(
    function: Callable[[Array], Array], lower: Array, upper: Array, labels: Int[Array, " b"]
) -> Float[Array, "b *m c"]:
    # Of one image: which axis of a value inside is that of images, a function does not say.
    network = prepare(function, (1, *lower.shape[1:]))

    def of_one(lower: Array, upper: Array, label: Array) -> Float[Array, "*m c"]:
        known = _through(network, Bounds(lower[None], upper[None]))
        scores = known[network.last]
        parents = [known[parent] for parent in network.parents[network.last]]
        found = elided(network.nodes[network.last], parents, scores, label)
        if network.head is None:
            return found
        is_own = jax.nn.one_hot(label, found.shape[-1], dtype=bool)
        lower, upper = (each.reshape(found.shape) for each in scores)
        return behind(network.head, found, lower, upper, jnp.broadcast_to(is_own, found.shape))

    return jax.vmap(of_one)(lower, upper, labels)


def elided(
    node: Node, parents: Sequence[Bounds], scores: Bounds, label: Int[Array, ""]
) -> Float[Array, "*m c"]:
    """Returns lower bounds of one image's score of the label less each class's, 0 of the label.

    Args:
        node: whose value the scores [1 *m c] are.
        parents: bounds of the values that it acts on.
        scores: bounds of its value.
        label: the class.
    """
    _, *members, num_classes = node.shape
    own = jax.nn.one_hot(label, num_classes, dtype=jnp.float32)
    if isinstance(node, Affine):
        differences = own[None] - jnp.eye(num_classes, dtype=jnp.float32)
        alone = jnp.eye(math.prod(members), dtype=jnp.float32)
        functions = alone[:, None, :, None] * differences[None, :, None, :]
        functions = functions.reshape(-1, *node.shape)
        found = jax.vmap(lambda each: _smallest(node, each, parents))(functions)
    else:
        smallest, largest = scores
        found = jnp.sum(jnp.where(own > 0, smallest, 0.0), axis=-1, keepdims=True) - largest
    found = found.reshape(*members, num_classes)
    is_own = jnp.broadcast_to(own > 0, found.shape)
    lower, upper = (each.reshape(found.shape) for each in scores)
    return of_numbers(found, lower, upper, is_own)


def of_numbers(
    margins: Float[Array, "*m c"],
    lower: Float[Array, "*m c"],
    upper: Float[Array, "*m c"],
    is_own: Bool[Array, "*m c"],
) -> Float[Array, "*m c"]:
    """Returns the margins, 0 of the label, -inf where they or one of their scores may be NaN.

    What gives NaN whatever the images are (a place beyond the end of an array) has coefficients of
    zero, and with them bounds of a difference that say nothing of it.

    Args:
        margins: lower bounds of the label's score less each class's.
        lower: bounds of the scores; -inf and inf of what may be anything.
        upper: likewise.
        is_own: which class is the label's.
    """
    anything = (lower == -jnp.inf) & (upper == jnp.inf)
    anything |= jnp.any(anything & is_own, axis=-1, keepdims=True)
    margins = jnp.where(jnp.isnan(margins) | anything, -jnp.inf, margins)
    return jnp.where(is_own, 0.0, margins)


def _smallest(
    node: Affine, coefficients: Float[Array, "..."], parents: Sequence[Bounds]
) -> Float[Array, ""]:
    """Returns the least value of a linear function of a node's value."""
    found = jnp.zeros((), jnp.float32)
    if node.offset is not None:
        found += jnp.sum(coefficients * node.offset)
    for weights, box in zip(node.transposed(coefficients), parents, strict=True):
        centre, radius = (box.upper + box.lower) / 2, (box.upper - box.lower) / 2
        found += jnp.sum(weights * centre - jnp.abs(weights) * radius)
    return found


def _through(network: Network, box: Bounds) -> dict[int, Bounds]:
    """Returns bounds of every node's value, by its number."""
    known = {0: sure(box)}
    for number, node in network.nodes.items():
        if not isinstance(node, Input):
            known[number] = propagate(node, [known[p] for p in network.parents[number]])
    return known


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
