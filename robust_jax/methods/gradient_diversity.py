"""Cosines between members' gradients: what PARL, DEG, GAL and TRS share."""

import itertools
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float


class Cosines(NamedTuple):
    """Cosines between members.

    Attributes:
        cosine: of every pair of members, in the order (0, 1), (0, 2), ..., (1, 2), ...; 0 where
            one of the two is dead.
        dead: is a member's vector zero?
    """

    cosine: Float[Array, "pairs *rest"]
    dead: Bool[Array, "m *rest"]


def pairwise_cosines(
    vectors: Float[Array, "m *rest d"], *, eps: float = 0.0, norm_gradient: bool = True
) -> Cosines:
    """Returns the cosine of every pair of members' vectors along the last axis.

    Vectors are divided by their largest entry first, so that those of a saturated loss (1e-25)
    have a norm too; this changes neither values nor gradients.

    Args:
        vectors: of each member; each is used in all its pairs.
        eps: added to the product of the norms.
        norm_gradient: do gradients flow through the norms?
    """
    scale = lax.stop_gradient(jnp.max(jnp.abs(vectors), axis=-1))
    dead = scale == 0
    scale = jnp.where(dead, 1.0, scale)
    scaled = vectors / scale[..., None]
    # The square root has no gradient at zero.
    squared = jnp.sum(jnp.square(scaled), axis=-1)
    norm = jnp.sqrt(jnp.where(dead, 1.0, squared))
    if not norm_gradient:
        norm = lax.stop_gradient(norm)
    cosines = []
    for i, j in itertools.combinations(range(len(vectors)), 2):
        product = norm[i] * norm[j]
        if eps:
            product = product + eps / scale[i] / scale[j]
        cosines.append(jnp.sum(scaled[i] * scaled[j], axis=-1) / product)
    return Cosines(jnp.stack(cosines), dead)
