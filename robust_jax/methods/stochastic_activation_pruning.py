"""Stochastic activation pruning (SAP): a trained network that drops small activations at random.

Dhillon et al., "Stochastic Activation Pruning for Robust Adversarial Defense", ICLR 2018.

After every activation function, with h the activations of one example in that layer,
p_j = |h_j| / sum |h|, r = fraction * size draws are made with replacement from p. What was drawn is
kept and divided by the probability 1 - (1 - p_j)^r of being drawn at all, the rest is zero, so
that the mean over draws is h. Nothing is trained anew: the weights are the plain network's
(`evaluate.py --method configs/sap_cifar10.py` on any checkpoint of it), and training is its own.

Sources of the defaults: fraction = 1 and 100 passes are those of the authors' tutorial.
`draws="independent"` keeps every activation independently with the same probability, as a random
number of draws would: the same mean and scale, without the weak dependence between activations, at
about a third of the cost on a CPU.

No gradient flows through the probabilities: what is kept is multiplied by constants.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Key

from robust_jax import checks
from robust_jax.methods.network import AveragedMethod
from robust_jax.models import Activation, LayerChange, Mode, Phase

Draws = Literal["with_replacement", "independent"]


def drawn(
    key: Key[Array, ""], probability: Float[Array, "b n"], num_draws: int
) -> Bool[Array, "b n"]:
    """Returns which entries of each row are drawn at least once, with replacement.

    Args:
        key: consumed.
        probability: of the entries of each row; they sum to one.
        num_draws: r.
    """
    ends = jnp.cumsum(probability, axis=-1)
    # By rounding the last end is not exactly one.
    uniform = jax.random.uniform(key, (probability.shape[0], num_draws)) * ends[:, -1:]

    def of_row(ends: Array, uniform: Array) -> Array:
        position = jnp.searchsorted(ends, uniform, side="right")
        return jnp.zeros(ends.shape, bool).at[position].set(True, mode="drop")

    return jax.vmap(of_row)(ends, uniform)


def prune(
    key: Key[Array, ""], activations: Float[Array, "b *shape"], *, fraction: float, draws: Draws
) -> Float[Array, "b *shape"]:
    """Returns pruned activations, whose mean over keys is the activations.

    Args:
        key: consumed.
        activations: of one layer; rows are pruned by themselves.
        fraction: draws for each activation of a row.
        draws: how, see the module's docstring.
    """
    flat = activations.reshape(activations.shape[0], -1)
    size = jnp.abs(lax.stop_gradient(flat)).astype(jnp.float32)
    total = jnp.sum(size, axis=-1, keepdims=True)
    probability = size / jnp.where(total > 0, total, 1.0)
    num_draws = max(1, math.ceil(fraction * flat.shape[-1]))
    # 1 - (1 - p)^r without cancellation, and 1 for p = 1.
    survival = -jnp.expm1(num_draws * jnp.log1p(-probability))
    if draws == "independent":
        kept = jax.random.bernoulli(key, survival)
    else:
        kept = drawn(key, probability, num_draws) & (survival > 0)
    scale = jnp.where(kept, 1 / jnp.where(kept, survival, 1.0), 0.0)
    return (flat * scale.astype(flat.dtype)).reshape(activations.shape)


class PrunedActivation(Activation):
    """Activation function whose output is pruned."""


@dataclasses.dataclass(frozen=True)
class Pruning(LayerChange):
    """The output of every activation function is pruned at random.

    Attributes:
        fraction: of draws: r is this times the activations of an example in a layer, rounded up.
        draws: "with_replacement", or "independent".
        when: phases that prune.

    References:
        Dhillon et al., "Stochastic Activation Pruning for Robust Adversarial Defense", ICLR 2018.

    Example:
        >>> from robust_jax.methods.stochastic_activation_pruning import prune
        >>> import functools
        >>> h = jnp.array([[4.0, 2.0, 1.0, 0.0]])  # activations of one image in a layer
        >>> of_key = functools.partial(prune, activations=h, fraction=1.0, draws="independent")
        >>> found = jax.jit(jax.vmap(of_key))(jax.random.split(jax.random.key(0), 4000))
        >>> np.asarray(found).mean(axis=0).round()  # unbiased
        array([[4., 2., 1., 0.]], dtype=float32)
    """

    activation = PrunedActivation

    fraction: float = 1.0
    draws: Draws = "with_replacement"
    when: tuple[Phase, ...] = ("prediction",)

    def __post_init__(self) -> None:
        checks.above(self, 0, "fraction")

    @property
    def phases(self) -> Sequence[Phase]:
        """Returns when it draws."""
        return self.when

    def after_act(
        self, layer: Activation, x: Float[Array, "..."], mode: Mode
    ) -> Float[Array, "..."]:
        """Returns pruned activations."""
        if not mode.samples(self):
            return x
        return prune(layer.make_rng("sample"), x, fraction=self.fraction, draws=self.draws)


@dataclasses.dataclass(frozen=True)
class StochasticActivationPruning(AveragedMethod):
    """A plain network, or an ensemble, pruned at prediction.

    With h the activations of an example in a layer, r draws are made with replacement from
    `p_j = |h_j| / sum |h|`; what was drawn is divided by `1 - (1 - p_j)^r`, the rest is zero.

    Views: those of `network_method` and `draws.deployed_as`: `deployed` is the mean probability of
    `num_draws` passes, `one_draw` a single one, `noise_off` the plain network, `train` the plain
    network with batch statistics (training prunes nothing), `taps` those of one pass.

    Attributes:
        fraction: of draws: r is this times the activations of an example in a layer, rounded up.
        num_draws: forward passes averaged in a prediction.
        draws: "with_replacement", or "independent".

    Fields beside these are those of `MethodConfig`.

    References:
        Dhillon et al., "Stochastic Activation Pruning for Robust Adversarial Defense", ICLR 2018.

    Example:
        >>> from robust_jax.methods import Standard, StochasticActivationPruning
        >>> from robust_jax.models import CNNConfig
        >>> from robust_jax.types import Task
        >>> task, network = Task((8, 8, 1), 10, 1000), CNNConfig(widths=(4,), strides=(2,))
        >>> plain = Standard(network).make(task)
        >>> pruned = StochasticActivationPruning(network, num_draws=20).make(task)
        >>> def shapes(method):
        ...     return jax.eval_shape(lambda key: method.init(key=key), jax.random.key(0))
        >>> shapes(plain) == shapes(pruned)  # it takes the weights of the plain network
        True
        >>> pruned.stochastic, sorted(set(pruned.views) - set(plain.views))
        (True, ['one_draw'])
    """

    fraction: float = 1.0
    num_draws: int = 100
    draws: Draws = "with_replacement"

    @property
    def own_changes(self) -> tuple[LayerChange, ...]:
        """Returns the pruning."""
        return (self.part(Pruning),)
