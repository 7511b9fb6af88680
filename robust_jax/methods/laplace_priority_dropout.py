"""Laplace priority dropout (LPD), its predecessor PDD, and the gradient regulariser DEG.

Wu et al., "Deep Ensemble Robustness by Adaptive Sampling in Dropout-Based Simultaneous Training",
ECAI 2023: LPD. Huang et al., "Adversarial Defence by Diversified Simultaneous Training of Deep
Ensembles", AAAI 2021: PDD and DEG ("PDD" in the tables of the former is PDD with DEG).

The pooled features of all members, which their last layers act on, are dropped in training with
keep rates computed from the features themselves (`priority_rates.py`): each member keeps those
whose strength is common in the ensemble and assigned to it (algorithm 1; line 12 is the drop). At
prediction nothing is dropped.

Where the papers leave a choice, the first named is the default:

* kept features are not rescaled, in training or at prediction (PDD's code; equation 6 says only
  "keep with probability"), so logits are larger at prediction than in training;
  `rescale="inverted"` divides kept features by their keep rates, as dropout usually does;
* what the keep rates leave open: `priority_rates.py`.

No gradient flows through the keep rates (PDD's code). The loss is the mean of the members'
cross-entropies.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Key

from robust_jax import metrics, rng, voting
from robust_jax.methods.base import Method, MethodConfig
from robust_jax.methods.gradient_diversity import (
    check_ensemble,
    map_members,
    member_classifier,
    of_ensemble,
    pairwise_cosines,
)
from robust_jax.methods.network import (
    classifier,
    cross_entropy,
    members_cross_entropy,
    network_method,
)
from robust_jax.methods.priority_rates import KeepRates, LaplaceRates, check_intervals
from robust_jax.models import EnsembleConfig, NetworkConfig, ResNetConfig, default_layers
from robust_jax.types import Task


@dataclasses.dataclass(frozen=True)
class PriorityDropout(MethodConfig):
    """An ensemble trained with feature dropout at rates that its members' features set together.

    Views: those of `network_method`; `train` is the loss's forward pass, with dropout.

    The loss reports `accuracy` (the vote's, with dropout), `keep_rate` and `keep_rate_std` (over
    active features, the positive ones) and `active` (their share); with DEG `gradient_cosine`
    (mean over pairs and examples).

    Attributes:
        network: an `EnsembleConfig`.
        rates: `LaplaceRates()` for LPD, `PriorityRates()` for PDD.
        rescale: "none", or "inverted": kept features are divided by their rates.
        deg_weight: weight of DEG, the sum over pairs of the mean cosine between the gradients of
            two members' cross-entropies at the images; 0 for none, 0.01 in the authors' code. It
            makes training second order. Gradients go through the batch's statistics, as in that
            code; its constant in the cosine's denominator (1e-64) is zero in float32.
    """

    network: NetworkConfig = EnsembleConfig(ResNetConfig(depth=18), num_members=3)
    rates: KeepRates = LaplaceRates()
    rescale: Literal["none", "inverted"] = "none"
    deg_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        network = check_ensemble(self.network)
        check_intervals(self.rates.num_intervals, network.num_members)
        if self.deg_weight < 0:
            raise ValueError(f"Expected deg_weight={self.deg_weight} >= 0.")

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset."""
        ensemble, member = check_ensemble(self.network), member_classifier(self, task)
        network = classifier(self, task, default_layers())
        method = network_method(network, self, task)

        def factors(features: Array, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
            """Returns what the features are multiplied by, a constant, and what to report."""
            features = lax.stop_gradient(features).astype(jnp.float32)
            rates = self.rates(features)
            mask = jax.random.bernoulli(key, rates)
            kept = jnp.where(mask, 1 / rates if self.rescale == "inverted" else 1.0, 0.0)
            return kept, _statistics(features, rates)

        def forward(variables, images, key):
            def run(module, images):
                features, _ = module.features(images, train=True, deterministic=True)
                kept, found = factors(features, rng.stream(key, "dropout"))
                dropped = features * kept.astype(features.dtype)
                return module.head(dropped, train=True, deterministic=True), found

            (member_logits, found), moved = network.apply(
                variables, images, method=run, mutable=["batch_stats"]
            )
            return member_logits, moved, found

        def forward_with_gradients(variables, batch, key):
            """Returns the same, and the gradients of the members' cross-entropies at the images."""
            features, _ = lax.stop_gradient(
                network.apply(
                    variables, batch.image, train=True, deterministic=True, method="features",
                    mutable=["batch_stats"],
                )[0]
            )  # fmt: skip
            kept, found = factors(features, rng.stream(key, "dropout"))

            def of_member(variables, kept):
                def run(module: nn.Module, images):
                    features, _ = module.features(images, train=True, deterministic=True)
                    dropped = features * kept.astype(features.dtype)
                    return module.head(dropped, train=True, deterministic=True)

                def crossed(images):
                    logits, moved = member.apply(
                        variables, images, method=run, mutable=["batch_stats"]
                    )
                    value = cross_entropy(logits, batch.label, self.label_smoothing)
                    return value, (logits, moved)

                return jax.grad(crossed, has_aux=True)(batch.image)

            gradients, (member_logits, moved) = map_members(
                of_member, variables, kept, strategy=ensemble.strategy
            )
            cosine, _ = pairwise_cosines(gradients.reshape((*gradients.shape[:2], -1)))
            found["gradient_cosine"] = jnp.mean(cosine)
            return member_logits, of_ensemble(moved), found, cosine

        def loss(variables, batch, *, key, step):
            del step
            penalty = jnp.zeros(())
            if self.deg_weight:
                member_logits, moved, found, cosine = forward_with_gradients(variables, batch, key)
                penalty = jnp.sum(jnp.mean(cosine, axis=-1))
            else:
                member_logits, moved, found = forward(variables, batch.image, key)
            crossed = members_cross_entropy(
                member_logits, batch.label, "mean", self.label_smoothing
            )
            accuracy = metrics.accuracy(voting.scores(member_logits, self.vote), batch.label)
            found = {"accuracy": accuracy, "cross_entropy": crossed, **found}
            return crossed + self.deg_weight * penalty, (moved, found)

        def train_view(variables, images, *, key):
            member_logits, _, _ = forward(variables, images, key)
            return voting.logits(member_logits, self.vote)

        return method._replace(loss=loss, views={**method.views, "train": train_view})


def _statistics(features: Array, rates: Array) -> dict[str, Array]:
    """Returns mean and deviation of the keep rates of active features, and their share."""
    active = (features > 0).astype(jnp.float32)
    total = jnp.maximum(jnp.sum(active), 1.0)
    mean = jnp.sum(active * rates) / total
    variance = jnp.sum(active * jnp.square(rates - mean)) / total
    return {
        "keep_rate": mean,
        "keep_rate_std": jnp.sqrt(variance),
        "active": jnp.mean(active),
    }
