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
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from robust_jax import metrics, rng, voting
from robust_jax.attacks import PGD, Attack, ThreatModel, bind
from robust_jax.attacks.losses import kl
from robust_jax.methods.base import Method, MethodConfig
from robust_jax.methods.network import classifier, cross_entropy, forward_fn, network_method
from robust_jax.models import default_layers
from robust_jax.types import Task, Variables


class Passes(NamedTuple):
    """A clean and an adversarial forward pass in training mode.

    Attributes:
        clean: logits of the vote on clean images.
        adversarial: logits of the vote on adversarial images.
    """

    clean: Float[Array, "b c"]
    adversarial: Float[Array, "b c"]


def on_both(
    config: MethodConfig,
    task: Task,
    attack: Attack,
    view_name: str,
    loss_fn: Callable[[Passes, Int[Array, " b"]], tuple[Float[Array, ""], Float[Array, ""]]],
) -> Method:
    """Returns a network whose loss sees clean and adversarial images, which it makes inside.

    Args:
        config: network and vote.
        task: the dataset's shape.
        attack: makes the adversarial images; no gradient flows through it.
        view_name: what it attacks.
        loss_fn: function of the passes and labels to the loss and the divergence to report.

    Raises:
        ValueError: there is no such view to attack.
    """
    network = classifier(config, task, default_layers())
    method, forward = network_method(network, config, task), forward_fn(network)
    view = method.view(view_name)

    def loss(variables, batch, *, key, step):
        del step
        attacked = bind(view, jax.lax.stop_gradient(variables))
        images = attack(
            attacked, batch.image, batch.label, key=rng.stream(key, "attack"), index=batch.index
        )
        logits: list[Array] = []
        moved: Variables = {}
        for each in (batch.image, images):
            outputs, moved = forward(
                {**variables, **moved}, each, key=None, train=True, deterministic=True
            )
            logits.append(voting.logits(outputs.member_logits, config.vote))
        value, divergence = loss_fn(Passes(*logits), batch.label)
        report = {
            "accuracy": metrics.accuracy(logits[0], batch.label),
            "adversarial_accuracy": metrics.accuracy(logits[1], batch.label),
            "divergence": divergence,
        }
        return value, (moved, report)

    return method._replace(loss=loss)


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

        def loss(passes, labels):
            divergence = jnp.mean(kl(passes.clean)(passes.adversarial, labels))
            crossed = cross_entropy(passes.clean, labels, self.label_smoothing)
            return crossed + self.beta * divergence, divergence

        return on_both(self, task, self.attack, self.view, loss)
