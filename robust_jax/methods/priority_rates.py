"""The keep rates of LPD and PDD: each member keeps the features of its priority interval.

Wu et al., "Deep Ensemble Robustness by Adaptive Sampling in Dropout-Based Simultaneous Training",
ECAI 2023, algorithm 1, lines 1 to 11: LPD. Huang et al., "Adversarial Defence by Diversified
Simultaneous Training of Deep Ensembles", AAAI 2021: PDD (equation 2 of the former).

Strengths of activation are divided into intervals. How many of member k's features lie in each is
counted, the intervals are sorted by their counts over all members, and the k-th most frequent is
member k's priority.

Where the papers leave a choice, the first named is the default:

* statistics are those of each example (PDD's code; algorithm 1 says "in each training period"),
  `statistics="batch"` takes one histogram per member over the batch;
* gamma is given nowhere. 1 is practically no dropout, 100 to 1000 give the behaviour that the
  paper describes;
* equally frequent intervals are ranked from the weakest up, empty ones after all others;
* the text says that features "activated more frequently" are kept more often, equation 4 that they
  are kept less: equation 4 it is.
"""

import abc
import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from robust_jax import checks

Statistics = Literal["example", "batch"]


@dataclasses.dataclass(frozen=True)
class KeepRates(abc.ABC):
    """Keep rates of pooled features; subclasses define them.

    Attributes:
        statistics: histograms of each "example", or of the whole "batch".
        num_intervals: length of the histograms; at least one interval per member.
    """

    statistics: Statistics = "example"
    num_intervals: int = 10

    @abc.abstractmethod
    def __call__(self, features: Float[Array, "m b f"]) -> Float[Array, "m b f"]:
        """Returns the probability with which each feature is kept."""

    def _counts(
        self, interval: Int[Array, "m b f"], num: int, used: Array
    ) -> Float[Array, "m #b l"]:
        """Returns how many used features of each member lie in each interval.

        With statistics="batch" the counts are those of the batch and b is 1. Counting scatters
        into [m b l]: nothing of the size of features x intervals is made.
        """

        def count(interval: Array, used: Array) -> Array:
            return jnp.zeros(num, jnp.float32).at[interval].add(used)

        counts = jax.vmap(jax.vmap(count))(interval, used.astype(jnp.float32))
        if self.statistics == "batch":
            counts = jnp.sum(counts, axis=1, keepdims=True)
        return counts


def _at(counts: Float[Array, "m #b l"], interval: Int[Array, "m b f"]) -> Float[Array, "m b f"]:
    """Returns the count of each feature's own interval; counts may be the batch's, with b = 1."""
    shape = (*interval.shape[:2], counts.shape[-1])
    return jnp.take_along_axis(jnp.broadcast_to(counts, shape), interval, axis=-1)


def _priorities(counts: Float[Array, "m b l"]) -> Int[Array, "m b 1"]:
    """Returns member k's interval, the k-th most frequent over all (algorithm 1, lines 5 to 9)."""
    # top_k puts the lower of equal entries first.
    _, order = lax.top_k(jnp.sum(counts, axis=0), counts.shape[0])
    return jnp.transpose(order)[:, :, None]


@dataclasses.dataclass(frozen=True)
class LaplaceRates(KeepRates):
    """LPD: rates fall smoothly with the distance from the member's priority interval.

    Intervals have length s, mu is the middle of the feature's own (equation 3), n_k(mu) counts
    member k's active features there, C_k all its active features, and r_k is the middle of the
    interval that is k-th most frequent over the ensemble. Then

        z = gamma n_k(mu) / C_k (r_k - mu)^2                    (equation 4)
        rate = alpha / (2 lambda) exp(-z / lambda) + beta       (equations 5 and 6)

    Attributes:
        gamma: of equation 4.
        alpha: of equation 6.
        beta: of equation 6, the smallest rate.
        laplace_lambda: lambda. Where alpha / (2 lambda) + beta exceeds 1, rates above 1 count as 1.
        interval: s.
        threshold: epsilon; features that are not above it are inactive: not counted, and kept.
        num_intervals: features above num_intervals * interval are counted in the last one.

    References:
        Wu et al., ECAI 2023, equations 3 to 6, algorithm 1, lines 1 to 11.

    Example:
        >>> from robust_jax.methods import LaplaceRates
        >>> strong, weak = [[0.95] * 6 + [0.35] * 2], [[0.35] * 5 + [0.95] * 3]  # two members
        >>> rates = jax.jit(LaplaceRates(gamma=10.0))(jnp.array([strong, weak]))  # [m b f]
        >>> np.asarray(rates)[:, 0, [0, 7]].round(2)  # the first and the last feature of each
        array([[0.98, 0.27],
               [0.98, 0.18]], dtype=float32)
    """

    num_intervals: int = 128
    gamma: float = 100.0
    alpha: float = 0.85
    beta: float = 0.127
    laplace_lambda: float = 0.5
    interval: float = 0.1
    threshold: float = 0.0

    def __post_init__(self) -> None:
        checks.at_least(self, 0, "gamma", "alpha", "threshold")
        checks.shares(self, "beta")
        checks.above(self, 0, "laplace_lambda", "interval")

    def __call__(self, features: Float[Array, "m b f"]) -> Float[Array, "m b f"]:
        """Returns the probability with which each feature is kept.

        Raises:
            ValueError: fewer intervals than members.
        """
        check_intervals(self.num_intervals, features.shape[0])
        # Lines 1 to 4 of algorithm 1, mu by the number of its interval.
        active = features > self.threshold
        position = jnp.ceil(features / self.interval).astype(jnp.int32) - 1
        position = jnp.clip(position, 0, self.num_intervals - 1)
        counts = self._counts(position, self.num_intervals, active)
        # Lines 5 to 9.
        priority = _priorities(counts)
        # Line 10, equation 4.
        density = counts / jnp.maximum(jnp.sum(counts, axis=-1, keepdims=True), 1.0)
        steps = (priority - position).astype(jnp.float32)
        z = self.gamma * _at(density, position) * jnp.square(steps * self.interval)
        # Line 11, equations 5 and 6.
        kernel = jnp.exp(-z / self.laplace_lambda) / (2 * self.laplace_lambda)
        rates = jnp.minimum(self.alpha * kernel + self.beta, 1.0)
        return jnp.where(active, rates, 1.0)


@dataclasses.dataclass(frozen=True)
class PriorityRates(KeepRates):
    """PDD: one rate in the member's priority interval, lower ones elsewhere (equation 2).

    The features of all members are divided into M intervals between their smallest and their
    largest; zeros count. The rate is alpha in the member's priority interval, the k-th most
    frequent over the ensemble, and beta (1 - N_k(m) / C_k) in interval m, where N_k(m) of the
    member's C_k features lie.

    Attributes:
        num_intervals: M; the authors' code has 10 for 3 members, 20 for 5.
        alpha: rate in the priority interval.
        beta: largest rate elsewhere.

    References:
        Huang et al., AAAI 2021; equation 2 of Wu et al., ECAI 2023.

    Example:
        >>> from robust_jax.methods import PriorityRates
        >>> features = jnp.array([[[0.0, 0.0, 0.0, 1.0]], [[0.0, 0.0, 1.0, 1.0]]])  # two members'
        >>> rates = jax.jit(PriorityRates(num_intervals=2))(features)  # [m b f]
        >>> np.asarray(rates)[:, 0].round(3)
        array([[0.9  , 0.9  , 0.9  , 0.075],
               [0.05 , 0.05 , 0.9  , 0.9  ]], dtype=float32)
    """

    alpha: float = 0.9
    beta: float = 0.1

    def __post_init__(self) -> None:
        checks.shares(self, "alpha", "beta")

    def __call__(self, features: Float[Array, "m b f"]) -> Float[Array, "m b f"]:
        """Returns the probability with which each feature is kept.

        Raises:
            ValueError: fewer intervals than members.
        """
        check_intervals(self.num_intervals, features.shape[0])
        axes = (0, 2) if self.statistics == "example" else (0, 1, 2)
        low = jnp.min(features, axes, keepdims=True)
        span = jnp.max(features, axes, keepdims=True) - low
        share = (features - low) / jnp.where(span > 0, span, 1.0)
        position = jnp.floor(share * self.num_intervals).astype(jnp.int32)
        position = jnp.minimum(position, self.num_intervals - 1)
        counts = self._counts(position, self.num_intervals, jnp.ones_like(features))
        density = counts / jnp.sum(counts, axis=-1, keepdims=True)
        # Equation 2 of Wu et al.: alpha for m = t_k, this for all others.
        elsewhere = self.beta * (1 - _at(density, position))
        return jnp.where(position == _priorities(counts), self.alpha, elsewhere)


def check_intervals(num_intervals: int, num_members: int) -> None:
    """Checks that every member can have an interval.

    Raises:
        ValueError: there are fewer.
    """
    if num_intervals < num_members:
        raise ValueError(f"Expected num_intervals={num_intervals} >= {num_members}, the members.")
