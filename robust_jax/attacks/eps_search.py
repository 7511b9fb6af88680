"""PGD with a search for the smallest radius at which it succeeds."""

import dataclasses
import math
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from robust_jax.attacks.gradient import PGD, climber
from robust_jax.attacks.minimum_norm import MinimumNormAttack, search_constant
from robust_jax.attacks.threat import ThreatModel, distance


@dataclasses.dataclass(frozen=True)
class SmallestEps(MinimumNormAttack):
    """PGD in balls whose radius is searched for: grown while PGD fails, then bisected.

    Attributes:
        distance_norm: norm of the balls.
        initial_eps: the first radius.
        growth: factor while nothing is found.
        num_searches: radii tried per example.
        num_steps: steps of PGD in each ball.
        relative_step: length of a step as a share of the radius.
        random_start: start from a draw of the ball?
        loss: what the steps raise.

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

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        for name in ("num_searches", "num_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected {name}={getattr(self, name)} >= 1.")
        if not self.growth > 1:
            raise ValueError(f"Expected growth={self.growth} > 1.")
        if not 0 < self.relative_step < math.inf:
            raise ValueError(f"Expected relative_step={self.relative_step} > 0 and finite.")
        if not self.initial_eps > 0:
            raise ValueError(f"Expected initial_eps={self.initial_eps} > 0.")
        self._pgd()

    @property
    def norm(self) -> Literal["linf", "l2"]:  # type: ignore[override]
        """Returns the norm made small."""
        return self.distance_norm

    def _pgd(self) -> PGD:
        return PGD(
            ThreatModel(self.distance_norm, self.initial_eps, self.bounds),
            loss=self.loss,
            targeted=self.targeted,
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

        def run(number, eps):
            found, success, _ = climber(
                self._pgd(),
                view,
                images,
                labels,
                key=key,
                index=index,
                num_steps=self.num_steps,
                step_size=self.relative_step * eps,
                eps=eps,
                decay=None,
                random_start=self.random_start,
                compares=True,
                keep="best",
            )(number)
            return found, jnp.where(success, distance(self.norm, found, images), jnp.inf)

        return search_constant(run, self.num_searches, self.initial_eps, images, growth=self.growth)
