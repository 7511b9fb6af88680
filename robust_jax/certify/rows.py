"""Linear functions of a node's value, sent backward through one node at a time.

A row is the coefficients of one function. Where a row comes from one place of an image, the places
that it reaches grow by a layer at a time: it is kept as a window until that is most of the image.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from robust_jax.certify.local import pays, transposed
from robust_jax.certify.network import Affine

MOST_OF_IMAGE = 0.7
"""Share of an image's places at which a window is given up for the whole image."""


class Lines(NamedTuple):
    """Linear bounds of what is not linear in the value x in front of it, elementwise.

    lower_slope * x + lower_offset <= value <= upper_slope * x + upper_offset; of a maximum the
    products are summed over x's leading axis. Each has an axis of images in front.
    """

    lower_slope: Float[Array, "b ..."]
    upper_slope: Float[Array, "b ..."]
    upper_offset: Float[Array, "b ..."]
    lower_offset: Float[Array, "b ..."] | None = None


class Window(NamedTuple):
    """Where rows of windows lie: row r's first place is `scale * position[r] + offset`.

    Attributes:
        size: rows and columns of places.
        scale: along height and width.
        offset: likewise; places outside the image have no value, and coefficients of zero.
        most: the largest position.
    """

    size: tuple[int, int]
    scale: tuple[int, int]
    offset: tuple[int, int]
    most: tuple[int, int]

    def before(
        self, local_strides: tuple[int, int], kernel: tuple[int, int], padding: tuple[int, int]
    ) -> "Window":
        """Returns the window that a convolution's rows reach in its image."""
        return Window(
            size=pair(
                (n - 1) * s + k for n, s, k in zip(self.size, local_strides, kernel, strict=True)
            ),
            scale=pair(a * s for a, s in zip(self.scale, local_strides, strict=True)),
            offset=pair(
                o * s - p for o, s, p in zip(self.offset, local_strides, padding, strict=True)
            ),
            most=self.most,
        )

    def after(self, kernel: tuple[int, int], padding: tuple[int, int]) -> "Window":
        """Returns the window of a convolution of stride 1 that this one's places reach."""
        return Window(
            size=pair(n + k - 1 for n, k in zip(self.size, kernel, strict=True)),
            scale=self.scale,
            offset=pair(
                o - (k - 1) + p for o, k, p in zip(self.offset, kernel, padding, strict=True)
            ),
            most=self.most,
        )

    def joined(self, other: "Window") -> "Window | None":
        """Returns the smallest window around both; None where they move apart."""
        if self.scale != other.scale or self.most != other.most:
            return None
        first = pair(min(o, p) for o, p in zip(self.offset, other.offset, strict=True))
        last = [
            max(o + n, p + m)
            for o, n, p, m in zip(self.offset, self.size, other.offset, other.size, strict=True)
        ]
        return Window(
            pair(b - a for a, b in zip(first, last, strict=True)), self.scale, first, self.most
        )

    def fits(self, shape: Sequence[int]) -> bool:
        """Returns whether it is a part of an image [1 h w c] that is worth while."""
        return self.size[0] * self.size[1] < MOST_OF_IMAGE * shape[1] * shape[2]

    def margins(self, shape: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Returns how far windows stick out of an image [1 h w c], before and after it."""
        before = [max(0, -o) for o in self.offset]
        after = [
            max(0, a * m + o + n - there)
            for a, m, o, n, there in zip(
                self.scale, self.most, self.offset, self.size, shape[1:3], strict=True
            )
        ]
        return (before[0], after[0]), (before[1], after[1])


def pair(values: Iterable[int]) -> tuple[int, int]:
    """Returns two numbers, of height and width."""
    first, second = values
    return first, second


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Origin:
    """Where rows come from.

    Attributes:
        image: number of each row's image [n].
        position: row and column of the place [n 2] that each comes from.
    """

    image: PyTree
    position: PyTree

    def take(self, maps: Float[Array, "b 1 h w c"], window: Window) -> Float[Array, "n i j c"]:
        """Returns each row's window of its image's map, zero outside; b = 1 is for all."""
        maps = maps[:, 0]
        margins = window.margins((1, *maps.shape[1:]))
        padded = jnp.pad(maps, ((0, 0), *margins, (0, 0)))
        first = [
            a * self.position[:, axis] + o + margins[axis][0]
            for axis, (a, o) in enumerate(zip(window.scale, window.offset, strict=True))
        ]
        image = self.image if len(maps) > 1 else jnp.zeros_like(self.image)
        sizes = (*window.size, maps.shape[3])

        def one(image: Array, y: Array, x: Array) -> Array:
            return lax.dynamic_slice(padded, (image, y, x, jnp.int32(0)), (1, *sizes))[0]

        return jax.vmap(one)(image, *first)

    def whole(
        self, rows: Float[Array, "n i j c"], window: Window, shape: Sequence[int]
    ) -> Float[Array, "n 1 h w c"]:
        """Returns rows of windows as rows of whole images [1 h w c]."""
        (top, bottom), (left, right) = window.margins(shape)
        _, height, width, channels = shape
        pads = ((0, 0), (height + top, height + bottom), (width + left, width + right), (0, 0))
        # Place 0 of the image lies `scale * position + offset` before the window's first.
        padded = jnp.pad(rows, pads)
        first = [
            there + before - (a * self.position[:, axis] + o)
            for axis, (there, before, a, o) in enumerate(
                zip((height, width), (top, left), window.scale, window.offset, strict=True)
            )
        ]

        def one(row: Array, y: Array, x: Array) -> Array:
            return lax.dynamic_slice(row, (y, x, jnp.int32(0)), (height, width, channels))

        return jax.vmap(one)(padded, *first)[:, None]

    def of_rows(self, maps: Sequence[Float[Array, "b ..."]], rows: "Rows") -> list[Array]:
        """Returns each row's part of its image's maps."""
        if rows.window is None:
            return [self.each(each) for each in maps]
        return [self.take(each, rows.window) for each in maps]

    def each(self, maps: Float[Array, "b ..."]) -> Float[Array, "n ..."]:
        """Returns each row's image's map, or one for all."""
        return maps if len(maps) == 1 else maps[self.image]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """Coefficients on a node's value.

    Attributes:
        value: [n ...] of whole values, or [n i j c] of windows.
        window: where these lie; None for whole values.
    """

    value: PyTree
    window: Window | None = dataclasses.field(default=None, metadata={"static": True})


def as_whole(rows: Rows, origin: Origin, shape: tuple[int, ...]) -> Rows:
    """Returns rows of whole values."""
    if rows.window is None:
        return rows
    return Rows(origin.whole(rows.value, rows.window, shape))


def added(first: Rows, second: Rows | None, origin: Origin, shape: tuple[int, ...]) -> Rows:
    """Returns the sum of rows of one node."""
    if second is None:
        return first
    window = None
    if first.window is not None and second.window is not None:
        window = first.window.joined(second.window)
    if window is None or not window.fits(shape):
        value = as_whole(first, origin, shape).value + as_whole(second, origin, shape).value
        return Rows(value)
    return Rows(_within(first, window) + _within(second, window), window)


def _within(rows: Rows, window: Window) -> Array:
    assert rows.window is not None
    pads = [
        (o - first, n - m - (o - first))
        for (o, m, first, n) in zip(
            rows.window.offset, rows.window.size, window.offset, window.size, strict=True
        )
    ]
    return jnp.pad(rows.value, ((0, 0), *pads, (0, 0)))


def before(
    lines: Lines | None,
    affine: Affine | None,
    rows: Rows,
    total: Float[Array, " n"],
    origin: Origin,
    waiting: Sequence[Rows | None],
    slopes: Float[Array, "n ..."] | None = None,
    *,
    shapes: Sequence[tuple[int, ...]],
) -> tuple[list[Rows], Float[Array, " n"]]:
    """Returns the rows in front of a node that bends, an affine node, or one behind the other.

    Args:
        lines: of the node that bends, of each image; None where there is none.
        affine: the affine node, which nothing else acts on; None where there is none.
        rows: of the value.
        total: what was added before, to which offsets are added.
        origin: of the rows.
        waiting: rows that each value in front has already.
        slopes: lower slopes of a rectifier, of each row its own, where there is a choice.
        shapes: of the values in front.
    """
    if lines is not None:
        shape = affine.shape if affine else shapes[0]
        rows, total = _before_lines(lines, rows, total, origin, slopes, shape)
    elif rows.window is not None and affine is not None:
        inside = origin.take(jnp.ones((1, *affine.shape), jnp.float32), rows.window)
        rows = Rows(rows.value * inside, rows.window)
    found = [rows]
    if affine is not None:
        found, total = _before_affine(affine, rows, total, origin, shapes)
    sums = [
        added(each, there, origin, shape)
        for each, there, shape in zip(found, waiting, shapes, strict=True)
    ]
    return sums, total


def _before_lines(
    lines: Lines,
    rows: Rows,
    total: Float[Array, " n"],
    origin: Origin,
    slopes: Float[Array, "n ..."] | None,
    shape: tuple[int, ...],
) -> tuple[Rows, Float[Array, " n"]]:
    is_maximum = lines.lower_slope.ndim > lines.upper_offset.ndim
    if is_maximum:
        rows = as_whole(rows, origin, shape[1:])
    lower, upper, offset, *others = origin.of_rows([x for x in lines if x is not None], rows)
    if slopes is not None:
        lower = jnp.where(lower == upper, lower, slopes)
    value = rows.value
    total = total + summed(jnp.minimum(value, 0) * offset)
    for lower_offset in others:
        total = total + summed(jnp.maximum(value, 0) * lower_offset)
    value = value[:, None] if is_maximum else value
    return Rows(value * jnp.where(value > 0, lower, upper), rows.window), total


def _before_affine(
    node: Affine,
    rows: Rows,
    total: Float[Array, " n"],
    origin: Origin,
    shapes: Sequence[tuple[int, ...]],
) -> tuple[list[Rows], Float[Array, " n"]]:
    if node.offset is not None:
        # Where no coefficient reaches it, the offset may be the -inf around a maximum.
        offset = node.offset[None]
        offset = offset if rows.window is None else origin.take(offset, rows.window)
        total = total + summed(jnp.where(rows.value == 0, 0, rows.value * offset))
    if any(local is None for local in node.local):
        rows = as_whole(rows, origin, node.shape)
        return [Rows(value) for value in jax.vmap(node.transposed)(rows.value)], total
    found = []
    for local, shape in zip(node.local, shapes, strict=True):
        assert local is not None
        window = rows.window
        if window is not None and local.kernel is not None:
            window = window.before(local.strides, local.kernel.shape[:2], local.padding)
        if window is not None and window.fits(shape) and pays(local, window.size, pair(shape[1:3])):
            found.append(Rows(transposed(local, rows.value), window))
            continue
        whole = as_whole(rows, origin, node.shape).value[:, 0]
        found.append(Rows(transposed(local, whole, pair(shape[1:3]))[:, None]))
    return found, total


class Ball(NamedTuple):
    """Images within an L2 radius of some.

    Attributes:
        centre: these [b 1 ...].
        radius: of all.
    """

    centre: Float[Array, "b ..."]
    radius: Float[Array, ""]


def at_input(
    lower: Float[Array, "b ..."], upper: Float[Array, "b ..."], rows: Rows,
    total: Float[Array, " n"], origin: Origin, ball: Ball | None = None,
) -> Float[Array, " n"]:  # fmt: skip
    """Returns the lower bounds over a box, in a ball where one is given: -inf for no number."""
    lower, upper = origin.of_rows((lower, upper), rows)
    found = total + summed(rows.value * jnp.where(rows.value > 0, lower, upper))
    if ball is not None:
        # A window's places outside the image are none.
        centre, inside = origin.of_rows((ball.centre, jnp.ones_like(ball.centre)), rows)
        square = summed(jnp.square(rows.value * inside))
        length = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
        found = jnp.fmax(found, total + summed(rows.value * centre) - ball.radius * length)
    return jnp.where(jnp.isnan(found), -jnp.inf, found)


def summed(x: Float[Array, "n ..."]) -> Float[Array, " n"]:
    """Returns the sum of each row."""
    return jnp.sum(x.reshape(len(x), -1), axis=1)
