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
from jaxtyping import Array, Float

from robust_jax import checks, voting
from robust_jax.methods.cross_entropy import CrossEntropy
from robust_jax.methods.gradient_diversity import pairwise_cosines
from robust_jax.methods.layer_calls import first_convolutions
from robust_jax.methods.network import EnsembleMethod
from robust_jax.methods.runs import Member, Quantity
from robust_jax.methods.terms import Pass, Term, Value
from robust_jax.models import BatchNorm, NetworkConfig, default_layers
from robust_jax.models.ensemble import check_ensemble

BatchStatistics = Literal["constant", "batch", "running"]


def feature_gradients(
    member: Member, *, num_layers: int, train: bool = True
) -> Float[Array, "layers b h w k"]:
    """Returns G: the gradient at the images of each first convolution's summed outputs.

    The summed output of a convolution is linear in its input with weights that no image changes,
    so the first step of every backward pass is made once, not per example.

    Args:
        member: of a network whose batch statistics are constants; with others the examples'
            gradients are coupled.
        num_layers: H.
        train: normalise by the batch's statistics, else by the running ones.

    Raises:
        ValueError: the network has fewer 3 x 3 convolutions.
    """

    @jax.jit  # traced once for all layers
    def summed_outputs(images: Array) -> list[Array]:
        sums = []
        moved = member._replace(images=images)
        for found in first_convolutions(moved, train=train, num_layers=num_layers):
            if found.module.changes:
                sums.append(jnp.sum(found.output))
                continue
            kernel = member.variables["params"]
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
            jax.grad(lambda images, layer=layer: summed_outputs(images)[layer])(member.images)
            for layer in range(num_layers)
        ]
    )


@dataclasses.dataclass(frozen=True)
class FeatureGradients(Quantity):
    """G of a member, flattened.

    Attributes:
        num_layers: H.
        batch_statistics: how it treats BatchNorm, see the module's docstring.
    """

    num_layers: int
    batch_statistics: BatchStatistics

    def __call__(self, member: Member) -> Float[Array, "layers b d"]:
        """Returns the gradients."""
        if self.batch_statistics == "constant" and member.make is not None:
            constant = functools.partial(BatchNorm, statistics_gradient=False)
            layers = default_layers()._replace(norm=constant)
            member = member._replace(network=member.make(layers))
        train = self.batch_statistics != "running"
        if not train:  # running statistics are those of deployment, where training's draws are off
            member = member._replace(key=None)
        found = feature_gradients(member, num_layers=self.num_layers, train=train)
        return found.reshape((*found.shape[:2], -1))


@dataclasses.dataclass(frozen=True)
class _Symbols:
    """How the penalty is made.

    Attributes:
        num_layers: H.
        layer_reduction: "sum" or "mean" of the cosines over layers.
        batch_statistics: how G treats BatchNorm, see the module's docstring.
        pairs: of members that are penalised, numbers from 0; empty for all. Section 4: two members
            whose pair is left out come to have similar decision boundaries.
    """

    num_layers: int = 7
    layer_reduction: Literal["sum", "mean"] = "sum"
    batch_statistics: BatchStatistics = "constant"
    pairs: tuple[tuple[int, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class _Weight:
    """What comes first among the term's fields.

    Attributes:
        weight: gamma 2, of the penalty, summed over pairs.
    """

    weight: float = 0.5


@dataclasses.dataclass(frozen=True)
class PairwiseAdversarial(_Symbols, _Weight, Term):
    """R, the pairs' cosines of the gradients of their first convolutions (section 4.2).

    Reports `gradient_cosine` (mean over pairs, layers and examples) and `dead_gradients` (how many
    of the members' G are zero; they count as 0).

    Its other fields are the symbols of `PARL`.

    References:
        Alam et al., arXiv 2112.04948v1, 2021, section 4.2.

    Example:
        >>> from robust_jax.methods import PairwiseAdversarial, Standard
        >>> from robust_jax.models import EnsembleConfig, ResNetConfig
        >>> network = EnsembleConfig(ResNetConfig(depth=20), num_members=3)
        >>> term = PairwiseAdversarial(0.5, num_layers=7, pairs=((0, 1), (0, 2)))
        >>> len(Standard(network, terms=(term,)).all_terms)
        2
        >>> Standard(ResNetConfig(depth=20), terms=(term,))
        Traceback (most recent call last):
            ...
        ValueError: Expected network=ResNetConfig to be an EnsembleConfig.
    """

    def __post_init__(self) -> None:
        checks.at_least(self, 0, "weight")
        checks.at_least(self, 1, "num_layers")

    def check(self, network: NetworkConfig) -> None:
        """Raises ValueError where there are no two members, or not those that are named."""
        known = list(itertools.combinations(range(check_ensemble(network).num_members), 2))
        if not set(self.pairs) <= set(known) or len(set(self.pairs)) < len(self.pairs):
            raise ValueError(f"Expected pairs={self.pairs} to be different ones of {known}.")

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """Returns G."""
        return (FeatureGradients(self.num_layers, self.batch_statistics),)

    def __call__(self, passed: Pass) -> Value:
        """Returns the weighted penalty."""
        gradients = passed.quantity(self.quantities[0])
        # Section 4.2: G of a pair and a layer; the mean over examples is R.
        cosine, dead = pairwise_cosines(gradients, eps=1e-12)  # [pairs layers b], [m layers b]
        if self.pairs:
            all_pairs = list(itertools.combinations(range(len(gradients)), 2))
            cosine = cosine[jnp.array([all_pairs.index(pair) for pair in self.pairs])]
        reduce = jnp.sum if self.layer_reduction == "sum" else jnp.mean
        penalty = jnp.sum(jnp.mean(reduce(cosine, axis=1), axis=-1))
        report = {
            "gradient_cosine": jnp.mean(cosine),
            "dead_gradients": jnp.sum(dead, dtype=jnp.float32),
        }
        return Value(self.weight * penalty, report)


@dataclasses.dataclass(frozen=True)
class PARL(_Symbols, EnsembleMethod):
    """An ensemble trained by equation 1.

    With G_i^k(x) the gradient at image x of member i's k-th convolution, all of its outputs summed,
    the loss is ::

        gamma1 sum_i CE_i + gamma2 sum_{i<j} mean_x sum_{k<=H} cos(G_i^k(x), G_j^k(x))

    Views: those of `network_method`; `deployed` and `noise_off` are the mean probability, since a
    majority vote has no gradient, `train` normalises by the batch.

    The loss reports `gradient_cosine` (mean over pairs, layers and examples), `cross_entropy` (sum
    over members) and `dead_gradients` (how many of the members' G are zero; they count as 0).

    Attributes:
        vote: how members decide.
        gamma1: weight of the cross-entropy, summed over members.
        gamma2: weight of the penalty, summed over pairs.
        num_layers: H, the first 3 x 3 convolutions whose gradients are compared.
        layer_reduction: "sum" or "mean" of the cosines over layers.
        batch_statistics: of BatchNorm inside the gradients: "constant", "batch" or "running".
        pairs: of members that are penalised, numbers from 0; empty for all.

    Fields beside these are those of `MethodConfig`.

    Raises:
        ValueError: a network that is no ensemble, unknown pairs, or a negative weight; where it is
            first traced, fewer convolutions than H.

    References:
        Alam et al., "PARL: Enhancing Diversity of Ensemble Networks to Resist Adversarial Attacks
        via Pairwise Adversarially Robust Loss Function", arXiv 2112.04948v1, 2021, equation 1.

    Example:
        >>> from robust_jax.methods import PARL
        >>> from robust_jax.models import EnsembleConfig, ResNetConfig
        >>> config = PARL(EnsembleConfig(ResNetConfig(depth=20), num_members=3), num_layers=7)
        >>> [(type(term).__name__, term.weight) for term in config.all_terms]
        [('CrossEntropy', 1.0), ('PairwiseAdversarial', 0.5)]
        >>> config.vote
        'majority_mean_probability'
    """

    vote: voting.Vote = "majority_mean_probability"
    gamma1: float = 1.0
    gamma2: float = 0.5

    @property
    def own_terms(self) -> tuple[Term, ...]:
        """Returns the two terms of equation 1."""
        checks.at_least(self, 0, "gamma1", "gamma2")
        penalty = self.part(PairwiseAdversarial, weight=self.gamma2)
        return CrossEntropy("sum", self.gamma1), penalty  # equation 1
