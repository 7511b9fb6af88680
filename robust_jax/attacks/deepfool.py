"""DeepFool and the trust-region attack: steps onto the nearest linearised boundary."""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.minimum_norm import MinimumNormAttack
from robust_jax.attacks.threat import expand, l2_norm


def dual_norm(norm: str, slope: Float[Array, "b *shape"]) -> Float[Array, " b"]:
    """Returns the size of a gradient by which a logit gap is divided to give a distance."""
    if norm == "linf":
        return jnp.sum(jnp.abs(slope.reshape(slope.shape[0], -1)), axis=1)
    return l2_norm(slope)


def nearest_boundary(
    view: Any,
    points: Float[Array, "b *shape"],
    labels: Int[Array, " b"],
    candidates: Int[Array, "b t"],
    *,
    norm: str,
    key: Key[Array, ""],
) -> tuple[Float[Array, " b"], Float[Array, "b *shape"], Float[Array, " b"], Int[Array, " b"]]:
    """Returns the distance of the nearest linearised boundary of the candidate classes.

    With it: the gradient of the logit difference to that class, the difference itself, and the
    class. One backward pass per candidate, one after the other.
    """
    logits, pullback = jax.vjp(lambda points: losses.decision(view(points, key=key)), points)
    own = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)

    def compare(number, carry):
        target = candidates[:, number]
        other = jax.nn.one_hot(target, logits.shape[1], dtype=logits.dtype)
        slope = pullback(other - own)[0]
        gap = jnp.sum(logits * (other - own), axis=1)
        away = jnp.abs(gap) / (dual_norm(norm, slope) + 1e-8)
        nearer = away < carry[0]
        return (
            jnp.where(nearer, away, carry[0]),
            jnp.where(expand(nearer, slope), slope, carry[1]),
            jnp.where(nearer, gap, carry[2]),
            jnp.where(nearer, target, carry[3]),
        )

    far = jnp.full(labels.shape, jnp.inf, points.dtype)
    nothing = far, jnp.zeros_like(points), jnp.zeros(labels.shape, logits.dtype), labels
    return jax.lax.fori_loop(0, candidates.shape[1], compare, nothing)


@dataclasses.dataclass(frozen=True)
class BoundaryStepAttack(MinimumNormAttack):
    """What DeepFool and the trust-region attack have in common.

    Attributes:
        distance_norm: the norm made small.
        num_steps: largest number of steps; an example stops where it is fooled.
        num_candidates: classes considered, the likeliest first, the label's not counted; at most
            all others.
    """

    distance_norm: Literal["linf", "l2"] = "l2"
    num_steps: int = 50
    num_candidates: int = 9

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        for name in ("num_steps", "num_candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected {name}={getattr(self, name)} >= 1.")
        if self.distance_norm not in ("linf", "l2"):
            raise ValueError(
                f"Expected distance_norm={self.distance_norm!r} to be one of ['l2', 'linf']."
            )
        if self.targeted:
            raise ValueError("Expected targeted=True to be False: the nearest class is sought.")

    @property
    def norm(self) -> Literal["linf", "l2"]:  # type: ignore[override]
        """Returns the norm made small."""
        return self.distance_norm

    def candidates(
        self, view: Any, images: Array, labels: Int[Array, " b"], key: Key[Array, ""]
    ) -> tuple[Int[Array, "b t"], Bool[Array, " b"]]:
        """Returns the classes considered, and which clean images are misclassified already."""
        logits = losses.decision(view(images, key=rng.stream(key, "candidates")))
        num_targets = min(self.num_candidates, logits.shape[1] - 1)
        ranked = losses.ranked_targets(logits, labels, num_targets)
        return ranked, losses.misclassified(logits, labels)


@dataclasses.dataclass(frozen=True)
class DeepFool(BoundaryStepAttack):
    """DeepFool: the sum of steps onto the nearest linearised boundary, a little overshot.

    Attributes:
        overshoot: share by which the sum of steps is lengthened.
        nudge: added to the length of every step, as in the authors' code: without it steps can
            shrink below the rounding of the pixels before the boundary is crossed.

    References:
        Moosavi-Dezfooli, Fawzi, Frossard, "DeepFool: a simple and accurate method to fool deep
        neural networks", 2016 (algorithm 2).
    """

    overshoot: float = 0.02
    nudge: float = 1e-4

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        if not 0 <= self.overshoot < math.inf:
            raise ValueError(f"Expected overshoot={self.overshoot} >= 0 and finite.")
        if not 0 <= self.nudge < math.inf:
            raise ValueError(f"Expected nudge={self.nudge} >= 0 and finite.")

    def perturb(
        self,
        view: Any,
        images: Float[Array, "b *shape"],
        labels: Int[Array, " b"],
        *,
        key: Key[Array, ""],
        index: Int[Array, " b"],
    ) -> Float[Array, "b *shape"]:
        """Returns the adversarial images."""
        del index  # nothing is drawn but by the view
        candidates, fooled = self.candidates(view, images, labels, key)

        def step(carry):
            count, points, total, done = carry
            away, slope, _, _ = nearest_boundary(
                view,
                points,
                labels,
                candidates,
                norm=self.norm,
                key=rng.stream(key, "view", 2 * count),
            )
            if self.norm == "linf":
                direction = jnp.sign(slope)
            else:
                size = l2_norm(slope)
                direction = slope / expand(jnp.where(size > 0, size, 1), slope)
            total = total + expand(away + self.nudge, images) * direction
            moved = jnp.clip(images + (1 + self.overshoot) * total, *self.bounds)
            points = jnp.where(expand(done, images), points, moved)
            logits = losses.decision(view(points, key=rng.stream(key, "view", 2 * count + 1)))
            return count + 1, points, total, done | self.succeeded(logits, labels)

        # An example that is fooled stays as it is, so stopping early changes no row.
        start = jnp.asarray(0), images, jnp.zeros_like(images), fooled
        _, points, _, done = jax.lax.while_loop(
            lambda carry: (carry[0] < self.num_steps) & ~jnp.all(carry[3]), step, start
        )
        return jnp.where(expand(done, images), points, images)


@dataclasses.dataclass(frozen=True)
class TrustRegion(BoundaryStepAttack):
    """Steps of a radius that grows where the linear model held and shrinks where it did not.

    A step goes along the steepest direction of the logit difference to the class whose boundary
    is nearest at the clean image. The ratio of the rise found to the rise foretold moves the
    radius, between `smallest_radius` and `largest_radius` times its start.

    Attributes:
        radius: first radius of a step, in the norm.
        grow_above: the radius grows where the ratio is above this (sigma_1).
        shrink_below: it shrinks where the ratio is below this (sigma_2).
        rate: factor of growing and shrinking (eta).
        largest_radius: largest radius, as a multiple of the first.
        smallest_radius: smallest radius, as a multiple of the first.

    References:
        Yao et al., "Trust region based adversarial attack on neural networks", 2019 (algorithm 1;
        the class is chosen as in its section 3.1, the bounds of the radius are ours).
    """

    num_steps: int = 100
    radius: float = 0.01
    grow_above: float = 0.9
    shrink_below: float = 0.5
    rate: float = 1.5
    largest_radius: float = 10.0
    smallest_radius: float = 0.1

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        if not 0 < self.radius < math.inf:
            raise ValueError(f"Expected radius={self.radius} > 0 and finite.")
        if not self.shrink_below <= self.grow_above:
            raise ValueError(
                f"Expected shrink_below={self.shrink_below} <= grow_above={self.grow_above}."
            )
        if not self.rate > 1:
            raise ValueError(f"Expected rate={self.rate} > 1.")
        if not 0 < self.smallest_radius <= 1 <= self.largest_radius:
            raise ValueError(
                f"Expected smallest_radius={self.smallest_radius} in (0, 1] and "
                f"largest_radius={self.largest_radius} >= 1."
            )

    def perturb(
        self,
        view: Any,
        images: Float[Array, "b *shape"],
        labels: Int[Array, " b"],
        *,
        key: Key[Array, ""],
        index: Int[Array, " b"],
    ) -> Float[Array, "b *shape"]:
        """Returns the adversarial images."""
        del index  # nothing is drawn but by the view
        candidates, fooled = self.candidates(view, images, labels, key)
        target = nearest_boundary(
            view, images, labels, candidates, norm=self.norm, key=rng.stream(key, "target")
        )[3]

        def difference(logits, labels):
            return losses.label_logits(logits, target) - losses.label_logits(logits, labels)

        def step(carry):
            count, points, slope, value, radius, done = carry
            if self.norm == "linf":
                direction = jnp.sign(slope)
            else:
                size = l2_norm(slope)
                direction = slope / expand(jnp.where(size > 0, size, 1), slope)
            moved = jnp.clip(points + expand(radius, images) * direction, *self.bounds)
            foretold = jnp.sum((slope * (moved - points)).reshape(len(labels), -1), axis=1)
            new_slope, new_value, logits = losses.gradient(
                difference, view, moved, labels, key=rng.stream(key, "view", count + 1)
            )
            ratio = (new_value - value) / jnp.where(foretold > 0, foretold, 1)
            scaled = jnp.where(ratio > self.grow_above, radius * self.rate, radius)
            scaled = jnp.where(ratio < self.shrink_below, radius / self.rate, scaled)
            radius = jnp.clip(
                scaled, self.radius * self.smallest_radius, self.radius * self.largest_radius
            )
            keep = expand(done, images)
            return (
                count + 1,
                jnp.where(keep, points, moved),
                jnp.where(keep, slope, new_slope),
                jnp.where(done, value, new_value),
                radius,
                done | self.succeeded(logits, labels),
            )

        slope, value, _ = losses.gradient(
            difference, view, images, labels, key=rng.stream(key, "view", 0)
        )
        radius = jnp.full(labels.shape, self.radius, images.dtype)
        start = jnp.asarray(0), images, slope, value, radius, fooled
        end = jax.lax.while_loop(
            lambda carry: (carry[0] < self.num_steps) & ~jnp.all(carry[5]), step, start
        )
        return jnp.where(expand(end[5], images), end[1], images)
