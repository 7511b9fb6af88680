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
from jaxtyping import Array, Float

from robust_jax import checks
from robust_jax.methods.cross_entropy import CrossEntropy
from robust_jax.methods.gradient_diversity import pairwise_cosines
from robust_jax.methods.network import NetworkMethod
from robust_jax.methods.terms import Pass, Term, Value
from robust_jax.models import EnsembleConfig, InputNoise, LayerChange, NetworkConfig, ResNetConfig

Kind = Literal["log_sum_exp", "sum"]


def coherence(cosines: Float[Array, "pairs b"], kind: Kind) -> Float[Array, " b"]:
    """Returns the coherence of each example's gradients from the cosines of its pairs."""
    if kind == "sum":
        return jnp.sum(cosines, axis=0)
    return jax.nn.logsumexp(cosines, axis=0)


@dataclasses.dataclass(frozen=True)
class Coherence(Term):
    """The coherence of the members' loss gradients: GAL, and DEG with kind="sum".

    Reports `gradient_cosine` (mean over pairs and examples) and `dead_gradients` (how many of the
    members' gradients are zero).

    Attributes:
        weight: lambda.
        kind: "log_sum_exp" over pairs, or their "sum".

    References:
        Kariyappa and Qureshi, arXiv 1901.09981, 2019 (GAL); Huang et al., AAAI 2021 (DEG).

    Example:
        >>> from robust_jax.methods.gradient_alignment import coherence
        >>> from robust_jax.methods.gradient_diversity import pairwise_cosines
        >>> gradients = jnp.array([[[1.0, 0.0]], [[0.0, 1.0]], [[-1.0, 0.0]]])  # of three members
        >>> cosines = jax.jit(pairwise_cosines)(gradients).cosine
        >>> cosines[:, 0]  # of members (0, 1), (0, 2), (1, 2)
        Array([ 0., -1.,  0.], dtype=float32)
        >>> round(float(coherence(cosines, "log_sum_exp")[0]), 2)  # log(1 + 1 / e + 1)
        0.86
    """

    pairs_of_members = gradients = True

    weight: float = 0.5
    kind: Kind = "log_sum_exp"

    def __post_init__(self) -> None:
        checks.at_least(self, 0, "weight")

    def __call__(self, passed: Pass) -> Value:
        """Returns the weighted coherence."""
        cosine, dead = pairwise_cosines(passed.gradients)
        report = {
            "gradient_cosine": jnp.mean(cosine),
            "dead_gradients": jnp.sum(dead, dtype=jnp.float32),
        }
        return Value(self.weight * jnp.mean(coherence(cosine, self.kind)), report)


@dataclasses.dataclass(frozen=True)
class GradientAlignment(NetworkMethod):
    """An ensemble trained with GAL, or with DEG.

    With g_i the gradient at the image of member i's cross-entropy, the loss is ::

        mean_i CE_i + weight mean_x log sum_{i<j} exp(cos(g_i, g_j))     (GAL)
        mean_i CE_i + weight mean_x sum_{i<j} cos(g_i, g_j)              (DEG)

    Views: those of `network_method`; `train` sees the noise of the loss.

    The loss reports `cross_entropy` (mean over members), `gradient_cosine` (mean over pairs and
    examples) and `dead_gradients` (how many of the members' gradients are zero).

    Attributes:
        network: an `EnsembleConfig`.
        weight: of the coherence, lambda.
        coherence: "log_sum_exp" over pairs (GAL), or their "sum" (DEG).
        input_sigma: standard deviation of Gaussian noise on training images, pixels in [0, 1].
        noisy_share: probability with which an image has it.

    Fields beside these are those of `MethodConfig`.

    References:
        Kariyappa and Qureshi, "Improving Adversarial Robustness of Ensembles with Diversity
        Training", arXiv 1901.09981, 2019: GAL. Huang et al., "Adversarial Defence by Diversified
        Simultaneous Training of Deep Ensembles", AAAI 2021: DEG.

    Example:
        >>> from robust_jax.methods import GradientAlignment
        >>> gal = GradientAlignment()
        >>> deg = GradientAlignment(weight=0.01, coherence="sum", input_sigma=0.0)
        >>> gal.samples_in("training"), deg.samples_in("training")
        (True, False)
        >>> gal.network.member.activation
        'leaky_relu'
    """

    network: NetworkConfig = EnsembleConfig(
        ResNetConfig(depth=20, activation="leaky_relu", negative_slope=0.1), num_members=3
    )
    weight: float = 0.5
    coherence: Kind = "log_sum_exp"
    input_sigma: float = 0.045
    noisy_share: float = 0.5

    @property
    def own_changes(self) -> tuple[LayerChange, ...]:
        """Returns noise on training images."""
        if not self.input_sigma:
            return ()
        return (InputNoise(self.input_sigma, self.noisy_share, ("training",)),)

    @property
    def own_terms(self) -> tuple[Term, ...]:
        """Returns the members' mean cross-entropy and the coherence."""
        return CrossEntropy("mean"), Coherence(self.weight, self.coherence)
