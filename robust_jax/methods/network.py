"""What a paper starts from: a network and the terms of its loss, as the record of functions."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn

from robust_jax import rng, voting
from robust_jax.methods.base import Forward, Method, MethodConfig
from robust_jax.methods.deployment import Deployment, MembersView, OneMember, Passes, voted
from robust_jax.methods.draws import deployed_as
from robust_jax.methods.objective import FeatureFactors, by_member, objective
from robust_jax.methods.runs import Runs, training_view
from robust_jax.methods.skip_gradient import with_skip_gradient
from robust_jax.models import (
    Classifier,
    EnsembleConfig,
    LayerChange,
    Mode,
    NetworkConfig,
    ResNetConfig,
)
from robust_jax.models.changes import on_images
from robust_jax.models.ensemble import Ensemble, ensemble_of_one
from robust_jax.types import Task


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
    runs: Runs | None = None,
    passes: Passes | None = None,
    alone: OneMember | None = None,
) -> Method:
    """Returns the record of a network trained by the terms of its configuration.

    The loss reports `accuracy`, the vote's, and what its terms report.
    Views: `deployed` (logits of the vote; of a majority vote, which has no gradient, those of the
    mean probability), `noise_off` (the same weights without any sampling), `train` (batch
    statistics, the randomness of training), `members` [m b c]; and of a network (or an
    ensemble) with residual blocks `skip_gradient`: a pass of `deployed` with the gradient of the
    residual branches scaled (`skip_gradient.py`), from which attacks transfer better. With a
    deployment those of `draws.deployed_as`.

    Args:
        network: a `Classifier` whose layers are changed as the configuration says.
        config: loss, vote, changes and deployment.
        task: the dataset's shape.
        factors: of the members' features, in training.
        runs: how it runs in training; None for members of `config.network`.
        passes: a cheaper way to make several passes at prediction.
        alone: one member computed alone; None is known for the members of an `Ensemble`.
    """
    forward = forward_fn(network, config.all_changes)
    runs = runs or by_member(config, task, network, forward, factors)

    def init(*, key):
        images = jnp.zeros((1, *task.input_shape), jnp.float32)
        # Shapes do not depend on sampling, so no second key is asked for.
        return dict(network.init(key, images, train=False, deterministic=True))

    def outputs(variables, images, key):
        return forward(variables, images, key=key, train=False, deterministic=False)[0]

    def members(variables, images, *, key=None):
        return outputs(variables, images, key).member_logits

    def taps(variables, images, *, key):
        return outputs(variables, images, key).taps

    def noise_off(variables, images, *, key=None):
        del key
        quiet, _ = forward(variables, images, key=None, train=False, deterministic=True)
        return voting.logits(quiet.member_logits, config.vote)

    random, vote = config.samples_in("prediction"), config.vote
    alone = None if random else alone or _member_alone(network, config)
    predict, views = voted(members if alone is None else MembersView(members, alone), vote)
    views |= {"noise_off": noise_off, "train": training_view(runs, config.vote)}
    skipping = with_skip_gradient(network)
    if skipping is not None:
        skipped = forward_fn(skipping, config.all_changes)

        def skip_gradient(variables, images, *, key):
            outputs, _ = skipped(variables, images, key=key, train=False, deterministic=False)
            return voting.logits(outputs.member_logits, config.vote)

        views["skip_gradient"] = skip_gradient
    loss, in_run = objective(config, task, runs, init, {**views, "decision": predict})
    method = Method(
        init, loss, predict, views, random,
        in_run=in_run, vote=vote, taps=taps, draws_per="row",
    )  # fmt: skip
    return deployed_as(method, config, passes)


def _member_alone(network: nn.Module, config: MethodConfig) -> OneMember | None:
    """Returns the logits of one member of an ensemble without randomness; None of others."""
    backbone = network.backbone if isinstance(network, Classifier) else None
    if not isinstance(backbone, Ensemble):
        return None
    single = dataclasses.replace(backbone.config, num_members=1)
    forward = forward_fn(network.clone(backbone=backbone.clone(config=single)), config.all_changes)

    def member(variables, images, number, /, *, key=None):
        del key
        one = ensemble_of_one(variables, number)
        outputs, _ = forward(one, images, key=None, train=False, deterministic=True)
        return outputs.member_logits[0]

    return member


@dataclasses.dataclass(frozen=True)
class NetworkMethod(MethodConfig):
    """A method that is a network with its changes, and a loss with its terms."""

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset.

        Raises:
            ValueError: a term or a change does not fit the network; at the first trace where it
                asks for more layers, or images, than there are.
        """
        return network_method(self.classifier(task), self, task)


@dataclasses.dataclass(frozen=True)
class EnsembleMethod(NetworkMethod):
    """A method of an ensemble.

    Attributes:
        network: an `EnsembleConfig`, its `num_members` the papers' N.
    """

    network: NetworkConfig = EnsembleConfig(ResNetConfig(depth=20), num_members=3)


@dataclasses.dataclass(frozen=True)
class AveragedMethod(NetworkMethod):
    """A random network that is deployed as the vote of several passes.

    Attributes:
        num_draws: passes of a prediction, where `deployment` is None.
    """

    num_draws: int = 10

    @property
    def own_deployment(self) -> Deployment:
        """Returns the vote of the passes."""
        return Deployment(self.num_draws)
