"""Attacks that see only decisions: what they share, and Boundary."""

import abc
import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.checks import check_counts, check_positive
from robust_jax.attacks.minimum_norm import MinimumNormAttack
from robust_jax.attacks.runs import Given
from robust_jax.attacks.threat import distance, expand, l2_norm, unit_l2
from robust_jax.checks import one_of
from robust_jax.types import Images, KeyArray, Labels, View


@dataclasses.dataclass(frozen=True)
class DecisionAttack(MinimumNormAttack):
    """What Boundary and HopSkipJump have in common: a start far away, then queries of decisions.

    The start is an adversarial image, blended with the clean image as far as it stays so: one of
    the images that are handed in as `starts`, which the view itself takes for another class
    (targeted: for the one to reach), chosen for each image by draws of its own; where there are
    none, random noise. Networks are known that call all noise one class, of which no image has a
    start then. Where nothing is found the attack has failed: the clean image is returned, and
    `started` says so.

    Attributes:
        start: "image" as above; "noise" for noise alone, as in Foolbox, even where images are
            handed in.
        num_start_draws: noise images tried per example, and images handed in of a random view,
            which may take one for another class once and not again.
        num_blends: blends tried, evenly spaced.
    """

    needs_logits: ClassVar[bool] = False
    takes_starts: ClassVar[bool] = True

    start: Literal["image", "noise"] = "image"
    num_start_draws: int = 100
    num_blends: int = 50

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        one_of(self, "start", ("image", "noise"))
        check_counts(self, "num_start_draws", "num_blends")

    def fooled(
        self, view: View, points: Array, labels: Labels, *, key: KeyArray
    ) -> Bool[Array, " b"]:
        """Returns where the decision is adversarial."""
        return self.succeeded(losses.decision(view(points, key=key)), labels)

    def first_points(self, given: Given) -> tuple[Images, Bool[Array, " b"]]:
        """Returns an adversarial image each, or the clean one, and where one was found.

        An image that is adversarial as it is has found itself.
        """
        view, images, labels, key, index, starts = given
        already = self.fooled(view, images, labels, key=rng.stream(key, "clean"))
        far, found = images, already
        if starts is not None and self.start == "image":
            far, found = self._images(view, far, found, labels, starts, key=key, index=index)
        far, found = self._noise(view, far, found, labels, key=key, index=index)

        def blend(number, carry):
            points, done = carry
            share = (number / self.num_blends).astype(images.dtype)
            mixed = (1 - share) * images + share * far
            hit = self.fooled(view, mixed, labels, key=rng.stream(key, "blend", number))
            points = jnp.where(expand(hit & ~done, points), mixed, points)
            return points, done | hit

        points, _ = jax.lax.fori_loop(1, self.num_blends, blend, (far, jnp.zeros_like(found)))
        return jnp.where(expand(found & ~already, images), points, images), found

    def _images(self, view, far, found, labels, starts, *, key, index):
        """Returns (far, found) after the images that the view takes for another class."""
        number, size = len(starts), len(labels)
        # In batches of the size that is attacked, which is known to fit the memory.
        rows = jnp.arange(-(-number // size) * size).reshape(-1, size) % number

        def classes_of(rows):
            logits = view(starts[rows], key=rng.stream(key, "classes"))
            return losses.decided(losses.decision(logits))

        classes = jax.lax.map(classes_of, rows).reshape(-1)[:number]
        other = (classes[None] == labels[:, None].astype(classes.dtype)) == self.targeted
        other &= classes[None] >= 0  # a score that is no number decides for nothing
        keys = rng.per_example(rng.stream(key, "order"), index)
        draws = jax.vmap(lambda key: jax.random.uniform(key, (number,)))(keys)
        order = jnp.argsort(jnp.where(other, draws, 1), axis=1)
        last = jnp.minimum(jnp.sum(other, axis=1), self.num_start_draws)

        def take(carry):
            count, far, found = carry
            chosen = starts[order[:, count]]
            far = jnp.where(expand(found, far), far, chosen)
            hit = self.fooled(view, chosen, labels, key=rng.stream(key, "image", count))
            return count + 1, far, found | (hit & (count < last))

        return jax.lax.while_loop(
            lambda carry: jnp.any(~carry[2] & (carry[0] < last)), take, (0, far, found)
        )[1:]

    def _noise(self, view, far, found, labels, *, key, index):
        """Returns (far, found) after draws of noise."""
        low, high = self.bounds
        shape, dtype = far.shape[1:], far.dtype
        keys = rng.per_example(rng.stream(key, "noise"), index)

        def draw(carry):
            count, far, found = carry
            noise = jax.vmap(
                lambda key: jax.random.uniform(
                    jax.random.fold_in(key, count), shape, dtype, low, high
                )
            )(keys)
            far = jnp.where(expand(found, far), far, noise)
            hit = self.fooled(view, far, labels, key=rng.stream(key, "start", count))
            return count + 1, far, found | hit

        return jax.lax.while_loop(
            lambda carry: (carry[0] < self.num_start_draws) & ~jnp.all(carry[2]),
            draw,
            (jnp.asarray(0), far, found),
        )[1:]

    def has_start(self, given: Given) -> Bool[Array, " b"]:
        """Returns which images `perturb` has a start for that stays adversarial when asked again.

        An image that is adversarial as it is needs none.
        """
        points, found = self.first_points(given)
        already = jnp.all((points == given.images).reshape(*found.shape, -1), axis=1)
        again = self.fooled(given.view, points, given.labels, key=rng.stream(given.key, "begin"))
        return found & (already | again)

    def perturb(self, given: Given) -> Images:
        """Returns the adversarial images."""
        points, _ = self.first_points(given)
        return self.approach(points, given)

    @abc.abstractmethod
    def approach(self, first: Images, given: Given) -> Images:
        """Returns the nearest adversarial images that are reached.

        Args:
            first: where to begin: adversarial images; one that is not gives the clean image back.
            given: what the attack is called with.
        """


@dataclasses.dataclass(frozen=True)
class Boundary(DecisionAttack):
    """Boundary attack: a random walk along the boundary, towards the clean image (L2).

    Each proposal is a step on the sphere around the clean image, then one towards it. The first
    step's length follows the share of sphere steps that stay adversarial (asked every tenth
    time), the second's the share of whole proposals that do.

    Attributes:
        bounds: smallest and largest pixel value.
        targeted: are the labels classes to reach, not to leave?
        start: begin at "image" (one of `starts`, else noise) or at "noise" alone.
        num_start_draws: noise images tried per example.
        num_blends: blends with the clean image tried, from the start on.
        num_steps: proposals per example.
        sphere_step: first length of the step on the sphere, as a share of the distance.
        source_step: first length of the step towards the image, likewise.
        adaptation: factor by which lengths change.

    Raises:
        ValueError: counts or step lengths are not positive, the factor is not above 1, or no such
            start.

    Example:
        >>> from robust_jax.attacks import Boundary, as_view
        >>> view = as_view(lambda images: jax.nn.one_hot(images.argmax(1), 2))  # decisions alone
        >>> images, labels = jnp.asarray([[0.6, 0.5]]), jnp.asarray([0])
        >>> others = jnp.asarray([[0.0, 1.0]])  # an image of another class to begin at
        >>> attack = Boundary(num_steps=200, num_start_draws=4)
        >>> found = attack(view, images, labels, key=jax.random.key(0), starts=others)
        >>> found.argmax(1).item(), bool(jnp.linalg.norm(found - images) < 0.2)
        (1, True)

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

    def reduced(self) -> "Boundary":
        """Returns the attack at the small budget of a trial."""
        return self.at_most(num_steps=500)

    def approach(self, first: Images, given: Given) -> Images:
        """Returns the nearest adversarial images that are reached."""
        view, images, labels, key, index, _ = given
        shape, dtype = images.shape[1:], images.dtype
        rows = labels.shape
        keys = rng.per_example(rng.stream(key, "walk"), index)
        alive = self.fooled(view, first, labels, key=rng.stream(key, "begin"))

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
            jnp.where(expand(alive, images), first, images),
            jnp.full(rows, self.sphere_step, dtype),
            jnp.full(rows, self.source_step, dtype),
            (none, none),
            (none, none),
        )
        return jax.lax.fori_loop(0, self.num_steps, step, start)[0]
