"""Fitting REGroup's generative classifiers: one pass over the training images (algorithm 1)."""

import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from robust_jax import voting
from robust_jax.methods.regroup_responses import Responses, divergence, log_responses
from robust_jax.models.base import in_network_order
from robust_jax.types import Batch, Variables


class Pass(NamedTuple):
    """A forward pass of the network.

    Attributes:
        logits: of the network's vote over its members.
        layers: outputs of the layers that may vote, in network order.
    """

    logits: Float[Array, "b c"]
    layers: dict[str, Array]


class Mixtures(NamedTuple):
    """What one pass over the training images accumulates.

    Attributes:
        sums: of the responses times the softmax, by sign and layer, [m c k].
        weights: sum of the softmax, by class.
        counts: correctly classified images used, by class.
    """

    sums: Responses
    weights: Float[Array, " c"]
    counts: Int[Array, " c"]


def fit_fns(
    config: Any, run: Callable[[Variables, Array], Pass], num_classes: int
) -> tuple[Callable[..., Variables], Callable[[Variables, Batch], Variables]]:
    """Returns `fit` of a `REGroup` and its `fitted`: of all layers that a fit can choose.

    A fit is one pass, each batch seen once by one compiled step.

    Args:
        config: the `REGroup`.
        run: forward pass.
        num_classes: c.
    """

    def start(variables: Variables, batch: Batch) -> Mixtures:
        """Returns nothing yet, of every layer that may vote."""
        layers = run(variables, batch.image).layers
        tapped = log_responses(layers, config.voting_layers(layers), config.signs, config.delta)

        def zeros(value: Array) -> Array:
            return jnp.zeros((value.shape[0], num_classes, value.shape[2]), value.dtype)

        nothing = jnp.zeros(num_classes)
        return Mixtures(jax.tree.map(zeros, tapped), nothing, nothing.astype(jnp.int32))

    @jax.jit
    def step(
        variables: Variables, mixtures: Mixtures, batch: Batch
    ) -> tuple[Mixtures, tuple[Responses, Bool[Array, " b"]] | None]:
        logits, layers = run(variables, batch.image)
        tapped = log_responses(layers, mixtures.sums[config.signs[0]], config.signs, config.delta)
        used = batch.mask & (jnp.argmax(logits, axis=-1) == batch.label)
        member = jax.nn.one_hot(batch.label, num_classes, dtype=bool) & used[:, None]
        if config.images_per_class is not None:
            numbers = mixtures.counts[None, :] + jnp.cumsum(member, axis=0, dtype=jnp.int32)
            member &= numbers <= config.images_per_class
        probability = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
        weights = jnp.where(member, probability, 0.0)

        def add(total: Array, log_response: Array) -> Array:
            response = jnp.exp(log_response)
            return total + jnp.einsum("bc,mbk->mck", weights, response, precision="highest")

        moved = Mixtures(
            jax.tree.map(add, mixtures.sums, tapped),
            mixtures.weights + jnp.sum(weights, axis=0),
            mixtures.counts + jnp.sum(member, axis=0, dtype=jnp.int32),
        )
        return moved, (tapped, used) if config.num_layers is None else None

    @jax.jit
    def right(fitted: Responses, tapped: Responses, used: Bool[Array, " b"], labels: Array):
        """Returns how many images each layer alone, over its signs, decides rightly."""

        def count(layer: str) -> Array:
            scores = [-divergence(fitted[sign][layer], tapped[sign][layer]) for sign in fitted]
            decision = jnp.argmax(voting.borda(jnp.concatenate(scores)), axis=-1)
            return jnp.sum(used & (decision == labels))

        return {layer: count(layer) for layer in fitted[config.signs[0]]}

    def fit(variables: Variables, batches: Iterable[Batch], *, key: Any) -> Variables:
        del key
        network = {name: value for name, value in variables.items() if name != "fitted"}
        stream = iter(batches)
        first = next(stream, None)
        if first is None:
            raise ValueError("Expected batches to hold at least one batch.")
        mixtures: Mixtures = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(start, network, first)
        )
        kept, num_kept = [], 0
        for batch in itertools.chain([first], stream):
            mixtures, selection = step(network, mixtures, batch)
            if selection is not None and num_kept < config.selection_images:
                kept.append((*selection, batch.label))
                num_kept += int(jnp.sum(selection[1]))
            if config.images_per_class is not None and bool(
                jnp.all(mixtures.counts >= config.images_per_class)
            ):
                break
        counts = jax.device_get(mixtures.counts)
        if counts.min() < 1:
            raise ValueError(
                f"Expected class {int(counts.argmin())} to have at least one training image that "
                "the network classifies correctly."
            )
        fitted = jax.tree.map(lambda s: s / mixtures.weights[None, :, None], mixtures.sums)
        if config.num_layers is None:
            counted = [right(fitted, *one) for one in kept]
            accuracy = {
                layer: sum(int(each[layer]) for each in counted) / num_kept for layer in counted[0]
            }
            chosen = choose(accuracy, config.layer_accuracy)
            fitted = {
                sign: {layer: found[layer] for layer in chosen} for sign, found in fitted.items()
            }
        return {**network, "fitted": fitted}

    def fitted_shapes(variables: Variables, batch: Batch) -> Variables:
        return {**variables, "fitted": start(variables, batch).sums}

    return fit, fitted_shapes


def choose(accuracy: dict[str, float], least: float) -> tuple[str, ...]:
    """Returns the layers of at least this accuracy, in network order.

    Args:
        accuracy: of each layer alone.
        least: accuracy that a voting layer has.

    Raises:
        ValueError: no layer has it.
    """
    chosen = tuple(layer for layer in in_network_order(accuracy) if accuracy[layer] >= least)
    if not chosen:
        best = max(accuracy.values())
        raise ValueError(
            f"Expected layer_accuracy={least} <= {best:.3f}, the best layer's accuracy."
        )
    return chosen
