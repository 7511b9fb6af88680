"""Gradient alignment loss (GAL): members whose loss gradients point different ways; and DEG alone.

Kariyappa and Qureshi, "Improving Adversarial Robustness of Ensembles with Diversity Training",
arXiv 1901.09981, 2019: GAL. Huang et al., "Adversarial Defence by Diversified Simultaneous Training
of Deep Ensembles", AAAI 2021: DEG.

With g_i the gradient at an example of member i's cross-entropy, the loss is

    mean_i CE_i + weight mean_x log sum_{i<j} exp(cos(g_i, g_j))     (GAL)
    mean_i CE_i + weight mean_x sum_{i<j} cos(g_i, g_j)              (DEG: coherence="sum")

GAL's networks have leaky ReLUs (slope .1 in the code; a field of the network), so that few
gradients vanish, and see Gaussian noise on their images.

Sources of the defaults: weight .5, the noise of .045 on each image with probability one half, and
the mean over members are those of DVERGE's repository, whose GAL the field compares with; the
authors published no code. DEG is weight .01 without noise (code of PDD, where `PriorityDropout`
has it together with the dropout).

Deviations from that code: it takes the cross-entropy from a second forward pass of the same images
and moves BatchNorm's statistics twice a step, here one pass serves both and moves them once (the
parameters' gradient is the same); its cosine has a floor of 1e-8 under the product of the norms,
which kills the cosine of examples that are learned, here the cosine is exact and 0 only for a
zero gradient. As there, gradients go through the batch's statistics, and noisy images are not
clipped.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from robust_jax import metrics, rng, voting
from robust_jax.methods.base import Method, MethodConfig
from robust_jax.methods.gradient_diversity import (
    check_ensemble,
    loss_gradients,
    member_classifier,
    pairwise_cosines,
)
from robust_jax.methods.network import classifier, network_method
from robust_jax.models import EnsembleConfig, NetworkConfig, ResNetConfig, default_layers
from robust_jax.types import Task

Coherence = Literal["log_sum_exp", "sum"]


def coherence(cosines: Float[Array, "pairs b"], kind: Coherence) -> Float[Array, " b"]:
    """Returns the coherence of each example's gradients from the cosines of its pairs."""
    if kind == "sum":
        return jnp.sum(cosines, axis=0)
    return jax.nn.logsumexp(cosines, axis=0)


@dataclasses.dataclass(frozen=True)
class GradientAlignment(MethodConfig):
    """An ensemble trained with GAL, or with DEG.

    Views: those of `network_method`; `train` sees the noise of the loss.

    The loss reports `cross_entropy` (mean over members), `gradient_cosine` (mean over pairs and
    examples) and `dead_gradients` (how many of the members' gradients are zero).

    Attributes:
        network: an `EnsembleConfig`.
        weight: of the coherence, lambda.
        coherence: "log_sum_exp" over pairs (GAL), or their "sum" (DEG).
        input_sigma: standard deviation of Gaussian noise on training images.
        noisy_share: probability with which an image has it.
    """

    network: NetworkConfig = EnsembleConfig(
        ResNetConfig(depth=20, activation="leaky_relu", negative_slope=0.1), num_members=3
    )
    weight: float = 0.5
    coherence: Coherence = "log_sum_exp"
    input_sigma: float = 0.045
    noisy_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ensemble(self.network)
        for name in ("weight", "input_sigma"):
            if getattr(self, name) < 0:
                raise ValueError(f"Expected {name}={getattr(self, name)} >= 0.")
        if not 0 <= self.noisy_share <= 1:
            raise ValueError(f"Expected 0 <= noisy_share={self.noisy_share} <= 1.")

    def noisy(
        self, images: Float[Array, "b h w k"], key: Key[Array, ""]
    ) -> Float[Array, "b h w k"]:
        """Returns training images: some of them with noise, none of them clipped."""
        if not self.input_sigma:
            return images
        chosen = jax.random.bernoulli(
            rng.stream(key, "noisy"), self.noisy_share, (images.shape[0], 1, 1, 1)
        )
        noise = jax.random.normal(rng.stream(key, "input_noise"), images.shape, images.dtype)
        return images + jnp.where(chosen, self.input_sigma * noise, 0.0)

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset."""
        ensemble, member = check_ensemble(self.network), member_classifier(self, task)
        method = network_method(classifier(self, task, default_layers()), self, task)

        def loss(variables, batch, *, key, step):
            del step
            found = loss_gradients(
                member,
                variables,
                self.noisy(batch.image, key),
                batch.label,
                label_smoothing=self.label_smoothing,
                strategy=ensemble.strategy,
            )
            cosine, dead = pairwise_cosines(found.gradients)
            crossed = jnp.mean(found.losses)
            penalty = jnp.mean(coherence(cosine, self.coherence))
            report = {
                "accuracy": metrics.accuracy(
                    voting.scores(found.member_logits, self.vote), batch.label
                ),
                "cross_entropy": crossed,
                "gradient_cosine": jnp.mean(cosine),
                "dead_gradients": jnp.sum(dead, dtype=jnp.float32),
            }
            return crossed + self.weight * penalty, (found.moved, report)

        def train_view(variables, images, *, key):
            return method.views["train"](variables, self.noisy(images, key), key=key)

        return method._replace(loss=loss, views={**method.views, "train": train_view})
