"""Gaussian noise on images: in floating point, or rounded to the grid of 8-bit images."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Key, UInt32
from scipy import special

LEVELS = 255
"""Steps of the grid in the pixels' range [0, 1]."""

OFF_THE_GRID = 1e-3
"""Most that a pixel may lie off its level, in levels. Float32 puts n / 255 within 2e-5 of n."""

FEWEST_COLUMNS = 12
"""Binary logarithm of the shortest table's length. A longer table has finer probabilities."""

MOST_SIGMA = 16.0
"""Largest standard deviation of rounded noise: the longest table, of 2^16 columns, ends there."""

REACH = 8.0
"""Standard deviations within which the table reaches: beyond lies 1e-15."""

FLOAT64 = 1e-14
"""Room in a total variation for the rounding of the probabilities it is computed from."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FloatNoise:
    """x + sigma * noise, standard normal, all of it in the images' floating point.

    Attributes:
        sigma: standard deviation.
    """

    sigma: float | Float[Array, ""]

    def noisy(self, image: Float[Array, "..."], key: Key[Array, ""]) -> Float[Array, "..."]:
        """Returns a copy of the image with noise of the key."""
        # Flat: the counters of a shaped draw cost more than the draw itself.
        noise = jax.random.normal(key, (image.size,), image.dtype).reshape(image.shape)
        return image + jnp.asarray(self.sigma, image.dtype) * noise


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RoundedNoise:
    """(n + noise) / 255 of an image n / 255, with noise the nearest integer to N(0, (255 sigma)^2).

    An integer is drawn by the method of aliases: a column of the table, each as likely, then the
    column's own integer or its other one, by 16 and 32 random bits, compared and added as integers.
    So the integers have exactly the probabilities of the table, multiples of 2^-44 or less, whose
    distance from those of the rounded Gaussian `total_variation` states.

    It is not the discrete Gaussian, which has probabilities proportional to the density at the
    integers: its radius has no closed form, since the tail of its sum along a change depends on the
    change's direction. Of rounded Gaussians it is that of Gaussians (`Smoothing` has the proof).

    Attributes:
        threshold: of 2^32, in how many cases a column is its own integer [n].
        other: the column of its other integer [n].

    References:
        Walker, "An efficient method for generating discrete random variables with general
        distributions", 1977; Vose, "A linear algorithm for generating random numbers with a given
        distribution", 1991; Canonne, Kamath and Steinke, "The discrete Gaussian for differential
        privacy", 2020.
    """

    threshold: UInt32[Array | np.ndarray, " n"]
    other: Int[Array | np.ndarray, " n"]

    def noisy(self, image: Float[Array, "..."], key: Key[Array, ""]) -> Float[Array, "..."]:
        """Returns a copy of the image, a point of the grid, with noise of the key."""
        level = jnp.round(LEVELS * image).astype(jnp.int32)
        moved = level + self.draw(key, image.size).reshape(image.shape)
        # Whatever this division rounds: it is a function of an integer, as `predict` is.
        return moved.astype(image.dtype) / LEVELS

    def draw(self, key: Key[Array, ""], size: int) -> Int[Array, " size"]:
        """Returns independent integers."""
        num_columns, half = len(self.threshold), -(-size // 2)
        bits = jax.random.bits(key, (half + size,), jnp.uint32)
        # A column takes 16 bits at most: two of them are one word, which cost what they are drawn.
        columns = jnp.concatenate([bits[:half] >> 16, bits[:half] & 0xFFFF])[:size]
        column = (columns >> (16 - _log2(num_columns))).astype(jnp.int32)
        threshold, other = (
            jnp.asarray(table).at[column].get(mode="promise_in_bounds")
            for table in (self.threshold, self.other)
        )
        chosen = jnp.where(bits[half:] < threshold, column, other)
        return chosen - (num_columns // 2 - 1)


def check_on_grid(images: jax.Array) -> None:
    """Raises ValueError unless each pixel is n / 255, as those of 8-bit images are."""
    if images.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(f"Expected images.dtype={images.dtype} to be float32 for rounded noise.")
    if isinstance(images, Tracer) or not images.size:
        return
    levels = LEVELS * np.asarray(images, np.float64)
    off = np.max(np.abs(levels - np.rint(levels)))
    if not off <= OFF_THE_GRID:
        raise ValueError(
            f"Expected images on the grid of 1/255 for rounded noise, found a pixel {off:.2g} of a "
            "level off: round them, or take noise='float'."
        )


@functools.lru_cache(maxsize=32)
def rounded_noise(sigma: float) -> RoundedNoise:
    """Returns the sampler of rounded Gaussian noise of sigma <= MOST_SIGMA."""
    weights, num_cases = _weights(sigma), 2**32
    threshold, other = np.zeros(len(weights), np.uint32), np.arange(len(weights), dtype=np.int32)
    left = [int(weight) for weight in weights]
    small = [column for column, weight in enumerate(left) if weight < num_cases]
    large = [column for column, weight in enumerate(left) if weight >= num_cases]
    while small:  # in integers, whose sum is that of full columns: a large one is left for it
        column, giver = small.pop(), large.pop()
        threshold[column], other[column] = left[column], giver
        left[giver] -= num_cases - left[column]
        (small if left[giver] < num_cases else large).append(giver)
    return RoundedNoise(threshold, other)


@functools.lru_cache(maxsize=32)
def total_variation(sigma: float) -> float:
    """Returns a bound of the distance of one pixel's drawn noise from the rounded Gaussian.

    That of an image is at most as many times that as it has pixels and channels.
    """
    weights = _weights(sigma)
    exact, beyond = _probabilities(sigma, len(weights))
    return float(np.sum(np.abs(weights / weights.sum() - exact)) + beyond) / 2 + FLOAT64


def _weights(sigma: float) -> Int[np.ndarray, " n"]:
    """Returns the table's probabilities in units of 2^-32 / n; the zero has what rounding left."""
    num_columns = 2 ** max(_log2(int(2 * (REACH * LEVELS * sigma + 2))), FEWEST_COLUMNS)
    exact, _ = _probabilities(sigma, num_columns)
    weights = np.rint(exact * 2.0**32 * num_columns).astype(np.int64)
    weights[num_columns // 2 - 1] += 2**32 * num_columns - weights.sum()
    return weights


def _probabilities(sigma: float, num_columns: int) -> tuple[Float[np.ndarray, " n"], float]:
    """Returns the rounded Gaussian's probabilities of the columns' integers, and of all others."""
    farthest = num_columns // 2 - 1
    # Upper tails at j - 1/2: no difference of numbers near 1.
    tails = special.ndtr(-(np.arange(farthest + 2) - 0.5) / (LEVELS * sigma))
    half = tails[:-1] - tails[1:]
    return np.concatenate([half[:0:-1], half, [0.0]]), float(2 * tails[-1])


def _log2(number: int) -> int:
    """Returns the least power of two that reaches a number."""
    return (number - 1).bit_length()
