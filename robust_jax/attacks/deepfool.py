"""DeepFool and the trust-region attack: steps onto the nearest linearised boundary."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.checks import check_counts, check_nonnegative, check_positive
from robust_jax.attacks.linearised import LinearBoundary, nearest_boundary
from robust_jax.attacks.minimum_norm import EitherNormAttack
from robust_jax.attacks.runs import Given
from robust_jax.attacks.threat import expand, steepest
from robust_jax.types import Images, KeyArray, Labels, View


@dataclasses.dataclass(frozen=True)
class BoundaryStepAttack(EitherNormAttack):
    """What DeepFool and the trust-region attack have in common.

    Attributes:
        num_steps: largest number of steps; an example stops where it is fooled.
        num_candidates: classes considered, the likeliest first, the label's not counted; at most
            all others.
    """

    num_steps: int = 50
    num_candidates: int = 9

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        check_counts(self, "num_steps", "num_candidates")
        if self.targeted:
            raise ValueError("Expected targeted=True to be False: the nearest class is sought.")

    def reduced(self) -> "BoundaryStepAttack":
        """Returns the attack at the small budget of a trial."""
        return self

    def candidates(
        self, view: View, images: Array, labels: Labels, key: KeyArray
    ) -> tuple[Int[Array, "b t"], Bool[Array, " b"]]:
        """Returns the classes considered, and which clean images are misclassified already."""
        logits = losses.decision(view(images, key=rng.stream(key, "candidates")))
        num_targets = min(self.num_candidates, logits.shape[1] - 1)
        ranked = losses.ranked_targets(logits, labels, num_targets)
        return ranked, losses.misclassified(logits, labels)

    def nearest(
        self, view: View, points: Images, labels: Labels, among: Int[Array, "b t"], key: KeyArray
    ) -> LinearBoundary:
        """Returns the nearest linearised boundary with these classes."""

        def logits_at(points):
            return losses.decision(view(points, key=key))

        return nearest_boundary(logits_at, points, labels, among, norm=self.norm)


@dataclasses.dataclass(frozen=True)
class DeepFool(BoundaryStepAttack):
    """DeepFool: the sum of steps onto the nearest linearised boundary, a little overshot.

    Attributes:
        bounds: smallest and largest pixel value.
        targeted: the nearest class is sought: False.
        distance_norm: the norm that is made small.
        num_steps: largest number of steps; an example stops where it is fooled.
        num_candidates: classes considered, the likeliest first, the label's not counted.
        overshoot: share by which the sum of steps is lengthened.
        nudge: added to the length of every step, as in the authors' code: without it steps can
            shrink below the rounding of the pixels before the boundary is crossed.

    Raises:
        ValueError: it is targeted, there is no step or no class, or the overshoot is negative.

    Example:
        >>> from robust_jax.attacks import DeepFool, as_view
        >>> view = as_view(lambda images: images)  # two pixels, two classes
        >>> images, labels = jnp.asarray([[0.6, 0.5]]), jnp.asarray([0])
        >>> found = DeepFool()(view, images, labels, key=jax.random.key(0))
        >>> round(jnp.linalg.norm(found - images).item(), 2), found.argmax(1).item()
        (0.07, 1)

    References:
        Moosavi-Dezfooli, Fawzi, Frossard, "DeepFool: a simple and accurate method to fool deep
        neural networks", 2016 (algorithm 2).
    """

    overshoot: float = 0.02
    nudge: float = 1e-4

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        check_nonnegative(self, "overshoot", "nudge")

    def perturb(self, given: Given) -> Images:
        """Returns the adversarial images."""
        view, images, labels, key, *_ = given
        candidates, fooled = self.candidates(view, images, labels, key)

        def step(carry):
            count, points, total, done = carry
            view_key = rng.stream(key, "view", 2 * count)
            nearest = self.nearest(view, points, labels, candidates, view_key)
            direction = steepest(self.norm, nearest.gradient)
            total = total + expand(nearest.distance + self.nudge, images) * direction
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
        bounds: smallest and largest pixel value.
        targeted: the nearest class is sought: False.
        distance_norm: the norm that is made small.
        num_steps: largest number of steps; an example stops where it is fooled.
        num_candidates: classes considered, the likeliest first, the label's not counted.
        radius: first radius of a step, in the norm.
        grow_above: the radius grows where the ratio is above this (sigma_1).
        shrink_below: it shrinks where the ratio is below this (sigma_2).
        rate: factor of growing and shrinking (eta).
        largest_radius: largest radius, as a multiple of the first.
        smallest_radius: smallest radius, as a multiple of the first.

    Raises:
        ValueError: it is targeted, there is no step or no class, or radii, ratios or the rate do
            not fit together.

    Example:
        >>> from robust_jax.attacks import TrustRegion, as_view
        >>> view = as_view(lambda images: images)  # two pixels, two classes
        >>> images, labels = jnp.asarray([[0.6, 0.5]]), jnp.asarray([0])
        >>> attack = TrustRegion(distance_norm="linf", radius=0.015625)
        >>> found = attack(view, images, labels, key=jax.random.key(0))
        >>> found.argmax(1).item(), bool(jnp.abs(found - images).max() < 0.1)
        (1, True)

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
        check_positive(self, "radius")
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

    def perturb(self, given: Given) -> Images:
        """Returns the adversarial images."""
        view, images, labels, key, *_ = given
        candidates, fooled = self.candidates(view, images, labels, key)
        target = self.nearest(view, images, labels, candidates, rng.stream(key, "target")).target

        def difference(logits, labels):
            return losses.gap(logits, labels, target)

        def step(carry):
            count, points, gradient, value, radius, done = carry
            direction = steepest(self.norm, gradient)
            moved = jnp.clip(points + expand(radius, images) * direction, *self.bounds)
            foretold = jnp.sum((gradient * (moved - points)).reshape(len(labels), -1), axis=1)
            new_gradient, new_value, logits = losses.gradient(
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
                jnp.where(keep, gradient, new_gradient),
                jnp.where(done, value, new_value),
                radius,
                done | self.succeeded(logits, labels),
            )

        gradient, value, _ = losses.gradient(
            difference, view, images, labels, key=rng.stream(key, "view", 0)
        )
        radius = jnp.full(labels.shape, self.radius, images.dtype)
        start = jnp.asarray(0), images, gradient, value, radius, fooled
        end = jax.lax.while_loop(
            lambda carry: (carry[0] < self.num_steps) & ~jnp.all(carry[5]), step, start
        )
        return jnp.where(expand(end[5], images), end[1], images)
