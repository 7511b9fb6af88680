"""The ball that an attack stays in, and distances."""

import dataclasses
import math
import numbers
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from robust_jax import rng


def expand(values: Array, like: Array) -> Array:
    """Returns one value per example [b] with trailing axes of length one, to act on `like`."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


def without_nan(images: Array, clean: Array) -> Array:
    """Returns the images; the clean one in place of each that has a NaN pixel."""
    broken = jnp.any(jnp.isnan(images.reshape(images.shape[0], -1)), axis=1)
    return jnp.where(expand(broken, images), clean, images)


def l2_norm(delta: Array) -> Float[Array, " b"]:
    """Returns the Euclidean norm of each example, exact also where squares would underflow."""
    flat = delta.reshape(delta.shape[0], -1)
    largest = jnp.max(jnp.abs(flat), axis=1)
    scale = jnp.where(largest > 0, largest, 1)
    return largest * jnp.sqrt(jnp.sum((flat / scale[:, None]) ** 2, axis=1))


def unit_l2(delta: Array) -> Array:
    """Returns each example divided by its Euclidean norm; a zero example stays zero."""
    norm = l2_norm(delta)
    return delta / expand(jnp.where(norm > 0, norm, 1), delta)


def steepest(norm: str, gradient: Array) -> Array:
    """Returns the direction of length one along which the gradient's linear model rises most.

    Linf: its sign. L2: the gradient over its norm. A zero gradient gives a zero direction.
    """
    return jnp.sign(gradient) if norm == "linf" else unit_l2(gradient)


def distance(norm: str, images: Array, clean: Array) -> Float[Array, " b"]:
    """Returns the distance of each image from its clean one, see `size`."""
    return size(norm, images - clean)


def size(norm: str, delta: Array) -> Float[Array, " b"]:
    """Returns the norm of each example: "linf", "l2", "l1", or "l0".

    L0 is the number of features (channels of pixels) that are not zero.
    """
    delta = delta.reshape(delta.shape[0], -1)
    if norm == "linf":
        return jnp.max(jnp.abs(delta), axis=1)
    if norm == "l2":
        return l2_norm(delta)
    if norm == "l0":
        return jnp.sum(delta != 0, axis=1).astype(delta.dtype)
    return jnp.sum(jnp.abs(delta), axis=1)


@dataclasses.dataclass(frozen=True)
class ThreatModel:
    """A ball around the clean image, within the box of valid images.

    Guarantees:
        `project` and `sample` give images in the box exactly and in the ball up to rounding:
        one unit in the last place of each pixel, that is 1e-6 in Linf and, per image,
        1e-6 * max(1, eps) in L2.

    Attributes:
        norm: norm of the ball.
        eps: radius, in the pixel units of `bounds`.
        bounds: smallest and largest pixel value.
    """

    norm: Literal["linf", "l2"]
    eps: float
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Raises ValueError where the ball makes no sense in the box."""
        check_bounds(self.bounds)
        width = self.bounds[1] - self.bounds[0]
        if self.norm not in ("linf", "l2"):
            raise ValueError(f"Expected norm={self.norm!r} to be one of ['l2', 'linf'].")
        if not isinstance(self.eps, numbers.Real):
            raise ValueError(f"Expected eps={self.eps!r} to be a number.")
        if not (math.isfinite(self.eps) and self.eps >= 0):
            raise ValueError(f"Expected eps={self.eps} >= 0 and finite.")
        if self.norm == "linf" and self.eps > width:
            raise ValueError(
                f"Expected eps={self.eps} <= {width}, the width of bounds={self.bounds}."
            )

    def __str__(self) -> str:
        return f"{self.norm} eps {self.eps:.4g}"

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError where the ball is larger than the box of images of this shape."""
        diagonal = (self.bounds[1] - self.bounds[0]) * math.sqrt(math.prod(shape))
        if self.norm == "l2" and self.eps > diagonal:
            raise ValueError(
                f"Expected eps={self.eps} <= {diagonal:.4g}, the diagonal of bounds={self.bounds} "
                f"for images of shape {shape}."
            )

    def clip(self, images: Float[Array, "b *shape"]) -> Float[Array, "b *shape"]:
        """Returns the images clipped to the box."""
        return jnp.clip(images, self.bounds[0], self.bounds[1])

    def project(
        self,
        images: Float[Array, "b *shape"],
        clean: Float[Array, "b *shape"],
        *,
        eps: Float[Array, " b"] | None = None,
    ) -> Float[Array, "b *shape"]:
        """Returns the images moved into the ball around the clean ones and into the box.

        Linf: the nearest point. L2: onto the ball first, then the box, which cannot leave the
        ball again because the clean image is in the box.

        Args:
            images: where to project from.
            clean: centres of the balls, inside the box.
            eps: radius of each example in place of the threat model's.
        """
        radius = self._radius(clean, eps)
        if self.norm == "linf":
            return self.clip(jnp.clip(images, clean - radius, clean + radius))
        delta = images - clean
        norm = expand(l2_norm(delta), delta)
        shrink = jnp.where(norm > radius, radius / jnp.where(norm > 0, norm, 1), 1)
        return self.clip(clean + delta * shrink)

    def sample(
        self,
        clean: Float[Array, "b *shape"],
        keys: Key[Array, " b"],
        *,
        eps: Float[Array, " b"] | None = None,
    ) -> Float[Array, "b *shape"]:
        """Returns a point drawn uniformly from each ball, then clipped to the box.

        Args:
            clean: centres of the balls, inside the box.
            keys: one key per example.
            eps: radius of each example in place of the threat model's.
        """
        radius = self._radius(clean, eps)
        shape, dtype = clean.shape[1:], clean.dtype

        def uniform(key):
            return jax.random.uniform(key, shape, dtype, minval=-1, maxval=1)

        def in_l2_ball(key):
            direction = jax.random.normal(rng.stream(key, "direction"), shape, dtype)
            share = jax.random.uniform(rng.stream(key, "radius"), (), dtype)
            return unit_l2(direction[None])[0] * share ** (1 / math.prod(shape))

        noise = jax.vmap(uniform if self.norm == "linf" else in_l2_ball)(keys)
        return self.project(clean + radius * noise, clean, eps=eps)

    def steepest(self, gradient: Float[Array, "b *shape"]) -> Float[Array, "b *shape"]:
        """Returns the direction along which the gradient's linear model rises most."""
        return steepest(self.norm, gradient)

    def distance(
        self, images: Float[Array, "b *shape"], clean: Float[Array, "b *shape"]
    ) -> Float[Array, " b"]:
        """Returns the distance of each image from its clean one, in the threat model's norm."""
        return distance(self.norm, images, clean)

    def _radius(self, clean: Array, eps: Array | None) -> Array:
        if eps is None:
            return jnp.asarray(self.eps, clean.dtype).reshape((1,) * clean.ndim)
        return expand(eps, clean)


def check_bounds(bounds: tuple[float, float]) -> None:
    """Raises ValueError unless `bounds` is a box."""
    is_pair = isinstance(bounds, tuple) and len(bounds) == 2
    if not (is_pair and -math.inf < bounds[0] < bounds[1] < math.inf):
        raise ValueError(f"Expected bounds={bounds} to be (low, high), finite, low < high.")
