"""Functions of a node's value that are bounded, as the rows that are sent backward."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from robust_jax.certify.rows import Origin, Rows, Window
from robust_jax.runtime.compilation import jitted


class Functions(NamedTuple):
    """Linear functions of a node's value, each of one image: first place's value less another's.

    Attributes:
        image: number of each one's image [n].
        place: of the value, flat [n].
        side: 1 or -1, times the value there [n], float32.
        less: place whose value is subtracted; None for none.
    """

    image: Array | np.ndarray
    place: Array | np.ndarray
    side: Array | np.ndarray
    less: Array | np.ndarray | None = None

    def at(self, chosen: np.ndarray) -> "Functions":
        """Returns some of them."""
        return jax.tree.map(lambda each: each[chosen], self)


@functools.partial(jitted, static_argnames=("shape",))
def rows_of(functions: Functions, *, shape: tuple[int, ...]) -> tuple[Rows, Origin]:
    """Returns functions as rows; of one place in an image as windows of that place."""
    place, side = jnp.asarray(functions.place), jnp.asarray(functions.side)[:, None]
    image = jnp.asarray(functions.image)
    if functions.less is None and len(shape) == 4 and shape[0] == 1:
        _, height, width, channels = shape
        position = jnp.stack([place // (width * channels), place // channels % width], axis=1)
        value = side * jax.nn.one_hot(place % channels, channels, dtype=jnp.float32)
        window = Window((1, 1), (1, 1), (0, 0), (height - 1, width - 1))
        if window.fits(shape):
            return Rows(value[:, None, None], window), Origin(image, position)
    size = math.prod(shape)
    value = side * jax.nn.one_hot(place, size, dtype=jnp.float32)
    if functions.less is not None:
        value -= side * jax.nn.one_hot(functions.less, size, dtype=jnp.float32)
    position = jnp.zeros((len(value), 2), jnp.int32)
    return Rows(value.reshape(-1, *shape)), Origin(image, position)
