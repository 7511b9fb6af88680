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
from jax import lax
from jaxtyping import Array, Key

from robust_jax import checks
from robust_jax.methods.base import Method, MethodConfig
from robust_jax.methods.cross_entropy import CrossEntropy
from robust_jax.methods.gradient_alignment import Coherence
from robust_jax.methods.network import network_method
from robust_jax.methods.priority_rates import KeepRates, LaplaceRates, check_intervals
from robust_jax.methods.runs import Report
from robust_jax.methods.terms import Term
from robust_jax.models import EnsembleConfig, NetworkConfig, ResNetConfig
from robust_jax.models.ensemble import check_ensemble
from robust_jax.types import Task


@dataclasses.dataclass(frozen=True)
class PriorityDropout(MethodConfig):
    """An ensemble trained with feature dropout at rates that its members' features set together.

    LPD, PDD, and either with DEG. Each member keeps the pooled features whose strength is common in
    the ensemble and assigned to it; at prediction nothing is dropped.

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

    Fields beside these are those of `MethodConfig`.

    Raises:
        ValueError: a network that is no ensemble, fewer intervals than members, a negative weight.

    References:
        Wu et al., "Deep Ensemble Robustness by Adaptive Sampling in Dropout-Based Simultaneous
        Training", ECAI 2023, algorithm 1, equations 3 to 6: LPD. Huang et al., "Adversarial Defence
        by Diversified Simultaneous Training of Deep Ensembles", AAAI 2021: PDD, DEG.

    Example:
        >>> from robust_jax.methods import LaplaceRates, PriorityDropout
        >>> from robust_jax.models import CNNConfig, EnsembleConfig
        >>> network = EnsembleConfig(CNNConfig(), num_members=3)
        >>> lpd = PriorityDropout(network, rates=LaplaceRates(gamma=100.0))
        >>> features, key = jnp.ones((3, 2, 8)), jax.random.key(0)  # pooled features [m b f]
        >>> factors, report = jax.jit(lpd.factors)(features, key)
        >>> factors.shape, sorted(report)
        ((3, 2, 8), ['active', 'keep_rate', 'keep_rate_std'])
    """

    network: NetworkConfig = EnsembleConfig(ResNetConfig(depth=18), num_members=3)
    rates: KeepRates = LaplaceRates()
    rescale: Literal["none", "inverted"] = "none"
    deg_weight: float = 0.0

    def __post_init__(self) -> None:
        network = check_ensemble(self.network)
        check_intervals(self.rates.num_intervals, network.num_members)
        checks.at_least(self, 0, "deg_weight")
        super().__post_init__()

    @property
    def own_terms(self) -> tuple[Term, ...]:
        """Returns the members' mean cross-entropy, and DEG where it has a weight."""
        crossed = CrossEntropy("mean")
        return (crossed, Coherence(self.deg_weight, "sum")) if self.deg_weight else (crossed,)

    def factors(self, features: Array, key: Key[Array, ""]) -> tuple[Array, Report]:
        """Returns what the features are multiplied by (line 12), and what is told of it."""
        features = lax.stop_gradient(features).astype(jnp.float32)
        rates = self.rates(features)
        mask = jax.random.bernoulli(key, rates)
        kept = jnp.where(mask, 1 / rates if self.rescale == "inverted" else 1.0, 0.0)
        return kept, _statistics(features, rates)

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset."""
        return network_method(self.classifier(task), self, task, factors=self.factors)


def _statistics(features: Array, rates: Array) -> Report:
    """Returns mean and deviation of the keep rates of active features, and their share."""
    active = (features > 0).astype(jnp.float32)
    total = jnp.maximum(jnp.sum(active), 1.0)
    mean = jnp.sum(active * rates) / total
    variance = jnp.sum(active * jnp.square(rates - mean)) / total
    return {"keep_rate": mean, "keep_rate_std": jnp.sqrt(variance), "active": jnp.mean(active)}
