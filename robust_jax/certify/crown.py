"""CROWN: margins between logits over a box of images, by linear bounds sent backward."""

import functools
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, ScalarLike
from numpy.typing import ArrayLike

from robust_jax.certify.checks import check_batch, check_classes, shape_of
from robust_jax.certify.graph import Affine, Graph, Input, Maximum, Rectifier, forward
from robust_jax.certify.interpreter import evaluate, trace
from robust_jax.certify.intervals import Bounds, propagate
from robust_jax.runtime.live import as_pytree, compiled

Intermediate = Literal["crown", "interval"]

TOLERANCE = 1e-4
"""Margin above which an image counts as certified, for logits of size one: what float32 may add.

Bounds are sums in float32, not rounded downward. `tests/certify/test_precision.py` holds them
against float64.
"""


class Lines(NamedTuple):
    """Linear bounds of a rectifier or maximum in the value x in front of it, elementwise.

    lower_slope * x <= value <= upper_slope * x + upper_offset; of a maximum the products are
    summed over x's leading axis.
    """

    lower_slope: Array
    upper_slope: Array
    upper_offset: Array


class Relaxed(NamedTuple):
    """A network on a box of images, with linear bounds of what is not linear.

    Attributes:
        graph: of the network, on one image.
        transposed: of each affine node, from coefficients [n ...] on its value to coefficients
            on its parents' values.
        centre: each node's value at the centre of the box.
        known: bounds of each node's value.
        lines: of each rectifier and maximum.
    """

    graph: Graph
    transposed: dict[int, Callable[[Array], list[Array]]]
    centre: dict[int, Array]
    known: dict[int, Bounds]
    lines: dict[int, Lines]


def crown_margins(
    function: Callable[[Array], Array],
    images: ArrayLike,
    labels: ArrayLike,
    eps: ScalarLike,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    intermediate: Intermediate = "crown",
    chunk_size: int = 64,
) -> Float[Array, "b *m c"]:
    """Returns lower bounds of logit_label - logit_c over the Linf ball, for each class c.

    Args:
        function: deterministic, from images to logits [b c], or to several networks' [b m c], a
            row from its own image alone; made of linear operations, rectifiers and maxima. It is
            bounded as it is at the call; a `jax.tree_util.Partial` that holds its arrays pays no
            tracing.
        images: clean images [b ...], float32, inside the box.
        labels: class of each [b].
        eps: radius of the ball, in pixel units.
        bounds: smallest and largest pixel value; the ball is cut to this box.
        intermediate: where the bounds of the values in front of each rectifier and maximum come
            from: "crown" sends one backward pass for every value whose interval leaves open
            which linear piece it is on, "interval" takes the interval (quick, and loose in deep
            networks).
        chunk_size: values, or margins, whose backward passes run at once: the memory needed is
            proportional to it.

    Guarantees:
        They hold up to the rounding of float32, in which products are computed on every device,
        are exact for eps=0 and for linear functions, and are nowhere looser than the difference
        of `interval_bounds`. Where no number comes out (infinite weights, NaN) they are -inf. An
        image's margins depend on that image alone. There is no derivative.

    Raises:
        ValueError: shapes, dtypes or values do not fit, or an operation on the images is none
            that bounds are known of.

    References:
        Zhang et al., "Efficient neural network robustness certification with general activation
        functions", 2018, theorem 3.2 and section 3.3 (adaptive slopes). Of maxima: the candidate
        with the largest lower bound from below, a constant from above.
    """
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    check_batch(images, labels, bounds)
    if intermediate not in ("crown", "interval"):
        raise ValueError(f"Expected intermediate={intermediate!r} to be 'crown' or 'interval'.")
    if chunk_size < 1:
        raise ValueError(f"Expected chunk_size={chunk_size} >= 1.")
    if np.ndim(eps):
        raise ValueError(f"Expected eps of shape {np.shape(eps)} to be one number.")
    if not isinstance(eps, Tracer) and not 0 <= np.asarray(eps) < np.inf:
        raise ValueError(f"Expected eps={eps} >= 0 and finite.")
    function = as_pytree(function)
    if not len(images):  # which few functions take
        one = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
        shape = shape_of(jax.eval_shape(lambda x: function(x), one), "[b c] or [b m c]", 1)
        return jnp.zeros((0, *shape[1:]), jnp.float32)
    margins = _margins(function, images, labels, eps, bounds, intermediate, chunk_size)
    check_classes(labels, margins.shape[-1])
    return margins


def smallest_margin(margins: Float[Array, "b c"], labels: ArrayLike) -> Float[Array, " b"]:
    """Returns each image's smallest margin over the classes that are not its own."""
    own = jax.nn.one_hot(jnp.asarray(labels), margins.shape[1], dtype=bool)
    return jnp.min(jnp.where(own, jnp.inf, margins), axis=1)


def certified(
    margins: Float[Array, "b c"], labels: ArrayLike, *, tolerance: float = TOLERANCE
) -> Bool[Array, " b"]:
    """Returns which images are proven to keep their label: other classes' margins > tolerance."""
    return smallest_margin(margins, labels) > tolerance


@functools.partial(compiled, static_argnames=("bounds", "intermediate", "chunk_size"))
def _margins(
    function: Callable[[Array], Array],
    images: Array,
    labels: Array,
    eps: ScalarLike,
    bounds: tuple[float, float],
    intermediate: Intermediate,
    chunk_size: int,
) -> Array:
    found = jax.eval_shape(lambda images: function(images), images)
    shape = shape_of(found, "[b c] or [b m c]", len(images))
    *members, num_classes = shape[1:]
    num_members = math.prod(members)

    def margins(example: tuple[Array, Array]) -> Array:
        image, label = example
        box = Bounds(jnp.clip(image[None] - eps, *bounds), jnp.clip(image[None] + eps, *bounds))
        size = chunk_size if intermediate == "crown" else None
        relaxed = relax(trace(function, box.lower.shape), box, size)
        last = max(relaxed.graph)
        rows = jax.nn.one_hot(label, num_classes, dtype=jnp.float32)[None]
        rows = rows - jnp.eye(num_classes, dtype=jnp.float32)
        # Of each member: [m c] margins, linear in logits [1 m c].
        own = jnp.eye(num_members, dtype=jnp.float32)[:, None, :, None]
        each = (own * rows[None, :, None]).reshape(-1, *relaxed.graph[last].shape)
        lower, upper = relaxed.known[last]
        interval = jnp.where(jnp.any(rows != 0, axis=1), lower[..., label, None] - upper, 0)
        found = lower_bounds(relaxed, last, each).reshape(shape[1:])
        margins = jnp.maximum(found, interval[0])
        return jnp.where(jnp.isnan(margins), -jnp.inf, margins)

    # One image's values fill a chunk; where only its margins are asked for, several images do.
    num_margins = num_members * num_classes
    batch_size = None if intermediate == "crown" else max(1, chunk_size // num_margins)
    return lax.map(margins, (images, labels), batch_size=batch_size)


def relax(graph: Graph, box: Bounds, chunk_size: int | None) -> Relaxed:
    """Returns the network with linear bounds of what is not linear.

    Args:
        graph: on one image.
        box: of the images.
        chunk_size: values whose bounds are made by backward passes at once; None takes intervals.
    """
    centre = (box.lower + box.upper) / 2
    relaxed = Relaxed(graph, {}, {0: centre}, {0: box}, {})
    refined = set()
    for number, node in graph.items():
        if isinstance(node, Input):
            continue
        if isinstance(node, Affine):
            relaxed.transposed[number] = _transposed(node, graph)
        else:
            (parent,) = node.parents
            if chunk_size is not None and parent not in refined:
                relaxed.known[parent] = refine(relaxed, node, chunk_size)
                refined.add(parent)
            relaxed.lines[number] = lines(node, relaxed.known[parent])
        relaxed.known[number] = propagate(node, [relaxed.known[p] for p in node.parents])
        relaxed.centre[number] = forward(node, [relaxed.centre[p] for p in node.parents])
    return relaxed


def _transposed(node: Affine, graph: Graph) -> Callable[[Array], list[Array]]:
    avals = [jax.ShapeDtypeStruct(graph[parent].shape, jnp.float32) for parent in node.parents]
    closed = jax.make_jaxpr(jax.linear_transpose(node.linear, *avals))(
        jax.ShapeDtypeStruct(node.shape, jnp.float32)
    )

    # Compiled on its own, so that it is traced once and not for every value behind it.
    @jax.jit
    def transposed(captured: list[Array], rows: Array) -> list[Array]:
        return jax.vmap(lambda row: evaluate(closed, captured, row))(rows)

    return functools.partial(transposed, list(closed.consts))


def undecided(node: Rectifier | Maximum, x: Bounds) -> Bool[Array, "..."]:
    """Returns where the bounds of x matter: more than one linear piece of the node is possible."""
    if isinstance(node, Rectifier):
        return (x.lower < 0) & (x.upper > 0)
    # What might be the largest, of the places that have a rival.
    is_candidate = x.upper >= jnp.max(x.lower, axis=0)[None]
    return is_candidate & (jnp.sum(is_candidate, axis=0) > 1)[None]


def lines(node: Rectifier | Maximum, x: Bounds) -> Lines:
    """Returns linear bounds of the node for x between its bounds."""
    lower, upper = x
    is_open = undecided(node, x)
    if isinstance(node, Rectifier):
        slope = node.negative_slope
        exact = jnp.where(lower >= 0, 1.0, slope)
        # Either slope is a bound from below; this one leaves the smaller area.
        steeper = jnp.where(upper > -lower, 1.0, slope)
        chord = (upper - slope * lower) / jnp.where(is_open, upper - lower, 1)
        return Lines(
            lower_slope=jnp.where(is_open, steeper, exact),
            upper_slope=jnp.where(is_open, chord, exact),
            upper_offset=jnp.where(is_open, upper * (1 - chord), 0),
        )
    is_open = jnp.any(is_open, axis=0)
    best = jax.nn.one_hot(jnp.argmax(lower, axis=0), lower.shape[0], axis=0, dtype=jnp.float32)
    return Lines(
        lower_slope=best,
        upper_slope=jnp.where(is_open[None], 0, best),
        upper_offset=jnp.where(is_open, jnp.max(upper, axis=0), 0),
    )


def refine(relaxed: Relaxed, node: Rectifier | Maximum, chunk_size: int) -> Bounds:
    """Returns CROWN's bounds of the value in front of a node, where they matter to it.

    A place is bounded from the side that its value at the box's centre is likely to decide, and
    from the other where that left it undecided.
    """
    (parent,) = node.parents
    shape, size = relaxed.graph[parent].shape, math.prod(relaxed.graph[parent].shape)
    chunk_size = min(chunk_size, size)
    side = jnp.where(relaxed.centre[parent].reshape(size) >= 0, 1.0, -1.0)

    def pending(bounds: Bounds, num_tries: Array) -> Bool[Array, " size"]:
        shaped = Bounds(*(bound.reshape(shape) for bound in bounds))
        return undecided(node, shaped).reshape(size) & (num_tries < 2)

    def step(state: tuple[Bounds, Array]) -> tuple[Bounds, Array]:
        (lower, upper), num_tries = state
        (places,) = jnp.nonzero(pending(*state), size=chunk_size, fill_value=size)
        sides = jnp.where(num_tries[places] == 0, side[places], -side[places])
        rows = sides[:, None] * jax.nn.one_hot(places, size, dtype=jnp.float32)
        found = lower_bounds(relaxed, parent, rows.reshape((chunk_size, *shape)))
        # Places of no neuron, which fill the last chunk, are dropped.
        lower = lower.at[places].max(jnp.where(sides > 0, found, -jnp.inf))
        upper = upper.at[places].min(jnp.where(sides < 0, -found, jnp.inf))
        return Bounds(lower, upper), num_tries.at[places].add(1)

    flat = Bounds(*(bound.reshape(size) for bound in relaxed.known[parent]))
    state = flat, jnp.zeros(size, jnp.int32)
    flat, _ = lax.while_loop(lambda state: jnp.any(pending(*state)), step, state)
    return Bounds(*(bound.reshape(shape) for bound in flat))


def lower_bounds(relaxed: Relaxed, number: int, rows: Float[Array, "n ..."]) -> Float[Array, " n"]:
    """Returns lower bounds of linear functions of a node's value, each a row of coefficients.

    -inf where no number comes out.
    """
    waiting = {number: rows}
    total = jnp.zeros(len(rows), jnp.float32)
    for number in sorted(relaxed.graph, reverse=True):
        if number not in waiting:
            continue
        rows, node = waiting.pop(number), relaxed.graph[number]
        if isinstance(node, Input):
            box = relaxed.known[number]
            total += _sum(rows * jnp.where(rows > 0, box.lower[None], box.upper[None]))
            continue
        if isinstance(node, Affine):
            found = relaxed.transposed[number](rows)
            if node.offset is not None:
                # Where no coefficient reaches it, the offset may be the -inf around a maximum.
                total += _sum(jnp.where(rows == 0, 0, rows * node.offset[None]))
        else:
            line = relaxed.lines[number]
            total += _sum(jnp.minimum(rows, 0) * line.upper_offset[None])
            rows = rows[:, None] if isinstance(node, Maximum) else rows
            found = [rows * jnp.where(rows > 0, line.lower_slope[None], line.upper_slope[None])]
        for parent, value in zip(node.parents, found, strict=True):
            waiting[parent] = waiting[parent] + value if parent in waiting else value
    return jnp.where(jnp.isnan(total), -jnp.inf, total)


def _sum(x: Float[Array, "n ..."]) -> Float[Array, " n"]:
    return jnp.sum(x.reshape(len(x), -1), axis=1)
