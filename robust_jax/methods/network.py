"""What a paper starts from: a network and the terms of its loss, as the record of functions."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn

from robust_jax import rng, voting
from robust_jax.methods.base import Forward, Method, MethodConfig
from robust_jax.methods.draws import averaged
from robust_jax.methods.objective import FeatureFactors, by_member, no_loss, with_objective
from robust_jax.methods.runs import Asked
from robust_jax.methods.skip_gradient import with_skip_gradient
from robust_jax.models import (
    Classifier,
    LayerChange,
    Layers,
    Mode,
    changed,
    default_layers,
)
from robust_jax.models.changes import on_images
from robust_jax.types import Task


def classifier(config: MethodConfig, task: Task, layers: Layers = default_layers()) -> Classifier:
    """Returns the configured network behind its normalisation, its layers changed."""
    backbone = config.network.make(task.num_classes, changed(layers, config.all_changes))
    return Classifier(backbone, config.normalization, config.dtype)


def forward_fn(network: nn.Module, changes: Sequence[LayerChange] = ()) -> Forward:
    """Returns the pure forward pass of a network.

    Without `deterministic` its changes draw, if they do in the phase: a missing key is an error
    then, and no key is used otherwise.

    Args:
        network: whose layers are changed already.
        changes: of its layers and images.
    """

    def forward(variables, images, *, key, train, deterministic):
        mode = Mode(train, deterministic)
        root = rng.required_key(key) if any(map(mode.samples, changes)) else None
        images = on_images(changes, images, mode, root)
        return network.apply(
            variables,
            images,
            train=train,
            deterministic=root is None,
            rngs=None if root is None else {"sample": rng.stream(root, "layers")},
            mutable=["batch_stats"] if train else [],
        )

    return forward


def network_method(
    network: nn.Module,
    config: MethodConfig,
    task: Task,
    *,
    factors: FeatureFactors | None = None,
) -> Method:
    """Returns the record of a network trained by the terms of its configuration.

    The loss reports `accuracy`, the vote's, and what its terms report.
    Views: `deployed` (logits of the vote; of a majority vote, which has no gradient, those of the
    mean probability), `noise_off` (the same weights without any sampling), `train` (batch
    statistics, the randomness of training), `members` [m b c]; and of a network (or an
    ensemble) with residual blocks `skip_gradient`: `deployed` with the gradient of the residual
    branches scaled (`skip_gradient.py`), from which attacks transfer better.

    Args:
        network: a `Classifier` whose layers are changed as the configuration says.
        config: loss, vote and changes.
        task: the dataset's shape.
        factors: of the members' features, in training.
    """
    forward = forward_fn(network, config.all_changes)
    runs = by_member(config, task, network, forward, factors)

    def init(*, key):
        images = jnp.zeros((1, *task.input_shape), jnp.float32)
        # Shapes do not depend on sampling, so no second key is asked for.
        variables = network.init(key, images, train=False, deterministic=True)
        return dict(variables)

    def outputs(variables, images, *, key):
        return forward(variables, images, key=key, train=False, deterministic=False)[0]

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
        quiet, _ = forward(variables, images, key=None, train=False, deterministic=True)
        return voting.logits(quiet.member_logits, config.vote)

    def train_view(variables, images, *, key):
        labels = jnp.zeros(len(images), jnp.int32)
        trained = runs.run(variables, images, labels, key=key, asked=Asked())
        return voting.logits(trained.logits, config.vote)

    views = {
        "deployed": deployed,
        "noise_off": noise_off,
        "train": train_view,
        "members": members,
    }
    skipping = with_skip_gradient(network)
    if skipping is not None:
        skipping_forward = forward_fn(skipping, config.all_changes)

        def skip_gradient(variables, images, *, key):
            skipped, _ = skipping_forward(
                variables, images, key=key, train=False, deterministic=False
            )
            return voting.logits(skipped.member_logits, config.vote)

        views["skip_gradient"] = skip_gradient
    stochastic = config.samples_in("prediction")
    method = Method(
        init, no_loss, predict, views, stochastic=stochastic, vote=config.vote, taps=taps
    )
    return with_objective(method, config, runs, task)


@dataclasses.dataclass(frozen=True)
class NetworkMethod(MethodConfig):
    """A method that is a network with its changes, and a loss with its terms."""

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset.

        Raises:
            ValueError: a term or a change does not fit the network; at the first trace where it
                asks for more layers, or images, than there are.
        """
        return network_method(classifier(self, task), self, task)


@dataclasses.dataclass(frozen=True)
class AveragedMethod(NetworkMethod):
    """A random network that is deployed as the vote of several passes.

    Attributes:
        num_draws: passes of a prediction.
    """

    num_draws: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_draws < 1:
            raise ValueError(f"Expected num_draws={self.num_draws} >= 1.")

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset."""
        return averaged(super().make(task), self.num_draws, self.vote)
