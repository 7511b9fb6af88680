"""The later objective of PARL's authors: gradients at the parameters, correlation of the outputs.

Alam et al., the method of the public code github.com/shubhishukla10/PARL (WACV 2025), read for its
facts; it is another method than the paper's (`parl.py`), which asks for gradients at the images.

For the first H 3 x 3 convolutions, w_i^k is the gradient of the sum of all outputs of member i's
convolution k, over the batch, at the kernels of the convolutions up to k; c_ij^k is the Pearson
correlation over the batch of the two members' outputs of convolution k, averaged over units. The
loss is

    mean_i CE_i + gamma / H (sum_{k, i<j} cos(w_i^k, w_j^k)) (sum_{k, i<j} c_ij^k).

As in the code: the covariance divides by the batch size and the deviations by one less; gradients
go through the batch's statistics; the cosine's norms are constants (`norm_gradient=True` lets
gradients through them); biases and normalisations are not among the w. A unit without variance
contributes 0 and its deviation no gradient.

The penalty is a product of two sums of either sign: once the outputs correlate negatively, it is
lowered by larger cosines.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array, Float

from robust_jax import checks, voting
from robust_jax.methods.cross_entropy import CrossEntropy
from robust_jax.methods.gradient_diversity import pairwise_cosines
from robust_jax.methods.layer_calls import first_convolutions
from robust_jax.methods.network import EnsembleMethod
from robust_jax.methods.runs import Member, Quantity
from robust_jax.methods.terms import Pass, Term, Value


def pairwise_correlations(outputs: Float[Array, "m b *units"]) -> Float[Array, " pairs"]:
    """Returns the correlation over the batch of every pair of members, averaged over units."""
    num_examples = outputs.shape[1]
    centred = outputs - jnp.mean(outputs, axis=1, keepdims=True)
    squared = jnp.sum(jnp.square(centred), axis=1) / max(num_examples - 1, 1)
    still = squared == 0
    deviation = jnp.where(still, 0.0, jnp.sqrt(jnp.where(still, 1.0, squared)))
    correlations = []
    for i, j in itertools.combinations(range(len(outputs)), 2):
        covariance = jnp.mean(centred[i] * centred[j], axis=0)
        correlations.append(jnp.mean(covariance / (deviation[i] * deviation[j] + 1e-12)))
    return jnp.stack(correlations)


@dataclasses.dataclass(frozen=True)
class ParameterGradients(Quantity):
    """w of a member, layer by layer, and the outputs of its first convolutions.

    Attributes:
        num_layers: H.
    """

    num_layers: int

    def __call__(self, member: Member) -> tuple[Float[Array, "layers d"], list[Array]]:
        """Returns both."""
        found = first_convolutions(member, train=True, num_layers=self.num_layers)
        params = traverse_util.flatten_dict(member.variables["params"])
        paths = [(*each.path, "kernel") for each in found]

        @jax.jit  # traced once for all layers
        def summed_outputs(kernels: list[Array]) -> list[Array]:
            moved = {**params, **dict(zip(paths, kernels, strict=True))}
            variables = {**member.variables, "params": traverse_util.unflatten_dict(moved)}
            layers = first_convolutions(
                member._replace(variables=variables), train=True, num_layers=self.num_layers
            )
            return [jnp.sum(each.output, dtype=jnp.float32) for each in layers]

        kernels = [params[path] for path in paths]
        gradients = []
        for layer in range(self.num_layers):
            # Kernels behind the layer have zero gradient: the cosine does not see them.
            slopes = jax.grad(lambda kernels, layer=layer: summed_outputs(kernels)[layer])(kernels)
            gradients.append(jnp.concatenate([slope.ravel() for slope in slopes]))
        return jnp.stack(gradients), [each.output for each in found]


@dataclasses.dataclass(frozen=True)
class _Symbols:
    """What the gradients are of.

    Attributes:
        num_layers: H; the authors' checkpoints have 5 and 6.
        norm_gradient: do gradients flow through the norms of the cosine?
    """

    num_layers: int = 5
    norm_gradient: bool = False


@dataclasses.dataclass(frozen=True)
class _Weight:
    """What comes first among the term's fields.

    Attributes:
        weight: gamma.
    """

    weight: float = 0.25


@dataclasses.dataclass(frozen=True)
class ParameterGradientCosines(_Symbols, _Weight, Term):
    """gamma / H times the sum of cosines times that of correlations.

    Reports `gradient_cosine` and `output_correlation`, means over pairs and layers.

    Its fields are the symbols of `ParameterPARL`; `weight` is gamma.

    References:
        Alam et al., code of the WACV 2025 paper, github.com/shubhishukla10/PARL.

    Example:
        >>> from robust_jax.methods.parl_parameters import pairwise_correlations
        >>> first = np.array([[1.0], [2.0], [3.0]], np.float32)  # one unit, a batch of b = 3
        >>> found = jax.jit(pairwise_correlations)(jnp.array([first, -first]))
        >>> round(float(found[0]), 3)  # -(b - 1) / b, as in the code
        -0.667
    """

    pairs_of_members = True

    def __post_init__(self) -> None:
        checks.at_least(self, 0, "weight")
        checks.at_least(self, 1, "num_layers")

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """Returns the gradients and outputs."""
        return (ParameterGradients(self.num_layers),)

    def __call__(self, passed: Pass) -> Value:
        """Returns the penalty."""
        gradients, outputs = passed.quantity(self.quantities[0])
        cosine, _ = pairwise_cosines(gradients, eps=1e-12, norm_gradient=self.norm_gradient)
        correlation = jnp.stack(
            [pairwise_correlations(taps.astype(jnp.float32)) for taps in outputs]
        )
        penalty = jnp.sum(cosine) * jnp.sum(correlation) / self.num_layers
        report = {"gradient_cosine": jnp.mean(cosine), "output_correlation": jnp.mean(correlation)}
        return Value(self.weight * penalty, report)


@dataclasses.dataclass(frozen=True)
class ParameterPARL(_Symbols, EnsembleMethod):
    """An ensemble trained by the later objective of PARL's authors.

    Views: those of `network_method`. The loss reports `gradient_cosine` and `output_correlation`
    (means over pairs and layers) and `cross_entropy` (mean over members).

    Attributes:
        vote: how members decide; the authors' code takes the smallest label of equal votes.
        gamma: weight of the penalty.
        num_layers: H, the first 3 x 3 convolutions.
        norm_gradient: do gradients flow through the norms of the cosine?

    Fields beside these are those of `MethodConfig`.

    References:
        Alam et al., code of the WACV 2025 paper, github.com/shubhishukla10/PARL.

    Example:
        >>> from robust_jax.methods import ParameterPARL
        >>> config = ParameterPARL(num_layers=5, gamma=0.25)
        >>> config.own_terms[1].weight, config.vote
        (0.25, 'majority_lowest_class')
    """

    vote: voting.Vote = "majority_lowest_class"
    gamma: float = 0.25

    @property
    def own_terms(self) -> tuple[Term, ...]:
        """Returns the members' mean cross-entropy and the penalty."""
        checks.at_least(self, 0, "gamma")
        return CrossEntropy("mean"), self.part(ParameterGradientCosines, weight=self.gamma)
