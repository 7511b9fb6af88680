"""Monte-Carlo dropout: a network that drops activations at prediction too, averaged over draws.

Gal and Ghahramani, "Dropout as a Bayesian Approximation: Representing Model Uncertainty in Deep
Learning", ICML 2016. One of the stochastic ensembles that the papers of this package compare with;
none of them says where its units are dropped, so both common places are here.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from robust_jax import rng, voting
from robust_jax.methods.base import Method, MethodConfig
from robust_jax.methods.draws import required_key
from robust_jax.methods.network import Sampling, classifier, network_method
from robust_jax.models import Activation, Dense, Layers, default_layers
from robust_jax.types import Outputs, Task, Variables


def _drop(module: nn.Module, x: Float[Array, "*b k"], rate: float) -> Float[Array, "*b k"]:
    kept = jax.random.bernoulli(module.make_rng("sample"), 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))


class DroppedDense(Dense):
    """Linear layer that drops its input; the parameters are those of `Dense`."""

    rate: float = 0.5

    def __call__(
        self, x: Float[Array, "b k"], *, train: bool, deterministic: bool
    ) -> Float[Array, "b features"]:
        """Returns the layer's output; nothing is dropped when `deterministic`."""
        x = x if deterministic else _drop(self, x, self.rate)
        return super().__call__(x, train=train, deterministic=deterministic)


class DroppedActivation(Activation):
    """Activation function whose output is dropped."""

    rate: float = 0.5

    def __call__(
        self, x: Float[Array, "..."], *, train: bool, deterministic: bool
    ) -> Float[Array, "..."]:
        """Returns the activations; nothing is dropped when `deterministic`."""
        x = super().__call__(x, train=train, deterministic=deterministic)
        return x if deterministic else _drop(self, x, self.rate)


@dataclasses.dataclass(frozen=True)
class MonteCarloDropout(MethodConfig):
    """A network, or an ensemble, with dropout in training and at prediction.

    Views: `deployed` (mean probability of `num_draws` fresh draws), `one_draw` (of a single one),
    `noise_off` (nothing dropped), `train`, `members` (the draws, [m b c]; of an ensemble every
    member's, draw after draw) and `taps` (of one draw).

    Attributes:
        rate: probability with which a value is dropped.
        where: "features" drops the pooled features before the last layer, "activations" the output
            of every activation function.
        num_draws: forward passes averaged at prediction; with where="features" only the last
            layer is repeated.
    """

    rate: float = 0.5
    where: Literal["features", "activations"] = "features"
    num_draws: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.rate < 1:
            raise ValueError(f"Expected 0 < rate={self.rate} < 1.")
        if self.num_draws < 1:
            raise ValueError(f"Expected num_draws={self.num_draws} >= 1.")

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset."""
        network = classifier(self, task, self._layers())
        sampling = Sampling(layers=True)
        method = network_method(network, self, task, training=sampling, prediction=sampling)
        one_draw = method.views["deployed"]

        def draws(variables, images, *, key):
            root = required_key(key)
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

    def _layers(self) -> Layers:
        layers = default_layers()
        if self.where == "features":
            return layers._replace(dense=functools.partial(DroppedDense, rate=self.rate))
        return layers._replace(act=functools.partial(DroppedActivation, rate=self.rate))


def _sampled_part(
    network: nn.Module, variables: Variables, images: Array, where: str
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
