"""Members' gradients and the cosines between them: what PARL, DEG, GAL and TRS share."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar, TypeVarTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from robust_jax.methods.base import MethodConfig
from robust_jax.methods.layer_calls import noting_calls
from robust_jax.methods.network import cross_entropy
from robust_jax.models import (
    Classifier,
    Conv,
    EnsembleConfig,
    Layers,
    NetworkConfig,
    default_layers,
)
from robust_jax.models.ensemble import Strategy
from robust_jax.types import Task, Variables

Found = TypeVar("Found")
Shares = TypeVarTuple("Shares")


class Cosines(NamedTuple):
    """Cosines between members.

    Attributes:
        cosine: of every pair of members, in the order (0, 1), (0, 2), ..., (1, 2), ...; 0 where
            one of the two is dead.
        dead: is a member's vector zero?
    """

    cosine: Float[Array, "pairs *rest"]
    dead: Bool[Array, "m *rest"]


def pairwise_cosines(
    vectors: Float[Array, "m *rest d"], *, eps: float = 0.0, norm_gradient: bool = True
) -> Cosines:
    """Returns the cosine of every pair of members' vectors along the last axis.

    Vectors are divided by their largest entry first, so that those of a saturated loss (1e-25)
    have a norm too; this changes neither values nor gradients.

    Args:
        vectors: of each member; each is used in all its pairs.
        eps: added to the product of the norms.
        norm_gradient: do gradients flow through the norms?
    """
    scale = lax.stop_gradient(jnp.max(jnp.abs(vectors), axis=-1))
    dead = scale == 0
    scale = jnp.where(dead, 1.0, scale)
    scaled = vectors / scale[..., None]
    # The square root has no gradient at zero.
    squared = jnp.sum(jnp.square(scaled), axis=-1)
    norm = jnp.sqrt(jnp.where(dead, 1.0, squared))
    if not norm_gradient:
        norm = lax.stop_gradient(norm)
    num_members = vectors.shape[0]
    cosines = []
    for i in range(num_members):
        for j in range(i + 1, num_members):
            product = norm[i] * norm[j]
            if eps:
                product = product + eps / scale[i] / scale[j]
            cosines.append(jnp.sum(scaled[i] * scaled[j], axis=-1) / product)
    return Cosines(jnp.stack(cosines), dead)


def check_ensemble(network: NetworkConfig) -> EnsembleConfig:
    """Returns the network.

    Raises:
        ValueError: it is not an ensemble of at least two members.
    """
    if not isinstance(network, EnsembleConfig):
        raise ValueError(f"Expected network={type(network).__name__} to be an EnsembleConfig.")
    if network.num_members < 2:
        raise ValueError(f"Expected num_members={network.num_members} >= 2: members form pairs.")
    return network


def map_members(
    function: Callable[[Variables, *Shares], Found],
    variables: Variables,
    *others: *Shares,
    strategy: Strategy = "auto",
) -> Found:
    """Returns function(variables, *others) of every member, stacked: arrays with a member axis.

    Args:
        function: of the variables of a classifier around one member, and of its share of `others`.
        variables: of a classifier around an ensemble.
        *others: arrays with a leading member axis.
        strategy: how members run, see `EnsembleConfig`.
    """
    stacked = {
        name: collection["backbone"]["member"]
        for name, collection in variables.items()
        if "backbone" in collection
    }
    shared = {name: value for name, value in variables.items() if name not in stacked}

    def one(members: tuple[Variables, *Shares]) -> Found:
        alone, rest = members[0], members[1:]
        return function({**shared, **{name: {"backbone": v} for name, v in alone.items()}}, *rest)

    if strategy == "auto":
        strategy = "map" if jax.default_backend() == "cpu" else "vmap"
    if strategy == "vmap":
        return jax.vmap(one)((stacked, *others))
    num_members = jax.tree.leaves(stacked)[0].shape[0]
    _, found = lax.scan(
        lambda carry, members: (carry, one(members)),
        (),
        (stacked, *others),
        unroll=num_members if strategy == "unroll" else 1,
    )
    return found


def of_ensemble(collections: Variables) -> Variables:
    """Returns collections that `map_members` stacked in the layout of the ensemble."""
    return {name: {"backbone": {"member": c["backbone"]}} for name, c in collections.items()}


def member_classifier(
    config: MethodConfig, task: Task, layers: Layers = default_layers()
) -> Classifier:
    """Returns a classifier around one member of the configured ensemble, for `map_members`.

    Raises:
        ValueError: the network is no ensemble of at least two members.
    """
    backbone = check_ensemble(config.network).member.make(task.num_classes, layers)
    return Classifier(backbone, config.normalization, config.dtype)


class LossGradients(NamedTuple):
    """Members' cross-entropies, each averaged over the batch, and their gradients.

    Attributes:
        gradients: of each member's cross-entropy at the images, flattened.
        losses: the cross-entropies.
        member_logits: of the same forward pass.
        moved: BatchNorm statistics after it, in the layout of the ensemble.
    """

    gradients: Float[Array, "m b d"]
    losses: Float[Array, " m"]
    member_logits: Float[Array, "m b c"]
    moved: Variables


def loss_gradients(
    network: nn.Module,
    variables: Variables,
    images: Float[Array, "b h w k"],
    labels: Int[Array, " b"],
    *,
    label_smoothing: float = 0.0,
    strategy: Strategy = "auto",
) -> LossGradients:
    """Returns every member's gradient at the images, with batch statistics.

    Each member runs forward and backward once, whatever is made of its gradient afterwards (all
    its pairs, its norm), so that differentiating the result is one double-backward pass a member.

    Args:
        network: a classifier around one member.
        variables: of a classifier around the ensemble.
        images: where.
        labels: their classes.
        label_smoothing: share of the target spread over all classes.
        strategy: how members run, see `EnsembleConfig`.
    """

    def of_member(variables):
        def crossed(images):
            outputs, moved = network.apply(
                variables, images, train=True, deterministic=True, mutable=["batch_stats"]
            )
            value = cross_entropy(outputs.logits, labels, label_smoothing)
            return value, (outputs.logits, moved)

        (value, (logits, moved)), slope = jax.value_and_grad(crossed, has_aux=True)(images)
        return slope, value, logits, moved

    slopes, losses, member_logits, moved = map_members(of_member, variables, strategy=strategy)
    flat = slopes.reshape((*slopes.shape[:2], -1))
    return LossGradients(flat, losses, member_logits, of_ensemble(moved))


class Convolution(NamedTuple):
    """One convolution of a forward pass.

    Attributes:
        module: the layer.
        path: of its parameters.
        images: what it was given.
        output: what it returned, before normalisation and activation.
    """

    module: Conv
    path: tuple[str, ...]
    images: Float[Array, "b h w k"]
    output: Float[Array, "b out_h out_w features"]


def first_convolutions(
    network: nn.Module, variables: Variables, images: Array, *, train: bool, num_layers: int
) -> list[Convolution]:
    """Returns the first 3 x 3 convolutions of a single network's forward pass, in its order.

    Projections (1 x 1) and larger stems do not count. What lies behind the last is never computed.

    Raises:
        ValueError: the network has fewer.
    """
    found: list[Convolution] = []

    def note(layer: Conv, images: Array, output: Array) -> None:
        if layer.kernel_size == (3, 3):
            found.append(Convolution(layer.copy(parent=None), layer.path, images, output))

    with noting_calls(Conv, note):
        network.apply(
            variables,
            images,
            train=train,
            deterministic=True,
            mutable=["batch_stats"] if train else [],
        )
    if len(found) < num_layers:
        raise ValueError(
            f"Expected num_layers={num_layers} <= {len(found)}, the network's 3 x 3 convolutions."
        )
    return found[:num_layers]
