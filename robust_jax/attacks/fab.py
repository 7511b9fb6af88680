"""FAB: steps onto the linearised decision boundary that stay close to the clean image."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.apgd import random_start
from robust_jax.attacks.base import start_keys
from robust_jax.attacks.runs import AttackInRuns
from robust_jax.attacks.threat import ThreatModel


def project_on_hyperplane(
    threat: ThreatModel,
    points: Float[Array, "b f"],
    normal: Float[Array, "b f"],
    offset: Float[Array, " b"],
) -> Float[Array, "b f"]:
    """Returns the shortest step, in the norm, from each point onto its hyperplane in the box.

    The hyperplane is normal . z = offset. Where the box does not reach it, the step goes to the
    nearest corner. The step is sign * min(t * speed, room) with speed 1 (Linf) or |normal| (L2),
    and the progress towards the plane is concave, piecewise linear in t, so that Newton's
    iteration from t = 0 never overshoots and ends exactly after finitely many steps: no sorting.

    References:
        Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary
        attack", 2020 (section 2.2).
    """
    low, high = threat.bounds
    size = jnp.abs(normal)
    speed = jnp.ones_like(size) if threat.norm == "linf" else size
    gap = offset - jnp.sum(normal * points, axis=1)
    ahead = jnp.sign(normal) * jnp.sign(gap)[:, None]
    room = jnp.where(ahead > 0, high - points, points - low) * jnp.abs(jnp.sign(normal))
    needed = jnp.abs(gap)

    def newton(carry):
        length, _, count = carry
        step = jnp.minimum(length[:, None] * speed, room)
        rate = jnp.sum(jnp.where(length[:, None] * speed < room, size * speed, 0), axis=1)
        missing = needed - jnp.sum(size * step, axis=1)
        growth = jnp.where((missing > 0) & (rate > 0), missing / jnp.where(rate > 0, rate, 1), 0)
        return length + growth, jnp.any(growth > 1e-6 * length), count + 1

    # Each round but the last carries a coordinate to the box; a few rounds are usual.
    start = jnp.zeros_like(needed), jnp.asarray(True), jnp.asarray(0)
    length = jax.lax.while_loop(lambda carry: carry[1] & (carry[2] < 50), newton, start)[0]
    return ahead * jnp.minimum(length[:, None] * speed, room)


def _size(threat: ThreatModel, delta: Float[Array, "b f"]) -> Float[Array, " b"]:
    return threat.distance(delta, jnp.zeros_like(delta))


@dataclasses.dataclass(frozen=True)
class FAB(AttackInRuns):
    """Fast adaptive boundary attack: seeks the nearest misclassified point, keeps it inside eps.

    Untargeted, each step needs the gradient of every logit: `num_classes` backward passes.

    Attributes:
        num_steps: steps of one run.
        num_restarts: runs: the first from the clean image, the others from a random point at
            half of eps.
        max_bias: largest weight of the projection from the clean image (alpha_max).
        overshoot: by how much each step passes the linearised boundary (eta).
        shrink: an adversarial point is pulled towards the clean image by this factor (beta).
        parallel: all runs at once, at so many times the memory; in turn (the default) the memory
            is that of one batch.

    References:
        Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary
        attack", 2020 (algorithm 1).
    """

    num_steps: int = 100
    num_restarts: int = 1
    max_bias: float = 0.1
    overshoot: float = 1.05
    shrink: float = 0.9
    parallel: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        for name in ("num_steps", "num_restarts"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected {name}={getattr(self, name)} >= 1.")
        if not 0 <= self.max_bias <= 1:
            raise ValueError(f"Expected max_bias={self.max_bias} in [0, 1].")
        if not self.overshoot >= 1:
            raise ValueError(f"Expected overshoot={self.overshoot} >= 1.")
        if not 0 < self.shrink < 1:
            raise ValueError(f"Expected shrink={self.shrink} in (0, 1).")

    @property
    def num_runs(self) -> int:
        """Returns the number of restarts."""
        return self.num_restarts

    @property
    def runs_in_parallel(self) -> bool:
        """Returns whether a call makes all runs at once."""
        return self.parallel

    def run(
        self,
        number: Any,
        view: Any,
        images: Float[Array, "b *shape"],
        labels: Int[Array, " b"],
        *,
        key: Key[Array, ""],
        index: Int[Array, " b"],
    ) -> tuple[Float[Array, "b *shape"], Bool[Array, " b"], Float[Array, " b"]]:
        """Returns the end of one restart; the loss is minus the distance."""
        key = rng.stream(key, "restart", number)
        start = self.start(images, at_random=number > 0, key=key, index=index)
        return self.approach(view, images, labels, None, start, key=key)

    def start(
        self,
        images: Float[Array, "b *shape"],
        *,
        at_random: Any,
        key: Key[Array, ""],
        index: Int[Array, " b"],
    ) -> Float[Array, "b *shape"]:
        """Returns the clean images, or points at random at half of eps."""
        far = random_start(self.threat, images, start_keys(key, index))
        return jnp.where(at_random, (far + images) / 2, images)

    def approach(
        self,
        view: Any,
        images: Float[Array, "b *shape"],
        labels: Int[Array, " b"],
        targets: Int[Array, " b"] | None,
        start: Float[Array, "b *shape"],
        *,
        key: Key[Array, ""],
    ) -> tuple[Float[Array, "b *shape"], Bool[Array, " b"], Float[Array, " b"]]:
        """Returns the nearest misclassified point of one run, whether it is in the ball, -distance.

        Args:
            view: the model under attack.
            images: clean images.
            labels: class of each image.
            targets: class whose boundary is sought; None is the nearest of all.
            start: where to begin.
            key: root of the view's draws.
        """
        threat = self.threat
        flat = images.reshape(images.shape[0], -1)

        def logits_at(points, number):
            shaped = points.reshape(images.shape)
            return losses.decision(view(shaped, key=rng.stream(key, "view", number)))

        def step(number, carry):
            points, best, best_distance = carry
            gap, normal = self.boundary(
                lambda points: logits_at(points, 2 * number), points, labels, targets
            )
            # One call for both projections: from the point and from the clean image.
            offset = jnp.sum(normal * points, axis=1) - gap
            steps = project_on_hyperplane(
                threat,
                jnp.concatenate([points, flat]),
                jnp.concatenate([normal, normal]),
                jnp.concatenate([offset, offset]),
            )
            here, clean = jnp.split(steps, 2)
            size_here = jnp.maximum(_size(threat, here), 1e-8)
            size_clean = jnp.maximum(_size(threat, clean), 1e-8)
            bias = jnp.minimum(size_here / (size_here + size_clean), self.max_bias)[:, None]
            points = threat.clip(
                (points + self.overshoot * here) * (1 - bias)
                + (flat + self.overshoot * clean) * bias
            )
            fooled = losses.misclassified(logits_at(points, 2 * number + 1), labels)
            distance = _size(threat, points - flat)
            nearer = fooled & (distance < best_distance)
            best = jnp.where(nearer[:, None], points, best)
            best_distance = jnp.where(nearer, distance, best_distance)
            pulled = flat + (points - flat) * self.shrink
            return jnp.where(fooled[:, None], pulled, points), best, best_distance

        far = jnp.full(images.shape[0], jnp.inf, images.dtype)
        _, best, best_distance = jax.lax.fori_loop(
            0, self.num_steps, step, (start.reshape(flat.shape), flat, far)
        )
        inside = best_distance <= threat.eps
        best = jnp.where(inside[:, None], best, flat)
        return best.reshape(images.shape), inside, -best_distance

    def boundary(
        self,
        logits_fn: Any,
        points: Float[Array, "b f"],
        labels: Int[Array, " b"],
        targets: Int[Array, " b"] | None,
    ) -> tuple[Float[Array, " b"], Float[Array, "b f"]]:
        """Returns the logit difference to the class of the nearest boundary, and its gradient."""
        if targets is not None:

            def difference(points):
                logits = logits_fn(points)
                gap = losses.label_logits(logits, targets) - losses.label_logits(logits, labels)
                return jnp.sum(gap), gap

            slope, gap = jax.grad(difference, has_aux=True)(points)
            return gap, slope
        logits, pullback = jax.vjp(logits_fn, points)
        num_classes = logits.shape[1]

        own = jax.nn.one_hot(labels, num_classes, dtype=logits.dtype)
        gaps = logits - losses.label_logits(logits, labels)[:, None]

        def dual_norm(slope):
            linf = self.threat.norm == "linf"
            return jnp.sum(jnp.abs(slope), axis=1) if linf else _size(self.threat, slope)

        def nearest(number, carry):
            best, gap, normal = carry
            other = jax.nn.one_hot(number, num_classes, dtype=logits.dtype)[None]
            slope = pullback(other - own)[0]
            ratio = jnp.abs(gaps[:, number]) / (dual_norm(slope) + 1e-12)
            ratio = jnp.where(number == labels, jnp.inf, ratio)
            nearer = ratio < best
            return (
                jnp.where(nearer, ratio, best),
                jnp.where(nearer, gaps[:, number], gap),
                jnp.where(nearer[:, None], slope, normal),
            )

        far = jnp.full(gaps.shape[:1], jnp.inf, gaps.dtype)
        nothing = far, jnp.zeros_like(far), jnp.zeros_like(points)
        _, gap, normal = jax.lax.fori_loop(0, num_classes, nearest, nothing)
        return gap, normal


@dataclasses.dataclass(frozen=True)
class FABT(FAB):
    """FAB towards the boundary with each of the likeliest other classes in turn.

    Attributes:
        num_targets: how many classes are tried.

    References:
        Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
        parameter-free attacks", 2020 (section 4.2).
    """

    num_targets: int = 9

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        if self.num_targets < 1:
            raise ValueError(f"Expected num_targets={self.num_targets} >= 1.")

    @property
    def num_runs(self) -> int:
        """Returns the number of targets times that of restarts."""
        return self.num_targets * self.num_restarts

    def run(
        self,
        number: Any,
        view: Any,
        images: Float[Array, "b *shape"],
        labels: Int[Array, " b"],
        *,
        key: Key[Array, ""],
        index: Int[Array, " b"],
    ) -> tuple[Float[Array, "b *shape"], Bool[Array, " b"], Float[Array, " b"]]:
        """Returns the end of one restart towards one target."""
        logits = losses.decision(view(images, key=rng.stream(key, "targets")))
        targets = losses.ranked_targets(logits, labels, self.num_targets)
        target = targets[:, number // self.num_restarts]
        at_random = number % self.num_restarts > 0
        key = rng.stream(key, "restart", number)
        start = self.start(images, at_random=at_random, key=key, index=index)
        return self.approach(view, images, labels, target, start, key=key)
