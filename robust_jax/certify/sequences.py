"""What votes have shown of a probability, asked once at the end or again and again meanwhile."""

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

FIRST_LOOK = 100
"""Votes before a sequence is first looked at."""

GROWTH = 1.1
"""By what the number of votes grows from one look to the next. Of each question that was simulated
(`benchmarks/votes.py`) it takes the fewest votes or 6 % more, as does 1.25; bounds of a martingale
take up to 37 % more where a radius is asked."""

Counts = Int[np.ndarray, "..."] | np.integer
Values = Float[np.ndarray, "..."] | np.floating
Truths = Bool[np.ndarray, "..."] | np.bool
"""Of one image, or of each of many."""


def lower_confidence_bound(num_successes: int, num_trials: int, alpha: float) -> float:
    """Returns a bound that the probability of a success exceeds with probability 1 - alpha.

    It is exact (Clopper and Pearson): the probability at which as many successes or more have
    probability alpha, computed in float64. It is of one number of trials, said before: who looks
    at it again and again, and stops where it pleases, is wrong more often (`VoteSequence`).

    Args:
        num_successes: successes seen.
        num_trials: independent trials made.
        alpha: probability of a bound above the truth.

    Example:
        >>> from scipy.stats import norm
        >>> from robust_jax.certify import lower_confidence_bound
        >>> lower = lower_confidence_bound(num_successes=990, num_trials=1000, alpha=0.001)
        >>> round(lower, 3), round(0.25 * float(norm.ppf(lower)), 3)  # the radius at sigma = 0.25
        (0.976, 0.495)

    References:
        Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of
        the binomial", 1934.
    """
    return float(_lower_bounds(np.int64(num_successes), num_trials, alpha))


def _lower_bounds(num_successes: Counts, num_trials: int, alpha: float) -> Values:
    """Returns `lower_confidence_bound` of each of some counts."""
    some, places = np.unique(np.maximum(num_successes, 1), return_inverse=True)
    bounds = special.betaincinv(some, num_trials - some + 1, alpha)
    return np.where(num_successes > 0, bounds[places].reshape(np.shape(num_successes)), 0.0)


def looks(num_samples: int) -> tuple[int, ...]:
    """Returns the numbers of votes at which a sequence of so many votes is looked at.

    `FIRST_LOOK` votes, then by `GROWTH` more each time, at the end all of them: 73 looks of 100,000
    votes. They are known before the first vote, as the bounds of `VoteSequence` demand.

    Args:
        num_samples: votes at most.

    Example:
        >>> from robust_jax.certify import looks
        >>> looks(150)
        (100, 111, 123, 136, 150)
        >>> len(looks(100_000))
        73
    """
    found = [min(FIRST_LOOK, num_samples)]
    while found[-1] < num_samples:
        found.append(min(math.ceil(GROWTH * found[-1]), num_samples))
    return tuple(found)


class Shown(NamedTuple):
    """What votes so far have shown of the probability of a class, for each of some images.

    Attributes:
        lower: bound that lies above the truth at any look with probability alpha at most.
        upper: likewise, below the truth.
    """

    lower: Values
    upper: Values


@dataclasses.dataclass(frozen=True)
class VoteSequence:
    """Confidence bounds of a probability that hold at every look at once, and when to stop.

    There are K looks, at numbers of votes said before. At each of them the bounds are Clopper and
    Pearson's at alpha / K, and the best bound so far stands. So

        P(at some look, lower > p) <= sum over looks of P(bound of the look > p) <= alpha

    for whatever p, and a radius of `lower` is as sure as one of a number of votes said before, by
    whatever rule one stops. One look is Cohen et al.'s test. The upper bound, at its own alpha,
    serves the rule to stop alone: no certificate stands on it.

    Counts and bounds may be of any shape: one image's, or those of thousands of simulated runs.

    Guarantees:
        Looks and bounds are functions of the numbers of votes alone: neither how many votes are
        computed at once nor the device changes what is decided.

    Attributes:
        at: numbers of votes at which it is looked at, increasing.
        alpha: probability that a lower bound lies above the truth at any look.
        sigma: radius of a standard normal quantile of 1.
        radius: is what is asked whether this radius is certified?
        tolerance: or what radius is, up to this share of what the rest of the votes may add?
        total_variation: between the noise that the votes were drawn with and N(0, sigma^2), or
            what a function makes of it.

    Raises:
        ValueError: looks do not rise, alpha is not in (0, 1), or the total variation is not in
            [0, 1/2).

    Example:
        >>> from robust_jax.certify import VoteSequence, looks
        >>> sequence = VoteSequence(looks(100_000), alpha=0.001, sigma=0.25, radius=0.2)
        >>> counts = np.asarray([100, 75])  # of the first 100 votes, for the class of two images
        >>> shown = sequence.shown(counts, look=0)
        >>> sequence.radius_of(shown.lower).round(3), sequence.decided(counts, 0, shown)
        (array([0.312, 0.026]), array([ True, False]))

    References:
        Cohen, Rosenfeld and Kolter, "Certified adversarial robustness via randomized smoothing",
        2019 (one look); Horváth, Mueller, Fischer and Vechev, "Boosting randomized smoothing with
        variance reduced classifiers", 2022 (adaptive sampling: several, each with its share of
        alpha); Howard, Ramdas, McAuliffe and Sekhon, "Time-uniform, nonparametric, nonasymptotic
        confidence sequences", 2021 (mixtures, which the benchmark sets beside these); Voráček,
        "Treatment of statistical estimation problems in randomized smoothing for adversarial
        robustness", 2024 (both, for smoothing).
    """

    at: tuple[int, ...]
    alpha: float
    sigma: float
    radius: float | None = None
    tolerance: float | None = None
    total_variation: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError where a field makes no sense."""
        if not 0 < self.alpha < 1:
            raise ValueError(f"Expected alpha={self.alpha} in (0, 1).")
        if not 0 <= self.total_variation < 0.5:
            raise ValueError(f"Expected total_variation={self.total_variation} in [0, 1/2).")
        if not self.at or self.at[0] < 1 or list(self.at) != sorted(set(self.at)):
            raise ValueError(f"Expected at={self.at} to be increasing numbers of votes >= 1.")

    @functools.cached_property
    def level(self) -> float:
        """Share of alpha that each look has."""
        return self.alpha / len(self.at)

    def lower(self, counts: Counts, num_votes: int) -> Values:
        """Returns the lower bound of one look by itself, after so many votes."""
        return _lower_bounds(counts, num_votes, self.level)

    def shown(self, counts: Counts, look: int, before: Shown | None = None) -> Shown:
        """Returns the bounds at a look.

        Args:
            counts: votes for the class so far, of `at[look]`.
            look: number of the look.
            before: bounds at the look before; None at the first.
        """
        num_votes = self.at[look]
        lower = self.lower(counts, num_votes)
        upper = 1 - self.lower(num_votes - counts, num_votes)
        if before is not None:
            lower, upper = np.maximum(lower, before.lower), np.minimum(upper, before.upper)
        return Shown(lower, upper)

    def radius_of(self, probability: Values) -> Values:
        """Returns the radius that lower bounds of the class's probability earn; 0 for none.

        With e the total variation it is sigma * (quantile(p - e) - quantile(1/2 + e)): under the
        Gaussian the class has p - e at least, anywhere inside the radius more than 1/2 + e, and
        there more than 1/2 under the noise that is drawn.
        """
        least = 0.5 + self.total_variation
        quantile = special.ndtri(np.maximum(probability - self.total_variation, least))
        return self.sigma * (quantile - special.ndtri(least))

    def best(self, counts: Counts, look: int, shown: Shown) -> Values:
        """Returns the radius that all votes would give, were the rest the class's at rate `upper`.

        That is the most that can be hoped for: the rate is less but with probability alpha.
        """
        rest = self.at[-1] - self.at[look]
        hoped = counts + np.floor(rest * shown.upper).astype(np.int64)
        bound = self.lower(hoped, self.at[-1])
        return self.radius_of(np.maximum(bound, shown.lower))

    def decided(self, counts: Counts, look: int, shown: Shown) -> Truths:
        """Returns whether further votes can be spared.

        They can where no radius is to be hoped for (abstention: the upper bound is below 1/2, or
        the rest of the votes are too few to lift the lower one above it); of a `radius`, where it
        is certified, or not to be hoped for; of a `tolerance`, where the radius is at least
        1 - tolerance of the `best`; and after the last look.
        """
        if look == len(self.at) - 1:
            return np.ones(np.shape(counts), bool)
        known, best = self.radius_of(shown.lower), self.best(counts, look, shown)
        decided = best <= 0
        if self.radius is not None:
            decided |= (known >= self.radius) | (best < self.radius)
        if self.tolerance is not None:
            decided |= (known > 0) & (known >= (1 - self.tolerance) * best)
        return decided
