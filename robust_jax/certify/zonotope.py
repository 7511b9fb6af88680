"""Zonotopes: ranges of all values over a box of images at once, by directions sent forward.

A value is its centre and a sum of directions, each times a number of its own in [-1, 1]: one for
every number of the image, and one for every rectifier's value that may be on either side. A value's
range is nearly CROWN's, while the directions are few beside the values of a deep network: what
they decide needs no row of its own.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from robust_jax.certify.intervals import Bounds
from robust_jax.certify.local import applied
from robust_jax.certify.network import Affine, Bent, Rectifier, forward
from robust_jax.certify.relaxation import Relaxed, undecided
from robust_jax.certify.rows import Lines, Origin, Rows, Window, added, as_whole, pair
from robust_jax.runtime.compilation import jitted

AT_ONCE = 512
"""Directions that are computed together."""

PATIENCE = 2.5
"""Directions are begun when rows have cost so many times what they would.

ResNet-2B and 4B, where they cost more than they save, reach 2.2; a deep ResNet at small radii 8.
"""

MOST_BYTES = 2**31
"""Directions of a layer that need more are not computed."""


class Part(NamedTuple):
    """Some directions of a node's value.

    Attributes:
        rows: directions, of the value or of what the rectifier acts on.
        lines: of the rectifier that they have still to pass; None for none.
    """

    rows: Rows
    lines: Lines | None = None


class Zonotope:
    """Ranges of the values of a network, made when rows have become dear.

    Of rectifiers whose slopes and offsets `relaxed` has: value = chord * x + offset * [0, 1], of
    which the middle goes to the centre and the half to a direction (Singh et al., "Fast and
    effective robustness certification", 2018, theorem 3.1).
    """

    def __init__(self, relaxed: Relaxed) -> None:
        nodes, parents = relaxed.network.nodes, relaxed.network.parents
        self._relaxed = relaxed
        bent = [number for number, node in nodes.items() if isinstance(node, Bent)]
        is_known = relaxed.ball is None and all(isinstance(nodes[n], Rectifier) for n in bent)
        self._last = max(bent, default=-1) if is_known else -1
        self._before: dict[int, set[int]] = {}
        for number in nodes:
            above = [self._before[parent] for parent in parents.get(number, ())]
            self._before[number] = {number}.union(*above)
        sizes = {n: math.prod(x.shape) for n, x in nodes.items() if isinstance(x, Affine)}
        self._work = {n: sum(sizes.get(each, 0) for each in self._before[n]) for n in nodes}
        self._largest = max(sizes.values(), default=0)
        self._used = {p: n for n, above in relaxed.network.edges for p in above}
        self._spent = 0
        self._loose: set[int] = set()
        self._centre: dict[int, Array] = {}
        self._parts: dict[int, dict[int, Part]] = {}
        self._origins: list[Origin] = []

    def tightened(self, number: int, node: Bent) -> Bounds:
        """Returns bounds of the value in front of a node, tighter where that decides it."""
        known = self._relaxed.known[number]
        # Behind a value of which they decided little they decide no more.
        if number > self._last or self._loose & self._before[number]:
            return known
        count = int(jnp.sum(undecided(node, known)))
        if not self._parts:
            num_first = self._relaxed.known[0].lower.size
            self._spent += count * self._work[number]
            is_cheap = self._spent <= PATIENCE * num_first * self._work[number]
            if is_cheap or 4 * num_first * self._largest > MOST_BYTES:
                return known
            self._begin()
        parts = self._parts[number]
        if not count or any(part.rows.window is not None for part in parts.values()):
            return known
        radius = jnp.zeros_like(known.lower)
        for place, part in parts.items():
            radius = _widened(radius, part, self._origins[place])
        centre = self._centre[number]
        tighter = Bounds(
            jnp.fmax(known.lower, centre - radius), jnp.fmin(known.upper, centre + radius)
        )
        is_open = undecided(node, tighter)
        if 2 * int(jnp.sum(is_open)) > count:
            self._loose.add(number)
            self._parts, self._centre, self._origins = {}, {}, []
        # Of others a row says more, and slopes are chosen by what rows say.
        return Bounds(*(jnp.where(is_open, *each) for each in zip(known, tighter, strict=True)))

    def advance(self, number: int) -> None:
        """Adds a node's directions, where there are any."""
        if not self._parts or number >= self._last:
            return
        node, parents = self._relaxed.network.nodes[number], self._relaxed.network.parents[number]
        assert isinstance(node, Affine | Rectifier)
        above = [self._parts[parent] for parent in parents]
        if isinstance(node, Affine):
            self._centre[number] = _forward(node, [self._centre[parent] for parent in parents])
            shapes = tuple(self._relaxed.network.nodes[parent].shape for parent in parents)
            self._parts[number] = {
                place: Part(
                    _through(node, [each.get(place) for each in above], self._origins[place],
                             shapes=shapes)
                )
                for place in sorted(set(itertools.chain(*above)))
            }  # fmt: skip
        else:
            lines = self._relaxed.lines[number]
            (parent,) = parents
            self._centre[number], half = _middle(self._centre[parent], lines)
            self._parts[number] = {
                place: Part(part.rows, lines) for place, part in above[0].items()
            } | self._new(np.asarray(half))
        self._drop(number)

    def _begin(self) -> None:
        """Adds the directions of all values that are known and that others will be made of."""
        known = self._relaxed.known
        self._centre[0] = (known[0].lower + known[0].upper) / 2
        self._parts[0] = self._of_images(np.asarray(known[0].upper - known[0].lower) / 2)
        wanted = {
            each
            for child, parents in self._relaxed.network.edges
            if child not in known and child <= self._last
            for parent in parents
            if parent in known
            for each in self._before[parent]
        }
        for each in sorted(wanted - {0}):
            self.advance(each)

    def _drop(self, number: int) -> None:
        """Forgets what no node behind this one acts on."""
        for each in [
            each for each in self._parts if each > 0 and self._used.get(each, 0) <= number
        ]:
            del self._parts[each], self._centre[each]

    def _of_images(self, radius: np.ndarray) -> dict[int, Part]:
        """Returns a direction for every number of the images [b 1 ...], of windows if they can."""
        if radius.ndim != 5:
            return self._new(radius)
        shape = radius.shape[2:]
        window = Window((1, 1), (1, 1), (0, 0), (shape[0] - 1, shape[1] - 1))
        found = {}
        for image, place, half in _chunks(radius):
            y, x, channel = np.unravel_index(place, shape)
            value = np.zeros((len(image), 1, 1, shape[2]), np.float32)
            value[np.arange(len(image)), 0, 0, channel] = half
            position = np.stack([y, x], axis=1).astype(np.int32)
            found[len(self._origins)] = Part(Rows(jnp.asarray(value), window))
            self._origins.append(Origin(image, position))
        return found

    def _new(self, half: np.ndarray) -> dict[int, Part]:
        """Returns a direction for every number that is not zero of values [b ...]."""
        found = {}
        for image, place, length in _chunks(half):
            value = _one_hot(place, length, size=half[0].size).reshape(-1, *half.shape[1:])
            found[len(self._origins)] = Part(Rows(value))
            self._origins.append(Origin(image, np.zeros((len(image), 2), np.int32)))
        return found


def _chunks(
    half: np.ndarray,
) -> Iterator[tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Float[np.ndarray, " n"]]]:
    """Yields image, place and value of what is not zero, the last ones filled with zeros."""
    flat = half.reshape(len(half), -1)
    image, place = (each.astype(np.int32) for each in np.nonzero(flat))
    for start in range(0, len(image), AT_ONCE):
        chosen = np.arange(start, start + AT_ONCE)
        inside = chosen < len(image)
        chosen = np.minimum(chosen, len(image) - 1)
        length = np.where(inside, flat[image[chosen], place[chosen]], 0)
        yield image[chosen], place[chosen], length.astype(np.float32)


@functools.partial(jitted, static_argnames=("size",))
def _one_hot(place: ArrayLike, length: ArrayLike, *, size: int) -> Array:
    return jax.nn.one_hot(place, size, dtype=jnp.float32) * jnp.asarray(length)[:, None]


@jitted
def _forward(node: Affine, centres: Sequence[Array]) -> Array:
    return jax.vmap(lambda *each: forward(node, each))(*centres)


@jitted
def _middle(centre: Array, lines: Lines) -> tuple[Array, Array]:
    half = lines.upper_offset / 2
    return lines.upper_slope * centre + half, half


@jitted
def _widened(radius: Float[Array, "b ..."], part: Part, origin: Origin) -> Float[Array, "b ..."]:
    value = jnp.abs(_bent(part, origin).value)
    return radius + jax.ops.segment_sum(value, origin.image, num_segments=len(radius))


def _bent(part: Part, origin: Origin) -> Rows:
    if part.lines is None:
        return part.rows
    (slope,) = origin.of_rows([part.lines.upper_slope], part.rows)
    return Rows(part.rows.value * slope, part.rows.window)


@functools.partial(jitted, static_argnames=("shapes",))
def _through(
    node: Affine, parts: Sequence[Part | None], origin: Origin, *, shapes: Sequence[tuple[int, ...]]
) -> Rows:
    """Returns an affine node's directions from those of the values in front."""
    rows = [None if part is None else _bent(part, origin) for part in parts]
    if any(local is None for local in node.local):
        there = next(each for each in rows if each is not None)
        values = [
            jnp.zeros((len(there.value), *shape), jnp.float32)
            if each is None else as_whole(each, origin, shape).value
            for each, shape in zip(rows, shapes, strict=True)
        ]  # fmt: skip
        (value,) = jax.vmap(node.linear)(*values)
        return Rows(value)
    found = None
    for local, each, shape in zip(node.local, rows, shapes, strict=True):
        if each is None:
            continue
        assert local is not None
        window = each.window
        if window is not None and local.kernel is not None:
            window = window.after(pair(local.kernel.shape[:2]), local.padding)
        if window is not None and local.strides == (1, 1) and window.fits(node.shape):
            inside = origin.take(jnp.ones((1, *node.shape), jnp.float32), window)
            made = Rows(applied(local, each.value) * inside, window)
        else:
            whole = as_whole(each, origin, shape).value[:, 0]
            made = Rows(applied(local, whole, pair(node.shape[1:3]))[:, None])
        found = added(made, found, origin, node.shape)
    assert found is not None
    return found
