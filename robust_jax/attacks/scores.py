"""SPSA and NES: gradient attacks that estimate the gradient from scores."""

import abc
import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.bounded import FixedSteps, LossAttack
from robust_jax.attacks.carlini_wagner import adam_step
from robust_jax.attacks.checks import check_counts, check_positive
from robust_jax.attacks.runs import Found, Given, Run
from robust_jax.attacks.threat import expand
from robust_jax.types import Images, KeyArray, Labels, View


def gradient_from_scores(
    loss_fn: losses.Loss,
    view: View,
    points: Images,
    labels: Labels,
    *,
    num_samples: int,
    sigma: float,
    noise: str,
    key: KeyArray,
    keys: Key[Array, " b"],
) -> Images:
    """Returns each example's loss gradient, estimated from pairs of opposite points.

    Args:
        loss_fn: the loss.
        view: a view that need not be differentiable.
        points: where the gradient is estimated.
        labels: class of each image.
        num_samples: pairs, one after the other: memory is that of twice the batch.
        sigma: length of the differences.
        noise: "gaussian" or "rademacher" directions.
        key: key of the view.
        keys: key of each example's directions.
    """
    shape, dtype = points.shape[1:], points.dtype
    draw = jax.random.normal if noise == "gaussian" else jax.random.rademacher
    twice = jnp.concatenate([labels, labels])

    def pair(sample, total):
        directions = jax.vmap(lambda key: draw(jax.random.fold_in(key, sample), shape, dtype))(keys)
        both = jnp.concatenate([points + sigma * directions, points - sigma * directions])
        values, _ = losses.evaluate(loss_fn, view, both, twice, key=rng.stream(key, "pair", sample))
        ahead, behind = jnp.split(values, 2)
        return total + expand((ahead - behind).astype(dtype), points) * directions

    total = jax.lax.fori_loop(0, num_samples, pair, jnp.zeros_like(points))
    return total / (2 * sigma * num_samples)


@dataclasses.dataclass(frozen=True)
class ScoreAttack(LossAttack):
    """What SPSA and NES have in common.

    The search of an example ends where it is fooled, so its probes may leave the box but its
    points do not. Of a random view that would be a lucky draw: there it goes on to the last step.

    Attributes:
        num_steps: steps.
        num_samples: pairs of queries per step.
        sigma: length of the differences.
    """

    needs_logits: ClassVar[bool] = False
    noise: ClassVar[Literal["gaussian", "rademacher"]]

    loss: Literal["cross_entropy", "dlr", "margin"] = "margin"
    num_steps: int = 100
    num_samples: int = 128
    sigma: float = 0.01

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        check_counts(self, "num_steps", "num_samples")
        check_positive(self, "sigma")

    def reduced(self) -> "ScoreAttack":
        """Returns the attack at the small budget of a trial."""
        return self.at_most(num_steps=20, num_samples=16)

    @abc.abstractmethod
    def move(
        self, points: Array, gradient: Array, moments: tuple[Array, Array], count: Array
    ) -> tuple[Array, tuple[Array, Array]]:
        """Returns the points after a step up the gradient, and the moments."""

    def run(self, run: Run, given: Given) -> Found:
        """Returns the end of the one run."""
        del run  # it is the only one
        view, images, labels, key, index, _ = given
        loss_fn = self.loss_fn(view, images, key=key)
        keys = rng.per_example(rng.stream(key, "directions"), index)

        def judge(points, view_key):
            loss, logits = losses.evaluate(loss_fn, view, points, labels, key=view_key)
            return Found(points, self.succeeded(logits, labels), loss), logits

        first, logits = judge(images, rng.stream(key, "clean"))
        _, again = judge(images, rng.stream(key, "again"))
        is_random = jnp.any(logits != again, axis=1)

        def step(carry):
            count, best, moments = carry
            view_key = rng.stream(key, "step", count)
            gradient = gradient_from_scores(
                loss_fn,
                view,
                best.images,
                labels,
                num_samples=self.num_samples,
                sigma=self.sigma,
                noise=self.noise,
                key=rng.stream(view_key, "gradient"),
                keys=jax.vmap(jax.random.fold_in, (0, None))(keys, count),
            )
            moved, moments = self.move(best.images, gradient, moments, count)
            moved = self.threat.project(moved, images)
            ended = best.success & ~is_random
            points = jnp.where(expand(ended, images), best.images, moved)
            new, _ = judge(points, rng.stream(view_key, "end"))
            return count + 1, new._replace(success=ended | new.success), moments

        still = jnp.zeros_like(images)
        begin = jnp.asarray(0), first, (still, still)
        return jax.lax.while_loop(
            lambda carry: (carry[0] < self.num_steps) & ~jnp.all(carry[1].success & ~is_random),
            step,
            begin,
        )[1]


@dataclasses.dataclass(frozen=True)
class SPSA(ScoreAttack):
    """Adam on the margin, whose gradient is estimated along random signs.

    Attributes:
        threat: the ball.
        loss: what is raised, asked by scores alone.
        targeted: are the labels classes to reach, not to leave?
        num_steps: steps.
        num_samples: pairs of queries per step.
        sigma: length of the differences, in pixel units.
        learning_rate: Adam's.

    Raises:
        ValueError: counts, sigma or the rate are not positive.

    Example:
        >>> from robust_jax.attacks import SPSA, ThreatModel, as_view
        >>> view = as_view(lambda images: jax.lax.stop_gradient(images))  # scores, no gradients
        >>> images, labels = jnp.asarray([[0.6, 0.5]]), jnp.asarray([0])
        >>> attack = SPSA(ThreatModel("linf", eps=0.1), num_steps=20, num_samples=8)
        >>> view(attack(view, images, labels, key=jax.random.key(0)), key=None).argmax(1).item()
        1

    References:
        Uesato et al., "Adversarial risk and the dangers of evaluating against weak attacks", 2018.
    """

    noise: ClassVar[Literal["gaussian", "rademacher"]] = "rademacher"

    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        check_positive(self, "learning_rate")

    def move(
        self, points: Array, gradient: Array, moments: tuple[Array, Array], count: Array
    ) -> tuple[Array, tuple[Array, Array]]:
        """Returns the points after a step of Adam, and the moments."""
        points, mean, square = adam_step(points, -gradient, *moments, count, self.learning_rate)
        return points, (mean, square)


@dataclasses.dataclass(frozen=True)
class NES(ScoreAttack, FixedSteps):
    """PGD whose gradient is estimated along Gaussian directions.

    Attributes:
        threat: the ball.
        loss: what is raised, asked by scores alone.
        targeted: are the labels classes to reach, not to leave?
        num_steps: steps.
        num_samples: pairs of queries per step.
        sigma: length of the differences, in pixel units.
        step_size: length of a step; None is 2.5 * eps / num_steps.

    Raises:
        ValueError: counts, sigma or the step size are not positive.

    Example:
        >>> from robust_jax.attacks import NES, ThreatModel
        >>> attack = NES(ThreatModel("linf", eps=0.125), num_steps=10)  # called as `SPSA`
        >>> attack.length  # of a step
        0.03125
        >>> 2 * attack.num_steps * attack.num_samples  # queries
        500

    References:
        Ilyas, Engstrom, Athalye, Lin, "Black-box adversarial attacks with limited queries and
        information", 2018 (section 2.2).
    """

    noise: ClassVar[Literal["gaussian", "rademacher"]] = "gaussian"
    reach: ClassVar[float] = 2.5

    sigma: float = 0.001
    num_samples: int = 25
    step_size: float | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        if self.step_size is not None:
            check_positive(self, "step_size")

    def move(
        self, points: Array, gradient: Array, moments: tuple[Array, Array], count: Array
    ) -> tuple[Array, tuple[Array, Array]]:
        """Returns the points after a step of fixed length."""
        del count
        return points + self.length * self.threat.steepest(gradient), moments
