"""GradDiv: a random network whose draws have scattered loss gradients.

Lee, Kim and Lee, "GradDiv: Adversarial Robustness of Randomized Neural Networks via Gradient
Diversity Regularization", arXiv 2107.02425, 2021.

For each example n draws of the network have the loss gradients g_1 ... g_n at its image. With u_s
the unit vector along g_s, R = |mean_s u_s| and d pixels, the loss is the mean cross-entropy of the
draws plus a weight times the mean over examples of one of

    mean    R, the mean resultant length
    kappa   R (d - R^2) / (1 - R^2), the estimate of the concentration of a von Mises-Fisher
            distribution (Banerjee et al., JMLR 2005)
    dpp     -log det(U U^T + 1e-6 I), the determinantal point process of the u_s

The random network is RSE's, noise before every convolution, and predicts as it does.

The abstract names the idea and the three kinds of penalty. The authors' code is public
(Sungyoon-Lee/GradDiv), but neither it nor the paper's text was read for this file. So these are the
standard forms of the named quantities, and n = 4, the weight 1 and the 1e-6 (in kappa added to
1 - R^2, so that equal draws have a finite one) are choices of this project, not known to be those
of paper or code. A kappa is about d times an R: its weight should be as much smaller.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from robust_jax import checks, rng
from robust_jax.methods.base import Method
from robust_jax.methods.cross_entropy import CrossEntropy
from robust_jax.methods.network import network_method
from robust_jax.methods.objective import TRAINING, by_draw
from robust_jax.methods.random_self_ensemble import RandomSelfEnsemble
from robust_jax.methods.runs import Member
from robust_jax.methods.terms import Pass, Term, Value
from robust_jax.models.changes import on_images
from robust_jax.models.ensemble import check_single
from robust_jax.types import Task

Penalty = Literal["mean", "kappa", "dpp"]
OFFSET = 1e-6


def unit(vectors: Float[Array, "*rest d"]) -> Float[Array, "*rest d"]:
    """Returns each vector divided by its Euclidean norm; zero where it is zero."""
    # By the largest entry first: squares of a saturated loss's gradients underflow.
    scale = lax.stop_gradient(jnp.max(jnp.abs(vectors), axis=-1, keepdims=True))
    scaled = vectors / jnp.where(scale > 0, scale, 1.0)
    squared = jnp.sum(jnp.square(scaled), axis=-1, keepdims=True)
    return scaled / jnp.sqrt(jnp.where(squared > 0, squared, 1.0))


def resultant_length(directions: Float[Array, "s b d"]) -> Float[Array, " b"]:
    """Returns the length of the mean of unit vectors."""
    squared = jnp.sum(jnp.square(jnp.mean(directions, axis=0)), axis=-1)
    return jnp.sqrt(jnp.maximum(squared, OFFSET**2))  # the root has no gradient at zero


def concentration(gradients: Float[Array, "s b d"], kind: Penalty) -> Float[Array, " b"]:
    """Returns how concentrated the directions of each example's gradients are.

    Args:
        gradients: of each draw.
        kind: see the module's docstring.
    """
    directions = unit(gradients)
    if kind == "dpp":
        gram = jnp.einsum("sbd,tbd->bst", directions, directions, precision="highest")
        eye = jnp.eye(gram.shape[-1], dtype=gram.dtype)
        return -jnp.linalg.slogdet(gram + OFFSET * eye[None]).logabsdet
    length = resultant_length(directions)
    if kind == "mean":
        return length
    squared, dimensions = jnp.square(length), gradients.shape[-1]
    return length * (dimensions - squared) / (1 - squared + OFFSET)


@dataclasses.dataclass(frozen=True)
class Concentration(Term):
    """How concentrated the draws' loss gradients are.

    Reports `penalty` and `resultant_length`, means over examples.

    Attributes:
        kind: "mean", "kappa" or "dpp".
        weight: of the penalty.

    References:
        Lee, Kim and Lee, "GradDiv", arXiv 2107.02425, 2021 (the idea; the forms are the module's).

    Example:
        >>> from robust_jax.methods.grad_div import concentration
        >>> alike = jnp.array([[[1.0, 0.0]], [[1.0, 0.0]]])  # of two draws, [s b d]
        >>> opposed = jnp.array([[[1.0, 0.0]], [[-1.0, 0.0]]])
        >>> [round(float(concentration(g, "mean")[0]), 3) for g in (alike, opposed)]
        [1.0, 0.0]
    """

    gradients = True

    kind: Penalty = "mean"
    weight: float = 1.0

    def __post_init__(self) -> None:
        checks.at_least(self, 0, "weight")

    def __call__(self, passed: Pass) -> Value:
        """Returns the weighted penalty.

        Raises:
            ValueError: there is one draw alone, which has nothing to scatter from: GradDiv's has
                several.
        """
        if len(passed.gradients) < 2:
            raise ValueError("Expected terms=Concentration of GradDiv's draws, or of members: 1.")
        penalty = jnp.mean(concentration(passed.gradients, self.kind))
        length = jnp.mean(resultant_length(unit(passed.gradients)))
        return Value(self.weight * penalty, {"penalty": penalty, "resultant_length": length})


@dataclasses.dataclass(frozen=True)
class GradDiv(RandomSelfEnsemble):
    """A network with noise before every convolution, trained with GradDiv.

    With u_s the unit vector along the loss gradient of draw s, `R = |mean_s u_s|`, the loss is the
    draws' mean cross-entropy plus `weight` times the mean over examples of R ("mean"), of the
    concentration that R estimates ("kappa"), or of `-log det(U U^T + 1e-6 I)` ("dpp").

    Views: those of `RandomSelfEnsemble`.

    The loss reports `cross_entropy` (mean over draws), `penalty` and `resultant_length` (means over
    examples).

    Attributes:
        num_samples: n, draws of a training step.
        penalty: "mean", "kappa" or "dpp".
        weight: of the penalty.

    Fields beside these are those of `RandomSelfEnsemble`.

    Raises:
        ValueError: less than two draws, or a network that is an ensemble.

    References:
        Lee, Kim and Lee, "GradDiv: Adversarial Robustness of Randomized Neural Networks via
        Gradient Diversity Regularization", arXiv 2107.02425, 2021.

    Example:
        >>> from robust_jax.methods import GradDiv
        >>> from robust_jax.models import CNNConfig
        >>> config = GradDiv(CNNConfig(), num_samples=4, penalty="dpp", weight=0.1)
        >>> [type(term).__name__ for term in config.all_terms], config.samples_in("training")
        (['CrossEntropy', 'Concentration'], True)
    """

    num_samples: int = 4
    penalty: Penalty = "mean"
    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least(self, 2, "num_samples")
        check_single(self.network)

    @property
    def own_terms(self) -> tuple[Term, ...]:
        """Returns the mean cross-entropy of the draws and the penalty."""
        return CrossEntropy("mean"), Concentration(self.penalty, self.weight)

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset."""
        network = self.classifier(task)

        def draw(variables, images, key, number):
            root = rng.stream(rng.required_key(key), "draw", number)
            seen = on_images(self.all_changes, images, TRAINING, root)
            return Member(network, variables, seen, root).logits()

        runs = by_draw(self, self.num_samples, draw)
        return network_method(network, self, task, runs=runs)
