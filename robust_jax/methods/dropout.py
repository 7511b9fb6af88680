"""Monte-Carlo dropout: a network that drops activations at prediction too, averaged over draws.

Gal and Ghahramani, "Dropout as a Bayesian Approximation: Representing Model Uncertainty in Deep
Learning", ICML 2016. One of the stochastic ensembles that the papers of this package compare with;
none of them says where its units are dropped, so both common places are here.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, cast, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from robust_jax import rng, voting
from robust_jax.methods.base import Method, MethodConfig
from robust_jax.methods.draws import averaged
from robust_jax.methods.network import classifier, network_method
from robust_jax.models import Activation, Dense, LayerChange, Mode, Phase
from robust_jax.models.changes import BOTH
from robust_jax.types import Outputs, Task, Variables

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
    """

    activation = DroppedActivation

    rate: float = 0.5
    where: Where = "features"
    when: tuple[Phase, ...] = BOTH

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ValueError(f"Expected 0 < rate={self.rate} < 1.")
        if self.where not in get_args(Where):
            raise ValueError(f"Expected where={self.where!r} to be one of {get_args(Where)}.")

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
class MonteCarloDropout(MethodConfig):
    """A network, or an ensemble, with dropout in training and at prediction.

    Views: `deployed` (mean probability of `num_draws` fresh draws), `one_draw` (of a single one),
    `noise_off` (nothing dropped), `train`, `members` (the draws, [m b c]; of an ensemble every
    member's, draw after draw) and `taps` (of one draw).

    Attributes:
        rate: probability with which a value is dropped.
        where: "features" drops what linear layers are given (the pooled features, before the last
            one), "activations" the output of every activation function.
        num_draws: forward passes averaged at prediction; with where="features" only the last
            layer is repeated.
    """

    rate: float = 0.5
    where: Where = "features"
    num_draws: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_draws < 1:
            raise ValueError(f"Expected num_draws={self.num_draws} >= 1.")

    @property
    def own_changes(self) -> tuple[LayerChange, ...]:
        """Returns the dropout."""
        return (Dropout(self.rate, self.where),)

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset."""
        network = classifier(self, task)
        method = network_method(network, self, task)
        member = getattr(self.network, "member", self.network)
        inner = self.where == "features" and getattr(member, "hidden", ())
        if self.changes or inner:  # more than the last layer is random
            return averaged(method, self.num_draws, self.vote)
        one_draw = method.views["deployed"]

        def draws(variables, images, *, key):
            root = rng.required_key(key)
            sampled = _sampled_part(network, variables, images, self.where)
            keys = jax.vmap(lambda draw: rng.stream(root, "draw", draw))(jnp.arange(self.num_draws))
            logits = lax.map(sampled, keys)
            return logits.reshape((-1, *logits.shape[2:]))

        def deployed(variables, images, *, key):
            return voting.logits(draws(variables, images, key=key), self.vote)

        def predict(variables, images, *, key):
            return voting.scores(draws(variables, images, key=key), self.vote)

        views = {**method.views, "deployed": deployed, "one_draw": one_draw, "members": draws}
        return method._replace(predict=predict, views=views)


def _sampled_part(
    network: nn.Module, variables: Variables, images: Array, where: Where
) -> Callable[[Array], Array]:
    """Returns the random part of a forward pass: from a key to member logits [m b c]."""
    if where == "activations":

        def whole(key):
            outputs = network.apply(
                variables, images, train=False, deterministic=False, rngs={"sample": key}
            )
            return cast(Outputs, outputs).member_logits

        return whole

    features, _ = network.apply(
        variables, images, train=False, deterministic=True, method="features"
    )

    def last_layer(key):
        logits = network.apply(
            variables, features, train=False, deterministic=False, rngs={"sample": key},
            method="head",
        )  # fmt: skip
        logits = cast(Array, logits)
        return logits if logits.ndim == 3 else logits[None]

    return last_layer
