"""Sigma-zero: few changed values, by gradients of a smooth L0 norm and a threshold that adapts."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.checks import check_counts, check_nonnegative, check_positive
from robust_jax.attacks.minimum_norm import MinimumNormAttack
from robust_jax.attacks.runs import Given
from robust_jax.attacks.threat import expand, size
from robust_jax.types import Images

BETA_1, BETA_2, STABLE = 0.9, 0.999, 1e-8
"""Adam's; the paper leaves its defaults."""


@dataclasses.dataclass(frozen=True)
class SigmaZero(MinimumNormAttack):
    """Makes the number of changed values small (channels of pixels, not pixels).

    Adam lowers what is missing to the goal, in logits, plus the share of changed values, smoothed:
    the mean of d^2 / (d^2 + sigma), by a gradient divided by its largest value. Then changes below
    a threshold tau are undone; tau grows while the image is adversarial and falls while it is not.
    The learning rate falls by a cosine to a tenth. Lengths are shares of the width of the box.

    Guarantees:
        Also: of the adversarial images on the way the one of fewest changed values is returned.

    Attributes:
        bounds: smallest and largest pixel value.
        targeted: are the labels classes to reach, not to leave?
        num_steps: steps; each is a forward and a backward pass.
        learning_rate: at the start (eta_0).
        sigma: of the smooth norm; smaller is sharper.
        threshold: tau at the start (tau_0).
        threshold_step: change of tau at each step, over the learning rate (t).

    Raises:
        ValueError: steps, the rate or sigma are not positive, or a threshold is negative.

    Example:
        >>> from robust_jax.attacks import SigmaZero, as_view
        >>> view = as_view(lambda images: images)  # two pixels, two classes
        >>> images, labels = jnp.asarray([[0.6, 0.5]]), jnp.asarray([0])
        >>> found = SigmaZero(num_steps=50)(view, images, labels, key=jax.random.key(0))
        >>> (found != images).sum().item(), found.argmax(1).item()
        (1, 1)

    References:
        Cina, Villani, Pintor, Schonherr, Biggio, Pelillo, "sigma-zero: gradient-based optimization
        of l0-norm adversarial examples", 2025 (algorithm 1).
    """

    num_steps: int = 1000
    learning_rate: float = 1.0
    sigma: float = 1e-3
    threshold: float = 0.3
    threshold_step: float = 0.01

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        check_counts(self, "num_steps")
        check_positive(self, "learning_rate", "sigma")
        check_nonnegative(self, "threshold", "threshold_step")

    @property
    def norm(self) -> Literal["l0_values"]:
        """Returns the norm that is made small."""
        return "l0_values"

    def reduced(self) -> "SigmaZero":
        """Returns the attack at the small budget of a trial."""
        return self.at_most(num_steps=100)

    def perturb(self, given: Given) -> Images:
        """Returns the adversarial images."""
        view, images, labels, key, *_ = given
        low, high = self.bounds
        width, dtype = high - low, images.dtype

        def objective(delta, number):
            view_key = rng.stream(key, "view", number)
            logits = losses.decision(view(images + width * delta, key=view_key))
            missing = jnp.maximum(-self.margin(logits, labels), 0)
            square = (delta**2).reshape(len(delta), -1)
            changed = jnp.mean(square / (square + self.sigma), axis=1)
            return jnp.sum(missing) + jnp.sum(changed), self.succeeded(logits, labels)

        def step(number, carry):
            delta, mean, square, tau, best, best_size = carry
            gradient, success = jax.grad(objective, has_aux=True)(delta, number)
            num_changed = size("l0_values", delta)
            fewer = success & (num_changed < best_size)
            best = jnp.where(expand(fewer, best), images + width * delta, best)
            best_size = jnp.where(fewer, num_changed, best_size)

            gradient = jnp.where(jnp.isnan(gradient), 0, gradient)
            gradient = gradient / expand(jnp.maximum(size("linf", gradient), 1e-12), gradient)
            mean = BETA_1 * mean + (1 - BETA_1) * gradient
            square = BETA_2 * square + (1 - BETA_2) * gradient**2
            count = (number + 1).astype(dtype)
            unit = mean / (1 - BETA_1**count)
            unit = unit / (jnp.sqrt(square / (1 - BETA_2**count)) + STABLE)
            moved = images + width * (delta - rate(number - 1) * unit)
            delta = (jnp.clip(moved, low, high) - images) / width
            change = self.threshold_step * rate(number)
            tau = jnp.clip(tau + jnp.where(success, change, -change), 0, 1)
            delta = jnp.where(jnp.abs(delta) < expand(tau, delta), 0, delta)
            return delta, mean, square, tau, best, best_size

        def rate(number):
            share = jnp.maximum(number, 0).astype(dtype) / self.num_steps
            return self.learning_rate * (0.1 + 0.45 * (1 + jnp.cos(math.pi * share)))

        still = jnp.zeros_like(images)
        tau = jnp.full(labels.shape, self.threshold, dtype)
        nothing = jnp.full(labels.shape, jnp.inf, dtype)
        start = still, still, still, tau, images, nothing
        best = jax.lax.fori_loop(0, self.num_steps, step, start)[4]
        return jnp.clip(best, low, high)
