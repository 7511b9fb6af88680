"""Margins over a ball of images as a certificate: by intervals or by CROWN."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from robust_jax.certify.base import Certificate
from robust_jax.certify.crown import Intermediate, crown_margins, smallest_margin
from robust_jax.certify.intervals import interval_bounds


@dataclasses.dataclass(frozen=True)
class Margins:
    """Certifies the images whose smallest margin stays above 0 in an Linf ball.

    Attributes:
        eps: radius of the ball, in pixel units; the ball is cut to [0, 1].
        bound: "crown", or "interval": the lower bound of the label's logit less the upper bound of
            another's, quick and loose.
        intermediate: of CROWN, see `crown_margins`.
        chunk_size: of CROWN: backward passes at once, which its memory is proportional to.

    References:
        Wu et al., "Deep Ensemble Robustness by Adaptive Sampling in Dropout-Based Simultaneous
        Training", 2023, equations 8 and 9.
    """

    eps: float
    bound: Literal["crown", "interval"] = "crown"
    intermediate: Intermediate = "crown"
    chunk_size: int = 64

    def __post_init__(self) -> None:
        """Raises ValueError where a field makes no sense."""
        if not (math.isfinite(self.eps) and self.eps > 0):
            raise ValueError(f"Expected eps={self.eps} > 0 and finite.")
        if self.chunk_size < 1:
            raise ValueError(f"Expected chunk_size={self.chunk_size} >= 1.")

    def __call__(self, logits: Callable[[Array], Array], images: Any, labels: Any) -> Certificate:
        """Returns the certificates and smallest margins of images' own classes.

        Args:
            logits: function `images -> logits [b c]` that bounds are known of, see `crown_margins`.
            images: clean images [b ...], float32, in [0, 1].
            labels: their classes.
        """
        images, labels = jnp.asarray(images), jnp.asarray(labels)
        margin = np.asarray(smallest_margin(self._margins(logits, images, labels), labels))
        holds = margin > 0
        label = np.where(holds, np.asarray(labels), -1).astype(np.int32)
        return Certificate(label, np.where(holds, self.eps, 0.0), margin.astype(np.float64))

    def _margins(
        self, logits: Callable[[Array], Array], images: Array, labels: Array
    ) -> Float[Array, "b c"]:
        if self.bound == "crown":
            fields = {"intermediate": self.intermediate, "chunk_size": self.chunk_size}
            return crown_margins(logits, images, labels, self.eps, **fields)
        ball = (jnp.clip(images - self.eps, 0, 1), jnp.clip(images + self.eps, 0, 1))
        lower, upper = interval_bounds(logits, *ball)
        return jnp.take_along_axis(lower, labels[:, None], axis=1) - upper
