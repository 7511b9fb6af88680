"""The votes of a classifier on noisy copies of an image, counted on the device."""

import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from robust_jax import rng
from robust_jax.certify.checks import shape_of
from robust_jax.certify.noise import FloatNoise, RoundedNoise
from robust_jax.runtime.live import compiled
from robust_jax.runtime.sharding import batched, replicated
from robust_jax.types import View

MOST_ALONE = 16
"""Copies of an image that a device predicts at once where each has draws of its own: a network of
sampled weights is there as often."""

NO_VOTE = -1
"""The class of a copy whose scores are NaN, or that was not predicted."""


def running_votes(
    predict: View,
    image: Array,
    noise: FloatNoise | RoundedNoise,
    key: Key[Array, ""],
    at: Sequence[int],
    *,
    row: int,
    most_copies: int,
    mesh: Mesh | None,
    alone: bool,
) -> Iterator[Int[np.ndarray, " c"]]:
    """Yields how many of the first votes each class got, after each of some numbers of votes.

    What is not asked for is not computed, up to the end of a batch. A vote depends on its number
    and the key alone.

    Args:
        predict: base classifier, held over the calls (`live.held`).
        image: of the copies.
        noise: what is added to each.
        key: root of all draws of this image.
        at: increasing numbers of votes.
        row: how errors call the image.
        most_copies: most copies in one pass.
        mesh: splits the copies over its devices.
        alone: is each copy predicted by itself, with a key of its own?

    Raises:
        ValueError: some scores are NaN.
    """
    # The smallest batches that need no more passes than the largest: little is computed in vain.
    num_devices = 1 if mesh is None else mesh.size
    largest = min(most_copies, MOST_ALONE * num_devices) if alone else most_copies
    num_batches = -(-at[-1] // largest)
    batch_size = -(-at[-1] // (num_batches * num_devices)) * num_devices
    whole, winners, done = np.zeros(0, np.int64), np.zeros(0, np.int32), 0
    for num_votes in at:
        needed = -(-num_votes // batch_size)
        if needed > done:
            found = _count(predict, image, noise, key, done, needed, batch_size, mesh, alone)
            counts, last = (np.asarray(each) for each in found)
            whole = counts + (_counted(winners, len(counts)) + whole if done else 0)
            winners, done = last, needed
        here = winners[: num_votes - (done - 1) * batch_size]
        votes = whole + _counted(here, len(whole))
        if votes.sum() != num_votes:
            raise ValueError(
                f"Expected scores to be numbers, found NaN in {num_votes} draws of image {row}."
            )
        yield votes


def _counted(winners: Int[np.ndarray, " n"], num_classes: int) -> Int[np.ndarray, " c"]:
    """Returns how many votes each class has of these winners."""
    return np.bincount(winners[winners != NO_VOTE], minlength=num_classes)


@functools.partial(compiled, static_argnames=("batch_size", "mesh", "alone"))
def _count(
    predict: View,
    image: Array,
    noise: FloatNoise | RoundedNoise,
    key: Key[Array, ""],
    first: int | Int[Array, ""],
    end: int | Int[Array, ""],
    batch_size: int,
    mesh: Mesh | None,
    alone: bool,
) -> tuple[Int[Array, " c"], Int[Array, " s"]]:
    """Returns the votes for each class before the last of some batches, and those of the last.

    Args:
        predict: base classifier.
        image: of the copies.
        noise: what is added to each.
        key: root of all draws.
        first: number of the first batch.
        end: number after the last.
        batch_size: copies in each.
        mesh: splits them over its devices.
        alone: is each predicted under a key of its own?
    """

    def scores_of(batch: Int[Array, ""] | int) -> Array:
        rows = batch * batch_size + jnp.arange(batch_size)
        keys = rng.per_example(rng.stream(key, "input noise"), rows)
        noisy = jax.vmap(noise.noisy, in_axes=(None, 0))(image, keys)
        if mesh is not None:
            noisy = lax.with_sharding_constraint(noisy, batched(mesh))
        with jax.default_matmul_precision("highest"):
            if not alone:
                return predict(noisy, key=rng.stream(key, "predict", batch))
            keys = rng.per_example(rng.stream(key, "predict"), rows)
            return jax.vmap(predict_one)(noisy, keys)

    def predict_one(noisy: Array, vote_key: Key[Array, ""]) -> Float[Array, " c"]:
        return predict(noisy[None], key=vote_key)[0]

    def vote(
        batch: Int[Array, ""], votes: tuple[Int[Array, " c"], Int[Array, " s"]]
    ) -> tuple[Int[Array, " c"], Int[Array, " s"]]:
        counts, before = votes
        each = jax.nn.one_hot(before, len(counts), dtype=jnp.int32)  # of NO_VOTE zeros
        scores = scores_of(batch)
        winners = jnp.argmax(scores, axis=1).astype(jnp.int32)
        winners = jnp.where(jnp.any(jnp.isnan(scores), axis=1), NO_VOTE, winners)
        if mesh is not None:
            winners = lax.with_sharding_constraint(winners, replicated(mesh))
        return counts + jnp.sum(each, axis=0, dtype=jnp.int32), winners

    with jax.default_matmul_precision("highest"):
        copies = jax.ShapeDtypeStruct((batch_size, *image.shape), image.dtype)
        found = jax.eval_shape(lambda copies: predict(copies, key=key), copies)
    _, num_classes = shape_of(found, "[b c]", batch_size)
    none = jnp.zeros(num_classes, jnp.int32), jnp.full(batch_size, NO_VOTE, jnp.int32)
    return lax.fori_loop(first, end, vote, none)


def uses_key(predict: View, images: Array, key: Key[Array, ""]) -> bool:
    """Returns whether a prediction may depend on its key."""
    jaxpr = _predicted.trace(predict, images, key).jaxpr.jaxpr
    return any(operand is jaxpr.invars[-1] for e in jaxpr.eqns for operand in e.invars)


@jax.jit
def _predicted(predict: View, images: Array, key: Key[Array, ""]) -> Array:
    return predict(images, key=key)
