"""Adaptive diversity promoting (ADP): members that agree on the class and differ on the others.

Pang et al., "Improving Adversarial Robustness via Promoting Ensemble Diversity", ICML 2019.

With p_i the softmax of member i, the loss of an example is

    sum_i CE(p_i, y) - alpha H(mean_i p_i) - beta log det(M^T M)

where H is the entropy and column i of M is p_i without its entry y, divided by its Euclidean norm:
the determinant is the squared volume that the members' non-maximal predictions span.

Sources of the defaults: alpha = 2 and beta = .5 are the paper's; 1e-6 on the diagonal of M^T M and
the sum over members are the authors' code's. `cross_entropy="mean"` divides that sum by the number
of members, as the code of PDD has it (and so the ADP rows of the papers that follow it), which
makes the regulariser as many times stronger.

Deviations: the columns of M are formed from logits, so that a saturated softmax has a direction
too (the code divides zero by zero there); the code adds 1e-20 inside the entropy's logarithm, here
p log p is 0 at 0.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from robust_jax import checks, voting
from robust_jax.methods.cross_entropy import CrossEntropy, Reduction
from robust_jax.methods.network import EnsembleMethod
from robust_jax.methods.terms import Pass, Term, Value


def ensemble_entropy(member_logits: Float[Array, "m b c"]) -> Float[Array, " b"]:
    """Returns the entropy of the members' mean softmax, in nats."""
    log_mean = voting.mean_probability(member_logits)
    return -jnp.sum(jnp.exp(log_mean) * log_mean, axis=-1)


def log_determinant(
    member_logits: Float[Array, "m b c"], labels: Int[Array, " b"], *, offset: float = 1e-6
) -> Float[Array, " b"]:
    """Returns log det(M^T M + offset I), the logarithm of the ensemble diversity.

    Args:
        member_logits: of each member.
        labels: the classes that are left out.
        offset: added to the diagonal.
    """
    num_members, _, num_classes = member_logits.shape
    others = jax.nn.one_hot(labels, num_classes, dtype=member_logits.dtype)[None] == 0
    # Only ratios of the other classes' probabilities count, and they are those of the exponentials.
    largest = jnp.max(member_logits, axis=-1, keepdims=True, where=others, initial=-jnp.inf)
    ratio = jnp.where(others, jnp.exp(jnp.where(others, member_logits - largest, 0.0)), 0.0)
    columns = ratio / jnp.linalg.norm(ratio, axis=-1, keepdims=True)
    gram = jnp.einsum("ibc,jbc->bij", columns, columns, precision="highest")
    eye = jnp.eye(num_members, dtype=gram.dtype)
    return jnp.linalg.slogdet(gram + offset * eye[None]).logabsdet


@dataclasses.dataclass(frozen=True)
class Diversity(Term):
    """Minus alpha times the ensemble's entropy, and beta times the log determinant.

    Reports `ensemble_entropy` and `log_determinant`, means over examples.

    Attributes:
        alpha: weight of the ensemble entropy.
        beta: weight of the log determinant.
        offset: added to the diagonal of M^T M.

    References:
        Pang et al., "Improving Adversarial Robustness via Promoting Ensemble Diversity", ICML 2019.

    Example:
        >>> from robust_jax.methods.adaptive_diversity_promoting import log_determinant
        >>> label, volume = jnp.array([0]), jax.jit(log_determinant)
        >>> alike = jnp.array([[[9.0, 5.0, 0.0]], [[9.0, 5.0, 0.0]]])  # two members, [m b c]
        >>> apart = jnp.array([[[9.0, 5.0, 0.0]], [[9.0, 0.0, 5.0]]])  # they rank others apart
        >>> [round(float(volume(logits, label)[0])) for logits in (alike, apart)]
        [-13, 0]
    """

    pairs_of_members = True

    alpha: float = 2.0
    beta: float = 0.5
    offset: float = 1e-6

    def __post_init__(self) -> None:
        checks.at_least(self, 0, "alpha", "beta")
        checks.above(self, 0, "offset")

    def __call__(self, passed: Pass) -> Value:
        """Returns the regulariser."""
        entropy = jnp.mean(ensemble_entropy(passed.member_logits))
        volume = jnp.mean(log_determinant(passed.member_logits, passed.labels, offset=self.offset))
        report = {"ensemble_entropy": entropy, "log_determinant": volume}
        return Value(-self.alpha * entropy - self.beta * volume, report)


@dataclasses.dataclass(frozen=True)
class AdaptiveDiversityPromoting(EnsembleMethod):
    """An ensemble trained with ADP.

    With p_i the softmax of member i, H the entropy and column i of M the normalised p_i without its
    entry y, the loss of an example is ::

        sum_i CE(p_i, y) - alpha H(mean_i p_i) - beta log det(M^T M)

    Views: those of `network_method`.

    The loss reports `cross_entropy` (sum or mean over members), `ensemble_entropy` and
    `log_determinant` (means over examples).

    Attributes:
        alpha: weight of the ensemble entropy.
        beta: weight of the log determinant.
        cross_entropy: "sum" or "mean" over members.
        determinant_offset: added to the diagonal of M^T M.

    Fields beside these are those of `MethodConfig`.

    References:
        Pang et al., "Improving Adversarial Robustness via Promoting Ensemble Diversity", ICML 2019.

    Example:
        >>> from robust_jax.methods import AdaptiveDiversityPromoting
        >>> from robust_jax.models import EnsembleConfig, ResNetConfig
        >>> network = EnsembleConfig(ResNetConfig(depth=20), num_members=3)
        >>> config = AdaptiveDiversityPromoting(network, alpha=2.0, beta=0.5)
        >>> [type(term).__name__ for term in config.all_terms]
        ['CrossEntropy', 'Diversity']
    """

    alpha: float = 2.0
    beta: float = 0.5
    cross_entropy: Reduction = "sum"
    determinant_offset: float = 1e-6

    @property
    def own_terms(self) -> tuple[Term, ...]:
        """Returns the members' cross-entropies and the regulariser."""
        checks.above(self, 0, "determinant_offset")
        diversity = self.part(Diversity, offset=self.determinant_offset)
        return CrossEntropy(self.cross_entropy), diversity
