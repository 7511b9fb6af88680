"""Laplace priority dropout (LPD), its predecessor PDD, and the gradient regulariser DEG.

Wu et al., "Deep Ensemble Robustness by Adaptive Sampling in Dropout-Based Simultaneous Training",
ECAI 2023: LPD. Huang et al., "Adversarial Defence by Diversified Simultaneous Training of Deep
Ensembles", AAAI 2021: PDD and DEG ("PDD" in the tables of the former is PDD with DEG).

The pooled features of all members, which their last layers act on, are dropped in training with
keep rates computed from the features themselves: each member keeps those whose strength is common
in the ensemble and assigned to it. At prediction nothing is dropped.

Where the papers leave a choice, the first named is the default:

* statistics are those of each example (PDD's code; algorithm 1 says "in each training period"),
  `statistics="batch"` takes one histogram per member over the batch;
* kept features are not rescaled, in training or at prediction (PDD's code; equation 6 says only
  "keep with probability"), so logits are larger at prediction than in training;
  `rescale="inverted"` divides kept features by their keep rates, as dropout usually does;
* gamma is given nowhere. 1 is practically no dropout, 100 to 1000 give the behaviour that the
  paper describes;
* equally frequent intervals are ranked from the weakest up, empty ones after all others;
* the text says that features "activated more frequently" are kept more often, equation 4 that they
  are kept less: equation 4 it is.

No gradient flows through the keep rates (PDD's code). The loss is the mean of the members'
cross-entropies.
"""

import abc
import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Int, Key

from robust_jax import metrics, rng, voting
from robust_jax.methods.base import Method, MethodConfig
from robust_jax.methods.gradient_diversity import (
    check_ensemble,
    map_members,
    of_ensemble,
    pairwise_cosines,
)
from robust_jax.methods.network import (
    classifier,
    cross_entropy,
    members_cross_entropy,
    network_method,
)
from robust_jax.models import (
    Classifier,
    EnsembleConfig,
    NetworkConfig,
    ResNetConfig,
    default_layers,
)
from robust_jax.types import Task

Statistics = Literal["example", "batch"]


@dataclasses.dataclass(frozen=True)
class KeepRates(abc.ABC):
    """Keep rates of pooled features; subclasses define them.

    Attributes:
        statistics: histograms of each "example", or of the whole "batch".
        num_intervals: length of the histograms; at least one interval per member.
    """

    statistics: Statistics = "example"
    num_intervals: int = 10

    @abc.abstractmethod
    def __call__(self, features: Float[Array, "m b f"]) -> Float[Array, "m b f"]:
        """Returns the probability with which each feature is kept."""

    def _counts(
        self, interval: Int[Array, "m b f"], num: int, used: Array
    ) -> Float[Array, "m #b l"]:
        """Returns how many used features of each member lie in each interval.

        With statistics="batch" the counts are those of the batch and b is 1. Counting scatters
        into [m b l]: nothing of the size of features x intervals is made.
        """

        def count(interval: Array, used: Array) -> Array:
            return jnp.zeros(num, jnp.float32).at[interval].add(used)

        counts = jax.vmap(jax.vmap(count))(interval, used.astype(jnp.float32))
        if self.statistics == "batch":
            counts = jnp.sum(counts, axis=1, keepdims=True)
        return counts


def _at(counts: Float[Array, "m #b l"], interval: Int[Array, "m b f"]) -> Float[Array, "m b f"]:
    """Returns the count of each feature's own interval; counts may be the batch's, with b = 1."""
    shape = (*interval.shape[:2], counts.shape[-1])
    return jnp.take_along_axis(jnp.broadcast_to(counts, shape), interval, axis=-1)


def _priorities(counts: Float[Array, "m b l"]) -> Int[Array, "m b 1"]:
    """Returns member k's interval: the k-th most frequent over all members."""
    # top_k puts the lower of equal entries first.
    _, order = lax.top_k(jnp.sum(counts, axis=0), counts.shape[0])
    return jnp.transpose(order)[:, :, None]


@dataclasses.dataclass(frozen=True)
class LaplaceRates(KeepRates):
    """LPD: rates fall smoothly with the distance from the member's priority interval.

    Intervals have length s, mu is the middle of the feature's own (equation 3), n_k(mu) counts
    member k's active features there, C_k all its active features, and r_k is the middle of the
    interval that is k-th most frequent over the ensemble. Then

        z = gamma n_k(mu) / C_k (r_k - mu)^2                    (equation 4)
        rate = alpha / (2 lambda) exp(-z / lambda) + beta       (equations 5 and 6)

    Attributes:
        gamma: of equation 4.
        alpha: of equation 6.
        beta: of equation 6, the smallest rate.
        laplace_lambda: lambda. Where alpha / (2 lambda) + beta exceeds 1, rates above 1 count as 1.
        interval: s.
        threshold: epsilon; features that are not above it are inactive: not counted, and kept.
        num_intervals: features above num_intervals * interval are counted in the last one.
    """

    num_intervals: int = 128
    gamma: float = 100.0
    alpha: float = 0.85
    beta: float = 0.127
    laplace_lambda: float = 0.5
    interval: float = 0.1
    threshold: float = 0.0

    def __post_init__(self) -> None:
        for name in ("gamma", "alpha", "threshold"):
            if getattr(self, name) < 0:
                raise ValueError(f"Expected {name}={getattr(self, name)} >= 0.")
        if not 0 <= self.beta <= 1:
            raise ValueError(f"Expected 0 <= beta={self.beta} <= 1.")
        for name in ("laplace_lambda", "interval"):
            if getattr(self, name) <= 0:
                raise ValueError(f"Expected {name}={getattr(self, name)} > 0.")

    def __call__(self, features: Float[Array, "m b f"]) -> Float[Array, "m b f"]:
        """Returns the probability with which each feature is kept.

        Raises:
            ValueError: fewer intervals than members.
        """
        _check_intervals(self.num_intervals, features.shape[0])
        active = features > self.threshold
        position = jnp.ceil(features / self.interval).astype(jnp.int32) - 1
        position = jnp.clip(position, 0, self.num_intervals - 1)
        counts = self._counts(position, self.num_intervals, active)
        density = counts / jnp.maximum(jnp.sum(counts, axis=-1, keepdims=True), 1.0)
        steps = (_priorities(counts) - position).astype(jnp.float32)
        z = self.gamma * _at(density, position) * jnp.square(steps * self.interval)
        kernel = jnp.exp(-z / self.laplace_lambda) / (2 * self.laplace_lambda)
        rates = jnp.minimum(self.alpha * kernel + self.beta, 1.0)
        return jnp.where(active, rates, 1.0)


@dataclasses.dataclass(frozen=True)
class PriorityRates(KeepRates):
    """PDD: one rate in the member's priority interval, lower ones elsewhere (equation 2).

    The features of all members are divided into M intervals between their smallest and their
    largest; zeros count. The rate is alpha in the member's priority interval, the k-th most
    frequent over the ensemble, and beta (1 - N_k(m) / C_k) in interval m, where N_k(m) of the
    member's C_k features lie.

    Attributes:
        num_intervals: M; the authors' code has 10 for 3 members, 20 for 5.
        alpha: rate in the priority interval.
        beta: largest rate elsewhere.
    """

    alpha: float = 0.9
    beta: float = 0.1

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Expected 0 <= {name}={getattr(self, name)} <= 1.")

    def __call__(self, features: Float[Array, "m b f"]) -> Float[Array, "m b f"]:
        """Returns the probability with which each feature is kept.

        Raises:
            ValueError: fewer intervals than members.
        """
        _check_intervals(self.num_intervals, features.shape[0])
        axes = (0, 2) if self.statistics == "example" else (0, 1, 2)
        low = jnp.min(features, axes, keepdims=True)
        span = jnp.max(features, axes, keepdims=True) - low
        share = (features - low) / jnp.where(span > 0, span, 1.0)
        position = jnp.floor(share * self.num_intervals).astype(jnp.int32)
        position = jnp.minimum(position, self.num_intervals - 1)
        counts = self._counts(position, self.num_intervals, jnp.ones_like(features))
        density = counts / jnp.sum(counts, axis=-1, keepdims=True)
        elsewhere = self.beta * (1 - _at(density, position))
        return jnp.where(position == _priorities(counts), self.alpha, elsewhere)


def _check_intervals(num_intervals: int, num_members: int) -> None:
    if num_intervals < num_members:
        raise ValueError(f"Expected num_intervals={num_intervals} >= {num_members}, the members.")


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
        _check_intervals(self.rates.num_intervals, network.num_members)
        if self.deg_weight < 0:
            raise ValueError(f"Expected deg_weight={self.deg_weight} >= 0.")

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset."""
        ensemble, layers = check_ensemble(self.network), default_layers()
        network = classifier(self, task, layers)
        member = Classifier(
            ensemble.member.make(task.num_classes, layers), self.normalization, self.dtype
        )
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
