"""CROWN: margins between logits over a box of images, by linear bounds sent backward.

Which values need a backward pass is decided on the host, by the bounds that are known by then. What
is compiled is one node's work (`rows.py`): it serves all images, and every layer like it.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, ScalarLike
from numpy.typing import ArrayLike

from robust_jax.certify.ascent import SlopeAscent
from robust_jax.certify.checks import check_batch, check_classes, shape_of
from robust_jax.certify.functions import Functions, rows_of
from robust_jax.certify.heads import behind
from robust_jax.certify.intervals import Bounds, elided, intersection, of_numbers
from robust_jax.certify.network import Bent, Input, Network, Node, prepare
from robust_jax.certify.relaxation import Relaxed, undecided
from robust_jax.certify.rows import Ball
from robust_jax.certify.zonotope import Zonotope
from robust_jax.runtime.compilation import at_top_level, jitted
from robust_jax.runtime.live import as_pytree, compiled

Intermediate = Literal["crown", "interval"]
BallNorm = Literal["linf", "l2"]

TOLERANCE = 1e-4
"""Margin above which an image counts as certified, for logits of size one: what float32 may add.

Bounds are sums in float32, not rounded downward. `tests/certify/test_precision.py` holds them
against float64.
"""

HOST_DECIDES = (
    "crown_margins with intermediate='crown' decides on the host which values are bounded next: "
    "call it outside jit, vmap and grad."
)

IMAGES_AT_ONCE = 8
"""Images whose values are bounded together: backward passes of all of them fill the chunks."""


def crown_margins(
    function: Callable[[Array], Array],
    images: ArrayLike,
    labels: ArrayLike,
    eps: ScalarLike,
    *,
    norm: BallNorm = "linf",
    bounds: tuple[float, float] = (0.0, 1.0),
    intermediate: Intermediate = "crown",
    chunk_size: int = 128,
    ascent: SlopeAscent | None = None,
) -> Float[Array, "b *m c"]:
    """Returns lower bounds of logit_label - logit_c over a ball of images, for each class c.

    Args:
        function: deterministic, from images to logits [b c], or to several networks' [b m c], a
            row from its own image alone; made of the operations that `interval_bounds` names
            (behind a softmax the margins are its probabilities', from those of its scores). It
            is bounded as it is at the call; a `jax.tree_util.Partial` that holds its arrays pays
            no tracing.
        images: clean images [b ...], float32, inside the box.
        labels: class of each [b].
        eps: radius of the ball, in pixel units.
        norm: of the ball. In L2 a linear bound is least at eps times its length below the centre,
            or at a corner of the box around the ball where that is more.
        bounds: smallest and largest pixel value; the ball is cut to this box.
        intermediate: where the bounds of the values in front of what is not linear come from:
            "crown" sends one backward pass for every value whose interval leaves open which linear
            piece it is on, or a gap between lines (in deep networks of rectifiers, whose zonotope
            does), "interval" takes the interval (quick, and loose in deep networks).
        chunk_size: values, or margins, whose backward passes run at once: the memory needed is
            proportional to it. A zonotope takes some GiB besides, whatever it is.
        ascent: of the rectifiers' lower slopes, for each bound (alpha-CROWN), after CROWN: no
            margin is looser than CROWN's. None takes CROWN's own slopes, which leave the smallest
            area. Lines of other activations stay.

    Guarantees:
        They hold up to the rounding of float32, in which products are computed on every device,
        are exact for eps=0 and for linear functions (in L2 where the box does not cut the ball),
        and are nowhere looser than `interval_margins`. Where no number comes
        out (infinite weights, NaN) they are -inf. An image's margins depend on that image alone.
        There is no derivative.

    Raises:
        ValueError: shapes, dtypes or values do not fit, or an operation on the images is none
            that bounds are known of.
        jax.errors.ConcretizationTypeError: it is called inside jit, vmap or grad with
            intermediate="crown": the host decides by bounds which values are bounded next.

    Example:
        >>> from robust_jax.certify import crown_margins
        >>> weights = jnp.asarray([[1.0, -1.0], [1.0, 1.0]])
        >>> def logits(images):
        ...     return jax.nn.relu(images @ weights)
        >>> images, labels = jnp.asarray([[0.5, 0.5]]), jnp.asarray([0])
        >>> crown_margins(logits, images, labels, eps=0.125).tolist()  # the least is 0.75
        [[0.0, 0.625]]

    References:
        Zhang et al., "Efficient neural network robustness certification with general activation
        functions", 2018, theorem 3.2 and section 3.3 (adaptive slopes). Of maxima: the candidate
        with the largest lower bound from below; from above the larger of the one with the largest
        upper bound and of what the others cannot exceed, under its chord. Of smooth activations:
        chords and tangents, of those that hold the nearest in the middle.
    """
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    check_batch(images, labels, bounds)
    if intermediate not in ("crown", "interval"):
        raise ValueError(f"Expected intermediate={intermediate!r} to be 'crown' or 'interval'.")
    if chunk_size < 1:
        raise ValueError(f"Expected chunk_size={chunk_size} >= 1.")
    if norm not in get_args(BallNorm):
        raise ValueError(f"Expected norm={norm!r} to be one of {sorted(get_args(BallNorm))}.")
    if np.ndim(eps):
        raise ValueError(f"Expected eps of shape {np.shape(eps)} to be one number.")
    if not isinstance(eps, Tracer) and not 0 <= np.asarray(eps) < np.inf:
        raise ValueError(f"Expected eps={eps} >= 0 and finite.")
    function = as_pytree(function)
    if not len(images):  # which few functions take
        one = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
        shape = shape_of(jax.eval_shape(lambda x: function(x), one), "[b c] or [b m c]", 1)
        return jnp.zeros((0, *shape[1:]), jnp.float32)
    labels, count = labels.astype(jnp.int32), len(images)
    margins = functools.partial(
        _margins, function, eps=eps, norm=norm, bounds=bounds, intermediate=intermediate,
        chunk_size=chunk_size, ascent=ascent,
    )  # fmt: skip
    if not at_top_level():  # one loop, not a program of every few images
        return lax.map(lambda one: margins(one[0][None], one[1][None])[0], (images, labels))
    size = min(count, IMAGES_AT_ONCE)
    found = []
    for start in range(0, count, size):
        # The last ones are filled with the last, so that nothing is compiled for them.
        chosen = np.minimum(np.arange(start, start + size), count - 1)
        found.append(margins(images[chosen], labels[chosen]))
    return jnp.concatenate(found)[:count]


def smallest_margin(margins: Float[Array, "b c"], labels: ArrayLike) -> Float[Array, " b"]:
    """Returns each image's smallest margin over the classes that are not its own.

    Args:
        margins: lower bounds of logit_label - logit_c, of one network or a vote.
        labels: class of each image [b].

    Example:
        >>> from robust_jax.certify import smallest_margin
        >>> margins = jnp.asarray([[0.0, 0.5, 1.5], [0.0, -0.25, 2.0]])
        >>> smallest_margin(margins, jnp.asarray([0, 0])).tolist()
        [0.5, -0.25]
    """
    own = jax.nn.one_hot(jnp.asarray(labels), margins.shape[1], dtype=bool)
    return jnp.min(jnp.where(own, jnp.inf, margins), axis=1)


def certified(
    margins: Float[Array, "b c"], labels: ArrayLike, *, tolerance: float = TOLERANCE
) -> Bool[Array, " b"]:
    """Returns which images are proven to keep their label: other classes' margins > tolerance.

    Args:
        margins: lower bounds of logit_label - logit_c, of one network or a vote.
        labels: class of each image [b].
        tolerance: margin above which an image counts, in logits.

    Example:
        >>> from robust_jax.certify import certified
        >>> margins = jnp.asarray([[0.0, 0.5, 1.5], [0.0, -0.25, 2.0]])
        >>> certified(margins, jnp.asarray([0, 0])).tolist()
        [True, False]
    """
    return smallest_margin(margins, labels) > tolerance


def _margins(
    function: Callable[[Array], Array],
    images: Array,
    labels: Int[Array, " b"],
    *,
    eps: ScalarLike,
    norm: BallNorm,
    bounds: tuple[float, float],
    intermediate: Intermediate,
    chunk_size: int,
    ascent: SlopeAscent | None,
) -> Float[Array, "b *m c"]:
    network = prepared(function, (1, *images.shape[1:]))
    last = network.last
    *_, num_classes = shape = network.nodes[last].shape
    check_classes(labels, num_classes)
    box = Bounds(*(jnp.clip(images + side * eps, *bounds)[:, None] for side in (-1, 1)))
    ball = Ball(images[:, None], jnp.asarray(eps, jnp.float32)) if norm == "l2" else None
    relaxed = Relaxed.of(network, box, ball)
    size = chunk_size if intermediate == "crown" else None
    relax(relaxed, size)
    lower, upper = (each.reshape(len(images), -1, num_classes) for each in relaxed.known[last])
    interval = jnp.take_along_axis(lower, labels[:, None, None], axis=2) - upper
    # Of each image, member and class: the label's logit less the class's (LPD, equation 8).
    image, member, other = np.indices(interval.shape, np.int32).reshape(3, -1)
    own = member * num_classes + labels[image]
    ones = np.ones(len(image), np.float32)
    functions = Functions(image, own, ones, member * num_classes + other)
    if not at_top_level():  # where a chunk that is not full shares no program
        chunk_size = min(chunk_size, len(image))

    def at_last(relaxed: Relaxed, ascent: SlopeAscent | None) -> Array:
        chunks = lower_bounds(relaxed, last, functions, chunk_size, ascent)
        return jnp.concatenate(chunks)[: len(image)].reshape(interval.shape)

    margins = jnp.fmax(at_last(relaxed, None), jnp.fmax(interval, elided_of(relaxed, labels)))
    if ascent is not None:
        if ascent.intermediate and size is not None:
            tighter = Relaxed.of(network, box, ball)
            relax(tighter, size, ascent, relaxed.known)
            relaxed = tighter
        found = jnp.fmax(at_last(relaxed, ascent), elided_of(relaxed, labels))
        margins = jnp.fmax(margins, found)
    is_own = jnp.arange(num_classes, dtype=jnp.int32)[None, None] == labels[:, None, None]
    is_own = jnp.broadcast_to(is_own, margins.shape)
    margins = of_numbers(margins, lower, upper, is_own)
    if network.head is not None:
        margins = behind(network.head, margins, lower, upper, is_own)
    return margins.reshape(len(images), *shape[1:])


def elided_of(relaxed: Relaxed, labels: Int[Array, " b"]) -> Float[Array, "b m c"]:
    """Returns margins by the bounds in front of the last layer, as `interval_margins`."""
    last, known = relaxed.network.last, relaxed.known
    parents = [known[parent] for parent in relaxed.network.parents[last]]
    found = _elided(relaxed.network.nodes[last], parents, known[last], labels)
    return found.reshape(len(labels), -1, found.shape[-1])


@jitted
def _elided(
    node: Node, parents: Sequence[Bounds], scores: Bounds, labels: Int[Array, " b"]
) -> Float[Array, "b *m c"]:
    return jax.vmap(functools.partial(elided, node))(parents, scores, labels)


@functools.partial(compiled, static_argnames=("shape",))
def prepared(function: Callable[[Array], Array], shape: tuple[int, ...]) -> Network:
    """Returns the network of one image, whose value is known to be scores."""
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    shape_of(jax.eval_shape(lambda x: function(x), image), "[b c] or [b m c]", 1)
    return prepare(function, shape)


def relax(
    relaxed: Relaxed,
    chunk_size: int | None,
    ascent: SlopeAscent | None = None,
    known: Mapping[int, Bounds] | None = None,
) -> None:
    """Adds bounds of every node's value, and linear bounds of what is not linear.

    Args:
        relaxed: to be completed.
        chunk_size: values whose bounds are made by backward passes at once; None takes intervals.
        ascent: of the slopes, or none.
        known: bounds that hold, by the node's number; None for none.
    """
    refined = set()
    zonotope = None if chunk_size is None or known is not None else Zonotope(relaxed)
    for number, node in relaxed.network.nodes.items():
        if isinstance(node, Input):
            continue
        if isinstance(node, Bent):
            (parent,) = relaxed.network.parents[number]
            if chunk_size is not None and parent not in refined:
                lower, _ = relaxed.known[parent]
                if isinstance(lower, Tracer):
                    raise jax.errors.ConcretizationTypeError(lower, HOST_DECIDES)
                if zonotope is not None:
                    relaxed.known[parent] = zonotope.tightened(parent, node)
                relaxed.known[parent] = refine(relaxed, parent, node, chunk_size, ascent)
                refined.add(parent)
            relaxed.bend(number)
        relaxed.advance(number)
        if zonotope is not None:
            zonotope.advance(number)
        if known is not None:
            relaxed.known[number] = intersection(relaxed.known[number], known[number])


def refine(
    relaxed: Relaxed,
    number: int,
    node: Bent,
    chunk_size: int,
    ascent: SlopeAscent | None = None,
) -> Bounds:
    """Returns CROWN's bounds of the value in front of what is not linear, where they matter.

    A place is bounded from the side that its value at the box's centre is likely to decide, and
    from the other where that left it undecided; both again by the ascent, where that did too.
    """
    bounds = relaxed.known[number]
    shape = bounds.lower.shape
    lower, upper = (np.array(each).reshape(shape[0], -1) for each in bounds)
    first = np.where(np.asarray(relaxed.centre[number]).reshape(lower.shape) >= 0, 1.0, -1.0)
    ways = [(first, None), (-first, None)]
    if ascent is not None and ascent.intermediate:
        ways += [(first, ascent), (-first, ascent)]
    for side, how in ways:
        is_open = np.asarray(undecided(node, bounds)).reshape(lower.shape)
        image, place = (places.astype(np.int32) for places in np.nonzero(is_open))
        sides = side[image, place].astype(np.float32)
        functions = Functions(image, place, sides)
        chunks = lower_bounds(relaxed, number, functions, chunk_size, how)
        found = sides * np.concatenate([*map(np.asarray, chunks), sides])[: len(sides)]
        is_lower = sides > 0
        for array, chosen, tighter in ((lower, is_lower, np.fmax), (upper, ~is_lower, np.fmin)):
            where = image[chosen], place[chosen]
            array[where] = tighter(array[where], found[chosen])
        bounds = Bounds(*(jnp.asarray(each.reshape(shape)) for each in (lower, upper)))
    return bounds


def lower_bounds(
    relaxed: Relaxed,
    number: int,
    functions: Functions,
    chunk_size: int,
    ascent: SlopeAscent | None = None,
) -> list[Float[Array, " n"]]:
    """Returns lower bounds of linear functions of a node's value, in chunks.

    The last chunk is filled with its last function.
    """
    shape, count = relaxed.network.nodes[number].shape, len(functions.image)
    found = []
    for start in range(0, count, chunk_size):
        chosen = np.minimum(np.arange(start, start + chunk_size), count - 1)
        chunk = functions.at(chosen)
        rows, origin = rows_of(chunk, shape=shape)
        if ascent is None:
            found.append(relaxed.lower_bounds(number, rows, origin))
        else:
            found.append(ascent.lower_bounds(relaxed, number, rows, origin))
    return found
