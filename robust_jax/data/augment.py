"""Augmentation of training images, on the device inside the training step."""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from robust_jax.rng import stream


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images, in this order; the default does nothing.

    Attributes:
        random_resized_crop: crop a random area and aspect ratio and resize it to the data's
            `image_size`. Done on the host when the image is decoded, not by `augment`.
        scale: range of the crop's share of the image's area.
        ratio: range of the crop's aspect ratio (width / height).
        crop_padding: pad by this many pixels on every side and crop back at a random offset.
        crop_mode: what the padding holds: "zero", or "edge" for the nearest pixel.
        shift: translate by a uniform fraction of the height and of the width in [-shift, shift],
            filled with the nearest pixel. Fractions of a pixel interpolate linearly, as Keras'
            `width_shift_range` and `height_shift_range` do.
        flip: mirror left and right with probability one half.
        noise: standard deviation of Gaussian noise, for pixels in [0, 1]. The sum is NOT clipped:
            it may leave [0, 1].

    Raises:
        ValueError: a range is empty, or a number outside it.

    Example:
        >>> from robust_jax.data import Augmentation
        >>> cifar = Augmentation(crop_padding=4, flip=True)
        >>> Augmentation(noise=-0.1)
        Traceback (most recent call last):
            ...
        ValueError: Expected noise=-0.1 >= 0.
    """

    random_resized_crop: bool = False
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    crop_padding: int = 0
    crop_mode: Literal["zero", "edge"] = "zero"
    shift: float = 0.0
    flip: bool = False
    noise: float = 0.0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.crop_padding < 0:
            raise ValueError(f"Expected crop_padding={self.crop_padding} >= 0.")
        if self.crop_mode not in ("zero", "edge"):
            raise ValueError(f"Expected crop_mode={self.crop_mode} to be zero or edge.")
        if not 0 <= self.shift < 1:
            raise ValueError(f"Expected shift={self.shift} in [0, 1).")
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"Expected noise={self.noise} >= 0.")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"Expected scale={self.scale} to be ordered in (0, 1].")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise ValueError(f"Expected ratio={self.ratio} to be ordered and positive.")


def augment(
    config: Augmentation, images: Float[Array, "b h w k"], *, key: Key[Array, ""]
) -> Float[Array, "b h w k"]:
    """Returns the images after random crop, shift, flip and noise, drawn anew for each example.

    Args:
        config: what to do.
        images: pixels in [0, 1].
        key: key of this step's draws.

    Guarantees:
        The same key gives the same images, whatever the sharding; shape and dtype are kept;
        nothing to do returns the images themselves. Pixels stay in [0, 1] unless `noise` > 0.

    Example:
        >>> from robust_jax.data import Augmentation, augment
        >>> images = jnp.linspace(0, 1, 32).reshape(2, 4, 4, 1)
        >>> def augmented(images, key):
        ...     return augment(Augmentation(crop_padding=1, flip=True), images, key=key)
        >>> found = jax.jit(augmented)(images, jax.random.key(0))
        >>> found.shape, bool(jnp.all((found >= 0) & (found <= 1)))
        ((2, 4, 4, 1), True)
        >>> augment(Augmentation(), images, key=jax.random.key(1)) is images
        True
    """
    num_images, height, width, _ = images.shape
    if config.crop_padding:
        pad = config.crop_padding
        corners = jax.random.randint(stream(key, "crop"), (num_images, 2), 0, 2 * pad + 1)
        padded = _pad(images, pad, pad, "edge" if config.crop_mode == "edge" else "constant")
        images = _crop(padded, corners, height, width)
    if config.shift:
        fractions = jax.random.uniform(
            stream(key, "shift"), (num_images, 2), images.dtype, -config.shift, config.shift
        )
        images = _shift(images, fractions, config.shift)
    if config.flip:
        flipped = jax.random.bernoulli(stream(key, "flip"), 0.5, (num_images,))
        images = _flip(images, flipped)
    if config.noise:
        noise = jax.random.normal(stream(key, "noise"), images.shape, images.dtype)
        images = images + config.noise * noise
    return images


def _pad(
    images: Float[Array, "b h w k"], rows: int, columns: int, mode: str
) -> Float[Array, "b hp wp k"]:
    """Returns the images padded by `rows` above and below and `columns` left and right."""
    return jnp.pad(images, ((0, 0), (rows, rows), (columns, columns), (0, 0)), mode=mode)


def _crop(
    images: Float[Array, "b hp wp k"], corners: Int[Array, "b 2"], height: int, width: int
) -> Float[Array, "b h w k"]:
    """Returns from each image the window whose top left corner is given."""

    def crop(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(
            image, (corner[0], corner[1], 0), (height, width, image.shape[-1])
        )

    return jax.vmap(crop)(images, corners)


def _shift(
    images: Float[Array, "b h w k"], fractions: Float[Array, "b 2"], largest: float
) -> Float[Array, "b h w k"]:
    """Returns out[y, x] = in[y + fraction * h, x + fraction * w], linear, nearest outside."""
    _, height, width, _ = images.shape
    # One more row and column than the largest shift reaches: the right neighbour to blend with.
    reach_y, reach_x = math.ceil(largest * height) + 1, math.ceil(largest * width) + 1
    sides = jnp.array([[height, width]], images.dtype)
    offsets = fractions * sides
    whole = jnp.floor(offsets)
    part = offsets - whole
    corners = whole.astype(jnp.int32) + jnp.array([[reach_y, reach_x]], jnp.int32)
    padded = _pad(images, reach_y, reach_x, "edge")
    window = _crop(padded, corners, height + 1, width + 1)
    part_y, part_x = part[:, 0, None, None, None], part[:, 1, None, None, None]
    window = (1 - part_y) * window[:, :-1] + part_y * window[:, 1:]
    return (1 - part_x) * window[:, :, :-1] + part_x * window[:, :, 1:]


def _flip(images: Float[Array, "b h w k"], flipped: Bool[Array, " b"]) -> Float[Array, "b h w k"]:
    """Returns the images, those marked mirrored left and right."""
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)
