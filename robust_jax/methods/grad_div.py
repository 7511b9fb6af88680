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

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from robust_jax import metrics, rng, voting
from robust_jax.methods.base import Method, MethodConfig
from robust_jax.methods.draws import averaged
from robust_jax.methods.network import Sampling, classifier, cross_entropy, network_method
from robust_jax.methods.random_self_ensemble import noisy_layers
from robust_jax.models import EnsembleConfig
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
class GradDiv(MethodConfig):
    """A network with noise before every convolution, trained with GradDiv.

    Views: those of `RandomSelfEnsemble`.

    The loss reports `cross_entropy` (mean over draws), `penalty` and `resultant_length` (means over
    examples).

    Attributes:
        init_sigma: standard deviation of the noise before the first convolution.
        inner_sigma: standard deviation of the noise before every other one.
        num_draws: passes of a prediction.
        num_samples: n, draws of a training step.
        penalty: "mean", "kappa" or "dpp".
        weight: of the penalty.
    """

    init_sigma: float = 0.2
    inner_sigma: float = 0.1
    num_draws: int = 10
    num_samples: int = 4
    penalty: Penalty = "mean"
    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        noisy_layers(self.init_sigma, self.inner_sigma)
        if self.num_draws < 1:
            raise ValueError(f"Expected num_draws={self.num_draws} >= 1.")
        if self.num_samples < 2:
            raise ValueError(f"Expected num_samples={self.num_samples} >= 2.")
        if self.weight < 0:
            raise ValueError(f"Expected weight={self.weight} >= 0.")
        if isinstance(self.network, EnsembleConfig):
            raise ValueError("Expected network=EnsembleConfig(...) to be a single network.")

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset."""
        network = classifier(self, task, noisy_layers(self.init_sigma, self.inner_sigma))
        noisy = Sampling(layers=True)
        method = network_method(network, self, task, training=noisy, prediction=noisy)

        def loss(variables, batch, *, key, step):
            del step

            def sample(moved, number):
                def crossed(images):
                    outputs, found = network.apply(
                        {**variables, **moved},
                        images,
                        train=True,
                        deterministic=False,
                        rngs={"sample": rng.stream(key, "draw", number)},
                        mutable=["batch_stats"],
                    )
                    value = cross_entropy(outputs.logits, batch.label, self.label_smoothing)
                    return value, (outputs.logits, found)

                (value, (logits, moved)), slope = jax.value_and_grad(crossed, has_aux=True)(
                    batch.image
                )
                return moved, (slope.reshape(slope.shape[0], -1), value, logits)

            statistics = {name: v for name, v in variables.items() if name == "batch_stats"}
            moved, (slopes, values, logits) = lax.scan(
                sample, statistics, jnp.arange(self.num_samples)
            )
            crossed, penalty = jnp.mean(values), jnp.mean(concentration(slopes, self.penalty))
            found = {
                "accuracy": metrics.accuracy(voting.mean_probability(logits), batch.label),
                "cross_entropy": crossed,
                "penalty": penalty,
                "resultant_length": jnp.mean(resultant_length(unit(slopes))),
            }
            return crossed + self.weight * penalty, (moved, found)

        return averaged(method._replace(loss=loss), self.num_draws, self.vote)
