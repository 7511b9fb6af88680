"""Attacks that see only decisions: what they share, and Boundary."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.base import Images, Index, KeyArray, Labels
from robust_jax.attacks.checks import check_counts, check_positive
from robust_jax.attacks.minimum_norm import MinimumNormAttack
from robust_jax.attacks.threat import distance, expand, l2_norm, unit_l2


@dataclasses.dataclass(frozen=True)
class DecisionAttack(MinimumNormAttack):
    """What Boundary and HopSkipJump have in common: a start far away, then queries of decisions.

    The start is random noise that is adversarial, blended with the clean image as far as it stays
    so. Where no noise is found the attack has failed: the clean image is returned.

    Attributes:
        num_start_draws: noise images tried per example.
        num_blends: blends tried, evenly spaced.
    """

    needs_logits: ClassVar[bool] = False

    num_start_draws: int = 100
    num_blends: int = 50

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        check_counts(self, "num_start_draws", "num_blends")

    def fooled(
        self, view: Any, points: Array, labels: Labels, *, key: KeyArray
    ) -> Bool[Array, " b"]:
        """Returns where the decision is adversarial."""
        return self.succeeded(losses.decision(view(points, key=key)), labels)

    def starts(
        self, view: Any, images: Images, labels: Labels, *, key: KeyArray, index: Index
    ) -> Images:
        """Returns an adversarial image each, or the clean one where none was found."""
        low, high = self.bounds
        shape, dtype = images.shape[1:], images.dtype
        keys = rng.per_example(rng.stream(key, "noise"), index)

        def draw(carry):
            count, points, done = carry
            noise = jax.vmap(
                lambda key: jax.random.uniform(
                    jax.random.fold_in(key, count), shape, dtype, low, high
                )
            )(keys)
            points = jnp.where(expand(done, points), points, noise)
            found = self.fooled(view, points, labels, key=rng.stream(key, "start", count))
            return count + 1, points, done | found

        already = self.fooled(view, images, labels, key=rng.stream(key, "clean"))
        _, noise, found = jax.lax.while_loop(
            lambda carry: (carry[0] < self.num_start_draws) & ~jnp.all(carry[2]),
            draw,
            (jnp.asarray(0), images, already),
        )

        def blend(number, carry):
            points, done = carry
            share = (number / self.num_blends).astype(dtype)
            mixed = (1 - share) * images + share * noise
            hit = self.fooled(view, mixed, labels, key=rng.stream(key, "blend", number))
            points = jnp.where(expand(hit & ~done, points), mixed, points)
            return points, done | hit

        points, _ = jax.lax.fori_loop(1, self.num_blends, blend, (noise, jnp.zeros_like(found)))
        return jnp.where(expand(found & ~already, images), points, images)

    def perturb(
        self, view: Any, images: Images, labels: Labels, *, key: KeyArray, index: Index
    ) -> Images:
        """Returns the adversarial images."""
        starts = self.starts(view, images, labels, key=key, index=index)
        return self.approach(view, images, labels, starts, key=key, index=index)

    def approach(
        self,
        view: Any,
        images: Images,
        labels: Labels,
        starts: Images,
        *,
        key: KeyArray,
        index: Index,
    ) -> Images:
        """Returns the nearest adversarial images reached from given starts.

        Args:
            view: the model under attack.
            images: clean images.
            labels: class of each image.
            starts: adversarial images; one that is not gives the clean image back.
            key: root of the draws.
            index: dataset row of each image.
        """
        raise TypeError(f"Expected {type(self).__name__} to define approach(...).")


@dataclasses.dataclass(frozen=True)
class Boundary(DecisionAttack):
    """Boundary attack: a random walk along the boundary, towards the clean image (L2).

    Each proposal is a step on the sphere around the clean image, then one towards it. The first
    step's length follows the share of sphere steps that stay adversarial (asked every tenth
    time), the second's the share of whole proposals that do.

    Attributes:
        num_steps: proposals per example.
        sphere_step: first length of the step on the sphere, as a share of the distance.
        source_step: first length of the step towards the image, likewise.
        adaptation: factor by which lengths change.

    References:
        Brendel, Rauber, Bethge, "Decision-based adversarial attacks: reliable attacks against
        black-box machine learning models", 2018 (algorithm 1; thresholds as in Foolbox, means over
        30 questions).
    """

    num_steps: int = 25_000
    sphere_step: float = 0.01
    source_step: float = 0.01
    adaptation: float = 1.5

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        check_counts(self, "num_steps")
        check_positive(self, "sphere_step", "source_step")
        if not self.adaptation > 1:
            raise ValueError(f"Expected adaptation={self.adaptation} > 1.")

    def approach(
        self,
        view: Any,
        images: Images,
        labels: Labels,
        starts: Images,
        *,
        key: KeyArray,
        index: Index,
    ) -> Images:
        """Returns the nearest adversarial images reached from given starts."""
        shape, dtype = images.shape[1:], images.dtype
        rows = labels.shape
        keys = rng.per_example(rng.stream(key, "walk"), index)
        alive = self.fooled(view, starts, labels, key=rng.stream(key, "begin"))

        def propose(points, number, sphere_step, source_step):
            noise = jax.vmap(
                lambda key: jax.random.normal(jax.random.fold_in(key, number), shape, dtype)
            )(keys)
            away = images - points
            length = l2_norm(away)
            unit = unit_l2(away)
            inner = jnp.sum((noise * unit).reshape(*rows, -1), axis=1)
            tangent = unit_l2(noise - expand(inner, unit) * unit)
            tangent = expand(sphere_step * length, unit) * tangent
            # Back onto the sphere: the hypotenuse is longer by sqrt(1 + step^2).
            on_sphere = images + (tangent - away) / expand(jnp.sqrt(1 + sphere_step**2), unit)
            on_sphere = jnp.clip(on_sphere, *self.bounds)
            rest = images - on_sphere
            forward = jnp.maximum(source_step * length + l2_norm(rest) - length, 0)
            nearer = on_sphere + expand(forward, unit) * unit_l2(rest)
            return on_sphere, jnp.clip(nearer, *self.bounds)

        def adapted(steps, asked, won, window, low, high):
            full = asked >= window
            share = won / jnp.maximum(asked, 1)
            longer, shorter = full & (share > high), full & (share < low)
            steps = jnp.where(longer, steps * self.adaptation, steps)
            steps = jnp.where(shorter, steps / self.adaptation, steps)
            # A change starts a new count; without one the count is a sliding mean.
            asked = jnp.where(full, asked - 1, asked)
            won = jnp.where(full, won - share, won)
            changed = longer | shorter
            return steps, jnp.where(changed, 0, asked), jnp.where(changed, 0, won)

        def step(number, carry):
            points, sphere_step, source_step, sphere_stats, source_stats = carry
            on_sphere, nearer = propose(points, number, sphere_step, source_step)
            view_key = rng.stream(key, "query", number)
            hit = self.fooled(view, nearer, labels, key=rng.stream(view_key, "proposal"))

            def ask(stats):
                kept = self.fooled(view, on_sphere, labels, key=rng.stream(view_key, "sphere"))
                source = source_stats
                return (stats[0] + 1, stats[1] + kept.astype(dtype)), (
                    source[0] + 1,
                    source[1] + hit.astype(dtype),
                )

            sphere_stats, source_stats = jax.lax.cond(
                number % 10 == 0,
                ask,
                lambda stats: (stats, source_stats),
                sphere_stats,
            )
            closer = distance("l2", nearer, images) < distance("l2", points, images)
            points = jnp.where(expand(hit & closer & alive, points), nearer, points)
            before = sphere_step
            sphere_step, *sphere_stats = adapted(sphere_step, *sphere_stats, 30, 0.2, 0.5)
            # Both lengths follow the sphere's share; the source's also its own.
            source_step = source_step * sphere_step / before
            source_step, *source_stats = adapted(source_step, *source_stats, 30, 0.1, 0.25)
            return points, sphere_step, source_step, tuple(sphere_stats), tuple(source_stats)

        none = jnp.zeros(rows, dtype)
        start = (
            jnp.where(expand(alive, images), starts, images),
            jnp.full(rows, self.sphere_step, dtype),
            jnp.full(rows, self.source_step, dtype),
            (none, none),
            (none, none),
        )
        return jax.lax.fori_loop(0, self.num_steps, step, start)[0]
