"""Linear bounds of what is not linear, and the bounds of every value that they follow from."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from robust_jax.certify.bending import leaves_open, lines_of
from robust_jax.certify.intervals import Bounds, propagate
from robust_jax.certify.network import (
    Affine,
    Bent,
    Elementwise,
    Input,
    Network,
    Rectifier,
    forward,
)
from robust_jax.certify.rows import Ball, Lines, Origin, Rows, at_input, before
from robust_jax.runtime.compilation import jitted


class Step(NamedTuple):
    """What rows are sent through at once.

    Attributes:
        number: of the node that the rows are of.
        lines: of the node that is not linear; None where it is linear.
        affine: the affine node, or the one in front of what is not linear; None for none.
        rows: of the node's value.
        waiting: rows that each value in front had before.
        parents: numbers of the values in front.
        shapes: of these.
    """

    number: int
    lines: Lines | None
    affine: Affine | None
    rows: Rows
    waiting: list[Rows | None]
    parents: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]


@dataclasses.dataclass
class Relaxed:
    """A network on boxes of images, with linear bounds of what is not linear.

    Attributes:
        network: of one image.
        centre: each node's value at the centre of the box, of each image.
        known: bounds of each node's value, of each image.
        lines: of each node that is not linear.
        ball: that the images lie in besides; None for none.
    """

    network: Network
    centre: dict[int, Array]
    known: dict[int, Bounds]
    lines: dict[int, Lines] = dataclasses.field(default_factory=dict)
    ball: Ball | None = None

    @classmethod
    def of(cls, network: Network, box: Bounds, ball: Ball | None = None) -> "Relaxed":
        """Returns a network of which nothing but the images' boxes [b ...] and ball is known."""
        return cls(network, {0: (box.lower + box.upper) / 2}, {0: box}, ball=ball)

    def advance(self, number: int) -> None:
        """Adds a node's interval and its value at the centre, from its parents'."""
        node, parents = self.network.nodes[number], self.network.parents[number]
        assert not isinstance(node, Input)
        known = [self.known[parent] for parent in parents]
        centres = [self.centre[parent] for parent in parents]
        self.known[number], self.centre[number] = _propagated(node, known, centres)

    def bend(self, number: int) -> None:
        """Adds the linear bounds of a node that is not linear, from its parent's bounds."""
        node, (parent,) = self.network.nodes[number], self.network.parents[number]
        assert isinstance(node, Bent)
        self.lines[number] = lines(node, self.known[parent])

    def lower_bounds(
        self,
        number: int,
        rows: Rows,
        origin: Origin,
        slopes: Mapping[int, Array] | None = None,
        steps: list[Step] | None = None,
    ) -> Array:
        """Returns lower bounds [n] of linear functions of a node's value, -inf where none is.

        Args:
            number: of the node.
            rows: coefficients on its value.
            origin: of the rows.
            slopes: lower slopes of rectifiers by number, of each row its own; without them those
                of `lines`.
            steps: list that every step is added to.
        """
        waiting = {number: rows}
        total = jnp.zeros(len(rows.value), jnp.float32)
        while waiting:
            step = self._step(max(waiting), waiting)
            if steps is not None:
                steps.append(step)
            if step.number == 0:
                total = _at_input(*self.known[0], step.rows, total, origin, self.ball)
                continue
            chosen = None if slopes is None else slopes.get(step.number)
            found, total = _before(
                step.lines, step.affine, step.rows, total, origin, step.waiting, chosen,
                shapes=step.shapes,
            )  # fmt: skip
            waiting |= dict(zip(step.parents, found, strict=True))
        return total

    def _step(self, number: int, waiting: dict[int, Rows]) -> Step:
        """Returns the next step, of the last node that rows wait at, and takes them from there."""
        network, rows, lines = self.network, waiting.pop(number), self.lines.get(number)
        last = number
        if lines is not None and network.parents[number][0] in network.private:
            (last,) = network.parents[number]
        node, parents = network.nodes[last], network.parents[last]
        return Step(
            number,
            lines,
            node if isinstance(node, Affine) else None,
            rows,
            [waiting.get(parent) for parent in parents],
            parents,
            tuple(network.nodes[parent].shape for parent in parents),
        )


_before = jitted(before, static_argnames=("shapes",))
_at_input = jitted(at_input)


@jitted
def _propagated(
    node: Affine | Bent, known: Sequence[Bounds], centres: Sequence[Array]
) -> tuple[Bounds, Array]:
    return jax.vmap(functools.partial(propagate, node))(known), jax.vmap(
        functools.partial(forward, node)
    )(centres)


@jitted
def undecided(node: Bent, x: Bounds) -> Bool[Array, "b ..."]:
    """Returns where the bounds of x matter: no line is the node's value between them."""
    if isinstance(node, Rectifier):
        return (x.lower < 0) & (x.upper > 0)
    if isinstance(node, Elementwise):
        return leaves_open(node.kind, *x)
    # What might be the largest, of the places that have a rival; behind the axis of images.
    is_candidate = x.upper >= jnp.max(x.lower, axis=1, keepdims=True)
    return is_candidate & (jnp.sum(is_candidate, axis=1, keepdims=True) > 1)


@jitted
def lines(node: Bent, x: Bounds) -> Lines:
    """Returns linear bounds of the node for x between its bounds."""
    lower, upper = x
    if isinstance(node, Elementwise):
        return lines_of(node.kind, lower, upper)
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
    return _lines_of_maximum(lower, upper, jnp.any(is_open, axis=1))


def _lines_of_maximum(
    lower: Float[Array, "b n ..."], upper: Float[Array, "b n ..."], is_open: Bool[Array, "b ..."]
) -> Lines:
    """Returns a maximum's lines: from below the candidate with the largest lower bound.

    From above: where x_i has the largest upper bound, and t is the next or the largest lower bound,
    whichever is more, max(x) <= max(x_i, t) = t + relu(x_i - t), which lies below its chord. That
    is half as far above t in the middle as the largest upper bound. (Chords of several, from a
    smaller t, are no lower in the middle, and looser by much where pools follow each other.)
    """
    size = lower.shape[1]
    best = jax.nn.one_hot(jnp.argmax(lower, axis=1), size, axis=1, dtype=jnp.float32)
    top = jax.nn.one_hot(jnp.argmax(upper, axis=1), size, axis=1, dtype=bool)
    largest = jnp.max(upper, axis=1)
    its_lower = jnp.max(jnp.where(top, lower, -jnp.inf), axis=1)
    threshold = jnp.maximum(
        jnp.max(lower, axis=1), jnp.max(jnp.where(top, -jnp.inf, upper), axis=1)
    )
    slope = (largest - threshold) / jnp.where(largest > its_lower, largest - its_lower, 1)
    # Of infinite bounds the largest stays.
    is_line = jnp.isfinite(largest) & jnp.isfinite(its_lower)
    slope = jnp.where(is_line, slope, 0)
    offset = jnp.where(is_line, threshold - slope * its_lower, largest)
    return Lines(
        lower_slope=best,
        upper_slope=jnp.where(is_open[:, None], jnp.where(top, slope[:, None], 0), best),
        upper_offset=jnp.where(is_open, offset, 0),
    )
