"""Randomized smoothing: an L2 radius from the votes of a classifier under Gaussian input noise."""

import dataclasses
import functools
import math
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Key
from numpy.typing import ArrayLike

from robust_jax import rng
from robust_jax.certify.base import Certificate
from robust_jax.certify.noise import (
    MOST_SIGMA,
    FloatNoise,
    check_on_grid,
    rounded_noise,
    total_variation,
)
from robust_jax.certify.sequences import VoteSequence, looks
from robust_jax.certify.votes import running_votes, uses_key
from robust_jax.runtime.live import held
from robust_jax.runtime.sharding import check_batch_size, replicated
from robust_jax.types import View

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

    By default `num_samples` votes are taken of every image, as in the paper. With a `radius` or a
    `tolerance` they are taken in stages, and end when it is decided

    * that no radius is to be hoped for, and the certifier abstains: the upper confidence bound of p
      is below 1/2, or the rest of the votes could not lift the lower one above it;
    * with a `radius`: that the image is certified that far, or that this is not to be hoped for;
    * with a `tolerance`: a radius that is at least 1 - tolerance of what all `num_samples` votes
      would give, were the rest the class's as often as the upper bound says.

    The radius is then what the votes had shown until then: beyond `radius` the curve of certified
    accuracy, and with it the average radius, says less than all votes would; what they say holds.
    `VoteSequence` says how bounds hold at every stage at once, at the same alpha.

    The theorem is of exact noise. Two ways to draw it:

    * "float": x + sigma * z in the images' floating point. What `predict` sees is then not x plus a
      Gaussian, and it may in principle tell from which image a copy was made, however near (as
      classifiers do that Voráček and Hein made for it). The radius is the paper's, and holds as far
      as `predict` does not depend on the last bits.
    * "rounded": of images on the grid of 8-bit ones, x = n / 255, copies x + j / 255 on the same
      grid, j the nearest integers to Gaussians of sigma * 255, drawn and added as integers. Nothing
      is left to floating point but functions of the integers n + j.

    Guarantees:
        For each image, with probability at least 1 - alpha over the draws, the certifier abstains
        or g gives the returned label to every x' with ||x' - x||_2 < radius.
        Of "rounded" noise g(x') is the majority of predict(round(x' + z)), z ~ N(0, sigma^2) and
        round to the grid, for every real x', and for those on the grid, which are all 8-bit images,
        also the majority under the noise that is drawn. Proof: predict(round(.)) is a classifier of
        real images, so the paper's theorem is its own, with exact Gaussians; on the grid
        round(x + z) = x + round(z). The integers are drawn with probabilities of 44 bits and more;
        the total variation e between them and round(z), of all pixels together, is computed
        (2e-8 of a CIFAR image at sigma .25) and paid for on both sides:
        radius = sigma * (quantile(p - e) - quantile(1/2 + e)). It is assumed that JAX's generator
        gives independent bits, that `predict` is a function of the copy and of draws of its own,
        and that quantiles are those of float64.
        The draw of input noise depends on the key, the image's index and the number of the vote
        alone, and so do `predict`'s own unless they are one call's: neither batch size nor mesh
        changes a vote (up to the rounding of `predict`), nor when votes end. Noise is added in
        pixel units and not clipped. Products are computed in float32 on every device, unless
        `predict` itself says otherwise.

    Attributes:
        sigma: standard deviation of the noise on the input.
        num_selection: votes by which the class is chosen (the paper's n_0).
        num_samples: votes by which it is tested (n), or at most, where they end when it is decided.
        alpha: probability of a wrong certificate.
        batch_size: most noisy copies of an image in one pass of `predict`.
        radius: at which votes are to decide; None for all votes, or for `tolerance`.
        tolerance: of the radius that votes are to decide, a share of it; None for all votes.
            0 ends them at abstentions alone.
        noise: how it is drawn.

    Raises:
        ValueError: a field is out of its range, or both a radius and a
            tolerance are given.

    Example:
        >>> from robust_jax.certify import Smoothing
        >>> smoothing = Smoothing(0.25, radius=0.5, noise="rounded")
        >>> view = lambda images, *, key: jnp.stack([images.sum((1, 2)), 9 * images[:, 0, 0]], 1)
        >>> found = smoothing(view, jnp.ones((1, 4, 4)), key=jax.random.key(0))
        >>> found.label.tolist(), bool(found.radius[0] >= 0.5), found.num_votes.tolist()
        ([0], True, [530])

    References:
        Cohen, Rosenfeld and Kolter, "Certified adversarial robustness via randomized smoothing",
        2019, theorem 1 and algorithm CERTIFY; Voráček and Hein, "Sound randomized smoothing in
        floating-point arithmetic", 2023, on what floats break and noise on the grid of the images;
        Jin, Ohrimenko and Rubinstein, "Getting a-round guarantees: floating-point attacks on
        certified robustness", 2022.
    """

    sigma: float
    num_selection: int = 100
    num_samples: int = 100_000
    alpha: float = 0.001
    batch_size: int = 256
    radius: float | None = None
    tolerance: float | None = None
    noise: Literal["float", "rounded"] = "float"

    images_at_once: ClassVar[int] = 1
    """Images that an evaluation passes in one call: copies of one fill the batches."""

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
        if self.radius is not None and not (math.isfinite(self.radius) and self.radius > 0):
            raise ValueError(f"Expected radius={self.radius} > 0 and finite.")
        if self.tolerance is not None and not 0 <= self.tolerance < 1:
            raise ValueError(f"Expected tolerance={self.tolerance} in [0, 1).")
        if self.radius is not None and self.tolerance is not None:
            raise ValueError(
                f"Expected one of radius={self.radius} and tolerance={self.tolerance} to be None."
            )
        if self.noise not in ("float", "rounded"):
            raise ValueError(f"Expected noise={self.noise!r} to be 'float' or 'rounded'.")
        if self.noise == "rounded" and self.sigma > MOST_SIGMA:
            raise ValueError(f"Expected sigma={self.sigma} <= {MOST_SIGMA} for rounded noise.")

    def reduced(self) -> "Smoothing":
        """Returns the certifier at the small budget: 1,000 votes at most."""
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
        if self.noise == "rounded":
            check_on_grid(clean)
        predict = held(predict)
        alone = draws_per == "call" and len(clean) > 0 and uses_key(predict, clean[:1], key)
        if mesh is not None:
            check_batch_size(self.batch_size, mesh)
            predict, clean, key = jax.device_put((predict, clean, key), replicated(mesh))

        noise = FloatNoise(self.sigma) if self.noise == "float" else rounded_noise(self.sigma)
        sequence = self.sequence(int(np.prod(clean.shape[1:])))
        label = np.full(len(clean), -1, np.int32)
        radius = np.zeros(len(clean), np.float64)
        num_votes = np.zeros(len(clean), np.int64)
        for i, (image, row) in enumerate(zip(clean, rows.tolist(), strict=True)):
            votes = functools.partial(
                running_votes, predict, image, noise,
                row=row, most_copies=self.batch_size, mesh=mesh, alone=alone,
            )  # fmt: skip
            (selection,) = votes(rng.stream(key, "selection", row), (self.num_selection,))
            chosen, shown = int(np.argmax(selection)), None
            test = votes(rng.stream(key, "test", row), sequence.at)
            for look, counts in enumerate(test):
                shown = sequence.shown(counts[chosen], look, shown)
                if sequence.decided(counts[chosen], look, shown):
                    found, num_votes[i] = float(sequence.radius_of(shown.lower)), sequence.at[look]
                    if found > 0:
                        label[i], radius[i] = chosen, found
                    break
        return Certificate(label, radius, num_votes=num_votes)

    def sequence(self, num_values: int) -> VoteSequence:
        """Returns the test of an image of so many values: its looks, bounds and rule to stop."""
        stops = self.radius is not None or self.tolerance is not None
        return VoteSequence(
            looks(self.num_samples) if stops else (self.num_samples,),
            self.alpha,
            self.sigma,
            self.radius,
            self.tolerance,
            num_values * total_variation(self.sigma) if self.noise == "rounded" else 0.0,
        )
