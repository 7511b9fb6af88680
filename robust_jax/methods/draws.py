"""Predictions averaged over draws of a random network: what RSE, SAP and GradDiv share."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from robust_jax import rng, voting
from robust_jax.methods.base import Method


def averaged(method: Method, num_draws: int, vote: voting.Vote) -> Method:
    """Returns the method deployed as the vote of independent forward passes.

    Views: `deployed` (the vote of `num_draws` passes), `one_draw` (a single pass), `members` (every
    pass, [m b c]; of an ensemble every member's, pass after pass); the others stay as they are.

    Args:
        method: whose `members` view samples anew for every key.
        num_draws: passes.
        vote: how they decide together.

    Raises:
        ValueError: num_draws < 1; when called, a missing key.
    """
    if num_draws < 1:
        raise ValueError(f"Expected num_draws={num_draws} >= 1.")
    single = method.views["members"]

    def members(variables, images, *, key=None) -> Float[Array, "m b c"]:
        if key is None:
            raise ValueError("Expected key=None to be a key: this method samples.")

        def draw(number: Array) -> Array:
            return single(variables, images, key=rng.stream(key, "draw", number))

        # One after another, each run again for its gradient: memory does not grow with draws.
        logits = lax.map(jax.checkpoint(draw), jnp.arange(num_draws))
        return logits.reshape((-1, *logits.shape[2:]))

    def deployed(variables, images, *, key=None):
        return voting.logits(members(variables, images, key=key), vote)

    def predict(variables, images, *, key=None):
        return voting.scores(members(variables, images, key=key), vote)

    views = {**method.views, "one_draw": method.views["deployed"]}
    views |= {"deployed": deployed, "members": members}
    return method._replace(predict=predict, views=views, vote=vote)
