"""Transferability reduced smooth ensembles (TRS): dissimilar loss gradients of small norm.

Yang et al., "TRS: Transferability Reduced Ensemble via Promoting Gradient Diversity and Model
Smoothness", NeurIPS 2021.

With g_i(x) the gradient at x of member i's cross-entropy, the loss is

    sum_i CE_i + scale (coefficient mean_{i<j} mean_x |cos(g_i(x), g_j(x))|
                        + smoothness mean_i mean_x' 2 |g_i(x')|^2)

where half of the x' are images of the batch and half are points within eps of the others at which
the members' mean |g_i|^2 is largest, found by projected gradient ascent (a random start, 6 steps
of eps / 3 along the sign). eps grows with the epoch, from init_eps to final_eps.

Sources of the defaults: the authors' code with its option --plus-adv. eps from .1 to .2 is the
size of MNIST's images.

Where paper and code leave a choice, the first named is the default:

* g_i is the gradient of the batch's mean cross-entropy (code), so a batch of b makes each example's
  gradient 1 / b as large and the smoothness 1 / b^2; `reduction="sum"` is the example's own;
* a step of the ascent follows the gradient at its point (paper); `momentum=1` follows the sum of
  all so far, which is what the code does, where nothing clears the gradient.

Deviations: only the clean pass moves BatchNorm's statistics, in the code every pass of the ascent
and of the smoothness does too; the cosine is exact, without a floor under the norms. Gradients go
through the batch's statistics, as in the code.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key

from robust_jax import checks, rng
from robust_jax.methods.cross_entropy import CrossEntropy
from robust_jax.methods.gradient_diversity import pairwise_cosines
from robust_jax.methods.network import EnsembleMethod
from robust_jax.methods.terms import Epoch, Pass, Term, Value
from robust_jax.types import Variables


@dataclasses.dataclass(frozen=True)
class _Symbols:
    """The paper's symbols.

    Attributes:
        scale: weight of the regulariser.
        coefficient: weight of the cosines in it ("coeff" in the code).
        smoothness: weight of the gradients' norms in it ("lamda").
        init_eps: radius of the ascent in the first epoch.
        final_eps: radius that is reached after `num_epochs`; with both 0 no image is moved.
        num_epochs: epochs of that growth; None for the run's own, all of them (outside a run eps
            stays `init_eps` then). Epochs are those of the run's plan; outside a run one is as many
            steps as the training split has batches of the size that the loss is given.
        num_steps: of the ascent.
        momentum: of the ascent: share of the sum of the former gradients that a step keeps.
        reduction: "mean" or "sum" over the batch of the cross-entropy whose gradients are measured.
    """

    scale: float = 5.0
    coefficient: float = 2.0
    smoothness: float = 2.0
    init_eps: float = 0.1
    final_eps: float = 0.2
    num_epochs: int | None = None
    num_steps: int = 6
    momentum: float = 0.0
    reduction: Literal["mean", "sum"] = "mean"


@dataclasses.dataclass(frozen=True)
class SmoothDissimilarity(_Symbols, Term):
    """The absolute cosines of the members' loss gradients, and their norms near the images.

    Reports `gradient_cosine` (mean of the absolute cosines), `smoothness` (the mean of
    `2 |g_i|^2`) and `eps`.

    Its fields are the symbols of `TransferabilityReducedSmooth`.

    References:
        Yang et al., "TRS", NeurIPS 2021.

    Example:
        >>> from robust_jax.methods import SmoothDissimilarity
        >>> from robust_jax.methods.terms import Epoch
        >>> term = SmoothDissimilarity(init_eps=0.1, final_eps=0.2, num_epochs=100)
        >>> [round(float(term.eps_at(Epoch(jnp.asarray(n), None))), 3) for n in (0, 50, 200)]
        [0.1, 0.15, 0.2]
    """

    pairs_of_members = gradients = epochs = moves_images = True

    def __post_init__(self) -> None:
        weights = ("scale", "coefficient", "smoothness")
        checks.at_least(self, 0, *weights, "init_eps", "final_eps", "momentum")
        checks.at_least(self, 1, "num_epochs", "num_steps")

    def eps_at(self, epoch: Epoch) -> Float[Array, ""]:
        """Returns the radius of an epoch; outside of a run nothing grows without `num_epochs`."""
        num_epochs = self.num_epochs or epoch.count or math.inf
        share = jnp.minimum(jnp.asarray(epoch.number, jnp.float32) / num_epochs, 1.0)
        return self.init_eps + (self.final_eps - self.init_eps) * share

    def __call__(self, passed: Pass) -> Value:
        """Returns the regulariser.

        Raises:
            ValueError: a batch of one image, which has no half.
        """
        images, labels = passed.batch.image, passed.labels
        half, batch_size = images.shape[0] // 2, images.shape[0]
        if half < 1:
            raise ValueError(f"Expected batch_size={batch_size} >= 2: half of it is moved.")

        def magnitude(variables: Variables, images: Array, labels: Array) -> Float[Array, ""]:
            """Returns the mean over members and examples of 2 |g|^2."""
            slopes = passed.gradients_at(variables, images, labels)
            if self.reduction == "sum":
                slopes = slopes * images.shape[0]
            return 2 * jnp.mean(jnp.sum(jnp.square(slopes), axis=-1))

        eps, still = self.eps_at(passed.epoch), lax.stop_gradient(passed.variables)
        moved_images = self._ascend(
            lambda x: magnitude(still, x, labels[half:]),
            images[half:],
            eps,
            rng.stream(rng.required_key(passed.key), "ascent"),
        )
        cosine, _ = pairwise_cosines(passed.gradients)
        cosine = jnp.mean(jnp.abs(cosine))
        points = lax.stop_gradient(jnp.concatenate([images[:half], moved_images]))
        norms = magnitude(passed.variables, points, labels)
        report = {"gradient_cosine": cosine, "smoothness": norms, "eps": eps}
        penalty = self.coefficient * cosine + self.smoothness * norms
        return Value(self.scale * penalty, report)

    def _ascend(
        self,
        magnitude: Callable[[Array], Array],
        images: Array,
        eps: Float[Array, ""],
        key: Key[Array, ""],
    ) -> Float[Array, "b h w k"]:
        """Returns points near the images at which the members' gradients are large."""
        low, high = jnp.maximum(images - eps, 0.0), jnp.minimum(images + eps, 1.0)
        noise = jax.random.uniform(key, images.shape, images.dtype, -1.0, 1.0)
        slope = jax.grad(magnitude)

        def step(_: Int[Array, ""], state: tuple[Array, Array]) -> tuple[Array, Array]:
            x, total = state
            total = self.momentum * total + slope(x)
            return jnp.clip(x + eps / 3 * jnp.sign(total), low, high), total

        start = jnp.clip(images + eps * noise, low, high)
        found, _ = lax.fori_loop(0, self.num_steps, step, (start, jnp.zeros_like(images)))
        return found


@dataclasses.dataclass(frozen=True)
class TransferabilityReducedSmooth(_Symbols, EnsembleMethod):
    """An ensemble trained with TRS.

    With g_i(x) the gradient at x of member i's cross-entropy, x' near the images, the loss is ::

        sum_i CE_i + scale (coefficient mean_{i<j} mean_x |cos(g_i(x), g_j(x))|
                            + smoothness mean_i mean_x' 2 |g_i(x')|^2)

    Views: those of `network_method`.

    The loss reports `cross_entropy` (sum over members), `gradient_cosine` (mean of the absolute
    cosines), `smoothness` (the mean of `2 |g_i|^2`) and `eps`.

    Attributes:
        scale: weight of the regulariser.
        coefficient: weight of the absolute cosines in it.
        smoothness: weight of the gradients' squared norms in it.
        init_eps: radius of the ascent in the first epoch, pixels in [0, 1].
        final_eps: radius that is reached after `num_epochs`; with both 0 no image is moved.
        num_epochs: epochs of that growth; None for the run's own.
        num_steps: of the ascent.
        momentum: share of the sum of the former gradients that a step of the ascent keeps.
        reduction: "mean" or "sum" over the batch of the cross-entropy whose gradients are measured.

    Fields beside these are those of `MethodConfig`.

    References:
        Yang et al., "TRS: Transferability Reduced Ensemble via Promoting Gradient Diversity and
        Model Smoothness", NeurIPS 2021.

    Example:
        >>> from robust_jax.methods import TransferabilityReducedSmooth
        >>> config = TransferabilityReducedSmooth(scale=5.0, init_eps=8 / 255, final_eps=8 / 255)
        >>> config.network.num_members, [type(term).__name__ for term in config.all_terms]
        (3, ['CrossEntropy', 'SmoothDissimilarity'])
    """

    @property
    def own_terms(self) -> tuple[Term, ...]:
        """Returns the members' cross-entropies and the regulariser."""
        return CrossEntropy("sum"), self.part(SmoothDissimilarity)
