"""The ball that an attack stays in, and distances."""

import dataclasses
import math
import numbers
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Key

from robust_jax import rng
from robust_jax.attacks import sparsity
from robust_jax.attacks.leaves import WithLeaves

Norm = Literal["linf", "l2", "l1", "l0", "l0_values"]
"""L0 counts pixels: places of an image [h w k], whatever changes of their channels; "l0_values"
counts the channels of pixels that change. Of anything but [h w k] each value is a place."""

COUNTS = ("l0", "l0_values")


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

    Raises:
        ValueError: the norm is another one, whose steps depend on the box (`ThreatModel.ascend`).
    """
    if norm not in ("linf", "l2"):
        raise ValueError(f"Expected norm={norm!r} to be one of ['l2', 'linf'].")
    return jnp.sign(gradient) if norm == "linf" else unit_l2(gradient)


def distance(norm: str, images: Array, clean: Array) -> Float[Array, " b"]:
    """Returns the distance of each image from its clean one, see `size`."""
    return size(norm, images - clean)


def size(norm: str, delta: Array) -> Float[Array, " b"]:
    """Returns the norm of each example, see `Norm`."""
    if norm == "l0":
        return jnp.sum(jnp.any(places(delta) != 0, axis=2), axis=1).astype(delta.dtype)
    delta = delta.reshape(delta.shape[0], -1)
    if norm == "linf":
        return jnp.max(jnp.abs(delta), axis=1)
    if norm == "l2":
        return l2_norm(delta)
    if norm == "l0_values":
        return jnp.sum(delta != 0, axis=1).astype(delta.dtype)
    return jnp.sum(jnp.abs(delta), axis=1)


def places(values: Array) -> Float[Array, "b n k"]:
    """Returns the values by place: of images [b h w k] the channels of each pixel stay together."""
    num_channels = values.shape[-1] if values.ndim == 4 else 1
    return values.reshape(values.shape[0], -1, num_channels)


@dataclasses.dataclass(frozen=True)
class ThreatModel(WithLeaves):
    """A ball around the clean image, within the box of valid images.

    Guarantees:
        `project` and `sample` give images in the box exactly and in the ball up to rounding:
        one unit in the last place of each pixel, that is 1e-6 in Linf, per image
        1e-6 * max(1, eps) in L2 and, up to 32 x 32 x 3, 1e-5 * max(1, eps) in L1 (of flat images
        of 224 x 224 the last places of all pixels may add up to 1e-4 of eps); in L0 exactly.

    Attributes:
        norm: norm of the ball, see `Norm`.
        eps: radius, the adversary's budget, in the pixel units of `bounds`; in L0 how many places
            may change.
        bounds: smallest and largest pixel value.

    Raises:
        ValueError: no such norm, the box is none, or the radius is negative, not finite, in Linf
            wider than the box or in L0 not whole.

    Example:
        >>> from robust_jax.attacks import ThreatModel
        >>> threat = ThreatModel("linf", eps=0.125)  # usual is 8 / 255
        >>> clean = jnp.asarray([[0.5, 0.0]])
        >>> inside = threat.project(jnp.asarray([[1.0, -1.0]]), clean)  # into ball and box
        >>> inside.tolist(), threat.distance(inside, clean).item()
        ([[0.625, 0.0]], 0.125)
    """

    norm: Norm
    eps: float
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Raises ValueError where the ball makes no sense in the box."""
        check_bounds(self.bounds)
        width = self.bounds[1] - self.bounds[0]
        if self.norm not in get_args(Norm):
            raise ValueError(f"Expected norm={self.norm!r} to be one of {sorted(get_args(Norm))}.")
        if not isinstance(self.eps, numbers.Real):
            raise ValueError(f"Expected eps={self.eps!r} to be a number.")
        if not (math.isfinite(self.eps) and self.eps >= 0):
            raise ValueError(f"Expected eps={self.eps} >= 0 and finite.")
        if self.norm in COUNTS and self.eps != int(self.eps):
            raise ValueError(f"Expected eps={self.eps} to be a whole number of places.")
        if self.norm == "linf" and self.eps > width:
            raise ValueError(
                f"Expected eps={self.eps} <= {width}, the width of bounds={self.bounds}."
            )

    @property
    def leaves(self) -> tuple[str, ...]:
        """Returns the radius; in L0 it is a count, on which shapes may depend."""
        return () if self.norm in COUNTS else ("eps",)

    def __str__(self) -> str:
        return f"{self.norm} eps {self.eps:{'.0f' if self.norm in COUNTS else '.4g'}}"

    def contains(self, other: "ThreatModel") -> bool:
        """Returns whether another ball around the same image lies in this one, of the same norm."""
        same_kind = (other.norm, other.bounds) == (self.norm, self.bounds)
        return same_kind and other.eps <= self.eps

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError where the ball is larger than the box of images of this shape.

        A radius that is being traced is its caller's.
        """
        if isinstance(self.eps, Tracer):
            return
        width, number = self.bounds[1] - self.bounds[0], math.prod(shape)
        most, what = {
            "linf": (width, "the width"),
            "l2": (width * math.sqrt(number), "the diagonal"),
            "l1": (width * number, "the sum of all widths"),
            "l0": (number // shape[-1] if len(shape) == 3 else number, "the pixels"),
            "l0_values": (number, "the values"),
        }[self.norm]
        if self.eps > most:
            raise ValueError(
                f"Expected eps={self.eps} <= {most:.4g}, {what} of bounds={self.bounds} "
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

        Linf, L1, L0: the nearest point in L2. L2: onto the ball first, then the box, which cannot
        leave the ball again because the clean image is in the box.

        Args:
            images: where to project from.
            clean: centres of the balls, inside the box.
            eps: radius of each example in place of the threat model's.
        """
        radius = self._radius(clean, eps)
        if self.norm == "linf":
            return self.clip(jnp.clip(images, clean - radius, clean + radius))
        if self.norm in COUNTS:
            return self._with_few_changes(images, clean, radius)
        delta = images - clean
        if self.norm == "l1":
            inside = sparsity.shrunk(
                jnp.abs(delta).reshape(len(delta), -1),
                self._room(clean, delta).reshape(len(delta), -1),
                jnp.broadcast_to(radius.reshape(-1), len(delta)),
            )
            return self.clip(clean + jnp.sign(delta) * inside.reshape(delta.shape))
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

        In L0 the places are drawn, and their values from the box.

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

        def in_l1_ball(key):
            # Of one more exponential draw than coordinates, each over the sum of all.
            size = jax.random.exponential(rng.stream(key, "size"), shape, dtype)
            spare = jax.random.exponential(rng.stream(key, "spare"), (), dtype)
            sign = jax.random.rademacher(rng.stream(key, "sign"), shape, dtype)
            return sign * size / (jnp.sum(size) + spare)

        def anywhere(key):
            return jax.random.uniform(
                key, shape, dtype, minval=self.bounds[0], maxval=self.bounds[1]
            )

        if self.norm in COUNTS:
            number = self.num_places(clean)
            order = jax.vmap(lambda key: jax.random.uniform(key, (number,), dtype))(
                jax.vmap(lambda key: rng.stream(key, "places"))(keys)
            )
            colors = jax.vmap(lambda key: anywhere(rng.stream(key, "values")))(keys)
            return self._where_ranked(order, colors, clean, radius)
        draw = {"linf": uniform, "l2": in_l2_ball, "l1": in_l1_ball}[self.norm]
        return self.project(clean + radius * jax.vmap(draw)(keys), clean, eps=eps)

    def steepest(self, gradient: Float[Array, "b *shape"]) -> Float[Array, "b *shape"]:
        """Returns the direction along which the gradient's linear model rises most (Linf, L2)."""
        return steepest(self.norm, gradient)

    def ascend(
        self,
        points: Float[Array, "b *shape"],
        gradient: Float[Array, "b *shape"],
        length: float | Array,
    ) -> Float[Array, "b *shape"]:
        """Returns the points after a step of this length that raises the linear model most.

        In L1 it is the steepest one inside the box: the values of largest derivative go to the
        bound of the box, as many as the length pays for. In Linf and L2 the box is left to the
        projection.

        Args:
            points: where from, in the box.
            gradient: of what is raised.
            length: of the step: one for all, or with trailing axes of length one for each.

        Raises:
            ValueError: the norm has no steps (L0).

        References:
            Croce and Hein, "Mind the box: l1-APGD for sparse adversarial attacks on image
            classifiers", 2021 (proposition 3.1).
        """
        if self.norm != "l1":
            return points + length * self.steepest(gradient)
        room = self._room(points, gradient) * jnp.abs(jnp.sign(gradient))
        share = sparsity.share_spent(
            jnp.abs(gradient).reshape(len(gradient), -1),
            room.reshape(len(gradient), -1),
            jnp.broadcast_to(jnp.asarray(length, points.dtype).reshape(-1), len(gradient)),
        )
        return points + jnp.sign(gradient) * room * share.reshape(gradient.shape)

    def distance(
        self, images: Float[Array, "b *shape"], clean: Float[Array, "b *shape"]
    ) -> Float[Array, " b"]:
        """Returns the distance of each image from its clean one, in the threat model's norm."""
        return distance(self.norm, images, clean)

    def _radius(self, clean: Array, eps: Array | None) -> Array:
        if eps is None:
            return jnp.asarray(self.eps, clean.dtype).reshape((1,) * clean.ndim)
        return expand(eps, clean)

    def _room(self, points: Array, direction: Array) -> Array:
        """Returns how far each value may go in a direction before it leaves the box."""
        low, high = self.bounds
        return jnp.maximum(jnp.where(direction > 0, high - points, points - low), 0)

    def num_places(self, images: Array) -> int:
        """Returns how many places an image has that a ball in L0 counts, see `Norm`."""
        grouped = self.norm == "l0" and images.ndim == 4
        return math.prod(images.shape[1:-1] if grouped else images.shape[1:])

    def _with_few_changes(self, images: Array, clean: Array, radius: Array) -> Array:
        """Returns the images in the box at the places where that keeps most, else the clean ones.

        A place that is kept comes nearer by the square of its change, less what the box takes.
        """
        inside = self.clip(images)
        gain = (images - clean) ** 2 - (images - inside) ** 2
        gain = gain.reshape(len(clean), self.num_places(clean), -1).sum(axis=2)
        # What changes by less than a square can tell is a change all the same.
        gain = jnp.maximum(gain, jnp.finfo(gain.dtype).tiny)
        changed = (inside != clean).reshape(*gain.shape, -1).any(axis=2)
        return self._where_ranked(jnp.where(changed, gain, -1), inside, clean, radius)

    def _where_ranked(self, order: Array, images: Array, clean: Array, radius: Array) -> Array:
        """Returns the images at the first places in an order, largest first, else the clean."""
        kept = sparsity.ranked(order) < radius.reshape(-1, 1).astype(jnp.int32)
        kept = jnp.broadcast_to(kept[..., None], (*kept.shape, clean[0].size // kept.shape[1]))
        return jnp.where(kept.reshape(clean.shape), images, clean)


def check_bounds(bounds: tuple[float, float]) -> None:
    """Raises ValueError unless `bounds` is a box."""
    is_pair = isinstance(bounds, tuple) and len(bounds) == 2
    if not (is_pair and -math.inf < bounds[0] < bounds[1] < math.inf):
        raise ValueError(f"Expected bounds={bounds} to be (low, high), finite, low < high.")
