"""DVERGE: members trained on images that hold another member's non-robust features.

Yang et al., "DVERGE: Diversifying Vulnerabilities for Enhanced Robust Generation of Ensembles",
NeurIPS 2020.

Member i's distilled image of a source (x, y) and a target x_t is

    x'_i = argmin over |x' - x|_inf <= eps of MSE(f_i^l(x'), f_i^l(x_t))

with f_i^l what goes into member i's l-th activation function, or its logits for the last l. Every
member j minimises sum_{i != j} CE(f_j(x'_i), y): it learns to ignore what fools the others.

Sources of the defaults: the authors' code. eps .07, 10 steps of .007 along the sign of the
gradient, normalised to unit L1 norm and added up with momentum 1, no random start; l drawn once an
epoch, the same for all members; features before the activation function; distillation with batch
statistics. A ResNet-20 has 20 layers. The code starts from a trained plain ensemble
(`--training.init-from`); from scratch is its option.

Deviations: targets are the batch's own images, each the source of its neighbour, not a second
independent batch; only the passes that train move BatchNorm's statistics, in the code those of the
distillation do too; features of the targets are computed once, not at every step; all members take
one step together, which is the same, since they share no weight.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Int

from robust_jax import metrics, rng
from robust_jax.methods.base import Epochs, Method, MethodConfig
from robust_jax.methods.gradient_diversity import (
    check_ensemble,
    map_members,
    member_classifier,
    of_ensemble,
)
from robust_jax.methods.layer_calls import noting_calls
from robust_jax.methods.network import classifier, cross_entropy, forward_fn, network_method
from robust_jax.models import (
    Activation,
    EnsembleConfig,
    NetworkConfig,
    ResNetConfig,
    default_layers,
)
from robust_jax.types import Task, Variables


def pre_activations(
    network: nn.Module, variables: Variables, images: Float[Array, "b h w k"]
) -> list[Array]:
    """Returns what each activation function of a network is given, in order, and the logits last.

    Args:
        network: a classifier around one network.
        variables: its variables; running statistics stay as they are.
        images: normalised by the batch's statistics.
    """
    found: list[Array] = []
    with noting_calls(Activation, lambda layer, given, returned: found.append(given)):
        outputs, _ = forward_fn(network)(
            variables, images, key=None, train=True, deterministic=True
        )
    return [*found, outputs.logits]


def distill(
    network: nn.Module,
    variables: Variables,
    images: Float[Array, "b h w k"],
    targets: Float[Array, "b h w k"],
    layer: Int[Array, ""],
    *,
    eps: float,
    step_size: float,
    num_steps: int,
    momentum: float,
) -> Float[Array, "b h w k"]:
    """Returns images near the given ones whose features are those of the targets, for one member.

    Only the part of the network up to the layer runs, and only its gradient at the images.

    Args:
        network: a classifier around the member.
        variables: its variables.
        images: the sources.
        targets: whose features to take.
        layer: number of the features, from 0; may be traced.
        eps: largest change of a pixel, which stays in [0, 1].
        step_size: change of a pixel in one step.
        num_steps: steps.
        momentum: share of the sum of the former gradients that a step keeps.
    """

    @jax.jit  # traced once for all layers
    def features(images: Array) -> list[Array]:
        return pre_activations(network, variables, images)

    wanted = features(targets)

    def slope(number: int) -> Callable[[Array], Array]:
        return jax.grad(lambda x: jnp.mean(jnp.square(features(x)[number] - wanted[number])))

    branches = [slope(number) for number in range(len(wanted))]
    low, high = jnp.maximum(images - eps, 0.0), jnp.minimum(images + eps, 1.0)

    def step(_: Int[Array, ""], state: tuple[Array, Array]) -> tuple[Array, Array]:
        x, total = state
        gradient = lax.switch(layer, branches, x)
        size = jnp.sum(jnp.abs(gradient), axis=(1, 2, 3), keepdims=True)
        total = momentum * total + gradient / jnp.maximum(size, 1e-12)
        return jnp.clip(x - step_size * jnp.sign(total), low, high), total

    distilled, _ = lax.fori_loop(0, num_steps, step, (images, jnp.zeros_like(images)))
    return distilled


@dataclasses.dataclass(frozen=True)
class DVERGE(MethodConfig):
    """An ensemble trained on the images that its members distill for one another.

    Views: those of `network_method`.

    The loss, the sum over members, reports `accuracy` (the share of right decisions of single
    members on the distilled images that they train on) and `layer` (from 1).

    Attributes:
        network: an `EnsembleConfig`.
        eps: of the distillation.
        step_size: of the distillation.
        num_steps: of the distillation.
        momentum: of the distillation.
        layer: of the features, from 1; None draws it once an epoch. Epochs are those of the run's
            plan; outside a run one is as many steps as the training split has batches of the size
            that the loss is given.
        layer_seed: root of that draw, a function of the epoch alone.
    """

    network: NetworkConfig = EnsembleConfig(ResNetConfig(depth=20), num_members=3)
    eps: float = 0.07
    step_size: float = 0.007
    num_steps: int = 10
    momentum: float = 1.0
    layer: int | None = None
    layer_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ensemble(self.network)
        for name in ("eps", "momentum"):
            if getattr(self, name) < 0:
                raise ValueError(f"Expected {name}={getattr(self, name)} >= 0.")
        if self.step_size <= 0:
            raise ValueError(f"Expected step_size={self.step_size} > 0.")
        if self.num_steps < 1:
            raise ValueError(f"Expected num_steps={self.num_steps} >= 1.")
        if self.layer is not None and self.layer < 1:
            raise ValueError(f"Expected layer={self.layer} >= 1.")

    def draw_layer(self, epoch: Int[Array, ""], num_layers: int) -> Int[Array, ""]:
        """Returns the number, from 0, of the layer that an epoch distills.

        Raises:
            ValueError: the network has fewer layers than `layer`.
        """
        if self.layer is None:
            key = rng.stream(jax.random.key(self.layer_seed), "layer", epoch)
            return jax.random.randint(key, (), 0, num_layers)
        if self.layer > num_layers:
            raise ValueError(f"Expected layer={self.layer} <= {num_layers}, the network's layers.")
        return jnp.asarray(self.layer - 1)

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset.

        Raises:
            ValueError: when the loss is traced, for a batch of one image or a layer too high.
        """
        ensemble, member = check_ensemble(self.network), member_classifier(self, task)
        method = network_method(classifier(self, task, default_layers()), self, task)

        def distilled_by_all(variables, images, epoch):
            """Returns every member's distilled images, and the layer."""

            def by_member(alone):
                layers = jax.eval_shape(lambda x: pre_activations(member, alone, x), images)
                layer = self.draw_layer(epoch, len(layers))
                found = distill(
                    member,
                    alone,
                    images,
                    jnp.roll(images, 1, axis=0),
                    layer,
                    eps=self.eps,
                    step_size=self.step_size,
                    num_steps=self.num_steps,
                    momentum=self.momentum,
                )
                return found, layer

            variables = lax.stop_gradient(variables)
            found, layers = map_members(by_member, variables, strategy=ensemble.strategy)
            return lax.stop_gradient(found), layers[0]

        def loss(variables, batch, *, key, step, epochs: Epochs | None = None):
            del key
            batch_size = batch.image.shape[0]
            if batch_size < 2:
                raise ValueError(f"Expected batch_size={batch_size} >= 2: images are targets.")
            if epochs is None:
                epoch = jnp.asarray(step) // max(1, task.num_train // batch_size)
            else:
                epoch = epochs.at(step)
            distilled, layer = distilled_by_all(variables, batch.image, epoch)

            def of_member(variables, number):
                """Returns one member's loss on the others' images, and its statistics after it."""

                def on_images_of(moved, other):
                    source = jnp.where(other < number, other, other + 1)  # all but this one
                    outputs, moved = member.apply(
                        {**variables, **moved},
                        distilled[source],
                        train=True,
                        deterministic=True,
                        mutable=["batch_stats"],
                    )
                    value = cross_entropy(outputs.logits, batch.label, self.label_smoothing)
                    return moved, (value, metrics.accuracy(outputs.logits, batch.label))

                statistics = {name: v for name, v in variables.items() if name == "batch_stats"}
                moved, (values, right) = lax.scan(
                    on_images_of, statistics, jnp.arange(ensemble.num_members - 1)
                )
                return jnp.sum(values), jnp.mean(right), moved

            values, right, moved = map_members(
                of_member, variables, jnp.arange(ensemble.num_members), strategy=ensemble.strategy
            )
            found = {"accuracy": jnp.mean(right), "layer": (layer + 1).astype(jnp.float32)}
            return jnp.sum(values), (of_ensemble(moved), found)

        def in_run(epochs: Epochs) -> Method:
            return method._replace(loss=functools.partial(loss, epochs=epochs))

        return method._replace(loss=loss, in_run=in_run)
