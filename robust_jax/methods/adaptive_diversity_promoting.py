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

from robust_jax import metrics, voting
from robust_jax.methods.base import Method, MethodConfig
from robust_jax.methods.gradient_diversity import check_ensemble
from robust_jax.methods.network import (
    Reduction,
    check_reduction,
    classifier,
    members_cross_entropy,
    network_method,
)
from robust_jax.models import EnsembleConfig, NetworkConfig, ResNetConfig, default_layers
from robust_jax.types import Task


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
class AdaptiveDiversityPromoting(MethodConfig):
    """An ensemble trained with ADP.

    Views: those of `network_method`.

    The loss reports `cross_entropy` (sum or mean over members), `ensemble_entropy` and
    `log_determinant` (means over examples).

    Attributes:
        network: an `EnsembleConfig`.
        alpha: weight of the ensemble entropy.
        beta: weight of the log determinant.
        cross_entropy: "sum" or "mean" over members.
        determinant_offset: added to the diagonal of M^T M.
    """

    network: NetworkConfig = EnsembleConfig(ResNetConfig(depth=20), num_members=3)
    alpha: float = 2.0
    beta: float = 0.5
    cross_entropy: Reduction = "sum"
    determinant_offset: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ensemble(self.network)
        check_reduction(self.cross_entropy)
        for name in ("alpha", "beta"):
            if getattr(self, name) < 0:
                raise ValueError(f"Expected {name}={getattr(self, name)} >= 0.")
        if self.determinant_offset <= 0:
            raise ValueError(f"Expected determinant_offset={self.determinant_offset} > 0.")

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset."""
        network = classifier(self, task, default_layers())
        method = network_method(network, self, task)

        def loss(variables, batch, *, key, step):
            del key, step
            outputs, moved = network.apply(
                variables, batch.image, train=True, deterministic=True, mutable=["batch_stats"]
            )
            crossed = members_cross_entropy(
                outputs.member_logits, batch.label, self.cross_entropy, self.label_smoothing
            )
            entropy = jnp.mean(ensemble_entropy(outputs.member_logits))
            volume = jnp.mean(
                log_determinant(outputs.member_logits, batch.label, offset=self.determinant_offset)
            )
            found = {
                "accuracy": metrics.accuracy(
                    voting.scores(outputs.member_logits, self.vote), batch.label
                ),
                "cross_entropy": crossed,
                "ensemble_entropy": entropy,
                "log_determinant": volume,
            }
            return crossed - self.alpha * entropy - self.beta * volume, (moved, found)

        return method._replace(loss=loss)
