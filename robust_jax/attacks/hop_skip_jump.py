"""HopSkipJump: jumps along the boundary's normal, estimated from decisions."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from robust_jax import rng
from robust_jax.attacks.checks import check_counts, check_positive
from robust_jax.attacks.decision import DecisionAttack
from robust_jax.attacks.runs import Given
from robust_jax.attacks.threat import distance, expand, l2_norm
from robust_jax.checks import one_of
from robust_jax.types import Images


def _unit(delta: Images) -> Images:
    """Returns each example times the reciprocal of its Euclidean norm; zeros stay.

    XLA rounds a division by a broadcast norm by the shapes that it compiles for, a product never.
    """
    norm = l2_norm(delta)
    return delta * expand(1 / jnp.where(norm > 0, norm, 1), delta)


@dataclasses.dataclass(frozen=True)
class HopSkipJump(DecisionAttack):
    """HopSkipJump: the boundary's normal from decisions around a point, then a jump and a search.

    Attributes:
        bounds: smallest and largest pixel value.
        targeted: are the labels classes to reach, not to leave?
        start: begin at "image" (one of `starts`, else noise) or at "noise" alone.
        num_start_draws: noise images tried per example.
        num_blends: blends with the clean image tried, from the start on.
        distance_norm: the norm that is made small.
        num_steps: jumps.
        num_first_queries: decisions for the normal at the first jump; at jump t times sqrt(t).
        num_most_queries: at most so many.
        threshold: width of the binary search, over the number of pixels (gamma).

    One decision more or less on the boundary leads elsewhere: the same view gives the same images
    in any batch as far as its decisions there do not follow the rounding of its own sums.

    Raises:
        ValueError: counts or the threshold are not positive, or no such norm or start.

    Example:
        >>> from robust_jax.attacks import HopSkipJump
        >>> attack = HopSkipJump(distance_norm="linf")  # called as `Boundary`, with `starts`
        >>> bounded = attack.within(8 / 255)  # in a ball, as other attacks of an evaluation
        >>> bounded.threat.norm, bounded.needs_logits
        ('linf', False)

    References:
        Chen, Jordan, Wainwright, "HopSkipJumpAttack: a query-efficient decision-based attack",
        2020 (algorithm 2, geometric step sizes).
    """

    distance_norm: Literal["linf", "l2"] = "l2"
    num_steps: int = 64
    num_first_queries: int = 100
    num_most_queries: int = 10_000
    threshold: float = 1.0

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        one_of(self, "distance_norm", ("linf", "l2"))
        check_counts(self, "num_steps", "num_first_queries", "num_most_queries")
        check_positive(self, "threshold")

    @property
    def norm(self) -> Literal["linf", "l2"]:
        """Returns the norm that is made small."""
        return self.distance_norm

    def reduced(self) -> "HopSkipJump":
        """Returns the attack at the small budget of a trial."""
        return self.at_most(num_steps=8, num_first_queries=50, num_most_queries=50)

    def approach(self, first: Images, given: Given) -> Images:
        """Returns the nearest adversarial images that are reached."""
        view, images, labels, key, index, _ = given
        shape, dtype = images.shape[1:], images.dtype
        size = math.prod(shape)
        linf = self.norm == "linf"
        # theta, and the ratio of probe radius to distance, in the paper's scaling.
        theta = self.threshold / (size * size if linf else size * math.sqrt(size))
        probe_ratio = (size if linf else math.sqrt(size)) * theta
        # By jump, worked out here: a search follows the last bit, and a compiled division's depends
        # on the shapes and devices that it is compiled for.
        roots = np.sqrt(1 + np.arange(self.num_steps))
        counts = np.minimum(np.floor(self.num_first_queries * roots), self.num_most_queries)
        queries, per_query = jnp.asarray(counts, dtype), jnp.asarray(1 / counts, dtype)
        shrinkage = jnp.asarray(1 / roots, dtype)
        keys = rng.per_example(rng.stream(key, "probes"), index)
        alive = self.fooled(view, first, labels, key=rng.stream(key, "begin"))
        first = jnp.where(expand(alive, images), first, images)

        def reach(points, share):
            """Points at a share of the way (L2), or of the radius (Linf), from the clean image."""
            if not linf:
                return images + expand(share, images) * (points - images)
            return images + jnp.clip(points - images, -expand(share, images), expand(share, images))

        def to_boundary(points, view_key):
            """Binary search between the clean image and an adversarial one."""
            far = distance("linf", points, images) if linf else jnp.ones(labels.shape, dtype)
            width = jnp.minimum(far * theta, theta) if linf else jnp.full(labels.shape, theta)

            def halve(carry):
                count, low, high = carry
                middle = (low + high) / 2
                hit = self.fooled(
                    view, reach(points, middle), labels, key=rng.stream(view_key, "search", count)
                )
                more = high - low > width  # rows that are done wait for the others unchanged
                low = jnp.where(more & ~hit, middle, low)
                return count + 1, low, jnp.where(more & hit, middle, high)

            # Beyond 30 halvings float32 has nothing left to halve.
            _, _, high = jax.lax.while_loop(
                lambda carry: (carry[0] < 30) & jnp.any(carry[2] - carry[1] > width),
                halve,
                (jnp.asarray(0), jnp.zeros_like(far), far),
            )
            # The whole way changes nothing, so that a start on the boundary stays.
            return jnp.where(expand(high < far, images), reach(points, high), points)

        def normal(points, radius, number, view_key):
            """Direction in which decisions become adversarial, estimated from probes."""

            def one(key):
                if linf:
                    return jax.random.uniform(key, shape, dtype, -1, 1)
                return jax.random.normal(key, shape, dtype)

            def probe(count, carry):
                signed, plain, votes = carry
                fold = jax.vmap(lambda key: one(rng.stream(key, "probe", number, count)))
                nearby = jnp.clip(points + expand(radius, points) * _unit(fold(keys)), *self.bounds)
                taken = (nearby - points) * expand(1 / radius, points)
                hit = self.fooled(view, nearby, labels, key=rng.stream(view_key, "probe", count))
                vote = jnp.where(hit, 1, -1).astype(dtype)
                return signed + expand(vote, taken) * taken, plain + taken, votes + vote

            signed, plain, votes = jax.lax.fori_loop(
                0,
                queries[number].astype(jnp.int32),
                probe,
                (jnp.zeros_like(points), jnp.zeros_like(points), jnp.zeros(labels.shape, dtype)),
            )
            # Of equal votes nothing is learnt but the side: the mean is not taken off then.
            mean = jnp.where(jnp.abs(votes) < queries[number], votes * per_query[number], 0)
            centred = signed - expand(mean, plain) * plain
            return jnp.sign(centred) if linf else _unit(centred)

        def jump(number, carry):
            points, best = carry
            view_key = rng.stream(key, "jump", number)
            away = distance(self.norm, points, images)
            width = self.bounds[1] - self.bounds[0]
            radius = jnp.where(number == 0, 0.1 * width, probe_ratio * away).astype(dtype)
            radius = jnp.where(radius > 0, radius, 1)
            ahead = normal(points, radius, number, view_key)

            def shrink(carry):
                count, length, _ = carry
                length = length / 2
                moved = jnp.clip(points + expand(length, points) * ahead, *self.bounds)
                hit = self.fooled(view, moved, labels, key=rng.stream(view_key, "length", count))
                return count + 1, jnp.where(carry[2], carry[1], length), carry[2] | hit

            first = away * shrinkage[number]
            hit = self.fooled(
                view,
                jnp.clip(points + expand(first, points) * ahead, *self.bounds),
                labels,
                key=rng.stream(view_key, "first"),
            )
            _, length, hit = jax.lax.while_loop(
                lambda carry: (carry[0] < 30) & ~jnp.all(carry[2]),
                shrink,
                (jnp.asarray(0), first, hit | ~alive),
            )
            moved = jnp.clip(points + expand(length, points) * ahead, *self.bounds)
            moved = to_boundary(
                jnp.where(expand(hit, points), moved, points), rng.stream(view_key, "boundary")
            )
            nearer = distance(self.norm, moved, images) < distance(self.norm, best, images)
            return moved, jnp.where(expand(nearer, best), moved, best)

        points = to_boundary(first, rng.stream(key, "first boundary"))
        _, best = jax.lax.fori_loop(0, self.num_steps, jump, (points, points))
        return jnp.where(expand(alive, images), best, images)
