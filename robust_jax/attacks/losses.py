"""Losses that attacks raise: one value per example, so that no step depends on the batch size."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

Loss = Callable[[Float[Array, "b c"], Int[Array, " b"]], Float[Array, " b"]]


def label_logits(logits: Float[Array, "b c"], labels: Int[Array, " b"]) -> Float[Array, " b"]:
    """Returns the logit of each example's label."""
    return jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]


def best_other(logits: Float[Array, "b c"], labels: Int[Array, " b"]) -> Float[Array, " b"]:
    """Returns the largest logit of a class other than the label."""
    own = jax.nn.one_hot(labels, logits.shape[1], dtype=jnp.bool_)
    return jnp.max(jnp.where(own, -jnp.inf, logits), axis=1)


def cross_entropy(logits: Float[Array, "b c"], labels: Int[Array, " b"]) -> Float[Array, " b"]:
    """Returns minus the log probability of the label."""
    return jax.nn.logsumexp(logits, axis=1) - label_logits(logits, labels)


def margin(logits: Float[Array, "b c"], labels: Int[Array, " b"]) -> Float[Array, " b"]:
    """Returns the best other logit minus the label's: positive where misclassified.

    References:
        Carlini and Wagner, "Towards evaluating the robustness of neural networks", 2017 (f6).
    """
    return best_other(logits, labels) - label_logits(logits, labels)


def named(name: str) -> Loss:
    """Returns the loss called `name`.

    Raises:
        ValueError: there is no such loss.
    """
    losses: dict[str, Loss] = {"cross_entropy": cross_entropy, "margin": margin}
    if name not in losses:
        raise ValueError(f"Expected loss={name!r} to be one of {sorted(losses)}.")
    return losses[name]


def negated(loss_fn: Loss) -> Loss:
    """Returns the loss with its sign changed: what a targeted attack raises."""
    return lambda logits, labels: -loss_fn(logits, labels)


def decision(logits: Float[Array, "*s b c"]) -> Float[Array, "b c"]:
    """Returns the logits that a decision is taken on: of draws, the log of the mean probability."""
    if logits.ndim == 2:
        return logits
    return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(logits.shape[0])


def misclassified(logits: Float[Array, "b c"], labels: Int[Array, " b"]) -> Bool[Array, " b"]:
    """Returns where the largest logit (of equal ones the first) is not the label's."""
    return jnp.argmax(logits, axis=1) != labels


def evaluate(
    loss_fn: Loss, view: Any, images: Array, labels: Int[Array, " b"], *, key: Key[Array, ""]
) -> tuple[Float[Array, " b"], Float[Array, "b c"]]:
    """Returns the loss of each example and the logits of the decision.

    Of a view that returns draws [s b c] the loss is the mean over the draws.
    """
    logits = view(images, key=key)
    if logits.ndim == 2:
        return loss_fn(logits, labels), logits
    return jnp.mean(jax.vmap(loss_fn, (0, None))(logits, labels), axis=0), decision(logits)


def gradient(
    loss_fn: Loss, view: Any, images: Array, labels: Int[Array, " b"], *, key: Key[Array, ""]
) -> tuple[Array, Float[Array, " b"], Float[Array, "b c"]]:
    """Returns each example's loss gradient, its loss, and the logits of the decision.

    The gradient is that of the sum over examples, which is each example's own.
    """

    def total(images):
        values, logits = evaluate(loss_fn, view, images, labels, key=key)
        return jnp.sum(values), (values, logits)

    (_, (values, logits)), slope = jax.value_and_grad(total, has_aux=True)(images)
    return slope, values, logits
