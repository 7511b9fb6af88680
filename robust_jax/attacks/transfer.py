"""Attacks made to carry over to other models."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from robust_jax import rng
from robust_jax.attacks.bounded import LossAttack
from robust_jax.attacks.checks import (
    check_counts,
    check_height_and_width,
    check_nonnegative,
    check_positive,
)
from robust_jax.attacks.pgd import climb
from robust_jax.attacks.runs import Found, Given, Run
from robust_jax.types import Index, View


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DiverseView:
    """A view of images that are shrunk and moved at random, each by draws of its own."""

    view: View
    index: Index
    probability: float = dataclasses.field(metadata={"static": True})
    smallest: float = dataclasses.field(metadata={"static": True})

    def __call__(self, images: Array, *, key: Key[Array, ""]) -> Float[Array, "*s b c"]:
        """Returns the logits of the transformed images."""
        height, width, num_channels = images.shape[1:]
        dtype = images.dtype

        def change(image, key):
            draws = jax.random.uniform(key, (4,), dtype)
            scale = self.smallest + (1 - self.smallest) * draws[0]
            room = (1 - scale) * jnp.asarray([height, width], dtype)
            shrunk = jax.image.scale_and_translate(
                image,
                (height, width, num_channels),
                (0, 1),
                jnp.stack([scale, scale]),
                room * draws[1:3],
                "linear",
                antialias=False,
            )
            return jnp.where(draws[3] < self.probability, shrunk, image)

        keys = rng.per_example(rng.stream(key, "diverse"), self.index)
        return self.view(jax.vmap(change)(images, keys), key=rng.stream(key, "view"))


@dataclasses.dataclass(frozen=True)
class MDI2FGSM(LossAttack):
    """MIM whose every gradient is taken at an image shrunk, moved and padded at random.

    Attributes:
        num_steps: number of steps.
        step_size: length of a step; None is eps / num_steps.
        decay: what is left of the sum of gradients at each step, see `MIM`.
        probability: share of steps with a transformed image.
        smallest: least size of the image, as a share.

    References:
        Xie et al., "Improving transferability of adversarial examples with input diversity", 2019
        (there images grow; here they shrink, so that networks of fixed size can be attacked).
    """

    in_steps: ClassVar[bool] = True

    num_steps: int = 10
    step_size: float | None = None
    decay: float = 1.0
    probability: float = 0.5
    smallest: float = 0.9

    def __post_init__(self) -> None:
        """Raises ValueError for steps or shares that make no sense."""
        super().__post_init__()
        check_counts(self, "num_steps")
        check_positive(self, "step_size")
        check_nonnegative(self, "decay")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"Expected probability={self.probability} in [0, 1].")
        if not 0 < self.smallest <= 1:
            raise ValueError(f"Expected smallest={self.smallest} in (0, 1].")

    def check(self, images: Array | np.ndarray) -> None:
        """Raises ValueError unless the images are [b h w k]."""
        super().check(images)
        check_height_and_width(images)

    def reduced(self) -> "MDI2FGSM":
        """Returns the attack itself."""
        return self

    def run(self, run: Run, given: Given) -> Found:
        """Returns the end of the steps."""
        steps = self.num_steps
        length = self.threat.eps / steps if self.step_size is None else self.step_size
        diverse = DiverseView(given.view, given.index, self.probability, self.smallest)
        given = given._replace(view=diverse)
        return climb(self, run, given, num_steps=steps, step_size=length, decay=self.decay)
