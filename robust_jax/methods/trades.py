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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key

from robust_jax import metrics, rng, voting
from robust_jax.attacks import PGD, Attack, ThreatModel, bind
from robust_jax.attacks.losses import kl
from robust_jax.methods.base import (
    Method,
    MethodConfig,
    View,
    classifier,
    cross_entropy,
    forward_fn,
    network_method,
)
from robust_jax.models import default_layers
from robust_jax.types import Batch, Task, Variables


class Passes(NamedTuple):
    """A clean and an adversarial forward pass in training mode.

    Attributes:
        clean: logits of the vote on clean images.
        adversarial: logits of the vote on adversarial images, made inside.
        moved: collections that both passes moved, the clean one first.
    """

    clean: Float[Array, "b c"]
    adversarial: Float[Array, "b c"]
    moved: Variables


def two_passes(
    network: nn.Module,
    vote: voting.Vote,
    attack: Attack,
    view: View,
    variables: Variables,
    batch: Batch,
    *,
    key: Key[Array, ""],
) -> Passes:
    """Returns the passes of a loss that sees clean and adversarial images.

    Args:
        network: a classifier without random layers.
        vote: how the members of an ensemble decide.
        attack: makes the adversarial images.
        view: the method's view that it attacks; no gradient flows through it.
        variables: the network's arrays.
        batch: clean images.
        key: key of the attack.
    """
    attacked = bind(view, jax.lax.stop_gradient(variables))
    images = attack(
        attacked, batch.image, batch.label, key=rng.stream(key, "attack"), index=batch.index
    )
    forward = forward_fn(network)
    logits: list[Any] = []
    moved: Variables = {}
    for each in (batch.image, images):
        outputs, moved = forward(
            {**variables, **moved}, each, key=None, train=True, deterministic=True
        )
        logits.append(voting.logits(outputs.member_logits, vote))
    return Passes(logits[0], logits[1], moved)


@dataclasses.dataclass(frozen=True)
class TRADES(MethodConfig):
    """A network trained with TRADES, which makes its own adversarial examples.

    Views: those of `network_method`.

    The loss reports `accuracy` (clean), `adversarial_accuracy` and `divergence`, the mean KL.

    Attributes:
        beta: weight of the divergence, 1 / lambda in the paper.
        attack: makes the adversarial images in the loss.
        view: what it attacks.
    """

    beta: float = 6.0
    attack: Attack = PGD(
        ThreatModel("linf", eps=0.031),
        loss="kl",
        num_steps=10,
        step_size=0.007,
        start_sigma=0.001,
        keep="last",
    )
    view: str = "deployed"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta < 0:
            raise ValueError(f"Expected beta={self.beta} >= 0.")

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset.

        Raises:
            ValueError: there is no such view to attack.
        """
        network = classifier(self, task, default_layers())
        method = network_method(network, self, task)
        view = method.view(self.view)

        def loss(variables, batch, *, key, step):
            del step
            found = two_passes(network, self.vote, self.attack, view, variables, batch, key=key)
            divergence = jnp.mean(kl(found.clean)(found.adversarial, batch.label))
            report = {
                "accuracy": metrics.accuracy(found.clean, batch.label),
                "adversarial_accuracy": metrics.accuracy(found.adversarial, batch.label),
                "divergence": divergence,
            }
            crossed = cross_entropy(found.clean, batch.label, self.label_smoothing)
            return crossed + self.beta * divergence, (found.moved, report)

        return method._replace(loss=loss)
