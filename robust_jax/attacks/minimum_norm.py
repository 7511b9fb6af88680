"""Attacks that seek the nearest adversarial image, with no bound on its distance."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from robust_jax.attacks import losses
from robust_jax.attacks.base import Attack
from robust_jax.attacks.runs import Found, Given, Run
from robust_jax.attacks.threat import Norm, ThreatModel, check_bounds, expand
from robust_jax.attacks.wrapped import WrappedAttack
from robust_jax.checks import one_of
from robust_jax.types import Labels


@dataclasses.dataclass(frozen=True)
class MinimumNormAttack(Attack):
    """An attack that makes the distance small and knows no bound.

    Guarantees:
        Also: where it fails, the clean image is returned, so the distance of every success is
        that of the images returned.

    Attributes:
        bounds: smallest and largest pixel value.
        targeted: the labels are classes to reach, not to leave.

    Raises:
        ValueError: `bounds` is no box.

    Example:
        >>> from robust_jax.attacks import CarliniWagner
        >>> attack = CarliniWagner()  # its distances make a curve; a ball asks at one radius
        >>> bounded = attack.within(0.5)
        >>> bounded.threat.norm, bounded.threat.eps
        ('l2', 0.5)
    """

    bounds: tuple[float, float] = (0.0, 1.0)
    targeted: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError unless `bounds` is a box."""
        super().__post_init__()
        check_bounds(self.bounds)

    @property
    def box(self) -> tuple[float, float]:
        """Returns the smallest and largest pixel value."""
        return self.bounds

    @property
    def norm(self) -> Norm:
        """Returns the norm that is made small."""
        return "l2"

    def within(self, eps: float, *, norm: Norm | None = None) -> "WithinBall":
        """Returns the bounded attack that keeps what this one finds inside a ball.

        Args:
            eps: radius of the ball.
            norm: its norm; default the norm that the attack makes small.
        """
        return WithinBall(ThreatModel(norm or self.norm, eps, self.bounds), self)

    def succeeded(
        self, logits: Float[Array, "b c"], labels: Labels, confidence: float = 0.0
    ) -> Bool[Array, " b"]:
        """Returns where the goal is reached, by a margin of at least `confidence`."""
        reached = losses.misclassified(logits, labels) != self.targeted
        if confidence == 0:
            return reached
        return reached & (self.margin(logits, labels) >= confidence)

    def margin(self, logits: Float[Array, "b c"], labels: Labels) -> Float[Array, " b"]:
        """Returns by how much the goal is reached, in logits; negative where it is not."""
        sign = -1 if self.targeted else 1
        return sign * losses.margin(logits, labels)


@dataclasses.dataclass(frozen=True)
class EitherNormAttack(MinimumNormAttack):
    """A minimum-norm attack in Linf or L2.

    Attributes:
        distance_norm: the norm made small.
    """

    distance_norm: Literal["linf", "l2"] = "l2"

    def __post_init__(self) -> None:
        """Raises ValueError for another norm."""
        super().__post_init__()
        one_of(self, "distance_norm", ("linf", "l2"))

    @property
    def norm(self) -> Literal["linf", "l2"]:
        """Returns the norm that is made small."""
        return self.distance_norm


@dataclasses.dataclass(frozen=True)
class WithinBall(WrappedAttack):
    """A minimum-norm attack's finds inside a ball; elsewhere the clean image.

    Attributes:
        attack: the minimum-norm attack.
    """

    attack: MinimumNormAttack

    def __post_init__(self) -> None:
        """Raises ValueError where the two boxes differ."""
        super().__post_init__()
        if self.attack.bounds != self.threat.bounds:
            raise ValueError(f"Expected bounds={self.attack.bounds} to be {self.threat.bounds}.")

    def run(self, run: Run, given: Given) -> Found:
        """Returns what the attack finds, as `FAB` does."""
        del run  # it is the only one
        images = given.images
        points = self.attack.perturb(given)
        distance = self.threat.distance(points, images)
        inside = distance <= self.threat.eps
        points = jnp.where(expand(inside, images), points, images)
        return Found(points, inside & (distance > 0), -distance)
