"""Views made of views, so that any attack becomes an attack on a random or opaque model."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from robust_jax import rng
from robust_jax.attacks import base, losses

Average = Literal["probabilities", "logits", "gradients"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ExpectationOverTransformation:
    """The view that `eot` makes."""

    view: Any
    num_samples: int = dataclasses.field(metadata={"static": True})
    average: Average = dataclasses.field(metadata={"static": True})
    parallel: bool = dataclasses.field(metadata={"static": True})

    def __call__(self, images: Array, *, key: Key[Array, ""]) -> Float[Array, "*s b c"]:
        """Returns the averaged logits, or the draws where gradients are averaged."""

        @jax.checkpoint
        def draw(sample):
            return self.view(images, key=rng.stream(key, "draw", sample))

        samples = jnp.arange(self.num_samples)
        logits = jax.vmap(draw)(samples) if self.parallel else jax.lax.map(draw, samples)
        if self.average == "gradients":
            return logits
        if self.average == "logits":
            return jnp.mean(logits, axis=0)
        return losses.decision(logits)


def eot(
    view: Any,
    num_samples: int,
    *,
    average: Average = "probabilities",
    parallel: bool = False,
) -> ExpectationOverTransformation:
    """Returns the view of a random model averaged over fresh draws at every call.

    Args:
        view: a random view.
        num_samples: number of draws, each under its own key.
        average: "probabilities": the log of the mean probability (what a soft vote over draws
            deploys); "logits": the mean logit; "gradients": the draws themselves [s b c], of
            which an attack averages the losses, so its gradient is the mean of theirs.
        parallel: all draws at once. Costs `num_samples` times the memory of one pass; in turn
            (the default) the memory is that of one pass, and the forward pass is computed twice.

    References:
        Athalye, Engstrom, Ilyas, Kwok, "Synthesizing robust adversarial examples", 2018.
    """
    if num_samples < 1:
        raise ValueError(f"Expected num_samples={num_samples} >= 1.")
    if average not in ("probabilities", "logits", "gradients"):
        raise ValueError(
            f"Expected average={average!r} to be one of ['gradients', 'logits', 'probabilities']."
        )
    return ExpectationOverTransformation(base.as_pytree(view), num_samples, average, parallel)
