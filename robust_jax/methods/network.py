"""What a paper starts from: a network trained by cross-entropy, as the record of functions."""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from robust_jax import metrics, rng, voting
from robust_jax.methods.base import Forward, Method, MethodConfig
from robust_jax.methods.draws import required_key
from robust_jax.methods.skip_gradient import with_skip_gradient
from robust_jax.models import Classifier, Layers
from robust_jax.types import Outputs, Task, Variables


def classifier(config: MethodConfig, task: Task, layers: Layers) -> Classifier:
    """Returns the configured network with these layers behind its normalisation."""
    backbone = config.network.make(task.num_classes, layers)
    return Classifier(backbone, config.normalization, config.dtype)


def cross_entropy(
    logits: Float[Array, "b c"], labels: Int[Array, " b"], label_smoothing: float = 0.0
) -> Float[Array, ""]:
    """Returns the mean cross-entropy, targets smoothed over all classes."""
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    if label_smoothing:
        targets = optax.smooth_labels(targets, label_smoothing)
    return jnp.mean(optax.softmax_cross_entropy(logits, targets))


Reduction = Literal["sum", "mean"]
"""Over members: of "sum" each trains at the full rate, of "mean" at one as many times smaller."""


def check_reduction(reduction: str) -> None:
    """Raises ValueError for another reduction than `Reduction` names."""
    if reduction not in get_args(Reduction):
        raise ValueError(
            f"Expected cross_entropy={reduction!r} to be one of {get_args(Reduction)}."
        )


def members_cross_entropy(
    member_logits: Float[Array, "m b c"],
    labels: Int[Array, " b"],
    reduction: Reduction,
    label_smoothing: float = 0.0,
) -> Float[Array, ""]:
    """Returns the sum or the mean over members of their mean cross-entropies."""
    losses = jax.vmap(lambda logits: cross_entropy(logits, labels, label_smoothing))(member_logits)
    return jnp.sum(losses) if reduction == "sum" else jnp.mean(losses)


def forward_fn(network: nn.Module) -> Forward:
    """Returns the pure forward pass of a network.

    With `deterministic` the key is not used and may be None; without, a missing key is an error.
    """

    def forward(variables, images, *, key, train, deterministic):
        return network.apply(
            variables,
            images,
            train=train,
            deterministic=deterministic,
            rngs=None if deterministic else {"sample": rng.stream(required_key(key), "layers")},
            mutable=["batch_stats"] if train else [],
        )

    return forward


class Sampling(NamedTuple):
    """What is random in a forward pass.

    Attributes:
        layers: the network's own random layers (activation noise, dropout, ...).
        input_noise: standard deviation of Gaussian noise on the images, which are not clipped.
    """

    layers: bool = False
    input_noise: float = 0.0

    def run(
        self,
        forward: Forward,
        variables: Variables,
        images: Float[Array, "b h w k"],
        *,
        key: Key[Array, ""] | None,
        train: bool,
    ) -> tuple[Outputs, Variables]:
        """Returns what a forward pass with this randomness gives, and the collections it moves.

        Raises:
            ValueError: it needs a key and has none.
        """
        if self.input_noise:
            noise_key = rng.stream(required_key(key), "input_noise")
            noise = jax.random.normal(noise_key, images.shape, images.dtype)
            images = images + self.input_noise * noise
        return forward(variables, images, key=key, train=train, deterministic=not self.layers)


def network_method(
    network: nn.Module,
    config: MethodConfig,
    task: Task,
    *,
    training: Sampling = Sampling(),
    prediction: Sampling = Sampling(),
    reduction: Reduction = "sum",
) -> Method:
    """Returns the record of a network trained by cross-entropy: what a paper starts from.

    The loss of an ensemble is the sum (or the mean) of its members' losses, so members train
    independently; it reports `accuracy`, the vote's.
    Views: `deployed` (logits of the vote; of a majority vote, which has no gradient, those of the
    mean probability), `noise_off` (the same weights without any sampling), `train` (batch
    statistics, the randomness of training), `members` [m b c]; and of a network (or an
    ensemble) with residual blocks `skip_gradient`: `deployed` with the gradient of the residual
    branches scaled (`skip_gradient.py`), from which attacks transfer better.

    Args:
        network: a `Classifier`.
        config: loss and vote.
        task: the dataset's shape.
        training: what is random in the loss and the `train` view.
        prediction: what is random in the prediction and the `deployed` view.
        reduction: of the members' losses.
    """
    forward = forward_fn(network)

    def init(*, key):
        images = jnp.zeros((1, *task.input_shape), jnp.float32)
        # Shapes do not depend on sampling, so no second key is asked for.
        variables = network.init(key, images, train=False, deterministic=True)
        return dict(variables)

    def loss(variables, batch, *, key, step):
        del step
        found, moved = training.run(forward, variables, batch.image, key=key, train=True)
        member_logits = found.member_logits
        value = members_cross_entropy(member_logits, batch.label, reduction, config.label_smoothing)
        scores = voting.scores(member_logits, config.vote)
        return value, (moved, {"accuracy": metrics.accuracy(scores, batch.label)})

    def outputs(variables, images, *, key):
        return prediction.run(forward, variables, images, key=key, train=False)[0]

    def members(variables, images, *, key):
        return outputs(variables, images, key=key).member_logits

    def taps(variables, images, *, key):
        return outputs(variables, images, key=key).taps

    def deployed(variables, images, *, key):
        return voting.logits(members(variables, images, key=key), config.vote)

    def predict(variables, images, *, key=None):
        return voting.scores(members(variables, images, key=key), config.vote)

    def noise_off(variables, images, *, key=None):
        del key
        quiet, _ = Sampling().run(forward, variables, images, key=None, train=False)
        return voting.logits(quiet.member_logits, config.vote)

    def train_view(variables, images, *, key):
        trained, _ = training.run(forward, variables, images, key=key, train=True)
        return voting.logits(trained.member_logits, config.vote)

    views = {
        "deployed": deployed,
        "noise_off": noise_off,
        "train": train_view,
        "members": members,
    }
    skipping = with_skip_gradient(network)
    if skipping is not None:
        skipping_forward = forward_fn(skipping)

        def skip_gradient(variables, images, *, key):
            skipped, _ = prediction.run(skipping_forward, variables, images, key=key, train=False)
            return voting.logits(skipped.member_logits, config.vote)

        views["skip_gradient"] = skip_gradient
    stochastic = prediction != Sampling()
    return Method(init, loss, predict, views, stochastic=stochastic, vote=config.vote, taps=taps)
