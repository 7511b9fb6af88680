"""Who is probed, and on what."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int

from robust_jax.evaluation.protocol import Evaluation
from robust_jax.methods import Method
from robust_jax.types import Variables


class Probed(NamedTuple):
    """A model and the images that the probes ask it on.

    Attributes:
        method: what is evaluated.
        variables: its arrays.
        images: clean images in [0, 1]; a batch that fits the memory, 64 will do.
        labels: their classes.
        config: the evaluation: which views its attacks see, and in which ball.
    """

    method: Method
    variables: Variables
    images: Float[Array, "b h w k"]
    labels: Int[Array, " b"]
    config: Evaluation
