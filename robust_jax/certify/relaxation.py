"""Linear bounds of what is not linear, and the bounds of every value that they follow from."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from robust_jax.certify.intervals import Bounds, propagate
from robust_jax.certify.network import Affine, Input, Maximum, Network, Rectifier, forward
from robust_jax.certify.rows import Lines, Origin, Rows, at_input, before
from robust_jax.runtime.compilation import jitted


@dataclasses.dataclass
class Relaxed:
    """A network on boxes of images, with linear bounds of what is not linear.

    Attributes:
        network: of one image.
        centre: each node's value at the centre of the box, of each image.
        known: bounds of each node's value, of each image.
        lines: of each rectifier and maximum.
    """

    network: Network
    centre: dict[int, Array]
    known: dict[int, Bounds]
    lines: dict[int, Lines] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, network: Network, box: Bounds) -> "Relaxed":
        """Returns a network of which nothing but the images' boxes [b ...] is known."""
        return cls(network, {0: (box.lower + box.upper) / 2}, {0: box})

    def advance(self, number: int) -> None:
        """Adds a node's interval and its value at the centre, from its parents'."""
        node, parents = self.network.nodes[number], self.network.parents[number]
        assert not isinstance(node, Input)
        known = [self.known[parent] for parent in parents]
        centres = [self.centre[parent] for parent in parents]
        self.known[number], self.centre[number] = _propagated(node, known, centres)

    def bend(self, number: int) -> None:
        """Adds the linear bounds of a rectifier or maximum, from its parent's bounds."""
        node, (parent,) = self.network.nodes[number], self.network.parents[number]
        assert isinstance(node, (Rectifier, Maximum))
        self.lines[number] = lines(node, self.known[parent])

    def lower_bounds(self, number: int, rows: Rows, origin: Origin) -> Array:
        """Returns lower bounds [n] of linear functions of a node's value, -inf where none is."""
        waiting = {number: rows}
        total = jnp.zeros(len(rows.value), jnp.float32)
        for number in sorted(self.network.nodes, reverse=True):
            if number not in waiting:
                continue
            rows, node = waiting.pop(number), self.network.nodes[number]
            if isinstance(node, Input):
                return _at_input(*self.known[number], rows, total, origin)
            line = self.lines.get(number)
            if line is not None and self.network.parents[number][0] in self.network.private:
                (number,) = self.network.parents[number]
                node = self.network.nodes[number]
            parents = self.network.parents[number]
            found, total = _before(
                line, node if isinstance(node, Affine) else None, rows, total, origin,
                [waiting.get(parent) for parent in parents],
                shapes=tuple(self.network.nodes[parent].shape for parent in parents),
            )  # fmt: skip
            waiting |= dict(zip(parents, found, strict=True))
        return total


_before = jitted(before, static_argnames=("shapes",))
_at_input = jitted(at_input)


@jitted
def _propagated(
    node: Affine | Rectifier | Maximum, known: Sequence[Bounds], centres: Sequence[Array]
) -> tuple[Bounds, Array]:
    return jax.vmap(functools.partial(propagate, node))(known), jax.vmap(
        functools.partial(forward, node)
    )(centres)


@jitted
def undecided(node: Rectifier | Maximum, x: Bounds) -> Bool[Array, "b ..."]:
    """Returns where the bounds of x matter: more than one linear piece of the node is possible."""
    if isinstance(node, Rectifier):
        return (x.lower < 0) & (x.upper > 0)
    # What might be the largest, of the places that have a rival; behind the axis of images.
    is_candidate = x.upper >= jnp.max(x.lower, axis=1, keepdims=True)
    return is_candidate & (jnp.sum(is_candidate, axis=1, keepdims=True) > 1)


@jitted
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
    is_open = jnp.any(is_open, axis=1)
    best = jax.nn.one_hot(jnp.argmax(lower, axis=1), lower.shape[1], axis=1, dtype=jnp.float32)
    return Lines(
        lower_slope=best,
        upper_slope=jnp.where(is_open[:, None], 0, best),
        upper_offset=jnp.where(is_open, jnp.max(upper, axis=1), 0),
    )
