"""PGD with a search for the smallest radius at which it succeeds."""

import dataclasses
from typing import Literal

import jax.numpy as jnp

from robust_jax.attacks.bounded import start_keys
from robust_jax.attacks.carlini_wagner import search_constant
from robust_jax.attacks.checks import check_counts, check_positive
from robust_jax.attacks.minimum_norm import EitherNormAttack
from robust_jax.attacks.pgd import PGD, climb
from robust_jax.attacks.runs import Given, Run
from robust_jax.attacks.threat import ThreatModel, distance
from robust_jax.types import Images


@dataclasses.dataclass(frozen=True)
class SmallestEps(EitherNormAttack):
    """PGD in balls whose radius is searched for: grown while PGD fails, then bisected.

    Attributes:
        bounds: smallest and largest pixel value.
        distance_norm: norm of the balls.
        initial_eps: the first radius.
        growth: factor while nothing is found.
        num_searches: radii tried per example.
        num_steps: steps of PGD in each ball.
        relative_step: length of a step as a share of the radius.
        random_start: start from a draw of the ball?
        loss: what the steps raise.
        min_probability: softmax probability of the wrong (targeted: the reached) class that counts
            as success, see `PGD`.

    Raises:
        ValueError: counts, the radius or the step are not positive, `growth` is not above 1, or
            what `PGD` refuses.

    Example:
        >>> from robust_jax.attacks import SmallestEps, as_view
        >>> view = as_view(lambda images: images)  # two pixels, two classes
        >>> images, labels = jnp.asarray([[0.6, 0.5]]), jnp.asarray([0])
        >>> found = SmallestEps()(view, images, labels, key=jax.random.key(0))
        >>> round(jnp.abs(found - images).max().item(), 2), found.argmax(1).item()
        (0.05, 1)

    References:
        Rauber, Brendel, Bethge, "Foolbox: a Python toolbox to benchmark the robustness of machine
        learning models", 2017 (binary search of its gradient attacks, version 2).
    """

    distance_norm: Literal["linf", "l2"] = "linf"
    initial_eps: float = 0.3
    growth: float = 1.5
    num_searches: int = 20
    num_steps: int = 40
    relative_step: float = 1 / 30
    random_start: bool = True
    loss: Literal["cross_entropy", "dlr", "margin"] = "cross_entropy"
    min_probability: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        check_counts(self, "num_searches", "num_steps")
        check_positive(self, "initial_eps", "relative_step")
        if not self.growth > 1:
            raise ValueError(f"Expected growth={self.growth} > 1.")
        self._pgd()

    def reduced(self) -> "SmallestEps":
        """Returns the attack at the small budget of a trial."""
        return self.at_most(num_searches=10)

    def _pgd(self) -> PGD:
        return PGD(
            ThreatModel(self.distance_norm, self.initial_eps, self.bounds),
            loss=self.loss,
            targeted=self.targeted,
            random_start=self.random_start,
            min_probability=self.min_probability,
        )

    def perturb(self, given: Given) -> Images:
        """Returns the adversarial images."""
        images, pgd = given.images, self._pgd()

        def run(number, eps):
            found = climb(
                pgd,
                Run(number, restart=number),
                given,
                num_steps=self.num_steps,
                step_size=self.relative_step * eps,
                start=pgd.start(images, start_keys(given.key, given.index, number), eps=eps),
                keep="best",
                eps=eps,
            )
            size = distance(self.norm, found.images, images)
            return found.images, jnp.where(found.success, size, jnp.inf)

        return search_constant(run, self.num_searches, self.initial_eps, images, growth=self.growth)
