"""REGroup's ablations: accuracy against the number of layers that vote, and by sign."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from robust_jax import voting


class LayerVotes(NamedTuple):
    """Which decisions of parts of the voters are right.

    Attributes:
        by_depth: of the Borda count of the last k layers, k = 1, 2, ... (figures 4 and 6, "Agg").
        by_layer: of each layer alone, in network order ("Per_Layer").

    Example:
        >>> from robust_jax.analysis import LayerVotes
        >>> found = LayerVotes(jnp.asarray([[True, False], [True, True]]), jnp.ones((2, 2), bool))
        >>> found.by_depth.mean(axis=1).tolist()  # accuracy of the last layer, and of both
        [0.5, 1.0]
    """

    by_depth: Bool[Array, "l b"]
    by_layer: Bool[Array, "l b"]


def layer_votes(
    scores: Float[Array, "v b c"], labels: Int[Array, " b"], *, signs: str = "both"
) -> LayerVotes:
    """Returns which decisions are right for every number of voting layers.

    Args:
        scores: of a single network's voters, view `members` of a `REGroup` with responses="both"
            fitted on all layers of interest (`num_layers` their number): first every layer's
            positive response, then every layer's negative one.
        labels: class of each image.
        signs: which responses vote (figure 3): "positive", "negative" or "both".

    Raises:
        ValueError: the voters are not pairs of responses, or no such signs.

    Example:
        >>> from robust_jax.analysis import layer_votes
        >>> good, bad = [[0.0, 2.0]], [[2.0, 0.0]]  # scores of one image, whose class is 1
        >>> scores = jnp.asarray([good, bad, good, bad])  # two layers, positive then negative
        >>> layer_votes(scores, jnp.asarray([1]), signs="both").by_layer.tolist()
        [[True], [False]]

    References:
        Tiwari et al., "REGroup", 2020, section 3.2.1 and equation 6, figures 3, 4 and 6.
    """
    if len(scores) % 2:
        raise ValueError(f"Expected voters={len(scores)} to be even: two responses a layer.")
    chosen = {"positive": slice(0, 1), "negative": slice(1, 2), "both": slice(0, 2)}
    if signs not in chosen:
        raise ValueError(f"Expected signs={signs!r} to be one of {list(chosen)}.")
    points = jax.vmap(lambda one: voting.borda(one[None]))(scores)
    by_sign = points.reshape((2, len(scores) // 2, *points.shape[1:]))
    layers = jnp.sum(by_sign[chosen[signs]], axis=0)
    # Borda counts add up over voters.
    depths = jnp.cumsum(layers[::-1], axis=0)
    is_number = ~jnp.any(jnp.isnan(scores), axis=(0, 2))
    return LayerVotes(
        (jnp.argmax(depths, axis=-1) == labels[None]) & is_number[None],
        (jnp.argmax(layers, axis=-1) == labels[None]) & is_number[None],
    )
