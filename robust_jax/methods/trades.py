"""TRADES: cross-entropy on clean images, and a prediction that adversarial ones do not change.

Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy", ICML 2019,
equation 5. With p the softmax of the network, the loss is

    CE(p(x), y) + beta KL(p(x) || p(x')),    x' = argmax over the ball of KL(p(x) || p(x'))

Gradients of the second term flow through both predictions.

Sources of the defaults: the authors' code. beta 6; eps .031, 10 steps of .007 along the sign of
the gradient, from the clean image plus Gaussian noise of .001 (at the clean image the divergence
has no gradient), the last point. The attack sees running statistics. The loss takes two passes in
training mode, clean images first, each normalised by its own batch's statistics, each of which
moves the running ones; in the code a third pass, of the clean images again, moves them once more.

Deviations: the noise does not leave the box of valid pixels; the attack computes the clean
prediction once, not at every step.

The prediction of an ensemble is that of its vote (of a majority the mean probability), so its
members train together, not each for itself.
"""

import dataclasses

import jax.numpy as jnp

from robust_jax import checks, metrics
from robust_jax.attacks import PGD, Attack, ThreatModel
from robust_jax.attacks.losses import kl
from robust_jax.methods.cross_entropy import CrossEntropy
from robust_jax.methods.network import NetworkMethod
from robust_jax.methods.terms import Pass, Term, Value

ATTACK = PGD(
    ThreatModel("linf", eps=0.031),
    loss="kl",
    num_steps=10,
    step_size=0.007,
    start_sigma=0.001,
    keep="last",
)


@dataclasses.dataclass(frozen=True)
class _Symbols:
    """The weight and the attack.

    Attributes:
        beta: weight of the divergence, 1 / lambda in the paper.
        attack: makes the adversarial images in the loss.
        view: what it attacks.
    """

    beta: float = 6.0
    attack: Attack = ATTACK
    view: str = "deployed"


@dataclasses.dataclass(frozen=True)
class Divergence(_Symbols, Term):
    """beta times the mean KL from the prediction on clean to that on adversarial images.

    Reports `adversarial_accuracy` and `divergence`, the mean KL.

    Its fields are the symbols of `TRADES`.

    References:
        Zhang et al., ICML 2019, equation 5.

    Example:
        >>> from robust_jax.methods import PARL, Divergence
        >>> from robust_jax.models import EnsembleConfig, ResNetConfig
        >>> network = EnsembleConfig(ResNetConfig(depth=20), num_members=3)
        >>> config = PARL(network, terms=(Divergence(beta=6.0),))  # PARL's loss, TRADES' term
        >>> [type(term).__name__ for term in config.all_terms]
        ['CrossEntropy', 'PairwiseAdversarial', 'Divergence']
    """

    def __post_init__(self) -> None:
        checks.at_least(self, 0, "beta")
        self.attack.check_in_training()

    @property
    def views(self) -> tuple[str, ...]:
        """Returns the view that is attacked."""
        return (self.view,)

    def __call__(self, passed: Pass) -> Value:
        """Returns the weighted divergence."""
        clean = passed.vote_logits
        adversarial = passed.adversarial_logits(self.attack, self.view)
        divergence = jnp.mean(kl(clean)(adversarial, passed.labels))
        accuracy = metrics.accuracy(adversarial, passed.labels)
        report = {"adversarial_accuracy": accuracy, "divergence": divergence}
        return Value(self.beta * divergence, report)  # equation 5, its second term


@dataclasses.dataclass(frozen=True)
class TRADES(_Symbols, NetworkMethod):
    """A network trained with TRADES, which makes its own adversarial examples.

    With p the softmax of the vote and x' an adversarial image, the loss is ::

        CE(p(x), y) + beta KL(p(x) || p(x'))

    Views: those of `network_method`.

    The loss reports `accuracy` (clean), `adversarial_accuracy` and `divergence`, the mean KL.

    Attributes:
        beta: weight of the divergence, 1 / lambda in the paper.
        attack: makes the adversarial images in the loss.
        view: of the method that it attacks.

    Fields beside these are those of `MethodConfig`.

    References:
        Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy", ICML
        2019, equation 5.

    Example:
        >>> from robust_jax.attacks import PGD, ThreatModel
        >>> from robust_jax.methods import TRADES
        >>> ball = ThreatModel("linf", eps=8 / 255)
        >>> attack = PGD(ball, loss="kl", num_steps=10, start_sigma=0.001, keep="last")
        >>> config = TRADES(beta=6.0, attack=attack)
        >>> [type(term).__name__ for term in config.all_terms]
        ['CrossEntropy', 'Divergence']
    """

    @property
    def own_terms(self) -> tuple[Term, ...]:
        """Returns the cross-entropy of the vote, and the divergence."""
        return CrossEntropy("vote"), self.part(Divergence)
