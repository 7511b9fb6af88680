"""Responses of a network's layers, and how classes score on them (REGroup, section 3)."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

Responses = dict[str, dict[str, Float[Array, "_ _ _"]]]
"""By sign and layer, logarithms of p or n [m b k]; fitted, the class mixtures C [m c k]."""

SIGNS = {"positive": 1.0, "negative": -1.0}


def log_responses(
    outputs: dict[str, Array], layers: Iterable[str], signs: Iterable[str], delta: float
) -> Responses:
    """Returns log p and log n of layers: by sign and layer [m b k], one member if there is no axis.

    Args:
        outputs: before the nonlinearity, [b h w k] or [b k], of an ensemble with a member axis.
        layers: which.
        signs: "positive" for p, "negative" for n.
        delta: added to the sums over positions.
    """

    def log_response(output: Array, sign: float) -> Float[Array, "m b k"]:
        output = output[None] if output.ndim % 2 == 0 else output
        part = nn.relu(sign * output.astype(jnp.float32))
        # Algorithm 1, in logarithms.
        total = (jnp.sum(part, axis=(2, 3)) if part.ndim == 5 else part) + delta
        return jnp.log(total) - jnp.log(jnp.sum(total, axis=-1, keepdims=True))

    return {
        sign: {layer: log_response(outputs[layer], SIGNS[sign]) for layer in layers}
        for sign in signs
    }


def divergence(
    classes: Float[Array, "m c k"], log_response: Float[Array, "m b k"]
) -> Float[Array, "m b c"]:
    """Returns KL(C_y || p) of every class y: equations 2 and 3, one matrix product."""
    negative_entropy = jnp.sum(classes * jnp.log(classes), axis=-1)
    cross = jnp.einsum("mck,mbk->mbc", classes, log_response, precision="highest")
    return negative_entropy[:, None, :] - cross


def likeness(
    classes: Float[Array, "m c k"], log_response: Float[Array, "m b k"]
) -> Float[Array, "m b c"]:
    """Returns minus the divergence: the larger, the likelier."""
    return -divergence(classes, log_response)


def affinity(
    classes: Float[Array, "m c k"], log_response: Float[Array, "m b k"]
) -> Float[Array, "m b c"]:
    """Returns Bhattacharyya's coefficient of p and C_y for every class y, 1 where they are equal.

    Twice its distance from 1 is the squared distance of the square roots of p and C_y.
    """
    roots = jnp.exp(log_response / 2)
    return jnp.einsum("mck,mbk->mbc", jnp.sqrt(classes), roots, precision="highest")


def soft_count(scores: Float[Array, "m b c"], temperature: float) -> Float[Array, "b c"]:
    """Returns the mean over voters of sum_{y' != y} sigmoid((s_y - s_y') / temperature).

    The Borda count per voter in the limit of temperature 0. Voters are counted one by one and
    again in the backward pass, so the memory is that of one voter's [b c c].
    """

    @jax.checkpoint
    def count(total, one):
        gaps = (one[:, :, None] - one[:, None, :]) / temperature
        # A class against itself is half a point.
        return total + jnp.sum(nn.sigmoid(gaps), axis=-1) - 0.5, None

    total, _ = lax.scan(count, jnp.zeros_like(scores[0]), scores)
    return total / len(scores)


def centred(counts: Float[Array, "b c"]) -> Float[Array, "b c"]:
    """Returns Borda counts less their mean: those of two classes would look like probabilities."""
    return counts - (counts.shape[-1] - 1) / 2
