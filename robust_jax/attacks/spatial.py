"""Spatial: the worst of a grid of small rotations and translations."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.base import Attack
from robust_jax.attacks.checks import check_counts, check_height_and_width
from robust_jax.attacks.runs import Found, Given, keep_better
from robust_jax.attacks.threat import check_bounds
from robust_jax.types import Images


def transform(
    images: Float[Array, "b h w k"], angle: Float[Array, ""], shift: Float[Array, "2"]
) -> Float[Array, "b h w k"]:
    """Returns the images rotated about their centre, then shifted; outside them is zero.

    Args:
        images: images.
        angle: counter-clockwise, in radians.
        shift: in pixels, down and to the right.
    """
    height, width = images.shape[1:3]
    dtype = images.dtype
    middle = jnp.asarray([(height - 1) / 2, (width - 1) / 2], dtype)
    rows, columns = jnp.meshgrid(
        jnp.arange(height, dtype=dtype), jnp.arange(width, dtype=dtype), indexing="ij"
    )
    # Where each pixel comes from: shift and rotation undone.
    row, column = rows - shift[0] - middle[0], columns - shift[1] - middle[1]
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    source = jnp.stack(
        [cosine * row + sine * column + middle[0], -sine * row + cosine * column + middle[1]]
    )

    def sample(channel):
        return jax.scipy.ndimage.map_coordinates(channel, list(source), order=1, cval=0.0)

    return jax.vmap(jax.vmap(sample, in_axes=-1, out_axes=-1))(images)


@dataclasses.dataclass(frozen=True)
class Spatial(Attack):
    """Tries every rotation and translation of a grid and keeps the best.

    Best is a misclassified image before one that is not, then the larger loss; the identity is
    on the grid's side too, so nothing found gives the clean image. Needs scores only.

    The defaults are the paper's for CIFAR-10 and those of the authors' code: 31 angles of up to 30
    degrees, 5 shifts of up to 3 pixels down and 5 to the right, 775 in all, at a forward pass each.
    Pixels are interpolated bilinearly, once, and black comes in from outside. (So in their PyTorch
    code and in the paper's formula; their TensorFlow code interpolates the rotated image again,
    which blurs where a shift is half a pixel.)

    Attributes:
        max_angle: largest rotation either way, in degrees.
        max_shift: largest translation either way, in pixels, in both directions.
        num_angles: angles tried.
        num_shifts: shifts tried in each direction.
        bounds: smallest and largest pixel value; must hold zero, which fills in from outside.

    Raises:
        ValueError: the box does not hold 0, angles or shifts make no grid, or (at a call) images
            are not [b h w k].

    Example:
        >>> from robust_jax.attacks import Spatial, as_view
        >>> view = as_view(lambda images: images[:, 2, 1:3, 0])  # a class each of two pixels
        >>> images, labels = jnp.zeros((1, 4, 4, 1)).at[0, 2, 1, 0].set(1.0), jnp.asarray([0])
        >>> attack = Spatial(max_angle=0.0, num_angles=1, max_shift=1, num_shifts=3)
        >>> found = attack(view, images, labels, key=jax.random.key(0))
        >>> attack.grid().shape, view(found, key=None).argmax(1).item()
        ((9, 3), 1)

    References:
        Engstrom, Tran, Tsipras, Schmidt, Madry, "Exploring the landscape of spatial robustness",
        2019 (grid search; github.com/MadryLab/adversarial_spatial and spatial-pytorch).
    """

    needs_logits: ClassVar[bool] = False

    max_angle: float = 30.0
    max_shift: int = 3
    num_angles: int = 31
    num_shifts: int = 5
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Raises ValueError for a grid that makes no sense."""
        check_bounds(self.bounds)
        if not self.bounds[0] <= 0 <= self.bounds[1]:
            raise ValueError(f"Expected bounds={self.bounds} to hold 0, which fills in.")
        if not 0 <= self.max_angle <= 180:
            raise ValueError(f"Expected max_angle={self.max_angle} in [0, 180].")
        if self.max_shift < 0:
            raise ValueError(f"Expected max_shift={self.max_shift} >= 0.")
        check_counts(self, "num_angles", "num_shifts")

    @property
    def box(self) -> tuple[float, float]:
        """Returns the smallest and largest pixel value."""
        return self.bounds

    def reduced(self) -> "Spatial":
        """Returns the attack itself."""
        return self

    def check(self, images: Array | np.ndarray) -> None:
        """Raises ValueError unless the images are [b h w k]."""
        check_height_and_width(images)

    def grid(self) -> np.ndarray:
        """Returns the transformations tried [n 3]: angle in radians, shift down, shift right."""
        angles = np.linspace(-self.max_angle, self.max_angle, self.num_angles) * math.pi / 180
        shifts = np.linspace(-self.max_shift, self.max_shift, self.num_shifts)
        mesh = np.meshgrid(angles, shifts, shifts, indexing="ij")
        return np.stack([axis.ravel() for axis in mesh], axis=1)

    def perturb(self, given: Given) -> Images:
        """Returns the adversarial images."""
        view, images, labels, key, *_ = given
        grid = jnp.asarray(self.grid(), images.dtype)

        def judged(points, number):
            loss, logits = losses.evaluate(
                losses.margin, view, points, labels, key=rng.stream(key, "view", number)
            )
            return Found(points, losses.misclassified(logits, labels), loss)

        def attempt(number, best):
            points = transform(images, grid[number, 0], grid[number, 1:])
            points = jnp.clip(points, *self.bounds)
            new = judged(points, number + 1)
            # A failure never replaces the clean image.
            return keep_better(best, new._replace(loss=jnp.where(new.success, new.loss, -jnp.inf)))

        clean = judged(images, 0)
        return jax.lax.fori_loop(0, len(grid), attempt, clean).images
