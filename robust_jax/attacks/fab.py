"""FAB: steps onto the linearised decision boundary that stay close to the clean image."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.apgd import random_start
from robust_jax.attacks.bounded import BoundedAttack, start_keys
from robust_jax.attacks.checks import check_counts
from robust_jax.attacks.linearised import nearest_boundary, project_on_hyperplane
from robust_jax.attacks.runs import Found, Given, Run
from robust_jax.attacks.threat import Norm, size
from robust_jax.types import Labels


@dataclasses.dataclass(frozen=True)
class FAB(BoundedAttack):
    """Fast adaptive boundary attack: seeks the nearest misclassified point, keeps it inside eps.

    The first restart is from the clean image, the others from a random point at half of eps; of
    the ends the nearest is kept. Untargeted, each step needs the gradient of every logit:
    `num_classes - 1` backward passes.

    Attributes:
        threat: the ball.
        num_restarts: runs, of which the nearest end is kept; of so many towards each target.
        parallel: all runs at once, at so many times the memory.
        num_steps: steps of one run.
        max_bias: largest weight of the projection from the clean image (alpha_max).
        overshoot: by how much each step passes the linearised boundary (eta).
        shrink: an adversarial point is pulled towards the clean image by this factor (beta).
        num_targets: how many of the likeliest other classes are tried in turn; 0 for the nearest
            boundary of all.
        target_order: which of them come first, see `BoundedAttack`.

    Raises:
        ValueError: there is no step, or alpha_max, eta or beta is not in [0, 1], >= 1 or in (0, 1).

    Example:
        >>> from robust_jax.attacks import FAB, ThreatModel, as_view
        >>> view = as_view(lambda images: images)  # two pixels, two classes
        >>> images, labels = jnp.asarray([[0.6, 0.5]]), jnp.asarray([0])
        >>> threat = ThreatModel("linf", eps=0.1)
        >>> adversarial = FAB(threat, num_steps=20)(view, images, labels, key=jax.random.key(0))
        >>> round(threat.distance(adversarial, images).item(), 2)  # to the boundary, not to eps
        0.05

    References:
        Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary
        attack", 2020 (algorithm 1).
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    num_restarts: int = 1
    parallel: bool = False
    num_steps: int = 100
    max_bias: float = 0.1
    overshoot: float = 1.05
    shrink: float = 0.9
    num_targets: int = 0
    target_order: Literal["logits", "malt"] = "logits"

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        check_counts(self, "num_steps")
        if not 0 <= self.max_bias <= 1:
            raise ValueError(f"Expected max_bias={self.max_bias} in [0, 1].")
        if not self.overshoot >= 1:
            raise ValueError(f"Expected overshoot={self.overshoot} >= 1.")
        if not 0 < self.shrink < 1:
            raise ValueError(f"Expected shrink={self.shrink} in (0, 1).")

    def reduced(self) -> "FAB":
        """Returns the attack with one restart."""
        return self.at_most(num_restarts=1)

    def run(self, run: Run, given: Given) -> Found:
        """Returns the nearest misclassified point of one run.

        It is a success inside the ball, elsewhere the clean image; the loss is minus its distance.
        """
        view, images, labels, key, index, _ = given
        key = rng.stream(key, "restart", run.number)
        far = random_start(self.threat, images, start_keys(key, index))
        start = jnp.where(run.restart > 0, (far + images) / 2, images)
        threat = self.threat
        flat = images.reshape(images.shape[0], -1)

        def logits_at(points, number):
            shaped = points.reshape(images.shape)
            return losses.decision(view(shaped, key=rng.stream(key, "view", number)))

        def step(number, carry):
            points, best, best_distance = carry
            gap, normal = self.boundary(
                lambda points: logits_at(points, 2 * number), points, labels, run.target
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
            size_here = jnp.maximum(size(threat.norm, here), 1e-8)
            size_clean = jnp.maximum(size(threat.norm, clean), 1e-8)
            bias = jnp.minimum(size_here / (size_here + size_clean), self.max_bias)[:, None]
            points = threat.clip(
                (points + self.overshoot * here) * (1 - bias)
                + (flat + self.overshoot * clean) * bias
            )
            fooled = losses.misclassified(logits_at(points, 2 * number + 1), labels)
            distance = size(threat.norm, points - flat)
            nearer = fooled & (distance < best_distance)
            best = jnp.where(nearer[:, None], points, best)
            best_distance = jnp.where(nearer, distance, best_distance)
            pulled = flat + (points - flat) * self.shrink
            return jnp.where(fooled[:, None], pulled, points), best, best_distance

        nowhere = jnp.full(images.shape[0], jnp.inf, images.dtype)
        _, best, best_distance = jax.lax.fori_loop(
            0, self.num_steps, step, (start.reshape(flat.shape), flat, nowhere)
        )
        inside = best_distance <= threat.eps
        best = jnp.where(inside[:, None], best, flat)
        return Found(best.reshape(images.shape), inside, -best_distance)

    def boundary(
        self,
        logits_fn: Callable[[Array], Array],
        points: Float[Array, "b f"],
        labels: Labels,
        target: Labels | None,
    ) -> tuple[Float[Array, " b"], Float[Array, "b f"]]:
        """Returns the logit difference to the class of the nearest boundary, and its gradient."""
        if target is None:
            num_classes = jax.eval_shape(logits_fn, points).shape[1]
            # Every class but the label, each once.
            others = (labels[:, None] + jnp.arange(1, num_classes)[None]) % num_classes
            nearest = nearest_boundary(logits_fn, points, labels, others, norm=self.threat.norm)
            return nearest.gap, nearest.gradient

        def difference(points):
            gap = losses.gap(logits_fn(points), labels, target)
            return jnp.sum(gap), gap

        gradient, gap = jax.grad(difference, has_aux=True)(points)
        return gap.astype(points.dtype), gradient


@dataclasses.dataclass(frozen=True)
class FABT(FAB):
    """FAB towards the boundary with each of the likeliest other classes in turn.

    Attributes:
        num_targets: likeliest other classes tried in turn; the other fields are those of `FAB`.

    Example:
        >>> from robust_jax.attacks import FABT, ThreatModel
        >>> attack = FABT(ThreatModel("linf", 8 / 255), num_restarts=2)  # called as `FAB`
        >>> attack.num_targets, attack.num_runs  # a run each restart and target
        (9, 18)

    References:
        Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
        parameter-free attacks", 2020 (section 4.2).
    """

    num_targets: int = 9

    def __post_init__(self) -> None:
        """Raises ValueError where there are no targets, too."""
        super().__post_init__()
        check_counts(self, "num_targets")
