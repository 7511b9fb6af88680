"""Randomized smoothing: an L2 radius from the votes of a classifier under Gaussian input noise."""

import dataclasses
import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key
from numpy.typing import ArrayLike
from scipy import special

from robust_jax import rng
from robust_jax.certify.base import Certificate
from robust_jax.certify.checks import shape_of
from robust_jax.runtime.live import compiled, held
from robust_jax.runtime.sharding import batched, check_batch_size, replicated
from robust_jax.types import View

MOST_ALONE = 16
"""Copies of an image that a device predicts at once where each has draws of its own: a network of
sampled weights is there as often."""


REDUCED_SAMPLES = 1_000
"""Votes of an image at the small budget."""


@dataclasses.dataclass(frozen=True)
class Smoothing:
    """Certifier of g(x) = argmax_c P(predict(x + noise) = c), noise ~ N(0, sigma^2) per pixel.

    Called as `smoothing(predict, images, key=key)`. The class with the most of `num_selection`
    votes is tested with `num_samples` fresh votes: if p, the lower confidence bound of its
    probability, exceeds 1/2, the radius is R = sigma * quantile(p) of the standard normal.

    `predict` may itself be random (noise on activations, sampled layers). The probability is then
    over its own draws too, g is the majority under both, and that g is what is certified, not one
    draw of `predict`. Only the noise on the input earns the radius: `sigma` says nothing of noise
    inside the network, which changes the radius through the votes alone. Every vote has draws of
    its own: a `predict` that uses its key is called for each copy of the image by itself, with a
    key of its own, unless it is said to draw anew for each row of a batch.

    Guarantees:
        For each image, with probability at least 1 - alpha over the draws, the certifier abstains
        or g gives the returned label to every x' with ||x' - x||_2 < radius. The draw of input
        noise depends on the key, the image's index and the number of the vote alone, and so do
        `predict`'s own unless they are one call's: neither batch size nor mesh changes a vote (up
        to the rounding of `predict`). Noise is added in pixel units and not clipped. Products are
        computed in float32 on every device, unless `predict` itself says otherwise.

    Attributes:
        sigma: standard deviation of the noise on the input.
        num_selection: votes by which the class is chosen (the paper's n_0).
        num_samples: votes by which it is tested (n).
        alpha: probability of a wrong certificate.
        batch_size: most noisy copies of an image in one pass of `predict`.

    References:
        Cohen, Rosenfeld and Kolter, "Certified adversarial robustness via randomized smoothing",
        2019, theorem 1 and algorithm CERTIFY.
    """

    sigma: float
    num_selection: int = 100
    num_samples: int = 100_000
    alpha: float = 0.001
    batch_size: int = 256

    def __post_init__(self) -> None:
        """Raises ValueError where a field makes no sense."""
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise ValueError(f"Expected sigma={self.sigma} > 0 and finite.")
        for name in ("num_selection", "num_samples", "batch_size"):
            if not isinstance(getattr(self, name), (int, np.integer)):
                raise ValueError(f"Expected {name}={getattr(self, name)!r} to be an integer.")
            if getattr(self, name) < 1:
                raise ValueError(f"Expected {name}={getattr(self, name)} >= 1.")
        if not 0 < self.alpha < 1:
            raise ValueError(f"Expected alpha={self.alpha} in (0, 1).")

    def reduced(self) -> "Smoothing":
        """Returns the certifier at the small budget: 1,000 votes."""
        return dataclasses.replace(self, num_samples=min(self.num_samples, REDUCED_SAMPLES))

    def __call__(
        self,
        predict: View,
        images: ArrayLike,
        *,
        key: Key[Array, ""],
        index: ArrayLike | None = None,
        mesh: Mesh | None = None,
        draws_per: Literal["row", "call"] = "call",
    ) -> Certificate:
        """Returns each image's certified class and radius; label -1 and radius 0 to abstain.

        Args:
            predict: base classifier `(images, *, key) -> scores [b c]`, as it is at the call,
                traced once. A `jax.tree_util.Partial` that holds its arrays pays no tracing.
            images: [b ...], floating point, in pixel units.
            key: root of all draws.
            index: dataset row of each image [b]; default 0, 1, ..., b-1. Give it where a batch
                is a part of a dataset.
            mesh: splits the noisy copies of each image over its devices; `batch_size` must be a
                multiple of their number.
            draws_per: what has draws of its own, if `predict` is random: each "row" of a batch
                (quick: whole batches are predicted), or each "call" alone, which holds for every
                function.

        Raises:
            ValueError: shapes or dtypes do not fit, or scores are NaN.
        """
        clean = jnp.asarray(images)
        rows = np.arange(len(clean)) if index is None else np.asarray(index)
        if clean.ndim < 2 or not jnp.issubdtype(clean.dtype, jnp.floating):
            raise ValueError(
                f"Expected images of shape {clean.shape} and dtype {clean.dtype} to be [b ...] "
                "and floating."
            )
        if draws_per not in ("row", "call"):
            raise ValueError(f"Expected draws_per={draws_per!r} to be 'row' or 'call'.")
        if not np.issubdtype(rows.dtype, np.integer) and rows.size:
            raise ValueError(f"Expected index.dtype={rows.dtype} to be integer.")
        if rows.shape != clean.shape[:1]:
            raise ValueError(
                f"Expected index.shape={rows.shape} to be {clean.shape[:1]}, one per image."
            )
        predict = held(predict)
        alone = draws_per == "call" and len(clean) > 0 and _uses_key(predict, clean[:1], key)
        if mesh is not None:
            check_batch_size(self.batch_size, mesh)
            predict, clean, key = jax.device_put((predict, clean, key), replicated(mesh))

        label = np.full(len(clean), -1, np.int32)
        radius = np.zeros(len(clean), np.float64)
        for i, (image, row) in enumerate(zip(clean, rows, strict=True)):
            selection, test = (
                self._votes(
                    predict, image, int(row), rng.stream(key, name, int(row)), num, mesh, alone
                )
                for name, num in (
                    ("selection", self.num_selection),
                    ("test", self.num_samples),
                )
            )
            chosen = int(np.argmax(selection))
            bound = lower_confidence_bound(int(test[chosen]), self.num_samples, self.alpha)
            if bound > 0.5:
                label[i], radius[i] = chosen, self.sigma * special.ndtri(bound)
        return Certificate(label, radius)

    def _votes(
        self,
        predict: View,
        image: Array,
        row: int,
        key: Key[Array, ""],
        num_votes: int,
        mesh: Mesh | None,
        alone: bool,
    ) -> Int[np.ndarray, " c"]:
        """Returns how many of the votes each class got.

        Raises:
            ValueError: some scores are NaN.
        """
        # The smallest batches that need no more passes than the largest: little is masked.
        num_devices = 1 if mesh is None else mesh.size
        largest = min(self.batch_size, MOST_ALONE * num_devices) if alone else self.batch_size
        num_batches = -(-num_votes // largest)
        batch_size = -(-num_votes // (num_batches * num_devices)) * num_devices
        votes = np.asarray(
            _count(predict, image, self.sigma, key, num_votes, batch_size, num_batches, mesh, alone)
        )
        if votes.sum() != num_votes:
            raise ValueError(
                f"Expected scores to be numbers, found NaN in {num_votes} draws of image {row}."
            )
        return votes


@functools.partial(
    compiled, static_argnames=("num_votes", "batch_size", "num_batches", "mesh", "alone")
)
def _count(
    predict: View,
    image: Array,
    sigma: Float[Array, ""] | float,
    key: Key[Array, ""],
    num_votes: int,
    batch_size: int,
    num_batches: int,
    mesh: Mesh | None,
    alone: bool,
) -> Int[Array, " c"]:
    """Returns the votes for each class; rows past `num_votes` and NaN scores do not vote.

    Each row is predicted under a key of its own where it is to be `alone`.
    """

    def draw(vote_key: Key[Array, ""]) -> Array:
        # Flat: the counters of a shaped draw cost more than the draw itself.
        return jax.random.normal(vote_key, (image.size,), image.dtype).reshape(image.shape)

    def scores_of(batch: Int[Array, ""] | int) -> tuple[Array, Array]:
        rows = batch * batch_size + jnp.arange(batch_size)
        noise = jax.vmap(draw)(rng.per_example(rng.stream(key, "input noise"), rows))
        noisy = image[None] + jnp.asarray(sigma, image.dtype) * noise
        if mesh is not None:
            noisy = lax.with_sharding_constraint(noisy, batched(mesh))
        with jax.default_matmul_precision("highest"):
            if not alone:
                return rows, predict(noisy, key=rng.stream(key, "predict", batch))
            keys = rng.per_example(rng.stream(key, "predict"), rows)
            return rows, jax.vmap(predict_one)(noisy, keys)

    def predict_one(noisy: Array, vote_key: Key[Array, ""]) -> Float[Array, " c"]:
        return predict(noisy[None], key=vote_key)[0]

    def add(batch: Int[Array, ""], votes: Int[Array, " c"]) -> Int[Array, " c"]:
        rows, scores = scores_of(batch)
        counts = (rows < num_votes) & ~jnp.any(jnp.isnan(scores), axis=1)
        winner = jax.nn.one_hot(jnp.argmax(scores, axis=1), len(votes), dtype=jnp.int32)
        return votes + jnp.sum(jnp.where(counts[:, None], winner, 0), axis=0, dtype=jnp.int32)

    with jax.default_matmul_precision("highest"):
        copies = jax.ShapeDtypeStruct((batch_size, *image.shape), image.dtype)
        found = jax.eval_shape(lambda copies: predict(copies, key=key), copies)
    _, num_classes = shape_of(found, "[b c]", batch_size)
    return lax.fori_loop(0, num_batches, add, jnp.zeros(num_classes, jnp.int32))


def _uses_key(predict: View, images: Array, key: Key[Array, ""]) -> bool:
    """Returns whether a prediction may depend on its key."""
    jaxpr = _predicted.trace(predict, images, key).jaxpr.jaxpr
    return any(operand is jaxpr.invars[-1] for e in jaxpr.eqns for operand in e.invars)


@jax.jit
def _predicted(predict: View, images: Array, key: Key[Array, ""]) -> Array:
    return predict(images, key=key)


def lower_confidence_bound(num_successes: int, num_trials: int, alpha: float) -> float:
    """Returns a bound that the probability of a success exceeds with probability 1 - alpha.

    It is exact (Clopper and Pearson): the probability at which as many successes or more have
    probability alpha, computed in float64.

    Args:
        num_successes: successes seen.
        num_trials: independent trials made.
        alpha: probability of a bound above the truth.
    """
    if num_successes == 0:
        return 0.0
    return float(special.betaincinv(num_successes, num_trials - num_successes + 1, alpha))
