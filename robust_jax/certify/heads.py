"""Bounds behind a last softmax or log-softmax over classes, from those of the scores before it."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Head = Literal["softmax", "log_softmax"]


def interval_behind(
    head: Head, lower: Float[Array, "... c"], upper: Float[Array, "... c"]
) -> tuple[Float[Array, "... c"], Float[Array, "... c"]]:
    """Returns the smallest and the largest value, each exact where scores are free of each other.

    A class's value is smallest where its score is the smallest and the others are the largest.
    """

    def value(own: Array, others: Array) -> Array:
        same = jnp.eye(own.shape[-1], dtype=bool)
        excess = others[..., None, :] - own[..., :, None]
        excess = jnp.where(jnp.broadcast_to(same, excess.shape), 0, excess)
        logarithm = -jax.nn.logsumexp(excess, axis=-1)
        return logarithm if head == "log_softmax" else jnp.exp(logarithm)

    return value(lower, upper), value(upper, lower)


def margins_behind(head: Head, margins: Float[Array, "... c"]) -> Float[Array, "... c"]:
    """Returns lower bounds of the label's value less each class's.

    Of log-softmax these are the margins of the scores, d_c = z_y - z_c. Of softmax

        p_y - p_c = (1 - exp(-d_c)) / (1 + sum_{j != y} exp(-d_j)),

    which rises with d_c, and with the other d_j while it is not negative: the bounds m_j of all of
    them bound it where m_c >= 0. Where it may be negative it is smallest without other classes,
    (1 - exp(-m_c)) / (1 + exp(-m_c)) = tanh(m_c / 2).

    Args:
        head: what lies behind the scores.
        margins: lower bounds of the scores' margins, 0 for the label itself.
    """
    if head == "log_softmax":
        return margins
    # The label's own exp(0) is the 1 of the sum.
    total = jnp.sum(jnp.exp(-margins), axis=-1, keepdims=True)
    return jnp.where(margins >= 0, -jnp.expm1(-margins) / total, jnp.tanh(margins / 2))


def behind(
    head: Head,
    margins: Float[Array, "... c"],
    lower: Float[Array, "... c"],
    upper: Float[Array, "... c"],
    is_own: Bool[Array, "... c"],
) -> Float[Array, "... c"]:
    """Returns lower bounds of the label's value less each class's, from all that is known.

    Args:
        head: what lies behind the scores.
        margins: lower bounds of the scores' margins, 0 for the label itself.
        lower: smallest scores.
        upper: largest scores.
        is_own: which class is the label.
    """
    lower, upper = interval_behind(head, lower, upper)
    own = jnp.sum(jnp.where(is_own, lower, 0), axis=-1, keepdims=True)
    return jnp.fmax(margins_behind(head, margins), jnp.where(is_own, 0, own - upper))
