"""How members of an ensemble differ: in their errors, and in the gradients of their losses.

The interrater agreement is in `metrics.py`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Key

from robust_jax.analysis.geometry import norms, zero_share
from robust_jax.attacks import losses
from robust_jax.attacks.checks import check_batch
from robust_jax.methods import LaplaceRates
from robust_jax.methods.gradient_diversity import pairwise_cosines
from robust_jax.runtime.live import as_pytree, compiled
from robust_jax.types import View


def entropy(correct: Bool[Array, "m b"]) -> Float[Array, ""]:
    """Returns E, how evenly members are split into right and wrong; higher is more diverse.

    With l of the K members right on an example, the mean of min(l, K - l) / (K - ceil(K / 2)): 0
    where all agree, 1 where they are split in half.

    Args:
        correct: is a member right on an example?

    Raises:
        ValueError: fewer than two members.

    Example:
        >>> from robust_jax.analysis import entropy
        >>> correct = jnp.asarray([[True, True], [True, False], [True, False]])  # [m b]
        >>> entropy(correct).item()  # all agree on the first example
        0.5

    References:
        Kuncheva and Whitaker, "Measures of diversity in classifier ensembles", 2003; equation 7 of
        Wu et al., "Deep ensemble robustness by adaptive sampling in dropout-based simultaneous
        training", 2023.
    """
    num_members = correct.shape[0]
    if num_members < 2:
        raise ValueError(f"Expected members={num_members} >= 2.")
    right = jnp.sum(correct, axis=0, dtype=jnp.float32)
    # Equation 7; K - ceil(K / 2) is floor(K / 2).
    return jnp.mean(jnp.minimum(right, num_members - right)) / (num_members // 2)


def member_gradients(
    members: View,
    images: Float[Array, "b *shape"],
    labels: Int[Array, " b"],
    *,
    key: Key[Array, ""],
    loss: str = "cross_entropy",
) -> Float[Array, "m b *shape"]:
    """Returns the gradient of each member's loss at each image.

    One forward pass, and a backward pass of all members for each of them.

    Args:
        members: view [m b c] without batch statistics, `bind(method.view("members"), variables)`.
        images: where.
        labels: class of each image.
        key: of a random method's draw, the same for all members.
        loss: "cross_entropy", whose gradient vanishes where a member is sure; "margin", whose
            directions (cosines) do not depend on the scale of the logits; "dlr", whose lengths do
            not either (it is flat where the label's logit is the third).

    Raises:
        ValueError: shapes, dtypes or labels do not fit.

    Example:
        >>> from robust_jax.analysis import member_gradients
        >>> from robust_jax.attacks import as_view
        >>> members = as_view(lambda x: jnp.stack([x[:, :2], x[:, 2:]]))  # two of two classes
        >>> images, labels, key = jnp.zeros((1, 4)), jnp.asarray([0]), jax.random.key(0)
        >>> member_gradients(members, images, labels, key=key, loss="margin").tolist()
        [[[-1.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, -1.0, 1.0]]]
    """
    losses.named(loss)
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    check_batch(images, labels, jnp.arange(labels.size))
    found, are_classes = _gradients_of(as_pytree(members), images, labels, key, loss)
    if not isinstance(are_classes, Tracer) and not are_classes:
        raise ValueError(f"Expected labels in [0, c), found {labels.min()} to {labels.max()}.")
    return found


@functools.partial(compiled, static_argnames=("loss",))
def _gradients_of(
    members: View, images: Array, labels: Array, key: Key[Array, ""], loss: str
) -> tuple[Float[Array, "m b *shape"], Bool[Array, ""]]:
    """Returns the gradients, and whether the labels are classes of these members."""
    loss_fn = losses.named(loss)

    def summed(images: Array) -> tuple[Float[Array, " m"], Bool[Array, ""]]:
        # An example's loss depends on no other example.
        member_logits = members(images, key=key)
        values = jnp.sum(jax.vmap(lambda logits: loss_fn(logits, labels))(member_logits), axis=1)
        return values, jnp.all((labels >= 0) & (labels < member_logits.shape[-1]))

    values, pull_back, are_classes = jax.vjp(summed, images, has_aux=True)
    basis = jnp.eye(len(values), dtype=values.dtype)
    return jax.lax.map(lambda one: pull_back(one)[0], basis), are_classes


class GradientStatistics(NamedTuple):
    """Members' gradients, compared on each example.

    Attributes:
        cosine: of every pair of members, in the order (0, 1), (0, 2), ..., (1, 2), ...; nan where
            the gradient of one of the two is zero.
        norm: Euclidean norm of each member's gradient.
        cosine_sum: L_d, the sum of the pairs' cosines; nan where one is.
        norm_sum: L_s, the sum of the norms.

    Example:
        >>> from robust_jax.analysis import gradient_statistics
        >>> gradients = jnp.asarray([[[3.0, 4.0]], [[-6.0, -8.0]]])  # [m b p], opposite
        >>> statistics = jax.jit(gradient_statistics)(gradients)
        >>> round(statistics.cosine[0, 0].item(), 3), statistics.norm[:, 0].tolist()
        (-1.0, [5.0, 10.0])
    """

    cosine: Float[Array, "pairs b"]
    norm: Float[Array, "m b"]
    cosine_sum: Float[Array, " b"]
    norm_sum: Float[Array, " b"]


def gradient_statistics(gradients: Float[Array, "m b *shape"]) -> GradientStatistics:
    """Returns L_d and L_s of every example, and what they are sums of.

    Norms are computed without underflow and no constant is added to them: with one (1e-8, say) L_d
    of a saturated ensemble would be close to 0 whatever its gradients' directions.

    Args:
        gradients: of at least two members.

    Example:
        >>> from robust_jax.analysis import gradient_statistics
        >>> gradients = jnp.asarray([[[1.0, 0.0]], [[0.0, 2.0]]])  # [m b p], orthogonal
        >>> statistics = jax.jit(gradient_statistics)(gradients)
        >>> statistics.cosine_sum.tolist(), statistics.norm_sum.tolist()  # L_d and L_s
        ([0.0], [3.0])

    References:
        Wu et al., 2023, as for `entropy`, sections 4.2 and 4.3.
    """
    flat = gradients.reshape((*gradients.shape[:2], -1))
    cosine, dead = pairwise_cosines(flat)
    first, second = jnp.triu_indices(len(flat), 1)
    cosine = jnp.where(dead[first] | dead[second], jnp.nan, cosine)
    norm = norms(gradients)
    return GradientStatistics(cosine, norm, jnp.sum(cosine, axis=0), jnp.sum(norm, axis=0))


def quartiles(values: Float[Array, "*rest b"]) -> Float[Array, "*rest 3"]:
    """Returns the quantiles at 25, 50 and 75 % over examples, of those that are not nan.

    Args:
        values: of each example, along the last axis.

    Example:
        >>> from robust_jax.analysis import quartiles
        >>> quartiles(jnp.asarray([1.0, 2.0, 3.0, 4.0, 5.0, jnp.nan])).tolist()
        [2.0, 3.0, 4.0]
    """
    return jnp.moveaxis(jnp.nanquantile(values, jnp.array([0.25, 0.5, 0.75]), axis=-1), 0, -1)


def summarize_gradients(statistics: GradientStatistics) -> dict[str, list[float]]:
    """Returns the numbers of the LPD paper's tables 2 and 3, and what they rest on.

    `L_d` and `L_s`: quartiles over examples, `L_d` over those where no member's gradient is zero.
    `zero_share` and `tiny_share`: of each member, the share of gradients that are exactly zero, and
    of those of norm at most 1e-12.

    Args:
        statistics: of many examples.

    Example:
        >>> from robust_jax.analysis import gradient_statistics, summarize_gradients
        >>> gradients = jnp.asarray([[[0.0, 0.0]], [[0.0, 2.0]]])  # the first member is flat
        >>> found = summarize_gradients(jax.jit(gradient_statistics)(gradients))
        >>> found["L_d"], found["L_s"], found["zero_share"]
        ([nan, nan, nan], [2.0, 2.0, 2.0], [1.0, 0.0])

    References:
        Wu et al., 2023, as for `entropy`, tables 2 and 3.
    """
    norm = statistics.norm
    return {
        "L_d": quartiles(statistics.cosine_sum).tolist(),
        "L_s": quartiles(statistics.norm_sum).tolist(),
        "zero_share": zero_share(norm).tolist(),
        "tiny_share": zero_share(norm, 1e-12).tolist(),
    }


def keep_rate(rates: LaplaceRates, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns the keep rate of a feature at the value z of LPD's kernel (equations 5 and 6).

    Args:
        rates: LPD's parameters.
        z: values of the kernel (equation 4), at least 0.

    Example:
        >>> from robust_jax.analysis import keep_rate
        >>> from robust_jax.methods import LaplaceRates
        >>> rates = LaplaceRates(alpha=0.5, beta=0.25, laplace_lambda=0.5)
        >>> keep_rate(rates, jnp.asarray([0.0, 99.0])).tolist()  # near the priority, and far
        [0.75, 0.25]

    References:
        Wu et al., 2023, as for `entropy`, equations 5 and 6.
    """
    kernel = jnp.exp(-z / rates.laplace_lambda) / (2 * rates.laplace_lambda)  # equation 5
    return jnp.minimum(rates.alpha * kernel + rates.beta, 1.0)  # equation 6
