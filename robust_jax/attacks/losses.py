"""Losses that attacks raise: one value per example, so that no step depends on the batch size."""

import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from robust_jax import voting
from robust_jax.types import Labels, View


@runtime_checkable
class Loss(Protocol):
    """Returns what is raised, one value per example, of logits [b c] and labels.

    Beside a `Decide` it sees the logits of all members [m b c].
    """

    def __call__(self, logits: Array, labels: Labels, /) -> Float[Array, " b"]: ...


@runtime_checkable
class Decide(Protocol):
    """Returns the scores that decide, of the logits of an ensemble's members."""

    def __call__(self, logits: Float[Array, "m b c"], /) -> Float[Array, "b c"]: ...


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


def probability_margin(logits: Float[Array, "b c"], labels: Int[Array, " b"]) -> Float[Array, " b"]:
    """Returns log(1 + p_k - p_y) of the label y and the likeliest other class k.

    It is positive where misclassified and rises with the margin p_k - p_y, whose steps it has. The
    margin itself is -1 in float32 as soon as the label is sure by one in 10^8; this is the
    logarithm of what is left, the sum of all other probabilities and once more of p_k.

    References:
        Xie et al., "Towards million-scale adversarial robustness evaluation with stronger
        individual attacks", arXiv 2411.15210, 2024 (PMA).
    """
    own = jax.nn.one_hot(labels, logits.shape[1], dtype=jnp.bool_)
    return probability_gap(logits, labels, jnp.argmax(jnp.where(own, -jnp.inf, logits), axis=1))


def probability_gap(
    logits: Float[Array, "b c"], labels: Int[Array, " b"], target: Int[Array, " b"]
) -> Float[Array, " b"]:
    """Returns log(1 + p_t - p_y) of a target, as `probability_margin` of the likeliest class."""
    own, towards = (
        jax.nn.one_hot(classes, logits.shape[1], dtype=logits.dtype) for classes in (labels, target)
    )
    # 1 - p_y is the sum of the others: a difference would be lost where p_y is close to one.
    return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=1, b=1 - own + towards)


def gap(
    logits: Float[Array, "b c"], labels: Int[Array, " b"], target: Int[Array, " b"]
) -> Float[Array, " b"]:
    """Returns the target's logit minus the label's."""
    return label_logits(logits, target) - label_logits(logits, labels)


def dlr(logits: Float[Array, "b c"], labels: Int[Array, " b"]) -> Float[Array, " b"]:
    """Returns the difference of logits ratio: the margin over the gap of the first and third.

    Neither shifting nor scaling the logits changes it.

    Raises:
        ValueError: fewer than three classes.

    References:
        Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
        parameter-free attacks", 2020 (equation 6).
    """
    ordered = _descending(logits, "the DLR loss", 3)
    return margin(logits, labels) / (ordered[:, 0] - ordered[:, 2] + tiny(logits))


def targeted_dlr(targets: Int[Array, " b"]) -> Loss:
    """Returns the DLR loss towards one class per example, which also grows as the label's falls.

    Raises:
        ValueError: fewer than four classes (when called).

    References:
        Croce and Hein, 2020, as for `dlr` (equation 7).
    """

    def loss(logits, labels):
        ordered = _descending(logits, "the targeted DLR loss", 4)
        scale = ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2 + tiny(logits)
        return gap(logits, labels, targets) / scale

    return loss


def kl(reference: Float[Array, "b c"]) -> Loss:
    """Returns the Kullback-Leibler divergence of the prediction from that of reference logits.

    References:
        Zhang et al., "Theoretically principled trade-off between robustness and accuracy", 2019.
    """

    def loss(logits, labels):
        del labels
        log_reference = jax.nn.log_softmax(reference)
        return jnp.sum(jnp.exp(log_reference) * (log_reference - jax.nn.log_softmax(logits)), 1)

    return loss


def tiny(like: Array) -> float:
    """Returns what keeps equal logits from dividing by zero: its square is a number of theirs."""
    return max(1e-12, math.sqrt(float(jnp.finfo(like.dtype).tiny)))


def spread(logits: Float[Array, "*m b c"]) -> Float[Array, "*m b"]:
    """Returns the difference of the first and the third logit, a scale of each prediction.

    Raises:
        ValueError: fewer than three classes.
    """
    if logits.shape[-1] < 3:
        raise ValueError(f"Expected num_classes={logits.shape[-1]} >= 3 to scale logits.")
    ordered = jnp.sort(logits, axis=-1)
    return ordered[..., -1] - ordered[..., -3] + tiny(logits)


def _descending(logits: Array, user: str, least: int) -> Array:
    if logits.shape[1] < least:
        raise ValueError(f"Expected num_classes={logits.shape[1]} >= {least} for {user}.")
    return -jnp.sort(-logits, axis=1)


def ranked_targets(
    logits: Float[Array, "b c"], labels: Int[Array, " b"], num_targets: int
) -> Int[Array, "b t"]:
    """Returns for each example the classes other than the label, the likeliest first.

    Raises:
        ValueError: there are not so many other classes.
    """
    if not 1 <= num_targets < logits.shape[1]:
        raise ValueError(
            f"Expected num_targets={num_targets} in [1, {logits.shape[1] - 1}], the number of "
            "other classes."
        )
    own = jax.nn.one_hot(labels, logits.shape[1], dtype=jnp.bool_)
    return jnp.argsort(jnp.where(own, jnp.inf, -logits), axis=1)[:, :num_targets]


def named(name: str, target: Labels | None = None) -> Loss:
    """Returns the loss called `name`, or its targeted form, which grows towards a class.

    Raises:
        ValueError: there is no such loss.
    """
    losses: dict[str, Loss] = {
        "cross_entropy": cross_entropy,
        "dlr": dlr,
        "margin": margin,
        "probability_margin": probability_margin,
    }
    if name not in losses:
        raise ValueError(f"Expected loss={name!r} to be one of {sorted(losses)}.")
    if target is None:
        return losses[name]
    towards = {
        "cross_entropy": lambda logits, labels: -cross_entropy(logits, target),
        "dlr": targeted_dlr(target),
        "margin": lambda logits, labels: gap(logits, labels, target),
        "probability_margin": lambda logits, labels: probability_gap(logits, labels, target),
    }
    return towards[name]


def negated(loss_fn: Loss) -> Loss:
    """Returns the loss with its sign changed: what a targeted attack raises."""
    return lambda logits, labels: -loss_fn(logits, labels)


def decision(logits: Float[Array, "*s b c"]) -> Float[Array, "b c"]:
    """Returns the logits that a decision is taken on: of draws, the log of the mean probability."""
    if logits.ndim == 2:
        return logits
    return voting.mean_probability(logits)


def decided(scores: Float[Array, "*s b c"]) -> Int[Array, "*s b"]:
    """Returns the class of the largest score, of equal ones the first; -1 where any is NaN."""
    no_number = jnp.any(jnp.isnan(scores), axis=-1)
    return jnp.where(no_number, -1, jnp.argmax(scores, axis=-1))


def misclassified(logits: Float[Array, "b c"], labels: Int[Array, " b"]) -> Bool[Array, " b"]:
    """Returns where the largest logit (of equal ones the first) is not the label's, or is NaN."""
    found = decided(logits)
    return found != labels.astype(found.dtype)


def evaluate(
    loss_fn: Loss,
    view: View,
    images: Array,
    labels: Int[Array, " b"],
    *,
    key: Key[Array, ""],
    decide_fn: Decide | None = None,
) -> tuple[Float[Array, " b"], Float[Array, "b c"]]:
    """Returns the loss of each example and the logits of the decision.

    Of a view that returns draws [s b c] the loss is the mean over the draws. Logits of 16 bits
    are taken in float32, else a class that is almost sure has no gradient. The loss has the images'
    dtype, in which steps and distances are.

    Args:
        loss_fn: the loss.
        view: the model under attack.
        images: where to evaluate it.
        labels: class of each image.
        key: key of the view.
        decide_fn: for a view of an ensemble's members [m b c]: function of all of them to the
            scores [b c] that decide; the loss then sees all members too.
    """
    logits = voting.in_float32(view(images, key=key))
    if decide_fn is not None:
        values, logits = loss_fn(logits, labels), decide_fn(logits)
    elif logits.ndim == 2:
        values = loss_fn(logits, labels)
    else:
        each = jax.vmap(loss_fn, (0, None))(logits, labels)
        values, logits = jnp.mean(each, axis=0), decision(logits)
    return values.astype(images.dtype), logits


def gradient(
    loss_fn: Loss,
    view: View,
    images: Array,
    labels: Int[Array, " b"],
    *,
    key: Key[Array, ""],
    decide_fn: Decide | None = None,
) -> tuple[Array, Float[Array, " b"], Float[Array, "b c"]]:
    """Returns each example's loss gradient, its loss, and the logits of the decision.

    The gradient is that of the sum over examples, which is each example's own. Where it is NaN it
    is given as zero: no step can follow it.
    """

    def total(images):
        values, logits = evaluate(loss_fn, view, images, labels, key=key, decide_fn=decide_fn)
        return jnp.sum(values), (values, logits)

    (_, (values, logits)), gradient = jax.value_and_grad(total, has_aux=True)(images)
    return jnp.where(jnp.isnan(gradient), 0, gradient), values, logits
