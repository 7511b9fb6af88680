"""MART: adversarial training that heeds the images which the network gets wrong without attack.

Wang et al., "Improving Adversarial Robustness Requires Revisiting Misclassified Examples", ICLR
2020, equation 11. With p the softmax of the network and x' an adversarial image, the loss is

    BCE(p(x'), y) + weight KL(p(x) || p(x')) (1 - p_y(x))
    BCE(p(x'), y) = -log p_y(x') - log(1.0001 - max_{k != y} p_k(x') + 1e-12)

Gradients of the second term flow through both predictions, and through 1 - p_y(x).

Sources of the defaults: the authors' code. Weight 5 (its training script; 6 in the function's own
default); eps .031, 10 steps of .007 along the sign of the cross-entropy's gradient, from the clean
image plus Gaussian noise of .001, the last point. The attack sees running statistics. The loss
takes two passes in training mode, clean images first, each normalised by its own batch's statistics
and moving the running ones.

Deviations: the noise does not leave the box of valid pixels; KL is computed from logarithms of
probabilities, without 1e-12 inside, and its weight is 1 - p_y as in the paper, not 1.0000001 - p_y.

The prediction of an ensemble is that of its vote, as in TRADES.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from robust_jax import checks, metrics
from robust_jax.attacks import Attack
from robust_jax.attacks.losses import best_other, kl, label_logits
from robust_jax.methods import trades
from robust_jax.methods.network import NetworkMethod
from robust_jax.methods.runs import cross_entropy
from robust_jax.methods.terms import Pass, Term, Value


def boosted_cross_entropy(
    logits: Float[Array, "b c"], labels: Int[Array, " b"], label_smoothing: float = 0.0
) -> Float[Array, ""]:
    """Returns the mean of BCE: the cross-entropy, and a margin to the likeliest wrong class."""
    wrong = best_other(jax.nn.softmax(logits), labels)
    margin = -jnp.mean(jnp.log(1.0001 - wrong + 1e-12))
    return cross_entropy(logits, labels, label_smoothing) + margin


ATTACK = dataclasses.replace(trades.ATTACK, loss="cross_entropy")


@dataclasses.dataclass(frozen=True)
class _Symbols:
    """The weight and the attack.

    Attributes:
        weight: of the divergence, lambda ("beta" in the code).
        attack: makes the adversarial images in the loss.
        view: what it attacks.
    """

    weight: float = 5.0
    attack: Attack = ATTACK
    view: str = "deployed"


@dataclasses.dataclass(frozen=True)
class MisclassificationAware(_Symbols, Term):
    """BCE on adversarial images, and the KL to them of images that are not sure of their class.

    Reports `adversarial_accuracy` and `divergence`, the mean of the weighted KL.

    Its fields are the symbols of `MART`.

    References:
        Wang et al., ICLR 2020, equation 11.

    Example:
        >>> from robust_jax.methods.mart import boosted_cross_entropy
        >>> logits, label = np.log([[0.5, 0.4, 0.1]]).astype(np.float32), jnp.array([0])
        >>> loss = jax.jit(boosted_cross_entropy)(jnp.asarray(logits), label)
        >>> round(float(loss), 3), round(-np.log(0.5) - np.log(1 - 0.4), 3)  # BCE(p, y)
        (1.204, np.float64(1.204))
    """

    def __post_init__(self) -> None:
        checks.at_least(self, 0, "weight")
        self.attack.check_in_training()

    @property
    def views(self) -> tuple[str, ...]:
        """Returns the view that is attacked."""
        return (self.view,)

    def __call__(self, passed: Pass) -> Value:
        """Returns MART's loss."""
        clean, labels = passed.vote_logits, passed.labels
        adversarial = passed.adversarial_logits(self.attack, self.view)
        unsure = 1 - jnp.exp(label_logits(jax.nn.log_softmax(clean), labels))
        divergence = jnp.mean(kl(clean)(adversarial, labels) * unsure)
        boosted = boosted_cross_entropy(adversarial, labels, passed.label_smoothing)
        accuracy = metrics.accuracy(adversarial, labels)
        report = {"adversarial_accuracy": accuracy, "divergence": divergence}
        return Value(boosted + self.weight * divergence, report)  # equation 11


@dataclasses.dataclass(frozen=True)
class MART(_Symbols, NetworkMethod):
    """A network trained with MART, which makes its own adversarial examples.

    With p the softmax of the vote and x' an adversarial image, the loss is ::

        BCE(p(x'), y) + weight KL(p(x) || p(x')) (1 - p_y(x))

    Views: those of `network_method`.

    The loss reports `accuracy` (clean), `adversarial_accuracy` and `divergence`, the mean of the
    weighted KL.

    Attributes:
        weight: lambda, of the divergence.
        attack: makes the adversarial images in the loss.
        view: of the method that it attacks.

    Fields beside these are those of `MethodConfig`.

    References:
        Wang et al., "Improving Adversarial Robustness Requires Revisiting Misclassified Examples",
        ICLR 2020, equation 11.

    Example:
        >>> from robust_jax.attacks import PGD, ThreatModel
        >>> from robust_jax.methods import MART
        >>> config = MART(weight=5.0, attack=PGD(ThreatModel("linf", 8 / 255), num_steps=10))
        >>> config.own_terms[0].weight, config.own_terms[0].views
        (5.0, ('deployed',))
    """

    @property
    def own_terms(self) -> tuple[Term, ...]:
        """Returns the loss of the paper."""
        return (self.part(MisclassificationAware),)
