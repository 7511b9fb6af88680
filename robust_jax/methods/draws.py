"""Draws of a random network: their average (RSE, SAP and GradDiv), and draws that rows have."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key, PyTree

from robust_jax import rng, voting
from robust_jax.methods.base import Method
from robust_jax.types import Variables


@runtime_checkable
class Scores(Protocol):
    """Returns scores of images; where there is a key a row, each has a draw of its own."""

    def __call__(
        self, variables: Variables, images: Array, key: Key[Array, ""] | Key[Array, " b"], /
    ) -> Float[Array, "b c"]: ...


def rows_apart(scores: Scores) -> Scores:
    """Returns a function of one key whose calls, mapped over keys, are one call with a key a row.

    For a method that draws once a call: mapped as it is, it would hold weights for every call.

    Args:
        scores: takes one key, or one for each row.
    """

    def apart(variables: Variables, images: Array, key: Array) -> Array:
        impl = jax.random.key_impl(key)

        def of_data(variables: Variables, images: Array, data: Array) -> Array:
            return scores(variables, images, jax.random.wrap_key_data(data, impl=impl))

        alone = jax.custom_batching.custom_vmap(of_data)

        @alone.def_vmap
        def mapped(
            size: int,
            is_mapped: Sequence[PyTree[bool]],
            variables: Variables,
            images: Array,
            data: Array,
        ) -> tuple[Array, bool]:
            of_variables, of_images, of_key = is_mapped
            if any(jax.tree.leaves(of_variables)):
                axes = jax.tree.map(lambda each: 0 if each else None, is_mapped)
                return jax.vmap(of_data, in_axes=tuple(axes))(variables, images, data), True
            images = images if of_images else jnp.broadcast_to(images, (size, *images.shape))
            key = jax.random.wrap_key_data(data, impl=impl)
            if key.ndim and not of_key:
                key = jnp.broadcast_to(key, (size, *key.shape))
            # A key for every call, for every row of every call, or one for all.
            keys = jnp.repeat(key, images.shape[1]) if key.ndim == 1 else key.reshape(-1)
            rows = images.reshape((-1, *images.shape[2:]))
            found = scores(variables, rows, keys if key.ndim else key)
            return found.reshape((size, -1, found.shape[-1])), True

        @jax.custom_jvp  # which batching rules have not
        def differentiable(variables: Variables, images: Array, data: Array) -> Array:
            return alone(variables, images, data)

        @differentiable.defjvp
        def slopes(
            primals: tuple[Variables, Array, Array], tangents: tuple[Variables, Array, object]
        ) -> tuple[Array, Array]:
            *along, data = primals

            def of_images(variables: Variables, images: Array) -> Array:
                return of_data(variables, images, data)

            return jax.jvp(of_images, tuple(along), tuple(tangents[:2]))

        # As data: to JAX's checker of key reuse, such a call would use up what it folds.
        return differentiable(variables, images, jax.random.key_data(key))

    return apart


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
        root = rng.required_key(key)

        def draw(number: Array) -> Array:
            return single(variables, images, key=rng.stream(root, "draw", number))

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
