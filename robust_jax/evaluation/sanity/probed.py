"""Who is probed, and on what."""

from collections.abc import Mapping
from typing import NamedTuple

from jaxtyping import Array, Float, Int

from robust_jax.evaluation.attack_runs import AttackRun
from robust_jax.evaluation.judges import Judge
from robust_jax.methods import Method
from robust_jax.types import Variables


class Probed(NamedTuple):
    """A model and the images that the probes ask it on.

    Attributes:
        method: what is evaluated.
        variables: its arrays.
        images: clean images in [0, 1]; a batch that fits the memory, 64 will do.
        labels: their classes.
        attacks: of the evaluation, by name: which views they see, and in which ball.
        judge: whose word counts.
        seed: of the evaluation.
    """

    method: Method
    variables: Variables
    images: Float[Array, "b h w k"]
    labels: Int[Array, " b"]
    attacks: Mapping[str, AttackRun]
    judge: Judge = Judge()
    seed: int = 0
