"""Margins over a ball of images as a certificate: by intervals or by CROWN."""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from robust_jax import voting
from robust_jax.certify.ascent import SlopeAscent
from robust_jax.certify.base import Certificate
from robust_jax.certify.checks import check_batch, check_classes, shape_of
from robust_jax.certify.crown import (
    IMAGES_AT_ONCE,
    TOLERANCE,
    BallNorm,
    Intermediate,
    crown_margins,
    prepared,
    smallest_margin,
)
from robust_jax.certify.intervals import interval_bounds, interval_margins
from robust_jax.certify.network import Input, forward
from robust_jax.runtime.live import as_pytree, compiled

INSIDE = 32.0
"""A value inside a network counts as one of the scores so many times smaller: rounding a value v
is 6e-8 v, of which many add up."""


@dataclasses.dataclass(frozen=True)
class Margins:
    """Certifies the images whose smallest margin stays above a tolerance in a ball.

    Attributes:
        eps: radius of the ball, in pixel units; the ball is cut to [0, 1].
        bound: "crown", or "interval": the lower bound of the label's logit less the upper bound of
            another's, quick and loose; "interval_elided": intervals up to what is linear at the
            network's end, differences of logits from there on (`interval_margins`), which
            training by interval bounds makes large.
        of: what an evaluation certifies of an ensemble: its deployed "vote", from bounds of each
            member's margins, or the "mean_logit" of its members, which decides otherwise unless
            that is the vote (equations 8 and 9 of the paper below).
        tolerance: margin above which an image counts, times its largest absolute logit where that
            is above 1, or a 32nd of its largest value inside the network where that is more:
            bounds are computed in float32, without directed rounding, and so is the network.
        intermediate: of CROWN, see `crown_margins`.
        chunk_size: of CROWN: backward passes at once, which its memory is proportional to.
        ascent: of CROWN's lower slopes (alpha-CROWN), some thirty times the price; None for none.
        norm: of the ball; intervals take the box around it.

    Raises:
        ValueError: a field is none of its values, or not positive; or slopes are to ascend where
            bounds have none.

    Example:
        >>> from robust_jax.certify import Margins
        >>> images, labels = jnp.asarray([[0.6, 0.5], [0.9, 0.5]]), jnp.asarray([0, 0])
        >>> certify = Margins(eps=0.1, bound="interval_elided")
        >>> found = certify(lambda images: images @ jnp.eye(2), images, labels)
        >>> found.label.tolist(), found.margin.round(2).tolist()  # abstains on the first
        ([-1, 0], [-0.1, 0.2])

    References:
        Wu et al., "Deep Ensemble Robustness by Adaptive Sampling in Dropout-Based Simultaneous
        Training", 2023, equations 8 and 9.
    """

    eps: float
    bound: Literal["crown", "interval", "interval_elided"] = "crown"
    of: Literal["vote", "mean_logit"] = "vote"
    tolerance: float = TOLERANCE
    intermediate: Intermediate = "crown"
    chunk_size: int = 128
    ascent: SlopeAscent | None = None
    norm: BallNorm = "linf"

    images_at_once: ClassVar[int] = IMAGES_AT_ONCE
    """Images that an evaluation passes in one call."""

    def __post_init__(self) -> None:
        """Raises ValueError where a field makes no sense."""
        for name in ("eps", "tolerance"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"Expected {name}={getattr(self, name)} > 0 and finite.")
        for name, choices in (
            ("bound", ("crown", "interval", "interval_elided")),
            ("of", ("vote", "mean_logit")),
            ("norm", get_args(BallNorm)),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"Expected {name}={getattr(self, name)!r} to be one of {list(choices)}."
                )
        if self.ascent is not None and self.bound != "crown":
            raise ValueError(f"Expected ascent=None with bound={self.bound!r}: it is of CROWN.")
        if self.chunk_size < 1:
            raise ValueError(f"Expected chunk_size={self.chunk_size} >= 1.")

    def reduced(self) -> "Margins":
        """Returns the certifier at the small budget: itself, as bounds have none."""
        return self

    def __call__(
        self,
        logits: Callable[[Array], Array],
        images: ArrayLike,
        labels: ArrayLike,
        *,
        vote: voting.Vote | None = None,
    ) -> Certificate:
        """Returns the certificates and smallest margins of images' own classes.

        Args:
            logits: function `images -> logits [b c]` that bounds are known of, see
                `crown_margins`; with a vote its members' logits [m b c]. Not behind a softmax: the
                tolerance is of the size of the scores.
            images: clean images [b ...], float32, in [0, 1].
            labels: their classes.
            vote: how members decide together: the margins are then those of the vote's scores.

        Raises:
            ValueError: see `crown_margins`, or the function ends in a softmax.
        """
        images, labels = jnp.asarray(images), jnp.asarray(labels)
        check_batch(images, labels, (0.0, 1.0))
        if not len(images):
            return Certificate(np.zeros(0, np.int32), np.zeros(0), np.zeros(0))
        labels = labels.astype(jnp.int32)  # who abstains has -1, which no uint8 is
        function = as_pytree(logits)
        if vote is not None:
            function = Partial(_by_image, function)
        head = prepared(function, (1, *images.shape[1:])).head
        if head is not None:
            raise ValueError(f"Expected logits in front of the {head}, which hides their size.")

        def decided(margins: Array) -> Float[np.ndarray, " b"]:
            found = margins if vote is None else voting.margins(margins, labels, vote)
            return np.asarray(smallest_margin(found, labels), np.float64)

        margins = self._margins(function, images, labels)
        scores, inside = _largest(function, images)
        slack = self.tolerance * jnp.maximum(1, jnp.maximum(scores, inside / INSIDE))
        slack = slack.reshape(-1, *[1] * (margins.ndim - 1))
        holds = decided(margins - slack) > 0
        label = np.where(holds, np.asarray(labels), -1).astype(np.int32)
        return Certificate(label, np.where(holds, self.eps, 0.0), decided(margins))

    def _margins(
        self, logits: Callable[[Array], Array], images: Array, labels: Array
    ) -> Float[Array, "b *m c"]:
        if self.bound == "crown":
            return crown_margins(
                logits, images, labels, self.eps, norm=self.norm, intermediate=self.intermediate,
                chunk_size=self.chunk_size, ascent=self.ascent,
            )  # fmt: skip
        ball = (jnp.clip(images - self.eps, 0, 1), jnp.clip(images + self.eps, 0, 1))
        if self.bound == "interval_elided":
            return interval_margins(logits, *ball, labels)
        lower, upper = interval_bounds(logits, *ball)
        shape_of(lower, "[b c] or [b m c]", len(images))
        check_classes(labels, lower.shape[-1])
        places = labels.reshape(-1, *[1] * (lower.ndim - 1))
        return jnp.take_along_axis(lower, places, axis=-1) - upper


def _by_image(members: Callable[[Array], Array], images: Array) -> Float[Array, "b m c"]:
    return jnp.moveaxis(members(images), 0, 1)


@compiled
def _largest(
    function: Callable[[Array], Array], images: Array
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """Returns of each image the largest absolute score, and the largest value on the way to it."""
    network = prepared(function, (1, *images.shape[1:]))

    def of_one(image: Array) -> tuple[Array, Array]:
        values: dict[int, Array] = {}
        for number, node in network.nodes.items():
            parents = [values[parent] for parent in network.parents[number]]
            values[number] = image[None] if isinstance(node, Input) else forward(node, parents)
        sizes = {number: jnp.max(jnp.abs(value)) for number, value in values.items()}
        return sizes[network.last], jnp.max(jnp.stack([*sizes.values()]))

    with jax.default_matmul_precision("highest"):
        return jax.vmap(of_one)(images)
