"""Draws of a random network: their vote, and draws that rows have."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key, PyTree

from robust_jax import rng
from robust_jax.methods.base import Method, MethodConfig
from robust_jax.methods.deployment import OfKey, Passes, voted
from robust_jax.models import EnsembleConfig
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


def deployed_as(method: Method, config: MethodConfig, passes: Passes | None = None) -> Method:
    """Returns the method deployed as its configuration says: the vote of several passes.

    Views: `deployed` (the vote of the passes), `members` (every pass, [m b c]; of an ensemble every
    member's, pass after pass), and where draws are fresh `one_draw` (a single pass); the others
    stay as they are. Frozen there is no `skip_gradient`, and taps are those of the first pass, or
    none. Terms of a loss that attack `deployed` attack a single pass.

    Args:
        method: whose `members` view samples anew for every key.
        config: of the method; without a deployment it stays as it is.
        passes: a cheaper way to make several passes of one batch.
    """
    deployment, vote, taps = config.deployed_by, config.vote, method.taps
    if deployment is None:
        return method
    root = rng.stream(jax.random.key(deployment.seed), "frozen")

    def again(variables: Variables, images: Array) -> OfKey:
        # Each is run again for its gradient: memory does not grow with draws.
        return jax.checkpoint(lambda key: method.views["members"](variables, images, key=key))

    def members(variables, images, *, key=None) -> Float[Array, "m b c"]:
        key = rng.required_key(key)
        numbers = jnp.arange(deployment.num_draws)
        keys = jax.vmap(lambda number: rng.stream(key, "draw", number))(numbers)
        logits = lax.map((passes or again)(variables, images), keys)
        return logits.reshape((-1, *logits.shape[2:]))

    if deployment.draws == "fresh":
        predict, views = voted(members, vote)
        views["one_draw"] = method.views["deployed"]
        return method._replace(predict=predict, views={**method.views, **views}, vote=vote)

    assert taps is not None  # a network has some

    # Image by image: draws belong to rows, and an image's decision to none.
    def still(variables, images, *, key=None) -> Float[Array, "m b c"]:
        del key
        return jax.vmap(lambda image: members(variables, image[None], key=root)[:, 0], 0, 1)(images)

    def first(variables, images, *, key=None) -> dict[str, Array]:
        del key
        axis = int(isinstance(config.network, EnsembleConfig))

        def of_image(image: Array) -> dict[str, Array]:
            return taps(variables, image[None], key=rng.stream(root, "draw", 0))

        found = jax.vmap(of_image, 0, axis)(images)
        return jax.tree.map(lambda each: jnp.squeeze(each, axis + 1), found)

    predict, views = voted(still, vote)
    views = {name: view for name, view in method.views.items() if name != "skip_gradient"} | views
    return method._replace(
        predict=predict, views=views, vote=vote, stochastic=False, taps=None if passes else first
    )
