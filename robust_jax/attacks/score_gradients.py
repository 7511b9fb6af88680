"""The view whose gradient is estimated from differences of scores."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.threat import expand
from robust_jax.runtime.live import as_pytree
from robust_jax.types import KeyArray, View


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GradientFromScores:
    """The view that `nes` makes."""

    view: View
    num_samples: int = dataclasses.field(metadata={"static": True})
    sigma: float = dataclasses.field(metadata={"static": True})
    noise: Literal["gaussian", "rademacher"] = dataclasses.field(metadata={"static": True})

    def __call__(self, images: Array, *, key: KeyArray) -> Float[Array, "b c"]:
        """Returns the logits; their derivative is estimated from differences."""
        view_key, noise_key = rng.stream(key, "view"), rng.stream(key, "noise")
        shape, dtype = images.shape, images.dtype

        def logits(images):
            return losses.decision(self.view(images, key=view_key))

        @jax.custom_vjp
        def estimated(images):
            return logits(images)

        def backward(images, cotangent):
            def pair(sample, total):
                draw_key = rng.stream(noise_key, "pair", sample)
                if self.noise == "gaussian":
                    direction = jax.random.normal(draw_key, shape, dtype)
                else:
                    direction = jax.random.rademacher(draw_key, shape, dtype)
                ahead = logits(images + self.sigma * direction)
                behind = logits(images - self.sigma * direction)
                rise = jnp.sum(cotangent * (ahead - behind), axis=1) / (2 * self.sigma)
                return total + expand(rise.astype(dtype), images) * direction

            start = jnp.zeros(shape, dtype)
            total = jax.lax.fori_loop(0, self.num_samples, pair, start)
            return (total / self.num_samples,)

        estimated.defvjp(lambda images: (logits(images), images), backward)
        return estimated(images)


def nes(
    view: View,
    num_samples: int,
    *,
    sigma: float = 0.001,
    noise: Literal["gaussian", "rademacher"] = "gaussian",
) -> GradientFromScores:
    """Returns the view whose gradient is estimated from differences of scores.

    Every gradient attack on it is a black-box attack. The noise is drawn for the batch, so rows
    are not independent as they are for a deterministic view; the attacks NES and SPSA draw by
    example.

    Args:
        view: a view that need not be differentiable.
        num_samples: pairs of opposite points per gradient.
        sigma: length of the differences.
        noise: "gaussian" (NES) or "rademacher" (SPSA) directions.

    Raises:
        ValueError: there are no pairs, or the differences have no length.

    Example:
        >>> from robust_jax.attacks import as_view, nes
        >>> view = as_view(lambda images: jax.lax.stop_gradient(images))  # scores, no gradients
        >>> images, key = jnp.asarray([[0.5, 0.5]]), jax.random.key(0)
        >>> def first_logit(images):
        ...     return nes(view, 64)(images, key=key)[0, 0]
        >>> jax.grad(first_logit)(images).argmax(1).item()  # it rises with its own pixel
        0

    References:
        Ilyas, Engstrom, Athalye, Lin, "Black-box adversarial attacks with limited queries and
        information", 2018; Uesato et al., "Adversarial risk and the dangers of evaluating against
        weak attacks", 2018.
    """
    if num_samples < 1:
        raise ValueError(f"Expected num_samples={num_samples} >= 1.")
    if not 0 < sigma < float("inf"):
        raise ValueError(f"Expected sigma={sigma} > 0 and finite.")
    if noise not in ("gaussian", "rademacher"):
        raise ValueError(f"Expected noise={noise!r} to be one of ['gaussian', 'rademacher'].")
    return GradientFromScores(as_pytree(view), num_samples, sigma, noise)
