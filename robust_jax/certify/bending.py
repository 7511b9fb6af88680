"""Lines below and above functions that bend: a slope that is chosen, an offset that is proven.

Whatever the slope k, f(x) - k x is largest at an end of a part where f is convex; where f is
concave it lies below each of its tangents. So the offset is sound of any slope and any point of
tangency: that a bisection ends after a fixed number of halves costs tightness and nothing else.
"""

import itertools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from robust_jax.certify.activations import Clip, Curve, Kind
from robust_jax.certify.rows import Lines

NUM_HALVES = 24
"""Of the interval in which a point of tangency is sought."""

FAR = 16.0
"""Points of tangency are sought up to here: beyond it the curves are straight in float32."""

SLACK = 2.0**-20
"""What lines are moved outward, of the size of what they are computed from.

It is eight times the spacing of float32: more than the rounding of values, slopes and sums.
"""

GAP = 1e-5
"""Between lines, of values of size one: below it no tighter bounds of x are sought."""


class _Box:
    """Where x lies, elementwise."""

    def __init__(self, lower: Float[Array, "..."], upper: Float[Array, "..."]) -> None:
        self.lower, self.upper = lower, upper
        self.middle = lower / 2 + upper / 2
        self.is_finite = jnp.isfinite(lower) & jnp.isfinite(upper)


def lines_of(kind: Kind, lower: Float[Array, "..."], upper: Float[Array, "..."]) -> Lines:
    """Returns lines around a function for x between two; constants where these are infinite."""
    if isinstance(kind, Clip):
        slope, offset = _above_clip(kind, _Box(lower, upper))
        # Turned by half a turn it is a clip again, of which the line below is the one above.
        turned = _Box(-upper, -lower)
        lower_slope, minus = _above_clip(Clip(-kind.high, -kind.low), turned)
        return Lines(lower_slope, slope, offset, -minus)
    box = _Box(lower, upper)
    slope, offset = _above_curve(kind, box, 1)
    minus_slope, minus = _above_curve(kind, box, -1)
    return Lines(-minus_slope, slope, offset, -minus)


def leaves_open(
    kind: Kind, lower: Float[Array, "..."], upper: Float[Array, "..."]
) -> Bool[Array, "..."]:
    """Returns where the lines leave a gap that tighter bounds of x may close."""
    below, above, above_offset, below_offset = lines_of(kind, lower, upper)
    assert below_offset is not None
    size = jnp.maximum(1, jnp.maximum(*map(jnp.abs, kind.interval(lower, upper))))
    gaps = [(above * x + above_offset) - (below * x + below_offset) for x in (lower, upper)]
    # Also where that is no number.
    return (lower < upper) & ~(jnp.maximum(*gaps) <= GAP * size)


def _above_clip(kind: Clip, box: _Box) -> tuple[Array, Array]:
    """Returns slope and offset of the line above that is lowest in the middle."""
    most = kind.value(box.upper)
    # From the left end to where it is no longer straight, or along the function itself.
    is_left = box.lower < kind.low
    slope = (most - kind.low) / jnp.where(is_left, most - box.lower, 1)
    slope = jnp.where(is_left, slope, 1.0)
    shift = slope * box.lower
    rounded = SLACK * (abs(kind.low) + jnp.abs(shift) + jnp.abs(most))
    offset = jnp.where(is_left, kind.low - shift + rounded, 0.0)
    is_lower = slope * box.middle + offset <= most
    is_line = is_lower & box.is_finite
    return jnp.where(is_line, slope, 0.0), jnp.where(is_line, offset, most)


def _above_curve(curve: Curve, box: _Box, sign: int) -> tuple[Array, Array]:
    """Returns slope and offset of a line above sign * f, of several the lowest in the middle.

    Of these one is the best: the chord, the tangent in the middle, the tangents of the concave
    parts that pass an end of the function, or a constant.
    """

    def value(x: Array) -> Array:
        return sign * curve.value(x)

    def derivative(x: Array) -> Array:
        return sign * curve.slope(x)

    lower, upper, middle = box.lower, box.upper, box.middle
    edges = [lower, *(jnp.clip(bend, lower, upper) for bend in curve.bends), upper]
    # Parts outside the box are one of its ends here.
    parts = list(itertools.pairwise(edges))
    first = 0 if curve.is_convex == (sign < 0) else 1
    concave, convex = parts[first::2], parts[1 - first :: 2]
    slopes = [_secant(value, derivative, lower, upper), derivative(middle)]
    for end in (lower, upper):
        for part in concave:

            def is_early(t: Array, end: Array = end) -> Array:
                return derivative(t) > _secant(value, derivative, end, t)

            slopes.append(_secant(value, derivative, end, _sought(is_early, part)))
    slope = jnp.stack(slopes)
    offset = jnp.full_like(slope, -jnp.inf)
    for first, last in convex:
        for x in (first, last):
            offset = jnp.maximum(offset, value(x)[None] - slope * x[None])
    for first, last in concave:
        wide = [jnp.broadcast_to(x, slope.shape) for x in (first, last)]
        t = _sought(lambda t: derivative(t) > slope, wide)
        excess = derivative(t) - slope
        most = jnp.maximum(excess * (wide[0] - t), excess * (wide[1] - t))
        offset = jnp.maximum(offset, value(t) - slope * t + most)
    lowest, highest = curve.interval(lower, upper)
    most = highest if sign > 0 else -lowest
    slope = jnp.concatenate([slope, jnp.zeros_like(most)[None]])
    offset = jnp.concatenate([offset, most[None]])
    reach = jnp.maximum(jnp.abs(lower), jnp.abs(upper))
    size = jnp.maximum(jnp.abs(lowest), jnp.abs(highest))[None] + jnp.abs(slope) * reach[None]
    offset = offset + SLACK * size
    height = slope * middle[None] + offset
    height = jnp.where(jnp.isnan(height), jnp.inf, height)
    best = jnp.argmin(height, axis=0)[None]
    slope, offset = (jnp.take_along_axis(x, best, axis=0)[0] for x in (slope, offset))
    return jnp.where(box.is_finite, slope, 0.0), jnp.where(box.is_finite, offset, most)


def _secant(
    value: Callable[[Array], Array], derivative: Callable[[Array], Array], x: Array, y: Array
) -> Array:
    """Returns the slope between two points of a function, its derivative where they are one."""
    distance = y - x
    is_one = distance == 0
    return jnp.where(is_one, derivative(x), (value(y) - value(x)) / jnp.where(is_one, 1, distance))


def _sought(is_early: Callable[[Array], Array], part: Sequence[Array]) -> Array:
    """Returns a point of a part, near where a condition that holds at its begin ceases to."""
    ends = tuple(jnp.clip(jnp.clip(x, -FAR, FAR), *part) for x in part)

    def halved(_: Int[Array, ""], ends: tuple[Array, Array]) -> tuple[Array, Array]:
        first, last = ends
        middle = first / 2 + last / 2
        early = is_early(middle)
        return jnp.where(early, middle, first), jnp.where(early, last, middle)

    first, last = lax.fori_loop(0, NUM_HALVES, halved, ends)
    return jnp.clip(first / 2 + last / 2, *part)
