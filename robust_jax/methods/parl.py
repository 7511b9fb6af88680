"""Pairwise adversarially robust loss (PARL): members whose features have dissimilar gradients.

Alam et al., "PARL: Enhancing Diversity of Ensemble Networks to Resist Adversarial Attacks via
Pairwise Adversarially Robust Loss Function", arXiv 2112.04948v1, 2021.

For member i, convolution k and example x, G_i^k(x) is the gradient at x of the sum of all outputs
of that convolution (section 4.1). The penalty of a pair is the mean over examples of the cosines
of their gradients, summed over the first H convolutions (section 4.2); equation 1 adds the pairs'
penalties to the members' cross-entropies. Training differentiates through G: second order.

Where the paper leaves a choice, the first named is the default:

* a layer's output is that of the convolution itself, before BatchNorm and activation; 3 x 3
  convolutions count, 1 x 1 projections do not (neither is said; the authors' later code does so);
* the penalty is the sum over layers (the paper's text, R in [-H, H]); `layer_reduction="mean"`
  makes R at most 1, as the paper's remark "R close to 1" has it;
* batch statistics inside G are constants ("constant"): then G_i^k(x) depends on x alone. "batch"
  differentiates them as automatic differentiation does by default, which couples examples;
  "running" normalises by the running statistics (the paper does not say);
* equal votes of the majority are decided by the larger mean probability;
  vote="majority_lowest_class" takes the smallest label, as the authors' later code does.

For k = 1 the convolution is linear, so G is the same for every image: there the penalty acts on
the channel sums of the first layer's kernels alone.
"""

import dataclasses
import functools
import itertools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from robust_jax import metrics, voting
from robust_jax.methods.base import Method, MethodConfig
from robust_jax.methods.gradient_diversity import (
    check_ensemble,
    first_convolutions,
    map_members,
    member_classifier,
    of_ensemble,
    pairwise_cosines,
)
from robust_jax.methods.network import classifier, members_cross_entropy, network_method
from robust_jax.models import (
    BatchNorm,
    EnsembleConfig,
    NetworkConfig,
    ResNetConfig,
    default_layers,
)
from robust_jax.types import Task, Variables

BatchStatistics = Literal["constant", "batch", "running"]


def feature_gradients(
    network: nn.Module,
    variables: Variables,
    images: Float[Array, "b h w k"],
    *,
    num_layers: int,
    train: bool = True,
) -> Float[Array, "layers b h w k"]:
    """Returns G: the gradient at the images of each first convolution's summed outputs.

    The summed output of a convolution is linear in its input with weights that no image changes,
    so the first step of every backward pass is made once, not per example.

    Args:
        network: a classifier around one network whose batch statistics are constants; with
            others the examples' gradients are coupled.
        variables: its variables.
        images: where.
        num_layers: H.
        train: normalise by the batch's statistics, else by the running ones.

    Raises:
        ValueError: the network has fewer 3 x 3 convolutions.
    """

    @jax.jit  # traced once for all layers
    def summed_outputs(images: Array) -> list[Array]:
        sums = []
        for found in first_convolutions(
            network, variables, images, train=train, num_layers=num_layers
        ):
            kernel = variables["params"]
            for name in (*found.path, "kernel"):
                kernel = kernel[name]
            zeros = jnp.zeros((1, *found.images.shape[1:]), found.images.dtype)
            ones = jnp.ones((1, *found.output.shape[1:]), found.output.dtype)
            _, pull_back = jax.vjp(
                lambda x, found=found, kernel=kernel: found.module.convolve(x, kernel, None), zeros
            )
            (weights,) = pull_back(ones)
            sums.append(jnp.sum(found.images * weights))
        return sums

    return jnp.stack(
        [
            jax.grad(lambda images, layer=layer: summed_outputs(images)[layer])(images)
            for layer in range(num_layers)
        ]
    )


@dataclasses.dataclass(frozen=True)
class PARL(MethodConfig):
    """An ensemble trained by equation 1.

    Views: those of `network_method`; `deployed` and `noise_off` are the mean probability, since a
    majority vote has no gradient, `train` normalises by the batch.

    The loss reports `gradient_cosine` (mean over pairs, layers and examples), `cross_entropy` (sum
    over members) and `dead_gradients` (how many of the members' G are zero; they count as 0).

    Attributes:
        network: an `EnsembleConfig`; its `num_members` is the paper's N.
        vote: how members decide.
        gamma1: weight of the cross-entropy, summed over members.
        gamma2: weight of the penalty, summed over pairs.
        num_layers: H.
        layer_reduction: "sum" or "mean" of the cosines over layers.
        batch_statistics: how G treats BatchNorm, see the module's docstring.
        pairs: of members that are penalised, numbers from 0; empty for all. Section 4: two members
            whose pair is left out come to have similar decision boundaries.
    """

    network: NetworkConfig = EnsembleConfig(ResNetConfig(depth=20), num_members=3)
    vote: voting.Vote = "majority_mean_probability"
    gamma1: float = 1.0
    gamma2: float = 0.5
    num_layers: int = 7
    layer_reduction: Literal["sum", "mean"] = "sum"
    batch_statistics: BatchStatistics = "constant"
    pairs: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        known = list(itertools.combinations(range(check_ensemble(self.network).num_members), 2))
        if not set(self.pairs) <= set(known) or len(set(self.pairs)) < len(self.pairs):
            raise ValueError(f"Expected pairs={self.pairs} to be different ones of {known}.")
        for name in ("gamma1", "gamma2"):
            if getattr(self, name) < 0:
                raise ValueError(f"Expected {name}={getattr(self, name)} >= 0.")
        if self.num_layers < 1:
            raise ValueError(f"Expected num_layers={self.num_layers} >= 1.")

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset.

        Raises:
            ValueError: when the loss is traced, for more layers than the network has.
        """
        ensemble, layers = check_ensemble(self.network), default_layers()
        method = network_method(classifier(self, task, layers), self, task)
        member = differentiated = member_classifier(self, task, layers)
        if self.batch_statistics == "constant":
            constant = functools.partial(BatchNorm, statistics_gradient=False)
            differentiated = member_classifier(self, task, layers._replace(norm=constant))

        def loss(variables, batch, *, key, step):
            del key, step

            def of_member(variables):
                outputs, moved = member.apply(
                    variables, batch.image, train=True, deterministic=True, mutable=["batch_stats"]
                )
                gradients = feature_gradients(
                    differentiated,
                    variables,
                    batch.image,
                    num_layers=self.num_layers,
                    train=self.batch_statistics != "running",
                )
                return outputs.logits, moved, gradients

            member_logits, moved, gradients = map_members(
                of_member, variables, strategy=ensemble.strategy
            )
            total = members_cross_entropy(member_logits, batch.label, "sum", self.label_smoothing)
            flat = gradients.reshape((*gradients.shape[:3], -1))
            cosine, dead = pairwise_cosines(flat, eps=1e-12)  # [pairs layers b], [m layers b]
            if self.pairs:
                all_pairs = list(itertools.combinations(range(ensemble.num_members), 2))
                cosine = cosine[jnp.array([all_pairs.index(pair) for pair in self.pairs])]
            reduce = jnp.sum if self.layer_reduction == "sum" else jnp.mean
            penalty = jnp.sum(jnp.mean(reduce(cosine, axis=1), axis=-1))
            found = {
                "accuracy": metrics.accuracy(voting.scores(member_logits, self.vote), batch.label),
                "cross_entropy": total,
                "gradient_cosine": jnp.mean(cosine),
                "dead_gradients": jnp.sum(dead, dtype=jnp.float32),
            }
            return self.gamma1 * total + self.gamma2 * penalty, (of_ensemble(moved), found)

        return method._replace(loss=loss)
