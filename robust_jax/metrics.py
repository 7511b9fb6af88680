"""Numbers reported about predictions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def accuracy(scores: Float[Array, "b c"], labels: Int[Array, " b"]) -> Float[Array, ""]:
    """Returns the fraction of examples whose largest score is at their label, and none NaN.

    Args:
        scores: as `right` takes them.
        labels: likewise.

    Raises:
        ValueError: see `right`.

    Example:
        >>> from robust_jax import metrics
        >>> scores = jnp.asarray([[0.6, 0.4], [0.3, 0.7], [jnp.nan, 0.0]])
        >>> round(metrics.accuracy(scores, jnp.asarray([0, 1, 0])).item(), 3)  # NaN is wrong
        0.667
    """
    return jnp.mean(right(scores, labels).astype(jnp.float32))


def right(scores: Float[Array, "*s b c"], labels: Int[Array, "*s b"]) -> Bool[Array, "*s b"]:
    """Returns on which examples the largest score is at the label, and no score is NaN.

    Args:
        scores: logits, probabilities or votes: their largest decides.
        labels: class of each example.

    Raises:
        ValueError: there is not one label per example.

    Example:
        >>> from robust_jax import metrics
        >>> scores = jnp.asarray([[0.6, 0.4], [jnp.nan, 0.0]])  # argmax takes NaN for the largest
        >>> metrics.right(scores, jnp.asarray([0, 0])).tolist()
        [True, False]
    """
    if labels.shape != scores.shape[:-1]:
        raise ValueError(f"Expected labels.shape={labels.shape} to be {scores.shape[:-1]}.")
    return (jnp.argmax(scores, axis=-1) == labels) & ~jnp.any(jnp.isnan(scores), axis=-1)


def top_classes(scores: Float[Array, "b c"], num_classes: int) -> Int[Array, "b n"]:
    """Returns the classes of the largest scores, largest first, ties to the lower class.

    Args:
        scores: of each class.
        num_classes: how many classes n are asked for; at most all.

    Example:
        >>> from robust_jax import metrics
        >>> metrics.top_classes(jnp.asarray([[0.1, 0.5, 0.4]]), 2).tolist()
        [[1, 2]]
    """
    return jax.lax.top_k(scores, min(num_classes, scores.shape[-1]))[1]


def interrater_agreement(correct: Bool[Array, "m b"]) -> Float[Array, ""]:
    """Returns kappa, how far classifiers are right on the same examples; lower is more diverse.

    1 where all are right on the same ones, 0 where they are independent. With l_j of the L
    classifiers right on example j of N, and p their mean accuracy, kappa is
    1 - mean_j l_j (L - l_j) / (L (L - 1) p (1 - p)).

    Args:
        correct: is a classifier right on an example? At least two classifiers, whose mean
            accuracy is neither 0 nor 1 (kappa is then undefined: nan).

    Raises:
        ValueError: fewer than two classifiers.

    Example:
        >>> from robust_jax import metrics
        >>> same = jnp.asarray([[True, False], [True, False]])  # two classifiers, two examples
        >>> other = jnp.asarray([[True, False], [False, True]])
        >>> metrics.interrater_agreement(same).item(), metrics.interrater_agreement(other).item()
        (1.0, -1.0)

    References:
        Kuncheva and Whitaker, "Measures of diversity in classifier ensembles", 2003, section 3.3;
        table 5 of Lee et al., "Robust ensemble model training via random layer sampling", 2020.
    """
    num_classifiers = correct.shape[0]
    if num_classifiers < 2:
        raise ValueError(f"Expected classifiers={num_classifiers} >= 2.")
    right = jnp.sum(correct, axis=0, dtype=jnp.float32)
    disagreement = jnp.mean(right * (num_classifiers - right))
    mean = jnp.mean(right) / num_classifiers
    return 1 - disagreement / (num_classifiers * (num_classifiers - 1) * mean * (1 - mean))


def interval(num_successes: int, num_trials: int, level: float = 0.95) -> tuple[float, float]:
    """Returns the Wilson interval of a proportion.

    Args:
        num_successes: successes seen.
        num_trials: independent trials made.
        level: probability with which it covers the proportion.

    Raises:
        ValueError: no trials.

    Example:
        >>> from robust_jax import metrics
        >>> [round(end, 3) for end in metrics.interval(50, 100)]  # accuracy on 100 images
        [0.404, 0.596]

    References:
        E. B. Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    if num_trials < 1:
        raise ValueError(f"Expected num_trials={num_trials} >= 1.")
    from scipy import stats  # a second of the import of this package

    result = stats.binomtest(num_successes, num_trials)
    bounds = result.proportion_ci(confidence_level=level, method="wilson")
    return float(bounds.low), float(bounds.high)
