"""Numbers reported about predictions."""

import jax
import jax.numpy as jnp
import scipy.stats
from jaxtyping import Array, Float, Int


def accuracy(scores: Float[Array, "b c"], labels: Int[Array, " b"]) -> Float[Array, ""]:
    """Returns the fraction of examples whose largest score is at their label."""
    return jnp.mean((jnp.argmax(scores, axis=-1) == labels).astype(jnp.float32))


def top_classes(scores: Float[Array, "b c"], num_classes: int) -> Int[Array, "b n"]:
    """Returns the classes of the largest scores, largest first, ties to the lower class."""
    return jax.lax.top_k(scores, min(num_classes, scores.shape[-1]))[1]


def interval(num_successes: int, num_trials: int, level: float = 0.95) -> tuple[float, float]:
    """Returns the Wilson interval of a proportion.

    References:
        E. B. Wilson, Probable inference, the law of succession, and statistical inference, 1927.

    Raises:
        ValueError: no trials.
    """
    if num_trials < 1:
        raise ValueError(f"Expected num_trials={num_trials} >= 1.")
    result = scipy.stats.binomtest(num_successes, num_trials)
    bounds = result.proportion_ci(confidence_level=level, method="wilson")
    return float(bounds.low), float(bounds.high)
