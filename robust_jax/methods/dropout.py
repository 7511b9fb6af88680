"""Monte-Carlo dropout: a network that drops activations at prediction too, averaged over draws.

Gal and Ghahramani, "Dropout as a Bayesian Approximation: Representing Model Uncertainty in Deep
Learning", ICML 2016. One of the stochastic ensembles that the papers of this package compare with;
none of them says where its units are dropped, so both common places are here.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from robust_jax import checks
from robust_jax.methods.base import Method
from robust_jax.methods.deployment import OfKey
from robust_jax.methods.network import AveragedMethod, network_method
from robust_jax.models import Activation, Dense, LayerChange, Mode, Phase
from robust_jax.models.changes import BOTH
from robust_jax.types import Task

Where = Literal["features", "activations"]


class DroppedActivation(Activation):
    """Activation function whose output is dropped."""


@dataclasses.dataclass(frozen=True)
class Dropout(LayerChange):
    """Activations are dropped at random, and what is kept is divided by the share that is.

    Attributes:
        rate: probability with which a value is dropped.
        where: "features" drops what a linear layer is given, "activations" the output of every
            activation function.
        when: phases that drop.

    Raises:
        ValueError: a rate outside (0, 1).

    References:
        Gal and Ghahramani, "Dropout as a Bayesian Approximation", ICML 2016.

    Example:
        >>> from robust_jax.methods import PARL, Dropout
        >>> from robust_jax.models import CNNConfig, EnsembleConfig
        >>> dropout = Dropout(0.2, where="activations")
        >>> config = PARL(EnsembleConfig(CNNConfig(), 3), num_layers=3, changes=(dropout,))
        >>> config.samples_in("prediction")
        True
    """

    activation = DroppedActivation

    rate: float = 0.5
    where: Where = "features"
    when: tuple[Phase, ...] = BOTH

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ValueError(f"Expected 0 < rate={self.rate} < 1.")
        checks.one_of(self, "where", get_args(Where))

    @property
    def phases(self) -> Sequence[Phase]:
        """Returns when it draws."""
        return self.when

    def after_act(
        self, layer: Activation, x: Float[Array, "..."], mode: Mode
    ) -> Float[Array, "..."]:
        """Returns what is kept of activations."""
        return self._dropped(layer, x, mode) if self.where == "activations" else x

    def before_dense(self, layer: Dense, x: Float[Array, "b k"], mode: Mode) -> Float[Array, "b k"]:
        """Returns what is kept of features."""
        return self._dropped(layer, x, mode) if self.where == "features" else x

    def _dropped(self, layer: nn.Module, x: Array, mode: Mode) -> Array:
        if not mode.samples(self):
            return x
        kept = jax.random.bernoulli(layer.make_rng("sample"), 1 - self.rate, x.shape)
        return jnp.where(kept, x / (1 - self.rate), jnp.zeros_like(x))


@dataclasses.dataclass(frozen=True)
class MonteCarloDropout(AveragedMethod):
    """A network, or an ensemble, with dropout in training and at prediction.

    Views: `deployed` (mean probability of `num_draws` fresh draws), `one_draw` (of a single one),
    `noise_off` (nothing dropped), `train`, `members` (the draws, [m b c]; of an ensemble every
    member's, draw after draw) and `taps` (of one draw).

    Attributes:
        rate: probability with which a value is dropped.
        where: "features" drops what linear layers are given (the pooled features, before the last
            one; only the last layer is repeated for draws then), "activations" the output of every
            activation function.
        num_draws: passes averaged in a prediction, where `deployment` is None.

    Fields beside these are those of `MethodConfig`.

    References:
        Gal and Ghahramani, "Dropout as a Bayesian Approximation", ICML 2016.

    Example:
        >>> from robust_jax.methods import MonteCarloDropout
        >>> from robust_jax.models import CNNConfig
        >>> from robust_jax.types import Task
        >>> config = MonteCarloDropout(CNNConfig(widths=(4,), strides=(2,)), rate=0.5, num_draws=10)
        >>> method = config.make(Task((8, 8, 1), num_classes=10, num_train=1000))
        >>> variables = method.init(key=jax.random.key(0))
        >>> images, key = jnp.ones((2, 8, 8, 1)), jax.random.key(1)
        >>> logits = method.views["members"](variables, images, key=key)
        >>> logits.shape, bool(jnp.any(logits[0] != logits[1]))
        ((10, 2, 10), True)
    """

    rate: float = 0.5
    where: Where = "features"

    @property
    def own_changes(self) -> tuple[LayerChange, ...]:
        """Returns the dropout."""
        return (self.part(Dropout),)

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset."""
        network = self.classifier(task)
        member = getattr(self.network, "member", self.network)
        inner = self.where == "features" and getattr(member, "hidden", ())
        if self.changes or inner:  # more than the last layer is random
            return network_method(network, self, task)

        def passes(variables, images) -> OfKey:
            """Returns the random part of a pass."""

            def whole(key):
                return run(images, "__call__", {"sample": key}).member_logits

            def last_layer(key):
                logits = run(features, "head", {"sample": key})
                return logits if logits.ndim == 3 else logits[None]

            def run(x, method, rngs=None):
                mode = {"train": False, "deterministic": rngs is None}
                found, _ = network.apply(variables, x, **mode, method=method, rngs=rngs, mutable=[])
                return found

            if self.where == "activations":
                return whole
            features, _ = run(images, "features")
            return last_layer

        return network_method(network, self, task, passes=passes)
